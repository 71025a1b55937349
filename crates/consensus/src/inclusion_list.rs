//! Inclusion lists (Heze, EIP-7805): sixteen validators of each slot sign which transactions the next payload has to include. Two
//! different lists of one validator cannot be slashed for; nodes pass both on and then count neither.
//! Source: consensus-specs, heze/beacon-chain.md and heze/p2p-interface.md.

use crate::ssz_schema::Catalogue;
use crate::{DecodeError, ForkName, Preset, Root, SignatureBytes, Slot, ValidatorIndex};

/// Most bytes that a list's transactions have together.
pub const MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST: usize = 8192;
/// Most bytes of a `SignedInclusionList`: as many transactions of one byte, each with its offset, and [`HEAD_LEN`].
pub const MAX_SIGNED_INCLUSION_LIST_SIZE: usize = 41_112;

/// What stands before the transactions: offset 4 and signature 96, then slot 8, validator 8, root 32, offset 4.
const HEAD_LEN: usize = 152;

/// An inclusion list, without its transactions: they are counted and forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InclusionList {
    pub slot: Slot,
    pub validator_index: ValidatorIndex,
    /// The block that decides the slot's committees on the signer's branch.
    pub dependent_root: Root,
    pub n_transactions: usize,
    /// Of all transactions together.
    pub transactions_bytes: usize,
}

/// `SignedInclusionList`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedInclusionList {
    pub message: InclusionList,
    /// Hash-tree-root of the whole `InclusionList`, which is what is signed.
    pub root: Root,
    pub signature: SignatureBytes,
}

impl SignedInclusionList {
    /// Reads and hashes it. More than [`MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST`] is an error, as it is for every node.
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
