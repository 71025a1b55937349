//! Opens the index: checks what the directory must contain, and rebuilds the state in memory.

use super::Index;
use super::commit::MARK_KEY;
use super::inspect::Stats;
use super::proposals::StagedProposals;
use super::prune::folded_to;
use super::shape::{FORMAT, Shape, check_shape};
use super::state::State;
use crate::IndexError;
use crate::committees::{SeatFinder, ShufflingTable};
use crate::epochs::{EpochNeighbours, VoterSummary};
use crate::newest_votes::{Joined, NewestVotesTable};
use crate::storage::{ByteReader, Cf, Db, SOURCE_BITS, SOURCE_BITS_BEFORE_4, SetKey, validator_of};
use crate::sums::read_record;
use crate::tables::{Arrivals, DataTable, Limits, Offenders, PeerTable};
use std::collections::BTreeMap;
use std::path::Path;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A commit survives a power cut. This is the default.
    Synced,
    /// A commit survives a crash of the process but not of the machine. For replays that can be
    /// repeated.
    Buffered,
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
        super::crash_tests::abort_point("in opening", 0);
        let format = check_shape(&db, &shape)?;
        let mut index = Self::load(db, shape, format)?;
        if format < FORMAT {
            // The log of an earlier format is folded into rows. The same write raises the format.
            index.commit_with(true)?;
        }
        Ok(index)
    }

    /// Rebuilds the state in memory from an index of this format. Writes nothing.
    pub(super) fn load(db: Db, shape: Shape, format: u32) -> Result<Self, IndexError> {
        let state = match db.get(Cf::Meta, State::key())? {
            Some(value) => State::decode(&value).ok_or_else(|| db.corrupt("its state row does not parse"))?,
            None => State::default(),
        };
        let written_mark = match db.get(Cf::Meta, MARK_KEY)? {
            Some(value) => {
                let bytes = <[u8; 8]>::try_from(&value[..]).map_err(|_| db.corrupt("its mark has the wrong length"))?;
                Some(u64::from_be_bytes(bytes))
            }
            None => None,
        };
        let mut index = Self {
            peers: PeerTable::load(&db, state.newest)?,
            folded_to: folded_to(&db)?,
            data: DataTable::new(state.next_handle),
            shufflings: ShufflingTable::new(shape.preset()?),
            db,
            shape,
            format,
            sets: BTreeMap::new(),
            dirty: Vec::new(),
            newest: NewestVotesTable::default(),
            seat_finder: SeatFinder::default(),
            neighbours: EpochNeighbours::default(),
            summary: VoterSummary::default(),
            offenders: Offenders::default(),
            arrivals: Arrivals::default(),
            proposals: StagedProposals::default(),
            counted: Stats::default(),
            limits: Limits::default(),
            state,
            reach: state.reach,
            epochs_seen: BTreeMap::new(),
            n_commits: 0,
            joined: Joined::default(),
            mark: None,
            written_mark,
        };
        index.load_heads()?;
        index.replay_log()?;
        index.read_tail()?;
        let path = index.db.path().display();
        tracing::info!(%path, validators = index.newest.n_validators, tail_from = state.tail_from.as_u64(), "vote index open");
        Ok(index)
    }

    fn load_heads(&mut self) -> Result<(), IndexError> {
        let Self { db, newest, .. } = self;
        db.scan_all(Cf::NewestVotes, |key, value| {
            newest.load(key, value).ok_or_else(|| db.corrupt("a row of newest votes does not parse"))
        })?;
        db.scan_all(Cf::Offenders, |key, _| {
            let validator = validator_of(key).ok_or_else(|| db.corrupt("an offender's key has the wrong length"))?;
            newest.mark_exceptional(validator);
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
        let source_bits = if self.format < 4 { SOURCE_BITS_BEFORE_4 } else { SOURCE_BITS };
        let unreadable = |index: &Self| index.db.corrupt("an entry of the log does not parse");
        let sequence = key.try_into().map(u64::from_be_bytes).map_err(|_| unreadable(self))?;
        let mut reader = ByteReader(value);
        while !reader.is_empty() {
            let set_key = reader.bytes(SetKey::LEN).and_then(SetKey::from_bytes).ok_or_else(|| unreadable(self))?;
            let n_records = reader.varint().ok_or_else(|| unreadable(self))?;
            let geometry = self.seating_of(&set_key)?.map(|seating| seating.geometry);
            self.ensure_set(set_key)?;
            for _ in 0..n_records {
                let sum = read_record(&mut reader, &set_key, geometry.as_ref(), source_bits).ok_or_else(|| unreadable(self))?;
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
}
