//! A beacon node's event stream as a source. It serves operators who cannot open a p2p port. Beside
//! gossip, it shows what the operator's own node has seen.
//!
//! A dedicated thread keeps the streams open, and opens them again after growing pauses. It is not
//! an async task of the main runtime, because converting a block's JSON into SSZ takes
//! milliseconds, which threads that serve sockets cannot afford. The topics are `block`,
//! `block_gossip`, `attestation`, `single_attestation`, `attester_slashing` and
//! `proposer_slashing`. A block's event carries only its root, so the block is fetched from *the
//! same* node: of two blocks for one slot, each node may have only one.
//!
//! Known faults of nodes, and how they are handled:
//! - A node that does not know a topic refuses the request, never answers, or silently ignores the
//!   topics after it. So there are several streams to a node ([`GROUPS`]): one for the topics that
//!   every node knows, and one for each later addition.
//! - Some nodes send the headers only with the first event, so an unknown topic and a quiet one
//!   look the same. The first group may be silent for three slots, the other groups for
//!   [`QUIET_FOR`].
//! - Some nodes do not understand a list with commas, so the parameter `topics=` is repeated.
//! - A line that never ends would use memory without bound. An event of more than
//!   [`MAX_API_EVENT_LEN`] bytes ends the stream.
//!
//! Source: beacon-APIs, `apis/eventstream/index.yaml`.

use crate::capture::{ApiEventEntry, MAX_API_EVENT_LEN};
use crate::convert::{ApiContent, MessageConverter, Refusal, fetched_block};
use crate::gossip::Clock;
use crate::metrics::SourceMetrics;
use crate::queue::{QueueBytes, QueueReceiver, QueueSender, queue};
use crate::source::{ReceivedAs, Source, SourceEvent, SourceMessage};
use base::{Backoff, BoundedSet, http};
use chain::node::{BlockId, NodeConfig, NodeError, NodeSet};
use consensus::{Network, Root};
use eventsource_stream::Eventsource;
use futures::future::{BoxFuture, LocalBoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};
use verify::{PeerBytes, RawMessage};

/// Groups of topics, with one stream for each group. The first group has the topics that every node
/// has always known.
pub const GROUPS: [&[&str]; 4] =
    [&["block", "attestation"], &["attester_slashing", "proposer_slashing"], &["block_gossip"], &["single_attestation"]];
/// How long a group other than the first may send nothing before its stream is opened again.
pub const QUIET_FOR: Duration = Duration::from_secs(600);
/// Capacity, in events, of the channel between a node's streams and their reader. When it is full,
/// the streams wait.
const EVENTS_UNREAD: usize = 64;
/// Greatest number of blocks that are fetched from one node at the same time.
const MAX_FETCHES: usize = 4;
/// Greatest number of announced blocks that wait to be fetched. Events never wait for them: a node
/// that serves no blocks may still announce votes. Of more blocks the oldest is given up.
const MAX_WAITING: usize = 64;
/// Number of roots that are remembered, so that `block_gossip` and `block` fetch a block only once.
const REMEMBERED_ROOTS: usize = 1024;
/// Pause before the second attempt to fetch a block that was announced before the node could serve
/// it.
const FETCH_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Configuration of the event streams.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Capacity of the queue in events. An event that does not fit is dropped and counted.
    pub queue_events: usize,
    /// Capacity of that queue in bytes of messages and of the events that carried them.
    pub queue_bytes: QueueBytes,
    /// The pauses before a stream is opened again.
    pub reconnect: Backoff,
    /// A stream of the first group that is silent for this long is opened again. `None` means three
    /// slots.
    pub silence: Option<Duration>,
    pub clock: Clock,
    pub node: NodeConfig,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            queue_events: 16_384,
            queue_bytes: QueueBytes::DEFAULT,
            reconnect: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            silence: None,
            clock: Clock::system(),
            node: NodeConfig::default(),
        }
    }
}

/// Handle of running streams. Dropping it ends them.
#[derive(Debug)]
pub struct StreamHandle {
    pub events: QueueReceiver<SourceEvent>,
    _stop: DropGuard,
}

