//! Compares the kinds in the docs and in the scenarios with the one list of kinds
//! (`evidence::Kind`).
//!
//! Also checks that every detector documents which false alarms were considered.

use evidence::{Audience, Kind};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the texts between each `before` and the next `after`.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| rest.split(after).next())
}

/// Each kind has a table row or a sentence in the page for its audience.
#[test]
fn the_docs_explain_every_kind() {
    for kind in Kind::all() {
        let page = match kind.audience() {
            Audience::Public => "docs/detection.md",
            Audience::WatchedKeys => "docs/watching.md",
        };
        assert!(read(page).contains(&format!("`{kind}`")), "{page} says nothing of `{kind}`");
    }
}

#[test]
fn scenarios_expect_kinds_that_there_are() {
    let scenarios = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).expect("scenarios");
    let mut n_named = 0;
    for scenario in scenarios {
        let path = scenario.expect("a scenario").path();
        let text = fs::read_to_string(&path).expect("readable");
        let expected = between(&text, "[[incidents]]", "\n\n").flat_map(|incident| between(incident, "kind = \"", "\""));
        let may_follow = between(&text, "may_follow = [", "]").flat_map(|list| list.split('"').skip(1).step_by(2));
        for name in expected.chain(may_follow) {
            let kind = Kind::known(name).unwrap_or_else(|| panic!("{}: no kind {name}", path.display()));
            assert_eq!(kind.audience(), Audience::Public, "{}: {name}", path.display());
            n_named += 1;
        }
    }
    assert!(n_named > 15, "{n_named}: this test has lost its subject");
}

#[test]
fn every_detector_says_what_would_be_a_false_alarm() {
    let list = read("crates/detect/src/detectors.rs");
    let files: BTreeSet<&str> = between(&list, "pub mod ", ";").collect();
    assert!(files.len() > 10, "{files:?}: this test has lost its subject");
    let detectors = files.iter().map(|name| format!("crates/detect/src/detectors/{name}.rs"));
    let watch =
        ["missed_duties", "proposing", "flapping", "dormant", "second_signer", "stops", "signed_elsewhere", "two_origins"];
    let of_watched_keys = watch.map(|name| format!("crates/detect/src/watch/{name}.rs"));
    for file in detectors.chain(of_watched_keys) {
        assert!(read(&file).contains("//! **False alarms considered.**"), "{file}");
    }
}
