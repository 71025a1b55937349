//! One function per command. It takes the arguments, calls the library, and prints the answer.

mod bench;
mod demo;
mod history;
mod init;
mod inspect;
mod lab;
mod manual;
mod progress;
mod report;
mod simulate;

use crate::args::{
    AlertAction, Args, Bench, Command, ConfigAction, DEFAULT_CONFIG, Export, KillswitchAction, ReplayArgs, RunArgs, TokenAction,
    TokenDir,
};
use crate::exit::{FAILED, UsageError};
use crate::output;
use anyhow::Context as _;
use consensus::Epoch;
use indicatif::{ProgressBar, ProgressStyle};
use offline::actions::Rearm;
use offline::backfill::{BackfillRange, BlocksFrom};
use offline::counted;
use offline::replay::{Replay, ReplayOptions, ReplayStep, ReplaySummary};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use watcher::config::{CommandLine, Config, LogConfig, LogFormat};
use watcher::history::Form;

/// Runs a command and returns the exit code.
pub fn run(args: Args) -> anyhow::Result<u8> {
    match args.command {
        Command::Run(options) => {
            let config = load(options, Vec::new())?;
            watcher::run::run(config, stop_signal)?;
            Ok(0)
        }
        Command::Capture { run, out } => {
            let config = load(run, Vec::new())?;
            let summary = offline::capture::capture(config, &out, stop_signal)?;
            eprintln!("{}: {summary}", out.display());
            Ok(0)
        }
        Command::Backfill { files, run, data_dir, node, from_peers, from, to } => {
            let network = run.network.clone();
            // Files bring a state with them, so nothing else has to be configured.
            let mut config = match files.is_empty() || run.config.is_some() {
                true => load(run, node)?,
                false => Config::default(),
            };
            config.data_dir = data_dir.unwrap_or(config.data_dir);
            if !files.is_empty() {
                let options = ReplayOptions {
                    files,
                    data_dir: config.data_dir,
                    network,
                    history_epochs: config.index.history_epochs,
                    detect: config.detect,
                    watch: config.watch,
                    ..ReplayOptions::default()
                };
                replay_files(options, |_| Ok(()))?;
                return Ok(0);
            }
            let range = BackfillRange { from: from.map(Epoch::new), to: to.map(Epoch::new) };
            backfill(&config, range, if from_peers { BlocksFrom::Peers } else { BlocksFrom::Nodes })
        }
        Command::Crawl { network, seconds, json } => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            crawl(&network, Duration::from_secs(seconds), json)
        }
        Command::Replay(args) => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            replay(args)
        }
        Command::Demo(args) => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            demo::demo(args)
        }
        Command::Serve { data_dir, listen, watch, needs_token } => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            offline::serve::serve(&data_dir, &watch, listen, needs_token, stop_signal, |address| {
                // The reader of this line may be gone. That is no reason to stop serving others.
                if let Err(error) = output::line(format!("page and API: http://{address}")) {
                    tracing::warn!(%error, %address, "the address of page and API cannot be written to stdout");
                }
            })?;
            Ok(0)
        }
        Command::Status { url, api_token, json } => {
            let api = offline::ApiClient::new(&url, "--url", api_token.token_file.as_deref())?;
            let state = offline::status::read(&api)?;
            if json {
                output::line(state.to_json())?
            } else {
                output::text(state.to_text())?
            }
            Ok(0)
        }
        Command::Report { data_dir, incident: Some(incident), config, watch, out, .. } => {
            report::pack(&data_dir, &incident, config.as_deref(), watch, &out)
        }
        Command::Report { data_dir, from, to, incident: None, out, .. } => report::report(&data_dir, from, to, &out),
        Command::VerifyProof { file, network, keys } => verify_proof(&file, &network, keys.as_deref()),
        Command::Lab(args) => lab::lab(args),
        Command::Simulate { scenario, out, truth } => simulate::simulate(&scenario, &out, truth.as_deref()),
        Command::Inspect { data_dir, what, text, json } => {
            inspect::inspect(&data_dir, &what, text || !json && std::io::stdout().is_terminal())
        }
        Command::Export { what: Export::Interchange { data_dir, validators, minimal } } => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            history::export(&data_dir, &validators, if minimal { Form::Minimal } else { Form::Complete })
        }
        Command::Audit { data_dir, record, fail_on_finding: _ } => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            history::audit(&data_dir, &record)
        }
        Command::Preflight { data_dir, watcher, api_token, record } => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            match watcher {
                Some(url) => {
                    let api = offline::ApiClient::new(&url, "--watcher", api_token.token_file.as_deref())?;
                    history::preflight_by_api(&api, &record)
                }
                None => history::preflight(&data_dir, &record),
            }
        }
        Command::Config { action: ConfigAction::ShowDefaults } => {
            output::text(Config::defaults_toml())?;
            Ok(0)
        }
        Command::Config { action: ConfigAction::Check { file, network, checkpoint } } => {
            let options = CommandLine { network, checkpoints: checkpoint, nodes: Vec::new() };
            let config = Config::load_with(Some(&file), &options)?;
            for warning in config.warnings() {
                eprintln!("warning: {}: {}", warning.path, warning.text);
            }
            let notes = offline::list_notes(&config)?;
            notes.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("{} is valid", file.display());
            offline::unprotected_members(&config, None).iter().for_each(|line| eprintln!("{line}"));
            Ok(0)
        }
        Command::Token { action } => token(action),
        Command::Bench { what: Bench::Index(options) } => bench::index(options),
        Command::Bench { what: Bench::Verify(options) } => bench::verify(&options),
        Command::Bench { what: Bench::Pipeline(options) } => bench::pipeline(&options),
        Command::Bench { what: Bench::Streams(options) } => bench::streams(&options),
        Command::Bench { what: Bench::Part { options } } => {
            log_to_stderr(&LogConfig { level: "warn".into(), format: LogFormat::Text })?;
            bench::part(&options)
        }
        Command::Alert { action: AlertAction::Test { route, config } } => {
            let config = Config::load(&config)?;
            let answer = offline::actions::test_alert(&config, &route)?;
            output::line(answer)?;
            Ok(0)
        }
        Command::Alert { action: AlertAction::Preview { route, kind, config } } => {
            let config = route.is_some().then(|| Config::load(&config)).transpose()?;
            let kind = kind.as_deref().unwrap_or("double_vote");
            output::line(offline::actions::preview_alert(config.as_ref(), route.as_deref(), kind)?)?;
            Ok(0)
        }
        Command::Killswitch { action: KillswitchAction::Test { group, config } } => {
            let config = Config::load(&config)?;
            offline::unprotected_members(&config, Some(&group)).iter().for_each(|line| eprintln!("{line}"));
            output::line(offline::actions::test_switch(&config, &group)?)?;
            Ok(0)
        }
        Command::Killswitch { action: KillswitchAction::Status { data_dir, config } } => {
            let config = load_for(data_dir.as_deref(), config)?;
            let data_dir = data_dir.or(config.map(|config| config.data_dir)).unwrap_or_default();
            for line in offline::actions::switch_status(&data_dir)? {
                output::line(line)?;
            }
            Ok(0)
        }
        Command::Killswitch { action: KillswitchAction::Rearm { group, force, data_dir, config } } => {
            let path = config.clone();
            let config = load_for(data_dir.as_deref(), config)?;
            let rearm = Rearm { group: &group, is_forced: force, data_dir: data_dir.as_deref(), config: config.as_ref() };
            let place = || path.map_or_else(|| DEFAULT_CONFIG.to_owned(), |path| path.display().to_string());
            output::line(if config.is_some() { rearm.run().with_context(place)? } else { rearm.run()? })?;
            Ok(0)
        }
        Command::Init(args) => init::init(args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { out } => manual::man(out.as_deref()),
    }
}

