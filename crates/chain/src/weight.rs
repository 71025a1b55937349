//! The weight of a branch: the stake that voted for its blocks.
//!
//! A proven block shows only that some key signed it, and the owner of a key can sign any number of
//! blocks. Stake cannot be invented. A vote counts with the effective balance of an active
//! validator that is not slashed, once per epoch. A validator that votes twice in an epoch counts
//! once. A validator that has exited does not count.
//!
//! Votes that arrive before their block are kept until the block arrives. They are kept for at most
//! [`MAX_EARLY`] block roots. When there are more, the root with the least stake is dropped first.

use crate::registry::Registry;
use consensus::{AttestationData, Epoch, Preset, Root, Slot, ValidatorIndex};
use std::collections::HashMap;

/// Maximum number of unknown blocks whose votes are kept.
const MAX_EARLY: usize = 256;
const GWEI_PER_ETH: u64 = 1_000_000_000;

/// Records in which epoch each validator was last counted, and the stake of votes for blocks that
/// have not arrived.
#[derive(Debug, Default)]
pub(crate) struct StakeCounter {
    /// For each validator: the last epoch in which it was counted, plus one. 0 means that it was
    /// never counted.
    counted: Vec<u32>,
    early: HashMap<Root, u64>,
}

impl StakeCounter {
    /// Returns the stake, in whole ETH, of the `members` that are counted for this vote.
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

    /// Keeps stake for a block that is not known.
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

    /// Removes and returns the stake that was kept for a block that has arrived.
    pub(crate) fn take(&mut self, block: &Root) -> u64 {
        self.early.remove(block).unwrap_or(0)
    }
}

/// Returns whether a vote can show where the chain is now. Such a vote is about the current epoch
/// or the previous one, and its slot is in the epoch of its target.
pub(crate) fn is_about_now(data: &AttestationData, now: Slot, ahead: u64, preset: &Preset) -> bool {
    let epoch: Epoch = data.slot.epoch(preset);
    epoch == data.target.epoch && data.slot <= now.saturating_add(ahead) && now.epoch(preset) <= epoch.saturating_add(1)
}
