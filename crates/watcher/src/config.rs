//! The configuration file. Raw TOML comes in, a checked [`Config`] goes out, and all problems are
//! reported at once with their path in the file.
//!
//! `config/reference.toml` shows every option with its default and its reason. A test compares it
//! with the defaults here, so that both stay the same.

mod check;
mod http;
mod raw;

use actions::config::{AlertsConfig, Problem, WatchConfig};
use detect::DetectConfig;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use http::{ApiConfig, ShowWatched};

/// The whole configuration of `slashwatch run`. Only [`Config::load`] and [`Config::parse`] build
/// one from a file's text, and both check it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the index, the findings, the public key cache and the outbox.
    pub data_dir: PathBuf,
    pub network: NetworkSection,
    pub nodes: NodesConfig,
    pub gossip: GossipSection,
    pub event_stream: EventStreamConfig,
    pub verify: VerifySection,
    pub index: IndexConfig,
    pub detect: DetectConfig,
    pub alerts: AlertsConfig,
    pub submission: SubmissionConfig,
    pub watch: WatchConfig,
    pub api: ApiConfig,
    pub log: LogConfig,
    /// The file that the configuration was read from. The lists of watched keys are read again from
    /// it.
    #[serde(skip)]
    pub source: Option<PathBuf>,
    #[serde(skip)]
    pub command_line: CommandLine,
}

/// Options of the command line that go before the file.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// A built-in network, or the folder of one.
    pub network: Option<String>,
    /// Addresses for [`NodesConfig::checkpoints`], and at most one state file.
    pub checkpoints: Vec<String>,
    /// Addresses for [`NodesConfig::urls`].
    pub nodes: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSection {
    /// Name of a built-in network.
    pub name: Option<String>,
    /// The folder of any other network, see [`crate::network_folder`]. It takes precedence over
    /// `name`.
    pub folder: Option<PathBuf>,
    /// The `config.yaml` of a network. It takes precedence over `folder` and `name`.
    pub config: Option<PathBuf>,
    /// A beacon state to start from instead of one from a node: SSZ, or SSZ in framed snappy.
    pub state: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodesConfig {
    /// REST addresses of beacon nodes, tried in this order.
    pub urls: Vec<String>,
    /// REST addresses from which only states are taken: other people's nodes, or endpoints for
    /// checkpoint sync. They have to agree about the finalized block.
    pub checkpoints: Vec<String>,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long the download of a state may take. A mainnet state has about 300 MB.
    #[serde(with = "humantime_serde")]
    pub state_timeout: Duration,
    /// A new state is fetched after this many epochs, for new validators and exits. It is fetched
    /// sooner when blocks show that they changed.
    pub refresh_epochs: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GossipSection {
    pub enabled: bool,
    /// Multiaddrs to listen on. If the list is empty, the watcher only dials.
    pub listen: Vec<String>,
    /// Peers to stay connected to: multiaddrs with `/p2p/`, or ENRs.
    pub peers: Vec<String>,
    /// Largest number of connected peers.
    pub max_peers: usize,
    pub discovery: DiscoverySection,
    /// Number of data column subnets from which signed block headers are taken.
    pub data_column_subnets: u64,
    /// File of this node's network key, so that peers recognise it after a restart. By default it
    /// is in the data directory.
    pub identity_file: Option<PathBuf>,
    /// Messages that may wait for verification. A message that does not fit is dropped and counted.
    pub queue_messages: usize,
    /// MiB of messages in each of the queues before verification. A message that does not fit is
    /// dropped and counted.
    pub queue_mib: usize,
    /// MiB of messages from one peer in the queue of gossip. A message that does not fit is dropped
    /// and counted.
    pub queue_mib_per_peer: usize,
}

/// How peers are found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoverySection {
    /// Look for peers. This needs boot nodes: those of a built-in network, of the network's folder,
    /// or `boot_nodes`.
    pub enabled: bool,
    /// UDP sockets: one of IPv4, one of IPv6, or both.
    pub listen: Vec<SocketAddr>,
    /// ENRs of nodes to ask first, beside those of the network.
    pub boot_nodes: Vec<String>,
    /// Addresses at which others reach this node, for example that of a router that forwards the
    /// ports. Without one, other nodes say at which address they see this one.
    pub external: Vec<IpAddr>,
    /// Also take nodes with private addresses, as in a network of containers.
    pub private_addresses: bool,
}

impl Default for DiscoverySection {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 9010))],
            boot_nodes: Vec::new(),
            external: Vec::new(),
            private_addresses: false,
        }
    }
}

