//! The few BLS operations that this crate needs, built on blst's safe API. Signatures are in G2 and
//! public keys in G1, with Ethereum's proof-of-possession scheme (phase0/beacon-chain.md, "BLS
//! signatures"; draft-irtf-cfrg-bls-signature).
//!
//! The point at infinity is refused everywhere: as a signature, as a key and as a sum of keys.

use blst::min_pk::{AggregatePublicKey, AggregateSignature, PublicKey, Signature};
use blst::{BLST_ERROR, MultiPoint, Pairing, blst_fp12, blst_p1_affine, blst_p2_affine};
use consensus::{Root, SignatureBytes};

const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// This bit of the first byte of a compressed point marks the point at infinity.
const INFINITY_FLAG: u8 = 0x40;
/// Number of bits of a random weight. A forged combination passes with probability 2^-64.
const WEIGHT_BITS: usize = 64;

/// Decompresses a signature. Returns `None` if the bytes are not a point of the curve, or are the
/// point at infinity. The group is not checked: see [`in_group`].
pub(crate) fn decompress(bytes: &SignatureBytes) -> Option<Signature> {
    if bytes[0] & INFINITY_FLAG != 0 {
        return None;
    }
    Signature::uncompress(bytes.as_slice()).ok()
}

pub(crate) fn compress(signature: &Signature) -> SignatureBytes {
    SignatureBytes::from(signature.compress())
}

/// Whether the signature is in the prime-order subgroup. The check takes 54 microseconds.
pub(crate) fn in_group(signature: &Signature) -> bool {
    signature.subgroup_check()
}

/// The sum of keys that are already validated. Returns `None` if there are none or if they cancel
/// out. A key and its negative cancel out, although each has its own proof of possession.
pub(crate) fn sum_keys(keys: &[PublicKey]) -> Option<PublicKey> {
    match keys {
        [] => return None,
        // A validated key is never the point at infinity.
        [one] => return Some(*one),
        _ => {}
    }
    let sum = keys.add().to_public_key();
    (sum.compress()[0] & INFINITY_FLAG == 0).then_some(sum)
}

/// The sum of signatures. Returns `None` if there are none or if they cancel out.
pub(crate) fn sum_signatures(points: &[Signature]) -> Option<Signature> {
    if points.is_empty() {
        return None;
    }
    let sum = points.add().to_signature();
    (sum.compress()[0] & INFINITY_FLAG == 0).then_some(sum)
}

/// The sum of weight times key. Both slices have the same length and are not empty.
pub(crate) fn weigh_keys(keys: &[PublicKey], weights: &[u64]) -> AggregatePublicKey {
    keys.mult(&scalars(weights), WEIGHT_BITS)
}

/// The sum of weight times signature. Both slices have the same length and are not empty.
pub(crate) fn weigh_signatures(points: &[Signature], weights: &[u64]) -> AggregateSignature {
    points.mult(&scalars(weights), WEIGHT_BITS)
}

fn scalars(weights: &[u64]) -> Vec<u8> {
    weights.iter().flat_map(|weight| weight.to_le_bytes()).collect()
}

/// One side of the equation `product of e(key_m, H(m)) = e(g, signature)`: the messages with their
/// keys. It can be computed in parts that are merged. The flag is false if blst reported an error.
pub(crate) struct Keys(Pairing<'static>, bool);

impl Keys {
    /// Hashes each message to the curve and computes its Miller loop.
    pub(crate) fn of(messages: &[(Root, PublicKey)]) -> Self {
        let mut pairing = Pairing::new(true, DST);
        let mut sound = true;
        for (message, key) in messages {
            let key: &blst_p1_affine = key.into();
            // `&()` stands for no signature, so blst leaves the signature out of this term.
            sound &= pairing.aggregate(key, false, &(), false, message.as_slice(), &[]) == BLST_ERROR::BLST_SUCCESS;
        }
        pairing.commit();
        Self(pairing, sound)
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.1 &= other.1 && self.0.merge(&other.0) == BLST_ERROR::BLST_SUCCESS;
    }

    /// Whether `signature` is the sum of the signatures of these keys over their messages. The
    /// caller must have checked that `signature` is in the group.
    pub(crate) fn signed(&self, signature: &Signature) -> bool {
        let mut right = blst_fp12::default();
        let point: &blst_p2_affine = signature.into();
        Pairing::aggregated(&mut right, point);
        self.1 && self.0.finalverify(Some(&right))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use blst::min_pk::SecretKey;

    /// The secret key with number `n`, for tests.
    pub(crate) fn secret(n: u64) -> SecretKey {
        let mut seed = [7u8; 32];
        seed[..8].copy_from_slice(&n.to_le_bytes());
        SecretKey::key_gen(&seed, &[]).unwrap()
    }

    pub(crate) fn sign(key: &SecretKey, message: Root) -> Signature {
        key.sign(message.as_slice(), DST, &[])
    }

    #[test]
    fn weighted_sums_keep_the_equation() {
        let messages = [Root::repeat_byte(1), Root::repeat_byte(2)];
        for n in [1u64, 2, 3, 31, 33, 70] {
            let keys: Vec<SecretKey> = (0..n).map(secret).collect();
            let publics: Vec<PublicKey> = keys.iter().map(SecretKey::sk_to_pk).collect();
            let weights: Vec<u64> = (0..n).map(|i| u64::MAX - i * 977).collect();
            let mut parts = Vec::new();
            let mut total: Option<AggregateSignature> = None;
            for message in messages {
                let points: Vec<Signature> = keys.iter().map(|key| sign(key, message)).collect();
                parts.push((message, weigh_keys(&publics, &weights).to_public_key()));
                let weighed = weigh_signatures(&points, &weights);
                match &mut total {
                    Some(total) => total.add_aggregate(&weighed),
                    None => total = Some(weighed),
                }
            }
            let total = total.unwrap().to_signature();
            let mut split = Keys::of(&parts[..1]);
            split.merge(Keys::of(&parts[1..]));
            assert!(split.signed(&total), "{n} keys");
            assert!(Keys::of(&parts).signed(&total), "{n} keys");
            parts[1].0 = Root::repeat_byte(3);
            assert!(!Keys::of(&parts).signed(&total), "{n} keys, one message changed");
        }
    }

    #[test]
    fn infinity_is_refused() {
        let mut infinity = SignatureBytes::ZERO;
        infinity[0] = 0xc0;
        assert!(decompress(&infinity).is_none());
        assert!(decompress(&SignatureBytes::ZERO).is_none());
        let key = secret(1).sk_to_pk();
        let mut negative = key.compress();
        negative[0] ^= 0x20;
        let negative = PublicKey::uncompress(&negative).unwrap();
        assert!(sum_keys(&[key, negative]).is_none());
        assert_eq!(sum_keys(&[key]), Some(key));
        assert!(sum_keys(&[]).is_none());
    }
}
