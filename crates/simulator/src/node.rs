//! A node of a simulated network: real libp2p on loopback. It sends the messages that it is given,
//! and forwards none that it receives.

use crate::error::SimError;
use crate::honest::HonestNodes;
use consensus::Network;
use sources::gossip::{GossipConfig, GossipControl, GossipService, Identity, StatusView};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Greatest time to wait for the listening address. A socket on loopback is ready at once or never.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of messages that may wait for one listener: all messages of two mainnet slots, so that a
/// listener that is slow for a moment misses none.
const SEND_QUEUE: usize = 65_536;
/// Capacity of a node's event queue. All events are dropped.
const EVENT_QUEUE: usize = 4096;
/// The address to listen on. Port 0 takes any free port.
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

/// A running node. It ends when the token is cancelled with which it was started.
#[derive(Debug)]
pub(crate) struct Node {
    /// Multiaddr with `/p2p/`.
    pub(crate) address: String,
    pub(crate) control: GossipControl,
    pub(crate) task: JoinHandle<()>,
}

impl Node {
    /// Starts a node. `who` is its number, its network key and its agent string.
    pub(crate) async fn start(
        who: (usize, [u8; 32], String),
        network: Arc<Network>,
        status: watch::Receiver<StatusView>,
        honest: HonestNodes,
        stop: CancellationToken,
    ) -> Result<Self, SimError> {
        let (node, secret, agent) = who;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SimError::Node { node, source };
        let config = GossipConfig {
            listen: vec![LOOPBACK.parse().expect("a constant multiaddr")],
            identity: Identity::Secret(secret),
            queue_messages: EVENT_QUEUE,
            send_queue_messages: SEND_QUEUE,
            agent,
            ..GossipConfig::default()
        };
        let mut handle = GossipService::start(config, network, status, SourceMetrics::unregistered())
            .map_err(|error| failed(Box::new(error)))?;
        let listening = tokio::time::timeout(LISTEN_TIMEOUT, async {
            while let Some(event) = handle.events.recv().await {
                if let SourceEvent::ListeningOn(address) = event {
                    return Some(address.to_string());
                }
            }
            None
        });
        let address = listening.await.ok().flatten().ok_or_else(|| failed("it has no address to listen on".into()))?;
        let control = handle.control();
        Ok(Self { address, control, task: tokio::spawn(honest.run(handle, stop)) })
    }
}

/// Waits until each node has a peer that is subscribed to topics.
pub(crate) async fn somebody_listens(nodes: impl IntoIterator<Item = &GossipControl>) {
    for control in nodes {
        let mut peers = control.watch_peers();
        // An error means that the node has ended. Publishing reports this.
        let _ = peers.wait_for(|peers| peers.iter().any(|peer| peer.connected && peer.topics > 0)).await;
    }
}
