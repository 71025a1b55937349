//! Recording and reading: what is stored once, in which order, and what is refused.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use consensus::{Offence, Root, Slot, ValidatorIndex};
use evidence::keys::FORMAT;
use evidence::{
    Changes, DeliveryId, Evidence, EvidenceKind, FURTHER_PAIRS, Finding, IncidentState, Included, Kind, KindCounts, MAX_SCANNED,
    OutboxCounts, Punishable, Query, Severity, SortOrder, Store, StoreError, Time,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use test_support::samples::*;

const DOUBLE_VOTE: Kind = Kind::Offence(Offence::DoubleVote);

/// A kind as a database of another version may have it.
fn kind(name: &str) -> Kind {
    serde_json::from_value(name.into()).unwrap()
}

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

    // The same offence comes again later, with another time, another proof and more routes.
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

/// Compares the result of the lists with looking at every finding.
#[test]
fn filters_agree_with_looking_at_each() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut rows = Vec::new();
    for nth in 0..60 {
        let (mut finding, evidence) = offence_in(Offence::ALL[nth as usize % 3], 250 + nth % 7, nth * 7 % 60 * 3);
        finding.validator.as_mut().unwrap().labels = vec![format!("operator={}", nth % 2), format!("group={}", nth % 5)];
        finding.severity = Severity::ALL[nth as usize % 3];
        rows.push((finding, evidence));
    }
    store.record(rows, &[]).unwrap();
    let mut of_many = anomaly(kind("double"), Severity::Info, 9);
    of_many.details.as_mut().unwrap().insert("labels".into(), serde_json::json!(["operator=1", 7]));
    store.record_anomalies(vec![of_many], &[]).unwrap();
    let all: Vec<_> = store.all_findings().map(Result::unwrap).collect();
    assert_eq!(all.len(), 61);

    let kinds = [None, Some("double_vote"), Some("surround_vote"), Some("double"), Some("double_")].map(|name| name.map(kind));
    let labels: [&[&str]; 4] = [&[], &["operator=1"], &["operator=1", "group=3"], &["operator=2"]];
    let mut n_found = 0;
    for kind in &kinds {
        for validator in [None, Some(250), Some(256), Some(1)] {
            for (from, to) in [(None, None), (Some(30), Some(90)), (None, Some(9)), (Some(900), None)] {
                for labels in labels {
                    for severity in [None, Some(Severity::Critical), Some(Severity::Info)] {
                        for after in [0, 17, 61, u64::MAX] {
                            let orders = [SortOrder::OldestFirst, SortOrder::NewestFirst];
                            for (order, only_public) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
                                let query = Query {
                                    after,
                                    order,
                                    kind: kind.clone(),
                                    validator: validator.map(ValidatorIndex::new),
                                    severity,
                                    labels: labels.iter().map(|label| (*label).to_owned()).collect(),
                                    from_slot: from.map(Slot::new),
                                    to_slot: to.map(Slot::new),
                                    heard_before: None,
                                    only_public,
                                };
                                let mut wanted: Vec<u64> = all
                                    .iter()
                                    .filter(|(seq, finding)| {
                                        let index = finding.validator.as_ref().map(|subject| subject.index.as_u64());
                                        let slot = finding.slot.as_u64();
                                        let is_beyond = match order {
                                            SortOrder::OldestFirst => *seq > after,
                                            SortOrder::NewestFirst => after == 0 || *seq < after,
                                        };
                                        is_beyond
                                            && kind.as_ref().is_none_or(|kind| *kind == finding.kind)
                                            && (!only_public || finding.offence().is_some())
                                            && validator.is_none_or(|validator| index == Some(validator))
                                            && severity.is_none_or(|severity| severity == finding.severity)
                                            && labels.iter().all(|label| finding.has_label(label))
                                            && from.is_none_or(|from| from <= slot)
                                            && to.is_none_or(|to| slot <= to)
                                    })
                                    .map(|(seq, _)| *seq)
                                    .collect();
                                if order == SortOrder::NewestFirst {
                                    wanted.reverse();
                                }
                                n_found += wanted.len();
                                assert_eq!(seqs(&store, query.clone()), wanted, "{query:?}");
                            }
                        }
                    }
                }
            }
        }
    }
    // The kind that this version does not know counts as private.
    let private = |first, last| store.numbers_of_private_kinds(first, last).unwrap();
    assert_eq!((private(1, 61), private(1, 60), private(62, 99)), (vec![61], vec![], vec![]));
    let mut by_slot = std::collections::BTreeMap::new();
    all.iter().for_each(|(_, finding)| *by_slot.entry(finding.slot).or_insert(0) += 1);
    assert_eq!(store.count_by_slot(Slot::new(0), Slot::MAX).unwrap(), Some(by_slot.clone()));
    let (first, last) = (*by_slot.keys().nth(1).unwrap(), *by_slot.keys().nth(2).unwrap());
    by_slot.retain(|slot, _| (first..=last).contains(slot));
    assert_eq!(store.count_by_slot(first, last).unwrap(), Some(by_slot), "both ends belong to the range");
    assert!(n_found > 1_000, "{n_found}");
}

