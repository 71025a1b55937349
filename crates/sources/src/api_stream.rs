//! A beacon node's event stream as a source: for those who cannot open a p2p port, and beside gossip for what their own
//! node saw.
//!
//! A thread of its own keeps the streams open and opens them again with growing pauses: turning a block's JSON into SSZ
//! takes milliseconds, which async threads that serve sockets do not have. What is asked for: `block`, `block_gossip`,
//! `attestation`, `single_attestation`, `attester_slashing`, `proposer_slashing`. A block's event carries its root only, so
//! the block is fetched from *that* node: of two blocks for one slot, each node may have only one.
//!
//! What nodes get wrong, and what is done about it:
//! - a topic that a node does not know makes it refuse the request, hang, or silently forget the topics named after it.
//!   So there are several streams to a node ([`GROUPS`]): one for what every node knows, and one for each later addition;
//! - some send headers only with the first event, so an unknown topic and a quiet one look alike: the first group may be
//!   silent for three slots, the others for [`QUIET_FOR`];
//! - `topics=` must be repeated, a comma list is not understood by all;
//! - a line without end would grow without bound: an event of more than [`MAX_API_EVENT_LEN`] ends the stream.
//!
//! Source: beacon-APIs, `apis/eventstream/index.yaml`.

use crate::capture::{ApiEventEntry, MAX_API_EVENT_LEN};
use crate::gossip::Clock;
use crate::intake::{ApiContent, Intake};
use crate::metrics::SourceMetrics;
use crate::queue::{QueueBytes, QueueReceiver, QueueSender, queue};
use chain::node::{BlockId, NodeConfig, NodeError, NodeSet};
use consensus::{Network, Root};
use eventsource_stream::Eventsource;
use futures::future::{LocalBoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};
use verify::{PeerBytes, RawMessage};

/// Topics asked for together. The first group is what every node has known from the beginning.
pub const GROUPS: [&[&str]; 4] =
    [&["block", "attestation"], &["attester_slashing", "proposer_slashing"], &["block_gossip"], &["single_attestation"]];
/// How long a group other than the first may say nothing before it is asked again.
pub const QUIET_FOR: Duration = Duration::from_secs(600);
/// Events between a node's streams and their reader; behind it the node waits.
const EVENTS_UNREAD: usize = 64;
/// Blocks being fetched from one node at a time; further ones wait in the stream.
const MAX_FETCHES: usize = 4;
/// Roots remembered, so that `block_gossip` and `block` fetch a block once.
const REMEMBERED_ROOTS: usize = 1024;
/// A second attempt for a block that was announced before it could be served.
const FETCH_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How streams are kept.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Events waiting to be taken; what does not fit is shed and counted.
    pub queue_events: usize,
    /// Bytes of messages and of the events they came in, in that queue.
    pub queue_bytes: QueueBytes,
    /// First and greatest pause before a stream is opened again.
    pub reconnect: (Duration, Duration),
    /// A stream of the first group that is silent for so long is opened again. `None`: three slots.
    pub silence: Option<Duration>,
    pub clock: Clock,
    pub node: NodeConfig,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            queue_events: 16_384,
            queue_bytes: QueueBytes::DEFAULT,
            reconnect: (Duration::from_secs(1), Duration::from_secs(60)),
            silence: None,
            clock: Clock::system(),
            node: NodeConfig::default(),
        }
    }
}

/// What comes out.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// A message for the verifier, and the event it came in for the capture writer (none for a fetched block).
    Message { raw: Box<RawMessage>, entry: Option<Box<ApiEventEntry>> },
    /// A node's first stream came up or went down.
    Connection { node: String, up: bool, problem: Option<String> },
}

/// Running streams; dropping it ends them.
#[derive(Debug)]
pub struct StreamHandle {
    pub events: QueueReceiver<StreamEvent>,
    _stop: DropGuard,
}

