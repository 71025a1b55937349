//! Checks of a configuration. All problems are reported at once, with their path in the file.

use super::{Config, GossipSection, IndexConfig, LogConfig, NetworkSection, NodesConfig, VerifySection};
use crate::network_folder;
use actions::config::Problem;
use alert::is_http;
use sources::discovery::BootNode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Largest value of `verify.gather`. A longer time would delay every finding whose first message is
/// not verified yet.
const MAX_GATHER: Duration = Duration::from_secs(1);

/// Smallest value of `index.fold_after_epochs` except 0. Inclusion in a block takes up to two
/// epochs. Votes that a fork brings later are folded without being merged.
const MIN_FOLD_AFTER_EPOCHS: u64 = 64;

/// Collects problems: takes the path in the file, and a text that says what to do.
type Wrong<'a> = &'a mut dyn FnMut(&str, String);

/// Number of subnets of data columns, `DATA_COLUMN_SIDECAR_SUBNET_COUNT` of the specification.
const MAX_DATA_COLUMN_SUBNETS: u64 = 128;

impl Config {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let wrong: Wrong = &mut |path, text| problems.push(Problem { path: path.into(), text });
        let has_nodes = !self.nodes.urls.is_empty();
        self.network.problems(has_nodes || !self.nodes.checkpoints.is_empty(), wrong);
        if !self.has_state() {
            wrong(
                "nodes",
                "there is no state to start from, and committees and keys come from one: give `urls` with your beacon node, or \
                 `checkpoints` with an endpoint for checkpoint sync (--checkpoint URL), or `network.state` with a state file"
                    .into(),
            );
        }
        self.nodes.problems(wrong);
        self.gossip.problems(wrong);
        self.verify.problems(wrong);
        self.index.problems(wrong);
        self.log.problems(wrong);
        for (path, text) in self.detect.problems() {
            wrong(&path, text);
        }
        if !self.gossip.enabled && !self.event_stream.enabled {
            wrong("gossip.enabled", "no source of messages is enabled: enable gossip or `event_stream`".into());
        }
        if self.event_stream.enabled && !has_nodes {
            wrong("event_stream.enabled", "the event stream comes from a node: give `nodes.urls`".into());
        }
        if self.submission.enabled && !has_nodes {
            wrong("submission.enabled", "proofs go to the nodes of `nodes.urls`, and there is none: give one".into());
        }
        self.api.problems(&mut problems);
        self.alerts.problems(&mut problems);
        self.watch.problems(&mut problems);
        problems
    }
}

impl Config {
    /// Returns whether there is something to take a first state from: a file, a node, the folder of
    /// the network, or the last run.
    fn has_state(&self) -> bool {
        let last_run = crate::datadir::state_path(&self.data_dir).is_file();
        let in_folder = self.network.folder.as_deref().is_some_and(|folder| network_folder::genesis_state(folder).is_file());
        let is_online = !self.nodes.urls.is_empty() || !self.nodes.checkpoints.is_empty();
        self.network.state.is_some() || is_online || in_folder || last_run
    }
}

impl NetworkSection {
    fn problems(&self, has_nodes: bool, wrong: Wrong) {
        let known = || consensus::Network::builtin_names().collect::<Vec<_>>().join(", ");
        if self.name.is_none() && self.folder.is_none() && self.config.is_none() && !has_nodes {
            let text = format!(
                "no network is named: set `name` (or --network) to one of {}, or `folder` to that of another network, or \
                 `nodes.urls` to learn it from a node",
                known()
            );
            wrong("network", text);
        }
        if let Some(folder) = self.folder.as_ref().filter(|folder| !network_folder::config_file(folder).is_file()) {
            let text = format!(
                "{} is neither a built-in network ({}) nor a folder with config.yaml; check the name or the path",
                folder.display(),
                known()
            );
            wrong("network.folder", text);
        }
        if let Some(name) = self.name.as_ref().filter(|name| consensus::Spec::builtin(name).is_none()) {
            let text = format!(
                "{name:?} is not built in; there are {}; for others use `folder` with the folder that has the network's config.yaml",
                known()
            );
            wrong("network.name", text);
        }
        for (key, path) in [("network.config", &self.config), ("network.state", &self.state)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
                wrong(key, format!("{} is not a file; check the path", path.display()));
            }
        }
    }
}

impl NodesConfig {
    fn problems(&self, wrong: Wrong) {
        for (key, urls) in [("urls", &self.urls), ("checkpoints", &self.checkpoints)] {
            for (nth, url) in urls.iter().enumerate().filter(|(_, url)| !is_http(url)) {
                wrong(&format!("nodes.{key}[{nth}]"), format!("{url:?} is not an http or https address"));
            }
        }
        if self.refresh_epochs == 0 {
            wrong("nodes.refresh_epochs", "0 would fetch a state again and again; use 1 or more".into());
        }
    }
}

