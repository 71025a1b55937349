//! The evidence pack of an incident.

mod common;

use common::slashwatch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use test_support::capture;
use test_support::program::{run, stderr};

/// Replays a capture, writes the pack of its first slashing wave, and unpacks it.
struct Unpacked {
    dir: tempfile::TempDir,
    folder: PathBuf,
}

impl Unpacked {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let at = |name: &str| dir.path().join(name);
        let mut replay = slashwatch();
        replay.arg("replay").arg(capture(name)).arg("--data-dir").arg(at("data")).arg("--incidents").arg(at("incidents.jsonl"));
        let output = run(replay.arg("--findings").arg(at("findings.jsonl")).arg("--evidence-dir").arg(at("proofs")));
        assert!(output.status.success(), "{}", stderr(&output));
        let incidents = test_support::findings::findings(&at("incidents.jsonl"));
        let wave = incidents.iter().find(|incident| incident["kind"] == "slashing_wave").expect("a wave");
        let id = wave["id"].as_str().expect("an id");
        let mut report = slashwatch();
        let output = run(report
            .arg("report")
            .arg("--data-dir")
            .arg(at("data"))
            .arg("--incident")
            .arg(id)
            .arg("--out")
            .arg(at("pack.zip")));
        assert!(output.status.success(), "{}", stderr(&output));
        unzip(&std::fs::read(at("pack.zip")).expect("written"), &at("unpacked"));
        let folder = at("unpacked").join(format!("incident-{}", &id[2..10]));
        Self { dir, folder }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn proofs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("proofs")).expect("a folder");
        entries
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect()
    }
}

/// Unpacks a zip file by its central directory, and checks the sum of each file.
fn unzip(bytes: &[u8], into: &Path) {
    let number = |at: usize, n: usize| bytes[at..at + n].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let end = bytes.len() - 22;
    assert_eq!(&bytes[end..end + 4], b"PK\x05\x06");
    let (n_files, mut at) = (number(end + 10, 2), number(end + 16, 4));
    assert_eq!(at + number(end + 12, 4), end, "the directory is followed by its end");
    for _ in 0..n_files {
        assert_eq!(&bytes[at..at + 4], b"PK\x01\x02");
        let (sum, packed, length) = (number(at + 16, 4), number(at + 20, 4), number(at + 24, 4));
        let (name, header) = (number(at + 28, 2), number(at + 42, 4));
        let path = into.join(std::str::from_utf8(&bytes[at + 46..at + 46 + name]).expect("UTF-8"));
        assert_eq!(&bytes[header..header + 4], b"PK\x03\x04");
        assert_eq!(bytes[header + 6..header + 30], bytes[at + 8..at + 32], "both headers say the same");
        let start = header + 30 + name;
        let mut content = Vec::new();
        let read = flate2::read::DeflateDecoder::new(&bytes[start..start + packed]).read_to_end(&mut content);
        assert_eq!(read.expect("deflated"), length);
        let mut own = flate2::Crc::new();
        own.update(&content);
        assert_eq!(own.sum() as usize, sum, "{}", path.display());
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        std::fs::write(path, content).expect("writable");
        at += 46 + name;
    }
    assert_eq!(at, end);
}

#[test]
fn every_member_of_a_wave_is_in_its_pack_with_a_proof() {
    let pack = Unpacked::of("electra_7_wave");
    let incident: Value = serde_json::from_str(&pack.read("incident.json")).expect("JSON");
    let members: Vec<String> =
        pack.read("members.csv").lines().skip(1).map(|line| line.split(',').next().unwrap_or_default().to_owned()).collect();
    assert!(members.len() as u64 >= incident["validators"].as_str().expect("a number").parse().expect("a number"), "{members:?}");
    assert!(pack.read("members.csv").contains("beacon_block_root"), "it says what differs");
    let mut accused = BTreeSet::new();
    let keys: BTreeMap<String, String> = serde_json::from_str(&pack.read("keys.json")).expect("JSON");
    for proof in pack.proofs() {
        let name = proof.file_name().expect("a name");
        let recorded = |extension: &str| {
            std::fs::read(pack.dir.path().join("proofs").join(Path::new(name).with_extension(extension))).expect("recorded")
        };
        assert_eq!(std::fs::read(&proof).expect("readable"), recorded("json"), "as it was recorded");
        assert_eq!(std::fs::read(proof.with_extension("ssz")).expect("readable"), recorded("ssz"));
        let json: Value = serde_json::from_slice(&recorded("json")).expect("JSON");
        let signers = |side: &str| -> BTreeSet<String> {
            let list = json[side]["attesting_indices"].as_array().into_iter().flatten();
            list.map(|index| index.as_str().expect("an index").to_owned()).collect()
        };
        let (one, two) = (signers("attestation_1"), signers("attestation_2"));
        assert!(one.union(&two).all(|signer| keys.contains_key(signer)), "the keys of all signers are there");
        accused.extend(one.intersection(&two).cloned());
        accused.extend(json["signed_header_1"]["message"]["proposer_index"].as_str().map(str::to_owned));
    }
    assert!(members.iter().all(|member| accused.contains(member)), "{members:?} {accused:?}");
    let interchange: Value = serde_json::from_str(&pack.read("interchange.json")).expect("JSON");
    assert_eq!(interchange["data"].as_array().expect("a list").len(), members.len());
    for line in pack.read("members.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(keys.get(fields[0]).map(String::as_str), Some(fields[1]), "{line}");
    }
    assert!(pack.read("README.md").contains("FastAggregateVerify"), "{}", pack.read("README.md"));
    assert!(pack.read("timeline.md").contains("| +0.0 s |"), "{}", pack.read("timeline.md"));
    assert!(pack.read("post-mortem.md").contains("## Suspected cause"));
    assert_eq!(pack.read("findings.jsonl").lines().count(), {
        let all = test_support::findings::findings(&pack.dir.path().join("findings.jsonl"));
        let slot = |value: &Value| value.as_str().expect("a slot").parse::<u64>().expect("a number");
        let range = slot(&incident["first_slot"])..=slot(&incident["last_slot"]);
        all.iter().filter(|finding| !finding["evidence"].is_null() && range.contains(&slot(&finding["slot"]))).count()
    });
}
