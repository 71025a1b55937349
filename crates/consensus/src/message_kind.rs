//! The kinds of signed messages that are read, and everything that is known of a kind before one of
//! its messages is decoded: the table is `MessageKind::facts`.
//!
//! A new kind is a variant, a row, and its place in [`MessageKind::ALL`] and
//! [`MessageKind::decode`]. The compiler then names the places that do something with it.
//!
//! Source: consensus-specs, `*/p2p-interface.md` ("Topics and messages").

use crate::{
    Attestation, AttestationData, AttesterSlashing, DecodeError, ForkName, MAX_SIGNED_INCLUSION_LIST_SIZE,
    PayloadAttestationMessage, Preset, ProposerSlashing, SidecarKind, SignedAggregate, SignedBeaconBlockHeader, SignedBlock,
    SignedInclusionList, SignedPayloadBid, SingleAttestation, Slot, ValidatorIndex, sidecar_header,
};

/// `ATTESTATION_SUBNET_COUNT`, which is the same on every network.
pub const ATTESTATION_SUBNET_COUNT: u64 = 64;
/// `DATA_COLUMN_SIDECAR_SUBNET_COUNT`, which is the same on every network.
pub const DATA_COLUMN_SIDECAR_SUBNET_COUNT: u64 = 128;
/// `MAXIMUM_GOSSIP_CLOCK_DISPARITY`, in nanoseconds.
pub const MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS: u64 = 500_000_000;
/// `MAX_PAYLOAD_SIZE`: the greatest decompressed size, in bytes, of any gossip message or request.
pub const MAX_PAYLOAD_SIZE: usize = 10 << 20;

/// What the bytes of a message claim to be, which follows from the topic that they came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MessageKind {
    /// `SignedBeaconBlock`.
    Block,
    /// `SignedAggregateAndProof`.
    Aggregate,
    /// What is published on an attestation subnet: `Attestation` before Electra,
    /// `SingleAttestation` from Electra on.
    Attestation {
        subnet: u64,
    },
    /// An `Attestation` with aggregation bits, alone, at any fork. It comes from the beacon API's
    /// `attestation` event, or from the list of attestations of a block.
    AttestationByBits,
    /// `SignedBeaconBlockHeader`, from the beacon API's `headers` endpoint.
    Header,
    AttesterSlashing,
    ProposerSlashing,
    /// `BlobSidecar`. Only the signed header in it is read.
    BlobSidecar {
        index: u64,
    },
    /// `DataColumnSidecar`. Only the signed header in it is read.
    DataColumnSidecar {
        index: u64,
    },
    /// `PayloadAttestationMessage`, from Gloas on.
    PayloadAttestation,
    /// `SignedExecutionPayloadBid`, from Gloas on.
    PayloadBid,
    /// `SignedInclusionList`, from Heze on.
    InclusionList,
}

/// One row of the table of kinds.
struct KindFacts {
    /// One word for metrics, without the number of the subnet or column.
    label: &'static str,
    /// The name of its gossip topics. If it ends in `_`, a number follows. `None` for kinds that
    /// only the beacon API has.
    topic: Option<&'static str>,
    /// The first and the last fork at which its topics are read.
    forks: (ForkName, ForkName),
    /// Greatest number of SSZ bytes of a message. It follows from the containers.
    max_ssz_len: usize,
    offsets: Offsets,
}

/// Where fields are in the SSZ of a message, in bytes from its beginning. They are at the same
/// place in every fork of the kind.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// The slot that the message is about. For a slashing operation it is that of the first side.
    slot: usize,
    /// The validator that signed: the voter or the proposer. `None` for votes by bits, for lists of
    /// signers, and for builders.
    validator: Option<usize>,
    /// The `AttestationData`. For a slashing operation it is that of the first side.
    data: Option<usize>,
    /// The first `SignedBeaconBlockHeader`.
    header: Option<usize>,
}

impl Offsets {
    /// The offsets of a message whose `AttestationData` is at `data`.
    const fn of_data(data: usize) -> Self {
        Self { slot: data, validator: None, data: Some(data), header: None }
    }

