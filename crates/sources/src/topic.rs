//! Gossip topics: `/eth2/<fork digest, 8 lower-case hex digits>/<name>/ssz_snappy`.
//!
//! Parsing is strict, because two spellings of one topic would be two meshes. It accepts no
//! upper-case digits, no leading zeros in a subnet number, and nothing after the encoding. Source:
//! consensus-specs, phase0/p2p-interface.md, "Topics and messages".

use consensus::{ForkDigest, MessageKind};
use std::fmt;

/// Greatest length in bytes of a topic that is parsed. The longest topic in use has 64 bytes.
pub const MAX_TOPIC_LEN: usize = 256;

/// A topic that is read: fork digest, and the kind of its messages with the number of the subnet.
/// Numbers are not compared with the network's number of subnets, because a message on subnet 70
/// can be signed like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    pub digest: ForkDigest,
    pub kind: MessageKind,
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
        let kind = MessageKind::of_topic_name(name).ok_or_else(|| TopicError::NotRead(shortened(text)))?;
        Ok(Self { digest, kind })
    }
}

/// A kind that has no topic is printed by its label. Nobody subscribes to such a topic, and
/// [`Topic::parse`] does not read it.
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind.topic_name().unwrap_or_else(|| self.kind.label().to_owned());
        write!(f, "/eth2/{}/{name}/ssz_snappy", self.digest)
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
            assert_eq!(topic.kind.topic_name().as_deref(), Some(name));
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
