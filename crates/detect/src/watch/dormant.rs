//! `dormant_key_signed`, critical: a key that should be silent, or that has exited, signed
//! something for a slot after that.
//!
//! **False alarms considered.** An old message of a dormant key that arrives now: only slots since
//! the key should be silent count. A late message about the time before an exit has a smaller epoch
//! than the exit.

use super::{Labels, WatchedKeysConfig};
use crate::monitor::{Details, DetectorView, SingleAnomaly};
use consensus::{Epoch, Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use verify::FirstSeen;

#[derive(Serialize, Deserialize)]
pub(crate) struct DormantKeySignedDetails {
    /// The duty of the key, or that it has exited.
    duty: Cow<'static, str>,
    /// `vote` or `block`.
    signed: Cow<'static, str>,
    silent_since_slot: Slot,
    groups: Vec<String>,
}

impl Details for DormantKeySignedDetails {
    const KIND: Kind = Kind::DormantKeySigned;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { duty, signed, silent_since_slot, .. } = self;
        format!("A key that should be silent since slot {silent_since_slot} ({duty}) signed a {signed}")
    }
}

/// A signature of a watched key.
pub(super) struct WatchedSignature<'a> {
    pub validator: ValidatorIndex,
    /// The slot that it is about, and the epoch that decides whether the key had exited.
    pub slot: Slot,
    pub epoch: Epoch,
    pub first_seen: &'a FirstSeen,
    /// `vote` or `block`.
    pub what: &'static str,
}

/// The keys that should be silent, and what was reported about them.
#[derive(Default)]
pub(super) struct DormantKeys {
    /// The slot since which each dormant key should be silent.
    silent_since: HashMap<ValidatorIndex, Slot>,
    /// The slot of the signature that was last reported, by key.
    reported: HashMap<ValidatorIndex, Slot>,
}

impl DormantKeys {
    /// Takes over which keys should be silent. A key that becomes dormant now should be silent from
    /// `now` on.
    pub fn set(&mut self, labels: &Labels, now: Slot) {
        let known = std::mem::take(&mut self.silent_since);
        let dormant = labels.watched().filter(|(_, set)| set.duty.is_dormant()).map(|(validator, _)| validator);
        self.silent_since = dormant.map(|validator| (validator, known.get(&validator).copied().unwrap_or(now))).collect();
        self.reported.retain(|validator, _| labels.is_watched(*validator));
    }

    /// Returns the anomaly if the signer should be silent, and none was reported for a while.
    pub fn check(
        &mut self,
        signature: &WatchedSignature<'_>,
        config: &WatchedKeysConfig,
        labels: &Labels,
        view: &DetectorView<'_>,
    ) -> Option<SingleAnomaly> {
        let WatchedSignature { validator, slot, epoch, first_seen, what } = *signature;
        let preset = view.network().preset();
        let has_exited = view.chain.registry().record(validator).is_some_and(|record| record.exit_epoch <= epoch);
        let duty = labels.get(validator).map_or("", |set| set.duty.as_str());
        let (silent_since, duty) = match self.silent_since.get(&validator) {
            Some(since) => (*since, duty),
            None if has_exited => (epoch.start_slot(preset), "exited on chain"),
            None => return None,
        };
        let again = config.dormant_again_epochs.saturating_mul(preset.slots_per_epoch);
        let was_reported = self.reported.get(&validator).is_some_and(|last| slot < last.saturating_add(again));
        if slot < silent_since || was_reported {
            return None;
        }
        self.reported.insert(validator, slot);
        let details = DormantKeySignedDetails {
            duty: duty.into(),
            signed: what.into(),
            silent_since_slot: silent_since,
            groups: labels.group_names(validator),
        };
        Some(SingleAnomaly {
            what: details.into(),
            key: validator.to_string(),
            severity: Severity::Critical,
            slot,
            validator: Some(validator),
            first_seen: first_seen.at,
            second_seen: None,
            sources: vec![first_seen.source.label().to_owned()],
        })
    }
}
