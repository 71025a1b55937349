//! A network for the judge and the detectors. It makes what the verifier would have proven, without
//! signatures.

#![allow(dead_code, reason = "each test file uses a part of it")]

use chain::{BlockFacts, Chain, PubkeyCache};
use consensus::{
    AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, CommitteeIndex, Epoch, ForkName, IndexedAttestation,
    RegistryChange, RegistryRequests, Root, SignatureBytes, SignedBeaconBlockHeader, SignedBlock, Slot, ValidatorIndex, sha256,
};
use detect::monitor::MAX_STEP_BACK;
use detect::watch::Labels;
use detect::{DetectConfig, DetectorOutput, Monitor, MonitorInput, Offender, PeerNews};
use evidence::{Evidence, EvidenceKind, Finding, Incident, Included, Kind, OffenceFacts, Punishable, Time};
use simulator::{Scenario, record};
use std::collections::BTreeMap;
use std::sync::Arc;
use test_support::capture::Capture;
use verify::{ProvenBlock, Signed, SourceKind, Verified, Vote};

/// The chain that a capture's config and first state describe.
pub fn chain_of(capture: &[u8]) -> Chain {
    chain_with_gloas(capture, None)
}

/// Like [`chain_of`], with Gloas scheduled for an epoch.
fn chain_with_gloas(capture: &[u8], gloas: Option<Epoch>) -> Chain {
    let Capture { mut spec, state, .. } = Capture::parse("simulated", capture);
    if let Some(epoch) = gloas {
        let mut fork = *spec.forks.iter().find(|fork| fork.name == ForkName::Fulu).expect("a Fulu network");
        (fork.name, fork.epoch, fork.version) = (ForkName::Gloas, epoch, [9, 0, 0, 0]);
        spec.forks.push(fork);
    }
    Chain::from_state(spec, &state, &mut PubkeyCache::in_memory(), &mut |_| ()).expect("a good state")
}

/// A network of honest validators at genesis.
pub fn quiet_chain(scenario: &Scenario) -> Chain {
    let (bytes, _) = record::capture_bytes(&Scenario { slots: 1, ..scenario.clone() }).expect("played");
    chain_of(&bytes)
}

/// The chain at genesis: minimal preset, slots of 12 s, all validators active.
pub fn genesis(n_validators: usize) -> Chain {
    quiet_chain(&genesis_scenario(n_validators))
}

fn genesis_scenario(n_validators: usize) -> Scenario {
    Scenario { slot_duration: std::time::Duration::from_secs(12), ..Scenario::quiet(n_validators) }
}

pub fn heard(at: u64) -> verify::FirstSeen {
    verify::FirstSeen { at: Time(at), source: SourceKind::Gossip, peer: None }
}

/// An empty block that arrived at `at`, in Unix nanoseconds. `word` distinguishes blocks of one
/// slot and proposer.
pub fn block(slot: Slot, proposer: ValidatorIndex, parent_root: Root, word: &[u8], graffiti: &[u8], at: u64) -> ProvenBlock {
    let state_root = Root::from(sha256(&[&slot.as_u64().to_le_bytes()[..], word].concat()));
    let header = BeaconBlockHeader { slot, proposer_index: proposer, parent_root, state_root, body_root: Root::ZERO };
    let mut padded = [0; 32];
    padded[..graffiti.len()].copy_from_slice(graffiti);
    ProvenBlock {
        block: SignedBlock {
            signed_header: SignedBeaconBlockHeader { message: header, signature: SignatureBytes::ZERO },
            root: header.root(),
            randao_reveal: SignatureBytes::repeat_byte(sha256(word)[0]),
            graffiti: padded,
            fee_recipient: None,
            attestations: Vec::new(),
            attester_slashings: Vec::new(),
            proposer_slashings: Vec::new(),
            voluntary_exits: vec![],
            registry_change: RegistryChange::None,
            registry_requests: RegistryRequests::default(),
        },
        fork: ForkName::Fulu,
        randao_proven: true,
        heard: heard(at),
        n_bytes: 1000,
        ssz: Vec::new(),
    }
}

