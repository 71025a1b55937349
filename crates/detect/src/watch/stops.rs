//! What is said of the orders of kill switches. The orders are given, and these findings made, by
//! `actions::killswitch`, beside the engine. Here are their details and sentences only.
//!
//! - `kill_switch_failed`: an order did not stop all that it should. It is over when a later attempt
//!   did, or when the keys are silent.
//! - `signs_after_stop`: a key of the group signed something new after an order that was done. It is
//!   over after two silent epochs.
//! - `proof_not_confirmed`: `verify-proof` did not find the proof genuine before an order, or could
//!   not be asked.
//!
//! **False alarms considered.** A message that was signed before the stop and comes late: only
//! messages for a slot more than an epoch after the stop count. A message that was signed ahead of
//! its time and comes again when its slot does ([`KeyRecord`](super::record::KeyRecord)), or comes
//! only then: messages for two different slots are needed. Silence
//! that is our own deafness: epochs count only if the whole network was heard in them.

use crate::monitor::Details;
use consensus::{Root, Slot, ValidatorIndex};
use evidence::Kind;
use serde::{Deserialize, Serialize};

/// An order did not stop all that it should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KillSwitchFailedDetails {
    pub group: String,
    /// The labels of the group. Alert routes with labels select by these.
    pub labels: Vec<String>,
    /// The finding that caused the order.
    pub finding: Root,
    /// Number of attempts so far.
    pub attempts: u32,
}

impl Details for KillSwitchFailedDetails {
    const KIND: Kind = Kind::KillSwitchFailed;

    fn sentence(&self, _validators: Option<u64>) -> String {
        format!("The kill switch of group {} did not stop all that it should: stop the validator clients by hand", self.group)
    }
}

/// Keys of a group sign after the stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignsAfterStopDetails {
    pub group: String,
    pub labels: Vec<String>,
    /// The finding that caused the order.
    pub finding: Root,
    /// Slot of the first message that was signed after the stop.
    pub since: Slot,
    /// Some of the keys.
    pub validators: Vec<ValidatorIndex>,
    pub keys_signing: u64,
}

impl Details for SignsAfterStopDetails {
    const KIND: Kind = Kind::SignsAfterStop;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { group, since, validators, keys_signing, .. } = self;
        let names: Vec<String> = validators.iter().map(ToString::to_string).collect();
        let more = keys_signing.saturating_sub(validators.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let verb = if *keys_signing == 1 { "signs" } else { "sign" };
        format!("Of group {group} {}{more} still {verb} since slot {since}, after the stop", names.join(", "))
    }
}

/// Another implementation did not confirm the proof that an order is based on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProofNotConfirmedDetails {
    pub group: String,
    pub labels: Vec<String>,
    /// The finding with the proof.
    pub finding: Root,
    /// `not_genuine`: nothing was stopped. `not_checked`: the stop went ahead.
    pub outcome: ProofOutcome,
    pub reason: String,
}

/// What the second check of a proof gave, if not that it is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofOutcome {
    NotGenuine,
    NotChecked,
}

impl Details for ProofNotConfirmedDetails {
    const KIND: Kind = Kind::ProofNotConfirmed;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { group, reason, .. } = self;
        match self.outcome {
            ProofOutcome::NotGenuine => {
                format!(
                    "The second check says that the proof is not genuine, so the kill switch of group {group} stopped nothing ({reason})"
                )
            }
            ProofOutcome::NotChecked => {
                format!("The kill switch of group {group} stopped its clients without the second check of the proof ({reason})")
            }
        }
    }
}
