//! The detector of watched keys. It follows each key's duties and reports what is wrong with them:
//! [missed duties](super::missed_duties), [missed proposals](super::proposing),
//! [restarts](super::flapping), [dormant keys](super::dormant) and
//! [second signers](super::second_signer).
//!
//! An epoch is judged when a quarter of the next epoch is over. By then its last votes have
//! arrived, as single votes, in aggregates and in a block.
//!
//! **Bounds.** The number of keys is limited by [`super::MAX_WATCHED`]. The duties of a few epochs
//! are kept ([`KEPT_EPOCHS`]), each with a row per watched key.

use super::Labels;
use super::dormant::{DormantKeys, WatchedSignature};
use super::epoch_duties::EpochDuties;
use super::flapping::{DutiesBySlot, FlappingLabels};
use super::missed_duties::{AgreedVotes, EpochReception, missing_keys};
use super::proposing::ProposalOutcome;
use super::record::{DutyOutcome, KeyRecord};
use super::report::{ChainState, HeardRun, KeyStatus, SharedWatchState, WatchReport};
use super::second_signer::SecondSigners;
use super::thresholds::WatchedKeysConfig;
use crate::monitor::{Detector, DetectorView, MonitorInput, ProofLookup, Signal};
use crate::validator_set::ValidatorSet;
use consensus::{Epoch, Slot, ValidatorIndex};
use evidence::{Finding, Incident, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use verify::{Time, Vote};

/// Votes are entered for the next epoch, the current one, and `KEPT_EPOCHS - 1` earlier ones.
const KEPT_EPOCHS: u64 = 4;

/// The detector of watched keys: see the documentation of this module.
pub struct WatchedKeysDetector {
    config: WatchedKeysConfig,
    state: SharedWatchState,
    labels: Arc<Labels>,
    /// The keys of `records`. It is tested for every member of every vote.
    watched: ValidatorSet,
    records: BTreeMap<ValidatorIndex, KeyRecord>,
    duties: BTreeMap<Epoch, EpochDuties>,
    dormant: DormantKeys,
    second_signers: SecondSigners,
    flapping: FlappingLabels,
    /// The watcher has run without a pause since the beginning of this slot.
    listening_since: Option<Slot>,
    last_ended: Slot,
    judged: Option<Epoch>,
    /// Epochs in a row in which the network was heard.
    heard: Option<HeardRun>,
}

impl WatchedKeysDetector {
    /// Makes the detector. It publishes its report in `state`.
    pub fn new(config: WatchedKeysConfig, state: SharedWatchState) -> Self {
        Self {
            config,
            state,
            labels: Arc::default(),
            watched: ValidatorSet::default(),
            records: BTreeMap::new(),
            duties: BTreeMap::new(),
            dormant: DormantKeys::default(),
            second_signers: SecondSigners::default(),
            flapping: FlappingLabels::default(),
            listening_since: None,
            last_ended: Slot::new(0),
            judged: None,
            heard: None,
        }
    }

    /// Takes over the set of watched keys if it changed, and publishes it at once. The records of
    /// keys that stay watched are kept.
    fn update_labels(&mut self, now: Slot, view: &DetectorView<'_>) {
        if Arc::ptr_eq(view.labels, &self.labels) {
            return;
        }
        self.labels = view.labels.clone();
        let mut known = std::mem::take(&mut self.records);
        for (validator, _) in self.labels.watched() {
            let pubkey = || view.chain.registry().pubkey_bytes(validator).unwrap_or_default();
            self.records.insert(validator, known.remove(&validator).unwrap_or_else(|| KeyRecord::new(pubkey())));
        }
        self.watched = ValidatorSet::default();
        for validator in self.records.keys() {
            self.watched.insert(*validator, view.chain.registry().len());
        }
        self.dormant.set(&self.labels, now);
        self.second_signers.set(&self.labels);
        // Before the first slot has ended, the keys' states are those of the present.
        self.publish(self.last_ended.max(now.saturating_sub(1)), view);
    }

    fn take_vote(&mut self, vote: &Vote, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let (epoch, now) = (vote.data.target.epoch, view.facts.now().epoch(view.network().preset()));
        // Nearly every vote has no watched key among its voters.
        let members = vote.indices.iter().zip(&vote.arrivals);
        let watched: Vec<(ValidatorIndex, Time)> = members
            .filter(|(validator, _)| self.watched.contains(**validator))
            .map(|(validator, arrival)| (*validator, arrival.at))
            .collect();
        for (validator, at) in &watched {
            let signature =
                WatchedSignature { validator: *validator, slot: vote.data.slot, epoch, first_seen: &vote.heard, what: "vote" };
            self.take_signature(&signature, *at, view, out);
            if let Some(record) = self.records.get_mut(validator) {
                record.last_vote = record.last_vote.max(Some(vote.data.slot));
                record.newest_source = record.newest_source.max(Some(vote.data.source.epoch));
            }
            // A vote for an epoch far from now says nothing about a current duty.
            if epoch > now.saturating_add(1) || epoch.saturating_add(KEPT_EPOCHS - 1) < now {
                continue;
            }
            let is_new = self.duties.entry(epoch).or_default().enter(*validator, vote);
            if is_new
                && self.judged.is_some_and(|judged| epoch <= judged)
                && let Some(record) = self.records.get_mut(validator)
            {
                record.late_vote();
            }
        }
        if let (Some(shuffling), Some(duties)) = (&vote.shuffling, self.duties.get_mut(&epoch)) {
            duties.shuffling.get_or_insert_with(|| shuffling.clone());
        }
    }

    /// Takes in a signature of a watched key that arrived at `at`.
    fn take_signature(&mut self, signature: &WatchedSignature<'_>, at: Time, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let may_be_known = self.second_signers.note_signature(signature.validator, signature.slot, at, view.network());
        if let Some(record) = self.records.get_mut(&signature.validator).filter(|_| !may_be_known) {
            record.signed(signature.slot, view.network().slot_at(at.0));
        }
        let anomaly = self.dormant.check(signature, &self.config, &self.labels, view);
        out.extend(anomaly.map(Signal::Anomaly));
    }

    /// Judges the duties of an epoch that is over.
    fn judge(&mut self, epoch: Epoch, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let preset = view.network().preset();
        let first = epoch.start_slot(preset);
        let slots: Vec<Slot> = (first.as_u64()..first.as_u64().saturating_add(preset.slots_per_epoch)).map(Slot::new).collect();
        let duties = self.duties.get(&epoch).cloned().unwrap_or_default();
        self.judged = Some(epoch);
        self.duties = self.duties.split_off(&epoch.saturating_sub(1));
        let reception = EpochReception::of(view, &slots, self.config.slot_heard_percent);
        if self.listening_since.is_none_or(|since| since > first) || reception.percent < self.config.network_percent {
            self.heard = None;
            return;
        }
        let since = self.heard.filter(|run| run.until == first).map_or(first, |run| run.since);
        self.heard = Some(HeardRun { since, until: first.saturating_add(preset.slots_per_epoch) });
        let by_slot = self.judge_votes(epoch, &duties, &reception, &AgreedVotes::new(view, &slots), view);
        self.judge_proposals(&slots, &reception, view, out);
        let missing =
            self.labels.groups().iter().filter_map(|group| missing_keys(group, &self.records, epoch, &self.config, view));
        out.extend(missing.map(Signal::Observation));
        let by_slot = self.flapping.without_stopped(by_slot, &self.state.stopped(), &self.labels);
        let flaps = self.flapping.evaluate(&slots, &by_slot, &self.labels, &self.config, view);
        out.extend(flaps.into_iter().map(Signal::Observation));
    }

    /// Judges the votes of all keys on duty. Returns their duties by slot.
    fn judge_votes(
        &mut self,
        epoch: Epoch,
        duties: &EpochDuties,
        reception: &EpochReception,
        agreed: &AgreedVotes,
        view: &DetectorView<'_>,
    ) -> DutiesBySlot {
        let mut by_slot = DutiesBySlot::new();
        for (validator, record) in &mut self.records {
            let is_active = view.chain.registry().record(*validator).is_some_and(|record| record.is_active(epoch));
            let is_on_duty = self.labels.get(*validator).is_some_and(|set| !set.duty.is_dormant());
            if !is_active || !is_on_duty {
                continue;
            }
            let vote = duties.votes.get(validator);
            let seat = duties.shuffling.as_ref().and_then(|shuffling| shuffling.seat(*validator)).map(|seat| seat.slot);
            match vote {
                Some(vote) => record.judged(agreed.compare(vote)),
                None if reception.would_include(seat) => record.judged(DutyOutcome::Missed),
                None => continue,
            }
            if let Some(slot) = seat {
                by_slot.entry(slot).or_default().push((*validator, vote.is_some()));
            }
        }
        by_slot
    }

    /// Judges the proposals of watched keys in these slots.
    fn judge_proposals(&mut self, slots: &[Slot], reception: &EpochReception, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        for slot in slots.iter().filter(|slot| reception.good.contains(slot)) {
            let Some(proposer) = view.facts.proposer(*slot).filter(|proposer| self.watched.contains(*proposer)) else { continue };
            let is_on_duty = self.labels.get(proposer).is_some_and(|set| !set.duty.is_dormant());
            let Some(outcome) = ProposalOutcome::of(proposer, *slot, view).filter(|_| is_on_duty) else { continue };
            if let Some(record) = self.records.get_mut(&proposer) {
                record.proposals.due += 1;
                record.proposals.made += u32::from(outcome == ProposalOutcome::Made);
            }
            out.extend(outcome.anomaly(proposer, *slot, self.labels.group_names(proposer), view).map(Signal::Anomaly));
        }
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
                last_signed: record.last_signed,
                missed_in_a_row: record.missed_in_a_row,
                due: record.due(),
                voted: record.voted(),
                proposals: record.proposals,
                newest_source: record.newest_source,
                effectiveness_permille: record.effectiveness_permille(),
            }
        };
        let keys = self.records.iter().map(status).collect();
        self.state.publish(WatchReport { slot, labels: self.labels.clone(), heard: self.heard, keys });
    }
}