/// Loads the configuration that is given, or the usual one if no data directory is given either.
fn load_for(data_dir: Option<&Path>, config: Option<PathBuf>) -> anyhow::Result<Option<Config>> {
    let path = config.or_else(|| data_dir.is_none().then(|| PathBuf::from(DEFAULT_CONFIG)));
    Ok(path.map(|path| Config::load(&path)).transpose()?)
}

/// Makes, lists or revokes tokens. Only the token itself goes to stdout when one is made.
fn token(action: TokenAction) -> anyhow::Result<u8> {
    match action {
        TokenAction::New { scope, name, expires, dir } => {
            let (token, about) = offline::tokens::create(&data_dir_of(dir)?, scope, name.as_deref(), expires)?;
            eprintln!("{about}");
            output::line(token)?;
        }
        TokenAction::List { dir } => output::text(offline::tokens::list(&data_dir_of(dir)?)?)?,
        TokenAction::Revoke { name, dir } => eprintln!("{}", offline::tokens::revoke(&data_dir_of(dir)?, &name)?),
    }
    Ok(0)
}

fn data_dir_of(dir: TokenDir) -> anyhow::Result<PathBuf> {
    Ok(match dir.data_dir {
        Some(dir) => dir,
        None => Config::load(&dir.config)?.data_dir,
    })
}

