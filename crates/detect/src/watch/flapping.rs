//! `flapping_keys`, warning: many keys of one label miss duties together and come back together. A
//! validator client that restarts looks like this. Keys were slashed after such restarts on 2
//! February 2021.
//!
//! **The idea.** The duties of a label's keys are put in the order of their slots. A slot is *down*
//! when nearly all keys on duty missed, and *up* when nearly all voted. Slots without a duty, and
//! those in which the whole network did badly, are ignored. A flap is a stretch of down slots with
//! at least `keys` misses that ends with an up slot.
//!
//! ```text
//! slot     10  11  12  13  14  15
//! on duty   2   3   0   2   2   3       keys = 5, percent = 80
//! missed    0   3       2   2   0       a flap: 7 keys, slots 11 to 14
//! ```
//!
//! **False alarms considered.** Single misses: one in 200 duties is usual, so five in a row do not
//! happen by chance. A bad slot of the whole network. Keys that stay away: this is an outage,
//! reported as `missed_duties`; a stretch of more than `flapping_longest_epochs` is no flap. The
//! duties of keys that a kill switch has stopped do not count until these keys vote again.

use super::{Label, Labels, WatchedKeysConfig};
use crate::monitor::{Details, DetectorView, Observation};
use consensus::{Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Number of keys listed as examples.
const EXAMPLES: usize = 16;

#[derive(Serialize, Deserialize)]
pub(crate) struct FlappingKeysDetails {
    /// The one label. Alert routes with labels select by it.
    labels: Vec<String>,
    down_from_slot: Slot,
    down_to_slot: Slot,
    duties_missed: u64,
    /// Some of the keys.
    validators: Vec<ValidatorIndex>,
}

impl Details for FlappingKeysDetails {
    const KIND: Kind = Kind::FlappingKeys;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { down_from_slot, down_to_slot, duties_missed, .. } = self;
        let label = self.labels.join(", ");
        format!(
            "Keys of {label} missed {duties_missed} duties together, from slot {down_from_slot} to {down_to_slot}, and came back"
        )
    }
}

/// The duties of watched keys in an epoch: for each slot, which key was due and whether it voted.
pub(super) type DutiesBySlot = BTreeMap<Slot, Vec<(ValidatorIndex, bool)>>;

/// The current stretch of each label.
#[derive(Default)]
pub(super) struct FlappingLabels {
    stretches: HashMap<Label, Stretch>,
    /// Keys that a kill switch has stopped, and that have not voted since.
    stopped: BTreeSet<ValidatorIndex>,
}

impl FlappingLabels {
    pub fn clear(&mut self) {
        self.stretches.clear();
    }

    /// Takes out of the duties of an epoch those of stopped keys. `groups` are those that are
    /// stopped now.
    pub fn without_stopped(&mut self, mut duties: DutiesBySlot, groups: &BTreeSet<String>, labels: &Labels) -> DutiesBySlot {
        self.stopped.retain(|validator| labels.is_watched(*validator));
        let members = labels.groups().iter().filter(|group| groups.contains(&*group.name));
        let stopped_now: BTreeSet<ValidatorIndex> = members.flat_map(|group| group.validators.iter().copied()).collect();
        self.stopped.extend(&stopped_now);
        for of_slot in duties.values_mut() {
            of_slot.retain(|(validator, voted)| {
                if *voted && !stopped_now.contains(validator) {
                    self.stopped.remove(validator);
                }
                !self.stopped.contains(validator)
            });
        }
        duties
    }

    /// Takes in the duties of an epoch. Returns the flaps that end in it.
    pub fn evaluate(
        &mut self,
        slots: &[Slot],
        duties: &DutiesBySlot,
        labels: &Labels,
        config: &WatchedKeysConfig,
        view: &DetectorView<'_>,
    ) -> Vec<Observation> {
        let per_epoch = view.network().preset().slots_per_epoch;
        let mut flaps = Vec::new();
        for (label, by_slot) in by_label(slots, duties, labels, config, view) {
            let stretch = self.stretches.entry(label.clone()).or_default();
            for (slot, duties) in by_slot {
                let longest = config.flapping_longest_epochs * per_epoch;
                let Some(flap) = stretch.next(slot, &duties, config.flapping_keys, config.flapping_percent, longest) else {
                    continue;
                };
                let details = FlappingKeysDetails {
                    labels: vec![label.to_string()],
                    down_from_slot: flap.first,
                    down_to_slot: flap.last,
                    duties_missed: flap.n_missed,
                    validators: flap.examples,
                };
                flaps.push(Observation {
                    what: details.into(),
                    key: label.to_string(),
                    slot,
                    since: flap.first,
                    until: flap.last,
                    severity: Severity::Warning,
                    measure: flap.n_missed,
                    validators: Some(flap.n_missed),
                    shared: Vec::new(),
                    closes_after: config.flapping_closes_after_epochs * per_epoch,
                });
            }
        }
        let still_used: HashSet<&Label> = labels.watched().flat_map(|(_, set)| set.labels.iter()).collect();
        self.stretches.retain(|label, _| still_used.contains(label));
        flaps
    }
}

