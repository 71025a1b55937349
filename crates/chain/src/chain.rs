//! [`Chain`] combines the block tree, the registry and the committees. One thread owns it, so there
//! are no locks.
//!
//! The module [`contexts`] finds the committees that a vote can belong to.
//!
//! Bounds: [`MAX_CANDIDATES`], [`FUTURE_EPOCHS`], [`KEPT_EPOCHS`], and the bounds of the tree and
//! of the shufflings. [`ChainStats`] counts what they refused. Nothing is allocated in proportion
//! to a number in a vote.

mod contexts;
mod deposits;

pub use contexts::{Contexts, MAX_CANDIDATES};

use crate::ChainError;
use crate::builders::MAX_BUILDERS;
use crate::duties::ProposerCache;
use crate::exits::Exits;
use crate::orphans::OrphanClaim;
use crate::pubkeys::{Progress, PubkeyCache};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::shufflings::Shufflings;
use crate::snapshot::{PAST_EPOCHS, StateHistory};
use crate::tree::{Decision, Insert, MAX_NODES, ProposerCheck, Tree, Unjudged};
use crate::weight::{StakeCounter, is_about_now};
use consensus::state::{StateFork, StateView, fork_of_state};
use consensus::{
    AttestationData, Checkpoint, Epoch, MAX_SEED_LOOKAHEAD, Network, Preset, Root, SignatureBytes, Slot, Spec, ValidatorIndex,
    sha256,
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
/// Maximum number of branch ends whose backing is compared.
const MAX_BACKED: usize = 256;
/// Maximum age in epochs of a block whose proposer is checked. Nothing counts older blocks.
const JUDGED_EPOCHS: u64 = 8;
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

/// A block that is regarded as the head: its root and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadView {
    pub root: Root,
    pub slot: Slot,
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
    /// Number of exits in blocks that were refused because there was no room.
    pub exits_refused: u64,
    /// Number of votes whose epoch is too far from now.
    pub epochs_refused: u64,
    pub validators: usize,
    pub invalid_pubkeys: usize,
}

/// The block tree, the registry and the committees of one network.
#[derive(Debug)]
pub struct Chain {
    network: Arc<Network>,
    registry: Registry,
    tree: Tree,
    shufflings: Shufflings,
    reference: Reference,
    /// Mixes at the end of past epochs, from states. They serve epochs that are before the known
    /// blocks.
    mixes: BTreeMap<Epoch, Vec<Root>>,
    /// Decision blocks by epoch, for votes with an unknown target. Cleared when the tree changes.
    candidates: HashMap<Epoch, Vec<Decision>>,
    /// Exits in the blocks since the registry's state.
    exits: Exits,
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
            exits: Exits::default(),
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
            if self.now().epoch(self.preset()) != before.epoch(self.preset()) {
                self.forecast_exits();
            }
            self.judge_turns(true);
            self.look_at_branches();
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

    /// Returns the attached block with the highest slot that is not in the future. The time is that
    /// of [`Self::tick`]; without a clock, blocks up to one epoch after the slot that three
    /// proposers have reached are allowed. This is not a fork choice: the watcher follows every
    /// branch alike.
    pub fn head(&self) -> HeadView {
        let allowance = if self.reference.has_clock() { 0 } else { self.preset().slots_per_epoch };
        self.head_at(self.now().saturating_add(allowance))
    }

    /// Returns the end of the branch with the most backing: the most stake voted for its blocks in
    /// the last two epochs, and then the most proposers built on it in turn. If a node has recently
    /// reported its head, only branches that contain this head are considered. Unlike
    /// [`Self::head`], the result does not follow whoever signed the latest block.
    pub fn backed_head(&self) -> HeadView {
        self.backed.unwrap_or_else(|| self.head())
    }

