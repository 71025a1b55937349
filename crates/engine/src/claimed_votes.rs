//! What the single votes claim that wait and are not proven yet. Two votes of one validator that
//! contradict each other are recognised before either is proven.
//!
//! Anybody can send votes in any validator's name. So a claim costs its sender a contradiction only
//! if it really contradicts another one, and what is kept of one validator is bounded where it
//! would have to be searched.

use consensus::{Epoch, ValidatorIndex};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use verify::SingleVoteClaim;

/// Sources and targets that are kept of one validator, to recognise surround votes. An honest
/// validator has one or two votes that wait. What is not kept is recognised once it is proven.
const SPANS_PER_VALIDATOR: usize = 8;

/// A validator has one vote for each target epoch.
pub(crate) type VoteKey = (ValidatorIndex, Epoch);

/// Votes that are not proven yet.
#[derive(Debug, Default)]
pub(crate) struct ClaimedVotes {
    /// Hash of the data of each vote. If several have the same validator and target, it is the hash
    /// of the first.
    data: HashMap<VoteKey, u64>,
    /// Source and target of each vote, by validator.
    spans: HashMap<ValidatorIndex, Vec<(Epoch, Epoch)>>,
    hashing: RandomState,
}

impl ClaimedVotes {
    /// Number of validators and targets with a vote.
    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.spans.clear();
    }

    pub(crate) fn insert(&mut self, vote: &SingleVoteClaim<'_>) {
        self.insert_data(vote);
        let (spans, span) = (self.spans.entry(vote.voter).or_default(), (vote.source, vote.target));
        if spans.len() < SPANS_PER_VALIDATOR && !spans.contains(&span) {
            spans.push(span);
        }
    }

    /// Remembers a vote only to recognise other votes for its target. This is for votes that were
    /// dropped: nobody checks them, so what they say of their source must not outlast them.
    pub(crate) fn insert_data(&mut self, vote: &SingleVoteClaim<'_>) {
        let hash = self.hashing.hash_one(vote.data);
        self.data.entry((vote.voter, vote.target)).or_insert(hash);
    }

    pub(crate) fn remove(&mut self, vote: &SingleVoteClaim<'_>) {
        self.data.remove(&(vote.voter, vote.target));
        if let Some(spans) = self.spans.get_mut(&vote.voter) {
            spans.retain(|span| *span != (vote.source, vote.target));
            if spans.is_empty() {
                self.spans.remove(&vote.voter);
            }
        }
    }

    /// Whether the validator could be slashed for this vote and one of these, if both were true.
    /// `with` is called with the target epochs of the latter. Source: phase0/beacon-chain.md,
    /// `is_slashable_attestation_data`.
    pub(crate) fn contradicted_by(&self, vote: &SingleVoteClaim<'_>, mut with: impl FnMut(Epoch)) -> bool {
        let mut found = false;
        let mut note = |target| {
            with(target);
            found = true;
        };
        let differs = |data: &u64| *data != self.hashing.hash_one(vote.data);
        if self.data.get(&(vote.voter, vote.target)).is_some_and(differs) {
            note(vote.target);
        }
        for (source, target) in self.spans.get(&vote.voter).into_iter().flatten() {
            let surrounds = *source < vote.source && vote.target < *target;
            let is_surrounded = vote.source < *source && *target < vote.target;
            if surrounds || is_surrounded {
                note(*target);
            }
        }
        found
    }
}
