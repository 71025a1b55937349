//! Tests validators that sign without end. What is not stored is counted, and every kind of offence
//! is still found.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Oracle, Pair, data, open, pairs, proposal, told, vote};
use consensus::{AttestationData, Epoch, Offence, Root, ValidatorIndex};
use index::{Index, PairRules};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use verify::{Signed, Vote};

/// The number of votes in a list, and the number that is stored beyond it in one epoch, for one
/// validator and for all together.
const LISTED: u64 = 256;
const PER_VALIDATOR: u64 = 16;
const PER_EPOCH: u64 = 4096;
const FAR: u64 = 1 << 33;

fn one(index: &mut Index, vote: &Signed<Vote>) -> Vec<String> {
    told(&index.stage_votes(std::slice::from_ref(vote)).unwrap()).into_iter().collect()
}

fn span(source: u64, target: u64, validator: u64) -> Signed<Vote> {
    vote(data(source, target, target.wrapping_mul(8), 1), &[validator])
}

/// One of many data with the same epochs. None of them is equal to that of [`span`].
fn nth(source: u64, target: u64, n: u64) -> AttestationData {
    let mut data = data(source, target, target.wrapping_mul(8), 1);
    data.beacon_block_root = Root::from([(n >> 8) as u8 + 2; 32]);
    data.source.root = Root::from([n as u8; 32]);
    data
}

fn reopened(index: Index, dir: &Path) -> Index {
    let mut index = index;
    index.commit().unwrap();
    drop(index);
    open(dir)
}

#[test]
fn innocent_far_votes_do_not_hide_one_that_surrounds_all_that_follows() {
    for now in [None, Some(20)] {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        now.into_iter().for_each(|now| index.set_now(Epoch::new(now)));
        for n in 0..LISTED {
            assert_eq!(one(&mut index, &span(FAR + n, FAR + n + 1, 1)), [""; 0]);
        }
        assert_eq!(one(&mut index, &span(10, 1 << 32, 1)), [""; 0]);
        for n in 0..2 * PER_VALIDATOR {
            assert_eq!(one(&mut index, &span(FAR + LISTED + n, FAR + LISTED + n + 1, 1)), [""; 0]);
        }
        assert_eq!(one(&mut index, &span(11, 12, 1)), ["surround 1: 10->4294967296 over 11->12"]);
        let mut index = reopened(index, dir.path());
        assert_eq!(one(&mut index, &span(12, 13, 1)), ["surround 1: 10->4294967296 over 12->13"]);
    }
}

#[test]
fn a_list_full_of_double_votes_does_not_hide_a_surround() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.set_now(Epoch::new(110));
    one(&mut index, &span(90, 100, 1));
    for n in 0..LISTED + 2 * PER_VALIDATOR {
        one(&mut index, &vote(nth(90, 100, n), &[1]));
    }
    assert_eq!(index.stats().votes_over_cap, PER_VALIDATOR);
    assert!(one(&mut index, &span(80, 100, 1)).contains(&"double 1 at 100".to_owned()));
    assert_eq!(one(&mut index, &span(85, 95, 1)), ["surround 1: 80->100 over 85->95"]);
}

/// An old fork's version cannot be punished any more. Whoever fills its list with contradictions of
/// that fork must not hide those of today.
#[test]
fn pairs_that_cannot_be_punished_do_not_hide_one_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.set_now(Epoch::new(1_100));
    let can_be_punished = |_: ValidatorIndex, targets: [Epoch; 2]| targets.iter().all(|target| target.as_u64() >= 1_000);
    let one = |index: &mut Index, vote: Signed<Vote>| {
        let rules = PairRules { wants: &mut |_, _, _| true, can_be_punished: &can_be_punished };
        told(&index.stage_votes_if(&[vote], rules).unwrap()).into_iter().collect::<Vec<_>>()
    };
    one(&mut index, span(90, 100, 1));
    assert_eq!(one(&mut index, span(80, 110, 1)), ["surround 1: 80->110 over 90->100"]);
    for n in 0..LISTED + 2 * PER_VALIDATOR {
        one(&mut index, vote(nth(90, 100, n), &[1]));
    }
    assert_eq!(index.stats().votes_over_cap, PER_VALIDATOR + 1, "the list is full, and the epoch's share is used up");
    assert_eq!(one(&mut index, span(1_049, 1_050, 1)), [""; 0]);
    assert_eq!(one(&mut index, vote(nth(1_049, 1_050, 1), &[1])), ["double 1 at 1050"]);
    let surrounds = one(&mut index, span(1_040, 1_060, 1));
    assert_eq!(surrounds, ["surround 1: 1040->1060 over 1049->1050"]);
    // From now on its further votes are dropped, and so are those of the old fork.
    assert_eq!(one(&mut index, span(1_041, 1_061, 1)), [""; 0]);
    assert_eq!(one(&mut index, vote(nth(90, 100, 5_000), &[1])), [""; 0]);
    assert_eq!(index.stats().votes_over_cap, PER_VALIDATOR + 3);
}

