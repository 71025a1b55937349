//! Dashboards, alert rules, runbook and the list of metrics, against the metrics page of a running
//! watcher. `scripts/monitoring-test.sh` tries them with a real Prometheus and Alertmanager.

mod common;

use common::slashwatch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use test_support::http::get_text;
use test_support::program::TEST_TIMEOUT;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Labels of Prometheus and of the dashboards' own queries, which the program does not export.
const FOREIGN_LABELS: [&str; 2] = ["instance", "job"];
/// These appear when the first peer is connected and the first message has come.
const LAST_FAMILIES: [&str; 3] =
    ["slashwatch_queue_messages{", "slashwatch_sources_topic_peers{", "slashwatch_sources_requests_total{"];

/// What the metrics page has of one metric.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    /// Labels, and the values that they have.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// A watcher in a simulated network. It is killed when this is dropped.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The metrics of a watcher that has peers and has judged messages, by name.
fn exported() -> &'static BTreeMap<String, Family> {
    static EXPORTED: OnceLock<BTreeMap<String, Family>> = OnceLock::new();
    EXPORTED.get_or_init(|| {
        let mut command = slashwatch();
        command.args(["demo", "--slots", "200", "--slot-ms", "500", "--validators", "64", "--listen", "127.0.0.1:0"]);
        let mut demo = Demo(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts"));
        let mut lines = BufReader::new(demo.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let address: SocketAddr =
            lines.find_map(|line| line.strip_prefix("page and API: http://")?.parse().ok()).expect("the demo prints its address");
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            let page = get_text(address, "/metrics").unwrap_or_default();
            if LAST_FAMILIES.iter().all(|start| page.contains(start)) {
                return families(&page);
            }
            assert!(Instant::now() < until, "no peer and no message came; the page was:\n{page}");
            std::thread::sleep(Duration::from_millis(100));
        }
    })
}

/// Reads Prometheus' text format.
fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let family = families.get_mut(base_name(name)).unwrap_or_else(|| panic!("{line} has no # HELP"));
            for (label, value) in matchers(labels) {
                family.labels.entry(label).or_default().insert(value);
            }
        }
    }
    assert!(families.contains_key("slashwatch_findings_total"), "no metrics in:\n{page}");
    families
}

/// The name of a histogram's family, given that of one of its series.
fn base_name(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The labels and values of `a="x",b=~"y|z"}`; of alternatives each by itself.
fn matchers(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((label, after)) = rest.split_once('"') {
        let label = label.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (value, after) = after.split_once('"').expect("values are in quotes");
        found.extend(value.split('|').map(|one| (label.to_owned(), one.to_owned())));
        if after.starts_with('}') {
            break;
        }
        rest = after;
    }
    found
}

/// The metrics that a text names, with their matchers.
fn named(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices("slashwatch_").chain(text.match_indices("process_")) {
        if text[..at].ends_with(is_word) {
            continue;
        }
        let end = text[at..].find(|c| !is_word(c)).map_or(text.len(), |length| at + length);
        let labels = text[end..].strip_prefix('{').map(matchers).unwrap_or_default();
        found.push((text[at..end].to_owned(), labels));
    }
    found
}

/// All texts in a JSON document.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(values) => values.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(ROOT).join("monitoring/dashboards");
    let mut found: Vec<_> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.clone(), serde_json::from_str(&fs::read_to_string(&path).expect("readable")).expect("JSON")))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of the alerts in rules.yml.
fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn dashboards_and_rules_name_what_the_program_exports() {
    let exported = exported();
    let mut wrong = Vec::new();
    let mut check = |place: &str, text: &str| {
        for (name, matchers) in named(text) {
            let Some(family) = exported.get(base_name(&name)) else {
                wrong.push(format!("{place}: {name} is not exported"));
                continue;
            };
            for (label, value) in matchers.iter().filter(|(label, _)| !FOREIGN_LABELS.contains(&label.as_str())) {
                if !family.labels.get(label).is_some_and(|values| values.contains(value)) {
                    wrong.push(format!("{place}: {name} has no {label}=\"{value}\""));
                }
            }
        }
    };
    let dashboards = dashboards();
    assert_eq!(dashboards.len(), 5, "overview, operator, client team, watcher, coverage");
    for (path, dashboard) in &dashboards {
        let mut found = Vec::new();
        texts(dashboard, &mut found);
        found.into_iter().for_each(|text| check(&path.display().to_string(), text));
    }
    check("rules.yml", &read("monitoring/rules.yml"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dashboards_are_what_grafana_reads_and_lead_to_the_page() {
    let mut uids = BTreeSet::new();
    for (path, dashboard) in dashboards() {
        let place = path.display();
        assert!(uids.insert(dashboard["uid"].as_str().expect("a uid").to_owned()), "{place}: the uid is taken");
        let variables: Vec<_> =
            dashboard["templating"]["list"].as_array().expect("variables").iter().map(|v| &v["name"]).collect();
        assert_eq!(variables, ["datasource", "instance", "page"], "{place}");
        let panels = dashboard["panels"].as_array().expect("panels");
        let mut taken = BTreeSet::new();
        for panel in panels {
            let title = panel["title"].as_str().expect("a title");
            assert!(
                panel["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{place}: {title} says not what it shows"
            );
            let cell = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
            assert!(cell("x") + cell("w") <= 24, "{place}: {title} is too wide");
            for (x, y) in (0..cell("w")).flat_map(|x| (0..cell("h")).map(move |y| (x, y))) {
                assert!(taken.insert((cell("x") + x, cell("y") + y)), "{place}: {title} lies on another panel");
            }
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("an expression");
                assert!(expr.contains("instance=~\"$instance\""), "{place}: {title} shows other watchers than the chosen ones");
            }
        }
        let mut found = Vec::new();
        texts(&dashboard, &mut found);
        assert!(found.iter().filter(|text| text.starts_with("${page}/")).count() > 1, "{place}: no links to the page");
    }
}

#[test]
fn no_label_names_a_validator_or_a_peer() {
    for (name, family) in exported() {
        for (label, values) in &family.labels {
            assert!(
                !["validator", "pubkey", "index", "peer", "peer_id", "address"].contains(&label.as_str()),
                "{name} has {label}"
            );
            assert!(values.len() <= 200, "{name} has {} values of {label}", values.len());
        }
    }
}

#[test]
fn the_runbook_has_each_kind_and_each_alert() {
    let (runbook, rules) = (read("docs/runbook.md"), read("monitoring/rules.yml"));
    let headings: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts(&rules);
    assert!(alerts.len() > 10, "no alerts in rules.yml");
    let kinds: Vec<evidence::Kind> = evidence::Kind::all().collect();
    let wanted: BTreeSet<&str> = kinds.iter().map(evidence::Kind::as_str).chain(alerts.iter().copied()).collect();
    assert_eq!(headings, wanted, "left: docs/runbook.md, right: kinds and alerts");
    for alert in alerts {
        let link = format!("/docs/runbook.md#{}", alert.to_lowercase());
        assert!(rules.contains(&link), "{alert} does not lead to {link}");
        assert!(read("monitoring/rules_test.yml").contains(alert), "{alert} has no test");
    }
}

/// `SLASHWATCH_WRITE_DOCS=1 cargo test --test monitoring` writes the page anew.
#[test]
fn the_list_of_metrics_is_that_of_the_program() {
    let mut page = String::from(
        "# Metrics\n\nWhat `/metrics` exports. A test compares this list with the program. A label that grows while the watcher runs \
         (`topic`, `route`) is bounded by the network or by the program; none names a validator or a peer.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for (name, family) in exported().iter().filter(|(name, _)| name.starts_with("slashwatch_")) {
        let labels: Vec<_> = family.labels.keys().filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{name}` | {} | {} | {} |\n", family.kind, labels.join(", "), family.help));
    }
    page.push_str("\nAnd the usual `process_*` of CPU, memory, open files and start.\n");
    let path = Path::new(ROOT).join("docs/metrics.md");
    if std::env::var_os("SLASHWATCH_WRITE_DOCS").is_some() {
        fs::write(&path, &page).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "SLASHWATCH_WRITE_DOCS=1 cargo test --test monitoring writes docs/metrics.md anew");
}
