//! Judges one vote against everything stored of its validator: the list of votes outside the chain,
//! each of which is compared, and the chain. In the chain the votes that contradict a new one are
//! next to it:
//!
//! - at its target epoch there is a double vote;
//! - before it, it surrounds the votes whose source is greater;
//! - after it, the votes whose source is smaller surround it.
//!
//! So the walk continues from each neighbour as long as the compared vote contradicts, and every
//! pair is found.

use super::past_votes::PastVote;
use crate::newest_votes::{NONE, Remembered};
use crate::tables::{DataRow, OutsideVote};
use crate::{Index, IndexError};
use consensus::{AttestationData, Offence, Root, ValidatorIndex};
use verify::HistoryCheck;

/// The largest number of pairs that are reported per new vote and kind, with listed votes and again
/// with the chain: many old votes on the list must not hide the chain's. A vote with further pairs
/// is only counted. For example, a vote from epoch 0 to now surrounds all history.
pub(crate) const MAX_PAIRS_PER_KIND: usize = 256;

/// The relation of a new vote to a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ConflictKind {
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

    fn of(new: &DataRow, old: &PastVote) -> Option<Self> {
        let (source, target) = (new.source(), new.target());
        if target == old.target {
            return (new.handle != old.handle).then_some(Self::Double);
        }
        if source < old.source && old.target < target {
            return Some(Self::Surrounds);
        }
        (old.source < source && target < old.target).then_some(Self::IsSurrounded)
    }
}

/// A stored vote that contradicts a new one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConflictingVote {
    pub kind: ConflictKind,
    pub source: u64,
    pub target: u64,
    pub handle: u32,
}

/// The result of judging one vote.
#[derive(Debug, Default)]
pub(crate) struct ConflictCheck {
    /// True if the vote is already stored.
    pub duplicate: bool,
    /// True if the vote contradicts nothing in the chain.
    pub joins: bool,
    pub rivals: Vec<ConflictingVote>,
    /// How many of the rivals are on the list of votes outside the chain. They come first.
    n_listed: usize,
    /// True if there are more pairs than [`MAX_PAIRS_PER_KIND`].
    pub more_pairs: bool,
}

impl ConflictCheck {
    /// The kinds of offence that the vote shows, if there is proof of the rivals.
    pub fn kinds(&self) -> u8 {
        self.rivals.iter().fold(0, |kinds, rival| kinds | rival.kind.offence_bit())
    }

    /// Whether stored votes for the same target have sources on both sides of `source`. Then every
    /// vote that the new vote surrounds, or is surrounded by, also surrounds one of them or is
    /// surrounded by one of them.
    pub fn is_spanned(&self, source: u64) -> bool {
        let same_target = || self.rivals.iter().filter(|rival| rival.kind == ConflictKind::Double);
        same_target().any(|rival| rival.source <= source) && same_target().any(|rival| rival.source >= source)
    }

    /// Whether `old` contradicts the new vote. If it does, it is added to the rivals.
    fn compare(&mut self, new: &DataRow, old: &PastVote) -> bool {
        let Some(kind) = ConflictKind::of(new, old) else { return false };
        if self.rivals.iter().any(|rival| rival.handle == old.handle) {
            return true;
        }
        if self.rivals[self.n_listed..].iter().filter(|rival| rival.kind == kind).count() >= MAX_PAIRS_PER_KIND {
            self.more_pairs = true;
            // No more pairs of this kind are reported, so the walk ends here.
            return false;
        }
        self.rivals.push(ConflictingVote { kind, source: old.source, target: old.target, handle: old.handle });
        true
    }
}

impl Index {
    /// A quick look at a validator's history, for a vote with its name and data of this root. It
    /// uses the validator's two newest votes and the list of its votes outside the chain, as far as
    /// they are in memory. It reads no disk.
    pub fn quick_check(&self, validator: ValidatorIndex, data: &AttestationData, data_root: Root) -> HistoryCheck {
        let Some(validator) = u32::try_from(validator.as_u64()).ok() else { return HistoryCheck::Fits };
        let (source, target) = (data.source.epoch.as_u64(), data.target.epoch.as_u64());
        let head = self.newest.get(validator);
        let by_chain = head.quick_check(source, target, |handle| self.data.is_of(target, handle, data_root));
        if !head.has_exceptions() || by_chain == HistoryCheck::Contradicts {
            return by_chain;
        }
        let Some(list) = self.offenders.at_hand(validator) else { return HistoryCheck::Unclear };
        let surrounds =
            |vote: &OutsideVote| source < vote.source && vote.target < target || vote.source < source && target < vote.target;
        if list.votes.iter().any(surrounds) { HistoryCheck::Contradicts } else { by_chain }
    }

