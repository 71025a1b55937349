//! What being slashed costs, in the protocol's own integer arithmetic. Source: consensus-specs,
//! `slash_validator` and `process_slashings` of phase0, Altair, Bellatrix and Electra.
//!
//! There are two penalties. The *initial* penalty is taken at once: effective balance / Q. The
//! *correlation* penalty is taken half way to withdrawability (4 096 epochs later on mainnet). It
//! grows with S, which is all stake slashed within `EPOCHS_PER_SLASHINGS_VECTOR`:
//!
//! ```text
//! adjusted = min(S * m, T)                                T: total active balance, inc: 1 ETH
//! before Electra: eff // inc * adjusted // T * inc        0 while eff/inc * adjusted < T:
//!                                                         below about 1 % of stake
//! from Electra:   adjusted // (T // inc) * (eff // inc)   no such threshold
//! ```
//!
//! | from | Q | m |
//! |---|---|---|
//! | phase0 | 128 (minimal preset: 64) | 1 (minimal: 2) |
//! | Altair | 64 | 2 |
//! | Bellatrix | 32 | 3 |
//! | Electra | 4 096 | 3 |
//!
//! Worked example, Electra, T = 34 000 000 ETH, S = 3 268 ETH: adjusted = 9 804 ETH; 9 804 * 10^9
//! // 34 000 000 = 288 352 Gwei per ETH. A validator with 32 ETH loses 9 227 264 Gwei = 0.0092 ETH,
//! and one with 2 048 ETH loses 0.59 ETH.
//!
//! Both penalties come out of the balance, which does not go below zero. If everybody is slashed,
//! the correlation penalty takes what the initial one has left. [`PenaltyRules::losses`] gives both
//! penalties, limited in this way.
//!
//! Not included: the penalties for missed duties until the validator is withdrawable. For a single
//! offender they are most of the loss.

use consensus::{ForkName, Gwei, Preset, PresetName};

/// `EFFECTIVE_BALANCE_INCREMENT`, in Gwei.
const INCREMENT: u64 = 1_000_000_000;

/// The constants of one fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PenaltyRules {
    fork: ForkName,
    /// `MIN_SLASHING_PENALTY_QUOTIENT`.
    quotient: u64,
    /// `PROPORTIONAL_SLASHING_MULTIPLIER`.
    multiplier: u64,
}

impl PenaltyRules {
    /// The constants of `fork` with `preset`.
    pub fn of(fork: ForkName, preset: &Preset) -> Self {
        let (quotient, multiplier) = match (fork, preset.name) {
            (ForkName::Phase0, PresetName::Minimal) => (64, 2),
            (ForkName::Phase0, PresetName::Mainnet | PresetName::Gnosis) => (128, 1),
            (ForkName::Altair, _) => (64, 2),
            (ForkName::Bellatrix | ForkName::Capella | ForkName::Deneb, _) => (32, 3),
            (ForkName::Electra | ForkName::Fulu | ForkName::Gloas | ForkName::Heze, _) => (4096, 3),
        };
        Self { fork, quotient, multiplier }
    }

    /// The penalty that is taken when the slashing is included.
    pub fn initial(self, effective_balance: Gwei) -> Gwei {
        Gwei::new(effective_balance.as_u64() / self.quotient)
    }

    /// The penalty that is taken half way to withdrawability. `slashed` is the sum of effective
    /// balances slashed within the vector's epochs, this validator's included. `total_active` is
    /// the total active balance at that time.
    pub fn correlation(self, effective_balance: Gwei, slashed: Gwei, total_active: Gwei) -> Gwei {
        // As in `get_total_balance`, the total is never less than one increment.
        let total = total_active.as_u64().max(INCREMENT);
        let adjusted = slashed.as_u64().saturating_mul(self.multiplier).min(total);
        let increments = effective_balance.as_u64() / INCREMENT;
        let penalty = if self.fork >= ForkName::Electra {
            u128::from(adjusted / (total / INCREMENT)) * u128::from(increments)
        } else {
            u128::from(increments) * u128::from(adjusted) / u128::from(total) * u128::from(INCREMENT)
        };
        Gwei::new(u64::try_from(penalty).unwrap_or(u64::MAX))
    }

    /// Both penalties of one validator. Together they are at most its balance, for which its
    /// effective balance is used here. Source: `decrease_balance`.
    pub fn losses(self, effective_balance: Gwei, slashed: Gwei, total_active: Gwei) -> Losses {
        let initial = self.initial(effective_balance);
        let left = Gwei::new(effective_balance.as_u64().saturating_sub(initial.as_u64()));
        Losses { initial, correlation: self.correlation(effective_balance, slashed, total_active).min(left) }
    }
}

