//! The blocks of the last epochs on disk, so that peers can be served.
//!
//! A peer that gets a vote for a block that it does not know asks the sender for that block. In a
//! split this happens all the time, and a peer that never has what it speaks of is sent away. So
//! every block whose proposer's signature is proven is kept for [`KEPT_EPOCHS`] epochs.
//!
//! The store is a folder with one file per epoch. A file is only appended to, and it is deleted as
//! a whole. The index is in memory. It is built when the store is opened, from the heads of the
//! records. Nothing here is a truth that the watcher depends on: the folder may be deleted.
//!
//! ```text
//! <epoch, 10 digits>.blocks    "SWBLOCK" and the format's version, then records:
//!
//! length   u32      of the chunk, in bytes
//! slot     u64
//! root     32 bytes
//! parent   32 bytes
//! digest   4 bytes  fork digest of the block's epoch
//! checksum 8 bytes  the first bytes of the SHA-256 of everything above and of the chunk
//! chunk             as it is sent: the length of the SSZ as a varint, then snappy frames
//! ```
//!
//! Numbers are little-endian. A record that is cut off, or whose head makes no sense, ends its
//! file: it is removed with everything behind it when the store is opened. The checksum of the last
//! record is checked then too, and that of any other record when it is read.
//!
//! **Which blocks are served.** Blocks by root: each one that is kept, on any branch. Blocks by
//! range: the ancestors of the head that [`BlockStore::set_head`] names, as far back as each one's
//! parent is kept. So what is advertised has no gap.
//!
//! **Bounds.** [`StoreLimits::bytes`] in total: the oldest epoch is deleted when more is held.
//! [`MAX_PER_SLOT`] blocks of a slot and [`MAX_PER_PROPOSER`] of one proposer in it, because the
//! owner of one key can sign any number of blocks. [`MAX_SLOT_BYTES`] of one slot. Whoever owns a
//! key can sign a block out of turn and is not slashed for it, so such blocks, and those of which
//! it is not known, get half of that, and none of them is kept while the store is half full. No
//! block of a slot that has not begun.
//!
//! Price: a kept block costs the thread that keeps it about a millisecond for compression. Nothing
//! is synced to disk, so a power failure can lose the last blocks.

use base::BoundedSet;
use consensus::{ForkDigest, Root, Slot, ValidatorIndex};
use prometheus::{IntCounterVec, Opts};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Epochs of blocks that are served.
pub const KEPT_EPOCHS: u64 = 64;
/// Epochs that are kept longer than they are advertised. A peer may ask for what an earlier status
/// advertised.
const SLACK_EPOCHS: u64 = 2;
/// Greatest number of kept blocks of one slot.
pub const MAX_PER_SLOT: usize = 8;
/// Greatest number of kept blocks of one proposer in one slot.
pub const MAX_PER_PROPOSER: usize = 2;
/// Greatest number of bytes of the kept blocks of one slot. The largest block fits in half of it.
pub const MAX_SLOT_BYTES: usize = 2 * MAX_CHUNK_LEN;
/// Proven blocks that were not kept, of which the store knows that.
const MAX_REFUSED: usize = 1024;
const MAGIC: &[u8; 8] = b"SWBLOCK\x01";
const SUFFIX: &str = "blocks";
/// Length of a record's head in bytes.
const HEAD_LEN: usize = 4 + 8 + 32 + 32 + 4 + 8;
const CHECKSUM_LEN: usize = 8;
/// Greatest length of a chunk: that of the largest block, which compression has made longer.
const MAX_CHUNK_LEN: usize = crate::limits::MAX_WIRE_SIZE;

/// The bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    pub bytes: u64,
    pub slots_per_epoch: u64,
}

impl StoreLimits {
    /// 66 epochs of mainnet have about 250 MB.
    pub const BYTES: u64 = 1 << 30;
}

/// Where a kept block is, and what is known of it without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLocation {
    pub slot: Slot,
    pub root: Root,
    pub digest: ForkDigest,
    pub parent: Root,
    epoch: u64,
    /// Offset of the record in its file.
    at: u64,
    /// Length of the chunk in bytes.
    len: usize,
}

impl BlockLocation {
    /// Number of bytes that are sent for this block.
    pub const fn chunk_len(&self) -> usize {
        self.len
    }
}

