//! Individual cases: errors that other slashers had, boundary values, and cases that the property
//! tests found.
#![allow(clippy::unwrap_used)]

mod common;

use common::{data, heard, open, proposal, shape, shuffling, signature, told, vote, vote_in};
use consensus::{CommitteeIndex, Epoch, Offence, Root, Slot, ValidatorIndex};
use index::{Conflict, Index, IndexView, PairRules};
use std::collections::BTreeMap;
use verify::{Signed, Vote};

fn one(index: &mut Index, vote: &Signed<Vote>) -> Vec<String> {
    told(&index.stage_votes(std::slice::from_ref(vote)).unwrap()).into_iter().collect()
}

fn span(source: u64, target: u64, validator: u64) -> Signed<Vote> {
    vote(data(source, target, target * 8, 1), &[validator])
}

#[test]
fn the_worked_example_of_the_documentation() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    for (source, target) in [(2, 3), (3, 4), (4, 5), (5, 7)] {
        assert_eq!(one(&mut index, &span(source, target, 9)), [""; 0]);
    }
    for (votes, expected) in [
        (span(5, 8, 9), &[][..]),
        (span(3, 9, 9), &["surround 9: 3->9 over 4->5", "surround 9: 3->9 over 5->7", "surround 9: 3->9 over 5->8"]),
        // In the chain it is surrounded by (5,7) and (5,8). The vote outside the chain surrounds it
        // too.
        (span(6, 6, 9), &["surround 9: 3->9 over 6->6", "surround 9: 5->7 over 6->6", "surround 9: 5->8 over 6->6"]),
        (vote(data(4, 5, 41, 2), &[9]), &["double 9 at 5", "surround 9: 3->9 over 4->5"]),
        (span(5, 6, 9), &["double 9 at 6", "surround 9: 3->9 over 5->6"]),
    ] {
        assert_eq!(one(&mut index, &votes), expected, "{:?}", votes.get().data);
    }
}

#[test]
fn a_double_vote_in_two_different_batches_is_found() {
    // prysm#13590
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    assert_eq!(one(&mut index, &span(3, 4, 1)), [""; 0]);
    index.commit().unwrap();
    drop(index);
    let mut index = open(dir.path());
    assert_eq!(one(&mut index, &vote(data(3, 4, 33, 2), &[1])), ["double 1 at 4"]);
}

/// An operator with several keys can make the sums of two pairs of keys equal. It could then hide
/// behind the proof of the other pair.
#[test]
fn sums_with_one_signature_prove_their_own_signers_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    // The secret keys are index + 1, so 2 + 5 = 3 + 4.
    let pairs = [vote(data(3, 4, 33, 1), &[1, 4]), vote(data(3, 4, 33, 1), &[2, 3])];
    assert_eq!(pairs[0].get().signature, pairs[1].get().signature);
    assert!(index.stage_votes(&pairs).unwrap().is_empty());
    index.commit().unwrap();
    let conflicts = index.stage_votes(&[vote(data(3, 4, 33, 2), &[1, 2, 3, 4])]).unwrap();
    assert_eq!(conflicts.len(), 4);
    for conflict in conflicts {
        let Conflict::DoubleVote { validator, first, second, .. } = conflict else { panic!("{conflict:?}") };
        for side in [first, second] {
            assert!(side.indices.contains(&validator), "{validator} is not among {:?}", side.indices);
        }
    }
}

