//! `slashing_wave`: far more validators contradict themselves than usual.
//!
//! **The idea.** Over years, about one validator in 800 epochs was slashed on mainnet (525 by
//! September 2025). With that rate, n or more offenders in a window of w epochs happen by chance
//! with the probability of a Poisson tail at w / 800. A wave opens when both conditions hold:
//!
//! - *number*: at least `min_validators` different validators within `window_epochs`;
//! - *rate*: the chance of so many is at most one in `chance_one_in`. The base rate is the one of
//!   the configuration, or the one seen here outside of waves over the last
//!   `base_rate_over_epochs`, whichever is greater. So on a test network where people slash
//!   themselves for fun, a wave needs more validators.
//!
//! Worked example: 64 epochs at 1 / 800 expect 0.08. The chance of two or more is 1 in 330. The
//! chance of three or more is 1 in 12 500, which is beyond the default of 1 in 10 000: this is a
//! wave. So the two keys of one unlucky operator are no wave, and a third key within seven hours
//! makes it one.
//!
//! **Life.** The state is `open`; `growing` while validators join; `waning` when none joined for
//! `waning_after_epochs`; `closed` after `closes_after_epochs` without a new one. The opening is
//! reported at once, later changes once per slot.
//!
//! **What the members share** ([`traits`]) is reported where it is `shared_times_usual` times as
//! frequent among them as among all validators. **The cause** ([`cause`]) is a suspicion with its
//! evidence. **The cost** is computed by [`crate::PenaltyRules`], with everything that is slashed
//! within the vector's epochs.
//!
//! **False alarms considered.** Several offences of one validator count once. Offences known only
//! from a block or seen again in a replay: a finding comes once. Two unrelated single slashings in
//! a night are below `min_validators`. History that is filled in: time is the time of the messages,
//! so old offences do not add up with today's. Keys that cannot be slashed (withdrawn, not active,
//! signed two forks ago) cost nobody anything, so anyone may hold them: they are counted beside a
//! wave, but never make one.
//!
//! **A restart** continues where the last run was ([`saved`]). A wave that is over is not reported
//! again.
//!
//! **Bounds.** [`MAX_MEMBERS`] members are kept one by one, further ones are only counted. At most
//! 4 096 different traits are counted. [`past`] has its own bounds.

mod cause;
mod past;
mod recent;
mod saved;
mod traits;
mod wave;

use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, LAG, Left, MonitorInput, News, ProofLookup, Signal};
use cause::Clues;
use consensus::{Epoch, Gwei, Offence, Root, Slot, ValidatorIndex};
use evidence::{Evidence, Finding, Incident, IncidentState, Kind, Punishable, Time};
use past::Past;
use recent::{RecentOffences, Suspect};
pub use saved::NOTE;
use saved::Saved;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use wave::Wave;

/// Largest number of members that are kept one by one.
pub const MAX_MEMBERS: usize = 131_072;

/// `[detect.slashing_wave]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlashingWaveConfig {
    pub enabled: bool,
    /// Number of epochs in which different validators are counted.
    pub window_epochs: u64,
    /// Smallest number of validators in the window that is a wave.
    pub min_validators: u64,
    /// The usual rate: one slashed validator in so many epochs.
    pub base_rate_epochs: u64,
    /// Number of past epochs over which the rate that is seen here is measured.
    pub base_rate_over_epochs: u64,
    /// The chance of so many validators in the window must be at most one in this number.
    pub chance_one_in: u64,
    /// Percentage of the members that must have a trait for it to be reported as shared.
    pub shared_percent: u64,
    /// How many times as frequent as among all validators a shared trait must be.
    pub shared_times_usual: u64,
    /// Percentage of the members that must show a cause which the messages themselves reveal.
    pub cause_percent: u64,
    /// Percentage of the members that must show a cause which only shared traits suggest.
    pub nearly_all_percent: u64,
    /// Keys that have been active for fewer epochs are fresh.
    pub fresh_epochs: u64,
    /// The wave wanes when nobody joined for more than this number of epochs.
    pub waning_after_epochs: u64,
    /// The wave is over when nobody joined for this number of epochs.
    pub closes_after_epochs: u64,
}

impl Default for SlashingWaveConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_epochs: 64,
            min_validators: 3,
            base_rate_epochs: 800,
            base_rate_over_epochs: 8_192,
            chance_one_in: 10_000,
            shared_percent: 10,
            shared_times_usual: 2,
            cause_percent: 50,
            nearly_all_percent: 80,
            fresh_epochs: 256,
            waning_after_epochs: 2,
            closes_after_epochs: 64,
        }
    }
}

