//! Builders that keep the facts of a test short.
#![allow(dead_code, reason = "each test file uses its part")]

use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{
    Addressee, Anomaly, Evidence, EvidenceKind, Finding, Incident, IncidentState, Kind, RouteName, Severity, Slashable, Store,
    Time, anomaly_id, incident_id,
};
use std::path::Path;
use std::sync::Arc;

pub const NETWORK: Root = Root::repeat_byte(0x4e);

pub fn open(dir: &Path) -> Store {
    Store::open(dir, NETWORK).unwrap()
}

pub fn at(unix_ns: u64) -> Time {
    Time::from_unix_ns(unix_ns)
}

pub fn route(name: &str) -> RouteName {
    RouteName::new(name).unwrap()
}

pub fn everyone(names: &[&str]) -> Vec<Addressee> {
    let everything = |name| Addressee { route: route(name), min_severity: Severity::Info, labels: Vec::new() };
    names.iter().copied().map(everything).collect()
}

pub fn proof(content: u8) -> Arc<Evidence> {
    Arc::new(Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![content; 700], serde_json::json!({"n": content})))
}

/// A finding of `offence` by `validator` in `slot`. It is recorded at as many nanoseconds as the
/// slot's number.
pub fn offence_in(offence: Offence, validator: u64, slot: u64) -> (Finding, Arc<Evidence>) {
    let evidence = proof(slot as u8);
    let facts = Slashable {
        genesis_validators_root: NETWORK,
        offence,
        validator: ValidatorIndex::new(validator),
        pubkey: PubkeyBytes::repeat_byte(validator as u8),
        roots: [Root::from(slot_bytes(slot)), Root::repeat_byte(0xff)],
        slot: Slot::new(slot),
        epoch: Epoch::new(slot / 32),
        seen: [at(slot), at(slot)],
        recorded_at: at(slot),
        ..Slashable::sample()
    };
    (Finding::slashable(facts, &evidence), evidence)
}

pub fn double_vote(validator: u64, slot: u64) -> (Finding, Arc<Evidence>) {
    offence_in(Offence::DoubleVote, validator, slot)
}

pub fn anomaly(kind: Kind, severity: Severity, slot: u64) -> Finding {
    Finding::anomaly(Anomaly {
        id: anomaly_id(NETWORK, &kind, &slot.to_le_bytes()),
        severity,
        slot: Slot::new(slot),
        epoch: Epoch::new(slot / 32),
        first_seen: at(slot),
        recorded_at: at(slot),
        ..Anomaly::sample(kind)
    })
}

fn slot_bytes(slot: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&slot.to_le_bytes());
    bytes
}

pub fn incident(first_slot: u64, state: IncidentState) -> Incident {
    let first_slot = Slot::new(first_slot);
    let id = incident_id(Root::ZERO, &Kind::SlashingWave, first_slot, "");
    Incident { id, state, first_slot, last_slot: first_slot, opened_at: at(5), ..Incident::sample() }
}
