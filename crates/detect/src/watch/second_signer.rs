//! `second_signer`, critical: a watched key contradicted itself. Two machines sign with it, or one
//! machine lost its signing history. Reported once per key.
//!
//! **False alarms considered.** A key whose clock was ahead contradicts what it signed then: this
//! is one signer with a wrong clock and no second signer; it is reported as `clock_skew` and as an
//! offence.

use super::{Label, Labels};
use crate::monitor::facts::DISPARITY_NS;
use crate::monitor::{Details, Offender, SingleAnomaly};
use consensus::{AttesterSlashing, Epoch, Network, Root, Slot, ValidatorIndex};
use evidence::{Evidence, EvidenceKind, Finding, Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use verify::Time;

/// Number of epochs that are remembered of a key whose clock was ahead.
const MAX_AHEAD: usize = 64;

#[derive(Serialize, Deserialize)]
pub(crate) struct SecondSignerDetails {
    offence: Kind,
    /// Id of the offence's finding.
    finding: Root,
    /// Milliseconds between the arrivals of the two messages.
    apart_ms: Option<u64>,
    groups: Vec<String>,
    watched_keys_with_the_same_label: BTreeMap<String, usize>,
}

impl Details for SecondSignerDetails {
    const KIND: Kind = Kind::SecondSigner;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let offence = self.offence.words();
        format!("A watched key contradicted itself ({offence}): two machines sign with it, or one that lost its memory")
    }
}

/// The watched keys for which a second signer was reported, and those whose clock was ahead.
#[derive(Default)]
pub(super) struct SecondSigners {
    /// Each further offence of such a key is a finding of its own, but no second signer is reported
    /// again.
    reported: BTreeSet<ValidatorIndex>,
    /// The epochs for which a key signed something before its slot had begun. Only the highest ones
    /// are kept.
    signed_ahead: HashMap<ValidatorIndex, BTreeSet<Epoch>>,
}

impl SecondSigners {
    /// Forgets the keys that are not watched any more.
    pub fn set(&mut self, labels: &Labels) {
        self.reported.retain(|validator| labels.is_watched(*validator));
        self.signed_ahead.retain(|validator, _| labels.is_watched(*validator));
    }

    /// Remembers that a key signed something for a slot that had not begun when it arrived. Returns
    /// whether the signature may be one that came before, when its slot had not begun.
    pub fn note_signature(&mut self, validator: ValidatorIndex, slot: Slot, at: Time, network: &Network) -> bool {
        let epoch = slot.epoch(network.preset());
        if !is_ahead(slot, at, network) {
            return self.signed_ahead.get(&validator).is_some_and(|epochs| epochs.contains(&epoch));
        }
        let epochs = self.signed_ahead.entry(validator).or_default();
        let is_new = epochs.insert(epoch);
        if epochs.len() > MAX_AHEAD {
            epochs.pop_first();
        }
        !is_new
    }

    /// Returns the anomaly of a watched key that contradicted itself for the first time.
    pub fn check(&mut self, offender: &Offender, labels: &Labels, network: &Network) -> Option<SingleAnomaly> {
        let finding = &offender.finding;
        let validator = finding.validator.as_ref()?.index;
        if !labels.is_watched(validator)
            || self.is_wrong_clock(finding, Some(&offender.evidence), validator, network)
            || !self.reported.insert(validator)
        {
            return None;
        }
        let n_watched = |label: &Label| labels.watched().filter(|(_, set)| set.labels.contains(label)).count();
        let with_same_label = labels.of(validator).iter().map(|label| (label.to_string(), n_watched(label)));
        let details = SecondSignerDetails {
            offence: finding.kind.clone(),
            finding: finding.id,
            apart_ms: finding.second_seen.map(|second| second.since(finding.first_seen).as_millis() as u64),
            groups: labels.group_names(validator),
            watched_keys_with_the_same_label: with_same_label.collect(),
        };
        Some(SingleAnomaly {
            what: details.into(),
            key: validator.to_string(),
            severity: Severity::Critical,
            slot: finding.slot,
            validator: Some(validator),
            first_seen: Time(finding.first_seen.as_unix_ns()),
            second_seen: finding.second_seen.map(|second| Time(second.as_unix_ns())),
            sources: finding.sources.clone(),
        })
    }

    /// Takes over a finding of an earlier run, which reported it. Only findings are left of that
    /// run. So a key whose clock was ahead may count as reported.
    pub fn recall(
        &mut self,
        finding: &Finding,
        proof_of: impl FnOnce() -> Option<std::sync::Arc<Evidence>>,
        labels: &Labels,
        network: &Network,
    ) {
        let Some(validator) = finding.validator.as_ref().map(|subject| subject.index) else { return };
        if labels.get(validator).is_some()
            && !self.reported.contains(&validator)
            && !self.is_wrong_clock(finding, proof_of().as_deref(), validator, network)
        {
            self.reported.insert(validator);
        }
    }

    /// Whether one of the two messages was signed with a clock that was ahead. If so, the signer
    /// contradicted that message when its clock was right again.
    fn is_wrong_clock(
        &self,
        finding: &Finding,
        evidence: Option<&Evidence>,
        validator: ValidatorIndex,
        network: &Network,
    ) -> bool {
        // Both messages had arrived by this time.
        let both_by = Time(finding.second_seen.unwrap_or(finding.first_seen).as_unix_ns());
        let attestations = evidence.filter(|evidence| evidence.kind == EvidenceKind::AttesterSlashing);
        let slots = match attestations.and_then(|evidence| AttesterSlashing::data_in_ssz(&evidence.ssz)) {
            Some(data) => data.map(|data| data.slot),
            None => [finding.slot; 2],
        };
        let ahead = self.signed_ahead.get(&validator);
        let was_ahead = |slot: Slot| ahead.is_some_and(|epochs| epochs.contains(&slot.epoch(network.preset())));
        slots.into_iter().any(|slot| is_ahead(slot, both_by, network) || was_ahead(slot))
    }
}

/// Whether a message for `slot` that arrived at `at` came before its slot, by more than clocks may
/// differ.
fn is_ahead(slot: Slot, at: Time, network: &Network) -> bool {
    slot > network.slot_at(at.0.saturating_add(DISPARITY_NS))
}
