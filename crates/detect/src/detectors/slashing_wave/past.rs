//! Validators that contradicted themselves before and are not members of the current wave. They are
//! needed for the base rate, and for the stake that is slashed within the vector's epochs. A
//! validator can be slashed once, so it counts once, however often it offended.

use consensus::{Epoch, ValidatorIndex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest number of validators that are kept one by one, at 24 bytes each. For further ones only
/// the stake is summed, and a repeated offence of theirs counts again.
const MAX_KNOWN: usize = 262_144;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Past {
    /// The epoch in which each validator is counted.
    known: BTreeMap<ValidatorIndex, Epoch>,
    by_epoch: BTreeMap<Epoch, Sums>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sums {
    /// Number of validators that offended outside of waves.
    alone: u64,
    /// Sum of the effective balances of all validators counted in this epoch, in Gwei.
    gwei: u64,
}

impl Past {
    /// Adds a validator that offended outside of waves.
    pub(super) fn add_alone(&mut self, validator: ValidatorIndex, epoch: Epoch, gwei: u64) {
        if self.learn(validator, epoch) {
            let sums = self.by_epoch.entry(epoch).or_default();
            sums.alone += 1;
            sums.gwei = sums.gwei.saturating_add(gwei);
        }
    }

    /// Adds the members of a closed wave. `gwei` is the stake of those members that were not known
    /// before.
    pub(super) fn add_wave(&mut self, members: impl Iterator<Item = ValidatorIndex>, epoch: Epoch, gwei: u64) {
        for member in members {
            self.learn(member, epoch);
        }
        let sums = self.by_epoch.entry(epoch).or_default();
        sums.gwei = sums.gwei.saturating_add(gwei);
    }

    pub(super) fn knows(&self, validator: ValidatorIndex) -> bool {
        self.known.contains_key(&validator)
    }

    /// Number of validators that offended outside of waves since `oldest`.
    pub(super) fn alone_since(&self, oldest: Epoch) -> u64 {
        self.by_epoch.range(oldest..).map(|(_, sums)| sums.alone).sum()
    }

    /// Sum of effective balances since `oldest`, in Gwei.
    pub(super) fn gwei_since(&self, oldest: Epoch) -> u64 {
        self.by_epoch.range(oldest..).fold(0, |sum, (_, sums)| sum.saturating_add(sums.gwei))
    }

    /// Drops everything before `oldest`.
    pub(super) fn forget_before(&mut self, oldest: Epoch) {
        if self.by_epoch.first_key_value().is_some_and(|(epoch, _)| *epoch < oldest) {
            self.by_epoch = self.by_epoch.split_off(&oldest);
            self.known.retain(|_, epoch| *epoch >= oldest);
        }
    }

    fn learn(&mut self, validator: ValidatorIndex, epoch: Epoch) -> bool {
        if self.knows(validator) {
            return false;
        }
        if self.known.len() < MAX_KNOWN {
            self.known.insert(validator, epoch);
        }
        true
    }
}
