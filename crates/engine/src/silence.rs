//! Tracks whether the watcher receives anything from the network. Silence does not mean that all is
//! well.
//!
//! A watcher without peers, or whose peers send nothing, finds nothing, and that looks like a quiet
//! network. So this module uses the network's clock. If no proven vote or block came for
//! [`SILENT_AFTER_SLOTS`] slots, the watcher is deaf, whatever its connections look like. It is
//! then not ready, the slots are a gap, and an incident is open. Every alert route gets one report
//! when the incident begins and one when it is over.
//!
//! The incident is over when messages have come for [`OVER_AFTER_SLOTS`] slots without another
//! silence between them. So a single message now and then causes one alert and not many. A restart
//! in the middle of a silence continues the same incident.
//!
//! Only signed messages of the network's present count. Invalid messages of a peer and old blocks
//! that a node was asked for do not count.
//!
//! This module reads no clock: each tick brings the time.

use consensus::{Network, Slot};
use detect::detectors::network::{AllSubnets, SubnetSilentDetails};
use detect::monitor::{Described, Details as _, News, announcement};
use evidence::{Finding, INCIDENT_SCHEMA, Incident, IncidentState, Kind, Severity, Time, Tracking, incident_id};
use std::sync::Arc;
use std::time::Duration;

/// Number of slots without a proven vote or block after which the watcher is deaf.
pub const SILENT_AFTER_SLOTS: u32 = 2;
/// A reported silence is over after this many slots without another silence.
pub const OVER_AFTER_SLOTS: u32 = 4;
/// Key of the incident. It distinguishes this incident from those of single silent subnets.
const KEY: &str = "all";

/// The time of the last reception, for `/readyz` and the web page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reception {
    /// When the watcher started.
    pub started: Time,
    /// When the latest vote or block was proven, or `None` if none was since the start.
    pub last_message: Option<Time>,
    /// When the engine ticked last.
    pub looked_at: Time,
}

impl Reception {
    /// Returns true if a vote or block came within the last two slots before `now`. It returns
    /// false if the engine has not ticked for that long, because then nothing is known.
    pub fn is_current(&self, now: Time, slot_duration: Duration) -> bool {
        let limit = nanoseconds(slot_duration * SILENT_AFTER_SLOTS);
        self.last_message.is_some_and(|last| now.0.saturating_sub(last.0.min(now.0)) <= limit)
            && now.0.saturating_sub(self.looked_at.0) <= limit
    }

    /// Returns the start of the silence, if there is one: the last reception, or the start of the
    /// watcher.
    pub fn silent_since(&self) -> Time {
        self.last_message.unwrap_or(self.started)
    }
}

/// What changed with a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilenceChange {
    Began {
        since: Time,
    },
    /// Another epoch has passed. Nobody is alerted, but the stored incident gets its new length.
    GoesOn {
        since: Time,
    },
    Ended {
        since: Time,
        until: Time,
    },
}

/// Tracks when something was received. It has one owner and reads no clock.
pub struct SilenceTracker {
    network: Arc<Network>,
    reception: Reception,
    /// The start of the silence that was reported to every route.
    silent_since: Option<Time>,
    /// Since when messages arrive again. It is set while it is not certain yet that they continue.
    heard_again: Option<Time>,
    /// The slot in which the incident was stored last.
    stored_at: Slot,
}

impl SilenceTracker {
    /// Creates a tracker. `earlier` is the silence that was open when the last run ended, see
    /// [`open_silence`].
    pub fn new(network: Arc<Network>, now: Time, earlier: Option<&Incident>) -> Self {
        let reception = Reception { started: now, last_message: None, looked_at: now };
        let silent_since = earlier.map(|incident| Time(network.slot_start_ns(incident.first_slot)));
        let stored_at = network.slot_at(now.0);
        Self { network, reception, silent_since, heard_again: None, stored_at }
    }

    pub fn reception(&self) -> Reception {
        self.reception
    }

    /// Returns the start of a reported silence if nothing has been received since. The slots after
    /// the first new message are no gap.
    pub fn silent_since(&self) -> Option<Time> {
        self.silent_since.filter(|_| self.heard_again.is_none())
    }

    /// Records that a vote or block was proven at this time.
    pub fn received(&mut self, at: Time) {
        self.reception.last_message = self.reception.last_message.max(Some(at));
    }

