//! What was heard of the network, as the API shows it: the last epochs from memory, everything else
//! from the vote index.
//!
//! The engine's thread makes the view of the last epochs twice a second ([`RecentBuilder`]).
//! Readers take it from a channel, so they never hold up the engine. What is stored is read by the
//! engine's thread itself, between two batches, because it owns the index. How often that may
//! happen is limited ([`LiveObserved`]): further readers are told to come back.

use crate::datadir::state_path;
use crate::engine_thread::{Input, Question};
use crate::inputs::WeakInputs;
use crate::pack_capture::capture_of;
use crate::signing_history::{self, Form};
use api::{
    CapturedProof, ClientVotes, Head, Heard, LabelVotes, LabelledValidator, ObservedBlock, ObservedProposal, ObservedSlot,
    ObservedSource, ObservedValidator, ObservedVote, ObservedVotes, PackCapture, PeersAtHead, ReadError, Recent, RegistryView,
    SlotSource, Traffic, TreeBlock, ValidatorKey, ValidatorQuery, VoteTally,
};
use chain::Record;
use consensus::interchange::SigningHistory;
use consensus::{Epoch, Network, PubkeyBytes, Root, Slot, ValidatorIndex};
use detect::client::{ByClient, UNKNOWN, client_name};
use detect::monitor::facts::{Facts, KEPT_EPOCHS, MAX_TALLIES, OFFSETS_PER_SLOT};
use detect::monitor::{BlockFact, SlotFacts, Tally};
use detect::watch::{ChainState, Labels, SharedWatchState};
use engine::Engine;
use index::{HeardVote, Index, IndexError, IndexView, Shape};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use verify::{Arrival, Time};

/// How often the view of the last epochs is made.
const EVERY: Duration = Duration::from_millis(500);
/// Slots behind the current one whose views are made anew each time. Those of earlier slots are
/// made anew once per slot.
const CHANGING_SLOTS: u64 = 2;
/// Epochs whose blocks are shown as branches.
const BRANCH_EPOCHS: u64 = 2;
/// Limit on the blocks of all branches.
const MAX_TREE_BLOCKS: usize = 256;
/// Limit on the blocks of a slot that are read from the index.
const MAX_STORED_BLOCKS: usize = 16;
/// Slots whose proposals are searched for those of one validator. It takes about a millisecond.
const PROPOSAL_SLOTS: u64 = 1024;
/// Limit on a validator's proposals.
const MAX_PROPOSALS: usize = 32;
/// How many questions the engine answers per second, and how many at once after a pause. A
/// validator is one question, and so is each slot. On mainnet one takes up to two milliseconds.
const QUESTIONS_PER_SECOND: f64 = 10.0;
const QUESTIONS_AT_ONCE: f64 = 70.0;
/// Limit on public keys of one request, and how many are read at once. One takes a microsecond.
const MAX_PUBKEYS: usize = 65_536;
const PUBKEYS_AT_ONCE: usize = 8192;
/// How long a reader waits for the engine's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Makes the view of the last epochs.
#[derive(Default)]
pub(crate) struct RecentBuilder {
    made_at: Option<Time>,
    made_in: Slot,
    /// See [`Recent::complete_from`].
    complete_from: Option<Slot>,
    slots: BTreeMap<Slot, Arc<ObservedSlot>>,
}

