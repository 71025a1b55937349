//! Floods: all kinds of worthless messages, connections that send nothing, and more peers than are
//! allowed. Memory stays bounded, each message has its outcome, the sums add up, and real offences
//! are still found.

use consensus::{SingleAttestation, Slot, ValidatorIndex};
use offline::bench::peak_rss_bytes;
use simulator::load::{Load, LoadMessage, LoadPlan};
use sources::capture::GossipEntry;
use sources::convert::MessageConverter;
use sources::gossip::{GossipConfig, GossipHandle, GossipService, StatusView};
use sources::metrics::SourceMetrics;
use sources::source::SourceEvent;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use verify::{MessageKind, RawMessage};
use watcher::config::{Config, GossipSection, NetworkSection};
use watcher::run::Watcher;

/// Time limit of every wait. What has not come by then will not come.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Limit on the memory that a flood adds to this process, in bytes. The process also makes the
/// flood.
const MEMORY: u64 = 400 << 20;

fn now() -> u64 {
    base::Time::now().0 / 1_000_000_000
}

/// A single vote in the name of the validator that the next deposit creates.
fn as_stranger(message: &RawMessage, n_registered: u64) -> Option<RawMessage> {
    let MessageKind::Attestation { .. } = message.kind else { return None };
    let single = SingleAttestation::from_ssz(&message.bytes).ok()?;
    let bytes = SingleAttestation { attester_index: ValidatorIndex::new(n_registered), ..single }.to_ssz();
    Some(message.changed(|parts| parts.bytes = bytes))
}

/// As many invalid messages as honest votes, half as many forgeries, three copies of everything,
/// and ten offenders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_and_forgeries_end_in_outcomes_and_hide_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let plan =
        LoadPlan { copies: 3, forged_percent: 50, n_forgers: 40, junk_percent: 100, offenders: 10, ..LoadPlan::quiet(8192, 3) };
    let n_registered = plan.n_registered as u64;
    let mut load = Load::new(plan, now() - 5 * 12).expect("it can be played");
    let (config, state) = (dir.path().join("config.yaml"), dir.path().join("state.ssz"));
    std::fs::write(&config, load.config_yaml()).expect("writable");
    std::fs::write(&state, load.state_ssz()).expect("writable");
    let mut options = Config {
        data_dir: dir.path().join("data"),
        network: NetworkSection { config: Some(config), state: Some(state), ..NetworkSection::default() },
        gossip: GossipSection { enabled: false, ..GossipSection::default() },
        ..Config::default()
    };
    options.api.enabled = false;
    let watcher = Watcher::start(options).await.expect("it starts");
    let before = peak_rss_bytes();

    let converter = MessageConverter::new(Arc::new(load.network().clone()));
    let mut wanted = BTreeSet::new();
    let (mut offered, mut refused) = (0u64, BTreeMap::<&str, u64>::new());
    let feed = watcher.feed().expect("it runs");
    let mut stranger = None;
    for slot in (1..=3).map(Slot::new) {
        for LoadMessage { at_ns, sender, topic, payload, crime } in load.play(slot) {
            wanted.extend(crime.map(|crime| crime.finding_id));
            let received_at = verify::Time(load.network().genesis_time * 1_000_000_000 + at_ns);
            match converter.gossip(&GossipEntry { received_at, peer: sender.into_bytes(), topic, payload }) {
                Ok(message) => {
                    stranger = stranger.or_else(|| as_stranger(&message, n_registered));
                    assert!(feed.send(message).await, "the watcher ended");
                    offered += 1;
                }
                Err(refusal) => *refused.entry(refusal.label()).or_default() += 1,
            }
        }
    }
    // Indices that no deposit can have created are among the invalid messages, and their outcome is
    // `malformed`.
    assert!(feed.send(stranger.expect("somebody votes")).await, "the watcher ended");
    offered += 1;
    drop(feed);
    let mut judged = watcher.snapshots();
    let settled = tokio::time::timeout(TEST_TIMEOUT, async {
        loop {
            let stages = watcher.status().stages;
            let outcomes = stages["messages"].clone();
            let parked = watcher.metrics().parked.get() as u64;
            if outcomes.values().sum::<u64>() + parked == offered {
                return outcomes;
            }
            judged.changed().await.expect("the watcher runs");
        }
    });
    let outcomes = settled.await.expect("every message has its outcome");
    for label in ["proven", "duplicate", "bad_signature", "malformed", "unknown_fork", "unknown_validator"] {
        assert!(outcomes.get(label).copied().unwrap_or(0) > 0, "no {label} in {outcomes:?}");
    }
    for label in ["bad_snappy", "too_long", "topic_not_read"] {
        assert!(refused.get(label).copied().unwrap_or(0) > 0, "no {label} in {refused:?}");
    }
    let store = watcher.store().clone();
    let found: BTreeSet<_> = store.all_findings().map(|row| row.expect("readable").1.id).collect();
    assert_eq!((wanted.len(), found), (10, wanted));
    let grown = peak_rss_bytes().saturating_sub(before);
    assert!(grown < MEMORY, "{} MB more", grown >> 20);
    drop(store);
    watcher.stop().await.expect("a clean stop");
}