impl GossipSection {
    fn problems(&self, wrong: Wrong) {
        if self.enabled && self.peers.is_empty() && self.listen.is_empty() {
            wrong(
                "gossip.peers",
                "there is no peer to dial and no address to listen on: give `peers` or `listen`, or set `enabled = false`".into(),
            );
        }
        for (nth, peer) in self.peers.iter().enumerate() {
            if let Err(error) = peer.parse::<sources::gossip::PeerAddress>() {
                wrong(&format!("gossip.peers[{nth}]"), error.to_string());
            }
        }
        for (nth, address) in self.listen.iter().enumerate() {
            if let Err(error) = sources::gossip::listen_address(address) {
                wrong(&format!("gossip.listen[{nth}]"), error.to_string());
            }
        }
        for (nth, text) in self.discovery.boot_nodes.iter().enumerate() {
            if let Err(error) = text.parse::<BootNode>() {
                wrong(&format!("gossip.discovery.boot_nodes[{nth}]"), error.to_string());
            }
        }
        let n_ip4 = self.discovery.listen.iter().filter(|address| address.is_ipv4()).count();
        let n_ip6 = self.discovery.listen.len() - n_ip4;
        if self.discovery.enabled && (n_ip4 > 1 || n_ip6 > 1 || n_ip4 + n_ip6 == 0) {
            let text =
                "discovery listens on one UDP address of IPv4, one of IPv6, or one of both; give these, or set `enabled = false`";
            wrong("gossip.discovery.listen", text.into());
        }
        for (nth, ip) in self.discovery.external.iter().enumerate() {
            let path = format!("gossip.discovery.external[{nth}]");
            let family = if ip.is_ipv4() { n_ip4 } else { n_ip6 };
            let is_second = self.discovery.external[..nth].iter().any(|other| other.is_ipv4() == ip.is_ipv4());
            if ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !self.discovery.private_addresses) {
                wrong(&path, format!("nobody can reach {ip}: give the address at which others see this machine or its router"));
            } else if family == 0 {
                wrong(
                    &path,
                    format!("{ip} is of a family that `gossip.discovery.listen` does not listen on: add a socket there"),
                );
            } else if is_second {
                wrong(&path, format!("{ip} is a second address of its family, and a record has one: give one of each"));
            }
        }
        if self.data_column_subnets > MAX_DATA_COLUMN_SUBNETS {
            let text = format!("{} is too many; there are {MAX_DATA_COLUMN_SUBNETS}", self.data_column_subnets);
            wrong("gossip.data_column_subnets", text);
        }
        at_least_1("gossip.queue_messages", self.queue_messages, wrong);
        at_least_1("gossip.queue_mib", self.queue_mib, wrong);
        at_least_1("gossip.queue_mib_per_peer", self.queue_mib_per_peer, wrong);
        at_least_1("gossip.max_peers", self.max_peers, wrong);
    }
}

impl VerifySection {
    fn problems(&self, wrong: Wrong) {
        at_least_1("verify.parked_mib", self.parked_mib, wrong);
        at_least_1("verify.parked_mib_per_peer", self.parked_mib_per_peer, wrong);
        at_least_1("verify.batch_messages", self.batch_messages, wrong);
        if self.forward_percent > 100 {
            wrong("verify.forward_percent", format!("{} is more than 100 percent; use 0 to 100", self.forward_percent));
        }
        if self.gather > MAX_GATHER {
            wrong("verify.gather", format!("{:?} would delay findings; use at most {MAX_GATHER:?}", self.gather));
        }
    }
}

impl IndexConfig {
    fn problems(&self, wrong: Wrong) {
        if self.history_epochs < 2 {
            wrong(
                "index.history_epochs",
                "must be at least 2, because a surround vote lies in other epochs than the surrounded one".into(),
            );
        }
        if (1..MIN_FOLD_AFTER_EPOCHS).contains(&self.fold_after_epochs) {
            let least =
                format!("use 0 for never, or at least {MIN_FOLD_AFTER_EPOCHS}, because votes of younger epochs still arrive");
            wrong("index.fold_after_epochs", least);
        }
    }
}

impl LogConfig {
    fn problems(&self, wrong: Wrong) {
        if let Err(reason) = log_filter(&self.level) {
            wrong("log.level", format!("{:?}: {reason}; write it as in \"info\" or \"info,libp2p=warn\"", self.level));
        }
    }
}

fn at_least_1(path: &str, value: usize, wrong: Wrong) {
    if value == 0 {
        wrong(path, "must be at least 1".into());
    }
}

impl Config {
    /// Returns settings that can be used as they are but are probably not intended.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        let discovery = &self.gossip.discovery;
        let is_named = self.network.name.is_some() || self.network.folder.is_some();
        let finds_peers = discovery.enabled && (is_named || !discovery.boot_nodes.is_empty());
        if self.gossip.enabled && self.gossip.peers.is_empty() && !self.event_stream.enabled && !finds_peers {
            let text = "without peers, boot nodes and `event_stream`, the watcher receives messages only from peers that dial it; add \
                        peers, or name the network (`network.name`, `network.folder`) so that it finds them";
            warnings.push(Problem { path: "gossip.peers".into(), text: text.into() });
        }
        if self.gossip.enabled && self.gossip.listen.is_empty() && !discovery.external.is_empty() {
            let text = "names an address at which nobody can dial the watcher, because `gossip.listen` is empty: its record has no TCP or \
                        QUIC port; give `gossip.listen` an address, or leave `external` out";
            warnings.push(Problem { path: "gossip.discovery.external".into(), text: text.into() });
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
            return Err(format!("{part:?} is not a level; there are error, warn, info, debug, trace and off"));
        }
    }
    EnvFilter::try_new(text).map(drop).map_err(|error| error.to_string())
}
