//! What a listener reports of its peers.

use super::goodbyes::PeerGoodbye;
use crate::capture::PeerEventEntry;
use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use verify::{PeerBytes, Time};

/// An event of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEvent {
    pub at: Time,
    pub peer: PeerId,
    pub what: PeerEventKind,
}

impl PeerEvent {
    pub fn peer_bytes(&self) -> PeerBytes {
        Arc::from(self.peer.to_bytes())
    }

    /// Returns the event as an entry of a capture: `peer`, `event` and the event's fields in one
    /// object.
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
        /// Whether this node dialled.
        outbound: bool,
    },
    Disconnected {
        reason: String,
    },
    /// The name and version of the peer's client, as the peer reports them.
    Agent {
        agent: String,
    },
    /// The peer's status: what it reports about its chain.
    Status {
        fork_digest: String,
        finalized_root: String,
        finalized_epoch: String,
        head_root: String,
        head_slot: String,
    },
    /// The peer's metadata: the subnets that it reports to be subscribed to.
    Metadata {
        seq_number: String,
        attnets: String,
        syncnets: String,
        custody_group_count: String,
    },
    Goodbye {
        /// Whether this node sent the goodbye.
        sent: bool,
        code: u64,
        reason: String,
    },
}

impl PeerEventKind {
    /// All labels, as in the field `event`.
    pub const LABELS: [&str; 6] = ["connected", "disconnected", "agent", "status", "metadata", "goodbye"];

    /// The label of this event in metrics.
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

/// The current state of a peer, for status pages and tests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerInfo {
    /// Base58 peer id. It is empty for a configured address whose peer is not known yet.
    pub peer: String,
    pub address: String,
    /// Whether the peer is in the configuration, so that it is always dialled again.
    pub configured: bool,
    pub connected: bool,
    /// The agent string of its client. For a configured peer it is kept after the peer disconnects.
    pub agent: Option<String>,
    pub head_slot: Option<u64>,
    /// gossipsub's score. A peer with less than -120 is ignored.
    pub score: f64,
    /// Messages that this peer delivered first.
    pub messages: u64,
    /// Number of topics to which it is subscribed.
    pub topics: usize,
    /// Failed attempts and ended connections since the last connection that lasted.
    pub failed_attempts: u32,
    /// The reason why it is not connected, as text.
    pub last_problem: Option<String>,
    /// Its last goodbye with a lasting reason, until a connection lasts longer than the pause that
    /// followed.
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
            at: Time(5),
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
