//! Branches that perhaps nobody follows. The answers of the tree must not depend on the order in
//! which blocks arrive, and nobody may be able to fill the tree alone.
#![allow(clippy::unwrap_used)]

mod common;

use chain::{BlockFacts, Chain, Contexts, Extension, MAX_CANDIDATES, MAX_ODD_OF_PEER};
use common::{chain_of, small_capture};
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, DomainType, Epoch, Root, Shuffling, SignatureBytes, Slot, ValidatorIndex,
    compute_seed, sha256,
};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

const SLOTS_PER_EPOCH: u64 = 8;

/// A block of the model. The parent is a position in the list (0 is genesis).
#[derive(Clone, Debug)]
struct Planned {
    parent: usize,
    slots_later: u64,
    proposer: u64,
}

fn planned(n: usize) -> impl Strategy<Value = Vec<Planned>> {
    let block = |nth: usize| {
        // The parent is mostly one of the last few blocks, and sometimes any block.
        let parent = prop_oneof![4 => nth.saturating_sub(3)..=nth, 1 => 0..=nth];
        (parent, 1u64..7, 0u64..64).prop_map(|(parent, slots_later, proposer)| Planned { parent, slots_later, proposer })
    };
    (1..n).prop_flat_map(move |n| (0..n).map(block).collect::<Vec<_>>())
}

fn root(nth: usize) -> Root {
    Root::from(sha256(format!("block {nth}").as_bytes()))
}

fn facts(nth: usize, slot: u64, parent: Root, proposer: u64) -> BlockFacts {
    BlockFacts {
        root: root(nth),
        slot: Slot::new(slot),
        parent_root: parent,
        proposer_index: ValidatorIndex::new(proposer),
        randao_reveal: SignatureBytes::from_slice(&[&sha256(&[nth as u8]), &sha256(&[1, nth as u8]), &[7u8; 32][..]].concat()),
    }
}

/// Returns a block by the proposer that has the slot on the parent's branch.
fn in_turn(chain: &mut Chain, nth: usize, slot: u64, parent: Root) -> BlockFacts {
    let proposer = chain.proposer_on(&parent, Slot::new(slot)).unwrap();
    facts(nth, slot, parent, proposer.as_u64())
}

fn vote(slot: u64, epoch: u64, target: Root, head: Root) -> AttestationData {
    AttestationData {
        slot: Slot::new(slot),
        index: CommitteeIndex::new(0),
        beacon_block_root: head,
        source: Checkpoint::default(),
        target: Checkpoint { epoch: Epoch::new(epoch), root: target },
    }
}

/// Computes a seed in the simplest way: by walking the list of blocks.
fn model_seed(blocks: &HashMap<Root, BlockFacts>, target: Root, epoch: u64, genesis_mix: Root) -> Root {
    let before = epoch.saturating_sub(1) * SLOTS_PER_EPOCH;
    let mut at = target;
    while let Some(block) = blocks.get(&at) {
        if block.slot.as_u64() < before {
            break;
        }
        at = block.parent_root;
    }
    let mut mix = genesis_mix;
    while let Some(block) = blocks.get(&at) {
        mix ^= Root::from(sha256(block.randao_reveal.as_slice()));
        at = block.parent_root;
    }
    compute_seed(DomainType::BeaconAttester, Epoch::new(epoch), mix)
}

