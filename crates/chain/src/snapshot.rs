//! Reads from a beacon state what it holds about its own past: ancestors by slot, and the randao
//! mixes of past epochs.
//!
//! `block_roots[slot % SLOTS_PER_HISTORICAL_ROOT]` is the root of the last block at or before
//! `slot`. A root therefore appears first at the slot of its own block. `randao_mixes[epoch %
//! EPOCHS_PER_HISTORICAL_VECTOR]` is the mix after the last block of that epoch.

use crate::chain::{KEPT_EPOCHS, parse};
use crate::error::ChainError;
use crate::tree::Ancestor;
use consensus::state::StateView;
use consensus::{Epoch, Preset, Root, Slot, Spec};
use std::collections::BTreeMap;

/// Number of past epochs whose mixes are read from a state.
pub(crate) const PAST_EPOCHS: u64 = KEPT_EPOCHS + 4;
/// Number of the oldest entries of the mix vector that are not read, because the next epochs
/// overwrite them.
const MIX_MARGIN: u64 = 2;

/// The blocks before a state, as far back as the state names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastBlocks {
    /// A slot from this one on that is not in `by_slot` has no block.
    pub first: Slot,
    /// The last slot that the state tells about.
    pub last: Slot,
    pub by_slot: BTreeMap<Slot, Root>,
}

impl PastBlocks {
    /// Reads the roots in a state. They go back SLOTS_PER_HISTORICAL_ROOT slots, which are 27 hours
    /// on mainnet. Hashes the whole state if its latest block is of its own slot.
    ///
    /// # Errors
    ///
    /// The bytes are no state of this network.
    pub fn of(spec: &Spec, state_ssz: &[u8]) -> Result<Self, ChainError> {
        let view = parse(spec, state_ssz)?;
        let reach = view.slot().saturating_sub(spec.preset.slots_per_historical_root);
        let history = block_history(&view, view.slot(), reach);
        let exact = history.iter().filter(|ancestor| ancestor.exact_slot);
        let mut by_slot: BTreeMap<Slot, Root> = exact.map(|ancestor| (ancestor.slot, ancestor.root)).collect();
        let latest = view.latest_block_header().slot;
        if latest == view.slot() {
            by_slot.insert(latest, view.latest_block_root());
        }
        // Whether the first root is of a block in its slot is not known.
        let first = if reach == Slot::new(0) { reach } else { reach.saturating_add(1) };
        let last = if latest == view.slot() { latest } else { view.slot().saturating_sub(1) };
        Ok(Self { first, last, by_slot })
    }
}

#[derive(Debug)]
pub(crate) struct StateHistory {
    /// Ascending by slot. The last one is the state's latest block.
    pub ancestors: Vec<Ancestor>,
    /// The mix at the end of each past epoch, ascending by epoch.
    pub mixes: Vec<(Epoch, Root)>,
}

impl StateHistory {
    pub(crate) fn of(view: &StateView<'_>, preset: &Preset) -> Self {
        let slot = view.slot();
        let epoch = slot.epoch(preset);
        let reach = PAST_EPOCHS.min(preset.epochs_per_historical_vector.saturating_sub(MIX_MARGIN));
        let first_epoch = epoch.saturating_sub(reach);
        let mixes: Vec<(Epoch, Root)> =
            (first_epoch.as_u64()..epoch.as_u64()).map(Epoch::new).map(|past| (past, view.randao_mix(past))).collect();
        // At genesis every entry of the vector is the genesis mix. The last entry is overwritten in
        // epoch EPOCHS_PER_HISTORICAL_VECTOR - 1.
        let last_entry = Epoch::new(preset.epochs_per_historical_vector - 1);
        let genesis_mix = (epoch < last_entry).then(|| view.randao_mix(last_entry));

        let mut ancestors = block_history(view, slot, epoch.saturating_sub(KEPT_EPOCHS).start_slot(preset));
        let latest = view.latest_block_header();
        let latest_root = view.latest_block_root();
        ancestors.retain(|ancestor| ancestor.root != latest_root);
        ancestors.push(Ancestor { root: latest_root, slot: latest.slot, exact_slot: true, mix: Some(view.randao_mix(epoch)) });
        fill_mixes(&mut ancestors, &mixes, genesis_mix, preset);
        Self { ancestors, mixes }
    }
}

fn block_history(view: &StateView<'_>, state_slot: Slot, first: Slot) -> Vec<Ancestor> {
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for slot in first.as_u64()..state_slot.as_u64() {
        let slot = Slot::new(slot);
        let Some(root) = view.block_root_at(slot) else { continue };
        if ancestors.last().is_none_or(|last| last.root != root) {
            // The first root can belong to a block before the first slot that is read, unless that
            // slot is genesis.
            let exact_slot = !ancestors.is_empty() || slot == Slot::new(0);
            ancestors.push(Ancestor { root, slot, exact_slot, mix: None });
        }
    }
    ancestors
}

/// Fills in the mix of each block that is the last one of its epoch. It is the mix at the end of
/// that epoch, and also of the empty epochs after it.
fn fill_mixes(ancestors: &mut [Ancestor], mixes: &[(Epoch, Root)], genesis_mix: Option<Root>, preset: &Preset) {
    let next_slots: Vec<Slot> = ancestors.iter().skip(1).map(|ancestor| ancestor.slot).collect();
    for (ancestor, next) in ancestors.iter_mut().zip(next_slots) {
        let epoch = ancestor.slot.epoch(preset);
        if next.epoch(preset) > epoch {
            ancestor.mix = mixes.binary_search_by_key(&epoch, |entry| entry.0).ok().map(|found| mixes[found].1);
        }
        if ancestor.slot == Slot::new(0) {
            ancestor.mix = genesis_mix.or(ancestor.mix);
        }
    }
}
