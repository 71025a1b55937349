//! A read-only look at a data directory, for people.

use consensus::{Network, Root, ValidatorIndex};
use evidence::{Evidence, Finding, Incident, Kind, Query, Store, Submission, SubmissionState};
use index::{IndexView, Shape};
use std::collections::BTreeMap;
use std::path::Path;
use watcher::WatcherError;
use watcher::datadir::{self, DataDirError};

/// Submissions read in one go.
const PAGE: usize = 1024;

/// Incidents by kind and then by state.
pub(crate) fn count_incidents(incidents: &[Incident]) -> BTreeMap<Kind, BTreeMap<&'static str, u64>> {
    let mut counts = BTreeMap::<Kind, BTreeMap<&'static str, u64>>::new();
    for incident in incidents {
        *counts.entry(incident.kind.clone()).or_default().entry(incident.state.as_str()).or_default() += 1;
    }
    counts
}

/// A data directory as it is now, also while a watcher is at work in it. Nothing in it is changed.
pub struct Inspection {
    pub network: Network,
    store: Store,
    index: Option<IndexView>,
}

impl Inspection {
    pub fn open(path: &Path) -> Result<Self, WatcherError> {
        let network = datadir::read_network(path)?.ok_or_else(|| DataDirError::NotOne(path.into()))?;
        let store = Store::open_read_only(&path.join("evidence"))?;
        let shape = Shape {
            genesis_validators_root: network.genesis_validators_root,
            slots_per_epoch: network.preset().slots_per_epoch,
            history_epochs: Shape::DEFAULT_HISTORY_EPOCHS,
        };
        let votes = path.join("index");
        let index = votes.exists().then(|| IndexView::open(&votes, shape)).transpose()?;
        Ok(Self { network, store, index })
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// `None` if it was moved away, which leaves the findings as they were.
    pub fn index(&self) -> Option<&IndexView> {
        self.index.as_ref()
    }

    /// A finding with its evidence.
    pub fn finding(&self, id: Root) -> Result<Option<(Finding, Option<Evidence>)>, WatcherError> {
        let Some((_, finding)) = self.store.finding(id)? else { return Ok(None) };
        let evidence = match &finding.evidence {
            Some(reference) => self.store.evidence(reference.id)?,
            None => None,
        };
        Ok(Some((finding, evidence)))
    }

    /// How many incidents there are, by kind and then by state.
    pub fn incident_counts(&self) -> Result<BTreeMap<Kind, BTreeMap<&'static str, u64>>, WatcherError> {
        Ok(count_incidents(&self.store.all_incidents()?))
    }

    /// How often the submission of a proof ended how; all states, none left out.
    pub fn submission_counts(&self) -> Result<BTreeMap<&'static str, u64>, WatcherError> {
        let mut counts: BTreeMap<&'static str, u64> = SubmissionState::ALL.map(|state| (state.as_str(), 0)).into();
        self.each_submission(|one| *counts.entry(one.state.as_str()).or_default() += 1)?;
        Ok(counts)
    }

    /// What became of handing this proof to the beacon nodes; `None` if it was never tried.
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

    /// Findings about one validator, up to `limit`.
    pub fn findings_of(&self, validator: ValidatorIndex, limit: usize) -> Result<Vec<Finding>, WatcherError> {
        let query = Query { validator: Some(validator), ..Query::default() };
        Ok(self.store.find(&query, limit)?.findings.into_iter().map(|(_, finding)| finding).collect())
    }
}