impl DetectorConfig for SlashingWaveConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(SlashingWave::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        // Sums are kept for each of these epochs, so their number is limited.
        problems.between("base_rate_over_epochs", self.base_rate_over_epochs, 256, 65_536);
        problems.between("window_epochs", self.window_epochs, 1, self.base_rate_over_epochs.max(1));
        problems.between("shared_percent", self.shared_percent, 1, 100);
        problems.between("shared_times_usual", self.shared_times_usual, 1, 1_000);
        problems.between("cause_percent", self.cause_percent, 1, 100);
        problems.between("nearly_all_percent", self.nearly_all_percent, 51, 100);
        problems.at_least("min_validators", self.min_validators, 2);
        problems.at_least("base_rate_epochs", self.base_rate_epochs, 1);
        problems.at_least("closes_after_epochs", self.closes_after_epochs, self.waning_after_epochs.saturating_add(1));
    }
}

/// Fields that were added after the first version may be missing in stored details, so they have
/// defaults.
#[derive(Serialize, Deserialize)]
pub struct SlashingWaveDetails {
    /// One of the names in the table of `cause`.
    pub suspected_cause: Cow<'static, str>,
    /// The evidence for the cause, in sentences.
    pub because: Vec<String>,
    validators_per_epoch: f64,
    usual_validators_per_epoch: f64,
    chance_of_so_many: f64,
    first_message: FirstMessage,
    /// Number of members by the epoch in which they joined.
    joined_by_epoch: BTreeMap<String, u64>,
    #[serde(default)]
    slashings_in_blocks: u64,
    #[serde(default)]
    offences_of_keys_that_cannot_be_slashed: u64,
    examples: Vec<ValidatorIndex>,
    /// Labels of the members. Alert routes with labels select by these.
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct FirstMessage {
    finding: Root,
    kind: Offence,
    validator: ValidatorIndex,
    slot: Slot,
    known_in_slot: Slot,
}

impl Details for SlashingWaveDetails {
    const KIND: Kind = Kind::SlashingWave;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { validators_per_epoch, usual_validators_per_epoch, .. } = self;
        format!("{validators_per_epoch} validators an epoch contradicted themselves, {usual_validators_per_epoch} is usual")
    }
}

pub(crate) struct SlashingWave {
    config: SlashingWaveConfig,
    recent: RecentOffences,
    past: Past,
    wave: Option<Wave>,
    /// `recorded_at` of the latest finding that is counted here.
    until: Time,
    /// Something is not in the stored note yet.
    is_unsaved: bool,
    /// The note must be written after the current batch is counted, because `until` covers the
    /// whole batch.
    is_note_due: bool,
    left: LeftOver,
}

/// What an earlier run left. It is needed while the findings of that run are recalled.
#[derive(Default)]
struct LeftOver {
    /// Findings recorded up to this time are already counted in the note.
    until: Option<Time>,
    /// First and last slot of the closed waves. They are not reported again.
    closed: Vec<(Slot, Slot)>,
    /// The open incident, if there is no note that describes it.
    open: Option<Incident>,
}

/// One offence of one validator.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct WaveCase {
    id: Root,
    validator: ValidatorIndex,
    offence: Offence,
    slot: Slot,
    /// When the offence could be known. Within its slot, this is the arrival of the messages it was
    /// proven with.
    at: Time,
    /// The slot of `at`. It is the same however messages were batched.
    known_in: Slot,
    epoch: Epoch,
    balance: Gwei,
    clues: Clues,
}

impl SlashingWave {
    pub(crate) fn new(config: SlashingWaveConfig) -> Self {
        Self {
            config,
            recent: RecentOffences::default(),
            past: Past::default(),
            wave: None,
            until: Time::default(),
            is_unsaved: false,
            is_note_due: false,
            left: LeftOver::default(),
        }
    }

    /// The case of a finding. `None` if the finding is no offence, or if it costs its validator
    /// nothing: whoever holds withdrawn keys can sign anything with them.
    fn case(finding: &Finding, evidence: Option<&Evidence>, view: &DetectorView<'_>) -> Option<WaveCase> {
        let validator = finding.validator.as_ref()?.index;
        let at = finding.second_seen.unwrap_or(finding.first_seen);
        let network = view.network();
        let known_in = network.slot_at(at.as_unix_ns());
        let epoch = known_in.epoch(network.preset());
        let record = view.chain.registry().record(validator);
        let is_at_stake = match finding.punishable {
            // `Unknown` means that it is signed with the version of a fork that is still to come.
            Some(Punishable::Yes | Punishable::Unknown) | None => true,
            Some(Punishable::AlreadySlashed) => record.is_some_and(|record| epoch < record.withdrawable_epoch),
            Some(Punishable::NotActive | Punishable::Withdrawable | Punishable::ForkExpired) => false,
        };
        is_at_stake.then_some(WaveCase {
            id: finding.id,
            validator,
            offence: finding.offence()?,
            // A vote from the future belongs to the slot in which it was seen.
            slot: finding.slot.min(known_in),
            at,
            known_in,
            epoch,
            balance: record.map_or(Gwei::new(0), |record| record.effective_balance),
            clues: Clues::of(validator, evidence, epoch, view),
        })
    }

