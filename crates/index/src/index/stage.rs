//! Turns proven votes into conflicts. Each new member of each sum is judged, and then the sum is
//! stored.

use super::conflict_check::{ConflictCheck, ConflictKind};
use crate::committees::Seating;
use crate::epochs::{AT_LEAST, EpochReader};
use crate::newest_votes::{Joined, NONE, Quick, Remembered};
use crate::storage::{Cf, SetKey, StoredFirstSeen, source_number};
use crate::sums::{SetMembers, Sum};
use crate::tables::{ALL_KINDS, DataRow, OutsideVote};
use crate::{Conflict, Index, IndexError, StoredVote};
use consensus::{Epoch, ForkName, Offence, SignatureBytes, ValidatorIndex};
use std::collections::HashMap;
use std::sync::Arc;
use verify::{Arrival, FirstSeen, Signed, SourceKind, UnixNs, Vote};

/// Proofs that are built during one call are shared by the conflicts of one pair of rows. At most
/// this many are kept at once.
const MAX_SHARED_PROOFS: usize = 1024;

/// The largest number of epochs whose votes are counted to find the tail. Beyond it, epochs with
/// few votes are dropped.
const MAX_EPOCHS_SEEN: usize = 4096;

/// The proofs that were already built in this call, by set and signature.
pub(crate) type SharedProofs = HashMap<(SetKey, SignatureBytes), Arc<StoredVote>>;

impl Index {
    /// Takes proven votes and returns every contradiction with a stored vote, or with an earlier
    /// vote of the same call. The votes take effect in memory at once, and they are durable after
    /// the next [`Self::commit`]. A vote that is already known contradicts nothing.
    pub fn stage_votes(&mut self, votes: &[Signed<Vote>]) -> Result<Vec<Conflict>, IndexError> {
        self.stage_votes_if(votes, &mut |_, _, _| true)
    }

    /// Same as [`Self::stage_votes`], for a caller that does not want all conflicts. `wants` is
    /// asked about each pair, with its validator, its offence and the target epochs of the two
    /// votes. It is asked before the other side is read and the conflict is built, which is most of
    /// the cost of a pair. A caller that answers `false` counts the pair itself. The first pair of
    /// each validator and offence is always returned without asking. For pairs beyond the index's
    /// own bounds, `wants` is not asked, and they are not returned.
    pub fn stage_votes_if(
        &mut self,
        votes: &[Signed<Vote>],
        wants: &mut dyn FnMut(ValidatorIndex, Offence, [Epoch; 2]) -> bool,
    ) -> Result<Vec<Conflict>, IndexError> {
        self.stage_each(votes.iter().map(Signed::get), wants)
    }

    /// Stages votes that nobody proved, for the load of `bench index`. Only the benchmark's own
    /// index takes them. Its network does not exist, so no watcher opens such an index.
    #[cfg(feature = "bench")]
    pub(crate) fn stage_unproven_votes(&mut self, votes: &[Vote]) -> Result<Vec<Conflict>, IndexError> {
        let network = self.shape.genesis_validators_root;
        assert_eq!(network, crate::bench::NETWORK, "unproven votes go into an index of the benchmark's network only");
        self.stage_each(votes.iter(), &mut |_, _, _| true)
    }

