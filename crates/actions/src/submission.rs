//! Submits proofs to beacon nodes, so that a block can punish the offences that were found. It is
//! off unless `submission.enabled` is set.
//!
//! The submitter reads the finding log like any other follower. A proof is sent if one of its
//! findings is `punishable: yes` and is not in a block yet. It is sent once: its record
//! ([`Submission`]) is on disk before the first byte is sent, and is written again when a node has
//! answered.
//!
//! The answer of a node decides what happens:
//!
//! - 2xx: `accepted`. The node passes the proof on to the network.
//! - 400, 409, 413 or 422: `refused`, with the node's text. The node examined the proof and refuses
//!   it, so it is not sent again.
//! - 5xx, except 503: the proof is tried again later, and other proofs go first in the meantime.
//!   After [`RetryPolicy::max_refusals`] such answers it is `refused`, with the node's text.
//! - The node already has a slashing of the same validators, with any status: `not_needed`, with
//!   the text of the node.
//! - Any other answer, or none: all proofs wait ([`RetryPolicy::pauses`]). The number of attempts
//!   has no limit.
//!
//! Before each attempt a node is asked about the accused validators. If none of them can be slashed
//! any more, the record says `not_needed` and nothing is sent.
//!
//! A process that is killed between sending and the answer leaves `pending`, and sends again at the
//! next start. This is harmless, because a pool keeps only one copy of a proof. A lost proof would
//! let the accused continue to sign.

mod queue;
#[cfg(test)]
mod tests;

use crate::follower::Follower;
use alert::RetryPolicy;
use chain::node::{NodeError, NodeSet};
use consensus::{Network, Root, Slot};
use engine::metrics::Metrics;
use evidence::{Evidence, EvidenceKind, Finding, Punishable, Store, StoreError, Submission, SubmissionState, Time};
use queue::{Queue, WaitingProof};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Records read at once.
const PAGE: usize = 1024;
/// Accused validators in one request to a node.
const ASKED_TOGETHER: usize = 64;

/// Reads findings and submits their proofs.
pub struct Submitter {
    store: Store,
    follower: Follower,
    nodes: Arc<NodeSet>,
    network: Arc<Network>,
    metrics: Metrics,
    now: fn() -> Time,
    queue: Queue,
    /// Records of proofs that were tried before and wait for another attempt.
    tried: HashMap<Root, Submission>,
    /// Proofs that need no further work.
    ended: HashSet<Root>,
    last_number: u64,
    /// Number of the last finding that was read.
    read_up_to: u64,
    /// The same number as it is on disk. It stays before the oldest proof that waits.
    saved_up_to: u64,
    /// Number of consecutive attempts that no node could answer.
    n_unanswered: u32,
    paused_until: Time,
}

impl Submitter {
    /// Creates a submitter that continues from the records of earlier runs.
    pub fn new(
        store: Store,
        nodes: Arc<NodeSet>,
        network: Arc<Network>,
        metrics: Metrics,
        now: fn() -> Time,
    ) -> Result<Self, StoreError> {
        let (mut queue, mut tried, mut ended) = (Queue::default(), HashMap::new(), HashSet::new());
        let mut last_number = 0;
        loop {
            let page = store.submissions_after(last_number, PAGE)?;
            let Some(last) = page.last() else { break };
            last_number = last.number;
            for record in page {
                if matches!(record.state, SubmissionState::Pending | SubmissionState::Accepted) {
                    queue.sent(record.kind, record.finding, network.slot_at(record.last_attempt.as_unix_ns()));
                }
                match record.state {
                    SubmissionState::Pending => drop(tried.insert(record.evidence, record)),
                    SubmissionState::Accepted | SubmissionState::Refused | SubmissionState::NotNeeded => {
                        ended.insert(record.evidence);
                    }
                }
            }
            // Only the newest proofs can still be in a node's pool, so older ones are forgotten.
            queue.forget_sent_before(network.slot_at(now().as_unix_ns()));
        }
        let saved_up_to = store.submissions_looked_at()?;
        let (n_unanswered, paused_until) = (0, Time::default());
        Ok(Self {
            follower: Follower::new(store.clone()),
            store,
            nodes,
            network,
            metrics,
            now,
            queue,
            tried,
            ended,
            last_number,
            read_up_to: saved_up_to,
            saved_up_to,
            n_unanswered,
            paused_until,
        })
    }

