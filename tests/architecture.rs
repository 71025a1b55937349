//! Keeps ARCHITECTURE.md true. It compares the code map with cargo's metadata, and the rules with
//! the sources.
//!
//! The tables in that page are the only copy of the rules. To allow a new edge or a second home for
//! a heavy dependency, change the table. A reviewer sees the change there.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// One row of the code map.
struct CrateRow {
    row: u32,
    may_use: BTreeSet<String>,
    /// Crates, ours and others', that this crate must not depend on directly. The table shows them
    /// in code type.
    must_not_know: BTreeSet<String>,
}

#[test]
fn the_code_map_has_a_row_for_each_crate() {
    let documented: BTreeSet<String> = code_map().into_keys().collect();
    let members: BTreeSet<String> = workspace().workspace_packages().iter().map(|p| p.name.to_string()).collect();
    assert_eq!(documented, members, "left: ARCHITECTURE.md, right: the workspace's members");
}

#[test]
fn every_edge_is_in_the_code_map_and_goes_downward() {
    let map = code_map();
    let mut wrong = Vec::new();
    for package in workspace().workspace_packages() {
        let Some(own) = map.get(package.name.as_str()) else { continue };
        for used in normal_dependencies(package).into_iter().filter(|name| map.contains_key(name)) {
            if !own.may_use.contains(&used) {
                wrong.push(format!("{} uses {used}, which its row does not name", package.name));
            }
        }
        let used = normal_dependencies(package);
        for named in own.may_use.difference(&used) {
            wrong.push(format!("{} may use {named} and does not: take it out of its row", package.name));
        }
        for forbidden in own.must_not_know.intersection(&used) {
            wrong.push(format!("{} uses {forbidden}, which its row says it must not know", package.name));
        }
        for named in &own.may_use {
            if let Some(lower) = map.get(named).filter(|lower| lower.row >= own.row) {
                wrong.push(format!("{} (row {}) may use {named} (row {}): not downward", package.name, own.row, lower.row));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn heavy_dependencies_live_where_the_page_says() {
    let crates: BTreeSet<String> = code_map().into_keys().collect();
    let homes: BTreeMap<String, BTreeSet<String>> = table("| dependency | crates |")
        .into_iter()
        .map(|cells| (cells[0].clone(), names(&cells[1]).intersection(&crates).cloned().collect()))
        .collect();
    assert!(homes.len() >= 4, "the table of heavy guests is gone from ARCHITECTURE.md");
    let metadata = workspace();
    for (guest, documented) in &homes {
        let users: BTreeSet<String> = metadata
            .workspace_packages()
            .iter()
            .filter(|package| normal_dependencies(package).contains(guest))
            .map(|package| package.name.to_string())
            .collect();
        assert_eq!(documented, &users, "{guest}; left: ARCHITECTURE.md, right: Cargo.toml files");
    }
}

/// Invariant 1: the same input gives the same output, because these crates have no other source of
/// data.
#[test]
fn consensus_detect_and_the_engine_ask_nobody() {
    const FORBIDDEN: [&str; 10] = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "std::process",
        "SystemTime",
        "Instant::now",
        "Time::now",
        "Time::now",
        "tokio",
    ];
    let mut wrong = Vec::new();
    for name in ["consensus", "detect", "engine"] {
        let files = rust_files(&Path::new(ROOT).join("crates").join(name).join("src"));
        assert!(!files.is_empty(), "no sources of {name} found: this test has lost its subject");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for (nth, line) in shipped.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                if let Some(found) = FORBIDDEN.iter().find(|word| line.contains(*word)) {
                    wrong.push(format!("{}:{}: {found}", file.display(), nth + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these crates do no I/O and read no clock:\n{}", wrong.join("\n"));
}

/// Invariant 2: every `Signed` comes from the batch verifier, because the tests' constructor is not
/// in the released binary.
#[test]
fn the_released_binary_has_no_test_support() {
    let with_tests = features(&["--workspace"], "normal,dev");
    assert!(with_tests.contains("verify feature \"test-support\""), "this test has lost its subject:\n{with_tests}");
    let released = features(&["--package", "slashwatch"], "normal,build");
    assert!(released.contains("verify feature \"bench\""), "the commands of `slashwatch bench` are gone:\n{released}");
    let wrong: Vec<&str> = released.lines().filter(|line| line.contains("test-support")).collect();
    assert!(wrong.is_empty(), "built into the binary:\n{}\n{released}", wrong.join("\n"));
}

/// Returns the features of this workspace along edges of these kinds, as `cargo tree` prints them.
fn features(packages: &[&str], edges: &str) -> String {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix", "none"])
        .args(packages)
        .args(["--edges", &format!("features,{edges}")])
        .arg("--manifest-path")
        .arg(Path::new(ROOT).join("Cargo.toml"))
        // A developer may have set this variable. It unifies features over the whole workspace.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8(tree.stdout).expect("UTF-8")
}

/// The time of a message is taken where it comes in, so nothing else makes one. Its constructor
/// checks its size.
#[test]
fn only_the_sources_make_messages() {
    let mut wrong = Vec::new();
    for file in rust_files(&Path::new(ROOT).join("crates")) {
        let path = file.strip_prefix(ROOT).unwrap().to_string_lossy().into_owned();
        let is_shipped = path.contains("/src/") || path.starts_with("crates/cli");
        if !is_shipped || path.starts_with("crates/sources/") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (nth, _) in shipped.lines().enumerate().filter(|(_, line)| line.contains("RawMessage::new(")) {
            wrong.push(format!("{path}:{}", nth + 1));
        }
    }
    assert!(wrong.is_empty(), "messages are made outside of `sources`:\n{}", wrong.join("\n"));
}

/// Each step of the walk names a function in a file, and types that exist.
#[test]
fn the_walk_of_a_message_is_true() {
    let files = rust_files(&Path::new(ROOT).join("crates"));
    let sources: String = files.into_iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let is_declared = |name: &str| {
        let ends = [" ", "<", "(", ";"];
        let is = |declaration: String| ends.iter().any(|end| sources.contains(&format!("{declaration}{end}")));
        ["struct", "enum"].iter().any(|keyword| is(format!("{keyword} {name}")))
    };
    let steps = table("| step | function |");
    assert!(steps.len() >= 12, "the walk is gone from ARCHITECTURE.md");
    let mut wrong = Vec::new();
    for cells in steps {
        let [function, file, takes, gives] = [1, 2, 3, 4].map(|nth| cells[nth].trim_matches('`').to_owned());
        let text = fs::read_to_string(Path::new(ROOT).join(&file)).unwrap_or_default();
        if !["(", "<"].iter().any(|end| text.contains(&format!("fn {function}{end}"))) {
            wrong.push(format!("{file} has no function {function}"));
        }
        for name in [takes, gives].iter().filter(|name| !name.contains(' ') && !is_declared(name)) {
            wrong.push(format!("there is no type {name}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn workspace() -> Metadata {
    MetadataCommand::new()
        .manifest_path(Path::new(ROOT).join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".into()])
        .exec()
        .expect("cargo metadata of this workspace")
}

/// Returns the dependencies of the shipped crate. Dependencies of tests and build scripts are not
/// restricted.
fn normal_dependencies(package: &Package) -> BTreeSet<String> {
    package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.clone()).collect()
}

fn code_map() -> BTreeMap<String, CrateRow> {
    let known: BTreeSet<String> = workspace().workspace_packages().iter().map(|p| p.name.to_string()).collect();
    table("| row | crate |")
        .into_iter()
        .map(|cells| {
            let may_use = names(&cells[3]).intersection(&known).cloned().collect::<BTreeSet<_>>();
            let listed_nothing = cells[3] == "nothing of ours";
            assert!(listed_nothing || !may_use.is_empty(), "row {}: `may use` names no crate: {}", cells[1], cells[3]);
            let must_not_know = cells[4].split('`').skip(1).step_by(2).map(Into::into).collect();
            (cells[1].clone(), CrateRow { row: cells[0].parse().expect("a row number"), may_use, must_not_know })
        })
        .collect()
}

/// Returns the words of a cell.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).filter(|w| !w.is_empty()).map(Into::into).collect()
}

/// Returns the cells of the table in ARCHITECTURE.md whose heading starts with this text.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is at the root");
    let rows: Vec<Vec<String>> = page
        .lines()
        .skip_while(|line| !line.starts_with(heading))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect())
        .collect();
    assert!(!rows.is_empty(), "no table {heading:?} in ARCHITECTURE.md");
    rows
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") && path.file_stem().is_some_and(|stem| stem != "tests") {
            files.push(path);
        }
    }
    files.sort();
    files
}
