//! Votes outside their validator's chain. A validator with a list here is marked durably as an
//! offender or as a signer of far votes.
//!
//! Votes that contradicted another vote when they came are listed here. *Far* votes are listed too,
//! and they may be innocent: their target is in a far future ([`super::limits`]), or they have
//! an epoch of 2^32 - 1 or more, which the two newest votes cannot hold. All other votes of a
//! validator form its chain, in which only neighbours have to be compared. A new vote is compared
//! with the whole list *and* with the chain, so every pair is found.
//!
//! # Full lists
//!
//! When the list has more than [`MAX_LISTED`] votes, one vote is removed for each that is added,
//! and the list is *cut*. From then on the rows, which contain every vote that was ever stored, are
//! searched as well.
//!
//! - Votes that are not far are removed first, the lowest target first. Rows and summary still
//!   contain them. As long as no surround is known, it is enough to compare the neighbours among
//!   *all* stored votes to find the first surround, because sorted by target their sources do not
//!   decrease.
//! - Of the far votes, four are kept: those with the smallest and greatest source and the smallest
//!   and greatest target. Their targets are greater than the target of any vote that is not far. So
//!   if one of them surrounds such a vote, the one with the smallest source does. A far vote that
//!   was removed is still found at its own target. Far votes that surround only this vote, or are
//!   surrounded only by it, are not found.

use super::data::VoteSpan;
use crate::IndexError;
use crate::newest_votes::NO_EPOCH;
use crate::storage::{ByteReader, Cf, Db, WriteBuffer, put_varint, validator_key};
use consensus::{Epoch, ValidatorIndex};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// How many votes are listed per validator. [`super::limits`] defines what is stored beyond that.
pub(crate) const MAX_LISTED: usize = 256;
/// How many lists are kept in memory. A list takes at most about 5 KB, mostly 100 bytes.
const MAX_CACHED: usize = 1 << 16;

/// The votes of one validator outside its chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutsideVotes {
    pub votes: Vec<VoteSpan>,
    /// The kinds of offence that were shown: bit 0 for double votes, bit 1 for surround votes. The
    /// same bits, shifted by [`PUNISHABLE_SHIFT`], are set if a pair that could be punished showed
    /// them.
    pub kinds: u8,
    /// True if there are stored votes outside the chain that are not listed.
    pub cut: bool,
}

/// The bits of all kinds of offence.
pub(crate) const ALL_KINDS: u8 = 3;
/// How far the bits of pairs that could be punished are shifted.
pub(crate) const PUNISHABLE_SHIFT: u8 = 2;

impl OutsideVotes {
    pub fn is_full(&self) -> bool {
        self.votes.len() >= MAX_LISTED
    }

    pub fn has(&self, handle: u32) -> bool {
        self.votes.iter().any(|vote| vote.handle == handle)
    }

    /// The votes with a target that is too great for a head, ordered by target.
    pub fn beyond_newest(&self) -> Vec<VoteSpan> {
        let mut far: Vec<VoteSpan> = self.votes.iter().filter(|vote| vote.target >= NO_EPOCH).copied().collect();
        far.sort_by_key(|vote| (vote.target, vote.handle));
        far
    }

    /// Lists a vote. If the list is then too long, one vote is removed and returned. It may be the
    /// new one.
    fn add(&mut self, vote: VoteSpan, is_far: impl Fn(&VoteSpan) -> bool) -> Option<VoteSpan> {
        self.votes.push(vote);
        if self.votes.len() <= MAX_LISTED {
            return None;
        }
        self.cut = true;
        let all = || self.votes.iter().enumerate();
        let oldest = all().filter(|(_, vote)| !is_far(vote)).min_by_key(|(_, vote)| vote.target);
        let spare = oldest.map(|(at, _)| at).or_else(|| {
            let extremes = [
                all().min_by_key(|(_, vote)| (vote.source, Reverse(vote.target))),
                all().max_by_key(|(_, vote)| (vote.source, Reverse(vote.target))),
                all().min_by_key(|(_, vote)| vote.target),
                all().max_by_key(|(_, vote)| vote.target),
            ]
            .map(|extreme| extreme.map(|(at, _)| at));
            (0..self.votes.len()).rev().find(|at| !extremes.contains(&Some(*at)))
        });
        spare.map(|at| self.votes.remove(at))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kinds, u8::from(self.cut)];
        put_varint(&mut out, self.votes.len() as u64);
        for vote in &self.votes {
            put_varint(&mut out, vote.source.as_u64());
            put_varint(&mut out, vote.target.as_u64());
            put_varint(&mut out, u64::from(vote.handle));
        }
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = ByteReader(value);
        let kinds = reader.byte()?;
        let cut = reader.byte()? != 0;
        let n = reader.varint().filter(|n| *n <= MAX_LISTED as u64)?;
        let mut votes = Vec::with_capacity(n as usize);
        for _ in 0..n {
            votes.push(VoteSpan {
                source: Epoch::new(reader.varint()?),
                target: Epoch::new(reader.varint()?),
                handle: reader.varint_u32()?,
            });
        }
        reader.is_empty().then_some(Self { votes, kinds, cut })
    }
}

