//! The life of incidents that are conditions: seen, more, less, over.
//!
//! A [`Sighting`] opens one or keeps it open. It grows while its measure is a quarter above what it was when it last counted as
//! growing; it wanes when the measure is below half of its peak or it was not seen for a quarter of the time after which it
//! closes: `closes_after` slots without a sighting, as the last sighting said. Opening one also makes a finding without proof, which has
//! the incident's id, for alert routes. Between two changes of state details are stored once an epoch.

use super::signal::{Oddity, Sighting, Signal};
use super::{Heard, LAG, View};
use consensus::{Network, Slot};
use evidence::{
    Anomaly, Count, Finding, INCIDENT_SCHEMA, Incident, IncidentState, Severity, Subject, Time, anomaly_id, incident_id,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Incidents open at once at most; further ones wait until one closes.
pub const MAX_OPEN: usize = 256;

pub(super) struct IncidentBook {
    network: Arc<Network>,
    open: BTreeMap<(String, String), Open>,
}

struct Open {
    incident: Incident,
    peak: u64,
    /// Measure when it last counted as growing.
    mark: u64,
    closes_after: u64,
    /// Not yet stored.
    dirty: bool,
    stored_at: Slot,
}

/// Detail that tells a restarted watcher which incident of a kind this is.
const KEY: &str = "key";
const PEAK: &str = "peak";

impl IncidentBook {
    pub(super) fn new(network: Arc<Network>) -> Self {
        Self { network, open: BTreeMap::new() }
    }

    /// Those whose life is told here have a peak among their details.
    pub(super) fn restore(&mut self, open: &[Incident]) {
        for incident in open.iter().filter(|incident| incident.state != IncidentState::Closed).take(MAX_OPEN) {
            let Some(peak) = incident.details.get(PEAK).and_then(Value::as_u64) else { continue };
            let key = incident.details.get(KEY).and_then(Value::as_str).unwrap_or_default().to_owned();
            let open = Open {
                incident: incident.clone(),
                peak,
                mark: peak,
                // Until it is sighted again and says better.
                closes_after: self.network.preset().slots_per_epoch,
                dirty: false,
                stored_at: incident.last_slot,
            };
            self.open.insert((incident.kind.clone(), key), open);
        }
    }

    pub(super) fn take(&mut self, signals: impl Iterator<Item = Signal>, view: &View<'_>, heard: &mut Heard) {
        for signal in signals {
            match signal {
                Signal::Anomaly(oddity) => heard.anomalies.push(self.anomaly(oddity, view)),
                Signal::Announcement(oddity) => heard.announcements.push(self.anomaly(oddity, view)),
                Signal::Sighting(sighting) => self.sighted(sighting, view, heard),
                Signal::Incident(incident) => {
                    heard.incidents.retain(|known| known.id != incident.id);
                    heard.incidents.push(*incident);
                }
            }
        }
    }

    /// Wanes and closes what was not sighted in `slot`, and hands on what changed.
    pub(super) fn slot_ended(&mut self, slot: Slot, heard: &mut Heard) {
        let said_at = self.said_at(slot);
        let per_epoch = self.network.preset().slots_per_epoch;
        self.open.retain(|_, open| {
            let silent = slot.as_u64().saturating_sub(open.incident.last_slot.as_u64());
            if silent > open.closes_after {
                open.incident.state = IncidentState::Closed;
                open.incident.closed_at = Some(said_at);
                heard.incidents.push(open.incident.clone());
                return false;
            }
            if silent > 0 && silent * 4 >= open.closes_after && open.incident.state != IncidentState::Waning {
                open.incident.state = IncidentState::Waning;
                open.dirty = true;
            }
            if open.dirty || open.stored_at.saturating_add(per_epoch) <= slot {
                if open.dirty || silent == 0 {
                    heard.incidents.push(open.incident.clone());
                }
                open.dirty = false;
                open.stored_at = slot;
            }
            true
        });
    }

    fn sighted(&mut self, sighting: Sighting, view: &View<'_>, heard: &mut Heard) {
        let place = (sighting.kind.to_owned(), sighting.key.clone());
        if let Some(open) = self.open.get_mut(&place) {
            open.sighted(sighting);
            return;
        }
        if self.open.len() >= MAX_OPEN {
            return;
        }
        let opened_at = self.said_at(sighting.slot);
        let announcement = Oddity {
            kind: sighting.kind,
            key: sighting.key.clone(),
            severity: sighting.severity.min(Severity::Warning),
            slot: sighting.since,
            validator: None,
            first_seen: verify::UnixNs(self.network.slot_start_ns(sighting.since)),
            second_seen: Some(verify::UnixNs(opened_at.as_unix_ns())),
            sources: vec!["gossip".to_owned()],
            details: sighting.details.clone(),
        };
        heard.announcements.push(self.anomaly(announcement, view));
        let incident = Incident {
            schema: INCIDENT_SCHEMA,
            id: incident_id(self.network.genesis_validators_root, sighting.kind, sighting.since, &sighting.key),
            kind: sighting.kind.to_owned(),
            state: IncidentState::Open,
            severity: sighting.severity,
            first_slot: sighting.since,
            last_slot: sighting.slot,
            opened_at,
            closed_at: None,
            validators: None,
            offences: None,
            shared: Vec::new(),
            penalty: None,
            details: serde_json::Map::new(),
        };
        let mark = sighting.measure;
        let stored_at = sighting.slot;
        let mut open = Open { incident, peak: 0, mark, closes_after: sighting.closes_after, dirty: true, stored_at };
        open.update(sighting);
        self.open.insert(place, open);
    }

    fn anomaly(&self, oddity: Oddity, view: &View<'_>) -> Finding {
        let content = [&oddity.slot.as_u64().to_be_bytes(), oddity.key.as_bytes()].concat();
        let epoch = oddity.slot.epoch(self.network.preset());
        let registry = view.chain.registry();
        Finding::anomaly(Anomaly {
            id: anomaly_id(self.network.genesis_validators_root, oddity.kind, &content),
            kind: oddity.kind,
            severity: oddity.severity,
            slot: oddity.slot,
            epoch,
            validator: oddity.validator.map(|index| Subject {
                index,
                pubkey: registry.pubkey_bytes(index).unwrap_or_default(),
                labels: view.labels.labels(index).into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
            }),
            first_seen: Time::from_unix_ns(oddity.first_seen.0),
            second_seen: oddity.second_seen.map(|at| Time::from_unix_ns(at.0)),
            recorded_at: Time::default(),
            sources: oddity.sources,
            fork: self.network.spec.fork_name_at(epoch),
            details: oddity.details,
        })
    }

    /// When the evaluation of a slot is due.
    fn said_at(&self, slot: Slot) -> Time {
        Time::from_unix_ns(self.network.slot_start_ns(slot.saturating_add(1 + LAG)))
    }
}

impl Open {
    fn sighted(&mut self, sighting: Sighting) {
        let before = (self.incident.state, self.incident.severity);
        self.incident.state = if sighting.measure.saturating_mul(2) < self.peak {
            IncidentState::Waning
        } else if sighting.measure > self.mark.saturating_add(self.mark / 4) {
            self.mark = sighting.measure;
            IncidentState::Growing
        } else if self.incident.state == IncidentState::Waning {
            IncidentState::Open
        } else {
            self.incident.state
        };
        self.incident.severity = self.incident.severity.max(sighting.severity);
        self.update(sighting);
        self.dirty |= before != (self.incident.state, self.incident.severity);
    }

    fn update(&mut self, sighting: Sighting) {
        let incident = &mut self.incident;
        incident.last_slot = incident.last_slot.max(sighting.slot);
        self.closes_after = sighting.closes_after;
        // What is told is the worst of it, not its last breath.
        let worst = sighting.measure >= self.peak;
        self.peak = self.peak.max(sighting.measure);
        if worst || incident.details.is_empty() {
            incident.details = sighting.details;
            incident.shared = sighting.shared;
            incident.validators = sighting.validators.map(Count);
        }
        incident.details.insert(PEAK.into(), self.peak.into());
        if !sighting.key.is_empty() {
            incident.details.insert(KEY.into(), sighting.key.into());
        }
    }
}
