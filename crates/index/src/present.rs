//! Seats of an aggregate's members without a look-up per member.
//!
//! An aggregate brings most of a committee, ascending by validator; the committee lists its members in order of their
//! positions. Looking each up in a table of all seats waits for memory every time. Here the members are marked in a bit
//! map over all validators (125 KB per million, which stays in the cache), and the committee, which lies in one piece, is
//! walked once. Few members of a committee are left to the table: walking it would cost more.

use crate::members::Bits;
use crate::seating::Geometry;
use consensus::{CommitteeIndex, Shuffling};
use verify::Vote;

/// Walked is what has at least one in this many of its seats in the vote.
const WALKED: u32 = 8;

/// The bit map; empty between calls.
#[derive(Default)]
pub(crate) struct Present(Vec<u64>);

impl Present {
    /// Positions of a vote's members in their slot, and their committee if it is one. `None` if somebody sits elsewhere, or
    /// if it is not worth the walk.
    pub fn seats(&mut self, shuffling: &Shuffling, geometry: &Geometry, slot: u16, vote: &Vote) -> Option<(Bits, Option<u16>)> {
        let n_members = vote.indices.len() as u32;
        let seat = shuffling.seat(*vote.indices.first()?).filter(|seat| seat.slot == vote.data.slot)?;
        // Ascending: nothing is allocated for an index beyond the registry's.
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

    /// Adds a committee's members that are marked; says how many.
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
