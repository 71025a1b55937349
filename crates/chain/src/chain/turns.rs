//! The proposers of slots, and whether a block was built in its proposer's turn.

use super::{Chain, contexts};
use crate::chain::BlockFacts;
use crate::follow::FollowContext;
use crate::tree::{OrphanClaim, ProposerCheck, UncheckedBlock};
use consensus::state::StateView;
use consensus::{Root, Slot, ValidatorIndex};

/// Maximum age in epochs of a block whose proposer is checked. Nothing counts older blocks.
const CHECKED_EPOCHS: u64 = 8;

impl Chain {
    /// Returns the proposer of a slot on the branch of a known block, or `None` if it cannot be
    /// determined.
    pub fn proposer_on(&mut self, parent: &Root, slot: Slot) -> Option<ValidatorIndex> {
        let epoch = slot.epoch(self.preset());
        let decision = self.tree.decision(*parent, contexts::decision_slot(epoch, self.preset()))?;
        let context = FollowContext { registry: &self.registry, spec: &self.network.spec };
        let (follower, tree) = (&mut self.follower, &self.tree);
        let followed = || follower.before(decision.root, epoch, tree, context);
        self.duties.proposer(&self.registry, &self.network.spec, slot, decision.mix, followed)
    }

    /// Returns whether a known block counts as part of the chain: its proposer built it in turn, or
    /// a state named it, or so much stake voted for it (half of a slot's) that the network must
    /// have it.
    pub fn is_in_turn(&self, root: &Root) -> bool {
        self.tree.is_in_turn(root)
    }

    /// Like [`Self::is_in_turn`], for a block and all blocks before it, down to the last one at or
    /// before `since`.
    pub fn is_branch_in_turn(&self, root: &Root, since: Slot) -> bool {
        self.tree.is_branch_in_turn(root, since)
    }

    /// Records the proposers that a state names. They are exact for its branch. Proposers that were
    /// computed from an older registry may have been wrong, so they are discarded.
    pub(super) fn note_duties(&mut self, view: &StateView<'_>, latest_block: Option<Root>) {
        let network = self.network.clone();
        let preset = network.preset();
        self.duties.clear();
        for (slot, proposer) in view.proposer_lookahead() {
            let before = contexts::decision_slot(slot.epoch(preset), preset);
            if let Some(decision) = latest_block.and_then(|root| self.tree.decision(root, before)) {
                self.duties.note(slot, decision.mix, proposer);
            }
        }
        let since = self.now().epoch(preset).saturating_sub(CHECKED_EPOCHS).start_slot(preset);
        self.tree.forget_turns(since);
    }

    /// Determines for new blocks whether they were built in turn. With `again` it also retries the
    /// blocks for which this could not be determined before.
    pub(super) fn check_turns(&mut self, again: bool) {
        for block in self.tree.take_unchecked(again) {
            let UncheckedBlock { root, slot, parent, proposer } = block;
            let (epoch, now) = (slot.epoch(self.preset()), self.now().epoch(self.preset()));
            // The block is so old that nothing counts it any more.
            if epoch.saturating_add(CHECKED_EPOCHS) < now {
                continue;
            }
            let is_active = self.registry.record(proposer).is_some_and(|record| record.is_active(epoch));
            if !is_active {
                self.tree.set_turn(&root, ProposerCheck::Others);
            } else if epoch > now.saturating_add(1) {
                self.tree.check_later(root);
            } else {
                match self.proposer_on(&parent, slot) {
                    Some(due) => {
                        self.tree.set_turn(&root, if due == proposer { ProposerCheck::Own } else { ProposerCheck::Others })
                    }
                    None => self.tree.check_later(root),
                }
            }
        }
    }

    pub(super) fn orphan_claim(&mut self, block: &BlockFacts) -> OrphanClaim {
        if self.tree.slot_of(&block.parent_root).is_some() {
            return OrphanClaim::Active;
        }
        let (epoch, now) = (block.slot.epoch(self.preset()), self.now().epoch(self.preset()));
        let is_active = self.registry.record(block.proposer_index).is_some_and(|record| record.is_active(epoch));
        if !is_active {
            return OrphanClaim::Inactive;
        }
        let is_near = epoch <= now.saturating_add(1) && now <= epoch.saturating_add(CHECKED_EPOCHS);
        let head = self.backed_head().root;
        let due = if is_near { self.proposer_on(&head, block.slot) } else { None };
        if due == Some(block.proposer_index) { OrphanClaim::InTurn } else { OrphanClaim::Active }
    }
}