    /// The offsets of a message whose signed header is at `header`.
    const fn of_header(header: usize) -> Self {
        Self { slot: header, validator: Some(header + 8), data: None, header: Some(header) }
    }

    /// `SingleAttestation`: committee index 8, validator 8, data.
    const SINGLE_ATTESTATION: Self = Self { validator: Some(8), ..Self::of_data(16) };
    /// `Attestation`: offset 4, data.
    const ATTESTATION: Self = Self::of_data(4);
    /// Offset 4, signature 96, slot 8, validator: in a `SignedBeaconBlock` and in a
    /// `SignedInclusionList`.
    const SLOT_AND_SIGNER: Self = Self { slot: 100, validator: Some(108), data: None, header: None };
}

impl MessageKind {
    /// All kinds, with the number 0 where they have one.
    pub const ALL: [Self; 12] = [
        Self::Block,
        Self::Aggregate,
        Self::Attestation { subnet: 0 },
        Self::AttestationByBits,
        Self::Header,
        Self::AttesterSlashing,
        Self::ProposerSlashing,
        Self::BlobSidecar { index: 0 },
        Self::DataColumnSidecar { index: 0 },
        Self::PayloadAttestation,
        Self::PayloadBid,
        Self::InclusionList,
    ];

    /// The row of this kind.
    const fn facts(self) -> KindFacts {
        use ForkName::{Deneb, Electra, Fulu, Gloas, Heze, Phase0};
        match self {
            Self::Block => KindFacts {
                label: "block",
                topic: Some("beacon_block"),
                forks: (Phase0, Heze),
                max_ssz_len: MAX_PAYLOAD_SIZE,
                offsets: Offsets::SLOT_AND_SIGNER,
            },
            Self::Aggregate => KindFacts {
                label: "aggregate",
                topic: Some("beacon_aggregate_and_proof"),
                forks: (Phase0, Heze),
                // One bit for each of a slot's 131 072 committee members takes 16 kB. The rest
                // takes less than 500 bytes.
                max_ssz_len: 20 << 10,
                // Offset 4, signature 96, aggregator 8, offset 4, selection proof 96, offset 4.
                offsets: Offsets::of_data(212),
            },
            Self::Attestation { .. } => KindFacts {
                label: "attestation",
                topic: Some("beacon_attestation_"),
                forks: (Phase0, Heze),
                // Before Electra: 2 048 bits and 228 other bytes. See `max_ssz_len` for later
                // forks.
                max_ssz_len: 512,
                offsets: Offsets::ATTESTATION,
            },
            Self::AttestationByBits => KindFacts {
                label: "attestation_by_bits",
                topic: None,
                forks: (Phase0, Heze),
                max_ssz_len: 20 << 10,
                offsets: Offsets::ATTESTATION,
            },
            Self::Header => KindFacts {
                label: "header",
                topic: None,
                forks: (Phase0, Heze),
                max_ssz_len: SignedBeaconBlockHeader::SSZ_LEN,
                offsets: Offsets::of_header(0),
            },
            Self::AttesterSlashing => KindFacts {
                label: "attester_slashing",
                topic: Some("attester_slashing"),
                forks: (Phase0, Heze),
                // Two lists of 131 072 indices with 8 bytes each, and the fixed fields.
                max_ssz_len: (2 << 20) + 1024,
                // Two offsets of 4, and the first side's own offset of 4.
                offsets: Offsets::of_data(12),
            },
            Self::ProposerSlashing => KindFacts {
                label: "proposer_slashing",
                topic: Some("proposer_slashing"),
                forks: (Phase0, Heze),
                max_ssz_len: ProposerSlashing::SSZ_LEN,
                offsets: Offsets::of_header(0),
            },
            Self::BlobSidecar { .. } => KindFacts {
                label: "blob_sidecar",
                topic: Some("blob_sidecar_"),
                forks: (Deneb, Electra),
                // A blob of 131 072 bytes. Proofs and header take less than 1 kB.
                max_ssz_len: (128 << 10) + 4096,
                // Index 8, the blob, commitment and proof of 48 each.
                offsets: Offsets::of_header(8 + 131_072 + 96),
            },
            Self::DataColumnSidecar { .. } => KindFacts {
                label: "data_column_sidecar",
                topic: Some("data_column_sidecar_"),
                // From Gloas on, sidecars do not contain a signed header.
                forks: (Fulu, Fulu),
                // 2 144 bytes for each blob. This allows 480 blobs in a block; the schedule allows
                // 21.
                max_ssz_len: 1 << 20,
                // Index 8, three offsets of 4.
                offsets: Offsets::of_header(20),
            },
            Self::PayloadAttestation => KindFacts {
                label: "payload_attestation",
                topic: Some("payload_attestation_message"),
                forks: (Gloas, Heze),
                max_ssz_len: PayloadAttestationMessage::SSZ_LEN,
                // Validator 8, block root 32.
                offsets: Offsets { slot: 40, validator: Some(0), data: None, header: None },
            },
            Self::PayloadBid => KindFacts {
                label: "payload_bid",
                topic: Some("execution_payload_bid"),
                forks: (Gloas, Heze),
                // 48 bytes for each blob commitment, and less than 500 bytes for the rest. No block
                // will ever have 4 096 blobs.
                max_ssz_len: 500 + 48 * 4096,
                // Offset 4, signature 96, four roots, fee recipient 20, gas limit 8, builder 8. A
                // builder signs it, and builder indices are not validator indices.
                offsets: Offsets { slot: 4 + 96 + 4 * 32 + 36, validator: None, data: None, header: None },
            },
            Self::InclusionList => KindFacts {
                label: "inclusion_list",
                topic: Some("inclusion_list"),
                forks: (Heze, Heze),
                max_ssz_len: MAX_SIGNED_INCLUSION_LIST_SIZE,
                offsets: Offsets::SLOT_AND_SIGNER,
            },
        }
    }

