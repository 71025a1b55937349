//! What the tests of the binary share: where data is, how to run it, how to read findings.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod http;
pub mod running;
pub mod said;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// One capture by its name.
pub fn stem(path: &Path) -> String {
    path.file_stem().expect("a file").to_string_lossy().into_owned()
}

pub type Pair = (String, u64);

/// What `<capture>.expected.json` says must be found.
pub fn expected(capture: &Path) -> BTreeSet<Pair> {
    listed(capture, "findings")
}

/// True contradictions that rest on one good side of an invalid operation: finding them is neither asked nor wrong.
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

/// The lines of a findings file.
pub fn findings(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

/// Who is accused of what. Anomalies accuse nobody.
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
