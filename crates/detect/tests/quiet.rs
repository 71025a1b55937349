//! Ordinary days: missed and late blocks, reorganisations and an occasional slashing are no
//! incident, for ten thousand epochs.
//!
//! The detectors are given what the verifier would have proven, without signatures: five million
//! votes with real signatures would take hours of CPU time. A shorter run with real ones is
//! `ordinary_days` of the program's own tests.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use chain::{Chain, Contexts};
use consensus::{AttestationData, Checkpoint, CommitteeIndex, Epoch, Root, SignatureBytes, Slot, ValidatorIndex, sha256};
use detect::{DetectConfig, DetectorOutput, Monitor, MonitorInput};
use evidence::{Included, Punishable};
use std::collections::BTreeMap;
use std::sync::Arc;
use verify::{Signed, Time, Verified, Vote};

const N_VALIDATORS: usize = 512;
/// One validator is slashed in this number of epochs.
const SLASHED_EVERY: u64 = 800;
const CLIENTS: [&str; 4] = ["Lighthouse/v8", "prysm-v7", "teku/v25", "Nimbus/v25"];

/// A network of minimal preset on ordinary days.
struct Days {
    chain: Chain,
    monitor: Monitor,
    seed: u64,
    /// The last blocks, at most 64, with their slots.
    blocks: Vec<(Slot, Root)>,
    /// The target of each of the last epochs: the head in its first slot.
    boundaries: BTreeMap<Epoch, Root>,
    waiting: Vec<(Slot, Root)>,
    said: Vec<(Slot, String)>,
    votes: u64,
}

impl Days {
    fn new(seed: u64) -> Self {
        let chain = common::genesis(N_VALIDATORS);
        let head = chain.head();
        let monitor = Monitor::new(&DetectConfig::default(), chain.network());
        Self {
            monitor,
            seed,
            blocks: vec![(head.slot, head.root)],
            boundaries: BTreeMap::from([(Epoch::new(0), head.root)]),
            waiting: Vec::new(),
            said: Vec::new(),
            votes: 0,
            chain,
        }
    }

    fn lot(&self, question: &str, about: &[u64], below: u64) -> u64 {
        let mut preimage = self.seed.to_le_bytes().to_vec();
        preimage.extend_from_slice(question.as_bytes());
        about.iter().for_each(|number| preimage.extend_from_slice(&number.to_le_bytes()));
        u64::from_le_bytes(sha256(&preimage)[..8].try_into().unwrap()) % below
    }

