//! The input and the output of this crate: messages as bytes with their origin, and the proven
//! things that are made of them.

use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Epoch, ForkName, InclusionList, MessageFields, MessageKind,
    PayloadAttestationData, PayloadBid, ProposerSlashing, Root, Shuffling, SignatureBytes, SignedBlock, Slot, ValidatorIndex,
};
use std::ops::Deref;
use std::sync::Arc;

/// When something was received. The time is taken where the bytes arrived.
pub use base::Time;

/// A libp2p peer id in its binary form. For what came by REST, the URL of the node.
pub type PeerBytes = Arc<[u8]>;

/// Where a proven thing was first seen. The entries of a capture have the kind that they had when
/// they were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// It was seen on its own gossip topic.
    Gossip,
    /// It was inside a block.
    Block,
    /// It was inside a slashing operation, which came on its own topic or in a block.
    SlashingOp,
    /// It came from a beacon node's REST API or event stream.
    Api,
}

impl SourceKind {
    pub const ALL: [Self; 4] = [Self::Gossip, Self::Block, Self::SlashingOp, Self::Api];

    /// The word for this kind in the field `sources` of findings.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::Block => "block",
            Self::SlashingOp => "slashing_op",
            Self::Api => "api",
        }
    }
}

/// Where a message came from, and by which fork's rules it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub source: SourceKind,
    /// The sender, if it is known. It is blamed for forged messages, and its share of bounded
    /// caches and queues is counted under this id.
    pub peer: Option<PeerBytes>,
    /// The fork, from the fork digest of the topic or from the header `Eth-Consensus-Version`.
    /// `None` from [`SourceKind::Api`] means the fork that is scheduled at the message's own slot.
    /// `None` from any other source means that the digest belongs to no known fork.
    pub fork: Option<ForkName>,
    /// Whether `peer` was subscribed to the message's topic when it sent it. `None` if that is not
    /// known, or does not matter for messages of this kind.
    pub subscribed: Option<bool>,
}

/// Identifies the gossip message whose verdict is reported. Only the source that made a ticket
/// knows what the number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a message consists of, before its size is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageParts {
    pub origin: Origin,
    pub kind: MessageKind,
    pub received_at: Time,
    /// The message's SSZ, already decompressed.
    pub bytes: Vec<u8>,
    pub ticket: Option<Ticket>,
}

/// A message as it was received. It is decompressed, and it has no more bytes than a message of its
/// kind and fork may have, because [`RawMessage::new`] is the only constructor. Nothing else about
/// it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage(MessageParts);

/// A message has more bytes than its kind may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes of SSZ, a message of its kind has at most {limit}; its sender is at fault")]
pub struct MessageTooLong {
    pub len: usize,
    pub limit: usize,
}

impl RawMessage {
    /// Only the crate `sources` and tests call this.
    pub fn new(parts: MessageParts) -> Result<Self, MessageTooLong> {
        let (len, limit) = (parts.bytes.len(), parts.kind.max_ssz_len(parts.origin.fork));
        if len > limit { Err(MessageTooLong { len, limit }) } else { Ok(Self(parts)) }
    }

    /// Whether it came with a fork digest that belongs to no fork that this program knows. Nothing
    /// in such a message can be proven. A node of our own may leave the fork to the message's slot.
    pub fn has_unknown_fork(&self) -> bool {
        self.origin.fork.is_none() && self.origin.source != SourceKind::Api
    }

    pub fn into_parts(self) -> MessageParts {
        self.0
    }

    /// The same message with another time of arrival, for a replay that keeps time itself.
    pub fn arrived_at(self, received_at: Time) -> Self {
        Self(MessageParts { received_at, ..self.0 })
    }

    /// The same message with a ticket, by which its outcome is recognised.
    pub fn with_ticket(self, ticket: Ticket) -> Self {
        Self(MessageParts { ticket: Some(ticket), ..self.0 })
    }

    /// The same message with other parts, for tests. Panics if it is then too long.
    #[cfg(feature = "test-support")]
    pub fn changed(&self, change: impl FnOnce(&mut MessageParts)) -> Self {
        let mut parts = self.0.clone();
        change(&mut parts);
        Self::new(parts).expect("a test's message is not longer than its kind allows")
    }

    /// The fields that can be read before the message is decoded.
    pub fn fields(&self) -> MessageFields<'_> {
        MessageFields::of(self.kind, self.origin.fork, &self.bytes)
    }
}

impl Deref for RawMessage {
    type Target = MessageParts;

