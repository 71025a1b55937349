//! Eight incidents of 2020 to 2025 and ordinary days, played by the simulator and replayed through the binary: what was said, when,
//! and what was not said.
//!
//! The scenario files (scenarios/*.toml) say what happens; `when` below is in slots after that. The simulator shares no code with
//! the detectors, and its list of contradictions is compared with the findings by id.

mod common;

use common::{findings, run, slashwatch, stderr};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a replay of a scenario gave.
struct Played {
    name: String,
    incidents: Vec<Value>,
    findings: Vec<Value>,
    truth: Value,
    _dir: tempfile::TempDir,
}

/// Plays a scenario file and replays the capture, with batches of at most so many messages.
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

    /// How many slots after `onset` an incident of this kind was said.
    fn said_after(&self, kind: &str, onset: u64) -> u64 {
        let opened = self.of(kind)["opened_at"].as_str().expect("a time").parse::<evidence::Time>().expect("RFC 3339");
        // Captures begin at 1 600 000 000, with slots of 12 s.
        let slot = (opened.as_unix_ns() / 1_000_000_000 - 1_600_000_000) / 12;
        slot.checked_sub(onset).unwrap_or_else(|| panic!("{}: {kind} was said in slot {slot}, before {onset}", self.name))
    }

    /// Every contradiction was found and none invented; anomalies accuse nobody of one.
    fn all_found(&self) {
        let slashable = |finding: &&Value| !finding["evidence"].is_null();
        let found: BTreeSet<&str> = self.findings.iter().filter(slashable).filter_map(|finding| finding["id"].as_str()).collect();
        let crimes = self.truth["crimes"].as_array().expect("a list");
        let committed: BTreeSet<&str> = crimes.iter().filter_map(|crime| crime["finding_id"].as_str()).collect();
        assert_eq!(found.len(), committed.len(), "{}", self.name);
        assert_eq!(found, committed, "{}", self.name);
    }

    fn says_nothing_of(&self, kinds: &[&str]) {
        for kind in kinds {
            assert!(!self.kinds().contains(kind), "{}: {kind} was said: {}", self.name, self.of(kind));
        }
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

const SLASHINGS: [&str; 1] = ["slashing_wave"];

#[test]
fn medalla() {
    let played = play("medalla", "1024");
    played.all_found();
    // Clocks jump in slot 40 and come back in slot 64.
    assert!(played.said_after("clock_skew", 40) <= 2);
    let clocks = played.of("clock_skew");
    assert_eq!((clocks["state"].as_str(), clocks["severity"].as_str()), (Some("closed"), Some("critical")));
    assert_eq!((&clocks["details"]["slots_ahead"], &clocks["details"]["together"]), (&296.into(), &true.into()));
    assert!(played.said_after("participation_drop", 40) <= 4);
    assert!(played.said_after("sync_storm", 64) <= 16);
    assert!(played.kinds().contains("finality_delay"));
    let wave = played.of("slashing_wave");
    assert!(number(&wave["validators"]) >= 90, "{wave}");
    assert_eq!(wave["details"]["suspected_cause"], "clocks");
    assert!(number(&wave["offences"]["surround_vote"]) > number(&wave["offences"]["double_vote"]));
    played.says_nothing_of(&["own_clock", "head_split", "checkpoint_split", "stale_votes"]);
}

#[test]
fn staked() {
    let played = play("staked", "1024");
    played.all_found();
    // One key signs twice in its slot from 26 on; the other 74 from slot 34 on. One key alone is no wave.
    assert!(played.said_after("slashing_wave", 34) <= 1);
    let wave = played.of("slashing_wave");
    assert_eq!((number(&wave["validators"]), number(&wave["offences"]["double_vote"])), (75, 75));
    assert_eq!(wave["details"]["suspected_cause"], "same_keys_in_two_places");
    assert!(shares(wave, "withdrawal_credential", "0x01"));
    // Phase0, minimal preset: 75 of 512 with 32 ETH; 32 / 64 each at once, and min(75 * 32 * 2, T) * 32 / T later.
    assert_eq!(wave["penalty"]["initial_gwei"], "37500000000");
    assert_eq!(wave["penalty"]["correlation_gwei_now"], "675000000000");
    played.says_nothing_of(&[
        "clock_skew",
        "participation_drop",
        "finality_delay",
        "head_split",
        "stale_votes",
        "missed_proposals",
    ]);
}

#[test]
fn april_2021() {
    let played = play("april_2021", "1024");
    played.all_found();
    // One client makes no blocks from slot 96 on.
    assert!(played.said_after("missed_proposals", 96) <= 24);
    let missed = played.of("missed_proposals");
    assert!(shares(missed, "client", "prysm"), "{missed}");
    assert!(missed["details"]["participation_percent"].as_u64() >= Some(95), "its votes are fine: {missed}");
    played.says_nothing_of(&SLASHINGS);
    played.says_nothing_of(&["participation_drop", "finality_delay", "head_split", "clock_skew", "stale_votes"]);
}

#[test]
fn may_2023() {
    let played = play("may_2023", "1024");
    played.all_found();
    // Old targets from slot 60, two clients fall away from slot 72 to 104.
    assert!(played.said_after("stale_votes", 60) <= 10);
    assert!(played.said_after("participation_drop", 72) <= 5);
    assert!(played.said_after("finality_delay", 72) <= 24);
    assert_eq!(played.of("finality_delay")["state"], "closed");
    assert!(played.kinds().contains("missed_proposals"));
    played.says_nothing_of(&SLASHINGS);
    played.says_nothing_of(&["clock_skew", "own_clock", "head_split", "checkpoint_split"]);
}

#[test]
fn november_2023() {
    let played = play("november_2023", "1024");
    played.all_found();
    // A hundred fresh keys from slot 56 on, within an epoch.
    assert!(played.said_after("slashing_wave", 56) <= 1);
    let wave = played.of("slashing_wave");
    assert_eq!(number(&wave["validators"]), 100);
    assert_eq!(wave["details"]["suspected_cause"], "fresh_keys");
    assert!(shares(wave, "activation_epoch", "6"));
    played.says_nothing_of(&["clock_skew", "participation_drop", "finality_delay", "head_split", "missed_proposals"]);
}

#[test]
fn holesky_2025() {
    let played = play("holesky_2025", "1024");
    played.all_found();
    // The branches part after slot 35; the wrong one justifies; validators come back from slot 84 on.
    assert!(played.said_after("head_split", 36) <= 20);
    assert_eq!(played.of("head_split")["details"]["parted_after_slot"], "35");
    assert!(played.said_after("checkpoint_split", 36) <= 24);
    let checkpoints = played.of("checkpoint_split");
    assert_eq!(checkpoints["details"]["two_justified_checkpoints"], true);
    assert!(checkpoints["details"]["would_surround_by_joining_the_other_side"].as_u64() >= Some(50), "{checkpoints}");
    assert!(played.said_after("slashing_wave", 84) <= 3);
    let wave = played.of("slashing_wave");
    assert_eq!(wave["details"]["suspected_cause"], "return_from_a_branch");
    assert!(number(&wave["offences"]["surround_vote"]) > 10 * number(&wave["offences"]["double_vote"]));
    let anomalies: BTreeSet<&str> =
        played.findings.iter().filter(|f| f["evidence"].is_null()).filter_map(|f| f["kind"].as_str()).collect();
    assert_eq!(anomalies, BTreeSet::from(["competing_blocks", "deep_reorg"]));
    played.says_nothing_of(&["clock_skew", "own_clock"]);
}

#[test]
fn september_2025() {
    let played = play("september_2025", "1024");
    played.all_found();
    // One key from slot 26 on: nothing said. 39 more of its owner from slot 88 on.
    assert!(played.said_after("slashing_wave", 88) <= 1);
    let wave = played.of("slashing_wave");
    assert_eq!(number(&wave["validators"]), 40);
    assert_eq!(number(&wave["details"]["first_message"]["validator"]), 60, "the single one was the first sign");
    assert_eq!(wave["details"]["suspected_cause"], "same_keys_in_two_places");
    played.says_nothing_of(&[
        "clock_skew",
        "participation_drop",
        "finality_delay",
        "head_split",
        "stale_votes",
        "missed_proposals",
    ]);
}

#[test]
fn december_2025() {
    let played = play("december_2025", "1024");
    played.all_found();
    // One client votes for stale roots from slot 80 on, and most of it falls away from slot 88 on.
    assert!(played.said_after("stale_votes", 80) <= 6);
    assert!(
        shares(played.of("stale_votes"), "client", "prysm") || played.of("stale_votes")["details"]["by_client"]["prysm"].is_u64()
    );
    assert!(played.said_after("participation_drop", 88) <= 6);
    assert!(played.kinds().contains("missed_proposals"));
    played.says_nothing_of(&SLASHINGS);
    played.says_nothing_of(&["clock_skew", "head_split", "checkpoint_split", "unpunished_offence"]);
}

#[test]
fn ordinary_days() {
    let played = play("quiet", "1024");
    played.all_found();
    // One validator signs twice and no block of this simulator includes its slashing: that is told, and nothing else.
    assert_eq!(played.kinds(), BTreeSet::from(["unpunished_offence"]));
    assert_eq!(played.findings.len(), 1);
}

/// The same incidents, whatever the batches.
#[test]
fn batches_change_nothing() {
    for name in ["medalla", "may_2023"] {
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

/// The draft of a post-mortem says what the replay found, in both forms.
#[test]
fn a_report_of_medalla() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    let at = |file: &str| -> PathBuf { dir.path().join(file) };
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/medalla.toml");
    assert!(run(slashwatch().arg("simulate").arg(scenario).arg("--out").arg(at("x.e2s"))).status.success());
    assert!(run(slashwatch().arg("replay").arg(at("x.e2s")).arg("--data-dir").arg(at("data"))).status.success());
    for (name, parts) in [
        ("r.html", ["<svg", "Suspected: clocks", "What it costs", "Evidence"]),
        ("r.md", ["## When", "Suspected: clocks", "## What it costs", "## Evidence"]),
    ] {
        let made = run(slashwatch().arg("report").arg("--data-dir").arg(at("data")).arg("--out").arg(at(name)));
        assert!(made.status.success(), "{}", stderr(&made));
        let text = std::fs::read_to_string(at(name)).expect("written");
        for part in parts {
            assert!(text.contains(part), "{name} lacks {part}");
        }
    }
    let early =
        run(slashwatch().arg("report").arg("--data-dir").arg(at("data")).arg("--to").arg("30").arg("--out").arg(at("e.md")));
    assert!(early.status.success(), "{}", stderr(&early));
    assert!(!std::fs::read_to_string(at("e.md")).expect("written").contains("clocks"), "nothing had happened by then");
    let unnamed = run(slashwatch().arg("report").arg("--data-dir").arg(at("data")).arg("--out").arg(at("r.pdf")));
    assert_eq!(unnamed.status.code(), Some(64));
}
