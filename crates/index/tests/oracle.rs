//! Compares the index with a loop over all pairs: random votes in random order, divided into
//! batches, with restarts, crashes before a commit, flushes, folding and pruning. Every pair is
//! found once, with proof, and no other validator is reported.
#![allow(clippy::unwrap_used)]

mod common;

use common::{N_VALIDATORS, Oracle, SLOTS, cancel_out, data, open, pairs, shuffling, vote_in};
use consensus::{CommitteeIndex, Epoch, Slot, ValidatorIndex};
use index::KnownVote;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use verify::{Signed, Vote};

#[derive(Clone, Debug)]
enum Step {
    /// The members are part of a committee, part of a slot, or any validators, depending on `sort`.
    Vote {
        sort: u8,
        branch: u8,
        target: u64,
        back: u8,
        slot: u64,
        committee: u64,
        head: u8,
        members: u32,
    },
    Far {
        source: u64,
        target: u64,
        validator: u64,
        head: u8,
    },
    /// A vote of one of two validators with opposite keys.
    Opposite {
        target: u64,
        pair: u64,
        second: bool,
        head: u8,
    },
    Commit,
    Flush,
    /// Closes the index and opens it again, without losing anything.
    Reopen,
    /// Ends with uncommitted votes, opens the index and feeds them again.
    Crash,
    Prune {
        before: u64,
    },
    Fold {
        before: u64,
    },
    /// The owner sets the network's epoch, so later targets may be far.
    Now {
        epoch: u64,
    },
}

fn step(epochs: u64, offences: bool) -> impl Strategy<Value = Step> {
    let vote = (0u8..10, 0u8..3, 0..epochs, any::<u8>(), 0..SLOTS, 0u64..3, 0u8..8, any::<u32>()).prop_map(
        move |(sort, branch, target, back, slot, committee, head, members)| Step::Vote {
            sort,
            branch,
            target,
            // The source is mostly the epoch before the target. Sometimes it is another epoch,
            // which may be after the target.
            back: if back < if offences { 170 } else { 253 } { 1 } else { back % 12 },
            slot,
            committee,
            head: if head == 7 { 1 } else { 0 },
            members,
        },
    );
    let edge =
        prop_oneof![0u64..14, Just(u64::from(u32::MAX) - 1), Just(u64::from(u32::MAX)), Just(u64::MAX - 1), Just(u64::MAX)];
    let far = (edge.clone(), edge, 0..u64::from(N_VALIDATORS), 0u8..2).prop_map(|(source, target, validator, head)| Step::Far {
        source,
        target,
        validator,
        head,
    });
    let opposite = (0..epochs.min(4), 0u64..2, any::<bool>(), prop_oneof![6 => Just(100u8), 1 => Just(101)])
        .prop_map(|(target, pair, second, head)| Step::Opposite { target, pair, second, head });
    prop_oneof![
        40 => vote,
        2 => far,
        3 => opposite,
        12 => Just(Step::Commit),
        1 => Just(Step::Flush),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
        1 => (0..epochs).prop_map(|before| Step::Prune { before: before / 3 }),
        1 => (0..epochs).prop_map(|before| Step::Fold { before }),
        1 => (0..epochs).prop_map(|epoch| Step::Now { epoch: epoch / 4 }),
    ]
}

fn built(step: &Step) -> Option<Signed<Vote>> {
    match step {
        Step::Vote { sort, branch, target, back, slot, committee, head, members } => {
            let shuffling = shuffling(*target, *branch);
            let at = Slot::new(target * SLOTS + slot);
            let (candidates, shuffling) = match sort {
                // One committee, which is the most frequent case.
                0..=5 => {
                    let committee = CommitteeIndex::new(committee % shuffling.committees_per_slot());
                    (shuffling.committee(at, committee).unwrap().to_vec(), Some(shuffling))
                }
                // Members of several committees, as in an on-chain aggregate.
                6 | 7 => {
                    let all = (0..shuffling.committees_per_slot()).map(CommitteeIndex::new);
                    (all.flat_map(|c| shuffling.committee(at, c).unwrap().to_vec()).collect(), Some(shuffling))
                }
                // The shuffling is not known.
                8 => ((0..N_VALIDATORS).collect(), None),
                // Members outside their committee.
                _ => ((0..N_VALIDATORS).collect::<Vec<_>>(), Some(shuffling)),
            };
            let mut signers: Vec<u64> = candidates.iter().map(|v| u64::from(*v)).collect();
            let chosen = *members;
            let mut nth = 0;
            signers.retain(|_| {
                nth += 1;
                (chosen >> (nth % 32)) & 1 == 1 && (candidates.len() < 20 || nth % 3 == chosen % 3)
            });
            if signers.is_empty() {
                signers.push(u64::from(candidates[chosen as usize % candidates.len()]));
            }
            if cancel_out(signers.iter().copied()) {
                signers.pop();
            }
            let source =
                (target + 6).saturating_sub(6 + u64::from(*back)).max(if *back > 6 { target + u64::from(*back) - 6 } else { 0 });
            let head = head + 10 * branch;
            Some(vote_in(data(source, *target, at.as_u64(), head), &signers, shuffling))
        }
        Step::Far { source, target, validator, head } => Some(vote_in(data(*source, *target, 5, *head), &[*validator], None)),
        Step::Opposite { target, pair, second, head } => {
            let seen = data(target.saturating_sub(1), *target, target * SLOTS, *head);
            Some(vote_in(seen, &[4 + 7 * pair + u64::from(*second)], None))
        }
        Step::Commit | Step::Flush | Step::Reopen | Step::Crash | Step::Prune { .. } | Step::Fold { .. } | Step::Now { .. } => {
            None
        }
    }
}

