//! What a detector reports.

use consensus::{Slot, ValidatorIndex};
use evidence::{Incident, Kind, Severity, SharedTrait};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use verify::Time;

/// The details of one kind, declared by the detector that finds it. They are written as the JSON
/// map of a finding or an incident, and read from there again.
pub trait Details: Serialize + DeserializeOwned {
    const KIND: Kind;

    /// One sentence for people, without its full stop. `validators` is how many are concerned,
    /// according to the incident.
    fn sentence(&self, validators: Option<u64>) -> String;

    /// Reads stored details. `None` if another version of this program wrote them with other
    /// fields.
    fn of_stored(details: &Map<String, Value>) -> Option<Self> {
        serde_json::from_value(Value::Object(details.clone())).ok()
    }
}

/// A kind with its details as they are stored. It can only be made from [`Details`], so kind and
/// details always belong together.
#[derive(Clone, Debug)]
pub struct Described {
    kind: Kind,
    details: Map<String, Value>,
}

impl Described {
    /// The kind of the finding or incident.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The kind, and the details as a JSON map.
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

/// One report of a detector.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Something that happened once. It becomes a finding without proof.
    Anomaly(SingleAnomaly),
    /// A condition that holds in a slot. It opens an incident or keeps it open; `IncidentTracker`
    /// tracks that incident.
    Observation(Observation),
    /// An incident that the detector itself tracks.
    Incident(Box<Incident>),
    /// An announcement of such an incident for those who receive alerts by findings. For the
    /// incidents that it tracks, `IncidentTracker` makes the announcements itself.
    Announcement(Box<Incident>, News),
    /// Data that the detector needs after a restart: see
    /// [`DetectorOutput::notes`](super::DetectorOutput::notes).
    Note { name: &'static str, bytes: Vec<u8> },
}

/// What is announced to alert routes about an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Opened,
    /// It is more severe than before.
    Worse,
    Over,
}

/// Something unusual that no rule punishes.
#[derive(Clone, Debug)]
pub struct SingleAnomaly {
    pub what: Described,
    /// Distinguishes it from others of its kind and slot, and is part of its id. It must never be a
    /// time of arrival.
    pub key: String,
    pub severity: Severity,
    pub slot: Slot,
    pub validator: Option<ValidatorIndex>,
    pub first_seen: Time,
    pub second_seen: Option<Time>,
    /// Where it was seen: `gossip`, `block`, `slashing_op` or `api`.
    pub sources: Vec<String>,
}

/// A condition that holds in a slot.
#[derive(Clone, Debug)]
pub struct Observation {
    pub what: Described,
    /// Distinguishes incidents of one kind: different keys are different incidents. Mostly empty.
    pub key: String,
    /// The slot in which it was seen.
    pub slot: Slot,
    /// The slot since which the condition holds, as far as is known. It becomes the incident's
    /// first slot.
    pub since: Slot,
    /// The last slot in which the condition held, as far as is known. It becomes the incident's
    /// last slot. It is before `slot` where a detector looks at a window, because the window still
    /// shows for a while a condition that is over.
    pub until: Slot,
    pub severity: Severity,
    /// How large the condition is, in the unit that the detector counts. Growing and waning depend
    /// on it.
    pub measure: u64,
    /// How many validators are concerned, where that has a meaning.
    pub validators: Option<u64>,
    pub shared: Vec<SharedTrait>,
    /// The incident closes after more than this number of slots without an observation.
    pub closes_after: u64,
}
