//! What can be wrong with a configuration: all of it at once, with its path in the file.

use super::{Config, Problem};
use std::time::Duration;

/// Longer than this would hold up every finding whose first message is still unproven.
const MAX_GATHER: Duration = Duration::from_secs(1);

/// Inclusion takes up to two epochs; what a fork brings later is folded unmerged.
const MIN_FOLD_AFTER_EPOCHS: u64 = 64;

impl Config {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |path: &str, text: String| problems.push(Problem { path: path.into(), text });

        let network = &self.network;
        if network.name.is_none() && network.config.is_none() && self.nodes.urls.is_empty() {
            wrong(
                "network",
                "names no network: set `name`, or `config` and `state`, or `nodes.urls` to learn it from a node".into(),
            );
        }
        if let Some(name) = &network.name
            && consensus::Spec::builtin(name).is_none()
        {
            wrong("network.name", format!("{name:?} is not built in; use `config` with the network's config.yaml"));
        }
        for (key, path) in [("network.config", &network.config), ("network.state", &network.state)] {
            if let Some(path) = path
                && !path.is_file()
            {
                wrong(key, format!("{} is not a file", path.display()));
            }
        }
        if network.state.is_none() && self.nodes.urls.is_empty() {
            wrong("nodes.urls", "no node and no `network.state`: give one of them, committees and keys come from there".into());
        }
        for (nth, url) in self.nodes.urls.iter().enumerate() {
            if !is_http(url) {
                wrong(&format!("nodes.urls[{nth}]"), format!("{url:?} is not an http(s) address"));
            }
        }
        if self.nodes.refresh_epochs == 0 {
            wrong("nodes.refresh_epochs", "0 would fetch a state all the time; use 1 or more".into());
        }
        let gossip = &self.gossip;
        if gossip.enabled && gossip.peers.is_empty() && gossip.listen.is_empty() {
            wrong(
                "gossip.peers",
                "nobody to dial and nowhere to listen: give `peers` or `listen`, or set `enabled = false`".into(),
            );
        }
        for (nth, peer) in gossip.peers.iter().enumerate() {
            if let Err(error) = peer.parse::<sources::gossip::PeerAddress>() {
                wrong(&format!("gossip.peers[{nth}]"), error.to_string());
            }
        }
        if gossip.data_column_subnets > 128 {
            wrong("gossip.data_column_subnets", format!("{} is more than the 128 there are", gossip.data_column_subnets));
        }
        for (key, value) in [
            ("gossip.queue_messages", gossip.queue_messages),
            ("gossip.max_peers", gossip.max_peers),
            ("verify.batch_messages", self.verify.batch_messages),
            ("api.max_streams", self.api.max_streams),
            ("api.max_connections", self.api.max_connections),
        ] {
            if value == 0 {
                wrong(key, "must be at least 1".into());
            }
        }
        if self.verify.forward_percent > 100 {
            wrong("verify.forward_percent", format!("{} is more than all; use 0 to 100", self.verify.forward_percent));
        }
        if self.verify.gather > MAX_GATHER {
            wrong("verify.gather", format!("{:?} would hold up findings; use at most {MAX_GATHER:?}", self.verify.gather));
        }
        if !gossip.enabled && !self.event_stream.enabled {
            wrong("gossip.enabled", "no source is left: enable gossip or `event_stream`".into());
        }
        if self.event_stream.enabled && self.nodes.urls.is_empty() {
            wrong("event_stream.enabled", "the event stream comes from a node: give `nodes.urls`".into());
        }
        if self.index.history_epochs < 2 {
            wrong("index.history_epochs", "at least 2, or no contradiction can be seen".into());
        }
        if (1..MIN_FOLD_AFTER_EPOCHS).contains(&self.index.fold_after_epochs) {
            let least = format!("0 for never, or at least {MIN_FOLD_AFTER_EPOCHS}: votes of younger epochs still come");
            wrong("index.fold_after_epochs", least);
        }
        for (path, text) in self.detect.problems() {
            wrong(&path, text);
        }
        for (nth, route) in self.alerts.routes.iter().enumerate() {
            let at = |key: &str| format!("alerts.routes[{nth}].{key}");
            if route.name.is_empty() {
                wrong(&at("name"), "is empty".into());
            }
            if self.alerts.routes[..nth].iter().any(|other| other.name == route.name) {
                wrong(&at("name"), format!("{:?} is used twice", route.name));
            }
            if !is_http(&route.url) {
                wrong(&at("url"), "is not an http(s) address".into());
            }
            for (nth, label) in route.labels.iter().enumerate() {
                if let Err(error) = label.parse::<detect::watch::Label>() {
                    wrong(&at(&format!("labels[{nth}]")), error.to_string());
                }
            }
            match (&route.secret_file, &route.secret_env) {
                (None, None) => {
                    wrong(&at("secret_file"), "no secret: give `secret_file` or `secret_env`; deliveries are signed".into())
                }
                (Some(_), Some(_)) => wrong(&at("secret_env"), "both `secret_file` and `secret_env`: keep one".into()),
                (Some(file), None) if !file.is_file() => wrong(&at("secret_file"), format!("{} is not a file", file.display())),
                (None, Some(name)) if std::env::var_os(name).is_none() => {
                    wrong(&at("secret_env"), format!("the environment has no {name}"));
                }
                _ => {}
            }
        }
        self.watch.problems(&mut problems);
        problems
    }
}

pub(super) fn is_http(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Compares the file's keys with those the reference has, so that all misspellings are reported at once.
pub(super) fn unknown_keys(text: &str) -> Result<Vec<Problem>, String> {
    let given: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let known: toml::Table = Config::defaults_toml().parse().map_err(|error: toml::de::Error| error.to_string())?;
    let optional = ["network.name", "network.config", "network.state", "gossip.identity_file", "alerts.routes"];
    let mut problems = Vec::new();
    for (section, value) in &given {
        let Some(known_value) = known.get(section) else {
            problems.push(Problem { path: section.clone(), text: "unknown; see `slashwatch config show-defaults`".into() });
            continue;
        };
        if let (Some(given_table), Some(known_table)) = (value.as_table(), known_value.as_table()) {
            unknown_in(section, given_table, known_table, &optional, &mut problems);
        }
    }
    Ok(problems)
}

fn unknown_in(path: &str, given: &toml::Table, known: &toml::Table, optional: &[&str], problems: &mut Vec<Problem>) {
    for (key, value) in given {
        let path = format!("{path}.{key}");
        match (known.get(key), value.as_table()) {
            (Some(toml::Value::Table(known)), Some(given)) => unknown_in(&path, given, known, optional, problems),
            (Some(_), _) => {}
            (None, _) if optional.contains(&path.as_str()) => {}
            (None, _) => problems.push(Problem { path, text: "unknown; see `slashwatch config show-defaults`".into() }),
        }
    }
}
