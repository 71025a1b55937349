//! Attackers beside a load: the messages of somebody who owns withdrawn keys and wants to deceive,
//! flood or block a watcher.
//!
//! A withdrawn key costs nothing, and its owner can sign anything with it. Every message here
//! either has a valid signature by such a key and cannot be punished, or is not what it claims to
//! be. A correct watcher finds nothing new in these messages, forwards none of them, and continues
//! its work.
//!
//! An attack is one function in [`attacks`] and one line in [`ATTACKS`]. This module creates only
//! the messages. The caller chooses the sockets that send them, and what these report about their
//! chain.

mod attacks;

use super::Load;
use super::slot::{LoadMessage, packed};
use crate::containers::VotesByBits;
use crate::keys::infinity_signature;
use crate::wire;
use consensus::{
    AttestationData, BeaconBlockHeader, Checkpoint, CommitteeIndex, DomainType, Epoch, MessageKind, Root,
    SignedBeaconBlockHeader, Slot, ValidatorIndex,
};

pub use attacks::ATTACKS;

/// Number of withdrawn keys that the attackers own.
pub const ATTACKERS_KEYS: usize = 64;
const SLOT_NS: u64 = 12_000_000_000;

/// One kind of attack.
pub struct Attack {
    pub name: &'static str,
    /// Number of messages in a slot, from all peers together.
    pub per_slot: u64,
    make: fn(&Arsenal<'_>, &Moment<'_>, u64) -> Shot,
}

/// A hostile message that is to be sent.
pub struct Shot {
    /// Nanoseconds since genesis.
    pub at_ns: u64,
    pub topic: String,
    /// The payload as on the wire.
    pub payload: Vec<u8>,
}

/// What attackers know about a slot.
pub struct Moment<'a> {
    pub slot: Slot,
    /// The load's messages of the slot.
    pub honest: &'a [LoadMessage],
}

/// The attackers' keys, and the network that they attack.
pub struct Arsenal<'a> {
    load: &'a Load,
    withdrawn: Vec<ValidatorIndex>,
    slashed: Vec<ValidatorIndex>,
}

impl<'a> Arsenal<'a> {
    /// The load must have played the slots for which attacks are requested, because attacks refer
    /// to its newest block.
    pub fn new(load: &'a Load) -> Self {
        let mut active = load.active.iter().copied().peekable();
        let mut left = (0..load.plan.n_registered as u32).filter(|index| active.next_if_eq(index).is_none()).map(Load::validator);
        let slashed = left.by_ref().take(load.plan.slashed).collect();
        Self { load, slashed, withdrawn: left.take(ATTACKERS_KEYS).collect() }
    }

    /// Validators that have exited and were not slashed. Nothing that they sign can be punished.
    pub fn withdrawn(&self) -> &[ValidatorIndex] {
        &self.withdrawn
    }

    /// Validators that were slashed long ago.
    pub fn slashed(&self) -> &[ValidatorIndex] {
        &self.slashed
    }

    /// Returns all messages of an attack in the `nth` slot of the campaign, counted from 0.
    pub fn play(&self, attack: &Attack, moment: &Moment<'_>, nth: u64) -> Vec<Shot> {
        (0..attack.per_slot).map(|n| (attack.make)(self, moment, nth * attack.per_slot + n)).collect()
    }

    /// Creates a message. Messages are spread over the slot in which they are sent.
    fn shot(&self, moment: &Moment<'_>, nth: u64, kind: MessageKind, ssz: &[u8]) -> Shot {
        self.payload(moment, nth, kind, packed(ssz))
    }

    fn payload(&self, moment: &Moment<'_>, nth: u64, kind: MessageKind, payload: Vec<u8>) -> Shot {
        let at_ns = moment.slot.as_u64() * SLOT_NS + super::slot::even(nth as usize, SLOT_NS);
        Shot { at_ns, topic: self.load.topic(moment.slot, kind).to_string(), payload }
    }

    fn key(&self, nth: u64) -> ValidatorIndex {
        self.withdrawn[nth as usize % self.withdrawn.len()]
    }

    /// An active validator, whose key the attackers do not have.
    fn victim(&self, nth: u64) -> ValidatorIndex {
        Load::validator(self.load.active[nth as usize % self.load.active.len()])
    }

    fn any_root(&self, question: &str, about: &[u64]) -> Root {
        Root::from(self.load.plan.scenario().random().hash(question, about))
    }

    fn any_bytes(&self, n: usize, question: &str, nth: u64) -> Vec<u8> {
        self.load.plan.scenario().random().bytes(n, question, &[nth])
    }

    fn root_to_sign(&self, root: Root, kind: DomainType, epoch: Epoch) -> Root {
        wire::root_to_sign(&self.load.network, root, kind, epoch)
    }

