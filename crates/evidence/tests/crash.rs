//! The store after its process was killed or the disk was full. Everything that was acknowledged is
//! there, and every batch is there whole or not at all.
//!
//! The test starts its own binary again as a child process (the victim). The victim's part is a
//! test that does nothing unless an environment variable is set.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use evidence::Store;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use test_support::samples::*;

const VICTIM_DIR: &str = "SLASHWATCH_TEST_VICTIM_DIR";
/// Number of findings in each of the victim's batches.
const BATCH: u64 = 7;

/// Records batches until a write fails, without end otherwise. It prints the last seq after each
/// batch.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM_DIR) else { return };
    let store = open(Path::new(&dir));
    loop {
        let start = store.last_seq();
        let batch = (start..start + BATCH).map(|nth| double_vote(nth, nth)).collect();
        match store.record(batch, &everyone(&["a", "b"])) {
            Ok(_) => println!("recorded {}", store.last_seq()),
            Err(error) => {
                println!("failed {error}");
                return;
            }
        }
    }
}

fn check_nothing_by_halves(store: &Store, acknowledged: u64) {
    assert!(store.last_seq() >= acknowledged, "{} of {acknowledged} acknowledged findings are there", store.last_seq());
    assert_eq!(store.last_seq() % BATCH, 0, "a batch is there whole or not at all");
    let mut n_seen = 0;
    for row in store.all_findings() {
        let (seq, finding) = row.unwrap();
        n_seen += 1;
        assert_eq!(seq, n_seen, "no gaps");
        assert_eq!(store.finding(finding.id).unwrap().unwrap().0, seq);
        assert!(store.evidence(finding.evidence.unwrap().id).unwrap().is_some());
        assert_eq!(store.deliveries_of(seq).unwrap().len(), 2);
    }
    assert_eq!(n_seen, store.last_seq());
    assert_eq!(store.outbox_counts().pending, 2 * n_seen);
    assert_eq!(store.due(at(u64::MAX), usize::MAX).unwrap().len() as u64, 2 * n_seen);
}

fn last_number(line: &str) -> Option<u64> {
    // The test harness prints its own text before the first line.
    line.split_once("recorded ")?.1.trim().parse().ok()
}

#[test]
fn killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for n_lines in [1, 40, 3, 90] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        for number in lines.filter_map(|line| last_number(&line)).take(n_lines) {
            acknowledged = number;
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        let store = open(dir.path());
        check_nothing_by_halves(&store, acknowledged);
    }
    assert!(acknowledged >= 134 * BATCH);
}

/// A limit on file size takes the place of a full disk. The write returns an error in both cases.
#[test]
fn a_full_disk_is_an_error_and_leaves_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let victim = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 600; exec \"$0\" --exact victim --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(VICTIM_DIR, dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&victim.stdout);
    let failed = told.lines().find(|line| line.starts_with("failed")).unwrap_or_else(|| panic!("it never failed: {told}"));
    assert!(failed.contains("nothing of this batch is stored") && failed.contains("make room"), "{failed}");
    let acknowledged = told.lines().filter_map(last_number).next_back().unwrap();
    let store = open(dir.path());
    assert_eq!(store.last_seq(), acknowledged, "what failed is not there");
    check_nothing_by_halves(&store, acknowledged);
    store.record(vec![double_vote(u64::MAX, 1)], &[]).unwrap();
}
