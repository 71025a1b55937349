//! What a detector says.

use consensus::{Slot, ValidatorIndex};
use evidence::{Incident, Kind, Severity, SharedTrait};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use verify::UnixNs;

/// The details of one kind, declared by the detector that finds it. They are written as the JSON
/// map of a finding or an incident, and read from there again.
pub trait Details: Serialize + DeserializeOwned {
    const KIND: Kind;

    /// One sentence for people, without its full stop. `validators`: how many are concerned, as
    /// the incident says.
    fn sentence(&self, validators: Option<u64>) -> String;

    /// `None` if another version of this program wrote them with other fields.
    fn of_stored(details: &Map<String, Value>) -> Option<Self> {
        serde_json::from_value(Value::Object(details.clone())).ok()
    }
}

/// A kind with its details as they are stored. It is made of [`Details`] only, so that they belong
/// together.
#[derive(Clone, Debug)]
pub struct Described {
    kind: Kind,
    details: Map<String, Value>,
}

impl Described {
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    pub fn into_parts(self) -> (Kind, Map<String, Value>) {
        (self.kind, self.details)
    }
}

impl<D: Details> From<D> for Described {
    fn from(details: D) -> Self {
        match serde_json::to_value(details) {
            Ok(Value::Object(details)) => Self { kind: D::KIND, details },
            other => unreachable!("details are structs of named fields: {other:?}"),
        }
    }
}

/// One statement of a detector.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Happened once: becomes a finding without proof.
    Anomaly(SingleAnomaly),
    /// Is so in a slot: opens an incident, or keeps it open. Its life is the book's business.
    Observation(Observation),
    /// An incident whose life the detector itself tells.
    Incident(Box<Incident>),
    /// What became of one, for those who are alerted by findings. Of those that the book tells, it says so itself.
    Announcement(Box<Incident>, News),
    /// What to find again after a restart: see [`DetectorOutput::notes`](super::DetectorOutput::notes).
    Note { name: &'static str, bytes: Vec<u8> },
}

/// What alert routes are told of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Opened,
    /// It is severer than it was.
    Worse,
    Over,
}

/// Something odd that no rule punishes.
#[derive(Clone, Debug)]
pub struct SingleAnomaly {
    pub what: Described,
    /// Tells it from others of its kind and slot: part of its id. Never a time of arrival.
    pub key: String,
    pub severity: Severity,
    pub slot: Slot,
    pub validator: Option<ValidatorIndex>,
    pub first_seen: UnixNs,
    pub second_seen: Option<UnixNs>,
    /// `gossip`, `block`, `slashing_op`, `api`.
    pub sources: Vec<String>,
}

/// A condition that holds in a slot.
#[derive(Clone, Debug)]
pub struct Observation {
    pub what: Described,
    /// Incidents of one kind with different keys are different incidents; mostly empty.
    pub key: String,
    /// The slot it was seen in.
    pub slot: Slot,
    /// Since when it has been so, as far as is known: the incident's first slot.
    pub since: Slot,
    /// The last slot in which it was so, as far as is known: the incident's last slot. Before `slot` where a detector looks at a window,
    /// which still shows for a while what is over.
    pub until: Slot,
    pub severity: Severity,
    /// How much of it there is, in whatever the detector counts: growing and waning go by it.
    pub measure: u64,
    /// How many validators are concerned, where that means something.
    pub validators: Option<u64>,
    pub shared: Vec<SharedTrait>,
    /// Slots without a sighting after which it is over.
    pub closes_after: u64,
}
