//! `slashing_wave`: far more validators contradict themselves than ever do by themselves.
//!
//! **The idea.** Over years one validator in about 800 epochs of mainnet was slashed (525 by September 2025). With that rate, n or
//! more in a window of w epochs happen by chance with the probability of a Poisson tail at w / 800. A wave opens when both hold:
//!
//! - *number*: at least `min_validators` different ones within `window_epochs`;
//! - *rate*: the chance of so many is at most one in `chance_one_in`, by the base rate of the configuration or the one seen here outside
//!   of waves over the last 8 192 epochs, whichever is greater: a test network where people slash themselves for fun raises its own bar.
//!
//! Worked example: 64 epochs at 1 / 800 expect 0.08. Two or more: 1 in 330. Three or more: 1 in 12 500, beyond the default of 1 in
//! 10 000: a wave. So the two keys of one unlucky operator are none, a third key within seven hours makes it one.
//!
//! **Life.** `open`; `growing` while validators join; `waning` when none joined for `waning_after_epochs`; `closed` after
//! `closes_after_epochs` without one. Told at once when it opens, later once a slot.
//!
//! **What they share** ([`traits`]) is said where it is twice as frequent among them as among all validators. **Why** ([`cause`]) is a
//! suspicion with its evidence. **What it costs**: [`crate::PenaltyRules`], with all that is slashed within the vector's epochs.
//!
//! **False alarms considered.** Several offences of one validator (counted once); offences known only from a block or seen again in a
//! replay (a finding comes once); two unrelated single slashings in a night (below `min_validators`); history that is filled in
//! (time is that of the messages, so old offences do not pile up on today).
//!
//! **Bounds.** [`MAX_MEMBERS`] are told apart, further ones counted; 4 096 different traits.

mod cause;
mod traits;

use crate::PenaltyRules;
use crate::config::Problems;
use crate::monitor::{Batch, Detector, LAG, Oddity, Offender, Signal, View};
use cause::Clues;
use consensus::{Epoch, Gwei, Offence, Root, Slot, ValidatorIndex};
use evidence::{Count, INCIDENT_SCHEMA, Incident, IncidentState, OffenceCounts, Penalty, Severity, Time, incident_id};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use traits::Traits;

pub const KIND: &str = "slashing_wave";
/// Members told apart.
pub const MAX_MEMBERS: usize = 131_072;
/// Offenders outside of waves that the base rate is taken from.
const MAX_HISTORY: usize = 4_096;
/// Over so many epochs.
const HISTORY_EPOCHS: u64 = 8_192;
/// Members named in the details.
const EXAMPLES: usize = 16;

/// `[detect.slashing_wave]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlashingWaveConfig {
    pub enabled: bool,
    pub window_epochs: u64,
    pub min_validators: u64,
    /// One slashed validator in so many epochs is usual.
    pub base_rate_epochs: u64,
    pub chance_one_in: u64,
    pub waning_after_epochs: u64,
    pub closes_after_epochs: u64,
}

impl Default for SlashingWaveConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window_epochs: 64,
            min_validators: 3,
            base_rate_epochs: 800,
            chance_one_in: 10_000,
            waning_after_epochs: 2,
            closes_after_epochs: 64,
        }
    }
}

impl SlashingWaveConfig {
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("window_epochs", self.window_epochs, 1);
        problems.at_least("min_validators", self.min_validators, 2);
        problems.at_least("base_rate_epochs", self.base_rate_epochs, 1);
        problems.at_least("closes_after_epochs", self.closes_after_epochs, self.waning_after_epochs.saturating_add(1));
    }
}

pub(crate) struct SlashingWave {
    config: SlashingWaveConfig,
    /// Offenders of the window while there is no wave, in order of arrival.
    recent: VecDeque<Case>,
    /// Epochs of offenders outside of waves, for the base rate and for what is slashed within the vector.
    history: VecDeque<(Epoch, Gwei)>,
    wave: Option<Wave>,
}

/// One offence of one validator.
#[derive(Clone)]
struct Case {
    id: Root,
    validator: ValidatorIndex,
    offence: Offence,
    slot: Slot,
    /// When it could be known. Within its slot this is the arrival of whatever it was proven together with.
    at: Time,
    /// The slot of that moment: the same however messages were batched.
    known_in: Slot,
    epoch: Epoch,
    balance: Gwei,
    clues: Clues,
}

