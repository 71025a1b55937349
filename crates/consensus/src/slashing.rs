//! The slashing predicates. Source: phase0/beacon-chain.md, `is_slashable_attestation_data`, `process_proposer_slashing`.

use crate::{AttestationData, BeaconBlockHeader};
use serde::{Deserialize, Serialize};

/// What a pair of signed messages can be guilty of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    DoubleVote,
    SurroundVote,
    DoubleProposal,
}

impl Offence {
    pub const ALL: [Self; 3] = [Self::DoubleVote, Self::SurroundVote, Self::DoubleProposal];

    /// As written in findings and hashed into their ids.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DoubleVote => "double_vote",
            Self::SurroundVote => "surround_vote",
            Self::DoubleProposal => "double_proposal",
        }
    }
}

/// Whether a block of today could still punish an offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Punishable {
    Yes,
    AlreadySlashed,
    NotActive,
    Withdrawable,
    /// A state knows only its current and previous fork version, and a message is signed with an older one.
    ForkExpired,
    /// Not certain: the validator is not in our registry, or a message is signed with the version of a fork to come.
    Unknown,
}

impl Punishable {
    /// Whether somebody may still lose something for it. [`Self::Unknown`] counts: what is not known is taken seriously.
    pub const fn is_possible(self) -> bool {
        match self {
            Self::Yes | Self::Unknown => true,
            Self::AlreadySlashed | Self::NotActive | Self::Withdrawable | Self::ForkExpired => false,
        }
    }
}

/// Two different votes for one target epoch.
pub fn is_double_vote(a: &AttestationData, b: &AttestationData) -> bool {
    a != b && a.target.epoch == b.target.epoch
}

/// `outer` surrounds `inner`.
pub fn surrounds(outer: &AttestationData, inner: &AttestationData) -> bool {
    outer.source.epoch < inner.source.epoch && inner.target.epoch < outer.target.epoch
}

/// The spec's predicate, with its order: a surround counts only when `data_1` is the surrounding vote.
pub fn is_slashable_attestation_data(data_1: &AttestationData, data_2: &AttestationData) -> bool {
    is_double_vote(data_1, data_2) || surrounds(data_1, data_2)
}

/// Two different headers of one proposer for one slot.
pub fn is_double_proposal(a: &BeaconBlockHeader, b: &BeaconBlockHeader) -> bool {
    a != b && a.slot == b.slot && a.proposer_index == b.proposer_index
}
