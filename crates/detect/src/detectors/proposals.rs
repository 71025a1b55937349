//! `missed_proposals` and `late_blocks`: proposals that are missing or late, and whether one client
//! explains them.
//!
//! *Missed*: slots of `window_slots` for which no block was received that anyone voted for or built
//! on. An incident needs at least `min_missed` of them and `missed_percent` of the slots. Their
//! proposers are computed from the seed ([`Facts::proposer`](crate::monitor::Facts::proposer)).
//! What they share is taken from their labels, and from the client that made each proposer's
//! earlier blocks. If most of them have made no block yet, shares are compared instead: a client
//! that used to make a share of the blocks (before the window, over at least `reference_blocks`
//! blocks) and now makes fewer accounts for the missing ones. Example: April 2021, where one
//! client's proposals were missing for 18 epochs, while its votes were normal.
//!
//! *Late*: blocks of the last `window_slots` that came after the votes of their slot were due. If
//! `late_percent` of the blocks are late, an incident opens.
//!
//! **False alarms considered.** Single misses: one in a hundred slots is usual, and eight in 32
//! practically never happen by that chance. Slots in which we received nothing at all are not
//! counted: the cause is our connection, not the proposers. The arrival of blocks from nodes and
//! files means nothing, so only gossip counts for lateness. If our own clock is ahead, everything
//! is late: `own_clock` reports that.

use super::common::{LatestRows, by_client, clients_in_words, one_client, shared_client};
use crate::client::{ByClient, N_CLIENTS, UNKNOWN};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Described, Details, Detector, DetectorView, Observation, Signal};
use crate::watch::Label;
use consensus::{Slot, ValidatorIndex};
use evidence::{Count, Kind, Severity, SharedTrait};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use verify::SourceKind;

/// Number of rows that are kept, for window and reference together.
const MAX_ROWS: usize = 1_024;
/// Number of proposers listed in the details.
const MAX_EXAMPLES: usize = 32;

/// `[detect.proposals]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProposalsConfig {
    pub enabled: bool,
    /// Number of slots over which blocks are counted.
    pub window_slots: u64,
    /// Smallest number of missed slots that opens an incident.
    pub min_missed: u64,
    /// Smallest percentage of missed slots that opens an incident.
    pub missed_percent: u64,
    /// Smallest percentage of late blocks that opens an incident.
    pub late_percent: u64,
    /// Number of blocks before the window that are needed to know each client's usual share.
    pub reference_blocks: u64,
    /// Percentage that must share a client or label for it to be reported.
    pub client_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for ProposalsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_slots: 32,
            min_missed: 8,
            missed_percent: 20,
            late_percent: 40,
            reference_blocks: 32,
            client_percent: 70,
            closes_after_epochs: 1,
        }
    }
}

