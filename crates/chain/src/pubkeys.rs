//! Public keys that are checked once and kept uncompressed on disk.
//!
//! Checking a key (decompression and group check) takes 62 us, so a million keys take one core a
//! minute. Loading the 96 bytes of a checked key takes 0.4 us. The price is a file of 96 MB per
//! million keys. The file may be deleted at any time.
//!
//! The module [`disk`] describes the file.

mod disk;

use crate::ChainError;
use blst::min_pk::PublicKey;
use consensus::PubkeyBytes;
use disk::Disk;
use std::path::Path;
use tracing::warn;

pub use disk::CHUNK_KEYS;

/// Whether a validator can have this key: a point of the curve, in the right subgroup, and not the
/// point at infinity. It takes 62 us.
pub fn is_public_key(key: &PubkeyBytes) -> bool {
    PublicKey::key_validate(key.as_slice()).is_ok()
}

/// Progress of a long task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: Stage,
    /// Number of public keys that are ready.
    pub done: usize,
    pub total: usize,
}

/// What a long task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Keys are loaded from the cache.
    LoadingKeys,
    /// Keys are new and are being checked, 62 us each.
    CheckingKeys,
}

impl Stage {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoadingKeys => "loading public keys",
            Self::CheckingKeys => "checking public keys",
        }
    }
}

/// A cache of checked keys: the file `pubkeys` of a data directory, or no file at all.
#[derive(Debug)]
pub struct PubkeyCache {
    disk: Option<Disk>,
    /// Number of keys that had to be checked since the start.
    n_checked: u64,
    /// Number of keys that were loaded from the file since the start.
    n_loaded: u64,
}

/// One key: the checked point, or `None` for bytes that are not a valid key.
pub(crate) type CheckedKey = Option<PublicKey>;

impl PubkeyCache {
    /// Opens the file, or makes it if it does not exist. A file that is not a key cache is refused,
    /// so that a wrong path overwrites nothing.
    pub fn open(path: &Path) -> Result<Self, ChainError> {
        Ok(Self { disk: Some(Disk::open(path)?), n_checked: 0, n_loaded: 0 })
    }

    /// Makes a cache of keys that need no check, because the caller made them. This is for load
    /// tests with many validators, whose keys are made by additions. `keys` are in the order of the
    /// validator index. If the file already has keys, nothing is written.
    pub fn write_known(path: &Path, keys: &[PublicKey]) -> Result<(), ChainError> {
        let mut cache = Self::open(path)?;
        let Some(disk) = cache.disk.as_mut().filter(|disk| disk.len() == 0) else { return Ok(()) };
        for (nth, chunk) in keys.chunks(CHUNK_KEYS).enumerate() {
            let known: Vec<CheckedKey> = chunk.iter().map(|key| Some(*key)).collect();
            disk.append(nth * CHUNK_KEYS, &known, &[])
                .map_err(|source| ChainError::CacheOpen { path: path.to_owned(), source })?;
        }
        Ok(())
    }

    /// Makes a cache without a file: every key is checked again at each start.
    pub fn in_memory() -> Self {
        Self { disk: None, n_checked: 0, n_loaded: 0 }
    }

