//! The rules of Ethereum's consensus layer: quantities, containers of each fork, SSZ, domains,
//! shuffling and the slashing predicates.
//!
//! This crate does no I/O, reads no clock and has no async code. The same input always gives the
//! same output. The presets (mainnet, minimal, gnosis) are values, not type parameters. So no crate
//! above this one needs a type parameter for the preset.
//!
//! Source: <https://github.com/ethereum/consensus-specs>.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod builders;
mod config;
mod containers;
mod decode;
mod domain;
mod error;
mod inclusion_list;
pub mod interchange;
mod message_kind;
mod networks;
mod preset;
mod proposers;
mod quantities;
mod shuffling;
mod slashing;
mod spec;
pub mod ssz_schema;
pub mod state;

pub use builders::{PayloadAttestationData, PayloadAttestationMessage, PayloadBid, SignedPayloadBid};
pub use containers::*;
pub use decode::{BlockPrefix, SidecarKind, block_prefix, sidecar_header};
pub use domain::{DomainType, ForkDigest, compute_domain, signing_root};
pub use error::DecodeError;
pub use inclusion_list::{
    InclusionList, MAX_SIGNED_INCLUSION_LIST_SIZE, MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST, SignedInclusionList,
};
pub use message_kind::{
    ATTESTATION_SUBNET_COUNT, DATA_COLUMN_SIDECAR_SUBNET_COUNT, DecodedMessage, MAX_PAYLOAD_SIZE,
    MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS, MessageFields, MessageKind,
};
pub use preset::{
    MAX_PROPOSER_SLASHINGS, MAX_SEED_LOOKAHEAD, MAX_VALIDATORS_PER_COMMITTEE, MIN_SEED_LOOKAHEAD, Preset, PresetName,
};
pub use proposers::compute_proposer;
pub use quantities::{BuilderIndex, CommitteeIndex, Epoch, Gwei, Slot, ValidatorIndex};
pub use shuffling::{Seat, Shuffling, ShufflingId, compute_seed, compute_shuffled_index, shuffle_list};
pub use slashing::{Offence, Punishable, is_double_proposal, is_double_vote, is_slashable_attestation_data, surrounds};
pub use spec::{BlobParameters, Fork, ForkDigests, ForkName, ForkVersion, LaterFork, Network, Spec, SpecError};

/// A 32-byte hash-tree-root or other hash.
pub use alloy_primitives::B256 as Root;

/// Computes SHA-256, the hash function of the consensus specification.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    ethereum_hashing::hash_fixed(bytes)
}
