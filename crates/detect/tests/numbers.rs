//! The numbers that are reported are right: validators and not findings are counted, costs are at
//! most the stake, each key is reported once, and ranges end with the condition that they are
//! about.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use common::{MonitorSetup, SlotInput, block, offenders};
use consensus::{AttestationData, Checkpoint, Epoch, Root, Slot, ValidatorIndex};
use detect::watch::{Duty, FeePayers, Labels, SharedWatchState, WatchList, WatchedKeysConfig, WatchedKeysDetector};
use detect::{DetectConfig, Offender};
use evidence::{Kind, Punishable};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use verify::Time;

/// Members of the committee of a slot: one eighth of all validators each.
fn members(stage: &MonitorSetup, slot: u64, n: u64) -> Vec<u64> {
    let share = n / stage.per_epoch();
    let first = slot % stage.per_epoch() * share;
    (first..first + share).collect()
}

fn indices(range: std::ops::Range<u64>) -> Vec<ValidatorIndex> {
    range.map(ValidatorIndex::new).collect()
}

/// 192 validators offend, most of them many times: 2 977 findings of 192 validators that can be
/// slashed.
#[test]
fn unpunished_validators_are_counted_and_not_their_offences() {
    let mut stage = MonitorSetup::new(192, &DetectConfig::default());
    let (slot, at) = (4, stage.at(4, 5_000));
    let mut found: Vec<Offender> = Vec::new();
    for nth in 0..15 {
        found.extend(offenders(&stage.chain, &indices(0..192), Slot::new(slot), nth, at, Punishable::Yes));
    }
    found.extend(offenders(&stage.chain, &indices(0..97), Slot::new(slot), 15, at, Punishable::Yes));
    assert_eq!(found.len(), 2_977);
    stage.play(slot, SlotInput { offenders: found, ..SlotInput::default() });
    (5..110).for_each(|slot| stage.play(slot, SlotInput::default()));
    let told = stage.of(&Kind::UnpunishedOffence);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].validators.unwrap().0, 192, "of a network of 192");
    assert_eq!(told[0].details["offences"], 2_977);
    // The same with validators of whom a block has included one offence: all their offences are
    // settled.
    let mut stage = MonitorSetup::new(192, &DetectConfig::default());
    let found: Vec<Offender> =
        (0..3).flat_map(|nth| offenders(&stage.chain, &indices(0..10), Slot::new(4), nth, at, Punishable::Yes)).collect();
    let included = evidence::Included { slot: Slot::new(9), block_root: Root::ZERO };
    let included: Vec<_> = found.iter().take(4).map(|offender| (offender.finding.id, included)).collect();
    stage.play(4, SlotInput { offenders: found, ..SlotInput::default() });
    stage.play(9, SlotInput { included, ..SlotInput::default() });
    (10..110).for_each(|slot| stage.play(slot, SlotInput::default()));
    let told = stage.of(&Kind::UnpunishedOffence)[0];
    assert_eq!((told.validators.unwrap().0, &told.details["offences"]), (6, &18.into()));
}

/// Everybody is slashed, and nobody loses more than its balance.
#[test]
fn a_wave_costs_no_more_than_its_stake() {
    for n in [64, 100, 192] {
        let mut stage = MonitorSetup::new(192, &DetectConfig::default());
        let found = offenders(&stage.chain, &indices(0..n), Slot::new(4), 0, stage.at(4, 5_000), Punishable::Yes);
        stage.play(4, SlotInput { offenders: found, ..SlotInput::default() });
        (5..8).for_each(|slot| stage.play(slot, SlotInput::default()));
        let cost = stage.of(&Kind::SlashingWave)[0].penalty.unwrap();
        let stake = n * 32_000_000_000;
        let now = cost.initial_gwei.0 + cost.correlation_gwei_now.0;
        let doubled = cost.initial_gwei.0 + cost.correlation_gwei_if_doubled.0;
        assert!(now <= stake && doubled <= stake, "{n}: {now} and {doubled} of {stake}");
        assert!(cost.per_32_eth_gwei.0 <= 32_000_000_000, "{n}: {}", cost.per_32_eth_gwei.0);
        // From 64 of 192 on everything is lost, because three times their stake is the whole stake.
        assert_eq!((now, doubled), (stake, stake), "{n}");
    }
}