/// One operator may register a key and its opposite. Their sum is the point at infinity, which
/// proves nothing.
#[test]
fn opposite_keys_do_not_escape_when_their_sums_are_merged() {
    // The pair votes by seat, in one slot of an epoch that is searched here, and by list.
    let sits = |epoch, v: u64| shuffling(epoch, 0).seat(ValidatorIndex::new(v)).unwrap().slot;
    let pairs = (4..40u64).flat_map(|epoch| (5..96u64).step_by(7).map(move |v| (epoch, v - 1, v)));
    let seated = pairs.into_iter().find(|(epoch, key, opposite)| sits(*epoch, *key) == sits(*epoch, *opposite)).unwrap();
    for (seated, (epoch, key, opposite)) in [(true, seated), (false, (4, 4, 5))] {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        let slot = if seated { sits(epoch, key).as_u64() } else { epoch * 8 };
        let known = seated.then(|| shuffling(epoch, 0));
        for signer in [key, opposite] {
            let seen = data(epoch - 1, epoch, slot, 1);
            assert_eq!(one(&mut index, &vote_in(seen, &[signer], known.clone())), [""; 0]);
            index.commit().unwrap();
        }
        index.flush().unwrap();
        while index.fold_next(Epoch::new(epoch + 1)).unwrap() {}
        drop(index);
        let mut index = open(dir.path());
        for signer in [key, opposite] {
            let other = vote(data(epoch - 1, epoch, slot, 2), &[signer]);
            assert_eq!(one(&mut index, &other), [format!("double {signer} at {epoch}")]);
        }
    }
}

#[test]
fn a_surrounded_vote_across_batches_is_found() {
    // prysm#13591
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &span(2, 9, 1));
    index.commit().unwrap();
    assert_eq!(one(&mut index, &span(3, 8, 1)), ["surround 1: 2->9 over 3->8"]);
    index.commit().unwrap();
    assert_eq!(one(&mut index, &span(1, 10, 1)), ["surround 1: 1->10 over 2->9", "surround 1: 1->10 over 3->8"]);
}

#[test]
fn more_than_ten_thousand_validators_in_one_vote() {
    // prysm#13612
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let all: Vec<u64> = (0..25_000).collect();
    assert!(index.stage_votes(&[vote(data(3, 4, 32, 1), &all)]).unwrap().is_empty());
    index.commit().unwrap();
    let found = index.stage_votes(&[vote(data(3, 4, 32, 2), &all)]).unwrap();
    assert_eq!(found.len(), 25_000);
    let Conflict::DoubleVote { first, .. } = &found[0] else { panic!("a double vote") };
    let Conflict::DoubleVote { first: last, .. } = &found[24_999] else { panic!("a double vote") };
    assert!(std::sync::Arc::ptr_eq(first, last), "one proof is shared by all offenders of a pair of sums");
}

#[test]
fn a_huge_validator_index_costs_nothing() {
    // lighthouse#9141
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    for huge in [u64::MAX, u64::MAX - 1, 1 << 63, u64::from(u32::MAX)] {
        assert_eq!(one(&mut index, &vote(data(3, 4, 32, 1), &[1, huge - 1])).len(), 0);
    }
    assert_eq!(index.stats().refused_index, 3, "the greatest that fits is stored");
    index.commit().unwrap();
    assert!(index.votes_of(ValidatorIndex::MAX).unwrap().votes.is_empty());
}

#[test]
fn epochs_out_of_all_proportion_are_judged_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let far = [u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX - 1, u64::MAX];
    let mut index = open(dir.path());
    for (n, target) in far.iter().enumerate() {
        assert_eq!(one(&mut index, &vote(data(n as u64, *target, 5, 1), &[1])), [""; 0]);
    }
    index.commit().unwrap();
    drop(index);
    let mut index = open(dir.path());
    assert_eq!(one(&mut index, &vote(data(4, u64::MAX, 5, 2), &[1])), [format!("double 1 at {}", u64::MAX)]);
    // The source is after the target. The rule about neighbours holds for such votes too.
    assert_eq!(one(&mut index, &vote(data(u64::MAX, 3, 24, 1), &[2])), [""; 0]);
    assert_eq!(one(&mut index, &vote(data(5, 4, 32, 1), &[2])), [format!("surround 2: 5->4 over {}->3", u64::MAX)]);
    let known = index.votes_of(ValidatorIndex::new(1)).unwrap();
    assert_eq!(known.votes.len(), 6);
    assert_eq!(known.gaps.len(), 1, "no wrap-around at the ends: {:?}", known.gaps);
}

