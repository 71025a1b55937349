//! Opens an index that was written in this format or in an earlier one, by the version of that
//! time, and checks that it has the same content. For a new format, run with `WRITE_FIXTURE=1` to
//! make its fixture beside the old ones. Never change an old fixture.
#![allow(clippy::unwrap_used)]

mod common;

use common::{data, open, proposal, shuffling, told, vote, vote_in};
use consensus::{CommitteeIndex, Slot, ValidatorIndex};
use std::path::{Path, PathBuf};

const NEWEST: u32 = 3;

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

#[test]
fn format_1_is_read_and_becomes_the_newest() {
    let dir = read(1);
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), dir.path()).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&rocksdb::Options::default(), dir.path(), names, false).unwrap();
    assert_eq!(db.get(b"shape").unwrap().unwrap()[..4], NEWEST.to_be_bytes());
}

#[test]
fn format_2_is_read() {
    read(2);
}

#[test]
fn format_3_is_read() {
    if std::env::var_os("WRITE_FIXTURE").is_some() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        std::fs::create_dir_all(fixture(NEWEST)).unwrap();
        copy(dir.path(), &fixture(NEWEST));
    }
    read(3);
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
    let found = index.stage_votes(&[vote(data(2, 11, 88, 7), &[16]), vote(data(4, 9, 72, 7), &[13])]).unwrap();
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
