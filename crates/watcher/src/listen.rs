//! Starts the sources and forwards what they receive to the engine's queue or to a capture.

use crate::config::{Config, mib};
use crate::engine_thread::Input;
use crate::error::WatcherError;
use crate::file_handles;
use crate::inputs::Inputs;
use crate::network_folder;
use crate::peer_news::of_event;
use chain::node::NodeSet;
use consensus::Network;
use sources::api_stream::{self, StreamConfig};
use sources::block_store::BlockStore;
use sources::discovery::{BootNode, DiscoveryConfig, ExternalAddress};
use sources::gossip::{
    AddressLimit, GossipConfig, GossipControl, GossipHandle, GossipService, Identity, PeerAddress, PeerEvent, PeerEventKind,
    StatusView, listen_address,
};
use sources::metrics::SourceMetrics;
use sources::queue::QueueBytes;
use sources::source::{Source, SourceEvent};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verify::{Ticket, Verdict};

/// Peers of a node that only asks for blocks.
const MAX_ASKED_PEERS: usize = 32;

/// The sources that run.
pub struct RunningSources {
    pub all: Vec<Box<dyn Source>>,
    /// For the verdicts on gossip messages, if gossip is enabled.
    pub gossip: Option<GossipControl>,
}

/// What gossip peers are told of this node's chain, and the blocks that they are served.
pub struct Served {
    /// The node's head and finalized checkpoint.
    pub status: watch::Receiver<StatusView>,
    /// `None` if no blocks are kept.
    pub blocks: Option<BlockStore>,
}

impl Served {
    /// Claims no chain and has no blocks.
    pub fn nothing() -> Self {
        let (_, status) = watch::channel(StatusView::default());
        Self { status, blocks: None }
    }
}

/// Starts the sources that the configuration enables. Every source has a line here. `identity` is
/// used if the configuration names no identity file.
pub fn start_sources(
    config: &Config,
    identity: Identity,
    served: Served,
    nodes: Option<&NodeSet>,
    network: &Arc<Network>,
    metrics: &SourceMetrics,
) -> Result<RunningSources, WatcherError> {
    let gossip = start_gossip(config, identity, served, network, metrics.clone())?;
    let control = gossip.as_ref().map(GossipHandle::control);
    let mut all: Vec<Box<dyn Source>> = Vec::new();
    all.extend(gossip.map(|gossip| Box::new(gossip) as Box<dyn Source>));
    if let Some(nodes) = nodes.filter(|_| config.event_stream.enabled) {
        all.push(Box::new(api_stream::start(nodes, StreamConfig::default(), network.clone(), metrics.clone())?));
    }
    Ok(RunningSources { all, gossip: control })
}

/// Starts a node that only asks peers for blocks. It subscribes to nothing and listens on no
/// address.
pub fn start_asking(config: &Config, identity: Identity, network: &Arc<Network>) -> Result<GossipHandle, WatcherError> {
    let gossip = gossip_config(config, identity)?;
    if !config.gossip.enabled || (gossip.peers.is_empty() && gossip.discovery.is_none()) {
        return Err(WatcherError::Usage(
            "no peer is known to ask for blocks: name the network (--network NAME or FOLDER), or give `gossip.peers` or \
             `gossip.discovery.boot_nodes`, and do not switch gossip off"
                .into(),
        ));
    }
    let gossip = GossipConfig {
        listen: Vec::new(),
        subscribe: false,
        max_peers: gossip.max_peers.min(MAX_ASKED_PEERS),
        // Nobody reads the events.
        queue_messages: 1,
        ..gossip
    };
    Ok(GossipService::start(gossip, network.clone(), Served::nothing().status, SourceMetrics::unregistered())?)
}

/// Starts gossip as configured. Returns `None` if it is disabled.
fn start_gossip(
    config: &Config,
    identity: Identity,
    served: Served,
    network: &Arc<Network>,
    metrics: SourceMetrics,
) -> Result<Option<GossipHandle>, WatcherError> {
    if !config.gossip.enabled {
        return Ok(None);
    }
    let gossip = GossipConfig { blocks: served.blocks, ..gossip_config(config, identity)? };
    Ok(Some(GossipService::start(gossip, network.clone(), served.status, metrics)?))
}

fn gossip_config(config: &Config, identity: Identity) -> Result<GossipConfig, WatcherError> {
    let section = &config.gossip;
    let usage = |error: String| WatcherError::Usage(format!("gossip: {error}"));
    let of_api = if config.api.enabled { config.api.max_connections } else { 0 };
    file_handles::raise_for(section.max_peers.saturating_add(of_api));
    let discovery = discovery(config)?;
    let is_private = discovery.as_ref().is_none_or(|discovery| discovery.allow_private);
    let listen = section.listen.iter().map(|text| listen_address(text).map_err(|error| usage(error.to_string())));
    let peers = section.peers.iter().map(|text| text.parse::<PeerAddress>().map_err(|error| usage(error.to_string())));
    Ok(GossipConfig {
        listen: listen.collect::<Result<_, _>>()?,
        peers: peers.collect::<Result<_, _>>()?,
        max_peers: section.max_peers,
        // Without discovery the peers are those of the operator, often all on one machine.
        address_limit: if is_private { AddressLimit::NONE } else { AddressLimit::PUBLIC },
        discovery,
        data_column_subnets: section.data_column_subnets,
        identity: section.identity_file.clone().map_or(identity, Identity::File),
        queue_messages: section.queue_messages,
        queue_bytes: QueueBytes { total: mib(section.queue_mib), per_peer: mib(section.queue_mib_per_peer) },
        ..GossipConfig::default()
    })
}