    /// Adds the stake of proven votes to the blocks that they name as head.
    pub fn count_votes<'a>(&mut self, votes: impl Iterator<Item = (&'a AttestationData, &'a [ValidatorIndex])>) {
        let ahead = if self.reference.has_clock() { 1 } else { self.preset().slots_per_epoch };
        let mut counted = false;
        for (data, members) in votes {
            if !is_about_now(data, self.now(), ahead, &self.network.spec.preset) {
                continue;
            }
            let stake = self.votes.count(&self.registry, data, members);
            counted |= stake > 0;
            if stake > 0 && !self.tree.add_votes(&data.beacon_block_root, stake) {
                self.votes.keep(data.beacon_block_root, stake);
            }
        }
        if counted {
            self.look_at_branches();
        }
    }

    /// Records the head that a trusted node reported. It is used for one epoch, if the block is
    /// known and not older than one epoch.
    pub fn note_node_head(&mut self, root: Root) {
        self.node_head = Some((root, self.now()));
        self.look_at_branches();
    }

    /// Returns the proposer of a slot on the branch of a known block, or `None` if it cannot be
    /// determined.
    pub fn proposer_on(&mut self, parent: &Root, slot: Slot) -> Option<ValidatorIndex> {
        let epoch = slot.epoch(self.preset());
        let decision = self.tree.decision(*parent, contexts::decision_slot(epoch, self.preset()))?;
        self.duties.proposer(&self.registry, &self.network.spec, slot, decision.mix)
    }

    /// Returns whether a known block counts as part of the chain: its proposer built it in turn, or
    /// a state named it, or so much stake voted for it (half of a slot's) that the network must
    /// have it.
    pub fn is_in_turn(&self, root: &Root) -> bool {
        self.tree.is_in_turn(root)
    }

    /// Like [`Self::is_in_turn`], for a block and all blocks before it, down to the last one at or
    /// before `since`.
    pub fn is_branch_in_turn(&self, root: &Root, since: Slot) -> bool {
        self.tree.is_branch_in_turn(root, since)
    }

    /// Like [`Self::head`], at the time `slot`.
    pub fn head_at(&self, slot: Slot) -> HeadView {
        self.tree.head_at(slot).map_or(HeadView { root: Root::ZERO, slot: Slot::new(0) }, |(slot, root)| HeadView { root, slot })
    }

    /// The finalized checkpoint that the latest state or node reported.
    pub fn finalized(&self) -> Checkpoint {
        self.finalized
    }

    /// The justified checkpoint that the latest state or node reported.
    pub fn justified(&self) -> Checkpoint {
        self.justified
    }

    /// Records the checkpoints that a node reports. Older checkpoints are ignored.
    pub fn note_finality(&mut self, justified: Checkpoint, finalized: Checkpoint) {
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

    /// Returns whether peers may not have this block or be on its branch. This is so if two
    /// branches grow side by side, if the proposer made another block for the same slot, or if the
    /// block is not known here.
    pub fn is_contested(&self, root: &Root) -> bool {
        self.split || !self.is_known_block(root) || self.tree.has_twin(root)
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
        // A state of epoch s determines who is active up to epoch s + MAX_SEED_LOOKAHEAD. The next
        // epoch must be within that range.
        let past_horizon = age + 1 > MAX_SEED_LOOKAHEAD;
        past_horizon && (self.registry_change.is_some() || self.registry.n_pending() > 0 || age > MAX_REGISTRY_AGE_EPOCHS)
    }

    /// Records that a block at `slot` may have changed the registry (deposits, exits, slashings,
    /// consolidations).
    pub fn note_registry_change(&mut self, slot: Slot) {
        if slot > self.registry.slot() {
            self.registry_change = Some(self.registry_change.map_or(slot, |known| known.max(slot)));
        }
    }

    /// Records the exits of a proven block, in the order of processing: the validators that it
    /// slashes and those whose voluntary exits it carries.
    pub fn note_exits(&mut self, block: Root, slot: Slot, validators: Vec<ValidatorIndex>) {
        self.exits.note(block, slot, validators);
    }

    /// Updates the forecast of exits. It runs once per epoch, because an exit changes committees
    /// five epochs after its block at the earliest. It also runs before committees are computed
    /// that newer blocks can have changed, which happens in a replay of many epochs at once.
    fn forecast_exits(&mut self) {
        let forecast = self.exits.forecast(self.backed_head().root, &self.tree, &self.registry, &self.network.spec);
        self.registry.set_forecast(&forecast);
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
            exits_refused: self.exits.refused,
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
        self.registry.take(view.slot(), view.n_validators(), view.validators(), keys, progress)?;
        self.registry.take_pending_deposits(view.slot(), view.n_pending_deposits());
        self.registry.take_exit_churn(view.slot(), view.exit_churn());
        self.registry.take_builders(view.slot(), view.builder_pubkeys(MAX_BUILDERS));
        if view.slot() >= self.registry.slot() {
            self.state_fork = view.fork();
        }
        let snapshot = StateHistory::of(view, preset);
        let waiting = self.tree.add_ancestors(&snapshot.ancestors);
        for (epoch, mix) in snapshot.mixes {
            let known = self.mixes.entry(epoch).or_default();
            if !known.contains(&mix) && known.len() < MAX_MIXES_PER_EPOCH {
                known.push(mix);
            }
        }
        self.note_finality(view.current_justified_checkpoint(), view.finalized_checkpoint());
        self.reference.state_seen(view.slot());
        self.note_duties(view, snapshot.ancestors.last().map(|latest| latest.root));
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

    /// Records the proposers that a state names. They are exact for its branch. Proposers that were
    /// computed from an older registry may have been wrong, so they are discarded.
    fn note_duties(&mut self, view: &StateView<'_>, latest_block: Option<Root>) {
        let network = self.network.clone();
        let preset = network.preset();
        self.duties.clear();
        for (slot, proposer) in view.proposer_lookahead() {
            let before = contexts::decision_slot(slot.epoch(preset), preset);
            if let Some(decision) = latest_block.and_then(|root| self.tree.decision(root, before)) {
                self.duties.note(slot, decision.mix, proposer);
            }
        }
        let since = self.now().epoch(preset).saturating_sub(JUDGED_EPOCHS).start_slot(preset);
        self.tree.forget_turns(since);
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
        self.judge_turns(false);
        self.look_at_branches();
    }

    /// Determines whether branches compete, and which of them has the most backing.
    fn look_at_branches(&mut self) {
        let (now, per_epoch) = (self.now(), self.preset().slots_per_epoch);
        self.split = self.tree.is_split(now.saturating_sub(per_epoch), now);
        let until = if self.reference.has_clock() { now } else { now.saturating_add(per_epoch) };
        self.backed = self.tree.latest_in_turn(until).map(|(slot, root)| {
            let latest = HeadView { root, slot };
            let ends = self.tree.backed_ends(slot.saturating_sub(2 * per_epoch), until, MAX_BACKED);
            let node = self.node_head.filter(|(_, said)| said.saturating_add(per_epoch) >= now).and_then(|(root, _)| {
                let slot = self.tree.slot_of(&root).filter(|slot| slot.saturating_add(per_epoch) >= now)?;
                Some(HeadView { root, slot })
            });
            let stands_on =
                |end: &Root, node: &HeadView| self.tree.last_before(*end, node.slot.saturating_add(1)) == Some(node.root);
            let best = match &node {
                Some(node) => ends.iter().find(|end| stands_on(&end.root, node)),
                None => ends.first(),
            };
            best.map(|end| HeadView { root: end.root, slot: end.slot }).or(node).unwrap_or(latest)
        });
    }

    /// Determines for new blocks whether they were built in turn. With `again` it also retries the
    /// blocks for which this could not be determined before.
    fn judge_turns(&mut self, again: bool) {
        for block in self.tree.take_unjudged(again) {
            let Unjudged { root, slot, parent, proposer } = block;
            let (epoch, now) = (slot.epoch(self.preset()), self.now().epoch(self.preset()));
            // The block is so old that nothing counts it any more.
            if epoch.saturating_add(JUDGED_EPOCHS) < now {
                continue;
            }
            let is_active = self.registry.record(proposer).is_some_and(|record| record.is_active(epoch));
            if !is_active {
                self.tree.set_turn(&root, ProposerCheck::Others);
            } else if epoch > now.saturating_add(1) {
                self.tree.judge_later(root);
            } else {
                match self.proposer_on(&parent, slot) {
                    Some(due) => {
                        self.tree.set_turn(&root, if due == proposer { ProposerCheck::Own } else { ProposerCheck::Others })
                    }
                    None => self.tree.judge_later(root),
                }
            }
        }
    }

    fn orphan_claim(&mut self, block: &BlockFacts) -> OrphanClaim {
        if self.tree.slot_of(&block.parent_root).is_some() {
            return OrphanClaim::Active;
        }
        let (epoch, now) = (block.slot.epoch(self.preset()), self.now().epoch(self.preset()));
        let is_active = self.registry.record(block.proposer_index).is_some_and(|record| record.is_active(epoch));
        if !is_active {
            return OrphanClaim::Inactive;
        }
        let is_near = epoch <= now.saturating_add(1) && now <= epoch.saturating_add(JUDGED_EPOCHS);
        let head = self.backed_head().root;
        let due = if is_near { self.proposer_on(&head, block.slot) } else { None };
        if due == Some(block.proposer_index) { OrphanClaim::InTurn } else { OrphanClaim::Active }
    }

    fn prune(&mut self) {
        let now = self.now().epoch(self.preset());
        let floor = now.saturating_sub(KEPT_EPOCHS).start_slot(self.preset());
        self.tree.prune(floor);
        self.exits.prune(floor);
        let oldest = now.saturating_sub(PAST_EPOCHS + 2);
        while let Some((epoch, _)) = self.mixes.first_key_value()
            && *epoch < oldest
        {
            self.mixes.pop_first();
        }
    }
}

fn parse<'a>(spec: &Spec, state_ssz: &'a [u8]) -> Result<StateView<'a>, ChainError> {
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