/// Prints what a proof shows. The exit code is 1 if it is not genuine.
fn verify_proof(file: &Path, network: &str, keys: Option<&Path>) -> anyhow::Result<u8> {
    match offline::verify_proof::verify_proof(file, network, keys)? {
        Ok(proof) => {
            output::line(&proof)?;
            Ok(0)
        }
        Err(reason) => {
            output::line(format_args!("NOT genuine: {reason}"))?;
            Ok(FAILED)
        }
    }
}

fn load(options: RunArgs, nodes: Vec<String>) -> anyhow::Result<Config> {
    let RunArgs { config, network, checkpoint } = options;
    let config = Config::load_with(config.as_deref(), &CommandLine { network, checkpoints: checkpoint, nodes })?;
    log_to_stderr(&config.log)?;
    for warning in config.warnings() {
        tracing::warn!(option = warning.path, "{}", warning.text);
    }
    Ok(config)
}

fn backfill(config: &Config, range: BackfillRange, from: BlocksFrom) -> anyhow::Result<u8> {
    let bar = progress::bar("filling", "slots");
    let summary = offline::backfill::backfill(config, range, from, stop_signal, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    eprintln!(
        "{} of {} done ({} before), {} now",
        summary.done + summary.done_before,
        counted(summary.slots, "slot", "slots"),
        summary.done_before,
        counted(summary.blocks, "block", "blocks")
    );
    for (outcome, count) in &summary.judged.outcomes {
        eprintln!("  {count:>8}  {outcome}");
    }
    eprintln!(
        "{} in the directory ({} new)",
        counted(summary.judged.findings, "finding", "findings"),
        summary.judged.new_findings
    );
    if summary.without_blocks > 0 {
        let slots = counted(summary.without_blocks, "slot", "slots");
        match from {
            BlocksFrom::Nodes => eprintln!(
                "the nodes have no blocks of {slots}: ask one that was synced from genesis or keeps old blocks (--node URL), with the same command"
            ),
            BlocksFrom::Peers => eprintln!(
                "no peer has sent the blocks of {slots}: the same command asks again; a node that keeps old blocks may have them (--node URL)"
            ),
        }
        return Ok(FAILED);
    }
    if summary.done + summary.done_before < summary.slots {
        eprintln!("stopped before the end; the same command goes on from here");
        return Ok(FAILED);
    }
    Ok(0)
}

fn crawl(network: &str, duration: Duration, json: bool) -> anyhow::Result<u8> {
    let bar = progress::bar("visiting", "nodes");
    let report = watcher::crawl::crawl(network, duration, stop_signal(), |progress| {
        bar.set_length(progress.to_visit as u64);
        bar.set_position(progress.visited as u64);
    })?;
    bar.finish_and_clear();
    if json {
        output::line(serde_json::to_string_pretty(&report)?)?;
    } else {
        output::text(&report)?;
    }
    Ok(0)
}

/// The thread that writes the log. Dropped, it writes what still waits.
static LOG: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Writes what the log still has to say.
pub(crate) fn flush_log() {
    drop(LOG.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn log_to_stderr(config: &LogConfig) -> anyhow::Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| config.level.clone());
    // What a stranger can cause must not fill the log: gossipsub tells each GRAFT that comes too
    // soon and, as an error, each subscription that is refused, request-response each request over
    // the limit, and discv5 each packet that it cannot read. A filter from the user that names one
    // of these targets overrides this default.
    let level = format!("libp2p_gossipsub=off,libp2p_request_response=error,discv5=error,{level}");
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| UsageError(format!("log.level {level:?}: {error}; write it as in \"info\"")))?;
    // A thread of its own writes, and lines for which it has no room are lost: whoever does not read
    // the log must not hold up the engine or a kill switch. A line that cannot be written is lost
    // too. To say so on the same stderr would be a panic.
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).finish(std::io::stderr());
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    let colours = std::io::stderr().is_terminal();
    match config.format {
        LogFormat::Text => builder.with_ansi(colours).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Resolves on SIGINT or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be listened for; Ctrl-C still works");
            let _ = tokio::signal::ctrl_c().await;
            return;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn replay(args: ReplayArgs) -> anyhow::Result<u8> {
    let ReplayArgs { files, data_dir, findings, incidents, evidence_dir, network, watch, fail_on_finding, fail_on_unjudged } =
        args;
    let temporary = if data_dir.is_none() {
        Some(tempfile::tempdir().context("cannot make a temporary folder; give --data-dir")?)
    } else {
        None
    };
    let data_dir = data_dir.or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned())).expect("one of the two is there");
    let mut options = ReplayOptions { files, data_dir, network, ..ReplayOptions::default() };
    options.watch.files = watch;
    // Tests vary the batch size, which must not change the findings.
    if let Some(batch) = std::env::var("SLASHWATCH_BATCH_MESSAGES").ok().and_then(|text| text.parse().ok()) {
        options.batch_messages = batch;
    }
    let summary =
        replay_files(options, |replay| write_out(replay, findings.as_deref(), incidents.as_deref(), evidence_dir.as_deref()))?;
    let fails = (fail_on_finding && summary.findings > 0) || (fail_on_unjudged && summary.unjudged().is_some());
    Ok(if fails { FAILED } else { 0 })
}

