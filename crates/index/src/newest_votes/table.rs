//! The two newest votes of every validator, in memory, at 8 bytes per validator. They alone decide
//! nearly every vote.
//!
//! A vote is remembered by the handle of its data. The source and target of each handle are stored
//! once, in a small table ([`crate::newest_votes::spans`]). One epoch uses only a few dozen neighbouring entries
//! of this table. So eight validators share a cache line, and the entry of a handle is usually in
//! the cache. The price is a second look-up. With source and target stored for each validator (24
//! bytes), most of the time was spent waiting for memory.
//!
//! The two newest votes can be rebuilt from the rows, so they are not written for every validator.
//! The heads on disk are only those of validators whose two newest votes are not both in the
//! *tail*. The tail consists of the last epochs, which opening reads again anyway. A validator that
//! stops voting is written once.
//!
//! # Why a handle always finds its epochs
//!
//! A handle always belongs to the same data ([`crate::tables::data`]), so its entry in the table never
//! changes; it can only be missing. The entry is made whenever a vote is added
//! ([`NewestVotesTable::join_all`], [`NewestVotesTable::observe`]), before the head refers to it. A
//! page of the table is dropped only at a checkpoint, and only if no head refers to any handle in
//! it. A vote that becomes the second one was the newest before, so its entry is still there.

use super::decide::{NONE, NewestVotes, Quick, Remembered};
use super::spans::{EpochTable, NO_HANDLE};
use crate::epochs::same_block;
use crate::storage::{ByteReader, Cf, WriteBuffer};

/// Number of validators per page. A page is allocated only if one of its validators voted.
const PAGE: usize = 1 << 16;
const FLAG: u32 = 1 << 31;
/// Greatest handle of a data. The top bit of a remembered handle is used for a flag, and one value
/// means "no vote".
pub(crate) const MAX_HANDLE: u32 = NO_HANDLE - 1;
/// Number of validators whose newest votes are read together.
const TOGETHER: usize = 32;

/// What is stored of a validator: the handles of its newest and its second vote. The top bit of the
/// first handle is set if the head changed since it was last written. The top bit of the second is
/// set if the validator has votes outside its chain.
#[derive(Clone, Copy, Debug)]
struct Slot([u32; 2]);

impl Slot {
    const EMPTY: Self = Self([NO_HANDLE; 2]);

    #[inline]
    fn newest(self) -> u32 {
        self.0[0] & !FLAG
    }

    #[inline]
    fn second(self) -> u32 {
        self.0[1] & !FLAG
    }

    fn is_dirty(self) -> bool {
        self.0[0] & FLAG != 0
    }

    #[inline]
    fn has_exceptions(self) -> bool {
        self.0[1] & FLAG != 0
    }

    #[inline]
    fn change(&mut self, newest: u32, second: u32) {
        self.0 = [newest | FLAG, second | self.0[1] & FLAG];
    }
}

/// What happened to the members of one vote, see [`NewestVotesTable::join_all`]. The caller keeps
/// it so that its memory is used again.
#[derive(Default)]
pub(crate) struct Joined {
    pub n_joined: u64,
    /// Members whose votes joined and that the summary may not have in this vote's smallest block.
    pub to_mark: Vec<u32>,
    /// Members whose votes must be compared with everything stored.
    pub to_ask: Vec<u32>,
}

/// The two newest votes of all validators.
#[derive(Default)]
pub(crate) struct NewestVotesTable {
    pages: Vec<Option<Box<[Slot]>>>,
    epochs: EpochTable,
    /// Validators whose heads were changed by votes before the tail since the last commit. They
    /// must be written with the next commit.
    late: Vec<u32>,
    /// Validators that the present checkpoint writes.
    dormant: Vec<u32>,
    pub n_validators: u64,
}

impl NewestVotesTable {
    /// The two newest votes of a validator.
    #[inline]
    pub fn get(&self, validator: u32) -> NewestVotes {
        head(&self.epochs, read(&self.pages, validator))
    }

    /// Like [`NewestVotes::has_exceptions`], but cheaper.
    #[inline]
    pub fn has_exceptions(&self, validator: u32) -> bool {
        read(&self.pages, validator).has_exceptions()
    }

