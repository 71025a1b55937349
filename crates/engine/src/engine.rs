//! The synchronous heart: a batch of messages in, verdicts and recorded findings out.
//!
//! One thread owns it and everything in it, so there is no lock, and a replay takes exactly the path that live traffic
//! takes. The order of commits is what makes a crash harmless:
//!
//! 1. findings, their evidence, what the detectors say about them, and all their deliveries, in one atomic write;
//! 2. the index;
//! 3. whatever the source keeps as its checkpoint.
//!
//! A crash between two of them repeats work and skips none, and a finding's id depends on its content only, so the
//! repeat changes nothing.
//!
//! **When the disk refuses.** A write that fails stops no judging: the batch is judged to its end, what it proved goes to the kill switches
//! at once ([`EngineParts::unrecorded`]), and only then the error is told. What could not be written is kept, bounded, and is written
//! with the next batch if the disk takes it again.

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

/// Why the engine has to stop. Nothing a message contains leads here.
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
    /// Whether the disk refuses, so that judging can go on without it.
    pub fn is_refused_write(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Write { .. }),
            Self::Index(error) => matches!(error, IndexError::Storage { .. }),
            Self::Chain(_) => false,
        }
    }
}

/// What became of a batch.
#[derive(Default)]
pub struct Processed {
    /// One row for each message whose outcome is now known, earlier parked ones included.
    pub reports: Vec<MessageOutcome>,
    /// Findings recorded now, repeats included.
    pub recorded: Vec<Recorded>,
}

/// Everything that judges, in one owner.
pub struct Engine {
    chain: Chain,
    keys: PubkeyCache,
    verifier: Verifier,
    index: Index,
    quota: Quota,
    /// What was proven a second time already.
    proofs: Proofs,
    store: Store,
    routes: Vec<Addressee>,
    unrecorded: Option<Unrecorded>,
    /// What the last writes refused, to be written with the next.
    owed: Changes,
    metrics: Metrics,
    clock: fn() -> UnixNs,
    pruned_before: Epoch,
    /// In that epoch it was last asked what has expired.
    expired_in: Epoch,
    fold_after_epochs: u64,
    monitor: Monitor,
    /// Heard since the last batch.
    peer_news: Vec<PeerNews>,
    /// When a vote or block of the network's present was proven last.
    last_reception: Option<UnixNs>,
    /// The silence in which the last run ended.
    earlier_silence: Option<Incident>,
    /// Everything before this moment was given to [`Self::process`].
    heard_until: UnixNs,
    /// The latest moment by the source's clock.
    latest_now: UnixNs,
    roster: LabelResolver,
    /// Shared with the detector of watched keys, which is one of the monitor's.
    desk: SharedWatchState,
    inclusions: Inclusions,
    punished: SlashedByBlock,
    open: OpenIncidents,
    /// Of the monitor's facts, as counted by the metric.
    n_untallied: u64,
}

/// How a contradiction became known.
#[expect(clippy::large_enum_variant, reason = "a batch has few of them, for as long as it is judged")]
enum ConflictCase {
    Conflict(index::Conflict),
    /// By its place in the batch.
    Operation(usize),
}

/// How many pairs of a batch that cannot be punished were not put together.
type WorthlessPairs = HashMap<(ValidatorIndex, Offence), u64>;

/// Findings that cannot be punished are deleted so long after they were recorded.
pub const WORTHLESS_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Findings that wait for a disk that refuses them; more would be memory without a bound.
const MAX_OWED: usize = 16_384;
/// Peer news kept until the next batch; more than that in half a second is noise.
const MAX_PEER_NEWS: usize = 8_192;

/// Takes findings that were proven and could not be written, and does not wait. The error says why it did not take them.
pub type Unrecorded = Box<dyn Fn(Vec<Finding>) -> Result<(), String> + Send>;

/// What an [`Engine`] is built from besides the data directory.
pub struct EngineParts {
    pub chain: Chain,
    pub keys: PubkeyCache,
    pub verifier: Verifier,
    pub history_epochs: u64,
    /// Epochs after which history is folded; 0: never.
    pub fold_after_epochs: u64,
    pub detect: DetectConfig,
    pub watch: WatchParts,
    pub routes: Vec<Addressee>,
    /// Gets findings that were proven and could not be written, for those who must act all the same. `None` where nobody acts.
    pub unrecorded: Option<Unrecorded>,
    pub metrics: Metrics,
    /// The wall clock, read only to stamp `recorded_at`.
    pub clock: fn() -> UnixNs,
}