    fn take(&mut self, case: WaveCase, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.is_unsaved = true;
        if let Some(wave) = &mut self.wave {
            if case.epoch >= wave.last_joined.saturating_add(self.config.closes_after_epochs) {
                self.close(view, out);
            } else {
                wave.join(Suspect::new(case), &self.config, &self.past, view);
                return;
            }
        }
        let (epoch, at) = (case.epoch, case.at);
        self.leave(epoch, view);
        self.recent.add(Suspect::new(case));
        self.open_if_due(epoch, at, view, out);
    }

    /// Moves the suspects whose last offence was before the window that ends with `now` to the
    /// past.
    fn leave(&mut self, now: Epoch, view: &DetectorView<'_>) {
        for Suspect { case, .. } in self.recent.leave(now.saturating_sub(self.config.window_epochs.saturating_sub(1))) {
            self.past.add_alone(case.validator, case.epoch, case.balance.as_u64());
        }
        let vector = view.network().preset().epochs_per_slashings_vector;
        self.past.forget_before(now.saturating_sub(self.config.base_rate_over_epochs.max(vector)));
    }

    fn open_if_due(&mut self, now: Epoch, at: Time, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let n = self.recent.len() as u64;
        if n < self.config.min_validators {
            return;
        }
        let expected = self.config.window_epochs as f64 * self.base_rate(now);
        let chance = poisson_tail(n, expected);
        if chance * self.config.chance_one_in as f64 > 1.0 {
            return;
        }
        let mut suspects = self.recent.drain().into_iter();
        let Some(first) = suspects.next() else { return };
        let mut wave = Wave::of(first, at, chance, &self.config, &self.past, view);
        suspects.for_each(|suspect| wave.join(suspect, &self.config, &self.past, view));
        wave.opens();
        let incident = wave.incident(&self.config, &self.past, view);
        out.push(Signal::Announcement(Box::new(incident.clone()), News::Opened));
        out.push(Signal::Incident(Box::new(incident)));
        self.wave = Some(wave);
        self.is_note_due = true;
    }

    /// Offenders per epoch: the configured rate or the rate seen outside of waves, whichever is
    /// greater.
    fn base_rate(&self, now: Epoch) -> f64 {
        let over = self.config.base_rate_over_epochs;
        let seen = self.past.alone_since(now.saturating_sub(over)) as f64;
        (1.0 / self.config.base_rate_epochs as f64).max(seen / over as f64)
    }

    /// Closes the wave. Its closing time belongs to the slot in which it ended, however late that
    /// is noticed.
    fn close(&mut self, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let Some(mut wave) = self.wave.take() else { return };
        wave.state = IncidentState::Closed;
        let mut incident = wave.incident(&self.config, &self.past, view);
        let network = view.network();
        let end = wave.last_joined.saturating_add(self.config.closes_after_epochs).start_slot(network.preset());
        incident.closed_at = Some(Time::from_unix_ns(network.slot_start_ns(end.saturating_add(1 + LAG))));
        out.push(Signal::Announcement(Box::new(incident.clone()), News::Over));
        out.push(Signal::Incident(Box::new(incident)));
        self.past.add_wave(wave.members.iter().copied(), wave.last_joined, wave.gwei());
        self.is_note_due = true;
    }

    fn save_if_due(&mut self, out: &mut Vec<Signal>) {
        if self.is_note_due {
            self.save(out);
        }
    }

    fn save(&mut self, out: &mut Vec<Signal>) {
        (self.is_unsaved, self.is_note_due) = (false, false);
        let bytes = saved::write(self.until, &self.past, self.recent.iter(), self.wave.as_ref());
        out.push(Signal::Note { name: NOTE, bytes });
    }

    fn report(&mut self, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        if let Some(wave) = &mut self.wave {
            out.push(Signal::Incident(Box::new(wave.incident(&self.config, &self.past, view))));
        }
        self.save(out);
    }
}

