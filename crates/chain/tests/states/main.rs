//! Later states: they bring their own past, close gaps between blocks, and add contexts without
//! removing any.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod crafted;

use chain::{BlockFacts, Chain, Contexts, Extension, MAX_ODD_OF_PEER, PubkeyCache};
use common::{chain_of, facts, small_capture};
use consensus::ssz_schema::{json_to_ssz, ssz_to_json};
use consensus::{BeaconBlockHeader, Epoch, ForkName, Root, ShufflingId, SignedBlock, Slot, ValidatorIndex};
use std::collections::HashMap;
use test_support::capture::Capture;

struct Story {
    capture: Capture,
    genesis_root: Root,
    /// The blocks from the child of genesis to the latest block.
    trunk: Vec<(BlockFacts, BeaconBlockHeader)>,
}

fn story() -> Story {
    let capture = small_capture();
    let chain = chain_of(&capture);
    let blocks: HashMap<Root, SignedBlock> =
        capture.blocks(&chain.network().clone()).into_iter().map(|block| (block.root, block)).collect();
    let mut trunk = Vec::new();
    let mut at = blocks.values().max_by_key(|block| block.signed_header.message.slot).unwrap().root;
    while let Some(block) = blocks.get(&at) {
        trunk.push((facts(block), block.signed_header.message));
        at = block.signed_header.message.parent_root;
    }
    trunk.reverse();
    assert!(trunk.len() > 20, "{}", trunk.len());
    Story { genesis_root: chain.head().root, capture, trunk }
}

impl Story {
    fn state_after(&self, n_blocks: usize, slot: u64) -> Vec<u8> {
        crafted::state_after(&self.capture.state, self.genesis_root, &self.trunk[..n_blocks], slot)
    }

    fn slot(&self, nth: usize) -> u64 {
        self.trunk[nth].0.slot.as_u64()
    }

