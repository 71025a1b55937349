//! `slashwatch crawl` over a network on loopback: nodes of three clients, one of another network,
//! one that refuses connections, and one that takes them and never says a word.

use consensus::{Network, Root, Spec};
use serde_json::{Value, json};
use sources::discovery::{BootNode, DiscoveryConfig, ExternalAddress};
use sources::gossip::{ConnectionState, GossipConfig, GossipHandle, GossipService, StatusView};
use sources::metrics::SourceMetrics;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use test_support::program::{run, runtime, stderr};
use tokio::sync::watch;

const CONFIG: &str = "PRESET_BASE: minimal\nCONFIG_NAME: loopback\nSECONDS_PER_SLOT: 12\nALTAIR_FORK_EPOCH: 0\nBELLATRIX_FORK_EPOCH: 0\n\
                      CAPELLA_FORK_EPOCH: 0\nDENEB_FORK_EPOCH: 0\nELECTRA_FORK_EPOCH: 0\n";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const PATIENCE: Duration = Duration::from_secs(120);

fn slashwatch() -> Command {
    Command::new(env!("CARGO_BIN_EXE_slashwatch"))
}

fn network(root: u8) -> Arc<Network> {
    let genesis_time = base::Time::now().0 / 1_000_000_000 - 1_000;
    let spec = Spec::from_yaml(CONFIG).expect("valid");
    Arc::new(Network { spec, genesis_time, genesis_validators_root: Root::repeat_byte(root) })
}

/// The network as a folder.
fn write_folder(dir: &Path, network: &Network, boot_node: &str) {
    std::fs::write(dir.join("config.yaml"), CONFIG).expect("writable");
    let mut genesis = network.genesis_time.to_le_bytes().to_vec();
    genesis.extend_from_slice(network.genesis_validators_root.as_slice());
    std::fs::write(dir.join("genesis.ssz"), genesis).expect("writable");
    std::fs::write(dir.join("boot_enr.yaml"), format!("- {boot_node}\n")).expect("writable");
}

struct Node {
    handle: GossipHandle,
    _status: watch::Sender<StatusView>,
}

impl Node {
    /// `external` is the TCP port that its record names, if it is not its own.
    fn start(network: &Arc<Network>, agent: &str, boot: &[BootNode], listen: &[&str], external: Option<u16>) -> Self {
        let ip = Ipv4Addr::LOCALHOST;
        let external = external.map(|tcp| ExternalAddress { tcp: Some(tcp), ..ExternalAddress::new(ip.into()) });
        let discovery = DiscoveryConfig {
            listen: vec![SocketAddr::from((ip, 0))],
            boot_nodes: boot.to_vec(),
            external: external.into_iter().collect(),
            allow_private: true,
            ..DiscoveryConfig::default()
        };
        let config = GossipConfig {
            listen: listen.iter().map(|text| text.parse().expect("a multiaddr")).collect(),
            agent: agent.to_owned(),
            discovery: Some(discovery),
            ..GossipConfig::default()
        };
        let (status_in, status) = watch::channel(StatusView::default());
        let handle = GossipService::start(config, network.clone(), status, SourceMetrics::unregistered()).expect("it starts");
        Self { handle, _status: status_in }
    }

