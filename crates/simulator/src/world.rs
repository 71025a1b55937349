//! The simulated chain: its blocks, its committees, what an honest validator signs, and, slot by
//! slot, all messages that are sent.
//!
//! There is one branch, as most of the network sees it, unless the scenario splits it. Then a
//! second branch begins as a copy of the first. The view of a second machine is one block behind:
//! it votes for the parent of the head.

use crate::branch::Branch;
use crate::conditions::Condition;
use crate::error::SimError;
use crate::genesis::{self, Parts, SimGenesis, SinceGenesis, Standing, VALIDATOR_REGISTRY_LIMIT, validator};
use crate::ground_truth::{Claim, HISTORY_EPOCHS, MessageHistory};
use crate::keys::Keyring;
use crate::message::Sent;
use crate::planned_acts::PlannedActs;
use crate::proposer::proposer;
use crate::registry::MovingRegistry;
use crate::scenario::Scenario;
use crate::slasher::{EXIT_QUEUE_EPOCHS, Slasher};
use crate::ssz::SszValue;
use crate::wire;
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, DomainType, Epoch, ForkName, MessageKind, Network, Preset, Root, Slot,
    ValidatorIndex,
};
use sources::topic::Topic;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The whole state of a simulation. [`World::play`] advances it by one slot.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) preset: Preset,
    pub(crate) network: Network,
    pub(crate) keys: Keyring,
    pub(crate) genesis: SimGenesis,
    pub(crate) acts: PlannedActs,
    /// The first branch is that of all validators. A second one exists during a split.
    pub(crate) branches: Vec<Branch>,
    /// Votes that are held back, by the validator that signed them.
    pub(crate) withheld: BTreeMap<ValidatorIndex, Withheld>,
    /// Messages of earlier slots that are sent in later ones.
    pub(crate) delayed: BTreeMap<Slot, Vec<Sent>>,
    /// The slasher that brings slashings into blocks, if the scenario has one.
    pub(crate) slasher: Option<Slasher>,
    /// The claims of this slot that only the slasher receives.
    pub(crate) overheard: Vec<Claim>,
    /// Whether the newest block of the first branch came after the votes of its slot.
    pub(crate) head_is_late: bool,
    /// The registry of the first branch, if the scenario moves it.
    pub(crate) registry: Option<MovingRegistry>,
    /// The proposers of the slots of an epoch, if the scenario moves the registry.
    pub(crate) proposers: BTreeMap<Epoch, Vec<ValidatorIndex>>,
    /// Number of keys that have been deposited.
    pub(crate) n_keys: u64,
}

/// A vote that was signed and not sent.
pub(crate) struct Withheld {
    pub(crate) source: Epoch,
    pub(crate) message: Sent,
}

/// The branch of most validators.
pub(crate) const MAIN: usize = 0;
/// The second branch of a split.
pub(crate) const OTHER: usize = 1;

impl World {
    /// Creates the world at genesis. `genesis_time` is in seconds since the Unix epoch.
    pub(crate) fn new(scenario: Scenario, genesis_time: u64) -> Result<Self, SimError> {
        scenario.check()?;
        let preset = scenario.preset();
        let mut keys = Keyring::from_seed(scenario.seed);
        if scenario.registry.is_some() {
            keys = keys.spread();
        }
        let genesis = SimGenesis::new(&scenario, &keys, genesis_time);
        let network = genesis::network(&scenario, &genesis)?;
        let active = Arc::new(scenario.active(Epoch::new(0)));
        let main = Branch::new(genesis.header, genesis.randao_mix, active, &preset);
        let history = MessageHistory::new(genesis.validators_root, preset.slots_per_epoch);
        Ok(Self {
            acts: PlannedActs::new(&scenario.acts),
            branches: vec![main],
            withheld: BTreeMap::new(),
            delayed: BTreeMap::new(),
            slasher: scenario.slashings_after.map(|after| Slasher::new(after, history)),
            overheard: Vec::new(),
            head_is_late: false,
            registry: scenario
                .registry
                .as_ref()
                .map(|_| MovingRegistry::at_genesis(network.preset(), scenario.fork, &genesis.pubkeys)),
            proposers: BTreeMap::new(),
            n_keys: scenario.n_validators as u64,
            scenario,
            preset,
            network,
            keys,
            genesis,
        })
    }

