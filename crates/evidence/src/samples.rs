//! Sample findings and incidents for tests. A test sets the fields that matter to it and takes the
//! rest from here, as in `OffenceFacts { slot, ..OffenceFacts::sample() }`.

use crate::{
    Anomaly, Changes, Evidence, Finding, INCIDENT_SCHEMA, Incident, IncidentState, Kind, OffenceFacts, Punishable, Recorded,
    RouteFilter, Severity, Store, StoreError, Time,
};
use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use serde_json::Map;
use std::sync::Arc;

impl OffenceFacts {
    /// A double vote of validator 5 in slot 1 that a block can punish, received on gossip.
    pub fn sample() -> Self {
        Self {
            genesis_validators_root: Root::ZERO,
            offence: Offence::DoubleVote,
            validator: ValidatorIndex::new(5),
            pubkey: PubkeyBytes::ZERO,
            labels: Vec::new(),
            roots: [Root::ZERO, Root::repeat_byte(1)],
            slot: Slot::new(1),
            epoch: Epoch::new(0),
            seen: [Time::default(); 2],
            recorded_at: Time::default(),
            sources: vec!["gossip".into()],
            fork: ForkName::Fulu,
            punishable: Punishable::Yes,
        }
    }
}

impl Anomaly {
    /// An anomaly of slot 9 that no single validator caused.
    pub fn sample(kind: Kind) -> Self {
        Self {
            id: Root::repeat_byte(7),
            kind,
            severity: Severity::Critical,
            slot: Slot::new(9),
            epoch: Epoch::new(0),
            validator: None,
            first_seen: Time::default(),
            second_seen: None,
            recorded_at: Time::default(),
            sources: vec!["gossip".into()],
            fork: ForkName::Fulu,
            details: Map::new(),
        }
    }
}

impl Incident {
    /// An open slashing wave of slots 7 to 9.
    pub fn sample() -> Self {
        Self {
            schema: INCIDENT_SCHEMA,
            id: Root::repeat_byte(7),
            kind: Kind::SlashingWave,
            state: IncidentState::Open,
            severity: Severity::Critical,
            first_slot: Slot::new(7),
            last_slot: Slot::new(9),
            opened_at: Time::from_unix_ns(1_767_225_600_000_000_000),
            closed_at: None,
            validators: None,
            offences: None,
            shared: Vec::new(),
            penalty: None,
            details: Map::new(),
            tracking: None,
        }
    }
}

/// Short forms of [`Store::apply`].
impl Store {
    /// Stores findings with their evidence and one delivery for each route that wants them, in one
    /// atomic, synced write.
    ///
    /// A finding whose id is already stored, or occurs earlier in this batch, changes nothing. On
    /// an error nothing is stored.
    pub fn record(&self, findings: Vec<(Finding, Arc<Evidence>)>, routes: &[RouteFilter]) -> Result<Vec<Recorded>, StoreError> {
        let findings = findings.into_iter().map(|(finding, evidence)| (finding, Some(evidence))).collect();
        self.apply(Changes { findings, ..Changes::default() }, routes)
    }

    /// Same as [`Self::record`], for findings that have no evidence.
    pub fn record_anomalies(&self, findings: Vec<Finding>, routes: &[RouteFilter]) -> Result<Vec<Recorded>, StoreError> {
        let findings = findings.into_iter().map(|finding| (finding, None)).collect();
        self.apply(Changes { findings, ..Changes::default() }, routes)
    }

    /// Stores the new state of incidents in one atomic, synced write. Incidents that did not change
    /// get no new revision.
    pub fn put_incidents(&self, incidents: &[Incident]) -> Result<(), StoreError> {
        self.apply(Changes { incidents: incidents.to_vec(), ..Changes::default() }, &[]).map(|_| ())
    }
}
