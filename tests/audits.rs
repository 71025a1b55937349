//! The scheduled audit of a running watcher: a vote that the client's record lacks, files that
//! cannot be used, and a restart.

mod common;

use common::{slashwatch, stage};
use serde_json::Value;
use simulator::{Scenario, SimNetwork};
use std::time::{Duration, Instant};
use test_support::http::{get, get_text, wait_until};
use test_support::program::{Running, TEST_TIMEOUT, run, runtime, stderr};

const FILE: &str = "exported.json";

fn notices(status: &Value) -> String {
    let all = status["notices"].as_array().expect("a list").iter();
    all.map(|notice| notice.as_str().expect("text")).filter(|notice| notice.starts_with("audit of group ours")).collect()
}

fn found(api: std::net::SocketAddr) -> Vec<Value> {
    let page = get(api, "/v1/findings?kind=signed_elsewhere").expect("the API answers");
    page["findings"].as_array().expect("a list").clone()
}

#[test]
fn a_vote_that_no_record_has_is_found_once_and_files_that_cannot_be_used_are_told() {
    let runtime = runtime();
    let scenario = Scenario { slots: 64, slot_duration: Duration::from_millis(1000), ..Scenario::quiet(64) };
    println!("seed {}", scenario.seed);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let group = format!(
        "[[watch.groups]]\nname = \"ours\"\nkeys = [\"10-12\"]\n[watch.groups.audit]\nfiles = [\"{FILE}\"]\nevery = \"1s\"\nstale_after = 600\n"
    );
    let stage = stage(&network, &group);
    let file = stage.dir.path().join(FILE);
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    std::thread::scope(|threads| {
        let played = threads.spawn(|| runtime.block_on(network.run()).expect("the simulation runs to its end"));
        let status = wait_until(stage.api, "/v1/status", |status| notices(status).contains("cannot be used"));
        assert!(notices(&status).contains("No such file"), "{status}");
        wait_until(stage.api, "/v1/status", |status| {
            status["clock_slot"].as_str().and_then(|now| now.parse::<u64>().ok()) >= Some(40)
        });
        let data = stage.dir.path().join("data");
        let exported = run(slashwatch().args(["export", "interchange", "--data-dir"]).arg(&data).args(["--validators", "10-12"]));
        let mut record: Value = serde_json::from_slice(&exported.stdout).unwrap_or_else(|_| panic!("{}", stderr(&exported)));
        std::fs::write(&file, record.to_string()).expect("writable");
        let until = Instant::now() + TEST_TIMEOUT;
        let is_content = |text: String| !text.contains("slashwatch_audits_total{outcome=\"whole\"} 0");
        while !get_text(stage.api, "/metrics").is_some_and(is_content) {
            assert!(
                Instant::now() < until,
                "no audit was content: {}",
                notices(&get(stage.api, "/v1/status").unwrap_or_default())
            );
            std::thread::yield_now();
        }
        assert_eq!(found(stage.api), [Value::Null; 0], "the whole record lacks nothing, although the client goes on");

        // The vote of another machine: seen, and not in the record.
        let votes = record["data"][1]["signed_attestations"].as_array_mut().expect("a list");
        let lost = votes.remove(1);
        std::fs::write(&file, record.to_string()).expect("writable");
        let status =
            wait_until(stage.api, "/v1/status", |status| notices(status).contains("1 messages of 1 keys are in no file"));
        assert!(!notices(&status).contains("cannot be used"), "{status}");
        let is_there = |page: &Value| page["findings"].as_array().is_some_and(|all| !all.is_empty());
        wait_until(stage.api, "/v1/findings?kind=signed_elsewhere", is_there);
        let all = found(stage.api);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((&all[0]["severity"], &all[0]["validator"]["index"]), (&"critical".into(), &"11".into()));
        assert_eq!(all[0]["details"]["signing_root"], lost["signing_root"]);
        assert_eq!(all[0]["details"]["epochs"]["target_epoch"], lost["target_epoch"]);

        std::fs::write(&file, "{").expect("writable");
        wait_until(stage.api, "/v1/status", |status| notices(status).contains("EIP-3076"));
        std::fs::write(&file, record.to_string()).expect("writable");
        assert_eq!(running.terminate(), Some(0));
        let running = Running::start(slashwatch(), &stage.config);
        running.wait_for("watching");
        wait_until(stage.api, "/v1/status", |status| notices(status).contains("1 messages of 1 keys are in no file"));
        assert_eq!(found(stage.api).len(), 1, "the same message once, over a restart");
        assert_eq!(running.terminate(), Some(0));
        played.join().expect("it ended");
    });
}
