//! Runs the whole watcher under a load in real time.

use super::{Latency, LoadExpectation, Measured, cpu_seconds};
use consensus::{Network, Spec};
use sources::capture::{CaptureFile, Entry};
use sources::convert::MessageConverter;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use verify::Time;
use watcher::WatcherError;
use watcher::clock;
use watcher::config::{Config, GossipSection, NetworkSection};
use watcher::run::{MessageFeed, Watcher, runtime};

/// How long to wait for findings after the last slot.
const GRACE: Duration = Duration::from_secs(15);

/// Source of the load.
#[derive(Clone, Debug)]
pub enum LoadSource {
    /// A thread of this process reads the capture.
    Memory,
    /// These peers publish it. Each is a multiaddr with `/p2p/`.
    Peers(Vec<String>),
}

/// Peers that dial the watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundPeers {
    /// Where the watcher listens.
    pub listen: SocketAddr,
    /// How many of them it must be able to hold.
    pub connections: usize,
}

/// Options of a paced run.
#[derive(Clone, Debug)]
pub struct PacedOptions {
    pub capture: PathBuf,
    /// A new folder. The state and the configuration are written there too.
    pub work_dir: PathBuf,
    /// The watcher's data directory. It may already contain the cache of known keys.
    pub data_dir: PathBuf,
    /// Genesis time of the network, in seconds since the Unix epoch. It replaces that of the
    /// capture.
    pub genesis_time: u64,
    pub source: LoadSource,
    /// Peers that dial the watcher.
    pub inbound: Option<InboundPeers>,
    /// Percentage of the single votes that are verified so that they may be forwarded.
    pub forward_percent: u8,
}

/// Runs the watcher until the load has ended and its offences are found, or until the time for that
/// is up.
pub fn paced(options: &PacedOptions, expected: &LoadExpectation) -> Result<Measured, WatcherError> {
    let (config, spec) = prepare(options)?;
    let runtime = runtime()?;
    let slot = spec.slot_duration;
    runtime.block_on(async {
        let watcher = Watcher::start(config).await?;
        tracing::info!("the watcher is ready {:.1} s before genesis", seconds_until(options.genesis_time));
        // The store's callback reports when findings are on disk. Which findings these are is
        // looked up at the end. The callback runs on the thread that recorded them, a few times per
        // second. Nobody else takes the lock before the end, so the callback does not wait.
        let recorded: Arc<Mutex<Vec<(u64, Time)>>> = Arc::default();
        let bell = Arc::new(Notify::new());
        let (noted, ring) = (recorded.clone(), bell.clone());
        let subscription = watcher.store().subscribe(move |seq| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).push((seq, clock::now()));
            ring.notify_one();
        });
        let (mut offered, shed_at_door) = (None, Arc::new(AtomicU64::new(0)));
        if let (LoadSource::Memory, Some(feed)) = (&options.source, watcher.feed()) {
            let (capture, shed, genesis) = (options.capture.clone(), shed_at_door.clone(), options.genesis_time);
            offered = Some(std::thread::spawn(move || offer(&capture, spec, genesis, &feed, &shed)));
        }
        sleep_until(options.genesis_time, slot * 2).await;
        let (cpu_before, began) = (cpu_seconds(), clock::now());
        sleep_until(options.genesis_time, slot * (expected.slots as u32 + 1)).await;
        let (cpu, ended) = (cpu_seconds() - cpu_before, clock::now());
        if let Some(thread) = offered {
            thread.join().map_err(|_| WatcherError::Internal("the feeding thread panicked; please report it".into()))??;
        }
        let patience = Instant::now() + GRACE;
        while watcher.store().count() < expected.findings.len() as u64
            && tokio::time::timeout_at(patience, bell.notified()).await.is_ok()
        {}
        let wall_seconds = (ended.0 - began.0) as f64 / 1e9;
        let mut measured = Measured {
            outcomes: outcomes(&watcher),
            shed: shed_at_door.load(Ordering::Relaxed) + shed(&watcher),
            scores: watcher.peers().iter().map(|peer| peer.score).collect(),
            connections: watcher.peers().iter().filter(|peer| peer.connected).count() as u64,
            received: counted(&watcher, "slashwatch_sources_received_messages_total", |_| true),
            ..expected.measured(slot, wall_seconds, cpu)
        };
        measured.scores.sort_by(|a, b| b.total_cmp(a));
        let store = watcher.store().clone();
        expected.compare(&store, &mut measured)?;
        let recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (latencies, last) = latencies(&store, &recorded)?;
        measured.latency_ms = Latency::of(latencies);
        measured.last_found_after_ms = last;
        drop(subscription);
        drop(store);
        watcher.stop().await?;
        Ok(measured)
    })
}

