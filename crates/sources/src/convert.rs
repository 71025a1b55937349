//! Conversion of a source's input into what the verifier takes: one [`RawMessage`], or one
//! [`Refusal`] with its reason.
//!
//! This module does not judge messages. It refuses an input only if it cannot be a message at all:
//! its topic is not read here, or its bytes do not decompress within the limit of their kind. A
//! fork digest that is not known is *not* refused. Such a message goes on with `fork: None`, and
//! its outcome is `UnknownFork` with the name of its peer. So every input still has exactly one
//! outcome.

use crate::capture::{ApiEventEntry, GossipEntry};
use crate::limits::{self, PayloadError};
use crate::topic::{Topic, TopicError};
use consensus::ssz_schema::json_to_ssz;
use consensus::{ForkDigests, ForkName, MessageKind, Network, Root, SingleAttestation, Slot, block_prefix};
use serde_json::Value;
use std::sync::Arc;
use verify::{MessageParts, MessageTooLong, Origin, PeerBytes, RawMessage, SourceKind, Time};

/// Why an input is not a message, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub peer: Option<PeerBytes>,
}

/// The reason of a [`Refusal`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("payload on {topic} {error}")]
    Payload { topic: String, error: PayloadError },
    #[error(transparent)]
    TooLong(#[from] MessageTooLong),
    #[error("block of {len} bytes is too short to name its slot; fetch it again")]
    ShortBlock { len: usize },
    /// The event contains nothing that is signed: for example a block's root, a head, or a sync
    /// contribution.
    #[error("event {0:?} carries no signed message; it is counted and skipped")]
    EventNotRead(String),
    #[error("event {topic:?} is not what the beacon API says it is: {reason}; check the node's version")]
    BadEvent { topic: String, reason: String },
}

impl Refusal {
    /// All labels. Metrics use them to exist before the first refusal.
    pub const LABELS: [&str; 7] =
        ["topic_not_read", "topic_malformed", "too_long", "bad_snappy", "short_block", "event_not_read", "bad_event"];

