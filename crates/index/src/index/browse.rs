//! Reading for display, a piece at a time: the newest votes of a validator, and the votes and
//! blocks of a slot. Each call has a bound on what it reads, so that the owner of the index can
//! answer between two batches.

use crate::newest_votes::NO_EPOCH;
use crate::storage::{Cf, SetKey, is_storable};
use crate::sums::{SetMembers, SumSet};
use crate::tables::{DataRow, OutsideVotes, VoteSpan};
use crate::{Index, IndexError, StoredProposal};
use consensus::{AttestationData, Epoch, Root, Slot, ValidatorIndex};
use std::collections::{BTreeMap, BTreeSet};
use verify::{Arrival, Time};

/// Limit on the rows with listed members that are read for one slot.
const MAX_LISTED_ROWS: usize = 4096;
/// Limit on listed members for whom it is checked whether a sum by seats contains them too. Each
/// check takes about 20 microseconds on mainnet.
const MAX_CHECKED: usize = 256;
/// Limit on listed members of a slot that are remembered, so that each counts once.
const MAX_LISTED_MEMBERS: usize = 131_072;
/// Limit on the sums of one slot's seats that are laid over each other, so that each seat counts
/// once. Eight take a millisecond on mainnet.
const MAX_UNITED: usize = 8;

/// A stored vote of one validator, with its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardVote {
    pub data: AttestationData,
    /// Hash-tree-root of `data`.
    pub data_root: Root,
    /// True if the vote contradicted another one when it came.
    pub outside_chain: bool,
    /// When and how the vote arrived. If its own arrival is no longer known, it is that of the
    /// earliest sum that proves the vote.
    pub arrival: Option<Arrival>,
}

/// Some votes of a validator, newest target first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VotePage {
    pub votes: Vec<HeardVote>,
    /// Where the next page begins, as its `before`. `None` at the end.
    pub next: Option<Epoch>,
}

/// All stored votes of a slot for the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VotesOfData {
    pub data: AttestationData,
    pub voters: u64,
}

/// The stored votes of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VotesOfSlot {
    /// Most voters first.
    pub votes: Vec<VotesOfData>,
    /// Seats of the slot's committees, the most of all branches. `None` if no committee is known.
    pub seats: Option<u64>,
    /// Validators with a vote for the slot, each counted once.
    pub voters: u64,
    /// Some validators may be in `voters` more than once, because they signed several votes and are
    /// too many to check.
    pub voters_partial: bool,
}

impl Index {
    /// The stored votes of a validator with targets before `before`, newest first, about `limit` at
    /// most: the votes of one epoch are never divided. Votes for a far future are not included.
    /// Takes about 20 microseconds per epoch.
    pub fn votes_before(&self, validator: ValidatorIndex, before: Epoch, limit: usize) -> Result<VotePage, IndexError> {
        let mut page = VotePage::default();
        if !is_storable(validator) {
            return Ok(page);
        }
        let list = if self.newest.get(validator).has_exceptions() {
            self.offenders.read(&self.db, validator)?
        } else {
            OutsideVotes::default()
        };
        let mut below = before.min(NO_EPOCH);
        while let Some((top, bottom)) = self.summary.block_below(&self.db, validator, below)? {
            for epoch in (bottom.as_u64()..=top.as_u64()).rev().map(Epoch::new) {
                if page.votes.len() >= limit {
                    page.next = Some(epoch.saturating_add(1));
                    return Ok(page);
                }
                for vote in self.votes_at(validator, epoch)? {
                    page.votes.extend(self.heard_vote(validator, &vote, &list)?);
                }
            }
            below = bottom;
        }
        Ok(page)
    }

    /// The target epoch of the earliest stored vote of a validator.
    pub fn first_epoch_of(&self, validator: ValidatorIndex) -> Result<Option<Epoch>, IndexError> {
        if !is_storable(validator) {
            return Ok(None);
        }
        let Some((first, end)) = self.summary.block_from(&self.db, validator, Epoch::new(0))? else { return Ok(None) };
        for epoch in (first.as_u64()..end.as_u64()).map(Epoch::new) {
            if !self.votes_at(validator, epoch)?.is_empty() {
                return Ok(Some(epoch));
            }
        }
        Ok(None)
    }

