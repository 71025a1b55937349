//! Recording and reading: what is stored once, in which order, and what is refused.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::*;
use consensus::{Offence, Root, Slot, ValidatorIndex};
use evidence::{Changes, Finding, IncidentState, Included, Query, Severity, Store, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn seqs(store: &Store, query: Query) -> Vec<u64> {
    store.find(&query, 100).unwrap().findings.into_iter().map(|(seq, _)| seq).collect()
}

#[test]
fn a_finding_is_stored_once_and_a_repeat_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (finding, evidence) = double_vote(7, 100);
    let first = store.record(vec![(finding.clone(), evidence.clone())], &everyone(&["ops"])).unwrap();
    assert!(first[0].first_time && first[0].seq == 1);

    // Later, with another time, another proof and more routes: the same offence.
    let mut repeat = finding.clone();
    repeat.recorded_at = at(999);
    let again = store.record(vec![(repeat, proof(200)), double_vote(8, 100)], &everyone(&["ops", "late"])).unwrap();
    assert!(!again[0].first_time && again[0].seq == 1 && again[0].finding == finding);
    assert!(again[1].first_time && again[1].seq == 2, "numbers have no gaps");
    assert_eq!(store.evidence(proof(200).id).unwrap(), None);
    assert_eq!(store.outbox_counts().pending, 3);

    drop(store);
    let store = open(dir.path());
    assert_eq!(store.finding(finding.id).unwrap(), Some((1, finding)));
    assert_eq!(store.evidence(evidence.id).unwrap().as_ref(), Some(&*evidence));
    assert_eq!(store.last_seq(), 2);
    assert_eq!(store.outbox_counts().pending, 3);
}

#[test]
fn twice_in_one_batch_is_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let recorded = store.record(vec![double_vote(7, 1), double_vote(7, 1), double_vote(9, 1)], &[]).unwrap();
    assert_eq!(recorded.iter().map(|one| (one.seq, one.first_time)).collect::<Vec<_>>(), [(1, true), (1, false), (2, true)]);
    assert_eq!(store.count(), 2);
}

#[test]
fn a_refused_finding_takes_its_whole_batch_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused =
        store.record_anomalies(vec![anomaly("clock_skew", Severity::Info, 1), anomaly("no kind", Severity::Info, 2)], &[]);
    assert!(matches!(refused, Err(StoreError::BadKind { .. })), "{refused:?}");
    assert_eq!(store.count(), 0);
    assert_eq!(store.record(vec![double_vote(1, 1)], &[]).unwrap()[0].seq, 1);
}

#[test]
fn filters_agree_with_looking_at_each() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut rows = Vec::new();
    for nth in 0..60 {
        let offence = Offence::ALL[nth as usize % 3];
        rows.push(offence_in(offence, 250 + nth % 7, nth * 3));
    }
    store.record(rows, &[]).unwrap();
    store.record_anomalies(vec![anomaly("double", Severity::Info, 9)], &[]).unwrap();
    let all: Vec<_> = store.all_findings().map(Result::unwrap).collect();
    assert_eq!(all.len(), 61);

    let kinds = [None, Some("double_vote"), Some("surround_vote"), Some("double"), Some("double_"), Some("")];
    for kind in kinds {
        for validator in [None, Some(250), Some(256), Some(1)] {
            for (from, to) in [(None, None), (Some(30), Some(90)), (None, Some(9)), (Some(900), None)] {
                for after in [0, 17, 61, u64::MAX] {
                    let query = Query {
                        after,
                        kind: kind.map(String::from),
                        validator: validator.map(ValidatorIndex::new),
                        from_slot: from.map(Slot::new),
                        to_slot: to.map(Slot::new),
                    };
                    let wanted: Vec<u64> = all
                        .iter()
                        .filter(|(seq, finding)| {
                            let index = finding.validator.as_ref().map(|subject| subject.index.as_u64());
                            let slot = finding.slot.as_u64();
                            *seq > after
                                && kind.is_none_or(|kind| kind == finding.kind)
                                && validator.is_none_or(|validator| index == Some(validator))
                                && from.is_none_or(|from| from <= slot)
                                && to.is_none_or(|to| slot <= to)
                        })
                        .map(|(seq, _)| *seq)
                        .collect();
                    assert_eq!(seqs(&store, query.clone()), wanted, "{query:?}");
                }
            }
        }
    }
}

