//! The synchronous heart: a batch of messages in, verdicts and recorded findings out.
//!
//! One thread owns it and everything in it, so there is no lock, and a replay takes exactly the path that live traffic
//! takes. The order of commits is what makes a crash harmless:
//!
//! 1. findings, their evidence and their deliveries, in one atomic write;
//! 2. the index;
//! 3. whatever the source keeps as its checkpoint.
//!
//! A crash between two of them repeats work and skips none, and a finding's id depends on its content only, so the
//! repeat changes nothing. What the detectors say about a batch is written after its findings and follows from them and from the
//! traffic; after a crash it is said again, under the same ids.

use crate::datadir::{DataDir, DataDirError};
use crate::lanes::Shed;
use crate::metrics::Metrics;
use crate::quota::Quota;
use crate::watch::roster::Roster;
use chain::{Chain, ChainError, PubkeyCache};
use consensus::{Checkpoint, Epoch};
use detect::watch::{Desk, Keeper, KeeperConfig, Labels, WatchList};
use detect::{DetectConfig, Judged, Monitor, Offender, PeerNews, Unproven};
use evidence::{Addressee, Evidence, Finding, IncidentState, Included, Recorded, Store, StoreError, Time};
use index::{Index, IndexError, Shape};
use std::sync::Arc;
use verify::{MessageOutcome, Outcome, PeerBytes, RawMessage, Repute, Triage, UnixNs, Verified, Verifier};

