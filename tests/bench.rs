//! The benchmarks as commands: their JSON has the documented fields, and planted offences are
//! found.

mod common;

use common::slashwatch;
use serde_json::Value;
use test_support::program::{run, stderr};

fn report(args: &[&str]) -> Value {
    let output = run(slashwatch().arg("bench").args(args).arg("--json"));
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    assert_eq!(text.trim_end().lines().count(), 1, "one object on one line");
    serde_json::from_str(&text).expect("JSON")
}

fn has_fields(report: &Value, fields: &[&str]) {
    for field in fields {
        assert!(report.get(field).is_some_and(|value| !value.is_null()), "no {field} in {report}");
    }
}

/// The report has exactly these fields.
fn has_only_fields(report: &Value, fields: &[&str]) {
    has_fields(report, fields);
    let unnamed: Vec<&String> =
        report.as_object().expect("an object").keys().filter(|key| !fields.contains(&key.as_str())).collect();
    assert!(unnamed.is_empty(), "{unnamed:?} in {report}");
}

const PIPELINE: [&str; 12] = [
    "slots",
    "messages",
    "wall_seconds",
    "realtime_factor",
    "cpu_seconds",
    "latency_ms",
    "peak_rss_bytes",
    "outcomes",
    "shed",
    "found",
    "missed",
    "false",
];

#[test]
fn verify_names_its_floor() {
    let report = report(&["verify", "--votes", "512", "--distinct-data", "2"]);
    has_only_fields(&report, &["signatures", "cpu_us_per_signature", "decompress_us", "ratio"]);
    assert_eq!(report["signatures"], 512);
    assert!(report["ratio"].as_f64().expect("a number") >= 1.0, "nothing is cheaper than its own part: {report}");
}

#[test]
fn index_prints_the_contracts_fields_and_more_if_asked() {
    let small = ["index", "--validators", "1000", "--epochs", "2", "--minority", "1", "--shape", "aggregates"];
    let fields = [
        "validators",
        "epochs",
        "votes",
        "cpu_seconds",
        "cpu_seconds_per_epoch",
        "votes_per_cpu_second",
        "growth_bytes_per_epoch",
        "written_bytes_per_epoch",
        "peak_rss_bytes",
        "reopen_wall_seconds",
        "late_vote_p99_us",
        "offender_vote_p99_us",
        "found",
        "missed",
        "false",
    ];
    let plain = report(&small);
    has_only_fields(&plain, &fields);
    assert_eq!((&plain["missed"], &plain["false"]), (&0.into(), &0.into()), "{plain}");
    assert!(plain["found"].as_u64().expect("a count") > 0, "{plain}");
    has_fields(&report(&[small.as_slice(), &["--details"]].concat()), &["late_vote_p50_us", "reopen_killed_wall_seconds"]);
}

/// Both kinds of run. The second one uses real sockets, and some of its peers forge messages.
#[test]
fn pipeline_finds_what_was_planted() {
    let plan = ["--validators", "4096", "--slots", "1", "--offenders", "5", "--forged", "40", "--junk", "40"];
    let report = report(&[&["pipeline", "--over", "libp2p", "--lead-seconds", "8", "--details"], plan.as_slice()].concat());
    has_fields(&report, &PIPELINE);
    has_fields(&report["latency_ms"], &["p50", "p99", "max"]);
    assert_eq!((&report["found"], &report["missed"], &report["false"]), (&5.into(), &0.into(), &0.into()), "{report}");
    assert_eq!(report["shed"], 0, "{report}");
    let outcomes = report["outcomes"].as_object().expect("by outcome");
    let first_slot = 128 + 128 * 80 / 100;
    let all: u64 = outcomes.values().map(|n| n.as_u64().expect("a count")).sum();
    assert!(all > report["messages"].as_u64().expect("a count") + first_slot / 2, "the warm-up is in the outcomes: {report}");
    let scores = report["paced"]["scores"].as_array().expect("scores");
    assert!(scores.iter().any(|score| score.as_f64().expect("a number") < -100.0), "forgers' scores sink: {scores:?}");
}

/// Light peers dial the watcher and send what a network would have them send. Everything that
/// begins somewhere arrives, and all stay connected.
#[test]
fn a_crowd_around_the_watcher_loses_nothing() {
    const PEERS: u64 = 20;
    let plan = ["--validators", "2048", "--slots", "1", "--offenders", "3", "--runs", "paced", "--connections", "20"];
    let report = report(&[&["pipeline", "--over", "libp2p", "--lead-seconds", "8", "--details"], plan.as_slice()].concat());
    assert_eq!((&report["found"], &report["missed"], &report["false"]), (&3.into(), &0.into(), &0.into()), "{report}");
    let (paced, crowd) = (&report["paced"], &report["published"]["crowd"]);
    let n = |value: &serde_json::Value| value.as_u64().expect("a count");
    assert_eq!([n(&paced["connections"]), n(&crowd["connected_at_end"]), n(&crowd["dropped"])], [PEERS, PEERS, 0], "{report}");
    assert!(n(&crowd["messages"]) > 128 && n(&crowd["told_ids"]) > 0, "{report}");
    assert_eq!((n(&paced["received"]), n(&crowd["out_of_reach"])), (n(&crowd["messages"]), 0), "nothing is lost: {report}");
}

/// Every stream gets every finding, on both addresses: a lost one would end the run with an error.
#[test]
fn streams_are_measured_from_the_record_to_the_last_client() {
    let report = report(&["streams", "--streams", "30", "--singles", "3", "--burst", "40"]);
    has_only_fields(&report, &["streams", "singles", "burst", "findings", "slashings"]);
    assert_eq!((&report["streams"], &report["singles"], &report["burst"]), (&30.into(), &3.into(), &40.into()), "{report}");
    for address in ["findings", "slashings"] {
        for part in ["single_ms", "burst_ms"] {
            let [p50, p99, max] = ["p50", "p99", "max"].map(|name| report[address][part][name].as_f64().expect("a number"));
            assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{address} {part}: {report}");
        }
    }
}
