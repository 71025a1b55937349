//! Deletes findings that cannot be punished some time after they were recorded, together with their
//! proofs. Whoever holds the key of a validator that has left can commit any number of offences for
//! nothing, and must not be able to fill the disk with them.
//!
//! Findings are numbered in the order of recording. A cursor follows them at a distance and looks
//! at each finding once. It is the checkpoint [`CURSOR`], which holds the last number that was
//! looked at. Findings that may still be punished and findings of watched keys stay for good. A
//! finding with a delivery that is pending when the cursor comes by is deleted when its last
//! delivery ends. The newest finding stays as long as it is the newest, because the next number
//! follows from its number.

use crate::keys::{CHECKPOINTS, DELIVERIES, EVIDENCE, FINDING_IDS, FINDINGS, Key};
use crate::store::listed_under;
use crate::{DeliveryId, Finding, Kind, Query, Store, StoreError, Time};
use consensus::Root;
use rocksdb::WriteBatch;
use std::collections::HashSet;

/// Name of the checkpoint that holds the cursor, as u64 BE.
const CURSOR: &str = "expired_to";
/// Limit on the findings that one call looks at.
const MAX_SCANNED: usize = 1_024;
/// Number of findings that are read at once.
const PAGE: usize = 64;
/// Limit on the accused validators whose findings are searched for another use of the same
/// evidence. Evidence that accuses more validators is kept for good.
const MAX_ASKED: usize = 64;

impl Store {
    /// Deletes findings that cannot be punished ([`Finding::is_worthless`]) and were recorded
    /// before `before`, in one atomic, synced write. One call looks at [`MAX_SCANNED`] findings at
    /// most and goes on where the last call ended. Returns how many findings were deleted.
    pub fn expire(&self, before: Time) -> Result<usize, StoreError> {
        let mut writer = self.lock_writer()?;
        let from = self.expired_to()?;
        let mut to = from;
        let mut batch = WriteBatch::default();
        let mut deleted = HashSet::new();
        let mut n_scanned = 0;
        'scan: while n_scanned < MAX_SCANNED {
            let page = self.findings_after(to, PAGE)?;
            if page.is_empty() {
                break;
            }
            for (seq, finding) in page {
                if seq >= writer.last_seq || finding.recorded_at >= before {
                    break 'scan;
                }
                to = seq;
                n_scanned += 1;
                if finding.is_worthless() && !self.deliveries_of(seq)?.iter().any(|(_, delivery)| delivery.is_pending()) {
                    deleted.insert(seq);
                    self.delete_finding(seq, &finding, &deleted, &mut batch)?;
                }
            }
        }
        if to > from {
            batch.put_cf(&self.family(CHECKPOINTS), CURSOR, to.to_be_bytes());
            let next = *writer;
            self.commit(&mut writer, next, batch)?;
        }
        Ok(deleted.len())
    }

    /// Deletes the finding of a delivery that ends in this batch, if the cursor has passed the
    /// finding and only this delivery has kept it.
    pub(crate) fn expire_with_last_delivery(&self, ended: &DeliveryId, batch: &mut WriteBatch) -> Result<(), StoreError> {
        if !self.may_be_expired(ended.seq)? {
            return Ok(());
        }
        let mut others = self.deliveries_of(ended.seq)?;
        others.retain(|(route, _)| *route != ended.route);
        if others.iter().any(|(_, delivery)| delivery.is_pending()) {
            return Ok(());
        }
        match self.finding_at(ended.seq)? {
            Some(finding) if finding.is_worthless() => {
                self.delete_finding(ended.seq, &finding, &HashSet::from([ended.seq]), batch)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the finding with this number may have been deleted.
    pub(crate) fn may_be_expired(&self, seq: u64) -> Result<bool, StoreError> {
        Ok(seq <= self.expired_to()?)
    }

    fn expired_to(&self) -> Result<u64, StoreError> {
        let Some(bytes) = self.checkpoint(CURSOR)? else { return Ok(0) };
        Key::trailing_seq(&bytes).ok_or_else(|| self.damaged("the number up to which findings have expired"))
    }

    /// `deleted` holds the numbers of all findings that this batch deletes.
    fn delete_finding(
        &self,
        seq: u64,
        finding: &Finding,
        deleted: &HashSet<u64>,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        batch.delete_cf(&self.family(FINDINGS), Key::seq(seq));
        batch.delete_cf(&self.family(FINDING_IDS), finding.id);
        for (family, key) in listed_under(seq, finding) {
            batch.delete_cf(&self.family(family), key);
        }
        for (route, _) in self.deliveries_of(seq)? {
            batch.delete_cf(&self.family(DELIVERIES), Key::delivery(seq, &route));
        }
        if let Some(evidence) = &finding.evidence
            && !self.is_needed(evidence.id, &finding.kind, deleted)?
        {
            batch.delete_cf(&self.family(EVIDENCE), evidence.id);
        }
        Ok(())
    }

    /// Whether another finding refers to this evidence. One proof may accuse many validators.
    fn is_needed(&self, evidence: Root, kind: &Kind, deleted: &HashSet<u64>) -> Result<bool, StoreError> {
        let accused = self.evidence(evidence)?.map(|evidence| evidence.accused()).unwrap_or_default();
        if accused.len() > MAX_ASKED {
            return Ok(true);
        }
        for validator in accused {
            let mut query = Query { validator: Some(validator), kind: Some(kind.clone()), ..Query::default() };
            loop {
                let page = self.find(&query, MAX_SCANNED)?;
                let refers = |finding: &Finding| finding.evidence.as_ref().is_some_and(|reference| reference.id == evidence);
                if page.findings.iter().any(|(seq, finding)| !deleted.contains(seq) && refers(finding)) {
                    return Ok(true);
                }
                match page.next {
                    Some(next) => query.after = next,
                    None => break,
                }
            }
        }
        Ok(false)
    }
}
