//! Finds peers by discv5, and lets peers find us.
//!
//! A task of its own runs the protocol and hands on every usable record that it sees. The gossip
//! task keeps them in its peer book and decides whom to dial. Our own record follows the fork
//! schedule, and the address at which other nodes see us.
//!
//! What a stranger can do here, and what limits it:
//!
//! | a stranger | is limited by |
//! |---|---|
//! | invents records, all signed | the peer book: few of each address prefix, and nodes that have answered us come first |
//! | names the address of somebody else | the same; the pause before the next attempt is kept when its record changes |
//! | names a private address | [`UnusableRecord::PrivateAddress`] |
//! | floods us with packets | the packet filter of discv5, which also bans the sender's address |
//! | tells us a wrong address of our own | [`ADDRESS_VOTES`] nodes that we asked must agree |
//! | fills the routing table | discv5: two of a /24 in a bucket, ten in the table; see below |
//!
//! Half of a bucket is for nodes that contacted us. An address of ours at which nobody reaches us
//! is withdrawn after a while.
//!
//! Source: consensus-specs, `*/p2p-interface.md`, "The discovery domain: discv5".

mod record;
mod walk;

pub use record::{ForkId, FoundNode, UnusableRecord};
pub(crate) use record::{addresses_of, fork_id_of, ip_of, is_public, peer_id_of};
pub(crate) use walk::{Walk, WalkedRecord};

use crate::gossip::Clock;
use crate::metrics::SourceMetrics;
use consensus::{Epoch, ForkDigest, Network};
use discv5::{ConfigBuilder, Discv5, Enr, Event, ListenConfig};
use enr::{CombinedKey, NodeId};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use record::{Advertised, GossipPorts};
use serde::Serialize;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

/// Records that may wait for the gossip task. Further ones are dropped; they are found again.
const FOUND_QUEUE: usize = 1024;
/// Pause between two queries while peers are wanted. A query asks some ten nodes.
const QUERY_PAUSE: Duration = Duration::from_secs(5);
/// The same while no peers are wanted.
const IDLE_QUERY_PAUSE: Duration = Duration::from_secs(60);
/// Greatest duration of a query. One that meets invented records waits for each of them, so that
/// with discv5's minute few queries would hold us up for ever.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Nodes that a query asks at a time.
const QUERY_PARALLELISM: usize = 5;
/// Interval at which the epoch is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Nodes that a query returns.
const QUERY_NODES: usize = 16;
/// Nodes that must see us at one address before our record says so.
const ADDRESS_VOTES: usize = 4;
/// The same in a network of private addresses, which may have few nodes.
const ADDRESS_VOTES_PRIVATE: usize = 2;
/// Places of a bucket of the routing table, which has 16, for nodes that have contacted us first.
const INCOMING_PER_BUCKET: usize = 8;

const NS_PER_MS: u64 = 1_000_000;

/// How nodes are found. The default listens for IPv4 on UDP port 9010, which is not the
/// port of a beacon node on the same machine, and knows no boot node.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// UDP sockets: one of IPv4, one of IPv6, or both. Port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// The nodes to ask first.
    pub boot_nodes: Vec<BootNode>,
    /// The addresses that our record names, for example those of a router that forwards ports.
    /// Without one, other nodes tell us at which address they see us.
    pub external: Vec<ExternalAddress>,
    /// Whether nodes with private addresses are taken, as in a network of containers. The limits
    /// of discv5 for each address then do not apply.
    pub allow_private: bool,
    /// File in which the records of found peers are kept, so that a restart needs no boot node.
    pub peer_book: Option<PathBuf>,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 9010))],
            boot_nodes: Vec::new(),
            external: Vec::new(),
            allow_private: false,
            peer_book: None,
        }
    }
}

/// An address at which others reach this node. A port that is None is the one that this node
/// listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalAddress {
    pub ip: IpAddr,
    /// UDP port of discovery.
    pub udp: Option<u16>,
    /// TCP port of gossip.
    pub tcp: Option<u16>,
    /// UDP port of gossip over QUIC.
    pub quic: Option<u16>,
}

impl ExternalAddress {
    /// An address with the ports that this node listens on.
    pub const fn new(ip: IpAddr) -> Self {
        Self { ip, udp: None, tcp: None, quic: None }
    }
}

/// The record of a boot node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootNode(Enr);

impl std::str::FromStr for BootNode {
    type Err = BootNodeError;

