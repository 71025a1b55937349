//! [`Chain`]: the block tree, the registry and the committees behind one face. One thread owns it; there are no locks.
//!
//! Which committees a vote can mean is in [`contexts`].
//!
//! Bounds: [`MAX_CANDIDATES`], [`FUTURE_EPOCHS`], [`KEPT_EPOCHS`], and those of the tree and of the shufflings; [`ChainStats`] counts what they
//! refused. Nothing is allocated in proportion to a number in a vote.

mod contexts;
mod deposits;

pub use contexts::{Contexts, MAX_CANDIDATES};

use crate::ChainError;
use crate::builders::MAX_BUILDERS;
use crate::duties::Duties;
use crate::exits::Exits;
use crate::orphans::OrphanClaim;
use crate::pubkeys::{Progress, PubkeyCache};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::shufflings::Shufflings;
use crate::snapshot::{PAST_EPOCHS, Snapshot};
use crate::tree::{Decision, Insert, MAX_NODES, Tree, Turn, Unjudged};
use crate::weight::{Votes, is_about_now};
use consensus::state::{StateFork, StateView, fork_of_state};
use consensus::{
    AttestationData, Checkpoint, Epoch, MAX_SEED_LOOKAHEAD, Network, Preset, Root, SignatureBytes, Slot, Spec, ValidatorIndex,
    sha256,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How many epochs ahead of now a vote's committees are computed. Medalla's clocks needed 37.
pub const FUTURE_EPOCHS: u64 = 64;
/// How many epochs of blocks are kept behind now: as many as a state of mainnet names, so that an ERA file's votes find their targets.
pub const KEPT_EPOCHS: u64 = 256;
/// Blocks one proposer may have in the tree beyond its fair share of the kept slots.
const PROPOSER_ALLOWANCE: usize = 256;
const GWEI_PER_ETH: u64 = 1_000_000_000;
/// Ends of branches compared by what backs them.
const MAX_BACKED: usize = 256;
/// Blocks older than this are not asked whose turn it was: nothing counts them any more.
const JUDGED_EPOCHS: u64 = 8;
/// A registry older than this is worth a refresh even when nothing is known to have changed: a day of mainnet.
const MAX_REGISTRY_AGE_EPOCHS: u64 = 225;
/// Different mixes remembered per past epoch, from different states.
const MAX_MIXES_PER_EPOCH: usize = 4;

/// What the tree needs of a block. Only of a block whose signatures are proven: the reveal decides committees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockFacts {
    pub root: Root,
    pub slot: Slot,
    pub parent_root: Root,
    pub proposer_index: ValidatorIndex,
    pub randao_reveal: SignatureBytes,
}

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// It is in the tree, and so are those that waited for it.
    Attached,
    /// It was there already.
    Known,
    /// It waits (bounded) for its parent.
    Orphan { missing_parent: Root },
    /// It lies before the blocks that are kept.
    TooOld,
    /// It can be in no chain (its slot is not after its parent's), or a bound was hit; the text says which.
    Refused(&'static str),
}

/// The latest attached block.
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
    /// Shufflings not computed (yet) because a budget was used up.
    pub shufflings_refused: u64,
    /// Exits in blocks that found no room.
    pub exits_refused: u64,
    /// Votes for epochs out of all proportion.
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
    /// Mixes at the end of past epochs, from states: for epochs before their blocks.
    mixes: BTreeMap<Epoch, Vec<Root>>,
    /// Decisions per epoch for votes of unknown target; emptied when the tree changes.
    candidates: HashMap<Epoch, Vec<Decision>>,
    /// Who leaves by what blocks since the registry's state carry.
    exits: Exits,
    finalized: Checkpoint,
    justified: Checkpoint,
    /// `Fork` of the latest state.
    state_fork: StateFork,
    generation: u64,
    /// Earliest block since the registry's state that may have changed the registry.
    registry_change: Option<Slot>,
    /// Blocks one proposer may have in the tree.
    share: usize,
    duties: Duties,
    votes: Votes,
    /// What a node says is its head, and the slot in which it said so.
    node_head: Option<(Root, Slot)>,
    /// [`Self::backed_head`], as of the last change.
    backed: Option<HeadView>,
    /// Two branches grow side by side, as of the last change.
    split: bool,
    epochs_refused: u64,
}

