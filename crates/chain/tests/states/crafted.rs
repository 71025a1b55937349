//! Makes later states from a genesis state (minimal preset) by overwriting the fields that this
//! crate reads. The offsets are the same in every fork, because `BeaconState` begins in the same
//! way in all of them (phase0/beacon-chain.md).
#![allow(dead_code, clippy::unwrap_used)]

use chain::BlockFacts;
use consensus::{BeaconBlockHeader, Root, Validator, sha256};

const SLOT: usize = 40;
const HEADER: usize = 64;
const BLOCK_ROOTS: usize = 176;
const ROOTS: usize = 64;
const RANDAO_MIXES: usize = BLOCK_ROOTS + 2 * ROOTS * 32 + 4 + 72 + 4 + 8 + 4 + 4;
const VALIDATORS_OFFSET: usize = RANDAO_MIXES - 8;
const SLOTS_PER_EPOCH: u64 = 8;

/// Returns the state at `slot` after the blocks of `chain`. The first of them is the child of
/// `genesis`.
pub fn state_after(genesis: &[u8], genesis_root: Root, chain: &[(BlockFacts, BeaconBlockHeader)], slot: u64) -> Vec<u8> {
    let mut state = genesis.to_vec();
    let mut mix = Root::from_slice(&genesis[RANDAO_MIXES..RANDAO_MIXES + 32]);
    let mut root = genesis_root;
    let mut blocks = chain.iter().peekable();
    for at in 0..=slot {
        if let Some((block, header)) = blocks.next_if(|(block, _)| block.slot.as_u64() == at) {
            mix ^= Root::from(sha256(block.randao_reveal.as_slice()));
            root = block.root;
            state[HEADER..HEADER + 112].copy_from_slice(&ssz_header(header));
        }
        write(&mut state, RANDAO_MIXES, at / SLOTS_PER_EPOCH, mix);
        if at < slot {
            write(&mut state, BLOCK_ROOTS, at, root);
        }
    }
    assert!(blocks.next().is_none(), "blocks past the state's slot");
    state[SLOT..SLOT + 8].copy_from_slice(&slot.to_le_bytes());
    state
}

fn write(state: &mut [u8], at: usize, nth: u64, root: Root) {
    let at = at + (nth as usize % ROOTS) * 32;
    state[at..at + 32].copy_from_slice(root.as_slice());
}

fn ssz_header(header: &BeaconBlockHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&header.slot.as_u64().to_le_bytes());
    bytes.extend_from_slice(&header.proposer_index.as_u64().to_le_bytes());
    for root in [header.parent_root, header.state_root, header.body_root] {
        bytes.extend_from_slice(root.as_slice());
    }
    bytes
}

/// Sets a validator's exit epoch.
pub fn set_exit(state: &mut [u8], validator: usize, epoch: u64) {
    set_field(state, validator, 16, epoch);
}

/// Sets a validator's activation epoch.
pub fn set_activation(state: &mut [u8], validator: usize, epoch: u64) {
    set_field(state, validator, 24, epoch);
}

/// Overwrites a validator's public key.
pub fn set_pubkey(state: &mut [u8], validator: usize, key: [u8; 48]) {
    let at = validators(state) + validator * Validator::SSZ_LEN;
    state[at..at + 48].copy_from_slice(&key);
}

fn set_field(state: &mut [u8], validator: usize, from_end: usize, value: u64) {
    // activation_epoch, exit_epoch and withdrawable_epoch are the last three fields, with 8 bytes
    // each.
    let at = validators(state) + (validator + 1) * Validator::SSZ_LEN - from_end;
    state[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn validators(state: &[u8]) -> usize {
    u32::from_le_bytes(state[VALIDATORS_OFFSET..VALIDATORS_OFFSET + 4].try_into().unwrap()) as usize
}
