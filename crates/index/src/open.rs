//! Opening: what a directory must be, and how the state in memory is found again.

use crate::IndexError;
use crate::codec::Reader;
use crate::data::DataTable;
use crate::db::{Cf, Db};
use crate::heads::{Heads, Remembered};
use crate::inspect::Counters;
use crate::keys::SetKey;
use crate::members::Members;
use crate::offenders::Offenders;
use crate::peers::Peers;
use crate::present::Present;
use crate::proposals::Proposals;
use crate::seating::{Seating, Table};
use crate::summary::Summary;
use crate::sums::{SumSet, read_record};
use consensus::{Preset, Root, ShufflingId};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// The format this program writes. Raised with every change of a key or value; older ones are listed in docs/formats.md.
pub(crate) const FORMAT: u32 = 1;

const SHAPE_KEY: &[u8] = b"shape";
const STATE_KEY: &[u8] = b"state";

/// What shapes the data. The network's part is stored with it and must not change; history is a plain setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub genesis_validators_root: Root,
    pub slots_per_epoch: u64,
    /// Epochs to keep; what is older is deleted by [`Index::prune`]. May be raised and lowered at any time.
    pub history_epochs: u64,
}

impl Shape {
    /// 54 000 epochs, 240 days on mainnet.
    pub const DEFAULT_HISTORY_EPOCHS: u64 = 54_000;

    fn preset(&self) -> Result<Preset, IndexError> {
        match self.slots_per_epoch {
            8 => Ok(Preset::MINIMAL),
            16 => Ok(Preset::GNOSIS),
            32 => Ok(Preset::MAINNET),
            slots_per_epoch => Err(IndexError::UnknownPreset { slots_per_epoch }),
        }
    }
}

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power cut. The default.
    Synced,
    /// Survives a crash of the process but not of the machine; for replays that can be repeated.
    Buffered,
}

/// The vote index. One owner stages and commits; see the crate's documentation.
pub struct Index {
    pub(crate) db: Db,
    pub(crate) shape: Shape,
    /// Sets in memory: those still growing, and some that were read.
    pub(crate) sets: BTreeMap<SetKey, SumSet>,
    /// Sets added to since the last commit.
    pub(crate) dirty: Vec<SetKey>,
    pub(crate) table: Table,
    pub(crate) data: DataTable,
    pub(crate) heads: Heads,
    pub(crate) present: Present,
    pub(crate) summary: Summary,
    pub(crate) offenders: Offenders,
    pub(crate) peers: Peers,
    pub(crate) proposals: Proposals,
    pub(crate) counters: Counters,
    pub(crate) state: State,
    /// New votes per target epoch of the tail: shows which epochs the network is in.
    pub(crate) epochs_seen: BTreeMap<u64, u64>,
    pub(crate) n_commits: u64,
}

/// Whole committee orders, while one epoch is read.
type Orders = HashMap<ShufflingId, Vec<u32>>;

/// The small numbers that go with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Heads and summary of epochs from here on are found by reading their rows.
    pub tail_from: u64,
    pub next_handle: u32,
    /// Log entries before this are folded into rows.
    pub log_floor: u64,
    pub log_next: u64,
}

impl State {
    pub fn key() -> &'static [u8] {
        STATE_KEY
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.tail_from.to_be_bytes().to_vec();
        out.extend_from_slice(&self.next_handle.to_be_bytes());
        out.extend_from_slice(&self.log_floor.to_be_bytes());
        out.extend_from_slice(&self.log_next.to_be_bytes());
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let tail_from = u64::from_be_bytes(reader.array()?);
        let next_handle = u32::from_be_bytes(reader.array()?);
        let log_floor = u64::from_be_bytes(reader.array()?);
        let log_next = u64::from_be_bytes(reader.array()?);
        reader.is_empty().then_some(Self { tail_from, next_handle, log_floor, log_next })
    }
}

impl Index {
    /// Opens the index in `dir`, or makes one where there is nothing.
    pub fn open(dir: &Path, shape: Shape) -> Result<Self, IndexError> {
        Self::open_with(dir, shape, Durability::Synced)
    }

