//! `slashwatch capture`: writes what the sources receive into a file that `replay` reads.
//!
//! If a recorded block has a parent that was not recorded, the nodes are asked for that parent. So
//! a replay knows every committee that the live run knew. No message is judged, so no message is
//! forwarded and no peer is penalised: every message is reported to gossipsub as `Ignore`.

use crate::lineage::MissingParents;
use chain::node::{BlockId, NodeSet};
use consensus::{ForkDigests, Network, Root};
use fs4::fs_std::FileExt;
use futures::StreamExt as _;
use futures::future::select_all;
use futures::stream::FuturesUnordered;
use sources::capture::{CaptureWriter, Entry, WriteError};
use sources::gossip::Identity;
use sources::metrics::SourceMetrics;
use sources::source::{Source, SourceEvent, SourceMessage};
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
use watcher::listen::RunningSources;
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
        digests: network.fork_digests(),
        lineage: MissingParents::new(&start.chain),
        summary: CaptureSummary::default(),
    };
    file.writer.config(&network.spec.to_yaml()).map_err(|error| failed(out, error))?;
    file.writer.state(&start.state_ssz).map_err(|error| failed(out, error))?;
    // The sources start first, so that nothing is missed while the blocks since the state are
    // fetched. Until then their messages wait in their queues.
    let metrics = SourceMetrics::unregistered();
    let (identity, _lock) = identity(&config);
    let sources = listen::start_sources(&config, identity, nodes.as_deref(), &network, &metrics)?;
    if let Some(nodes) = &nodes {
        for block in bootstrap::blocks_since(nodes, &network, start.chain.head().slot, clock::now()).await {
            file.block(&block)?;
        }
    }
    file.flush()?;
    tracing::info!(out = %out.display(), "recording");
    let outcome = file.follow(sources, nodes.as_ref(), stop).await;
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
            tracing::info!(%error, data_dir = %config.data_dir.display(), "no place to keep a node key: a new one is used");
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
    digests: ForkDigests,
    lineage: MissingParents,
    summary: CaptureSummary,
}

impl CaptureOutput {
    /// Records until `stop` resolves or a source has ended.
    async fn follow(
        &mut self,
        mut sources: RunningSources,
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
        loop {
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
                        tracing::debug!(%root, "no node has a block that recorded ones build on");
                        None
                    }
                    Err(error) => {
                        tracing::warn!(%root, %error, "a block that recorded ones build on is not recorded");
                        None
                    }
                },
                event = next_event(&mut sources.all) => {
                    let Some(event) = event else { break };
                    listen::log_event(&event);
                    match event {
                        SourceEvent::Message(message) => {
                            if let (Some(gossip), Some(ticket)) = (&sources.gossip, message.raw.ticket) {
                                gossip.report(ticket, Verdict::Ignore);
                            }
                            self.message(&message)?
                        }
                        SourceEvent::Peer(event) => {
                            self.writer.peer_event(&event.capture_entry()).map_err(|error| failed(&self.out, error))?;
                            self.summary.peer_events += 1;
                            None
                        }
                        SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => None,
                    }
                },
            };
            wanted.extend(missing);
        }
        for source in sources.all {
            source.shutdown().await;
        }
        Ok(())
    }

    /// Writes a block that was fetched and has no arrival time of its own. Returns its parent if
    /// that is missing.
    fn block(&mut self, block: &RawMessage) -> Result<Option<Root>, WatcherError> {
        self.writer.block(&block.bytes).map_err(|error| failed(&self.out, error))?;
        self.summary.blocks += 1;
        Ok(self.missing_parent(block))
    }

    /// Writes a message as it was received. Returns its parent if it is a block whose parent is
    /// missing.
    fn message(&mut self, message: &SourceMessage) -> Result<Option<Root>, WatcherError> {
        let Some(entry) = message.capture_entry(&self.digests) else {
            tracing::debug!(kind = message.raw.kind.label(), "a capture has no form for this message; it is left out");
            return Ok(None);
        };
        self.writer.entry(&entry).map_err(|error| failed(&self.out, error))?;
        let n_written = if let Entry::Block(_) = entry { &mut self.summary.blocks } else { &mut self.summary.messages };
        *n_written += 1;
        Ok(self.missing_parent(&message.raw))
    }

    fn missing_parent(&mut self, message: &RawMessage) -> Option<Root> {
        self.lineage.recorded(&self.network, message, self.network.slot_at(clock::now().0))
    }

    fn flush(&mut self) -> Result<(), WatcherError> {
        tracing::debug!(messages = self.summary.messages, blocks = self.summary.blocks, "recording");
        self.writer.flush().map_err(|error| failed(&self.out, error))
    }
}

/// Returns the next event of any source, or `None` if one of them has ended. Without sources this
/// waits for ever.
async fn next_event(sources: &mut [Box<dyn Source>]) -> Option<SourceEvent> {
    if sources.is_empty() {
        return std::future::pending().await;
    }
    // The first one is asked first, so each source has its turn to be the first.
    sources.rotate_left(1);
    select_all(sources.iter_mut().map(|source| Box::pin(source.events().recv()))).await.0
}
