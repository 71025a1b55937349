//! Listeners against each other on loopback, with real sockets, noise and gossipsub. Nothing
//! sleeps. Each test waits for the expected event, with a time limit.

#![allow(clippy::unwrap_used)]

use consensus::{BlobParameters, Epoch, Fork, ForkName, LaterFork, MessageKind, Network, Preset, Root, Spec};
use libp2p::Multiaddr;
use sources::convert::MessageConverter;
use sources::gossip::{
    AnnouncedFork, Clock, GossipConfig, GossipControl, GossipHandle, GossipService, Identity, PeerAddress, PeerEventKind,
    PeerInfo, StatusView,
};
use sources::limits;
use sources::metrics::SourceMetrics;
use sources::source::{ReceivedAs, SourceEvent, SourceMessage};
use sources::topic::Topic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use verify::{SourceKind, Time, Verdict};

const PATIENCE: Duration = Duration::from_secs(60);
const SLOT: u64 = 12;

fn unix_now() -> u64 {
    base::Time::now().0 / 1_000_000_000
}

/// A network with mainnet's preset whose genesis is now.
fn network(forks: &[(ForkName, u64)], genesis_validators_root: Root) -> Arc<Network> {
    let spec = Spec {
        config_name: "loopback".into(),
        preset: Preset::MAINNET,
        forks: forks
            .iter()
            .map(|(name, epoch)| Fork { name: *name, epoch: Epoch::new(*epoch), version: [*name as u8, 0, 0, 7] })
            .collect(),
        later_forks: Vec::new(),
        slot_duration: Duration::from_secs(SLOT),
        blob_schedule: Vec::new(),
        blob_default: BlobParameters { epoch: Epoch::new(0), max_blobs_per_block: 9 },
    };
    Arc::new(Network { spec, genesis_time: unix_now(), genesis_validators_root })
}

fn fulu() -> Arc<Network> {
    network(&[(ForkName::Fulu, 0)], Root::repeat_byte(1))
}

fn topic(network: &Network, kind: MessageKind) -> Topic {
    Topic { digest: network.fork_digest_at(Epoch::new(0)), kind }
}

struct Post {
    handle: GossipHandle,
    control: GossipControl,
    metrics: SourceMetrics,
    address: PeerAddress,
    /// The status that peers receive. Dropping the sender does no harm.
    _status: watch::Sender<StatusView>,
}

fn config(peers: &[&Post]) -> GossipConfig {
    GossipConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        peers: peers.iter().map(|post| post.address.clone()).collect(),
        heartbeat: Duration::from_millis(100),
        reconnect: base::Backoff::new(Duration::from_millis(50), Duration::from_millis(400)),
        ..GossipConfig::default()
    }
}

async fn post(config: GossipConfig, network: &Arc<Network>) -> Post {
    let (status_in, status) = watch::channel(StatusView::default());
    let metrics = SourceMetrics::unregistered();
    let mut handle = GossipService::start(config, network.clone(), status, metrics.clone()).unwrap();
    let address = loop {
        if let SourceEvent::ListeningOn(address) = next_event(&mut handle).await {
            break address;
        }
    };
    let address: PeerAddress = address.to_string().parse().unwrap();
    assert_eq!(address.peer, Some(handle.peer_id));
    let control = handle.control();
    Post { handle, control, metrics, address, _status: status_in }
}

async fn next_event(handle: &mut GossipHandle) -> SourceEvent {
    tokio::time::timeout(PATIENCE, handle.events.recv()).await.expect("an event comes").expect("the listener runs")
}

impl Post {
    async fn next_message(&mut self) -> SourceMessage {
        loop {
            if let SourceEvent::Message(message) = next_event(&mut self.handle).await {
                return *message;
            }
        }
    }

    async fn next_peer_event(&mut self, wanted: impl Fn(&PeerEventKind) -> bool) -> PeerEventKind {
        loop {
            if let SourceEvent::Peer(event) = next_event(&mut self.handle).await
                && wanted(&event.what)
            {
                return event.what;
            }
        }
    }

