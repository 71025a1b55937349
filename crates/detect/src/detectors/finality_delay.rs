//! `finality_delay`: checkpoints are no longer justified.
//!
//! What the network takes for justified is what its votes name as their source. In epoch n an ordinary vote's source is n - 1. If the
//! source that most votes name is `min_epochs` old, nothing was justified for so long; from five epochs without finality on the
//! inactivity leak takes stake from who does not vote (`MIN_EPOCHS_TO_INACTIVITY_PENALTY` = 4).
//!
//! **False alarms considered.** The first epochs after genesis, whose source is genesis (not before epoch `min_epochs` + 1); votes that
//! arrive late name older sources (the vote's own epoch counts, not its arrival's); a minority with an older source (most weight
//! counts); a single weak epoch (source three epochs old needs two in a row).

use crate::config::Problems;
use crate::monitor::{Detector, Sighting, Signal, View};
use consensus::{Checkpoint, Epoch, Slot};
use evidence::Severity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::BTreeMap;

pub const KIND: &str = "finality_delay";
/// `MIN_EPOCHS_TO_INACTIVITY_PENALTY`.
const LEAK_AFTER: u64 = 4;

/// `[detect.finality_delay]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FinalityDelayConfig {
    pub enabled: bool,
    pub min_epochs: u64,
    pub closes_after_epochs: u64,
}

impl Default for FinalityDelayConfig {
    fn default() -> Self {
        Self { enabled: true, min_epochs: 3, closes_after_epochs: 1 }
    }
}

impl FinalityDelayConfig {
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("min_epochs", self.min_epochs, 2);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
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
    fn slot_ended(&mut self, slot: Slot, view: &View<'_>, out: &mut Vec<Signal>) {
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
        // In an epoch that follows the last justified one everything was well.
        let since = source.epoch.saturating_add(2).start_slot(preset);
        let leak = age > LEAK_AFTER;
        let mut details = Map::new();
        details.insert("justified_epoch".into(), json!(source.epoch));
        details.insert("epochs_without_justification".into(), age.saturating_sub(1).into());
        details.insert("inactivity_leak".into(), json!(leak));
        details.insert("votes_with_this_source_percent".into(), (most * 100 / all.max(1)).into());
        details.insert("finalized_epoch_known".into(), json!(Epoch::min(view.chain.finalized().epoch, source.epoch)));
        out.push(Signal::Sighting(Sighting {
            kind: KIND,
            key: String::new(),
            slot,
            since,
            until: slot,
            severity: if leak { Severity::Critical } else { Severity::Warning },
            measure: age,
            validators: None,
            shared: Vec::new(),
            details,
            closes_after: self.config.closes_after_epochs * preset.slots_per_epoch,
        }));
    }
}
