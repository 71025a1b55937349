//! What fires a switch, and that nothing on the way loses it.

use super::*;
use crate::config::{GroupConfig, MembersConfig, WatchConfig};
use consensus::{PubkeyBytes, ValidatorIndex};
use detect::watch::{Duty, WatchList};
use evidence::{Anomaly, Punishable, Subject};

fn finding(kind: &str, validator: u64, labels: &[&str], recorded_after: Duration) -> Finding {
    let heard = Time::from_unix_ns(1_700_000_000_000_000_000);
    Finding::anomaly(Anomaly {
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

/// Group `acme` with key 5 and everybody with some credentials, of operator `acme`; and a list that says whose else that is.
fn in_force(change: impl FnOnce(&mut KillSwitchConfig)) -> InForce {
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
    };
    config.groups = vec![group];
    InForce::new(config, list)
}

fn fires(on: TriggerConfig, members: MembersConfig, finding: &Finding) -> bool {
    let in_force = in_force(|switch| (switch.on, switch.members) = (vec![on], members));
    armed(&in_force).unwrap()["acme"].is_fired_by(finding)
}

const SOON: Duration = Duration::from_millis(5);
const OWN: [&str; 2] = ["group=acme", "operator=acme"];

#[test]
fn a_switch_fires_for_what_it_is_told_to_and_not_for_old_captures() {
    let named = |on: TriggerConfig, kind: &str, labels: &[&str]| fires(on, MembersConfig::Named, &finding(kind, 5, labels, SOON));
    assert!(named(TriggerConfig::Offence, "double_vote", &OWN));
    assert!(!named(TriggerConfig::Offence, "double_vote", &["operator=acme"]));
    assert!(!named(TriggerConfig::Offence, "dormant_key_signed", &OWN));
    assert!(!named(TriggerConfig::Offence, "missed_duties", &OWN));
    assert!(!named(TriggerConfig::KinOffence, "surround_vote", &["group=acmee", "operator=blue"]));
    assert!(named(TriggerConfig::DormantKeySigned, "dormant_key_signed", &OWN));
    let kin = |validator| finding("surround_vote", validator, &["operator=acme"], SOON);
    assert!(fires(TriggerConfig::KinOffence, MembersConfig::Named, &kin(6)), "the list names it");
    assert!(!fires(TriggerConfig::Offence, MembersConfig::Named, &kin(6)));
    let old = finding("double_vote", 5, &OWN, Duration::from_secs(86_400));
    assert!(!fires(TriggerConfig::Offence, MembersConfig::Named, &old), "from a capture of yesterday");
}

/// Validator 7 has the labels because its credentials, or a block it signed, say so.
#[test]
fn a_stranger_who_takes_on_the_groups_credentials_fires_nothing_unless_that_is_wanted() {
    let stranger = |punishable| Finding { punishable, ..finding("double_vote", 7, &OWN, SOON) };
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
    let dormant = finding("dormant_key_signed", 7, &OWN, SOON);
    assert!(!fires(TriggerConfig::DormantKeySigned, MembersConfig::Named, &dormant));
    // A key that is named fires whatever a block could do about it: somebody signs with it.
    let own = Finding { punishable: Some(Punishable::Withdrawable), ..finding("double_vote", 5, &OWN, SOON) };
    assert!(fires(TriggerConfig::Offence, MembersConfig::Named, &own));
}

/// A store that was written and can no longer be: findings are there, the ledger cannot follow.
#[tokio::test]
async fn a_switch_fires_although_its_ledger_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let found = finding("double_vote", 5, &OWN, SOON);
    {
        let store = Store::open(dir.path(), Root::ZERO).unwrap();
        Ledger { seen: Some(0), ..Ledger::default() }.write(&store).unwrap();
        store.record_anomalies(vec![found.clone()], &[]).unwrap();
    }
    let now = || Time::from_unix_ns(1_700_000_000_000_000_000);
    let mut switches = Switches::new(Store::open_read_only(dir.path()).unwrap(), now).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    let mut orders = JoinSet::new();
    assert!(switches.look(&mut orders).is_err());
    let (group, report) = orders.join_next().await.expect("one order").unwrap();
    assert_eq!((group.as_str(), report.result.is_ok()), ("acme", true));
    assert!(switches.look(&mut orders).is_err(), "it goes on trying to write");
    assert!(orders.is_empty(), "and orders once");
    assert_eq!(switches.ledger().borrow().fired["acme"].finding, found.id, "and shows what it did");

    // On a disk that takes it again nothing is lost: it looks from where the ledger stands.
    drop(switches);
    let mut switches = Switches::new(Store::open(dir.path(), Root::ZERO).unwrap(), now).unwrap();
    switches.arm(&in_force(|_| ())).unwrap();
    switches.look(&mut orders).unwrap();
    assert_eq!(orders.len(), 1);
    assert_eq!(Ledger::read(&switches.store).unwrap(), **switches.ledger().borrow());
}

/// Making one group's switch ready again takes nothing from the others, whose offences may still have to be looked at.
#[tokio::test]
async fn what_was_found_before_a_switch_was_made_ready_again_still_fires_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    Ledger { seen: Some(0), ..Ledger::default() }.write(&store).unwrap();
    store.record_anomalies(vec![finding("double_vote", 5, &OWN, SOON)], &[]).unwrap();
    let fires_after_rearming = |group: &str| {
        Ledger::rearm(&store, group).unwrap();
        let mut switches = Switches::new(store.clone(), || Time::from_unix_ns(1_700_000_000_000_000_000)).unwrap();
        switches.arm(&in_force(|_| ())).unwrap();
        let mut orders = JoinSet::new();
        switches.look(&mut orders).unwrap();
        let n = orders.len();
        switches.ledger = Ledger { seen: Some(0), ..Ledger::default() };
        switches.write().unwrap();
        n
    };
    assert_eq!(fires_after_rearming("others"), 1);
    assert_eq!(fires_after_rearming("acme"), 0);
}

/// What was recorded while everything stops is looked at before the switches do.
#[tokio::test]
async fn a_stop_looks_once_more_and_waits_for_what_it_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Root::ZERO).unwrap();
    let mut switches = Switches::new(store.clone(), || Time::from_unix_ns(1_700_000_000_000_000_000)).unwrap();
    let in_force = in_force(|_| ());
    switches.arm(&in_force).unwrap();
    let (_lists, changed) = watch::channel(Arc::new(in_force));
    let ledger = switches.ledger();
    store.record_anomalies(vec![finding("double_vote", 5, &OWN, SOON)], &[]).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    switches.run(changed, stop).await;
    assert!(ledger.borrow().fired["acme"].result.as_ref().expect("waited for").done);
}
