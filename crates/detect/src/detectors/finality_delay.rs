//! `finality_delay`: checkpoints are no longer justified.
//!
//! The checkpoint that the network considers justified is the one that its votes name as source. In
//! epoch n an ordinary vote has the source n - 1. If the source that most votes name is
//! `min_epochs` old, nothing was justified for that long. From five epochs on, the inactivity leak
//! takes stake from validators that do not vote (`MIN_EPOCHS_TO_INACTIVITY_PENALTY` = 4).
//!
//! **False alarms considered.** The first epochs after genesis, whose source is genesis: nothing is
//! reported before epoch `min_epochs` + 1. Votes that arrive late name older sources: the vote's
//! own epoch counts, not that of its arrival. A minority with an older source: the source with the
//! most votes counts. A single weak epoch: a source is three epochs old only after two weak epochs
//! in a row.

use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Observation, Signal};
use consensus::{Checkpoint, Epoch, Slot};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `MIN_EPOCHS_TO_INACTIVITY_PENALTY`.
const LEAK_AFTER: u64 = 4;

/// `[detect.finality_delay]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FinalityDelayConfig {
    pub enabled: bool,
    /// Age in epochs of the source that most votes name, from which on a delay is reported.
    pub min_epochs: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for FinalityDelayConfig {
    fn default() -> Self {
        Self { enabled: true, min_epochs: 3, closes_after_epochs: 1 }
    }
}

impl DetectorConfig for FinalityDelayConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(FinalityDelay::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("min_epochs", self.min_epochs, 2);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct FinalityDelayDetails {
    justified_epoch: Epoch,
    epochs_without_justification: u64,
    inactivity_leak: bool,
    votes_with_this_source_percent: u64,
    finalized_epoch_known: Epoch,
}

impl Details for FinalityDelayDetails {
    const KIND: Kind = Kind::FinalityDelay;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let leak = if self.inactivity_leak { "; the inactivity leak runs" } else { "" };
        // The running epoch counts too.
        let epochs = self.epochs_without_justification.saturating_add(1);
        format!("Nothing was justified after epoch {} for {epochs} epochs{leak}", self.justified_epoch)
    }
}

pub(crate) struct FinalityDelay {
    config: FinalityDelayConfig,
}

impl FinalityDelay {
    pub(crate) fn new(config: FinalityDelayConfig) -> Self {
        Self { config }
    }
}

impl Detector for FinalityDelay {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let preset = view.network().preset();
        let epoch = slot.epoch(preset);
        if epoch.as_u64() <= self.config.min_epochs {
            return;
        }
        let start = epoch.start_slot(preset);
        let mut sources: BTreeMap<Checkpoint, u64> = BTreeMap::new();
        for (_, facts) in view.facts.last_slots(slot, slot.as_u64() - start.as_u64() + 1) {
            for tally in facts.tallies.iter().filter(|tally| tally.target.epoch == epoch) {
                *sources.entry(tally.source).or_default() += tally.voters;
            }
        }
        let Some((source, most)) = sources.iter().max_by_key(|(_, voters)| **voters) else { return };
        let age = epoch.as_u64().saturating_sub(source.epoch.as_u64());
        if age < self.config.min_epochs {
            return;
        }
        let all: u64 = sources.values().sum();
        // The epoch that follows the last justified one was normal, so the delay begins one epoch
        // later.
        let since = source.epoch.saturating_add(2).start_slot(preset);
        let leak = age > LEAK_AFTER;
        let details = FinalityDelayDetails {
            justified_epoch: source.epoch,
            epochs_without_justification: age.saturating_sub(1),
            inactivity_leak: leak,
            votes_with_this_source_percent: most * 100 / all.max(1),
            finalized_epoch_known: Epoch::min(view.chain.finalized().epoch, source.epoch),
        };
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since,
            until: slot,
            severity: if leak { Severity::Critical } else { Severity::Warning },
            measure: age,
            validators: None,
            shared: Vec::new(),
            closes_after: self.config.closes_after_epochs * preset.slots_per_epoch,
        }));
    }
}