/// A proven block that is to be kept.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock<'a> {
    pub slot: Slot,
    pub root: Root,
    pub parent: Root,
    pub proposer: ValidatorIndex,
    /// Whether it is known to count as part of the chain: its proposer built it in turn, or enough
    /// stake voted for it.
    pub is_in_turn: bool,
    pub digest: ForkDigest,
    pub ssz: &'a [u8],
}

/// What became of a block that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    New,
    Known,
    /// Its epoch is older than the kept ones, or its slot has not begun.
    OutOfRange,
    /// There are as many blocks or bytes of its slot, or of its proposer in this slot, as are kept,
    /// or the store is too full for a block that may be out of turn.
    TooMany,
}

impl Kept {
    /// The label of this result in metrics.
    const fn label(self) -> &'static str {
        match self {
            Self::New => "kept",
            Self::Known => "known",
            Self::OutOfRange => "out_of_range",
            Self::TooMany => "too_many",
        }
    }
}

/// A store. Clones share it.
#[derive(Clone)]
pub struct BlockStore(Arc<SharedStore>);

struct SharedStore {
    dir: PathBuf,
    limits: StoreLimits,
    /// Held while a file is written to. Readers do not wait for it.
    writing: Mutex<()>,
    index: Mutex<Index>,
    /// Blocks that were to be kept, by result.
    outcomes: IntCounterVec,
    /// Changes with each block that is kept or refused.
    kept: watch::Sender<()>,
}

struct Index {
    by_root: HashMap<Root, BlockLocation>,
    by_slot: BTreeSet<(Slot, Root)>,
    /// The blocks of this run by slot and proposer.
    per_proposer: BTreeMap<(Slot, ValidatorIndex), usize>,
    /// Bytes of each epoch's file.
    epochs: BTreeMap<u64, u64>,
    /// Blocks for which there was no room.
    refused: BoundedSet<Root>,
    head: Root,
    /// The head and its ancestors, down to the first one whose parent is not kept.
    canonical: BTreeMap<Slot, Root>,
}

impl std::fmt::Debug for BlockStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockStore({})", self.0.dir.display())
    }
}

impl PartialEq for BlockStore {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for BlockStore {}

impl BlockStore {
    /// Opens the store in a folder, which is created if it does not exist. A cut record at the end
    /// of a file is removed, and so is the content of a file of another format: peers have it.
    pub fn open(dir: &Path, limits: StoreLimits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut index = Index::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let Some(epoch) = epoch_of(&path) else { continue };
            let (locations, len) = read_index(&path, epoch)?;
            index.epochs.insert(epoch, len);
            for location in locations {
                index.insert(location);
            }
        }
        let opts = Opts::new("slashwatch_sources_kept_blocks_total", "Proven blocks to be kept for peers, by result");
        let outcomes = IntCounterVec::new(opts, &["result"]).expect("a constant, valid name");
        let labels = [Kept::New, Kept::Known, Kept::OutOfRange, Kept::TooMany].map(Kept::label);
        labels.into_iter().chain(["failed"]).for_each(|label| outcomes.with_label_values(&[label]).inc_by(0));
        let shared = SharedStore {
            outcomes,
            dir: dir.to_owned(),
            limits,
            writing: Mutex::default(),
            index: Mutex::new(index),
            kept: watch::Sender::new(()),
        };
        let store = Self(Arc::new(shared));
        store.drop_oldest(0)?;
        Ok(store)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic elsewhere leaves the index as it was before or after a block.
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a block whose proposer's signature is proven. `now` is the slot of the clock. The call
    /// writes to disk, so an async task must not make it.
    pub fn keep(&self, block: &NewBlock<'_>, now: Slot) -> io::Result<Kept> {
        let result = self.try_to_keep(block, now);
        // Too old to be kept. Whoever catches up from an old state needs to know that it holds.
        let is_old = matches!(result, Ok(Kept::OutOfRange)) && block.slot <= now && block.is_in_turn;
        if is_old || matches!(result, Ok(Kept::TooMany) | Err(_)) {
            self.index().refused.insert(block.root);
            self.0.kept.send_replace(());
        }
        self.0.outcomes.with_label_values(&[result.as_ref().map_or("failed", |kept| kept.label())]).inc();
        result
    }

