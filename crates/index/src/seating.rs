//! The table of shufflings: where every validator sat, in any stored epoch and on any branch, after the node forgot.
//!
//! A row keeps the decision root, the seed and the active set ([`crate::active`]): enough to compute one seat with one
//! swap-or-not walk (90 hashes on mainnet, 6 to 11 microseconds) plus the validator's rank, or all of them at once.
//! The shufflings in use now are kept whole ([`MAX_LIVE`]): there a seat is a table look-up.
//!
//! A *position* is counted from the start of a slot: the slot's committees one after the other, each in committee order.

use crate::active::{ActiveSet, Base};
use crate::codec::{Reader, put_varint};
use crate::db::{Batch, Cf, Db};
use crate::keys::shuffling_key;
use crate::{IndexError, lock};
use consensus::{CommitteeIndex, Preset, Root, Shuffling, ShufflingId, Slot, sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};

/// Shufflings held whole, 8 MB each per million validators.
pub(crate) const MAX_LIVE: usize = 6;
/// Epochs whose rows are held, a few hundred bytes each.
const MAX_CACHED_EPOCHS: usize = 512;
/// Bitmaps held, 125 KB each per million validators.
const MAX_CACHED_BASES: usize = 8;
/// Shufflings of one epoch that are looked at; branches beyond are refused and counted.
pub(crate) const MAX_PER_EPOCH: usize = 16;

/// How an epoch's active validators are cut into slots and committees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub n_active: u64,
    pub committees_per_slot: u64,
    pub slots_per_epoch: u64,
}

impl Geometry {
    fn boundary(&self, nth: u64) -> u32 {
        (self.n_active * nth / (self.committees_per_slot * self.slots_per_epoch)) as u32
    }

    /// Where a slot begins in the epoch's order.
    fn slot_start(&self, slot: u16) -> u32 {
        self.boundary(u64::from(slot) * self.committees_per_slot)
    }

    pub fn slot_len(&self, slot: u16) -> u32 {
        self.boundary((u64::from(slot) + 1) * self.committees_per_slot) - self.slot_start(slot)
    }

    /// Start and length of a committee within its slot.
    pub fn committee_span(&self, slot: u16, committee: u16) -> (u32, u32) {
        let nth = u64::from(slot) * self.committees_per_slot + u64::from(committee);
        let start = self.boundary(nth);
        (start - self.slot_start(slot), self.boundary(nth + 1) - start)
    }

    /// The committee a position in a slot belongs to.
    pub fn committee_of(&self, slot: u16, position: u32) -> u16 {
        let at = self.slot_start(slot) + position;
        (self.nth_of(at) - u64::from(slot) * self.committees_per_slot) as u16
    }

    fn nth_of(&self, at: u32) -> u64 {
        // boundary() rounds down, so the inverse is off by one at most.
        let mut nth = u64::from(at) * self.committees_per_slot * self.slots_per_epoch / self.n_active;
        while self.boundary(nth + 1) <= at {
            nth += 1;
        }
        nth
    }
}

/// Slot and position of every validator of one shuffling, 4 bytes each: the slot in the top byte.
#[derive(Debug)]
pub(crate) struct Seats(Vec<u32>);

const NO_SEAT: u32 = u32::MAX;
const POSITION_BITS: u32 = 24;

impl Seats {
    fn new(geometry: &Geometry, epoch: u64, live: &Shuffling) -> Self {
        let mut seats = vec![NO_SEAT; live.active().last().map_or(0, |last| *last as usize + 1)];
        for slot in 0..geometry.slots_per_epoch {
            let mut position = 0;
            for committee in 0..geometry.committees_per_slot {
                let at = Slot::new(epoch * geometry.slots_per_epoch + slot);
                for member in live.committee(at, CommitteeIndex::new(committee)).unwrap_or_default() {
                    seats[*member as usize] = (slot as u32) << POSITION_BITS | position;
                    position += 1;
                }
            }
        }
        Self(seats)
    }

    #[inline]
    pub fn get(&self, validator: u32) -> Option<(u16, u32)> {
        let seat = *self.0.get(validator as usize)?;
        (seat != NO_SEAT).then_some(((seat >> POSITION_BITS) as u16, seat & ((1 << POSITION_BITS) - 1)))
    }
}

