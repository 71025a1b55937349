//! Who voted: a bit per validator and epoch. Only epochs near now have sets, so there are few of
//! them. Each takes 125 kB with a million validators.

use crate::validator_set::ValidatorSet;
use consensus::{Epoch, ValidatorIndex};
use std::collections::BTreeMap;

/// Which votes a set is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SetKind {
    Received,
    InBlocks,
    /// Votes for future slots, by epoch of arrival.
    Ahead,
}

/// The sets, by epoch of the vote's slot and by kind.
#[derive(Debug, Default)]
pub(super) struct Voters(BTreeMap<(Epoch, SetKind), ValidatorSet>);

impl Voters {
    pub(super) fn contains(&self, epoch: Epoch, kind: SetKind, validator: ValidatorIndex) -> Option<bool> {
        Some(self.get(epoch, kind)?.contains(validator))
    }

    pub(super) fn get(&self, epoch: Epoch, kind: SetKind) -> Option<&ValidatorSet> {
        self.0.get(&(epoch, kind))
    }

    /// The set of an epoch. The caller makes sure that the epoch is near now.
    pub(super) fn of(&mut self, epoch: Epoch, kind: SetKind) -> &mut ValidatorSet {
        self.0.entry((epoch, kind)).or_default()
    }

    pub(super) fn forget_before(&mut self, oldest: Epoch) {
        self.0 = self.0.split_off(&(oldest, SetKind::Received));
    }

    pub(super) fn forget_after(&mut self, latest: Epoch) {
        drop(self.0.split_off(&(latest.saturating_add(1), SetKind::Received)));
    }
}
