//! Finds the committees that a vote can belong to. They are the committees of the target's epoch on
//! the target's branch:
//!
//! 1. **Certain**: the target root is a known block at or before the first slot of the target's
//!    epoch.
//! 2. **Candidates**: the target is unknown, or it contradicts what is known. There is one
//!    candidate for each branch on which the epoch has different committees. If the head in the
//!    vote is a known block, the candidate of its branch is first. For a future epoch it is assumed
//!    that all slots until then stay empty. A node whose clock is hours ahead computes exactly that
//!    (Medalla: 37 epochs). If the registry has changed and a budget refuses the new shuffling, the
//!    shufflings of earlier registries are candidates too.
//! 3. **Unknown**: neither blocks nor mixes of the epoch are known, or the epoch is too far from
//!    now.

use super::{Chain, FUTURE_EPOCHS};
use crate::duties;
use crate::follow::FollowContext;
use crate::shufflings::{Asker, ComputeBudget, Found, Work};
use crate::snapshot::PAST_EPOCHS;
use crate::tree::Decision;
use consensus::{AttestationData, Checkpoint, Epoch, Preset, Root, Shuffling, Slot, ValidatorIndex};
use std::sync::Arc;

/// Maximum number of shufflings that are tried for a vote whose target is not known.
pub const MAX_CANDIDATES: usize = 4;
/// Maximum number of branch ends that are searched for candidates.
const MAX_TIPS: usize = 16;
/// The committees of the next epoch are computed ahead if the head is no more than this many epochs
/// before it.
const PREPARED_EPOCHS: u64 = 4;

/// The shufflings that can apply to a vote.
#[derive(Clone, Debug)]
pub enum Contexts {
    /// The vote's target is a known block, so this is the shuffling. There is more than one only if
    /// states disagree about who was active.
    Certain(Vec<Arc<Shuffling>>),
    /// The target is unknown or contradicts what is known, or a budget refused the shuffling of the
    /// current registry. One of these shufflings may apply. The likeliest is first. There is at
    /// least one, and there are at most [`MAX_CANDIDATES`].
    Candidates(Vec<Arc<Shuffling>>),
    /// Nothing is known yet for that epoch, or the epoch is too far from now.
    Unknown,
}

impl Chain {
    /// Returns the shufflings that can apply to this vote.
    ///
    /// This computes at most [`MAX_CANDIDATES`] shufflings, each only once. A budget limits those
    /// that do not belong to a branch on which blocks are being built about now. A shuffling that
    /// the budget does not allow can be asked for again in later slots.
    pub fn contexts(&mut self, data: &AttestationData) -> Contexts {
        self.contexts_asked_by(data, &None)
    }

    /// Like [`Self::contexts`], for a vote that a peer sent. If shufflings are computed on the
    /// worker ([`Self::compute_on_worker`]), each peer also has a budget of its own beside the
    /// common one. The same vote can therefore be `Unknown` for one peer and not for another.
    pub fn contexts_asked_by(&mut self, data: &AttestationData, peer: &Asker) -> Contexts {
        self.contexts_for(data, ComputeBudget::Odd, peer)
    }

    /// Makes a separate thread compute shufflings from now on. Contexts are unknown until it has
    /// finished; [`Self::tick`] collects its results. This is for live traffic, where no message
    /// may wait half a second for a shuffling.
    pub fn compute_on_worker(&mut self) {
        self.shufflings.set_work(Work::OnWorker);
    }

    /// Makes each call wait for its shufflings from now on, as a new chain does. This is for a
    /// replay, and for the last votes when the program stops.
    pub fn compute_at_once(&mut self) {
        self.shufflings.set_work(Work::AtOnce);
    }

    /// Collects the results of the worker.
    pub(super) fn poll_shufflings(&mut self) {
        let has_news = self.shufflings.poll(&self.registry, &self.network.spec.preset);
        // In a replay each call waits for its result, so there is no reason to try its messages
        // again.
        if has_news && self.shufflings.is_on_worker() {
            self.generation += 1;
        }
    }

    /// Like [`Self::contexts`], for a caller that can do without the answer. It uses nothing of the
    /// budget, and leaves out every shuffling that would have to be computed.
    pub fn contexts_at_hand(&mut self, data: &AttestationData) -> Contexts {
        self.contexts_for(data, ComputeBudget::AtHand, &None)
    }

