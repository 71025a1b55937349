//! Tests of what fires a switch, and that no error or restart loses an order.

use super::*;
use crate::config::{GroupConfig, KillSwitchConfig, MembersConfig, TriggerConfig, WatchConfig};
use alert::NetworkName;
use consensus::{Offence, PubkeyBytes, Root, Slot, Spec, ValidatorIndex};
use detect::watch::{Duty, Label, WatchList};
use evidence::{Anomaly, Kind, Punishable, Subject, anomaly_id};
use std::time::Duration;

/// Mainnet's slots of twelve seconds, counted from the Unix epoch.
fn network() -> Arc<Network> {
    let spec = Spec::builtin("mainnet").unwrap();
    Arc::new(Network { spec, genesis_time: 0, genesis_validators_root: Root::ZERO })
}

const DOUBLE_VOTE: Kind = Kind::Offence(Offence::DoubleVote);
const NOW: Time = Time::from_unix_ns(1_700_000_000_000_000_000);

fn slots_ago(slots: u64) -> Slot {
    network().slot_at(NOW.as_unix_ns()).saturating_sub(slots)
}

fn after(slots: u64) -> Slot {
    slots_ago(0).saturating_add(slots)
}

fn context(dir: &std::path::Path) -> SwitchContext {
    SwitchContext {
        network: network(),
        watched: SharedWatchState::default(),
        dir: dir.to_owned(),
        program: "/bin/false".into(),
        metrics: Metrics::new(),
        now: || NOW,
    }
}

/// A finding of the current slot, first seen at `NOW`.
fn finding(kind: Kind, validator: u64, labels: &[&str], recorded_after: Duration) -> Finding {
    let heard = NOW;
    Finding::anomaly(Anomaly {
        slot: slots_ago(0),
        validator: Some(Subject {
            index: ValidatorIndex::new(validator),
            pubkey: PubkeyBytes::repeat_byte(1),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }),
        first_seen: heard,
        recorded_at: heard.after(recorded_after),
        ..Anomaly::sample(kind)
    })
}

fn command(path: &str) -> KillSwitchConfig {
    toml::from_str(&format!("command = [{path:?}]")).unwrap()
}

/// Group `acme` of operator `acme`: key 5, and everybody with certain withdrawal credentials. A
/// second list labels key 6 and the same credentials with this operator, without a group.
fn in_force(change: impl FnOnce(&mut KillSwitchConfig)) -> ActiveConfig {
    let mut list = WatchList::default();
    let operator = [Label::new("operator", "acme").unwrap()];
    let credentials = Root::repeat_byte(9).to_string();
    for (group, selector) in [(Some("acme"), "5"), (Some("acme"), &credentials), (None, "6"), (None, &credentials)] {
        list.add(group, selector.parse().unwrap(), &operator, Duty::Active).unwrap();
    }
    let mut kill_switch = command("/bin/true");
    change(&mut kill_switch);
    let mut config = WatchConfig::default();
    let group = GroupConfig {
        name: "acme".into(),
        keys: Vec::new(),
        labels: BTreeMap::new(),
        duty: None,
        kill_switch: Some(kill_switch),
        audit: None,
    };
    config.groups = vec![group];
    ActiveConfig::new(config, list)
}

fn verdict(on: TriggerConfig, members: MembersConfig, finding: &Finding) -> Option<SwitchDecision> {
    let in_force = in_force(|switch| (switch.on, switch.members) = (vec![on], members));
    configured_switches(&in_force, &NetworkName::default(), None).unwrap()["acme"]
        .decide(finding, None, NOW, &network(), &|_| None)
}

fn fires(on: TriggerConfig, members: MembersConfig, finding: &Finding) -> bool {
    verdict(on, members, finding) == Some(SwitchDecision::Fires)
}

const SOON: Duration = Duration::from_millis(5);
const OWN: [&str; 2] = ["group=acme", "operator=acme"];

#[test]
fn a_switch_fires_for_what_it_is_told_to_and_not_for_old_captures() {
    let named = |on: TriggerConfig, kind: Kind, labels: &[&str]| fires(on, MembersConfig::Named, &finding(kind, 5, labels, SOON));
    assert!(named(TriggerConfig::Offence, DOUBLE_VOTE, &OWN));
    assert!(!named(TriggerConfig::Offence, DOUBLE_VOTE, &["operator=acme"]));
    assert!(!named(TriggerConfig::Offence, Kind::DormantKeySigned, &OWN));
    assert!(!named(TriggerConfig::Offence, Kind::MissedDuties, &OWN));
    assert!(!named(TriggerConfig::KinOffence, Kind::Offence(Offence::SurroundVote), &["group=acmee", "operator=blue"]));
    assert!(named(TriggerConfig::DormantKeySigned, Kind::DormantKeySigned, &OWN));
    let kin = |validator| finding(Kind::Offence(Offence::SurroundVote), validator, &["operator=acme"], SOON);
    assert!(fires(TriggerConfig::KinOffence, MembersConfig::Named, &kin(6)), "the list names it");
    assert!(!fires(TriggerConfig::Offence, MembersConfig::Named, &kin(6)));
    let old = finding(DOUBLE_VOTE, 5, &OWN, Duration::from_secs(86_400));
    assert!(!fires(TriggerConfig::Offence, MembersConfig::Named, &old), "from a capture of yesterday");
}

