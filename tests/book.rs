//! The documentation as a book: SUMMARY.md has every page, and every relative link leads somewhere.
//! `mdbook build docs` makes the book.

mod common;

use common::slashwatch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use test_support::capture;
use test_support::http::{free_port, wait_until};
use test_support::program::{Running, run, stderr};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All pages below a folder.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of a page outside of code blocks, with what is in code type left out.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !line.starts_with("    ") {
            // A heading and a link's text keep the words in code type, links within it are none.
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Targets of the links of a page.
fn links(text: &str) -> Vec<String> {
    let prose: String = prose(text).split('`').step_by(2).collect::<Vec<_>>().join("code");
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim();
        let slug: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let nth = seen.entry(slug.clone()).or_default();
        anchors.insert(if *nth == 0 { slug.clone() } else { format!("{slug}-{nth}") });
        *nth += 1;
    }
    anchors
}

#[test]
fn the_summary_names_every_page_once() {
    let docs = Path::new(ROOT).join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let named = links(&summary);
    let unique: BTreeSet<PathBuf> = named.iter().map(|name| docs.join(name)).collect();
    assert_eq!(unique.len(), named.len(), "a page stands twice in SUMMARY.md");
    let there_are: BTreeSet<PathBuf> = pages(&docs).into_iter().filter(|path| !path.ends_with("SUMMARY.md")).collect();
    assert_eq!(unique, there_are, "left: SUMMARY.md, right: pages in docs/");
}

#[test]
fn every_relative_link_leads_somewhere() {
    let root = Path::new(ROOT);
    let mut from = pages(&root.join("docs"));
    from.extend(
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "fuzz/README.md", "tests/data/README.md"]
            .map(|name| root.join(name)),
    );
    let mut wrong = Vec::new();
    let mut n_links = 0;
    for page in from {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            n_links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            let place = format!("{}: {link}", page.strip_prefix(root).unwrap().display());
            if !target.exists() {
                wrong.push(format!("{place}: there is no such file"));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(&target).unwrap()).contains(anchor) {
                wrong.push(format!("{place}: there is no such heading"));
            }
        }
    }
    assert!(n_links > 150, "only {n_links} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `SLASHWATCH_WRITE_DOCS=1 cargo test --test book` writes the page anew.
#[test]
fn the_list_of_addresses_is_that_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let replay = run(slashwatch().arg("replay").arg(capture("phase0_2")).arg("--data-dir").arg(&data));
    assert!(replay.status.success(), "{}", stderr(&replay));
    let api = free_port();
    let mut serve = slashwatch();
    serve.arg("serve").arg("--data-dir").arg(&data).args(["--listen", &api.to_string()]).stdin(Stdio::null());
    let _serving = Running::of(serve);
    let openapi = wait_until(api, "/openapi.json", |_| true);
    let mut page = String::from(
        "# Every address of the API\n\nMade from `/openapi.json`, which has the schemas too. A test compares this list with the program. What can be relied on is in [api.md](api.md).\n",
    );
    for (path, methods) in openapi["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            page.push_str(&format!("\n### {} {path}\n\n", method.to_uppercase()));
            for text in [&operation["summary"], &operation["description"]].into_iter().filter_map(Value::as_str) {
                page.push_str(&format!("{}\n\n", text.trim()));
            }
            let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
            for parameter in parameters {
                let text = |name: &str| parameter[name].as_str().unwrap_or_default().replace('\n', " ");
                page.push_str(format!("- `{}` ({}) {}", text("name"), text("in"), text("description")).trim_end());
                page.push('\n');
            }
            let answers = operation["responses"].as_object().expect("answers");
            for (status, answer) in answers {
                page.push_str(&format!(
                    "- **{status}** {}\n",
                    answer["description"].as_str().unwrap_or_default().replace('\n', " ")
                ));
            }
        }
    }
    let path = Path::new(ROOT).join("docs/api-reference.md");
    if std::env::var_os("SLASHWATCH_WRITE_DOCS").is_some() {
        fs::write(&path, &page).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "SLASHWATCH_WRITE_DOCS=1 cargo test --test book writes docs/api-reference.md anew");
}
