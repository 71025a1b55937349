//! Finds the seats of an aggregate's members without a look-up for each member.
//!
//! An aggregate contains most of a committee, in ascending order of validators. The committee lists
//! its members in order of their positions. To look each member up in a table of all seats would
//! mean waiting for memory every time. So the members are marked in a bitmap over all validators
//! (125 KB per million, which stays in the cache), and the committee, which is contiguous in
//! memory, is walked once. If only a few members of a committee voted, they are looked up, because
//! walking would cost more.

use super::geometry::Geometry;
use crate::sums::Bits;
use consensus::{CommitteeIndex, Shuffling};
use verify::Vote;

/// A committee or slot is walked if at least one in this many of its seats is in the vote.
const WALKED: u32 = 16;

/// The bitmap. It is empty between calls.
#[derive(Default)]
pub(crate) struct SeatFinder(Vec<u64>);

impl SeatFinder {
    /// The positions of a vote's members in their slot, and their committee if it is a single one.
    /// `None` if a member does not have a seat in this slot.
    pub fn seats(&mut self, shuffling: &Shuffling, geometry: &Geometry, slot: u16, vote: &Vote) -> Option<(Bits, Option<u16>)> {
        self.seats_by_walk(shuffling, geometry, slot, vote).or_else(|| one_by_one(shuffling, geometry, slot, vote))
    }

    /// Finds the seats by walking. `None` also if a walk is not worth its cost.
    fn seats_by_walk(
        &mut self,
        shuffling: &Shuffling,
        geometry: &Geometry,
        slot: u16,
        vote: &Vote,
    ) -> Option<(Bits, Option<u16>)> {
        let n_members = vote.indices.len() as u32;
        let seat = shuffling.seat(*vote.indices.first()?).filter(|seat| seat.slot == vote.data.slot)?;
        // The indices are ascending, so this check prevents an allocation for an index beyond the
        // registry.
        let last = vote.indices.last().map(|last| last.as_u64() as u32)?;
        if shuffling.active().last().is_none_or(|greatest| last > *greatest) {
            return None;
        }
        let committee = u16::try_from(seat.committee.as_u64()).ok()?;
        let (start, len) = geometry.committee_span(slot, committee);
        let slot_len = geometry.slot_len(slot);
        if n_members.saturating_mul(WALKED) < len || (n_members > len && n_members.saturating_mul(WALKED) < slot_len) {
            return None;
        }
        let n_words = last as usize / 64 + 1;
        if self.0.len() < n_words {
            self.0.resize(n_words, 0);
        }
        for index in &vote.indices {
            self.0[index.as_u64() as usize / 64] |= 1 << (index.as_u64() % 64);
        }
        let mut found = None;
        if n_members <= len {
            let mut bits = Bits::with_span(start, len);
            if self.walk(shuffling, vote, committee, start, &mut bits) == n_members {
                found = Some((bits, Some(committee)));
            }
        }
        if found.is_none() && n_members.saturating_mul(WALKED) >= slot_len {
            let mut bits = Bits::with_span(0, slot_len);
            let mut n_found = 0;
            for committee in 0..geometry.committees_per_slot as u16 {
                let (start, _) = geometry.committee_span(slot, committee);
                n_found += self.walk(shuffling, vote, committee, start, &mut bits);
            }
            found = (n_found == n_members).then_some((bits, None));
        }
        for index in &vote.indices {
            self.0[index.as_u64() as usize / 64] = 0;
        }
        found
    }

    /// Adds the members of a committee that are marked. Returns their number.
    fn walk(&self, shuffling: &Shuffling, vote: &Vote, committee: u16, start: u32, bits: &mut Bits) -> u32 {
        let members = shuffling.committee(vote.data.slot, CommitteeIndex::new(u64::from(committee))).unwrap_or_default();
        let mut n_found = 0;
        for (position, member) in (start..).zip(members) {
            let marked = self.0.get(*member as usize / 64).is_some_and(|word| word >> (member % 64) & 1 == 1);
            bits.insert_if(position, marked);
            n_found += u32::from(marked);
        }
        n_found
    }
}