impl Source for StreamHandle {
    fn name(&self) -> &'static str {
        "event streams"
    }

    fn events(&mut self) -> &mut QueueReceiver<SourceEvent> {
        &mut self.events
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async { drop(self) })
    }
}

/// Opens the streams to each node of `nodes`, in a dedicated thread.
pub fn start(
    nodes: &NodeSet,
    config: StreamConfig,
    network: Arc<Network>,
    metrics: SourceMetrics,
) -> Result<StreamHandle, NodeError> {
    let (sender, events) = queue(config.queue_events, config.queue_bytes);
    let stop = CancellationToken::new();
    let converter = Arc::new(MessageConverter::new(network));
    let slot = converter.network().spec.slot_duration;
    let mut tasks = Vec::new();
    for (nth, url) in nodes.urls().iter().enumerate() {
        let node = Arc::new(NodeSet::new(&[url.to_string()], config.node.clone())?);
        let (found, events_of_node) = mpsc::channel(EVENTS_UNREAD);
        let label = nodes.label(nth);
        let opener = Opener {
            // The node set's own client cannot be used: it aborts requests that take long, and a
            // stream is such a request.
            client: client(url, config.node.connect_timeout)?,
            url: url.clone(),
            silence: config.silence.unwrap_or(slot.saturating_mul(3)).max(Duration::from_millis(1)),
            reconnect: config.reconnect,
            found,
            out: Out { peer: PeerBytes::from(label.as_bytes()), label, events: sender.clone(), metrics: metrics.clone() },
        };
        let reader = EventReader {
            node,
            converter: converter.clone(),
            clock: config.clock.clone(),
            announced: BoundedSet::new(REMEMBERED_ROOTS),
            out: opener.out.clone(),
        };
        tasks.push((opener, reader, events_of_node));
    }
    let stopped = stop.clone();
    let no_thread = |error: io::Error| NodeError::Client { reason: format!("no thread for event streams: {error}") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
    let body = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = join_all(tasks.into_iter().map(|(opener, reader, events)| follow_node(opener, reader, events))) => {}
                () = stopped.cancelled() => {}
            }
        });
    };
    std::thread::Builder::new().name("event-streams".to_owned()).spawn(body).map_err(no_thread)?;
    Ok(StreamHandle { events, _stop: stop.drop_guard() })
}

fn client(url: &reqwest::Url, connect_timeout: Duration) -> Result<reqwest::Client, NodeError> {
    let client = http::client_builder(url.scheme() == "https").connect_timeout(connect_timeout).no_proxy().build();
    client.map_err(|error| NodeError::Client { reason: http::failure_reason(error) })
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the node does not answer: {0}; check that it runs and its address")]
    Unreachable(String),
    #[error("the node refuses the event stream with status {0}; check its version and whether events are switched on")]
    Refused(u16),
    #[error("nothing came for {0:?}; it is opened again")]
    Silent(Duration),
    #[error("it broke: {0}; it is opened again")]
    Broken(String),
    #[error("the node closed it; it is opened again")]
    Closed,
}

async fn follow_node(opener: Opener, reader: EventReader, events: mpsc::Receiver<eventsource_stream::Event>) {
    let groups = GROUPS.iter().enumerate().map(|(nth, topics)| opener.keep_open(topics, nth == 0));
    tokio::join!(join_all(groups), reader.read(events));
}

/// Where the messages of one node go.
#[derive(Clone)]
struct Out {
    label: String,
    /// The sender whose share of the queue is used.
    peer: PeerBytes,
    events: QueueSender<SourceEvent>,
    metrics: SourceMetrics,
}

impl Out {
    fn connection(&self, up: bool, problem: Option<String>) {
        let event = SourceEvent::Connection { node: self.label.clone(), up, problem };
        if self.events.try_send_note(event).is_err() {
            self.metrics.shed.with_label_values(&["connection"]).inc();
        }
    }

    /// `entry` is the event that carried the message. A fetched block has none.
    fn message(&self, raw: RawMessage, entry: Option<ApiEventEntry>) {
        self.metrics.received.with_label_values(&[raw.kind.label()]).inc();
        let room = self.events.room(&self.peer, raw.bytes.len() + entry.as_ref().map_or(0, |entry| entry.json.len()));
        let received_as = entry.map_or(ReceivedAs::Ssz, ReceivedAs::ApiEvent);
        let event = SourceEvent::Message(Box::new(SourceMessage { raw, received_as }));
        if let Err(full) = room.and_then(|room| self.events.try_send(event, room)) {
            self.metrics.shed.with_label_values(&[full.label()]).inc();
        }
    }
}

