//! `slashwatch bench pipeline`: makes a load, has it watched twice, and reports the costs and the
//! findings.
//!
//! Every watcher and the publishers are separate processes, and times and memory are those of the
//! watcher. The fields at the top of the report are part of the contract with other programs. Times
//! and outcomes come from the unpaced run, latencies from the paced one, and the others are the
//! worse of both.

use super::load::{BenchFolder, write, write_keys};
use super::parts::{BenchPart, ChildProcess, Files, PublisherReport};
use super::print_report;
use crate::args::{BenchPipeline, Over, Runs};
use crate::exit::{FAILED, UsageError};
use anyhow::Context as _;
use offline::bench::{Latency, Measured};
use serde::Serialize;
use simulator::load::{CrowdOptions, LoadPlan};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Number of publishers. Each of them sends everything.
const PUBLISHERS: usize = 2;

/// Fields that programs rely on.
const FIELDS: [&str; 12] = [
    "slots",
    "messages",
    "wall_seconds",
    "realtime_factor",
    "cpu_seconds",
    "latency_ms",
    "peak_rss_bytes",
    "outcomes",
    "shed",
    "found",
    "missed",
    "false",
];

#[derive(Serialize)]
struct PipelineReport {
    slots: u64,
    messages: u64,
    wall_seconds: f64,
    realtime_factor: f64,
    cpu_seconds: f64,
    latency_ms: Option<Latency>,
    peak_rss_bytes: u64,
    outcomes: BTreeMap<String, u64>,
    shed: u64,
    found: u64,
    missed: u64,
    #[serde(rename = "false")]
    falsely: u64,
    unpaced: Option<Measured>,
    paced: Option<Measured>,
    published: Option<PublisherReport>,
}

/// Runs the benchmark. The exit code is 1 if an offence was missed or a finding was false.
pub fn pipeline(args: &BenchPipeline) -> anyhow::Result<u8> {
    if args.forward_percent > 100 {
        return Err(UsageError("--forward-percent goes from 0 to 100".into()).into());
    }
    if args.connections > 0 && (args.over != Over::Libp2p || args.runs == Runs::Unpaced) {
        return Err(UsageError("--connections needs --over libp2p and a paced run".into()).into());
    }
    let plan = LoadPlan {
        seed: args.seed,
        n_active: args.validators,
        n_registered: args.registered.unwrap_or(args.validators),
        epochs_before: 0,
        slots: args.slots + 1,
        slashed: 0,
        copies: args.copies,
        forged_percent: args.forged,
        n_forgers: args.forgers,
        junk_percent: args.junk,
        offenders: args.offenders,
        surrounders: args.surrounders,
    };
    let place = BenchFolder::new(args.data_dir.as_deref())?;
    let files = Files {
        capture: place.path().join("load.e2s"),
        truth: place.path().join("truth.json"),
        work_dir: place.path().to_owned(),
    };
    eprintln!("making {} slots of {} validators' messages", plan.slots, plan.n_active);
    let truth = write(plan, &files.capture)?;
    std::fs::write(&files.truth, serde_json::to_vec(&truth)?).context("cannot write the load's truth; is the disk full?")?;
    let keys = place.path().join("keys");
    write_keys(plan, &keys)?;

    let mut unpaced = None;
    if args.runs != Runs::Paced {
        eprintln!("watching {} messages as fast as it goes", truth.messages);
        let data_dir = data_dir(place.path(), "unpaced", &keys)?;
        unpaced = Some(ChildProcess::start(&BenchPart::Replay { files: files.clone(), data_dir })?.measured()?);
    }
    let (mut paced, mut published) = (None, None);
    if args.runs != Runs::Unpaced {
        let lead = args.lead_seconds.unwrap_or(15 + plan.n_registered as u64 / 50_000);
        let genesis_time = base::Time::now().0 / 1_000_000_000 + lead;
        eprintln!("watching {} slots in real time, from {lead} s on", plan.slots);
        let data_dir = data_dir(place.path(), "paced", &keys)?;
        let crowd = (args.connections > 0)
            .then(|| free_address().map(|target| CrowdOptions { connections: args.connections, target }))
            .transpose()
            .context("no port of 127.0.0.1 is free")?;
        let (publisher, peers) = match args.over {
            Over::Memory => (None, None),
            Over::Libp2p => {
                let part = BenchPart::Publish { files: files.clone(), genesis_time, publishers: PUBLISHERS, crowd };
                let mut publisher = ChildProcess::start(&part)?;
                let peers: Vec<String> = publisher.line()?;
                (Some(publisher), Some(peers))
            }
        };
        let part = BenchPart::Watch { files, data_dir, genesis_time, peers, crowd, forward_percent: args.forward_percent };
        paced = Some(ChildProcess::start(&part)?.measured()?);
        published = publisher.map(ChildProcess::published).transpose()?;
    }
    let report = report(unpaced, paced, published);
    print_report(&report, &FIELDS, args.form)?;
    Ok(if report.missed + report.falsely == 0 { 0 } else { FAILED })
}

fn report(unpaced: Option<Measured>, paced: Option<Measured>, published: Option<PublisherReport>) -> PipelineReport {
    let runs: Vec<&Measured> = unpaced.iter().chain(&paced).collect();
    let most = |of: fn(&Measured) -> u64| runs.iter().map(|run| of(run)).max().unwrap_or(0);
    let first = runs.first().copied().cloned().unwrap_or_default();
    PipelineReport {
        slots: first.slots,
        messages: first.messages,
        wall_seconds: first.wall_seconds,
        realtime_factor: first.realtime_factor,
        cpu_seconds: first.cpu_seconds,
        latency_ms: paced.as_ref().and_then(|run| run.latency_ms),
        peak_rss_bytes: most(|run| run.peak_rss_bytes),
        outcomes: first.outcomes,
        shed: most(|run| run.shed),
        found: runs.iter().map(|run| run.found).min().unwrap_or(0),
        missed: most(|run| run.missed),
        falsely: most(|run| run.falsely),
        unpaced,
        paced,
        published,
    }
}

/// An address for the watcher to listen on. Both processes must know it before either listens.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Makes a new data directory with a cache of the load's keys, because checking the keys is not
/// part of the measurement.
fn data_dir(place: &Path, name: &str, keys: &Path) -> anyhow::Result<PathBuf> {
    let path = place.join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    std::fs::copy(keys, path.join("pubkeys")).context("cannot copy the keys; is the disk full?")?;
    Ok(path)
}
