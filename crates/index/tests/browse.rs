//! Compares what is read for display with the simplest possible record of the same votes.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SLOTS, data, open, proposal, shuffling, vote_in};
use consensus::{CommitteeIndex, Epoch, Root, Slot, ValidatorIndex};
use index::Index;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use verify::{Signed, Time, Vote};

/// Members of a committee, or listed validators, that vote for one of a few heads.
#[derive(Clone, Debug)]
struct Message {
    source: u64,
    target: u64,
    slot: u64,
    head: u8,
    committee: u64,
    chosen: u32,
    listed: bool,
    at: u64,
}

fn message() -> impl Strategy<Value = Message> {
    (0u64..3, 1u64..12, 0..SLOTS, 0u8..3, 0u64..2, 1u32.., any::<bool>(), 1u64..1000).prop_map(
        |(source, target, slot, head, committee, chosen, listed, at)| Message {
            source,
            target,
            slot,
            head,
            committee,
            chosen,
            listed,
            at,
        },
    )
}

impl Message {
    /// The vote as it comes in a batch. Batches follow each other in time: what only repeats an
    /// earlier batch is passed over, whatever its time. `None` if the signers' keys add up to zero,
    /// so that no signature proves anything.
    fn vote(&self, batch: u64) -> Option<Signed<Vote>> {
        let (slot, shuffling) = (self.target * SLOTS + self.slot, shuffling(self.target, 0));
        let committee = shuffling.committee(Slot::new(slot), CommitteeIndex::new(self.committee)).unwrap_or_default();
        let signers: Vec<u64> =
            (0u32..).zip(committee).filter(|(nth, _)| self.chosen >> (nth % 32) & 1 == 1).map(|(_, v)| u64::from(*v)).collect();
        let known = (!self.listed && !signers.is_empty()).then(|| shuffling.clone());
        let signers = if signers.is_empty() { vec![u64::from(self.chosen % 7)] } else { signers };
        if common::cancel_out(signers.iter().copied()) {
            return None;
        }
        let mut vote = vote_in(data(self.source, self.target, slot, self.head), &signers, known).get().clone();
        let at = Time((batch * 1000 + self.at) * 1000);
        vote.heard.at = at;
        vote.arrivals.iter_mut().for_each(|arrival| arrival.at = at);
        Some(Signed::for_tests(vote))
    }
}

/// When a validator's vote for some data came.
struct First {
    target: Epoch,
    slot: Slot,
    /// The time of the earliest message.
    earliest: Time,
    /// The time of the first message that was staged. One of the same batch may be earlier, but if
    /// it only repeats this one, nothing of it is stored.
    stored: Time,
}

/// Each validator's vote for each data.
type Record = BTreeMap<(ValidatorIndex, Root), First>;

