//! Turns proven votes into conflicts. Each new member of each sum is judged, and then the sum is
//! stored.

use super::conflict_check::{ConflictCheck, ConflictKind};
use crate::committees::Seating;
use crate::epochs::{AT_LEAST, EpochReader};
use crate::newest_votes::{Joined, NO_EPOCH, Quick};
use crate::storage::{Cf, SetKey, StoredFirstSeen, is_storable};
use crate::sums::{SetMembers, Sum};
use crate::tables::{ALL_KINDS, DataRow, PUNISHABLE_SHIFT, VoteSpan};
use crate::{Conflict, Index, IndexError, StoredVote};
use consensus::{Epoch, ForkName, Offence, SignatureBytes, ValidatorIndex};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use verify::{Arrival, FirstSeen, Signed, Time, Vote};

/// Proofs that are built during one call are shared by the conflicts of one pair of rows. At most
/// this many are kept at once.
const MAX_SHARED_PROOFS: usize = 1024;

/// The largest number of epochs whose votes are counted to find the tail. Beyond it, epochs with
/// few votes are dropped.
const MAX_EPOCHS_SEEN: usize = 4096;

/// The proofs that were already built in this call, by set and signature.
pub(super) type SharedProofs = HashMap<(SetKey, SignatureBytes), Arc<StoredVote>>;

/// What the caller of [`Index::stage_votes_if`] decides about pairs of contradicting votes.
pub struct PairRules<'a> {
    /// Whether the conflict of a pair is wanted, by its validator, its offence and the target
    /// epochs of the two votes. It is asked before the other side is read and the conflict is
    /// built, which is most of the cost of a pair. A caller that answers `false` counts the pair
    /// itself. The first pair of each validator and offence, and the first that can be punished,
    /// are always returned without asking. For pairs beyond the index's own bounds it is not asked,
    /// and they are not returned.
    pub wants: &'a mut dyn FnMut(ValidatorIndex, Offence, [Epoch; 2]) -> bool,
    /// Whether the validator can be punished for two votes with these targets. If it cannot for a
    /// target twice, then it cannot for that target with any other.
    pub can_be_punished: &'a dyn Fn(ValidatorIndex, [Epoch; 2]) -> bool,
}

impl PairRules<'_> {
    /// The bits of a pair in [`OutsideVotes::kinds`](crate::tables::OutsideVotes::kinds).
    fn kind_bits(&self, validator: ValidatorIndex, kind: ConflictKind, targets: [Epoch; 2]) -> u8 {
        let shown = kind.offence_bit();
        if (self.can_be_punished)(validator, targets) { shown | shown << PUNISHABLE_SHIFT } else { shown }
    }

    /// The bits that pairs with a vote for this target can have.
    fn possible_kinds(&self, validator: ValidatorIndex, target: Epoch) -> u8 {
        if (self.can_be_punished)(validator, [target; 2]) { ALL_KINDS | ALL_KINDS << PUNISHABLE_SHIFT } else { ALL_KINDS }
    }
}

impl Index {
    /// Takes proven votes and returns every contradiction with a stored vote, or with an earlier
    /// vote of the same call. The votes take effect in memory at once, and they are durable after
    /// the next [`Self::commit`]. A vote that is already known contradicts nothing.
    pub fn stage_votes(&mut self, votes: &[Signed<Vote>]) -> Result<Vec<Conflict>, IndexError> {
        self.stage_votes_if(votes, PairRules { wants: &mut |_, _, _| true, can_be_punished: &|_, _| true })
    }

    /// Same as [`Self::stage_votes`], for a caller that does not want all conflicts. See
    /// [`PairRules`].
    pub fn stage_votes_if(&mut self, votes: &[Signed<Vote>], rules: PairRules<'_>) -> Result<Vec<Conflict>, IndexError> {
        self.stage_each(votes.iter().map(Signed::get), rules)
    }

