//! Wrong input from outside: the message is clear, the exit code is right, and everything before
//! the error is kept.

mod common;

use common::{replay, slashwatch};
use std::collections::BTreeSet;
use std::path::Path;
use test_support::capture;
use test_support::findings::{findings, ids};
use test_support::program::{run, stderr};

const UNREADABLE: i32 = 65;
const USAGE: i32 = 64;

fn replay_bytes(dir: &Path, bytes: &[u8]) -> (Option<i32>, String, Vec<serde_json::Value>) {
    let file = dir.join("made.e2s");
    std::fs::write(&file, bytes).expect("writable");
    let out = dir.join("made.jsonl");
    let _ = std::fs::remove_file(&out);
    let output = run(slashwatch().arg("replay").arg(&file).arg("--findings").arg(&out));
    let rows = if out.exists() { findings(&out) } else { Vec::new() };
    (output.status.code(), stderr(&output), rows)
}

/// Returns the offsets of all entries of an e2store file, and its end.
fn entries(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = vec![0];
    let mut at = 0;
    while at + 8 <= bytes.len() {
        at += 8 + u32::from_le_bytes(bytes[at + 2..at + 6].try_into().expect("4 bytes")) as usize;
        offsets.push(at);
    }
    offsets
}

#[test]
fn a_cut_capture_keeps_everything_before_the_cut_and_names_the_offset() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let whole = std::fs::read(capture("fulu_4")).expect("readable");
    let offsets = entries(&whole);
    let last = offsets[offsets.len() - 2];
    let (code, told, kept) = replay_bytes(dir.path(), &whole[..last + 13]);
    assert_eq!(code, Some(UNREADABLE), "{told}");
    assert!(told.contains(&last.to_string()) && told.contains("made.e2s"), "{told}");
    let (code, _, all_but_last) = replay_bytes(dir.path(), &whole[..last]);
    assert_eq!(code, Some(0));
    assert_eq!(ids(&kept), ids(&all_but_last));
    assert!(!kept.is_empty());
}

#[test]
fn an_empty_file_and_a_foreign_one_are_refused() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    for bytes in [&b""[..], b"PK\x03\x04 this is a zip file, surely", &[0xff; 64]] {
        let (code, told, rows) = replay_bytes(dir.path(), bytes);
        assert_eq!(code, Some(UNREADABLE), "{told}");
        assert!(told.contains("made.e2s"), "{told}");
        assert!(rows.is_empty());
    }
}

#[test]
fn flipped_bytes_never_crash_it_and_never_accuse_anybody_else() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = capture("fulu_4");
    let honest = ids(&replay(&file, &dir.path().join("data"), &dir.path().join("honest.jsonl")));
    let whole = std::fs::read(&file).expect("readable");
    // The first seed damages blocks so that votes are tried with wrong committees, where sums of
    // related keys coincide.
    for seed in [19_331, std::process::id()] {
        println!("seed {seed}");
        flip_and_replay(seed, &whole, &honest, dir.path());
    }
}

fn flip_and_replay(seed: u32, whole: &[u8], honest: &BTreeSet<String>, dir: &Path) {
    let mut random = u64::from(seed);
    for _ in 0..10 {
        let mut bytes = whole.to_vec();
        for _ in 0..8 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 20) as usize % bytes.len();
            bytes[at] ^= 1 << (random >> 60 & 7);
        }
        let (code, told, rows) = replay_bytes(dir, &bytes);
        assert!(matches!(code, Some(0 | 1 | UNREADABLE)), "seed {seed}: exit {code:?}: {told}");
        assert!(!told.contains("panicked"), "seed {seed}: {told}");
        if code != Some(0) {
            assert!(told.contains("made.e2s"), "seed {seed}: {told}");
        }
        assert!(ids(&rows).is_subset(honest), "seed {seed}: somebody was accused by damaged bytes");
    }
}

