//! Only what is certain is forwarded or held against a peer: operations that a chain could include
//! now, blocks of the expected proposer, and signatures that are wrong under every fork version
//! that may apply.
#![allow(clippy::unwrap_used)]

mod common;

use chain::{Chain, PubkeyCache};
use consensus::ssz_schema::{json_to_ssz, ssz_to_json};
use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, DomainType, Epoch, ForkName, ForkVersion,
    IndexedAttestation, ProposerSlashing, Root, SignatureBytes, SignedBeaconBlockHeader, SignedBlock, SingleAttestation, Slot,
    Spec, ValidatorIndex, signing_root,
};
use detect::{Proofs, accused, prove_operation};
use evidence::Punishable;
use serde_json::{Value, json};
use simulator::keys::Keyring;
use simulator::{Scenario, record};
use sources::capture::{CaptureReader, Entry};
use sources::limits::unpack;
use verify::{
    MessageKind, MessageParts, Origin, Outcome, PeerBytes, PeerReputation, RawMessage, SourceKind, Time, Verdict, Verified,
    Verifier, VerifyConfig,
};

const PER_EPOCH: u64 = 8;
/// The first validator that has left. All after it have left, too.
const LEFT: u64 = 44;
const N: u64 = 64;

struct Stage {
    chain: Chain,
    verifier: Verifier,
    keys: Keyring,
    /// A block of slot 1, as JSON.
    block: Value,
}