struct Wave {
    first: Case,
    opened_at: Time,
    state: IncidentState,
    opened_with: u64,
    members: BTreeSet<ValidatorIndex>,
    /// Past [`MAX_MEMBERS`].
    further: u64,
    offences: OffenceCounts,
    /// Effective balance -> members with it.
    balances: BTreeMap<u64, u64>,
    first_slot: Slot,
    last_slot: Slot,
    /// Epoch in which the latest member joined.
    last_joined: Epoch,
    /// Members by the epoch in which they joined.
    joined: BTreeMap<Epoch, u64>,
    traits: Traits,
    clues: cause::Tally,
    chance: f64,
    included: u64,
    dirty: bool,
}

impl SlashingWave {
    pub(crate) fn new(config: SlashingWaveConfig) -> Self {
        Self { config, recent: VecDeque::new(), history: VecDeque::new(), wave: None }
    }

    fn case(&self, offender: &Offender, view: &View<'_>) -> Option<Case> {
        let finding = &offender.finding;
        let validator = finding.validator.as_ref()?.index;
        let at = finding.second_seen.unwrap_or(finding.first_seen);
        let network = view.network();
        let known_in = network.slot_at(at.as_unix_ns());
        let epoch = known_in.epoch(network.preset());
        let record = view.chain.registry().record(validator);
        Some(Case {
            id: finding.id,
            validator,
            offence: finding.offence()?,
            // A vote from the future belongs to the slot in which it was cast.
            slot: finding.slot.min(known_in),
            at,
            known_in,
            epoch,
            balance: record.map_or(Gwei::new(0), |record| record.effective_balance),
            clues: Clues::of(offender, epoch, view),
        })
    }

    fn take(&mut self, case: Case, view: &View<'_>, out: &mut Vec<Signal>) {
        if let Some(wave) = &mut self.wave {
            if case.epoch >= wave.last_joined.saturating_add(self.config.closes_after_epochs) {
                self.close(view, case.at, out);
            } else {
                wave.join(case, view);
                return;
            }
        }
        let oldest = case.epoch.saturating_sub(self.config.window_epochs.saturating_sub(1));
        while self.recent.front().is_some_and(|first| first.epoch < oldest) || self.recent.len() >= MAX_MEMBERS {
            if let Some(gone) = self.recent.pop_front() {
                self.remember(&gone);
            }
        }
        self.recent.push_back(case);
        self.open_if_due(view, out);
    }

    fn open_if_due(&mut self, view: &View<'_>, out: &mut Vec<Signal>) {
        let different: BTreeSet<ValidatorIndex> = self.recent.iter().map(|case| case.validator).collect();
        let n = different.len() as u64;
        let Some(latest) = self.recent.back() else { return };
        if n < self.config.min_validators {
            return;
        }
        let expected = self.config.window_epochs as f64 * self.base_rate(latest.epoch);
        let chance = poisson_tail(n, expected);
        if chance * self.config.chance_one_in as f64 > 1.0 {
            return;
        }
        let opened_at = latest.at;
        let mut wave = Wave::of(self.recent.drain(..), opened_at, chance, view);
        let incident = wave.tell(&self.config, &self.history, view);
        out.push(Signal::Announcement(announcement(&incident)));
        out.push(Signal::Incident(Box::new(incident)));
        self.wave = Some(wave);
    }

    /// Offenders per epoch: the configured rate or what was seen outside of waves.
    fn base_rate(&self, now: Epoch) -> f64 {
        let oldest = now.saturating_sub(HISTORY_EPOCHS);
        let seen = self.history.iter().filter(|(epoch, _)| *epoch >= oldest).count() as f64;
        (1.0 / self.config.base_rate_epochs as f64).max(seen / HISTORY_EPOCHS as f64)
    }

    fn remember(&mut self, case: &Case) {
        self.history.push_back((case.epoch, case.balance));
        if self.history.len() > MAX_HISTORY {
            self.history.pop_front();
        }
    }

    fn close(&mut self, view: &View<'_>, at: Time, out: &mut Vec<Signal>) {
        let Some(mut wave) = self.wave.take() else { return };
        wave.state = IncidentState::Closed;
        let mut incident = wave.tell(&self.config, &self.history, view);
        incident.closed_at = Some(at);
        out.push(Signal::Incident(Box::new(incident)));
    }
}

impl Detector for SlashingWave {
    fn observe(&mut self, batch: &Batch<'_>, view: &View<'_>, out: &mut Vec<Signal>) {
        let mut cases: Vec<Case> = batch.offenders.iter().filter_map(|offender| self.case(offender, view)).collect();
        // The order of messages, not that of the batch.
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
    }

