//! The simulated chain: which blocks there are, who sits where, what an honest validator says. And slot by slot, all
//! messages that leave.
//!
//! One branch, as most of the network sees it. A second machine's view lags behind by one block: it votes for the parent
//! of the head. Justification is what full participation gives: from epoch 3 on the epoch before is justified.

use crate::cast::Cast;
use crate::error::SimError;
use crate::genesis::{self, Genesis};
use crate::keys::Keyring;
use crate::message::Sent;
use crate::pool::Pool;
use crate::proposer::proposer;
use crate::scenario::Scenario;
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, DomainType, Epoch, ForkName, Network, Preset, Root, Shuffling, Slot,
    ValidatorIndex, compute_seed, signing_root,
};
use sources::topic::{Topic, TopicName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything a simulation knows. [`World::play`] moves it on by a slot.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) preset: Preset,
    pub(crate) network: Network,
    pub(crate) keys: Keyring,
    pub(crate) genesis: Genesis,
    pub(crate) cast: Cast,
    pub(crate) pool: Pool,
    /// Votes held back, by the validator that holds them.
    pub(crate) withheld: BTreeMap<ValidatorIndex, Withheld>,
    /// Messages of earlier slots that leave in later ones.
    pub(crate) delayed: BTreeMap<Slot, Vec<Sent>>,
    active: Arc<Vec<u32>>,
    /// Ascending; genesis first. Of earlier epochs only what is needed: [`KEPT_BLOCKS`].
    blocks: Vec<(Slot, Root)>,
    /// Randao mix by epoch, the last one still changing.
    mixes: Vec<Root>,
    /// Of the current epoch.
    shuffling: Arc<Shuffling>,
}

/// A vote that was signed and not sent.
pub(crate) struct Withheld {
    pub(crate) source: Epoch,
    pub(crate) message: Sent,
}

/// Blocks older than that are asked for by nobody: two epochs of the greatest preset are 64.
const KEPT_BLOCKS: usize = 256;

impl World {
    /// `genesis_time` in seconds since the Unix epoch.
    pub(crate) fn new(scenario: Scenario, genesis_time: u64) -> Result<Self, SimError> {
        scenario.check()?;
        let preset = scenario.preset();
        let keys = Keyring::from_seed(scenario.seed);
        let genesis = Genesis::new(&scenario, &keys, genesis_time);
        let network = genesis::network(&scenario, &genesis)?;
        let active: Arc<Vec<u32>> = Arc::new((0..scenario.n_validators as u32).collect());
        let seed = compute_seed(Epoch::new(0), genesis.randao_mix);
        let shuffling = Arc::new(Shuffling::new(Epoch::new(0), genesis.block_root, seed, active.clone(), &preset));
        Ok(Self {
            cast: Cast::new(&scenario.acts),
            pool: Pool::default(),
            withheld: BTreeMap::new(),
            delayed: BTreeMap::new(),
            active,
            blocks: vec![(Slot::new(0), genesis.block_root)],
            mixes: vec![genesis.randao_mix],
            shuffling,
            scenario,
            preset,
            network,
            keys,
            genesis,
        })
    }

    /// All messages of a slot in the order in which they leave. Slots are played one after the other from 1 on.
    pub(crate) fn play(&mut self, slot: Slot) -> Vec<Sent> {
        self.enter(slot.epoch(&self.preset));
        let mut messages = self.delayed.remove(&slot).unwrap_or_default();
        self.propose(slot, &mut messages);
        self.vote(slot, &mut messages);
        self.disturb(slot, &mut messages);
        messages.sort_by_key(|message| message.at_ns);
        messages
    }

    /// Carries the randao mix into a new epoch and seats its committees.
    fn enter(&mut self, epoch: Epoch) {
        while (self.mixes.len() as u64) <= epoch.as_u64() {
            self.mixes.push(self.mixes[self.mixes.len() - 1]);
        }
        if self.shuffling.epoch() != epoch {
            let seed = compute_seed(epoch, self.seed_mix(epoch));
            // The last block before the epoch before: two epochs are always kept.
            let decided_by = epoch.saturating_sub(1).start_slot(&self.preset);
            let decision = self.blocks.iter().rev().find(|(slot, _)| *slot < decided_by).unwrap_or(&self.blocks[0]).1;
            self.shuffling = Arc::new(Shuffling::new(epoch, decision, seed, self.active.clone(), &self.preset));
        }
    }

    /// The mix that seeds an epoch: as it stood at the end of the epoch before the previous one; genesis's for the first two.
    fn seed_mix(&self, epoch: Epoch) -> Root {
        epoch.checked_sub(2).map_or(self.genesis.randao_mix, |end| self.mixes[end.as_u64() as usize])
    }

    pub(crate) fn proposer(&self, slot: Slot) -> ValidatorIndex {
        let mix = self.seed_mix(slot.epoch(&self.preset));
        proposer(self.fork(slot), &self.preset, &self.active, mix, slot)
    }

