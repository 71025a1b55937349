//! Forged votes and junk, spread over the burst.

use super::Load;
use super::slot::{LoadMessage, SlotDuty, VOTES_FOR, VOTES_FROM, even, packed};
use crate::containers::single_attestation;
use consensus::{AttestationData, Checkpoint, CommitteeIndex, Epoch, ForkDigest, MessageKind, SignatureBytes, ValidatorIndex};
use sources::topic::Topic;

const SLOT_NS: u64 = 12_000_000_000;
/// Number of peers that send junk.
const VANDALS: u64 = 4;
/// The header of a decompression bomb. It claims a decompressed length of 4 GiB less one byte, as
/// snappy's varint.
const BOMB: [u8; 6] = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];

/// The kinds of invalid messages.
#[derive(Clone, Copy)]
enum Junk {
    NotSnappy,
    NotSsz,
    HugeIndex,
    FarFuture,
    UnknownDigest,
    OtherTopic,
    Bomb,
    Oversize,
}

const KINDS: [Junk; 8] = [
    Junk::NotSnappy,
    Junk::NotSsz,
    Junk::HugeIndex,
    Junk::FarFuture,
    Junk::UnknownDigest,
    Junk::OtherTopic,
    Junk::Bomb,
    Junk::Oversize,
];

impl Load {
    /// Adds votes in the names of validators with the signature of another voter. Every second one
    /// is for other data.
    pub(super) fn forge(&self, duty: &SlotDuty, out: &mut Vec<LoadMessage>) {
        let n_voters = duty.voters.len();
        let n = n_voters * self.plan.forged_percent as usize / 100;
        let random = self.plan.scenario().random();
        for nth in 0..n.min(n_voters * 10) {
            let at = random.below(n_voters as u64, "forged", &[duty.slot.as_u64(), nth as u64]) as usize;
            let voter = duty.voters[at];
            let signature = &duty.signatures[(at + 1 + nth / n_voters) % n_voters];
            let data = if nth.is_multiple_of(2) { &duty.stale } else { &duty.data };
            let bytes = SignatureBytes::from(signature.to_bytes());
            let ssz = single_attestation(voter.committee, voter.validator, data, &bytes).to_ssz();
            out.push(LoadMessage {
                at_ns: duty.slot.as_u64() * SLOT_NS + VOTES_FROM + even(nth * 3 + 1, VOTES_FOR),
                sender: format!("forger-{}", nth as u64 % u64::from(self.plan.n_forgers)),
                topic: self.topic(duty.slot, self.subnet(duty.slot, voter.committee)).to_string(),
                payload: packed(&ssz),
                crime: None,
            });
        }
    }

    pub(super) fn scatter_junk(&self, duty: &SlotDuty, out: &mut Vec<LoadMessage>) {
        let n = duty.voters.len() * self.plan.junk_percent as usize / 100;
        for nth in 0..n {
            let (topic, payload) = self.junk(duty, nth);
            out.push(LoadMessage {
                at_ns: duty.slot.as_u64() * SLOT_NS + VOTES_FROM + even(nth * 5 + 2, VOTES_FOR),
                sender: format!("vandal-{}", nth as u64 % VANDALS),
                topic,
                payload,
                crime: None,
            });
        }
    }

    fn junk(&self, duty: &SlotDuty, nth: usize) -> (String, Vec<u8>) {
        let (random, about) = (self.plan.scenario().random(), [duty.slot.as_u64(), nth as u64]);
        let subnet = self.topic(duty.slot, MessageKind::Attestation { subnet: random.below(64, "junk subnet", &about) });
        let random = random.bytes(96, "junk", &about);
        let vote = |validator: u64, data: &AttestationData| {
            let signature = SignatureBytes::from_slice(&random);
            packed(&single_attestation(CommitteeIndex::new(0), ValidatorIndex::new(validator), data, &signature).to_ssz())
        };
        match KINDS[nth % KINDS.len()] {
            Junk::NotSnappy => (subnet.to_string(), random),
            Junk::NotSsz => (self.topic(duty.slot, MessageKind::Aggregate).to_string(), packed(&random)),
            Junk::HugeIndex => (subnet.to_string(), vote(u64::MAX - nth as u64, &duty.data)),
            Junk::FarFuture => {
                let target = Checkpoint { epoch: Epoch::new(1 << 40), root: duty.data.target.root };
                let voter = duty.voters[nth % duty.voters.len()].validator.as_u64();
                (subnet.to_string(), vote(voter, &AttestationData { target, ..duty.data }))
            }
            Junk::UnknownDigest => {
                let digest = ForkDigest([0xba, 0xd0, nth as u8, (nth >> 8) as u8]);
                (Topic { digest, ..subnet }.to_string(), vote(0, &duty.data))
            }
            Junk::OtherTopic => {
                let digest = subnet.digest;
                (format!("/eth2/{digest}/sync_committee_1/ssz_snappy"), packed(&random))
            }
            Junk::Bomb => (subnet.to_string(), BOMB.iter().chain(&random).copied().collect()),
            Junk::Oversize => (subnet.to_string(), packed(&random.repeat(6))),
        }
    }
}
