//! Simulated networks of every fork, through the binary: what the simulator says was done is what is found, by id.
//!
//! The simulator shares no code with verifier, index and detectors, and compares all pairs where the index looks at
//! neighbours only.

mod common;

use common::{ids, replay};
use consensus::{ForkName, PresetName};
use simulator::{Scenario, write_capture};
use std::collections::BTreeSet;

fn check(scenario: &Scenario) {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let capture = dir.path().join("simulated.e2s");
    let truth = write_capture(scenario, &capture).expect("the scenario can be played");
    let committed: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    let found = ids(&replay(&capture, &dir.path().join("data"), &dir.path().join("found.jsonl")));
    let what = format!("{} {:?}, seed {}", scenario.fork, scenario.preset, scenario.seed);
    let missed: Vec<_> = truth.crimes.iter().filter(|crime| !found.contains(&crime.finding_id.to_string())).collect();
    assert!(missed.is_empty(), "{what}: missed {missed:?}");
    let invented: Vec<_> = found.difference(&committed).collect();
    assert!(invented.is_empty(), "{what}: invented {invented:?}");
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

#[test]
fn honest_validators_are_left_alone() {
    let noise = simulator::Noise { forged: 4, junk: 3, duplicates: 4, altered: 4 };
    check(&Scenario { noise, missed_blocks_percent: 20, slots: 48, ..Scenario::quiet(64) });
}