pub fn extend(chain: &mut Chain, block: &ProvenBlock) {
    let header = &block.block.signed_header.message;
    chain.extend(&BlockFacts {
        root: block.block.root,
        slot: header.slot,
        parent_root: header.parent_root,
        proposer_index: header.proposer_index,
        randao_reveal: block.block.randao_reveal,
    });
}

/// A double vote of `validators` in `slot`, the `nth` of its kind, complete at `at`, in Unix
/// nanoseconds.
pub fn offenders(
    chain: &Chain,
    validators: &[ValidatorIndex],
    slot: Slot,
    nth: u8,
    at: u64,
    punishable: Punishable,
) -> Vec<Offender> {
    let network = chain.network();
    let epoch = slot.epoch(network.preset());
    let vote = |head: u8| IndexedAttestation {
        attesting_indices: validators.to_vec(),
        data: AttestationData {
            slot,
            beacon_block_root: Root::from(sha256(&[nth, head])),
            target: Checkpoint { epoch, root: Root::ZERO },
            ..AttestationData::default()
        },
        signature: SignatureBytes::ZERO,
    };
    offenders_of(chain, AttesterSlashing { attestation_1: vote(1), attestation_2: vote(2) }, at, punishable)
}

/// Like [`offenders`], with two votes that differ only in what they say about the payload.
pub fn payload_offenders(chain: &Chain, validators: &[ValidatorIndex], slot: Slot, at: u64) -> Vec<Offender> {
    let epoch = slot.epoch(chain.network().preset());
    let vote = |index: u64| IndexedAttestation {
        attesting_indices: validators.to_vec(),
        data: AttestationData {
            slot,
            index: CommitteeIndex::new(index),
            target: Checkpoint { epoch, root: Root::ZERO },
            ..AttestationData::default()
        },
        signature: SignatureBytes::ZERO,
    };
    offenders_of(chain, AttesterSlashing { attestation_1: vote(0), attestation_2: vote(1) }, at, Punishable::Yes)
}

fn offenders_of(chain: &Chain, slashing: AttesterSlashing, at: u64, punishable: Punishable) -> Vec<Offender> {
    let network = chain.network();
    let AttestationData { slot, target, .. } = slashing.attestation_1.data;
    let epoch = target.epoch;
    let json = serde_json::to_value(&slashing).unwrap();
    let evidence = Arc::new(Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, slashing.to_ssz(), json));
    let offender = |validator: &ValidatorIndex| {
        let facts = OffenceFacts {
            genesis_validators_root: network.genesis_validators_root,
            validator: *validator,
            roots: [slashing.attestation_1.data.root(), slashing.attestation_2.data.root()],
            slot,
            epoch,
            seen: [Time::from_unix_ns(at), Time::from_unix_ns(at + 1)],
            recorded_at: Time::from_unix_ns(at + 2),
            punishable,
            ..OffenceFacts::sample()
        };
        Offender { finding: Finding::slashable(facts, &evidence), evidence: evidence.clone() }
    };
    slashing.attestation_1.attesting_indices.iter().map(offender).collect()
}

/// What is proven during one slot.
#[derive(Default)]
pub struct SlotInput {
    pub votes: Vec<Vote>,
    pub blocks: Vec<ProvenBlock>,
    pub offenders: Vec<Offender>,
    pub included: Vec<(Root, Included)>,
    pub reopened: Vec<Finding>,
    pub peers: Vec<PeerNews>,
}

/// A monitor and everything that it has reported.
pub struct MonitorSetup {
    pub chain: Chain,
    pub monitor: Monitor,
    pub labels: Arc<Labels>,
    pub anomalies: Vec<Finding>,
    pub announcements: Vec<Finding>,
    /// The last state of each incident, by id.
    pub incidents: BTreeMap<Root, Incident>,
    pub notes: BTreeMap<&'static str, Vec<u8>>,
    pub refused: u64,
    until: u64,
}

impl MonitorSetup {
    pub fn new(n_validators: usize, config: &DetectConfig) -> Self {
        let chain = genesis(n_validators);
        let monitor = Monitor::new(config, chain.network());
        Self {
            chain,
            monitor,
            labels: Arc::default(),
            anomalies: Vec::new(),
            announcements: Vec::new(),
            incidents: BTreeMap::new(),
            notes: BTreeMap::new(),
            refused: 0,
            until: 0,
        }
    }