/// The duties of each label's keys, without the slots in which the whole network did badly.
fn by_label<'a>(
    slots: &[Slot],
    duties: &DutiesBySlot,
    labels: &'a Labels,
    config: &WatchedKeysConfig,
    view: &DetectorView<'_>,
) -> BTreeMap<&'a Label, BTreeMap<Slot, SlotDuties>> {
    let mut by_label: BTreeMap<&Label, BTreeMap<Slot, SlotDuties>> = BTreeMap::new();
    for slot in slots {
        let received = view.facts.slot(*slot).and_then(|facts| facts.participation_percent());
        if received.is_none_or(|percent| percent < config.network_percent) {
            continue;
        }
        for (validator, voted) in duties.get(slot).into_iter().flatten() {
            for label in labels.of(*validator) {
                let duties = by_label.entry(label).or_default().entry(*slot).or_default();
                duties.due += 1;
                if !voted {
                    duties.missed.push(*validator);
                }
            }
        }
    }
    by_label
}

/// The duties of a label's keys in one slot: how many were due, and who missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotDuties {
    pub due: u64,
    pub missed: Vec<ValidatorIndex>,
}

/// A stretch of down slots that has ended, or is not over yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flap {
    pub first: Slot,
    /// The last down slot of the stretch.
    pub last: Slot,
    pub n_missed: u64,
    pub examples: Vec<ValidatorIndex>,
}

/// The state of a label between two slots: the current stretch of down slots, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Stretch(Option<Flap>);

impl Stretch {
    /// Takes in the next slot in which a key of the label was on duty. Returns the flap that ends
    /// with it, if any. `longest` is in slots.
    pub fn next(&mut self, slot: Slot, duties: &SlotDuties, keys: u64, percent: u64, longest: u64) -> Option<Flap> {
        let missed = duties.missed.len() as u64;
        if duties.due == 0 {
            return None;
        }
        if missed * 100 >= percent * duties.due {
            let flap = self.0.get_or_insert_with(|| Flap { first: slot, last: slot, n_missed: 0, examples: Vec::new() });
            flap.last = slot;
            flap.n_missed += missed;
            let room = EXAMPLES.saturating_sub(flap.examples.len());
            flap.examples.extend(duties.missed.iter().take(room));
            return None;
        }
        if (duties.due - missed) * 100 < percent * duties.due {
            // The slot is neither down nor up, so it changes nothing.
            return None;
        }
        let flap = self.0.take()?;
        let length = flap.last.as_u64().saturating_sub(flap.first.as_u64()) + 1;
        (flap.n_missed >= keys && length <= longest).then_some(flap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates rows of (slot, on duty, missed).
    fn flaps(rows: &[(u64, u64, u64)]) -> Vec<(u64, u64, u64)> {
        let mut stretch = Stretch::default();
        let each = rows.iter().filter_map(|(slot, due, missed)| {
            let duties = SlotDuties { due: *due, missed: (0..*missed).map(ValidatorIndex::new).collect() };
            stretch.next(Slot::new(*slot), &duties, 5, 80, 16 * 32)
        });
        each.map(|flap| (flap.first.as_u64(), flap.last.as_u64(), flap.n_missed)).collect()
    }

    #[test]
    fn the_worked_example() {
        assert_eq!(flaps(&[(10, 2, 0), (11, 3, 3), (12, 0, 0), (13, 2, 2), (14, 2, 2), (15, 3, 0)]), [(11, 14, 7)]);
    }

    #[test]
    fn few_misses_and_long_outages_are_none() {
        assert_eq!(flaps(&[(1, 2, 2), (2, 2, 2), (3, 2, 0)]), [], "four keys");
        assert_eq!(flaps(&[(1, 10, 5), (2, 10, 5), (3, 10, 0)]), [], "half of them");
        assert_eq!(flaps(&[(1, 9, 9), (600, 9, 9), (601, 9, 0)]), [], "an outage");
        assert_eq!(flaps(&[(1, 9, 9), (2, 9, 4), (3, 9, 0)]), [(1, 1, 9)], "a slot that says nothing in between");
    }
}
