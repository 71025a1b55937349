//! Listeners that know nothing but a boot node find each other, over real sockets on loopback.
//! Nothing sleeps. Each test waits for the expected state, with a time limit.

#![allow(clippy::unwrap_used)]

mod common;

use consensus::{BlobParameters, Epoch, Fork, ForkName, Network, Preset, Root, Spec};
use discv5::{ConfigBuilder, Discv5, Enr, ListenConfig};
use enr::{CombinedKey, NodeId};
use sources::discovery::{BootNode, DiscoveryConfig, ExternalAddress, ForkId};
use sources::gossip::{
    AddressLimit, ConnectionState, GossipConfig, GossipControl, GossipHandle, GossipService, Identity, PeerInfo, StatusView,
};
use sources::metrics::SourceMetrics;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

fn network(genesis_validators_root: Root) -> Arc<Network> {
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
    Arc::new(Network { spec, genesis_time, genesis_validators_root })
}

struct Post {
    handle: GossipHandle,
    control: GossipControl,
    metrics: SourceMetrics,
    _status: watch::Sender<StatusView>,
}

fn discovery(boot_nodes: Vec<BootNode>) -> DiscoveryConfig {
    let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    DiscoveryConfig { listen, boot_nodes, allow_private: true, ..DiscoveryConfig::default() }
}

fn config(discovery: DiscoveryConfig) -> GossipConfig {
    GossipConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        heartbeat: Duration::from_millis(100),
        discovery: Some(discovery),
        ..GossipConfig::default()
    }
}

fn start(config: GossipConfig, network: &Arc<Network>) -> Post {
    let (status_in, status) = watch::channel(StatusView::default());
    let metrics = SourceMetrics::unregistered();
    let handle = GossipService::start(config, network.clone(), status, metrics.clone()).unwrap();
    let control = handle.control();
    Post { handle, control, metrics, _status: status_in }
}

impl Post {
    /// Waits until the peers and the state of the node are as wanted.
    async fn until<T>(&self, wanted: impl Fn(&[PeerInfo], &ConnectionState) -> Option<T>) -> T {
        common::until(&self.control, "as wanted", wanted).await
    }

    /// Our record, as soon as `is_complete` says that it names where we listen for gossip.
    async fn record(&self, is_complete: impl Fn(&Enr) -> bool) -> Enr {
        self.until(|_, state| state.discovery.as_ref()?.record.parse().ok().filter(|record| is_complete(record))).await
    }

    async fn boot_node(&self) -> BootNode {
        self.record(|record| record.tcp4().is_some()).await.to_base64().parse().unwrap()
    }

    /// Waits until another node is connected, and returns its address.
    async fn meets(&self, other: &Post) -> String {
        let peer = other.handle.peer_id.to_base58();
        let address =
            |peers: &[PeerInfo]| peers.iter().find(|info| info.peer == peer && info.connected).map(|info| info.address.clone());
        self.until(|peers, _| address(peers)).await
    }

    fn found(&self, outcome: &str) -> u64 {
        self.metrics.found_records.with_label_values(&[outcome]).get()
    }
}

