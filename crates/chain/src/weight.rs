//! What a branch weighs: the stake that voted for its blocks.
//!
//! "Proven" says only that some key signed, and anyone with a key can sign any number of blocks. Stake cannot be made up: a vote counts for
//! an active validator that is not slashed, with its effective balance, once an epoch. Whoever votes twice has voted once here, and whoever
//! has left has no vote.
//!
//! Votes that come before their block are kept until it comes: [`MAX_EARLY`] roots, those with least stake are forgotten first.

use crate::registry::Registry;
use consensus::{AttestationData, Epoch, Preset, Root, Slot, ValidatorIndex};
use std::collections::HashMap;

/// Blocks that are not known (yet) whose votes are kept.
const MAX_EARLY: usize = 256;
const GWEI_PER_ETH: u64 = 1_000_000_000;

/// Who has voted in which epoch, and for blocks that are still to come.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    /// By validator: the last epoch it was counted in, and one more; 0 for none.
    counted: Vec<u32>,
    early: HashMap<Root, u64>,
}

impl Votes {
    /// The stake (whole ETH) of those of `members` that are counted with this vote.
    pub(crate) fn count(&mut self, registry: &Registry, data: &AttestationData, members: &[ValidatorIndex]) -> u64 {
        let epoch = data.target.epoch;
        let Ok(mark) = u32::try_from(epoch.as_u64().saturating_add(1)) else { return 0 };
        if self.counted.len() < registry.len() {
            self.counted.resize(registry.len(), 0);
        }
        let mut stake = 0u64;
        for member in members {
            let Some(record) = registry.record(*member) else { continue };
            let Some(last) = usize::try_from(member.as_u64()).ok().and_then(|index| self.counted.get_mut(index)) else {
                continue;
            };
            if *last < mark && record.is_active(epoch) && !record.slashed {
                *last = mark;
                stake = stake.saturating_add(record.effective_balance.as_u64() / GWEI_PER_ETH);
            }
        }
        stake
    }

    /// Stake for a block that is not known.
    pub(crate) fn keep(&mut self, block: Root, stake: u64) {
        if let Some(known) = self.early.get_mut(&block) {
            *known = known.saturating_add(stake);
            return;
        }
        if self.early.len() >= MAX_EARLY
            && let Some((least, held)) =
                self.early.iter().map(|(root, held)| (*root, *held)).min_by_key(|(root, held)| (*held, *root))
        {
            if held >= stake {
                return;
            }
            self.early.remove(&least);
        }
        self.early.insert(block, stake);
    }

    /// What was kept for a block that has come.
    pub(crate) fn take(&mut self, block: &Root) -> u64 {
        self.early.remove(block).unwrap_or(0)
    }
}

/// The votes that can tell where the chain is now: of this epoch and the last, for their own epoch's slots.
pub(crate) fn is_about_now(data: &AttestationData, now: Slot, ahead: u64, preset: &Preset) -> bool {
    let epoch: Epoch = data.slot.epoch(preset);
    epoch == data.target.epoch && data.slot <= now.saturating_add(ahead) && now.epoch(preset) <= epoch.saturating_add(1)
}
