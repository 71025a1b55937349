//! Records what a batch proved, in one write. Keeps what the disk refuses.

use super::Engine;
use crate::EngineError;
use crate::silence::{self, SilenceChange};
use consensus::Root;
use detect::monitor::SingleAnomaly;
use detect::offences::{InclusionChanges, SourceState};
use detect::{DetectorOutput, MonitorInput, Offender, ProvenConflict};
use evidence::{Changes, Evidence, Finding, Included, Recorded, Severity, StoreError, Time};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use verify::Verified;

/// Limit on findings that are kept in memory while the disk refuses them.
const MAX_OWED: usize = 16_384;

impl Engine {
    pub(super) fn find_and_record(&mut self, verified: &Verified, source: SourceState) -> Result<Vec<Recorded>, EngineError> {
        self.quota.turn_to(self.chain.now(), self.chain.network());
        let [of_operations, of_index] = self.find_offences(verified)?;
        let InclusionChanges { included, reopened } = self.inclusions.check_claims(&self.chain, source);
        let reopened = self.reopened(&reopened)?;
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        self.note_punished(&included, &of_operations, recorded_at)?;
        if !included.is_empty() || !reopened.is_empty() {
            self.publish_punished();
        }
        let rows: Vec<(Finding, Arc<Evidence>)> = detect::merge(of_operations, of_index)
            .into_iter()
            .map(|ProvenConflict { mut finding, evidence }| {
                finding.recorded_at = recorded_at;
                self.punished.mark(&mut finding, self.chain.network());
                if let Some(subject) = &mut finding.validator {
                    subject.labels = self.labels.labels().strings(subject.index);
                    // An operator who watches a key wants to know everything that it signs, even if
                    // it can lose nothing.
                    if self.labels.labels().is_watched(subject.index) {
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
                self.punished_offences.note_offence(finding);
                offenders.push(Offender { finding: finding.clone(), evidence: evidence.clone() });
            }
        }
        let peers = std::mem::take(&mut self.peer_news);
        let output = self.monitor.observe(&MonitorInput {
            verified,
            offenders: &offenders,
            included: &included,
            reopened: &reopened,
            peers: &peers,
            chain: &self.chain,
            labels: self.labels.labels(),
            received_until: self.received_until,
        });
        let mut inclusions: HashMap<_, _> = reopened.iter().map(|finding| (finding.id, None)).collect();
        inclusions.extend(included.iter().map(|(id, included)| (*id, Some(*included))));
        self.record(rows, inclusions, output, recorded_at)
    }

    /// Stores everything that follows from a batch, in one write.
    pub(super) fn record(
        &mut self,
        rows: Vec<(Finding, Arc<Evidence>)>,
        inclusions: HashMap<Root, Option<Included>>,
        mut output: DetectorOutput,
        recorded_at: Time,
    ) -> Result<Vec<Recorded>, EngineError> {
        for incident in &output.incidents {
            tracing::info!(kind = incident.kind.as_str(), state = incident.state.as_str(), id = %incident.id, "incident");
        }
        // Incidents are stored in their own column family. They are also recorded as findings if
        // there are alert routes.
        if !self.routes.is_empty() {
            output.anomalies.append(&mut output.announcements);
        }
        let mut findings: Vec<(Finding, Option<Arc<Evidence>>)> =
            rows.into_iter().map(|(finding, evidence)| (finding, Some(evidence))).collect();
        findings.extend(output.anomalies.into_iter().map(|anomaly| (Finding { recorded_at, ..anomaly }, None)));
        let mut checkpoints: Vec<(String, Vec<u8>)> =
            output.notes.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let rows = self.inclusions.rows();
        checkpoints.extend(rows.changed);
        self.open_incidents.count(&output.incidents);
        for (kind, n) in output.refused {
            self.metrics.incidents_refused.with_label_values(&[kind.as_str()]).inc_by(n);
        }
        let further_pairs = self.quota.take_counted(self.chain.now());
        let dropped_checkpoints = rows.dropped;
        let incidents = output.incidents;
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
    pub(super) fn write(&mut self, changes: Changes) -> Result<Vec<Recorded>, EngineError> {
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

    /// Records anomalies that were found outside of the traffic. What is recorded already changes
    /// nothing. What the disk refuses is written with the next batch.
    pub fn record_anomalies(&mut self, anomalies: Vec<SingleAnomaly>) -> Result<(), EngineError> {
        let output = self.monitor.report(anomalies, &self.chain, self.labels.labels());
        let recorded = self.record(Vec::new(), HashMap::new(), output, Time::from_unix_ns((self.clock)().0))?;
        for one in recorded.iter().filter(|one| one.first_time) {
            self.metrics.findings.with_label_values(&[one.finding.kind.as_str()]).inc();
        }
        self.metrics.outbox_pending.set(self.store.outbox_counts().pending as i64);
        Ok(())
    }

    /// Stores a change of a silence and tells every route about it.
    pub fn record_silence(&mut self, change: SilenceChange, now: Time) -> Result<(), StoreError> {
        let n_peers = u64::try_from(self.metrics.peers.get()).unwrap_or_default();
        let (incident, announcement) = silence::report(self.chain.network(), change, now, n_peers);
        let recorded_at = Time::from_unix_ns((self.clock)().0);
        self.open_incidents.count(std::slice::from_ref(&incident));
        // This is the same as for other incidents: an incident is also recorded as a finding only
        // if there are alert routes.
        let announcement = announcement.filter(|_| !self.routes.is_empty());
        let broadcasts = announcement.map(|finding| Finding { recorded_at, ..finding }).into_iter().collect();
        let recorded = self.store.apply(Changes { incidents: vec![incident], broadcasts, ..Changes::default() }, &self.routes)?;
        for one in recorded.iter().filter(|one| one.first_time) {
            self.metrics.findings.with_label_values(&[one.finding.kind.as_str()]).inc();
        }
        self.metrics.outbox_pending.set(self.store.outbox_counts().pending as i64);
        Ok(())
    }
}