    /// Waits until the state of `other`, as this listener sees it, satisfies `wanted`.
    async fn until(&self, other: &Post, wanted: impl Fn(&PeerInfo) -> bool) -> PeerInfo {
        let peer = other.handle.peer_id.to_base58();
        let mut views = self.control.watch_peers();
        let found = async {
            loop {
                if let Some(info) = views.borrow_and_update().iter().find(|info| info.peer == peer && wanted(info)) {
                    return info.clone();
                }
                views.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(info) => info,
            Err(_) => panic!("never as wanted: {:?}", self.control.peers()),
        }
    }

    /// Waits until both know each other's topics.
    async fn meet(&self, other: &Post) {
        self.until(other, |info| info.connected && info.topics > 0).await;
        other.until(self, |info| info.connected && info.topics > 0).await;
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.refused.with_label_values(&[reason]).get()
    }
}

fn ssz(n: usize, salt: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(salt)).collect()
}

#[tokio::test]
async fn messages_go_both_ways_and_arrive_whole() {
    let network = fulu();
    let mut a = post(config(&[]), &network).await;
    let mut b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    let kinds = [
        (MessageKind::Block, 5000),
        (MessageKind::Aggregate, 700),
        (MessageKind::Attestation { subnet: 63 }, 240),
        (MessageKind::AttesterSlashing, 100_000),
        (MessageKind::ProposerSlashing, 416),
    ];
    for (nth, (kind, len)) in kinds.into_iter().enumerate() {
        let (from, to) = if nth % 2 == 0 { (&a, &mut b) } else { (&b, &mut a) };
        let (topic, bytes) = (topic(&network, kind), ssz(len, nth as u8));
        from.control.publish(topic, &bytes).await.unwrap();
        let sender = from.handle.peer_id;
        let message = to.next_message().await;
        let ReceivedAs::Gossip { topic: received_on, payload } = &message.received_as else { panic!("{message:?}") };
        assert_eq!((*received_on, message.raw.kind), (topic, kind));
        assert_eq!(message.raw.bytes, bytes);
        assert_eq!(limits::unpack(payload, len).unwrap(), bytes);
        assert_eq!(message.raw.origin.fork, Some(ForkName::Fulu));
        assert_eq!(message.raw.origin.source, SourceKind::Gossip);
        assert_eq!(message.raw.origin.peer.as_deref(), Some(&sender.to_bytes()[..]));
        assert!(message.raw.ticket.is_some());
        let Some(sources::capture::Entry::Gossip(entry)) = message.capture_entry(&network.fork_digests()) else {
            panic!("a message of gossip has an entry of gossip")
        };
        let replayed = MessageConverter::new(network.clone()).gossip(&entry).unwrap();
        assert_eq!(replayed.bytes, bytes, "a capture gives the same message");
        to.handle.report(message.raw.ticket.unwrap(), Verdict::Accept);
    }
    let block = a.metrics.received.with_label_values(&[MessageKind::Block.label()]).get();
    assert_eq!(block + b.metrics.received.with_label_values(&["block"]).get(), 1);
    // The mesh sends nothing back, and the same message cannot be published twice.
    assert!(a.control.publish(topic(&network, MessageKind::Block), &ssz(5000, 0)).await.is_err());
    a.handle.shutdown().await;
    let goodbye = b.next_peer_event(|what| matches!(what, PeerEventKind::Goodbye { .. })).await;
    assert_eq!(goodbye, PeerEventKind::Goodbye { sent: false, code: 1, reason: "client shutdown".into() });
}

