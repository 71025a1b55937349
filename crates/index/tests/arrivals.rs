//! Compares the two arrival times and sources of a conflict with the simplest possible record: for
//! each validator's vote, the earliest message that carried it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SLOTS, data, open, shuffling, vote_in};
use consensus::{CommitteeIndex, Root, Slot, ValidatorIndex};
use index::Conflict;
use proptest::prelude::*;
use std::collections::BTreeMap;
use verify::{Arrival, Signed, SourceKind, Time, Vote};

/// A message that arrived at some time: members of a committee (or a listed validator) that signed
/// one of a few data.
#[derive(Clone, Debug)]
struct Message {
    source: u64,
    target: u64,
    head: u8,
    committee: u64,
    chosen: u32,
    listed: bool,
    at: u64,
}

fn message() -> impl Strategy<Value = Message> {
    (0u64..4, 1u64..5, 0u8..2, 0u64..2, 1u32.., any::<bool>(), 1u64..1000).prop_map(
        |(source, target, head, committee, chosen, listed, at)| Message { source, target, head, committee, chosen, listed, at },
    )
}

impl Message {
    fn vote(&self) -> Signed<Vote> {
        let (slot, shuffling) = (self.target * SLOTS, shuffling(self.target, 0));
        let committee = shuffling.committee(Slot::new(slot), CommitteeIndex::new(self.committee)).unwrap_or_default();
        let signers: Vec<u64> =
            (0u32..).zip(committee).filter(|(nth, _)| self.chosen >> (nth % 32) & 1 == 1).map(|(_, v)| u64::from(*v)).collect();
        let signers = if signers.is_empty() { vec![u64::from(self.chosen % 7)] } else { signers };
        let known = Some(shuffling.clone()).filter(|_| !self.listed && committee.contains(&(signers[0] as u32)));
        let mut vote = vote_in(data(self.source, self.target, slot, self.head), &signers, known).get().clone();
        // Each member has its own time and source, as in a sum of single votes.
        let arrival = |nth: u64| Arrival {
            at: Time(self.at + nth * 7 % 5),
            source: SourceKind::ALL[((u64::from(self.chosen) + nth) % 4) as usize],
        };
        vote.arrivals = (0..vote.indices.len() as u64).map(arrival).collect();
        let first = vote.arrivals.iter().min().unwrap();
        (vote.heard.at, vote.heard.source) = (first.at, first.source);
        Signed::for_tests(vote)
    }
}

/// For each validator and data: when and how the vote was first received.
type Earliest = BTreeMap<(ValidatorIndex, Root), Arrival>;

fn note(earliest: &mut Earliest, vote: &Vote) {
    for (validator, arrival) in vote.indices.iter().zip(&vote.arrivals) {
        let known = earliest.entry((*validator, vote.data_root)).or_insert(*arrival);
        *known = (*known).min(*arrival);
    }
}

fn check(conflicts: &[Conflict], earliest: &Earliest) {
    for conflict in conflicts {
        let (validator, sides, arrivals) = match conflict {
            Conflict::DoubleVote { validator, first, second, arrivals } => (*validator, [first, second], *arrivals),
            Conflict::Surround { validator, surrounding, surrounded, arrivals } => {
                (*validator, [surrounding, surrounded], *arrivals)
            }
            Conflict::DoubleProposal { .. } => unreachable!("only votes are staged"),
        };
        let expected = sides.map(|side| earliest[&(validator, side.data_root)]);
        assert_eq!(arrivals, expected, "validator {validator}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn times_and_sources_are_those_of_the_validators_own_messages(
        messages in prop::collection::vec(message(), 1..60),
        calls in prop::collection::vec(1usize..20, 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        let mut earliest = Earliest::new();
        let votes: Vec<Signed<Vote>> = messages.iter().map(Message::vote).collect();
        let (mut rest, mut sizes) = (votes.as_slice(), calls.iter().cycle());
        while !rest.is_empty() {
            let (call, left) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            rest = left;
            call.iter().for_each(|vote| note(&mut earliest, vote.get()));
            check(&index.stage_votes(call).unwrap(), &earliest);
            index.commit().unwrap();
        }
    }
}

/// After a start only sums are left. The time of a sum is never later than that of any vote in it.
#[test]
fn what_is_no_longer_known_is_told_by_the_sum() {
    let dir = tempfile::tempdir().unwrap();
    let sum = |head, times: [u64; 3]| {
        let mut vote = vote_in(data(0, 1, SLOTS, head), &[3, 4, 5], None).get().clone();
        vote.arrivals = times.map(|at| Arrival { at: Time(at), source: vote.heard.source }).to_vec();
        vote.heard.at = Time(times.into_iter().min().unwrap());
        Signed::for_tests(vote)
    };
    let mut index = open(dir.path());
    index.stage_votes(&[sum(1, [10_000, 20_000, 30_000])]).unwrap();
    index.commit().unwrap();
    drop(index);
    let mut index = open(dir.path());
    let conflicts = index.stage_votes(&[sum(2, [70_000, 50_000, 60_000])]).unwrap();
    let times: Vec<[u64; 2]> = conflicts
        .iter()
        .map(|conflict| match conflict {
            Conflict::DoubleVote { arrivals, .. } => arrivals.map(|arrival| arrival.at.0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [[10_000, 70_000], [10_000, 50_000], [10_000, 60_000]]);
}
