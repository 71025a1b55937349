//! The only module that calls RocksDB. It sets the options, defines the column families, and adds
//! the path to errors.
//!
//! The reasons for these options:
//! - Keys begin with the epoch, so flushed files hardly overlap. With a compaction trigger of one
//!   file they are moved down a level without being merged, so data is written once to the log and
//!   once to a table.
//! - Recovery tolerates a truncated last record of the log, which a crash leaves behind, and
//!   refuses all other damage. RocksDB's default would silently drop everything after a changed
//!   byte.
//! - Block checksums are verified on every read, so a changed byte in a table gives an error and
//!   never a vote.

use crate::IndexError;
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    ErrorKind, InfoLogger, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Size of the block cache that all column families share, in bytes.
const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// Memory for unflushed writes of all column families, in bytes.
const WRITE_BUFFERS_BYTES: usize = 48 << 20;
/// Largest size of the write-ahead log, in bytes. It bounds what has to be replayed when opening.
const WAL_BYTES: u64 = 64 << 20;

/// The column families. Their keys are described in [`crate::storage::keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cf {
    Meta,
    Votes,
    Data,
    Shufflings,
    Actives,
    VoterSummary,
    NewestVotes,
    Offenders,
    Proposals,
    PeerTable,
    Log,
}

impl Cf {
    pub const ALL: [Self; 11] = [
        Self::Meta,
        Self::Votes,
        Self::Data,
        Self::Shufflings,
        Self::Actives,
        Self::VoterSummary,
        Self::NewestVotes,
        Self::Offenders,
        Self::Proposals,
        Self::PeerTable,
        Self::Log,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "default",
            Self::Votes => "votes",
            Self::Data => "data",
            Self::Shufflings => "shufflings",
            Self::Actives => "actives",
            Self::VoterSummary => "summary",
            Self::NewestVotes => "heads",
            Self::Offenders => "offenders",
            Self::Proposals => "proposals",
            Self::PeerTable => "peers",
            Self::Log => "log",
        }
    }
}

/// A RocksDB database with the path that errors name.
pub(crate) struct Db {
    db: DB,
    path: PathBuf,
    sync: bool,
}

impl Db {
    /// Opens a database or creates one. A directory that contains something else is refused.
    pub fn open(path: &Path, sync: bool) -> Result<Self, IndexError> {
        let storage = |reason: String| IndexError::Storage { path: path.to_owned(), reason };
        let exists = path.join("CURRENT").exists();
        if !exists {
            std::fs::create_dir_all(path).map_err(|error| storage(error.to_string()))?;
            let mut entries = std::fs::read_dir(path).map_err(|error| storage(error.to_string()))?;
            if let Some(Ok(entry)) = entries.find(|entry| entry.as_ref().is_ok_and(|entry| !is_rocksdb_leftover(&entry.path()))) {
                let reason = format!("it holds {}", entry.file_name().to_string_lossy());
                return Err(IndexError::NotAnIndex { path: path.to_owned(), reason });
            }
        } else {
            let names = DB::list_cf(&Options::default(), path).map_err(|error| classify(path, &error))?;
            if let Some(unknown) = names.iter().find(|name| Cf::ALL.iter().all(|cf| cf.name() != name.as_str())) {
                let reason = format!("it has a table named {unknown:?}");
                return Err(IndexError::NotAnIndex { path: path.to_owned(), reason });
            }
        }
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Cf::ALL.iter().map(|cf| ColumnFamilyDescriptor::new(cf.name(), family_options(*cf, &cache)));
        let db = DB::open_cf_descriptors(&database_options(), path, families).map_err(|error| classify(path, &error))?;
        Ok(Self { db, path: path.to_owned(), sync })
    }

