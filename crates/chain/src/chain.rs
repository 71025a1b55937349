//! [`Chain`] combines the block tree, the registry and the committees. One thread owns it, so there
//! are no locks.
//!
//! | module | what |
//! |---|---|
//! | here | states and blocks come in; when a newer state is wanted |
//! | [`contexts`] | the committees that a vote can belong to |
//! | [`heads`] | the head, the branch with the most backing, competing branches |
//! | [`turns`] | the proposers of slots, and whether a block was built in turn |
//! | [`deposits`] | how many validators there can be |
//!
//! Bounds: [`MAX_CANDIDATES`], [`FUTURE_EPOCHS`], [`KEPT_EPOCHS`], and the bounds of the tree and
//! of the shufflings. [`ChainStats`] counts what they refused. Nothing is allocated in proportion
//! to a number in a vote.

mod contexts;
mod deposits;
mod heads;
mod turns;

pub use contexts::{Contexts, MAX_CANDIDATES};
pub use heads::{BranchBlock, HeadView};

use crate::ChainError;
use crate::builders::MAX_BUILDERS;
use crate::duties::ProposerCache;
use crate::follow::{FollowContext, FollowedRegistry};
use crate::follower::RegistryFollower;
use crate::moves::BlockMoves;
use crate::pubkeys::{Progress, PubkeyCache};
use crate::reference::Reference;
use crate::registry::{Record, Registry};
use crate::shufflings::Shufflings;
use crate::snapshot::{PAST_EPOCHS, StateHistory};
use crate::tree::{Decision, Insert, MAX_NODES, OrphanClaim, Tree};
use crate::weight::StakeCounter;
use consensus::state::{StateFork, StateView, fork_of_state};
use consensus::{
    Checkpoint, Epoch, ForkName, MAX_SEED_LOOKAHEAD, Network, Preset, RegistryChange, Root, SignatureBytes, SignedBlock, Slot,
    Spec, ValidatorIndex, sha256,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Maximum number of epochs ahead of now for which the committees of a vote are computed. The wrong
/// clocks of Medalla needed 37.
pub const FUTURE_EPOCHS: u64 = 64;
/// Number of epochs before now whose blocks are kept. It is the number of epochs whose blocks a
/// mainnet state names, so the votes of an ERA file find their targets.
pub const KEPT_EPOCHS: u64 = 256;
/// Number of blocks that one proposer may have in the tree in addition to its fair share of the
/// kept slots.
const PROPOSER_ALLOWANCE: usize = 256;
const GWEI_PER_ETH: u64 = 1_000_000_000;
/// Age in epochs from which a newer state is wanted even if no change of the registry is known: one
/// day of mainnet.
const MAX_REGISTRY_AGE_EPOCHS: u64 = 225;
/// Maximum number of different mixes, from different states, that are kept for a past epoch.
const MAX_MIXES_PER_EPOCH: usize = 4;

/// The fields of a block that the tree needs. The signatures of the block must be proven, because
/// its randao reveal determines committees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockFacts {
    pub root: Root,
    pub slot: Slot,
    pub parent_root: Root,
    pub proposer_index: ValidatorIndex,
    pub randao_reveal: SignatureBytes,
}

/// The result of adding a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The block is in the tree now, together with the blocks that waited for it.
    Attached,
    /// The block was in the tree already.
    Known,
    /// The block waits for its parent. The number of waiting blocks is bounded.
    Orphan { missing_parent: Root },
    /// The block is older than the blocks that are kept.
    TooOld,
    /// The block cannot belong to any chain (its slot is not after its parent's), or a bound was
    /// reached. The text gives the reason.
    Refused(&'static str),
}

/// Sizes and counters for the metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainStats {
    pub blocks: usize,
    pub orphans: usize,
    pub orphans_dropped: u64,
    pub blocks_refused: u64,
    pub blocks_pruned: u64,
    pub shufflings: usize,
    pub shuffling_bytes: usize,
    pub shufflings_computed: u64,
    pub shufflings_evicted: u64,
    /// Number of shufflings that were not computed (yet) because a budget was used up.
    pub shufflings_refused: u64,
    /// Number of operations in blocks that were refused because there was no room.
    pub exits_refused: u64,
    /// Number of states with which the registry that blocks told was compared.
    pub states_compared: u64,
    /// Number of those states that differed from it.
    pub states_differed: u64,
    /// Number of differences in all compared states: of a validator's slashing, activation, exit or
    /// withdrawable epoch, or of its existence.
    pub registry_differences: u64,
    /// Number of votes whose epoch is too far from now.
    pub epochs_refused: u64,
    pub validators: usize,
    pub invalid_pubkeys: usize,
}

