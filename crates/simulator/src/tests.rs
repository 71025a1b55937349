//! The simulator's own check: its messages are read by the watcher's decoders and verified with a
//! few lines of blst.

use crate::ground_truth::{Claim, MessageHistory};
use crate::message::{Nature, Sent};
use crate::scenario::{Act, Deed, Noise, STAKED_KEYS, Scenario, Who};
use crate::world::World;
use crate::{keys, record};
use consensus::state::{StateView, fork_of_state};
use consensus::{
    Attestation, AttesterSlashing, DomainType, Epoch, ForkName, IndexedAttestation, MessageKind, Network, Offence, Preset,
    PresetName, ProposerSlashing, PubkeyBytes, Root, Shuffling, SidecarKind, SignedAggregate, SignedBeaconBlockHeader,
    SignedBlock, SingleAttestation, Slot, Spec, ValidatorIndex, compute_seed, is_slashable_attestation_data, sha256,
    sidecar_header, signing_root,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const FORKS: [ForkName; 7] = [
    ForkName::Phase0,
    ForkName::Altair,
    ForkName::Bellatrix,
    ForkName::Capella,
    ForkName::Deneb,
    ForkName::Electra,
    ForkName::Fulu,
];

#[test]
fn a_chain_starts_from_the_state() {
    let world = World::new(Scenario::quiet(64), 1_700_000_000).unwrap();
    let mut keys = chain::PubkeyCache::in_memory();
    let chain = chain::Chain::from_state(world.network.spec.clone(), &world.genesis.state_ssz, &mut keys, &mut |_| {}).unwrap();
    assert_eq!(**chain.network(), world.network);
    assert_eq!(chain.registry().len(), 64);
    assert_eq!(chain.head().root, world.genesis.header.root());
}

/// A listener that dials every node receives every offence, and what it receives is exactly what is
/// in the history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sockets_a_listener_hears_every_crime() {
    use sources::gossip::{GossipConfig, GossipService, StatusView};
    use sources::source::{ReceivedAs, SourceEvent};
    let scenario = Scenario {
        slots: 10,
        slot_duration: Duration::from_millis(250),
        genesis_delay: Duration::ZERO,
        // Enough for a machine that is busy with other work.
        patience: Duration::from_secs(300),
        ..Scenario::staked(64, 16)
    };
    let network = crate::SimNetwork::start_at(scenario.clone(), base::Time::now()).await.unwrap();
    let world = World::new(scenario, network.genesis_time()).unwrap();
    assert_eq!(world.genesis.state_ssz, network.state_ssz());
    let config =
        GossipConfig { peers: network.peers().iter().map(|peer| peer.parse().unwrap()).collect(), ..GossipConfig::default() };
    let (_status, seen) = tokio::sync::watch::channel(StatusView::default());
    let metrics = sources::metrics::SourceMetrics::unregistered();
    let mut watcher = GossipService::start(config, Arc::new(world.network.clone()), seen, metrics).unwrap();
    let truth = network.run().await.unwrap();
    assert!(!truth.crimes.is_empty() && truth.pairs().iter().all(|(kind, _)| *kind == Offence::DoubleVote));

    let mut outsider = Outsider::new(&world);
    let mut history = MessageHistory::new(world.genesis.validators_root, 8);
    let mut heard = BTreeSet::new();
    while heard != truth.pairs() {
        let event = tokio::time::timeout(Duration::from_secs(60), watcher.events.recv()).await.expect("everything is on its way");
        let Some(SourceEvent::Message(message)) = event else { continue };
        let ReceivedAs::Gossip { topic, .. } = message.received_as else { continue };
        let sent = Sent { at_ns: 0, node: 0, topic, ssz: message.raw.bytes.clone(), nature: Nature::Signed, claims: Vec::new() };
        let claims = outsider.read(&sent).unwrap_or_default();
        heard.extend(history.record(&claims, 0).into_iter().map(|crime| (crime.kind, crime.validator)));
    }
    watcher.shutdown().await;
    assert_eq!(network.stop().await, truth);
}