#[test]
fn a_message_that_lies_about_its_size_is_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = capture("fulu_4");
    let whole = std::fs::read(&file).expect("readable");
    let offsets = entries(&whole);
    // A gossip entry whose snappy header claims more than 10 MiB, placed in the middle.
    let gossip = *offsets.iter().find(|at| whole.get(**at..**at + 2) == Some(b"gs")).expect("a gossip entry");
    let length = u32::from_le_bytes(whole[gossip + 2..gossip + 6].try_into().expect("4 bytes")) as usize;
    let body = &whole[gossip + 8..gossip + 8 + length];
    let peer = body[8] as usize;
    let topic = u16::from_le_bytes([body[9 + peer], body[10 + peer]]) as usize;
    let mut bomb = body[..11 + peer + topic].to_vec();
    bomb.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f, 0x00, 0x00]);
    let mut made = whole[..gossip].to_vec();
    made.extend_from_slice(b"gs");
    made.extend_from_slice(&(bomb.len() as u32).to_le_bytes());
    made.extend_from_slice(&[0, 0]);
    made.extend_from_slice(&bomb);
    made.extend_from_slice(&whole[gossip..]);
    let (code, told, rows) = replay_bytes(dir.path(), &made);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("refused: too_long"), "the refused message is not counted: {told}");
    let honest = replay(&file, &dir.path().join("data"), &dir.path().join("honest.jsonl"));
    assert_eq!(ids(&rows), ids(&honest));
}

#[test]
fn a_data_directory_of_another_network_is_refused() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    replay(&capture("fulu_4"), &data, &dir.path().join("out.jsonl"));
    let keys = || std::fs::read(data.join("pubkeys")).expect("validated public keys");
    let before = keys();
    let other = capture("phase0_2");
    let output = run(slashwatch().arg("replay").arg(other).arg("--data-dir").arg(&data));
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("another network") && told.contains("--data-dir"), "{told}");
    assert!(keys() == before, "the keys of another network are kept");
}

#[test]
fn two_processes_cannot_share_a_data_directory() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let data = dir.path().join("data");
    replay(&capture("fulu_4"), &data, &dir.path().join("out.jsonl"));
    let lock = watcher::datadir::DataDir::open(&data).expect("free again");
    let output = run(slashwatch().arg("replay").arg(capture("fulu_4")).arg("--data-dir").arg(&data));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("in use by another slashwatch"), "{}", stderr(&output));
    drop(lock);
}

#[test]
fn wrong_usage_and_config_are_64() {
    let cases = [
        &["replay"][..],
        &["no-such-command"],
        &["run"],
        &["config", "check", "/nonexistent.toml"],
        &["bench", "index", "--validators", "0"],
        &["bench", "index", "--epochs", "0"],
        &["bench", "index", "--batches-per-slot", "0"],
        &["bench", "index", "--participation", "101"],
        &["bench", "index", "--minority", "-1"],
        &["bench", "pipeline", "--validators", "5"],
        &["bench", "pipeline", "--slots", "0"],
        &["bench", "pipeline", "--connections", "5"],
        &["crawl", "--network", "/nonexistent"],
        &["backfill", "file.era", "--from-peers"],
        &["killswitch", "rearm", "acme", "--data-dir", "x", "--config", "y"],
    ];
    for args in cases {
        let output = run(slashwatch().args(args));
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}: {}", stderr(&output));
    }
    let dir = tempfile::tempdir().expect("a fresh directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "[nodes]\nurls = [\"ftp://x\"]\n[gossip]\nqueue_messages = 0\n").expect("writable");
    let output = run(slashwatch().args(["config", "check"]).arg(&file));
    assert_eq!(output.status.code(), Some(USAGE));
    let told = stderr(&output);
    assert!(told.contains("nodes.urls[0]") && told.contains("gossip.queue_messages"), "{told}");
    // What `run` is told on its command line, a check can be told too.
    std::fs::write(
        &file,
        "[gossip]\nlisten = []\npeers = [\"/ip4/127.0.0.1/tcp/9\"]\n[gossip.discovery]\nexternal = [\"9.9.9.9\"]\n",
    )
    .expect("writable");
    assert_eq!(run(slashwatch().args(["config", "check"]).arg(&file)).status.code(), Some(USAGE));
    let options = ["--network", "hoodi", "--checkpoint", "http://127.0.0.1:9"];
    let output = run(slashwatch().args(["config", "check"]).arg(&file).args(options));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning: gossip.discovery.external: names an address"), "{}", stderr(&output));
}

