//! The result of each message, who is at fault if it is bad, and what is reported to gossipsub.

use crate::{FirstHandVote, FirstSeen, PeerBytes, Proposal, ProvenBlock, Signed, SlashingOp, Stated, Ticket, Vote};
use consensus::{Epoch, MessageKind, Root, Slot};
use std::collections::BTreeMap;

/// The result of one message. Code that matches on it has no `_` arm, so that a new variant must be
/// considered everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every signature that counts is proven. `forwardable` means that the received bytes may be
    /// forwarded as valid: each signature was proven by itself or in a random 64-bit combination,
    /// and for an aggregate the outer signatures were proven too.
    Proven { forwardable: bool },
    /// Everything in the message was proven before.
    Duplicate,
    /// The message waits for the committees of its epoch. A slashing operation inside a block waits
    /// for a registry that contains its validators. This is the only outcome that is not final.
    Parked,
    /// The message waited for its committees, and they did not become known in time.
    Expired,
    /// The bytes are not valid SSZ of their kind and fork, or the bits fit no committee, or an
    /// index belongs to no validator that can exist. The sender is at fault.
    Malformed(String),
    /// What the message is about could be read, and it cannot be proven, because this program does
    /// not know the rules of its fork. Nobody is at fault but us.
    SeenNotProvable(NotProvable),
    /// The fork's containers are not known; or the message is about a fork that has not happened
    /// yet and its signature holds with none of the versions that are possible. Such a message
    /// cannot be proven, and nobody is at fault.
    UnknownFork,
    /// The message names a validator that is not in our registry, which may be out of date. Nobody
    /// is at fault. A validator that cannot exist yet makes the message malformed instead
    /// ([`chain::Chain::may_exist`]).
    UnknownValidator,
    /// A signature is not valid. The sender is at fault.
    BadSignature,
    /// The message hit one of our own limits, which the word names. We are at fault.
    Refused(&'static str),
}

/// Why a message that could be read in part cannot be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotProvable {
    /// It is of a fork that is scheduled and that this program does not know.
    LaterFork,
    /// It is of a fork whose specification is a draft, and it does not decode. The blocks that were
    /// proven do not show that the network follows our draft.
    OtherDraft,
}

impl NotProvable {
    pub const ALL: [Self; 2] = [Self::LaterFork, Self::OtherDraft];

    /// One word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::LaterFork => "later_fork",
            Self::OtherDraft => "other_draft",
        }
    }
}

/// The reason in [`Outcome::Refused`] for a sidecar of a fork whose sidecars contain no signed
/// header.
pub const NO_SIGNED_HEADER: &str = "no_signed_header";

/// Why a vote could not wait for its committees, or could not wait any longer. See
/// [`crate::ParkingLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoRoom {
    /// Its peer already has the largest number of waiting messages that one peer may have.
    PeerMessages,
    /// Its peer already has the largest number of waiting bytes that one peer may have.
    PeerBytes,
    /// The parking place is full, and no other peer holds a larger share of it than this peer.
    Full,
    /// The vote was waiting and was removed to make room for a peer that held a smaller share.
    Evicted,
}

impl NoRoom {
    pub const ALL: [Self; 4] = [Self::PeerMessages, Self::PeerBytes, Self::Full, Self::Evicted];

    /// One word for metrics and for [`Outcome::Refused`].
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerMessages => "parked_messages_of_peer",
            Self::PeerBytes => "parked_bytes_of_peer",
            Self::Full => "parking_full",
            Self::Evicted => "parking_evicted",
        }
    }
}

/// What is reported to gossipsub about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Forward the message.
    Accept,
    /// Do not forward the message, and do not penalize the sender.
    Ignore,
    /// Do not forward the message, and penalize the sender.
    Reject,
}

impl Outcome {
    /// All labels, so that a metric can exist before its first message comes.
    pub const LABELS: [&str; 10] = [
        "proven",
        "duplicate",
        "parked",
        "expired",
        "malformed",
        "seen_not_provable",
        "unknown_fork",
        "unknown_validator",
        "bad_signature",
        "refused",
    ];

    /// One word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Proven { .. } => "proven",
            Self::Duplicate => "duplicate",
            Self::Parked => "parked",
            Self::Expired => "expired",
            Self::Malformed(_) => "malformed",
            Self::SeenNotProvable(_) => "seen_not_provable",
            Self::UnknownFork => "unknown_fork",
            Self::UnknownValidator => "unknown_validator",
            Self::BadSignature => "bad_signature",
            Self::Refused(_) => "refused",
        }
    }

    /// The verdict for gossipsub that follows from this outcome.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Proven { forwardable: true } => Verdict::Accept,
            Self::Proven { forwardable: false }
            | Self::Duplicate
            | Self::Parked
            | Self::Expired
            | Self::SeenNotProvable(_)
            | Self::UnknownFork
            | Self::UnknownValidator
            | Self::Refused(_) => Verdict::Ignore,
            Self::Malformed(_) | Self::BadSignature => Verdict::Reject,
        }
    }

    /// True for every outcome except [`Outcome::Parked`], which is followed by another outcome for
    /// the same message.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Parked => false,
            Self::Proven { .. }
            | Self::Duplicate
            | Self::Expired
            | Self::Malformed(_)
            | Self::SeenNotProvable(_)
            | Self::UnknownFork
            | Self::UnknownValidator
            | Self::BadSignature
            | Self::Refused(_) => true,
        }
    }
}

/// The outcome of one message: its ticket, its sender, the kind that it claims to be, and the
/// outcome.
pub type MessageOutcome = (Option<Ticket>, Option<PeerBytes>, MessageKind, Outcome);

/// A part of a block that gets an outcome of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InnerKind {
    Attestation,
    AttesterSlashing,
    ProposerSlashing,
    RandaoReveal,
}

impl InnerKind {
    /// One word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Attestation => "block_attestation",
            Self::AttesterSlashing => "block_attester_slashing",
            Self::ProposerSlashing => "block_proposer_slashing",
            Self::RandaoReveal => "block_randao_reveal",
        }
    }
}

/// Everything that one call of `Verifier::process` proved. The order depends only on the input and
/// the configuration, never on how threads are scheduled.
#[derive(Debug, Default)]
pub struct Verified {
    pub votes: Vec<Signed<Vote>>,
    pub proposals: Vec<Signed<Proposal>>,
    pub blocks: Vec<ProvenBlock>,
    pub slashings: Vec<SlashingOp>,
    pub statements: Vec<Signed<Stated>>,
    /// The votes of `votes` that most probably came from their publisher.
    pub first_hand: Vec<FirstHandVote>,
    /// The outcomes of the messages of this batch, and of parked messages whose waiting ended.
    pub outcomes: Vec<MessageOutcome>,
    /// The outcomes of the parts of blocks. These parts are not messages, so they are not in the
    /// sum of `outcomes`.
    pub inner: Vec<(InnerKind, Outcome)>,
    /// Number of votes by bits, those in blocks included, whose committees did not become known, by
    /// the epoch of their target.
    pub expired_in: BTreeMap<Epoch, u64>,
    /// What votes say that wait for their committees since this call. Anybody can have sent them.
    /// At most [`MAX_UNPROVEN`].
    pub unproven: Vec<UnprovenVote>,
}

/// Greatest number of unproven votes that are told of one batch.
pub const MAX_UNPROVEN: usize = 64;

/// The head that a vote names whose signers are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnprovenVote {
    pub block: Root,
    pub slot: Slot,
    pub heard: FirstSeen,
}
