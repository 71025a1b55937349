//! Which committees can a vote mean? Those of its target's epoch on its target's branch:
//!
//! 1. its target root is a block we know, at or before the first slot of the target's epoch: **certain**;
//! 2. the target is unknown or contradicts what we know: **candidates**, one per branch on which the epoch would have other committees,
//!    that of the vote's own head first if we know it. An epoch in the future is taken as if all slots till then stayed empty: that is what a
//!    clock that is hours ahead computes (Medalla: 37 epochs);
//!    Likewise where the registry has changed and a budget refuses the new shuffling: those of earlier registries are candidates.
//! 3. an epoch of which we have neither blocks nor mixes, or one out of all proportion: **unknown**.

use super::{Chain, FUTURE_EPOCHS};
use crate::duties;
use crate::shufflings::{Asker, Effort, Found, Work};
use crate::snapshot::PAST_EPOCHS;
use crate::tree::Decision;
use consensus::{AttestationData, Checkpoint, Epoch, Preset, Root, Shuffling, Slot, ValidatorIndex};
use std::sync::Arc;

/// Committees tried at most for a vote whose target is not known.
pub const MAX_CANDIDATES: usize = 4;
/// Branches looked at for candidates.
const MAX_TIPS: usize = 16;

/// Who could have sat where.
#[derive(Clone, Debug)]
pub enum Contexts {
    /// The vote's own target is a block we know: this is the shuffling (more than one only if states differ in who was active).
    Certain(Vec<Arc<Shuffling>>),
    /// Target unknown or contradicting: one of these could be it, likeliest first; never empty, at
    /// most [`MAX_CANDIDATES`]. Also where a budget refused the shuffling of the current registry:
    /// then these are of earlier registries.
    Candidates(Vec<Arc<Shuffling>>),
    /// Nothing known for that epoch yet, or it is out of all proportion.
    Unknown,
}

impl Chain {
    /// Who could have sat where for this vote. Computes at most [`MAX_CANDIDATES`] shufflings, once each, and those that are not of branches
    /// being built on about now within a budget; what that leaves out is there when asked for in later slots.
    pub fn contexts(&mut self, data: &AttestationData) -> Contexts {
        self.contexts_asked_by(data, &None)
    }

    /// [`Self::contexts`] for a vote that a peer sent. On the worker ([`Self::compute_on_worker`]) what it asks for is taken from a budget of
    /// that peer's own, beside the common one, so the answer may be unknown to one peer and not to another.
    pub fn contexts_asked_by(&mut self, data: &AttestationData, peer: &Asker) -> Contexts {
        self.contexts_for(data, Effort::Odd, peer)
    }

    /// From now on a thread of its own computes shufflings, and contexts are unknown until it has: [`Self::tick`] takes over what it
    /// finished. For live traffic, where nothing may wait half a second for a shuffling.
    pub fn compute_on_worker(&mut self) {
        self.shufflings.set_work(Work::OnWorker);
    }

    /// From now on whoever asks waits for the answer, as at the beginning: a replay, and the last questions at a stop.
    pub fn compute_at_once(&mut self) {
        self.shufflings.set_work(Work::AtOnce);
    }

    /// Takes over what the worker finished.
    pub(super) fn poll_shufflings(&mut self) {
        let has_news = self.shufflings.poll(&self.registry, &self.network.spec.preset);
        // A replay's answers were waited for: its messages have no reason to be tried again.
        if has_news && self.shufflings.is_on_worker() {
            self.generation += 1;
        }
    }

    /// [`Self::contexts`] for whom a seat is welcome but not needed: takes nothing from the budget, and leaves out what would.
    pub fn contexts_at_hand(&mut self, data: &AttestationData) -> Contexts {
        self.contexts_for(data, Effort::AtHand, &None)
    }

    /// `odd`: what shufflings may cost that are not near.
    fn contexts_for(&mut self, data: &AttestationData, odd: Effort, asker: &Asker) -> Contexts {
        let epoch = data.target.epoch;
        let now = self.now().epoch(self.preset());
        if epoch > now.saturating_add(FUTURE_EPOCHS) || epoch.saturating_add(PAST_EPOCHS) < now {
            self.epochs_refused += 1;
            return Contexts::Unknown;
        }
        if let Some(decision) = self.certain_decision(data.target) {
            let Found { shufflings, lacks_some } = self.shufflings_of(epoch, decision, odd, asker);
            return match (shufflings.is_empty(), lacks_some) {
                (true, _) => Contexts::Unknown,
                (false, false) => Contexts::Certain(shufflings),
                (false, true) => Contexts::Candidates(shufflings),
            };
        }
        let mut found: Vec<Arc<Shuffling>> = Vec::new();
        for decision in self.candidate_decisions(data) {
            for shuffling in self.shufflings_of(epoch, decision, odd, asker).shufflings {
                if found.len() < MAX_CANDIDATES && found.iter().all(|other| other.id() != shuffling.id()) {
                    found.push(shuffling);
                }
            }
        }
        if found.is_empty() { Contexts::Unknown } else { Contexts::Candidates(found) }
    }