fn small_chain() -> (Chain, Root, Root) {
    let capture = small_capture();
    let chain = chain_of(&capture);
    let genesis = chain.head().root;
    // The position of randao_mixes[0] in a minimal state, see common/crafted.rs.
    let at = 176 + 2 * 64 * 32 + 4 + 72 + 4 + 8 + 4 + 4;
    (chain, genesis, Root::from_slice(&capture.state[at..at + 32]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn order_of_arrival_changes_nothing(plan in planned(40), order in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (mut chain, genesis, genesis_mix) = small_chain();
        let mut blocks = vec![(genesis, 0u64)];
        let mut all = HashMap::new();
        for (nth, planned) in plan.iter().enumerate() {
            let (parent, parent_slot) = blocks[planned.parent];
            let block = facts(nth, parent_slot + planned.slots_later, parent, planned.proposer);
            blocks.push((block.root, block.slot.as_u64()));
            all.insert(block.root, block);
        }
        // A pseudo-random order, in which parents come after their children as often as before
        // them.
        let mut arrivals: Vec<&BlockFacts> = all.values().collect();
        arrivals.sort_by_key(|block| sha256(&[block.root.as_slice(), &seed.to_be_bytes()].concat()));
        let by = order.index(arrivals.len());
        arrivals.rotate_left(by);
        for block in arrivals {
            let result = chain.extend(block);
            prop_assert!(matches!(result, Extension::Attached | Extension::Orphan { .. }), "{:?}", result);
            prop_assert_eq!(chain.extend(block) == Extension::Known, chain.is_known_block(&block.root));
        }
        prop_assert_eq!(chain.stats().orphans, 0);
        prop_assert_eq!(chain.stats().blocks, blocks.len());
        prop_assert_eq!(chain.head_at(Slot::MAX).slot.as_u64(), blocks.iter().map(|(_, slot)| *slot).max().unwrap());
        for (target, slot) in blocks {
            let first = slot.div_ceil(SLOTS_PER_EPOCH);
            for epoch in [first, first + 1, first + 5] {
                match chain.contexts(&vote(epoch * SLOTS_PER_EPOCH, epoch, target, target)) {
                    Contexts::Certain(shufflings) => {
                        prop_assert_eq!(shufflings.len(), 1);
                        prop_assert_eq!(shufflings[0].seed(), model_seed(&all, target, epoch, genesis_mix));
                    }
                    // The budget for odd epochs may be used up, because this test asks for very
                    // many.
                    other => prop_assert!(matches!(other, Contexts::Unknown) && chain.stats().shufflings_refused > 0),
                }
            }
        }
    }
}

#[test]
fn two_branches_give_two_candidates_and_the_votes_own_head_comes_first() {
    let (mut chain, genesis, _) = small_chain();
    // Two branches from genesis. They are so long that the committees of epoch 3 (decided before
    // slot 16) differ.
    for (branch, n_blocks) in [(0, 9), (100, 3)] {
        let mut parent = genesis;
        for nth in 0..n_blocks {
            let block = in_turn(&mut chain, branch + nth, 1 + 2 * nth as u64 + (branch as u64 / 100), parent);
            assert_eq!(chain.extend(&block), Extension::Attached);
            parent = block.root;
        }
    }
    chain.tick(Slot::new(18));
    let minority = root(102);
    let unknown = Root::repeat_byte(9);
    let seeds = |contexts: Contexts| match contexts {
        Contexts::Candidates(shufflings) => {
            shufflings.iter().map(|shuffling| (shuffling.decision_root(), shuffling.seed())).collect()
        }
        Contexts::Certain(_) | Contexts::Unknown => Vec::new(),
    };
    let by_weight = seeds(chain.contexts(&vote(25, 3, unknown, unknown)));
    assert_eq!(by_weight.len(), 2);
    assert_eq!(by_weight[0].0, root(7), "the branch most proposers build on comes first");
    let by_head = seeds(chain.contexts(&vote(25, 3, unknown, minority)));
    assert_eq!(by_head, [by_weight[1], by_weight[0]]);
    // A target that cannot be the checkpoint of its epoch contradicts what is known, so it decides
    // nothing.
    let contradicting = seeds(chain.contexts(&vote(9, 1, root(7), unknown)));
    assert_eq!(contradicting.len(), 1, "both branches share the committees of epoch 1");
}

/// Clocks that are about four hours ahead: 37 epochs with 32 slots of 12 s. The target is the last
/// block that they saw.
#[test]
fn medallas_clocks_are_followed_and_the_absurd_is_not() {
    let (mut chain, genesis, mix) = small_chain();
    let block = facts(0, 3, genesis, 1);
    chain.extend(&block);
    chain.tick(Slot::new(5));
    let future = vote(37 * SLOTS_PER_EPOCH + 2, 37, block.root, block.root);
    let Contexts::Certain(shufflings) = chain.contexts(&future) else { panic!("known target") };
    let all = HashMap::from([(block.root, block.clone())]);
    assert_eq!(shufflings[0].seed(), model_seed(&all, block.root, 37, mix));
    // The same vote for a block that only nodes with those clocks have seen.
    let unseen = AttestationData { target: Checkpoint { root: Root::repeat_byte(1), ..future.target }, ..future };
    let Contexts::Candidates(candidates) = chain.contexts(&unseen) else { panic!("the tip as if all slots stayed empty") };
    assert_eq!(candidates[0].id(), shufflings[0].id());
    for epoch in [66, 1_000_000, u64::MAX / SLOTS_PER_EPOCH, u64::MAX] {
        assert!(matches!(chain.contexts(&vote(u64::MAX, epoch, block.root, block.root)), Contexts::Unknown), "{epoch}");
    }
    assert_eq!(chain.stats().epochs_refused, 4);
}

#[test]
fn odd_epochs_are_computed_within_a_budget() {
    let (mut chain, genesis, _) = small_chain();
    chain.tick(Slot::new(1));
    for nth in 0..200 {
        chain.extend(&facts(nth, 1, genesis, nth as u64 % 64));
    }
    let mut computed = 0;
    for epoch in 2..=64 {
        for nth in 0..200 {
            let contexts = chain.contexts(&vote(epoch * SLOTS_PER_EPOCH, epoch, root(nth), genesis));
            computed += usize::from(matches!(contexts, Contexts::Certain(_)));
        }
    }
    let stats = chain.stats();
    assert!(computed < 200 && stats.shufflings_computed < 200, "{computed} {stats:?}");
    assert!(stats.shufflings <= 64 && stats.shufflings_refused > 0);
    // The next epoch has its own budget, and a shuffling that is about now is never refused.
    chain.tick(Slot::new(SLOTS_PER_EPOCH));
    assert!(matches!(chain.contexts(&vote(40 * SLOTS_PER_EPOCH, 40, root(7), genesis)), Contexts::Certain(_)));
    assert!(matches!(chain.contexts(&vote(SLOTS_PER_EPOCH, 1, root(8), genesis)), Contexts::Certain(_)));
}

/// A chain of 400 blocks in the slots 1 to 400.
fn long_chain() -> Chain {
    let (mut chain, mut parent, _) = small_chain();
    for nth in 0..400 {
        let block = facts(nth, 1 + nth as u64, parent, nth as u64 % 64);
        chain.tick(block.slot);
        chain.extend(&block);
        parent = block.root;
    }
    chain
}

/// Repeats the question until the worker has finished.
fn answered(chain: &mut Chain, ask: impl Fn(&mut Chain) -> Contexts) -> Vec<Arc<Shuffling>> {
    let slot = chain.now();
    for _ in 0..100_000_000u64 {
        chain.tick(slot);
        match ask(chain) {
            Contexts::Certain(shufflings) => return shufflings,
            Contexts::Candidates(_) | Contexts::Unknown => std::thread::yield_now(),
        }
    }
    panic!("the worker gives no answer");
}

/// In live operation no call computes a shuffling. The context is unknown until the worker has
/// computed it. It is then the same as if it had been computed at once.
#[test]
fn on_the_worker_nobody_waits_for_a_shuffling() {
    let (mut live, mut replay) = (long_chain(), long_chain());
    live.compute_on_worker();
    let now = 400 / SLOTS_PER_EPOCH;
    let peer = Some(Arc::from([1u8].as_slice()));
    for target in [100, 200, 300] {
        let vote = vote(400, now, root(target), root(target));
        let before = live.generation();
        assert!(matches!(live.contexts_asked_by(&vote, &peer), Contexts::Unknown), "nobody waits");
        let Contexts::Certain(expected) = replay.contexts(&vote) else { panic!("a replay waits") };
        let found = answered(&mut live, |chain| chain.contexts_asked_by(&vote, &peer));
        assert_eq!((found.len(), found[0].id()), (expected.len(), expected[0].id()));
        assert!(live.generation() > before, "what waits is tried again");
    }
    // When the program stops, calls wait for the answer.
    let vote = vote(400, now, root(350), root(350));
    assert!(matches!(live.contexts_asked_by(&vote, &peer), Contexts::Unknown));
    live.compute_at_once();
    assert!(matches!(live.contexts(&vote), Contexts::Certain(_)));
}

/// A peer whose votes name many odd targets uses up its own budget. The votes of another peer are
/// still answered.
#[test]
fn a_peer_that_names_odd_targets_leaves_the_others_their_budget() {
    let mut chain = long_chain();
    chain.compute_on_worker();
    let now = 400 / SLOTS_PER_EPOCH;
    let ask = |chain: &mut Chain, target, peer: u8| {
        chain.contexts_asked_by(&vote(400, now, root(target), root(target)), &Some(Arc::from([peer].as_slice())))
    };
    let before = chain.stats();
    for target in 0..300 {
        ask(&mut chain, target, 1);
    }
    let refused = chain.stats().shufflings_refused - before.shufflings_refused;
    assert_eq!(refused, 300 - u64::from(MAX_ODD_OF_PEER), "its share of an epoch's");
    let found = answered(&mut chain, |chain| ask(chain, 310, 2));
    assert_eq!(found.len(), 1);
    let computed = chain.stats().shufflings_computed - before.shufflings_computed;
    assert!(computed <= u64::from(MAX_ODD_OF_PEER) + 2, "{computed} computed");
    // A peer without any budget left can use what another peer asked for.
    let vote = vote(400, now, root(310), root(310));
    assert!(matches!(chain.contexts_asked_by(&vote, &Some(Arc::from([1u8].as_slice()))), Contexts::Certain(_)));
    // The next epoch has its own budget.
    chain.tick(Slot::new(400 + SLOTS_PER_EPOCH));
    let late = answered(&mut chain, |chain| ask(chain, 299, 1));
    assert_eq!(late.len(), 1);
}

/// Each known block before the decision slot of an epoch gives other committees, and anyone can
/// name it as a target.
#[test]
fn odd_targets_of_this_epoch_are_computed_within_a_budget() {
    let (mut chain, genesis, mix) = small_chain();
    let mut parent = genesis;
    let mut all = HashMap::new();
    for nth in 0..400 {
        let block = in_turn(&mut chain, nth, 1 + nth as u64, parent);
        chain.tick(block.slot);
        chain.extend(&block);
        parent = block.root;
        all.insert(block.root, block);
    }
    let now = 400 / SLOTS_PER_EPOCH;
    let before = chain.stats().shufflings_computed;
    // A caller that can do without the answer causes no computation, whatever targets its votes
    // name.
    for target in 0..400 {
        chain.contexts_at_hand(&vote(400, now, root(target), root(target)));
        chain.contexts_at_hand(&vote(400, now, Root::repeat_byte(1), root(target)));
    }
    let at_hand = chain.stats().shufflings_computed - before;
    assert!(at_hand <= 2, "this epoch's, on the branch that is built on: {at_hand}");
    let mut answered = 0;
    for target in 0..400 {
        answered += usize::from(matches!(chain.contexts(&vote(400, now, root(target), root(target))), Contexts::Certain(_)));
        chain.contexts(&vote(400, now, Root::repeat_byte(1), root(target)));
    }
    let computed = chain.stats().shufflings_computed - before;
    assert!((90..110).contains(&computed) && answered < 150, "{computed} computed, {answered} answered");
    // The honest vote is still answered.
    let target = root(400 - 8 - 1 + 7);
    let Contexts::Certain(shufflings) = chain.contexts_at_hand(&vote(400, now, target, target)) else { panic!("at hand") };
    assert_eq!(shufflings[0].seed(), model_seed(&all, target, now, mix));
}

#[test]
fn one_key_fills_neither_the_tree_nor_the_candidates() {
    let (mut chain, genesis, _) = small_chain();
    let mut parent = genesis;
    for nth in 0..20 {
        let block = in_turn(&mut chain, nth, 1 + nth as u64, parent);
        chain.extend(&block);
        parent = block.root;
    }
    let honest = parent;
    // One proposer signs a thousand blocks on top of one another, many orphans, and blocks of the
    // far future.
    let mut refused = 0;
    parent = root(0);
    for nth in 1_000..2_000 {
        let block = facts(nth, 2 + nth as u64 - 1_000, parent, 63);
        refused += usize::from(matches!(chain.extend(&block), Extension::Refused(_)));
        parent = block.root;
    }
    for nth in 2_000..3_000 {
        refused += usize::from(matches!(chain.extend(&facts(nth, 50, root(nth + 5_000), 63)), Extension::Refused(_)));
    }
    assert!(refused > 1_000 && chain.stats().blocks < 600 && chain.stats().orphans <= 64, "{refused} {:?}", chain.stats());
    let Contexts::Candidates(candidates) = chain.contexts(&vote(25, 3, Root::repeat_byte(1), Root::repeat_byte(1))) else {
        panic!("there are tips")
    };
    assert!(candidates.len() <= MAX_CANDIDATES);
    assert_eq!(candidates[0].decision_root(), root(14), "the honest branch comes first");
    assert!(chain.is_known_block(&honest));
    assert!(chain.missing_blocks().len() <= 64);
}

/// Each of many keys stays within its share. All together sign more blocks than the tree holds.
#[test]
fn many_keys_fill_the_tree_and_honest_blocks_are_taken_all_the_same() {
    let (mut chain, genesis, mix) = small_chain();
    let first = facts(0, 1, genesis, 0);
    chain.extend(&first);
    let mut all = HashMap::from([(first.root, first.clone())]);
    // 200 keys sign a block for every slot.
    'full: for slot in 2u64.. {
        for proposer in 1..=200u64 {
            let mut block = facts(1, slot, first.root, proposer);
            block.root = Root::from(sha256(&[slot.to_be_bytes(), proposer.to_be_bytes()].concat()));
            if matches!(chain.extend(&block), Extension::Refused(_)) {
                break 'full;
            }
        }
    }
    let filled = chain.stats().blocks;
    assert!(filled > 32_000, "{filled} fill it");
    let mut parent = first;
    for nth in 2..100 {
        let block = facts(nth, nth as u64, parent.root, 0);
        assert_eq!(chain.extend(&block), Extension::Attached, "block {nth} of the honest branch");
        all.insert(block.root, block.clone());
        parent = block;
    }
    assert_eq!(chain.stats().blocks, filled);
    let target = root(88);
    let Contexts::Certain(shufflings) = chain.contexts(&vote(88, 11, target, target)) else { panic!("known") };
    assert_eq!(shufflings[0].seed(), model_seed(&all, target, 11, mix));
}

#[test]
fn one_key_neither_hides_the_head_nor_feigns_a_split() {
    let (mut chain, genesis, _) = small_chain();
    let mut parent = genesis;
    for nth in 1..=24 {
        chain.tick(Slot::new(nth));
        let block = in_turn(&mut chain, nth as usize, nth, parent);
        assert_eq!(chain.extend(&block), Extension::Attached);
        parent = block.root;
    }
    let (honest, now) = (parent, 25);
    chain.tick(Slot::new(now));
    // A branch of one key beside the last three blocks, and as many versions of a block for this
    // slot as one key may sign.
    let mut side = root(21);
    for nth in 100..103 {
        chain.extend(&facts(nth, nth as u64 - 78, side, 60));
        side = root(nth);
    }
    assert!(!chain.is_contested(&honest), "one key's branch is no split");
    for nth in 200..300 {
        chain.extend(&facts(nth, now, root(1 + nth % 3), 61));
    }
    let Contexts::Candidates(candidates) = chain.contexts(&vote(now, 3, Root::repeat_byte(1), Root::repeat_byte(1))) else {
        panic!("there are tips")
    };
    let decided_by: Vec<Root> = candidates.iter().map(|shuffling| shuffling.decision_root()).collect();
    assert!(decided_by.contains(&root(15)), "the honest branch is among {decided_by:?}");
}

#[test]
fn impossible_blocks_are_refused() {
    let (mut chain, genesis, _) = small_chain();
    let first = facts(0, 5, genesis, 1);
    assert_eq!(chain.extend(&first), Extension::Attached);
    assert!(matches!(chain.extend(&facts(1, 5, first.root, 2)), Extension::Refused(_)), "not after its parent");
    assert!(matches!(chain.extend(&facts(2, 4, first.root, 2)), Extension::Refused(_)));
    // A block that had to wait for its parent is checked in the same way.
    assert!(matches!(chain.extend(&facts(4, 7, root(3), 2)), Extension::Orphan { .. }));
    assert_eq!(chain.extend(&facts(3, 9, first.root, 2)), Extension::Attached);
    assert!(!chain.is_known_block(&root(4)));
    chain.tick(Slot::new(10));
    assert!(matches!(chain.extend(&facts(5, u64::MAX, first.root, 2)), Extension::Refused(_)));
    assert_eq!(chain.head().slot, Slot::new(9));
    assert_eq!(chain.head_at(Slot::new(8)).root, first.root);
}

#[test]
fn old_blocks_go_and_decision_blocks_stay() {
    let (mut chain, genesis, mix) = small_chain();
    let mut parent = genesis;
    let mut all = HashMap::new();
    // One block in every 20 slots: most epochs are empty, and several epochs share a decision
    // block.
    for nth in 0..200 {
        let block = facts(nth, 20 * (nth as u64 + 1), parent, nth as u64 % 64);
        chain.tick(block.slot);
        assert_eq!(chain.extend(&block), Extension::Attached);
        parent = block.root;
        all.insert(block.root, block);
    }
    let stats = chain.stats();
    assert!(stats.blocks < 110 && stats.blocks_pruned > 90, "{stats:?}");
    assert_eq!(chain.extend(&all[&root(1)]), Extension::TooOld);
    // The oldest epoch whose target is still kept.
    let oldest = (0..200).find(|nth| chain.is_known_block(&root(nth + 1)) && chain.is_known_block(&root(*nth))).unwrap() + 1;
    let epoch = (all[&root(oldest)].slot.as_u64()).div_ceil(SLOTS_PER_EPOCH);
    let Contexts::Certain(shufflings) = chain.contexts(&vote(epoch * SLOTS_PER_EPOCH, epoch, root(oldest), genesis)) else {
        panic!("its decision block is kept")
    };
    // The model walks back to genesis, which the chain has dropped. The chain has kept the mixes.
    assert_eq!(shufflings[0].seed(), model_seed(&all, root(oldest), epoch, mix));
    // After a silence that is longer than the kept period, the last block is still there as a
    // parent.
    chain.tick(Slot::new(20 * 200 + 5_000));
    assert!(chain.is_known_block(&parent));
    assert_eq!(chain.extend(&facts(999, 20 * 200 + 5_001, parent, 5)), Extension::Attached);
}

#[test]
fn committees_computed_ahead_are_those_that_are_asked_for() {
    let (mut chain, genesis, mix) = small_chain();
    let mut all = HashMap::new();
    let mut parent = genesis;
    for nth in 0..30 {
        chain.tick(Slot::new(nth as u64 + 1));
        // The committees that are computed ahead are those of the branch that is built in turn.
        let block = in_turn(&mut chain, nth, nth as u64 + 1, parent);
        chain.extend(&block);
        parent = block.root;
        all.insert(block.root, block);
    }
    for epoch in 2..=3 {
        // Block n has slot n + 1.
        let target = root(epoch as usize * 8 - 1);
        let Contexts::Certain(shufflings) = chain.contexts(&vote(epoch * SLOTS_PER_EPOCH, epoch, target, target)) else {
            panic!("known")
        };
        assert_eq!(shufflings[0].seed(), model_seed(&all, target, epoch, mix));
    }
    // They may be ready, in progress or not begun, because 30 slots pass in a moment here. None of
    // them is computed twice.
    assert!(chain.stats().shufflings_computed <= 4, "epochs 1 to 4 are prepared, 2 and 3 asked for: {:?}", chain.stats());
}

#[test]
fn twins_and_branches_that_grow_side_by_side_are_contested() {
    let (mut chain, genesis, _) = small_chain();
    let add = |chain: &mut Chain, nth: usize, slot: u64, parent: Root| {
        chain.tick(Slot::new(slot));
        let block = in_turn(chain, nth, slot, parent);
        assert_eq!(chain.extend(&block), Extension::Attached);
    };
    add(&mut chain, 1, 1, genesis);
    assert!(!chain.is_contested(&root(1)));
    assert!(chain.is_contested(&root(99)), "an unknown block");
    // The same proposer makes another block, so half of the network lacks either of the two. A
    // block on top of one of them is normal again.
    add(&mut chain, 2, 1, genesis);
    assert!(chain.is_contested(&root(1)) && chain.is_contested(&root(2)));
    add(&mut chain, 3, 2, root(1));
    assert!(!chain.is_contested(&root(3)), "one block on the other side is no split");
    // The other side grows to two blocks as well. Now no block is sure to be known to all.
    add(&mut chain, 4, 3, root(2));
    assert!(chain.is_contested(&root(3)) && chain.is_contested(&root(4)) && chain.is_contested(&genesis));
    // Only one of the branches grows further. An epoch later the other one no longer matters.
    for slot in 4..13 {
        add(&mut chain, slot as usize + 10, slot, if slot == 4 { root(3) } else { root(slot as usize + 9) });
    }
    assert!(!chain.is_contested(&root(22)));
}
