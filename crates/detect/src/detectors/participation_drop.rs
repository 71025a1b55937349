//! `participation_drop`: fewer validators vote than a while ago.
//!
//! Votes heard for a slot, each validator once, against its seats; the mean over `window_slots` against the mean of the epoch that
//! ended `gap_epochs` earlier. A drop of `drop_percent` points opens an incident; where clients are known, by how much each fell.
//! From [`CRITICAL_PERCENT`] down nothing can be finalized any more.
//!
//! **False alarms considered.** One slot with a lost aggregate (mean over a window); a slow decline (the reference moves along: that
//! is not sudden); a watcher that hears little (nothing is said while fewer than half of the seats were heard in the reference, or
//! while blocks carry the votes that gossip did not bring: then it is our connection, see `subnet_silent`); seats not known (skipped).

use super::common::{Mean, clients_json};
use crate::client::{N_CLIENTS, UNKNOWN, client_name};
use crate::config::Problems;
use crate::monitor::{Detector, Sighting, Signal, SlotFacts, View};
use consensus::Slot;
use evidence::{Count, Severity, SharedTrait};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::VecDeque;

pub const KIND: &str = "participation_drop";
/// Below two thirds no checkpoint is justified.
const CRITICAL_PERCENT: u64 = 67;
/// Slots remembered: reference and window of any sensible configuration.
const MAX_SLOTS: usize = 1_024;

/// `[detect.participation_drop]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParticipationDropConfig {
    pub enabled: bool,
    pub window_slots: u64,
    pub gap_epochs: u64,
    pub drop_percent: u64,
}

impl Default for ParticipationDropConfig {
    fn default() -> Self {
        Self { enabled: true, window_slots: 4, gap_epochs: 1, drop_percent: 10 }
    }
}

impl ParticipationDropConfig {
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("window_slots", self.window_slots, 1);
        problems.at_least("drop_percent", self.drop_percent, 1);
    }
}

pub(crate) struct ParticipationDrop {
    config: ParticipationDropConfig,
    /// Oldest first.
    slots: VecDeque<Row>,
    /// The reference, frozen while an incident is open, and since when.
    low: Option<Low>,
}

#[derive(Clone, Copy)]
struct Row {
    slot: Slot,
    voters: u64,
    expected: u64,
    by_client: [u64; N_CLIENTS],
}

struct Low {
    since: Slot,
    reference: u64,
    reference_by_client: [u64; N_CLIENTS],
}

impl ParticipationDrop {
    pub(crate) fn new(config: ParticipationDropConfig) -> Self {
        Self { config, slots: VecDeque::new(), low: None }
    }

    fn rows(&self, first: Slot, last: Slot) -> impl Iterator<Item = &Row> {
        self.slots.iter().filter(move |row| row.slot >= first && row.slot <= last)
    }

    fn mean(&self, first: Slot, last: Slot) -> Mean {
        self.rows(first, last).fold(Mean::default(), |mean, row| mean.add(row.voters, row.expected))
    }

    /// Voters of each client per thousand seats.
    fn by_client(&self, first: Slot, last: Slot) -> [u64; N_CLIENTS] {
        let seats: u64 = self.rows(first, last).map(|row| row.expected).sum();
        let mut sums = [0; N_CLIENTS];
        for row in self.rows(first, last) {
            for (sum, n) in sums.iter_mut().zip(row.by_client) {
                *sum += n;
            }
        }
        sums.map(|sum| (sum * 1000).checked_div(seats).unwrap_or(0))
    }
}

impl Detector for ParticipationDrop {
    fn slot_ended(&mut self, slot: Slot, view: &View<'_>, out: &mut Vec<Signal>) {
        let Some(facts) = view.facts.slot(slot).filter(|facts| facts.expected > 0) else { return };
        let &SlotFacts { voters, expected, by_client, .. } = facts;
        self.slots.push_back(Row { slot, voters, expected, by_client });
        if self.slots.len() > MAX_SLOTS {
            self.slots.pop_front();
        }
        let per_epoch = view.network().preset().slots_per_epoch;
        let window = (slot.saturating_sub(self.config.window_slots - 1), slot);
        let Some(now) = self
            .mean(window.0, window.1)
            .percent()
            .filter(|_| self.rows(window.0, window.1).count() as u64 == self.config.window_slots)
        else {
            return;
        };
        if self.low.is_none() {
            let end = window.0.saturating_sub(1 + self.config.gap_epochs * per_epoch);
            let start = end.saturating_sub(per_epoch - 1);
            if self.rows(start, end).count() as u64 * 4 < per_epoch * 3 {
                return;
            }
            let Some(reference) = self.mean(start, end).percent().filter(|percent| *percent >= 50) else { return };
            if now + self.config.drop_percent > reference {
                return;
            }
            // Since the first slot that was clearly low.
            let low = self
                .rows(window.0, window.1)
                .find(|row| row.voters * 100 + self.config.drop_percent * row.expected < reference * row.expected);
            let since = low.map_or(slot, |row| row.slot);
            self.low = Some(Low { since, reference, reference_by_client: self.by_client(start, end) });
        }
        let Some(low) = &self.low else { return };
        if now + self.config.drop_percent / 2 > low.reference {
            self.low = None;
            return;
        }
        let now_by_client = self.by_client(window.0, window.1);
        let lost = (low.reference - now) * expected * per_epoch / 100;
        let mut shared = Vec::new();
        for client in (0..N_CLIENTS).filter(|client| *client != UNKNOWN) {
            let (before, after) = (low.reference_by_client[client], now_by_client[client]);
            // A third of its votes and a fifth of what is lost in all.
            if before > 0 && after * 3 < before * 2 && (before - after) * 5 >= (low.reference - now) * 10 {
                let members = (before - after) * expected * per_epoch / 1000;
                shared.push(SharedTrait { what: "client".into(), value: client_name(client).into(), members: Count(members) });
            }
        }
        let mut details = Map::new();
        details.insert("participation_percent".into(), now.into());
        details.insert("before_percent".into(), low.reference.into());
        details.insert("voters_in_blocks".into(), facts.voters_in_blocks.into());
        details.insert("votes_per_1000_seats_before".into(), clients_json(&low.reference_by_client));
        details.insert("votes_per_1000_seats_now".into(), clients_json(&now_by_client));
        details.insert("finality_possible".into(), json!(now >= CRITICAL_PERCENT));
        out.push(Signal::Sighting(Sighting {
            kind: KIND,
            key: String::new(),
            slot,
            since: low.since,
            severity: if now < CRITICAL_PERCENT { Severity::Critical } else { Severity::Warning },
            measure: low.reference - now,
            validators: Some(lost),
            shared,
            details,
            closes_after: per_epoch,
        }));
    }
}
