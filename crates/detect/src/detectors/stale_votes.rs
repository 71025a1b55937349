//! `stale_votes`: votes for old heads or old targets, and votes that make no sense.
//!
//! The detector compares the votes of a slot with the newest block that existed when the slot
//! began. It counts:
//!
//! - *stale heads*: the head is a known ancestor of that block and at least `stale_slots` behind
//!   it;
//! - *stale targets*: the target's block is not that of its epoch on the head's branch, but an
//!   ancestor of it;
//! - *backwards*: the vote is for the head that most vote for, with an older source than most name;
//! - *old epochs*: the vote was received outside of blocks, and its target is before the previous
//!   epoch.
//!
//! An incident opens when they are `min_percent` of the votes of `window_slots` and at least
//! `min_votes`. It reports them by client where the client is known. May 2023 and December 2025
//! began in this way: with valid votes whose old state every receiver had to compute again.
//!
//! **False alarms considered.** Late blocks and reorganisations of one block: a head one block old
//! is not `stale_slots` behind. A stretch without blocks: the distance is measured in the slots of
//! blocks, not in time. The first slot of an epoch, whose block often comes late, so that some
//! validators still vote for the block before it as target: the target must also be `stale_slots`
//! before the start of the epoch. A split: its other side is not an ancestor, and is reported by
//! `head_split`.

use super::common::{LatestRows, add, by_client, one_client, shared_client};
use crate::client::{ByClient, N_CLIENTS};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Observation, Signal, SlotFacts};
use consensus::{Checkpoint, Slot};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[detect.stale_votes]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StaleVotesConfig {
    pub enabled: bool,
    /// Number of slots over which votes are counted.
    pub window_slots: u64,
    /// A head is stale when it is this number of slots behind the newest block.
    pub stale_slots: u64,
    /// Smallest percentage of such votes that opens an incident.
    pub min_percent: u64,
    /// Smallest number of such votes that opens an incident.
    pub min_votes: u64,
    /// Percentage of such votes that must be of one client for it to be reported.
    pub client_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for StaleVotesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_slots: 8,
            stale_slots: 6,
            min_percent: 5,
            min_votes: 6,
            client_percent: 80,
            closes_after_epochs: 1,
        }
    }
}

