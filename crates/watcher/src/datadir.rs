//! The data directory. One process uses it at a time, and it belongs to one network.
//!
//! ```text
//! DIR/LOCK           held (flock) while a process uses it
//! DIR/network.json   which network it belongs to, and the format's version
//! DIR/config.yaml    that network's configuration; `inspect` and others need no other file
//! DIR/pubkeys        validated public keys (crate chain)
//! DIR/state.ssz      the last state that was loaded; a start without any node uses it
//! DIR/rearm.GROUP    asks the running watcher to make a kill switch ready again
//! DIR/tokens.json    hashes of the API's tokens, and tokens.lock for who changes them (crate api)
//! DIR/node.key       secret key of the gossip node, so that peers know it again (crate sources)
//! DIR/blocks/        the blocks of the last epochs, for peers that ask (crate sources)
//! DIR/index/         votes and proposals (crate index)
//! DIR/evidence/      findings, proofs, outbox (crate evidence)
//! ```

use crate::WatcherError;
use consensus::{Network, Root, Spec};
use evidence::Store;
use fs4::fs_std::FileExt;
use index::{IndexView, Shape};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Version of the layout of the directory.
pub const FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "cannot use the data directory {path}: {source}. Check that it exists, that you may write to it and that the disk has room"
    )]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the data directory {0} is in use by another slashwatch process. Stop that one first, or give another data directory"
    )]
    InUse(PathBuf),
    #[error(
        "the data directory {path} belongs to another network (genesis validators root {found}, this one has {wanted}). \
         Give each network its own --data-dir"
    )]
    OtherNetwork { path: PathBuf, found: Root, wanted: Root },
    #[error(
        "the data directory {path} belongs to another network ({what} {found}, this one has {wanted}). Give each network its own --data-dir"
    )]
    OtherConfig { path: PathBuf, what: &'static str, found: String, wanted: String },
    #[error(
        "the data directory {path} has format {found}, this program knows up to {FORMAT}. Use the newer slashwatch that wrote it"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("{path} is damaged: {reason}. Restore the directory from a copy, or start with a new --data-dir")]
    Damaged { path: PathBuf, reason: String },
    #[error("{0} is not a slashwatch data directory: it has no network.json. Check the path given with --data-dir")]
    NotOne(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct NetworkFile {
    format: u32,
    genesis_validators_root: Root,
    genesis_time: u64,
    config_name: String,
}

/// An open data directory. The lock is held as long as the value lives.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if needed and takes its lock.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io { path: path.into(), source };
        fs::create_dir_all(path).map_err(io)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("LOCK")).map_err(io)?;
        if !FileExt::try_lock_exclusive(&lock).map_err(io)? {
            return Err(DataDirError::InUse(path.into()));
        }
        // Removes files that a crash left half written. No other process writes here while this one
        // holds the lock.
        for entry in fs::read_dir(path).map_err(io)?.flatten() {
            if evidence::is_partial(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// Returns the network that the directory belongs to, or `None` if the directory is new.
    pub fn network(&self) -> Result<Option<Network>, DataDirError> {
        read_network(&self.path)
    }

    /// Checks that a state is of this directory's network, before anything of it is kept here: the
    /// validated public keys of another network would replace ours. A new directory takes any.
    pub fn check_state(&self, ssz: &[u8]) -> Result<(), DataDirError> {
        match crate::bootstrap::state_head(ssz) {
            Some((wanted, _)) => self.check_root(wanted),
            // What is no state is told by whoever reads it.
            None => Ok(()),
        }
    }

    fn check_root(&self, wanted: Root) -> Result<(), DataDirError> {
        match self.network()?.map(|found| found.genesis_validators_root) {
            Some(found) if found != wanted => Err(DataDirError::OtherNetwork { path: self.path.clone(), found, wanted }),
            Some(_) | None => Ok(()),
        }
    }

    /// Binds a new directory to a network. For an old directory, checks that it belongs to this
    /// network.
    pub fn bind(&self, network: &Network) -> Result<(), DataDirError> {
        let wanted = network.genesis_validators_root;
        self.check_root(wanted)?;
        if let Some(found) = self.network()? {
            // Test networks are often made from the same keys, so their roots can be equal. Votes
            // of two such networks must not be mixed.
            for (what, stored, given) in [
                ("genesis time", found.genesis_time.to_string(), network.genesis_time.to_string()),
                ("preset", found.preset().name.as_str().into(), network.preset().name.as_str().into()),
                ("fork at genesis", genesis_fork(&found), genesis_fork(network)),
            ] {
                if stored != given {
                    return Err(DataDirError::OtherConfig { path: self.path.clone(), what, found: stored, wanted: given });
                }
            }
            return self.write("config.yaml", network.spec.to_yaml().as_bytes());
        }
        let file = NetworkFile {
            format: FORMAT,
            genesis_validators_root: wanted,
            genesis_time: network.genesis_time,
            config_name: network.spec.config_name.clone(),
        };
        let json = serde_json::to_vec_pretty(&file).expect("a struct of numbers and strings");
        self.write("config.yaml", network.spec.to_yaml().as_bytes())?;
        self.write("network.json", &json)
    }

    /// Replaces a file atomically ([`evidence::replace_file`]).
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        evidence::replace_file(&path, bytes).map_err(|source| DataDirError::Io { path, source })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn index_path(&self) -> PathBuf {
        self.path.join("index")
    }

    pub fn evidence_path(&self) -> PathBuf {
        self.path.join("evidence")
    }

    pub fn pubkeys_path(&self) -> PathBuf {
        self.path.join("pubkeys")
    }

    pub fn node_key_path(&self) -> PathBuf {
        self.path.join("node.key")
    }

    pub fn blocks_path(&self) -> PathBuf {
        self.path.join("blocks")
    }

    pub fn state_path(&self) -> PathBuf {
        state_path(&self.path)
    }

    /// Keeps a state for the next start.
    pub fn write_state(&self, ssz: &[u8]) -> Result<(), DataDirError> {
        self.write(STATE, ssz)
    }
}

const STATE: &str = "state.ssz";

/// A data directory that is open for reading, also while a watcher uses it.
pub struct ReadOnly {
    pub network: Network,
    pub store: Store,
    /// The vote index. `None` if it was moved away.
    pub index: Option<IndexView>,
}

/// Opens the databases of a data directory read-only. Nothing in it is changed.
///
/// # Errors
/// There is no data directory at `path`, or a database is damaged.
pub fn open_read_only(path: &Path) -> Result<ReadOnly, WatcherError> {
    let network = read_network(path)?.ok_or_else(|| DataDirError::NotOne(path.into()))?;
    let store = Store::open_read_only(&path.join("evidence"))?;
    let shape = Shape {
        genesis_validators_root: network.genesis_validators_root,
        slots_per_epoch: network.preset().slots_per_epoch,
        history_epochs: Shape::DEFAULT_HISTORY_EPOCHS,
    };
    let votes = path.join("index");
    let index = votes.exists().then(|| IndexView::open(&votes, shape)).transpose()?;
    Ok(ReadOnly { network, store, index })
}

/// The path of the state of the last run in a data directory.
pub fn state_path(data_dir: &Path) -> PathBuf {
    data_dir.join(STATE)
}

/// Takes a shared lock, which keeps watchers away from a directory that is only read. Any number of
/// readers may hold it at a time. Returns `None` if the directory has no lock file, as a copy
/// without it, or if its file system supports no locks.
///
/// # Errors
/// [`DataDirError::InUse`] if a process that writes uses the directory.
pub fn lock_for_reading(path: &Path) -> Result<Option<File>, DataDirError> {
    let lock = match File::open(path.join("LOCK")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::Io { path: path.into(), source }),
    };
    match FileExt::try_lock_shared(&lock) {
        Ok(true) => Ok(Some(lock)),
        Ok(false) => Err(DataDirError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(source) => Err(DataDirError::Io { path: path.into(), source }),
    }
}

fn genesis_fork(network: &Network) -> String {
    network.spec.fork_name_at(consensus::Epoch::new(0)).to_string()
}

/// The path of a data directory, for commands that are copied into any folder's shell.
pub fn absolute(path: &Path) -> String {
    // It fails for an empty path only, or if this process has no folder any more.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Returns the network that a directory belongs to, without taking the lock.
pub fn read_network(path: &Path) -> Result<Option<Network>, DataDirError> {
    let Some(file) = read_network_file(path)? else { return Ok(None) };
    let config = path.join("config.yaml");
    let text = fs::read_to_string(&config).map_err(|source| DataDirError::Io { path: config.clone(), source })?;
    let spec = Spec::from_yaml(&text).map_err(|error| DataDirError::Damaged { path: config, reason: error.to_string() })?;
    Ok(Some(Network { spec, genesis_time: file.genesis_time, genesis_validators_root: file.genesis_validators_root }))
}

fn read_network_file(path: &Path) -> Result<Option<NetworkFile>, DataDirError> {
    let path = path.join("network.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::Io { path, source }),
    };
    let file: NetworkFile = serde_json::from_slice(&bytes)
        .map_err(|error| DataDirError::Damaged { path: path.clone(), reason: error.to_string() })?;
    if file.format > FORMAT {
        return Err(DataDirError::Newer { path, found: file.format });
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(root: u8) -> Network {
        let spec = Spec::builtin("mainnet").unwrap();
        Network { spec, genesis_time: 7, genesis_validators_root: Root::repeat_byte(root) }
    }

    #[test]
    fn one_process_and_one_network() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse(_))));
        assert!(first.network().unwrap().is_none());
        first.bind(&network(1)).unwrap();
        first.bind(&network(1)).unwrap();
        assert!(matches!(first.bind(&network(2)), Err(DataDirError::OtherNetwork { .. })));
        drop(first);
        // A process that was killed left half of a state.
        let partial = dir.path().join("state.ssz.partial-7");
        fs::write(&partial, b"half").unwrap();
        assert_eq!(DataDir::open(dir.path()).unwrap().network().unwrap(), Some(network(1)));
        assert!(!partial.exists());
    }

    #[test]
    fn readers_share_a_directory_that_no_watcher_uses() {
        let dir = tempfile::tempdir().unwrap();
        assert!(lock_for_reading(dir.path()).unwrap().is_none(), "nobody locked it yet");
        let watcher = DataDir::open(dir.path()).unwrap();
        assert!(matches!(lock_for_reading(dir.path()), Err(DataDirError::InUse(_))));
        drop(watcher);
        let readers = [lock_for_reading(dir.path()).unwrap().unwrap(), lock_for_reading(dir.path()).unwrap().unwrap()];
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse(_))));
        drop(readers);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_newer_or_damaged_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        DataDir::open(dir.path()).unwrap().bind(&network(1)).unwrap();
        let path = dir.path().join("network.json");
        let newer = fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 99");
        fs::write(&path, newer).unwrap();
        assert!(matches!(read_network(dir.path()), Err(DataDirError::Newer { found: 99, .. })));
        fs::write(&path, "{").unwrap();
        assert!(matches!(read_network(dir.path()), Err(DataDirError::Damaged { .. })));
    }
}
