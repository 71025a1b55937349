//! A listening post in the p2p network: gossip in, verdicts back.
//!
//! One [`GossipService::start`] makes one libp2p node: TCP, noise, yamux (mplex for old clients), gossipsub with Ethereum's
//! message ids, and the few requests a peer must answer to be kept. Several networks are several services; nothing here is
//! global.
//!
//! ```text
//! peers <-> swarm (one task) -> events: Message, Peer, ListeningOn   (bounded; full: the message is shed and counted)
//!                            <- report(ticket, verdict)               (only then is a message forwarded, or held against its sender)
//!                            <- publish(topic, ssz)                   (simulated nodes only)
//! ```
//!
//! Being a good neighbour: nothing is forwarded that the verifier did not accept by itself. To be kept by clients, the
//! node answers `status`, `ping`, `metadata` and `goodbye`, and says the truth about itself: a head given by the caller,
//! never beyond the clock; all 64 attestation subnets; no blocks to serve. Requests for data are answered as each client
//! forgives it. Whoever says goodbye for a lasting reason is left alone for minutes. `docs/peers.md` has it in tables.
//!
//! Configured peers are dialled for ever with growing pauses; others may connect up to a limit.
//!
//! Source: consensus-specs, `*/p2p-interface.md`.

mod address;
mod behaviour;
mod events;
mod filter;
mod goodbyes;
mod identity;
mod peers;
mod requests;
mod rpc;
mod schedule;
mod scoring;
mod task;
mod tickets;
mod transform;

pub use address::{AddressError, PeerAddress, listen_address};
pub use events::{GossipEvent, GossipMessage, PeerEvent, PeerEventKind, PeerInfo};
pub use goodbyes::PeerGoodbye;
pub use identity::{Identity, IdentityError, NUMBER_OF_COLUMN_SUBNETS};
pub use rpc::{Metadata, StatusMessage};
pub use schedule::{ATTESTATION_SUBNETS, topics_at};
pub use transform::{IdRules, message_id};

use crate::metrics::SourceMetrics;
use crate::topic::Topic;
use consensus::{Checkpoint, Network, Root, Slot};
use libp2p::{Multiaddr, PeerId};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use verify::{Ticket, UnixNs, Verdict};

/// Places in the event queue that only peer events may take, so that a flood of messages does not hide a goodbye.
pub(crate) const PEER_EVENT_PLACES: usize = 256;
/// Verdicts on their way back.
const REPORT_QUEUE: usize = 131_072;
/// Messages to publish on their way.
const PUBLISH_QUEUE: usize = 1024;

/// What a listener is told. `GossipConfig::default()` listens nowhere and dials nobody.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// TCP multiaddrs; port 0 takes a free one, reported by [`GossipEvent::ListeningOn`].
    pub listen: Vec<Multiaddr>,
    /// Peers to keep a connection to, for ever.
    pub peers: Vec<PeerAddress>,
    /// Connections to peers other than those.
    pub max_peers: usize,
    /// Column subnets to take signed headers from.
    pub data_column_subnets: u64,
    pub identity: Identity,
    /// Messages waiting to be taken from `events`; what does not fit is shed and counted.
    pub queue_messages: usize,
    /// Messages waiting to be sent to one peer; what does not fit is not sent to it.
    pub send_queue_messages: usize,
    /// How this node calls itself.
    pub agent: String,
    pub clock: Clock,
    /// gossipsub's, 0.7 s by the specification.
    pub heartbeat: Duration,
    /// First and greatest pause between attempts to reach a configured peer.
    pub reconnect: (Duration, Duration),
    /// The same after its goodbye with a reason that lasts: too many peers, a bad score, a ban.
    pub goodbye_pause: (Duration, Duration),
    /// Whether topics are subscribed to. A node that only publishes need not.
    pub subscribe: bool,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            peers: Vec::new(),
            max_peers: 100,
            data_column_subnets: 4,
            identity: Identity::Ephemeral,
            queue_messages: 65_536,
            send_queue_messages: 5_000,
            agent: concat!("slashwatch/", env!("CARGO_PKG_VERSION")).to_owned(),
            clock: Clock::system(),
            heartbeat: Duration::from_millis(700),
            reconnect: (Duration::from_secs(1), Duration::from_secs(120)),
            goodbye_pause: (Duration::from_secs(5 * 60), Duration::from_secs(12 * 3600)),
            subscribe: true,
        }
    }
}