/// Returns how peers are found, or `None` if discovery is switched off or nobody is known to ask.
fn discovery(config: &Config) -> Result<Option<DiscoveryConfig>, WatcherError> {
    let section = &config.gossip.discovery;
    if !section.enabled {
        return Ok(None);
    }
    let boot_nodes = boot_nodes(config)?;
    let peer_book = config.data_dir.join("peers.txt");
    if boot_nodes.is_empty() && !peer_book.is_file() {
        tracing::info!("no boot node is known, so no peers are searched for; `gossip.discovery.boot_nodes` takes some");
        return Ok(None);
    }
    let allow_private = section.private_addresses || (!boot_nodes.is_empty() && boot_nodes.iter().all(BootNode::is_private));
    Ok(Some(DiscoveryConfig {
        listen: section.listen.clone(),
        boot_nodes,
        external: section.external.iter().copied().map(ExternalAddress::new).collect(),
        allow_private,
        peer_book: Some(peer_book),
    }))
}

/// The boot nodes of the configuration, and those of its network.
pub fn boot_nodes(config: &Config) -> Result<Vec<BootNode>, WatcherError> {
    let section = &config.gossip.discovery;
    let mut boot_nodes: Vec<BootNode> = Vec::new();
    // The configuration was checked, so these can be read.
    boot_nodes.extend(section.boot_nodes.iter().filter_map(|text| text.parse().ok()));
    if let Some(folder) = &config.network.folder {
        for text in network_folder::boot_nodes(folder)? {
            match text.parse() {
                Ok(node) => boot_nodes.push(node),
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "a boot node of the network's folder is left out")
                }
            }
        }
    } else if let Some(name) = config.network.name.as_deref().filter(|_| config.network.config.is_none()) {
        boot_nodes.extend(BootNode::builtin(name));
    }
    Ok(boot_nodes)
}

/// Returns the number of connected peers.
pub fn n_connected(gossip: &GossipControl) -> u64 {
    gossip.peers().iter().filter(|peer| peer.connected).count() as u64
}

/// Forwards a source to the engine's queue until cancelled. Then it ends the source. `broken`
/// receives the name of a source that ends by itself.
pub async fn pump(mut source: Box<dyn Source>, queue: Inputs, broken: mpsc::Sender<&'static str>, cancel: CancellationToken) {
    // At a stop, the events that were received until then are still forwarded.
    let mut left: Option<usize> = None;
    while left != Some(0) {
        let event = tokio::select! {
            () = cancel.cancelled(), if left.is_none() => {
                left = Some(source.events().len());
                continue;
            }
            event = source.events().recv() => event,
        };
        left = left.map(|n| n - 1);
        let Some(event) = event else {
            if !cancel.is_cancelled() {
                let _ = broken.try_send(source.name());
            }
            break;
        };
        log_event(&event);
        match event {
            // Waiting here is the backpressure. Meanwhile the source's queue fills up. When it is
            // full, it drops messages and counts them.
            SourceEvent::Message(message) => {
                if queue.send(Input::Message(message.raw)).await.is_err() {
                    break;
                }
            }
            SourceEvent::Peer(event) => {
                // Events about peers are dropped when the queue is full.
                if let Some(news) = of_event(&event) {
                    let _ = queue.try_send(Input::Peer(news));
                }
            }
            SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => {}
        }
    }
    source.shutdown().await;
}

/// Logs what a source reports, except its messages.
pub fn log_event(event: &SourceEvent) {
    match event {
        SourceEvent::Message(_) => {}
        SourceEvent::Peer(event) => log_peer(event),
        SourceEvent::ListeningOn(address) => tracing::info!(%address, "gossip listens"),
        SourceEvent::Connection { node, up, problem } => tracing::info!(node, up, problem, "event stream"),
    }
}

/// Logs an event about a peer. Goodbyes are logged at level info, the rest at level debug, because
/// strangers come and go as often as they like, and must not fill the log.
fn log_peer(event: &PeerEvent) {
    match &event.what {
        PeerEventKind::Goodbye { .. } => tracing::info!(peer = %event.peer, what = ?event.what, "peer"),
        PeerEventKind::Connected { .. }
        | PeerEventKind::Disconnected { .. }
        | PeerEventKind::Agent { .. }
        | PeerEventKind::Status { .. }
        | PeerEventKind::Metadata { .. } => {
            tracing::debug!(peer = %event.peer, what = ?event.what, "peer");
        }
    }
}

/// Reports verdicts on messages to gossipsub until the engine closes the channel.
pub async fn report(gossip: GossipControl, mut verdicts: mpsc::Receiver<(Ticket, Verdict)>) {
    while let Some((ticket, verdict)) = verdicts.recv().await {
        gossip.report(ticket, verdict);
    }
}

/// A task and its name for the log.
pub type NamedTask = (&'static str, JoinHandle<()>);
