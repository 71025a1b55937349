//! The capture in an evidence pack: the signed messages of its proofs, as `slashwatch replay` reads
//! them.
//!
//! The messages themselves are not kept, only the proofs that were made of them. A proof of several
//! validators has one signature for all, so no single vote can be taken out of it. It is written as
//! what a node would publish: a slashing operation on its gossip topic, with the arrival of the
//! later message. A replay verifies both of its messages anew and comes to the same findings.
//!
//! A replay needs the keys of the signers, so the capture begins with the state that the data
//! directory keeps, unless that is too large to be sent to others.

use api::{CapturedProof, PackCapture, ReadError};
use consensus::{MessageKind, Network};
use evidence::EvidenceKind;
use sources::capture::{CaptureWriter, GossipEntry, WriteError};
use sources::topic::Topic;
use std::path::Path;
use verify::Time;

/// Size limit of a state in a pack, in bytes of SSZ. One with 130 000 validators fits.
pub const MAX_STATE_BYTES: u64 = 24 << 20;

/// Writes the capture. `state` is the path of the kept state, which may be missing.
pub fn capture_of(network: &Network, state: &Path, proofs: &[CapturedProof<'_>]) -> Result<PackCapture, ReadError> {
    let length = std::fs::metadata(state).map(|file| file.len()).ok();
    let state = match length {
        Some(length) if length <= MAX_STATE_BYTES => std::fs::read(state).ok(),
        Some(_) | None => None,
    };
    let is_too_large = length.is_some() && state.is_none();
    let has_state = state.is_some();
    let bytes = write(network, state.as_deref(), proofs).map_err(|error| ReadError::Failed(error.to_string()))?;
    Ok(PackCapture { bytes, has_state, is_too_large })
}

fn write(network: &Network, state: Option<&[u8]>, proofs: &[CapturedProof<'_>]) -> Result<Vec<u8>, WriteError> {
    let mut bytes = Vec::new();
    let mut capture = CaptureWriter::new(&mut bytes)?;
    capture.config(&network.spec.to_yaml())?;
    if let Some(state) = state {
        capture.state(state)?;
    }
    let digests = network.digests();
    for proof in proofs {
        let kind = match proof.evidence.kind {
            EvidenceKind::AttesterSlashing => MessageKind::AttesterSlashing,
            EvidenceKind::ProposerSlashing => MessageKind::ProposerSlashing,
        };
        // The digest says how the operation is encoded. Any digest of its fork does.
        let digest = digests.iter().find(|(_, _, fork)| *fork == Some(proof.evidence.fork)).map(|(digest, ..)| *digest);
        let (Some(digest), Some(payload)) = (digest, sources::limits::pack(&proof.evidence.ssz)) else { continue };
        capture.gossip(&GossipEntry {
            received_at: Time(proof.at.as_unix_ns()),
            peer: Vec::new(),
            topic: Topic { digest, kind }.to_string(),
            payload,
        })?;
    }
    capture.flush()?;
    Ok(bytes)
}
