//! The batch verifier: the only place where a [`Signed`] is made.
//!
//! # The idea
//! Every public key in the registry comes with a proof of possession, so signatures over *equal*
//! data can be added up. The sum of the signatures is valid for the sum of the keys, and this
//! proves that each of the validators signed. Signatures over different data share one product of
//! pairings. So a whole batch is one equation:
//!
//! ```text
//!   product over messages m of e( sum of r_u * K_u over the units u of m, H(m) )
//! = e( g, sum of r_u * S_u over all units u )
//! ```
//!
//! A *unit* is what is proven as one thing. It has a secret random 64-bit weight `r_u` and its own
//! group check. Without the weights an attacker could add a point D to one signature and subtract
//! it from another. Both would pass in the batch, and two stored proofs would be invalid. These can
//! be a unit:
//!
//! - an aggregate, a proposal or a randao reveal: always by itself;
//! - a single vote by itself ([`SinglesProof::RandomCombination`]): each one is proven and may be
//!   forwarded;
//! - the single votes of one committee with equal data, as a plain sum ([`SinglesProof::Sums`]):
//!   the *sum* is proven, and so it is proven that each of its validators signed. The 96 bytes that
//!   were received from each validator are not proven, because two errors inside one unit can
//!   cancel out. What is stored is exactly the sum that was proven.
//!
//! If the equation fails, the batch is split. It is first split between the sending peers, so that
//! one forger does not delay the others for long. Then it is split in halves, until single claims
//! are tested. If the left half holds, the right half must be bad, so it is not tested. But a claim
//! is called forged only after it was tested by itself.
//!
//! # Price
//! There is one pairing term for each distinct message (about 0.5 ms with its hash to the curve)
//! and one final exponentiation for each batch. Each signature takes 30 microseconds to decompress.
//! Each unit takes 54 microseconds for its group check and about 20 for its weight. `n` forgeries
//! among `N` claims cost about `n log2(N/n)` further equations of about 1 ms each.
//!
//! # Worked example
//! Peer A sends the good votes a1, a2 and a3. Peer B sends a good vote b1 and a forged vote b2. The
//! batch {a1 a2 a3 b1 b2} fails and is split by peer. {a1 a2 a3} holds, so {b1 b2} is bad and is
//! split. {b1} holds, and {b2} fails. These are four equations.

mod claim;
mod claim_set;
mod prove;
mod proven_claims;
mod signed;
#[cfg(test)]
mod tests;

pub(crate) use claim::{ClaimedSigners, SignatureClaim};
pub(crate) use claim_set::{ClaimRef, ClaimSet};
pub(crate) use prove::{BatchResult, ClaimResult, prove_claims};
pub(crate) use proven_claims::ProvenClaims;
pub use signed::Signed;
