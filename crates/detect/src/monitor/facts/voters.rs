//! Who voted: a bit per validator and epoch. Only epochs near now have sets, so there are few of
//! them. Each takes 125 kB with a million validators.

use consensus::{Epoch, ValidatorIndex};
use std::collections::BTreeMap;

/// A set with a bit per validator.
#[derive(Debug, Default)]
pub(super) struct VoterSet {
    words: Vec<u64>,
}

impl VoterSet {
    /// Adds a validator and returns whether it was not in the set before. An index at or above
    /// `limit` is never added.
    pub(super) fn insert(&mut self, validator: ValidatorIndex, limit: usize) -> bool {
        let Some(index) = usize::try_from(validator.as_u64()).ok().filter(|index| *index < limit) else { return false };
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        if self.words.len() <= word {
            self.words.resize(limit.div_ceil(64), 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        fresh
    }

    fn contains(&self, validator: ValidatorIndex) -> bool {
        let index = validator.as_u64() as usize;
        self.words.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}

/// Which votes a set is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SetKind {
    Heard,
    InBlocks,
    /// Votes for future slots, by epoch of arrival.
    Ahead,
}

/// The sets, by epoch of the vote's slot and by kind.
#[derive(Debug, Default)]
pub(super) struct Voters(BTreeMap<(Epoch, SetKind), VoterSet>);

impl Voters {
    pub(super) fn contains(&self, epoch: Epoch, kind: SetKind, validator: ValidatorIndex) -> Option<bool> {
        Some(self.0.get(&(epoch, kind))?.contains(validator))
    }

    /// The set of an epoch. The caller makes sure that the epoch is near now.
    pub(super) fn of(&mut self, epoch: Epoch, kind: SetKind) -> &mut VoterSet {
        self.0.entry((epoch, kind)).or_default()
    }

    pub(super) fn forget_before(&mut self, oldest: Epoch) {
        self.0 = self.0.split_off(&(oldest, SetKind::Heard));
    }

    pub(super) fn forget_after(&mut self, latest: Epoch) {
        drop(self.0.split_off(&(latest.saturating_add(1), SetKind::Heard)));
    }
}
