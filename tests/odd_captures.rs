//! Captures that are complete but odd: wrong times, parts in any order, states that cannot be used,
//! entries of unknown types. None of this changes who signed what, so it changes no finding.

mod common;

use common::slashwatch;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use test_support::capture;
use test_support::findings::{findings, ids};
use test_support::program::{run, stderr};

const UNREADABLE: i32 = 65;
const CONFIG: [u8; 2] = *b"cf";
const STATE: [u8; 2] = [2, 0];
const GOSSIP: [u8; 2] = *b"gs";
const VERSION: [u8; 8] = [0x65, 0x32, 0, 0, 0, 0, 0, 0];

/// An entry of an e2store file.
#[derive(Clone)]
struct Entry {
    kind: [u8; 2],
    data: Vec<u8>,
}

impl Entry {
    fn new(kind: [u8; 2], data: &[u8]) -> Self {
        Self { kind, data: data.to_vec() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        [&self.kind[..], &(self.data.len() as u32).to_le_bytes(), &[0, 0], &self.data].concat()
    }
}

fn entries(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).expect("readable");
    let mut entries = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((header, behind)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
        entries.push(Entry::new([header[0], header[1]], &behind[..length]));
        rest = &behind[length..];
    }
    entries
}

fn write(dir: &Path, name: &str, entries: &[Entry]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, entries.iter().flat_map(Entry::to_bytes).collect::<Vec<u8>>()).expect("writable");
    path
}

struct Told {
    code: Option<i32>,
    text: String,
    ids: BTreeSet<String>,
}

fn replay(dir: &Path, files: &[PathBuf]) -> Told {
    let out = dir.join("out.jsonl");
    let output = run(slashwatch().arg("replay").args(files).arg("--findings").arg(&out));
    Told { code: output.status.code(), text: stderr(&output), ids: ids(&findings(&out)) }
}

/// Returns one capture whose votes name their validator, and one whose votes need committees.
fn both() -> [PathBuf; 2] {
    [capture("fulu_4"), capture("deneb_3")]
}

fn with_times(entries: &[Entry], mut time: impl FnMut(usize, u64) -> u64) -> Vec<Entry> {
    let mut made = entries.to_vec();
    for (nth, entry) in made.iter_mut().filter(|entry| entry.kind == GOSSIP).enumerate() {
        let at = u64::from_le_bytes(entry.data[..8].try_into().expect("8 bytes"));
        entry.data[..8].copy_from_slice(&time(nth, at).to_le_bytes());
    }
    made
}

#[test]
fn wrong_times_of_arrival_hide_nothing() {
    for file in both() {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let whole = entries(&file);
        let honest = replay(dir.path(), std::slice::from_ref(&file)).ids;
        assert!(!honest.is_empty());
        // Flipped bits shift the times by about one hour, 3 days, or 146 years. The other cases
        // have times that do not fit the chain at all.
        let flipped = |bit: u32| with_times(&whole, move |nth, at| if nth % 7 == 3 { at ^ 1 << bit } else { at });
        let mut cases: Vec<Vec<Entry>> = [42, 48, 62].into_iter().map(flipped).collect();
        cases.extend([0, 1_800_000_000_000_000_000, u64::MAX].map(|time| with_times(&whole, |_, _| time)));
        for case in cases {
            let told = replay(dir.path(), &[write(dir.path(), "times.e2s", &case)]);
            assert_eq!((told.code, &told.ids), (Some(0), &honest), "{}: {}", file.display(), told.text);
        }
    }
}

#[test]
fn blocks_that_claim_the_far_future_hide_nothing() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = capture("deneb_3");
    let honest = replay(dir.path(), std::slice::from_ref(&file)).ids;
    let block = |slot: u64| {
        // A block's SSZ: offset, signature, slot, proposer, roots, offset of the body. The rest is
        // read only after the block is proven.
        let ssz = [&100u32.to_le_bytes()[..], &[1; 96], &slot.to_le_bytes(), &[3; 72], &84u32.to_le_bytes(), &[0; 300]].concat();
        let mut framed = snap::write::FrameEncoder::new(Vec::new());
        std::io::Write::write_all(&mut framed, &ssz).expect("into memory");
        Entry::new([1, 0], &framed.into_inner().expect("into memory"))
    };
    let mut made = Vec::new();
    for (nth, entry) in entries(&file).into_iter().enumerate() {
        made.push(entry);
        if nth >= 3 && nth % 20 == 0 {
            made.extend((0..20).map(|more| block((1 << 62) + more)));
        }
    }
    let told = replay(dir.path(), &[write(dir.path(), "far.e2s", &made)]);
    assert_eq!((told.code, told.ids), (Some(0), honest), "{}", told.text);
}

#[test]
fn parts_of_a_capture_may_come_in_any_order() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = capture("fulu_4");
    let honest = replay(dir.path(), std::slice::from_ref(&file)).ids;
    let (messages, head): (Vec<Entry>, Vec<Entry>) = entries(&file).into_iter().partition(|entry| entry.kind == GOSSIP);
    let (first, second) = messages.split_at(messages.len() / 2);
    let part = |name: &str, messages: &[Entry]| {
        let path = write(dir.path(), name, messages);
        let bytes = [&VERSION[..], &std::fs::read(&path).expect("readable")].concat();
        std::fs::write(&path, bytes).expect("writable");
        path
    };
    let parts = [write(dir.path(), "0.e2s", &head), part("1.e2s", first), part("2.e2s", second)];
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let told = replay(dir.path(), &order.map(|nth| parts[nth].clone()));
        assert_eq!((told.code, &told.ids), (Some(0), &honest), "{order:?}: {}", told.text);
    }
    // Without the first part, the network of the messages is unknown.
    let told = replay_alone(&parts[1]);
    assert_eq!(told.0, Some(64), "{}", told.1);
    assert!(told.1.contains("--network"), "{}", told.1);
}

