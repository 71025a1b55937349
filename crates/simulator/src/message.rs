//! A message that is to be sent.

use crate::ground_truth::Claim;
use sources::topic::Topic;

/// A gossip message, the time and node at which it is sent, and the claims of its signers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Nanoseconds since genesis.
    pub(crate) at_ns: u64,
    /// Index of the node that publishes it.
    pub(crate) node: usize,
    pub(crate) topic: Topic,
    /// The SSZ, not compressed.
    pub(crate) ssz: Vec<u8>,
    pub(crate) nature: Nature,
    /// Empty if the signature is not valid.
    pub(crate) claims: Vec<Claim>,
}

/// Whether a message has a valid signature by its claimed signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Signed,
    Forged,
    Junk,
}

/// Moments within a slot, in thousandths of it. Source: consensus-specs, phase0/validator.md
/// ("Attesting", "Broadcast aggregate"). Second messages are sent a little later.
pub(crate) mod moment {
    pub(crate) const BLOCK: u64 = 20;
    pub(crate) const SECOND_BLOCK: u64 = 120;
    /// After the votes, which are therefore for the block's parent.
    pub(crate) const LATE_BLOCK: u64 = 540;
    pub(crate) const VOTES: u64 = 333;
    pub(crate) const VOTES_END: u64 = 500;
    pub(crate) const SECOND_VOTES: u64 = 560;
    pub(crate) const OPERATIONS: u64 = 620;
    pub(crate) const AGGREGATES: u64 = 667;
    pub(crate) const SECOND_AGGREGATES: u64 = 760;
    pub(crate) const NOISE: u64 = 820;
}
