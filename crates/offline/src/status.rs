//! `slashwatch status`: asks a running watcher for its state over its API, and prints it.

use crate::api_client::{ApiAnswer, ApiClient};
use crate::counted;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use watcher::{WatcherError, run};

/// Pages of incidents that are read, of 1 000 each.
const MAX_PAGES: usize = 64;
/// Open incidents that are printed.
const MAX_INCIDENTS: usize = 16;
/// Keys of a group that are named as not heard.
const MAX_KEYS: usize = 8;

/// What a running watcher reports about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatcherState {
    /// `/v1/status`.
    pub status: Value,
    /// The field `coverage` of `/v1/coverage`. Null if it is not measured.
    pub coverage: Value,
    /// The groups of `/v1/watch/groups`. Null if they are not shown on this address.
    pub groups: Value,
    /// The incidents that are not closed.
    pub incidents: Vec<Value>,
}

/// Asks a watcher.
///
/// # Errors
/// Nobody answers there, or not as a watcher.
pub fn read(api: &ApiClient) -> Result<WatcherState, WatcherError> {
    run::runtime()?.block_on(async {
        let status = api.read("/v1/status").await?;
        let coverage = get(api, "/v1/coverage").await?.map(|answer| part(answer, "coverage")).unwrap_or_default();
        let groups = get(api, "/v1/watch/groups").await?.map(|answer| part(answer, "groups")).unwrap_or_default();
        Ok(WatcherState { status, coverage, groups, incidents: incidents(api).await? })
    })
}

/// The incidents that are not closed, the latest change last.
async fn incidents(api: &ApiClient) -> Result<Vec<Value>, WatcherError> {
    let mut open: Map<String, Value> = Map::new();
    let mut cursor = String::new();
    for _ in 0..MAX_PAGES {
        let Some(mut page) = get(api, &format!("/v1/incidents?limit=1000{cursor}")).await? else { break };
        for incident in page.get_mut("incidents").and_then(Value::as_array_mut).into_iter().flatten() {
            let id = text(&incident["id"]);
            open.remove(&id);
            if incident["state"] != "closed" {
                open.insert(id, incident.take());
            }
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    Ok(open.into_iter().map(|(_, incident)| incident).collect())
}

/// The answer as JSON. `None` if it is not shown on this address.
async fn get(api: &ApiClient, path: &str) -> Result<Option<Value>, WatcherError> {
    match api.get(path).await? {
        ApiAnswer::Found(value) => Ok(Some(value)),
        ApiAnswer::NotShown => Ok(None),
        ApiAnswer::Unknown => Err(api.failed(&format!("{path} is unknown there: the watcher is of another version"))),
    }
}

impl WatcherState {
    /// Everything as one JSON object.
    pub fn to_json(&self) -> Value {
        json!({
            "schema": 1,
            "status": self.status,
            "coverage": self.coverage,
            "groups": self.groups,
            "incidents": self.incidents,
        })
    }

    /// The state in lines of plain text.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, text: String| {
            let _ = writeln!(out, "{name:<12}{text}");
        };
        let status = &self.status;
        line("network", format!("{}, slashwatch {}", text(&status["network"]), text(&status["version"])));
        line("receiving", receiving(status));
        let finalized = status["finalized"]["epoch"].as_str().unwrap_or("unknown");
        line(
            "head",
            format!(
                "slot {} (clock {}), finalized epoch {finalized}",
                text(&status["head"]["slot"]),
                text(&status["clock_slot"])
            ),
        );
        line("peers", peers(status));
        if !self.coverage.is_null() {
            coverage(&self.coverage).into_iter().for_each(|(name, text)| line(name, text));
        }
        let mut is_missing = false;
        match self.groups.as_array() {
            Some(groups) => {
                for one in groups {
                    is_missing |= one["first_hand"]["missing"].as_array().is_some_and(|keys| !keys.is_empty());
                    line("group", group(one));
                }
            }
            None => line("groups", "not shown on this address".to_owned()),
        }
        if is_missing {
            peering(&self.coverage).into_iter().for_each(|text| line("", text));
        }
        line("findings", format!("{}", status["findings"]));
        line("incidents", format!("{} open", self.incidents.len()));
        for incident in self.incidents.iter().rev().take(MAX_INCIDENTS) {
            let [kind, severity, state, slot] = ["kind", "severity", "state", "first_slot"].map(|field| text(&incident[field]));
            line("", format!("{}, {severity}, {state} since slot {slot}", kind.replace('_', " ")));
        }
        for notice in status["notices"].as_array().into_iter().flatten() {
            line("notice", text(notice));
        }
        out
    }
}

