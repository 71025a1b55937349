//! The current slot for pruning and for bounds, without trust in any single block.
//!
//! Anyone with a key can sign a block for the year 3000. The time therefore comes from the caller's
//! clock ([`Reference::tick`]). Without a clock, as in a replay that has none, it is the
//! third-latest slot at which different proposers have built. Two keys cannot move that slot.

use consensus::{Slot, ValidatorIndex};

/// Number of different proposers with blocks at or after a slot that are needed before the slot
/// counts as reached.
const WITNESSES: usize = 3;
/// Maximum number of remembered proposers whose blocks are ahead of the current slot. Those that
/// are furthest ahead are dropped first.
const MAX_AHEAD: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Reference {
    slot: Slot,
    has_clock: bool,
    /// The latest slot of each proposer that has a block after `slot`.
    ahead: Vec<(Slot, ValidatorIndex)>,
}

impl Reference {
    /// The current slot. It never goes back.
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Returns whether the caller provides the time.
    pub(crate) fn has_clock(&self) -> bool {
        self.has_clock
    }

    /// Sets the time of the caller's clock.
    pub(crate) fn tick(&mut self, slot: Slot) {
        self.has_clock = true;
        self.reach(slot);
    }

    /// Records a state of this slot. The state comes from a trusted source.
    pub(crate) fn state_seen(&mut self, slot: Slot) {
        self.reach(slot);
    }

    /// Records an attached block.
    pub(crate) fn block_seen(&mut self, slot: Slot, proposer: ValidatorIndex) {
        if self.has_clock || slot <= self.slot {
            return;
        }
        match self.ahead.iter_mut().find(|(_, other)| *other == proposer) {
            Some(known) => known.0 = known.0.max(slot),
            None => self.ahead.push((slot, proposer)),
        }
        self.ahead.sort_by(|a, b| b.cmp(a));
        if self.ahead.len() > MAX_AHEAD {
            self.ahead.remove(0);
        }
        if let Some((reached, _)) = self.ahead.get(WITNESSES - 1) {
            self.reach(*reached);
        }
    }

    fn reach(&mut self, slot: Slot) {
        if slot > self.slot {
            self.slot = slot;
            self.ahead.retain(|(ahead, _)| *ahead > slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_do_not_move_time_and_three_do() {
        let mut reference = Reference::default();
        for slot in [1_000_000, 2_000_000] {
            reference.block_seen(Slot::new(slot), ValidatorIndex::new(1));
            reference.block_seen(Slot::new(slot), ValidatorIndex::new(2));
        }
        assert_eq!(reference.slot(), Slot::new(0));
        reference.block_seen(Slot::new(7), ValidatorIndex::new(3));
        assert_eq!(reference.slot(), Slot::new(7));
        reference.block_seen(Slot::new(9), ValidatorIndex::new(4));
        assert_eq!(reference.slot(), Slot::new(9));
    }

    #[test]
    fn a_clock_is_believed_over_blocks() {
        let mut reference = Reference::default();
        reference.tick(Slot::new(5));
        for proposer in 0..9 {
            reference.block_seen(Slot::new(1_000), ValidatorIndex::new(proposer));
        }
        assert_eq!(reference.slot(), Slot::new(5));
        reference.tick(Slot::new(4));
        assert_eq!(reference.slot(), Slot::new(5));
    }
}
