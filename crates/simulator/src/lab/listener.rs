//! A listener of the laboratory: the watcher's own gossip service.

use super::full_node::voter_and_target;
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use consensus::{Epoch, Gwei, Network, ValidatorIndex};
use libp2p::{Multiaddr, PeerId};
use sources::gossip::{
    FirstHandStake, GossipConfig, GossipControl, GossipHandle, GossipService, Identity, PeerEventKind, StatusView, Verdict,
};
use sources::metrics::SourceMetrics;
use sources::source::{ReceivedAs, SourceEvent};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long nodes have to connect.
const PATIENCE: Duration = Duration::from_secs(60);
/// Measurements that may wait.
const MEASURE_QUEUE: usize = 4;

/// What a watcher concludes of who publishes whose votes. The laboratory brings the votes and the
/// truth, and the rule is the watcher's own.
pub trait FirstHandRule: Send {
    /// A vote came first from this peer, which is not subscribed to its subnet.
    fn record(&mut self, validator: ValidatorIndex, peer: &Arc<[u8]>, target: Epoch);
    /// Measures the epoch, which is complete. All validators have voted in it, and `balances` has
    /// what each of them has at stake.
    fn measure(&mut self, epoch: Epoch, balances: &[Gwei], connected: &BTreeSet<Arc<[u8]>>) -> FirstHandMeasure;
}

/// What a [`FirstHandRule`] has concluded.
#[derive(Clone, Debug, Default)]
pub struct FirstHandMeasure {
    /// Stake that is heard first-hand.
    pub first_hand: Gwei,
    /// The same without the rule's limits.
    pub claimed: Gwei,
    /// Connected peers that do not count.
    pub n_discarded: u64,
    pub by_peer: FirstHandStake,
}

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

/// What a listener saw.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) copies: Copies,
    /// When each peer was connected for the first time.
    pub(super) met: HashMap<PeerId, Instant>,
}

/// The watcher's inference, and what it needs.
pub(super) struct Inference {
    pub(super) rule: Box<dyn FirstHandRule>,
    /// Of the validators 0, 1 and so on.
    pub(super) balances: Vec<Gwei>,
}

/// An epoch that is to be measured, and where the result goes.
type Measurement = (Epoch, oneshot::Sender<FirstHandMeasure>);

/// A listener that runs.
pub(super) struct Post {
    pub(super) address: Multiaddr,
    /// What it has heard, when it has stopped.
    pub(super) heard: JoinHandle<Heard>,
    pub(super) control: GossipControl,
    measure: mpsc::Sender<Measurement>,
    _status: watch::Sender<StatusView>,
}

impl Post {
    /// The IP address of a listener.
    pub(super) fn ip(post: usize) -> String {
        format!("127.1.{}.1", post + 1)
    }

    /// Starts a listener and waits until it has its address. `config` says everything but the
    /// address and the key.
    pub(super) async fn start(
        post: usize,
        config: GossipConfig,
        network: &Arc<Network>,
        random: &SeededRandom,
        inference: Option<Inference>,
        stop: CancellationToken,
    ) -> Result<Self, SimError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SimError::Node { node: post, source };
        let config = GossipConfig {
            // An address of its own, because the delays of connections depend on it.
            listen: vec![format!("/ip4/{}/tcp/0", Self::ip(post)).parse().expect("a valid multiaddr")],
            identity: Identity::Secret(random.hash("listener key", &[post as u64])),
            ..config
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
        let (measure, measurements) = mpsc::channel(MEASURE_QUEUE);
        let heard = tokio::spawn(listen(handle, inference, measurements, stop));
        Ok(Self { address, heard, control, measure, _status: status_in })
    }

    /// Waits until that many peers are connected, for a minute at most.
    pub(super) async fn is_connected(&mut self, connections: usize) -> Result<(), SimError> {
        match tokio::time::timeout(PATIENCE, self.has_connected(connections)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(SimError::Node { node: connections, source: "a listener did not get its connections in a minute".into() }),
        }
    }

    /// Waits until that many peers are connected.
    pub(super) async fn has_connected(&mut self, connections: usize) -> Result<(), SimError> {
        let mut peers = self.control.watch_peers();
        let all = peers.wait_for(|peers| peers.iter().filter(|peer| peer.connected).count() >= connections);
        all.await.map(|_| ()).map_err(|_| SimError::BrokenOff)
    }

    /// The peers that are connected, about one second ago at most.
    pub(super) fn connected(&self) -> BTreeSet<Arc<[u8]>> {
        connected(&self.control)
    }

    /// Measures an epoch, and tells the listener what each peer brings.
    pub(super) async fn measure(&self, epoch: Epoch) -> Result<FirstHandMeasure, SimError> {
        let (done, answer) = oneshot::channel();
        self.measure.send((epoch, done)).await.map_err(|_| SimError::BrokenOff)?;
        answer.await.map_err(|_| SimError::BrokenOff)
    }
}

fn connected(control: &GossipControl) -> BTreeSet<Arc<[u8]>> {
    let peers = control.peers();
    let ids = peers.iter().filter(|peer| peer.connected).filter_map(|peer| peer.peer.parse::<PeerId>().ok());
    ids.map(|peer| Arc::from(peer.to_bytes())).collect()
}

/// Collects what a listener hears, until it is stopped. It passes nothing on.
async fn listen(
    mut handle: GossipHandle,
    mut inference: Option<Inference>,
    mut measurements: mpsc::Receiver<Measurement>,
    stop: CancellationToken,
) -> Heard {
    let mut heard = Heard::default();
    let control = handle.control();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            Some((epoch, done)) = measurements.recv() => {
                let Some(Inference { rule, balances }) = &mut inference else { continue };
                let measured = rule.measure(epoch, balances, &connected(&control));
                control.set_first_hand(measured.by_peer.clone());
                // Who asked may have stopped waiting.
                let _ = done.send(measured);
                continue;
            }
            event = handle.events.recv() => event,
        };
        let Some(event) = event else { break };
        let message = match event {
            SourceEvent::Message(message) => message,
            SourceEvent::Peer(event) if matches!(event.what, PeerEventKind::Connected { .. }) => {
                heard.met.entry(event.peer).or_insert_with(Instant::now);
                continue;
            }
            _ => continue,
        };
        let ReceivedAs::Gossip { payload, .. } = message.received_as else { continue };
        if let Some(ticket) = message.raw.ticket {
            handle.report(ticket, Verdict::Ignore);
        }
        let origin = &message.raw.origin;
        if heard.copies.contains_key(&payload) {
            continue;
        }
        if let (Some(Inference { rule, .. }), Some(false), Some(peer)) = (&mut inference, origin.subscribed, &origin.peer)
            && let Some((validator, target)) = voter_and_target(&payload)
        {
            rule.record(ValidatorIndex::new(validator), peer, Epoch::new(target));
        }
        let sender = origin.peer.as_ref().map(|peer| peer.to_vec()).unwrap_or_default();
        heard.copies.insert(payload, FirstCopy { sender, subscribed: origin.subscribed });
    }
    handle.shutdown().await;
    heard
}