#[tokio::test]
async fn a_network_without_listeners_stops_when_told() {
    let network = crate::SimNetwork::start(Scenario::quiet(16)).await.unwrap();
    assert_eq!(network.peers().len(), 3);
    assert!(network.peers().iter().all(|peer| peer.starts_with("/ip4/127.0.0.1/tcp/") && peer.contains("/p2p/16Uiu2HA")));
    let truth = network.stop().await;
    assert_eq!((truth.crimes.len(), truth.messages), (0, 0));
}

#[test]
fn genesis_states_are_read_back() {
    for preset in [PresetName::Minimal, PresetName::Mainnet] {
        for fork in FORKS {
            let scenario = Scenario { fork, preset, ..Scenario::quiet(100) };
            let world = World::new(scenario.clone(), 1_700_000_000).unwrap();
            let spec = Spec::from_yaml(&crate::genesis::config_yaml(&scenario)).unwrap();
            let genesis = &world.genesis;
            assert_eq!(fork_of_state(&spec, &genesis.state_ssz).unwrap(), fork);
            let state = StateView::parse(fork, &spec.preset, &genesis.state_ssz).unwrap();
            assert_eq!(state.genesis_time(), 1_700_000_000);
            assert_eq!(state.genesis_validators_root(), genesis.validators_root);
            assert_eq!(state.root(), genesis.state_root, "{fork} {preset:?}");
            assert_eq!(state.latest_block_root(), genesis.header.root());
            assert_eq!(state.randao_mix(Epoch::new(0)), genesis.randao_mix);
            assert_eq!(state.n_validators(), 100);
            for (validator, pubkey) in state.validators().zip(&genesis.pubkeys) {
                assert_eq!(validator.pubkey, *pubkey);
                assert!(validator.is_active(Epoch::new(0)) && validator.is_active(Epoch::new(1_000)));
            }
        }
    }
}

/// Reads messages as an outside observer does: decodes them, finds the signers and checks the
/// signature.
struct Outsider {
    network: Network,
    pubkeys: Vec<PubkeyBytes>,
    genesis_mix: Root,
    mixes: Vec<Root>,
    blocks: BTreeMap<Root, Slot>,
    shufflings: BTreeMap<Epoch, Arc<Shuffling>>,
}

impl Outsider {
    fn new(world: &World) -> Self {
        Self {
            network: world.network.clone(),
            pubkeys: world.genesis.pubkeys.clone(),
            genesis_mix: world.genesis.randao_mix,
            mixes: vec![world.genesis.randao_mix],
            blocks: BTreeMap::from([(world.genesis.header.root(), Slot::new(0))]),
            shufflings: BTreeMap::new(),
        }
    }

    fn shuffling(&mut self, epoch: Epoch) -> Arc<Shuffling> {
        let mix = epoch.checked_sub(2).map_or(self.genesis_mix, |e| self.mixes[e.as_u64() as usize]);
        let active: Vec<u32> = (0..self.pubkeys.len() as u32).collect();
        let preset = self.network.preset().clone();
        self.shufflings
            .entry(epoch)
            .or_insert_with(|| {
                Arc::new(Shuffling::new(
                    epoch,
                    Root::ZERO,
                    compute_seed(DomainType::BeaconAttester, epoch, mix),
                    Arc::new(active),
                    &preset,
                ))
            })
            .clone()
    }

    fn signed_by(
        &self,
        signers: &[ValidatorIndex],
        root: Root,
        kind: DomainType,
        epoch: Epoch,
        by: &consensus::SignatureBytes,
    ) -> bool {
        let keys: Option<Vec<PubkeyBytes>> =
            signers.iter().map(|signer| self.pubkeys.get(usize::try_from(signer.as_u64()).ok()?).copied()).collect();
        keys.is_some_and(|keys| keys::verifies(&keys, signing_root(root, self.network.domain(kind, epoch)), by))
    }

