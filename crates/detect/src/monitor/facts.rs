//! What was received, as numbers by slot. One pass over each batch fills them, and all detectors
//! read them.
//!
//! | by | what | kept |
//! |---|---|---|
//! | the slot a message is about | blocks; votes by head, source, target and client | (1) |
//! | the slot a message arrived in | how early or late, how far ahead, on which subnets | (2) |
//! | epoch of the vote's slot | who voted: one set for all sources and one for blocks | (2) |
//! | epoch of arrival | who voted for future slots | (2) |
//!
//! (1) [`KEPT_EPOCHS`] behind the evaluated slot, and two epochs ahead. (2) [`KEPT_EPOCHS`] behind
//! the evaluated slot. A set of voters has a bit per validator.
//!
//! An active validator counts once per epoch, with its first vote. The same vote arrives as a
//! single one, in aggregates and in blocks. A validator that signs a vote for every past epoch,
//! which is no offence, also counts once in each. A vote for a slot that has not begun counts once
//! per epoch of arrival. So a clock that is wrong by hours does not use up the place of the true
//! vote.
//!
//! Bounds: at most [`MAX_TALLIES`] different votes of a slot are kept apart. One more replaces the
//! smallest, whose voters are then only counted, so that votes with many voters stay. Of each, at
//! most [`MAX_LABEL_SETS`] sets of labels are kept apart. At most [`MAX_BLOCKS`] blocks of a slot
//! are kept. Each set of voters takes a bit per validator of the registry. Nothing grows with a
//! number that a message claims.

mod arrivals;
mod duties;
mod peers;
mod slot;
mod voters;

pub use arrivals::{Ahead, Arrivals, OFFSETS_PER_SLOT};
pub use peers::ConnectedPeer;
pub use slot::{BlockFact, MAX_BLOCKS, MAX_LABEL_SETS, MAX_TALLIES, SetVoters, SlotFacts, Tally};

use super::MonitorInput;
use crate::client::Clients;
use crate::detectors::blocks::BlocksConfig;
use crate::validator_set::ValidatorSet;
use crate::watch::Labels;
use arrivals::N_OFFSETS;
use chain::Chain;
use consensus::{AttestationData, Epoch, ForkName, Network, Slot, ValidatorIndex};
use duties::Duties;
use peers::PeerHistory;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use verify::{MessageKind, PeerBytes, SourceKind, Time, Vote};
use voters::{SetKind, Voters};

/// Number of epochs for which slots are kept.
pub const KEPT_EPOCHS: u64 = 4;
/// Number of different distances into the future that are kept for one slot of arrival.
const MAX_AHEAD: usize = 32;
/// Number of validators that are kept as examples of one distance.
const MAX_EXAMPLES: usize = 64;
/// `ATTESTATION_SUBNET_COUNT` of the specification.
pub const N_SUBNETS: usize = consensus::ATTESTATION_SUBNET_COUNT as usize;
/// `MAXIMUM_GOSSIP_CLOCK_DISPARITY`, in nanoseconds. A message that is early by no more than this
/// is normal.
pub const DISPARITY_NS: u64 = consensus::MAXIMUM_GOSSIP_CLOCK_DISPARITY_NS;

/// The facts that all detectors share.
#[derive(Debug)]
pub struct Facts {
    network: Arc<Network>,
    /// What a block needs to count as backed: a number of votes, and a percentage of a slot's
    /// seats. The greater of the two applies.
    backing: (u64, u64),
    slots: BTreeMap<Slot, SlotFacts>,
    arrivals: BTreeMap<Slot, Arrivals>,
    voted: Voters,
    clients: Clients,
    duties: Duties,
    peers: PeerHistory,
    /// The longest time that messages waited for us, by the slot in which that was noted.
    delays: BTreeMap<Slot, Duration>,
    /// Slot of the latest arrival.
    now: Slot,
    /// Number of active validators by epoch and by the registry's size. It is cached for the last
    /// few requests, because counting them takes a pass over the registry.
    n_active: BTreeMap<(Epoch, usize), u64>,
    untallied: u64,
    /// The labels whose sets the tallies count.
    labels: Arc<Labels>,
}

