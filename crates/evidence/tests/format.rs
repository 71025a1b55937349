//! Databases of older formats stay readable. Each fixture is as that version wrote it.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use evidence::{
    DeliveryId, DeliveryState, Incident, IncidentState, Kind, OutboxCounts, Priority, Query, Severity, SortOrder, Store,
    StoreError, Tracking,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use test_support::samples::*;

const FIXTURES: [&str; 4] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format-1"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format-2"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format-3"),
    FORMAT_4,
];
/// The first fixture that has incidents. Their keys and peaks are among their details.
const FORMAT_4: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format-4");
/// If this variable names a folder, a fresh fixture is written there. A new format gets a new
/// folder, and the old one stays.
const WRITE: &str = "SLASHWATCH_TEST_WRITE_FIXTURE";

fn delivery(seq: u64) -> DeliveryId {
    DeliveryId { seq, route: route("ops") }
}

fn fill(dir: &Path) {
    let store = open(dir);
    store.record(vec![double_vote(7, 100), double_vote(258, 100), double_vote(7, 133)], &everyone(&["ops"])).unwrap();
    store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Warning, 140)], &everyone(&["ops"])).unwrap();
    store.delivered(&delivery(1), at(200)).unwrap();
    store.retry_at(&delivery(2), at(300), "away").unwrap();
    store.given_up(&delivery(3), at(400), "refused 8 times").unwrap();
    store.put_checkpoint("capture", b"offset 77").unwrap();
    store.put_incidents(&incidents()).unwrap();
    drop(store);
    // Opening the database again moves all data from the log into tables. So the fixture has data
    // in both.
    open(dir).put_checkpoint("node", b"x").unwrap();
}

/// The incidents of the fixture, in the order of their changes.
fn incidents() -> [Incident; 4] {
    let row = |slot, state, kind, details: serde_json::Value, tracking: Option<(&str, u64)>| Incident {
        kind,
        details: details.as_object().unwrap().clone(),
        tracking: tracking.map(|(key, peak)| Tracking { key: key.to_owned(), peak }),
        ..incident(slot, state)
    };
    let drop = json!({"participation_percent": 60});
    [
        row(3, IncidentState::Growing, Kind::ParticipationDrop, drop, Some(("", 12))),
        row(5, IncidentState::Waning, Kind::MissedDuties, json!({"group": "red"}), Some(("red", 4))),
        row(6, IncidentState::Closed, Kind::SlashingWave, json!({"chance_of_so_many": 0.5}), None),
        row(8, IncidentState::Open, Kind::SubnetSilent, json!({"subnets": "all"}), Some(("all", 0))),
    ]
}

fn check_content(store: &Store) {
    let all: Vec<_> = store.all_findings().map(Result::unwrap).collect();
    let (one, proof) = double_vote(7, 100);
    assert_eq!(all[0], (1, one.clone()));
    assert_eq!(all[3], (4, anomaly(Kind::ClockSkew, Severity::Warning, 140)));
    assert_eq!(all.len(), 4);
    assert_eq!(store.finding(one.id).unwrap(), Some((1, one)));
    assert_eq!(store.evidence(proof.id).unwrap().as_ref(), Some(&*proof));
    let seqs = |query: Query| store.find(&query, 9).unwrap().findings.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>();
    assert_eq!(seqs(Query { validator: Some(consensus::ValidatorIndex::new(7)), ..Query::default() }), [1, 3]);
    assert_eq!(seqs(Query { kind: Some(Kind::ClockSkew), ..Query::default() }), [4]);
    assert_eq!(seqs(Query { severity: Some(Severity::Critical), ..Query::default() }), [1, 2, 3]);
    assert_eq!(seqs(Query { from_slot: Some(consensus::Slot::new(133)), ..Query::default() }), [3, 4]);
    assert_eq!(seqs(Query { labels: vec!["nobody=has".into()], ..Query::default() }), [0; 0]);
    assert_eq!(seqs(Query { order: SortOrder::NewestFirst, after: 4, ..Query::default() }), [3, 2, 1]);
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 2, delivered: 1, given_up: 1 });
    let state = |seq| store.delivery(&delivery(seq)).unwrap().unwrap().state;
    assert_eq!(state(1), DeliveryState::Delivered { at: at(200) });
    assert_eq!(state(2), DeliveryState::Pending { next_attempt: at(300) });
    assert_eq!(state(3), DeliveryState::GivenUp { at: at(400), reason: "refused 8 times".into() });
    assert_eq!(store.checkpoint("capture").unwrap().as_deref(), Some(&b"offset 77"[..]));
}

