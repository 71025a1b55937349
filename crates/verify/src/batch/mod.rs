//! The batch verifier: the only place where a [`Signed`] is made.
//!
//! # The idea
//! Every public key in the registry carries a proof of possession, so signatures over *equal* data add up: the sum of the
//! signatures verifies against the sum of the keys, and proves that each of the validators signed. Signatures over different
//! data share one product of pairings. So a whole batch is one equation:
//!
//! ```text
//! product over messages m of e( sum of r_u * K_u over its units u, H(m) )  =  e( g, sum of r_u * S_u over all units u )
//! ```
//!
//! A *unit* is what is proven as one thing, with a secret random 64-bit weight `r_u` and a group check of its own. Without
//! the weights somebody could add D to one signature and subtract it from another, pass the batch, and spoil two stored
//! proofs. What may be a unit:
//!
//! - an aggregate, a proposal, a randao reveal: always by itself;
//! - a single vote by itself ([`SinglesProof::RandomCombination`]): each is proven and may be forwarded;
//! - the singles of one committee with equal data, as a plain sum ([`SinglesProof::Sums`]): the *sum* is proven, and each
//!   validator in it is proven to have signed; the 96 bytes received from each are not (inside a unit two offset ones
//!   cancel). What is stored is exactly the sum that was proven.
//!
//! When the equation fails, the batch is split: between sending peers first, so that one forger does not make others wait
//! for long, then in halves, until single claims are judged. If the left half holds, the right one is known to be bad without
//! asking; but nobody is called a forger without having been asked alone.
//!
//! # Price
//! One pairing term per distinct message (about 0.5 ms with its hash to the curve) and one final exponentiation per batch;
//! 30 microseconds to decompress each signature; 54 for its group check and about 20 for its weight, unless summed.
//! `n` forgeries among `N` claims cost about `n log2(N/n)` further equations of about 1 ms.
//!
//! # Worked example
//! Peer A sends good votes a1 a2 a3, peer B a good b1 and a forged b2. The batch {a1 a2 a3 b1 b2} fails; split by peer, {a1 a2
//! a3} holds, so {b1 b2} is bad; {b1} holds, {b2} alone does not. Four equations.

mod claim;
mod harvest;
mod prove;
mod signed;
#[cfg(test)]
mod tests;

pub(crate) use claim::{Claim, Members};
pub(crate) use harvest::Harvest;
pub(crate) use prove::{Judged, Judgement, Method, prove};
pub use signed::Signed;
