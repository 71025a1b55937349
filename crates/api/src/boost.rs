//! Proposer boost after a double proposal, from Gloas on.
//!
//! The fork choice gives the first timely block of a slot a weight of its own, the proposer boost.
//! From Gloas on it withholds this boost in one case (consensus-specs, `gloas/fork-choice.md`,
//! `should_apply_proposer_boost`): the boosted block builds on a block of the slot before, that
//! parent is weak (`is_head_weak`: less than `REORG_HEAD_WEIGHT_THRESHOLD` of a slot's votes), and
//! its proposer made another block that came before payload attestations were due. Heze has the
//! same rule.
//!
//! So a double proposal in slot n is about the boost in slot n + 1. This is computed from what was
//! heard here. Each node decides by its own arrivals, so the reason names them.

use crate::observed::{ObservedBlock, ObservedSlot, after_start_ms};
use crate::slots::{millis, ratio};
use consensus::{ForkName, Network, Root, Slot};
use serde::Serialize;
use utoipa::ToSchema;

/// `REORG_HEAD_WEIGHT_THRESHOLD` of the specification, as a share of a slot's votes.
const WEAK_SHARE: f64 = 0.2;
/// The threshold is a share of the average slot's stake, and votes are counted here. So a share
/// that is nearer to the threshold than this decides nothing.
const UNCERTAIN: f64 = 0.02;
/// `MAXIMUM_GOSSIP_CLOCK_DISPARITY`. A block that comes so near to a deadline is in time for some
/// nodes and late for others.
const DISPARITY_MS: f64 = 500.0;

/// What became of the boost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BoostState {
    Withheld,
    Applied,
    /// No block of the next slot came in time for one.
    NoBoost,
    NotKnown,
}

/// Whether the block of the next slot has its proposer boost.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct BoostView {
    pub(crate) state: BoostState,
    /// A sentence for people.
    pub(crate) reason: String,
    /// The block of the next slot that has the boost or lacks it.
    #[schema(value_type = Option<String>)]
    block: Option<Root>,
    /// Share of the slot's votes for the parent of that block, 0 to 1, as far as they were heard.
    parent_share: Option<f64>,
}

/// What is decided from.
pub(crate) struct BoostQuestion<'a> {
    /// The slot with several blocks of one proposer.
    pub slot: &'a ObservedSlot,
    /// What was heard of the slot after it.
    pub next: Option<&'a ObservedSlot>,
    pub now: Slot,
    /// Validators whose contradicting votes for the slot are known. They count for the parent.
    pub n_equivocating: u64,
    /// Slot of a block that was heard.
    pub slot_of: &'a dyn Fn(Root) -> Option<Slot>,
}

impl BoostView {
    /// `None` before Gloas, which does not withhold any boost.
    pub(crate) fn of(question: &BoostQuestion<'_>, network: &Network) -> Option<Self> {
        let next_slot = question.slot.slot.saturating_add(1);
        let fork = network.spec.fork_name_at(next_slot.epoch(network.preset()));
        (fork >= ForkName::Gloas).then(|| decide(question, next_slot, network))
    }
}