    /// Number of keys on disk.
    pub fn len(&self) -> usize {
        self.disk.as_ref().map_or(0, Disk::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of keys that had to be checked (62 us each) since the start.
    pub fn n_checked(&self) -> u64 {
        self.n_checked
    }

    /// Number of keys that were loaded from the file since the start.
    pub fn n_loaded(&self) -> u64 {
        self.n_loaded
    }

    /// Reads the compressed keys of a file in the order of the validator index. The file is not
    /// changed, so this also works while another process has it open. Reading ends at a chunk that
    /// is damaged or is just being appended. It takes about 0.5 s per million keys.
    pub fn compressed_in(path: &Path) -> Result<Vec<PubkeyBytes>, ChainError> {
        disk::compressed_in(path)
    }

    /// Returns the checked keys of the validators `first..`. They are loaded from the file if it
    /// has them. Otherwise they are checked on all cores and appended to the file. A problem with
    /// the file costs time but not correctness: it is logged, and the keys are checked.
    pub(crate) fn resolve(
        &mut self,
        first: usize,
        compressed: &[PubkeyBytes],
        progress: &mut dyn FnMut(Progress),
    ) -> Vec<CheckedKey> {
        let total = first + compressed.len();
        let mut keys: Vec<CheckedKey> = Vec::with_capacity(compressed.len());
        if let Some(disk) = &mut self.disk {
            let wave = CHUNK_KEYS * n_threads();
            while keys.len() < compressed.len() {
                let at = first + keys.len();
                let until = (keys.len() + wave).min(compressed.len());
                let loaded = disk.load(at, &compressed[keys.len()..until]);
                if loaded.is_empty() {
                    break;
                }
                keys.extend(loaded);
                progress(Progress { stage: Stage::LoadingKeys, done: first + keys.len(), total });
            }
            self.n_loaded += keys.len() as u64;
        }
        while keys.len() < compressed.len() {
            let until = (keys.len() + CHUNK_KEYS).min(compressed.len());
            let chunk = &compressed[keys.len()..until];
            let checked = check_keys(chunk);
            if let Some(disk) = &mut self.disk
                && let Err(error) = disk.append(first + keys.len(), &checked, chunk)
            {
                warn!(path = %disk.path.display(), %error, "key cache not written, keys will be checked again at the next start; free some disk space");
                self.disk = None;
            }
            self.n_checked += checked.len() as u64;
            keys.extend(checked);
            progress(Progress { stage: Stage::CheckingKeys, done: first + keys.len(), total });
        }
        keys
    }
}

fn check_keys(compressed: &[PubkeyBytes]) -> Vec<CheckedKey> {
    let per_thread = compressed.len().div_ceil(n_threads()).max(64);
    std::thread::scope(|scope| {
        let workers: Vec<_> = compressed
            .chunks(per_thread)
            .map(|part| scope.spawn(move || part.iter().map(|key| PublicKey::key_validate(&key[..]).ok()).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("checking a key does not panic")).collect()
    })
}

fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blst::min_pk::SecretKey;
    use consensus::sha256;
    use std::fs;

    /// Makes `n` keys. The third one is not a valid key.
    fn keys(n: usize) -> Vec<PubkeyBytes> {
        let mut keys: Vec<PubkeyBytes> = (0..n)
            .map(|nth| {
                let secret = SecretKey::key_gen(&sha256(&nth.to_be_bytes()), &[]).unwrap();
                PubkeyBytes::from(secret.sk_to_pk().compress())
            })
            .collect();
        keys[2] = PubkeyBytes::repeat_byte(0x77);
        keys
    }

    #[test]
    fn keys_that_are_known_to_be_good_are_loaded_and_not_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pubkeys");
        let good: Vec<PubkeyBytes> = keys(20).into_iter().filter(|key| *key != PubkeyBytes::repeat_byte(0x77)).collect();
        let points: Vec<PublicKey> = good.iter().map(|key| PublicKey::key_validate(&key[..]).unwrap()).collect();
        PubkeyCache::write_known(&path, &points).unwrap();
        PubkeyCache::write_known(&path, &points[..1]).unwrap();
        let (resolved, n_loaded, n_checked) = resolve(&path, 0, &good);
        assert_eq!((n_loaded, n_checked), (19, 0));
        assert!(resolved.iter().zip(&points).all(|(key, point)| *key == Some(*point)));
    }

    fn resolve(path: &Path, first: usize, keys: &[PubkeyBytes]) -> (Vec<CheckedKey>, u64, u64) {
        let mut cache = PubkeyCache::open(path).unwrap();
        let found = cache.resolve(first, keys, &mut |_| ());
        for (found, wanted) in found.iter().zip(keys) {
            match found {
                Some(key) => assert_eq!(key.compress(), wanted[..]),
                None => assert_eq!(wanted[..], [0x77; 48]),
            }
        }
        assert_eq!(found.len(), keys.len());
        (found, cache.n_loaded(), cache.n_checked())
    }

    #[test]
    fn keys_are_checked_once_and_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pubkeys");
        let keys = keys(300);
        let (checked, ..) = resolve(&path, 0, &keys[..100]);
        let (loaded, n_loaded, n_checked) = resolve(&path, 0, &keys[..100]);
        assert_eq!((checked, n_loaded, n_checked), (loaded, 100, 0));
        // The new validators of a later state, then all at once, then a part that begins and ends
        // within chunks.
        assert_eq!(counts(resolve(&path, 100, &keys[100..150])), (0, 50));
        assert_eq!(counts(resolve(&path, 0, &keys)), (150, 150));
        assert_eq!(counts(resolve(&path, 50, &keys[50..200])), (150, 0));
        assert_eq!(counts(resolve(&path, 0, &keys[..7])), (7, 0));
        let header_and_chunks = 16 + 3 * 12 + 300 * 96;
        assert_eq!(fs::metadata(&path).unwrap().len(), header_and_chunks);
    }

    #[test]
    fn damage_costs_time_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pubkeys");
        let keys = keys(60);
        for part in [0..20, 20..40, 40..60] {
            resolve(&path, part.start, &keys[part]);
        }
        let whole = fs::read(&path).unwrap();
        let second_chunk = 16 + 12 + 20 * 96;
        for at in [second_chunk, second_chunk + 7, second_chunk + 50, second_chunk + 12 + 20 * 96 - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, damaged).unwrap();
            assert_eq!(counts(resolve(&path, 0, &keys)), (20, 40), "byte {at}");
            assert_eq!(counts(resolve(&path, 0, &keys)), (60, 0), "byte {at}: made anew");
        }
        for len in [16, 17, second_chunk - 1, second_chunk + 3, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            resolve(&path, 0, &keys);
            assert_eq!(counts(resolve(&path, 0, &keys)), (60, 0), "cut to {len}");
        }
    }

    #[test]
    fn a_file_that_is_no_cache_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pubkeys");
        for content in ["somebody's notes, long enough to be one", "short", "SWPUBKEY\0\0\0\x02\0\0\0\0"] {
            fs::write(&path, content).unwrap();
            let error = PubkeyCache::open(&path).unwrap_err();
            assert!(error.to_string().contains("move it away"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert!(PubkeyCache::open(directory.path()).unwrap_err().to_string().contains("permissions"));
    }

    fn counts(result: (Vec<CheckedKey>, u64, u64)) -> (u64, u64) {
        (result.1, result.2)
    }
}
