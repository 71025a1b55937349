//! Opens the index: checks what the directory must contain, and rebuilds the state in memory.

use crate::IndexError;
use crate::allowance::FarVoteLimits;
use crate::arrivals::Arrivals;
use crate::codec::ByteReader;
use crate::data::DataTable;
use crate::db::{Cf, Db};
use crate::epoch_neighbours::EpochNeighbours;
use crate::heads::{Joined, NONE, NewestVotesTable};
use crate::inspect::Counters;
use crate::keys::SetKey;
use crate::offenders::Offenders;
use crate::peers::PeerTable;
use crate::present::Present;
use crate::proposals::Proposals;
use crate::prune::folded_to;
use crate::seating::Seating;
use crate::shape::{Shape, check_shape};
use crate::shufflings::Table;
use crate::summary::VoterSummary;
use crate::sums::{SumSet, read_record};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use verify::UnixNs;

const STATE_KEY: &[u8] = b"state";

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A commit survives a power cut. This is the default.
    Synced,
    /// A commit survives a crash of the process but not of the machine. For replays that can be
    /// repeated.
    Buffered,
}

/// The vote index. It has one owner, which stages and commits. See the documentation of the crate.
pub struct Index {
    pub(crate) db: Db,
    pub(crate) shape: Shape,
    /// The sets in memory: those that still grow, and some that were read.
    pub(crate) sets: BTreeMap<SetKey, SumSet>,
    /// The sets that were added to since the last commit.
    pub(crate) dirty: Vec<SetKey>,
    pub(crate) table: Table,
    pub(crate) data: DataTable,
    pub(crate) heads: NewestVotesTable,
    pub(crate) present: Present,
    pub(crate) beside: EpochNeighbours,
    pub(crate) summary: VoterSummary,
    pub(crate) offenders: Offenders,
    pub(crate) arrivals: Arrivals,
    pub(crate) peers: PeerTable,
    pub(crate) proposals: Proposals,
    pub(crate) counters: Counters,
    pub(crate) allowance: FarVoteLimits,
    pub(crate) state: State,
    /// [`State::reach`], including what is staged.
    pub(crate) reach: u32,
    /// Number of new votes per target epoch of the tail. It shows which epochs the network is in.
    pub(crate) epochs_seen: BTreeMap<u64, u64>,
    pub(crate) n_commits: u64,
    /// Epochs before this one were folded.
    pub(crate) folded_to: u64,
    /// Kept between calls so that its memory is used again.
    pub(crate) joined: Joined,
}

/// The small numbers that are written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The newest votes and the summary of the epochs from this one on are rebuilt from the epochs'
    /// rows.
    pub tail_from: u64,
    pub next_handle: u32,
    /// Log entries before this one are already in rows.
    pub log_floor: u64,
    pub log_next: u64,
    /// The greatest target that heads or summary may contain.
    pub reach: u32,
    /// The latest arrival of a message that came from a peer.
    pub newest: UnixNs,
}

impl State {
    /// The key of the state's row in the column family `default`.
    pub fn key() -> &'static [u8] {
        STATE_KEY
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.tail_from.to_be_bytes().to_vec();
        out.extend_from_slice(&self.next_handle.to_be_bytes());
        out.extend_from_slice(&self.log_floor.to_be_bytes());
        out.extend_from_slice(&self.log_next.to_be_bytes());
        out.extend_from_slice(&self.reach.to_be_bytes());
        out.extend_from_slice(&self.newest.0.to_be_bytes());
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = ByteReader(value);
        let tail_from = u64::from_be_bytes(reader.array()?);
        let next_handle = u32::from_be_bytes(reader.array()?);
        let log_floor = u64::from_be_bytes(reader.array()?);
        let log_next = u64::from_be_bytes(reader.array()?);
        // A value of format 1 ends here. In that case any target that fits may be known.
        let reach = if reader.is_empty() { NONE - 1 } else { u32::from_be_bytes(reader.array()?) };
        // A value of format 2 ends here. In that format no peer's number was ever assigned a second
        // time.
        let newest = if reader.is_empty() { 0 } else { u64::from_be_bytes(reader.array()?) };
        reader.is_empty().then_some(Self { tail_from, next_handle, log_floor, log_next, reach, newest: UnixNs(newest) })
    }
}

impl Index {
    /// Opens the index in `dir`, or creates one if the directory is empty or missing. Commits wait
    /// for the disk.
    pub fn open(dir: &Path, shape: Shape) -> Result<Self, IndexError> {
        Self::open_with(dir, shape, Durability::Synced)
    }

    /// Like [`Self::open`], with a choice of durability.
    pub fn open_with(dir: &Path, shape: Shape, durability: Durability) -> Result<Self, IndexError> {
        // An unknown preset is refused before anything is created.
        shape.preset()?;
        let db = Db::open(dir, durability == Durability::Synced)?;
        #[cfg(test)]
        crate::crash_tests::abort_point("in opening", 0);
        check_shape(&db, &shape)?;
        Self::load(db, shape)
    }

