//! Finds out the time in a capture without trusting a single entry.
//!
//! The entries of a capture are in order of arrival, so time advances from one to the next by
//! seconds. An entry that is more than an epoch ahead of all entries before it has one of two
//! reasons. Either it is the first after a gap, or its time is wrong: a flipped bit, or a block
//! for a slot of the year 3000. Anybody can write such a block, because nothing is proven yet. If
//! the clock followed a wrong time, the history would be pruned, waiting votes would expire, and
//! committees would be forgotten. Then the messages that come after it would be missed.
//!
//! So time only follows entries that are in time. An entry is set aside if it is ahead and its
//! content (the slot of a vote or a block) is about the same time. When [`WITNESSES`] such entries
//! come in a row, it was a gap, and the time advances to the earliest of them. If an entry in time
//! comes before that, those that were set aside are judged like any other, but they do not move the
//! time. An entry whose time of arrival does not fit its content is judged at once and does not
//! move the time either. So a capture whose times are all wrong does not make any history
//! forgotten.
//!
//! Blocks carry no time of arrival. In an ERA file there are only blocks, so each counts as arrived
//! when its slot began. After another kind of entry has given a time, a block that claims to be
//! ahead of it counts as arrived now.

use verify::{RawMessage, SourceKind, Time};

/// Number of consecutive entries ahead of time that are needed before they are believed. They stay
/// in memory until then.
pub(super) const WITNESSES: usize = 16;

/// Largest distance, in epochs, between a message's time of arrival and the slot in its content, if
/// the two are to fit. It allows late votes and old blocks that are fetched later.
const SPEAKS_OF_EPOCHS: u64 = 64;

/// The time of a replay.
pub(super) struct ReplayClock {
    now: Time,
    /// Time of a trusted state. Entries up to this time are not ahead.
    known: Time,
    /// An entry is in time if it is at most this much later than the entries before it.
    stride_ns: u64,
    /// Whether an entry with a time of arrival has been read.
    has_arrival_times: bool,
    /// Entries that are ahead of time and wait.
    ahead: Vec<RawMessage>,
}

impl ReplayClock {
    /// Creates a clock. `stride_ns` is the length of an epoch.
    pub(super) fn new(stride_ns: u64) -> Self {
        Self { now: Time(0), known: Time(0), stride_ns, has_arrival_times: false, ahead: Vec::new() }
    }

    /// Returns the latest time of arrival that is believed.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Notes the time of a trusted state.
    pub(super) fn know(&mut self, at: Time) {
        self.known = self.known.max(at);
    }

    /// Advances to `at` if that is in time.
    pub(super) fn reach(&mut self, at: Time) {
        if self.is_in_time(at) {
            self.now = self.now.max(at);
        }
    }

    /// Returns whether `at` is at most one epoch after the time that is known.
    pub(super) fn is_in_time(&self, at: Time) -> bool {
        at.0 <= self.now.max(self.known).0.saturating_add(self.stride_ns)
    }

    /// Returns the messages that are to be judged now, in this order. The list is empty if the
    /// message was set aside until others like it come. `about` is the start of the slot that the
    /// message is about. The caller advances the clock with [`Self::reach`] for each message of the
    /// list.
    pub(super) fn turn(&mut self, mut message: RawMessage, about: Option<Time>) -> Vec<RawMessage> {
        match message.origin.source {
            SourceKind::Block if self.has_arrival_times && !self.is_in_time(message.received_at) => {
                message = message.arrived_at(self.now);
            }
            SourceKind::Block => {}
            SourceKind::Gossip | SourceKind::Api | SourceKind::SlashingOp => self.has_arrival_times = true,
        }
        if self.is_in_time(message.received_at) {
            let mut taken = self.rest();
            taken.push(message);
            return taken;
        }
        let tolerance = self.stride_ns.saturating_mul(SPEAKS_OF_EPOCHS);
        if about.is_none_or(|about| about.0.abs_diff(message.received_at.0) > tolerance) {
            return vec![message];
        }
        self.ahead.push(message);
        if self.ahead.len() < WITNESSES {
            return Vec::new();
        }
        let taken = self.rest();
        // These messages are in time from here on. The time itself advances when they are taken.
        self.know(taken.iter().map(|message| message.received_at).min().unwrap_or_default());
        taken
    }

