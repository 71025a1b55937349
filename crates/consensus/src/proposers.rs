//! Computes which validator proposes the block of a slot.
//!
//! Candidates are drawn by shuffling. Each is accepted with a probability that grows with its
//! effective balance. From Fulu on, the proposers of an epoch are fixed one epoch before it begins,
//! with the effective balances of that time. Before Fulu they are computed with the balances at the
//! start of the epoch itself. The seed is the same in both cases.
//!
//! Source: `compute_proposer_index` of phase0 and Electra (EIP-7251), `get_beacon_proposer_indices`
//! of Fulu (EIP-7917) and of Gloas (EIP-8045: slashed validators do not propose).

use crate::shuffling::{compute_seed, compute_shuffled_index};
use crate::{DomainType, Epoch, ForkName, Gwei, Preset, Root, Slot, ValidatorIndex, sha256};

/// `MAX_EFFECTIVE_BALANCE` in Gwei. It is the same in every preset.
const MAX_EFFECTIVE_BALANCE: u64 = 32_000_000_000;
/// `MAX_EFFECTIVE_BALANCE_ELECTRA` in Gwei. It is the same in every preset.
const MAX_EFFECTIVE_BALANCE_ELECTRA: u64 = 2_048_000_000_000;
/// Maximum number of candidates that are drawn for one slot. Validators with 16 ETH are accepted
/// once in 128 draws from Electra on, so this number of refusals in a row does not happen in a real
/// state. It can happen only in a state that somebody made up.
const MAX_DRAWN: u64 = 16_384;

/// Returns the proposer of a slot.
///
/// Returns `None` if there is no candidate, or if none of the first `MAX_DRAWN` candidates is
/// accepted because all balances are about zero.
///
/// - `candidates`: indices of the validators that are active in the slot's epoch, ascending. From
///   Gloas on the caller leaves out slashed validators.
/// - `mix`: the randao mix at the end of the epoch before the previous epoch, as for committees.
pub fn compute_proposer(
    fork: ForkName,
    preset: &Preset,
    candidates: &[u32],
    effective_balance: impl Fn(ValidatorIndex) -> Gwei,
    mix: Root,
    slot: Slot,
) -> Option<ValidatorIndex> {
    let seed = slot_seed(slot.epoch(preset), mix, slot);
    let n = candidates.len() as u64;
    for i in 0..MAX_DRAWN {
        let at = compute_shuffled_index(i.checked_rem(n)?, n, seed, preset.shuffle_round_count)?;
        let candidate = ValidatorIndex::new(u64::from(*candidates.get(at as usize)?));
        if accepts(fork, effective_balance(candidate), seed, i) {
            return Some(candidate);
        }
    }
    None
}

/// The seed of one slot: `hash(get_seed(state, epoch, DOMAIN_BEACON_PROPOSER) + slot)`.
fn slot_seed(epoch: Epoch, mix: Root, slot: Slot) -> Root {
    let mut preimage = [0u8; 40];
    preimage[..32].copy_from_slice(compute_seed(DomainType::BeaconProposer, epoch, mix).as_slice());
    preimage[32..].copy_from_slice(&slot.as_u64().to_le_bytes());
    Root::from(sha256(&preimage))
}

/// Returns whether draw number `i` accepts a candidate with this effective balance.
///
/// A random value (one byte, from Electra on two bytes) is compared with the balance's share of the
/// maximum effective balance.
fn accepts(fork: ForkName, balance: Gwei, seed: Root, i: u64) -> bool {
    let wide = fork >= ForkName::Electra;
    let per_hash = if wide { 16 } else { 32 };
    let mut preimage = [0u8; 40];
    preimage[..32].copy_from_slice(seed.as_slice());
    preimage[32..].copy_from_slice(&(i / per_hash).to_le_bytes());
    let random = sha256(&preimage);
    let at = (i % per_hash) as usize;
    let (value, greatest, most) = if wide {
        (u16::from_le_bytes([random[2 * at], random[2 * at + 1]]), u16::MAX, MAX_EFFECTIVE_BALANCE_ELECTRA)
    } else {
        (u16::from(random[at]), u16::from(u8::MAX), MAX_EFFECTIVE_BALANCE)
    };
    u128::from(balance.as_u64()) * u128::from(greatest) >= u128::from(most) * u128::from(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH: u64 = 1_000_000_000;

    fn draw(fork: ForkName, candidates: &[u32], balance: impl Fn(u64) -> u64, slot: u64) -> Option<u64> {
        let balance = |validator: ValidatorIndex| Gwei::new(balance(validator.as_u64()) * ETH);
        let found = compute_proposer(fork, &Preset::MINIMAL, candidates, balance, Root::repeat_byte(7), Slot::new(slot));
        found.map(ValidatorIndex::as_u64)
    }

    #[test]
    fn nobody_proposes_where_there_is_nobody() {
        assert_eq!(draw(ForkName::Fulu, &[], |_| 32, 1), None);
        assert_eq!(draw(ForkName::Phase0, &[4], |_| 32, 1), Some(4));
    }

    /// A random value of zero accepts even a validator without balance. This happens rarely, and
    /// the number of draws is bounded.
    #[test]
    fn balances_of_nothing_end() {
        let found = (0..4).filter_map(|slot| draw(ForkName::Electra, &[1, 2, 3], |_| 0, slot)).count();
        assert!(found < 4, "{found}");
    }

    #[test]
    fn who_has_more_proposes_more() {
        let candidates: Vec<u32> = (0..100).collect();
        let rich = (0..2_000).filter(|slot| {
            let found = draw(ForkName::Electra, &candidates, |index| if index < 10 { 2_048 } else { 32 }, *slot);
            found.is_some_and(|index| index < 10)
        });
        // The ten rich validators hold 10 * 2 048 of 10 * 2 048 + 90 * 32 ETH, which is 88 %. With
        // 2 000 draws, six standard deviations are 5 %.
        let share = rich.count() as f64 / 2_000.0;
        assert!((0.83..0.93).contains(&share), "{share}");
    }
}
