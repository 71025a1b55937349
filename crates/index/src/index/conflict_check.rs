//! Compares one vote with everything stored of its validator: the list of votes outside the chain,
//! each of which is compared, and the chain. In the chain the votes that contradict a new one are
//! next to it:
//!
//! - at its target epoch there is a double vote;
//! - before it, it surrounds the votes whose source is greater;
//! - after it, the votes whose source is smaller surround it.
//!
//! So the walk continues from each neighbour as long as the compared vote contradicts, and every
//! pair is found.

use crate::newest_votes::NO_EPOCH;
use crate::tables::VoteSpan;
use crate::{Index, IndexError};
use consensus::{AttestationData, Epoch, Offence, Root, ValidatorIndex};
use verify::HistoryCheck;

/// The largest number of pairs that are reported per new vote and kind, with listed votes and again
/// with the chain: many old votes on the list must not hide the chain's. A vote with further pairs
/// is only counted. For example, a vote from epoch 0 to now surrounds all history.
pub(super) const MAX_PAIRS_PER_KIND: usize = 256;

/// The relation of a new vote to a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ConflictKind {
    Double,
    Surrounds,
    IsSurrounded,
}

impl ConflictKind {
    /// The bit for this kind in the row of an offender.
    pub fn offence_bit(self) -> u8 {
        match self {
            Self::Double => 1,
            Self::Surrounds | Self::IsSurrounded => 2,
        }
    }

    pub fn offence(self) -> Offence {
        match self {
            Self::Double => Offence::DoubleVote,
            Self::Surrounds | Self::IsSurrounded => Offence::SurroundVote,
        }
    }

    /// How a new vote contradicts a stored one. `None` if it does not.
    fn of(new: &VoteSpan, old: &VoteSpan) -> Option<Self> {
        if new.target == old.target {
            return (new.handle != old.handle).then_some(Self::Double);
        }
        if new.source < old.source && old.target < new.target {
            return Some(Self::Surrounds);
        }
        (old.source < new.source && new.target < old.target).then_some(Self::IsSurrounded)
    }
}

/// The result of comparing one vote.
#[derive(Debug, Default)]
pub(super) struct ConflictCheck {
    /// True if the vote is already stored.
    pub duplicate: bool,
    /// True if the vote contradicts nothing in the chain.
    pub joins: bool,
    pub rivals: Vec<(ConflictKind, VoteSpan)>,
    /// How many of the rivals are on the list of votes outside the chain. They come first.
    n_listed: usize,
    /// True if there are more pairs than [`MAX_PAIRS_PER_KIND`].
    pub more_pairs: bool,
}

impl ConflictCheck {
    /// Whether stored votes for the same target have sources on both sides of `source`. Then every
    /// vote that the new vote surrounds, or is surrounded by, also surrounds one of them or is
    /// surrounded by one of them.
    pub fn is_spanned(&self, source: Epoch) -> bool {
        let same_target = || self.rivals.iter().filter(|(kind, _)| *kind == ConflictKind::Double);
        same_target().any(|(_, rival)| rival.source <= source) && same_target().any(|(_, rival)| rival.source >= source)
    }

    /// Whether `old` contradicts the new vote. If it does, it is added to the rivals.
    fn compare(&mut self, new: &VoteSpan, old: &VoteSpan) -> bool {
        let Some(kind) = ConflictKind::of(new, old) else { return false };
        if self.rivals.iter().any(|(_, rival)| rival.handle == old.handle) {
            return true;
        }
        if self.rivals[self.n_listed..].iter().filter(|(rival, _)| *rival == kind).count() >= MAX_PAIRS_PER_KIND {
            self.more_pairs = true;
            // No more pairs of this kind are reported, so the walk ends here.
            return false;
        }
        self.rivals.push((kind, *old));
        true
    }
}

impl Index {
    /// A quick look at a validator's history, for a vote with its name and data of this root. It
    /// uses the validator's two newest votes and the list of its votes outside the chain, as far as
    /// they are in memory. It reads no disk.
    pub fn quick_check(&self, validator: ValidatorIndex, data: &AttestationData, data_root: Root) -> HistoryCheck {
        let (source, target) = (data.source.epoch, data.target.epoch);
        let head = self.newest.get(validator);
        let by_chain = head.quick_check(source, target, |handle| self.data.is_of(target, handle, data_root));
        if !head.has_exceptions() || by_chain == HistoryCheck::Contradicts {
            return by_chain;
        }
        let Some(list) = self.offenders.at_hand(validator) else { return HistoryCheck::Unclear };
        let surrounds =
            |vote: &VoteSpan| source < vote.source && vote.target < target || vote.source < source && target < vote.target;
        if list.votes.iter().any(surrounds) { HistoryCheck::Contradicts } else { by_chain }
    }

