//! The JSON of the API. Clients may rely on it.
//!
//! Numbers that are u64 in Ethereum's specification are decimal strings, and bytes are 0x-hex. Our
//! own counts are plain numbers.
//!
//! Findings are shown exactly as they are stored ([`evidence::Finding`]). `FindingSchema` only
//! describes them for `/openapi.json`. A test checks that both agree.

use consensus::{Checkpoint, Epoch, Root, Slot};
use evidence::{Finding, Incident, OutboxCounts, Submission, Time};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Reports the state of the process. It is called once per request, so it should answer from
/// memory.
pub trait StatusSource: Send + Sync + 'static {
    fn status(&self) -> Status;
    fn readiness(&self) -> Readiness;
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
pub(crate) struct StatusView {
    pub(crate) schema: u64,
    #[serde(flatten)]
    pub(crate) status: Status,
    /// Number of stored findings, which is also the number of the newest one. `/v1/events?after=<it
    /// minus 50>` shows the last 50.
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
    /// Cursor of the next page, for the parameter `cursor`. Null at the end. A page may have fewer
    /// findings than requested and still have a page after it.
    pub(crate) next: Option<String>,
}

/// Describes [`evidence::Finding`].
#[derive(Serialize, ToSchema)]
#[schema(as = Finding)]
#[allow(dead_code, reason = "documents another crate's type")]
pub(crate) struct FindingSchema {
    schema: u64,
    /// SHA-256 of who did what. It is the same on every machine.
    id: String,
    /// `double_vote`, `surround_vote`, `double_proposal`, or the name of an anomaly.
    kind: String,
    /// `critical`, `warning` or `info`.
    severity: String,
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = String)]
    epoch: Epoch,
    /// Absent for anomalies that concern no single validator.
    #[schema(required = false)]
    validator: SubjectSchema,
    /// Arrival of the earlier message, RFC 3339 with nanoseconds.
    first_seen: String,
    /// Arrival of the later message.
    second_seen: Option<String>,
    recorded_at: String,
    /// Any of `gossip`, `block`, `slashing_op`, `api`.
    sources: Vec<String>,
    fork: String,
    /// `yes`, `already_slashed`, `not_active`, `withdrawable`, `fork_expired` or `unknown`.
    /// Absent for anomalies.
    #[schema(required = false)]
    punishable: String,
    /// The block that carried the slashing, once it was seen.
    included: Option<IncludedSchema>,
    /// Null for anomalies.
    evidence: Option<EvidenceRefSchema>,
    /// What was observed. Only anomalies have it, and its fields depend on the kind.
    #[schema(required = false, value_type = Object)]
    details: serde_json::Value,
}

/// A page of incidents, in the order of their last change.
#[derive(Serialize, ToSchema)]
pub(crate) struct IncidentsView {
    pub(crate) schema: u64,
    #[schema(value_type = Vec<IncidentSchema>)]
    pub(crate) incidents: Vec<Incident>,
    /// Cursor of the next page, for the parameter `cursor`. Null at the end.
    pub(crate) next: Option<String>,
}

/// Describes [`evidence::Incident`].
#[derive(Serialize, ToSchema)]
#[schema(as = Incident)]
#[allow(dead_code, reason = "documents another crate's type")]
pub(crate) struct IncidentSchema {
    schema: u64,
    id: String,
    /// `slashing_wave`, or the name of an anomaly.
    kind: String,
    /// `open`, `growing`, `waning` or `closed`.
    state: String,
    /// `critical`, `warning` or `info`.
    severity: String,
    #[schema(value_type = String)]
    first_slot: Slot,
    #[schema(value_type = String)]
    last_slot: Slot,
    /// When the incident opened, by the time of the messages. RFC 3339 with nanoseconds.
    opened_at: String,
    closed_at: Option<String>,
    /// Number of validators concerned, a decimal string. Null if that has no meaning for the kind.
    validators: Option<String>,
    /// Number of offences by kind, decimal strings.
    #[schema(required = false, value_type = Object)]
    offences: serde_json::Value,
    /// What several members have in common.
    #[schema(required = false)]
    shared: Vec<SharedTraitSchema>,
    /// What the members lose by the rules of the protocol, in Gwei as decimal strings.
    #[schema(required = false, value_type = Object)]
    penalty: serde_json::Value,
    /// Further fields, which depend on the kind.
    #[schema(value_type = Object)]
    details: serde_json::Value,
}

/// A page of submissions, in the order of their first attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct SubmissionsView {
    pub(crate) schema: u64,
    #[schema(value_type = Vec<SubmissionSchema>)]
    pub(crate) submissions: Vec<Submission>,
    /// Cursor of the next page, for the parameter `cursor`. Null at the end.
    pub(crate) next: Option<String>,
}

/// Describes [`evidence::Submission`].
#[derive(Serialize, ToSchema)]
#[schema(as = Submission)]
#[allow(dead_code, reason = "documents another crate's type")]
pub(crate) struct SubmissionSchema {
    schema: u64,
    /// Number of the submission, starting from 1, in the order of the first attempt.
    number: u64,
    /// Id of the proof.
    evidence: String,
    /// `attester_slashing` or `proposer_slashing`.
    r#type: String,
    fork: String,
    /// Id of the first finding that the proof shows.
    finding: String,
    /// `pending`, `accepted`, `refused` or `not_needed`.
    state: String,
    /// Number of attempts that were started so far.
    attempts: u32,
    first_attempt: String,
    last_attempt: String,
    /// Base addresses of the nodes that accepted the proof.
    nodes: Vec<String>,
    /// The answer of a node that refused, or why the submission was not needed, or the error of the
    /// last attempt.
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