/// Watched keys, as configured.
#[derive(Default)]
pub struct WatchParts {
    pub list: Arc<WatchList>,
    pub keeper: WatchedKeysConfig,
    pub desk: SharedWatchState,
}

impl Engine {
    /// Opens or creates the vote index in the folder `index` and the findings in the folder `evidence`. Both must belong to
    /// the chain's network.
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

    /// Something about a peer: for the detectors, with the next batch.
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

    /// Contradicting pairs that were counted and not listed, since the start.
    pub fn n_not_listed(&self) -> u64 {
        self.metrics.not_listed.get()
    }

    pub fn n_parked(&self) -> usize {
        self.verifier.parked()
    }

    /// When the message that waits longest for its committees came. What waits is in memory only.
    pub fn parked_since(&self) -> Option<UnixNs> {
        self.verifier.parked_since()
    }

    /// Adds what a later state knows: validators, exits, contexts.
    pub fn add_state(&mut self, ssz: &[u8]) -> Result<(), EngineError> {
        self.chain.add_state(ssz, &mut self.keys)?;
        self.roster.resolve(self.chain.registry());
        self.desk.set_labels(self.roster.labels().clone());
        Ok(())
    }

    /// Groups and labels as they are from now on.
    pub fn set_watch(&mut self, list: Arc<WatchList>) {
        self.roster.set(list, self.chain.registry());
        self.desk.set_labels(self.roster.labels().clone());
    }

    /// Who is told of findings from now on.
    pub fn set_routes(&mut self, routes: Vec<Addressee>) {
        self.routes = routes;
    }

    /// Who is who.
    pub fn labels(&self) -> &Arc<Labels> {
        self.roster.labels()
    }

    /// What a node reports as justified and finalized.
    pub fn note_finality(&mut self, justified: Checkpoint, finalized: Checkpoint) {
        self.chain.note_finality(justified, finalized);
    }

    /// What a node says is its head.
    pub fn note_node_head(&mut self, root: Root) {
        self.chain.note_node_head(root);
    }

    /// A missing block that no node has.
    pub fn give_up_block(&mut self, root: &Root) {
        self.chain.give_up_block(root);
    }

    /// One batch through all stages. `now`: by the source's clock, which for a capture is the capture's.
    pub fn process(&mut self, batch: Vec<RawMessage>, now: UnixNs) -> Result<Processed, EngineError> {
        let network = self.chain.network().clone();
        self.chain.tick(network.slot_at(now.0));
        // While messages wait, time for the detectors is that of the messages: a backlog is not a silent network.
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
        // What could not be written before must keep nobody from being judged.
        let (said, refused) = match said {
            Ok(said) => (said, None),
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

    /// Whether the network was received: by what is of about now and signed by somebody who is active. Who has left can sign anything, and
    /// one such key must not keep a deaf watcher green. What a node was asked for may be old.
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

    /// When a vote or block of the network's present was proven last, since the start.
    pub fn last_reception(&self) -> Option<UnixNs> {
        self.last_reception
    }

    /// The silence in which the last run ended, see [`crate::silence`].
    pub fn earlier_silence(&self) -> Option<&Incident> {
        self.earlier_silence.as_ref()
    }

    /// Stores what became of a silence, and tells every route.
    pub fn record_silence(&mut self, change: SilenceChange, now: UnixNs) -> Result<(), StoreError> {
        let n_peers = u64::try_from(self.metrics.peers.get()).unwrap_or_default();
        let (incident, told) = silence::report(self.chain.network(), change, now, n_peers);
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        self.open.count(std::slice::from_ref(&incident));
        // As with other incidents: findings of them are for those who are alerted by findings.
        let told = told.filter(|_| !self.routes.is_empty()).map(|told| Finding { recorded_at, ..told });
        let broadcasts = told.into_iter().collect();
        let recorded = self.store.apply(Changes { incidents: vec![incident], broadcasts, ..Changes::default() }, &self.routes)?;
        for one in recorded.iter().filter(|one| one.first_time) {
            self.metrics.findings.with_label_values(&[one.finding.kind.as_str()]).inc();
        }
        self.metrics.outbox_pending.set(self.store.outbox_counts().pending as i64);
        Ok(())
    }

    /// Detectors go by a time that only grows; a clock that was set back by more than a little begins a new one.
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

    /// What a message would be if it were true, for its place in the lanes.
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
                // A node's block was asked for.
                About::Block(_) if message.origin.source == SourceKind::Api => false,
                // Whose turn it was does not matter for a double proposal: who can be slashed for one has something to lose.
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

    /// How this peer's messages are judged.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        self.verifier.repute(peer)
    }

    /// A message that is not judged, with its outcome: it is counted like any other.
    pub fn turn_away(&mut self, message: RawMessage, outcome: Outcome, why: Dropped) -> MessageOutcome {
        self.metrics.shed.with_label_values(&[why.label()]).inc();
        let report = (message.ticket, message.origin.peer, message.kind, outcome);
        self.metrics.messages.with_label_values(&[report.2.label(), report.3.label()]).inc();
        report
    }

    /// Whether more waits than one batch takes: then what is proven is not proven for forwarding.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.verifier.set_pressed(pressed);
    }

