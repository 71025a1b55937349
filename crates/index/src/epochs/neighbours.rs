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
//! v voted in 4 and 9:  (5,6) joins, 3 <= 5 <= 8;  (2,6) asks: 2 < 3
//! w voted in 3 and 10: (5,6) joins, 2 <= 5 <= 9
//! x voted in 2 and 9:  asks, if epoch 2 is too far away to be used
//! ```
//!
//! "Asks" means the slow way, which finds what the vote contradicts. The fast way can only find
//! that a vote contradicts nothing. A slice is complete: it is made from all rows of an epoch, and
//! every vote that is stored later is added to it. Whatever the order in which history is filled,
//! the neighbours are mostly the epochs that were filled last, and their slices are in memory. The
//! slices around a target are made only after asking about its votes has taken as much time as
//! making them takes.

use super::reader::EpochReader;
use crate::IndexError;
use crate::newest_votes::NONE;
use std::collections::HashMap;

/// The slices are used only if a sum has at least this many votes to ask about.
pub(crate) const AT_LEAST: usize = 2;
/// Number of epochs that are used on each side.
const DEPTH: usize = 3;
/// The largest number of slices in memory, at 1 MB per million validators each.
const MAX_SLICES: usize = 12;
/// The largest number of targets whose neighbours are remembered.
const MAX_TARGETS: usize = 64;
/// Asking about one validator takes as long as making a slice takes for this many validators.
const SLICED_PER_ASKED: u64 = 256;
/// Number of validators per page.
const PAGE: usize = 1 << 16;

const NOT: u8 = 0;
/// The validator voted with several sources, or with a source that has no number.
const ASK: u8 = u8::MAX;

/// The validators that voted for one target, and their sources.
#[derive(Default)]
struct Slice {
    /// For each validator: 0, or the index of its source plus one, or [`ASK`]. A page is allocated
    /// only if one of its validators voted, as in [`crate::newest_votes::table`].
    pages: Vec<Option<Box<[u8]>>>,
    sources: Vec<u32>,
    used: u64,
}

impl Slice {
    fn add(&mut self, source: Option<u32>, validators: &[u32]) {
        let mark = source.map_or(ASK, |source| self.mark_of(source));
        for validator in validators {
            let at = *validator as usize / PAGE;
            if at >= self.pages.len() {
                self.pages.resize_with(at + 1, || None);
            }
            let page = self.pages[at].get_or_insert_with(|| vec![NOT; PAGE].into_boxed_slice());
            let old = &mut page[*validator as usize % PAGE];
            *old = if *old == NOT || *old == mark { mark } else { ASK };
        }
    }

    fn mark_of(&mut self, source: u32) -> u8 {
        let at = self.sources.iter().position(|known| *known == source).unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        // There are few sources. If an attacker makes up hundreds of them, its votes are judged the
        // slow way.
        self.sources.truncate(usize::from(ASK) - 1);
        u8::try_from(at + 1).unwrap_or(ASK)
    }

    #[inline]
    fn mark(&self, validator: u32) -> u8 {
        match self.pages.get(validator as usize / PAGE) {
            Some(Some(page)) => page[validator as usize % PAGE],
            _ => NOT,
        }
    }

    /// The source, if the validator voted with a single one that has a number. Must not be called
    /// for [`NOT`].
    #[inline]
    fn source(&self, mark: u8) -> Option<u32> {
        self.sources.get(usize::from(mark) - 1).copied()
    }
}

/// The nearest epochs with rows on one side of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NeighbourSide {
    nearest_first: Vec<u32>,
    /// True if there are more epochs with rows, farther away.
    goes_on: bool,
}

