//! What the API shows of slots, epochs, branches and validators, of recordings and of a running
//! watcher, compared with what was found and with what the simulator did.

mod common;

use common::{replay, slashwatch, stage};
use serde_json::Value;
use simulator::{Scenario, SimNetwork};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use test_support::capture;
use test_support::http::{get, get_any, get_with, wait_until};
use test_support::program::{Running, run, runtime, stderr};

/// A process that serves a recording. It ends with the test.
struct Serving {
    child: Child,
    address: SocketAddr,
}

impl Serving {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, more: &[&str]) -> Self {
        let mut command = slashwatch();
        command.arg("serve").arg("--data-dir").arg(data).arg("--listen").arg("127.0.0.1:0").args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        let address = line.trim().rsplit("http://").next().and_then(|text| text.parse().ok()).expect("an address");
        Self { child, address }
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = get_any(self.address, path).expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
        get(self.address, path).expect("JSON")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rows<'a>(answer: &'a Value, name: &str) -> &'a Vec<Value> {
    answer[name].as_array().unwrap_or_else(|| panic!("no list {name} in {answer}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}"))
}

/// Checks each finding of a recording against the pages of its slot and of its validator.
fn check_recording(name: &str) {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    let output = run(slashwatch().arg("replay").arg(capture(name)).arg("--data-dir").arg(&data));
    assert!(output.status.success(), "{name}: {}", stderr(&output));
    let api = Serving::start(&data);
    let findings = api.get("/v1/findings?limit=1000");
    let offences: Vec<&Value> = rows(&findings, "findings").iter().filter(|finding| !finding["evidence"].is_null()).collect();
    assert!(!offences.is_empty(), "{name}");
    for finding in &offences {
        let (kind, slot) = (text(finding, "kind"), text(finding, "slot"));
        let validator = text(&finding["validator"], "index");
        let shown = api.get(&format!("/v1/validators/{validator}"));
        assert!(rows(&shown, "findings").iter().any(|one| one["id"] == finding["id"]), "{name}: {shown}");
        assert_eq!(shown["pubkey"], finding["validator"]["pubkey"]);
        if kind == "double_proposal" {
            let page = api.get(&format!("/v1/slots/{slot}"));
            let blocks = rows(&page, "blocks").iter().filter(|block| block["proposer"] == validator);
            let roots: BTreeSet<&str> = blocks.map(|block| text(block, "root")).collect();
            assert!(page["is_double_proposal"] == true && roots.len() >= 2, "{name}: {page}");
            let own = rows(&shown, "proposals").iter().filter(|proposal| proposal["slot"] == slot).count();
            assert!(own >= 2, "{name}: {shown}");
        } else {
            let epoch = text(finding, "epoch");
            let votes = rows(&shown, "votes");
            assert!(votes.iter().any(|vote| vote["contradicts"] == true), "{name}: {shown}");
            assert!(votes.iter().any(|vote| vote["target"]["epoch"] == epoch), "{name}: {shown}");
        }
    }
    // Every offender is in a slashing, and no slashing names anybody else.
    let slashings = api.get("/v1/slashings?limit=1000");
    let named: BTreeSet<&str> = rows(&slashings, "slashings")
        .iter()
        .flat_map(|row| rows(row, "validators"))
        .map(|validator| validator.as_str().expect("an index"))
        .collect();
    let offenders: BTreeSet<&str> = offences.iter().map(|finding| text(&finding["validator"], "index")).collect();
    assert_eq!(named, offenders, "{name}");

    // The epoch in which the recording ends, and the branches there.
    let status = api.get("/v1/status");
    let now: u64 = text(&status, "clock_slot").parse().expect("a slot");
    let network = api.get("/v1/network");
    let per_epoch = network["network"]["slots_per_epoch"].as_u64().expect("a number");
    let mut voters = 0;
    for epoch in 0..=now / per_epoch {
        let (code, _) = get_any(api.address, &format!("/v1/epochs/{epoch}")).expect("an answer");
        assert!(code == 200 || code == 404, "{name}: epoch {epoch}: {code}");
        if code == 200 {
            let page = api.get(&format!("/v1/epochs/{epoch}"));
            voters += rows(&page, "slots").iter().filter_map(|slot| slot["voters"].as_u64()).sum::<u64>();
            for slot in rows(&page, "slots") {
                assert!(slot["participation"].as_f64().is_none_or(|share| (0.0..=1.0).contains(&share)), "{slot}");
            }
        }
    }
    assert!(voters > 0, "{name}");
    let heads = api.get("/v1/heads");
    assert!(!rows(&heads, "blocks").is_empty() && !rows(&heads, "branches").is_empty(), "{name}: {heads}");
    assert!(!rows(&api.get("/v1/participation"), "slots").is_empty());
    assert!(rows(&api.get("/v1/forks"), "forks").iter().any(|fork| fork["state"] == "current"), "{name}");
    assert!(rows(&api.get("/v1/validators?label=a%3Db"), "validators").is_empty());
}