/// A node on loopback, with the address that it listens on.
async fn node(network: &Arc<consensus::Network>, change: impl FnOnce(&mut GossipConfig)) -> (GossipHandle, String) {
    let mut config = GossipConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")],
        reconnect: base::Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        heartbeat: Duration::from_millis(200),
        ..GossipConfig::default()
    };
    change(&mut config);
    // The sender is dropped, so the status does not change.
    let (_, status) = tokio::sync::watch::channel(StatusView::default());
    let mut handle = GossipService::start(config, network.clone(), status, SourceMetrics::unregistered()).expect("it starts");
    let address = tokio::time::timeout(TEST_TIMEOUT, async {
        loop {
            match handle.events.recv().await {
                Some(SourceEvent::ListeningOn(address)) => return address.to_string(),
                Some(SourceEvent::Message(_) | SourceEvent::Peer(_) | SourceEvent::Connection { .. }) => {}
                None => panic!("the node ended"),
            }
        }
    });
    let address = address.await.expect("it listens");
    (handle, address)
}

fn port_of(address: &str) -> u16 {
    address.split('/').nth(4).and_then(|port| port.parse().ok()).expect("/ip4/../tcp/PORT/..")
}

/// Sends a vote as soon as a peer is subscribed, and waits until it arrives.
async fn is_heard(listener: &mut GossipHandle, speaker: &GossipHandle, topic: &str) {
    let topic: sources::topic::Topic = sources::topic::Topic::parse(topic).expect("a topic");
    let mut peers = speaker.control.watch_peers();
    let heard = tokio::time::timeout(TEST_TIMEOUT, async {
        // On the wire, any 240 bytes can be a vote. Nothing is sent before a peer has subscribed.
        let mut n = 0u64;
        while speaker.control.publish(topic, &[n.to_le_bytes(); 30].concat()).await.is_err() {
            peers.changed().await.expect("the speaker runs");
            n += 1;
        }
        while !matches!(listener.events.recv().await.expect("the listener runs"), SourceEvent::Message(_)) {}
    });
    heard.await.expect("a message of an honest peer arrives");
}

fn quiet_network() -> (Arc<consensus::Network>, String) {
    let mut load = Load::new(LoadPlan::quiet(64, 1), now() - 12).expect("it can be played");
    let vote = load.play(Slot::new(1)).into_iter().find(|message| message.topic.contains("beacon_attestation_"));
    (Arc::new(load.network().clone()), vote.expect("somebody votes").topic)
}

/// Four hundred sockets of each kind: some send nothing, some send nonsense, and some begin
/// correctly and then stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_stall_keep_nobody_out_for_long() {
    let (network, topic) = quiet_network();
    let (mut listener, address) = node(&network, |_| ()).await;
    let before = peak_rss_bytes();
    let mut stalled = Vec::new();
    for nth in 0..1200 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port_of(&address))).await else { continue };
        let says: &[u8] = match nth % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\n\r\n",
            _ => b"\x13/multistream/1.0.0\n",
        };
        // The other side may have closed it already.
        let _ = stream.write_all(says).await;
        stalled.push(stream);
    }
    let peer = address.parse().expect("a peer's address");
    let (speaker, _) = node(&network, |config| config.peers = vec![peer]).await;
    is_heard(&mut listener, &speaker, &topic).await;
    assert!(peak_rss_bytes().saturating_sub(before) < MEMORY);
    drop(stalled);
    speaker.shutdown().await;
    listener.shutdown().await;
}

/// More peers connect than are allowed (SLASHWATCH_FLOOD_PEERS sets how many). Some of them are
/// accepted, and the configured peer always is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_peers_is_bounded_and_the_configured_one_is_heard() {
    let n_peers = std::env::var("SLASHWATCH_FLOOD_PEERS").ok().and_then(|text| text.parse().ok()).unwrap_or(60usize);
    let room = n_peers / 3;
    let (network, topic) = quiet_network();
    let (speaker, speaker_address) = node(&network, |_| ()).await;
    let configured = speaker_address.parse().expect("a peer's address");
    let (mut listener, address) = node(&network, |config| {
        config.peers = vec![configured];
        config.max_peers = room;
    })
    .await;
    let before = peak_rss_bytes();
    let mut crowd = Vec::new();
    for _ in 0..n_peers {
        let peer = address.parse().expect("a peer's address");
        crowd.push(node(&network, |config| config.peers = vec![peer]).await.0);
    }
    is_heard(&mut listener, &speaker, &topic).await;
    let mut peers = listener.control.watch_peers();
    for _ in 0..3 {
        // The peers are checked three times, after each change of the list.
        let _ = tokio::time::timeout(TEST_TIMEOUT, peers.changed()).await;
        let connected = peers.borrow().iter().filter(|peer| peer.connected && !peer.configured).count();
        assert!(connected <= room, "{connected} peers, {room} were allowed");
    }
    assert!(peers.borrow().iter().any(|peer| peer.configured && peer.connected));
    // The other peers run in this process too, and each takes some MB.
    assert!(peak_rss_bytes().saturating_sub(before) < MEMORY + (n_peers as u64) * (8 << 20));
    drop(crowd);
    listener.shutdown().await;
    speaker.shutdown().await;
}
