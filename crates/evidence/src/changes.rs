//! Everything that one step of the watcher stores. It is written whole or not at all. After a crash
//! there is either no trace of a batch of messages, or everything that followed from it, including
//! the deliveries.

use crate::keys::{CHECKPOINTS, EVIDENCE, FINDINGS, Key};
use crate::outbox::{Priority, RouteFilter};
use crate::store::{Recorded, StoreWriter, to_json};
use crate::{Evidence, Finding, Incident, Included, Store, StoreError};
use consensus::{Root, ValidatorIndex};
use rocksdb::WriteBatch;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The changes of one step. The default is no change.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Findings with their evidence. Anomalies have no evidence. A finding whose id is already
    /// stored, or occurs earlier in this list, changes nothing.
    pub findings: Vec<(Finding, Option<Arc<Evidence>>)>,
    /// Findings without evidence that go to every route, whatever its filter. They are about the
    /// watcher itself.
    pub broadcasts: Vec<Finding>,
    /// The block that includes each finding from now on, by finding id. `None` means that no block
    /// does. Unknown ids are ignored.
    pub inclusions: HashMap<Root, Option<Included>>,
    /// Number of contradicting pairs that were counted and not listed, by the id of the finding
    /// that stands for them. Unknown ids are ignored.
    pub further_pairs: HashMap<Root, u64>,
    /// Incidents that changed. If one incident occurs several times, its last state is stored.
    pub incidents: Vec<Incident>,
    /// Checkpoints to store, by name.
    pub checkpoints: Vec<(String, Vec<u8>)>,
    /// Names of checkpoints to delete.
    pub dropped_checkpoints: Vec<String>,
}

/// The routes that get a delivery of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recipients {
    ByFilter,
    AllRoutes,
}

impl Changes {
    /// Joins two sets of changes. Where both change the same thing, the later one wins. Counts of
    /// further pairs are added.
    pub fn followed_by(mut self, later: Self) -> Self {
        self.findings.extend(later.findings);
        self.broadcasts.extend(later.broadcasts);
        self.inclusions.extend(later.inclusions);
        for (id, n) in later.further_pairs {
            *self.further_pairs.entry(id).or_default() += n;
        }
        self.incidents.extend(later.incidents);
        // A checkpoint that was dropped and then stored again must be kept, because deletions are
        // applied last.
        self.dropped_checkpoints.retain(|dropped| later.checkpoints.iter().all(|(name, _)| name != dropped));
        self.dropped_checkpoints.extend(later.dropped_checkpoints);
        self.checkpoints.extend(later.checkpoints);
        self
    }
}

impl Store {
    /// Stores all changes in one atomic, synced write, with one delivery of each new finding for
    /// each route that wants it. The result has a row for each finding, in order, and then one for
    /// each broadcast. On an error nothing is stored.
    pub fn apply(&self, changes: Changes, routes: &[RouteFilter]) -> Result<Vec<Recorded>, StoreError> {
        let Changes { findings, broadcasts, mut inclusions, mut further_pairs, incidents, checkpoints, dropped_checkpoints } =
            changes;
        let mut writer = self.lock_writer()?;
        let mut next = *writer;
        let mut batch = WriteBatch::default();
        let rows = findings.into_iter().map(|(finding, evidence)| (finding, evidence, Recipients::ByFilter));
        let rows = rows.chain(broadcasts.into_iter().map(|finding| (finding, None, Recipients::AllRoutes)));
        let recorded = self.stage_findings(rows, &mut inclusions, &mut further_pairs, routes, &mut batch, &mut next)?;
        let changed: HashSet<Root> = inclusions.keys().chain(further_pairs.keys()).copied().collect();
        for id in changed {
            let Some((seq, stored)) = self.finding(id)? else { continue };
            let mut finding = stored.clone();
            if let Some(included) = inclusions.get(&id) {
                finding.included = *included;
            }
            if let Some(n) = further_pairs.get(&id) {
                finding.add_further_pairs(*n);
            }
            next.inclusion_changes += u64::from(finding.included != stored.included);
            if finding != stored {
                batch.put_cf(&self.family(FINDINGS), Key::seq(seq), to_json(&finding));
            }
        }
        self.stage_incidents(&incidents, &mut batch, &mut next)?;
        for (name, bytes) in checkpoints {
            batch.put_cf(&self.family(CHECKPOINTS), name, bytes);
        }
        for name in dropped_checkpoints {
            batch.delete_cf(&self.family(CHECKPOINTS), name);
        }
        if batch.is_empty() {
            return Ok(recorded);
        }
        let has_news = next.last_seq > writer.last_seq || next.last_revision > writer.last_revision;
        self.commit(&mut writer, next, batch)?;
        drop(writer);
        if has_news {
            self.notify_listeners(next.last_seq);
        }
        Ok(recorded)
    }

