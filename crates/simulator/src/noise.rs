//! Messages that contain no offence: forged, random, repeated, or changed in a field that no
//! signature covers.

use crate::block::BlockBody;
use crate::keys::Keyring;
use crate::message::{Nature, Sent, moment};
use crate::pool::Place;
use crate::proposing::graffiti;
use crate::world::{MAIN, World};
use consensus::{
    AttestationData, CommitteeIndex, ForkName, MessageKind, Root, SignatureBytes, SignedBeaconBlockHeader, Slot, ValidatorIndex,
};

/// Junk messages are shorter than this, in bytes.
const MAX_JUNK: u64 = 600;
/// Offset of `aggregator_index` in a `SignedAggregateAndProof`, after an offset and the signature.
const AGGREGATOR_AT: usize = 4 + 96;

impl World {
    /// Adds the vandal's messages of a slot.
    pub(crate) fn disturb(&mut self, slot: Slot, out: &mut Vec<Sent>) {
        let noise = self.scenario.noise;
        let signed: Vec<Sent> = out.iter().filter(|message| repeatable(message)).cloned().collect();
        let vandal = self.scenario.vandal_node();
        let mut nth = 0;
        let mut send = |mut message: Sent| {
            message.node = vandal;
            message.at_ns = self.at(slot, moment::NOISE + nth % 150);
            nth += 1;
            out.push(message);
        };
        (0..noise.forged).filter_map(|n| self.forge(slot, n)).for_each(&mut send);
        (0..noise.junk).map(|n| self.junk(slot, n)).for_each(&mut send);
        (0..noise.duplicates).filter_map(|n| self.pick(&signed, "repeat", slot, n)).for_each(&mut send);
        (0..noise.altered)
            .filter_map(|n| self.pick(&signed, "alter", slot, n))
            .filter_map(|m| alter(self.fork(slot), m))
            .for_each(send);
    }

    fn pick(&self, signed: &[Sent], why: &str, slot: Slot, n: u64) -> Option<Sent> {
        let at = self.scenario.random().below(signed.len() as u64, why, &[slot.as_u64(), n]);
        signed.get(at as usize).cloned()
    }

    /// Forges in turn: a vote with another validator's signature, a vote with bytes that are no
    /// signature, a block with another validator's signature.
    fn forge(&self, slot: Slot, n: u64) -> Option<Sent> {
        let random = self.scenario.random();
        let about = [slot.as_u64(), n];
        let committee = CommitteeIndex::new(random.below(self.committees().count() as u64, "forged committee", &about));
        let members = self.committee(slot, committee);
        let position = random.below(members.len() as u64, "forged member", &about) as usize;
        let victim = *members.get(position)?;
        // The key of the next validator gives a valid signature, but of another validator.
        let other = ValidatorIndex::new((victim.as_u64() + 1) % self.scenario.n_validators as u64);
        let elsewhere = Root::from(random.hash("forged head", &about));
        let sent = |kind, ssz| Sent {
            at_ns: 0,
            node: 0,
            topic: self.topic(slot, kind),
            ssz,
            nature: Nature::Forged,
            claims: Vec::new(),
        };
        if n % 3 == 2 {
            return Some(sent(MessageKind::Block, self.forged_block(slot, &self.keys)));
        }
        let data = AttestationData { beacon_block_root: elsewhere, ..self.honest_data(slot, committee) };
        let signature = if n.is_multiple_of(3) {
            self.keys.sign(other, self.vote_root(&data))
        } else {
            SignatureBytes::from_slice(&random.bytes(96, "no signature", &about))
        };
        let place = Place { committee, position, size: members.len() };
        Some(sent(self.subnet(slot, committee), self.vote_ssz(&data, place, victim, &signature)))
    }

    fn forged_block(&self, slot: Slot, keys: &Keyring) -> Vec<u8> {
        let proposer = self.proposer(slot, MAIN);
        let other = ValidatorIndex::new((proposer.as_u64() + 1) % self.scenario.n_validators as u64);
        let body = BlockBody {
            graffiti: graffiti("not by the proposer"),
            randao_reveal: keys.sign(other, Root::ZERO),
            ..BlockBody::empty()
        };
        let block = self.sign_block(slot, proposer, self.head(), &body);
        let signature = self.sign_header(&block.message, other);
        body.signed_block(self.fork(slot), &self.preset, &SignedBeaconBlockHeader { signature, ..block }).to_ssz()
    }

    fn junk(&self, slot: Slot, n: u64) -> Sent {
        let random = self.scenario.random();
        let about = [slot.as_u64(), n];
        let kinds = [
            MessageKind::Block,
            MessageKind::Aggregate,
            MessageKind::Attestation { subnet: random.below(64, "junk subnet", &about) },
            MessageKind::AttesterSlashing,
            MessageKind::ProposerSlashing,
        ];
        let kind = kinds[random.below(kinds.len() as u64, "junk topic", &about) as usize];
        let length = random.below(MAX_JUNK, "junk length", &about) as usize;
        let ssz = random.bytes(length, "junk", &about);
        Sent { at_ns: 0, node: 0, topic: self.topic(slot, kind), ssz, nature: Nature::Junk, claims: Vec::new() }
    }
}

/// Whether a message can be repeated. Votes and aggregates are, both honest ones and second ones.
fn repeatable(message: &Sent) -> bool {
    message.nature == Nature::Signed && matches!(message.topic.kind, MessageKind::Attestation { .. } | MessageKind::Aggregate)
}

/// Changes a field that the voters do not sign: the committee of a single vote, or the aggregator
/// of an aggregate. A vote before Electra has no such field.
fn alter(fork: ForkName, mut message: Sent) -> Option<Sent> {
    let at = match message.topic.kind {
        MessageKind::Attestation { .. } if fork.has_single_attestations() => 0,
        MessageKind::Aggregate => AGGREGATOR_AT,
        _ => return None,
    };
    *message.ssz.get_mut(at)? ^= 1;
    Some(message)
}
