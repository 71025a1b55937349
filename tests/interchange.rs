//! `export interchange` and `audit` on simulated networks. The tests check what clients would do
//! with the file, by the rules of EIP-3076.
//!
//! [`Protection`] is a validator client's slashing protection, written from the conditions of the
//! EIP. It is tested with the official interchange vectors if they are available. Then it checks
//! what the program exports.

mod common;

use common::{replay, slashwatch};
use consensus::interchange::Interchange;
use consensus::{ForkName, PresetName, Root};
use serde_json::Value;
use simulator::{Condition, Group, Scenario, TimedCondition, write_capture};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use test_support::program::{run, stderr};

/// How much a client keeps, which decides what it refuses to sign.
#[derive(Clone, Copy, PartialEq)]
enum Strategy {
    /// Every message is kept. The same message may be signed again.
    Complete,
    /// Only the highest slot, source and target are kept.
    Minimal,
}

#[derive(Default, Clone)]
struct Key {
    blocks: BTreeSet<(u64, Option<Root>)>,
    votes: BTreeSet<(u64, u64, Option<Root>)>,
}

struct Protection {
    strategy: Strategy,
    network: Root,
    keys: BTreeMap<String, Key>,
}

impl Protection {
    fn new(strategy: Strategy, network: Root) -> Self {
        Self { strategy, network, keys: BTreeMap::new() }
    }

    /// Imports a file, including slashable content. Its messages are kept, and nothing below them
    /// is signed again.
    fn import(&mut self, file: &[u8]) -> Result<(), String> {
        let file = Interchange::parse(file, self.network).map_err(|error| error.to_string())?;
        for history in file.data {
            let key = self.keys.entry(history.pubkey.to_string()).or_default();
            key.blocks.extend(history.signed_blocks.iter().map(|b| (b.slot.as_u64(), b.signing_root)));
            let votes = history.signed_attestations.iter();
            key.votes.extend(votes.map(|v| (v.source_epoch.as_u64(), v.target_epoch.as_u64(), v.signing_root)));
        }
        Ok(())
    }

    /// EIP-3076, conditions 1 and 2.
    fn sign_block(&mut self, pubkey: &str, slot: u64, root: Option<Root>) -> bool {
        let Some(key) = self.keys.get_mut(pubkey) else { return false };
        let again = self.strategy == Strategy::Complete && root.is_some() && key.blocks.contains(&(slot, root));
        let lowest = key.blocks.iter().map(|block| block.0).min();
        let highest = key.blocks.iter().map(|block| block.0).max();
        let refused = match self.strategy {
            Strategy::Complete => key.blocks.iter().any(|block| block.0 == slot) || lowest.is_some_and(|lowest| slot <= lowest),
            Strategy::Minimal => highest.is_some_and(|highest| slot <= highest),
        };
        if again || refused {
            return again;
        }
        key.blocks.insert((slot, root));
        true
    }

    /// EIP-3076, conditions 3 to 5.
    fn sign_vote(&mut self, pubkey: &str, source: u64, target: u64, root: Option<Root>) -> bool {
        let Some(key) = self.keys.get_mut(pubkey) else { return false };
        let again = self.strategy == Strategy::Complete && root.is_some() && key.votes.contains(&(source, target, root));
        let votes = &key.votes;
        let (low_source, low_target) = (votes.iter().map(|v| v.0).min(), votes.iter().map(|v| v.1).min());
        let (high_source, high_target) = (votes.iter().map(|v| v.0).max(), votes.iter().map(|v| v.1).max());
        let slashable = votes.iter().any(|v| v.1 == target || (v.0 < source && target < v.1) || (source < v.0 && v.1 < target));
        let refused = match self.strategy {
            Strategy::Complete => {
                slashable || low_source.is_some_and(|low| source < low) || low_target.is_some_and(|low| target <= low)
            }
            Strategy::Minimal => high_source.is_some_and(|high| source < high) || high_target.is_some_and(|high| target <= high),
        };
        if again || refused || source > target {
            return again && source <= target;
        }
        key.votes.insert((source, target, root));
        true
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_str().expect("a decimal string").parse().expect("a number")
}

fn root_of(value: &Value) -> Option<Root> {
    value["signing_root"].as_str().map(|text| text.parse().expect("a root"))
}

#[test]
fn the_rules_used_here_are_those_of_the_official_vectors() {
    // The repository of the vectors has no licence, so they are not committed here.
    let Some(folder) = test_support::full_set("vectors/eip3076_interchange_tests") else { return };
    let mut n_steps = 0;
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|ext| ext != "json") || path.ends_with("schema.json") {
            continue;
        }
        let case: Value = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        let network = case["genesis_validators_root"].as_str().expect("text").parse().expect("a root");
        for strategy in [Strategy::Complete, Strategy::Minimal] {
            let mut protection = Protection::new(strategy, network);
            for step in case["steps"].as_array().expect("a list") {
                let imported = protection.import(step["interchange"].to_string().as_bytes());
                let should = step["should_succeed"].as_bool().expect("a bool");
                assert_eq!(imported.is_ok(), should, "{}: {imported:?}", path.display());
                // A client may refuse a file with slashable content. The rest of the case then has
                // no meaning.
                if !should || (step["contains_slashable_data"] == true && strategy == Strategy::Complete) {
                    break;
                }
                let wanted = if strategy == Strategy::Complete { "should_succeed_complete" } else { "should_succeed" };
                for block in step["blocks"].as_array().expect("a list") {
                    let signed =
                        protection.sign_block(block["pubkey"].as_str().expect("text"), number(block, "slot"), root_of(block));
                    assert_eq!(Value::from(signed), block[wanted], "{}: {block}", path.display());
                }
                for vote in step["attestations"].as_array().expect("a list") {
                    let (source, target) = (number(vote, "source_epoch"), number(vote, "target_epoch"));
                    let signed = protection.sign_vote(vote["pubkey"].as_str().expect("text"), source, target, root_of(vote));
                    assert_eq!(Value::from(signed), vote[wanted], "{}: {vote}", path.display());
                }
                n_steps += 1;
            }
        }
    }
    assert!(n_steps >= 30, "{n_steps} steps");
}

