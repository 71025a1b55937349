//! `slashwatch capture`: writes what the sources receive into a file that `replay` reads.
//!
//! If a recorded block has a parent that was not recorded, the nodes are asked for that parent. A
//! new state is recorded whenever a running watcher would fetch one. So a replay knows every
//! committee that the live run knew. No message is judged, so no message is
//! forwarded and no peer is penalised: every message is reported to gossipsub as `Ignore`.

use crate::missing_parents::MissingParents;
use chain::Chain;
use chain::node::{BlockId, NodeSet, StateId};
use consensus::{Epoch, ForkDigests, Network, Root};
use fs4::fs_std::FileExt;
use futures::StreamExt as _;
use futures::future::select_all;
use futures::stream::FuturesUnordered;
use sources::capture::{CaptureWriter, Entry, WriteError};
use sources::gossip::{GossipControl, Identity};
use sources::metrics::SourceMetrics;
use sources::source::{Source, SourceEvent, SourceMessage};
use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use verify::{RawMessage, Verdict};
use watcher::WatcherError;
use watcher::bootstrap::{self, Endpoints};
use watcher::config::Config;
use watcher::listen::RunningSources;
use watcher::{clock, listen, run};

/// Missing blocks that are fetched at the same time.
const MAX_FETCHES: usize = 4;
/// Interval between two flushes. A crash loses at most this much.
const FLUSH: Duration = Duration::from_secs(1);

/// Counts of what was recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureSummary {
    /// States, with the one at the start.
    pub states: u64,
    pub blocks: u64,
    pub messages: u64,
    pub peer_events: u64,
    pub bytes: u64,
}

impl fmt::Display for CaptureSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, blocks, messages, peer_events, bytes } = self;
        write!(
            f,
            "{messages} messages, {blocks} blocks from nodes, {states} states and {peer_events} peer events in {bytes} bytes"
        )
    }
}

