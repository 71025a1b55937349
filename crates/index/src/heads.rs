//! The two newest votes of every validator, in memory: 8 bytes each. Nearly every vote is judged by them alone.
//!
//! A vote is remembered by the handle of its data; source and target of each handle stand once in a small table, of which
//! an epoch uses some dozens of neighbouring entries. So eight validators share a cache line, and the line of the handle
//! is at hand. We pay a second look-up; with source and target in place (24 bytes) waiting for memory was most of the time.
//!
//! They are derived from the rows and so are not written for everybody: on disk are only the heads of validators whose
//! two newest votes do not both lie in the *tail*, the last epochs, which opening reads again anyway. A validator that
//! stops voting is written once.

use crate::codec::Reader;
use crate::db::{Batch, Cf};
use crate::summary::same_block;

/// Validators per page; pages are made for validators that voted, never for the numbers in between.
const PAGE: usize = 1 << 16;
/// No vote.
pub(crate) const NONE: u32 = u32::MAX;
const FLAG: u32 = 1 << 31;
/// Greatest handle of a data: the top bit of a remembered handle carries a flag, and one number means no vote.
pub(crate) const MAX_HANDLE: u32 = FLAG - 2;
const NO_HANDLE: u32 = FLAG - 1;
/// Handles per page of the table of their epochs.
const HANDLES: usize = 1 << 10;

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
    has_exceptions: bool,
}

impl Head {
    #[inline]
    pub fn newest(&self) -> Remembered {
        self.newest
    }

    #[inline]
    pub fn second(&self) -> Remembered {
        self.second
    }

    /// The validator has an entry in `offenders`: votes outside its chain.
    #[inline]
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    #[inline]
    fn quick(&self, vote: Remembered) -> Quick {
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

    #[inline]
    fn joins(&self, vote: Remembered) -> Quick {
        Quick::Joins { first_of_block: !self.newest.exists() || !same_block(self.newest.target, vote.target) }
    }

    /// Reading the epochs from `tail_from` on gives this head.
    fn is_told_by(&self, tail_from: u32) -> bool {
        let told = |vote: Remembered| !vote.exists() || vote.target >= tail_from;
        told(self.newest) && told(self.second)
    }

    /// The handles to remember once `vote` of the chain is taken in; `None` if it is not among the two newest.
    #[inline]
    fn with(&self, vote: Remembered) -> Option<[u32; 2]> {
        let handle = |vote: Remembered| if vote.exists() { vote.handle } else { NO_HANDLE };
        let is_newer = |than: Remembered| !than.exists() || vote.target > than.target;
        if is_newer(self.newest) {
            return Some([vote.handle, handle(self.newest)]);
        }
        (vote.target < self.newest.target && is_newer(self.second)).then_some([handle(self.newest), vote.handle])
    }
}

/// What is held of a validator: handles of its newest and second vote. The top bit of the first says that the head changed
/// since it was last written, that of the second that the validator has votes outside its chain.
#[derive(Clone, Copy, Debug)]
struct Slot([u32; 2]);

impl Slot {
    const EMPTY: Self = Self([NO_HANDLE; 2]);

    fn is_dirty(self) -> bool {
        self.0[0] & FLAG != 0
    }

    #[inline]
    fn has_exceptions(self) -> bool {
        self.0[1] & FLAG != 0
    }

    #[inline]
    fn change(&mut self, [newest, second]: [u32; 2]) {
        self.0 = [newest | FLAG, second | self.0[1] & FLAG];
    }
}

/// Source and target of `HANDLES` data.
type Page = Box<[(u32, u32); HANDLES]>;

/// Source and target of every data that a head names.
#[derive(Default)]
struct Epochs(Vec<Option<Page>>);

impl Epochs {
    #[inline]
    fn remembered(&self, handle: u32) -> Remembered {
        let handle = handle & !FLAG;
        match self.0.get(handle as usize / HANDLES) {
            Some(Some(page)) if handle != NO_HANDLE => {
                let (source, target) = page[handle as usize % HANDLES];
                Remembered { source, target, handle }
            }
            _ => Remembered::NONE,
        }
    }

    #[inline]
    fn head(&self, slot: Slot) -> Head {
        let Slot([newest, second]) = slot;
        Head { newest: self.remembered(newest), second: self.remembered(second), has_exceptions: slot.has_exceptions() }
    }

    #[inline]
    fn note(&mut self, vote: Remembered) {
        let at = vote.handle as usize / HANDLES;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        let page = self.0[at].get_or_insert_with(|| Box::new([(0, NONE); HANDLES]));
        page[vote.handle as usize % HANDLES] = (vote.source, vote.target);
    }
}

/// What the two newest votes say about a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// It is one of them.
    Same,
    /// It fits the chain. `first_of_block`: the newest vote so far is not of the same smallest block of the summary.
    Joins { first_of_block: bool },
    /// It contradicts one, or is older than both, or the validator has votes outside its chain.
    Ask,
}

#[derive(Default)]
pub(crate) struct Heads {
    pages: Vec<Option<Box<[Slot]>>>,
    epochs: Epochs,
    /// Changed by votes before the tail since the last commit: those must be written with it.
    late: Vec<u32>,
    pub n_validators: u64,
}

