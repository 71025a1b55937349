//! A set of validators with a bit for each.

use consensus::ValidatorIndex;

/// A set with a bit per validator. It takes 125 kB with a million validators.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValidatorSet {
    words: Vec<u64>,
}

impl ValidatorSet {
    /// Adds a validator and returns whether it was not in the set before. An index at or above
    /// `limit` is never added, so the registry's size bounds the memory.
    pub fn insert(&mut self, validator: ValidatorIndex, limit: usize) -> bool {
        let Some(index) = usize::try_from(validator.as_u64()).ok().filter(|index| *index < limit) else { return false };
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        if self.words.len() <= word {
            self.words.resize(limit.div_ceil(64), 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    pub fn contains(&self, validator: ValidatorIndex) -> bool {
        let index = validator.as_u64();
        usize::try_from(index / 64).ok().and_then(|word| self.words.get(word)).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}
