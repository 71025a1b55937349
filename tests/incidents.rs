//! Eight incidents of the years 2020 to 2025, and ordinary days. The simulator plays them, and the
//! binary replays them. The tests check what was reported, when, and that nothing else was
//! reported.
//!
//! The scenario files (scenarios/*.toml) say what happens, and what must be reported at which time.
//! Nothing else may be reported. The simulator shares no code with the detectors. Its list of
//! contradictions is compared with the findings by id. The tests below check the contents of the
//! incidents.

mod common;

use common::{reported, slashwatch};
use serde_json::Value;
use simulator::GroundTruth;
use simulator::record::GENESIS_TIME;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use test_support::findings::{findings, proven};
use test_support::program::{run, stderr};

/// Slot duration of all scenario files.
const SLOT: Duration = Duration::from_secs(12);

/// The result of replaying a scenario.
struct Played {
    name: String,
    incidents: Vec<Value>,
    findings: Vec<Value>,
    truth: Value,
    _dir: tempfile::TempDir,
}

/// Plays a scenario file and replays the capture, with at most `batch` messages in a batch.
fn play(name: &str, batch: &str) -> Played {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |file: &str| -> PathBuf { dir.path().join(file) };
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let mut simulate = slashwatch();
    simulate.arg("simulate").arg(&scenario).arg("--out").arg(at("x.e2s")).arg("--truth").arg(at("truth.json"));
    let made = run(&mut simulate);
    assert!(made.status.success(), "{name}: {}", stderr(&made));
    let mut replay = slashwatch();
    replay.env("SLASHWATCH_BATCH_MESSAGES", batch);
    replay.arg("replay").arg(at("x.e2s")).arg("--findings").arg(at("found.jsonl")).arg("--incidents").arg(at("incidents.jsonl"));
    let replayed = run(&mut replay);
    assert!(replayed.status.success(), "{name}: {}", stderr(&replayed));
    let truth = serde_json::from_slice(&std::fs::read(at("truth.json")).expect("written")).expect("JSON");
    Played {
        name: name.to_owned(),
        incidents: findings(&at("incidents.jsonl")),
        findings: findings(&at("found.jsonl")),
        truth,
        _dir: dir,
    }
}

impl Played {
    fn kinds(&self) -> BTreeSet<&str> {
        self.incidents.iter().filter_map(|incident| incident["kind"].as_str()).collect()
    }

    /// The first incident of a kind.
    fn of(&self, kind: &str) -> &Value {
        let first = self.incidents.iter().find(|incident| incident["kind"] == kind);
        first.unwrap_or_else(|| panic!("{}: no {kind} in {:?}", self.name, self.kinds()))
    }

