//! The documents of the beacon API. Only the fields that are used are read.

use consensus::{Checkpoint, ForkName, Gwei, Root, SignedBeaconBlockHeader, Slot, ValidatorIndex};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Identifies a state (`state_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateId {
    Genesis,
    Finalized,
    Justified,
    Head,
    Slot(Slot),
    /// A state root.
    Root(Root),
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Genesis => f.write_str("genesis"),
            Self::Finalized => f.write_str("finalized"),
            Self::Justified => f.write_str("justified"),
            Self::Head => f.write_str("head"),
            Self::Slot(slot) => write!(f, "{slot}"),
            Self::Root(root) => write!(f, "{root:?}"),
        }
    }
}

/// Identifies a block (`block_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockId {
    Genesis,
    Finalized,
    Head,
    Slot(Slot),
    Root(Root),
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Genesis => f.write_str("genesis"),
            Self::Finalized => f.write_str("finalized"),
            Self::Head => f.write_str("head"),
            Self::Slot(slot) => write!(f, "{slot}"),
            Self::Root(root) => write!(f, "{root:?}"),
        }
    }
}

/// `/eth/v1/beacon/genesis`. The fork version is not read, because some nodes report another one
/// than their own configuration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Genesis {
    /// In seconds since the Unix epoch.
    #[serde(deserialize_with = "decimal")]
    pub genesis_time: u64,
    pub genesis_validators_root: Root,
}

/// A block of a node: the bytes of a `SignedBeaconBlock`, not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBlock {
    pub fork: ForkName,
    pub ssz: Vec<u8>,
}

/// An element of `/eth/v1/beacon/headers`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderInfo {
    pub root: Root,
    /// Whether the block is on the branch that the node follows.
    #[serde(default)]
    pub canonical: bool,
    pub header: SignedBeaconBlockHeader,
}

/// `/eth/v1/node/syncing`: the state of a node's synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Syncing {
    pub head_slot: Slot,
    /// Number of slots between the head and the current slot.
    #[serde(deserialize_with = "decimal")]
    pub sync_distance: u64,
    pub is_syncing: bool,
    #[serde(default)]
    pub is_optimistic: bool,
    #[serde(default)]
    pub el_offline: bool,
}

/// `/eth/v1/node/identity`: the node's addresses on the peer-to-peer network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeIdentity {
    pub peer_id: String,
    #[serde(default)]
    pub enr: String,
    /// Multiaddrs. Most of them end with the peer id.
    #[serde(default)]
    pub p2p_addresses: Vec<String>,
}

/// An element of `/eth/v1/beacon/states/{id}/validators`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ValidatorStatus {
    pub index: ValidatorIndex,
    pub balance: Gwei,
    /// `active_ongoing`, `active_slashed`, `exited_slashed`, and so on.
    pub status: String,
    pub validator: consensus::Validator,
}

/// `/eth/v1/beacon/states/{id}/finality_checkpoints`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Finality {
    pub previous_justified: Checkpoint,
    pub current_justified: Checkpoint,
    pub finalized: Checkpoint,
}

/// Returns the fork with this name in the header `Eth-Consensus-Version`. Upper and lower case are
/// not distinguished.
pub(crate) fn fork_by_name(name: &str) -> Option<ForkName> {
    ForkName::ALL.into_iter().find(|fork| fork.as_str().eq_ignore_ascii_case(name))
}

/// Reads a u64: a decimal string as in the beacon API, or a number as some nodes write it.
fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    match Either::deserialize(deserializer)? {
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Either::Number(number) => Ok(number),
    }
}