/// Ten of 192 validators with 32 ETH each, by hand, from Electra on: at once 32 ETH / 4096; later
/// three times the slashed stake, as a share of all stake, of each one's 32 ETH. Both are of the
/// ten, also if twice as much is slashed, so nobody else's loss is among them.
#[test]
fn what_a_wave_costs_is_what_its_members_lose() {
    let mut stage = MonitorSetup::new(192, &DetectConfig::default());
    let found = offenders(&stage.chain, &indices(0..10), Slot::new(4), 0, stage.at(4, 5_000), Punishable::Yes);
    stage.play(4, SlotInput { offenders: found, ..SlotInput::default() });
    (5..8).for_each(|slot| stage.play(slot, SlotInput::default()));
    let cost = stage.of(&Kind::SlashingWave)[0].penalty.unwrap();
    let gwei = 1_000_000_000u64;
    let later = |slashed: u64| 10 * 32 * (3 * slashed * gwei / 192 / 32);
    assert_eq!(cost.initial_gwei.0, 10 * 32 * gwei / 4096);
    assert_eq!((cost.correlation_gwei_now.0, cost.correlation_gwei_if_doubled.0), (later(320), later(640)));
    assert_eq!((later(320), later(640)), (50 * gwei, 100 * gwei));
}

/// A network in which these keys are watched.
fn watching(n_validators: usize, keys: &str) -> MonitorSetup {
    let mut stage = MonitorSetup::new(n_validators, &DetectConfig::default());
    let mut list = WatchList::default();
    list.add(Some("ours"), keys.parse().unwrap(), &[], Duty::Active).unwrap();
    stage.labels = Arc::new(Labels::resolve(&list, stage.chain.registry(), &FeePayers::default()));
    stage.monitor.add(Box::new(WatchedKeysDetector::new(WatchedKeysConfig::default(), SharedWatchState::default())));
    stage
}

fn second_signers(stage: &MonitorSetup) -> Vec<ValidatorIndex> {
    let of_kind = stage.anomalies.iter().filter(|finding| finding.kind == Kind::SecondSigner);
    of_kind.map(|finding| finding.validator.as_ref().unwrap().index).collect()
}

/// 42 keys and 137 offences, in several slots.
#[test]
fn a_second_signer_is_told_once_a_key() {
    let mut stage = watching(64, "0-41");
    for (nth, of) in [0..42, 0..42, 0..42, 0..11].into_iter().enumerate() {
        let slot = 4 + 3 * nth as u64;
        let at = stage.at(slot, 5_000);
        let offenders = offenders(&stage.chain, &indices(of), Slot::new(slot), nth as u8, at, Punishable::Yes);
        stage.play(slot, SlotInput { offenders, ..SlotInput::default() });
    }
    let told = second_signers(&stage);
    assert_eq!(told.len(), 42, "137 offences of 42 keys");
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), 42);
}

/// A clock was hours ahead: its key signs votes of the future, and contradicts them when the clock
/// is right again. There is only one signer.
#[test]
fn a_key_whose_clock_was_wrong_has_no_second_signer() {
    let mut stage = watching(64, "0-7");
    let head = stage.chain.head().root;
    let ours: Vec<u64> = (0..8).collect();
    let mut ahead = stage.plain_vote(36, head, &ours);
    ahead.heard.at = Time(stage.at(4, 4_500));
    ahead.arrivals = vec![ahead.heard.arrival(); 8];
    stage.play(4, SlotInput { votes: vec![ahead], ..SlotInput::default() });
    // The clock is right again, and their slot comes. The other vote is in time, and only now the
    // two contradict each other.
    (5..36).for_each(|slot| stage.play(slot, SlotInput::default()));
    let found = offenders(&stage.chain, &indices(0..8), Slot::new(36), 0, stage.at(36, 5_000), Punishable::Yes);
    stage.play(36, SlotInput { offenders: found, ..SlotInput::default() });
    assert_eq!(second_signers(&stage), [], "their clocks were ahead");
    // Two votes of the future that contradict each other.
    let found = offenders(&stage.chain, &indices(0..4), Slot::new(80), 1, stage.at(38, 5_000), Punishable::Yes);
    stage.play(38, SlotInput { offenders: found, ..SlotInput::default() });
    assert_eq!(second_signers(&stage), []);
    // Later another machine really signs with one of the keys.
    let found = offenders(&stage.chain, &indices(2..3), Slot::new(50), 2, stage.at(50, 5_000), Punishable::Yes);
    stage.play(50, SlotInput { offenders: found, ..SlotInput::default() });
    assert_eq!(second_signers(&stage), indices(2..3));
}

