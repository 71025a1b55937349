//! Gloas: votes say whether a payload was there. A label whose votes disagree is a warning, and
//! double votes that differ in nothing else have a cause of their own.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{MonitorSetup, SlotInput, offenders, payload_offenders};
use consensus::{CommitteeIndex, Epoch, Slot, ValidatorIndex};
use detect::DetectConfig;
use detect::watch::{Duty, FeePayers, Label, Labels, WatchList};
use evidence::{IncidentState, Kind, Punishable, Severity};
use serde_json::json;
use std::sync::Arc;
use verify::Vote;

const KIND: Kind = Kind::PayloadStatusSplit;
/// Slots of an epoch in which eight of the 64 validators vote each.
const PER_SLOT: u64 = 8;

/// A network whose first 32 validators are of `operator=acme`, and the others of `pool=blue`.
fn network(gloas: u64) -> MonitorSetup {
    let mut stage = MonitorSetup::with_gloas(64, &DetectConfig::default(), Epoch::new(gloas));
    let mut list = WatchList::default();
    for (keys, label) in [("0-31", ("operator", "acme")), ("32-63", ("pool", "blue"))] {
        list.add(None, keys.parse().unwrap(), &[Label::new(label.0, label.1).unwrap()], Duty::Active).unwrap();
    }
    stage.labels = Arc::new(Labels::resolve(&list, stage.chain.registry(), &FeePayers::default()));
    stage
}

/// A vote of these validators for the genesis block, with this `index`.
fn vote(stage: &MonitorSetup, slot: u64, index: u64, members: &[u64]) -> Vote {
    let mut vote = stage.plain_vote(slot, stage.chain.head_at(Slot::new(0)).root, members);
    vote.data.index = CommitteeIndex::new(index);
    vote.data_root = vote.data.root();
    vote
}

/// Plays a slot in which four validators of acme and four of blue vote. Of acme, `present` say that
/// the payload was there.
fn play(stage: &mut MonitorSetup, slot: u64, present: usize) {
    let first = slot % stage.per_epoch() * PER_SLOT / 2;
    let acme: Vec<u64> = (first..first + 4).collect();
    let blue: Vec<u64> = (32 + first..36 + first).collect();
    let (yes, no) = acme.split_at(present);
    let votes = [(1, yes), (0, no), (0, &blue[..])];
    let votes = votes.into_iter().filter(|(_, members)| !members.is_empty());
    let votes = votes.map(|(index, members)| vote(stage, slot, index, members)).collect();
    stage.play(slot, SlotInput { votes, ..SlotInput::default() });
}

#[test]
fn a_label_that_disagrees_is_a_warning_before_any_key_signs_both() {
    let mut stage = network(1);
    for slot in 1..10 {
        play(&mut stage, slot, 0);
    }
    assert!(stage.of(&KIND).is_empty(), "everybody agrees");
    // One vote of the smaller side in two slots each.
    play(&mut stage, 10, 1);
    play(&mut stage, 11, 3);
    for slot in 12..14 {
        play(&mut stage, slot, 0);
    }
    let split = stage.of(&KIND)[0].clone();
    assert_eq!((split.severity, split.first_slot, split.last_slot), (Severity::Warning, Slot::new(10), Slot::new(11)));
    let divided = json!([{"label": "operator=acme", "payload_present": 4, "payload_absent": 4, "slots": 2}]);
    assert_eq!(split.details["divided"], divided, "blue agrees and is not named");
    assert_eq!(split.details["labels"], json!(["operator=acme"]), "routes with labels go by these");
    let told: Vec<_> = stage.announcements.iter().filter(|finding| finding.kind == KIND).collect();
    assert_eq!((told.len(), told[0].severity), (1, Severity::Warning));

    // Then a key signs both. The warning was earlier.
    let at = stage.at(14, 5_000);
    let both = payload_offenders(&stage.chain, &[1, 2, 3].map(ValidatorIndex::new), Slot::new(14), at);
    stage.play(14, SlotInput { offenders: both, ..SlotInput::default() });
    let wave = stage.of(&Kind::SlashingWave)[0];
    assert!(split.opened_at < wave.opened_at);
    assert_eq!(wave.details["suspected_cause"], "payload_status");
    assert!(wave.details["because"][0].as_str().unwrap().starts_with("3 of 3 signed two votes that differ in index only"));
}

/// After the disagreement the incident closes by itself.
#[test]
fn it_is_over_when_the_votes_agree_again() {
    let mut stage = network(1);
    play(&mut stage, 9, 2);
    for slot in 10..9 + 32 + 3 * 8 {
        play(&mut stage, slot, 0);
    }
    assert_eq!(stage.of(&KIND).len(), 1);
    assert_eq!(stage.of(&KIND)[0].state, IncidentState::Closed);
}

/// Before Gloas `index` is a committee's, and after it an agreement is no disagreement, whoever
/// else says something else.
#[test]
fn committees_and_other_labels_are_no_disagreement() {
    let mut before = network(100);
    for slot in 1..20 {
        play(&mut before, slot, 2);
    }
    assert!(before.of(&KIND).is_empty(), "Fulu");
    let mut whole = network(1);
    for slot in 1..20 {
        play(&mut whole, slot, 4);
    }
    assert!(whole.of(&KIND).is_empty(), "acme says yes and blue says no, each with one voice");
}

/// Votes for a block of their own slot have index 0 by rule.
#[test]
fn a_block_of_the_same_slot_has_no_payload_yet() {
    let mut stage = network(1);
    for slot in 9..14 {
        let parent = stage.chain.head().root;
        let at = stage.at(slot, 500);
        let block = common::block(Slot::new(slot), ValidatorIndex::new(1), parent, &slot.to_le_bytes(), b"", at);
        let mut votes = Vec::new();
        for (index, members) in [(0, [0, 1]), (1, [2, 3])] {
            let first = slot % stage.per_epoch() * 4;
            let mut vote = stage.plain_vote(slot, block.block.root, &members.map(|nth| first + nth));
            vote.data.index = CommitteeIndex::new(index);
            votes.push(vote);
        }
        stage.play(slot, SlotInput { votes, blocks: vec![block], ..SlotInput::default() });
    }
    assert!(stage.of(&KIND).is_empty());
}

/// The same pairs before Gloas, and pairs that differ in more than `index`, have another cause.
#[test]
fn only_pairs_that_differ_in_index_alone_have_this_cause() {
    let keys = [1, 2, 3].map(ValidatorIndex::new);
    for (gloas, differs_in_head) in [(100, false), (1, true)] {
        let mut stage = network(gloas);
        let at = stage.at(9, 5_000);
        let both = match differs_in_head {
            true => offenders(&stage.chain, &keys, Slot::new(9), 1, at, Punishable::Yes),
            false => payload_offenders(&stage.chain, &keys, Slot::new(9), at),
        };
        stage.play(9, SlotInput { offenders: both, ..SlotInput::default() });
        let wave = stage.of(&Kind::SlashingWave)[0];
        assert_eq!(wave.details["suspected_cause"], "same_keys_in_two_places", "{gloas} {differs_in_head}");
    }
}
