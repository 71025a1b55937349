//! Findings, proofs and incidents for tests of the store and of what reads it. A builder takes the
//! facts that matter, and the rest is the same each time.

use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{
    Anomaly, Evidence, EvidenceKind, Finding, Incident, IncidentState, Kind, OffenceFacts, RouteFilter, RouteName, Severity,
    Store, Time, anomaly_id, incident_id,
};
use std::path::Path;
use std::sync::Arc;

/// The network of all samples, named by its genesis validators root.
pub const NETWORK: Root = Root::repeat_byte(0x4e);

/// Opens a store of this network, or creates it.
pub fn open(dir: &Path) -> Store {
    Store::open(dir, NETWORK).unwrap()
}

pub fn at(unix_ns: u64) -> Time {
    Time::from_unix_ns(unix_ns)
}

pub fn route(name: &str) -> RouteName {
    RouteName::new(name).unwrap()
}

/// Routes that receive every finding.
pub fn everyone(names: &[&str]) -> Vec<RouteFilter> {
    let everything = |name| RouteFilter { route: route(name), min_severity: Severity::Info, labels: Vec::new() };
    names.iter().copied().map(everything).collect()
}

pub fn proof(content: u8) -> Arc<Evidence> {
    Arc::new(Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![content; 700], serde_json::json!({"n": content})))
}

/// A finding of `offence` by `validator` in `slot`. It is recorded at as many nanoseconds as the
/// slot's number.
pub fn offence_in(offence: Offence, validator: u64, slot: u64) -> (Finding, Arc<Evidence>) {
    labelled_offence(offence, validator, slot, &[])
}

/// The same, of a validator with labels.
pub fn labelled_offence(offence: Offence, validator: u64, slot: u64, labels: &[&str]) -> (Finding, Arc<Evidence>) {
    let evidence = proof(slot as u8);
    let mut root = [0; 32];
    root[..8].copy_from_slice(&slot.to_le_bytes());
    let facts = OffenceFacts {
        genesis_validators_root: NETWORK,
        offence,
        validator: ValidatorIndex::new(validator),
        pubkey: PubkeyBytes::repeat_byte(validator as u8),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        roots: [Root::from(root), Root::repeat_byte(0xff)],
        slot: Slot::new(slot),
        epoch: Epoch::new(slot / 32),
        seen: [at(slot), at(slot)],
        recorded_at: at(slot),
        ..OffenceFacts::sample()
    };
    (Finding::slashable(facts, &evidence), evidence)
}

pub fn double_vote(validator: u64, slot: u64) -> (Finding, Arc<Evidence>) {
    offence_in(Offence::DoubleVote, validator, slot)
}

/// An anomaly of `slot`, recorded at as many nanoseconds as the slot's number.
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

pub fn incident(first_slot: u64, state: IncidentState) -> Incident {
    let first_slot = Slot::new(first_slot);
    let id = incident_id(Root::ZERO, &Kind::SlashingWave, first_slot, "");
    Incident { id, state, first_slot, last_slot: first_slot, opened_at: at(5), ..Incident::sample() }
}