#[test]
fn wrap_around_does_not_hide_a_surround() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &span(65_535, 65_536, 1));
    one(&mut index, &span(65_536, 65_791, 1));
    assert_eq!(one(&mut index, &span(65_534, 65_537, 1)), ["surround 1: 65534->65537 over 65535->65536"]);
    // A source that is 65 536 epochs back would become zero in sixteen bits.
    assert_eq!(one(&mut index, &span(256, 65_792, 1)).len(), 3, "all three stored votes are surrounded, whatever their distance");
}

#[test]
fn a_forged_first_header_cannot_hide_a_double_proposal() {
    // Only `Signed<Proposal>` is accepted, and the root is part of the key, so nothing overwrites a
    // stored header.
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    assert!(index.stage_proposals(&[proposal(8, 3, 1)]).unwrap().is_empty());
    index.commit().unwrap();
    assert!(index.stage_proposals(&[proposal(8, 3, 1)]).unwrap().is_empty(), "the same block again");
    assert!(index.stage_proposals(&[proposal(8, 4, 2), proposal(9, 3, 2)]).unwrap().is_empty(), "others");
    let found = index.stage_proposals(&[proposal(8, 3, 2), proposal(8, 3, 3)]).unwrap();
    assert_eq!(found.len(), 3, "all pairs of three headers");
    assert_eq!(told(&found).len(), 1);
    index.commit().unwrap();
    drop(index);
    let index = open(dir.path());
    assert_eq!(index.proposals_of(ValidatorIndex::new(3)).unwrap().len(), 4);
}

#[test]
fn headers_of_one_slot_are_bounded_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let many: Vec<_> = (0..40).map(|body| proposal(8, 3, body)).collect();
    assert_eq!(index.stage_proposals(&many).unwrap().len(), 16 * 15 / 2);
    assert_eq!(index.stats().proposals_over_cap, 24);
}

#[test]
fn the_same_vote_again_is_no_offence_however_it_comes() {
    // sigp/lighthouse#10085: unsigned fields are not part of a vote. The same vote comes as a
    // single vote, in an aggregate, in a block, and by list.
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let shuffling = shuffling(4, 0);
    let members = shuffling.committee(Slot::new(33), CommitteeIndex::new(1)).unwrap();
    let members: Vec<u64> = members.iter().map(|v| u64::from(*v)).collect();
    let seen = data(3, 4, 33, 1);
    let known = || Some(shuffling.clone());
    for again in 0..3 {
        let ways = [
            vote_in(seen, &members[..1], known()),
            vote_in(seen, &members[..2], known()),
            vote_in(seen, &members, known()),
            vote_in(seen, &members[1..], None),
        ];
        assert!(index.stage_votes(&ways).unwrap().is_empty(), "round {again}");
        index.commit().unwrap();
    }
    assert_eq!(index.stats().new_votes, members.len() as u64);
}

#[test]
fn what_is_stored_with_a_signature_is_exactly_who_signed() {
    // Grandine overwrites evidence, and slashoor truncates the list. `told` checks each proof's
    // signature against its signers.
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let shuffling = shuffling(4, 0);
    let members = shuffling.committee(Slot::new(33), CommitteeIndex::new(0)).unwrap();
    let members: Vec<u64> = members.iter().map(|v| u64::from(*v)).collect();
    let seen = data(3, 4, 33, 1);
    for part in [&members[..2], &members[1..3], &members[..3]] {
        assert_eq!(one(&mut index, &vote_in(seen, part, Some(shuffling.clone()))), [""; 0]);
        index.commit().unwrap();
    }
    index.flush().unwrap();
    let found = one(&mut index, &vote(data(2, 4, 33, 1), &[members[1], members[2]]));
    assert_eq!(found.len(), 2);
}

