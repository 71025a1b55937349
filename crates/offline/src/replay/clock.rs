//! What time it is in a capture, without trusting any one entry.
//!
//! A capture's entries stand in order of arrival, so time goes on from one to the next by seconds. An entry that is an epoch and more
//! ahead of everything before it is either the first after a gap, or wrong: a flipped bit in its time, or a block that names
//! a slot of the year 3000 (anyone can write one; nothing is proven yet). Were it believed, history would be pruned, waiting votes would expire
//! and committees be forgotten, and what comes after it would be missed.
//!
//! So time goes on by itself only to what is in time. Entries that are ahead and speak of that time themselves (a vote's slot, a
//! block's) wait until [`WITNESSES`] of them stand in a row: then it was a gap, and time goes on to the earliest of them. If an entry in time comes
//! before that, those that waited are judged like any other and move nothing. Those whose time of arrival has nothing to do with what they
//! say are judged at once and move nothing either: of a capture whose times are all wrong, no history is forgotten.
//!
//! Blocks carry no time of arrival. In an ERA file they are all there is, so each counts as arrived when its slot began; once
//! an entry of the capture told the time, a block that claims to be ahead of it counts as arrived now.

use verify::{RawMessage, SourceKind, UnixNs};

/// Entries in a row that are ahead before they are believed. Their bodies are held in memory meanwhile.
pub(super) const WITNESSES: usize = 16;

/// A message speaks of the time at which it came if the two are so near: late votes, and blocks that are caught up with.
const SPEAKS_OF_EPOCHS: u64 = 64;

pub(super) struct Clock {
    now: UnixNs,
    /// A state of this time was given by someone trusted; entries up to it are not ahead.
    known: UnixNs,
    /// Up to so much later than what came before is in time.
    stride_ns: u64,
    /// An entry with a time of arrival was met.
    is_told: bool,
    ahead: Vec<RawMessage>,
}

/// What to do with an entry.
pub(super) enum Turn {
    /// Judge these, in this order; time may have gone on.
    Take(Vec<RawMessage>),
    /// It waits for others like it.
    Wait,
}

impl Clock {
    /// `stride_ns`: an epoch.
    pub(super) fn new(stride_ns: u64) -> Self {
        Self { now: UnixNs(0), known: UnixNs(0), stride_ns, is_told: false, ahead: Vec::new() }
    }

    /// The greatest time of arrival that is believed.
    pub(super) fn now(&self) -> UnixNs {
        self.now
    }

    /// A state is of this time.
    pub(super) fn know(&mut self, at: UnixNs) {
        self.known = self.known.max(at);
    }

    /// Goes on to `at` if that is in time.
    pub(super) fn reach(&mut self, at: UnixNs) {
        if self.is_in_time(at) {
            self.now = self.now.max(at);
        }
    }

    /// Not an epoch and more ahead of what is known.
    pub(super) fn is_in_time(&self, at: UnixNs) -> bool {
        at.0 <= self.now.max(self.known).0.saturating_add(self.stride_ns)
    }

    /// A message's turn; `about`: when the slot began that it says it is about. Whoever takes messages reaches their times one by
    /// one ([`Self::reach`]).
    pub(super) fn turn(&mut self, mut message: RawMessage, about: Option<UnixNs>) -> Turn {
        match message.origin.source {
            SourceKind::Block if self.is_told && !self.is_in_time(message.received_at) => message.received_at = self.now,
            SourceKind::Block => {}
            SourceKind::Gossip | SourceKind::Api | SourceKind::SlashingOp => self.is_told = true,
        }
        if self.is_in_time(message.received_at) {
            let mut taken = self.rest();
            taken.push(message);
            return Turn::Take(taken);
        }
        let tolerance = self.stride_ns.saturating_mul(SPEAKS_OF_EPOCHS);
        if about.is_none_or(|about| about.0.abs_diff(message.received_at.0) > tolerance) {
            return Turn::Take(vec![message]);
        }
        self.ahead.push(message);
        if self.ahead.len() < WITNESSES {
            return Turn::Wait;
        }
        let taken = self.rest();
        // They are in time from here on; time itself goes on as they are taken.
        self.know(taken.iter().map(|message| message.received_at).min().unwrap_or_default());
        Turn::Take(taken)
    }

