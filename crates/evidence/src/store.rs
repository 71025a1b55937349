//! The store: records findings and reads them back.
//!
//! There is one writer at a time (a mutex inside) and any number of readers. Everything that one
//! call changes is one synced write. So after a crash there is all of it or nothing. The sequence
//! numbers of findings have no gaps apart from expired findings.

use crate::keys::{BY_KIND, BY_LABEL, BY_SEVERITY, BY_SLOT, BY_VALIDATOR, CHECKPOINTS, EVIDENCE, FINDING_IDS, FINDINGS, Key};
use crate::notify::Listeners;
use crate::outbox::OutboxCounts;
use crate::{Changes, Evidence, Finding, Query, StoreError, Subscription, open};
use consensus::{Root, ValidatorIndex};
use rocksdb::{BoundColumnFamily, DB, Direction, IteratorMode, WriteBatch};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Limit on the findings of a validator that are searched for an earlier offence. If there was one,
/// a new offence is not its first.
const MAX_EARLIER: usize = 16;
/// Number of findings that the iterator over all findings holds at once.
const PAGE: usize = 256;

/// The database of findings. Clones share it.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<StoreShared>,
}

pub(crate) struct StoreShared {
    pub(crate) db: DB,
    pub(crate) path: PathBuf,
    genesis_validators_root: Root,
    writable: bool,
    writer: Mutex<StoreWriter>,
    listeners: Arc<Listeners>,
    /// Tests set this to make writes fail as if the disk were full.
    #[cfg(any(test, feature = "test-support"))]
    refuses: std::sync::atomic::AtomicBool,
}

/// The state from which the next write starts. It is changed only after a write has succeeded.
#[derive(Clone, Copy, Default)]
pub(crate) struct StoreWriter {
    /// Number of the newest finding.
    pub(crate) last_seq: u64,
    pub(crate) counts: OutboxCounts,
    /// The revision of the latest change of an incident.
    pub(crate) last_revision: u64,
    /// Number of writes since the store was opened that changed which findings a block includes.
    pub(crate) inclusion_changes: u64,
}

/// The result of recording a finding.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The finding as stored. For a repeat, this is the one that was stored first.
    pub finding: Finding,
    /// Its number in the order of recording, starting with 1.
    pub seq: u64,
    /// Whether this call stored it.
    pub first_time: bool,
}

impl Store {
    /// Opens the database in `dir` for this network, or creates it. Only one process at a time can
    /// have it open for writing.
    pub fn open(dir: &Path, genesis_validators_root: Root) -> Result<Self, StoreError> {
        let store = Self::from_opened(open::for_writing(dir, genesis_validators_root)?, dir, true)?;
        store.take_over_due()?;
        Ok(store)
    }

    /// Opens the database for reading only, without a lock. It shows the findings of this moment,
    /// even if a watcher is running.
    pub fn open_read_only(dir: &Path) -> Result<Self, StoreError> {
        Self::from_opened(open::for_reading(dir)?, dir, false)
    }

    /// Sets whether writes fail from now on, as on a full disk.
    #[cfg(any(test, feature = "test-support"))]
    pub fn refuse_writes(&self, refuses: bool) {
        self.shared.refuses.store(refuses, std::sync::atomic::Ordering::Relaxed);
    }

    /// The network that the findings belong to.
    pub fn genesis_validators_root(&self) -> Root {
        self.shared.genesis_validators_root
    }

    /// The folder of the database.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether a finding with this id is stored.
    pub fn is_known(&self, id: Root) -> Result<bool, StoreError> {
        Ok(self.get(FINDING_IDS, id.as_slice())?.is_some())
    }

    /// Whether an offence is among the first [`MAX_EARLIER`] findings about this validator.
    pub(crate) fn is_offender(&self, validator: ValidatorIndex) -> Result<bool, StoreError> {
        let query = Query { validator: Some(validator), ..Query::default() };
        Ok(self.find(&query, MAX_EARLIER)?.findings.iter().any(|(_, finding)| finding.offence().is_some()))
    }

    /// Returns findings recorded after `seq`, oldest first, `limit` at most.
    pub fn findings_after(&self, seq: u64, limit: usize) -> Result<Vec<(u64, Finding)>, StoreError> {
        let Some(first) = seq.checked_add(1) else { return Ok(Vec::new()) };
        let mut rows = Vec::new();
        let mode = IteratorMode::From(&Key::seq(first), Direction::Forward);
        for row in self.shared.db.iterator_cf(&self.family(FINDINGS), mode).take(limit) {
            let (key, value) = row.map_err(|source| self.read_error(source))?;
            let seq = Key::trailing_seq(&key).ok_or_else(|| self.damaged("the key of a finding"))?;
            rows.push((seq, self.finding_from_json(seq, &value)?));
        }
        Ok(rows)
    }

