//! Hands the stored results of earlier runs to the detectors, without loading all of them at once.

use crate::silence::is_silence;
use consensus::Root;
use detect::watch::Labels;
use detect::{Left, Monitor, NOTES};
use evidence::{Evidence, Finding, Incident, IncidentState, Store, StoreError};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Largest number of findings that the detectors get. They get the newest ones.
const MAX_FINDINGS: u64 = 262_144;
/// Age limit of these findings, in epochs. A slashing that is older costs nobody anything more.
const MAX_AGE_EPOCHS: u64 = 8_192;
/// Number of findings that are read at once.
const PAGE: usize = 1_024;
/// Number of proofs that are cached. Findings of one proof are recorded one after the other.
const CACHED_PROOFS: usize = 8;

/// Everything that earlier runs stored, except the findings.
pub struct EarlierRuns {
    /// All stored incidents, open and closed.
    pub incidents: Vec<Incident>,
    notes: BTreeMap<String, Vec<u8>>,
}

impl EarlierRuns {
    /// Reads the incidents and the detectors' notes from the store.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        let mut notes = BTreeMap::new();
        for name in NOTES {
            if let Some(bytes) = store.checkpoint(name)? {
                notes.insert(name.to_owned(), bytes);
            }
        }
        Ok(Self { incidents: store.all_incidents()?, notes })
    }

    /// Returns true if this incident was closed in an earlier run.
    pub fn is_closed(&self, incident: &Incident) -> bool {
        self.incidents.iter().any(|known| known.id == incident.id && known.state == IncidentState::Closed)
    }

    /// Restores the monitor's state and shows `recall` the last findings, in the order of
    /// recording. The caller stores the monitor's output.
    pub fn hand_to(
        &self,
        monitor: &mut Monitor,
        recall: &mut dyn FnMut(&Finding),
        store: &Store,
        chain: &chain::Chain,
        labels: &Arc<Labels>,
    ) -> Result<detect::DetectorOutput, StoreError> {
        // The watcher itself reports a silence. No detector may continue or close such an incident.
        let of_detectors: Vec<Incident> = self.incidents.iter().filter(|incident| !is_silence(incident)).cloned().collect();
        let left = Left { incidents: &of_detectors, notes: &self.notes };
        let mut findings = LastFindings::of(store, chain)?;
        let proofs = CachedProofs { store, kept: RefCell::default() };
        let mut recalled = findings.by_ref().inspect(|finding| recall(finding));
        let mut output = monitor.restore(&left, &mut recalled, &|id| proofs.find(id), chain, labels);
        if let Some(error) = findings.failed {
            return Err(error);
        }
        // A closed incident stays as it was reported.
        output.incidents.retain(|incident| !self.is_closed(incident));
        Ok(output)
    }
}

/// The newest findings, oldest first, read one page at a time.
struct LastFindings<'a> {
    store: &'a Store,
    last: u64,
    page: VecDeque<(u64, Finding)>,
    failed: Option<StoreError>,
}

impl<'a> LastFindings<'a> {
    fn of(store: &'a Store, chain: &chain::Chain) -> Result<Self, StoreError> {
        let network = chain.network();
        let epoch_of = |finding: &Finding| {
            let seen = finding.second_seen.unwrap_or(finding.first_seen);
            network.slot_at(seen.as_unix_ns()).epoch(network.preset())
        };
        let newest = store.last_seq();
        let latest = store.finding_at(newest)?.map(|finding| epoch_of(&finding)).unwrap_or_default();
        // A binary search finds the first young finding. Findings are recorded in the order of
        // time, except for those that were filled in later. So the search may include some findings
        // that are too old.
        let (mut old, mut young) = (newest.saturating_sub(MAX_FINDINGS), newest);
        while old < young {
            let middle = old + (young - old) / 2;
            let is_old =
                store.finding_at(middle + 1)?.is_some_and(|finding| epoch_of(&finding).saturating_add(MAX_AGE_EPOCHS) < latest);
            (old, young) = if is_old { (middle + 1, young) } else { (old, middle) };
        }
        Ok(Self { store, last: old, page: VecDeque::new(), failed: None })
    }
}

impl Iterator for LastFindings<'_> {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        if self.page.is_empty() {
            match self.store.findings_after(self.last, PAGE) {
                Ok(rows) => self.page = rows.into(),
                Err(error) => self.failed = Some(error),
            }
        }
        let (seq, finding) = self.page.pop_front()?;
        self.last = seq;
        Some(finding)
    }
}

struct CachedProofs<'a> {
    store: &'a Store,
    kept: RefCell<VecDeque<Arc<Evidence>>>,
}

impl CachedProofs<'_> {
    fn find(&self, id: Root) -> Option<Arc<Evidence>> {
        let mut kept = self.kept.borrow_mut();
        if let Some(known) = kept.iter().find(|evidence| evidence.id == id) {
            return Some(known.clone());
        }
        // The detectors get nothing for a proof that cannot be read. The store reports the error
        // when somebody exports it.
        let evidence = Arc::new(self.store.evidence(id).ok().flatten()?);
        kept.truncate(CACHED_PROOFS - 1);
        kept.push_front(evidence.clone());
        Some(evidence)
    }
}
