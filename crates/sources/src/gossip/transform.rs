//! Snappy decompression between the wire and gossipsub, and the ids by which gossipsub identifies
//! messages.
//!
//! gossipsub passes to the application what the transform returns for a message. A capture needs
//! the payload as it was on the wire, and the verifier needs the SSZ. So the transform returns
//! both, in one [`frame`]:
//!
//! ```text
//! 1 (decompressed) or 0 (not possible) | length of payload: u32 LE | payload | SSZ
//! 2 (too long for its kind, and nobody is to blame) | 20: u32 LE | message id
//! ```
//!
//! A payload that does not decompress never leaves gossipsub: it is dropped there, and its sender's
//! score is lowered (P4). Such payloads are therefore counted here and not in the event loop.
//!
//! Source of the ids: consensus-specs, altair/p2p-interface.md and phase0/p2p-interface.md,
//! "message-id".

use crate::limits::{self, PayloadError};
use crate::metrics::SourceMetrics;
use crate::topic::{Topic, split};
use consensus::{ForkDigests, ForkName, MAX_PAYLOAD_SIZE};
use libp2p::gossipsub::{DataTransform, Message, MessageId, RawMessage, TopicHash};
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;

const DOMAIN_VALID: [u8; 4] = [1, 0, 0, 0];
const DOMAIN_INVALID: [u8; 4] = [0, 0, 0, 0];
/// The first byte of a frame.
const INVALID: u8 = 0;
const VALID: u8 = 1;
const ID_ONLY: u8 = 2;
/// Bytes of a frame before the payload.
const FRAME_HEAD: usize = 5;

/// Decompresses each message with the limit of its topic's kind.
#[derive(Clone)]
pub(super) struct SnappyTransform {
    pub digests: Arc<ForkDigests>,
    pub metrics: SourceMetrics,
}

impl DataTransform for SnappyTransform {
    fn inbound_transform(&self, message: RawMessage) -> Result<Message, io::Error> {
        let framed = self.unpack(message.topic.as_str(), &message.data).map_err(|(label, reason)| {
            self.metrics.refused.with_label_values(&[label]).inc();
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        Ok(Message { source: message.source, data: framed, sequence_number: message.sequence_number, topic: message.topic })
    }

    fn outbound_transform(&self, _topic: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        match open(&data) {
            Some(frame) => Ok(frame.payload.to_vec()),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "publish takes a frame")),
        }
    }
}

impl SnappyTransform {
    fn unpack(&self, topic: &str, payload: &[u8]) -> Result<Vec<u8>, (&'static str, String)> {
        let name = topic;
        let topic = Topic::parse(name).map_err(|error| ("topic_not_read", error.to_string()))?;
        // This node subscribes only to digests of the schedule, so a message under another digest
        // was not asked for.
        if !self.digests.contains(topic.digest) {
            return Err(("unknown_digest", format!("unknown digest {}", topic.digest)));
        }
        let fork = self.digests.fork_of(topic.digest);
        let mut framed = head(VALID, payload);
        match limits::unpack_onto(payload, topic.kind.max_ssz_len(fork), &mut framed) {
            Ok(()) => Ok(framed),
            // A fork that is not known may have longer messages, so the sender is not to blame. The
            // message is dropped without its content. Its id must be the right one all the same:
            // otherwise gossipsub would ask for it again and again, and blame who has sent it.
            Err(PayloadError::TooLong { .. }) if fork.is_none() => {
                let ssz = limits::unpack(payload, MAX_PAYLOAD_SIZE).map_err(|error| (error.label(), error.to_string()))?;
                Ok(head(ID_ONLY, &hash(IdRules::Altair, name, DOMAIN_VALID, &ssz)))
            }
            Err(error) => Err((error.label(), error.to_string())),
        }
    }
}

/// Payload and SSZ of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub valid: bool,
    /// The payload is only the message's id.
    id_only: bool,
    pub payload: &'a [u8],
    /// Empty if the payload does not decompress.
    pub ssz: &'a [u8],
}

/// Builds a frame for publishing SSZ.
pub(super) fn frame(ssz: &[u8]) -> Option<Vec<u8>> {
    let mut framed = head(VALID, &limits::pack(ssz)?);
    framed.extend_from_slice(ssz);
    Some(framed)
}

