//! Committees and the swap-or-not shuffling that they come from.
//!
//! Source: phase0/beacon-chain.md, `compute_shuffled_index`, `compute_committee`,
//! `get_committee_count_per_slot`, `get_seed`.

use crate::{CommitteeIndex, DomainType, Epoch, Preset, Root, Slot, ValidatorIndex, sha256};
use ethereum_hashing::hash;
use std::sync::{Arc, OnceLock};

/// Identifies a shuffling by its content: epoch, seed and active validators. Two branches, or two
/// versions of the registry, that lead to the same committees have the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShufflingId(pub [u8; 8]);

/// A validator's committee and its position in it, in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    pub slot: Slot,
    pub committee: CommitteeIndex,
    /// Position within the committee. The validator's aggregation bit has this position, counted
    /// from the first bit of the committee.
    pub position: u32,
}

/// The committees of one epoch on one branch.
#[derive(Debug)]
pub struct Shuffling {
    id: ShufflingId,
    epoch: Epoch,
    decision_root: Root,
    seed: Root,
    slots_per_epoch: u64,
    committees_per_slot: u64,
    /// Indices of the active validators, ascending.
    active: Arc<Vec<u32>>,
    /// Indices of the active validators in the order of the committees.
    order: Vec<u32>,
    /// Position in `order` for each validator index up to the highest active one. `u32::MAX` means
    /// that the validator is not active.
    seats: OnceLock<Vec<u32>>,
}

impl Shuffling {
    /// Computes the committees of `epoch`. `active` holds the indices of the validators that are
    /// active in `epoch`, ascending. `decision_root` is the root of the block that fixed the seed.
    pub fn new(epoch: Epoch, decision_root: Root, seed: Root, active: Arc<Vec<u32>>, preset: &Preset) -> Self {
        debug_assert!(active.is_sorted());
        let order = shuffle_list(active.to_vec(), seed, preset.shuffle_round_count);
        let mut content = Vec::with_capacity(48 + active.len() * 4);
        content.extend_from_slice(&epoch.as_u64().to_be_bytes());
        content.extend_from_slice(seed.as_slice());
        for index in active.iter() {
            content.extend_from_slice(&index.to_be_bytes());
        }
        let mut id = [0u8; 8];
        id.copy_from_slice(&hash(&content)[..8]);
        let committees_per_slot = (active.len() as u64 / preset.slots_per_epoch / preset.target_committee_size)
            .clamp(1, preset.max_committees_per_slot);
        Self {
            id: ShufflingId(id),
            epoch,
            decision_root,
            seed,
            slots_per_epoch: preset.slots_per_epoch,
            committees_per_slot,
            active,
            order,
            seats: OnceLock::new(),
        }
    }