/// Records until `stop` resolves.
pub fn capture<F: Future<Output = ()>>(config: Config, out: &Path, stop: fn() -> F) -> Result<CaptureSummary, WatcherError> {
    run::runtime()?.block_on(async {
        let endpoints = Endpoints::new(&config)?;
        let mut stopped = std::pin::pin!(stop());
        let start = tokio::select! {
            biased;
            // The wait for a node may be long, so the stop signal is checked here too.
            () = &mut stopped => return Ok(CaptureSummary::default()),
            start = bootstrap::start_when_a_node_answers(&config, None, &endpoints) => start?,
        };
        record(config, endpoints.nodes, start, out, stopped).await
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
        parents: MissingParents::new(&start.chain),
        refresh: StateRefresh::new(&start.chain, config.nodes.refresh_epochs),
        summary: CaptureSummary { states: 1, ..CaptureSummary::default() },
    };
    file.writer.config(&network.spec.to_yaml()).map_err(|error| failed(out, error))?;
    file.writer.state(&start.state_ssz).map_err(|error| failed(out, error))?;
    // The sources start first, so that nothing is missed while the blocks since the state are
    // fetched. Until then their messages wait in their queues.
    let metrics = SourceMetrics::unregistered();
    let (identity, _lock) = identity(&config);
    let sources = listen::start_sources(&config, identity, listen::Served::nothing(), nodes.as_deref(), &network, &metrics)?;
    if let Some(nodes) = &nodes {
        let mut blocks = pin!(bootstrap::blocks_since(nodes, &network, start.chain.head().slot, clock::now()).await);
        while let Some(block) = blocks.next().await {
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
            tracing::info!(%error, data_dir = %config.data_dir.display(), "cannot store a node key; a new key is used");
            (Identity::Ephemeral, None)
        }
    }
}

fn failed(out: &Path, source: WriteError) -> WatcherError {
    WatcherError::Failed(format!("{}: {source}", out.display()))
}

/// Decides when a capture needs a newer state. A running watcher decides by the same rule.
struct StateRefresh {
    state_of: Epoch,
    /// A state is wanted after this many epochs in any case.
    refresh_epochs: u64,
    /// Whether the registry changes even if no block shows it.
    changes_without_blocks: bool,
    is_asked: bool,
    /// The epoch of the last request.
    asked_in: Epoch,
}

impl StateRefresh {
    fn new(chain: &Chain, refresh_epochs: u64) -> Self {
        let state_of = chain.registry().slot().epoch(chain.network().preset());
        let changes_without_blocks = chain.may_change_without_blocks();
        Self { state_of, refresh_epochs, changes_without_blocks, is_asked: false, asked_in: state_of }
    }

    /// Whether a state is to be requested now. At most one request runs at a time, and one is made
    /// in an epoch.
    fn is_due(&self, epoch: Epoch, registry_changed: bool) -> bool {
        let age = epoch.as_u64().saturating_sub(self.state_of.as_u64());
        let is_wanted = chain::wants_newer_state(age, registry_changed || self.changes_without_blocks);
        !self.is_asked && epoch > self.asked_in && (is_wanted || age >= self.refresh_epochs)
    }
}

/// A capture while it is written.
struct CaptureOutput {
    writer: CaptureWriter<BufWriter<File>>,
    out: PathBuf,
    network: Arc<Network>,
    digests: ForkDigests,
    parents: MissingParents,
    refresh: StateRefresh,
    summary: CaptureSummary,
}

impl CaptureOutput {
    /// Records until `stop` resolves or all sources have ended.
    ///
    /// # Errors
    /// The file cannot be written, or a source ended before `stop` resolved.
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
        let mut states = FuturesUnordered::new();
        let mut ended = Vec::new();
        tokio::pin!(stop);
        while !sources.all.is_empty() {
            while let Some(nodes) = nodes
                && fetches.len() < MAX_FETCHES
                && let Some(root) = wanted.pop_front()
            {
                fetches.push(fetch(nodes, root));
            }
            let epoch = network.slot_at(clock::now().0).epoch(network.preset());
            if let Some(nodes) = nodes
                && self.refresh.is_due(epoch, self.parents.registry_changed)
            {
                (self.refresh.is_asked, self.refresh.asked_in) = (true, epoch);
                let nodes = nodes.clone();
                states.push(async move { (epoch, nodes.state_ssz(StateId::Head).await) });
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
                Some((epoch, fetched)) = states.next() => {
                    self.refresh.is_asked = false;
                    match fetched {
                        Ok(ssz) => self.state(&ssz, epoch)?,
                        Err(error) => tracing::warn!(%error, "cannot fetch a newer state; it is requested again in the next epoch"),
                    }
                    None
                }
                (nth, event) = next_event(&mut sources.all) => match event {
                    Some(event) => self.event(event, sources.gossip.as_ref())?,
                    None => {
                        let source = sources.all.swap_remove(nth).name();
                        tracing::error!(source, "a source ended; the capture continues with the others and fails at its end");
                        ended.push(source);
                        None
                    }
                },
            };
            wanted.extend(missing);
        }
        for source in sources.all {
            source.shutdown().await;
        }
        if ended.is_empty() {
            return Ok(());
        }
        Err(WatcherError::Failed(format!(
            "{} ended before the capture was stopped, and {} lacks what came from there afterwards. The log gives the reason; start \
             another capture",
            ended.join(" and "),
            self.out.display()
        )))
    }

    /// Writes a later state, which was requested in `epoch`.
    fn state(&mut self, ssz: &[u8], epoch: Epoch) -> Result<(), WatcherError> {
        self.writer.state(ssz).map_err(|error| failed(&self.out, error))?;
        self.summary.states += 1;
        self.refresh.state_of = epoch;
        self.parents.registry_changed = false;
        tracing::info!(%epoch, "recorded a newer state");
        Ok(())
    }

    /// Writes an event. Returns the parent of a block if that is missing.
    fn event(&mut self, event: SourceEvent, gossip: Option<&GossipControl>) -> Result<Option<Root>, WatcherError> {
        listen::log_event(&event);
        match event {
            SourceEvent::Message(message) => {
                if let (Some(gossip), Some(ticket)) = (gossip, message.raw.ticket) {
                    gossip.report(ticket, Verdict::Ignore);
                }
                return self.message(&message);
            }
            SourceEvent::Peer(event) => {
                self.writer.peer_event(&event.capture_entry()).map_err(|error| failed(&self.out, error))?;
                self.summary.peer_events += 1;
            }
            SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => {}
        }
        Ok(None)
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
        self.parents.recorded(&self.network, message, self.network.slot_at(clock::now().0))
    }

    fn flush(&mut self) -> Result<(), WatcherError> {
        tracing::debug!(messages = self.summary.messages, blocks = self.summary.blocks, "recording");
        self.writer.flush().map_err(|error| failed(&self.out, error))
    }
}