fn copied(fixture: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

#[test]
fn older_formats_are_read_and_written_on() {
    for fixture in FIXTURES {
        let dir = copied(fixture);
        check_content(&Store::open_read_only(dir.path()).unwrap());
        let store = open(dir.path());
        check_content(&store);
        assert_eq!(store.record(vec![double_vote(7, 100), double_vote(9, 9)], &[]).unwrap()[1].seq, 5);
        let known = if fixture == FORMAT_4 { incidents().to_vec() } else { Vec::new() };
        assert_eq!(store.all_incidents().unwrap(), known, "{fixture}");
        assert_eq!(store.last_incident_revision(), known.len() as u64, "{fixture}");
        store.put_incidents(&[incident(9, IncidentState::Open)]).unwrap();
        drop(store);
        let wanted = [known, vec![incident(9, IncidentState::Open)]].concat();
        assert_eq!(Store::open_read_only(dir.path()).unwrap().all_incidents().unwrap(), wanted);
    }
}

/// The data directory of another network is refused before anything in it is changed.
#[test]
fn a_database_of_another_network_is_left_as_it_is() {
    let content = |dir: &Path| -> BTreeMap<String, Vec<u8>> {
        let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
    };
    for fixture in FIXTURES {
        let dir = copied(fixture);
        let before = content(dir.path());
        let Err(error) = Store::open(dir.path(), consensus::Root::ZERO) else { panic!("{fixture} is opened") };
        assert!(matches!(error, StoreError::ForeignNetwork { .. }), "{error}");
        let after = content(dir.path());
        assert!(before == after, "{fixture}: {:?} became {:?}", before.keys(), after.keys());
    }
}

/// Deliveries that were ordered by time alone are ordered by priority from now on. None of them is
/// lost or sent twice.
#[test]
fn deliveries_that_wait_in_older_formats_are_taken_over() {
    // From format 4 on, deliveries have a priority already.
    for fixture in FIXTURES.into_iter().filter(|fixture| *fixture != FORMAT_4) {
        let dir = copied(fixture);
        for opened in 1..=2 {
            let store = open(dir.path());
            let due = store.due(at(300), 9).unwrap();
            let due: Vec<_> = due.iter().map(|due| (due.id.seq, due.due_at, due.attempts, due.priority)).collect();
            let wanted = [(4, at(140), 0, Priority::Ordinary), (2, at(300), 1, Priority::Ordinary)];
            assert_eq!(due, wanted, "{fixture}, opened {opened} times");
            assert_eq!(store.next_due(&route("ops")).unwrap(), Some(at(140)));
            assert_eq!(store.outbox_counts(), OutboxCounts { pending: 2, delivered: 1, given_up: 1 });
        }
        let store = open(dir.path());
        store.delivered(&delivery(2), at(301)).unwrap();
        store.delivered(&delivery(4), at(302)).unwrap();
        assert!(store.due(at(u64::MAX), 9).unwrap().is_empty());
        assert!(store.pending_routes().unwrap().is_empty());
    }
}

/// Key and peak are removed from the details at once. They stay known when the incident is written
/// again.
#[test]
fn what_an_incident_goes_on_with_is_taken_out_of_its_details() {
    let dir = copied(FORMAT_4);
    assert_eq!(Store::open_read_only(dir.path()).unwrap().all_incidents().unwrap(), incidents(), "also read only");
    let store = open(dir.path());
    store.put_incidents(&incidents()).unwrap();
    assert_eq!(store.last_incident_revision(), 4, "nothing changed");
    let [mut drop, ..] = incidents();
    drop.state = IncidentState::Waning;
    store.put_incidents(std::slice::from_ref(&drop)).unwrap();
    assert_eq!(store.incident(drop.id).unwrap(), Some(drop.clone()));
    let shown = serde_json::to_value(&drop).unwrap();
    assert!(shown.get("tracking").is_none() && shown["details"].get("peak").is_none(), "nobody is shown it: {shown}");
}

/// A reader that follows the changes gets each incident that changed, once, in its current state.
#[test]
fn incidents_are_followed_by_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (incident(1, IncidentState::Open), incident(2, IncidentState::Open));
    store.put_incidents(&[one.clone(), two.clone()]).unwrap();
    let states = |after| -> Vec<(u64, Incident)> { store.incidents_after(after, 9).unwrap() };
    assert_eq!(states(0), [(1, one.clone()), (2, two.clone())]);
    assert_eq!(states(2), []);
    store.put_incidents(std::slice::from_ref(&two)).unwrap();
    assert_eq!(states(2), [], "nothing changed");
    let growing = incident(1, IncidentState::Growing);
    store.put_incidents(&[incident(1, IncidentState::Waning), growing.clone()]).unwrap();
    assert_eq!(states(0), [(2, two.clone()), (3, growing.clone())]);
    assert_eq!(states(2), [(3, growing.clone())]);
    assert_eq!(store.incident(one.id).unwrap(), Some(growing.clone()));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.last_incident_revision(), 3);
    assert_eq!(store.all_incidents().unwrap(), [growing, two]);
}

#[test]
fn todays_format_can_be_read_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    check_content(&open(dir.path()));
    if let Some(wanted) = std::env::var_os(WRITE) {
        std::fs::create_dir_all(&wanted).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            // Logs and options name the machine that wrote them, and nothing needs them.
            if !name.starts_with("LOG") && !name.starts_with("OPTIONS") && name != "LOCK" {
                std::fs::copy(entry.path(), Path::new(&wanted).join(name)).unwrap();
            }
        }
    }
}