/// Why the engine has to stop. Nothing a message contains leads here.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("findings cannot be stored: {0}")]
    Store(#[from] StoreError),
    #[error("the vote index cannot go on: {0}")]
    Index(#[from] IndexError),
    #[error("the chain cannot be loaded: {0}")]
    Chain(#[from] ChainError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
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
    store: Store,
    routes: Vec<Addressee>,
    metrics: Metrics,
    clock: fn() -> UnixNs,
    pruned_before: Epoch,
    fold_after_epochs: u64,
    monitor: Monitor,
    /// Heard since the last batch.
    peer_news: Vec<PeerNews>,
    /// Everything before this moment was given to [`Self::process`].
    heard_until: UnixNs,
    roster: Roster,
    /// Shared with the detector of watched keys, which is one of the monitor's.
    desk: Desk,
}

/// Peer news kept until the next batch; more than that in half a second is noise.
const MAX_PEER_NEWS: usize = 8_192;
/// Findings of an earlier run that the detectors are told of.
const RESTORED_FINDINGS: u64 = 16_384;

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
    pub metrics: Metrics,
    /// The wall clock, read only to stamp `recorded_at`.
    pub clock: fn() -> UnixNs,
}

/// Watched keys, as configured.
#[derive(Default)]
pub struct WatchParts {
    pub list: Arc<WatchList>,
    pub keeper: KeeperConfig,
    pub desk: Desk,
}

impl Engine {
    /// Opens index and findings in `dir`, which must be bound to the chain's network.
    pub fn open(dir: &DataDir, parts: EngineParts) -> Result<Self, EngineError> {
        let network = parts.chain.network().clone();
        let shape = Shape {
            genesis_validators_root: network.genesis_validators_root,
            slots_per_epoch: network.preset().slots_per_epoch,
            history_epochs: parts.history_epochs,
        };
        let index = Index::open(&dir.index_path(), shape)?;
        let store = Store::open(&dir.evidence_path(), network.genesis_validators_root)?;
        let EngineParts { chain, keys, verifier, routes, metrics, clock, detect, fold_after_epochs, watch, .. } = parts;
        let mut roster = Roster::new(store.clone())?;
        roster.set(watch.list, chain.registry());
        let desk = watch.desk;
        desk.set_labels(roster.labels().clone());
        let mut monitor = Monitor::new(&detect, &network);
        monitor.add(Box::new(Keeper::new(watch.keeper, desk.clone())));
        let (open, offenders) = left_by_earlier_runs(&store)?;
        let unsaid = monitor.restore(&open, &offenders, &chain, &**roster.labels());
        for incident in unsaid.incidents {
            // One that is stored has gone on since.
            if store.incident(incident.id)?.is_none() {
                store.put_incidents(&[incident])?;
            }
        }
        Ok(Self {
            chain,
            keys,
            verifier,
            index,
            quota: Quota::default(),
            store,
            routes,
            metrics,
            clock,
            pruned_before: Epoch::new(0),
            fold_after_epochs,
            monitor,
            roster,
            desk,
            peer_news: Vec::new(),
            heard_until: UnixNs(0),
        })
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

    /// Who is who.
    pub fn labels(&self) -> &Arc<Labels> {
        self.roster.labels()
    }

    /// What a node reports as justified and finalized.
    pub fn note_finality(&mut self, justified: Checkpoint, finalized: Checkpoint) {
        self.chain.note_finality(justified, finalized);
    }

    /// One batch through all stages. `now`: by the source's clock, which for a capture is the capture's.
    pub fn process(&mut self, batch: Vec<RawMessage>, now: UnixNs) -> Result<Processed, EngineError> {
        let network = self.chain.network().clone();
        self.chain.tick(network.slot_at(now.0));
        // While messages wait, time for the detectors is that of the messages: a backlog is not a silent network.
        let earliest = batch.iter().map(|message| message.received_at).min().unwrap_or(now);
        let over = self.monitor.turn_to(earliest.min(now), &self.chain, &**self.roster.labels());
        let said = self.write_down(over)?;
        let latest = batch.iter().map(|message| message.received_at).max().unwrap_or(now);
        self.heard_until = self.heard_until.max(latest.min(now));
        let verified = self.verifier.process(&mut self.chain, batch, now);
        let epoch = network.slot_at(now.0).epoch(network.preset());
        self.index.set_now(self.chain.now().epoch(network.preset()));
        if self.roster.observe(&verified, &self.chain, epoch)? {
            self.desk.set_labels(self.roster.labels().clone());
        }
        let processed = self.settle(verified, said)?;
        self.prune(now)?;
        Ok(processed)
    }

    /// What a message would be if it were true, for its place in the lanes.
    pub fn triage(&mut self, message: &RawMessage) -> Triage {
        let network = self.chain.network();
        let (slot, slots_per_epoch) = (network.slot_at(message.received_at.0), network.preset().slots_per_epoch);
        let index = &self.index;
        self.verifier.triage(message, slots_per_epoch, slot, |validator, data, root| index.glance(validator, data, root))
    }

    /// How this peer's messages are judged.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> Repute {
        self.verifier.repute(peer)
    }

    /// A message that is not judged, with its outcome: it is counted like any other.
    pub fn turn_away(&mut self, message: RawMessage, outcome: Outcome, why: Shed) -> MessageOutcome {
        self.metrics.shed.with_label_values(&[why.label()]).inc();
        let report = (message.ticket, message.origin.peer, message.kind, outcome);
        self.metrics.messages.with_label_values(&[report.2.label(), report.3.label()]).inc();
        report
    }

    /// Whether more waits than one batch takes: then what is proven is not proven for forwarding.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.verifier.set_pressed(pressed);
    }

    /// Messages that wait for the engine.
    pub fn show_waiting(&self, n: usize) {
        self.metrics.queue.with_label_values(&["lanes"]).set(n as i64);
    }

    /// Ends the waiting of everything parked, for a source that has no more to say. What can be tried is tried a last time.
    pub fn finish(&mut self, now: UnixNs) -> Result<Processed, EngineError> {
        let verified = self.verifier.finish(&mut self.chain, now);
        let processed = self.settle(verified, Vec::new())?;
        let last_words = self.monitor.finish(&self.chain, &**self.roster.labels());
        self.store.put_incidents(&last_words.incidents)?;
        Ok(processed)
    }

    /// What was verified, judged and written. `said`: recorded before, in the same call.
    fn settle(&mut self, verified: Verified, said: Vec<Recorded>) -> Result<Processed, EngineError> {
        let mut recorded = said;
        recorded.extend(self.judge_and_record(&verified)?);
        self.index.commit()?;
        self.count(&verified.outcomes, &recorded);
        Ok(Processed { reports: verified.outcomes, recorded })
    }

    fn judge_and_record(&mut self, verified: &Verified) -> Result<Vec<Recorded>, EngineError> {
        let (mut of_operations, mut of_index) = (Vec::new(), Vec::new());
        let mut inclusions = Vec::new();
        for operation in &verified.slashings {
            let first = of_operations.len();
            self.keep(detect::judge_operation(operation, &self.chain), &mut of_operations);
            if let Some(inclusion) = operation.included_in {
                let included = Included { slot: inclusion.slot, block_root: inclusion.block };
                inclusions.extend(of_operations[first..].iter().map(|one| (one.finding.id, included)));
            }
        }
        let mut conflicts = self.index.stage_votes(&verified.votes)?;
        conflicts.extend(self.index.stage_proposals(&verified.proposals)?);
        let mut proofs = detect::Proofs::default();
        for conflict in &conflicts {
            if !self.quota.admits(conflict, self.chain.network().preset(), &self.store)? {
                self.metrics.not_listed.inc();
                continue;
            }
            let verdict = detect::judge(conflict, &self.chain, &mut proofs);
            self.keep(verdict.map(|one| vec![one]), &mut of_index);
        }
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        let rows: Vec<(Finding, Arc<Evidence>)> = detect::merge(of_operations, of_index)
            .into_iter()
            .map(|Judged { mut finding, evidence }| {
                finding.recorded_at = recorded_at;
                if let Some(subject) = &mut finding.validator {
                    subject.labels = self.roster.labels().strings(subject.index);
                }
                (finding, evidence)
            })
            .collect();
        let mut recorded = Vec::new();
        let mut offenders = Vec::new();
        if !rows.is_empty() {
            let proofs: Vec<Arc<Evidence>> = rows.iter().map(|(_, evidence)| evidence.clone()).collect();
            recorded = self.store.record(rows, &self.routes)?;
            for (one, evidence) in recorded.iter().zip(proofs).filter(|(one, _)| one.first_time) {
                offenders.push(Offender { finding: one.finding.clone(), evidence });
            }
        }
        let mut included = Vec::new();
        for (id, inclusion) in inclusions {
            if self.store.mark_included(id, inclusion)? {
                included.push((id, inclusion));
            }
        }
        recorded.extend(self.detect(verified, &offenders, &included)?);
        Ok(recorded)
    }

    /// What the detectors make of a batch, recorded.
    fn detect(
        &mut self,
        verified: &Verified,
        offenders: &[Offender],
        included: &[(consensus::Root, Included)],
    ) -> Result<Vec<Recorded>, EngineError> {
        let peers = std::mem::take(&mut self.peer_news);
        let heard = self.monitor.observe(&detect::Batch {
            verified,
            offenders,
            included,
            peers: &peers,
            chain: &self.chain,
            labels: &**self.roster.labels(),
            heard_until: self.heard_until,
        });
        self.write_down(heard)
    }

    /// What the detectors said, stored.
    fn write_down(&mut self, mut heard: detect::Heard) -> Result<Vec<Recorded>, EngineError> {
        if !heard.incidents.is_empty() {
            for incident in &heard.incidents {
                tracing::info!(kind = incident.kind, state = incident.state.as_str(), id = %incident.id, "incident");
            }
            self.store.put_incidents(&heard.incidents)?;
        }
        // Incidents have a place of their own; as findings they are told where somebody is alerted by findings.
        if !self.routes.is_empty() {
            heard.anomalies.append(&mut heard.announcements);
        }
        if heard.anomalies.is_empty() {
            return Ok(Vec::new());
        }
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        for anomaly in &mut heard.anomalies {
            anomaly.recorded_at = recorded_at;
        }
        Ok(self.store.record_anomalies(heard.anomalies, &self.routes)?)
    }

    fn keep(&self, verdict: Result<Vec<Judged>, Unproven>, into: &mut Vec<Judged>) {
        match verdict {
            Ok(judged) => into.extend(judged),
            Err(unproven) => {
                self.metrics.unproven.inc();
                tracing::error!(reason = %unproven, "a conflict was not confirmed by the second proof and accuses nobody");
            }
        }
    }

    fn prune(&mut self, now: UnixNs) -> Result<(), EngineError> {
        let network = self.chain.network();
        let epoch = network.slot_at(now.0).epoch(network.preset());
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

    fn count(&self, reports: &[MessageOutcome], recorded: &[Recorded]) {
        for (_, _, kind, outcome) in reports.iter().filter(|row| row.3.is_final()) {
            self.metrics.messages.with_label_values(&[kind.label(), outcome.label()]).inc();
        }
        for one in recorded.iter().filter(|one| one.first_time) {
            self.metrics.findings.with_label_values(&[&one.finding.kind]).inc();
            if let Some(seen) = one.finding.second_seen.filter(|_| one.finding.offence().is_some()) {
                self.metrics.finding_latency.observe(one.finding.recorded_at.since(seen).as_secs_f64());
            }
        }
        self.metrics.parked.set(self.n_parked() as i64);
        self.metrics.head_slot.set(self.chain.head().slot.as_u64() as i64);
        self.metrics.outbox_pending.set(self.store.outbox_counts().pending as i64);
    }
}

/// Incidents that were open, and the last offences with their proofs.
fn left_by_earlier_runs(store: &Store) -> Result<(Vec<evidence::Incident>, Vec<Offender>), StoreError> {
    let mut open = store.all_incidents()?;
    open.retain(|incident| incident.state != IncidentState::Closed);
    let mut offenders = Vec::new();
    let after = store.last_seq().saturating_sub(RESTORED_FINDINGS);
    for (_, finding) in store.findings_after(after, RESTORED_FINDINGS as usize)? {
        let Some(reference) = finding.evidence.as_ref().filter(|_| finding.offence().is_some()) else { continue };
        if let Some(evidence) = store.evidence(reference.id)? {
            offenders.push(Offender { finding, evidence: Arc::new(evidence) });
        }
    }
    Ok((open, offenders))
}