impl RecentBuilder {
    /// The view as of `now`. `None` if the last one is not old enough.
    pub fn of(&mut self, engine: &Engine, now: Time) -> Option<Recent> {
        if self.made_at.is_some_and(|made_at| now >= made_at && now.since(made_at) < EVERY) {
            return None;
        }
        let (facts, chain) = (engine.facts(), engine.chain());
        let network = chain.network();
        let slot = network.slot_at(now.0);
        let complete_from = *self.complete_from.get_or_insert(slot.saturating_add(1));
        let everything = slot != self.made_in || self.made_at.is_none();
        let changing_from = slot.saturating_sub(CHANGING_SLOTS);
        let mut slots = BTreeMap::new();
        for (at, of_slot) in facts.slots() {
            let known = self.slots.remove(&at).filter(|_| !everything && at < changing_from);
            slots.insert(at, known.unwrap_or_else(|| Arc::new(slot_of(at, of_slot, facts, network))));
        }
        (self.made_at, self.made_in, self.slots) = (Some(now), slot, slots.clone());
        let (per_epoch, head) = (network.preset().slots_per_epoch, chain.backed_head());
        let blocks = chain.blocks_since(slot.saturating_sub(BRANCH_EPOCHS * per_epoch), MAX_TREE_BLOCKS);
        let block = |block: chain::BranchBlock| TreeBlock {
            root: block.root,
            parent: block.parent,
            slot: block.slot,
            proposer: block.proposer,
            in_turn: Some(block.is_in_turn),
        };
        Some(Recent {
            now: slot,
            head: Head { slot: head.slot, root: head.root },
            justified: Some(chain.justified()),
            finalized: Some(chain.finalized()),
            complete_from,
            slots,
            blocks: blocks.into_iter().map(block).collect(),
            peers: peers_at_heads(facts),
            traffic: traffic(facts, slot, network),
        })
    }
}

fn slot_of(slot: Slot, facts: &SlotFacts, all: &Facts, network: &Network) -> ObservedSlot {
    let mut votes: Vec<ObservedVotes> = facts.tallies.iter().map(|tally| votes_of(tally, all.labels())).collect();
    votes.sort_by_key(|votes| (std::cmp::Reverse(votes.tally.votes), votes.head));
    ObservedSlot {
        slot,
        blocks: facts.blocks.iter().map(|block| block_of(slot, block, all, network)).collect(),
        votes,
        further_voters: facts.untallied,
        voters: facts.voters,
        voters_partial: false,
        voters_in_blocks: Some(facts.voters_in_blocks),
        by_client: by_client(&facts.by_client),
        seats: (facts.expected > 0).then_some(facts.expected),
        origin: SlotSource::Memory,
    }
}

fn block_of(slot: Slot, block: &BlockFact, facts: &Facts, network: &Network) -> ObservedBlock {
    let at = network.slot_start_ns(slot).saturating_add_signed(block.offset_ns);
    ObservedBlock {
        root: block.root,
        parent: block.parent,
        proposer: block.proposer,
        client: (block.client != UNKNOWN).then(|| client_name(block.client)),
        heard: Heard { at: evidence::Time::from_unix_ns(at), source: block.source.label() },
        attestations: Some(block.n_attestations as u64),
        is_backed: Some(facts.is_backed(slot, block)),
    }
}

fn votes_of(tally: &Tally, labels: &Labels) -> ObservedVotes {
    let mut by_label: BTreeMap<String, u64> = BTreeMap::new();
    for (set, votes) in &tally.by_label_set {
        for label in labels.set(*set as usize).iter().flat_map(|set| &set.labels) {
            *by_label.entry(label.to_string()).or_default() += votes.voters;
        }
    }
    let mut sums = VoteTally {
        votes: tally.voters,
        stake_gwei: Some(tally.stake),
        by_client: by_client(&tally.by_client),
        by_label: by_label.into_iter().map(|(label, votes)| LabelVotes { label, votes }).collect(),
        labels_partial: tally.labels_partial,
    };
    sums.sort();
    ObservedVotes { head: tally.head, source: tally.source, target: tally.target, tally: sums }
}

fn by_client(sums: &ByClient) -> Vec<ClientVotes> {
    let rows = sums.iter().enumerate().filter(|(_, votes)| **votes > 0);
    let mut rows: Vec<ClientVotes> =
        rows.map(|(client, votes)| ClientVotes { client: client_name(client), votes: *votes }).collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.votes), row.client));
    rows
}

fn peers_at_heads(facts: &Facts) -> Vec<PeersAtHead> {
    let mut rows: BTreeMap<(usize, Option<Root>, Option<Slot>), u64> = BTreeMap::new();
    for peer in facts.peers() {
        *rows.entry((peer.client, peer.head_root, peer.head.map(|(slot, _)| slot))).or_default() += 1;
    }
    let view = |((client, head_root, head_slot), peers)| PeersAtHead { client: client_name(client), head_root, head_slot, peers };
    rows.into_iter().map(view).collect()
}