#[test]
fn an_offender_is_found_again_after_a_restart_in_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &span(3, 4, 1));
    assert_eq!(one(&mut index, &vote(data(3, 4, 33, 2), &[1])), ["double 1 at 4"]);
    index.commit().unwrap();
    drop(index);
    let mut index = open(dir.path());
    assert!(index.votes_of(ValidatorIndex::new(1)).unwrap().offender);
    assert_eq!(one(&mut index, &span(2, 5, 1)), ["surround 1: 2->5 over 3->4"]);
    let both = index.stage_votes(&[vote(data(1, 9, 72, 1), &[1])]).unwrap();
    assert_eq!(both.len(), 3, "both votes of epoch 4, and the one around them");
}

#[test]
fn an_offenders_list_is_cut_at_its_bound_and_every_kind_is_still_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &vote(data(3, 4, 32, 0), &[1]));
    for n in 0..300u64 {
        let mut other = data(3, 4, 32, 1);
        other.beacon_block_root = Root::from([(n >> 8) as u8 + 1; 32]);
        other.source.root = Root::from([n as u8; 32]);
        index.stage_votes(&[vote(other, &[1])]).unwrap();
    }
    let stats = index.stats();
    // When the list is full, one epoch has room for sixteen more.
    assert_eq!(stats.votes_over_cap, 300 - 256 - 16);
    assert_eq!(stats.different_data, 1 + 256 + 16, "what is not kept leaves no data behind either");
    assert_eq!(stats.conflicts, (1..=256 + 16).sum::<u64>());
    index.commit().unwrap();
    drop(index);
    let mut index = open(dir.path());
    assert!(one(&mut index, &span(2, 5, 1)).contains(&"surround 1: 2->5 over 3->4".to_string()));
}

/// A key signs as many votes for an old target as its list holds, and then surrounds its newest
/// one.
#[test]
fn a_full_list_of_old_votes_does_not_hide_a_conflict_with_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &span(3, 4, 1));
    for n in 0..300u64 {
        let mut other = data(3, 4, 32, 1);
        other.beacon_block_root = Root::from([(n >> 8) as u8 + 1; 32]);
        other.source.root = Root::from([n as u8; 32]);
        index.stage_votes(&[vote(other, &[1])]).unwrap();
    }
    one(&mut index, &span(9, 10, 1));
    let found = one(&mut index, &span(2, 11, 1));
    assert!(found.contains(&"surround 1: 2->11 over 9->10".to_string()), "{} pairs, not that one", found.len());
}

#[test]
fn a_vote_that_surrounds_all_history_names_a_bounded_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    for epoch in 1..400 {
        one(&mut index, &span(epoch - 1, epoch, 1));
        if epoch % 50 == 0 {
            index.commit().unwrap();
        }
    }
    let found = index.stage_votes(&[span(0, 1000, 1)]).unwrap();
    assert_eq!(found.len(), 256);
    assert_eq!(index.stats().pairs_over_cap, 1);
}

/// Pairs that are not wanted are counted and their proofs are not built. The first pair of each
/// kind is always built, because it marks its validator permanently.
#[test]
fn pairs_that_nobody_wants_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    for epoch in 2..12 {
        one(&mut index, &span(epoch - 1, epoch, 1));
    }
    let stage = |index: &mut Index, vote: Signed<Vote>, mut wanted: usize| {
        let target = vote.get().data.target.epoch;
        let mut n_unwanted = 0;
        let mut wants = |validator, offence, [this, other]: [Epoch; 2]| {
            assert_eq!((validator, offence), (ValidatorIndex::new(1), Offence::SurroundVote));
            assert!(this == target && other < target, "{this} and {other}");
            let wants = wanted > 0;
            wanted = wanted.saturating_sub(1);
            n_unwanted += u64::from(!wants);
            wants
        };
        let rules = PairRules { wants: &mut wants, can_be_punished: &|_, _| true };
        let found = index.stage_votes_if(&[vote], rules).unwrap().len();
        (found, n_unwanted)
    };
    assert_eq!(stage(&mut index, span(0, 20, 1), 0), (1, 9));
    assert_eq!(stage(&mut index, span(0, 19, 1), 0), (0, 10));
    assert_eq!(stage(&mut index, span(0, 18, 1), 3), (3, 7));
    assert_eq!(stage(&mut index, span(0, 18, 1), 3), (0, 0), "known");
}

