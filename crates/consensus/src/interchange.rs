//! EIP-3076: the file format in which validator clients exchange what a set of keys has signed.
//!
//! There are two forms. The *complete* form lists every message with the root that was signed. The
//! *minimal* form has only the highest slot, source and target of each key: at most one block and
//! one attestation. It means that the key must sign nothing at or below these values. The source
//! and the target of the minimal form can come from two different votes.
//!
//! Source: <https://eips.ethereum.org/EIPS/eip-3076>, format version 5.

use crate::{Epoch, PubkeyBytes, Root, Slot};
use serde::{Deserialize, Serialize};

/// The format version that is read and written. No other version is in use.
pub const FORMAT_VERSION: &str = "5";

/// An interchange file: the signing histories of keys on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interchange {
    pub metadata: InterchangeMetadata,
    /// A key may occur more than once. Then all its entries count together.
    pub data: Vec<SigningHistory>,
}

/// Format version and network of an interchange file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterchangeMetadata {
    pub interchange_format_version: String,
    pub genesis_validators_root: Root,
}

/// The messages that one key has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningHistory {
    pub pubkey: PubkeyBytes,
    pub signed_blocks: Vec<SignedSlot>,
    pub signed_attestations: Vec<SignedEpochs>,
}

/// A signed block: its slot, and optionally what was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignedSlot {
    pub slot: Slot,
    /// `compute_signing_root(block, domain)`. Optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
}

/// A signed attestation: its source and target epochs, and optionally what was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SignedEpochs {
    pub source_epoch: Epoch,
    pub target_epoch: Epoch,
    /// `compute_signing_root(attestation.data, domain)`. Optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_root: Option<Root>,
}

/// The reason why an interchange file is refused.
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
    /// Returns an empty file for a network.
    pub fn new(genesis_validators_root: Root) -> Self {
        let metadata = InterchangeMetadata { interchange_format_version: FORMAT_VERSION.into(), genesis_validators_root };
        Self { metadata, data: Vec::new() }
    }

    /// Reads a file. Checks that its format version is [`FORMAT_VERSION`] and that it belongs to
    /// the network with this genesis validators root.
    pub fn parse(json: &[u8], genesis_validators_root: Root) -> Result<Self, InterchangeError> {
        let file: Self = serde_json::from_slice(json)?;
        let InterchangeMetadata { interchange_format_version, genesis_validators_root: found } = &file.metadata;
        if interchange_format_version != FORMAT_VERSION {
            return Err(InterchangeError::Version { found: interchange_format_version.clone() });
        }
        if *found != genesis_validators_root {
            return Err(InterchangeError::OtherNetwork { found: *found, wanted: genesis_validators_root });
        }
        Ok(file)
    }

    /// Returns the minimal form of the file.
    pub fn minimal(&self) -> Self {
        Self { metadata: self.metadata.clone(), data: self.data.iter().map(SigningHistory::minimal).collect() }
    }
}

impl SigningHistory {
    /// Returns only the highest slot, source and target. The result has no signing roots, because
    /// its values can come from several messages.
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
