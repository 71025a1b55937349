//! Snappy compression, and decompression that checks the size first.
//!
//! A snappy block begins with its decompressed length, as its sender claims it. That number is
//! compared with the limit of the message's kind ([`consensus::MessageKind::max_ssz_len`]) before
//! anything is allocated. A decompression bomb (10 kB that claim to be 4 GB) therefore costs only
//! the bytes that arrived. Source: consensus-specs, phase0/p2p-interface.md ("Encoding
//! strategies").

use consensus::MAX_PAYLOAD_SIZE;
use std::io::Read;

/// The greatest compressed size, in bytes, of a payload of `MAX_PAYLOAD_SIZE` that compression
/// makes larger: `32 + n + n / 6`, plus space for the envelope.
pub const MAX_WIRE_SIZE: usize = 32 + MAX_PAYLOAD_SIZE + MAX_PAYLOAD_SIZE / 6 + 1024;

/// Why a payload was not decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("claims {claimed} bytes, a message of its kind has at most {limit}; its sender is at fault")]
    TooLong { claimed: usize, limit: usize },
    #[error("is not a snappy block ({0}); its sender is at fault")]
    NotSnappy(String),
}

impl PayloadError {
    /// The label of this error in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::NotSnappy(_) => "bad_snappy",
        }
    }
}

/// Decompresses a snappy block of at most `limit` decompressed bytes.
pub fn unpack(payload: &[u8], limit: usize) -> Result<Vec<u8>, PayloadError> {
    let mut ssz = Vec::new();
    unpack_onto(payload, limit, &mut ssz)?;
    Ok(ssz)
}

/// Does what [`unpack`] does, and appends the result to `out`. On an error `out` is left as it was.
pub fn unpack_onto(payload: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), PayloadError> {
    let claimed = snap::raw::decompress_len(payload).map_err(|error| PayloadError::NotSnappy(error.to_string()))?;
    if claimed > limit {
        return Err(PayloadError::TooLong { claimed, limit });
    }
    let start = out.len();
    // A block of `n` bytes cannot decompress to more than about `64 * n` bytes. A short payload
    // that claims more is refused without an allocation.
    if claimed > payload.len().saturating_mul(MAX_EXPANSION) {
        return Err(PayloadError::NotSnappy(format!("{} bytes cannot hold the {claimed} that it claims", payload.len())));
    }
    out.resize(start + claimed, 0);
    match snap::raw::Decoder::new().decompress(payload, &mut out[start..]) {
        Ok(_) => Ok(()),
        Err(error) => {
            out.truncate(start);
            Err(PayloadError::NotSnappy(error.to_string()))
        }
    }
}

/// Greatest ratio of decompressed to compressed size that is possible, rounded up: a snappy copy
/// element of 3 bytes yields at most 64 bytes.
const MAX_EXPANSION: usize = 64;

/// Compresses as gossip does. Returns `None` if `ssz` is longer than the snappy format can express
/// (4 GiB).
pub fn pack(ssz: &[u8]) -> Option<Vec<u8>> {
    snap::raw::Encoder::new().compress_vec(ssz).ok()
}

/// Decompresses *framed* snappy (a state file or an ERA file's entry) of at most `limit`
/// decompressed bytes.
pub fn unframe(framed: &[u8], limit: usize) -> Result<Vec<u8>, PayloadError> {
    let mut ssz = Vec::new();
    let unpacked = snap::read::FrameDecoder::new(framed).take(limit as u64 + 1).read_to_end(&mut ssz);
    match unpacked {
        Ok(_) if ssz.len() > limit => Err(PayloadError::TooLong { claimed: ssz.len(), limit }),
        Ok(_) => Ok(ssz),
        Err(error) => Err(PayloadError::NotSnappy(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_unpacks() {
        for n in [0usize, 1, 240, 65_536, 300_000] {
            let ssz: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
            assert_eq!(unpack(&pack(&ssz).unwrap(), n), Ok(ssz));
        }
        // The best case of the format is one byte that is repeated.
        let zeros = vec![0u8; MAX_PAYLOAD_SIZE];
        assert_eq!(unpack(&pack(&zeros).unwrap(), MAX_PAYLOAD_SIZE).map(|ssz| ssz.len()), Ok(MAX_PAYLOAD_SIZE));
    }

    #[test]
    fn a_bomb_is_refused_by_its_claim() {
        let bomb = pack(&vec![0u8; MAX_PAYLOAD_SIZE + 1]).unwrap();
        assert_eq!(
            unpack(&bomb, MAX_PAYLOAD_SIZE),
            Err(PayloadError::TooLong { claimed: MAX_PAYLOAD_SIZE + 1, limit: MAX_PAYLOAD_SIZE })
        );
        let mut claim = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
        claim.push(0);
        assert!(matches!(unpack(&claim, MAX_PAYLOAD_SIZE), Err(PayloadError::TooLong { .. })));
        // The claim is under the limit, but six bytes cannot hold 8 MiB.
        let lie = [0x80, 0x80, 0x80, 0x04, 0, 0];
        assert!(matches!(unpack(&lie, MAX_PAYLOAD_SIZE), Err(PayloadError::NotSnappy(_))));
    }

    #[test]
    fn frames_are_bounded_too() {
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        std::io::Write::write_all(&mut encoder, &[5u8; 200_000]).unwrap();
        let framed = encoder.into_inner().unwrap();
        assert_eq!(unframe(&framed, 200_000).unwrap(), vec![5u8; 200_000]);
        assert!(matches!(unframe(&framed, 199_999), Err(PayloadError::TooLong { .. })));
        assert!(matches!(unframe(&framed[..framed.len() - 1], 200_000), Err(PayloadError::NotSnappy(_))));
    }

    #[test]
    fn a_failure_leaves_the_buffer_alone() {
        let mut out = vec![1, 2, 3];
        assert!(unpack_onto(&[8, 1, 2], 100, &mut out).is_err());
        assert!(unpack_onto(&[], 100, &mut out).is_err());
        assert_eq!(out, [1, 2, 3]);
    }
}