impl Facts {
    pub(super) fn new(network: Arc<Network>, config: &BlocksConfig) -> Self {
        Self {
            network,
            backing: (config.backing_votes, config.backing_percent),
            slots: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            voted: Voters::default(),
            clients: Clients::default(),
            duties: Duties::default(),
            peers: PeerHistory::default(),
            delays: BTreeMap::new(),
            now: Slot::new(0),
            n_active: BTreeMap::new(),
            untallied: 0,
            labels: Arc::default(),
        }
    }

    /// The labels to which [`Tally::by_label_set`] refers.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// All slots that something is known about, oldest first.
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = (Slot, &SlotFacts)> {
        self.slots.iter().map(|(slot, facts)| (*slot, facts))
    }

    /// Number of voters, since the start, whose vote was one of too many different ones in its
    /// slot.
    pub fn untallied(&self) -> u64 {
        self.untallied
    }

    /// What is known about a slot.
    pub fn slot(&self, slot: Slot) -> Option<&SlotFacts> {
        self.slots.get(&slot)
    }

    /// Of the `n` slots up to and including `slot`, those that something is known about, oldest
    /// first.
    pub fn last_slots(&self, slot: Slot, n: u64) -> impl DoubleEndedIterator<Item = (Slot, &SlotFacts)> {
        let first = slot.saturating_sub(n.saturating_sub(1));
        self.slots.range(first..=slot).map(|(slot, facts)| (*slot, facts))
    }

    /// Whether others than its proposer treat a block as part of the chain. They do if enough of
    /// them vote for it in its slot or in the next one, or if another proposer builds on it there.
    /// This is needed because anyone with a key can sign a block for any slot.
    pub fn is_backed(&self, slot: Slot, block: &BlockFact) -> bool {
        let near = || self.slots.range(slot..=slot.saturating_add(1)).map(|(_, facts)| facts);
        let votes = near().flat_map(|facts| &facts.tallies).filter(|tally| tally.head == block.root).map(|tally| tally.voters);
        let seats = near().map(|facts| facts.expected).max().unwrap_or(0);
        let is_child = |other: &BlockFact| other.parent == block.root && other.proposer != block.proposer;
        let (least, percent) = self.backing;
        votes.sum::<u64>() >= least.max(seats * percent / 100) || near().any(|facts| facts.blocks.iter().any(is_child))
    }

    /// What arrived during a slot.
    pub fn arrivals(&self, slot: Slot) -> Option<&Arrivals> {
        self.arrivals.get(&slot)
    }

    /// Like [`Self::last_slots`], but by slot of arrival.
    pub fn last_arrivals(&self, slot: Slot, n: u64) -> impl DoubleEndedIterator<Item = (Slot, &Arrivals)> {
        let first = slot.saturating_sub(n.saturating_sub(1));
        self.arrivals.range(first..=slot).map(|(slot, facts)| (*slot, facts))
    }

    /// The longest time that messages waited for us since the beginning of this slot.
    pub fn delay_since(&self, slot: Slot) -> Duration {
        self.delays.range(slot..).map(|(_, delay)| *delay).max().unwrap_or_default()
    }

    /// Whether a validator's vote for a slot of this epoch was received; `None` if votes of that
    /// epoch are not remembered.
    pub fn voted(&self, epoch: Epoch, validator: ValidatorIndex) -> Option<bool> {
        self.voted.contains(epoch, SetKind::Received, validator)
    }

    /// The validators whose votes for a slot of this epoch were received; `None` if that is not
    /// remembered.
    pub(crate) fn voters(&self, epoch: Epoch) -> Option<&ValidatorSet> {
        self.voted.get(epoch, SetKind::Received)
    }

    /// The expected proposer of an evaluated slot. `None` unless the backed blocks of its epoch
    /// have mostly the proposers that we expect.
    pub fn proposer(&self, slot: Slot) -> Option<ValidatorIndex> {
        let preset = self.network.preset();
        let first = slot.epoch(preset).start_slot(preset);
        let epoch = self.last_slots(first.saturating_add(preset.slots_per_epoch - 1), preset.slots_per_epoch);
        let made = epoch.filter_map(|(slot, facts)| {
            let block = facts.blocks.iter().find(|block| self.is_backed(slot, block))?;
            Some((slot, block.proposer))
        });
        self.duties.proposer(slot, preset, made)
    }