    /// Members of a committee of the current epoch.
    pub(crate) fn committee(&self, slot: Slot, committee: CommitteeIndex) -> Vec<ValidatorIndex> {
        let members = self.shuffling.committee(slot, committee).unwrap_or_default();
        members.iter().map(|member| ValidatorIndex::new(u64::from(*member))).collect()
    }

    pub(crate) fn committees(&self) -> impl Iterator<Item = CommitteeIndex> + use<> {
        (0..self.shuffling.committees_per_slot()).map(CommitteeIndex::new)
    }

    pub(crate) fn fork(&self, slot: Slot) -> ForkName {
        self.network.spec.fork_name_at(slot.epoch(&self.preset))
    }

    /// A topic under the digest that is current in `slot`.
    pub(crate) fn topic(&self, slot: Slot, name: TopicName) -> Topic {
        Topic { digest: self.network.fork_digest_at(slot.epoch(&self.preset)), name }
    }

    /// `compute_subnet_for_attestation`.
    pub(crate) fn subnet(&self, slot: Slot, committee: CommitteeIndex) -> TopicName {
        let since_epoch = slot.as_u64() % self.preset.slots_per_epoch;
        TopicName::Attestation((self.shuffling.committees_per_slot() * since_epoch + committee.as_u64()) % 64)
    }

    /// Nanoseconds since genesis, `thousandths` of a slot into it.
    pub(crate) fn at(&self, slot: Slot, thousandths: u64) -> u64 {
        let slot_ns = self.scenario.slot_duration.as_nanos() as u64;
        slot.as_u64().saturating_mul(slot_ns).saturating_add(slot_ns / 1000 * thousandths)
    }

    pub(crate) fn signing_root(&self, root: Root, kind: DomainType, epoch: Epoch) -> Root {
        signing_root(root, self.network.domain(kind, epoch))
    }

    /// The newest block.
    pub(crate) fn head(&self) -> Root {
        self.blocks[self.blocks.len() - 1].1
    }

    /// A canonical block was made: it is the head, and its reveal goes into the mix.
    pub(crate) fn extend(&mut self, slot: Slot, root: Root, randao_reveal: &[u8]) {
        self.blocks.push((slot, root));
        if self.blocks.len() > KEPT_BLOCKS {
            self.blocks.remove(0);
        }
        let epoch = slot.epoch(&self.preset).as_u64() as usize;
        let reveal = consensus::sha256(randao_reveal);
        for (byte, mask) in self.mixes[epoch].0.iter_mut().zip(reveal) {
            *byte ^= mask;
        }
    }

    /// What an honest member of a committee says.
    pub(crate) fn honest_data(&self, slot: Slot, committee: CommitteeIndex) -> AttestationData {
        self.data_seen_from(self.blocks.len() - 1, slot, committee)
    }

    /// What a machine says that has not yet seen the newest block; `None` as long as there is only genesis.
    pub(crate) fn stale_data(&self, slot: Slot, committee: CommitteeIndex) -> Option<AttestationData> {
        Some(self.data_seen_from(self.blocks.len().checked_sub(2)?, slot, committee))
    }

    /// A vote whose source is one epoch older than `source`.
    pub(crate) fn surrounding_data(&self, slot: Slot, committee: CommitteeIndex, source: Epoch) -> Option<AttestationData> {
        let older = source.checked_sub(1)?;
        let root = if older == Epoch::new(0) { Root::ZERO } else { self.boundary(self.blocks.len() - 1, older) };
        Some(AttestationData { source: Checkpoint { epoch: older, root }, ..self.honest_data(slot, committee) })
    }

    /// Epoch of the source of votes cast in `epoch`.
    pub(crate) fn justified_epoch(epoch: Epoch) -> Epoch {
        if epoch < Epoch::new(3) { Epoch::new(0) } else { epoch.saturating_sub(1) }
    }

    fn data_seen_from(&self, head_at: usize, slot: Slot, committee: CommitteeIndex) -> AttestationData {
        let epoch = slot.epoch(&self.preset);
        let justified = Self::justified_epoch(epoch);
        let justified_root = if justified == Epoch::new(0) { Root::ZERO } else { self.boundary(head_at, justified) };
        AttestationData {
            slot,
            index: if self.fork(slot).has_single_attestations() { CommitteeIndex::new(0) } else { committee },
            beacon_block_root: self.blocks[head_at].1,
            source: Checkpoint { epoch: justified, root: justified_root },
            target: Checkpoint { epoch, root: self.boundary(head_at, epoch) },
        }
    }

    /// `get_block_root(epoch)` as seen from a block: the last one at or before the epoch's first slot.
    fn boundary(&self, head_at: usize, epoch: Epoch) -> Root {
        let start = epoch.start_slot(&self.preset);
        self.blocks[..=head_at].iter().rev().find(|(slot, _)| *slot <= start).unwrap_or(&self.blocks[0]).1
    }
}
