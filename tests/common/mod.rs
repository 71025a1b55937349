//! What the tests of the binary share and what knows the binary or the simulator. The rest is in
//! `test_support`.

#![allow(dead_code, reason = "each test file uses its own part")]

use consensus::Slot;
use serde_json::Value;
use simulator::{Reported, SimNetwork};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use test_support::program::{WatcherFolder, run, stderr};

pub fn slashwatch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slashwatch"));
    command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
    command
}

/// Replays a capture and returns its findings.
pub fn replay(capture: &Path, data_dir: &Path, out: &Path) -> Vec<Value> {
    let output = run(slashwatch().arg("replay").arg(capture).arg("--data-dir").arg(data_dir).arg("--findings").arg(out));
    assert!(output.status.success(), "{}: {}", capture.display(), stderr(&output));
    test_support::findings::findings(out)
}

/// Writes the configuration of a watcher of a simulated network.
pub fn stage(network: &SimNetwork, more: &str) -> WatcherFolder {
    WatcherFolder::new(network.config_yaml(), network.state_ssz(), network.peers(), more)
}

/// Incidents with the slot in which they were opened, and anomalies with their own slot. The
/// incident of a silent network is left out. It says nothing about the scenario, which begins and
/// ends in silence. `genesis_time` is in seconds since the Unix epoch.
pub fn reported(incidents: &[Value], findings: &[Value], genesis_time: u64, slot: Duration) -> Vec<Reported> {
    let of_incident = |row: &Value| Reported { kind: text(&row["kind"]).to_owned(), slot: opened_in(row, genesis_time, slot) };
    let of_anomaly = |row: &Value| Reported {
        kind: text(&row["kind"]).to_owned(),
        slot: Slot::new(text(&row["slot"]).parse().expect("a decimal number")),
    };
    let of_network = |row: &&Value| row["details"]["subnets"] != "all";
    let anomalies = findings.iter().filter(|finding| finding["evidence"].is_null()).filter(of_network).map(of_anomaly);
    incidents.iter().filter(of_network).map(of_incident).chain(anomalies).collect()
}

/// The slot in which an incident was opened.
pub fn opened_in(incident: &Value, genesis_time: u64, slot: Duration) -> Slot {
    let opened: evidence::Time = text(&incident["opened_at"]).parse().expect("RFC 3339");
    let since_genesis = opened.as_unix_ns() - genesis_time * 1_000_000_000;
    Slot::new(since_genesis / slot.as_nanos() as u64)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}
