//! Opens the database, and refuses databases of another program, network or newer format.

use crate::keys::{FAMILIES, FINDINGS, FIRST_FAMILIES, FORMAT, Key, META, META_FORMAT, META_ROOT};
use crate::store::listed_under;
use crate::{Finding, StoreError};
use consensus::Root;
use rocksdb::{ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, IteratorMode, Options, WriteBatch, WriteOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Size of the memory table of each column family. Findings are few and small, and a piece of
/// evidence has about 100 kB.
const WRITE_BUFFER_BYTES: usize = 4 << 20;
/// Number of RocksDB's own log files that are kept.
const KEPT_LOG_FILES: usize = 4;
/// Attempts to open for reading. A reader beside a running watcher may find that a file was just
/// replaced, and then tries again.
const READ_ONLY_ATTEMPTS: usize = 5;
/// The first format in which findings are listed by slot, severity and label.
const LISTED_SINCE: u32 = 3;
/// Number of rows in one write when the findings of an older database are listed.
const LISTED_AT_ONCE: usize = 10_000;

/// An open database and the network that it belongs to.
pub(crate) struct Opened {
    pub(crate) db: DB,
    pub(crate) genesis_validators_root: Root,
}

/// Opens the database for writing, and creates it if there is none. A database of an older format
/// is brought to the current one.
pub(crate) fn for_writing(path: &Path, genesis_validators_root: Root) -> Result<Opened, StoreError> {
    std::fs::create_dir_all(path).map_err(|source| StoreError::Create { path: path.into(), source })?;
    let on_disk = families_on_disk(path)?;
    refuse_before_writing(path, &on_disk, genesis_validators_root)?;
    let mut options = options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf_descriptors(&options, path, descriptors(&on_disk)).map_err(|source| open_error(path, source))?;
    let written = match read_identity(&db, path)? {
        None => {
            let mut batch = WriteBatch::default();
            let meta = db.cf_handle(META).expect("opened with all families");
            batch.put_cf(&meta, META_FORMAT, FORMAT.to_be_bytes());
            batch.put_cf(&meta, META_ROOT, genesis_validators_root);
            db.write_opt(batch, &synced())
        }
        // Opening has already created the column families that an older format lacks. They are
        // empty.
        Some(found) => {
            check_network(path, found, genesis_validators_root)?;
            let meta = db.cf_handle(META).expect("opened with all families");
            if format_of(&db, path)? < Some(LISTED_SINCE) {
                list_all(&db, path)?;
            }
            db.put_cf_opt(&meta, META_FORMAT, FORMAT.to_be_bytes(), &synced())
        }
    };
    written.map_err(|source| StoreError::Write { path: path.into(), source })?;
    Ok(Opened { db, genesis_validators_root })
}

/// Refuses the database of another network and of a newer format, before it is opened for writing:
/// that already adds column families and brings an older format to the current one.
fn refuse_before_writing(path: &Path, on_disk: &[String], genesis_validators_root: Root) -> Result<(), StoreError> {
    if !on_disk.iter().any(|name| name == META) {
        return Ok(());
    }
    let present = on_disk.iter().map(|name| ColumnFamilyDescriptor::new(name, options()));
    // If this fails, opening for writing fails too and says why.
    let Ok(db) = DB::open_cf_descriptors_read_only(&options(), path, present, false) else { return Ok(()) };
    read_identity(&db, path)?.map_or(Ok(()), |found| check_network(path, found, genesis_validators_root))
}

fn check_network(path: &Path, found: Root, wanted: Root) -> Result<(), StoreError> {
    if found == wanted { Ok(()) } else { Err(StoreError::ForeignNetwork { path: path.into(), found, wanted }) }
}

/// Lists every finding in the families of the current format. Writing a row again changes nothing.
fn list_all(db: &DB, path: &Path) -> Result<(), StoreError> {
    let write_error = |source| StoreError::Write { path: path.into(), source };
    let damaged = |what: String| StoreError::Damaged { path: path.into(), what };
    let mut batch = WriteBatch::default();
    for row in db.iterator_cf(&db.cf_handle(FINDINGS).expect("opened with all families"), IteratorMode::Start) {
        let (key, json) = row.map_err(|source| StoreError::Read { path: path.into(), source })?;
        let seq = Key::trailing_seq(&key).ok_or_else(|| damaged("the key of a finding".into()))?;
        let finding: Finding =
            serde_json::from_slice(&json).map_err(|error| damaged(format!("finding number {seq}: {error}")))?;
        for (family, key) in listed_under(seq, &finding) {
            batch.put_cf(&db.cf_handle(family).expect("opened with all families"), key, []);
        }
        if batch.len() >= LISTED_AT_ONCE {
            db.write_opt(std::mem::take(&mut batch), &synced()).map_err(write_error)?;
        }
    }
    db.write_opt(batch, &synced()).map_err(write_error)
}

/// Opens an existing database without a lock and without writing. It shows the state of this
/// moment, even if a watcher is running.
pub(crate) fn for_reading(path: &Path) -> Result<Opened, StoreError> {
    if !path.join("CURRENT").is_file() {
        return Err(StoreError::Missing { path: path.into() });
    }
    let mut last = None;
    for _ in 0..READ_ONLY_ATTEMPTS {
        let on_disk = families_on_disk(path)?;
        if FIRST_FAMILIES.iter().any(|name| !on_disk.iter().any(|found| found == name)) {
            return Err(StoreError::Missing { path: path.into() });
        }
        let present = on_disk.iter().map(|name| ColumnFamilyDescriptor::new(name, options()));
        match DB::open_cf_descriptors_read_only(&options(), path, present, false) {
            Ok(db) => {
                let Some(genesis_validators_root) = read_identity(&db, path)? else {
                    return Err(StoreError::Missing { path: path.into() });
                };
                return Ok(Opened { db, genesis_validators_root });
            }
            Err(source) => last = Some(source),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(open_error(path, last.expect("at least one attempt was made")))
}

/// The options of every write: it returns only when the data is on disk.
pub(crate) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Returns the network that the database belongs to. `None` if the database is new and has no
/// identity yet.
fn read_identity(db: &DB, path: &Path) -> Result<Option<Root>, StoreError> {
    let meta = db.cf_handle(META).expect("opened with all families");
    let get = |name: &[u8]| db.get_cf(&meta, name).map_err(|source| StoreError::Read { path: path.into(), source });
    let damaged = |what: &str| StoreError::Damaged { path: path.into(), what: what.into() };
    let Some(found) = format_of(db, path)? else { return Ok(None) };
    if found > FORMAT {
        return Err(StoreError::NewerFormat { path: path.into(), found, known: FORMAT });
    }
    let root = get(META_ROOT)?.ok_or_else(|| damaged("its genesis validators root"))?;
    let root: [u8; 32] = root.as_slice().try_into().map_err(|_| damaged("its genesis validators root"))?;
    Ok(Some(Root::from(root)))
}

/// Returns the format of the database. `None` if the database is new and has no identity yet.
fn format_of(db: &DB, path: &Path) -> Result<Option<u32>, StoreError> {
    let meta = db.cf_handle(META).expect("opened with all families");
    let read = db.get_cf(&meta, META_FORMAT).map_err(|source| StoreError::Read { path: path.into(), source })?;
    let Some(format) = read else { return Ok(None) };
    let format: Result<[u8; 4], _> = format.as_slice().try_into();
    format
        .map(|format| Some(u32::from_be_bytes(format)))
        .map_err(|_| StoreError::Damaged { path: path.into(), what: "its format number".into() })
}

/// Returns the column families on disk. There may be more than this version knows, if the format is
/// newer (its number is in `meta`) or the database belongs to another program.
fn families_on_disk(path: &Path) -> Result<Vec<String>, StoreError> {
    if !path.join("CURRENT").is_file() {
        return Ok(Vec::new());
    }
    let on_disk = DB::list_cf(&Options::default(), path).map_err(|source| open_error(path, source))?;
    let ours = |name: &String| name == "default" || FAMILIES.contains(&name.as_str());
    if on_disk.iter().any(|name| !ours(name)) && !on_disk.iter().any(|name| name == META) {
        return Err(StoreError::NotOurs { path: path.into() });
    }
    Ok(on_disk)
}

fn descriptors(on_disk: &[String]) -> Vec<ColumnFamilyDescriptor> {
    let mut names: Vec<&str> = FAMILIES.to_vec();
    names.extend(on_disk.iter().map(String::as_str).filter(|name| !FAMILIES.contains(name)));
    names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, options())).collect()
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_keep_log_file_num(KEPT_LOG_FILES);
    // All families share one log, so an atomic batch stays atomic. A torn last record was never
    // acknowledged. Any other damage is an error and not a silent loss.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_background_jobs(2);
    options
}

fn open_error(path: &Path, source: rocksdb::Error) -> StoreError {
    let path = PathBuf::from(path);
    // RocksDB has no error code for a lock that is already held.
    let text = source.to_string();
    if text.contains("lock file") || text.contains("/LOCK") || text.contains("lock hold by current process") {
        return StoreError::Locked { path };
    }
    StoreError::Open { path, source }
}
