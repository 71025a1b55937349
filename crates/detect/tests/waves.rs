//! Slashing waves: who counts, what they cost, and that a restart changes nothing.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{MonitorSetup, SlotInput, offenders};
use consensus::{Root, Slot, ValidatorIndex};
use detect::{DetectConfig, Left, Monitor};
use evidence::{Evidence, Finding, Incident, IncidentState, Kind, Punishable, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;

const KIND: Kind = Kind::SlashingWave;

fn config() -> DetectConfig {
    let mut config = DetectConfig::default();
    config.slashing_wave.closes_after_epochs = 4;
    config.slashing_wave.waning_after_epochs = 1;
    config
}

/// Double votes of these validators in `slot`, the `nth` offence of each.
fn offence(stage: &MonitorSetup, validators: &[u64], slot: u64, nth: u8, punishable: Punishable) -> Vec<detect::Offender> {
    let validators: Vec<ValidatorIndex> = validators.iter().copied().map(ValidatorIndex::new).collect();
    offenders(&stage.chain, &validators, Slot::new(slot), nth, stage.at(slot, 5_000), punishable)
}

fn play(stage: &mut MonitorSetup, slot: u64, offenders: Vec<detect::Offender>) {
    stage.play(slot, SlotInput { offenders, ..SlotInput::default() });
}

/// Withdrawn keys cost nothing, so anyone may hold some. Four of them are no wave, however often
/// they sign.
#[test]
fn keys_that_cannot_be_slashed_make_no_wave() {
    let mut stage = MonitorSetup::new(64, &config());
    for slot in 1..20 {
        let offenders = offence(&stage, &[1, 2, 3, 4], slot, slot as u8, Punishable::Withdrawable);
        play(&mut stage, slot, offenders);
    }
    assert!(stage.of(&KIND).is_empty());
    let offenders = offence(&stage, &[5, 6, 7], 20, 0, Punishable::Yes);
    play(&mut stage, 20, offenders);
    let wave = stage.of(&KIND)[0];
    assert_eq!((wave.validators.unwrap().0, &wave.severity), (3, &Severity::Critical));
}

/// One key that contradicts itself many times raises neither the base rate nor the stake that is
/// slashed.
#[test]
fn a_validator_counts_once() {
    let mut stage = MonitorSetup::new(64, &config());
    for nth in 0..250 {
        let offenders = offence(&stage, &[9], 1 + nth / 10, nth as u8, Punishable::Yes);
        play(&mut stage, 1 + nth / 10, offenders);
    }
    assert!(stage.of(&KIND).is_empty());
    // The key has left the window. It counts once in the past.
    let later = 100 * stage.per_epoch();
    let offenders = offence(&stage, &[1, 2, 3], later, 0, Punishable::Yes);
    play(&mut stage, later, offenders);
    let wave = stage.of(&KIND)[0];
    let eth = 32_000_000_000u64;
    // Fulu, minimal preset: min(S * 3, T) * 32 / T each. S excludes the validator whose offences
    // are older than the vector's 64 epochs.
    assert_eq!(wave.penalty.unwrap().correlation_gwei_now.0, 3 * 3 * 32 * 3 * eth / (64 * 32));
    assert_eq!(wave.penalty.unwrap().initial_gwei.0, 3 * eth / 4_096);
    assert_eq!((wave.validators.unwrap().0, wave.offences.unwrap().double_vote.0), (3, 3));
}

/// Validators slashed in a closed wave still count for the penalty of the next wave.
#[test]
fn a_second_wave_is_costed_with_the_first() {
    let mut stage = MonitorSetup::new(64, &config());
    let first: Vec<u64> = (0..16).collect();
    let offenders = offence(&stage, &first, 8, 0, Punishable::Yes);
    play(&mut stage, 8, offenders);
    let second = 8 + 10 * stage.per_epoch();
    (9..second).for_each(|slot| play(&mut stage, slot, Vec::new()));
    assert_eq!(stage.of(&KIND)[0].state, IncidentState::Closed);
    let offenders = offence(&stage, &[20, 21, 22], second, 0, Punishable::Yes);
    play(&mut stage, second, offenders);
    let waves = stage.of(&KIND);
    assert_eq!(waves.len(), 2);
    // S = 19 validators of 64: min(19 * 3, 64) * 32 / 64 = 28.5 ETH each.
    assert_eq!(waves[1].penalty.unwrap().correlation_gwei_now.0, 3 * 28_500_000_000);
    assert_eq!(waves[1].validators.unwrap().0, 3);
}

/// What a watcher has on disk when it stops.
#[derive(Default)]
struct Disk {
    findings: Vec<Finding>,
    proofs: BTreeMap<Root, Arc<Evidence>>,
    notes: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    fn write(&mut self, stage: &mut MonitorSetup, offenders: &[detect::Offender]) {
        self.findings.extend(offenders.iter().map(|offender| offender.finding.clone()));
        self.proofs.extend(offenders.iter().map(|offender| (offender.evidence.id, offender.evidence.clone())));
        self.notes.extend(std::mem::take(&mut stage.notes).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
    }

    fn restart(&self, stage: &mut MonitorSetup, config: &DetectConfig, with_notes: bool) {
        stage.monitor = Monitor::new(config, stage.chain.network());
        let incidents: Vec<Incident> = stage.incidents.values().cloned().collect();
        let notes = if with_notes { self.notes.clone() } else { BTreeMap::new() };
        let left = Left { incidents: &incidents, notes: &notes };
        let mut findings = self.findings.clone().into_iter();
        let heard = stage.monitor.restore(&left, &mut findings, &|id| self.proofs.get(&id).cloned(), &stage.chain, &stage.labels);
        stage.note(heard);
    }
}

/// A wave, some quiet epochs, and a second wave that grows. The watcher is restarted in the slots
/// `restarts`, with its notes or, as after an older version, without them.
fn played(restarts: &[u64], with_notes: bool) -> (Vec<Incident>, usize) {
    let mut stage = MonitorSetup::new(128, &config());
    let mut disk = Disk::default();
    let per_epoch = stage.per_epoch();
    let second = 4 + 8 * per_epoch;
    for slot in 1..second + 8 * per_epoch {
        let members: Vec<u64> = match slot {
            4 => (0..8).collect(),
            9 => vec![8, 9],
            slot if slot == second => (20..30).collect(),
            slot if slot == second + 6 => vec![30, 31, 32],
            _ => Vec::new(),
        };
        let offenders = offence(&stage, &members, slot, 0, Punishable::Yes);
        play(&mut stage, slot, offenders.clone());
        disk.write(&mut stage, &offenders);
        if restarts.contains(&slot) {
            disk.restart(&mut stage, &config(), with_notes);
        }
    }
    let n_told = stage.announcements.iter().filter(|finding| finding.kind == KIND).count();
    (stage.of(&KIND).into_iter().cloned().collect(), n_told)
}

#[test]
fn a_restart_changes_no_wave() {
    let through = played(&[], true);
    assert_eq!(through.0.len(), 2);
    assert!(through.0.iter().all(|wave| wave.state == IncidentState::Closed));
    assert_eq!(through.1, 4, "each opens and ends");
    let second = 4 + 8 * 8;
    for restarts in [&[4u64][..], &[6], &[9], &[30], &[60], &[second], &[second + 3], &[second + 6, second + 7], &[second + 50]] {
        assert_eq!(played(restarts, true), through, "restarted in {restarts:?}");
    }
}

/// An earlier version left no notes. Closed waves stay as they were reported. The open one
/// continues under its id with all its members.
#[test]
fn without_notes_waves_keep_their_names_and_members() {
    let through = played(&[], true);
    let second = 4 + 8 * 8;
    let names = |waves: &[Incident]| -> Vec<_> {
        waves.iter().map(|wave| (wave.id, wave.validators, wave.offences, wave.penalty, wave.closed_at)).collect()
    };
    for restart in [6, 30, 60, second + 3, second + 7, second + 50] {
        let restarted = played(&[restart], false);
        assert_eq!(names(&restarted.0), names(&through.0), "restarted in {restart}");
        assert_eq!(restarted.0[0], through.0[0]);
    }
}

/// No detector continues the wave, so it must not stay open for ever.
#[test]
fn a_wave_without_its_detector_is_closed() {
    let mut stage = MonitorSetup::new(64, &config());
    let mut disk = Disk::default();
    let offenders = offence(&stage, &[1, 2, 3], 4, 0, Punishable::Yes);
    play(&mut stage, 4, offenders.clone());
    disk.write(&mut stage, &offenders);
    let mut without = config();
    without.slashing_wave.enabled = false;
    disk.restart(&mut stage, &without, true);
    assert_eq!(stage.of(&KIND)[0].state, IncidentState::Closed);
    let n_told = stage.announcements.iter().filter(|finding| finding.kind == KIND).count();
    assert_eq!(n_told, 2);
}

/// A pager that receives only critical findings receives the wave's opening and its end.
#[test]
fn what_is_told_is_as_severe_as_the_incident() {
    let mut stage = MonitorSetup::new(64, &config());
    let offenders = offence(&stage, &[1, 2, 3], 4, 0, Punishable::Yes);
    play(&mut stage, 4, offenders);
    (5..80).for_each(|slot| play(&mut stage, slot, Vec::new()));
    let told: Vec<_> = stage.announcements.iter().filter(|finding| finding.kind == KIND).collect();
    assert_eq!(told.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Critical; 2]);
    assert_eq!(told[0].id, stage.of(&KIND)[0].id);
    assert_eq!(told[1].details.as_ref().unwrap()["news"], "over");
}
