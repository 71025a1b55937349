//! How many validators, or how much stake, may become active or inactive in an epoch, and which
//! exit epochs follow from it (`get_validator_churn_limit`, `initiate_validator_exit`; from Electra
//! on `compute_exit_epoch_and_update_churn`).
//!
//! Worked example (Deneb, at most 2 exits per epoch, nobody has exited yet): a block of epoch 3
//! carries three exits. The first two get epoch 3 + 1 + 4 = 8, and the third gets 9.

use consensus::{Epoch, ForkName, Gwei, MAX_SEED_LOOKAHEAD, Preset};

/// `EFFECTIVE_BALANCE_INCREMENT` in Gwei.
pub(crate) const EFFECTIVE_BALANCE_INCREMENT: u64 = 1_000_000_000;

/// `compute_activation_exit_epoch` of the specification.
pub(crate) fn earliest_exit(epoch: Epoch) -> Epoch {
    epoch.saturating_add(1 + MAX_SEED_LOOKAHEAD)
}

/// What one epoch allows. Before Electra these are numbers of validators, from Electra on amounts
/// of stake in Gwei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChurnLimits {
    pub exits: u64,
    /// Before Electra the number of activations, from Electra on the amount of deposits.
    pub activations: u64,
    /// 0 before Electra.
    pub consolidations: u64,
}

impl ChurnLimits {
    /// `n_active` validators are active in the epoch, with `total` effective balance.
    pub(crate) fn of(fork: ForkName, n_active: u64, total: Gwei, preset: &Preset) -> Self {
        let total = total.as_u64().max(EFFECTIVE_BALANCE_INCREMENT);
        let whole = |amount: u64| amount - amount % EFFECTIVE_BALANCE_INCREMENT;
        let by_stake = |quotient: u64| whole((total / quotient).max(preset.min_per_epoch_churn_limit_electra));
        if fork >= ForkName::Gloas {
            let exits = by_stake(preset.churn_limit_quotient_gloas);
            return Self {
                exits,
                activations: exits.min(preset.max_per_epoch_activation_churn_limit_gloas),
                consolidations: whole(total / preset.consolidation_churn_limit_quotient),
            };
        }
        if fork >= ForkName::Electra {
            let all = by_stake(preset.churn_limit_quotient);
            let exits = all.min(preset.max_per_epoch_activation_exit_churn_limit);
            return Self { exits, activations: exits, consolidations: all - exits };
        }
        let exits = (n_active / preset.churn_limit_quotient).max(preset.min_per_epoch_churn_limit);
        let most = if fork >= ForkName::Deneb { preset.max_per_epoch_activation_churn_limit } else { u64::MAX };
        Self { exits, activations: exits.min(most), consolidations: 0 }
    }
}

/// The end of the queue of exiting validators before Electra.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExitQueue {
    /// The latest exit epoch of any validator, or 0 if no validator exits.
    pub last: Epoch,
    /// Number of validators that exit in epoch `last`.
    pub n_at_last: u64,
}

impl ExitQueue {
    /// Counts a validator that exits in this epoch.
    pub(crate) fn add(&mut self, exit: Epoch) {
        if exit > self.last {
            (self.last, self.n_at_last) = (exit, 0);
        }
        self.n_at_last += u64::from(exit == self.last);
    }

    /// `initiate_validator_exit` from phase0 to Deneb: at most `limit` validators exit in an epoch.
    pub(crate) fn next(&mut self, earliest: Epoch, limit: u64) -> Epoch {
        if self.last < earliest {
            (self.last, self.n_at_last) = (earliest, 0);
        }
        if self.n_at_last >= limit {
            (self.last, self.n_at_last) = (self.last.saturating_add(1), 0);
        }
        self.n_at_last += 1;
        self.last
    }
}

/// The end of a queue of stake, from Electra on: `earliest_exit_epoch` with
/// `exit_balance_to_consume`, or the same of consolidations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StakeQueue {
    pub last: Epoch,
    /// In Gwei.
    pub left: u64,
}

impl StakeQueue {
    /// `compute_exit_epoch_and_update_churn`, and the same function for consolidations: at most
    /// `limit` Gwei leave in an epoch.
    pub(crate) fn next(&mut self, earliest: Epoch, balance: Gwei, limit: u64) -> Epoch {
        let balance = balance.as_u64();
        if self.last < earliest {
            (self.last, self.left) = (earliest, limit);
        }
        if balance > self.left {
            let more = (balance - self.left - 1) / limit.max(1) + 1;
            self.last = self.last.saturating_add(more);
            self.left = self.left.saturating_add(more.saturating_mul(limit));
        }
        self.left = self.left.saturating_sub(balance);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_electra_so_many_leave_in_an_epoch() {
        let mut empty = ExitQueue::default();
        let epochs: Vec<u64> = (0..5).map(|_| empty.next(earliest_exit(Epoch::new(3)), 2).as_u64()).collect();
        assert_eq!(epochs, [8, 8, 9, 9, 10]);
        // Validators that already wait exit first.
        let mut busy = ExitQueue { last: Epoch::new(20), n_at_last: 1 };
        let epochs: Vec<u64> = (0..3).map(|_| busy.next(earliest_exit(Epoch::new(3)), 2).as_u64()).collect();
        assert_eq!(epochs, [20, 21, 21]);
    }

    /// Compared with the specification's arithmetic, written out by hand: 64 ETH per epoch.
    #[test]
    fn from_electra_on_so_much_stake_leaves_in_an_epoch() {
        const ETH: u64 = 1_000_000_000;
        let (earliest, limit) = (Epoch::new(10), 64 * ETH);
        let mut fresh = StakeQueue::default();
        let mut next = |eth: u64| fresh.next(earliest, Gwei::new(eth * ETH), limit).as_u64();
        assert_eq!([next(32), next(32), next(32), next(2048), next(32)], [10, 10, 11, 43, 43]);
    }
}
