//! stub
use crate::*;

/// Which sidecar a signed header comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SidecarKind {
    Blob,
    DataColumn,
}

/// What stands at fixed offsets in every `SignedBeaconBlock`, of unknown later forks too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPrefix {
    pub slot: Slot,
    pub proposer_index: ValidatorIndex,
    pub parent_root: Root,
    pub state_root: Root,
    pub signature: SignatureBytes,
}

fn none<T>(container: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::new(container, "", 0, "not read yet"))
}

impl SingleAttestation {
    pub fn from_ssz(_bytes: &[u8]) -> Result<Self, DecodeError> {
        none("SingleAttestation")
    }
    pub fn to_ssz(&self) -> Vec<u8> {
        ssz::Encode::as_ssz_bytes(self)
    }
}
impl Attestation {
    pub fn from_ssz(_fork: ForkName, _preset: &Preset, _bytes: &[u8]) -> Result<Self, DecodeError> {
        none("Attestation")
    }
    pub fn to_ssz(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Committees named by `committee_bits`, ascending; before Electra the one that `data.index` names.
    pub fn committees(&self) -> Vec<CommitteeIndex> {
        Vec::new()
    }
}
impl SignedAggregate {
    pub fn from_ssz(_fork: ForkName, _preset: &Preset, _bytes: &[u8]) -> Result<Self, DecodeError> {
        none("SignedAggregateAndProof")
    }
}
impl IndexedAttestation {
    pub fn from_ssz(_fork: ForkName, _preset: &Preset, _bytes: &[u8]) -> Result<Self, DecodeError> {
        none("IndexedAttestation")
    }
    pub fn to_ssz(&self) -> Vec<u8> {
        Vec::new()
    }
}
impl AttesterSlashing {
    pub fn from_ssz(_fork: ForkName, _preset: &Preset, _bytes: &[u8]) -> Result<Self, DecodeError> {
        none("AttesterSlashing")
    }
    pub fn to_ssz(&self) -> Vec<u8> {
        Vec::new()
    }
}
impl ProposerSlashing {
    pub fn from_ssz(_bytes: &[u8]) -> Result<Self, DecodeError> {
        none("ProposerSlashing")
    }
    pub fn to_ssz(&self) -> Vec<u8> {
        ssz::Encode::as_ssz_bytes(self)
    }
}
impl SignedBeaconBlockHeader {
    pub fn from_ssz(_bytes: &[u8]) -> Result<Self, DecodeError> {
        none("SignedBeaconBlockHeader")
    }
    pub fn to_ssz(&self) -> Vec<u8> {
        ssz::Encode::as_ssz_bytes(self)
    }
}
impl SignedBlock {
    pub fn from_ssz(_fork: ForkName, _preset: &Preset, _bytes: &[u8]) -> Result<Self, DecodeError> {
        none("SignedBeaconBlock")
    }
    pub fn ssz_from_json(_fork: ForkName, _preset: &Preset, _json: &serde_json::Value) -> Result<Vec<u8>, DecodeError> {
        none("SignedBeaconBlock")
    }
}
pub fn sidecar_header(
    _fork: ForkName,
    _preset: &Preset,
    _kind: SidecarKind,
    _bytes: &[u8],
) -> Result<SignedBeaconBlockHeader, DecodeError> {
    none("BlobSidecar")
}
pub fn block_prefix(_bytes: &[u8]) -> Option<BlockPrefix> {
    None
}