    /// Which validator runs which client, as far as that is known.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Connected peers.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = &ConnectedPeer> {
        self.peers.connected()
    }

    /// A connected peer, by the name that its messages give their sender.
    pub fn peer(&self, peer: &PeerBytes) -> Option<&ConnectedPeer> {
        self.peers.get(peer)
    }

    /// Number of peers that said goodbye in the `n` slots up to `slot`, because they shut down or
    /// had a fault.
    pub fn goodbyes(&self, slot: Slot, n: u64) -> u64 {
        self.peers.goodbyes(slot.saturating_sub(n.saturating_sub(1)), slot)
    }

    /// Slot of the latest arrival.
    pub fn now(&self) -> Slot {
        self.now
    }

    pub(super) fn take(&mut self, batch: &MonitorInput<'_>) {
        self.now = self.now.max(self.network.slot_at(batch.received_until.0));
        if !Arc::ptr_eq(&self.labels, batch.labels) {
            self.labels = batch.labels.clone();
            self.slots.values_mut().for_each(SlotFacts::forget_labels);
        }
        for block in &batch.verified.blocks {
            self.block(block, batch.chain);
        }
        for vote in &batch.verified.votes {
            self.vote(vote.get(), batch.chain);
        }
        let now = self.now;
        for (_, _, kind, outcome) in &batch.verified.outcomes {
            if let MessageKind::Attestation { subnet } = kind
                && outcome.is_final()
                && let Some(count) = usize::try_from(*subnet).ok().filter(|subnet| *subnet < N_SUBNETS)
            {
                self.arrivals.entry(now).or_default().by_subnet[count] += 1;
            }
        }
        for news in batch.peers {
            self.peers.take(news, self.network.slot_at(news.at.0));
        }
    }

    pub(super) fn note_delay(&mut self, now: Time, delay: Duration) {
        let longest = self.delays.entry(self.network.slot_at(now.0)).or_default();
        *longest = delay.max(*longest);
    }

    /// Prepares for the evaluation of a slot.
    pub(super) fn prepare(&mut self, slot: Slot, chain: &Chain) {
        self.duties.prepare(slot.epoch(self.network.preset()), chain);
    }

    /// Called after a slot was evaluated. Drops what no detector looks at any more.
    pub(super) fn forget(&mut self, evaluated: Slot) {
        let kept = KEPT_EPOCHS * self.network.preset().slots_per_epoch;
        let oldest = evaluated.saturating_sub(kept);
        self.slots = self.slots.split_off(&oldest);
        self.arrivals = self.arrivals.split_off(&oldest);
        self.delays = self.delays.split_off(&oldest);
        self.peers.forget_before(oldest);
        self.voted.forget_before(oldest.epoch(self.network.preset()));
    }

    /// The clock was set back. Nothing can have arrived later than now, so everything later is
    /// dropped, and so is what is too far ahead.
    pub(super) fn go_back(&mut self, now: Slot) {
        self.now = now;
        let next = now.saturating_add(1);
        drop(self.arrivals.split_off(&next));
        drop(self.delays.split_off(&next));
        self.peers.forget_after(now);
        drop(self.slots.split_off(&next.saturating_add(2 * self.network.preset().slots_per_epoch)));
        self.duties.forget_after(now.epoch(self.network.preset()));
        self.voted.forget_after(now.epoch(self.network.preset()).saturating_add(2));
    }

    fn block(&mut self, proven: &verify::ProvenBlock, chain: &Chain) {
        let header = &proven.block.signed_header.message;
        let client = self.clients.learn(&proven.block, chain);
        let heard_in = self.network.slot_at(proven.heard.at.0.saturating_add(DISPARITY_NS));
        if header.slot > heard_in {
            self.arrivals.entry(self.network.slot_at(proven.heard.at.0)).or_default().blocks_ahead += 1;
        }
        let Some(facts) = self.about(header.slot) else { return };
        if facts.blocks.len() >= MAX_BLOCKS || facts.blocks.iter().any(|known| known.root == proven.block.root) {
            return;
        }
        let fact = BlockFact {
            root: proven.block.root,
            parent: header.parent_root,
            proposer: header.proposer_index,
            client,
            offset_ns: self
                .network
                .slot_start_ns(header.slot)
                .cast_signed()
                .wrapping_neg()
                .wrapping_add(proven.heard.at.0.cast_signed()),
            source: proven.heard.source,
            n_attestations: proven.block.attestations.len(),
        };
        if let Some(facts) = self.slots.get_mut(&header.slot) {
            facts.blocks.push(fact);
        }
    }

    fn vote(&mut self, vote: &Vote, chain: &Chain) {
        let data = &vote.data;
        // A slashing operation contains votes of others, and they were sent at another time.
        if vote.heard.source == SourceKind::SlashingOp {
            return;
        }
        let far = self.is_far(data.slot);
        let in_block = vote.heard.source == SourceKind::Block;
        let epoch = data.slot.epoch(self.network.preset());
        let fresh =
            if far { self.ahead_for_the_first_time(vote, chain) } else { self.first_of(epoch, SetKind::Received, vote, chain) };
        let newly_in_blocks =
            if in_block && !far { self.first_of(epoch, SetKind::InBlocks, vote, chain).len() as u64 } else { 0 };
        if fresh.is_empty() && newly_in_blocks == 0 {
            return;
        }
        let sums = self.sum_up(&fresh, chain);
        if !in_block {
            self.came(vote, &fresh, chain);
        }
        if far {
            return;
        }
        let expected = self.seats(vote, chain);
        let payload_present = says_payload_present(data, &self.network);
        let Some(facts) = self.about(data.slot) else { return };
        facts.expected = facts.expected.max(expected);
        facts.voters += fresh.len() as u64;
        facts.voters_in_blocks += newly_in_blocks;
        for (sum, n) in facts.by_client.iter_mut().zip(sums.by_client) {
            *sum += n;
        }
        if vote.shuffling.is_none() {
            facts.unseated += fresh.len() as u64;
        }
        let before = facts.untallied;
        facts.tally(vote, payload_present, &sums);
        self.untallied += facts.untallied - before;
    }

    /// The number of these voters, their stake, their clients and their labels.
    fn sum_up(&self, voters: &[(ValidatorIndex, Time)], chain: &Chain) -> slot::VoterSums {
        let mut sums = slot::VoterSums { n: voters.len() as u64, ..slot::VoterSums::default() };
        let (knows_clients, has_labels) = (self.clients.n_known() > 0, !self.labels.is_empty());
        for (validator, _) in voters {
            let balance = chain.registry().record(*validator).map_or(0, |record| record.effective_balance.as_u64());
            sums.stake = sums.stake.saturating_add(balance);
            if knows_clients {
                sums.by_client[self.clients.of(*validator, chain)] += 1;
            }
            if has_labels && let Some(set) = self.labels.set_number(*validator) {
                *sums.by_label_set.entry(set).or_default() += 1;
            }
        }
        sums
    }

    /// The active members that had not yet voted for a slot of this epoch, with their time of
    /// arrival. The result is empty if the epoch is not remembered.
    fn first_of(&mut self, epoch: Epoch, kind: SetKind, vote: &Vote, chain: &Chain) -> Vec<(ValidatorIndex, Time)> {
        let now = self.now.epoch(self.network.preset());
        if epoch.saturating_add(KEPT_EPOCHS) < now {
            return Vec::new();
        }
        let registry = chain.registry();
        let set = self.voted.of(epoch, kind);
        let mut first = Vec::with_capacity(vote.indices.len());
        for (validator, arrival) in vote.indices.iter().zip(&vote.arrivals) {
            // A validator that sits in a committee is active, however old our registry is.
            let is_active = vote.shuffling.is_some() || registry.record(*validator).is_some_and(|record| record.is_active(epoch));
            if is_active && set.insert(*validator, registry.len()) {
                first.push((*validator, arrival.at));
            }
        }
        first
    }

    /// Like [`Self::first_of`], but for future slots: each validator counts once per epoch of
    /// arrival.
    fn ahead_for_the_first_time(&mut self, vote: &Vote, chain: &Chain) -> Vec<(ValidatorIndex, Time)> {
        self.first_of(self.now.epoch(self.network.preset()), SetKind::Ahead, vote, chain)
    }

    /// Records when a vote arrived, compared with when it was due.
    fn came(&mut self, vote: &Vote, fresh: &[(ValidatorIndex, Time)], chain: &Chain) {
        let network = self.network.clone();
        let slot_ns = network.spec.slot_duration.as_nanos() as i128;
        let due = i128::from(network.slot_start_ns(vote.data.slot));
        let data = &vote.data;
        for (validator, at) in fresh {
            let came_in = network.slot_at(at.0);
            let arrivals = self.arrivals.entry(came_in).or_default();
            let single = vote.heard.source == SourceKind::Gossip;
            arrivals.singles += u64::from(single);
            let offset = (i128::from(at.0) - due + slot_ns) * OFFSETS_PER_SLOT as i128 / slot_ns.max(1);
            arrivals.offsets[offset.clamp(0, N_OFFSETS as i128 - 1) as usize] += 1;
            if data.target.epoch.saturating_add(1) < came_in.epoch(network.preset()) {
                arrivals.old_targets += 1;
            }
            let tolerant = network.slot_at(at.0.saturating_add(DISPARITY_NS));
            // A vote for a near slot was counted for its own epoch only. The rule of once per epoch
            // of arrival holds for all votes, so it is applied here.
            let is_near = !self.is_far(data.slot);
            let ahead_set = (self.now.epoch(network.preset()), SetKind::Ahead);
            if data.slot > tolerant
                && (!is_near || self.voted.of(ahead_set.0, ahead_set.1).insert(*validator, chain.registry().len()))
            {
                let arrivals = self.arrivals.entry(came_in).or_default();
                let distance = data.slot.as_u64() - came_in.as_u64();
                if arrivals.ahead.len() < MAX_AHEAD || arrivals.ahead.contains_key(&distance) {
                    let ahead = arrivals.ahead.entry(distance).or_default();
                    ahead.voters += 1;
                    ahead.by_client[self.clients.of(*validator, chain)] += 1;
                    ahead.examples.insert(*validator);
                    if ahead.examples.len() > MAX_EXAMPLES {
                        ahead.examples.pop_last();
                    }
                }
            }
        }
    }

    fn is_far(&self, slot: Slot) -> bool {
        slot > self.now.saturating_add(2 * self.network.preset().slots_per_epoch)
    }

    /// The facts about a slot; `None` if the slot is too old or too far ahead to keep any.
    fn about(&mut self, slot: Slot) -> Option<&mut SlotFacts> {
        let kept = KEPT_EPOCHS * self.network.preset().slots_per_epoch;
        if slot.saturating_add(kept) < self.now || self.is_far(slot) {
            return None;
        }
        Some(self.slots.entry(slot).or_default())
    }

    fn seats(&mut self, vote: &Vote, chain: &Chain) -> u64 {
        let per_epoch = self.network.preset().slots_per_epoch;
        match &vote.shuffling {
            Some(shuffling) => shuffling.active().len() as u64 / per_epoch,
            // The epoch of the vote's slot is used, because it is near. The epoch of its target may
            // be any number.
            None => self.active_in(vote.data.slot.epoch(self.network.preset()), chain) / per_epoch,
        }
    }

    fn active_in(&mut self, epoch: Epoch, chain: &Chain) -> u64 {
        let key = (epoch, chain.registry().len());
        if let Some(known) = self.n_active.get(&key) {
            return *known;
        }
        if self.n_active.len() >= 2 * (KEPT_EPOCHS as usize + 2) {
            self.n_active.pop_first();
        }
        let n = chain.registry().active_balance(epoch).0 as u64;
        self.n_active.insert(key, n);
        n
    }
}

/// Whether a vote says that the payload of its head was present. From Gloas on
/// `AttestationData.index` means this; before, it is a committee.
fn says_payload_present(data: &AttestationData, network: &Network) -> bool {
    network.spec.fork_name_at(data.target.epoch) >= ForkName::Gloas && data.index.as_u64() == 1
}