    /// How long messages wait for us now: see [`Monitor::note_delay`].
    pub fn note_delay(&mut self, now: UnixNs, delay: Duration) {
        self.monitor.note_delay(now, delay);
    }

    /// Messages that wait for the engine.
    pub fn show_waiting(&self, n: usize) {
        self.metrics.queue.with_label_values(&["lanes"]).set(n as i64);
    }

    /// Ends the waiting of everything parked, for a source that has no more to say. What can be tried is tried a last time.
    pub fn finish(&mut self, now: UnixNs) -> Result<Processed, EngineError> {
        let verified = self.verifier.finish(&mut self.chain, now);
        let processed = self.settle(verified, Vec::new(), SourceState::TheEnd)?;
        let last_words = self.monitor.finish(&self.chain, &**self.roster.labels());
        let further_pairs = self.quota.take_all_counted();
        self.write(Changes { further_pairs, ..Changes::default() })?;
        self.record(Vec::new(), HashMap::new(), last_words, Time::from_unix_ns((self.clock)().0))?;
        Ok(processed)
    }

    /// What was verified, judged and written. `said`: recorded before, in the same call.
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
                    // Who watches a key wants to know all that it signs, whatever it can lose.
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
        let heard = self.monitor.observe(&detect::Batch {
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

    /// What slashing operations show, and what messages show together with what is stored, as far as there is room for it. Asked in an order
    /// that depends on the messages only, so what is listed does not depend on how they were batched.
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
                // Its sides are given as messages too, and counted there.
                (QuotaAnswer::Counted(_), ConflictCase::Operation(_)) => self.metrics.not_listed.inc(),
            }
        }
        // Only now: the finding that stands for them may be one of this batch.
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
                    // No block of the chain punishes whom nothing can punish. Who is slashed may be so by this very block.
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

    /// Contradictions between votes. Of a validator of which nothing more is listed they are
    /// counted and not put together. Pairs that can be punished have room of their own, so that
    /// those that cannot never hide one. Also tells how many of the latter were not put together.
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

    /// Whether nobody can lose anything for it. A watched key is no exception: who holds it can sign without end, and one finding a day says
    /// that somebody does.
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

    /// As they are once the chain has left the block that included them.
    fn reopened(&mut self, ids: &[Root]) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for id in ids {
            findings.extend(self.store.finding(*id)?.map(|(_, finding)| Finding { included: None, ..finding }));
        }
        findings.iter().for_each(|finding| self.punished.reopen(finding));
        Ok(findings)
    }

    /// `now`: what this batch's operations show; earlier ones are stored.
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

    /// Everything that follows from a batch, in one write.
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
        // Incidents have a place of their own; as findings they are told where somebody is alerted by findings.
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

    /// With what is owed from earlier, which goes first. On an error all of it is owed, and what is new of it goes to who acts on it.
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
        // Beyond the bound what nobody can be punished for goes first, then the latest.
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
        // A clock that is wrong by a year must not cost the history: what goes must be old by the chain, too.
        let slot = network.slot_at(now.0).min(self.chain.backed_head().slot);
        let epoch = slot.epoch(network.preset());
        let before = epoch.saturating_sub(self.index.shape().history_epochs);
        if before > self.pruned_before {
            self.index.prune(before)?;
            self.pruned_before = before;
        }
        if self.fold_after_epochs > 0 {
            // One epoch at a time, so that no batch waits for all that there is to fold.
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
