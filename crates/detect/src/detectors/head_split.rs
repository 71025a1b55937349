//! `head_split`: the network votes for two branches at once, slot after slot.
//!
//! For each slot the heads of its votes are grouped into sides. Two heads are on one side if one is
//! an ancestor of the other: a validator that votes for the parent of a late block is on the side
//! of that block. Other heads exclude each other. Unknown heads together are a side of their own.
//! There is a split if the second side has `min_percent` in at least `min_slots` of `window_slots`.
//! The incident reports the sides with their shares, where they parted, and who is on the smaller
//! sides, by client.
//!
//! **False alarms considered.** A block that is built on its grandparent: such a dispute over one
//! slot is over in the next (`min_slots`). Blocks that we lack: a head stays unknown only while the
//! nodes that we follow cannot supply it, and this must last for `min_slots`. Few votes: a slot
//! with fewer than `min_votes` does not count as split.

use super::common::{LatestRows, add, by_client, listed, one_client, shared_client};
use crate::client::{ByClient, N_CLIENTS};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Observation, Signal, SlotFacts};
use consensus::{Root, Slot};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};

/// How far back the fork point is searched, in slots.
const MAX_DEPTH: u64 = 2_048;

/// `[detect.head_split]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadSplitConfig {
    pub enabled: bool,
    /// Number of slots that are looked at together.
    pub window_slots: u64,
    /// Number of slots of the window in which the votes must be split.
    pub min_slots: u64,
    /// Smallest percentage of votes for the second side.
    pub min_percent: u64,
    /// The incident is critical when the smaller sides have this percentage of the votes.
    pub critical_percent: u64,
    /// A slot with fewer votes does not count as split.
    pub min_votes: u64,
    /// Percentage of the smaller sides that must run one client for it to be reported.
    pub client_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for HeadSplitConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_slots: 8,
            min_slots: 4,
            min_percent: 5,
            critical_percent: 33,
            min_votes: 8,
            client_percent: 80,
            closes_after_epochs: 1,
        }
    }
}

impl DetectorConfig for HeadSplitConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(HeadSplit::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("min_slots", self.min_slots, 1);
        problems.between("window_slots", self.window_slots, self.min_slots, 1_024);
        problems.between("min_percent", self.min_percent, 1, 50);
        problems.between("critical_percent", self.critical_percent, 1, 100);
        problems.between("client_percent", self.client_percent, 1, 100);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct HeadSplitDetails {
    sides: Vec<SideShare>,
    /// Slot of the last block that the two largest sides have in common.
    parted_after_slot: Option<Slot>,
    smaller_sides_percent: u64,
}

#[derive(Serialize, Deserialize)]
struct SideShare {
    head: Root,
    head_slot: Option<Slot>,
    percent: u64,
    #[serde(with = "by_client")]
    by_client: ByClient,
}

impl Details for HeadSplitDetails {
    const KIND: Kind = Kind::HeadSplit;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let shares = listed(self.sides.iter().map(|side| side.percent), " : ");
        let parted = self.parted_after_slot;
        let parted = parted.map_or_else(String::new, |slot| format!("; the branches parted after slot {slot}"));
        format!("Votes for heads that exclude each other, in percent: {shares}{parted}")
    }
}

/// One branch, as the votes of a slot show it.
#[derive(Clone, Debug)]
pub(super) struct SplitSide {
    /// The most advanced head that has votes.
    pub(super) head: Root,
    pub(super) voters: u64,
    pub(super) by_client: ByClient,
}