/// What arrived in the last epoch's slots.
fn traffic(facts: &Facts, now: Slot, network: &Network) -> Traffic {
    let n = network.preset().slots_per_epoch;
    let bucket = network.spec.slot_duration / OFFSETS_PER_SLOT as u32;
    let mut sums = Traffic { bucket, longest_wait: facts.delay_since(now.saturating_sub(n - 1)), ..Traffic::default() };
    for (_, arrivals) in facts.last_arrivals(now, n) {
        sums.slots += 1;
        add(&mut sums.by_subnet, &arrivals.by_subnet);
        add(&mut sums.offsets, &arrivals.offsets);
        sums.early_votes += arrivals.ahead.values().map(|ahead| ahead.voters).sum::<u64>();
        sums.early_blocks += arrivals.blocks_ahead;
    }
    sums
}

fn add(sums: &mut Vec<u64>, more: &[u64]) {
    sums.resize(more.len(), 0);
    for (sum, n) in sums.iter_mut().zip(more) {
        *sum += n;
    }
}

/// What is stored of the slots `first..=last`. Slots without a vote and without a block are left
/// out.
pub fn stored_slots(index: &Index, first: Slot, last: Slot) -> Result<Vec<ObservedSlot>, ReadError> {
    let mut slots = Vec::new();
    for slot in (first.as_u64()..=last.as_u64()).map(Slot::new) {
        let stored = index.votes_of_slot(slot).map_err(|error| failed(&error))?;
        let proposals = index.proposals_in(slot, slot, MAX_STORED_BLOCKS).map_err(|error| failed(&error))?;
        if stored.votes.is_empty() && proposals.is_empty() {
            continue;
        }
        let votes = stored.votes.iter().map(|votes| ObservedVotes {
            head: votes.data.beacon_block_root,
            source: votes.data.source,
            target: votes.data.target,
            tally: VoteTally { votes: votes.voters, ..VoteTally::default() },
        });
        let (mut listed, mut further_voters): (Vec<ObservedVotes>, u64) = (Vec::new(), 0);
        // Data that differ in their committee index only are shown as one.
        for one in votes {
            let same = |known: &ObservedVotes| (known.head, known.source, known.target) == (one.head, one.source, one.target);
            match listed.iter().position(same) {
                Some(at) => listed[at].tally.votes += one.tally.votes,
                None if listed.len() < MAX_TALLIES => listed.push(one),
                None => further_voters += one.tally.votes,
            }
        }
        listed.sort_by_key(|votes| (std::cmp::Reverse(votes.tally.votes), votes.head));
        slots.push(ObservedSlot {
            slot,
            blocks: proposals.iter().map(stored_block).collect(),
            voters: stored.voters,
            voters_partial: stored.voters_partial,
            votes: listed,
            further_voters,
            voters_in_blocks: None,
            by_client: Vec::new(),
            seats: stored.seats,
            origin: SlotSource::Index,
        });
    }
    Ok(slots)
}

fn stored_block(proposal: &index::StoredProposal) -> ObservedBlock {
    ObservedBlock {
        root: proposal.root,
        parent: proposal.header.parent_root,
        proposer: proposal.header.proposer_index,
        client: None,
        heard: heard(proposal.heard.arrival()),
        attestations: None,
        is_backed: None,
    }
}

fn heard(arrival: Arrival) -> Heard {
    Heard { at: arrival.at, source: arrival.source.label() }
}