/// Converts MiB to bytes.
pub const fn mib(n: usize) -> usize {
    n.saturating_mul(1 << 20)
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventStreamConfig {
    /// Also receive messages from the event streams of the beacon nodes.
    pub enabled: bool,
}

/// How single votes are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinglesSetting {
    /// Plain sums per committee. This is the cheapest way, but nothing verified like this can be
    /// forwarded.
    Sums,
    /// Each vote has a random weight and a group check of its own, so it may be forwarded to the
    /// mesh.
    RandomCombination,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifySection {
    /// How single votes are verified.
    pub singles: SinglesSetting,
    /// Number of BLS threads. 0 means one per processor.
    pub threads: usize,
    /// Messages that may wait until their committees are known.
    pub parked_messages: usize,
    /// MiB of these waiting messages in total.
    pub parked_mib: usize,
    /// MiB of these waiting messages from one peer.
    pub parked_mib_per_peer: usize,
    /// Largest number of messages that are verified together.
    pub batch_messages: usize,
    /// How long ordinary votes are gathered before they are verified together.
    #[serde(with = "humantime_serde")]
    pub gather: Duration,
    /// The percentage of single votes that are verified in a way that permits forwarding. The rest
    /// is verified as with `sums`. Used only with `random_combination`.
    pub forward_percent: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Number of epochs that are kept. Older votes are dropped.
    pub history_epochs: u64,
    /// Votes older than this many epochs share one signature per attestation data instead of one
    /// per committee. That takes 3 KB per epoch instead of 0.2 MB, but a proof then names all
    /// validators that voted in the slot. 0 means never.
    pub fold_after_epochs: u64,
}

/// Submission of slashing proofs to the beacon nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubmissionConfig {
    /// Submit proofs that a block can still include to all nodes of `nodes.urls`.
    pub enabled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A log filter, for example `info,libp2p=warn`.
    pub level: String,
    pub format: LogFormat,
}

impl NetworkSection {
    /// A built-in network, or the folder of any other one.
    pub fn named(network: &str) -> Self {
        match consensus::Spec::builtin(network) {
            Some(_) => Self { name: Some(network.to_owned()), ..Self::default() },
            None => Self { folder: Some(network.into()), ..Self::default() },
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("slashwatch-data"),
            network: NetworkSection::default(),
            nodes: NodesConfig::default(),
            gossip: GossipSection::default(),
            event_stream: EventStreamConfig::default(),
            verify: VerifySection::default(),
            index: IndexConfig::default(),
            detect: DetectConfig::default(),
            alerts: AlertsConfig::default(),
            submission: SubmissionConfig::default(),
            watch: WatchConfig::default(),
            api: ApiConfig::default(),
            log: LogConfig::default(),
            source: None,
            command_line: CommandLine::default(),
        }
    }
}

impl Default for NodesConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            checkpoints: Vec::new(),
            timeout: Duration::from_secs(10),
            state_timeout: Duration::from_secs(300),
            refresh_epochs: 64,
        }
    }
}

impl Default for GossipSection {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec!["/ip4/0.0.0.0/tcp/9010".into(), "/ip4/0.0.0.0/udp/9011/quic-v1".into()],
            peers: Vec::new(),
            max_peers: 200,
            discovery: DiscoverySection::default(),
            data_column_subnets: 4,
            identity_file: None,
            queue_messages: 65_536,
            queue_mib: 256,
            queue_mib_per_peer: 64,
        }
    }
}

impl Default for VerifySection {
    fn default() -> Self {
        Self {
            singles: SinglesSetting::RandomCombination,
            threads: 0,
            parked_messages: 65_536,
            parked_mib: 64,
            parked_mib_per_peer: 16,
            batch_messages: 1024,
            gather: Duration::from_millis(20),
            forward_percent: 100,
        }
    }
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self { history_epochs: 54_000, fold_after_epochs: 0 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "cannot read {path}: {source}. Give the path of a TOML file; `slashwatch config show-defaults` prints one to start from"
    )]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a valid configuration: {text}")]
    NotToml { path: PathBuf, text: String },
    #[error("{path} has {n} problem(s):\n{list}", n = problems.len(), list = lines(problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {}: {}", problem.path, problem.text)).collect::<Vec<_>>().join("\n")
}