    fn chain(&self, state: &[u8]) -> Chain {
        Chain::from_state(self.capture.spec.clone(), state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
    }

    /// The chain from genesis with every block.
    fn whole(&self) -> Chain {
        let mut chain = chain_of(&self.capture);
        extend_all(&mut chain, &self.trunk);
        chain
    }
}

fn extend_all(chain: &mut Chain, blocks: &[(BlockFacts, BeaconBlockHeader)]) {
    for (block, _) in blocks {
        let result = chain.extend(block);
        assert!(matches!(result, Extension::Attached | Extension::Known), "{result:?}");
    }
}

fn certain(chain: &mut Chain, data: &consensus::AttestationData) -> Option<Vec<ShufflingId>> {
    match chain.contexts(data) {
        Contexts::Certain(shufflings) => Some(shufflings.iter().map(|shuffling| shuffling.id()).collect()),
        Contexts::Candidates(_) | Contexts::Unknown => None,
    }
}

#[test]
fn a_later_state_knows_the_committees_of_its_past_and_future() {
    let story = story();
    let mut whole = story.whole();
    for n in 1..story.trunk.len() {
        let slot = story.slot(n - 1);
        let mut late = story.chain(&story.state_after(n, slot));
        assert_eq!(late.head().slot, Slot::new(slot));
        extend_all(&mut late, &story.trunk[n..]);
        assert_eq!(late.head(), whole.head());
        for vote in story.capture.singles() {
            let expected = certain(&mut whole, &vote.data);
            let found = certain(&mut late, &vote.data);
            if let Some(found) = found {
                assert_eq!(Some(found), expected, "state after {n} blocks, target epoch {}", vote.data.target.epoch);
            } else {
                // The target of this vote is on a side branch from before the state, or neither
                // chain knows it.
                assert!(expected.is_none() || vote.data.slot.as_u64() < slot, "state after {n} blocks misses {:?}", vote.data);
            }
        }
    }
}

/// An ERA file: the state comes last, and the blocks are older than the state. No time passes while
/// they are read.
#[test]
fn blocks_before_the_state_find_their_committees() {
    let story = story();
    let mut whole = story.whole();
    let n = story.trunk.len();
    let mut era = story.chain(&story.state_after(n, story.slot(n - 1)));
    era.tick(Slot::new(0));
    let generation = era.generation();
    extend_all(&mut era, &story.trunk);
    assert!(era.generation() > generation, "their reveals are news");
    assert_eq!(era.head(), whole.head());
    let mut n_certain = 0;
    for vote in story.capture.singles() {
        let expected = certain(&mut whole, &vote.data);
        n_certain += usize::from(expected.is_some());
        assert_eq!(certain(&mut era, &vote.data), expected, "{:?}", vote.data);
    }
    assert!(n_certain > 50);
}

#[test]
fn a_state_closes_the_gap_between_blocks() {
    let story = story();
    let gap = 5..15;
    let mut chain = chain_of(&story.capture);
    extend_all(&mut chain, &story.trunk[..gap.start]);
    for (block, _) in &story.trunk[gap.end..] {
        assert!(matches!(chain.extend(block), Extension::Orphan { .. }));
    }
    assert_eq!(chain.missing_blocks(), [story.trunk[gap.end - 1].0.root]);
    let generation = chain.generation();
    let state = story.state_after(gap.end - 1, story.slot(gap.end - 2) + 1);
    chain.add_state(&state, &mut PubkeyCache::in_memory()).unwrap();
    assert!(chain.generation() > generation);
    // The head of the state is the parent of the missing block, so one block is still missing.
    assert_eq!(chain.missing_blocks().len(), 1);
    extend_all(&mut chain, &story.trunk[gap.end - 1..gap.end]);
    assert_eq!(chain.missing_blocks().len(), 0);
    let mut whole = story.whole();
    assert_eq!(chain.head(), whole.head());
    for vote in story.capture.singles() {
        if whole.is_known_block(&vote.data.target.root) && chain.is_known_block(&vote.data.target.root) {
            assert_eq!(certain(&mut chain, &vote.data), certain(&mut whole, &vote.data));
        }
    }
}

#[test]
fn a_registry_that_changes_adds_contexts_and_takes_none_away() {
    let story = story();
    let mut chain = story.whole();
    let mut known: Vec<_> = story.capture.singles().into_iter().map(|vote| vote.data).collect();
    known.retain(|data| certain(&mut chain, data).is_some());
    let late = *known.iter().max_by_key(|data| data.target.epoch).unwrap();
    let epoch = late.target.epoch;
    let before = certain(&mut chain, &late).unwrap();
    assert_eq!(before.len(), 1);

    let n = story.trunk.len();
    let mut state = story.state_after(n, story.slot(n - 1));
    crafted::set_exit(&mut state, 7, epoch.as_u64());
    let mut keys = PubkeyCache::in_memory();
    chain.add_state(&state, &mut keys).unwrap();
    let after = certain(&mut chain, &late).unwrap();
    assert_eq!(after.len(), 2);
    assert!(after.contains(&before[0]), "the earlier one stays");
    assert_eq!(chain.registry().record(ValidatorIndex::new(7)).unwrap().exit_epoch, epoch);

    // The same state again, and an older one. Neither brings anything new for this epoch.
    chain.add_state(&state, &mut keys).unwrap();
    chain.add_state(&story.capture.state, &mut keys).unwrap();
    assert_eq!(certain(&mut chain, &late).unwrap(), after);
    assert_eq!(chain.registry().record(ValidatorIndex::new(7)).unwrap().exit_epoch, epoch);

    // Epochs before the exit are the same in all versions.
    let early = *known.iter().min_by_key(|data| data.target.epoch).unwrap();
    assert!(early.target.epoch < epoch);
    assert_eq!(certain(&mut chain, &early).unwrap().len(), 1);
}

/// Who was active has changed, and the budget refuses the new shuffling. What is known from before
/// is then a guess: were it called certain, a good aggregate would be judged by the wrong committee
/// and its sender blamed.
#[test]
fn while_the_budget_refuses_the_new_shuffling_the_earlier_one_is_not_certain() {
    let story = story();
    for on_worker in [true, false] {
        let mut chain = story.whole();
        let preset = chain.network().preset().clone();
        let mut known: Vec<_> = story.capture.singles().into_iter().map(|vote| vote.data).collect();
        known.retain(|data| certain(&mut chain, data).is_some());
        let late = *known.iter().max_by_key(|data| data.target.epoch).unwrap();
        let now = late.target.epoch.saturating_add(8);
        chain.tick(now.start_slot(&preset));
        if on_worker {
            chain.compute_on_worker();
        }
        let before = certain(&mut chain, &late).unwrap();
        let n = story.trunk.len();
        let mut state = story.state_after(n, story.slot(n - 1));
        crafted::set_exit(&mut state, 7, late.target.epoch.as_u64());
        chain.add_state(&state, &mut PubkeyCache::in_memory()).unwrap();

        let refused = chain.stats().shufflings_refused;
        for epoch in (2..50).map(|nth| now.saturating_add(nth)) {
            for (block, _) in &story.trunk {
                let target = consensus::Checkpoint { epoch, root: block.root };
                chain.contexts(&consensus::AttestationData { slot: epoch.start_slot(&preset), target, ..late });
            }
        }
        assert!(chain.stats().shufflings_refused > refused);
        let n_refused = chain.stats().shufflings_refused;
        let Contexts::Candidates(guesses) = chain.contexts(&late) else { panic!("on the worker: {on_worker}") };
        assert_eq!(guesses.iter().map(|shuffling| shuffling.id()).collect::<Vec<_>>(), before);
        assert_eq!(chain.stats().shufflings_refused, n_refused + 1, "it is counted");
        // The next epoch has a budget of its own.
        let next = now.saturating_add(1).start_slot(&preset);
        let after = (0..100_000_000u64).find_map(|_| {
            chain.tick(next);
            std::thread::yield_now();
            certain(&mut chain, &late)
        });
        assert_eq!(after.expect("the worker answers").len(), 2);
    }
}

/// A budget ends between the two shufflings of one epoch. The one that was computed is a candidate
/// from then on, and is not computed again.
#[test]
fn what_was_computed_before_the_budget_ended_is_kept() {
    const MAX_ODD: u64 = 8 * MAX_ODD_OF_PEER as u64;
    let story = story();
    let mut chain = story.whole();
    let preset = chain.network().preset().clone();
    let mut known: Vec<_> = story.capture.singles().into_iter().map(|vote| vote.data).collect();
    known.retain(|data| certain(&mut chain, data).is_some());
    let late = *known.iter().max_by_key(|data| data.target.epoch).unwrap();
    let now = late.target.epoch.saturating_add(8);
    let exit = now.saturating_add(40);
    chain.tick(now.start_slot(&preset));
    let n = story.trunk.len();
    let mut state = story.state_after(n, story.slot(n - 1));
    crafted::set_exit(&mut state, 7, exit.as_u64());
    chain.add_state(&state, &mut PubkeyCache::in_memory()).unwrap();

    let vote = |epoch: Epoch, root| {
        let target = consensus::Checkpoint { epoch, root };
        consensus::AttestationData { slot: epoch.start_slot(&preset), target, ..late }
    };
    let before = chain.stats().shufflings_computed;
    let computed = |chain: &Chain| chain.stats().shufflings_computed - before;
    // Before the exit an epoch has one shuffling. One is left of the budget.
    let epochs = (2..40).map(|nth| now.saturating_add(nth));
    for data in epochs
        .flat_map(|epoch| story.trunk.iter().map(move |(block, _)| (epoch, block.root)))
        .map(|(epoch, root)| vote(epoch, root))
    {
        if computed(&chain) < MAX_ODD - 1 {
            chain.contexts(&data);
        }
    }
    assert_eq!(computed(&chain), MAX_ODD - 1);
    let odd = vote(exit, story.trunk[0].0.root);
    for _ in 0..3 {
        let Contexts::Candidates(found) = chain.contexts(&odd) else { panic!("one of two is known") };
        assert_eq!((found.len(), computed(&chain)), (1, MAX_ODD));
    }
    // The next epoch has a budget of its own.
    chain.tick(now.saturating_add(1).start_slot(&preset));
    assert_eq!(certain(&mut chain, &odd).expect("both are known").len(), 2);
    assert_eq!(computed(&chain), MAX_ODD + 1, "only the missing one is computed");
}

#[test]
fn a_refresh_is_asked_for_when_somebody_may_come_or_go() {
    let story = story();
    let mut chain = chain_of(&story.capture);
    chain.tick(Slot::new(0));
    chain.note_registry_change(Slot::new(3));
    assert!(!chain.needs_registry_refresh(), "the next four epochs are certain");
    chain.tick(Epoch::new(4).start_slot(chain.network().clone().preset()));
    assert!(chain.needs_registry_refresh());
    let n = story.trunk.len();
    chain.add_state(&story.state_after(n, story.slot(n - 1).max(40)), &mut PubkeyCache::in_memory()).unwrap();
    assert!(!chain.needs_registry_refresh());
}

/// A waiting deposit, a validator with a full balance, and a validator that will be ejected. No
/// block shows when they become active or inactive.
#[test]
fn who_comes_or_goes_without_a_block_makes_an_old_registry_uncertain() {
    let story = story();
    let preset = story.capture.spec.preset.clone();
    let fork = ForkName::Fulu;
    let certain = serde_json::json!({
        "pubkey": format!("0x{}", "ab".repeat(48)), "withdrawal_credentials": format!("0x{}", "00".repeat(32)),
        "amount": "32000000000", "signature": format!("0x{}", "cd".repeat(96)), "slot": "1",
    });
    let never = u64::MAX.to_string();
    type Change<'a> = Box<dyn Fn(&mut serde_json::Value) + 'a>;
    let changes: [(&str, bool, Change<'_>); 5] = [
        ("nothing", false, Box::new(|_| ())),
        ("a deposit", true, Box::new(|state| state["pending_deposits"] = serde_json::json!([certain]))),
        ("a full balance", true, Box::new(|state| state["validators"][5]["activation_epoch"] = never.as_str().into())),
        (
            "too little to be activated",
            false,
            Box::new(|state| {
                state["validators"][5]["activation_epoch"] = never.as_str().into();
                state["validators"][5]["activation_eligibility_epoch"] = never.as_str().into();
                state["validators"][5]["effective_balance"] = "31000000000".into();
            }),
        ),
        ("an ejection", true, Box::new(|state| state["validators"][5]["effective_balance"] = "17000000000".into())),
    ];
    for (what, pending, change) in changes {
        let mut state = ssz_to_json(fork, &preset, "BeaconState", &story.capture.state).unwrap();
        change(&mut state);
        let mut chain = story.chain(&json_to_ssz(fork, &preset, "BeaconState", &state).unwrap());
        chain.tick(Epoch::new(3).start_slot(&preset));
        assert!(!chain.needs_registry_refresh(), "{what}: the next epochs are certain");
        chain.tick(Epoch::new(4).start_slot(&preset));
        assert_eq!(chain.needs_registry_refresh(), pending, "{what}");
    }
}

#[test]
fn a_key_that_is_no_key_is_kept_as_such() {
    let story = story();
    let mut state = story.capture.state.clone();
    crafted::set_pubkey(&mut state, 3, [0xab; 48]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pubkeys");
    for loaded in [0, 64] {
        let mut keys = PubkeyCache::open(&path).unwrap();
        let chain =
            Chain::from_state(story.capture.spec.clone(), &state, &mut keys, &mut |progress| assert_eq!(progress.total, 64))
                .unwrap();
        assert_eq!(keys.n_loaded(), loaded);
        assert_eq!(chain.registry().n_invalid_keys(), 1);
        assert!(chain.registry().pubkey(ValidatorIndex::new(3)).is_none());
        assert_eq!(chain.registry().pubkey_bytes(ValidatorIndex::new(3)).unwrap().as_slice(), [0xab; 48]);
        assert!(chain.registry().pubkey(ValidatorIndex::new(4)).is_some());
        assert!(chain.registry().pubkey(ValidatorIndex::MAX).is_none());
        // In another state the bytes of this validator are a valid key. The first key stays, and
        // the conflict is counted.
        let mut chain = chain;
        chain.add_state(&story.capture.state, &mut keys).unwrap();
        assert_eq!(chain.registry().n_conflicting_keys(), 1);
    }
}

#[test]
fn damaged_states_are_refused_without_a_panic() {
    let story = story();
    let mut keys = PubkeyCache::in_memory();
    let state = &story.capture.state;
    for len in [0, 1, 47, 64, 200, state.len() / 2, state.len() - 1] {
        let error = Chain::from_state(story.capture.spec.clone(), &state[..len], &mut keys, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("fetch it again"), "{error}");
    }
    // A slot at the end of time makes no sense, but it must cause neither a panic nor a large
    // allocation.
    let mut absurd = state.clone();
    absurd[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    if let Ok(chain) = Chain::from_state(story.capture.spec.clone(), &absurd, &mut keys, &mut |_| ()) {
        assert!(chain.stats().blocks < 5_000);
    }
    // Repeated roots must not make a circle: every vote is still answered.
    let mut circular = story.state_after(3, 60);
    for slot in 0..60 {
        let at = 176 + slot * 32;
        circular[at..at + 32].copy_from_slice(&[(slot % 3) as u8; 32]);
    }
    let mut chain = story.chain(&circular);
    for vote in story.capture.singles() {
        chain.contexts(&vote.data);
    }
}
