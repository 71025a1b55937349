//! How many validators there can be. The registry is as old as its state, so an index beyond its end may be right; but a block carries
//! no more than so many deposits, so an index far beyond it names nobody.

use super::{Chain, FUTURE_EPOCHS};
use consensus::{Slot, ValidatorIndex};

/// `MAX_DEPOSITS`: in a block.
const DEPOSITS_PER_SLOT: u64 = 16;
/// `MAX_PENDING_DEPOSITS_PER_EPOCH`: applied at an epoch's end, from Electra on, beside those of the blocks.
const DEPOSITS_PER_EPOCH: u64 = 16;

impl Chain {
    /// Whether there can be a validator with this index at `slot`: the registry's number, and as many more as the specification lets into
    /// it from the state's slot to [`FUTURE_EPOCHS`] past `slot`. The extra epochs allow for a state of another branch and for our own clock
    /// being slow: 34 816 validators on mainnet.
    pub fn may_exist(&self, validator: ValidatorIndex, slot: Slot) -> bool {
        let slots_per_epoch = self.preset().slots_per_epoch;
        let until = slot.max(self.now()).saturating_add(FUTURE_EPOCHS * slots_per_epoch);
        let n_slots = until.as_u64().saturating_sub(self.registry.slot().as_u64());
        let n_epochs = n_slots / slots_per_epoch + 1;
        let n_new = n_slots.saturating_mul(DEPOSITS_PER_SLOT).saturating_add(n_epochs.saturating_mul(DEPOSITS_PER_EPOCH));
        validator.as_u64() < (self.registry.len() as u64).saturating_add(n_new)
    }
}