    fn try_to_keep(&self, block: &NewBlock<'_>, now: Slot) -> io::Result<Kept> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.keeps(block.slot, now) {
            return Ok(Kept::OutOfRange);
        }
        let epoch = self.epoch(block.slot);
        let (max_blocks, max_slot_bytes, max_bytes) = if block.is_in_turn {
            (MAX_PER_SLOT, MAX_SLOT_BYTES, u64::MAX)
        } else {
            (MAX_PER_SLOT / 2, MAX_SLOT_BYTES / 2, self.0.limits.bytes / 2)
        };
        {
            let index = self.index();
            if index.by_root.contains_key(&block.root) {
                return Ok(Kept::Known);
            }
            let of_proposer = index.per_proposer.get(&(block.slot, block.proposer)).copied().unwrap_or(0);
            if index.at_slot(block.slot).count() >= max_blocks || of_proposer >= MAX_PER_PROPOSER {
                return Ok(Kept::TooMany);
            }
        }
        self.drop_oldest(self.oldest_epoch(now))?;
        let chunk = chunk_of(block.ssz)?;
        if self.index().slot_bytes(block.slot) + chunk.len() > max_slot_bytes || self.bytes() > max_bytes {
            return Ok(Kept::TooMany);
        }
        let path = self.path(epoch);
        let at = append(&path, block, &chunk)?;
        let mut index = self.index();
        index.epochs.insert(epoch, at + (HEAD_LEN + chunk.len()) as u64);
        *index.per_proposer.entry((block.slot, block.proposer)).or_default() += 1;
        let NewBlock { slot, root, parent, digest, .. } = *block;
        index.insert(BlockLocation { slot, root, digest, parent, epoch, at, len: chunk.len() });
        let head = index.head;
        index.follow(head);
        drop(index);
        self.0.kept.send_replace(());
        Ok(Kept::New)
    }

    /// The counter of blocks that were to be kept, for a metrics page.
    pub fn outcomes(&self) -> &IntCounterVec {
        &self.0.outcomes
    }

    /// Whether blocks of this slot are kept. `now` is the slot of the clock.
    pub fn keeps(&self, slot: Slot, now: Slot) -> bool {
        slot <= now.saturating_add(1) && self.epoch(slot) >= self.oldest_epoch(now)
    }

    fn oldest_epoch(&self, now: Slot) -> u64 {
        self.epoch(now).saturating_sub(KEPT_EPOCHS + SLACK_EPOCHS)
    }