    /// The stored votes of a slot, by data. A validator that is in a sum by seats and in a list is
    /// counted once for each data, as far as [`MAX_CHECKED`] allows.
    pub fn votes_of_slot(&self, slot: Slot) -> Result<VotesOfSlot, IndexError> {
        let epoch = Epoch::new(slot.as_u64() / self.shape.slots_per_epoch);
        let in_epoch = (slot.as_u64() % self.shape.slots_per_epoch) as u16;
        let mut by_handle: BTreeMap<u32, (AttestationData, u64)> = BTreeMap::new();
        let mut by_seats: Vec<(SetKey, SumSet)> = Vec::new();
        let (mut seats, mut voters, mut n_seatings) = (None, 0, 0);
        let mut voters_partial = false;
        for seating in self.shufflings.of_epoch(&self.db, epoch)?.iter() {
            let (first, last) = SetKey::seat_range(epoch, Some((seating.id, in_epoch)));
            let sets = self.sets_between(&first, &last, usize::MAX)?;
            if !sets.is_empty() {
                let slot_len = seating.geometry.slot_len(in_epoch);
                seats = seats.max(Some(u64::from(slot_len)));
                n_seatings += 1;
                voters_partial |= n_seatings > 1 || sets.len() > MAX_UNITED;
                voters += match &sets[..] {
                    [(_, only)] => u64::from(only.n_covered()),
                    many if many.len() > MAX_UNITED => many.iter().map(|(_, set)| u64::from(set.n_covered())).sum(),
                    // Who signed several votes has the same seat in several sets.
                    many => (0..slot_len).filter(|seat| many.iter().any(|(_, set)| set.covers(*seat))).count() as u64,
                };
            }
            by_seats.extend(sets);
        }
        for (key, set) in &by_seats {
            self.add_voters(&mut by_handle, key, u64::from(set.n_covered()), slot)?;
        }
        let (first, last) = SetKey::seat_range(epoch, None);
        let mut n_checked = 0;
        let mut listed = BTreeSet::new();
        for (key, set) in self.sets_between(&first, &last, MAX_LISTED_ROWS)? {
            let mut n = u64::from(set.n_covered());
            if !self.is_of_slot(&key, slot)? {
                continue;
            }
            let members = listed_members(&set);
            for (nth, member) in members.iter().enumerate() {
                if by_seats.is_empty() && listed.len() < MAX_LISTED_MEMBERS {
                    voters += u64::from(listed.insert(*member));
                    continue;
                }
                if n_checked >= MAX_CHECKED {
                    voters_partial = true;
                    voters += (members.len() - nth) as u64;
                    break;
                }
                n_checked += 1;
                let seats = self.handles_with_seat(&by_seats, *member)?;
                if seats.contains(&key.handle) {
                    n = n.saturating_sub(1);
                }
                voters += u64::from(seats.is_empty() && listed.insert(*member));
            }
            self.add_voters(&mut by_handle, &key, n, slot)?;
        }
        let mut votes: Vec<VotesOfData> = by_handle.into_values().map(|(data, voters)| VotesOfData { data, voters }).collect();
        votes.retain(|vote| vote.voters > 0);
        votes.sort_by_key(|vote| (std::cmp::Reverse(vote.voters), vote.data.beacon_block_root));
        Ok(VotesOfSlot { votes, seats, voters, voters_partial })
    }

    /// The stored headers of the slots `from..=to`, at most `limit` of them, ordered by slot and
    /// arrival.
    pub fn proposals_in(&self, from: Slot, to: Slot, limit: usize) -> Result<Vec<StoredProposal>, IndexError> {
        let mut found = Vec::new();
        self.proposals_between(from, to, |proposal| {
            if found.len() < limit {
                found.push(proposal);
            }
        })?;
        found.sort_by_key(|proposal| (proposal.header.slot, proposal.heard.at, proposal.root));
        Ok(found)
    }

    /// The newest `limit` stored headers of a proposer in the slots `from..=to`, newest first. All
    /// headers of these slots are looked at, about one in a microsecond.
    pub fn newest_proposals(
        &self,
        proposer: ValidatorIndex,
        from: Slot,
        to: Slot,
        limit: usize,
    ) -> Result<Vec<StoredProposal>, IndexError> {
        let mut found = Vec::new();
        self.proposals_between(from, to, |proposal| {
            if proposal.header.proposer_index == proposer {
                found.push(proposal);
            }
        })?;
        found.sort_by_key(|proposal| std::cmp::Reverse((proposal.header.slot, proposal.heard.at, proposal.root)));
        found.truncate(limit);
        Ok(found)
    }

