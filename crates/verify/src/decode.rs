//! Decodes bytes into containers, by kind and fork. The fork follows from the digest of the topic.
//! For a message from the REST API the fork may be missing. It then follows from the slot of the
//! message, which is at a fixed offset in every kind.

use crate::outcome::NO_SIGNED_HEADER;
use crate::{Outcome, RawMessage, SourceKind};
use consensus::{Attestation, DecodedMessage, ForkName, MessageFields, MessageKind, Network, SignedAggregate};

/// A vote that selects members of committees by bits.
#[derive(Clone, Debug)]
pub(crate) enum VoteByBits {
    Alone(Box<Attestation>),
    /// With what its aggregator signed around it.
    Aggregate(Box<SignedAggregate>),
}

impl VoteByBits {
    pub(crate) fn attestation(&self) -> &Attestation {
        match self {
            Self::Alone(attestation) => attestation,
            Self::Aggregate(signed) => &signed.aggregate,
        }
    }

    /// The parts around the attestation. They matter only for forwarding.
    pub(crate) fn aggregate(&self) -> Option<&SignedAggregate> {
        match self {
            Self::Alone(_) => None,
            Self::Aggregate(signed) => Some(signed),
        }
    }
}

/// Decodes one message, and tells its fork. `Err` contains the outcome of a message that cannot be
/// decoded.
pub(crate) fn decode(network: &Network, message: &RawMessage) -> Result<(DecodedMessage, ForkName), Outcome> {
    let fork = match message.origin.fork {
        Some(fork) => fork,
        None => fork_by_slot(network, message)?,
    };
    match message.kind {
        // Sidecars contain no header since Gloas. There is nothing to prove, and the sender did
        // nothing wrong.
        MessageKind::BlobSidecar { .. } | MessageKind::DataColumnSidecar { .. } if fork >= ForkName::Gloas => {
            Err(Outcome::Refused(NO_SIGNED_HEADER))
        }
        kind => match kind.decode(fork, network.preset(), &message.bytes) {
            Ok(decoded) => Ok((decoded, fork)),
            Err(error) => Err(Outcome::Malformed(error.to_string())),
        },
    }
}

/// The fork at the slot that the message names. This is allowed only for our own node's REST API,
/// because other senders are not trusted to send a message of that fork.
fn fork_by_slot(network: &Network, message: &RawMessage) -> Result<ForkName, Outcome> {
    match (message.origin.source, message.kind) {
        (
            SourceKind::Api,
            MessageKind::Block
            | MessageKind::Aggregate
            | MessageKind::Attestation { .. }
            | MessageKind::AttestationByBits
            | MessageKind::Header
            | MessageKind::AttesterSlashing
            | MessageKind::ProposerSlashing,
        ) => {}
        (
            SourceKind::Api,
            MessageKind::BlobSidecar { .. }
            | MessageKind::DataColumnSidecar { .. }
            | MessageKind::PayloadAttestation
            | MessageKind::PayloadBid
            | MessageKind::InclusionList,
        )
        | (SourceKind::Gossip | SourceKind::Block | SourceKind::SlashingOp, _) => return Err(Outcome::UnknownFork),
    }
    let fork_at = |assumed: Option<ForkName>| {
        let slot = MessageFields::of(message.kind, assumed, &message.bytes).slot()?;
        Some(network.spec.fork_name_at(slot.epoch(network.preset())))
    };
    // A vote of 240 bytes is read as a single one first. If the fork at that slot has none, it is a
    // vote by bits, and its slot is elsewhere.
    fork_at(None)
        .and_then(|fork| fork_at(Some(fork)))
        .ok_or_else(|| Outcome::Malformed("too short to name its slot; ask its sender for all of it".into()))
}
