//! Votes outside their validator's chain: the durable mark of an offender, and its list.
//!
//! Votes that contradicted something when they came are listed here, and so are votes with epochs that the two newest
//! votes cannot hold (2^32 - 1 and above), which may be innocent. Everything else of a validator is a chain, where looking
//! at neighbours is enough. A new vote is compared with the whole list *and* with the chain, so every pair is found.

use crate::IndexError;
use crate::codec::{Reader, put_varint};
use crate::db::{Batch, Cf, Db};
use std::collections::{HashMap, HashSet};

/// Votes listed per validator. Past it a vote is listed only if it shows a kind of offence that is not known yet, in place
/// of one that is neither the least nor the greatest by source or target.
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
    /// Votes were left out.
    pub cut: bool,
}

impl List {
    pub fn is_full(&self) -> bool {
        self.votes.len() >= MAX_LISTED
    }

    pub fn has(&self, handle: u32) -> bool {
        self.votes.iter().any(|vote| vote.handle == handle)
    }

    fn add(&mut self, vote: Listed) {
        if self.is_full() {
            self.cut = true;
            let extremes = |by: fn(&Listed) -> u64| {
                let least = self.votes.iter().map(by).min();
                let greatest = self.votes.iter().map(by).max();
                move |vote: &Listed| Some(by(vote)) == least || Some(by(vote)) == greatest
            };
            let (by_source, by_target) = (extremes(|vote| vote.source), extremes(|vote| vote.target));
            // With 256 votes and four extremes there is nearly always one to spare; else the oldest but one goes.
            let spare = self.votes.iter().rposition(|vote| !by_source(vote) && !by_target(vote)).unwrap_or(1);
            self.votes.remove(spare);
        }
        self.votes.push(vote);
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

    /// The same without remembering it.
    pub fn read(&self, db: &Db, validator: u32) -> Result<List, IndexError> {
        if let Some(list) = self.cached.get(&validator) {
            return Ok(list.clone());
        }
        let Some(value) = db.get(Cf::Offenders, &validator.to_be_bytes())? else { return Ok(List::default()) };
        List::decode(&value).ok_or_else(|| db.corrupt(format!("the list of validator {validator} does not parse")))
    }

    pub fn add(&mut self, db: &Db, validator: u32, vote: Listed) -> Result<(), IndexError> {
        self.list(db, validator)?.add(vote);
        self.changed.insert(validator);
        Ok(())
    }

    /// Notes that a vote was left out.
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