#[test]
fn neighbours_are_found_across_long_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let far_apart = [10u64, 4_106, 58_106, 58_107, 58_108];
    for target in far_apart {
        assert_eq!(one(&mut index, &span(target - 1, target, 1)), [""; 0]);
        index.flush().unwrap();
    }
    drop(index);
    let mut index = open(dir.path());
    assert_eq!(one(&mut index, &span(2_000, 2_001, 1)), [""; 0]);
    assert_eq!(one(&mut index, &span(8, 2_000, 1)), ["surround 1: 8->2000 over 9->10"]);
    assert_eq!(one(&mut index, &span(58_106, 58_105, 1)), ["surround 1: 58105->58106 over 58106->58105"]);
    assert_eq!(one(&mut index, &span(4_104, 40_000, 1)), ["surround 1: 4104->40000 over 4105->4106"]);
    let gaps = index.votes_of(ValidatorIndex::new(1)).unwrap().gaps;
    assert_eq!(gaps[0], index::VoteGap { first: Epoch::new(11), last: Epoch::new(1_999) });
}

#[test]
fn old_votes_that_come_together_see_what_came_between_them_one_by_one() {
    // The neighbouring epochs are kept in memory while an epoch is filled. Votes that come in
    // between must be seen as well.
    for commits in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut index = open(dir.path());
        let all: Vec<u64> = (0..20).collect();
        let span = |source, target, signers: &[u64]| vote(data(source, target, target * 8, 1), signers);
        let mut feed = |vote: Signed<Vote>| {
            let found = told(&index.stage_votes(&[vote]).unwrap());
            if commits {
                index.commit().unwrap();
            }
            Vec::from_iter(found)
        };
        for (source, target) in [(1, 2), (99, 100), (199, 200), (200, 201)] {
            assert_eq!(feed(span(source, target, &all)), [""; 0]);
        }
        assert_eq!(feed(span(49, 50, &all[..4])), [""; 0]);
        // Votes come below, above and at the epoch itself. Each is compared before another one
        // comes.
        assert_eq!(feed(span(39, 40, &[10])), [""; 0]);
        assert_eq!(feed(span(30, 50, &[5, 10])), ["surround 10: 30->50 over 39->40"]);
        assert_eq!(feed(span(45, 70, &[6])), [""; 0]);
        assert_eq!(feed(span(49, 50, &[6, 8])), ["surround 6: 45->70 over 49->50"]);
        assert_eq!(feed(span(48, 50, &[7])), [""; 0]);
        assert_eq!(feed(span(49, 50, &[7, 9])), ["double 7 at 50"]);
        // Votes that joined together are neighbours too.
        assert_eq!(feed(span(29, 60, &[5, 9])), ["surround 5: 29->60 over 30->50", "surround 9: 29->60 over 49->50"]);
        assert_eq!(
            feed(span(48, 52, &[0, 1, 2])),
            ["surround 0: 48->52 over 49->50", "surround 1: 48->52 over 49->50", "surround 2: 48->52 over 49->50"]
        );
    }
}

