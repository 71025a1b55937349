//! Deliveries: they are due in order, they end once, they are counted, and a restart changes
//! nothing.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use evidence::{
    Delivery, DeliveryId, DeliveryState, Kind, OutboxCounts, Priority, Punishable, RouteFilter, RouteName, Severity, StoreError,
    Time,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use test_support::samples::*;

fn id(seq: u64, name: &str) -> DeliveryId {
    DeliveryId { seq, route: route(name) }
}

#[test]
fn each_route_gets_what_is_severe_enough() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let routes = [("all", Severity::Info), ("pager", Severity::Critical)];
    let routes = routes.map(|(name, min_severity)| RouteFilter { route: route(name), min_severity, labels: Vec::new() });
    store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Warning, 1)], &routes).unwrap();
    store.record(vec![double_vote(1, 2)], &routes).unwrap();
    let due = store.due(at(10), 10).unwrap();
    let due: Vec<_> = due.iter().map(|due| (due.id.seq, due.id.route.as_str())).collect();
    assert_eq!(due, [(2, "all"), (2, "pager"), (1, "all")], "a new offender first");
}

#[test]
fn a_delivery_ends_once_and_says_how() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.record(vec![double_vote(1, 5), double_vote(2, 6)], &everyone(&["ops"])).unwrap();
    assert_eq!(store.next_due(&route("ops")).unwrap(), Some(at(5)));
    store.retry_at(&id(1, "ops"), at(90), "503 Service Unavailable").unwrap();
    assert_eq!(store.next_due(&route("ops")).unwrap(), Some(at(6)));
    store.given_up(&id(2, "ops"), at(8), &format!("404{}", "\u{e4}".repeat(400))).unwrap();
    assert_eq!(store.next_due(&route("ops")).unwrap(), Some(at(90)));
    assert!(store.due(at(89), 9).unwrap().is_empty());
    let due = store.due(at(90), 9).unwrap();
    assert_eq!((due.len(), due[0].attempts, due[0].created_at), (1, 1, at(5)));
    store.delivered(&id(1, "ops"), at(91)).unwrap();
    assert_eq!(store.next_due(&route("ops")).unwrap(), None);

    let ended = store.retry_at(&id(1, "ops"), at(100), "late").unwrap_err();
    assert!(matches!(ended, StoreError::DeliveryEnded { state: "delivered", .. }), "{ended}");
    let unknown = store.delivered(&id(1, "nobody"), at(100)).unwrap_err();
    assert!(matches!(unknown, StoreError::NoSuchDelivery { .. }), "{unknown}");

    let wanted = Delivery {
        state: DeliveryState::Delivered { at: at(91) },
        priority: Priority::NewOffender,
        attempts: 2,
        refusals: 0,
        created_at: at(5),
        last_error: Some("503 Service Unavailable".into()),
    };
    assert_eq!(store.deliveries_of(1).unwrap(), [(route("ops"), wanted)]);
    let DeliveryState::GivenUp { reason, .. } = store.delivery(&id(2, "ops")).unwrap().unwrap().state else { panic!("given up") };
    assert!(reason.starts_with("404") && reason.len() <= evidence::outbox::MAX_REASON_LEN);
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 0, delivered: 1, given_up: 1 });
}

#[test]
fn a_route_that_is_gone_is_given_up_when_old_enough() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.record((1..=5).map(|nth| double_vote(nth, nth * 10)).collect(), &everyone(&["gone", "here"])).unwrap();
    let n_waiting = store.give_up_route(&route("gone"), at(40), std::time::Duration::from_nanos(15), "gone").unwrap();
    assert_eq!(n_waiting, 3);
    assert_eq!(store.outbox_counts(), OutboxCounts { pending: 8, delivered: 0, given_up: 2 });
    assert_eq!(store.pending_routes().unwrap(), [route("gone"), route("here")]);
    assert_eq!(store.due_for(&route("here"), at(99), 99).unwrap().len(), 5);
}

