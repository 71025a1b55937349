//! `slashwatch capture`: writes what the sources receive into a file that `replay` reads.
//!
//! If a recorded block has a parent that was not recorded, the nodes are asked for that parent. So
//! a replay knows every committee that the live run knew. No message is judged, so no message is
//! forwarded and no peer is penalised: every message is reported to gossipsub as `Ignore`.

use crate::missing_parents::MissingParents;
use chain::node::{BlockId, NodeSet};
use consensus::{Network, Root};
use fs4::fs_std::FileExt;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use sources::api_stream::{StreamConfig, StreamEvent};
use sources::capture::{CaptureWriter, WriteError};
use sources::gossip::{GossipControl, GossipEvent, Identity};
use sources::metrics::SourceMetrics;
use sources::queue::QueueReceiver;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use verify::{RawMessage, Verdict};
use watcher::WatcherError;
use watcher::config::Config;
use watcher::{bootstrap, clock, listen, run};

/// Missing blocks that are fetched at the same time.
const MAX_FETCHES: usize = 4;
/// Interval between two flushes. A crash loses at most this much.
const FLUSH: Duration = Duration::from_secs(1);

/// Counts of what was recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureSummary {
    pub blocks: u64,
    pub messages: u64,
    pub peer_events: u64,
    pub bytes: u64,
}

impl fmt::Display for CaptureSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, messages, peer_events, bytes } = self;
        write!(f, "{messages} messages, {blocks} blocks from nodes and {peer_events} peer events in {bytes} bytes")
    }
}

/// Records until `stop` resolves.
pub fn capture<F: Future<Output = ()>>(config: Config, out: &Path, stop: fn() -> F) -> Result<CaptureSummary, WatcherError> {
    run::runtime()?.block_on(async {
        let nodes = bootstrap::nodes(&config)?.map(Arc::new);
        let mut stopped = std::pin::pin!(stop());
        let start = tokio::select! {
            biased;
            // The wait for a node may be long, so the stop signal is checked here too.
            () = &mut stopped => return Ok(CaptureSummary::default()),
            start = bootstrap::start_when_a_node_answers(&config, None, nodes.as_deref()) => start?,
        };
        record(config, nodes, start, out, stopped).await
    })
}

async fn record(
    config: Config,
    nodes: Option<Arc<NodeSet>>,
    start: bootstrap::Start,
    out: &Path,
    stop: impl Future<Output = ()>,
) -> Result<CaptureSummary, WatcherError> {
    let network = start.chain.network().clone();
    let mut file = CaptureOutput {
        writer: CaptureWriter::create(out).map_err(|error| failed(out, error))?,
        out: out.into(),
        network: network.clone(),
        parents: MissingParents::new(&start.chain),
        summary: CaptureSummary::default(),
    };
    file.writer.config(&network.spec.to_yaml()).map_err(|error| failed(out, error))?;
    file.writer.state(&start.state_ssz).map_err(|error| failed(out, error))?;
    // The sources start first, so that nothing is missed while the blocks since the state are
    // fetched. Until then their messages wait in their queues.
    let metrics = SourceMetrics::unregistered();
    let (identity, _lock) = identity(&config);
    let mut gossip = listen::start_gossip(&config, identity, &network, metrics.clone())?;
    let mut streams = match &nodes {
        Some(nodes) if config.event_stream.enabled => {
            Some(sources::api_stream::start(nodes, StreamConfig::default(), network.clone(), metrics)?)
        }
        _ => None,
    };
    if let Some(nodes) = &nodes {
        for block in bootstrap::blocks_since(nodes, &network, start.chain.head().slot, clock::now()).await {
            file.block(&block)?;
        }
    }
    file.flush()?;
    tracing::info!(out = %out.display(), "recording");
    let control = gossip.as_ref().map(|gossip| gossip.control());
    let events = SourceEvents {
        gossip: gossip.as_mut().map(|gossip| &mut gossip.events),
        streams: streams.as_mut().map(|streams| &mut streams.events),
        ended: Vec::new(),
    };
    let outcome = file.follow(events, control.as_ref(), nodes.as_ref(), stop).await;
    if let Some(gossip) = gossip {
        gossip.shutdown().await;
    }
    file.writer.sync().map_err(|error| failed(out, error))?;
    file.summary.bytes = file.writer.n_bytes();
    outcome.map(|()| file.summary)
}

