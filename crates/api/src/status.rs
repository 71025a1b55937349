//! What the process reports about itself: its status and whether it is ready.

use crate::coverage::{Coverage, CoverageSummary};
use consensus::{Checkpoint, Root, Slot};
use evidence::{OutboxCounts, Time};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Reports the state of the process. It is called once per request, so it should answer from
/// memory.
pub trait StatusSource: Send + Sync + 'static {
    fn status(&self) -> Status;
    fn readiness(&self) -> Readiness;

    /// How much of the network is heard. `None` if that is not measured, as for a recording.
    fn coverage(&self) -> Option<Coverage> {
        None
    }
}

/// The answer of `/readyz`. The process is ready if the first three fields are true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// Votes or blocks arrived within the last two slots of the network's clock.
    pub listening: bool,
    /// The registry and at least one committee context are known.
    pub context_loaded: bool,
    /// The vote index accepts votes, and the disk accepts writes.
    pub index_open: bool,
    /// When the latest vote or block arrived. Null before the first one since the start.
    #[schema(value_type = Option<String>)]
    pub last_message: Option<Time>,
    /// Since when the process is not ready. Null while it is ready.
    #[schema(value_type = Option<String>)]
    pub since: Option<Time>,
    /// Sentences that say what to do about the missing parts. Empty while the process is ready.
    pub advice: Vec<String>,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.listening && self.context_loaded && self.index_open
    }

    /// Returns what is missing, in words. The list is empty if the process is ready.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (self.listening, "no vote or block has come from the network"),
            (self.context_loaded, "registry and committees are not loaded"),
            (self.index_open, "nothing can be recorded"),
        ];
        parts.into_iter().filter(|(is_there, _)| !is_there).map(|(_, text)| text).collect()
    }
}

/// The state of the process, as its parts report it.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Name of the network (`CONFIG_NAME`).
    pub network: String,
    #[schema(value_type = String)]
    pub genesis_validators_root: Root,
    /// Current slot by this machine's clock.
    #[schema(value_type = String)]
    pub clock_slot: Slot,
    /// The newest verified block.
    pub head: Head,
    #[schema(value_type = Option<CheckpointSchema>)]
    pub finalized: Option<Checkpoint>,
    /// Number of connected gossip peers.
    pub peers: u64,
    /// The gossip peers, connected or not, those of the configuration first. The length of the list
    /// is limited.
    pub gossip_peers: Vec<PeerView>,
    /// How this node is connected to the network. Null without gossip.
    pub connections: Option<Connections>,
    /// Number of validators in the registry.
    pub validators: u64,
    /// Counters by stage, then by outcome. In each stage, the outcomes add up to the number of
    /// inputs.
    pub stages: BTreeMap<String, BTreeMap<String, u64>>,
    /// Statistics of the vote index, by name.
    pub index: BTreeMap<String, u64>,
    /// Slots that were not watched, or not completely.
    pub gaps: Vec<Gap>,
    pub node: NodeState,
    /// Sentences about what an operator should check.
    pub notices: Vec<String>,
    /// This is a recorded data directory, shown by `slashwatch serve`, or a simulated network that
    /// has ended. Nothing is received, so it is never ready.
    pub recording: bool,
    /// The data directory, for commands that read it. Null for readers who may not see paths.
    pub data_dir: Option<String>,
}

/// How the watcher's node is connected to the network. Configured peers are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Connections {
    /// Connected peers that have dialled this node.
    pub inbound: u64,
    /// Connected peers that this node has dialled.
    pub outbound: u64,
    /// Connections that others have opened from outside since the start. While it is 0, a firewall
    /// or a router may keep everybody away.
    pub reached_from_outside: u64,
    /// When the last of them was opened.
    #[schema(value_type = Option<String>)]
    pub last_reached: Option<Time>,
    /// Nodes of this network that discovery knows and that can be dialled. Null without discovery.
    pub known_nodes: Option<u64>,
    /// The node's record (ENR). Null without discovery, and for readers who may not see addresses.
    pub record: Option<String>,
    /// The addresses in the record.
    pub external: Vec<String>,
    /// Subscribed topics of which no peer is connected, so that nothing is heard of them.
    pub silent_topics: Vec<String>,
    /// Connected peers of each subscribed topic.
    pub topics: BTreeMap<String, u64>,
}

/// A gossip peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeerView {
    /// Id of the peer. For a configured peer that has not answered yet, its address.
    pub peer: String,
    /// Name that the peer's client gives itself. For a configured peer it stays after the peer has
    /// gone.
    pub agent: Option<String>,
    /// The peer is in the configuration, so it is dialled again forever.
    pub configured: bool,
    pub connected: bool,
    /// The last goodbye with a lasting reason. It is removed when a connection lasts longer than
    /// the pause that followed the goodbye.
    pub goodbye: Option<GoodbyeView>,
    /// Seconds until a configured peer is dialled again.
    pub next_attempt_seconds: Option<u64>,
}

/// Why a peer has disconnected from this watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GoodbyeView {
    /// Reason code: 3 fault, 128 cannot verify the network, 129 too many peers, 250 bad score, 251
    /// banned, 252 banned address.
    pub code: String,
    /// The reason in words.
    pub reason: String,
    /// Number of such goodbyes in a row.
    pub times: u32,
}

/// The newest verified block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Head {
    #[schema(value_type = String)]
    pub slot: Slot,
    #[schema(value_type = String)]
    pub root: Root,
}

/// A range of slots that were not watched, or not completely. Both ends are included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Gap {
    #[schema(value_type = String)]
    pub from_slot: Slot,
    #[schema(value_type = String)]
    pub to_slot: Slot,
    pub reason: String,
}

/// Whether a beacon node answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    /// The watcher runs from a state file.
    #[default]
    NotConfigured,
    Connected,
    /// No node answers. The watcher continues with what it knows.
    Away {
        reason: String,
    },
}

/// The answer of `/v1/status`: [`Status`], and numbers from the store.
#[derive(Serialize, ToSchema)]
#[schema(as = StatusView)]
pub(crate) struct StatusAnswer {
    pub(crate) schema: u64,
    #[serde(flatten)]
    pub(crate) status: Status,
    /// Number of stored findings that this reader may see, which is also the number of the newest
    /// one. `/v1/events?after=<it minus 50>` shows the last 50.
    pub(crate) findings: u64,
    pub(crate) deliveries: OutboxCounts,
    /// How much of the network is heard first-hand; `/v1/coverage` has all of it. Null for a
    /// recording.
    pub(crate) coverage: Option<CoverageSummary>,
    pub(crate) ready: bool,
    pub(crate) readiness: Readiness,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub(crate) struct CheckpointSchema {
    epoch: String,
    root: String,
}

/// The state of a process that only serves the findings of this network's store.
pub struct NothingReported(pub Root);

impl StatusSource for NothingReported {
    fn status(&self) -> Status {
        let node = NodeState::Away { reason: String::new() };
        Status { genesis_validators_root: self.0, node, ..Status::default() }
    }

    fn readiness(&self) -> Readiness {
        Readiness::default()
    }
}