#[test]
fn route_names_are_short_words() {
    for good in ["ops", "a.b-c_D9", &"r".repeat(64)] {
        assert!(RouteName::new(good).is_ok());
    }
    for bad in ["", "a b", "a/b", "\u{e4}", "a\0", &"r".repeat(65)] {
        assert!(RouteName::new(bad).is_err(), "{bad:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Record { validator: u64, at: u64 },
    Retry { pick: usize, at: u64 },
    Deliver { pick: usize },
    GiveUp { pick: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u64, 1..50u64).prop_map(|(validator, at)| Step::Record { validator, at }),
        3 => (any::<usize>(), 1..80u64).prop_map(|(pick, at)| Step::Retry { pick, at }),
        2 => any::<usize>().prop_map(|pick| Step::Deliver { pick }),
        1 => any::<usize>().prop_map(|pick| Step::GiveUp { pick }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Compares the outbox with a map, with restarts at random steps.
    #[test]
    fn the_outbox_is_a_map_that_survives(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut pending: BTreeMap<(u64, String), u64> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut counts = OutboxCounts::default();
        for step in steps {
            let picked = |pick: usize| pending.keys().nth(pick % pending.len().max(1)).cloned();
            match step {
                Step::Record { validator, at } => {
                    // The slot, and so the id, depends only on the validator. The time is chosen
                    // for each row.
                    let (mut finding, proof) = double_vote(validator, validator);
                    finding.recorded_at = Time(at);
                    let recorded = store.record(vec![(finding, proof)], &everyone(&["a", "b"])).unwrap();
                    prop_assert_eq!(recorded[0].first_time, seen.insert(validator));
                    if recorded[0].first_time {
                        for name in ["a", "b"] {
                            pending.insert((recorded[0].seq, name.into()), at);
                            counts.pending += 1;
                        }
                    }
                }
                Step::Retry { pick, at } => if let Some((seq, name)) = picked(pick) {
                    store.retry_at(&id(seq, &name), Time(at), "down").unwrap();
                    pending.insert((seq, name), at);
                },
                Step::Deliver { pick } => if let Some((seq, name)) = picked(pick) {
                    store.delivered(&id(seq, &name), at(60)).unwrap();
                    pending.remove(&(seq, name));
                    counts.pending -= 1;
                    counts.delivered += 1;
                },
                Step::GiveUp { pick } => if let Some((seq, name)) = picked(pick) {
                    store.given_up(&id(seq, &name), at(60), "gone").unwrap();
                    pending.remove(&(seq, name));
                    counts.pending -= 1;
                    counts.given_up += 1;
                },
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path());
                }
            }
            prop_assert_eq!(store.outbox_counts(), counts);
            for now in [0, 25, 80] {
                let mut wanted: Vec<_> =
                    pending.iter().filter(|(_, at)| **at <= now).map(|((seq, name), at)| (*at, *seq, name.clone())).collect();
                wanted.sort();
                wanted.truncate(5);
                let due = store.due(at(now), 5).unwrap().into_iter();
                let due: Vec<_> = due.map(|due| (due.due_at.as_unix_ns(), due.id.seq, due.id.route.to_string())).collect();
                prop_assert_eq!(due, wanted);
            }
        }
    }
}

#[test]
fn a_route_with_labels_is_told_of_their_holders_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let labelled = |name: &str, labels: &[&str]| RouteFilter {
        route: route(name),
        min_severity: Severity::Info,
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    let routes = [labelled("all", &[]), labelled("ours", &["x=y", "operator=acme"]), labelled("theirs", &["operator=other"])];
    let (mut finding, evidence) = double_vote(7, 100);
    finding.validator.as_mut().unwrap().labels = vec!["group=a".into(), "operator=acme".into()];
    store.record(vec![(finding, evidence)], &routes).unwrap();
    store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Critical, 101)], &routes).unwrap();
    let n_due = |name: &str| store.due_for(&route(name), at(u64::MAX), 10).unwrap().len();
    assert_eq!((n_due("all"), n_due("ours"), n_due("theirs")), (2, 1, 0));
}

