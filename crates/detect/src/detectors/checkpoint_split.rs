//! `checkpoint_split`: two checkpoints of one epoch, as target or as source, that exclude each
//! other.
//!
//! At the end of every slot the votes of the running epoch are grouped by target and by source. In
//! the first half of an epoch, the votes of the previous epoch are included. There is a split if
//! two targets of an epoch, or two sources, each have `min_percent` of the votes, and neither's
//! block is an ancestor of the other's. Two *sources* mean that two branches have justified. A
//! validator that then changes to the side with the older source surrounds its own votes (Holesky,
//! 2025). So the incident reports how many votes name each source, and how many validators cannot
//! change sides without an offence. The source of a side that could justify nothing is an ancestor
//! of the other side's source. Such sources do not exclude each other, but their sides' targets do.
//!
//! **False alarms considered.** The first block of an epoch is late, and part of the votes take the
//! block before it as target: it is an ancestor, so it is the same side. Sources one epoch apart
//! while justification arrives: also an ancestor. Stale views: also ancestors, reported by
//! `stale_votes`. Unknown blocks: nothing is reported about an unknown root, unless two *sources*
//! of the same epoch differ, because that needs no tree.

use super::common::listed;
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Observation, Signal, SlotFacts};
use consensus::{Checkpoint, Epoch, Root, Slot};
use evidence::{Count, Kind, Severity, SharedTrait};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[detect.checkpoint_split]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSplitConfig {
    pub enabled: bool,
    /// Smallest percentage of votes for each of the two checkpoints.
    pub min_percent: u64,
    /// Nothing is reported with fewer votes.
    pub min_votes: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for CheckpointSplitConfig {
    fn default() -> Self {
        Self { enabled: true, min_percent: 5, min_votes: 16, closes_after_epochs: 2 }
    }
}

impl DetectorConfig for CheckpointSplitConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(CheckpointSplit::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("min_percent", self.min_percent, 1, 50);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct CheckpointSplitDetails {
    targets: Vec<CheckpointShare>,
    sources: Vec<CheckpointShare>,
    two_justified_checkpoints: bool,
    /// Number of votes.
    would_surround_by_joining_the_other_side: u64,
    /// Source epoch of the side with the oldest source. Who has signed a newer one cannot join it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oldest_source: Option<Epoch>,
}

#[derive(Serialize, Deserialize)]
struct CheckpointShare {
    epoch: Epoch,
    root: Root,
    votes: u64,
    percent: u64,
}

impl Details for CheckpointSplitDetails {
    const KIND: Kind = Kind::CheckpointSplit;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let justified = if self.two_justified_checkpoints {
            "Two branches are justified"
        } else {
            "Votes for checkpoints that exclude each other"
        };
        let targets = match listed(self.targets.iter().map(|target| target.percent), " : ") {
            none if none.is_empty() => none,
            shares => format!(", targets in percent: {shares}"),
        };
        format!(
            "{justified}{targets}; {} validators cannot change sides without surrounding their own votes",
            self.would_surround_by_joining_the_other_side
        )
    }
}

pub(crate) struct CheckpointSplit {
    config: CheckpointSplitConfig,
    since: Option<(Slot, Slot)>,
}

impl CheckpointSplit {
    pub(crate) fn new(config: CheckpointSplitConfig) -> Self {
        Self { config, since: None }
    }

    /// The checkpoints with enough votes, those with most votes first. Empty if no two of them
    /// exclude each other.
    fn sides(
        &self,
        votes: &BTreeMap<Checkpoint, u64>,
        excludes: impl Fn(&Checkpoint, &Checkpoint) -> bool,
    ) -> Vec<(Checkpoint, u64)> {
        let all: u64 = votes.values().sum();
        let mut sides: Vec<(Checkpoint, u64)> =
            votes.iter().filter(|(_, n)| **n * 100 >= all * self.config.min_percent && **n >= 2).map(|(c, n)| (*c, *n)).collect();
        sides.sort_by_key(|(checkpoint, n)| (std::cmp::Reverse(*n), *checkpoint));
        let split = sides.iter().any(|(one, _)| sides.iter().any(|(other, _)| excludes(one, other)));
        if split { sides } else { Vec::new() }
    }
}

/// Whether two sources exclude each other. A branch justifies one root per epoch, so two roots of
/// one epoch need no tree for that.
fn sources_exclude(view: &DetectorView<'_>, one: &Checkpoint, other: &Checkpoint) -> bool {
    let is_genesis = one.root.is_zero() || other.root.is_zero();
    excludes(view, one, other) || !is_genesis && one.epoch == other.epoch && one.root != other.root
}

/// Whether both blocks are known and neither is an ancestor of the other.
fn excludes(view: &DetectorView<'_>, one: &Checkpoint, other: &Checkpoint) -> bool {
    if one.root == other.root || one.root.is_zero() || other.root.is_zero() {
        return false;
    }
    let chain = view.chain;
    match (chain.block_slot(&one.root), chain.block_slot(&other.root)) {
        (Some(a), Some(b)) => {
            chain.ancestor_at(&one.root, b) != Some(other.root) && chain.ancestor_at(&other.root, a) != Some(one.root)
        }
        _ => false,
    }
}

/// How many voters have a newer source than one of the other sides, which they cannot join without
/// surrounding what they have signed, and the source epoch of that side. `sides` has the voters of
/// each side by the epoch of their source; most of them name the side's own.
fn stuck(sides: impl Iterator<Item = BTreeMap<Epoch, u64>>) -> (u64, Option<Epoch>) {
    let sides: Vec<BTreeMap<Epoch, u64>> = sides.collect();
    let own_source = |side: &BTreeMap<Epoch, u64>| side.iter().max_by_key(|(_, n)| **n).map(|(epoch, _)| *epoch);
    let oldest = sides.iter().filter_map(own_source).min();
    let newer = sides.iter().flatten().filter(|(epoch, _)| Some(**epoch) > oldest);
    (newer.map(|(_, n)| n).sum(), oldest)
}

impl Detector for CheckpointSplit {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let preset = view.network().preset();
        let per_epoch = preset.slots_per_epoch;
        let epoch = slot.epoch(preset);
        // At least half an epoch of votes is needed.
        let first = if slot.as_u64() % per_epoch >= per_epoch / 2 { epoch } else { epoch.saturating_sub(1) };
        let n_slots = slot.as_u64() - first.start_slot(preset).as_u64() + 1;
        let mut targets: BTreeMap<Epoch, BTreeMap<Checkpoint, u64>> = BTreeMap::new();
        let mut sources: BTreeMap<Checkpoint, u64> = BTreeMap::new();
        let mut by_side: BTreeMap<Checkpoint, BTreeMap<Epoch, u64>> = BTreeMap::new();
        let mut all = 0;
        for (_, facts) in view.facts.last_slots(slot, n_slots) {
            for tally in &facts.tallies {
                *targets.entry(tally.target.epoch).or_default().entry(tally.target).or_default() += tally.voters;
                *sources.entry(tally.source).or_default() += tally.voters;
                *by_side.entry(tally.target).or_default().entry(tally.source.epoch).or_default() += tally.voters;
                all += tally.voters;
            }
        }
        if all < self.config.min_votes {
            return;
        }
        let by_tree = |one: &Checkpoint, other: &Checkpoint| excludes(view, one, other);
        let target_sides =
            targets.values().map(|votes| self.sides(votes, by_tree)).find(|sides| !sides.is_empty()).unwrap_or_default();
        let source_sides = self.sides(&sources, |one, other| sources_exclude(view, one, other));
        if target_sides.is_empty() && source_sides.is_empty() {
            return;
        }
        let since = match self.since {
            Some((since, last)) if last.saturating_add(2 * per_epoch) >= slot => since,
            _ => slot,
        };
        self.since = Some((since, slot));
        let of_sources = stuck(source_sides.iter().map(|(source, n)| BTreeMap::from([(source.epoch, *n)])));
        let of_targets = stuck(target_sides.iter().filter_map(|(target, _)| by_side.get(target).cloned()));
        let (cannot_return, oldest) = of_sources.max(of_targets);
        let shares = |sides: &[(Checkpoint, u64)]| {
            let whole: u64 = sides.iter().map(|(_, n)| n).sum();
            let shares = sides.iter().take(4).map(|(one, n)| CheckpointShare {
                epoch: one.epoch,
                root: one.root,
                votes: *n,
                percent: n * 100 / whole.max(1),
            });
            shares.collect()
        };
        let away = if source_sides.is_empty() { &target_sides } else { &source_sides };
        let smaller: Vec<Checkpoint> = away.iter().skip(1).map(|(one, _)| *one).collect();
        let is_split = |facts: &SlotFacts| {
            facts.tallies.iter().any(|tally| smaller.contains(&tally.target) || smaller.contains(&tally.source))
        };
        // The window still shows for a while a split that is over.
        let until = view.facts.last_slots(slot, n_slots).rev().find(|(_, facts)| is_split(facts)).map_or(slot, |(at, _)| at);
        let details = CheckpointSplitDetails {
            targets: shares(&target_sides),
            sources: shares(&source_sides),
            two_justified_checkpoints: !source_sides.is_empty(),
            would_surround_by_joining_the_other_side: cannot_return,
            oldest_source: oldest,
        };
        let shared = away
            .iter()
            .take(4)
            .map(|(one, n)| SharedTrait {
                what: "fork_side".into(),
                value: format!("{} at epoch {}", one.root, one.epoch),
                members: Count(*n),
            })
            .collect();
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since,
            until,
            severity: if source_sides.is_empty() { Severity::Warning } else { Severity::Critical },
            // Two justified branches count as more than two targets, whatever the numbers are.
            measure: away.iter().skip(1).map(|(_, n)| n * 100 / all).sum::<u64>() + if source_sides.is_empty() { 0 } else { 100 },
            validators: Some(away.iter().skip(1).map(|(_, n)| n).sum()),
            shared,
            closes_after: self.config.closes_after_epochs * per_epoch,
        }));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