    /// Those that wait, given up on as witnesses.
    pub(super) fn rest(&mut self) -> Vec<RawMessage> {
        std::mem::take(&mut self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verify::{MessageKind, Origin};

    const EPOCH: u64 = 48;

    fn message(source: SourceKind, at: u64) -> RawMessage {
        let origin = Origin { source, peer: None, fork: None };
        RawMessage { origin, kind: MessageKind::Header, received_at: UnixNs(at), bytes: Vec::new(), ticket: None }
    }

    /// Times of the messages taken, and the time after each entry.
    fn play(clock: &mut Clock, entries: &[(SourceKind, u64)]) -> (Vec<u64>, Vec<u64>) {
        let (mut taken, mut times) = (Vec::new(), Vec::new());
        for (source, at) in entries {
            // About the time at which it came.
            if let Turn::Take(messages) = clock.turn(message(*source, *at), Some(UnixNs(*at))) {
                for message in messages {
                    clock.reach(message.received_at);
                    taken.push(message.received_at.0);
                }
            }
            times.push(clock.now().0);
        }
        (taken, times)
    }

    #[test]
    fn one_wrong_time_moves_nothing_and_is_judged_all_the_same() {
        let mut clock = Clock::new(EPOCH);
        let gossip = SourceKind::Gossip;
        let entries = [(gossip, 10), (gossip, 20), (gossip, u64::MAX), (gossip, 21), (gossip, 60), (gossip, 30)];
        let (taken, times) = play(&mut clock, &entries);
        assert_eq!(taken, [10, 20, u64::MAX, 21, 60, 30]);
        assert_eq!(times, [10, 20, 20, 21, 60, 60]);
    }

    #[test]
    fn times_that_have_nothing_to_do_with_what_is_said_move_nothing() {
        let mut clock = Clock::new(EPOCH);
        for nth in 0..100 {
            let turn = clock.turn(message(SourceKind::Gossip, 1_000_000_000 + nth), Some(UnixNs(nth)));
            assert!(matches!(turn, Turn::Take(messages) if messages.len() == 1));
        }
        assert_eq!(clock.now(), UnixNs(0));
        assert!(matches!(clock.turn(message(SourceKind::Gossip, u64::MAX), None), Turn::Take(_)));
    }

    #[test]
    fn after_a_gap_time_goes_on_with_those_that_agree() {
        let mut clock = Clock::new(EPOCH);
        let mut entries = vec![(SourceKind::Gossip, 10)];
        entries.extend((0..WITNESSES as u64).map(|nth| (SourceKind::Gossip, 100_000 + nth)));
        let (taken, times) = play(&mut clock, &entries);
        assert_eq!(taken.len(), entries.len());
        assert_eq!(times[WITNESSES - 1], 10);
        assert_eq!(times[WITNESSES], 100_000 + WITNESSES as u64 - 1);
    }

    #[test]
    fn a_block_of_the_far_future_arrives_when_it_stands_in_the_capture() {
        let mut clock = Clock::new(EPOCH);
        let (taken, times) = play(&mut clock, &[(SourceKind::Gossip, 10), (SourceKind::Block, u64::MAX), (SourceKind::Block, 5)]);
        assert_eq!((taken, times), (vec![10, 10, 5], vec![10, 10, 10]));
        // Where blocks are all there is, they tell the time.
        let mut clock = Clock::new(EPOCH);
        let entries = [(SourceKind::Block, 6), (SourceKind::Block, u64::MAX), (SourceKind::Block, 12)];
        assert_eq!(play(&mut clock, &entries).1, [6, 6, 12]);
    }

    #[test]
    fn a_state_says_how_far_time_has_come() {
        let mut clock = Clock::new(EPOCH);
        clock.know(UnixNs(1_000_000));
        assert_eq!(play(&mut clock, &[(SourceKind::Gossip, 1_000_010)]).1, [1_000_010]);
    }
}
