//! A minimal SSZ implementation: a tree of values that can be serialized and hashed.
//!
//! `consensus` has its own schemas for reading, and this crate deliberately does not use them. So
//! the simulator's writer and the watcher's reader are two independent implementations of the
//! specification. A test compares their hash-tree-roots.
//!
//! Worked example: a container of a `uint64` 5 and a list with one byte `0xff` is serialized as
//! `05 00 00 00 00 00 00 00 | 0c 00 00 00 | ff`: the number, the offset of the list (8 + 4 = 12),
//! the list.
//!
//! Source: consensus-specs `ssz/simple-serialize.md`.

use consensus::{Root, sha256};
use std::sync::LazyLock;

/// Greatest depth of a tree. The deepest list in use has 2^40 validators.
const MAX_DEPTH: usize = 64;

/// A value with everything that is needed to serialize and hash it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SszValue {
    /// Numbers, byte vectors, bit vectors and vectors of numbers: fixed size, packed into chunks.
    Fixed(Vec<u8>),
    /// Byte lists and lists of numbers or roots: `length` elements in `bytes`, at most
    /// `limit_chunks` chunks of 32 bytes.
    Packed { bytes: Vec<u8>, length: u64, limit_chunks: u64 },
    /// A bit list of at most `limit` bits.
    VotesByBits { bits: Vec<bool>, limit: u64 },
    /// A container, or a vector of composite elements.
    Container(Vec<SszValue>),
    /// A list of at most `limit` composite elements.
    List { items: Vec<SszValue>, limit: u64 },
}

impl SszValue {
    /// A `uint64`.
    pub(crate) fn u64(number: u64) -> Self {
        Self::Fixed(number.to_le_bytes().to_vec())
    }

    /// Bytes of a fixed length.
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::Fixed(bytes.to_vec())
    }

    /// `n` zero bytes.
    pub(crate) fn zeros(n: u64) -> Self {
        Self::Fixed(vec![0; n as usize])
    }

    /// A list of at most `limit` numbers of 64 bits.
    pub(crate) fn u64_list(numbers: impl IntoIterator<Item = u64>, limit: u64) -> Self {
        let mut bytes = Vec::new();
        let mut length = 0;
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
            length += 1;
        }
        Self::Packed { bytes, length, limit_chunks: limit.div_ceil(4) }
    }

    /// A list of at most `limit` bytes.
    pub(crate) fn byte_list(bytes: &[u8], limit: u64) -> Self {
        Self::Packed { bytes: bytes.to_vec(), length: bytes.len() as u64, limit_chunks: limit.div_ceil(32) }
    }

    /// An empty list of at most `limit` composite elements.
    pub(crate) fn empty(limit: u64) -> Self {
        Self::List { items: Vec::new(), limit }
    }

    /// The serialization.
    pub(crate) fn to_ssz(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The hash-tree-root.
    pub(crate) fn root(&self) -> Root {
        Root::from(self.hash())
    }

    fn is_fixed_size(&self) -> bool {
        match self {
            Self::Fixed(_) => true,
            Self::Container(parts) => parts.iter().all(Self::is_fixed_size),
            Self::Packed { .. } | Self::VotesByBits { .. } | Self::List { .. } => false,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Fixed(bytes) | Self::Packed { bytes, .. } => out.extend_from_slice(bytes),
            Self::VotesByBits { bits, .. } => {
                let mut bytes = pack_bits(bits);
                bytes.resize(bits.len() / 8 + 1, 0);
                bytes[bits.len() / 8] |= 1 << (bits.len() % 8);
                out.extend_from_slice(&bytes);
            }
            Self::Container(parts) => write_sequence(parts, out),
            Self::List { items, .. } => write_sequence(items, out),
        }
    }

    fn hash(&self) -> [u8; 32] {
        match self {
            Self::Fixed(bytes) => {
                let chunks = chunks_of(bytes);
                let limit = chunks.len() as u64;
                merkleize(chunks, limit)
            }
            Self::Packed { bytes, length, limit_chunks } => mix_in(merkleize(chunks_of(bytes), *limit_chunks), *length),
            Self::VotesByBits { bits, limit } => {
                mix_in(merkleize(chunks_of(&pack_bits(bits)), limit.div_ceil(256)), bits.len() as u64)
            }
            Self::Container(parts) => merkleize(parts.iter().map(Self::hash).collect(), parts.len() as u64),
            Self::List { items, limit } => mix_in(merkleize(items.iter().map(Self::hash).collect(), *limit), items.len() as u64),
        }
    }
}

