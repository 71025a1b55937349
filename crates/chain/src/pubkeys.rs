//! Public keys, checked once and kept uncompressed on disk.
//!
//! Checking a key (decompression and group check) takes 62 us, so a million of them take a minute of one core; loading the 96 bytes of a
//! checked one takes 0.4 us. The price is a file of 96 MB per million keys, which may be deleted at any time.
//!
//! # File format, version 1 (numbers big-endian)
//! ```text
//! file  = "SWPUBKEY" | version: u32 | 0: u32 | chunk*
//! chunk = n: u32 | sum of n and keys: u64 | keys: n x 96 bytes
//! ```
//! Keys are in order of validator index, without gaps. A key is its uncompressed point; one that failed its check is its 48 compressed
//! bytes followed by 48 bytes 0xff (no point's y is that great), so that it is not tried again. Chunks are only ever appended. A chunk
//! that is cut or whose sum is wrong ends the file: it is cut off there, said in the log, and made anew.
//!
//! The sum is a plain 64-bit one ([`chunk_sum`]) against torn writes and bad disks. A loaded key needs no more: it must lie on the curve
//! and compress to the state's 48 bytes, which fixes x and the sign of y, so it is the very point that was checked. After a mix-up of data
//! directories the cache is rebuilt.
//!
//! Limits: [`CHUNK_KEYS`] keys a chunk.

use crate::ChainError;
use blst::min_pk::PublicKey;
use consensus::PubkeyBytes;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tracing::warn;

const MAGIC: &[u8; 8] = b"SWPUBKEY";
const VERSION: u32 = 1;
const HEADER_LEN: u64 = 16;
const CHUNK_HEADER_LEN: u64 = 12;
const KEY_LEN: usize = 96;
/// Keys per chunk at most: the unit of checking, writing and reading; 786 kB.
pub const CHUNK_KEYS: usize = 8_192;
const INVALID_MARK: [u8; 48] = [0xff; 48];

/// How far a long task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: Stage,
    /// Public keys ready.
    pub done: usize,
    pub total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Keys come from the cache.
    LoadingKeys,
    /// Keys are new and checked, 62 us each.
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

/// The file `pubkeys` of a data directory, or nothing behind the same face.
#[derive(Debug)]
pub struct PubkeyCache {
    disk: Option<Disk>,
    /// Keys that had to be checked since the start.
    n_checked: u64,
    /// Keys that came from the file since the start.
    n_loaded: u64,
}

#[derive(Debug)]
struct Disk {
    path: PathBuf,
    file: File,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Of its header.
    offset: u64,
    first: usize,
    n: usize,
}

/// One key: the checked point, or `None` for bytes that are no valid key.
pub(crate) type CheckedKey = Option<PublicKey>;

