//! Checks of a configuration. All problems are reported at once, with their path in the file.

use super::Config;
use actions::config::{Problem, is_http};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Largest value of `verify.gather`. A longer time would delay every finding whose first message is
/// not verified yet.
const MAX_GATHER: Duration = Duration::from_secs(1);

/// Smallest value of `index.fold_after_epochs` except 0. Inclusion in a block takes up to two
/// epochs. Votes that a fork brings later are folded without being merged.
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
            let known = consensus::Network::builtin_names().collect::<Vec<_>>().join(", ");
            wrong(
                "network.name",
                format!("{name:?} is not built in; there are {known}; for others use `config` with the network's config.yaml"),
            );
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
        for (nth, address) in gossip.listen.iter().enumerate() {
            if let Err(error) = sources::gossip::listen_address(address) {
                wrong(&format!("gossip.listen[{nth}]"), error.to_string());
            }
        }
        if let Err(reason) = log_filter(&self.log.level) {
            wrong("log.level", format!("{:?}: {reason}; write it as in \"info\" or \"info,libp2p=warn\"", self.log.level));
        }
        if gossip.data_column_subnets > 128 {
            wrong("gossip.data_column_subnets", format!("{} is more than the 128 there are", gossip.data_column_subnets));
        }
        for (key, value) in [
            ("gossip.queue_messages", gossip.queue_messages),
            ("gossip.queue_mib", gossip.queue_mib),
            ("gossip.queue_mib_per_peer", gossip.queue_mib_per_peer),
            ("verify.parked_mib", self.verify.parked_mib),
            ("verify.parked_mib_per_peer", self.verify.parked_mib_per_peer),
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
        if self.submission.enabled && self.nodes.urls.is_empty() {
            wrong("submission.enabled", "proofs go to the nodes of `nodes.urls`, and there is none: give one".into());
        }
        self.api.problems(&mut problems);
        self.alerts.problems(&mut problems);
        self.watch.problems(&mut problems);
        problems
    }
}

impl Config {
    /// Returns settings that can be used as they are but are probably not intended.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        if self.gossip.enabled && self.gossip.peers.is_empty() && !self.event_stream.enabled {
            let text = "nobody to listen to: without peers, and without `event_stream`, the watcher hears only those who happen to dial it";
            warnings.push(Problem { path: "gossip.peers".into(), text: text.into() });
        }
        self.api.warnings(&mut warnings);
        warnings
    }
}

/// Checks a log filter. Returns an error with the reason if the text is not a log filter.
/// `EnvFilter` takes a word that is not a level for the name of a module and then shows only the
/// lines of that module, so a misspelt level would silence everything else.
fn log_filter(text: &str) -> Result<(), String> {
    for part in text.split(',') {
        if !part.contains(['=', '[']) && (part.is_empty() || part.parse::<LevelFilter>().is_err()) {
            return Err(format!("{part:?} is no level; there are error, warn, info, debug, trace and off"));
        }
    }
    EnvFilter::try_new(text).map(drop).map_err(|error| error.to_string())
}