    fn vote(&mut self, attestation: &Attestation) -> Option<Claim> {
        let data = attestation.data;
        let shuffling = self.shuffling(data.target.epoch);
        let mut signers = Vec::new();
        let mut bit = 0;
        for committee in attestation.committees() {
            for member in shuffling.committee(data.slot, committee)? {
                if attestation.aggregation_bits.get(bit).ok()? {
                    signers.push(ValidatorIndex::new(u64::from(*member)));
                }
                bit += 1;
            }
        }
        assert_eq!(bit, attestation.aggregation_bits.len(), "bits of all committees");
        signers.sort();
        self.signed_by(&signers, data.root(), DomainType::BeaconAttester, data.target.epoch, &attestation.signature)
            .then_some(Claim::Vote { data, signers })
    }

    fn indexed(&self, vote: &IndexedAttestation) -> Option<Claim> {
        let (data, signers) = (vote.data, vote.attesting_indices.clone());
        self.signed_by(&signers, data.root(), DomainType::BeaconAttester, data.target.epoch, &vote.signature)
            .then_some(Claim::Vote { data, signers })
    }

    fn header(&self, block: &SignedBeaconBlockHeader) -> Option<Claim> {
        let header = block.message;
        let epoch = header.slot.epoch(self.network.preset());
        self.signed_by(&[header.proposer_index], header.root(), DomainType::BeaconProposer, epoch, &block.signature)
            .then_some(Claim::Proposal(header))
    }

    /// The claims of a message, if it is well formed and signed by the validators that it names.
    fn read(&mut self, message: &Sent) -> Option<Vec<Claim>> {
        let fork = self.network.fork_of_digest(message.topic.digest).expect("a digest of this network");
        let preset = &self.network.preset().clone();
        let bytes = &message.ssz;
        Some(match message.topic.kind {
            MessageKind::Block => {
                let block = SignedBlock::from_ssz(fork, preset, bytes).ok()?;
                let mut claims = vec![self.header(&block.signed_header)?];
                let header = block.signed_header.message;
                assert_eq!(block.root, header.root());
                assert!(self.blocks.contains_key(&header.parent_root), "parents come first");
                let epoch = header.slot.epoch(preset);
                let mut chunk = [0; 32];
                chunk[..8].copy_from_slice(&epoch.as_u64().to_le_bytes());
                let proposer = [header.proposer_index];
                assert!(self.signed_by(&proposer, Root::from(chunk), DomainType::Randao, epoch, &block.randao_reveal));
                for attestation in &block.attestations {
                    claims.push(self.vote(attestation).expect("honest proposers pack only good votes"));
                }
                for slashing in &block.attester_slashings {
                    for side in [&slashing.attestation_1, &slashing.attestation_2] {
                        claims.push(self.indexed(side).expect("honest proposers include only good slashings"));
                    }
                    assert!(is_slashable_attestation_data(&slashing.attestation_1.data, &slashing.attestation_2.data));
                }
                for slashing in &block.proposer_slashings {
                    for side in [&slashing.signed_header_1, &slashing.signed_header_2] {
                        claims.push(self.header(side).expect("honest proposers include only good slashings"));
                    }
                }
                let first_of_slot = !self.blocks.values().any(|slot| *slot == header.slot);
                self.blocks.insert(block.root, header.slot);
                if first_of_slot {
                    while self.mixes.len() as u64 <= epoch.as_u64() {
                        self.mixes.push(*self.mixes.last().unwrap());
                    }
                    let mix = self.mixes.last_mut().unwrap();
                    *mix ^= Root::from(sha256(block.randao_reveal.as_slice()));
                }
                claims
            }
            MessageKind::Attestation { .. } if fork.has_single_attestations() => {
                let vote = SingleAttestation::from_ssz(bytes).ok()?;
                let signers = vec![vote.attester_index];
                let (data, by) = (vote.data, &vote.signature);
                if !self.signed_by(&signers, data.root(), DomainType::BeaconAttester, data.target.epoch, by) {
                    return None;
                }
                vec![Claim::Vote { data, signers }]
            }
            MessageKind::Attestation { .. } => vec![self.vote(&Attestation::from_ssz(fork, preset, bytes).ok()?)?],
            MessageKind::Aggregate => {
                let aggregate = SignedAggregate::from_ssz(fork, preset, bytes).ok()?;
                let claim = self.vote(&aggregate.aggregate)?;
                let epoch = aggregate.aggregate.data.slot.epoch(preset);
                let by = [aggregate.aggregator_index];
                let slot = aggregate.aggregate.data.slot;
                let mut chunk = [0; 32];
                chunk[..8].copy_from_slice(&slot.as_u64().to_le_bytes());
                let proof = &aggregate.selection_proof;
                if self.signed_by(&by, Root::from(chunk), DomainType::SelectionProof, epoch, proof) {
                    let signature = &aggregate.signature;
                    assert!(self.signed_by(&by, aggregate.message_root, DomainType::AggregateAndProof, epoch, signature));
                }
                vec![claim]
            }
            MessageKind::AttesterSlashing => {
                let slashing = AttesterSlashing::from_ssz(fork, preset, bytes).ok()?;
                vec![self.indexed(&slashing.attestation_1)?, self.indexed(&slashing.attestation_2)?]
            }
            MessageKind::ProposerSlashing => {
                let slashing = ProposerSlashing::from_ssz(bytes).ok()?;
                vec![self.header(&slashing.signed_header_1)?, self.header(&slashing.signed_header_2)?]
            }
            MessageKind::DataColumnSidecar { .. } => {
                vec![self.header(&sidecar_header(fork, preset, SidecarKind::DataColumn, bytes).ok()?)?]
            }
            MessageKind::AttestationByBits
            | MessageKind::Header
            | MessageKind::BlobSidecar { .. }
            | MessageKind::PayloadAttestation
            | MessageKind::PayloadBid
            | MessageKind::InclusionList => {
                return None;
            }
        })
    }
}

