//! A replay that begins with the state of a later epoch and gets no other state, through the
//! binary: deposits and exits move the registry meanwhile. What was not judged is told with the
//! epoch of the state that is wanted, and that state settles it.

mod common;

use common::slashwatch;
use consensus::{Epoch, ForkName, Slot};
use simulator::{Act, Deed, RegistryPlan, Scenario, Who, write_capture};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use test_support::findings::{findings, ids};
use test_support::program::{run, stderr};

const FROM: u64 = 10;
const LAST: u64 = 60;

fn scenario(fork: ForkName, from: u64) -> Scenario {
    let act = |deed, n, epoch: u64| Act { deed, who: Who::OnDuty(n), from: Slot::new(epoch * 8) };
    Scenario {
        fork,
        slots: LAST * 8,
        acts: vec![act(Deed::DoubleVote, 2, 20), act(Deed::Surround, 1, 30), act(Deed::DoubleVoteInAggregate, 2, 14)],
        slashings_after: Some(4),
        registry: Some(RegistryPlan { from: Epoch::new(from), every: 24, ejected: Vec::new() }),
        ..Scenario::quiet(64)
    }
}

/// Replays files. Returns the exit code, what was told, and the ids of the findings.
fn replay(files: &[PathBuf], dir: &Path) -> (Option<i32>, String, BTreeSet<String>) {
    let out = dir.join("found.jsonl");
    let output = run(slashwatch().arg("replay").args(files).arg("--findings").arg(&out).arg("--fail-on-unjudged"));
    (output.status.code(), stderr(&output), ids(&findings(&out)))
}

#[test]
fn what_one_state_cannot_tell_is_named_with_the_epoch_of_the_state_that_is_wanted() {
    for fork in [ForkName::Deneb, ForkName::Electra] {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let [early, late] = ["early.e2s", "late.e2s"].map(|name| dir.path().join(name));
        let truth = write_capture(&scenario(fork, FROM), &early).expect("played");
        let committed: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
        assert!(committed.len() >= 5, "{fork}: {committed:?}");
        let (code, text, found) = replay(std::slice::from_ref(&early), dir.path());
        assert_eq!(found, committed, "{fork}: {text}");
        // Validators came, and no state names their keys.
        let wanted = text.lines().find(|line| line.contains("were not judged")).unwrap_or_else(|| panic!("{fork}: {text}"));
        println!("{fork}: {wanted}");
        assert!(code == Some(1) && wanted.contains("state of epoch "), "{fork}: {code:?} {text}");
        // The same network with a state after they came. It names them, whatever they sent before.
        write_capture(&scenario(fork, LAST - 2), &late).expect("played");
        let (_, text, found) = replay(&[early, late], dir.path());
        assert_eq!(found, committed, "{fork}: {text}");
        let after = |line: &str| {
            let numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
            numbers.max().unwrap_or(0)
        };
        let of_state = text.lines().filter(|line| line.contains("were not judged")).map(after).max();
        println!("{fork}: {of_state:?}");
    }
}
