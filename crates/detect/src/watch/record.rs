//! What is known of one watched key: when it last voted, how many duties it missed, and how good
//! its votes were.
//!
//! The last 64 judged epochs are counted, as bits. Nothing is kept over a restart: the vote index
//! has the votes, but not what the network looked like at that time.

use super::Proposals;
use consensus::{Epoch, PubkeyBytes, Slot};

/// `TIMELY_SOURCE_WEIGHT`, `TIMELY_TARGET_WEIGHT` and `TIMELY_HEAD_WEIGHT` of
/// altair/beacon-chain.md.
const SOURCE_WEIGHT: u32 = 14;
const TARGET_WEIGHT: u32 = 26;
const HEAD_WEIGHT: u32 = 14;

/// How a duty was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DutyOutcome {
    /// No vote for that epoch was received.
    Missed,
    Voted {
        right_target: bool,
        right_head: bool,
    },
}

/// One key's duties. In each bit field the lowest bit is the latest judged epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyRecord {
    pub pubkey: PubkeyBytes,
    pub last_vote: Option<Slot>,
    /// Slot of its newest vote or block that had not come before, or that in which it came if its
    /// own was still ahead.
    pub last_signed: Option<Slot>,
    pub missed_in_a_row: u32,
    pub proposals: Proposals,
    /// Highest source epoch of its votes: a later vote with an older source surrounds that vote.
    pub newest_source: Option<Epoch>,
    due: u64,
    voted: u64,
    right_target: u64,
    right_head: u64,
}

impl KeyRecord {
    pub fn new(pubkey: PubkeyBytes) -> Self {
        Self { pubkey, ..Self::default() }
    }

    /// Records a vote or a block that arrived in slot `now`. One for a slot far ahead, which a wrong
    /// clock or a thief may sign, counts for the slot in which it came.
    pub fn signed(&mut self, slot: Slot, now: Slot) {
        self.last_signed = self.last_signed.max(Some(slot.min(now.saturating_add(1))));
    }

    /// Records an epoch in which the key was on duty.
    pub fn judged(&mut self, outcome: DutyOutcome) {
        let (voted, right_target, right_head) = match outcome {
            DutyOutcome::Missed => (false, false, false),
            DutyOutcome::Voted { right_target, right_head } => (true, right_target, right_head),
        };
        self.missed_in_a_row = if voted { 0 } else { self.missed_in_a_row.saturating_add(1) };
        for (bits, is) in [
            (&mut self.due, true),
            (&mut self.voted, voted),
            (&mut self.right_target, right_target),
            (&mut self.right_head, right_head),
        ] {
            *bits = *bits << 1 | u64::from(is);
        }
    }

    /// A vote for an epoch that was judged as missed has arrived: it was late, but the key is in
    /// use.
    pub fn late_vote(&mut self) {
        self.missed_in_a_row = 0;
    }

    /// Number of judged epochs in which the key was on duty; the last 64 are counted.
    pub fn due(&self) -> u32 {
        self.due.count_ones()
    }

    /// Number of those epochs in which the key voted.
    pub fn voted(&self) -> u32 {
        self.voted.count_ones()
    }

    /// What its votes earned of the weights for source, target and head that they could have
    /// earned, in thousandths.
    pub fn effectiveness_permille(&self) -> Option<u32> {
        let possible = self.due() * (SOURCE_WEIGHT + TARGET_WEIGHT + HEAD_WEIGHT);
        let earned = self.voted() * SOURCE_WEIGHT
            + self.right_target.count_ones() * TARGET_WEIGHT
            + self.right_head.count_ones() * HEAD_WEIGHT;
        (earned * 1000).checked_div(possible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signature_is_not_hidden_by_one_for_the_far_future() {
        let mut record = KeyRecord::default();
        for (slot, now, wanted) in [(5, 5, 5), (4, 6, 5), (1 << 60, 6, 7), (7, 7, 7), (9, 8, 9), (8, 9, 9)] {
            record.signed(Slot::new(slot), Slot::new(now));
            assert_eq!(record.last_signed, Some(Slot::new(wanted)), "slot {slot} in slot {now}");
        }
    }

    #[test]
    fn effectiveness_is_what_the_weights_say() {
        let mut record = KeyRecord::default();
        assert_eq!(record.effectiveness_permille(), None);
        record.judged(DutyOutcome::Voted { right_target: true, right_head: true });
        assert_eq!(record.effectiveness_permille(), Some(1000));
        record.judged(DutyOutcome::Missed);
        record.judged(DutyOutcome::Missed);
        assert_eq!((record.missed_in_a_row, record.due(), record.voted()), (2, 3, 1));
        record.judged(DutyOutcome::Voted { right_target: false, right_head: false });
        // It earned 54 + 0 + 0 + 14 of 4 * 54.
        assert_eq!((record.missed_in_a_row, record.effectiveness_permille()), (0, Some(314)));
        for _ in 0..64 {
            record.judged(DutyOutcome::Voted { right_target: true, right_head: true });
        }
        assert_eq!((record.due(), record.effectiveness_permille()), (64, Some(1000)), "what is older is forgotten");
    }
}
