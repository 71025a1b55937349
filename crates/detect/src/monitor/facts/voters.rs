//! Who voted: a bit per validator and epoch. Epochs are those of slots near now, so there are few sets: 125 kB each with a million
//! validators.

use consensus::{Epoch, ValidatorIndex};
use std::collections::BTreeMap;

/// A bit per validator.
#[derive(Debug, Default)]
pub(super) struct VoterSet {
    words: Vec<u64>,
}

impl VoterSet {
    /// Whether it was not in. Indices past `limit` are never in.
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

/// Which votes a set is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SetKind {
    Heard,
    InBlocks,
    /// For slots to come, by epoch of arrival.
    Ahead,
}

/// The sets, by epoch of the vote's slot.
#[derive(Debug, Default)]
pub(super) struct Voters(BTreeMap<(Epoch, SetKind), VoterSet>);

impl Voters {
    pub(super) fn contains(&self, epoch: Epoch, kind: SetKind, validator: ValidatorIndex) -> Option<bool> {
        Some(self.0.get(&(epoch, kind))?.contains(validator))
    }

    /// For an epoch that is near now: the caller sees to that.
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