/// One shuffling, reduced to what computes it.
#[derive(Debug)]
pub(crate) struct Seating {
    pub id: ShufflingId,
    pub epoch: u64,
    decision_root: Root,
    seed: Root,
    pub geometry: Geometry,
    active: ActiveSet,
    rounds: u8,
    pivots: OnceLock<Vec<u64>>,
    live: Mutex<Live>,
}

/// What is held of a shuffling in use.
#[derive(Debug, Default)]
struct Live {
    shuffling: Option<Arc<Shuffling>>,
    seats: Option<Arc<Seats>>,
}

impl Seating {
    /// The whole shuffling, if it is in use.
    pub fn live(&self) -> Option<Arc<Shuffling>> {
        lock(&self.live).shuffling.clone()
    }

    /// Everybody's seat, made on first use.
    pub fn seats(&self, shuffling: &Shuffling) -> Arc<Seats> {
        let mut live = lock(&self.live);
        live.seats.get_or_insert_with(|| Arc::new(Seats::new(&self.geometry, self.epoch, shuffling))).clone()
    }

    /// Slot within the epoch and position within the slot; `None` if the validator is not active.
    pub fn locate(&self, validator: u32) -> Option<(u16, u32)> {
        if let Some(seats) = &lock(&self.live).seats {
            return seats.get(validator);
        }
        self.compute(validator)
    }

    fn compute(&self, validator: u32) -> Option<(u16, u32)> {
        let at = self.walk(u64::from(self.active.rank_of(validator)?), false) as u32;
        let slot = (self.geometry.nth_of(at) / self.geometry.committees_per_slot) as u16;
        Some((slot, at - self.geometry.slot_start(slot)))
    }

    /// Who sits at positions of a slot, in the order asked.
    pub fn validators_at(&self, slot: u16, positions: impl Iterator<Item = u32>) -> Vec<u32> {
        match self.live() {
            Some(live) => {
                let slot_start = self.epoch * self.geometry.slots_per_epoch + u64::from(slot);
                let mut members: &[u32] = &[];
                let (mut start, mut len) = (0, 0);
                let mut out = Vec::new();
                for position in positions {
                    if position < start || position >= start + len {
                        let committee = self.geometry.committee_of(slot, position);
                        (start, len) = self.geometry.committee_span(slot, committee);
                        let committee = CommitteeIndex::new(u64::from(committee));
                        members = live.committee(Slot::new(slot_start), committee).unwrap_or_default();
                    }
                    out.extend(members.get((position - start) as usize));
                }
                out
            }
            None => {
                let start = self.geometry.slot_start(slot);
                positions.filter_map(|position| self.active.select(self.walk(u64::from(start + position), true) as u32)).collect()
            }
        }
    }

    /// All active validators in committee order, computed anew: some 0.1 s per million.
    ///
    /// The spec's rounds over the whole list, as `consensus` does it, but without a branch on the random bit, which a
    /// processor cannot predict: opening does this for several epochs.
    pub fn order(&self) -> Vec<u32> {
        let mut order = self.active.to_vec();
        let n = order.len();
        let mut preimage = [0u8; 37];
        preimage[..32].copy_from_slice(self.seed.as_slice());
        for round in (0..self.rounds).rev() {
            let pivot = self.pivots()[usize::from(round)] as usize;
            preimage[32] = round;
            // Mirror pairs around pivot / 2, then around (pivot + n) / 2; the bit of a pair is that of its upper place.
            for (first, last) in [(0, pivot), (pivot + 1, n - 1)] {
                let (mut low, mut high) = (first, last);
                while low < high {
                    let block = high / 256;
                    preimage[33..].copy_from_slice(&(block as u32).to_le_bytes());
                    let bits = sha256(&preimage);
                    while low < high && high / 256 == block {
                        let bit = u32::from(bits[high % 256 / 8] >> (high % 8) & 1);
                        let (a, b) = (order[low], order[high]);
                        let change = (a ^ b) & 0u32.wrapping_sub(bit);
                        order[low] = a ^ change;
                        order[high] = b ^ change;
                        low += 1;
                        high -= 1;
                    }
                }
            }
        }
        order
    }

