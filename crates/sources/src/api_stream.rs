//! A beacon node's event stream as a source: for those who cannot open a p2p port, and beside gossip for what their own
//! node saw.
//!
//! One task per node keeps one stream open and opens it again with growing pauses. What is asked for: `block`,
//! `block_gossip`, `attestation`, `single_attestation`, `attester_slashing`, `proposer_slashing`. A block's event carries
//! its root only, so the block is fetched from *that* node: of two blocks for one slot, each node may have only one.
//!
//! What nodes get wrong, and what is done about it:
//! - some send headers only with the first event, so a stream counts as open when bytes come, and the wait for the first
//!   is bounded by [`StreamConfig::silence`];
//! - some let a request for a topic they do not know hang, others refuse it: after a failure the topics are tried in
//!   smaller sets ([`TOPIC_SETS`]), the newest left out first;
//! - `topics=` must be repeated, a comma list is not understood by all;
//! - a line without end would grow without bound: an event of more than [`MAX_API_EVENT_LEN`] ends the stream.
//!
//! Source: beacon-APIs, `apis/eventstream/index.yaml`.

use crate::capture::{ApiEventEntry, MAX_API_EVENT_LEN};
use crate::gossip::Clock;
use crate::intake::{ApiContent, Intake};
use crate::metrics::SourceMetrics;
use chain::node::{BlockId, NodeConfig, NodeError, NodeSet};
use consensus::{Network, Root};
use eventsource_stream::Eventsource;
use futures::{Stream, StreamExt};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};
use verify::RawMessage;

/// What is asked for, in the order of attempts. The middle set is for nodes before Electra, the last for old ones.
pub const TOPIC_SETS: [&[&str]; 3] = [
    &["block", "block_gossip", "attestation", "single_attestation", "attester_slashing", "proposer_slashing"],
    &["block", "attestation", "attester_slashing", "proposer_slashing"],
    &["block", "attestation"],
];
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
    /// First and greatest pause before a stream is opened again.
    pub reconnect: (Duration, Duration),
    /// A stream that is silent for so long is opened again. `None`: three slots.
    pub silence: Option<Duration>,
    pub clock: Clock,
    pub node: NodeConfig,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            queue_events: 16_384,
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
    /// A stream came up or went down.
    Connection { node: String, up: bool, problem: Option<String> },
}

/// Running streams; dropping it ends them.
#[derive(Debug)]
pub struct StreamHandle {
    pub events: mpsc::Receiver<StreamEvent>,
    _stop: DropGuard,
}

/// Opens a stream to each node of `nodes`, on the current tokio runtime.
pub fn start(
    nodes: &NodeSet,
    config: StreamConfig,
    network: Arc<Network>,
    metrics: SourceMetrics,
) -> Result<StreamHandle, NodeError> {
    let (sender, events) = mpsc::channel(config.queue_events.max(1));
    let stop = CancellationToken::new();
    let intake = Arc::new(Intake::new(network));
    for (nth, url) in nodes.urls().iter().enumerate() {
        let stream = NodeStream {
            // The set's own client ends requests that take long, which a stream is meant to.
            client: client(config.node.connect_timeout)?,
            url: url.clone(),
            label: nodes.label(nth),
            node: Arc::new(NodeSet::new(&[url.to_string()], config.node.clone())?),
            config: config.clone(),
            intake: intake.clone(),
            metrics: metrics.clone(),
            events: sender.clone(),
            fetched: Recent::default(),
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stream.run() => {}
                () = stopped.cancelled() => {}
            }
        });
    }
    Ok(StreamHandle { events, _stop: stop.drop_guard() })
}

fn client(connect_timeout: Duration) -> Result<reqwest::Client, NodeError> {
    reqwest::Client::builder()
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
    #[error("the node refuses the event stream with status {0}; fewer topics are tried next")]
    Refused(u16),
    #[error("nothing came for {0:?}; it is opened again")]
    Silent(Duration),
    #[error("it broke: {0}; it is opened again")]
    Broken(String),
    #[error("the node closed it; it is opened again")]
    Closed,
}

/// One node's stream.
struct NodeStream {
    client: reqwest::Client,
    url: reqwest::Url,
    label: String,
    node: Arc<NodeSet>,
    config: StreamConfig,
    intake: Arc<Intake>,
    metrics: SourceMetrics,
    events: mpsc::Sender<StreamEvent>,
    fetched: Recent,
}

