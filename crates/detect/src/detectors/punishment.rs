//! `unpunished_offence` and `blind_spot`: offences that were proven here and are on no chain, and
//! slashings that are on a chain and were not found here.
//!
//! - *unpunished*: validators that a block could still slash ([`crate::punishable`]) for an offence
//!   that was known at least `after_slots` ago, but no block has. They are reported as one
//!   incident. It gives the number of validators and offences, the oldest offence, and until when
//!   the first of the validators can be punished. A validator can be slashed once, so it counts
//!   once, however often it offended. A validator is removed from the list when its slashing is in
//!   a block, for this pair of messages or another, or when the registry says that it is slashed.
//! - *blind spot*: a block carries a slashing of which we had not received both messages. It is
//!   reported with the reason, as far as that can be known: we were not listening at that time, one
//!   of the two messages was received, or none.
//!
//! **False alarms considered.** From Electra on a block carries one slashing: forty of them took 76
//! operations and six minutes, so `after_slots` is three epochs. Exited and already slashed
//! validators cannot be punished and are not counted. A slashing that was found here first and
//! included later is no blind spot, because it was known before.
//!
//! **Bounds.** At most [`MAX_OPEN`] offences wait for a block; further ones are only counted.

use super::common::listed;
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, MonitorInput, Observation, ProofLookup, Signal};
use crate::punishable;
use consensus::{Epoch, Root, Slot, ValidatorIndex};
use evidence::{Finding, Kind, Punishable, Severity};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Largest number of offences that wait for a block.
pub const MAX_OPEN: usize = 65_536;
/// Number of validators and findings listed in the details.
const EXAMPLES: usize = 8;

/// `[detect.punishment]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PunishmentConfig {
    pub enabled: bool,
    /// Number of slots that a proven offence may wait for a block.
    pub after_slots: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
    /// Blind spots that are no further apart than this are one incident.
    pub blind_spot_closes_after_epochs: u64,
}

impl Default for PunishmentConfig {
    fn default() -> Self {
        Self { enabled: true, after_slots: 96, closes_after_epochs: 1, blind_spot_closes_after_epochs: 8 }
    }
}