#[tokio::test]
async fn peers_say_who_they_are() {
    let network = fulu();
    let mut a = post(config(&[]), &network).await;
    let view = StatusView { head_root: Root::repeat_byte(7), head_slot: consensus::Slot::new(1 << 40), ..StatusView::default() };
    let b = post(GossipConfig { agent: "test/1\u{7}".into(), ..config(&[&a]) }, &network).await;
    b._status.send_replace(view);
    let kinds = ["connected", "agent", "status", "metadata"];
    let mut seen = Vec::new();
    while seen.len() < kinds.len() {
        if let SourceEvent::Peer(event) = next_event(&mut a.handle).await {
            match &event.what {
                PeerEventKind::Agent { agent } => assert_eq!(agent, "test/1", "control characters are dropped"),
                PeerEventKind::Status { head_slot, fork_digest, .. } => {
                    assert!(head_slot.parse::<u64>().unwrap() <= 10, "a head beyond the clock is never claimed: {head_slot}");
                    assert_eq!(fork_digest, &format!("0x{}", network.fork_digest_at(Epoch::new(0))));
                }
                PeerEventKind::Metadata { attnets, custody_group_count, .. } => {
                    assert_eq!((attnets.as_str(), custody_group_count.as_str()), ("0xffffffffffffffff", "4"));
                }
                _ => {}
            }
            let entry = event.capture_entry();
            assert_eq!(entry.json["peer"], b.handle.peer_id.to_base58());
            let label = kinds.iter().find(|kind| **kind == event.what.label());
            if let Some(label) = label.filter(|label| !seen.contains(*label)) {
                seen.push(label);
            }
        }
    }
}

#[tokio::test]
async fn what_does_not_unpack_is_counted_and_held_against_its_sender() {
    let network = fulu();
    let a = post(config(&[]), &network).await;
    let b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    let block = topic(&network, MessageKind::Block);
    b.control.publish_payload(block, b"\x20not snappy at all").await.unwrap();
    a.until(&b, |info| info.score < -5.0).await;
    // It happens more than once if `b`, which is no longer in the mesh, offers the message again.
    assert!(a.refused("bad_snappy") >= 1);
    assert_eq!(a.refused("too_long"), 0);
    let bomb = limits::pack(&vec![0u8; consensus::MAX_PAYLOAD_SIZE + 1]).unwrap();
    b.control.publish_payload(topic(&network, MessageKind::Aggregate), &bomb).await.unwrap();
    a.until(&b, |_| a.refused("too_long") >= 1).await;
}

#[tokio::test]
async fn a_vote_has_240_bytes_and_no_more() {
    let network = fulu();
    let mut a = post(config(&[]), &network).await;
    let b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    b.control.publish(topic(&network, MessageKind::Attestation { subnet: 1 }), &ssz(241, 0)).await.unwrap();
    b.control.publish(topic(&network, MessageKind::ProposerSlashing), &ssz(416, 0)).await.unwrap();
    assert_eq!(a.next_message().await.raw.kind, MessageKind::ProposerSlashing);
    assert_eq!(a.refused("too_long"), 1);
}

#[tokio::test]
async fn a_liar_is_ignored_and_sent_away() {
    let network = fulu();
    let mut a = post(config(&[]), &network).await;
    let mut b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    let block = topic(&network, MessageKind::Block);
    for n in 0..4 {
        b.control.publish(block, &ssz(1000, n)).await.unwrap();
        let ticket = a.next_message().await.raw.ticket.unwrap();
        a.handle.report(ticket, Verdict::Reject);
        let wanted = [-9.0, -38.0, -85.0, -120.0][usize::from(n)];
        if n < 3 {
            a.until(&b, |info| info.score < wanted).await;
        }
    }
    let goodbye = b.next_peer_event(|what| matches!(what, PeerEventKind::Goodbye { .. })).await;
    assert!(matches!(goodbye, PeerEventKind::Goodbye { sent: false, code: 250, .. }), "{goodbye:?}");
    assert_eq!(a.metrics.verdicts.with_label_values(&["reject", "applied"]).get(), 4);
}

#[tokio::test]
async fn only_what_is_accepted_is_forwarded() {
    let network = fulu();
    let a = post(config(&[]), &network).await;
    let mut b = post(config(&[&a]), &network).await;
    let mut c = post(config(&[&b]), &network).await;
    a.meet(&b).await;
    b.meet(&c).await;
    let subnet = topic(&network, MessageKind::Attestation { subnet: 9 });
    for (salt, verdict) in [(1, Some(Verdict::Ignore)), (2, Some(Verdict::Reject)), (3, None), (4, Some(Verdict::Accept))] {
        a.control.publish(subnet, &ssz(240, salt)).await.unwrap();
        let message = b.next_message().await;
        assert_eq!(message.raw.bytes, ssz(240, salt));
        if let Some(verdict) = verdict {
            b.handle.report(message.raw.ticket.unwrap(), verdict);
        }
    }
    let arrived = c.next_message().await;
    assert_eq!(arrived.raw.bytes, ssz(240, 4), "what came before on the same way was not forwarded");
    assert_eq!(arrived.raw.origin.peer.as_deref(), Some(&b.handle.peer_id.to_bytes()[..]));
}

