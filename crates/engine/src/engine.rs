//! The synchronous core. It takes a batch of messages and gives back their outcomes and the
//! recorded findings.
//!
//! One thread owns the engine and everything in it. So there is no lock, and a replay takes exactly
//! the same path as live traffic. The order of commits makes a crash harmless:
//!
//! 1. findings, their evidence, the output of the detectors and all deliveries, in one atomic
//!    write;
//! 2. the index;
//! 3. whatever the source keeps as its checkpoint.
//!
//! A crash between two of these steps repeats work and skips none. A finding's id depends on its
//! content only, so the repeat changes nothing.
//!
//! **When a write fails.** A failed write does not stop the engine from judging messages. The batch
//! is judged to its end. Its proven findings go to the kill switches at once
//! ([`EngineParts::unrecorded`]). Only then is the error returned. Changes that could not be
//! written are kept in memory, up to a bound, and are written together with the next batch if the
//! disk accepts writes again.

use crate::earlier_runs::EarlierRuns;
use crate::inclusions::{InclusionChanges, Inclusions, SourceState};
use crate::label_resolver::LabelResolver;
use crate::metrics::{Metrics, OpenIncidents};
use crate::priority_queues::Dropped;
use crate::punished::SlashedByBlock;
use crate::quota::{Quota, QuotaAnswer, SeenIn};
use crate::settled;
use crate::silence::{self, SilenceChange};
use chain::{Chain, ChainError, PubkeyCache};
use consensus::{Checkpoint, Epoch, Offence, Root, Slot, ValidatorIndex};
use detect::watch::{Labels, SharedWatchState, WatchList, WatchedKeysConfig, WatchedKeysDetector};
use detect::{Candidate, DetectConfig, DetectorOutput, Monitor, Offender, PeerNews, Proofs, ProvenConflict, Unproven};
use evidence::{
    Addressee, Changes, Evidence, Finding, Incident, Included, Punishable, Recorded, Severity, Store, StoreError, Time,
};
use index::{Index, IndexError, Shape};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use verify::{
    About, MessageOutcome, Outcome, PeerBytes, PeerReputation, RawMessage, SourceKind, Triage, UnixNs, Verified, Verifier,
};

/// The reasons why the engine cannot go on. The content of a message never causes such an error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("findings cannot be stored: {0}")]
    Store(#[from] StoreError),
    #[error("the vote index cannot go on: {0}")]
    Index(#[from] IndexError),
    #[error("the chain cannot be loaded: {0}")]
    Chain(#[from] ChainError),
}

impl EngineError {
    /// Returns whether the disk refused a write. In this case the engine can go on judging messages
    /// without the disk.
    pub fn is_refused_write(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Write { .. }),
            Self::Index(error) => matches!(error, IndexError::Storage { .. }),
            Self::Chain(_) => false,
        }
    }
}

/// The result of a batch.
#[derive(Default)]
pub struct Processed {
    /// One row for each message whose outcome is known now. It includes messages that were parked
    /// in earlier batches.
    pub reports: Vec<MessageOutcome>,
    /// Findings that this batch proved, including those that were recorded before.
    pub recorded: Vec<Recorded>,
}

/// The owner of all state that is needed to judge messages.
pub struct Engine {
    chain: Chain,
    keys: PubkeyCache,
    verifier: Verifier,
    index: Index,
    quota: Quota,
    /// Proofs that the second check has already confirmed.
    proofs: Proofs,
    store: Store,
    routes: Vec<Addressee>,
    unrecorded: Option<Unrecorded>,
    /// Changes that could not be written so far. They are written together with the next ones.
    owed: Changes,
    metrics: Metrics,
    clock: fn() -> UnixNs,
    pruned_before: Epoch,
    /// The epoch in which expired findings were last deleted.
    expired_in: Epoch,
    fold_after_epochs: u64,
    monitor: Monitor,
    /// Peer news since the last batch.
    peer_news: Vec<PeerNews>,
    /// The time at which a current vote or block was last proven. See [`Self::last_reception`].
    last_reception: Option<UnixNs>,
    /// The silence that was still open when the last run ended.
    earlier_silence: Option<Incident>,
    /// All messages that arrived before this time were given to [`Self::process`].
    heard_until: UnixNs,
    /// The latest time that the source's clock showed.
    latest_now: UnixNs,
    roster: LabelResolver,
    /// Shared with the detector of watched keys, which is one of the monitor's detectors.
    desk: SharedWatchState,
    inclusions: Inclusions,
    punished: SlashedByBlock,
    open: OpenIncidents,
    /// Number of voters that the monitor did not tally, as last reported to the metric.
    n_untallied: u64,
}

