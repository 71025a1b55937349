//! The seats of all validators in one epoch of one branch. They can be computed long after the node
//! has forgotten them.
//!
//! The decision root, the seed and the active set ([`crate::committees::active`]) are stored. They
//! are enough to compute one seat with one swap-or-not walk (90 hashes on mainnet, 6 to 11
//! microseconds) and the validator's rank, or all seats at once.

use super::active::{ActiveSet, Base};
use super::geometry::Geometry;
use crate::lock;
use crate::storage::{ByteReader, put_varint};
use consensus::{CommitteeIndex, Epoch, Preset, Root, Shuffling, ShufflingId, Slot, ValidatorIndex, sha256, shuffle_list};
use std::sync::{Arc, Mutex, OnceLock};

/// Computing one seat takes as long as computing the whole order takes for this many validators.
const ORDERED_PER_WALK: u64 = 200;

/// One shuffling, reduced to the values from which it is computed.
#[derive(Debug)]
pub(crate) struct Seating {
    pub id: ShufflingId,
    pub epoch: Epoch,
    decision_root: Root,
    seed: Root,
    pub geometry: Geometry,
    pub active: ActiveSet,
    rounds: u8,
    pivots: OnceLock<Vec<u64>>,
    /// The whole shuffling, as long as it is in use. A seat is then found by a table look-up.
    live: Mutex<Option<Arc<Shuffling>>>,
}

impl Seating {
    /// Makes the seating of a shuffling that came with a vote. `active` contains its active
    /// validators.
    pub fn of(shuffling: &Shuffling, active: ActiveSet, rounds: u8) -> Self {
        Self {
            id: shuffling.id(),
            epoch: shuffling.epoch(),
            decision_root: shuffling.decision_root(),
            seed: shuffling.seed(),
            geometry: Geometry {
                n_active: shuffling.active().len() as u64,
                committees_per_slot: shuffling.committees_per_slot(),
                slots_per_epoch: shuffling.slots_per_epoch(),
            },
            active,
            rounds,
            pivots: OnceLock::new(),
            live: Mutex::default(),
        }
    }

    /// The whole shuffling, if it is in use.
    pub fn live(&self) -> Option<Arc<Shuffling>> {
        lock(&self.live).clone()
    }

    /// Sets the whole shuffling, or drops it.
    pub fn set_live(&self, shuffling: Option<Arc<Shuffling>>) {
        *lock(&self.live) = shuffling;
    }

    /// Slot within the epoch and position within the slot. `None` if the validator is not active.
    pub fn locate(&self, validator: ValidatorIndex) -> Option<(u16, u32)> {
        match self.live() {
            Some(live) => self.look_up(&live, validator),
            None => self.compute(validator),
        }
    }

    /// Whether the seat that is computed from the row is the same as in `shuffling`, tried for one
    /// validator. If it were not, seats of old epochs would be wrong.
    pub fn agrees_with(&self, shuffling: &Shuffling, validator: ValidatorIndex) -> bool {
        self.compute(validator) == self.look_up(shuffling, validator)
    }

    fn look_up(&self, shuffling: &Shuffling, validator: ValidatorIndex) -> Option<(u16, u32)> {
        let seat = shuffling.seat(validator)?;
        let slot = (seat.slot.as_u64() % self.geometry.slots_per_epoch) as u16;
        let (start, _) = self.geometry.committee_span(slot, seat.committee.as_u64() as u16);
        Some((slot, start + seat.position))
    }

    /// For the active validators among `wanted` (which must be ascending): slot within the epoch,
    /// position within the slot, and validator.
    pub fn locate_all(&self, wanted: &[ValidatorIndex]) -> Vec<(u16, u32, ValidatorIndex)> {
        let few = wanted.len() as u64 * ORDERED_PER_WALK <= self.geometry.n_active;
        if few || self.live().is_some() {
            let seat = |validator: &ValidatorIndex| self.locate(*validator).map(|(slot, position)| (slot, position, *validator));
            return wanted.iter().filter_map(seat).collect();
        }
        let order = self.order();
        let greatest = order.iter().max().map_or(0, |greatest| *greatest as usize);
        let mut is_wanted = vec![false; greatest + 1];
        for index in wanted.iter().map(|validator| validator.as_u64() as usize).take_while(|index| *index <= greatest) {
            is_wanted[index] = true;
        }
        let found = order.iter().zip(0u32..).filter(|(validator, _)| is_wanted[**validator as usize]);
        found
            .map(|(validator, at)| {
                let (slot, position) = self.seat_at(at);
                (slot, position, ValidatorIndex::new(u64::from(*validator)))
            })
            .collect()
    }

    fn compute(&self, validator: ValidatorIndex) -> Option<(u16, u32)> {
        let rank = self.active.rank_of(u32::try_from(validator.as_u64()).ok()?)?;
        Some(self.seat_at(self.walk(u64::from(rank), false) as u32))
    }

    /// Slot and position for an index in the epoch's order.
    fn seat_at(&self, at: u32) -> (u16, u32) {
        let slot = (self.geometry.nth_of(at) / self.geometry.committees_per_slot) as u16;
        (slot, at - self.geometry.slot_start(slot))
    }