    /// Like [`Self::new`], with Gloas from this epoch on.
    pub fn with_gloas(n_validators: usize, config: &DetectConfig, gloas: Epoch) -> Self {
        let (bytes, _) = record::capture_bytes(&Scenario { slots: 1, ..genesis_scenario(n_validators) }).expect("played");
        let chain = chain_with_gloas(&bytes, Some(gloas));
        Self { monitor: Monitor::new(config, chain.network()), chain, ..Self::new(n_validators, config) }
    }

    pub fn per_epoch(&self) -> u64 {
        self.chain.network().preset().slots_per_epoch
    }

    /// The time `ms` milliseconds after the start of a slot, in Unix nanoseconds.
    pub fn at(&self, slot: u64, ms: u64) -> u64 {
        self.chain.network().slot_start_ns(Slot::new(slot)) + ms * 1_000_000
    }

    /// An ordinary vote of `slot` for `head` with these checkpoints, proven from single votes that
    /// arrived in time.
    pub fn vote(&self, slot: u64, head: Root, source: Checkpoint, target: Checkpoint, members: &[u64]) -> Vote {
        let data =
            AttestationData { slot: Slot::new(slot), beacon_block_root: head, source, target, ..AttestationData::default() };
        let at = self.at(slot, 4_500);
        let mut indices: Vec<ValidatorIndex> = members.iter().copied().map(ValidatorIndex::new).collect();
        indices.sort();
        Vote {
            data,
            data_root: data.root(),
            arrivals: vec![heard(at).arrival(); indices.len()],
            indices,
            signature: SignatureBytes::ZERO,
            shuffling: None,
            signed_with: None,
            heard: heard(at),
        }
    }

    /// Like [`Self::vote`], with the target of its epoch and the source of the epoch before, both
    /// at `head`.
    pub fn plain_vote(&self, slot: u64, head: Root, members: &[u64]) -> Vote {
        let epoch = Epoch::new(slot / self.per_epoch());
        let at = |epoch| Checkpoint { epoch, root: head };
        self.vote(slot, head, at(epoch.saturating_sub(1)), at(epoch), members)
    }

    /// Plays everything of a slot in one batch, at its end.
    pub fn play(&mut self, slot: u64, said: SlotInput) {
        let until = self.at(slot + 1, 0) - 1;
        self.play_until(slot, said, until);
    }

    pub fn play_until(&mut self, slot: u64, said: SlotInput, until: u64) {
        self.chain.tick(Slot::new(slot));
        if self.chain.network().slot_at(until).saturating_add(MAX_STEP_BACK) < self.chain.network().slot_at(self.until) {
            self.monitor.go_back(Slot::new(slot));
        }
        self.until = until;
        let over = self.monitor.turn_to(Time(until), &self.chain, &self.labels);
        self.note(over);
        for block in &said.blocks {
            extend(&mut self.chain, block);
        }
        let votes = said.votes.into_iter().map(Signed::for_tests).collect();
        let verified = Verified { votes, blocks: said.blocks, ..Verified::default() };
        let heard = self.monitor.observe(&MonitorInput {
            verified: &verified,
            offenders: &said.offenders,
            included: &said.included,
            reopened: &said.reopened,
            peers: &said.peers,
            chain: &self.chain,
            labels: &self.labels,
            received_until: Time(until),
        });
        self.note(heard);
    }

    pub fn note(&mut self, heard: DetectorOutput) {
        self.anomalies.extend(heard.anomalies);
        self.announcements.extend(heard.announcements);
        self.notes.extend(heard.notes);
        self.refused += heard.refused.values().sum::<u64>();
        self.incidents.extend(heard.incidents.into_iter().map(|incident| (incident.id, incident)));
    }

    /// Incidents of a kind, by first slot.
    pub fn of(&self, kind: &Kind) -> Vec<&Incident> {
        let mut found: Vec<&Incident> = self.incidents.values().filter(|incident| incident.kind == *kind).collect();
        found.sort_by_key(|incident| incident.first_slot);
        found
    }
}
