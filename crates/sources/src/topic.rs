//! Gossip topics: `/eth2/<fork digest, 8 lower-case hex digits>/<name>/ssz_snappy`.
//!
//! Parsing is strict, because two spellings of one topic would be two meshes. It accepts no
//! upper-case digits, no leading zeros in a subnet number, and nothing after the encoding. Source:
//! consensus-specs, phase0/p2p-interface.md, "Topics and messages".

use consensus::{Epoch, ForkDigest, ForkName, Network};
use std::fmt;
use verify::MessageKind;

/// Greatest length in bytes of a topic that is parsed. The longest topic in use has 64 bytes.
pub const MAX_TOPIC_LEN: usize = 256;

/// The topics that are read. Subnet numbers are not checked against the network's number of
/// subnets, because a message on subnet 70 can be signed like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicName {
    BeaconBlock,
    AggregateAndProof,
    Attestation(u64),
    AttesterSlashing,
    ProposerSlashing,
    BlobSidecar(u64),
    DataColumnSidecar(u64),
    PayloadAttestation,
    PayloadBid,
    InclusionList,
}

/// A topic that is read: fork digest and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    pub digest: ForkDigest,
    pub name: TopicName,
}

/// Why a topic is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The topic is well formed, but its messages are not used here: sync committees, voluntary
    /// exits and others.
    #[error("topic {0:?} is not one that is read; it is counted and skipped")]
    NotRead(String),
    #[error("{0:?} is not a gossip topic; wanted /eth2/<8 hex digits>/<name>/ssz_snappy")]
    Malformed(String),
}

impl Topic {
    /// Parses a topic that is read here. Other topics are errors.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let (digest, name) = split(text).ok_or_else(|| TopicError::Malformed(shortened(text)))?;
        let name = TopicName::parse(name).ok_or_else(|| TopicError::NotRead(shortened(text)))?;
        Ok(Self { digest, name })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/eth2/{}/{}/ssz_snappy", self.digest, self.name)
    }
}

impl TopicName {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "beacon_block" => Some(Self::BeaconBlock),
            "beacon_aggregate_and_proof" => Some(Self::AggregateAndProof),
            "attester_slashing" => Some(Self::AttesterSlashing),
            "proposer_slashing" => Some(Self::ProposerSlashing),
            "payload_attestation_message" => Some(Self::PayloadAttestation),
            "execution_payload_bid" => Some(Self::PayloadBid),
            "inclusion_list" => Some(Self::InclusionList),
            _ => numbered(text, "beacon_attestation_")
                .map(Self::Attestation)
                .or_else(|| numbered(text, "blob_sidecar_").map(Self::BlobSidecar))
                .or_else(|| numbered(text, "data_column_sidecar_").map(Self::DataColumnSidecar)),
        }
    }

    /// The kind of the messages on this topic.
    pub const fn kind(self) -> MessageKind {
        match self {
            Self::BeaconBlock => MessageKind::Block,
            Self::AggregateAndProof => MessageKind::Aggregate,
            Self::Attestation(subnet) => MessageKind::Attestation { subnet },
            Self::AttesterSlashing => MessageKind::AttesterSlashing,
            Self::ProposerSlashing => MessageKind::ProposerSlashing,
            Self::BlobSidecar(index) => MessageKind::BlobSidecar { index },
            Self::DataColumnSidecar(index) => MessageKind::DataColumnSidecar { index },
            Self::PayloadAttestation => MessageKind::PayloadAttestation,
            Self::PayloadBid => MessageKind::PayloadBid,
            Self::InclusionList => MessageKind::InclusionList,
        }
    }

    /// The subnet or index of the topic, or 0 if it has none.
    pub const fn subnet(self) -> u64 {
        match self {
            Self::BeaconBlock
            | Self::AggregateAndProof
            | Self::AttesterSlashing
            | Self::ProposerSlashing
            | Self::PayloadAttestation
            | Self::PayloadBid
            | Self::InclusionList => 0,
            Self::Attestation(subnet) | Self::BlobSidecar(subnet) | Self::DataColumnSidecar(subnet) => subnet,
        }
    }

    /// The topic on which messages of this kind travel, or `None` for kinds that only the beacon
    /// API has.
    pub const fn of_kind(kind: MessageKind) -> Option<Self> {
        match kind {
            MessageKind::Block => Some(Self::BeaconBlock),
            MessageKind::Aggregate => Some(Self::AggregateAndProof),
            MessageKind::Attestation { subnet } => Some(Self::Attestation(subnet)),
            MessageKind::AttesterSlashing => Some(Self::AttesterSlashing),
            MessageKind::ProposerSlashing => Some(Self::ProposerSlashing),
            MessageKind::BlobSidecar { index } => Some(Self::BlobSidecar(index)),
            MessageKind::DataColumnSidecar { index } => Some(Self::DataColumnSidecar(index)),
            MessageKind::PayloadAttestation => Some(Self::PayloadAttestation),
            MessageKind::PayloadBid => Some(Self::PayloadBid),
            MessageKind::InclusionList => Some(Self::InclusionList),
            MessageKind::AttestationByBits | MessageKind::Header => None,
        }
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeaconBlock => f.write_str("beacon_block"),
            Self::AggregateAndProof => f.write_str("beacon_aggregate_and_proof"),
            Self::Attestation(subnet) => write!(f, "beacon_attestation_{subnet}"),
            Self::AttesterSlashing => f.write_str("attester_slashing"),
            Self::ProposerSlashing => f.write_str("proposer_slashing"),
            Self::BlobSidecar(index) => write!(f, "blob_sidecar_{index}"),
            Self::DataColumnSidecar(index) => write!(f, "data_column_sidecar_{index}"),
            Self::PayloadAttestation => f.write_str("payload_attestation_message"),
            Self::PayloadBid => f.write_str("execution_payload_bid"),
            Self::InclusionList => f.write_str("inclusion_list"),
        }
    }
}