/// Replays files, and tells on stderr what came of it.
fn replay_files(options: ReplayOptions, write: impl FnOnce(&Replay) -> anyhow::Result<()>) -> anyhow::Result<ReplaySummary> {
    let bar = progress_bar();
    let started = Instant::now();
    let mut replay = Replay::open(options)?;
    let mut calls = 0u32;
    let outcome = replay.run(&mut |step| match step {
        ReplayStep::Keys(keys) => {
            bar.set_length(keys.total as u64);
            bar.set_position(keys.done as u64);
            bar.set_message(format!("{}: {} of {}", keys.stage.as_str(), keys.done, keys.total));
        }
        ReplayStep::Files { done, total, messages } => {
            calls = calls.wrapping_add(1);
            if !calls.is_multiple_of(1024) {
                return;
            }
            bar.set_length(total);
            bar.set_position(done);
            let rate = messages as f64 / started.elapsed().as_secs_f64().max(1e-3);
            bar.set_message(format!("{messages} messages, {rate:.0}/s"));
        }
    });
    bar.finish_and_clear();
    // Everything that was read before the problem is processed, kept and written like the rest.
    let written = write(&replay);
    let summary = replay.summary();
    print_summary(&summary, started.elapsed().as_secs_f64());
    written?;
    outcome?;
    Ok(summary)
}

fn write_out(replay: &Replay, findings: Option<&Path>, incidents: Option<&Path>, evidence: Option<&Path>) -> anyhow::Result<()> {
    if let Some(path) = findings {
        let mut out = writer_to(path)?;
        replay.write_findings(&mut out)?;
        out.flush().with_context(|| could_not_write(path))?;
    }
    if let Some(path) = incidents {
        let mut out = writer_to(path)?;
        replay.write_incidents(&mut out)?;
        out.flush().with_context(|| could_not_write(path))?;
    }
    if let Some(folder) = evidence {
        replay.write_evidence(folder).with_context(|| could_not_write(folder))?;
    }
    Ok(())
}

fn could_not_write(path: &Path) -> String {
    format!("cannot write {}; check that the folder exists and the disk has room", path.display())
}

fn writer_to(path: &Path) -> anyhow::Result<Box<dyn std::io::Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(output::stdout()));
    }
    let file = std::fs::File::create(path).with_context(|| could_not_write(path))?;
    Ok(Box::new(std::io::BufWriter::new(file)))
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent}% {msg} eta {eta}").expect("a constant template");
    // The bar hides itself if stderr is not a terminal.
    ProgressBar::new(0).with_style(style)
}

fn print_summary(summary: &ReplaySummary, seconds: f64) {
    let (entries, messages) = (counted(summary.entries, "entry", "entries"), counted(summary.messages, "message", "messages"));
    eprintln!("{entries}, {messages} in {seconds:.2} s");
    for (what, count) in &summary.outcomes {
        eprintln!("  {count:>8}  {what}");
    }
    eprintln!("{} ({} new)", counted(summary.findings, "finding", "findings"), summary.new_findings);
    for (kind, count) in &summary.by_kind {
        eprintln!("  {count:>8}  {kind}");
    }
    let n_incidents: u64 = summary.incidents.values().flat_map(|states| states.values()).sum();
    eprintln!("{}", counted(n_incidents, "incident", "incidents"));
    for (kind, states) in &summary.incidents {
        let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        eprintln!("  {:>8}  {kind} ({})", summary.incidents[kind].values().sum::<u64>(), states.join(", "));
    }
    if let Some((count, first, last)) = summary.unjudged() {
        let epochs = if first == last { format!("epoch {first}") } else { format!("epochs {first} to {last}") };
        eprintln!(
            "{count} messages and votes in blocks about {epochs} were not judged, because their committees or validators are not known; add a file with a \
             state of epoch {first}, or with the missing blocks, to the same replay"
        );
    }
    if summary.not_listed > 0 {
        eprintln!("  {:>8}  further contradicting pairs of the same validators and epochs, not listed", summary.not_listed);
    }
}
