//! Decides which proof is sent next, and how many may be sent now. It has no clock of its own:
//! slots and times are parameters.
//!
//! **What a block can hold.** A block holds two attester slashings before Electra and one from
//! Electra on, and sixteen proposer slashings. A node keeps further ones in its pool. One client
//! (Lodestar 1.5.1) packs its whole pool into its next block, and makes no block at all if that is
//! too much. So in one slot no more proofs are sent than fit into a block, and none while that
//! number lies at the node and is not included. A proof that is not included after [`HELD_SLOTS`]
//! slots no longer holds up the next one.
//!
//! **Which proof is first.** The proof that accuses the most validators goes first, then the
//! oldest. When thousands offend together, each block should punish as many of them as possible.

use alert::RetryPolicy;
use consensus::{MAX_PROPOSER_SLASHINGS, Network, Root, Slot};
use evidence::{EvidenceKind, Finding, Time};
use std::collections::{HashMap, VecDeque};

/// Maximum number of proofs that wait in memory. Further findings are read when there is room.
pub(super) const MAX_WAITING: usize = 4096;
/// Number of slots after which a proof that is not included no longer holds up the next one.
pub(super) const HELD_SLOTS: u64 = 4;

/// A proof that waits for an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitingProof {
    pub kind: EvidenceKind,
    /// The first finding that it proves. `seq` is that finding's number.
    pub finding: Root,
    pub seq: u64,
    /// Number of findings that it proves, as far as they are known.
    pub n_findings: u64,
    /// Number of failures of a node while it handled this proof.
    breakdowns: u32,
    not_before: Time,
}

/// A proof that was sent and may be in a node's pool.
#[derive(Clone, Debug)]
struct SentProof {
    kind: EvidenceKind,
    finding: Root,
    at: Slot,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: HashMap<Root, WaitingProof>,
    sent: VecDeque<SentProof>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Adds a finding that a block could punish. `seq` is its number.
    pub fn add(&mut self, evidence: Root, kind: EvidenceKind, finding: &Finding, seq: u64) {
        let new = WaitingProof { kind, finding: finding.id, seq, n_findings: 0, breakdowns: 0, not_before: Time::default() };
        self.waiting.entry(evidence).or_insert(new).n_findings += 1;
    }

    /// Returns the number of the oldest finding whose proof waits.
    pub fn oldest(&self) -> Option<u64> {
        self.waiting.values().map(|one| one.seq).min()
    }

    /// Returns the proof to send now, if one may be sent. `is_included` returns whether a block has
    /// included the slashing of a finding.
    pub fn next(
        &mut self,
        network: &Network,
        slot: Slot,
        now: Time,
        mut is_included: impl FnMut(Root) -> bool,
    ) -> Option<(Root, WaitingProof)> {
        self.forget_sent_before(slot);
        self.sent.retain(|sent| sent.at == slot || !is_included(sent.finding));
        let attester_room = network.spec.fork_name_at(slot.epoch(network.preset())).max_attester_slashings();
        let has_room = |one: &WaitingProof| {
            let room = match one.kind {
                EvidenceKind::AttesterSlashing => attester_room,
                EvidenceKind::ProposerSlashing => MAX_PROPOSER_SLASHINGS,
            };
            (self.sent.iter().filter(|sent| sent.kind == one.kind && sent.finding != one.finding).count() as u64) < room
        };
        let ready = self.waiting.iter().filter(|(_, one)| one.not_before <= now && has_room(one));
        let (id, one) = ready.max_by_key(|(id, one)| (one.n_findings, std::cmp::Reverse((one.seq, **id))))?;
        Some((*id, one.clone()))
    }

    /// Notes that an attempt was made, so the proof may be at the node.
    pub fn sent(&mut self, kind: EvidenceKind, finding: Root, at: Slot) {
        self.sent.retain(|sent| sent.finding != finding);
        self.sent.push_back(SentProof { kind, finding, at });
    }

    /// Forgets the proofs that were sent [`HELD_SLOTS`] slots or more before `slot`, so that they
    /// no longer hold up others.
    pub fn forget_sent_before(&mut self, slot: Slot) {
        self.sent.retain(|sent| sent.at.saturating_add(HELD_SLOTS) > slot);
    }

    /// Removes a proof that needs no further attempt.
    pub fn done(&mut self, evidence: Root) {
        self.waiting.remove(&evidence);
    }

    /// Notes that a node failed while it handled the proof. The pause before the next attempt grows
    /// each time. Returns the number of such failures.
    pub fn broke_down(&mut self, evidence: Root, now: Time) -> u32 {
        let Some(one) = self.waiting.get_mut(&evidence) else { return 0 };
        one.breakdowns = one.breakdowns.saturating_add(1);
        one.not_before = now.after(RetryPolicy::DEFAULT.pauses.pause(one.breakdowns));
        one.breakdowns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Epoch, ForkName, Spec, ValidatorIndex};
    use evidence::{Evidence, OffenceFacts};
    use std::collections::HashSet;