/// Validator 7 has the labels only because of its credentials, or because of a block that it
/// signed.
#[test]
fn a_stranger_who_takes_on_the_groups_credentials_fires_nothing_unless_that_is_wanted() {
    let stranger = |punishable| Finding { punishable, ..finding(DOUBLE_VOTE, 7, &OWN, SOON) };
    for (on, members, punishable, wanted) in [
        (TriggerConfig::Offence, MembersConfig::Named, Punishable::Yes, false),
        (TriggerConfig::KinOffence, MembersConfig::Named, Punishable::Yes, false),
        (TriggerConfig::Offence, MembersConfig::All, Punishable::Yes, true),
        (TriggerConfig::KinOffence, MembersConfig::All, Punishable::Yes, true),
        (TriggerConfig::Offence, MembersConfig::All, Punishable::NotActive, false),
        (TriggerConfig::Offence, MembersConfig::All, Punishable::Withdrawable, false),
        (TriggerConfig::KinOffence, MembersConfig::All, Punishable::AlreadySlashed, false),
    ] {
        let fired = fires(on, members, &stranger(Some(punishable)));
        assert_eq!(fired, wanted, "{on:?} {members:?} {punishable:?}");
    }
    let dormant = finding(Kind::DormantKeySigned, 7, &OWN, SOON);
    assert!(!fires(TriggerConfig::DormantKeySigned, MembersConfig::Named, &dormant));
}

/// An offence of a key in the group that was punished long ago. Its `AttesterSlashing` is public,
/// so anybody can send it again.
#[test]
fn nothing_that_can_no_longer_be_punished_fires_and_the_reason_is_told() {
    for on in [TriggerConfig::Offence, TriggerConfig::KinOffence] {
        let of = |punishable| Finding { punishable: Some(punishable), ..finding(DOUBLE_VOTE, 5, &OWN, SOON) };
        for punishable in [Punishable::Yes, Punishable::Unknown] {
            assert_eq!(verdict(on, MembersConfig::Named, &of(punishable)), Some(SwitchDecision::Fires), "{on:?} {punishable:?}");
        }
        for punishable in [Punishable::AlreadySlashed, Punishable::Withdrawable, Punishable::NotActive, Punishable::ForkExpired] {
            let held = Some(SwitchDecision::NotFiredReason(NotFiredReason::NotPunishable(punishable)));
            assert_eq!(verdict(on, MembersConfig::Named, &of(punishable)), held, "{on:?} {punishable:?}");
        }
    }
    // Whether a key can be punished does not matter for a key that should be silent. Its message
    // shows that somebody uses it.
    assert!(fires(TriggerConfig::DormantKeySigned, MembersConfig::Named, &finding(Kind::DormantKeySigned, 5, &OWN, SOON)));
}

#[test]
fn an_offence_fires_by_the_slot_of_its_later_message_and_not_by_when_it_was_heard() {
    let of = |slot| Finding { slot, ..finding(DOUBLE_VOTE, 5, &OWN, SOON) };
    let on = |finding: &Finding| verdict(TriggerConfig::Offence, MembersConfig::Named, finding);
    assert_eq!(on(&of(slots_ago(225 * 32))), Some(SwitchDecision::Fires));
    assert_eq!(
        on(&of(slots_ago(225 * 32 + 1))),
        Some(SwitchDecision::NotFiredReason(NotFiredReason::TooOld { epochs: 226, most: 225 }))
    );
    // Two votes of a thief, for the current target and an early slot.
    let epoch = slots_ago(0).epoch(network().preset());
    assert_eq!(on(&Finding { epoch, ..of(slots_ago(100_000)) }), Some(SwitchDecision::Fires));
    // A machine whose clock is ahead signs such a message.
    assert_eq!(on(&of(slots_ago(0).saturating_add(100_000))), Some(SwitchDecision::Fires));
    let in_force = in_force(|switch| switch.max_age_epochs = 2);
    let switch = &configured_switches(&in_force, &NetworkName::default(), None).unwrap()["acme"];
    let held = switch.decide(&of(slots_ago(65)), None, NOW, &network(), &|_| None);
    assert_eq!(held, Some(SwitchDecision::NotFiredReason(NotFiredReason::TooOld { epochs: 3, most: 2 })));
}

#[test]
fn the_accused_must_have_the_members_public_key_and_not_its_index_alone() {
    let in_force = in_force(|switch| switch.on = vec![TriggerConfig::Offence, TriggerConfig::KinOffence]);
    let switch = &configured_switches(&in_force, &NetworkName::default(), None).unwrap()["acme"];
    let found = finding(DOUBLE_VOTE, 5, &OWN, SOON);
    let with = |key: u8| switch.decide(&found, None, NOW, &network(), &|_| Some(PubkeyBytes::repeat_byte(key)));
    assert_eq!(with(1), Some(SwitchDecision::Fires));
    let member = PubkeyBytes::repeat_byte(2);
    assert_eq!(with(2), Some(SwitchDecision::NotFiredReason(NotFiredReason::OtherKey { member })));
}

