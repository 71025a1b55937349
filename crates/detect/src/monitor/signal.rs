//! What a detector says.

use consensus::{Slot, ValidatorIndex};
use evidence::{Incident, Severity, SharedTrait};
use serde_json::{Map, Value};
use verify::UnixNs;

/// One statement of a detector.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Happened once: becomes a finding without proof.
    Anomaly(Oddity),
    /// Is so in a slot: opens an incident, or keeps it open. Its life is the book's business.
    Sighting(Sighting),
    /// An incident whose life the detector itself tells.
    Incident(Box<Incident>),
    /// What became of one, for those who are alerted by findings. Of those that the book tells, it says so itself.
    Announcement(Box<Incident>, News),
    /// What to find again after a restart: see [`Heard::notes`](super::Heard::notes).
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
pub struct Oddity {
    pub kind: &'static str,
    /// Tells it from others of its kind and slot: part of its id. Never a time of arrival.
    pub key: String,
    pub severity: Severity,
    pub slot: Slot,
    pub validator: Option<ValidatorIndex>,
    pub first_seen: UnixNs,
    pub second_seen: Option<UnixNs>,
    /// `gossip`, `block`, `slashing_op`, `api`.
    pub sources: Vec<String>,
    pub details: Map<String, Value>,
}

/// A condition that holds in a slot.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub kind: &'static str,
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
    pub details: Map<String, Value>,
    /// Slots without a sighting after which it is over.
    pub closes_after: u64,
}