fn decide(question: &BoostQuestion<'_>, next_slot: Slot, network: &Network) -> BoostView {
    let BoostQuestion { slot, next, now, n_equivocating, slot_of } = question;
    let without_block = |state, reason: String| BoostView { state, reason, block: None, parent_share: None };
    if *now <= next_slot {
        return without_block(BoostState::NotKnown, format!("slot {next_slot} is not over"));
    }
    let heard = next.map_or(&[][..], |next| &next.blocks);
    if heard.is_empty() {
        let reason = format!("no block of slot {next_slot} was heard; if there was none, there was no boost to withhold");
        return without_block(BoostState::NotKnown, reason);
    }
    let due = millis(network.spec.attestation_due(next_slot)) as f64;
    let came =
        |block: &ObservedBlock, of: Slot| (block.heard.source == "gossip").then(|| after_start_ms(&block.heard, of, network));
    let backed = || heard.iter().filter(|block| block.is_backed != Some(false));
    let Some(boosted) = backed().find(|block| came(block, next_slot).is_some_and(|at| at < due)) else {
        return if backed().all(|block| came(block, next_slot).is_some()) {
            without_block(BoostState::NoBoost, format!("no block of slot {next_slot} came before its votes were due"))
        } else {
            without_block(BoostState::NotKnown, format!("it was not heard when the block of slot {next_slot} was published"))
        };
    };
    let said = |state, reason: String, parent_share| BoostView { state, reason, block: Some(boosted.root), parent_share };
    let Some(parent) = slot.blocks.iter().find(|block| block.root == boosted.parent) else {
        return match slot_of(boosted.parent) {
            Some(earlier) => said(
                BoostState::Applied,
                format!("the block of slot {next_slot} builds on slot {earlier}, before these blocks"),
                None,
            ),
            None => said(BoostState::NotKnown, format!("the parent of the block of slot {next_slot} was not heard"), None),
        };
    };
    let mut twins = slot.blocks.iter().filter(|block| block.proposer == parent.proposer && block.root != parent.root).peekable();
    if twins.peek().is_none() {
        return said(BoostState::Applied, "the proposer of its parent made only that block".to_owned(), None);
    }
    let votes: u64 = slot.votes.iter().filter(|votes| votes.head == parent.root).map(|votes| votes.tally.votes).sum();
    let share = slot.seats.and_then(|seats| ratio(votes, seats));
    let (Some(seats), Some(least)) = (slot.seats, share) else {
        return said(BoostState::NotKnown, "how many votes the slot has is not known".to_owned(), None);
    };
    // Votes that were not heard, and those that are not listed, may all be for the parent.
    let unheard = seats.saturating_sub(slot.voters).saturating_add(slot.further_voters).saturating_add(*n_equivocating);
    let most = votes.saturating_add(unheard) as f64 / seats as f64;
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    if least >= WEAK_SHARE + UNCERTAIN {
        let reason = format!("its parent has {} of the slot's votes, and {} are enough", percent(least), percent(WEAK_SHARE));
        return said(BoostState::Applied, reason, share);
    }
    if most >= WEAK_SHARE - UNCERTAIN {
        let reason = format!(
            "its parent has {} to {} of the slot's votes, and below {} it is weak",
            percent(least),
            percent(most.min(1.0)),
            percent(WEAK_SHARE)
        );
        return said(BoostState::NotKnown, reason, share);
    }
    let deadline = millis(network.spec.slot_duration * 3 / 4) as f64;
    let weak = format!("its parent is weak ({} of the slot's votes)", percent(least));
    let mut arrivals: Vec<Option<f64>> = twins.map(|twin| came(twin, slot.slot)).collect();
    arrivals.sort_by(|a, b| a.unwrap_or(f64::MAX).total_cmp(&b.unwrap_or(f64::MAX)));
    match arrivals[..] {
        [Some(at), ..] if at < deadline - DISPARITY_MS => {
            let reason =
                format!("{weak}, and its proposer's other block came {:.1} s after the slot's start, in time", at / 1000.0);
            said(BoostState::Withheld, reason, share)
        }
        [Some(at), ..] if at < deadline + DISPARITY_MS => {
            let reason = format!(
                "{weak}, and its proposer's other block came {:.1} s after the slot's start, so near to the deadline of {:.1} s \
                 that nodes may differ",
                at / 1000.0,
                deadline / 1000.0
            );
            said(BoostState::NotKnown, reason, share)
        }
        _ if arrivals.iter().all(Option::is_some) => {
            let reason = format!("{weak}, but its proposer's other block came after the deadline of {:.1} s", deadline / 1000.0);
            said(BoostState::Applied, reason, share)
        }
        _ => {
            let reason = format!("{weak}, but when its proposer's other block was published was not heard");
            said(BoostState::NotKnown, reason, share)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Heard, ObservedVotes, VoteTally};
    use consensus::{Checkpoint, ValidatorIndex};
    use evidence::Time;

    fn root(byte: u8) -> Root {
        Root::repeat_byte(byte)
    }

    /// A slot of Gloas on Sepolia.
    fn slot() -> Slot {
        Slot::new(353_024 * 32 + 7)
    }

    fn block(network: &Network, slot: Slot, byte: u8, parent: u8, at_ms: u64, source: &'static str) -> ObservedBlock {
        ObservedBlock {
            root: root(byte),
            parent: root(parent),
            proposer: ValidatorIndex::new(slot.as_u64()),
            client: None,
            heard: Heard { at: Time::from_unix_ns(network.slot_start_ns(slot) + at_ms * 1_000_000), source },
            attestations: None,
            is_backed: None,
        }
    }

    /// Two blocks 1 and 2 of one proposer on block 9, and block 3 of the next slot, which builds on
    /// block 1. 100 seats, of which `votes` are for block 1 and all others for block 2.
    struct Case {
        votes: u64,
        heard: u64,
        second_at: u64,
        second_in: &'static str,
        next_at: u64,
        next_on: u8,
    }

    const WITHHELD: Case = Case { votes: 10, heard: 100, second_at: 2_000, second_in: "gossip", next_at: 900, next_on: 1 };

    fn state(case: &Case) -> (BoostState, String) {
        let network = Network::builtin("sepolia").unwrap();
        let votes = |byte: u8, votes: u64| ObservedVotes {
            head: root(byte),
            source: Checkpoint::default(),
            target: Checkpoint::default(),
            tally: VoteTally { votes, ..VoteTally::default() },
        };
        let (at, after) = (slot(), slot().saturating_add(1));
        let first = ObservedSlot {
            slot: at,
            blocks: vec![block(&network, at, 1, 9, 1_000, "gossip"), block(&network, at, 2, 9, case.second_at, case.second_in)],
            votes: vec![votes(1, case.votes), votes(2, case.heard - case.votes)],
            voters: case.heard,
            seats: Some(100),
            ..ObservedSlot::default()
        };
        let next = ObservedSlot {
            slot: after,
            blocks: vec![block(&network, after, 3, case.next_on, case.next_at, "gossip")],
            ..ObservedSlot::default()
        };
        let slot_of = |wanted: Root| (wanted == root(9)).then(|| Slot::new(at.as_u64() - 1));
        let now = after.saturating_add(1);
        let question = BoostQuestion { slot: &first, next: Some(&next), now, n_equivocating: 0, slot_of: &slot_of };
        let view = BoostView::of(&question, &network).unwrap();
        (view.state, view.reason)
    }

    #[test]
    fn the_boost_is_withheld_from_a_block_on_a_weak_block_with_a_timely_twin() {
        let (said, reason) = state(&WITHHELD);
        assert_eq!(said, BoostState::Withheld, "{reason}");
        assert_eq!(
            reason,
            "its parent is weak (10 % of the slot's votes), and its proposer's other block came 2.0 s after the slot's start, in time"
        );
    }

    #[test]
    fn each_condition_of_the_specification_counts() {
        let cases = [
            (Case { votes: 22, ..WITHHELD }, BoostState::Applied, "the parent is not weak"),
            (Case { votes: 20, ..WITHHELD }, BoostState::NotKnown, "near to the threshold"),
            (Case { heard: 70, ..WITHHELD }, BoostState::NotKnown, "30 votes were not heard"),
            (Case { heard: 95, ..WITHHELD }, BoostState::Withheld, "five votes change nothing"),
            (Case { second_at: 9_600, ..WITHHELD }, BoostState::Applied, "the twin came too late"),
            (Case { second_at: 9_200, ..WITHHELD }, BoostState::NotKnown, "nodes differ about the deadline"),
            (Case { second_in: "slashing_op", ..WITHHELD }, BoostState::NotKnown, "the twin was only in an operation"),
            (Case { next_at: 3_500, ..WITHHELD }, BoostState::NoBoost, "the next block is late"),
            (Case { next_on: 9, ..WITHHELD }, BoostState::Applied, "it builds on an earlier slot"),
            (Case { next_on: 8, ..WITHHELD }, BoostState::NotKnown, "its parent was not heard"),
        ];
        for (case, wanted, why) in cases {
            let (said, reason) = state(&case);
            assert_eq!(said, wanted, "{why}: {reason}");
        }
    }

    #[test]
    fn before_gloas_there_is_nothing_to_withhold() {
        let network = Network::builtin("mainnet").unwrap();
        let first = ObservedSlot { slot: Slot::new(1000), ..ObservedSlot::default() };
        let now = Slot::new(1002);
        let question = BoostQuestion { slot: &first, next: None, now, n_equivocating: 0, slot_of: &|_| None };
        assert_eq!(BoostView::of(&question, &network), None);
    }
}
