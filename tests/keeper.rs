//! Watched keys on simulated networks. The tests check what is reported about outages, restarts,
//! dormant keys that sign and second machines, and what is not reported.

mod common;

use common::slashwatch;
use serde_json::Value;
use simulator::record::GENESIS_TIME;
use simulator::{Condition, Group, Scenario, TimedCondition, Wear, write_capture};
use sources::capture::{CaptureFile, CaptureWriter, Entry};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use test_support::program::{run, stderr};

struct Said {
    findings: Vec<Value>,
    incidents: Vec<Value>,
}

impl Said {
    fn validators(&self, kind: &str) -> BTreeSet<u64> {
        let of_kind = self.findings.iter().filter(|finding| finding["kind"] == kind);
        of_kind.map(|finding| finding["validator"]["index"].as_str().expect("one").parse().expect("a number")).collect()
    }

    fn incidents(&self, kind: &str) -> Vec<&Value> {
        self.incidents.iter().filter(|incident| incident["kind"] == kind).collect()
    }

    /// Returns the slots and validators whose proposal was missed.
    fn missed_turns(&self) -> BTreeSet<(u64, u64)> {
        let number = |value: &Value| value.as_str().expect("a number").parse().expect("a number");
        let told = self.findings.iter().filter(|finding| finding["details"]["duty"] == "proposal");
        told.map(|finding| (number(&finding["slot"]), number(&finding["validator"]["index"]))).collect()
    }