    const ATTESTER: EvidenceKind = EvidenceKind::AttesterSlashing;
    const PROPOSER: EvidenceKind = EvidenceKind::ProposerSlashing;

    fn finding(validator: u64) -> Finding {
        let evidence = Evidence::new(ATTESTER, ForkName::Fulu, vec![1], serde_json::Value::Null);
        Finding::slashable(OffenceFacts { validator: ValidatorIndex::new(validator), ..OffenceFacts::sample() }, &evidence)
    }

    fn root(n: u64) -> Root {
        Root::left_padding_from(&n.to_be_bytes())
    }

    /// A queue with one proof for each entry. The entry is the number of validators that the proof
    /// accuses.
    fn queue(kind: EvidenceKind, accused: &[u64]) -> Queue {
        let mut queue = Queue::default();
        for (nth, n) in accused.iter().enumerate() {
            for validator in 0..*n {
                queue.add(root(nth as u64), kind, &finding(nth as u64 * 1000 + validator), nth as u64 + 1);
            }
        }
        queue
    }

    fn mainnet() -> Network {
        Network { spec: Spec::builtin("mainnet").unwrap(), genesis_time: 0, genesis_validators_root: Root::ZERO }
    }

    /// Returns each proof with the slot, counted from `first`, in which it was sent, in the order
    /// of sending.
    fn play(queue: &mut Queue, first: Slot, slots: u64, included_after: Option<u64>) -> Vec<(u64, Root)> {
        let network = mainnet();
        let mut gone: Vec<(u64, Root, Root)> = Vec::new();
        for later in 0..slots {
            let slot = first.saturating_add(later);
            let included: HashSet<Root> = gone
                .iter()
                .filter(|(at, ..)| included_after.is_some_and(|after| at + after <= later))
                .map(|(_, _, finding)| *finding)
                .collect();
            while let Some((id, one)) = queue.next(&network, slot, Time::default(), |finding| included.contains(&finding)) {
                queue.sent(one.kind, one.finding, slot);
                queue.done(id);
                gone.push((later, id, one.finding));
            }
        }
        gone.into_iter().map(|(at, id, _)| (at, id)).collect()
    }

    #[test]
    fn as_many_go_as_a_block_takes_and_who_accuses_most_goes_first() {
        let electra = Epoch::new(364_032).start_slot(&consensus::Preset::MAINNET);
        let went = play(&mut queue(ATTESTER, &[1, 5, 1, 3]), electra, 40, Some(1));
        assert_eq!(went, [(0, root(1)), (1, root(3)), (2, root(0)), (3, root(2))], "one a slot while blocks take them");
        let went = play(&mut queue(ATTESTER, &[1, 5, 1, 3]), electra, 40, None);
        let at: Vec<u64> = went.iter().map(|(at, _)| *at).collect();
        assert_eq!(at, [0, HELD_SLOTS, 2 * HELD_SLOTS, 3 * HELD_SLOTS], "what no block takes holds up the next for a while");
        let before = Slot::new(electra.as_u64() - 1000);
        let went = play(&mut queue(ATTESTER, &[1, 1, 1, 1, 1]), before, 40, Some(1));
        assert_eq!(went.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 0, 1, 1, 2], "two before Electra");
        let went = play(&mut queue(PROPOSER, &[1; 20]), electra, 40, Some(1));
        assert_eq!(went.iter().filter(|(at, _)| *at == 0).count(), 16);
        assert_eq!(went.len(), 20);
    }

    #[test]
    fn even_what_is_included_at_once_is_no_reason_to_send_more_in_a_slot() {
        let electra = Epoch::new(364_032).start_slot(&consensus::Preset::MAINNET);
        let went = play(&mut queue(ATTESTER, &[1, 1, 1]), electra, 3, Some(0));
        assert_eq!(went.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn who_failed_waits_and_lets_the_others_go() {
        let network = mainnet();
        let mut queue = queue(PROPOSER, &[2, 1]);
        let at = |seconds: u64| Time::from_unix_ns(seconds * 1_000_000_000);
        assert_eq!(queue.broke_down(root(0), at(8)), 1);
        let next = |queue: &mut Queue, now| queue.next(&network, Slot::new(1), now, |_| false).map(|(id, _)| id);
        assert_eq!(next(&mut queue, at(9)), Some(root(1)));
        assert_eq!(next(&mut queue, at(10)), Some(root(0)));
        assert_eq!((queue.len(), queue.oldest()), (2, Some(1)));
        queue.done(root(0));
        assert_eq!((queue.len(), queue.oldest()), (1, Some(2)));
    }
}
