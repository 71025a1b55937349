//! A full node of the laboratory: real libp2p gossipsub, and the specification's rule that a
//! validator's second vote for a target is ignored.

use super::client::ClientKind;
use super::delay;
use super::delay_line::{Line, delayed};
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use futures::StreamExt as _;
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, Transport as _};
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, noise, tcp, yamux};
use sources::gossip::{IdRules, message_id};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Votes that may wait to be published.
const PUBLISH_QUEUE: usize = 64;
/// Heartbeats for which a node keeps messages, and tells of them.
const HISTORY: usize = 6;
const HISTORY_TOLD: usize = 3;
/// Longer than any run.
const IDLE: Duration = Duration::from_secs(24 * 3600);

/// Where the validator and the target's epoch are in a `SingleAttestation`: it begins with the
/// committee and the validator, and its data with slot, index, block root and source.
const VALIDATOR_AT: usize = 8;
const ROOT_AT: usize = 16 + 8 + 8;
const TARGET_EPOCH_AT: usize = 16 + 8 + 8 + 32 + 40;

/// Whose vote it is, and for which target epoch. `None` if it is no single vote.
pub(super) fn voter_and_target(payload: &[u8]) -> Option<(u64, u64)> {
    let ssz = snap::raw::Decoder::new().decompress_vec(payload).ok()?;
    let number = |at: usize| ssz.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    Some((number(VALIDATOR_AT)?, number(TARGET_EPOCH_AT)?))
}

/// The block root that a vote names.
fn root_of(payload: &[u8]) -> Option<[u8; 32]> {
    let ssz = snap::raw::Decoder::new().decompress_vec(payload).ok()?;
    ssz.get(ROOT_AT..ROOT_AT + 32)?.try_into().ok()
}

/// Where a message belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Where {
    /// One of [`NodePlan::subnets`], by its position.
    Subnet(usize),
    /// The topic of blocks. What is sent there in place of a block is as long as a vote, and its
    /// fields of the voter and the root are the proposer and the block's own root.
    Blocks,
}

/// What a node publishes, and what for.
#[derive(Clone, Debug)]
pub(super) struct Publish {
    /// Position in [`NodeRecord::not_published`].
    pub(super) trial: usize,
    pub(super) topic: Where,
    pub(super) payload: Vec<u8>,
}

/// What nodes do with the votes of each trial. It serves the report only.
pub(super) struct NodeRecord {
    /// The payloads of second votes, and the trial of each.
    pub(super) seconds: HashMap<Vec<u8>, usize>,
    /// For each trial, how many nodes took the second vote: they had not seen the first one.
    pub(super) took_second: Vec<AtomicUsize>,
    /// For each trial, whether a vote could not be published.
    pub(super) not_published: Vec<AtomicBool>,
}

impl NodeRecord {
    /// A record of so many messages, of which none is a second vote.
    pub(super) fn without_seconds(n_messages: usize) -> Self {
        let not_published = (0..n_messages).map(|_| AtomicBool::new(false)).collect();
        Self { seconds: HashMap::new(), took_second: Vec::new(), not_published }
    }
}

/// A node that runs.
pub(super) struct FullNode {
    pub(super) peer_id: PeerId,
    pub(super) publish: mpsc::Sender<Publish>,
    pub(super) dial: mpsc::Sender<Multiaddr>,
    pub(super) address: Multiaddr,
}

/// How to start a node.
pub(super) struct NodePlan {
    pub(super) number: usize,
    pub(super) secret: [u8; 32],
    pub(super) client: ClientKind,
    /// The topics on which it may publish.
    pub(super) subnets: Vec<String>,
    /// Those of them that it subscribes to, by position. On the others it only publishes.
    pub(super) subscribed: Vec<usize>,
    /// The topic of blocks, if blocks are played. Every node subscribes to it.
    pub(super) blocks: Option<String>,
    /// What the delays of the connections that it dials follow from.
    pub(super) random: SeededRandom,
    pub(super) record: Arc<NodeRecord>,
    /// Set for a hostile node. It is connected without delay, passes nothing on, and hands here
    /// whatever it hears.
    pub(super) copies: Option<mpsc::Sender<(Where, Vec<u8>)>>,
}

/// The second number of the addresses of nodes.
const NODE_NETWORKS: std::ops::RangeInclusive<u8> = 2..=9;

