//! Inclusion lists (Heze, EIP-7805).
//!
//! Sixteen validators of each slot sign which transactions the next payload has to include. A
//! validator that signs two different lists cannot be slashed for it. Nodes forward both lists and
//! then ignore both.
//!
//! Source: consensus-specs, heze/beacon-chain.md and heze/p2p-interface.md.

use crate::ssz_schema::Catalogue;
use crate::{DecodeError, ForkName, Preset, Root, SignatureBytes, Slot, ValidatorIndex};

/// Maximum total size in bytes of the transactions of one list.
pub const MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST: usize = 8192;
/// Maximum size in bytes of a `SignedInclusionList`. It is reached with 8192 transactions of one
/// byte: each takes 1 byte and an offset of 4 bytes, after a head of `HEAD_LEN` bytes.
pub const MAX_SIGNED_INCLUSION_LIST_SIZE: usize = 41_112;

/// Number of bytes before the transactions: offset 4 and signature 96, then slot 8, validator 8,
/// root 32, offset 4.
const HEAD_LEN: usize = 152;

/// An inclusion list without its transactions. The transactions are only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InclusionList {
    pub slot: Slot,
    pub validator_index: ValidatorIndex,
    /// The block that determines the slot's committees on the signer's branch.
    pub dependent_root: Root,
    pub n_transactions: usize,
    /// Total size of all transactions in bytes.
    pub transactions_bytes: usize,
}

/// `SignedInclusionList` of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedInclusionList {
    pub message: InclusionList,
    /// Hash-tree-root of the whole `InclusionList`. The signature is over this root.
    pub root: Root,
    pub signature: SignatureBytes,
}

impl SignedInclusionList {
    /// Decodes the SSZ and hashes the list.
    ///
    /// # Errors
    ///
    /// The SSZ is malformed, or the transactions have more than
    /// [`MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST`] bytes together. Every node refuses such a
    /// list.
    pub fn from_ssz(fork: ForkName, preset: &Preset, bytes: &[u8]) -> Result<Self, DecodeError> {
        const NAME: &str = "SignedInclusionList";
        if bytes.len() > MAX_SIGNED_INCLUSION_LIST_SIZE {
            let reason = format!("{} bytes where {MAX_SIGNED_INCLUSION_LIST_SIZE} are allowed", bytes.len());
            return Err(DecodeError::new(NAME, "", 0, reason));
        }
        let catalogue = Catalogue::of(fork, preset);
        let view = catalogue.get(NAME)?.validate(bytes)?;
        let list = view.need("message")?;
        let transactions = list.need("transactions")?;
        let transactions_bytes: usize = transactions.elements().map(|transaction| transaction.len()).sum();
        if transactions_bytes > MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST {
            let allowed = MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST;
            let reason = format!("{transactions_bytes} bytes of transactions where {allowed} are allowed");
            return Err(DecodeError::new(NAME, "message.transactions", HEAD_LEN, reason));
        }
        Ok(Self {
            message: InclusionList {
                slot: Slot::new(list.need("slot")?.as_u64()),
                validator_index: ValidatorIndex::new(list.need("validator_index")?.as_u64()),
                dependent_root: list.need("dependent_root")?.as_root(),
                n_transactions: transactions.len(),
                transactions_bytes,
            },
            root: list.hash_tree_root(),
            signature: SignatureBytes::from(view.need("signature")?.as_array::<96>()),
        })
    }
}