    fn from_str(text: &str) -> Result<Self, BootNodeError> {
        let text = text.trim();
        text.parse().map(Self).map_err(|reason: String| BootNodeError { text: text.to_owned(), reason })
    }
}

impl BootNode {
    /// The boot nodes of a built-in network. Empty for a name that is not built in.
    pub fn builtin(network: &str) -> Vec<Self> {
        Network::builtin_boot_nodes(network).map(|text| text.parse().expect("our own file, read by a test")).collect()
    }

    /// Whether it names private addresses only: then the network is one of private addresses.
    pub fn is_private(&self) -> bool {
        let ips = [self.0.ip4().map(IpAddr::V4), self.0.ip6().map(IpAddr::V6)];
        let mut ips = ips.into_iter().flatten().peekable();
        ips.peek().is_some() && ips.all(|ip| !is_public(ip))
    }
}

/// The text is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no valid ENR ({reason}); copy it again, whole, from the network's list of boot nodes")]
pub struct BootNodeError {
    text: String,
    reason: String,
}

/// Reads the records that an earlier run has kept, one to a line, as far as they are of use.
pub(crate) fn read_kept(text: &str, digests: &[ForkDigest], allow_private: bool, n: usize) -> Vec<FoundNode> {
    let records = text.lines().take(n).filter_map(|line| line.trim().parse::<Enr>().ok());
    records.filter_map(|record| FoundNode::read(&record, digests, allow_private, None).ok()).collect()
}

/// Why discovery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("cannot listen for discovery on UDP {address}: {source}; choose an address of this machine with a free port")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("discovery listens on one UDP address of IPv4, one of IPv6, or one of both; {given} of one family are given")]
    Families { given: usize },
    #[error("discovery cannot be set up: {0}; this is a fault of this program, please report it")]
    Setup(String),
}

/// What discovery is doing, for status and page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiscoveryState {
    /// Our record as text. Other nodes can use it as a boot node.
    pub record: String,
    /// The UDP addresses that our record names. Empty while nobody has told us any.
    pub external: Vec<SocketAddr>,
    /// Nodes in the routing table that answered lately.
    pub n_live: usize,
    /// Nodes of our network that can be dialled: the size of the peer book.
    pub n_known: usize,
    /// How many of them have answered us by UDP.
    pub n_answered: usize,
}

/// A running discovery. It ends when this is dropped.
pub(crate) struct Discovery {
    pub found: mpsc::Receiver<FoundNode>,
    pub state: watch::Receiver<DiscoveryState>,
    wants_more: watch::Sender<bool>,
    ports: watch::Sender<[GossipPorts; 2]>,
    _stop: DropGuard,
}

impl Discovery {
    /// Starts discovery in a task on the current tokio runtime. `secret` is the node key, which
    /// gossip has too, so that one node has one identity.
    pub(crate) fn start(
        config: DiscoveryConfig,
        secret: [u8; 32],
        custody_group_count: u64,
        network: Arc<Network>,
        clock: Clock,
        metrics: SourceMetrics,
    ) -> Result<Self, DiscoveryError> {
        let setup = |reason: &str| DiscoveryError::Setup(reason.to_owned());
        let key = || CombinedKey::secp256k1_from_bytes(&mut secret.clone()).map_err(|_| setup("the node key"));
        let sockets = Sockets::bind(&config.listen)?;
        // A record of an earlier run under the same key must not count as newer than ours.
        let first_seq = clock.now().0 / NS_PER_MS;
        let record = sockets.record(&config, first_seq, &key()?)?;
        let options = options(&config, sockets.listen_config()?);
        let protocol = Discv5::new(record, key()?, options).map_err(setup)?;
        for node in &config.boot_nodes {
            // A boot node of a family that we do not listen on is of no use, and no error.
            if let Err(reason) = protocol.add_enr(node.0.clone()) {
                debug!(reason, record = %node.0, "a boot node is not used");
            }
        }
        let (found_in, found) = mpsc::channel(FOUND_QUEUE);
        let (state_in, state) = watch::channel(DiscoveryState::default());
        let (wants_more, wants_more_out) = watch::channel(true);
        let (ports, ports_out) = watch::channel(<[GossipPorts; 2]>::default());
        let stop = CancellationToken::new();
        let task = Task {
            protocol,
            key: key()?,
            network,
            clock,
            metrics,
            custody_group_count,
            allow_private: config.allow_private,
            external: config.external,
            advertised_at: None,
            digests: Vec::new(),
            found: found_in,
            state: state_in,
            wants_more: wants_more_out,
            ports: ports_out,
        };
        tokio::spawn(task.run(stop.clone()));
        Ok(Self { found, state, wants_more, ports, _stop: stop.drop_guard() })
    }