    /// Visits who sits at positions of a slot, given [`Self::order`].
    pub fn members_in<'a>(
        &self,
        order: &'a [u32],
        slot: u16,
        positions: impl Iterator<Item = u32> + 'a,
    ) -> impl Iterator<Item = u32> + 'a {
        let start = self.geometry.slot_start(slot);
        positions.filter_map(move |position| order.get((start + position) as usize).copied())
    }

    fn pivots(&self) -> &[u64] {
        self.pivots.get_or_init(|| {
            let mut preimage = [0u8; 33];
            preimage[..32].copy_from_slice(self.seed.as_slice());
            let pivot = |round| {
                preimage[32] = round;
                let hash = sha256(&preimage);
                u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes")) % self.geometry.n_active
            };
            (0..self.rounds).map(pivot).collect()
        })
    }

    /// Swap-or-not for one index: forward is the spec's `compute_shuffled_index`; each round is its own inverse, so
    /// backward is the rounds in reverse.
    fn walk(&self, index: u64, forward: bool) -> u64 {
        let n = self.geometry.n_active;
        let pivots = self.pivots();
        let mut preimage = [0u8; 37];
        preimage[..32].copy_from_slice(self.seed.as_slice());
        let mut index = index;
        for step in 0..self.rounds {
            let round = if forward { step } else { self.rounds - 1 - step };
            let flip = (pivots[usize::from(round)] + n - index) % n;
            let position = index.max(flip);
            preimage[32] = round;
            preimage[33..].copy_from_slice(&((position / 256) as u32).to_le_bytes());
            if sha256(&preimage)[(position % 256 / 8) as usize] >> (position % 8) & 1 == 1 {
                index = flip;
            }
        }
        index
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(self.decision_root.as_slice());
        out.extend_from_slice(self.seed.as_slice());
        put_varint(&mut out, self.geometry.committees_per_slot);
        self.active.encode(&mut out);
        out
    }
}

/// All shufflings, on disk and staged.
pub(crate) struct Table {
    preset: Preset,
    cached: Mutex<HashMap<u64, Arc<Vec<Arc<Seating>>>>>,
    bases: Mutex<VecDeque<Arc<Base>>>,
    live: VecDeque<Arc<Seating>>,
    staged: Vec<Arc<Seating>>,
    staged_bases: Vec<Arc<Base>>,
    /// The active set last registered, by the list it was made from: epochs mostly share it.
    last_active: Option<(Arc<Vec<u32>>, ActiveSet)>,
    /// Shufflings not taken up because their epoch already has [`MAX_PER_EPOCH`] or they do not follow the preset.
    pub n_refused: u64,
}

impl Table {
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