    /// Who is to propose in each slot of an epoch, in order, on the branch that is best backed; `None` while its deciding block is not
    /// known, and for epochs to come whose deciding blocks are still to come.
    ///
    /// As far as our registry goes: a balance or a slashing that it does not have yet may change one slot's, an activation all of them. So hold
    /// it against the blocks that came. Some 0.04 s for a million validators from Electra on; nothing is kept.
    pub fn proposers(&self, epoch: Epoch) -> Option<Vec<ValidatorIndex>> {
        let (preset, spec) = (self.preset(), &self.network.spec);
        let now = self.now();
        if epoch > now.epoch(preset).saturating_add(1) || epoch.saturating_add(PAST_EPOCHS) < now.epoch(preset) {
            return None;
        }
        let tip = *self.tree.ranked_tips(now, MAX_TIPS).first()?;
        let decision = self.tree.decision(tip, decision_slot(epoch, preset))?;
        let candidates = duties::candidates(&self.registry, spec.fork_name_at(epoch), epoch);
        let first = epoch.start_slot(preset).as_u64();
        let slots = (first..first.saturating_add(preset.slots_per_epoch)).map(Slot::new);
        slots.map(|slot| duties::draw(&self.registry, spec, &candidates, decision.mix, slot)).collect()
    }

    /// Past the first quarter of an epoch late blocks of the one before are rare, so the next epoch's committees are settled.
    pub(super) fn prepare_next_epoch(&mut self, now: Slot) {
        let slots_per_epoch = self.preset().slots_per_epoch;
        if now.as_u64() % slots_per_epoch < slots_per_epoch / 4 {
            return;
        }
        let next = now.epoch(self.preset()).saturating_add(1);
        if let Some(decision) = self.tree.decision(self.backed_head().root, decision_slot(next, self.preset())) {
            self.shufflings.prepare(&self.registry, &self.network.spec.preset, next, decision);
        }
    }

    /// Decided by the vote's own target: a known block that can be the checkpoint of its epoch.
    fn certain_decision(&self, target: Checkpoint) -> Option<Decision> {
        let slot = self.tree.slot_of(&target.root)?;
        if slot > target.epoch.start_slot(self.preset()) {
            return None;
        }
        self.tree.decision(target.root, decision_slot(target.epoch, self.preset()))
    }

    fn candidate_decisions(&mut self, data: &AttestationData) -> Vec<Decision> {
        let epoch = data.target.epoch;
        let before = decision_slot(epoch, self.preset());
        let mut decisions: Vec<Decision> = Vec::new();
        // The voter names its head: that branch is the likeliest. (Only where slot and target agree, which bounds the walk.)
        if data.slot.epoch(self.preset()) == epoch
            && self.tree.slot_of(&data.beacon_block_root).is_some_and(|slot| slot <= data.slot)
        {
            decisions.extend(self.tree.decision(data.beacon_block_root, before));
        }
        for decision in self.candidates_of_epoch(epoch, before) {
            if decisions.len() < MAX_CANDIDATES && decisions.iter().all(|known| known.mix != decision.mix) {
                decisions.push(*decision);
            }
        }
        decisions
    }

    fn candidates_of_epoch(&mut self, epoch: Epoch, before: Slot) -> &[Decision] {
        let now = self.now();
        self.candidates.entry(epoch).or_insert_with(|| {
            let mut decisions: Vec<Decision> = Vec::new();
            let mut add = |decision: Decision| {
                if decisions.len() < MAX_CANDIDATES && decisions.iter().all(|known| known.mix != decision.mix) {
                    decisions.push(decision);
                }
            };
            for tip in self.tree.ranked_tips(now, MAX_TIPS) {
                if let Some(decision) = self.tree.decision(tip, before) {
                    add(decision);
                }
            }
            // Before the blocks we have: the mix alone is enough for the committees, only the block that decided them has no name.
            if let Some(past) = epoch.checked_sub(2) {
                for mix in self.mixes.get(&past).into_iter().flatten() {
                    add(Decision { root: Root::ZERO, mix: *mix });
                }
            }
            decisions
        })
    }

    fn shufflings_of(&mut self, epoch: Epoch, decision: Decision, odd: Effort, asker: &Asker) -> Found {
        if self.exits.have_news_of(epoch, &self.network.spec.preset) {
            self.forecast_exits();
        }
        let effort = if self.is_near(epoch, decision) { Effort::Near } else { odd };
        let now = self.now();
        self.shufflings.get(&self.registry, &self.network.spec.preset, epoch, decision, effort, asker, now)
    }

    /// About now, and decided as on a branch that is being built on. Any other known block can be named as target by anyone.
    fn is_near(&mut self, epoch: Epoch, decision: Decision) -> bool {
        let now = self.now().epoch(self.preset());
        let about_now = epoch <= now.saturating_add(1) && now <= epoch.saturating_add(2);
        let before = decision_slot(epoch, self.preset());
        about_now && self.candidates_of_epoch(epoch, before).iter().any(|candidate| candidate.mix == decision.mix)
    }
}

/// The committees of `epoch` are decided by the last block before this slot: the start of the epoch before. Epochs 0 and 1 are decided at genesis.
pub(super) fn decision_slot(epoch: Epoch, preset: &Preset) -> Slot {
    epoch.saturating_sub(1).start_slot(preset)
}
