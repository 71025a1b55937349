//! The messages of the request/response protocols and their SSZ encoding.

use consensus::{Checkpoint, Epoch, ForkDigest, Root, Slot};

/// One version of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    StatusV1,
    StatusV2,
    Ping,
    MetadataV1,
    MetadataV2,
    MetadataV3,
    Goodbye,
    Data(DataProtocol),
}

/// A request for blocks or the data that belongs to them. This node keeps none of it. Source:
/// consensus-specs, `*/p2p-interface.md`. The limits are mainnet's, which no network exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataProtocol {
    BlocksByRangeV1,
    BlocksByRangeV2,
    BlocksByRootV1,
    BlocksByRootV2,
    /// Exists from Fulu on.
    BlocksByHead,
    /// Exists from Deneb on.
    BlobsByRange,
    BlobsByRoot,
    /// Exists from Fulu on.
    ColumnsByRange,
    ColumnsByRoot,
    /// Exists from Gloas on.
    EnvelopesByRange,
    EnvelopesByRoot,
    /// Exists from Heze on.
    InclusionLists,
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        match self {
            Self::StatusV1 => "/eth2/beacon_chain/req/status/1/ssz_snappy",
            Self::StatusV2 => "/eth2/beacon_chain/req/status/2/ssz_snappy",
            Self::Ping => "/eth2/beacon_chain/req/ping/1/ssz_snappy",
            Self::MetadataV1 => "/eth2/beacon_chain/req/metadata/1/ssz_snappy",
            Self::MetadataV2 => "/eth2/beacon_chain/req/metadata/2/ssz_snappy",
            Self::MetadataV3 => "/eth2/beacon_chain/req/metadata/3/ssz_snappy",
            Self::Goodbye => "/eth2/beacon_chain/req/goodbye/1/ssz_snappy",
            Self::Data(data) => data.id(),
        }
    }
}

impl Protocol {
    /// The label in metrics. All versions of a protocol share one label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::StatusV1 | Self::StatusV2 => "status",
            Self::Ping => "ping",
            Self::MetadataV1 | Self::MetadataV2 | Self::MetadataV3 => "metadata",
            Self::Goodbye => "goodbye",
            Self::Data(data) => data.label(),
        }
    }

    /// Allowed length of a request's SSZ.
    pub(super) const fn request_len(self) -> BodyLen {
        match self {
            Self::StatusV1 => BodyLen::Exactly(StatusMessage::V1_LEN),
            Self::StatusV2 => BodyLen::Exactly(StatusMessage::V2_LEN),
            Self::Ping | Self::Goodbye => BodyLen::Exactly(8),
            Self::MetadataV1 | Self::MetadataV2 | Self::MetadataV3 => BodyLen::Nothing,
            Self::Data(data) => data.request_len(),
        }
    }

    /// Allowed length of a response's SSZ.
    pub(super) const fn response_len(self) -> BodyLen {
        match self {
            Self::StatusV1 => BodyLen::Exactly(StatusMessage::V1_LEN),
            Self::StatusV2 => BodyLen::Exactly(StatusMessage::V2_LEN),
            Self::Ping | Self::Goodbye => BodyLen::Exactly(8),
            Self::MetadataV1 => BodyLen::Exactly(16),
            Self::MetadataV2 => BodyLen::Exactly(17),
            Self::MetadataV3 => BodyLen::Exactly(25),
            Self::Data(_) => BodyLen::Nothing,
        }
    }
}

impl DataProtocol {
    /// All requests for data, with the preferred version first.
    pub const ALL: [Self; 12] = [
        Self::BlocksByRangeV2,
        Self::BlocksByRangeV1,
        Self::BlocksByRootV2,
        Self::BlocksByRootV1,
        Self::BlocksByHead,
        Self::BlobsByRange,
        Self::BlobsByRoot,
        Self::ColumnsByRange,
        Self::ColumnsByRoot,
        Self::EnvelopesByRange,
        Self::EnvelopesByRoot,
        Self::InclusionLists,
    ];

