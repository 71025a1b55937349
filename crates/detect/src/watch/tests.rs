//! Tests of lists against a simulated registry of 64 validators.

use super::*;
use chain::{Chain, PubkeyCache, Registry};
use consensus::{ExecutionAddress, Slot, Spec, ValidatorIndex};
use simulator::{Scenario, record};
use sources::capture::{CaptureReader, Entry as CaptureEntry};

fn chain() -> Chain {
    let (bytes, _) = record::capture_bytes(&Scenario { slots: 1, ..Scenario::quiet(64) }).unwrap();
    let (mut config, mut state) = (None, None);
    for located in CaptureReader::new(bytes.as_slice()) {
        match located.unwrap().entry {
            CaptureEntry::Config(text) => config = Some(text),
            CaptureEntry::State(ssz) => state = Some(ssz),
            _ => {}
        }
    }
    let spec = Spec::from_yaml(&config.unwrap()).unwrap();
    Chain::from_state(spec, &state.unwrap(), &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

fn index(n: u64) -> ValidatorIndex {
    ValidatorIndex::new(n)
}

fn label(text: &str) -> Label {
    let (key, value) = text.split_once('=').unwrap();
    Label::new(key, value).unwrap()
}

/// Makes a list from rows of `group or -, selector, labels, duty`.
fn list(rows: &[(&str, String, &[&str], Duty)]) -> WatchList {
    let mut list = WatchList::default();
    for (group, selector, labels, duty) in rows {
        let labels: Vec<Label> = labels.iter().map(|text| label(text)).collect();
        list.add((*group != "-").then_some(group), selector.parse().unwrap(), &labels, *duty).unwrap();
    }
    list
}

fn check(labels: &Labels, validator: u64, wanted: &[&str]) {
    assert_eq!(labels.strings(index(validator)), wanted, "validator {validator}");
}

#[test]
fn every_kind_of_entry_finds_its_validators() {
    let chain = chain();
    let registry: &Registry = chain.registry();
    let pubkey = registry.pubkey_bytes(index(3)).unwrap();
    let stranger = consensus::PubkeyBytes::repeat_byte(0xab);
    let credentials = registry.withdrawal_credentials(index(5)).unwrap();
    let address = ExecutionAddress::repeat_byte(0xfe);
    let list = list(&[
        ("acme", pubkey.to_string(), &["operator=acme"], Duty::Active),
        ("acme", stranger.to_string(), &[], Duty::Active),
        ("acme", "10-12".into(), &["operator=acme", "client=teku"], Duty::Active),
        ("moving", "12".into(), &[], Duty::Migrating),
        ("fees", address.to_string(), &[], Duty::Active),
        ("creds", credentials.to_string(), &[], Duty::Active),
        ("far", "60-18446744073709551615".into(), &[], Duty::Active),
        ("far", "18446744073709551615".into(), &[], Duty::Active),
        ("-", "11-13".into(), &["operator=entity", "pool=blue"], Duty::Active),
    ]);
    let mut payers = FeePayers::default();
    payers.watch([address]);
    assert!(payers.seen(index(20), address));
    assert!(!payers.seen(index(20), address), "known");
    assert!(!payers.seen(index(21), ExecutionAddress::repeat_byte(1)), "nobody watches that one");
    let labels = Labels::resolve(&list, registry, &payers);
    check(&labels, 10, &["client=teku", "group=acme", "operator=acme"]);
    check(&labels, 11, &["client=teku", "group=acme", "operator=acme", "pool=blue"]);
    check(&labels, 12, &["client=teku", "group=acme", "group=moving", "operator=acme", "pool=blue"]);
    check(&labels, 13, &["operator=entity", "pool=blue"]);
    check(&labels, 20, &["group=fees"]);
    check(&labels, 21, &[]);
    check(&labels, 63, &["group=far"]);
    assert_eq!(labels.of(ValidatorIndex::MAX), &[]);
    assert!(labels.strings(index(3)).contains(&"operator=acme".to_owned()));
    assert_eq!(labels.value(index(11), "operator"), Some("acme"), "a group goes before a list of other people's keys");
    assert!(labels.is_watched(index(12)) && !labels.is_watched(index(13)));
    assert!(labels.get(index(12)).unwrap().duty.is_dormant(), "the dormant duty counts");
    let group = |name: &str| labels.groups().iter().find(|group| &*group.name == name).unwrap();
    assert_eq!(group("acme").unknown, [stranger]);
    assert_eq!(group("acme").validators, [3, 10, 11, 12].map(index));
    assert_eq!(group("far").validators, [60, 61, 62, 63].map(index));
    let with_credentials: Vec<_> =
        (0..64).map(index).filter(|v| registry.withdrawal_credentials(*v) == Some(credentials)).collect();
    assert_eq!(group("creds").validators, with_credentials);
    assert_eq!(labels.watched().count(), labels.n_watched());
    assert_eq!(labels.n_labelled("operator", "acme"), 4);
}

/// Lists of others cannot give a validator labels without end, nor take the place of its group's.
#[test]
fn of_a_validator_a_bounded_number_of_labels_counts_and_its_groups_come_first() {
    let chain = chain();
    let own: &[&str] = &["operator=acme", "cluster=eu-1"];
    let mut rows = vec![("acme", "5".to_owned(), own, Duty::Active)];
    let many: Vec<String> = (0..1_000).map(|nth| format!("a{nth:03}=x")).collect();
    let many: Vec<[&str; 1]> = many.iter().map(|text| [text.as_str()]).collect();
    rows.extend(many.iter().map(|label| ("-", "4-6".to_owned(), &label[..], Duty::Active)));
    let labels = Labels::resolve(&list(&rows), chain.registry(), &FeePayers::default());
    for (validator, is_own) in [(4, false), (5, true)] {
        let found = labels.strings(index(validator));
        assert_eq!(found.len(), 32, "{found:?}");
        assert_eq!(found.contains(&"group=acme".to_owned()) && found.contains(&"operator=acme".to_owned()), is_own);
        assert!(labels.listed_strings(index(validator)).len() <= 32);
    }
    assert_eq!(labels.n_cut(), 3);
    check(&labels, 7, &[]);
}

#[test]
fn labels_are_checked() {
    assert_eq!(Label::new("group", "x"), Err(LabelError::Reserved));
    assert!(Label::new("a b", "x").is_err() && Label::new("a", "").is_err() && Label::new("a", "x\ny").is_err());
    assert!(Label::new("a", &"x".repeat(129)).is_err());
    assert_eq!("operator=acme=x".parse::<Label>().unwrap(), Label { key: "operator".into(), value: "acme=x".into() });
    let mut list = WatchList::default();
    assert!(list.add_group("a/b").is_err());
    for n in 0..MAX_GROUPS {
        list.add_group(&n.to_string()).unwrap();
    }
    assert_eq!(list.add_group("one more"), Err(ListError::Label(LabelError::Key("one more".into()))));
    assert_eq!(list.add_group("one-more"), Err(ListError::TooManyGroups));
    assert!(list.add_group("7").is_ok(), "known");
}

#[test]
fn duties_of_keys_that_a_kill_switch_stopped_do_not_count_until_they_vote_again() {
    let chain = chain();
    let rows = [("acme", "10-12".to_owned(), &[][..], Duty::Active), ("blue", "20".to_owned(), &[][..], Duty::Active)];
    let labels = Labels::resolve(&list(&rows), chain.registry(), &FeePayers::default());
    let mut flapping = flapping::FlappingLabels::default();
    let mut counted = |stopped: &[&str], duties: &[(u64, bool)]| -> Vec<(u64, bool)> {
        let duties = duties.iter().map(|(validator, voted)| (index(*validator), *voted)).collect();
        let groups = stopped.iter().map(|group| (*group).to_owned()).collect();
        let left = flapping.without_stopped([(Slot::new(1), duties)].into(), &groups, &labels);
        left.into_values().flatten().map(|(validator, voted)| (validator.as_u64(), voted)).collect()
    };
    assert_eq!(counted(&["acme"], &[(10, true), (11, false), (20, false)]), [(20, false)], "voted before the stop, or missed");
    assert_eq!(counted(&[], &[(10, false), (11, true), (20, true)]), [(11, true), (20, true)], "10 is not started yet");
    assert_eq!(counted(&[], &[(10, true), (11, false)]), [(10, true), (11, false)]);
}