/// `slashwatch token`, and what a process that serves the directory makes of it.
#[test]
fn a_token_works_from_its_making_until_it_is_revoked() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    let output = run(slashwatch().arg("replay").arg(capture("phase0_2")).arg("--data-dir").arg(&data));
    assert!(output.status.success(), "{}", stderr(&output));
    let api = Serving::start(&data);
    let token = |args: &[&str]| {
        let output = run(slashwatch().arg("token").args(args).arg("--data-dir").arg(&data));
        (output.status.code(), String::from_utf8(output.stdout.clone()).expect("text"), stderr(&output))
    };
    let asked = |token: &str, path: &str| {
        let header = format!("Authorization: Bearer {}\r\n", token.trim());
        get_with(api.address, path, &header).expect("an answer")
    };
    // A running process looks at the tokens once a second.
    let until = |token: &str, wanted: &str| {
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while !asked(token, "/v1/token").1.contains(wanted) {
            assert!(std::time::Instant::now() < end, "the API does not take notice");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let (code, ops, about) = token(&["new", "--scope", "watch", "--name", "ops", "--expires", "90d"]);
    assert!(code == Some(0) && about.contains("token ops, scope watch, until 20"), "{about}");
    assert_eq!(ops.lines().count(), 1, "a script reads the token alone: {ops}");
    until(&ops, "\"scope\":\"watch\"");
    let (_, short, _) = token(&["new", "--scope", "read", "--expires", "1ms"]);
    until(&short, "has expired");
    assert_eq!(asked(&short, "/v1/findings").0, 401);
    assert_eq!(asked("nonsense", "/v1/findings").0, 401);
    let (_, list, _) = token(&["list"]);
    assert!(list.contains("ops") && list.contains("read-1") && list.contains("expired since"), "{list}");
    assert!(!list.contains(ops.trim()), "{list}");
    for (args, words) in [
        (vec!["new", "--scope", "watch", "--name", "ops"], "already"),
        (vec!["new", "--scope", "root"], "there are read, watch and admin"),
        (vec!["new", "--scope", "read", "--expires", "soon"], "--expires"),
        (vec!["revoke", "nobody"], "token list"),
    ] {
        let (code, _, error) = token(&args);
        assert!(code == Some(64) && error.contains(words), "{args:?}: {code:?} {error}");
    }
    assert_eq!(token(&["revoke", "ops"]).0, Some(0));
    until(&ops, "was revoked");
    assert_eq!(get_any(api.address, "/v1/findings").expect("an answer").0, 200, "nobody needs one here");
}

#[test]
fn every_finding_of_a_recording_is_on_the_pages_of_its_slot_and_its_validator() {
    for name in ["phase0_2", "electra_6", "fulu_52_ops", "gloas_12"] {
        check_recording(name);
    }
}

#[test]
fn a_running_watcher_shows_who_voted_for_what_while_it_happens() {
    let runtime = runtime();
    let scenario = Scenario { slots: 12, slot_duration: Duration::from_millis(1000), ..Scenario::staked(64, 12) };
    println!("seed {}", scenario.seed);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let groups = "[[watch.groups]]\nname = \"ours\"\nkeys = [\"0-31\"]\nlabels = { operator = \"us\" }\n";
    let stage = stage(&network, groups);
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    let n_crimes = truth.crimes.len();
    let all_found = |page: &Value| rows(page, "findings").iter().filter(|one| !one["evidence"].is_null()).count() == n_crimes;
    wait_until(stage.api, "/v1/findings?limit=1000", all_found);
    for crime in &truth.crimes {
        let shown = wait_until(stage.api, &format!("/v1/validators/{}", crime.validator), |_| true);
        let is_there = rows(&shown, "findings").iter().any(|one| text(one, "id") == crime.finding_id.to_string());
        assert!(is_there, "{shown}");
        assert_eq!(shown["registry"]["state"], "active_ongoing");
        let by_key = wait_until(stage.api, &format!("/v1/validators/{}", text(&shown, "pubkey")), |_| true);
        assert_eq!(by_key["index"], shown["index"]);
    }
    let participation = get(stage.api, "/v1/participation").expect("an answer");
    let slots = rows(&participation, "slots");
    let busiest = slots.iter().max_by_key(|slot| slot["voters"].as_u64()).expect("slots");
    assert!(busiest["voters"].as_u64() > Some(0) && busiest["participation"].as_f64() > Some(0.5), "{participation}");
    let slot = get(stage.api, &format!("/v1/slots/{}", text(busiest, "slot"))).expect("an answer");
    assert_eq!(slot["source"], "memory");
    let votes = &rows(&slot, "votes")[0];
    let stake: u64 = text(votes, "stake_gwei").parse().expect("a number");
    assert_eq!(stake, votes["votes"].as_u64().expect("a number") * 32_000_000_000, "everybody has 32 ETH: {slot}");
    let blocks: Vec<&Value> = rows(&slot, "blocks").iter().collect();
    assert!(blocks.iter().all(|block| block["heard"]["after_slot_start_ms"].as_f64() > Some(-500.0)), "{slot}");
    // Every vote of a member of the group counts for its labels.
    let labelled = get(stage.api, "/v1/heads").expect("an answer");
    let by_label = rows(&labelled["branches"][0]["votes"], "by_label");
    let votes_of = |label: &str| by_label.iter().find(|row| row["label"] == label).map(|row| row["votes"].clone());
    assert!(votes_of("group=ours").is_some() && votes_of("group=ours") == votes_of("operator=us"), "{labelled}");
    assert_eq!(rows(&get(stage.api, "/v1/validators?group=ours&limit=40").expect("an answer"), "validators").len(), 32);
    let status = get(stage.api, "/v1/status").expect("an answer");
    assert_eq!(labelled["head"]["root"], status["head"]["root"], "the same head everywhere");
    assert!(rows(&labelled, "peers").iter().any(|row| row["head_root"].is_string()), "peers' Status: {labelled}");
    let network = get(stage.api, "/v1/network").expect("an answer");
    assert_eq!(rows(&network, "subnets").len(), 64);
    assert!(rows(&network["arrival"], "votes").iter().filter_map(Value::as_u64).sum::<u64>() > 0, "{network}");
    assert_eq!(running.terminate(), Some(0));
    drop(stage.dir);
}

/// Whoever names the keys after the incident is told whose they are, and no stranger.
#[test]
fn keys_that_are_named_after_the_incident_are_found_by_their_index() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |name: &str| dir.path().join(name);
    let found = replay(&capture("electra_7_wave"), &at("data"), &at("found.jsonl"));
    let members: BTreeSet<u64> = found
        .iter()
        .filter(|finding| !finding["evidence"].is_null())
        .map(|finding| finding["validator"]["index"].as_str().expect("text").parse().expect("a number"))
        .collect();
    let (first, last) = (*members.first().expect("an offender"), *members.last().expect("an offender"));
    std::fs::write(at("keys.csv"), format!("group,key\nacme-1,{first}-{last}\nother,{}\n", last + 1)).expect("writable");
    let file = at("keys.csv").display().to_string();
    let serving = Serving::start_with(&at("data"), &["--watch", &file]);
    let groups = serving.get("/v1/watch/groups");
    let count =
        |group: &Value| group["alarms"]["by_kind"].as_object().expect("counts").values().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!((&groups["groups"][0]["name"], &groups["groups"][1]["name"]), (&"acme-1".into(), &"other".into()));
    assert!(count(&groups["groups"][0]) >= members.len() as u64, "{groups}");
    assert_eq!((count(&groups["groups"][1]), &groups["groups"][0]["alarms"]["worst"]), (0, &"critical".into()), "{groups}");
    assert_eq!(groups["groups"][0]["validators"].as_u64(), Some(last - first + 1));
    let incidents = serving.get("/v1/incidents?limit=100");
    let wave =
        incidents["incidents"].as_array().expect("a list").iter().find(|one| one["kind"] == "slashing_wave").expect("a wave");
    let shown = serving.get(&format!("/v1/findings?limit=1000&incident={}", wave["id"].as_str().expect("an id")));
    let shown = shown["findings"].as_array().expect("a list");
    assert!(!shown.is_empty());
    for finding in shown.iter().filter(|finding| !finding["evidence"].is_null()) {
        assert_eq!(finding["validator"]["labels"], serde_json::json!(["group=acme-1"]), "{finding}");
    }
    assert_eq!(serving.get(&format!("/v1/validators/{first}"))["groups"], serde_json::json!(["acme-1"]));
    let (status, _) = get_any(serving.address, "/v1/findings?incident=0x12").expect("an answer");
    assert_eq!(status, 400);
    let other = serving.get("/v1/watch/validators?group=other");
    assert_eq!(other["validators"][0]["index"], (last + 1).to_string().as_str());
}