#[test]
fn a_vote_that_is_no_longer_listed_is_found_among_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.set_now(Epoch::new(3100));
    // There are two votes for each target. No vote surrounds another one.
    for n in 0..300u64 {
        assert_eq!(one(&mut index, &span(10 * n, 10 * n + 20, 1)), [""; 0]);
        assert_eq!(one(&mut index, &span(10 * n + 5, 10 * n + 20, 1)), [format!("double 1 at {}", 10 * n + 20)]);
    }
    let mut index = reopened(index, dir.path());
    index.set_now(Epoch::new(3100));
    let roots = |index: &Index| index.votes_of(ValidatorIndex::new(1)).unwrap().votes.len();
    assert_eq!(roots(&index), 600);
    assert_eq!(one(&mut index, &span(205, 220, 1)), [""; 0], "known");
    assert_eq!(one(&mut index, &span(203, 221, 1)), ["surround 1: 203->221 over 205->220"]);
}

#[test]
fn an_offender_is_heard_again_in_later_epochs_and_after_its_votes_are_pruned() {
    for prune in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        index.set_now(Epoch::new(20));
        one(&mut index, &span(9, 10, 1));
        one(&mut index, &span(8, 11, 1));
        for n in 0..LISTED + 2 * PER_VALIDATOR {
            one(&mut index, &vote(nth(9, 10, n), &[1]));
        }
        assert!(one(&mut index, &vote(nth(9, 10, 5000), &[1])).is_empty(), "the share of this epoch is used up");
        let mut index = reopened(index, dir.path());
        if prune {
            index.prune(Epoch::new(1000)).unwrap();
        }
        index.set_now(Epoch::new(1100));
        assert!(one(&mut index, &span(1099, 1100, 1)).is_empty());
        assert_eq!(one(&mut index, &vote(nth(1099, 1100, 1), &[1])), ["double 1 at 1100"], "pruned: {prune}");
        if prune {
            // Pruned votes take up no room in the list.
            let more = (2..100).filter(|n| !one(&mut index, &vote(nth(1099, 1100, *n), &[1])).is_empty());
            assert_eq!(more.count(), 98);
        }
    }
}

#[test]
fn stale_votes_on_a_list_are_no_offence() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &span(FAR, FAR + 1, 1));
    one(&mut index, &span(4, 5, 1));
    index.prune(Epoch::new(FAR + 2)).unwrap();
    let mut index = reopened(index, dir.path());
    // It would surround the far vote, for which there is no proof any more.
    assert_eq!(one(&mut index, &span(7, FAR + 3, 1)), [""; 0]);
    assert!(!index.votes_of(ValidatorIndex::new(1)).unwrap().offender);
}

#[test]
fn votes_for_a_far_future_are_bounded_and_never_lead_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.set_now(Epoch::new(10));
    one(&mut index, &span(8, 9, 1));
    let n_signed = LISTED + PER_EPOCH + 500;
    for n in 0..n_signed {
        assert_eq!(one(&mut index, &span(20 + n, 1000 + n, 1)), [""; 0]);
    }
    assert_eq!(index.stats().votes_over_cap, 500);
    assert_eq!(index.stats().different_data, 1 + LISTED + PER_EPOCH);
    let mut index = reopened(index, dir.path());
    index.set_now(Epoch::new(10));
    let known = index.votes_of(ValidatorIndex::new(1)).unwrap();
    assert_eq!(known.votes.iter().filter(|vote| !vote.outside_chain).count(), 1, "one vote is no future");
    assert_eq!(known.votes.len() as u64, 1 + LISTED);
    assert!(!known.offender);
    assert_eq!(one(&mut index, &span(9, 10, 1)), [""; 0]);
    assert_eq!(one(&mut index, &span(21, 22, 1)), ["surround 1: 20->1000 over 21->22"]);
    // Epochs later, the votes that were far are not far any more.
    index.set_now(Epoch::new(1000));
    assert_eq!(
        one(&mut index, &span(19, 1001, 1)),
        ["double 1 at 1001", "surround 1: 19->1001 over 20->1000", "surround 1: 19->1001 over 21->22"]
    );
}

