//! Judges whole epochs of old votes together.
//!
//! A vote that is older than its validator's two newest votes must be compared with its neighbours
//! in the chain. To find these in their rows takes 20 microseconds or more. When history is filled,
//! a million such votes come for one epoch, and their neighbours are all in the same few epochs. So
//! these epochs are held as *slices*, with one byte per validator: whether it voted for this
//! target, and with which source. The nearest epochs with rows on both sides are enough to decide
//! nearly every vote:
//!
//! ```text
//! stored epochs, as target (source): 3 (2), 4 (3), 9 (8), 10 (9)
//! for target 6: below 4, 3; above 9, 10
//! v voted in 4 and 9:  (5,6) joins, 3 <= 5 <= 8;  (2,6) is unclear: 2 < 3
//! w voted in 3 and 10: (5,6) joins, 2 <= 5 <= 9
//! x voted in 2 and 9:  unclear, if epoch 2 is too far away to be used
//! ```
//!
//! "Unclear" means the slow way, which finds what the vote contradicts. The fast way can only find
//! that a vote contradicts nothing. A slice is complete: it is made from all rows of an epoch, and
//! every vote that is stored later is added to it. Whatever the order in which history is filled,
//! the neighbours are mostly the epochs that were filled last, and their slices are in memory. The
//! slices around a target are made only after asking about its votes has taken as much time as
//! making them takes.

use super::reader::EpochReader;
use crate::IndexError;
use crate::newest_votes::NO_EPOCH;
use consensus::{Epoch, ValidatorIndex};
use std::collections::HashMap;

/// The slices are used only if a sum has at least this many unclear votes.
pub(crate) const AT_LEAST: usize = 2;
/// Number of epochs that are used on each side.
const DEPTH: usize = 3;
/// The largest number of slices in memory, at 1 MB per million validators each.
const MAX_SLICES: usize = 12;
/// The largest number of targets whose neighbours are remembered.
const MAX_TARGETS: usize = 64;
/// Checking one validator takes as long as making a slice takes for this many validators.
const SLICED_PER_CHECKED: u64 = 256;
/// Number of validators per page.
const PAGE: usize = 1 << 16;

const NOT: u8 = 0;
/// The validator voted with several sources, or with a source that has no number.
const UNCLEAR: u8 = u8::MAX;

/// The validators that voted for one target, and their sources.
#[derive(Default)]
struct Slice {
    /// For each validator: 0, or the index of its source plus one, or [`UNCLEAR`]. A page is
    /// allocated only if one of its validators voted, as in [`crate::newest_votes::table`].
    pages: Vec<Option<Box<[u8]>>>,
    sources: Vec<Epoch>,
    used: u64,
}

impl Slice {
    fn add(&mut self, source: Epoch, validators: &[ValidatorIndex]) {
        let mark = if source < NO_EPOCH { self.mark_of(source) } else { UNCLEAR };
        for validator in validators {
            let index = validator.as_u64() as usize;
            let at = index / PAGE;
            if at >= self.pages.len() {
                self.pages.resize_with(at + 1, || None);
            }
            let page = self.pages[at].get_or_insert_with(|| vec![NOT; PAGE].into_boxed_slice());
            let old = &mut page[index % PAGE];
            *old = if *old == NOT || *old == mark { mark } else { UNCLEAR };
        }
    }

    fn mark_of(&mut self, source: Epoch) -> u8 {
        let at = self.sources.iter().position(|known| *known == source).unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        // There are few sources. If an attacker makes up hundreds of them, its votes are judged the
        // slow way.
        self.sources.truncate(usize::from(UNCLEAR) - 1);
        u8::try_from(at + 1).unwrap_or(UNCLEAR)
    }

    #[inline]
    fn mark(&self, validator: ValidatorIndex) -> u8 {
        let index = validator.as_u64() as usize;
        match self.pages.get(index / PAGE) {
            Some(Some(page)) => page[index % PAGE],
            _ => NOT,
        }
    }

    /// The source, if the validator voted with a single one that has a number. Must not be called
    /// for [`NOT`].
    #[inline]
    fn source(&self, mark: u8) -> Option<Epoch> {
        self.sources.get(usize::from(mark) - 1).copied()
    }
}