/// Keeps one node's streams open.
struct Opener {
    client: reqwest::Client,
    url: reqwest::Url,
    silence: Duration,
    reconnect: Backoff,
    found: mpsc::Sender<eventsource_stream::Event>,
    out: Out,
}

impl Opener {
    async fn keep_open(&self, topics: &[&str], is_first: bool) {
        let silence = if is_first { self.silence } else { QUIET_FOR.max(self.silence) };
        let mut failures = 0u32;
        loop {
            let mut n_events = 0u64;
            let end = self.follow(topics, silence, is_first, &mut n_events).await;
            if n_events > 0 {
                failures = 0;
            }
            let node = &self.out.label;
            if is_first {
                warn!(%node, reason = %end, n_events, "an event stream ended");
                self.out.connection(false, Some(end.to_string()));
            } else {
                debug!(%node, reason = %end, n_events, ?topics, "an event stream ended");
            }
            self.out.metrics.stream_reconnects.inc();
            failures = failures.saturating_add(1);
            let pauses = match end {
                // The node does not know these topics. It may know them after its next update.
                StreamEnd::Refused(_) if !is_first => Backoff::new(QUIET_FOR, QUIET_FOR),
                _ => self.reconnect,
            };
            tokio::time::sleep(pauses.random_pause(failures, rand::random())).await;
        }
    }

    /// Follows one stream from its opening to its end.
    async fn follow(&self, topics: &[&str], silence: Duration, is_first: bool, n_events: &mut u64) -> StreamEnd {
        let request = self.client.get(events_url(&self.url, topics)).header(reqwest::header::ACCEPT, "text/event-stream");
        let response = match tokio::time::timeout(silence, request.send()).await {
            Err(_) => return StreamEnd::Silent(silence),
            Ok(Err(error)) => return StreamEnd::Unreachable(http::failure_reason(error)),
            Ok(Ok(response)) if !response.status().is_success() => return StreamEnd::Refused(response.status().as_u16()),
            Ok(Ok(response)) => response,
        };
        info!(node = %self.out.label, ?topics, "an event stream is open");
        if is_first {
            self.out.connection(true, None);
        }
        let pending = Arc::new(AtomicUsize::new(0));
        let mut stream = Box::pin(whole_lines(response.bytes_stream(), pending.clone()).eventsource());
        loop {
            let event = match tokio::time::timeout(silence, stream.next()).await {
                Err(_) => return StreamEnd::Silent(silence),
                Ok(None) => return StreamEnd::Closed,
                Ok(Some(Err(error))) => return StreamEnd::Broken(error.to_string()),
                Ok(Some(Ok(event))) => event,
            };
            pending.store(0, Ordering::Relaxed);
            *n_events = n_events.saturating_add(1);
            if self.found.send(event).await.is_err() {
                return StreamEnd::Closed;
            }
        }
    }
}

/// Turns the events of one node into messages.
struct EventReader {
    node: Arc<NodeSet>,
    converter: Arc<MessageConverter>,
    clock: Clock,
    announced: BoundedSet<Root>,
    out: Out,
}