impl NodeStream {
    async fn run(mut self) {
        let (mut failures, mut topic_set) = (0u32, 0usize);
        loop {
            let mut n_events = 0u64;
            let end = self.follow(TOPIC_SETS[topic_set], &mut n_events).await;
            if n_events > 0 {
                failures = 0;
            } else if matches!(end, StreamEnd::Refused(_) | StreamEnd::Silent(_)) {
                // Perhaps a topic that it does not know: fewer, and in the end all of them again.
                topic_set = (topic_set + 1) % TOPIC_SETS.len();
            }
            warn!(node = %self.label, reason = %end, n_events, "an event stream ended");
            self.emit(StreamEvent::Connection { node: self.label.clone(), up: false, problem: Some(end.to_string()) }, "connection");
            self.metrics.stream_reconnects.inc();
            let (first, greatest) = self.config.reconnect;
            let pause = first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(greatest);
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            failures = failures.saturating_add(1);
        }
    }

    /// One stream from its opening to its end.
    async fn follow(&mut self, topics: &[&str], n_events: &mut u64) -> StreamEnd {
        let slot = self.intake.network().spec.slot_duration;
        let silence = self.config.silence.unwrap_or(slot.saturating_mul(3)).max(Duration::from_millis(1));
        let request = self.client.get(events_url(&self.url, topics)).header(reqwest::header::ACCEPT, "text/event-stream");
        let response = match tokio::time::timeout(silence, request.send()).await {
            Err(_) => return StreamEnd::Silent(silence),
            Ok(Err(error)) => return StreamEnd::Unreachable(error.without_url().to_string()),
            Ok(Ok(response)) if !response.status().is_success() => return StreamEnd::Refused(response.status().as_u16()),
            Ok(Ok(response)) => response,
        };
        info!(node = %self.label, ?topics, "an event stream is open");
        self.emit(StreamEvent::Connection { node: self.label.clone(), up: true, problem: None }, "connection");
        let pending = Arc::new(AtomicUsize::new(0));
        let mut stream = Box::pin(bounded(response.bytes_stream(), pending.clone()).eventsource());
        let mut fetches: JoinSet<Fetched> = JoinSet::new();
        loop {
            tokio::select! {
                next = tokio::time::timeout(silence, stream.next()), if fetches.len() < MAX_FETCHES => {
                    let event = match next {
                        Err(_) => return StreamEnd::Silent(silence),
                        Ok(None) => return StreamEnd::Closed,
                        Ok(Some(Err(error))) => return StreamEnd::Broken(error.to_string()),
                        Ok(Some(Ok(event))) => event,
                    };
                    pending.store(0, Ordering::Relaxed);
                    *n_events += 1;
                    if let Some(root) = self.on_event(event) {
                        fetches.spawn(fetch(self.node.clone(), self.intake.clone(), root));
                    }
                }
                Some(done) = fetches.join_next() => self.on_fetched(done.unwrap_or(Fetched::Failed)),
            }
        }
    }

    /// Hands a message on; or gives the root of a block to fetch.
    fn on_event(&mut self, event: eventsource_stream::Event) -> Option<Root> {
        let at = self.config.clock.now();
        let entry = ApiEventEntry { at, node: self.label.clone(), topic: event.event, json: event.data };
        match self.intake.api_event(&entry) {
            Ok(ApiContent::Message(raw)) => {
                self.message(raw, Some(Box::new(entry)));
                None
            }
            Ok(ApiContent::BlockAnnounced { root, .. }) => self.fetched.insert(root).then_some(root),
            Err(refusal) => {
                debug!(node = %self.label, %refusal, "an event is no message");
                self.metrics.refused.with_label_values(&[refusal.label()]).inc();
                None
            }
        }
    }

    fn on_fetched(&mut self, fetched: Fetched) {
        self.metrics.fetched_blocks.with_label_values(&[fetched.label()]).inc();
        if let Fetched::Block(fork, ssz) = fetched {
            let raw = self.intake.fetched_block(ssz, fork, &self.label, self.config.clock.now());
            self.message(raw, None);
        }
    }

    fn message(&self, raw: RawMessage, entry: Option<Box<ApiEventEntry>>) {
        self.metrics.received.with_label_values(&[raw.kind.label()]).inc();
        self.emit(StreamEvent::Message { raw: Box::new(raw), entry }, "message");
    }

    fn emit(&self, event: StreamEvent, what: &'static str) {
        if self.events.try_send(event).is_err() {
            self.metrics.shed.with_label_values(&[what]).inc();
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

/// Ends a stream whose current event has grown too long. `pending` is set to 0 by whoever takes an event.
fn bounded<B: AsRef<[u8]>, E: std::error::Error + Send + Sync + 'static>(
    bytes: impl Stream<Item = Result<B, E>>,
    pending: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<B, io::Error>> {
    bytes.map(move |piece| {
        let piece = piece.map_err(io::Error::other)?;
        let grown = pending.fetch_add(piece.as_ref().len(), Ordering::Relaxed) + piece.as_ref().len();
        if grown > MAX_API_EVENT_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an event of more than {MAX_API_EVENT_LEN} bytes")));
        }
        Ok(piece)
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
