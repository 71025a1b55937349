//! One wave: who is in it, what they share, what it costs.

use super::past::Past;
use super::recent::{Suspect, add};
use super::traits::Traits;
use super::{FirstMessage, MAX_MEMBERS, SlashingWaveConfig, SlashingWaveDetails, WaveCase, cause};
use crate::monitor::{Described, DetectorView};
use crate::{Losses, PenaltyRules};
use consensus::{Epoch, Gwei, Root, Slot, ValidatorIndex};
use evidence::{Count, INCIDENT_SCHEMA, Incident, IncidentState, Kind, OffenceCounts, Penalty, Severity, Time, incident_id};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Number of members listed in the details.
const EXAMPLES: usize = 16;
/// Number of the members' labels listed in the details.
const MAX_LABELS: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wave {
    pub(super) first: WaveCase,
    pub(super) opened_at: Time,
    pub(super) state: IncidentState,
    opened_with: u64,
    pub(super) members: BTreeSet<ValidatorIndex>,
    /// Offences of validators beyond [`MAX_MEMBERS`]. These validators are not kept, so one may
    /// count more than once.
    further: u64,
    offences: OffenceCounts,
    /// Number of members by effective balance in Gwei, without those that are known for an earlier
    /// offence.
    balances: BTreeMap<u64, u64>,
    pub(super) first_slot: Slot,
    last_slot: Slot,
    /// Epoch in which the latest member joined.
    pub(super) last_joined: Epoch,
    /// Number of members by the epoch in which they joined.
    joined: BTreeMap<Epoch, u64>,
    traits: Traits,
    clues: cause::CauseTally,
    chance: f64,
    pub(super) included: u64,
    /// Offences of keys that cannot be slashed.
    not_at_stake: u64,
    /// Something changed that is not yet reported.
    #[serde(skip)]
    pub(super) dirty: bool,
}

impl Wave {
    /// Starts a wave. `first` is the suspect that was known first.
    pub(super) fn of(
        first: Suspect,
        opened_at: Time,
        chance: f64,
        config: &SlashingWaveConfig,
        past: &Past,
        view: &DetectorView<'_>,
    ) -> Self {
        let case = first.case.clone();
        let mut wave = Self {
            opened_at,
            state: IncidentState::Open,
            opened_with: 0,
            members: BTreeSet::new(),
            further: 0,
            offences: OffenceCounts::default(),
            balances: BTreeMap::new(),
            first_slot: case.slot,
            last_slot: case.slot,
            last_joined: case.epoch,
            joined: BTreeMap::new(),
            traits: Traits::default(),
            clues: cause::CauseTally::default(),
            chance,
            included: 0,
            not_at_stake: 0,
            dirty: true,
            first: case,
        };
        wave.join(first, config, past, view);
        wave
    }

    /// Takes over what an earlier version of this program left, which stored the incident only. The
    /// members are found again one by one.
    pub(super) fn adopt(mut self, known: &Incident) -> Self {
        let detail = |name: &str| known.details.get(name);
        self.opened_at = known.opened_at;
        self.state = known.state;
        self.first_slot = known.first_slot;
        self.chance = detail("chance_of_so_many").and_then(Value::as_f64).unwrap_or_default();
        self.included = detail("slashings_in_blocks").and_then(Value::as_u64).unwrap_or_default();
        self.dirty = false;
        self
    }

    /// Called when all validators with whom the wave opens have joined.
    pub(super) fn opens(&mut self) {
        self.opened_with = self.n_members();
    }

    pub(super) fn join(&mut self, suspect: Suspect, config: &SlashingWaveConfig, past: &Past, view: &DetectorView<'_>) {
        let Suspect { case, offences, .. } = suspect;
        self.dirty = true;
        self.last_slot = self.last_slot.max(case.slot);
        // An offence that waited for its committees may be older than the first one.
        if (case.known_in, case.id) < (self.first.known_in, self.first.id) {
            self.first = case.clone();
        }
        add(&mut self.offences, offences);
        if self.members.len() >= MAX_MEMBERS && !self.members.contains(&case.validator) {
            self.further += 1;
            self.last_joined = self.last_joined.max(case.epoch);
            return;
        }
        if self.members.insert(case.validator) {
            self.last_joined = self.last_joined.max(case.epoch);
            *self.joined.entry(case.epoch).or_default() += 1;
            if !past.knows(case.validator) {
                *self.balances.entry(case.balance.as_u64()).or_default() += 1;
            }
            self.traits.add(case.validator, &case.clues, view);
            let record = view.chain.registry().record(case.validator);
            let is_fresh = record
                .is_some_and(|record| case.epoch.as_u64().saturating_sub(record.activation_epoch.as_u64()) < config.fresh_epochs);
            self.clues.add(&case.clues, case.offence, is_fresh);
        }
    }

