//! A slot of load: the block and the votes, each with a real signature. Aggregates, offences and
//! noise are in other files.

use super::Load;
use crate::block::BlockBody;
use crate::containers::single_attestation;
use crate::ground_truth::Crime;
use crate::proposer::proposer;
use crate::proposing::graffiti;
use crate::wire;
use blst::min_pk::Signature;
use consensus::{
    AttestationData, BeaconBlockHeader, CommitteeIndex, DomainType, ForkName, MessageKind, Root, SignatureBytes,
    SignedBeaconBlockHeader, Slot, ValidatorIndex,
};
use sources::topic::Topic;

/// Length of a slot. All times in this file are in nanoseconds.
const SLOT_NS: u64 = 12_000_000_000;
/// When the block is sent, after the start of its slot.
const BLOCK_AT: u64 = 300_000_000;
/// Beginning of the burst of votes, after the start of the slot.
pub(super) const VOTES_FROM: u64 = 4_000_000_000;
/// Length of the burst.
pub(super) const VOTES_FOR: u64 = 4_000_000_000;
/// The copies of a message arrive within this time.
const COPIES_WITHIN: u64 = 300_000_000;

/// A gossip message that is to be sent.
#[derive(Clone, Debug)]
pub struct LoadMessage {
    /// Nanoseconds since genesis.
    pub at_ns: u64,
    /// The sender: `publisher-0` and so on for honest messages, `forger-` and `vandal-` for others.
    pub sender: String,
    pub topic: String,
    /// The payload as on the wire.
    pub payload: Vec<u8>,
    /// The offence that this message completes, if it is the second half of one.
    pub crime: Option<Crime>,
}

/// A validator with the duty to vote.
#[derive(Clone, Copy)]
pub(super) struct Voter {
    pub(super) validator: ValidatorIndex,
    pub(super) committee: CommitteeIndex,
    position: usize,
}

/// The votes of a slot.
pub(super) struct SlotDuty {
    pub(super) slot: Slot,
    pub(super) data: AttestationData,
    /// The data of a validator that has not received the newest block. It equals `data` while there
    /// is only one block.
    pub(super) stale: AttestationData,
    /// In ascending order of validators.
    pub(super) voters: Vec<Voter>,
    /// The signatures over `data`, in the order of `voters`.
    pub(super) signatures: Vec<Signature>,
    /// For each committee, the positions of its members in `voters`, in the order of their bits.
    pub(super) committees: Vec<Vec<usize>>,
}

impl Load {
    /// Returns all messages of a slot in order of time. Slots must be played one after the other,
    /// in the order of [`super::LoadPlan::each_slot`].
    pub fn play(&mut self, slot: Slot) -> Vec<LoadMessage> {
        self.record(slot.epoch(&self.preset));
        let mut messages = vec![self.propose(slot)];
        let duty = self.duty(slot);
        self.vote(&duty, &mut messages);
        self.vote_twice(&duty, &mut messages);
        self.surround(&duty, &mut messages);
        let totals = self.aggregate(&duty, &mut messages);
        self.votes_of_last_slot = Some(self.whole_slot(&duty, &totals));
        let honest = messages.len();
        for copy in 1..self.plan.copies {
            for nth in 0..honest {
                let original = &messages[nth];
                let at_ns = original.at_ns + COPIES_WITHIN * u64::from(copy) / u64::from(self.plan.copies);
                let message = LoadMessage { at_ns, sender: publisher(copy), crime: None, ..original.clone() };
                messages.push(message);
            }
        }
        self.forge(&duty, &mut messages);
        self.scatter_junk(&duty, &mut messages);
        messages.sort_by_key(|message| message.at_ns);
        messages
    }

    /// Returns only the votes of slot 1, distributed over `distinct_data` different heads. It
    /// serves to measure the cost of verification.
    pub fn votes(&self, distinct_data: u64) -> Vec<LoadMessage> {
        let duty = self.duty(self.plan.slot_before().saturating_add(1));
        let mut messages = Vec::with_capacity(duty.voters.len());
        for nth in 0..distinct_data.max(1) {
            let head = Root::from(self.plan.scenario().random().hash("some head", &[nth]));
            let data = AttestationData { beacon_block_root: head, ..duty.data };
            let voters: Vec<Voter> =
                duty.voters.iter().skip(nth as usize).step_by(distinct_data.max(1) as usize).copied().collect();
            let validators: Vec<ValidatorIndex> = voters.iter().map(|voter| voter.validator).collect();
            for (voter, signature) in voters.iter().zip(self.keys.sign_each(&validators, self.vote_root(&data))) {
                let ssz = single_attestation(voter.committee, voter.validator, &data, &compressed(&signature)).to_ssz();
                messages.push(self.message(duty.slot, VOTES_FROM, self.subnet(duty.slot, voter.committee), &ssz));
            }
        }
        messages
    }

