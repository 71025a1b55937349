//! The table of shufflings: all branches of all stored epochs, at a few hundred bytes each.
//! Shufflings in use are kept whole.

use super::active::{ActiveSet, Base};
use super::seating::Seating;
use crate::storage::{Cf, Db, SetKey, WriteBuffer, shuffling_key};
use crate::{IndexError, lock};
use consensus::{Epoch, Preset, Shuffling, ShufflingId, ValidatorIndex};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// The largest number of shufflings that are kept whole, at 8 MB per million validators each. They
/// are shared with the verifier that provided them.
pub(crate) const MAX_LIVE: usize = 6;
/// The largest number of epochs whose rows are in memory, at a few hundred bytes each.
const MAX_CACHED_EPOCHS: usize = 512;
/// The largest number of bitmaps in memory, at 125 KB per million validators each.
const MAX_CACHED_BASES: usize = 8;
/// The largest number of shufflings of one epoch. Further branches are refused and counted.
pub(crate) const MAX_PER_EPOCH: usize = 16;

/// All shufflings, on disk and staged.
pub(crate) struct ShufflingTable {
    preset: Preset,
    cached: Mutex<HashMap<Epoch, Arc<Vec<Arc<Seating>>>>>,
    bases: Mutex<VecDeque<Arc<Base>>>,
    live: VecDeque<Arc<Seating>>,
    staged: Vec<Arc<Seating>>,
    staged_bases: Vec<Arc<Base>>,
    /// The active set that was registered last, with the list that it was made from. Successive
    /// epochs mostly share it.
    last_active: Option<(Arc<Vec<u32>>, ActiveSet)>,
    /// Number of shufflings that were refused, because their epoch already has [`MAX_PER_EPOCH`] of
    /// them or because they do not follow the preset.
    pub n_refused: u64,
}

impl ShufflingTable {
    pub fn new(preset: Preset) -> Self {
        Self {
            preset,
            cached: Mutex::default(),
            bases: Mutex::default(),
            live: VecDeque::new(),
            staged: Vec::new(),
            staged_bases: Vec::new(),
            last_active: None,
            n_refused: 0,
        }
    }