/// A finding that does not fire the switch is stored and shown with its reason and its count, and
/// the reason is part of the delivery.
#[tokio::test]
async fn what_is_held_back_is_shown_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    let replayed = |nth: u8| Finding {
        id: Root::repeat_byte(nth),
        punishable: Some(Punishable::AlreadySlashed),
        ..finding(DOUBLE_VOTE, 5, &OWN, SOON)
    };
    store.record_anomalies((1..=3).map(replayed).collect(), &[]).unwrap();
    let (notes, mut orders) = (switches.notes(), JoinSet::new());
    switches.examine(&mut orders).unwrap();
    assert!(orders.is_empty(), "nobody's validators are stopped by an old message");
    let held = switches.state().borrow().held_back["acme"].clone();
    assert_eq!((held.finding, held.times), (Root::repeat_byte(3), 3));
    assert!(held.reason.contains("the key is slashed already"), "{held:?}");
    assert_eq!(KillSwitchState::read(&store).unwrap(), **switches.state().borrow());
    let note = notes(&replayed(1), NOW);
    assert_eq!((note.len(), note[0].fires, note[0].reason.as_ref()), (1, false, Some(&held.reason)));

    let real = finding(DOUBLE_VOTE, 5, &OWN, SOON);
    assert_eq!(notes(&real, NOW), [SwitchNote { group: "acme".into(), fires: true, reason: None, result: None }]);
    store.record_anomalies(vec![real.clone()], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1, "and it is as ready as before");
    let again = Finding { id: Root::repeat_byte(9), ..real.clone() };
    assert!(notes(&again, NOW)[0].reason.as_ref().unwrap().starts_with("it has fired already, because of double_vote at "));
    assert!(notes(&real, NOW)[0].fires);
    let others = Finding { id: Root::repeat_byte(8), ..finding(DOUBLE_VOTE, 70, &["group=blue"], SOON) };
    assert!(notes(&others, NOW).is_empty(), "none of its business");
}

/// A configuration that is read while it is half written has no switch. What is found meanwhile
/// still fires the switch when it is back.
#[tokio::test]
async fn what_was_found_while_a_changed_configuration_had_no_switch_fires_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    let half = ActiveConfig::new(WatchConfig::default(), WatchList::default());
    switches.use_switches(&half).unwrap();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let mut orders = JoinSet::new();
    switches.examine(&mut orders).unwrap();
    assert!(orders.is_empty());
    switches.use_switches(&in_force(|_| ())).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1);
}

/// The same, while the switch of another group stays and what is found goes on being examined.
#[tokio::test]
async fn what_was_found_while_one_of_two_switches_was_away_fires_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    let one = in_force(|_| ());
    let both = {
        let mut config = one.config.clone();
        config.groups.push(GroupConfig { name: "blue".into(), ..config.groups[0].clone() });
        let mut list = (*one.list).clone();
        list.add(Some("blue"), "7".parse().unwrap(), &[], Duty::Active).unwrap();
        ActiveConfig::new(config, list)
    };
    switches.arm(&both).unwrap();
    let mut orders = JoinSet::new();
    switches.use_switches(&one).unwrap();
    // More than one page of the log.
    let id = |nth: u32| anomaly_id(Root::ZERO, &Kind::LateBlocks, &nth.to_be_bytes());
    let many = (0..1_100).map(|nth| Finding::anomaly(Anomaly { id: id(nth), ..Anomaly::sample(Kind::LateBlocks) }));
    store.record_anomalies(many.chain([finding(DOUBLE_VOTE, 7, &["group=blue"], SOON)]).collect(), &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!((orders.len(), switches.state.seen), (0, Some(store.last_seq())));
    switches.use_switches(&both).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!((orders.len(), switches.state.fired.contains_key("blue")), (1, true));
    // It was away once, and is not examined again.
    assert!(switches.state.behind.is_empty());
}

/// Who publishes a list must not decide whose offence stops the keys of others.
#[test]
fn a_list_at_a_url_makes_nobody_kin() {
    let offence = finding(DOUBLE_VOTE, 6, &["operator=acme"], SOON);
    let with = |is_published: bool| {
        let mut active = in_force(|switch| switch.on = vec![TriggerConfig::KinOffence]);
        if is_published {
            let mut list = (*active.list).clone();
            list.mark_published(2);
            active = ActiveConfig::new(active.config, list);
        }
        let switches = configured_switches(&active, &NetworkName::default(), None).unwrap();
        switches["acme"].decide(&offence, None, NOW, &network(), &|_| None)
    };
    assert_eq!(with(false), Some(SwitchDecision::Fires));
    assert_eq!(with(true), Some(SwitchDecision::NotFiredReason(NotFiredReason::NotNamed)));
}

/// The store refuses the write. The proven finding is passed on directly, and it fires the switch.
#[tokio::test]
async fn what_cannot_be_recorded_fires_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), Root::ZERO).unwrap());
    let mut switches = KillSwitches::new(Store::open_read_only(dir.path()).unwrap(), context(dir.path())).unwrap();
    let in_force = in_force(|_| ());
    // This is the state from the time when the disk still accepted writes.
    switches.state.seen = Some(0);
    switches.arm(&in_force).unwrap();
    let (_lists, changed) = watch::channel(Arc::new(in_force));
    let (hand_over, unrecorded) = mpsc::channel(4);
    let stranger = finding(DOUBLE_VOTE, 70, &["group=blue"], SOON);
    hand_over.try_send(vec![stranger, finding(DOUBLE_VOTE, 5, &OWN, SOON)]).unwrap();
    hand_over.try_send(vec![finding(Kind::Offence(Offence::SurroundVote), 5, &OWN, SOON)]).unwrap();
    let (state, stop) = (switches.state(), CancellationToken::new());
    stop.cancel();
    switches.run(changed, unrecorded, stop).await;
    let fired = state.borrow().fired["acme"].clone();
    assert_eq!((fired.kind.as_str(), fired.attempts), ("double_vote", 1));
    assert!(fired.result.expect("waited for").done);
}