fn play_all(scenario: &Scenario) -> (World, Vec<Sent>) {
    let mut world = World::new(scenario.clone(), record::GENESIS_TIME).unwrap();
    let messages = (1..=scenario.slots).flat_map(|slot| world.play(Slot::new(slot))).collect();
    (world, messages)
}

/// Checks that an outside observer reads the claims of every signed message, and none from all
/// other messages.
fn check_messages(scenario: &Scenario) {
    let (world, messages) = play_all(scenario);
    let mut outsider = Outsider::new(&world);
    let mut topics = BTreeSet::new();
    for message in &messages {
        let read = outsider.read(message);
        let about = format!("{} {:?} {:?}", scenario.fork, message.topic.kind, message.nature);
        match message.nature {
            Nature::Signed => assert_eq!(read.as_ref(), Some(&message.claims), "{about}"),
            Nature::Forged | Nature::Junk => assert_eq!((read, message.claims.len()), (None, 0), "{about}"),
        }
        topics.insert(message.topic.kind.topic_name().unwrap().trim_end_matches(|c: char| c.is_ascii_digit()).to_owned());
    }
    assert!(topics.len() >= 5, "blocks, votes, aggregates and both slashings: {topics:?}");
    assert!(messages.is_sorted_by_key(|message| message.at_ns));
}

#[test]
fn messages_of_every_fork_verify() {
    for fork in FORKS {
        let scenario = Scenario::every_crime(fork, PresetName::Minimal, 64);
        // The late offences need seven epochs, and do not differ at the forks in between.
        let slots = if matches!(fork, ForkName::Phase0 | ForkName::Fulu) { scenario.slots } else { 20 };
        check_messages(&Scenario { slots, ..scenario });
    }
}

#[test]
fn messages_with_the_mainnet_preset_verify() {
    let scenario = Scenario::every_crime(ForkName::Fulu, PresetName::Mainnet, 128);
    check_messages(&Scenario { slots: 72, ..scenario });
}

#[test]
fn a_fork_during_the_run_changes_shapes_and_topics() {
    let scenario = Scenario {
        next_fork: Some((ForkName::Electra, Epoch::new(2))),
        ..Scenario::every_crime(ForkName::Deneb, PresetName::Minimal, 64)
    };
    check_messages(&scenario);
    let (_, messages) = play_all(&scenario);
    let digests: BTreeSet<_> = messages.iter().map(|message| message.topic.digest).collect();
    assert_eq!(digests.len(), 2);
}

