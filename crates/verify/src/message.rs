//! What comes in and what comes out: messages as bytes with their origin, and the proven things made of them.

use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, ForkName, InclusionList, PayloadAttestationData, PayloadBid,
    ProposerSlashing, Root, Shuffling, SignatureBytes, SignedBlock, Slot, ValidatorIndex,
};
use std::sync::Arc;

/// Nanoseconds since the Unix epoch, taken where the bytes arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixNs(pub u64);

/// A libp2p peer id in its binary form, or a node's URL for what came by REST.
pub type PeerBytes = Arc<[u8]>;

/// Where a proven thing was first seen. A capture's entries have the kind they had when they were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// On its own gossip topic.
    Gossip,
    /// Inside a block.
    Block,
    /// Inside a slashing operation, on its topic or in a block.
    SlashingOp,
    /// From a beacon node's REST API or event stream.
    Api,
}

impl SourceKind {
    pub const ALL: [Self; 4] = [Self::Gossip, Self::Block, Self::SlashingOp, Self::Api];

    /// As written in findings' `sources`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::Block => "block",
            Self::SlashingOp => "slashing_op",
            Self::Api => "api",
        }
    }
}

/// Where a message came from and by which fork's rules it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub source: SourceKind,
    /// Who sent it, if that is known: it bears the blame for forgeries and shares of bounded places are counted by it.
    pub peer: Option<PeerBytes>,
    /// By the topic's fork digest or `Eth-Consensus-Version`. `None` from [`SourceKind::Api`]: the fork at the message's own
    /// slot; `None` from elsewhere: the digest is of no known fork.
    pub fork: Option<ForkName>,
}

/// What the bytes claim to be: the topic they came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MessageKind {
    /// `SignedBeaconBlock`.
    Block,
    /// `SignedAggregateAndProof`.
    Aggregate,
    /// What is on an attestation subnet: `Attestation` before Electra, `SingleAttestation` from Electra on.
    Attestation {
        subnet: u64,
    },
    /// A bare `Attestation` by bits at any fork: the beacon API's `attestation` event, a block's list taken apart.
    AttestationByBits,
    /// `SignedBeaconBlockHeader`: the beacon API's `headers`.
    Header,
    AttesterSlashing,
    ProposerSlashing,
    /// `BlobSidecar`, of which only the signed header is read.
    BlobSidecar {
        index: u64,
    },
    /// `DataColumnSidecar`, of which only the signed header is read.
    DataColumnSidecar {
        index: u64,
    },
    /// `PayloadAttestationMessage`, Gloas.
    PayloadAttestation,
    /// `SignedExecutionPayloadBid`, Gloas.
    PayloadBid,
    /// `SignedInclusionList`, Heze.
    InclusionList,
}

impl MessageKind {
    /// One word for metrics; without subnet or column number.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Aggregate => "aggregate",
            Self::Attestation { .. } => "attestation",
            Self::AttestationByBits => "attestation_by_bits",
            Self::Header => "header",
            Self::AttesterSlashing => "attester_slashing",
            Self::ProposerSlashing => "proposer_slashing",
            Self::BlobSidecar { .. } => "blob_sidecar",
            Self::DataColumnSidecar { .. } => "data_column_sidecar",
            Self::PayloadAttestation => "payload_attestation",
            Self::PayloadBid => "payload_bid",
            Self::InclusionList => "inclusion_list",
        }
    }

    /// All labels, for metrics that exist before their first message.
    pub const LABELS: [&str; 12] = [
        "block",
        "aggregate",
        "attestation",
        "attestation_by_bits",
        "header",
        "attester_slashing",
        "proposer_slashing",
        "blob_sidecar",
        "data_column_sidecar",
        "payload_attestation",
        "payload_bid",
        "inclusion_list",
    ];
}

