//! Helpers that the tests of this crate share: a chain from a simulated network's capture.

#![allow(dead_code, reason = "each test file uses its own part")]

use chain::{Chain, PubkeyCache};
use consensus::Spec;
use simulator::{Scenario, record};
use sources::capture::{CaptureReader, Entry};

/// The chain that a capture's config and first state describe.
pub fn chain_of(capture: &[u8]) -> Chain {
    let (mut config, mut state) = (None, None);
    for located in CaptureReader::new(capture) {
        match located.expect("undamaged").entry {
            Entry::Config(text) => config = Some(text),
            Entry::State(ssz) if state.is_none() => state = Some(ssz),
            _ => {}
        }
        if config.is_some() && state.is_some() {
            break;
        }
    }
    let spec = Spec::from_yaml(&config.expect("a config")).expect("valid");
    Chain::from_state(spec, &state.expect("a state"), &mut PubkeyCache::in_memory(), &mut |_| ()).expect("a good state")
}

/// A network of honest validators at genesis.
pub fn quiet_chain(scenario: &Scenario) -> Chain {
    let (bytes, _) = record::capture_bytes(&Scenario { slots: 1, ..scenario.clone() }).expect("played");
    chain_of(&bytes)
}
