//! `missed_duties`, warning: keys of a group missed `missed_in_a_row` epochs in a row. One incident
//! per group, while this lasts. Missed proposals are in [`proposing`](super::proposing).
//!
//! A key counts as missing only if all these conditions hold:
//!
//! - the registry has the key as active in that epoch, and its duty is `active`;
//! - the watcher ran for the whole epoch, without a pause;
//! - the votes received from the whole network are at least `network_percent` of the seats, where a
//!   slot without any vote received counts with all its seats;
//! - at least `slot_heard_percent` of the seats of its slot voted; if its slot is not known, this
//!   must hold for all slots of the epoch.
//!
//! If one of these does not hold, a missing vote is not judged: it neither begins a row of misses
//! nor ends one.
//!
//! **False alarms considered.** Our own outage or bad connection, for some slots or longer: then
//! nobody else is received either. A finality incident. A key that exited while our registry is old
//! (up to `nodes.refresh_epochs`). Late votes: a vote that arrives after its epoch was judged ends
//! the row of misses.

use super::epoch_duties::DutyVote;
use super::record::{DutyOutcome, KeyRecord};
use super::{Label, Members, WatchedKeysConfig};
use crate::monitor::{Details, DetectorView, Observation, SlotFacts};
use consensus::{Epoch, Root, Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Number of keys listed in the details.
const EXAMPLES: usize = 32;

/// The details of a group's incident, or of one missed proposal.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum MissedDutiesDetails {
    Group {
        group: String,
        /// The labels of the group. Alert routes with labels select by these.
        labels: Vec<String>,
        keys_missing: usize,
        keys_in_group: usize,
        /// Number of epochs, for the key that has been missing for longest.
        missed_in_a_row: u32,
        /// Some of the missing keys.
        validators: Vec<ValidatorIndex>,
    },
    Proposal {
        /// Always `proposal`.
        duty: Cow<'static, str>,
        /// What happened to the block, in words.
        block: Cow<'static, str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_slot_start_ms: Option<i64>,
        groups: Vec<String>,
    },
}

impl Details for MissedDutiesDetails {
    const KIND: Kind = Kind::MissedDuties;

    fn sentence(&self, _validators: Option<u64>) -> String {
        match self {
            Self::Group { group, keys_missing, keys_in_group, missed_in_a_row, .. } => format!(
                "{keys_missing} of {keys_in_group} keys of group {group} miss their duties, for up to {missed_in_a_row} epochs in a row"
            ),
            Self::Proposal { block, .. } => format!("It was its turn to propose; its block: {block}"),
        }
    }
}

/// The observation about a group with keys that have been missing for long enough. `epoch` is the
/// latest judged epoch.
pub(super) fn missing_keys(
    group: &Members,
    records: &BTreeMap<ValidatorIndex, KeyRecord>,
    epoch: Epoch,
    config: &WatchedKeysConfig,
    view: &DetectorView<'_>,
) -> Option<Observation> {
    let preset = view.network().preset();
    let slot = epoch.start_slot(preset).saturating_add(preset.slots_per_epoch - 1);
    let of_group = group.validators.iter().filter_map(|validator| Some((*validator, records.get(validator)?.missed_in_a_row)));
    let missing: Vec<(ValidatorIndex, u32)> = of_group.filter(|(_, missed)| *missed >= config.missed_in_a_row).collect();
    let longest = missing.iter().map(|(_, missed)| *missed).max()?;
    let details = MissedDutiesDetails::Group {
        group: group.name.to_string(),
        labels: vec![format!("{}={}", Label::GROUP, group.name)],
        keys_missing: missing.len(),
        keys_in_group: group.validators.len(),
        missed_in_a_row: longest,
        validators: missing.iter().take(EXAMPLES).map(|(validator, _)| *validator).collect(),
    };
    Some(Observation {
        what: details.into(),
        key: group.name.to_string(),
        slot,
        until: slot,
        since: epoch.saturating_sub(u64::from(longest) - 1).start_slot(preset),
        severity: Severity::Warning,
        measure: missing.len() as u64,
        validators: Some(missing.len() as u64),
        shared: Vec::new(),
        closes_after: config.missed_closes_after_epochs * preset.slots_per_epoch,
    })
}

/// What the network agreed on for one epoch, as far as is known.
pub(super) struct AgreedVotes {
    target: Option<Root>,
    heads: BTreeMap<Slot, Option<Root>>,
}

impl AgreedVotes {
    pub fn new(view: &DetectorView<'_>, slots: &[Slot]) -> Self {
        let head = view.chain.backed_head().root;
        let heads: BTreeMap<Slot, Option<Root>> =
            slots.iter().map(|slot| (*slot, view.chain.ancestor_at(&head, *slot))).collect();
        Self { target: heads.values().next().copied().flatten(), heads }
    }

    /// How good a vote was.
    pub fn compare(&self, vote: &DutyVote) -> DutyOutcome {
        DutyOutcome::Voted {
            right_target: self.target == Some(vote.target.root),
            right_head: self.heads.get(&vote.slot).copied().flatten() == Some(vote.head),
        }
    }
}

/// How much of an epoch was received.
pub(super) struct EpochReception {
    /// Votes as a percentage of the epoch's seats; 0 if no number of seats is known.
    pub percent: u64,
    /// Slots of which enough votes were received to conclude that a key missed its duty.
    pub good: BTreeSet<Slot>,
    n_slots: usize,
}

impl EpochReception {
    /// `least` is the percentage of a slot's seats that must have voted for the slot to be good.
    pub fn of(view: &DetectorView<'_>, slots: &[Slot], least: u64) -> Self {
        let known =
            || slots.iter().filter_map(|slot| Some((*slot, view.facts.slot(*slot)?))).filter(|(_, facts)| facts.expected > 0);
        let (voters, seats) = known().fold((0, 0), |(voters, seats), (_, slot)| (voters + slot.voters, seats + slot.expected));
        // A slot without any vote received is assumed to have as many seats as the others.
        let all_seats = seats * slots.len() as u64 / (known().count() as u64).max(1);
        let is_good = |facts: &SlotFacts| facts.participation_percent().is_some_and(|percent| percent >= least);
        let good = known().filter(|(_, facts)| is_good(facts)).map(|(slot, _)| slot).collect();
        Self { percent: (voters * 100).checked_div(all_seats).unwrap_or(0), good, n_slots: slots.len() }
    }

    /// Whether a vote by a validator with this seat would have been received.
    pub fn would_include(&self, seat: Option<Slot>) -> bool {
        seat.map_or(self.good.len() == self.n_slots, |slot| self.good.contains(&slot))
    }
}
