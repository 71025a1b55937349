//! The state a load starts from: slot 1, one block at slot 0, as many validators as wished.
//!
//! 350 MB at 2.5 million validators, so the registry is written out directly and not as a tree of values. The state's latest
//! header carries its state root already (the state is one slot past its block), so that nobody needs to hash all of it to
//! learn the block's root; [`Load::state_to_be_hashed`] is the other kind, which a node serves for a block's own slot.

use super::Load;
use crate::dice::Dice;
use crate::genesis::{EFFECTIVE_BALANCE, Parts, VALIDATOR_REGISTRY_LIMIT, first_header};
use crate::ssz::Value;
use consensus::{BeaconBlockHeader, Epoch, ForkName, Preset, Root, Slot};

/// Bytes of a `Validator`.
const VALIDATOR_LEN: usize = 121;

/// The block at slot 0, with a state root that is any hash.
pub(super) fn first_block(preset: &Preset, dice: Dice) -> BeaconBlockHeader {
    BeaconBlockHeader { state_root: Root::from(dice.hash("state root", &[0])), ..first_header(ForkName::Fulu, preset) }
}

impl Load {
    /// The state to start from, SSZ.
    pub fn state_ssz(&self) -> Vec<u8> {
        self.state(Slot::new(1), first_block(&self.preset, self.plan.scenario().dice()))
    }

    /// The same at slot 0, before its root is known to itself: to tell what a start costs with a state as nodes serve it. The
    /// load's blocks do not build on it.
    pub fn state_to_be_hashed(&self) -> Vec<u8> {
        self.state(Slot::new(0), first_header(ForkName::Fulu, &self.preset))
    }

    fn state(&self, slot: Slot, latest_header: BeaconBlockHeader) -> Vec<u8> {
        let preset = &self.preset;
        let mut block_roots = vec![0; 32 * preset.slots_per_historical_root as usize];
        if slot > Slot::new(0) {
            block_roots[..32].copy_from_slice(latest_header.root().as_slice());
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
        };
        parts.state().to_ssz()
    }

    /// `List[Validator, VALIDATOR_REGISTRY_LIMIT]`, written out.
    fn registry(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.plan.n_registered * VALIDATOR_LEN);
        let mut active = self.active.iter().copied().peekable();
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
            bytes.push(0);
            for epoch in [0, 0, exit, exit] {
                bytes.extend_from_slice(&epoch.to_le_bytes());
            }
        }
        bytes
    }
}
