//! The evidence pack of an incident, and the check of its proofs with another library.

mod common;

use common::slashwatch;
use serde_json::Value;
use std::collections::BTreeSet;
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
        Self::of_wave(name).expect("a wave")
    }

    /// `None` if the capture has no wave.
    fn of_wave(name: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let at = |name: &str| dir.path().join(name);
        let mut replay = slashwatch();
        replay.arg("replay").arg(capture(name)).arg("--data-dir").arg(at("data")).arg("--incidents").arg(at("incidents.jsonl"));
        let output = run(replay.arg("--findings").arg(at("findings.jsonl")).arg("--evidence-dir").arg(at("proofs")));
        assert!(output.status.success(), "{}", stderr(&output));
        let incidents = test_support::findings::findings(&at("incidents.jsonl"));
        let wave = incidents.iter().find(|incident| incident["kind"] == "slashing_wave")?;
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
        Some(Self { dir, folder })
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

fn verify(proof: &Path, network: &Path, keys: Option<&Path>) -> (Option<i32>, String) {
    let mut command = slashwatch();
    command.arg("verify-proof").arg(proof).arg("--network").arg(network);
    if let Some(keys) = keys {
        command.arg("--keys").arg(keys);
    }
    let output = run(&mut command);
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output)))
}

#[test]
fn every_member_of_a_wave_is_in_its_pack_with_a_proof_that_holds() {
    let pack = Unpacked::of("electra_7_wave");
    let data = pack.dir.path().join("data");
    let incident: Value = serde_json::from_str(&pack.read("incident.json")).expect("JSON");
    let members: Vec<String> =
        pack.read("members.csv").lines().skip(1).map(|line| line.split(',').next().unwrap_or_default().to_owned()).collect();
    assert!(members.len() as u64 >= incident["validators"].as_str().expect("a number").parse().expect("a number"), "{members:?}");
    assert!(pack.read("members.csv").contains("beacon_block_root"), "it says what differs");
    let mut accused = BTreeSet::new();
    for proof in pack.proofs() {
        // With the keys of the pack, and with those of the data directory.
        let keys = pack.folder.join("keys.json");
        for keys in [Some(&*keys), None] {
            let (code, told) = verify(&proof, &data, keys);
            assert_eq!(code, Some(0), "{told}");
            assert!(told.starts_with("genuine: "), "{told}");
        }
        let (code, of_ssz) = verify(&proof.with_extension("ssz"), &data, Some(&keys));
        assert_eq!(code, Some(0), "{of_ssz}");
        let named = of_ssz.split(" of ").nth(1).and_then(|rest| rest.split(';').next()).expect("who is accused");
        accused.extend(named.split(", ").map(str::to_owned));
    }
    assert!(members.iter().all(|member| accused.contains(member)), "{members:?} {accused:?}");
    let interchange: Value = serde_json::from_str(&pack.read("interchange.json")).expect("JSON");
    assert_eq!(interchange["data"].as_array().expect("a list").len(), members.len());
    let readme = pack.read("README.md");
    assert!(readme.contains("slashwatch verify-proof proofs/0x") && readme.contains(" --network ."), "{readme}");
    // The folder is all that is needed, on a network that is not built in.
    let proof = &pack.proofs()[0];
    let (code, told) = verify(proof, &pack.folder, None);
    assert_eq!(code, Some(0), "{told}");
    let sums = std::process::Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(&pack.folder).output();
    let sums = sums.expect("sha256sum is there");
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stderr));
    assert!(pack.read("SHA256SUMS").lines().count() >= 8 && pack.read("SHA256SUMS").contains("  README.md"));
    assert!(pack.read("timeline.md").contains("| +0.0 s |"), "{}", pack.read("timeline.md"));
    assert!(pack.read("post-mortem.md").contains("## Suspected cause"));
    assert_eq!(pack.read("findings.jsonl").lines().count(), {
        let all = test_support::findings::findings(&pack.dir.path().join("findings.jsonl"));
        let slot = |value: &Value| value.as_str().expect("a slot").parse::<u64>().expect("a number");
        let range = slot(&incident["first_slot"])..=slot(&incident["last_slot"]);
        all.iter().filter(|finding| !finding["evidence"].is_null() && range.contains(&slot(&finding["slot"]))).count()
    });
}