impl Heads {
    #[inline]
    pub fn get(&self, validator: u32) -> Head {
        self.epochs.head(self.slot(validator))
    }

    /// Reads the heads of a few validators for nothing but to have them in the cache together: each lies in a place of its
    /// own, and waiting for them one by one is most of what a vote costs.
    #[inline]
    pub fn warm(&self, validators: &[u32]) {
        std::hint::black_box(validators.iter().fold(0, |sum, validator| sum ^ self.slot(*validator).0[0]));
    }

    /// Takes in a vote if the two newest alone allow it: what nearly every vote goes through. `late` as in [`Self::observe`].
    #[inline]
    pub fn join_quickly(&mut self, validator: u32, vote: Remembered, late: bool) -> Quick {
        let slot = entry(&mut self.pages, validator);
        let head = self.epochs.head(*slot);
        if head.has_exceptions() {
            return Quick::Ask;
        }
        let quick = head.quick(vote);
        if let (Quick::Joins { .. }, Some(handles)) = (quick, head.with(vote)) {
            slot.change(handles);
            self.epochs.note(vote);
            self.n_validators += u64::from(!head.newest.exists());
            if late {
                self.late.push(validator);
            }
        }
        quick
    }

    /// `late`: the vote's epoch is not read again when opening.
    #[inline]
    pub fn observe(&mut self, validator: u32, vote: Remembered, late: bool) {
        let slot = entry(&mut self.pages, validator);
        let head = self.epochs.head(*slot);
        if let Some(handles) = head.with(vote) {
            slot.change(handles);
            self.epochs.note(vote);
            self.n_validators += u64::from(!head.newest.exists());
            if late {
                self.late.push(validator);
            }
        }
    }

    pub fn mark_exceptional(&mut self, validator: u32) {
        entry(&mut self.pages, validator).0[1] |= FLAG;
    }

    /// Removes votes before `before`, which are being pruned.
    pub fn forget(&mut self, before: u32) {
        let mut changed = Vec::new();
        for (validator, slot) in all(&mut self.pages) {
            let head = self.epochs.head(*slot);
            let mut touched = false;
            if head.second.exists() && head.second.target < before {
                slot.0[1] = NO_HANDLE | slot.0[1] & FLAG;
                touched = true;
            }
            if head.newest.exists() && head.newest.target < before {
                slot.0[0] = NO_HANDLE | slot.0[0] & FLAG;
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
        for (validator, slot) in all(&mut self.pages) {
            let head = self.epochs.head(*slot);
            if slot.is_dirty() && !head.is_told_by(tail_from) {
                put(batch, validator, &head);
            }
        }
    }

    /// After [`Self::stage_dormant`] was written.
    pub fn committed_dormant(&mut self, tail_from: u32) {
        let mut named = vec![false; self.epochs.0.len()];
        for (_, slot) in all(&mut self.pages) {
            let head = self.epochs.head(*slot);
            if !head.is_told_by(tail_from) {
                slot.0[0] &= !FLAG;
            }
            for vote in [head.newest, head.second].into_iter().filter_map(Remembered::get) {
                named[vote.handle as usize / HANDLES] = true;
            }
        }
        // What no head names any more is not needed: without this a long-lived process would keep every handle it met.
        self.epochs.0.iter_mut().zip(named).filter(|(_, named)| !named).for_each(|(page, _)| *page = None);
    }

    /// Takes in a stored row.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let validator = u32::from_be_bytes(key.try_into().ok()?);
        let mut reader = Reader(value);
        for _ in 0..2 {
            let mut number = || reader.array().map(u32::from_be_bytes);
            let vote = Remembered { source: number()?, target: number()?, handle: number()? & !FLAG };
            if vote.exists() && vote.handle <= MAX_HANDLE {
                self.observe(validator, vote, false);
            }
        }
        reader.is_empty().then_some(())
    }

    #[inline]
    fn slot(&self, validator: u32) -> Slot {
        match self.pages.get(validator as usize / PAGE) {
            Some(Some(page)) => page[validator as usize % PAGE],
            _ => Slot::EMPTY,
        }
    }
}

#[inline]
fn entry(pages: &mut Vec<Option<Box<[Slot]>>>, validator: u32) -> &mut Slot {
    let at = validator as usize / PAGE;
    if at >= pages.len() {
        pages.resize_with(at + 1, || None);
    }
    let page = pages[at].get_or_insert_with(|| vec![Slot::EMPTY; PAGE].into_boxed_slice());
    &mut page[validator as usize % PAGE]
}

fn all(pages: &mut [Option<Box<[Slot]>>]) -> impl Iterator<Item = (u32, &mut Slot)> {
    let pages = pages.iter_mut().enumerate().filter_map(|(at, page)| page.as_mut().map(|page| (at, page)));
    pages.flat_map(|(at, page)| page.iter_mut().enumerate().map(move |(within, slot)| ((at * PAGE + within) as u32, slot)))
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
        assert_eq!(size_of::<Slot>(), 8);
    }
}
