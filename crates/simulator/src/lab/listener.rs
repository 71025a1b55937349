//! A listener of the laboratory: the watcher's own gossip service.

use super::ListenerMesh;
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use consensus::Network;
use libp2p::Multiaddr;
use sources::gossip::{GossipConfig, GossipControl, GossipHandle, GossipService, Identity, StatusView, Verdict};
use sources::metrics::SourceMetrics;
use sources::source::{ReceivedAs, SourceEvent};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Peers in a listener's mesh, unless all are.
const SMALL_MESH: usize = 8;
/// As in [`GossipConfig`]. It is over before anything is published.
const ANNOUNCED_FOR: Duration = Duration::from_secs(2);
/// How long nodes have to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FirstCopy {
    /// The peer id of the sender.
    pub(super) sender: Vec<u8>,
    /// Whether the sender was subscribed to the topic.
    pub(super) subscribed: Option<bool>,
}

/// What a listener has heard, by payload.
pub(super) type Copies = HashMap<Vec<u8>, FirstCopy>;

/// A listener that runs.
pub(super) struct Post {
    pub(super) address: Multiaddr,
    /// What it has heard, when it has stopped.
    pub(super) copies: JoinHandle<Copies>,
    control: GossipControl,
    _status: watch::Sender<StatusView>,
}

impl Post {
    /// Starts a listener and waits until it has its address.
    pub(super) async fn start(
        post: usize,
        connections: usize,
        mesh: ListenerMesh,
        network: &Arc<Network>,
        random: &SeededRandom,
        stop: CancellationToken,
    ) -> Result<Self, SimError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SimError::Node { node: post, source };
        let config = GossipConfig {
            // An address of its own, because the delays of connections depend on it.
            listen: vec![format!("/ip4/127.1.{}.1/tcp/0", post + 1).parse().expect("a valid multiaddr")],
            identity: Identity::Secret(random.hash("listener key", &[post as u64])),
            // A tenth of the places is for newcomers, and nobody is to be sent away.
            max_peers: connections * 2,
            mesh_peers: match mesh {
                ListenerMesh::Small => SMALL_MESH,
                ListenerMesh::All => connections.max(SMALL_MESH),
            },
            // The nodes subscribe once. A peer that has just connected counts as subscribed for so
            // long.
            announced_for: ANNOUNCED_FOR,
            ..GossipConfig::default()
        };
        let (status_in, status) = watch::channel(StatusView::default());
        let mut handle = GossipService::start(config, network.clone(), status, SourceMetrics::unregistered())
            .map_err(|error| failed(Box::new(error)))?;
        let address = loop {
            match handle.events.recv().await {
                Some(SourceEvent::ListeningOn(address)) => break address,
                Some(_) => {}
                None => return Err(failed("it has ended".into())),
            }
        };
        let control = handle.control();
        Ok(Self { address, copies: tokio::spawn(listen(handle, stop)), control, _status: status_in })
    }

    /// Waits until that many peers are connected.
    pub(super) async fn is_connected(&mut self, connections: usize) -> Result<(), SimError> {
        let mut peers = self.control.watch_peers();
        let all = peers.wait_for(|peers| peers.iter().filter(|peer| peer.connected).count() >= connections);
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(SimError::Node { node: connections, source: "a listener did not get its connections in a minute".into() }),
        }
    }
}

/// Collects what a listener hears, until it is stopped. It passes nothing on.
async fn listen(mut handle: GossipHandle, stop: CancellationToken) -> Copies {
    let mut copies = Copies::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = handle.events.recv() => event,
        };
        let Some(event) = event else { break };
        let SourceEvent::Message(message) = event else { continue };
        let ReceivedAs::Gossip { payload, .. } = message.received_as else { continue };
        if let Some(ticket) = message.raw.ticket {
            handle.report(ticket, Verdict::Ignore);
        }
        let origin = &message.raw.origin;
        let sender = origin.peer.as_ref().map(|peer| peer.to_vec()).unwrap_or_default();
        copies.entry(payload).or_insert(FirstCopy { sender, subscribed: origin.subscribed });
    }
    handle.shutdown().await;
    copies
}
