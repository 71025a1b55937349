//! What a beacon state says about its own past: ancestors by slot, and the mixes of past epochs.
//!
//! `block_roots[slot % SLOTS_PER_HISTORICAL_ROOT]` is the last block at or before `slot`, so a root first stands at the slot of its
//! own block. `randao_mixes[epoch % EPOCHS_PER_HISTORICAL_VECTOR]` is the mix after the last block of that epoch.

use crate::chain::KEPT_EPOCHS;
use crate::tree::Ancestor;
use consensus::state::StateView;
use consensus::{Epoch, Preset, Root, Slot};

/// Epochs of a state's past whose mixes are taken.
pub(crate) const PAST_EPOCHS: u64 = KEPT_EPOCHS + 4;
/// Oldest entries of the mix vector left alone: the next epochs overwrite them.
const MIX_MARGIN: u64 = 2;

#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Oldest first; the last one is the state's latest block.
    pub ancestors: Vec<Ancestor>,
    /// Mix at the end of each past epoch, ascending.
    pub mixes: Vec<(Epoch, Root)>,
}

impl Snapshot {
    pub(crate) fn of(view: &StateView<'_>, preset: &Preset) -> Self {
        let slot = view.slot();
        let epoch = slot.epoch(preset);
        let reach = PAST_EPOCHS.min(preset.epochs_per_historical_vector.saturating_sub(MIX_MARGIN));
        let first_epoch = epoch.saturating_sub(reach);
        let mixes: Vec<(Epoch, Root)> =
            (first_epoch.as_u64()..epoch.as_u64()).map(Epoch::new).map(|past| (past, view.randao_mix(past))).collect();
        // The vector starts filled with the genesis mix; its last entry is overwritten at epoch EPOCHS_PER_HISTORICAL_VECTOR - 1.
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
            // The very first one may be older than where we began to look, unless that was genesis.
            let exact_slot = !ancestors.is_empty() || slot == Slot::new(0);
            ancestors.push(Ancestor { root, slot, exact_slot, mix: None });
        }
    }
    ancestors
}

/// The last block of an epoch has the mix of that epoch's end, and of the empty epochs after it.
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
