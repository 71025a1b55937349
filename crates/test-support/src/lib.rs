//! Shared by the tests of several crates: the places of the test data, and readers for it.
//!
//! | module | what |
//! |---|---|
//! | here | the folders with data, and what happens if data is missing |
//! | [`capture`] | a small reader of capture files, independent of the program's own reader |
//! | [`spec_tests`] | the specification's own test cases |
//! | [`findings`] | findings as the program writes them |
//! | [`program`] | the program as a child process, and a configuration for it |
//! | [`http`] | a small HTTP client, and a server that answers as a test says |
//! | [`samples`] | findings, proofs and incidents with the few facts that a test gives |
//!
//! Test data of others is in two folders. The *full set* is the folder `../shared` beside the
//! repository, or the folder that `SLASHWATCH_SHARED` names. The *small set* is committed in
//! `tests/data`. It has a capture of each fork, the slashing and gossip cases of the specification,
//! and other small files. A test takes a file from the full set if it is there, and otherwise from
//! the small set. A path is written as in the full set: `captures/fulu_4.e2s`,
//! `vectors/p2p/message_ids.json`. In the small set the first part of the path is left out, and a
//! file may be compressed, with `.gz` at the end.
//!
//! Missing data is a failure and never a silent success. A test that needs data which the small set
//! lacks uses [`full_set`]. It fails if the full set is missing. If `SLASHWATCH_WITHOUT_DATA=1` is
//! set, it is skipped instead and prints that on stderr.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

pub mod capture;
pub mod findings;
pub mod http;
pub mod program;
pub mod samples;
pub mod spec_tests;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The two folders, and whether tests may be skipped if the full set is missing.
struct Folders {
    full: PathBuf,
    small: PathBuf,
    without_data: bool,
}

impl Folders {
    fn of_this_run() -> Self {
        Self {
            full: std::env::var_os("SLASHWATCH_SHARED").map_or_else(|| Path::new(ROOT).join("../shared"), PathBuf::from),
            small: Path::new(ROOT).join("tests/data"),
            without_data: std::env::var_os("SLASHWATCH_WITHOUT_DATA").is_some_and(|value| value == "1"),
        }
    }

    /// Finds a file or folder in one of the sets.
    fn find(&self, path: &str) -> Result<PathBuf, String> {
        let small = self.small.join(path.split_once('/').expect("a path of the full set").1);
        let packed = PathBuf::from(format!("{}.gz", small.display()));
        let found = [self.full.join(path), small, packed].into_iter().find(|path| path.exists());
        found.ok_or_else(|| {
            format!("no test data {path}, neither in {} nor in {}: {ADVICE}", self.full.display(), self.small.display())
        })
    }

    /// Finds a file or folder in the full set. `None` if it is missing and tests may be skipped.
    fn find_in_full(&self, path: &str) -> Result<Option<PathBuf>, String> {
        let full = self.full.join(path);
        match full.exists() {
            true => Ok(Some(full)),
            false if self.without_data => Ok(None),
            false => Err(format!("no test data {path} in {}: {ADVICE}", self.full.display())),
        }
    }
}

const ADVICE: &str = "put the full set there or name its folder in SLASHWATCH_SHARED; SLASHWATCH_WITHOUT_DATA=1 skips the tests that need \
                      what the committed tests/data does not have";

