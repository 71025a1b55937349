//! A read-only look at a data directory, for people.

use crate::datadir::{self, DataDirError};
use crate::error::PipelineError;
use consensus::{Network, Root, ValidatorIndex};
use evidence::{Evidence, Finding, Query, Store};
use index::{IndexView, Shape};
use std::path::Path;

/// A data directory as it is now, also while a watcher is at work in it. Nothing in it is changed.
pub struct Inspection {
    pub network: Network,
    store: Store,
    index: Option<IndexView>,
}

impl Inspection {
    pub fn open(path: &Path) -> Result<Self, PipelineError> {
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
    pub fn finding(&self, id: Root) -> Result<Option<(Finding, Option<Evidence>)>, PipelineError> {
        let Some((_, finding)) = self.store.finding(id)? else { return Ok(None) };
        let evidence = match &finding.evidence {
            Some(reference) => self.store.evidence(reference.id)?,
            None => None,
        };
        Ok(Some((finding, evidence)))
    }

    /// Findings about one validator, up to `limit`.
    pub fn findings_of(&self, validator: ValidatorIndex, limit: usize) -> Result<Vec<Finding>, PipelineError> {
        let query = Query { validator: Some(validator), ..Query::default() };
        Ok(self.store.find(&query, limit)?.findings.into_iter().map(|(_, finding)| finding).collect())
    }
}