    fn propose(&mut self, slot: Slot) -> LoadMessage {
        let epoch = slot.epoch(&self.preset);
        let by = proposer(ForkName::Fulu, &self.preset, &self.active, self.seed_mix(epoch), slot);
        let mut epoch_root = [0; 32];
        epoch_root[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
        let body = BlockBody {
            randao_reveal: self.keys.sign(by, self.signing_root(Root::from(epoch_root), DomainType::Randao, slot)),
            graffiti: graffiti("slashwatch load"),
            attestations: self.votes_of_last_slot.take().into_iter().collect(),
            slashings: crate::slasher::Operations::default(),
            operations: Vec::new(),
        };
        let message = BeaconBlockHeader {
            slot,
            proposer_index: by,
            parent_root: self.blocks[self.blocks.len() - 1].1,
            state_root: Root::from(self.plan.scenario().random().hash("state root", &[slot.as_u64()])),
            body_root: body.root(ForkName::Fulu, &self.preset),
        };
        let root = message.root();
        let signature = self.keys.sign(by, self.signing_root(root, DomainType::BeaconProposer, slot));
        let block = body.signed_block(ForkName::Fulu, &self.preset, &SignedBeaconBlockHeader { message, signature });
        self.extend(slot, root, body.randao_reveal.as_slice());
        self.message(slot, BLOCK_AT, MessageKind::Block, &block.to_ssz())
    }

    fn duty(&self, slot: Slot) -> SlotDuty {
        let mut voters = Vec::new();
        let n_committees = self.shuffling.committees_per_slot();
        let mut committees = Vec::new();
        for committee in (0..n_committees).map(CommitteeIndex::new) {
            let members = self.shuffling.committee(slot, committee).unwrap_or_default();
            committees.push(vec![0; members.len()]);
            let seats = members.iter().enumerate();
            voters.extend(seats.map(|(position, member)| Voter { validator: Self::validator(*member), committee, position }));
        }
        voters.sort_unstable_by_key(|voter| voter.validator);
        for (at, voter) in voters.iter().enumerate() {
            committees[voter.committee.as_u64() as usize][voter.position] = at;
        }
        let (data, stale) = (self.data(slot, 0), self.data(slot, 1));
        let validators: Vec<ValidatorIndex> = voters.iter().map(|voter| voter.validator).collect();
        let signatures = self.keys.sign_each(&validators, self.vote_root(&data));
        SlotDuty { slot, data, stale, voters, signatures, committees }
    }

    pub(super) fn vote_root(&self, data: &AttestationData) -> Root {
        self.signing_root(data.root(), DomainType::BeaconAttester, data.slot)
    }

    fn vote(&self, duty: &SlotDuty, out: &mut Vec<LoadMessage>) {
        for (nth, (voter, signature)) in duty.voters.iter().zip(&duty.signatures).enumerate() {
            let ssz = single_attestation(voter.committee, voter.validator, &duty.data, &compressed(signature)).to_ssz();
            out.push(self.message(duty.slot, vote_time(nth), self.subnet(duty.slot, voter.committee), &ssz));
        }
    }

    pub(super) fn subnet(&self, slot: Slot, committee: CommitteeIndex) -> MessageKind {
        wire::subnet(&self.network, self.shuffling.committees_per_slot(), slot, committee)
    }

    pub(super) fn topic(&self, slot: Slot, kind: MessageKind) -> Topic {
        wire::topic(&self.network, slot, kind)
    }

    pub(super) fn unix_ns(&self, slot: Slot, within: u64) -> u64 {
        self.network.genesis_time * 1_000_000_000 + slot.as_u64() * SLOT_NS + within
    }

    /// An honest message, sent `within` nanoseconds after the start of its slot.
    pub(super) fn message(&self, slot: Slot, within: u64, kind: MessageKind, ssz: &[u8]) -> LoadMessage {
        LoadMessage {
            at_ns: slot.as_u64() * SLOT_NS + within,
            sender: publisher(0),
            topic: self.topic(slot, kind).to_string(),
            payload: packed(ssz),
            crime: None,
        }
    }
}

fn publisher(copy: u32) -> String {
    format!("publisher-{copy}")
}

pub(super) fn packed(ssz: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(ssz).expect("far below 4 GiB")
}

pub(super) fn compressed(signature: &Signature) -> SignatureBytes {
    SignatureBytes::from(signature.to_bytes())
}

/// When the `nth` vote of a slot is sent, after the start of the slot.
pub(super) fn vote_time(nth: usize) -> u64 {
    VOTES_FROM + even(nth, VOTES_FOR)
}

/// The `nth` value of a series that fills `0..span` evenly, whatever its length (multiples of the
/// golden ratio).
pub(super) fn even(nth: usize, span: u64) -> u64 {
    let fraction = (nth as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((u128::from(span) * u128::from(fraction)) >> 32) as u64
}
