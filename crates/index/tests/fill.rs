//! Fills history afterwards, in any order. The same offenders must be found as live, and most votes
//! must be judged without the slow way.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Oracle, data, open, pairs, shuffling, vote_in};
use consensus::{CommitteeIndex, Slot};
use std::collections::BTreeSet;
use verify::{Signed, Vote};

/// The votes of all validators in an epoch. Some of them contradict their earlier votes.
fn epoch(target: u64) -> Vec<Signed<Vote>> {
    let shuffling = shuffling(target, 0);
    let mut votes = Vec::new();
    for slot in 0..8 {
        for committee in 0..shuffling.committees_per_slot() {
            let at = Slot::new(target * 8 + slot);
            let members = shuffling.committee(at, CommitteeIndex::new(committee)).unwrap();
            let all: Vec<u64> = members.iter().map(|v| u64::from(*v)).collect();
            let (odd, plain): (Vec<u64>, Vec<u64>) = all.into_iter().partition(|v| (v * 31 + target * 17).is_multiple_of(53));
            votes.push(vote_in(data(target - 1, target, at.as_u64(), 1), &plain, Some(shuffling.clone())));
            if !odd.is_empty() {
                votes.push(vote_in(data(target.saturating_sub(6), target, at.as_u64(), 2), &odd, Some(shuffling.clone())));
                votes.push(vote_in(data(target - 1, target, at.as_u64(), 3), &odd[..1], Some(shuffling.clone())));
            }
        }
    }
    votes
}

#[test]
fn whole_epochs_in_any_order_are_judged_like_live_ones() {
    let mut oracle = Oracle::default();
    let epochs: Vec<u64> = (1..=40).collect();
    epochs.iter().flat_map(|target| epoch(*target)).for_each(|vote| oracle.add(vote.get()));
    assert!(oracle.pairs.len() > 20);
    let backwards: Vec<u64> = epochs.iter().rev().copied().collect();
    let live_then_history: Vec<u64> = (30..=40).chain(1..30).collect();
    let scattered: Vec<u64> = epochs.iter().map(|n| n * 17 % 41).collect();
    for order in [epochs, backwards, live_then_history, scattered] {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        let mut named = BTreeSet::new();
        let (mut n_votes, mut n_slow) = (0, 0);
        for (n, target) in order.iter().enumerate() {
            named.extend(pairs(&index.stage_votes(&epoch(*target)).unwrap()));
            index.commit().unwrap();
            if n % 13 == 12 || n + 1 == order.len() {
                let stats = index.stats();
                (n_votes, n_slow) = (n_votes + stats.new_votes, n_slow + stats.slow_votes);
                drop(index);
                index = open(dir.path());
            }
        }
        assert_eq!(named, oracle.pairs, "in order {order:?}");
        // There are many offenders here, and they are judged one by one. Other validators must not
        // be, whatever the order.
        assert!(n_slow * 2 < n_votes, "{n_slow} of {n_votes} votes went the slow way in order {order:?}");
    }
}