    fn play(&mut self, slot: Slot) {
        let network = self.chain.network().clone();
        let preset = network.preset();
        let epoch = slot.epoch(preset);
        let start = network.slot_start_ns(slot);
        let n = slot.as_u64();
        self.chain.tick(slot);
        let mut verified = Verified::default();
        // Of a hundred blocks two are missing and four late. One of the late ones is left out by
        // the next block.
        let luck = self.lot("block", &[n], 100);
        let (is_missed, is_late, is_left_out) = (luck < 2, (2..6).contains(&luck), luck == 5);
        let seen_head = self.blocks.last().copied().unwrap();
        if !is_missed {
            let proposer = ValidatorIndex::new(self.lot("proposer", &[n], N_VALIDATORS as u64));
            let late_by = if is_late { 6_000_000_000 } else { 1_000_000_000 + self.lot("block time", &[n], 1_000_000_000) };
            let client = CLIENTS[proposer.as_u64() as usize % CLIENTS.len()];
            let word = self.lot("reveal", &[n], u64::MAX).to_le_bytes();
            let block = common::block(slot, proposer, seen_head.1, &word, client.as_bytes(), start + late_by);
            common::extend(&mut self.chain, &block);
            let root = block.block.root;
            verified.blocks.push(block);
            if !is_left_out {
                self.blocks.push((slot, root));
            }
        }
        if self.blocks.len() > 64 {
            self.blocks.remove(0);
        }
        // A late block gets no votes in its own slot.
        let head = if is_late { seen_head } else { *self.blocks.last().unwrap() };
        let boundary = *self.boundaries.entry(epoch).or_insert(head.1);
        let source = epoch.saturating_sub(1);
        let source_root = self.boundaries.get(&source).copied().unwrap_or(boundary);
        let data = AttestationData {
            slot,
            index: CommitteeIndex::new(0),
            beacon_block_root: head.1,
            source: Checkpoint { epoch: source, root: source_root },
            target: Checkpoint { epoch, root: boundary },
        };
        let Contexts::Certain(shufflings) = self.chain.contexts(&data) else { panic!("slot {slot}: no committees") };
        let shuffling = shufflings[0].clone();
        for committee in 0..shuffling.committees_per_slot() {
            let members = shuffling.committee(slot, CommitteeIndex::new(committee)).unwrap();
            let mut indices: Vec<ValidatorIndex> = members
                .iter()
                .filter(|member| self.lot("vote", &[epoch.as_u64(), u64::from(**member)], 100) >= 2)
                .map(|member| ValidatorIndex::new(u64::from(*member)))
                .collect();
            indices.sort();
            self.votes += indices.len() as u64;
            let at = start + 4_000_000_000 + self.lot("vote time", &[n, committee], 3_000_000_000);
            verified.votes.push(Signed::for_tests(Vote {
                data,
                data_root: data.root(),
                arrivals: vec![common::heard(at).arrival(); indices.len()],
                indices,
                signature: SignatureBytes::ZERO,
                shuffling: Some(shuffling.clone()),
                signed_with: None,
                heard: common::heard(at),
            }));
        }
        let offenders = if n % (SLASHED_EVERY * preset.slots_per_epoch) == 100 {
            let one = ValidatorIndex::new(self.lot("offender", &[n], N_VALIDATORS as u64));
            common::offenders(&self.chain, &[one], slot, 0, start + 8_000_000_000, Punishable::Yes)
        } else {
            Vec::new()
        };
        self.waiting.extend(offenders.iter().map(|offender| (slot, offender.finding.id)));
        // A block includes the slashing within a few slots.
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(at, _)| at.as_u64() + 5 < n);
        self.waiting = later;
        let included: Vec<(Root, Included)> =
            due.into_iter().map(|(_, id)| (id, Included { slot, block_root: head.1 })).collect();
        let over = self.monitor.turn_to(Time(start), &self.chain, &Arc::default());
        self.note(slot, over);
        let heard = self.monitor.observe(&MonitorInput {
            verified: &verified,
            offenders: &offenders,
            included: &included,
            reopened: &[],
            peers: &[],
            chain: &self.chain,
            labels: &Arc::default(),
            received_until: Time(network.slot_start_ns(slot.saturating_add(1)) - 1),
        });
        self.note(slot, heard);
        let oldest = epoch.saturating_sub(4);
        self.boundaries = self.boundaries.split_off(&oldest);
    }

    fn note(&mut self, slot: Slot, heard: DetectorOutput) {
        for finding in heard.anomalies.iter().chain(&heard.announcements) {
            self.said.push((slot, format!("{} {:?}", finding.kind, finding.details)));
        }
    }
}

#[test]
fn ten_thousand_epochs_without_an_incident() {
    const EPOCHS: u64 = 10_000;
    let seed = 20;
    println!("seed {seed}");
    let mut days = Days::new(seed);
    let per_epoch = days.chain.network().preset().slots_per_epoch;
    for slot in 1..EPOCHS * per_epoch {
        days.play(Slot::new(slot));
    }
    let per_day = 86_400 / 12;
    let mut by_day: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (slot, what) in &days.said {
        by_day.entry(slot.as_u64() / per_day).or_default().push(what);
    }
    println!("{} votes in {} days: {} said", days.votes, EPOCHS * per_epoch / per_day, days.said.len());
    for (day, said) in &by_day {
        println!("day {day}: {said:?}");
    }
    assert!(days.said.iter().all(|(_, what)| !what.starts_with("slashing_wave")));
    assert!(by_day.values().all(|said| said.len() <= 1), "at most one a day");
}