    /// The validators at these positions of a slot, in the order of the positions.
    pub fn validators_at(&self, slot: u16, positions: impl Iterator<Item = u32>) -> Vec<ValidatorIndex> {
        match self.live() {
            Some(live) => {
                let slot_start = self.epoch.as_u64() * self.geometry.slots_per_epoch + u64::from(slot);
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
                    out.extend(members.get((position - start) as usize).map(|index| ValidatorIndex::new(u64::from(*index))));
                }
                out
            }
            None => {
                let start = self.geometry.slot_start(slot);
                let positions: Vec<u32> = positions.collect();
                if positions.len() as u64 * ORDERED_PER_WALK > self.geometry.n_active {
                    return self.members_in(&self.order(), slot, positions.into_iter()).collect();
                }
                let walk = |position| {
                    let index = self.active.select(self.walk(u64::from(start + position), true) as u32)?;
                    Some(ValidatorIndex::new(u64::from(index)))
                };
                positions.into_iter().filter_map(walk).collect()
            }
        }
    }

    /// All active validators in committee order. They are computed again, which takes about 0.04 s
    /// per million validators.
    pub fn order(&self) -> Vec<u32> {
        shuffle_list(self.active.to_vec(), self.seed, self.rounds)
    }

    /// The validators at these positions of a slot, found in the result of [`Self::order`].
    pub fn members_in<'a>(
        &self,
        order: &'a [u32],
        slot: u16,
        positions: impl Iterator<Item = u32> + 'a,
    ) -> impl Iterator<Item = ValidatorIndex> + 'a {
        let start = self.geometry.slot_start(slot);
        let index = move |position: u32| order.get((start + position) as usize).copied();
        positions.filter_map(move |position| index(position).map(|index| ValidatorIndex::new(u64::from(index))))
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

    /// Swap-or-not for one index. Forward is the specification's `compute_shuffled_index`. Each
    /// round is its own inverse, so backward applies the rounds in reverse order.
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

    /// Writes the row. The key contains epoch and id.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(self.decision_root.as_slice());
        out.extend_from_slice(self.seed.as_slice());
        put_varint(&mut out, self.geometry.committees_per_slot);
        self.active.encode(&mut out);
        out
    }

    /// Decodes a row. `base_of` finds the base of the active set by its id.
    pub fn decode(
        (epoch, id): (Epoch, ShufflingId),
        value: &[u8],
        preset: &Preset,
        base_of: impl FnOnce([u8; 8]) -> Option<Arc<Base>>,
    ) -> Option<Self> {
        let mut reader = ByteReader(value);
        let decision_root = Root::from(reader.array()?);
        let seed = Root::from(reader.array()?);
        let committees_per_slot = reader.varint().filter(|n| (1..u64::from(u16::MAX)).contains(n))?;
        let active = ActiveSet::decode(&mut reader, base_of)?;
        let n_active = u64::from(active.len());
        let geometry = Geometry { n_active, committees_per_slot, slots_per_epoch: preset.slots_per_epoch };
        let (rounds, pivots, live) = (preset.shuffle_round_count, OnceLock::new(), Mutex::default());
        (n_active > 0).then_some(Self { id, epoch, decision_root, seed, geometry, active, rounds, pivots, live })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Db;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn seats_computed_again_are_those_of_the_whole_shuffling(n in 1u32..700, seed: [u8; 32], step in 1u32..4) {
            let dir = tempfile::tempdir().unwrap();
            let db = Db::open(dir.path(), false).unwrap();
            let active = Arc::new((0..n).map(|i| i * step + 5).collect::<Vec<u32>>());
            let whole = Shuffling::new(Epoch::new(9), Root::ZERO, Root::from(seed), active.clone(), &Preset::MINIMAL);
            let mut table = crate::committees::ShufflingTable::new(Preset::MINIMAL);
            let seating = table.register(&db, &Arc::new(whole)).unwrap().unwrap();
            prop_assert!(seating.live().is_some());
            let whole = seating.live().unwrap();
            let order = seating.order();
            for slot in 0..8 {
                let mut position = 0;
                for committee in 0..whole.committees_per_slot() {
                    let at = Slot::new(9 * 8 + u64::from(slot));
                    prop_assert_eq!(seating.geometry.committee_span(slot, committee as u16).0, position);
                    for member in whole.committee(at, CommitteeIndex::new(committee)).unwrap() {
                        let member = ValidatorIndex::new(u64::from(*member));
                        prop_assert_eq!(seating.geometry.committee_of(slot, position), committee as u16);
                        prop_assert_eq!(seating.compute(member), Some((slot, position)));
                        prop_assert_eq!(seating.locate(member), Some((slot, position)));
                        prop_assert_eq!(seating.validators_at(slot, std::iter::once(position)), vec![member]);
                        prop_assert_eq!(seating.members_in(&order, slot, std::iter::once(position)).next(), Some(member));
                        position += 1;
                    }
                }
                prop_assert_eq!(seating.geometry.slot_len(slot), position);
            }
            let everybody: Vec<ValidatorIndex> = (0..u64::from(n * step + 9)).map(ValidatorIndex::new).collect();
            let seats = |seating: &Seating| {
                let mut seats = seating.locate_all(&everybody);
                seats.sort_unstable_by_key(|seat| seat.2);
                seats
            };
            let looked_up = seats(&seating);
            prop_assert_eq!(looked_up.len() as u32, n);
            // The seats must be the same without the whole shuffling, computed one by one and all
            // at once.
            seating.set_live(None);
            let slot_len = seating.geometry.slot_len(2);
            let together = seating.validators_at(2, 0..slot_len);
            let alone: Vec<ValidatorIndex> = (0..slot_len).flat_map(|at| seating.validators_at(2, std::iter::once(at))).collect();
            prop_assert_eq!(together, alone);
            prop_assert_eq!(seats(&seating), looked_up);
            seating.set_live(Some(whole.clone()));
            prop_assert_eq!(seating.locate(ValidatorIndex::new(4)), None);
            prop_assert!(whole.seat(ValidatorIndex::new(4)).is_none());
        }
    }
}
