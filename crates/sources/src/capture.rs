//! The capture file (`.e2s`): the messages that sources received, in order of arrival, and the data
//! that is needed to verify them.
//!
//! It is an e2store file, the container format of Ethereum's ERA files, so one reader reads both:
//!
//! ```text
//! entry  = type: 2 bytes | length: u32 LE | reserved: 2 bytes, zero | data: length bytes
//! 65 32 00000000 0000                         Version, empty, first
//! 63 66 02df0000 0000 PRESET_BASE: minimal..  ChainConfig, the network's config.yaml
//! 02 00 ........ 0000 ff 06 00 00 sNaPpY ..   CompressedBeaconState, SSZ in framed snappy
//! 67 73 ........ 0000 ns | peer | topic | payload as on the wire   GossipMessage
//! ```
//!
//! What the reader guarantees:
//! - It never holds more than one entry. The length of an entry is checked against the limit of its
//!   type before anything is allocated. Even then memory grows with the bytes that really arrive,
//!   never with the claimed length.
//! - It delivers everything before a damaged place. It reports the damage as one error with file,
//!   offset and reason.
//! - Damage *inside* an entry (bad snappy, a name that is not UTF-8) loses only that entry, because
//!   the end of the entry is known.
//! - Entries of unknown types are skipped and counted.
//!
//! In a capture, config and state come before the messages. An ERA file has its state at the end,
//! so such a file is read twice. [`CaptureFile::first_state`] finds the state by seeking from
//! header to header, without decompressing the entries between.
//!
//! The writer only appends whole entries, so a file that a crash has cut is readable up to the cut.
//!
//! Source of the container format: eth-clients/e2store-format-specs, `formats/era.md`.

mod error;
mod frame;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::{CaptureError, Damage};
pub use read::{CaptureFile, CaptureReader, Located};
pub use write::{CaptureWriter, WriteError};

use verify::Time;

/// Length of an entry's header in bytes.
pub const HEADER_LEN: u64 = 8;

/// The type of an entry: two bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryType(pub [u8; 2]);

impl EntryType {
    pub const VERSION: Self = Self(*b"e2");
    pub const CONFIG: Self = Self(*b"cf");
    pub const STATE: Self = Self([2, 0]);
    pub const BLOCK: Self = Self([1, 0]);
    pub const GOSSIP: Self = Self(*b"gs");
    pub const EMPTY: Self = Self([0, 0]);
    pub const SLOT_INDEX: Self = Self(*b"i2");
    pub const PEER_EVENT: Self = Self(*b"pe");
    pub const API_EVENT: Self = Self(*b"ap");

    /// Greatest length in bytes of an entry of this type. Entries that are skipped are never held
    /// in memory, so they may have any length.
    const fn max_len(self) -> u64 {
        match &self.0 {
            b"e2" => 0,
            b"cf" => MAX_CONFIG_LEN as u64,
            [2, 0] => MAX_STATE_LEN,
            [1, 0] => MAX_BLOCK_LEN,
            b"gs" => (8 + 1 + 255 + 2 + crate::topic::MAX_TOPIC_LEN + crate::limits::MAX_WIRE_SIZE) as u64,
            b"pe" => 8 + MAX_PEER_EVENT_LEN as u64,
            b"ap" => (8 + 2 + MAX_NODE_NAME_LEN + 2 + crate::topic::MAX_TOPIC_LEN + MAX_API_EVENT_LEN) as u64,
            _ => u32::MAX as u64,
        }
    }
}

impl std::fmt::Debug for EntryType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x} {:02x}", self.0[0], self.0[1])
    }
}

impl std::fmt::Display for EntryType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Greatest length of a `config.yaml` in bytes. Mainnet's has 7 kB.
pub const MAX_CONFIG_LEN: usize = 1 << 20;
/// Greatest length of a state in bytes, compressed or decompressed. Mainnet's has 300 MB at 2
/// million validators.
pub const MAX_STATE_LEN: u64 = 1 << 30;
/// Greatest length of a block in bytes, compressed or decompressed. Gossip allows 10 MiB.
pub const MAX_BLOCK_LEN: u64 = 16 << 20;
/// Greatest length of a peer event's JSON in bytes.
pub const MAX_PEER_EVENT_LEN: usize = 64 << 10;
/// Greatest length of an API event's JSON in bytes. An attester slashing with 2 x 131 072 indices
/// has 3 MB.
pub const MAX_API_EVENT_LEN: usize = 8 << 20;
/// Greatest length of a node's URL in bytes.
pub const MAX_NODE_NAME_LEN: usize = 2048;

/// One entry, decompressed but not interpreted.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Version,
    /// The network's `config.yaml`.
    Config(String),
    /// A `BeaconState` in SSZ.
    State(Vec<u8>),
    /// A `SignedBeaconBlock` in SSZ.
    Block(Vec<u8>),
    Gossip(GossipEntry),
    PeerEvent(PeerEventEntry),
    ApiEvent(ApiEventEntry),
    /// An Empty entry, a SlotIndex, or an entry of an unknown type. Its data is skipped.
    Skipped {
        entry_type: EntryType,
        len: u32,
    },
}

impl Entry {
    /// Approximate size in memory, in bytes.
    pub fn n_bytes(&self) -> usize {
        match self {
            Self::Config(text) => text.len(),
            Self::State(ssz) | Self::Block(ssz) => ssz.len(),
            Self::Gossip(entry) => entry.payload.len(),
            Self::ApiEvent(event) => event.json.len(),
            Self::Version | Self::PeerEvent(_) | Self::Skipped { .. } => 0,
        }
    }
}

/// A message as it was received on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipEntry {
    pub received_at: Time,
    /// libp2p peer id, binary.
    pub peer: Vec<u8>,
    pub topic: String,
    /// Snappy block, as received.
    pub payload: Vec<u8>,
}

/// Something that happened with a peer: `connected`, `disconnected`, `agent`, `status`, `metadata`
/// or `goodbye`, with its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerEventEntry {
    pub at: Time,
    pub json: serde_json::Value,
}

/// An event of a beacon node's event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiEventEntry {
    pub at: Time,
    /// The node's URL.
    pub node: String,
    /// The name of the event, for example `single_attestation`.
    pub topic: String,
    /// The data of the event, as received.
    pub json: String,
}
