//! Locates and reads the test data: the full vectors outside of the repository, or the small set
//! that is committed in `tests/data`.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Returns the folder of the full vectors. Returns `None` and prints a line if it does not exist.
pub fn vectors() -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors"));
    if path.is_dir() {
        return Some(path.to_owned());
    }
    println!("{} is not here: only the small committed set is checked", path.display());
    None
}

/// Returns the folder of the committed small set.
pub fn small_set() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data")).to_owned()
}

/// Returns the path of the archive with this name, in the full vectors or else in the committed
/// set.
pub fn archive(name: &str) -> PathBuf {
    match vectors() {
        Some(folder) => folder.join(name),
        None => small_set().join(name),
    }
}

/// One case in the specification's test format: its path within the archive, and its files by name.
pub struct Case {
    /// For example `["minimal", "gloas", "ssz_static", "Attestation", "ssz_random", "case_0"]`.
    pub path: Vec<String>,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Case {
    pub fn ssz(&self, name: &str) -> Vec<u8> {
        unsnap(&self.files[&format!("{name}.ssz_snappy")])
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.files[name].clone()).expect("text")
    }

    pub fn name(&self) -> String {
        self.path.join("/")
    }
}

/// Decompresses raw snappy, the format of the vectors.
pub fn unsnap(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Decoder::new().decompress_vec(bytes).expect("snappy")
}

/// Reads the cases whose path (below the top folder of the archive) `wanted` accepts. Panics if the
/// archive is missing.
pub fn cases(archive: &Path, wanted: impl Fn(&[&str]) -> bool) -> Vec<Case> {
    let file = std::fs::File::open(archive).unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)));
    let mut found: BTreeMap<Vec<String>, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in tar.entries().expect("tar") {
        let mut entry = entry.expect("tar entry");
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().expect("path").to_string_lossy().into_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let Some((file_name, folder)) = parts.split_last() else { continue };
        if !wanted(folder) {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("tar content");
        let folder: Vec<String> = folder.iter().map(|part| (*part).to_owned()).collect();
        found.entry(folder).or_default().insert((*file_name).to_owned(), bytes);
    }
    found.into_iter().map(|(path, files)| Case { path, files }).collect()
}

pub fn preset(name: &str) -> consensus::Preset {
    match name {
        "mainnet" => consensus::Preset::MAINNET,
        "minimal" => consensus::Preset::MINIMAL,
        other => panic!("unknown preset {other}"),
    }
}

pub fn fork(name: &str) -> consensus::ForkName {
    *consensus::ForkName::ALL.iter().find(|fork| fork.as_str() == name).unwrap_or_else(|| panic!("unknown fork {name}"))
}

/// Returns the value of `key: '0x..'` in a one-line YAML file.
pub fn hex_value(text: &str, key: &str) -> Vec<u8> {
    let after = text.split(&format!("{key}:")).nth(1).unwrap_or_else(|| panic!("{key} in {text}"));
    let digits: String =
        after.trim_start_matches([' ', '\'', '"']).trim_start_matches("0x").chars().take_while(char::is_ascii_hexdigit).collect();
    hex::decode(digits).expect("hex")
}