impl EventReader {
    async fn read(mut self, mut events: mpsc::Receiver<eventsource_stream::Event>) {
        let mut fetches: FuturesUnordered<LocalBoxFuture<'static, Fetched>> = FuturesUnordered::new();
        let mut waiting: VecDeque<Root> = VecDeque::new();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => waiting.extend(self.on_event(event)),
                    None => return,
                },
                Some(fetched) = fetches.next() => self.on_fetched(fetched),
            }
            while fetches.len() < MAX_FETCHES
                && let Some(root) = waiting.pop_front()
            {
                fetches.push(Box::pin(fetch(self.node.clone(), self.converter.clone(), root)));
            }
            if waiting.len() > MAX_WAITING {
                waiting.pop_front();
                self.on_fetched(Fetched::NotAsked);
            }
        }
    }

    /// Sends the event's message to the queue, or returns the root of a block to fetch.
    fn on_event(&mut self, event: eventsource_stream::Event) -> Option<Root> {
        let at = self.clock.now();
        let entry = ApiEventEntry { at, node: self.out.label.clone(), topic: event.event, json: event.data };
        match self.converter.api_event(&entry) {
            Ok(ApiContent::Message(raw)) => {
                self.out.message(raw, Some(entry));
                None
            }
            Ok(ApiContent::BlockAnnounced { root, .. }) => self.announced.insert(root).then_some(root),
            Err(refusal) => {
                self.refuse(&refusal);
                None
            }
        }
    }

    fn refuse(&self, refusal: &Refusal) {
        debug!(node = %self.out.label, %refusal, "an event is no message");
        self.out.metrics.refused.with_label_values(&[refusal.label()]).inc();
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        self.out.metrics.fetched_blocks.with_label_values(&[fetched.label()]).inc();
        if let Fetched::Block(fork, ssz) = fetched {
            match fetched_block(ssz, fork, Some(&self.out.label), self.clock.now()) {
                Ok(raw) => self.out.message(raw, None),
                Err(refusal) => self.refuse(&refusal),
            }
        }
    }
}

/// The result of fetching a block.
enum Fetched {
    Block(consensus::ForkName, Vec<u8>),
    NotThere,
    Failed,
    /// It waited too long for others.
    NotAsked,
}

impl Fetched {
    const fn label(&self) -> &'static str {
        match self {
            Self::Block(..) => "fetched",
            Self::NotThere => "not_there",
            Self::Failed => "failed",
            Self::NotAsked => "not_asked",
        }
    }
}

/// Fetches a block. `block_gossip` is sent before the node has imported the block, so there is a
/// second attempt.
async fn fetch(node: Arc<NodeSet>, converter: Arc<MessageConverter>, root: Root) -> Fetched {
    for attempt in 0..2 {
        if attempt > 0 {
            tokio::time::sleep(FETCH_AGAIN_AFTER).await;
        }
        match node.block_ssz(BlockId::Root(root), &converter.network().spec).await {
            Ok(Some(block)) => return Fetched::Block(block.fork, block.ssz),
            Ok(None) => {}
            Err(error) => {
                debug!(%root, %error, "an announced block cannot be fetched");
                return Fetched::Failed;
            }
        }
    }
    Fetched::NotThere
}

fn events_url(base: &reqwest::Url, topics: &[&str]) -> reqwest::Url {
    let mut url = base.clone();
    let path = format!("{}/eth/v1/events", base.path().trim_end_matches('/'));
    url.set_path(&path);
    url.query_pairs_mut().clear().extend_pairs(topics.iter().map(|topic| ("topics", topic)));
    url
}

/// Splits a stream of bytes into whole lines. The parser that reads the lines scans its whole
/// buffer whenever something arrives, so a long line in small pieces would take quadratic time. The
/// stream ends with an error when its current event grows too long. `pending` counts the bytes of
/// that event, and the reader sets it to 0 when it takes an event.
fn whole_lines<B: AsRef<[u8]>, E: std::error::Error + Send + Sync + 'static>(
    pieces: impl Stream<Item = Result<B, E>>,
    pending: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Vec<u8>, io::Error>> {
    let mut begun: Vec<u8> = Vec::new();
    pieces.filter_map(move |piece| {
        let lines = match piece {
            Err(error) => Some(Err(io::Error::other(error))),
            Ok(piece) => {
                let piece = piece.as_ref();
                let grown = pending.fetch_add(piece.len(), Ordering::Relaxed).saturating_add(piece.len());
                if grown > MAX_API_EVENT_LEN {
                    Some(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("an event of more than {MAX_API_EVENT_LEN} bytes"),
                    )))
                } else {
                    begun.extend_from_slice(piece);
                    // Only the new piece can contain the end of the last line.
                    piece.iter().rposition(|byte| *byte == b'\n').map(|at| {
                        let rest = begun.split_off(begun.len() - piece.len() + at + 1);
                        Ok(std::mem::replace(&mut begun, rest))
                    })
                }
            }
        };
        std::future::ready(lines)
    })
}

#[cfg(test)]
mod tests;
