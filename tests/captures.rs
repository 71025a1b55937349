//! Captures made by others, replayed with the binary. The findings are exactly the expected ones,
//! however often the replay runs and wherever it is cut.

mod common;

use common::{replay, slashwatch};
use std::process::Stdio;
use test_support::findings::{expected, findings, ids, optional, pairs, stem};
use test_support::program::{run, stderr};
use test_support::{capture, captures};

#[test]
fn every_capture_gives_exactly_what_is_expected_and_again_on_the_same_data() {
    for file in captures() {
        let dir = tempfile::tempdir().expect("a fresh directory");
        let out = dir.path().join("findings.jsonl");
        let first = replay(&file, &dir.path().join("data"), &out);
        let (wanted, optional, found) = (expected(&file), optional(&file), pairs(&first));
        assert!(!wanted.is_empty() && wanted.is_subset(&found), "{}: {found:?} of {wanted:?}", stem(&file));
        let more: Vec<_> = found.difference(&wanted).filter(|pair| !optional.contains(*pair)).collect();
        assert!(more.is_empty(), "{}: {more:?} were not expected", stem(&file));
        let again = replay(&file, &dir.path().join("data"), &out);
        assert_eq!(first, again, "{}: a second run over the same data changed the findings", stem(&file));
    }
}

#[test]
fn evidence_files_exist_for_every_finding_and_name_the_offender_on_both_sides() {
    let file = capture("electra_7_wave");
    let dir = tempfile::tempdir().expect("a fresh directory");
    let (out, evidence) = (dir.path().join("findings.jsonl"), dir.path().join("evidence"));
    let mut command = slashwatch();
    command.arg("replay").arg(&file).arg("--findings").arg(&out).arg("--evidence-dir").arg(&evidence);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    for finding in findings(&out) {
        let index = finding["validator"]["index"].as_str().expect("index");
        let json = evidence.join(finding["evidence"]["json"].as_str().expect("a file name"));
        let proof: serde_json::Value = serde_json::from_slice(&std::fs::read(json).expect("the file exists")).expect("JSON");
        if finding["evidence"]["type"] == "proposer_slashing" {
            for side in ["signed_header_1", "signed_header_2"] {
                assert_eq!(proof[side]["message"]["proposer_index"], index);
            }
        } else {
            for side in ["attestation_1", "attestation_2"] {
                let members = proof[side]["attesting_indices"].as_array().expect("indices");
                assert!(members.iter().any(|member| member == index), "{index} is missing in {side}");
            }
        }
        assert!(evidence.join(finding["evidence"]["ssz"].as_str().expect("a file name")).is_file());
    }
}

#[test]
fn a_killed_replay_is_made_good_by_the_next_one() {
    // The largest capture has the most moments at which the process can be killed.
    let file = capture(if test_support::has_full_set() { "fulu_14_mainnetpreset" } else { "electra_7_wave" });
    let seed = std::process::id();
    println!("seed {seed}");
    let dir = tempfile::tempdir().expect("a fresh directory");
    let whole = replay(&file, &dir.path().join("whole"), &dir.path().join("whole.jsonl"));
    let mut state = u64::from(seed);
    for round in 0..4 {
        let data = dir.path().join(format!("killed-{round}"));
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut child = slashwatch()
                .arg("replay")
                .arg(&file)
                .arg("--data-dir")
                .arg(&data)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the binary starts");
            // A busy loop on the clock kills the process at a moment that does not depend on the
            // scheduler's timers.
            let until = std::time::Instant::now() + std::time::Duration::from_micros(50_000 + (state >> 33) % 1_500_000);
            while std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let after = replay(&file, &data, &dir.path().join("after.jsonl"));
        assert_eq!(ids(&after), ids(&whole), "seed {seed}, round {round}");
    }
}

#[test]
fn batch_size_changes_nothing() {
    let file = capture("electra_6");
    let dir = tempfile::tempdir().expect("a fresh directory");
    let mut seen = Vec::new();
    for batch in ["1", "7", "4096"] {
        let out = dir.path().join(batch);
        let mut command = slashwatch();
        command.env("SLASHWATCH_BATCH_MESSAGES", batch).arg("replay").arg(&file).arg("--findings").arg(&out);
        let output = run(&mut command);
        assert!(output.status.success(), "{}", stderr(&output));
        seen.push(ids(&findings(&out)));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
}