    /// Rebuilds the state in memory. Writes nothing.
    pub(crate) fn load(db: Db, shape: Shape) -> Result<Self, IndexError> {
        let state = match db.get(Cf::Meta, STATE_KEY)? {
            Some(value) => State::decode(&value).ok_or_else(|| db.corrupt("its state row does not parse"))?,
            None => State::default(),
        };
        let mut index = Self {
            peers: PeerTable::load(&db, state.newest)?,
            folded_to: folded_to(&db)?,
            data: DataTable::new(state.next_handle),
            table: Table::new(shape.preset()?),
            db,
            shape,
            sets: BTreeMap::new(),
            dirty: Vec::new(),
            heads: NewestVotesTable::default(),
            present: Present::default(),
            beside: EpochNeighbours::default(),
            summary: VoterSummary::default(),
            offenders: Offenders::default(),
            arrivals: Arrivals::default(),
            proposals: Proposals::default(),
            counters: Counters::default(),
            allowance: FarVoteLimits::default(),
            state,
            reach: state.reach,
            epochs_seen: BTreeMap::new(),
            n_commits: 0,
            joined: Joined::default(),
        };
        index.load_heads()?;
        index.replay_log()?;
        index.read_tail()?;
        let path = index.db.path().display();
        tracing::info!(%path, validators = index.heads.n_validators, tail_from = state.tail_from, "vote index open");
        Ok(index)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load_heads(&mut self) -> Result<(), IndexError> {
        let Self { db, heads, .. } = self;
        db.scan_all(Cf::NewestVotes, |key, value| {
            heads.load(key, value).ok_or_else(|| db.corrupt("a row of newest votes does not parse"))
        })?;
        db.scan_all(Cf::Offenders, |key, _| {
            let key = key.try_into().map_err(|_| db.corrupt("an offender's key has the wrong length"))?;
            heads.mark_exceptional(u32::from_be_bytes(key));
            Ok(())
        })
    }

    /// Restores the sets that were still growing: their additions since the row was written, if
    /// there is a row.
    fn replay_log(&mut self) -> Result<(), IndexError> {
        let mut entries = Vec::new();
        let (from, to) = (self.state.log_floor.to_be_bytes(), u64::MAX.to_be_bytes());
        self.db.scan(Cf::Log, &from, &to, |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            Ok(true)
        })?;
        for (key, value) in entries {
            self.replay_entry(&key, &value)?;
        }
        Ok(())
    }

    fn replay_entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        let unreadable = |index: &Self| index.db.corrupt("an entry of the log does not parse");
        let sequence = key.try_into().map(u64::from_be_bytes).map_err(|_| unreadable(self))?;
        let mut reader = ByteReader(value);
        while !reader.is_empty() {
            let set_key = reader.bytes(SetKey::LEN).and_then(SetKey::from_bytes).ok_or_else(|| unreadable(self))?;
            let n_records = reader.varint().ok_or_else(|| unreadable(self))?;
            let geometry = self.seating_of(&set_key)?.map(|seating| seating.geometry);
            self.ensure_set(set_key)?;
            for _ in 0..n_records {
                let sum = read_record(&mut reader, &set_key, geometry.as_ref()).ok_or_else(|| unreadable(self))?;
                let set = self.sets.get_mut(&set_key).expect("ensured above");
                if !set.covers_all(&sum.members) {
                    set.add(sum);
                }
            }
            let set = self.sets.get_mut(&set_key).expect("ensured above");
            set.logged_from.get_or_insert(sequence);
            // The row must be written before the log entry is deleted, even if the row already
            // contains everything.
            set.changed = true;
        }
        Ok(())
    }

    /// The shuffling in which a set's members have their seats. `None` for listed members.
    pub(crate) fn seating_of(&self, key: &SetKey) -> Result<Option<Arc<Seating>>, IndexError> {
        seating_of(&self.db, &self.table, key)
    }

    /// Brings a set into memory. It is read from its row, if there is one.
    pub(crate) fn ensure_set(&mut self, key: SetKey) -> Result<(), IndexError> {
        if !self.sets.contains_key(&key) {
            let mut set = self.read_set(&key)?.unwrap_or_else(|| SumSet::new(key.shuffling.is_some()));
            set.touched = self.n_commits;
            self.sets.insert(key, set);
        }
        Ok(())
    }

    /// Reads a set from its row. `None` if there is no row.
    pub(crate) fn read_set(&self, key: &SetKey) -> Result<Option<SumSet>, IndexError> {
        let Some(value) = self.db.get(Cf::Votes, &key.to_bytes())? else { return Ok(None) };
        let seating = self.seating_of(key)?;
        let set = SumSet::decode(&value, key, seating.as_ref().map(|seating| &seating.geometry));
        set.map(Some).ok_or_else(|| self.db.corrupt(format!("a vote row of epoch {} does not parse", key.epoch)))
    }
}

/// The shuffling in which the members of a set have their seats. `None` for listed members.
pub(crate) fn seating_of(db: &Db, table: &Table, key: &SetKey) -> Result<Option<Arc<Seating>>, IndexError> {
    let Some(id) = key.shuffling else { return Ok(None) };
    let found = table.find(db, key.epoch, id)?;
    found.map(Some).ok_or_else(|| db.corrupt(format!("the shuffling of a vote row of epoch {} is missing", key.epoch)))
}

/// A key that is not less than any key of an epoch's sets.
pub(crate) fn last_of_epoch(epoch: u64) -> [u8; SetKey::LEN] {
    let mut key = [0xff; SetKey::LEN];
    key[..8].copy_from_slice(&epoch.to_be_bytes());
    key
}