/// The wanted findings come after, or before, more findings than one call may look at.
#[test]
fn a_filter_that_matches_little_costs_little() {
    const MANY: u64 = MAX_SCANNED as u64 + 1_000;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let evidence = proof(1);
    let mut findings: Vec<_> = (0..MANY)
        .map(|nth| {
            let (finding, _) = double_vote(nth % 500, 1_000 + nth);
            (Finding { severity: Severity::Info, ..finding }, evidence.clone())
        })
        .collect();
    let mut rare = double_vote(77, 5).0;
    rare.validator.as_mut().unwrap().labels = vec!["group=acme".into()];
    findings.push((rare, evidence));
    store.record(findings, &[]).unwrap();
    let whole = |query: Query| {
        let page = store.find(&query, 100).unwrap();
        assert_eq!(page.next, None, "{query:?} is answered in one go");
        page.findings.iter().map(|(seq, _)| *seq).collect::<Vec<_>>()
    };
    for order in [SortOrder::OldestFirst, SortOrder::NewestFirst] {
        let all = Query { order, ..Query::default() };
        assert_eq!(whole(Query { to_slot: Some(Slot::new(999)), ..all.clone() }), [MANY + 1]);
        assert_eq!(whole(Query { from_slot: Some(Slot::new(1_000 + MANY)), ..all.clone() }), [0; 0]);
        assert_eq!(whole(Query { from_slot: Some(Slot::new(1_007)), to_slot: Some(Slot::new(1_007)), ..all.clone() }), [8]);
        assert_eq!(whole(Query { severity: Some(Severity::Critical), ..all.clone() }), [MANY + 1]);
        assert_eq!(whole(Query { labels: vec!["group=acme".into()], ..all.clone() }), [MANY + 1]);
        assert_eq!(whole(Query { labels: vec!["group=nobody".into()], kind: Some(DOUBLE_VOTE), ..all }), [0; 0]);
    }
    let counted = store.count_by_kind(&Query { labels: vec!["group=acme".into()], ..Query::default() }, 10).unwrap();
    assert_eq!(counted, KindCounts { by_kind: [(DOUBLE_VOTE, 1)].into(), worst: Some(Severity::Critical), is_partial: false });
    // A range with too many findings for a list is read page by page. No finding is left out.
    for order in [SortOrder::OldestFirst, SortOrder::NewestFirst] {
        let mut query =
            Query { order, from_slot: Some(Slot::new(1_000)), validator: Some(ValidatorIndex::new(77)), ..Query::default() };
        let mut n = 0;
        loop {
            let page = store.find(&query, 7).unwrap();
            n += page.findings.len();
            let Some(next) = page.next else { break };
            query.after = next;
        }
        assert_eq!(n as u64, MANY / 500);
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

/// A step is written whole or not at all. If a part of it cannot be stored, nothing is.
#[test]
fn a_step_is_one_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (finding, evidence) = double_vote(7, 100);
    store.put_checkpoint("old", &[9]).unwrap();
    let step = |anomaly: Finding| Changes {
        further_pairs: HashMap::new(),
        findings: vec![(finding.clone(), Some(evidence.clone())), (anomaly, None)],
        inclusions: [(finding.id, Some(Included { slot: Slot::new(105), block_root: Root::ZERO }))].into(),
        incidents: vec![incident(1, IncidentState::Open)],
        checkpoints: vec![("note".into(), vec![1])],
        dropped_checkpoints: vec!["old".into()],
        ..Changes::default()
    };
    store.refuse_writes(true);
    assert!(store.apply(step(anomaly(Kind::ClockSkew, Severity::Info, 1)), &everyone(&["ops"])).is_err());
    store.refuse_writes(false);
    assert_eq!((store.count(), store.last_incident_revision(), store.checkpoint("note").unwrap()), (0, 0, None));
    assert_eq!(store.checkpoint("old").unwrap(), Some(vec![9]));
    let recorded = store.apply(step(anomaly(Kind::ClockSkew, Severity::Info, 1)), &everyone(&["ops"])).unwrap();
    assert_eq!(recorded.iter().map(|one| one.first_time).collect::<Vec<_>>(), [true, true]);
    assert!(store.finding(finding.id).unwrap().unwrap().1.included.is_some(), "new and included in one step");
    assert_eq!((store.count(), store.last_incident_revision(), store.checkpoint("note").unwrap()), (2, 1, Some(vec![1])));
    assert_eq!(store.checkpoint("old").unwrap(), None);
}

/// A broadcast is about the watcher itself, so it goes to every route.
#[test]
fn a_broadcast_goes_to_every_route_whatever_it_asks_for_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut routes = everyone(&["all", "worst", "labelled"]);
    routes[1].min_severity = Severity::Critical;
    routes[2].labels = vec!["operator=nobody".into()];
    let deaf = anomaly(Kind::SubnetSilent, Severity::Warning, 9);
    let told = |seq| store.deliveries_of(seq).unwrap().into_iter().map(|(route, _)| route.to_string()).collect::<Vec<_>>();
    for _ in 0..2 {
        let broadcasts = vec![deaf.clone()];
        let recorded = store.apply(Changes { broadcasts, ..Changes::default() }, &routes).unwrap();
        assert_eq!(recorded[0].seq, 1);
        assert_eq!(told(1), ["all", "labelled", "worst"]);
        assert_eq!(store.outbox_counts().pending, 3);
    }
    store.record_anomalies(vec![anomaly(Kind::SubnetSilent, Severity::Warning, 10)], &routes).unwrap();
    assert_eq!(told(2), ["all"], "any other finding goes to those who ask for it");
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
        db.put_cf(&db.cf_handle("meta").unwrap(), "format", 99u32.to_be_bytes()).unwrap();
    }
    for newer in [Store::open(dir.path(), NETWORK), Store::open_read_only(dir.path())] {
        let newer = newer.map(|_| ()).unwrap_err();
        assert!(matches!(newer, StoreError::NewerFormat { found: 99, known: FORMAT, .. }), "{newer}");
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

/// Findings that cannot be punished are deleted after a time, with their proofs and deliveries. All
/// others stay.
#[test]
fn what_cannot_be_punished_expires_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let worthless = |validator, slot| {
        let (mut finding, evidence) = double_vote(validator, slot);
        finding.set_punishable(Punishable::Withdrawable);
        (finding, evidence)
    };
    let watched = |validator, slot| {
        let (finding, evidence) = worthless(validator, slot);
        (Finding { severity: Severity::Critical, ..finding }, evidence)
    };
    let rows = vec![double_vote(1, 10), worthless(2, 11), watched(3, 12), worthless(4, 13), worthless(5, 20), worthless(6, 21)];
    let ids: Vec<Root> = rows.iter().map(|(finding, _)| finding.id).collect();
    assert_eq!(rows[1].0.severity, Severity::Info);
    store.record(rows, &everyone(&["ops"])).unwrap();
    store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Info, 14)], &[]).unwrap();
    let ops = route("ops");
    // The delivery of number 4 is still pending.
    for seq in [1, 2, 3, 5, 6] {
        store.delivered(&DeliveryId { seq, route: ops.clone() }, at(30)).unwrap();
    }
    assert_eq!(store.expire(at(11)).unwrap(), 0, "not old enough");
    assert_eq!(store.expire(at(20)).unwrap(), 1);
    let known = |store: &Store| ids.iter().map(|id| store.is_known(*id).unwrap()).collect::<Vec<_>>();
    assert_eq!(known(&store), [true, false, true, true, true, true]);
    assert_eq!(store.finding(ids[1]).unwrap(), None);
    assert_eq!(store.evidence(proof(11).id).unwrap(), None);
    assert!(store.deliveries_of(2).unwrap().is_empty() && !store.deliveries_of(1).unwrap().is_empty());
    let of = |validator| seqs(&store, Query { validator: Some(ValidatorIndex::new(validator)), ..Query::default() });
    assert_eq!((of(2), of(3)), (vec![], vec![3]));
    assert_eq!(seqs(&store, Query { kind: Some(DOUBLE_VOTE), ..Query::default() }), [1, 3, 4, 5, 6]);
    assert_eq!(seqs(&store, Query::default()), [1, 3, 4, 5, 6, 7]);
    assert_eq!(store.expire(at(1000)).unwrap(), 2, "those that were too young");
    assert_eq!(known(&store), [true, false, true, true, false, false]);
    // The newest finding stays, because otherwise its number would be given again.
    store.record(vec![worthless(8, 30)], &[]).unwrap();
    assert_eq!((store.expire(at(1000)).unwrap(), store.last_seq()), (0, 8));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.record(vec![double_vote(9, 40)], &[]).unwrap()[0].seq, 9);
    assert_eq!(store.expire(at(1000)).unwrap(), 1, "goes on where it was");
    // A finding that was deleted is new if it is recorded again.
    assert!(store.record(vec![worthless(2, 11)], &[]).unwrap()[0].first_time);
}

