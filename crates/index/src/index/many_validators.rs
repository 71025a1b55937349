//! Reads stored votes of many validators at once: epoch by epoch instead of validator by validator.
//!
//! To find one validator's seat takes 90 hashes per epoch on mainnet, and then rows are read for
//! this validator alone. For thousands of validators, the epoch's whole order is computed once (40
//! ms per million validators), and every row is decoded once and searched for all validators that
//! can be in it.

use crate::newest_votes::NO_EPOCH;
use crate::storage::{Cf, SetKey, is_storable, last_of_epoch};
use crate::sums::SumSet;
use crate::tables::OutsideVotes;
use crate::{Index, IndexError, KnownVote};
use consensus::{Epoch, ShufflingId, ValidatorIndex};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Fewer validators than this are looked up one by one.
const AT_LEAST: usize = 64;

/// The progress of a walk through history, in epochs. If validators are walked one by one, the
/// epochs of each validator are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    pub done: u64,
    pub total: u64,
}

impl Index {
    /// Visits every stored vote of these validators. The votes of each validator come in the order
    /// of [`Index::votes_of`]. `progress` is called from time to time with the progress. This takes
    /// about 20 microseconds per validator and epoch for few validators. For thousands of
    /// validators on mainnet it takes about 50 ms per epoch.
    pub fn votes_of_several(
        &self,
        validators: &BTreeSet<ValidatorIndex>,
        visit: &mut dyn FnMut(ValidatorIndex, &KnownVote),
        progress: &mut dyn FnMut(Walked),
    ) -> Result<(), IndexError> {
        if validators.len() < AT_LEAST {
            return self.one_by_one(validators, visit, progress);
        }
        self.by_epoch(validators, visit, progress)
    }

    fn one_by_one(
        &self,
        validators: &BTreeSet<ValidatorIndex>,
        visit: &mut dyn FnMut(ValidatorIndex, &KnownVote),
        progress: &mut dyn FnMut(Walked),
    ) -> Result<(), IndexError> {
        let n = validators.len() as u64;
        for (nth, validator) in (0..).zip(validators) {
            let mut progress = |one: Walked| progress(Walked { done: nth * one.total + one.done, total: n * one.total });
            for vote in self.votes_of_with_progress(*validator, &mut progress)?.votes {
                visit(*validator, &vote);
            }
        }
        Ok(())
    }

    fn by_epoch(
        &self,
        validators: &BTreeSet<ValidatorIndex>,
        visit: &mut dyn FnMut(ValidatorIndex, &KnownVote),
        progress: &mut dyn FnMut(Walked),
    ) -> Result<(), IndexError> {
        let wanted: Vec<ValidatorIndex> = validators.iter().copied().filter(|one| is_storable(*one)).collect();
        let mut lists: BTreeMap<ValidatorIndex, OutsideVotes> = BTreeMap::new();
        for validator in wanted.iter().copied().filter(|validator| self.newest.get(*validator).has_exceptions()) {
            lists.insert(validator, self.offenders.read(&self.db, validator)?);
        }
        let outside = |validator: ValidatorIndex, handle: u32| lists.get(&validator).is_some_and(|list| list.has(handle));
        let reader = self.epoch_reader();
        let last = reader.last_epoch_before(NO_EPOCH)?.unwrap_or_default().as_u64();
        let mut next = reader.first_epoch_from(Epoch::new(0))?;
        let first = next.unwrap_or_default().as_u64();
        while let Some(epoch) = next.filter(|epoch| *epoch < NO_EPOCH) {
            for (validator, handle) in self.voted_at(epoch, &wanted)? {
                self.visit_known(validator, epoch, handle, outside(validator, handle), visit)?;
            }
            progress(Walked { done: epoch.as_u64() - first + 1, total: last.saturating_sub(first) + 1 });
            next = reader.first_epoch_from(epoch.saturating_add(1))?;
        }
        for (validator, list) in &lists {
            for vote in list.beyond_newest() {
                self.visit_known(*validator, vote.target, vote.handle, true, visit)?;
            }
        }
        Ok(())
    }

    fn visit_known(
        &self,
        validator: ValidatorIndex,
        epoch: Epoch,
        handle: u32,
        outside_chain: bool,
        visit: &mut dyn FnMut(ValidatorIndex, &KnownVote),
    ) -> Result<(), IndexError> {
        if let Some(row) = self.data.row(&self.db, epoch, handle)? {
            visit(validator, &KnownVote { data: row.data, data_root: row.root, outside_chain });
        }
        Ok(())
    }

    /// The (validator, data handle) pairs of the validators in `wanted` that voted for this target.
    /// `wanted` must be ascending. The result is ascending and without repetition.
    fn voted_at(&self, epoch: Epoch, wanted: &[ValidatorIndex]) -> Result<BTreeSet<(ValidatorIndex, u32)>, IndexError> {
        // By shuffling and slot: the positions with their validators.
        let mut seats: HashMap<(ShufflingId, u16), Vec<(u32, ValidatorIndex)>> = HashMap::new();
        for seating in self.shufflings.of_epoch(&self.db, epoch)?.iter() {
            for (slot, position, validator) in seating.locate_all(wanted) {
                seats.entry((seating.id, slot)).or_default().push((position, validator));
            }
        }
        let listed: Vec<(u32, ValidatorIndex)> = wanted.iter().map(|one| (one.as_u64() as u32, *one)).collect();
        let mut voted = BTreeSet::new();
        let mut add = |key: &SetKey, set: &SumSet| {
            let members = match key.shuffling {
                Some(id) => seats.get(&(id, key.slot)).map_or(&[][..], Vec::as_slice),
                None => &listed,
            };
            voted.extend(members.iter().filter(|(member, _)| set.covers(*member)).map(|(_, validator)| (*validator, key.handle)));
        };
        let first = SetKey::listed(epoch, 0);
        let mut rows = Vec::new();
        self.db.scan(Cf::Votes, &first.to_bytes(), &last_of_epoch(epoch), |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(true)
        })?;
        let unreadable = || self.db.corrupt(format!("a vote row of epoch {epoch} does not parse"));
        for (key, value) in rows {
            let key = SetKey::from_bytes(&key).ok_or_else(unreadable)?;
            if self.sets.contains_key(&key) {
                continue;
            }
            let geometry = self.seating_of(&key)?.map(|seating| seating.geometry);
            add(&key, &SumSet::decode(&value, &key, geometry.as_ref()).ok_or_else(unreadable)?);
        }
        for (key, set) in self.sets.range(first..).take_while(|(key, _)| key.epoch == epoch) {
            add(key, set);
        }
        Ok(voted)
    }
}
