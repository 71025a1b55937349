//! What single votes claim that are not proven yet: those that wait, or those that were dropped.
//! Two votes of one validator that contradict each other are recognised before either is proven.

use consensus::{Epoch, ValidatorIndex};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use verify::SingleVoteClaim;

/// Different votes of one validator that are kept. Anybody can send votes in its name, so their
/// number is bounded. A further one counts as a contradiction, which costs a signature check and
/// hides nothing.
const PER_VALIDATOR: usize = 8;

/// What one vote claims. The hash stands for all of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    source: Epoch,
    target: Epoch,
    data: u64,
}

impl Claim {
    /// Whether the validator could be slashed for both votes, if both were true. Source:
    /// phase0/beacon-chain.md, `is_slashable_attestation_data`.
    fn contradicts(&self, other: &Self) -> bool {
        let surrounds = |outer: &Self, inner: &Self| outer.source < inner.source && inner.target < outer.target;
        self.data != other.data && self.target == other.target || surrounds(self, other) || surrounds(other, self)
    }
}

/// Votes that are not proven yet, by validator.
#[derive(Debug, Default)]
pub(crate) struct ClaimedVotes {
    by_validator: HashMap<ValidatorIndex, Vec<Claim>>,
    hashing: RandomState,
}

impl ClaimedVotes {
    fn claim(&self, vote: &SingleVoteClaim<'_>) -> Claim {
        Claim { source: vote.source, target: vote.target, data: self.hashing.hash_one(vote.data) }
    }

    /// Number of validators with a vote.
    pub(crate) fn len(&self) -> usize {
        self.by_validator.len()
    }

    pub(crate) fn clear(&mut self) {
        self.by_validator.clear();
    }

    pub(crate) fn insert(&mut self, vote: &SingleVoteClaim<'_>) {
        let claim = self.claim(vote);
        let claims = self.by_validator.entry(vote.voter).or_default();
        if claims.len() < PER_VALIDATOR && !claims.contains(&claim) {
            claims.push(claim);
        }
    }

    pub(crate) fn remove(&mut self, vote: &SingleVoteClaim<'_>) {
        let claim = self.claim(vote);
        if let Some(claims) = self.by_validator.get_mut(&vote.voter) {
            claims.retain(|one| *one != claim);
            if claims.is_empty() {
                self.by_validator.remove(&vote.voter);
            }
        }
    }

    /// Whether a vote contradicts one of these, or is one too many of its validator. The target
    /// epochs of the votes that it contradicts are given to `rival`.
    pub(crate) fn contradicted_by(&self, vote: &SingleVoteClaim<'_>, mut rival: impl FnMut(Epoch)) -> bool {
        let Some(claims) = self.by_validator.get(&vote.voter) else { return false };
        let new = self.claim(vote);
        let mut found = claims.len() >= PER_VALIDATOR && !claims.contains(&new);
        for old in claims.iter().filter(|old| old.contradicts(&new)) {
            rival(old.target);
            found = true;
        }
        found
    }
}