    /// Returns all messages of a slot in the order in which they are sent. Slots must be played one
    /// after the other, from slot 1 on.
    pub(crate) fn play(&mut self, slot: Slot) -> Vec<Sent> {
        self.split_or_heal(slot);
        self.enter(slot.epoch(&self.preset));
        let mut messages = self.delayed.remove(&slot).unwrap_or_default();
        for branch in 0..self.branches.len() {
            self.propose(slot, branch, &mut messages);
        }
        for branch in 0..self.branches.len() {
            self.vote(slot, branch, &mut messages);
        }
        self.vote_ahead(slot, &mut messages);
        self.tell_slasher(slot, &messages);
        self.disturb(slot, &mut messages);
        messages.sort_by_key(|message| message.at_ns);
        messages
    }

    /// Enters an epoch, unless it was entered before.
    pub(crate) fn enter(&mut self, epoch: Epoch) {
        let active = Arc::new(self.active(epoch));
        for branch in &mut self.branches {
            branch.record(epoch, &active, &self.preset);
        }
        self.move_registry(epoch);
    }

    /// The indices that are active in an epoch on the first branch, in ascending order.
    pub(crate) fn active(&self, epoch: Epoch) -> Vec<u32> {
        self.registry.as_ref().map_or_else(|| self.scenario.active(epoch), |registry| registry.active(epoch))
    }

    fn tell_slasher(&mut self, slot: Slot, messages: &[Sent]) {
        let overheard = std::mem::take(&mut self.overheard);
        if let Some(slasher) = &mut self.slasher {
            slasher.hear(slot, messages.iter().map(|message| message.claims.as_slice()).chain([overheard.as_slice()]));
            let oldest = slot.epoch(&self.preset).saturating_sub(HISTORY_EPOCHS);
            slasher.forget(oldest, oldest.start_slot(&self.preset));
        }
    }

    /// The slot in which a validator was slashed on the first branch.
    pub(crate) fn slashed_in(&self, validator: ValidatorIndex) -> Option<Slot> {
        self.slasher.as_ref()?.slashed_in(validator)
    }

    /// The SSZ of the first branch's state at the start of a slot that has not been played yet.
    pub(crate) fn state_ssz(&self, slot: Slot) -> Vec<u8> {
        let (preset, scenario) = (&self.preset, &self.scenario);
        let main = &self.branches[MAIN];
        let per_root = preset.slots_per_historical_root;
        let mut block_roots = vec![0; 32 * per_root as usize];
        let known_from = main.blocks[0].0.as_u64();
        for past in slot.as_u64().saturating_sub(per_root).max(known_from)..slot.as_u64() {
            let (_, root) = main.blocks[main.head_at(Slot::new(past))];
            block_roots[(past % per_root) as usize * 32..][..32].copy_from_slice(root.as_slice());
        }
        let exit = Slot::new(scenario.slots).epoch(preset).saturating_add(EXIT_QUEUE_EPOCHS);
        let standing =
            |validator| self.slashed_in(validator).map_or(Standing::Free, |at| Standing::Slashed { exit, at: at.epoch(preset) });
        let registry: Vec<SszValue> = match &self.registry {
            Some(registry) => registry.validator_values(),
            None => {
                let all = self.genesis.pubkeys.iter().zip((0..).map(ValidatorIndex::new));
                all.map(|(pubkey, index)| validator(scenario, index, pubkey, standing(index))).collect()
            }
        };
        let epoch = slot.epoch(preset);
        let active = self.active(epoch);
        let parts = Parts {
            fork: self.fork(slot),
            preset,
            keys: &self.keys,
            time: self.genesis.time,
            slot,
            active: &active,
            n_validators: registry.len(),
            validators: SszValue::List { items: registry, limit: VALIDATOR_REGISTRY_LIMIT },
            validators_root: self.genesis.validators_root,
            randao_mix: self.genesis.randao_mix,
            mixes: main.mixes(),
            block_roots: SszValue::Fixed(block_roots),
            latest_header: main.head_header,
            lookahead_from: Epoch::new(0),
            progress: self.registry.as_ref().map(|registry| self.progress(epoch, registry)),
        };
        parts.state().to_ssz()
    }