/// Returns the next event of any source, and the place of the source. The event is `None` if that
/// source has ended.
async fn next_event(sources: &mut [Box<dyn Source>]) -> (usize, Option<SourceEvent>) {
    // The first one is asked first, so each source has its turn to be the first.
    sources.rotate_left(1);
    let (event, nth, _) = select_all(sources.iter_mut().map(|source| Box::pin(source.events().recv()))).await;
    (nth, event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::missing_parents::small_capture;
    use futures::future::BoxFuture;
    use sources::queue::{QueueBytes, QueueReceiver, QueueSender, queue};
    use sources::source::ReceivedAs;

    struct TestSource(&'static str, QueueReceiver<SourceEvent>);

    impl Source for TestSource {
        fn name(&self) -> &'static str {
            self.0
        }

        fn events(&mut self) -> &mut QueueReceiver<SourceEvent> {
            &mut self.1
        }

        fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    fn source(name: &'static str) -> (QueueSender<SourceEvent>, Box<dyn Source>) {
        let (sender, events) = queue(8, QueueBytes::DEFAULT);
        (sender, Box::new(TestSource(name, events)))
    }

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
            digests: chain.network().fork_digests(),
            parents: MissingParents::new(&chain),
            refresh: StateRefresh::new(&chain, 64),
            summary: CaptureSummary::default(),
        };
        let (gossip_sender, gossip) = source("gossip");
        let (stream_sender, streams) = source("event streams");
        drop(gossip_sender);
        let sources = RunningSources { all: vec![gossip, streams], gossip: None };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stream = async {
            // The end of gossip is noticed before the block comes.
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
            let raw = blocks.into_iter().next().unwrap();
            let message = SourceMessage { raw, received_as: ReceivedAs::Ssz };
            stream_sender.try_send_note(SourceEvent::Message(Box::new(message))).unwrap();
            drop(stream_sender);
        };
        let (outcome, ()) = tokio::join!(file.follow(sources, None, async { stopped.await.unwrap() }), stream);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("gossip and event streams ended before the capture was stopped"), "{error}");
        assert_eq!(file.summary.blocks, 1);
        drop(stop);
    }

    /// The rule of a running watcher: four epochs after a state the next committees are uncertain
    /// if something has changed. A request that fails is repeated in the next epoch.
    #[test]
    fn a_state_is_requested_when_a_running_watcher_would_fetch_one() {
        let (chain, _) = small_capture();
        let mut refresh = StateRefresh::new(&chain, 64);
        let epoch = Epoch::new;
        assert!(!refresh.changes_without_blocks);
        let due: Vec<u64> = (0..70).filter(|nth| refresh.is_due(epoch(*nth), false)).collect();
        assert_eq!(due, [64, 65, 66, 67, 68, 69], "nothing has changed");
        let due: Vec<u64> = (0..7).filter(|nth| refresh.is_due(epoch(*nth), true)).collect();
        assert_eq!(due, [4, 5, 6]);
        (refresh.is_asked, refresh.asked_in) = (true, epoch(4));
        assert!(!refresh.is_due(epoch(5), true), "one request at a time");
        refresh.is_asked = false;
        assert!(!refresh.is_due(epoch(4), true) && refresh.is_due(epoch(5), true), "one request in an epoch");
        refresh.state_of = epoch(4);
        assert!(!refresh.is_due(epoch(7), true) && refresh.is_due(epoch(8), true));
    }
}
