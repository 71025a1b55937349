//! `payload_status_split`: validators of one label disagree about whether a payload was there.
//!
//! From Gloas on, a vote for the block of an earlier slot says in `AttestationData.index` whether
//! the payload of that block was present (consensus-specs, `gloas/validator.md`). `index` is signed
//! with the rest. A key that two nodes use signs both values as soon as the two nodes disagree, and
//! that is a double vote. So a disagreement among the validators of one operator is a warning
//! before any of its keys has signed both.
//!
//! For each slot, votes for one head are counted by label and by `index`. A label is *divided* if,
//! over the divided slots of the last `window_slots`, its smaller side has at least `min_votes`
//! votes and `min_percent` of them. There is one incident for all labels. Its details name them,
//! the most divided first.
//!
//! **False alarms considered.** Votes for a block of their own slot have `index` 0 by rule, so they
//! are not counted. Votes for different heads are not compared, and neither are votes of different
//! slots: between two slots an honest node may change its mind. A label that many operators share
//! (a pool) is a bit divided whenever a payload is late: that is below `min_percent`. Before Gloas
//! `index` is a committee, and nothing is reported.
//!
//! **Bounds.** [`MAX_LABELS`] divided labels of a slot are remembered, and [`MAX_LISTED`] are
//! reported. Labels beyond [`MAX_LABEL_SETS`](crate::monitor::facts::MAX_LABEL_SETS) sets in a slot
//! are not seen.

use super::common::{LatestRows, listed};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Observation, Signal};
use consensus::{Root, Slot};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest number of divided labels that are remembered of one slot, those with the most votes on
/// the smaller side.
const MAX_LABELS: usize = 256;
/// Largest number of labels in the details.
const MAX_LISTED: usize = 16;

/// `[detect.payload_status]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PayloadStatusConfig {
    pub enabled: bool,
    /// Number of slots that are looked at together.
    pub window_slots: u64,
    /// Smallest number of votes on the smaller side of a label.
    pub min_votes: u64,
    /// Smallest share of the smaller side, as a percentage of the label's votes in divided slots.
    pub min_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for PayloadStatusConfig {
    fn default() -> Self {
        Self { enabled: true, window_slots: 32, min_votes: 2, min_percent: 5, closes_after_epochs: 2 }
    }
}