impl Chain {
    /// From any state: genesis or a later one. Checks every public key that `keys` does not have yet (62 us each).
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
            duties: Duties::default(),
            votes: Votes::default(),
            node_head: None,
            backed: None,
            split: false,
            epochs_refused: 0,
        };
        chain.take_state(&view, keys, progress)?;
        Ok(chain)
    }

    /// A further state: adds validators, activations and exits, blocks and mixes. Contexts it would decide otherwise stand beside the
    /// earlier ones.
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

    /// Tells the time. A live owner should call this every slot, a replay with the messages' times: pruning, the head, the bounds on odd
    /// epochs and computing the next epoch's committees in time go by it. Without it, time is what blocks of at least three proposers agree on.
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

    /// Adds a *proven* block, and those that waited for it.
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
                // With a clock, time refills the budget: with blocks one key could.
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

    /// The attached block with the greatest slot that is not in the future ([`Self::tick`]; without a clock, not more than an
    /// epoch past what three proposers agree on). Not a fork choice: the watcher follows every branch alike.
    pub fn head(&self) -> HeadView {
        let allowance = if self.reference.has_clock() { 0 } else { self.preset().slots_per_epoch };
        self.head_at(self.now().saturating_add(allowance))
    }

    /// The end of the branch for which most stake voted in the last two epochs, and on which most proposers built in their turn; of those that
    /// a node's head is on, where a node has lately said what its head is. Unlike [`Self::head`] it does not follow whoever signs the
    /// latest block.
    pub fn backed_head(&self) -> HeadView {
        self.backed.unwrap_or_else(|| self.head())
    }

    /// Votes that are proven: stake for the branches they name.
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

    /// What a node that is trusted says is its head. Its word holds for an epoch, if the block is known and no older than that.
    pub fn note_node_head(&mut self, root: Root) {
        self.node_head = Some((root, self.now()));
        self.look_at_branches();
    }

    /// Whose turn a slot is on the branch of a known block; `None` where that cannot be told.
    pub fn proposer_on(&mut self, parent: &Root, slot: Slot) -> Option<ValidatorIndex> {
        let epoch = slot.epoch(self.preset());
        let decision = self.tree.decision(*parent, contexts::decision_slot(epoch, self.preset()))?;
        self.duties.proposer(&self.registry, &self.network.spec, slot, decision.mix)
    }

    /// Whether a known block was built in its proposer's turn, or so much stake voted for it (half a slot's) that the network has it, or a
    /// state named it.
    pub fn is_in_turn(&self, root: &Root) -> bool {
        self.tree.is_in_turn(root)
    }

    /// [`Self::is_in_turn`] of a block and of all those before it down to the one that stands at `since`.
    pub fn is_branch_in_turn(&self, root: &Root, since: Slot) -> bool {
        self.tree.is_branch_in_turn(root, since)
    }

    /// [`Self::head`] as it looks from `slot`.
    pub fn head_at(&self, slot: Slot) -> HeadView {
        self.tree.head_at(slot).map_or(HeadView { root: Root::ZERO, slot: Slot::new(0) }, |(slot, root)| HeadView { root, slot })
    }

    /// As the latest state or node said.
    pub fn finalized(&self) -> Checkpoint {
        self.finalized
    }

    /// As the latest state or node said.
    pub fn justified(&self) -> Checkpoint {
        self.justified
    }

    /// What a node reports; older checkpoints are ignored.
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

    /// Parent of a known block, if known.
    pub fn block_parent(&self, root: &Root) -> Option<Root> {
        self.tree.parent_of(root)
    }

    /// The block that stands at `slot` on the branch of a known block: at it or the last before it.
    pub fn ancestor_at(&self, root: &Root, slot: Slot) -> Option<Root> {
        self.tree.last_before(*root, slot.saturating_add(1))
    }

    /// Whether peers may not share the branch of a known block: two branches grow side by side, or its proposer made another
    /// block for the same slot, or it is not known at all.
    pub fn is_contested(&self, root: &Root) -> bool {
        self.split || !self.is_known_block(root) || self.tree.has_twin(root)
    }

    /// Parents that blocks wait for, at most 64 and a few of each proposer: worth asking a node for. First those of blocks in turn, then those
    /// nearest to now.
    pub fn missing_blocks(&self) -> Vec<Root> {
        self.tree.missing(self.now())
    }

    /// A missing block that no node has, though it was asked for several times: it is named no more.
    pub fn give_up_block(&mut self, root: &Root) {
        self.tree.give_up(root);
    }

    /// Grows whenever new contexts may exist: messages that wait for one are worth another try.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A newer state is wanted: the active set of the coming epochs is no longer certain and something may have changed it.
    pub fn needs_registry_refresh(&self) -> bool {
        let now = self.now().epoch(self.preset());
        let age = now.as_u64().saturating_sub(self.registry.slot().epoch(self.preset()).as_u64());
        // A state of epoch s knows who is active up to s + MAX_SEED_LOOKAHEAD; the next epoch must stay covered.
        let past_horizon = age + 1 > MAX_SEED_LOOKAHEAD;
        past_horizon && (self.registry_change.is_some() || self.registry.n_pending() > 0 || age > MAX_REGISTRY_AGE_EPOCHS)
    }

    /// A block at `slot` may have changed the registry (deposits, exits, slashings, consolidations).
    pub fn note_registry_change(&mut self, slot: Slot) {
        if slot > self.registry.slot() {
            self.registry_change = Some(self.registry_change.map_or(slot, |known| known.max(slot)));
        }
    }

    /// What a proven block carries of exits: those who are slashed by it and those who ask to leave, in the order of processing.
    pub fn note_exits(&mut self, block: Root, slot: Slot, validators: Vec<ValidatorIndex>) {
        self.exits.note(block, slot, validators);
    }

    /// Once an epoch, since an exit changes committees five epochs after its block at the earliest; and before committees are asked for that
    /// blocks have changed meanwhile, in a replay that brings many epochs at once.
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

    /// The slot that is now: by the caller's clock, or by the latest state if that is later. Never goes back.
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
        let snapshot = Snapshot::of(view, preset);
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

    /// What a state says of proposers is exact for its branch; what was computed from an older registry may have been wrong.
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

    /// Whether branches compete, and which of them is the chain's.
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

    /// Finds out whose turn it was for blocks that came, and with `again` for those of which it could not be told before.
    fn judge_turns(&mut self, again: bool) {
        for block in self.tree.take_unjudged(again) {
            let Unjudged { root, slot, parent, proposer } = block;
            let (epoch, now) = (slot.epoch(self.preset()), self.now().epoch(self.preset()));
            // Too old to be counted any more.
            if epoch.saturating_add(JUDGED_EPOCHS) < now {
                continue;
            }
            let is_active = self.registry.record(proposer).is_some_and(|record| record.is_active(epoch));
            if !is_active {
                self.tree.set_turn(&root, Turn::Others);
            } else if epoch > now.saturating_add(1) {
                self.tree.judge_later(root);
            } else {
                match self.proposer_on(&parent, slot) {
                    Some(due) => self.tree.set_turn(&root, if due == proposer { Turn::Own } else { Turn::Others }),
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
        // A state of another network is of other forks at other slots, so it does not decode as one of this network.
        Some(found) if spec.forks.iter().all(|fork| fork.version != found) => {
            ChainError::OtherForkVersion { found: hex::encode(found), network: spec.config_name.clone() }
        }
        _ => ChainError::State(error),
    })
}

/// `state.fork.current_version`: behind genesis time, genesis validators root, slot and the previous version, in every fork.
fn fork_version_in(state_ssz: &[u8]) -> Option<[u8; 4]> {
    state_ssz.get(8 + 32 + 8 + 4..)?.first_chunk().copied()
}

fn reveal_hash(block: &BlockFacts) -> Root {
    Root::from(sha256(block.randao_reveal.as_slice()))
}
