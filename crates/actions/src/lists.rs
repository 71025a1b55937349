//! Reads the groups and labels of validators from the configuration and its list files, and follows
//! changes of them.
//!
//! The module `detect::watch` defines what the lists mean. It reads no files.

mod files;
pub mod reload;
pub mod remote;

use crate::config::{EntityList, GroupConfig, Problem, RemoteList, WatchConfig};
use crate::killswitch::KillSwitchState;
use detect::watch::{Duty, Label, Labels, ListError, Members, Selector, WatchList};
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum number of problems that are listed for one load. The others are only counted.
const MAX_PROBLEMS: usize = 100;
/// Intervals at which a list may be fetched: from a minute to 30 days.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);

/// All lists merged, as far as they could be read, and the problems that were found.
#[derive(Debug, Default)]
pub struct Loaded {
    pub list: WatchList,
    pub problems: Vec<Problem>,
}

/// Reads the groups of the configuration and of all its files.
pub fn load(config: &WatchConfig) -> Loaded {
    let mut loading = ListBuilder::default();
    for (nth, group) in config.groups.iter().enumerate() {
        loading.group(&format!("watch.groups[{nth}]"), group, true);
    }
    for (nth, path) in config.files.iter().enumerate() {
        files::read(&format!("watch.files[{nth}]"), path, true, &mut loading);
    }
    for (nth, list) in config.entities.iter().enumerate() {
        let at = format!("watch.entities[{nth}]");
        match list {
            EntityList::File(path) => files::read(&at, path, false, &mut loading),
            EntityList::Url(list) => remote_list(&at, list, config, &mut loading),
        }
    }
    for (nth, name) in config.kin_labels.iter().enumerate() {
        if let Err(error) = Label::new(name, "x") {
            loading.wrong(format!("watch.kin_labels[{nth}]"), error.to_string());
        }
    }
    loading.finish()
}

/// Reads the copy of a list that is published at a URL. Before the first download there is none.
fn remote_list(at: &str, list: &RemoteList, config: &WatchConfig, into: &mut ListBuilder) {
    if !alert::is_http(&list.url) {
        into.wrong(format!("{at}.url"), "is not an http(s) address");
    }
    if !INTERVALS.contains(&list.every) {
        into.wrong(format!("{at}.every"), "must be from one minute to 30 days");
    }
    let n_same =
        config.files.iter().chain(config.entities.iter().map(EntityList::path)).filter(|path| **path == list.file).count();
    if n_same > 1 {
        into.wrong(format!("{at}.file"), "is the file of another list too; each list needs its own");
    } else if !files::has_known_ending(&list.file) {
        into.wrong(format!("{at}.file"), "ends neither in .csv, .toml, .yaml, .yml nor .json, which says what the list is");
    } else if list.file.exists() {
        let n_before = into.list.entries().len();
        files::read(at, &list.file, false, into);
        into.list.mark_published(n_before);
    }
}

/// Returns one line for each group with the number of its keys, for each kill switch, and for each
/// alert route. The log shows these lines at the start.
pub fn summary(active: &reload::ActiveConfig, labels: &Labels, switches: &KillSwitchState) -> Vec<String> {
    let of_group = |group: &Members| {
        let unknown = match group.unknown.len() {
            0 => String::new(),
            n => format!(", and {n} that the network does not know yet"),
        };
        format!("group {} is watched: {} keys{unknown}", group.name, group.validators.len())
    };
    let of_switch = |group: &GroupConfig| {
        let switch = group.kill_switch.as_ref()?;
        let on: Vec<String> =
            switch.on.iter().filter_map(|trigger| Some(serde_json::to_value(trigger).ok()?.as_str()?.to_owned())).collect();
        let state = match switches.fired.get(&group.name) {
            Some(fired) => format!("has fired at {} and stays so until it is rearmed", fired.ordered_at),
            None => "is ready".to_owned(),
        };
        Some(format!("kill switch of group {} {state} (on {})", group.name, on.join(", ")))
    };
    let of_route = |route: evidence::RouteFilter| {
        let only = match route.labels.is_empty() {
            true => String::new(),
            false => format!(", only of {}", route.labels.join(", ")),
        };
        format!("alert route {} receives what is {} or worse{only}", route.route.as_str(), route.min_severity.as_str())
    };
    let mut lines: Vec<String> = labels.groups().iter().map(of_group).collect();
    lines.extend(active.config.groups.iter().filter_map(of_switch));
    lines.extend(active.routes.names().into_iter().map(of_route));
    if labels.groups().is_empty() {
        lines.push("no group of keys is watched: `watch.groups` and `watch.files` are empty".into());
    }
    if active.routes.is_empty() {
        lines.push("no alert route: findings are recorded and shown, and nobody is alerted".into());
    }
    lines
}