/// `slashwatch killswitch rearm` while a watcher runs: it creates a file in the data directory, and
/// the watcher removes the file as its answer.
#[tokio::test]
async fn a_request_makes_a_switch_ready_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let mut orders = JoinSet::new();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1);
    assert!(switches.context.watched.stopped().contains("acme"));
    std::fs::write(dir.path().join("rearm.acme"), []).unwrap();
    switches.answer_rearm_requests();
    assert!(switches.context.watched.stopped().is_empty());
    assert!(!dir.path().join("rearm.acme").exists());
    let on_disk = KillSwitchState::read(&store).unwrap();
    assert_eq!((on_disk.fired.len(), on_disk.armed_again["acme"], on_disk.armed_again_at["acme"]), (0, 1, NOW));
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1, "what was found before fires nothing");
    let next = Finding { id: Root::repeat_byte(9), slot: after(33), ..finding(DOUBLE_VOTE, 5, &OWN, SOON) };
    store.record_anomalies(vec![next], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 2);
}

/// Somebody heard further messages of the key before the stop, and releases them afterwards.
#[tokio::test]
async fn what_was_signed_before_the_stop_fires_nothing_when_the_switch_is_ready_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
    let active = in_force(|_| ());
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&active).unwrap();
    let of = |nth: u8, slot: Slot| Finding { id: Root::repeat_byte(nth), slot, ..finding(DOUBLE_VOTE, 5, &OWN, SOON) };
    let mut orders = JoinSet::new();
    store.record_anomalies(vec![of(1, after(0))], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    end_order(&mut switches, &mut orders).await;
    assert!(KillSwitchState::rearm(&store, "acme", NOW).unwrap());
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&active).unwrap();
    let held = of(2, after(32));
    store.record_anomalies(vec![of(3, slots_ago(5)), held.clone()], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert!(orders.is_empty());
    let reason = NotFiredReason::BeforeStop { until: after(32) }.to_string();
    let noted = &switches.state.held_back["acme"];
    assert_eq!((noted.times, &noted.reason), (2, &reason));
    assert_eq!(switches.notes()(&held, NOW)[0].reason.as_ref(), Some(&reason), "and the alert says so");
    store.record_anomalies(vec![of(4, after(33))], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1);
}

/// The lock file is there when the clients are stopped, and goes when the switch is ready again.
#[tokio::test]
async fn the_lock_is_there_before_the_order_and_gone_after_rearming() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
    let lock = dir.path().join("acme.lock");
    let script = dir.path().join("stop.sh");
    std::fs::write(&script, format!("#!/bin/sh\ntest -e {}\n", lock.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    let change = |switch: &mut KillSwitchConfig| {
        (switch.command, switch.lock_file) = (vec![script.display().to_string()], Some(lock.clone()));
    };
    switches.arm(&in_force(change)).unwrap();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let mut orders = JoinSet::new();
    switches.examine(&mut orders).unwrap();
    let EndedOrder { report, .. } = orders.join_next().await.unwrap().unwrap();
    assert!(report.as_ref().unwrap().result.is_ok(), "the program found the lock: {report:?}");
    let permissions = std::fs::metadata(&lock).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777, 0o600, "it names a watched key's finding");
    std::fs::write(dir.path().join("rearm.acme"), []).unwrap();
    switches.answer_rearm_requests();
    assert!(!lock.exists());
    // One that no stop known here has written stays. The stop that is over explains its own.
    for (finding, stays) in [(Root::repeat_byte(0x77), true), (switches.state.fired_before["acme"], false)] {
        std::fs::write(&lock, format!("{{\"kill_switch\":\"acme\",\"finding\":\"{finding}\"}}")).unwrap();
        std::fs::write(dir.path().join("rearm.acme"), []).unwrap();
        switches.answer_rearm_requests();
        assert_eq!(lock.exists(), stays, "{finding}");
    }
    // Without a watcher the command does it.
    std::fs::write(&lock, []).unwrap();
    let config = in_force(change).config;
    assert!(unlock_group(&config, "acme").unwrap().unwrap().contains("is removed"));
    assert_eq!(unlock_group(&config, "acme").unwrap(), None);
    // That of another group keeps that group's clients from starting.
    std::fs::write(&lock, r#"{"kill_switch":"blue","note":"x"}"#).unwrap();
    let told = unlock_group(&config, "acme").unwrap().unwrap();
    assert!(told.contains("is that of group blue and stays") && lock.exists(), "{told}");
}

/// The keys that an order stops: those that the entries name, and the accused.
#[tokio::test]
async fn an_order_is_about_the_keys_of_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store, context(dir.path())).unwrap();
    let mut active = in_force(|_| ());
    let mut list = (*active.list).clone();
    list.add(Some("acme"), PubkeyBytes::repeat_byte(7).to_string().parse().unwrap(), &[], Duty::Active).unwrap();
    active = ActiveConfig::new(active.config.clone(), list);
    switches.arm(&active).unwrap();
    let keys = |labels: &[&str]| switches.keys_of("acme", &finding(DOUBLE_VOTE, 5, labels, SOON));
    assert_eq!(keys(&OWN), [PubkeyBytes::repeat_byte(1), PubkeyBytes::repeat_byte(7)]);
    assert_eq!(keys(&["operator=acme"]), [PubkeyBytes::repeat_byte(7)], "a kin's key is nobody's to stop");
}

