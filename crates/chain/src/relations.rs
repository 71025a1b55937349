//! Detects networks whose keys were not made independently of one another.
//!
//! In test networks the secret keys are often 1, 2, 3, .... The sums of different sets of such keys
//! can be equal: 1 + 4 = 2 + 3. A valid signature of one set of validators is then also valid for
//! another set. On such a network the signers of a signature must be known with certainty, not
//! guessed.

use blst::min_pk::{AggregatePublicKey, PublicKey};
use std::collections::HashSet;

/// Number of keys whose sums are compared. They are taken from the whole registry.
const SAMPLES: usize = 128;

/// Returns whether two sums of any two sample keys are equal.
///
/// 128 samples have 8 256 sums and 34 million pairs of sums. If the secret keys are numbers up to
/// some millions, in any order, there are fewer different sums than pairs, so two of them are
/// equal. Among independent keys no two sums are equal.
pub(crate) fn are_related(keys: &[PublicKey]) -> bool {
    let step = (keys.len() / SAMPLES).max(1);
    // An operator may use one key twice. Equal keys do not show that other keys are related, so
    // they are removed.
    let mut met = HashSet::new();
    let mut samples: Vec<&PublicKey> = keys.iter().step_by(step).take(SAMPLES).collect();
    samples.retain(|key| met.insert(key.compress()));
    let mut sums = HashSet::new();
    let mut pairs = samples.iter().enumerate().flat_map(|(nth, a)| samples.iter().skip(nth).map(move |b| [*a, *b]));
    pairs.any(|pair| {
        let sum = AggregatePublicKey::aggregate(&pair, false).map(|sum| sum.to_public_key().compress());
        sum.is_ok_and(|sum| !sums.insert(sum))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use blst::min_pk::SecretKey;

    fn related(secrets: impl Iterator<Item = SecretKey>) -> bool {
        are_related(&secrets.map(|secret| secret.sk_to_pk()).collect::<Vec<_>>())
    }

    fn number(n: u64) -> SecretKey {
        let mut bytes = [0u8; 32];
        bytes[24..].copy_from_slice(&n.to_be_bytes());
        SecretKey::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn keys_in_series_are_told_from_independent_ones() {
        assert!(related((1..65).map(number)));
        assert!(related((0..3).map(|n| number(1_000_003 + 7 * n))));
        // The distances between neighbours vary: keys were assigned to operators in turn, and in an
        // order that is not known.
        assert!(related((0..64).map(|n| number(1 + n / 4 + n % 4 * 16))));
        let shuffled = |seed: u64| move |n: u64| number(1 + (n * 40_503 + seed) % 65_536);
        assert!(related((0..4096).map(shuffled(7))));
        let scattered =
            |n: u64| number(1 + u64::from_be_bytes(consensus::sha256(&n.to_be_bytes())[..8].try_into().unwrap()) % 1_000_000);
        assert!(related((0..300).map(scattered)), "numbers up to a million");
        let independent = |n: u8| SecretKey::key_gen(&[n; 32], &[]).unwrap();
        assert!(!related((0..100).map(independent)));
        assert!(!related((0..2).map(|n| number(n + 1))), "two keys are always at some distance");
        assert!(!related(std::iter::empty()));
        // The same key three times. The distance is zero.
        assert!(!related((0..3).map(|_| number(9))));
    }
}