impl DetectorConfig for PayloadStatusConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(PayloadStatus::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("window_slots", self.window_slots, 1, 1_024);
        problems.at_least("min_votes", self.min_votes, 1);
        problems.between("min_percent", self.min_percent, 1, 50);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PayloadStatusSplitDetails {
    /// The most divided label first.
    divided: Vec<DividedLabel>,
    /// Labels that are divided and not in `divided`.
    further_labels: u64,
    /// The labels of `divided`. Alert routes with labels select by these.
    labels: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct DividedLabel {
    label: String,
    /// Votes that say that the payload was there.
    payload_present: u64,
    /// Votes of the same slots for the same heads that say that it was not.
    payload_absent: u64,
    /// Number of slots in which it was divided.
    slots: u64,
}

impl Details for PayloadStatusSplitDetails {
    const KIND: Kind = Kind::PayloadStatusSplit;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let sides = |one: &DividedLabel| format!("{} {} to {}", one.label, one.payload_present, one.payload_absent);
        let who = listed(self.divided.iter().take(3).map(sides), ", ");
        format!("Validators of one label disagree about whether a payload was there (votes for yes and no: {who})")
    }
}

/// Votes of one label, for heads about which it disagrees.
#[derive(Clone, Copy, Debug, Default)]
struct Sides {
    present: u64,
    absent: u64,
}

impl Sides {
    fn smaller(self) -> u64 {
        self.present.min(self.absent)
    }
}

pub(crate) struct PayloadStatus {
    config: PayloadStatusConfig,
    /// The divided labels of each slot that has some.
    divided: LatestRows<(Slot, BTreeMap<String, Sides>)>,
    since: Option<Slot>,
}

impl PayloadStatus {
    pub(crate) fn new(config: PayloadStatusConfig) -> Self {
        Self { config, divided: LatestRows::default(), since: None }
    }

    /// The labels that are divided over the window, with their votes and their number of slots.
    fn over_window(&self) -> Vec<(String, Sides, u64)> {
        let mut sums: BTreeMap<&str, (Sides, u64)> = BTreeMap::new();
        for (label, sides) in self.divided.iter().flat_map(|(_, labels)| labels) {
            let (sum, slots) = sums.entry(label).or_default();
            sum.present += sides.present;
            sum.absent += sides.absent;
            *slots += 1;
        }
        let is_divided = |sides: Sides| {
            sides.smaller() >= self.config.min_votes
                && sides.smaller() * 100 >= (sides.present + sides.absent) * self.config.min_percent
        };
        let divided = sums.into_iter().filter(|(_, (sides, _))| is_divided(*sides));
        let mut divided: Vec<_> = divided.map(|(label, (sides, slots))| (label.to_owned(), sides, slots)).collect();
        divided.sort_by(|a, b| b.1.smaller().cmp(&a.1.smaller()).then_with(|| a.0.cmp(&b.0)));
        divided
    }
}

impl Detector for PayloadStatus {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.divided.forget_while(|(seen, _)| seen.saturating_add(self.config.window_slots) <= slot);
        let now = divided_in(slot, view);
        if !now.is_empty() {
            self.divided.push((slot, now), self.config.window_slots as usize);
        }
        let divided = self.over_window();
        if divided.is_empty() {
            self.since = None;
            return;
        }
        let first = self.divided.iter().next().map_or(slot, |(slot, _)| *slot);
        let measure = divided.iter().map(|(_, sides, _)| sides.smaller()).sum();
        let listed: Vec<DividedLabel> = divided
            .iter()
            .take(MAX_LISTED)
            .map(|(label, sides, slots)| DividedLabel {
                label: label.clone(),
                payload_present: sides.present,
                payload_absent: sides.absent,
                slots: *slots,
            })
            .collect();
        let details = PayloadStatusSplitDetails {
            further_labels: (divided.len() - listed.len()) as u64,
            labels: listed.iter().map(|one| one.label.clone()).collect(),
            divided: listed,
        };
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since: *self.since.get_or_insert(first),
            until: self.divided.iter().next_back().map_or(slot, |(slot, _)| *slot),
            severity: Severity::Warning,
            measure,
            validators: None,
            shared: Vec::new(),
            closes_after: self.config.closes_after_epochs * view.network().preset().slots_per_epoch,
        }));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}

/// The labels whose voters of a slot disagree about the payload of one head.
fn divided_in(slot: Slot, view: &DetectorView<'_>) -> BTreeMap<String, Sides> {
    let Some(facts) = view.facts.slot(slot) else { return BTreeMap::new() };
    // Nobody says "present" before Gloas, and mostly not after it either.
    if facts.tallies.iter().flat_map(|tally| tally.by_label_set.values()).all(|set| set.payload_present == 0) {
        return BTreeMap::new();
    }
    let mut by_head: BTreeMap<(Root, String), Sides> = BTreeMap::new();
    for tally in facts.tallies.iter().filter(|tally| view.chain.block_slot(&tally.head) != Some(slot)) {
        for (number, set) in &tally.by_label_set {
            for label in view.facts.labels().set(*number as usize).iter().flat_map(|set| &set.labels) {
                let sides = by_head.entry((tally.head, label.to_string())).or_default();
                sides.present += set.payload_present;
                sides.absent += set.voters - set.payload_present;
            }
        }
    }
    let mut divided: Vec<(String, Sides)> = Vec::new();
    for ((_, label), sides) in by_head.into_iter().filter(|(_, sides)| sides.smaller() > 0) {
        match divided.iter_mut().find(|(known, _)| *known == label) {
            Some((_, sum)) => {
                sum.present += sides.present;
                sum.absent += sides.absent;
            }
            None => divided.push((label, sides)),
        }
    }
    divided.sort_by(|a, b| b.1.smaller().cmp(&a.1.smaller()).then_with(|| a.0.cmp(&b.0)));
    divided.truncate(MAX_LABELS);
    divided.into_iter().collect()
}
