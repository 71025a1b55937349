//! `participation_drop`: fewer validators vote than a while ago.
//!
//! The detector compares the votes received for a slot, each validator once, with its seats. It
//! compares the mean over `window_slots` with the mean over an epoch that ended `gap_epochs` before
//! the window. A drop of `drop_percent` points opens an incident. Where clients are known, it
//! reports by how much each client's votes fell, and which clients explain the drop: those that
//! lost `client_drop_percent` of their own votes and had `client_share_percent` of all lost votes.
//! Below `critical_percent` nothing can be justified, and so nothing can be finalized.
//!
//! While the incident lasts, participation is compared with the value from before it, also after a
//! restart of the watcher. A drop that has lasted for `usual_after_epochs` is the new normal value,
//! and the incident is over.
//!
//! **False alarms considered.** One slot with a lost aggregate: the mean is taken over a window. A
//! slow decline is not sudden: the reference moves along. A watcher that receives little: nothing
//! is reported if fewer than `min_reference_percent` of the seats voted in the reference. Gossip
//! that does not reach us: votes in blocks count too, so this alone is no drop; it is our
//! connection, see `subnet_silent`. Slots with an unknown number of seats are skipped.

use super::common::{LatestRows, Mean, add, by_client, shared_client};
use crate::client::{ByClient, N_CLIENTS, UNKNOWN};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Left, Observation, Signal, SlotFacts};
use consensus::Slot;
use evidence::{Incident, IncidentState, Kind, Severity};
use serde::{Deserialize, Serialize};

/// Number of slots that are remembered. It covers the longest window and gap that the configuration
/// allows, at 32 slots per epoch.
const MAX_SLOTS: usize = 4_096;

/// `[detect.participation_drop]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParticipationDropConfig {
    pub enabled: bool,
    /// Number of slots over which participation is averaged.
    pub window_slots: u64,
    /// Number of epochs between the reference epoch and the window.
    pub gap_epochs: u64,
    /// Percentage points of participation that must be lost.
    pub drop_percent: u64,
    /// Nothing is reported if the reference is below this percentage.
    pub min_reference_percent: u64,
    /// Below this percentage no checkpoint can be justified.
    pub critical_percent: u64,
    /// Percentage of its own votes that a client must have lost to be reported.
    pub client_drop_percent: u64,
    /// Percentage of all lost votes that a client must have to be reported.
    pub client_share_percent: u64,
    /// A drop that has lasted for this number of epochs is the new usual participation.
    pub usual_after_epochs: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for ParticipationDropConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_slots: 4,
            gap_epochs: 1,
            drop_percent: 10,
            min_reference_percent: 50,
            critical_percent: 67,
            client_drop_percent: 33,
            client_share_percent: 20,
            usual_after_epochs: 225,
            closes_after_epochs: 1,
        }
    }
}

impl DetectorConfig for ParticipationDropConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(ParticipationDrop::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("window_slots", self.window_slots, 1, 1_024);
        problems.between("gap_epochs", self.gap_epochs, 0, 64);
        problems.between("drop_percent", self.drop_percent, 1, 100);
        problems.between("min_reference_percent", self.min_reference_percent, 1, 100);
        problems.between("client_drop_percent", self.client_drop_percent, 1, 99);
        problems.between("client_share_percent", self.client_share_percent, 1, 100);
        problems.between("critical_percent", self.critical_percent, 1, 100);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
        problems.at_least("usual_after_epochs", self.usual_after_epochs, self.gap_epochs.saturating_add(2));
    }
}

/// The details also serve a restarted watcher, which takes the reference from them.
#[derive(Serialize, Deserialize)]
pub(super) struct ParticipationDropDetails {
    participation_percent: u64,
    before_percent: u64,
    voters_in_blocks: u64,
    #[serde(with = "by_client")]
    votes_per_1000_seats_before: ByClient,
    #[serde(with = "by_client")]
    votes_per_1000_seats_now: ByClient,
    finality_possible: bool,
}

