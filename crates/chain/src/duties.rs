//! Whose turn it is: the proposer of a slot on one branch, computed when a block asks for it and kept for the next one.
//!
//! It follows from the randao mix of the branch's deciding block (as committees do), who is active in the epoch, and their balances; of an
//! epoch that a state itself says the proposers of (`proposer_lookahead`, Fulu) it is exact. As far as our registry goes otherwise: a balance
//! or a slashing that it does not have yet may change one slot's, an activation all of them.
//!
//! Price: about 1 ms for a slot with a million validators, and 3 ms more for the first slot of an epoch. Who is not active is refused before
//! that, so keys that have left cost nothing, and all others pay with a signature of theirs that had to be checked first.
//!
//! Bounds: [`MAX_SLOTS`] slots, [`MAX_EPOCHS`] lists of active validators; the oldest goes first.

use crate::registry::Registry;
use consensus::{Epoch, ForkName, Gwei, Root, Slot, Spec, ValidatorIndex, compute_proposer};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Slots of branches whose proposers are kept: 64 epochs of mainnet.
const MAX_SLOTS: usize = 2_048;
/// Epochs whose active validators are kept: 4 bytes each, 4 MB of a million.
const MAX_EPOCHS: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Duties {
    /// By slot and the deciding block's mix. `None`: nobody can propose.
    proposers: HashMap<(Slot, Root), Option<ValidatorIndex>>,
    order: VecDeque<(Slot, Root)>,
    candidates: VecDeque<(Epoch, Arc<Vec<u32>>)>,
}

impl Duties {
    /// Another registry: what was computed from the one before may be wrong.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What a state says.
    pub(crate) fn note(&mut self, slot: Slot, mix: Root, proposer: ValidatorIndex) {
        self.keep((slot, mix), Some(proposer));
    }

    /// The proposer of a slot where the deciding block's mix is `mix`.
    pub(crate) fn proposer(&mut self, registry: &Registry, spec: &Spec, slot: Slot, mix: Root) -> Option<ValidatorIndex> {
        if let Some(known) = self.proposers.get(&(slot, mix)) {
            return *known;
        }
        let epoch = slot.epoch(&spec.preset);
        let known = self.candidates.iter().find(|(of, _)| *of == epoch).map(|(_, list)| list.clone());
        let list = known.unwrap_or_else(|| {
            let list = candidates(registry, spec.fork_name_at(epoch), epoch);
            if self.candidates.len() >= MAX_EPOCHS {
                self.candidates.pop_front();
            }
            self.candidates.push_back((epoch, list.clone()));
            list
        });
        let proposer = draw(registry, spec, &list, mix, slot);
        self.keep((slot, mix), proposer);
        proposer
    }

    fn keep(&mut self, key: (Slot, Root), proposer: Option<ValidatorIndex>) {
        if self.proposers.insert(key, proposer).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > MAX_SLOTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.proposers.remove(&oldest);
        }
    }
}

/// Who can be drawn in an epoch: active validators, from Gloas on without the slashed ones (EIP-8045).
pub(crate) fn candidates(registry: &Registry, fork: ForkName, epoch: Epoch) -> Arc<Vec<u32>> {
    let active = registry.active_at(epoch, 0);
    if fork < ForkName::Gloas {
        return active;
    }
    let is_slashed = |index: u32| registry.record(ValidatorIndex::new(u64::from(index))).is_none_or(|record| record.slashed);
    let mut list = Arc::unwrap_or_clone(active);
    list.retain(|index| !is_slashed(*index));
    Arc::new(list)
}

/// The spec's draw, with the registry's balances.
pub(crate) fn draw(registry: &Registry, spec: &Spec, candidates: &[u32], mix: Root, slot: Slot) -> Option<ValidatorIndex> {
    let balance = |validator| registry.record(validator).map_or_else(Gwei::default, |record| record.effective_balance);
    compute_proposer(spec.fork_name_at(slot.epoch(&spec.preset)), &spec.preset, candidates, balance, mix, slot)
}