/// The sides of a slot's votes, the largest first.
pub(super) fn sides(facts: &SlotFacts, view: &DetectorView<'_>) -> Vec<SplitSide> {
    let chain = view.chain;
    let known = |root: &Root| chain.block_slot(root);
    let mut heads: Vec<(Option<Slot>, Root, u64, ByClient)> = Vec::new();
    for tally in &facts.tallies {
        match heads.iter_mut().find(|head| head.1 == tally.head) {
            Some(head) => {
                head.2 += tally.voters;
                add(&mut head.3, &tally.by_client);
            }
            None => heads.push((known(&tally.head), tally.head, tally.voters, tally.by_client)),
        }
    }
    // The most advanced head comes first, so that each older head can be compared with the sides as
    // a possible ancestor.
    heads.sort_by_key(|(slot, root, ..)| (std::cmp::Reverse(*slot), *root));
    let mut sides: Vec<SplitSide> = Vec::new();
    for (slot, root, voters, by_client) in heads {
        let same = |side: &&mut SplitSide| match (slot, known(&side.head)) {
            (Some(slot), Some(_)) => chain.ancestor_at(&side.head, slot) == Some(root),
            (None, None) => true,
            _ => false,
        };
        match sides.iter_mut().find(same) {
            Some(side) => {
                side.voters += voters;
                add(&mut side.by_client, &by_client);
            }
            None => sides.push(SplitSide { head: root, voters, by_client }),
        }
    }
    sides.sort_by_key(|side| (std::cmp::Reverse(side.voters), side.head));
    sides
}

/// Slot of the last block that two known heads have in common. The function always steps down on
/// the branch whose block is later, until both meet.
pub(super) fn parted_at(view: &DetectorView<'_>, one: Root, other: Root) -> Option<Slot> {
    let chain = view.chain;
    let (mut one, mut other) = ((chain.block_slot(&one)?, one), (chain.block_slot(&other)?, other));
    let lowest = one.0.min(other.0).saturating_sub(MAX_DEPTH);
    while one.1 != other.1 {
        let higher = if one.0 >= other.0 { &mut one } else { &mut other };
        if higher.0 <= lowest {
            return None;
        }
        let parent = chain.block_parent(&higher.1)?;
        *higher = (chain.block_slot(&parent)?, parent);
    }
    Some(one.0)
}

pub(crate) struct HeadSplit {
    config: HeadSplitConfig,
    /// Slots in which the second side was large enough.
    seen: LatestRows<Slot>,
    since: Option<Slot>,
}

impl HeadSplit {
    pub(crate) fn new(config: HeadSplitConfig) -> Self {
        Self { config, seen: LatestRows::default(), since: None }
    }
}

impl Detector for HeadSplit {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.seen.forget_while(|seen| seen.saturating_add(self.config.window_slots) <= slot);
        let Some(facts) = view.facts.slot(slot) else { return };
        let all: u64 = facts.tallies.iter().map(|tally| tally.voters).sum();
        let sides = sides(facts, view);
        let second = sides.get(1).map_or(0, |side| side.voters);
        if all >= self.config.min_votes && second * 100 >= all * self.config.min_percent && second >= 2 {
            self.seen.push(slot, self.config.window_slots as usize);
        }
        let n_seen = self.seen.iter().count() as u64;
        if n_seen < self.config.min_slots {
            if n_seen == 0 {
                self.since = None;
            }
            return;
        }
        let since = *self.since.get_or_insert(*self.seen.iter().next().unwrap_or(&slot));
        let (Some(first), Some(second)) = (sides.first(), sides.get(1)) else { return };
        let mut small: ByClient = [0; N_CLIENTS];
        for side in &sides[1..] {
            add(&mut small, &side.by_client);
        }
        let away: u64 = sides[1..].iter().map(|side| side.voters).sum();
        let percent = away * 100 / all.max(1);
        let shared = one_client(&small, self.config.client_percent).map(shared_client);
        let shares = sides.iter().take(4).map(|side| SideShare {
            head: side.head,
            head_slot: view.chain.block_slot(&side.head),
            percent: side.voters * 100 / all.max(1),
            by_client: side.by_client,
        });
        let details = HeadSplitDetails {
            sides: shares.collect(),
            parted_after_slot: parted_at(view, first.head, second.head),
            smaller_sides_percent: percent,
        };
        let per_epoch = view.network().preset().slots_per_epoch;
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since,
            until: self.seen.iter().next_back().copied().unwrap_or(slot),
            severity: if percent >= self.config.critical_percent { Severity::Critical } else { Severity::Warning },
            measure: percent,
            validators: Some((away * per_epoch).min(view.chain.registry().len() as u64)),
            shared: shared.into_iter().collect(),
            closes_after: self.config.closes_after_epochs * view.network().preset().slots_per_epoch,
        }));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
