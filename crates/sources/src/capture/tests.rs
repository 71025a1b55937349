//! Tests the reader with the output of the writer, with damage at every offset, and with captures
//! that were made by others.

use super::*;
use crate::convert::MessageConverter;
use consensus::{Network, Root, Spec};
use proptest::prelude::*;
use std::sync::Arc;

fn any_entry() -> impl Strategy<Value = Entry> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        Just(Entry::Version),
        ".{0,200}".prop_map(Entry::Config),
        bytes(100_000).prop_map(Entry::State),
        bytes(3000).prop_map(Entry::Block),
        (any::<u64>(), bytes(255), "[a-z0-9/_é]{0,60}", bytes(600)).prop_map(|(at, peer, topic, payload)| {
            Entry::Gossip(GossipEntry { received_at: Time(at), peer, topic, payload })
        }),
        (any::<u64>(), ".{0,40}").prop_map(|(at, agent)| {
            Entry::PeerEvent(PeerEventEntry { at: Time(at), json: serde_json::json!({"event": "agent", "agent": agent}) })
        }),
        (any::<u64>(), ".{0,40}", "[a-z_]{0,20}", ".{0,100}")
            .prop_map(|(at, node, topic, json)| { Entry::ApiEvent(ApiEventEntry { at: Time(at), node, topic, json }) }),
    ]
}

fn written(entries: &[Entry]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = CaptureWriter::new(&mut file).unwrap();
    for entry in entries {
        writer.entry(entry).unwrap();
    }
    writer.flush().unwrap();
    let n_bytes = writer.n_bytes();
    assert_eq!(n_bytes, file.len() as u64);
    file
}

/// The entries, and the errors that were reported while reading.
fn read(bytes: &[u8]) -> (Vec<Entry>, Vec<CaptureError>) {
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for item in CaptureReader::new(bytes) {
        match item {
            Ok(located) => entries.push(located.entry),
            Err(error) => errors.push(error),
        }
    }
    (entries, errors)
}

fn small_file() -> (Vec<u8>, Vec<Entry>) {
    let entries = vec![
        Entry::Config("PRESET_BASE: minimal\n".to_owned()),
        Entry::State(vec![7; 300]),
        Entry::Gossip(GossipEntry {
            received_at: Time(1),
            peer: vec![1, 2, 3],
            topic: "/eth2/8c9f62fe/beacon_block/ssz_snappy".to_owned(),
            payload: vec![9; 20],
        }),
        Entry::Block((0..200).collect()),
        Entry::PeerEvent(PeerEventEntry { at: Time(2), json: serde_json::json!({"event": "connected"}) }),
        Entry::ApiEvent(ApiEventEntry { at: Time(3), node: "n".into(), topic: "block".into(), json: "{}".into() }),
    ];
    (written(&entries), entries)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read(entries in prop::collection::vec(any_entry(), 0..12)) {
        let (found, errors) = read(&written(&entries));
        prop_assert!(errors.is_empty(), "{errors:?}");
        prop_assert_eq!(&found[0], &Entry::Version);
        prop_assert_eq!(&found[1..], &entries[..]);
    }

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (mut file, _) = small_file();
        for (at, value) in flips {
            let at = at.index(file.len());
            file[at] = value;
        }
        let n_items = CaptureReader::new(&file[..]).count();
        prop_assert!(n_items <= file.len());
    }

    #[test]
    fn junk_behind_a_version_never_panics(junk in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"e2\0\0\0\0\0\0".to_vec();
        file.extend(junk);
        CaptureReader::new(&file[..]).count();
    }
}

#[test]
fn a_cut_anywhere_keeps_everything_before_it() {
    let (file, entries) = small_file();
    let mut ends = vec![8];
    for located in CaptureReader::new(&file[..]).skip(2).map(Result::unwrap) {
        ends.push(located.offset as usize);
    }
    ends.push(file.len());
    for cut in 0..file.len() {
        let (found, errors) = read(&file[..cut]);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(found.len(), whole, "cut at {cut}");
        if whole > 0 {
            assert_eq!(found[1..], entries[..whole - 1], "cut at {cut}");
        }
        if cut > 0 && ends.contains(&cut) {
            assert!(errors.is_empty(), "cut at {cut}: {errors:?}");
        } else {
            assert_eq!(errors.len(), 1, "cut at {cut}");
            let last_whole = ends[..whole].last().copied().unwrap_or(0);
            assert_eq!(errors[0].offset, last_whole as u64, "cut at {cut}");
            assert!(!errors[0].is_recoverable());
        }
    }
}