    fn slot_ended(&mut self, slot: Slot, view: &View<'_>, out: &mut Vec<Signal>) {
        let Some(wave) = &mut self.wave else { return };
        let network = view.network();
        let now = network.slot_at(network.slot_start_ns(slot)).epoch(network.preset());
        let quiet = now.as_u64().saturating_sub(wave.last_joined.as_u64());
        let state = if quiet >= self.config.closes_after_epochs {
            let at = Time::from_unix_ns(network.slot_start_ns(slot.saturating_add(1 + LAG)));
            return self.close(view, at, out);
        } else if quiet > self.config.waning_after_epochs {
            IncidentState::Waning
        } else if wave.has_grown() {
            IncidentState::Growing
        } else {
            wave.state
        };
        if state != wave.state || wave.dirty {
            wave.state = state;
            out.push(Signal::Incident(Box::new(wave.tell(&self.config, &self.history, view))));
        }
    }

    fn finish(&mut self, view: &View<'_>, out: &mut Vec<Signal>) {
        if let Some(wave) = self.wave.as_mut().filter(|wave| wave.dirty) {
            out.push(Signal::Incident(Box::new(wave.tell(&self.config, &self.history, view))));
        }
    }

    fn restore(&mut self, open: &[Incident], offenders: &[Offender], view: &View<'_>, out: &mut Vec<Signal>) {
        let mut cases: Vec<Case> = offenders.iter().filter_map(|offender| self.case(offender, view)).collect();
        cases.sort_by_key(|case| (case.at, case.id));
        let known = open.iter().find(|incident| incident.kind == KIND && incident.state != IncidentState::Closed);
        let Some(known) = known else {
            // A wave of theirs was told and closed, or a crash came before it was told.
            for case in cases {
                self.take(case, view, out);
            }
            return;
        };
        let (before, members): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| case.slot < known.first_slot);
        for case in &before {
            self.remember(case);
        }
        if !members.is_empty() {
            let mut wave = Wave::of(members.into_iter(), known.opened_at, 0.0, view);
            wave.first_slot = known.first_slot;
            wave.state = known.state;
            wave.chance = known.details.get("chance_of_so_many").and_then(serde_json::Value::as_f64).unwrap_or_default();
            wave.dirty = false;
            self.wave = Some(wave);
        }
    }
}

impl Wave {
    /// At least one case.
    fn of(cases: impl Iterator<Item = Case>, opened_at: Time, chance: f64, view: &View<'_>) -> Self {
        let mut cases = cases.peekable();
        let first = cases.peek().cloned().expect("a wave opens with its members");
        let mut wave = Self {
            opened_at,
            state: IncidentState::Open,
            opened_with: 0,
            members: BTreeSet::new(),
            further: 0,
            offences: OffenceCounts::default(),
            balances: BTreeMap::new(),
            first_slot: first.slot,
            last_slot: first.slot,
            last_joined: first.epoch,
            joined: BTreeMap::new(),
            traits: Traits::default(),
            clues: cause::Tally::default(),
            chance,
            included: 0,
            dirty: true,
            first,
        };
        for case in cases {
            wave.join(case, view);
        }
        wave.opened_with = wave.n_members();
        wave
    }

    fn join(&mut self, case: Case, view: &View<'_>) {
        self.dirty = true;
        self.last_slot = self.last_slot.max(case.slot);
        // One that waited for its committees may have come first.
        if (case.known_in, case.id) < (self.first.known_in, self.first.id) {
            self.first = case.clone();
        }
        let count = match case.offence {
            Offence::DoubleVote => &mut self.offences.double_vote,
            Offence::SurroundVote => &mut self.offences.surround_vote,
            Offence::DoubleProposal => &mut self.offences.double_proposal,
        };
        count.0 += 1;
        if self.members.len() >= MAX_MEMBERS && !self.members.contains(&case.validator) {
            self.further += 1;
            self.last_joined = self.last_joined.max(case.epoch);
            return;
        }
        if self.members.insert(case.validator) {
            self.last_joined = self.last_joined.max(case.epoch);
            *self.joined.entry(case.epoch).or_default() += 1;
            *self.balances.entry(case.balance.as_u64()).or_default() += 1;
            self.traits.add(case.validator, &case.clues, view);
            self.clues.add(&case.clues, case.offence, case.epoch, view.chain.registry().record(case.validator));
        }
    }

    fn n_members(&self) -> u64 {
        self.members.len() as u64 + self.further
    }

    fn has_grown(&self) -> bool {
        self.n_members() > self.opened_with
    }