    /// The label of this reason in metrics.
    pub const fn label(&self) -> &'static str {
        match &self.reason {
            RefusalReason::Topic(TopicError::NotRead(_)) => "topic_not_read",
            RefusalReason::Topic(TopicError::Malformed(_)) => "topic_malformed",
            RefusalReason::Payload { error, .. } => error.label(),
            RefusalReason::TooLong(_) => "too_long",
            RefusalReason::ShortBlock { .. } => "short_block",
            RefusalReason::EventNotRead(_) => "event_not_read",
            RefusalReason::BadEvent { .. } => "bad_event",
        }
    }

    fn of(reason: impl Into<RefusalReason>, peer: Option<PeerBytes>) -> Self {
        Self { reason: reason.into(), peer }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.reason.fmt(f)?;
        match &self.peer {
            Some(peer) => write!(f, " (from {})", peer_text(peer)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// Converts the inputs of one network. The network's fork digests are computed once.
#[derive(Clone, Debug)]
pub struct MessageConverter {
    network: Arc<Network>,
    digests: ForkDigests,
}

impl MessageConverter {
    pub fn new(network: Arc<Network>) -> Self {
        let digests = network.fork_digests();
        Self { network, digests }
    }

    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    pub fn digests(&self) -> &ForkDigests {
        &self.digests
    }

    /// Decompresses a message from a capture.
    pub fn gossip(&self, entry: &GossipEntry) -> Result<RawMessage, Refusal> {
        let peer = (!entry.peer.is_empty()).then(|| PeerBytes::from(entry.peer.as_slice()));
        let topic = match Topic::parse(&entry.topic) {
            Ok(topic) => topic,
            Err(error) => return Err(Refusal::of(error, peer)),
        };
        let (kind, fork) = (topic.kind, self.digests.fork_of(topic.digest));
        match limits::unpack(&entry.payload, kind.max_ssz_len(fork)) {
            Ok(bytes) => raw(SourceKind::Gossip, peer, fork, kind, entry.received_at, bytes),
            Err(error) => Err(Refusal::of(RefusalReason::Payload { topic: entry.topic.clone(), error }, peer)),
        }
    }

    /// Takes a block from a capture or an ERA file. Its time of arrival is not recorded, so the
    /// start of its slot is used.
    pub fn block(&self, ssz: Vec<u8>) -> Result<RawMessage, Refusal> {
        let Some(prefix) = block_prefix(&ssz) else {
            return Err(Refusal::of(RefusalReason::ShortBlock { len: ssz.len() }, None));
        };
        let fork = self.network.spec.known_fork_at(prefix.slot.epoch(self.network.preset()));
        let received_at = Time(self.network.slot_start_ns(prefix.slot));
        raw(SourceKind::Block, None, fork, MessageKind::Block, received_at, ssz)
    }

    /// Reads an event of a node's stream: it contains a message, or it names a block to fetch.
    pub fn api_event(&self, entry: &ApiEventEntry) -> Result<ApiContent, Refusal> {
        let node = PeerBytes::from(entry.node.as_bytes());
        let read = match entry.topic.as_str() {
            "single_attestation" => self.single_attestation(&entry.json),
            "attestation" => self.spec_object(&entry.json, MessageKind::AttestationByBits, "Attestation", &["/data/slot"]),
            "attester_slashing" => {
                self.spec_object(&entry.json, MessageKind::AttesterSlashing, "AttesterSlashing", &["/attestation_1/data/slot"])
            }
            "proposer_slashing" => {
                let slot = ["/signed_header_1/message/slot"];
                self.spec_object(&entry.json, MessageKind::ProposerSlashing, "ProposerSlashing", &slot)
            }
            "block" | "block_gossip" => return self.announced(entry, node),
            _ => return Err(Refusal::of(RefusalReason::EventNotRead(entry.topic.clone()), Some(node))),
        };
        match read {
            Ok((kind, fork, bytes)) => {
                raw(SourceKind::Api, Some(node), Some(fork), kind, entry.at, bytes).map(ApiContent::Message)
            }
            Err(reason) => Err(Refusal::of(RefusalReason::BadEvent { topic: entry.topic.clone(), reason }, Some(node))),
        }
    }

    fn single_attestation(&self, json: &str) -> Result<(MessageKind, ForkName, Vec<u8>), String> {
        #[derive(serde::Deserialize)]
        struct Wrapped {
            data: SingleAttestation,
        }
        let plain = serde_json::from_str(json).map_err(|error| error.to_string());
        // Some nodes wrap the object in `{version, data}`, as in the answers of the REST API.
        let single: SingleAttestation =
            plain.or_else(|reason| serde_json::from_str(json).map(|wrapped: Wrapped| wrapped.data).map_err(|_| reason))?;
        // The event does not contain the subnet, and nothing depends on it. Attestations that name
        // the validator by its index exist from Electra on.
        let fork = self.fork_at(single.data.slot).max(ForkName::Electra);
        Ok((MessageKind::Attestation { subnet: 0 }, fork, single.to_ssz()))
    }

    fn spec_object(
        &self,
        json: &str,
        kind: MessageKind,
        container: &'static str,
        slot_at: &[&str],
    ) -> Result<(MessageKind, ForkName, Vec<u8>), String> {
        let value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        // Some nodes wrap the object in `{version, data}`, as in the answers of the REST API.
        let wrapped = value.get("version").is_some() && value.get("data").is_some();
        let value = if wrapped { &value["data"] } else { &value };
        let slot = slot_at.iter().find_map(|path| value.pointer(path)).and_then(Value::as_str).and_then(|text| text.parse().ok());
        let slot: Slot = slot.ok_or_else(|| format!("it has no {}", slot_at.join(", ")))?;
        // Committee bits exist from Electra on, whatever the slot says.
        let fork = match value.get("committee_bits") {
            Some(_) => self.fork_at(slot).max(ForkName::Electra),
            None => self.fork_at(slot),
        };
        let bytes = json_to_ssz(fork, self.network.preset(), container, value).map_err(|error| error.to_string())?;
        Ok((kind, fork, bytes))
    }

    fn announced(&self, entry: &ApiEventEntry, node: PeerBytes) -> Result<ApiContent, Refusal> {
        #[derive(serde::Deserialize)]
        struct Announced {
            slot: Slot,
            block: Root,
        }
        match serde_json::from_str::<Announced>(&entry.json) {
            Ok(Announced { slot, block }) => Ok(ApiContent::BlockAnnounced { slot, root: block }),
            Err(error) => {
                let reason = RefusalReason::BadEvent { topic: entry.topic.clone(), reason: error.to_string() };
                Err(Refusal::of(reason, Some(node)))
            }
        }
    }

    fn fork_at(&self, slot: Slot) -> ForkName {
        self.network.spec.fork_name_at(slot.epoch(self.network.preset()))
    }
}

/// The content of an event of a node's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiContent {
    Message(RawMessage),
    /// The node has this block. Its bytes are to be fetched by root.
    BlockAnnounced {
        slot: Slot,
        root: Root,
    },
}

/// Formats a peer as its network writes it: base58 for a libp2p peer id, text for a URL, hex for
/// anything else.
pub fn peer_text(peer: &[u8]) -> String {
    if let Ok(id) = libp2p::PeerId::from_bytes(peer) {
        return id.to_base58();
    }
    match std::str::from_utf8(peer) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", hex::encode(peer)),
    }
}

/// Takes a block that was fetched from a node, with the node's URL as its sender if that is known.
pub fn fetched_block(ssz: Vec<u8>, fork: ForkName, node: Option<&str>, at: Time) -> Result<RawMessage, Refusal> {
    let sender = node.map(|node| PeerBytes::from(node.as_bytes()));
    raw(SourceKind::Api, sender, Some(fork), MessageKind::Block, at, ssz)
}

/// Takes a block that a peer was asked for. The peer is named, so it is blamed for a forged one.
pub fn peer_block(ssz: Vec<u8>, fork: ForkName, peer: libp2p::PeerId, at: Time) -> Result<RawMessage, Refusal> {
    raw(SourceKind::Api, Some(PeerBytes::from(peer.to_bytes())), Some(fork), MessageKind::Block, at, ssz)
}

fn raw(
    source: SourceKind,
    peer: Option<PeerBytes>,
    fork: Option<ForkName>,
    kind: MessageKind,
    received_at: Time,
    bytes: Vec<u8>,
) -> Result<RawMessage, Refusal> {
    let origin = Origin { source, peer: peer.clone(), fork, subscribed: None };
    RawMessage::new(MessageParts { origin, kind, received_at, bytes, ticket: None }).map_err(|error| Refusal::of(error, peer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Epoch, Spec};

    /// A converter for a network with Deneb from epoch 0 on and Electra from epoch 10 on.
    fn converter() -> MessageConverter {
        let spec = Spec::from_yaml("PRESET_BASE: minimal\nDENEB_FORK_EPOCH: 0\nELECTRA_FORK_EPOCH: 10\n").unwrap();
        MessageConverter::new(Arc::new(Network { spec, genesis_time: 1_700_000_000, genesis_validators_root: Root::ZERO }))
    }

    fn gossip(topic: String, payload: Vec<u8>) -> Result<RawMessage, Refusal> {
        converter().gossip(&GossipEntry { received_at: Time(1), peer: vec![1, 2], topic, payload })
    }

    fn topic(epoch: u64, name: &str) -> String {
        format!("/eth2/{}/{name}/ssz_snappy", converter().network().fork_digest_at(Epoch::new(epoch)))
    }

    fn event(topic: &str, json: &str) -> Result<ApiContent, Refusal> {
        let entry = ApiEventEntry { at: Time(7), node: "http://node".into(), topic: topic.into(), json: json.into() };
        converter().api_event(&entry)
    }

    #[test]
    fn size_limits_are_those_of_the_forks_container() {
        let payload = |n| limits::pack(&vec![3u8; n]).unwrap();
        let single = gossip(topic(10, "beacon_attestation_3"), payload(240)).unwrap();
        assert_eq!((single.origin.fork, single.kind), (Some(ForkName::Electra), MessageKind::Attestation { subnet: 3 }));
        let refusal = gossip(topic(10, "beacon_attestation_3"), payload(241)).unwrap_err();
        assert_eq!((refusal.label(), refusal.peer.as_deref()), ("too_long", Some(&[1u8, 2][..])));
        assert!(gossip(topic(0, "beacon_attestation_3"), payload(485)).is_ok());
        assert_eq!(gossip(topic(0, "beacon_attestation_3"), vec![9, 1]).unwrap_err().label(), "bad_snappy");
        assert_eq!(gossip(topic(0, "voluntary_exit"), payload(1)).unwrap_err().label(), "topic_not_read");
        assert_eq!(gossip("junk".into(), payload(1)).unwrap_err().label(), "topic_malformed");
    }

    #[test]
    fn a_message_of_an_unknown_fork_goes_on_with_its_peer() {
        let message = gossip("/eth2/01020304/beacon_block/ssz_snappy".into(), limits::pack(&[0; 300]).unwrap()).unwrap();
        assert_eq!((message.origin.fork, message.origin.peer.as_deref()), (None, Some(&[1u8, 2][..])));
    }

    #[test]
    fn a_block_counts_as_arrived_when_its_slot_began() {
        let mut ssz = vec![0u8; 400];
        ssz[0] = 100;
        ssz[100..108].copy_from_slice(&80u64.to_le_bytes());
        let message = converter().block(ssz).unwrap();
        assert_eq!(message.received_at, Time((1_700_000_000 + 480) * 1_000_000_000));
        assert_eq!((message.origin.fork, message.origin.source), (Some(ForkName::Electra), SourceKind::Block));
        assert_eq!(converter().block(vec![0; 50]).unwrap_err().label(), "short_block");
    }

    #[test]
    fn events_with_a_message_become_its_ssz() {
        let root = format!("0x{}", "11".repeat(32));
        let signature = format!("0x{}", "22".repeat(96));
        let data = |slot: u64| {
            serde_json::json!({"slot": slot.to_string(), "index": "0", "beacon_block_root": root,
                "source": {"epoch": "1", "root": root}, "target": {"epoch": "2", "root": root}})
        };
        let message = |topic: &str, json: serde_json::Value| match event(topic, &json.to_string()) {
            Ok(ApiContent::Message(message)) => message,
            other => panic!("{other:?}"),
        };
        let single =
            serde_json::json!({"committee_index": "1", "attester_index": "77", "data": data(81), "signature": signature});
        let single = message("single_attestation", single);
        assert_eq!((single.bytes.len(), single.origin.fork), (240, Some(ForkName::Electra)));
        assert_eq!(SingleAttestation::from_ssz(&single.bytes).unwrap().attester_index.as_u64(), 77);
        let wrapped = serde_json::json!({"version": "electra", "data": {"committee_index": "1", "attester_index": "77",
            "data": data(81), "signature": signature}});
        assert_eq!(message("single_attestation", wrapped).bytes, single.bytes);

        let old = serde_json::json!({"aggregation_bits": "0x0103", "data": data(3), "signature": signature});
        let old = message("attestation", old);
        assert_eq!((old.kind, old.origin.fork, old.bytes.len()), (MessageKind::AttestationByBits, Some(ForkName::Deneb), 230));
        let new = serde_json::json!({"version": "electra", "data": {"aggregation_bits": "0x0103", "data": data(81),
            "signature": signature, "committee_bits": "0x01"}});
        assert_eq!(message("attestation", new).bytes.len(), 231);

        let indexed = serde_json::json!({"attesting_indices": ["3", "5"], "data": data(81), "signature": signature});
        let slashing = message("attester_slashing", serde_json::json!({"attestation_1": indexed, "attestation_2": indexed}));
        assert_eq!((slashing.kind, slashing.bytes.len()), (MessageKind::AttesterSlashing, 2 * (4 + 228 + 16)));
        let header = serde_json::json!({"message": {"slot": "81", "proposer_index": "4", "parent_root": root, "state_root": root,
            "body_root": root}, "signature": signature});
        let slashing = message("proposer_slashing", serde_json::json!({"signed_header_1": header, "signed_header_2": header}));
        assert_eq!((slashing.kind, slashing.bytes.len()), (MessageKind::ProposerSlashing, 416));
        assert_eq!(slashing.received_at, Time(7));
    }

    #[test]
    fn other_events_are_announcements_or_refused() {
        let root = format!("0x{}", "11".repeat(32));
        let block = format!(r#"{{"slot":"9","block":"{root}","execution_optimistic":false}}"#);
        let announced = ApiContent::BlockAnnounced { slot: Slot::new(9), root: Root::repeat_byte(0x11) };
        assert_eq!(event("block", &block), Ok(announced.clone()));
        assert_eq!(event("block_gossip", &block), Ok(announced));
        assert_eq!(event("head", "{}").unwrap_err().label(), "event_not_read");
        for topic in ["block", "attestation", "single_attestation", "attester_slashing", "proposer_slashing"] {
            for json in ["", "{}", "[]", "null", r#"{"data":{"slot":7}}"#, "{\"attestation_1\":{\"data\":{\"slot\":\"5\"}}}"] {
                let refusal = event(topic, json).unwrap_err();
                assert_eq!(refusal.label(), "bad_event", "{topic} {json}");
                assert!(refusal.to_string().ends_with("(from http://node)"), "{refusal}");
            }
        }
    }
}