/// The source of a contradiction.
#[expect(clippy::large_enum_variant, reason = "a batch has few of them, for as long as it is judged")]
enum ConflictCase {
    Conflict(index::Conflict),
    /// A slashing operation, given as its position in the batch.
    Operation(usize),
}

/// For each validator and offence: the number of pairs of this batch that cannot be punished and
/// for which no `Conflict` was built.
type WorthlessPairs = HashMap<(ValidatorIndex, Offence), u64>;

/// Findings that cannot be punished are deleted this long after they were recorded.
pub const WORTHLESS_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Limit on findings that are kept in memory while the disk refuses them.
const MAX_OWED: usize = 16_384;
/// Limit on peer news that is kept until the next batch. More news within half a second is noise.
const MAX_PEER_NEWS: usize = 8_192;

/// Takes findings that were proven but could not be written. It must not block. The error says why
/// it did not take them.
pub type Unrecorded = Box<dyn Fn(Vec<Finding>) -> Result<(), String> + Send>;

/// The parts that an [`Engine`] is built from, apart from the data directory.
pub struct EngineParts {
    pub chain: Chain,
    pub keys: PubkeyCache,
    pub verifier: Verifier,
    /// Number of epochs of history that the index keeps. Older history is pruned.
    pub history_epochs: u64,
    /// Age in epochs after which history is folded. 0 means never.
    pub fold_after_epochs: u64,
    pub detect: DetectConfig,
    pub watch: WatchParts,
    /// The routes that are told about findings.
    pub routes: Vec<Addressee>,
    /// Receives findings that were proven but could not be written, so that kill switches can still
    /// act on them. `None` if nothing acts on findings.
    pub unrecorded: Option<Unrecorded>,
    pub metrics: Metrics,
    /// The wall clock. It is read only to stamp `recorded_at` and to decide which findings have
    /// expired.
    pub clock: fn() -> UnixNs,
}

/// The configuration of watched keys.
#[derive(Default)]
pub struct WatchParts {
    /// The groups of watched keys.
    pub list: Arc<WatchList>,
    /// The thresholds of the detector of watched keys.
    pub keeper: WatchedKeysConfig,
    /// Shared with the readers of the watched keys' state.
    pub desk: SharedWatchState,
}

impl Engine {
    /// Opens or creates the vote index in the folder `index` and the findings in the folder
    /// `evidence`. Both must belong to the chain's network.
    pub fn open(index: &Path, evidence: &Path, parts: EngineParts) -> Result<Self, EngineError> {
        let network = parts.chain.network().clone();
        let shape = Shape {
            genesis_validators_root: network.genesis_validators_root,
            slots_per_epoch: network.preset().slots_per_epoch,
            history_epochs: parts.history_epochs,
        };
        let index = Index::open(index, shape)?;
        let store = Store::open(evidence, network.genesis_validators_root)?;
        let EngineParts { chain, keys, verifier, routes, unrecorded, metrics, clock, detect, fold_after_epochs, watch, .. } =
            parts;
        let mut roster = LabelResolver::new(store.clone())?;
        roster.set(watch.list, chain.registry());
        let desk = watch.desk;
        desk.set_labels(roster.labels().clone());
        let mut monitor = Monitor::new(&detect, &network);
        monitor.add(Box::new(WatchedKeysDetector::new(watch.keeper, desk.clone())));
        let earlier = EarlierRuns::read(&store)?;
        let mut punished = SlashedByBlock::default();
        let unsaid = earlier.hand_to(&mut monitor, &mut punished, &store, &chain, &**roster.labels())?;
        let inclusions = Inclusions::load(&store)?;
        let mut open = OpenIncidents::new(&metrics);
        open.restore(&earlier.incidents);
        let mut engine = Self {
            chain,
            keys,
            verifier,
            index,
            quota: Quota::default(),
            proofs: Proofs::default(),
            store,
            routes,
            unrecorded,
            owed: Changes::default(),
            metrics,
            clock,
            pruned_before: Epoch::new(0),
            expired_in: Epoch::new(0),
            fold_after_epochs,
            monitor,
            roster,
            desk,
            peer_news: Vec::new(),
            last_reception: None,
            earlier_silence: silence::open_silence(&earlier.incidents).cloned(),
            heard_until: UnixNs(0),
            latest_now: UnixNs(0),
            inclusions,
            punished,
            open,
            n_untallied: 0,
        };
        engine.record(Vec::new(), HashMap::new(), unsaid, Time::from_unix_ns(clock().0))?;
        Ok(engine)
    }