/// The nearest epochs with rows on one side of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NeighbourSide {
    nearest_first: Vec<Epoch>,
    /// True if there are more epochs with rows, farther away.
    goes_on: bool,
}

impl NeighbourSide {
    /// Whether this is still correct after `epoch`, on the same side, got rows. `is_farther`
    /// returns whether `epoch` is farther away than another epoch.
    fn is_current(&self, epoch: Epoch, is_farther: impl Fn(Epoch) -> bool) -> bool {
        self.nearest_first.contains(&epoch) || (self.goes_on && self.nearest_first.last().is_some_and(|last| is_farther(*last)))
    }
}

#[derive(Clone, Debug, Default)]
struct Sides {
    below: NeighbourSide,
    above: NeighbourSide,
}

/// The slices in memory, and which epochs are next to which target.
#[derive(Default)]
pub(crate) struct EpochNeighbours {
    slices: HashMap<Epoch, Slice>,
    sides: HashMap<Epoch, Sides>,
    /// Number of votes for each target that were checked one by one since the slices around it were
    /// last made.
    checked: HashMap<Epoch, u64>,
    clock: u64,
}

/// The slices around one target.
pub(crate) struct Neighbours<'a> {
    at: &'a Slice,
    below: Vec<&'a Slice>,
    above: Vec<&'a Slice>,
    below_goes_on: bool,
}

impl Neighbours<'_> {
    /// Whether a validator's vote with this source certainly joins its chain. The validator must
    /// have a vote above the target, and none outside its chain.
    #[inline]
    pub fn surely_joins(&self, validator: ValidatorIndex, source: Epoch) -> bool {
        if self.at.mark(validator) != NOT {
            return false;
        }
        let nearest = |side: &[&Slice]| {
            side.iter()
                .map(|slice| (*slice, slice.mark(validator)))
                .find(|(_, mark)| *mark != NOT)
                .map(|(slice, mark)| slice.source(mark))
        };
        let follows = match nearest(&self.below) {
            Some(known) => known.is_some_and(|known| known <= source),
            None => !self.below_goes_on,
        };
        follows && nearest(&self.above).flatten().is_some_and(|known| source <= known)
    }
}

impl EpochNeighbours {
    /// The slices around `target`, if they are in memory or it is worth making them now.
    /// `n_unclear` is the number of votes for the target that are not clear yet.
    pub fn of(
        &mut self,
        reader: &EpochReader<'_>,
        target: Epoch,
        n_unclear: u64,
        n_validators: u64,
    ) -> Result<Option<Neighbours<'_>>, IndexError> {
        self.clock += 1;
        if !self.sides.contains_key(&target) {
            if self.sides.len() >= MAX_TARGETS {
                self.sides.clear();
                self.checked.clear();
            }
            self.sides.insert(target, sides(reader, target)?);
        }
        let Sides { below, above } = self.sides[&target].clone();
        let needed: Vec<Epoch> =
            [target].into_iter().chain(below.nearest_first.iter().chain(&above.nearest_first).copied()).collect();
        let missing: Vec<Epoch> = needed.iter().copied().filter(|epoch| !self.slices.contains_key(epoch)).collect();
        let checked = self.checked.entry(target).or_default();
        *checked += n_unclear;
        // The target itself mostly has no rows yet.
        let n_made = missing.iter().filter(|epoch| **epoch != target).count() as u64
            + u64::from(missing.contains(&target) && reader.has_rows(target)?);
        if n_made * n_validators > *checked * SLICED_PER_CHECKED {
            return Ok(None);
        }
        self.checked.remove(&target);
        for epoch in missing {
            let mut slice = Slice::default();
            for (row, validators) in reader.votes_of_epoch(epoch)?.rows {
                slice.add(row.source(), &validators);
            }
            self.slices.insert(epoch, slice);
        }
        for epoch in &needed {
            self.slices.get_mut(epoch).expect("made above").used = self.clock;
        }
        self.drop_old();
        let slices = |side: &NeighbourSide| side.nearest_first.iter().map(|epoch| &self.slices[epoch]).collect();
        Ok(Some(Neighbours {
            at: &self.slices[&target],
            below: slices(&below),
            above: slices(&above),
            below_goes_on: below.goes_on,
        }))
    }

    /// Adds votes to the slices. Must be called for every vote that is stored. `source` is `None`
    /// if it is too great for a head.
    pub fn note(&mut self, target: Epoch, source: Epoch, validators: &[ValidatorIndex]) {
        if let Some(slice) = self.slices.get_mut(&target) {
            slice.add(source, validators);
        }
        // An epoch that had no rows until now may be nearer than others.
        self.sides.retain(|middle, sides| match target.cmp(middle) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => sides.below.is_current(target, |last| target < last),
            std::cmp::Ordering::Greater => sides.above.is_current(target, |last| last < target),
        });
    }

    /// Drops the epochs before `before`, because they were deleted.
    pub fn forget(&mut self, before: Epoch) {
        self.slices.retain(|epoch, _| *epoch >= before);
        self.sides.clear();
        self.checked.clear();
    }

    /// Drops the slices that were not used for the longest time. Those that are needed now stay.
    fn drop_old(&mut self) {
        while self.slices.len() > MAX_SLICES {
            let oldest = self.slices.iter().min_by_key(|(_, slice)| slice.used).map(|(epoch, _)| *epoch);
            oldest.and_then(|epoch| self.slices.remove(&epoch));
        }
    }
}