    const fn id(self) -> &'static str {
        match self {
            Self::BlocksByRangeV1 => "/eth2/beacon_chain/req/beacon_blocks_by_range/1/ssz_snappy",
            Self::BlocksByRangeV2 => "/eth2/beacon_chain/req/beacon_blocks_by_range/2/ssz_snappy",
            Self::BlocksByRootV1 => "/eth2/beacon_chain/req/beacon_blocks_by_root/1/ssz_snappy",
            Self::BlocksByRootV2 => "/eth2/beacon_chain/req/beacon_blocks_by_root/2/ssz_snappy",
            Self::BlocksByHead => "/eth2/beacon_chain/req/beacon_blocks_by_head/1/ssz_snappy",
            Self::BlobsByRange => "/eth2/beacon_chain/req/blob_sidecars_by_range/1/ssz_snappy",
            Self::BlobsByRoot => "/eth2/beacon_chain/req/blob_sidecars_by_root/1/ssz_snappy",
            Self::ColumnsByRange => "/eth2/beacon_chain/req/data_column_sidecars_by_range/1/ssz_snappy",
            Self::ColumnsByRoot => "/eth2/beacon_chain/req/data_column_sidecars_by_root/1/ssz_snappy",
            Self::EnvelopesByRange => "/eth2/beacon_chain/req/execution_payload_envelopes_by_range/1/ssz_snappy",
            Self::EnvelopesByRoot => "/eth2/beacon_chain/req/execution_payload_envelopes_by_root/1/ssz_snappy",
            Self::InclusionLists => "/eth2/beacon_chain/req/inclusion_lists_by_indices/1/ssz_snappy",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::BlocksByRangeV1 | Self::BlocksByRangeV2 => "blocks_by_range",
            Self::BlocksByRootV1 | Self::BlocksByRootV2 => "blocks_by_root",
            Self::BlocksByHead => "blocks_by_head",
            Self::BlobsByRange => "blobs_by_range",
            Self::BlobsByRoot => "blobs_by_root",
            Self::ColumnsByRange => "columns_by_range",
            Self::ColumnsByRoot => "columns_by_root",
            Self::EnvelopesByRange => "envelopes_by_range",
            Self::EnvelopesByRoot => "envelopes_by_root",
            Self::InclusionLists => "inclusion_lists",
        }
    }

    const fn request_len(self) -> BodyLen {
        match self {
            // `start_slot`, `count` and `step`.
            Self::BlocksByRangeV1 | Self::BlocksByRangeV2 => BodyLen::Exactly(24),
            // `MAX_REQUEST_BLOCKS` roots.
            Self::BlocksByRootV1 | Self::BlocksByRootV2 => BodyLen::AtMost(1024 * 32),
            // `root` and `count`.
            Self::BlocksByHead => BodyLen::Exactly(40),
            // `start_slot` and `count`.
            Self::BlobsByRange | Self::EnvelopesByRange => BodyLen::Exactly(16),
            // `MAX_REQUEST_BLOB_SIDECARS_ELECTRA` pairs of root and index.
            Self::BlobsByRoot => BodyLen::AtMost(1152 * 40),
            // `start_slot`, `count`, an offset, and up to 128 columns.
            Self::ColumnsByRange => BodyLen::AtMost(20 + 128 * 8),
            // `MAX_REQUEST_BLOCKS_DENEB` items, each with its offset, a root, an offset, and up to
            // 128 columns.
            Self::ColumnsByRoot => BodyLen::AtMost(128 * (4 + 36 + 128 * 8)),
            // `MAX_REQUEST_PAYLOADS` roots.
            Self::EnvelopesByRoot => BodyLen::AtMost(128 * 32),
            // `slot`, `dependent_root`, and one bit for each of 16 members.
            Self::InclusionLists => BodyLen::Exactly(42),
        }
    }
}

/// The length that a body may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLen {
    Nothing,
    Exactly(usize),
    AtMost(usize),
}

impl BodyLen {
    pub(super) const fn allows(self, len: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Exactly(wanted) => len == wanted,
            Self::AtMost(limit) => len <= limit,
        }
    }
}

/// `Status`: a node's view of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusMessage {
    pub fork_digest: ForkDigest,
    pub finalized: Checkpoint,
    pub head_root: Root,
    pub head_slot: Slot,
    /// Exists from Fulu on (status/2).
    pub earliest_available_slot: Option<Slot>,
}

impl StatusMessage {
    const V1_LEN: usize = 84;
    const V2_LEN: usize = 92;

    pub(super) fn to_ssz(self, protocol: Protocol) -> Vec<u8> {
        let mut ssz = Vec::with_capacity(Self::V2_LEN);
        ssz.extend_from_slice(&self.fork_digest.0);
        ssz.extend_from_slice(self.finalized.root.as_slice());
        ssz.extend_from_slice(&self.finalized.epoch.as_u64().to_le_bytes());
        ssz.extend_from_slice(self.head_root.as_slice());
        ssz.extend_from_slice(&self.head_slot.as_u64().to_le_bytes());
        if protocol == Protocol::StatusV2 {
            ssz.extend_from_slice(&self.earliest_available_slot.unwrap_or(self.head_slot).as_u64().to_le_bytes());
        }
        ssz
    }

    pub(super) fn from_ssz(ssz: &[u8]) -> Option<Self> {
        let (digest, rest) = ssz.split_first_chunk::<4>()?;
        let (finalized_root, rest) = rest.split_first_chunk::<32>()?;
        let (finalized_epoch, rest) = rest.split_first_chunk::<8>()?;
        let (head_root, rest) = rest.split_first_chunk::<32>()?;
        let (head_slot, rest) = rest.split_first_chunk::<8>()?;
        let earliest = rest.split_first_chunk::<8>().map(|(earliest, _)| Slot::new(u64::from_le_bytes(*earliest)));
        Some(Self {
            fork_digest: ForkDigest(*digest),
            finalized: Checkpoint { epoch: Epoch::new(u64::from_le_bytes(*finalized_epoch)), root: Root::from(*finalized_root) },
            head_root: Root::from(*head_root),
            head_slot: Slot::new(u64::from_le_bytes(*head_slot)),
            earliest_available_slot: earliest,
        })
    }
}

