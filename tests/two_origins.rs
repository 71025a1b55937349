//! `two_origins` through everything that runs: nodes with real libp2p that publish on subnets they
//! are not subscribed to, as most nodes of a network do, and the binary that listens to them.
//!
//! The votes are those of a simulated network, whose validators see one chain. A vote that two
//! nodes publish is the same message twice, up to 40 ms apart, and which one is first is drawn.

mod common;

use chain::{Chain, PubkeyCache};
use common::slashwatch;
use consensus::{Network, Spec};
use serde_json::Value;
use simulator::Scenario;
use simulator::record::capture_bytes_since;
use sources::capture::{CaptureFile, Entry};
use sources::convert::MessageConverter;
use sources::gossip::{GossipConfig, GossipControl, GossipService, Identity, StatusView};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use sources::topic::Topic;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use test_support::http::wait_until;
use test_support::program::{Running, WatcherFolder, runtime};
use tokio::sync::watch;
use verify::Time;

const SEED: u64 = 7;
const VALIDATORS: usize = 128;
const PER_EPOCH: u64 = 8;
const SLOT: Duration = Duration::from_millis(600);
const EPOCHS: u64 = 16;
/// The epoch in which the second nodes begin.
const SECOND_FROM: u64 = 6;
/// The keys of each of the three groups.
const KEYS: u64 = 16;
/// How much later one of two nodes may publish than the other.
const SPREAD_MS: u64 = 40;

/// The nodes, by who publishes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Group `twice`: its machine, and from [`SECOND_FROM`] on a second one.
    Home,
    Second,
    /// Group `several`: a client with two beacon nodes from the start.
    OneOfTwo,
    OtherOfTwo,
    /// Group `named`: a client that publishes through another node too from [`SECOND_FROM`] on,
    /// which the configuration names.
    Usual,
    StandIn,
    /// Everybody else, and all blocks and aggregates.
    Others,
}

const NODES: [At; 7] = [At::Home, At::Second, At::OneOfTwo, At::OtherOfTwo, At::Usual, At::StandIn, At::Others];

/// The nodes at which a validator's vote is published.
fn nodes_of(validator: u64, epoch: u64) -> &'static [At] {
    let has_second = epoch >= SECOND_FROM;
    match (validator / KEYS, has_second) {
        (0, false) => &[At::Home],
        (0, true) => &[At::Home, At::Second],
        (1, _) => &[At::OneOfTwo, At::OtherOfTwo],
        (2, false) => &[At::Usual],
        (2, true) => &[At::Usual, At::StandIn],
        _ => &[At::Others],
    }
}

/// One node. Its events are read until the runtime ends.
struct Node {
    control: GossipControl,
    address: String,
    peer_id: String,
}

async fn start(at: At, network: &Arc<Network>, status: &watch::Receiver<StatusView>) -> Node {
    let config = GossipConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        identity: Identity::Secret([at as u8 + 1; 32]),
        subscribe: false,
        ..GossipConfig::default()
    };
    let started = GossipService::start(config, network.clone(), status.clone(), SourceMetrics::unregistered());
    let mut handle = started.expect("loopback has free ports");
    let (control, peer_id) = (handle.control(), handle.peer_id.to_string());
    let address = loop {
        match handle.events.recv().await.expect("it runs") {
            SourceEvent::ListeningOn(address) => break address.to_string(),
            _ => continue,
        }
    };
    tokio::spawn(async move {
        // All of the handle, because the node ends with the rest of it.
        let mut handle = handle;
        while handle.events.recv().await.is_some() {}
    });
    Node { control, address, peer_id }
}

/// What one node publishes at a time.
struct Publication {
    at: Time,
    node: At,
    topic: Topic,
    payload: Vec<u8>,
}

/// A number below `most` that depends on these numbers only.
fn lot(most: u64, of: [u64; 3]) -> u64 {
    let bytes: Vec<u8> = [SEED, of[0], of[1], of[2]].iter().flat_map(|number| number.to_le_bytes()).collect();
    u64::from_le_bytes(consensus::sha256(&bytes)[..8].try_into().expect("eight bytes")) % most
}

fn publications(file: &CaptureFile, network: &Arc<Network>) -> Vec<Publication> {
    let converter = MessageConverter::new(network.clone());
    let mut all = Vec::new();
    for entry in file.entries().expect("readable") {
        let Entry::Gossip(entry) = entry.expect("an entry").entry else { continue };
        let topic = Topic::parse(&entry.topic).expect("one that is read");
        let message = converter.gossip(&entry).expect("a genuine one");
        let Some(claim) = verify::single_vote_claimed(&message) else {
            all.push(Publication { at: entry.received_at, node: At::Others, topic, payload: entry.payload });
            continue;
        };
        let slot = network.slot_at(entry.received_at.0).as_u64();
        let nodes = nodes_of(claim.voter.as_u64(), slot / PER_EPOCH);
        for node in nodes {
            let later = if nodes.len() == 1 { 0 } else { lot(SPREAD_MS, [claim.voter.as_u64(), slot, *node as u64]) };
            let at = entry.received_at.after(Duration::from_millis(later));
            all.push(Publication { at, node: *node, topic, payload: entry.payload.clone() });
        }
    }
    all.sort_by_key(|publication| publication.at);
    all
}

