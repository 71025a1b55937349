//! Old epochs: deletes them with one range delete per table, and folds them.

use crate::epochs::EpochReader;
use crate::newest_votes::NO_EPOCH;
use crate::storage::{Cf, Db, SetKey, data_key, last_of_epoch, shuffling_key};
use crate::{Index, IndexError};
use consensus::{Epoch, ShufflingId};

const FOLDED_KEY: &[u8] = b"folded";

impl Index {
    /// Deletes votes with a target before `before`, and proposals of the slots before that epoch.
    /// Commits what is staged first. Older votes may be added again later; they are judged like any
    /// other.
    pub fn prune(&mut self, before: Epoch) -> Result<(), IndexError> {
        // The log must not restore what is deleted here.
        self.commit_with(true)?;
        let near = before.min(NO_EPOCH.saturating_sub(1));
        let first = Epoch::new(0);
        let mut batch = self.db.batch();
        batch.delete_range(Cf::Votes, &SetKey::listed(first, 0).to_bytes(), &SetKey::listed(before, 0).to_bytes());
        batch.delete_range(Cf::Data, &data_key(first, 0), &data_key(before, 0));
        let none = ShufflingId([0; 8]);
        batch.delete_range(Cf::Shufflings, &shuffling_key(first, none), &shuffling_key(before, none));
        let first_slot = before.as_u64().saturating_mul(self.shape.slots_per_epoch);
        batch.delete_range(Cf::Proposals, &0u64.to_be_bytes(), &first_slot.to_be_bytes());
        self.summary.stage_prune(&mut batch, near);
        self.newest.forget(near);
        self.newest.stage_late(&mut batch);
        batch.write()?;
        self.newest.committed_late();
        self.data.forget(before);
        self.offenders.forget(before);
        self.shufflings.forget(before);
        self.neighbours.forget(near);
        self.arrivals.forget(near);
        self.sets.retain(|key, _| key.epoch >= before);
        self.epochs_seen.retain(|epoch, _| *epoch >= before);
        Ok(())
    }

    /// Folds the oldest epoch before `before` that is not folded yet. Folding adds up the
    /// committees that share their data, so that there is one signature per data and slot. An epoch
    /// then takes about 3 KB instead of 0.2 MB. The price is that a proof contains all voters of
    /// the slot. Returns `false` if there is no such epoch. An epoch of a million validators takes
    /// about 0.06 s.
    ///
    /// Rows that still grow are not folded. If votes are added to a folded epoch, the next call
    /// starts at that epoch again, but a restart in between forgets this.
    pub fn fold_next(&mut self, before: Epoch) -> Result<bool, IndexError> {
        let Self { db, shufflings, data, sets, .. } = self;
        let reader = EpochReader { db, shufflings, data, sets };
        let Some(epoch) = reader.first_epoch_from(self.folded_to)?.filter(|epoch| *epoch < before) else {
            return Ok(false);
        };
        let mut keys = Vec::new();
        self.db.scan(Cf::Votes, &SetKey::listed(epoch, 0).to_bytes(), &last_of_epoch(epoch), |key, _| {
            keys.extend(SetKey::from_bytes(key).filter(|key| key.shuffling.is_some()));
            Ok(true)
        })?;
        // A set that is only a copy of its row can be dropped. It is read again when it is needed.
        self.sets.retain(|key, set| key.epoch != epoch || !set.is_copy_of_row());
        keys.retain(|key| !self.sets.contains_key(key));
        let folded_to = epoch.saturating_add(1);
        let mut batch = self.db.batch();
        for key in &keys {
            let Some(mut set) = self.read_set(key)? else { continue };
            let geometry = self.seating_of(key)?.map(|seating| seating.geometry);
            let committees = set.sums.iter().filter_map(|sum| sum.committee);
            // Committees share a data only since Electra, whose attestations can contain the voters
            // of a whole slot.
            if committees.clone().min() == committees.max() {
                continue;
            }
            set.fold();
            batch.put(Cf::Votes, &key.to_bytes(), &set.encode(key, geometry.as_ref()));
        }
        batch.put(Cf::Meta, FOLDED_KEY, &folded_to.as_u64().to_be_bytes());
        batch.write()?;
        self.folded_to = folded_to;
        Ok(true)
    }
}

/// All epochs before the returned one are folded. 0 if there is no such row.
pub(crate) fn folded_to(db: &Db) -> Result<Epoch, IndexError> {
    let Some(value) = db.get(Cf::Meta, FOLDED_KEY)? else { return Ok(Epoch::new(0)) };
    let value = (*value).try_into().map_err(|_| db.corrupt("its row of folded epochs does not parse"))?;
    Ok(Epoch::new(u64::from_be_bytes(value)))
}
