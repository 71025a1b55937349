//! The numbers of `[watch]`, with their defaults: from which values on a condition of a watched key
//! is reported.

use crate::config::Problems;
use serde::{Deserialize, Serialize};

/// Thresholds of the [`WatchedKeysDetector`](super::WatchedKeysDetector).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchedKeysConfig {
    /// A key is reported when it missed this number of epochs in a row.
    pub missed_in_a_row: u32,
    /// The group's incident is over after this number of epochs without a further observation.
    pub missed_closes_after_epochs: u64,
    /// Number of keys of one label that must miss together, and come back together, to count as
    /// flapping.
    pub flapping_keys: u64,
    /// Percentage of the keys on duty that must miss for a slot to count as down. The same
    /// percentage must vote for it to count as up.
    pub flapping_percent: u64,
    /// A stretch without the keys that is longer than this number of epochs is an outage and no
    /// restart.
    pub flapping_longest_epochs: u64,
    /// The label's incident is over after this number of epochs without a further restart.
    pub flapping_closes_after_epochs: u64,
    /// A dormant key that continues to sign is reported again after this number of epochs.
    pub dormant_again_epochs: u64,
    /// If participation of the whole network, in percent, is below this, no missed duties are
    /// reported.
    pub network_percent: u64,
    /// If the received share of a slot's seats, in percent, is below this, no key counts as missing
    /// in that slot.
    pub slot_heard_percent: u64,
}

impl WatchedKeysConfig {
    /// Everything that is wrong with the thresholds, as pairs of path in the file and text.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut problems = Problems::of("watch", &mut found);
        problems.at_least("missed_in_a_row", self.missed_in_a_row.into(), 1);
        problems.at_least("flapping_keys", self.flapping_keys, 1);
        problems.between("flapping_percent", self.flapping_percent, 51, 100);
        problems.between("network_percent", self.network_percent, 0, 100);
        problems.between("slot_heard_percent", self.slot_heard_percent, 1, 100);
        // The misses of an epoch are reported a quarter into the next epoch. A shorter incident
        // would end between two reports.
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
