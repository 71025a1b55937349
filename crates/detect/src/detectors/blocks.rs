//! `competing_blocks` and `deep_reorg`: events of single blocks. Each is reported as a finding
//! without proof.
//!
//! - *competing*: proposers of two branches made a block for one slot. So their registries or
//!   randao mixes differ, and the branches parted more than an epoch ago. Two blocks of *one*
//!   proposer are a `double_proposal` and are reported as such.
//! - *reorg*: the largest side of a slot's votes is for a head that does not descend from the
//!   earlier one, and at least `reorg_slots` of what had been voted for is given up.
//!
//! **False alarms considered.** A block of somebody who is not the proposer of its slot: nobody
//! votes for it or builds on it. A late block that the next proposer leaves out: it is one slot
//! deep, which is below `reorg_slots`. A slot with few votes: the largest side must have
//! `head_percent` of its seats. A split, in which the majority stays where it is, or moves to and
//! fro while `left_percent` still vote for the branch that it left: this is reported as a split.

use super::head_split::{parted_at, sides};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Described, Details, Detector, DetectorView, Signal, SingleAnomaly};
use consensus::{Root, Slot, ValidatorIndex};
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use verify::Time;

/// `[detect.blocks]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlocksConfig {
    pub enabled: bool,
    /// Number of slots that must be given up.
    pub reorg_slots: u64,
    /// Percentage of a slot's seats that must vote for the head of the largest side.
    pub head_percent: u64,
    /// If this percentage still votes for the left branch, it is a split and no reorganisation.
    pub left_percent: u64,
    /// See [`Facts::is_backed`](crate::monitor::Facts::is_backed).
    pub backing_votes: u64,
    pub backing_percent: u64,
}

impl Default for BlocksConfig {
    fn default() -> Self {
        Self { enabled: true, reorg_slots: 3, head_percent: 33, left_percent: 25, backing_votes: 2, backing_percent: 2 }
    }
}

impl DetectorConfig for BlocksConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(Blocks::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("reorg_slots", self.reorg_slots, 2, 1_024);
        problems.between("head_percent", self.head_percent, 1, 100);
        problems.between("left_percent", self.left_percent, 1, 50);
        problems.at_least("backing_votes", self.backing_votes, 1);
        problems.between("backing_percent", self.backing_percent, 0, 50);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct CompetingBlocksDetails {
    blocks: Vec<CompetingBlock>,
    /// Slot of the last block that the first two blocks have in common.
    parted_after_slot: Option<Slot>,
}

#[derive(Serialize, Deserialize)]
struct CompetingBlock {
    root: Root,
    parent: Root,
    proposer: ValidatorIndex,
    ms_after_slot_start: i64,
}

impl Details for CompetingBlocksDetails {
    const KIND: Kind = Kind::CompetingBlocks;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let parted = self.parted_after_slot.map_or_else(String::new, |slot| format!(", which parted after slot {slot}"));
        format!("{} proposers made a block for one slot, on branches that exclude each other{parted}", self.blocks.len())
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct DeepReorgDetails {
    depth_slots: u64,
    given_up: Root,
    given_up_slot: Slot,
    new_head: Root,
    common_slot: Slot,
}

impl Details for DeepReorgDetails {
    const KIND: Kind = Kind::DeepReorg;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { depth_slots, given_up_slot, common_slot, .. } = self;
        format!("Most votes left the block of slot {given_up_slot}: {depth_slots} slots after slot {common_slot} are given up")
    }
}

pub(crate) struct Blocks {
    config: BlocksConfig,
    /// The head of the largest side in the last slot that had enough votes.
    head: Option<Root>,
    /// The slot in which competing blocks were last reported. They occur slot after slot in a
    /// split, so they are reported once per epoch.
    competing_reported: Option<Slot>,
}

impl Blocks {
    pub(crate) fn new(config: BlocksConfig) -> Self {
        Self { config, head: None, competing_reported: None }
    }

    fn competing(&mut self, slot: Slot, view: &DetectorView<'_>) -> Option<SingleAnomaly> {
        let facts = view.facts.slot(slot)?;
        let backed = || facts.blocks.iter().filter(|block| view.facts.is_backed(slot, block));
        let first = backed().next()?;
        let other = backed().find(|block| block.proposer != first.proposer)?;
        let per_epoch = view.network().preset().slots_per_epoch;
        if self.competing_reported.is_some_and(|last| last.saturating_add(per_epoch) > slot) {
            return None;
        }
        self.competing_reported = Some(slot);
        let blocks = backed().map(|block| CompetingBlock {
            root: block.root,
            parent: block.parent,
            proposer: block.proposer,
            ms_after_slot_start: block.offset_ns / 1_000_000,
        });
        let blocks = blocks.collect();
        let details = CompetingBlocksDetails { blocks, parted_after_slot: parted_at(view, first.root, other.root) };
        Some(anomaly(details.into(), slot, view))
    }

    fn reorg(&mut self, slot: Slot, view: &DetectorView<'_>) -> Option<SingleAnomaly> {
        let facts = view.facts.slot(slot)?;
        let sides = sides(facts, view);
        let first = sides.first()?;
        if first.voters * 100 < self.config.head_percent * facts.expected || view.chain.block_slot(&first.head).is_none() {
            return None;
        }
        // A head is given up only when few still vote for it. While both branches have votes, this
        // is a split and no reorganisation.
        if let Some(before) = self.head
            && let Some(was_at) = view.chain.block_slot(&before)
        {
            let goes_on = |head: &Root| view.chain.ancestor_at(head, was_at) == Some(before);
            let many = |voters: u64| voters * 100 >= self.config.left_percent * facts.expected;
            let lives = sides.iter().skip(1).any(|side| many(side.voters) && goes_on(&side.head));
            if lives && !goes_on(&first.head) {
                return None;
            }
        }
        let before = self.head.replace(first.head)?;
        let was_at = view.chain.block_slot(&before)?;
        let common = parted_at(view, before, first.head)?;
        let depth_slots = was_at.as_u64() - common.as_u64();
        // Going back to an ancestor gives up as many slots as going to another branch.
        if depth_slots < self.config.reorg_slots {
            return None;
        }
        let details =
            DeepReorgDetails { depth_slots, given_up: before, given_up_slot: was_at, new_head: first.head, common_slot: common };
        Some(anomaly(details.into(), slot, view))
    }
}

impl Detector for Blocks {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        out.extend(self.competing(slot, view).map(Signal::Anomaly));
        out.extend(self.reorg(slot, view).map(Signal::Anomaly));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}

fn anomaly(what: Described, slot: Slot, view: &DetectorView<'_>) -> SingleAnomaly {
    SingleAnomaly {
        what,
        key: String::new(),
        severity: Severity::Warning,
        slot,
        validator: None,
        first_seen: Time(view.network().slot_start_ns(slot)),
        second_seen: None,
        sources: vec!["gossip".to_owned()],
    }
}
