//! What arrived during a slot, compared with when it was due.

use super::N_SUBNETS;
use crate::client::ByClient;
use consensus::ValidatorIndex;
use std::collections::{BTreeMap, BTreeSet};

/// A vote's arrival is counted in 24ths of a slot, from one slot before its own slot to two slots
/// after it.
pub const OFFSETS_PER_SLOT: usize = 24;
pub(super) const N_OFFSETS: usize = 4 * OFFSETS_PER_SLOT;

/// What arrived during a slot.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Single votes from gossip, each counted once.
    pub singles: u64,
    /// Attestations by subnet, repeats included.
    pub by_subnet: [u64; N_SUBNETS],
    /// Votes (those in blocks excluded) by how long after the start of their own slot they arrived,
    /// in 24ths of a slot. The first bucket also holds everything that is a slot early or more, the
    /// last one everything that is three slots late or more.
    pub offsets: [u64; N_OFFSETS],
    /// Votes for slots that had not begun, by how many slots ahead they are.
    pub ahead: BTreeMap<u64, Ahead>,
    /// Number of blocks for slots that had not begun.
    pub blocks_ahead: u64,
    /// Number of votes whose target is before the previous epoch; votes in blocks are excluded.
    pub old_targets: u64,
}

/// Votes for slots that had not begun, all at one distance.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    pub voters: u64,
    pub by_client: ByClient,
    /// The voters with the lowest indices.
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
    /// Number of votes whose offset was recorded.
    pub fn votes(&self) -> u64 {
        self.offsets.iter().sum()
    }
}
