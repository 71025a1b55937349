//! Domains and signing roots.
//!
//! Source: consensus-specs, phase0/beacon-chain.md, `compute_domain` and `compute_signing_root`.

use crate::Root;
use ethereum_hashing::hash32_concat;
use serde::{Serialize, Serializer};
use std::fmt;

/// The kind of message that a signature is for (`DOMAIN_*` in the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainType {
    BeaconProposer,
    BeaconAttester,
    Randao,
    /// Signed with the version of the first fork, and without a genesis validators root.
    Deposit,
    SelectionProof,
    AggregateAndProof,
    /// From Gloas on.
    BeaconBuilder,
    /// From Gloas on.
    PtcAttester,
    /// From Heze on.
    InclusionListCommittee,
}

impl DomainType {
    /// The four bytes with which a domain of this type begins.
    pub const fn bytes(self) -> [u8; 4] {
        let first = match self {
            Self::BeaconProposer => 0,
            Self::BeaconAttester => 1,
            Self::Randao => 2,
            Self::Deposit => 3,
            Self::SelectionProof => 5,
            Self::AggregateAndProof => 6,
            Self::BeaconBuilder => 0x0b,
            Self::PtcAttester => 0x0c,
            Self::InclusionListCommittee => 0x10,
        };
        [first, 0, 0, 0]
    }
}

/// The four bytes in the name of a gossip topic that identify the fork and the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForkDigest(pub [u8; 4]);

impl fmt::Display for ForkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for ForkDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("0x{self}"))
    }
}

/// `compute_fork_data_root` of the specification.
pub fn fork_data_root(version: [u8; 4], genesis_validators_root: Root) -> Root {
    let mut chunk = [0u8; 32];
    chunk[..4].copy_from_slice(&version);
    Root::from(hash32_concat(&chunk, genesis_validators_root.as_slice()))
}

/// `compute_domain` of the specification.
pub fn compute_domain(kind: DomainType, version: [u8; 4], genesis_validators_root: Root) -> [u8; 32] {
    let root = fork_data_root(version, genesis_validators_root);
    let mut domain = [0u8; 32];
    domain[..4].copy_from_slice(&kind.bytes());
    domain[4..].copy_from_slice(&root[..28]);
    domain
}

/// `compute_signing_root` of the specification: the root that is signed. `object_root` is the
/// hash-tree-root of the message.
pub fn signing_root(object_root: Root, domain: [u8; 32]) -> Root {
    Root::from(hash32_concat(object_root.as_slice(), &domain))
}