fn write_sequence(parts: &[SszValue], out: &mut Vec<u8>) {
    let head: usize = parts.iter().map(|part| if part.is_fixed_size() { fixed_len(part) } else { 4 }).sum();
    let mut tail = Vec::new();
    for part in parts {
        if part.is_fixed_size() {
            part.write(out);
        } else {
            out.extend_from_slice(&((head + tail.len()) as u32).to_le_bytes());
            part.write(&mut tail);
        }
    }
    out.extend_from_slice(&tail);
}

fn fixed_len(value: &SszValue) -> usize {
    match value {
        SszValue::Fixed(bytes) => bytes.len(),
        SszValue::Container(parts) => parts.iter().map(fixed_len).sum(),
        SszValue::Packed { .. } | SszValue::VotesByBits { .. } | SszValue::List { .. } => {
            unreachable!("asked of fixed-size values only")
        }
    }
}

fn pack_bits(bits: &[bool]) -> Vec<u8> {
    let mut bytes = vec![0; bits.len().div_ceil(8)];
    for (position, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
        bytes[position / 8] |= 1 << (position % 8);
    }
    bytes
}

fn chunks_of(bytes: &[u8]) -> Vec<[u8; 32]> {
    bytes
        .chunks(32)
        .map(|part| {
            let mut chunk = [0; 32];
            chunk[..part.len()].copy_from_slice(part);
            chunk
        })
        .collect()
}

static ZERO_HASHES: LazyLock<[[u8; 32]; MAX_DEPTH]> = LazyLock::new(|| {
    let mut hashes = [[0; 32]; MAX_DEPTH];
    for depth in 1..MAX_DEPTH {
        hashes[depth] = hash_pair(&hashes[depth - 1], &hashes[depth - 1]);
    }
    hashes
});

/// `merkleize`: the root of a tree with `limit` leaves, where missing leaves are zero.
fn merkleize(mut layer: Vec<[u8; 32]>, limit: u64) -> [u8; 32] {
    let depth = limit.max(1).next_power_of_two().trailing_zeros() as usize;
    for zero in &ZERO_HASHES[..depth] {
        layer = layer.chunks(2).map(|pair| hash_pair(&pair[0], pair.get(1).unwrap_or(zero))).collect();
    }
    layer.first().copied().unwrap_or(ZERO_HASHES[depth])
}

fn mix_in(root: [u8; 32], length: u64) -> [u8; 32] {
    let mut chunk = [0; 32];
    chunk[..8].copy_from_slice(&length.to_le_bytes());
    hash_pair(&root, &chunk)
}

fn hash_pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    sha256(&both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_the_header() {
        let value = SszValue::Container(vec![SszValue::u64(5), SszValue::byte_list(&[0xff], 32)]);
        assert_eq!(hex::encode(value.to_ssz()), "05000000000000000c000000ff");
    }

    #[test]
    fn bits_end_in_a_one() {
        let bits = |n: usize| SszValue::VotesByBits { bits: vec![true; n], limit: 64 }.to_ssz();
        assert_eq!(bits(0), [0b1]);
        assert_eq!(bits(3), [0b1111]);
        assert_eq!(bits(8), [0xff, 0b1]);
    }

    #[test]
    fn the_derived_containers_agree() {
        let header = consensus::BeaconBlockHeader {
            slot: consensus::Slot::new(7),
            proposer_index: consensus::ValidatorIndex::new(3),
            parent_root: Root::repeat_byte(1),
            state_root: Root::repeat_byte(2),
            body_root: Root::repeat_byte(3),
        };
        let value = SszValue::Container(vec![
            SszValue::u64(7),
            SszValue::u64(3),
            SszValue::bytes(&[1; 32]),
            SszValue::bytes(&[2; 32]),
            SszValue::bytes(&[3; 32]),
        ]);
        assert_eq!(value.root(), header.root());
    }
}
