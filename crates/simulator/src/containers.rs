//! The containers that are signed and sent, as values to serialize: votes, aggregates, slashings,
//! headers and columns, by fork and preset.
//!
//! Source: consensus-specs `beacon-chain.md` and `p2p-interface.md` of each fork.

use crate::ssz::SszValue;
use consensus::{
    AttestationData, BeaconBlockHeader, Checkpoint, CommitteeIndex, ForkName, MAX_VALIDATORS_PER_COMMITTEE, Preset, Root,
    SignatureBytes, SignedBeaconBlockHeader, ValidatorIndex,
};

/// Votes as bits, independent of the format of a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VotesByBits {
    pub(crate) data: AttestationData,
    /// In ascending order. Before Electra there is exactly one, which is also in `data.index`.
    pub(crate) committees: Vec<CommitteeIndex>,
    /// The bits of all committees, one committee after the other.
    pub(crate) bits: Vec<bool>,
    /// The validators whose bits are set, in ascending order.
    pub(crate) signers: Vec<ValidatorIndex>,
    pub(crate) signature: SignatureBytes,
}

pub(crate) fn checkpoint(checkpoint: &Checkpoint) -> SszValue {
    SszValue::Container(vec![SszValue::u64(checkpoint.epoch.as_u64()), root(checkpoint.root)])
}

pub(crate) fn root(root: Root) -> SszValue {
    SszValue::bytes(root.as_slice())
}

pub(crate) fn signature(signature: &SignatureBytes) -> SszValue {
    SszValue::bytes(signature.as_slice())
}

fn data(data: &AttestationData) -> SszValue {
    SszValue::Container(vec![
        SszValue::u64(data.slot.as_u64()),
        SszValue::u64(data.index.as_u64()),
        root(data.beacon_block_root),
        checkpoint(&data.source),
        checkpoint(&data.target),
    ])
}

/// `Attestation`.
pub(crate) fn attestation(fork: ForkName, preset: &Preset, votes: &VotesByBits) -> SszValue {
    let bits = SszValue::VotesByBits { bits: votes.bits.clone(), limit: max_voters(fork, preset) };
    let mut fields = vec![bits, data(&votes.data), signature(&votes.signature)];
    if fork.has_single_attestations() {
        let mut named = vec![0u8; (preset.max_committees_per_slot as usize).div_ceil(8)];
        for committee in &votes.committees {
            let committee = committee.as_u64() as usize;
            named[committee / 8] |= 1 << (committee % 8);
        }
        fields.push(SszValue::Fixed(named));
    }
    SszValue::Container(fields)
}

/// `SingleAttestation`, from Electra on.
pub(crate) fn single_attestation(
    committee: CommitteeIndex,
    attester: ValidatorIndex,
    vote: &AttestationData,
    signed: &SignatureBytes,
) -> SszValue {
    SszValue::Container(vec![SszValue::u64(committee.as_u64()), SszValue::u64(attester.as_u64()), data(vote), signature(signed)])
}

/// `AggregateAndProof`, whose root the aggregator signs.
pub(crate) fn aggregate_and_proof(aggregator: ValidatorIndex, aggregate: SszValue, selection_proof: &SignatureBytes) -> SszValue {
    SszValue::Container(vec![SszValue::u64(aggregator.as_u64()), aggregate, signature(selection_proof)])
}

/// Any `Signed...` container: the message and the signature over its root.
pub(crate) fn signed(message: SszValue, over_it: &SignatureBytes) -> SszValue {
    SszValue::Container(vec![message, signature(over_it)])
}

/// `AttesterSlashing` of two votes.
pub(crate) fn attester_slashing(fork: ForkName, preset: &Preset, first: &VotesByBits, second: &VotesByBits) -> SszValue {
    let indexed = |votes: &VotesByBits| {
        SszValue::Container(vec![
            SszValue::u64_list(votes.signers.iter().map(|signer| signer.as_u64()), max_voters(fork, preset)),
            data(&votes.data),
            signature(&votes.signature),
        ])
    };
    SszValue::Container(vec![indexed(first), indexed(second)])
}

pub(crate) fn header(header: &BeaconBlockHeader) -> SszValue {
    SszValue::Container(vec![
        SszValue::u64(header.slot.as_u64()),
        SszValue::u64(header.proposer_index.as_u64()),
        root(header.parent_root),
        root(header.state_root),
        root(header.body_root),
    ])
}

/// `SignedBeaconBlockHeader`.
pub(crate) fn signed_header(block: &SignedBeaconBlockHeader) -> SszValue {
    signed(header(&block.message), &block.signature)
}

/// `ProposerSlashing` of two headers.
pub(crate) fn proposer_slashing(first: &SignedBeaconBlockHeader, second: &SignedBeaconBlockHeader) -> SszValue {
    SszValue::Container(vec![signed_header(first), signed_header(second)])
}

/// Fulu's `DataColumnSidecar` with an empty column. Only its signed header has a meaning here.
pub(crate) fn data_column_sidecar(index: u64, block: &SignedBeaconBlockHeader) -> SszValue {
    SszValue::Container(vec![
        SszValue::u64(index),
        SszValue::empty(crate::block::MAX_BLOB_COMMITMENTS_PER_BLOCK),
        SszValue::empty(crate::block::MAX_BLOB_COMMITMENTS_PER_BLOCK),
        SszValue::empty(crate::block::MAX_BLOB_COMMITMENTS_PER_BLOCK),
        signed_header(block),
        SszValue::zeros(4 * 32),
    ])
}

/// Greatest number of members of an attestation: one committee before Electra, all committees of a
/// slot from Electra on.
fn max_voters(fork: ForkName, preset: &Preset) -> u64 {
    if fork.has_single_attestations() { preset.max_validators_per_slot() } else { MAX_VALIDATORS_PER_COMMITTEE }
}
