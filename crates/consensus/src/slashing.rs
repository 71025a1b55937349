//! The slashing predicates of the specification.
//!
//! Source: phase0/beacon-chain.md, `is_slashable_attestation_data` and `process_proposer_slashing`.

use crate::{AttestationData, BeaconBlockHeader};
use serde::{Deserialize, Serialize};

/// The offences that a pair of signed messages can prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    DoubleVote,
    SurroundVote,
    DoubleProposal,
}

impl Offence {
    pub const ALL: [Self; 3] = [Self::DoubleVote, Self::SurroundVote, Self::DoubleProposal];

    /// The name that is written into findings. It is hashed into their ids, so it must not change.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DoubleVote => "double_vote",
            Self::SurroundVote => "surround_vote",
            Self::DoubleProposal => "double_proposal",
        }
    }
}

/// States whether a block that is proposed now could still punish an offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Punishable {
    Yes,
    AlreadySlashed,
    NotActive,
    Withdrawable,
    /// One of the messages is signed with a fork version older than the previous version of the
    /// current state. A state has only its current and its previous version, so it cannot check
    /// that signature.
    ForkExpired,
    /// Not certain: the validator is not in our registry, or a message is signed with the version
    /// of a future fork.
    Unknown,
}

impl Punishable {
    /// Returns whether the validator can possibly still be punished. [`Self::Unknown`] counts as
    /// possible, so that an uncertain case is treated as a serious one.
    pub const fn is_possible(self) -> bool {
        match self {
            Self::Yes | Self::Unknown => true,
            Self::AlreadySlashed | Self::NotActive | Self::Withdrawable | Self::ForkExpired => false,
        }
    }
}

/// Returns whether the votes are different and have the same target epoch.
pub fn is_double_vote(a: &AttestationData, b: &AttestationData) -> bool {
    a != b && a.target.epoch == b.target.epoch
}

/// Returns whether `outer` surrounds `inner`.
pub fn surrounds(outer: &AttestationData, inner: &AttestationData) -> bool {
    outer.source.epoch < inner.source.epoch && inner.target.epoch < outer.target.epoch
}

/// `is_slashable_attestation_data` of the specification. The order of the arguments matters: a
/// surround counts only if `data_1` is the surrounding vote.
pub fn is_slashable_attestation_data(data_1: &AttestationData, data_2: &AttestationData) -> bool {
    is_double_vote(data_1, data_2) || surrounds(data_1, data_2)
}

/// Returns whether the headers are different but have the same proposer and the same slot.
pub fn is_double_proposal(a: &BeaconBlockHeader, b: &BeaconBlockHeader) -> bool {
    a != b && a.slot == b.slot && a.proposer_index == b.proposer_index
}
