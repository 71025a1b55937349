//! Converts the output of a watcher into the form in which the simulator checks it.

use consensus::Slot;
use serde_json::Value;
use simulator::Said;
use std::collections::BTreeSet;
use std::time::Duration;

/// Ids of proven findings. Anomalies are left out, because they accuse nobody of an offence.
pub fn proven(findings: &[Value]) -> BTreeSet<String> {
    let slashable = findings.iter().filter(|finding| !finding["evidence"].is_null());
    slashable.map(|finding| text(&finding["id"]).to_owned()).collect()
}

/// Incidents with the slot in which they were opened, and anomalies with their own slot. The
/// incident of a silent network is left out. It says nothing about the scenario, which begins and
/// ends in silence. `genesis_time` is in seconds since the Unix epoch.
pub fn said(incidents: &[Value], findings: &[Value], genesis_time: u64, slot: Duration) -> Vec<Said> {
    let of_incident = |row: &Value| Said { kind: text(&row["kind"]).to_owned(), slot: opened_in(row, genesis_time, slot) };
    let of_anomaly = |row: &Value| Said {
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