#[test]
fn pages_put_together_are_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.record((0..23).map(|nth| double_vote(nth % 2, nth)).collect(), &[]).unwrap();
    for limit in [1, 5, 6, 23, 24] {
        let mut query = Query { validator: Some(ValidatorIndex::new(0)), ..Query::default() };
        let mut seen = Vec::new();
        loop {
            let page = store.find(&query, limit).unwrap();
            assert!(page.findings.len() <= limit);
            seen.extend(page.findings.iter().map(|(seq, _)| *seq));
            let Some(next) = page.next else { break };
            query.after = next;
        }
        assert_eq!(seen, (0..23).filter(|nth| nth % 2 == 0).map(|nth| nth + 1).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[test]
fn an_inclusion_can_be_taken_back_and_nothing_else_moves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (finding, evidence) = double_vote(7, 100);
    store.record(vec![(finding.clone(), evidence)], &everyone(&["ops"])).unwrap();
    let included = Included { slot: Slot::new(105), block_root: Root::repeat_byte(5) };
    for now in [Some(included), None, Some(Included { slot: Slot::new(106), ..included })] {
        let inclusions = [(finding.id, now), (Root::ZERO, now)].into();
        store.apply(Changes { inclusions, ..Changes::default() }, &everyone(&["ops"])).unwrap();
        let (seq, stored) = store.finding(finding.id).unwrap().unwrap();
        assert_eq!((seq, stored), (1, Finding { included: now, ..finding.clone() }));
        assert_eq!((store.count(), store.outbox_counts().pending), (1, 1));
    }
}

/// A step is written whole or not at all: what cannot be stored takes everything else of its step with it.
#[test]
fn a_step_is_one_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (finding, evidence) = double_vote(7, 100);
    let step = |anomaly: Finding| Changes {
        findings: vec![(finding.clone(), Some(evidence.clone())), (anomaly, None)],
        inclusions: [(finding.id, Some(Included { slot: Slot::new(105), block_root: Root::ZERO }))].into(),
        incidents: vec![incident(1, IncidentState::Open)],
        checkpoints: vec![("note".into(), vec![1])],
    };
    assert!(store.apply(step(anomaly("no kind", Severity::Info, 1)), &everyone(&["ops"])).is_err());
    assert_eq!((store.count(), store.last_incident_revision(), store.checkpoint("note").unwrap()), (0, 0, None));
    let recorded = store.apply(step(anomaly("clock_skew", Severity::Info, 1)), &everyone(&["ops"])).unwrap();
    assert_eq!(recorded.iter().map(|one| one.first_time).collect::<Vec<_>>(), [true, true]);
    assert!(store.finding(finding.id).unwrap().unwrap().1.included.is_some(), "new and included in one step");
    assert_eq!((store.count(), store.last_incident_revision(), store.checkpoint("note").unwrap()), (2, 1, Some(vec![1])));
}

#[test]
fn listeners_hear_new_findings_only_and_until_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let subscription = store.subscribe({
        let heard = heard.clone();
        move |seq| heard.lock().unwrap().push(seq)
    });
    let others = Arc::new(AtomicU64::new(0));
    let _other = store.clone().subscribe({
        let others = others.clone();
        move |seq| others.store(seq, Ordering::SeqCst)
    });
    store.record(vec![double_vote(1, 1), double_vote(2, 1)], &[]).unwrap();
    store.record(vec![double_vote(1, 1)], &[]).unwrap();
    store.record(vec![double_vote(3, 1)], &[]).unwrap();
    drop(subscription);
    store.record(vec![double_vote(4, 1)], &[]).unwrap();
    assert_eq!(*heard.lock().unwrap(), [2, 3]);
    assert_eq!(others.load(Ordering::SeqCst), 4);
}

