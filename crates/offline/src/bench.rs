//! The measuring half of `slashwatch bench pipeline` and `bench streams`. The former sends the load
//! of a capture through the same pipeline as everything else and measures it.
//!
//! [`replayed()`] processes the load as fast as possible, with [`crate::replay`]. [`paced()`] runs
//! the whole watcher in real time. It gets the messages over libp2p, or without a network from a
//! thread that reads the capture. Another process makes the load and knows its offences, so the
//! measurements cover this process and nothing else.
//!
//! The first slot is a warm-up. It is not part of the times, but of the outcomes and findings.

mod paced;
mod process;
mod streams;

pub use paced::{InboundPeers, LoadSource, PacedOptions, paced};
pub use process::{cpu_seconds, peak_rss_bytes};
pub use streams::{StreamOptions, StreamReport, StreamTimes, streams};

use crate::replay::{Replay, ReplayOptions, ReplayStep};
use consensus::Root;
use evidence::Store;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use watcher::WatcherError;

/// Measurements of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Slots that were measured, without the warm-up.
    pub slots: u64,
    /// Messages in these slots.
    pub messages: u64,
    pub wall_seconds: f64,
    /// Time of the network divided by wall time.
    pub realtime_factor: f64,
    pub cpu_seconds: f64,
    /// CPU time divided by wall time.
    pub cores: f64,
    pub latency_ms: Option<Latency>,
    pub peak_rss_bytes: u64,
    /// Number of messages by outcome, warm-up included.
    pub outcomes: BTreeMap<String, u64>,
    /// Messages that were not judged because of missing capacity.
    pub shed: u64,
    pub found: u64,
    pub missed: u64,
    #[serde(rename = "false")]
    pub falsely: u64,
    /// Time from the arrival of the last offence's second message until the last finding was on
    /// disk, in milliseconds. It is absent in an unpaced run.
    pub last_found_after_ms: Option<f64>,
    /// Connected peers at the end of a paced run.
    pub connections: u64,
    /// Different messages that came by gossip in a paced run, warm-up included.
    pub received: u64,
    /// gossipsub scores of the peers, highest first.
    pub scores: Vec<f64>,
}

/// Percentiles of times, in milliseconds. In a run of the pipeline these are the times from the
/// arrival of an offence's second message until its finding is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Latency {
    /// Returns the percentiles, or `None` for an empty list.
    pub fn of(mut milliseconds: Vec<f64>) -> Option<Self> {
        milliseconds.sort_by(f64::total_cmp);
        let percentile = |percent: usize| {
            let at = (milliseconds.len() * percent).div_ceil(100).saturating_sub(1);
            milliseconds.get(at).copied()
        };
        Some(Self { p50: percentile(50)?, p99: percentile(99)?, max: percentile(100)? })
    }
}

/// The part of a load's description that the measurement needs.
#[derive(Clone, Debug, Default)]
pub struct LoadExpectation {
    /// Ids of the findings of the planted offences.
    pub findings: BTreeSet<Root>,
    pub messages: u64,
    pub messages_of_first_slot: u64,
    /// Number of slots, warm-up included.
    pub slots: u64,
}

impl LoadExpectation {
    /// Returns the measurements of one run without the warm-up slot. `slot` is the length of a
    /// slot.
    fn measured(&self, slot: Duration, wall_seconds: f64, cpu_seconds: f64) -> Measured {
        let slots = self.slots.saturating_sub(1);
        Measured {
            slots,
            messages: self.messages - self.messages_of_first_slot,
            wall_seconds,
            realtime_factor: slots as f64 * slot.as_secs_f64() / wall_seconds.max(1e-9),
            cpu_seconds,
            cores: cpu_seconds / wall_seconds.max(1e-9),
            peak_rss_bytes: peak_rss_bytes(),
            ..Measured::default()
        }
    }

    fn compare(&self, store: &Store, into: &mut Measured) -> Result<(), WatcherError> {
        let mut found = BTreeSet::new();
        for row in store.all_findings() {
            found.insert(row?.1.id);
        }
        into.found = self.findings.intersection(&found).count() as u64;
        into.missed = self.findings.difference(&found).count() as u64;
        into.falsely = found.difference(&self.findings).count() as u64;
        Ok(())
    }
}

/// Replays a capture into a new data directory, as fast as possible. `slot` is the length of a
/// slot.
pub fn replayed(capture: &Path, data_dir: &Path, expected: &LoadExpectation, slot: Duration) -> Result<Measured, WatcherError> {
    let options = ReplayOptions { files: vec![capture.into()], data_dir: data_dir.into(), ..ReplayOptions::default() };
    let mut replay = Replay::open(options)?;
    let mut warm: Option<(Instant, f64)> = None;
    replay.run(&mut |step| {
        if matches!(step, ReplayStep::Files { messages, .. } if messages >= expected.messages_of_first_slot) && warm.is_none() {
            warm = Some((Instant::now(), cpu_seconds()));
        }
    })?;
    let (since, cpu_before) = warm.unwrap_or_else(|| (Instant::now(), cpu_seconds()));
    let (wall_seconds, cpu) = (since.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
    let mut measured = expected.measured(slot, wall_seconds, cpu);
    measured.outcomes = replay.summary().outcomes;
    drop(replay);
    let store = Store::open_read_only(&data_dir.join("evidence"))?;
    expected.compare(&store, &mut measured)?;
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(Latency::of(Vec::new()), None);
        assert_eq!(Latency::of(vec![5.0]), Some(Latency { p50: 5.0, p99: 5.0, max: 5.0 }));
        let latency = Latency::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(latency, Some(Latency { p50: 100.0, p99: 198.0, max: 200.0 }));
    }
}
