//! Findings: what is told to the outside, field for field as the contract ("Findings") fixes it.
//!
//! A slashable finding is named by
//!
//! ```text
//! SHA-256(genesis validators root | kind in ASCII | validator index, u64 LE | smaller root | greater root)
//! ```
//!
//! with the hash-tree-roots of the two contradicting `AttestationData` or `BeaconBlockHeader`: nothing in it depends on
//! time, batch, order or on who else signed, so the same offence has the same id on every machine and in every run.
//! For an anomaly the detector says what makes it *this* one ([`anomaly_id`]).

use crate::{Evidence, EvidenceKind, Kind, Time};
use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Punishable, Root, Slot, ValidatorIndex};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The version of the JSON below. Another shape is another number.
pub const SCHEMA: u64 = 1;
/// In the details of an offence that cannot be punished: how many more contradicting pairs of that validator, kind and day were
/// counted and not listed. After a crash those of the last batch may be counted twice.
pub const FURTHER_PAIRS: &str = "further_pairs";

/// One thing that somebody did, or one anomaly. The order of the fields is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// [`SCHEMA`].
    pub schema: u64,
    pub id: Root,
    pub kind: Kind,
    pub severity: Severity,
    /// The greater of the two messages' slots.
    pub slot: Slot,
    /// Target epoch of that message; of a proposal its slot's epoch.
    pub epoch: Epoch,
    /// Absent only for anomalies that are nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<Subject>,
    /// Arrival of the earlier message.
    pub first_seen: Time,
    /// Arrival of the later one; null for an anomaly of one message.
    pub second_seen: Option<Time>,
    pub recorded_at: Time,
    /// `gossip`, `block`, `slashing_op`, `api`: where the messages came from, sorted, each once.
    pub sources: Vec<String>,
    /// The fork at `epoch`.
    pub fork: ForkName,
    /// Absent for anomalies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub punishable: Option<Punishable>,
    /// The block that carried the slashing, once seen.
    pub included: Option<Included>,
    /// Null for anomalies.
    pub evidence: Option<EvidenceRef>,
    /// Of anomalies: what was seen, by kind. Of an offence that cannot be punished: [`FURTHER_PAIRS`], if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Map<String, Value>>,
}

/// How bad it is; ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// The validator a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub index: ValidatorIndex,
    pub pubkey: PubkeyBytes,
    /// The operator's own names for it.
    pub labels: Vec<String>,
}

/// Where a slashing was included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Included {
    pub slot: Slot,
    pub block_root: Root,
}

/// Names a finding's [`Evidence`] and its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRef {
    #[serde(rename = "type")]
    pub kind: EvidenceKind,
    pub id: Root,
    pub ssz: String,
    pub json: String,
}

/// What [`Finding::slashable`] needs to know.
#[derive(Clone, Debug)]
pub struct Slashable {
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
    pub recorded_at: Time,
    /// Labels of the messages' sources, in any order, repeats allowed.
    pub sources: Vec<String>,
    pub fork: ForkName,
    pub punishable: Punishable,
}

/// What [`Finding::anomaly`] needs to know.
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
    /// A proven offence. Its id and its severity follow from the facts ([`Self::set_punishable`]).
    pub fn slashable(facts: Slashable, evidence: &Evidence) -> Self {
        let Slashable { genesis_validators_root, offence, validator, pubkey, labels, roots, slot, epoch, .. } = facts;
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

    /// Something odd that no protocol rule punishes.
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

    /// Labels of its validator, and those that its details name because it concerns many validators.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let own = self.validator.iter().flat_map(|subject| &subject.labels).map(String::as_str);
        let of_many = self.details.iter().filter_map(|details| details.get("labels")?.as_array()).flatten();
        own.chain(of_many.filter_map(Value::as_str))
    }

    pub fn has_label(&self, label: &str) -> bool {
        self.labels().any(|one| one == label)
    }

    /// Says whether a block could still punish it, and with it how severe it is: critical as long as one might, else info.
    pub fn set_punishable(&mut self, punishable: Punishable) {
        self.punishable = Some(punishable);
        self.severity = severity_of(punishable);
    }

    /// Whether it is an offence for which nobody can lose anything any more, of a key that nobody watches: anyone who holds such a
    /// key can commit any number of them.
    pub fn is_worthless(&self) -> bool {
        self.severity == Severity::Info && self.punishable.is_some_and(|punishable| !punishable.is_possible())
    }

    /// Adds to the count of further pairs in the details.
    pub(crate) fn add_further_pairs(&mut self, n: u64) {
        let details = self.details.get_or_insert_default();
        let known = details.get(FURTHER_PAIRS).and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        details.insert(FURTHER_PAIRS.into(), known.saturating_add(n).to_string().into());
    }

    /// The offence, if it is one.
    pub fn offence(&self) -> Option<Offence> {
        self.kind.offence()
    }
}

const fn severity_of(punishable: Punishable) -> Severity {
    if punishable.is_possible() { Severity::Critical } else { Severity::Info }
}

/// Names an offence; see the header for the preimage. The order of the roots does not matter.
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

/// Names an anomaly: SHA-256(genesis validators root | kind in ASCII | what makes it this one). `content` is the detector's
/// choice, of fixed width by kind, and must not contain a time of arrival.
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