    /// One word for metrics, without the number of the subnet or column.
    pub const fn label(self) -> &'static str {
        self.facts().label
    }

    /// All labels, so that a metric can exist before its first message comes.
    pub const LABELS: [&'static str; Self::ALL.len()] = {
        let mut labels = [""; Self::ALL.len()];
        let mut nth = 0;
        while nth < labels.len() {
            labels[nth] = Self::ALL[nth].label();
            nth += 1;
        }
        labels
    };

    /// Whether a message of this length on an attestation subnet is a `SingleAttestation`. Before
    /// Electra a vote by bits of a committee of 88 to 95 members has the same length, so the fork
    /// decides where it is known.
    pub fn is_single_attestation(self, fork: Option<ForkName>, n_bytes: usize) -> bool {
        matches!(self, Self::Attestation { .. })
            && n_bytes == SingleAttestation::SSZ_LEN
            && fork.is_none_or(ForkName::has_single_attestations)
    }

    /// Greatest number of SSZ bytes of a message of this kind. `fork` is `None` if the fork is not
    /// known.
    pub fn max_ssz_len(self, fork: Option<ForkName>) -> usize {
        match (self, fork) {
            (Self::Attestation { .. }, Some(fork)) if fork.has_single_attestations() => SingleAttestation::SSZ_LEN,
            _ => self.facts().max_ssz_len,
        }
    }

    /// Where the fields of a message of this length are.
    fn offsets(self, fork: Option<ForkName>, n_bytes: usize) -> Offsets {
        if self.is_single_attestation(fork, n_bytes) { Offsets::SINGLE_ATTESTATION } else { self.facts().offsets }
    }

    /// Whether messages of this kind are published on topics at a fork.
    pub fn has_topics_at(self, fork: ForkName) -> bool {
        let KindFacts { topic, forks: (first, last), .. } = self.facts();
        topic.is_some() && (first..=last).contains(&fork)
    }

    /// Number of numbered topics of this kind at a fork. `None` if its topic has no number.
    pub fn n_subnets(self, fork: ForkName) -> Option<u64> {
        match self {
            Self::Attestation { .. } => Some(ATTESTATION_SUBNET_COUNT),
            // `BLOB_SIDECAR_SUBNET_COUNT_ELECTRA` and `BLOB_SIDECAR_SUBNET_COUNT`.
            Self::BlobSidecar { .. } => Some(if fork >= ForkName::Electra { 9 } else { 6 }),
            Self::DataColumnSidecar { .. } => Some(DATA_COLUMN_SIDECAR_SUBNET_COUNT),
            Self::Block
            | Self::Aggregate
            | Self::AttestationByBits
            | Self::Header
            | Self::AttesterSlashing
            | Self::ProposerSlashing
            | Self::PayloadAttestation
            | Self::PayloadBid
            | Self::InclusionList => None,
        }
    }

    /// The number of the subnet or of the sidecar, if the kind has one.
    pub const fn number(self) -> Option<u64> {
        match self {
            Self::Attestation { subnet: number }
            | Self::BlobSidecar { index: number }
            | Self::DataColumnSidecar { index: number } => Some(number),
            Self::Block
            | Self::Aggregate
            | Self::AttestationByBits
            | Self::Header
            | Self::AttesterSlashing
            | Self::ProposerSlashing
            | Self::PayloadAttestation
            | Self::PayloadBid
            | Self::InclusionList => None,
        }
    }

    /// The same kind with another number. Kinds without a number stay as they are.
    pub const fn with_number(self, number: u64) -> Self {
        match self {
            Self::Attestation { .. } => Self::Attestation { subnet: number },
            Self::BlobSidecar { .. } => Self::BlobSidecar { index: number },
            Self::DataColumnSidecar { .. } => Self::DataColumnSidecar { index: number },
            Self::Block
            | Self::Aggregate
            | Self::AttestationByBits
            | Self::Header
            | Self::AttesterSlashing
            | Self::ProposerSlashing
            | Self::PayloadAttestation
            | Self::PayloadBid
            | Self::InclusionList => self,
        }
    }

    /// The name of the gossip topic, with its number. `None` for kinds that only the beacon API
    /// has.
    pub fn topic_name(self) -> Option<String> {
        let topic = self.facts().topic?;
        Some(self.number().map_or_else(|| topic.to_owned(), |number| format!("{topic}{number}")))
    }

    /// The kind whose topic has this name. A number is accepted only as it is printed: without a
    /// sign and without a leading zero. It is not compared with the number of subnets.
    pub fn of_topic_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|kind| {
            let rest = name.strip_prefix(kind.facts().topic?)?;
            if kind.number().is_none() {
                return rest.is_empty().then_some(kind);
            }
            let number: u64 = rest.parse().ok()?;
            (number.to_string() == rest).then(|| kind.with_number(number))
        })
    }

    /// Decodes a message of this kind.
    pub fn decode(self, fork: ForkName, preset: &Preset, ssz: &[u8]) -> Result<DecodedMessage, DecodeError> {
        Ok(match self {
            Self::Block => DecodedMessage::Block(Box::new(SignedBlock::from_ssz(fork, preset, ssz)?)),
            Self::Aggregate => DecodedMessage::Aggregate(Box::new(SignedAggregate::from_ssz(fork, preset, ssz)?)),
            Self::Attestation { .. } if fork.has_single_attestations() => {
                DecodedMessage::SingleAttestation(SingleAttestation::from_ssz(ssz)?)
            }
            Self::Attestation { .. } | Self::AttestationByBits => {
                DecodedMessage::Attestation(Box::new(Attestation::from_ssz(fork, preset, ssz)?))
            }
            Self::Header => DecodedMessage::Header(SignedBeaconBlockHeader::from_ssz(ssz)?),
            Self::AttesterSlashing => DecodedMessage::AttesterSlashing(Box::new(AttesterSlashing::from_ssz(fork, preset, ssz)?)),
            Self::ProposerSlashing => DecodedMessage::ProposerSlashing(Box::new(ProposerSlashing::from_ssz(ssz)?)),
            Self::BlobSidecar { .. } => DecodedMessage::Header(sidecar_header(fork, preset, SidecarKind::Blob, ssz)?),
            Self::DataColumnSidecar { .. } => DecodedMessage::Header(sidecar_header(fork, preset, SidecarKind::DataColumn, ssz)?),
            Self::PayloadAttestation => {
                DecodedMessage::PayloadAttestation(PayloadAttestationMessage::from_ssz(fork, preset, ssz)?)
            }
            Self::PayloadBid => DecodedMessage::PayloadBid(SignedPayloadBid::from_ssz(fork, preset, ssz)?),
            Self::InclusionList => DecodedMessage::InclusionList(SignedInclusionList::from_ssz(fork, preset, ssz)?),
        })
    }
}

