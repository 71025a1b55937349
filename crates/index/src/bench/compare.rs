//! The same load in other circumstances, against the plain one: sources far back, everybody returning after a long absence.
//!
//! All loads run in one process, slot by slot in turn, so that whatever else the machine does hits them alike; what is
//! compared is the CPU time of the calling thread inside the index's calls.

use super::{Feed, Options, SLOTS, in_temporary, measure};
use crate::IndexError;
use std::path::Path;

/// What a load differs in from the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Epochs between source and target.
    SourceDistance(u64),
    /// Epochs without any vote, after the first.
    AbsentEpochs(u64),
}

/// A load against the plain one, 1.0 being as fast.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    #[serde(flatten)]
    pub variant: Variant,
    pub cpu_seconds_per_epoch: f64,
    /// CPU time per vote against the plain load's, over all epochs.
    pub ratio: f64,
    /// CPU time per vote in the first epoch, in which everybody returns, against the plain load's over all epochs.
    pub first_epoch_ratio: f64,
    /// Validators named as offenders; there are none.
    #[serde(rename = "false")]
    pub falsely: u64,
}

/// One load, and what its first epoch took.
struct Run {
    feed: Feed,
    first_epoch: f64,
}

impl Run {
    fn ns_per_vote(&self) -> f64 {
        self.feed.clock.ns as f64 / self.feed.n_votes.max(1) as f64
    }
}

/// Runs the plain load of `options` and all `variants` of it side by side; needs the memory of all of them at once.
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
        let mut feed = Feed::new(&path.join(nth.to_string()), &options)?;
        feed.epoch(0)?;
        feed.index.flush()?;
        (feed.clock, feed.n_votes) = (measure::Clock::default(), 0);
        runs.push(Run { feed, first_epoch: 0.0 });
    }
    for epoch in 1..=options.epochs {
        runs.iter_mut().for_each(|run| run.feed.load.begin_epoch(epoch));
        for slot in 0..SLOTS {
            // Nobody is always the one after the same other.
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
