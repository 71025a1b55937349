//! Starting the sources and leading what they hear somewhere: into the engine's queue, or into a capture.

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

/// Starts gossip as configured; `None` if it is switched off. `identity` is used where the configuration names no file.
pub fn start_gossip(
    config: &Config,
    identity: Identity,
    network: &Arc<Network>,
    metrics: SourceMetrics,
) -> Result<Option<GossipHandle>, WatcherError> {
    let section = &config.gossip;
    // We have no blocks to serve, so we claim none: genesis. A head of one branch told to the other half of a split would make
    // it think that it must catch up, with us, and stop its validators until it gives up and bans us.
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

/// Peers connected now.
pub fn n_connected(gossip: &GossipControl) -> u64 {
    gossip.peers().iter().filter(|peer| peer.connected).count() as u64
}

/// Leads gossip into the engine's queue until cancelled, then says goodbye to the peers.
pub async fn pump(mut gossip: GossipHandle, queue: Inputs, cancel: CancellationToken) {
    // At a stop, what was heard until then is still handed over.
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
            // Waiting here is the backpressure: behind us gossip's own queue fills up, and sheds and counts when it is full.
            Some(GossipEvent::Message(message)) => {
                if queue.send(Input::Message(message.raw)).await.is_err() {
                    break;
                }
            }
            Some(GossipEvent::Peer(event)) => {
                log_peer(&event);
                // A full queue has no room for gossip about gossip.
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

/// Who comes and goes is worth a line; what peers say about themselves twice a minute is not.
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

/// Tells the mesh what became of its messages, as long as the engine has something to say.
pub async fn report(gossip: GossipControl, mut verdicts: mpsc::Receiver<(Ticket, Verdict)>) {
    while let Some((ticket, verdict)) = verdicts.recv().await {
        gossip.report(ticket, verdict);
    }
}

/// Leads the nodes' event streams into the engine's queue until cancelled.
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

/// A task with a name for the log.
pub type NamedTask = (&'static str, JoinHandle<()>);