/// What being slashed costs one validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// The penalty that is taken when the slashing is included.
    pub initial: Gwei,
    /// The penalty that is taken half way to withdrawability, at most what the initial penalty
    /// left.
    pub correlation: Gwei,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH: u64 = 1_000_000_000;

    fn eth(n: u64) -> Gwei {
        Gwei::new(n * ETH)
    }

    /// An amount in thousandths of an ETH, rounded, as the published figures are given.
    fn milli(gwei: Gwei) -> u64 {
        (gwei.as_u64() + 500_000) / 1_000_000
    }

    #[test]
    fn initial_by_fork() {
        let initial = |fork| PenaltyRules::of(fork, &Preset::MAINNET).initial(eth(32)).as_u64();
        assert_eq!(initial(ForkName::Phase0), ETH / 4);
        assert_eq!(initial(ForkName::Altair), ETH / 2);
        assert_eq!(initial(ForkName::Deneb), ETH);
        // 0.0078 ETH for 32 ETH, 0.5 ETH for 2 048 ETH.
        assert_eq!(initial(ForkName::Electra), 7_812_500);
        assert_eq!(PenaltyRules::of(ForkName::Fulu, &Preset::MAINNET).initial(eth(2048)), Gwei::new(ETH / 2));
    }

    /// Cases with 34 M ETH active, from Electra on: the event of 10 September 2025; 3 000 keys of
    /// 32 ETH; 1 %, 10 % and a third of all stake.
    #[test]
    fn the_published_figures() {
        let rules = PenaltyRules::of(ForkName::Fulu, &Preset::MAINNET);
        let total = eth(34_000_000);
        let loss = |slashed, balance| milli(rules.correlation(eth(balance), eth(slashed), total));
        assert_eq!((loss(39 * 32 + 2_020, 32), loss(39 * 32 + 2_020, 2_048)), (9, 591));
        assert_eq!((loss(3_000 * 32, 32), loss(3_000 * 32, 2_048)), (271, 17_348));
        assert_eq!((loss(340_000, 32), loss(340_000, 2_048)), (960, 61_440));
        assert_eq!((loss(3_400_000, 32), loss(3_400_000, 2_048)), (9_600, 614_400));
        assert_eq!((loss(11_333_334, 32), loss(11_333_334, 2_048)), (32_000, 2_048_000));
    }

    /// A validator that loses everything loses no more than that, in every fork.
    #[test]
    fn both_penalties_together_are_at_most_the_balance() {
        for fork in ForkName::ALL {
            let rules = PenaltyRules::of(fork, &Preset::MAINNET);
            for slashed in [32, 3_268, 2_000_000, 34_000_000] {
                for balance in [1, 16, 32, 2_048] {
                    let losses = rules.losses(eth(balance), eth(slashed), eth(34_000_000));
                    let both = losses.initial.as_u64() + losses.correlation.as_u64();
                    assert!(both <= balance * ETH, "{fork}: {both} of {balance} ETH");
                    if slashed == 34_000_000 {
                        assert_eq!(both, balance * ETH, "{fork}: all of it");
                    }
                }
            }
        }
    }

    #[test]
    fn before_electra_there_is_a_cliff() {
        let rules = PenaltyRules::of(ForkName::Deneb, &Preset::MAINNET);
        let total = eth(34_000_000);
        assert_eq!(rules.correlation(eth(32), eth(3_268), total), eth(0));
        // The penalty is 0 while 32 * 3 * S < T, so S up to 354 166 ETH costs nothing more.
        assert_eq!(rules.correlation(eth(32), eth(354_166), total), eth(0));
        assert_eq!(rules.correlation(eth(32), eth(354_167), total), eth(1));
    }

    /// Compares with the specification's text, statement by statement and in wider integers, over
    /// many different states.
    #[test]
    fn the_same_as_the_specifications_arithmetic() {
        fn phase0_to_deneb(eff: i128, slashings: i128, total: i128, multiplier: i128) -> i128 {
            let adjusted_total_slashing_balance = (slashings * multiplier).min(total);
            let increment = 1_000_000_000;
            let penalty_numerator = eff / increment * adjusted_total_slashing_balance;
            penalty_numerator / total * increment
        }
        fn electra(eff: i128, slashings: i128, total: i128) -> i128 {
            let adjusted_total_slashing_balance = (slashings * 3).min(total);
            let increment = 1_000_000_000;
            let penalty_per_effective_balance_increment = adjusted_total_slashing_balance / (total / increment);
            let effective_balance_increments = eff / increment;
            penalty_per_effective_balance_increment * effective_balance_increments
        }
        let multiplier = |fork| match fork {
            ForkName::Phase0 => 1,
            ForkName::Altair => 2,
            _ => 3,
        };
        let mut n = 0;
        for fork in ForkName::ALL {
            let rules = PenaltyRules::of(fork, &Preset::MAINNET);
            for total in [64, 16_384, 700_000, 34_000_000, 120_000_000] {
                for slashed in [1, 32, 64, 3_268, 96_000, 354_166, 11_333_334, 40_000_000] {
                    for balance in [16, 31, 32, 33, 2_020, 2_048] {
                        let ours = rules.correlation(eth(balance), eth(slashed), eth(total)).as_u64();
                        let g = |n: u64| i128::from(n) * 1_000_000_000;
                        let spec = if fork >= ForkName::Electra {
                            electra(g(balance), g(slashed), g(total))
                        } else {
                            phase0_to_deneb(g(balance), g(slashed), g(total), multiplier(fork))
                        };
                        assert_eq!(i128::from(ours), spec, "{fork}: {balance} of {slashed} slashed in {total}");
                        n += 1;
                    }
                }
            }
        }
        assert_eq!(n, 9 * 5 * 8 * 6);
    }
}
