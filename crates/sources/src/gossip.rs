//! A listener in the p2p network: it receives gossip, and applies the verifier's verdicts.
//!
//! One call of [`GossipService::start`] creates one libp2p node: TCP with noise and yamux (and
//! mplex for old clients), QUIC, gossipsub with Ethereum's message ids, and the few requests that a
//! node must answer so that its peers keep it. Several networks need several services. Nothing in
//! this module is global.
//!
//! ```text
//! peers <-> swarm (one task) -> events: Message, Peer, ListeningOn
//!                                  (bounded; a message that does not fit is dropped and counted)
//!                            <- report(ticket, verdict)
//!                                  (only then is a message forwarded, or its sender penalized)
//!                            <- publish(topic, ssz)
//!                                  (simulated nodes only)
//! ```
//!
//! The node is a correct peer. It forwards only messages that the verifier has accepted on their
//! own merit. It answers `status`, `ping`, `metadata` and `goodbye`, because clients drop a peer
//! that does not. It reports its true state: a head that the caller supplies and that is never
//! later than the clock, all 64 attestation subnets, and the slots whose blocks it keeps. It sends
//! these blocks to peers that ask, and it asks peers for blocks ([`BlockClient`]). It answers a
//! request for other data with the answer that the asking client penalizes least. It does not dial
//! a peer for minutes after that peer's goodbye with a lasting reason. `docs/peers.md` has tables
//! of all this.
//!
//! Configured peers are dialled without end, with growing pauses. Other peers may connect up to a
//! limit, and each address has a few of these places at most. With discovery, three quarters of the
//! places are filled by dialling nodes that were found; the rest is for those who dial us. The mesh
//! of each topic has about 8 peers. All others are connected and subscribed: they send IHAVE, and
//! what they publish themselves, which is what this node is after, at a small price.
//!
//! Source: consensus-specs, `*/p2p-interface.md`.

mod address;
mod admission;
mod announced;
mod behaviour;
mod block_requests;
mod client;
mod crawl;
mod crawl_report;
mod dial_fault;
mod events;
mod filter;
mod fork_poll;
mod forwarding;
mod goodbyes;
mod identity;
mod peer_book;
mod peers;
mod requests;
mod rpc;
mod schedule;
mod scoring;
mod selection;
mod state;
mod task;
mod tickets;
mod transform;

pub use address::{AddressError, PeerAddress, listen_address};
pub use admission::AddressLimit;
pub use block_requests::{BlockClient, MAX_ASKED_BLOCKS, NoAnswer, PeerBlock};
pub use client::Client;
pub use crawl::{CrawlConfig, CrawlLimits, CrawlProgress, crawl};
pub use crawl_report::{ClientRow, CrawlReport, CrawledNode, ForkRow, Reached, Transport, TransportRow};
pub use events::{PeerEvent, PeerEventKind, PeerInfo};
pub use fork_poll::AnnouncedFork;
pub use goodbyes::PeerGoodbye;
pub use identity::{Identity, IdentityError};
pub(crate) use peer_book::Learned;
pub(crate) use rpc::goodbye;
pub use rpc::{Metadata, StatusMessage};
pub(crate) use schedule::digests_near;
pub use schedule::topics_at;
pub use scoring::FORGIVEN_AFTER;
pub use selection::{KeepUseful, PeerCandidate, PeerSelection};
pub use state::{ConnectionState, TopicPeers};
pub use transform::{IdRules, message_id};

use crate::block_store::BlockStore;
use crate::discovery::{DiscoveryConfig, DiscoveryError};
use crate::metrics::SourceMetrics;
use crate::queue::{QueueBytes, QueueReceiver, queue};
use crate::source::{Source, SourceEvent};
use crate::topic::Topic;
use base::Backoff;
use consensus::{Checkpoint, Gwei, Network, Root, Slot};
use futures::future::BoxFuture;
use libp2p::Multiaddr;
pub use libp2p::PeerId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
pub use verify::Verdict;
use verify::{PeerBytes, Ticket, Time};