impl Detector for WatchedKeysDetector {
    fn observe(&mut self, batch: &MonitorInput<'_>, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        self.update_labels(view.network().slot_at(batch.received_until.0), view);
        if self.records.is_empty() {
            return;
        }
        for vote in &batch.verified.votes {
            self.take_vote(vote.get(), view, out);
        }
        for proposal in batch.verified.proposals.iter().map(verify::Signed::get) {
            let (validator, slot) = (proposal.header.proposer_index, proposal.header.slot);
            if self.watched.contains(validator) {
                let epoch = slot.epoch(view.network().preset());
                let signature = WatchedSignature { validator, slot, epoch, first_seen: &proposal.heard, what: "block" };
                self.take_signature(&signature, proposal.heard.at, view, out);
            }
        }
        for offender in batch.offenders {
            out.extend(self.second_signers.check(offender, &self.labels, view.network()).map(Signal::Anomaly));
        }
    }

    fn recall(&mut self, finding: &Finding, proof_of: ProofLookup<'_>, view: &DetectorView<'_>, _out: &mut Vec<Signal>) {
        let proof = || finding.evidence.as_ref().and_then(|reference| proof_of(reference.id));
        self.second_signers.recall(finding, proof, view.labels, view.network());
    }

    /// Incidents about kill switches are tracked beside the engine, by `actions::killswitch`.
    fn continues(&self, incident: &Incident, _view: &DetectorView<'_>) -> bool {
        matches!(incident.kind, Kind::KillSwitchFailed | Kind::SignsAfterStop)
    }

    fn time_went_back(&mut self) {
        self.listening_since = None;
        self.judged = None;
        self.heard = None;
        self.duties.clear();
        self.flapping.clear();
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
