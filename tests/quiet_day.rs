//! An ordinary day on a route for what is critical: at most one message, and none at a restart.
//!
//! The simulator plays ordinary days (scenarios/quiet.toml, without its offender: missed votes,
//! missed and late blocks, reorganisations). The binary replays them in four parts with a restart
//! between them, each part twice. What it records is handed to a real dispatcher, with the clock of
//! the recording, which sends to a real receiver. At the end a made-up finding shows that the route
//! works.
//!
//! By default 800 slots are played, a ninth of a day. `SLASHWATCH_QUIET_SLOTS=7200` plays a day.

mod common;

use alert::{Context, Dispatcher, NetworkName, RetryPolicy, RouteConfig, Routes, SinkConfig};
use common::slashwatch;
use evidence::{Changes, Finding, Kind, Severity, Store, Time};
use serde_json::json;
use sources::capture::{CaptureFile, CaptureWriter, Entry};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use test_support::http::{anywhere, serve_bodies};
use test_support::program::{run, stderr};

const PARTS: usize = 4;

/// The clock of the recording, in nanoseconds since the Unix epoch.
static NOW: AtomicU64 = AtomicU64::new(0);

fn now() -> Time {
    Time::from_unix_ns(NOW.load(Ordering::SeqCst))
}

/// Plays ordinary days. Returns the capture and the number of slots.
fn capture(dir: &Path) -> (PathBuf, u64) {
    let slots = std::env::var("SLASHWATCH_QUIET_SLOTS").map_or(800, |text| text.parse().expect("a number of slots"));
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/quiet.toml");
    let text = std::fs::read_to_string(scenario).expect("the scenario is there");
    let (text, _offender) = text.split_once("[[acts]]").expect("the offender comes last");
    assert!(text.contains("\nslots = 800\n"), "this test has lost its subject");
    let (longer, out) = (dir.join("quiet.toml"), dir.join("quiet.e2s"));
    std::fs::write(&longer, text.replace("\nslots = 800\n", &format!("\nslots = {slots}\n"))).expect("written");
    let made = run(slashwatch().arg("simulate").arg(&longer).arg("--out").arg(&out).arg("--truth").arg(dir.join("truth.json")));
    assert!(made.status.success(), "{}", stderr(&made));
    (out, slots)
}

/// Cuts a capture into parts of the same number of messages. Each has the configuration and the
/// state.
fn parts(whole: &Path, dir: &Path) -> Vec<PathBuf> {
    let entries =
        || CaptureFile::open(whole).expect("it opens").entries().expect("it reads").map(|entry| entry.expect("undamaged").entry);
    let n_messages = entries().filter(|entry| matches!(entry, Entry::Gossip(_))).count();
    assert!(n_messages > 1000, "{n_messages} messages are no traffic");
    let paths: Vec<PathBuf> = (0..PARTS).map(|nth| dir.join(format!("part-{nth}.e2s"))).collect();
    let mut writers: Vec<_> = paths.iter().map(|path| CaptureWriter::create(path).expect("a new file")).collect();
    let mut nth = 0;
    for entry in entries() {
        match &entry {
            Entry::Version => {}
            Entry::Config(_) | Entry::State(_) => {
                for writer in &mut writers {
                    writer.entry(&entry).expect("written");
                }
            }
            _ => {
                writers[(nth * PARTS / n_messages).min(PARTS - 1)].entry(&entry).expect("written");
                nth += usize::from(matches!(entry, Entry::Gossip(_)));
            }
        }
    }
    writers.iter_mut().for_each(|writer| writer.flush().expect("written"));
    paths
}

/// A route for people that takes what is critical.
fn routes(receiver: std::net::SocketAddr) -> Routes {
    let sink: SinkConfig =
        serde_json::from_value(json!({ "type": "ntfy", "url": format!("http://{receiver}"), "topic": "x" })).expect("a sink");
    let route = RouteConfig { min_severity: Severity::Critical, ..RouteConfig::new("pager", sink) };
    let network = NetworkName { name: "quiet".into(), genesis_validators_root: None };
    Routes::new(&[route], RetryPolicy::DEFAULT).expect("a route").about(Context { network, ..Context::default() })
}

/// When a finding was made, by the clock of the recording.
fn made_at(finding: &Finding) -> Time {
    finding.second_seen.unwrap_or(finding.first_seen)
}

/// Starts a dispatcher, hands it these findings one after the other, and stops it when everything
/// is delivered.
fn deliver(outbox: &Store, routes: &Routes, findings: Vec<Finding>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let dispatcher = Dispatcher::start(outbox.clone(), routes.clone(), now);
        for mut finding in findings {
            finding.recorded_at = made_at(&finding);
            NOW.fetch_max(finding.recorded_at.as_unix_ns(), Ordering::SeqCst);
            let changes = Changes { findings: vec![(finding, None)], ..Changes::default() };
            outbox.apply(changes, &routes.names()).expect("recorded");
        }
        let ended = async {
            while outbox.outbox_counts().pending > 0 {
                // An update may wait for an hour, of the recording's clock.
                NOW.fetch_add(Duration::from_secs(600).as_nanos() as u64, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), ended).await.expect("everything is delivered");
        dispatcher.stop().await;
    });
}

#[test]
fn an_ordinary_day_makes_one_critical_message_at_most_and_restarts_make_none() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (whole, slots) = capture(dir.path());
    let messages = Arc::new(AtomicUsize::new(0));
    let counted = messages.clone();
    let receiver = serve_bodies(anywhere(), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Some(b"{}".to_vec())
    });
    let (routes, data) = (routes(receiver), dir.path().join("data"));
    let outbox = Store::open(&dir.path().join("outbox"), consensus::Root::ZERO).expect("a new store");
    let (mut seen, mut by_severity) = (0, [0; Severity::ALL.len()]);
    for part in parts(&whole, dir.path()) {
        for is_again in [false, true] {
            let before = messages.load(Ordering::SeqCst);
            let replayed = run(slashwatch().arg("replay").arg(&part).arg("--data-dir").arg(&data));
            assert!(replayed.status.success(), "{}", stderr(&replayed));
            let recorded =
                Store::open_read_only(&data.join("evidence")).expect("recorded").findings_after(seen, 10_000).expect("read");
            seen = recorded.last().map_or(seen, |(seq, _)| *seq);
            assert!(!is_again || recorded.is_empty(), "a part that is replayed again records nothing: {recorded:?}");
            let findings: Vec<Finding> = recorded.into_iter().map(|(_, finding)| finding).collect();
            for finding in &findings {
                by_severity[finding.severity as usize] += 1;
                println!("{} {} {}", finding.severity, finding.kind, finding.slot);
            }
            deliver(&outbox, &routes, findings);
            assert!(!is_again || messages.load(Ordering::SeqCst) == before, "a restart tells something");
        }
    }
    let receiver_got = messages;
    let messages = receiver_got.load(Ordering::SeqCst);
    println!("{slots} slots, {PARTS} parts: {messages} critical messages; findings by severity {by_severity:?}");
    assert!(messages <= 1, "{messages} messages in {slots} slots");
    let critical =
        evidence::Anomaly { severity: Severity::Critical, recorded_at: now(), ..evidence::Anomaly::sample(Kind::SlashingWave) };
    deliver(&outbox, &routes, vec![Finding { first_seen: now(), ..Finding::anomaly(critical) }]);
    assert_eq!(receiver_got.load(Ordering::SeqCst), messages + 1, "the route works");
}
