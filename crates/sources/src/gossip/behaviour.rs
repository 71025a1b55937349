//! The libp2p node: the transport, the parameters of gossipsub, and the protocols beside it.

use super::admission::{Admission, Places};
use super::filter::{Filter, filter};
use super::rpc::{self, DataProtocol, Protocol, RpcCodec};
use super::transform::{SnappyTransform, message_id_fn};
use super::{GossipConfig, GossipError, scoring};
use crate::discovery::ip_of;
use crate::limits::MAX_WIRE_SIZE;
use crate::metrics::SourceMetrics;
use consensus::{ForkDigests, Network};
use libp2p::gossipsub::{self, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Swarm, SwarmBuilder, identify, noise, quic, tcp, yamux};
use std::sync::Arc;
use std::time::Duration;

/// Number of heartbeats (8.4 s) for which gossipsub keeps a message, and so the time in which its
/// verdict must arrive. The specification's value of 6 is too short for an attestation that waits
/// for its committee.
pub(super) const HISTORY_HEARTBEATS: usize = 12;
/// Greatest size in bytes of the control messages and subscriptions of one RPC. An IHAVE of 5 000
/// ids has 110 kB, and the first RPC of a supernode has more than 200 subscriptions. With the
/// default of 16 kB such an RPC closes the stream.
const MAX_CONTROL_SIZE: usize = 1 << 20;
/// Long enough to keep a connection that is idle between messages on rare topics.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Handshakes at a time, in each direction. Each address has its share only.
const MAX_PENDING_CONNECTIONS: usize = 256;
/// Two, because both sides may dial at the same time.
const MAX_CONNECTIONS_PER_PEER: usize = 2;
/// Streams of one connection at a time. A node needs two for gossip, and a few for requests.
const MAX_STREAMS: u32 = 128;
/// `D_out`: peers in a topic's mesh that we have dialled.
const MESH_OUTBOUND_MIN: usize = 2;
/// gossipsub's part of a topic's peers that receive IHAVE.
const MAX_GOSSIP_FACTOR: f64 = 0.25;
/// The same as a number of peers.
const MAX_IHAVE_PEERS: f64 = 50.0;
const MPLEX_BUFFER_FRAMES: usize = 256;

pub(super) type Gossipsub = gossipsub::Behaviour<SnappyTransform, Filter>;

#[derive(NetworkBehaviour)]
pub(super) struct NodeBehaviour {
    pub admission: Admission,
    pub gossip: Gossipsub,
    pub identify: identify::Behaviour,
    pub status: request_response::Behaviour<RpcCodec>,
    pub ping: request_response::Behaviour<RpcCodec>,
    pub metadata: request_response::Behaviour<RpcCodec>,
    pub goodbye: request_response::Behaviour<RpcCodec>,
    pub blocks_by_range: request_response::Behaviour<RpcCodec>,
    pub blocks_by_root: request_response::Behaviour<RpcCodec>,
    /// Requests for data that this node does not keep.
    pub data: request_response::Behaviour<RpcCodec>,
}

/// Places of `max_peers` that are kept free, so that a newcomer can show what it is worth.
pub(super) const fn newcomers(max_peers: usize) -> usize {
    max_peers / 10
}

/// Places of `max_peers` that are kept for peers that we dial, and as many for peers that dial us.
pub(super) const fn reserved(max_peers: usize) -> usize {
    max_peers / 4
}

pub(super) fn swarm(
    config: &GossipConfig,
    network: &Network,
    key: Keypair,
    digests: Arc<ForkDigests>,
    metrics: SourceMetrics,
) -> Result<Swarm<NodeBehaviour>, GossipError> {
    let setup = |error: &dyn std::fmt::Display| GossipError::Setup(error.to_string());
    let node = node(config, network, &key, digests, metrics)?;
    let builder = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, (yamux, mplex))
        .map_err(|error| setup(&error))?
        .with_quic_config(quic)
        .with_dns()
        .map_err(|error| setup(&error))?
        .with_behaviour(move |_| node)
        .map_err(|error| setup(&error))?;
    Ok(builder.with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT)).build())
}

fn yamux() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS as usize);
    config
}

fn quic(mut config: quic::Config) -> quic::Config {
    config.max_concurrent_stream_limit = MAX_STREAMS;
    config
}

