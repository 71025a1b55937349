//! The state from which a load starts. It is one slot after the load's first block.
//!
//! A state of 2.5 million validators has 350 MB, so the registry is serialized directly and not as
//! a tree of values. The latest header in the state already contains its state root, because the
//! state is one slot after its block. So a reader does not have to hash the whole state to get the
//! block's root. [`Load::state_to_be_hashed`] is the other kind of state, which a node serves for a
//! block's own slot.

use super::{Load, LoadPlan};
use crate::genesis::{EFFECTIVE_BALANCE, Parts, VALIDATOR_REGISTRY_LIMIT, first_header};
use crate::seeded_random::SeededRandom;
use crate::ssz::SszValue;
use consensus::{BeaconBlockHeader, Epoch, ForkName, Preset, Root, Slot};

/// Length of a `Validator` in bytes.
const VALIDATOR_LEN: usize = 121;

/// The block before the load's first slot. Its state root is an arbitrary hash.
pub(super) fn first_block(plan: &LoadPlan, preset: &Preset) -> BeaconBlockHeader {
    let (slot, random) = (plan.slot_before(), plan.scenario().random());
    let state_root = Root::from(random.hash("state root", &[slot.as_u64()]));
    let parent_root = if slot == Slot::new(0) { Root::ZERO } else { parent_of_first(random) };
    BeaconBlockHeader { slot, parent_root, state_root, ..first_header(ForkName::Fulu, preset) }
}

/// The head of the chain in all epochs before the load.
pub(super) fn parent_of_first(random: SeededRandom) -> Root {
    Root::from(random.hash("block before the load", &[]))
}

impl Load {
    /// The state to start from, in SSZ.
    pub fn state_ssz(&self) -> Vec<u8> {
        self.state(self.plan.slot_before().saturating_add(1), first_block(&self.plan, &self.preset))
    }

    /// The same state at slot 0, whose latest header has no state root yet. It serves to measure
    /// the cost of a start with a state as nodes serve it. The load's blocks do not build on it.
    pub fn state_to_be_hashed(&self) -> Vec<u8> {
        self.state(Slot::new(0), first_header(ForkName::Fulu, &self.preset))
    }

    fn state(&self, slot: Slot, latest_header: BeaconBlockHeader) -> Vec<u8> {
        let preset = &self.preset;
        let (n_roots, before) = (preset.slots_per_historical_root as usize, self.plan.slot_before());
        let mut block_roots = vec![0; 32 * n_roots];
        if before > Slot::new(0) {
            block_roots = latest_header.parent_root.as_slice().repeat(n_roots);
        }
        if slot > before {
            let at = before.as_u64() as usize % n_roots * 32;
            block_roots[at..at + 32].copy_from_slice(latest_header.root().as_slice());
        }
        let n = self.plan.n_registered;
        let parts = Parts {
            fork: ForkName::Fulu,
            preset,
            keys: &self.keys,
            time: self.network.genesis_time,
            slot,
            active: &self.active,
            n_validators: n,
            validators: SszValue::Packed { bytes: self.registry(), length: n as u64, limit_chunks: VALIDATOR_REGISTRY_LIMIT },
            validators_root: self.network.genesis_validators_root,
            randao_mix: self.genesis_mix,
            mixes: &[],
            block_roots: SszValue::Fixed(block_roots),
            latest_header,
            lookahead_from: slot.epoch(preset),
            progress: None,
        };
        parts.state().to_ssz()
    }

    /// `List[Validator, VALIDATOR_REGISTRY_LIMIT]`, serialized.
    fn registry(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.plan.n_registered * VALIDATOR_LEN);
        let mut active = self.active.iter().copied().peekable();
        let mut slashed_left = self.plan.slashed;
        for (index, key) in (0u32..).zip(self.public_keys()) {
            let is_active = active.next_if_eq(&index).is_some();
            let never = Epoch::FAR_FUTURE.as_u64();
            let exit = if is_active { never } else { 0 };
            let key = key.to_bytes();
            bytes.extend_from_slice(&key);
            // Withdrawal credentials with an arbitrary address.
            bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&key[..20]);
            bytes.extend_from_slice(&EFFECTIVE_BALANCE.to_le_bytes());
            let is_slashed = !is_active && slashed_left > 0;
            slashed_left -= usize::from(is_slashed);
            bytes.push(u8::from(is_slashed));
            for epoch in [0, 0, exit, exit] {
                bytes.extend_from_slice(&epoch.to_le_bytes());
            }
        }
        bytes
    }
}