/// The lists of all validators that have votes outside their chain.
#[derive(Default)]
pub(crate) struct Offenders {
    cached: HashMap<ValidatorIndex, OutsideVotes>,
    changed: HashSet<ValidatorIndex>,
    /// Votes with targets before this epoch were pruned. They are no proof any more and are removed
    /// from lists.
    pruned_before: Epoch,
}

impl Offenders {
    /// A validator's list. Empty if it has none.
    pub fn list(&mut self, db: &Db, validator: ValidatorIndex) -> Result<&mut OutsideVotes, IndexError> {
        if !self.cached.contains_key(&validator) {
            let list = self.read(db, validator)?;
            self.cached.insert(validator, list);
        }
        Ok(self.cached.get_mut(&validator).expect("inserted above"))
    }

    /// A validator's list, if it is in memory.
    pub fn at_hand(&self, validator: ValidatorIndex) -> Option<&OutsideVotes> {
        self.cached.get(&validator)
    }

    /// A validator's list. It is not kept in memory.
    pub fn read(&self, db: &Db, validator: ValidatorIndex) -> Result<OutsideVotes, IndexError> {
        if let Some(list) = self.cached.get(&validator) {
            return Ok(list.clone());
        }
        let Some(value) = db.get(Cf::Offenders, &validator_key(validator))? else { return Ok(OutsideVotes::default()) };
        let list = OutsideVotes::decode(&value);
        let mut list = list.ok_or_else(|| db.corrupt(format!("the list of validator {validator} does not parse")))?;
        list.votes.retain(|vote| vote.target >= self.pruned_before);
        Ok(list)
    }

    /// Lists a vote. If the list was full, returns the vote that is no longer listed.
    pub fn add(
        &mut self,
        db: &Db,
        validator: ValidatorIndex,
        vote: VoteSpan,
        is_far: impl Fn(&VoteSpan) -> bool,
    ) -> Result<Option<VoteSpan>, IndexError> {
        let unlisted = self.list(db, validator)?.add(vote, is_far);
        self.changed.insert(validator);
        Ok(unlisted)
    }

    /// Removes votes with targets before `before`, because those epochs are being pruned.
    pub fn forget(&mut self, before: Epoch) {
        self.pruned_before = self.pruned_before.max(before);
        self.cached.values_mut().for_each(|list| list.votes.retain(|vote| vote.target >= before));
    }

    /// Marks that a vote was left out. The rest of its sum may be stored.
    pub fn cut(&mut self, db: &Db, validator: ValidatorIndex) -> Result<(), IndexError> {
        let list = self.list(db, validator)?;
        if !list.cut {
            list.cut = true;
            self.changed.insert(validator);
        }
        Ok(())
    }

    /// Adds kinds of offence that the validator has shown, as bits.
    pub fn add_kinds(&mut self, db: &Db, validator: ValidatorIndex, kinds: u8) -> Result<(), IndexError> {
        let list = self.list(db, validator)?;
        if list.kinds | kinds != list.kinds {
            list.kinds |= kinds;
            self.changed.insert(validator);
        }
        Ok(())
    }

    /// Removes a listed vote whose row was pruned.
    pub fn remove(&mut self, db: &Db, validator: ValidatorIndex, handle: u32) -> Result<(), IndexError> {
        let list = self.list(db, validator)?;
        list.votes.retain(|vote| vote.handle != handle);
        self.changed.insert(validator);
        Ok(())
    }

    pub fn stage(&self, batch: &mut WriteBuffer<'_>) {
        for validator in &self.changed {
            if let Some(list) = self.cached.get(validator) {
                batch.put(Cf::Offenders, &validator_key(*validator), &list.encode());
            }
        }
    }

    pub fn committed(&mut self) {
        self.changed.clear();
        if self.cached.len() > MAX_CACHED {
            self.cached.clear();
        }
    }
}