/// Returns the node key of captures, and the lock that prevents a second capture from using the
/// same key. A watcher may run at the same time, so captures do not use its key. A second capture
/// gets a new key. So does a capture that cannot write to the data directory, which it needs for
/// nothing else.
fn identity(config: &Config) -> (Identity, Option<File>) {
    let lock = std::fs::create_dir_all(&config.data_dir)
        .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(config.data_dir.join("capture.lock")))
        .and_then(|lock| Ok(FileExt::try_lock_exclusive(&lock)?.then_some(lock)));
    match lock {
        Ok(Some(lock)) => (Identity::File(config.data_dir.join("capture.key")), Some(lock)),
        Ok(None) => (Identity::Ephemeral, None),
        Err(error) => {
            tracing::info!(%error, data_dir = %config.data_dir.display(), "cannot store a node key; a new key is used");
            (Identity::Ephemeral, None)
        }
    }
}

fn failed(out: &Path, source: WriteError) -> WatcherError {
    WatcherError::Failed(format!("{}: {source}", out.display()))
}

/// A capture while it is written.
struct CaptureOutput {
    writer: CaptureWriter<BufWriter<File>>,
    out: PathBuf,
    network: Arc<Network>,
    parents: MissingParents,
    summary: CaptureSummary,
}

impl CaptureOutput {
    /// Records until `stop` resolves or all sources have ended.
    ///
    /// # Errors
    /// The file cannot be written, or a source ended before `stop` resolved.
    async fn follow(
        &mut self,
        mut events: SourceEvents<'_>,
        control: Option<&GossipControl>,
        nodes: Option<&Arc<NodeSet>>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), WatcherError> {
        let mut flush = tokio::time::interval(FLUSH);
        let network = self.network.clone();
        let fetch = |nodes: &Arc<NodeSet>, root| {
            let (nodes, network) = (nodes.clone(), network.clone());
            async move { (root, bootstrap::block_message(&nodes, &network, BlockId::Root(root), clock::now()).await) }
        };
        let mut wanted: VecDeque<Root> = VecDeque::new();
        let mut fetches = FuturesUnordered::new();
        tokio::pin!(stop);
        while events.is_any_open() {
            while let Some(nodes) = nodes
                && fetches.len() < MAX_FETCHES
                && let Some(root) = wanted.pop_front()
            {
                fetches.push(fetch(nodes, root));
            }
            let missing = tokio::select! {
                () = &mut stop => break,
                _ = flush.tick() => {
                    self.flush()?;
                    None
                }
                Some((root, fetched)) = fetches.next() => match fetched {
                    Ok(Some(block)) => self.block(&block)?,
                    Ok(None) => {
                        tracing::debug!(%root, "no node has a block that recorded blocks build on");
                        None
                    }
                    Err(error) => {
                        tracing::warn!(%root, %error, "cannot fetch a block that recorded blocks build on");
                        None
                    }
                },
                event = next(&mut events.gossip) => match event {
                    Some(event) => self.gossip_event(event, control)?,
                    None => {
                        events.gossip = None;
                        events.note_end("gossip");
                        None
                    }
                },
                event = next(&mut events.streams) => match event {
                    Some(event) => self.stream_event(event)?,
                    None => {
                        events.streams = None;
                        events.note_end("the event stream");
                        None
                    }
                },
            };
            wanted.extend(missing);
        }
        if events.ended.is_empty() {
            return Ok(());
        }
        Err(WatcherError::Failed(format!(
            "{} ended before the capture was stopped, and {} lacks what came from there afterwards. The log gives the reason; start \
             another capture",
            events.ended.join(" and "),
            self.out.display()
        )))
    }

    /// Writes a block that was fetched and has no arrival time of its own. Returns its parent if
    /// that is missing.
    fn block(&mut self, block: &RawMessage) -> Result<Option<Root>, WatcherError> {
        self.writer.block(&block.bytes).map_err(|error| failed(&self.out, error))?;
        self.summary.blocks += 1;
        Ok(self.missing_parent(block))
    }