    /// Deletes the epochs before `oldest`, and further ones while there are too many bytes. A file
    /// that cannot be deleted counts as before, and the next ones go in its place.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be deleted and there are too many bytes therefore.
    fn drop_oldest(&self, oldest: u64) -> io::Result<()> {
        let (mut next, mut failed) = (0, None);
        loop {
            let mut index = self.index();
            let is_full = index.epochs.values().sum::<u64>() > self.0.limits.bytes;
            let Some(epoch) = index.epochs.range(next..).next().map(|(epoch, _)| *epoch) else {
                return if is_full { failed.map_or(Ok(()), Err) } else { Ok(()) };
            };
            if epoch >= oldest && !is_full {
                return Ok(());
            }
            index.forget(|location| location.epoch == epoch);
            let head = index.head;
            index.follow(head);
            drop(index);
            match fs::remove_file(self.path(epoch)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::debug!(%error, epoch, "a file of old blocks cannot be deleted");
                    failed = Some(error);
                }
                Ok(()) | Err(_) => drop(self.index().epochs.remove(&epoch)),
            }
            next = epoch.saturating_add(1);
        }
    }

    /// Names the head of the branch that is served by range.
    pub fn set_head(&self, head: Root) {
        let mut index = self.index();
        if index.head != head {
            index.follow(head);
        }
    }

    /// The head that was named, if it is kept.
    pub fn head(&self) -> Option<BlockLocation> {
        let index = self.index();
        index.by_root.get(&index.head).copied()
    }

    /// The first slot from which on every block up to the head is kept and is going to be kept for
    /// some time. `None` if the head is not kept.
    pub fn earliest_available(&self, now: Slot) -> Option<Slot> {
        let oldest = self.epoch(now).saturating_sub(KEPT_EPOCHS).saturating_mul(self.0.limits.slots_per_epoch);
        let (first, _) = self.index().canonical.first_key_value().map(|(slot, root)| (*slot, *root))?;
        Some(first.max(Slot::new(oldest)))
    }

    /// The blocks of the head's branch in `count` slots from `start` on, by slot. `None` if `start`
    /// is before the first kept block of the branch.
    pub fn range(&self, start: Slot, count: u64) -> Option<Vec<BlockLocation>> {
        let index = self.index();
        let (first, _) = index.canonical.first_key_value()?;
        if start < *first {
            return None;
        }
        let slots = index.canonical.range(start..start.saturating_add(count));
        Some(slots.filter_map(|(_, root)| index.by_root.get(root)).copied().collect())
    }

    /// The kept ones of some blocks, in the same order.
    pub fn by_root(&self, roots: &[Root]) -> Vec<BlockLocation> {
        let index = self.index();
        roots.iter().filter_map(|root| index.by_root.get(root)).copied().collect()
    }

    /// All blocks after a slot, on every branch, by slot.
    pub fn after(&self, slot: Slot) -> Vec<BlockLocation> {
        let index = self.index();
        let later = index.by_slot.range((slot.saturating_add(1), Root::ZERO)..);
        later.filter_map(|(_, root)| index.by_root.get(root)).copied().collect()
    }

    fn is_proven(&self, root: &Root) -> bool {
        let index = self.index();
        index.by_root.contains_key(root) || index.refused.contains(root)
    }

    pub fn contains(&self, root: &Root) -> bool {
        self.index().by_root.contains_key(root)
    }

    /// Waits until a block is kept, has been refused for want of room, or is too old to be kept and
    /// was built in its proposer's turn. In each case its signature is proven.
    pub async fn until_proven(&self, root: &Root) {
        let mut changes = self.0.kept.subscribe();
        // The sender is dropped with the store only, which this call borrows.
        let _ = changes.wait_for(|()| self.is_proven(root)).await;
    }

    pub fn len(&self) -> usize {
        self.index().by_root.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.index().epochs.values().sum()
    }

    /// Reads the chunk of a block. A block whose record is damaged is forgotten. The call reads
    /// from disk, so an async task must not make it.
    pub fn read(&self, block: &BlockLocation) -> io::Result<Vec<u8>> {
        let read = || {
            let mut file = File::open(self.path(block.epoch))?;
            file.seek(SeekFrom::Start(block.at))?;
            let mut record = vec![0; HEAD_LEN + block.len];
            file.read_exact(&mut record)?;
            if !is_intact(&record) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the record of a kept block is damaged"));
            }
            Ok(record.split_off(HEAD_LEN))
        };
        read().inspect_err(|error| {
            tracing::warn!(%error, slot = %block.slot, root = %block.root, "a kept block cannot be read");
            let mut index = self.index();
            index.forget(|location| location.root == block.root);
            let head = index.head;
            index.follow(head);
        })
    }

    /// Reads a block's SSZ.
    pub fn ssz(&self, block: &BlockLocation) -> io::Result<Vec<u8>> {
        let chunk = self.read(block)?;
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let (len, frames) = unsigned_varint::decode::usize(&chunk).map_err(|error| invalid(error.to_string()))?;
        let ssz = crate::limits::unframe(frames, consensus::MAX_PAYLOAD_SIZE).map_err(|error| invalid(error.to_string()))?;
        if ssz.len() == len { Ok(ssz) } else { Err(invalid("a kept block has another length than it says".into())) }
    }

    fn epoch(&self, slot: Slot) -> u64 {
        slot.as_u64() / self.0.limits.slots_per_epoch.max(1)
    }

    fn path(&self, epoch: u64) -> PathBuf {
        self.0.dir.join(format!("{epoch:010}.{SUFFIX}"))
    }
}

impl Index {
    fn new() -> Self {
        Self {
            by_root: HashMap::new(),
            by_slot: BTreeSet::new(),
            per_proposer: BTreeMap::new(),
            epochs: BTreeMap::new(),
            refused: BoundedSet::new(MAX_REFUSED),
            head: Root::ZERO,
            canonical: BTreeMap::new(),
        }
    }

    fn insert(&mut self, location: BlockLocation) {
        self.by_slot.insert((location.slot, location.root));
        self.by_root.insert(location.root, location);
    }

    fn at_slot(&self, slot: Slot) -> impl Iterator<Item = &(Slot, Root)> {
        self.by_slot.range((slot, Root::ZERO)..=(slot, Root::repeat_byte(0xff)))
    }