/// A finding whose delivery was pending when it would have expired goes when its last delivery has
/// ended.
#[test]
fn what_was_kept_for_its_delivery_expires_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (mut late, evidence) = double_vote(2, 11);
    late.set_punishable(Punishable::Withdrawable);
    let (mut given_up, other) = double_vote(3, 12);
    given_up.set_punishable(Punishable::Withdrawable);
    let ids = [late.id, given_up.id];
    let rows = vec![(late, evidence), (given_up, other), double_vote(1, 13), double_vote(4, 14)];
    store.record(rows, &everyone(&["ops", "pager"])).unwrap();
    let delivery = |seq, name| DeliveryId { seq, route: route(name) };
    assert_eq!(store.expire(at(1000)).unwrap(), 0, "all deliveries are pending");
    store.delivered(&delivery(1, "ops"), at(1001)).unwrap();
    store.retry_at(&delivery(1, "pager"), at(1002), "away").unwrap();
    assert!(store.is_known(ids[0]).unwrap(), "one delivery is left");
    store.delivered(&delivery(1, "pager"), at(1003)).unwrap();
    store.given_up(&delivery(2, "ops"), at(1004), "refused").unwrap();
    store.given_up(&delivery(2, "pager"), at(1004), "refused").unwrap();
    store.delivered(&delivery(3, "ops"), at(1005)).unwrap();
    store.delivered(&delivery(3, "pager"), at(1005)).unwrap();
    store.expire(at(2000)).unwrap();
    assert_eq!(ids.map(|id| store.is_known(id).unwrap()), [false; 2]);
    assert_eq!((store.evidence(proof(11).id).unwrap(), store.evidence(proof(12).id).unwrap()), (None, None));
    assert!(store.deliveries_of(1).unwrap().is_empty());
    assert!(store.finding_at(3).unwrap().is_some(), "this one may still be punished");
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 2, delivered: 4, given_up: 2 });
}

