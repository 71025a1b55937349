//! The life of incidents that are conditions: they open, grow, wane and close.
//!
//! An [`Observation`] opens an incident or keeps it open. The incident grows when its measure is
//! more than a quarter above the value at which it last counted as growing. It wanes when its
//! measure is below half of its peak. It also wanes when it was not seen for a quarter of the time
//! after which it closes. It closes after more than `closes_after` slots without an observation;
//! the last observation sets this number.
//!
//! An incident never opens again. One that follows it begins after its last slot, and so has
//! another id. Between two changes of state the details are stored once per epoch.
//!
//! Alert routes receive findings without proof, each with the incident's severity: one with the
//! incident's id when it opens, one when its severity rises, and one when it is over.

use super::signal::{News, Observation, Signal, SingleAnomaly};
use super::{DetectorOutput, DetectorView, LAG};
use consensus::{Network, Slot};
use evidence::{
    Anomaly, Count, Finding, INCIDENT_SCHEMA, Incident, IncidentState, Kind, Subject, Time, Tracking, anomaly_id, incident_id,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest number of incidents of one kind that are open at once. Further ones are refused and
/// counted until one closes.
pub const MAX_OPEN: usize = 256;
/// Largest number of closed incidents whose last slot is remembered, by kind and key. When it is
/// reached, the one that ended first is forgotten.
const MAX_CLOSED: usize = 8_192;

/// Kind and key. At most one incident of each is open.
type IncidentKey = (Kind, String);

pub(super) struct IncidentTracker {
    network: Arc<Network>,
    open: BTreeMap<IncidentKey, OpenIncident>,
    /// The last slot of closed incidents.
    closed: BTreeMap<IncidentKey, Slot>,
}

struct OpenIncident {
    incident: Incident,
    /// The measure at which it last counted as growing.
    mark: u64,
    closes_after: u64,
    /// The slot of the last observation. It is at or after the incident's last slot.
    observed_in: Slot,
    /// It has changes that are not yet stored.
    dirty: bool,
    stored_at: Slot,
}

impl IncidentTracker {
    pub(super) fn new(network: Arc<Network>) -> Self {
        Self { network, open: BTreeMap::new(), closed: BTreeMap::new() }
    }

    /// Takes over the incidents that are tracked here: those with `tracking`.
    pub(super) fn restore(&mut self, incidents: &[Incident]) {
        for incident in incidents {
            let Some(tracking) = &incident.tracking else { continue };
            let key = key_of(incident);
            if incident.state == IncidentState::Closed {
                self.note_closed(key, incident.last_slot);
                continue;
            }
            if self.n_open(&key.0) >= MAX_OPEN {
                continue;
            }
            let open = OpenIncident {
                incident: incident.clone(),
                mark: tracking.peak,
                // A placeholder until the next observation sets it.
                closes_after: self.network.preset().slots_per_epoch,
                observed_in: incident.last_slot,
                dirty: false,
                stored_at: incident.last_slot,
            };
            self.open.insert(key, open);
        }
    }

    pub(super) fn continues(&self, incident: &Incident) -> bool {
        self.open.get(&key_of(incident)).is_some_and(|open| open.incident.id == incident.id)
    }

    /// Closes an incident that nobody continues. Its last known details stay.
    pub(super) fn close_orphan(&mut self, incident: &Incident, output: &mut DetectorOutput) {
        let closed =
            Incident { state: IncidentState::Closed, closed_at: Some(self.evaluated_at(incident.last_slot)), ..incident.clone() };
        self.close(closed, output);
    }

    /// The clock was set back, so no observation can be later than now.
    pub(super) fn go_back(&mut self, now: Slot) {
        for open in self.open.values_mut() {
            open.incident.last_slot = open.incident.last_slot.min(now).max(open.incident.first_slot);
            open.observed_in = open.observed_in.min(now);
            open.stored_at = open.stored_at.min(now);
        }
        self.closed.values_mut().for_each(|last| *last = (*last).min(now));
    }

    pub(super) fn take(&mut self, signals: impl Iterator<Item = Signal>, view: &DetectorView<'_>, output: &mut DetectorOutput) {
        for signal in signals {
            match signal {
                Signal::Anomaly(anomaly) => output.anomalies.push(self.anomaly(anomaly, view)),
                Signal::Announcement(incident, news) => output.announcements.push(announcement(&self.network, &incident, news)),
                Signal::Observation(observation) => self.observed(observation, output),
                Signal::Incident(incident) => {
                    output.incidents.retain(|known| known.id != incident.id);
                    output.incidents.push(*incident);
                }
                Signal::Note { name, bytes } => {
                    output.notes.insert(name, bytes);
                }
            }
        }
    }

    /// Lets incidents that were not observed in `slot` wane or close, and reports those that
    /// changed.
    pub(super) fn slot_ended(&mut self, slot: Slot, output: &mut DetectorOutput) {
        let evaluated_at = self.evaluated_at(slot);
        let per_epoch = self.network.preset().slots_per_epoch;
        let mut over = Vec::new();
        self.open.retain(|_, open| {
            let silent = slot.as_u64().saturating_sub(open.observed_in.as_u64());
            if silent > open.closes_after {
                let state = IncidentState::Closed;
                over.push(Incident { state, closed_at: Some(evaluated_at), ..open.incident.clone() });
                return false;
            }
            if silent > 0 && silent * 4 >= open.closes_after && open.incident.state != IncidentState::Waning {
                open.incident.state = IncidentState::Waning;
                open.dirty = true;
            }
            if open.dirty || open.stored_at.saturating_add(per_epoch) <= slot {
                if open.dirty || silent == 0 {
                    output.incidents.push(open.incident.clone());
                }
                open.dirty = false;
                open.stored_at = slot;
            }
            true
        });
        for incident in over {
            self.close(incident, output);
        }
    }

    /// No more slots end: reports what has changed since the last slot ended.
    pub(super) fn finish(&mut self, output: &mut DetectorOutput) {
        for open in self.open.values_mut().filter(|open| open.dirty) {
            output.incidents.push(open.incident.clone());
            open.dirty = false;
        }
    }

    fn close(&mut self, incident: Incident, output: &mut DetectorOutput) {
        self.note_closed(key_of(&incident), incident.last_slot);
        output.announcements.push(announcement(&self.network, &incident, News::Over));
        output.incidents.push(incident);
    }

    fn note_closed(&mut self, key: IncidentKey, last: Slot) {
        if self.closed.len() >= MAX_CLOSED && !self.closed.contains_key(&key) {
            let oldest = self.closed.iter().min_by_key(|(_, last)| **last).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.closed.remove(&oldest));
        }
        let known = self.closed.entry(key).or_insert(last);
        *known = (*known).max(last);
    }

    fn n_open(&self, kind: &Kind) -> usize {
        let first = (kind.clone(), String::new());
        self.open.range(first..).take_while(|((open, _), _)| open == kind).count()
    }

    fn observed(&mut self, observation: Observation, output: &mut DetectorOutput) {
        let key = (observation.what.kind().clone(), observation.key.clone());
        if let Some(open) = self.open.get_mut(&key) {
            let before = open.incident.severity;
            open.observed(observation);
            if open.incident.severity > before {
                let incident = open.incident.clone();
                output.announcements.push(announcement(&self.network, &incident, News::Worse));
            }
            return;
        }
        if self.n_open(&key.0) >= MAX_OPEN {
            *output.refused.entry(key.0).or_default() += 1;
            return;
        }
        let after_the_last = self.closed.get(&key).map_or(Slot::new(0), |last| last.saturating_add(1));
        let since = observation.since.max(after_the_last);
        let incident = Incident {
            schema: INCIDENT_SCHEMA,
            id: incident_id(self.network.genesis_validators_root, &key.0, since, &observation.key),
            kind: key.0.clone(),
            state: IncidentState::Open,
            severity: observation.severity,
            first_slot: since,
            last_slot: since,
            opened_at: self.evaluated_at(observation.slot),
            closed_at: None,
            validators: None,
            offences: None,
            shared: Vec::new(),
            penalty: None,
            details: serde_json::Map::new(),
            tracking: Some(Tracking { key: observation.key.clone(), peak: 0 }),
        };
        let mark = observation.measure;
        let stored_at = observation.slot;
        let closes_after = observation.closes_after;
        let mut open = OpenIncident { incident, mark, closes_after, observed_in: since, dirty: true, stored_at };
        open.update(observation);
        output.announcements.push(announcement(&self.network, &open.incident, News::Opened));
        self.open.insert(key, open);
    }

    pub(super) fn anomaly(&self, anomaly: SingleAnomaly, view: &DetectorView<'_>) -> Finding {
        let content = [&anomaly.slot.as_u64().to_be_bytes(), anomaly.key.as_bytes()].concat();
        let epoch = anomaly.slot.epoch(self.network.preset());
        let registry = view.chain.registry();
        let (kind, details) = anomaly.what.into_parts();
        Finding::anomaly(Anomaly {
            id: anomaly_id(self.network.genesis_validators_root, &kind, &content),
            kind,
            severity: anomaly.severity,
            slot: anomaly.slot,
            epoch,
            validator: anomaly.validator.map(|index| Subject {
                index,
                pubkey: registry.pubkey_bytes(index).unwrap_or_default(),
                labels: view.labels.strings(index),
            }),
            first_seen: Time::from_unix_ns(anomaly.first_seen.0),
            second_seen: anomaly.second_seen.map(|at| Time::from_unix_ns(at.0)),
            recorded_at: Time::default(),
            sources: anomaly.sources,
            fork: self.network.spec.fork_name_at(epoch),
            details,
        })
    }

    /// The time when the evaluation of a slot is due.
    fn evaluated_at(&self, slot: Slot) -> Time {
        Time::from_unix_ns(self.network.slot_start_ns(slot.saturating_add(1 + LAG)))
    }
}