    /// Compares a vote with everything stored of its validator. May read the disk.
    pub(super) fn check_conflicts(&mut self, validator: ValidatorIndex, new: &VoteSpan) -> Result<ConflictCheck, IndexError> {
        let head = self.newest.get(validator);
        let mut check = ConflictCheck::default();
        let mut outside: Vec<u32> = Vec::new();
        let mut cut = false;
        if head.has_exceptions() {
            let list = self.offenders.list(&self.db, validator)?;
            check.duplicate = list.has(new.handle);
            cut = list.cut;
            for vote in &list.votes {
                check.compare(new, vote);
                outside.push(vote.handle);
            }
        }
        if check.duplicate {
            return Ok(check);
        }
        let n_listed = check.rivals.len();
        check.n_listed = n_listed;
        if cut {
            self.compare_with_rows(validator, new, &outside, &mut check)?;
            check.joins = check.rivals.len() == n_listed && !check.more_pairs;
            return Ok(check);
        }
        let (newest, second) = (head.newest(), head.second());
        let target = new.target;
        let is_late = second.is_some_and(|second| target < second.target);

        // Double votes. The two newest votes are known here; older ones are looked up in the rows.
        for known in [newest, second].into_iter().flatten().filter(|known| known.target == target) {
            check.duplicate |= known.handle == new.handle;
            check.compare(new, &known);
        }
        let clashes = check.rivals.len() > n_listed;
        if is_late || clashes {
            for known in self.votes_at(validator, target)? {
                check.duplicate |= known.handle == new.handle;
                check.compare(new, &known);
            }
        }
        if check.duplicate {
            return Ok(ConflictCheck { duplicate: true, ..ConflictCheck::default() });
        }

        self.compare_before(validator, new, newest, second, &outside, &mut check)?;
        if is_late {
            let end = second.map_or(Epoch::MAX, |second| second.target);
            let mut goes_on = true;
            self.chain_after(validator, target, end, &outside, &mut |known| {
                goes_on = check.compare(new, known);
                goes_on
            })?;
            for known in [second, newest].into_iter().flatten() {
                goes_on = goes_on && check.compare(new, &known);
            }
        } else if let Some(newest) = newest.filter(|newest| newest.target > target) {
            check.compare(new, &newest);
        }
        check.joins = check.rivals.len() == n_listed && !check.more_pairs;
        Ok(check)
    }

    /// Compares a vote with everything that is stored and not listed. If some of it is outside the
    /// chain, the two newest votes are not enough to decide.
    fn compare_with_rows(
        &self,
        validator: ValidatorIndex,
        new: &VoteSpan,
        outside: &[u32],
        check: &mut ConflictCheck,
    ) -> Result<(), IndexError> {
        for known in self.votes_at(validator, new.target)? {
            check.duplicate |= known.handle == new.handle;
            check.compare(new, &known);
        }
        if check.duplicate {
            *check = ConflictCheck { duplicate: true, ..ConflictCheck::default() };
            return Ok(());
        }
        self.chain_before(validator, new.target, outside, &mut |known| check.compare(new, known))?;
        self.chain_after(validator, new.target, NO_EPOCH, outside, &mut |known| check.compare(new, known))
    }

    fn compare_before(
        &self,
        validator: ValidatorIndex,
        new: &VoteSpan,
        newest: Option<VoteSpan>,
        second: Option<VoteSpan>,
        outside: &[u32],
        check: &mut ConflictCheck,
    ) -> Result<(), IndexError> {
        let mut below = new.target;
        for known in [newest, second].into_iter().flatten().filter(|known| known.target < new.target) {
            if !check.compare(new, &known) {
                return Ok(());
            }
            below = known.target;
        }
        // If the second vote does not exist, there is nothing older than the votes above.
        if second.is_some() {
            self.chain_before(validator, below, outside, &mut |known| check.compare(new, known))?;
        }
        Ok(())
    }
}
