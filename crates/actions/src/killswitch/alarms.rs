//! What alert routes are told about orders: an incident for each order that fails, one for each
//! group whose keys sign after it, and a finding for each proof that was not confirmed.
//!
//! [`report`] compares what holds now with what was told, and makes the findings and incidents of
//! the difference. They are recorded in the same write as the state that says that they were told.
//! So nothing is told twice, whatever is restarted, and nothing that holds stays untold.

use super::state::KillSwitchState;
use consensus::{Network, Slot};
use detect::monitor::{Described, News, announcement};
use detect::watch::{KillSwitchFailedDetails, ProofNotConfirmedDetails, SignsAfterStopDetails};
use engine::metrics::SwitchStage;
use evidence::{
    Anomaly, Changes, Count, Finding, INCIDENT_SCHEMA, Incident, IncidentState, Severity, Time, Tracking, anomaly_id, incident_id,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Field in the details of an end: `stopped`, `silent` or `rearmed`.
const ENDED: &str = "ended";

/// An incident that alert routes were told of, and that is not over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenAlarm {
    pub group: String,
    pub incident: Incident,
    /// The number of keys that was told last.
    n_told: u64,
}

/// Something that holds now.
struct Condition {
    group: String,
    first_slot: Slot,
    what: Described,
    /// Number of keys that it is about, where that is known.
    n_keys: Option<u64>,
}

/// Returns what alert routes have to be told, and notes in `state` that they were. `labels_of`
/// returns the labels of a group, by which routes select.
pub(super) fn report(
    state: &mut KillSwitchState,
    labels_of: &dyn Fn(&str) -> Vec<String>,
    network: &Network,
    now: Time,
) -> Changes {
    let mut changes = Changes::default();
    let holds = conditions(state, labels_of, network);
    let ended: Vec<String> = state.alarms.keys().filter(|key| !holds.contains_key(*key)).cloned().collect();
    for (key, condition) in holds {
        let n_keys = condition.n_keys.unwrap_or_default();
        match state.alarms.get_mut(&key) {
            None => {
                let (group, incident) = (condition.group.clone(), condition.open(&key, network, now));
                changes.findings.push((told(&incident, &key, News::Opened, network, now), None));
                changes.incidents.push(incident.clone());
                state.alarms.insert(key, OpenAlarm { group, incident, n_told: n_keys });
            }
            // Further keys are told when they are twice as many.
            Some(alarm) if n_keys >= alarm.n_told.max(1) * 2 => {
                alarm.n_told = n_keys;
                alarm.incident.last_slot = alarm.incident.last_slot.max(network.slot_at(now.as_unix_ns()));
                alarm.incident.validators = condition.n_keys.map(Count);
                alarm.incident.details = condition.what.into_parts().1;
                let news = told(&alarm.incident, &key, News::Worse, network, now);
                let (kind, first_slot) = (&alarm.incident.kind, alarm.incident.first_slot);
                let id = incident_id(network.genesis_validators_root, kind, first_slot, &format!("{key}/{n_keys}"));
                changes.findings.push((Finding { id, ..news }, None));
                changes.incidents.push(alarm.incident.clone());
            }
            Some(_) => {}
        }
    }
    for key in ended {
        let Some(OpenAlarm { group, mut incident, .. }) = state.alarms.remove(&key) else { continue };
        incident.state = IncidentState::Closed;
        incident.closed_at = Some(now);
        incident.last_slot = incident.last_slot.max(network.slot_at(now.as_unix_ns()));
        incident.details.insert(ENDED.into(), how_it_ended(state, &group, &incident).into());
        changes.findings.push((told(&incident, &key, News::Over, network, now), None));
        changes.incidents.push(incident);
    }
    for (group, unconfirmed) in state.unconfirmed.iter_mut().filter(|(_, unconfirmed)| !unconfirmed.is_told) {
        unconfirmed.is_told = true;
        let details = ProofNotConfirmedDetails {
            group: group.clone(),
            labels: labels_of(group),
            finding: unconfirmed.finding,
            outcome: unconfirmed.outcome,
            reason: unconfirmed.reason.clone(),
        };
        let content = [unconfirmed.finding.as_slice(), group.as_bytes()].concat();
        let (kind, details) = Described::from(details).into_parts();
        let slot = network.slot_at(unconfirmed.at.as_unix_ns());
        let epoch = slot.epoch(network.preset());
        let finding = Finding::anomaly(Anomaly {
            id: anomaly_id(network.genesis_validators_root, &kind, &content),
            kind,
            severity: Severity::Critical,
            slot,
            epoch,
            validator: None,
            first_seen: unconfirmed.at,
            second_seen: None,
            recorded_at: now,
            sources: Vec::new(),
            fork: network.spec.fork_name_at(epoch),
            details,
        });
        changes.findings.push((finding, None));
    }
    changes
}