/// A listener has no blocks and claims no chain. To another listener it looks like a peer far
/// behind, but it must not be treated as one.
#[tokio::test]
async fn two_listeners_with_the_same_nodes_go_on_forwarding() {
    let mut network = Network::clone(&fulu());
    network.genesis_time -= 1_000 * SLOT;
    let network = Arc::new(network);
    let now = network.slot_at(unix_now() * 1_000_000_000);
    let at_the_head = StatusView { head_root: Root::repeat_byte(5), head_slot: now, ..StatusView::default() };
    let node = post(config(&[]), &network).await;
    let mut last = post(config(&[]), &network).await;
    // A peer that reports genesis as its head does not stop the forwarding either.
    let behind = post(config(&[]), &network).await;
    node._status.send_replace(at_the_head);
    last._status.send_replace(at_the_head);
    behind._status.send_replace(StatusView { head_root: Root::repeat_byte(6), ..StatusView::default() });
    let mut one = post(config(&[&node, &last, &behind]), &network).await;
    let mut other = post(config(&[&node, &last, &behind, &one]), &network).await;
    for (listener, peers) in [(&one, [&node, &last, &behind, &other]), (&other, [&node, &last, &behind, &one])] {
        for peer in peers {
            listener.meet(peer).await;
            listener.until(peer, |info| info.head_slot.is_some()).await;
        }
    }
    let subnet = topic(&network, MessageKind::Attestation { subnet: 9 });
    for salt in 0..10 {
        node.control.publish(subnet, &ssz(240, salt)).await.unwrap();
        for listener in [&mut one, &mut other] {
            let message = listener.next_message().await;
            listener.handle.report(message.raw.ticket.unwrap(), Verdict::Accept);
        }
    }
    for salt in 0..10 {
        assert_eq!(last.next_message().await.raw.bytes, ssz(240, salt));
    }
    for listener in [&one, &other] {
        assert_eq!(listener.metrics.verdicts.with_label_values(&["withheld", "applied"]).get(), 0);
    }
}

#[tokio::test]
async fn a_peer_on_two_hundred_topics_is_heard_on_all_of_them() {
    let network = fulu();
    let mut a = post(config(&[]), &network).await;
    let b = post(GossipConfig { data_column_subnets: 128, ..config(&[&a]) }, &network).await;
    a.meet(&b).await;
    assert_eq!(a.until(&b, |info| info.topics > 100).await.topics, 4 + 64 + 128);
    assert_eq!(b.until(&a, |info| info.topics > 0).await.topics, 4 + 64 + 4);
    b.control.publish(topic(&network, MessageKind::Attestation { subnet: 40 }), &ssz(240, 0)).await.unwrap();
    assert_eq!(a.next_message().await.raw.kind, MessageKind::Attestation { subnet: 40 });
}