    /// Opens the database for reading. Another process may have it open at the same time. All files
    /// are kept open, so files that the other process deletes stay readable.
    pub fn open_read_only(path: &Path) -> Result<Self, IndexError> {
        if !path.join("CURRENT").exists() {
            return Err(IndexError::NotAnIndex { path: path.to_owned(), reason: "there is none".into() });
        }
        let mut options = database_options();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        options.set_max_open_files(-1);
        // RocksDB's own log would be written to a file in the directory, in place of the owner's.
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |_, note| tracing::debug!(note, "rocksdb")));
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Cf::ALL.iter().map(|cf| ColumnFamilyDescriptor::new(cf.name(), family_options(*cf, &cache)));
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(|error| classify(path, &error))?;
        Ok(Self { db, path: path.to_owned(), sync: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, IndexError> {
        self.db.get_pinned_cf(&self.cf(cf), key).map_err(|error| self.error(&error))
    }

    /// Visits the rows from `from` to `to` (inclusive) in key order, until `visit` returns `false`.
    pub fn scan(
        &self,
        cf: Cf,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, IndexError>,
    ) -> Result<(), IndexError> {
        let mut options = ReadOptions::default();
        let mut upper = to.to_vec();
        upper.push(0);
        options.set_iterate_upper_bound(upper);
        for row in self.db.iterator_cf_opt(&self.cf(cf), options, IteratorMode::From(from, Direction::Forward)) {
            let (key, value) = row.map_err(|error| self.error(&error))?;
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    /// Visits all rows of a column family.
    pub fn scan_all(&self, cf: Cf, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>) -> Result<(), IndexError> {
        for row in self.db.iterator_cf(&self.cf(cf), IteratorMode::Start) {
            let (key, value) = row.map_err(|error| self.error(&error))?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    pub fn last_key(&self, cf: Cf) -> Result<Option<Box<[u8]>>, IndexError> {
        let last = self.db.iterator_cf(&self.cf(cf), IteratorMode::End).next();
        last.transpose().map(|row| row.map(|(key, _)| key)).map_err(|error| self.error(&error))
    }

    /// The last key that is less than `before`.
    pub fn last_before(&self, cf: Cf, before: &[u8]) -> Result<Option<Box<[u8]>>, IndexError> {
        for row in self.db.iterator_cf(&self.cf(cf), IteratorMode::From(before, Direction::Reverse)) {
            let (key, _) = row.map_err(|error| self.error(&error))?;
            // The first key may be `before` itself.
            if *key < *before {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// An empty batch of writes.
    pub fn batch(&self) -> WriteBuffer<'_> {
        WriteBuffer { db: self, batch: WriteBatch::default() }
    }

    /// Flushes memory tables and waits for background work. Used for measurements and before a copy
    /// is made.
    pub fn flush_and_wait(&self) -> Result<(), IndexError> {
        for cf in Cf::ALL {
            self.db.flush_cf(&self.cf(cf)).map_err(|error| self.error(&error))?;
        }
        self.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).map_err(|error| self.error(&error))
    }

    /// Bytes on disk, by RocksDB's own count.
    pub fn table_bytes(&self) -> u64 {
        Cf::ALL
            .iter()
            .filter_map(|cf| self.db.property_int_value_cf(&self.cf(*cf), "rocksdb.total-sst-files-size").ok().flatten())
            .sum()
    }

    /// The error for damaged data in this database.
    pub fn corrupt(&self, reason: impl Into<String>) -> IndexError {
        IndexError::Corrupt { path: self.path.clone(), reason: reason.into() }
    }

    fn cf(&self, cf: Cf) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(cf.name()).expect("all families of Cf::ALL were opened")
    }

    fn error(&self, error: &rocksdb::Error) -> IndexError {
        classify(&self.path, error)
    }
}

/// One atomic write.
pub(crate) struct WriteBuffer<'a> {
    db: &'a Db,
    batch: WriteBatch,
}

impl WriteBuffer<'_> {
    pub fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.batch.put_cf(&self.db.cf(cf), key, value);
    }

    /// Deletes the keys from `from` to `to`. `to` is exclusive.
    pub fn delete_range(&mut self, cf: Cf, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(&self.db.cf(cf), from, to);
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Writes the batch. It is durable when this returns, if the index was opened with
    /// [`Durability::Synced`](crate::Durability::Synced). On error nothing of the batch is in the
    /// database.
    pub fn write(self) -> Result<(), IndexError> {
        let mut options = WriteOptions::default();
        options.set_sync(self.db.sync);
        self.db.db.write_opt(self.batch, &options).map_err(|error| self.db.error(&error))
    }
}

fn is_rocksdb_leftover(path: &Path) -> bool {
    // A process that was killed while it created the database leaves these files without CURRENT.
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ["LOCK", "LOG", "IDENTITY", "lost+found"].contains(&name.as_str())
        || ["LOG.old", "MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.starts_with(prefix))
        || [".dbtmp", ".log"].iter().any(|suffix| name.ends_with(suffix))
}

fn classify(path: &Path, error: &rocksdb::Error) -> IndexError {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.kind() {
        ErrorKind::Corruption => IndexError::Corrupt { path, reason },
        ErrorKind::IOError if reason.contains("lock") => IndexError::Locked { path },
        // A table or log file that the manifest lists is missing or too short.
        ErrorKind::IOError if reason.contains("No such file") => IndexError::Corrupt { path, reason },
        _ => IndexError::Storage { path, reason },
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(WAL_BYTES);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn family_options(cf: Cf, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(5);
    table.set_block_size(16 << 10);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_level_zero_file_num_compaction_trigger(1);
    options.set_max_write_buffer_number(2);
    let write_buffer = match cf {
        Cf::Votes | Cf::Log => 12 << 20,
        Cf::NewestVotes => 8 << 20,
        _ => 2 << 20,
    };
    options.set_write_buffer_size(write_buffer);
    if cf == Cf::Votes {
        // Large files: 54 000 epochs make a few hundred of them.
        options.set_target_file_size_base(32 << 20);
        options.set_max_bytes_for_level_base(256 << 20);
    }
    options.set_block_based_table_factory(&table);
    options
}
