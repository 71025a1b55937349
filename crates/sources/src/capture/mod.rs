//! The capture file (`.e2s`): what sources heard, in order of arrival, and what is needed to check it.
//!
//! It is an e2store file, the container of Ethereum's ERA files, so one reader reads both:
//!
//! ```text
//! entry  = type: 2 bytes | length: u32 LE | reserved: 2 bytes, zero | data: length bytes
//! 65 32 00000000 0000                         Version, empty, first
//! 63 66 02df0000 0000 PRESET_BASE: minimal..  ChainConfig, the network's config.yaml
//! 02 00 ........ 0000 ff 06 00 00 sNaPpY ..   CompressedBeaconState, SSZ in framed snappy
//! 67 73 ........ 0000 ns | peer | topic | payload as on the wire   GossipMessage
//! ```
//!
//! What the reader promises:
//! - it never holds more than one entry, and for each type the entry's length is bounded before anything is allocated; even
//!   then memory grows with the bytes that really come, never with the number claimed;
//! - everything before damage is delivered; the damage is one error with file, offset and reason;
//! - damage *inside* an entry (bad snappy, a name that is not UTF-8) costs that entry only, since its end is known;
//! - types it does not know are skipped and counted.
//!
//! In a capture, config and state precede the messages. An ERA file ends with its state, so such a file is read twice:
//! [`CaptureFile::first_state`] finds it by leaping from entry to entry without unpacking what lies between.
//!
//! The writer appends whole entries and nothing else, so a file cut by a crash is readable up to the cut, and
//! [`CaptureWriter::append_to`] takes the torn tail off before it goes on.
//!
//! Source of the container: eth-clients/e2store-format-specs, `formats/era.md`.

mod error;
mod frame;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use crate::intake::{api_event_to_raw, block_to_raw, gossip_to_raw};
pub use error::{CaptureError, Damage};
pub use read::{CaptureFile, CaptureReader, Located};
pub use write::{CaptureWriter, WriteError};

use verify::UnixNs;

/// Length of an entry's header.
pub const HEADER_LEN: u64 = 8;

/// An entry's two-byte type.
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

    /// Most bytes an entry of this type may have. Types that are skipped are never held, so any length goes.
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

/// A `config.yaml`; mainnet's has 7 kB.
pub const MAX_CONFIG_LEN: usize = 1 << 20;
/// A state, packed or unpacked: mainnet's is 300 MB at 2 M validators.
pub const MAX_STATE_LEN: u64 = 1 << 30;
/// A block, packed or unpacked: gossip allows 10 MiB.
pub const MAX_BLOCK_LEN: u64 = 16 << 20;
/// The JSON of a peer event.
pub const MAX_PEER_EVENT_LEN: usize = 64 << 10;
/// The JSON of one API event: an attester slashing of 2 x 131 072 indices is 3 MB.
pub const MAX_API_EVENT_LEN: usize = 8 << 20;
/// A node's URL.
pub const MAX_NODE_NAME_LEN: usize = 2048;

/// One entry, unpacked but not interpreted.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    Version,
    /// The network's `config.yaml`.
    Config(String),
    /// A `BeaconState`, SSZ.
    State(Vec<u8>),
    /// A `SignedBeaconBlock`, SSZ.
    Block(Vec<u8>),
    Gossip(GossipEntry),
    PeerEvent(PeerEventEntry),
    ApiEvent(ApiEventEntry),
    /// Empty, SlotIndex, or a type not known here: skipped.
    Skipped {
        entry_type: EntryType,
        len: u32,
    },
}

impl Entry {
    /// About what it takes in memory.
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

/// A message as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipEntry {
    pub received_at: UnixNs,
    /// libp2p peer id, binary.
    pub peer: Vec<u8>,
    pub topic: String,
    /// Snappy block, as received.
    pub payload: Vec<u8>,
}

/// Something about a peer: `connected`, `disconnected`, `agent`, `status`, `metadata`, `goodbye`, with its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerEventEntry {
    pub at: UnixNs,
    pub json: serde_json::Value,
}

/// An event of a beacon node's event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiEventEntry {
    pub at: UnixNs,
    /// The node's URL.
    pub node: String,
    /// The event's name, as `single_attestation`.
    pub topic: String,
    /// The data, as sent.
    pub json: String,
}
