//! What became of a watched key's turn to propose.
//!
//! Judged with the votes of its epoch, and only in slots of whose votes `slot_heard_percent` or more were heard: votes name the block they
//! stand on, so a block that we alone did not hear shows in them as one that nobody knows here, and then nothing is said.
//!
//! **False alarms considered.** Whose turn it was is computed ([`Facts::proposer`](crate::monitor::Facts::proposer)) and believed only if
//! the other blocks of the epoch agree; a key that was slashed may not propose; a block that came and lost (a reorg, or too late
//! for anyone to vote for) is told as that.

use super::keeper::MissedDutiesDetails;
use crate::monitor::{SingleAnomaly, View};
use consensus::{Root, Slot, ValidatorIndex};
use evidence::Severity;
use verify::{SourceKind, UnixNs};

/// A turn to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Made,
    /// A block of it was heard, that nobody voted for or built on; so many nanoseconds after the slot began.
    Lost {
        block: Root,
        offset_ns: i64,
    },
    /// No block of it was heard.
    Missed,
}

impl Turn {
    /// `None` where it cannot be told: somebody was slashed, or what the others voted for is not known here.
    pub(super) fn of(proposer: ValidatorIndex, slot: Slot, view: &View<'_>) -> Option<Self> {
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

    /// `None` for a block that was made.
    pub(super) fn told(
        self,
        proposer: ValidatorIndex,
        slot: Slot,
        groups: Vec<String>,
        view: &View<'_>,
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
            first_seen: UnixNs(view.network().slot_start_ns(slot)),
            second_seen: None,
            sources: vec![SourceKind::Gossip.label().to_owned()],
        })
    }
}
