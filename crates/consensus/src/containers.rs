//! The signed messages of the specification, without type parameters.
//!
//! Containers of fixed size derive SSZ and hash-tree-root. Containers whose bounds depend on the
//! fork and the preset are decoded through [`crate::ssz_schema`].

use crate::{CommitteeIndex, Epoch, Root, Slot, ValidatorIndex};
use alloy_primitives::FixedBytes;
use serde::{Deserialize, Serialize};
use ssz::BitList;
use ssz_derive::{Decode, Encode};
use tree_hash::TreeHash as _;
use tree_hash_derive::TreeHash;

/// A compressed BLS public key. Nobody has checked that it is a valid point.
pub type PubkeyBytes = FixedBytes<48>;
/// An address of the execution layer.
pub type ExecutionAddress = FixedBytes<20>;
/// A compressed BLS signature. Nobody has checked that it is a valid point.
pub type SignatureBytes = FixedBytes<96>;
/// Aggregation bits: of one committee before Electra, of up to all committees of a slot from
/// Electra on. The bound of this type is the largest of all presets. Decoding checks the bound of
/// the preset.
pub type AggregationBits = BitList<typenum::U131072>;

/// `Checkpoint` of the specification: the first block of an epoch, by its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, TreeHash, Serialize, Deserialize)]
pub struct Checkpoint {
    pub epoch: Epoch,
    pub root: Root,
}

/// `AttestationData` of the specification: what a vote says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, TreeHash, Serialize, Deserialize)]
pub struct AttestationData {
    pub slot: Slot,
    /// The committee's index before Electra, 0 from Electra on, and the payload status (0 or 1)
    /// from Gloas on. It is part of what is signed in every fork.
    pub index: CommitteeIndex,
    pub beacon_block_root: Root,
    pub source: Checkpoint,
    pub target: Checkpoint,
}

impl AttestationData {
    /// Length of its SSZ in bytes.
    pub const SSZ_LEN: usize = 128;

    /// Hash-tree-root. Two votes are the same if their roots are equal.
    pub fn root(&self) -> Root {
        self.tree_hash_root()
    }
}

/// `BeaconBlockHeader` of the specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, TreeHash, Serialize, Deserialize)]
pub struct BeaconBlockHeader {
    pub slot: Slot,
    pub proposer_index: ValidatorIndex,
    pub parent_root: Root,
    pub state_root: Root,
    pub body_root: Root,
}

impl BeaconBlockHeader {
    /// Hash-tree-root. It is also the root of the block.
    pub fn root(&self) -> Root {
        self.tree_hash_root()
    }
}

/// `SignedBeaconBlockHeader` of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct SignedBeaconBlockHeader {
    pub message: BeaconBlockHeader,
    pub signature: SignatureBytes,
}

/// A vote of one validator on an attestation subnet, from Electra on. The signature covers `data`
/// only: `committee_index` is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SingleAttestation {
    pub committee_index: CommitteeIndex,
    pub attester_index: ValidatorIndex,
    pub data: AttestationData,
    pub signature: SignatureBytes,
}

impl SingleAttestation {
    /// Length of its SSZ in bytes.
    pub const SSZ_LEN: usize = 240;
}

/// An attestation that names its signers by bits. `committee_bits` is `None` before Electra; then
/// `data.index` names the committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    pub aggregation_bits: AggregationBits,
    pub data: AttestationData,
    pub committee_bits: Option<u64>,
    pub signature: SignatureBytes,
}

/// An attestation that names its signers by validator index. In a valid one the indices are
/// ascending and unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedAttestation {
    pub attesting_indices: Vec<ValidatorIndex>,
    pub data: AttestationData,
    pub signature: SignatureBytes,
}

/// `AttesterSlashing` of the specification: two attestations that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttesterSlashing {
    pub attestation_1: IndexedAttestation,
    pub attestation_2: IndexedAttestation,
}

/// `ProposerSlashing` of the specification: two headers of one proposer for one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ProposerSlashing {
    pub signed_header_1: SignedBeaconBlockHeader,
    pub signed_header_2: SignedBeaconBlockHeader,
}

/// `SignedAggregateAndProof`, flattened. Its two outer signatures (`selection_proof` and
/// `signature`) decide whether a node forwards it. They are not needed to prove an offence of an
/// attester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAggregate {
    pub aggregator_index: ValidatorIndex,
    pub aggregate: Attestation,
    pub selection_proof: SignatureBytes,
    pub signature: SignatureBytes,
    /// Hash-tree-root of the `AggregateAndProof`. The aggregator's signature is over this root.
    pub message_root: Root,
}

/// The parts of a `SignedBeaconBlock` that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBlock {
    /// The header, with the hash-tree-root of the body, and the proposer's signature over it.
    pub signed_header: SignedBeaconBlockHeader,
    /// Hash-tree-root of the block.
    pub root: Root,
    pub randao_reveal: SignatureBytes,
    pub graffiti: [u8; 32],
    /// Address that receives the fees: of the payload before Gloas, of the bid from Gloas on.
    /// `None` before Bellatrix.
    pub fee_recipient: Option<ExecutionAddress>,
    pub attestations: Vec<Attestation>,
    pub attester_slashings: Vec<AttesterSlashing>,
    pub proposer_slashings: Vec<ProposerSlashing>,
    /// The validators whose voluntary exits are in the block.
    pub voluntary_exits: Vec<ValidatorIndex>,
    pub registry_change: RegistryChange,
    /// The block's other operations that add validators or let them exit.
    pub registry_requests: RegistryRequests,
}

/// The deposits of a block and the requests of the execution layer that a block processes. From
/// Gloas on, a block processes the requests of its parent's payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryRequests {
    /// Deposits of the old kind (`Deposit`).
    pub deposits: Vec<DepositData>,
    /// `DepositRequest`, from Electra on, each with the number of the deposit.
    pub deposit_requests: Vec<(DepositData, u64)>,
    pub withdrawals: Vec<WithdrawalRequest>,
    pub consolidations: Vec<ConsolidationRequest>,
}

/// `DepositData` of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepositData {
    pub pubkey: PubkeyBytes,
    pub withdrawal_credentials: Root,
    pub amount: crate::Gwei,
    pub signature: SignatureBytes,
}

/// `WithdrawalRequest` of the specification. The amount 0 asks for the exit of the validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithdrawalRequest {
    pub source_address: ExecutionAddress,
    pub validator_pubkey: PubkeyBytes,
    pub amount: crate::Gwei,
}

/// `ConsolidationRequest` of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolidationRequest {
    pub source_address: ExecutionAddress,
    pub source_pubkey: PubkeyBytes,
    pub target_pubkey: PubkeyBytes,
}

/// States whether a block carries operations that can add validators or change their activation,
/// exit or withdrawable epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryChange {
    None,
    Possible,
}

/// `Validator` of the specification: a validator's record in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Encode, Decode, TreeHash)]
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
    /// Length of its SSZ in bytes.
    pub const SSZ_LEN: usize = 121;

    pub fn is_active(&self, epoch: Epoch) -> bool {
        is_active_validator(self.activation_epoch, self.exit_epoch, epoch)
    }

    /// `is_slashable_validator` of the specification.
    pub fn is_slashable(&self, epoch: Epoch) -> bool {
        !self.slashed && self.activation_epoch <= epoch && epoch < self.withdrawable_epoch
    }
}

/// `is_active_validator` of the specification. The epochs may be stored in any width.
pub fn is_active_validator<E: PartialOrd>(activation: E, exit: E, epoch: E) -> bool {
    activation <= epoch && epoch < exit
}
