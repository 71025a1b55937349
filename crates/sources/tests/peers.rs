//! Hostile peers against the places of a listener, over real sockets on loopback. The attackers are
//! bare libp2p nodes, which cost little, and have addresses of their own: all of 127.0.0.0/8 is
//! loopback. Nothing sleeps. Each test waits for the expected state, with a time limit.

#![allow(clippy::unwrap_used)]

mod common;

use common::PATIENCE;
use consensus::{BlobParameters, Epoch, Fork, ForkName, MessageKind, Network, Preset, Root, Spec};
use futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use sources::gossip::{
    AddressLimit, ConnectionState, GossipConfig, GossipControl, GossipHandle, GossipService, PeerAddress, PeerInfo, StatusView,
};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use sources::topic::Topic;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use verify::Verdict;

fn network() -> Arc<Network> {
    let spec = Spec {
        config_name: "loopback".into(),
        preset: Preset::MAINNET,
        forks: vec![Fork { name: ForkName::Fulu, epoch: Epoch::new(0), version: [6, 0, 0, 7] }],
        later_forks: Vec::new(),
        slot_duration: Duration::from_secs(12),
        blob_schedule: Vec::new(),
        blob_default: BlobParameters { epoch: Epoch::new(0), max_blobs_per_block: 9 },
    };
    let genesis_time = base::Time::now().0 / 1_000_000_000;
    Arc::new(Network { spec, genesis_time, genesis_validators_root: Root::repeat_byte(1) })
}

struct Post {
    handle: GossipHandle,
    control: GossipControl,
    metrics: SourceMetrics,
    address: Multiaddr,
    _status: watch::Sender<StatusView>,
}

fn config() -> GossipConfig {
    GossipConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        heartbeat: Duration::from_millis(100),
        reconnect: base::Backoff::new(Duration::from_millis(50), Duration::from_millis(400)),
        ..GossipConfig::default()
    }
}

async fn start(config: GossipConfig, network: &Arc<Network>) -> Post {
    let (status_in, status) = watch::channel(StatusView::default());
    let metrics = SourceMetrics::unregistered();
    let mut handle = GossipService::start(config, network.clone(), status, metrics.clone()).unwrap();
    let address = loop {
        if let Some(SourceEvent::ListeningOn(address)) = handle.events.recv().await {
            break address;
        }
    };
    let control = handle.control();
    Post { handle, control, metrics, address, _status: status_in }
}

impl Post {
    async fn until<T>(&self, what: &str, wanted: impl Fn(&[PeerInfo], &ConnectionState) -> Option<T>) -> T {
        common::until(&self.control, what, wanted).await
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.refused_connections.with_label_values(&[reason]).get()
    }