struct Stage {
    dir: tempfile::TempDir,
    network: Root,
    offenders: BTreeSet<u64>,
}

fn stage(scenario: &Scenario) -> Stage {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let capture = dir.path().join("simulated.e2s");
    let truth = write_capture(scenario, &capture).expect("the scenario can be played");
    replay(&capture, &dir.path().join("data"), &dir.path().join("found.jsonl"));
    let network: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("data/network.json")).expect("there")).expect("JSON");
    let network = network["genesis_validators_root"].as_str().expect("text").parse().expect("a root");
    Stage { dir, network, offenders: truth.crimes.iter().map(|crime| crime.validator.as_u64()).collect() }
}

impl Stage {
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn export(&self, list: &str, more: &[&str]) -> Vec<u8> {
        let mut command = slashwatch();
        command.args(["export", "interchange", "--data-dir"]).arg(self.data()).args(["--validators", list]).args(more);
        let output = run(&mut command);
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    }

    /// Runs `audit` and returns the exit code and the text.
    fn audit_text(&self, file: &Value, more: &[&str]) -> (Option<i32>, String) {
        let path = self.dir.path().join("file.json");
        std::fs::write(&path, file.to_string()).expect("writable");
        let mut command = slashwatch();
        command.arg("audit").arg("--data-dir").arg(self.data()).arg("--interchange").arg(path).args(more);
        let output = run(&mut command);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output))
    }

    /// Runs `audit` and returns the exit code and the report.
    fn audit(&self, file: &[u8]) -> (Option<i32>, Value) {
        let path = self.dir.path().join("file.json");
        std::fs::write(&path, file).expect("writable");
        let mut command = slashwatch();
        command.args(["audit", "--json", "--data-dir"]).arg(self.data()).arg("--interchange").arg(path);
        let output = run(&mut command);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output))))
    }
}

#[test]
fn what_is_exported_keeps_a_client_from_signing_against_it_and_lets_it_go_on() {
    let stage = stage(&Scenario::every_crime(ForkName::Fulu, PresetName::Minimal, 64));
    for (form, strategy) in [(&[][..], Strategy::Complete), (&["--minimal"][..], Strategy::Minimal)] {
        let bytes = stage.export("0-63", form);
        let file: Value = serde_json::from_slice(&bytes).expect("JSON");
        let complete: Value = serde_json::from_slice(&stage.export("0-63", &[])).expect("JSON");
        let mut protection = Protection::new(strategy, stage.network);
        protection.import(&bytes).expect("a client takes it");
        let keys = complete["data"].as_array().expect("a list");
        assert_eq!(keys.len(), 64);
        let mut n_votes = 0;
        for (index, key) in keys.iter().enumerate() {
            let pubkey = key["pubkey"].as_str().expect("text");
            let votes = key["signed_attestations"].as_array().expect("a list");
            let other = Some(Root::repeat_byte(0xee));
            for vote in votes {
                let (source, target) = (number(vote, "source_epoch"), number(vote, "target_epoch"));
                assert!(!protection.sign_vote(pubkey, source, target, other), "{index} signs {source}->{target} again");
                let again = protection.sign_vote(pubkey, source, target, root_of(vote));
                assert_eq!(again, strategy == Strategy::Complete, "the very same message is no harm to who keeps messages");
                n_votes += 1;
            }
            for block in key["signed_blocks"].as_array().expect("a list") {
                assert!(!protection.sign_block(pubkey, number(block, "slot"), other));
            }
            assert!(protection.sign_vote(pubkey, 1_000, 1_001, other), "{index} cannot go on");
            assert!(protection.sign_block(pubkey, 10_000, other), "{index} cannot go on");
            let targets: BTreeSet<u64> = votes.iter().map(|vote| number(vote, "target_epoch")).collect();
            assert!(targets.len() == votes.len() || stage.offenders.contains(&(index as u64)), "{index} votes once a target");
        }
        assert!(n_votes >= 64 * 6, "{n_votes}");
        assert_eq!(file["metadata"]["interchange_format_version"], "5");
    }
}

