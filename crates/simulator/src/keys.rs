//! Validators' keys: real BLS keys in arithmetic progression, so that a million keys cost only
//! additions.
//!
//! Validator `i` has the secret key `k + i`. Then
//!
//! - public keys follow by adding the generator: `pk(i + 1) = pk(i) + G`;
//! - signatures of one message follow by adding its hash: `sig(i + 1, m) = sig(i, m) + H(m)`, where
//!   `H(m)` is the signature of `m` by the secret key 1;
//! - the sum of the signatures of a set `S` is the signature by the key `|S| k + sum(S)`, so any
//!   aggregate costs one signing.
//!
//! `k` is below 2^232. Sums over a slot's committees (2^17 members, indices below 2^40) are
//! therefore below the group's order (about 2^254.9) and need no reduction.
//!
//! Sums of different sets of these keys can be equal, which never happens on a real network. A
//! watcher is more careful there. [`Keyring::spread`] makes keys without that.
//!
//! These keys are not secret: they follow from the scenario's seed.

use blst::min_pk::{AggregatePublicKey, AggregateSignature, PublicKey, SecretKey, Signature};
use blst::{blst_p1, blst_p2, p1_affines, p2_affines};
use consensus::{PubkeyBytes, Root, SignatureBytes, ValidatorIndex, sha256};

/// Ciphersuite of the consensus layer (phase0/beacon-chain.md, "BLS signatures").
const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// Number of points that are converted to affine form together, with one inversion for all of them.
const AFFINE_BATCH: usize = 8192;
/// Number of multiples of `H(m)` that [`Keyring::sign_each`] precomputes. A larger gap between two
/// validators costs more than one addition.
const STEPS: usize = 512;

/// All keys of a simulated network.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// `k` as little-endian limbs.
    base: [u64; 4],
    /// Whether the keys are `k + f(i)` with a hash `f` below 2^100, as independent as the keys of a
    /// real network, and not `k + i`.
    is_spread: bool,
}

impl Keyring {
    /// Creates the keys that belong to a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut preimage = b"slashwatch simulator keys".to_vec();
        preimage.extend_from_slice(&seed.to_le_bytes());
        let hash = sha256(&preimage);
        let mut base = [0; 4];
        for (limb, bytes) in base.iter_mut().zip(hash.chunks_exact(8)) {
            *limb = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        base[3] &= (1 << 40) - 1;
        // Validator 0 has the key `k` itself, which must not be 0.
        base[0] |= 1;
        Self { base, is_spread: false }
    }

    /// The keys 1, 2, 3 and so on, which the executable specification uses for its states and
    /// messages.
    pub fn of_the_specification() -> Self {
        Self { base: [1, 0, 0, 0], is_spread: false }
    }

    /// Keys that are not in a series. Sums of different keys are different, as on a real network.
    /// Public keys and signatures cost a multiplication each.
    pub fn spread(self) -> Self {
        Self { is_spread: true, ..self }
    }

    /// The secret key of one validator.
    pub fn secret(&self, validator: ValidatorIndex) -> SecretKey {
        self.sum_of(1, self.offset(validator))
    }

    fn offset(&self, validator: ValidatorIndex) -> u128 {
        if !self.is_spread {
            return u128::from(validator.as_u64());
        }
        let hash = sha256(&validator.as_u64().to_le_bytes());
        u128::from_le_bytes(hash[..16].try_into().expect("a hash has 32 bytes")) >> 28
    }

    /// One validator's signature over a signing root.
    pub fn sign(&self, validator: ValidatorIndex, signing_root: Root) -> SignatureBytes {
        compress(&self.secret(validator).sign(signing_root.as_slice(), DST, &[]))
    }

    /// The sum of the signatures of `validators`, each once, over one signing root. Without
    /// validators it is the point at infinity.
    pub fn sign_together(&self, validators: &[ValidatorIndex], signing_root: Root) -> SignatureBytes {
        if validators.is_empty() {
            return infinity_signature();
        }
        let sum = validators.iter().map(|validator| self.offset(*validator)).sum();
        compress(&self.sum_of(validators.len() as u64, sum).sign(signing_root.as_slice(), DST, &[]))
    }

    /// The compressed public keys of validators 0 to `n` - 1.
    pub fn pubkeys(&self, n: usize) -> Vec<PubkeyBytes> {
        self.public_keys(n).iter().map(|key| PubkeyBytes::from(key.to_bytes())).collect()
    }