    pub fn open_with(dir: &Path, shape: Shape, durability: Durability) -> Result<Self, IndexError> {
        let preset = shape.preset()?;
        let db = Db::open(dir, durability == Durability::Synced)?;
        #[cfg(test)]
        crate::crash_tests::abort_point("in opening", 0);
        check_shape(&db, &shape)?;
        let state = match db.get(Cf::Meta, STATE_KEY)? {
            Some(value) => State::decode(&value).ok_or_else(|| db.corrupt("its state row does not parse"))?,
            None => State::default(),
        };
        let peers = Peers::load(&db)?;
        let mut index = Self {
            peers,
            data: DataTable::new(state.next_handle),
            table: Table::new(preset),
            db,
            shape,
            sets: BTreeMap::new(),
            dirty: Vec::new(),
            heads: Heads::default(),
            present: Present::default(),
            summary: Summary::default(),
            offenders: Offenders::default(),
            proposals: Proposals::default(),
            counters: Counters::default(),
            state,
            epochs_seen: BTreeMap::new(),
            n_commits: 0,
        };
        index.load_heads()?;
        index.replay_log()?;
        index.read_tail()?;
        tracing::info!(path = %dir.display(), validators = index.heads.n_validators, tail_from = state.tail_from, "vote index open");
        Ok(index)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    fn load_heads(&mut self) -> Result<(), IndexError> {
        let Self { db, heads, .. } = self;
        db.scan_all(Cf::Heads, |key, value| {
            heads.load(key, value).ok_or_else(|| db.corrupt("a row of newest votes does not parse"))
        })?;
        db.scan_all(Cf::Offenders, |key, _| {
            let key = key.try_into().map_err(|_| db.corrupt("an offender's key has the wrong length"))?;
            heads.mark_exceptional(u32::from_be_bytes(key));
            Ok(())
        })
    }

    /// Sets that were still growing: their additions since the row was written, if it was.
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
        let mut reader = Reader(value);
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
            // Its row must be written before the log entry goes, even if the row has it all.
            set.changed = true;
        }
        Ok(())
    }

    /// Heads and summary of the last epochs.
    fn read_tail(&mut self) -> Result<(), IndexError> {
        let mut epoch = None;
        loop {
            // One epoch's keys at a time: an epoch's rows are about 0.3 MB.
            let from = SetKey::listed(epoch.map_or(self.state.tail_from, |epoch: u64| epoch.saturating_add(1)), 0);
            let Some(next) = self.first_epoch_from(from)? else { break };
            self.read_tail_epoch(next)?;
            epoch = Some(next);
            if next == u64::MAX {
                break;
            }
        }
        Ok(())
    }

    fn first_epoch_from(&self, from: SetKey) -> Result<Option<u64>, IndexError> {
        let in_memory = self.sets.range(from..).next().map(|(key, _)| key.epoch);
        let mut on_disk = None;
        self.db.scan(Cf::Votes, &from.to_bytes(), &[0xff; SetKey::LEN], |key, _| {
            on_disk = SetKey::from_bytes(key).map(|key| key.epoch);
            Ok(false)
        })?;
        Ok(match (in_memory, on_disk) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    fn read_tail_epoch(&mut self, epoch: u64) -> Result<(), IndexError> {
        // Far epochs are found through their validators' lists.
        let Ok(near) = u32::try_from(epoch) else { return Ok(()) };
        if near == u32::MAX {
            return Ok(());
        }
        let mut orders = Orders::new();
        let first = SetKey::listed(epoch, 0);
        let mut rows = Vec::new();
        self.db.scan(Cf::Votes, &first.to_bytes(), &last_of_epoch(epoch), |key, value| {
            let key = SetKey::from_bytes(key).ok_or_else(|| self.db.corrupt("a vote row's key does not parse"))?;
            if !self.sets.contains_key(&key) {
                rows.push((key, value.to_vec()));
            }
            Ok(true)
        })?;
        let open: Vec<SetKey> = self.sets.range(first..).map(|(key, _)| *key).take_while(|key| key.epoch == epoch).collect();
        for key in open {
            let set = self.sets.get(&key).cloned().expect("its key was just listed");
            self.observe_set(&mut orders, near, &key, &set)?;
        }
        for (key, value) in rows {
            let seating = self.seating_of(&key)?;
            let set = SumSet::decode(&value, &key, seating.as_ref().map(|seating| &seating.geometry));
            let set = set.ok_or_else(|| self.db.corrupt(format!("a vote row of epoch {epoch} does not parse")))?;
            self.observe_set(&mut orders, near, &key, &set)?;
        }
        Ok(())
    }

    fn observe_set(&mut self, orders: &mut Orders, epoch: u32, key: &SetKey, set: &SumSet) -> Result<(), IndexError> {
        let Some(row) = self.data.row(&self.db, key.epoch, key.handle)? else {
            return Err(self.db.corrupt(format!("the data of a vote row of epoch {epoch} is missing")));
        };
        let seating = self.seating_of(key)?;
        let source = u32::try_from(row.source()).ok().filter(|source| *source < u32::MAX);
        for sum in &set.sums {
            let validators: Vec<u32> = match (&sum.members, &seating) {
                (Members::Seats(bits), Some(seating)) => {
                    let order = orders.entry(seating.id).or_insert_with(|| seating.order());
                    seating.members_in(order, key.slot, bits.iter()).collect()
                }
                (Members::Listed(list), _) => list.clone(),
                (Members::Seats(_), None) => Vec::new(),
            };
            for validator in &validators {
                let outside =
                    self.heads.get(*validator).has_exceptions() && self.offenders.list(&self.db, *validator)?.has(key.handle);
                if let (Some(source), false) = (source, outside) {
                    let vote = Remembered { source, target: epoch, handle: key.handle };
                    self.heads.observe(*validator, vote, false);
                }
            }
            self.summary.mark(&self.db, epoch, &validators, false)?;
            self.count_epoch(key.epoch, validators.len() as u64);
        }
        Ok(())
    }

    /// The shuffling a set's members sit in.
    pub(crate) fn seating_of(&self, key: &SetKey) -> Result<Option<Arc<Seating>>, IndexError> {
        let Some(id) = key.shuffling else { return Ok(None) };
        let found = self.table.find(&self.db, key.epoch, id)?;
        found.map(Some).ok_or_else(|| self.db.corrupt(format!("the shuffling of a vote row of epoch {} is missing", key.epoch)))
    }

    /// Brings a set into memory, from its row if it has one.
    pub(crate) fn ensure_set(&mut self, key: SetKey) -> Result<(), IndexError> {
        if !self.sets.contains_key(&key) {
            let mut set = self.read_set(&key)?.unwrap_or_else(|| SumSet::new(key.shuffling.is_some()));
            set.touched = self.n_commits;
            self.sets.insert(key, set);
        }
        Ok(())
    }

    pub(crate) fn read_set(&self, key: &SetKey) -> Result<Option<SumSet>, IndexError> {
        let Some(value) = self.db.get(Cf::Votes, &key.to_bytes())? else { return Ok(None) };
        let seating = self.seating_of(key)?;
        let set = SumSet::decode(&value, key, seating.as_ref().map(|seating| &seating.geometry));
        set.map(Some).ok_or_else(|| self.db.corrupt(format!("a vote row of epoch {} does not parse", key.epoch)))
    }
}

pub(crate) fn last_of_epoch(epoch: u64) -> [u8; SetKey::LEN] {
    let mut key = [0xff; SetKey::LEN];
    key[..8].copy_from_slice(&epoch.to_be_bytes());
    key
}

/// Checks the stored shape, or stores it if the index is new.
fn check_shape(db: &Db, shape: &Shape) -> Result<(), IndexError> {
    let path = db.path().to_owned();
    let stored = db.get(Cf::Meta, SHAPE_KEY)?.map(|value| value.to_vec());
    let Some(stored) = stored else {
        // The first thing written to a new index. A process killed before that leaves all tables empty.
        if db.last_key(Cf::Votes)?.is_some() || db.last_key(Cf::Proposals)?.is_some() || db.get(Cf::Meta, STATE_KEY)?.is_some() {
            return Err(db.corrupt("it has rows but no shape"));
        }
        let mut batch = db.batch();
        batch.put(Cf::Meta, SHAPE_KEY, &encode_shape(shape));
        return batch.write();
    };
    let mut reader = Reader(&stored);
    let short = || db.corrupt("its shape row does not parse");
    let found = u32::from_be_bytes(reader.array().ok_or_else(short)?);
    if found > FORMAT {
        return Err(IndexError::NewerVersion { path, found, known: FORMAT });
    }
    let root = Root::from(reader.array::<32>().ok_or_else(short)?);
    if root != shape.genesis_validators_root {
        return Err(IndexError::ForeignNetwork { path, found: root, wanted: shape.genesis_validators_root });
    }
    let slots = u64::from_be_bytes(reader.array().ok_or_else(short)?);
    if slots != shape.slots_per_epoch {
        return Err(IndexError::ShapeDiffers { path, found: slots, wanted: shape.slots_per_epoch });
    }
    if encode_shape(shape) != stored {
        let mut batch = db.batch();
        batch.put(Cf::Meta, SHAPE_KEY, &encode_shape(shape));
        batch.write()?;
    }
    Ok(())
}

fn encode_shape(shape: &Shape) -> Vec<u8> {
    let mut out = FORMAT.to_be_bytes().to_vec();
    out.extend_from_slice(shape.genesis_validators_root.as_slice());
    out.extend_from_slice(&shape.slots_per_epoch.to_be_bytes());
    out.extend_from_slice(&shape.history_epochs.to_be_bytes());
    out
}