    /// Returns the finding with this id, and its seq.
    pub fn finding(&self, id: Root) -> Result<Option<(u64, Finding)>, StoreError> {
        let Some(seq) = self.get(FINDING_IDS, id.as_slice())? else { return Ok(None) };
        let seq = Key::trailing_seq(&seq).ok_or_else(|| self.damaged("the number of a finding"))?;
        match self.finding_at(seq)? {
            Some(found) => Ok(Some((seq, found))),
            // It was deleted between the two reads.
            None if self.may_be_expired(seq)? => Ok(None),
            None => Err(self.damaged("a finding that has a number but no content")),
        }
    }

    /// Returns the finding with this number.
    pub fn finding_at(&self, seq: u64) -> Result<Option<Finding>, StoreError> {
        self.get(FINDINGS, &Key::seq(seq))?.map(|bytes| self.finding_from_json(seq, &bytes)).transpose()
    }

    /// Iterates over all findings in the order of recording. It includes findings that are recorded
    /// meanwhile.
    pub fn all_findings(&self) -> impl Iterator<Item = Result<(u64, Finding), StoreError>> + '_ {
        let mut last = 0;
        let mut page = Vec::new().into_iter();
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            if page.len() == 0 {
                match self.findings_after(last, PAGE) {
                    Ok(rows) => page = rows.into_iter(),
                    Err(error) => {
                        ended = true;
                        return Some(Err(error));
                    }
                }
            }
            match page.next() {
                Some((seq, finding)) => {
                    last = seq;
                    Some(Ok((seq, finding)))
                }
                None => {
                    ended = true;
                    None
                }
            }
        })
    }

    /// Returns the evidence with this id.
    pub fn evidence(&self, id: Root) -> Result<Option<Evidence>, StoreError> {
        let Some(bytes) = self.get(EVIDENCE, id.as_slice())? else { return Ok(None) };
        Evidence::from_stored(id, &bytes).map(Some).ok_or_else(|| self.damaged(&format!("evidence {id}")))
    }

    /// Writes all stored evidence into `dir` and returns the number of pieces. See
    /// [`Evidence::write_to`].
    pub fn export_evidence(&self, dir: &Path) -> Result<u64, StoreError> {
        let mut n_written = 0;
        for row in self.shared.db.iterator_cf(&self.family(EVIDENCE), IteratorMode::Start) {
            let (key, value) = row.map_err(|source| self.read_error(source))?;
            let id = Root::try_from(&key[..]).map_err(|_| self.damaged("the key of a piece of evidence"))?;
            let evidence = Evidence::from_stored(id, &value).ok_or_else(|| self.damaged(&format!("evidence {id}")))?;
            evidence.write_to(dir)?;
            n_written += 1;
        }
        Ok(n_written)
    }

    /// Number of the newest finding. It equals the number of findings that were ever recorded.
    pub fn last_seq(&self) -> u64 {
        self.writer_now().last_seq
    }

    /// A number that is larger after each write of any kind. Two answers that were read while it
    /// was the same are the same.
    pub fn version(&self) -> u64 {
        self.shared.db.latest_sequence_number()
    }

    /// A number that is larger after each write that changes which findings a block includes. What
    /// is read after this number stays true until the number changes.
    pub fn inclusion_changes(&self) -> u64 {
        self.writer_now().inclusion_changes
    }

    /// Number of findings that were ever recorded, including those that have expired
    /// ([`Self::expire`]).
    pub fn count(&self) -> u64 {
        self.last_seq()
    }

    /// Calls `callback` with the newest seq after each recording, on the thread that recorded. The
    /// callback must be quick and must not write to the store. It is called until the subscription
    /// is dropped.
    pub fn subscribe(&self, callback: impl Fn(u64) + Send + Sync + 'static) -> Subscription {
        self.shared.listeners.add(Arc::new(callback))
    }

    /// Stores a checkpoint, synced. A source must call this only after the index has committed.
    pub fn put_checkpoint(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let checkpoints = vec![(name.to_owned(), bytes.to_vec())];
        self.apply(Changes { checkpoints, ..Changes::default() }, &[]).map(|_| ())
    }

    /// Returns the checkpoint with this name.
    pub fn checkpoint(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(CHECKPOINTS, name.as_bytes())
    }

    /// Returns checkpoints whose names begin with `prefix`, from the name `from` on, ordered by
    /// name, `limit` at most.
    pub fn checkpoints(&self, prefix: &str, from: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mode = IteratorMode::From(from.as_bytes(), Direction::Forward);
        let mut rows = Vec::new();
        for row in self.shared.db.iterator_cf(&self.family(CHECKPOINTS), mode).take(limit) {
            let (key, value) = row.map_err(|source| self.read_error(source))?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            let name = String::from_utf8(key.into()).map_err(|_| self.damaged("the name of a checkpoint"))?;
            rows.push((name, value.into()));
        }
        Ok(rows)
    }

    fn from_opened(opened: open::Opened, path: &Path, writable: bool) -> Result<Self, StoreError> {
        let open::Opened { db, genesis_validators_root } = opened;
        let writer = Mutex::new(StoreWriter::default());
        let listeners = Arc::default();
        let shared = StoreShared {
            db,
            path: path.into(),
            genesis_validators_root,
            writable,
            writer,
            listeners,
            #[cfg(any(test, feature = "test-support"))]
            refuses: std::sync::atomic::AtomicBool::new(false),
        };
        let store = Self { shared: Arc::new(shared) };
        let last = store.shared.db.iterator_cf(&store.family(FINDINGS), IteratorMode::End).next();
        let last_seq = match last.transpose().map_err(|source| store.read_error(source))? {
            Some((key, _)) => Key::trailing_seq(&key).ok_or_else(|| store.damaged("the key of a finding"))?,
            None => 0,
        };
        let counts = store.stored_counts()?;
        let last_revision = store.stored_last_revision()?;
        *store.shared.writer.lock().unwrap_or_else(PoisonError::into_inner) =
            StoreWriter { last_seq, counts, last_revision, ..StoreWriter::default() };
        Ok(store)
    }

    pub(crate) fn put_finding(&self, batch: &mut WriteBatch, seq: u64, finding: &Finding) {
        batch.put_cf(&self.family(FINDINGS), Key::seq(seq), to_json(finding));
        batch.put_cf(&self.family(FINDING_IDS), finding.id, Key::seq(seq));
        for (family, key) in listed_under(seq, finding) {
            batch.put_cf(&self.family(family), key, []);
        }
    }

    /// Locks the writer. An error if the store was opened for reading only.
    pub(crate) fn lock_writer(&self) -> Result<MutexGuard<'_, StoreWriter>, StoreError> {
        if !self.shared.writable {
            return Err(StoreError::ReadOnly { path: self.shared.path.clone() });
        }
        // A panic on another thread cannot have left the writer half changed, because it is
        // assigned as a whole after the write.
        Ok(self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The only place where an open store writes to the database.
    pub(crate) fn commit(&self, writer: &mut StoreWriter, next: StoreWriter, mut batch: WriteBatch) -> Result<(), StoreError> {
        if next.counts != writer.counts {
            self.put_counts(&mut batch, next.counts);
        }
        #[cfg(any(test, feature = "test-support"))]
        if self.shared.refuses.load(std::sync::atomic::Ordering::Relaxed) {
            let source = rocksdb_refusal();
            return Err(StoreError::Write { path: self.shared.path.clone(), source });
        }
        let written = self.shared.db.write_opt(batch, &open::synced());
        written.map_err(|source| StoreError::Write { path: self.shared.path.clone(), source })?;
        *writer = next;
        Ok(())
    }

    pub(crate) fn counts_now(&self) -> OutboxCounts {
        self.writer_now().counts
    }

    pub(crate) fn writer_now(&self) -> StoreWriter {
        *self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify_listeners(&self, last_seq: u64) {
        self.shared.listeners.notify(last_seq);
    }

    /// A column family that databases of older formats may not have.
    pub(crate) fn family_if_there(&self, name: &str) -> Option<Arc<BoundColumnFamily<'_>>> {
        self.shared.db.cf_handle(name)
    }

    pub(crate) fn family(&self, name: &str) -> Arc<BoundColumnFamily<'_>> {
        self.shared.db.cf_handle(name).expect("opened with all families")
    }

    pub(crate) fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.db.get_cf(&self.family(family), key).map_err(|source| self.read_error(source))
    }

    pub(crate) fn read_error(&self, source: rocksdb::Error) -> StoreError {
        StoreError::Read { path: self.shared.path.clone(), source }
    }

    pub(crate) fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.shared.path.clone(), what: what.into() }
    }

    pub(crate) fn finding_from_json(&self, seq: u64, bytes: &[u8]) -> Result<Finding, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| self.damaged(&format!("finding number {seq}: {error}")))
    }
}

