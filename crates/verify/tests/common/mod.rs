//! Captures and the specification's cases as messages for the verifier.

#![allow(dead_code, reason = "each test file uses its part")]

use chain::{Chain, PubkeyCache};
use consensus::{ForkName, Network, Spec};
use std::path::Path;
use test_support::capture::CapturedMessage;
use verify::{MessageKind, MessageParts, Origin, PeerBytes, RawMessage, SourceKind, Ticket, Time};

/// A capture: its chain at genesis, and its messages in order, numbered by their tickets.
pub struct Capture {
    pub name: String,
    pub spec: Spec,
    pub state: Vec<u8>,
    pub messages: Vec<RawMessage>,
    /// What a replay must find.
    pub expected: serde_json::Value,
}

impl Capture {
    fn read(path: &Path) -> Self {
        let expected = std::fs::read(path.with_extension("expected.json")).unwrap();
        let expected = serde_json::from_slice(&expected).unwrap();
        Self { expected, ..Self::of(test_support::capture::Capture::read(path)) }
    }

    /// A capture in memory, with nothing that a replay must find.
    pub fn of_bytes(name: &str, bytes: &[u8]) -> Self {
        Self::of(test_support::capture::Capture::parse(name, bytes))
    }

    fn of(read: test_support::capture::Capture) -> Self {
        let network = chain_of(&read.spec, &read.state).network().clone();
        let messages = (0..).zip(&read.gossip).filter_map(|(number, message)| raw_message(&network, message, number)).collect();
        Self { name: read.name, spec: read.spec, state: read.state, messages, expected: serde_json::Value::Null }
    }

    pub fn chain(&self) -> Chain {
        chain_of(&self.spec, &self.state)
    }
}

fn chain_of(spec: &Spec, state: &[u8]) -> Chain {
    Chain::from_state(spec.clone(), state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

/// Every capture; never none.
pub fn captures() -> Vec<Capture> {
    test_support::captures().iter().map(|path| Capture::read(path)).collect()
}

pub fn capture(name: &str) -> Capture {
    Capture::read(&test_support::capture(name))
}

/// `None` for what no topic that is read brings, and for what a source refuses.
fn raw_message(network: &Network, message: &CapturedMessage, number: u64) -> Option<RawMessage> {
    let parts = MessageParts {
        origin: Origin {
            source: SourceKind::Gossip,
            peer: Some(PeerBytes::from(message.peer.as_slice())),
            fork: network.fork_of_digest(consensus::ForkDigest(message.digest)),
            subscribed: None,
        },
        kind: kind(&message.topic)?,
        received_at: Time(message.received_at_ns),
        bytes: message.ssz()?,
        ticket: Some(Ticket(number)),
    };
    RawMessage::new(parts).ok()
}

pub fn kind(name: &str) -> Option<MessageKind> {
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|n| n.parse().ok());
    Some(match name {
        "beacon_block" => MessageKind::Block,
        "beacon_aggregate_and_proof" => MessageKind::Aggregate,
        "attester_slashing" => MessageKind::AttesterSlashing,
        "proposer_slashing" => MessageKind::ProposerSlashing,
        "payload_attestation_message" => MessageKind::PayloadAttestation,
        "inclusion_list" => MessageKind::InclusionList,
        _ => {
            let subnet = number("beacon_attestation_").map(|subnet| MessageKind::Attestation { subnet });
            let blob = || number("blob_sidecar_").map(|index| MessageKind::BlobSidecar { index });
            let column = || number("data_column_sidecar_").map(|index| MessageKind::DataColumnSidecar { index });
            return subnet.or_else(blob).or_else(column);
        }
    })
}

/// The configuration of the specification's minimal tests: the given fork from genesis on.
pub fn minimal_spec(fork: ForkName) -> Spec {
    let mut yaml =
        String::from("PRESET_BASE: minimal\nCONFIG_NAME: minimal\nSECONDS_PER_SLOT: 6\nGENESIS_FORK_VERSION: 0x00000001\n");
    for (i, name) in ForkName::ALL.into_iter().enumerate().skip(1) {
        let epoch = if name <= fork { 0 } else { u64::MAX };
        let key = name.as_str().to_uppercase();
        yaml.push_str(&format!("{key}_FORK_VERSION: 0x0{i}000001\n{key}_FORK_EPOCH: {epoch}\n"));
    }
    Spec::from_yaml(&yaml).unwrap()
}