/// `reopened`: arrivals of single votes are not on disk, so the times are those of stored messages.
fn check(index: &Index, record: &Record, reopened: bool) {
    let validators: BTreeSet<ValidatorIndex> = record.keys().map(|(validator, _)| *validator).collect();
    for validator in validators {
        let own = || record.iter().filter(|((of, _), _)| *of == validator);
        let (mut before, mut read) = (Epoch::MAX, Vec::new());
        loop {
            let page = index.votes_before(validator, before, 2).unwrap();
            let targets: Vec<Epoch> = page.votes.iter().map(|vote| vote.data.target.epoch).collect();
            assert!(targets.is_sorted_by(|a, b| a >= b) && targets.iter().all(|target| *target < before), "{targets:?}");
            read.extend(page.votes);
            match page.next {
                Some(next) => before = next,
                None => break,
            }
        }
        let expected: BTreeSet<Root> = own().map(|((_, root), _)| *root).collect();
        assert_eq!(read.len(), expected.len(), "each vote once");
        assert_eq!(read.iter().map(|vote| vote.data_root).collect::<BTreeSet<_>>(), expected);
        for vote in read {
            let First { earliest, stored, .. } = record[&(validator, vote.data_root)];
            let shown = vote.arrival.unwrap().at;
            let is_right = if reopened { shown <= stored } else { shown == earliest };
            assert!(is_right, "{validator}: {shown:?}, earliest {earliest:?}, stored {stored:?}");
        }
        assert_eq!(index.first_epoch_of(validator).unwrap(), own().map(|(_, first)| first.target).min());
    }
    for slot in (0..13 * SLOTS).map(Slot::new) {
        let mut expected: BTreeMap<Root, u64> = BTreeMap::new();
        for ((_, root), _) in record.iter().filter(|(_, first)| first.slot == slot) {
            *expected.entry(*root).or_default() += 1;
        }
        let shown = index.votes_of_slot(slot).unwrap();
        let voters: BTreeSet<ValidatorIndex> =
            record.iter().filter(|(_, first)| first.slot == slot).map(|((validator, _), _)| *validator).collect();
        assert!(shown.voters == voters.len() as u64 || shown.voters_partial && shown.voters > voters.len() as u64, "{shown:?}");
        assert!(shown.votes.is_sorted_by(|a, b| a.voters >= b.voters), "most voters first");
        assert_eq!(shown.votes.iter().map(|votes| (votes.data.root(), votes.voters)).collect::<BTreeMap<_, _>>(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_of_votes_and_slots_have_every_vote_once(batches in prop::collection::vec(prop::collection::vec(message(), 1..6), 1..8)) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        let mut record = Record::new();
        for (nth, batch) in (0..).zip(&batches) {
            let votes: Vec<Signed<Vote>> = batch.iter().filter_map(|message| message.vote(nth)).collect();
            for vote in votes.iter().map(Signed::get) {
                for (validator, arrival) in vote.indices.iter().zip(&vote.arrivals) {
                    let (target, slot, at) = (vote.data.target.epoch, vote.data.slot, arrival.at);
                    let new = First { target, slot, earliest: at, stored: at };
                    let first = record.entry((*validator, vote.data_root)).or_insert(new);
                    first.earliest = first.earliest.min(at);
                }
            }
            index.stage_votes(&votes).unwrap();
            check(&index, &record, false);
            index.commit().unwrap();
        }
        check(&index, &record, false);
        drop(index);
        check(&open(dir.path()), &record, true);
    }
}

#[test]
fn a_slot_has_the_seats_of_its_committees() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let shuffling = shuffling(4, 0);
    let slot = Slot::new(4 * SLOTS + 3);
    let seats: Vec<u64> = (0..4)
        .filter_map(|committee| shuffling.committee(slot, CommitteeIndex::new(committee)))
        .flat_map(|committee| committee.iter().map(|validator| u64::from(*validator)))
        .collect();
    let one = shuffling.committee(slot, CommitteeIndex::new(0)).unwrap().iter().map(|validator| u64::from(*validator));
    let one: Vec<u64> = one.collect();
    index.stage_votes(&[vote_in(data(3, 4, slot.as_u64(), 1), &one, Some(shuffling.clone()))]).unwrap();
    let shown = index.votes_of_slot(slot).unwrap();
    assert_eq!((shown.votes[0].voters, shown.seats), (one.len() as u64, Some(seats.len() as u64)));
    // Half of the committee signs something else too, and one of them in a list.
    index.stage_votes(&[vote_in(data(3, 4, slot.as_u64(), 2), &one[..one.len() / 2], Some(shuffling))]).unwrap();
    index.stage_votes(&[vote_in(data(3, 4, slot.as_u64(), 3), &one[..1], None)]).unwrap();
    let shown = index.votes_of_slot(slot).unwrap();
    assert_eq!((shown.votes.len(), shown.voters, shown.voters_partial), (3, one.len() as u64, false), "each counts once");
    assert_eq!(index.votes_of_slot(Slot::new(4)).unwrap(), index::VotesOfSlot::default());
    assert_eq!(index.votes_before(ValidatorIndex::MAX, Epoch::MAX, 8).unwrap(), index::VotePage::default());
}

#[test]
fn proposals_come_by_slot_and_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.stage_proposals(&[proposal(9, 1, 1), proposal(7, 2, 1), proposal(7, 2, 2), proposal(11, 3, 1)]).unwrap();
    let slots = |index: &Index, limit| -> Vec<u64> {
        let found = index.proposals_in(Slot::new(7), Slot::new(9), limit).unwrap();
        found.iter().map(|proposal| proposal.header.slot.as_u64()).collect()
    };
    assert_eq!(slots(&index, 8), [7, 7, 9]);
    index.commit().unwrap();
    assert_eq!((slots(&index, 8), slots(&index, 2).len()), (vec![7, 7, 9], 2));
}