/// The finding that tells alert routes about an incident. For an opening it has the incident's own
/// id.
pub fn announcement(network: &Network, incident: &Incident, news: News) -> Finding {
    let (kind, key) = key_of(incident);
    let mut details = incident.details.clone();
    details.insert("incident".into(), serde_json::json!(incident.id));
    // Some kinds have a list of this name.
    if let Some(validators) = &incident.validators {
        details.entry("validators").or_insert_with(|| serde_json::json!(validators));
    }
    let key = match news {
        News::Opened => key,
        News::Worse => {
            details.insert("news".into(), "worse".into());
            format!("{key}/{}", incident.severity)
        }
        News::Over => {
            details.insert("news".into(), "over".into());
            format!("{key}/over")
        }
    };
    let epoch = incident.first_slot.epoch(network.preset());
    Finding::anomaly(Anomaly {
        id: incident_id(network.genesis_validators_root, &kind, incident.first_slot, &key),
        kind,
        severity: incident.severity,
        slot: incident.first_slot,
        epoch,
        validator: None,
        first_seen: incident.opened_at,
        second_seen: Some(incident.closed_at.unwrap_or(incident.opened_at)),
        recorded_at: Time::default(),
        sources: vec!["gossip".to_owned()],
        fork: network.spec.fork_name_at(epoch),
        details,
    })
}