#[test]
fn empty_and_foreign_files_are_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.e2s");
    std::fs::write(&path, b"").unwrap();
    let error = CaptureFile::open(&path).unwrap_err();
    assert!(matches!(error.damage, Damage::Empty));
    assert!(error.to_string().contains("x.e2s, offset 0: the file is empty"), "{error}");
    std::fs::write(&path, b"PK\x03\x04 and so on").unwrap();
    let error = CaptureFile::open(&path).unwrap_err();
    assert!(matches!(error.damage, Damage::NotE2store { .. }));
    assert!(error.to_string().contains("give a capture (.e2s) or an ERA file"), "{error}");
    assert!(matches!(CaptureFile::open(&dir.path().join("none")).unwrap_err().damage, Damage::Io(_)));
}

#[test]
fn a_length_is_bounded_before_anything_is_allocated() {
    let mut file = b"e2\0\0\0\0\0\0gs".to_vec();
    file.extend(u32::MAX.to_le_bytes());
    file.extend([0, 0, 1, 2, 3]);
    let (found, errors) = read(&file);
    assert_eq!(found, [Entry::Version]);
    assert!(matches!(errors[0].damage, Damage::TooLong { claimed: 0xffff_ffff, .. }), "{errors:?}");
    assert_eq!(errors[0].offset, 8);
}

#[test]
fn a_state_that_unpacks_without_end_costs_its_entry_only() {
    let mut zeros = snap::write::FrameEncoder::new(Vec::new());
    for _ in 0..(MAX_BLOCK_LEN / (1 << 20)) + 1 {
        std::io::Write::write_all(&mut zeros, &vec![0u8; 1 << 20]).unwrap();
    }
    let bomb = zeros.into_inner().unwrap();
    let mut file = b"e2\0\0\0\0\0\0\x01\0".to_vec();
    file.extend((bomb.len() as u32).to_le_bytes());
    file.extend([0, 0]);
    file.extend(&bomb);
    file.extend(b"\x01\0\x03\0\0\0\0\0abc");
    file.extend(&written(&[Entry::Config("k: 1".into())])[8..]);
    let (found, errors) = read(&file);
    assert_eq!(found, [Entry::Version, Entry::Config("k: 1".into())]);
    let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(reasons[0].contains("unpacks to more than"), "{reasons:?}");
    assert!(reasons[1].contains("is not framed snappy"), "{reasons:?}");
}

#[test]
fn unknown_types_are_skipped_and_counted() {
    let mut file = b"e2\0\0\0\0\0\0zz\x03\0\0\0\0\0abc".to_vec();
    file.extend(b"\0\0\x02\0\0\0\0\0xx");
    file.extend(b"i2\x08\0\0\0\0\0yyyyyyyy");
    let mut reader = CaptureReader::new(&file[..]);
    let skipped = reader.by_ref().filter(|item| matches!(item, Ok(Located { entry: Entry::Skipped { .. }, .. }))).count();
    assert_eq!((skipped, reader.n_unknown()), (3, 1));
}