    /// Compares a vote with everything stored of its validator. May read the disk.
    pub(crate) fn judge(&mut self, validator: u32, new: &DataRow) -> Result<ConflictCheck, IndexError> {
        let head = self.newest.get(validator);
        let mut judged = ConflictCheck::default();
        let mut outside: Vec<u32> = Vec::new();
        let mut cut = false;
        if head.has_exceptions() {
            let list = self.offenders.list(&self.db, validator)?;
            judged.duplicate = list.has(new.handle);
            cut = list.cut;
            for vote in &list.votes {
                judged.compare(new, &PastVote { source: vote.source, target: vote.target, handle: vote.handle });
                outside.push(vote.handle);
            }
        }
        if judged.duplicate {
            return Ok(judged);
        }
        let n_listed = judged.rivals.len();
        judged.n_listed = n_listed;
        if cut {
            self.compare_with_rows(validator, new, &outside, &mut judged)?;
            judged.joins = judged.rivals.len() == n_listed && !judged.more_pairs;
            return Ok(judged);
        }
        let (newest, second) = (head.newest().get(), head.second().get());
        let target = new.target();
        let is_late = second.is_some_and(|second| target < u64::from(second.target));

        // Double votes. The two newest votes are known here; older ones are looked up in the rows.
        for known in [newest, second].into_iter().flatten().map(PastVote::from).filter(|known| known.target == target) {
            judged.duplicate |= known.handle == new.handle;
            judged.compare(new, &known);
        }
        let clashes = judged.rivals.len() > n_listed;
        if is_late || clashes {
            for known in self.votes_at(validator, target)? {
                judged.duplicate |= known.handle == new.handle;
                judged.compare(new, &known);
            }
        }
        if judged.duplicate {
            return Ok(ConflictCheck { duplicate: true, ..ConflictCheck::default() });
        }

        self.compare_before(validator, new, newest, second, &outside, &mut judged)?;
        if is_late {
            let second = second.map_or(u64::MAX, |second| u64::from(second.target));
            let mut goes_on = true;
            self.chain_after(validator, target, second, &outside, &mut |known| {
                goes_on = judged.compare(new, known);
                goes_on
            })?;
            for known in [head.second(), head.newest()].into_iter().filter_map(Remembered::get).map(PastVote::from) {
                goes_on = goes_on && judged.compare(new, &known);
            }
        } else if let Some(newest) = newest.map(PastVote::from).filter(|newest| newest.target > target) {
            judged.compare(new, &newest);
        }
        judged.joins = judged.rivals.len() == n_listed && !judged.more_pairs;
        Ok(judged)
    }

    /// Compares a vote with everything that is stored and not listed. If some of it is outside the
    /// chain, the two newest votes are not enough to decide.
    fn compare_with_rows(
        &self,
        validator: u32,
        new: &DataRow,
        outside: &[u32],
        judged: &mut ConflictCheck,
    ) -> Result<(), IndexError> {
        for known in self.votes_at(validator, new.target())? {
            judged.duplicate |= known.handle == new.handle;
            judged.compare(new, &known);
        }
        if judged.duplicate {
            *judged = ConflictCheck { duplicate: true, ..ConflictCheck::default() };
            return Ok(());
        }
        self.chain_before(validator, new.target(), outside, &mut |known| judged.compare(new, known))?;
        self.chain_after(validator, new.target(), u64::from(NONE), outside, &mut |known| judged.compare(new, known))
    }

    fn compare_before(
        &self,
        validator: u32,
        new: &DataRow,
        newest: Option<Remembered>,
        second: Option<Remembered>,
        outside: &[u32],
        judged: &mut ConflictCheck,
    ) -> Result<(), IndexError> {
        let mut below = new.target();
        for known in [newest, second].into_iter().flatten().map(PastVote::from).filter(|known| known.target < new.target()) {
            if !judged.compare(new, &known) {
                return Ok(());
            }
            below = known.target;
        }
        // If the second vote does not exist, there is nothing older than the votes above.
        if second.is_some() {
            self.chain_before(validator, below, outside, &mut |known| judged.compare(new, known))?;
        }
        Ok(())
    }
}