/// Places in the event queue that are reserved for peer events, so that a flood of messages cannot
/// displace a goodbye.
pub(crate) const PEER_EVENT_PLACES: usize = 256;
/// Capacity of the channel of verdicts.
const REPORT_QUEUE: usize = 131_072;
/// Capacity of the channel of messages to publish.
const PUBLISH_QUEUE: usize = 1024;
/// Peers that are not configured, if nothing else is said.
pub const DEFAULT_MAX_PEERS: usize = 200;

/// Configuration of a listener. `GossipConfig::default()` listens on no address and dials nobody.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// Multiaddrs of TCP or QUIC to listen on. Port 0 takes a free port, which
    /// [`SourceEvent::ListeningOn`] reports.
    pub listen: Vec<Multiaddr>,
    /// Peers that are dialled again whenever they are not connected.
    pub peers: Vec<PeerAddress>,
    /// Greatest number of peers that are not configured. A tenth of the places is for newcomers:
    /// when it is taken too, `selection` says who goes.
    pub max_peers: usize,
    /// `D`: peers in the mesh of a topic, from three quarters of it up to one and a half times as
    /// many. All other peers of the topic tell us by IHAVE what they have.
    pub mesh_peers: usize,
    /// How many connections one address and one prefix may have. Configured peers are free of it.
    pub address_limit: AddressLimit,
    /// Who goes when the places are taken.
    pub selection: Arc<dyn PeerSelection>,
    /// How long a newcomer may show what it is worth before `selection` looks at it.
    pub newcomer: Duration,
    /// The shortest time between two nodes that are dialled although the places are taken.
    pub fastest_turn: Duration,
    /// How long a subscription that has ended still counts, at least; at most twice as long. In
    /// this time a peer may still send what it has to forward. Clients keep messages for about five
    /// seconds.
    pub announced_for: Duration,
    /// How long a peer is refused after it was sent away for its score.
    pub ban: Duration,
    /// How peers are found. Without it they are those of the configuration, and who dials us.
    pub discovery: Option<DiscoveryConfig>,
    /// Number of data column subnets to subscribe to. Their sidecars contain signed block headers.
    pub data_column_subnets: u64,
    /// The source of this node's network key.
    pub identity: Identity,
    /// Capacity of `events` in messages. A message that does not fit is dropped and counted.
    pub queue_messages: usize,
    /// Capacity of `events` in bytes, counting each message's compressed payload and its SSZ.
    pub queue_bytes: QueueBytes,
    /// Messages that may wait to be sent to one peer. A message that does not fit is not sent to
    /// that peer.
    pub send_queue_messages: usize,
    /// The agent string that this node reports to its peers.
    pub agent: String,
    pub clock: Clock,
    /// The interval of gossipsub's heartbeat. The specification says 0.7 s.
    pub heartbeat: Duration,
    /// The pauses between attempts to reach a configured peer.
    pub reconnect: Backoff,
    /// The pauses after a peer's goodbye with a lasting reason: too many peers, a bad score, a ban.
    pub goodbye_pause: Backoff,
    /// Whether to subscribe to topics. A node that only publishes does not need to.
    pub subscribe: bool,
    /// The blocks that peers are served. Without it, none are.
    pub blocks: Option<BlockStore>,
    /// How long a request for blocks may take, in either direction, until its last block has been
    /// sent. A peer that reads or writes more slowly is cut off.
    pub block_timeout: Duration,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            peers: Vec::new(),
            max_peers: DEFAULT_MAX_PEERS,
            mesh_peers: 8,
            address_limit: AddressLimit::NONE,
            selection: Arc::new(KeepUseful),
            newcomer: Duration::from_secs(10),
            fastest_turn: Duration::from_secs(5),
            announced_for: Duration::from_secs(12),
            ban: FORGIVEN_AFTER,
            discovery: None,
            data_column_subnets: 4,
            identity: Identity::Ephemeral,
            queue_messages: 65_536,
            queue_bytes: QueueBytes::DEFAULT,
            send_queue_messages: 5_000,
            agent: concat!("slashwatch/", env!("CARGO_PKG_VERSION")).to_owned(),
            clock: Clock::system(),
            heartbeat: Duration::from_millis(700),
            reconnect: Backoff::new(Duration::from_secs(1), Duration::from_secs(120)),
            goodbye_pause: Backoff::new(Duration::from_secs(5 * 60), Duration::from_secs(12 * 3600)),
            subscribe: true,
            blocks: None,
            block_timeout: Duration::from_secs(20),
        }
    }
}

