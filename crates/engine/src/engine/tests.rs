use super::*;
use crate::silence::SilenceChange;
use consensus::{Slot, Spec};
use sources::capture::{CaptureFile, Entry};
use sources::convert::MessageConverter;
use std::collections::BTreeSet;
use std::path::Path;
use verify::VerifyConfig;

/// An engine that starts from the state of the small capture.
fn engine(dir: &Path, history_epochs: u64) -> Engine {
    engine_with(dir, history_epochs, Vec::new(), None)
}

fn engine_with(
    dir: &Path,
    history_epochs: u64,
    routes: Vec<RouteFilter>,
    unrecorded: Option<std::sync::mpsc::SyncSender<Vec<Finding>>>,
) -> Engine {
    let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
    let spec = Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
    let state = file.first_state().unwrap().unwrap();
    let mut keys = PubkeyCache::in_memory();
    let chain = Chain::from_state(spec, &state, &mut keys, &mut |_| ()).unwrap();
    let parts = EngineParts {
        chain,
        keys,
        verifier: Verifier::new(VerifyConfig::replay()),
        history_epochs,
        fold_after_epochs: 0,
        detect: DetectConfig::default(),
        watch: WatchParts::default(),
        routes,
        unrecorded: unrecorded
            .map(|out| -> Unrecorded { Box::new(move |findings| out.try_send(findings).map_err(|error| error.to_string())) }),
        metrics: Metrics::new(),
        clock: || Time(0),
    };
    Engine::open(&dir.join("index"), &dir.join("evidence"), parts).unwrap()
}

/// A clock that is ten years ahead deletes no history. History is pruned only if it is also old by
/// the chain.
#[test]
fn a_wrong_clock_erases_nothing() {
    let path = tempfile::tempdir().unwrap();
    let dir = path.path().to_owned();
    let mut engine = engine(&dir, 4_096);
    let network = engine.chain().network().clone();
    let ten_years = Time(network.slot_start_ns(consensus::Slot::new(10)) + 10 * 365 * 86_400 * 1_000_000_000);
    engine.process(Vec::new(), ten_years).unwrap();
    assert!(network.slot_at(ten_years.0).epoch(network.preset()) > Epoch::new(2 * 4_096));
    assert_eq!(engine.pruned_before, Epoch::new(0));
}

/// A request in the first slot, which may be long, must not show that nothing is watched.
#[test]
fn groups_are_shown_from_the_start_and_their_keys_from_the_first_batch_on() {
    let path = tempfile::tempdir().unwrap();
    let mut engine = engine(path.path(), 4_096);
    let mut list = detect::watch::WatchList::default();
    list.add(Some("acme"), "1-3".parse().unwrap(), &[], detect::watch::Duty::Active).unwrap();
    engine.set_watch(Arc::new(list));
    let labels = engine.watch_state.labels();
    let groups: Vec<(&str, usize)> = labels.groups().iter().map(|group| (&*group.name, group.validators.len())).collect();
    assert_eq!(groups, [("acme", 3)]);
    let now = Time(engine.chain().network().slot_start_ns(Slot::new(1)));
    engine.process(Vec::new(), now).unwrap();
    assert_eq!(engine.watch_state.report().keys.len(), 3, "before the first slot has ended");
}

