//! Findings as the program writes them, and those that a capture's `expected.json` requires.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Returns the name of a capture, without folder and extension.
pub fn stem(path: &Path) -> String {
    path.file_stem().expect("a file").to_string_lossy().into_owned()
}

/// Kind and validator of a finding.
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
    let json: Value = serde_json::from_str(&text).expect("valid JSON");
    let rows = json[list].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| (row[0].as_str().expect("kind").to_owned(), row[1].as_u64().expect("index"))).collect()
}

/// Reads the lines of a findings file.
pub fn findings(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

/// Returns who is accused of what. Anomalies accuse nobody and are left out.
pub fn pairs(findings: &[Value]) -> BTreeSet<Pair> {
    findings
        .iter()
        .filter(|finding| !finding["evidence"].is_null())
        .map(|finding| {
            let index = finding["validator"]["index"].as_str().expect("a decimal string").parse().expect("a number");
            (finding["kind"].as_str().expect("kind").to_owned(), index)
        })
        .collect()
}

/// The ids of all findings.
pub fn ids(findings: &[Value]) -> BTreeSet<String> {
    findings.iter().map(|finding| finding["id"].as_str().expect("id").to_owned()).collect()
}

/// The ids of proven findings. Anomalies are left out, because they accuse nobody of an offence.
pub fn proven(findings: &[Value]) -> BTreeSet<String> {
    let slashable = findings.iter().filter(|finding| !finding["evidence"].is_null());
    slashable.map(|finding| finding["id"].as_str().expect("id").to_owned()).collect()
}