/// Opens a stream to each node of `nodes`, in a thread of its own.
pub fn start(
    nodes: &NodeSet,
    config: StreamConfig,
    network: Arc<Network>,
    metrics: SourceMetrics,
) -> Result<StreamHandle, NodeError> {
    let (sender, events) = queue(config.queue_events, config.queue_bytes);
    let stop = CancellationToken::new();
    let intake = Arc::new(Intake::new(network));
    let slot = intake.network().spec.slot_duration;
    let mut tasks = Vec::new();
    for (nth, url) in nodes.urls().iter().enumerate() {
        // Made first: it sees to it that there is a TLS provider.
        let node = Arc::new(NodeSet::new(&[url.to_string()], config.node.clone())?);
        let (found, events_of_node) = mpsc::channel(EVENTS_UNREAD);
        let label = nodes.label(nth);
        let opener = Opener {
            // The set's own client ends requests that take long, which a stream is meant to.
            client: client(url, config.node.connect_timeout)?,
            url: url.clone(),
            silence: config.silence.unwrap_or(slot.saturating_mul(3)).max(Duration::from_millis(1)),
            reconnect: config.reconnect,
            found,
            out: Out { peer: PeerBytes::from(label.as_bytes()), label, events: sender.clone(), metrics: metrics.clone() },
        };
        let reader = Reader {
            node,
            intake: intake.clone(),
            clock: config.clock.clone(),
            announced: Recent::default(),
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
    let mut builder = reqwest::Client::builder();
    if url.scheme() == "http" {
        // Then the system's certificates, which may not be there, are not looked for.
        builder = builder.tls_certs_only([]);
    }
    builder
        .connect_timeout(connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("slashwatch/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| NodeError::Client { reason: error.to_string() })
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

async fn follow_node(opener: Opener, reader: Reader, events: mpsc::Receiver<eventsource_stream::Event>) {
    let groups = GROUPS.iter().enumerate().map(|(nth, topics)| opener.keep_open(topics, nth == 0));
    tokio::join!(join_all(groups), reader.read(events));
}

/// Where a node's findings go.
#[derive(Clone)]
struct Out {
    label: String,
    /// Whose share of the queue it takes.
    peer: PeerBytes,
    events: QueueSender<StreamEvent>,
    metrics: SourceMetrics,
}

impl Out {
    fn connection(&self, up: bool, problem: Option<String>) {
        let event = StreamEvent::Connection { node: self.label.clone(), up, problem };
        if self.events.try_send_note(event).is_err() {
            self.metrics.shed.with_label_values(&["connection"]).inc();
        }
    }

    fn message(&self, raw: RawMessage, entry: Option<Box<ApiEventEntry>>) {
        self.metrics.received.with_label_values(&[raw.kind.label()]).inc();
        let room = self.events.room(&self.peer, raw.bytes.len() + entry.as_ref().map_or(0, |entry| entry.json.len()));
        let event = StreamEvent::Message { raw: Box::new(raw), entry };
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
    reconnect: (Duration, Duration),
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
            let (first, greatest) = self.reconnect;
            let pause = match end {
                // It does not know the topics; perhaps after its next update.
                StreamEnd::Refused(_) if !is_first => QUIET_FOR,
                _ => first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(greatest),
            };
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            failures = failures.saturating_add(1);
        }
    }

    /// One stream from its opening to its end.
    async fn follow(&self, topics: &[&str], silence: Duration, is_first: bool, n_events: &mut u64) -> StreamEnd {
        let request = self.client.get(events_url(&self.url, topics)).header(reqwest::header::ACCEPT, "text/event-stream");
        let response = match tokio::time::timeout(silence, request.send()).await {
            Err(_) => return StreamEnd::Silent(silence),
            Ok(Err(error)) => return StreamEnd::Unreachable(error.without_url().to_string()),
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

/// Makes messages of one node's events.
struct Reader {
    node: Arc<NodeSet>,
    intake: Arc<Intake>,
    clock: Clock,
    announced: Recent,
    out: Out,
}

impl Reader {
    async fn read(mut self, mut events: mpsc::Receiver<eventsource_stream::Event>) {
        let mut fetches: FuturesUnordered<LocalBoxFuture<'static, Fetched>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                event = events.recv(), if fetches.len() < MAX_FETCHES => match event {
                    Some(event) => if let Some(root) = self.on_event(event) {
                        fetches.push(Box::pin(fetch(self.node.clone(), self.intake.clone(), root)));
                    },
                    None => return,
                },
                Some(fetched) = fetches.next() => self.on_fetched(fetched),
            }
        }
    }

    /// Hands a message on; or gives the root of a block to fetch.
    fn on_event(&mut self, event: eventsource_stream::Event) -> Option<Root> {
        let at = self.clock.now();
        let entry = ApiEventEntry { at, node: self.out.label.clone(), topic: event.event, json: event.data };
        match self.intake.api_event(&entry) {
            Ok(ApiContent::Message(raw)) => {
                self.out.message(raw, Some(Box::new(entry)));
                None
            }
            Ok(ApiContent::BlockAnnounced { root, .. }) => self.announced.insert(root).then_some(root),
            Err(refusal) => {
                debug!(node = %self.out.label, %refusal, "an event is no message");
                self.out.metrics.refused.with_label_values(&[refusal.label()]).inc();
                None
            }
        }
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        self.out.metrics.fetched_blocks.with_label_values(&[fetched.label()]).inc();
        if let Fetched::Block(fork, ssz) = fetched {
            let raw = self.intake.fetched_block(ssz, fork, &self.out.label, self.clock.now());
            self.out.message(raw, None);
        }
    }
}

/// What became of fetching a block.
enum Fetched {
    Block(consensus::ForkName, Vec<u8>),
    NotThere,
    Failed,
}

impl Fetched {
    const fn label(&self) -> &'static str {
        match self {
            Self::Block(..) => "fetched",
            Self::NotThere => "not_there",
            Self::Failed => "failed",
        }
    }
}

/// `block_gossip` comes before the node has imported the block, so there is a second attempt.
async fn fetch(node: Arc<NodeSet>, intake: Arc<Intake>, root: Root) -> Fetched {
    for attempt in 0..2 {
        if attempt > 0 {
            tokio::time::sleep(FETCH_AGAIN_AFTER).await;
        }
        match node.block_ssz(BlockId::Root(root), &intake.network().spec).await {
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

/// Whole lines of a stream. The parser behind looks at all it holds whenever something comes, so a long line in small
/// pieces would cost its square. A stream whose current event grows too long ends; `pending` counts its bytes and is set to
/// 0 by whoever takes an event.
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
                    // Only the new piece can hold the last line's end.
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

/// The last roots seen.
#[derive(Default)]
struct Recent {
    order: VecDeque<Root>,
    known: HashSet<Root>,
}

impl Recent {
    /// Whether it is new.
    fn insert(&mut self, root: Root) -> bool {
        if !self.known.insert(root) {
            return false;
        }
        self.order.push_back(root);
        if self.order.len() > REMEMBERED_ROOTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests;
