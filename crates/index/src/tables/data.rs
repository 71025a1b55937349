//! Attestation data and their handles. Other tables refer to a data by a handle of 4 bytes. Handles
//! are assigned in order of arrival. Two votes are for the same data exactly if their handles are
//! equal.

use crate::IndexError;
use crate::newest_votes::MAX_HANDLE;
use crate::storage::{ByteReader, Cf, Db, WriteBuffer, data_key};
use consensus::{AttestationData, Checkpoint, CommitteeIndex, Epoch, Root, Slot};
use std::collections::HashMap;

/// The largest number of epochs whose data are kept in memory. An epoch takes about 10 KB.
const MAX_CACHED_EPOCHS: usize = 64;

/// Source and target of a vote, with the handle of its data. That is what another vote of the same
/// validator is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VoteSpan {
    pub source: Epoch,
    pub target: Epoch,
    pub handle: u32,
}

/// One attestation data with its handle and its hash-tree-root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataRow {
    pub handle: u32,
    pub root: Root,
    pub data: AttestationData,
}

impl DataRow {
    pub fn source(&self) -> Epoch {
        self.data.source.epoch
    }

    pub fn target(&self) -> Epoch {
        self.data.target.epoch
    }

    pub fn span(&self) -> VoteSpan {
        VoteSpan { source: self.source(), target: self.target(), handle: self.handle }
    }
}

#[derive(Default)]
struct EpochData {
    by_root: HashMap<Root, u32>,
    by_handle: HashMap<u32, DataRow>,
    touched: u64,
}

/// All attestation data. Those of some epochs are in memory.
pub(crate) struct DataTable {
    epochs: HashMap<Epoch, EpochData>,
    pub next_handle: u32,
    staged: Vec<(Epoch, u32)>,
    clock: u64,
}

impl DataTable {
    pub fn new(next_handle: u32) -> Self {
        Self { epochs: HashMap::new(), next_handle, staged: Vec::new(), clock: 0 }
    }

    /// The row of a data. It is created if the data is new. `None` if no handle is left, after 2^31
    /// different data.
    pub fn intern(&mut self, db: &Db, data: &AttestationData, root: Root) -> Result<Option<DataRow>, IndexError> {
        let epoch = data.target.epoch;
        self.load(db, epoch)?;
        let held = self.epochs.get_mut(&epoch).expect("loaded above");
        if let Some(row) = held.by_root.get(&root).and_then(|handle| held.by_handle.get(handle)) {
            return Ok(Some(*row));
        }
        if self.next_handle > MAX_HANDLE {
            return Ok(None);
        }
        let row = DataRow { handle: self.next_handle, root, data: *data };
        self.next_handle += 1;
        held.by_root.insert(root, row.handle);
        held.by_handle.insert(row.handle, row);
        self.staged.push((epoch, row.handle));
        Ok(Some(row))
    }

    /// Removes the row that was created last, if no stored vote refers to it. A data without a
    /// stored vote is not stored.
    pub fn take_back(&mut self, row: &DataRow) {
        if self.staged.last() != Some(&(row.target(), row.handle)) {
            return;
        }
        self.staged.pop();
        self.next_handle = row.handle;
        if let Some(held) = self.epochs.get_mut(&row.target()) {
            held.by_root.remove(&row.root);
            held.by_handle.remove(&row.handle);
        }
    }

    /// Whether a handle belongs to the data with this root. `None` if the epoch is not in memory.
    pub fn is_of(&self, epoch: Epoch, handle: u32, root: Root) -> Option<bool> {
        self.epochs.get(&epoch)?.by_handle.get(&handle).map(|row| row.root == root)
    }

    /// The row with this handle. It is read from disk if it is not in memory.
    pub fn row(&self, db: &Db, epoch: Epoch, handle: u32) -> Result<Option<DataRow>, IndexError> {
        if let Some(row) = self.epochs.get(&epoch).and_then(|held| held.by_handle.get(&handle)) {
            return Ok(Some(*row));
        }
        let Some(value) = db.get(Cf::Data, &data_key(epoch, handle))? else { return Ok(None) };
        decode(epoch, handle, &value).map(Some).ok_or_else(|| unreadable(db))
    }