    fn stage_each<'v>(
        &mut self,
        mut votes: impl Iterator<Item = &'v Vote>,
        wants: &mut dyn FnMut(ValidatorIndex, Offence, [Epoch; 2]) -> bool,
    ) -> Result<Vec<Conflict>, IndexError> {
        let mut pairs = Pairs { named: Vec::new(), wants };
        let mut proofs = SharedProofs::new();
        let staged = votes.try_for_each(|vote| {
            if proofs.len() > MAX_SHARED_PROOFS {
                proofs.clear();
            }
            self.stage_vote(vote, &mut proofs, &mut pairs)
        });
        self.summary.settle(&self.db)?;
        staged?;
        // Only now: the same vote may have come later in the call, in a message that was earlier.
        pairs.named.into_iter().map(|pair| self.conflict(pair)).collect()
    }

    fn stage_vote(&mut self, vote: &Vote, proofs: &mut SharedProofs, pairs: &mut Pairs<'_>) -> Result<(), IndexError> {
        self.counters.votes += vote.indices.len() as u64;
        // The registry bounds the index of a proven validator. An index that no registry can have
        // is not stored.
        if vote.indices.last().is_none_or(|last| last.as_u64() >= u64::from(NONE)) {
            self.counters.refused_index += 1;
            return Ok(());
        }
        let n_data = self.data.next_handle;
        let Some(row) = self.data.intern(&self.db, &vote.data, vote.data_root)? else {
            self.counters.refused_data += 1;
            return Ok(());
        };
        let place = self.place(vote, &row)?;
        self.ensure_set(place.key)?;
        let set = self.sets.get(&place.key).expect("ensured above");
        let fresh: Vec<u32> = if set.covers_none(&place.members) {
            vote.indices.iter().map(|index| index.as_u64() as u32).collect()
        } else {
            place.validators(set.without_covered(&place.members))
        };
        if fresh.is_empty() {
            return self.hear(vote, &row, &[]);
        }

        let near_target = u32::try_from(row.target()).ok().filter(|_| self.limits.is_near(row.target()));
        let near = match (u32::try_from(row.source()), near_target) {
            (Ok(source), Some(target)) if source < NONE => Some(Remembered { source, target, handle: row.handle }),
            _ => None,
        };
        let late = row.target() < self.state.tail_from;
        let mut joined = std::mem::take(&mut self.joined);
        match near {
            Some(near) => self.newest.join_all(&fresh, near, late, &mut joined),
            None => joined = Joined { to_ask: fresh.clone(), ..Joined::default() },
        }
        if let Some(near) = near.filter(|_| joined.to_ask.len() >= AT_LEAST) {
            self.judge_together(near, &mut joined)?;
        }
        let mut dropped = Vec::new();
        if !joined.to_ask.is_empty() {
            // The walks use the summary.
            self.summary.settle(&self.db)?;
            let this = Arc::new(stored(vote));
            for validator in &joined.to_ask {
                match self.ask(*validator, &row, near, late, &this, proofs, pairs)? {
                    SlowCheck::Taken => {
                        joined.n_joined += 1;
                        joined.to_mark.push(*validator);
                    }
                    SlowCheck::Known => {}
                    SlowCheck::Dropped => dropped.push(*validator),
                }
            }
        }
        self.counters.new_votes += joined.n_joined;
        if dropped.len() == fresh.len() {
            self.joined = joined;
            // An offender may sign any number of different data. Those that are not stored leave
            // nothing behind.
            if self.data.next_handle != n_data {
                self.data.take_back(&row);
                self.sets.remove(&place.key);
            }
            return Ok(());
        }
        dropped.sort_unstable();
        self.hear(vote, &row, &dropped)?;
        if let Some(epoch) = near_target {
            self.reach = self.reach.max(epoch);
            self.summary.mark(&self.db, epoch, &joined.to_mark, late)?;
            self.count_epoch(row.target(), joined.n_joined);
        }
        if let Some(epoch) = u32::try_from(row.target()).ok().filter(|epoch| *epoch < NONE) {
            self.neighbours.note(epoch, near.map(|near| near.source), &fresh);
        }
        self.folded_to = self.folded_to.min(row.target());
        self.joined = joined;
        self.take_in(vote, place);
        Ok(())
    }

    /// Finds the votes that certainly join their chain, among those that are older than both
    /// remembered votes.
    fn judge_together(&mut self, vote: Remembered, joined: &mut Joined) -> Result<(), IndexError> {
        let Self { db, shufflings, data, sets, newest, neighbours, .. } = self;
        let reader = EpochReader { db, shufflings, data, sets };
        let n_ask = joined.to_ask.len() as u64;
        let Some(around) = neighbours.of(&reader, vote.target, n_ask, newest.n_validators)? else { return Ok(()) };
        let Joined { n_joined, to_mark, to_ask } = joined;
        to_ask.retain(|validator| {
            let head = newest.get(*validator);
            let is_older = head.second().get().is_some_and(|second| vote.target < second.target);
            let joins = is_older && !head.has_exceptions() && around.surely_joins(*validator, vote.source);
            if joins {
                *n_joined += 1;
                to_mark.push(*validator);
            }
            !joins
        });
        Ok(())
    }

    /// Counts new votes for a target epoch, to find the tail.
    pub(crate) fn count_epoch(&mut self, epoch: u64, n_votes: u64) {
        if self.epochs_seen.len() >= MAX_EPOCHS_SEEN && !self.epochs_seen.contains_key(&epoch) {
            let most = self.epochs_seen.values().max().copied().unwrap_or(0);
            self.epochs_seen.retain(|_, n| *n > most / 16);
        }
        *self.epochs_seen.entry(epoch).or_default() += n_votes;
    }

    /// The slow way: judges a vote against everything stored of this validator.
    #[expect(clippy::too_many_arguments, reason = "the pieces of one vote's staging, borrowed apart")]
    fn ask(
        &mut self,
        validator: u32,
        row: &DataRow,
        near: Option<Remembered>,
        late: bool,
        this: &Arc<StoredVote>,
        proofs: &mut SharedProofs,
        pairs: &mut Pairs<'_>,
    ) -> Result<SlowCheck, IndexError> {
        self.counters.slow_votes += 1;
        if let Some(asked) = self.ask_list_only(validator, row, near)? {
            return Ok(asked);
        }
        let judged = self.judge(validator, row)?;
        if judged.duplicate {
            return Ok(SlowCheck::Known);
        }
        let joins = near.filter(|_| judged.joins);
        if joins.is_none() && !self.has_room(validator, row, &judged)? {
            return self.drop_vote(validator);
        }
        self.counters.pairs_over_cap += u64::from(judged.more_pairs);
        let known_kinds = if judged.rivals.is_empty() { 0 } else { self.offenders.list(&self.db, validator)?.kinds };
        let mut kinds = 0;
        for rival in &judged.rivals {
            let (index, offence) = (ValidatorIndex::new(u64::from(validator)), rival.kind.offence());
            // The first pair of each kind is always built, because only a pair with proof marks its
            // validator.
            let is_new_kind = (known_kinds | kinds) & rival.kind.offence_bit() == 0;
            let targets = [row.target(), rival.target].map(Epoch::new);
            if !is_new_kind && !(pairs.wants)(index, offence, targets) {
                continue;
            }
            let Some(other) = self.proof_of(validator, rival.target, rival.handle, proofs)? else {
                // The row of this vote was pruned, but the list may still contain it.
                self.offenders.remove(&self.db, validator, rival.handle)?;
                continue;
            };
            let [this, other] =
                [(row.handle, this.clone()), (rival.handle, other)].map(|(handle, vote)| ConflictSide { handle, vote });
            pairs.named.push(ConflictPair { kind: rival.kind, validator, this, other });
            kinds |= rival.kind.offence_bit();
            self.counters.conflicts += 1;
        }
        match joins {
            Some(near) => self.newest.observe(validator, near, late),
            None => {
                self.put_on_list(validator, OutsideVote { source: row.source(), target: row.target(), handle: row.handle })?
            }
        }
        if joins.is_none() || kinds != 0 {
            // A validator that contradicts itself once is marked permanently, whichever of its
            // votes stayed in the chain.
            self.offenders.add_kinds(&self.db, validator, kinds)?;
            self.newest.mark_exceptional(validator);
        }
        Ok(SlowCheck::Taken)
    }

    /// Handles votes that need no look at the rows. These are votes of a validator that has shown
    /// every kind of offence, whose list is full, and whose share of this epoch is used up, unless
    /// they simply continue its chain. Reading the rows would take milliseconds, and the vote is
    /// not stored anyway.
    fn ask_list_only(
        &mut self,
        validator: u32,
        row: &DataRow,
        near: Option<Remembered>,
    ) -> Result<Option<SlowCheck>, IndexError> {
        let head = self.newest.get(validator);
        if !head.has_exceptions() || self.limits.has_left(validator) {
            return Ok(None);
        }
        let list = self.offenders.list(&self.db, validator)?;
        if !list.is_full() || list.kinds != ALL_KINDS {
            return Ok(None);
        }
        if list.has(row.handle) {
            return Ok(Some(SlowCheck::Known));
        }
        match near.map(|near| head.quick(near)) {
            Some(Quick::Same) => Ok(Some(SlowCheck::Known)),
            Some(Quick::Joins { .. }) => Ok(None),
            Some(Quick::Ask) | None => self.drop_vote(validator).map(Some),
        }
    }

    /// Whether a vote outside the chain may be stored: the list is not full, or the vote shows a
    /// kind of offence that nothing stored shows, or this epoch has room for it.
    fn has_room(&mut self, validator: u32, row: &DataRow, judged: &ConflictCheck) -> Result<bool, IndexError> {
        let list = self.offenders.list(&self.db, validator)?;
        if !list.is_full() || list.kinds | judged.kinds() != list.kinds {
            return Ok(true);
        }
        let shows_more = list.kinds != ALL_KINDS && !judged.is_spanned(row.source());
        Ok(self.limits.spend(validator, shows_more))
    }

    fn drop_vote(&mut self, validator: u32) -> Result<SlowCheck, IndexError> {
        self.offenders.cut(&self.db, validator)?;
        self.counters.votes_over_cap += 1;
        Ok(SlowCheck::Dropped)
    }

    fn put_on_list(&mut self, validator: u32, vote: OutsideVote) -> Result<(), IndexError> {
        let Self { limits, offenders, db, .. } = self;
        let unlisted = offenders.add(db, validator, vote, |vote| !limits.is_near(vote.target))?;
        if let Some(vote) = unlisted
            && limits.is_near(vote.target)
            && let Ok(epoch) = u32::try_from(vote.target)
        {
            // From now on only the row contains this vote. It may have been far when it was listed,
            // so the summary may not contain it yet.
            self.reach = self.reach.max(epoch);
            self.summary.mark(db, epoch, &[validator], vote.target < self.state.tail_from)?;
            self.summary.settle(db)?;
        }
        Ok(())
    }

    /// Notes the arrivals of a vote's members. `dropped` (ascending) contains the members whose
    /// vote was not stored.
    fn hear(&mut self, vote: &Vote, row: &DataRow, dropped: &[u32]) -> Result<(), IndexError> {
        let Self { db, newest, offenders, arrivals, .. } = self;
        let members = vote.indices.iter().zip(&vote.arrivals).map(|(index, arrival)| (index.as_u64() as u32, *arrival));
        let near = u32::try_from(row.target()).ok().filter(|target| *target < NONE);
        let is_chain = |validator: u32| near.is_some() && !newest.has_exceptions(validator);
        if let Some(target) = near {
            arrivals.hear(target, members.clone().filter(|(validator, _)| is_chain(*validator)));
        }
        for (validator, arrival) in members.filter(|(validator, _)| !is_chain(*validator)) {
            let list = offenders.list(db, validator)?;
            match near {
                _ if dropped.binary_search(&validator).is_ok() => {}
                Some(target) if !list.cut && !list.has(row.handle) => arrivals.hear(target, [(validator, arrival)].into_iter()),
                Some(_) | None => arrivals.hear_outside(validator, row.handle, arrival),
            }
        }
        Ok(())
    }

    /// Makes a conflict, with the arrival of each side's own message.
    fn conflict(&mut self, pair: ConflictPair) -> Result<Conflict, IndexError> {
        let ConflictPair { kind, validator, this, other } = pair;
        let list = self.offenders.list(&self.db, validator)?;
        let arrivals = &self.arrivals;
        let arrived = |side: &ConflictSide| -> Arrival {
            let of_chain = || arrivals.of_chain(validator, side.vote.data.target.epoch.as_u64());
            // If the list was cut, it does not show which votes are in the chain.
            let is_chain = !list.cut && !list.has(side.handle);
            let own = arrivals.of_outside(validator, side.handle).or_else(|| is_chain.then(of_chain).flatten());
            own.unwrap_or_else(|| side.vote.heard.arrival())
        };
        let (this_at, other_at) = (arrived(&this), arrived(&other));
        let (validator, this, other) = (ValidatorIndex::new(u64::from(validator)), this.vote, other.vote);
        Ok(match kind {
            ConflictKind::Double => Conflict::DoubleVote { validator, first: other, second: this, arrivals: [other_at, this_at] },
            ConflictKind::IsSurrounded => {
                Conflict::Surround { validator, surrounding: other, surrounded: this, arrivals: [other_at, this_at] }
            }
            ConflictKind::Surrounds => {
                Conflict::Surround { validator, surrounding: this, surrounded: other, arrivals: [this_at, other_at] }
            }
        })
    }

    /// Finds the set for a vote: by seats if all members have their seats at the data's slot in a
    /// shuffling that can be computed again, otherwise by list.
    fn place(&mut self, vote: &Vote, row: &DataRow) -> Result<VoteLocation, IndexError> {
        if let Some(shuffling) = vote.shuffling.as_ref().filter(|_| vote.signed_with.is_none())
            && shuffling.epoch() == vote.data.target.epoch
            && let Some(seating) = self.shufflings.register(&self.db, shuffling)?
        {
            let first_slot = shuffling.epoch().as_u64().checked_mul(seating.geometry.slots_per_epoch);
            let slot = first_slot.and_then(|first| vote.data.slot.as_u64().checked_sub(first));
            let slot = slot.filter(|slot| *slot < seating.geometry.slots_per_epoch).map(|slot| slot as u16);
            if let Some(slot) = slot
                && let Some((bits, committee)) = self.seat_finder.seats(shuffling, &seating.geometry, slot, vote)
            {
                let key = SetKey { epoch: row.target(), shuffling: Some(seating.id), slot, handle: row.handle };
                return Ok(VoteLocation { key, seating: Some(seating), members: SetMembers::Seats(bits), committee });
            }
        }
        let members = SetMembers::Listed(vote.indices.iter().map(|index| index.as_u64() as u32).collect());
        Ok(VoteLocation {
            key: SetKey::listed_of(row.target(), row.handle, vote.signed_with),
            seating: None,
            members,
            committee: None,
        })
    }

    fn take_in(&mut self, vote: &Vote, place: VoteLocation) {
        let VoteLocation { key, seating, members, committee } = place;
        let n_members = vote.indices.len() as u32;
        let heard = StoredFirstSeen {
            at_ns: vote.heard.at.0,
            source: source_number(vote.heard.source),
            peer: self.peers.number(&vote.heard),
        };
        let sum = Sum { members, n_members, committee, signature: vote.signature, heard };
        let set = self.sets.get_mut(&key).expect("ensured when the vote was placed");
        if set.staged.is_empty() {
            self.dirty.push(key);
        }
        set.touched = self.n_commits;
        set.stage(sum);
        if set.wants_merging() {
            set.merge(seating.map_or(0, |seating| seating.geometry.slot_len(key.slot)));
        }
    }

    /// The smallest stored sum that proves a validator's vote. `None` if it was pruned.
    pub(crate) fn proof_of(
        &mut self,
        validator: u32,
        epoch: u64,
        handle: u32,
        proofs: &mut SharedProofs,
    ) -> Result<Option<Arc<StoredVote>>, IndexError> {
        let Some(row) = self.data.row(&self.db, epoch, handle)? else { return Ok(None) };
        let mut best: Option<(SetKey, usize, u32, Option<Arc<Seating>>)> = None;
        for (key, seating, member) in self.places_of(validator, &row)? {
            self.ensure_set(key)?;
            let set = self.sets.get(&key).expect("ensured above");
            if let Some(at) = set.proof_of(member) {
                let n_members = set.sums[at].n_members;
                if best.as_ref().is_none_or(|best| n_members < best.2) {
                    best = Some((key, at, n_members, seating));
                }
            }
        }
        let Some((key, at, _, seating)) = best else { return Ok(None) };
        let sum = &self.sets[&key].sums[at];
        // An owner of several keys can make sums of different signers with the same signature.
        let signer = ValidatorIndex::new(u64::from(validator));
        if let Some(known) = proofs.get(&(key, sum.signature)).filter(|known| known.indices.binary_search(&signer).is_ok()) {
            return Ok(Some(known.clone()));
        }
        let mut indices = match (&sum.members, seating) {
            (SetMembers::Seats(bits), Some(seating)) => seating.validators_at(key.slot, bits.iter()),
            (SetMembers::Listed(list), _) => list.clone(),
            (SetMembers::Seats(_), None) => Vec::new(),
        };
        indices.sort_unstable();
        let proof = Arc::new(StoredVote {
            data: row.data,
            data_root: row.root,
            indices: indices.into_iter().map(|index| ValidatorIndex::new(u64::from(index))).collect(),
            signature: sum.signature,
            heard: self.heard(sum.heard),
        });
        proofs.insert((key, sum.signature), proof.clone());
        Ok(Some(proof))
    }

    /// The keys of all sets over one data that can contain a validator, each with the validator's
    /// position or index in it.
    fn places_of(&self, validator: u32, row: &DataRow) -> Result<Vec<PossibleLocation>, IndexError> {
        let mut places = vec![(SetKey::listed(row.target(), row.handle), None, validator)];
        // Votes that are signed with another version than the scheduled one. There are hardly ever
        // any, and one look shows whether there are.
        let (first, last) =
            (SetKey::listed_of(row.target(), 0, Some(ForkName::Phase0)), SetKey::seat_range(row.target(), None).1);
        let mut has_some = self.sets.range(first..=last).next().is_some();
        self.db.scan(Cf::Votes, &first.to_bytes(), &last.to_bytes(), |_, _| {
            has_some = true;
            Ok(false)
        })?;
        if has_some {
            let key = |fork| SetKey::listed_of(row.target(), row.handle, Some(fork));
            places.extend(ForkName::ALL.into_iter().map(|fork| (key(fork), None, validator)));
        }
        for seating in self.shufflings.of_epoch(&self.db, row.target())?.iter() {
            let Some((slot, position)) = seating.locate(validator) else { continue };
            if row.data.slot.as_u64() == row.target().wrapping_mul(seating.geometry.slots_per_epoch).wrapping_add(u64::from(slot))
            {
                let key = SetKey { epoch: row.target(), shuffling: Some(seating.id), slot, handle: row.handle };
                places.push((key, Some(seating.clone()), position));
            }
        }
        Ok(places)
    }

    pub(crate) fn heard(&self, heard: StoredFirstSeen) -> FirstSeen {
        let source = SourceKind::ALL[usize::from(heard.source & 3)];
        FirstSeen { at: UnixNs(heard.at_ns), source, peer: self.peers.peer(heard.peer, UnixNs(heard.at_ns)) }
    }
}

