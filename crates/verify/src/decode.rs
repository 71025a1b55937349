//! Decodes bytes into containers, by kind and fork. The fork follows from the digest of the topic.
//! For a message from the REST API the fork may be missing. It then follows from the slot of the
//! message, which is at a fixed offset in every kind.

use crate::outcome::NO_SIGNED_HEADER;
use crate::{MessageKind, Outcome, RawMessage, SourceKind, Statement};
use consensus::{
    Attestation, AttestationData, AttesterSlashing, DecodeError, ForkName, Network, PayloadAttestationMessage, ProposerSlashing,
    SidecarKind, SignatureBytes, SignedAggregate, SignedBeaconBlockHeader, SignedBlock, SignedInclusionList, SignedPayloadBid,
    SingleAttestation, Slot, ValidatorIndex, sidecar_header,
};

/// A well-formed message.
#[derive(Clone, Debug)]
pub(crate) enum Decoded {
    Block(Box<SignedBlock>, ForkName),
    Header(SignedBeaconBlockHeader),
    Vote(VoteMessage),
    AttesterSlashing(Box<AttesterSlashing>, ForkName),
    ProposerSlashing(Box<ProposerSlashing>, ForkName),
    Statement(Statement, SignatureBytes),
}

/// A vote in the form in which it was sent.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one: 31 000 a slot, not worth an allocation each")]
pub(crate) enum VoteMessage {
    /// The vote contains the index of its validator.
    Named(SingleAttestation),
    /// The vote contains bits that select members of committees.
    ByBits { attestation: Box<Attestation>, aggregator: Option<Box<Aggregator>> },
}

/// The parts of a `SignedAggregateAndProof` around the aggregate. They matter only for forwarding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aggregator {
    pub(crate) index: ValidatorIndex,
    pub(crate) selection_proof: SignatureBytes,
    pub(crate) signature: SignatureBytes,
    pub(crate) message_root: consensus::Root,
}

impl VoteMessage {
    pub(crate) fn data(&self) -> &AttestationData {
        match self {
            Self::Named(single) => &single.data,
            Self::ByBits { attestation, .. } => &attestation.data,
        }
    }
}

/// Decodes one message. `Err` contains the outcome of a message that cannot be decoded.
pub(crate) fn decode(network: &Network, message: &RawMessage) -> Result<Decoded, Outcome> {
    let bytes = message.bytes.as_slice();
    let preset = network.preset();
    let fork = match message.origin.fork {
        Some(fork) => fork,
        None => fork_by_slot(network, message)?,
    };
    match message.kind {
        MessageKind::Block => SignedBlock::from_ssz(fork, preset, bytes).map(|block| Decoded::Block(Box::new(block), fork)),
        MessageKind::Aggregate => SignedAggregate::from_ssz(fork, preset, bytes).map(|signed| {
            Decoded::Vote(VoteMessage::ByBits {
                attestation: Box::new(signed.aggregate),
                aggregator: Some(Box::new(Aggregator {
                    index: signed.aggregator_index,
                    selection_proof: signed.selection_proof,
                    signature: signed.signature,
                    message_root: signed.message_root,
                })),
            })
        }),
        MessageKind::Attestation { .. } if fork.has_single_attestations() => {
            SingleAttestation::from_ssz(bytes).map(|single| Decoded::Vote(VoteMessage::Named(single)))
        }
        MessageKind::Attestation { .. } | MessageKind::AttestationByBits => Attestation::from_ssz(fork, preset, bytes)
            .map(|attestation| Decoded::Vote(VoteMessage::ByBits { attestation: Box::new(attestation), aggregator: None })),
        MessageKind::Header => SignedBeaconBlockHeader::from_ssz(bytes).map(Decoded::Header),
        MessageKind::AttesterSlashing => {
            AttesterSlashing::from_ssz(fork, preset, bytes).map(|slashing| Decoded::AttesterSlashing(Box::new(slashing), fork))
        }
        MessageKind::ProposerSlashing => {
            ProposerSlashing::from_ssz(bytes).map(|slashing| Decoded::ProposerSlashing(Box::new(slashing), fork))
        }
        // Sidecars contain no header since Gloas. There is nothing to prove, and the sender did
        // nothing wrong.
        MessageKind::BlobSidecar { .. } | MessageKind::DataColumnSidecar { .. } if fork >= ForkName::Gloas => {
            return Err(Outcome::Refused(NO_SIGNED_HEADER));
        }
        MessageKind::BlobSidecar { .. } => sidecar_header(fork, preset, SidecarKind::Blob, bytes).map(Decoded::Header),
        MessageKind::DataColumnSidecar { .. } => {
            sidecar_header(fork, preset, SidecarKind::DataColumn, bytes).map(Decoded::Header)
        }
        MessageKind::PayloadAttestation => PayloadAttestationMessage::from_ssz(fork, preset, bytes).map(|message| {
            let PayloadAttestationMessage { validator_index: validator, data, data_root: root, signature } = message;
            Decoded::Statement(Statement::PayloadVote { validator, data, root }, signature)
        }),
        MessageKind::PayloadBid => SignedPayloadBid::from_ssz(fork, preset, bytes)
            .map(|bid| Decoded::Statement(Statement::Bid { bid: bid.message, root: bid.root }, bid.signature)),
        MessageKind::InclusionList => SignedInclusionList::from_ssz(fork, preset, bytes).map(|signed| {
            Decoded::Statement(Statement::InclusionList { list: signed.message, root: signed.root }, signed.signature)
        }),
    }
    .map_err(malformed)
}

fn malformed(error: DecodeError) -> Outcome {
    Outcome::Malformed(error.to_string())
}

/// The fork at the slot that the message names. This is allowed only for our own node's REST API,
/// because other senders are not trusted to send a message of that fork.
fn fork_by_slot(network: &Network, message: &RawMessage) -> Result<ForkName, Outcome> {
    match message.origin.source {
        SourceKind::Api => {}
        SourceKind::Gossip | SourceKind::Block | SourceKind::SlashingOp => return Err(Outcome::UnknownFork),
    }
    let fork_at = |offset: usize| {
        let bytes = message.bytes.get(offset..offset + 8)?;
        let slot = Slot::new(u64::from_le_bytes(bytes.try_into().ok()?));
        Some(network.spec.fork_name_at(slot.epoch(network.preset())))
    };
    let by_bits = || fork_at(4);
    match message.kind {
        MessageKind::Block => fork_at(100),
        MessageKind::Aggregate => fork_at(212),
        MessageKind::Attestation { .. } if message.bytes.len() == SingleAttestation::SSZ_LEN => {
            fork_at(16).filter(|fork| fork.has_single_attestations()).or_else(by_bits)
        }
        MessageKind::Attestation { .. } | MessageKind::AttestationByBits => by_bits(),
        MessageKind::Header | MessageKind::ProposerSlashing => fork_at(0),
        MessageKind::AttesterSlashing => fork_at(12),
        MessageKind::BlobSidecar { .. }
        | MessageKind::DataColumnSidecar { .. }
        | MessageKind::PayloadAttestation
        | MessageKind::PayloadBid
        | MessageKind::InclusionList => return Err(Outcome::UnknownFork),
    }
    .ok_or_else(|| Outcome::Malformed("too short to name its slot; ask its sender for all of it".into()))
}
