//! The incidents that a watcher must report about a scenario: which ones, from which slot on, and
//! how soon. The author of a scenario writes them, and they are compared with the reports of a
//! watcher, in a replay or live.

use crate::ground_truth::GroundTruth;
use consensus::Slot;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An incident that must be reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pub kind: String,
    /// The slot in which the incident begins.
    pub onset: u64,
    /// Greatest delay of the report, in slots.
    pub within: u64,
    #[serde(default)]
    pub seen: Seen,
}

/// Where an incident can be observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    #[default]
    Everywhere,
    /// The incident is about [`Peers`](crate::Peers), which exist only in captures. Live, the only
    /// peers are the few simulated nodes.
    InCaptures,
}

/// A report of a watcher: an incident with the slot in which it was opened, or an anomaly with its
/// own slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    pub kind: String,
    pub slot: Slot,
}

/// The comparison of a watcher's reports with the expected incidents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TruthComparison {
    pub found: Vec<(Expected, Slot)>,
    pub missed: Vec<Expected>,
    pub invented: Vec<Reported>,
}

impl TruthComparison {
    /// Whether every expected incident was reported in time, and no other.
    pub fn is_complete(&self) -> bool {
        self.missed.is_empty() && self.invented.is_empty()
    }
}

impl fmt::Display for TruthComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.found.len() + self.missed.len();
        write!(
            f,
            "incidents there were {total}, found {}, missed {}, false {}",
            self.found.len(),
            self.missed.len(),
            self.invented.len()
        )?;
        for (expected, slot) in &self.found {
            let after = slot.as_u64() - expected.onset;
            write!(f, "\n  found   {:<19} reported in slot {slot}, {after} after it began", expected.kind)?;
        }
        for expected in &self.missed {
            let last = expected.onset + expected.within;
            write!(f, "\n  MISSED  {:<19} was to be reported from slot {} to {last}", expected.kind, expected.onset)?;
        }
        for reported in &self.invented {
            write!(f, "\n  FALSE   {:<19} reported in slot {}", reported.kind, reported.slot)?;
        }
        Ok(())
    }
}

impl GroundTruth {
    /// Compares reports with the expected incidents. Every incident must be reported in time, and
    /// no other may be reported. A kind that is expected may not be reported before its onset. A
    /// kind in `may_follow` may not be reported before the first onset of all.
    pub fn compare(&self, reported: &[Reported]) -> TruthComparison {
        let mut comparison = TruthComparison::default();
        for expected in &self.incidents {
            let in_time = |reported: &&Reported| {
                reported.kind == expected.kind
                    && (expected.onset..=expected.onset + expected.within).contains(&reported.slot.as_u64())
            };
            match reported.iter().filter(in_time).min_by_key(|reported| reported.slot) {
                Some(first) => comparison.found.push((expected.clone(), first.slot)),
                None => comparison.missed.push(expected.clone()),
            }
        }
        let first = self.incidents.iter().map(|expected| expected.onset).min();
        for one in reported {
            let slot = one.slot.as_u64();
            let expected = self.incidents.iter().any(|expected| expected.kind == one.kind && expected.onset <= slot);
            let follows = self.may_follow.contains(&one.kind) && first.is_some_and(|first| first <= slot);
            if !expected && !follows {
                comparison.invented.push(one.clone());
            }
        }
        comparison
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(kind: &str, onset: u64, within: u64) -> Expected {
        Expected { kind: kind.to_owned(), onset, within, seen: Seen::Everywhere }
    }

    fn check(reported: &[(&str, u64)], missed: &[&str], invented: &[(&str, u64)]) {
        let truth = GroundTruth {
            incidents: vec![expected("wave", 10, 2), expected("split", 20, 5)],
            may_follow: vec!["reorg".to_owned()],
            ..GroundTruth::default()
        };
        let reported: Vec<Reported> =
            reported.iter().map(|(kind, slot)| Reported { kind: (*kind).to_owned(), slot: Slot::new(*slot) }).collect();
        let comparison = truth.compare(&reported);
        assert_eq!(comparison.missed.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>(), missed);
        let found: Vec<_> = comparison.invented.iter().map(|one| (one.kind.as_str(), one.slot.as_u64())).collect();
        assert_eq!(found, invented);
        assert_eq!(comparison.is_complete(), missed.is_empty() && invented.is_empty());
    }

    #[test]
    fn in_time_and_nothing_else() {
        check(&[("wave", 12), ("split", 20), ("reorg", 30), ("wave", 40)], &[], &[]);
        check(&[("wave", 13), ("split", 20)], &["wave"], &[]);
        check(&[("wave", 9), ("wave", 10), ("split", 25)], &[], &[("wave", 9)]);
        check(&[("reorg", 9), ("wave", 10), ("split", 25), ("storm", 50)], &[], &[("reorg", 9), ("storm", 50)]);
        check(&[], &["wave", "split"], &[]);
    }
}