/// The store refuses a finding, which fires the switch all the same. The switch is made ready
/// again, and then the finding is recorded.
#[tokio::test]
async fn a_finding_that_is_recorded_late_does_not_fire_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    let mut orders = JoinSet::new();
    let found = finding(DOUBLE_VOTE, 5, &OWN, SOON);
    switches.examine_unrecorded(std::slice::from_ref(&found), &mut orders);
    assert_eq!(orders.len(), 1);
    std::fs::write(dir.path().join("rearm.acme"), []).unwrap();
    switches.answer_rearm_requests();
    store.record_anomalies(vec![found], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1, "it has fired for this one");
    let next = Finding { id: Root::repeat_byte(9), slot: after(33), ..finding(DOUBLE_VOTE, 5, &OWN, SOON) };
    store.record_anomalies(vec![next], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 2);
}

/// A store that was writable and is read-only now. The findings are there, but the state cannot be
/// updated.
#[tokio::test]
async fn a_switch_fires_although_its_state_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let found = finding(DOUBLE_VOTE, 5, &OWN, SOON);
    {
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        KillSwitchState { seen: Some(0), ..KillSwitchState::default() }.write(&store).unwrap();
        store.record_anomalies(vec![found.clone()], &[]).unwrap();
    }
    let mut switches = KillSwitches::new(Store::open_read_only(dir.path()).unwrap(), context(dir.path())).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    let mut orders = JoinSet::new();
    assert!(switches.examine(&mut orders).is_err());
    let EndedOrder { group, report, .. } = orders.join_next().await.expect("one order").unwrap();
    assert_eq!((group.as_str(), report.unwrap().result.is_ok()), ("acme", true));
    assert!(switches.examine(&mut orders).is_err(), "it goes on trying to write");
    assert!(orders.is_empty(), "and orders once");
    assert_eq!(switches.state().borrow().fired["acme"].finding, found.id, "and shows what it did");
    // A change that cannot be written is not made. After a restart the switch would still count as
    // fired.
    std::fs::write(dir.path().join("rearm.acme"), []).unwrap();
    switches.answer_rearm_requests();
    assert!(switches.state.fired.contains_key("acme"), "it was made ready in memory only");
    assert!(switches.state().borrow().fired.contains_key("acme"), "it was shown as ready");
    assert!(dir.path().join("rearm.acme").exists(), "the request stays");

    // When the disk accepts writes again, nothing is lost. The switches continue from the position
    // in the state.
    drop(switches);
    let mut switches = KillSwitches::new(Store::open(dir.path(), Root::ZERO).unwrap(), context(dir.path())).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_eq!(orders.len(), 1);
    assert_eq!(KillSwitchState::read(&switches.store).unwrap(), **switches.state().borrow());
}

/// Making one group's switch ready again does not affect other groups. Their offences may still
/// have to be examined.
#[tokio::test]
async fn what_was_found_before_a_switch_was_made_ready_again_still_fires_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    KillSwitchState { seen: Some(0), ..KillSwitchState::default() }.write(&store).unwrap();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let fires_after_rearming = |group: &str| {
        KillSwitchState::rearm(&store, group, NOW).unwrap();
        let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
        switches.arm(&in_force(|_| ())).unwrap();
        let mut orders = JoinSet::new();
        switches.examine(&mut orders).unwrap();
        let n = orders.len();
        switches.state = KillSwitchState { seen: Some(0), ..KillSwitchState::default() };
        switches.write().unwrap();
        n
    };
    assert_eq!(fires_after_rearming("others"), 1);
    assert_eq!(fires_after_rearming("acme"), 0);
}

/// A finding that is recorded during the stop is examined before the switches stop.
#[tokio::test]
async fn a_stop_looks_once_more_and_waits_for_what_it_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    let in_force = in_force(|_| ());
    switches.arm(&in_force).unwrap();
    let (_lists, changed) = watch::channel(Arc::new(in_force));
    let state = switches.state();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    switches.run(changed, mpsc::channel(1).1, stop).await;
    assert!(state.borrow().fired["acme"].result.as_ref().expect("waited for").done);
}

/// A program that is run by its path, and notes in the file `runs` beside it that it was.
fn script(dir: &Path, body: &str) -> String {
    let path = dir.join("script.sh");
    std::fs::write(&path, format!("#!/bin/sh\ncd {}\necho x >> runs\n{body}\n", dir.display())).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    path.display().to_string()
}

/// The same configuration with a route for what is critical about operator `acme`.
fn with_route(mut active: ActiveConfig, dir: &Path) -> ActiveConfig {
    std::fs::write(dir.join("secret"), "x").unwrap();
    let sink = serde_json::json!({ "type": "webhook", "url": "http://127.0.0.1:9/", "secret_file": dir.join("secret") });
    let mut route = alert::RouteConfig::new("ops", serde_json::from_value(sink).unwrap());
    (route.min_severity, route.labels) = (evidence::Severity::Critical, vec!["operator=acme".into()]);
    active.routes = Routes::new(&[route], RetryPolicy::DEFAULT).unwrap();
    active
}

/// What was told about orders, as kind, news and how it ended; each with a delivery for the route.
fn told(store: &Store) -> Vec<String> {
    let findings = store.findings_after(0, 100).unwrap();
    let about_orders = findings.into_iter().filter(|(_, finding)| finding.offence().is_none());
    let text = |(seq, finding): (u64, Finding)| {
        assert_eq!(store.deliveries_of(seq).unwrap().len(), 1, "{finding:?}");
        let detail =
            |name: &str| finding.details.as_ref().and_then(|details| details.get(name)?.as_str()).unwrap_or_default().to_owned();
        format!("{} {} {}", finding.kind, detail("news"), detail("ended")).trim().to_owned()
    };
    about_orders.map(text).collect()
}

