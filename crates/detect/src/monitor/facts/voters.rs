//! Who voted: a bit per validator and target epoch.

use super::KEPT_EPOCHS;
use consensus::{Epoch, ValidatorIndex};
use std::collections::BTreeMap;

/// Sets of voters: 125 kB each with a million validators.
pub const MAX_VOTER_SETS: usize = 96;

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
    /// Voted for an epoch far ahead.
    Ahead,
}

/// The sets, by target epoch.
#[derive(Debug, Default)]
pub(super) struct Voters(BTreeMap<(Epoch, SetKind), VoterSet>);

impl Voters {
    pub(super) fn contains(&self, epoch: Epoch, kind: SetKind, validator: ValidatorIndex) -> Option<bool> {
        Some(self.0.get(&(epoch, kind))?.contains(validator))
    }

    /// A set that was taken out.
    pub(super) fn put(&mut self, epoch: Epoch, kind: SetKind, set: VoterSet) {
        self.0.insert((epoch, kind), set);
    }

    pub(super) fn forget_before(&mut self, oldest: Epoch) {
        self.0 = self.0.split_off(&(oldest, SetKind::Heard));
    }

    /// Taken out, to be put back. `None` if there is no room for one more: then nobody's repeats are told apart.
    /// `now`: the current epoch.
    pub(super) fn take(&mut self, epoch: Epoch, kind: SetKind, now: Epoch) -> Option<VoterSet> {
        if let Some(set) = self.0.remove(&(epoch, kind)) {
            return Some(set);
        }
        let is_usual = epoch <= now.saturating_add(2) && epoch.saturating_add(KEPT_EPOCHS) >= now;
        if !is_usual && kind != SetKind::Ahead {
            return None;
        }
        if self.0.len() >= MAX_VOTER_SETS {
            let sacrificed = *self.0.keys().find(|(_, kind)| *kind == SetKind::Ahead)?;
            self.0.remove(&sacrificed);
        }
        Some(VoterSet::default())
    }
}