impl NeighbourSide {
    /// Whether this is still correct after `epoch`, on the same side, got rows. `is_farther`
    /// returns whether `epoch` is farther away than another epoch.
    fn stands(&self, epoch: u32, is_farther: impl Fn(u32) -> bool) -> bool {
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
    slices: HashMap<u32, Slice>,
    sides: HashMap<u32, Sides>,
    /// Number of votes for each target that were asked about since the slices around it were last
    /// made.
    asked: HashMap<u32, u64>,
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
    pub fn surely_joins(&self, validator: u32, source: u32) -> bool {
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
    /// The slices around `target`, if they are in memory or it is worth making them now. `n_ask` is
    /// the number of votes for the target that are to be asked about.
    pub fn of(
        &mut self,
        reader: &EpochReader<'_>,
        target: u32,
        n_ask: u64,
        n_validators: u64,
    ) -> Result<Option<Neighbours<'_>>, IndexError> {
        self.clock += 1;
        if !self.sides.contains_key(&target) {
            if self.sides.len() >= MAX_TARGETS {
                self.sides.clear();
                self.asked.clear();
            }
            self.sides.insert(target, sides(reader, target)?);
        }
        let Sides { below, above } = self.sides[&target].clone();
        let needed: Vec<u32> =
            [target].into_iter().chain(below.nearest_first.iter().chain(&above.nearest_first).copied()).collect();
        let missing: Vec<u32> = needed.iter().copied().filter(|epoch| !self.slices.contains_key(epoch)).collect();
        let asked = self.asked.entry(target).or_default();
        *asked += n_ask;
        // The target itself mostly has no rows yet.
        let n_made = missing.iter().filter(|epoch| **epoch != target).count() as u64
            + u64::from(missing.contains(&target) && reader.has_rows(target)?);
        if n_made * n_validators > *asked * SLICED_PER_ASKED {
            return Ok(None);
        }
        self.asked.remove(&target);
        for epoch in missing {
            let mut slice = Slice::default();
            for (row, validators) in reader.votes_of_epoch(epoch)?.rows {
                slice.add(u32::try_from(row.source()).ok(), &validators);
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
    pub fn note(&mut self, target: u32, source: Option<u32>, validators: &[u32]) {
        if let Some(slice) = self.slices.get_mut(&target) {
            slice.add(source, validators);
        }
        // An epoch that had no rows until now may be nearer than others.
        self.sides.retain(|middle, sides| match target.cmp(middle) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => sides.below.stands(target, |last| target < last),
            std::cmp::Ordering::Greater => sides.above.stands(target, |last| last < target),
        });
    }

    /// Drops the epochs before `before`, because they were deleted.
    pub fn forget(&mut self, before: u32) {
        self.slices.retain(|epoch, _| *epoch >= before);
        self.sides.clear();
        self.asked.clear();
    }

    /// Drops the slices that were not used for the longest time. Those that are needed now stay.
    fn drop_old(&mut self) {
        while self.slices.len() > MAX_SLICES {
            let oldest = self.slices.iter().min_by_key(|(_, slice)| slice.used).map(|(epoch, _)| *epoch);
            oldest.and_then(|epoch| self.slices.remove(&epoch));
        }
    }
}

fn sides(reader: &EpochReader<'_>, target: u32) -> Result<Sides, IndexError> {
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
    let mut above = u64::from(target) + 1;
    // Epochs that are too great for a head are not needed: the validators that voted for them are
    // asked about in any case.
    while let Some(epoch) =
        reader.first_epoch_from(above)?.and_then(|epoch| u32::try_from(epoch).ok()).filter(|epoch| *epoch < NONE)
    {
        if sides.above.nearest_first.len() == DEPTH {
            sides.above.goes_on = true;
            break;
        }
        sides.above.nearest_first.push(epoch);
        above = u64::from(epoch) + 1;
    }
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_tells_one_source_or_says_ask() {
        let mut slice = Slice::default();
        slice.add(Some(7), &[1, 70_000, 5]);
        slice.add(Some(7), &[1]);
        slice.add(Some(8), &[5, 6]);
        slice.add(None, &[9]);
        let told = |slice: &Slice, validator| match slice.mark(validator) {
            NOT => Err("not"),
            mark => slice.source(mark).ok_or("ask"),
        };
        assert_eq!([1, 70_000, 6].map(|v| told(&slice, v)), [Ok(7), Ok(7), Ok(8)]);
        assert_eq!([5, 9, 2, u32::MAX - 1].map(|v| told(&slice, v)), [Err("ask"), Err("ask"), Err("not"), Err("not")]);
        (0..400).for_each(|source| slice.add(Some(1000 + source), &[100 + source]));
        assert_eq!(
            [told(&slice, 100), told(&slice, 351), told(&slice, 352), told(&slice, 499)],
            [Ok(1000), Ok(1251), Err("ask"), Err("ask")]
        );
        assert_eq!(told(&slice, 1), Ok(7));
    }

    #[test]
    fn a_side_falls_when_an_epoch_comes_between() {
        let side = NeighbourSide { nearest_first: vec![4, 3, 1], goes_on: true };
        let stands = |epoch| side.stands(epoch, |last| epoch < last);
        assert_eq!([5, 4, 3, 2, 1, 0].map(stands), [false, true, true, false, true, true]);
        let all = NeighbourSide { nearest_first: vec![4, 3], goes_on: false };
        assert!(!all.stands(1, |last| 1 < last), "now there are more");
    }
}