/// Builds a frame for publishing a payload as it is, whether it is valid snappy or not.
pub(super) fn frame_of_payload(payload: &[u8]) -> Vec<u8> {
    match limits::unpack(payload, MAX_PAYLOAD_SIZE) {
        Ok(ssz) => {
            let mut framed = head(VALID, payload);
            framed.extend_from_slice(&ssz);
            framed
        }
        Err(_) => head(INVALID, payload),
    }
}

/// Splits a frame into its parts. Returns `None` if it is not a frame.
pub(super) fn open(framed: &[u8]) -> Option<Frame<'_>> {
    let (first, rest) = framed.split_first_chunk::<FRAME_HEAD>()?;
    let [valid, length @ ..] = *first;
    let (payload, ssz) = rest.split_at_checked(u32::from_le_bytes(length) as usize)?;
    Some(Frame { valid: valid == VALID, id_only: valid == ID_ONLY, payload, ssz })
}

fn head(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(FRAME_HEAD + payload.len() * 2);
    framed.push(first);
    framed.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    framed.extend_from_slice(payload);
    framed
}

/// Returns the function that computes message ids, for a gossipsub config.
pub(super) fn message_id_fn(digests: Arc<ForkDigests>) -> impl Fn(&Message) -> MessageId + Send + Sync + 'static {
    move |message| {
        let topic = message.topic.as_str();
        let fork = split(topic).and_then(|(digest, _)| digests.fork_of(digest));
        let rules = if fork == Some(ForkName::Phase0) { IdRules::Phase0 } else { IdRules::Altair };
        let id = match open(&message.data) {
            Some(frame) if frame.id_only => return MessageId::from(frame.payload.to_vec()),
            Some(frame) if frame.valid => hash(rules, topic, DOMAIN_VALID, frame.ssz),
            Some(frame) => hash(rules, topic, DOMAIN_INVALID, frame.payload),
            None => hash(rules, topic, DOMAIN_INVALID, &message.data),
        };
        MessageId::from(id.to_vec())
    }
}

/// The fork whose specification defines a message's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRules {
    /// For topics with the phase0 digest: the id is a hash of domain and data.
    Phase0,
    /// For later topics: the hash also has the length of the topic and the topic, between domain
    /// and data.
    Altair,
}

/// Computes the id of a payload as it is on the wire.
pub fn message_id(rules: IdRules, topic: &str, payload: &[u8]) -> [u8; 20] {
    match limits::unpack(payload, MAX_PAYLOAD_SIZE) {
        Ok(ssz) => hash(rules, topic, DOMAIN_VALID, &ssz),
        Err(_) => hash(rules, topic, DOMAIN_INVALID, payload),
    }
}

fn hash(rules: IdRules, topic: &str, domain: [u8; 4], data: &[u8]) -> [u8; 20] {
    let mut hasher = Sha256::new();
    hasher.update(domain);
    if rules == IdRules::Altair {
        hasher.update((topic.len() as u64).to_le_bytes());
        hasher.update(topic.as_bytes());
    }
    hasher.update(data);
    let mut id = [0u8; 20];
    id.copy_from_slice(&hasher.finalize()[..20]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_vectors() {
        let file = test_support::json("vectors/p2p/message_ids.json");
        let rows = file.as_array().unwrap();
        assert!(rows.len() >= 3);
        for row in rows {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let payload = hex::decode(text("data").trim_start_matches("0x")).unwrap();
            let id = |rules| format!("0x{}", hex::encode(message_id(rules, &text("topic"), &payload)));
            assert_eq!(id(IdRules::Phase0), text("phase0_id"));
            assert_eq!(id(IdRules::Altair), text("altair_plus_id"));
            let framed = frame_of_payload(&payload);
            assert_eq!(open(&framed).unwrap().valid, row["snappy_valid"].as_bool().unwrap());
        }
    }

    #[test]
    fn frames_hold_what_was_put_in() {
        let framed = frame(b"some ssz").unwrap();
        let opened = open(&framed).unwrap();
        assert_eq!((opened.valid, opened.ssz), (true, &b"some ssz"[..]));
        assert_eq!(limits::unpack(opened.payload, 100).unwrap(), b"some ssz");
        assert_eq!(open(&frame_of_payload(opened.payload)).unwrap(), opened);
        for cut in 0..FRAME_HEAD + 3 {
            assert_eq!(open(&framed[..cut]), None);
        }
    }
}
