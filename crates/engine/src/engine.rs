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

mod offences;
mod record;
mod triage;

use crate::earlier_runs::EarlierRuns;
use crate::label_resolver::LabelResolver;
use crate::metrics::{Metrics, OpenIncidents};
use crate::named_blocks::{NamedBlocks, WantedBlock};
use crate::priority_queues::Dropped;
use crate::silence;
use chain::{Chain, ChainError, PubkeyCache};
use consensus::{Checkpoint, Epoch, Root};
use detect::coverage::{CoverageDetector, PunishedOffences, SharedCoverage};
use detect::monitor::Facts;
use detect::offences::{Inclusions, Quota, SlashedByBlock, SourceState};
use detect::watch::{
    Labels, SharedWatchState, TwoOriginsConfig, TwoOriginsDetector, WatchList, WatchedKeysConfig, WatchedKeysDetector,
};
use detect::{DetectConfig, Monitor, PeerNews, Proofs};
use evidence::{Changes, Finding, Incident, Recorded, RouteFilter, Store, StoreError, Time};
use index::{Index, IndexError, Shape};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use verify::{MessageOutcome, Outcome, PeerBytes, PeerReputation, ProvenBlock, RawMessage, Verified, Verifier};

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
    /// Blocks whose proposer's signature this batch proved for the first time.
    pub blocks: Vec<ProvenBlock>,
    /// Number of votes by bits, those in blocks included, whose committees did not become known, by
    /// the epoch of their target.
    pub expired_in: BTreeMap<Epoch, u64>,
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
    routes: Vec<RouteFilter>,
    unrecorded: Option<Unrecorded>,
    /// Changes that could not be written so far. They are written together with the next ones.
    owed: Changes,
    metrics: Metrics,
    clock: fn() -> Time,
    pruned_before: Epoch,
    /// The epoch in which expired findings were last deleted.
    expired_in: Epoch,
    fold_after_epochs: u64,
    monitor: Monitor,
    /// Peer news since the last batch.
    peer_news: Vec<PeerNews>,
    /// The time at which a current vote or block was last proven. See [`Self::last_reception`].
    last_reception: Option<Time>,
    /// The silence that was still open when the last run ended.
    earlier_silence: Option<Incident>,
    /// All messages that arrived before this time were given to [`Self::process`].
    received_until: Time,
    /// The latest time that the source's clock showed.
    latest_now: Time,
    labels: LabelResolver,
    /// What others read about watched keys. The detector of watched keys publishes in it.
    watch_state: SharedWatchState,
    inclusions: Inclusions,
    punished: SlashedByBlock,
    punished_offences: PunishedOffences,
    /// What others read about the coverage. Its detector publishes in it.
    coverage: SharedCoverage,
    open_incidents: OpenIncidents,
    /// Number of voters that the monitor did not tally, as last reported to the metric.
    n_untallied: u64,
    named_blocks: NamedBlocks,
    older_store: Option<OlderStore>,
}

/// The store of findings is older than the vote index, as after it was restored from a backup by
/// itself. Each commit of the index writes how many findings there were.
///
/// What the index has counts as known, so an offence whose finding is lost is not found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OlderStore {
    /// Number of the newest finding in the store.
    pub last: u64,
    /// Number of the newest finding when the index was committed last.
    pub expected: u64,
}

impl OlderStore {
    fn of(index: &Index, store: &Store) -> Option<Self> {
        let last = store.last_seq();
        index.written_mark().filter(|expected| *expected > last).map(|expected| Self { last, expected })
    }
}

impl fmt::Display for OlderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "evidence/ is older than index/: its last finding has number {}, and there were {} when index/ was written. Was it \
             restored from an older backup? The offences between are not found again, because index/ has their messages already: \
             stop, and restore evidence/ and index/ from the same backup, or replay captures of that time into a new directory",
            self.last, self.expected
        )
    }
}

/// Findings that cannot be punished are deleted this long after they were recorded.
pub const WORTHLESS_KEPT: Duration = Duration::from_secs(30 * 86_400);
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
    pub routes: Vec<RouteFilter>,
    /// Receives findings that were proven but could not be written, so that kill switches can still
    /// act on them. `None` if nothing acts on findings.
    pub unrecorded: Option<Unrecorded>,
    pub metrics: Metrics,
    /// The wall clock. It is read only to stamp `recorded_at` and to decide which findings have
    /// expired.
    pub clock: fn() -> Time,
}