/// The path of a file or folder of the data. For a file that may be compressed, use [`bytes`].
///
/// # Panics
/// If neither set has it.
pub fn path(path: &str) -> PathBuf {
    Folders::of_this_run().find(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The path of a file or folder that only the full set has. If it is missing and
/// `SLASHWATCH_WITHOUT_DATA=1` is set, this prints a line on stderr and returns `None`, and the
/// test must skip itself.
///
/// # Panics
/// If it is missing and the variable is not set.
pub fn full_set(path: &str) -> Option<PathBuf> {
    let found = Folders::of_this_run().find_in_full(path).unwrap_or_else(|error| panic!("{error}"));
    if found.is_none() {
        // This does not use `eprintln!`, because the test harness hides its output if the test
        // passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED, as SLASHWATCH_WITHOUT_DATA asks for: no test data {path}");
    }
    found
}

/// Whether the full set is there. This is for checks that count its files.
pub fn has_full_set() -> bool {
    let full = Folders::of_this_run().full;
    full.join("vectors").is_dir() && full.join("captures").is_dir()
}

/// The content of a file, decompressed.
pub fn bytes(path: &str) -> Vec<u8> {
    read(&self::path(path))
}

/// The content of a file as text.
pub fn text(path: &str) -> String {
    String::from_utf8(bytes(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The content of a JSON file.
pub fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files of a folder, with their names in the full set, decompressed and sorted by name.
pub fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = path(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.trim_end_matches(".gz").to_owned(), read(&path))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

fn read(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_none_or(|extension| extension != "gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// The capture files of the full set, or of the small set if there is no full set. There is always
/// at least one.
pub fn captures() -> Vec<PathBuf> {
    let folders = Folders::of_this_run();
    let full = folders.full.join("captures");
    let folder = if full.is_dir() { full } else { folders.small };
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "e2s"));
    files.sort();
    assert!(!files.is_empty(), "no captures in {}: {ADVICE}", folder.display());
    files
}

/// The path of the capture with this name, given without its extension.
pub fn capture(name: &str) -> PathBuf {
    path(&format!("captures/{name}.e2s"))
}

/// Decompresses raw snappy, as gossip messages and the specification's cases use it. `None` if it
/// is not valid.
pub fn unsnap(bytes: &[u8]) -> Option<Vec<u8>> {
    snap::raw::Decoder::new().decompress_vec(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::ForkName;
    use std::collections::BTreeSet;

    fn folders(without_data: bool) -> Folders {
        let nowhere = Path::new(ROOT).join("no such folder");
        Folders { full: nowhere, without_data, ..Folders::of_this_run() }
    }

    #[test]
    fn missing_data_is_an_error_that_says_what_to_do() {
        for without_data in [false, true] {
            assert!(folders(without_data).find("captures/fulu_4.e2s").unwrap().ends_with("tests/data/fulu_4.e2s"));
            assert!(
                folders(without_data).find("vectors/genesis/sepolia_genesis.ssz").unwrap().ends_with("sepolia_genesis.ssz.gz")
            );
            let error = folders(without_data).find("captures/of_nobody.e2s").unwrap_err();
            assert!(error.contains("captures/of_nobody.e2s") && error.contains("SLASHWATCH_SHARED"), "{error}");
        }
    }

    #[test]
    fn only_who_asks_for_less_skips_what_needs_the_full_set() {
        let error = folders(false).find_in_full("captures/fulu_4.e2s").unwrap_err();
        assert!(error.contains("SLASHWATCH_WITHOUT_DATA=1"), "{error}");
        assert_eq!(folders(true).find_in_full("captures/fulu_4.e2s"), Ok(None));
    }

    /// The committed set is enough to test signature checks and the slashing predicates on every
    /// fork.
    #[test]
    fn the_small_set_is_whole() {
        let small = folders(false);
        for capture in ["phase0_2", "altair_8", "bellatrix_10", "deneb_3", "electra_6", "fulu_4", "gloas_12"] {
            for end in ["e2s", "expected.json"] {
                small.find(&format!("captures/{capture}.{end}")).unwrap();
            }
        }
        let archive = small.find("vectors/consensus-specs_reftests.tar.gz").unwrap();
        let cases = spec_tests::read_archive(&archive, |path| path.get(2) == Some(&"operations"));
        for operation in ["operations/attester_slashing", "operations/proposer_slashing"] {
            let forks: BTreeSet<ForkName> =
                cases.iter().filter(|case| case.handler() == operation).map(spec_tests::Case::fork).collect();
            assert!(forks.iter().copied().eq(ForkName::ALL.into_iter().filter(|fork| *fork <= ForkName::Gloas)), "{forks:?}");
        }
        assert!(
            cases.iter().any(|case| case.find_ssz("post").is_some()) && cases.iter().any(|case| case.find_ssz("post").is_none())
        );
    }
}
