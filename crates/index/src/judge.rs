//! One vote against everything stored of its validator: the list of votes outside the chain, compared one by one, and the
//! chain, where the votes that contradict a new one lie next to it:
//!
//! - at its target epoch: a double vote;
//! - before it, as long as their source is greater: it surrounds them;
//! - after it, as long as their source is less: they surround it.
//!
//! So the walk goes on from each neighbour while the comparison still contradicts, and every pair is named.

use crate::data::DataRow;
use crate::heads::{NONE, Remembered};
use crate::offenders::Listed;
use crate::walk::Known;
use crate::{Index, IndexError};
use consensus::{AttestationData, Offence, Root, ValidatorIndex};
use verify::Glance;

/// Pairs named per new vote and kind; more are counted, not named. A vote from epoch 0 to now surrounds all history.
pub(crate) const MAX_PAIRS_PER_KIND: usize = 256;

/// What a new vote does to a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Double,
    Surrounds,
    IsSurrounded,
}

impl Kind {
    /// As kept in an offender's row.
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

    fn of(new: &DataRow, old: &Known) -> Option<Self> {
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
pub(crate) struct Rival {
    pub kind: Kind,
    pub source: u64,
    pub target: u64,
    pub handle: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// The vote is known already.
    pub duplicate: bool,
    /// It contradicts nothing in the chain.
    pub joins: bool,
    pub rivals: Vec<Rival>,
    /// There are pairs beyond [`MAX_PAIRS_PER_KIND`].
    pub more_pairs: bool,
}

impl Judged {
    /// Kinds of offence it shows, if there is proof of the rivals.
    pub fn kinds(&self) -> u8 {
        self.rivals.iter().fold(0, |kinds, rival| kinds | rival.kind.offence_bit())
    }

    /// Stored votes for the same target have sources on both sides of this one, so whatever it surrounds or is surrounded by
    /// surrounds or is surrounded by one of them, too.
    pub fn is_spanned(&self, source: u64) -> bool {
        let same_target = || self.rivals.iter().filter(|rival| rival.kind == Kind::Double);
        same_target().any(|rival| rival.source <= source) && same_target().any(|rival| rival.source >= source)
    }

    /// Says whether `old` contradicts; takes it in if so.
    fn compare(&mut self, new: &DataRow, old: &Known) -> bool {
        let Some(kind) = Kind::of(new, old) else { return false };
        if self.rivals.iter().any(|rival| rival.handle == old.handle) {
            return true;
        }
        if self.rivals.iter().filter(|rival| rival.kind == kind).count() >= MAX_PAIRS_PER_KIND {
            self.more_pairs = true;
            // No more of this kind: the walk ends here.
            return false;
        }
        self.rivals.push(Rival { kind, source: old.source, target: old.target, handle: old.handle });
        true
    }
}

impl Index {
    /// What a validator's history says at a glance about a vote in its name, for data with this root: by its two newest votes
    /// and the list of those outside its chain, as far as they are in memory. Reads no disk.
    pub fn glance(&self, validator: ValidatorIndex, data: &AttestationData, data_root: Root) -> Glance {
        let Some(validator) = u32::try_from(validator.as_u64()).ok() else { return Glance::Fits };
        let (source, target) = (data.source.epoch.as_u64(), data.target.epoch.as_u64());
        let head = self.heads.get(validator);
        let by_chain = head.glance(source, target, |handle| self.data.is_of(target, handle, data_root));
        if !head.has_exceptions() || by_chain == Glance::Contradicts {
            return by_chain;
        }
        let Some(list) = self.offenders.at_hand(validator) else { return Glance::Unclear };
        let surrounds =
            |vote: &Listed| source < vote.source && vote.target < target || vote.source < source && target < vote.target;
        if list.votes.iter().any(surrounds) { Glance::Contradicts } else { by_chain }
    }

    pub(crate) fn judge(&mut self, validator: u32, new: &DataRow) -> Result<Judged, IndexError> {
        let head = self.heads.get(validator);
        let mut judged = Judged::default();
        let mut outside: Vec<u32> = Vec::new();
        let mut cut = false;
        if head.has_exceptions() {
            let list = self.offenders.list(&self.db, validator)?;
            judged.duplicate = list.has(new.handle);
            cut = list.cut;
            for vote in &list.votes {
                judged.compare(new, &Known { source: vote.source, target: vote.target, handle: vote.handle });
                outside.push(vote.handle);
            }
        }
        if judged.duplicate {
            return Ok(judged);
        }
        let n_listed = judged.rivals.len();
        if cut {
            self.compare_with_rows(validator, new, &outside, &mut judged)?;
            judged.joins = judged.rivals.len() == n_listed && !judged.more_pairs;
            return Ok(judged);
        }
        let (newest, second) = (head.newest().get(), head.second().get());
        let target = new.target();
        let is_late = second.is_some_and(|second| target < u64::from(second.target));

        // The same target. The two newest know theirs; older ones are looked up.
        for known in [newest, second].into_iter().flatten().map(Known::from).filter(|known| known.target == target) {
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
            return Ok(Judged { duplicate: true, ..Judged::default() });
        }

        self.compare_before(validator, new, newest, second, &outside, &mut judged)?;
        if is_late {
            let second = second.map_or(u64::MAX, |second| u64::from(second.target));
            let mut goes_on = true;
            self.chain_after(validator, target, second, &outside, &mut |known| {
                goes_on = judged.compare(new, known);
                goes_on
            })?;
            for known in [head.second(), head.newest()].into_iter().filter_map(Remembered::get).map(Known::from) {
                goes_on = goes_on && judged.compare(new, &known);
            }
        } else if let Some(newest) = newest.map(Known::from).filter(|newest| newest.target > target) {
            judged.compare(new, &newest);
        }
        judged.joins = judged.rivals.len() == n_listed && !judged.more_pairs;
        Ok(judged)
    }

    /// With all that is stored and not listed: where there are votes outside the chain among it, the two newest do not tell.
    fn compare_with_rows(&self, validator: u32, new: &DataRow, outside: &[u32], judged: &mut Judged) -> Result<(), IndexError> {
        for known in self.votes_at(validator, new.target())? {
            judged.duplicate |= known.handle == new.handle;
            judged.compare(new, &known);
        }
        if judged.duplicate {
            *judged = Judged { duplicate: true, ..Judged::default() };
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
        judged: &mut Judged,
    ) -> Result<(), IndexError> {
        let mut below = new.target();
        for known in [newest, second].into_iter().flatten().map(Known::from).filter(|known| known.target < new.target()) {
            if !judged.compare(new, &known) {
                return Ok(());
            }
            below = known.target;
        }
        // With one vote or none remembered there is nothing older.
        if second.is_some() {
            self.chain_before(validator, below, outside, &mut |known| judged.compare(new, known))?;
        }
        Ok(())
    }
}