fn sides(reader: &EpochReader<'_>, target: Epoch) -> Result<Sides, IndexError> {
    let mut sides = Sides::default();
    let mut below = target;
    while let Some(epoch) = reader.last_epoch_before(below)? {
        if sides.below.nearest_first.len() == DEPTH {
            sides.below.goes_on = true;
            break;
        }
        sides.below.nearest_first.push(epoch);
        below = epoch;
    }
    let mut above = target.saturating_add(1);
    // Epochs that are too great for a head are not needed: the validators that voted for them are
    // checked one by one in any case.
    while let Some(epoch) = reader.first_epoch_from(above)?.filter(|epoch| *epoch < NO_EPOCH) {
        if sides.above.nearest_first.len() == DEPTH {
            sides.above.goes_on = true;
            break;
        }
        sides.above.nearest_first.push(epoch);
        above = epoch.saturating_add(1);
    }
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(indices: &[u64]) -> Vec<ValidatorIndex> {
        indices.iter().copied().map(ValidatorIndex::new).collect()
    }

    #[test]
    fn a_slice_has_one_source_or_is_unclear() {
        let mut slice = Slice::default();
        let mut add = |source: u64, indices: &[u64]| slice.add(Epoch::new(source), &validators(indices));
        add(7, &[1, 70_000, 5]);
        add(7, &[1]);
        add(8, &[5, 6]);
        add(u64::from(u32::MAX), &[9]);
        let source = |slice: &Slice, index| match slice.mark(ValidatorIndex::new(index)) {
            NOT => Err("none"),
            mark => slice.source(mark).map(Epoch::as_u64).ok_or("unclear"),
        };
        assert_eq!([1, 70_000, 6].map(|v| source(&slice, v)), [Ok(7), Ok(7), Ok(8)]);
        let unclear = Err("unclear");
        assert_eq!([5, 9, 2, u64::from(u32::MAX) - 1].map(|v| source(&slice, v)), [unclear, unclear, Err("none"), Err("none")]);
        (0..400).for_each(|nth| slice.add(Epoch::new(1000 + nth), &validators(&[100 + nth])));
        assert_eq!([100, 351, 352, 499].map(|v| source(&slice, v)), [Ok(1000), Ok(1251), unclear, unclear]);
        assert_eq!(source(&slice, 1), Ok(7));
    }

    #[test]
    fn a_side_is_not_current_when_an_epoch_comes_between() {
        let epochs = |epochs: &[u64]| epochs.iter().copied().map(Epoch::new).collect();
        let side = NeighbourSide { nearest_first: epochs(&[4, 3, 1]), goes_on: true };
        let is_current = |epoch| side.is_current(Epoch::new(epoch), |last| Epoch::new(epoch) < last);
        assert_eq!([5, 4, 3, 2, 1, 0].map(is_current), [false, true, true, false, true, true]);
        let all = NeighbourSide { nearest_first: epochs(&[4, 3]), goes_on: false };
        assert!(!all.is_current(Epoch::new(1), |last| Epoch::new(1) < last), "now there are more");
    }
}
