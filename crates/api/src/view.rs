//! The JSON that outside readers may rely on. Numbers that are u64 in Ethereum's spec are decimal strings, bytes are
//! 0x-hex; counts of ours are plain numbers.
//!
//! Findings are shown exactly as they are stored ([`evidence::Finding`]); `FindingSchema` only describes them for
//! `/openapi.json`, and a test holds the two together.

use consensus::{Checkpoint, Epoch, Root, Slot};
use evidence::{Finding, Incident, OutboxCounts, Submission, Time};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Says how the process is. Asked once per request: it should answer from what is at hand.
pub trait StatusSource: Send + Sync + 'static {
    fn status(&self) -> Status;
    fn readiness(&self) -> Readiness;
}

/// What `/readyz` reports. Ready is the first three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// Votes or blocks arrived within the last two slots of the network's clock.
    pub listening: bool,
    /// Registry and at least one committee context are known.
    pub context_loaded: bool,
    /// The vote index takes votes, and the disk takes what is recorded.
    pub index_open: bool,
    /// When the latest vote or block arrived; null before the first since the start.
    #[schema(value_type = Option<String>)]
    pub last_message: Option<Time>,
    /// Since when it is not ready; null while it is.
    #[schema(value_type = Option<String>)]
    pub since: Option<Time>,
    /// What to do about what is missing, in sentences; empty while it is ready.
    pub advice: Vec<String>,
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.listening && self.context_loaded && self.index_open
    }

    /// What is missing, in words; empty when it is ready.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (self.listening, "no vote or block has come from the network"),
            (self.context_loaded, "registry and committees are not loaded"),
            (self.index_open, "nothing can be recorded"),
        ];
        parts.into_iter().filter(|(is_there, _)| !is_there).map(|(_, text)| text).collect()
    }
}

/// How the process is, as its parts say.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// The network's name (`CONFIG_NAME`).
    pub network: String,
    #[schema(value_type = String)]
    pub genesis_validators_root: Root,
    /// Slot by our own clock.
    #[schema(value_type = String)]
    pub clock_slot: Slot,
    /// Newest verified block.
    pub head: Head,
    #[schema(value_type = Option<CheckpointSchema>)]
    pub finalized: Option<Checkpoint>,
    /// Connected gossip peers.
    pub peers: u64,
    /// Gossip peers one by one, those of the configuration first, connected or not; a stated number at most.
    pub gossip_peers: Vec<PeerView>,
    /// Validators in the registry.
    pub validators: u64,
    /// Counters by stage, then by outcome. Within a stage the outcomes add up to what came in.
    pub stages: BTreeMap<String, BTreeMap<String, u64>>,
    /// Numbers the vote index gives about itself, by name.
    pub index: BTreeMap<String, u64>,
    /// Slots that were not, or not fully, watched.
    pub gaps: Vec<Gap>,
    pub node: NodeState,
    /// What an operator should look at, in sentences.
    pub notices: Vec<String>,
}

/// A gossip peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeerView {
    /// Its id; of a configured peer that has not answered yet, its address.
    pub peer: String,
    /// How its client calls itself; of a configured peer also after it has gone.
    pub agent: Option<String>,
    /// From the configuration, so connected again for ever.
    pub configured: bool,
    pub connected: bool,
    /// Its last goodbye with a reason that lasts, until a connection outlasts the pause that followed.
    pub goodbye: Option<GoodbyeView>,
    /// When a configured peer is dialled again.
    pub next_attempt_seconds: Option<u64>,
}

/// Why a peer wants no more of us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GoodbyeView {
    /// 3 fault, 128 cannot verify the network, 129 too many peers, 250 bad score, 251 banned, 252 banned address.
    pub code: String,
    /// The same in words.
    pub reason: String,
    /// How often in a row.
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

/// Slots that were not, or not fully, watched; both ends belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Gap {
    #[schema(value_type = String)]
    pub from_slot: Slot,
    #[schema(value_type = String)]
    pub to_slot: Slot,
    pub reason: String,
}

/// Whether a beacon node can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    /// The watcher runs from a state file.
    #[default]
    NotConfigured,
    Connected,
    /// Going on with what is known.
    Away {
        reason: String,
    },
}

/// `/v1/status`: [`Status`], and what the store knows.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatusView {
    pub(crate) schema: u64,
    #[serde(flatten)]
    pub(crate) status: Status,
    /// Findings stored, which is also the number of the newest: `/v1/events?after=<it minus 50>` shows the last 50.
    pub(crate) findings: u64,
    #[schema(value_type = OutboxSchema)]
    pub(crate) deliveries: OutboxCounts,
    pub(crate) ready: bool,
    pub(crate) readiness: Readiness,
}

/// A page of findings, in the order of recording.
#[derive(Serialize, ToSchema)]
pub(crate) struct FindingsView {
    pub(crate) schema: u64,
    #[schema(value_type = Vec<FindingSchema>)]
    pub(crate) findings: Vec<Finding>,
    /// Give it as `cursor` for the next page; null at the end. A page may have fewer findings than asked for and still
    /// have one after it.
    pub(crate) next: Option<String>,
}