    /// The incident as it is now.
    fn tell(&mut self, config: &SlashingWaveConfig, history: &VecDeque<(Epoch, Gwei)>, view: &View<'_>) -> Incident {
        self.dirty = false;
        let network = view.network();
        let n = self.n_members();
        let shared = self.traits.shared(n, view);
        let epochs = self.last_joined.as_u64().saturating_sub(self.first.epoch.as_u64()) + 1;
        let cause = self.clues.suspect(n, &shared);
        let first = &self.first;
        let details = json!({
            "suspected_cause": cause.name,
            "because": cause.evidence,
            "validators_per_epoch": (n as f64 / epochs as f64 * 100.0).round() / 100.0,
            "usual_validators_per_epoch": 1.0 / config.base_rate_epochs as f64,
            "chance_of_so_many": self.chance,
            "first_message": {
                "finding": first.id,
                "kind": first.offence.as_str(),
                "validator": first.validator,
                "slot": first.slot,
                "known_in_slot": first.known_in,
            },
            "joined_by_epoch": self.joined.iter().rev().take(64).map(|(epoch, n)| (epoch.to_string(), *n))
                .collect::<BTreeMap<String, u64>>(),
            "slashings_in_blocks": self.included,
            "examples": self.members.iter().take(EXAMPLES).collect::<Vec<_>>(),
        });
        Incident {
            schema: INCIDENT_SCHEMA,
            id: incident_id(network.genesis_validators_root, KIND, self.first_slot, ""),
            kind: KIND.into(),
            state: self.state,
            severity: Severity::Critical,
            first_slot: self.first_slot,
            last_slot: self.last_slot,
            opened_at: self.opened_at,
            closed_at: None,
            validators: Some(Count(n)),
            offences: Some(self.offences),
            shared,
            penalty: Some(self.penalty(history, view)),
            details: match details {
                serde_json::Value::Object(map) => map,
                _ => Map::new(),
            },
        }
    }

    /// By the rules of the fork in which the latest member joined, with the stake that is active then.
    fn penalty(&self, history: &VecDeque<(Epoch, Gwei)>, view: &View<'_>) -> Penalty {
        let network = view.network();
        let now = self.last_joined;
        let rules = PenaltyRules::of(network.spec.fork_name_at(now), network.preset());
        let oldest = now.saturating_sub(network.preset().epochs_per_slashings_vector);
        let earlier: u64 = history.iter().filter(|(epoch, _)| *epoch >= oldest).map(|(_, balance)| balance.as_u64()).sum();
        let slashed = self.balances.iter().fold(earlier, |sum, (balance, n)| sum.saturating_add(balance.saturating_mul(*n)));
        let (_, total) = view.chain.registry().active_balance(now);
        let sum = |each: &dyn Fn(Gwei) -> Gwei| {
            let all = self.balances.iter().map(|(balance, n)| each(Gwei::new(*balance)).as_u64().saturating_mul(*n));
            Count(all.fold(0, u64::saturating_add))
        };
        let slashed_now = Gwei::new(slashed);
        let doubled = Gwei::new(slashed.saturating_mul(2));
        let usual = Gwei::new(32_000_000_000);
        Penalty {
            initial_gwei: sum(&|balance| rules.initial(balance)),
            correlation_gwei_now: sum(&|balance| rules.correlation(balance, slashed_now, total)),
            correlation_gwei_if_doubled: sum(&|balance| rules.correlation(balance, doubled, total)),
            per_32_eth_gwei: Count(
                rules.initial(usual).as_u64().saturating_add(rules.correlation(usual, slashed_now, total).as_u64()),
            ),
        }
    }
}

/// What alert routes deliver: the slashings themselves are critical, that they are many is said once.
fn announcement(incident: &Incident) -> Oddity {
    Oddity {
        kind: KIND,
        key: String::new(),
        severity: Severity::Warning,
        slot: incident.first_slot,
        validator: None,
        first_seen: verify::UnixNs(incident.opened_at.as_unix_ns()),
        second_seen: Some(verify::UnixNs(incident.opened_at.as_unix_ns())),
        sources: Vec::new(),
        details: incident.details.clone(),
    }
}

/// The chance of n or more events where `expected` are.
fn poisson_tail(n: u64, expected: f64) -> f64 {
    let mut term = (-expected).exp();
    let mut below = 0.0;
    for k in 0..n.min(10_000) {
        below += term;
        term *= expected / (k + 1) as f64;
    }
    // Below the precision of `1 - below` the first term of the tail is all of it.
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
