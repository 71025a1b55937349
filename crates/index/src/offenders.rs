//! Votes outside their validator's chain: the durable mark of an offender, and its list.
//!
//! Votes that contradicted something when they came are listed here, and so are *far* votes, which may be innocent: their
//! target is in a far future ([`crate::allowance`]), or they have an epoch that the two newest votes cannot hold (2^32 - 1 and
//! above). Everything else of a validator is a chain, where looking at neighbours is enough. A new vote is compared with the
//! whole list *and* with the chain, so every pair is found.
//!
//! # Full lists
//!
//! Past [`MAX_LISTED`] votes one makes way for each that comes, and the list is *cut*: from then on the rows, which hold
//! what was ever taken in, are asked too.
//!
//! - First those go that are not far: rows and summary know them, and as long as no surround is known, looking at the
//!   neighbours among *all* stored votes is enough to find the first one (sorted by target their sources do not fall).
//! - Of far votes the four stay that have the least and the greatest source and target. Their targets lie past that of any
//!   vote that is not far, so if one of them surrounds it, that with the least source does. What goes is still found at its
//!   own target; far votes that it alone surrounds, or is surrounded by, are not.

use crate::IndexError;
use crate::codec::{Reader, put_varint};
use crate::db::{Batch, Cf, Db};
use crate::heads::NONE;
use std::collections::{HashMap, HashSet};

/// Votes listed per validator. [`crate::allowance`] says what is taken past it.
pub(crate) const MAX_LISTED: usize = 256;
/// Lists held in memory, at most about 5 KB each, mostly 100 bytes.
const MAX_CACHED: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub source: u64,
    pub target: u64,
    pub handle: u32,
}

/// One validator's votes outside its chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    pub votes: Vec<Listed>,
    /// Kinds of offence shown, as bits of [`crate::judge::Kind`].
    pub kinds: u8,
    /// There are stored votes outside the chain that are not listed.
    pub cut: bool,
}

/// All kinds of offence.
pub(crate) const ALL_KINDS: u8 = 3;

impl List {
    pub fn is_full(&self) -> bool {
        self.votes.len() >= MAX_LISTED
    }

    pub fn has(&self, handle: u32) -> bool {
        self.votes.iter().any(|vote| vote.handle == handle)
    }

    /// Those with a target that no head can name, by target.
    pub fn named_by_no_head(&self) -> Vec<Listed> {
        let mut far: Vec<Listed> = self.votes.iter().filter(|vote| vote.target >= u64::from(NONE)).copied().collect();
        far.sort_by_key(|vote| (vote.target, vote.handle));
        far
    }

    /// Lists a vote. Past the bound one is no longer listed, which is returned; it may be the new one.
    fn add(&mut self, vote: Listed, is_far: impl Fn(&Listed) -> bool) -> Option<Listed> {
        self.votes.push(vote);
        if self.votes.len() <= MAX_LISTED {
            return None;
        }
        self.cut = true;
        let all = || self.votes.iter().enumerate();
        let oldest = all().filter(|(_, vote)| !is_far(vote)).min_by_key(|(_, vote)| vote.target);
        let spare = oldest.map(|(at, _)| at).or_else(|| {
            let extremes = [
                all().min_by_key(|(_, vote)| (vote.source, u64::MAX - vote.target)),
                all().max_by_key(|(_, vote)| (vote.source, u64::MAX - vote.target)),
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
            put_varint(&mut out, vote.source);
            put_varint(&mut out, vote.target);
            put_varint(&mut out, u64::from(vote.handle));
        }
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let kinds = reader.byte()?;
        let cut = reader.byte()? != 0;
        let n = reader.varint().filter(|n| *n <= MAX_LISTED as u64)?;
        let mut votes = Vec::with_capacity(n as usize);
        for _ in 0..n {
            votes.push(Listed { source: reader.varint()?, target: reader.varint()?, handle: reader.varint_u32()? });
        }
        reader.is_empty().then_some(Self { votes, kinds, cut })
    }
}

#[derive(Default)]
pub(crate) struct Offenders {
    cached: HashMap<u32, List>,
    changed: HashSet<u32>,
    /// Votes with targets before it were pruned: they are no proof, and take up no room.
    pruned_before: u64,
}

impl Offenders {
    /// A validator's list; empty if it has none.
    pub fn list(&mut self, db: &Db, validator: u32) -> Result<&mut List, IndexError> {
        if !self.cached.contains_key(&validator) {
            let list = self.read(db, validator)?;
            self.cached.insert(validator, list);
        }
        Ok(self.cached.get_mut(&validator).expect("inserted above"))
    }

    /// The same if it is in memory.
    pub fn at_hand(&self, validator: u32) -> Option<&List> {
        self.cached.get(&validator)
    }

    /// The same without remembering it.
    pub fn read(&self, db: &Db, validator: u32) -> Result<List, IndexError> {
        if let Some(list) = self.cached.get(&validator) {
            return Ok(list.clone());
        }
        let Some(value) = db.get(Cf::Offenders, &validator.to_be_bytes())? else { return Ok(List::default()) };
        let list = List::decode(&value);
        let mut list = list.ok_or_else(|| db.corrupt(format!("the list of validator {validator} does not parse")))?;
        list.votes.retain(|vote| vote.target >= self.pruned_before);
        Ok(list)
    }

    /// Lists a vote. Returns one that is no longer listed, if the list was full.
    pub fn add(
        &mut self,
        db: &Db,
        validator: u32,
        vote: Listed,
        is_far: impl Fn(&Listed) -> bool,
    ) -> Result<Option<Listed>, IndexError> {
        let unlisted = self.list(db, validator)?.add(vote, is_far);
        self.changed.insert(validator);
        Ok(unlisted)
    }

    /// Forgets votes with targets before `before`, which are being pruned.
    pub fn forget(&mut self, before: u64) {
        self.pruned_before = self.pruned_before.max(before);
        self.cached.values_mut().for_each(|list| list.votes.retain(|vote| vote.target >= before));
    }

    /// Notes that a vote was left out, though the rest of its sum may be stored.
    pub fn cut(&mut self, db: &Db, validator: u32) -> Result<(), IndexError> {
        let list = self.list(db, validator)?;
        if !list.cut {
            list.cut = true;
            self.changed.insert(validator);
        }
        Ok(())
    }

    pub fn add_kinds(&mut self, db: &Db, validator: u32, kinds: u8) -> Result<(), IndexError> {
        let list = self.list(db, validator)?;
        if list.kinds | kinds != list.kinds {
            list.kinds |= kinds;
            self.changed.insert(validator);
        }
        Ok(())
    }

    /// Drops a listed vote whose row was pruned.
    pub fn remove(&mut self, db: &Db, validator: u32, handle: u32) -> Result<(), IndexError> {
        let list = self.list(db, validator)?;
        list.votes.retain(|vote| vote.handle != handle);
        self.changed.insert(validator);
        Ok(())
    }

    pub fn stage(&self, batch: &mut Batch<'_>) {
        for validator in &self.changed {
            if let Some(list) = self.cached.get(validator) {
                batch.put(Cf::Offenders, &validator.to_be_bytes(), &list.encode());
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