    /// The sets between two keys, in memory and on disk, at most `limit` of each.
    fn sets_between(&self, first: &SetKey, last: &SetKey, limit: usize) -> Result<Vec<(SetKey, SumSet)>, IndexError> {
        let mut found: Vec<(SetKey, SumSet)> =
            self.sets.range(first..=last).take(limit).map(|(key, set)| (*key, set.clone())).collect();
        let seating = self.seating_of(first)?;
        let geometry = seating.as_ref().map(|seating| &seating.geometry);
        let mut n_read = 0;
        self.db.scan(Cf::Votes, &first.to_bytes(), &last.to_bytes(), |key, value| {
            let unreadable = || self.db.corrupt(format!("a vote row of epoch {} does not parse", first.epoch));
            let key = SetKey::from_bytes(key).ok_or_else(unreadable)?;
            if !self.sets.contains_key(&key) {
                found.push((key, SumSet::decode(value, &key, geometry).ok_or_else(unreadable)?));
            }
            n_read += 1;
            Ok(n_read < limit)
        })?;
        Ok(found)
    }

    /// Adds the voters of a set to those of its data, if the data is of this slot.
    fn add_voters(
        &self,
        by_handle: &mut BTreeMap<u32, (AttestationData, u64)>,
        key: &SetKey,
        n: u64,
        slot: Slot,
    ) -> Result<(), IndexError> {
        let Some(row) = self.data.row(&self.db, key.epoch, key.handle)?.filter(|row| row.data.slot == slot) else {
            return Ok(());
        };
        by_handle.entry(key.handle).or_insert((row.data, 0)).1 += n;
        Ok(())
    }

    /// The data of all sums by seats that contain the validator.
    fn handles_with_seat(&self, by_seats: &[(SetKey, SumSet)], validator: u32) -> Result<BTreeSet<u32>, IndexError> {
        let mut handles = BTreeSet::new();
        // The sums of one seating follow each other, and finding a seat takes time.
        let mut located = None;
        for (key, set) in by_seats {
            let seat = match located {
                Some((shuffling, seat)) if shuffling == key.shuffling => seat,
                _ => {
                    let seating = self.seating_of(key)?;
                    let seat = seating.and_then(|seating| seating.locate(ValidatorIndex::new(u64::from(validator))));
                    located = Some((key.shuffling, seat));
                    seat
                }
            };
            if seat.is_some_and(|(slot, position)| slot == key.slot && set.covers(position)) {
                handles.insert(key.handle);
            }
        }
        Ok(handles)
    }

    /// Whether the data of a set is of this slot.
    fn is_of_slot(&self, key: &SetKey, slot: Slot) -> Result<bool, IndexError> {
        Ok(self.data.row(&self.db, key.epoch, key.handle)?.is_some_and(|row| row.data.slot == slot))
    }

    fn heard_vote(
        &self,
        validator: ValidatorIndex,
        vote: &VoteSpan,
        list: &OutsideVotes,
    ) -> Result<Option<HeardVote>, IndexError> {
        let Some(row) = self.data.row(&self.db, vote.target, vote.handle)? else { return Ok(None) };
        let outside_chain = list.has(vote.handle);
        let own = self.arrivals.of_outside(validator, vote.handle).or_else(|| {
            // If the list was cut, it does not show which votes are in the chain.
            (!list.cut && !outside_chain).then(|| self.arrivals.of_chain(validator, vote.target)).flatten()
        });
        let arrival = match own {
            Some(arrival) => Some(arrival),
            None => self.arrival_of_sum(validator, &row)?,
        };
        Ok(Some(HeardVote { data: row.data, data_root: row.root, outside_chain, arrival }))
    }

    /// The arrival of the earliest sum over this data that contains the validator.
    fn arrival_of_sum(&self, validator: ValidatorIndex, row: &DataRow) -> Result<Option<Arrival>, IndexError> {
        let mut earliest: Option<Arrival> = None;
        for (key, _, member) in self.places_of(validator, row)? {
            let read = if self.sets.contains_key(&key) { None } else { self.read_set(&key)? };
            let Some(set) = self.sets.get(&key).or(read.as_ref()) else { continue };
            for sum in set.sums.iter().filter(|sum| sum.members.contains(member)) {
                let arrival = Arrival { at: Time(sum.heard.at_ns), source: sum.heard.source };
                earliest = Some(earliest.map_or(arrival, |known| known.min(arrival)));
            }
        }
        Ok(earliest)
    }
}

/// The members of a set whose members are listed, each once.
fn listed_members(set: &SumSet) -> Vec<u32> {
    let lists = set.sums.iter().filter_map(|sum| match &sum.members {
        SetMembers::Listed(list) => Some(list),
        SetMembers::Seats(_) => None,
    });
    let mut members: Vec<u32> = lists.flatten().copied().collect();
    members.sort_unstable();
    members.dedup();
    members
}
