//! Decides about a new vote by a validator's two newest votes.
//!
//! If both neighbours of a new vote are among them, they are enough to decide (see the crate's
//! documentation):
//!
//! ```text
//! newest (7,8), second (5,6)
//! (8,9): newer, 7 <= 8: joins      (7,8) same data: known           (3,5): older than both: unclear
//! (6,9): 6 < 7: unclear               (6,7): between, 5 <= 6 <= 7: joins
//! ```

use crate::epochs::same_block;
use crate::tables::VoteSpan;
use consensus::Epoch;
use verify::HistoryCheck;

/// Stands for "no vote". Epochs from this one on are never remembered.
pub(crate) const NO_EPOCH: Epoch = Epoch::new(u32::MAX as u64);

/// Stands for "no vote" where a vote is remembered.
pub(super) const NO_VOTE: VoteSpan = VoteSpan { source: Epoch::new(0), target: NO_EPOCH, handle: 0 };

/// Whether a remembered vote is one, and not [`NO_VOTE`].
pub(super) fn exists(vote: VoteSpan) -> bool {
    vote.target != NO_EPOCH
}

/// The two newest votes of a validator's chain, with `newest.target > second.target`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewestVotes {
    newest: VoteSpan,
    second: VoteSpan,
    has_exceptions: bool,
}

impl NewestVotes {
    pub fn new(newest: VoteSpan, second: VoteSpan, has_exceptions: bool) -> Self {
        Self { newest, second, has_exceptions }
    }

    #[inline]
    pub fn newest(&self) -> Option<VoteSpan> {
        exists(self.newest).then_some(self.newest)
    }

    #[inline]
    pub fn second(&self) -> Option<VoteSpan> {
        exists(self.second).then_some(self.second)
    }

    /// Whether the validator has an entry in `offenders`, that is, votes outside its chain.
    #[inline]
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Decides about a new vote by the two newest votes.
    #[inline]
    pub fn decide(&self, vote: VoteSpan) -> Quick {
        let (newest, second) = (self.newest, self.second);
        if !exists(newest) {
            return self.joins(vote);
        }
        if vote.target >= newest.target {
            return match vote.target == newest.target {
                true if vote.handle == newest.handle => Quick::Same,
                false if vote.source >= newest.source => self.joins(vote),
                true | false => Quick::Unclear,
            };
        }
        if !exists(second) {
            return if vote.source <= newest.source { self.joins(vote) } else { Quick::Unclear };
        }
        if vote.target == second.target && vote.handle == second.handle {
            return Quick::Same;
        }
        if vote.target > second.target && second.source <= vote.source && vote.source <= newest.source {
            return self.joins(vote);
        }
        Quick::Unclear
    }

    /// What the two newest votes show about a vote. This costs almost nothing, and the result may
    /// be `Unclear`. `is_same` returns whether the vote is for the data with this handle, or `None`
    /// if the data is not in memory.
    pub fn quick_check(&self, source: Epoch, target: Epoch, is_same: impl Fn(u32) -> Option<bool>) -> HistoryCheck {
        let contradicts = |yes: bool| if yes { HistoryCheck::Contradicts } else { HistoryCheck::Fits };
        let (Some(newest), second) = (self.newest(), self.second()) else { return HistoryCheck::Fits };
        if let Some(same) = [Some(newest), second].into_iter().flatten().find(|vote| vote.target == target) {
            return is_same(same.handle).map_or(HistoryCheck::Unclear, |same| contradicts(!same));
        }
        if target > newest.target {
            // The newest vote has the greatest source of the chain.
            return contradicts(source < newest.source);
        }
        match second {
            Some(second) if target < second.target => {
                if second.source < source {
                    HistoryCheck::Contradicts
                } else {
                    HistoryCheck::Unclear
                }
            }
            Some(second) => contradicts(source < second.source || newest.source < source),
            None => contradicts(newest.source < source),
        }
    }