/// Opaque to everyone but the source that made it: names the gossip message whose verdict is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A message as it was received: size under the limit of its kind, decompressed, otherwise unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    pub origin: Origin,
    pub kind: MessageKind,
    pub received_at: UnixNs,
    /// SSZ, already decompressed.
    pub bytes: Vec<u8>,
    pub ticket: Option<Ticket>,
}

/// When, how and from whom something was first heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub at: UnixNs,
    pub source: SourceKind,
    pub peer: Option<PeerBytes>,
}

impl Heard {
    pub fn arrival(&self) -> Arrival {
        Arrival { at: self.at, source: self.source }
    }
}

/// When and how a message came. The lesser one is the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arrival {
    pub at: UnixNs,
    pub source: SourceKind,
}

/// Equal data signed by each of `indices`; `signature` is the sum of exactly their signatures.
///
/// Before Electra at most `MAX_VALIDATORS_PER_COMMITTEE` indices, later at most that times `MAX_COMMITTEES_PER_SLOT`, so a
/// vote always fits the fork's `IndexedAttestation`.
#[derive(Clone, Debug)]
pub struct Vote {
    pub data: AttestationData,
    /// Hash-tree-root of `data`.
    pub data_root: Root,
    /// Ascending, unique, never empty.
    pub indices: Vec<ValidatorIndex>,
    /// Parallel to `indices`: of the message that carried this member's signature.
    pub arrivals: Vec<Arrival>,
    pub signature: SignatureBytes,
    /// Of `data.target.epoch`, where it is known and every member sits at `data.slot` in it.
    pub shuffling: Option<Arc<Shuffling>>,
    /// The fork whose version it is signed with, where that is not the one scheduled at its target: today's, before a fork that is to come.
    pub signed_with: Option<ForkName>,
    /// Of the earliest message in the sum.
    pub heard: Heard,
}

/// A header that its proposer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub header: BeaconBlockHeader,
    /// Hash-tree-root of `header`, the block's root.
    pub root: Root,
    pub signature: SignatureBytes,
    pub heard: Heard,
}

/// Something signed that no rule of slashing is about, and that an honest signer says once: [`Statement`] and when it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    pub statement: Statement,
    pub signature: SignatureBytes,
    pub heard: Heard,
}

/// What is said, by whom, and its hash-tree-root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    PayloadVote { validator: ValidatorIndex, data: PayloadAttestationData, root: Root },
    Bid { bid: PayloadBid, root: Root },
    InclusionList { list: InclusionList, root: Root },
}

impl Statement {
    pub fn slot(&self) -> Slot {
        match self {
            Self::PayloadVote { data, .. } => data.slot,
            Self::Bid { bid, .. } => bid.slot,
            Self::InclusionList { list, .. } => list.slot,
        }
    }

    /// What is signed, before the domain.
    pub fn root(&self) -> Root {
        match self {
            Self::PayloadVote { root, .. } | Self::Bid { root, .. } | Self::InclusionList { root, .. } => *root,
        }
    }
}

/// A block whose proposer signature is proven; its body belongs to the header by the body root.
#[derive(Clone, Debug)]
pub struct ProvenBlock {
    /// Its attestations and slashings are judged each by itself and given as votes, proposals and operations.
    pub block: SignedBlock,
    pub fork: ForkName,
    /// The randao reveal is signed too. Only then did the block extend the chain.
    pub randao_proven: bool,
    pub heard: Heard,
    /// Size of its SSZ.
    pub n_bytes: usize,
}

/// A block that carries something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inclusion {
    pub block: Root,
    pub slot: Slot,
}

/// A slashing operation every signature of which is proven. Its sides are also given as votes or proposals, unless those
/// were given before.
#[derive(Clone, Debug)]
pub struct SlashingOp {
    pub body: SlashingBody,
    /// By whose containers it is written.
    pub fork: ForkName,
    pub heard: Heard,
    /// The block that carries it; `None` for one from its topic.
    pub included_in: Option<Inclusion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlashingBody {
    Attester(Box<AttesterSlashing>),
    Proposer(Box<ProposerSlashing>),
}