    /// All shufflings known of an epoch.
    pub fn of_epoch(&self, db: &Db, epoch: u64) -> Result<Arc<Vec<Arc<Seating>>>, IndexError> {
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

    pub fn find(&self, db: &Db, epoch: u64, id: ShufflingId) -> Result<Option<Arc<Seating>>, IndexError> {
        Ok(self.of_epoch(db, epoch)?.iter().find(|seating| seating.id == id).cloned())
    }

    /// Takes up a shuffling that a vote came with, and keeps it whole for a while. `None`: it is not one this index can
    /// compute again, or its epoch has too many; its votes are then listed by index.
    pub fn register(&mut self, db: &Db, shuffling: &Arc<Shuffling>) -> Result<Option<Arc<Seating>>, IndexError> {
        if let Some(last) = self.live.back().filter(|last| last.id == shuffling.id()) {
            return Ok(Some(last.clone()));
        }
        let epoch = shuffling.epoch().as_u64();
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
        lock(&seating.live).shuffling = Some(shuffling.clone());
        self.keep_live(seating.clone());
        Ok(Some(seating))
    }

    pub fn stage(&self, batch: &mut Batch<'_>) {
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

    /// Forgets what is held of epochs before `before`; the rows are deleted by the caller.
    pub fn forget(&mut self, before: u64) {
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
            *lock(&oldest.live) = Live::default();
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
        let seating = Seating {
            id: shuffling.id(),
            epoch: shuffling.epoch().as_u64(),
            decision_root: shuffling.decision_root(),
            seed: shuffling.seed(),
            geometry: Geometry {
                n_active: members.len() as u64,
                committees_per_slot: shuffling.committees_per_slot(),
                slots_per_epoch: shuffling.slots_per_epoch(),
            },
            active,
            rounds: self.preset.shuffle_round_count,
            pivots: OnceLock::new(),
            live: Mutex::default(),
        };
        // What is computed from the row later must be what the caller sees now, or old seats would be wrong.
        let sample = members[members.len() / 2];
        if shuffling.slots_per_epoch() != self.preset.slots_per_epoch
            || seating.compute(sample) != seating.seats(shuffling).get(sample)
        {
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

    /// The base the newest stored shuffling uses, so that a restart does not begin another one.
    fn newest_base(&self, db: &Db) -> Result<Option<Arc<Base>>, IndexError> {
        let Some(key) = db.last_key(Cf::Shufflings)? else { return Ok(None) };
        let epoch = u64::from_be_bytes(key[..8].try_into().map_err(|_| db.corrupt("a shuffling's key is short"))?);
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

    fn decode(&self, db: &Db, epoch: u64, key: &[u8], value: &[u8]) -> Result<Seating, IndexError> {
        let mut failure = None;
        let mut parse = || {
            let id = ShufflingId(key.get(8..)?.try_into().ok()?);
            let mut reader = Reader(value);
            let decision_root = Root::from(reader.array()?);
            let seed = Root::from(reader.array()?);
            let committees_per_slot = reader.varint().filter(|n| (1..u64::from(u16::MAX)).contains(n))?;
            let active = ActiveSet::decode(&mut reader, |id| match self.base(db, id) {
                Ok(base) => base,
                Err(error) => {
                    failure = Some(error);
                    None
                }
            })?;
            let slots_per_epoch = self.preset.slots_per_epoch;
            let geometry = Geometry { n_active: u64::from(active.len()), committees_per_slot, slots_per_epoch };
            Some(Seating {
                id,
                epoch,
                decision_root,
                seed,
                geometry,
                active,
                rounds: self.preset.shuffle_round_count,
                pivots: OnceLock::new(),
                live: Mutex::default(),
            })
        };
        let parsed = parse().filter(|seating| seating.geometry.n_active > 0);
        parsed.ok_or_else(|| failure.unwrap_or_else(|| db.corrupt(format!("the shuffling row of epoch {epoch} does not parse"))))
    }
}

fn remember(bases: &Mutex<VecDeque<Arc<Base>>>, base: Arc<Base>) {
    let mut bases = lock(bases);
    bases.push_front(base);
    bases.truncate(MAX_CACHED_BASES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Epoch, ValidatorIndex};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn seats_computed_again_are_those_of_the_whole_shuffling(n in 1u32..700, seed: [u8; 32], step in 1u32..4) {
            let dir = tempfile::tempdir().unwrap();
            let db = Db::open(dir.path(), false).unwrap();
            let active = Arc::new((0..n).map(|i| i * step + 5).collect::<Vec<u32>>());
            let whole = Shuffling::new(Epoch::new(9), Root::ZERO, Root::from(seed), active.clone(), &Preset::MINIMAL);
            let mut table = Table::new(Preset::MINIMAL);
            let seating = table.register(&db, &Arc::new(whole)).unwrap().unwrap();
            let whole = seating.live().unwrap();
            let order = seating.order();
            for slot in 0..8 {
                let mut position = 0;
                for committee in 0..whole.committees_per_slot() {
                    let at = Slot::new(9 * 8 + u64::from(slot));
                    prop_assert_eq!(seating.geometry.committee_span(slot, committee as u16).0, position);
                    for member in whole.committee(at, CommitteeIndex::new(committee)).unwrap() {
                        prop_assert_eq!(seating.geometry.committee_of(slot, position), committee as u16);
                        prop_assert_eq!(seating.compute(*member), Some((slot, position)));
                        prop_assert_eq!(seating.locate(*member), Some((slot, position)));
                        prop_assert_eq!(seating.validators_at(slot, std::iter::once(position)), vec![*member]);
                        prop_assert_eq!(seating.members_in(&order, slot, std::iter::once(position)).next(), Some(*member));
                        position += 1;
                    }
                }
                prop_assert_eq!(seating.geometry.slot_len(slot), position);
            }
            prop_assert_eq!(seating.locate(4), None);
            prop_assert!(whole.seat(ValidatorIndex::new(4)).is_none());
        }
    }
}