/// Finds the same seats by looking up every member.
fn one_by_one(shuffling: &Shuffling, geometry: &Geometry, slot: u16, vote: &Vote) -> Option<(Bits, Option<u16>)> {
    let mut bits: Option<Bits> = None;
    let mut committees = (u16::MAX, 0);
    let (mut at, mut start) = (None, 0);
    for index in &vote.indices {
        let seat = shuffling.seat(*index).filter(|seat| seat.slot == vote.data.slot)?;
        let committee = u16::try_from(seat.committee.as_u64()).ok()?;
        if at != Some(committee) {
            let (first, len) = geometry.committee_span(slot, committee);
            (at, start) = (Some(committee), first);
            bits.get_or_insert_with(|| Bits::with_span(first, len));
        }
        bits.as_mut()?.insert(start + seat.position);
        committees = (committees.0.min(committee), committees.1.max(committee));
    }
    Some((bits?, (committees.0 == committees.1).then_some(committees.1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{AttestationData, Epoch, Preset, Root, SignatureBytes, Slot, ValidatorIndex};
    use proptest::prelude::*;
    use std::sync::Arc;
    use verify::{FirstSeen, SourceKind, Time};

    fn vote(slot: u64, indices: Vec<ValidatorIndex>) -> Vote {
        let data = AttestationData { slot: Slot::new(slot), ..AttestationData::default() };
        let heard = FirstSeen { at: Time(0), source: SourceKind::Gossip, peer: None };
        Vote {
            data,
            data_root: Root::ZERO,
            arrivals: vec![heard.arrival(); indices.len()],
            indices,
            signature: SignatureBytes::ZERO,
            shuffling: None,
            signed_with: None,
            heard,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_walk_and_the_look_ups_agree(
            n in 40u32..900,
            seed: [u8; 32],
            chosen in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
            whole_slot: bool,
            stranger in prop::option::of(0u32..2000),
        ) {
            let active = Arc::new((0..n).map(|i| i * 2).collect::<Vec<u32>>());
            let shuffling = Shuffling::new(Epoch::new(3), Root::ZERO, Root::from(seed), active, &Preset::MINIMAL);
            let (slots_per_epoch, committees_per_slot) = (8, shuffling.committees_per_slot());
            let geometry = Geometry { n_active: u64::from(n), committees_per_slot, slots_per_epoch };
            let committee = |nth| shuffling.committee(Slot::new(3 * 8 + 5), CommitteeIndex::new(nth)).unwrap().to_vec();
            let candidates: Vec<u32> = if whole_slot { (0..committees_per_slot).flat_map(committee).collect() } else { committee(0) };
            let mut members: Vec<u32> = chosen.iter().map(|at| candidates[at.index(candidates.len())]).chain(stranger).collect();
            members.sort_unstable();
            members.dedup();
            let vote = vote(3 * 8 + 5, members.iter().map(|v| ValidatorIndex::new(u64::from(*v))).collect());
            let expected = one_by_one(&shuffling, &geometry, 5, &vote);
            let mut present = SeatFinder::default();
            for _ in 0..2 {
                // It is called twice, because the bitmap must be empty again after each call.
                let found = present.seats(&shuffling, &geometry, 5, &vote);
                prop_assert_eq!(found.as_ref().map(|(bits, _)| bits), expected.as_ref().map(|(bits, _)| bits));
            }
            if let Some((bits, _)) = expected {
                let all: Vec<u32> = (0..committees_per_slot).flat_map(committee).collect();
                let mut seated: Vec<u32> = bits.iter().map(|at| all[at as usize]).collect();
                seated.sort_unstable();
                prop_assert_eq!(seated, members);
            }
        }
    }
}