    /// Stages votes that nobody proved, for the load of `bench index`. Only the benchmark's own
    /// index takes them. Its network does not exist, so no watcher opens such an index.
    #[cfg(feature = "bench")]
    pub(crate) fn stage_unproven_votes(&mut self, votes: &[Vote]) -> Result<Vec<Conflict>, IndexError> {
        let network = self.shape.genesis_validators_root;
        assert_eq!(network, crate::bench::NETWORK, "unproven votes go into an index of the benchmark's network only");
        self.stage_each(votes.iter(), PairRules { wants: &mut |_, _, _| true, can_be_punished: &|_, _| true })
    }

    fn stage_each<'v>(
        &mut self,
        mut votes: impl Iterator<Item = &'v Vote>,
        rules: PairRules<'_>,
    ) -> Result<Vec<Conflict>, IndexError> {
        let mut pairs = Pairs { found: Vec::new(), rules };
        let mut proofs = SharedProofs::new();
        let staged = votes.try_for_each(|vote| {
            if proofs.len() > MAX_SHARED_PROOFS {
                proofs.clear();
            }
            self.stage_vote(vote, &mut proofs, &mut pairs)
        });
        self.summary.add_marked(&self.db)?;
        staged?;
        // Only now: the same vote may have come later in the call, in a message that was earlier.
        pairs.found.into_iter().map(|pair| self.conflict(pair)).collect()
    }

    fn stage_vote(&mut self, vote: &Vote, proofs: &mut SharedProofs, pairs: &mut Pairs<'_>) -> Result<(), IndexError> {
        self.counted.votes += vote.indices.len() as u64;
        // The registry bounds the index of a proven validator. An index that no registry can have
        // is not stored.
        if vote.indices.last().is_none_or(|last| !is_storable(*last)) {
            self.counted.refused_index += 1;
            return Ok(());
        }
        let n_data = self.data.next_handle;
        let Some(row) = self.data.intern(&self.db, &vote.data, vote.data_root)? else {
            self.counted.refused_data += 1;
            return Ok(());
        };
        let place = self.place(vote, &row)?;
        self.ensure_set(place.key)?;
        let set = self.sets.get(&place.key).expect("ensured above");
        let fresh = if set.covers_none(&place.members) {
            Cow::Borrowed(vote.indices.as_slice())
        } else {
            Cow::Owned(place.validators(set.without_covered(&place.members)))
        };
        if fresh.is_empty() {
            return self.note_arrivals(vote, &row, &[]);
        }

        let is_near = self.limits.is_near(row.target());
        let near = (is_near && row.source() < NO_EPOCH).then(|| row.span());
        let late = row.target() < self.state.tail_from;
        let mut joined = std::mem::take(&mut self.joined);
        match near {
            Some(near) => self.newest.join_all(&fresh, near, late, &mut joined),
            None => joined = Joined { to_check: fresh.to_vec(), ..Joined::default() },
        }
        if let Some(near) = near.filter(|_| joined.to_check.len() >= AT_LEAST) {
            self.join_by_neighbours(near, &mut joined)?;
        }
        let mut dropped = Vec::new();
        if !joined.to_check.is_empty() {
            // The walks use the summary.
            self.summary.add_marked(&self.db)?;
            let this = Arc::new(stored(vote));
            for validator in &joined.to_check {
                match self.check_slowly(*validator, &row, near, late, &this, proofs, pairs)? {
                    SlowCheck::Taken => {
                        joined.n_joined += 1;
                        joined.to_mark.push(*validator);
                    }
                    SlowCheck::Known => {}
                    SlowCheck::Dropped => dropped.push(*validator),
                }
            }
        }
        self.counted.new_votes += joined.n_joined;
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
        self.note_arrivals(vote, &row, &dropped)?;
        if is_near {
            self.reach = self.reach.max(row.target());
            self.summary.mark(&self.db, row.target(), &joined.to_mark, late)?;
            self.count_epoch(row.target(), joined.n_joined);
        }
        if row.target() < NO_EPOCH {
            self.neighbours.note(row.target(), near.map_or(NO_EPOCH, |near| near.source), &fresh);
        }
        self.folded_to = self.folded_to.min(row.target());
        self.joined = joined;
        self.add_sum(vote, place);
        Ok(())
    }

    /// Finds the votes that certainly join their chain, among those that are older than both
    /// remembered votes.
    fn join_by_neighbours(&mut self, vote: VoteSpan, joined: &mut Joined) -> Result<(), IndexError> {
        let Self { db, shufflings, data, sets, newest, neighbours, .. } = self;
        let reader = EpochReader { db, shufflings, data, sets };
        let n_unclear = joined.to_check.len() as u64;
        let Some(around) = neighbours.of(&reader, vote.target, n_unclear, newest.n_validators)? else { return Ok(()) };
        let Joined { n_joined, to_mark, to_check } = joined;
        to_check.retain(|validator| {
            let head = newest.get(*validator);
            let is_older = head.second().is_some_and(|second| vote.target < second.target);
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
    pub(super) fn count_epoch(&mut self, epoch: Epoch, n_votes: u64) {
        if self.epochs_seen.len() >= MAX_EPOCHS_SEEN && !self.epochs_seen.contains_key(&epoch) {
            let most = self.epochs_seen.values().max().copied().unwrap_or(0);
            self.epochs_seen.retain(|_, n| *n > most / 16);
        }
        *self.epochs_seen.entry(epoch).or_default() += n_votes;
    }

    /// The slow way: compares a vote with everything stored of this validator.
    #[expect(clippy::too_many_arguments, reason = "the pieces of one vote's staging, borrowed apart")]
    fn check_slowly(
        &mut self,
        validator: ValidatorIndex,
        row: &DataRow,
        near: Option<VoteSpan>,
        late: bool,
        this: &Arc<StoredVote>,
        proofs: &mut SharedProofs,
        pairs: &mut Pairs<'_>,
    ) -> Result<SlowCheck, IndexError> {
        self.counted.slow_votes += 1;
        let possible = pairs.rules.possible_kinds(validator, row.target());
        if let Some(checked) = self.check_list_only(validator, row, near, possible)? {
            return Ok(checked);
        }
        let check = self.check_conflicts(validator, &row.span())?;
        if check.duplicate {
            return Ok(SlowCheck::Known);
        }
        let joins = near.filter(|_| check.joins);
        let shown = check
            .rivals
            .iter()
            .fold(0, |kinds, (kind, rival)| kinds | pairs.rules.kind_bits(validator, *kind, [row.target(), rival.target]));
        if joins.is_none() && !self.has_room(validator, row, &check, shown, possible)? {
            return self.drop_vote(validator);
        }
        self.counted.pairs_over_cap += u64::from(check.more_pairs);
        let known_kinds = if check.rivals.is_empty() { 0 } else { self.offenders.list(&self.db, validator)?.kinds };
        let mut kinds = 0;
        for (kind, rival) in &check.rivals {
            let targets = [row.target(), rival.target];
            let bits = pairs.rules.kind_bits(validator, *kind, targets);
            // The first pair of each kind is always built, because only a pair with proof marks its
            // validator. The first one that can be punished is built too.
            let is_new_kind = bits & !(known_kinds | kinds) != 0;
            if !is_new_kind && !(pairs.rules.wants)(validator, kind.offence(), targets) {
                continue;
            }
            let Some(other) = self.proof_of(validator, rival, proofs)? else {
                // The row of this vote was pruned, but the list may still contain it.
                self.offenders.remove(&self.db, validator, rival.handle)?;
                continue;
            };
            let [this, other] =
                [(row.handle, this.clone()), (rival.handle, other)].map(|(handle, vote)| ConflictSide { handle, vote });
            pairs.found.push(ConflictPair { kind: *kind, validator, this, other });
            kinds |= bits;
            self.counted.conflicts += 1;
        }
        match joins {
            Some(near) => self.newest.observe(validator, near, late),
            None => self.put_on_list(validator, row.span())?,
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
    /// every kind of offence that the vote could show (`possible`), whose list is full, and whose
    /// share of this epoch is used up, unless they simply continue its chain. Reading the rows
    /// would take milliseconds, and the vote is not stored anyway.
    fn check_list_only(
        &mut self,
        validator: ValidatorIndex,
        row: &DataRow,
        near: Option<VoteSpan>,
        possible: u8,
    ) -> Result<Option<SlowCheck>, IndexError> {
        let head = self.newest.get(validator);
        if !head.has_exceptions() || self.limits.has_left(validator) {
            return Ok(None);
        }
        let list = self.offenders.list(&self.db, validator)?;
        if !list.is_full() || possible & !list.kinds != 0 {
            return Ok(None);
        }
        if list.has(row.handle) {
            return Ok(Some(SlowCheck::Known));
        }
        match near.map(|near| head.decide(near)) {
            Some(Quick::Same) => Ok(Some(SlowCheck::Known)),
            Some(Quick::Joins { .. }) => Ok(None),
            Some(Quick::Unclear) | None => self.drop_vote(validator).map(Some),
        }
    }

    /// Whether a vote outside the chain may be stored: the list is not full, or the vote shows a
    /// kind of offence that nothing stored shows, or this epoch has room for it. `shown` contains
    /// the kinds that the vote shows, `possible` those that a vote for its target could show.
    fn has_room(
        &mut self,
        validator: ValidatorIndex,
        row: &DataRow,
        check: &ConflictCheck,
        shown: u8,
        possible: u8,
    ) -> Result<bool, IndexError> {
        let list = self.offenders.list(&self.db, validator)?;
        if !list.is_full() || shown & !list.kinds != 0 {
            return Ok(true);
        }
        let shows_more = possible & !list.kinds != 0 && !check.is_spanned(row.source());
        Ok(self.limits.spend(validator, shows_more))
    }

    fn drop_vote(&mut self, validator: ValidatorIndex) -> Result<SlowCheck, IndexError> {
        self.offenders.cut(&self.db, validator)?;
        self.counted.votes_over_cap += 1;
        Ok(SlowCheck::Dropped)
    }

    fn put_on_list(&mut self, validator: ValidatorIndex, vote: VoteSpan) -> Result<(), IndexError> {
        let Self { limits, offenders, db, .. } = self;
        let unlisted = offenders.add(db, validator, vote, |vote| !limits.is_near(vote.target))?;
        if let Some(vote) = unlisted.filter(|vote| limits.is_near(vote.target)) {
            // From now on only the row contains this vote. It may have been far when it was listed,
            // so the summary may not contain it yet.
            self.reach = self.reach.max(vote.target);
            self.summary.mark(db, vote.target, &[validator], vote.target < self.state.tail_from)?;
            self.summary.add_marked(db)?;
        }
        Ok(())
    }

    /// Notes the arrivals of a vote's members. `dropped` (ascending) contains the members whose
    /// vote was not stored.
    fn note_arrivals(&mut self, vote: &Vote, row: &DataRow, dropped: &[ValidatorIndex]) -> Result<(), IndexError> {
        let Self { db, newest, offenders, arrivals, .. } = self;
        let members = vote.indices.iter().copied().zip(vote.arrivals.iter().copied());
        let target = row.target();
        let is_chain = |validator| target < NO_EPOCH && !newest.has_exceptions(validator);
        if target < NO_EPOCH {
            arrivals.note(target, members.clone().filter(|(validator, _)| is_chain(*validator)));
        }
        for (validator, arrival) in members.filter(|(validator, _)| !is_chain(*validator)) {
            let list = offenders.list(db, validator)?;
            if dropped.binary_search(&validator).is_ok() {
                continue;
            }
            if target < NO_EPOCH && !list.cut && !list.has(row.handle) {
                arrivals.note(target, [(validator, arrival)].into_iter());
            } else {
                arrivals.note_outside(validator, row.handle, arrival);
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
            let of_chain = || arrivals.of_chain(validator, side.vote.data.target.epoch);
            // If the list was cut, it does not show which votes are in the chain.
            let is_chain = !list.cut && !list.has(side.handle);
            let own = arrivals.of_outside(validator, side.handle).or_else(|| is_chain.then(of_chain).flatten());
            own.unwrap_or_else(|| side.vote.heard.arrival())
        };
        let (this_at, other_at) = (arrived(&this), arrived(&other));
        let (this, other) = (this.vote, other.vote);
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

    fn add_sum(&mut self, vote: &Vote, place: VoteLocation) {
        let VoteLocation { key, seating, members, committee } = place;
        let n_members = vote.indices.len() as u32;
        let heard = StoredFirstSeen { at_ns: vote.heard.at.0, source: vote.heard.source, peer: self.peers.number(&vote.heard) };
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
    pub(super) fn proof_of(
        &mut self,
        validator: ValidatorIndex,
        vote: &VoteSpan,
        proofs: &mut SharedProofs,
    ) -> Result<Option<Arc<StoredVote>>, IndexError> {
        let Some(row) = self.data.row(&self.db, vote.target, vote.handle)? else { return Ok(None) };
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
        if let Some(known) = proofs.get(&(key, sum.signature)).filter(|known| known.indices.binary_search(&validator).is_ok()) {
            return Ok(Some(known.clone()));
        }
        let mut indices = match (&sum.members, seating) {
            (SetMembers::Seats(bits), Some(seating)) => seating.validators_at(key.slot, bits.iter()),
            (SetMembers::Listed(list), _) => listed(list),
            (SetMembers::Seats(_), None) => Vec::new(),
        };
        indices.sort_unstable();
        let proof = Arc::new(StoredVote {
            data: row.data,
            data_root: row.root,
            indices,
            signature: sum.signature,
            heard: self.heard(sum.heard),
        });
        proofs.insert((key, sum.signature), proof.clone());
        Ok(Some(proof))
    }

    /// The keys of all sets over one data that can contain a validator, each with the validator's
    /// position or index in it.
    pub(super) fn places_of(&self, validator: ValidatorIndex, row: &DataRow) -> Result<Vec<PossibleLocation>, IndexError> {
        let listed_member = validator.as_u64() as u32;
        let mut places = vec![(SetKey::listed(row.target(), row.handle), None, listed_member)];
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
            places.extend(ForkName::ALL.into_iter().map(|fork| (key(fork), None, listed_member)));
        }
        for seating in self.shufflings.of_epoch(&self.db, row.target())?.iter() {
            let Some((slot, position)) = seating.locate(validator) else { continue };
            if row.data.slot.as_u64()
                == row.target().as_u64().wrapping_mul(seating.geometry.slots_per_epoch).wrapping_add(u64::from(slot))
            {
                let key = SetKey { epoch: row.target(), shuffling: Some(seating.id), slot, handle: row.handle };
                places.push((key, Some(seating.clone()), position));
            }
        }
        Ok(places)
    }

    pub(super) fn heard(&self, heard: StoredFirstSeen) -> FirstSeen {
        FirstSeen { at: Time(heard.at_ns), source: heard.source, peer: self.peers.peer(heard.peer, Time(heard.at_ns)) }
    }
}

/// What a call has found so far.
struct Pairs<'a> {
    found: Vec<ConflictPair>,
    rules: PairRules<'a>,
}

/// Two votes of one validator that contradict each other. `kind` is the relation of the new one to
/// the other.
struct ConflictPair {
    kind: ConflictKind,
    validator: ValidatorIndex,
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
    fn validators(&self, members: Vec<u32>) -> Vec<ValidatorIndex> {
        match &self.seating {
            Some(seating) => seating.validators_at(self.key.slot, members.into_iter()),
            None => listed(&members),
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

/// The validators of a list. Rows pack an index into four bytes.
fn listed(list: &[u32]) -> Vec<ValidatorIndex> {
    list.iter().map(|index| ValidatorIndex::new(u64::from(*index))).collect()
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
