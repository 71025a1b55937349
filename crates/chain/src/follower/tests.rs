//! Registry stories of the executable specification: blocks with every operation that moves the
//! registry, and the registry at the beginning of each epoch.

use super::*;
use crate::moves::Move;
use crate::registry::Record;
use crate::{BlockFacts, Chain, PubkeyCache, SignedWith};
use consensus::{Epoch, ForkName, Gwei, ProposerSlashing, Punishable, SignedBlock, Spec, ValidatorIndex};
use serde_json::Value;

const GWEI_PER_ETH: u64 = 1_000_000_000;

/// The registry of the specification at the beginning of an epoch.
struct SpecEpoch {
    epoch: Epoch,
    /// The latest block.
    head: Root,
    records: Vec<Record>,
    /// Only at the end of some epochs.
    state: Option<Vec<u8>>,
    /// Number of blocks before it.
    n_blocks: usize,
}

/// One story, with its blocks in order.
struct Story {
    name: String,
    spec: Spec,
    pre: Vec<u8>,
    blocks: Vec<(ForkName, SignedBlock)>,
    epochs: Vec<SpecEpoch>,
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn record(row: &Value) -> Record {
    let number = |nth: usize| row[nth].as_u64().unwrap();
    Record {
        activation_epoch: Epoch::new(number(0)),
        exit_epoch: Epoch::new(number(1)),
        withdrawable_epoch: Epoch::new(number(2)),
        slashed: number(3) == 1,
        effective_balance: Gwei::new(number(4) * GWEI_PER_ETH),
    }
}

impl Story {
    fn read(file: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(file).unwrap();
        let spec = Spec::from_yaml(json["config"].as_str().unwrap()).unwrap();
        let (mut blocks, mut epochs) = (Vec::new(), Vec::new());
        for step in json["steps"].as_array().unwrap() {
            if let Some(fork) = step["fork"].as_str() {
                let fork = ForkName::ALL.into_iter().find(|name| name.as_str() == fork).unwrap();
                blocks.push((fork, SignedBlock::from_ssz(fork, &spec.preset, &bytes(&step["block"])).unwrap()));
                continue;
            }
            epochs.push(SpecEpoch {
                epoch: Epoch::new(step["epoch"].as_u64().unwrap()),
                head: Root::from_slice(&bytes(&step["head"])),
                records: step["records"].as_array().unwrap().iter().map(record).collect(),
                state: step["state"].as_str().map(|_| bytes(&step["state"])),
                n_blocks: blocks.len(),
            });
        }
        Self { name: json["name"].as_str().unwrap().to_owned(), spec, pre: bytes(&json["pre"]), blocks, epochs }
    }