impl DetectorConfig for PunishmentConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(Punishment::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("after_slots", self.after_slots, 1);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
        problems.between("blind_spot_closes_after_epochs", self.blind_spot_closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct UnpunishedOffenceDetails {
    offences: usize,
    /// Number of offences for which there was no room.
    not_kept: u64,
    oldest: OldestOffence,
    first_of_them_punishable_before_epoch: Option<Epoch>,
}

#[derive(Serialize, Deserialize)]
struct OldestOffence {
    finding: Root,
    validator: ValidatorIndex,
    age_slots: u64,
}

impl Details for UnpunishedOffenceDetails {
    const KIND: Kind = Kind::UnpunishedOffence;

    fn sentence(&self, validators: Option<u64>) -> String {
        let validators = validators.map_or_else(String::new, |n| format!(" of {n} validators"));
        format!(
            "{} proven offences{validators} are in no block; the oldest is validator {}'s, {} slots ago",
            self.offences, self.oldest.validator, self.oldest.age_slots
        )
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct BlindSpotDetails {
    validators: Vec<ValidatorIndex>,
    findings: Vec<Root>,
    why: Cow<'static, str>,
}

impl Details for BlindSpotDetails {
    const KIND: Kind = Kind::BlindSpot;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let validators = listed(&self.validators, ", ");
        format!("A block punished validators {validators}, of whom we knew nothing: {}", self.why)
    }
}

struct UnpunishedOffence {
    validator: ValidatorIndex,
    /// The slot in which both messages had been seen.
    since: Slot,
    epoch: Epoch,
}

pub(crate) struct Punishment {
    config: PunishmentConfig,
    waiting: BTreeMap<Root, UnpunishedOffence>,
    not_kept: u64,
    /// Offences known from a slashing operation that are not yet known to be in the chain, by the
    /// finding's id: the validator, and why we had not found the offence ourselves.
    unheard: BTreeMap<Root, (ValidatorIndex, &'static str)>,
    /// Blind spots of the slots that were not yet evaluated.
    blind: Vec<(Slot, ValidatorIndex, Root, &'static str)>,
}

impl Punishment {
    pub(crate) fn new(config: PunishmentConfig) -> Self {
        Self { config, waiting: BTreeMap::new(), not_kept: 0, unheard: BTreeMap::new(), blind: Vec::new() }
    }

    fn wait_for(&mut self, finding: &Finding, view: &DetectorView<'_>) {
        let Some(subject) = &finding.validator else { return };
        if finding.included.is_some() || finding.punishable != Some(Punishable::Yes) {
            return;
        }
        if self.waiting.len() >= MAX_OPEN {
            self.not_kept += 1;
            return;
        }
        let seen = finding.second_seen.unwrap_or(finding.first_seen);
        let since = view.network().slot_at(seen.as_unix_ns());
        self.waiting.insert(finding.id, UnpunishedOffence { validator: subject.index, since, epoch: finding.epoch });
    }
}

/// The first epoch in which no block can punish the offence. This is when its validator is
/// withdrawable. It is also when a state no longer knows the fork version that the later message
/// was signed with: from the second fork after the message on, even if that fork is in the same
/// epoch as the first.
fn punishable_until(waiting: &UnpunishedOffence, view: &DetectorView<'_>) -> Epoch {
    let withdrawable = view.chain.registry().record(waiting.validator).map(|record| record.withdrawable_epoch);
    let spec = &view.network().spec;
    let signed_with = spec.fork_at(waiting.epoch).version;
    let forks_after = spec.schedule().into_iter().map(|(epoch, _)| epoch).filter(|epoch| *epoch > waiting.epoch);
    let forgotten = forks_after.filter(|epoch| spec.state_fork_at(*epoch).version_for(waiting.epoch) != signed_with).min();
    withdrawable.unwrap_or(Epoch::FAR_FUTURE).min(forgotten.unwrap_or(Epoch::FAR_FUTURE))
}

impl Punishment {
    /// Reports the blind spots that were known by the end of `slot`.
    fn report_blind_spots(&mut self, slot: Slot, per_epoch: u64, out: &mut Vec<Signal>) {
        let (seen, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.blind).into_iter().partition(|(at, ..)| *at <= slot);
        self.blind = later;
        if let Some((_, _, _, why)) = seen.first() {
            let validators: BTreeSet<ValidatorIndex> = seen.iter().map(|row| row.1).collect();
            let details = BlindSpotDetails {
                validators: validators.iter().take(EXAMPLES).copied().collect(),
                findings: seen.iter().take(EXAMPLES).map(|row| row.2).collect(),
                why: (*why).into(),
            };
            out.push(Signal::Observation(Observation {
                what: details.into(),
                key: String::new(),
                slot,
                since: slot,
                until: slot,
                severity: Severity::Warning,
                measure: validators.len() as u64,
                validators: Some(validators.len() as u64),
                shared: Vec::new(),
                closes_after: self.config.blind_spot_closes_after_epochs * per_epoch,
            }));
        }
    }

    fn note_unheard(&mut self, finding: &Finding, view: &DetectorView<'_>) {
        let needs_an_operation = finding.sources.iter().any(|source| source == "slashing_op");
        let Some(subject) = finding.validator.as_ref().filter(|_| needs_an_operation && self.unheard.len() < MAX_OPEN) else {
            return;
        };
        let why = match view.facts.voted(finding.epoch, subject.index) {
            Some(true) => "one of the two messages was heard, the other was not",
            Some(false) => "neither message was heard",
            None => "it was not listened for then, or it is too long ago",
        };
        self.unheard.insert(finding.id, (subject.index, why));
    }
}

impl Detector for Punishment {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        for offender in batch.offenders {
            self.wait_for(&offender.finding, view);
            self.note_unheard(&offender.finding, view);
        }
        for finding in batch.reopened {
            self.wait_for(finding, view);
        }
        let mut punished = BTreeSet::new();
        for (id, _) in batch.included {
            punished.extend(self.waiting.get(id).map(|waiting| waiting.validator));
            if let Some((validator, why)) = self.unheard.remove(id)
                && self.blind.len() < MAX_OPEN
            {
                self.blind.push((view.facts.now(), validator, *id, why));
            }
        }
        if !punished.is_empty() {
            self.waiting.retain(|_, waiting| !punished.contains(&waiting.validator));
        }
    }

    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let per_epoch = view.network().preset().slots_per_epoch;
        self.report_blind_spots(slot, per_epoch, out);
        // A validator that has been slashed or is gone in the meantime need not be waited for. This
        // is checked once per epoch.
        if slot.as_u64().is_multiple_of(per_epoch) {
            self.waiting.retain(|_, waiting| {
                punishable(view.chain, waiting.validator, [waiting.epoch, waiting.epoch]) == Punishable::Yes
            });
        }
        let old = || self.waiting.iter().filter(|(_, one)| one.since.saturating_add(self.config.after_slots) <= slot);
        let Some((id, oldest)) = old().min_by_key(|(id, one)| (one.since, **id)) else { return };
        // Any of its offences is enough to slash a validator, so the one that can be punished
        // longest counts.
        let mut until: BTreeMap<ValidatorIndex, Epoch> = BTreeMap::new();
        for (_, one) in old() {
            let known = until.entry(one.validator).or_default();
            *known = (*known).max(punishable_until(one, view));
        }
        let n = until.len() as u64;
        let details = UnpunishedOffenceDetails {
            offences: old().count(),
            not_kept: self.not_kept,
            oldest: OldestOffence { finding: *id, validator: oldest.validator, age_slots: slot.as_u64() - oldest.since.as_u64() },
            first_of_them_punishable_before_epoch: until.values().min().copied().filter(|epoch| *epoch != Epoch::FAR_FUTURE),
        };
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since: oldest.since,
            until: slot,
            severity: Severity::Warning,
            measure: n,
            validators: Some(n),
            shared: Vec::new(),
            closes_after: self.config.closes_after_epochs * per_epoch,
        }));
    }

    fn finish(&mut self, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.report_blind_spots(view.facts.now(), view.network().preset().slots_per_epoch, out);
    }

    fn recall(&mut self, finding: &Finding, _proof_of: ProofLookup<'_>, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        self.wait_for(finding, view);
        if finding.included.is_none() {
            self.note_unheard(finding, view);
        }
    }
}
