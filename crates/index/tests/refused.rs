//! Tests what is refused, with a reason and before anything is changed: a newer format, unknown
//! tables, and files that were truncated or lost.
#![allow(clippy::unwrap_used)]

mod common;

use common::{data, open, shape, vote};
use index::{Index, IndexView};
use rocksdb::{DB, Options};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(dir.path());
    for target in 3..30u64 {
        let signers: Vec<u64> = (0..40).collect();
        index.stage_votes(&[vote(data(target - 1, target, target * 8, 1), &signers)]).unwrap();
        index.commit().unwrap();
    }
    index.flush().unwrap();
    dir
}

/// The contents of the files by name, without RocksDB's own log and lock.
fn contents(dir: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let entries = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with("LO"));
    entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
}

fn refusal(dir: &Path) -> String {
    let looking = IndexView::open(dir, shape()).err().expect("refused to look at").to_string();
    let message = Index::open(dir, shape()).err().expect("refused").to_string();
    assert!(message.contains(&dir.display().to_string()) && looking.contains(&dir.display().to_string()), "{message}, {looking}");
    message
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let dir = written();
    let names = DB::list_cf(&Options::default(), dir.path()).unwrap();
    {
        let db = DB::open_cf(&Options::default(), dir.path(), names).unwrap();
        let mut shape = db.get(b"shape").unwrap().unwrap();
        shape[..4].copy_from_slice(&5u32.to_be_bytes());
        db.put(b"shape", shape).unwrap();
    }
    let message = refusal(dir.path());
    assert!(
        message.contains("format 5") && message.contains("up to 4") && message.contains("install the newer slashwatch"),
        "{message}"
    );
    let names = DB::list_cf(&Options::default(), dir.path()).unwrap();
    let db = DB::open_cf_for_read_only(&Options::default(), dir.path(), names, false).unwrap();
    assert_eq!(db.get(b"shape").unwrap().unwrap()[..4], 5u32.to_be_bytes());
}

#[test]
fn a_table_of_somebody_else_is_refused() {
    let dir = written();
    let names = DB::list_cf(&Options::default(), dir.path()).unwrap();
    {
        let db = DB::open_cf(&Options::default(), dir.path(), names).unwrap();
        db.create_cf("poems", &Options::default()).unwrap();
    }
    let message = Index::open(dir.path(), shape()).err().unwrap().to_string();
    assert!(message.contains("poems") && message.contains("not a vote index"), "{message}");
}

/// The largest file whose name contains `part`.
fn greatest(dir: &Path, part: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.file_name().unwrap().to_string_lossy().contains(part));
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn tables_cut_short_or_lost_are_told_and_nothing_is_changed() {
    for share in [None, Some(0), Some(2), Some(9)] {
        let dir = written();
        let table = greatest(dir.path(), ".sst");
        match share {
            None => fs::remove_file(&table).unwrap(),
            Some(tenths) => {
                let bytes = fs::read(&table).unwrap();
                fs::write(&table, &bytes[..bytes.len() * tenths / 10]).unwrap();
            }
        }
        let before = contents(dir.path());
        let message = refusal(dir.path());
        assert!(message.contains("damaged") && message.contains("move the directory away"), "{share:?}: {message}");
        let after = contents(dir.path());
        assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "{share:?}: refused and changed");
    }
}