    /// Counts the findings and incidents of the kinds that only watched keys have.
    fn n_about_keys(&self) -> BTreeMap<String, usize> {
        let ours = ["missed_duties", "flapping_keys", "dormant_key_signed", "second_signer"];
        let mut counts = BTreeMap::new();
        for reported in self.findings.iter().chain(&self.incidents) {
            let kind = reported["kind"].as_str().expect("text");
            if ours.contains(&kind) {
                *counts.entry(kind.to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

fn replay(scenario: &Scenario, list: &str) -> Said {
    replay_with_gap(scenario, list, 0..0)
}

/// Replays a scenario. `deaf` is the range of slots during which nothing was recorded.
fn replay_with_gap(scenario: &Scenario, list: &str, deaf: Range<u64>) -> Said {
    println!("seed {}", scenario.seed);
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |name: &str| dir.path().join(name);
    write_capture(scenario, &at("played.e2s")).expect("the scenario can be played");
    let slot_ns = scenario.slot_duration.as_nanos() as u64;
    let time = |slot: u64| GENESIS_TIME * 1_000_000_000 + slot * slot_ns;
    let gap = time(deaf.start)..time(deaf.end);
    let mut heard = CaptureWriter::create(&at("simulated.e2s")).expect("writable");
    let mut n_unheard = 0;
    for located in CaptureFile::open(&at("played.e2s")).expect("written above").entries().expect("readable") {
        match located.expect("whole").entry {
            Entry::Version => {}
            Entry::Gossip(message) if gap.contains(&message.received_at.0) => n_unheard += 1,
            entry => heard.entry(&entry).expect("writable"),
        }
    }
    heard.sync().expect("writable");
    assert_eq!(n_unheard > 0, !deaf.is_empty());
    std::fs::write(at("keys.csv"), list).expect("writable");
    let mut command = slashwatch();
    command.arg("replay").arg(at("simulated.e2s")).arg("--watch").arg(at("keys.csv"));
    command.arg("--findings").arg(at("findings.jsonl")).arg("--incidents").arg(at("incidents.jsonl"));
    // The batches are shorter than a slot, so that time advances in small steps as it does live.
    let output = run(command.env("SLASHWATCH_BATCH_MESSAGES", "16"));
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = |path: &Path| test_support::findings::findings(path);
    Said { findings: lines(&at("findings.jsonl")), incidents: lines(&at("incidents.jsonl")) }
}

/// Two groups on two clusters of one operator. All other validators are not watched.
const LIST: &str = "group,key,operator,cluster\nred,0-15,acme,r\nblue,16-31,acme,b\n";

fn offline(first: u64, n: u64, from: u64, until: u64) -> TimedCondition {
    TimedCondition { what: Condition::Offline, who: Group::Range(first, n), from, until }
}

fn quiet(slots: u64) -> Scenario {
    Scenario { slots, ..Scenario::quiet(128) }
}

#[test]
fn nothing_is_said_of_keys_that_do_their_duty_or_miss_one_now_and_then() {
    let wear = Wear { missed_votes: 1, late_blocks: 10, reorged_blocks: 0 };
    let reported = replay(&Scenario { wear, ..quiet(160) }, LIST);
    assert_eq!(reported.n_about_keys(), BTreeMap::new());
}

/// A block that is missing or orphaned is reported for its proposer and for no other key.
#[test]
fn a_turn_to_propose_that_brings_nothing_is_told_of_its_key_and_of_no_other() {
    let wear = Wear { missed_votes: 1, late_blocks: 10, reorged_blocks: 10 };
    let worn = Scenario { wear, missed_blocks_percent: 10, ..quiet(160) };
    let reported = replay(&worn, "group,key\nall,0-127\n");
    let told = reported.missed_turns();
    assert_eq!(reported.n_about_keys(), BTreeMap::from([("missed_duties".to_owned(), told.len())]));
    let kept = kept_blocks(&worn);
    // The first epoch is not recorded from its beginning, and the last epochs are not evaluated
    // before the capture ends.
    for slot in 8..136 {
        let of_slot: Vec<u64> = told.iter().filter(|(at, _)| *at == slot).map(|(_, validator)| *validator).collect();
        match kept.get(&slot) {
            Some(_) => assert!(of_slot.is_empty(), "slot {slot} has its block, and {of_slot:?} are told"),
            None => assert_eq!(of_slot.len(), 1, "slot {slot} has no block in the chain"),
        }
    }
    assert!(told.len() > 10, "{told:?}");
}

/// Returns the slots of the blocks that have a later block as descendant, with their proposers.
fn kept_blocks(scenario: &Scenario) -> BTreeMap<u64, u64> {
    let dir = tempfile::tempdir().expect("a fresh directory");
    write_capture(scenario, &dir.path().join("played.e2s")).expect("the scenario can be played");
    let file = CaptureFile::open(&dir.path().join("played.e2s")).expect("written above");
    let preset = consensus::Preset::MINIMAL;
    let mut blocks = BTreeMap::new();
    for located in file.entries().expect("readable") {
        let Entry::Gossip(message) = located.expect("whole").entry else { continue };
        if message.topic.ends_with("/beacon_block/ssz_snappy") {
            let ssz = snap::raw::Decoder::new().decompress_vec(&message.payload).expect("compressed by us");
            let block = consensus::SignedBlock::from_ssz(scenario.fork, &preset, &ssz).expect("made by us");
            blocks.insert(block.root, block.signed_header.message);
        }
    }
    let mut kept = BTreeMap::new();
    let mut at = blocks.iter().max_by_key(|(_, header)| header.slot).map(|(root, _)| *root);
    while let Some(header) = at.and_then(|root| blocks.get(&root)) {
        kept.insert(header.slot.as_u64(), header.proposer_index.as_u64());
        at = Some(header.parent_root);
    }
    kept
}

/// The missing blocks change the seed of the committees two epochs later. Until then, the proposers
/// are those of the same network without an outage.
#[test]
fn the_turns_that_an_outage_costs_are_those_of_its_keys() {
    let made = kept_blocks(&quiet(48));
    let first = made[&30].min(104);
    let is_down = |validator: &u64| (first..first + 24).contains(validator);
    let expected: BTreeSet<(u64, u64)> =
        made.into_iter().filter(|(slot, proposer)| (24..40).contains(slot) && is_down(proposer)).collect();
    let reported = replay(&Scenario { conditions: vec![offline(first, 24, 24, 40)], ..quiet(96) }, "group,key\nall,0-127\n");
    assert!(expected.iter().any(|(slot, _)| *slot == 30));
    assert_eq!(reported.missed_turns(), expected);
}

#[test]
fn an_outage_of_a_group_is_one_incident_with_its_keys_and_its_end() {
    let reported = replay(&Scenario { conditions: vec![offline(0, 16, 24, 64)], ..quiet(120) }, LIST);
    let missed = reported.incidents("missed_duties");
    assert_eq!(missed.len(), 1, "{missed:?}");
    let details = &missed[0]["details"];
    assert_eq!((&details["group"], &details["keys_missing"]), (&"red".into(), &16.into()), "{missed:?}");
    assert_eq!(missed[0]["first_slot"], "24", "the first slot of the first epoch that they missed");
    assert_eq!(missed[0]["state"], "closed");
    assert_eq!(reported.validators("dormant_key_signed"), BTreeSet::new());
}

#[test]
fn while_the_whole_network_is_silent_nobodys_misses_are_told() {
    let everybody = TimedCondition { what: Condition::Offline, who: Group::Percent(60), from: 24, until: 64 };
    let reported = replay(&Scenario { conditions: vec![everybody], ..quiet(120) }, LIST);
    assert_eq!(reported.incidents("missed_duties").len(), 0, "{:?}", reported.incidents);
}

/// All validators vote all the time. Only the watcher receives nothing, for whole epochs or for
/// parts of them.
#[test]
fn while_we_are_deaf_nobodys_misses_are_told() {
    for deaf in [24..72, 28..72, 24..68, 30..33] {
        let reported = replay_with_gap(&quiet(136), LIST, deaf.clone());
        assert_eq!(reported.n_about_keys(), BTreeMap::new(), "{deaf:?}");
    }
}

/// An outage that begins before the gap and continues after it is reported in spite of the gap.
#[test]
fn what_is_missing_before_and_after_we_are_deaf_is_told() {
    let reported = replay_with_gap(&Scenario { conditions: vec![offline(0, 16, 24, 104)], ..quiet(136) }, LIST, 48..72);
    let missed = reported.incidents("missed_duties");
    assert!(!missed.is_empty(), "{:?}", reported.incidents);
    for incident in missed {
        assert_eq!((&incident["details"]["group"], &incident["details"]["keys_missing"]), (&"red".into(), &16.into()));
    }
}

#[test]
fn of_slots_in_which_nothing_is_heard_nothing_is_told_however_few_they_are() {
    for (from, until) in [(24, 64), (42, 46)] {
        let everybody = TimedCondition { what: Condition::Offline, who: Group::Percent(100), from, until };
        let reported = replay(&Scenario { conditions: vec![everybody], ..quiet(120) }, LIST);
        assert_eq!(reported.n_about_keys(), BTreeMap::new(), "silence from {from} to {until}");
    }
}

#[test]
fn a_restart_is_seen_although_it_is_shorter_than_an_epoch() {
    let reported = replay(&Scenario { conditions: vec![offline(0, 16, 42, 46)], ..quiet(96) }, LIST);
    let flapping = reported.incidents("flapping_keys");
    let labels: BTreeSet<&str> =
        flapping.iter().map(|incident| incident["details"]["labels"][0].as_str().expect("text")).collect();
    // Half of the operator's keys stayed online. Only the group and its cluster went down as a
    // whole.
    assert_eq!(labels, BTreeSet::from(["cluster=r", "group=red"]), "{flapping:?}");
    for incident in flapping {
        let slot = |name: &str| incident["details"][name].as_str().expect("text").parse::<u64>().expect("a number");
        assert!(slot("down_from_slot") >= 42 && slot("down_to_slot") < 46, "{incident}");
    }
    assert_eq!(reported.incidents("missed_duties").len(), 0);
}

#[test]
fn keys_that_should_sleep_and_sign_are_told_once_each() {
    let list = "group,key,duty\nred,0-15,\nmoving,40-44,migrating\n";
    let reported = replay(&quiet(64), list);
    assert_eq!(reported.validators("dormant_key_signed"), (40..45).collect());
    let told: Vec<&Value> = reported.findings.iter().filter(|finding| finding["kind"] == "dormant_key_signed").collect();
    assert_eq!(told.len(), 5, "once each, though they signed in eight epochs");
    for finding in told {
        assert_eq!((&finding["severity"], &finding["details"]["duty"]), (&"critical".into(), &"migrating".into()));
        assert_eq!(finding["validator"]["labels"], serde_json::json!(["group=moving"]));
        assert!(finding["evidence"].is_null());
    }
    // Dormant keys that do not sign are not reported.
    let reported = replay(&Scenario { conditions: vec![offline(40, 5, 0, 100)], ..quiet(64) }, list);
    assert_eq!(reported.n_about_keys(), BTreeMap::new());
}

#[test]
fn a_watched_key_that_contradicts_itself_has_a_second_signer() {
    let scenario = Scenario { slots: 24, ..Scenario::staked(64, 12) };
    let first = scenario.operator[0].as_u64();
    let reported = replay(&scenario, &format!("group,key,operator\nstaked,{first}-{},staked\n", first + 5));
    assert_eq!(reported.validators("second_signer"), (first..first + 6).collect(), "the watched half of the operator");
    let finding = reported.findings.iter().find(|finding| finding["kind"] == "second_signer").expect("there");
    assert_eq!((&finding["severity"], &finding["details"]["offence"]), (&"critical".into(), &"double_vote".into()));
    assert_eq!(finding["details"]["watched_keys_with_the_same_label"]["operator=staked"], 6);
}
