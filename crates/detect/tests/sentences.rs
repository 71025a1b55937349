//! What people read about findings and incidents. Each line of the file has details as they are
//! stored, most of them written by the version before details had types. The fields are public.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use detect::sentence;
use evidence::Kind;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Line {
    kind: Kind,
    sentence: String,
    validators: Option<u64>,
    details: Map<String, Value>,
}

fn lines() -> Vec<Line> {
    include_str!("sentences.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_kind_has_a_sentence() {
    let lines = lines();
    for line in &lines {
        let said = sentence(&line.kind, &line.details, line.validators);
        assert_eq!(said.as_deref(), Some(&*line.sentence), "{}: {:?}", line.kind, line.details);
    }
    for kind in Kind::ANOMALIES {
        assert!(lines.iter().any(|line| line.kind == *kind), "no line is about {kind}");
    }
}

/// Details that another version of the program wrote have no sentence, rather than a wrong one.
#[test]
fn other_details_have_no_sentence() {
    for line in lines() {
        assert_eq!(sentence(&line.kind, &Map::new(), None), None, "{}", line.kind);
    }
    let unknown: Kind = serde_json::from_value("tide_of_votes".into()).unwrap();
    assert_eq!(sentence(&unknown, &Map::new(), None), None);
}