    /// Takes an address at which gossip listens, so that our record names its port.
    pub(crate) fn listens_at(&self, address: &Multiaddr) {
        let mut parts = address.iter();
        let family = match parts.next() {
            Some(Protocol::Ip4(_)) => 0,
            Some(Protocol::Ip6(_)) => 1,
            _ => return,
        };
        self.ports.send_modify(|ports| match (parts.next(), parts.next()) {
            (Some(Protocol::Tcp(port)), _) => ports[family].tcp = Some(port),
            (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => ports[family].quic = Some(port),
            _ => {}
        });
    }

    /// Says whether peers are wanted. Queries are rare while they are not.
    pub(crate) fn wants_more(&self, wanted: bool) {
        self.wants_more.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    }
}

fn options(config: &DiscoveryConfig, listen: ListenConfig) -> discv5::Config {
    let mut options = ConfigBuilder::new(listen);
    options.incoming_bucket_limit(INCOMING_PER_BUCKET).query_timeout(QUERY_TIMEOUT).query_parallelism(QUERY_PARALLELISM);
    if !config.external.is_empty() {
        options.disable_enr_update();
    }
    if config.allow_private {
        options.enr_peer_update_min(ADDRESS_VOTES_PRIVATE);
    } else {
        options.enr_peer_update_min(ADDRESS_VOTES).ip_limit().enable_packet_filter();
        // The routing table is what others are told. A private address in it is of no use to them.
        options.table_filter(|record| {
            let ips = [record.ip4().map(IpAddr::V4), record.ip6().map(IpAddr::V6)];
            ips.into_iter().flatten().any(is_public)
        });
    }
    options.build()
}

/// The bound UDP sockets.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    fn bind(listen: &[SocketAddr]) -> Result<Self, DiscoveryError> {
        let mut sockets = Self { v4: None, v6: None };
        for address in listen {
            let place = if address.is_ipv4() { &mut sockets.v4 } else { &mut sockets.v6 };
            let socket = bind(*address).map_err(|source| DiscoveryError::Listen { address: *address, source })?;
            if place.replace(socket).is_some() {
                return Err(DiscoveryError::Families { given: listen.len() });
            }
        }
        if sockets.v4.is_none() && sockets.v6.is_none() {
            return Err(DiscoveryError::Families { given: 0 });
        }
        Ok(sockets)
    }

    fn bound(&self) -> impl Iterator<Item = SocketAddr> {
        [&self.v4, &self.v6].into_iter().flatten().filter_map(|socket| socket.local_addr().ok())
    }

    /// Our record with the addresses that are known from the start: those of the configuration and
    /// those of sockets that are bound to one address.
    fn record(&self, config: &DiscoveryConfig, seq: u64, key: &CombinedKey) -> Result<Enr, DiscoveryError> {
        let mut builder = Enr::builder();
        builder.seq(seq);
        let bound: Vec<SocketAddr> = self.bound().collect();
        let is_usable = |ip: IpAddr| !ip.is_unspecified() && (config.allow_private || is_public(ip));
        let listening = bound.iter().copied().filter(|address| is_usable(address.ip()));
        let external = config.external.iter().filter_map(|external| {
            let port_of = |address: &SocketAddr| (address.is_ipv4() == external.ip.is_ipv4()).then_some(address.port());
            let port = external.udp.or_else(|| bound.iter().find_map(port_of))?;
            Some(SocketAddr::new(external.ip, port))
        });
        for address in listening.chain(external) {
            builder.ip(address.ip());
            match address {
                SocketAddr::V4(address) => builder.udp4(address.port()),
                SocketAddr::V6(address) => builder.udp6(address.port()),
            };
        }
        builder.build(key).map_err(|error| DiscoveryError::Setup(error.to_string()))
    }

    fn listen_config(self) -> Result<ListenConfig, DiscoveryError> {
        let socket =
            |socket: Option<UdpSocket>| socket.map(|socket| tokio::net::UdpSocket::from_std(socket).map(Arc::new)).transpose();
        let setup = |error: io::Error| DiscoveryError::Setup(error.to_string());
        Ok(ListenConfig::FromSockets { ipv4: socket(self.v4).map_err(setup)?, ipv6: socket(self.v6).map_err(setup)? })
    }
}