#[test]
fn waiting_messages_are_shown_under_the_name_of_their_queues() {
    let path = tempfile::tempdir().unwrap();
    let engine = engine(path.path(), 4_096);
    engine.show_waiting(3);
    let mut text = Vec::new();
    let metrics = engine.metrics.registry.gather();
    prometheus::Encoder::encode(&prometheus::TextEncoder::new(), &metrics, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let shown: Vec<&str> = text.lines().filter(|line| line.starts_with("slashwatch_queue_messages{")).collect();
    assert_eq!(shown, ["slashwatch_queue_messages{queue=\"priority\"} 3"]);
}

/// A silence begins, the process restarts, and then messages come again.
#[test]
fn a_silence_is_told_once_to_every_route_over_a_restart_and_its_end_once() {
    let path = tempfile::tempdir().unwrap();
    let dir = path.path().to_owned();
    let route = |name, labels| RouteFilter {
        route: evidence::RouteName::new(name).unwrap(),
        min_severity: evidence::Severity::Critical,
        labels,
    };
    let routes = vec![route("ops", vec![]), route("acme", vec!["operator=nobody".to_owned()])];
    let mut engine = engine_with(&dir, 4_096, routes.clone(), None);
    let network = engine.chain().network().clone();
    let at = |slot| Time(network.slot_start_ns(Slot::new(slot)));
    assert!(engine.last_reception().is_none() && engine.earlier_silence().is_none());
    engine.record_silence(SilenceChange::Began { since: at(10) }, at(13)).unwrap();
    let pending = |engine: &Engine| engine.store().outbox_counts().pending;
    assert_eq!(pending(&engine), 2);
    drop(engine);
    let mut engine = engine_with(&dir, 4_096, routes, None);
    assert_eq!(pending(&engine), 2, "the restart tells nobody anything");
    let open = engine.earlier_silence().expect("it goes on").clone();
    assert_eq!((open.state, open.first_slot), (evidence::IncidentState::Open, Slot::new(10)));
    engine.record_silence(SilenceChange::Ended { since: at(10), until: at(99) }, at(99)).unwrap();
    assert_eq!(pending(&engine), 4);
    let over = engine.store().incident(open.id).unwrap().unwrap();
    assert_eq!((over.state, over.last_slot), (evidence::IncidentState::Closed, Slot::new(99)));
}

/// The findings of a backup come without those that were made since, and the index has what they
/// were made from. So none of them would ever be found again.
#[test]
fn an_evidence_store_that_is_older_than_its_index_is_noticed() {
    let path = tempfile::tempdir().unwrap();
    let dir = path.path();
    let (evidence, backup) = (dir.join("evidence"), dir.join("backup"));
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir(to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    let mut engine = engine(dir, 4_096);
    let at = |engine: &Engine, slot| Time(engine.chain().network().slot_start_ns(Slot::new(slot)));
    let (begin, noticed) = (at(&engine, 10), at(&engine, 13));
    engine.process(Vec::new(), begin).unwrap();
    drop(engine);
    copy(&evidence, &backup);
    let mut engine = self::engine(dir, 4_096);
    assert_eq!(engine.older_store(), None);
    let finding = evidence::Finding::anomaly(evidence::Anomaly::sample(evidence::Kind::LateBlocks));
    engine.store().record_anomalies(vec![finding], &[]).unwrap();
    engine.process(Vec::new(), noticed).unwrap();
    let expected = engine.store().last_seq();
    assert!(expected > 0);
    drop(engine);
    assert_eq!(self::engine(dir, 4_096).older_store(), None, "after an ordinary restart");
    std::fs::remove_dir_all(&evidence).unwrap();
    copy(&backup, &evidence);
    let older = self::engine(dir, 4_096).older_store().unwrap();
    assert_eq!(older, OlderStore { last: 0, expected });
    assert!(older.to_string().contains("restore evidence/ and index/ from the same backup"), "{older}");
}

/// Invalid and old messages do not count as reception. Signed and current messages do.
#[test]
fn only_proven_messages_of_the_present_are_the_network() {
    let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
    for (what, spoil, slots_late, counts) in
        [("as it came", false, 0, true), ("forged", true, 0, false), ("long ago", false, 1_000, false)]
    {
        let path = tempfile::tempdir().unwrap();
        let dir = path.path().to_owned();
        let mut engine = engine(&dir, 4_096);
        let network = engine.chain().network().clone();
        let converter = MessageConverter::new(network.clone());
        let mut last = Time(0);
        let mut batch = Vec::new();
        for entry in file.entries().unwrap() {
            let sources::capture::Entry::Gossip(entry) = entry.unwrap().entry else { continue };
            let Ok(message) = converter.gossip(&entry) else { continue };
            last = last.max(message.received_at);
            let spoiled = |parts: &mut verify::MessageParts| {
                // The position of the signature: near the start in a block, an aggregate or a
                // header, and at the end in a single vote.
                parts.bytes.iter_mut().skip(4).take(96).for_each(|byte| *byte ^= 1);
                parts.bytes.iter_mut().rev().take(96).for_each(|byte| *byte ^= 1);
            };
            batch.push(if spoil { message.changed(spoiled) } else { message });
        }
        assert!(batch.len() > 100);
        let now = Time(last.0 + slots_late * network.spec.slot_duration.as_nanos() as u64);
        engine.process(batch, now).unwrap();
        assert_eq!(engine.last_reception(), counts.then_some(now), "{what}");
        assert_eq!(engine.metrics.last_message.get(), if counts { (now.0 / 1_000_000_000) as i64 } else { 0 }, "{what}");
    }
}

/// The messages of the small capture, slot by slot, in the order of arrival.
fn slots(network: &Arc<consensus::Network>) -> Vec<(Vec<RawMessage>, Time)> {
    let (file, converter) =
        (CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap(), MessageConverter::new(network.clone()));
    let mut slots: Vec<(Vec<RawMessage>, Time)> = Vec::new();
    for entry in file.entries().unwrap() {
        let Entry::Gossip(entry) = entry.unwrap().entry else { continue };
        let Ok(message) = converter.gossip(&entry) else { continue };
        let at = message.received_at;
        match slots.last_mut().filter(|(_, now)| network.slot_at(now.0) >= network.slot_at(at.0)) {
            Some((batch, now)) => {
                *now = at.max(*now);
                batch.push(message);
            }
            None => slots.push((vec![message], at)),
        }
    }
    slots
}

fn ids<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> BTreeSet<Root> {
    findings.into_iter().filter(|finding| finding.offence().is_some()).map(|finding| finding.id).collect()
}

/// The disk refuses writes from the first slot on. Every offence is still proven and handed to the
/// kill switches. Nothing is stored, and the error is returned. When the disk accepts writes again,
/// everything that is owed is written with the next batch.
#[test]
fn what_is_proven_while_the_disk_refuses_is_handed_over_and_written_when_it_takes_it_again() {
    let path = tempfile::tempdir().unwrap();
    let dir = path.path().join("good");
    let mut good = engine(&dir, 4_096);
    let network = good.chain().network().clone();
    let slots = slots(&network);
    for (batch, now) in slots.clone() {
        good.process(batch, now).unwrap();
    }
    let all: Vec<Finding> = good.store().all_findings().map(|row| row.unwrap().1).collect();
    let wanted = ids(&all);
    assert!(wanted.len() >= 20, "{}", wanted.len());

    let dir = path.path().join("full");
    let (hand_over, unrecorded) = std::sync::mpsc::sync_channel(1_024);
    let mut engine = engine_with(&dir, 4_096, Vec::new(), Some(hand_over));
    engine.store().refuse_writes(true);
    let mut n_told = 0;
    for (batch, now) in slots {
        match engine.process(batch, now) {
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_refused_write(), "{error}");
                n_told += 1;
            }
        }
    }
    assert!(n_told > 0);
    let mut handed_over = Vec::new();
    while let Ok(findings) = unrecorded.try_recv() {
        handed_over.extend(findings);
    }
    assert_eq!(ids(&handed_over), wanted);
    assert_eq!(engine.store().count(), 0);
    engine.store().refuse_writes(false);
    let later = Time(engine.latest_now.0 + 1);
    engine.process(Vec::new(), later).unwrap();
    let stored: Vec<Finding> = engine.store().all_findings().map(|row| row.unwrap().1).collect();
    assert_eq!(ids(&stored), wanted);
}
