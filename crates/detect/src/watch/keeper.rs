//! The detector of watched keys. It follows each key's duties and reports what is wrong with them.
//!
//! - `missed_duties`, warning: keys of a group missed `missed_in_a_row` epochs in a row. One
//!   incident per group, while this lasts.
//! - `missed_duties`, warning: a key was to propose, but there was no block, or nobody voted for
//!   the block or built on it: see [`proposing`](super::proposing).
//! - `flapping_keys`, warning: see [`flapping`](super::flapping). One incident per label.
//! - `dormant_key_signed`, critical: a key that should be silent, or that has exited, signed
//!   something for a slot after that.
//! - `second_signer`, critical: a watched key contradicted itself. Two machines sign with it, or
//!   one machine lost its signing history. Reported once per key.
//!
//! An epoch is judged when a quarter of the next epoch is over. By then its last votes have
//! arrived, as single votes, in aggregates and in a block. A key counts as missing only if all
//! these conditions hold:
//!
//! - the registry has the key as active in that epoch, and its duty is `active`;
//! - the watcher ran for the whole epoch, without a pause;
//! - the votes received from the whole network are at least `network_percent` of the seats, where a
//!   slot without any vote received counts with all its seats;
//! - at least `slot_heard_percent` of the seats of its slot voted; if its slot is not known, this
//!   must hold for all slots of the epoch.
//!
//! If one of these does not hold, a missing vote is not judged: it neither begins a row of misses
//! nor ends one.
//!
//! **False alarms considered.** Our own outage or bad connection, for some slots or longer: then
//! nobody else is received either. A finality incident. A key that exited while our registry is old
//! (up to `nodes.refresh_epochs`). Late votes: a vote that arrives after its epoch was judged ends
//! the row of misses. An old vote of a dormant key that arrives now: only slots since the key
//! should be silent count. A key whose clock was ahead contradicts what it signed then: this is one
//! signer with a wrong clock and no second signer; it is reported as `clock_skew` and as an
//! offence.
//!
//! **Bounds.** The number of keys is limited by [`super::MAX_WATCHED`]. The duties of a few epochs
//! are kept ([`KEPT_SHEETS`]), each with a row per watched key.

use super::flapping::{SlotDuties, Stretch};
use super::proposing::Turn;
use super::record::{Done, KeyRecord};
use super::sheet::{Bitmap, DutyVote, EpochDuties};
use super::thresholds::WatchedKeysConfig;
use super::{ChainState, KeyStatus, Label, LabelSet, Labels, SharedWatchState, WatchReport};
use crate::monitor::facts::DISPARITY_NS;
use crate::monitor::{
    Details, Detector, DetectorView, EvidenceSource, MonitorInput, Observation, Offender, Signal, SingleAnomaly, SlotFacts,
};
use consensus::{AttesterSlashing, Epoch, Network, Root, Slot, ValidatorIndex};
use evidence::{Evidence, EvidenceKind, Finding, Kind, Severity};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use verify::{FirstSeen, UnixNs, Vote};

/// Votes are entered for the next epoch, the current one, and `KEPT_SHEETS - 1` earlier ones.
const KEPT_SHEETS: u64 = 4;
/// Number of epochs that are remembered of a key whose clock was ahead.
const MAX_AHEAD: usize = 64;
/// Number of keys listed in the details.
const EXAMPLES: usize = 32;

/// The details of a group's incident, or of one missed proposal.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum MissedDutiesDetails {
    Group {
        group: String,
        /// The labels of the group. Alert routes with labels select by these.
        labels: Vec<String>,
        keys_missing: usize,
        keys_in_group: usize,
        /// Number of epochs, for the key that has been missing for longest.
        missed_in_a_row: u32,
        /// Some of the missing keys.
        validators: Vec<ValidatorIndex>,
    },
    Proposal {
        /// Always `proposal`.
        duty: Cow<'static, str>,
        /// What happened to the block, in words.
        block: Cow<'static, str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_slot_start_ms: Option<i64>,
        groups: Vec<String>,
    },
}