/// Asserts that the metrics count the only switch in this stage.
fn assert_counted(switches: &KillSwitches, stage: SwitchStage) {
    let counted = SwitchStage::ALL.map(|one| switches.context.metrics.kill_switches.with_label_values(&[one.label()]).get());
    assert_eq!(counted, SwitchStage::ALL.map(|one| i64::from(one == stage)), "{stage:?}");
}

/// Waits for the only order under way, and notes its result.
async fn end_order(switches: &mut KillSwitches, orders: &mut JoinSet<EndedOrder>) {
    let ended = orders.join_next().await.expect("an order");
    switches.record_result(ended);
}

#[tokio::test]
async fn a_failed_order_is_told_once_and_so_is_that_a_later_one_stopped_them_after_all() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
    let command = script(dir.path(), "test -e works || { echo client 2 is away; exit 1; }");
    let active = with_route(in_force(|switch| switch.command = vec![command.clone()]), dir.path());
    let start = |store: Store| {
        let mut switches = KillSwitches::new(store, context(dir.path())).unwrap();
        switches.order_again = Backoff::new(Duration::ZERO, Duration::ZERO);
        switches.arm(&active).unwrap();
        switches
    };
    let (store, mut orders) = (open(), JoinSet::new());
    let mut switches = start(store.clone());
    assert_counted(&switches, SwitchStage::Ready);
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    switches.examine(&mut orders).unwrap();
    assert_counted(&switches, SwitchStage::Ordered);
    end_order(&mut switches, &mut orders).await;
    assert_eq!(told(&store), ["kill_switch_failed"]);
    assert_counted(&switches, SwitchStage::Failed);
    let (_, alarm) = store.findings_after(1, 1).unwrap().remove(0);
    assert_eq!(alarm.severity, evidence::Severity::Critical);
    assert!(alarm.has_label("group=acme") && alarm.has_label("operator=acme"), "{alarm:?}");
    let note = switches.notes()(&alarm, NOW).remove(0).result.unwrap();
    assert!(note.starts_with("its order FAILED (attempt 1): ") && note.contains("client 2 is away"), "{note}");
    let incident = |state: evidence::IncidentState| {
        let stored = store.incidents_after(0, 10).unwrap();
        stored.iter().filter(|(_, incident)| incident.state == state).count()
    };
    assert_eq!(incident(evidence::IncidentState::Open), 1);

    // Neither a restart nor a further failure tells it again.
    drop(switches);
    let mut switches = start(store.clone());
    switches.plan_repeats();
    switches.save("the start");
    switches.repeat_orders(&mut orders);
    assert_eq!(orders.len(), 1);
    end_order(&mut switches, &mut orders).await;
    assert_eq!(told(&store), ["kill_switch_failed"]);

    std::fs::write(dir.path().join("works"), []).unwrap();
    switches.repeat_orders(&mut orders);
    end_order(&mut switches, &mut orders).await;
    assert_eq!(told(&store), ["kill_switch_failed", "kill_switch_failed over stopped"]);
    assert_eq!((incident(evidence::IncidentState::Open), incident(evidence::IncidentState::Closed)), (0, 1));
    let fired = switches.state().borrow().fired["acme"].clone();
    assert_eq!((fired.attempts, fired.is_done()), (3, Some(true)));
    assert_counted(&switches, SwitchStage::Done);
    switches.repeat_orders(&mut orders);
    assert!(orders.is_empty(), "what is done is not repeated");
    assert_eq!(std::fs::read_to_string(dir.path().join("runs")).unwrap().lines().count(), 3);
}

/// The switch is away when its order is due, the finding was never recorded, or both, with a
/// restart in between: the order is given as soon as it can be.
#[tokio::test]
async fn an_order_is_repeated_although_its_switch_was_away_and_its_finding_not_recorded() {
    for (is_recorded, is_interrupted) in [(true, false), (false, false), (true, true), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
        let active = in_force(|switch| switch.command = vec!["/bin/false".into()]);
        let without = ActiveConfig::new(WatchConfig::default(), WatchList::default());
        let start = |active: &ActiveConfig| {
            let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
            switches.order_again = Backoff::new(Duration::ZERO, Duration::ZERO);
            switches.arm(active).unwrap();
            switches.plan_repeats();
            switches
        };
        let (mut switches, mut orders) = (start(&active), JoinSet::new());
        let offence = finding(DOUBLE_VOTE, 5, &OWN, SOON);
        if is_recorded {
            store.record_anomalies(vec![offence], &[]).unwrap();
            switches.examine(&mut orders).unwrap();
        } else {
            switches.examine_unrecorded(&[offence], &mut orders);
        }
        if is_interrupted {
            orders.shutdown().await;
            drop(switches);
            switches = start(&without);
        } else {
            end_order(&mut switches, &mut orders).await;
            switches.use_switches(&without).unwrap();
        }
        switches.repeat_orders(&mut orders);
        assert!(orders.is_empty(), "there is no switch");
        switches.use_switches(&active).unwrap();
        switches.repeat_orders(&mut orders);
        let case = format!("recorded: {is_recorded}, interrupted: {is_interrupted}");
        assert_eq!((orders.len(), switches.state.fired["acme"].attempts), (1, 2), "{case}");
        switches.repeat_orders(&mut orders);
        assert_eq!(orders.len(), 1, "once: {case}");
    }
}

