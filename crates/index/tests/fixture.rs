//! Opens an index that was written in this format or in an earlier one, by the version of that
//! time, and checks that it has the same content. For a new format, run with `WRITE_FIXTURE=1` to
//! make its fixture beside the old ones. Never change an old fixture.
#![allow(clippy::unwrap_used)]

mod common;

use common::{data, heard, open, proposal, shuffling, told, vote, vote_in};
use consensus::{CommitteeIndex, Slot, ValidatorIndex};
use index::{Conflict, IndexView};
use std::path::{Path, PathBuf};

const NEWEST: u32 = 4;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{format}"))
}

/// Writes rows by seat and by list, a log with a row that still grows, an offender, a vote for a
/// far epoch, two branches, and proposals.
fn write(dir: &Path) {
    let mut index = open(dir);
    for target in 3..12u64 {
        for branch in 0..2 {
            let shuffling = shuffling(target, branch);
            for slot in 0..8 {
                for committee in 0..shuffling.committees_per_slot() {
                    let at = Slot::new(target * 8 + slot);
                    let members = shuffling.committee(at, CommitteeIndex::new(committee)).unwrap();
                    let mine: Vec<u64> =
                        members.iter().map(|v| u64::from(*v)).filter(|v| v % 2 == u64::from(branch) && v % 7 != 5).collect();
                    if !mine.is_empty() {
                        let seen = data(target - 1, target, at.as_u64(), branch);
                        index.stage_votes(&[vote_in(seen, &mine, Some(shuffling.clone()))]).unwrap();
                    }
                }
                index.commit().unwrap();
            }
        }
        if target == 8 {
            index.flush().unwrap();
        }
    }
    index.stage_votes(&[vote(data(9, 10, 80, 9), &[16]), vote(data(2, u64::MAX, 3, 1), &[13])]).unwrap();
    index.stage_proposals(&[proposal(80, 4, 1), proposal(80, 4, 2)]).unwrap();
    index.commit().unwrap();
}

/// The format of a directory, and whether its log is empty.
fn format_and_log(dir: &Path) -> (u32, bool) {
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), dir).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), dir, names, false).unwrap();
    let shape = db.get(b"shape").unwrap().unwrap();
    let log = db.iterator_cf(&db.cf_handle("log").unwrap(), rocksdb::IteratorMode::Start).count();
    (u32::from_be_bytes(shape[..4].try_into().unwrap()), log == 0)
}

#[test]
fn format_1_is_read() {
    read(1);
}

#[test]
fn format_2_is_read() {
    read(2);
}

#[test]
fn format_3_is_read() {
    read(3);
}

/// The log is written in another way since format 4, so opening folds it.
#[test]
fn an_earlier_format_becomes_the_newest_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(3), dir.path());
    assert_eq!(format_and_log(dir.path()), (3, false), "there is a log to fold");
    drop(open(dir.path()));
    assert_eq!(format_and_log(dir.path()), (NEWEST, true));
}

#[test]
fn a_view_reads_an_earlier_format_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(3), dir.path());
    let fresh = tempfile::tempdir().unwrap();
    write(fresh.path());
    let (view, expected) = (IndexView::open(dir.path(), common::shape()).unwrap(), open(fresh.path()));
    for validator in (0..96).map(ValidatorIndex::new) {
        let n_votes = view.votes_of(validator, &mut |_| ()).unwrap().votes.len();
        assert_eq!(n_votes, expected.votes_of(validator).unwrap().votes.len());
    }
    drop(view);
    assert_eq!(format_and_log(dir.path()), (3, false));
}

#[test]
fn format_4_is_read() {
    if std::env::var_os("WRITE_FIXTURE").is_some() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        std::fs::create_dir_all(fixture(NEWEST)).unwrap();
        copy(dir.path(), &fixture(NEWEST));
    }
    read(4);
}

/// Opens a copy of a fixture and checks that its content is what was written.
fn read(format: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(format), dir.path());
    let fresh = tempfile::tempdir().unwrap();
    write(fresh.path());
    let (mut index, expected) = (open(dir.path()), open(fresh.path()));
    for validator in (0..96).map(ValidatorIndex::new) {
        let sorted = |index: &index::Index| {
            let mut known = index.votes_of(validator).unwrap();
            known.votes.sort_by_key(|vote| (vote.data.target.epoch, vote.data_root));
            known
        };
        assert_eq!(sorted(&index), sorted(&expected));
    }
    assert_eq!(index.proposals_of(ValidatorIndex::new(4)).unwrap().len(), 2);
    let new = [data(2, 11, 88, 7), data(4, 9, 72, 7)].map(|data| data.root());
    let found = index.stage_votes(&[vote(data(2, 11, 88, 7), &[16]), vote(data(4, 9, 72, 7), &[13])]).unwrap();
    for conflict in &found {
        // The stored side came from this peer, whatever the format.
        let first_seen = match conflict {
            Conflict::DoubleVote { first, .. } => &first.heard,
            Conflict::Surround { surrounding, surrounded, .. } if surrounding.data_root == new[0] => &surrounded.heard,
            Conflict::Surround { surrounding, .. } => &surrounding.heard,
            Conflict::DoubleProposal { .. } => panic!("no proposal was staged"),
        };
        assert_eq!((first_seen.source, &first_seen.peer), (heard(1_000).source, &heard(1_000).peer));
    }
    let found = told(&found);
    assert!(found.contains("surround 16: 2->11 over 9->10") && found.contains("double 16 at 11"), "{found:?}");
    assert!(found.contains("surround 13: 2->18446744073709551615 over 4->9"), "{found:?}");
    // The index was written in the newest format, and is now opened again.
    index.commit().unwrap();
    drop(index);
    assert!(open(dir.path()).votes_of(ValidatorIndex::new(16)).unwrap().offender);
    dir
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // RocksDB's own log and options are not part of the format.
        if name != "LOCK" && !name.starts_with("LOG") && !name.starts_with("OPTIONS-") {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}