    /// Runs until cancelled. A proof that is being sent at that moment is sent again at the next
    /// start.
    pub async fn run(mut self, cancel: CancellationToken) {
        let pause = RetryPolicy::DEFAULT.store_pause.min(self.network.spec.slot_duration / 4);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                result = self.submit_ready() => if let Err(error) = result {
                    tracing::error!(%error, "proofs cannot be submitted");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.follower.recorded() => {}
                () = tokio::time::sleep(pause), if self.queue.len() > 0 => {}
            }
        }
    }

    /// Reads new findings and sends the proofs that may be sent now.
    async fn submit_ready(&mut self) -> Result<(), StoreError> {
        self.read_findings()?;
        while let Some((id, waiting)) = self.next() {
            self.submit(id, waiting).await?;
            self.save_position()?;
            self.read_findings()?;
        }
        self.save_position()
    }

    /// Adds the proofs of new findings to the queue, as long as it has room.
    fn read_findings(&mut self) -> Result<(), StoreError> {
        while !self.queue.is_full() {
            let page = self.follower.after(self.read_up_to)?;
            if page.is_empty() {
                break;
            }
            for (seq, finding) in page {
                self.read_up_to = seq;
                let Some(evidence) = finding.evidence.as_ref().filter(|_| is_wanted(&finding)) else { continue };
                if !self.ended.contains(&evidence.id) {
                    self.queue.add(evidence.id, evidence.kind, &finding, seq);
                }
            }
        }
        self.metrics.submissions_waiting.set(self.queue.len() as i64);
        Ok(())
    }

    /// Stores the position from which the next run has to read.
    fn save_position(&mut self) -> Result<(), StoreError> {
        let until = self.queue.oldest().map_or(self.read_up_to, |oldest| oldest.saturating_sub(1));
        if until > self.saved_up_to {
            self.store.put_submissions_looked_at(until)?;
            self.saved_up_to = until;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<(Root, WaitingProof)> {
        let now = (self.now)();
        if now < self.paused_until {
            return None;
        }
        let store = &self.store;
        // A finding that cannot be read counts as not included. Then the next proof waits, and the
        // error is reported elsewhere.
        let is_included = |finding| matches!(store.finding(finding), Ok(Some((_, found))) if found.included.is_some());
        self.queue.next(&self.network, self.slot(), now, is_included)
    }

    fn slot(&self) -> Slot {
        self.network.slot_at((self.now)().as_unix_ns())
    }

    /// Sends one proof and stores what happened.
    async fn submit(&mut self, id: Root, waiting: WaitingProof) -> Result<(), StoreError> {
        let Some(evidence) = self.store.evidence(id)? else {
            tracing::error!(evidence = %id, "a finding's proof is missing in the data directory and cannot be submitted");
            self.queue.done(id);
            return Ok(());
        };
        let now = (self.now)();
        let mut record = match self.tried.remove(&id) {
            Some(record) => record,
            None => {
                self.last_number += 1;
                Submission::new(self.last_number, waiting.finding, &evidence, now)
            }
        };
        if let Some(why) = self.not_needed(&waiting, &evidence).await? {
            return self.end(record, SubmissionState::NotNeeded, Some(&why));
        }
        record.attempts = record.attempts.saturating_add(1);
        record.last_attempt = now;
        self.store.put_submission(&record)?;
        self.queue.sent(record.kind, record.finding, self.slot());
        let answer = match evidence.kind {
            EvidenceKind::AttesterSlashing => self.nodes.submit_attester_slashing(evidence.fork, &evidence.json).await,
            EvidenceKind::ProposerSlashing => self.nodes.submit_proposer_slashing(evidence.fork, &evidence.json).await,
        };
        match answer {
            Ok(nodes) => {
                self.n_unanswered = 0;
                record.nodes = nodes;
                self.end(record, SubmissionState::Accepted, None)
            }
            Err(error) => self.failed(record, &error),
        }
    }

    /// Decides whether a failed attempt is final or is repeated.
    fn failed(&mut self, mut record: Submission, error: &NodeError) -> Result<(), StoreError> {
        let words = error.to_string();
        if error.is_already_there() {
            self.n_unanswered = 0;
            return self.end(record, SubmissionState::NotNeeded, Some(&words));
        }
        if error.is_refusal() {
            self.n_unanswered = 0;
            return self.end(record, SubmissionState::Refused, Some(&words));
        }
        let now = (self.now)();
        if error.is_breakdown() {
            self.n_unanswered = 0;
            if self.queue.broke_down(record.evidence, now) >= RetryPolicy::DEFAULT.max_refusals {
                return self.end(record, SubmissionState::Refused, Some(&words));
            }
        } else {
            self.n_unanswered = self.n_unanswered.saturating_add(1);
            self.paused_until = now.after(RetryPolicy::DEFAULT.pauses.pause(self.n_unanswered));
        }
        if self.n_unanswered <= 1 {
            tracing::warn!(evidence = %record.evidence, reason = words, "no node took a proof; it is submitted again");
        }
        self.metrics.submission_retries.inc();
        record.ends(SubmissionState::Pending, Some(&words));
        self.store.put_submission(&record)?;
        self.tried.insert(record.evidence, record);
        Ok(())
    }

    /// Stores a final result, and removes the proof from the queue.
    fn end(&mut self, mut record: Submission, state: SubmissionState, answer: Option<&str>) -> Result<(), StoreError> {
        record.ends(state, answer);
        self.store.put_submission(&record)?;
        let (evidence, kind, answer_text) = (record.evidence, record.kind.as_str(), answer.unwrap_or_default());
        match state {
            SubmissionState::Refused => {
                tracing::warn!(%evidence, kind, answer_text, "a node refuses a proof; it is not submitted again")
            }
            SubmissionState::NotNeeded => tracing::info!(%evidence, kind, answer_text, "a proof need not be submitted"),
            SubmissionState::Accepted | SubmissionState::Pending => {
                tracing::info!(%evidence, kind, nodes = record.nodes.join(", "), "proof submitted");
            }
        }
        self.metrics.submissions.with_label_values(&[state.as_str()]).inc();
        self.queue.done(evidence);
        self.ended.insert(evidence);
        Ok(())
    }

    /// Returns the reason why the proof need not be sent, if there is one.
    async fn not_needed(&self, waiting: &WaitingProof, evidence: &Evidence) -> Result<Option<String>, StoreError> {
        if let Some((_, Finding { included: Some(included), .. })) = self.store.finding(waiting.finding)? {
            return Ok(Some(format!("the block of slot {} has punished it", included.slot)));
        }
        let now = self.slot().epoch(self.network.preset());
        let accused = evidence.accused();
        for some in accused.chunks(ASKED_TOGETHER) {
            // A node that cannot answer this question may still accept the proof. If it is away,
            // the attempt itself reports that.
            let Ok(statuses) = self.nodes.validator_statuses(some).await else { return Ok(None) };
            if statuses.len() < some.len() || statuses.iter().any(|status| status.validator.is_slashable(now)) {
                return Ok(None);
            }
        }
        let why = "by the node's state everybody whom it accuses is slashed, withdrawable or not active";
        Ok((!accused.is_empty()).then(|| why.into()))
    }
}

/// Returns whether a block could punish the offence of this finding, as far as that was known when
/// the finding was recorded.
fn is_wanted(finding: &Finding) -> bool {
    finding.offence().is_some() && finding.punishable == Some(Punishable::Yes) && finding.included.is_none()
}