/// What is stored of a validator's votes, and of its proposals in the slots `proposals.0` to
/// `proposals.1`.
///
/// `None` if nothing is stored.
pub fn stored_validator(
    index: &Index,
    validator: ValidatorIndex,
    query: &ValidatorQuery,
    proposals: (Slot, Slot),
) -> Result<Option<ObservedValidator>, ReadError> {
    let read = || -> Result<_, IndexError> {
        let page = index.votes_before(validator, query.before_epoch, query.limit)?;
        let newest = match page.votes.first() {
            Some(newest) if query.before_epoch == Epoch::MAX => Some(*newest),
            _ => index.votes_before(validator, Epoch::MAX, 1)?.votes.first().copied(),
        };
        let first = index.first_epoch_of(validator)?;
        let found = index.newest_proposals(validator, proposals.0, proposals.1, MAX_PROPOSALS)?;
        Ok((page, newest, first, found))
    };
    let (page, newest, first_epoch, proposals) = read().map_err(|error| failed(&error))?;
    let proposals: Vec<ObservedProposal> = proposals
        .iter()
        .map(|proposal| ObservedProposal {
            slot: proposal.header.slot,
            root: proposal.root,
            parent: proposal.header.parent_root,
            heard: heard(proposal.heard.arrival()),
        })
        .collect();
    if newest.is_none() && proposals.is_empty() {
        return Ok(None);
    }
    Ok(Some(ObservedValidator {
        index: validator,
        pubkey: None,
        registry: None,
        client: None,
        labels: Vec::new(),
        groups: Vec::new(),
        first_epoch,
        last_epoch: newest.map(|vote| vote.data.target.epoch),
        last_heard: newest.and_then(|vote| Some((vote.data.slot, heard(vote.arrival?)))),
        votes: page.votes.iter().map(vote_of).collect(),
        next: page.next,
        proposals,
    }))
}

fn vote_of(vote: &HeardVote) -> ObservedVote {
    ObservedVote {
        slot: vote.data.slot,
        source: vote.data.source,
        target: vote.data.target,
        head: vote.data.beacon_block_root,
        data_root: vote.data_root,
        heard: vote.arrival.map(heard),
        contradicts: vote.outside_chain,
    }
}

fn failed(error: &IndexError) -> ReadError {
    ReadError::Failed(error.to_string())
}

/// What a running watcher has heard.
pub struct LiveObserved {
    network: Arc<Network>,
    recent: watch::Receiver<Arc<Recent>>,
    queue: WeakInputs,
    watch_state: SharedWatchState,
    /// The folder of the vote index. Histories are read from it without the engine.
    index_path: PathBuf,
    allowance: Mutex<Allowance>,
    /// Records of the registry that were asked for in this epoch.
    records: Mutex<(Epoch, BTreeMap<ValidatorIndex, RegistryView>)>,
}

/// How many questions may be asked now.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// Takes `n` questions, if there are so many.
    fn take(&mut self, n: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + since * QUESTIONS_PER_SECOND).min(QUESTIONS_AT_ONCE), now);
        let enough = self.left >= n;
        if enough {
            self.left -= n;
        }
        enough
    }
}

impl LiveObserved {
    pub(crate) fn new(
        network: Arc<Network>,
        recent: watch::Receiver<Arc<Recent>>,
        queue: WeakInputs,
        watch_state: SharedWatchState,
        index_path: PathBuf,
    ) -> Self {
        let allowance = Mutex::new(Allowance { left: QUESTIONS_AT_ONCE, at: Instant::now() });
        Self { network, recent, queue, watch_state, index_path, allowance, records: Mutex::default() }
    }

    /// Has the engine's thread answer, and waits for it.
    fn ask<T: Send + 'static>(
        &self,
        price: f64,
        question: impl FnOnce(&Engine) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let may_ask = self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(price, Instant::now());
        let queue = self.queue.upgrade().filter(|_| may_ask).ok_or(ReadError::Busy)?;
        let (answer, answered) = mpsc::sync_channel(1);
        let question: Question = Box::new(move |engine| {
            // If the reader has stopped waiting, the answer is dropped.
            let _ = answer.try_send(question(engine));
        });
        queue.try_send(Input::Question(question)).map_err(|_| ReadError::Busy)?;
        drop(queue);
        answered.recv_timeout(ANSWER_WITHIN).map_err(|_| ReadError::Busy)?
    }
}

impl ObservedSource for LiveObserved {
    fn network(&self) -> Arc<Network> {
        self.network.clone()
    }

    fn recent(&self) -> Arc<Recent> {
        self.recent.borrow().clone()
    }

    fn stored_slots(&self, first: Slot, last: Slot) -> Result<Vec<ObservedSlot>, ReadError> {
        let n_slots = last.as_u64().saturating_sub(first.as_u64()).saturating_add(1);
        self.ask(n_slots as f64, move |engine| stored_slots(engine.index(), first, last))
    }

