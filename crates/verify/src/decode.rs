//! Decodes bytes into containers, by kind and fork. The fork follows from the digest of the topic.
//! For a message from the REST API the fork may be missing. It then follows from the slot of the
//! message, which is at a fixed offset in every kind.

use crate::outcome::NO_SIGNED_HEADER;
use crate::{NotProvable, Outcome, RawMessage, SourceKind};
use consensus::{
    Attestation, DecodedMessage, Epoch, ForkName, MessageFields, MessageKind, Network, SignedAggregate, block_prefix,
};

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
        None if is_of_later_fork(network, message) => return Err(Outcome::SeenNotProvable(NotProvable::LaterFork)),
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

/// The epoch that a message is about, as far as it can be read without knowing its fork. A vote
/// must be long enough to name its attester too.
fn epoch_of(network: &Network, message: &RawMessage) -> Option<Epoch> {
    let slot = if message.kind == MessageKind::Block { block_prefix(&message.bytes)?.slot } else { message.fields().slot()? };
    if let MessageKind::Attestation { .. } = message.kind {
        message.fields().validator()?;
    }
    Some(slot.epoch(network.preset()))
}

/// Writes what can be read of a message that cannot be proven into the log.
pub(crate) fn log_not_provable(kind: MessageKind, bytes: &[u8]) {
    let fields = MessageFields::of(kind, None, bytes);
    let block = block_prefix(bytes).filter(|_| kind == MessageKind::Block);
    let slot = block.map(|block| block.slot).or_else(|| fields.slot());
    let (proposer, parent) = (block.map(|block| block.proposer_index), block.map(|block| block.parent_root));
    let attester = fields.validator();
    tracing::debug!(?kind, ?slot, ?proposer, ?parent, ?attester, "a message that cannot be proven");
}

/// Whether a message whose fork is not known begins like one of a scheduled fork that this program
/// does not know, and names a slot of it.
fn is_of_later_fork(network: &Network, message: &RawMessage) -> bool {
    let has_later_forks = !network.spec.later_forks.is_empty();
    has_later_forks && epoch_of(network, message).is_some_and(|epoch| network.spec.later_fork_at(epoch).is_some())
}

/// Whether a message that does not decode may be one of another draft of its fork: the fork is a
/// draft, and what can be read of the message is a slot of that fork.
pub(crate) fn may_be_of_other_draft(network: &Network, message: &RawMessage) -> bool {
    let Some(fork) = message.origin.fork.filter(|fork| fork.is_draft()) else { return false };
    epoch_of(network, message).is_some_and(|epoch| network.spec.fork_name_at(epoch) == fork)
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
