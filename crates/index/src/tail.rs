//! Opening, the last part: newest votes and summary of the *tail*, the last epochs, from their rows.
//!
//! Who sits behind a row's bits follows from the epoch's shuffling, which is computed anew (some 0.04 s per million
//! validators and epoch): most of what opening costs. So threads read epochs and turn them into lists of validators, and the opening
//! thread takes those in. The order of epochs does not matter: the two newest are the two newest however they come.

use crate::codec::ones;
use crate::data::{DataRow, DataTable};
use crate::db::{Cf, Db};
use crate::heads::{NONE, Remembered};
use crate::keys::SetKey;
use crate::members::Members;
use crate::open::{last_of_epoch, seating_of};
use crate::shufflings::Table;
use crate::sums::SumSet;
use crate::{Index, IndexError};
use consensus::ShufflingId;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Threads that read epochs, at most; each holds up to 16 MB per million validators.
const MAX_READERS: usize = 4;

/// What one epoch's rows say.
struct EpochVotes {
    epoch: u32,
    /// Per row: its data and who voted for it. A validator may be there twice, in two sums or by seat and by list.
    rows: Vec<(DataRow, Vec<u32>)>,
    /// Everybody who voted, ascending.
    voters: Vec<u32>,
}

/// What the reading threads look at.
struct Shelf<'a> {
    db: &'a Db,
    table: &'a Table,
    data: &'a DataTable,
    sets: &'a BTreeMap<SetKey, SumSet>,
}

impl Index {
    /// Heads and summary of the last epochs.
    pub(crate) fn read_tail(&mut self) -> Result<(), IndexError> {
        let Self { db, table, data, sets, heads, summary, offenders, state, .. } = self;
        let shelf = Shelf { db, table, data, sets };
        let epochs = shelf.epochs_from(state.tail_from)?;
        let n_readers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_READERS).min(epochs.len());
        let next = AtomicUsize::new(0);
        let mut counts = Vec::new();
        std::thread::scope(|scope| {
            // Full when the opening thread has one epoch to take in: readers do not pile up more than they hold.
            let (sender, receiver) = sync_channel(1);
            for _ in 0..n_readers {
                let (sender, shelf, epochs, next) = (sender.clone(), &shelf, &epochs, &next);
                scope.spawn(move || {
                    while let Some(epoch) = epochs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let votes = shelf.votes_of_epoch(*epoch);
                        let failed = votes.is_err();
                        // Nobody receives any more after an error elsewhere.
                        if sender.send(votes).is_err() || failed {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for votes in receiver {
                let EpochVotes { epoch, rows, voters } = votes?;
                for (row, validators) in rows {
                    counts.push((row.target(), validators.len() as u64));
                    let Some(source) = u32::try_from(row.source()).ok().filter(|source| *source < NONE) else { continue };
                    let vote = Remembered { source, target: epoch, handle: row.handle };
                    let mut apart = Vec::new();
                    heads.observe_all(&validators, vote, &mut apart);
                    for validator in apart {
                        if !offenders.list(db, validator)?.has(row.handle) {
                            heads.observe(validator, vote, false);
                        }
                    }
                }
                summary.mark(db, epoch, &voters, false)?;
                summary.settle(db)?;
            }
            Ok(())
        })?;
        counts.into_iter().for_each(|(epoch, n_votes)| self.count_epoch(epoch, n_votes));
        Ok(())
    }
}

impl Shelf<'_> {
    /// Epochs with rows, on disk or still growing, that heads can name; ascending. Far ones are found through their
    /// validators' lists.
    fn epochs_from(&self, tail_from: u64) -> Result<Vec<u32>, IndexError> {
        let mut epochs = Vec::new();
        let mut from = tail_from;
        while let Some(epoch) =
            self.first_epoch_from(from)?.and_then(|epoch| u32::try_from(epoch).ok()).filter(|epoch| *epoch < NONE)
        {
            epochs.push(epoch);
            from = u64::from(epoch) + 1;
        }
        Ok(epochs)
    }

    fn first_epoch_from(&self, epoch: u64) -> Result<Option<u64>, IndexError> {
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

    fn votes_of_epoch(&self, epoch: u32) -> Result<EpochVotes, IndexError> {
        let (first, last) = (SetKey::listed(u64::from(epoch), 0), last_of_epoch(u64::from(epoch)));
        let mut orders = HashMap::new();
        let mut votes = EpochVotes { epoch, rows: Vec::new(), voters: Vec::new() };
        // An epoch's rows are about 0.3 MB.
        let mut rows = Vec::new();
        self.db.scan(Cf::Votes, &first.to_bytes(), &last, |key, value| {
            let key = SetKey::from_bytes(key).ok_or_else(|| self.db.corrupt("a vote row's key does not parse"))?;
            if !self.sets.contains_key(&key) {
                rows.push((key, value.to_vec()));
            }
            Ok(true)
        })?;
        for (key, value) in rows {
            let geometry = seating_of(self.db, self.table, &key)?.map(|seating| seating.geometry);
            let set = SumSet::decode(&value, &key, geometry.as_ref());
            let set = set.ok_or_else(|| self.db.corrupt(format!("a vote row of epoch {epoch} does not parse")))?;
            self.add_row(&mut votes, &mut orders, &key, &set)?;
        }
        for (key, set) in self.sets.range(first..).take_while(|(key, _)| key.epoch == u64::from(epoch)) {
            self.add_row(&mut votes, &mut orders, key, set)?;
        }
        let greatest = votes.rows.iter().flat_map(|(_, validators)| validators).max();
        let mut bits = vec![0u64; greatest.map_or(0, |greatest| *greatest as usize / 64 + 1)];
        for validator in votes.rows.iter().flat_map(|(_, validators)| validators) {
            bits[*validator as usize / 64] |= 1 << (validator % 64);
        }
        votes.voters = ones(bits.into_iter()).collect();
        Ok(votes)
    }

    /// `orders`: whole committee orders of this epoch.
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
        let seating = seating_of(self.db, self.table, key)?;
        let mut validators = Vec::new();
        for sum in &set.sums {
            match (&sum.members, &seating) {
                (Members::Seats(bits), Some(seating)) => {
                    let order = orders.entry(seating.id).or_insert_with(|| seating.order());
                    validators.extend(seating.members_in(order, key.slot, bits.iter()));
                }
                (Members::Listed(list), _) => validators.extend_from_slice(list),
                (Members::Seats(_), None) => {}
            }
        }
        votes.rows.push((row, validators));
        Ok(())
    }
}