/// Each of these once passed with the same words as a good configuration.
#[test]
fn a_silent_pager_and_a_switch_without_keys_are_told_and_keys_that_are_none_refused() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("secret"), "s".repeat(40)).expect("writable");
    std::fs::write(at("keys.csv"), "group,key,operator\nacme1,100-199,acme\n").expect("writable");
    let check = |keys: &str, group: &str, label: &str| {
        let text = format!(
            "[network]\nname = \"mainnet\"\n[nodes]\nurls = [\"http://127.0.0.1:9\"]\n\
             [watch]\nfiles = [\"keys.csv\"]\n[[watch.groups]]\nname = {group:?}\nkeys = [{keys}]\n\
             kill_switch = {{ command = [\"/bin/true\"] }}\n\
             [[alerts.routes]]\nname = \"pager\"\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"secret\"\nlabels = [{label:?}]\n"
        );
        std::fs::write(at("sw.toml"), text).expect("writable");
        let output = run(slashwatch().args(["config", "check"]).arg(at("sw.toml")));
        (output.status.code(), stderr(&output))
    };
    let (code, told) = check("", "acme1", "operator=acme");
    assert!(code == Some(0) && !told.contains("warning:"), "{told}");
    let (code, told) = check("", "acme-1", "group=acme1");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("group acme-1 has a kill switch and no key") && told.contains("groups with keys: acme1"), "{told}");
    assert!(!told.contains("alerts.routes"), "{told}");
    let (_, told) = check("\"7\"", "acme-1", "group=acme-7");
    assert!(told.contains("no key has the label group=acme-7, so route pager stays silent"), "{told}");
    assert!(!told.contains("kill switch and no key"), "{told}");
    let none = format!("0x{}", "ab".repeat(48));
    let (code, told) = check(&format!("{none:?}"), "acme-1", "group=acme1");
    assert_eq!(code, Some(USAGE), "{told}");
    assert!(told.contains("1 public keys under [watch] are none") && told.contains(&none), "{told}");
}

#[test]
fn missing_files_are_told_with_their_name() {
    for args in
        [&["simulate", "/nonexistent/night.toml", "--out", "x.e2s"][..], &["demo", "--scenario", "/nonexistent/night.toml"]]
    {
        let output = run(slashwatch().args(args));
        assert_eq!(output.status.code(), Some(UNREADABLE), "{args:?}");
        assert!(stderr(&output).contains("/nonexistent/night.toml"), "{}", stderr(&output));
    }
    let output = run(slashwatch().args(["replay", "/nonexistent/capture.e2s"]));
    assert_eq!(output.status.code(), Some(UNREADABLE));
    assert!(stderr(&output).contains("/nonexistent/capture.e2s"), "{}", stderr(&output));
}

/// `slashwatch inspect | head` once panicked. The reader of the output may stop at any time.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (capture, data_dir) = (capture("fulu_4"), dir.path().join("data"));
    let rows = replay(&capture, &data_dir, &dir.path().join("found.jsonl"));
    let id = rows[0]["id"].as_str().expect("a finding's id");
    let validator = rows[0]["validator"]["index"].as_str().expect("an offender");
    let data_dir = data_dir.to_str().expect("UTF-8");
    let interchange = dir.path().join("seen.json");
    let output = run(slashwatch().args(["export", "interchange", "--data-dir", data_dir, "--validators", validator]));
    std::fs::write(&interchange, output.stdout).expect("writable");
    let interchange = interchange.to_str().expect("UTF-8");
    let commands: [&[&str]; 9] = [
        &["config", "show-defaults"],
        &["inspect", "--data-dir", data_dir],
        &["inspect", "--data-dir", data_dir, "validator", validator],
        &["inspect", "--data-dir", data_dir, "finding", id],
        &["export", "interchange", "--data-dir", data_dir, "--validators", validator],
        &["audit", "--data-dir", data_dir, "--interchange", interchange],
        &["audit", "--data-dir", data_dir, "--interchange", interchange, "--json"],
        &["bench", "verify", "--votes", "64", "--json"],
        &["replay", capture.to_str().expect("UTF-8"), "--findings", "-"],
    ];
    for command in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = slashwatch().args(command).stdout(writer).output().expect("it runs");
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {told}");
        assert!(!told.contains("panicked"), "{command:?}: {told}");
    }
}