    /// Checks that every contradiction and every incident was found, and that nothing else was
    /// reported.
    fn check(&self) {
        let crimes = self.truth["crimes"].as_array().expect("a list");
        let committed: BTreeSet<String> =
            crimes.iter().map(|crime| crime["finding_id"].as_str().expect("id").to_owned()).collect();
        assert_eq!(proven(&self.findings), committed, "{}", self.name);
        let read = |key: &str| self.truth[key].clone();
        let truth = GroundTruth {
            incidents: serde_json::from_value(read("incidents")).expect("incidents"),
            may_follow: serde_json::from_value(read("may_follow")).expect("kinds"),
            ..GroundTruth::default()
        };
        let comparison = truth.compare(&reported(&self.incidents, &self.findings, GENESIS_TIME, SLOT));
        println!("{}: {} contradictions, {comparison}", self.name, committed.len());
        assert!(comparison.is_complete(), "{}: {comparison}", self.name);
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().expect("a decimal string").parse().expect("a number")
}

fn shares(incident: &Value, what: &str, value: &str) -> bool {
    let shared = incident["shared"].as_array();
    shared.is_some_and(|list| {
        list.iter().any(|one| one["what"] == what && one["value"].as_str().is_some_and(|v| v.starts_with(value)))
    })
}

#[test]
fn medalla() {
    let played = play("medalla", "1024");
    played.check();
    // The clocks jump in slot 40 and are right again in slot 64.
    let clocks = played.of("clock_skew");
    assert_eq!((clocks["state"].as_str(), clocks["severity"].as_str()), (Some("closed"), Some("critical")));
    assert_eq!((&clocks["details"]["slots_ahead"], &clocks["details"]["together"]), (&296.into(), &true.into()));
    assert!(played.kinds().contains("finality_delay"));
    let wave = played.of("slashing_wave");
    assert!(number(&wave["validators"]) >= 90, "{wave}");
    assert_eq!(wave["details"]["suspected_cause"], "clocks");
    assert!(number(&wave["offences"]["surround_vote"]) > number(&wave["offences"]["double_vote"]));
}

#[test]
fn staked() {
    let played = play("staked", "1024");
    played.check();
    // One key signs twice from slot 26 on, and the other 74 keys from slot 34 on. One key alone is
    // not a wave.
    let wave = played.of("slashing_wave");
    assert_eq!((number(&wave["validators"]), number(&wave["offences"]["double_vote"])), (75, 75));
    assert_eq!(wave["details"]["suspected_cause"], "same_keys_in_two_places");
    assert!(shares(wave, "withdrawal_credential", "0x01"));
    // Phase0, minimal preset: 75 of 512 validators, each with 32 ETH. Each loses 32 / 64 ETH at
    // once, and min(75 * 32 * 2, T) * 32 / T later.
    assert_eq!(wave["penalty"]["initial_gwei"], "37500000000");
    assert_eq!(wave["penalty"]["correlation_gwei_now"], "675000000000");
}

#[test]
fn april_2021() {
    let played = play("april_2021", "1024");
    played.check();
    // One client makes no blocks from slot 96 on.
    let missed = played.of("missed_proposals");
    assert!(shares(missed, "client", "prysm"), "{missed}");
    assert!(missed["details"]["participation_percent"].as_u64() >= Some(95), "its votes are fine: {missed}");
}

#[test]
fn may_2023() {
    let played = play("may_2023", "1024");
    played.check();
    // Votes have old targets from slot 60 on. Two clients are offline from slot 72 to 104.
    assert_eq!(played.of("finality_delay")["state"], "closed");
    assert!(played.kinds().contains("missed_proposals"));
}

#[test]
fn november_2023() {
    let played = play("november_2023", "1024");
    played.check();
    // A hundred new keys sign twice from slot 56 on, within one epoch.
    let wave = played.of("slashing_wave");
    assert_eq!(number(&wave["validators"]), 100);
    assert_eq!(wave["details"]["suspected_cause"], "fresh_keys");
    assert!(shares(wave, "activation_epoch", "6"));
}

#[test]
fn holesky_2025() {
    let played = play("holesky_2025", "1024");
    played.check();
    // The branches part after slot 35. The wrong branch is justified. Validators return to the
    // right one from slot 84 on.
    assert_eq!(played.of("head_split")["details"]["parted_after_slot"], "35");
    let checkpoints = played.of("checkpoint_split");
    assert_eq!(checkpoints["details"]["two_justified_checkpoints"], true);
    assert!(checkpoints["details"]["would_surround_by_joining_the_other_side"].as_u64() >= Some(50), "{checkpoints}");
    let wave = played.of("slashing_wave");
    assert_eq!(wave["details"]["suspected_cause"], "return_from_a_branch");
    assert!(number(&wave["offences"]["surround_vote"]) > 10 * number(&wave["offences"]["double_vote"]));
    let anomalies: BTreeSet<&str> =
        played.findings.iter().filter(|f| f["evidence"].is_null()).filter_map(|f| f["kind"].as_str()).collect();
    assert_eq!(anomalies, BTreeSet::from(["competing_blocks", "deep_reorg"]));
}

#[test]
fn september_2025() {
    let played = play("september_2025", "1024");
    played.check();
    // One key signs twice from slot 26 on, and nothing is reported. 39 more keys of its owner do so
    // from slot 88 on.
    let wave = played.of("slashing_wave");
    assert_eq!(number(&wave["validators"]), 40);
    assert_eq!(number(&wave["details"]["first_message"]["validator"]), 60, "the single one was the first sign");
    assert_eq!(wave["details"]["suspected_cause"], "same_keys_in_two_places");
    // A block has room for one slashing, so forty slashings take forty blocks.
    let slots: BTreeSet<&str> = played.findings.iter().filter_map(|finding| finding["included"]["slot"].as_str()).collect();
    assert_eq!(slots.len(), 40, "each in a block of its own");
}

#[test]
fn december_2025() {
    let played = play("december_2025", "1024");
    played.check();
    // One client votes for stale roots from slot 80 on. Most of its validators go offline from slot
    // 88 on.
    assert!(
        shares(played.of("stale_votes"), "client", "prysm") || played.of("stale_votes")["details"]["by_client"]["prysm"].is_u64()
    );
    assert!(played.kinds().contains("missed_proposals"));
}

#[test]
fn ordinary_days() {
    let played = play("quiet", "1024");
    played.check();
    // One validator signs twice, and a block includes its slashing. This gives a finding and no
    // incident.
    assert_eq!(played.kinds(), BTreeSet::new());
    assert_eq!(played.findings.len(), 1);
    assert!(!played.findings[0]["included"].is_null());
}

/// The incidents are the same for all batch sizes.
#[test]
fn batches_change_nothing() {
    for name in ["medalla", "may_2023", "holesky_2025"] {
        let one = play(name, "5");
        let many = play(name, "4096");
        for (left, right) in one.incidents.iter().zip(&many.incidents) {
            assert_eq!(left, right, "{name}");
        }
        assert_eq!(one.incidents.len(), many.incidents.len(), "{name}");
        let ids = |played: &Played| played.findings.iter().map(|f| f["id"].clone().to_string()).collect::<BTreeSet<_>>();
        assert_eq!(ids(&one), ids(&many), "{name}");
    }
}

/// The draft of a post-mortem contains what the replay found, in both formats.
#[test]
fn a_report_of_medalla() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |file: &str| -> PathBuf { dir.path().join(file) };
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/medalla.toml");
    assert!(run(slashwatch().arg("simulate").arg(scenario).arg("--out").arg(at("x.e2s"))).status.success());
    assert!(run(slashwatch().arg("replay").arg(at("x.e2s")).arg("--data-dir").arg(at("data"))).status.success());
    for (name, parts) in [
        (
            "r.html",
            vec!["<svg", "Suspected: clocks", "What it costs", "were for slots that had not begun", "data:application/json,%7B"],
        ),
        (
            "r.md",
            vec!["## When", "Suspected: clocks", "## What it costs", "percent voted, 97 before", "The suspected cause is clocks"],
        ),
    ] {
        let made = run(slashwatch().arg("report").arg("--data-dir").arg(at("data")).arg("--out").arg(at(name)));
        assert!(made.status.success(), "{}", stderr(&made));
        let text = std::fs::read_to_string(at(name)).expect("written");
        for part in parts {
            assert!(text.contains(part), "{name} lacks {part}");
        }
        for part in
            ["In short", "The first contradiction was complete at ", "It did not come without a sign", "After onset", "+0 s"]
        {
            assert!(text.contains(part), "{name} lacks {part}");
        }
        // Each member's link leads to a proof that the page has.
        for id in text.split("href=\"#proof-").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(text.contains(&format!("id=\"proof-{id}\"")), "{id}");
        }
    }
    let early =
        run(slashwatch().arg("report").arg("--data-dir").arg(at("data")).arg("--to").arg("30").arg("--out").arg(at("e.md")));
    assert!(early.status.success(), "{}", stderr(&early));
    assert!(!std::fs::read_to_string(at("e.md")).expect("written").contains("clocks"), "nothing had happened by then");
    let unnamed = run(slashwatch().arg("report").arg("--data-dir").arg(at("data")).arg("--out").arg(at("r.pdf")));
    assert_eq!(unnamed.status.code(), Some(64));
}