impl DetectorConfig for StaleVotesConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(StaleVotes::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("window_slots", self.window_slots, 1, 1_024);
        problems.at_least("stale_slots", self.stale_slots, 2);
        problems.between("min_percent", self.min_percent, 1, 100);
        problems.between("client_percent", self.client_percent, 1, 100);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct StaleVotesDetails {
    percent_of_votes: u64,
    stale_heads: u64,
    stale_targets: u64,
    sources_backwards: u64,
    old_epochs: u64,
    outside_their_committee_or_unknown: u64,
    #[serde(with = "by_client")]
    by_client: ByClient,
}

impl Details for StaleVotesDetails {
    const KIND: Kind = Kind::StaleVotes;

    fn sentence(&self, _validators: Option<u64>) -> String {
        format!(
            "{} percent of a slot's votes were out of date: {} for old heads, {} for old targets",
            self.percent_of_votes, self.stale_heads, self.stale_targets
        )
    }
}

#[derive(Clone, Copy, Default)]
struct StaleRow {
    slot: Slot,
    votes: u64,
    heads: u64,
    targets: u64,
    backwards: u64,
    old_epochs: u64,
    odd: u64,
    unseated: u64,
    by_client: [u64; N_CLIENTS],
}

pub(crate) struct StaleVotes {
    config: StaleVotesConfig,
    rows: LatestRows<StaleRow>,
    since: Option<Slot>,
}

impl StaleVotes {
    pub(crate) fn new(config: StaleVotesConfig) -> Self {
        Self { config, rows: LatestRows::default(), since: None }
    }

    fn row(&self, slot: Slot, facts: &SlotFacts, view: &DetectorView<'_>) -> StaleRow {
        let chain = view.chain;
        let preset = view.network().preset();
        let newest = chain.head_at(slot.saturating_sub(1));
        let mut row = StaleRow { slot, unseated: facts.unseated, ..StaleRow::default() };
        row.old_epochs = view.facts.arrivals(slot).map_or(0, |arrivals| arrivals.old_targets);
        let mut by_source: BTreeMap<Checkpoint, u64> = BTreeMap::new();
        for tally in &facts.tallies {
            *by_source.entry(tally.source).or_default() += tally.voters;
        }
        let usual = by_source.iter().max_by_key(|(_, n)| **n).map_or(0, |(source, _)| source.epoch.as_u64());
        let usual_head = facts.tallies.iter().max_by_key(|tally| tally.voters).map(|tally| tally.head);
        for tally in &facts.tallies {
            row.votes += tally.voters;
            let head_slot = chain.block_slot(&tally.head);
            let stale_head = head_slot.is_some_and(|at| {
                at.saturating_add(self.config.stale_slots) <= newest.slot && is_ancestor(view, tally.head, at, newest.root)
            });
            let start = tally.target.epoch.start_slot(preset);
            let stale_target = chain.block_slot(&tally.target.root).is_some_and(|at| {
                at.saturating_add(self.config.stale_slots) <= start
                    && chain
                        .ancestor_at(&newest.root, start)
                        .is_some_and(|right| right != tally.target.root && is_ancestor(view, tally.target.root, at, right))
            });
            let same_branch = usual_head == Some(tally.head);
            let backwards = tally.source.epoch.as_u64() < usual && same_branch;
            row.heads += if stale_head { tally.voters } else { 0 };
            row.targets += if stale_target { tally.voters } else { 0 };
            row.backwards += if backwards { tally.voters } else { 0 };
            if stale_head || stale_target || backwards {
                row.odd += tally.voters;
                add(&mut row.by_client, &tally.by_client);
            }
        }
        row
    }
}

fn is_ancestor(view: &DetectorView<'_>, root: consensus::Root, slot: Slot, of: consensus::Root) -> bool {
    view.chain.ancestor_at(&of, slot) == Some(root)
}

impl Detector for StaleVotes {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let Some(facts) = view.facts.slot(slot) else { return };
        let row = self.row(slot, facts, view);
        self.rows.push(row, self.config.window_slots as usize);
        self.rows.forget_while(|row| row.slot.saturating_add(self.config.window_slots) <= slot);
        let sum = |of: &dyn Fn(&StaleRow) -> u64| self.rows.iter().map(of).sum::<u64>();
        let (votes, odd) = (sum(&|row| row.votes), sum(&|row| row.odd) + sum(&|row| row.old_epochs));
        if odd < self.config.min_votes || odd * 100 < votes * self.config.min_percent {
            self.since = None;
            return;
        }
        let first = self.rows.iter().find(|row| row.odd + row.old_epochs > 0).map_or(slot, |row| row.slot);
        let since = *self.since.get_or_insert(first);
        // The window still shows for a while a condition that is over.
        let until = self.rows.iter().rev().find(|row| row.odd + row.old_epochs > 0).map_or(slot, |row| row.slot);
        let mut by_client = [0; N_CLIENTS];
        for row in self.rows.iter() {
            add(&mut by_client, &row.by_client);
        }
        let shared = one_client(&by_client, self.config.client_percent).map(shared_client);
        let percent = odd * 100 / votes.max(1);
        let details = StaleVotesDetails {
            percent_of_votes: percent,
            stale_heads: sum(&|row| row.heads),
            stale_targets: sum(&|row| row.targets),
            sources_backwards: sum(&|row| row.backwards),
            old_epochs: sum(&|row| row.old_epochs),
            outside_their_committee_or_unknown: sum(&|row| row.unseated),
            by_client,
        };
        let per_epoch = view.network().preset().slots_per_epoch;
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since,
            until,
            severity: Severity::Warning,
            measure: percent,
            validators: Some(odd),
            shared: shared.into_iter().collect(),
            closes_after: self.config.closes_after_epochs * per_epoch,
        }));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