    /// Writes the new rows.
    pub fn stage(&self, batch: &mut WriteBuffer<'_>) {
        for (epoch, handle) in &self.staged {
            if let Some(row) = self.epochs.get(epoch).and_then(|held| held.by_handle.get(handle)) {
                batch.put(Cf::Data, &data_key(*epoch, *handle), &encode(row));
            }
        }
    }

    /// Called after a commit. Drops the epochs that were not used for longest, if there are too
    /// many.
    pub fn committed(&mut self) {
        self.staged.clear();
        if self.epochs.len() > MAX_CACHED_EPOCHS {
            let mut ages: Vec<u64> = self.epochs.values().map(|held| held.touched).collect();
            ages.sort_unstable();
            let keep_from = ages[ages.len() - MAX_CACHED_EPOCHS / 2];
            self.epochs.retain(|_, held| held.touched >= keep_from);
        }
    }

    /// Drops the epochs before `before` from memory. The caller deletes the rows.
    pub fn forget(&mut self, before: Epoch) {
        self.epochs.retain(|epoch, _| *epoch >= before);
        self.staged.retain(|(epoch, _)| *epoch >= before);
    }

    fn load(&mut self, db: &Db, epoch: Epoch) -> Result<(), IndexError> {
        self.clock += 1;
        if let Some(held) = self.epochs.get_mut(&epoch) {
            held.touched = self.clock;
            return Ok(());
        }
        let next_handle = self.next_handle;
        let mut held = EpochData { touched: self.clock, ..EpochData::default() };
        db.scan(Cf::Data, &data_key(epoch, 0), &data_key(epoch, u32::MAX), |key, value| {
            let handle = key.get(8..).and_then(|handle| handle.try_into().ok()).map(u32::from_be_bytes);
            let row = handle.and_then(|handle| decode(epoch, handle, value)).ok_or_else(|| unreadable(db))?;
            // Otherwise a handle would be assigned twice.
            if row.handle >= next_handle {
                return Err(db.corrupt("attestation data are newer than the index's state"));
            }
            held.by_root.insert(row.root, row.handle);
            held.by_handle.insert(row.handle, row);
            Ok(true)
        })?;
        self.epochs.insert(epoch, held);
        Ok(())
    }
}

fn encode(row: &DataRow) -> Vec<u8> {
    let data = &row.data;
    let mut out = Vec::with_capacity(152);
    // The values that the data of an epoch share come first, so that the row compresses well.
    out.extend_from_slice(&data.source.epoch.as_u64().to_be_bytes());
    out.extend_from_slice(data.source.root.as_slice());
    out.extend_from_slice(data.target.root.as_slice());
    out.extend_from_slice(&data.index.as_u64().to_be_bytes());
    out.extend_from_slice(&data.slot.as_u64().to_be_bytes());
    out.extend_from_slice(data.beacon_block_root.as_slice());
    out.extend_from_slice(row.root.as_slice());
    out
}

fn decode(epoch: Epoch, handle: u32, value: &[u8]) -> Option<DataRow> {
    let mut reader = ByteReader(value);
    let source = Checkpoint { epoch: Epoch::new(number(&mut reader)?), root: Root::from(reader.array()?) };
    let target = Checkpoint { epoch, root: Root::from(reader.array()?) };
    let index = CommitteeIndex::new(number(&mut reader)?);
    let slot = Slot::new(number(&mut reader)?);
    let beacon_block_root = Root::from(reader.array()?);
    let root = Root::from(reader.array()?);
    let data = AttestationData { slot, index, beacon_block_root, source, target };
    reader.is_empty().then_some(DataRow { handle, root, data })
}

fn number(reader: &mut ByteReader<'_>) -> Option<u64> {
    reader.array().map(u64::from_be_bytes)
}

fn unreadable(db: &Db) -> IndexError {
    db.corrupt("a row of attestation data does not parse")
}