/// What a call has found so far.
struct Pairs<'a> {
    named: Vec<ConflictPair>,
    wants: &'a mut dyn FnMut(ValidatorIndex, Offence, [Epoch; 2]) -> bool,
}

/// Two votes of one validator that contradict each other. `kind` is the relation of the new one to
/// the other.
struct ConflictPair {
    kind: ConflictKind,
    validator: u32,
    this: ConflictSide,
    other: ConflictSide,
}

struct ConflictSide {
    handle: u32,
    vote: Arc<StoredVote>,
}

/// A set that can contain a validator, and the validator's position or index in it.
type PossibleLocation = (SetKey, Option<Arc<Seating>>, u32);

/// The set to which a vote belongs.
struct VoteLocation {
    key: SetKey,
    seating: Option<Arc<Seating>>,
    members: SetMembers,
    /// The committee, if all members are in the same one.
    committee: Option<u16>,
}

impl VoteLocation {
    /// The validators behind `members`, in the same order.
    fn validators(&self, members: Vec<u32>) -> Vec<u32> {
        match &self.seating {
            Some(seating) => seating.validators_at(self.key.slot, members.into_iter()),
            None => members,
        }
    }
}

enum SlowCheck {
    Taken,
    Known,
    /// The validator's list is full, the vote shows nothing new, and the validator's share of this
    /// epoch is used up.
    Dropped,
}

fn stored(vote: &Vote) -> StoredVote {
    StoredVote {
        data: vote.data,
        data_root: vote.data_root,
        indices: vote.indices.clone(),
        signature: vote.signature,
        heard: vote.heard.clone(),
    }
}
