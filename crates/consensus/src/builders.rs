//! Messages that Gloas (EIP-7732) adds and that are signed but not slashable: votes on whether a
//! payload came in time, and bids of builders.
//!
//! Source: consensus-specs, gloas/beacon-chain.md and gloas/p2p-interface.md.

use crate::ssz_schema::{Catalogue, SszView};
use crate::{BuilderIndex, DecodeError, ForkName, Gwei, Preset, Root, SignatureBytes, Slot, ValidatorIndex};
use serde::Serialize;

/// The vote of a member of the payload-timeliness committee (PTC) about one slot. Each member sends
/// one vote for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PayloadAttestationData {
    pub beacon_block_root: Root,
    pub slot: Slot,
    pub payload_present: bool,
    pub blob_data_available: bool,
}

/// `PayloadAttestationMessage` of the specification: a vote of one PTC member with its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadAttestationMessage {
    pub validator_index: ValidatorIndex,
    pub data: PayloadAttestationData,
    /// Hash-tree-root of `data`. The signature is over this root.
    pub data_root: Root,
    pub signature: SignatureBytes,
}

impl PayloadAttestationMessage {
    /// Length of its SSZ in bytes.
    pub const SSZ_LEN: usize = 146;

    /// Decodes the SSZ and hashes `data`.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        let catalogue = Catalogue::of(fork, preset);
        let view = catalogue.get("PayloadAttestationMessage")?.validate(bytes)?;
        let data = view.need("data")?;
        Ok(Self {
            validator_index: ValidatorIndex::new(view.need("validator_index")?.as_u64()),
            data: PayloadAttestationData {
                beacon_block_root: data.need("beacon_block_root")?.as_root(),
                slot: Slot::new(data.need("slot")?.as_u64()),
                payload_present: is_true(&data.need("payload_present")?),
                blob_data_available: is_true(&data.need("blob_data_available")?),
            },
            data_root: data.hash_tree_root(),
            signature: SignatureBytes::from(view.need("signature")?.as_array::<96>()),
        })
    }
}

/// A builder's bid. Only the fields that distinguish it from other bids are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PayloadBid {
    pub builder_index: BuilderIndex,
    pub slot: Slot,
    pub parent_block_hash: Root,
    pub parent_block_root: Root,
    pub block_hash: Root,
    pub value: Gwei,
}

/// `SignedExecutionPayloadBid` of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedPayloadBid {
    pub message: PayloadBid,
    /// Hash-tree-root of the whole `ExecutionPayloadBid`, including the fields that are not kept
    /// here. The signature is over this root.
    pub root: Root,
    pub signature: SignatureBytes,
}

impl SignedPayloadBid {
    /// Decodes the SSZ and hashes the bid.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        let catalogue = Catalogue::of(fork, preset);
        let view = catalogue.get("SignedExecutionPayloadBid")?.validate(bytes)?;
        let bid = view.need("message")?;
        let root = |name| bid.need(name).map(|field| field.as_root());
        let number = |name| bid.need(name).map(|field| field.as_u64());
        Ok(Self {
            message: PayloadBid {
                builder_index: BuilderIndex::new(number("builder_index")?),
                slot: Slot::new(number("slot")?),
                parent_block_hash: root("parent_block_hash")?,
                parent_block_root: root("parent_block_root")?,
                block_hash: root("block_hash")?,
                value: Gwei::new(number("value")?),
            },
            root: bid.hash_tree_root(),
            signature: SignatureBytes::from(view.need("signature")?.as_array::<96>()),
        })
    }
}

fn is_true(boolean: &SszView<'_, '_>) -> bool {
    boolean.bytes() == [1]
}