/// Binds a socket. One of IPv6 takes no IPv4 packets, so that both families can have the same port.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

struct Task {
    protocol: Discv5,
    key: CombinedKey,
    network: Arc<Network>,
    clock: Clock,
    metrics: SourceMetrics,
    custody_group_count: u64,
    allow_private: bool,
    external: Vec<ExternalAddress>,
    /// The epoch for which our record is right.
    advertised_at: Option<Epoch>,
    /// The fork digests of nodes that can be of use.
    digests: Vec<ForkDigest>,
    found: mpsc::Sender<FoundNode>,
    state: watch::Sender<DiscoveryState>,
    wants_more: watch::Receiver<bool>,
    /// The ports at which gossip listens: over IPv4, and over IPv6.
    ports: watch::Receiver<[GossipPorts; 2]>,
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        if let Err(reason) = self.run_until(stop).await {
            warn!(reason, "discovery ended; it is started again in a minute, and no new nodes are found until then");
        }
    }

    /// Runs until the stop token is cancelled or the gossip task has ended.
    ///
    /// # Errors
    ///
    /// Fails if the protocol does not start or ends by itself.
    async fn run_until(&mut self, stop: CancellationToken) -> Result<(), String> {
        self.follow_schedule();
        // discv5's error has no text of its own.
        self.protocol.start().await.map_err(|error| format!("{error:?}"))?;
        let mut events = self.protocol.event_stream().await.map_err(|error| format!("{error:?}"))?;
        info!(record = %self.protocol.local_enr().to_base64(), "discovery runs; others can use this record as a boot node");
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Without a listening address nothing else would write the ports that the configuration
        // names.
        self.write_ports();
        let mut query: Option<tokio::task::JoinHandle<Vec<Enr>>> = None;
        let mut next_query = tokio::time::Instant::now();
        loop {
            tokio::select! {
                event = events.recv() => self.on_event(event.ok_or("its events ended")?),
                records = async { match &mut query { Some(query) => query.await, None => std::future::pending().await } } => {
                    query = None;
                    let pause = if *self.wants_more.borrow() { QUERY_PAUSE } else { IDLE_QUERY_PAUSE };
                    next_query = tokio::time::Instant::now() + pause;
                    records.unwrap_or_default().iter().for_each(|record| self.on_record(record, None));
                }
                changed = self.wants_more.changed() => match changed {
                    Ok(()) if *self.wants_more.borrow() => next_query = next_query.min(tokio::time::Instant::now() + QUERY_PAUSE),
                    Ok(()) => {}
                    Err(_) => return Ok(()),
                },
                changed = self.ports.changed() => match changed {
                    Ok(()) => self.write_ports(),
                    Err(_) => return Ok(()),
                },
                _ = tick.tick() => {
                    self.follow_schedule();
                    self.show_state();
                }
                () = tokio::time::sleep_until(next_query), if query.is_none() => query = Some(self.query()),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Asks for nodes near a random id, which are nodes of any kind, and takes those of our
    /// network.
    fn query(&self) -> tokio::task::JoinHandle<Vec<Enr>> {
        let digests = self.digests.clone();
        let is_ours = move |record: &Enr| record::fork_id_of(record).is_some_and(|fork| digests.contains(&fork.fork_digest));
        let query = self.protocol.find_node_predicate(NodeId::random(), Box::new(is_ours), QUERY_NODES);
        tokio::spawn(async move {
            query.await.unwrap_or_else(|error| {
                debug!(?error, "a query of discovery failed");
                Vec::new()
            })
        })
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Discovered(record) => self.on_record(&record, None),
            Event::SessionEstablished(record, address) => self.on_record(&record, Some(address.ip().to_canonical())),
            Event::SocketUpdated(address) => {
                info!(%address, "other nodes see us at this address; our record names it now");
                self.show_state();
            }
            // Of the routing table, and what others send that we do not ask for. The enum may grow.
            _ => {}
        }
    }

    fn on_record(&self, record: &Enr, answered_from: Option<IpAddr>) {
        let outcome = match FoundNode::read(record, &self.digests, self.allow_private, answered_from) {
            Ok(node) => match self.found.try_send(node) {
                Ok(()) => return,
                Err(_) => "shed",
            },
            Err(unusable) => unusable.label(),
        };
        self.metrics.found_records.with_label_values(&[outcome]).inc();
    }

    /// Writes the epoch's fork into our record, and takes nodes of its neighbours.
    fn follow_schedule(&mut self) {
        let epoch = self.network.slot_at(self.clock.now().0).epoch(self.network.preset());
        if self.advertised_at == Some(epoch) {
            return;
        }
        self.advertised_at = Some(epoch);
        self.digests = crate::gossip::digests_near(&self.network, epoch).to_vec();
        let wanted = Advertised::at(&self.network, epoch, self.custody_group_count);
        let record = self.protocol.external_enr();
        let written = wanted.write(&mut record.write(), &self.key);
        if let Err(error) = written {
            warn!(error, %epoch, "our record cannot say which fork we follow; nodes of it will not find us");
        }
    }

    fn write_ports(&mut self) {
        let mut ports = *self.ports.borrow_and_update();
        for external in &self.external {
            let family = &mut ports[usize::from(external.ip.is_ipv6())];
            *family = GossipPorts { tcp: external.tcp.or(family.tcp), quic: external.quic.or(family.quic) };
        }
        let record = self.protocol.external_enr();
        let written = record::write_ports(&mut record.write(), ports, &self.key);
        if let Err(error) = written {
            warn!(error, "our record cannot say at which ports we listen; nodes of it cannot dial us");
        }
    }

    fn show_state(&self) {
        let record = self.protocol.local_enr();
        let external = [record.udp4_socket().map(SocketAddr::V4), record.udp6_socket().map(SocketAddr::V6)];
        let state = DiscoveryState {
            record: record.to_base64(),
            external: external.into_iter().flatten().collect(),
            n_live: self.protocol.connected_peers(),
            n_known: 0,
            n_answered: 0,
        };
        self.state.send_if_modified(|before| {
            let is_new = *before != state;
            *before = state;
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(config: &DiscoveryConfig) -> Enr {
        Sockets::bind(&config.listen).unwrap().record(config, 7, &CombinedKey::generate_secp256k1()).unwrap()
    }

    #[test]
    fn our_record_names_no_private_address_unless_they_are_allowed() {
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let public = record(&DiscoveryConfig { listen: listen.clone(), ..DiscoveryConfig::default() });
        assert_eq!((public.ip4(), public.udp4()), (None, None));
        assert_eq!(public.seq(), 7);
        let private = record(&DiscoveryConfig { listen, allow_private: true, ..DiscoveryConfig::default() });
        assert_eq!(private.ip4(), Some([127, 0, 0, 1].into()));
        assert!(private.udp4().unwrap() > 0);
    }

    #[test]
    fn an_external_address_has_our_ports_unless_it_says_others() {
        let ip = IpAddr::from([8, 8, 4, 4]);
        let other = ExternalAddress { udp: Some(7), ..ExternalAddress::new("2a03:b0c0::1".parse().unwrap()) };
        let external = vec![ExternalAddress::new(ip), other];
        let listen = vec!["0.0.0.0:0".parse().unwrap(), "[::]:0".parse().unwrap()];
        let record = record(&DiscoveryConfig { listen, external, ..DiscoveryConfig::default() });
        assert_eq!((record.ip4().map(IpAddr::V4), record.udp6()), (Some(ip), Some(7)));
        assert!(record.udp4().unwrap() > 0);
    }

    #[test]
    fn both_families_can_have_one_port_and_none_has_two() {
        let v4 = Sockets::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let port = v4.bound().next().unwrap().port();
        assert!(Sockets::bind(&[SocketAddr::from(([0u16; 8], port))]).is_ok());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert!(matches!(Sockets::bind(&[any, any]), Err(DiscoveryError::Families { given: 2 })));
        assert!(matches!(Sockets::bind(&[]), Err(DiscoveryError::Families { given: 0 })));
    }

    #[test]
    fn the_boot_nodes_of_every_built_in_network_are_records() {
        for name in Network::builtin_names().filter(|name| *name != "medalla") {
            let nodes = BootNode::builtin(name);
            assert!(nodes.len() >= 5 && !nodes.iter().any(BootNode::is_private), "{name}");
        }
        assert_eq!(BootNode::builtin("no such network"), []);
    }

    #[test]
    fn a_kept_book_may_hold_anything() {
        let text = format!("nonsense\nenr:-abc\n\u{0}\n{}\n", "x".repeat(100_000));
        assert_eq!(read_kept(&text, &[], true, 1000), []);
    }
}