fn replay_alone(file: &Path) -> (Option<i32>, String) {
    let output = run(slashwatch().arg("replay").arg(file));
    (output.status.code(), stderr(&output))
}

#[test]
fn unknown_entries_are_skipped_and_counted() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = capture("fulu_4");
    let honest = replay(dir.path(), std::slice::from_ref(&file)).ids;
    let mut made = Vec::new();
    for (nth, entry) in entries(&file).into_iter().enumerate() {
        made.push(entry);
        if nth % 50 == 0 {
            // Entries of the known types Version, Empty and SlotIndex, and then two of unknown
            // types.
            made.extend([*b"e2", [0, 0], *b"i2"].map(|kind| Entry::new(kind, if kind == *b"e2" { b"" } else { b"abc" })));
            made.extend([*b"zz", [0xff, 0xff]].map(|kind| Entry::new(kind, &[7; 1000])));
        }
    }
    let n_unknown = made.iter().filter(|entry| entry.kind == *b"zz" || entry.kind == [0xff, 0xff]).count();
    let told = replay(dir.path(), &[write(dir.path(), "skips.e2s", &made)]);
    assert_eq!((told.code, told.ids), (Some(0), honest), "{}", told.text);
    assert!(told.text.contains(&format!("{n_unknown}  skipped: unknown entry type")), "{}", told.text);
}

#[test]
fn a_state_that_cannot_be_used_is_told_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = capture("fulu_4");
    let honest = replay(dir.path(), std::slice::from_ref(&file)).ids;
    let whole = entries(&file);
    let mut framed = snap::write::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut framed, &[7; 5000]).expect("into memory");
    let no_state = Entry::new(STATE, &framed.into_inner().expect("into memory"));
    let no_frame = Entry::new(STATE, b"this is no snappy");
    // The bad state is placed in the middle, and before the usable state.
    let middle = whole.len() / 2;
    for (at, bad) in [(middle, &no_state), (middle, &no_frame), (1, &no_frame)] {
        let mut made = whole.clone();
        made.insert(at, bad.clone());
        let offset: usize = made[..at].iter().map(|entry| entry.to_bytes().len()).sum();
        let told = replay(dir.path(), &[write(dir.path(), "states.e2s", &made)]);
        assert_eq!((told.code, &told.ids), (Some(UNREADABLE), &honest), "{}", told.text);
        assert!(told.text.contains(&format!("states.e2s: offset {offset}: ")), "wanted {offset}: {}", told.text);
    }
}

#[test]
fn a_cut_before_the_messages_is_told_with_its_offset() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let whole = entries(&capture("fulu_4"));
    for kind in [CONFIG, STATE] {
        let at = whole.iter().position(|entry| entry.kind == kind).expect("every capture has one");
        let before: Vec<u8> = whole[..at].iter().flat_map(Entry::to_bytes).collect();
        let entry = whole[at].to_bytes();
        for length in [3, 8, 20, entry.len() - 1] {
            let path = dir.path().join("cut.e2s");
            std::fs::write(&path, [&before, &entry[..length]].concat()).expect("writable");
            let (code, text) = replay_alone(&path);
            assert_eq!(code, Some(UNREADABLE), "{text}");
            assert!(text.contains(&format!("cut.e2s: offset {}: ", before.len())), "wanted {}: {text}", before.len());
        }
    }
}

fn topic(entry: &Entry) -> &str {
    let peer = usize::from(entry.data[8]);
    let topic = &entry.data[9 + peer..];
    let length = usize::from(u16::from_le_bytes([topic[0], topic[1]]));
    std::str::from_utf8(&topic[2..2 + length]).expect("UTF-8")
}

/// Without blocks nobody knows the committees after the first epochs. The replay says which state
/// it wants, and fails only if it is asked to.
#[test]
fn what_was_not_judged_is_told_with_the_state_that_is_wanted() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let whole = capture("electra_6");
    let is_block = |entry: &Entry| entry.kind == [1, 0] || (entry.kind == GOSSIP && topic(entry).contains("/beacon_block/"));
    let without: Vec<Entry> = entries(&whole).into_iter().filter(|entry| !is_block(entry)).collect();
    let without = write(dir.path(), "without.e2s", &without);
    let told = |file: &Path, more: &[&str]| {
        let output = run(slashwatch().arg("replay").arg(file).args(more));
        (output.status.code(), stderr(&output))
    };
    let (code, text) = told(&without, &[]);
    assert!(code == Some(0) && text.contains("were not judged") && text.contains("state of epoch "), "{code:?} {text}");
    assert_eq!(told(&without, &["--fail-on-unjudged"]).0, Some(1));
    let (code, text) = told(&whole, &["--fail-on-unjudged"]);
    assert!(code == Some(0) && !text.contains("were not judged"), "{code:?} {text}");
}
