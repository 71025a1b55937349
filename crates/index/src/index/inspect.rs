//! Reading: what the index has stored of a validator, and counts of what it did.

use crate::newest_votes::NO_EPOCH;
use crate::storage::is_storable;
use crate::tables::{OutsideVotes, VoteSpan};
use crate::{Index, IndexError, StoredProposal, Walked};
use consensus::{AttestationData, Epoch, Root, Slot, ValidatorIndex};
use std::collections::HashSet;

/// What the index contains, and what it did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Validators with at least one vote.
    pub validators: u64,
    /// Members of the sums that were staged, including repeated ones.
    pub votes: u64,
    /// Votes that were new.
    pub new_votes: u64,
    /// Votes that could not be decided by the two newest votes of their validator.
    pub slow_votes: u64,
    pub proposals: u64,
    pub conflicts: u64,
    /// Votes with more contradicting pairs than are reported.
    pub pairs_over_cap: u64,
    /// Number of different attestation data that this index ever stored.
    pub different_data: u64,
    /// Votes of offenders that were not stored, because the list is full and the validator's share
    /// of the epoch is used up.
    pub votes_over_cap: u64,
    /// Headers that were not stored, because they exceed the limit of one proposer and slot, or the
    /// limit of far slots in one epoch.
    pub proposals_over_cap: u64,
    /// Sums that contain a validator index of 2^32 - 1 or more.
    pub refused_index: u64,
    /// Sums that were refused because 2^31 different data are stored.
    pub refused_data: u64,
    /// Shufflings that were not stored. Their votes are listed by validator index.
    pub refused_shufflings: u64,
    /// Rows that were stored without the peer that they came from, although it was known.
    pub refused_peers: u64,
    /// Sets of sums in memory.
    pub open_sets: u64,
    /// Size of the tables on disk in bytes, without the log.
    pub table_bytes: u64,
}

/// What the index holds, whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Holdings {
    /// Validators with at least one vote.
    pub validators: u64,
    /// Different attestation data met, in all the time of this index.
    pub different_data: u64,
    /// Bytes of tables on disk, without the log.
    pub table_bytes: u64,
}

/// One stored vote of a validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownVote {
    pub data: AttestationData,
    /// Hash-tree-root of `data`.
    pub data_root: Root,
    /// True if the vote contradicted another one when it came, or is for a far future, or has an
    /// epoch of 2^32 - 1 or more.
    pub outside_chain: bool,
}

/// Epochs without a vote between two votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteGap {
    pub first: Epoch,
    pub last: Epoch,
}

/// What is stored of one validator's votes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VotesOf {
    /// The votes, ordered by target epoch and then by the arrival of their data.
    pub votes: Vec<KnownVote>,
    pub gaps: Vec<VoteGap>,
    /// True if the validator contradicted itself at some time.
    pub offender: bool,
}

/// Number of proposals between two calls of `progress`.
const PROGRESS_EVERY: u64 = 1024;

/// The epochs of a walk through history, to compute its progress.
struct Span {
    first: Epoch,
    n_epochs: u64,
}

impl Span {
    /// The progress at epoch `end`. Epochs before and after the span count as its beginning and its
    /// end.
    fn walked_to(&self, end: Epoch) -> Walked {
        Walked { done: end.as_u64().saturating_sub(self.first.as_u64()).min(self.n_epochs), total: self.n_epochs }
    }
}

impl Index {
    /// Every stored vote of a validator. Of votes for a far future, only the 256 that are listed
    /// are included. Takes about 20 microseconds per epoch in which the validator voted.
    pub fn votes_of(&self, validator: ValidatorIndex) -> Result<VotesOf, IndexError> {
        self.votes_of_with_progress(validator, &mut |_| {})
    }