#[test]
fn checkpoints_come_back() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).put_checkpoint("capture", b"offset 5").unwrap();
    let store = open(dir.path());
    assert_eq!(store.checkpoint("capture").unwrap().as_deref(), Some(&b"offset 5"[..]));
    assert_eq!(store.checkpoint("other").unwrap(), None);
}

#[test]
fn foreign_networks_second_writers_and_other_databases_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let locked = Store::open(dir.path(), NETWORK).map(|_| ()).unwrap_err();
    assert!(matches!(locked, StoreError::Locked { .. }), "{locked}");
    assert!(locked.to_string().contains(dir.path().to_str().unwrap()), "{locked}");
    drop(store);
    let foreign = Store::open(dir.path(), Root::ZERO).map(|_| ()).unwrap_err();
    assert!(matches!(foreign, StoreError::ForeignNetwork { found: NETWORK, .. }), "{foreign}");
    assert!(foreign.to_string().contains("use another data directory"), "{foreign}");

    let other = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, other.path(), ["votes"]).unwrap());
    let not_ours = Store::open(other.path(), NETWORK).map(|_| ()).unwrap_err();
    assert!(matches!(not_ours, StoreError::NotOurs { .. }), "{not_ours}");
}

#[test]
fn a_newer_format_is_refused_even_with_families_we_do_not_know() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    {
        let mut options = rocksdb::Options::default();
        options.create_missing_column_families(true);
        let mut families = rocksdb::DB::list_cf(&options, dir.path()).unwrap();
        families.push("from_the_future".into());
        let db = rocksdb::DB::open_cf(&options, dir.path(), families).unwrap();
        db.put_cf(&db.cf_handle("meta").unwrap(), "format", 3u32.to_be_bytes()).unwrap();
    }
    for newer in [Store::open(dir.path(), NETWORK), Store::open_read_only(dir.path())] {
        let newer = newer.map(|_| ()).unwrap_err();
        assert!(matches!(newer, StoreError::NewerFormat { found: 3, known: 2, .. }), "{newer}");
    }
}

#[test]
fn a_reader_sees_what_is_there_beside_a_writer_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Store::open_read_only(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    let writer = open(dir.path());
    writer.record(vec![double_vote(1, 1)], &everyone(&["ops"])).unwrap();
    let reader = Store::open_read_only(dir.path()).unwrap();
    writer.record(vec![double_vote(2, 1)], &[]).unwrap();
    assert_eq!((reader.count(), reader.genesis_validators_root()), (1, NETWORK));
    assert_eq!(reader.all_findings().count(), 1);
    assert_eq!(reader.outbox_counts().pending, 1);
    assert!(matches!(reader.record(vec![double_vote(3, 1)], &[]), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.put_checkpoint("x", b""), Err(StoreError::ReadOnly { .. })));
    assert_eq!(Store::open_read_only(dir.path()).unwrap().count(), 2);
}

#[test]
fn all_evidence_can_be_written_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("db"));
    store.record(vec![double_vote(1, 1), double_vote(2, 1), double_vote(3, 2)], &[]).unwrap();
    let out = dir.path().join("evidence");
    assert_eq!(store.export_evidence(&out).unwrap(), 2, "validators 1 and 2 share a proof");
    for (_, finding) in store.all_findings().map(Result::unwrap) {
        let reference = finding.evidence.unwrap();
        let evidence = store.evidence(reference.id).unwrap().unwrap();
        assert_eq!(std::fs::read(out.join(reference.ssz)).unwrap(), evidence.ssz);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join(reference.json)).unwrap()).unwrap();
        assert_eq!(json, evidence.json);
    }
}
