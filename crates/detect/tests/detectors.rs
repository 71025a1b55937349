//! What single detectors report about a few slots.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{MonitorSetup, SlotInput};
use consensus::{Checkpoint, Epoch, Root};
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
