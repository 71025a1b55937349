//! The rules for reading a configuration, one test for each.

use consensus::{BlobParameters, Epoch, ForkName, LaterFork, Network, PresetName, Root, Slot, Spec};
use std::time::Duration;

fn read(text: &str) -> Spec {
    Spec::from_yaml(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn forks(spec: &Spec) -> Vec<(ForkName, u64)> {
    spec.forks.iter().map(|fork| (fork.name, fork.epoch.as_u64())).collect()
}

#[test]
fn missing_keys_have_the_presets_values() {
    let spec = read("PRESET_BASE: 'minimal'\nALTAIR_FORK_EPOCH: 3\n");
    assert_eq!(spec.preset.name, PresetName::Minimal);
    assert_eq!(spec.slot_duration, Duration::from_secs(6));
    assert_eq!(forks(&spec), [(ForkName::Phase0, 0), (ForkName::Altair, 3)]);
    assert_eq!(spec.forks[0].version, [0, 0, 0, 1]);
    assert_eq!(spec.forks[1].version, [1, 0, 0, 1]);
    assert_eq!(read("{}").preset.name, PresetName::Mainnet);
    assert_eq!(read("PRESET_BASE: gnosis").slot_duration, Duration::from_secs(5));
}

#[test]
fn forks_never_happen_at_the_end_of_time_and_the_last_of_an_epoch_counts() {
    let spec = read("ALTAIR_FORK_EPOCH: 18446744073709551615\nBELLATRIX_FORK_EPOCH: '18446744073709551615'\n");
    assert_eq!(spec.fork_name_at(Epoch::MAX), ForkName::Phase0);
    let spec = read("ALTAIR_FORK_EPOCH: 0\nBELLATRIX_FORK_EPOCH: 0\nCAPELLA_FORK_EPOCH: 5\nDENEB_FORK_EPOCH: 5\n");
    assert_eq!(
        [0, 4, 5].map(|epoch| spec.fork_name_at(Epoch::new(epoch))),
        [ForkName::Bellatrix, ForkName::Bellatrix, ForkName::Deneb]
    );
    assert_eq!(spec.state_fork_at(Epoch::new(5)).previous_version, [3, 0, 0, 0], "states are upgraded through Capella");
    let spec = read("ELECTRA_FORK_EPOCH: 9\nFULU_FORK_EPOCH: 7\n");
    assert_eq!(forks(&spec), [(ForkName::Phase0, 0), (ForkName::Fulu, 7)], "a fork that a later one precedes never counts");
}

#[test]
fn of_a_key_given_twice_the_last_counts() {
    assert_eq!(read("SECONDS_PER_SLOT: 12\nCONFIG_NAME: a\nSECONDS_PER_SLOT: 6\n").slot_duration, Duration::from_secs(6));
}

#[test]
fn milliseconds_go_before_seconds() {
    assert_eq!(read("SECONDS_PER_SLOT: 12\nSLOT_DURATION_MS: 6500").slot_duration, Duration::from_millis(6500));
    assert_eq!(read("SECONDS_PER_SLOT: 3").slot_duration, Duration::from_secs(3));
    assert!(Spec::from_yaml("SECONDS_PER_SLOT: 0").is_err());
    assert!(Spec::from_yaml("SECONDS_PER_SLOT: 18446744073709551615").is_err());
}

#[test]
fn votes_are_due_earlier_from_gloas_on() {
    let spec = read("SECONDS_PER_SLOT: 12\nGLOAS_FORK_EPOCH: 2\n");
    assert_eq!(spec.attestation_due(Slot::new(63)), Duration::from_secs(4));
    assert_eq!(spec.attestation_due(Slot::new(64)), Duration::from_secs(3));
}

#[test]
fn versions_are_read_in_every_writing() {
    for text in ["GENESIS_FORK_VERSION: 0x01017000", "GENESIS_FORK_VERSION: '0x01017000'", "GENESIS_FORK_VERSION: \"0x01017000\""]
    {
        assert_eq!(read(text).forks[0].version, [1, 1, 0x70, 0]);
    }
    assert_eq!(read("GENESIS_FORK_VERSION: 0x00000064").forks[0].version, [0, 0, 0, 0x64]);
    for text in ["GENESIS_FORK_VERSION: 'x'", "GENESIS_FORK_VERSION: '0x0101'", "GENESIS_FORK_VERSION: 0x0102030405"] {
        let error = Spec::from_yaml(text).expect_err(text).to_string();
        assert!(error.contains("GENESIS_FORK_VERSION") && error.contains("correct it"), "{error}");
    }
}

#[test]
fn an_empty_blob_schedule_leaves_electras_parameters() {
    let spec = read("ELECTRA_FORK_EPOCH: 4\nFULU_FORK_EPOCH: 6\nMAX_BLOBS_PER_BLOCK_ELECTRA: 7\nBLOB_SCHEDULE: []\n");
    let electra = BlobParameters { epoch: Epoch::new(4), max_blobs_per_block: 7 };
    assert_eq!(spec.blob_parameters_at(Epoch::new(100)), electra);
    let spec = read(
        "ELECTRA_FORK_EPOCH: 4\nFULU_FORK_EPOCH: 6\nBLOB_SCHEDULE:\n  - {EPOCH: 30, MAX_BLOBS_PER_BLOCK: 21}\n  - EPOCH: 20\n    MAX_BLOBS_PER_BLOCK: 15\n",
    );
    assert_eq!(spec.blob_parameters_at(Epoch::new(19)).max_blobs_per_block, 9);
    assert_eq!(spec.blob_parameters_at(Epoch::new(29)).max_blobs_per_block, 15);
    assert_eq!(spec.blob_parameters_at(Epoch::new(30)).max_blobs_per_block, 21);
    assert!(Spec::from_yaml("BLOB_SCHEDULE: [{EPOCH: x}]").is_err());
    assert!(Spec::from_yaml("BLOB_SCHEDULE: 7").is_err());
}

#[test]
fn unknown_keys_of_any_shape_are_ignored_and_bad_files_explained() {
    let odd = "TERMINAL_TOTAL_DIFFICULTY: 58750000000000000000000\nX: [1, {a: ~}]\nY: {z: 1.5}\nTRUE_THING: true\n\
               TERMINAL_BLOCK_HASH: 0x0000000000000000000000000000000000000000000000000000000000000000\n";
    assert_eq!(read(odd).forks.len(), 1);
    for bad in
        ["- 1\n- 2\n", "PRESET_BASE: 'other'", "ALTAIR_FORK_EPOCH: soon", "SLOTS_PER_EPOCH: 0", "MAX_COMMITTEES_PER_SLOT: 65"]
    {
        let error = Spec::from_yaml(bad).expect_err(bad).to_string();
        assert!(error.len() > 20, "{error}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    for text in [
        "PRESET_BASE: minimal\nCONFIG_NAME: 'a \"quoted\" name: #1'\nELECTRA_FORK_EPOCH: 0\nFULU_FORK_EPOCH: 0\nGLOAS_FORK_EPOCH: 2\n",
        "SLOTS_PER_EPOCH: 6\nSLOT_DURATION_MS: 12345\nELECTRA_FORK_EPOCH: 18446744073709551615\nBLOB_SCHEDULE: [{EPOCH: 3, MAX_BLOBS_PER_BLOCK: 4}]\n",
        "PRESET_BASE: gnosis\nELECTRA_FORK_EPOCH: 3\nFULU_FORK_EPOCH: 3\nFULU_FORK_VERSION: 0x90000075\n",
    ] {
        let spec = read(text);
        assert_eq!(read(&spec.to_yaml()), spec, "{}", spec.to_yaml());
    }
}

/// A fork that is not known is in the schedule with its digest, and has no containers.
#[test]
fn a_fork_that_is_not_known_is_scheduled_by_its_digest() {
    let known = "FULU_FORK_EPOCH: 0\nGLOAS_FORK_EPOCH: 2\n";
    let text = format!("{known}I_STAR_FORK_VERSION: 0x09000000\nI_STAR_FORK_EPOCH: 7\nNEVER_FORK_EPOCH: 18446744073709551615\n");
    let before = read(known);
    let spec = read(&text);
    let later = LaterFork { name: "i_star".into(), epoch: Epoch::new(7), version: [9, 0, 0, 0] };
    assert_eq!(spec.later_forks, std::slice::from_ref(&later));
    assert_eq!((spec.later_fork_at(Epoch::new(6)), spec.later_fork_at(Epoch::new(7))), (None, Some(&later)));
    assert_eq!(spec.known_fork_at(Epoch::new(6)), Some(ForkName::Gloas));
    assert_eq!(spec.known_fork_at(Epoch::new(7)), None);
    assert!(spec.is_version_uncertain(Epoch::new(7), Epoch::new(9)) && !spec.is_version_uncertain(Epoch::new(6), Epoch::new(9)));
    assert_eq!(Spec::from_yaml(&spec.to_yaml()).expect("our own"), spec);
    let of = |spec| Network { spec, genesis_time: 0, genesis_validators_root: Root::repeat_byte(3) };
    let (before, network) = (of(before), of(spec));
    let digest = network.fork_digest_at(Epoch::new(7));
    assert_eq!(network.fork_digest_at(Epoch::new(6)), before.fork_digest_at(Epoch::new(6)));
    assert_ne!(digest, before.fork_digest_at(Epoch::new(7)));
    let digests = network.fork_digests();
    assert_eq!((digests.contains(digest), digests.fork_of(digest)), (true, None));
    assert!(!before.fork_digests().contains(digest));
    assert_eq!(network.digests().last(), Some(&(digest, Epoch::new(7), None)));
}

/// What a configuration names beside its forks, or with an epoch that nobody means, changes
/// nothing: not what can be proven, not the digests, and not what our record announces.
#[test]
fn keys_of_features_and_of_no_later_fork_change_nothing() {
    let known = "DENEB_FORK_EPOCH: 0\nELECTRA_FORK_EPOCH: 2\nFULU_FORK_EPOCH: 5\n";
    for extra in [
        "EIP7594_FORK_EPOCH: 100000001\n",
        "EIP7594_FORK_EPOCH: 10\nEIP7594_FORK_VERSION: 0x06000001\n",
        "EIP7441_FORK_EPOCH: 10\nEIP7441_FORK_VERSION: 0x08000000\n",
        "WHISK_FORK_EPOCH: 10\nWHISK_FORK_VERSION: 0x08000000\n",
        "OSAKA_FORK_EPOCH: 10\n",
        "OSAKA_FORK_EPOCH: 10\nOSAKA_FORK_VERSION: 0x06000000\n",
        "OSAKA_FORK_EPOCH: 4\nOSAKA_FORK_VERSION: 0x09000000\n",
        "GENESIS_FORK_EPOCH: 0\n",
        "GENESIS_FORK_EPOCH: 7\nPHASE0_FORK_EPOCH: 7\nPHASE0_FORK_VERSION: 0x09000000\n",
    ] {
        assert_eq!(read(&format!("{known}{extra}")), read(known), "{extra}");
    }
    let mut spec = read(known);
    let earlier = "FULU_FORK_EPOCH: 5\nI_FORK_EPOCH: 6\nI_FORK_VERSION: 0x06500000\n";
    let ours = "FULU_FORK_EPOCH: 5\nGLOAS_FORK_EPOCH: 8\n";
    assert!(spec.follow_schedule_of(&read(earlier), Epoch::new(0)), "it is after the forks that both have");
    assert!(!read(ours).follow_schedule_of(&read(earlier), Epoch::new(9)), "and not after those that we have");
}

/// A fork that is not known and begins with a known one is in force, if its version is higher.
#[test]
fn of_forks_of_one_epoch_the_one_with_the_higher_version_is_in_force() {
    let fork_at = |text: &str, epoch: u64| read(text).known_fork_at(Epoch::new(epoch));
    let same = "HEZE_FORK_EPOCH: 5\nI_FORK_EPOCH: 5\n";
    assert_eq!(fork_at(same, 5), Some(ForkName::Heze), "nothing says that it is a later one");
    assert_eq!(fork_at(&format!("{same}I_FORK_VERSION: 0x09000000\n"), 5), None);
    assert_eq!(fork_at(&format!("{same}I_FORK_VERSION: 0x01000000\n"), 5), Some(ForkName::Heze));
}

#[test]
fn unknown_forks_are_bounded_and_nonsense_is_ignored() {
    let many: String =
        (0..1000).map(|nth| format!("F{nth}_FORK_EPOCH: {}\nF{nth}_FORK_VERSION: 0x09000000\n", 5000 - nth)).collect();
    let later = read(&many).later_forks;
    assert_eq!((later.len(), later[0].epoch), (16, Epoch::new(4001)));
    let long = "X".repeat(1_000);
    for (name, epoch, version) in [
        ("A", "x", "0x09000000"),
        ("A", "[1]", "0x09000000"),
        ("A", "5", "0x0100000000"),
        ("A", "5", "[1]"),
        ("a", "5", "0x09000000"),
        ("", "5", "0x09000000"),
        (long.as_str(), "5", "0x09000000"),
    ] {
        let of = |name: &str| read(&format!("{name}_FORK_EPOCH: {epoch}\n{name}_FORK_VERSION: {version}\n")).later_forks;
        assert_eq!(of(name), [], "{name:.9} {epoch} {version}");
    }
    assert_eq!(read("A_FORK_EPOCH: 5\nA_FORK_VERSION: 0x09000000\n").later_forks.len(), 1);
}

/// A node knows forks that were scheduled after this program, or its configuration, was made.
#[test]
fn the_schedule_of_an_own_node_is_followed() {
    let ours = "FULU_FORK_EPOCH: 3\nBLOB_SCHEDULE:\n  - EPOCH: 4\n    MAX_BLOBS_PER_BLOCK: 15\n";
    let theirs = "FULU_FORK_EPOCH: 9\nGLOAS_FORK_EPOCH: 5\nHEZE_FORK_EPOCH: 8\nI_FORK_EPOCH: 20\nI_FORK_VERSION: 0x09000000\n\
                  BLOB_SCHEDULE:\n  - EPOCH: 2\n    MAX_BLOBS_PER_BLOCK: 9\n  - EPOCH: 7\n    MAX_BLOBS_PER_BLOCK: 21\n";
    // Fulu has begun here, so it is not moved any more.
    let now = Epoch::new(3);
    let mut spec = read(ours);
    assert!(!spec.follow_schedule_of(&read(ours), now));
    assert_eq!(spec, read(ours));
    assert!(spec.follow_schedule_of(&read(theirs), now));
    let wanted = [(ForkName::Phase0, 0), (ForkName::Fulu, 3), (ForkName::Gloas, 5), (ForkName::Heze, 8)];
    assert_eq!(forks(&spec), wanted, "what both have stays");
    let steps: Vec<u64> = spec.blob_schedule.iter().map(|step| step.epoch.as_u64()).collect();
    assert_eq!((steps, spec.later_forks[0].name.as_str()), (vec![4, 7], "i"));
    assert!(!spec.follow_schedule_of(&read(theirs), now), "once");
    // Another version of Heze is another draft. Of a fork that is final it is a slip of the node.
    let draft = "FULU_FORK_VERSION: 0x66000000\nFULU_FORK_EPOCH: 3\nHEZE_FORK_EPOCH: 8\nHEZE_FORK_VERSION: 0x88000000\n";
    assert!(spec.follow_schedule_of(&read(draft), now));
    assert_eq!(spec.fork_at(Epoch::new(4)).version, [6, 0, 0, 0]);
    assert_eq!((spec.known_fork_at(Epoch::new(7)), spec.known_fork_at(Epoch::new(8))), (Some(ForkName::Gloas), None));
    assert!(spec.later_fork_from(Epoch::new(0)).unwrap().notice().contains("forks to heze at epoch 8"));
}

/// A fork that is postponed, or comes earlier, and has begun in neither schedule.
#[test]
fn what_has_not_begun_moves_with_the_schedule_of_an_own_node() {
    let ours = "FULU_FORK_EPOCH: 3\nGLOAS_FORK_EPOCH: 10\nI_FORK_EPOCH: 30\nI_FORK_VERSION: 0x09000000\n\
                BLOB_SCHEDULE:\n  - EPOCH: 4\n    MAX_BLOBS_PER_BLOCK: 15\n  - EPOCH: 12\n    MAX_BLOBS_PER_BLOCK: 21\n";
    let theirs = "FULU_FORK_EPOCH: 3\nGLOAS_FORK_EPOCH: 20\nI_FORK_EPOCH: 25\nI_FORK_VERSION: 0x09000000\n\
                  BLOB_SCHEDULE:\n  - EPOCH: 4\n    MAX_BLOBS_PER_BLOCK: 15\n  - EPOCH: 22\n    MAX_BLOBS_PER_BLOCK: 21\n";
    let followed = |ours: &str, theirs: &str, now: u64| {
        let mut spec = read(ours);
        let changed = spec.follow_schedule_of(&read(theirs), Epoch::new(now));
        (changed, spec == read(theirs), spec == read(ours))
    };
    assert_eq!(followed(ours, theirs, 7), (true, true, false));
    assert_eq!(followed(theirs, ours, 7), (true, true, false), "and back");
    let told: Vec<u64> = read(ours).changes_by(&read(theirs), Epoch::new(7)).iter().map(|(_, epoch)| epoch.as_u64()).collect();
    assert_eq!(told, [10, 12, 20, 22, 25, 30]);
    // What has begun in one of the two is told and not followed.
    let told = read("FULU_FORK_EPOCH: 3\n").changes_by(&read("FULU_FORK_EPOCH: 5\n"), Epoch::new(7));
    assert_eq!(told, [("fulu".to_owned(), Epoch::new(5))]);
    // From the epoch before our Gloas on, nodes have subscribed to its topics: only what comes
    // later moves.
    assert_eq!(followed(ours, theirs, 9), (true, false, false));
    let begun = followed("GLOAS_FORK_EPOCH: 10\n", "GLOAS_FORK_EPOCH: 20\n", 40);
    assert_eq!(begun, (false, false, true), "what has begun in both is history");
    // Another order would have two forks in force at once.
    assert_eq!(followed("GLOAS_FORK_EPOCH: 10\nHEZE_FORK_EPOCH: 12\n", "GLOAS_FORK_EPOCH: 20\n", 7), (false, false, true));
}
