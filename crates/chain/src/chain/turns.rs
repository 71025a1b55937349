//! The proposers of slots, and whether a block was built in its proposer's turn.

use super::{Chain, FUTURE_EPOCHS, contexts};
use crate::chain::BlockFacts;
use crate::follow::FollowContext;
use crate::tree::{OrphanClaim, ProposerCheck, UncheckedBlock};
use blst::min_pk::PublicKey;
use consensus::state::StateView;
use consensus::{Epoch, Root, Slot, ValidatorIndex};

/// Maximum age in epochs of a block whose proposer is checked. Nothing counts older blocks. While
/// the chain catches up from an old state, it is the age as of the head.
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
        self.duties.proposer(&self.registry, &self.network.spec, slot, decision, followed)
    }

    /// Returns the key with which a block on a known parent may be checked although no state has
    /// named its proposer yet: a deposit on this branch has added the proposer, and it is active.
    ///
    /// The key says who made the block. It does not prove which validator that is, because that
    /// depends on the order of deposits. So it is only good for going on from the block.
    pub fn newcomer_key(&mut self, parent: &Root, slot: Slot, proposer: ValidatorIndex) -> Option<PublicKey> {
        let index = u32::try_from(proposer.as_u64()).ok().filter(|index| *index as usize >= self.registry.len())?;
        let epoch = slot.epoch(self.preset());
        // Nothing of the block is proven yet, so its slot may be any number.
        let (now, newest) = (self.now().epoch(self.preset()), self.backed_head().slot.epoch(self.preset()));
        let ahead = if self.reference.has_clock() { 1 } else { FUTURE_EPOCHS };
        let is_near = epoch <= now.saturating_add(ahead) && now.min(newest) <= epoch.saturating_add(CHECKED_EPOCHS);
        let parent_epoch = self.tree.slot_of(parent)?.epoch(self.preset());
        if !is_near || parent_epoch.saturating_add(CHECKED_EPOCHS) < epoch {
            return None;
        }
        let decision = self.tree.decision(*parent, contexts::decision_slot(epoch, self.preset()))?;
        let followed = self.followed_before(decision.root, epoch)?;
        let is_active = followed.record(&self.registry, index).is_some_and(|record| record.is_active(epoch));
        let key = followed.newcomer_key(index).filter(|_| is_active)?;
        PublicKey::key_validate(key.as_slice()).ok()
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
                self.duties.note(slot, decision.root, proposer);
            }
        }
        self.check_turns_again();
    }

    /// Determines again whether the last blocks were built in turn, except those that were.
    pub(super) fn check_turns_again(&mut self) {
        let preset = self.preset();
        let since = self.now().epoch(preset).saturating_sub(CHECKED_EPOCHS).start_slot(preset);
        self.tree.forget_turns(since);
    }

    /// Determines for new blocks whether they were built in turn. With `again` it also retries the
    /// blocks for which this could not be determined before.
    pub(super) fn check_turns(&mut self, again: bool) {
        // Anybody with a key can sign a block of the latest slot, so the head with the most backing
        // counts.
        let newest = self.backed_head().slot.epoch(self.preset());
        for block in self.tree.take_unchecked(again) {
            let UncheckedBlock { root, slot, parent, proposer } = block;
            let (epoch, now) = (slot.epoch(self.preset()), self.now().epoch(self.preset()));
            // The block is so old that nothing counts it any more.
            if epoch.saturating_add(CHECKED_EPOCHS) < now.min(newest) {
                continue;
            }
            let parent_epoch = self.tree.slot_of(&parent).unwrap_or(slot).epoch(self.preset());
            let is_far_off = parent_epoch.saturating_add(FUTURE_EPOCHS) < epoch;
            if is_far_off || !self.may_be_active(proposer, epoch) {
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

    /// Whether a validator is active by the state, or by what blocks told since then.
    fn may_be_active(&self, validator: ValidatorIndex, epoch: Epoch) -> bool {
        let by_state = self.registry.record(validator);
        by_state.into_iter().chain(self.followed_record(validator)).any(|record| record.is_active(epoch))
    }

    pub(super) fn orphan_claim(&mut self, block: &BlockFacts) -> OrphanClaim {
        if self.tree.slot_of(&block.parent_root).is_some() {
            return OrphanClaim::Active;
        }
        let (epoch, now) = (block.slot.epoch(self.preset()), self.now().epoch(self.preset()));
        if !self.may_be_active(block.proposer_index, epoch) {
            return OrphanClaim::Inactive;
        }
        let is_near = epoch <= now.saturating_add(1) && now <= epoch.saturating_add(CHECKED_EPOCHS);
        let head = self.backed_head().root;
        let due = if is_near { self.proposer_on(&head, block.slot) } else { None };
        if due == Some(block.proposer_index) { OrphanClaim::InTurn } else { OrphanClaim::Active }
    }
}