    fn slot_bytes(&self, slot: Slot) -> usize {
        self.at_slot(slot).filter_map(|(_, root)| self.by_root.get(root)).map(|location| location.len).sum()
    }

    fn forget(&mut self, is_gone: impl Fn(&BlockLocation) -> bool) {
        self.by_root.retain(|_, location| !is_gone(location));
        let Self { by_root, by_slot, per_proposer, .. } = self;
        by_slot.retain(|(_, root)| by_root.contains_key(root));
        let first = by_slot.first().map_or(Slot::new(u64::MAX), |(slot, _)| *slot);
        per_proposer.retain(|(slot, _), _| *slot >= first);
    }

    /// Determines the served branch: the head and its ancestors. Slots must fall, so a circle that
    /// a damaged file might hold ends.
    fn follow(&mut self, head: Root) {
        self.head = head;
        self.canonical.clear();
        let (mut at, mut before) = (head, Slot::new(u64::MAX));
        while let Some(block) = self.by_root.get(&at).filter(|block| block.slot < before) {
            self.canonical.insert(block.slot, at);
            (at, before) = (block.parent, block.slot);
        }
    }
}

/// Encodes a block as it is sent: the length as a varint, and snappy frames.
pub(crate) fn chunk_of(ssz: &[u8]) -> io::Result<Vec<u8>> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let mut chunk = unsigned_varint::encode::usize(ssz.len(), &mut buffer).to_vec();
    let mut frames = snap::write::FrameEncoder::new(Vec::new());
    frames.write_all(ssz)?;
    chunk.extend(frames.into_inner().map_err(|error| io::Error::other(error.to_string()))?);
    Ok(chunk)
}

fn checksum(head: &[u8], chunk: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = Sha256::new().chain_update(head).chain_update(chunk).finalize();
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&hash[..CHECKSUM_LEN]);
    sum
}

fn is_intact(record: &[u8]) -> bool {
    let Some((head, chunk)) = record.split_at_checked(HEAD_LEN) else { return false };
    let (fields, sum) = head.split_at(HEAD_LEN - CHECKSUM_LEN);
    checksum(fields, chunk) == sum
}

/// Appends a record. Returns its offset. A file that could not be written to its end is cut back to
/// its former length.
fn append(path: &Path, block: &NewBlock<'_>, chunk: &[u8]) -> io::Result<u64> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the block is longer than a block may be");
    let len = u32::try_from(chunk.len()).ok().filter(|_| chunk.len() <= MAX_CHUNK_LEN).ok_or_else(too_long)?;
    let mut record = Vec::with_capacity(HEAD_LEN + chunk.len());
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(&block.slot.as_u64().to_le_bytes());
    record.extend_from_slice(block.root.as_slice());
    record.extend_from_slice(block.parent.as_slice());
    record.extend_from_slice(&block.digest.0);
    let sum = checksum(&record, chunk);
    record.extend_from_slice(&sum);
    record.extend_from_slice(chunk);
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    let magic = if before == 0 { &MAGIC[..] } else { &[] };
    if let Err(error) = file.write_all(magic).and_then(|()| file.write_all(&record)) {
        file.set_len(before)?;
        return Err(error);
    }
    Ok(before + magic.len() as u64)
}

