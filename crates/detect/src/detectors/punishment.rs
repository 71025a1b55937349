//! `unpunished_offence` and `blind_spot`: what was proven here and is on no chain, and what is on a chain and was not found here.
//!
//! - *unpunished*: offences that a block could still include ([`crate::punishable`]) and none has for `after_slots`. Told as one incident with
//!   their number, the oldest, and until when the first of them can be punished. A validator whose slashing is in a block, for this
//!   pair of messages or another, or that the registry calls slashed, is off the list.
//! - *blind spot*: a block carries a slashing of which we had not heard both messages. Told with the reason as far as it can be known:
//!   not yet listening then, one of the two votes heard, none heard.
//!
//! **False alarms considered.** One slashing per block from Electra on: forty of them took 76 operations and six minutes
//! (`after_slots` is three epochs); exited and already slashed ones (cannot be punished: not counted); a slashing found here first
//! and included later (no blind spot: it was known before).
//!
//! **Bounds.** [`MAX_OPEN`] offences waited for; further ones are only counted.

use crate::config::Problems;
use crate::monitor::{Batch, Detector, Offender, Sighting, Signal, View};
use crate::punishable;
use consensus::{Epoch, Root, Slot, ValidatorIndex};
use evidence::{Incident, Punishable, Severity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::BTreeMap;

pub const UNPUNISHED: &str = "unpunished_offence";
pub const BLIND_SPOT: &str = "blind_spot";
/// Offences waited for.
pub const MAX_OPEN: usize = 65_536;
/// Named in the details.
const EXAMPLES: usize = 8;

/// `[detect.punishment]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PunishmentConfig {
    pub enabled: bool,
    pub after_slots: u64,
}

impl Default for PunishmentConfig {
    fn default() -> Self {
        Self { enabled: true, after_slots: 96 }
    }
}

impl PunishmentConfig {
    pub(crate) fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("after_slots", self.after_slots, 1);
    }
}

struct Waiting {
    validator: ValidatorIndex,
    /// When both messages were there.
    since: Slot,
    epoch: Epoch,
}

pub(crate) struct Punishment {
    config: PunishmentConfig,
    waiting: BTreeMap<Root, Waiting>,
    not_kept: u64,
    /// In the slots that were not yet evaluated.
    blind: Vec<(Slot, ValidatorIndex, Root, &'static str)>,
}

impl Punishment {
    pub(crate) fn new(config: PunishmentConfig) -> Self {
        Self { config, waiting: BTreeMap::new(), not_kept: 0, blind: Vec::new() }
    }

    fn wait_for(&mut self, offender: &Offender, view: &View<'_>) {
        let finding = &offender.finding;
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
        self.waiting.insert(finding.id, Waiting { validator: subject.index, since, epoch: finding.epoch });
    }
}

impl Detector for Punishment {
    fn observe(&mut self, batch: &Batch<'_>, view: &View<'_>, _out: &mut Vec<Signal>) {
        let included: Vec<Root> = batch.included.iter().map(|(id, _)| *id).collect();
        for offender in batch.offenders {
            let finding = &offender.finding;
            self.wait_for(offender, view);
            let needs_an_operation = finding.sources.iter().any(|source| source == "slashing_op");
            if let Some(subject) = finding.validator.as_ref().filter(|_| needs_an_operation && included.contains(&finding.id)) {
                let why = match view.facts.voted(finding.epoch, subject.index) {
                    Some(true) => "one of the two messages was heard, the other was not",
                    Some(false) => "neither message was heard",
                    None => "it was not listened for then, or it is too long ago",
                };
                if self.blind.len() < MAX_OPEN {
                    self.blind.push((view.facts.now(), subject.index, finding.id, why));
                }
            }
        }
        let punished: Vec<ValidatorIndex> =
            included.iter().filter_map(|id| self.waiting.get(id)).map(|waiting| waiting.validator).collect();
        if !punished.is_empty() {
            self.waiting.retain(|_, waiting| !punished.contains(&waiting.validator));
        }
    }

    fn slot_ended(&mut self, slot: Slot, view: &View<'_>, out: &mut Vec<Signal>) {
        let per_epoch = view.network().preset().slots_per_epoch;
        let (seen, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.blind).into_iter().partition(|(at, ..)| *at <= slot);
        self.blind = later;
        if let Some((_, _, _, why)) = seen.first() {
            let mut details = Map::new();
            details.insert("validators".into(), json!(seen.iter().take(EXAMPLES).map(|row| row.1).collect::<Vec<_>>()));
            details.insert("findings".into(), json!(seen.iter().take(EXAMPLES).map(|row| row.2).collect::<Vec<_>>()));
            details.insert("why".into(), (*why).into());
            out.push(Signal::Sighting(Sighting {
                kind: BLIND_SPOT,
                key: String::new(),
                slot,
                since: slot,
                severity: Severity::Warning,
                measure: seen.len() as u64,
                validators: Some(seen.len() as u64),
                shared: Vec::new(),
                details,
                closes_after: 8 * per_epoch,
            }));
        }
        // Who is slashed or gone meanwhile need not be waited for; asked once an epoch.
        if slot.as_u64().is_multiple_of(per_epoch) {
            self.waiting.retain(|_, waiting| {
                punishable(view.chain, waiting.validator, [waiting.epoch, waiting.epoch]) == Punishable::Yes
            });
        }
        let old = |waiting: &&Waiting| waiting.since.saturating_add(self.config.after_slots) <= slot;
        let n = self.waiting.values().filter(old).count() as u64;
        let Some((id, oldest)) = self.waiting.iter().filter(|(_, waiting)| old(waiting)).min_by_key(|(id, w)| (w.since, **id))
        else {
            return;
        };
        let until = self.waiting.values().filter_map(|waiting| view.chain.registry().record(waiting.validator));
        let until = until.map(|record| record.withdrawable_epoch).min().filter(|epoch| *epoch != Epoch::FAR_FUTURE);
        let mut details = Map::new();
        details.insert("offences".into(), n.into());
        details.insert("not_kept".into(), self.not_kept.into());
        details.insert(
            "oldest".into(),
            json!({"finding": id, "validator": oldest.validator, "age_slots": slot.as_u64() - oldest.since.as_u64()}),
        );
        details.insert("first_of_them_withdrawable_at_epoch".into(), json!(until));
        details.insert("punishable_while".into(), "the state's current or previous fork is that of the messages".into());
        out.push(Signal::Sighting(Sighting {
            kind: UNPUNISHED,
            key: String::new(),
            slot,
            since: oldest.since,
            severity: Severity::Warning,
            measure: n,
            validators: Some(n),
            shared: Vec::new(),
            details,
            closes_after: per_epoch,
        }));
    }

    fn restore(&mut self, _open: &[Incident], offenders: &[Offender], view: &View<'_>, _out: &mut Vec<Signal>) {
        for offender in offenders {
            self.wait_for(offender, view);
        }
    }
}