impl Stage {
    /// A simulated Fulu network at genesis with these future forks. Validators from `LEFT` on are
    /// withdrawn.
    fn new(forks: &str) -> Self {
        let scenario = Scenario { slots: 2, ..Scenario::quiet(N as usize) };
        let (capture, _) = record::capture_bytes(&scenario).unwrap();
        let (mut config, mut state, mut block) = (None, None, None);
        for located in CaptureReader::new(&capture[..]) {
            match located.unwrap().entry {
                Entry::Config(text) => config = Some(text),
                Entry::State(ssz) => state = state.or(Some(ssz)),
                Entry::Gossip(entry) if entry.topic.contains("beacon_block") => block = block.or(Some(entry.payload)),
                _ => {}
            }
        }
        let spec = Spec::from_yaml(&format!("{}\n{forks}", config.unwrap())).unwrap();
        let block = unpack(&block.unwrap(), 1 << 20).unwrap();
        let block = ssz_to_json(ForkName::Fulu, &spec.preset, "SignedBeaconBlock", &block).unwrap();
        let mut state = ssz_to_json(ForkName::Fulu, &spec.preset, "BeaconState", &state.unwrap()).unwrap();
        for validator in &mut state["validators"].as_array_mut().unwrap()[LEFT as usize..] {
            validator["exit_epoch"] = "0".into();
            validator["withdrawable_epoch"] = "0".into();
        }
        let open = |state: &Value| {
            let ssz = json_to_ssz(ForkName::Fulu, &spec.preset, "BeaconState", state).unwrap();
            Chain::from_state(spec.clone(), &ssz, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
        };
        let due = open(&state);
        let lookahead = [0, 1].map(|epoch| due.proposers(Epoch::new(epoch)).unwrap()).concat();
        state["proposer_lookahead"] = lookahead.iter().map(|index| index.to_string()).collect();
        let verifier = Verifier::seeded(VerifyConfig::default(), 1);
        Self { chain: open(&state), verifier, keys: Keyring::from_seed(scenario.seed), block }
    }

    fn version(&self, fork: ForkName) -> ForkVersion {
        self.chain.network().spec.forks.iter().find(|one| one.name == fork).unwrap().version
    }

    fn sign(&self, validator: u64, kind: DomainType, root: Root, version: ForkVersion) -> SignatureBytes {
        let domain = self.chain.network().domain_of(kind, version);
        self.keys.sign(ValidatorIndex::new(validator), signing_root(root, domain))
    }

    fn hear(&mut self, kind: MessageKind, bytes: Vec<u8>, slot: u64) -> Verified {
        let network = self.chain.network().clone();
        let now = Time(network.slot_start_ns(Slot::new(slot)) + 1_000_000);
        self.chain.tick(Slot::new(slot));
        let fork = network.spec.fork_name_at(Slot::new(slot).epoch(network.preset()));
        let origin = Origin { source: SourceKind::Gossip, peer: Some(peer()), fork: Some(fork), subscribed: None };
        let message = RawMessage::new(MessageParts { origin, kind, received_at: now, bytes, ticket: None }).unwrap();
        self.verifier.process(&mut self.chain, vec![message], now)
    }

    /// A slashing with two headers for one slot.
    fn proposer_slashing(&self, validator: u64, slot: u64, version: ForkVersion) -> Vec<u8> {
        let [signed_header_1, signed_header_2] = [1, 2].map(|body| {
            let message = BeaconBlockHeader {
                slot: Slot::new(slot),
                proposer_index: ValidatorIndex::new(validator),
                parent_root: Root::repeat_byte(7),
                state_root: Root::repeat_byte(8),
                body_root: Root::repeat_byte(body),
            };
            let signature = self.sign(validator, DomainType::BeaconProposer, message.root(), version);
            SignedBeaconBlockHeader { message, signature }
        });
        ProposerSlashing { signed_header_1, signed_header_2 }.to_ssz()
    }

    fn attester_slashing(&self, validator: u64, target: u64, version: ForkVersion) -> Vec<u8> {
        let [attestation_1, attestation_2] = [1, 2].map(|head| {
            let data = data(target, head);
            let signature = self.sign(validator, DomainType::BeaconAttester, data.root(), version);
            IndexedAttestation { attesting_indices: vec![ValidatorIndex::new(validator)], data, signature }
        });
        AttesterSlashing { attestation_1, attestation_2 }.to_ssz()
    }

    fn single(&self, validator: u64, target: u64, head: u8, version: ForkVersion) -> Vec<u8> {
        let data = data(target, head);
        let signature = self.sign(validator, DomainType::BeaconAttester, data.root(), version);
        let attester_index = ValidatorIndex::new(validator);
        SingleAttestation { committee_index: consensus::CommitteeIndex::new(0), attester_index, data, signature }.to_ssz()
    }

    /// A block on top of the genesis block, as SSZ.
    fn block(&self, slot: u64, proposer: u64) -> Vec<u8> {
        let (network, preset) = (self.chain.network(), self.chain.network().preset());
        let version = self.version(ForkName::Fulu);
        let mut epoch_root = Root::ZERO;
        epoch_root[..8].copy_from_slice(&(slot / PER_EPOCH).to_le_bytes());
        let mut block = self.block.clone();
        block["message"]["slot"] = json!(slot.to_string());
        block["message"]["proposer_index"] = json!(proposer.to_string());
        block["message"]["parent_root"] = json!(self.chain.head_at(Slot::new(0)).root);
        block["message"]["body"]["randao_reveal"] = json!(self.sign(proposer, DomainType::Randao, epoch_root, version));
        let ssz = |block: &Value| json_to_ssz(ForkName::Fulu, preset, "SignedBeaconBlock", block).unwrap();
        let root = SignedBlock::from_ssz(ForkName::Fulu, network.preset(), &ssz(&block)).unwrap().root;
        block["signature"] = json!(self.sign(proposer, DomainType::BeaconProposer, root, version));
        ssz(&block)
    }
}

fn peer() -> PeerBytes {
    PeerBytes::from(b"an honest peer".as_slice())
}

fn data(target: u64, head: u8) -> AttestationData {
    AttestationData {
        slot: Slot::new(target * PER_EPOCH),
        index: consensus::CommitteeIndex::new(0),
        beacon_block_root: Root::repeat_byte(head),
        source: Checkpoint::default(),
        target: Checkpoint { epoch: Epoch::new(target), root: Root::repeat_byte(9) },
    }
}

fn verdict(verified: &Verified) -> Verdict {
    verified.outcomes[0].3.verdict()
}

fn is_proven(verified: &Verified) -> bool {
    matches!(verified.outcomes[0].3, Outcome::Proven { .. })
}

fn punishable(stage: &Stage, verified: &Verified) -> Vec<Punishable> {
    let found = verified.slashings.iter().flat_map(|operation| {
        let validators: Vec<ValidatorIndex> = accused(operation, &stage.chain).iter().map(|one| one.validator).collect();
        prove_operation(operation, &validators, &stage.chain, &mut Proofs::default()).unwrap()
    });
    found.map(|judged| judged.finding.punishable.unwrap()).collect()
}

#[test]
fn operations_that_no_chain_can_include_are_not_passed_on() {
    let mut stage = Stage::new("GLOAS_FORK_EPOCH: 2\nHEZE_FORK_EPOCH: 3\n");
    let now = 4 * PER_EPOCH;
    let mut n_forwarded = 0;
    // The first operations are signed with a version two forks old. The others are signed by
    // validators that have left, with a valid version.
    let old = (0..10).map(|nth| stage.proposer_slashing(nth, 1 + nth, stage.version(ForkName::Fulu)));
    let left = (LEFT..LEFT + 10).map(|nth| stage.proposer_slashing(nth, 3 * PER_EPOCH, stage.version(ForkName::Heze)));
    let operations: Vec<Vec<u8>> = old.chain(left).collect();
    for bytes in operations {
        let verified = stage.hear(MessageKind::ProposerSlashing, bytes, now);
        assert!(is_proven(&verified));
        n_forwarded += u64::from(verdict(&verified) == Verdict::Accept);
    }
    assert_eq!(n_forwarded, 0, "of 20");
    for (validator, epoch, fork) in [(20, 2, ForkName::Gloas), (21, 3, ForkName::Heze)] {
        let bytes = stage.proposer_slashing(validator, epoch * PER_EPOCH, stage.version(fork));
        let verified = stage.hear(MessageKind::ProposerSlashing, bytes, now);
        assert_eq!(verdict(&verified), Verdict::Accept, "previous and current version");
    }
    assert_ne!(stage.verifier.peer_reputation(Some(&peer())), PeerReputation::Bad);
}

/// This is the chain's own rule: before a fork, `get_domain` of a state gives today's version for
/// any epoch after the fork.
#[test]
fn before_a_fork_both_versions_are_tried_and_nobody_is_blamed() {
    let mut stage = Stage::new("GLOAS_FORK_EPOCH: 4\n");
    let (today, scheduled) = (stage.version(ForkName::Fulu), stage.version(ForkName::Gloas));
    let now = PER_EPOCH;
    for (kind, nth) in [(MessageKind::AttesterSlashing, 0), (MessageKind::ProposerSlashing, 10)] {
        let operation = |stage: &Stage, validator, version| match kind {
            MessageKind::AttesterSlashing => stage.attester_slashing(validator, 6, version),
            _ => stage.proposer_slashing(validator, 6 * PER_EPOCH, version),
        };
        let bytes = operation(&stage, nth, today);
        let verified = stage.hear(kind, bytes, now);
        assert_eq!(verdict(&verified), Verdict::Accept, "{kind:?}: a chain takes it: {:?}", verified.outcomes);
        assert_eq!(punishable(&stage, &verified), [Punishable::Yes]);
        let bytes = operation(&stage, nth + 1, scheduled);
        let verified = stage.hear(kind, bytes, now);
        assert!(is_proven(&verified) && verdict(&verified) == Verdict::Ignore, "{kind:?}: no chain takes it yet");
        assert_eq!(punishable(&stage, &verified), [Punishable::Unknown]);
        let bytes = operation(&stage, nth + 2, [9, 9, 9, 9]);
        let verified = stage.hear(kind, bytes, now);
        assert!(!is_proven(&verified) && verdict(&verified) == Verdict::Ignore, "{kind:?}: with neither, and nobody's fault");
    }
    // The same holds for the validators' own votes.
    for head in [1, 2] {
        let bytes = stage.single(5, 6, head, today);
        let verified = stage.hear(MessageKind::Attestation { subnet: 0 }, bytes, now);
        assert!(is_proven(&verified), "{:?}", verified.outcomes);
        assert_eq!(verified.votes[0].signed_with, Some(ForkName::Fulu));
    }
    for validator in 20..40 {
        let bytes = stage.single(validator, 6, 1, [9, 9, 9, 9]);
        let verified = stage.hear(MessageKind::Attestation { subnet: 0 }, bytes, now);
        assert_eq!(verdict(&verified), Verdict::Ignore);
    }
    assert_ne!(stage.verifier.peer_reputation(Some(&peer())), PeerReputation::Bad);
    // After the fork only its own version counts.
    let bytes = stage.single(6, 6, 1, today);
    let verified = stage.hear(MessageKind::Attestation { subnet: 0 }, bytes, 6 * PER_EPOCH);
    assert_eq!(verdict(&verified), Verdict::Reject);
}

#[test]
fn blocks_out_of_turn_are_not_passed_on() {
    let mut stage = Stage::new("");
    let mut n_forwarded = 0;
    for proposer in LEFT..LEFT + 16 {
        let bytes = stage.block(1, proposer);
        let verified = stage.hear(MessageKind::Block, bytes, 1);
        assert!(is_proven(&verified), "{:?}", verified.outcomes);
        n_forwarded += u64::from(verdict(&verified) == Verdict::Accept);
    }
    assert_eq!(n_forwarded, 0, "of 16 for one slot");
    // Blocks of active validators that are not the slot's proposer are not forwarded either.
    let due = stage.chain.proposers(Epoch::new(0)).unwrap()[1].as_u64();
    let other = (0..LEFT).find(|validator| *validator != due).unwrap();
    let bytes = stage.block(1, other);
    let verified = stage.hear(MessageKind::Block, bytes, 1);
    assert_eq!(verdict(&verified), Verdict::Ignore);
    let bytes = stage.block(1, due);
    let verified = stage.hear(MessageKind::Block, bytes, 1);
    assert_eq!(verdict(&verified), Verdict::Accept, "{:?}", verified.outcomes);
}
