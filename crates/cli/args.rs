//! The arguments, as in the contract with outside programs: names and meanings are fixed.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Where a configuration is looked for by commands that need not be told.
const DEFAULT_CONFIG: &str = "slashwatch.toml";

/// Watches Ethereum's beacon chain for slashable messages as they happen, and proves what it finds.
#[derive(Parser)]
#[command(name = "slashwatch", version, about, propagate_version = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// The watcher: listens, judges, records, alerts, serves, until SIGINT or SIGTERM.
    Run {
        /// Configuration file; `slashwatch config show-defaults` prints one.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The watcher against a simulated network with an incident in it: 75 keys signing twice, as in February 2021, or any scenario.
    Demo {
        /// One of scenarios/*.toml, or your own, played live; it says how many slots, which validators, and the seed.
        #[arg(long, value_name = "SCENARIO.toml", conflicts_with_all = ["slots", "validators", "seed"])]
        scenario: Option<PathBuf>,
        /// Slots to run; the incident is over well before the default ends.
        #[arg(long, default_value_t = 24)]
        slots: u64,
        /// Length of a slot.
        #[arg(long, default_value_t = 2000)]
        slot_ms: u64,
        /// Simulated validators.
        #[arg(long, default_value_t = 256)]
        validators: u64,
        /// Where the page and the API are served; port 0 takes any free one.
        #[arg(long, default_value = "127.0.0.1:5080")]
        listen: std::net::SocketAddr,
        /// Makes the same network and the same crimes again.
        #[arg(long, default_value_t = 2021)]
        seed: u64,
        /// Keeps the page up after the incident, until Ctrl-C.
        #[arg(long)]
        stay: bool,
        /// Keeps findings and index here instead of a temporary folder.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Is told of what is found, as an alert route is; signed with the secret `demo`.
        #[arg(long, value_name = "URL")]
        webhook: Option<String>,
    },
    /// API and page over a recorded data directory, read only, until SIGINT or SIGTERM.
    Serve {
        /// As `run` or `replay --data-dir` left it. No watcher may be using it.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Where the page and the API are served; port 0 takes any free one.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5080")]
        listen: std::net::SocketAddr,
    },
    /// Capture or ERA files through the whole pipeline, as fast as it goes.
    Replay {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Keeps index and findings here, over several runs; without it a temporary folder is used.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Writes all findings of the data directory, one JSON object a line; `-` is stdout.
        #[arg(long, value_name = "OUT.jsonl")]
        findings: Option<PathBuf>,
        /// Writes incidents, one JSON object a line.
        #[arg(long, value_name = "OUT.jsonl")]
        incidents: Option<PathBuf>,
        /// Writes each proof as `<evidence id>.ssz` and `.json`.
        #[arg(long, value_name = "DIR")]
        evidence_dir: Option<PathBuf>,
        /// A built-in network's name, or a folder with config.yaml: for ERA files, which carry none.
        #[arg(long, value_name = "NAME or DIR")]
        network: Option<String>,
        /// Groups and labels, a .csv or .toml as in `watch.files`.
        #[arg(long, value_name = "FILE")]
        watch: Vec<PathBuf>,
        /// Exit code 1 if the data directory holds any finding at the end, an offence or a single anomaly; incidents alone do not count.
        #[arg(long)]
        fail_on_finding: bool,
    },
    /// Plays a scenario file into a capture: simulated validators, real signatures.
    Simulate {
        /// One of scenarios/*.toml, or your own.
        #[arg(value_name = "SCENARIO.toml")]
        scenario: PathBuf,
        /// The capture to write; `replay` reads it.
        #[arg(long, value_name = "FILE.e2s")]
        out: PathBuf,
        /// Writes what really happened: contradictions and circumstances, JSON.
        #[arg(long, value_name = "FILE.json")]
        truth: Option<PathBuf>,
    },
    /// Records what the sources hear into a capture file, until SIGINT or SIGTERM.
    Capture {
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Read-only look at a data directory.
    Inspect {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// `validator N`, or `finding ID`, or just the id.
        #[arg(value_name = "validator N or finding ID", num_args = 0..=2)]
        what: Vec<String>,
    },
    /// A draft of a post-mortem: timeline, members, charts, evidence, penalties.
    Report {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// A slot, or a time like 2020-08-14T13:10:00Z; everything if not given.
        #[arg(long, value_name = "T")]
        from: Option<offline::report::Moment>,
        #[arg(long, value_name = "T")]
        to: Option<offline::report::Moment>,
        /// A name that ends in .html or .md.
        #[arg(long, value_name = "FILE.html or .md")]
        out: PathBuf,
    },
    /// Writes what is known in forms that others read.
    Export {
        #[command(subcommand)]
        what: Export,
    },
    /// Compares a validator client's record of what its keys signed (EIP-3076) with what was seen. Exit code 1 if it lacks something.
    Audit {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The interchange file, exported by the validator client after it was stopped.
        #[arg(long, value_name = "FILE")]
        interchange: PathBuf,
        /// The report as one JSON object.
        #[arg(long)]
        json: bool,
        /// Exit code 1 if the file lacks something, which is so without it too.
        #[arg(long)]
        fail_on_finding: bool,
    },
    /// Looks at configuration files.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// What this machine can do.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Proves that alerts arrive.
    Alert {
        #[command(subcommand)]
        action: AlertAction,
    },
    /// Proves that kill switches work, and makes them ready again.
    Killswitch {
        #[command(subcommand)]
        action: KillswitchAction,
    },
}

#[derive(Subcommand)]
pub enum Export {
    /// An EIP-3076 file of what the network saw these keys sign, to stdout.
    Interchange {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Indices, ranges (100-199), public keys and @FILE (the same, one or more a line), separated by commas.
        #[arg(long, value_name = "LIST")]
        validators: String,
        /// Highest slot, source and target of each key only: smaller, and taken by every client also of keys that contradicted themselves.
        #[arg(long)]
        minimal: bool,
    },
}

#[derive(Subcommand)]
pub enum ConfigAction {
    /// All problems of a file at once, with their path in it.
    Check { file: PathBuf },
    /// Every option with its default and reason.
    ShowDefaults,
}

#[derive(Subcommand)]
pub enum AlertAction {
    /// Sends a test message to one route.
    Test {
        route: String,
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum KillswitchAction {
    /// Runs the group's program or calls its address, told that it is a test.
    Test {
        group: String,
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Lets a switch that fired fire again, beside a running watcher or without one.
    Rearm {
        group: String,
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum Bench {
    /// The vote index: CPU, growth, memory and latencies for a network of this size.
    Index(BenchIndex),
    /// Signature checking: CPU per vote, against the floor of the same run.
    Verify(BenchVerify),
    /// The whole pipeline under mainnet's load: unpaced from a capture, then in real time.
    Pipeline(BenchPipeline),
    /// One process of `bench pipeline`.
    #[command(hide = true)]
    Part {
        /// What it is to do, as JSON.
        options: String,
    },
}

/// How a report is printed.
#[derive(Clone, Copy, clap::Args)]
pub struct ReportForm {
    /// One JSON object on one line, with the fields that programs rely on.
    #[arg(long)]
    pub json: bool,
    /// With --json: everything that was measured, as without it.
    #[arg(long)]
    pub details: bool,
}

#[derive(clap::Args)]
pub struct BenchVerify {
    /// Single votes, all of one slot.
    #[arg(long, default_value_t = 31_250)]
    pub votes: u64,
    /// Different data among them.
    #[arg(long, default_value_t = 1)]
    pub distinct_data: u64,
    #[command(flatten)]
    pub form: ReportForm,
}

/// By which way messages reach the watcher in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Over {
    /// Handed over inside the watcher's process.
    Memory,
    /// Published over loopback by another process.
    Libp2p,
}

/// Which of its two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runs {
    Both,
    /// As fast as it goes, from a capture.
    Unpaced,
    /// In real time.
    Paced,
}

#[derive(clap::Args)]
pub struct BenchPipeline {
    /// Validators that vote; at least one per slot of an epoch.
    #[arg(long, default_value_t = 1_000_000, value_parser = at_least::<32>)]
    pub validators: usize,
    /// Validators in the registry, those that have left included; as many as vote if not given.
    #[arg(long)]
    pub registered: Option<usize>,
    /// Slots measured, after one that warms up.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub slots: u64,
    /// In how many copies each honest message arrives (memory); over libp2p each of two publishers sends everything.
    #[arg(long, default_value_t = 2)]
    pub copies: u32,
    /// Forged votes for 100 honest ones.
    #[arg(long, default_value_t = 0)]
    pub forged: u32,
    /// Peers that share the forging.
    #[arg(long, default_value_t = 4)]
    pub forgers: u32,
    /// Junk for 100 honest votes.
    #[arg(long, default_value_t = 0)]
    pub junk: u32,
    /// Validators that vote twice.
    #[arg(long, default_value_t = 100)]
    pub offenders: usize,
    /// Validators that sign a vote which another of theirs surrounds; only with fewer than 31 slots.
    #[arg(long, default_value_t = 0)]
    pub surrounders: usize,
    #[arg(long, value_enum, default_value_t = Over::Memory)]
    pub over: Over,
    #[arg(long, value_enum, default_value_t = Runs::Both)]
    pub runs: Runs,
    /// Share of single votes that are proven so that they may be forwarded, in real time.
    #[arg(long, default_value_t = 100)]
    pub forward_percent: u8,
    /// Seconds from the start of the watcher in real time to genesis; must suffice for loading.
    #[arg(long)]
    pub lead_seconds: Option<u64>,
    /// Makes the same load again.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keeps load and data here; a temporary folder, removed afterwards, if not given.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub form: ReportForm,
}

#[derive(clap::Args)]
pub struct BenchIndex {
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub validators: u32,
    /// Epochs measured, after one that warms up.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub batches_per_slot: u32,
    /// Percent of validators that vote in an epoch; up to 1 it is a share.
    #[arg(long, default_value_t = 99.5, value_parser = percent)]
    pub participation: f64,
    /// Percent of votes for another head.
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    pub minority: f64,
    /// singles, aggregates or blocks.
    #[arg(long, default_value = "singles")]
    pub shape: index::bench::VoteShape,
    /// Epochs between source and target.
    #[arg(long, default_value_t = 1)]
    pub source_distance: u64,
    /// Epochs without any vote between the warm-up and the rest.
    #[arg(long, default_value_t = 0)]
    pub absent_epochs: u64,
    /// Fill history: whole epochs, one per commit, before those that are stored.
    #[arg(long)]
    pub bulk: bool,
    /// Also run loads with these source distances side by side with a plain one, and print their CPU time against it.
    #[arg(long, value_name = "D,...", value_delimiter = ',')]
    pub compare_distance: Vec<u64>,
    /// The same with everybody returning after so many absent epochs.
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub compare_absent: Vec<u64>,
    /// Where to put the index; a temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub form: ReportForm,
}

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "a number from 0 to 100 is wanted".to_owned())?;
    if (0.0..=100.0).contains(&value) { Ok(value) } else { Err("it goes from 0 to 100".into()) }
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "a whole number is wanted".to_owned())?;
    if value >= LEAST { Ok(value) } else { Err(format!("it must be at least {LEAST}")) }
}
