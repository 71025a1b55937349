//! What the tests share: the chain of a capture, and its blocks as a chain takes them.
#![allow(dead_code, clippy::unwrap_used)]

use chain::{BlockFacts, Chain, PubkeyCache};
use consensus::SignedBlock;
use std::path::Path;
use test_support::capture::Capture;

/// The capture committed with this crate.
pub fn small_capture() -> Capture {
    Capture::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimal_fulu.e2s"))
}

/// Those of the captures with these names that are there; never none.
pub fn captures(names: &[&str]) -> Vec<Capture> {
    let is_named = |path: &Path| path.file_stem().is_some_and(|stem| names.iter().any(|name| stem == *name));
    let found: Vec<Capture> =
        test_support::captures().iter().filter(|path| is_named(path)).map(|path| Capture::read(path)).collect();
    assert!(!found.is_empty(), "none of {names:?} is there");
    found
}

/// At genesis.
pub fn chain_of(capture: &Capture) -> Chain {
    Chain::from_state(capture.spec.clone(), &capture.state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

pub fn facts(block: &SignedBlock) -> BlockFacts {
    let header = &block.signed_header.message;
    BlockFacts {
        root: block.root,
        slot: header.slot,
        parent_root: header.parent_root,
        proposer_index: header.proposer_index,
        randao_reveal: block.randao_reveal,
    }
}