    /// Like [`Self::votes_of`]. `progress` is called with the progress every few epochs, and once
    /// at the end.
    pub fn votes_of_with_progress(
        &self,
        validator: ValidatorIndex,
        progress: &mut dyn FnMut(Walked),
    ) -> Result<VotesOf, IndexError> {
        let span = self.span()?;
        if !is_storable(validator) {
            return Ok(VotesOf::default());
        }
        let list = if self.newest.get(validator).has_exceptions() {
            self.offenders.read(&self.db, validator)?
        } else {
            OutsideVotes::default()
        };
        let mut all = VotesOf { offender: list.kinds != 0, ..VotesOf::default() };
        let mut from = Epoch::new(0);
        while let Some((first, end)) = self.summary.block_from(&self.db, validator, from)? {
            for epoch in (first.as_u64()..end.as_u64()).map(Epoch::new) {
                for known in self.votes_at(validator, epoch)? {
                    self.push_known(&mut all, &known, list.has(known.handle))?;
                }
            }
            from = end;
            progress(span.walked_to(end));
        }
        progress(span.walked_to(Epoch::MAX));
        let listed: HashSet<Root> = all.votes.iter().filter(|vote| vote.outside_chain).map(|vote| vote.data_root).collect();
        let mut far = list.votes.clone();
        far.sort_by_key(|vote| vote.handle);
        for vote in &far {
            if let Some(row) = self.data.row(&self.db, vote.target, vote.handle)?.filter(|row| !listed.contains(&row.root)) {
                all.votes.push(KnownVote { data: row.data, data_root: row.root, outside_chain: true });
            }
        }
        // Far votes are added last. The sort is stable, so votes for one target stay in the order
        // in which their data arrived.
        all.votes.sort_by_key(|vote| vote.data.target.epoch);
        let targets = all.votes.iter().map(|vote| vote.data.target.epoch);
        for (one, next) in targets.clone().zip(targets.skip(1)) {
            let (first, last) = (one.saturating_add(1), next.saturating_sub(1));
            if first <= last && first < next {
                all.gaps.push(VoteGap { first, last });
            }
        }
        Ok(all)
    }

    /// Every stored proposal of a validator, ordered by slot. Reads the proposals of the whole
    /// history.
    pub fn proposals_of(&self, validator: ValidatorIndex) -> Result<Vec<StoredProposal>, IndexError> {
        self.proposals_where(|proposer| proposer == validator, &mut |_| {})
    }

    /// Every stored proposal of the wanted validators, ordered by slot. Reads the proposals of the
    /// whole history once. `progress` is called with the progress from time to time, and once at
    /// the end.
    pub fn proposals_where(
        &self,
        wanted: impl Fn(ValidatorIndex) -> bool,
        progress: &mut dyn FnMut(Walked),
    ) -> Result<Vec<StoredProposal>, IndexError> {
        let span = self.span()?;
        let (mut found, mut n_read) = (Vec::new(), 0u64);
        self.proposals_between(Slot::new(0), Slot::MAX, |proposal| {
            n_read += 1;
            if n_read.is_multiple_of(PROGRESS_EVERY) {
                progress(span.walked_to(Epoch::new(proposal.header.slot.as_u64() / self.shape.slots_per_epoch)));
            }
            if wanted(proposal.header.proposer_index) {
                found.push(proposal);
            }
        })?;
        progress(span.walked_to(Epoch::MAX));
        found.sort_by_key(|proposal| (proposal.header.slot, proposal.root));
        Ok(found)
    }

    /// The first and the last target epoch for which votes are stored, of any validator. Epochs of
    /// 2^32 - 1 or more are not included. `None` if there are none.
    pub fn epochs_held(&self) -> Result<Option<(Epoch, Epoch)>, IndexError> {
        let reader = self.epoch_reader();
        let first = reader.first_epoch_from(Epoch::new(0))?.filter(|first| *first < NO_EPOCH);
        let last = reader.last_epoch_before(NO_EPOCH)?;
        Ok(first.zip(last))
    }

    /// The span from the first epoch with votes to the last one that is not in a far future.
    fn span(&self) -> Result<Span, IndexError> {
        let reader = self.epoch_reader();
        let first = reader.first_epoch_from(Epoch::new(0))?.unwrap_or_default();
        let last = reader.last_epoch_before(self.reach.saturating_add(1))?.unwrap_or_default();
        Ok(Span { first, n_epochs: last.as_u64().saturating_sub(first.as_u64()) + 1 })
    }

    /// What the index contains, and what it did since it was opened.
    pub fn stats(&self) -> Stats {
        Stats {
            validators: self.newest.n_validators,
            different_data: u64::from(self.data.next_handle),
            refused_shufflings: self.shufflings.n_refused,
            refused_peers: self.peers.n_refused,
            open_sets: self.sets.len() as u64,
            table_bytes: self.db.table_bytes(),
            ..self.counted
        }
    }

    fn push_known(&self, all: &mut VotesOf, vote: &VoteSpan, outside_chain: bool) -> Result<(), IndexError> {
        if let Some(row) = self.data.row(&self.db, vote.target, vote.handle)? {
            all.votes.push(KnownVote { data: row.data, data_root: row.root, outside_chain });
        }
        Ok(())
    }
}