#[test]
fn bad_fields_cost_their_entry_only() {
    let mut file = b"e2\0\0\0\0\0\0".to_vec();
    for data in [&b"\x01"[..], &[0, 0, 0, 0, 0, 0, 0, 0, 200, 1][..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0xff, 0xff][..]] {
        file.extend(b"gs");
        file.extend((data.len() as u32).to_le_bytes());
        file.extend([0, 0]);
        file.extend(data);
    }
    file.extend(b"pe\x09\0\0\0\0\0\0\0\0\0\0\0\0\0{");
    let (found, errors) = read(&file);
    assert_eq!(found, [Entry::Version]);
    assert_eq!(errors.len(), 4);
    assert!(errors.iter().all(CaptureError::is_recoverable));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let mut file = Vec::new();
    let mut writer = CaptureWriter::new(&mut file).unwrap();
    let entry = GossipEntry { received_at: Time(0), peer: vec![0; 256], topic: String::new(), payload: Vec::new() };
    assert!(matches!(writer.gossip(&entry), Err(WriteError::TooLong { what: "peer id", len: 256, limit: 255 })));
    let entry = GossipEntry { peer: Vec::new(), payload: vec![0; crate::limits::MAX_WIRE_SIZE + 1000], ..entry };
    assert!(matches!(writer.gossip(&entry), Err(WriteError::TooLong { what: "message", .. })));
    let huge = "x".repeat(MAX_CONFIG_LEN + 1);
    assert!(matches!(writer.config(&huge), Err(WriteError::TooLong { what: "config", .. })));
    assert_eq!(file, b"e2\0\0\0\0\0\0");
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.e2s");
    std::fs::write(&path, b"somebody's letter").unwrap();
    assert!(matches!(CaptureWriter::create(&path), Err(WriteError::Exists)));
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody's letter");
}

#[test]
fn a_state_at_the_end_is_found_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late.era");
    let blocks: Vec<Entry> = (0..50u8).map(|n| Entry::Block(vec![n; 500])).collect();
    let mut entries = blocks.clone();
    entries.push(Entry::State(vec![42; 5000]));
    std::fs::write(&path, written(&entries)).unwrap();
    let file = CaptureFile::open(&path).unwrap();
    assert_eq!(file.first_state().unwrap(), Some(vec![42; 5000]));
    assert_eq!(file.first_config().unwrap(), None);
    assert_eq!(file.entries().unwrap().count(), 52);
    // The tail is cut. Whole entries are found, and reading all entries reports the rest.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    assert_eq!(CaptureFile::open(&path).unwrap().first_state().unwrap(), None);
}

fn genesis_of(file: &CaptureFile) -> Network {
    let spec = Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
    let state = file.first_state().unwrap().unwrap();
    // `genesis_time` and `genesis_validators_root` are the first fields of every fork's state.
    let genesis_time = u64::from_le_bytes(state[..8].try_into().unwrap());
    Network { spec, genesis_time, genesis_validators_root: Root::from_slice(&state[8..40]) }
}

#[test]
fn every_message_of_the_shared_captures_becomes_a_raw_message() {
    for path in test_support::captures() {
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("expected.json")).unwrap()).unwrap();
        // Only the captures that were made with the specification list what is in them.
        if !expected["made_by"].is_null() {
            continue;
        }
        let file = CaptureFile::open(&path).unwrap();
        let converter = MessageConverter::new(Arc::new(genesis_of(&file)));
        let (mut n_messages, mut last) = (0, Time(0));
        for item in file.entries().unwrap() {
            if let Entry::Gossip(entry) = item.unwrap().entry {
                let message = converter.gossip(&entry).unwrap_or_else(|refusal| panic!("{}: {refusal}", path.display()));
                let fork = message.origin.fork.unwrap().as_str();
                let mut forks = expected["fork"].as_str().unwrap_or_else(|| panic!("{}: fork", path.display())).split('+');
                assert!(forks.any(|one| one == fork), "{}: {fork}", path.display());
                let is_in_order = message.received_at >= last || path.ends_with("wrong_times.e2s");
                assert!(is_in_order, "file order is arrival order: {}", path.display());
                last = message.received_at;
                n_messages += 1;
            }
        }
        assert_eq!(n_messages, expected["messages"].as_u64().unwrap(), "{}", path.display());
    }
}

#[test]
fn a_shared_capture_survives_being_copied() {
    let path = &test_support::captures()[0];
    let entries: Vec<Entry> = CaptureFile::open(path).unwrap().entries().unwrap().map(|e| e.unwrap().entry).collect();
    let (copied, errors) = read(&written(&entries[1..]));
    assert!(errors.is_empty());
    assert_eq!(copied, entries);
}
