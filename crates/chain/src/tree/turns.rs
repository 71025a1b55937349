//! Whether a block was built *in turn*: its proposer is the slot's proposer on the block's own
//! branch ([`ProposerCheck::Own`]). A block *counts* ([`Tree::is_in_turn`]) if it was built in
//! turn, or if a state named it, or if enough stake voted for it.
//!
//! The proposer of a slot depends on the mix of the decision block and on the registry, so the
//! chain determines it. The tree holds the blocks that it has not checked yet.

use super::{Tree, TreeNode};
use consensus::{Root, Slot, ValidatorIndex};

/// Maximum number of blocks that wait until their proposer's turn can be determined.
const MAX_UNDETERMINED: usize = 1_024;

/// States whether the block's proposer is the slot's proposer on the block's own branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProposerCheck {
    /// Not known (yet): the mix of the decision block is missing, or the block is in a future slot.
    Unknown,
    Own,
    Others,
}

/// A block whose [`ProposerCheck`] is to be determined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UncheckedBlock {
    pub root: Root,
    pub slot: Slot,
    pub parent: Root,
    pub proposer: ValidatorIndex,
}

impl Tree {
    /// Returns whether a block counts: it was built in turn, a state named it, or so much stake
    /// voted for it that the network must have it.
    pub(crate) fn is_in_turn(&self, root: &Root) -> bool {
        self.nodes.get(root).is_some_and(|node| self.counts(node))
    }

    /// Returns whether a block and the blocks before it, down to `since`, all count. A block that a
    /// state named also ends the search. Returns `false` if the branch is not known that far back.
    pub(crate) fn is_branch_in_turn(&self, root: &Root, since: Slot) -> bool {
        let mut reached = false;
        for (_, node) in self.branch(*root) {
            if !self.counts(node) {
                return false;
            }
            reached = node.slot <= since || node.from_state;
            if reached {
                break;
            }
        }
        reached
    }

    pub(super) fn counts(&self, node: &TreeNode) -> bool {
        node.from_state || node.turn == ProposerCheck::Own || (self.quorum > 0 && node.votes >= self.quorum)
    }

    /// Returns what was determined about the turn of a block's proposer.
    pub(crate) fn turn_of(&self, root: &Root) -> Option<ProposerCheck> {
        self.nodes.get(root).map(|node| node.turn)
    }

    pub(crate) fn set_turn(&mut self, root: &Root, turn: ProposerCheck) {
        if let Some(node) = self.nodes.get_mut(root) {
            node.turn = turn;
            self.sort(*root);
        }
    }

    /// Adds stake that voted for a block. Returns `false` if the block is not known.
    pub(crate) fn add_votes(&mut self, root: &Root, stake: u64) -> bool {
        let Some(node) = self.nodes.get_mut(root) else { return false };
        node.votes = node.votes.saturating_add(stake);
        self.sort(*root);
        true
    }

    pub(crate) fn set_quorum(&mut self, stake: u64) {
        self.quorum = stake;
    }

    /// Adds the block to the set of blocks that count, or removes it.
    fn sort(&mut self, root: Root) {
        let Some(node) = self.nodes.get(&root) else { return };
        let at = (node.slot, root);
        if self.counts(node) {
            self.in_turn.insert(at)
        } else {
            self.in_turn.remove(&at)
        };
    }

    /// Removes and returns the blocks whose turn is to be determined: the new ones, and with
    /// `again` also those for which it could not be determined before.
    pub(crate) fn take_unchecked(&mut self, again: bool) -> Vec<UncheckedBlock> {
        let mut roots: Vec<Root> = self.unchecked.drain(..).collect();
        if again {
            roots.extend(self.undecided.drain(..));
        }
        let unchecked = |root: Root| {
            let node = self.nodes.get(&root)?;
            Some(UncheckedBlock { root, slot: node.slot, parent: node.parent?, proposer: node.proposer? })
        };
        roots.into_iter().filter_map(unchecked).collect()
    }

    pub(crate) fn check_later(&mut self, root: Root) {
        if self.undecided.len() >= MAX_UNDETERMINED {
            self.undecided.pop_front();
        }
        self.undecided.push_back(root);
    }

    /// Queues all blocks from `since` on that were not built in turn, at most [`MAX_UNDETERMINED`],
    /// so that this is determined again.
    pub(crate) fn forget_turns(&mut self, since: Slot) {
        let later = self.by_slot.range((since, Root::ZERO)..).map(|(_, root)| *root);
        let out: Vec<Root> =
            later.filter(|root| self.turn_of(root) == Some(ProposerCheck::Others)).take(MAX_UNDETERMINED).collect();
        self.unchecked.extend(out);
    }
}