#[test]
fn every_deed_is_done_and_found_by_comparing_all_pairs() {
    for fork in [ForkName::Deneb, ForkName::Electra, ForkName::Fulu] {
        let scenario = Scenario::every_crime(fork, PresetName::Minimal, 64);
        let (_, truth) = record::capture_bytes(&scenario).unwrap();
        let count = |kind| truth.crimes.iter().filter(|crime| crime.kind == kind).count();
        assert_eq!(count(Offence::DoubleVote), 10, "{fork}");
        assert_eq!(count(Offence::SurroundVote), 4, "{fork}");
        assert_eq!(count(Offence::DoubleProposal), if fork == ForkName::Fulu { 3 } else { 2 }, "{fork}");
        assert_eq!(truth.pairs().len(), truth.crimes.len(), "one pair of messages each");
        assert!(truth.crimes.iter().all(|crime| crime.first_message_sent_at <= crime.second_message_sent_at));
        assert!(truth.forged >= 2 * scenario.slots - 2 && truth.junk == scenario.slots);
    }
}

#[test]
fn seventy_five_keys_sign_twice_one_after_the_other() {
    let scenario = Scenario::staked(256, STAKED_KEYS);
    let (_, truth) = record::capture_bytes(&scenario).unwrap();
    let expected: BTreeSet<_> = scenario.operator.iter().map(|key| (Offence::DoubleVote, *key)).collect();
    assert_eq!(expected.len(), 75);
    assert_eq!(truth.pairs(), expected);
    assert_eq!(truth.crimes.len(), 75);
    let slots: Vec<u64> = truth.crimes.iter().map(|crime| crime.slot.as_u64()).collect();
    assert!(slots.is_sorted() && *slots.first().unwrap() >= 4 && *slots.last().unwrap() <= 15, "{slots:?}");
    let distinct: BTreeSet<_> = slots.into_iter().collect();
    assert!(distinct.len() >= 8, "spread over the slots: {distinct:?}");
}