fn receiving(status: &Value) -> String {
    if status["recording"] == true {
        return "no: this is a recording".to_owned();
    }
    let last = status["readiness"]["last_message"].as_str().map_or_else(|| "none since the start".to_owned(), time);
    let is_ready = if status["ready"] == true { "yes" } else { "NO" };
    let since = status["readiness"]["since"].as_str().map_or_else(String::new, |since| format!(", since {}", time(since)));
    format!("{is_ready}{since}; last message {last}")
}

fn peers(status: &Value) -> String {
    let connections = &status["connections"];
    let mut out = format!("{}", status["peers"]);
    if connections.is_null() {
        return out;
    }
    let _ = write!(out, ": {} have dialled us, {} were dialled", connections["inbound"], connections["outbound"]);
    if !connections["known_nodes"].is_null() {
        let _ = match connections["reached_from_outside"].as_u64() {
            Some(0) | None => write!(out, "; NOT yet reached from outside: open the ports"),
            Some(times) => write!(out, "; reached from outside {}", counted(times, "time", "times")),
        };
    }
    let silent = connections["silent_topics"].as_array().map_or(0, Vec::len);
    if silent > 0 {
        let _ = write!(out, "; {} without a peer", counted(silent, "topic", "topics"));
    }
    out
}

fn coverage(coverage: &Value) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.push((
        "coverage",
        match coverage["first_hand"].as_f64() {
            None => "not yet measured: it takes two epochs".to_owned(),
            Some(share) => {
                let last = percent(coverage["last_epoch"].as_f64());
                let mut out = format!(
                    "{} of the stake is heard first-hand, from {}; {last} of the votes of epoch {}",
                    percent(Some(share)),
                    counted(&coverage["peers"], "peer", "peers"),
                    text(&coverage["epoch"])
                );
                if let Some(n) = coverage["peers_discarded"].as_u64().filter(|n| *n > 0) {
                    let peers = counted(n, "peer brings others' votes and does", "peers bring others' votes and do");
                    let _ = write!(out, "; {peers} not count");
                }
                out
            }
        },
    ));
    let punished = &coverage["punished"];
    let share = match (punished["validators"].as_u64(), punished["heard"].as_u64()) {
        (Some(0) | None, _) | (_, None) => "no validator was".to_owned(),
        (Some(1), Some(heard)) => format!("{heard} of 1 validator was heard before it was"),
        (Some(all), Some(heard)) => format!("{heard} of {all} validators were heard before they were"),
    };
    let days = counted(&punished["days"], "day", "days");
    lines.push(("punished", format!("{share} slashed by a block in {days}")));
    lines
}

fn group(group: &Value) -> String {
    let (name, heard) = (text(&group["name"]), &group["first_hand"]);
    let keys = counted(&group["validators"], "key", "keys");
    if heard.is_null() {
        return format!("{name}: {keys}, first-hand not yet known");
    }
    let mut out = format!("{name}: {keys}: {} yes", heard["heard"]);
    if let Some(since) = heard["since"].as_str() {
        let _ = write!(out, ", since {}, by {}", time(since), counted(&heard["peers"], "peer", "peers"));
    }
    let missing: Vec<String> = heard["missing"].as_array().into_iter().flatten().map(text).collect();
    if !missing.is_empty() {
        let shown = missing[..missing.len().min(MAX_KEYS)].join(", ");
        let more = if missing.len() > MAX_KEYS { ", .." } else { "" };
        let _ = write!(out, "; not {shown}{more}");
    }
    out
}

