//! Reads whole epochs of rows as lists of validators. The validators behind a row's bits follow
//! from the epoch's shuffling, which is computed again (about 0.04 s per million validators and
//! epoch).

use crate::IndexError;
use crate::committees::ShufflingTable;
use crate::storage::{Cf, Db, SetKey, last_of_epoch, ones};
use crate::sums::{SetMembers, SumSet};
use crate::tables::{DataRow, DataTable};
use consensus::{Epoch, ShufflingId, ValidatorIndex};
use std::collections::{BTreeMap, HashMap};

/// The contents of one epoch's rows.
pub(crate) struct EpochVotes {
    pub epoch: Epoch,
    /// For each row: its data and the validators that voted for it. A validator may be there twice,
    /// in two sums, or by seat and by list.
    pub rows: Vec<(DataRow, Vec<ValidatorIndex>)>,
    /// All validators that voted, in ascending order.
    pub voters: Vec<ValidatorIndex>,
}

/// Access to all rows, on disk and in memory.
pub(crate) struct EpochReader<'a> {
    pub db: &'a Db,
    pub shufflings: &'a ShufflingTable,
    pub data: &'a DataTable,
    pub sets: &'a BTreeMap<SetKey, SumSet>,
}

impl EpochReader<'_> {
    /// The first epoch with rows, from `epoch` on.
    pub fn first_epoch_from(&self, epoch: Epoch) -> Result<Option<Epoch>, IndexError> {
        let from = SetKey::listed(epoch, 0);
        let in_memory = self.sets.range(from..).next().map(|(key, _)| key.epoch);
        let mut on_disk = None;
        self.db.scan(Cf::Votes, &from.to_bytes(), &[0xff; SetKey::LEN], |key, _| {
            on_disk = SetKey::from_bytes(key).map(|key| key.epoch);
            Ok(false)
        })?;
        Ok(match (in_memory, on_disk) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    /// The last epoch with rows before `epoch`.
    pub fn last_epoch_before(&self, epoch: Epoch) -> Result<Option<Epoch>, IndexError> {
        let before = SetKey::listed(epoch, 0);
        let in_memory = self.sets.range(..before).next_back().map(|(key, _)| key.epoch);
        let on_disk = self.db.last_before(Cf::Votes, &before.to_bytes())?;
        let on_disk = on_disk.and_then(|key| SetKey::from_bytes(&key)).map(|key| key.epoch);
        Ok(in_memory.max(on_disk))
    }

    /// Whether an epoch has any rows.
    pub fn has_rows(&self, epoch: Epoch) -> Result<bool, IndexError> {
        Ok(self.first_epoch_from(epoch)? == Some(epoch))
    }

    /// Reads all rows of an epoch.
    pub fn votes_of_epoch(&self, epoch: Epoch) -> Result<EpochVotes, IndexError> {
        let (first, last) = (SetKey::listed(epoch, 0), last_of_epoch(epoch));
        let mut orders = HashMap::new();
        let mut votes = EpochVotes { epoch, rows: Vec::new(), voters: Vec::new() };
        // An epoch's rows take about 0.3 MB.
        let mut rows = Vec::new();
        self.db.scan(Cf::Votes, &first.to_bytes(), &last, |key, value| {
            let key = SetKey::from_bytes(key).ok_or_else(|| self.db.corrupt("a vote row's key does not parse"))?;
            if !self.sets.contains_key(&key) {
                rows.push((key, value.to_vec()));
            }
            Ok(true)
        })?;
        for (key, value) in rows {
            let geometry = self.shufflings.of_set(self.db, &key)?.map(|seating| seating.geometry);
            let set = SumSet::decode(&value, &key, geometry.as_ref());
            let set = set.ok_or_else(|| self.db.corrupt(format!("a vote row of epoch {epoch} does not parse")))?;
            self.add_row(&mut votes, &mut orders, &key, &set)?;
        }
        for (key, set) in self.sets.range(first..).take_while(|(key, _)| key.epoch == epoch) {
            self.add_row(&mut votes, &mut orders, key, set)?;
        }
        let greatest = votes.rows.iter().flat_map(|(_, validators)| validators).max();
        let mut bits = vec![0u64; greatest.map_or(0, |greatest| greatest.as_u64() as usize / 64 + 1)];
        for validator in votes.rows.iter().flat_map(|(_, validators)| validators) {
            bits[validator.as_u64() as usize / 64] |= 1 << (validator.as_u64() % 64);
        }
        votes.voters = ones(bits.into_iter()).map(|index| ValidatorIndex::new(u64::from(index))).collect();
        Ok(votes)
    }

    /// Adds a row to `votes`. `orders` keeps the committee orders of this epoch.
    fn add_row(
        &self,
        votes: &mut EpochVotes,
        orders: &mut HashMap<ShufflingId, Vec<u32>>,
        key: &SetKey,
        set: &SumSet,
    ) -> Result<(), IndexError> {
        let Some(row) = self.data.row(self.db, key.epoch, key.handle)? else {
            return Err(self.db.corrupt(format!("the data of a vote row of epoch {} is missing", key.epoch)));
        };
        let seating = self.shufflings.of_set(self.db, key)?;
        let mut validators = Vec::new();
        for sum in &set.sums {
            match (&sum.members, &seating) {
                (SetMembers::Seats(bits), Some(seating)) => {
                    let order = orders.entry(seating.id).or_insert_with(|| seating.order());
                    validators.extend(seating.members_in(order, key.slot, bits.iter()));
                }
                (SetMembers::Listed(list), _) => {
                    validators.extend(list.iter().map(|index| ValidatorIndex::new(u64::from(*index))))
                }
                (SetMembers::Seats(_), None) => {}
            }
        }
        votes.rows.push((row, validators));
        Ok(())
    }
}