/// Where the time comes from: the system's clock, or one that a test turns.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixNs + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> UnixNs + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn system() -> Self {
        Self::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UnixNs(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    pub fn now(&self) -> UnixNs {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What peers are told about our chain. The default claims nothing: genesis.
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
        "cannot listen on {address}: {reason}; choose a TCP multiaddr of this machine with a free port, or none to dial only"
    )]
    Listen { address: Multiaddr, reason: String },
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

/// Starts listeners.
pub struct GossipService;

impl GossipService {
    /// Starts a node in a task of its own on the current tokio runtime. `status`: what to tell peers, kept up to date by
    /// the caller.
    pub fn start(
        config: GossipConfig,
        network: Arc<Network>,
        status: watch::Receiver<StatusView>,
        metrics: SourceMetrics,
    ) -> Result<GossipHandle, GossipError> {
        let (events_in, events) = mpsc::channel(config.queue_messages.max(1) + PEER_EVENT_PLACES);
        let (reports, reports_out) = mpsc::channel(REPORT_QUEUE);
        let (publish, publish_out) = mpsc::channel(PUBLISH_QUEUE);
        let (peers_in, peers) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let channels = task::Channels {
            events: events_in,
            reports: reports_out,
            publish: publish_out,
            peers: peers_in,
            status,
            stop: stop.clone(),
        };
        let listener = task::Listener::new(config, network, metrics.clone(), channels)?;
        let peer_id = listener.peer_id();
        let task = tokio::spawn(listener.run());
        let control = GossipControl { reports, publish, peers, metrics };
        Ok(GossipHandle { events, control, peer_id, stop: stop.drop_guard(), task })
    }
}

/// A running listener. Dropping it stops it; [`GossipHandle::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct GossipHandle {
    pub events: mpsc::Receiver<GossipEvent>,
    /// For those who report, publish or look while another reads `events`.
    pub control: GossipControl,
    pub peer_id: PeerId,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl GossipHandle {
    pub fn report(&self, ticket: Ticket, verdict: Verdict) {
        self.control.report(ticket, verdict);
    }

    /// Says goodbye to all peers, closes, and waits for the end, two seconds at most. Events still queued are dropped.
    pub async fn shutdown(self) {
        let Self { events, stop, task, .. } = self;
        drop(events);
        drop(stop);
        // A panic of the task is its own report; there is nobody left to tell.
        let _ = task.await;
    }

    /// Splits the reading end from what else there is to do. The listener stops when both are dropped or the second is.
    pub fn control(&self) -> GossipControl {
        self.control.clone()
    }
}

/// Reports verdicts, publishes, and shows peers; cheap to clone.
#[derive(Clone, Debug)]
pub struct GossipControl {
    reports: mpsc::Sender<(Ticket, Verdict)>,
    publish: mpsc::Sender<task::Publication>,
    peers: watch::Receiver<Arc<Vec<PeerInfo>>>,
    metrics: SourceMetrics,
}

impl GossipControl {
    /// What the verifier thinks of a message: `Accept` forwards it, `Reject` lowers its senders' scores. Never blocks; what
    /// does not fit the queue counts as `Ignore`.
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

    /// Peers as of the last second, configured ones first.
    pub fn peers(&self) -> Arc<Vec<PeerInfo>> {
        self.peers.borrow().clone()
    }

    /// Changes with each look at the peers, about once a second.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<Vec<PeerInfo>>> {
        self.peers.clone()
    }
}
