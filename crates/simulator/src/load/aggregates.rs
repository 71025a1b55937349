//! The aggregates of a slot: sums of signatures that cost one addition for each member, and a real
//! signature around each.

use super::Load;
use super::slot::{LoadMessage, SlotDuty, compressed, even};
use crate::containers::{VotesByBits, aggregate_and_proof, attestation, signed};
use blst::min_pk::{AggregateSignature, Signature};
use blst::{blst_p2, p2_affines};
use consensus::{CommitteeIndex, DomainType, ForkName, MessageKind, Root, ValidatorIndex, sha256};

/// When the first aggregate is sent, in nanoseconds after the start of the slot.
const AGGREGATES_FROM: u64 = 8_000_000_000;
/// Nanoseconds over which the aggregates are spread.
const AGGREGATES_FOR: u64 = 1_500_000_000;
/// `TARGET_AGGREGATORS_PER_COMMITTEE`.
const AGGREGATORS: u64 = 16;
/// One in this number of a committee's members is too late for the aggregators.
const LATE_SHARE: usize = 50;

impl Load {
    /// Adds up to 16 aggregates for each committee. Returns each committee's complete sum.
    pub(super) fn aggregate(&self, duty: &SlotDuty, out: &mut Vec<LoadMessage>) -> Vec<Signature> {
        let slot = duty.slot;
        let mut slot_root = [0; 32];
        slot_root[..8].copy_from_slice(&slot.as_u64().to_le_bytes());
        let proof_root = self.signing_root(Root::from(slot_root), DomainType::SelectionProof, slot);
        let validators: Vec<ValidatorIndex> = duty.voters.iter().map(|voter| voter.validator).collect();
        let proofs = self.keys.sign_each(&validators, proof_root);
        // Each aggregate needs an outer signature over a message of its own, and no trick makes
        // that cheaper. So two threads share the work.
        let half = duty.committees.len().div_ceil(2).max(1);
        let made: Vec<(Vec<LoadMessage>, Option<Signature>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = duty
                .committees
                .chunks(half)
                .enumerate()
                .map(|(part, committees)| {
                    let proofs = &proofs;
                    scope.spawn(move || {
                        let numbered = committees.iter().enumerate();
                        numbered.map(|(i, members)| self.committee(duty, part * half + i, members, proofs)).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("making aggregates does not panic")).collect()
        });
        let mut totals = Vec::new();
        for (messages, total) in made {
            out.extend(messages);
            totals.extend(total);
        }
        totals
    }

    /// Returns one committee's aggregates and its complete sum.
    fn committee(
        &self,
        duty: &SlotDuty,
        number: usize,
        members: &[usize],
        proofs: &[Signature],
    ) -> (Vec<LoadMessage>, Option<Signature>) {
        let (slot, n) = (duty.slot, members.len());
        let committee = CommitteeIndex::new(number as u64);
        let one_in = (n as u64 / AGGREGATORS).max(1);
        // `from_start[i]` is the sum of the first `i` members, and `to_end[i]` is the sum of those
        // from `i` on. `None` is the sum of no members.
        let sum = |sums: &mut Vec<Option<AggregateSignature>>, at: usize| {
            let next = &duty.signatures[at];
            sums.push(Some(match sums.last().copied().flatten() {
                Some(mut sum) => {
                    // No group check is needed, because these points were created here.
                    let _ = sum.add_signature(next, false);
                    sum
                }
                None => AggregateSignature::from_signature(next),
            }));
        };
        let (mut from_start, mut to_end) = (vec![None], vec![None]);
        members.iter().for_each(|at| sum(&mut from_start, *at));
        members.iter().rev().for_each(|at| sum(&mut to_end, *at));
        to_end.reverse();
        let late = n / LATE_SHARE;
        let mut messages = Vec::new();
        for at in members {
            let proof = compressed(&proofs[*at]);
            let hash = sha256(proof.as_slice());
            let luck = u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
            if !luck.is_multiple_of(one_in) || messages.len() as u64 == AGGREGATORS {
                continue;
            }
            let gap = (luck >> 8) as usize % (n - late).max(1);
            let signature = match (from_start[gap], to_end[gap + late]) {
                (Some(mut left), Some(right)) => {
                    left.add_aggregate(&right);
                    left
                }
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => continue,
            };
            let bits = (0..n).map(|position| position < gap || position >= gap + late).collect();
            let votes = VotesByBits {
                data: duty.data,
                committees: vec![committee],
                bits,
                signers: Vec::new(),
                signature: compressed(&signature.to_signature()),
            };
            let aggregator = duty.voters[*at].validator;
            let message = aggregate_and_proof(aggregator, attestation(ForkName::Fulu, &self.preset, &votes), &proof);
            let over_it = self.keys.sign(aggregator, self.signing_root(message.root(), DomainType::AggregateAndProof, slot));
            let when = AGGREGATES_FROM + even(number * AGGREGATORS as usize + messages.len(), AGGREGATES_FOR);
            messages.push(self.message(slot, when, MessageKind::Aggregate, &signed(message, &over_it).to_ssz()));
        }
        (messages, from_start.last().copied().flatten().map(|total| total.to_signature()))
    }

    /// All votes of a slot in one attestation, as a block contains it.
    pub(super) fn whole_slot(&self, duty: &SlotDuty, totals: &[Signature]) -> VotesByBits {
        let sum = totals.split_first().map(|(first, others)| {
            let mut sum = AggregateSignature::from_signature(first);
            for other in others {
                let _ = sum.add_signature(other, false);
            }
            let point: blst_p2 = sum.into();
            compressed(&Signature::from(p2_affines::from(&[point]).as_slice()[0]))
        });
        VotesByBits {
            data: duty.data,
            committees: (0..duty.committees.len() as u64).map(CommitteeIndex::new).collect(),
            bits: vec![true; duty.voters.len()],
            signers: Vec::new(),
            signature: sum.unwrap_or_else(crate::keys::infinity_signature),
        }
    }
}
