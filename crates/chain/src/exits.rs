//! A forecast of the validators that exit because of operations in blocks. It is available before a
//! state shows them.
//!
//! A voluntary exit or a slashing in a block gives the validator an exit epoch at least
//! `MAX_SEED_LOOKAHEAD` + 1 epochs later. The exit epoch is later still if more validators exit
//! than the churn limit of an epoch allows (`initiate_validator_exit`; from Electra on
//! `compute_exit_epoch_and_update_churn`). After a mass slashing the committees change for this
//! reason alone. A watcher that waits for the next state would then resolve aggregates with the
//! wrong committees.
//!
//! The forecast can be wrong. A block can be one that no chain includes. Ejections, and requests of
//! the execution layer, are also in the exit queue and are not read here. The forecast is therefore
//! used beside the registry, never instead of it, and a later state replaces it.
//!
//! Worked example (Deneb, at most 2 exits per epoch, nobody has exited yet): a block of epoch 3
//! carries three exits. The first two get epoch 3 + 1 + 4 = 8, and the third gets 9.
//!
//! Bounds: at most [`MAX_EXITS`] exits are kept in all. Exits older than the registry's state or
//! than the kept blocks are discarded.

use crate::registry::{ExitQueue, Registry};
use crate::tree::Tree;
use consensus::{Epoch, ForkName, MAX_SEED_LOOKAHEAD, Preset, Root, Slot, Spec, ValidatorIndex};
use std::collections::{BTreeMap, HashMap};

/// Maximum number of exits that are kept: a quarter of mainnet that exits at once.
const MAX_EXITS: usize = 262_144;
/// `EFFECTIVE_BALANCE_INCREMENT` in Gwei.
const EFFECTIVE_BALANCE_INCREMENT: u64 = 1_000_000_000;

/// Forecast exit epochs by validator.
pub(crate) type Forecast = BTreeMap<ValidatorIndex, Epoch>;

/// The exits in the blocks that are kept.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    by_block: HashMap<Root, (Slot, Vec<ValidatorIndex>)>,
    /// Total number of exits in all blocks.
    n_exits: usize,
    /// Slot of the earliest block that came since the last forecast.
    news_since: Option<Slot>,
    /// Number of exits that were refused because [`MAX_EXITS`] was reached.
    pub(crate) refused: u64,
}

impl Exits {
    /// Records the exits of a proven block, in the order in which the block is processed.
    pub(crate) fn note(&mut self, block: Root, slot: Slot, validators: Vec<ValidatorIndex>) {
        if validators.is_empty() || self.by_block.contains_key(&block) {
            return;
        }
        if self.n_exits + validators.len() > MAX_EXITS {
            self.refused += validators.len() as u64;
            return;
        }
        self.n_exits += validators.len();
        self.by_block.insert(block, (slot, validators));
        self.news_since = Some(self.news_since.map_or(slot, |earliest| earliest.min(slot)));
    }

    /// Discards blocks before `floor`.
    pub(crate) fn prune(&mut self, floor: Slot) {
        self.by_block.retain(|_, (slot, _)| *slot >= floor);
        self.n_exits = self.by_block.values().map(|(_, validators)| validators.len()).sum();
    }

    /// Returns whether blocks that came since the last forecast can change who is active in
    /// `epoch`.
    pub(crate) fn have_news_of(&self, epoch: Epoch, preset: &Preset) -> bool {
        self.news_since.is_some_and(|slot| earliest_exit(slot.epoch(preset)) <= epoch)
    }

    /// Computes the exit epochs on the branch that ends with `tip`, for validators that have no
    /// exit epoch in the registry.
    pub(crate) fn forecast(&mut self, tip: Root, tree: &Tree, registry: &Registry, spec: &Spec) -> Forecast {
        self.news_since = None;
        let slots = self.by_block.values().map(|(slot, _)| *slot);
        let Some(first) = slots.filter(|slot| *slot > registry.slot()).min() else { return Forecast::new() };
        let mut blocks: Vec<(Slot, &[ValidatorIndex])> = Vec::new();
        let mut at = Some(tip);
        while let Some(root) = at
            && tree.slot_of(&root).is_some_and(|slot| slot >= first)
        {
            if let Some((slot, validators)) = self.by_block.get(&root).filter(|(slot, _)| *slot > registry.slot()) {
                blocks.push((*slot, validators));
            }
            at = tree.parent_of(&root);
        }
        blocks.reverse();
        forecast(&blocks, registry, spec)
    }
}

/// Applies the exits of blocks to the registry. The earliest block comes first.
fn forecast(blocks: &[(Slot, &[ValidatorIndex])], registry: &Registry, spec: &Spec) -> Forecast {
    let preset = &spec.preset;
    let mut queue = registry.exit_queue();
    let mut found = Forecast::new();
    let mut churn: Option<(Epoch, u64)> = None;
    for (slot, validators) in blocks {
        let epoch = slot.epoch(preset);
        let by_balance = spec.fork_name_at(epoch) >= ForkName::Electra;
        let limit = match churn {
            Some((of, limit)) if of == epoch => limit,
            _ => churn_limit(registry, &found, epoch, by_balance, preset),
        };
        churn = Some((epoch, limit));
        for validator in *validators {
            let Some(record) = registry.record(*validator) else { continue };
            if record.exit_epoch != Epoch::FAR_FUTURE || !record.is_active(epoch) || found.contains_key(validator) {
                continue;
            }
            let exit = match by_balance {
                false => queue.next_by_count(earliest_exit(epoch), limit),
                true => {
                    let upgrade = spec.forks.iter().find(|fork| fork.name >= ForkName::Electra).map_or(epoch, |fork| fork.epoch);
                    queue.next_by_balance(earliest_exit(upgrade), earliest_exit(epoch), record.effective_balance.as_u64(), limit)
                }
            };
            found.insert(*validator, exit);
        }
    }
    found
}

