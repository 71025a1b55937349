//! Who was expected to propose, as far as that can be known. It is computed once per epoch, and
//! used only while the blocks that arrive agree with it.

use super::KEPT_EPOCHS;
use chain::Chain;
use consensus::{Epoch, Preset, Slot, ValidatorIndex};
use std::collections::BTreeMap;

/// The share of an epoch's blocks, in percent, that must have the proposer that we expect. If our
/// registry has one validator too many or too few, all proposers differ. A balance that we do not
/// know yet changes a single proposer.
const AGREEING_PERCENT: usize = 75;

/// Proposers by epoch.
#[derive(Debug, Default)]
pub(super) struct Duties {
    /// One proposer for each slot of the epoch.
    by_epoch: BTreeMap<Epoch, Vec<ValidatorIndex>>,
}

impl Duties {
    /// Called before a slot of the epoch is evaluated. By then the block that decides the proposers
    /// arrived long ago.
    pub(super) fn prepare(&mut self, epoch: Epoch, chain: &Chain) {
        if self.by_epoch.contains_key(&epoch) {
            return;
        }
        if let Some(proposers) = chain.proposers(epoch) {
            self.by_epoch.insert(epoch, proposers);
        }
        self.by_epoch = self.by_epoch.split_off(&epoch.saturating_sub(KEPT_EPOCHS));
    }

    pub(super) fn forget_after(&mut self, epoch: Epoch) {
        drop(self.by_epoch.split_off(&epoch));
    }

    /// The expected proposer of `slot`, if the blocks of its epoch agree. `made` holds slot and
    /// proposer of those blocks of the epoch that others built on or voted for.
    pub(super) fn proposer(
        &self,
        slot: Slot,
        preset: &Preset,
        made: impl Iterator<Item = (Slot, ValidatorIndex)>,
    ) -> Option<ValidatorIndex> {
        let expected = self.by_epoch.get(&slot.epoch(preset))?;
        let of = |slot: Slot| expected.get((slot.as_u64() % preset.slots_per_epoch) as usize).copied();
        let (mut agreeing, mut all) = (0, 0);
        for (slot, proposer) in made {
            all += 1;
            agreeing += usize::from(of(slot) == Some(proposer));
        }
        if agreeing == 0 || agreeing * 100 < all * AGREEING_PERCENT {
            return None;
        }
        of(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duties_are_believed_while_blocks_agree() {
        let expected: Vec<ValidatorIndex> = (10..18).map(ValidatorIndex::new).collect();
        let duties = Duties { by_epoch: BTreeMap::from([(Epoch::new(3), expected)]) };
        // The blocks of slots 24 to 24 + n - 1. Somebody else made the last `others` of them.
        let ask = |slot, n: u64, others: u64| {
            let by = |at: u64| ValidatorIndex::new(if at + others < n { 10 + at } else { 99 });
            duties.proposer(Slot::new(slot), &Preset::MINIMAL, (0..n).map(|at| (Slot::new(24 + at), by(at))))
        };
        assert_eq!(ask(31, 4, 1), Some(ValidatorIndex::new(17)), "three of four agree");
        assert_eq!(ask(31, 4, 2), None, "half of them do not");
        assert_eq!(ask(31, 0, 0), None, "nothing says that we are right");
        assert_eq!(ask(32, 4, 0), None, "another epoch");
    }
}
