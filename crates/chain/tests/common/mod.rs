//! The chain of a capture, and its blocks as a chain takes them.
#![allow(dead_code, clippy::unwrap_used)]

use chain::{BlockFacts, Chain, PubkeyCache};
use consensus::SignedBlock;
use std::path::Path;
use test_support::capture::Capture;

/// The capture that is committed with this crate.
pub fn small_capture() -> Capture {
    Capture::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimal_fulu.e2s"))
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