/// `compute_activation_exit_epoch` of the specification.
fn earliest_exit(epoch: Epoch) -> Epoch {
    epoch.saturating_add(1 + MAX_SEED_LOOKAHEAD)
}

/// `get_validator_churn_limit` (in validators), from Electra on `get_activation_exit_churn_limit`
/// (in Gwei). `gone` holds the forecast so far: its validators no longer count once they have
/// exited.
fn churn_limit(registry: &Registry, gone: &Forecast, epoch: Epoch, by_balance: bool, preset: &Preset) -> u64 {
    let (n_active, balance) = registry.active_balance(epoch);
    let gone: Vec<u64> = gone
        .iter()
        .filter(|(_, exit)| **exit <= epoch)
        .filter_map(|(validator, _)| registry.record(*validator))
        .map(|record| record.effective_balance.as_u64())
        .collect();
    if by_balance {
        let total = balance.as_u64().saturating_sub(gone.iter().sum());
        let limit = (total / preset.churn_limit_quotient).max(preset.min_per_epoch_churn_limit_electra);
        return (limit - limit % EFFECTIVE_BALANCE_INCREMENT).min(preset.max_per_epoch_activation_exit_churn_limit);
    }
    let n_active = n_active.saturating_sub(gone.len()) as u64;
    (n_active / preset.churn_limit_quotient).max(preset.min_per_epoch_churn_limit)
}

impl ExitQueue {
    /// `initiate_validator_exit` from phase0 to Deneb: at most `limit` validators exit in an epoch.
    fn next_by_count(&mut self, earliest: Epoch, limit: u64) -> Epoch {
        if self.last < earliest {
            (self.last, self.n_at_last) = (earliest, 0);
        }
        if self.n_at_last >= limit {
            (self.last, self.n_at_last) = (self.last.saturating_add(1), 0);
        }
        self.n_at_last += 1;
        self.last
    }

    /// `compute_exit_epoch_and_update_churn` from Electra on: at most `limit` Gwei exit in an
    /// epoch.
    ///
    /// `at_upgrade` is the earliest exit epoch in Electra's first epoch. `upgrade_to_electra`
    /// starts with it. It is used if no Electra state was seen.
    fn next_by_balance(&mut self, at_upgrade: Epoch, earliest: Epoch, balance: u64, limit: u64) -> Epoch {
        let (mut epoch, mut left) = self.by_balance.unwrap_or((self.last.max(at_upgrade).saturating_add(1), limit));
        if epoch < earliest {
            (epoch, left) = (earliest, limit);
        }
        if balance > left {
            let more = (balance - left - 1) / limit.max(1) + 1;
            epoch = epoch.saturating_add(more);
            left = left.saturating_add(more.saturating_mul(limit));
        }
        self.by_balance = Some((epoch, left.saturating_sub(balance)));
        epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(last: u64, n_at_last: u64) -> ExitQueue {
        ExitQueue { last: Epoch::new(last), n_at_last, by_balance: None }
    }

    #[test]
    fn before_electra_so_many_leave_in_an_epoch() {
        let mut empty = queue(0, 0);
        let epochs: Vec<u64> = (0..5).map(|_| empty.next_by_count(earliest_exit(Epoch::new(3)), 2).as_u64()).collect();
        assert_eq!(epochs, [8, 8, 9, 9, 10]);
        // Validators that already wait exit first.
        let mut busy = queue(20, 1);
        let epochs: Vec<u64> = (0..3).map(|_| busy.next_by_count(earliest_exit(Epoch::new(3)), 2).as_u64()).collect();
        assert_eq!(epochs, [20, 21, 21]);
    }

    /// Compared with the specification's arithmetic, written out by hand: 64 ETH per epoch.
    #[test]
    fn from_electra_on_so_much_stake_leaves_in_an_epoch() {
        const ETH: u64 = 1_000_000_000;
        let (earliest, limit) = (Epoch::new(10), 64 * ETH);
        let mut fresh = ExitQueue { by_balance: Some((Epoch::new(0), 0)), ..queue(0, 0) };
        let mut next = |eth: u64| fresh.next_by_balance(Epoch::new(0), earliest, eth * ETH, limit).as_u64();
        assert_eq!([next(32), next(32), next(32), next(2048), next(32)], [10, 10, 11, 43, 43]);
        let mut upgraded = queue(12, 1);
        assert_eq!(upgraded.next_by_balance(Epoch::new(7), earliest, 32 * ETH, limit).as_u64(), 13, "after everybody who waited");
    }
}