    fn socket(&self) -> SocketAddr {
        let mut parts = self.address.iter();
        match (parts.next(), parts.next()) {
            (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => SocketAddr::from((ip, port)),
            other => panic!("{other:?}"),
        }
    }
}

/// The connected peers among some.
fn n_connected(peers: &[PeerInfo], among: &HashSet<String>) -> usize {
    peers.iter().filter(|info| info.connected && among.contains(&info.peer)).count()
}

fn n_all(peers: &[PeerInfo]) -> usize {
    peers.iter().filter(|info| info.connected).count()
}

/// A node that speaks no protocol at all.
fn bare() -> Swarm<dummy::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| dummy::Behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

/// Forwards connections to a listener, which sees them come from `ip`. Returns where to dial.
async fn relay(ip: Ipv4Addr, target: &Post, tasks: &mut JoinSet<()>) -> Multiaddr {
    let entrance = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = entrance.local_addr().unwrap().port();
    let socket = target.socket();
    tasks.spawn(async move {
        loop {
            let (mut from, _) = entrance.accept().await.unwrap();
            let way = TcpSocket::new_v4().unwrap();
            way.bind(SocketAddr::from((ip, 0))).unwrap();
            tokio::spawn(async move {
                if let Ok(mut to) = way.connect(socket).await {
                    // It ends with the connection.
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Tcp(port)).with(Protocol::P2p(target.handle.peer_id))
}

/// Bare nodes that dial a listener and stay. Dropping it disconnects them.
struct Crowd {
    peers: HashSet<String>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Each comes back up to `returns` times after it was refused or disconnected.
    async fn come(target: &Post, ips: impl Iterator<Item = Ipv4Addr>, returns: usize) -> Self {
        let (mut peers, mut tasks) = (HashSet::new(), JoinSet::new());
        for ip in ips {
            let (mut swarm, address) = (bare(), relay(ip, target, &mut tasks).await);
            peers.insert(swarm.local_peer_id().to_base58());
            tasks.spawn(async move {
                swarm.dial(address.clone()).unwrap();
                let mut n_returned = 0;
                loop {
                    let is_refused = matches!(
                        swarm.select_next_some().await,
                        SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. }
                    );
                    if is_refused && n_returned < returns {
                        n_returned += 1;
                        // An error is reported as an event too.
                        let _ = swarm.dial(address.clone());
                    }
                }
            });
        }
        Self { peers, _tasks: tasks }
    }
}

/// 30 peers are connected. A hundred ids of one prefix come, and then two hundred, each with a
/// prefix of its own. The first get the places of one prefix. The others get the free places and
/// none of the 30.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_one_prefix_nor_many_take_our_places() {
    const PLACES: usize = 60;
    const SETTLED: usize = 54;
    let limits = AddressLimit { pace: Duration::ZERO, ..AddressLimit::PUBLIC };
    let config = GossipConfig { max_peers: PLACES, address_limit: limits, newcomer: Duration::ZERO, ..config() };
    let post = start(config, &network()).await;
    let first = Crowd::come(&post, (1..=30).map(|n| Ipv4Addr::new(127, 1, n, 1)), 0).await;
    post.until("30 peers are connected", |peers, _| (n_connected(peers, &first.peers) == 30).then_some(())).await;

    let prefix = Crowd::come(&post, (0..100).map(|n| Ipv4Addr::new(127, 9, 9, 1 + n % 50)), 0).await;
    post.until("all of the prefix have come", |_, _| (post.refused("address") >= 92).then_some(())).await;
    post.until("the prefix has its places", |peers, _| (n_connected(peers, &prefix.peers) == 8).then_some(())).await;
    println!("one prefix, 100 ids: 8 connected, {} refused", post.refused("address"));

    let many = Crowd::come(&post, (0..200).map(|n| Ipv4Addr::new(127, 20, n, 1)), 3).await;
    let sent_away = || post.metrics.goodbyes.with_label_values(&["other", "too_many_peers", "sent"]).get();
    post.until("the places are full", |peers, _| {
        (n_all(peers) >= SETTLED && sent_away() > 0 && sent_away() + post.refused("places") >= 100).then_some(())
    })
    .await;
    post.until("the places of newcomers are free again", |peers, _| (n_all(peers) == SETTLED).then_some(())).await;
    let peers = post.control.peers();
    let counts = [&first, &prefix, &many].map(|crowd| n_connected(&peers, &crowd.peers));
    println!("of 30, 100 and 200: {counts:?} connected; {} sent away, {} refused", sent_away(), post.refused("places"));
    assert_eq!(counts[0], 30, "who came first stays");
    assert!(counts[1] <= 8 && counts.iter().sum::<usize>() <= SETTLED, "{counts:?}");
}

/// One machine begins 300 handshakes and falls silent. Others are connected meanwhile.
#[tokio::test]
async fn begun_handshakes_take_no_places_of_others() {
    let post = start(
        GossipConfig { address_limit: AddressLimit { pace: Duration::ZERO, ..AddressLimit::PUBLIC }, ..config() },
        &network(),
    )
    .await;
    let mut silent = Vec::new();
    for n in 0..300u16 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 9, 9, 1 + (n % 100) as u8], 0))).unwrap();
        silent.push(socket.connect(post.socket()).await.unwrap());
    }
    post.until("most are refused", |_, _| (post.refused("address") >= 292).then_some(())).await;
    let honest = Crowd::come(&post, (1..=20).map(|n| Ipv4Addr::new(127, 1, n, 1)), 0).await;
    post.until("20 peers are connected", |peers, _| (n_connected(peers, &honest.peers) == 20).then_some(())).await;
    assert_eq!(silent.len(), 300);
}