impl Detector for SlashingWave {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let mut cases: Vec<WaveCase> = Vec::new();
        for offender in batch.offenders {
            self.until = self.until.max(offender.finding.recorded_at);
            match Self::case(&offender.finding, Some(&offender.evidence), view) {
                Some(case) => cases.push(case),
                None => {
                    if let Some(wave) = &mut self.wave {
                        wave.note_harmless();
                    }
                }
            }
        }
        // In the order of the messages, whatever the order of the batch.
        cases.sort_by_key(|case| (case.at, case.id));
        for case in cases {
            self.take(case, view, out);
        }
        if let Some(wave) = &mut self.wave
            && !batch.included.is_empty()
        {
            wave.included += batch.included.len() as u64;
            wave.dirty = true;
        }
        self.save_if_due(out);
    }

    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let Some(wave) = &mut self.wave else {
            if self.is_unsaved {
                self.save(out);
            }
            return;
        };
        let quiet = slot.epoch(view.network().preset()).as_u64().saturating_sub(wave.last_joined.as_u64());
        let state = if quiet >= self.config.closes_after_epochs {
            self.close(view, out);
            return self.save_if_due(out);
        } else if quiet > self.config.waning_after_epochs {
            IncidentState::Waning
        } else if wave.has_grown() {
            IncidentState::Growing
        } else {
            wave.state
        };
        if state != wave.state || wave.dirty {
            wave.state = state;
            self.report(view, out);
        }
    }

    fn finish(&mut self, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        if self.is_unsaved || self.wave.as_ref().is_some_and(|wave| wave.dirty) {
            self.report(view, out);
        }
    }

    fn restore(&mut self, left: &Left<'_>, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        let waves = left.incidents.iter().filter(|incident| incident.kind == Kind::SlashingWave);
        let (closed, open): (Vec<_>, Vec<_>) = waves.partition(|incident| incident.state == IncidentState::Closed);
        self.left.closed = closed.iter().map(|incident| (incident.first_slot, incident.last_slot)).collect();
        let saved = left.notes.get(NOTE).and_then(|bytes| Saved::read(bytes));
        let root = view.network().genesis_validators_root;
        if let Some(saved) = saved {
            (self.until, self.left.until) = (saved.until, Some(saved.until));
            self.past = saved.past;
            saved.recent.into_iter().for_each(|suspect| self.recent.add(suspect));
            self.wave = saved.wave.filter(|wave| open.iter().any(|incident| incident.id == wave.id(root)));
        } else {
            self.left.open = open.last().map(|incident| (*incident).clone());
        }
    }

    fn recall(&mut self, finding: &Finding, proof_of: ProofLookup<'_>, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        if self.left.until.is_some_and(|until| finding.recorded_at <= until) {
            return;
        }
        self.until = self.until.max(finding.recorded_at);
        let evidence = finding.evidence.as_ref().and_then(|reference| proof_of(reference.id));
        let Some(case) = Self::case(finding, evidence.as_deref(), view) else { return };
        if self.left.closed.iter().any(|(first, last)| (*first..=*last).contains(&case.slot)) {
            let gwei = if self.past.knows(case.validator) { 0 } else { case.balance.as_u64() };
            self.past.add_wave(std::iter::once(case.validator), case.epoch, gwei);
            return;
        }
        let is_of_the_open_one = self.left.open.as_ref().is_some_and(|open| case.known_in >= open.first_slot);
        if let Some(open) = self.left.open.take_if(|_| is_of_the_open_one) {
            let wave = Wave::of(Suspect::new(case), open.opened_at, 0.0, &self.config, &self.past, view);
            self.wave = Some(wave.adopt(&open));
            self.is_unsaved = true;
            return;
        }
        self.take(case, view, out);
        self.save_if_due(out);
    }

    fn continues(&self, incident: &Incident, view: &DetectorView<'_>) -> bool {
        self.wave.as_ref().is_some_and(|wave| wave.id(view.network().genesis_validators_root) == incident.id)
    }
}

/// The probability of n or more events where `expected` are expected.
fn poisson_tail(n: u64, expected: f64) -> f64 {
    let mut term = (-expected).exp();
    let mut below = 0.0;
    for k in 0..n.min(10_000) {
        below += term;
        term *= expected / (k + 1) as f64;
    }
    // Where the tail is below the precision of `1 - below`, its first term is nearly all of it.
    (1.0f64 - below).max(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances() {
        let expected = 64.0 / 800.0;
        let one_in = |n| (1.0 / poisson_tail(n, expected)).round() as u64;
        assert_eq!(one_in(1), 13);
        assert_eq!(one_in(2), 330);
        assert_eq!(one_in(3), 12_442);
        assert!(poisson_tail(40, expected) < 1e-80);
        assert!(poisson_tail(0, expected) == 1.0);
    }
}