/// A well-formed message of any kind.
#[derive(Clone, Debug)]
pub enum DecodedMessage {
    Block(Box<SignedBlock>),
    Aggregate(Box<SignedAggregate>),
    SingleAttestation(SingleAttestation),
    Attestation(Box<Attestation>),
    /// A header by itself, or the one in a sidecar.
    Header(SignedBeaconBlockHeader),
    AttesterSlashing(Box<AttesterSlashing>),
    ProposerSlashing(Box<ProposerSlashing>),
    PayloadAttestation(PayloadAttestationMessage),
    PayloadBid(SignedPayloadBid),
    InclusionList(SignedInclusionList),
}

/// Reads fields of a message that is not decoded yet. Nothing in it has been checked.
#[derive(Clone, Copy, Debug)]
pub struct MessageFields<'a> {
    ssz: &'a [u8],
    offsets: Offsets,
}

impl<'a> MessageFields<'a> {
    /// `fork` is `None` if the fork is not known.
    pub fn of(kind: MessageKind, fork: Option<ForkName>, ssz: &'a [u8]) -> Self {
        Self { ssz, offsets: kind.offsets(fork, ssz.len()) }
    }

    /// The slot that the message is about. `None` if the message is too short.
    pub fn slot(&self) -> Option<Slot> {
        u64_at(self.ssz, self.offsets.slot).map(Slot::new)
    }