#[test]
fn proposals_for_a_far_future_are_bounded_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.set_now(Epoch::new(10));
    let far: Vec<_> = (0..1200).map(|n| proposal(8 * 1000 + n, 3, 1)).collect();
    index.stage_proposals(&far).unwrap();
    assert_eq!((index.stats().proposals, index.stats().proposals_over_cap), (1024, 176));
    assert!(index.stage_proposals(&[proposal(80, 3, 1)]).unwrap().is_empty());
    assert_eq!(index.stage_proposals(&[proposal(80, 3, 2)]).unwrap().len(), 1, "near ones have their room");
    index.set_now(Epoch::new(11));
    assert_eq!(index.stage_proposals(&[proposal(8 * 1000, 3, 2)]).unwrap().len(), 1);
}

/// The first epoch of the tail, as stored.
fn tail_from(dir: &Path) -> u64 {
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), dir).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), dir, names, false).unwrap();
    let state = db.get(b"state").unwrap().unwrap();
    u64::from_be_bytes(state[..8].try_into().unwrap())
}

#[test]
fn one_validator_cannot_move_the_tail_into_the_future() {
    for target in [20u64, 400, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        index.set_now(Epoch::new(10));
        for n in 0..8 {
            one(&mut index, &span(10 + n, target + n, 1));
        }
        index.flush().unwrap();
        drop(index);
        assert!(tail_from(dir.path()) <= 10, "tail from {}", tail_from(dir.path()));
    }
}

/// The votes of one validator: first a flood of many votes for the same targets, where no vote
/// surrounds another one, or of innocent votes for the far future, or of both; then a few votes
/// that may be anything.
fn endless() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    let doubles = (0u64..30, 0u64..10, 0u64..3).prop_map(|(k, r, head)| (10 * k + r, 10 * k + 20, head));
    let innocent = (0u64..4000).prop_map(|n| (FAR + n, 2 * FAR + n, 0));
    let odd = prop_oneof![
        (0u64..330, 0u64..330).prop_map(|(source, target)| (source, target, 7)),
        (0u64..330).prop_map(|source| (source, FAR, 7)),
    ];
    let both = prop_oneof![1 => doubles.clone(), 3 => innocent.clone()];
    let flood = prop_oneof![
        prop::collection::vec(doubles, 300..600),
        prop::collection::vec(innocent, 257..300),
        prop::collection::vec(both, 300..600)
    ];
    (flood, prop::collection::vec(odd, 2..8)).prop_map(|(mut votes, odd)| {
        votes.extend(odd);
        votes
    })
}

fn kinds<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> BTreeSet<(Offence, u64)> {
    pairs.into_iter().map(|(kind, validator, ..)| (*kind, *validator)).collect()
}

proptest! {
    #![proptest_config(config(6))]

    /// When the list is full, not every pair is reported, but every kind of offence is found, and
    /// every reported pair is a true one.
    #[test]
    fn every_kind_is_found_whatever_else_is_signed(votes in endless(), now in prop::option::of(0u64..400), commits: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        let mut oracle = Oracle::default();
        let mut named = BTreeSet::new();
        for (n, (source, target, head)) in votes.iter().enumerate() {
            now.into_iter().for_each(|now| index.set_now(Epoch::new(now)));
            let vote = vote(data(*source, *target, target.wrapping_mul(8), 10 + *head as u8), &[1]);
            oracle.add(vote.get());
            named.extend(pairs(&index.stage_votes(&[vote]).unwrap()));
            if commits && n % 97 == 96 {
                index = reopened(index, dir.path());
            }
        }
        prop_assert!(named.is_subset(&oracle.pairs));
        prop_assert_eq!(kinds(&named), kinds(&oracle.pairs));
    }
}

/// The environment variable `PROPTEST_CASES` sets another number of cases.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").map_or(cases, |text| text.parse().expect("a number of cases"));
    ProptestConfig { cases, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() }
}