    /// Removes the entries of the findings that it stores from `inclusions` and `further_pairs`.
    fn stage_findings(
        &self,
        rows: impl Iterator<Item = (Finding, Option<Arc<Evidence>>, Recipients)>,
        inclusions: &mut HashMap<Root, Option<Included>>,
        further_pairs: &mut HashMap<Root, u64>,
        routes: &[RouteFilter],
        batch: &mut WriteBatch,
        next: &mut StoreWriter,
    ) -> Result<Vec<Recorded>, StoreError> {
        let mut in_batch: HashMap<Root, usize> = HashMap::new();
        let mut offenders_in_batch: HashSet<ValidatorIndex> = HashSet::new();
        let mut evidence_in_batch: HashSet<Root> = HashSet::new();
        let mut recorded: Vec<Recorded> = Vec::new();
        for (mut finding, evidence, recipients) in rows {
            if let Some(nth) = in_batch.get(&finding.id) {
                recorded.push(Recorded { first_time: false, ..recorded[*nth].clone() });
                continue;
            }
            if let Some((seq, finding)) = self.finding(finding.id)? {
                recorded.push(Recorded { finding, seq, first_time: false });
                continue;
            }
            if let Some(included) = inclusions.remove(&finding.id) {
                finding.included = included;
            }
            if let Some(n) = further_pairs.remove(&finding.id) {
                finding.add_further_pairs(n);
            }
            next.inclusion_changes += u64::from(finding.included.is_some());
            next.last_seq += 1;
            let seq = next.last_seq;
            self.put_finding(batch, seq, &finding);
            // One piece of evidence may accuse thousands of validators of this batch. It is written
            // once.
            if let Some(evidence) = evidence
                && evidence_in_batch.insert(evidence.id)
                && self.get(EVIDENCE, evidence.id.as_slice())?.is_none()
            {
                batch.put_cf(&self.family(EVIDENCE), evidence.id, evidence.to_stored());
            }
            let receivers: Vec<&RouteFilter> =
                routes.iter().filter(|route| recipients == Recipients::AllRoutes || route.wants(&finding)).collect();
            let offender = finding.validator.as_ref().filter(|_| finding.offence().is_some()).map(|subject| subject.index);
            let is_first_here = offender.is_some_and(|validator| offenders_in_batch.insert(validator));
            if !receivers.is_empty() {
                let is_first = match offender {
                    Some(validator) => is_first_here && !self.is_offender(validator)?,
                    None => true,
                };
                let priority = match recipients {
                    Recipients::ByFilter => Priority::of(&finding, is_first),
                    Recipients::AllRoutes => Priority::Watched,
                };
                for route in receivers {
                    self.put_new_delivery(batch, seq, &route.route, priority, finding.recorded_at);
                    next.counts.pending += 1;
                }
            }
            in_batch.insert(finding.id, recorded.len());
            recorded.push(Recorded { finding, seq, first_time: true });
        }
        Ok(recorded)
    }
}