#[tokio::test]
async fn an_order_that_fails_is_over_when_the_switch_is_made_ready_again_without_a_watcher() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
    let active = with_route(in_force(|switch| switch.command = vec!["/bin/false".into()]), dir.path());
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&active).unwrap();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let mut orders = JoinSet::new();
    switches.examine(&mut orders).unwrap();
    end_order(&mut switches, &mut orders).await;
    drop(switches);
    assert!(KillSwitchState::rearm(&store, "acme", NOW).unwrap());
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&active).unwrap();
    let (_lists, changed) = watch::channel(Arc::new(active));
    let stop = CancellationToken::new();
    stop.cancel();
    switches.run(changed, mpsc::channel(1).1, stop).await;
    assert_eq!(told(&store), ["kill_switch_failed", "kill_switch_failed over rearmed"]);
}

/// A report in which the keys 5, 6, .. have signed for these slots, and these epochs were heard.
fn heard(signed: &[Slot], since: Slot, until: Slot) -> WatchReport {
    let key = |(nth, slot): (u64, &Slot)| detect::watch::KeyStatus {
        validator: ValidatorIndex::new(5 + nth),
        pubkey: PubkeyBytes::default(),
        state: detect::watch::ChainState::ActiveOngoing,
        effective_balance: Default::default(),
        last_vote: None,
        last_signed: Some(*slot),
        missed_in_a_row: 0,
        due: 0,
        voted: 0,
        proposals: Default::default(),
        newest_source: None,
        effectiveness_permille: None,
    };
    let run = detect::watch::HeardRun { since, until };
    WatchReport { keys: (0..).zip(signed).map(key).collect(), heard: Some(run), slot: until, ..WatchReport::default() }
}

#[tokio::test]
async fn keys_that_sign_after_the_stop_are_told_until_they_are_silent() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
    let mut active = with_route(in_force(|_| ()), dir.path());
    Arc::make_mut(&mut active.list).add(Some("acme"), "6-8".parse().unwrap(), &[], Duty::Active).unwrap();
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&active).unwrap();
    store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
    let mut orders = JoinSet::new();
    switches.examine(&mut orders).unwrap();
    end_order(&mut switches, &mut orders).await;
    let is_done = |switches: &KillSwitches| switches.state().borrow().fired["acme"].is_done();
    assert_eq!((is_done(&switches), told(&store).len()), (Some(true), 0));

    let now = slots_ago(0);
    let members: Vec<ValidatorIndex> = (5..9).map(ValidatorIndex::new).collect();
    let hear = |switches: &mut KillSwitches, signed: &[Slot], until: Slot| {
        if switches.hear("acme", &members, &heard(signed, now, until)) {
            switches.save("a test");
        }
    };
    hear(&mut switches, &[after(32)], after(34));
    assert_eq!(is_done(&switches), Some(true), "it may have been signed before");
    hear(&mut switches, &[after(33)], after(34));
    assert_eq!(is_done(&switches), Some(true), "it may have been signed before, ahead of its slot");
    hear(&mut switches, &[after(36)], after(37));
    assert_eq!((is_done(&switches), told(&store)), (Some(false), vec!["signs_after_stop".to_owned()]));
    assert_counted(&switches, SwitchStage::Signing);
    hear(&mut switches, &[after(40); 2], after(41));
    hear(&mut switches, &[after(42); 3], after(43));
    assert_eq!(told(&store), ["signs_after_stop", "signs_after_stop worse"], "two keys, and not again for three");
    let fired = switches.state().borrow().fired["acme"].clone();
    let notice = fired.notice("acme");
    assert!(notice.starts_with("the kill switch of group acme fired at"), "{notice}");
    let dry = Fired { dry_run: true, ..fired }.notice("acme");
    assert!(dry.starts_with("the kill switch of group acme made a dry run, which stopped nothing, at"), "{dry}");
    assert!(notice.contains(&format!("keys 5, 6, 7 still sign since slot {}", after(33))), "{notice}");
    // A restart tells nothing again, and knows what was heard.
    drop(switches);
    let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
    switches.arm(&active).unwrap();
    switches.save("the start");
    assert_eq!((is_done(&switches), told(&store).len()), (Some(false), 2));
    hear(&mut switches, &[after(42); 3], after(43 + 63));
    assert_eq!(is_done(&switches), Some(false));
    hear(&mut switches, &[after(42); 3], after(43 + 64));
    assert_eq!(is_done(&switches), Some(true));
    assert_eq!(told(&store)[2..], ["signs_after_stop over silent"]);
    assert_counted(&switches, SwitchStage::Done);
    let notice = switches.state().borrow().fired["acme"].notice("acme");
    assert!(notice.contains(&format!("its keys are silent since slot {}", after(43))), "{notice}");
    // A client that starts again is told again.
    hear(&mut switches, &[after(200)], after(201));
    hear(&mut switches, &[after(232)], after(233));
    assert_eq!(told(&store)[3..], ["signs_after_stop"]);
}

/// Validator 7 has the group's withdrawal credentials only, and nobody stops it.
#[tokio::test]
async fn a_stranger_with_the_groups_credentials_who_goes_on_voting_is_no_failed_stop() {
    for (members, wanted) in [(MembersConfig::Named, Some(true)), (MembersConfig::All, Some(false))] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
        let mut switches = KillSwitches::new(store.clone(), context(dir.path())).unwrap();
        switches.arm(&in_force(|switch| switch.members = members)).unwrap();
        store.record_anomalies(vec![finding(DOUBLE_VOTE, 5, &OWN, SOON)], &[]).unwrap();
        let mut orders = JoinSet::new();
        switches.examine(&mut orders).unwrap();
        end_order(&mut switches, &mut orders).await;
        let ours = [5, 7].map(ValidatorIndex::new);
        for slot in [after(40), after(60)] {
            switches.hear("acme", &ours, &heard(&[slots_ago(0), slots_ago(0), slot], after(0), slot));
        }
        assert_eq!(switches.state.fired["acme"].is_done(), wanted, "{members:?}");
        switches.hear("acme", &ours, &heard(&[slots_ago(0), slots_ago(0), after(60)], after(0), after(65)));
        let after_stop = switches.state.fired["acme"].after_stop.as_ref().unwrap();
        assert_eq!(after_stop.silent_since.is_some(), members == MembersConfig::Named, "{members:?}");
    }
}

