//! Evidence: the fork's `AttesterSlashing` or `ProposerSlashing`, as a beacon node's pool accepts
//! it.
//!
//! Its id is the SHA-256 of its SSZ. Findings of many validators may share one piece of evidence,
//! because two contradicting aggregates accuse everyone who signed both.

use crate::{EvidenceRef, StoreError, replace_file};
use consensus::{ForkName, Root, ValidatorIndex};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use utoipa::ToSchema;

/// The operation that a piece of evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    AttesterSlashing,
    ProposerSlashing,
}

impl EvidenceKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttesterSlashing => "attester_slashing",
            Self::ProposerSlashing => "proposer_slashing",
        }
    }
}

/// A proof. Only [`Evidence::new`] creates it, so `id` is always the hash of `ssz`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evidence {
    /// SHA-256 of `ssz`.
    pub id: Root,
    pub kind: EvidenceKind,
    /// The `Eth-Consensus-Version` under which a node accepts it.
    pub fork: ForkName,
    /// The slashing operation in SSZ.
    pub ssz: Vec<u8>,
    /// The same object in the JSON of the beacon API.
    pub json: Value,
}

impl Evidence {
    /// Creates a piece of evidence and computes its id. `json` must be the same object as `ssz`.
    pub fn new(kind: EvidenceKind, fork: ForkName, ssz: Vec<u8>, json: Value) -> Self {
        Self { id: Root::from_slice(&Sha256::digest(&ssz)), kind, fork, ssz, json }
    }

    /// The accused validators, in ascending order: those who signed both votes, or the proposer.
    /// Empty if the JSON does not have the shape of its kind.
    pub fn accused(&self) -> Vec<ValidatorIndex> {
        let index = |value: &Value| value.as_str().and_then(|text| text.parse::<ValidatorIndex>().ok());
        let signers = |vote: &str| -> BTreeSet<ValidatorIndex> {
            let listed = self.json.pointer(&format!("/{vote}/attesting_indices")).and_then(Value::as_array);
            listed.into_iter().flatten().filter_map(index).collect()
        };
        match self.kind {
            EvidenceKind::AttesterSlashing => signers("attestation_1").intersection(&signers("attestation_2")).copied().collect(),
            EvidenceKind::ProposerSlashing => {
                self.json.pointer("/signed_header_1/message/proposer_index").and_then(index).into_iter().collect()
            }
        }
    }

    /// The reference that a finding carries.
    pub fn reference(&self) -> EvidenceRef {
        EvidenceRef { kind: self.kind, id: self.id, ssz: self.file_name("ssz"), json: self.file_name("json") }
    }

    /// The file name `0x<id>.<extension>`.
    pub fn file_name(&self, extension: &str) -> String {
        format!("{}.{extension}", self.id)
    }

    /// Writes `<id>.ssz` and `<id>.json` into `dir`, each whole or not at all. A file that is
    /// already there has the same content, because its name is its hash. It is left alone unless
    /// its length is wrong.
    pub fn write_to(&self, dir: &Path) -> Result<[PathBuf; 2], StoreError> {
        let mut json = serde_json::to_vec(&self.json).expect("a JSON value is always writable");
        json.push(b'\n');
        let write = |name: String, bytes: &[u8]| {
            let path = dir.join(name);
            write_once(&path, bytes).map_err(|source| StoreError::Export { path: path.clone(), source })?;
            Ok(path)
        };
        fs::create_dir_all(dir).map_err(|source| StoreError::Export { path: dir.into(), source })?;
        Ok([write(self.file_name("ssz"), &self.ssz)?, write(self.file_name("json"), &json)?])
    }

    /// The stored form: `kind u8 | fork u8 | length of the SSZ, u32 BE | SSZ | JSON`.
    pub(crate) fn to_stored(&self) -> Vec<u8> {
        let json = serde_json::to_vec(&self.json).expect("a JSON value is always writable");
        let mut bytes = Vec::with_capacity(6 + self.ssz.len() + json.len());
        bytes.push(match self.kind {
            EvidenceKind::AttesterSlashing => 0,
            EvidenceKind::ProposerSlashing => 1,
        });
        bytes.push(ForkName::ALL.iter().position(|fork| *fork == self.fork).expect("ALL has them all") as u8);
        bytes.extend_from_slice(&u32::try_from(self.ssz.len()).expect("slashings are under 10 MiB").to_be_bytes());
        bytes.extend_from_slice(&self.ssz);
        bytes.extend_from_slice(&json);
        bytes
    }

    /// Reads the form that [`Self::to_stored`] writes. `None` if it is damaged.
    pub(crate) fn from_stored(id: Root, bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(6)?;
        let kind = match head[0] {
            0 => EvidenceKind::AttesterSlashing,
            1 => EvidenceKind::ProposerSlashing,
            _ => return None,
        };
        let fork = *ForkName::ALL.get(usize::from(head[1]))?;
        let ssz_len = u32::from_be_bytes(head[2..6].try_into().ok()?) as usize;
        let (ssz, json) = rest.split_at_checked(ssz_len)?;
        let evidence = Self::new(kind, fork, ssz.to_vec(), serde_json::from_slice(json).ok()?);
        (evidence.id == id).then_some(evidence)
    }
}

/// Writes a file unless one with the same name and length exists. Such a file has the same content,
/// because names are hashes of the content.
fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64) {
        return Ok(());
    }
    replace_file(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn proof() -> Evidence {
        Evidence::new(EvidenceKind::ProposerSlashing, ForkName::Fulu, vec![7; 416], json!({"signed_header_1": {}}))
    }

    #[test]
    fn comes_back_from_its_stored_form_and_damage_shows() {
        let stored = proof().to_stored();
        assert_eq!(Evidence::from_stored(proof().id, &stored), Some(proof()));
        for cut in [0, 5, 6, 100, 421] {
            assert_eq!(Evidence::from_stored(proof().id, &stored[..cut]), None);
        }
        let mut flipped = stored;
        flipped[50] ^= 1;
        assert_eq!(Evidence::from_stored(proof().id, &flipped), None);
    }

    #[test]
    fn the_accused_signed_both() {
        let accused = |kind, json| Evidence::new(kind, ForkName::Fulu, vec![1], json).accused();
        let votes = |one: &[&str], other: &[&str]| json!({"attestation_1": {"attesting_indices": one}, "attestation_2": {"attesting_indices": other}});
        let both = accused(EvidenceKind::AttesterSlashing, votes(&["2", "10", "7"], &["10", "3", "2"]));
        assert_eq!(both, [2, 10].map(ValidatorIndex::new));
        let header = json!({"signed_header_1": {"message": {"proposer_index": "5"}}});
        assert_eq!(accused(EvidenceKind::ProposerSlashing, header.clone()), [ValidatorIndex::new(5)]);
        assert_eq!(accused(EvidenceKind::AttesterSlashing, header), []);
    }

    #[test]
    fn files_are_whole_and_named_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("deeper");
        // A partly written file of an earlier crash is replaced.
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join(proof().file_name("ssz")), b"torn").unwrap();
        let [ssz, json] = proof().write_to(&at).unwrap();
        assert_eq!(ssz, at.join(format!("{}.ssz", proof().id)));
        assert_eq!(fs::read(&ssz).unwrap(), proof().ssz);
        assert_eq!(fs::read(&json).unwrap(), b"{\"signed_header_1\":{}}\n");
        proof().write_to(&at).unwrap();
        assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "no partial files stay");
    }
}