#[test]
fn honest_networks_commit_nothing() {
    let noise = Noise { forged: 3, junk: 2, duplicates: 4, altered: 4 };
    for fork in [ForkName::Deneb, ForkName::Fulu] {
        let scenario = Scenario { fork, noise, slots: 40, missed_blocks_percent: 20, ..Scenario::quiet(64) };
        let (_, truth) = record::capture_bytes(&scenario).unwrap();
        assert_eq!(truth.crimes, []);
        assert!(truth.forged > 0 && truth.junk > 0 && truth.messages > 40 * 8);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let scenario = Scenario { slots: 12, ..Scenario::staked(128, 20) };
    let (bytes, truth) = record::capture_bytes(&scenario).unwrap();
    assert_eq!(record::capture_bytes(&scenario).unwrap(), (bytes.clone(), truth));
    let other = Scenario { seed: scenario.seed + 1, ..scenario };
    assert_ne!(record::capture_bytes(&other).unwrap().0, bytes);
}

#[test]
fn captures_are_read_by_the_watchers_reader() {
    use sources::capture::{CaptureFile, Entry};
    let scenario = Scenario { slots: 10, ..Scenario::staked(128, 20) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("staked.e2s");
    let truth = record::write_capture(&scenario, &path).unwrap();
    let refused = record::write_capture(&scenario, &path).expect_err("the file exists").to_string();
    assert!(refused.contains("staked.e2s"), "{refused}");
    let (_, messages) = play_all(&scenario);
    let mut expected = messages.iter();
    let mut n_gossip = 0;
    for located in CaptureFile::open(&path).unwrap().entries().unwrap() {
        if let Entry::Gossip(gossip) = located.unwrap().entry {
            let message = expected.next().unwrap();
            assert_eq!(gossip.topic, message.topic.to_string());
            assert_eq!(gossip.received_at.0, record::GENESIS_TIME * 1_000_000_000 + message.at_ns);
            assert_eq!(snap::raw::Decoder::new().decompress_vec(&gossip.payload).unwrap(), message.ssz);
            n_gossip += 1;
        }
    }
    assert_eq!((n_gossip, expected.next()), (truth.messages, None));
}

/// Checks that blocks include slashings of conflicting messages, one attester slashing at a time
/// from Electra on, and that a later state has them.
#[test]
fn slashings_are_included_and_a_later_state_knows() {
    for fork in [ForkName::Phase0, ForkName::Deneb, ForkName::Fulu] {
        let acts = vec![
            Act { deed: Deed::DoubleVote, who: Who::OnDuty(5), from: Slot::new(4) },
            Act { deed: Deed::DoubleProposal, who: Who::OnDuty(2), from: Slot::new(4) },
        ];
        let scenario = Scenario { fork, acts, slots: 24, slashings_after: Some(3), ..Scenario::quiet(64) };
        let (world, messages) = play_all(&scenario);
        let mut included = Vec::new();
        for message in messages.iter().filter(|message| message.topic.kind == MessageKind::Block) {
            let block = SignedBlock::from_ssz(fork, &world.preset, &message.ssz).unwrap();
            let limit = if fork.has_single_attestations() { 1 } else { 2 };
            assert!(block.attester_slashings.len() <= limit);
            let slot = block.signed_header.message.slot;
            assert!(block.attester_slashings.is_empty() || slot >= Slot::new(7), "{fork}: not before three slots later");
            let attesters = block.attester_slashings.iter().map(|slashing| slashing.attestation_1.attesting_indices[0]);
            included.extend(attesters);
            included.extend(block.proposer_slashings.iter().map(|slashing| slashing.signed_header_1.message.proposer_index));
            let proposer = block.signed_header.message.proposer_index;
            assert!(world.slashed_in(proposer).is_none_or(|at| slot <= at), "{fork}: the slashed make no blocks");
        }
        included.sort();
        assert_eq!(included.len(), 7, "{fork}: each once");
        let ssz = world.state_ssz(Slot::new(25));
        let spec = &world.network.spec;
        assert_eq!(fork_of_state(spec, &ssz).unwrap(), fork);
        let state = StateView::parse(fork, &spec.preset, &ssz).unwrap();
        assert_eq!(state.latest_block_root(), world.head());
        assert_eq!(state.block_root_at(Slot::new(0)), Some(world.genesis.header.root()));
        let slashed: Vec<_> =
            state.validators().zip(0u64..).filter(|(v, _)| v.slashed).map(|(_, i)| ValidatorIndex::new(i)).collect();
        assert_eq!(slashed, included);
        let first = state.validator(slashed[0]).unwrap();
        assert!(first.exit_epoch > Epoch::new(3) && first.withdrawable_epoch > first.exit_epoch);
        // A watcher that reads this state continues with the same committees.
        let mut keys = chain::PubkeyCache::in_memory();
        let chain = chain::Chain::from_state(spec.clone(), &ssz, &mut keys, &mut |_| {}).unwrap();
        assert_eq!(chain.head().root, world.head());
    }
}

#[test]
fn named_offenders_wait_for_their_opportunity() {
    let scenario = Scenario {
        slots: 60,
        acts: vec![
            Act { deed: Deed::Surround, who: Who::Validators(vec![ValidatorIndex::new(3)]), from: Slot::new(1) },
            Act { deed: Deed::DoubleVote, who: Who::Validators(vec![ValidatorIndex::new(4)]), from: Slot::new(1) },
        ],
        ..Scenario::quiet(64)
    };
    let (_, truth) = record::capture_bytes(&scenario).unwrap();
    let found: Vec<_> = truth.crimes.iter().map(|crime| (crime.kind, crime.validator.as_u64())).collect();
    assert_eq!(found, [(Offence::DoubleVote, 4), (Offence::SurroundVote, 3)]);
    let epoch = truth.crimes[1].slot.epoch(&Preset::MINIMAL);
    assert_eq!(epoch, Epoch::new(4), "the first epoch whose vote before had a source to surround");
}