    fn progress<'a>(&'a self, epoch: Epoch, registry: &'a MovingRegistry) -> SinceGenesis<'a> {
        let main = &self.branches[MAIN];
        let finalized = Epoch::new(registry.finalized);
        let root =
            if finalized == Epoch::new(0) { Root::ZERO } else { main.boundary(main.blocks.len() - 1, finalized, &self.preset) };
        let checkpoints = [main.source(epoch.saturating_sub(1)), main.source(epoch), Checkpoint { epoch: finalized, root }];
        SinceGenesis { registry, checkpoints, proposers: self.proposers.values().flatten().copied().collect() }
    }

    /// The slashed validators of the first branch, with the slots in which they were slashed.
    pub(crate) fn slashed(&self) -> BTreeMap<ValidatorIndex, Slot> {
        self.slasher.as_ref().map(|slasher| slasher.slashed().clone()).unwrap_or_default()
    }

    /// Creates the second branch when a condition with `OtherBranch` begins, and removes it when
    /// no such condition holds any more.
    fn split_or_heal(&mut self, slot: Slot) {
        let parted = self
            .scenario
            .conditions
            .iter()
            .any(|one| one.what == Condition::OtherBranch && (one.from..one.until).contains(&slot.as_u64()));
        match (parted, self.branches.len()) {
            (true, 1) => self.branches.push(self.branches[MAIN].clone()),
            (false, 2) => {
                self.branches.pop();
            }
            _ => {}
        }
    }