#[tokio::test]
async fn two_who_know_one_boot_node_find_each_other() {
    let network = network(Root::repeat_byte(1));
    let boot = start(config(discovery(Vec::new())), &network);
    let record = boot.boot_node().await;
    let first = start(config(discovery(vec![record.clone()])), &network);
    first.meets(&boot).await;
    let second = start(config(discovery(vec![record])), &network);
    second.meets(&first).await;
    first.meets(&second).await;
    // Each connection was opened by one of the two, and so the other knows that it can be reached.
    let posts = [&boot, &first, &second];
    let n_inbound: u64 = posts.map(|post| post.metrics.inbound_connections.get()).iter().sum();
    assert!(n_inbound >= 2, "{n_inbound}");
    for post in posts {
        let n = post.metrics.inbound_connections.get();
        post.until(|_, state| (state.n_reached >= n && state.last_reached.is_some() == (state.n_reached > 0)).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn nodes_of_another_network_are_counted_and_not_dialled() {
    let (ours, others) = (network(Root::repeat_byte(1)), network(Root::repeat_byte(2)));
    let boot = start(config(discovery(Vec::new())), &others);
    let record = boot.boot_node().await;
    let stranger = start(config(discovery(vec![record.clone()])), &others);
    stranger.meets(&boot).await;
    let post = start(config(discovery(vec![record])), &ours);
    let state = post
        .until(|_, state| {
            let discovery = state.discovery.as_ref()?;
            (discovery.n_live > 0 && state.refused_records["other_network"] > 0).then(|| discovery.clone())
        })
        .await;
    assert_eq!((post.control.peers().len(), state.n_known), (0, 0));
}

#[tokio::test]
async fn a_restart_finds_its_peers_without_a_boot_node() {
    let network = network(Root::repeat_byte(1));
    let dir = tempfile::tempdir().unwrap();
    let kept = |boot_nodes| GossipConfig {
        identity: Identity::File(dir.path().join("node.key")),
        ..config(DiscoveryConfig { peer_book: Some(dir.path().join("peers.txt")), ..discovery(boot_nodes) })
    };
    let other = start(config(discovery(Vec::new())), &network);
    let first = start(kept(vec![other.boot_node().await]), &network);
    first.meets(&other).await;
    let peer = first.handle.peer_id;
    let Post { handle, .. } = first;
    handle.shutdown().await;
    let again = start(kept(Vec::new()), &network);
    assert_eq!(again.handle.peer_id, peer, "the same key");
    again.meets(&other).await;
    again.handle.shutdown().await;
    // A damaged book costs a search, and no start.
    std::fs::write(dir.path().join("peers.txt"), [0xff; 100]).unwrap();
    let third = start(kept(vec![other.boot_node().await]), &network);
    third.meets(&other).await;
}

#[tokio::test]
async fn a_book_that_is_no_file_is_no_obstacle() {
    let network = network(Root::repeat_byte(1));
    let dir = tempfile::tempdir().unwrap();
    let peer_book: Option<std::path::PathBuf> = Some(Path::new(dir.path()).to_owned());
    let post = start(config(DiscoveryConfig { peer_book, ..discovery(Vec::new()) }), &network);
    post.boot_node().await;
    post.handle.shutdown().await;
}

/// A hostile node of our network, whose routing table holds whatever it likes.
struct Liar {
    node: Discv5,
}

impl Liar {
    async fn new(network: &Network) -> Self {
        let key = CombinedKey::generate_secp256k1();
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut record = Enr::builder().ip4(Ipv4Addr::LOCALHOST).udp4(port).tcp4(port).build(&key).unwrap();
        record.insert("eth2", &ForkId::at(network, Epoch::new(0)).to_ssz(), &key).unwrap();
        let sockets = ListenConfig::FromSockets { ipv4: Some(Arc::new(socket)), ipv6: None };
        Self { node: Discv5::new(record, key, ConfigBuilder::new(sockets).build()).unwrap() }
    }

    fn boot_node(&self) -> BootNode {
        self.node.local_enr().to_base64().parse().unwrap()
    }

    /// Puts an invented record into its table. Returns whether there was room.
    fn invents(&self, network: &Network, ip: Ipv4Addr, port: u16) -> bool {
        let key = CombinedKey::generate_secp256k1();
        let mut invented = Enr::builder().ip4(ip).udp4(port).tcp4(port).build(&key).unwrap();
        let fork_id = ForkId::at(network, Epoch::new(0));
        invented.insert("eth2", &fork_id.to_ssz(), &key).unwrap();
        self.node.add_enr(invented).is_ok()
    }
}

/// All boot nodes are hostile and invent records: 500 of one prefix, all valid and signed. They
/// take at most the places of one prefix in the peer book.
#[tokio::test]
async fn five_hundred_records_of_one_prefix_are_sixteen() {
    const LIARS: usize = 8;
    let network = network(Root::repeat_byte(1));
    let mut liars = Vec::new();
    let mut n_invented = 0;
    for _ in 0..LIARS {
        let mut liar = Liar::new(&network).await;
        // A node answers with 16 records at most, so several have more to tell together.
        for nth in 0..64u16 {
            n_invented += usize::from(liar.invents(&network, Ipv4Addr::new(45, 9, 9, nth as u8 + 1), 9000 + nth));
        }
        liar.node.start().await.unwrap();
        liars.push(liar);
    }
    assert!(n_invented > 100, "{n_invented}");
    let limits = AddressLimit { pace: Duration::ZERO, ..AddressLimit::PUBLIC };
    let boot_nodes = liars.iter().map(Liar::boot_node).collect();
    let post = start(GossipConfig { address_limit: limits, ..config(discovery(boot_nodes)) }, &network);
    let known = |state: &ConnectionState| state.discovery.as_ref().map_or(0, |discovery| discovery.n_known);
    post.until(|_, state| (known(state) > LIARS && post.found("prefix_full") > 0).then_some(())).await;
    // The hostile nodes themselves, which have another prefix, are known too.
    assert!(known(&post.control.state()) <= 16 + LIARS, "{:?}", post.control.state());
}

/// A node with a private address contacts us. We do not dial it, and tell nobody of it.
#[tokio::test]
async fn private_addresses_are_refused_where_they_are_not_allowed() {
    let network = network(Root::repeat_byte(1));
    let external = vec![ExternalAddress::new(Ipv4Addr::LOCALHOST.into())];
    let post = start(config(DiscoveryConfig { allow_private: false, external, ..discovery(Vec::new()) }), &network);
    let record = post.record(|record| record.tcp4().is_some()).await;
    let mut liar = Liar::new(&network).await;
    liar.node.add_enr(record).unwrap();
    liar.node.start().await.unwrap();
    assert!(liar.node.find_node(NodeId::random()).await.is_ok());
    post.until(|_, state| (state.refused_records["private_address"] > 0).then_some(())).await;
    assert_eq!(post.control.state().discovery.as_ref().map(|discovery| discovery.n_known), Some(0));
}

fn gossip_over(listen: &[&str], udp: &[&str], boot_nodes: Vec<BootNode>) -> GossipConfig {
    let sockets = udp.iter().map(|address| address.parse().unwrap()).collect();
    let discovery = DiscoveryConfig { listen: sockets, ..discovery(boot_nodes) };
    GossipConfig { listen: listen.iter().map(|address| address.parse().unwrap()).collect(), ..config(discovery) }
}

/// Whoever has a QUIC port in its record is dialled there.
#[tokio::test]
async fn quic_comes_first() {
    let network = network(Root::repeat_byte(1));
    let both = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let other = start(gossip_over(&both, &["127.0.0.1:0"], Vec::new()), &network);
    let record = other.record(|record| record.tcp4().is_some() && quic(record, "quic").is_some()).await;
    // This one listens nowhere, so it is the one that dials.
    let post = start(gossip_over(&[], &["127.0.0.1:0"], vec![record.to_base64().parse().unwrap()]), &network);
    let address = post.meets(&other).await;
    assert!(address.contains("/quic-v1"), "{address}");
    assert_eq!(address.split('/').nth(4).and_then(|port| port.parse().ok()), quic(&record, "quic"));
}

/// A QUIC port at which nobody answers costs some seconds, and then TCP is tried.
#[tokio::test]
async fn tcp_comes_second() {
    let network = network(Root::repeat_byte(1));
    let nobody = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ip = Ipv4Addr::LOCALHOST.into();
    let external = ExternalAddress { quic: Some(nobody.local_addr().unwrap().port()), ..ExternalAddress::new(ip) };
    let mut config = gossip_over(&["/ip4/127.0.0.1/tcp/0"], &["127.0.0.1:0"], Vec::new());
    config.discovery.as_mut().unwrap().external = vec![external];
    let other = start(config, &network);
    let record = other.record(|record| record.tcp4().is_some() && quic(record, "quic").is_some()).await;
    let post = start(gossip_over(&[], &["127.0.0.1:0"], vec![record.to_base64().parse().unwrap()]), &network);
    let address = post.meets(&other).await;
    assert!(address.contains("/tcp/"), "{address}");
}

/// A node of both families is found by one that has IPv4 only and by one that has IPv6 only.
#[tokio::test]
async fn a_node_of_both_families_is_found_over_either() {
    let network = network(Root::repeat_byte(1));
    let all = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"];
    let both = start(gossip_over(&all, &["127.0.0.1:0", "[::1]:0"], Vec::new()), &network);
    let is_complete = |record: &Enr| record.tcp4().is_some() && record.tcp6().is_some() && quic(record, "quic6").is_some();
    let record = both.record(is_complete).await;
    assert!(record.ip4().is_some() && record.ip6().is_some() && record.udp4().is_some() && record.udp6().is_some());
    let boot_nodes = || vec![record.to_base64().parse().unwrap()];
    let v4 = start(gossip_over(&[], &["127.0.0.1:0"], boot_nodes()), &network);
    let address = v4.meets(&both).await;
    assert!(address.starts_with("/ip4/127.0.0.1/tcp/"), "{address}");
    let v6 = start(gossip_over(&["/ip6/::1/tcp/0"], &["[::1]:0"], boot_nodes()), &network);
    v6.meets(&both).await;
}

/// Nodes that have IPv6 only find each other, over QUIC.
#[tokio::test]
async fn ipv6_alone_is_enough() {
    let network = network(Root::repeat_byte(1));
    let other = start(gossip_over(&["/ip6/::1/udp/0/quic-v1"], &["[::1]:0"], Vec::new()), &network);
    let record = other.record(|record| quic(record, "quic6").is_some()).await;
    let post = start(gossip_over(&[], &["[::1]:0"], vec![record.to_base64().parse().unwrap()]), &network);
    let address = post.meets(&other).await;
    assert!(address.starts_with("/ip6/::1/udp/") && address.contains("/quic-v1"), "{address}");
}

fn quic(record: &Enr, key: &str) -> Option<u16> {
    record.get_decodable(key)?.ok()
}
