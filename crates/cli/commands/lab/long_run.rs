//! `slashwatch lab --minutes`: a watcher among honest nodes and hostile peers, looked at once a
//! minute.

use crate::output;
use anyhow::Context as _;
use serde::Serialize;
use simulator::lab::{LongNetwork, LongPlan};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// What is seen in a minute. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Minute {
    minute: u64,
    is_split: bool,
    /// Honest nodes to which the watcher is connected, of those that it is to be connected to.
    connected: usize,
    honest: usize,
    /// The lowest score that one of them gives the watcher. Below -120 it is ignored.
    least_score: f64,
    /// Goodbyes of honest nodes to the watcher.
    honest_left: u64,
    /// Goodbyes of the watcher to honest nodes.
    sent_away: u64,
    /// Forged messages that the watcher has passed on to honest nodes.
    forged_passed_on: u64,
    offences: usize,
    findings: u64,
    /// Memory that the watcher has allocated and used.
    own_bytes: u64,
    /// The same together with what is in memory of the files that it has mapped, most of them the
    /// program itself. This grows for as long as code runs for the first time.
    resident_bytes: u64,
    open_handles: usize,
    data_bytes: u64,
    cpu_seconds: f64,
}

/// Runs the watcher in a process of its own, and prints a line for each minute.
pub async fn long_run(plan: LongPlan, json: bool) -> anyhow::Result<u8> {
    let [gossip, api] = [free_address()?, free_address()?];
    let network = LongNetwork::start(&plan, gossip).await?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).with_context(|| format!("cannot write {name} in a temporary folder"))
    };
    write("network.yaml", network.network().config_yaml().as_bytes())?;
    write("genesis.ssz", network.network().state_ssz())?;
    let peers = network.network().peers();
    let config = format!(
        "data_dir = \"data\"\n[network]\nconfig = \"network.yaml\"\nstate = \"genesis.ssz\"\n[gossip]\nlisten = [\"/ip4/{}/tcp/{}\"]\n\
         peers = {peers:?}\n[api]\nlisten = \"{api}\"\n",
        gossip.ip(),
        gossip.port()
    );
    write("slashwatch.toml", config.as_bytes())?;
    let program = std::env::current_exe().context("this program's own path is not known")?;
    let log = std::fs::File::create(folder.path().join("log")).context("cannot write in a temporary folder")?;
    let child = Command::new(program)
        .args(["run", "--config"])
        .arg(folder.path().join("slashwatch.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("the watcher cannot be started")?;
    let mut watcher = Watcher(child);
    let mut seen = Vec::new();
    for minute in 1..=plan.minutes {
        tokio::time::sleep(MINUTE).await;
        if let Some(status) = watcher.0.try_wait()? {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            anyhow::bail!("the watcher has ended ({status}); its log ends with: {}", log.lines().last().unwrap_or("nothing"));
        }
        let view = network.view();
        let one = Minute {
            minute,
            is_split: plan.is_split(minute),
            connected: view.connected,
            honest: view.of,
            least_score: view.least_score,
            honest_left: view.counts.left,
            sent_away: view.counts.sent_away,
            forged_passed_on: view.counts.rejected,
            offences: view.crimes,
            findings: proven_findings(api),
            own_bytes: memory(watcher.0.id(), "RssAnon:"),
            resident_bytes: memory(watcher.0.id(), "VmRSS:"),
            open_handles: std::fs::read_dir(format!("/proc/{}/fd", watcher.0.id())).map_or(0, Iterator::count),
            data_bytes: bytes_in(&folder.path().join("data")),
            cpu_seconds: cpu_seconds(watcher.0.id()),
        };
        output::line(if json { serde_json::to_string(&one)? } else { one.text() })?;
        seen.push(one);
    }
    Ok(u8::from(seen.iter().any(|minute| minute.honest_left > 0 || minute.forged_passed_on > 0)))
}

impl Minute {
    fn text(&self) -> String {
        format!(
            "minute {}{}: {} of {} honest nodes connected, lowest score {:.1}; {} left us, {} sent away, {} forged passed on; \
             {} offences, {} findings; {:.1} MiB of memory ({:.1} with its files), {} handles, {:.1} MiB on disk, {:.1} s of CPU",
            self.minute,
            if self.is_split { " (split)" } else { "" },
            self.connected,
            self.honest,
            self.least_score,
            self.honest_left,
            self.sent_away,
            self.forged_passed_on,
            self.offences,
            self.findings,
            self.own_bytes as f64 / f64::from(1 << 20),
            self.resident_bytes as f64 / f64::from(1 << 20),
            self.open_handles,
            self.data_bytes as f64 / f64::from(1 << 20),
            self.cpu_seconds
        )
    }
}

/// The watcher's process. It is ended when this is dropped.
struct Watcher(Child);

impl Drop for Watcher {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address of loopback that is free now.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of loopback is free")?;
    Ok(listener.local_addr()?)
}

/// Findings with a proof that the watcher has recorded, by its metrics. 0 if it does not answer.
fn proven_findings(api: SocketAddr) -> u64 {
    const PROVEN: [&str; 3] = ["double_vote", "surround_vote", "double_proposal"];
    let page = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&api, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {api}\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    };
    let page = page().unwrap_or_default();
    let counters = page.lines().filter_map(|line| line.strip_prefix("slashwatch_findings_total{kind=\"")?.split_once("\"} "));
    counters.filter(|(kind, _)| PROVEN.contains(kind)).filter_map(|(_, n)| n.parse::<f64>().ok()).sum::<f64>() as u64
}

/// One line of a process's memory in bytes, or 0 where there is no `/proc`.
fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap_or_default();
    value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// Seconds of CPU that a process has used, or 0 where there is no `/proc`.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // A file that is deleted meanwhile is not counted.
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
