//! The file of checked keys.
//!
//! # File format, version 1 (numbers are big-endian)
//!
//! ```text
//! file  = "SWPUBKEY" | version: u32 | 0: u32 | chunk*
//! chunk = n: u32 | sum of n and keys: u64 | keys: n x 96 bytes
//! ```
//!
//! Keys are in the order of the validator index, without gaps. A key is stored as its uncompressed
//! point. A key that failed its check is stored as its 48 compressed bytes followed by 48 bytes
//! 0xff, so that it is not checked again. (No point has such a large y.) Chunks are only appended.
//! If a chunk is incomplete or its sum is wrong, the file is cut off before it, this is logged, and
//! the rest is made again.
//!
//! The sum is a simple 64-bit sum ([`chunk_sum`]) against incomplete writes and bad disks. A loaded
//! key needs no stronger protection: it must be a point on the curve, and it must compress to the
//! 48 bytes in the state. This fixes x and the sign of y, so it is the same point that was checked.
//! If data directories are mixed up, the cache is made again.
//!
//! Limits: [`CHUNK_KEYS`] keys in a chunk.

use super::{CheckedKey, n_threads};
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
/// Maximum number of keys in a chunk, which is 786 kB. Keys are checked, written and read in
/// chunks.
pub const CHUNK_KEYS: usize = 8_192;
const INVALID_MARK: [u8; 48] = [0xff; 48];

/// The open file.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    file: File,
    chunks: Vec<KeyChunk>,
}

#[derive(Clone, Copy, Debug)]
struct KeyChunk {
    /// Position of the chunk's header in the file.
    offset: u64,
    first: usize,
    n: usize,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self, ChainError> {
        let failed = |source| ChainError::CacheOpen { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if len == 0 {
            file.write_all(&header()).map_err(failed)?;
            file.sync_data().map_err(failed)?;
        } else {
            check_header(&mut file, path)?;
        }
        let mut disk = Self { path: path.to_owned(), file, chunks: Vec::new() };
        disk.scan().map_err(failed)?;
        Ok(disk)
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |chunk| chunk.first + chunk.n)
    }

    /// Reads the headers of the chunks, and cuts off an incomplete chunk at the end.
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
            self.chunks.push(KeyChunk { offset, first, n });
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

    /// Loads the keys from validator `at` on, as far as the file has them and they agree with
    /// `compressed`. Returns an empty list if the file has none.
    pub(super) fn load(&mut self, at: usize, compressed: &[PubkeyBytes]) -> Vec<CheckedKey> {
        let from = self.chunks.partition_point(|chunk| chunk.first + chunk.n <= at);
        let end = at + compressed.len();
        let wanted: Vec<KeyChunk> = self.chunks[from..].iter().copied().take_while(|chunk| chunk.first < end).collect();
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

    fn read_chunk(&mut self, chunk: &KeyChunk) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; CHUNK_HEADER_LEN as usize + chunk.n * KEY_LEN];
        self.file.seek(SeekFrom::Start(chunk.offset))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends the keys of the validators `first..`. Does nothing if they would leave a gap or
    /// repeat keys. `compressed` has as many elements as `keys`, or is empty if all of these are
    /// valid.
    pub(super) fn append(&mut self, first: usize, keys: &[CheckedKey], compressed: &[PubkeyBytes]) -> io::Result<()> {
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
        self.chunks.push(KeyChunk { offset, first, n: keys.len() });
        tracing::debug!(keys = self.len(), "key cache grew");
        Ok(())
    }
}

/// Reads all keys without changing the file.
pub(super) fn compressed_in(path: &Path) -> Result<Vec<PubkeyBytes>, ChainError> {
    let failed = |source| ChainError::CacheOpen { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    check_header(&mut file, path)?;
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

fn check_header(file: &mut File, path: &Path) -> Result<(), ChainError> {
    let mut found = [0u8; HEADER_LEN as usize];
    let n = read_up_to(file, &mut found).map_err(|source| ChainError::CacheOpen { path: path.to_owned(), source })?;
    if found != header() {
        return Err(ChainError::NotACache { path: path.to_owned(), found: hex::encode(&found[..n]) });
    }
    Ok(())
}

fn header() -> [u8; HEADER_LEN as usize] {
    let mut header = [0u8; HEADER_LEN as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    header
}

/// Computes the sum of a chunk. It starts with `n`, and then takes 8 bytes (big-endian) at a time:
/// `sum = ((sum ^ word) * 0x9e3779b97f4a7c15).rotate_left(29)`. A key has 12 such words.
fn chunk_sum(n: [u8; 4], payload: &[u8]) -> [u8; 8] {
    let mut sum = u64::from(u32::from_be_bytes(n));
    for word in payload.chunks_exact(8) {
        let word = u64::from_be_bytes(word.try_into().expect("chunks of 8 bytes"));
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    sum.to_be_bytes()
}

/// Returns all keys of a chunk, or `None` if it is damaged.
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

/// Returns the keys of a chunk that are within `at..at + compressed.len()`. Returns `None` if the
/// chunk is damaged or has other keys.
fn parse_chunk(bytes: &[u8], chunk: &KeyChunk, at: usize, compressed: &[PubkeyBytes]) -> Option<Vec<CheckedKey>> {
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
