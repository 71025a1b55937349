//! Reads the test cases of the consensus specification from their archives.

use crate::{path, unsnap};
use consensus::{ForkName, Preset};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// Archive with slashing operations, gossip messages, shufflings and BLS.
pub const REFTESTS: &str = "consensus-specs_reftests.tar.gz";
/// Archive with containers and their roots.
pub const SSZ_STATIC: &str = "consensus-specs_ssz_static.tar.gz";

/// One case of the specification's test format: its path in the archive, and its files by name.
pub struct Case {
    /// For example `["minimal", "gloas", "ssz_static", "Attestation", "ssz_random", "case_0"]`.
    pub path: Vec<String>,
    /// The files as they are in the archive.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Case {
    pub fn preset(&self) -> Preset {
        match self.path[0].as_str() {
            "mainnet" => Preset::MAINNET,
            "minimal" => Preset::MINIMAL,
            other => panic!("unknown preset {other}"),
        }
    }

    pub fn fork(&self) -> ForkName {
        let known = ForkName::ALL.into_iter().find(|fork| fork.as_str() == self.path[1]);
        known.unwrap_or_else(|| panic!("unknown fork {}", self.path[1]))
    }

    /// Runner and handler, for example `networking/gossip_beacon_block`.
    pub fn handler(&self) -> String {
        self.path[2..4].join("/")
    }

    /// The path of the case as one text.
    pub fn name(&self) -> String {
        self.path.join("/")
    }

    /// A file, given by its stem, decompressed.
    pub fn ssz(&self, stem: &str) -> Vec<u8> {
        self.find_ssz(stem).unwrap_or_else(|| panic!("{}: no {stem}", self.name()))
    }

    /// A file, given by its stem, decompressed. `None` if the case does not have it.
    pub fn find_ssz(&self, stem: &str) -> Option<Vec<u8>> {
        let packed = self.files.get(&format!("{stem}.ssz_snappy"))?;
        Some(unsnap(packed).unwrap_or_else(|| panic!("{}: {stem} is no snappy", self.name())))
    }

    /// A file as text, given by its name.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.files[name].clone()).unwrap()
    }

    /// A YAML file, given by its name.
    pub fn yaml(&self, name: &str) -> serde_json::Value {
        serde_saphyr::from_str(&self.text(name)).unwrap_or_else(|error| panic!("{}: {name}: {error}", self.name()))
    }
}

/// The cases of an archive whose path, below the archive's top folder, is accepted by `wanted`.
/// There is always at least one.
pub fn cases(archive: &str, wanted: impl Fn(&[&str]) -> bool) -> Vec<Case> {
    let cases = read_archive(&path(&format!("vectors/{archive}")), wanted);
    assert!(!cases.is_empty(), "{archive} has no such case");
    cases
}

pub(crate) fn read_archive(archive: &Path, wanted: impl Fn(&[&str]) -> bool) -> Vec<Case> {
    let file = std::fs::File::open(archive).unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)));
    let mut found: BTreeMap<Vec<String>, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let Some((file_name, folder)) = parts.split_last() else { continue };
        if !wanted(folder) {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let folder: Vec<String> = folder.iter().map(|part| (*part).to_owned()).collect();
        found.entry(folder).or_default().insert((*file_name).to_owned(), bytes);
    }
    found.into_iter().map(|(path, files)| Case { path, files }).collect()
}

/// The value of `key: '0x..'` in a one-line YAML file.
pub fn hex_value(text: &str, key: &str) -> Vec<u8> {
    let after = text.split(&format!("{key}:")).nth(1).unwrap_or_else(|| panic!("{key} in {text}"));
    let digits = after.trim_start_matches([' ', '\'', '"']).trim_start_matches("0x");
    let digits: Vec<u8> = digits.bytes().take_while(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