    /// The public keys of validators 0 to `n` - 1. Each costs one addition and a share of an
    /// inversion.
    pub fn public_keys(&self, n: usize) -> Vec<PublicKey> {
        if self.is_spread {
            return (0..n as u64).map(|index| self.secret(ValidatorIndex::new(index)).sk_to_pk()).collect();
        }
        let generator = small_secret(1).sk_to_pk();
        let mut sum = AggregatePublicKey::from_public_key(&self.secret(ValidatorIndex::new(0)).sk_to_pk());
        let mut keys = Vec::with_capacity(n);
        let mut batch: Vec<blst_p1> = Vec::with_capacity(AFFINE_BATCH.min(n));
        while keys.len() < n {
            batch.clear();
            for _ in 0..AFFINE_BATCH.min(n - keys.len()) {
                batch.push(sum.into());
                // Without a group check this call cannot fail. The generator is in the group.
                let _ = sum.add_public_key(&generator, false);
            }
            keys.extend(p1_affines::from(&batch).as_slice().iter().map(|point| PublicKey::from(*point)));
        }
        keys
    }

    /// Each validator's own signature over one signing root. `validators` must be in ascending
    /// order. The step from one to the next is an addition of a precomputed multiple of `H(m)`.
    pub fn sign_each(&self, validators: &[ValidatorIndex], signing_root: Root) -> Vec<Signature> {
        if self.is_spread {
            return validators.iter().map(|one| self.secret(*one).sign(signing_root.as_slice(), DST, &[])).collect();
        }
        let Some(first) = validators.first() else { return Vec::new() };
        let steps = multiples(&small_secret(1).sign(signing_root.as_slice(), DST, &[]), STEPS);
        let start = self.secret(*first).sign(signing_root.as_slice(), DST, &[]);
        let mut sum = AggregateSignature::from_signature(&start);
        let mut at = first.as_u64();
        let mut signatures = Vec::with_capacity(validators.len());
        let mut batch: Vec<blst_p2> = Vec::with_capacity(AFFINE_BATCH.min(validators.len()));
        for part in validators.chunks(AFFINE_BATCH) {
            batch.clear();
            for validator in part {
                while at < validator.as_u64() {
                    let step = (validator.as_u64() - at).min(STEPS as u64);
                    // No group check is needed, because multiples of `H(m)` are in the group.
                    let _ = sum.add_signature(&steps[step as usize - 1], false);
                    at += step;
                }
                debug_assert_eq!(at, validator.as_u64(), "validators are in ascending order");
                batch.push(sum.into());
            }
            signatures.extend(p2_affines::from(&batch).as_slice().iter().map(|point| Signature::from(*point)));
        }
        signatures
    }

    /// The sum of the public keys of `validators`.
    pub fn aggregate_pubkey(&self, validators: &[ValidatorIndex]) -> PubkeyBytes {
        let sum = validators.iter().map(|validator| self.offset(*validator)).sum();
        PubkeyBytes::from(self.sum_of(validators.len().max(1) as u64, sum).sk_to_pk().to_bytes())
    }

    /// An endless series of signatures over one signing root by validators `first`, `first + 1` and
    /// so on. Each costs one addition.
    pub fn series(&self, first: ValidatorIndex, signing_root: Root) -> SignatureSeries {
        let start = self.secret(first).sign(signing_root.as_slice(), DST, &[]);
        let step = small_secret(1).sign(signing_root.as_slice(), DST, &[]);
        SignatureSeries { next: AggregateSignature::from_signature(&start), step }
    }

    /// The key `n k + offset`.
    fn sum_of(&self, n: u64, offset: u128) -> SecretKey {
        let mut limbs = [0u64; 4];
        let mut carry = 0u128;
        for (i, limb) in limbs.iter_mut().enumerate() {
            let added = if i < 2 { (offset >> (64 * i)) as u64 } else { 0 };
            let sum = u128::from(self.base[i]) * u128::from(n) + u128::from(added) + carry;
            *limb = sum as u64;
            carry = sum >> 64;
        }
        let mut big_endian = [0; 32];
        for (bytes, limb) in big_endian.chunks_exact_mut(8).zip(limbs.iter().rev()) {
            bytes.copy_from_slice(&limb.to_be_bytes());
        }
        SecretKey::from_bytes(&big_endian).expect("0 < n k + offset < group order: see the module's header")
    }
}

/// The first `n` multiples of `point`, beginning with `point` itself.
fn multiples(point: &Signature, n: usize) -> Vec<Signature> {
    let mut sum = AggregateSignature::from_signature(point);
    let mut points: Vec<blst_p2> = Vec::with_capacity(n);
    for _ in 0..n {
        points.push(sum.into());
        let _ = sum.add_signature(point, false);
    }
    p2_affines::from(&points).as_slice().iter().map(|point| Signature::from(*point)).collect()
}

/// An endless series of signatures of one message by consecutive validators, for load generators.
/// It needs no scalar multiplication.
#[derive(Clone)]
pub struct SignatureSeries {
    next: AggregateSignature,
    step: Signature,
}

impl Iterator for SignatureSeries {
    type Item = SignatureBytes;

