//! Findings, with the fields that the contract ("Findings") fixes.
//!
//! The id of a slashable finding is
//!
//! ```text
//! SHA-256(genesis validators root | kind in ASCII | validator index, u64 LE
//!         | smaller root | greater root)
//! ```
//!
//! The roots are the hash-tree-roots of the two contradicting `AttestationData` or
//! `BeaconBlockHeader`. Nothing in the id depends on time, batch, order or on who else signed. So
//! the same offence has the same id on every machine and in every run. For an anomaly, the detector
//! chooses the content that identifies it ([`anomaly_id`]).

use crate::{Evidence, EvidenceKind, Kind, Time};
use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Punishable, Root, Slot, ValidatorIndex};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// The version of the JSON below. Fields may be added. A changed or removed one needs another
/// number.
pub const SCHEMA: u64 = 1;
/// Field in the details of an offence that cannot be punished. It holds how many more contradicting
/// pairs of that validator, kind and day were counted and not listed. After a crash, the pairs of
/// the last batch may be counted twice.
pub const FURTHER_PAIRS: &str = "further_pairs";

/// An offence of a validator, or an anomaly. The order of the fields is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Version of this JSON.
    pub schema: u64,
    /// SHA-256 of who did what. It is the same on every machine.
    #[schema(value_type = String)]
    pub id: Root,
    /// `double_vote`, `surround_vote`, `double_proposal`, or the name of an anomaly.
    #[schema(value_type = String)]
    pub kind: Kind,
    pub severity: Severity,
    /// The greater of the two messages' slots.
    #[schema(value_type = String)]
    pub slot: Slot,
    /// The target epoch of that message. For a proposal, the epoch of its slot.
    #[schema(value_type = String)]
    pub epoch: Epoch,
    /// Absent only for anomalies that no single validator caused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<Subject>,
    /// Arrival of the earlier message.
    #[schema(value_type = String)]
    pub first_seen: Time,
    /// Arrival of the later message. Null for an anomaly of one message.
    #[schema(value_type = Option<String>)]
    pub second_seen: Option<Time>,
    /// The wall clock when the finding was recorded. It is not part of the id.
    #[schema(value_type = String)]
    pub recorded_at: Time,
    /// Sources of the messages (`gossip`, `block`, `slashing_op`, `api`), sorted, each once.
    pub sources: Vec<String>,
    /// The fork at `epoch`.
    #[schema(value_type = String)]
    pub fork: ForkName,
    /// Whether a block can still punish the offence. Absent for anomalies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub punishable: Option<Punishable>,
    /// The block that included the slashing. Null until such a block is seen.
    pub included: Option<Included>,
    /// The proof. Null for anomalies.
    pub evidence: Option<EvidenceRef>,
    /// For an anomaly: what was seen, depending on the kind. For an offence that cannot be
    /// punished: `further_pairs`, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<Map<String, Value>>,
}

/// The severity of a finding or an incident, in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Critical,
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The validator that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    #[schema(value_type = String)]
    pub index: ValidatorIndex,
    #[schema(value_type = String)]
    pub pubkey: PubkeyBytes,
    /// The operator's own labels for it.
    pub labels: Vec<String>,
}

/// The block that included a slashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Included {
    #[schema(value_type = String)]
    pub slot: Slot,
    #[schema(value_type = String)]
    pub block_root: Root,
}

/// A reference to the proof of a finding, with the names of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceRef {
    #[serde(rename = "type")]
    pub kind: EvidenceKind,
    /// The id of the proof.
    #[schema(value_type = String)]
    pub id: Root,
    /// Name of the file with the SSZ.
    pub ssz: String,
    /// Name of the file with the JSON.
    pub json: String,
}

/// The arguments of [`Finding::slashable`].
#[derive(Clone, Debug)]
pub struct OffenceFacts {
    pub genesis_validators_root: Root,
    pub offence: Offence,
    pub validator: ValidatorIndex,
    pub pubkey: PubkeyBytes,
    pub labels: Vec<String>,
    /// Hash-tree-roots of the two contradicting messages, in any order.
    pub roots: [Root; 2],
    /// The greater of the two slots.
    pub slot: Slot,
    /// Target epoch of that message, or the epoch of the proposal's slot.
    pub epoch: Epoch,
    /// Arrival of the two messages, in any order.
    pub seen: [Time; 2],
    /// The wall clock when the finding is recorded.
    pub recorded_at: Time,
    /// Labels of the messages' sources, in any order. Repeats are allowed.
    pub sources: Vec<String>,
    pub fork: ForkName,
    pub punishable: Punishable,
}