fn key_of(incident: &Incident) -> IncidentKey {
    let key = incident.tracking.as_ref().map(|tracking| tracking.key.clone());
    (incident.kind.clone(), key.unwrap_or_default())
}

impl OpenIncident {
    fn peak(&self) -> u64 {
        self.incident.tracking.as_ref().map_or(0, |tracking| tracking.peak)
    }

    fn observed(&mut self, observation: Observation) {
        let before = (self.incident.state, self.incident.severity);
        self.incident.state = if observation.measure.saturating_mul(2) < self.peak() {
            IncidentState::Waning
        } else if observation.measure > self.mark.saturating_add(self.mark / 4) {
            self.mark = observation.measure;
            IncidentState::Growing
        } else if self.incident.state == IncidentState::Waning {
            IncidentState::Open
        } else {
            self.incident.state
        };
        self.incident.severity = self.incident.severity.max(observation.severity);
        self.update(observation);
        self.dirty |= before != (self.incident.state, self.incident.severity);
    }

    fn update(&mut self, observation: Observation) {
        let peak = self.peak();
        let incident = &mut self.incident;
        incident.last_slot = incident.last_slot.max(observation.until);
        self.observed_in = self.observed_in.max(observation.slot);
        self.closes_after = observation.closes_after;
        // The details describe the incident at its peak, not at its end.
        if observation.measure >= peak || incident.details.is_empty() {
            incident.details = observation.what.into_parts().1;
            incident.shared = observation.shared;
            incident.validators = observation.validators.map(Count);
        }
        incident.tracking = Some(Tracking { key: observation.key, peak: peak.max(observation.measure) });
    }
}