/// A proof that accuses several validators stays as long as one of their findings does.
#[test]
fn a_shared_proof_goes_with_the_last_finding_that_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let side = serde_json::json!({"attesting_indices": ["2", "4"]});
    let json = serde_json::json!({"attestation_1": side, "attestation_2": side});
    let shared = Arc::new(Evidence::new(EvidenceKind::AttesterSlashing, consensus::ForkName::Fulu, vec![7], json));
    let row = |validator, recorded| {
        let (mut finding, _) = double_vote(validator, 10);
        finding.set_punishable(Punishable::AlreadySlashed);
        (Finding { recorded_at: at(recorded), evidence: Some(shared.reference()), ..finding }, shared.clone())
    };
    store.record(vec![row(2, 10), row(4, 20), double_vote(1, 30)], &[]).unwrap();
    assert_eq!(store.expire(at(15)).unwrap(), 1);
    assert!(store.evidence(shared.id).unwrap().is_some());
    assert_eq!(store.expire(at(25)).unwrap(), 1);
    assert_eq!(store.evidence(shared.id).unwrap(), None);
    // Both findings expire in one call.
    store.record(vec![row(2, 40), row(4, 41), double_vote(1, 50)], &[]).unwrap();
    assert_eq!(store.expire(at(45)).unwrap(), 2);
    assert_eq!(store.evidence(shared.id).unwrap(), None);
}

