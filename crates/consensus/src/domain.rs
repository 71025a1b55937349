//! Domains and signing roots. Source: phase0/beacon-chain.md, `compute_domain`, `compute_signing_root`.

use crate::Root;
use ethereum_hashing::hash32_concat;
use std::fmt;

/// What a signature is for (`DOMAIN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainType {
    BeaconProposer,
    BeaconAttester,
    Randao,
    SelectionProof,
    AggregateAndProof,
    /// Gloas.
    BeaconBuilder,
    /// Gloas.
    PtcAttester,
    /// Heze.
    InclusionListCommittee,
}

impl DomainType {
    pub const fn bytes(self) -> [u8; 4] {
        let first = match self {
            Self::BeaconProposer => 0,
            Self::BeaconAttester => 1,
            Self::Randao => 2,
            Self::SelectionProof => 5,
            Self::AggregateAndProof => 6,
            Self::BeaconBuilder => 0x0b,
            Self::PtcAttester => 0x0c,
            Self::InclusionListCommittee => 0x10,
        };
        [first, 0, 0, 0]
    }
}

/// The four bytes in a gossip topic that name fork and network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForkDigest(pub [u8; 4]);

impl fmt::Display for ForkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// `compute_fork_data_root`.
pub fn fork_data_root(version: [u8; 4], genesis_validators_root: Root) -> Root {
    let mut chunk = [0u8; 32];
    chunk[..4].copy_from_slice(&version);
    Root::from(hash32_concat(&chunk, genesis_validators_root.as_slice()))
}

/// `compute_domain`.
pub fn compute_domain(kind: DomainType, version: [u8; 4], genesis_validators_root: Root) -> [u8; 32] {
    let root = fork_data_root(version, genesis_validators_root);
    let mut domain = [0u8; 32];
    domain[..4].copy_from_slice(&kind.bytes());
    domain[4..].copy_from_slice(&root[..28]);
    domain
}

/// `compute_signing_root`: what is signed, given the object's hash-tree-root.
pub fn signing_root(object_root: Root, domain: [u8; 32]) -> Root {
    Root::from(hash32_concat(object_root.as_slice(), &domain))
}
