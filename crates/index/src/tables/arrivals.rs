//! When and how each validator's own vote arrived. A finding takes its two times and its sources
//! from here.
//!
//! A sum has only one time and one source, those of the earliest message in it. That message may
//! have come seconds before another member's message. So the arrival of each validator's vote is
//! kept in memory, 8 bytes each, for as many target epochs as fit into [`MAX_BYTES`]. These are six
//! epochs of a million validators, two epochs if the voters are spread over a registry of 2.5
//! million, and thousands of epochs on a test network. The epochs that were used last are kept.
//!
//! Arrivals are not written to disk, because a million of them would take thirty times as much as
//! an epoch's proofs. After a start, and for epochs that were dropped, a finding has the time and
//! source of the sum that proves the vote. This time is equal to the vote's own arrival or earlier.

use crate::storage::{SOURCE_BITS, source_number, source_of};
use consensus::{Epoch, ValidatorIndex};
use std::collections::HashMap;
use verify::{Arrival, Time};

/// Limit for arrivals of votes in their validator's chain.
const MAX_BYTES: usize = 48 << 20;
/// Limit for arrivals of votes outside the chain. At most twice as many are kept, 24 bytes each.
const MAX_OUTSIDE: usize = 1 << 16;
/// Number of validators per page. It is small, so that a single vote for a far epoch costs little
/// memory.
const PAGE: usize = 512;
/// Number of votes whose memory is read together before it is written.
const TOGETHER: usize = 64;

/// An [`Arrival`] in eight bytes: nanoseconds since the Unix epoch, followed by three bits for the
/// source. So the smaller value is the earlier arrival. An arrival after the year 2043 is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed(u64);

impl Packed {
    /// No arrival is known. It is also the value of an arrival at time 0 with the first source.
    const UNKNOWN: Self = Self(0);

    #[inline]
    fn of(arrival: Arrival) -> Self {
        let fits = arrival.at.0 >> (u64::BITS - SOURCE_BITS) == 0;
        if fits { Self(arrival.at.0 << SOURCE_BITS | u64::from(source_number(arrival.source))) } else { Self::UNKNOWN }
    }

    fn get(self) -> Option<Arrival> {
        let source = source_of((self.0 & ((1 << SOURCE_BITS) - 1)) as u8)?;
        (self != Self::UNKNOWN).then_some(Arrival { at: Time(self.0 >> SOURCE_BITS), source })
    }

    /// The earlier one of two arrivals.
    #[inline]
    fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::UNKNOWN, known) | (known, Self::UNKNOWN) => known,
            _ => self.min(other),
        }
    }
}

/// The arrivals for one target epoch. A chain has one vote for each target.
#[derive(Default)]
struct EpochArrivals {
    pages: Vec<Option<Box<[Packed; PAGE]>>>,
    used: u64,
    n_bytes: usize,
}

impl EpochArrivals {
    /// Reads the memory of several votes, one directly after another. The members of a committee
    /// are spread over memory, so the processor waits for all of these reads at once instead of for
    /// each one.
    fn touch(&self, some: &[(ValidatorIndex, Packed)]) {
        let place = |validator: ValidatorIndex| {
            let index = validator.as_u64() as usize;
            Some(self.pages.get(index / PAGE)?.as_ref()?[index % PAGE].0)
        };
        let read = some.iter().filter_map(|(validator, _)| place(*validator)).fold(0, |read, place| read ^ place);
        std::hint::black_box(read);
    }

    /// Notes an arrival. The earlier one is kept.
    #[inline]
    fn note(&mut self, validator: ValidatorIndex, arrival: Packed) {
        let index = validator.as_u64() as usize;
        let number = index / PAGE;
        if number >= self.pages.len() {
            self.n_bytes += (number + 1 - self.pages.len()) * size_of::<Option<Box<[Packed; PAGE]>>>();
            self.pages.resize_with(number + 1, || None);
        }
        let page = self.pages[number].get_or_insert_with(|| {
            self.n_bytes += size_of::<[Packed; PAGE]>();
            Box::new([Packed::UNKNOWN; PAGE])
        });
        let known = &mut page[index % PAGE];
        *known = known.earlier(arrival);
    }
}

/// The arrivals of all validators' votes that are kept in memory.
#[derive(Default)]
pub(crate) struct Arrivals {
    by_epoch: HashMap<Epoch, EpochArrivals>,
    /// By validator and handle of the data. The first map contains the latest arrivals. When it is
    /// full, it replaces the second one, and a new map is started.
    outside: [HashMap<(ValidatorIndex, u32), Packed>; 2],
    n_bytes: usize,
    clock: u64,
}

impl Arrivals {
    /// Notes the arrivals of chain votes for one target. The earliest arrival of each vote is kept.
    /// Epochs that were not used for longest are dropped to make room.
    pub fn note(&mut self, target: Epoch, votes: impl Iterator<Item = (ValidatorIndex, Arrival)>) {
        let mut votes = votes.peekable();
        if votes.peek().is_none() {
            return;
        }
        self.clock += 1;
        let epoch = self.by_epoch.entry(target).or_default();
        epoch.used = self.clock;
        let before = epoch.n_bytes;
        let mut some = Vec::with_capacity(TOGETHER);
        while votes.peek().is_some() {
            some.extend(votes.by_ref().take(TOGETHER).map(|(validator, arrival)| (validator, Packed::of(arrival))));
            epoch.touch(&some);
            some.drain(..).for_each(|(validator, arrival)| epoch.note(validator, arrival));
        }
        self.n_bytes += epoch.n_bytes - before;
        while self.n_bytes > MAX_BYTES && self.by_epoch.len() > 1 {
            let oldest = self.by_epoch.iter().min_by_key(|(_, epoch)| epoch.used).map(|(target, _)| *target);
            let dropped = oldest.and_then(|target| self.by_epoch.remove(&target));
            self.n_bytes -= dropped.map_or(0, |epoch| epoch.n_bytes);
        }
    }

