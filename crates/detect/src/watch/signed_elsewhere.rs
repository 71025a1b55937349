//! `signed_elsewhere`, critical: a vote or block of a watched key was seen, and the signing record
//! of its client lacks it. The scheduled audit of a group's files finds it.
//!
//! **False alarms considered.** A message that was signed after the record was exported: only
//! epochs before the newest one of the record are compared, or those two epochs before the file was
//! written. A file that was copied later than it was exported, without its time, looks newer than
//! it is. Messages that are older than the record of a client that prunes are no alarm; neither are
//! those of keys whose record was not looked for.

use crate::monitor::{Details, SingleAnomaly};
use consensus::interchange::SignedEpochs;
use consensus::{Root, Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use verify::Arrival;

#[derive(Serialize, Deserialize)]
pub(crate) struct SignedElsewhereDetails {
    /// `vote` or `block`.
    signed: String,
    /// Source and target of a vote. They are strings, as all numbers of the specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epochs: Option<SignedEpochs>,
    signing_root: Root,
    /// Whether any file has a record of this key.
    in_file: bool,
    groups: Vec<String>,
}

impl Details for SignedElsewhereDetails {
    const KIND: Kind = Kind::SignedElsewhere;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { signed, in_file, .. } = self;
        match in_file {
            true => format!("A {signed} of a watched key was seen, and the signing record of its client does not have it"),
            false => format!("A {signed} of a watched key was seen, and no client has a signing record of this key"),
        }
    }
}

/// A message of a watched key that no record has.
#[derive(Clone, Debug)]
pub struct SignedElsewhere {
    pub validator: ValidatorIndex,
    pub slot: Slot,
    /// Source and target if it is a vote; `None` for a block.
    pub epochs: Option<SignedEpochs>,
    pub signing_root: Root,
    /// Whether any file has a record of this key.
    pub in_file: bool,
    pub groups: Vec<String>,
    pub arrival: Arrival,
}

impl From<SignedElsewhere> for SingleAnomaly {
    fn from(found: SignedElsewhere) -> Self {
        let SignedElsewhere { validator, slot, epochs, signing_root, in_file, groups, arrival } = found;
        let signed = if epochs.is_some() { "vote" } else { "block" };
        let details = SignedElsewhereDetails { signed: signed.into(), epochs, signing_root, in_file, groups };
        Self {
            what: details.into(),
            key: format!("{validator} {signing_root}"),
            severity: Severity::Critical,
            slot,
            validator: Some(validator),
            first_seen: arrival.at,
            second_seen: None,
            sources: vec![arrival.source.label().to_owned()],
        }
    }
}