    pub fn id(&self) -> ShufflingId {
        self.id
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Root of the decision block: the last block before the start of the previous epoch, on the
    /// shuffling's branch.
    pub fn decision_root(&self) -> Root {
        self.decision_root
    }

    pub fn seed(&self) -> Root {
        self.seed
    }

    pub fn active(&self) -> &Arc<Vec<u32>> {
        &self.active
    }

    pub fn committees_per_slot(&self) -> u64 {
        self.committees_per_slot
    }

    pub fn slots_per_epoch(&self) -> u64 {
        self.slots_per_epoch
    }

    /// Returns the members of a committee in the order of their aggregation bits. Returns `None` if
    /// the slot is outside the epoch or the committee does not exist.
    pub fn committee(&self, slot: Slot, committee: CommitteeIndex) -> Option<&[u32]> {
        let first_slot = self.epoch.as_u64().checked_mul(self.slots_per_epoch)?;
        let offset = slot.as_u64().checked_sub(first_slot).filter(|o| *o < self.slots_per_epoch)?;
        if committee.as_u64() >= self.committees_per_slot {
            return None;
        }
        let nth = offset * self.committees_per_slot + committee.as_u64();
        Some(&self.order[self.boundary(nth)..self.boundary(nth + 1)])
    }

    /// Returns the committee and the position of a validator in this epoch, or `None` if it is not
    /// active. The first call builds a table with 4 bytes per validator.
    pub fn seat(&self, validator: ValidatorIndex) -> Option<Seat> {
        let seats = self.seats.get_or_init(|| {
            let mut seats = vec![u32::MAX; self.active.last().map_or(0, |last| *last as usize + 1)];
            for (position, index) in self.order.iter().enumerate() {
                seats[*index as usize] = position as u32;
            }
            seats
        });
        let position = *seats.get(usize::try_from(validator.as_u64()).ok()?)?;
        if position == u32::MAX {
            return None;
        }
        let n_committees = self.committees_per_slot * self.slots_per_epoch;
        let n_active = self.order.len() as u64;
        // boundary(nth) is n_active * nth / n_committees, rounded down. Because of the rounding,
        // this inverse can be one too small.
        let mut nth = u64::from(position) * n_committees / n_active;
        while self.boundary(nth + 1) <= position as usize {
            nth += 1;
        }
        Some(Seat {
            slot: Slot::new(self.epoch.as_u64() * self.slots_per_epoch + nth / self.committees_per_slot),
            committee: CommitteeIndex::new(nth % self.committees_per_slot),
            position: position - self.boundary(nth) as u32,
        })
    }

    fn boundary(&self, nth: u64) -> usize {
        (self.order.len() as u64 * nth / (self.committees_per_slot * self.slots_per_epoch)) as usize
    }
}

/// `get_seed` of the specification. `mix` is the randao mix at the end of the epoch before the
/// previous epoch.
pub fn compute_seed(domain: DomainType, epoch: Epoch, mix: Root) -> Root {
    let mut preimage = [0u8; 44];
    preimage[..4].copy_from_slice(&domain.bytes());
    preimage[4..12].copy_from_slice(&epoch.as_u64().to_le_bytes());
    preimage[12..].copy_from_slice(mix.as_slice());
    Root::from_slice(&hash(&preimage))
}

/// `compute_shuffled_index` of the specification, for one index. Proposers are drawn with it. It is
/// also the oracle in the tests of [`shuffle_list`].
pub fn compute_shuffled_index(index: u64, count: u64, seed: Root, rounds: u8) -> Option<u64> {
    if index >= count {
        return None;
    }
    let mut index = index;
    let mut buffer = [0u8; 37];
    buffer[..32].copy_from_slice(seed.as_slice());
    for round in 0..rounds {
        buffer[32] = round;
        let pivot = first_u64(&hash(&buffer[..33])) % count;
        let flip = (pivot + count - index) % count;
        let position = index.max(flip);
        buffer[33..].copy_from_slice(&((position / 256) as u32).to_le_bytes());
        let source = hash(&buffer);
        if source[(position % 256 / 8) as usize] >> (position % 8) & 1 == 1 {
            index = flip;
        }
    }
    Some(index)
}

/// Shuffles a whole list: `result[i] = list[compute_shuffled_index(i)]`. It takes about 0.04 s per
/// million elements.
///
/// The loop walks the list once in each round, so that one hash serves 256 positions. The swap has
/// no branch on the random bit, because a processor cannot predict it: with a branch the function
/// took eight times as long.
pub fn shuffle_list(mut list: Vec<u32>, seed: Root, rounds: u8) -> Vec<u32> {
    let n = list.len();
    if n < 2 {
        return list;
    }
    let mut buffer = [0u8; 37];
    buffer[..32].copy_from_slice(seed.as_slice());
    // The rounds are applied from last to first. Applied to indices, this is the inverse
    // permutation, which is the one that moves values to their new positions.
    for round in (0..rounds).rev() {
        buffer[32] = round;
        let pivot = (first_u64(&sha256(&buffer[..33])) % n as u64) as usize;
        // Swap mirror pairs around pivot / 2, then around (pivot + n) / 2. The bit of a pair is the
        // one of its upper position.
        for (first, last) in [(0, pivot), (pivot + 1, n - 1)] {
            let (mut low, mut high) = (first, last);
            while low < high {
                let block = high / 256;
                buffer[33..].copy_from_slice(&(block as u32).to_le_bytes());
                let bits = sha256(&buffer);
                while low < high && high / 256 == block {
                    let bit = u32::from(bits[high % 256 / 8] >> (high % 8) & 1);
                    let (a, b) = (list[low], list[high]);
                    let change = (a ^ b) & 0u32.wrapping_sub(bit);
                    list[low] = a ^ change;
                    list[high] = b ^ change;
                    low += 1;
                    high -= 1;
                }
            }
        }
    }
    list
}

fn first_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whole_list_agrees_with_the_spec_one_by_one(n in 0usize..700, seed: [u8; 32], rounds in 0u8..91) {
            let list: Vec<u32> = (0..n as u32).map(|i| i * 3 + 7).collect();
            let shuffled = shuffle_list(list.clone(), Root::from(seed), rounds);
            for (i, value) in shuffled.iter().enumerate() {
                let from = compute_shuffled_index(i as u64, n as u64, Root::from(seed), rounds).expect("in range");
                prop_assert_eq!(*value, list[from as usize]);
            }
        }

        #[test]
        fn every_active_validator_has_its_seat(n in 1usize..600, seed: [u8; 32]) {
            let active: Arc<Vec<u32>> = Arc::new((0..n as u32).map(|i| i * 2).collect());
            let shuffling = Shuffling::new(Epoch::new(5), Root::ZERO, Root::from(seed), active.clone(), &Preset::MINIMAL);
            for index in active.iter() {
                let seat = shuffling.seat(ValidatorIndex::new(u64::from(*index))).expect("active");
                let committee = shuffling.committee(seat.slot, seat.committee).expect("exists");
                prop_assert_eq!(committee[seat.position as usize], *index);
            }
            prop_assert_eq!(shuffling.seat(ValidatorIndex::new(1)), None);
            prop_assert_eq!(shuffling.seat(ValidatorIndex::MAX), None);
        }
    }
}