#[test]
fn further_pairs_are_added_up_in_the_finding_that_stands_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (finding, evidence) = double_vote(7, 100);
    let id = finding.id;
    let add = |findings: Vec<(Finding, Option<Arc<Evidence>>)>, n: u64| {
        let further_pairs = HashMap::from([(id, n), (Root::repeat_byte(9), 1)]);
        store.apply(Changes { findings, further_pairs, ..Changes::default() }, &[]).unwrap();
        let (_, stored) = store.finding(id).unwrap().unwrap();
        stored.details.unwrap()[FURTHER_PAIRS].clone()
    };
    assert_eq!(add(vec![(finding, Some(evidence))], 3), "3");
    assert_eq!(add(Vec::new(), 40), "43");
    assert_eq!(store.last_seq(), 1);
}

/// A validator whose clock is an hour ahead signs for slots that have not begun. Such a finding
/// belongs to the time at which it was heard.
#[test]
fn messages_of_the_future_are_found_by_when_they_were_heard() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), NETWORK).unwrap();
    let row = |validator: u64, slot: u64, heard_s: u64| {
        let (finding, evidence) = double_vote(validator, slot);
        let at = Time::from_unix_ns(heard_s * 1_000_000_000);
        (Finding { first_seen: at, second_seen: Some(at), ..finding }, evidence)
    };
    store.record(vec![row(1, 50, 600), row(2, 350, 600), row(3, 350, 9_000), row(4, 30, 600), row(5, 90_000, 600)], &[]).unwrap();
    let query = Query { from_slot: Some(Slot::new(40)), to_slot: Some(Slot::new(60)), ..Query::default() };
    let found = |query: &Query| -> Vec<u64> {
        let page = store.find(query, 100).unwrap();
        page.findings.iter().map(|(_, finding)| finding.validator.as_ref().unwrap().index.as_u64()).collect()
    };
    assert_eq!(found(&query), [1]);
    let heard_before = Some(Time::from_unix_ns(720_000_000_000));
    assert_eq!(found(&Query { heard_before, ..query }), [1, 2], "3 was heard later, 4 is of before, 5 is of another time");
}
