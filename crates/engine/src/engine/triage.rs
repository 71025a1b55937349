//! Classifies messages before they are verified, and notes whether the network is received.

use super::Engine;
use consensus::{Offence, Slot, ValidatorIndex};
use detect::offences::{cannot_be_punished, cannot_propose};
use verify::{About, FirstSeen, RawMessage, SourceKind, Time, Triage, Verified};

impl Engine {
    /// Classifies a message by what it would be if its claims were true. The class decides its
    /// place in the priority queues.
    pub fn triage(&mut self, message: &RawMessage) -> Triage {
        let Self { verifier, chain, index, quota, labels, .. } = self;
        let (network, registry, labels) = (chain.network(), chain.registry(), labels.labels());
        let preset = network.preset();
        let slot = network.slot_at(message.received_at.0);
        let now = slot.epoch(preset);
        let is_settled = |validator, about| {
            if labels.is_watched(validator) {
                return false;
            }
            match about {
                About::Vote => {
                    let both = [Offence::DoubleVote, Offence::SurroundVote];
                    cannot_be_punished(registry, preset, validator, now)
                        || both.iter().all(|offence| quota.is_full(validator, *offence))
                }
                About::Proposal => {
                    cannot_be_punished(registry, preset, validator, now) || quota.is_full(validator, Offence::DoubleProposal)
                }
                // The watcher asked the node for this block, so it is always wanted.
                About::Block(_) if message.origin.source == SourceKind::Api => false,
                // A double proposal can be punished even if it was not the proposer's turn. So a
                // block is settled only if the proposer, in addition, cannot be slashed or has
                // enough findings on record.
                About::Block(claimed) => {
                    let epoch = claimed.epoch(preset);
                    // Blocks since the state may have added it.
                    let is_active = || chain.followed_record(validator).is_some_and(|record| record.is_active(epoch));
                    cannot_propose(registry, preset, validator, epoch, now)
                        && !is_active()
                        && (cannot_be_punished(registry, preset, validator, now)
                            || quota.is_full(validator, Offence::DoubleProposal))
                }
            }
        };
        let history = |validator, data: &_, root| index.quick_check(validator, data, root);
        verifier.triage(message, preset.slots_per_epoch, slot, history, is_settled)
    }

    /// Notes whether the network was received. The proof is a vote or block that an active
    /// validator signed, with a slot at most one epoch away from now, because a block that a node
    /// was asked for may be old. A validator that has left can sign anything, and such a key must
    /// not make a watcher without reception look healthy. Slashing operations do not count.
    pub(super) fn note_reception(&mut self, verified: &Verified, now: Time) {
        let network = self.chain.network();
        let (slot, reach) = (network.slot_at(now.0).as_u64(), network.preset().slots_per_epoch);
        let is_live = |of: Slot, heard: &FirstSeen| heard.source != SourceKind::SlashingOp && of.as_u64().abs_diff(slot) <= reach;
        let registry = self.chain.registry();
        let is_active = |validator: ValidatorIndex, at: Slot| {
            let epoch = at.epoch(network.preset());
            registry.record(validator).is_some_and(|record| record.is_active(epoch) && !record.slashed)
        };
        let has_vote = verified.votes.iter().map(|vote| vote.get()).any(|vote| {
            let at = vote.data.slot;
            is_live(at, &vote.heard) && vote.indices.iter().any(|validator| is_active(*validator, at))
        });
        let has_block = || {
            let mut proposals = verified.proposals.iter().map(|one| one.get());
            proposals.any(|one| is_live(one.header.slot, &one.heard) && is_active(one.header.proposer_index, one.header.slot))
        };
        if has_vote || has_block() {
            self.last_reception = Some(now);
            self.metrics.last_message.set((now.0 / 1_000_000_000) as i64);
        }
    }
}
