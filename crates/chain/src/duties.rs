//! The proposer of a slot on one branch. It is computed when it is first needed for a block, and
//! kept for later blocks.
//!
//! The proposer depends on three things: the randao mix of the branch's decision block (like
//! committees), the validators that are active in the epoch, and their effective balances. For
//! epochs whose proposers are in a state (`proposer_lookahead`, from Fulu on) the result is exact.
//! For other epochs it is only as good as the registry that blocks tell ([`crate::follow`]). A
//! balance that it lacks can change the proposer of one slot. An activation or an exit that it
//! lacks can change the proposers of all slots.
//!
//! Price: about 1 ms per slot with a million validators, and 3 ms more for the first slot of an
//! epoch. A proposer that is not active is refused before this computation, so keys of exited
//! validators cannot cause it. Anyone else can cause it only with a valid signature, which is
//! checked first.
//!
//! Bounds: [`MAX_SLOTS`] slots and [`MAX_EPOCHS`] lists of active validators. The oldest is dropped
//! first.

use crate::follow::FollowedRegistry;
use crate::registry::{Record, Registry};
use crate::tree::Decision;
use base::BoundedMap;
use consensus::{Epoch, ForkName, Gwei, Root, Slot, Spec, ValidatorIndex, compute_proposer};
use std::collections::VecDeque;
use std::sync::Arc;

/// Maximum number of slots of branches whose proposers are kept: 64 epochs of mainnet.
const MAX_SLOTS: usize = 2_048;
/// Maximum number of epochs whose active validators are kept. A list takes 4 bytes per validator,
/// which is 4 MB for a million.
const MAX_EPOCHS: usize = 4;

#[derive(Debug)]
pub(crate) struct ProposerCache {
    /// Keyed by slot and decision block. `None` means that no validator can propose.
    proposers: BoundedMap<(Slot, Root), Option<ValidatorIndex>>,
    /// Those that a state names.
    named: BoundedMap<(Slot, Root), ValidatorIndex>,
    candidates: VecDeque<Candidates>,
}

/// An epoch and its decision block, with the validators that can be drawn and the registry that
/// blocks told.
type Candidates = ((Epoch, Root), Arc<Vec<u32>>, Option<Arc<FollowedRegistry>>);

impl Default for ProposerCache {
    fn default() -> Self {
        Self { proposers: BoundedMap::new(MAX_SLOTS), named: BoundedMap::new(MAX_SLOTS), candidates: VecDeque::new() }
    }
}

impl ProposerCache {
    /// Discards everything. After a change of the registry, earlier results can be wrong.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Discards what was computed. After news about slashings it can be wrong.
    pub(crate) fn forget_computed(&mut self) {
        self.proposers.clear();
        self.candidates.clear();
    }

    /// Records a proposer that a state names.
    pub(crate) fn note(&mut self, slot: Slot, decision: Root, proposer: ValidatorIndex) {
        self.named.insert((slot, decision), proposer);
    }

    /// Returns the proposer of a slot on the branches with this decision block. `followed` returns
    /// the registry after it. Two blocks with the same mix can leave different registries.
    pub(crate) fn proposer(
        &mut self,
        registry: &Registry,
        spec: &Spec,
        slot: Slot,
        decision: Decision,
        followed: impl FnOnce() -> Option<Arc<FollowedRegistry>>,
    ) -> Option<ValidatorIndex> {
        let Decision { root, mix } = decision;
        if let Some(named) = self.named.get(&(slot, root)) {
            return Some(*named);
        }
        if let Some(known) = self.proposers.get(&(slot, root)) {
            return *known;
        }
        let epoch = slot.epoch(&spec.preset);
        let known = self.candidates.iter().find(|(of, ..)| *of == (epoch, root)).cloned();
        let (_, list, followed) = known.unwrap_or_else(|| {
            let followed = followed();
            let list = candidates(registry, followed.as_deref(), spec.fork_name_at(epoch), epoch);
            if self.candidates.len() >= MAX_EPOCHS {
                self.candidates.pop_front();
            }
            self.candidates.push_back(((epoch, root), list.clone(), followed.clone()));
            ((epoch, root), list, followed)
        });
        let proposer = draw(registry, followed.as_deref(), spec, &list, mix, slot);
        self.proposers.insert((slot, root), proposer);
        proposer
    }
}

/// Returns the validators that can be drawn as proposers in an epoch: the active ones, from Gloas
/// on without the slashed ones (EIP-8045).
pub(crate) fn candidates(
    registry: &Registry,
    followed: Option<&FollowedRegistry>,
    fork: ForkName,
    epoch: Epoch,
) -> Arc<Vec<u32>> {
    let active = followed.and_then(|followed| followed.active_at(registry, epoch));
    let active = active.unwrap_or_else(|| registry.active_at(epoch, 0));
    if fork < ForkName::Gloas {
        return active;
    }
    let record = |index: u32| record_of(registry, followed, ValidatorIndex::new(u64::from(index)));
    let mut list = Arc::unwrap_or_clone(active);
    list.retain(|index| !record(*index).is_none_or(|record| record.slashed));
    Arc::new(list)
}

fn record_of(registry: &Registry, followed: Option<&FollowedRegistry>, validator: ValidatorIndex) -> Option<Record> {
    match followed {
        Some(followed) => followed.record(registry, u32::try_from(validator.as_u64()).ok()?),
        None => registry.record(validator),
    }
}

/// Draws a proposer as the specification does, with the effective balances that are known.
pub(crate) fn draw(
    registry: &Registry,
    followed: Option<&FollowedRegistry>,
    spec: &Spec,
    candidates: &[u32],
    mix: Root,
    slot: Slot,
) -> Option<ValidatorIndex> {
    let balance = |one| record_of(registry, followed, one).map_or_else(Gwei::default, |record| record.effective_balance);
    compute_proposer(spec.fork_name_at(slot.epoch(&spec.preset)), &spec.preset, candidates, balance, mix, slot)
}