/// A list while it is filled.
#[derive(Default)]
struct ListBuilder {
    list: WatchList,
    problems: Vec<Problem>,
    n_more: usize,
    is_full: bool,
}

impl ListBuilder {
    fn wrong(&mut self, path: impl Into<String>, text: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { path: path.into(), text: text.into() });
        } else {
            self.n_more += 1;
        }
    }

    /// Adds a group. If `watches` is true, its keys become members of a group with its name.
    /// Otherwise they only get its labels.
    fn group(&mut self, at: &str, group: &GroupConfig, watches: bool) {
        let labels = self.labels(&format!("{at}.labels"), &group.labels);
        let duty = match group.duty.as_deref().map(str::parse::<Duty>) {
            None => Duty::Active,
            Some(Ok(duty)) => duty,
            Some(Err(error)) => {
                self.wrong(format!("{at}.duty"), error);
                Duty::Active
            }
        };
        let mut is_named = true;
        if watches && let Err(error) = self.list.add_group(&group.name) {
            self.wrong(format!("{at}.name"), error.to_string());
            is_named = false;
        }
        let name = watches.then_some(group.name.as_str());
        for (nth, key) in group.keys.iter().enumerate() {
            match key.parse::<Selector>() {
                // A group with a bad name gets no members, but its keys are still checked.
                Ok(_) if !is_named => {}
                Ok(selector) => self.add(&format!("{at}.keys[{nth}]"), name, selector, &labels, duty),
                Err(error) => self.wrong(format!("{at}.keys[{nth}]"), error.to_string()),
            }
        }
    }

    fn labels(&mut self, at: &str, given: &BTreeMap<String, String>) -> Vec<Label> {
        let mut labels = Vec::with_capacity(given.len());
        for (key, value) in given {
            match Label::new(key, value) {
                Ok(label) => labels.push(label),
                Err(error) => self.wrong(format!("{at}.{key}"), error.to_string()),
            }
        }
        labels
    }

    fn add(&mut self, at: &str, group: Option<&str>, selector: Selector, labels: &[Label], duty: Duty) {
        match self.list.add(group, selector, labels, duty) {
            Ok(()) => {}
            // This is reported once. A million more reports would not help.
            Err(error @ ListError::TooManyEntries) => {
                if !self.is_full {
                    self.is_full = true;
                    self.wrong(at, error.to_string());
                }
            }
            Err(error) => self.wrong(at, error.to_string()),
        }
    }

    fn finish(mut self) -> Loaded {
        if self.n_more > 0 {
            let text = format!("{} more problems are not listed; correct these first", self.n_more);
            self.problems.push(Problem { path: "watch".into(), text });
        }
        Loaded { list: self.list, problems: self.problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Stage {
        dir: tempfile::TempDir,
        config: WatchConfig,
    }

    impl Stage {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), config: WatchConfig::default() }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        /// Returns one line for each entry, then one for each problem, with the folder removed from
        /// the paths.
        fn problem_lines(&self) -> Vec<String> {
            let loaded = load(&self.config);
            let entries = loaded.list.entries().iter().map(|entry| {
                let labels: Vec<String> = entry.labels.iter().map(ToString::to_string).collect();
                format!(
                    "{} {} [{}] {}",
                    entry.group.as_deref().unwrap_or("-"),
                    entry.selector,
                    labels.join(" "),
                    entry.duty.as_str()
                )
            });
            let folder = format!("{}/", self.dir.path().display());
            let problems =
                loaded.problems.iter().map(|problem| format!("{}: {}", problem.path.replace(&folder, ""), problem.text));
            entries.chain(problems).collect()
        }
    }

    /// Whoever publishes a list decides neither how long it takes to find its validators nor how
    /// much memory that needs.
    #[test]
    fn a_list_that_names_a_validator_over_and_over_is_refused() {
        let overlap = |n: usize| (0..n).map(|nth| format!("0-{}: node-{nth}\n", 1_000_000 - nth)).collect::<String>();
        let credentials = |n: usize| "key,pool\n".to_owned() + &format!("0x{},lido\n", "01".repeat(32)).repeat(n);
        let apart: String = (0..1_000).map(|nth| format!("{}-{}: node-{nth}\n", nth * 10, nth * 10 + 9)).collect();
        for (name, text, is_refused) in [
            ("a.yaml", overlap(32), false),
            ("b.yaml", overlap(33), true),
            ("c.csv", credentials(32), false),
            ("d.csv", credentials(33), true),
            ("e.yaml", apart, false),
        ] {
            let mut stage = Stage::new();
            stage.config.entities = vec![EntityList::File(stage.file(name, &text))];
            let problems: Vec<String> = load(&stage.config).problems.into_iter().map(|problem| problem.text).collect();
            assert_eq!(
                problems.iter().any(|text| text.contains("names a validator 33 times")),
                is_refused,
                "{name}: {problems:?}"
            );
        }
    }

    #[test]
    fn csv_and_toml_say_the_same() {
        let mut stage = Stage::new();
        stage.config.files = vec![
            stage.file("keys.csv", "group,key,operator,duty\nacme,5,\"Acme, Inc.\",\n\nacme,10-12,,migrating\n"),
            stage.file(
                "keys.toml",
                "[[groups]]\nname = \"blue\"\nkeys = [\"7\"]\nlabels = { client = \"teku\" }\nduty = \"offline\"\n",
            ),
        ];
        stage.config.entities = [
            stage.file("entities.csv", "key,pool\n100-199,lido\n"),
            stage.file("entities.toml", "[[entities]]\nkeys = [\"200\"]\nlabels = { pool = \"rocket\" }\n"),
        ]
        .map(EntityList::File)
        .into();
        assert_eq!(
            stage.problem_lines(),
            [
                "acme 5 [operator=Acme, Inc.] active",
                "acme 10-12 [] migrating",
                "blue 7 [client=teku] offline",
                "- 100-199 [pool=lido] active",
                "- 200 [pool=rocket] active"
            ]
        );
    }

    #[test]
    fn published_lists_become_labels() {
        let mut stage = Stage::new();
        let pubkey = format!("0x{}", "ab".repeat(48));
        stage.config.entities = [
            stage.file("validator-ranges.yaml", "# devnet\n0-63: 01-geth-lighthouse-teku\n\"64-127\": 'super-node-1'\nx: y\n"),
            stage.file("ranges.json", r#"{"ranges": {"128-191": "prysm-nethermind-3"}, "network": "devnet-1"}"#),
            stage.file("pool.csv", &format!("pubkey,pool,node_operator\n{pubkey},lido,acme\n")),
            stage.file("other.csv", "index,pubkey,pool\n7,,rocketpool\n"),
        ]
        .map(EntityList::File)
        .into();
        let mut lines = stage.problem_lines();
        let problem = lines.pop().unwrap();
        assert!(problem.starts_with("watch.entities[0] (validator-ranges.yaml) line 4: \"x\" names no validator"), "{problem}");
        assert_eq!(
            lines,
            [
                "- 0-63 [client=lighthouse node=01-geth-lighthouse-teku] active".to_owned(),
                "- 64-127 [node=super-node-1] active".to_owned(),
                "- 128-191 [client=prysm node=prysm-nethermind-3] active".to_owned(),
                format!("- {pubkey} [node_operator=acme pool=lido] active"),
                "- 7 [pool=rocketpool] active".to_owned(),
            ]
        );
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let mut stage = Stage::new();
        stage.config.groups = vec![GroupConfig {
            name: "a b".into(),
            keys: Vec::new(),
            labels: BTreeMap::from([("x".into(), String::new())]),
            duty: None,
            kill_switch: None,
            audit: None,
        }];
        stage.config.files = vec![
            stage.file("a.csv", "group,key,op erator\nacme,5,x\n"),
            stage.file("b.csv", "group,key\nacme,zebra\nacme\nacme,9-5\n"),
            stage.file("c.csv", "key\n5\n"),
            stage.file("d.toml", "[[groups]]\nname = \"g\"\nkill_switch = { command = [\"/bin/rm\"] }\n"),
            stage.file("e.json", "{}"),
            stage.dir.path().join("missing.csv"),
            stage.file("f.csv", "group,key,duty\nacme,5,asleep\n,6,active\n"),
        ];
        let problems = stage.problem_lines();
        for wanted in [
            "watch.groups[0].name:",
            "watch.groups[0].labels.x:",
            "watch.files[0] (a.csv) line 1: \"op erator\"",
            "watch.files[1] (b.csv) line 2: \"zebra\"",
            "watch.files[1] (b.csv) line 3:",
            "watch.files[1] (b.csv) line 4: the range \"9-5\"",
            "watch.files[2] (c.csv) line 1: has no column \"group\"",
            "watch.files[3] (d.toml):",
            "watch.files[4] (e.json): is a list of validator ranges",
            "watch.files[5] (missing.csv):",
            "watch.files[6] (f.csv) line 2: \"asleep\" is no duty",
            "watch.files[6] (f.csv) line 3:",
        ] {
            assert!(problems.iter().any(|line| line.starts_with(wanted)), "{wanted} is missing in {problems:#?}");
        }
        assert!(problems.iter().any(|line| line.contains("kill_switch")), "{problems:#?}");
    }

    #[test]
    fn a_list_at_a_url_is_checked_and_read_from_its_copy() {
        let mut stage = Stage::new();
        let folder = stage.dir.path().to_owned();
        let list = |url: &str, file: &str, seconds| {
            EntityList::Url(RemoteList { url: url.into(), file: folder.join(file), every: Duration::from_secs(seconds) })
        };
        stage.file("copy.yaml", "0-63: a\n");
        stage.config.entities =
            vec![list("https://example.org/r", "copy.yaml", 60), list("https://example.org/r", "none.json", 60)];
        assert_eq!(stage.problem_lines(), ["- 0-63 [node=a] active"]);
        stage.config.entities = vec![
            list("ftp://example.org", "a.yaml", 60),
            list("https://example.org", "b.yaml", 59),
            list("https://example.org", "c.txt", 60),
            list("https://example.org", "b.yaml", 60),
        ];
        let problems = stage.problem_lines();
        for wanted in [
            "[0].url: is not",
            "[1].every: must be",
            "[1].file: is the file of another",
            "[2].file: ends neither",
            "[3].file: is the",
        ] {
            let wanted = format!("watch.entities{wanted}");
            assert!(problems.iter().any(|line| line.starts_with(&wanted)), "{wanted} is missing in {problems:#?}");
        }
        let read: WatchConfig =
            toml::from_str("entities = [\"a.csv\", { url = \"https://example.org/r\", file = \"r.yaml\", every = \"10m\" }]")
                .unwrap();
        assert_eq!(read.entities[0], EntityList::File("a.csv".into()));
        let EntityList::Url(second) = &read.entities[1] else { panic!("{:?}", read.entities) };
        assert_eq!((&*second.url, second.every), ("https://example.org/r", Duration::from_secs(600)));
        assert!(
            toml::from_str::<WatchConfig>("entities = [{ url = \"x\", file = \"y\", path = 1 }]")
                .unwrap_err()
                .to_string()
                .contains("path")
        );
    }

    #[test]
    fn ten_thousand_problems_are_a_hundred_and_a_number() {
        let mut stage = Stage::new();
        stage.config.files = vec![stage.file("keys.csv", &format!("group,key\n{}", "acme,x\n".repeat(10_000)))];
        let problems = stage.problem_lines();
        assert_eq!(problems.len(), 101);
        assert_eq!(problems[100], "watch: 9900 more problems are not listed; correct these first");
    }
}