fn run(steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let mut oracle = Oracle::default();
    let mut named = BTreeSet::new();
    let mut uncommitted: Vec<Signed<Vote>> = Vec::new();
    for step in steps {
        if let Some(vote) = built(step) {
            let found = pairs(&index.stage_votes(std::slice::from_ref(&vote)).unwrap());
            let before = oracle.pairs.clone();
            oracle.add(&vote);
            let expected: BTreeSet<_> = oracle.pairs.difference(&before).copied().collect();
            assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "named twice at {step:?}");
            let found: BTreeSet<_> = found.into_iter().collect();
            assert_eq!(found, expected, "at {step:?}");
            named.extend(found);
            uncommitted.push(vote);
        }
        match step {
            Step::Commit => {
                index.commit().unwrap();
                uncommitted.clear();
            }
            Step::Flush => {
                index.flush().unwrap();
                uncommitted.clear();
            }
            Step::Reopen => {
                index.commit().unwrap();
                uncommitted.clear();
                drop(index);
                index = open(dir.path());
            }
            Step::Crash => {
                drop(index);
                index = open(dir.path());
                let again: BTreeSet<_> = pairs(&index.stage_votes(&uncommitted).unwrap()).into_iter().collect();
                assert!(again.is_subset(&named), "invented after a crash");
            }
            Step::Prune { before } => {
                index.prune(Epoch::new(*before)).unwrap();
                oracle.prune(*before);
                uncommitted.clear();
                // Pruned votes are no longer known, so a pair may be reported again if its votes
                // come again.
                let known: BTreeSet<_> = oracle.votes.values().flat_map(|votes| votes.keys()).collect();
                oracle.pairs.retain(|(_, _, a, b)| known.contains(a) && known.contains(b));
            }
            Step::Fold { before } => {
                // Folding does not commit what is staged.
                while index.fold_next(Epoch::new(*before)).unwrap() {}
            }
            Step::Now { epoch } => index.set_now(Epoch::new(*epoch)),
            Step::Vote { .. } | Step::Far { .. } | Step::Opposite { .. } => {}
        }
    }
    index.commit().unwrap();
    drop(index);
    let mut index = open(dir.path());
    for validator in 0..u64::from(N_VALIDATORS) {
        let known = index.votes_of(ValidatorIndex::new(validator)).unwrap();
        let roots: BTreeSet<_> = known.votes.iter().map(|vote| vote.data_root).collect();
        let expected: BTreeSet<_> = oracle.votes.get(&validator).into_iter().flat_map(|votes| votes.keys().copied()).collect();
        assert_eq!(roots, expected, "votes of {validator}");
    }
    let everybody: BTreeSet<ValidatorIndex> = (0..u64::from(N_VALIDATORS)).map(ValidatorIndex::new).collect();
    let mut together = BTreeMap::<ValidatorIndex, Vec<KnownVote>>::new();
    let mut visit = |validator, vote: &KnownVote| together.entry(validator).or_default().push(*vote);
    index.votes_of_several(&everybody, &mut visit, &mut |walked| assert!(walked.done <= walked.total, "{walked:?}")).unwrap();
    for validator in everybody {
        let alone = index.votes_of(validator).unwrap().votes;
        assert_eq!(together.remove(&validator).unwrap_or_default(), alone, "votes of {validator}, asked for with the others");
    }
    let again = steps.iter().filter_map(built).filter(|vote| {
        let known = |v: &ValidatorIndex| oracle.votes.get(&v.as_u64()).is_some_and(|votes| votes.contains_key(&vote.data_root));
        vote.indices.iter().all(known)
    });
    let again: Vec<_> = again.collect();
    assert_eq!(pairs(&index.stage_votes(&again).unwrap()), [], "known votes contradict nothing");
}

/// The environment variable `PROPTEST_CASES` sets another number of cases.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").map_or(cases, |text| text.parse().expect("a number of cases"));
    // A failing case is printed with its steps. Cases that were found are kept as individual tests
    // in known.rs.
    ProptestConfig { cases, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() }
}

/// A late vote causes a part of the summary to be written early. A vote of the tail is in that
/// part, and opening must still find it.
#[test]
fn a_part_of_the_summary_that_is_written_early_hides_nobody() {
    let vote =
        |sort, branch, target, slot, members| Step::Vote { sort, branch, target, back: 1, slot, committee: 0, head: 0, members };
    let far = |target| Step::Far { source: 0, target, validator: 0, head: 0 };
    run(&[
        vote(0, 0, 0, 0, 0),
        vote(8, 0, 0, 0, 1_673_654_984),
        vote(0, 0, 10, 0, 0),
        far(u64::from(u32::MAX) - 1),
        far(12),
        vote(0, 0, 11, 0, 0),
        vote(3, 2, 5, 6, 3_054_545_757),
        Step::Prune { before: 1 },
        vote(1, 2, 9, 7, 381_928_314),
        vote(8, 2, 10, 1, 2_372_984_612),
    ]);
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn offenders_are_found_as_by_the_all_pairs_loop(steps in prop::collection::vec(step(12, true), 1..120)) {
        run(&steps);
    }

    #[test]
    fn rare_offences_over_many_epochs(steps in prop::collection::vec(step(600, false), 1..160)) {
        run(&steps);
    }
}