#[test]
fn pruned_votes_contradict_nothing_and_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    for target in [5u64, 20, 21, 22] {
        one(&mut index, &span(target - 1, target, 1));
    }
    index.prune(Epoch::new(10)).unwrap();
    assert_eq!(one(&mut index, &span(3, 6, 1)), [""; 0], "the vote it would surround is gone");
    assert_eq!(one(&mut index, &span(4, 5, 1)), ["surround 1: 3->6 over 4->5"], "and judged again when it comes again");
    index.prune(Epoch::new(30)).unwrap();
    drop(index);
    assert!(open(dir.path()).votes_of(ValidatorIndex::new(1)).unwrap().votes.is_empty());
}

#[test]
fn the_earliest_time_is_kept_when_sums_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    let shuffling = shuffling(4, 0);
    let members = shuffling.committee(Slot::new(33), CommitteeIndex::new(0)).unwrap();
    for (n, at) in [(0, 5_000_000), (1, 3_000_123), (2, 9_000_000)] {
        let seen = data(3, 4, 33, 1);
        let signers = [u64::from(members[n])];
        let inner = vote_in(seen, &signers, Some(shuffling.clone())).get().clone();
        let signature = signature(inner.data_root, signers.iter().copied());
        let vote = Signed::for_tests(Vote { heard: heard(at), signature, ..inner });
        index.stage_votes(&[vote]).unwrap();
    }
    index.flush().unwrap();
    let found = index.stage_votes(&[vote(data(2, 4, 33, 1), &[u64::from(members[2])])]).unwrap();
    let Conflict::DoubleVote { first, .. } = &found[0] else { panic!("a double vote") };
    assert_eq!(first.indices.len(), 3, "one merged sum");
    assert_eq!((first.heard.at.0, &first.heard.peer), (3_000_123, &heard(3_000_123).peer));
}

/// Before a fork a validator may sign with either version. A sum of both would prove nothing and
/// would hide the offender in it.
#[test]
fn votes_signed_with_different_versions_are_never_summed() {
    let dir = tempfile::tempdir().unwrap();
    let seen = data(3, 4, 33, 1);
    let today =
        |vote: &Signed<Vote>| Signed::for_tests(Vote { signed_with: Some(consensus::ForkName::Fulu), ..vote.get().clone() });
    let mut index = open(dir.path());
    index.stage_votes(&[vote(seen, &[1]), today(&vote(seen, &[2])), vote(seen, &[3])]).unwrap();
    index.flush().unwrap();
    drop(index);
    let mut index = open(dir.path());
    for (validator, signers) in [(2u64, vec![2u64]), (1, vec![1, 3])] {
        let found = index.stage_votes(&[vote(data(2, 4, 33, 1), &[validator])]).unwrap();
        let [Conflict::DoubleVote { first, .. }] = &found[..] else { panic!("a double vote: {found:?}") };
        assert_eq!(first.indices.iter().map(|index| index.as_u64()).collect::<Vec<_>>(), signers);
    }
    let known = index.votes_of(ValidatorIndex::new(2)).unwrap();
    assert_eq!(known.votes.len(), 2);
}

#[test]
fn a_far_source_with_a_near_target_is_remembered() {
    // Found by the property test: the summary did not contain such a vote.
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    one(&mut index, &vote(data(u64::from(u32::MAX), 0, 0, 0), &[0]));
    one(&mut index, &span(3, 4, 5));
    index.flush().unwrap();
    drop(index);
    assert_eq!(open(dir.path()).votes_of(ValidatorIndex::new(0)).unwrap().votes.len(), 1);
}

#[test]
fn history_is_a_plain_setting_and_the_network_is_not() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    for history_epochs in [10, 100_000] {
        drop(Index::open(dir.path(), index::Shape { history_epochs, ..shape() }).unwrap());
    }
    let refused = |shape| Index::open(dir.path(), shape).err().unwrap().to_string();
    let foreign = refused(index::Shape { genesis_validators_root: Root::repeat_byte(8), ..shape() });
    assert!(foreign.contains("another network") && foreign.contains("use another data directory"), "{foreign}");
    let slots = refused(index::Shape { slots_per_epoch: 32, ..shape() });
    assert!(slots.contains("8 slots per epoch"), "{slots}");
    let unknown = refused(index::Shape { slots_per_epoch: 7, ..shape() });
    assert!(unknown.contains("PRESET_BASE"), "{unknown}");
    drop(open(dir.path()));
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Index::open(dir.path(), shape()).err().unwrap().to_string();
    assert!(error.contains("another process has this index open"), "{error}");
    drop(first);
    drop(open(dir.path()));
}

