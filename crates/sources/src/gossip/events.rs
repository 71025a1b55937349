//! What a listener reports: messages, and what happens with its peers.

use super::goodbyes::PeerGoodbye;
use crate::capture::{GossipEntry, PeerEventEntry};
use crate::topic::Topic;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use verify::{PeerBytes, RawMessage, UnixNs};

/// What comes out of a [`super::GossipHandle`].
#[derive(Clone, Debug)]
pub enum GossipEvent {
    Message(Box<GossipMessage>),
    Peer(PeerEvent),
    /// An address this listener can be reached at, its port filled in, with its peer id.
    ListeningOn(Multiaddr),
}

/// A message for the verifier, and for the capture writer as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipMessage {
    pub raw: RawMessage,
    pub topic: Topic,
    /// Snappy block, as received.
    pub payload: Vec<u8>,
}

impl GossipMessage {
    /// As it is written to a capture.
    pub fn capture_entry(&self) -> GossipEntry {
        GossipEntry {
            received_at: self.raw.received_at,
            peer: self.raw.origin.peer.as_ref().map(|peer| peer.to_vec()).unwrap_or_default(),
            topic: self.topic.to_string(),
            payload: self.payload.clone(),
        }
    }
}

/// Something happened with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEvent {
    pub at: UnixNs,
    pub peer: PeerId,
    pub what: PeerEventKind,
}

impl PeerEvent {
    pub fn peer_bytes(&self) -> PeerBytes {
        Arc::from(self.peer.to_bytes())
    }

    /// As it is written to a capture: `peer`, `event` and the event's fields in one object.
    pub fn capture_entry(&self) -> PeerEventEntry {
        let mut json = serde_json::to_value(&self.what).unwrap_or_default();
        if let Some(object) = json.as_object_mut() {
            object.insert("peer".to_owned(), self.peer.to_base58().into());
        }
        PeerEventEntry { at: self.at, json }
    }
}

/// What happened with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PeerEventKind {
    Connected {
        address: String,
        /// Whether we dialled.
        outbound: bool,
    },
    Disconnected {
        reason: String,
    },
    /// The peer's name for its client and version, as it says.
    Agent {
        agent: String,
    },
    /// What the peer says its chain is.
    Status {
        fork_digest: String,
        finalized_root: String,
        finalized_epoch: String,
        head_root: String,
        head_slot: String,
    },
    /// What the peer says it listens to.
    Metadata {
        seq_number: String,
        attnets: String,
        syncnets: String,
        custody_group_count: String,
    },
    Goodbye {
        /// Whether we said it.
        sent: bool,
        code: u64,
        reason: String,
    },
}

impl PeerEventKind {
    /// All labels, as in `event`.
    pub const LABELS: [&str; 6] = ["connected", "disconnected", "agent", "status", "metadata", "goodbye"];

    /// One word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Disconnected { .. } => "disconnected",
            Self::Agent { .. } => "agent",
            Self::Status { .. } => "status",
            Self::Metadata { .. } => "metadata",
            Self::Goodbye { .. } => "goodbye",
        }
    }
}

/// A peer's state now, for status pages and tests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerInfo {
    /// Base58; empty for a configured address whose peer is not known yet.
    pub peer: String,
    pub address: String,
    /// From the configuration, so connected again for ever.
    pub configured: bool,
    pub connected: bool,
    /// How its client calls itself; of a configured peer also after it has gone.
    pub agent: Option<String>,
    pub head_slot: Option<u64>,
    /// gossipsub's; under -120 the peer is ignored.
    pub score: f64,
    /// Messages it was the first to bring.
    pub messages: u64,
    /// Topics it is subscribed to.
    pub topics: usize,
    /// Attempts since the last connection that lasted.
    pub failed_attempts: u32,
    /// Why it is not connected, in words.
    pub last_problem: Option<String>,
    /// Its last goodbye with a lasting reason, until a connection outlasts the pause that followed.
    pub goodbye: Option<PeerGoodbye>,
    /// Seconds until a configured peer is dialled again.
    pub next_attempt_seconds: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_event_is_one_flat_object() {
        let peer = PeerId::random();
        let event = PeerEvent {
            at: UnixNs(5),
            peer,
            what: PeerEventKind::Goodbye { sent: false, code: 129, reason: "too many peers".into() },
        };
        let entry = event.capture_entry();
        assert_eq!(
            entry.json,
            serde_json::json!({"peer": peer.to_base58(), "event": "goodbye", "sent": false, "code": 129, "reason": "too many peers"})
        );
        assert_eq!(serde_json::from_value::<PeerEventKind>(entry.json).unwrap(), event.what);
        assert_eq!(event.what.label(), "goodbye");
    }
}