/// The finding of a double vote and its proof, which is this text.
fn with_proof(text: &str) -> (Finding, Arc<evidence::Evidence>) {
    let kind = evidence::EvidenceKind::AttesterSlashing;
    let proof = evidence::Evidence::new(kind, consensus::ForkName::Fulu, text.into(), serde_json::json!({}));
    let id = anomaly_id(Root::ZERO, &DOUBLE_VOTE, text.as_bytes());
    let reference = Some(proof.reference());
    let offence = finding(DOUBLE_VOTE, 5, &OWN, SOON);
    (Finding { id, evidence: reference, punishable: Some(Punishable::Yes), ..offence }, Arc::new(proof))
}

#[tokio::test]
async fn a_proof_that_is_not_genuine_stops_nothing_and_a_check_that_fails_stops_no_stop() {
    for (answer, is_stopped, wanted) in [
        ("echo genuine: double vote of 5; exit 0", true, None),
        ("echo NOT genuine: a signature does not hold; exit 1", false, Some("a signature does not hold")),
        ("echo no keys >&2; exit 65", true, Some("no keys")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
        // It finds the proof, and the data directory as the network's folder.
        let check = format!(
            "test \"$1 $3 $4\" = \"verify-proof --network {}\" && test -s \"$2\" || exit 64; {answer}",
            dir.path().display()
        );
        let program = script(dir.path(), &check).into();
        let stop = dir.path().join("stopped");
        let active = with_route(
            in_force(|switch| {
                (switch.command, switch.second_check) = (vec!["/bin/touch".into(), stop.display().to_string()], true);
            }),
            dir.path(),
        );
        let mut switches = KillSwitches::new(store.clone(), SwitchContext { program, ..context(dir.path()) }).unwrap();
        switches.arm(&active).unwrap();
        let (offence, proof) = with_proof("proof");
        store.record(vec![(offence.clone(), proof)], &[]).unwrap();
        let mut orders = JoinSet::new();
        switches.examine(&mut orders).unwrap();
        end_order(&mut switches, &mut orders).await;
        assert_eq!(stop.exists(), is_stopped, "{answer}");
        let state = switches.state().borrow().clone();
        assert_eq!(state.fired.contains_key("acme"), is_stopped, "{answer}");
        let note = switches.notes()(&offence, NOW).remove(0);
        assert_eq!(note.fires, is_stopped, "{answer}");
        assert_eq!(told(&store), wanted.map_or(vec![], |_| vec!["proof_not_confirmed"]), "{answer}");
        if let Some(reason) = wanted {
            let (_, alarm) = store.findings_after(1, 1).unwrap().remove(0);
            let result = switches.notes()(&alarm, NOW).remove(0).result.unwrap();
            assert!(result.contains(reason) && state.unconfirmed["acme"].notice("acme").contains(reason), "{result}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("killswitch")).unwrap().count(), 0, "the file is removed");
        // It is told once, and the finding is not examined again.
        switches.save("a test");
        switches.examine(&mut orders).unwrap();
        assert!(orders.is_empty());
        assert_eq!(told(&store).len(), usize::from(wanted.is_some()));
    }
}

/// A proof that is not genuine comes in one page with a genuine one, and after a restart the
/// genuine one is looked at. The same if it came during the check and could not be recorded.
#[tokio::test]
async fn a_proof_that_is_not_genuine_hides_nothing_that_came_during_its_check() {
    for is_recorded in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("evidence"), Root::ZERO).unwrap();
        let answer = "read proof < \"$2\"; case $proof in bad) echo NOT genuine: x; exit 1;; esac; echo genuine: y";
        let program: PathBuf = script(dir.path(), answer).into();
        let start = || {
            let context = SwitchContext { program: program.clone(), ..context(dir.path()) };
            let mut switches = KillSwitches::new(store.clone(), context).unwrap();
            switches.arm(&in_force(|switch| switch.second_check = true)).unwrap();
            switches
        };
        let (bad, good) = (with_proof("bad\n"), with_proof("good\n"));
        let (mut switches, mut orders) = (start(), JoinSet::new());
        if is_recorded {
            store.record(vec![bad, good.clone()], &[]).unwrap();
            switches.examine(&mut orders).unwrap();
        } else {
            store.record(vec![bad], &[]).unwrap();
            switches.examine(&mut orders).unwrap();
            switches.examine_unrecorded(std::slice::from_ref(&good.0), &mut orders);
        }
        assert_eq!(orders.len(), 1, "one check at a time");
        end_order(&mut switches, &mut orders).await;
        assert!(switches.state.fired.is_empty(), "it stops nothing");
        if is_recorded {
            drop(switches);
            switches = start();
        }
        switches.examine(&mut orders).unwrap();
        assert_eq!(orders.len(), 1, "recorded: {is_recorded}");
        end_order(&mut switches, &mut orders).await;
        let fired = &switches.state.fired["acme"];
        assert_eq!((fired.finding, fired.is_done()), (good.0.id, Some(true)));
        switches.examine(&mut orders).unwrap();
        assert!(orders.is_empty() && switches.state.behind.is_empty());
    }
}