    /// Adds one vote for each of `validators` for which the two newest votes alone show that it
    /// joins the chain. Nearly every vote is handled here. `late` means that opening does not read
    /// the vote's epoch again. `joined` is emptied first.
    ///
    /// The heads of the validators are spread over memory. Waiting for them one by one would be
    /// most of the cost of a vote, so a few are read together. The most frequent case, a vote that
    /// is newer than the newest, is tested first.
    pub fn join_all(&mut self, validators: &[u32], vote: Remembered, late: bool, joined: &mut Joined) {
        joined.n_joined = 0;
        joined.to_mark.clear();
        joined.to_ask.clear();
        self.epochs.note(vote);
        for group in validators.chunks(TOGETHER) {
            let mut slots = [Slot::EMPTY; TOGETHER];
            for (slot, validator) in slots.iter_mut().zip(group) {
                *slot = read(&self.pages, *validator);
            }
            for (slot, validator) in slots.iter().zip(group) {
                let newest = self.epochs.remembered(slot.newest());
                let (first_of_block, changed);
                // A missing vote has the greatest possible target, so this comparison is false for
                // it.
                if newest.target < vote.target && newest.source <= vote.source && !slot.has_exceptions() {
                    entry(&mut self.pages, *validator).change(vote.handle, newest.handle);
                    (first_of_block, changed) = (!same_block(newest.target, vote.target), true);
                } else {
                    let head = head(&self.epochs, *slot);
                    match if head.has_exceptions() { Quick::Ask } else { head.quick(vote) } {
                        Quick::Same => continue,
                        Quick::Ask => {
                            joined.to_ask.push(*validator);
                            continue;
                        }
                        Quick::Joins { first_of_block: first } => first_of_block = first,
                    }
                    changed = self.take(*validator, &head, vote);
                }
                joined.n_joined += 1;
                if first_of_block || late {
                    joined.to_mark.push(*validator);
                }
                if late && changed {
                    self.late.push(*validator);
                }
            }
        }
    }

    /// Adds a vote that was judged to be part of the chain. `late` as in [`Self::join_all`].
    pub fn observe(&mut self, validator: u32, vote: Remembered, late: bool) {
        self.epochs.note(vote);
        let head = self.get(validator);
        if self.take(validator, &head, vote) && late {
            self.late.push(validator);
        }
    }

    /// Like [`Self::observe`] for many validators, as needed when opening. Validators that have
    /// votes outside their chain are appended to `apart` instead.
    pub fn observe_all(&mut self, validators: &[u32], vote: Remembered, apart: &mut Vec<u32>) {
        self.epochs.note(vote);
        for group in validators.chunks(TOGETHER) {
            let mut slots = [Slot::EMPTY; TOGETHER];
            for (slot, validator) in slots.iter_mut().zip(group) {
                *slot = read(&self.pages, *validator);
            }
            for (slot, validator) in slots.iter().zip(group) {
                match slot.has_exceptions() {
                    true => apart.push(*validator),
                    false => {
                        self.take(*validator, &head(&self.epochs, *slot), vote);
                    }
                }
            }
        }
    }

    /// Marks that a validator has votes outside its chain.
    pub fn mark_exceptional(&mut self, validator: u32) {
        entry(&mut self.pages, validator).0[1] |= FLAG;
    }

    /// Removes votes before `before`, because those epochs are being pruned.
    pub fn forget(&mut self, before: u32) {
        for (validator, slot) in all(&mut self.pages) {
            let head = head(&self.epochs, *slot);
            let is_gone = |vote: Remembered| vote.exists() && vote.target < before;
            // The second vote is older, so it is removed whenever the newest one is.
            if is_gone(head.second()) {
                slot.0[1] = NO_HANDLE | slot.0[1] & FLAG;
                self.late.push(validator);
            }
            if is_gone(head.newest()) {
                slot.0[0] = NO_HANDLE | slot.0[0] & FLAG;
                self.late.push(validator);
                self.n_validators -= 1;
            }
        }
    }

    /// Writes the rows of validators that were changed by late votes.
    pub fn stage_late(&self, batch: &mut WriteBuffer<'_>) {
        for validator in &self.late {
            put(batch, *validator, &self.get(*validator));
        }
    }

    /// Called after the rows of [`Self::stage_late`] were written.
    pub fn committed_late(&mut self) {
        self.late.clear();
    }

    /// Writes the rows of validators whose heads cannot be rebuilt from a new tail, which consists
    /// of the epochs from `tail_from` on.
    pub fn stage_dormant(&mut self, batch: &mut WriteBuffer<'_>, tail_from: u32) {
        self.find_dormant(tail_from);
        for validator in &self.dormant {
            put(batch, *validator, &self.get(*validator));
        }
    }