/// One peer opens as many connections as it can.
#[tokio::test]
async fn one_peer_has_two_connections_at_most() {
    let post = start(config(), &network()).await;
    let mut swarm = bare();
    for _ in 0..20 {
        let peer: PeerId = post.handle.peer_id;
        let options = libp2p::swarm::dial_opts::DialOpts::peer_id(peer)
            .addresses(vec![post.address.clone()])
            .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
            .allocate_new_port()
            .build();
        swarm.dial(options).unwrap();
    }
    let driver = tokio::spawn(async move { while swarm.next().await.is_some() {} });
    post.until("the rest is refused", |peers, _| (post.refused("places") >= 18 && n_all(peers) == 1).then_some(())).await;
    driver.abort();
}

/// A peer that sends nonsense is banned. It cannot come back at once, and can when the ban is over.
#[tokio::test]
async fn a_ban_ends_and_gives_its_place_back() {
    let network = network();
    let mut post = start(GossipConfig { ban: Duration::from_secs(4), ..config() }, &network).await;
    let target: PeerAddress = post.address.to_string().parse().unwrap();
    let soon = base::Backoff::new(Duration::from_millis(100), Duration::from_millis(100));
    let liar = start(GossipConfig { peers: vec![target], goodbye_pause: soon, ..config() }, &network).await;
    let liars: HashSet<String> = HashSet::from([liar.handle.peer_id.to_base58()]);
    let is_there = |peers: &[PeerInfo]| peers.iter().any(|info| liars.contains(&info.peer) && info.connected && info.topics > 0);
    post.until("the liar is there", |peers, _| is_there(peers).then_some(())).await;
    let target_is_there = |peers: &[PeerInfo]| peers.iter().any(|info| info.connected && info.topics > 0);
    liar.until("the target is there", |peers, _| target_is_there(peers).then_some(())).await;
    let block = Topic { digest: network.fork_digest_at(Epoch::new(0)), kind: MessageKind::Block };
    for n in 0..4u8 {
        liar.control.publish(block, &[n; 1000]).await.unwrap();
        let ticket = loop {
            match post.handle.events.recv().await.unwrap() {
                SourceEvent::Message(message) => break message.raw.ticket.unwrap(),
                SourceEvent::Peer(_) | SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => {}
            }
        };
        post.handle.report(ticket, Verdict::Reject);
    }
    post.until("it is refused", |_, _| (post.refused("banned") > 0).then_some(())).await;
    assert!(!is_there(&post.control.peers()));
    assert_eq!(post.metrics.goodbyes.with_label_values(&["other", "bad_score", "sent"]).get(), 1);
    assert_eq!(liar.metrics.goodbyes.with_label_values(&["other", "bad_score", "received"]).get(), 1);
    post.until("the ban is over", |peers, _| is_there(peers).then_some(())).await;
}

/// The peers of each topic are counted, those in the mesh among them.
#[tokio::test]
async fn the_peers_of_each_topic_are_counted() {
    let network = network();
    let post = start(config(), &network).await;
    let target: PeerAddress = post.address.to_string().parse().unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(start(GossipConfig { peers: vec![target.clone()], ..config() }, &network).await);
    }
    let topics = post
        .until("all are on all topics, and in the mesh", |_, state| {
            let is_full =
                state.topics.iter().all(|topic| (topic.n_peers, topic.n_mesh) == (3, 3) || topic.name.starts_with("data_column"));
            (is_full && !state.topics.is_empty()).then(|| state.topics.clone())
        })
        .await;
    let n_subnets = topics.iter().filter(|topic| topic.name.starts_with("beacon_attestation_")).count();
    assert_eq!(n_subnets, 64);
    assert_eq!(post.metrics.topic_peers.with_label_values(&["beacon_attestation_63", "mesh"]).get(), 3);
    assert_eq!(post.metrics.topic_peers.with_label_values(&["beacon_block", "connected"]).get(), 3);
    post.until("all three dialled us", |_, state| (state.n_inbound == 3 && state.n_outbound == 0).then_some(())).await;
    assert_eq!(post.control.state().n_reached, 0, "loopback is not outside");
}