    pub(super) fn n_members(&self) -> u64 {
        self.members.len() as u64 + self.further
    }

    pub(super) fn has_grown(&self) -> bool {
        self.n_members() > self.opened_with
    }

    /// Effective balances of the members, in Gwei, without those that are known for an earlier
    /// offence.
    pub(super) fn gwei(&self) -> u64 {
        self.balances.iter().fold(0u64, |sum, (balance, n)| sum.saturating_add(balance.saturating_mul(*n)))
    }

    pub(super) fn id(&self, genesis_validators_root: Root) -> Root {
        incident_id(genesis_validators_root, &Kind::SlashingWave, self.first_slot, "")
    }

    /// The incident in its current state.
    pub(super) fn incident(&mut self, config: &SlashingWaveConfig, past: &Past, view: &DetectorView<'_>) -> Incident {
        self.dirty = false;
        let network = view.network();
        let n = self.n_members();
        let shared = self.traits.shared(n, config, view);
        let epochs = self.last_joined.as_u64().saturating_sub(self.first.epoch.as_u64()) + 1;
        let cause = self.clues.suspect(n, &shared, config);
        let first = &self.first;
        let joined = self.joined.iter().rev().take(64);
        let details = SlashingWaveDetails {
            suspected_cause: cause.name.into(),
            because: cause.evidence,
            validators_per_epoch: (n as f64 / epochs as f64 * 100.0).round() / 100.0,
            usual_validators_per_epoch: 1.0 / config.base_rate_epochs as f64,
            chance_of_so_many: self.chance,
            first_message: FirstMessage {
                finding: first.id,
                kind: first.offence,
                validator: first.validator,
                slot: first.slot,
                known_in_slot: first.known_in,
            },
            joined_by_epoch: joined.map(|(epoch, n)| (epoch.to_string(), *n)).collect(),
            slashings_in_blocks: self.included,
            offences_of_keys_that_cannot_be_slashed: self.not_at_stake,
            examples: self.members.iter().take(EXAMPLES).copied().collect(),
            labels: self.traits.labels(MAX_LABELS),
        };
        let (kind, details) = Described::from(details).into_parts();
        Incident {
            schema: INCIDENT_SCHEMA,
            id: self.id(network.genesis_validators_root),
            kind,
            state: self.state,
            severity: Severity::Critical,
            first_slot: self.first_slot,
            last_slot: self.last_slot,
            opened_at: self.opened_at,
            closed_at: None,
            validators: Some(Count(n)),
            offences: Some(self.offences),
            shared,
            penalty: Some(self.penalty(past, view)),
            details,
            tracking: None,
        }
    }

    /// Counts one more offence of a key that cannot be slashed.
    pub(super) fn note_harmless(&mut self) {
        self.not_at_stake += 1;
        self.dirty = true;
    }

    /// The cost by the rules of the fork in which the latest member joined, with the stake that is
    /// active at that time.
    fn penalty(&self, past: &Past, view: &DetectorView<'_>) -> Penalty {
        let network = view.network();
        let now = self.last_joined;
        let rules = PenaltyRules::of(network.spec.fork_name_at(now), network.preset());
        let oldest = now.saturating_sub(network.preset().epochs_per_slashings_vector);
        let slashed = past.gwei_since(oldest).saturating_add(self.gwei());
        let (_, total) = view.chain.registry().active_balance(now);
        let sum = |each: &dyn Fn(Losses) -> Gwei, slashed: Gwei| {
            let all = self
                .balances
                .iter()
                .map(|(balance, n)| each(rules.losses(Gwei::new(*balance), slashed, total)).as_u64().saturating_mul(*n));
            Count(all.fold(0, u64::saturating_add))
        };
        let slashed_now = Gwei::new(slashed);
        let doubled = Gwei::new(slashed.saturating_mul(2));
        let usual = rules.losses(Gwei::new(32_000_000_000), slashed_now, total);
        Penalty {
            initial_gwei: sum(&|losses| losses.initial, slashed_now),
            correlation_gwei_now: sum(&|losses| losses.correlation, slashed_now),
            correlation_gwei_if_doubled: sum(&|losses| losses.correlation, doubled),
            per_32_eth_gwei: Count(usual.initial.as_u64().saturating_add(usual.correlation.as_u64())),
        }
    }
}