impl Details for ParticipationDropDetails {
    const KIND: Kind = Kind::ParticipationDrop;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let finality = if self.finality_possible { "" } else { ", too few to justify anything" };
        format!("{} percent voted, {} before{finality}", self.participation_percent, self.before_percent)
    }
}

pub(crate) struct ParticipationDrop {
    config: ParticipationDropConfig,
    /// One row per slot, oldest first.
    slots: LatestRows<ClientRow>,
    /// The reference values and the beginning of the drop, fixed while an incident is open.
    low: Option<Low>,
}

#[derive(Clone, Copy)]
struct ClientRow {
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
        Self { config, slots: LatestRows::default(), low: None }
    }

    fn rows(&self, first: Slot, last: Slot) -> impl Iterator<Item = &ClientRow> {
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
            add(&mut sums, &row.by_client);
        }
        sums.map(|sum| (sum * 1000).checked_div(seats).unwrap_or(0))
    }
}

impl Detector for ParticipationDrop {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let Some(facts) = view.facts.slot(slot).filter(|facts| facts.expected > 0) else { return };
        let &SlotFacts { voters, expected, by_client, .. } = facts;
        self.slots.push(ClientRow { slot, voters, expected, by_client }, MAX_SLOTS);
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
            let least = self.config.min_reference_percent;
            let Some(reference) = self.mean(start, end).percent().filter(|percent| *percent >= least) else { return };
            if now + self.config.drop_percent > reference {
                return;
            }
            // The drop begins with the first slot of the window that was clearly low.
            let low = self
                .rows(window.0, window.1)
                .find(|row| row.voters * 100 + self.config.drop_percent * row.expected < reference * row.expected);
            let since = low.map_or(slot, |row| row.slot);
            self.low = Some(Low { since, reference, reference_by_client: self.by_client(start, end) });
        }
        let Some(low) = &self.low else { return };
        let is_usual = low.since.saturating_add(self.config.usual_after_epochs.saturating_mul(per_epoch)) <= slot;
        if is_usual || now + self.config.drop_percent / 2 > low.reference {
            self.low = None;
            return;
        }
        // The window still shows for a while a drop that is over.
        let is_low =
            |row: &&ClientRow| row.voters * 100 + self.config.drop_percent / 2 * row.expected <= low.reference * row.expected;
        let until = self.rows(window.0, window.1).filter(is_low).last().map_or(slot, |row| row.slot);
        let now_by_client = self.by_client(window.0, window.1);
        let lost = (low.reference - now) * expected * per_epoch / 100;
        let mut shared = Vec::new();
        for client in (0..N_CLIENTS).filter(|client| *client != UNKNOWN) {
            let (before, after) = (low.reference_by_client[client], now_by_client[client]);
            let fell = before.saturating_sub(after);
            // In votes per thousand seats, the unit of `fell`.
            let lost_in_all = (low.reference - now) * 10;
            if fell * 100 > before * self.config.client_drop_percent
                && fell * 100 >= lost_in_all * self.config.client_share_percent
            {
                let members = fell * expected * per_epoch / 1000;
                shared.push(shared_client((client, members)));
            }
        }
        let details = ParticipationDropDetails {
            participation_percent: now,
            before_percent: low.reference,
            voters_in_blocks: facts.voters_in_blocks,
            votes_per_1000_seats_before: low.reference_by_client,
            votes_per_1000_seats_now: now_by_client,
            finality_possible: now >= self.config.critical_percent,
        };
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since: low.since,
            until,
            severity: if now < self.config.critical_percent { Severity::Critical } else { Severity::Warning },
            measure: low.reference - now,
            validators: Some(lost),
            shared,
            closes_after: self.config.closes_after_epochs * per_epoch,
        }));
    }

    fn restore(&mut self, left: &Left<'_>, _view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        let open = |incident: &&Incident| incident.kind == Kind::ParticipationDrop && incident.state != IncidentState::Closed;
        self.low = left.incidents.iter().find(open).and_then(|incident| {
            let before = ParticipationDropDetails::of_stored(&incident.details)?;
            Some(Low {
                since: incident.first_slot,
                reference: before.before_percent,
                reference_by_client: before.votes_per_1000_seats_before,
            })
        });
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