/// The address of a node.
fn address_of(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 2 + (number / 250) as u8, 1 + (number % 250) as u8, 1)
}

impl FullNode {
    /// Starts a node and waits until it listens.
    pub(super) async fn start(plan: NodePlan, stop: CancellationToken) -> Result<Self, SimError> {
        let number = plan.number;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SimError::Node { node: number, source };
        let mut swarm = swarm(&plan).map_err(failed)?;
        swarm.listen_on(Multiaddr::from(address_of(number)).with(Protocol::Tcp(0))).map_err(|error| failed(Box::new(error)))?;
        let address = loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => break address,
                SwarmEvent::ListenerClosed { .. } => return Err(failed("it has no address to listen on".into())),
                _ => {}
            }
        };
        let (publish, publications) = mpsc::channel(PUBLISH_QUEUE);
        let (dial, dials) = mpsc::channel(PUBLISH_QUEUE);
        let peer_id = *swarm.local_peer_id();
        tokio::spawn(run(swarm, plan, publications, dials, stop));
        Ok(Self { peer_id, publish, dial, address })
    }
}

fn swarm(plan: &NodePlan) -> Result<Swarm<gossipsub::Behaviour>, Box<dyn std::error::Error + Send + Sync>> {
    let mut secret = plan.secret;
    let key = libp2p::identity::secp256k1::SecretKey::try_from_bytes(&mut secret)?;
    let key = Keypair::from(libp2p::identity::secp256k1::Keypair::from(key));
    let (random, number, is_near) = (plan.random, plan.number, plan.copies.is_some());
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |stream, point| -> Line {
            let delay = match &point {
                _ if is_near => Duration::ZERO,
                ConnectedPoint::Dialer { address, .. } => delay(&random, number, ip(address)),
                // The other end delays it, unless it is a listener.
                ConnectedPoint::Listener { send_back_addr, .. } if NODE_NETWORKS.contains(&ip(send_back_addr).octets()[1]) => {
                    Duration::ZERO
                }
                ConnectedPoint::Listener { send_back_addr, .. } => delay(&random, number, ip(send_back_addr)),
            };
            delayed(stream, delay)
        })
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let mesh = plan.client.mesh();
    let config = gossipsub::ConfigBuilder::default()
        .mesh_n(mesh.d)
        .mesh_n_low(mesh.low)
        .mesh_n_high(mesh.high)
        .mesh_outbound_min(mesh.d / 3)
        .gossip_lazy(mesh.lazy)
        .heartbeat_interval(mesh.heartbeat)
        .flood_publish(mesh.flood_publish)
        .history_length(HISTORY)
        .history_gossip(HISTORY_TOLD)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::from(message_id(IdRules::Altair, message.topic.as_str(), &message.data).to_vec()))
        .build()?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)?;
    for subnet in &plan.subscribed {
        gossip.subscribe(&IdentTopic::new(plan.subnets[*subnet].clone()))?;
    }
    if let Some(blocks) = &plan.blocks {
        gossip.subscribe(&IdentTopic::new(blocks.clone()))?;
    }
    let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
    Ok(Swarm::new(transport, gossip, key.public().to_peer_id(), config))
}

/// The address without its port, which differs from run to run.
fn ip(address: &Multiaddr) -> Ipv4Addr {
    address.iter().find_map(|part| if let Protocol::Ip4(ip) = part { Some(ip) } else { None }).unwrap_or(Ipv4Addr::LOCALHOST)
}

