//! Decides about a new vote by a validator's two newest votes.
//!
//! If both neighbours of a new vote are among them, they are enough to decide (see the crate's
//! documentation):
//!
//! ```text
//! newest (7,8), second (5,6)
//! (8,9): newer, 7 <= 8: joins      (7,8) same data: known           (3,5): older than both: ask
//! (6,9): 6 < 7: ask                (6,7): between, 5 <= 6 <= 7: joins
//! ```

use crate::epochs::same_block;
use verify::HistoryCheck;

/// Stands for "no vote".
pub(crate) const NONE: u32 = u32::MAX;

/// One remembered vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub source: u32,
    pub target: u32,
    pub handle: u32,
}

impl Remembered {
    pub const NONE: Self = Self { source: 0, target: NONE, handle: 0 };

    pub fn exists(&self) -> bool {
        self.target != NONE
    }

    pub fn get(self) -> Option<Self> {
        self.exists().then_some(self)
    }
}

/// The two newest votes of a validator's chain, with `newest.target > second.target`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewestVotes {
    newest: Remembered,
    second: Remembered,
    has_exceptions: bool,
}

impl NewestVotes {
    pub fn new(newest: Remembered, second: Remembered, has_exceptions: bool) -> Self {
        Self { newest, second, has_exceptions }
    }

    #[inline]
    pub fn newest(&self) -> Remembered {
        self.newest
    }

    #[inline]
    pub fn second(&self) -> Remembered {
        self.second
    }

    /// Whether the validator has an entry in `offenders`, that is, votes outside its chain.
    #[inline]
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Decides about a new vote by the two newest votes.
    #[inline]
    pub fn quick(&self, vote: Remembered) -> Quick {
        let (newest, second) = (self.newest(), self.second());
        if !newest.exists() {
            return self.joins(vote);
        }
        if vote.target >= newest.target {
            return match vote.target == newest.target {
                true if vote.handle == newest.handle => Quick::Same,
                false if vote.source >= newest.source => self.joins(vote),
                true | false => Quick::Ask,
            };
        }
        if !second.exists() {
            return if vote.source <= newest.source { self.joins(vote) } else { Quick::Ask };
        }
        if vote.target == second.target && vote.handle == second.handle {
            return Quick::Same;
        }
        if vote.target > second.target && second.source <= vote.source && vote.source <= newest.source {
            return self.joins(vote);
        }
        Quick::Ask
    }

    /// What the two newest votes show about a vote. This costs almost nothing, and the result may
    /// be `Unclear`. `is_same` returns whether the vote is for the data with this handle, or `None`
    /// if the data is not in memory.
    pub fn quick_check(&self, source: u64, target: u64, is_same: impl Fn(u32) -> Option<bool>) -> HistoryCheck {
        let contradicts = |yes: bool| if yes { HistoryCheck::Contradicts } else { HistoryCheck::Fits };
        let span = |vote: Remembered| (u64::from(vote.source), u64::from(vote.target));
        let (Some(newest), second) = (self.newest.get(), self.second.get()) else { return HistoryCheck::Fits };
        if let Some(same) = [Some(newest), second].into_iter().flatten().find(|vote| u64::from(vote.target) == target) {
            return is_same(same.handle).map_or(HistoryCheck::Unclear, |same| contradicts(!same));
        }
        let ((newest_source, newest_target), second) = (span(newest), second.map(span));
        if target > newest_target {
            // The newest vote has the greatest source of the chain.
            return contradicts(source < newest_source);
        }
        match second {
            Some((second_source, second_target)) if target < second_target => {
                if second_source < source {
                    HistoryCheck::Contradicts
                } else {
                    HistoryCheck::Unclear
                }
            }
            Some((second_source, _)) => contradicts(source < second_source || newest_source < source),
            None => contradicts(newest_source < source),
        }
    }

    #[inline]
    fn joins(&self, vote: Remembered) -> Quick {
        Quick::Joins { first_of_block: !self.newest.exists() || !same_block(self.newest.target, vote.target) }
    }

    /// Whether reading the epochs from `tail_from` on gives this head.
    pub fn is_told_by(&self, tail_from: u32) -> bool {
        let told = |vote: Remembered| !vote.exists() || vote.target >= tail_from;
        told(self.newest) && told(self.second)
    }

    /// The newest and the second vote after `vote`, which is part of the chain, was added. `None`
    /// if it is not among the two newest.
    #[inline]
    pub fn with(&self, vote: Remembered) -> Option<[Remembered; 2]> {
        let is_newer = |than: Remembered| !than.exists() || vote.target > than.target;
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
    Ask,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(votes: &[(u32, u32)]) -> NewestVotes {
        let vote = |at: usize| {
            votes.get(at).map_or(Remembered::NONE, |(source, target)| Remembered {
                source: *source,
                target: *target,
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
            assert_eq!(head.quick_check(vote.0, vote.1, other), expected, "{vote:?} after {head:?}");
        }
        assert_eq!((two.quick_check(7, 8, |_| Some(true)), two.quick_check(7, 8, |_| None)), (Fits, Unclear));
    }

    proptest! {
        /// Without finality, with competing heads or with late votes: whatever the next votes of an
        /// honest validator are, none of them is taken for a contradiction.
        #[test]
        fn honest_votes_are_never_taken_for_contradictions(steps in prop::collection::vec((0u32..3, 0u32..3), 1..40)) {
            let (mut chain, mut source, mut target) = (Vec::<(u32, u32)>::new(), 10, 20);
            for (justified, passed) in steps {
                source = (source + justified).min(target);
                target += 1 + passed;
                chain.push((source, target));
            }
            for known in 0..chain.len() {
                let newest: Vec<(u32, u32)> = chain[..known].iter().rev().take(2).copied().collect();
                for (source, target) in &chain {
                    let quick_check = head(&newest).quick_check(u64::from(*source), u64::from(*target), |_| Some(true));
                    prop_assert_ne!(quick_check, HistoryCheck::Contradicts);
                }
            }
        }
    }
}
