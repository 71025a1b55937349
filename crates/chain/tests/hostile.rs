//! Attacks with the keys of validators that have exited. Anyone can have such keys and has nothing
//! to lose, and messages signed with them are proven like all others.
//!
//! These keys must not decide what the chain's head is, whether branches compete, or which missing
//! blocks are requested.
#![allow(clippy::unwrap_used)]

mod common;

use chain::{BlockFacts, Chain, PubkeyCache};
use common::small_capture;
use consensus::ssz_schema::{json_to_ssz, ssz_to_json};
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, Epoch, ForkName, Root, SignatureBytes, Slot, ValidatorIndex, sha256,
};

const N_VALIDATORS: u64 = 64;
/// The first validator that has exited. All validators after it have exited, too.
const LEFT: u64 = 44;

/// The network of the small capture at genesis, with all validators from `LEFT` on withdrawn.
fn chain() -> Chain {
    let capture = small_capture();
    let spec = capture.spec.clone();
    let mut state = ssz_to_json(ForkName::Fulu, &spec.preset, "BeaconState", &capture.state).unwrap();
    for validator in &mut state["validators"].as_array_mut().unwrap()[LEFT as usize..] {
        validator["exit_epoch"] = "0".into();
        validator["withdrawable_epoch"] = "0".into();
    }
    let open = |state: &serde_json::Value| {
        let ssz = json_to_ssz(ForkName::Fulu, &spec.preset, "BeaconState", state).unwrap();
        Chain::from_state(spec.clone(), &ssz, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
    };
    // As in a state of a real node, the proposers of both epochs are validators that have not
    // exited.
    let due = open(&state);
    let lookahead = [0, 1].map(|epoch| due.proposers(Epoch::new(epoch)).unwrap()).concat();
    state["proposer_lookahead"] = lookahead.iter().map(|index| index.to_string()).collect();
    open(&state)
}

fn block(name: &str, slot: u64, parent: Root, proposer: u64) -> BlockFacts {
    let hash =
        |nth: u8| sha256(&[name.as_bytes(), &slot.to_le_bytes(), &proposer.to_le_bytes(), parent.as_slice(), &[nth]].concat());
    BlockFacts {
        root: Root::from(hash(0)),
        slot: Slot::new(slot),
        parent_root: parent,
        proposer_index: ValidatorIndex::new(proposer),
        randao_reveal: SignatureBytes::from_slice(&[hash(1), hash(2), hash(3)].concat()),
    }
}

/// Returns the proposer of a slot on the chain's branch.
fn due(chain: &Chain, slot: u64) -> u64 {
    let epoch = Slot::new(slot).epoch(chain.network().preset());
    let first = epoch.start_slot(chain.network().preset()).as_u64();
    chain.proposers(epoch).unwrap()[(slot - first) as usize].as_u64()
}

/// Adds honest blocks in turn up to a slot. Returns their roots by slot.
fn grow(chain: &mut Chain, until: u64) -> Vec<Root> {
    let mut roots = vec![chain.head().root];
    for slot in 1..=until {
        chain.tick(Slot::new(slot));
        let honest = block("honest", slot, *roots.last().unwrap(), due(chain, slot));
        chain.extend(&honest);
        roots.push(honest.root);
    }
    roots
}

#[test]
fn two_keys_that_have_left_do_not_make_branches_compete() {
    let mut chain = chain();
    let honest = grow(&mut chain, 10);
    let head = honest[10];
    assert!(!chain.is_contested(&head));
    let first = block("forged", 9, honest[7], LEFT);
    let second = block("forged", 10, first.root, LEFT + 1);
    chain.extend(&first);
    chain.extend(&second);
    assert!(!chain.is_contested(&head), "two keys that nobody follows stop all forwarding");
}

#[test]
fn sixteen_keys_that_have_left_do_not_move_the_head() {
    let mut chain = chain();
    let honest = grow(&mut chain, 16);
    let mut parent = honest[0];
    // One block for each slot of the last two epochs, each signed with another key.
    for (slot, key) in (1..=16).zip(LEFT..) {
        let forged = block("forged", slot, parent, key);
        chain.extend(&forged);
        parent = forged.root;
    }
    assert_eq!(chain.backed_head().root, honest[16]);
    // Blocks on top of the last block of the honest chain do not move the head either.
    chain.tick(Slot::new(18));
    let on_top = block("forged", 17, honest[16], LEFT);
    chain.extend(&on_top);
    chain.extend(&block("forged", 18, on_top.root, LEFT + 1));
    assert_eq!(chain.backed_head().root, honest[16]);
}

fn vote(slot: u64, head: Root, target: Root) -> AttestationData {
    AttestationData {
        slot: Slot::new(slot),
        index: CommitteeIndex::new(0),
        beacon_block_root: head,
        source: Checkpoint::default(),
        target: Checkpoint { epoch: Epoch::new(slot / 8), root: target },
    }
}

/// Both branches are built in turn. Proposers that sign twice can do that.
#[test]
fn of_two_branches_built_in_turn_the_head_is_on_that_for_which_most_stake_voted() {
    let mut chain = chain();
    let honest = grow(&mut chain, 10);
    let mut other = honest[7];
    for slot in 9..=10 {
        let proposer = chain.proposer_on(&other, Slot::new(slot)).unwrap().as_u64();
        let block = block("other", slot, other, proposer);
        chain.extend(&block);
        other = block.root;
    }
    assert_eq!(chain.backed_head().root, honest[10], "more proposers built on it");
    let count = |chain: &mut Chain, head: Root, voters: std::ops::Range<u64>| {
        let members: Vec<ValidatorIndex> = voters.map(ValidatorIndex::new).collect();
        let data = vote(10, head, honest[7]);
        chain.count_votes([(&data, members.as_slice())].into_iter());
    };
    count(&mut chain, other, 0..30);
    count(&mut chain, honest[10], 30..40);
    assert_eq!(chain.backed_head().root, other);
    // A validator that votes twice counts once, and a validator that has exited does not count.
    count(&mut chain, honest[10], 0..40);
    count(&mut chain, honest[10], LEFT..N_VALIDATORS);
    assert_eq!(chain.backed_head().root, other);
    // The head that a node reports takes precedence.
    chain.note_node_head(honest[9]);
    assert_eq!(chain.backed_head().root, honest[10]);
    for slot in 11..=20 {
        chain.tick(Slot::new(slot));
    }
    assert_eq!(chain.backed_head().root, other, "it was of a while ago");
}

/// Votes for a block can arrive before the block. Votes of half of a slot's stake make a block
/// count as if it was built in turn.
#[test]
fn votes_that_come_before_their_block_count_for_it() {
    let mut chain = chain();
    let honest = grow(&mut chain, 8);
    chain.tick(Slot::new(9));
    let due = due(&chain, 9);
    // As if our registry were old and gave another proposer for the slot.
    let block = block("honest", 9, honest[8], (due + 1) % LEFT);
    let members: Vec<ValidatorIndex> = (0..4).map(ValidatorIndex::new).collect();
    let data = vote(9, block.root, honest[8]);
    chain.count_votes([(&data, members.as_slice())].into_iter());
    chain.extend(&block);
    assert!(chain.is_in_turn(&block.root));
    assert_eq!(chain.backed_head().root, block.root);
}

/// The clock is 25 epochs ahead of the state. The blocks since then are checked all the same, so
/// that a key without a turn cannot make up the past.
#[test]
fn blocks_are_checked_while_the_chain_catches_up_from_an_old_state() {
    let mut chain = chain();
    chain.tick(Slot::new(25 * 8));
    let honest = grow(&mut chain, 20);
    assert!(honest[1..].iter().all(|root| chain.is_in_turn(root)));
    let due = due(&chain, 21);
    let out_of_turn = block("made up", 21, honest[20], (due + 1) % LEFT);
    chain.extend(&out_of_turn);
    assert!(!chain.is_in_turn(&out_of_turn.root));
}

/// Nothing of a block by an unknown proposer is proven when its key is looked for. Its slot may be
/// any number, and its parent may be long ago. Following the registry to there would take for ever.
#[test]
fn a_made_up_slot_of_an_unknown_proposer_costs_nothing() {
    let mut chain = chain();
    chain.tick(Slot::new(100 * 8));
    let honest = grow(&mut chain, 20);
    let unknown = ValidatorIndex::new(chain.registry().len() as u64);
    for slot in [u64::MAX, 1 << 40, 102 * 8, 100 * 8, 30 * 8] {
        assert_eq!(chain.newcomer_key(&honest[20], Slot::new(slot), unknown), None, "{slot}");
        assert_eq!(chain.newcomer_key(&honest[1], Slot::new(slot), unknown), None, "{slot}");
    }
}

#[test]
fn a_missing_block_that_no_node_has_is_given_up() {
    let mut chain = chain();
    let honest = grow(&mut chain, 10);
    let (lost, found) = (Root::repeat_byte(1), Root::repeat_byte(2));
    chain.extend(&block("child", 10, lost, due(&chain, 10)));
    let proposer = due(&chain, 9);
    chain.extend(&block("child", 9, found, proposer));
    assert_eq!(chain.missing_blocks(), [lost, found]);
    chain.give_up_block(&lost);
    chain.give_up_block(&honest[10]);
    assert_eq!(chain.missing_blocks(), [found]);
}

#[test]
fn blocks_of_two_keys_without_parents_hide_no_honest_missing_block() {
    let mut chain = chain();
    let honest = grow(&mut chain, 10);
    // For the next 64 slots, each with a parent that nobody has.
    for nth in 0..64 {
        chain.extend(&block("forged", 11 + nth, Root::from(sha256(&[nth as u8])), LEFT + nth % 2));
    }
    chain.tick(Slot::new(12));
    let missed = block("honest", 11, honest[10], due(&chain, 11));
    let child = block("honest", 12, missed.root, due(&chain, 12));
    chain.extend(&child);
    let wanted = chain.missing_blocks();
    assert_eq!(wanted.iter().position(|root| *root == missed.root), Some(0), "of {}", wanted.len());
    assert!(wanted.len() <= 64);
}

/// All keys of exited validators sign blocks for the current slot.
#[test]
fn blocks_of_all_keys_that_have_left_hide_no_honest_missing_block() {
    let mut chain = chain();
    let honest = grow(&mut chain, 10);
    chain.tick(Slot::new(12));
    for key in LEFT..N_VALIDATORS {
        for nth in 0..100u64 {
            chain.extend(&block("forged", 12, Root::from(sha256(&[key, nth].map(u64::to_le_bytes).concat())), key));
        }
    }
    let missed = block("honest", 11, honest[10], due(&chain, 11));
    chain.extend(&block("honest", 12, missed.root, due(&chain, 12)));
    assert_eq!(chain.missing_blocks().first(), Some(&missed.root));
}