async fn run(
    mut swarm: Swarm<gossipsub::Behaviour>,
    plan: NodePlan,
    mut publications: mpsc::Receiver<Publish>,
    mut dials: mpsc::Receiver<Multiaddr>,
    stop: CancellationToken,
) {
    let subnets: Vec<IdentTopic> = plan.subnets.iter().cloned().map(IdentTopic::new).collect();
    let blocks = IdentTopic::new(plan.blocks.clone().unwrap_or_default());
    let mut seen = TakenMessages::default();
    let mut dialled: HashMap<ConnectionId, Multiaddr> = HashMap::new();
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                if let SwarmEvent::OutgoingConnectionError { connection_id, .. } = &event
                    && let Some(address) = dialled.remove(connection_id)
                {
                    // A busy machine is slow to shake hands. It is tried again until it works.
                    dialled.extend(dial(&mut swarm, address));
                }
                let SwarmEvent::Behaviour(gossipsub::Event::Message { propagation_source, message_id, message }) = event else {
                    continue;
                };
                let topic = match subnets.iter().position(|subnet| subnet.hash() == message.topic) {
                    Some(subnet) => Where::Subnet(subnet),
                    None => Where::Blocks,
                };
                if let Some(copies) = &plan.copies {
                    // It hears less if it is too slow.
                    let _ = copies.try_send((topic, message.data));
                    let ignore = MessageAcceptance::Ignore;
                    swarm.behaviour_mut().report_message_validation_result(&message_id, &propagation_source, ignore);
                    continue;
                }
                let is_taken = (topic == Where::Blocks || plan.blocks.is_none() || seen.knows_block_of(&message.data))
                    && seen.insert(topic, &message.data);
                let acceptance = if is_taken { MessageAcceptance::Accept } else { MessageAcceptance::Ignore };
                swarm.behaviour_mut().report_message_validation_result(&message_id, &propagation_source, acceptance);
                if is_taken && let Some(trial) = plan.record.seconds.get(&message.data) {
                    plan.record.took_second[*trial].fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(Publish { trial, topic, payload }) = publications.recv() => {
                seen.insert(topic, &payload);
                let topic = if let Where::Subnet(subnet) = topic { &subnets[subnet] } else { &blocks };
                if swarm.behaviour_mut().publish(topic.clone(), payload).is_err() {
                    plan.record.not_published[trial].store(true, Ordering::Relaxed);
                }
            }
            Some(address) = dials.recv() => {
                dialled.extend(dial(&mut swarm, address));
            }
            () = stop.cancelled() => break,
        }
    }
}

/// Dials an address. Returns what the error says if it fails later.
fn dial(swarm: &mut Swarm<gossipsub::Behaviour>, address: Multiaddr) -> Option<(ConnectionId, Multiaddr)> {
    let options = DialOpts::from(address.clone());
    let id = options.connection_id();
    match swarm.dial(options) {
        Ok(()) => Some((id, address)),
        Err(error) => {
            tracing::debug!(%error, "a node of the laboratory cannot dial");
            None
        }
    }
}

/// What a node has taken or published.
#[derive(Default)]
struct TakenMessages {
    /// Of whom a vote for which target, or a block, was seen.
    signed: HashSet<(Where, u64, u64)>,
    /// The roots of the blocks.
    blocks: HashSet<[u8; 32]>,
}

impl TakenMessages {
    /// Returns whether it is the first message of its signer for its target.
    fn insert(&mut self, topic: Where, payload: &[u8]) -> bool {
        let Some((signer, target)) = voter_and_target(payload) else { return false };
        let is_first = self.signed.insert((topic, signer, target));
        if topic == Where::Blocks && is_first {
            self.blocks.extend(root_of(payload));
        }
        is_first
    }

    /// Whether the block that a vote names is here. A node does not pass on other votes.
    fn knows_block_of(&self, payload: &[u8]) -> bool {
        root_of(payload).is_some_and(|root| self.blocks.contains(&root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A payload of which only the signer and the root differ.
    fn payload(signer: u64, root: u8) -> Vec<u8> {
        let mut ssz = vec![0; 240];
        ssz[VALIDATOR_AT..VALIDATOR_AT + 8].copy_from_slice(&signer.to_le_bytes());
        ssz[ROOT_AT..ROOT_AT + 32].fill(root);
        snap::raw::Encoder::new().compress_vec(&ssz).unwrap()
    }

    #[test]
    fn only_the_first_of_a_signer_is_taken_and_a_vote_needs_its_block() {
        let mut seen = TakenMessages::default();
        assert!(seen.insert(Where::Subnet(0), &payload(1, 8)) && !seen.insert(Where::Subnet(0), &payload(1, 9)));
        assert!(seen.insert(Where::Blocks, &payload(1, 8)), "a block is no vote");
        assert!(!seen.insert(Where::Blocks, &payload(1, 9)), "a second block is ignored");
        assert!(seen.knows_block_of(&payload(2, 8)) && !seen.knows_block_of(&payload(2, 9)));
    }
}