    fn epoch(&self, moment: &Moment<'_>) -> Epoch {
        moment.slot.epoch(&self.load.preset)
    }

    /// The data of a vote for a block that nobody has, with `source` as the justified epoch.
    fn data(&self, source: Epoch, target: Epoch, nth: u64) -> AttestationData {
        let checkpoint = |epoch: Epoch| Checkpoint { epoch, root: self.any_root("hostile checkpoint", &[epoch.as_u64()]) };
        AttestationData {
            slot: target.start_slot(&self.load.preset),
            index: CommitteeIndex::new(0),
            beacon_block_root: self.any_root("hostile head", &[nth]),
            source: checkpoint(source),
            target: checkpoint(target),
        }
    }

    /// A single vote by `by`, on an arbitrary subnet.
    fn vote(&self, moment: &Moment<'_>, nth: u64, by: ValidatorIndex, data: &AttestationData) -> Shot {
        let root = self.root_to_sign(data.root(), DomainType::BeaconAttester, data.target.epoch);
        let signature = self.load.keys.sign(by, root);
        let ssz = crate::containers::single_attestation(CommitteeIndex::new(0), by, data, &signature).to_ssz();
        self.shot(moment, nth, MessageKind::Attestation { subnet: nth % 64 }, &ssz)
    }

    /// One side of an attester slashing, signed with fork version `version`, or with that of its
    /// epoch.
    fn side(&self, signers: &[ValidatorIndex], data: AttestationData, version: Option<[u8; 4]>) -> VotesByBits {
        let (gvr, kind) = (self.load.network.genesis_validators_root, DomainType::BeaconAttester);
        let root = match version {
            Some(version) => consensus::signing_root(data.root(), consensus::compute_domain(kind, version, gvr)),
            None => self.root_to_sign(data.root(), kind, data.target.epoch),
        };
        let signature = self.load.keys.sign_together(signers, root);
        VotesByBits { data, committees: Vec::new(), bits: Vec::new(), signers: signers.to_vec(), signature }
    }

    fn header(&self, slot: Slot, by: ValidatorIndex, nth: u64) -> BeaconBlockHeader {
        BeaconBlockHeader {
            slot,
            proposer_index: by,
            parent_root: self.any_root("hostile parent", &[nth]),
            state_root: self.any_root("hostile state", &[nth]),
            body_root: self.any_root("hostile body", &[nth]),
        }
    }

    /// A header signed by `signer`, with fork version `version` or that of its epoch.
    fn signed(&self, message: BeaconBlockHeader, signer: ValidatorIndex, version: Option<[u8; 4]>) -> SignedBeaconBlockHeader {
        let (gvr, kind) = (self.load.network.genesis_validators_root, DomainType::BeaconProposer);
        let root = match version {
            Some(version) => consensus::signing_root(message.root(), consensus::compute_domain(kind, version, gvr)),
            None => self.root_to_sign(message.root(), kind, message.slot.epoch(&self.load.preset)),
        };
        SignedBeaconBlockHeader { message, signature: self.load.keys.sign(signer, root) }
    }

    /// A complete block by `by`, whether or not it is the proposer of the slot. Returns the block's
    /// root and its SSZ.
    fn block(&self, slot: Slot, by: ValidatorIndex, parent_root: Root, nth: u64) -> (Root, Vec<u8>) {
        use crate::block::BlockBody;
        use consensus::ForkName::Fulu;
        let epoch = slot.epoch(&self.load.preset);
        let mut epoch_root = [0; 32];
        epoch_root[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
        let randao = self.root_to_sign(Root::from(epoch_root), DomainType::Randao, epoch);
        let body = BlockBody {
            randao_reveal: self.load.keys.sign(by, randao),
            graffiti: self.any_root("hostile graffiti", &[nth]).0,
            attestations: Vec::new(),
            slashings: crate::slasher::Operations::default(),
            operations: Vec::new(),
        };
        let body_root = body.root(Fulu, &self.load.preset);
        let message = BeaconBlockHeader { parent_root, body_root, ..self.header(slot, by, nth) };
        let signed = self.signed(message, by, None);
        (message.root(), body.signed_block(Fulu, &self.load.preset, &signed).to_ssz())
    }

    /// Votes on data without voters, for the caller to fill in.
    fn no_votes(&self, data: AttestationData) -> VotesByBits {
        VotesByBits { data, committees: Vec::new(), bits: Vec::new(), signers: Vec::new(), signature: infinity_signature() }
    }

    /// The parent of the load's newest block. Rivals of that block can build on it too.
    fn parent(&self) -> Root {
        self.load.blocks[self.load.blocks.len() - 2].1
    }
}
