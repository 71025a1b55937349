//! Simulated networks of every fork, through the binary: the findings are exactly what the
//! simulator committed, by id.
//!
//! The simulator shares no code with verifier, index and detectors. It compares all pairs, while
//! the index looks only at neighbours.

mod common;

use common::replay;
use consensus::{ForkName, PresetName};
use evidence::Time;
use simulator::{GroundTruth, Scenario, write_capture};
use sources::capture::{CaptureFile, CaptureWriter, Entry};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use test_support::findings::ids;

fn check(scenario: &Scenario) {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let capture = dir.path().join("simulated.e2s");
    let truth = write_capture(scenario, &capture).expect("the scenario can be played");
    let what = format!("{} {:?}, seed {}", scenario.fork, scenario.preset, scenario.seed);
    compare(&truth, &replay(&capture, &dir.path().join("data"), &dir.path().join("found.jsonl")), &what);
}

/// Compares the findings with the committed offences. They must be the same, and the times of each
/// finding must be those at which its two messages were sent.
fn compare(truth: &GroundTruth, findings: &[serde_json::Value], what: &str) {
    let committed: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    let found = ids(findings);
    let missed: Vec<_> = truth.crimes.iter().filter(|crime| !found.contains(&crime.finding_id.to_string())).collect();
    assert!(missed.is_empty(), "{what}: missed {missed:?}");
    let invented: Vec<_> = found.difference(&committed).collect();
    assert!(invented.is_empty(), "{what}: invented {invented:?}");
    let times: BTreeMap<&str, [u64; 2]> = findings
        .iter()
        .map(|finding| {
            let time = |name: &str| serde_json::from_value::<Time>(finding[name].clone()).expect("a time").as_unix_ns();
            (finding["id"].as_str().expect("an id"), [time("first_seen"), time("second_seen")])
        })
        .collect();
    for crime in &truth.crimes {
        let sent = [crime.first_message_sent_at, crime.second_message_sent_at];
        assert_eq!(times[crime.finding_id.to_string().as_str()], sent, "{what}: {crime:?}");
    }
}

#[test]
fn every_crime_of_every_fork_is_found_and_none_invented() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    for fork in ForkName::ALL.into_iter().filter(|fork| *fork <= ForkName::Fulu) {
        check(&Scenario { seed, ..Scenario::every_crime(fork, PresetName::Minimal, 64) });
    }
}

#[test]
fn the_same_on_the_mainnet_preset() {
    check(&Scenario::every_crime(ForkName::Electra, PresetName::Mainnet, 256));
}

#[test]
fn a_fork_in_the_middle_changes_nothing() {
    let scenario = Scenario::every_crime(ForkName::Deneb, PresetName::Minimal, 64);
    check(&Scenario { next_fork: Some((ForkName::Electra, consensus::Epoch::new(4))), ..scenario });
}

/// The times of a finding are those of the validator's own messages, however many messages share a
/// batch and so a sum.
#[test]
fn times_do_not_depend_on_the_size_of_batches() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    for fork in [ForkName::Altair, ForkName::Electra, ForkName::Fulu] {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let capture = dir.path().join("simulated.e2s");
        let noise = simulator::Noise { forged: 2, junk: 1, duplicates: 6, altered: 4 };
        let scenario = Scenario { seed, noise, ..Scenario::every_crime(fork, PresetName::Minimal, 64) };
        let truth = write_capture(&scenario, &capture).expect("the scenario can be played");
        for size in ["1", "100000"] {
            compare(&truth, &replay_in_batches(&capture, size, dir.path()), &format!("{fork}, batches of {size}, seed {seed}"));
        }
    }
}

fn replay_in_batches(capture: &Path, size: &str, dir: &Path) -> Vec<serde_json::Value> {
    let out = dir.join("found.jsonl");
    let mut command = common::slashwatch();
    command.env("SLASHWATCH_BATCH_MESSAGES", size).arg("replay").arg(capture).arg("--findings").arg(&out);
    let output = test_support::program::run(&mut command);
    assert!(output.status.success(), "{}", test_support::program::stderr(&output));
    test_support::findings::findings(&out)
}

#[test]
fn honest_validators_are_left_alone() {
    let noise = simulator::Noise { forged: 4, junk: 3, duplicates: 4, altered: 4 };
    check(&Scenario { noise, missed_blocks_percent: 20, slots: 48, ..Scenario::quiet(64) });
}

/// Votes by bits whose committees depend on a missing block are the hardest case. They wait, they
/// are rationed while live, and they are tried with candidates.
#[test]
fn what_is_found_does_not_depend_on_the_size_of_batches() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    for fork in [ForkName::Phase0, ForkName::Capella] {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let (whole, holed) = (dir.path().join("whole.e2s"), dir.path().join("holed.e2s"));
        write_capture(&Scenario { seed, ..Scenario::every_crime(fork, PresetName::Minimal, 64) }, &whole).expect("played");
        let n_blocks = without_block(&whole, &holed, 12);
        assert!(n_blocks > 24, "{fork}: {n_blocks} blocks are too few for this test");
        for file in [&whole, &holed] {
            let by_size: Vec<_> = ["1", "64", "1024", "100000"]
                .into_iter()
                .map(|size| (size, ids(&replay_in_batches(file, size, dir.path()))))
                .collect();
            assert!(!by_size[0].1.is_empty(), "{fork}: nothing found");
            for (size, found) in &by_size[1..] {
                assert_eq!(*found, by_size[0].1, "{fork}, {}, batches of {size}", file.display());
            }
        }
    }
}

/// Copies a capture without its `nth` gossip block, and returns the number of blocks.
fn without_block(from: &Path, to: &Path, nth: usize) -> usize {
    let mut writer = CaptureWriter::create(to).expect("a new file");
    let mut n_blocks = 0;
    for entry in CaptureFile::open(from).expect("it opens").entries().expect("it reads") {
        let entry = entry.expect("an undamaged entry").entry;
        if let Entry::Gossip(message) = &entry
            && message.topic.contains("/beacon_block/")
        {
            n_blocks += 1;
            if n_blocks == nth {
                continue;
            }
        }
        if !matches!(entry, Entry::Version) {
            writer.entry(&entry).expect("written");
        }
    }
    writer.flush().expect("written");
    n_blocks
}