    /// Advances the time and returns the change, if any.
    pub fn tick(&mut self, now: Time) -> Option<SilenceChange> {
        self.reception.looked_at = now;
        // If the clock was set back, times in the future are replaced by `now`.
        self.reception.last_message = self.reception.last_message.map(|last| last.min(now));
        self.reception.started = self.reception.started.min(now);
        // There is nothing to receive before genesis.
        let since = Time(self.reception.silent_since().0.max(self.network.slot_start_ns(Slot::new(0))));
        let slot_duration = self.network.spec.slot_duration;
        let is_silent = now.0.saturating_sub(since.0) > nanoseconds(slot_duration * SILENT_AFTER_SLOTS);
        let slot = self.network.slot_at(now.0);
        self.heard_again = match self.heard_again {
            _ if is_silent || self.silent_since.is_none() => None,
            Some(since) => Some(since.min(now)),
            None => self.reception.last_message,
        };
        let is_over = |again: Time| now.0.saturating_sub(again.0) >= nanoseconds(slot_duration * OVER_AFTER_SLOTS);
        match (self.silent_since, self.heard_again) {
            (None, _) if is_silent => {
                (self.silent_since, self.stored_at) = (Some(since), slot);
                Some(SilenceChange::Began { since })
            }
            (Some(since), _) if is_silent && slot >= self.stored_at.saturating_add(self.network.preset().slots_per_epoch) => {
                self.stored_at = slot;
                Some(SilenceChange::GoesOn { since })
            }
            (Some(since), Some(until)) if is_over(until) => {
                (self.silent_since, self.heard_again) = (None, None);
                Some(SilenceChange::Ended { since, until })
            }
            _ => None,
        }
    }
}

/// Returns the silence among these incidents that is not closed.
pub fn open_silence(incidents: &[Incident]) -> Option<&Incident> {
    incidents.iter().find(|incident| is_silence(incident) && incident.state != IncidentState::Closed)
}

/// Returns true if this incident comes from this module and not from a detector.
pub fn is_silence(incident: &Incident) -> bool {
    incident.kind == Kind::SubnetSilent
        && matches!(SubnetSilentDetails::of_stored(&incident.details), Some(SubnetSilentDetails::All { .. }))
}

