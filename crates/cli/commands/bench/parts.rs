//! The processes of `bench pipeline`. The program starts itself again for each part, so that the
//! CPU time and memory of each part are measured separately.

use crate::output;
use offline::bench::{
    InboundPeers, LoadExpectation, LoadSource, Measured, PacedOptions, cpu_seconds, paced, peak_rss_bytes, replayed,
};
use serde::{Deserialize, Serialize};
use simulator::load::{CrowdOptions, LoadTruth, PublishOptions, Published, publish_load};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Length of a slot on mainnet.
const SLOT: Duration = Duration::from_secs(12);
/// How long publishers wait until the watcher listens.
const PATIENCE: Duration = Duration::from_secs(600);

/// Work of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchPart {
    /// Watches the capture, as fast as possible.
    Replay { files: Files, data_dir: PathBuf },
    /// Watches in real time. The messages come from these peers, or from the capture if there are
    /// none.
    Watch {
        files: Files,
        data_dir: PathBuf,
        genesis_time: u64,
        peers: Option<Vec<String>>,
        crowd: Option<CrowdOptions>,
        forward_percent: u8,
    },
    /// Publishes the load. The first line of its output contains the addresses of its nodes.
    Publish { files: Files, genesis_time: u64, publishers: usize, crowd: Option<CrowdOptions> },
}

/// What the publishing process reports at its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PublisherReport {
    #[serde(flatten)]
    published: Published,
    /// CPU time of the publishing process, from its start.
    cpu_seconds: f64,
    peak_rss_bytes: u64,
}

/// Files of the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Files {
    pub capture: PathBuf,
    pub truth: PathBuf,
    pub work_dir: PathBuf,
}

/// Runs one part. Its result is one JSON object on stdout.
pub fn part(options: &str) -> anyhow::Result<u8> {
    match serde_json::from_str(options)? {
        BenchPart::Replay { files, data_dir } => {
            let measured = replayed(&files.capture, &data_dir, &expected(&files.truth)?, SLOT)?;
            output::line(serde_json::to_string(&measured)?)?;
        }
        BenchPart::Watch { files, data_dir, genesis_time, peers, crowd, forward_percent } => {
            let source = peers.map_or(LoadSource::Memory, LoadSource::Peers);
            let inbound = crowd.map(|crowd| InboundPeers { listen: crowd.target, connections: crowd.connections });
            let options = PacedOptions {
                capture: files.capture,
                work_dir: files.work_dir,
                data_dir,
                genesis_time,
                source,
                inbound,
                forward_percent,
            };
            let measured = paced(&options, &expected(&files.truth)?)?;
            output::line(serde_json::to_string(&measured)?)?;
        }
        BenchPart::Publish { files, genesis_time, publishers, crowd } => {
            let options = PublishOptions { capture: files.capture, genesis_time, publishers, crowd, patience: PATIENCE };
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let published = runtime.block_on(publish_load(options, |peers| {
                // The parent process waits for this line. If the parent is gone, there is no reason
                // to continue.
                let _ = output::line(serde_json::json!(peers));
            }))?;
            let report = PublisherReport { published, cpu_seconds: cpu_seconds(), peak_rss_bytes: peak_rss_bytes() };
            output::line(serde_json::to_string(&report)?)?;
        }
    }
    Ok(0)
}

fn expected(truth: &Path) -> anyhow::Result<LoadExpectation> {
    let truth: LoadTruth = serde_json::from_slice(&std::fs::read(truth)?)?;
    Ok(LoadExpectation {
        findings: truth.crimes.iter().map(|crime| crime.finding_id).collect(),
        messages: truth.messages,
        messages_of_first_slot: truth.messages_of_first_slot,
        slots: truth.slots,
    })
}

/// A part that runs in its own process. Dropping it ends the process.
pub struct ChildProcess {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl ChildProcess {
    /// Starts the part as a child process.
    pub fn start(part: &BenchPart) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "part", &serde_json::to_string(part)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().expect("piped above")).lines();
        Ok(Self { child, lines })
    }

    /// Returns the next line of its output.
    pub fn line<T: for<'de> Deserialize<'de>>(&mut self) -> anyhow::Result<T> {
        match self.lines.next() {
            Some(line) => Ok(serde_json::from_str(&line?)?),
            None => {
                let status = self.child.wait()?;
                anyhow::bail!("a part of the benchmark ended early ({status}); its reason is above")
            }
        }
    }

    /// Waits for the measurements of a watcher.
    pub fn measured(mut self) -> anyhow::Result<Measured> {
        self.line()
    }

    /// Waits for the result of the publishers.
    pub fn published(mut self) -> anyhow::Result<PublisherReport> {
        self.line()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