impl DetectorConfig for ProposalsConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(ProposalsDetector::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        // The rows that are kept must hold both window and reference.
        problems.between("window_slots", self.window_slots, 4, MAX_ROWS as u64 / 2);
        problems.between("reference_blocks", self.reference_blocks, 1, MAX_ROWS as u64 / 2);
        problems.between("missed_percent", self.missed_percent, 1, 100);
        problems.between("late_percent", self.late_percent, 1, 100);
        problems.between("client_percent", self.client_percent, 1, 100);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct MissedProposalsDetails {
    missed: u64,
    of_slots: u64,
    #[serde(with = "by_client")]
    blocks_by_client: ByClient,
    #[serde(with = "by_client")]
    blocks_missing_by_client: ByClient,
    /// Some of the proposers without a block.
    proposers_missing: Vec<MissingProposer>,
    participation_percent: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct MissingProposer {
    slot: Slot,
    validator: ValidatorIndex,
}

impl Details for MissedProposalsDetails {
    const KIND: Kind = Kind::MissedProposals;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let missing = clients_in_words(&self.blocks_missing_by_client);
        let missing = missing.map_or_else(String::new, |list| format!("; missing were those of {list}"));
        format!("{} of {} slots had no block{missing}", self.missed, self.of_slots)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct LateBlocksDetails {
    late: u64,
    of_blocks: u64,
    #[serde(with = "by_client")]
    late_by_client: ByClient,
}

impl Details for LateBlocksDetails {
    const KIND: Kind = Kind::LateBlocks;

    fn sentence(&self, _validators: Option<u64>) -> String {
        format!("{} of {} blocks came after the votes", self.late, self.of_blocks)
    }
}

#[derive(Clone, Copy)]
struct ProposerRow {
    slot: Slot,
    /// The client of the first backed block; `None` for an empty slot.
    client: Option<usize>,
    is_late: Option<bool>,
}

pub(crate) struct ProposalsDetector {
    config: ProposalsConfig,
    rows: LatestRows<ProposerRow>,
    missed_since: Option<Slot>,
    late_since: Option<Slot>,
    /// Blocks by client before the incident began, kept while it lasts.
    reference: Option<ByClient>,
}

impl ProposalsDetector {
    pub(crate) fn new(config: ProposalsConfig) -> Self {
        Self { config, rows: LatestRows::default(), missed_since: None, late_since: None, reference: None }
    }

    fn missed(&mut self, slot: Slot, view: &DetectorView<'_>) -> Option<Observation> {
        let first = slot.saturating_sub(self.config.window_slots - 1);
        let window: Vec<ProposerRow> = self.rows.iter().filter(|row| row.slot >= first).copied().collect();
        let n = window.len() as u64;
        let missed = window.iter().filter(|row| row.client.is_none()).count() as u64;
        // While the window fills up, a few slots must not look like many.
        if missed < self.config.min_missed || missed * 100 < self.config.missed_percent * n.max(self.config.window_slots) {
            self.missed_since = None;
            self.reference = None;
            return None;
        }
        let before = count(self.rows.iter().filter(|row| row.slot < first));
        let enough = before.iter().sum::<u64>() >= self.config.reference_blocks;
        if self.reference.is_none() && enough {
            self.reference = Some(before);
        }
        let empty = || window.iter().filter(|row| row.client.is_none()).map(|row| row.slot);
        let since = *self.missed_since.get_or_insert(empty().next().unwrap_or(slot));
        // The window still shows for a while a condition that is over.
        let until = empty().next_back().unwrap_or(slot);
        let now = count(window.iter());
        let deficits = self.reference.map_or([0; N_CLIENTS], |reference| deficits(&reference, &now, n));
        let absent = Absent::of(window.iter().filter(|row| row.client.is_none()).map(|row| row.slot), view);
        let missing = if absent.n_of_known_clients() * 2 >= missed { &absent.by_client } else { &deficits };
        let mut shared: Vec<SharedTrait> =
            one_client(missing, self.config.client_percent).map(shared_client).into_iter().collect();
        shared.extend(absent.shared_labels(self.config.client_percent, view));
        let participation = view.facts.slot(slot).and_then(|facts| facts.participation_percent());
        let details = MissedProposalsDetails {
            missed,
            of_slots: n,
            blocks_by_client: now,
            blocks_missing_by_client: *missing,
            proposers_missing: absent.examples(),
            participation_percent: participation,
        };
        Some(self.observation(details.into(), slot, [since, until], missed, shared, view))
    }

    fn late(&mut self, slot: Slot, view: &DetectorView<'_>) -> Option<Observation> {
        let first = slot.saturating_sub(self.config.window_slots - 1);
        let timed: Vec<ProposerRow> =
            self.rows.iter().filter(|row| row.slot >= first && row.is_late.is_some()).copied().collect();
        let late: Vec<ProposerRow> = timed.iter().filter(|row| row.is_late == Some(true)).copied().collect();
        let (n, n_late) = (timed.len() as u64, late.len() as u64);
        if n_late * 100 < self.config.late_percent * n.max(self.config.window_slots / 2) {
            self.late_since = None;
            return None;
        }
        let since = *self.late_since.get_or_insert(late.first().map_or(slot, |row| row.slot));
        let until = late.last().map_or(slot, |row| row.slot);
        let by_client = count(late.iter());
        let shared: Vec<SharedTrait> =
            one_client(&by_client, self.config.client_percent).map(shared_client).into_iter().collect();
        let details = LateBlocksDetails { late: n_late, of_blocks: n, late_by_client: by_client };
        Some(self.observation(details.into(), slot, [since, until], n_late, shared, view))
    }

    fn observation(
        &self,
        what: Described,
        slot: Slot,
        [since, until]: [Slot; 2],
        measure: u64,
        shared: Vec<SharedTrait>,
        view: &DetectorView<'_>,
    ) -> Observation {
        Observation {
            what,
            key: String::new(),
            slot,
            since,
            until,
            severity: Severity::Warning,
            measure,
            validators: None,
            shared,
            closes_after: self.config.closes_after_epochs * view.network().preset().slots_per_epoch,
        }
    }
}

/// The proposers of slots without a block, as far as they are known.
struct Absent {
    proposers: Vec<(Slot, ValidatorIndex)>,
    /// Their number by the client that made their earlier blocks.
    by_client: ByClient,
}

impl Absent {
    fn of(slots: impl Iterator<Item = Slot>, view: &DetectorView<'_>) -> Self {
        let proposers: Vec<_> = slots.filter_map(|slot| Some((slot, view.facts.proposer(slot)?))).collect();
        let mut by_client = [0; N_CLIENTS];
        for (_, proposer) in &proposers {
            by_client[view.facts.clients().of(*proposer, view.chain)] += 1;
        }
        Self { proposers, by_client }
    }

    fn n_of_known_clients(&self) -> u64 {
        self.by_client.iter().enumerate().filter(|(client, _)| *client != UNKNOWN).map(|(_, n)| n).sum()
    }

    fn examples(&self) -> Vec<MissingProposer> {
        let named = self.proposers.iter().take(MAX_EXAMPLES);
        named.map(|(slot, validator)| MissingProposer { slot: *slot, validator: *validator }).collect()
    }

    /// Labels that at least `percent` of them have, and that are at most half as frequent among all
    /// validators.
    fn shared_labels(&self, percent: u64, view: &DetectorView<'_>) -> Vec<SharedTrait> {
        let mut members: BTreeMap<&Label, u64> = BTreeMap::new();
        for label in self.proposers.iter().flat_map(|(_, proposer)| view.labels.of(*proposer)) {
            *members.entry(label).or_default() += 1;
        }
        let (n, of_all) = (self.proposers.len() as u64, view.chain.registry().len() as u64);
        let is_striking = |label: &Label, members: u64| {
            let everywhere = view.labels.n_labelled(&label.key, &label.value);
            members * 100 >= n * percent && 2 * everywhere * n <= members * of_all
        };
        let striking = members.into_iter().filter(|(label, members)| is_striking(label, *members));
        let shared = |(label, members): (&Label, u64)| SharedTrait {
            what: format!("label:{}", label.key),
            value: label.value.clone(),
            members: Count(members),
        };
        striking.map(shared).collect()
    }
}

fn count<'a>(rows: impl Iterator<Item = &'a ProposerRow>) -> ByClient {
    let mut sums = [0; N_CLIENTS];
    for row in rows {
        if let Some(client) = row.client {
            sums[client] += 1;
        }
    }
    sums
}

/// For each client, the number of blocks expected from it in `n` slots, less the number that it
/// made.
fn deficits(reference: &ByClient, now: &ByClient, n: u64) -> ByClient {
    let all: u64 = reference.iter().sum();
    let mut deficits = [0; N_CLIENTS];
    for (client, deficit) in deficits.iter_mut().enumerate().filter(|(client, _)| *client != UNKNOWN) {
        *deficit = (reference[client] * n / all.max(1)).saturating_sub(now[client]);
    }
    deficits
}

impl Detector for ProposalsDetector {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        // If nothing at all was received in the slot, nothing is known about its proposer either.
        let Some(facts) = view.facts.slot(slot).filter(|facts| facts.voters > 0 || !facts.blocks.is_empty()) else { return };
        let due = view.network().spec.attestation_due(slot).as_nanos() as i64;
        let first = facts.blocks.iter().find(|block| view.facts.is_backed(slot, block));
        let row = ProposerRow {
            slot,
            client: first.map(|block| block.client),
            is_late: first.filter(|block| block.source == SourceKind::Gossip).map(|block| block.offset_ns > due),
        };
        self.rows.push(row, MAX_ROWS);
        out.extend(self.missed(slot, view).map(Signal::Observation));
        out.extend(self.late(slot, view).map(Signal::Observation));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
