//! What came in during a slot, by when it was due.

use super::N_SUBNETS;
use crate::client::ByClient;
use consensus::ValidatorIndex;
use std::collections::{BTreeMap, BTreeSet};

/// A vote's arrival is told in 24ths of a slot, from one slot before its own to two after.
pub const OFFSETS_PER_SLOT: usize = 24;
pub(super) const N_OFFSETS: usize = 4 * OFFSETS_PER_SLOT;

/// What came in during a slot.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Single votes on subnets, each once.
    pub singles: u64,
    /// By subnet, repeats included.
    pub by_subnet: [u64; N_SUBNETS],
    /// Gossip votes by how long after the start of their own slot they came, in 24ths of a slot; the first is one slot early
    /// or more, the last three late or more.
    pub offsets: [u64; N_OFFSETS],
    /// Votes for slots that had not begun, by how many slots ahead.
    pub ahead: BTreeMap<u64, Ahead>,
    /// Blocks for slots that had not begun.
    pub blocks_ahead: u64,
    /// Votes on gossip for an epoch before the previous one.
    pub old_targets: u64,
}

/// Votes from the future.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    pub voters: u64,
    pub by_client: ByClient,
    /// The lowest of them.
    pub examples: BTreeSet<ValidatorIndex>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            singles: 0,
            by_subnet: [0; N_SUBNETS],
            offsets: [0; N_OFFSETS],
            ahead: BTreeMap::new(),
            blocks_ahead: 0,
            old_targets: 0,
        }
    }
}

impl Arrivals {
    /// Votes whose offset was noted.
    pub fn votes(&self) -> u64 {
        self.offsets.iter().sum()
    }
}