    /// Returns the entries that were set aside, without using them to advance the time.
    pub(super) fn rest(&mut self) -> Vec<RawMessage> {
        std::mem::take(&mut self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verify::{MessageKind, MessageParts, Origin};

    const EPOCH: u64 = 48;

    fn message(source: SourceKind, at: u64) -> RawMessage {
        let origin = Origin { source, peer: None, fork: None, subscribed: None };
        let (kind, received_at, bytes) = (MessageKind::Header, Time(at), Vec::new());
        RawMessage::new(MessageParts { origin, kind, received_at, bytes, ticket: None }).unwrap()
    }

    /// Returns the times of the messages that were taken, and the time after each entry.
    fn play(clock: &mut ReplayClock, entries: &[(SourceKind, u64)]) -> (Vec<u64>, Vec<u64>) {
        let (mut taken, mut times) = (Vec::new(), Vec::new());
        for (source, at) in entries {
            // Each message is about the time at which it arrived.
            for message in clock.turn(message(*source, *at), Some(Time(*at))) {
                clock.reach(message.received_at);
                taken.push(message.received_at.0);
            }
            times.push(clock.now().0);
        }
        (taken, times)
    }

    #[test]
    fn one_wrong_time_moves_nothing_and_is_judged_all_the_same() {
        let mut clock = ReplayClock::new(EPOCH);
        let gossip = SourceKind::Gossip;
        let entries = [(gossip, 10), (gossip, 20), (gossip, u64::MAX), (gossip, 21), (gossip, 60), (gossip, 30)];
        let (taken, times) = play(&mut clock, &entries);
        assert_eq!(taken, [10, 20, u64::MAX, 21, 60, 30]);
        assert_eq!(times, [10, 20, 20, 21, 60, 60]);
    }

    #[test]
    fn times_that_have_nothing_to_do_with_what_is_said_move_nothing() {
        let mut clock = ReplayClock::new(EPOCH);
        for nth in 0..100 {
            let turn = clock.turn(message(SourceKind::Gossip, 1_000_000_000 + nth), Some(Time(nth)));
            assert_eq!(turn.len(), 1);
        }
        assert_eq!(clock.now(), Time(0));
        assert_eq!(clock.turn(message(SourceKind::Gossip, u64::MAX), None).len(), 1);
    }

    #[test]
    fn after_a_gap_time_goes_on_with_those_that_agree() {
        let mut clock = ReplayClock::new(EPOCH);
        let mut entries = vec![(SourceKind::Gossip, 10)];
        entries.extend((0..WITNESSES as u64).map(|nth| (SourceKind::Gossip, 100_000 + nth)));
        let (taken, times) = play(&mut clock, &entries);
        assert_eq!(taken.len(), entries.len());
        assert_eq!(times[WITNESSES - 1], 10);
        assert_eq!(times[WITNESSES], 100_000 + WITNESSES as u64 - 1);
    }

    #[test]
    fn a_block_of_the_far_future_arrives_when_it_stands_in_the_capture() {
        let mut clock = ReplayClock::new(EPOCH);
        let (taken, times) = play(&mut clock, &[(SourceKind::Gossip, 10), (SourceKind::Block, u64::MAX), (SourceKind::Block, 5)]);
        assert_eq!((taken, times), (vec![10, 10, 5], vec![10, 10, 10]));
        // If there are only blocks, the blocks give the time.
        let mut clock = ReplayClock::new(EPOCH);
        let entries = [(SourceKind::Block, 6), (SourceKind::Block, u64::MAX), (SourceKind::Block, 12)];
        assert_eq!(play(&mut clock, &entries).1, [6, 6, 12]);
    }

    #[test]
    fn a_state_says_how_far_time_has_come() {
        let mut clock = ReplayClock::new(EPOCH);
        clock.know(Time(1_000_000));
        assert_eq!(play(&mut clock, &[(SourceKind::Gossip, 1_000_010)]).1, [1_000_010]);
    }
}
