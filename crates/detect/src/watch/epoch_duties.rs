//! One epoch of watched keys: who voted for what, and who should have voted in which slot.

use consensus::{Checkpoint, Root, Shuffling, Slot, ValidatorIndex};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    pub votes: HashMap<ValidatorIndex, DutyVote>,
    /// The committees of the epoch, from the first vote that has a shuffling. They are the same on
    /// all branches that share the decision block.
    pub shuffling: Option<Arc<Shuffling>>,
}

impl EpochDuties {
    /// Enters a key's vote. Returns `false` if the key had one already.
    pub fn enter(&mut self, validator: ValidatorIndex, vote: &Vote) -> bool {
        let Entry::Vacant(entry) = self.votes.entry(validator) else { return false };
        entry.insert(DutyVote { slot: vote.data.slot, head: vote.data.beacon_block_root, target: vote.data.target });
        true
    }
}
