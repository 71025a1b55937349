//! The command-line arguments. Their names and meanings are part of the contract with other
//! programs and do not change. Doc comments of this file are the texts of `--help`.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Configuration file that the `alert` and `killswitch` commands use if none is given.
pub const DEFAULT_CONFIG: &str = "slashwatch.toml";

/// Watches Ethereum's beacon chain for slashable messages as they happen, and proves what it finds.
#[derive(Parser)]
#[command(name = "slashwatch", version, about, propagate_version = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Runs the watcher until SIGINT or SIGTERM: it receives, judges, records, alerts and serves.
    ///
    /// `--network hoodi --checkpoint URL` needs no configuration file.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Runs the watcher against a simulated network with an incident: 75 keys that sign twice, as
    /// in February 2021, or the incident of any scenario.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Serves the API and the page of a recorded data directory, read only, until SIGINT or
    /// SIGTERM.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve {
        /// Data directory of `run` or `replay --data-dir`; no watcher may be using it.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Address of the page and the API; port 0 takes any free port.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5080")]
        listen: std::net::SocketAddr,
        /// Your own keys: groups in a .csv or .toml file, as in `watch.files`. The page then says
        /// which of them are concerned, and what the directory has of their kill switches.
        #[arg(long, value_name = "FILE")]
        watch: Vec<PathBuf>,
        /// Whoever reads needs a token, as with `api.read_needs_token`. `slashwatch token new`
        /// makes one.
        #[arg(long)]
        needs_token: bool,
    },
    /// Shows the state of a running watcher: head, peers, how much of the network and which of the
    /// own keys it hears first-hand, open incidents.
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Address of the watcher's API.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5080")]
        url: String,
        #[command(flatten)]
        api_token: ApiToken,
        /// Prints everything as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Sends capture or ERA files through the whole pipeline, as fast as possible.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
    /// Plays a scenario file into a capture, with simulated validators and real signatures.
    Simulate {
        /// One of scenarios/*.toml, or your own.
        #[arg(value_name = "SCENARIO.toml")]
        scenario: PathBuf,
        /// Capture file to write; `replay` reads it.
        #[arg(long, value_name = "FILE.e2s")]
        out: PathBuf,
        /// Writes what really happened, as JSON: the contradictions and the circumstances.
        #[arg(long, value_name = "FILE.json")]
        truth: Option<PathBuf>,
    },
    /// Records what the sources receive into a capture file, until SIGINT or SIGTERM.
    #[command(after_help = CAPTURE_EXAMPLES)]
    Capture {
        #[command(flatten)]
        run: RunArgs,
        /// Capture file to write; `replay` reads it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Fills a data directory with past blocks from a beacon node, peers or ERA files, judged like
    /// live traffic. It can be stopped and goes on where it was; no watcher may be using the
    /// directory.
    #[command(after_help = BACKFILL_EXAMPLES)]
    Backfill {
        /// ERA or capture files to read, instead of asking anybody, as `replay` does.
        #[arg(value_name = "FILE", conflicts_with_all = ["node", "from_peers", "from", "to"])]
        files: Vec<PathBuf>,
        #[command(flatten)]
        run: RunArgs,
        /// Data directory, if it is not that of the configuration.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Beacon node to ask, if it is not one of the configuration. Without --config this is
        /// enough.
        #[arg(long, value_name = "URL")]
        node: Vec<String>,
        /// Asks peers for the blocks, as far back as the state names them: 256 epochs on mainnet.
        #[arg(long)]
        from_peers: bool,
        /// First epoch; by default the last 256 epochs are filled.
        #[arg(long, value_name = "EPOCH")]
        from: Option<u64>,
        /// Last epoch; by default the finalized one, or that of the state.
        #[arg(long, value_name = "EPOCH")]
        to: Option<u64>,
    },
    /// Shows who is out there on a network: clients, versions, forks, and who can be reached.
    ///
    /// It asks nodes for other nodes (discv5), then visits each one of the network once, for a
    /// moment: agent string, status, metadata, goodbye. They see `slashwatch-crawl/VERSION`.
    /// Nothing is kept. Ctrl-C ends it with what was found.
    #[command(after_help = CRAWL_EXAMPLES)]
    Crawl {
        /// A built-in network, or the folder of any other one, with config.yaml, genesis.ssz and
        /// bootstrap_nodes.yaml or boot_enr.yaml.
        #[arg(long, value_name = "NAME or FOLDER", default_value = "mainnet")]
        network: String,
        /// Ends after this many seconds at the latest.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Prints one JSON object, with every node, instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows what is in a data directory, read only.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect {
        /// Data directory of the watcher, which may be running, or of `replay --data-dir`.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// `validator N`, or `finding ID`, or just the id; the beginning of one is enough.
        #[arg(value_name = "validator N or finding ID", num_args = 0..=2)]
        what: Vec<String>,
        /// Prints a finding as text. On a terminal this is done without it.
        #[arg(long, conflicts_with = "json")]
        text: bool,
        /// Prints a finding as JSON, with its proof. Everything else is JSON in any case, and so is
        /// a finding that goes to a file or another program.
        #[arg(long)]
        json: bool,
    },
    /// Writes the evidence pack of an incident, or a draft of a post-mortem: timeline, members,
    /// charts, evidence, penalties.
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// Data directory of the watcher, which may be running, or of `replay --data-dir`.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// First time, a slot or a time like 2020-08-14T13:10:00Z; without it the report begins
        /// with the first record.
        #[arg(long, value_name = "T")]
        from: Option<offline::report::TimeLimit>,
        /// Last time, in the same form; without it the report ends with the last record.
        #[arg(long, value_name = "T")]
        to: Option<offline::report::TimeLimit>,
        /// Writes the evidence pack of this incident instead, as a zip file: proofs and how to
        /// check them, whose keys, who is next, timeline, draft.
        /// `inspect` lists the ids; the beginning of one is enough.
        #[arg(long, value_name = "ID", conflicts_with_all = ["from", "to"])]
        incident: Option<String>,
        /// With --incident: the configuration with your groups, so that the pack says which of your
        /// keys are next.
        #[arg(long, value_name = "FILE", requires = "incident")]
        config: Option<PathBuf>,
        /// With --incident: your groups in a .csv or .toml file, as in `watch.files`, in place of
        /// --config. A rehearsal writes one, keys.csv in its data directory.
        #[arg(long, value_name = "FILE", requires = "incident", conflicts_with = "config")]
        watch: Vec<PathBuf>,
        /// File to write; its name ends in .html or .md, or in .zip for an incident.
        #[arg(long, value_name = "FILE.html, .md or .zip")]
        out: PathBuf,
    },
    /// Checks a proof of a slashing by itself, with another library for signatures than the
    /// watcher's. Exit code 0 if it is genuine, 1 if not.
    #[command(after_help = VERIFY_PROOF_EXAMPLES)]
    VerifyProof {
        /// An AttesterSlashing or a ProposerSlashing, as JSON or SSZ.
        file: PathBuf,
        /// Name of a public network, or a folder with config.yaml and genesis.ssz, or a data
        /// directory.
        #[arg(long, value_name = "NAME or FOLDER")]
        network: String,
        /// Public keys of the signers, such as keys.json of an evidence pack. Without it they are
        /// taken from the folder, or from keys.json beside the proof.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// Writes what is known in formats that other programs read.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export {
        #[command(subcommand)]
        what: Export,
    },
    /// Compares a validator client's record of what its keys signed (EIP-3076) with what was seen.
    /// Exit code 1 if the record lacks something. 0 does not say that the keys may start:
    /// `preflight` says that.
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit {
        /// Data directory of the watcher, which may be running, or of `replay --data-dir`.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        #[command(flatten)]
        record: RecordArgs,
        /// Exit code 1 if the file lacks something; this is also the case without this option.
        #[arg(long)]
        fail_on_finding: bool,
    },
    /// Says whether it is safe to start a set of keys now: nobody signed with them for two epochs,
    /// as far as the watcher heard, none of them is lost, and the record (EIP-3076) of the client
    /// that is to start has everything that was seen. Exit code 0 if it is safe, 1 if not.
    ///
    /// The watcher must run, and must have listened for two epochs without a break: what is not
    /// known is not safe.
    #[command(after_help = PREFLIGHT_EXAMPLES)]
    Preflight {
        /// Data directory of the watcher that runs.
        #[arg(long, value_name = "DIR", default_value = "slashwatch-data", conflicts_with = "watcher")]
        data_dir: PathBuf,
        /// Asks the API of the watcher that runs, such as http://10.0.0.7:5080, instead of reading
        /// its data directory: from the machine that is to sign. It takes up to 4 096 keys, and
        /// compares the record with the latest votes only.
        #[arg(long, value_name = "URL")]
        watcher: Option<String>,
        #[command(flatten)]
        api_token: ApiToken,
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Checks configuration files, and prints the default configuration.
    #[command(after_help = CONFIG_EXAMPLES)]
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Makes, lists and revokes tokens for the API: who may read where reading needs one, and who
    /// sees watched keys.
    #[command(after_help = TOKEN_EXAMPLES)]
    Token {
        #[command(subcommand)]
        action: TokenAction,
    },
    /// Measures what this machine can do.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Measures how many conflicts a listener hears, among full nodes on loopback that pass on the
    /// first vote only, as clients do.
    #[command(after_help = LAB_EXAMPLES)]
    Lab(LabArgs),
    /// Tests that alerts arrive, and shows what they look like.
    #[command(after_help = ALERT_EXAMPLES)]
    Alert {
        #[command(subcommand)]
        action: AlertAction,
    },
    /// Tests kill switches, and makes them ready again.
    #[command(after_help = KILLSWITCH_EXAMPLES)]
    Killswitch {
        #[command(subcommand)]
        action: KillswitchAction,
    },
    /// Asks five questions and writes a commented configuration with the answers.
    ///
    /// What is given as an option is offered as the answer. Without a terminal nothing is asked.
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Prints the completions of a shell.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions { shell: clap_complete::Shell },
    /// Prints the man page, or writes those of all commands into a folder.
    Man {
        /// Folder for slashwatch.1 and a page for each command.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

const RUN_EXAMPLES: &str = "Examples:
  slashwatch run --network hoodi --checkpoint https://a.example --checkpoint https://b.example
  slashwatch run --config slashwatch.toml";

const DEMO_EXAMPLES: &str = "Examples:
  slashwatch demo --stay
  slashwatch demo --scenario scenarios/medalla.toml --slot-ms 1000
  slashwatch demo --config slashwatch.toml --scenario rehearsal --data-dir night";

const SERVE_EXAMPLES: &str = "Examples:
  slashwatch serve --data-dir history
  slashwatch serve --data-dir history --watch keys.csv --listen 127.0.0.1:0";

const CAPTURE_EXAMPLES: &str = "Examples:
  slashwatch capture --network hoodi --checkpoint https://a.example --out today.e2s
  slashwatch capture --config slashwatch.toml --out today.e2s";

const BACKFILL_EXAMPLES: &str = "Examples:
  slashwatch backfill --node http://127.0.0.1:5052 --data-dir history
  slashwatch backfill --config slashwatch.toml --from-peers
  slashwatch backfill mainnet-01506-4781865b.era --network mainnet --data-dir history";

const CRAWL_EXAMPLES: &str = "Examples:
  slashwatch crawl --network hoodi --seconds 120
  slashwatch crawl --network mainnet --json";

const VERIFY_PROOF_EXAMPLES: &str = "Examples:
  slashwatch verify-proof 0x2f1c.json --network slashwatch-data
  slashwatch verify-proof proofs/0x2f1c.json --network .";

const TOKEN_EXAMPLES: &str = "Examples:
  slashwatch token new --scope watch --name dashboard --expires 90d --data-dir slashwatch-data
  slashwatch token list --data-dir slashwatch-data
  slashwatch token revoke dashboard --data-dir slashwatch-data";

const BENCH_EXAMPLES: &str = "Examples:
  slashwatch bench verify
  slashwatch bench index --validators 100000 --epochs 4
  slashwatch bench pipeline --validators 100000 --runs unpaced";

const LAB_EXAMPLES: &str = "Examples:
  slashwatch lab --nodes 40 --connections 8,25 --trials 20
  slashwatch lab --blocks --svg blocks.svg";

const REPLAY_EXAMPLES: &str = "Examples:
  slashwatch replay today.e2s --findings found.jsonl --evidence-dir proofs
  slashwatch replay mainnet-01506-4781865b.era --network mainnet --data-dir history";

const STATUS_EXAMPLES: &str = "Examples:
  slashwatch status
  slashwatch status --url http://10.0.0.5:5080 --json";

const INSPECT_EXAMPLES: &str = "Examples:
  slashwatch inspect --data-dir slashwatch-data
  slashwatch inspect --data-dir slashwatch-data validator 12345
  slashwatch inspect --data-dir slashwatch-data finding 0x2f1c";

const REPORT_EXAMPLES: &str = "Examples:
  slashwatch report --data-dir slashwatch-data --from 2026-11-28T00:00:00Z --out post-mortem.html
  slashwatch report --data-dir slashwatch-data --incident 0x2f1c --config slashwatch.toml --out pack.zip";

const EXPORT_EXAMPLES: &str = "Examples:
  slashwatch export interchange --data-dir slashwatch-data --validators 100-199,205 --minimal";

const AUDIT_EXAMPLES: &str = "Examples:
  slashwatch audit --data-dir slashwatch-data --interchange exported-by-the-client.json --validators 100-199";

const PREFLIGHT_EXAMPLES: &str = "Examples:
  slashwatch preflight --interchange exported-by-the-client.json --validators @keys.csv,group=acme-1
  slashwatch preflight --data-dir slashwatch-data --interchange exported-by-the-client.json --json
  slashwatch preflight --watcher http://10.0.0.7:5080 --interchange exported-by-the-client.json";

const CONFIG_EXAMPLES: &str = "Examples:
  slashwatch config check slashwatch.toml
  slashwatch config show-defaults";

const ALERT_EXAMPLES: &str = "Examples:
  slashwatch alert test ops --config slashwatch.toml";

const KILLSWITCH_EXAMPLES: &str = "Examples:
  slashwatch killswitch test ours --config slashwatch.toml
  slashwatch killswitch status --config slashwatch.toml
  slashwatch killswitch rearm ours --config slashwatch.toml";

const INIT_EXAMPLES: &str = "Examples:
  slashwatch init
  slashwatch init --network hoodi --node http://127.0.0.1:5052 --keys 100-199 --out slashwatch.toml";

const COMPLETIONS_EXAMPLES: &str = "Examples:
  slashwatch completions bash
  slashwatch completions zsh";

/// What the API of a watcher may ask for.
#[derive(clap::Args)]
pub struct ApiToken {
    /// A file with a token, if reading needs one there (`api.read_needs_token`).
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct InitArgs {
    /// File to write; it must not exist.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub out: PathBuf,
    /// A built-in network, or the folder of any other one.
    #[arg(long, value_name = "NAME or FOLDER", default_value = "mainnet")]
    pub network: String,
    /// REST addresses of your own beacon nodes.
    #[arg(long, value_name = "URL")]
    pub node: Vec<String>,
    /// Where the first state comes from without a node: endpoints for checkpoint sync, or a state
    /// file.
    #[arg(long, value_name = "URL or FILE")]
    pub checkpoint: Vec<String>,
    /// Your keys: indices, ranges (100-199), public keys, and .csv or .toml files as in
    /// `watch.files`, separated by commas.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub keys: Vec<String>,
    /// Name of the group of these keys.
    #[arg(long, value_name = "NAME", default_value = "ours")]
    pub group: String,
    /// Webhook that receives the alerts. The file with the secret that signs them is made beside
    /// the configuration.
    #[arg(long, value_name = "URL")]
    pub alert: Option<String>,
    /// What stops your validators on the first offence of one of the keys: a program (absolute
    /// path) and its arguments, each with this option, or an address.
    #[arg(long, value_name = "PROGRAM, ARGUMENT or URL")]
    pub kill_switch: Vec<String>,
    /// Folder of the index, the findings and the outbox.
    #[arg(long, value_name = "DIR", default_value = "slashwatch-data")]
    pub data_dir: PathBuf,
    /// Address of the page and the API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5080")]
    pub listen: std::net::SocketAddr,
}

/// Where the tokens of an API are.
#[derive(clap::Args)]
pub struct TokenDir {
    /// Data directory of the watcher, or one that is served; by default that of the configuration.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration of the watcher.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

#[derive(Subcommand)]
pub enum TokenAction {
    /// Makes a token and prints it, this once: only its hash is kept. A running watcher accepts it
    /// within a second.
    New {
        /// What it allows: `read`; `watch` for watched keys and groups too; `admin` for the
        /// addresses of nodes and peers too.
        #[arg(long)]
        scope: offline::tokens::Scope,
        /// Its name in `token list`; by default its scope and a number.
        #[arg(long)]
        name: Option<String>,
        /// How long it is valid, such as 90d or 12h; by default until it is revoked.
        #[arg(long, value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
        expires: Option<std::time::Duration>,
        #[command(flatten)]
        dir: TokenDir,
    },
    /// Shows names, scopes and how long they are valid.
    List {
        #[command(flatten)]
        dir: TokenDir,
    },
    /// Makes a token invalid. A running watcher refuses it within a second.
    Revoke {
        /// Its name in `token list`.
        name: String,
        #[command(flatten)]
        dir: TokenDir,
    },
}

#[derive(clap::Args)]
pub struct RunArgs {
    /// Configuration file; `slashwatch config show-defaults` prints an example. Without it the
    /// defaults hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A built-in network (mainnet, sepolia, hoodi, holesky, gnosis, chiado, plataberget), or the
    /// folder of any other one, with config.yaml and, if there are, genesis.ssz and
    /// bootstrap_nodes.yaml or boot_enr.yaml. It goes before the file.
    #[arg(long, value_name = "NAME or FOLDER")]
    pub network: Option<String>,
    /// Where the first state comes from: a beacon node, an endpoint for checkpoint sync, or a state
    /// file. Several addresses are compared, and two that disagree about the finalized block stop
    /// the start. It goes before the file.
    #[arg(long, value_name = "URL or FILE")]
    pub checkpoint: Vec<String>,
}

#[derive(clap::Args)]
pub struct DemoArgs {
    /// One of scenarios/*.toml or your own, played live; it defines the slots, the validators
    /// and the seed. `rehearsal` is built in.
    #[arg(long, value_name = "SCENARIO.toml", conflicts_with_all = ["slots", "validators", "seed"])]
    pub scenario: Option<PathBuf>,
    /// Number of slots; with the default the incident is over well before the end.
    #[arg(long, default_value_t = 24)]
    pub slots: u64,
    /// Length of a slot in milliseconds.
    #[arg(long, default_value_t = 2000)]
    pub slot_ms: u64,
    /// Number of simulated validators.
    #[arg(long, default_value_t = 256)]
    pub validators: u64,
    /// Address of the page and the API; port 0 takes any free port.
    #[arg(long, default_value = "127.0.0.1:5080")]
    pub listen: std::net::SocketAddr,
    /// Seed; the same seed makes the same network and the same offences again.
    #[arg(long, default_value_t = 2021)]
    pub seed: u64,
    /// Keeps the page up after the incident, until Ctrl-C.
    #[arg(long)]
    pub stay: bool,
    /// Folder for findings and index, instead of a temporary folder.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address that receives the findings, like an alert route; signed with the secret `demo`.
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// A rehearsal: the simulated keys are shared out among the groups of this configuration, its
    /// alert routes get the real messages, and its kill switches do a dry run, in which programs
    /// and addresses are told that it is a test, as by `killswitch test`. It prints which keys
    /// stand for which group, and writes them to keys.csv in the data directory. With `--scenario
    /// rehearsal` the machines stop after the offences, so that `preflight` and `killswitch rearm`
    /// can be tried too.
    #[arg(long, value_name = "FILE", conflicts_with = "webhook")]
    pub config: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct ReplayArgs {
    /// Capture files (.e2s) or ERA files, in the order in which they are to be read.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Folder that keeps index and findings over several runs; without it a temporary folder is
    /// used.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Writes all findings of the data directory, one JSON object per line; `-` is stdout.
    #[arg(long, value_name = "OUT.jsonl")]
    pub findings: Option<PathBuf>,
    /// Writes all incidents of the data directory, one JSON object per line.
    #[arg(long, value_name = "OUT.jsonl")]
    pub incidents: Option<PathBuf>,
    /// Writes each proof as `<evidence id>.ssz` and `.json`.
    #[arg(long, value_name = "DIR")]
    pub evidence_dir: Option<PathBuf>,
    /// Name of a built-in network, or a folder with config.yaml; for ERA files, which contain
    /// no configuration.
    #[arg(long, value_name = "NAME or DIR")]
    pub network: Option<String>,
    /// Groups and labels, a .csv or .toml file as in `watch.files`.
    #[arg(long, value_name = "FILE")]
    pub watch: Vec<PathBuf>,
    /// Exit code 1 if the data directory has any finding at the end, an offence or a single
    /// anomaly; incidents alone do not count.
    #[arg(long)]
    pub fail_on_finding: bool,
    /// Exit code 1 if messages were not judged because a state or blocks are missing.
    #[arg(long)]
    pub fail_on_unjudged: bool,
}

#[derive(Subcommand)]
pub enum Export {
    /// Writes an EIP-3076 file of what the network saw these keys sign, to stdout.
    Interchange {
        /// Data directory of the watcher, which may be running, or of `replay --data-dir`.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Indices, ranges (100-199), public keys and @FILE (the same, one or more per line),
        /// separated by commas. @FILE may also be a list of watched keys (.csv or .toml, as in
        /// `watch.files`), and `group=NAME` beside it takes one group of it.
        #[arg(long, value_name = "LIST")]
        validators: String,
        /// Writes only the highest slot, source and target of each key; this is smaller, and every
        /// client accepts it, even for keys that contradicted themselves.
        #[arg(long)]
        minimal: bool,
    },
}

#[derive(Subcommand)]
pub enum ConfigAction {
    /// Reports all problems of a file at once, each with its path in the file.
    Check {
        /// The file; `init` writes one.
        file: PathBuf,
        /// Checks the file together with this option of `run`.
        #[arg(long, value_name = "NAME or FOLDER")]
        network: Option<String>,
        /// The same.
        #[arg(long, value_name = "URL or FILE")]
        checkpoint: Vec<String>,
    },
    /// Prints every option with its default and the reason for it.
    ShowDefaults,
}

#[derive(Subcommand)]
pub enum AlertAction {
    /// Sends a test message to one route.
    Test {
        /// Name of the route, as under `alerts.routes`.
        route: String,
        /// Configuration of the watcher.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Shows the messages that a route would send, as text and as the body of a request, and sends
    /// nothing. Without a route: the text about a kind.
    Preview {
        /// Name of the route, as under `alerts.routes`.
        #[arg(required_unless_present = "kind")]
        route: Option<String>,
        /// Kind of finding, such as double_vote or slashing_wave.
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Configuration of the watcher.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum KillswitchAction {
    /// Runs the group's program or calls its address, and tells it that it is a test. Any other
    /// action looks for what it would stop, and stops nothing. A program that does not look at
    /// SLASHWATCH_TEST stops the validators.
    Test {
        /// Name of the group, as under `watch.groups`.
        group: String,
        /// Configuration of the watcher.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Says which switches have fired, how their orders ended, and whether the stopped keys are
    /// silent. It works beside a running watcher.
    Status {
        /// Data directory of the watcher. Without it, it is that of the configuration.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Configuration of the watcher. Without it and --data-dir, it is slashwatch.toml.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Makes a switch that fired ready again and removes its lock file, whether a watcher runs or
    /// not. It is refused while keys of the group still sign after the stop, and if the lock file
    /// is there although the data directory knows of no stop.
    Rearm {
        /// Name of the group, as under `watch.groups`.
        group: String,
        /// Makes it ready although keys of the group still sign, or the lock file is of a stop that
        /// the data directory does not know.
        #[arg(long)]
        force: bool,
        /// Data directory of the watcher. Without it, it is that of the configuration.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Configuration of the watcher. Without it and --data-dir, it is slashwatch.toml.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum Bench {
    /// Measures the vote index: CPU, growth, memory and latencies for a network of this size.
    Index(BenchIndex),
    /// Measures signature checking: CPU per vote, compared with the lower bound from the same run.
    Verify(BenchVerify),
    /// Measures the whole pipeline under mainnet's load: unpaced from a capture, then in real time.
    Pipeline(BenchPipeline),
    /// Measures event streams: from the record of a finding to its arrival on each of many streams.
    Streams(BenchStreams),
    /// Runs one process of `bench pipeline`.
    #[command(hide = true)]
    Part {
        /// What the process does, as JSON.
        options: String,
    },
}

/// Output form of a report.
#[derive(Clone, Copy, clap::Args)]
pub struct ReportForm {
    /// Prints one JSON object on one line, with the fields that programs rely on.
    #[arg(long)]
    pub json: bool,
    /// With --json: prints everything that was measured, as without --json.
    #[arg(long)]
    pub details: bool,
}

#[derive(clap::Args)]
pub struct BenchVerify {
    /// Number of single votes, all of one slot.
    #[arg(long, default_value_t = 31_250)]
    pub votes: u64,
    /// Number of different attestation data among them.
    #[arg(long, default_value_t = 1)]
    pub distinct_data: u64,
    #[command(flatten)]
    pub form: ReportForm,
}

#[derive(clap::Args)]
pub struct BenchStreams {
    /// Streams that are open at once.
    #[arg(long, default_value_t = 2000, value_parser = at_least::<1>)]
    pub streams: usize,
    /// Findings that are recorded one by one, each after the one before has arrived everywhere.
    #[arg(long, default_value_t = 20)]
    pub singles: u64,
    /// Findings that are then recorded as fast as the store takes them.
    #[arg(long, default_value_t = 150)]
    pub burst: u64,
    #[command(flatten)]
    pub form: ReportForm,
}

/// A validator client's record of what its keys signed, and how it is judged.
#[derive(clap::Args)]
pub struct RecordArgs {
    /// The interchange file (EIP-3076), exported by the validator client after it was stopped.
    #[arg(long, value_name = "FILE")]
    pub interchange: PathBuf,
    /// Keys that must be in the file, in the form of `export interchange`. Without it, keys that
    /// the file has lost are not noticed. With it, `preflight` judges no other keys of the file.
    #[arg(long, value_name = "LIST")]
    pub validators: Option<String>,
    /// Says that the client prunes its record: messages that are older than the record do not count
    /// as lacking.
    #[arg(long)]
    pub pruned_ok: bool,
    /// Prints the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How messages reach the watcher in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Over {
    /// Passed on inside the watcher's process.
    Memory,
    /// Published over loopback by another process.
    Libp2p,
}

/// Which of the two runs are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runs {
    Both,
    /// As fast as possible, from a capture.
    Unpaced,
    /// In real time.
    Paced,
}

#[derive(clap::Args)]
pub struct BenchPipeline {
    /// Validators that vote; at least one per slot of an epoch.
    #[arg(long, default_value_t = 1_000_000, value_parser = at_least::<32>)]
    pub validators: usize,
    /// Validators in the registry, including those that have left; without it, as many as vote.
    #[arg(long)]
    pub registered: Option<usize>,
    /// Slots that are measured, after one warm-up slot.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub slots: u64,
    /// Number of copies in which each honest message arrives (memory); over libp2p each of two
    /// publishers sends everything.
    #[arg(long, default_value_t = 2)]
    pub copies: u32,
    /// Forged votes for 100 honest ones.
    #[arg(long, default_value_t = 0)]
    pub forged: u32,
    /// Number of peers that send the forged votes.
    #[arg(long, default_value_t = 4)]
    pub forgers: u32,
    /// Junk messages for 100 honest votes.
    #[arg(long, default_value_t = 0)]
    pub junk: u32,
    /// Validators that vote twice.
    #[arg(long, default_value_t = 100)]
    pub offenders: usize,
    /// Validators that sign a vote which another of their votes surrounds; only with fewer than 31
    /// slots.
    #[arg(long, default_value_t = 0)]
    pub surrounders: usize,
    #[arg(long, value_enum, default_value_t = Over::Memory)]
    pub over: Over,
    /// Peers that dial the watcher and send what a network of nodes would have them send, in place
    /// of the two publishers; only over libp2p.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub connections: usize,
    #[arg(long, value_enum, default_value_t = Runs::Both)]
    pub runs: Runs,
    /// Percentage of the single votes that are verified so that they may be forwarded, in real
    /// time.
    #[arg(long, default_value_t = 100)]
    pub forward_percent: u8,
    /// Seconds from the start of the watcher to genesis, in real time; they must be enough for
    /// loading.
    #[arg(long)]
    pub lead_seconds: Option<u64>,
    /// Seed; the same seed makes the same load again.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for load and data; without it a temporary folder is used and removed afterwards.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub form: ReportForm,
}

#[derive(clap::Args)]
pub struct LabArgs {
    /// Full nodes. Three quarters of them are on the subnet, the others publish there.
    #[arg(long, default_value_t = 100)]
    pub nodes: usize,
    /// Connections of each listener.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "8,25,50,100")]
    pub connections: Vec<usize>,
    /// Listeners of a network. The records of 1, 2, 4 .. of them are added up.
    #[arg(long, default_value_t = 4)]
    pub posts: usize,
    /// Times between the two votes of a conflict, in milliseconds.
    #[arg(long, value_name = "MS,...", value_delimiter = ',', default_value = "0,50,100,300,5000")]
    pub skews: Vec<u64>,
    /// Conflicts of each skew, in each of the networks: two for each number of connections. Ten
    /// conflicts are played in a second.
    #[arg(long, default_value_t = 50)]
    pub trials: usize,
    /// How many times all is played, each time with other connections and publishers.
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Plays double proposals in place of double votes, and measures the chase too: asking the
    /// sender of a vote for the block that it names.
    #[arg(long)]
    pub blocks: bool,
    /// Instead of all this, measures what the choice of peers is worth: a listener with fewer
    /// places than there are nodes finds them, gives them turns and keeps whom the watcher's rule
    /// says, beside one that keeps who came first and one that keeps any. About a quarter of an
    /// hour.
    #[arg(long, conflicts_with_all = ["connections", "posts", "skews", "trials", "rounds", "blocks", "svg", "minutes"])]
    pub weighing: bool,
    /// Instead of all this, measures how soon a listener that knows one boot node finds all nodes
    /// by discv5.
    #[arg(long, conflicts_with_all = ["connections", "posts", "skews", "trials", "rounds", "blocks", "svg", "minutes", "weighing"])]
    pub discover: bool,
    /// Instead of all this, plays an adversary that inflates the figure of the stake that is heard
    /// first-hand, by forwarding the votes of others. About ten minutes.
    #[arg(
        long,
        conflicts_with_all = ["connections", "posts", "skews", "trials", "rounds", "blocks", "svg", "minutes", "weighing", "discover"]
    )]
    pub inflation: bool,
    /// Peers of the listener, with --weighing and --inflation.
    #[arg(long, default_value_t = 25)]
    pub places: usize,
    /// Instead of all this, runs a watcher for so many minutes among that many peers, a quarter of
    /// them hostile and a quarter of them coming and going, and prints a line for each minute. The
    /// network is split for a quarter of the time. Exit code 1 if an honest node left the watcher.
    #[arg(long, value_name = "N", conflicts_with_all = ["connections", "posts", "skews", "trials", "rounds", "blocks", "svg"])]
    pub minutes: Option<u64>,
    /// Seed of delays, clients, connections and publishers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Draws what one listener heard into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Prints one JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub struct BenchIndex {
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub validators: u32,
    /// Epochs that are measured, after one warm-up epoch.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub batches_per_slot: u32,
    /// Percentage of validators that vote in an epoch; a value up to 1 is read as a share.
    #[arg(long, default_value_t = 99.5, value_parser = percent)]
    pub participation: f64,
    /// Percentage of votes for another head.
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    pub minority: f64,
    /// Form of the votes: singles, aggregates or blocks.
    #[arg(long, default_value = "singles")]
    pub shape: index::bench::VoteShape,
    /// Epochs between source and target.
    #[arg(long, default_value_t = 1)]
    pub source_distance: u64,
    /// Epochs without any vote between the warm-up and the rest.
    #[arg(long, default_value_t = 0)]
    pub absent_epochs: u64,
    /// Fills history: whole epochs, one per commit, before those that are stored.
    #[arg(long)]
    pub bulk: bool,
    /// Also runs loads with these source distances next to a plain one, and prints their CPU time
    /// relative to it.
    #[arg(long, value_name = "D,...", value_delimiter = ',')]
    pub compare_distance: Vec<u64>,
    /// The same for loads in which everybody returns after this many absent epochs.
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub compare_absent: Vec<u64>,
    /// Folder for the index; without it a temporary folder is used.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub form: ReportForm,
}

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "write a number from 0 to 100".to_owned())?;
    if (0.0..=100.0).contains(&value) { Ok(value) } else { Err("write a number from 0 to 100".into()) }
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "write a whole number".to_owned())?;
    if value >= LEAST { Ok(value) } else { Err(format!("it must be at least {LEAST}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_examples_of_the_help_are_valid() {
        let command = Args::command();
        let mut n_examples = 0;
        for subcommand in command.get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            for example in help.lines().filter(|line| line.starts_with("  ")) {
                assert_eq!(example.split_whitespace().nth(1), Some(subcommand.get_name()), "{example}");
                if let Err(error) = Args::try_parse_from(example.split_whitespace()) {
                    panic!("{example}: {error}");
                }
                n_examples += 1;
            }
        }
        assert!(n_examples >= 20, "only {n_examples} examples");
    }
}