    fn deref(&self) -> &MessageParts {
        &self.0
    }
}

/// When, how and from whom something was first received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstSeen {
    pub at: Time,
    pub source: SourceKind,
    pub peer: Option<PeerBytes>,
}

impl FirstSeen {
    pub fn arrival(&self) -> Arrival {
        Arrival { at: self.at, source: self.source }
    }
}

/// When and how a message arrived. The smaller of two values is the earlier arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arrival {
    pub at: Time,
    pub source: SourceKind,
}

/// The same attestation data signed by each of `indices`. `signature` is the sum of exactly their
/// signatures.
///
/// Before Electra a vote has at most `MAX_VALIDATORS_PER_COMMITTEE` indices, later at most that
/// number times `MAX_COMMITTEES_PER_SLOT`. So a vote always fits into the fork's
/// `IndexedAttestation`.
#[derive(Clone, Debug)]
pub struct Vote {
    pub data: AttestationData,
    /// Hash-tree-root of `data`.
    pub data_root: Root,
    /// In ascending order, without repetition, never empty.
    pub indices: Vec<ValidatorIndex>,
    /// The arrivals in the same order as `indices`. Each one is the arrival of the message that
    /// carried this member's signature.
    pub arrivals: Vec<Arrival>,
    pub signature: SignatureBytes,
    /// The shuffling of `data.target.epoch`. It is `Some` only if the shuffling is known and every
    /// member has its committee at `data.slot` in it.
    pub shuffling: Option<Arc<Shuffling>>,
    /// The fork whose version the vote is signed with, if that is not the fork that is scheduled at
    /// its target. This happens before a scheduled fork takes effect: the vote is then signed with
    /// today's version.
    pub signed_with: Option<ForkName>,
    /// The earliest message in the sum.
    pub heard: FirstSeen,
}

/// A vote that came first from a peer that was not subscribed to its subnet. Peers forward messages
/// only on topics that they are subscribed to, so this peer most probably published the vote
/// itself.
///
/// It is made only of a single vote that names its validator, that nothing proved before, and that
/// an honest peer could have published: on the subnet of its committee, in time, on a known branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstHandVote {
    pub validator: ValidatorIndex,
    pub slot: Slot,
    /// The epoch of the vote's target.
    pub epoch: Epoch,
    pub peer: PeerBytes,
}

/// A header that its proposer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub header: BeaconBlockHeader,
    /// Hash-tree-root of `header`, the block's root.
    pub root: Root,
    pub signature: SignatureBytes,
    pub heard: FirstSeen,
}

/// A signed message that no slashing rule covers, although an honest signer sends only one of its
/// kind. It consists of the [`Statement`], its signature and its first arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    pub statement: Statement,
    pub signature: SignatureBytes,
    pub heard: FirstSeen,
}

/// The content of the message, its signer and its hash-tree-root.
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

    /// The hash-tree-root that is signed, before the domain is mixed in.
    pub fn root(&self) -> Root {
        match self {
            Self::PayloadVote { root, .. } | Self::Bid { root, .. } | Self::InclusionList { root, .. } => *root,
        }
    }
}

/// A block whose proposer's signature is proven. The body belongs to the header because the header
/// contains the body's root.
#[derive(Clone, Debug)]
pub struct ProvenBlock {
    /// The attestations and slashings in the block are proven one by one, and they are returned
    /// separately as votes, proposals and operations.
    pub block: SignedBlock,
    pub fork: ForkName,
    /// True if the randao reveal is proven as well. Only then did the block extend the chain.
    pub randao_proven: bool,
    pub heard: FirstSeen,
    /// Size of the block's SSZ, in bytes.
    pub n_bytes: usize,
    /// The block as it was received.
    pub ssz: Vec<u8>,
}

/// The block that contains something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inclusion {
    pub block: Root,
    pub slot: Slot,
}

/// A slashing operation in which every signature is proven. Its sides are also returned as votes
/// or proposals, unless they were returned before.
#[derive(Clone, Debug)]
pub struct SlashingOp {
    pub body: SlashingBody,
    /// The fork whose containers it is encoded with.
    pub fork: ForkName,
    pub heard: FirstSeen,
    /// The block that contains it. `None` for an operation that came on its own topic.
    pub included_in: Option<Inclusion>,
}

/// The content of a slashing operation, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlashingBody {
    Attester(Box<AttesterSlashing>),
    Proposer(Box<ProposerSlashing>),
}
