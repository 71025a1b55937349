//! What single detectors report about a few slots.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{MonitorSetup, SlotInput};
use consensus::{Checkpoint, Epoch, Root, Slot, ValidatorIndex};
use detect::DetectConfig;
use evidence::Kind;

fn root(byte: u8) -> Root {
    Root::repeat_byte(byte)
}

/// A branch justifies one root per epoch. So two of them are a split, even if neither block was
/// ever seen.
#[test]
fn two_sources_of_one_epoch_need_no_tree() {
    let mut stage = MonitorSetup::new(64, &DetectConfig::default());
    let head = stage.chain.head().root;
    for slot in 1..40 {
        let epoch = Epoch::new(slot / stage.per_epoch());
        let target = Checkpoint { epoch, root: head };
        let source = |byte| Checkpoint { epoch: epoch.saturating_sub(1), root: root(byte) };
        let first = slot % stage.per_epoch() * 8;
        let (one, two): (Vec<u64>, Vec<u64>) = (first..first + 8).partition(|validator| *validator % 4 == 0);
        let votes = vec![stage.vote(slot, head, source(1), target, &one), stage.vote(slot, head, source(2), target, &two)];
        stage.play(slot, SlotInput { votes, ..SlotInput::default() });
    }
    let split = stage.of(&Kind::CheckpointSplit);
    assert_eq!(split.len(), 1);
    assert_eq!(split[0].details["two_justified_checkpoints"], true);
    assert_eq!(split[0].severity, evidence::Severity::Critical);
}

/// Holesky, 2025: one branch goes on justifying. The other one cannot, so its source is an ancestor
/// of both. Whoever changes to it surrounds what it signed.
#[test]
fn a_side_with_an_older_source_cannot_be_joined_although_the_sources_are_of_one_chain() {
    let mut stage = MonitorSetup::new(64, &DetectConfig::default());
    let parent = stage.chain.head().root;
    let blocks =
        [b"left", b"rest"].map(|word| common::block(Slot::new(1), ValidatorIndex::new(0), parent, word, b"", stage.at(1, 900)));
    let [left, right] = [0, 1].map(|nth: usize| blocks[nth].block.root);
    stage.play(1, SlotInput { blocks: blocks.into(), ..SlotInput::default() });
    for slot in 2..40 {
        let epoch = Epoch::new(slot / stage.per_epoch());
        let checkpoint = |root| Checkpoint { epoch, root };
        let source = |epoch| Checkpoint { epoch, root: Root::ZERO };
        let first = slot % stage.per_epoch() * 8;
        let (some, most): (Vec<u64>, Vec<u64>) = (first..first + 8).partition(|validator| *validator % 4 == 0);
        let votes = vec![
            stage.vote(slot, left, source(epoch.saturating_sub(1)), checkpoint(left), &most),
            stage.vote(slot, right, source(Epoch::new(0)), checkpoint(right), &some),
        ];
        stage.play(slot, SlotInput { votes, ..SlotInput::default() });
    }
    let split = stage.of(&Kind::CheckpointSplit);
    assert_eq!(split.len(), 1);
    assert_eq!(split[0].details["two_justified_checkpoints"], false);
    assert_eq!(split[0].details["oldest_source"], "0");
    let stuck = split[0].details["would_surround_by_joining_the_other_side"].as_u64().unwrap();
    assert!((24..=96).contains(&stuck), "six of eight votes in each slot of the window: {stuck}");
}