/// The keys under which the filters of [`Store::find`] look for a finding, with their column
/// families. The values are empty.
pub(crate) fn listed_under(seq: u64, finding: &Finding) -> Vec<(&'static str, Vec<u8>)> {
    let mut keys = vec![
        (BY_KIND, Key::by_kind(&finding.kind, seq).to_vec()),
        (BY_SEVERITY, Key::by_severity(finding.severity, seq).to_vec()),
        (BY_SLOT, Key::by_slot(finding.slot, seq).to_vec()),
    ];
    if let Some(subject) = &finding.validator {
        keys.push((BY_VALIDATOR, Key::by_validator(subject.index, seq).to_vec()));
    }
    keys.extend(finding.labels().map(|label| (BY_LABEL, Key::by_label(label, seq).to_vec())));
    keys
}

/// Makes an error of RocksDB. Only RocksDB can create one, so this opens a database at a path where
/// that is impossible.
#[cfg(any(test, feature = "test-support"))]
fn rocksdb_refusal() -> rocksdb::Error {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(false);
    DB::open(&options, "/dev/null/no-database").expect_err("/dev/null is no folder")
}

pub(crate) fn to_json(finding: &Finding) -> Vec<u8> {
    serde_json::to_vec(finding).expect("a finding has string keys only")
}
