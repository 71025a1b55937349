//! A read-only view of an index, without owning it. The index may be open in another process, or it
//! may be a copy. Nothing in it is changed.

use super::shape::check_shape_of_view;
use crate::storage::Db;
use crate::{Holdings, Index, IndexError, KnownVote, Shape, Stats, StoredProposal, VotesOf, Walked};
use consensus::{Epoch, ValidatorIndex};
use std::collections::BTreeSet;
use std::path::Path;

/// How often opening is tried. The owner may delete a file after it was listed and before it was
/// opened.
const ATTEMPTS: usize = 5;

/// The index as it was when the view was opened. Only committed votes are included.
pub struct IndexView(Index);

impl IndexView {
    /// Opens a view of the index in `dir`. `shape.history_epochs` has no effect here.
    pub fn open(dir: &Path, shape: Shape) -> Result<Self, IndexError> {
        let mut attempt = 1;
        loop {
            match Self::try_open(dir, shape) {
                // Real damage is found again at the next attempt. What only looks like damage,
                // because the owner is writing, is not.
                Err(IndexError::Corrupt { .. } | IndexError::Storage { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn try_open(dir: &Path, shape: Shape) -> Result<Self, IndexError> {
        let db = Db::open_read_only(dir)?;
        let format = check_shape_of_view(&db, &shape)?;
        Index::load(db, shape, format).map(Self)
    }

    /// See [`Index::votes_of_with_progress`].
    pub fn votes_of(&self, validator: ValidatorIndex, progress: &mut dyn FnMut(Walked)) -> Result<VotesOf, IndexError> {
        self.0.votes_of_with_progress(validator, progress)
    }

    /// See [`Index::votes_of_several`].
    pub fn votes_of_several(
        &self,
        validators: &BTreeSet<ValidatorIndex>,
        visit: &mut dyn FnMut(ValidatorIndex, &KnownVote),
        progress: &mut dyn FnMut(Walked),
    ) -> Result<(), IndexError> {
        self.0.votes_of_several(validators, visit, progress)
    }

    /// Like [`Index::proposals_of`]. `progress` gets the progress as in [`Index::proposals_where`].
    pub fn proposals_of(
        &self,
        validator: ValidatorIndex,
        progress: &mut dyn FnMut(Walked),
    ) -> Result<Vec<StoredProposal>, IndexError> {
        self.0.proposals_where(|proposer| proposer == validator, progress)
    }

    /// See [`Index::proposals_where`].
    pub fn proposals_where(
        &self,
        wanted: impl Fn(ValidatorIndex) -> bool,
        progress: &mut dyn FnMut(Walked),
    ) -> Result<Vec<StoredProposal>, IndexError> {
        self.0.proposals_where(wanted, progress)
    }

    /// The index behind the view, for readers that take a live index or a recorded one.
    pub fn index(&self) -> &Index {
        &self.0
    }

    /// See [`Index::epochs_held`].
    pub fn epochs_held(&self) -> Result<Option<(Epoch, Epoch)>, IndexError> {
        self.0.epochs_held()
    }

    /// The contents of the index. Counts since opening are left out, because a view does no work
    /// that is counted.
    pub fn holdings(&self) -> Holdings {
        let Stats { validators, different_data, table_bytes, .. } = self.0.stats();
        Holdings { validators, different_data, table_bytes }
    }
}