/// Returns the incident after a change, and the finding for the alert routes, if they are to be
/// alerted. `n_peers` is the number of connected peers.
pub fn report(network: &Network, change: SilenceChange, now: Time, n_peers: u64) -> (Incident, Option<Finding>) {
    let (since, until) = match change {
        SilenceChange::Began { since } | SilenceChange::GoesOn { since } => (since, None),
        SilenceChange::Ended { since, until } => (since, Some(until)),
    };
    let first_slot = network.slot_at(since.0);
    let time = |at: Time| Time::from_unix_ns(at.0);
    let details = SubnetSilentDetails::All {
        subnets: AllSubnets::All,
        silent_since: time(since),
        silent_until: until.map(time),
        peers: n_peers,
    };
    let (kind, details) = Described::from(details).into_parts();
    // The time comes from the network's clock, so it does not depend on the moment of the tick.
    let opened_at = Time(since.0.saturating_add(nanoseconds(network.spec.slot_duration * SILENT_AFTER_SLOTS)));
    let incident = Incident {
        schema: INCIDENT_SCHEMA,
        id: incident_id(network.genesis_validators_root, &kind, first_slot, KEY),
        kind,
        state: if until.is_some() { IncidentState::Closed } else { IncidentState::Open },
        severity: Severity::Critical,
        first_slot,
        last_slot: network.slot_at(until.unwrap_or(now).0).max(first_slot),
        opened_at: time(opened_at),
        closed_at: until.map(time),
        validators: None,
        offences: None,
        shared: Vec::new(),
        penalty: None,
        details,
        tracking: Some(Tracking { key: KEY.into(), peak: 0 }),
    };
    let news = match change {
        SilenceChange::Began { .. } => Some(News::Opened),
        SilenceChange::GoesOn { .. } => None,
        SilenceChange::Ended { .. } => Some(News::Over),
    };
    let told = news.map(|news| announcement(network, &incident, news));
    (incident, told)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Root, Spec};

    const GENESIS_S: u64 = 1_000_000;

    fn network() -> Arc<Network> {
        let spec = Spec::builtin("mainnet").unwrap();
        Arc::new(Network { spec, genesis_time: GENESIS_S, genesis_validators_root: Root::repeat_byte(1) })
    }

    /// The time this many seconds after genesis.
    fn at(seconds: i64) -> Time {
        Time((GENESIS_S as i64 + seconds) as u64 * 1_000_000_000)
    }

    #[test]
    fn two_slots_without_anything_are_a_silence_and_it_is_told_once() {
        let mut tracker = SilenceTracker::new(network(), at(1_200), None);
        for second in 1_200..=1_224 {
            assert_eq!(tracker.tick(at(second)), None, "{second}");
            assert!(!tracker.reception().is_current(at(second), network().spec.slot_duration), "nothing came yet");
        }
        assert_eq!(tracker.tick(at(1_225)), Some(SilenceChange::Began { since: at(1_200) }));
        // The stored incident is extended once per epoch.
        let goes_on: Vec<i64> = (1_226..3_000).filter(|second| tracker.tick(at(*second)).is_some()).collect();
        assert_eq!(goes_on, [1_608, 1_992, 2_376, 2_760]);
        for second in 3_000..3_048 {
            tracker.received(at(second));
            assert_eq!(tracker.tick(at(second)), None, "{second}");
            assert_eq!(tracker.silent_since(), None, "what is received is no gap");
        }
        assert_eq!(tracker.tick(at(3_048)), Some(SilenceChange::Ended { since: at(1_200), until: at(3_000) }));
        assert!(tracker.reception().is_current(at(3_071), network().spec.slot_duration));
        assert!(!tracker.reception().is_current(at(3_072), network().spec.slot_duration));
        for second in 3_049..=3_071 {
            assert_eq!(tracker.tick(at(second)), None, "{second}");
        }
        assert_eq!(tracker.tick(at(3_072)), Some(SilenceChange::Began { since: at(3_047) }), "the next one is another one");
    }

    /// Without this rule, a peer that sends one message in every third slot would cause an alert,
    /// and the end of one, each time.
    #[test]
    fn a_message_now_and_then_ends_no_silence() {
        let mut tracker = SilenceTracker::new(network(), at(1_200), None);
        let mut changes = Vec::new();
        for second in 1_200..3_200 {
            if second % 36 == 0 || (second >= 3_000 && second % 12 == 0) {
                tracker.received(at(second));
            }
            changes.extend(tracker.tick(at(second)).filter(|change| !matches!(change, SilenceChange::GoesOn { .. })));
        }
        let (since, until) = (at(1_224), at(2_988));
        assert_eq!(changes, [SilenceChange::Began { since }, SilenceChange::Ended { since, until }]);
    }

    #[test]
    fn before_genesis_there_is_nothing_to_receive() {
        let mut tracker = SilenceTracker::new(network(), at(-5_000), None);
        assert_eq!((tracker.tick(at(-1)), tracker.tick(at(24))), (None, None));
        assert_eq!(tracker.tick(at(25)), Some(SilenceChange::Began { since: at(0) }));
    }

    #[test]
    fn a_restart_goes_on_with_the_silence_and_ends_it_only_when_something_comes() {
        let network = network();
        let mut tracker = SilenceTracker::new(network.clone(), at(120), None);
        let began = tracker.tick(at(200)).unwrap();
        let (incident, told) = report(&network, began, at(200), 0);
        let told = told.unwrap();
        assert_eq!((told.id, incident.first_slot), (incident.id, Slot::new(10)));
        let (longer, nobody) = report(&network, SilenceChange::GoesOn { since: at(120) }, at(600), 0);
        assert_eq!((longer.id, longer.last_slot, nobody), (incident.id, Slot::new(50), None));
        assert_eq!(open_silence(std::slice::from_ref(&incident)), Some(&incident));
        let mut tracker = SilenceTracker::new(network.clone(), at(300), Some(&incident));
        for second in 300..400 {
            assert_eq!(tracker.tick(at(second)), None, "{second}");
        }
        for second in (400..448).step_by(12) {
            tracker.received(at(second));
            assert_eq!(tracker.tick(at(second)), None, "{second}");
        }
        let ended = tracker.tick(at(448)).unwrap();
        let (closed, over) = report(&network, ended, at(448), 3);
        assert_eq!((closed.id, closed.state), (incident.id, IncidentState::Closed));
        assert_ne!(over.unwrap().id, told.id);
        assert_eq!(open_silence(&[closed]), None);
    }

    #[test]
    fn a_clock_that_was_ahead_hides_no_silence() {
        let mut tracker = SilenceTracker::new(network(), at(9_000), None);
        tracker.received(at(9_001));
        assert_eq!(tracker.tick(at(100)), None);
        assert_eq!(tracker.tick(at(125)), Some(SilenceChange::Began { since: at(100) }));
    }

    #[test]
    fn an_engine_that_does_not_look_knows_nothing() {
        let mut tracker = SilenceTracker::new(network(), at(100), None);
        tracker.received(at(100));
        tracker.tick(at(100));
        let slot = network().spec.slot_duration;
        assert!(tracker.reception().is_current(at(110), slot));
        assert!(!tracker.reception().is_current(at(130), slot));
    }
}
