//! What one key, one peer or one wrong clock can do to the detectors: nothing that lasts.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{MonitorSetup, SlotInput, block};
use consensus::{Checkpoint, Epoch, Root, Slot, ValidatorIndex};
use detect::monitor::MAX_OPEN;
use detect::monitor::{Described, Details, DetectorView, Observation, Signal};
use detect::{DetectConfig, Detector, Left, Monitor, PeerFact, PeerNews};
use evidence::{Incident, IncidentState, Kind, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use verify::Time;

/// Members of the committee of a slot: one eighth of all validators each.
fn members(stage: &MonitorSetup, slot: u64, n: u64) -> Vec<u64> {
    let share = n / stage.per_epoch();
    let first = slot % stage.per_epoch() * share;
    (first..first + share).collect()
}

/// One key may sign a vote for every past epoch without contradicting itself. It still counts once
/// per epoch.
#[test]
fn one_key_counts_once_per_epoch_whatever_it_signs() {
    let mut stage = MonitorSetup::new(128, &DetectConfig::default());
    let head = stage.chain.head().root;
    for slot in 1..96 {
        let at = |epoch| Checkpoint { epoch: Epoch::new(epoch), root: Root::repeat_byte(7) };
        let honest = members(&stage, slot, 128);
        // From epoch 6 on half of the honest validators are silent. The last validator signs in
        // their place, for all old targets.
        let silent = slot >= 48;
        let mut votes: Vec<_> =
            (0..if silent { 40 } else { 0 }).map(|old| stage.vote(slot, head, at(0), at(old % 12), &[127])).collect();
        votes.push(stage.plain_vote(slot, head, &honest[..if silent { 8 } else { 16 }]));
        stage.play(slot, SlotInput { votes, ..SlotInput::default() });
    }
    assert_eq!(stage.of(&Kind::ParticipationDrop).len(), 1, "half of the votes are missing");
    assert!(stage.of(&Kind::StaleVotes).is_empty(), "one key's old targets are no trouble of the network");
}

/// A hundred different votes for a slot arrive before the honest ones, which are split in two. The
/// split is still found.
#[test]
fn many_odd_votes_do_not_crowd_out_the_honest_ones() {
    let mut stage = MonitorSetup::new(2048, &DetectConfig::default());
    let start = stage.chain.head().root;
    let (mut left, mut right) = (start, start);
    for slot in 1..40 {
        let one = block(Slot::new(slot), ValidatorIndex::new(slot), left, &[1], b"", stage.at(slot, 1_000));
        let two = block(Slot::new(slot), ValidatorIndex::new(slot + 64), right, &[2], b"", stage.at(slot, 1_000));
        (left, right) = (one.block.root, two.block.root);
        let all = members(&stage, slot, 2048);
        let odd = |nth: u64| {
            let root = Root::from_slice(&[&nth.to_be_bytes()[..], &[9; 24]].concat());
            stage.vote(slot, root, Checkpoint::default(), Checkpoint { epoch: Epoch::new(slot / 8), root }, &[all[nth as usize]])
        };
        let mut votes: Vec<_> = (0..100).map(odd).collect();
        votes.push(stage.plain_vote(slot, left, &all[100..190]));
        votes.push(stage.plain_vote(slot, right, &all[190..256]));
        stage.play(slot, SlotInput { votes, blocks: vec![one, two], ..SlotInput::default() });
    }
    assert_eq!(stage.of(&Kind::HeadSplit).len(), 1);
    assert!(stage.monitor.facts().untallied() >= 36 * 38);
}

/// A block of a validator that is not the slot's proposer, and that nobody votes for, fills no slot
/// and competes with no block.
#[test]
fn a_strangers_block_is_nobodys() {
    let mut stage = MonitorSetup::new(128, &DetectConfig::default());
    let mut head = stage.chain.head().root;
    for slot in 1..120 {
        let stranger = block(Slot::new(slot), ValidatorIndex::new(127), head, b"stranger", b"", stage.at(slot, 100));
        let mut blocks = vec![stranger];
        // From slot 64 on every second proposer is silent.
        if slot < 64 || slot % 2 == 0 {
            let honest = block(Slot::new(slot), ValidatorIndex::new(slot % 100), head, b"honest", b"", stage.at(slot, 1_000));
            head = honest.block.root;
            blocks.push(honest);
        }
        let votes = vec![stage.plain_vote(slot, head, &members(&stage, slot, 128))];
        stage.play(slot, SlotInput { votes, blocks, ..SlotInput::default() });
    }
    assert!(stage.anomalies.iter().all(|finding| finding.kind != Kind::CompetingBlocks));
    let missed = stage.of(&Kind::MissedProposals);
    assert_eq!(missed.len(), 1);
    assert!(missed[0].first_slot >= Slot::new(64));
}

#[test]
fn peers_that_have_enough_peers_are_no_storm() {
    for (code, storms) in [(129, 0), (3, 1)] {
        let mut stage = MonitorSetup::new(64, &DetectConfig::default());
        for slot in 1..30 {
            let at = Time(stage.at(slot, 0));
            let mut peers = Vec::new();
            for peer in 0..20 {
                let news = |what| PeerNews { at, peer: verify::PeerBytes::from(format!("peer {peer}").as_bytes()), what };
                peers.push(news(PeerFact::Status { head_slot: Slot::new(slot), head_root: None }));
                // Half of the peers leave, each one again and again.
                if slot > 10 && peer % 2 == 0 {
                    peers.push(news(PeerFact::Goodbye { code }));
                }
            }
            stage.play(slot, SlotInput { peers, ..SlotInput::default() });
        }
        let found = stage.of(&Kind::SyncStorm);
        assert_eq!(found.len(), storms, "code {code}");
        assert!(found.iter().all(|storm| storm.details["goodbyes_in_an_epoch"] == 10), "each peer once");
    }
}

/// The clock jumps four hours ahead and back. The detectors continue at once, and report nothing
/// about the wrong time.
#[test]
fn a_clock_that_was_set_back_stops_nothing() {
    let mut stage = MonitorSetup::new(128, &DetectConfig::default());
    let head = stage.chain.head().root;
    for slot in 1..96 {
        let honest = members(&stage, slot, 128);
        let voting = if slot < 64 { 16 } else { 6 };
        let votes = vec![stage.plain_vote(slot, head, &honest[..voting])];
        let until = if slot == 40 { stage.at(1_240, 0) } else { stage.at(slot + 1, 0) - 1 };
        stage.play_until(slot, SlotInput { votes, ..SlotInput::default() }, until);
    }
    let drops = stage.of(&Kind::ParticipationDrop);
    assert_eq!(drops.len(), 1, "ten of sixteen fell silent in slot 64");
    assert!((62..=68).contains(&drops[0].first_slot.as_u64()), "{}", drops[0].first_slot);
}

/// The condition that the detectors of this file report.
#[derive(Serialize, Deserialize)]
struct OneThing {}

impl Details for OneThing {
    const KIND: Kind = Kind::BlindSpot;

    fn sentence(&self, _validators: Option<u64>) -> String {
        "One thing".into()
    }
}

#[derive(Serialize, Deserialize)]
struct AnotherThing {}

impl Details for AnotherThing {
    const KIND: Kind = Kind::DeepReorg;

    fn sentence(&self, _validators: Option<u64>) -> String {
        "Another thing".into()
    }
}

fn sighting(what: impl Into<Described>, key: String, slot: Slot, since: Slot, severity: Severity) -> Signal {
    Signal::Observation(Observation {
        what: what.into(),
        key,
        slot,
        since,
        until: slot,
        severity,
        measure: 1,
        validators: None,
        shared: Vec::new(),
        closes_after: 4,
    })
}

/// Reports one condition since slot 1 whenever it looks, but does not look for a while.
struct Stubborn;

impl Detector for Stubborn {
    fn slot_ended(&mut self, slot: Slot, _view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        if !(10..30).contains(&slot.as_u64()) {
            let severity = if slot.as_u64() >= 40 { Severity::Critical } else { Severity::Warning };
            out.push(sighting(OneThing {}, String::new(), slot, Slot::new(1), severity));
        }
    }
}

/// A closed incident never opens again. The next observation is another incident with its own
/// announcement. Getting worse and the end are announced too.
#[test]
fn a_closed_incident_stays_closed() {
    let mut stage = MonitorSetup::new(64, &DetectConfig::default());
    stage.monitor.add(Box::new(Stubborn));
    for slot in 1..60 {
        stage.play(slot, SlotInput::default());
        // The monitor is restarted in between, and still remembers what was closed.
        if slot == 20 {
            let incidents: Vec<Incident> = stage.incidents.values().cloned().collect();
            stage.monitor = Monitor::new(&DetectConfig::default(), stage.chain.network());
            stage.monitor.add(Box::new(Stubborn));
            let left = Left { incidents: &incidents, notes: &BTreeMap::new() };
            let heard = stage.monitor.restore(&left, &mut std::iter::empty(), &|_| None, &stage.chain, &stage.labels);
            stage.note(heard);
        }
    }
    let seen = stage.of(&OneThing::KIND);
    let states: Vec<_> = seen.iter().map(|one| (one.first_slot.as_u64(), one.state, one.severity)).collect();
    assert_eq!(states, [(1, IncidentState::Closed, Severity::Warning), (10, IncidentState::Open, Severity::Critical)]);
    let told: Vec<_> = stage
        .announcements
        .iter()
        .filter(|finding| finding.kind == OneThing::KIND)
        .map(|finding| (finding.slot.as_u64(), finding.severity, finding.details.as_ref().unwrap().get("news").cloned()))
        .collect();
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    assert_eq!(
        told,
        [(1, warning, None), (1, warning, Some("over".into())), (10, warning, None), (10, critical, Some("worse".into()))]
    );
    let ids: std::collections::BTreeSet<_> = stage.announcements.iter().map(|finding| finding.id).collect();
    assert_eq!(ids.len(), stage.announcements.len());
}

/// Opens an incident for each of a thousand keys, then one of another kind.
struct Flood;

impl Detector for Flood {
    fn slot_ended(&mut self, slot: Slot, _view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        out.extend((0..1000).map(|key| sighting(OneThing {}, format!("{key:04}"), slot, slot, Severity::Info)));
        out.push(sighting(AnotherThing {}, String::new(), slot, slot, Severity::Critical));
    }
}

/// A thousand incidents of one kind leave room for other kinds, and what was refused is counted.
#[test]
fn one_kind_does_not_starve_the_others() {
    let mut stage = MonitorSetup::new(64, &DetectConfig::default());
    stage.monitor.add(Box::new(Flood));
    (1..5).for_each(|slot| stage.play(slot, SlotInput::default()));
    assert_eq!((stage.of(&OneThing::KIND).len(), stage.of(&AnotherThing::KIND).len()), (MAX_OPEN, 1));
    assert!(stage.refused >= 744);
}

/// The watcher is restarted while participation is low. The drop continues, and it ends when the
/// earlier participation is back.
#[test]
fn a_restart_does_not_end_what_lasts() {
    let mut stage = MonitorSetup::new(128, &DetectConfig::default());
    let head = stage.chain.head().root;
    for slot in 1..160 {
        let honest = members(&stage, slot, 128);
        let voting = if (48..120).contains(&slot) { 8 } else { 16 };
        let votes = vec![stage.plain_vote(slot, head, &honest[..voting])];
        stage.play(slot, SlotInput { votes, ..SlotInput::default() });
        if slot == 60 {
            let incidents: Vec<Incident> = stage.incidents.values().cloned().collect();
            stage.monitor = Monitor::new(&DetectConfig::default(), stage.chain.network());
            let left = Left { incidents: &incidents, notes: &BTreeMap::new() };
            let heard = stage.monitor.restore(&left, &mut std::iter::empty(), &|_| None, &stage.chain, &stage.labels);
            stage.note(heard);
        }
        if slot == 115 {
            assert_ne!(stage.of(&Kind::ParticipationDrop)[0].state, IncidentState::Closed, "it is still half of what it was");
        }
    }
    let drops = stage.of(&Kind::ParticipationDrop);
    assert_eq!((drops.len(), drops[0].state), (1, IncidentState::Closed));
}

/// A drop that has lasted long enough becomes the usual participation.
#[test]
fn a_permanent_drop_is_over_some_day() {
    let mut config = DetectConfig::default();
    config.participation_drop.usual_after_epochs = 10;
    let mut stage = MonitorSetup::new(128, &config);
    let head = stage.chain.head().root;
    for slot in 1..260 {
        let honest = members(&stage, slot, 128);
        let votes = vec![stage.plain_vote(slot, head, &honest[..if slot < 48 { 16 } else { 12 }])];
        stage.play(slot, SlotInput { votes, ..SlotInput::default() });
    }
    let drops = stage.of(&Kind::ParticipationDrop);
    assert_eq!((drops.len(), drops[0].state), (1, IncidentState::Closed));
}