impl PubkeyCache {
    /// Opens or makes the file. Refuses one that is not a key cache, so that a wrong path overwrites nothing.
    pub fn open(path: &Path) -> Result<Self, ChainError> {
        let failed = |source| ChainError::CacheOpen { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if len == 0 {
            file.write_all(&header()).map_err(failed)?;
            file.sync_data().map_err(failed)?;
        } else {
            let mut found = [0u8; HEADER_LEN as usize];
            let n = read_up_to(&mut file, &mut found).map_err(failed)?;
            if found != header() {
                return Err(ChainError::NotACache { path: path.to_owned(), found: hex::encode(&found[..n]) });
            }
        }
        let mut disk = Disk { path: path.to_owned(), file, chunks: Vec::new() };
        disk.scan().map_err(failed)?;
        Ok(Self { disk: Some(disk), n_checked: 0, n_loaded: 0 })
    }

    /// Makes a cache of keys that need no check because the caller made them: for loads of many validators, whose keys follow by
    /// additions. `keys` in order of validator index; the file must be new or empty.
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

    /// Keeps nothing: every key is checked again at each start.
    pub fn in_memory() -> Self {
        Self { disk: None, n_checked: 0, n_loaded: 0 }
    }

    /// Keys on disk.
    pub fn len(&self) -> usize {
        self.disk.as_ref().map_or(0, Disk::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys that had to be checked (62 us each) since the start.
    pub fn n_checked(&self) -> u64 {
        self.n_checked
    }

    /// Keys that came from the file since the start.
    pub fn n_loaded(&self) -> u64 {
        self.n_loaded
    }

    /// The keys in a file, compressed, in order of validator index, without changing it: also beside a process that has it open. A
    /// chunk that is damaged, or just being appended, ends them. About 0.5 s per million.
    pub fn compressed_in(path: &Path) -> Result<Vec<PubkeyBytes>, ChainError> {
        let failed = |source| ChainError::CacheOpen { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut found = [0u8; HEADER_LEN as usize];
        let n = read_up_to(&mut file, &mut found).map_err(failed)?;
        if found != header() {
            return Err(ChainError::NotACache { path: path.to_owned(), found: hex::encode(&found[..n]) });
        }
        let mut keys = Vec::new();
        loop {
            let mut head = [0u8; CHUNK_HEADER_LEN as usize];
            let n = match read_up_to(&mut file, &mut head).map_err(failed)? {
                0 => return Ok(keys),
                _ => u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize,
            };
            let mut bytes = vec![0u8; head.len() + n.min(CHUNK_KEYS) * KEY_LEN];
            bytes[..head.len()].copy_from_slice(&head);
            let n_read = read_up_to(&mut file, &mut bytes[head.len()..]).map_err(failed)?;
            match compressed_chunk(&bytes[..head.len() + n_read]) {
                Some(chunk) if chunk.len() == n => keys.extend(chunk),
                _ => {
                    warn!(path = %path.display(), keys = keys.len(), "key cache is damaged from here on, later keys are missing");
                    return Ok(keys);
                }
            }
        }
    }

    /// The checked keys of validators `first..`, from the file where it has them, else by checking on all cores and appending.
    /// Trouble with the file costs time, not correctness: it is logged and the keys are checked.
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

impl Disk {
    fn len(&self) -> usize {
        self.chunks.last().map_or(0, |chunk| chunk.first + chunk.n)
    }

    /// Reads the chunks' headers and cuts off a tail that is no whole chunk.
    fn scan(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let mut offset = HEADER_LEN;
        let mut first = 0;
        while offset < len {
            let mut n = [0u8; 4];
            self.file.seek(SeekFrom::Start(offset))?;
            let whole = read_up_to(&mut self.file, &mut n)? == 4;
            let n = u32::from_be_bytes(n) as usize;
            let end = offset + CHUNK_HEADER_LEN + (n * KEY_LEN) as u64;
            if !whole || n == 0 || n > CHUNK_KEYS || end > len {
                self.cut(offset, "it ends in the middle of a chunk")?;
                break;
            }
            self.chunks.push(Chunk { offset, first, n });
            first += n;
            offset = end;
        }
        Ok(())
    }

    fn cut(&mut self, offset: u64, reason: &str) -> io::Result<()> {
        self.chunks.retain(|chunk| chunk.offset < offset);
        warn!(path = %self.path.display(), offset, reason, keys_kept = self.len(), "key cache is damaged from here on, that part is made anew");
        self.file.set_len(offset)?;
        self.file.sync_data()
    }

    /// Keys `at..` as far as the file has them and they agree with `compressed`; empty when it has none.
    fn load(&mut self, at: usize, compressed: &[PubkeyBytes]) -> Vec<CheckedKey> {
        let from = self.chunks.partition_point(|chunk| chunk.first + chunk.n <= at);
        let end = at + compressed.len();
        let wanted: Vec<Chunk> = self.chunks[from..].iter().copied().take_while(|chunk| chunk.first < end).collect();
        let mut bytes: Vec<Vec<u8>> = Vec::with_capacity(wanted.len());
        for chunk in &wanted {
            match self.read_chunk(chunk) {
                Ok(chunk) => bytes.push(chunk),
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "key cache cannot be read, keys are checked anew");
                    break;
                }
            }
        }
        let parsed: Vec<Option<Vec<CheckedKey>>> = std::thread::scope(|scope| {
            let per_thread = bytes.len().div_ceil(n_threads()).max(1);
            let workers: Vec<_> = bytes
                .chunks(per_thread)
                .zip(wanted.chunks(per_thread))
                .map(|(bytes, chunks)| {
                    scope.spawn(move || {
                        let each = bytes.iter().zip(chunks);
                        each.map(|(bytes, chunk)| parse_chunk(bytes, chunk, at, compressed)).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("parsing a chunk does not panic")).collect()
        });
        let mut keys = Vec::with_capacity(compressed.len());
        for (chunk, parsed) in wanted.iter().zip(parsed) {
            match parsed {
                Some(parsed) => keys.extend(parsed),
                None => {
                    if let Err(error) = self.cut(chunk.offset, "a chunk's sum is wrong, or its keys are another network's") {
                        warn!(path = %self.path.display(), %error, "damaged key cache cannot be cut; delete it");
                    }
                    break;
                }
            }
        }
        keys
    }

    fn read_chunk(&mut self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; CHUNK_HEADER_LEN as usize + chunk.n * KEY_LEN];
        self.file.seek(SeekFrom::Start(chunk.offset))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends keys of validators `first..`. Does nothing when they would leave a gap or repeat. `compressed`: as long as `keys`, or empty if
    /// all of those are good.
    fn append(&mut self, first: usize, keys: &[CheckedKey], compressed: &[PubkeyBytes]) -> io::Result<()> {
        if first != self.len() || keys.is_empty() {
            return Ok(());
        }
        let n = (keys.len() as u32).to_be_bytes();
        let mut payload = Vec::with_capacity(keys.len() * KEY_LEN);
        for (nth, key) in keys.iter().enumerate() {
            match key {
                Some(key) => payload.extend_from_slice(&key.serialize()),
                None => {
                    payload.extend_from_slice(compressed[nth].as_slice());
                    payload.extend_from_slice(&INVALID_MARK);
                }
            }
        }
        let offset = match self.chunks.last() {
            Some(last) => last.offset + CHUNK_HEADER_LEN + (last.n * KEY_LEN) as u64,
            None => HEADER_LEN,
        };
        let mut chunk = Vec::with_capacity(CHUNK_HEADER_LEN as usize + payload.len());
        chunk.extend_from_slice(&n);
        chunk.extend_from_slice(&chunk_sum(n, &payload));
        chunk.extend_from_slice(&payload);
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(&chunk)?;
        self.file.sync_data()?;
        self.chunks.push(Chunk { offset, first, n: keys.len() });
        tracing::debug!(keys = self.len(), "key cache grew");
        Ok(())
    }
}

fn header() -> [u8; HEADER_LEN as usize] {
    let mut header = [0u8; HEADER_LEN as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    header
}

/// For each 8 bytes (big-endian; the keys are 12 such words each): `sum = ((sum ^ word) * 0x9e3779b97f4a7c15).rotate_left(29)`, from `n` on.
fn chunk_sum(n: [u8; 4], payload: &[u8]) -> [u8; 8] {
    let mut sum = u64::from(u32::from_be_bytes(n));
    for word in payload.chunks_exact(8) {
        let word = u64::from_be_bytes(word.try_into().expect("chunks of 8 bytes"));
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    sum.to_be_bytes()
}

/// All keys of a chunk; `None` if it is damaged.
fn compressed_chunk(bytes: &[u8]) -> Option<Vec<PubkeyBytes>> {
    let (head, payload) = bytes.split_at_checked(CHUNK_HEADER_LEN as usize)?;
    let n: [u8; 4] = head[..4].try_into().ok()?;
    if head[4..] != chunk_sum(n, payload) {
        return None;
    }
    let keys = payload.chunks_exact(KEY_LEN).map(|bytes| match bytes[48..] == INVALID_MARK {
        true => Some(PubkeyBytes::from_slice(&bytes[..48])),
        false => Some(PubkeyBytes::from(PublicKey::deserialize(bytes).ok()?.compress())),
    });
    keys.collect()
}

/// The part of a chunk that lies within `at..at + compressed.len()`; `None` if the chunk is damaged or has other keys.
fn parse_chunk(bytes: &[u8], chunk: &Chunk, at: usize, compressed: &[PubkeyBytes]) -> Option<Vec<CheckedKey>> {
    let (head, payload) = bytes.split_at(CHUNK_HEADER_LEN as usize);
    let n: [u8; 4] = head[..4].try_into().ok()?;
    if head[4..] != chunk_sum(n, payload) {
        return None;
    }
    let skip = at.saturating_sub(chunk.first);
    let mut keys = Vec::with_capacity(chunk.n - skip);
    for (position, bytes) in payload.chunks_exact(KEY_LEN).enumerate().skip(skip) {
        let Some(wanted) = compressed.get(chunk.first + position - at) else { break };
        if bytes[48..] == INVALID_MARK {
            if bytes[..48] != wanted[..] {
                return None;
            }
            keys.push(None);
        } else {
            let key = PublicKey::deserialize(bytes).ok()?;
            if key.compress() != wanted[..] {
                return None;
            }
            keys.push(Some(key));
        }
    }
    Some(keys)
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

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blst::min_pk::SecretKey;
    use consensus::sha256;
    use std::fs;

    /// `n` keys, the third of which is none.
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
        // A later state's new validators, then everything at once, then a part that begins and ends within chunks.
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
