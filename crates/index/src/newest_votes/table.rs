//! The two newest votes of every validator, in memory, at 8 bytes per validator. They alone decide
//! nearly every vote.
//!
//! A vote is remembered by the handle of its data. The source and target of each handle are stored
//! once, in a small table ([`crate::newest_votes::spans`]). One epoch uses only a few dozen
//! neighbouring entries of this table. So eight validators share a cache line, and the entry of a
//! handle is usually in the cache. The price is a second look-up. With source and target stored for
//! each validator (24 bytes), most of the time was spent waiting for memory.
//!
//! The two newest votes can be rebuilt from the rows, so they are not written for every validator.
//! The heads on disk are only those of validators whose two newest votes are not both in the
//! *tail*. The tail consists of the last epochs, which opening reads again anyway. A validator that
//! stops voting is written once.
//!
//! # Why a handle always finds its epochs
//!
//! A handle always belongs to the same data ([`crate::tables::data`]), so its entry in the table
//! never changes; it can only be missing. The entry is made whenever a vote is added
//! ([`NewestVotesTable::join_all`], [`NewestVotesTable::observe`]), before the head refers to it. A
//! page of the table is dropped only at a checkpoint, and only if no head refers to any handle in
//! it. A vote that becomes the second one was the newest before, so its entry is still there.

use super::decide::{NO_VOTE, NewestVotes, Quick, exists};
use super::spans::{NO_HANDLE, SpanTable, packed};
use crate::epochs::same_block;
use crate::storage::{ByteReader, Cf, WriteBuffer, validator_key, validator_of};
use crate::tables::VoteSpan;
use consensus::{Epoch, ValidatorIndex};

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
struct PackedVotes([u32; 2]);

impl PackedVotes {
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
    pub to_mark: Vec<ValidatorIndex>,
    /// Members whose votes must be compared with everything stored.
    pub to_check: Vec<ValidatorIndex>,
}

/// The two newest votes of all validators.
#[derive(Default)]
pub(crate) struct NewestVotesTable {
    pages: Vec<Option<Box<[PackedVotes]>>>,
    spans: SpanTable,
    /// Validators whose heads were changed by votes before the tail since the last commit. They
    /// must be written with the next commit.
    late: Vec<ValidatorIndex>,
    /// Validators that the present checkpoint writes.
    dormant: Vec<ValidatorIndex>,
    pub n_validators: u64,
}

impl NewestVotesTable {
    /// The two newest votes of a validator.
    #[inline]
    pub fn get(&self, validator: ValidatorIndex) -> NewestVotes {
        head(&self.spans, read(&self.pages, validator))
    }

    /// Like [`NewestVotes::has_exceptions`], but cheaper.
    #[inline]
    pub fn has_exceptions(&self, validator: ValidatorIndex) -> bool {
        read(&self.pages, validator).has_exceptions()
    }

