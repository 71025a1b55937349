//! The state a load starts from: one slot after its first block, as many validators as wished.
//!
//! 350 MB at 2.5 million validators, so the registry is written out directly and not as a tree of values. The state's latest
//! header carries its state root already (the state is one slot past its block), so that nobody needs to hash all of it to
//! learn the block's root; [`Load::state_to_be_hashed`] is the other kind, which a node serves for a block's own slot.

use super::{Load, LoadPlan};
use crate::dice::Dice;
use crate::genesis::{EFFECTIVE_BALANCE, Parts, VALIDATOR_REGISTRY_LIMIT, first_header};
use crate::ssz::Value;
use consensus::{BeaconBlockHeader, Epoch, ForkName, Preset, Root, Slot};

/// Bytes of a `Validator`.
const VALIDATOR_LEN: usize = 121;

/// The block before the load's first slot, with a state root that is any hash.
pub(super) fn first_block(plan: &LoadPlan, preset: &Preset) -> BeaconBlockHeader {
    let (slot, dice) = (plan.slot_before(), plan.scenario().dice());
    let state_root = Root::from(dice.hash("state root", &[slot.as_u64()]));
    let parent_root = if slot == Slot::new(0) { Root::ZERO } else { parent_of_first(dice) };
    BeaconBlockHeader { slot, parent_root, state_root, ..first_header(ForkName::Fulu, preset) }
}

/// The chain's head through all the epochs before the load.
pub(super) fn parent_of_first(dice: Dice) -> Root {
    Root::from(dice.hash("block before the load", &[]))
}

impl Load {
    /// The state to start from, SSZ.
    pub fn state_ssz(&self) -> Vec<u8> {
        self.state(self.plan.slot_before().saturating_add(1), first_block(&self.plan, &self.preset))
    }

    /// The same at slot 0, before its root is known to itself: to tell what a start costs with a state as nodes serve it. The
    /// load's blocks do not build on it.
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
            validators: Value::Packed { bytes: self.registry(), length: n as u64, limit_chunks: VALIDATOR_REGISTRY_LIMIT },
            validators_root: self.network.genesis_validators_root,
            randao_mix: self.genesis_mix,
            mixes: &[],
            block_roots: Value::Fixed(block_roots),
            latest_header,
            lookahead_from: slot.epoch(preset),
        };
        parts.state().to_ssz()
    }

    /// `List[Validator, VALIDATOR_REGISTRY_LIMIT]`, written out.
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
            // Withdrawal credentials of an address, any.
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