    /// All conditions that hold for a validator in a slot.
    pub(crate) fn conditions(&self, slot: Slot, validator: ValidatorIndex) -> impl Iterator<Item = Condition> + '_ {
        let holds = move |one: &&crate::conditions::TimedCondition| one.holds(slot, validator, &self.scenario);
        self.scenario.conditions.iter().filter(holds).map(|one| one.what)
    }

    /// The branch that a validator follows.
    pub(crate) fn branch_of(&self, slot: Slot, validator: ValidatorIndex) -> usize {
        let other = self.branches.len() > 1 && self.conditions(slot, validator).any(|what| what == Condition::OtherBranch);
        if other { OTHER } else { MAIN }
    }

    pub(crate) fn proposer(&self, slot: Slot, branch: usize) -> ValidatorIndex {
        let epoch = slot.epoch(&self.preset);
        if let Some(drawn) = self.proposers.get(&epoch) {
            return drawn[(slot.as_u64() % self.preset.slots_per_epoch) as usize];
        }
        let mix = self.branches[branch].seed_mix(epoch);
        proposer(self.fork(slot), &self.preset, &self.scenario.active(epoch), mix, slot)
    }

    /// The members of a committee of the current epoch on the first branch.
    pub(crate) fn committee(&self, slot: Slot, committee: CommitteeIndex) -> Vec<ValidatorIndex> {
        self.branches[MAIN].committee(slot, committee)
    }

    pub(crate) fn committees(&self) -> impl Iterator<Item = CommitteeIndex> + use<> {
        (0..self.branches[MAIN].shuffling().committees_per_slot()).map(CommitteeIndex::new)
    }

    pub(crate) fn fork(&self, slot: Slot) -> ForkName {
        self.network.spec.fork_name_at(slot.epoch(&self.preset))
    }

    /// A topic with the fork digest of `slot`.
    pub(crate) fn topic(&self, slot: Slot, kind: MessageKind) -> Topic {
        wire::topic(&self.network, slot, kind)
    }

    pub(crate) fn subnet(&self, slot: Slot, committee: CommitteeIndex) -> MessageKind {
        wire::subnet(&self.network, self.branches[MAIN].shuffling().committees_per_slot(), slot, committee)
    }

    /// Nanoseconds from genesis to the point that is `thousandths` of a slot after the start of
    /// `slot`.
    pub(crate) fn at(&self, slot: Slot, thousandths: u64) -> u64 {
        let slot_ns = self.scenario.slot_duration.as_nanos() as u64;
        slot.as_u64().saturating_mul(slot_ns).saturating_add(slot_ns / 1000 * thousandths)
    }

    pub(crate) fn signing_root(&self, root: Root, kind: DomainType, epoch: Epoch) -> Root {
        wire::root_to_sign(&self.network, root, kind, epoch)
    }

    /// The newest block of the first branch.
    pub(crate) fn head(&self) -> Root {
        self.branches[MAIN].head()
    }

    /// The data that an honest member of a committee of the first branch signs.
    pub(crate) fn honest_data(&self, slot: Slot, committee: CommitteeIndex) -> AttestationData {
        self.data_of(slot, MAIN, committee)
    }

    /// The data that an honest member of a committee signs. A block that came late gets no votes.
    pub(crate) fn data_of(&self, slot: Slot, branch: usize, committee: CommitteeIndex) -> AttestationData {
        let newest = self.branches[branch].blocks.len() - 1;
        let head_at = if self.head_is_late && branch == MAIN { newest.saturating_sub(1) } else { newest };
        self.data_seen_from(branch, head_at, slot, committee)
    }

    /// The data that a machine signs that has not yet seen the newest block, or `None` while only
    /// genesis exists.
    pub(crate) fn stale_data(&self, slot: Slot, committee: CommitteeIndex) -> Option<AttestationData> {
        let lag = if self.head_is_late { 3 } else { 2 };
        Some(self.data_seen_from(MAIN, self.branches[MAIN].blocks.len().checked_sub(lag)?, slot, committee))
    }

    /// The data that a machine signs that has received nothing for `behind` slots.
    pub(crate) fn data_behind(&self, slot: Slot, branch: usize, committee: CommitteeIndex, behind: u64) -> AttestationData {
        self.data_seen_from(branch, self.branches[branch].head_at(slot.saturating_sub(behind)), slot, committee)
    }

    /// The data of a vote whose source is one epoch older than `source`.
    pub(crate) fn surrounding_data(&self, slot: Slot, committee: CommitteeIndex, source: Epoch) -> Option<AttestationData> {
        let older = source.checked_sub(1)?;
        let main = &self.branches[MAIN];
        let root = if older == Epoch::new(0) { Root::ZERO } else { main.boundary(main.blocks.len() - 1, older, &self.preset) };
        Some(AttestationData { source: Checkpoint { epoch: older, root }, ..self.honest_data(slot, committee) })
    }

    /// The epoch of the source of votes that are cast in `epoch` on the first branch.
    pub(crate) fn justified_epoch(&self, epoch: Epoch) -> Epoch {
        self.branches[MAIN].source(epoch).epoch
    }

    fn data_seen_from(&self, branch: usize, head_at: usize, slot: Slot, committee: CommitteeIndex) -> AttestationData {
        let epoch = slot.epoch(&self.preset);
        let on = &self.branches[branch];
        AttestationData {
            slot,
            index: if self.fork(slot).has_single_attestations() { CommitteeIndex::new(0) } else { committee },
            beacon_block_root: on.blocks[head_at].1,
            source: on.source(epoch),
            target: Checkpoint { epoch, root: on.boundary(head_at, epoch, &self.preset) },
        }
    }
}