fn mplex() -> libp2p_mplex::Config {
    let mut config = libp2p_mplex::Config::new();
    config
        .set_max_buffer_size(MPLEX_BUFFER_FRAMES)
        .set_max_num_streams(MAX_STREAMS as usize)
        .set_max_buffer_behaviour(libp2p_mplex::MaxBufferBehaviour::Block);
    config
}

fn node(
    config: &GossipConfig,
    network: &Network,
    key: &Keypair,
    digests: Arc<ForkDigests>,
    metrics: SourceMetrics,
) -> Result<NodeBehaviour, GossipError> {
    // The rest is kept for the peers that we choose.
    let inbound = if config.discovery.is_some() { config.max_peers - reserved(config.max_peers) } else { config.max_peers };
    let places =
        Places { handshakes: MAX_PENDING_CONNECTIONS, inbound, all: config.max_peers, per_peer: MAX_CONNECTIONS_PER_PEER };
    let identify =
        identify::Config::new("eth2/1.0.0".to_owned(), key.public()).with_agent_version(config.agent.clone()).with_cache_size(0);
    let both = ProtocolSupport::Full;
    let free = config.peers.iter().map(|target| (target.peer, ip_of(&target.address)));
    let not_kept: Vec<Protocol> = DataProtocol::ALL.into_iter().filter(|data| !data.is_served()).map(Protocol::Data).collect();
    Ok(NodeBehaviour {
        admission: Admission::new(places, config.address_limit, free),
        gossip: gossipsub(config, network, digests, metrics).map_err(GossipError::Setup)?,
        identify: identify::Behaviour::new(identify),
        status: rpc::behaviour(&[Protocol::StatusV2, Protocol::StatusV1], both.clone()),
        ping: rpc::behaviour(&[Protocol::Ping], both.clone()),
        metadata: rpc::behaviour(&[Protocol::MetadataV3, Protocol::MetadataV2, Protocol::MetadataV1], both.clone()),
        goodbye: rpc::behaviour(&[Protocol::Goodbye], both),
        blocks_by_range: rpc::block_behaviour(DataProtocol::BY_RANGE, config.block_timeout),
        blocks_by_root: rpc::block_behaviour(DataProtocol::BY_ROOT, config.block_timeout),
        data: rpc::behaviour(&not_kept, ProtocolSupport::Inbound),
    })
}

fn gossipsub(
    config: &GossipConfig,
    network: &Network,
    digests: Arc<ForkDigests>,
    metrics: SourceMetrics,
) -> Result<Gossipsub, String> {
    let epoch = network.spec.slot_duration.saturating_mul(network.preset().slots_per_epoch as u32);
    let gossip_config = gossipsub::ConfigBuilder::default()
        .mesh_n(config.mesh_peers)
        .mesh_n_low(config.mesh_peers * 3 / 4)
        .mesh_n_high(config.mesh_peers * 3 / 2)
        .mesh_outbound_min(MESH_OUTBOUND_MIN.min(config.mesh_peers / 2))
        .gossip_lazy(6)
        // IHAVE goes to a quarter of a topic's peers, as the specification wants, but never to very
        // many. It tells what we have; what we lack is told by the IHAVE of others.
        .gossip_factor(MAX_GOSSIP_FACTOR.min(MAX_IHAVE_PEERS / config.max_peers.max(1) as f64))
        .heartbeat_interval(config.heartbeat)
        .heartbeat_initial_delay(config.heartbeat)
        .fanout_ttl(Duration::from_secs(60))
        .history_length(HISTORY_HEARTBEATS)
        .history_gossip(3)
        // `seen_ttl` of the specification.
        .duplicate_cache_time(epoch.saturating_mul(2))
        .max_transmit_size(MAX_WIRE_SIZE)
        .max_control_message_size(MAX_CONTROL_SIZE)
        .connection_handler_queue_len(config.send_queue_messages)
        // The policy `StrictNoSign`: a message has no author, no sequence number and no signature.
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id_fn(digests.clone()))
        .build()
        .map_err(|error| error.to_string())?;
    let filter = filter(digests.clone());
    let transform = SnappyTransform { digests, metrics };
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Anonymous,
        gossip_config,
        filter,
        transform,
    )?;
    gossip.with_peer_score(scoring::params(config.ban), scoring::thresholds())?;
    Ok(gossip)
}