    /// Notes the arrival of a vote outside its validator's chain.
    pub fn note_outside(&mut self, validator: ValidatorIndex, handle: u32, arrival: Arrival) {
        let known = self.outside(validator, handle).unwrap_or(Packed::UNKNOWN);
        let earlier = known.earlier(Packed::of(arrival));
        if self.outside[0].len() >= MAX_OUTSIDE {
            self.outside[1] = std::mem::take(&mut self.outside[0]);
        }
        self.outside[0].insert((validator, handle), earlier);
    }

    /// The arrival of the chain's vote with this target.
    pub fn of_chain(&self, validator: ValidatorIndex, target: Epoch) -> Option<Arrival> {
        let index = validator.as_u64() as usize;
        let page = self.by_epoch.get(&target)?.pages.get(index / PAGE)?.as_ref()?;
        page[index % PAGE].get()
    }

    /// The arrival of a vote outside its validator's chain.
    pub fn of_outside(&self, validator: ValidatorIndex, handle: u32) -> Option<Arrival> {
        self.outside(validator, handle)?.get()
    }

    fn outside(&self, validator: ValidatorIndex, handle: u32) -> Option<Packed> {
        self.outside.iter().find_map(|some| some.get(&(validator, handle)).copied())
    }

    /// Drops the arrivals for targets before `before`, because those epochs are being pruned.
    pub fn forget(&mut self, before: Epoch) {
        self.by_epoch.retain(|target, _| *target >= before);
        self.n_bytes = self.by_epoch.values().map(|epoch| epoch.n_bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verify::SourceKind;

    fn at(ns: u64) -> Arrival {
        Arrival { at: Time(ns), source: SourceKind::Gossip }
    }

    #[test]
    fn eight_bytes_hold_time_and_source() {
        for source in SourceKind::ALL {
            for ns in [1, 1_700_000_000_123_456_789, (1 << 61) - 1] {
                let arrival = Arrival { at: Time(ns), source };
                assert_eq!(Packed::of(arrival).get(), Some(arrival));
            }
            assert_eq!(Packed::of(Arrival { at: Time(1 << 61), source }).get(), None, "past 2043");
        }
        let (block, gossip) = (Arrival { at: Time(5), source: SourceKind::Block }, at(6));
        assert_eq!(Packed::of(gossip).earlier(Packed::of(block)).get(), Some(block), "time goes before source");
        assert_eq!(Packed::UNKNOWN.earlier(Packed::of(gossip)).get(), Some(gossip));
        assert_eq!(Packed::of(gossip).earlier(Packed::UNKNOWN).get(), Some(gossip));
    }

    fn v(index: u64) -> ValidatorIndex {
        ValidatorIndex::new(index)
    }

    fn e(epoch: u64) -> Epoch {
        Epoch::new(epoch)
    }

    #[test]
    fn the_earliest_message_counts() {
        let mut arrivals = Arrivals::default();
        arrivals.note(e(7), [(v(3), at(50)), (v(70_000), at(20))].into_iter());
        arrivals.note(e(7), [(v(3), at(40)), (v(70_000), at(30))].into_iter());
        assert_eq!((arrivals.of_chain(v(3), e(7)), arrivals.of_chain(v(70_000), e(7))), (Some(at(40)), Some(at(20))));
        let unknown = [(4, 7), (3, 8), (3, u64::MAX)].map(|(validator, target)| arrivals.of_chain(v(validator), e(target)));
        assert_eq!(unknown, [None; 3]);
        arrivals.note_outside(v(3), 9, at(50));
        arrivals.note_outside(v(3), 9, at(60));
        let outside = (arrivals.of_outside(v(3), 9), arrivals.of_outside(v(3), 8));
        assert_eq!((outside, arrivals.of_chain(v(3), e(7))), ((Some(at(50)), None), Some(at(40))));
        arrivals.forget(e(8));
        assert_eq!(arrivals.of_chain(v(3), e(7)), None);
    }

    #[test]
    fn what_was_used_last_stays_and_all_is_bounded() {
        let mut arrivals = Arrivals::default();
        let everybody = || (0..1_000_000).map(|validator| (v(validator), at(1)));
        for target in 0..8 {
            arrivals.note(e(target), everybody());
            arrivals.note(e(0), [(v(1), at(1))].into_iter());
            assert!(arrivals.n_bytes <= MAX_BYTES);
        }
        let known: Vec<u64> = (0..8).filter(|target| arrivals.of_chain(v(1), e(*target)).is_some()).collect();
        assert_eq!(known, [0, 3, 4, 5, 6, 7], "the oldest in use, and the newest");
        // One validator votes for many far epochs.
        for target in 100..100_000 {
            arrivals.note(e(target), [(v(2_400_000), at(1))].into_iter());
        }
        assert!(arrivals.n_bytes <= MAX_BYTES);
        let n_epochs = arrivals.by_epoch.len();
        arrivals.note(e(1 << 30), std::iter::empty());
        assert_eq!(arrivals.by_epoch.len(), n_epochs, "nobody's votes take no room");
        for handle in 0..4 * MAX_OUTSIDE as u32 {
            arrivals.note_outside(v(1), handle, at(1));
        }
        assert!(arrivals.outside.iter().map(HashMap::len).sum::<usize>() <= 2 * MAX_OUTSIDE);
    }
}