    fn chain(&self) -> Chain {
        Chain::from_state(self.spec.clone(), &self.pre, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
    }

    fn chain_with(&self, n_blocks: usize) -> Chain {
        let mut chain = self.chain();
        self.blocks[..n_blocks].iter().for_each(|(fork, block)| extend(&mut chain, *fork, block));
        chain
    }
}

fn extend(chain: &mut Chain, fork: ForkName, block: &SignedBlock) {
    let header = &block.signed_header.message;
    chain.extend(&BlockFacts {
        root: block.root,
        slot: header.slot,
        parent_root: header.parent_root,
        proposer_index: header.proposer_index,
        randao_reveal: block.randao_reveal,
    });
    chain.note_registry_moves(block, fork);
    // In these stories every operation is genuine.
    let moves = BlockMoves::of(block, fork).moves;
    let slashed = moves.iter().filter_map(|one| if let Move::Slashing(validator) = one { Some(*validator) } else { None });
    chain.note_slashable(&slashed.collect::<Vec<_>>());
}

fn stories() -> Vec<Story> {
    test_support::files("vectors/registry").iter().map(|(_, file)| Story::read(file)).collect()
}

/// Whether a doubt was noted that explains a difference in when validators come: when an epoch was
/// finalized, or how much of the limit a deposit of unknown size used.
fn may_come_otherwise(doubts: &[Doubt]) -> bool {
    doubts.contains(&Doubt::Finality) || doubts.contains(&Doubt::Balance)
}

/// Whether a difference of the second record from the first one is a doubt that was noted.
fn is_explained(ours: Option<Record>, theirs: &Record, doubts: &[Doubt]) -> bool {
    let Some(ours) = ours else { return may_come_otherwise(doubts) };
    let exits_differ = (ours.exit_epoch, ours.withdrawable_epoch) != (theirs.exit_epoch, theirs.withdrawable_epoch);
    let queue = [Doubt::PartialWithdrawal, Doubt::PendingWithdrawal];
    ours.slashed == theirs.slashed
        && (ours.activation_epoch == theirs.activation_epoch || may_come_otherwise(doubts))
        && (!exits_differ || queue.iter().any(|doubt| doubts.contains(doubt)))
}

/// Every field of every validator at the beginning of every epoch. What differs is known to be in
/// doubt: a network that has just begun to finalize again, or a deposit of unknown size.
#[test]
fn the_registry_is_that_of_the_specification_after_each_epoch() {
    let mut unexplained = Vec::new();
    for story in stories() {
        let mut chain = story.chain_with(story.blocks.len());
        let (mut n_equal, mut n_in_doubt, mut first) = (0usize, 0usize, None);
        for expected in &story.epochs {
            let context = FollowContext { registry: &chain.registry, spec: &story.spec };
            let mut followed = (*chain.follower.at(expected.head, &chain.tree, context).unwrap()).clone();
            // What later blocks say about this epoch.
            let justified = story.blocks.iter().flat_map(|(fork, block)| BlockMoves::of(block, *fork).justified);
            justified.for_each(|(at, justified)| followed.name_justified(at, justified));
            followed.advance(expected.epoch, context);
            let doubts: Vec<Doubt> = followed.doubts().collect();
            let n_more = followed.len().saturating_sub(expected.records.len());
            if n_more > 0 && may_come_otherwise(&doubts) {
                n_in_doubt += n_more;
                first.get_or_insert(format!("epoch {}: {n_more} validators too many", expected.epoch));
            } else if n_more > 0 {
                unexplained.push(format!("{}, epoch {}: {n_more} validators too many", story.name, expected.epoch));
            }
            for (index, theirs) in (0u32..).zip(&expected.records) {
                let ours = followed.record(&chain.registry, index);
                // Balances are not followed.
                let same = ours.map(|ours| Record { effective_balance: theirs.effective_balance, ..ours });
                if same == Some(*theirs) {
                    n_equal += 1;
                    continue;
                }
                let text = format!("epoch {}, validator {index}: {ours:?}, not {theirs:?}, in doubt: {doubts:?}", expected.epoch);
                if is_explained(ours, theirs, &doubts) {
                    n_in_doubt += 1;
                    first.get_or_insert(text);
                } else {
                    unexplained.push(format!("{}: {text}", story.name));
                }
            }
        }
        println!("{}: {n_equal} records equal, {n_in_doubt} differ and are in doubt, the first: {first:?}", story.name);
        assert!(n_in_doubt * 100 < n_equal, "{}: {n_in_doubt} of {n_equal}", story.name);
    }
    let n = unexplained.len();
    assert!(unexplained.is_empty(), "{n} differences, the first: {:#?}", &unexplained[..n.min(12)]);
}

/// The committees of an epoch depend on who is active in it. The decision block is the latest block
/// of which the chain knows anything.
#[test]
fn who_is_active_is_known_from_the_decision_block() {
    let mut all = Vec::new();
    for story in stories() {
        let mut chain = story.chain_with(story.blocks.len());
        let tip = story.blocks.last().unwrap().1.root;
        let (mut n_followed, mut n_of_state, mut n_in_doubt) = (0, 0, 0);
        for expected in story.epochs.iter().filter(|expected| expected.epoch > Epoch::new(1)) {
            let epoch = expected.epoch;
            let before = epoch.saturating_sub(1).start_slot(&story.spec.preset);
            let decision = chain.tree.last_before(tip, before).unwrap();
            let context = FollowContext { registry: &chain.registry, spec: &story.spec };
            let followed = chain.follower.before(decision, epoch, &chain.tree, context).unwrap();
            let of_state = chain.registry.active_at(epoch, 0);
            let ours = followed.active_at(&chain.registry, epoch).unwrap_or_else(|| of_state.clone());
            let theirs = |index: &u32| expected.records[*index as usize].is_active(epoch);
            let theirs: Vec<u32> = (0..expected.records.len() as u32).filter(theirs).collect();
            n_of_state += u32::from(*of_state == theirs);
            if *ours == theirs {
                n_followed += 1;
            } else if may_come_otherwise(&followed.doubts().collect::<Vec<_>>()) {
                n_in_doubt += 1;
            } else {
                all.push(format!("{}, epoch {epoch}: {ours:?}, not {theirs:?}", story.name));
            }
        }
        println!("{}: right in {n_followed} epochs, in doubt in {n_in_doubt}, by the state alone {n_of_state}", story.name);
        assert!(n_followed > 8 * n_in_doubt && n_followed > n_of_state, "{}", story.name);
    }
    assert!(all.is_empty(), "{} differences, the first: {:#?}", all.len(), &all[..all.len().min(4)]);
}

/// Two blocks on one parent with the same reveal have the same seed. Only one carries an exit.
#[test]
fn each_branch_has_its_own_registry() {
    let story = stories().into_iter().find(|story| story.name == "electra").unwrap();
    let n = 60;
    let mut chain = story.chain_with(n);
    let (fork, next) = &story.blocks[n];
    let (roots, leaver) = ([Root::repeat_byte(1), Root::repeat_byte(2)], 14);
    for root in roots {
        let mut block = next.clone();
        block.root = root;
        block.voluntary_exits = if root == roots[0] { vec![ValidatorIndex::new(leaver)] } else { Vec::new() };
        extend(&mut chain, *fork, &block);
    }
    let context = FollowContext { registry: &chain.registry, spec: &story.spec };
    let exits = roots.map(|root| {
        let followed = chain.follower.at(root, &chain.tree, context).unwrap();
        followed.record(&chain.registry, leaver as u32).unwrap().exit_epoch
    });
    assert!(exits[0] < Epoch::FAR_FUTURE && exits[1] == Epoch::FAR_FUTURE, "{exits:?}");
}

/// A later state is compared with what blocks told, and counts from then on.
#[test]
fn a_later_state_settles_it() {
    let mut n_differences = 0;
    for story in stories() {
        for expected in &story.epochs {
            let Some(state) = &expected.state else { continue };
            let mut chain = story.chain_with(expected.n_blocks);
            chain.add_state(state, &mut PubkeyCache::in_memory()).unwrap();
            let stats = chain.stats();
            assert_eq!(stats.states_compared, 1, "{}", story.name);
            assert_eq!(stats.states_differed, u64::from(stats.registry_differences > 0), "{}", story.name);
            println!("{}, epoch {}: {} differences", story.name, expected.epoch, stats.registry_differences);
            n_differences += stats.registry_differences;
            // The same state again is nothing new.
            chain.add_state(state, &mut PubkeyCache::in_memory()).unwrap();
            assert_eq!(chain.stats().states_compared, 1, "{}", story.name);
            let index = ValidatorIndex::new(expected.records.len() as u64 - 1);
            assert_eq!(chain.registry().record(index), expected.records.last().copied());
        }
        // A state that blocks did not announce.
        let with_state = story.epochs.iter().rfind(|expected| expected.state.is_some()).unwrap();
        let mut chain = story.chain_with(with_state.n_blocks);
        chain.follower.moves = Moves::default();
        chain.follower.recent.clear();
        chain.follower.head = None;
        chain.add_state(with_state.state.as_ref().unwrap(), &mut PubkeyCache::in_memory()).unwrap();
        assert!(chain.stats().registry_differences > 0, "{}", story.name);
    }
    assert!(n_differences < 4, "{n_differences}");
}

/// Old blocks are discarded while the chain goes on. What they told stays.
#[test]
fn what_old_blocks_told_is_kept_when_they_are_discarded() {
    for story in stories() {
        let (half, all) = (story.blocks.len() / 2, story.blocks.len());
        let tip = story.blocks[all - 1].1.root;
        let mut whole = story.chain_with(all);
        let mut chain = story.chain_with(half);
        let (head, floor) = (story.blocks[half - 1].1.root, story.blocks[half - 10].1.signed_header.message.slot);
        let context = FollowContext { registry: &chain.registry, spec: &story.spec };
        chain.follower.prune(floor, head, &chain.tree, context);
        chain.tree.prune(floor);
        assert!(chain.follower.moves.of(&story.blocks[0].1.root).is_none());
        story.blocks[half..].iter().for_each(|(fork, block)| extend(&mut chain, *fork, block));
        let [pruned, kept] = [&mut chain, &mut whole].map(|chain| {
            let context = FollowContext { registry: &chain.registry, spec: &story.spec };
            let followed = chain.follower.at(tip, &chain.tree, context).unwrap();
            (0..followed.len() as u32).map(|index| followed.record(&chain.registry, index)).collect::<Vec<_>>()
        });
        assert_eq!(pruned, kept, "{}", story.name);
    }
}

/// A long queue of exits moves the withdrawable epoch of the slashed farther than the slashing does
/// (EPOCHS_PER_SLASHINGS_VECTOR, 36 days on mainnet). So that epoch does not tell when they were
/// slashed.
#[test]
fn who_was_slashed_by_a_block_is_already_slashed_however_long_the_exit_queue_is() {
    for name in ["deneb", "fulu", "gloas"] {
        let story = stories().into_iter().find(|story| story.name == name).unwrap();
        let preset = &story.spec.preset;
        let queue_ends = Epoch::new(2 * preset.epochs_per_slashings_vector);
        let mut chain = story.chain();
        Arc::make_mut(&mut chain.follower.base.as_mut().unwrap().registry).lengthen_exit_queue(queue_ends);
        // In this time nobody who was slashed has left in the story either.
        let last = Epoch::new(9);
        let early = |block: &&(ForkName, SignedBlock)| block.1.signed_header.message.slot.epoch(preset) <= last;
        story.blocks.iter().take_while(early).for_each(|(fork, block)| extend(&mut chain, *fork, block));
        let (head, now) = (chain.backed_head(), chain.now().epoch(preset));
        assert!(now >= Epoch::new(8), "{name}: {now}");
        let followed = chain.follower.known(&head.root).unwrap();
        let slashed = (0..followed.len() as u32).filter_map(|index| Some((index, followed.slashed_in(index)?)));
        let settled: Vec<(u32, Epoch)> = slashed.filter(|(_, at)| at.saturating_add(3) <= now).collect();
        assert!(!settled.is_empty(), "{name}");
        for (index, at) in settled {
            let record = followed.record(&chain.registry, index).unwrap();
            let by_slashing = at.saturating_add(preset.epochs_per_slashings_vector);
            assert!(record.slashed && record.withdrawable_epoch > by_slashing, "{name}: {record:?}");
            let signed = [SignedWith::scheduled(chain.network(), at); 2];
            let punishable = chain.punishable(ValidatorIndex::new(u64::from(index)), signed);
            assert_eq!(punishable, Punishable::AlreadySlashed, "{name}: validator {index}, slashed in epoch {at}");
        }
    }
}

/// The owner of a key puts slashings of others into a block, with made-up signatures. From Gloas on
/// the slashed are not drawn, so they would choose the proposers of their own branch.
#[test]
fn a_slashing_that_is_not_proven_moves_no_proposer() {
    let story = stories().into_iter().find(|story| story.name == "gloas").unwrap();
    let preset = story.spec.preset.clone();
    let n = 20;
    let mut chain = story.chain_with(n);
    let (fork, next) = &story.blocks[n];
    let first = next.signed_header.message.slot.epoch(&preset).saturating_add(2).start_slot(&preset);
    let proposers = |chain: &mut Chain, root: Root| -> Vec<ValidatorIndex> {
        let slots = (0..preset.slots_per_epoch).map(|nth| first.saturating_add(nth));
        slots.map(|slot| chain.proposer_on(&root, slot).unwrap()).collect()
    };
    // Both blocks have the same reveal, so only what is in them differs.
    let [honest, dishonest] = [Root::repeat_byte(1), Root::repeat_byte(2)];
    let add = |chain: &mut Chain, root: Root, named: &[ValidatorIndex]| {
        let mut block = next.clone();
        block.root = root;
        block.attester_slashings.clear();
        block.proposer_slashings = named
            .iter()
            .map(|validator| {
                let mut header = block.signed_header;
                header.message.proposer_index = *validator;
                ProposerSlashing { signed_header_1: header, signed_header_2: header }
            })
            .collect();
        let header = &block.signed_header.message;
        chain.extend(&BlockFacts {
            root,
            slot: header.slot,
            parent_root: header.parent_root,
            proposer_index: header.proposer_index,
            randao_reveal: block.randao_reveal,
        });
        chain.note_registry_moves(&block, *fork);
    };
    add(&mut chain, honest, &[]);
    let drawn = proposers(&mut chain, honest);
    add(&mut chain, dishonest, &drawn);
    assert_eq!(proposers(&mut chain, dishonest), drawn);

    // Once they are proven, they count, on this branch only.
    chain.note_slashable(&drawn);
    assert!(proposers(&mut chain, dishonest).iter().all(|validator| !drawn.contains(validator)));
    assert_eq!(proposers(&mut chain, honest), drawn);
}
