//! The head of the chain, and the branches that compete for it. This is no fork choice: the watcher
//! follows every branch alike. It is about what the network regards as its chain.

use super::Chain;
use crate::weight::is_about_now;
use consensus::{AttestationData, Root, Slot, ValidatorIndex};

/// Maximum number of branch ends whose backing is compared.
const MAX_BACKED: usize = 256;

/// A block of any branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchBlock {
    pub root: Root,
    pub slot: Slot,
    pub parent: Option<Root>,
    /// `None` while only the root is known.
    pub proposer: Option<ValidatorIndex>,
    pub is_in_turn: bool,
}

/// A block that is regarded as the head: its root and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadView {
    pub root: Root,
    pub slot: Slot,
}

impl Chain {
    /// Returns the attached block with the highest slot that is not in the future. The time is that
    /// of [`Self::tick`]; without a clock, blocks up to one epoch after the slot that three
    /// proposers have reached are allowed. This is not a fork choice: the watcher follows every
    /// branch alike.
    pub fn head(&self) -> HeadView {
        let allowance = if self.reference.has_clock() { 0 } else { self.preset().slots_per_epoch };
        self.head_at(self.now().saturating_add(allowance))
    }

    /// Returns the end of the branch with the most backing: the most stake voted for its blocks in
    /// the last two epochs, and then the most proposers built on it in turn. If a node has recently
    /// reported its head, only branches that contain this head are considered. Unlike
    /// [`Self::head`], the result does not follow whoever signed the latest block.
    pub fn backed_head(&self) -> HeadView {
        self.backed.unwrap_or_else(|| self.head())
    }

    /// Like [`Self::head`], at the time `slot`.
    pub fn head_at(&self, slot: Slot) -> HeadView {
        self.tree.head_at(slot).map_or(HeadView { root: Root::ZERO, slot: Slot::new(0) }, |(slot, root)| HeadView { root, slot })
    }

    /// Returns the attached blocks of all branches since a slot, at most `limit`. If there are
    /// more, the latest of those that were built in turn or have votes come first. Anyone with a
    /// key can sign others.
    pub fn blocks_since(&self, since: Slot, limit: usize) -> Vec<BranchBlock> {
        self.tree.blocks_since(since, limit)
    }

    /// Adds the stake of proven votes to the blocks that they name as head.
    pub fn count_votes<'a>(&mut self, votes: impl Iterator<Item = (&'a AttestationData, &'a [ValidatorIndex])>) {
        let ahead = if self.reference.has_clock() { 1 } else { self.preset().slots_per_epoch };
        let mut counted = false;
        for (data, members) in votes {
            if !is_about_now(data, self.now(), ahead, &self.network.spec.preset) {
                continue;
            }
            let stake = self.votes.count(&self.registry, data, members);
            counted |= stake > 0;
            if stake > 0 && !self.tree.add_votes(&data.beacon_block_root, stake) {
                self.votes.keep(data.beacon_block_root, stake);
            }
        }
        if counted {
            self.compare_branches();
        }
    }

    /// Records the head that a trusted node reported. It is used for one epoch, if the block is
    /// known and not older than one epoch.
    pub fn note_node_head(&mut self, root: Root) {
        self.node_head = Some((root, self.now()));
        self.compare_branches();
    }

    /// Returns whether peers may not have this block or be on its branch. This is so if two
    /// branches grow side by side, if the proposer made another block for the same slot, or if the
    /// block is not known here.
    pub fn is_contested(&self, root: &Root) -> bool {
        self.split || !self.is_known_block(root) || self.tree.has_twin(root)
    }

    /// Determines whether branches compete, and which of them has the most backing. Votes alone can
    /// change that. The registry follows.
    pub(super) fn compare_branches(&mut self) {
        let (now, per_epoch) = (self.now(), self.preset().slots_per_epoch);
        self.split = self.tree.is_split(now.saturating_sub(per_epoch), now);
        let until = if self.reference.has_clock() { now } else { now.saturating_add(per_epoch) };
        self.backed = self.tree.latest_in_turn(until).map(|(slot, root)| {
            let latest = HeadView { root, slot };
            let ends = self.tree.backed_ends(slot.saturating_sub(2 * per_epoch), until, MAX_BACKED);
            let node = self.node_head.filter(|(_, said)| said.saturating_add(per_epoch) >= now).and_then(|(root, _)| {
                let slot = self.tree.slot_of(&root).filter(|slot| slot.saturating_add(per_epoch) >= now)?;
                Some(HeadView { root, slot })
            });
            let stands_on =
                |end: &Root, node: &HeadView| self.tree.last_before(*end, node.slot.saturating_add(1)) == Some(node.root);
            let best = match &node {
                Some(node) => ends.iter().find(|end| stands_on(&end.root, node)),
                None => ends.first(),
            };
            best.map(|end| HeadView { root: end.root, slot: end.slot }).or(node).unwrap_or(latest)
        });
        self.follow_head();
    }
}