/// The source of the time: the system's clock, or a clock that a test controls.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn system() -> Self {
        Self::new(Time::now)
    }

    pub fn now(&self) -> Time {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What this node reports about its chain in its status. The default is genesis, so it claims no
/// chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusView {
    pub finalized: Checkpoint,
    pub head_root: Root,
    pub head_slot: Slot,
}

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "cannot listen on {address}: {reason}; choose a TCP or QUIC multiaddr of this machine with a free port, or none to dial only"
    )]
    Listen { address: Multiaddr, reason: String },
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error("the network cannot be set up: {0}; check the system's name resolution (resolv.conf) and limits")]
    Setup(String),
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("message of {0} bytes is too long for gossip; send at most 10 MiB")]
    TooLong(usize),
    #[error("nobody to publish to, or known already: {0}; wait for peers to subscribe")]
    Refused(String),
    #[error("the listener has ended or its queue is full; publish more slowly")]
    Unavailable,
}

/// Effective balances of the validators whose votes come from each connected peer and from no
/// other. The listener uses it to choose peers. It says nothing about which validators these are.
pub type FirstHandStake = Arc<BTreeMap<PeerBytes, Gwei>>;

/// Starts listeners.
pub struct GossipService;

impl GossipService {
    /// Starts a node in a task on the current tokio runtime. `status` is what the node reports to
    /// its peers, and the caller keeps it up to date.
    pub fn start(
        config: GossipConfig,
        network: Arc<Network>,
        status: watch::Receiver<StatusView>,
        metrics: SourceMetrics,
    ) -> Result<GossipHandle, GossipError> {
        let (events_in, events) = queue(config.queue_messages.max(1) + PEER_EVENT_PLACES, config.queue_bytes);
        let (reports, reports_out) = mpsc::channel(REPORT_QUEUE);
        let (publish, publish_out) = mpsc::channel(PUBLISH_QUEUE);
        let (peers_in, peers) = watch::channel(Arc::default());
        let (state_in, state) = watch::channel(Arc::default());
        let (first_hand, first_hand_out) = watch::channel(FirstHandStake::default());
        let stop = CancellationToken::new();
        let channels = task::Channels {
            events: events_in,
            reports: reports_out,
            publish: publish_out,
            peers: peers_in,
            status,
            state: state_in,
            first_hand: first_hand_out,
            stop: stop.clone(),
        };
        let (blocks, block_commands) = BlockClient::new(network.clone(), config.clock.clone(), metrics.clone());
        let listener = task::GossipTask::new(config, network, metrics.clone(), channels, block_commands)?;
        let peer_id = listener.peer_id();
        let task = tokio::spawn(listener.run());
        let first_hand = Arc::new(first_hand);
        let control = GossipControl { reports, publish, peers, state, first_hand, blocks, metrics };
        Ok(GossipHandle { events, control, peer_id, stop: stop.drop_guard(), task })
    }
}

