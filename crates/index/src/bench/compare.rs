//! Compares the same load under other conditions with the plain one: sources far back, or all
//! validators returning after a long absence.
//!
//! All loads run in one process, one slot of each in turn, so that other work on the machine
//! affects them all in the same way. The CPU time of the calling thread inside the index's calls is
//! compared.

use super::{Options, SLOTS, VoteFeed, in_temporary, measure};
use crate::IndexError;
use std::path::Path;

/// The difference between a load and the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Number of epochs between source and target.
    SourceDistance(u64),
    /// Number of epochs without any vote, after the first one.
    AbsentEpochs(u64),
}

/// A load compared with the plain one. A ratio of 1.0 means equal speed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    #[serde(flatten)]
    pub variant: Variant,
    pub cpu_seconds_per_epoch: f64,
    /// CPU time per vote divided by that of the plain load, over all epochs.
    pub ratio: f64,
    /// CPU time per vote in the first epoch, in which all validators return, divided by that of the
    /// plain load over all epochs.
    pub first_epoch_ratio: f64,
    /// Number of validators that were reported as offenders. The load contains none.
    #[serde(rename = "false")]
    pub falsely: u64,
}

/// One load, and the CPU time per vote of its first epoch, in nanoseconds.
struct EpochRun {
    feed: VoteFeed,
    first_epoch: f64,
}

impl EpochRun {
    fn ns_per_vote(&self) -> f64 {
        self.feed.clock.ns as f64 / self.feed.n_votes.max(1) as f64
    }
}

/// Runs the plain load of `options` and all `variants` of it side by side. Needs the memory of all
/// of them at once.
pub fn compare(options: &Options, variants: &[Variant]) -> Result<Vec<Comparison>, IndexError> {
    in_temporary("-compare", |path| compare_in(path, options, variants))
}

fn compare_in(path: &Path, options: &Options, variants: &[Variant]) -> Result<Vec<Comparison>, IndexError> {
    let plain = Options { source_distance: 1, absent_epochs: 0, ..options.clone() };
    let all = std::iter::once(plain.clone()).chain(variants.iter().map(|variant| match variant {
        Variant::SourceDistance(source_distance) => Options { source_distance: *source_distance, ..plain.clone() },
        Variant::AbsentEpochs(absent_epochs) => Options { absent_epochs: *absent_epochs, ..plain.clone() },
    }));
    let mut runs = Vec::new();
    for (nth, options) in all.enumerate() {
        let mut feed = VoteFeed::new(&path.join(nth.to_string()), &options)?;
        feed.epoch(0)?;
        feed.index.flush()?;
        (feed.clock, feed.n_votes) = (measure::CpuClock::default(), 0);
        runs.push(EpochRun { feed, first_epoch: 0.0 });
    }
    for epoch in 1..=options.epochs {
        runs.iter_mut().for_each(|run| run.feed.load.begin_epoch(epoch));
        for slot in 0..SLOTS {
            // The order changes with the slot, so that no load always runs after the same other
            // one.
            let n_runs = runs.len();
            runs.rotate_left(slot as usize % n_runs);
            let fed = runs.iter_mut().try_for_each(|run| run.feed.slot(slot));
            runs.rotate_right(slot as usize % n_runs);
            fed?;
        }
        if epoch == 1 {
            runs.iter_mut().for_each(|run| run.first_epoch = run.ns_per_vote());
        }
    }
    let normal = runs[0].ns_per_vote().max(1e-9);
    let comparisons = variants.iter().zip(&runs[1..]).map(|(variant, run)| Comparison {
        variant: *variant,
        cpu_seconds_per_epoch: run.feed.clock.ns as f64 / 1e9 / options.epochs.max(1) as f64,
        ratio: run.ns_per_vote() / normal,
        first_epoch_ratio: run.first_epoch / normal,
        falsely: run.feed.named.len() as u64,
    });
    Ok(comparisons.collect())
}