    async fn until<T>(&self, wanted: impl Fn(&ConnectionState) -> Option<T>) -> T {
        let control = self.handle.control();
        let mut views = control.watch_peers();
        let found = async {
            loop {
                views.borrow_and_update();
                if let Some(found) = wanted(&control.state()) {
                    return found;
                }
                views.changed().await.expect("it runs");
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("it becomes so")
    }

    /// Its record, as soon as that names a port of gossip.
    async fn record(&self) -> String {
        let names_port = |record: &str| record.parse::<sources::gossip::PeerAddress>().is_ok();
        self.until(|state| state.discovery.as_ref().map(|one| one.record.clone()).filter(|record| names_port(record))).await
    }
}

fn crawl(dir: &Path, more: &[&str]) -> Output {
    run(slashwatch().arg("crawl").arg("--network").arg(dir).args(more))
}

/// The first of five crawls that has found everybody. A datagram may be lost on a busy machine, and
/// whoever is known only to a node that was not heard is then missed.
fn complete_crawl(dir: &Path, more: &[&str], is_complete: impl Fn(&str) -> bool) -> Output {
    let mut crawls = (0..5).map(|_| crawl(dir, more));
    crawls.find(|output| is_complete(&String::from_utf8_lossy(&output.stdout))).expect("one of five crawls finds everybody")
}

#[test]
fn everybody_is_seen_once_and_told_apart() {
    let runtime = runtime();
    let _guard = runtime.enter();
    let (ours, other) = (network(1), network(2));
    let boot = Node::start(&ours, "Lighthouse/v8.1.2-1a68631/x86_64-linux", &[], &[TCP], None);
    let record = runtime.block_on(boot.record());
    let boot_nodes: Vec<BootNode> = vec![record.parse().expect("a record")];
    // Nobody listens on the first port, and nobody answers on the second.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_port = silent.local_addr().expect("bound").port();
    let hostile = format!("evil\u{1b}[2J\u{202e}\n{}", "x".repeat(500));
    let nodes = BTreeMap::from([
        ("lighthouse", boot),
        ("teku", Node::start(&ours, "teku/teku/v26.8.0/linux-x86_64", &boot_nodes, &[TCP, "/ip4/127.0.0.1/udp/0/quic-v1"], None)),
        ("hostile", Node::start(&ours, &hostile, &boot_nodes, &[TCP], None)),
        ("stranger", Node::start(&other, "Prysm/v7.1.6/c40b59a", &boot_nodes, &[TCP], None)),
        ("refuses", Node::start(&ours, "never seen", &boot_nodes, &[TCP], Some(closed))),
        ("silent", Node::start(&ours, "never seen", &boot_nodes, &[TCP], Some(silent_port))),
    ]);
    let n_others = nodes.len() - 1;
    runtime.block_on(nodes["lighthouse"].until(|state| (state.discovery.as_ref()?.n_live >= n_others).then_some(())));
    for node in nodes.values() {
        runtime.block_on(node.record());
    }
    let dir = tempfile::tempdir().expect("a fresh directory");
    write_folder(dir.path(), &ours, &record);

    let table = complete_crawl(dir.path(), &[], |text| text.contains("  6  beacon nodes by their records"));
    assert!(table.status.success(), "{}", stderr(&table));
    assert_eq!(stderr(&table), "", "no progress without a terminal");
    let [digest, others_digest] = [&ours, &other].map(|network| network.fork_digest_at(consensus::Epoch::new(0)));
    let wanted = format!(
        "loopback, fork digest 0x{digest}
      6  beacon nodes by their records
      6  of them answered by UDP
      0  other nodes

Fork digests
      5  0x{digest}  ours
      1  0x{others_digest}  other

Next fork, as nodes on our fork announce it
      5  none

Reached
      3  answered
      1  refused
      1  timed out
      1  not visited: another network or fork

Transport        advertised   tried  connected
QUIC over IPv4            1       1          1
TCP over IPv4             6       4          2
QUIC over IPv6            0       0          0
TCP over IPv6             0       0          0

Clients
      1  lighthouse v8.1.2-1a68631
      1  other evil?[2J??{}
      1  teku v26.8.0

Attestation subnets
      3  on 64

Custody groups
      3  with 4
",
        "x".repeat(54)
    );
    assert_eq!(String::from_utf8_lossy(&table.stdout), wanted);

    let output = complete_crawl(dir.path(), &["--json"], |text| text.matches("\"peer\":").count() == 6);
    let mut found: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let names: BTreeMap<String, &str> = nodes.iter().map(|(name, node)| (node.handle.peer_id.to_base58(), *name)).collect();
    let rows = found["nodes"].take();
    let rows: BTreeMap<&str, Value> = rows
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let mut row = row.clone();
            let addresses = row["addresses"].take();
            let kinds = addresses.as_array().expect("a list").iter().map(|text| text.as_str().expect("text"));
            let kinds: Vec<&str> = kinds.map(|text| if text.contains("/quic-v1") { "quic" } else { "tcp" }).collect();
            row["addresses"] = json!(kinds);
            (names[row["peer"].take().as_str().expect("text")], row)
        })
        .collect();
    assert!(found["seconds"].take().as_u64().is_some_and(|seconds| seconds < 60), "{found}");
    let row = |addresses: Value, reached: &str| {
        json!({
            "peer": null, "addresses": addresses, "fork_digest": format!("0x{digest}"), "next_fork_version": "0x05000001",
            "next_fork_epoch": u64::MAX.to_string(), "answered_by_udp": true, "reached": reached, "via": null, "client": null,
            "agent": null, "head_slot": null, "attestation_subnets": null, "custody_groups": null, "goodbye": null,
        })
    };
    let answered = |addresses: Value, via: &str, client: &str, agent: &str| {
        let mut row = row(addresses, "answered");
        for (key, value) in [("via", via), ("client", client), ("agent", agent), ("head_slot", "0")] {
            row[key] = json!(value);
        }
        (row["attestation_subnets"], row["custody_groups"]) = (json!(64), json!(4));
        row
    };
    let mut stranger = row(json!([]), "other_network_by_record");
    stranger["fork_digest"] = json!(format!("0x{others_digest}"));
    let clean = format!("evil?[2J??{}", "x".repeat(54));
    let wanted = BTreeMap::from([
        ("lighthouse", answered(json!(["tcp"]), "ip4_tcp", "lighthouse", "Lighthouse/v8.1.2-1a68631/x86_64-linux")),
        ("teku", answered(json!(["quic", "tcp"]), "ip4_quic", "teku", "teku/teku/v26.8.0/linux-x86_64")),
        ("hostile", answered(json!(["tcp"]), "ip4_tcp", "other", &clean)),
        ("stranger", stranger),
        ("refuses", row(json!(["tcp"]), "refused")),
        ("silent", row(json!(["tcp"]), "timed_out")),
    ]);
    assert_eq!(rows, wanted);
    let none = json!({"advertised": 0, "tried": 0, "connected": 0});
    assert_eq!(
        found,
        json!({
            "schema": 1, "network": "loopback", "fork_digest": format!("0x{digest}"), "seconds": null, "complete": true,
            "no_beacon_nodes": 0, "beacon_nodes": 6, "answered_by_udp": 6,
            "forks": [
                {"digest": format!("0x{digest}"), "fork": "ours", "nodes": 5},
                {"digest": format!("0x{others_digest}"), "fork": "other", "nodes": 1},
            ],
            "announced": {"none": 5},
            "reached": {
                "answered": 3, "other_network": 0, "goodbye": 0, "no_status": 0, "refused": 1, "timed_out": 1, "unreachable": 0,
                "other_node": 0, "failed": 0, "other_network_by_record": 1, "no_address": 0, "private_address": 0,
                "prefix_full": 0, "not_visited": 0,
            },
            "goodbyes": {},
            "transports": {
                "ip4_quic": {"advertised": 1, "tried": 1, "connected": 1},
                "ip4_tcp": {"advertised": 6, "tried": 4, "connected": 2},
                "ip6_quic": none, "ip6_tcp": none,
            },
            "clients": [
                {"client": "lighthouse", "version": "v8.1.2-1a68631", "nodes": 1},
                {"client": "other", "version": clean, "nodes": 1},
                {"client": "teku", "version": "v26.8.0", "nodes": 1},
            ],
            "attestation_subnets": {"64": 3}, "custody_groups": {"4": 3}, "nodes": null,
        })
    );
    drop(silent);
}

/// Ctrl-C while a node is awaited ends the crawl with what was found.
#[test]
fn an_interrupted_crawl_shows_what_it_has() {
    let runtime = runtime();
    let _guard = runtime.enter();
    let ours = network(3);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let node = Node::start(&ours, "never seen", &[], &[TCP], Some(silent.local_addr().expect("bound").port()));
    let dir = tempfile::tempdir().expect("a fresh directory");
    write_folder(dir.path(), &ours, &runtime.block_on(node.record()));
    let mut crawl = slashwatch();
    crawl.arg("crawl").arg("--network").arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let crawl = crawl.spawn().expect("it starts");
    let (_connection, _) = silent.accept().expect("the crawl dials");
    assert!(Command::new("kill").arg("-INT").arg(crawl.id().to_string()).status().expect("kill runs").success());
    let output = crawl.wait_with_output().expect("it ends");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(table.contains("The crawl ended before everything was seen."), "{table}");
    assert!(table.contains("      1  not visited: no time left"), "{table}");
}

#[test]
fn a_network_without_boot_nodes_is_no_network_to_crawl() {
    let dir = tempfile::tempdir().expect("a fresh directory");
    std::fs::write(dir.path().join("config.yaml"), CONFIG).expect("writable");
    let output = crawl(dir.path(), &[]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("genesis.ssz"), "{}", stderr(&output));
    write_folder(dir.path(), &network(4), "");
    let output = crawl(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("boot_enr.yaml"), "{}", stderr(&output));
}