/// The configuration of watched keys.
#[derive(Default)]
pub struct WatchParts {
    /// The groups of watched keys.
    pub list: Arc<WatchList>,
    /// The thresholds of the detector of watched keys.
    pub config: WatchedKeysConfig,
    /// Which keys should sign on one machine only.
    pub two_origins: TwoOriginsConfig,
    /// Shared with the readers of the watched keys' state.
    pub state: SharedWatchState,
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
        let older_store = OlderStore::of(&index, &store);
        if let Some(older) = &older_store {
            tracing::error!("{older}");
        }
        let EngineParts { chain, keys, verifier, routes, unrecorded, metrics, clock, detect, fold_after_epochs, watch, .. } =
            parts;
        let mut resolver = LabelResolver::new(store.clone())?;
        resolver.set(watch.list, chain.registry());
        let watch_state = watch.state;
        watch_state.set_labels(resolver.labels().clone());
        let mut monitor = Monitor::new(&detect, &network);
        monitor.add(Box::new(WatchedKeysDetector::new(watch.config, watch_state.clone())));
        monitor.add(Box::new(TwoOriginsDetector::new(watch.two_origins, network.preset().slots_per_epoch)));
        let coverage = SharedCoverage::default();
        monitor.add(Box::new(CoverageDetector::new(coverage.clone())));
        let earlier = EarlierRuns::read(&store)?;
        let (mut punished, mut punished_offences) = (SlashedByBlock::default(), PunishedOffences::default());
        let mut recall = |finding: &Finding| {
            punished.recall(finding);
            punished_offences.recall(finding, &network);
        };
        let unreported = earlier.hand_to(&mut monitor, &mut recall, &store, &chain, resolver.labels())?;
        let rows = store.checkpoints(Inclusions::PREFIX, Inclusions::PREFIX, Inclusions::MAX_ROWS)?;
        let inclusions = Inclusions::restore(&rows, store.checkpoint(Inclusions::NOTE)?.as_deref());
        let mut open_incidents = OpenIncidents::new(&metrics);
        open_incidents.restore(&earlier.incidents);
        let named_blocks = NamedBlocks::new(metrics.named_blocks.clone());
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
            labels: resolver,
            watch_state,
            peer_news: Vec::new(),
            last_reception: None,
            earlier_silence: silence::open_silence(&earlier.incidents).cloned(),
            received_until: Time(0),
            latest_now: Time(0),
            inclusions,
            punished,
            punished_offences,
            coverage,
            open_incidents,
            n_untallied: 0,
            named_blocks,
            older_store,
        };
        engine.record(Vec::new(), HashMap::new(), unreported, Time::from_unix_ns(clock().0))?;
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

    /// Whether findings are missing that the vote index knew of when this run began.
    pub fn older_store(&self) -> Option<OlderStore> {
        self.older_store
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What was received, as numbers by slot.
    pub fn facts(&self) -> &Facts {
        self.monitor.facts()
    }

    /// How much of the network is heard first-hand. The engine keeps the content up to date.
    pub fn coverage(&self) -> &SharedCoverage {
        &self.coverage
    }

    /// Number of contradicting pairs since the start that were counted but not listed as findings.
    pub fn n_not_listed(&self) -> u64 {
        self.metrics.not_listed.get()
    }

    /// Whether the network seems to follow another draft of its fork than this program.
    pub fn sees_other_draft(&self) -> bool {
        self.verifier.sees_other_draft(self.chain.network().preset().slots_per_epoch)
    }

    /// Number of messages that wait for a block, a state or their committees.
    pub fn n_parked(&self) -> usize {
        self.verifier.parked()
    }

    /// Arrival time of the oldest message that waits for its committees. Parked messages are in
    /// memory only.
    pub fn parked_since(&self) -> Option<Time> {
        self.verifier.parked_since()
    }

    /// Adds what a later state contains: validators, exits and contexts for committees.
    pub fn add_state(&mut self, ssz: &[u8]) -> Result<(), EngineError> {
        let before = self.chain.stats();
        self.chain.add_state(ssz, &mut self.keys)?;
        let after = self.chain.stats();
        let n_differed = after.states_differed - before.states_differed;
        let n_equal = after.states_compared - before.states_compared - n_differed;
        self.metrics.registry_states.with_label_values(&["equal"]).inc_by(n_equal);
        self.metrics.registry_states.with_label_values(&["different"]).inc_by(n_differed);
        self.labels.resolve(self.chain.registry());
        self.watch_state.set_labels(self.labels.labels().clone());
        Ok(())
    }

    /// Replaces the groups and labels of watched keys.
    pub fn set_watch(&mut self, list: Arc<WatchList>) {
        self.labels.set(list, self.chain.registry());
        self.watch_state.set_labels(self.labels.labels().clone());
    }

    /// Replaces the routes that are told about new findings.
    pub fn set_routes(&mut self, routes: Vec<RouteFilter>) {
        self.routes = routes;
    }

    /// The labels of validators.
    pub fn labels(&self) -> &Arc<Labels> {
        self.labels.labels()
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

    /// Stops asking peers for a block that messages name and that nobody has.
    pub fn give_up_named_block(&mut self, root: &Root) {
        self.named_blocks.give_up(root);
    }

    /// The blocks that signed messages name, and that peers are to be asked for.
    pub fn named_blocks(&mut self, now: Time) -> Vec<WantedBlock> {
        self.named_blocks.wanted(&self.chain, &self.verifier, now)
    }

    /// Takes one batch through all stages. `now` is the time on the source's clock. For a capture,
    /// this is the time of the capture.
    pub fn process(&mut self, batch: Vec<RawMessage>, now: Time) -> Result<Processed, EngineError> {
        let network = self.chain.network().clone();
        self.chain.tick(network.slot_at(now.0));
        // While messages wait, the detectors' time is the time of the messages. Otherwise a backlog
        // would look like a silent network.
        self.follow_clock(now);
        let earliest = batch.iter().map(|message| message.received_at).min().unwrap_or(now);
        let over = self.monitor.turn_to(earliest.min(now), &self.chain, self.labels.labels());
        let recorded = self.record(Vec::new(), HashMap::new(), over, Time::from_unix_ns((self.clock)().0));
        let latest = batch.iter().map(|message| message.received_at).max().unwrap_or(now);
        self.received_until = self.received_until.max(latest.min(now));
        let verified = self.verifier.process(&mut self.chain, batch, now);
        self.note_reception(&verified, now);
        self.named_blocks.note(&verified, &self.chain, &self.verifier, now);
        let epoch = network.slot_at(now.0).epoch(network.preset());
        self.index.set_now(self.chain.now().epoch(network.preset()));
        let observed = self.labels.observe(&verified, &self.chain, epoch);
        if !matches!(observed, Ok(false)) {
            self.watch_state.set_labels(self.labels.labels().clone());
        }
        // A failed write of earlier changes must not stop this batch from being judged.
        let (recorded, refused) = match recorded {
            Ok(recorded) => (recorded, None),
            // The write of this batch repeats it, so it is an error only if that one is refused as
            // well.
            Err(error) if error.is_refused_write() => (Vec::new(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let processed = self.record_and_commit(verified, recorded, SourceState::Open)?;
        if let Some(error) = refused {
            return Err(error);
        }
        observed?;
        self.prune(now)?;
        Ok(processed)
    }

    /// Time at which a current vote or block was last proven. `None` if there was none since the
    /// start.
    pub fn last_reception(&self) -> Option<Time> {
        self.last_reception
    }

    /// The silence that was still open when the last run ended. See [`crate::silence`].
    pub fn earlier_silence(&self) -> Option<&Incident> {
        self.earlier_silence.as_ref()
    }

    /// The time of the detectors only grows. If the clock was set back by more than a few slots,
    /// the detectors start again from the new time.
    fn follow_clock(&mut self, now: Time) {
        let network = self.chain.network();
        let (from, to) = (network.slot_at(self.latest_now.0), network.slot_at(now.0));
        if to.saturating_add(detect::monitor::MAX_STEP_BACK) < from {
            tracing::warn!(%from, %to, "the clock was set back: detectors begin anew; check the clock's synchronisation");
            self.monitor.go_back(to);
            (self.received_until, self.latest_now) = (now, now);
        }
        self.latest_now = self.latest_now.max(now);
    }

    /// Returns how far the messages of this peer are trusted.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        self.verifier.peer_reputation(peer)
    }

    /// Counts a message that is dropped before verification, and returns its report.
    pub fn report_dropped(&mut self, message: RawMessage, why: Dropped) -> MessageOutcome {
        self.metrics.shed.with_label_values(&[why.label()]).inc();
        let report = (message.ticket, message.origin.peer.clone(), message.kind, why.outcome());
        self.metrics.messages.with_label_values(&[report.2.label(), report.3.label()]).inc();
        report
    }

    /// Sets whether more messages wait than one batch takes. If so, single votes are proven in
    /// sums, which is cheaper but does not prove each of them for forwarding.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.verifier.set_pressed(pressed);
    }

    /// Notes how long messages have waited in this process. See [`Monitor::note_delay`].
    pub fn note_delay(&mut self, now: Time, delay: Duration) {
        self.monitor.note_delay(now, delay);
    }

    /// Sets the metric of messages that wait in the priority queues.
    pub fn show_waiting(&self, n: usize) {
        self.metrics.queue.with_label_values(&["priority"]).set(n as i64);
    }

    /// Ends the waiting of all parked messages when a source has no more messages. Each of them is
    /// tried one last time if possible.
    pub fn finish(&mut self, now: Time) -> Result<Processed, EngineError> {
        let verified = self.verifier.finish(&mut self.chain, now);
        let processed = self.record_and_commit(verified, Vec::new(), SourceState::Ended)?;
        let last = self.monitor.finish(&self.chain, self.labels.labels());
        let further_pairs = self.quota.take_all_counted();
        self.write(Changes { further_pairs, ..Changes::default() })?;
        self.record(Vec::new(), HashMap::new(), last, Time::from_unix_ns((self.clock)().0))?;
        Ok(processed)
    }

    /// Judges verified messages, records the findings and commits the index. `recorded` are
    /// findings that were recorded earlier in the same call.
    fn record_and_commit(
        &mut self,
        verified: Verified,
        mut recorded: Vec<Recorded>,
        source: SourceState,
    ) -> Result<Processed, EngineError> {
        recorded.extend(self.find_and_record(&verified, source)?);
        // Findings are on disk before the index is, so the store is never behind this number.
        self.index.set_mark(self.store.last_seq());
        self.index.commit()?;
        self.count_refused(&verified);
        self.count(&verified.outcomes, &recorded);
        Ok(Processed { reports: verified.outcomes, recorded, blocks: verified.blocks, expired_in: verified.expired_in })
    }

    fn prune(&mut self, now: Time) -> Result<(), EngineError> {
        let epoch = self.chain.now().epoch(self.chain.network().preset());
        if epoch > self.expired_in {
            self.expired_in = epoch;
            self.publish_punished();
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

    /// Publishes how many validators were punished in the last days.
    fn publish_punished(&mut self) {
        let counts = self.punished_offences.counts(self.chain.now(), self.chain.network());
        self.coverage.set_punished(counts);
    }

    fn count_refused(&self, verified: &Verified) {
        let of_messages = verified.outcomes.iter().map(|(.., outcome)| outcome);
        for outcome in of_messages.chain(verified.inner.iter().map(|(_, outcome)| outcome)) {
            match outcome {
                Outcome::Refused(reason) => self.metrics.refused.with_label_values(&[reason]).inc(),
                Outcome::SeenNotProvable(why) => self.metrics.unprovable.with_label_values(&[why.label()]).inc(),
                Outcome::Proven { .. }
                | Outcome::Duplicate
                | Outcome::Parked
                | Outcome::Expired
                | Outcome::Malformed(_)
                | Outcome::UnknownFork
                | Outcome::UnknownValidator
                | Outcome::BadSignature => {}
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