/// The arguments of [`Finding::anomaly`].
#[derive(Clone, Debug)]
pub struct Anomaly {
    /// From [`anomaly_id`].
    pub id: Root,
    pub kind: Kind,
    pub severity: Severity,
    pub slot: Slot,
    pub epoch: Epoch,
    pub validator: Option<Subject>,
    pub first_seen: Time,
    pub second_seen: Option<Time>,
    pub recorded_at: Time,
    pub sources: Vec<String>,
    pub fork: ForkName,
    pub details: Map<String, Value>,
}

impl Finding {
    /// Creates a finding of a proven offence. Its id and severity follow from the facts (see
    /// [`Self::set_punishable`]).
    pub fn slashable(facts: OffenceFacts, evidence: &Evidence) -> Self {
        let OffenceFacts { genesis_validators_root, offence, validator, pubkey, labels, roots, slot, epoch, .. } = facts;
        let [one, other] = facts.seen;
        Self {
            schema: SCHEMA,
            id: finding_id(genesis_validators_root, offence, validator, roots[0], roots[1]),
            kind: Kind::Offence(offence),
            severity: severity_of(facts.punishable),
            slot,
            epoch,
            validator: Some(Subject { index: validator, pubkey, labels }),
            first_seen: one.min(other),
            second_seen: Some(one.max(other)),
            recorded_at: facts.recorded_at,
            sources: sorted(facts.sources),
            fork: facts.fork,
            punishable: Some(facts.punishable),
            included: None,
            evidence: Some(evidence.reference()),
            details: None,
        }
    }

    /// Creates a finding of something unusual that no rule of the protocol punishes.
    pub fn anomaly(facts: Anomaly) -> Self {
        Self {
            schema: SCHEMA,
            id: facts.id,
            kind: facts.kind,
            severity: facts.severity,
            slot: facts.slot,
            epoch: facts.epoch,
            validator: facts.validator,
            first_seen: facts.first_seen,
            second_seen: facts.second_seen,
            recorded_at: facts.recorded_at,
            sources: sorted(facts.sources),
            fork: facts.fork,
            punishable: None,
            included: None,
            evidence: None,
            details: Some(facts.details),
        }
    }

    /// The labels of its validator, and the labels that its details name if it concerns many
    /// validators.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let own = self.validator.iter().flat_map(|subject| &subject.labels).map(String::as_str);
        let of_many = self.details.iter().filter_map(|details| details.get("labels")?.as_array()).flatten();
        own.chain(of_many.filter_map(Value::as_str))
    }

    /// Whether [`Self::labels`] contains this label.
    pub fn has_label(&self, label: &str) -> bool {
        self.labels().any(|one| one == label)
    }

    /// Sets whether a block could still punish it. The severity follows: critical as long as a
    /// block might punish it, and info otherwise.
    pub fn set_punishable(&mut self, punishable: Punishable) {
        self.punishable = Some(punishable);
        self.severity = severity_of(punishable);
    }

    /// Whether this is an offence that cannot be punished any more, of a key that nobody watches.
    /// Anyone who holds such a key can commit any number of these offences.
    pub fn is_worthless(&self) -> bool {
        self.severity == Severity::Info && self.punishable.is_some_and(|punishable| !punishable.is_possible())
    }

    /// Adds `n` to the count of further pairs in the details.
    pub(crate) fn add_further_pairs(&mut self, n: u64) {
        let details = self.details.get_or_insert_default();
        let known = details.get(FURTHER_PAIRS).and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        details.insert(FURTHER_PAIRS.into(), known.saturating_add(n).to_string().into());
    }

    /// The offence, or `None` for an anomaly.
    pub fn offence(&self) -> Option<Offence> {
        self.kind.offence()
    }
}

const fn severity_of(punishable: Punishable) -> Severity {
    if punishable.is_possible() { Severity::Critical } else { Severity::Info }
}

/// The id of an offence. The header of this module has the preimage. The order of the roots does
/// not matter.
pub fn finding_id(
    genesis_validators_root: Root,
    offence: Offence,
    validator: ValidatorIndex,
    root_a: Root,
    root_b: Root,
) -> Root {
    hash(&[
        genesis_validators_root.as_slice(),
        offence.as_str().as_bytes(),
        &validator.as_u64().to_le_bytes(),
        root_a.min(root_b).as_slice(),
        root_a.max(root_b).as_slice(),
    ])
}

/// The id of an anomaly: SHA-256(genesis validators root | kind in ASCII | `content`). The detector
/// chooses the content that identifies the anomaly. It has a fixed width for each kind and must not
/// contain a time of arrival.
pub fn anomaly_id(genesis_validators_root: Root, kind: &Kind, content: &[u8]) -> Root {
    hash(&[genesis_validators_root.as_slice(), kind.as_str().as_bytes(), content])
}

fn hash(parts: &[&[u8]]) -> Root {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Root::from_slice(&hasher.finalize())
}

fn sorted(mut sources: Vec<String>) -> Vec<String> {
    sources.sort();
    sources.dedup();
    sources
}

#[cfg(test)]
mod tests;