/// The fork digests of a network. They are computed once for the network and looked up for each
/// message.
#[derive(Clone, Debug)]
pub struct DigestTable(Vec<(ForkDigest, Epoch, ForkName)>);

impl DigestTable {
    pub fn new(network: &Network) -> Self {
        Self(network.digests())
    }

    /// The fork that a digest stands for, or `None` if the digest is not of this network.
    pub fn fork(&self, digest: ForkDigest) -> Option<ForkName> {
        self.0.iter().find(|row| row.0 == digest).map(|row| row.2)
    }

    /// Digest, first epoch and fork of each row, in order of time.
    pub fn rows(&self) -> &[(ForkDigest, Epoch, ForkName)] {
        &self.0
    }
}

/// Splits a well-formed topic into digest and name, whether the topic is read here or not.
pub fn split(text: &str) -> Option<(ForkDigest, &str)> {
    if text.len() > MAX_TOPIC_LEN {
        return None;
    }
    let rest = text.strip_prefix("/eth2/")?.strip_suffix("/ssz_snappy")?;
    let (digest, name) = rest.split_once('/')?;
    let well_named =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let lower_hex = digest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !well_named || !lower_hex {
        return None;
    }
    let mut bytes = [0u8; 4];
    hex::decode_to_slice(digest, &mut bytes).ok()?;
    Some((ForkDigest(bytes), name))
}

/// Parses `prefix` followed by a decimal number in its printed form: no sign, no leading zero.
fn numbered(text: &str, prefix: &str) -> Option<u64> {
    let digits = text.strip_prefix(prefix)?;
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TOPIC_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_read_print_as_they_were_read() {
        let names = [
            "beacon_block",
            "beacon_aggregate_and_proof",
            "beacon_attestation_0",
            "beacon_attestation_63",
            "attester_slashing",
            "proposer_slashing",
            "blob_sidecar_5",
            "data_column_sidecar_127",
            "payload_attestation_message",
            "execution_payload_bid",
            "inclusion_list",
        ];
        for name in names {
            let text = format!("/eth2/8c9f62fe/{name}/ssz_snappy");
            let topic = Topic::parse(&text).unwrap();
            assert_eq!(topic.to_string(), text);
            assert_eq!(topic.digest, ForkDigest([0x8c, 0x9f, 0x62, 0xfe]));
            assert_eq!(TopicName::of_kind(topic.name.kind()), Some(topic.name));
        }
    }

    #[test]
    fn topics_of_others_are_told_apart_from_nonsense() {
        for name in [
            "voluntary_exit",
            "sync_committee_3",
            "beacon_attestation_",
            "beacon_attestation_07",
            "beacon_attestation_99999999999999999999",
        ] {
            let text = format!("/eth2/8c9f62fe/{name}/ssz_snappy");
            assert_eq!(Topic::parse(&text), Err(TopicError::NotRead(text.clone())), "{text}");
        }
        let malformed = [
            "",
            "beacon_block",
            "/eth2/8C9F62FE/beacon_block/ssz_snappy",
            "/eth2/8c9f62f/beacon_block/ssz_snappy",
            "/eth2/8c9f62fe/beacon_block/ssz",
            "/eth2/8c9f62fe//ssz_snappy",
            "/eth2/8c9f62fe/beacon_block/ssz_snappy/",
            "/eth2/8c9f62fe/beacon block/ssz_snappy",
        ];
        for text in malformed {
            assert_eq!(Topic::parse(text), Err(TopicError::Malformed(text.to_owned())), "{text}");
        }
        assert!(matches!(Topic::parse(&"/".repeat(100_000)), Err(TopicError::Malformed(text)) if text.len() == MAX_TOPIC_LEN));
    }
}