/// Largest configuration file that is read. Lists of many keys are files of their own.
const MAX_FILE_BYTES: u64 = 64 << 20;

impl Config {
    /// Reads and checks a file. Relative paths in the file are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(Some(path), &CommandLine::default())
    }

    /// Does the same as [`Config::load`] with options that go before the file. Without a file, the
    /// defaults hold.
    pub fn load_with(path: Option<&Path>, options: &CommandLine) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Self::parse_with("", Path::new("the command line"), options) };
        let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
        // It may be a pipe, as in `--config <(..)`.
        let bytes = std::fs::File::open(path).and_then(|file| base::read_bounded(file, MAX_FILE_BYTES)).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable(std::io::Error::other("it is not UTF-8 text")))?;
        Ok(Self { source: Some(path.into()), ..Self::parse_with(&text, path, options)? })
    }

    /// Does the same as [`Config::load`] for a text. `path` names the text in errors, and relative
    /// paths are relative to its folder.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, path, &CommandLine::default())
    }

    fn parse_with(text: &str, path: &Path, options: &CommandLine) -> Result<Self, ConfigError> {
        let read = raw::read(text).map_err(|text| ConfigError::NotToml { path: path.into(), text })?;
        let raw::Read { config, mut problems, dropped } = read;
        if let Some(mut config) = config {
            config.anchor(path.parent().unwrap_or(Path::new("")));
            problems.extend(config.apply(options));
            let misread: Vec<String> = problems.iter().map(|problem| problem.path.clone()).collect();
            let others = config.problems().into_iter().map(|one| Problem { path: dropped.in_file(&one.path), ..one });
            // A value that could not be read is reported once. The problem that the value is
            // missing now follows from that.
            problems.extend(others.filter(|problem| !misread.contains(&problem.path)));
            if problems.is_empty() {
                return Ok(config);
            }
        }
        Err(ConfigError::Invalid { path: path.into(), problems })
    }

    /// Returns the reference file, which holds the defaults.
    pub fn defaults_toml() -> &'static str {
        include_str!("../../../config/reference.toml")
    }

    /// Sets what the command line says. What the file says about the same subject is dropped.
    fn apply(&mut self, options: &CommandLine) -> Option<Problem> {
        self.command_line = options.clone();
        if let Some(network) = &options.network {
            self.network = NetworkSection::named(network);
        }
        if !options.nodes.is_empty() {
            self.nodes.urls = options.nodes.clone();
        }
        if options.checkpoints.is_empty() {
            return None;
        }
        let (urls, files): (Vec<String>, Vec<String>) =
            options.checkpoints.iter().cloned().partition(|text| text.contains("://"));
        self.nodes.checkpoints = urls;
        self.network.state = files.first().map(PathBuf::from);
        let second = files.get(1)?;
        let text = format!("{second:?} is a second state file, and the watcher starts from one: give one file, or addresses");
        Some(Problem { path: "--checkpoint".into(), text })
    }

    fn anchor(&mut self, folder: &Path) {
        let paths = [
            Some(&mut self.data_dir),
            self.network.folder.as_mut(),
            self.network.config.as_mut(),
            self.network.state.as_mut(),
            self.gossip.identity_file.as_mut(),
        ];
        for path in paths.into_iter().flatten() {
            if path.is_relative() {
                *path = folder.join(&path);
            }
        }
        self.alerts.anchor(folder);
        self.watch.anchor(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("test.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_reference_is_the_defaults() {
        let reference: Config = toml::from_str(Config::defaults_toml()).unwrap();
        assert_eq!(toml::to_string(&reference).unwrap(), toml::to_string(&Config::default()).unwrap());
    }

    /// Returns the paths of all sections and options, as `section.option`.
    fn paths(at: &str, table: &toml::Table) -> std::collections::BTreeSet<String> {
        let each = table.iter().flat_map(|(key, value)| {
            let path = format!("{at}{key}");
            match value {
                toml::Value::Table(below) => paths(&format!("{path}."), below),
                _ => [path].into(),
            }
        });
        each.collect()
    }

    #[test]
    fn the_reference_names_every_option() {
        let defaults = toml::to_string(&Config::default()).unwrap();
        let [named, there_are] = [Config::defaults_toml(), &defaults].map(|text| paths("", &text.parse().unwrap()));
        assert_eq!(there_are.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new(), "options that nobody can find");
        assert_eq!(named.difference(&there_are).collect::<Vec<_>>(), Vec::<&String>::new(), "options that there are not");
    }

    #[test]
    fn thresholds_that_make_no_sense_are_refused() {
        let impossible = [
            ("watch", "slot_heard_percent", 0),
            ("watch", "slot_heard_percent", 101),
            ("watch", "missed_closes_after_epochs", 1),
            ("watch", "flapping_longest_epochs", 0),
            ("watch", "flapping_closes_after_epochs", 1_025),
            ("watch", "dormant_again_epochs", 0),
            ("watch.two_origins", "learn_epochs", 0),
            ("watch.two_origins", "again_epochs", 0),
            ("detect.punishment", "blind_spot_closes_after_epochs", 0),
            ("detect.blocks", "head_percent", 101),
            ("detect.blocks", "left_percent", 51),
            ("detect.blocks", "backing_votes", 0),
            ("detect.blocks", "backing_percent", 51),
            ("detect.clock_skew", "everybody_percent", 50),
            ("detect.participation_drop", "min_reference_percent", 0),
            ("detect.participation_drop", "client_drop_percent", 100),
            ("detect.participation_drop", "client_share_percent", 0),
            ("detect.network", "status_epochs", 0),
            ("detect.network", "silent_votes_percent", 0),
            ("detect.payload_status", "window_slots", 0),
            ("detect.payload_status", "min_votes", 0),
            ("detect.payload_status", "min_percent", 51),
            ("detect.payload_status", "closes_after_epochs", 0),
            ("detect.slashing_wave", "base_rate_over_epochs", 255),
            ("detect.slashing_wave", "shared_percent", 0),
            ("detect.slashing_wave", "shared_times_usual", 0),
            ("detect.slashing_wave", "cause_percent", 0),
            ("detect.slashing_wave", "nearly_all_percent", 50),
        ];
        for (section, key, value) in impossible {
            let reported = check(&format!("[network]\nname = \"mainnet\"\n[{section}]\n{key} = {value}\n")).unwrap_err();
            assert!(reported.contains(&format!("  {section}.{key}: {value} is ")), "{section}.{key} = {value}: {reported}");
        }
    }

    #[test]
    fn the_minimal_file_is_valid() {
        check(include_str!("../../../config/minimal.toml")).unwrap();
    }

    #[test]
    fn all_problems_are_reported_at_once_with_their_path() {
        let reported = check(
            "[network]\nname = \"nowhere\"\n[nodes]\nurls = [\"ftp://x\"]\n[gossip]\nqueue_messages = 0\n\
             [[alerts.routes]]\nname = \"ops\"\nurl = \"nope\"\n",
        )
        .unwrap_err();
        for path in
            ["network.name", "nodes.urls[0]", "gossip.queue_messages", "alerts.routes[0].url", "alerts.routes[0].secret_file"]
        {
            assert!(reported.contains(path), "{path} is missing in: {reported}");
        }
    }

    #[test]
    fn keys_that_nobody_knows_values_of_another_type_and_impossible_ones_are_reported_together() {
        let reported = check(
            "[network]\nname = \"nowhere\"\n[nodes]\nurls = [\"http://x\", 7]\ntimeout = 3\nurl = 1\n[gosip]\n[gossip]\nmax_peers = \"many\"\n\
             [detect.clock_skew]\nmin_voters = -1\n[api]\nlisten = \"here\"\n[log]\nformat = \"xml\"\n[[alerts.routes]]\nname = \"a\"\n",
        )
        .unwrap_err();
        for path in [
            "network.name",
            "nodes.urls[1]",
            "nodes.timeout",
            "nodes.url",
            "gosip",
            "gossip.max_peers",
            "detect.clock_skew.min_voters",
            "api.listen",
            "log.format",
            "alerts.routes[0]",
        ] {
            assert!(reported.contains(&format!("  {path}: ")), "{path} is missing in: {reported}");
        }
        assert_eq!(reported.lines().count(), 11, "one line each: {reported}");
        assert!(check("network = 3\n").unwrap_err().contains("  network: "));
        assert!(check("not toml").unwrap_err().contains("not a valid configuration"));
    }

    #[test]
    fn a_value_of_another_type_is_reported_with_what_to_write() {
        let reported = check(
            "data_dir = 5\nsubmission = 1\n[network]\nname = \"hoody\"\n[nodes]\nurls = \"http://x\"\ntimeout = 3\nstate_timeout = \"soon\"\n[gossip]\nenabled = \"yes\"\n\
             max_peers = -1\npeers = [7]\n[api]\nlisten = \"here\"\n[log]\nformat = \"xml\"\n[watch]\nreload = 10\nflapping_keys = \"5\"\n\
             [[watch.groups]]\nname = \"a\"\nkeys = [\"6\", 7]\n",
        )
        .unwrap_err();
        for wanted in [
            "data_dir: invalid type: integer `5`, expected a path in quotes such as \"/",
            "network.name: \"hoody\" is not built in; there are mainnet, ",
            "nodes.urls: invalid type: string \"http://x\", expected a list in brackets such as [",
            "nodes.timeout: invalid type: integer `3`, expected a duration in quotes such as \"30s\"",
            "nodes.state_timeout: invalid value: string \"soon\", expected a duration in quotes such as \"30s\"",
            "gossip.enabled: invalid type: string \"yes\", expected true or false",
            "gossip.max_peers: invalid value: integer `-1`, expected a whole number",
            "gossip.peers[0]: invalid type: integer `7`, expected text in quotes",
            "api.listen: expected an address and a port in quotes such as \"127.0.0.1:5080\"",
            "log.format: unknown variant `xml`, expected `text` or `json`",
            "watch.flapping_keys: invalid type: string \"5\", expected a whole number",
            "watch.groups[0].keys[1]: invalid type: integer `7`, expected text in quotes",
            "submission: invalid type: integer `1`, expected a section such as [name]",
            "watch.reload: invalid type: integer `10`, expected a duration in quotes",
        ] {
            assert!(reported.contains(&format!("  {wanted}")), "{wanted} is missing in: {reported}");
        }
    }

    /// No section takes a key that it does not have, not even those whose struct is flattened.
    #[test]
    fn an_unknown_key_is_refused_in_every_section() {
        fn sections(at: &str, table: &toml::Table, found: &mut Vec<String>) {
            for (key, value) in table {
                if let toml::Value::Table(below) = value {
                    let path = format!("{at}{key}");
                    found.push(path.clone());
                    sections(&format!("{path}."), below, found);
                }
            }
        }
        let mut found = Vec::new();
        sections("", &toml::to_string(&Config::default()).unwrap().parse().unwrap(), &mut found);
        assert!(found.len() > 15 && found.contains(&"watch".to_owned()), "{found:?}");
        for section in found {
            let reported = check(&format!("[{section}]\nnonsense = 1\n")).unwrap_err();
            assert!(reported.contains(&format!("  {section}.nonsense: unknown; ")), "{reported}");
        }
    }

    #[test]
    fn a_list_of_wrong_values_is_reported_up_to_a_limit() {
        let numbers = vec!["1"; 100_000].join(", ");
        let reported = check(&format!("[network]\nname = \"nowhere\"\n[watch]\nkin_labels = [{numbers}]\n")).unwrap_err();
        assert!(reported.contains("  watch.kin_labels[99]: invalid type: integer `1`, expected text in quotes"), "{reported}");
        assert_eq!(reported.lines().count(), 102, "{reported}");
        assert!(reported.contains("correct these problems first"), "{reported}");
    }

    /// An element that is left out of a list does not shift the paths of the elements after it.
    /// Only the wrong part of an element is left out.
    #[test]
    fn problems_in_lists_are_reported_one_by_one_where_they_stand() {
        let reported = check(
            "[nodes]\nurls = [3, \"ftp://x\", \"http://x\", \"\"]\n[gossip]\nlisten = [\"nonsense\"]\n[log]\nlevel = \"loud==\"\n\
             [[alerts.routes]]\nname = \"one\"\nurl = \"http://x\"\nsecret_env = \"PATH\"\nmin_severity = \"huge\"\n\
             [[alerts.routes]]\nname = 3\nurl = \"http://x\"\n\
             [[alerts.routes]]\nname = \"three\"\nurl = \"notaurl\"\nsecret_env = \"PATH\"\n\
             [[watch.groups]]\nname = \"a\"\nkeys = [\"0x12\"]\nduty = \"sleep\"\n\
             [watch.groups.kill_switch]\ncommand = [\"relative\"]\ntimeout = \"x\"\n",
        );
        let reported = reported.unwrap_err();
        let paths: Vec<&str> =
            reported.lines().skip(1).filter_map(|line| line.trim().split_once(": ")).map(|(path, _)| path).collect();
        let expected = [
            "alerts.routes[0].min_severity",
            "alerts.routes[1].name",
            "nodes.urls[0]",
            "watch.groups[0].kill_switch.timeout",
            "nodes.urls[1]",
            "nodes.urls[3]",
            "gossip.listen[0]",
            "log.level",
            "alerts.routes[2].url",
        ];
        assert!(paths.starts_with(&expected), "{reported}");
        for path in ["watch.groups[0].duty", "watch.groups[0].keys[0]", "watch.groups[0].kill_switch.command[0]"] {
            assert!(paths.contains(&path), "{path} is missing in: {reported}");
        }
    }

    /// The keys of a route that belong to its sink are read by the sink, so their paths are found
    /// in another way than those of the rest of the file.
    #[test]
    fn keys_and_types_of_routes_are_checked_by_their_sink() {
        let route = |keys: &str| format!("[[alerts.routes]]\nname = \"ops\"\nsecret_env = \"PATH\"\n{keys}");
        for (keys, expected) in [
            (
                "type = \"pigeon\"\nurl = \"http://x\"\n",
                "alerts.routes[0].type: unknown variant `pigeon`, expected one of `webhook`, `alertmanager`, `slack`, `discord`, `telegram`, `pagerduty`, `ntfy`, `email`, `program`",
            ),
            ("url = 7\n", "alerts.routes[0].url: invalid type: integer `7`, expected text in quotes such as \"abc\""),
            (
                "url = \"http://x\"\nsecrets = 1\n",
                "alerts.routes[0].secrets: unknown; expected one of `url`, `secret_file`, `secret_env`, or one of every route: \
                 `name`, `type`, `min_severity`, `labels`, `merge`, `max_per_hour`, `quiet_hours`, `template_file`; see `slashwatch config show-defaults`",
            ),
            ("", "alerts.routes[0]: missing field `url`"),
            ("url = \"http://x\"\nlabels = [3]\n", "alerts.routes[0].labels[0]: invalid type: integer `3`, expected text"),
        ] {
            let reported = check(&route(keys)).unwrap_err();
            assert!(reported.contains(&format!("  {expected}")), "{expected} is missing in: {reported}");
        }
        let text = route("type = \"webhook\"\nurl = \"http://x\"\nlabels = [\"operator=acme\"]\n");
        let config: AlertsConfig = toml::from_str(&text.replace("alerts.routes", "routes")).unwrap();
        let again: AlertsConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    /// `run` would accept such values and then log nothing, or it would fail later.
    #[test]
    fn levels_that_there_are_not_and_empty_secrets_are_refused() {
        let level = |level: &str| {
            check(&format!("[network]\nname = \"mainnet\"\n[nodes]\nurls = [\"http://x\"]\n[log]\nlevel = {level:?}\n"))
        };
        for good in ["info", "WARN", "info,libp2p=warn", "off", "debug,h2=off", "info,[engine]=trace"] {
            level(good).unwrap();
        }
        for bad in ["verbose", "", "info,verbose", "info,libp2p=loud", "libp2p"] {
            let reported = level(bad).unwrap_err();
            assert!(reported.contains("  log.level: "), "{bad}: {reported}");
        }
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("secret");
        std::fs::write(&empty, " \n").unwrap();
        let reported = check(&format!(
            "[network]\nname = \"mainnet\"\n[nodes]\nurls = [\"http://x\"]\n\
             [[alerts.routes]]\nname = \"ops\"\nurl = \"http://x\"\nsecret_file = {empty:?}\n\
             [[watch.groups]]\nname = \"a\"\nkeys = [\"2\"]\nkill_switch = {{ url = \"http://x/\", secret_file = {empty:?} }}\n"
        ));
        let reported = reported.unwrap_err();
        assert!(reported.contains("  alerts.routes[0].secret_file: ") && reported.contains("is empty"), "{reported}");
        assert!(reported.contains("  watch.groups[0].kill_switch.secret_file: "), "{reported}");
    }

    #[test]
    fn misspelt_keys_are_named() {
        let reported = check("[nodes]\nurl = []\n[gosip]\n").unwrap_err();
        assert!(reported.contains("nodes.url:") && reported.contains("gosip:"), "{reported}");
    }
}