    #[inline]
    fn joins(&self, vote: VoteSpan) -> Quick {
        Quick::Joins { first_of_block: !exists(self.newest) || !same_block(self.newest.target, vote.target) }
    }

    /// Whether reading the epochs from `tail_from` on gives this head.
    pub fn is_in_tail(&self, tail_from: Epoch) -> bool {
        [self.newest, self.second].into_iter().all(|vote| !exists(vote) || vote.target >= tail_from)
    }

    /// The newest and the second vote after `vote`, which is part of the chain, was added. `None`
    /// if it is not among the two newest.
    #[inline]
    pub fn with(&self, vote: VoteSpan) -> Option<[VoteSpan; 2]> {
        let is_newer = |than: VoteSpan| !exists(than) || vote.target > than.target;
        if is_newer(self.newest) {
            return Some([vote, self.newest]);
        }
        (vote.target < self.newest.target && is_newer(self.second)).then_some([self.newest, vote])
    }
}

/// What the two newest votes show about a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// The vote is one of them.
    Same,
    /// The vote fits the chain. `first_of_block` is true if the newest vote so far is not in the
    /// same smallest block of the summary.
    Joins { first_of_block: bool },
    /// The vote contradicts one of them, or it is older than both, or the validator has votes
    /// outside its chain.
    Unclear,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(votes: &[(u64, u64)]) -> NewestVotes {
        let vote = |at: usize| {
            votes.get(at).map_or(NO_VOTE, |(source, target)| VoteSpan {
                source: Epoch::new(*source),
                target: Epoch::new(*target),
                handle: at as u32,
            })
        };
        NewestVotes::new(vote(0), vote(1), false)
    }

    #[test]
    fn a_quick_check_tells_what_the_two_newest_tell() {
        use HistoryCheck::{Contradicts, Fits, Unclear};
        let (none, one, two) = (head(&[]), head(&[(7, 8)]), head(&[(7, 8), (5, 6)]));
        let other = |_| Some(false);
        for (head, vote, expected) in [
            (none, (0, 9), Fits),
            (one, (8, 9), Fits),
            (one, (7, 9), Fits),
            (one, (6, 9), Contradicts),
            (one, (5, 6), Fits),
            (one, (u64::MAX, 6), Contradicts),
            (two, (6, 7), Fits),
            (two, (4, 7), Contradicts),
            (two, (8, 7), Contradicts),
            (two, (4, 5), Unclear),
            (two, (6, 5), Contradicts),
            (two, (7, 8), Contradicts),
            (two, (5, 6), Contradicts),
            (two, (0, u64::MAX), Contradicts),
        ] {
            assert_eq!(head.quick_check(Epoch::new(vote.0), Epoch::new(vote.1), other), expected, "{vote:?} after {head:?}");
        }
        let (seven, eight) = (Epoch::new(7), Epoch::new(8));
        assert_eq!((two.quick_check(seven, eight, |_| Some(true)), two.quick_check(seven, eight, |_| None)), (Fits, Unclear));
    }

    proptest! {
        /// Without finality, with competing heads or with late votes: whatever the next votes of an
        /// honest validator are, none of them is taken for a contradiction.
        #[test]
        fn honest_votes_are_never_taken_for_contradictions(steps in prop::collection::vec((0u64..3, 0u64..3), 1..40)) {
            let (mut chain, mut source, mut target) = (Vec::<(u64, u64)>::new(), 10, 20);
            for (justified, passed) in steps {
                source = (source + justified).min(target);
                target += 1 + passed;
                chain.push((source, target));
            }
            for known in 0..chain.len() {
                let newest: Vec<(u64, u64)> = chain[..known].iter().rev().take(2).copied().collect();
                for (source, target) in &chain {
                    let check = head(&newest).quick_check(Epoch::new(*source), Epoch::new(*target), |_| Some(true));
                    prop_assert_ne!(check, HistoryCheck::Contradicts);
                }
            }
        }
    }
}