/// How to have one's own nodes send everything to the watcher.
fn peering(coverage: &Value) -> Vec<String> {
    let flags = coverage["peering"]["flags"].as_array().filter(|flags| !flags.is_empty());
    let Some(flags) = flags else { return Vec::new() };
    let first = "to hear them, name this watcher as a direct peer of their nodes:".to_owned();
    let options = flags.iter().map(|flag| format!("  {:<12}{}", text(&flag["client"]), text(&flag["options"])));
    std::iter::once(first).chain(options).collect()
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "?".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// Date and time, without parts of a second.
fn time(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time} UTC"),
        _ => rfc3339.to_owned(),
    }
}

/// A part of an answer, or null.
fn part(mut answer: Value, name: &str) -> Value {
    answer.get_mut(name).map(Value::take).unwrap_or_default()
}

/// A text of the answer. What could command a terminal is replaced.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_heard_and_what_to_do() {
        let state = WatcherState {
            status: json!({
                "network": "hoodi", "version": "1.2.3", "ready": true, "recording": false, "clock_slot": "1001", "peers": 40,
                "head": {"slot": "1000"}, "finalized": {"epoch": "29"}, "findings": 7, "notices": ["mind the disk"],
                "readiness": {"last_message": "2026-11-29T12:00:01.5Z", "since": null},
                "connections": {"inbound": 30, "outbound": 10, "known_nodes": 900, "reached_from_outside": 14, "silent_topics": []},
            }),
            coverage: json!({
                "epoch": "30", "first_hand": 0.3121, "last_epoch": 0.24, "peers": 33, "peers_discarded": 1,
                "punished": {"days": 30, "validators": 4, "heard": 3},
                "peering": {"flags": [{"client": "Prysm", "options": "--peer /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2"}]},
            }),
            groups: json!([
                {"name": "acme", "validators": 75,
                 "first_hand": {"heard": 75, "since": "2026-11-29T12:04:00Z", "peers": 9, "missing": []}},
                {"name": "blue", "validators": 2, "first_hand": {"heard": 1, "since": "2026-11-29T12:05:00Z", "peers": 1, "missing": ["8"]}},
            ]),
            incidents: vec![json!({"kind": "slashing_wave", "severity": "critical", "state": "growing", "first_slot": "990"})],
        };
        let expected = "\
network     hoodi, slashwatch 1.2.3
receiving   yes; last message 2026-11-29 12:00:01 UTC
head        slot 1000 (clock 1001), finalized epoch 29
peers       40: 30 have dialled us, 10 were dialled; reached from outside 14 times
coverage    31.2 % of the stake is heard first-hand, from 33 peers; 24.0 % of the votes of epoch 30; 1 peer brings others' votes and does not count
punished    3 of 4 validators were heard before they were slashed by a block in 30 days
group       acme: 75 keys: 75 yes, since 2026-11-29 12:04:00 UTC, by 9 peers
group       blue: 2 keys: 1 yes, since 2026-11-29 12:05:00 UTC, by 1 peer; not 8
            to hear them, name this watcher as a direct peer of their nodes:
              Prysm       --peer /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2
findings    7
incidents   1 open
            slashing wave, critical, growing since slot 990
notice      mind the disk
";
        assert_eq!(state.to_text(), expected);
        let json = state.to_json();
        assert_eq!((&json["coverage"]["peers"], json["incidents"].as_array().unwrap().len()), (&json!(33), 1));
    }

    #[test]
    fn a_watcher_that_knows_little_is_shown_too() {
        let status =
            json!({"network": "hoodi", "ready": false, "readiness": {"since": "2026-11-29T12:00:01Z"}, "connections": null});
        let text = WatcherState { status, ..WatcherState::default() }.to_text();
        assert!(text.contains("receiving   NO, since 2026-11-29 12:00:01 UTC; last message none since the start\n"), "{text}");
        assert!(text.contains("groups      not shown on this address\n"), "{text}");
        // Nobody listens on port 1.
        let api = ApiClient::new("http://127.0.0.1:1", "--url", None).unwrap();
        assert!(matches!(read(&api), Err(WatcherError::Failed(_))));
    }
}