#[test]
fn an_audit_is_content_with_the_whole_file_and_names_what_is_missing() {
    let stage = stage(&Scenario { slots: 48, ..Scenario::quiet(64) });
    let whole: Value = serde_json::from_slice(&stage.export("3,10-12", &[])).expect("JSON");
    let (code, report) = stage.audit(whole.to_string().as_bytes());
    assert_eq!((code, &report["totals"]["absent_votes"]), (Some(0), &0.into()), "{report}");
    assert!(report["totals"]["agreeing"].as_u64() >= Some(20));
    assert_eq!(stage.audit(&stage.export("3,10-12", &["--minimal"])).0, Some(0), "a minimal file covers what is below it");

    let mut lacking = whole.clone();
    let votes = lacking["data"][0]["signed_attestations"].as_array_mut().expect("a list");
    let lost = votes.remove(2);
    let (code, report) = stage.audit(lacking.to_string().as_bytes());
    assert_eq!((code, &report["totals"]["keys_lacking"]), (Some(1), &1.into()));
    assert_eq!(report["validators"][0]["index"], "3");
    assert_eq!(report["validators"][0]["absent_votes"]["listed"][0], lost);

    let mut other = whole.clone();
    other["data"][1]["signed_attestations"][2]["signing_root"] = Root::repeat_byte(9).to_string().into();
    let (code, report) = stage.audit(other.to_string().as_bytes());
    assert_eq!((code, &report["totals"]["contradictions"]), (Some(1), &1.into()), "{report}");
    assert_eq!(report["validators"][1]["contradictions"]["listed"][0]["kind"], "double_vote");
}

