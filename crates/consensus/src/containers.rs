//! The signed objects, without type parameters. Fixed-size ones derive SSZ and hash-tree-root; those whose bounds depend
//! on fork and preset are read through [`crate::ssz_schema`].

use crate::{CommitteeIndex, Epoch, Root, Slot, ValidatorIndex};
use alloy_primitives::FixedBytes;
use serde::{Deserialize, Serialize};
use ssz::BitList;
use ssz_derive::{Decode, Encode};
use tree_hash::TreeHash as _;
use tree_hash_derive::TreeHash;

/// A compressed BLS public key, unchecked.
pub type PubkeyBytes = FixedBytes<48>;
/// An address of the execution layer.
pub type ExecutionAddress = FixedBytes<20>;
/// A compressed BLS signature, unchecked.
pub type SignatureBytes = FixedBytes<96>;
/// Bits of an aggregate: one committee before Electra, up to a slot's committees after. The bound here is the greatest of
/// all presets; the preset's own is checked when decoding.
pub type AggregationBits = BitList<typenum::U131072>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, TreeHash, Serialize, Deserialize)]
pub struct Checkpoint {
    pub epoch: Epoch,
    pub root: Root,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, TreeHash, Serialize, Deserialize)]
pub struct AttestationData {
    pub slot: Slot,
    /// Committee index before Electra, 0 from Electra, payload status (0 or 1) from Gloas. Always signed.
    pub index: CommitteeIndex,
    pub beacon_block_root: Root,
    pub source: Checkpoint,
    pub target: Checkpoint,
}

impl AttestationData {
    /// Length of its SSZ.
    pub const SSZ_LEN: usize = 128;

    /// Hash-tree-root, the name under which votes are compared.
    pub fn root(&self) -> Root {
        self.tree_hash_root()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, TreeHash, Serialize, Deserialize)]
pub struct BeaconBlockHeader {
    pub slot: Slot,
    pub proposer_index: ValidatorIndex,
    pub parent_root: Root,
    pub state_root: Root,
    pub body_root: Root,
}

impl BeaconBlockHeader {
    /// Hash-tree-root, which is the block's root.
    pub fn root(&self) -> Root {
        self.tree_hash_root()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct SignedBeaconBlockHeader {
    pub message: BeaconBlockHeader,
    pub signature: SignatureBytes,
}

/// One vote on a subnet from Electra on. `committee_index` is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SingleAttestation {
    pub committee_index: CommitteeIndex,
    pub attester_index: ValidatorIndex,
    pub data: AttestationData,
    pub signature: SignatureBytes,
}

impl SingleAttestation {
    /// Length of its SSZ.
    pub const SSZ_LEN: usize = 240;
}

/// An attestation by bits. `committee_bits` is `None` before Electra (then `data.index` names the committee).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    pub aggregation_bits: AggregationBits,
    pub data: AttestationData,
    pub committee_bits: Option<u64>,
    pub signature: SignatureBytes,
}

/// An attestation by validator indices: ascending and unique in valid ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedAttestation {
    pub attesting_indices: Vec<ValidatorIndex>,
    pub data: AttestationData,
    pub signature: SignatureBytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttesterSlashing {
    pub attestation_1: IndexedAttestation,
    pub attestation_2: IndexedAttestation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ProposerSlashing {
    pub signed_header_1: SignedBeaconBlockHeader,
    pub signed_header_2: SignedBeaconBlockHeader,
}

/// `SignedAggregateAndProof`, flattened. Its two outer signatures matter for forwarding, not for accusing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAggregate {
    pub aggregator_index: ValidatorIndex,
    pub aggregate: Attestation,
    pub selection_proof: SignatureBytes,
    pub signature: SignatureBytes,
    /// Hash-tree-root of the `AggregateAndProof`, which the aggregator signed.
    pub message_root: Root,
}

/// What is kept of a `SignedBeaconBlock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBlock {
    /// Header with the body's hash-tree-root, and the proposer's signature over it.
    pub signed_header: SignedBeaconBlockHeader,
    /// Root of the block.
    pub root: Root,
    pub randao_reveal: SignatureBytes,
    pub graffiti: [u8; 32],
    /// Who gets the fees: of the payload, from Gloas on of the bid. `None` before Bellatrix.
    pub fee_recipient: Option<ExecutionAddress>,
    pub attestations: Vec<Attestation>,
    pub attester_slashings: Vec<AttesterSlashing>,
    pub proposer_slashings: Vec<ProposerSlashing>,
    /// Who asks to leave.
    pub voluntary_exits: Vec<ValidatorIndex>,
    pub registry_change: RegistryChange,
}

/// Whether a block carries operations that add validators or move activation and exit epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryChange {
    None,
    Possible,
}

/// A validator's record in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, TreeHash)]
pub struct Validator {
    pub pubkey: PubkeyBytes,
    pub withdrawal_credentials: Root,
    pub effective_balance: crate::Gwei,
    pub slashed: bool,
    pub activation_eligibility_epoch: Epoch,
    pub activation_epoch: Epoch,
    pub exit_epoch: Epoch,
    pub withdrawable_epoch: Epoch,
}

impl Validator {
    /// Length of its SSZ.
    pub const SSZ_LEN: usize = 121;

    /// `is_active_validator`.
    pub fn is_active(&self, epoch: Epoch) -> bool {
        self.activation_epoch <= epoch && epoch < self.exit_epoch
    }

    /// `is_slashable_validator`.
    pub fn is_slashable(&self, epoch: Epoch) -> bool {
        !self.slashed && self.activation_epoch <= epoch && epoch < self.withdrawable_epoch
    }
}