#[test]
fn keys_on_two_nodes_are_told_and_clients_with_several_nodes_are_not() {
    println!("seed {SEED}");
    let runtime = runtime();
    let scenario =
        Scenario { slots: EPOCHS * PER_EPOCH, slot_duration: SLOT, seed: SEED, n_nodes: 1, ..Scenario::quiet(VALIDATORS) };
    // To sign all messages, and to start the watcher, takes some seconds. So long after a
    // connection a peer counts as subscribed to all subnets, too.
    let genesis = Time::now().after(Duration::from_secs(60)).0 / 1_000_000_000;
    let (bytes, _) = capture_bytes_since(&scenario, genesis).expect("played");
    let dir = tempfile::tempdir().expect("a fresh directory");
    let path = dir.path().join("x.e2s");
    std::fs::write(&path, bytes).expect("writable");
    let file = CaptureFile::open(&path).expect("written");
    let config_yaml = file.first_config().expect("readable").expect("there");
    let state = file.first_state().expect("readable").expect("there");
    let spec = Spec::from_yaml(&config_yaml).expect("valid");
    let chain = Chain::from_state(spec, &state, &mut PubkeyCache::in_memory(), &mut |_| ()).expect("a good state");
    let network = Arc::new(Network::clone(chain.network()));
    let publications = publications(&file, &network);

    let (_status, status_seen) = watch::channel(StatusView::default());
    let nodes: Vec<Node> = runtime.block_on(async {
        let mut nodes = Vec::new();
        for at in NODES {
            nodes.push(start(at, &network, &status_seen).await);
        }
        nodes
    });
    let node = |at: At| &nodes[at as usize];
    let peers: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    let group = |nth: u64, name: &str| {
        format!("[[watch.groups]]\nname = {name:?}\nkeys = [\"{}-{}\"]\n", nth * KEYS, nth * KEYS + KEYS - 1)
    };
    let more = format!(
        "[watch.two_origins]\ngroups = [\"twice\", \"several\", \"named\"]\nnodes = [{:?}]\nlearn_epochs = 4\n{}{}{}",
        node(At::StandIn).peer_id,
        group(0, "twice"),
        group(1, "several"),
        group(2, "named")
    );
    let folder = WatcherFolder::new(&config_yaml, &state, &peers, &more);
    let running = Running::start(slashwatch(), &folder.config);
    running.wait_for("watching");
    assert!(Time::now().0 < genesis * 1_000_000_000, "the machine is too slow for this test: it was ready after genesis");
    let n_refused = runtime.block_on(async {
        for node in &nodes {
            let mut peers = node.control.watch_peers();
            peers.wait_for(|peers| peers.iter().any(|peer| peer.connected && peer.topics > 0)).await.expect("it runs");
        }
        let mut n_refused = 0;
        for Publication { at, node: to, topic, payload } in &publications {
            tokio::time::sleep(at.since(Time::now())).await;
            n_refused += usize::from(node(*to).control.publish_payload(*topic, payload).await.is_err());
        }
        n_refused
    });
    println!("{} publications, {n_refused} refused", publications.len());
    wait_until(folder.api, "/v1/findings?kind=two_origins", |page| {
        page["findings"].as_array().is_some_and(|found| !found.is_empty())
    });
    let found: Vec<Value> = folder.all("findings").into_iter().filter(|row| row["kind"] == "two_origins").collect();
    let number = |value: &Value| value.as_str().expect("text").parse::<u64>().expect("a number");
    for finding in &found {
        let details = &finding["details"];
        println!(
            "told in slot {}, {:.1} epochs after the second node began: {details}",
            finding["slot"],
            (number(&finding["slot"]) as f64) / PER_EPOCH as f64 - SECOND_FROM as f64
        );
        assert_eq!(details["origin"], node(At::Second).peer_id, "{finding}");
        assert_eq!(details["groups"], serde_json::json!(["twice"]), "{finding}");
        let validators: BTreeSet<u64> = details["validators"].as_array().expect("a list").iter().map(number).collect();
        assert!(validators.iter().all(|validator| *validator < KEYS), "{finding}");
    }
    assert_eq!(found.len(), 1, "once: {found:?}");
    assert!(number(&found[0]["slot"]) <= (SECOND_FROM + 6) * PER_EPOCH, "{found:?}");
    assert_eq!(running.terminate(), Some(0));
}
