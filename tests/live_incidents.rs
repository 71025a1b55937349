//! Real incidents, played live. Simulated nodes play a scenario file over libp2p on loopback, and
//! `slashwatch run` listens. The test compares the API's incidents and anomalies with the
//! scenario's, by kind and slot, and the findings with the list of contradictions, by id.
//!
//! Slots are shorter than in the file, and the time after the incidents is left out. Everything
//! else is as in the file. `slashwatch demo --scenario` plays any of these files by hand. All
//! scenarios are played at the same time, each with its own network and watcher, because they
//! mostly wait.

mod common;

use common::{reported, slashwatch, stage};
use simulator::{GroundTruth, Scenario, SimNetwork, TruthComparison};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use test_support::findings::proven;
use test_support::program::{Running, TEST_TIMEOUT, WatcherFolder, runtime};

const SLOT: Duration = Duration::from_millis(800);

/// Plays the first slots of several files at the same time.
fn play_all(plays: &[(&str, u64)]) {
    std::thread::scope(|scope| {
        for (name, slots) in plays {
            scope.spawn(move || play_live(name, *slots));
        }
    });
}

/// Plays the first `slots` slots of a file.
fn play_live(name: &str, slots: u64) {
    let runtime = runtime();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let scenario = Scenario::from_toml(&std::fs::read_to_string(file).expect("readable")).expect("a scenario");
    let scenario = Scenario { slots, slot_duration: SLOT, genesis_delay: Duration::from_secs(12), ..scenario };
    println!("{name}: seed {}, {} slots of {SLOT:?}", scenario.seed, scenario.slots);
    let network = runtime.block_on(SimNetwork::start(scenario)).expect("loopback has free ports");
    let stage = stage(&network, "");
    let running = Running::start(slashwatch(), &stage.config);
    running.wait_for("watching");
    let truth = runtime.block_on(network.run()).expect("the simulation runs to its end");
    let committed: BTreeSet<String> = truth.crimes.iter().map(|crime| crime.finding_id.to_string()).collect();
    let until = Instant::now() + TEST_TIMEOUT;
    let (found, comparison) = loop {
        let (found, comparison) = heard(&stage, &truth, network.genesis_time());
        if found.is_superset(&committed) && comparison.missed.is_empty() || Instant::now() > until {
            break (found, comparison);
        }
        std::thread::yield_now();
    };
    println!("{name}: {} contradictions; {comparison}", committed.len());
    assert_eq!(found.difference(&committed).count(), 0, "{name}: invented");
    assert_eq!(committed.difference(&found).count(), 0, "{name}: missed");
    assert!(!comparison.found.is_empty() && comparison.is_complete(), "{name}: {comparison}");
    assert_eq!(running.terminate(), Some(0));
}

/// Returns the ids of the proven findings, and the comparison of the reported incidents and
/// anomalies with the expected ones.
fn heard(stage: &WatcherFolder, truth: &GroundTruth, genesis_time: u64) -> (BTreeSet<String>, TruthComparison) {
    let (findings, incidents) = (stage.all("findings"), stage.all("incidents"));
    (proven(&findings), truth.compare(&reported(&incidents, &findings, genesis_time, SLOT)))
}

#[test]
fn incidents_with_slashings_live() {
    play_all(&[("staked", 52), ("november_2023", 72), ("holesky_2025", 100), ("september_2025", 100), ("medalla", 104)]);
}

#[test]
fn incidents_without_a_slashing_live() {
    play_all(&[("april_2021", 122), ("may_2023", 114), ("december_2025", 160)]);
}