/// The capture in a pack is replayed by itself, and gives the findings of the pack's proofs again.
#[test]
fn the_capture_of_a_pack_gives_the_same_findings() {
    for name in ["electra_7_wave", "gloas_12", "fulu_4"] {
        let Some(pack) = Unpacked::of_wave(name) else { continue };
        let found = pack.dir.path().join("again.jsonl");
        let output = run(slashwatch().arg("replay").arg(pack.folder.join("capture.e2s")).arg("--findings").arg(&found));
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let proofs: BTreeSet<String> = pack
            .proofs()
            .iter()
            .map(|path| path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned())
            .collect();
        let key = |finding: &Value| {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            (text(&finding["id"]), text(&finding["kind"]), text(&finding["validator"]["index"]), text(&finding["evidence"]["id"]))
        };
        let is_offence = |finding: &&Value| !finding["evidence"].is_null();
        let of_pack: Vec<Value> =
            pack.read("findings.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let wanted: BTreeSet<_> = of_pack
            .iter()
            .filter(is_offence)
            .filter(|one| proofs.contains(one["evidence"]["id"].as_str().expect("an id")))
            .map(key)
            .collect();
        let again: BTreeSet<_> = test_support::findings::findings(&found).iter().filter(is_offence).map(key).collect();
        assert!(!wanted.is_empty() && again.is_superset(&wanted), "{name}: {:?}", wanted.difference(&again).collect::<Vec<_>>());
        let known: BTreeSet<String> = of_pack.iter().filter(is_offence).map(|one| key(one).0).collect();
        assert!(again.iter().all(|(id, ..)| known.contains(id)), "{name}: nothing else is found");
        let readme = pack.read("README.md");
        assert!(readme.contains("slashwatch replay capture.e2s") && readme.contains("no blocks, no other votes"), "{readme}");
    }
}

#[test]
fn a_proof_that_was_changed_is_not_genuine() {
    let pack = Unpacked::of("electra_7_wave");
    let data = pack.dir.path().join("data");
    let keys = pack.folder.join("keys.json");
    let is_votes = |path: &PathBuf| std::fs::read_to_string(path).expect("readable").contains("attestation_1");
    let proof = pack.proofs().into_iter().find(is_votes).expect("a double vote");
    let original: Value = serde_json::from_str(&std::fs::read_to_string(&proof).expect("readable")).expect("JSON");
    let changed = pack.dir.path().join("changed.json");
    let check = |value: &Value, word: &str| {
        std::fs::write(&changed, value.to_string()).expect("writable");
        let (code, told) = verify(&changed, &data, Some(&keys));
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(word), "{word}: {told}");
    };
    let mut value = original.clone();
    value["attestation_2"]["data"]["beacon_block_root"] = format!("0x{}", "11".repeat(32)).into();
    check(&value, "the signature of attestation_2 does not hold");
    let mut value = original.clone();
    value["attestation_2"] = value["attestation_1"].clone();
    check(&value, "do not contradict");
    let mut value = original.clone();
    value["attestation_1"]["signature"] = format!("0x{}", "00".repeat(96)).into();
    check(&value, "no point");
    // A signer more than signed.
    let mut value = original.clone();
    let indices = value["attestation_1"]["attesting_indices"].as_array_mut().expect("a list");
    let first = indices[0].clone();
    indices.insert(0, first);
    check(&value, "not unique");
    // On another network the same signatures prove nothing.
    let (code, told) = verify(&proof, Path::new("mainnet"), Some(&keys));
    assert_eq!(code, Some(1), "{told}");
    // What is no proof is unreadable input, and an unknown network wrong usage.
    std::fs::write(&changed, "{}").expect("writable");
    assert_eq!(verify(&changed, &data, Some(&keys)).0, Some(65));
    assert_eq!(verify(&proof, Path::new("nowhere"), Some(&keys)).0, Some(64));
    let (code, told) = verify(&proof, Path::new("mainnet"), None);
    assert!(code == Some(1) && told.contains("NOT genuine"), "keys.json of the pack is found: {told}");
}