/// Writes config.yaml, and the state with another genesis time. The messages do not depend on the
/// genesis time.
fn prepare(options: &PacedOptions) -> Result<(Config, Spec), WatcherError> {
    let input = |reason: String| WatcherError::Input { path: options.capture.clone(), reason };
    let capture = CaptureFile::open(&options.capture).map_err(|error| input(error.to_string()))?;
    let yaml = capture.first_config().map_err(|error| input(error.to_string()))?.unwrap_or_default();
    let spec = Spec::from_yaml(&yaml).map_err(|error| input(error.to_string()))?;
    let mut state = capture.first_state().map_err(|error| input(error.to_string()))?.unwrap_or_default();
    // `genesis_time` is the first field of every BeaconState.
    if let Some(bytes) = state.get_mut(..8) {
        bytes.copy_from_slice(&options.genesis_time.to_le_bytes());
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = options.work_dir.join(name);
        std::fs::write(&path, bytes).map_err(|source| WatcherError::Write { path: path.clone(), source }).map(|()| path)
    };
    let mut config = Config {
        data_dir: options.data_dir.clone(),
        network: NetworkSection {
            config: Some(write("config.yaml", yaml.as_bytes())?),
            state: Some(write("state.ssz", &state)?),
            ..NetworkSection::default()
        },
        gossip: GossipSection { listen: Vec::new(), ..GossipSection::default() },
        ..Config::default()
    };
    config.verify.forward_percent = options.forward_percent;
    config.api.enabled = false;
    match &options.source {
        LoadSource::Memory => config.gossip.enabled = false,
        LoadSource::Peers(peers) => config.gossip.peers = peers.clone(),
    }
    if let Some(inbound) = &options.inbound {
        config.gossip.listen = vec![format!("/ip4/{}/tcp/{}", inbound.listen.ip(), inbound.listen.port())];
        // A tenth of the places is for newcomers.
        config.gossip.max_peers = inbound.connections + inbound.connections / 8 + 8;
    }
    Ok((config, spec))
}

/// Reads the capture and passes on each message at its time, like a source that cannot wait.
fn offer(path: &Path, spec: Spec, genesis_time: u64, feed: &MessageFeed, shed: &AtomicU64) -> Result<(), WatcherError> {
    let input = |reason: String| WatcherError::Input { path: path.into(), reason };
    let file = CaptureFile::open(path).map_err(|error| input(error.to_string()))?;
    let state = file.first_state().map_err(|error| input(error.to_string()))?.unwrap_or_default();
    let head: [u8; 40] = state.get(..40).and_then(|head| head.try_into().ok()).ok_or_else(|| input("holds no state".into()))?;
    drop(state);
    let genesis_of_capture = u64::from_le_bytes(head[..8].try_into().expect("eight of forty"));
    let genesis_validators_root = consensus::Root::from_slice(&head[8..]);
    let converter = MessageConverter::new(Arc::new(Network { spec, genesis_time, genesis_validators_root }));
    for entry in file.entries().map_err(|error| input(error.to_string()))? {
        let Entry::Gossip(mut gossip) = entry.map_err(|error| input(error.to_string()))?.entry else { continue };
        let at = gossip.received_at.0.saturating_sub(genesis_of_capture * 1_000_000_000) + genesis_time * 1_000_000_000;
        let now = clock::now().0;
        if at > now {
            std::thread::sleep(Duration::from_nanos(at - now));
        }
        gossip.received_at = clock::now();
        // A message that is refused here is also refused by live sources, so it is not counted as
        // shed.
        if let Ok(message) = converter.gossip(&gossip)
            && !feed.offer(message)
        {
            shed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Returns the latency of each finding in milliseconds, and the time from the last second message
/// of an offence to the last finding on disk.
fn latencies(store: &evidence::Store, recorded: &[(u64, Time)]) -> Result<(Vec<f64>, Option<f64>), WatcherError> {
    let milliseconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
    let (mut all, mut last_seen, mut last_recorded) = (Vec::new(), 0, 0);
    for row in store.all_findings() {
        let (seq, finding) = row?;
        // One callback covers all findings that were recorded together, and gives the number of the
        // newest.
        let at = recorded.partition_point(|(newest, _)| *newest < seq);
        let (Some(seen), Some((_, durable))) = (finding.second_seen, recorded.get(at)) else { continue };
        all.push(milliseconds(seen.as_unix_ns(), durable.0));
        last_seen = last_seen.max(seen.as_unix_ns());
        last_recorded = last_recorded.max(durable.0);
    }
    let last = (!all.is_empty()).then(|| milliseconds(last_seen, last_recorded));
    Ok((all, last))
}

/// Returns the number of messages by outcome, including those that still wait.
fn outcomes(watcher: &Watcher) -> BTreeMap<String, u64> {
    let status = watcher.status();
    let mut outcomes = status.stages.get("messages").cloned().unwrap_or_default();
    outcomes.extend(status.stages.get("parked").and_then(|parked| parked.get("now")).map(|n| ("parked".to_owned(), *n)));
    outcomes
}

/// Returns the number of messages for which the sources and the priority queues had no room.
fn shed(watcher: &Watcher) -> u64 {
    counted(watcher, "slashwatch_shed_messages_total", |label| label != "known")
        + counted(watcher, "slashwatch_sources_shed_events_total", |label| label == "message")
}

/// Returns the sum of a counter over the wanted values of its first label.
fn counted(watcher: &Watcher, name: &str, is_wanted: impl Fn(&str) -> bool) -> u64 {
    let families = watcher.metrics().registry.gather();
    let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
    metrics
        .filter(|metric| is_wanted(metric.get_label().first().map_or("", |label| label.value())))
        .map(|metric| metric.get_counter().get_value() as u64)
        .sum()
}

async fn sleep_until(genesis_time: u64, after: Duration) {
    let until = Duration::from_secs(genesis_time) + after;
    let now = Duration::from_nanos(clock::now().0);
    tokio::time::sleep(until.saturating_sub(now)).await;
}

fn seconds_until(genesis_time: u64) -> f64 {
    genesis_time as f64 - clock::now().0 as f64 / 1e9
}