impl Details for MissedDutiesDetails {
    const KIND: Kind = Kind::MissedDuties;

    fn sentence(&self, _validators: Option<u64>) -> String {
        match self {
            Self::Group { group, keys_missing, keys_in_group, missed_in_a_row, .. } => format!(
                "{keys_missing} of {keys_in_group} keys of group {group} miss their duties, for up to {missed_in_a_row} epochs in a row"
            ),
            Self::Proposal { block, .. } => format!("It was its turn to propose; its block: {block}"),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FlappingKeysDetails {
    /// The one label. Alert routes with labels select by it.
    labels: Vec<String>,
    down_from_slot: Slot,
    down_to_slot: Slot,
    duties_missed: u64,
    /// Some of the keys.
    validators: Vec<ValidatorIndex>,
}

impl Details for FlappingKeysDetails {
    const KIND: Kind = Kind::FlappingKeys;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { down_from_slot, down_to_slot, duties_missed, .. } = self;
        let label = self.labels.join(", ");
        format!(
            "Keys of {label} missed {duties_missed} duties together, from slot {down_from_slot} to {down_to_slot}, and came back"
        )
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct DormantKeySignedDetails {
    /// The duty of the key, or that it has exited.
    duty: Cow<'static, str>,
    /// `vote` or `block`.
    signed: Cow<'static, str>,
    silent_since_slot: Slot,
    groups: Vec<String>,
}

impl Details for DormantKeySignedDetails {
    const KIND: Kind = Kind::DormantKeySigned;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let Self { duty, signed, silent_since_slot, .. } = self;
        format!("A key that should be silent since slot {silent_since_slot} ({duty}) signed a {signed}")
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SecondSignerDetails {
    offence: Kind,
    /// Id of the offence's finding.
    finding: Root,
    /// Milliseconds between the arrivals of the two messages.
    apart_ms: Option<u64>,
    groups: Vec<String>,
    watched_keys_with_the_same_label: BTreeMap<String, usize>,
}

impl Details for SecondSignerDetails {
    const KIND: Kind = Kind::SecondSigner;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let offence = self.offence.words();
        format!("A watched key contradicted itself ({offence}): two machines sign with it, or one that lost its memory")
    }
}

/// The detector of watched keys: see the documentation of this module.
pub struct WatchedKeysDetector {
    config: WatchedKeysConfig,
    desk: SharedWatchState,
    labels: Arc<Labels>,
    watched: Bitmap,
    records: BTreeMap<ValidatorIndex, KeyRecord>,
    sheets: BTreeMap<Epoch, EpochDuties>,
    /// The slot since which each dormant key should be silent.
    dormant_since: HashMap<ValidatorIndex, Slot>,
    /// The slot of the signature that was last reported, by key.
    dormant_told: HashMap<ValidatorIndex, Slot>,
    /// The epochs for which a key signed something before its slot had begun. Only the highest ones
    /// are kept.
    signed_ahead: HashMap<ValidatorIndex, BTreeSet<Epoch>>,
    /// Keys whose second signer was reported. Each further offence of such a key is a finding of
    /// its own, but no second signer is reported again.
    second_signer_told: BTreeSet<ValidatorIndex>,
    stretches: HashMap<Label, Stretch>,
    /// The watcher has run without a pause since the beginning of this slot.
    listening_since: Option<Slot>,
    last_ended: Slot,
    judged: Option<Epoch>,
}

impl WatchedKeysDetector {
    pub fn new(config: WatchedKeysConfig, desk: SharedWatchState) -> Self {
        Self {
            config,
            desk,
            labels: Arc::default(),
            watched: Bitmap::default(),
            records: BTreeMap::new(),
            sheets: BTreeMap::new(),
            dormant_since: HashMap::new(),
            dormant_told: HashMap::new(),
            signed_ahead: HashMap::new(),
            second_signer_told: BTreeSet::new(),
            stretches: HashMap::new(),
            listening_since: None,
            last_ended: Slot::new(0),
            judged: None,
        }
    }

    /// Takes over the set of watched keys if it changed, and publishes it at once. The records of
    /// keys that stay watched are kept.
    fn look_at_desk(&mut self, now: Slot, view: &DetectorView<'_>) {
        let labels = self.desk.labels();
        if Arc::ptr_eq(&labels, &self.labels) {
            return;
        }
        let mut known = std::mem::take(&mut self.records);
        let mut since = std::mem::take(&mut self.dormant_since);
        for (validator, set) in labels.watched() {
            let pubkey = || view.chain.registry().pubkey_bytes(validator).unwrap_or_default();
            let record = known.remove(&validator).unwrap_or_else(|| KeyRecord::new(pubkey()));
            self.records.insert(validator, record);
            if set.duty.is_dormant() {
                self.dormant_since.insert(validator, since.remove(&validator).unwrap_or(now));
            }
        }
        self.watched = Bitmap::of(self.records.keys().copied());
        self.dormant_told.retain(|validator, _| self.records.contains_key(validator));
        self.signed_ahead.retain(|validator, _| self.records.contains_key(validator));
        self.second_signer_told.retain(|validator| self.records.contains_key(validator));
        self.labels = labels;
        // Before the first slot has ended, the keys' states are those of the present.
        self.publish(self.last_ended.max(now.saturating_sub(1)), view);
    }

    fn vote(&mut self, vote: &Vote, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let (epoch, now) = (vote.data.target.epoch, view.facts.now().epoch(view.network().preset()));
        // Nearly every vote has no watched key among its voters.
        let both = vote.indices.iter().zip(&vote.arrivals);
        let ours: Vec<(ValidatorIndex, UnixNs)> = both
            .filter(|(validator, _)| self.watched.has(**validator))
            .map(|(validator, arrival)| (*validator, arrival.at))
            .collect();
        for (validator, at) in &ours {
            self.note_ahead(*validator, vote.data.slot, *at, view);
            self.signed(*validator, vote.data.slot, epoch, &vote.heard, "vote", view, out);
            if let Some(record) = self.records.get_mut(validator) {
                record.last_vote = record.last_vote.max(Some(vote.data.slot));
            }
            // A vote for an epoch far from now says nothing about a current duty.
            if epoch > now.saturating_add(1) || epoch.saturating_add(KEPT_SHEETS - 1) < now {
                continue;
            }
            let is_new = self.sheets.entry(epoch).or_default().enter(*validator, vote);
            if is_new
                && self.judged.is_some_and(|judged| epoch <= judged)
                && let Some(record) = self.records.get_mut(validator)
            {
                record.alive();
            }
        }
        if let (Some(shuffling), Some(sheet)) = (&vote.shuffling, self.sheets.get_mut(&epoch))
            && sheet.shuffling.is_none()
        {
            sheet.shuffling = Some(shuffling.clone());
        }
    }

    /// Takes in a signature of a watched key. It reports an anomaly if the key should be silent.
    #[expect(clippy::too_many_arguments, reason = "what was signed, by whom, for when and where it was heard")]
    fn signed(
        &mut self,
        validator: ValidatorIndex,
        slot: Slot,
        epoch: Epoch,
        heard: &FirstSeen,
        signed: &'static str,
        view: &DetectorView<'_>,
        out: &mut Vec<Signal>,
    ) {
        let has_exited = view.chain.registry().record(validator).is_some_and(|record| record.exit_epoch <= epoch);
        let duty = self.labels.get(validator).map_or("", |set| set.duty.as_str());
        let (silent_since, why) = match self.dormant_since.get(&validator) {
            Some(since) => (*since, duty),
            // A late message about the time before the exit has a smaller epoch, so it does not
            // come here.
            None if has_exited => (epoch.start_slot(view.network().preset()), "exited on chain"),
            None => return,
        };
        let again = self.config.dormant_again_epochs.saturating_mul(view.network().preset().slots_per_epoch);
        let was_told = self.dormant_told.get(&validator).is_some_and(|told| slot.as_u64() < told.as_u64().saturating_add(again));
        if slot < silent_since || was_told {
            return;
        }
        self.dormant_told.insert(validator, slot);
        let details = DormantKeySignedDetails {
            duty: why.into(),
            signed: signed.into(),
            silent_since_slot: silent_since,
            groups: self.groups_of(validator),
        };
        out.push(Signal::Anomaly(SingleAnomaly {
            what: details.into(),
            key: validator.to_string(),
            severity: Severity::Critical,
            slot,
            validator: Some(validator),
            first_seen: heard.at,
            second_seen: None,
            sources: vec![heard.source.label().to_owned()],
        }));
    }

    /// Remembers that a key signed something for a slot that had not begun when it arrived.
    fn note_ahead(&mut self, validator: ValidatorIndex, slot: Slot, at: UnixNs, view: &DetectorView<'_>) {
        if !is_ahead(slot, at, view.network()) {
            return;
        }
        let epochs = self.signed_ahead.entry(validator).or_default();
        epochs.insert(slot.epoch(view.network().preset()));
        if epochs.len() > MAX_AHEAD {
            epochs.pop_first();
        }
    }

    /// Whether one of the two messages was signed with a clock that was ahead. If so, the signer
    /// contradicted that message when its clock was right again.
    fn is_of_clocks(
        &self,
        finding: &Finding,
        evidence: Option<&Evidence>,
        validator: ValidatorIndex,
        view: &DetectorView<'_>,
    ) -> bool {
        let network = view.network();
        // Both messages had arrived by this time.
        let both_by = UnixNs(finding.second_seen.unwrap_or(finding.first_seen).as_unix_ns());
        let attestations = evidence.filter(|evidence| evidence.kind == EvidenceKind::AttesterSlashing);
        let slots = match attestations.and_then(|evidence| AttesterSlashing::data_in_ssz(&evidence.ssz)) {
            Some(data) => data.map(|data| data.slot),
            None => [finding.slot; 2],
        };
        let ahead = self.signed_ahead.get(&validator);
        let was_ahead = |slot: Slot| ahead.is_some_and(|epochs| epochs.contains(&slot.epoch(network.preset())));
        slots.into_iter().any(|slot| is_ahead(slot, both_by, network) || was_ahead(slot))
    }

    fn second_signer(&mut self, offender: &Offender, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let finding = &offender.finding;
        let Some(subject) = finding.validator.as_ref().filter(|subject| self.watched.has(subject.index)) else { return };
        if self.is_of_clocks(finding, Some(&offender.evidence), subject.index, view)
            || !self.second_signer_told.insert(subject.index)
        {
            return;
        }
        let apart = finding.second_seen.map(|second| second.since(finding.first_seen).as_millis() as u64);
        let n_watched = |label: &Label| self.labels.watched().filter(|(_, set)| set.labels.contains(label)).count();
        let kin = self.labels.of(subject.index).iter().map(|label| (label.to_string(), n_watched(label)));
        let details = SecondSignerDetails {
            offence: finding.kind.clone(),
            finding: finding.id,
            apart_ms: apart,
            groups: self.groups_of(subject.index),
            watched_keys_with_the_same_label: kin.collect(),
        };
        out.push(Signal::Anomaly(SingleAnomaly {
            what: details.into(),
            key: subject.index.to_string(),
            severity: Severity::Critical,
            slot: finding.slot,
            validator: Some(subject.index),
            first_seen: UnixNs(finding.first_seen.as_unix_ns()),
            second_seen: finding.second_seen.map(|second| UnixNs(second.as_unix_ns())),
            sources: finding.sources.clone(),
        }));
    }

    fn groups_of(&self, validator: ValidatorIndex) -> Vec<String> {
        let groups = self.labels.get(validator).map_or(&[][..], |set| &set.groups);
        groups.iter().filter_map(|group| self.labels.group(*group)).map(|group| group.name.to_string()).collect()
    }

    fn judge(&mut self, epoch: Epoch, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let preset = view.network().preset();
        let first = epoch.start_slot(preset);
        let slots: Vec<Slot> = (first.as_u64()..first.as_u64().saturating_add(preset.slots_per_epoch)).map(Slot::new).collect();
        let sheet = self.sheets.get(&epoch).cloned().unwrap_or_default();
        self.judged = Some(epoch);
        self.sheets = self.sheets.split_off(&epoch.saturating_sub(1));
        let heard = Hearing::of(view, &slots, self.config.slot_heard_percent);
        if self.listening_since.is_none_or(|since| since > first) || heard.percent < self.config.network_percent {
            return;
        }
        let truth = Truth::new(view, &slots);
        let mut duties: BTreeMap<Slot, Vec<(ValidatorIndex, bool)>> = BTreeMap::new();
        for (validator, record) in &mut self.records {
            let is_active = view.chain.registry().record(*validator).is_some_and(|record| record.is_active(epoch));
            let is_on_duty = self.labels.get(*validator).is_some_and(|set| !set.duty.is_dormant());
            if !is_active || !is_on_duty {
                continue;
            }
            let cast = sheet.cast.get(validator);
            let seat = sheet.shuffling.as_ref().and_then(|shuffling| shuffling.seat(*validator)).map(|seat| seat.slot);
            match cast {
                Some(cast) => record.judged(truth.judge(cast)),
                None if heard.would_have_heard(seat) => record.judged(Done::Missed),
                None => continue,
            }
            if let Some(slot) = seat {
                duties.entry(slot).or_default().push((*validator, cast.is_some()));
            }
        }
        self.turns(&slots, &heard, view, out);
        self.missed(epoch, view, out);
        self.flaps(&slots, &duties, view, out);
    }

    /// Judges the proposals of watched keys in these slots.
    fn turns(&mut self, slots: &[Slot], heard: &Hearing, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        for slot in slots.iter().filter(|slot| heard.good.contains(slot)) {
            let Some(proposer) = view.facts.proposer(*slot).filter(|proposer| self.watched.has(*proposer)) else { continue };
            let is_on_duty = self.labels.get(proposer).is_some_and(|set| !set.duty.is_dormant());
            let Some(turn) = Turn::of(proposer, *slot, view).filter(|_| is_on_duty) else { continue };
            if let Some(record) = self.records.get_mut(&proposer) {
                record.proposals.due += 1;
                record.proposals.made += u32::from(turn == Turn::Made);
            }
            out.extend(turn.told(proposer, *slot, self.groups_of(proposer), view).map(Signal::Anomaly));
        }
    }

    /// Reports groups with keys that have been missing for long enough.
    fn missed(&self, epoch: Epoch, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let per_epoch = view.network().preset().slots_per_epoch;
        let slot = epoch.start_slot(view.network().preset()).saturating_add(per_epoch - 1);
        for group in self.labels.groups() {
            let records = group.validators.iter().filter_map(|v| Some((*v, self.records.get(v)?)));
            let missing: Vec<(ValidatorIndex, u32)> = records
                .filter(|(_, record)| record.missed_in_a_row >= self.config.missed_in_a_row)
                .map(|(validator, record)| (validator, record.missed_in_a_row))
                .collect();
            let Some(longest) = missing.iter().map(|(_, missed)| *missed).max() else { continue };
            let examples: Vec<ValidatorIndex> = missing.iter().take(EXAMPLES).map(|(validator, _)| *validator).collect();
            let details = MissedDutiesDetails::Group {
                group: group.name.to_string(),
                labels: vec![format!("{}={}", Label::GROUP, group.name)],
                keys_missing: missing.len(),
                keys_in_group: group.validators.len(),
                missed_in_a_row: longest,
                validators: examples,
            };
            out.push(Signal::Observation(Observation {
                what: details.into(),
                key: group.name.to_string(),
                slot,
                until: slot,
                since: epoch.saturating_sub(u64::from(longest) - 1).start_slot(view.network().preset()),
                severity: Severity::Warning,
                measure: missing.len() as u64,
                validators: Some(missing.len() as u64),
                shared: Vec::new(),
                closes_after: self.config.missed_closes_after_epochs * per_epoch,
            }));
        }
    }

    fn flaps(
        &mut self,
        slots: &[Slot],
        duties: &BTreeMap<Slot, Vec<(ValidatorIndex, bool)>>,
        view: &DetectorView<'_>,
        out: &mut Vec<Signal>,
    ) {
        let per_epoch = view.network().preset().slots_per_epoch;
        let mut by_label: HashMap<&Label, BTreeMap<Slot, SlotDuties>> = HashMap::new();
        let nothing = LabelSet::default();
        for slot in slots {
            let heard = view.facts.slot(*slot).and_then(|facts| facts.participation_percent());
            if heard.is_none_or(|percent| percent < self.config.network_percent) {
                continue;
            }
            for (validator, voted) in duties.get(slot).into_iter().flatten() {
                for label in &self.labels.get(*validator).unwrap_or(&nothing).labels {
                    let duties = by_label.entry(label).or_default().entry(*slot).or_default();
                    duties.due += 1;
                    if !voted {
                        duties.missed.push(*validator);
                    }
                }
            }
        }
        let mut labels: Vec<_> = by_label.into_iter().collect();
        labels.sort_by_key(|(label, _)| *label);
        for (label, by_slot) in labels {
            let stretch = self.stretches.entry(label.clone()).or_default();
            for (slot, duties) in by_slot {
                let (keys, percent) = (self.config.flapping_keys, self.config.flapping_percent);
                let longest = self.config.flapping_longest_epochs * per_epoch;
                let Some(flap) = stretch.next(slot, &duties, keys, percent, longest) else { continue };
                let details = FlappingKeysDetails {
                    labels: vec![label.to_string()],
                    down_from_slot: flap.first,
                    down_to_slot: flap.last,
                    duties_missed: flap.n_missed,
                    validators: flap.examples,
                };
                out.push(Signal::Observation(Observation {
                    what: details.into(),
                    key: label.to_string(),
                    slot,
                    since: flap.first,
                    until: flap.last,
                    severity: Severity::Warning,
                    measure: flap.n_missed,
                    validators: Some(flap.n_missed),
                    shared: Vec::new(),
                    closes_after: self.config.flapping_closes_after_epochs * per_epoch,
                }));
            }
        }
        let still_used: std::collections::HashSet<&Label> =
            self.labels.watched().flat_map(|(_, set)| set.labels.iter()).collect();
        self.stretches.retain(|label, _| still_used.contains(label));
    }

    fn publish(&self, slot: Slot, view: &DetectorView<'_>) {
        let now = slot.epoch(view.network().preset());
        let status = |(validator, record): (&ValidatorIndex, &KeyRecord)| {
            let on_chain = view.chain.registry().record(*validator);
            KeyStatus {
                validator: *validator,
                pubkey: record.pubkey,
                state: ChainState::of(on_chain.as_ref(), now),
                effective_balance: on_chain.map_or_else(Default::default, |record| record.effective_balance),
                last_vote: record.last_vote,
                missed_in_a_row: record.missed_in_a_row,
                due: record.due(),
                voted: record.voted(),
                proposals: record.proposals,
                effectiveness_permille: record.effectiveness_permille(),
            }
        };
        let keys = self.records.iter().map(status).collect();
        self.desk.publish(WatchReport { slot, labels: self.labels.clone(), keys });
    }
}

impl Detector for WatchedKeysDetector {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.look_at_desk(view.network().slot_at(batch.heard_until.0), view);
        if self.records.is_empty() {
            return;
        }
        for vote in &batch.verified.votes {
            self.vote(vote.get(), view, out);
        }
        for proposal in &batch.verified.proposals {
            let proposal = proposal.get();
            let (proposer, slot) = (proposal.header.proposer_index, proposal.header.slot);
            if self.watched.has(proposer) {
                self.note_ahead(proposer, slot, proposal.heard.at, view);
                self.signed(proposer, slot, slot.epoch(view.network().preset()), &proposal.heard, "block", view, out);
            }
        }
        for offender in batch.offenders {
            self.second_signer(offender, view, out);
        }
    }

    /// Only findings are left of an earlier run. So a key whose clock was ahead may count as
    /// reported.
    fn recall(&mut self, finding: &Finding, proofs: &dyn EvidenceSource, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        let labels = self.desk.labels();
        let Some(subject) = finding.validator.as_ref().filter(|subject| labels.get(subject.index).is_some()) else { return };
        if self.second_signer_told.contains(&subject.index) {
            return;
        }
        let evidence = finding.evidence.as_ref().and_then(|reference| proofs.evidence(reference.id));
        if !self.is_of_clocks(finding, evidence.as_deref(), subject.index, view) {
            self.second_signer_told.insert(subject.index);
        }
    }

    fn time_went_back(&mut self) {
        self.listening_since = None;
        self.judged = None;
        self.sheets.clear();
        self.stretches.clear();
    }

    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        if slot.as_u64() != self.last_ended.as_u64().saturating_add(1) || self.listening_since.is_none() {
            self.listening_since = Some(slot);
        }
        self.last_ended = slot;
        if self.records.is_empty() {
            return;
        }
        let preset = view.network().preset();
        let epoch = slot.epoch(preset);
        let is_time = slot.as_u64() % preset.slots_per_epoch == preset.slots_per_epoch / 4;
        if let Some(over) = epoch.checked_sub(1).filter(|_| is_time) {
            self.judge(over, view, out);
        }
        self.publish(slot, view);
    }
}

/// Whether a message for `slot` that arrived at `at` came before its slot, by more than clocks may
/// differ.
fn is_ahead(slot: Slot, at: UnixNs, network: &Network) -> bool {
    slot > network.slot_at(at.0.saturating_add(DISPARITY_NS))
}

/// What the network agreed on for one epoch, as far as is known.
struct Truth {
    target: Option<Root>,
    heads: BTreeMap<Slot, Option<Root>>,
}

impl Truth {
    fn new(view: &DetectorView<'_>, slots: &[Slot]) -> Self {
        let head = view.chain.backed_head().root;
        let heads: BTreeMap<Slot, Option<Root>> =
            slots.iter().map(|slot| (*slot, view.chain.ancestor_at(&head, *slot))).collect();
        Self { target: heads.values().next().copied().flatten(), heads }
    }

    fn judge(&self, cast: &DutyVote) -> Done {
        Done::Voted {
            right_target: self.target == Some(cast.target.root),
            right_head: self.heads.get(&cast.slot).copied().flatten() == Some(cast.head),
        }
    }
}

/// How much of an epoch was received.
struct Hearing {
    /// Votes as a percentage of the epoch's seats; 0 if no number of seats is known.
    percent: u64,
    /// Slots of which enough votes were received to conclude that a key missed its duty.
    good: BTreeSet<Slot>,
    n_slots: usize,
}

impl Hearing {
    /// `least` is the percentage of a slot's seats that must have voted for the slot to be good.
    fn of(view: &DetectorView<'_>, slots: &[Slot], least: u64) -> Self {
        let known =
            || slots.iter().filter_map(|slot| Some((*slot, view.facts.slot(*slot)?))).filter(|(_, facts)| facts.expected > 0);
        let (voters, seats) = known().fold((0, 0), |(voters, seats), (_, slot)| (voters + slot.voters, seats + slot.expected));
        // A slot without any vote received is assumed to have as many seats as the others.
        let all_seats = seats * slots.len() as u64 / (known().count() as u64).max(1);
        let is_good = |facts: &SlotFacts| facts.participation_percent().is_some_and(|percent| percent >= least);
        let good = known().filter(|(_, facts)| is_good(facts)).map(|(slot, _)| slot).collect();
        Self { percent: (voters * 100).checked_div(all_seats).unwrap_or(0), good, n_slots: slots.len() }
    }

    /// Whether a vote by a validator with this seat would have been received.
    fn would_have_heard(&self, seat: Option<Slot>) -> bool {
        seat.map_or(self.good.len() == self.n_slots, |slot| self.good.contains(&slot))
    }
}
