//! How much is taken of what has no bound of its own, counted per epoch of the network.
//!
//! A validator that keeps to the rules has one vote for an epoch, for epochs up to now. Whoever does not may sign any number
//! of votes: other data for one target, or targets in a future that never comes. Both are proven and may be half of an
//! offence, so a validator's first ones are always taken; after that it is a question of what is worth the room:
//!
//! - votes for a target up to [`AHEAD_EPOCHS`] past the network's epoch are history like any other. That is past what clocks
//!   were wrong by, also by a day;
//! - votes for later targets are *far*: they never enter chain, summary or tail, only their validator's list;
//! - a validator whose list is full has [`PER_VALIDATOR`] more votes outside its chain in each epoch, and those that can show
//!   what its other votes cannot ([`crate::judge::Judged::is_spanned`]). All of them together are [`PER_EPOCH`] at most.
//!
//! The epoch comes from the owner; nothing here reads a clock. While the owner says nothing, no target is far.

use crate::Index;
use crate::heads::NONE;
use consensus::Epoch;
use std::collections::HashMap;

/// Epochs past the network's own for which votes are history: 54 h on mainnet.
pub(crate) const AHEAD_EPOCHS: u64 = 512;
/// Votes outside their validator's chain that are taken in one epoch of the network past full lists: about 1.6 MB.
pub(crate) const PER_EPOCH: u32 = 4096;
/// Of these, votes of one validator that show nothing its other votes do not.
pub(crate) const PER_VALIDATOR: u8 = 16;
/// Proposals for slots of far epochs that are taken in one epoch of the network.
pub(crate) const FAR_PROPOSALS_PER_EPOCH: u32 = 1024;

#[derive(Default)]
pub(crate) struct Allowance {
    now: Option<u64>,
    n_taken: u32,
    n_far_proposals: u32,
    by_validator: HashMap<u32, u8>,
}

impl Allowance {
    /// The network's epoch, if the owner told it.
    pub fn now(&self) -> Option<u64> {
        self.now
    }

    /// Votes for this target may enter chain and summary.
    pub fn is_near(&self, target: u64) -> bool {
        target < u64::from(NONE) && self.now.is_none_or(|now| target <= now.saturating_add(AHEAD_EPOCHS))
    }

    /// One more vote of a validator whose list is full may be taken, though it shows nothing new.
    pub fn has_left(&self, validator: u32) -> bool {
        self.n_taken < PER_EPOCH && self.by_validator.get(&validator).is_none_or(|n| *n < PER_VALIDATOR)
    }

    /// Takes one more vote of a validator whose list is full, if it may be.
    pub fn spend(&mut self, validator: u32, shows_more: bool) -> bool {
        let may = if shows_more { self.n_taken < PER_EPOCH } else { self.has_left(validator) };
        if may {
            self.n_taken += 1;
            *self.by_validator.entry(validator).or_default() += u8::from(!shows_more);
        }
        may
    }

    /// Takes one more proposal for a slot of `epoch`, if it may be.
    pub fn spend_proposal(&mut self, epoch: u64) -> bool {
        if self.now.is_none_or(|now| epoch <= now.saturating_add(AHEAD_EPOCHS)) {
            return true;
        }
        let may = self.n_far_proposals < FAR_PROPOSALS_PER_EPOCH;
        self.n_far_proposals += u32::from(may);
        may
    }
}

impl Index {
    /// Tells the epoch the network is in, before votes are staged. It decides which votes are for a far future, and renews what
    /// one epoch allows. Never goes back.
    pub fn set_now(&mut self, epoch: Epoch) {
        let epoch = epoch.as_u64();
        if self.allowance.now.is_none_or(|now| now < epoch) {
            self.allowance = Allowance { now: Some(epoch), ..Allowance::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_has_room_for_so_many() {
        let mut allowance = Allowance { now: Some(10), ..Allowance::default() };
        assert_eq!((0..100).filter(|_| allowance.spend(1, false)).count(), usize::from(PER_VALIDATOR));
        assert!(!allowance.has_left(1) && allowance.has_left(2));
        assert!(allowance.spend(1, true), "what shows more is not counted against its validator");
        let taken = (0..PER_EPOCH).filter(|validator| allowance.spend(*validator, true)).count();
        assert_eq!(taken as u32, PER_EPOCH - u32::from(PER_VALIDATOR) - 1);
        assert!(!allowance.has_left(2) && !allowance.spend(2, true));
    }

    #[test]
    fn far_is_what_no_clock_was_wrong_by() {
        let allowance = Allowance { now: Some(10), ..Allowance::default() };
        assert!([0, 10, 10 + AHEAD_EPOCHS].iter().all(|target| allowance.is_near(*target)));
        assert!(!allowance.is_near(11 + AHEAD_EPOCHS));
        assert!(Allowance::default().is_near(u64::from(NONE) - 1) && !Allowance::default().is_near(u64::from(NONE)));
    }
}