    /// The validator that is said to have signed.
    pub fn validator(&self) -> Option<ValidatorIndex> {
        u64_at(self.ssz, self.offsets.validator?).map(ValidatorIndex::new)
    }

    /// The bytes of the `AttestationData`.
    pub fn data(&self) -> Option<&'a [u8; AttestationData::SSZ_LEN]> {
        self.ssz.get(self.offsets.data?..)?.first_chunk()
    }

    /// The first signed header.
    pub fn header(&self) -> Option<SignedBeaconBlockHeader> {
        let at = self.offsets.header?;
        SignedBeaconBlockHeader::from_ssz(self.ssz.get(at..at + SignedBeaconBlockHeader::SSZ_LEN)?).ok()
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_topics_name_one_kind_each() {
        let labels: std::collections::BTreeSet<&str> = MessageKind::LABELS.into();
        assert_eq!(labels.len(), MessageKind::ALL.len());
        for kind in MessageKind::ALL.into_iter().flat_map(|kind| [kind, kind.with_number(63)]) {
            match kind.topic_name() {
                Some(name) => assert_eq!(MessageKind::of_topic_name(&name), Some(kind), "{name}"),
                None => assert!(ForkName::ALL.iter().all(|fork| !kind.has_topics_at(*fork)), "{kind:?}"),
            }
            assert_eq!(kind.number().is_some(), kind.n_subnets(ForkName::Fulu).is_some(), "{kind:?}");
            assert_eq!(kind.number().is_some(), kind.facts().topic.is_some_and(|topic| topic.ends_with('_')), "{kind:?}");
        }
    }

    /// The offsets lie within the smallest and the limit within the largest message of each kind.
    #[test]
    fn limits_are_at_least_what_is_read() {
        for (kind, fork) in MessageKind::ALL.into_iter().flat_map(|kind| ForkName::ALL.map(|fork| (kind, Some(fork)))) {
            let limit = kind.max_ssz_len(fork);
            let Offsets { slot, validator, data, header } = kind.offsets(fork, limit);
            let ends = [
                slot + 8,
                validator.map_or(0, |at| at + 8),
                data.map_or(0, |at| at + AttestationData::SSZ_LEN),
                header.map_or(0, |at| at + SignedBeaconBlockHeader::SSZ_LEN),
            ];
            assert!(ends.into_iter().all(|end| end <= limit) && limit <= MAX_PAYLOAD_SIZE, "{kind:?} {fork:?}");
        }
    }
}
