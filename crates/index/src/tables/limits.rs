//! Limits for what a validator can sign in unlimited number. They are counted per epoch of the
//! network.
//!
//! A validator that follows the rules has one vote per epoch, for epochs up to now. A validator
//! that does not follow them can sign any number of votes: other data for one target, or targets in
//! a future that never comes. Such votes are proven and may be one side of an offence, so the first
//! ones of a validator are always stored. After that these limits apply:
//!
//! - Votes for a target up to [`AHEAD_EPOCHS`] after the network's epoch are history like any
//!   other. No clock has been wrong by that much; errors of a whole day have occurred.
//! - Votes for later targets are *far*. They are never added to chain, summary or tail, only to
//!   their validator's list.
//! - A validator whose list is full may have [`PER_VALIDATOR`] more votes outside its chain in each
//!   epoch. Votes that can show an offence that its other votes cannot show
//!   ([`crate::index::Index`]) are stored in addition. All of these votes of
//!   all validators together are at most [`PER_EPOCH`].
//!
//! The owner sets the network's epoch, so nothing here reads a clock. Until it is set, no target is
//! far.

use crate::newest_votes::NO_EPOCH;
use consensus::{Epoch, ValidatorIndex};
use std::collections::HashMap;

/// Votes for this many epochs after the network's own are still history. 512 epochs are 54 h on
/// mainnet.
pub(crate) const AHEAD_EPOCHS: u64 = 512;
/// How many votes outside their validator's chain are stored in one epoch of the network for
/// validators whose lists are full. They take about 1.6 MB.
pub(crate) const PER_EPOCH: u32 = 4096;
/// How many of these may come from one validator and show nothing that its other votes do not show.
pub(crate) const PER_VALIDATOR: u8 = 16;
/// How many proposals for slots of far epochs are stored in one epoch of the network.
pub(crate) const FAR_PROPOSALS_PER_EPOCH: u32 = 1024;

/// What was used up of the limits in the network's current epoch.
#[derive(Default)]
pub(crate) struct Limits {
    now: Option<Epoch>,
    n_taken: u32,
    n_far_proposals: u32,
    by_validator: HashMap<ValidatorIndex, u8>,
}

impl Limits {
    /// Sets the epoch that the network is in. A new epoch resets the limits per epoch. An earlier
    /// epoch is ignored.
    pub fn set_now(&mut self, epoch: Epoch) {
        if self.now.is_none_or(|now| now < epoch) {
            *self = Self { now: Some(epoch), ..Self::default() };
        }
    }

    /// The network's epoch, if the owner has set it.
    pub fn now(&self) -> Option<Epoch> {
        self.now
    }

    /// Whether votes for this target may be added to chain and summary.
    pub fn is_near(&self, target: Epoch) -> bool {
        target < NO_EPOCH && self.now.is_none_or(|now| target <= now.saturating_add(AHEAD_EPOCHS))
    }

    /// Whether one more vote of a validator whose list is full may be stored, although it shows
    /// nothing new.
    pub fn has_left(&self, validator: ValidatorIndex) -> bool {
        self.n_taken < PER_EPOCH && self.by_validator.get(&validator).is_none_or(|n| *n < PER_VALIDATOR)
    }

    /// Counts one more vote of a validator whose list is full. Returns whether it may be stored.
    pub fn spend(&mut self, validator: ValidatorIndex, shows_more: bool) -> bool {
        let may = if shows_more { self.n_taken < PER_EPOCH } else { self.has_left(validator) };
        if may {
            self.n_taken += 1;
            *self.by_validator.entry(validator).or_default() += u8::from(!shows_more);
        }
        may
    }

    /// Counts one more proposal if its `epoch` is far ahead. Near ones are never refused. Returns
    /// whether it may be stored.
    pub fn spend_proposal(&mut self, epoch: Epoch) -> bool {
        if self.now.is_none_or(|now| epoch <= now.saturating_add(AHEAD_EPOCHS)) {
            return true;
        }
        let may = self.n_far_proposals < FAR_PROPOSALS_PER_EPOCH;
        self.n_far_proposals += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator(index: u64) -> ValidatorIndex {
        ValidatorIndex::new(index)
    }

    #[test]
    fn each_epoch_has_room_for_so_many() {
        let mut limits = Limits { now: Some(Epoch::new(10)), ..Limits::default() };
        assert_eq!((0..100).filter(|_| limits.spend(validator(1), false)).count(), usize::from(PER_VALIDATOR));
        assert!(!limits.has_left(validator(1)) && limits.has_left(validator(2)));
        assert!(limits.spend(validator(1), true), "what shows more is not counted against its validator");
        let taken = (0..PER_EPOCH).filter(|index| limits.spend(validator(u64::from(*index)), true)).count();
        assert_eq!(taken as u32, PER_EPOCH - u32::from(PER_VALIDATOR) - 1);
        assert!(!limits.has_left(validator(2)) && !limits.spend(validator(2), true));
    }

    #[test]
    fn far_is_what_no_clock_was_wrong_by() {
        let limits = Limits { now: Some(Epoch::new(10)), ..Limits::default() };
        assert!([0, 10, 10 + AHEAD_EPOCHS].into_iter().all(|target| limits.is_near(Epoch::new(target))));
        assert!(!limits.is_near(Epoch::new(11 + AHEAD_EPOCHS)));
        assert!(Limits::default().is_near(NO_EPOCH.saturating_sub(1)) && !Limits::default().is_near(NO_EPOCH));
    }
}