/// The database of a client was lost and made anew: empty, without some keys, or from the restart
/// on. None of these may pass.
#[test]
fn a_lost_record_never_passes() {
    let stage = stage(&Scenario { slots: 48, ..Scenario::quiet(64) });
    let whole: Value = serde_json::from_slice(&stage.export("3,10-12", &[])).expect("JSON");
    let mut empty = whole.clone();
    empty["data"] = serde_json::json!([]);
    let (code, told) = stage.audit_text(&empty, &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.starts_with("the file has NO KEY") && !told.contains("contains everything"), "{told}");

    // A file of some of the keys is complete for these, but not for all that should be in it.
    let mut one = whole.clone();
    one["data"].as_array_mut().expect("a list").truncate(1);
    assert_eq!(stage.audit_text(&one, &[]).0, Some(0));
    let keys = stage.dir.path().join("keys.csv");
    std::fs::write(&keys, "group,key,operator\nours,3,acme\nours,10-12,acme\ntheirs,20,x\n").expect("writable");
    let list = format!("@{},group=ours", keys.display());
    let (code, told) = stage.audit_text(&one, &["--validators", &list]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("3 keys of --validators are NOT IN THE FILE, and 3 of them were seen signing: 10, 11, 12"), "{told}");
    assert_eq!(stage.audit_text(&whole, &["--validators", &list]).0, Some(0));
    let (_, told) = stage.audit_text(&whole, &["--validators", &format!("@{}", keys.display())]);
    assert!(told.contains("1 of them was seen signing: 20"), "{told}");
    assert_eq!(serde_json::from_slice::<Value>(&stage.export(&list, &[])).expect("JSON"), whole);

    let mut anew = whole.clone();
    for key in anew["data"].as_array_mut().expect("a list") {
        key["signed_attestations"].as_array_mut().expect("a list").retain(|vote| number(vote, "target_epoch") > 4);
        key["signed_blocks"] = serde_json::json!([]);
    }
    let (code, told) = stage.audit_text(&anew, &["--validators", "10"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("older than the file's record: it was pruned, or lost and made anew"), "{told}");
    let mut pruned = whole.clone();
    for key in pruned["data"].as_array_mut().expect("a list") {
        key["signed_attestations"].as_array_mut().expect("a list").retain(|vote| number(vote, "target_epoch") > 4);
    }
    assert_eq!(stage.audit_text(&pruned, &["--pruned-ok"]).0, Some(0));
}

#[test]
fn keys_that_contradicted_themselves_are_told_first() {
    let stage = stage(&Scenario::every_crime(ForkName::Fulu, PresetName::Minimal, 64));
    let whole: Value = serde_json::from_slice(&stage.export("0-63", &[])).expect("JSON");
    let (_, told) = stage.audit_text(&whole, &[]);
    assert!(told.lines().next().is_some_and(|line| line.contains("CAN BE SLASHED whatever the file says")), "{told}");
    // Many keys do not push the verdict off the screen.
    let slashable = |line: &&str| line.starts_with("validator ") && line.contains("seen that contradict each other");
    assert_eq!(told.lines().filter(slashable).count(), 10, "{told}");
    assert!(told.contains("more keys: seen that contradict each other; all of them: --json"), "{told}");
    let verdict = "the file contains everything that was seen in these epochs; nothing is known about other times";
    assert_eq!(told.trim_end().lines().last(), Some(verdict), "{told}");
}

/// Slots that were never watched are not reported as free of offences.
#[test]
fn both_say_what_is_known_at_all_and_whose_keys_were_never_heard() {
    let silent = TimedCondition { what: Condition::Offline, who: Group::Range(10, 2), from: 0, until: 1000 };
    let stage = stage(&Scenario { slots: 48, conditions: vec![silent], ..Scenario::quiet(64) });
    let mut command = slashwatch();
    command.args(["export", "interchange", "--data-dir"]).arg(stage.data()).args(["--validators", "3,10-11"]);
    let output = run(&mut command);
    let told = stderr(&output);
    let file: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(told.contains("votes of epochs 0 to 6"), "{told}");
    assert!(
        told.contains("WARNING: no message of 2 keys was received")
            && !told.contains(file["data"][0]["pubkey"].as_str().expect("text")),
        "{told}"
    );
    for key in 1..3 {
        assert!(told.contains(file["data"][key]["pubkey"].as_str().expect("text")), "{told}");
    }
    let (code, report) = stage.audit(&output.stdout);
    assert_eq!((code, &report["totals"]["keys_never_heard"]), (Some(0), &2.into()), "{report}");
    assert_eq!(report["coverage"], serde_json::json!({"epochs": {"first": "0", "last": "6"}, "gaps": []}));
}

#[test]
fn what_cannot_be_understood_is_told_with_the_right_exit_code() {
    let stage = stage(&Scenario { slots: 8, ..Scenario::quiet(64) });
    let list = stage.dir.path().join("keys.txt");
    std::fs::write(&list, "# ours\n5, 6-7\n\n0xab\n").expect("writable");
    let with_file = format!("1,@{}", list.display());
    for (list, code, word) in [
        ("", 64, "names no validator"),
        ("64", 64, "is not known"),
        ("5-64", 64, "is not known"),
        ("9-5", 64, "ends before it begins"),
        (&format!("0x{}", "ab".repeat(48)), 64, "no validator with public key"),
        (&format!("0x{}", "ab".repeat(20)), 64, "not a single key"),
        ("3,group=ours", 64, "no file of the list has a group ours"),
        ("@/nowhere/at/all", 65, "/nowhere/at/all"),
        (&with_file, 65, "line 4"),
    ] {
        let mut command = slashwatch();
        command.args(["export", "interchange", "--data-dir"]).arg(stage.data()).args(["--validators", list]);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(code), "{list}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{list}: {}", stderr(&output));
    }
    std::fs::write(&list, "# ours\n5, 6-7\n\n").expect("writable");
    let file: Value = serde_json::from_slice(&stage.export(&with_file, &[])).expect("JSON");
    assert_eq!(file["data"].as_array().map(Vec::len), Some(4));
    for (text, word) in [("{", "EIP-3076"), (&file.to_string().replace("version\":\"5\"", "version\":\"4\""), "format version")] {
        let path = stage.dir.path().join("bad.json");
        std::fs::write(&path, text).expect("writable");
        let mut command = slashwatch();
        command.arg("audit").arg("--data-dir").arg(stage.data()).arg("--interchange").arg(&path);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
}