#[tokio::test]
async fn another_network_is_told_goodbye() {
    let (ours, theirs) = (fulu(), network(&[(ForkName::Fulu, 0)], Root::repeat_byte(2)));
    let mut a = post(config(&[]), &ours).await;
    let mut b = post(config(&[&a]), &theirs).await;
    let goodbye = |what: &PeerEventKind| matches!(what, PeerEventKind::Goodbye { code: 2, .. });
    a.next_peer_event(goodbye).await;
    b.next_peer_event(|what| matches!(what, PeerEventKind::Disconnected { .. })).await;
    let info = b.until(&a, |info| info.failed_attempts > 1).await;
    assert!(!info.last_problem.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn a_peer_that_comes_back_is_connected_again() {
    let network = fulu();
    let first = post(GossipConfig { identity: Identity::Secret([9; 32]), ..config(&[]) }, &network).await;
    let mut b = post(config(&[&first]), &network).await;
    b.meet(&first).await;
    let (address, peer): (Multiaddr, _) = (first.address.address.clone(), first.handle.peer_id);
    first.handle.shutdown().await;
    b.next_peer_event(|what| matches!(what, PeerEventKind::Disconnected { .. })).await;
    let again = post(GossipConfig { identity: Identity::Secret([9; 32]), listen: vec![address], ..config(&[]) }, &network).await;
    assert_eq!(again.handle.peer_id, peer);
    b.meet(&again).await;
    again.control.publish(topic(&network, MessageKind::Block), &ssz(300, 1)).await.unwrap();
    assert_eq!(b.next_message().await.raw.bytes, ssz(300, 1));
}

#[tokio::test]
async fn topics_follow_the_clock_over_a_fork() {
    let network = network(&[(ForkName::Electra, 0), (ForkName::Fulu, 10)], Root::repeat_byte(3));
    let epoch = Arc::new(AtomicU64::new(5));
    let (genesis, turned) = (network.genesis_time, epoch.clone());
    let clock = Clock::new(move || Time((genesis + turned.load(Ordering::Relaxed) * 32 * SLOT) * 1_000_000_000));
    let a = post(GossipConfig { clock: clock.clone(), ..config(&[]) }, &network).await;
    let mut b = post(GossipConfig { clock, ..config(&[&a]) }, &network).await;
    a.until(&b, |info| info.topics == 4 + 64 + 9).await;
    epoch.store(9, Ordering::Relaxed);
    // Each side subscribes to four of the 128 columns, and knows all names of the other side.
    a.until(&b, |info| info.topics == (4 + 64 + 9) + (4 + 64 + 4)).await;
    b.until(&a, |info| info.topics == (4 + 64 + 9) + (4 + 64 + 4)).await;
    let early = Topic { digest: network.fork_digest_at(Epoch::new(10)), kind: MessageKind::Block };
    a.control.publish(early, &ssz(500, 5)).await.unwrap();
    assert_eq!(b.next_message().await.raw.origin.fork, Some(ForkName::Fulu));
    epoch.store(12, Ordering::Relaxed);
    a.until(&b, |info| info.topics == 4 + 64 + 4).await;
}

/// The same network, whose configuration has a fork that this program does not know.
fn with_later_fork(network: &Network, epoch: u64) -> Arc<Network> {
    let later = LaterFork { name: "i_star".into(), epoch: Epoch::new(epoch), version: [9, 0, 0, 7] };
    Arc::new(Network { spec: Spec { later_forks: vec![later], ..network.spec.clone() }, ..network.clone() })
}

#[tokio::test]
async fn a_fork_that_is_not_known_is_heard_and_nobody_is_blamed() {
    let network = with_later_fork(&fulu(), 10);
    let epoch = Arc::new(AtomicU64::new(8));
    let (genesis, turned) = (network.genesis_time, epoch.clone());
    let clock = Clock::new(move || Time((genesis + turned.load(Ordering::Relaxed) * 32 * SLOT) * 1_000_000_000));
    let a = post(GossipConfig { clock: clock.clone(), ..config(&[]) }, &network).await;
    let mut b = post(GossipConfig { clock, ..config(&[&a]) }, &network).await;
    a.until(&b, |info| info.topics == 4 + 64 + 4).await;
    epoch.store(9, Ordering::Relaxed);
    // One epoch early the topics of its digest are joined too, as those of the last known fork.
    a.until(&b, |info| info.topics == 2 * (4 + 64 + 4)).await;
    b.until(&a, |info| info.topics == 2 * (4 + 64 + 4)).await;
    epoch.store(10, Ordering::Relaxed);
    let digest = network.fork_digest_at(Epoch::new(10));
    assert_ne!(digest, network.fork_digest_at(Epoch::new(9)));
    let of = |kind| Topic { digest, kind };
    for nth in 0..20 {
        let block = ssz(5000, nth);
        a.control.publish(of(MessageKind::Block), &block).await.unwrap();
        let message = b.next_message().await;
        assert_eq!((message.raw.origin.fork, &message.raw.bytes), (None, &block));
        b.handle.report(message.raw.ticket.unwrap(), Verdict::Ignore);
        // Its votes may be longer than ours. They are counted, and not read.
        a.control.publish(of(MessageKind::Attestation { subnet: 7 }), &ssz(600, nth)).await.unwrap();
    }
    a.control.publish(of(MessageKind::Attestation { subnet: 7 }), &ssz(240, 99)).await.unwrap();
    assert_eq!(b.next_message().await.raw.bytes, ssz(240, 99));
    let info = b.until(&a, |info| info.messages >= 41).await;
    assert!(info.connected && info.score >= 0.0, "{info:?}");
    assert_eq!(b.refused("too_long"), 20, "each has an id of its own, so none is asked for again");
    assert_eq!(b.metrics.received.with_label_values(&["attestation"]).get(), 1);
    // Junk is junk under every digest.
    a.control.publish_payload(of(MessageKind::Block), b"no snappy").await.unwrap();
    let info = b.until(&a, |info| info.score < 0.0).await;
    assert!(info.connected && b.refused("bad_snappy") >= 1, "{info:?}");
}

/// Peers that follow a fork that is not in our schedule. One alone is on another network, for all
/// that we know; if most are, we are too old.
#[tokio::test]
async fn most_peers_on_a_fork_that_is_not_scheduled_raise_a_hint_and_one_does_not() {
    let old = fulu();
    let new = with_later_fork(&old, 0);
    let stray = Arc::new(Network { genesis_validators_root: Root::repeat_byte(9), ..(*old).clone() });
    let mut b = post(config(&[]), &old).await;
    let mut others = vec![post(config(&[&b]), &stray).await];
    b.next_peer_event(|what| matches!(what, PeerEventKind::Goodbye { sent: true, code: 2, .. })).await;
    assert_eq!(b.control.state().announced_fork, None);
    for _ in 0..4 {
        others.push(post(config(&[&b]), &new).await);
    }
    let digest = new.fork_digest_at(Epoch::new(0));
    let mut views = b.control.watch_peers();
    let told = async {
        while b.control.state().announced_fork != Some(AnnouncedFork::InForce { digest }) {
            views.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("most peers follow it");
    assert!(AnnouncedFork::InForce { digest }.notice().contains("update slashwatch"));
}

#[tokio::test]
async fn a_full_queue_sheds_messages_and_keeps_peer_events() {
    let network = fulu();
    let mut a = post(GossipConfig { queue_messages: 3, ..config(&[]) }, &network).await;
    let b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    let shed = a.metrics.shed.with_label_values(&["message"]);
    for n in 0..40u8 {
        b.control.publish(topic(&network, MessageKind::Attestation { subnet: u64::from(n) }), &ssz(240, n)).await.unwrap();
    }
    // `messages` counts dropped messages too, so at 40 all of them have been processed.
    a.until(&b, |info| info.messages == 40).await;
    assert!(shed.get() >= 30, "{}", shed.get());
    let handed_on = a.metrics.received.with_label_values(&["attestation"]).get();
    assert_eq!(handed_on + shed.get(), 40, "received is handed on and shed");
    b.handle.shutdown().await;
    a.next_peer_event(|what| matches!(what, PeerEventKind::Goodbye { sent: false, .. })).await;
}

#[tokio::test]
async fn strangers_are_taken_up_to_a_limit() {
    let network = fulu();
    let a = post(GossipConfig { max_peers: 1, ..config(&[]) }, &network).await;
    let b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    let c = post(config(&[&a]), &network).await;
    let info = c.until(&a, |info| info.failed_attempts >= 2).await;
    assert!(!info.connected);
    assert_eq!(a.control.peers().iter().filter(|info| info.connected).count(), 1);
}

#[tokio::test]
async fn a_configured_peer_may_be_reached_by_quic_over_ipv6() {
    let network = fulu();
    let quic = GossipConfig { listen: vec!["/ip6/::1/udp/0/quic-v1".parse().unwrap()], ..config(&[]) };
    let a = post(quic, &network).await;
    let mut b = post(config(&[&a]), &network).await;
    a.meet(&b).await;
    let subnet = topic(&network, MessageKind::Attestation { subnet: 5 });
    a.control.publish(subnet, &ssz(240, 1)).await.unwrap();
    assert_eq!(b.next_message().await.raw.bytes, ssz(240, 1));
    let info = b.until(&a, |info| info.connected).await;
    assert!(info.address.starts_with("/ip6/::1/udp/"), "{info:?}");
}

/// Two watchers of one operator, connected to each other and to the same node.
#[tokio::test]
async fn two_listeners_and_their_node_stay_connected() {
    let network = fulu();
    let mut node = post(config(&[]), &network).await;
    let mut a = post(config(&[&node]), &network).await;
    let mut b = post(config(&[&node, &a]), &network).await;
    for (one, other) in [(&a, &node), (&b, &node), (&a, &b)] {
        one.meet(other).await;
    }
    let subnet = topic(&network, MessageKind::Attestation { subnet: 7 });
    for salt in 0..40 {
        node.control.publish(subnet, &ssz(240, salt)).await.unwrap();
        for one in [&mut a, &mut b] {
            loop {
                match next_event(&mut one.handle).await {
                    SourceEvent::Message(message) => {
                        assert_eq!(message.raw.bytes, ssz(240, salt));
                        one.handle.report(message.raw.ticket.unwrap(), Verdict::Accept);
                        break;
                    }
                    SourceEvent::Peer(event) => stays(&event.what),
                    SourceEvent::ListeningOn(_) | SourceEvent::Connection { .. } => {}
                }
            }
        }
    }
    for one in [&mut node, &mut a, &mut b] {
        while !one.handle.events.is_empty() {
            let event = one.handle.events.recv().await.unwrap();
            if let SourceEvent::Peer(event) = event {
                stays(&event.what);
            }
        }
        let peers = one.control.peers();
        assert_eq!(peers.iter().filter(|peer| peer.connected && peer.score >= 0.0).count(), 2, "{peers:?}");
    }
}

fn stays(what: &PeerEventKind) {
    assert!(!matches!(what, PeerEventKind::Goodbye { .. } | PeerEventKind::Disconnected { .. }), "{what:?}");
}

/// A peer that is subscribed to everything may forward what it sends. A peer that only publishes is
/// subscribed to nothing, so what it sends is its own. This is known when its subscriptions have
/// had time to come.
#[tokio::test]
async fn what_a_peer_sends_on_a_subnet_that_it_does_not_announce_is_its_own() {
    let network = fulu();
    let soon = |peers: &[&Post]| GossipConfig { announced_for: Duration::from_millis(250), ..config(peers) };
    let mut listener = post(soon(&[]), &network).await;
    let publisher = post(GossipConfig { subscribe: false, ..soon(&[&listener]) }, &network).await;
    let subscriber = post(soon(&[&listener]), &network).await;
    for other in [&publisher, &subscriber] {
        listener.until(other, |info| info.connected).await;
        other.until(&listener, |info| info.connected && info.topics > 0).await;
    }
    listener.until(&subscriber, |info| info.topics > 0).await;
    let subnet = topic(&network, MessageKind::Attestation { subnet: 7 });
    let (mut seen, mut nth) = (Vec::new(), 0u64);
    while !seen.contains(&(publisher.handle.peer_id, Some(false))) {
        assert!(nth < 10_000, "{seen:?}");
        for sender in [&publisher, &subscriber] {
            nth += 1;
            // The length is that of a single vote. Each message is another one.
            let mut ssz = vec![0; 240];
            ssz[..8].copy_from_slice(&nth.to_le_bytes());
            if sender.control.publish(subnet, &ssz).await.is_ok() {
                let message = listener.next_message().await;
                let peer = libp2p::PeerId::from_bytes(message.raw.origin.peer.as_ref().unwrap()).unwrap();
                seen.push((peer, message.raw.origin.subscribed));
            }
        }
    }
    let of_subscriber: Vec<_> = seen.iter().filter(|(peer, _)| *peer == subscriber.handle.peer_id).collect();
    assert!(!of_subscriber.is_empty() && of_subscriber.iter().all(|(_, subscribed)| *subscribed == Some(true)));
}