/// Whether a newer state is wanted when the latest one is `age` epochs old. `may_have_changed` is
/// whether something since then can have changed who is active.
pub fn wants_newer_state(age: u64, may_have_changed: bool) -> bool {
    // A state of epoch s determines who is active up to epoch s + MAX_SEED_LOOKAHEAD. The next
    // epoch must be within that range.
    let past_horizon = age + 1 > MAX_SEED_LOOKAHEAD;
    past_horizon && (may_have_changed || age > MAX_REGISTRY_AGE_EPOCHS)
}

/// The block tree, the registry and the committees of one network.
#[derive(Debug)]
pub struct Chain {
    network: Arc<Network>,
    pub(crate) registry: Registry,
    pub(crate) tree: Tree,
    shufflings: Shufflings,
    reference: Reference,
    /// Mixes at the end of past epochs, from states. They serve epochs that are before the known
    /// blocks.
    mixes: BTreeMap<Epoch, Vec<Root>>,
    /// Decision blocks by epoch, for votes with an unknown target. Cleared when the tree changes.
    candidates: HashMap<Epoch, Vec<Decision>>,
    /// Follows the registry since its state through blocks.
    pub(crate) follower: RegistryFollower,
    finalized: Checkpoint,
    justified: Checkpoint,
    /// The `Fork` of the latest state.
    state_fork: StateFork,
    generation: u64,
    /// Slot of the latest block since the registry's state that may have changed the registry.
    registry_change: Option<Slot>,
    /// Maximum number of blocks that one proposer may have in the tree.
    share: usize,
    duties: ProposerCache,
    votes: StakeCounter,
    /// The head that a node reported, and the slot in which it reported it.
    node_head: Option<(Root, Slot)>,
    /// [`Self::backed_head`] at the time of the last change.
    backed: Option<HeadView>,
    /// Whether two branches grew side by side at the time of the last change.
    split: bool,
    epochs_refused: u64,
}