/// Handle of a running listener. Dropping it stops the listener. [`GossipHandle::shutdown`] does
/// the same and waits until the listener has ended.
#[derive(Debug)]
pub struct GossipHandle {
    pub events: QueueReceiver<SourceEvent>,
    /// For callers that report verdicts, publish or look at peers while another task reads
    /// `events`.
    pub control: GossipControl,
    pub peer_id: PeerId,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl GossipHandle {
    pub fn report(&self, ticket: Ticket, verdict: Verdict) {
        self.control.report(ticket, verdict);
    }

    /// Says goodbye to all peers, closes the connections, and waits until the task has ended, which
    /// takes about one second at most. Events that are still in the queue are dropped.
    pub async fn shutdown(self) {
        let Self { events, stop, task, .. } = self;
        drop(events);
        drop(stop);
        // The runtime reports a panic of the task. There is nobody left to return it to.
        let _ = task.await;
    }

    /// Returns a handle for everything except reading events. The listener stops when the
    /// [`GossipHandle`] is dropped, even if controls remain.
    pub fn control(&self) -> GossipControl {
        self.control.clone()
    }
}

impl Source for GossipHandle {
    fn name(&self) -> &'static str {
        "gossip"
    }

    fn events(&mut self) -> &mut QueueReceiver<SourceEvent> {
        &mut self.events
    }

    fn shutdown(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(Self::shutdown(*self))
    }
}

/// Reports verdicts, publishes messages, asks for blocks and shows peers. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct GossipControl {
    reports: mpsc::Sender<(Ticket, Verdict)>,
    publish: mpsc::Sender<task::Publication>,
    peers: watch::Receiver<Arc<Vec<PeerInfo>>>,
    state: watch::Receiver<Arc<ConnectionState>>,
    first_hand: Arc<watch::Sender<FirstHandStake>>,
    blocks: BlockClient,
    metrics: SourceMetrics,
}

impl GossipControl {
    /// Reports the verdict on a message: `Accept` forwards it, `Reject` lowers its sender's score.
    /// This method never blocks. A verdict that does not fit the channel is dropped, with the
    /// effect of `Ignore`.
    pub fn report(&self, ticket: Ticket, verdict: Verdict) {
        if self.reports.try_send((ticket, verdict)).is_err() {
            self.metrics.shed.with_label_values(&["verdict"]).inc();
        }
    }

    /// Publishes SSZ on a topic.
    pub async fn publish(&self, topic: Topic, ssz: &[u8]) -> Result<(), PublishError> {
        let framed = transform::frame(ssz).ok_or(PublishError::TooLong(ssz.len()))?;
        self.publish_framed(topic, framed).await
    }

    /// Publishes a payload as it is, for simulated nodes that misbehave.
    pub async fn publish_payload(&self, topic: Topic, payload: &[u8]) -> Result<(), PublishError> {
        self.publish_framed(topic, transform::frame_of_payload(payload)).await
    }

    async fn publish_framed(&self, topic: Topic, framed: Vec<u8>) -> Result<(), PublishError> {
        let (done, answer) = oneshot::channel();
        let publication = task::Publication { topic, framed, done };
        self.publish.try_send(publication).map_err(|_| PublishError::Unavailable)?;
        answer.await.map_err(|_| PublishError::Unavailable)?
    }

    /// Returns the peers, configured ones first. The list is about one second old at most.
    pub fn peers(&self) -> Arc<Vec<PeerInfo>> {
        self.peers.borrow().clone()
    }

    /// Returns the state of all connections together, about one second old at most.
    pub fn state(&self) -> Arc<ConnectionState> {
        self.state.borrow().clone()
    }

    /// Tells the listener how much stake each peer brings first-hand.
    pub fn set_first_hand(&self, stake: FirstHandStake) {
        self.first_hand.send_if_modified(|known| {
            let is_new = !Arc::ptr_eq(known, &stake);
            *known = stake;
            is_new
        });
    }

    /// Returns what asks peers for blocks.
    pub fn blocks(&self) -> &BlockClient {
        &self.blocks
    }

    /// Returns a receiver that sees each new list of peers, about once a second.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<Vec<PeerInfo>>> {
        self.peers.clone()
    }
}
