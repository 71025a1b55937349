//! Slashings in blocks. Findings show when they were punished. Offences that no block includes are
//! reported. Slashings of messages that were never received here are reported too. A validator that
//! offends again is recognised as already slashed.

mod common;

use common::{replay, slashwatch};
use consensus::{ForkName, Slot, ValidatorIndex};
use serde_json::Value;
use simulator::{Act, Deed, GroundTruth, Scenario, Who, write_capture};
use std::collections::{BTreeMap, BTreeSet};
use test_support::program::{run, stderr};

/// Returns the capture without the states after its first one.
fn without_later_states(capture: &[u8]) -> Vec<u8> {
    let (mut kept, mut rest, mut n_states) = (Vec::new(), capture, 0);
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[2..6].try_into().expect("four bytes")) as usize;
        let (entry, after) = rest.split_at(8 + length);
        let is_state = entry[..2] == [2, 0];
        n_states += usize::from(is_state);
        if !is_state || n_states == 1 {
            kept.extend(entry);
        }
        rest = after;
    }
    assert!(n_states > 1, "nothing to leave out");
    kept
}

struct Played {
    truth: GroundTruth,
    findings: Vec<Value>,
    incidents: Vec<Value>,
}

fn play(scenario: &Scenario) -> Played {
    play_changed(scenario, <[u8]>::to_vec)
}

fn play_changed(scenario: &Scenario, change: fn(&[u8]) -> Vec<u8>) -> Played {
    println!("seed {}", scenario.seed);
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |name: &str| dir.path().join(name);
    let truth = write_capture(scenario, &at("x.e2s")).expect("played");
    let capture = change(&std::fs::read(at("x.e2s")).expect("written"));
    std::fs::write(at("x.e2s"), capture).expect("written");
    let findings = replay(&at("x.e2s"), &at("data"), &at("found.jsonl"));
    let mut again = slashwatch();
    again.arg("replay").arg(at("x.e2s")).arg("--incidents").arg(at("incidents.jsonl"));
    let output = run(&mut again);
    assert!(output.status.success(), "{}", stderr(&output));
    Played { truth, findings, incidents: test_support::findings::findings(&at("incidents.jsonl")) }
}

fn act(deed: Deed, validators: &[u64], from: u64) -> Act {
    let who = Who::Validators(validators.iter().copied().map(ValidatorIndex::new).collect());
    Act { deed, who, from: Slot::new(from) }
}

/// Returns, by validator, the slot of the block that includes the slashing of its finding.
fn included(findings: &[Value]) -> BTreeMap<u64, u64> {
    let number = |value: &Value| value.as_str().expect("a decimal string").parse().expect("a number");
    let rows = findings.iter().filter(|finding| !finding["included"].is_null());
    rows.map(|finding| (number(&finding["validator"]["index"]), number(&finding["included"]["slot"]))).collect()
}

fn of_kind<'a>(played: &'a Played, kind: &str) -> Vec<&'a Value> {
    played.incidents.iter().filter(|incident| incident["kind"] == kind).collect()
}

#[test]
fn findings_say_which_block_punished_them() {
    for fork in [ForkName::Phase0, ForkName::Deneb, ForkName::Electra, ForkName::Fulu] {
        let acts = vec![
            act(Deed::DoubleVote, &[3, 9, 20], 12),
            act(Deed::DoubleVoteInAggregate, &[11], 12),
            Act { deed: Deed::DoubleProposal, who: Who::OnDuty(2), from: Slot::new(12) },
        ];
        let played = play(&Scenario { fork, acts, slots: 48, slashings_after: Some(3), ..Scenario::quiet(64) });
        let slashed: BTreeMap<u64, u64> =
            played.truth.slashed.iter().map(|(validator, slot)| (validator.as_u64(), slot.as_u64())).collect();
        assert_eq!(slashed.len(), 6, "{fork}");
        assert_eq!(included(&played.findings), slashed, "{fork}");
        let found: BTreeSet<&str> = played.findings.iter().filter_map(|finding| finding["id"].as_str()).collect();
        let committed: Vec<String> = played.truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
        assert_eq!(found, committed.iter().map(String::as_str).collect(), "{fork}");
        assert!(of_kind(&played, "unpunished_offence").is_empty() && of_kind(&played, "blind_spot").is_empty(), "{fork}");
    }
}

#[test]
fn offences_that_no_block_takes_up_are_told() {
    let scenario = Scenario { acts: vec![act(Deed::DoubleVote, &[3], 12)], slots: 124, ..Scenario::quiet(64) };
    let told = |played: &Played| of_kind(played, "unpunished_offence").len();
    assert_eq!(told(&play(&scenario)), 1);
    assert_eq!(told(&play(&Scenario { slashings_after: Some(3), ..scenario })), 0);
}

#[test]
fn a_slashing_of_what_was_never_heard_is_a_blind_spot() {
    let acts = vec![act(Deed::DoubleVoteUnheard, &[5, 30], 12)];
    let played = play(&Scenario { acts, slots: 32, slashings_after: Some(3), ..Scenario::quiet(64) });
    assert_eq!(played.truth.crimes.len(), 2);
    assert_eq!(included(&played.findings).keys().copied().collect::<Vec<_>>(), [5, 30]);
    // The first vote was received. The second is known from the slashing operation only.
    assert!(played.findings.iter().all(|finding| finding["sources"] == serde_json::json!(["gossip", "slashing_op"])));
    let told = of_kind(&played, "blind_spot");
    assert_eq!(told.len(), 1, "{:?}", played.incidents);
    assert_eq!(told[0]["details"]["why"], "one of the two messages was heard, the other was not");
}

#[test]
fn who_offends_again_is_known_to_be_slashed() {
    let acts = vec![act(Deed::DoubleVote, &[5], 10), act(Deed::DoubleVote, &[5, 6], 34)];
    let played = play(&Scenario { acts, slots: 48, slashings_after: Some(2), ..Scenario::quiet(64) });
    assert_eq!(punishable(&played), [("5", "already_slashed"), ("5", "yes"), ("6", "yes")]);
}

#[test]
fn who_offends_again_is_known_to_be_slashed_by_blocks_alone() {
    let again = |from| {
        let acts = vec![act(Deed::DoubleVote, &[5], 10), act(Deed::DoubleVote, &[5, 6], from)];
        let scenario = Scenario { acts, slots: 56, slashings_after: Some(2), ..Scenario::quiet(64) };
        play_changed(&scenario, without_later_states)
    };
    assert_eq!(punishable(&again(42)), [("5", "already_slashed"), ("5", "yes"), ("6", "yes")]);
    assert_eq!(punishable(&again(18)), [("5", "yes"), ("5", "yes"), ("6", "yes")], "the block may still be left");
}

/// Returns the validator and the field `punishable` of each finding.
fn punishable(played: &Played) -> Vec<(&str, &str)> {
    let mut said: Vec<(&str, &str)> = played
        .findings
        .iter()
        .map(|finding| {
            (finding["validator"]["index"].as_str().expect("index"), finding["punishable"].as_str().expect("punishable"))
        })
        .collect();
    said.sort();
    said
}
