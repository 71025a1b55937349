//! Offenders: some vote for two heads, and some sign two votes of which one surrounds the other.
//!
//! | offence | first vote | second vote, which completes it |
//! |---|---|---|
//! | double vote | the honest vote | for the head's parent |
//! | surround vote | (source, epoch + 2) | (source + 1, epoch + 1) |
//!
//! The first vote of a surround pair comes from a clock that is two epochs fast. The second vote
//! looks like any other. Only the history of its signer makes it an offence.

use super::capture::OFFENCES_FROM;
use super::slot::{LoadMessage, SlotDuty, compressed, even, vote_time};
use super::{Load, LoadPlan};
use crate::containers::single_attestation;
use crate::ground_truth::crime;
use consensus::{AttestationData, Checkpoint, Offence, Slot};

/// Least time between the first and the second vote, in nanoseconds. The second one is sent before
/// [`SECOND_VOTES_END`].
const SECOND_AFTER: u64 = 200_000_000;
/// End of the second votes, in nanoseconds after the start of the slot.
const SECOND_VOTES_END: u64 = 8_500_000_000;

impl LoadPlan {
    /// The number of offenders in a slot: those that are left are spread over the slots that are
    /// left.
    fn share(&self, left: usize, duty: &SlotDuty) -> usize {
        let nth = duty.slot.as_u64() - self.slot_before().as_u64();
        let slots_left = self.slots.saturating_sub(nth) as usize + 1;
        if nth < OFFENCES_FROM { 0 } else { left.div_ceil(slots_left).min(duty.voters.len()) }
    }
}

impl Load {
    /// Adds the second votes of this slot's offenders.
    pub(super) fn vote_twice(&mut self, duty: &SlotDuty, out: &mut Vec<LoadMessage>) {
        let n = self.plan.share(self.offenders_left, duty);
        if n == 0 {
            return;
        }
        self.offenders_left -= n;
        let offenders: Vec<usize> = (0..n).map(|i| i * duty.voters.len() / n).collect();
        let seconds = self.cast(duty, &offenders, &duty.stale, |nth, at| second_time(nth, vote_time(at)));
        for (mut second, at) in seconds.into_iter().zip(offenders) {
            let firsts = (vote_time(at), &duty.data);
            self.complete(&mut second, Offence::DoubleVote, duty, at, firsts, &duty.stale);
            out.push(second);
        }
    }

    /// Adds both votes of this slot's surrounders.
    pub(super) fn surround(&mut self, duty: &SlotDuty, out: &mut Vec<LoadMessage>) {
        let n = self.plan.share(self.surrounders_left, duty);
        if n == 0 {
            return;
        }
        self.surrounders_left -= n;
        let surrounders: Vec<usize> = (0..n).map(|i| (2 * i + 1) * duty.voters.len() / (2 * n)).collect();
        let (outer, inner) = (self.ahead(&duty.data, 2, 0), self.ahead(&duty.data, 1, 1));
        out.extend(self.cast(duty, &surrounders, &outer, |_, at| vote_time(at)));
        let seconds = self.cast(duty, &surrounders, &inner, |nth, at| second_time(nth, vote_time(at)));
        for (mut second, at) in seconds.into_iter().zip(surrounders) {
            self.complete(&mut second, Offence::SurroundVote, duty, at, (vote_time(at), &outer), &inner);
            out.push(second);
        }
    }

    /// The data of a clock that is `epochs` fast, on a chain whose justified epoch is later by
    /// `justified`.
    fn ahead(&self, data: &AttestationData, epochs: u64, justified: u64) -> AttestationData {
        let later = |checkpoint: Checkpoint, epochs| Checkpoint { epoch: checkpoint.epoch.saturating_add(epochs), ..checkpoint };
        let slot = Slot::new(data.slot.as_u64() + epochs * self.preset.slots_per_epoch);
        AttestationData { slot, source: later(data.source, justified), target: later(data.target, epochs), ..*data }
    }

    /// Votes for `data` by some of the slot's voters. `at` returns the time of a vote from its
    /// position in the series and its position among the voters.
    fn cast(
        &self,
        duty: &SlotDuty,
        voters: &[usize],
        data: &AttestationData,
        at: impl Fn(usize, usize) -> u64,
    ) -> Vec<LoadMessage> {
        let validators: Vec<_> = voters.iter().map(|voter| duty.voters[*voter].validator).collect();
        let signatures = self.keys.sign_each(&validators, self.vote_root(data));
        let each = voters.iter().zip(signatures).enumerate();
        each.map(|(nth, (voter, signature))| {
            let by = duty.voters[*voter];
            let ssz = single_attestation(by.committee, by.validator, data, &compressed(&signature)).to_ssz();
            self.message(duty.slot, at(nth, *voter), self.subnet(duty.slot, by.committee), &ssz)
        })
        .collect()
    }

    /// Records in a message which offence it completes. `first` is the time and the data of the
    /// other message.
    fn complete(
        &self,
        second: &mut LoadMessage,
        kind: Offence,
        duty: &SlotDuty,
        voter: usize,
        first: (u64, &AttestationData),
        data: &AttestationData,
    ) {
        let (sent_first, other) = first;
        let sent = [self.unix_ns(duty.slot, sent_first), self.network.genesis_time * 1_000_000_000 + second.at_ns];
        let (gvr, validator) = (self.network.genesis_validators_root, duty.voters[voter].validator);
        let slot = other.slot.max(data.slot);
        second.crime = Some(crime(gvr, kind, validator, slot, [other.root(), data.root()], sent));
    }
}

/// The time of the `nth` second vote, in nanoseconds after the start of its slot. The first vote is
/// sent at `first`.
fn second_time(nth: usize, first: u64) -> u64 {
    let room = SECOND_VOTES_END - first - SECOND_AFTER;
    first + SECOND_AFTER + even(nth.wrapping_mul(7) + 3, room)
}