    fn validator(&self, query: &ValidatorQuery) -> Result<Option<ObservedValidator>, ReadError> {
        let query = *query;
        self.ask(1.0, move |engine| live_validator(engine, &query))
    }

    fn labelled(&self, label: &str, after: Option<ValidatorIndex>, limit: usize) -> Vec<LabelledValidator> {
        let labels = self.watch_state.labels();
        let Some((name, value)) = label.split_once('=') else { return Vec::new() };
        let all = labels.labelled().map(|(validator, _)| validator);
        let wanted =
            all.filter(|validator| after.is_none_or(|after| *validator > after) && labels.value_is(*validator, name, value));
        wanted
            .take(limit)
            .map(|validator| LabelledValidator {
                index: validator,
                pubkey: labels.pubkey(validator),
                labels: labels.strings(validator),
                groups: labels.group_names(validator),
            })
            .collect()
    }

    fn pubkeys(&self, validators: &BTreeSet<ValidatorIndex>) -> Result<BTreeMap<ValidatorIndex, PubkeyBytes>, ReadError> {
        let all: Vec<ValidatorIndex> = validators.iter().copied().take(MAX_PUBKEYS).collect();
        let mut keys = BTreeMap::new();
        for some in all.chunks(PUBKEYS_AT_ONCE) {
            let some = some.to_vec();
            keys.extend(self.ask(1.0, move |engine| {
                let registry = engine.chain().registry();
                Ok(some.into_iter().filter_map(|index| Some((index, registry.pubkey_bytes(index)?))).collect::<Vec<_>>())
            })?);
        }
        Ok(keys)
    }

    /// The records of an epoch are asked for once.
    fn records(&self, validators: &BTreeSet<ValidatorIndex>) -> Result<BTreeMap<ValidatorIndex, RegistryView>, ReadError> {
        let epoch = self.recent().now.epoch(self.network.preset());
        let known = || self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<ValidatorIndex> = {
            let mut known = known();
            if known.0 != epoch || known.1.len() > MAX_PUBKEYS {
                *known = (epoch, BTreeMap::new());
            }
            validators.iter().filter(|validator| !known.1.contains_key(validator)).copied().take(MAX_PUBKEYS).collect()
        };
        for some in missing.chunks(PUBKEYS_AT_ONCE) {
            let some = some.to_vec();
            let answer = self.ask(1.0, move |engine| {
                let chain = engine.chain();
                let record = |index| chain.followed_record(index).or_else(|| chain.registry().record(index));
                Ok(some.into_iter().filter_map(|index| Some((index, registry_view(&record(index)?, epoch)))).collect::<Vec<_>>())
            })?;
            known().1.extend(answer);
        }
        let known = known();
        Ok(validators.iter().filter_map(|index| Some((*index, known.1.get(index)?.clone()))).collect())
    }

