//! Starts the sources and forwards what they receive to the engine's queue or to a capture.

use crate::config::{Config, mib};
use crate::engine_thread::Input;
use crate::error::WatcherError;
use crate::inputs::Inputs;
use crate::peer_news::of_event;
use consensus::Network;
use sources::api_stream::{StreamEvent, StreamHandle};
use sources::gossip::{
    GossipConfig, GossipControl, GossipEvent, GossipHandle, GossipService, Identity, PeerAddress, PeerEvent, PeerEventKind,
    StatusView, listen_address,
};
use sources::metrics::SourceMetrics;
use sources::queue::QueueBytes;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use verify::{Ticket, Verdict};

/// Starts gossip as configured. Returns `None` if it is disabled. `identity` is used if the
/// configuration names no identity file.
pub fn start_gossip(
    config: &Config,
    identity: Identity,
    network: &Arc<Network>,
    metrics: SourceMetrics,
) -> Result<Option<GossipHandle>, WatcherError> {
    let section = &config.gossip;
    // The watcher has no blocks to serve, so its Status message claims none: it reports genesis as
    // its head. If it reported a head of one branch during a split, a node of the other branch
    // could believe that it must catch up with the watcher. That node would stop its validators
    // until it gives up and bans the watcher.
    let (_, status) = watch::channel(StatusView::default());
    if !section.enabled {
        return Ok(None);
    }
    let usage = |error: String| WatcherError::Usage(format!("gossip: {error}"));
    let listen = section.listen.iter().map(|text| listen_address(text).map_err(|error| usage(error.to_string())));
    let peers = section.peers.iter().map(|text| text.parse::<PeerAddress>().map_err(|error| usage(error.to_string())));
    let gossip = GossipConfig {
        listen: listen.collect::<Result<_, _>>()?,
        peers: peers.collect::<Result<_, _>>()?,
        max_peers: section.max_peers,
        data_column_subnets: section.data_column_subnets,
        identity: section.identity_file.clone().map_or(identity, Identity::File),
        queue_messages: section.queue_messages,
        queue_bytes: QueueBytes { total: mib(section.queue_mib), per_peer: mib(section.queue_mib_per_peer) },
        ..GossipConfig::default()
    };
    Ok(Some(GossipService::start(gossip, network.clone(), status, metrics)?))
}

/// Returns the number of connected peers.
pub fn n_connected(gossip: &GossipControl) -> u64 {
    gossip.peers().iter().filter(|peer| peer.connected).count() as u64
}

/// Forwards gossip to the engine's queue until cancelled. Then it says goodbye to the peers.
pub async fn pump(mut gossip: GossipHandle, queue: Inputs, cancel: CancellationToken) {
    // At a stop, the events that were received until then are still forwarded.
    let mut left: Option<usize> = None;
    while left != Some(0) {
        let event = tokio::select! {
            () = cancel.cancelled(), if left.is_none() => {
                left = Some(gossip.events.len());
                continue;
            }
            event = gossip.events.recv() => event,
        };
        left = left.map(|n| n - 1);
        match event {
            // Waiting here is the backpressure. Meanwhile the queue of gossip fills up. When it is
            // full, it drops messages and counts them.
            Some(GossipEvent::Message(message)) => {
                if queue.send(Input::Message(message.raw)).await.is_err() {
                    break;
                }
            }
            Some(GossipEvent::Peer(event)) => {
                log_peer(&event);
                // Events about peers are dropped when the queue is full.
                if let Some(news) = of_event(&event) {
                    let _ = queue.try_send(Input::Peer(news));
                }
            }
            Some(GossipEvent::ListeningOn(address)) => tracing::info!(%address, "gossip listens"),
            None => break,
        }
    }
    gossip.shutdown().await;
}

/// Logs an event about a peer. Connections and goodbyes are logged at level info. What peers report
/// about themselves twice a minute is logged at level debug.
pub fn log_peer(event: &PeerEvent) {
    match &event.what {
        PeerEventKind::Connected { .. } | PeerEventKind::Disconnected { .. } | PeerEventKind::Goodbye { .. } => {
            tracing::info!(peer = %event.peer, what = ?event.what, "peer");
        }
        PeerEventKind::Agent { .. } | PeerEventKind::Status { .. } | PeerEventKind::Metadata { .. } => {
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

/// Forwards the event streams of the beacon nodes to the engine's queue until cancelled.
pub async fn pump_streams(mut streams: StreamHandle, queue: Inputs, cancel: CancellationToken) {
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = streams.events.recv() => event,
        };
        match event {
            Some(StreamEvent::Message { raw, .. }) => {
                if queue.send(Input::Message(*raw)).await.is_err() {
                    return;
                }
            }
            Some(StreamEvent::Connection { node, up, problem }) => tracing::info!(node, up, problem, "event stream"),
            None => return,
        }
    }
}

/// A task and its name for the log.
pub type NamedTask = (&'static str, JoinHandle<()>);