    /// `odd` is the effort that is allowed for shufflings that are not near ([`Self::is_near`]).
    fn contexts_for(&mut self, data: &AttestationData, odd: ComputeBudget, asker: &Asker) -> Contexts {
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

    /// Returns the proposers of all slots of an epoch, in order, on the branch with the most
    /// backing. Returns `None` while the decision block is not known, and for a future epoch whose
    /// decision block does not exist yet.
    ///
    /// The result is only as good as our registry. A balance or a slashing that the registry lacks
    /// can change the proposer of one slot, and an activation can change all of them. The caller
    /// should therefore compare it with the blocks that came. It takes about 0.04 s for a million
    /// validators from Electra on. Nothing is cached.
    pub fn proposers(&self, epoch: Epoch) -> Option<Vec<ValidatorIndex>> {
        let (preset, spec) = (self.preset(), &self.network.spec);
        let now = self.now();
        if epoch > now.epoch(preset).saturating_add(1) || epoch.saturating_add(PAST_EPOCHS) < now.epoch(preset) {
            return None;
        }
        let tip = *self.tree.ranked_tips(now, MAX_TIPS).first()?;
        let decision = self.tree.decision(tip, decision_slot(epoch, preset))?;
        let followed = self.follower.known(&decision.root);
        let candidates = duties::candidates(&self.registry, followed, spec.fork_name_at(epoch), epoch);
        let first = epoch.start_slot(preset).as_u64();
        let slots = (first..first.saturating_add(preset.slots_per_epoch)).map(Slot::new);
        slots.map(|slot| duties::draw(&self.registry, followed, spec, &candidates, decision.mix, slot)).collect()
    }

    /// Starts to compute the committees of the next epoch. This waits for the first quarter of the
    /// current epoch to pass, because after that a late block of the previous epoch is rare, so the
    /// committees no longer change.
    pub(super) fn prepare_next_epoch(&mut self, now: Slot) {
        let slots_per_epoch = self.preset().slots_per_epoch;
        if now.as_u64() % slots_per_epoch < slots_per_epoch / 4 {
            return;
        }
        let next = now.epoch(self.preset()).saturating_add(1);
        // While the chain catches up, the committees of now cannot be known.
        if self.backed_head().slot.epoch(self.preset()).saturating_add(PREPARED_EPOCHS) < next {
            return;
        }
        if let Some(decision) = self.tree.decision(self.backed_head().root, decision_slot(next, self.preset())) {
            let followed = self.followed_before(decision.root, next).and_then(|known| known.active_at(&self.registry, next));
            self.shufflings.prepare(&self.registry, &self.network.spec.preset, next, decision, followed);
        }
    }

    /// Returns the decision on the branch of the vote's own target, if the target is a known block
    /// that can be the checkpoint of its epoch.
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
        // The vote names its head, and the branch of that block is the likeliest. The head is used
        // only if the slot and the target are of the same epoch, which bounds the walk.
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
            // For epochs before the blocks that are kept. The mix alone is enough for the
            // committees; only the root of the decision block is not known.
            if let Some(past) = epoch.checked_sub(2) {
                for mix in self.mixes.get(&past).into_iter().flatten() {
                    add(Decision { root: Root::ZERO, mix: *mix });
                }
            }
            decisions
        })
    }

    fn shufflings_of(&mut self, epoch: Epoch, decision: Decision, odd: ComputeBudget, asker: &Asker) -> Found {
        let effort = if self.is_near(epoch, decision) { ComputeBudget::Near } else { odd };
        let now = self.now();
        let (context, preset) = (FollowContext { registry: &self.registry, spec: &self.network.spec }, &self.network.spec.preset);
        let (follower, tree) = (&mut self.follower, &self.tree);
        let followed = || {
            let registry = follower.before(decision.root, epoch, tree, context)?;
            registry.active_at(context.registry, epoch)
        };
        self.shufflings.get(&self.registry, preset, epoch, decision, followed, effort, asker, now)
    }

    /// Returns whether the epoch is about now and the decision belongs to a branch on which blocks
    /// are being built. Otherwise the shuffling is not near: anyone can name any other known block
    /// as a target.
    fn is_near(&mut self, epoch: Epoch, decision: Decision) -> bool {
        let now = self.now().epoch(self.preset());
        let about_now = epoch <= now.saturating_add(1) && now <= epoch.saturating_add(2);
        let before = decision_slot(epoch, self.preset());
        about_now && self.candidates_of_epoch(epoch, before).iter().any(|candidate| candidate.mix == decision.mix)
    }
}

/// Returns the slot that limits the decision block: the committees of `epoch` are decided by the
/// last block before it. It is the start of the previous epoch. Epochs 0 and 1 are decided at
/// genesis.
pub(super) fn decision_slot(epoch: Epoch, preset: &Preset) -> Slot {
    epoch.saturating_sub(1).start_slot(preset)
}