fn epoch_of(path: &Path) -> Option<u64> {
    if path.extension()? != SUFFIX {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

/// Reads the heads of a file's records. What is cut off or makes no sense is removed from the file.
/// Returns the records and the length of the file.
fn read_index(path: &Path, epoch: u64) -> io::Result<(Vec<BlockLocation>, u64)> {
    let mut file = BufReader::new(OpenOptions::new().read(true).write(true).open(path)?);
    let len = file.get_ref().metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    let is_ours = file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    let mut at = MAGIC.len() as u64;
    let mut locations: Vec<BlockLocation> = Vec::new();
    while is_ours && at < len {
        let mut head = [0; HEAD_LEN];
        if file.read_exact(&mut head).is_err() {
            break;
        }
        let Some(location) = location(&head, epoch, at).filter(|one| at + (HEAD_LEN + one.len) as u64 <= len) else { break };
        file.seek_relative(location.len as i64)?;
        at += (HEAD_LEN + location.len) as u64;
        locations.push(location);
    }
    // Only the last record can be half written without being short.
    if let Some(last) = locations.last().copied() {
        let mut record = vec![0; HEAD_LEN + last.len];
        file.seek(SeekFrom::Start(last.at))?;
        file.read_exact(&mut record)?;
        if !is_intact(&record) {
            locations.pop();
            at = last.at;
        }
    }
    if !is_ours {
        at = 0;
    }
    if at < len {
        tracing::warn!(path = %path.display(), at, removed = len - at, "the end of a file of kept blocks is cut or damaged; it is removed");
        file.get_ref().set_len(at)?;
    }
    Ok((locations, at))
}

fn location(head: &[u8; HEAD_LEN], epoch: u64, at: u64) -> Option<BlockLocation> {
    let (len, rest) = head.split_first_chunk::<4>()?;
    let (slot, rest) = rest.split_first_chunk::<8>()?;
    let (root, rest) = rest.split_first_chunk::<32>()?;
    let (parent, rest) = rest.split_first_chunk::<32>()?;
    let (digest, _) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    (0 < len && len <= MAX_CHUNK_LEN).then_some(BlockLocation {
        slot: Slot::new(u64::from_le_bytes(*slot)),
        root: Root::from(*root),
        digest: ForkDigest(*digest),
        parent: Root::from(*parent),
        epoch,
        at,
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StoreLimits = StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: 8 };

    fn root(slot: u64) -> Root {
        Root::repeat_byte(slot as u8)
    }

    /// A block of `n` bytes whose parent is the block of the slot before.
    fn block(slot: u64, ssz: &[u8]) -> NewBlock<'_> {
        NewBlock {
            slot: Slot::new(slot),
            root: root(slot),
            parent: root(slot - 1),
            proposer: ValidatorIndex::new(slot),
            is_in_turn: true,
            digest: ForkDigest([1, 2, 3, 4]),
            ssz,
        }
    }

    fn ssz(slot: u64) -> Vec<u8> {
        (0..5000u64).map(|i| (i * slot % 251) as u8).collect()
    }

    fn filled(dir: &Path, slots: std::ops::RangeInclusive<u64>) -> BlockStore {
        let store = BlockStore::open(dir, LIMITS).unwrap();
        for slot in slots {
            assert_eq!(store.keep(&block(slot, &ssz(slot)), Slot::new(slot)).unwrap(), Kept::New);
        }
        store
    }

    fn slots(blocks: &[BlockLocation]) -> Vec<u64> {
        blocks.iter().map(|block| block.slot.as_u64()).collect()
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path(), 1..=20));
        let store = BlockStore::open(dir.path(), LIMITS).unwrap();
        assert_eq!(store.len(), 20);
        assert_eq!(store.earliest_available(Slot::new(20)), None, "no head is known yet");
        assert_eq!(store.range(Slot::new(3), 4), None);
        store.set_head(root(20));
        assert_eq!(store.earliest_available(Slot::new(20)), Some(Slot::new(1)));
        let found = store.range(Slot::new(7), 3).unwrap();
        assert_eq!(slots(&found), [7, 8, 9]);
        assert_eq!(store.ssz(&found[1]).unwrap(), ssz(8));
        assert_eq!(slots(&store.range(Slot::new(19), 100).unwrap()), [19, 20]);
        assert_eq!(slots(&store.range(Slot::new(21), u64::MAX).unwrap()), [0u64; 0], "after the head there is nothing");
        assert_eq!(slots(&store.by_root(&[root(9), root(77), root(2)])), [9, 2]);
        assert_eq!(store.keep(&block(20, &ssz(20)), Slot::new(20)).unwrap(), Kept::Known);
        assert_eq!(slots(&store.after(Slot::new(17))), [18, 19, 20]);
    }

    /// Whoever catches up from an old state is told that a block holds although it is not kept, but
    /// only if it was built in turn: any key can sign a block of the past.
    #[test]
    fn a_proven_block_that_is_too_old_counts_if_it_was_built_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path(), LIMITS).unwrap();
        let now = Slot::new(8 * 100);
        for (slot, is_in_turn) in [(20, true), (21, false)] {
            let old = NewBlock { is_in_turn, ..block(slot, &[]) };
            assert_eq!(store.keep(&old, now).unwrap(), Kept::OutOfRange);
            assert_eq!(store.is_proven(&root(slot)), is_in_turn);
            assert!(!store.contains(&root(slot)));
        }
        let of_the_future = NewBlock { slot: now.saturating_add(2), ..block(30, &[]) };
        assert_eq!(store.keep(&of_the_future, now).unwrap(), Kept::OutOfRange);
        assert!(!store.is_proven(&root(30)));
    }

    #[test]
    fn a_cut_or_overwritten_tail_is_removed_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path(), 8..=15));
        let path = dir.path().join("0000000001.blocks");
        let whole = fs::read(&path).unwrap();
        for cut in [1, 100, whole.len() / 9, whole.len() / 2] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let store = BlockStore::open(dir.path(), LIMITS).unwrap();
            let n = store.len();
            assert!((3..8).contains(&n), "{n} of 8 after {cut} bytes were cut");
            assert_eq!(store.bytes(), fs::metadata(&path).unwrap().len());
            for slot in 8 + n as u64..=15 {
                assert_eq!(store.keep(&block(slot, &ssz(slot)), Slot::new(15)).unwrap(), Kept::New);
            }
            assert_eq!(fs::read(&path).unwrap(), whole, "appended as if nothing had happened");
        }
        // The file has its length, but the last block's bytes never reached the disk.
        let mut zeros = whole.clone();
        let n = zeros.len();
        zeros[n - 50..].fill(0);
        fs::write(&path, &zeros).unwrap();
        assert_eq!(BlockStore::open(dir.path(), LIMITS).unwrap().len(), 7);
        for junk in [&b""[..], b"SW", b"SWBLOCK\x02and more", &[0xff; 500]] {
            fs::write(&path, junk).unwrap();
            assert!(BlockStore::open(dir.path(), LIMITS).unwrap().is_empty());
        }
    }

    #[test]
    fn a_damaged_block_is_not_served_and_no_longer_advertised() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), 8..=15);
        store.set_head(root(15));
        let damaged = store.by_root(&[root(11)])[0];
        let path = dir.path().join("0000000001.blocks");
        let mut bytes = fs::read(&path).unwrap();
        bytes[damaged.at as usize + HEAD_LEN + 30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(store.read(&damaged).is_err());
        assert_eq!(store.earliest_available(Slot::new(15)), Some(Slot::new(12)));
        assert_eq!(store.range(Slot::new(10), 2), None);
    }

    #[test]
    fn old_epochs_go_as_a_whole_and_what_is_advertised_stays_two_epochs_longer() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path(), LIMITS).unwrap();
        let last = 80 * 8;
        for slot in 1..=last {
            let ssz = [slot as u8; 40];
            let new = NewBlock { root: long(slot), parent: long(slot - 1), ..block(slot, &ssz) };
            assert_eq!(store.keep(&new, Slot::new(slot)).unwrap(), Kept::New, "{slot}");
            store.set_head(long(slot));
        }
        assert_eq!(store.earliest_available(Slot::new(last)), Some(Slot::new(16 * 8)));
        assert!(store.range(Slot::new(14 * 8), 8).is_some_and(|blocks| blocks.len() == 8), "held longer than advertised");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 67);
        assert_eq!(store.keep(&block(3, &[1; 40]), Slot::new(last)).unwrap(), Kept::OutOfRange);
        assert_eq!(store.keep(&block(last + 2, &[1; 40]), Slot::new(last)).unwrap(), Kept::OutOfRange);
    }

    fn long(slot: u64) -> Root {
        let mut root = Root::repeat_byte(1);
        root[..8].copy_from_slice(&slot.to_le_bytes());
        root
    }

    #[test]
    fn bytes_and_blocks_of_a_slot_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path(), StoreLimits { bytes: 100_000, ..LIMITS }).unwrap();
        // Incompressible, so that the bytes on disk are those of the blocks.
        let mut random = 7u64;
        let ssz: Vec<u8> = (0..5_000)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 56) as u8
            })
            .collect();
        for slot in 1..=200 {
            store.keep(&block(slot, &ssz), Slot::new(slot)).unwrap();
            assert!(store.bytes() <= 100_000 + 8 * 5_200, "one epoch above the limit at most: {}", store.bytes());
        }
        store.set_head(root(200));
        assert!(store.earliest_available(Slot::new(200)).unwrap() > Slot::new(150));
        // One key signs many blocks of one slot, and many keys do.
        let mut kept = [0, 0];
        for nth in 0..50u64 {
            for (who, proposer) in [7, 1_000 + nth].into_iter().enumerate() {
                let root = Root::from(consensus::sha256(&[nth as u8, who as u8]));
                let new = NewBlock { root, proposer: ValidatorIndex::new(proposer), ..block(200, &ssz) };
                kept[who] += usize::from(store.keep(&new, Slot::new(200)).unwrap() == Kept::New);
            }
        }
        assert_eq!((kept[0], kept[0] + kept[1] + 1), (MAX_PER_PROPOSER, MAX_PER_SLOT));
    }

    #[test]
    fn a_file_that_cannot_be_deleted_stays_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path(), StoreLimits { bytes: 5_000, ..LIMITS }).unwrap();
        // A folder is no file that can be deleted.
        let stuck = dir.path().join("0000000000.blocks");
        fs::create_dir(&stuck).unwrap();
        store.index().epochs.insert(0, 2_000);
        for slot in 8..=250 {
            assert_eq!(store.keep(&block(slot, &[slot as u8; 64]), Slot::new(slot)).unwrap(), Kept::New, "{slot}");
        }
        let len: u64 = store.index().epochs.values().sum();
        assert!(stuck.exists() && store.index().epochs[&0] == 2_000 && len < 7_000, "{len}");
        assert!(!store.contains(&root(8)) && store.contains(&root(250)));
    }

    #[test]
    fn blocks_out_of_turn_leave_room_and_do_not_displace_history() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path(), StoreLimits { bytes: 20_000, ..LIMITS }).unwrap();
        let others = |slot: u64, nth: u64| NewBlock {
            root: long(slot * 100 + nth),
            proposer: ValidatorIndex::new(1_000 + nth),
            is_in_turn: false,
            ..block(slot, &[1; 64])
        };
        let now = Slot::new(100);
        let n_kept = (0..20).filter(|nth| store.keep(&others(1, *nth), now).unwrap() == Kept::New).count();
        assert_eq!(n_kept, MAX_PER_SLOT / 2);
        let last = others(1, 19).root;
        assert!(!store.contains(&last) && store.is_proven(&last), "its sender is not to blame");
        assert_eq!(store.keep(&block(1, &ssz(1)), now).unwrap(), Kept::New, "that of the chain has a place");
        for slot in 2..=80 {
            (0..4).for_each(|nth| drop(store.keep(&others(slot, nth), now)));
        }
        assert!(store.bytes() < 11_000 && store.contains(&root(1)), "{} bytes", store.bytes());
        assert_eq!(store.keep(&block(81, &ssz(81)), now).unwrap(), Kept::New);
    }

    #[test]
    fn both_branches_are_kept_and_the_heads_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path(), 1..=10);
        let other = [long(6), long(7)];
        for (nth, slot) in [6, 7].into_iter().enumerate() {
            let parent = if nth == 0 { root(5) } else { other[0] };
            let new = NewBlock { root: other[nth], parent, proposer: ValidatorIndex::new(90), ..block(slot, &[9; 64]) };
            assert_eq!(store.keep(&new, Slot::new(10)).unwrap(), Kept::New);
        }
        store.set_head(root(10));
        assert_eq!(slots(&store.range(Slot::new(5), 10).unwrap()), [5, 6, 7, 8, 9, 10]);
        store.set_head(other[1]);
        let branch = store.range(Slot::new(5), 10).unwrap();
        assert_eq!(branch.iter().map(|block| block.root).collect::<Vec<_>>(), [root(5), other[0], other[1]]);
        assert_eq!(store.by_root(&[root(8), other[0]]).len(), 2);
        // The head's parent comes last: until then there is a gap.
        let child = NewBlock { root: long(13), parent: long(12), ..block(13, &[1; 64]) };
        store.keep(&child, Slot::new(13)).unwrap();
        store.set_head(long(13));
        assert_eq!(store.earliest_available(Slot::new(13)), Some(Slot::new(13)));
        let parent = NewBlock { root: long(12), parent: other[1], ..block(12, &[2; 64]) };
        store.keep(&parent, Slot::new(13)).unwrap();
        assert_eq!(store.earliest_available(Slot::new(13)), Some(Slot::new(1)));
    }
}
