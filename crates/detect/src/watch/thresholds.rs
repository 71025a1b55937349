//! From when on something about a watched key is worth an alarm: the numbers of `[watch]`, with their defaults.

use crate::config::Problems;
use serde::{Deserialize, Serialize};

/// Thresholds of the [`WatchedKeysDetector`](super::WatchedKeysDetector).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchedKeysConfig {
    /// Epochs missed in a row from which on a key is reported.
    pub missed_in_a_row: u32,
    /// Epochs without a further sighting after which the group's incident is over.
    pub missed_closes_after_epochs: u64,
    /// Keys of one label that must miss together, and come back together, to be called flapping.
    pub flapping_keys: u64,
    /// Percent of the keys on duty that must miss for a slot to count as down; the same share must vote for it to be up.
    pub flapping_percent: u64,
    /// Longer stretches without them are outages, not restarts.
    pub flapping_longest_epochs: u64,
    /// Epochs without a further restart after which the label's incident is over.
    pub flapping_closes_after_epochs: u64,
    /// A dormant key that goes on signing is told again after so many epochs.
    pub dormant_again_epochs: u64,
    /// Below this participation of the whole network, in percent, nobody's misses are reported.
    pub network_percent: u64,
    /// Below this share of a slot's seats heard, in percent, nobody is missed in it.
    pub slot_heard_percent: u64,
}

impl WatchedKeysConfig {
    /// What is wrong with it: path in the file and text.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut problems = Problems::of("watch", &mut found);
        problems.at_least("missed_in_a_row", self.missed_in_a_row.into(), 1);
        problems.at_least("flapping_keys", self.flapping_keys, 1);
        problems.between("flapping_percent", self.flapping_percent, 51, 100);
        problems.between("network_percent", self.network_percent, 0, 100);
        problems.between("slot_heard_percent", self.slot_heard_percent, 1, 100);
        // An epoch's misses are told a quarter into the second epoch after it begins. A shorter
        // incident would end between two of them.
        problems.between("missed_closes_after_epochs", self.missed_closes_after_epochs, 2, 1_024);
        problems.between("flapping_longest_epochs", self.flapping_longest_epochs, 1, 1_024);
        problems.between("flapping_closes_after_epochs", self.flapping_closes_after_epochs, 1, 1_024);
        problems.between("dormant_again_epochs", self.dormant_again_epochs, 1, 100_000);
        found
    }
}

impl Default for WatchedKeysConfig {
    fn default() -> Self {
        Self {
            missed_in_a_row: 3,
            missed_closes_after_epochs: 2,
            flapping_keys: 5,
            flapping_percent: 80,
            flapping_longest_epochs: 16,
            flapping_closes_after_epochs: 32,
            dormant_again_epochs: 225,
            network_percent: 80,
            slot_heard_percent: 50,
        }
    }
}
