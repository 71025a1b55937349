//! `slashwatch preflight` beside a running watcher: keys that went silent, keys that go on, records
//! that lack something, and a watcher that has stopped.

mod common;

use common::{slashwatch, stage};
use serde_json::Value;
use simulator::{Condition, Group, Scenario, SimNetwork, TimedCondition};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use test_support::http::wait_until;
use test_support::program::{Running, TEST_TIMEOUT, run, runtime, stderr};

/// The slot from which on the keys 10 to 12 are silent.
const SILENT_FROM: u64 = 12;

struct Keys<'a> {
    data: &'a Path,
    folder: &'a Path,
    /// Address of the watcher's API.
    watcher: String,
}

impl Keys<'_> {
    fn export(&self, list: &str) -> Value {
        let mut command = slashwatch();
        command.args(["export", "interchange", "--data-dir"]).arg(self.data).args(["--validators", list]);
        let output = run(&mut command);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    }

    fn file(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, content.to_string()).expect("writable");
        path
    }

    /// Runs `preflight` and returns the exit code and the answer.
    fn preflight(&self, file: &Path, more: &[&str]) -> (Option<i32>, Value) {
        let mut command = slashwatch();
        command.args(["preflight", "--json", "--data-dir"]).arg(self.data).arg("--interchange").arg(file).args(more);
        answer(&mut command)
    }

    /// The same, by the API of the watcher, from a machine without its data directory.
    fn preflight_by_api(&self, file: &Path, more: &[&str]) -> (Option<i32>, Value) {
        let mut command = slashwatch();
        command.args(["preflight", "--json", "--watcher", &self.watcher]).arg("--interchange").arg(file).args(more);
        answer(&mut command)
    }
}

fn answer(command: &mut Command) -> (Option<i32>, Value) {
    let output = run(command);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output))))
}

fn kinds(answer: &Value) -> Vec<&str> {
    answer["problems"].as_array().expect("a list").iter().map(|problem| problem["what"].as_str().expect("text")).collect()
}

#[test]
fn keys_may_start_when_they_were_silent_for_two_epochs_and_their_record_is_whole() {
    let runtime = runtime();
    let silent = TimedCondition { what: Condition::Offline, who: Group::Range(10, 3), from: SILENT_FROM, until: 1000 };
    let scenario =
        Scenario { slots: 56, slot_duration: Duration::from_millis(1000), conditions: vec![silent], ..Scenario::quiet(64) };
    println!("seed {}", scenario.seed);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let stage = stage(&network, "");
    let data = stage.dir.path().join("data");
    let keys = Keys { data: &data, folder: stage.dir.path(), watcher: format!("http://{}", stage.api) };
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let played = std::thread::scope(|threads| {
        let played = threads.spawn(|| runtime.block_on(network.run()).expect("the simulation runs to its end"));
        let slot_is = |slot: u64| {
            wait_until(stage.api, "/v1/status", |status| {
                status["clock_slot"].as_str().and_then(|now| now.parse::<u64>().ok()) >= Some(slot)
            })
        };
        slot_is(SILENT_FROM + 4);
        let whole = keys.export("10-12");
        let file = keys.file("whole.json", &whole);
        let (code, answer) = keys.preflight(&file, &[]);
        assert_eq!((code, kinds(&answer)[0]), (Some(1), "signing"), "they signed a moment ago: {answer}");
        assert!(answer["not_before"].is_string(), "{answer}");
        let (code, by_api) = keys.preflight_by_api(&file, &[]);
        assert_eq!((code, kinds(&by_api)[0]), (Some(1), "signing"), "{by_api}");

        let wait_until_safe = |ask: &dyn Fn() -> (Option<i32>, Value)| {
            let until = Instant::now() + TEST_TIMEOUT;
            loop {
                let (code, answer) = ask();
                if code == Some(0) {
                    assert_eq!(
                        (&answer["safe"], &answer["keys"], kinds(&answer).len()),
                        (&true.into(), &3.into(), 0),
                        "{answer}"
                    );
                    break;
                }
                assert!(Instant::now() < until, "never safe: {answer}");
            }
        };
        wait_until_safe(&|| keys.preflight(&file, &["--validators", "10-12"]));
        // What the API keeps is up to two seconds old, which are two slots here.
        wait_until_safe(&|| keys.preflight_by_api(&file, &["--validators", "10-12"]));
        // The same moment, other records and other keys.
        let (code, answer) = keys.preflight(&file, &["--validators", "9-12"]);
        assert_eq!((code, kinds(&answer)), (Some(1), vec!["signing", "keys_missing"]), "{answer}");
        let (code, answer) = keys.preflight_by_api(&file, &["--validators", "9-12"]);
        assert_eq!((code, kinds(&answer)), (Some(1), vec!["signing", "keys_missing"]), "{answer}");
        let (code, answer) = keys.preflight(&keys.file("live.json", &keys.export("20")), &[]);
        assert_eq!((code, kinds(&answer)), (Some(1), vec!["signing"]), "{answer}");
        let mut lacking = whole.clone();
        lacking["data"][2]["signed_attestations"].as_array_mut().expect("a list").pop();
        let (code, answer) = keys.preflight(&keys.file("lacking.json", &lacking), &[]);
        assert_eq!((code, kinds(&answer)), (Some(1), vec!["record_lacks"]), "{answer}");
        let (code, answer) = keys.preflight_by_api(&keys.folder.join("lacking.json"), &[]);
        assert_eq!((code, kinds(&answer)), (Some(1), vec!["record_lacks"]), "{answer}");
        let mut empty = whole.clone();
        empty["data"] = Value::Array(Vec::new());
        let (code, answer) = keys.preflight(&keys.file("empty.json", &empty), &[]);
        assert_eq!((code, kinds(&answer)), (Some(1), vec!["keys_missing"]), "{answer}");
        let mut other = whole.clone();
        other["metadata"]["genesis_validators_root"] = format!("0x{}", "11".repeat(32)).into();
        let of_another =
            run(slashwatch().args(["preflight", "--data-dir"]).arg(&data).arg("--interchange").arg(keys.file("o.json", &other)));
        assert_eq!(of_another.status.code(), Some(65), "{}", stderr(&of_another));
        assert!(stderr(&of_another).contains("another network"), "{}", stderr(&of_another));

        assert_eq!(running.terminate(), Some(0));
        let gone = run(slashwatch().args(["preflight", "--watcher", &keys.watcher]).arg("--interchange").arg(&file));
        assert_eq!(gone.status.code(), Some(1), "{gone:?}");
        assert!(stderr(&gone).contains("check that a watcher runs"), "{}", stderr(&gone));
        let stopped = Instant::now() + TEST_TIMEOUT;
        loop {
            let (_, answer) = keys.preflight(&file, &[]);
            if kinds(&answer).contains(&"not_listening") {
                break;
            }
            assert!(Instant::now() < stopped, "a watcher that is gone counts as listening: {answer}");
        }
        let text = run(slashwatch().args(["preflight", "--data-dir"]).arg(&data).arg("--interchange").arg(&file));
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.starts_with("NOT SAFE") && text.contains("-> start the watcher"), "{text}");
        played.join()
    });
    assert!(played.is_ok());
}