    /// Writes an event. Returns the parent of a block if that is missing.
    fn gossip_event(&mut self, event: GossipEvent, control: Option<&GossipControl>) -> Result<Option<Root>, WatcherError> {
        match event {
            GossipEvent::Message(message) => {
                self.writer.gossip(&message.capture_entry()).map_err(|error| failed(&self.out, error))?;
                self.summary.messages += 1;
                if let (Some(control), Some(ticket)) = (control, message.raw.ticket) {
                    control.report(ticket, Verdict::Ignore);
                }
                return Ok(self.missing_parent(&message.raw));
            }
            GossipEvent::Peer(event) => {
                listen::log_peer(&event);
                self.writer.peer_event(&event.capture_entry()).map_err(|error| failed(&self.out, error))?;
                self.summary.peer_events += 1;
            }
            GossipEvent::ListeningOn(address) => tracing::info!(%address, "gossip listens"),
        }
        Ok(None)
    }

    /// Writes an event. Returns the parent of a block if that is missing.
    fn stream_event(&mut self, event: StreamEvent) -> Result<Option<Root>, WatcherError> {
        match event {
            StreamEvent::Message { raw, entry: Some(entry) } => {
                self.writer.api_event(&entry).map_err(|error| failed(&self.out, error))?;
                self.summary.messages += 1;
                Ok(self.missing_parent(&raw))
            }
            StreamEvent::Message { raw, entry: None } => self.block(&raw),
            StreamEvent::Connection { node, up, problem } => {
                tracing::info!(node, up, problem, "event stream");
                Ok(None)
            }
        }
    }

    fn missing_parent(&mut self, message: &RawMessage) -> Option<Root> {
        self.parents.recorded(&self.network, message, self.network.slot_at(clock::now().0))
    }

    fn flush(&mut self) -> Result<(), WatcherError> {
        tracing::debug!(messages = self.summary.messages, blocks = self.summary.blocks, "recording");
        self.writer.flush().map_err(|error| failed(&self.out, error))
    }
}

/// The events of the sources that are in use and have not ended.
struct SourceEvents<'a> {
    gossip: Option<&'a mut QueueReceiver<GossipEvent>>,
    streams: Option<&'a mut QueueReceiver<StreamEvent>>,
    /// Names of the sources that ended.
    ended: Vec<&'static str>,
}

impl SourceEvents<'_> {
    fn is_any_open(&self) -> bool {
        self.gossip.is_some() || self.streams.is_some()
    }

    fn note_end(&mut self, source: &'static str) {
        tracing::error!(source, "a source ended; the capture continues with the others and fails at its end");
        self.ended.push(source);
    }
}

/// Returns the next event of a source. A source that is not in use has no events, so this waits for
/// ever.
async fn next<T>(events: &mut Option<&mut QueueReceiver<T>>) -> Option<T> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::missing_parents::small_capture;
    use sources::queue::{QueueBytes, queue};

    /// Gossip ends first. The block that the event stream brings afterwards is recorded, and the
    /// capture does not end with success.
    #[tokio::test]
    async fn a_source_that_ends_early_is_a_failure_and_the_other_one_is_still_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x.e2s");
        let (chain, blocks) = small_capture();
        let mut file = CaptureOutput {
            writer: CaptureWriter::create(&out).unwrap(),
            out: out.clone(),
            network: chain.network().clone(),
            parents: MissingParents::new(&chain),
            summary: CaptureSummary::default(),
        };
        let (gossip_sender, mut gossip) = queue::<GossipEvent>(8, QueueBytes::DEFAULT);
        let (stream_sender, mut streams) = queue::<StreamEvent>(8, QueueBytes::DEFAULT);
        drop(gossip_sender);
        let events = SourceEvents { gossip: Some(&mut gossip), streams: Some(&mut streams), ended: Vec::new() };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stream = async {
            // The end of gossip is noticed before the block comes.
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
            let raw = Box::new(blocks.into_iter().next().unwrap());
            stream_sender.try_send_note(StreamEvent::Message { raw, entry: None }).unwrap();
            drop(stream_sender);
        };
        let (outcome, ()) = tokio::join!(file.follow(events, None, None, async { stopped.await.unwrap() }), stream);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("gossip and the event stream ended before the capture was stopped"), "{error}");
        assert_eq!(file.summary.blocks, 1);
        drop(stop);
    }
}