    /// Passes news about a peer to the detectors with the next batch. News beyond the bound is
    /// dropped.
    pub fn note_peer(&mut self, news: PeerNews) {
        if self.peer_news.len() < MAX_PEER_NEWS {
            self.peer_news.push(news);
        }
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Number of contradicting pairs since the start that were counted but not listed as findings.
    pub fn n_not_listed(&self) -> u64 {
        self.metrics.not_listed.get()
    }

    /// Number of messages that wait for a block, a state or their committees.
    pub fn n_parked(&self) -> usize {
        self.verifier.parked()
    }

    /// Arrival time of the oldest message that waits for its committees. Parked messages are in
    /// memory only.
    pub fn parked_since(&self) -> Option<UnixNs> {
        self.verifier.parked_since()
    }

    /// Adds what a later state contains: validators, exits and contexts for committees.
    pub fn add_state(&mut self, ssz: &[u8]) -> Result<(), EngineError> {
        self.chain.add_state(ssz, &mut self.keys)?;
        self.roster.resolve(self.chain.registry());
        self.desk.set_labels(self.roster.labels().clone());
        Ok(())
    }

    /// Replaces the groups and labels of watched keys.
    pub fn set_watch(&mut self, list: Arc<WatchList>) {
        self.roster.set(list, self.chain.registry());
        self.desk.set_labels(self.roster.labels().clone());
    }

    /// Replaces the routes that are told about new findings.
    pub fn set_routes(&mut self, routes: Vec<Addressee>) {
        self.routes = routes;
    }

    /// The labels of validators.
    pub fn labels(&self) -> &Arc<Labels> {
        self.roster.labels()
    }

    /// Passes on the checkpoints that a node reports as justified and finalized.
    pub fn note_finality(&mut self, justified: Checkpoint, finalized: Checkpoint) {
        self.chain.note_finality(justified, finalized);
    }

    /// Passes on the block that a node reports as its head.
    pub fn note_node_head(&mut self, root: Root) {
        self.chain.note_node_head(root);
    }

    /// Stops the search for a missing block that no node has.
    pub fn give_up_block(&mut self, root: &Root) {
        self.chain.give_up_block(root);
    }

    /// Takes one batch through all stages. `now` is the time on the source's clock. For a capture,
    /// this is the time of the capture.
    pub fn process(&mut self, batch: Vec<RawMessage>, now: UnixNs) -> Result<Processed, EngineError> {
        let network = self.chain.network().clone();
        self.chain.tick(network.slot_at(now.0));
        // While messages wait, the detectors' time is the time of the messages. Otherwise a backlog
        // would look like a silent network.
        self.look_at_clock(now);
        let earliest = batch.iter().map(|message| message.received_at).min().unwrap_or(now);
        let over = self.monitor.turn_to(earliest.min(now), &self.chain, &**self.roster.labels());
        let said = self.record(Vec::new(), HashMap::new(), over, Time::from_unix_ns((self.clock)().0));
        let latest = batch.iter().map(|message| message.received_at).max().unwrap_or(now);
        self.heard_until = self.heard_until.max(latest.min(now));
        let verified = self.verifier.process(&mut self.chain, batch, now);
        self.note_reception(&verified, now);
        let epoch = network.slot_at(now.0).epoch(network.preset());
        self.index.set_now(self.chain.now().epoch(network.preset()));
        let observed = self.roster.observe(&verified, &self.chain, epoch);
        if !matches!(observed, Ok(false)) {
            self.desk.set_labels(self.roster.labels().clone());
        }
        // A failed write of earlier changes must not stop this batch from being judged.
        let (said, refused) = match said {
            Ok(said) => (said, None),
            // The write of this batch repeats it, so it is an error only if that one is refused as
            // well.
            Err(error) if error.is_refused_write() => (Vec::new(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let processed = self.settle(verified, said, SourceState::Between)?;
        if let Some(error) = refused {
            return Err(error);
        }
        observed?;
        self.prune(now)?;
        Ok(processed)
    }

    /// Notes whether the network was received. The proof is a vote or block that an active
    /// validator signed, with a slot at most one epoch away from now, because a block that a node
    /// was asked for may be old. A validator that has left can sign anything, and such a key must
    /// not make a watcher without reception look healthy. Slashing operations do not count.
    fn note_reception(&mut self, verified: &Verified, now: UnixNs) {
        let network = self.chain.network();
        let (slot, reach) = (network.slot_at(now.0).as_u64(), network.preset().slots_per_epoch);
        let is_live =
            |of: Slot, heard: &verify::FirstSeen| heard.source != SourceKind::SlashingOp && of.as_u64().abs_diff(slot) <= reach;
        let registry = self.chain.registry();
        let is_active = |validator: ValidatorIndex, at: Slot| {
            let epoch = at.epoch(network.preset());
            registry.record(validator).is_some_and(|record| record.is_active(epoch) && !record.slashed)
        };
        let has_vote = verified.votes.iter().map(|vote| vote.get()).any(|vote| {
            let at = vote.data.slot;
            is_live(at, &vote.heard) && vote.indices.iter().any(|validator| is_active(*validator, at))
        });
        let has_block = || {
            let mut proposals = verified.proposals.iter().map(|one| one.get());
            proposals.any(|one| is_live(one.header.slot, &one.heard) && is_active(one.header.proposer_index, one.header.slot))
        };
        if has_vote || has_block() {
            self.last_reception = Some(now);
            self.metrics.last_message.set((now.0 / 1_000_000_000) as i64);
        }
    }

    /// Time at which a current vote or block was last proven. `None` if there was none since the
    /// start.
    pub fn last_reception(&self) -> Option<UnixNs> {
        self.last_reception
    }

    /// The silence that was still open when the last run ended. See [`crate::silence`].
    pub fn earlier_silence(&self) -> Option<&Incident> {
        self.earlier_silence.as_ref()
    }

    /// Stores a change of a silence and tells every route about it.
    pub fn record_silence(&mut self, change: SilenceChange, now: UnixNs) -> Result<(), StoreError> {
        let n_peers = u64::try_from(self.metrics.peers.get()).unwrap_or_default();
        let (incident, told) = silence::report(self.chain.network(), change, now, n_peers);
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        self.open.count(std::slice::from_ref(&incident));
        // This is the same as for other incidents: an incident is also recorded as a finding only
        // if there are alert routes.
        let told = told.filter(|_| !self.routes.is_empty()).map(|told| Finding { recorded_at, ..told });
        let broadcasts = told.into_iter().collect();
        let recorded = self.store.apply(Changes { incidents: vec![incident], broadcasts, ..Changes::default() }, &self.routes)?;
        for one in recorded.iter().filter(|one| one.first_time) {
            self.metrics.findings.with_label_values(&[one.finding.kind.as_str()]).inc();
        }
        self.metrics.outbox_pending.set(self.store.outbox_counts().pending as i64);
        Ok(())
    }

    /// The time of the detectors only grows. If the clock was set back by more than a few slots,
    /// the detectors start again from the new time.
    fn look_at_clock(&mut self, now: UnixNs) {
        let network = self.chain.network();
        let (from, to) = (network.slot_at(self.latest_now.0), network.slot_at(now.0));
        if to.saturating_add(detect::monitor::MAX_STEP_BACK) < from {
            tracing::warn!(%from, %to, "the clock was set back: detectors begin anew; check the clock's synchronisation");
            self.monitor.go_back(to);
            (self.heard_until, self.latest_now) = (now, now);
        }
        self.latest_now = self.latest_now.max(now);
    }

    /// Classifies a message by what it would be if its claims were true. The class decides its
    /// place in the priority queues.
    pub fn triage(&mut self, message: &RawMessage) -> Triage {
        let Self { verifier, chain, index, quota, roster, .. } = self;
        let (network, registry, labels) = (chain.network(), chain.registry(), roster.labels());
        let preset = network.preset();
        let slot = network.slot_at(message.received_at.0);
        let now = slot.epoch(preset);
        let is_settled = |validator, about| {
            if labels.is_watched(validator) {
                return false;
            }
            match about {
                About::Vote => {
                    let both = [Offence::DoubleVote, Offence::SurroundVote];
                    settled::cannot_be_punished(registry, preset, validator, now)
                        || both.iter().all(|offence| quota.is_full(validator, *offence))
                }
                About::Proposal => {
                    settled::cannot_be_punished(registry, preset, validator, now)
                        || quota.is_full(validator, Offence::DoubleProposal)
                }
                // The watcher asked the node for this block, so it is always wanted.
                About::Block(_) if message.origin.source == SourceKind::Api => false,
                // A double proposal can be punished even if it was not the proposer's turn. So a
                // block is settled only if the proposer, in addition, cannot be slashed or has
                // enough findings on record.
                About::Block(claimed) => {
                    settled::cannot_propose(registry, preset, validator, claimed.epoch(preset), now)
                        && (settled::cannot_be_punished(registry, preset, validator, now)
                            || quota.is_full(validator, Offence::DoubleProposal))
                }
            }
        };
        let history = |validator, data: &_, root| index.glance(validator, data, root);
        verifier.triage(message, preset.slots_per_epoch, slot, history, is_settled)
    }

    /// Returns how far the messages of this peer are trusted.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        self.verifier.peer_reputation(peer)
    }

    /// Counts a message that is not judged, like any other message, and returns its report.
    pub fn turn_away(&mut self, message: RawMessage, outcome: Outcome, why: Dropped) -> MessageOutcome {
        self.metrics.shed.with_label_values(&[why.label()]).inc();
        let report = (message.ticket, message.origin.peer.clone(), message.kind, outcome);
        self.metrics.messages.with_label_values(&[report.2.label(), report.3.label()]).inc();
        report
    }

    /// Sets whether more messages wait than one batch takes. If so, single votes are proven in
    /// sums, which is cheaper but does not prove each of them for forwarding.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.verifier.set_pressed(pressed);
    }

    /// Notes how long messages have waited in this process. See [`Monitor::note_delay`].
    pub fn note_delay(&mut self, now: UnixNs, delay: Duration) {
        self.monitor.note_delay(now, delay);
    }

    /// Sets the metric of messages that wait for the engine.
    pub fn show_waiting(&self, n: usize) {
        self.metrics.queue.with_label_values(&["lanes"]).set(n as i64);
    }

    /// Ends the waiting of all parked messages when a source has no more messages. Each of them is
    /// tried one last time if possible.
    pub fn finish(&mut self, now: UnixNs) -> Result<Processed, EngineError> {
        let verified = self.verifier.finish(&mut self.chain, now);
        let processed = self.settle(verified, Vec::new(), SourceState::TheEnd)?;
        let last_words = self.monitor.finish(&self.chain, &**self.roster.labels());
        let further_pairs = self.quota.take_all_counted();
        self.write(Changes { further_pairs, ..Changes::default() })?;
        self.record(Vec::new(), HashMap::new(), last_words, Time::from_unix_ns((self.clock)().0))?;
        Ok(processed)
    }

    /// Judges verified messages, records the findings and commits the index. `said` are findings
    /// that were recorded earlier in the same call.
    fn settle(&mut self, verified: Verified, said: Vec<Recorded>, moment: SourceState) -> Result<Processed, EngineError> {
        let mut recorded = said;
        recorded.extend(self.judge_and_record(&verified, moment)?);
        self.index.commit()?;
        self.count_refused(&verified);
        self.count(&verified.outcomes, &recorded);
        Ok(Processed { reports: verified.outcomes, recorded })
    }

    fn judge_and_record(&mut self, verified: &Verified, moment: SourceState) -> Result<Vec<Recorded>, EngineError> {
        self.quota.turn_to(self.chain.now(), self.chain.network());
        let [of_operations, of_index] = self.judge(verified)?;
        let InclusionChanges { included, reopened } = self.inclusions.settle(&self.chain, moment);
        let reopened = self.reopened(&reopened)?;
        self.note_punished(&included, &of_operations)?;
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        let rows: Vec<(Finding, Arc<Evidence>)> = detect::merge(of_operations, of_index)
            .into_iter()
            .map(|ProvenConflict { mut finding, evidence }| {
                finding.recorded_at = recorded_at;
                self.punished.mark(&mut finding, self.chain.network());
                if let Some(subject) = &mut finding.validator {
                    subject.labels = self.roster.labels().strings(subject.index);
                    // An operator who watches a key wants to know everything that it signs, even if
                    // it can lose nothing.
                    if self.roster.labels().is_watched(subject.index) {
                        finding.severity = Severity::Critical;
                    }
                }
                (finding, evidence)
            })
            .collect();
        let mut offenders: Vec<Offender> = Vec::new();
        let mut seen = HashSet::new();
        for (finding, evidence) in &rows {
            if seen.insert(finding.id) && !self.store.is_known(finding.id)? {
                offenders.push(Offender { finding: finding.clone(), evidence: evidence.clone() });
            }
        }
        let peers = std::mem::take(&mut self.peer_news);
        let heard = self.monitor.observe(&detect::MonitorInput {
            verified,
            offenders: &offenders,
            included: &included,
            reopened: &reopened,
            peers: &peers,
            chain: &self.chain,
            labels: &**self.roster.labels(),
            heard_until: self.heard_until,
        });
        let mut inclusions: HashMap<_, _> = reopened.iter().map(|finding| (finding.id, None)).collect();
        inclusions.extend(included.iter().map(|(id, included)| (*id, Some(*included))));
        self.record(rows, inclusions, heard, recorded_at)
    }

    /// Judges the offences that slashing operations show, and the contradictions of this batch's
    /// messages with each other and with the index. The quota limits both. Pairs ask for room in an
    /// order that depends only on the messages. So the choice of listed findings does not depend on
    /// how messages were batched.
    fn judge(&mut self, verified: &Verified) -> Result<[Vec<ProvenConflict>; 2], EngineError> {
        let (mut conflicts, not_named) = self.name_conflicts(verified)?;
        conflicts.extend(self.index.stage_proposals(&verified.proposals)?);
        let mut cases: Vec<(Candidate, ConflictCase)> = conflicts
            .into_iter()
            .map(|conflict| (Candidate::of(&conflict, &self.chain), ConflictCase::Conflict(conflict)))
            .collect();
        for (nth, operation) in verified.slashings.iter().enumerate() {
            cases.extend(
                detect::accused(operation, &self.chain).into_iter().map(|candidate| (candidate, ConflictCase::Operation(nth))),
            );
        }
        cases.sort_by_cached_key(|(candidate, _)| candidate.order());
        let mut of_index = Vec::new();
        let mut listed: Vec<Vec<ValidatorIndex>> = vec![Vec::new(); verified.slashings.len()];
        for (candidate, case) in &cases {
            let worthless = self.is_worthless(candidate);
            let seen = match case {
                ConflictCase::Operation(nth) if verified.slashings[*nth].included_in.is_some() => SeenIn::InBlock,
                ConflictCase::Operation(_) | ConflictCase::Conflict(_) => SeenIn::Messages,
            };
            match (self.quota.ask(candidate, worthless, seen, self.chain.network(), &self.store)?, case) {
                (QuotaAnswer::Listed, ConflictCase::Conflict(conflict)) => {
                    let verdict = detect::judge(conflict, &self.chain, &mut self.proofs);
                    self.keep(verdict.map(|one| vec![one]), &mut of_index);
                }
                (QuotaAnswer::Listed, ConflictCase::Operation(nth)) => listed[*nth].push(candidate.validator),
                (QuotaAnswer::Counted(stands_for), ConflictCase::Conflict(_)) => {
                    self.metrics.not_listed.inc();
                    stands_for.into_iter().for_each(|id| self.quota.count(id, 1));
                }
                // Both sides of an operation are also given as messages, and they are counted
                // there.
                (QuotaAnswer::Counted(_), ConflictCase::Operation(_)) => self.metrics.not_listed.inc(),
            }
        }
        // This happens last because the finding that stands for these pairs may be one of this
        // batch.
        for ((validator, offence), n) in not_named {
            if let Some(id) = self.quota.stands_for(validator, offence) {
                self.quota.count(id, n);
            }
        }
        let mut of_operations = Vec::new();
        for (operation, mut validators) in verified.slashings.iter().zip(listed) {
            validators.sort_unstable();
            let first = of_operations.len();
            let verdict = detect::judge_operation(operation, &validators, &self.chain, &mut self.proofs);
            self.keep(verdict, &mut of_operations);
            if let Some(inclusion) = operation.included_in {
                let included = Included { slot: inclusion.slot, block_root: inclusion.block };
                for ProvenConflict { finding, .. } in &of_operations[first..] {
                    // A validator that cannot be punished was not punished by this block. If it is
                    // already slashed, this very block may be the one that slashed it.
                    let is_claim = finding.punishable.is_some_and(|one| one.is_possible() || one == Punishable::AlreadySlashed);
                    if is_claim {
                        self.inclusions.claim(finding.id, included, &self.chain);
                    }
                }
            }
        }
        self.proofs.end_batch();
        Ok([of_operations, of_index])
    }

    /// Stages the votes in the index and returns their contradictions. If a validator has no room
    /// for more findings, further pairs are only counted and no `Conflict` is built. Pairs that can
    /// be punished have room of their own, so pairs that cannot be punished never hide them. The
    /// second value is the number of pairs that cannot be punished and were only counted.
    fn name_conflicts(&mut self, verified: &Verified) -> Result<(Vec<index::Conflict>, WorthlessPairs), EngineError> {
        let Self { chain, index, quota, metrics, .. } = self;
        let mut left = HashMap::new();
        let mut not_named = WorthlessPairs::new();
        let named = index.stage_votes_naming(&verified.votes, &mut |validator, offence, targets| {
            let worthless = !detect::punishable(chain, validator, targets).is_possible();
            let room = left.entry((validator, offence, worthless)).or_insert_with(|| quota.room(validator, offence, worthless));
            let wants = *room > 0;
            *room = room.saturating_sub(1);
            if !wants {
                metrics.not_listed.inc();
            }
            if !wants && worthless {
                *not_named.entry((validator, offence)).or_default() += 1;
            }
            wants
        })?;
        Ok((named, not_named))
    }

    /// Returns whether nobody can be punished for this pair. Watched keys are no exception. Whoever
    /// holds such a key can sign without end, and one finding a day is enough to report that.
    fn is_worthless(&self, candidate: &Candidate) -> bool {
        match detect::punishable(&self.chain, candidate.validator, candidate.epochs) {
            Punishable::Yes => {
                let [one, two] = candidate.arrivals;
                let (id, seen) = (candidate.id(self.store.genesis_validators_root()), one.at.max(two.at));
                self.punished.is_settled(candidate.validator, id, seen.0, self.chain.network())
            }
            other => !other.is_possible(),
        }
    }

    /// Returns these findings as not included, because the chain has left the block that included
    /// them.
    fn reopened(&mut self, ids: &[Root]) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for id in ids {
            findings.extend(self.store.finding(*id)?.map(|(_, finding)| Finding { included: None, ..finding }));
        }
        findings.iter().for_each(|finding| self.punished.reopen(finding));
        Ok(findings)
    }

    /// Notes who was punished. `now` are the findings from this batch's operations, which are not
    /// stored yet.
    fn note_punished(&mut self, included: &[(Root, Included)], now: &[ProvenConflict]) -> Result<(), StoreError> {
        let now: HashMap<Root, &Finding> = now.iter().map(|one| (one.finding.id, &one.finding)).collect();
        for (id, included) in included {
            let stored = self.store.finding(*id)?;
            let finding = stored.as_ref().map(|(_, finding)| finding).or_else(|| now.get(id).copied());
            if let Some(subject) = finding.and_then(|finding| finding.validator.as_ref()) {
                self.punished.note(subject.index, *id, *included);
            }
        }
        Ok(())
    }

    /// Stores everything that follows from a batch, in one write.
    fn record(
        &mut self,
        rows: Vec<(Finding, Arc<Evidence>)>,
        inclusions: HashMap<Root, Option<Included>>,
        mut heard: DetectorOutput,
        recorded_at: Time,
    ) -> Result<Vec<Recorded>, EngineError> {
        for incident in &heard.incidents {
            tracing::info!(kind = incident.kind.as_str(), state = incident.state.as_str(), id = %incident.id, "incident");
        }
        // Incidents are stored in their own column family. They are also recorded as findings if
        // there are alert routes.
        if !self.routes.is_empty() {
            heard.anomalies.append(&mut heard.announcements);
        }
        let mut findings: Vec<(Finding, Option<Arc<Evidence>>)> =
            rows.into_iter().map(|(finding, evidence)| (finding, Some(evidence))).collect();
        findings.extend(heard.anomalies.into_iter().map(|anomaly| (Finding { recorded_at, ..anomaly }, None)));
        let mut checkpoints: Vec<(String, Vec<u8>)> =
            heard.notes.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let rows = self.inclusions.rows();
        checkpoints.extend(rows.changed);
        self.open.count(&heard.incidents);
        for (kind, n) in heard.refused {
            self.metrics.incidents_refused.with_label_values(&[kind.as_str()]).inc_by(n);
        }
        let further_pairs = self.quota.take_counted(self.chain.now());
        let dropped_checkpoints = rows.dropped;
        let incidents = heard.incidents;
        self.write(Changes {
            findings,
            inclusions,
            further_pairs,
            incidents,
            checkpoints,
            dropped_checkpoints,
            ..Changes::default()
        })
    }

    /// Writes the changes after all changes that are still owed from earlier. On an error
    /// everything is owed, and the new findings go to the kill switches.
    fn write(&mut self, changes: Changes) -> Result<Vec<Recorded>, EngineError> {
        let new = changes.findings.len();
        let changes = std::mem::take(&mut self.owed).followed_by(changes);
        let owed = changes.clone();
        let error = match self.store.apply(changes, &self.routes) {
            Ok(recorded) => return Ok(recorded),
            Err(error) => error,
        };
        let first_new = owed.findings.len() - new;
        if let Some(unrecorded) = self.unrecorded.as_ref().filter(|_| new > 0) {
            let findings = owed.findings[first_new..].iter().map(|(finding, _)| finding.clone()).collect();
            if let Err(error) = unrecorded(findings) {
                tracing::error!(error, "findings that cannot be written do not reach the kill switches either");
            }
        }
        // If there are too many, findings that cannot be punished are dropped first, and then the
        // latest findings.
        let mut owed = owed;
        if owed.findings.len() > MAX_OWED {
            owed.findings.retain(|(finding, _)| !finding.is_worthless());
            owed.findings.truncate(MAX_OWED);
            tracing::error!(kept = owed.findings.len(), "more findings wait for the disk than are kept in memory");
        }
        self.owed = owed;
        Err(error.into())
    }

    fn keep(&self, verdict: Result<Vec<ProvenConflict>, Unproven>, into: &mut Vec<ProvenConflict>) {
        match verdict {
            Ok(judged) => into.extend(judged),
            Err(unproven) => {
                self.metrics.unproven.inc();
                tracing::error!(reason = %unproven, "a conflict was not confirmed by the second proof and accuses nobody");
            }
        }
    }

    fn prune(&mut self, now: UnixNs) -> Result<(), EngineError> {
        let epoch = self.chain.now().epoch(self.chain.network().preset());
        if epoch > self.expired_in {
            self.expired_in = epoch;
            let kept = WORTHLESS_KEPT.as_nanos() as u64;
            self.store.expire(Time::from_unix_ns((self.clock)().0.saturating_sub(kept)))?;
        }
        let network = self.chain.network();
        // A clock that is wrong by a year must not delete the history. So history must also be old
        // by the chain's own head.
        let slot = network.slot_at(now.0).min(self.chain.backed_head().slot);
        let epoch = slot.epoch(network.preset());
        let before = epoch.saturating_sub(self.index.shape().history_epochs);
        if before > self.pruned_before {
            self.index.prune(before)?;
            self.pruned_before = before;
        }
        if self.fold_after_epochs > 0 {
            // Only one epoch is folded per batch, so that no batch waits for a large amount of
            // folding.
            self.index.fold_next(epoch.saturating_sub(self.fold_after_epochs))?;
        }
        Ok(())
    }

    fn count_refused(&self, verified: &Verified) {
        let of_messages = verified.outcomes.iter().map(|(.., outcome)| outcome);
        for outcome in of_messages.chain(verified.inner.iter().map(|(_, outcome)| outcome)) {
            if let Outcome::Refused(reason) = outcome {
                self.metrics.refused.with_label_values(&[reason]).inc();
            }
        }
    }

    fn count(&mut self, reports: &[MessageOutcome], recorded: &[Recorded]) {
        for (_, _, kind, outcome) in reports.iter().filter(|row| row.3.is_final()) {
            self.metrics.messages.with_label_values(&[kind.label(), outcome.label()]).inc();
        }
        for one in recorded.iter().filter(|one| one.first_time) {
            self.metrics.findings.with_label_values(&[one.finding.kind.as_str()]).inc();
            if let Some(seen) = one.finding.second_seen.filter(|_| one.finding.offence().is_some()) {
                self.metrics.finding_latency.observe(one.finding.recorded_at.since(seen).as_secs_f64());
            }
        }
        let untallied = self.monitor.facts().untallied();
        self.metrics.untallied.inc_by(untallied.saturating_sub(self.n_untallied));
        self.n_untallied = untallied;
        self.metrics.parked.set(self.n_parked() as i64);
        self.metrics.head_slot.set(self.chain.backed_head().slot.as_u64() as i64);
        self.metrics.outbox_pending.set(self.store.outbox_counts().pending as i64);
    }
}

#[cfg(test)]
mod tests;
