//! The two newest votes of every validator, in memory: 24 bytes each. Nearly every vote is judged by them alone.
//!
//! They are derived from the rows and so are not written for everybody: on disk are only the heads of validators whose
//! two newest votes do not both lie in the *tail*, the last epochs, which opening reads again anyway. A validator that
//! stops voting is written once.

use crate::codec::Reader;
use crate::db::{Batch, Cf};

/// Validators per page; pages are made for validators that voted, never for the numbers in between.
const PAGE: usize = 1 << 16;
/// No vote.
pub(crate) const NONE: u32 = u32::MAX;
const FLAG: u32 = 1 << 31;
/// Data handles are below this: the top bit of the two handles carries a flag each.
pub(crate) const MAX_HANDLE: u32 = FLAG - 1;

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

/// The two newest votes of a validator's chain, `newest.target > second.target`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    newest: Remembered,
    second: Remembered,
}

impl Head {
    const EMPTY: Self = Self { newest: Remembered::NONE, second: Remembered::NONE };

    #[inline]
    pub fn newest(&self) -> Remembered {
        Remembered { handle: self.newest.handle & !FLAG, ..self.newest }
    }

    #[inline]
    pub fn second(&self) -> Remembered {
        Remembered { handle: self.second.handle & !FLAG, ..self.second }
    }

    /// The validator has an entry in `offenders`: votes outside its chain.
    #[inline]
    pub fn has_exceptions(&self) -> bool {
        self.second.handle & FLAG != 0
    }

    #[inline]
    fn quick(&self, vote: Remembered) -> Quick {
        let (newest, second) = (self.newest(), self.second());
        if !newest.exists() {
            return Quick::Joins;
        }
        if vote.target >= newest.target {
            return match vote.target == newest.target {
                true if vote.handle == newest.handle => Quick::Same,
                false if vote.source >= newest.source => Quick::Joins,
                true | false => Quick::Ask,
            };
        }
        if !second.exists() {
            return if vote.source <= newest.source { Quick::Joins } else { Quick::Ask };
        }
        if vote.target == second.target && vote.handle == second.handle {
            return Quick::Same;
        }
        if vote.target > second.target && second.source <= vote.source && vote.source <= newest.source {
            return Quick::Joins;
        }
        Quick::Ask
    }

    fn is_dirty(&self) -> bool {
        self.newest.handle & FLAG != 0
    }

    /// Reading the epochs from `tail_from` on gives this head.
    fn is_told_by(&self, tail_from: u32) -> bool {
        let told = |vote: Remembered| !vote.exists() || vote.target >= tail_from;
        told(self.newest) && told(self.second)
    }

    /// Takes in a vote of the chain. Says whether anything changed.
    #[inline]
    fn observe(&mut self, vote: Remembered) -> bool {
        let flags = (self.newest.handle & FLAG, self.second.handle & FLAG);
        let (newest, second) = (self.newest(), self.second());
        let is_newer = |than: Remembered| !than.exists() || vote.target > than.target;
        let (newest, second) = if is_newer(newest) {
            (vote, newest)
        } else if vote.target < newest.target && is_newer(second) {
            (newest, vote)
        } else {
            return false;
        };
        self.newest = Remembered { handle: newest.handle | flags.0 | FLAG, ..newest };
        self.second = Remembered { handle: second.handle | flags.1, ..second };
        true
    }
}

/// What the two newest votes say about a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// It is one of them.
    Same,
    /// It fits the chain.
    Joins,
    /// It contradicts one, or is older than both, or the validator has votes outside its chain.
    Ask,
}

#[derive(Default)]
pub(crate) struct Heads {
    pages: Vec<Option<Box<[Head]>>>,
    /// Changed by votes before the tail since the last commit: those must be written with it.
    late: Vec<u32>,
    pub n_validators: u64,
}

impl Heads {
    #[inline]
    pub fn get(&self, validator: u32) -> Head {
        match self.pages.get(validator as usize / PAGE) {
            Some(Some(page)) => page[validator as usize % PAGE],
            _ => Head::EMPTY,
        }
    }

    /// Reads the heads of a few validators for nothing but to have them in the cache together: each lies in a place of its
    /// own, and waiting for them one by one is most of what a vote costs.
    #[inline]
    pub fn warm(&self, validators: &[u32]) {
        std::hint::black_box(validators.iter().fold(0, |sum, validator| sum ^ self.get(*validator).newest.target));
    }

