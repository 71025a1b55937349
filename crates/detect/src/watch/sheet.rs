//! One epoch of watched keys: who voted for what, and who should have voted in which slot.

use consensus::{Checkpoint, Root, Shuffling, Slot, ValidatorIndex};
use std::collections::HashMap;
use std::sync::Arc;
use verify::Vote;

/// The first vote of a key that was received for this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DutyVote {
    pub slot: Slot,
    pub head: Root,
    pub target: Checkpoint,
}

#[derive(Clone, Debug, Default)]
pub(super) struct EpochDuties {
    pub cast: HashMap<ValidatorIndex, DutyVote>,
    /// The committees of the epoch, from the first vote that has a shuffling. They are the same on
    /// all branches that share the decision block.
    pub shuffling: Option<Arc<Shuffling>>,
}

impl EpochDuties {
    /// Enters a key's vote. Returns `false` if the key had one already.
    pub fn enter(&mut self, validator: ValidatorIndex, vote: &Vote) -> bool {
        let cast = DutyVote { slot: vote.data.slot, head: vote.data.beacon_block_root, target: vote.data.target };
        let mut is_new = false;
        self.cast.entry(validator).or_insert_with(|| {
            is_new = true;
            cast
        });
        is_new
    }
}

/// A bit per validator. It is tested for every member of every vote, so the test must be fast.
#[derive(Clone, Debug, Default)]
pub(super) struct Bitmap(Vec<u64>);

impl Bitmap {
    /// Makes the set. All `members` are in the registry, so the registry's size bounds the memory.
    pub fn of(members: impl Iterator<Item = ValidatorIndex>) -> Self {
        let mut words: Vec<u64> = Vec::new();
        for member in members {
            let (word, bit) = (member.as_u64() as usize / 64, member.as_u64() % 64);
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << bit;
        }
        Self(words)
    }

    pub fn has(&self, validator: ValidatorIndex) -> bool {
        let index = validator.as_u64();
        usize::try_from(index / 64).ok().and_then(|word| self.0.get(word)).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}