/// Proofs of every fork and kind, from the captures whose truth another program made.
#[test]
fn the_other_library_agrees_about_every_proof_of_every_fork() {
    for name in ["phase0_2", "deneb_3", "electra_6", "fulu_4", "gloas_12"] {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let (data, proofs) = (dir.path().join("data"), dir.path().join("proofs"));
        let output =
            run(slashwatch().arg("replay").arg(capture(name)).arg("--data-dir").arg(&data).arg("--evidence-dir").arg(&proofs));
        assert!(output.status.success(), "{}", stderr(&output));
        let mut n = 0;
        for entry in std::fs::read_dir(&proofs).expect("a folder") {
            let (code, told) = verify(&entry.expect("readable").path(), &data, None);
            assert_eq!(code, Some(0), "{name}: {told}");
            n += 1;
        }
        assert!(n >= 2, "{name}");
    }
}

/// The groups come from a list, and the record of kill switches from the data directory.
#[test]
fn a_pack_with_a_list_of_keys_says_who_is_next_and_what_kill_switches_did() {
    let pack = Unpacked::of("electra_7_wave");
    let (data, at) = (pack.dir.path().join("data"), |name: &str| pack.dir.path().join(name));
    assert!(!pack.folder.join("next.csv").exists(), "nobody knows the groups");
    assert!(!pack.read("post-mortem.md").contains("Kill switches"));
    let incident: Value = serde_json::from_str(&pack.read("incident.json")).expect("JSON");
    let finding: Value = serde_json::from_str(pack.read("findings.jsonl").lines().next().expect("one")).expect("JSON");
    let members: BTreeSet<String> =
        pack.read("members.csv").lines().skip(1).map(|line| line.split(',').next().unwrap_or_default().to_owned()).collect();
    let hit = finding["validator"]["index"].as_str().expect("an index");
    let other = (0..).map(|index: u64| index.to_string()).find(|index| !members.contains(index)).expect("somebody is not hit");

    let network: Value = serde_json::from_str(&pack.read("network.json")).expect("JSON");
    let root = network["genesis_validators_root"].as_str().expect("a root").parse().expect("a root");
    let earlier = serde_json::json!({
        "finding": finding["id"], "kind": "double_vote", "ordered_at": finding["second_seen"], "attempts": 2,
        "result": {"done": true, "took_ms": 45, "answer": "a secret path"},
        "after_stop": {"stopped_in": "1", "signing": null, "silent_since": "77"},
    });
    let switches = serde_json::json!({
        "seen": 1, "fired": {}, "earlier": {"acme": earlier}, "armed_again": {"acme": 1}, "armed_again_at": {"acme": "2030-01-01T00:00:00Z"},
    });
    let store = evidence::Store::open(&data.join("evidence"), root).expect("it opens");
    store.put_checkpoint("killswitches", switches.to_string().as_bytes()).expect("writable");
    drop(store);
    let config = format!(
        "data_dir = {data:?}\nnetwork.name = \"mainnet\"\n[[watch.groups]]\nname = \"acme\"\nkeys = [{hit:?}, {other:?}]\n"
    );
    std::fs::write(at("slashwatch.toml"), config).expect("writable");

    let mut report = slashwatch();
    report.arg("report").arg("--data-dir").arg(&data).args(["--incident", incident["id"].as_str().expect("an id")]);
    // Indices of another network are keys of others.
    let output = run(report.arg("--config").arg(at("slashwatch.toml")).arg("--out").arg(at("own.zip")));
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    assert!(stderr(&output).contains("it is for mainnet") && stderr(&output).contains("--watch"), "{}", stderr(&output));
    std::fs::write(at("keys.csv"), format!("group,key\nacme,{hit}\nacme,{other}\n")).expect("writable");
    let mut report = slashwatch();
    report.arg("report").arg("--data-dir").arg(&data).args(["--incident", incident["id"].as_str().expect("an id")]);
    let output = run(report.arg("--watch").arg(at("keys.csv")).arg("--out").arg(at("own.zip")));
    assert!(output.status.success(), "{}", stderr(&output));
    unzip(&std::fs::read(at("own.zip")).expect("written"), &at("own"));
    let read =
        |name: &str| std::fs::read_to_string(at("own").join(pack.folder.file_name().expect("a name")).join(name)).expect(name);
    let of_hit = read("members.csv").lines().find(|line| line.starts_with(&format!("{hit},"))).map(str::to_owned);
    let header = read("members.csv").lines().next().map(str::to_owned);
    let column = header.as_ref().and_then(|line| line.split(',').position(|name| name == "groups")).expect("a column");
    assert_eq!(of_hit.and_then(|line| line.split(',').nth(column).map(str::to_owned)).as_deref(), Some("acme"));
    let next = read("next.csv");
    let rows: Vec<&str> = next.lines().skip(1).map(|line| line.split(',').next().unwrap_or_default()).collect();
    assert_eq!(rows, [other.as_str()], "{next}");
    let draft = read("post-mortem.md");
    for words in
        ["## Kill switches", "group acme fired, at", "done after 45 ms, attempt 2", "silent since slot 77", "made ready again"]
    {
        assert!(draft.contains(words), "{words}: {draft}");
    }
    assert!(!draft.contains("a secret path"), "{draft}");
    assert!(read("timeline.md").contains("the kill switch of group acme fired"), "{}", read("timeline.md"));
    let output = run(slashwatch().arg("report").arg("--data-dir").arg(&data).arg("--out").arg(at("all.md")));
    assert!(output.status.success(), "{}", stderr(&output));
    let all = std::fs::read_to_string(at("all.md")).expect("written");
    assert!(all.contains("Kill switches") && all.contains("group acme fired, at"), "{all}");
}

