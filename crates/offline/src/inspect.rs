//! Reads a data directory for display. Nothing is changed.

use consensus::{Network, Root, ValidatorIndex};
use evidence::{Evidence, Finding, Incident, Kind, Query, Store, Submission, SubmissionState};
use index::IndexView;
use std::collections::BTreeMap;
use std::path::Path;
use watcher::WatcherError;
use watcher::datadir::{self, ReadOnly};

/// Submissions read at once.
const PAGE: usize = 1024;

/// Counts incidents by kind and then by state.
pub(crate) fn count_incidents(incidents: &[Incident]) -> BTreeMap<Kind, BTreeMap<&'static str, u64>> {
    let mut counts = BTreeMap::<Kind, BTreeMap<&'static str, u64>>::new();
    for incident in incidents {
        *counts.entry(incident.kind.clone()).or_default().entry(incident.state.as_str()).or_default() += 1;
    }
    counts
}

/// A data directory as it is now, also while a watcher uses it. Nothing in it is changed.
pub struct Inspection {
    pub network: Network,
    store: Store,
    index: Option<IndexView>,
}

impl Inspection {
    /// Opens the databases read-only. The vote index may be missing.
    pub fn open(path: &Path) -> Result<Self, WatcherError> {
        let ReadOnly { network, store, index } = datadir::open_read_only(path)?;
        Ok(Self { network, store, index })
    }

    /// Returns the network, the findings and the vote index.
    pub fn into_parts(self) -> (Network, Store, Option<IndexView>) {
        (self.network, self.store, self.index)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the vote index. It is `None` if the index was moved away. The findings do not depend
    /// on it.
    pub fn index(&self) -> Option<&IndexView> {
        self.index.as_ref()
    }

    /// The one finding whose id begins with a text. `None` if there is none.
    ///
    /// # Errors
    /// The ids of several findings begin so.
    pub fn finding_named(&self, text: &str) -> Result<Option<Root>, WatcherError> {
        if let Ok(id) = text.parse() {
            return Ok(Some(id));
        }
        let wanted = text.trim_start_matches("0x").to_ascii_lowercase();
        let mut found = Vec::new();
        for row in self.store.all_findings() {
            let (_, finding) = row?;
            if finding.id.to_string()[2..].starts_with(&wanted) {
                found.push(finding.id);
            }
        }
        match found.len() {
            0 | 1 => Ok(found.pop()),
            n => Err(WatcherError::Usage(format!("the ids of {n} findings begin with {text:?}; give more of it"))),
        }
    }

    /// Returns a finding with its evidence.
    pub fn finding(&self, id: Root) -> Result<Option<(Finding, Option<Evidence>)>, WatcherError> {
        let Some((_, finding)) = self.store.finding(id)? else { return Ok(None) };
        let evidence = match &finding.evidence {
            Some(reference) => self.store.evidence(reference.id)?,
            None => None,
        };
        Ok(Some((finding, evidence)))
    }

    /// Returns the number of incidents by kind and then by state.
    pub fn incident_counts(&self) -> Result<BTreeMap<Kind, BTreeMap<&'static str, u64>>, WatcherError> {
        Ok(count_incidents(&self.store.all_incidents()?))
    }

    /// Returns the number of submissions by state. Every state is listed, even with zero.
    pub fn submission_counts(&self) -> Result<BTreeMap<&'static str, u64>, WatcherError> {
        let mut counts: BTreeMap<&'static str, u64> = SubmissionState::ALL.map(|state| (state.as_str(), 0)).into();
        self.each_submission(|one| *counts.entry(one.state.as_str()).or_default() += 1)?;
        Ok(counts)
    }

    /// Returns the record of the submission of this proof. It is `None` if the proof was never
    /// submitted.
    pub fn submission_of(&self, evidence: Root) -> Result<Option<Submission>, WatcherError> {
        let mut found = None;
        self.each_submission(|one| {
            if one.evidence == evidence {
                found = Some(one);
            }
        })?;
        Ok(found)
    }

    fn each_submission(&self, mut look: impl FnMut(Submission)) -> Result<(), WatcherError> {
        let mut after = 0;
        loop {
            let page = self.store.submissions_after(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            page.into_iter().for_each(&mut look);
        }
    }

    /// Returns the findings about one validator, at most `limit`.
    pub fn findings_of(&self, validator: ValidatorIndex, limit: usize) -> Result<Vec<Finding>, WatcherError> {
        let query = Query { validator: Some(validator), ..Query::default() };
        Ok(self.store.find(&query, limit)?.findings.into_iter().map(|(_, finding)| finding).collect())
    }
}
