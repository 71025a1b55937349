//! `own_clock`: compares our own clock with the network by the arrival times of its messages, never
//! with a time server.
//!
//! Honest votes are sent a third of a slot after its start (a quarter from Gloas on) and arrive
//! within the next third. If nearly all votes, from everybody, arrive before their slot began, our
//! clock is behind. If nearly all arrive more than `late_percent` of a slot after its start, our
//! clock is ahead or our connection is slow. What distinguishes this from wrong clocks of others is
//! that *everybody* is concerned. In Medalla a good third of the network kept the right time.
//!
//! **False alarms considered.** We are slow ourselves: the time of arrival is taken when a message
//! is read from its connection, so a process that does not read in time sees everybody late. Where
//! messages waited for us longer than a third of a slot, lateness is not reported. Earliness still
//! is, because nobody reads a message before it is sent. A late block makes everybody vote late,
//! but by a third of a slot at most; the limit is about a whole slot later than usual. Few votes:
//! nothing is reported with fewer than `min_votes` in a window. History that is filled in, and
//! captures of blocks only: votes in blocks are not counted.

use crate::config::{DetectorConfig, Problems};
use crate::monitor::facts::OFFSETS_PER_SLOT;
use crate::monitor::{Arrivals, Details, Detector, DetectorView, Observation, Signal};
use consensus::Slot;
use evidence::{Kind, Severity};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Divisor of a slot. Messages that waited for us longer than this part of a slot make lateness
/// meaningless, because votes usually arrive about as long after the start of their slot.
const MOST_OF_A_SLOT: u32 = 3;

/// `[detect.own_clock]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnClockConfig {
    pub enabled: bool,
    /// Number of slots over which arrivals are counted.
    pub window_slots: u64,
    /// Nothing is reported with fewer votes in the window.
    pub min_votes: u64,
    /// A vote is late when it arrives after this percentage of a slot, counted from its start.
    pub late_percent: u64,
    /// Percentage of the votes that must be early, or late.
    pub nearly_all_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for OwnClockConfig {
    fn default() -> Self {
        Self { enabled: true, window_slots: 4, min_votes: 32, late_percent: 130, nearly_all_percent: 90, closes_after_epochs: 1 }
    }
}

impl DetectorConfig for OwnClockConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(OwnClock::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.between("window_slots", self.window_slots, 1, 128);
        problems.between("nearly_all_percent", self.nearly_all_percent, 51, 100);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
        if !(100..=190).contains(&self.late_percent) {
            problems.report("late_percent", format!("{} is not between 100 and 190 percent of a slot", self.late_percent));
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct OwnClockDetails {
    our_clock_is: Cow<'static, str>,
    median_arrival_ms_after_slot_start: i64,
    usual_ms: u64,
    votes: u64,
}

impl Details for OwnClockDetails {
    const KIND: Kind = Kind::OwnClock;

    fn sentence(&self, _validators: Option<u64>) -> String {
        format!(
            "The network's votes arrive {} ms after the start of their slots, {} is usual: our own clock is {}",
            self.median_arrival_ms_after_slot_start, self.usual_ms, self.our_clock_is
        )
    }
}

/// Whether at least `percent` of the votes that arrived in a slot came before their own slot began.
pub(super) fn is_behind(arrivals: &Arrivals, percent: u64) -> bool {
    let early: u64 = arrivals.offsets[..OFFSETS_PER_SLOT].iter().sum();
    let all = arrivals.votes();
    all > 0 && early * 100 >= all * percent
}

pub(crate) struct OwnClock {
    config: OwnClockConfig,
    since: Option<Slot>,
}

impl OwnClock {
    pub(crate) fn new(config: OwnClockConfig) -> Self {
        Self { config, since: None }
    }
}

impl Detector for OwnClock {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let mut offsets = [0u64; 4 * OFFSETS_PER_SLOT];
        for (_, arrivals) in view.facts.last_arrivals(slot, self.config.window_slots) {
            for (sum, n) in offsets.iter_mut().zip(arrivals.offsets) {
                *sum += n;
            }
        }
        let all: u64 = offsets.iter().sum();
        let early: u64 = offsets[..OFFSETS_PER_SLOT].iter().sum();
        let limit = OFFSETS_PER_SLOT + OFFSETS_PER_SLOT * self.config.late_percent as usize / 100;
        let late: u64 = offsets.iter().skip(limit).sum();
        let nearly_all = |n: u64| n * 100 >= all * self.config.nearly_all_percent;
        let wrong = all >= self.config.min_votes && (nearly_all(early) || nearly_all(late));
        if !wrong {
            self.since = None;
            return;
        }
        let first = slot.saturating_sub(self.config.window_slots.saturating_sub(1));
        let may_be_slow = view.facts.delay_since(first) > view.network().spec.slot_duration / MOST_OF_A_SLOT;
        if !nearly_all(early) && may_be_slow {
            return;
        }
        let since = *self.since.get_or_insert(slot);
        let mut below = 0;
        let median = offsets.iter().position(|n| {
            below += n;
            below * 2 >= all
        });
        let slot_ms = view.network().spec.slot_duration.as_millis() as i64;
        let median_ms = (median.unwrap_or(0) as i64 - OFFSETS_PER_SLOT as i64) * slot_ms / OFFSETS_PER_SLOT as i64;
        let details = OwnClockDetails {
            our_clock_is: if early > late { "behind" } else { "ahead, or our line is slow" }.into(),
            median_arrival_ms_after_slot_start: median_ms,
            usual_ms: view.network().spec.attestation_due(slot).as_millis() as u64,
            votes: all,
        };
        let per_epoch = view.network().preset().slots_per_epoch;
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since,
            until: slot,
            severity: Severity::Warning,
            measure: median_ms.unsigned_abs(),
            validators: None,
            shared: Vec::new(),
            closes_after: self.config.closes_after_epochs * per_epoch,
        }));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