impl Chain {
    /// Makes a chain from any state: genesis or a later one. This checks every public key that
    /// `keys` does not contain yet (62 us each).
    pub fn from_state(
        spec: Spec,
        state_ssz: &[u8],
        keys: &mut PubkeyCache,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ChainError> {
        let view = parse(&spec, state_ssz)?;
        let network =
            Network { spec, genesis_time: view.genesis_time(), genesis_validators_root: view.genesis_validators_root() };
        let mut chain = Self {
            network: Arc::new(network),
            registry: Registry::default(),
            tree: Tree::default(),
            shufflings: Shufflings::default(),
            reference: Reference::default(),
            mixes: BTreeMap::new(),
            candidates: HashMap::new(),
            follower: RegistryFollower::default(),
            finalized: Checkpoint::default(),
            justified: Checkpoint::default(),
            state_fork: StateFork::default(),
            generation: 0,
            registry_change: None,
            share: PROPOSER_ALLOWANCE,
            duties: ProposerCache::default(),
            votes: StakeCounter::default(),
            node_head: None,
            backed: None,
            split: false,
            epochs_refused: 0,
        };
        chain.take_state(&view, keys, progress)?;
        Ok(chain)
    }

    /// Adds another state: its validators, activations and exits, blocks and mixes. If it changes
    /// the committees of an epoch, both the earlier and the new committees are used for that epoch.
    pub fn add_state(&mut self, state_ssz: &[u8], keys: &mut PubkeyCache) -> Result<(), ChainError> {
        let network = self.network.clone();
        let view = parse(&network.spec, state_ssz)?;
        let (found, wanted) = (view.genesis_validators_root(), network.genesis_validators_root);
        if found != wanted {
            return Err(ChainError::OtherNetwork { found, wanted });
        }
        self.take_state(&view, keys, &mut |_| ())
    }

    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Sets the current time. A live program should call this in every slot, a replay with the
    /// times of its messages. The time controls pruning, the head, the bounds on epochs far from
    /// now, and the early computation of the next epoch's committees. Without this call, the
    /// current time is the slot that blocks of at least three proposers have reached.
    pub fn tick(&mut self, slot: Slot) {
        let before = self.now();
        self.reference.tick(slot);
        self.poll_shufflings();
        if self.now() != before {
            self.prune();
            self.check_turns(true);
            self.compare_branches();
            self.prepare_next_epoch(slot);
        }
    }

    /// Adds a *proven* block, and the blocks that waited for it.
    pub fn extend(&mut self, block: &BlockFacts) -> Extension {
        let now = self.now().epoch(self.preset());
        if self.reference.has_clock() && block.slot.epoch(self.preset()) > now.saturating_add(FUTURE_EPOCHS) {
            self.tree.refused += 1;
            return Extension::Refused("its slot is more than 64 epochs in the future");
        }
        let claim = self.orphan_claim(block);
        let result = self.tree.insert(block, reveal_hash(block), self.share, claim);
        match result {
            Insert::Attached => {
                self.tree.add_votes(&block.root, self.votes.take(&block.root));
                self.reference.block_seen(block.slot, block.proposer_index);
                // With a clock, the budget is refilled as time passes. It must not be refilled by
                // blocks then, because the owner of one key could sign many.
                if !self.reference.has_clock() {
                    self.shufflings.refund();
                }
                let waiting = self.tree.take_waiting(&block.root);
                self.attach_all(waiting);
                self.changed();
                Extension::Attached
            }
            Insert::Known { news } => {
                if news {
                    self.shufflings.refund();
                    self.changed();
                }
                Extension::Known
            }
            Insert::Orphan { missing_parent } => Extension::Orphan { missing_parent },
            Insert::TooOld => Extension::TooOld,
            Insert::Refused(reason) => Extension::Refused(reason),
        }
    }

    /// The finalized checkpoint that the latest state or node reported.
    pub fn finalized(&self) -> Checkpoint {
        self.finalized
    }

    /// The justified checkpoint that the latest state or node reported.
    pub fn justified(&self) -> Checkpoint {
        self.justified
    }

    /// Records the checkpoints that a node reports. Older checkpoints are ignored, and those of
    /// epochs that have not begun: one such answer would be believed for ever.
    pub fn note_finality(&mut self, justified: Checkpoint, finalized: Checkpoint) {
        let epoch = self.now().epoch(self.preset());
        if justified.epoch <= epoch && finalized.epoch <= epoch {
            self.advance_finality(justified, finalized);
        }
    }

    fn advance_finality(&mut self, justified: Checkpoint, finalized: Checkpoint) {
        if finalized.epoch >= self.finalized.epoch {
            self.finalized = finalized;
        }
        if justified.epoch >= self.justified.epoch {
            self.justified = justified;
        }
    }

    pub fn is_known_block(&self, root: &Root) -> bool {
        self.tree.slot_of(root).is_some()
    }

    /// Whether a block is here: known, or waiting for its parent.
    pub fn has_block(&self, root: &Root) -> bool {
        self.is_known_block(root) || self.tree.is_orphan(root)
    }

    /// Slot of a known block.
    pub fn block_slot(&self, root: &Root) -> Option<Slot> {
        self.tree.slot_of(root)
    }

    /// Parent of a known block, if the parent is known.
    pub fn block_parent(&self, root: &Root) -> Option<Root> {
        self.tree.parent_of(root)
    }

    /// Returns the last block at or before `slot` on the branch of a known block.
    pub fn ancestor_at(&self, root: &Root, slot: Slot) -> Option<Root> {
        self.tree.last_before(*root, slot.saturating_add(1))
    }

    /// Lists missing parents of waiting blocks, which can be requested from a node: at most 64, and
    /// only a few for each proposer. The parents of blocks in turn come first, then those nearest
    /// to now.
    pub fn missing_blocks(&self) -> Vec<Root> {
        self.tree.missing(self.now())
    }

    /// Stops listing a missing block that no node has, although it was requested several times.
    pub fn give_up_block(&mut self, root: &Root) {
        self.tree.give_up(root);
    }

    /// A number that grows whenever new contexts may exist. A message that waits for a context
    /// should then be tried again.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns whether a newer state is wanted, because the active set of the next epochs is no
    /// longer certain and something may have changed it.
    pub fn needs_registry_refresh(&self) -> bool {
        let now = self.now().epoch(self.preset());
        let age = now.as_u64().saturating_sub(self.registry.slot().epoch(self.preset()).as_u64());
        wants_newer_state(age, self.registry_change.is_some() || self.may_change_without_blocks())
    }

    /// Whether validators may become active or inactive although no block shows it.
    pub fn may_change_without_blocks(&self) -> bool {
        self.registry.n_pending() > 0
    }

    /// Records what a proven block tells about the registry: slashings, exits, deposits, requests
    /// of the execution layer, and the justified checkpoint. Call it before votes ask for the
    /// committees after the block. A slashing counts once [`Self::note_slashable`] names its
    /// validator.
    pub fn note_registry_moves(&mut self, block: &SignedBlock, fork: ForkName) {
        let slot = block.signed_header.message.slot;
        if block.registry_change == RegistryChange::Possible {
            self.note_registry_change(slot);
        }
        self.follower.moves.note(block.root, BlockMoves::of(block, fork));
        self.follow_head();
    }

    /// Records validators that are proven to have signed contradicting messages, so that blocks can
    /// slash them. Without that the owner of one key could choose the proposers of its own branch:
    /// from Gloas on the slashed are not drawn (EIP-8045), and a block may name anybody.
    pub fn note_slashable(&mut self, validators: &[ValidatorIndex]) {
        if self.follower.note_slashable(validators) {
            self.duties.forget_computed();
            self.check_turns_again();
            self.changed();
        }
    }

    pub(crate) fn follow_head(&mut self) {
        let context = FollowContext { registry: &self.registry, spec: &self.network.spec };
        if let Some(head) = self.backed {
            self.follower.follow_head(head.root, &self.tree, context);
        }
    }

    /// Number of active validators on the branch with the most backing whose keys no state has
    /// named yet. Neither their votes nor aggregates with them can be proven.
    pub fn n_newcomers(&self) -> usize {
        let followed = self.backed.and_then(|head| self.follower.known(&head.root));
        followed.map_or(0, |known| known.n_active_newcomers(&self.registry, self.now().epoch(self.preset())))
    }

    /// The record of a validator on the branch with the most backing, as far as the blocks since
    /// the state tell. `None` if there is no such validator, or if the blocks do not reach back to
    /// the state.
    pub fn followed_record(&self, validator: ValidatorIndex) -> Option<Record> {
        let followed = self.follower.known(&self.backed?.root)?;
        followed.record(&self.registry, u32::try_from(validator.as_u64()).ok()?)
    }

    /// Records that a block at `slot` may have changed the registry.
    pub fn note_registry_change(&mut self, slot: Slot) {
        if slot > self.registry.slot() {
            self.registry_change = Some(self.registry_change.map_or(slot, |known| known.max(slot)));
        }
    }

    /// The registry that decides who is active in `epoch` on the branch with this decision block.
    pub(crate) fn followed_before(&mut self, decision: Root, epoch: Epoch) -> Option<Arc<FollowedRegistry>> {
        let context = FollowContext { registry: &self.registry, spec: &self.network.spec };
        self.follower.before(decision, epoch, &self.tree, context)
    }

    pub fn stats(&self) -> ChainStats {
        ChainStats {
            blocks: self.tree.len(),
            orphans: self.tree.n_orphans(),
            orphans_dropped: self.tree.orphans_dropped(),
            blocks_refused: self.tree.refused,
            blocks_pruned: self.tree.pruned,
            shufflings: self.shufflings.len(),
            shuffling_bytes: self.shufflings.bytes(),
            shufflings_computed: self.shufflings.computed,
            shufflings_evicted: self.shufflings.evicted,
            shufflings_refused: self.shufflings.refused,
            exits_refused: self.follower.moves.refused,
            states_compared: self.follower.n_compared,
            states_differed: self.follower.n_differed,
            registry_differences: self.follower.n_differences,
            epochs_refused: self.epochs_refused,
            validators: self.registry.len(),
            invalid_pubkeys: self.registry.n_invalid_keys(),
        }
    }

    pub(crate) fn preset(&self) -> &Preset {
        &self.network.spec.preset
    }

    /// The current slot: by the caller's clock, or by the latest state if that is later. Without a
    /// clock, blocks of three proposers also move it. It never goes back.
    pub fn now(&self) -> Slot {
        self.reference.slot()
    }

    pub(crate) fn state_fork(&self) -> StateFork {
        self.state_fork
    }

    fn take_state(
        &mut self,
        view: &StateView<'_>,
        keys: &mut PubkeyCache,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ChainError> {
        let network = self.network.clone();
        let preset = network.preset();
        let snapshot = StateHistory::of(view, preset);
        let latest = snapshot.ancestors.last().map(|latest| latest.root);
        if let Some(block) = latest {
            let context = FollowContext { registry: &self.registry, spec: &network.spec };
            self.follower.compare(view, block, &self.tree, context);
        }
        self.registry.take(view.slot(), view.n_validators(), view.validators(), preset, keys, progress)?;
        self.registry.take_pending_deposits(view.slot(), view.n_pending_deposits());
        self.registry.take_builders(view.slot(), view.builder_pubkeys(MAX_BUILDERS));
        if view.slot() >= self.registry.slot() {
            self.state_fork = view.fork();
            if let Some(block) = latest {
                self.follower.begin(view, block, FollowContext { registry: &self.registry, spec: &network.spec });
            }
        }
        let waiting = self.tree.add_ancestors(&snapshot.ancestors);
        for (epoch, mix) in snapshot.mixes {
            let known = self.mixes.entry(epoch).or_default();
            if !known.contains(&mix) && known.len() < MAX_MIXES_PER_EPOCH {
                known.push(mix);
            }
        }
        self.advance_finality(view.current_justified_checkpoint(), view.finalized_checkpoint());
        self.reference.state_seen(view.slot());
        self.note_duties(view, latest);
        self.attach_all(waiting);
        if self.registry_change.is_some_and(|change| change <= self.registry.slot()) {
            self.registry_change = None;
        }
        let kept_slots = (KEPT_EPOCHS * preset.slots_per_epoch) as usize;
        let (n_active, _) = self.registry.active_balance(view.slot().epoch(preset));
        let (_, stake) = self.registry.active_balance(self.now().epoch(preset));
        self.tree.set_quorum(stake.as_u64() / GWEI_PER_ETH / preset.slots_per_epoch / 2);
        self.share = (PROPOSER_ALLOWANCE + 4 * kept_slots / n_active.max(1)).min(MAX_NODES / 2);
        self.changed();
        Ok(())
    }

    fn attach_all(&mut self, mut waiting: Vec<BlockFacts>) {
        while let Some(block) = waiting.pop() {
            match self.tree.insert(&block, reveal_hash(&block), self.share, OrphanClaim::Active) {
                Insert::Attached => {
                    self.tree.add_votes(&block.root, self.votes.take(&block.root));
                    self.reference.block_seen(block.slot, block.proposer_index);
                    waiting.extend(self.tree.take_waiting(&block.root));
                }
                Insert::Known { .. } | Insert::Orphan { .. } | Insert::TooOld | Insert::Refused(_) => {}
            }
        }
    }

    fn changed(&mut self) {
        self.generation += 1;
        self.candidates.clear();
        self.prune();
        self.check_turns(false);
        self.compare_branches();
    }

    fn prune(&mut self) {
        let now = self.now().epoch(self.preset());
        let floor = now.saturating_sub(KEPT_EPOCHS).start_slot(self.preset());
        let context = FollowContext { registry: &self.registry, spec: &self.network.spec };
        self.follower.prune(floor, self.backed.map_or(Root::ZERO, |head| head.root), &self.tree, context);
        self.tree.prune(floor);
        let oldest = now.saturating_sub(PAST_EPOCHS + 2);
        while let Some((epoch, _)) = self.mixes.first_key_value()
            && *epoch < oldest
        {
            self.mixes.pop_first();
        }
    }
}

/// The block that a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBlock {
    /// In seconds since the Unix epoch.
    pub genesis_time: u64,
    /// Slot of the block.
    pub slot: Slot,
    pub root: Root,
    /// Whether the block's root commits to this state. It does not if the state was carried on over
    /// empty slots: then anything can be in it.
    pub is_bound: bool,
}

/// Reads which block a state belongs to. Hashes the whole state, which takes seconds on mainnet.
pub fn block_of_state(spec: &Spec, state_ssz: &[u8]) -> Result<StateBlock, ChainError> {
    let view = parse(spec, state_ssz)?;
    let header = view.latest_block_header();
    Ok(StateBlock {
        genesis_time: view.genesis_time(),
        slot: header.slot,
        root: view.latest_block_root(),
        is_bound: header.state_root.is_zero(),
    })
}

pub(crate) fn parse<'a>(spec: &Spec, state_ssz: &'a [u8]) -> Result<StateView<'a>, ChainError> {
    let read = fork_of_state(spec, state_ssz).and_then(|fork| StateView::parse(fork, &spec.preset, state_ssz));
    read.map_err(|error| match fork_version_in(state_ssz) {
        // A state of another network has other forks at other slots, so it does not decode as a
        // state of this network.
        Some(found) if spec.forks.iter().all(|fork| fork.version != found) => {
            ChainError::OtherForkVersion { found: hex::encode(found), network: spec.config_name.clone() }
        }
        _ => ChainError::State(error),
    })
}

/// Reads `state.fork.current_version`. In every fork it comes after genesis time, genesis
/// validators root, slot and the previous version.
fn fork_version_in(state_ssz: &[u8]) -> Option<[u8; 4]> {
    state_ssz.get(8 + 32 + 8 + 4..)?.first_chunk().copied()
}

fn reveal_hash(block: &BlockFacts) -> Root {
    Root::from(sha256(block.randao_reveal.as_slice()))
}