/// Describes [`evidence::Finding`].
#[derive(Serialize, ToSchema)]
#[schema(as = Finding)]
#[allow(dead_code, reason = "documents another crate's type")]
pub(crate) struct FindingSchema {
    schema: u64,
    /// SHA-256 of what was done by whom; the same on every machine.
    id: String,
    /// `double_vote`, `surround_vote`, `double_proposal`, or an anomaly's name.
    kind: String,
    /// `critical`, `warning` or `info`.
    severity: String,
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = String)]
    epoch: Epoch,
    /// Absent for anomalies that are nobody's.
    #[schema(required = false)]
    validator: SubjectSchema,
    /// RFC 3339 with nanoseconds: arrival of the earlier message.
    first_seen: String,
    /// Arrival of the later message.
    second_seen: Option<String>,
    recorded_at: String,
    /// Any of `gossip`, `block`, `slashing_op`, `api`.
    sources: Vec<String>,
    fork: String,
    /// `yes`, `already_slashed`, `not_active`, `withdrawable`, `fork_expired` or `unknown`. Absent for anomalies.
    #[schema(required = false)]
    punishable: String,
    /// The block that carried the slashing, once seen.
    included: Option<IncludedSchema>,
    /// Null for anomalies.
    evidence: Option<EvidenceRefSchema>,
    /// Of anomalies: what was seen, by kind.
    #[schema(required = false, value_type = Object)]
    details: serde_json::Value,
}

/// A page of incidents, in the order of their last change.
#[derive(Serialize, ToSchema)]
pub(crate) struct IncidentsView {
    pub(crate) schema: u64,
    #[schema(value_type = Vec<IncidentSchema>)]
    pub(crate) incidents: Vec<Incident>,
    /// Give it as `cursor` for the next page; null at the end.
    pub(crate) next: Option<String>,
}

/// Describes [`evidence::Incident`].
#[derive(Serialize, ToSchema)]
#[schema(as = Incident)]
#[allow(dead_code, reason = "documents another crate's type")]
pub(crate) struct IncidentSchema {
    schema: u64,
    id: String,
    /// `slashing_wave`, or an anomaly's name.
    kind: String,
    /// `open`, `growing`, `waning` or `closed`.
    state: String,
    /// `critical`, `warning` or `info`.
    severity: String,
    #[schema(value_type = String)]
    first_slot: Slot,
    #[schema(value_type = String)]
    last_slot: Slot,
    /// RFC 3339 with nanoseconds, by the time of the messages.
    opened_at: String,
    closed_at: Option<String>,
    /// How many are concerned, a decimal string; null where that means nothing.
    validators: Option<String>,
    /// Numbers by kind, decimal strings.
    #[schema(required = false, value_type = Object)]
    offences: serde_json::Value,
    /// What several members have in common.
    #[schema(required = false)]
    shared: Vec<SharedTraitSchema>,
    /// What the members lose by the protocol's rules, Gwei as decimal strings.
    #[schema(required = false, value_type = Object)]
    penalty: serde_json::Value,
    /// By kind.
    #[schema(value_type = Object)]
    details: serde_json::Value,
}

/// A page of submissions, in the order of their first attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct SubmissionsView {
    pub(crate) schema: u64,
    #[schema(value_type = Vec<SubmissionSchema>)]
    pub(crate) submissions: Vec<Submission>,
    /// Give it as `cursor` for the next page; null at the end.
    pub(crate) next: Option<String>,
}

/// Describes [`evidence::Submission`].
#[derive(Serialize, ToSchema)]
#[schema(as = Submission)]
#[allow(dead_code, reason = "documents another crate's type")]
pub(crate) struct SubmissionSchema {
    schema: u64,
    /// From 1, in the order of the first attempt.
    number: u64,
    /// Id of the proof.
    evidence: String,
    /// `attester_slashing` or `proposer_slashing`.
    r#type: String,
    fork: String,
    /// Id of the first finding that it proves.
    finding: String,
    /// `pending`, `accepted`, `refused` or `not_needed`.
    state: String,
    /// Attempts begun so far.
    attempts: u32,
    first_attempt: String,
    last_attempt: String,
    /// Base addresses of the nodes that took it.
    nodes: Vec<String>,
    /// A refusing node's words, why it was not needed, or what the last attempt met.
    answer: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SharedTrait)]
pub(crate) struct SharedTraitSchema {
    /// `label:<key>`, `client`, `withdrawal_credential`, `activation_epoch` or `fork_side`.
    what: String,
    value: String,
    members: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Subject)]
pub(crate) struct SubjectSchema {
    index: String,
    pubkey: String,
    labels: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Included)]
pub(crate) struct IncludedSchema {
    slot: String,
    block_root: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = EvidenceRef)]
pub(crate) struct EvidenceRefSchema {
    /// `attester_slashing` or `proposer_slashing`.
    r#type: String,
    id: String,
    ssz: String,
    json: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub(crate) struct CheckpointSchema {
    epoch: String,
    root: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Outbox)]
pub(crate) struct OutboxSchema {
    pending: u64,
    delivered: u64,
    given_up: u64,
}
