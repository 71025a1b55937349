//! `missed_duties`, warning: a watched key was to propose, but there was no block, or nobody voted
//! for the block or built on it.
//!
//! This is judged together with the votes of its epoch, and only in slots for which
//! `slot_heard_percent` of the votes or more were received. Votes name the block that they are for.
//! If only we did not receive a block, the votes name a block that is unknown here, and then
//! nothing is reported.
//!
//! **False alarms considered.** The proposer is computed
//! ([`Facts::proposer`](crate::monitor::Facts::proposer)) and used only if the other blocks of the
//! epoch agree. A key that was slashed may not propose. A block that came and lost, by a
//! reorganisation or because it was too late for anyone to vote for it, is reported as such.

use super::missed_duties::MissedDutiesDetails;
use crate::monitor::{DetectorView, SingleAnomaly};
use consensus::{Root, Slot, ValidatorIndex};
use evidence::Severity;
use verify::{SourceKind, Time};

/// The outcome of a slot in which a key was to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProposalOutcome {
    Made,
    /// A block was received, but nobody voted for it or built on it. `offset_ns` is its arrival in
    /// nanoseconds after the start of the slot.
    Lost {
        block: Root,
        offset_ns: i64,
    },
    /// No block was received.
    Missed,
}

impl ProposalOutcome {
    /// The outcome; `None` if it is not known. That is so if the proposer was slashed or is not
    /// active, or if the head that most others voted for is not known here.
    pub(super) fn of(proposer: ValidatorIndex, slot: Slot, view: &DetectorView<'_>) -> Option<Self> {
        let facts = view.facts.slot(slot)?;
        let own = || facts.blocks.iter().filter(|block| block.proposer == proposer);
        if own().any(|block| view.facts.is_backed(slot, block)) {
            return Some(Self::Made);
        }
        let record = view.chain.registry().record(proposer)?;
        let most = facts.tallies.iter().max_by_key(|tally| tally.voters)?;
        if record.slashed || !record.is_active(slot.epoch(view.network().preset())) || !view.chain.is_known_block(&most.head) {
            return None;
        }
        Some(own().next().map_or(Self::Missed, |block| Self::Lost { block: block.root, offset_ns: block.offset_ns }))
    }

    /// The report about a missing or lost block; `None` for a block that was made.
    pub(super) fn anomaly(
        self,
        proposer: ValidatorIndex,
        slot: Slot,
        groups: Vec<String>,
        view: &DetectorView<'_>,
    ) -> Option<SingleAnomaly> {
        let (block, root, after_slot_start_ms) = match self {
            Self::Made => return None,
            Self::Lost { block, offset_ns } => {
                ("heard, and nobody voted for it or built on it", Some(block), Some(offset_ns / 1_000_000))
            }
            Self::Missed => ("none heard", None, None),
        };
        let duty = "proposal".into();
        let details = MissedDutiesDetails::Proposal { duty, block: block.into(), root, after_slot_start_ms, groups };
        Some(SingleAnomaly {
            what: details.into(),
            key: format!("proposal {proposer}"),
            severity: Severity::Warning,
            slot,
            validator: Some(proposer),
            first_seen: Time(view.network().slot_start_ns(slot)),
            second_seen: None,
            sources: vec![SourceKind::Gossip.label().to_owned()],
        })
    }
}
