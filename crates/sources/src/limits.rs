//! How large each kind of message may be, and decompression that asks first.
//!
//! A snappy block begins with the length it claims to unpack to. That number is compared with the limit of the message's
//! kind before a byte is allocated, so a "bomb" (10 kB that claim 4 GB) costs nothing but its own arrival. The limits follow
//! from the containers: a `SingleAttestation` is 240 bytes and nothing else; what has lists gets their greatest length.
//! Source: consensus-specs, phase0/p2p-interface.md (`MAX_PAYLOAD_SIZE`, "Encoding strategies").

use consensus::{ForkName, MAX_SIGNED_INCLUSION_LIST_SIZE, PayloadAttestationMessage, SingleAttestation};
use std::io::Read;
use verify::MessageKind;

/// `MAX_PAYLOAD_SIZE`: uncompressed, of anything in gossip or a request.
pub const MAX_PAYLOAD_SIZE: usize = 10 << 20;
/// `MAX_PAYLOAD_SIZE` after compression that made it larger: `32 + n + n / 6`, and room for the envelope.
pub const MAX_WIRE_SIZE: usize = 32 + MAX_PAYLOAD_SIZE + MAX_PAYLOAD_SIZE / 6 + 1024;

/// `SignedAggregateAndProof`: the bits of a slot (131 072) are 16 kB, the rest under 500 bytes.
const MAX_AGGREGATE: usize = 20 << 10;
/// `Attestation` before Electra: 2 048 bits and 228 bytes.
const MAX_ATTESTATION_BY_COMMITTEE: usize = 512;
/// `AttesterSlashing`: twice 131 072 indices of 8 bytes, and headers.
const MAX_ATTESTER_SLASHING: usize = (2 << 20) + 1024;
/// `ProposerSlashing`: two signed headers of 208 bytes.
const PROPOSER_SLASHING: usize = 416;
/// `SignedBeaconBlockHeader`.
const SIGNED_HEADER: usize = 208;
/// `BlobSidecar`: 131 072 bytes of blob; proofs and header are under 1 kB.
const MAX_BLOB_SIDECAR: usize = (128 << 10) + 4096;
/// `DataColumnSidecar`: 2 144 bytes for each blob; this fits 480 blobs in a block, the schedule is at 21.
const MAX_COLUMN_SIDECAR: usize = 1 << 20;

/// `SignedExecutionPayloadBid`: 48 bytes for each blob, 4 096 of which no block will ever have; the rest is under 500.
const MAX_PAYLOAD_BID: usize = 500 + 48 * 4096;

/// Most bytes of SSZ that a message of this kind has. `fork` is `None` where it is not known.
pub const fn max_ssz_len(kind: MessageKind, fork: Option<ForkName>) -> usize {
    match kind {
        MessageKind::Block => MAX_PAYLOAD_SIZE,
        MessageKind::Aggregate | MessageKind::AttestationByBits => MAX_AGGREGATE,
        MessageKind::Attestation { .. } => match fork {
            Some(ForkName::Electra | ForkName::Fulu | ForkName::Gloas | ForkName::Heze) => SingleAttestation::SSZ_LEN,
            Some(ForkName::Phase0 | ForkName::Altair | ForkName::Bellatrix | ForkName::Capella | ForkName::Deneb) | None => {
                MAX_ATTESTATION_BY_COMMITTEE
            }
        },
        MessageKind::Header => SIGNED_HEADER,
        MessageKind::AttesterSlashing => MAX_ATTESTER_SLASHING,
        MessageKind::ProposerSlashing => PROPOSER_SLASHING,
        MessageKind::BlobSidecar { .. } => MAX_BLOB_SIDECAR,
        MessageKind::DataColumnSidecar { .. } => MAX_COLUMN_SIDECAR,
        MessageKind::PayloadAttestation => PayloadAttestationMessage::SSZ_LEN,
        MessageKind::PayloadBid => MAX_PAYLOAD_BID,
        MessageKind::InclusionList => MAX_SIGNED_INCLUSION_LIST_SIZE,
    }
}

/// Why a payload was not unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("claims {claimed} bytes, a message of its kind has at most {limit}; its sender is at fault")]
    TooLong { claimed: usize, limit: usize },
    #[error("is not a snappy block ({0}); its sender is at fault")]
    NotSnappy(String),
}

impl PayloadError {
    /// One word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::NotSnappy(_) => "bad_snappy",
        }
    }
}

/// Unpacks a snappy block of at most `limit` bytes.
pub fn unpack(payload: &[u8], limit: usize) -> Result<Vec<u8>, PayloadError> {
    let mut ssz = Vec::new();
    unpack_onto(payload, limit, &mut ssz)?;
    Ok(ssz)
}

/// As [`unpack`], behind what `out` holds already. On an error `out` is as before.
pub fn unpack_onto(payload: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), PayloadError> {
    let claimed = snap::raw::decompress_len(payload).map_err(|error| PayloadError::NotSnappy(error.to_string()))?;
    if claimed > limit {
        return Err(PayloadError::TooLong { claimed, limit });
    }
    let start = out.len();
    // A block of n bytes cannot unpack to more than some 64 n, so a short payload with a great claim is not worth its allocation.
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

/// A snappy copy of 3 bytes makes at most 64 bytes; rounded up.
const MAX_EXPANSION: usize = 64;

/// Packs as gossip does. `None` if it is longer than snappy can say (4 GiB).
pub fn pack(ssz: &[u8]) -> Option<Vec<u8>> {
    snap::raw::Encoder::new().compress_vec(ssz).ok()
}

/// Unpacks *framed* snappy (a state file, an ERA file's entry) of at most `limit` bytes.
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
        // The best case of the format: one byte repeated.
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
        // Under the limit, but six bytes cannot hold 8 MiB.
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