    fn capture(&self, proofs: &[CapturedProof<'_>]) -> Result<Option<PackCapture>, ReadError> {
        // The index is a folder of the data directory.
        let Some(data_dir) = self.index_path.parent() else { return Ok(None) };
        capture_of(&self.network, &state_path(data_dir), proofs).map(Some)
    }

    /// Opens the index beside the engine, as `slashwatch export` does. What was committed last may
    /// be missing.
    fn histories(
        &self,
        keys: &BTreeMap<ValidatorIndex, PubkeyBytes>,
        minimal: bool,
    ) -> Result<Option<Vec<SigningHistory>>, ReadError> {
        let shape = Shape {
            genesis_validators_root: self.network.genesis_validators_root,
            slots_per_epoch: self.network.preset().slots_per_epoch,
            history_epochs: Shape::DEFAULT_HISTORY_EPOCHS,
        };
        let view = IndexView::open(&self.index_path, shape).map_err(|error| failed(&error))?;
        recorded_histories(&view, &self.network, keys, minimal).map(Some)
    }
}

/// What an index has of these keys, for an EIP-3076 file.
pub fn recorded_histories(
    view: &IndexView,
    network: &Network,
    keys: &BTreeMap<ValidatorIndex, PubkeyBytes>,
    minimal: bool,
) -> Result<Vec<SigningHistory>, ReadError> {
    let form = if minimal { Form::Minimal } else { Form::Complete };
    signing_history::histories(view, network, keys, form, &mut |_| ()).map_err(|error| ReadError::Failed(error.to_string()))
}

fn live_validator(engine: &Engine, query: &ValidatorQuery) -> Result<Option<ObservedValidator>, ReadError> {
    let (chain, labels) = (engine.chain(), engine.labels());
    let registry = chain.registry();
    let validator = match query.key {
        ValidatorKey::Index(index) => Some(index),
        ValidatorKey::Pubkey(key) => registry.validator_with(&key),
    };
    let Some(validator) = validator else { return Ok(None) };
    let now = chain.now();
    let stored = stored_validator(engine.index(), validator, query, (now.saturating_sub(PROPOSAL_SLOTS), now.saturating_add(1)))?;
    let record = chain.followed_record(validator).or_else(|| registry.record(validator));
    if stored.is_none() && record.is_none() {
        return Ok(None);
    }
    let client = engine.facts().clients().of(validator, chain);
    let epoch = now.epoch(chain.network().preset());
    Ok(Some(ObservedValidator {
        pubkey: registry.pubkey_bytes(validator),
        registry: record.map(|record| registry_view(&record, epoch)),
        client: (client != UNKNOWN).then(|| client_name(client)),
        labels: labels.strings(validator),
        groups: labels.group_names(validator),
        ..stored.unwrap_or_else(|| nothing_stored(validator))
    }))
}

fn nothing_stored(index: ValidatorIndex) -> ObservedValidator {
    ObservedValidator {
        index,
        pubkey: None,
        registry: None,
        client: None,
        labels: Vec::new(),
        groups: Vec::new(),
        first_epoch: None,
        last_epoch: None,
        last_heard: None,
        votes: Vec::new(),
        next: None,
        proposals: Vec::new(),
    }
}

fn registry_view(record: &Record, now: Epoch) -> RegistryView {
    let known = |epoch: Epoch| (epoch != Epoch::FAR_FUTURE).then_some(epoch);
    RegistryView {
        state: ChainState::of(Some(record), now).as_str(),
        slashed: record.slashed,
        effective_balance: record.effective_balance,
        activation_epoch: known(record.activation_epoch),
        exit_epoch: known(record.exit_epoch),
        withdrawable_epoch: known(record.withdrawable_epoch),
    }
}

/// What a recorded data directory has, as of `now`, the slot in which it ends.
pub fn recorded(index: &Index, network: &Network, now: Slot) -> Result<Recent, ReadError> {
    let per_epoch = network.preset().slots_per_epoch;
    let first = now.saturating_sub(KEPT_EPOCHS * per_epoch - 1);
    let slots = stored_slots(index, first, now)?;
    let blocks = slots.iter().flat_map(|slot| slot.blocks.iter().map(|block| (slot.slot, block)));
    let blocks: Vec<TreeBlock> = blocks
        .map(|(slot, block)| TreeBlock {
            root: block.root,
            parent: Some(block.parent),
            slot,
            proposer: Some(block.proposer),
            in_turn: None,
        })
        .rev()
        .take(MAX_TREE_BLOCKS)
        .collect();
    let leading = slots.iter().rev().find_map(|slot| slot.votes.first());
    let head = leading.and_then(|votes| blocks.iter().find(|block| block.root == votes.head));
    Ok(Recent {
        now,
        head: head.map_or_else(Head::default, |block| Head { slot: block.slot, root: block.root }),
        justified: leading.map(|votes| votes.source),
        finalized: None,
        complete_from: Slot::new(0),
        slots: slots.into_iter().map(|slot| (slot.slot, Arc::new(slot))).collect(),
        blocks,
        peers: Vec::new(),
        traffic: Traffic::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_limited_and_come_back_with_time() {
        let start = Instant::now();
        let mut allowance = Allowance { left: QUESTIONS_AT_ONCE, at: start };
        let n = (0..1000).filter(|_| allowance.take(1.0, start)).count();
        assert_eq!(n, 70);
        assert!(!allowance.take(32.0, start + Duration::from_secs(3)), "an epoch has 32 slots");
        assert!(allowance.take(32.0, start + Duration::from_millis(3200)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| allowance.take(1.0, later)).count(), 70, "a pause saves up no more than that");
    }
}