    /// Adds one vote for each of `validators` for which the two newest votes alone show that it
    /// joins the chain. Nearly every vote is handled here. `late` means that opening does not read
    /// the vote's epoch again. `joined` is emptied first.
    ///
    /// The heads of the validators are spread over memory. Waiting for them one by one would be
    /// most of the cost of a vote, so a few are read together. The most frequent case, a vote that
    /// is newer than the newest, is tested first.
    pub fn join_all(&mut self, validators: &[ValidatorIndex], vote: VoteSpan, late: bool, joined: &mut Joined) {
        joined.n_joined = 0;
        joined.to_mark.clear();
        joined.to_check.clear();
        self.spans.note(vote);
        for group in validators.chunks(TOGETHER) {
            let mut slots = [PackedVotes::EMPTY; TOGETHER];
            for (slot, validator) in slots.iter_mut().zip(group) {
                *slot = read(&self.pages, *validator);
            }
            for (slot, validator) in slots.iter().zip(group) {
                let newest = self.spans.span(slot.newest());
                let (first_of_block, changed);
                // A missing vote has the greatest possible target, so this comparison is false for
                // it.
                if newest.target < vote.target && newest.source <= vote.source && !slot.has_exceptions() {
                    entry(&mut self.pages, *validator).change(vote.handle, newest.handle);
                    (first_of_block, changed) = (!same_block(newest.target, vote.target), true);
                } else {
                    let head = head(&self.spans, *slot);
                    match if head.has_exceptions() { Quick::Unclear } else { head.decide(vote) } {
                        Quick::Same => continue,
                        Quick::Unclear => {
                            joined.to_check.push(*validator);
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
    pub fn observe(&mut self, validator: ValidatorIndex, vote: VoteSpan, late: bool) {
        self.spans.note(vote);
        let head = self.get(validator);
        if self.take(validator, &head, vote) && late {
            self.late.push(validator);
        }
    }

    /// Like [`Self::observe`] for many validators, as needed when opening. Validators that have
    /// votes outside their chain are appended to `outside` instead.
    pub fn observe_all(&mut self, validators: &[ValidatorIndex], vote: VoteSpan, outside: &mut Vec<ValidatorIndex>) {
        self.spans.note(vote);
        for group in validators.chunks(TOGETHER) {
            let mut slots = [PackedVotes::EMPTY; TOGETHER];
            for (slot, validator) in slots.iter_mut().zip(group) {
                *slot = read(&self.pages, *validator);
            }
            for (slot, validator) in slots.iter().zip(group) {
                match slot.has_exceptions() {
                    true => outside.push(*validator),
                    false => {
                        self.take(*validator, &head(&self.spans, *slot), vote);
                    }
                }
            }
        }
    }

    /// Marks that a validator has votes outside its chain.
    pub fn mark_exceptional(&mut self, validator: ValidatorIndex) {
        entry(&mut self.pages, validator).0[1] |= FLAG;
    }

    /// Removes votes before `before`, because those epochs are being pruned.
    pub fn forget(&mut self, before: Epoch) {
        for (validator, slot) in all(&mut self.pages) {
            let head = head(&self.spans, *slot);
            let is_gone = |vote: Option<VoteSpan>| vote.is_some_and(|vote| vote.target < before);
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
    pub fn stage_dormant(&mut self, batch: &mut WriteBuffer<'_>, tail_from: Epoch) {
        self.find_dormant(tail_from);
        for validator in &self.dormant {
            put(batch, *validator, &self.get(*validator));
        }
    }

    fn find_dormant(&mut self, tail_from: Epoch) {
        self.dormant.clear();
        for (validator, slot) in all(&mut self.pages).filter(|(_, slot)| slot.is_dirty()) {
            if !head(&self.spans, *slot).is_in_tail(tail_from) {
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
        self.spans.keep_named(named);
    }

    /// Reads a stored row.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let validator = validator_of(key)?;
        let mut reader = ByteReader(value);
        for _ in 0..2 {
            let mut number = || reader.array().map(u32::from_be_bytes);
            let mut epoch = || number().map(|epoch| Epoch::new(u64::from(epoch)));
            let (source, target) = (epoch()?, epoch()?);
            let vote = VoteSpan { source, target, handle: number()? & !FLAG };
            if exists(vote) && vote.handle <= MAX_HANDLE {
                self.observe(validator, vote, false);
            }
        }
        reader.is_empty().then_some(())
    }

    /// Adds a vote to a head. Returns `false` if the vote is older than both votes and so is not
    /// remembered.
    #[inline]
    fn take(&mut self, validator: ValidatorIndex, head: &NewestVotes, vote: VoteSpan) -> bool {
        let Some([newest, second]) = head.with(vote) else { return false };
        entry(&mut self.pages, validator).change(handle(newest), handle(second));
        self.n_validators += u64::from(head.newest().is_none());
        true
    }
}

#[inline]
fn head(spans: &SpanTable, slot: PackedVotes) -> NewestVotes {
    NewestVotes::new(spans.span(slot.newest()), spans.span(slot.second()), slot.has_exceptions())
}

#[inline]
fn handle(vote: VoteSpan) -> u32 {
    if exists(vote) { vote.handle } else { NO_HANDLE }
}

#[inline]
fn read(pages: &[Option<Box<[PackedVotes]>>], validator: ValidatorIndex) -> PackedVotes {
    let index = validator.as_u64() as usize;
    match pages.get(index / PAGE) {
        Some(Some(page)) => page[index % PAGE],
        _ => PackedVotes::EMPTY,
    }
}

#[inline]
fn entry(pages: &mut Vec<Option<Box<[PackedVotes]>>>, validator: ValidatorIndex) -> &mut PackedVotes {
    let index = validator.as_u64() as usize;
    let at = index / PAGE;
    if at >= pages.len() {
        pages.resize_with(at + 1, || None);
    }
    let page = pages[at].get_or_insert_with(|| vec![PackedVotes::EMPTY; PAGE].into_boxed_slice());
    &mut page[index % PAGE]
}

fn all(pages: &mut [Option<Box<[PackedVotes]>>]) -> impl Iterator<Item = (ValidatorIndex, &mut PackedVotes)> {
    let pages = pages.iter_mut().enumerate().filter_map(|(at, page)| page.as_mut().map(|page| (at, page)));
    pages.flat_map(|(at, page)| {
        page.iter_mut().enumerate().map(move |(within, slot)| (ValidatorIndex::new((at * PAGE + within) as u64), slot))
    })
}

fn put(batch: &mut WriteBuffer<'_>, validator: ValidatorIndex, head: &NewestVotes) {
    let mut value = Vec::with_capacity(24);
    for vote in [head.newest(), head.second()].map(|vote| vote.unwrap_or(NO_VOTE)) {
        for number in [packed(vote.source), packed(vote.target), vote.handle] {
            value.extend_from_slice(&number.to_be_bytes());
        }
    }
    batch.put(Cf::NewestVotes, &validator_key(validator), &value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::newest_votes::spans::HANDLES;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn eight_bytes_for_a_validator() {
        assert_eq!(size_of::<PackedVotes>(), 8);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// All of `validators` vote for the data with this number.
        Join {
            data: usize,
            validators: Vec<ValidatorIndex>,
            late: bool,
        },
        Observe {
            data: usize,
            validators: Vec<ValidatorIndex>,
        },
        Except(ValidatorIndex),
        Forget(Epoch),
        Checkpoint(Epoch),
    }

    /// Epochs at which a narrower number wraps around, and the greatest epoch that fits.
    const EDGES: [u64; 12] =
        [0, 1, 7, 8, 255, 256, 65_535, 65_536, 1 << 31, (1 << 31) + 1, u32::MAX as u64 - 2, u32::MAX as u64 - 1];

    /// Data whose handles are at the edges of pages, and the greatest handle.
    fn known_data() -> Vec<VoteSpan> {
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
                .map(|(source, handle)| VoteSpan { source: Epoch::new(source), target: Epoch::new(target), handle })
        });
        spans.collect()
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = known_data().len();
        let index = || prop_oneof![0u64..70, Just(PAGE as u64), Just(u64::from(u32::MAX) - 1)].prop_map(ValidatorIndex::new);
        let some = || prop::collection::btree_set(index(), 1..60);
        prop_oneof![
            8 => (0..n, some(), any::<bool>()).prop_map(|(data, validators, late)| Step::Join { data, validators: validators.into_iter().collect(), late }),
            3 => (0..n, some()).prop_map(|(data, validators)| Step::Observe { data, validators: validators.into_iter().collect() }),
            1 => (0u64..70).prop_map(|index| Step::Except(ValidatorIndex::new(index))),
            1 => prop::sample::select(&EDGES[..]).prop_map(|epoch| Step::Forget(Epoch::new(epoch))),
            3 => prop::sample::select(&EDGES[..]).prop_map(|epoch| Step::Checkpoint(Epoch::new(epoch))),
        ]
    }

    /// All votes of a chain by target. The heads must be the last two.
    #[derive(Default)]
    struct Model(BTreeMap<ValidatorIndex, BTreeMap<Epoch, VoteSpan>>);

    impl Model {
        fn newest(&self, validator: ValidatorIndex) -> [VoteSpan; 2] {
            let mut votes = self.0.get(&validator).into_iter().flat_map(|votes| votes.values().rev().copied());
            [votes.next().unwrap_or(NO_VOTE), votes.next().unwrap_or(NO_VOTE)]
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
                            if exceptional.contains(v) { Quick::Unclear } else { NewestVotes::new(newest, second, false).decide(vote) }
                        }).collect();
                        heads.join_all(&validators, vote, late, &mut joined);
                        let (mut n_joined, mut to_mark, mut to_check) = (0, Vec::new(), Vec::new());
                        for (validator, quick) in validators.iter().zip(expected) {
                            match quick {
                                Quick::Same => {}
                                Quick::Unclear => to_check.push(*validator),
                                Quick::Joins { first_of_block } => {
                                    n_joined += 1;
                                    if late || first_of_block {
                                        to_mark.push(*validator);
                                    }
                                    model.0.entry(*validator).or_default().insert(vote.target, vote);
                                }
                            }
                        }
                        prop_assert_eq!((joined.n_joined, &joined.to_mark, &joined.to_check), (n_joined, &to_mark, &to_check));
                    }
                    Step::Observe { data, validators } => {
                        // In a chain no validator has two votes with the same target.
                        let fits = |v: &ValidatorIndex| model.0.get(v).is_none_or(|votes| !votes.contains_key(&known[data].target));
                        let validators: Vec<ValidatorIndex> = validators.into_iter().filter(fits).collect();
                        let mut apart = Vec::new();
                        heads.observe_all(&validators, known[data], &mut apart);
                        let expected: Vec<ValidatorIndex> = validators.iter().copied().filter(|v| exceptional.contains(v)).collect();
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
                    let expected = model.newest(*validator).map(|vote| exists(vote).then_some(vote));
                    prop_assert_eq!([head.newest(), head.second()], expected, "validator {}", validator);
                    prop_assert_eq!(head.has_exceptions(), exceptional.contains(validator));
                }
                let n_validators = model.0.values().filter(|votes| !votes.is_empty()).count() as u64;
                prop_assert_eq!(heads.n_validators, n_validators);
            }
        }
    }
}