/// `MetaData`: the subnets to which a node is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub seq_number: u64,
    /// One bit for each attestation subnet.
    pub attnets: [u8; 8],
    /// One bit for each sync committee subnet (metadata/2).
    pub syncnets: u8,
    /// Exists in metadata/3.
    pub custody_group_count: u64,
}

impl Metadata {
    pub(super) fn to_ssz(self, protocol: Protocol) -> Vec<u8> {
        let mut ssz = self.seq_number.to_le_bytes().to_vec();
        ssz.extend_from_slice(&self.attnets);
        if matches!(protocol, Protocol::MetadataV2 | Protocol::MetadataV3) {
            ssz.push(self.syncnets);
        }
        if protocol == Protocol::MetadataV3 {
            ssz.extend_from_slice(&self.custody_group_count.to_le_bytes());
        }
        ssz
    }

    pub(super) fn from_ssz(ssz: &[u8]) -> Option<Self> {
        let (seq_number, rest) = ssz.split_first_chunk::<8>()?;
        let (attnets, rest) = rest.split_first_chunk::<8>()?;
        let custody = rest.get(1..9).and_then(|bytes| bytes.first_chunk::<8>());
        Some(Self {
            seq_number: u64::from_le_bytes(*seq_number),
            attnets: *attnets,
            syncnets: rest.first().copied().unwrap_or(0),
            custody_group_count: custody.map_or(0, |bytes| u64::from_le_bytes(*bytes)),
        })
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gossip) enum Request {
    Status(StatusMessage),
    Ping {
        seq_number: u64,
    },
    Metadata,
    Goodbye {
        code: u64,
    },
    /// A request for data. Its ranges or roots are not read, because this node keeps no data.
    Data(DataProtocol),
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gossip) enum Response {
    Status(StatusMessage),
    Pong {
        seq_number: u64,
    },
    Metadata(Metadata),
    /// The stream is closed without a chunk. This is the right answer to a goodbye, and for an
    /// empty list.
    Nothing,
    Error {
        code: u8,
        message: String,
    },
}

/// Result codes except 0, which means success.
pub(in crate::gossip) mod result_code {
    pub const RESOURCE_UNAVAILABLE: u8 = 3;
    /// The specification does not define this code, but clients use it.
    pub const RATE_LIMITED: u8 = 139;
    /// A code from the range that the specification leaves to clients. No client knows it, so each
    /// client treats it as an unknown code.
    pub const NOT_KEPT: u8 = 200;
}

/// Reasons of a goodbye.
pub(crate) mod goodbye {
    pub const CLIENT_SHUTDOWN: u64 = 1;
    pub const IRRELEVANT_NETWORK: u64 = 2;
    pub const FAULT: u64 = 3;
    pub const UNABLE_TO_VERIFY: u64 = 128;
    pub const TOO_MANY_PEERS: u64 = 129;
    pub const BAD_SCORE: u64 = 250;
    pub const BANNED: u64 = 251;
    pub const BANNED_ADDRESS: u64 = 252;

    /// Whether the peer rejects this node for some time. Each attempt to return costs further
    /// points, and some clients then ban the address together with all other nodes on it.
    pub const fn is_lasting(code: u64) -> bool {
        matches!(code, FAULT | UNABLE_TO_VERIFY | TOO_MANY_PEERS | BAD_SCORE | BANNED | BANNED_ADDRESS)
    }

    /// The reason as text. The specification defines codes 1 to 3. Higher codes have the meaning
    /// that clients give them.
    pub const fn text(code: u64) -> &'static str {
        match code {
            CLIENT_SHUTDOWN => "client shutdown",
            IRRELEVANT_NETWORK => "irrelevant network",
            FAULT => "fault or error",
            UNABLE_TO_VERIFY => "unable to verify network",
            TOO_MANY_PEERS => "too many peers",
            BAD_SCORE => "bad score",
            BANNED => "banned",
            BANNED_ADDRESS => "banned address",
            _ => "unknown reason",
        }
    }

    /// The reason as a label of metrics.
    pub const fn label(code: u64) -> &'static str {
        match code {
            CLIENT_SHUTDOWN => "client_shutdown",
            IRRELEVANT_NETWORK => "irrelevant_network",
            FAULT => "fault",
            UNABLE_TO_VERIFY => "unable_to_verify",
            TOO_MANY_PEERS => "too_many_peers",
            BAD_SCORE => "bad_score",
            BANNED => "banned",
            BANNED_ADDRESS => "banned_address",
            _ => "unknown",
        }
    }

    pub const LABELS: [&str; 9] = [
        "client_shutdown",
        "irrelevant_network",
        "fault",
        "unable_to_verify",
        "too_many_peers",
        "bad_score",
        "banned",
        "banned_address",
        "unknown",
    ];
}
