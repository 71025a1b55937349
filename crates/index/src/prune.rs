//! Forgetting old epochs: one range delete per table.

use crate::db::Cf;
use crate::heads::NONE;
use crate::keys::{SetKey, data_key, shuffling_key};
use crate::{Index, IndexError};
use consensus::{Epoch, ShufflingId};

impl Index {
    /// Deletes votes with a target before `before` and proposals of the slots before it. Commits what is staged first.
    /// Older votes may be added again later; they are judged like any other.
    pub fn prune(&mut self, before: Epoch) -> Result<(), IndexError> {
        // The log must not bring back what is deleted here.
        self.commit_with(true)?;
        let before = before.as_u64();
        let near = u32::try_from(before).unwrap_or(NONE).min(NONE - 1);
        let mut batch = self.db.batch();
        batch.delete_range(Cf::Votes, &SetKey::listed(0, 0).to_bytes(), &SetKey::listed(before, 0).to_bytes());
        batch.delete_range(Cf::Data, &data_key(0, 0), &data_key(before, 0));
        let none = ShufflingId([0; 8]);
        batch.delete_range(Cf::Shufflings, &shuffling_key(0, none), &shuffling_key(before, none));
        let first_slot = before.saturating_mul(self.shape.slots_per_epoch);
        batch.delete_range(Cf::Proposals, &0u64.to_be_bytes(), &first_slot.to_be_bytes());
        self.summary.stage_prune(&mut batch, near);
        self.heads.forget(near);
        self.heads.stage_late(&mut batch);
        batch.write()?;
        self.heads.committed_late();
        self.data.forget(before);
        self.table.forget(before);
        self.sets.retain(|key, _| key.epoch >= before);
        self.epochs_seen.retain(|epoch, _| *epoch >= before);
        Ok(())
    }

    /// Adds up the committees of epochs in `from..to` that share their data, one signature per data and slot: about 3 KB an
    /// epoch instead of 0.2 MB. What is paid: a proof then names all of the slot's voters. Returns the rows folded.
    pub fn fold(&mut self, from: Epoch, to: Epoch) -> Result<u64, IndexError> {
        self.commit_with(true)?;
        let mut n_folded = 0;
        for epoch in from.as_u64()..to.as_u64() {
            let mut keys = Vec::new();
            self.db.scan(Cf::Votes, &SetKey::listed(epoch, 0).to_bytes(), &crate::open::last_of_epoch(epoch), |key, _| {
                keys.extend(SetKey::from_bytes(key));
                Ok(true)
            })?;
            let mut batch = self.db.batch();
            for key in keys.iter().filter(|key| key.shuffling.is_some()) {
                let Some(mut set) = self.read_set(key)? else { continue };
                let geometry = self.seating_of(key)?.map(|seating| seating.geometry);
                let committees = set.sums.iter().filter_map(|sum| sum.committee);
                // Committees share a data only since Electra, whose attestations can name a whole slot's voters.
                if committees.clone().min() == committees.max() {
                    continue;
                }
                set.fold();
                batch.put(Cf::Votes, &key.to_bytes(), &set.encode(key, geometry.as_ref()));
                n_folded += 1;
            }
            if !batch.is_empty() {
                batch.write()?;
            }
        }
        Ok(n_folded)
    }
}
