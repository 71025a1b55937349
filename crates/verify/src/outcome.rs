//! What became of a message, whose fault it is, and what gossip is told.

use crate::{MessageKind, PeerBytes, Proposal, ProvenBlock, Signed, SlashingOp, Stated, Ticket, Vote};

/// What became of one message. No `_` arms where it is matched: a new case must be thought through everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every signature that counts is proven. `forwardable`: by itself or in a random 64-bit combination, and (aggregates)
    /// the outer signatures too, so that the very bytes may be passed on as valid.
    Proven { forwardable: bool },
    /// All of it was proven before.
    Duplicate,
    /// Waits for the committees of its epoch; a slashing in a block, for a registry that knows its validators. The only outcome that is
    /// not final.
    Parked,
    /// Waited, and its committees never came.
    Expired,
    /// Not the SSZ of its kind and fork, bits that no committee has, or an index that no validator can have. The sender's fault.
    Malformed(String),
    /// Of a fork whose containers are not known, or about a fork that is still to come and signed with no version that may hold: seen, not
    /// provable. Nobody's fault.
    UnknownFork,
    /// Names a validator that is not in our registry, which may be old. Nobody's fault. One that cannot exist by now is malformed
    /// ([`chain::Chain::may_exist`]).
    UnknownValidator,
    /// Somebody did not sign this. The sender's fault.
    BadSignature,
    /// A bound of ours was hit, in one word. Our fault.
    Refused(&'static str),
}

/// [`Outcome::Refused`]: sidecars of this fork carry no signed header.
pub const NO_SIGNED_HEADER: &str = "no_signed_header";

/// Why a vote could not wait for its committees, or not any longer. See [`crate::ParkingLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoRoom {
    /// Its peer has as many messages waiting as one may have.
    PeerMessages,
    /// Its peer has as many bytes waiting as one may have.
    PeerBytes,
    /// The place is full, and nobody holds a larger share of it than this peer.
    Full,
    /// It waited, and made room for a peer that held less.
    Evicted,
}

impl NoRoom {
    pub const ALL: [Self; 4] = [Self::PeerMessages, Self::PeerBytes, Self::Full, Self::Evicted];

    /// One word for metrics, and for [`Outcome::Refused`].
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerMessages => "parked_messages_of_peer",
            Self::PeerBytes => "parked_bytes_of_peer",
            Self::Full => "parking_full",
            Self::Evicted => "parking_evicted",
        }
    }
}

/// What gossip is told about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Forward it.
    Accept,
    /// Neither forward it nor blame the sender.
    Ignore,
    /// Do not forward it, and blame the sender.
    Reject,
}

impl Outcome {
    /// All labels, for metrics that exist before their first message.
    pub const LABELS: [&str; 9] = [
        "proven",
        "duplicate",
        "parked",
        "expired",
        "malformed",
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
            Self::UnknownFork => "unknown_fork",
            Self::UnknownValidator => "unknown_validator",
            Self::BadSignature => "bad_signature",
            Self::Refused(_) => "refused",
        }
    }

    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Proven { forwardable: true } => Verdict::Accept,
            Self::Proven { forwardable: false }
            | Self::Duplicate
            | Self::Parked
            | Self::Expired
            | Self::UnknownFork
            | Self::UnknownValidator
            | Self::Refused(_) => Verdict::Ignore,
            Self::Malformed(_) | Self::BadSignature => Verdict::Reject,
        }
    }

    /// All but [`Outcome::Parked`], which is followed by another one for the same message.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Parked => false,
            Self::Proven { .. }
            | Self::Duplicate
            | Self::Expired
            | Self::Malformed(_)
            | Self::UnknownFork
            | Self::UnknownValidator
            | Self::BadSignature
            | Self::Refused(_) => true,
        }
    }
}

/// One message's outcome: whose ticket, who sent it, what it claimed to be, what became of it.
pub type MessageOutcome = (Option<Ticket>, Option<PeerBytes>, MessageKind, Outcome);

/// What a block carries that is judged on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InnerKind {
    Attestation,
    AttesterSlashing,
    ProposerSlashing,
    RandaoReveal,
}

impl InnerKind {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Attestation => "block_attestation",
            Self::AttesterSlashing => "block_attester_slashing",
            Self::ProposerSlashing => "block_proposer_slashing",
            Self::RandaoReveal => "block_randao_reveal",
        }
    }
}

/// What one call of `Verifier::process` proved. The order depends on the input and the configuration only, never on threads.
#[derive(Debug, Default)]
pub struct Verified {
    pub votes: Vec<Signed<Vote>>,
    pub proposals: Vec<Signed<Proposal>>,
    pub blocks: Vec<ProvenBlock>,
    pub slashings: Vec<SlashingOp>,
    pub statements: Vec<Signed<Stated>>,
    /// Of this batch's messages, and of parked ones whose waiting ended.
    pub outcomes: Vec<MessageOutcome>,
    /// Of what blocks carry. Not messages, so not part of the sum of `outcomes`.
    pub inner: Vec<(InnerKind, Outcome)>,
}