#[test]
fn who_reads_history_hears_how_far_it_is_whatever_the_far_future_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    index.set_now(Epoch::new(40));
    for target in 3..40 {
        one(&mut index, &span(target - 1, target, 5));
    }
    one(&mut index, &span(40, 1 << 20, 5));
    index.stage_proposals(&[proposal(39 * 8, 5, 1), proposal(1 << 40, 5, 1)]).unwrap();
    let five = ValidatorIndex::new(5);
    let mut told = Vec::new();
    let votes = index.votes_of_with_progress(five, &mut |walked| told.push((walked.done, walked.total))).unwrap().votes;
    assert!(votes.len() == 38 && told.len() > 4 && told.is_sorted(), "{told:?}");
    assert_eq!((told[0].1, told.last()), (37, Some(&(37, 37))));
    told.clear();
    let of_five = |proposer| proposer == five;
    let proposals = index.proposals_where(of_five, &mut |walked| told.push((walked.done, walked.total))).unwrap();
    assert_eq!((proposals.len(), told), (2, vec![(37, 37)]));
}

#[test]
fn a_view_beside_the_owner_sees_what_was_committed_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = open(dir.path());
    for target in 3..40 {
        one(&mut owner, &span(target - 1, target, 5));
        if target % 7 == 0 {
            owner.flush().unwrap();
        }
    }
    owner.commit().unwrap();
    one(&mut owner, &span(40, 41, 5));
    owner.stage_proposals(&[proposal(8, 5, 1)]).unwrap();
    let files = || {
        let entries = std::fs::read_dir(dir.path()).unwrap().flatten();
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    let view = IndexView::open(dir.path(), shape()).unwrap();
    let five = ValidatorIndex::new(5);
    assert_eq!(view.votes_of(five, &mut |_| {}).unwrap().votes.len(), 37, "what is staged is not committed");
    assert!(view.proposals_of(five, &mut |_| {}).unwrap().is_empty());
    assert_eq!(view.holdings().validators, 1);
    assert!(files() == before, "looking changed a file");
    // The owner continues and deletes what the view still has open.
    for target in 42..90 {
        one(&mut owner, &span(target - 1, target, 5));
        owner.flush().unwrap();
    }
    owner.prune(Epoch::new(80)).unwrap();
    owner.flush().unwrap();
    assert_eq!(view.votes_of(five, &mut |_| {}).unwrap().votes.len(), 37);
    assert_eq!(IndexView::open(dir.path(), shape()).unwrap().votes_of(five, &mut |_| {}).unwrap().votes.len(), 10);
    drop((view, owner));
    assert_eq!(IndexView::open(dir.path(), shape()).unwrap().proposals_of(five, &mut |_| {}).unwrap(), [], "pruned");
}

#[test]
fn a_view_of_what_is_no_index_is_refused_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |shape| IndexView::open(dir.path(), shape).err().unwrap().to_string();
    assert!(refused(shape()).contains("not a vote index"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    drop(open(dir.path()));
    let foreign = refused(index::Shape { genesis_validators_root: Root::repeat_byte(8), ..shape() });
    assert!(foreign.contains("another network"), "{foreign}");
}

#[test]
fn a_directory_with_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
    let error = Index::open(dir.path(), shape()).err().unwrap().to_string();
    assert!(error.contains("thesis.tex") && error.contains("give a directory that is empty"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
