//! One message on its way out.

use crate::ledger::Claim;
use sources::topic::Topic;

/// A gossip message, when and where it leaves, and what its signers thereby say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Nanoseconds since genesis.
    pub(crate) at_ns: u64,
    /// Index of the node that publishes it.
    pub(crate) node: usize,
    pub(crate) topic: Topic,
    /// Uncompressed.
    pub(crate) ssz: Vec<u8>,
    pub(crate) nature: Nature,
    /// Empty unless validly signed.
    pub(crate) claims: Vec<Claim>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Signed,
    Forged,
    Junk,
}

/// Moments within a slot, in thousandths of it. Sources: consensus-specs, phase0/validator.md ("Attesting", "Broadcast
/// aggregate"); what comes second comes a little later.
pub(crate) mod moment {
    pub(crate) const BLOCK: u64 = 20;
    pub(crate) const SECOND_BLOCK: u64 = 120;
    /// After the votes, which are then for its parent.
    pub(crate) const LATE_BLOCK: u64 = 540;
    pub(crate) const VOTES: u64 = 333;
    pub(crate) const VOTES_END: u64 = 500;
    pub(crate) const SECOND_VOTES: u64 = 560;
    pub(crate) const OPERATIONS: u64 = 620;
    pub(crate) const AGGREGATES: u64 = 667;
    pub(crate) const SECOND_AGGREGATES: u64 = 760;
    pub(crate) const NOISE: u64 = 820;
}