    /// Takes in a vote if the two newest alone allow it: what nearly every vote goes through. `late` as in [`Self::observe`].
    #[inline]
    pub fn join_quickly(&mut self, validator: u32, vote: Remembered, late: bool) -> Quick {
        let head = self.entry(validator);
        if head.has_exceptions() {
            return Quick::Ask;
        }
        let first = !head.newest.exists();
        let quick = head.quick(vote);
        if quick == Quick::Joins && head.observe(vote) {
            self.n_validators += u64::from(first);
            if late {
                self.late.push(validator);
            }
        }
        quick
    }

    /// `late`: the vote's epoch is not read again when opening.
    #[inline]
    pub fn observe(&mut self, validator: u32, vote: Remembered, late: bool) {
        let head = self.entry(validator);
        let first = !head.newest.exists();
        if head.observe(vote) {
            self.n_validators += u64::from(first);
            if late {
                self.late.push(validator);
            }
        }
    }

    pub fn mark_exceptional(&mut self, validator: u32) {
        self.entry(validator).second.handle |= FLAG;
    }

    /// Removes votes before `before`, which are being pruned.
    pub fn forget(&mut self, before: u32) {
        let mut changed = Vec::new();
        for (validator, head) in all(&mut self.pages) {
            let mut touched = false;
            if head.second.exists() && head.second.target < before {
                head.second = Remembered { handle: head.second.handle & FLAG, ..Remembered::NONE };
                touched = true;
            }
            if head.newest.exists() && head.newest.target < before {
                head.newest = Remembered { handle: head.newest.handle & FLAG, ..Remembered::NONE };
                touched = true;
            }
            if touched {
                changed.push(validator);
            }
        }
        self.late.extend(changed);
    }

    /// Rows of validators changed by late votes.
    pub fn stage_late(&self, batch: &mut Batch<'_>) {
        for validator in &self.late {
            put(batch, *validator, &self.get(*validator));
        }
    }

    pub fn committed_late(&mut self) {
        self.late.clear();
    }

    /// Rows of validators that a new tail, the epochs from `tail_from` on, no longer tells everything about.
    pub fn stage_dormant(&mut self, batch: &mut Batch<'_>, tail_from: u32) {
        for (validator, head) in all(&mut self.pages) {
            if head.is_dirty() && !head.is_told_by(tail_from) {
                put(batch, validator, head);
            }
        }
    }

    /// After [`Self::stage_dormant`] was written.
    pub fn committed_dormant(&mut self, tail_from: u32) {
        for (_, head) in all(&mut self.pages) {
            if !head.is_told_by(tail_from) {
                head.newest.handle &= !FLAG;
            }
        }
    }

    /// Takes in a stored row.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let validator = u32::from_be_bytes(key.try_into().ok()?);
        let mut reader = Reader(value);
        for _ in 0..2 {
            let mut number = || reader.array().map(u32::from_be_bytes);
            let vote = Remembered { source: number()?, target: number()?, handle: number()? & !FLAG };
            if vote.exists() {
                self.observe(validator, vote, false);
            }
        }
        reader.is_empty().then_some(())
    }

    fn entry(&mut self, validator: u32) -> &mut Head {
        let at = validator as usize / PAGE;
        if at >= self.pages.len() {
            self.pages.resize_with(at + 1, || None);
        }
        let page = self.pages[at].get_or_insert_with(|| vec![Head::EMPTY; PAGE].into_boxed_slice());
        &mut page[validator as usize % PAGE]
    }
}

fn all(pages: &mut [Option<Box<[Head]>>]) -> impl Iterator<Item = (u32, &mut Head)> {
    let pages = pages.iter_mut().enumerate().filter_map(|(at, page)| page.as_mut().map(|page| (at, page)));
    pages.flat_map(|(at, page)| page.iter_mut().enumerate().map(move |(within, head)| ((at * PAGE + within) as u32, head)))
}

fn put(batch: &mut Batch<'_>, validator: u32, head: &Head) {
    let mut value = Vec::with_capacity(24);
    for vote in [head.newest(), head.second()] {
        for number in [vote.source, vote.target, vote.handle] {
            value.extend_from_slice(&number.to_be_bytes());
        }
    }
    batch.put(Cf::Heads, &validator.to_be_bytes(), &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_newest_stay_in_whatever_order_they_come() {
        let vote = |target| Remembered { source: 0, target, handle: target };
        for order in [[3, 5, 9], [3, 9, 5], [5, 3, 9], [5, 9, 3], [9, 3, 5], [9, 5, 3]] {
            let mut heads = Heads::default();
            heads.mark_exceptional(7);
            order.iter().for_each(|target| heads.observe(7, vote(*target), false));
            let head = heads.get(7);
            assert_eq!((head.newest(), head.second()), (vote(9), vote(5)));
            assert!(head.has_exceptions());
            assert!(!heads.get(8).has_exceptions());
        }
        assert_eq!(size_of::<Head>(), 24);
    }
}