/// Blocks of slots 61 to 80 are missing. The window in which they are counted still contains them
/// for some time after.
#[test]
fn an_incidents_range_ends_with_what_it_is_about() {
    let mut config = DetectConfig::default();
    config.blocks.backing_votes = 1;
    config.blocks.backing_percent = 1;
    let mut stage = MonitorSetup::new(128, &config);
    let mut head = stage.chain.head().root;
    for slot in 1..160 {
        let mut blocks = Vec::new();
        if !(61..=80).contains(&slot) {
            blocks.push(block(Slot::new(slot), ValidatorIndex::new(slot % 128), head, &[1], b"", stage.at(slot, 1_000)));
            head = blocks[0].block.root;
        }
        // A third of the votes is missing in the same slots.
        let all = members(&stage, slot, 128);
        let votes = vec![stage.plain_vote(slot, head, if blocks.is_empty() { &all[..10] } else { &all })];
        stage.play(slot, SlotInput { votes, blocks, ..SlotInput::default() });
    }
    for kind in [&Kind::MissedProposals, &Kind::ParticipationDrop] {
        let told = stage.of(kind);
        assert_eq!(told.len(), 1, "{kind}");
        assert_eq!((told[0].first_slot, told[0].last_slot), (Slot::new(61), Slot::new(80)), "{kind}");
        assert!(told[0].closed_at.is_some(), "{kind}");
    }
}

/// Everybody's votes are read more than a slot late. In the second case the reason is that we did
/// not read them sooner.
#[test]
fn a_slow_engine_is_not_a_wrong_clock() {
    let told = |waited_ms: u64| {
        let mut stage = MonitorSetup::new(512, &DetectConfig::default());
        let head = stage.chain.head().root;
        for slot in 2..40 {
            let voting = members(&stage, slot - 2, 512);
            let mut late = stage.plain_vote(slot - 2, head, &voting);
            late.heard.at = Time(stage.at(slot, 6_000));
            late.arrivals = vec![late.heard.arrival(); voting.len()];
            stage.monitor.note_delay(Time(stage.at(slot, 6_500)), Duration::from_millis(waited_ms));
            stage.play(slot, SlotInput { votes: vec![late], ..SlotInput::default() });
        }
        stage.of(&Kind::OwnClock).len()
    };
    assert_eq!(told(130), 1, "we keep up: the clock is wrong, or the line slow");
    assert_eq!(told(20_000), 0, "messages wait for us: their lateness is ours");
}

/// A clock that is behind sees votes of the future. Our own slowness cannot have this effect.
#[test]
fn a_clock_that_is_behind_is_told_however_slow_we_are() {
    let mut stage = MonitorSetup::new(512, &DetectConfig::default());
    let head = stage.chain.head().root;
    for slot in 1..40 {
        let voting = members(&stage, slot + 1, 512);
        let epoch = Epoch::new((slot + 1) / stage.per_epoch());
        let data = AttestationData {
            slot: Slot::new(slot + 1),
            beacon_block_root: head,
            target: Checkpoint { epoch, root: head },
            ..AttestationData::default()
        };
        let mut early = stage.plain_vote(slot + 1, head, &voting);
        early.data = data;
        early.data_root = data.root();
        early.heard.at = Time(stage.at(slot, 2_000));
        early.arrivals = vec![early.heard.arrival(); voting.len()];
        stage.monitor.note_delay(Time(stage.at(slot, 6_500)), Duration::from_secs(20));
        stage.play(slot, SlotInput { votes: vec![early], ..SlotInput::default() });
    }
    let told = stage.of(&Kind::OwnClock);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].details["our_clock_is"], "behind");
}