/// What holds now, by a key that is the same as long as it holds.
fn conditions(
    state: &KillSwitchState,
    labels_of: &dyn Fn(&str) -> Vec<String>,
    network: &Network,
) -> BTreeMap<String, Condition> {
    let mut holds = BTreeMap::new();
    for (group, fired) in &state.fired {
        let stage = fired.stage();
        let signing = fired.after_stop.as_ref().and_then(|after| after.signing.as_ref());
        if stage == SwitchStage::Failed {
            let details = KillSwitchFailedDetails {
                group: group.clone(),
                labels: labels_of(group),
                finding: fired.finding,
                attempts: fired.attempts,
            };
            let first_slot = network.slot_at(fired.ordered_at.as_unix_ns());
            let condition = Condition { group: group.clone(), first_slot, what: details.into(), n_keys: None };
            holds.insert(format!("failed/{group}/{}", fired.finding), condition);
        }
        if let Some(signing) = signing.filter(|_| stage == SwitchStage::Signing) {
            let details = SignsAfterStopDetails {
                group: group.clone(),
                labels: labels_of(group),
                finding: fired.finding,
                since: signing.since,
                validators: signing.keys.iter().copied().collect(),
                keys_signing: signing.n_keys,
            };
            let (first_slot, n_keys) = (signing.since, Some(signing.n_keys));
            let condition = Condition { group: group.clone(), first_slot, what: details.into(), n_keys };
            holds.insert(format!("signs/{group}/{}/{first_slot}", fired.finding), condition);
        }
    }
    holds
}

impl Condition {
    fn open(self, key: &str, network: &Network, now: Time) -> Incident {
        let (kind, details) = self.what.into_parts();
        Incident {
            schema: INCIDENT_SCHEMA,
            id: incident_id(network.genesis_validators_root, &kind, self.first_slot, key),
            kind,
            state: IncidentState::Open,
            severity: Severity::Critical,
            first_slot: self.first_slot,
            last_slot: self.first_slot.max(network.slot_at(now.as_unix_ns())),
            opened_at: now,
            closed_at: None,
            validators: self.n_keys.map(Count),
            offences: None,
            shared: Vec::new(),
            penalty: None,
            details,
            tracking: None,
        }
    }
}

/// The finding that tells routes about an incident. An incident without `tracking` is left alone by
/// the detectors, so the key of the id is added for the announcement only.
fn told(incident: &Incident, key: &str, news: News, network: &Network, now: Time) -> Finding {
    let tracking = Some(Tracking { key: key.to_owned(), peak: 0 });
    let finding = announcement(network, &Incident { tracking, ..incident.clone() }, news);
    Finding { recorded_at: now, sources: Vec::new(), ..finding }
}

fn how_it_ended(state: &KillSwitchState, group: &str, incident: &Incident) -> &'static str {
    let finding = incident.details.get("finding").and_then(serde_json::Value::as_str);
    let fired = state.fired.get(group).filter(|fired| finding.is_some_and(|id| id == fired.finding.to_string()));
    match fired {
        None => "rearmed",
        Some(fired) if fired.after_stop.as_ref().is_some_and(|after| after.silent_since.is_some()) => "silent",
        Some(_) => "stopped",
    }
}
