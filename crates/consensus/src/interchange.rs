//! EIP-3076: what a set of keys has signed, as validator clients hand it to each other.
//!
//! Two forms. The *complete* one lists every message with the root that was signed; the *minimal* one has the highest slot,
//! source and target only, and stands for "nothing at or below this": one block and one attestation per key, whose source and
//! target may come from two different votes.
//!
//! Source: <https://eips.ethereum.org/EIPS/eip-3076>, format version 5.

use crate::{Epoch, PubkeyBytes, Root, Slot};
use serde::{Deserialize, Serialize};

/// The only version there is in use.
pub const FORMAT_VERSION: &str = "5";

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interchange {
    pub metadata: Metadata,
    /// A key may stand in it more than once; then all of it counts.
    pub data: Vec<SigningHistory>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub interchange_format_version: String,
    pub genesis_validators_root: Root,
}

/// What one key has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningHistory {
    pub pubkey: PubkeyBytes,
    pub signed_blocks: Vec<SignedSlot>,
    pub signed_attestations: Vec<SignedEpochs>,
}

/// A signed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignedSlot {
    pub slot: Slot,
    /// `compute_signing_root(block, domain)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
}

/// A signed attestation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignedEpochs {
    pub source_epoch: Epoch,
    pub target_epoch: Epoch,
    /// `compute_signing_root(attestation.data, domain)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum InterchangeError {
    #[error("it is no EIP-3076 interchange file: {0}; export one with the validator client")]
    Json(#[from] serde_json::Error),
    #[error("its format version is {found:?}, known is {FORMAT_VERSION:?}; export it with a newer validator client")]
    Version { found: String },
    #[error(
        "it is of another network: genesis validators root {found}, this one has {wanted}; give the file of this network's keys"
    )]
    OtherNetwork { found: Root, wanted: Root },
}

impl Interchange {
    /// An empty file of a network.
    pub fn new(genesis_validators_root: Root) -> Self {
        let metadata = Metadata { interchange_format_version: FORMAT_VERSION.into(), genesis_validators_root };
        Self { metadata, data: Vec::new() }
    }

    /// Reads a file and checks that it is this network's.
    pub fn parse(json: &[u8], genesis_validators_root: Root) -> Result<Self, InterchangeError> {
        let file: Self = serde_json::from_slice(json)?;
        let Metadata { interchange_format_version, genesis_validators_root: found } = &file.metadata;
        if interchange_format_version != FORMAT_VERSION {
            return Err(InterchangeError::Version { found: interchange_format_version.clone() });
        }
        if *found != genesis_validators_root {
            return Err(InterchangeError::OtherNetwork { found: *found, wanted: genesis_validators_root });
        }
        Ok(file)
    }

    /// The minimal form.
    pub fn minimal(&self) -> Self {
        Self { metadata: self.metadata.clone(), data: self.data.iter().map(SigningHistory::minimal).collect() }
    }
}

impl SigningHistory {
    /// Highest slot, source and target only; without roots, because they belong to no single message.
    pub fn minimal(&self) -> Self {
        let slot = self.signed_blocks.iter().map(|block| block.slot).max();
        let source = self.signed_attestations.iter().map(|vote| vote.source_epoch).max();
        let target = self.signed_attestations.iter().map(|vote| vote.target_epoch).max();
        let epochs = source.zip(target).map(|(source_epoch, target_epoch)| SignedEpochs {
            source_epoch,
            target_epoch,
            signing_root: None,
        });
        Self {
            pubkey: self.pubkey,
            signed_blocks: slot.map(|slot| SignedSlot { slot, signing_root: None }).into_iter().collect(),
            signed_attestations: epochs.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"metadata":{"interchange_format_version":"5","genesis_validators_root":"0x0101010101010101010101010101010101010101010101010101010101010101"},
        "data":[{"pubkey":"0xabababababababababababababababababababababababababababababababababababababababababababababababab",
        "signed_blocks":[{"slot":"81952","signing_root":"0x0202020202020202020202020202020202020202020202020202020202020202"},{"slot":"81951"}],
        "signed_attestations":[{"source_epoch":"2290","target_epoch":"3007"},{"source_epoch":"2291","target_epoch":"3006"}]}]}"#;

    #[test]
    fn a_file_is_read_and_written_alike() {
        let network = Root::repeat_byte(1);
        let file = Interchange::parse(FILE.as_bytes(), network).unwrap();
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(Interchange::parse(text.as_bytes(), network).unwrap(), file);
        assert!(text.contains(r#"{"slot":"81951"}"#), "no root stays no root: {text}");
        let minimal = file.minimal();
        let epochs = minimal.data[0].signed_attestations[0];
        assert_eq!((epochs.source_epoch, epochs.target_epoch), (Epoch::new(2291), Epoch::new(3007)), "of two different votes");
        assert_eq!(minimal.data[0].signed_blocks, [SignedSlot { slot: Slot::new(81952), signing_root: None }]);
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |text: &str, root| Interchange::parse(text.as_bytes(), root).unwrap_err().to_string();
        assert!(refused(FILE, Root::ZERO).contains("another network"));
        assert!(refused(&FILE.replace("\"5\"", "\"4\""), Root::repeat_byte(1)).contains("format version"));
        for junk in
            ["", "{}", "[]", "{\"metadata\":1}", &FILE.replace("2290", "-1"), &FILE.replace("2290", "99999999999999999999")]
        {
            assert!(refused(junk, Root::repeat_byte(1)).contains("EIP-3076"), "{junk}");
        }
    }
}
