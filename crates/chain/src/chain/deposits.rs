//! An upper bound for the number of validators.
//!
//! The registry is as old as its state, so an index after its end can be right. A block carries
//! only a limited number of deposits, so an index far after the end cannot belong to any validator.

use super::{Chain, FUTURE_EPOCHS};
use consensus::{Slot, ValidatorIndex};

/// `MAX_DEPOSITS`: maximum number of deposits in one block.
const DEPOSITS_PER_SLOT: u64 = 16;
/// `MAX_PENDING_DEPOSITS_PER_EPOCH`: maximum number of deposits that are applied at the end of an
/// epoch, in addition to those of the blocks. From Electra on.
const DEPOSITS_PER_EPOCH: u64 = 16;

impl Chain {
    /// Returns whether a validator with this index can exist at `slot`.
    ///
    /// The bound is the number of validators in the registry, plus the number that the
    /// specification can add from the state's slot to [`FUTURE_EPOCHS`] after `slot`. The extra
    /// epochs allow for a state of another branch and for a clock of ours that is slow. On mainnet
    /// they amount to 33 808 validators.
    pub fn may_exist(&self, validator: ValidatorIndex, slot: Slot) -> bool {
        let slots_per_epoch = self.preset().slots_per_epoch;
        let until = slot.max(self.now()).saturating_add(FUTURE_EPOCHS * slots_per_epoch);
        let n_slots = until.as_u64().saturating_sub(self.registry.slot().as_u64());
        let n_epochs = n_slots / slots_per_epoch + 1;
        let n_new = n_slots.saturating_mul(DEPOSITS_PER_SLOT).saturating_add(n_epochs.saturating_mul(DEPOSITS_PER_EPOCH));
        validator.as_u64() < (self.registry.len() as u64).saturating_add(n_new)
    }
}