#[test]
fn a_finding_is_shown_as_text_by_the_beginning_of_its_id() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    let findings = common::replay(&capture("fulu_4"), &data, &dir.path().join("found.jsonl"));
    let inspect = |what: &[&str]| {
        let output = run(slashwatch().args(["inspect", "--data-dir"]).arg(&data).args(what));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    };
    let ids: Vec<&str> = findings.iter().map(|finding| finding["id"].as_str().expect("an id")).collect();
    for (finding, id) in findings.iter().zip(&ids) {
        let length =
            (3..=66).find(|length| ids.iter().filter(|one| one.starts_with(&id[..*length])).count() == 1).expect("unique");
        let (code, text, told) = inspect(&["finding", &id[..length], "--text"]);
        assert_eq!(code, Some(0), "{told}");
        let index = finding["validator"]["index"].as_str().expect("an offender");
        assert!(text.starts_with(&format!("finding     {id}\n")) && text.contains(&format!("validator {index}, 0x")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("* ")), "what differs is marked: {text}");
        // Another program reads JSON, also if it does not ask for it.
        for more in [&[][..], &["--json"]] {
            let (code, json, _) = inspect(&[&["finding", &id[..length]], more].concat());
            let json: Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!((code, &json["finding"]["id"]), (Some(0), &Value::from(*id)));
            assert!(json["evidence"].is_object());
        }
    }
    let unknown = if ids.iter().any(|id| id.starts_with("0xabcdef")) { "0x123456" } else { "0xabcdef" };
    let (code, _, told) = inspect(&["finding", unknown]);
    assert!(code == Some(1) && told.contains("no finding 0x"), "{told}");
    let (code, _, told) = inspect(&["finding", "0xhello"]);
    assert!(code == Some(64) && told.contains("64 hex digits"), "{told}");
}
