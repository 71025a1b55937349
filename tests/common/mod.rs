//! Shared helpers for tests of the binary: where the data is, how to run the binary, how to read
//! findings.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod http;
pub mod running;
pub mod said;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// Returns the name of a capture, without folder and extension.
pub fn stem(path: &Path) -> String {
    path.file_stem().expect("a file").to_string_lossy().into_owned()
}

pub type Pair = (String, u64);

/// Returns the findings that `<capture>.expected.json` requires.
pub fn expected(capture: &Path) -> BTreeSet<Pair> {
    listed(capture, "findings")
}

/// Returns true contradictions that rest on the one valid side of an invalid operation. A replay
/// may find them but need not.
pub fn optional(capture: &Path) -> BTreeSet<Pair> {
    listed(capture, "optional")
}

fn listed(capture: &Path, list: &str) -> BTreeSet<Pair> {
    let text = std::fs::read_to_string(capture.with_extension("expected.json")).expect("expected.json lies beside it");
    let json: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let rows = json[list].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| (row[0].as_str().expect("kind").to_owned(), row[1].as_u64().expect("index"))).collect()
}

pub fn slashwatch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slashwatch"));
    command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Reads the lines of a findings file.
pub fn findings(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

/// Returns who is accused of what. Anomalies accuse nobody and are left out.
pub fn pairs(findings: &[serde_json::Value]) -> BTreeSet<Pair> {
    findings
        .iter()
        .filter(|finding| !finding["evidence"].is_null())
        .map(|finding| {
            let index = finding["validator"]["index"].as_str().expect("a decimal string").parse().expect("a number");
            (finding["kind"].as_str().expect("kind").to_owned(), index)
        })
        .collect()
}

pub fn ids(findings: &[serde_json::Value]) -> BTreeSet<String> {
    findings.iter().map(|finding| finding["id"].as_str().expect("id").to_owned()).collect()
}

/// Replays a capture and returns its findings.
pub fn replay(capture: &Path, data_dir: &Path, out: &Path) -> Vec<serde_json::Value> {
    let output = run(slashwatch().arg("replay").arg(capture).arg("--data-dir").arg(data_dir).arg("--findings").arg(out));
    assert!(output.status.success(), "{}: {}", capture.display(), stderr(&output));
    findings(out)
}