/// The order is: watched keys, first offences of validators, the rest, and offences that cannot be
/// punished, however many of these wait.
#[test]
fn watched_keys_go_first_then_new_offenders_then_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let routes = everyone(&["ops"]);
    let of = |validator, slot, labels: &[&str], punishable| {
        let (mut finding, evidence) = double_vote(validator, slot);
        finding.validator.as_mut().unwrap().labels = labels.iter().map(|label| (*label).to_owned()).collect();
        finding.punishable = Some(punishable);
        (finding, evidence)
    };
    // 3 000 offences of a key that has left, first in one batch and then in single ones.
    let worthless = |slot| of(999, slot, &[], Punishable::Withdrawable);
    store.record((1..=2_990).map(worthless).collect(), &routes).unwrap();
    (2_991..=3_000).for_each(|slot| drop(store.record(vec![worthless(slot)], &routes).unwrap()));
    store.record_anomalies(vec![anomaly(Kind::ClockSkew, Severity::Warning, 3_001)], &routes).unwrap();
    store.record(vec![of(7, 3_002, &["operator=x"], Punishable::Unknown)], &routes).unwrap();
    store.record(vec![of(7, 3_003, &["operator=x"], Punishable::Yes)], &routes).unwrap();
    store.record(vec![of(5, 3_004, &["group=acme"], Punishable::Yes)], &routes).unwrap();
    // A key of a watched group that has left. Only its first offence has high priority.
    store
        .record((3_005..=3_006).map(|slot| of(6, slot, &["group=acme"], Punishable::AlreadySlashed)).collect(), &routes)
        .unwrap();
    let due = store.due_for(&route("ops"), at(u64::MAX), 7).unwrap();
    let order: Vec<_> = due.iter().map(|due| (due.priority, due.finding.slot.as_u64())).collect();
    assert_eq!(
        order,
        [
            (Priority::Watched, 3_004),
            (Priority::Watched, 3_005),
            (Priority::NewOffender, 3_002),
            (Priority::Ordinary, 3_001),
            (Priority::Ordinary, 3_003),
            (Priority::Worthless, 1),
            (Priority::Worthless, 2),
        ]
    );
    // A retry keeps its priority.
    store.retry_at(&id(due[0].id.seq, "ops"), at(9_000), "busy").unwrap();
    assert_eq!(store.due_for(&route("ops"), at(8_999), 1).unwrap()[0].finding.slot.as_u64(), 3_005);
    assert_eq!(store.due_for(&route("ops"), at(9_000), 2).unwrap()[1].finding.slot.as_u64(), 3_004);
    assert_eq!(store.next_due(&route("ops")).unwrap(), Some(at(1)));
}

/// While one thread reads what is due, another one moves deliveries to a later time. Each delivery
/// is read in one state: due, with no attempt, or not due.
#[test]
fn what_is_due_is_read_at_one_moment() {
    const N: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows = (1..=N).map(|nth| double_vote(nth, nth)).collect();
    store.record(rows, &everyone(&["ops"])).unwrap();
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            // The last ones first, because the reader comes to them last.
            for seq in (1..=N).rev() {
                store.retry_at(&id(seq, "ops"), at(1_000_000), "away").unwrap();
            }
        });
        let mut n_reads = 0;
        while !moving.is_finished() {
            let due = store.due_for(&route("ops"), at(N), usize::MAX).unwrap();
            let moved: Vec<u64> = due.iter().filter(|due| due.attempts > 0).map(|due| due.id.seq).collect();
            assert!(moved.is_empty(), "read as due after they were moved, in read {n_reads}: {moved:?}");
            n_reads += 1;
        }
        assert!(n_reads > 0);
    });
    assert!(store.due_for(&route("ops"), at(N), usize::MAX).unwrap().is_empty());
}