    fn find_dormant(&mut self, tail_from: u32) {
        self.dormant.clear();
        for (validator, slot) in all(&mut self.pages).filter(|(_, slot)| slot.is_dirty()) {
            if !head(&self.epochs, *slot).is_told_by(tail_from) {
                self.dormant.push(validator);
            }
        }
    }

    /// Called after the rows of [`Self::stage_dormant`] were written.
    pub fn committed_dormant(&mut self) {
        for validator in std::mem::take(&mut self.dormant) {
            entry(&mut self.pages, validator).0[0] &= !FLAG;
        }
        let named = all(&mut self.pages).flat_map(|(_, slot)| [slot.newest(), slot.second()]);
        self.epochs.keep_named(named);
    }

    /// Reads a stored row.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let validator = u32::from_be_bytes(key.try_into().ok()?);
        let mut reader = ByteReader(value);
        for _ in 0..2 {
            let mut number = || reader.array().map(u32::from_be_bytes);
            let vote = Remembered { source: number()?, target: number()?, handle: number()? & !FLAG };
            if vote.exists() && vote.handle <= MAX_HANDLE {
                self.observe(validator, vote, false);
            }
        }
        reader.is_empty().then_some(())
    }

    /// Adds a vote to a head. Returns `false` if the vote is older than both votes and so is not
    /// remembered.
    #[inline]
    fn take(&mut self, validator: u32, head: &NewestVotes, vote: Remembered) -> bool {
        let Some([newest, second]) = head.with(vote) else { return false };
        entry(&mut self.pages, validator).change(handle(newest), handle(second));
        self.n_validators += u64::from(!head.newest().exists());
        true
    }
}

#[inline]
fn head(epochs: &EpochTable, slot: Slot) -> NewestVotes {
    NewestVotes::new(epochs.remembered(slot.newest()), epochs.remembered(slot.second()), slot.has_exceptions())
}

#[inline]
fn handle(vote: Remembered) -> u32 {
    if vote.exists() { vote.handle } else { NO_HANDLE }
}