    fn next(&mut self) -> Option<SignatureBytes> {
        let signature = compress(&self.next.to_signature());
        // Without a group check this call cannot fail. `H(m)` is in the group.
        let _ = self.next.add_signature(&self.step, false);
        Some(signature)
    }
}

/// The compressed point at infinity, which is the signature of an empty sync aggregate.
pub fn infinity_signature() -> SignatureBytes {
    let mut bytes = [0; 96];
    bytes[0] = 0xc0;
    SignatureBytes::from(bytes)
}

fn small_secret(number: u8) -> SecretKey {
    let mut bytes = [0; 32];
    bytes[31] = number;
    SecretKey::from_bytes(&bytes).expect("a small positive number is a key")
}

fn compress(signature: &Signature) -> SignatureBytes {
    SignatureBytes::from(signature.to_bytes())
}

/// Whether `signature` is the sum of the signatures of `pubkeys` over `signing_root`. The simulator
/// checks itself with it, using only blst and no code of the watcher.
pub fn verifies(pubkeys: &[PubkeyBytes], signing_root: Root, signature: &SignatureBytes) -> bool {
    let keys: Option<Vec<PublicKey>> = pubkeys.iter().map(|bytes| PublicKey::key_validate(bytes.as_slice()).ok()).collect();
    let (Some(keys), Ok(signature)) = (keys, Signature::sig_validate(signature.as_slice(), true)) else { return false };
    let keys: Vec<&PublicKey> = keys.iter().collect();
    signature.fast_aggregate_verify(true, signing_root.as_slice(), DST, &keys) == blst::BLST_ERROR::BLST_SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(numbers: &[u64]) -> Vec<ValidatorIndex> {
        numbers.iter().copied().map(ValidatorIndex::new).collect()
    }

    #[test]
    fn public_keys_in_series_are_those_of_the_secret_keys() {
        let keys = Keyring::from_seed(1);
        for (i, pubkey) in keys.pubkeys(20).iter().enumerate() {
            let direct = keys.secret(ValidatorIndex::new(i as u64)).sk_to_pk();
            assert_eq!(pubkey.as_slice(), direct.to_bytes());
        }
        assert_ne!(Keyring::from_seed(2).pubkeys(1), keys.pubkeys(1));
    }

    #[test]
    fn signatures_in_series_are_real() {
        let keys = Keyring::from_seed(3);
        let root = Root::repeat_byte(9);
        for (i, signature) in keys.series(ValidatorIndex::new(5), root).take(10).enumerate() {
            assert_eq!(signature, keys.sign(ValidatorIndex::new(5 + i as u64), root));
        }
    }

    #[test]
    fn signatures_of_many_at_once_are_those_of_each() {
        let keys = Keyring::from_seed(5);
        let root = Root::repeat_byte(8);
        let members = indices(&[0, 1, 2, 700, 3000, 2_499_999]);
        let each = keys.sign_each(&members, root);
        assert_eq!(each.len(), members.len());
        for (member, signature) in members.iter().zip(each) {
            assert_eq!(compress(&signature), keys.sign(*member, root), "{member}");
        }
        assert!(keys.sign_each(&[], root).is_empty());
        let spread = keys.spread();
        assert_eq!(compress(&spread.sign_each(&members[3..4], root)[0]), spread.sign(members[3], root));
        let pubkeys = spread.pubkeys(3);
        assert!(verifies(&pubkeys, root, &spread.sign_together(&members[..3], root)));
    }

    #[test]
    fn a_sum_signed_at_once_is_the_sum_of_the_signatures() {
        let keys = Keyring::from_seed(4);
        let root = Root::repeat_byte(7);
        let members = indices(&[3, 900, 17, 1_000_000]);
        let single: Vec<Signature> = members
            .iter()
            .map(|member| Signature::from_bytes(keys.sign(*member, root).as_slice()).expect("a signature"))
            .collect();
        let sum = AggregateSignature::aggregate(&single.iter().collect::<Vec<_>>(), true).expect("same group");
        assert_eq!(keys.sign_together(&members, root).as_slice(), sum.to_signature().to_bytes());
        let pubkeys: Vec<PubkeyBytes> =
            members.iter().map(|m| PubkeyBytes::from(keys.secret(*m).sk_to_pk().to_bytes())).collect();
        assert!(verifies(&pubkeys, root, &keys.sign_together(&members, root)));
        assert!(!verifies(&pubkeys[1..], root, &keys.sign_together(&members, root)));
        assert!(!verifies(&pubkeys, Root::ZERO, &keys.sign_together(&members, root)));
    }

    #[test]
    fn sums_over_the_greatest_slot_are_keys() {
        let keys = Keyring { base: [u64::MAX, u64::MAX, u64::MAX, (1 << 40) - 1], is_spread: false };
        let _ = keys.sum_of(1 << 17, 1 << 60);
    }
}