    /// All known shufflings of an epoch.
    pub fn of_epoch(&self, db: &Db, epoch: Epoch) -> Result<Arc<Vec<Arc<Seating>>>, IndexError> {
        if let Some(found) = lock(&self.cached).get(&epoch) {
            return Ok(found.clone());
        }
        let mut found: Vec<Arc<Seating>> = Vec::new();
        let (from, to) = (shuffling_key(epoch, ShufflingId([0; 8])), shuffling_key(epoch, ShufflingId([0xff; 8])));
        let mut rows = Vec::new();
        db.scan(Cf::Shufflings, &from, &to, |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(true)
        })?;
        for (key, value) in rows {
            let live = self.live.iter().find(|live| live.epoch == epoch && key[8..] == live.id.0);
            match live {
                Some(live) => found.push(live.clone()),
                None => found.push(Arc::new(self.decode(db, epoch, &key, &value)?)),
            }
        }
        for staged in self.staged.iter().filter(|staged| staged.epoch == epoch) {
            if found.iter().all(|seating| seating.id != staged.id) {
                found.push(staged.clone());
            }
        }
        let found = Arc::new(found);
        let mut cached = lock(&self.cached);
        if cached.len() >= MAX_CACHED_EPOCHS {
            cached.clear();
        }
        cached.insert(epoch, found.clone());
        Ok(found)
    }

    /// The shuffling with this id.
    pub fn find(&self, db: &Db, epoch: Epoch, id: ShufflingId) -> Result<Option<Arc<Seating>>, IndexError> {
        Ok(self.of_epoch(db, epoch)?.iter().find(|seating| seating.id == id).cloned())
    }

    /// The shuffling in which the members of a set have their seats. `None` for listed members.
    pub fn of_set(&self, db: &Db, key: &SetKey) -> Result<Option<Arc<Seating>>, IndexError> {
        let Some(id) = key.shuffling else { return Ok(None) };
        let found = self.find(db, key.epoch, id)?;
        found.map(Some).ok_or_else(|| db.corrupt(format!("the shuffling of a vote row of epoch {} is missing", key.epoch)))
    }

    /// Stores a shuffling that came with a vote, and keeps it whole for a while. `None` if this
    /// index cannot compute the shuffling again, or if its epoch has too many; its votes are then
    /// listed by validator index.
    pub fn register(&mut self, db: &Db, shuffling: &Arc<Shuffling>) -> Result<Option<Arc<Seating>>, IndexError> {
        if let Some(last) = self.live.back().filter(|last| last.id == shuffling.id()) {
            return Ok(Some(last.clone()));
        }
        let epoch = shuffling.epoch();
        let known = self.of_epoch(db, epoch)?;
        let seating = match known.iter().find(|seating| seating.id == shuffling.id()) {
            Some(seating) => seating.clone(),
            None => {
                let Some(seating) = self.admit(db, shuffling, known.len())? else {
                    self.n_refused += 1;
                    return Ok(None);
                };
                lock(&self.cached).remove(&epoch);
                self.staged.push(seating.clone());
                seating
            }
        };
        seating.set_live(Some(shuffling.clone()));
        self.keep_live(seating.clone());
        Ok(Some(seating))
    }

    pub fn stage(&self, batch: &mut WriteBuffer<'_>) {
        for base in &self.staged_bases {
            batch.put(Cf::Actives, &base.id, &base.to_bytes());
        }
        for seating in &self.staged {
            batch.put(Cf::Shufflings, &shuffling_key(seating.epoch, seating.id), &seating.encode());
        }
    }

    pub fn committed(&mut self) {
        self.staged.clear();
        self.staged_bases.clear();
    }

    /// Drops the epochs before `before` from memory. The caller deletes the rows.
    pub fn forget(&mut self, before: Epoch) {
        lock(&self.cached).retain(|epoch, _| *epoch >= before);
        self.live.retain(|seating| seating.epoch >= before);
        self.staged.retain(|seating| seating.epoch >= before);
    }

    fn keep_live(&mut self, seating: Arc<Seating>) {
        self.live.retain(|other| other.id != seating.id);
        self.live.push_back(seating);
        if self.live.len() > MAX_LIVE
            && let Some(oldest) = self.live.pop_front()
        {
            oldest.set_live(None);
        }
    }

    fn admit(&mut self, db: &Db, shuffling: &Arc<Shuffling>, n_known: usize) -> Result<Option<Arc<Seating>>, IndexError> {
        let members = shuffling.active();
        let representable = u32::try_from(members.len()).is_ok() && shuffling.committees_per_slot() < u64::from(u16::MAX);
        if n_known >= MAX_PER_EPOCH || members.is_empty() || !representable {
            return Ok(None);
        }
        let active = match &self.last_active {
            Some((list, active)) if Arc::ptr_eq(list, members) => active.clone(),
            _ => self.reduce(db, members)?,
        };
        let seating = Seating::of(shuffling, active, self.preset.shuffle_round_count);
        let sample = ValidatorIndex::new(u64::from(members[members.len() / 2]));
        if shuffling.slots_per_epoch() != self.preset.slots_per_epoch || !seating.agrees_with(shuffling, sample) {
            return Ok(None);
        }
        Ok(Some(Arc::new(seating)))
    }

    fn reduce(&mut self, db: &Db, members: &Arc<Vec<u32>>) -> Result<ActiveSet, IndexError> {
        if self.last_active.is_none()
            && let Some(base) = self.newest_base(db)?
        {
            lock(&self.bases).push_front(base);
        }
        let near = lock(&self.bases).iter().find_map(|base| ActiveSet::by_difference(base, members));
        let active = near.unwrap_or_else(|| {
            let base = Arc::new(Base::new(members));
            self.staged_bases.push(base.clone());
            remember(&self.bases, base.clone());
            ActiveSet::of_base(base)
        });
        self.last_active = Some((members.clone(), active.clone()));
        Ok(active)
    }

    /// The base that the newest stored shuffling uses, so that a restart does not begin a new one.
    fn newest_base(&self, db: &Db) -> Result<Option<Arc<Base>>, IndexError> {
        let Some(key) = db.last_key(Cf::Shufflings)? else { return Ok(None) };
        let epoch = key[..8].try_into().map_err(|_| db.corrupt("a shuffling's key is short"))?;
        let epoch = Epoch::new(u64::from_be_bytes(epoch));
        Ok(self.of_epoch(db, epoch)?.first().map(|seating| seating.active.base().clone()))
    }

    fn base(&self, db: &Db, id: [u8; 8]) -> Result<Option<Arc<Base>>, IndexError> {
        if let Some(base) = lock(&self.bases).iter().chain(&self.staged_bases).find(|base| base.id == id) {
            return Ok(Some(base.clone()));
        }
        let Some(bytes) = db.get(Cf::Actives, &id)? else { return Ok(None) };
        let Some(base) = Base::from_bytes(id, &bytes).map(Arc::new) else {
            return Err(db.corrupt("an active set does not hash to its id"));
        };
        remember(&self.bases, base.clone());
        Ok(Some(base))
    }

    fn decode(&self, db: &Db, epoch: Epoch, key: &[u8], value: &[u8]) -> Result<Seating, IndexError> {
        let mut failure = None;
        let base_of = |id| match self.base(db, id) {
            Ok(base) => base,
            Err(error) => {
                failure = Some(error);
                None
            }
        };
        let id = key.get(8..).and_then(|id| id.try_into().ok()).map(ShufflingId);
        let parsed = id.and_then(|id| Seating::decode((epoch, id), value, &self.preset, base_of));
        parsed.ok_or_else(|| failure.unwrap_or_else(|| db.corrupt(format!("the shuffling row of epoch {epoch} does not parse"))))
    }
}

fn remember(bases: &Mutex<VecDeque<Arc<Base>>>, base: Arc<Base>) {
    let mut bases = lock(bases);
    bases.push_front(base);
    bases.truncate(MAX_CACHED_BASES);
}