#[inline]
fn read(pages: &[Option<Box<[Slot]>>], validator: u32) -> Slot {
    match pages.get(validator as usize / PAGE) {
        Some(Some(page)) => page[validator as usize % PAGE],
        _ => Slot::EMPTY,
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

fn put(batch: &mut WriteBuffer<'_>, validator: u32, head: &NewestVotes) {
    let mut value = Vec::with_capacity(24);
    for vote in [head.newest(), head.second()] {
        for number in [vote.source, vote.target, vote.handle] {
            value.extend_from_slice(&number.to_be_bytes());
        }
    }
    batch.put(Cf::NewestVotes, &validator.to_be_bytes(), &value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::newest_votes::spans::HANDLES;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn eight_bytes_for_a_validator() {
        assert_eq!(size_of::<Slot>(), 8);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// All of `validators` vote for the data with this number.
        Join {
            data: usize,
            validators: Vec<u32>,
            late: bool,
        },
        Observe {
            data: usize,
            validators: Vec<u32>,
        },
        Except(u32),
        Forget(u32),
        Checkpoint(u32),
    }

    /// Epochs at which a narrower number wraps around, and the greatest epoch that fits.
    const EDGES: [u32; 12] = [0, 1, 7, 8, 255, 256, 65_535, 65_536, 1 << 31, (1 << 31) + 1, NONE - 2, NONE - 1];

    /// Data whose handles are at the edges of pages, and the greatest handle.
    fn known_data() -> Vec<Remembered> {
        let page = HANDLES as u32;
        let handles = [
            0,
            1,
            page - 1,
            page,
            2 * page,
            5 * page + 3,
            1 << 20,
            (1 << 20) + page,
            MAX_HANDLE - page,
            MAX_HANDLE - 1,
            MAX_HANDLE,
        ];
        let spans = handles.iter().enumerate().flat_map(|(n, handle)| {
            let target = EDGES[n % EDGES.len()];
            // There are two data for each target: one with the source right before it, and one with
            // another source.
            [(target.saturating_sub(1), *handle), (EDGES[(n * 5 + 3) % EDGES.len()], handle.wrapping_sub(40) % (MAX_HANDLE + 1))]
                .map(|(source, handle)| Remembered { source, target, handle })
        });
        spans.collect()
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = known_data().len();
        let some = || prop::collection::btree_set(prop_oneof![0u32..70, Just(PAGE as u32), Just(NONE - 1)], 1..60);
        prop_oneof![
            8 => (0..n, some(), any::<bool>()).prop_map(|(data, validators, late)| Step::Join { data, validators: validators.into_iter().collect(), late }),
            3 => (0..n, some()).prop_map(|(data, validators)| Step::Observe { data, validators: validators.into_iter().collect() }),
            1 => (0u32..70).prop_map(Step::Except),
            1 => prop::sample::select(&EDGES[..]).prop_map(Step::Forget),
            3 => prop::sample::select(&EDGES[..]).prop_map(Step::Checkpoint),
        ]
    }

    /// All votes of a chain by target. The heads must be the last two.
    #[derive(Default)]
    struct Model(BTreeMap<u32, BTreeMap<u32, Remembered>>);

    impl Model {
        fn newest(&self, validator: u32) -> [Remembered; 2] {
            let mut votes = self.0.get(&validator).into_iter().flat_map(|votes| votes.values().rev().copied());
            [votes.next().unwrap_or(Remembered::NONE), votes.next().unwrap_or(Remembered::NONE)]
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn the_two_newest_of_all_votes_whatever_is_dropped_meanwhile(steps in prop::collection::vec(step(), 1..60)) {
            let known = known_data();
            let (mut heads, mut model, mut joined) = (NewestVotesTable::default(), Model::default(), Joined::default());
            let mut exceptional = Vec::new();
            for step in steps {
                match step {
                    Step::Join { data, validators, late } => {
                        let vote = known[data];
                        let expected: Vec<Quick> = validators.iter().map(|v| {
                            let [newest, second] = model.newest(*v);
                            if exceptional.contains(v) { Quick::Ask } else { NewestVotes::new(newest, second, false).quick(vote) }
                        }).collect();
                        heads.join_all(&validators, vote, late, &mut joined);
                        let (mut n_joined, mut to_mark, mut to_ask) = (0, Vec::new(), Vec::new());
                        for (validator, quick) in validators.iter().zip(expected) {
                            match quick {
                                Quick::Same => {}
                                Quick::Ask => to_ask.push(*validator),
                                Quick::Joins { first_of_block } => {
                                    n_joined += 1;
                                    if late || first_of_block {
                                        to_mark.push(*validator);
                                    }
                                    model.0.entry(*validator).or_default().insert(vote.target, vote);
                                }
                            }
                        }
                        prop_assert_eq!((joined.n_joined, &joined.to_mark, &joined.to_ask), (n_joined, &to_mark, &to_ask));
                    }
                    Step::Observe { data, validators } => {
                        // In a chain no validator has two votes with the same target.
                        let fits = |v: &u32| model.0.get(v).is_none_or(|votes| !votes.contains_key(&known[data].target));
                        let validators: Vec<u32> = validators.into_iter().filter(fits).collect();
                        let mut apart = Vec::new();
                        heads.observe_all(&validators, known[data], &mut apart);
                        let expected: Vec<u32> = validators.iter().copied().filter(|v| exceptional.contains(v)).collect();
                        prop_assert_eq!(&apart, &expected);
                        apart.iter().for_each(|v| heads.observe(*v, known[data], false));
                        for validator in validators {
                            model.0.entry(validator).or_default().insert(known[data].target, known[data]);
                        }
                    }
                    Step::Except(validator) => {
                        heads.mark_exceptional(validator);
                        exceptional.push(validator);
                    }
                    Step::Forget(before) => {
                        heads.forget(before);
                        heads.committed_late();
                        model.0.values_mut().for_each(|votes| votes.retain(|target, _| *target >= before));
                    }
                    Step::Checkpoint(tail_from) => {
                        heads.find_dormant(tail_from);
                        heads.committed_dormant();
                    }
                }
                for validator in model.0.keys() {
                    let head = heads.get(*validator);
                    prop_assert_eq!([head.newest(), head.second()], model.newest(*validator), "validator {}", validator);
                    prop_assert_eq!(head.has_exceptions(), exceptional.contains(validator));
                }
                let n_validators = model.0.values().filter(|votes| !votes.is_empty()).count() as u64;
                prop_assert_eq!(heads.n_validators, n_validators);
            }
        }
    }
}
