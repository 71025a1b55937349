//! Requests and answers of peers: status, ping, metadata, goodbye, and data that this node does not
//! keep. Requests for blocks are in `block_requests.rs`.

use super::PeerEventKind;
use super::rpc::{self, DataProtocol, Metadata, Protocol, Request, Response, StatusMessage, goodbye, result_code};
use super::schedule::digests_near;
use super::task::GossipTask;
use crate::discovery::ip_of;
use consensus::{Checkpoint, Root};
use libp2p::PeerId;
use libp2p::request_response::{Event, Message, OutboundFailure, ResponseChannel};
use std::time::{Duration, Instant};
use tracing::debug;

const PING_EVERY: Duration = Duration::from_secs(20);
/// After this many unanswered pings a peer is considered gone, even if TCP reports it as connected.
const MAX_FAILED_PINGS: u32 = 3;
/// The least and the greatest interval between two statuses to a peer. Within these bounds the
/// interval is one epoch. The heads in the statuses decide whether messages are forwarded.
const STATUS_EVERY: (Duration, Duration) = (Duration::from_secs(12), Duration::from_secs(300));
/// How long a peer may take to receive our goodbye before the connection is closed.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);
/// `CUSTODY_REQUIREMENT`. As soon as Fulu is scheduled, some clients send a peer that claims less
/// away as faulty. A peer that claims more is asked for more columns. So this node always claims
/// this number, whatever column subnets it subscribes to.
pub(super) const CUSTODY_GROUP_COUNT: u64 = 4;
/// Epochs from now for which a node that keeps no blocks promises none. The status is sent again
/// well before they are over.
const NOTHING_AVAILABLE_EPOCHS: u64 = 2;

type RpcEvent = Event<Request, Response>;

impl GossipTask {
    /// Sends the first requests to a new peer. The side that dialled must send its status. Sending
    /// it unasked does no harm.
    pub(super) fn greet(&mut self, peer: PeerId) {
        let now = Instant::now();
        if let Some(known) = self.peers.connected.get_mut(&peer) {
            known.next_status = now;
            known.next_ping = now + PING_EVERY;
        }
        self.ask_due(now);
        self.swarm.behaviour_mut().metadata.send_request(&peer, Request::Metadata);
    }

    /// Sends the pings and statuses that are due.
    pub(super) fn ask_due(&mut self, now: Instant) {
        let epoch = self.network.spec.slot_duration.saturating_mul(self.network.preset().slots_per_epoch as u32);
        let (mut statuses, mut pings) = (Vec::new(), Vec::new());
        for (id, peer) in self.peers.connected.iter_mut().filter(|(_, peer)| peer.closing.is_none()) {
            if peer.next_status <= now {
                peer.next_status = now + epoch.clamp(STATUS_EVERY.0, STATUS_EVERY.1);
                statuses.push(*id);
            }
            if peer.next_ping <= now {
                peer.next_ping = now + PING_EVERY;
                pings.push(*id);
            }
        }
        if statuses.is_empty() && pings.is_empty() {
            return;
        }
        let (status, seq_number) = (self.own_status(), self.metadata_seq);
        let node = self.swarm.behaviour_mut();
        for peer in statuses {
            node.status.send_request(&peer, Request::Status(status));
        }
        for peer in pings {
            node.ping.send_request(&peer, Request::Ping { seq_number });
        }
    }

    /// Returns the status of this node: the caller's view of the chain, but never later than the
    /// clock, because a peer would reject a later one as impossible.
    fn own_status(&self) -> StatusMessage {
        let view = *self.channels.status.borrow();
        let slot = self.network.slot_at(self.config.clock.now().0);
        let epoch = slot.epoch(self.network.preset());
        let finalized = match view.finalized {
            checkpoint if checkpoint.epoch > epoch => Checkpoint::default(),
            // The specification wants a zero root for the checkpoint of epoch 0.
            checkpoint if checkpoint.epoch.as_u64() == 0 => Checkpoint { root: Root::ZERO, ..checkpoint },
            checkpoint => checkpoint,
        };
        let head_slot = view.head_slot.min(slot);
        let kept = self.config.blocks.as_ref().and_then(|store| store.earliest_available(slot));
        let none = slot.saturating_add(NOTHING_AVAILABLE_EPOCHS * self.network.preset().slots_per_epoch);
        StatusMessage {
            fork_digest: self.network.fork_digest_at(epoch),
            finalized,
            head_root: view.head_root,
            head_slot,
            earliest_available_slot: Some(kept.unwrap_or(none)),
        }
    }

    fn own_metadata(&self) -> Metadata {
        Metadata { seq_number: self.metadata_seq, attnets: [0xff; 8], syncnets: 0, custody_group_count: CUSTODY_GROUP_COUNT }
    }

    pub(super) fn on_status(&mut self, event: RpcEvent) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                let answer = Response::Status(self.own_status());
                if self.answer(peer, Protocol::StatusV1, channel, answer)
                    && let Request::Status(status) = request
                {
                    self.hear_status(peer, status);
                }
            }
            Event::Message { peer, message: Message::Response { response: Response::Status(status), .. }, .. } => {
                self.hear_status(peer, status);
            }
            Event::Message { peer, message: Message::Response { response, .. }, .. } => {
                debug!(%peer, ?response, "no status from a peer");
            }
            Event::OutboundFailure { peer, error, .. } => debug!(%peer, %error, "no status from a peer"),
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    fn hear_status(&mut self, peer: PeerId, status: StatusMessage) {
        let near = digests_near(&self.network, self.epoch_now());
        let clock_slot = self.network.slot_at(self.config.clock.now().0);
        let (now, is_unknown) = (Instant::now(), !self.digests.contains(status.fork_digest));
        let Some(known) = self.peers.connected.get_mut(&peer) else { return };
        known.was_ours |= !is_unknown;
        let was_ours = known.was_ours;
        let ip = known.address.parse().ok().and_then(|address| ip_of(&address));
        known.behind = Some(clock_slot.as_u64().saturating_sub(status.head_slot.as_u64()));
        let changed = known.status != Some(status);
        known.status = Some(status);
        if changed {
            self.peer_event(
                peer,
                PeerEventKind::Status {
                    fork_digest: format!("0x{}", status.fork_digest),
                    finalized_root: format!("{:?}", status.finalized.root),
                    finalized_epoch: status.finalized.epoch.to_string(),
                    head_root: format!("{:?}", status.head_root),
                    head_slot: status.head_slot.to_string(),
                },
            );
        }
        self.weigh_heads();
        self.fork_poll.record_status(peer, ip, is_unknown.then_some(status.fork_digest), now);
        // Peers with unusual heads stay, because what they send is the reason to listen. A peer
        // with another network's digest has nothing of use. One that has moved on to a fork that we
        // do not know has done nothing wrong.
        if is_unknown && (was_ours || self.fork_poll.is_majority(status.fork_digest, now)) {
            let problem = format!("it follows a fork that this version does not know (digest 0x{})", status.fork_digest);
            self.peers.note_problem(&peer, &problem);
        } else if !near.contains(&status.fork_digest) {
            let problem = format!("it is on another network or fork (digest 0x{})", status.fork_digest);
            self.peers.note_problem(&peer, &problem);
            self.say_goodbye(peer, goodbye::IRRELEVANT_NETWORK);
        }
    }

    pub(super) fn on_ping(&mut self, event: RpcEvent) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                let pong = Response::Pong { seq_number: self.metadata_seq };
                if self.answer(peer, Protocol::Ping, channel, pong)
                    && let Request::Ping { seq_number } = request
                {
                    self.hear_seq_number(peer, seq_number);
                }
            }
            Event::Message { peer, message: Message::Response { response, .. }, .. } => {
                if let Some(known) = self.peers.connected.get_mut(&peer) {
                    known.failed_pings = 0;
                }
                if let Response::Pong { seq_number } = response {
                    self.hear_seq_number(peer, seq_number);
                }
            }
            Event::OutboundFailure { peer, error, .. } => {
                // A peer that does not support ping may still be alive.
                let gone = match error {
                    OutboundFailure::UnsupportedProtocols => false,
                    OutboundFailure::DialFailure
                    | OutboundFailure::Timeout
                    | OutboundFailure::ConnectionClosed
                    | OutboundFailure::Io(_) => true,
                };
                let Some(known) = self.peers.connected.get_mut(&peer) else { return };
                known.failed_pings += u32::from(gone);
                if known.failed_pings >= MAX_FAILED_PINGS {
                    self.peers.note_problem(&peer, "it answers no pings");
                    // An error means that the connection has ended already.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    /// A higher sequence number means that the peer's metadata has changed, so it is requested
    /// again.
    fn hear_seq_number(&mut self, peer: PeerId, seq_number: u64) {
        let known = self.peers.connected.get(&peer).and_then(|peer| peer.metadata_seq);
        if known.is_some_and(|known| known < seq_number) {
            self.swarm.behaviour_mut().metadata.send_request(&peer, Request::Metadata);
        }
    }

    pub(super) fn on_metadata(&mut self, event: RpcEvent) {
        match event {
            Event::Message { peer, message: Message::Request { channel, .. }, .. } => {
                let metadata = Response::Metadata(self.own_metadata());
                self.answer(peer, Protocol::MetadataV1, channel, metadata);
            }
            Event::Message { peer, message: Message::Response { response: Response::Metadata(metadata), .. }, .. } => {
                let Some(known) = self.peers.connected.get_mut(&peer) else { return };
                known.metadata_seq = Some(metadata.seq_number);
                self.peer_event(
                    peer,
                    PeerEventKind::Metadata {
                        seq_number: metadata.seq_number.to_string(),
                        attnets: format!("0x{}", hex::encode(metadata.attnets)),
                        syncnets: format!("0x{:02x}", metadata.syncnets),
                        custody_group_count: metadata.custody_group_count.to_string(),
                    },
                );
            }
            Event::Message { .. } | Event::OutboundFailure { .. } | Event::InboundFailure { .. } | Event::ResponseSent { .. } => {
            }
        }
    }

    pub(super) fn on_goodbye(&mut self, event: RpcEvent) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                let Request::Goodbye { code } = request else { return };
                // Who says it again and again is closed all the same, and told to nobody again.
                let Some(known) = self.peers.connected.get_mut(&peer).filter(|known| !known.has_said_goodbye) else { return };
                known.has_said_goodbye = true;
                let (reason, now) = (goodbye::text(code), Instant::now());
                debug!(%peer, code, reason, "a peer says goodbye");
                self.book.said_goodbye(&peer, code, now.duration_since(known.connected_at), now);
                self.answer(peer, Protocol::Goodbye, channel, Response::Nothing);
                self.count_goodbye(&peer, code, "received");
                self.peers.said_goodbye(&peer, code, now);
                self.close_soon(peer);
                self.peer_event(peer, PeerEventKind::Goodbye { sent: false, code, reason: reason.to_owned() });
            }
            // The peer has received our goodbye, or can no longer receive it.
            Event::Message { peer, .. } | Event::OutboundFailure { peer, .. } => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn say_goodbye(&mut self, peer: PeerId, code: u64) {
        if self.peers.connected.get(&peer).is_none_or(|peer| peer.closing.is_some()) {
            return;
        }
        self.count_goodbye(&peer, code, "sent");
        self.swarm.behaviour_mut().goodbye.send_request(&peer, Request::Goodbye { code });
        self.close_soon(peer);
        self.peer_event(peer, PeerEventKind::Goodbye { sent: true, code, reason: goodbye::text(code).to_owned() });
    }

    fn count_goodbye(&self, peer: &PeerId, code: u64, direction: &str) {
        let labels = [self.peers.client_of(peer).label(), goodbye::label(code), direction];
        self.metrics.goodbyes.with_label_values(&labels).inc();
    }

    fn close_soon(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.connected.get_mut(&peer) {
            known.closing = Some(Instant::now() + GOODBYE_WAIT);
        }
    }

    /// Answers a request for data that this node does not keep. Each client tolerates a different
    /// answer to that.
    pub(super) fn on_data(&mut self, event: RpcEvent) {
        if let Event::Message { peer, message: Message::Request { request: Request::Data(data), channel, .. }, .. } = event {
            let agent = self.peers.connected.get(&peer).and_then(|peer| peer.agent.as_deref());
            let answer = rpc::to_data_request(data, agent);
            self.answer(peer, Protocol::Data(data), channel, answer);
        }
    }

    /// Sends an answer if the peer is within its quota, and an error otherwise. Returns whether it
    /// was.
    fn answer(&mut self, peer: PeerId, protocol: Protocol, channel: ResponseChannel<Response>, answer: Response) -> bool {
        let allowed = self.is_within_quota(peer, protocol, Instant::now());
        if allowed {
            self.respond(protocol, channel, answer);
        } else {
            self.refuse(protocol, channel);
        }
        allowed
    }

    /// Counts a request of a peer. Returns whether it is within the peer's quota.
    pub(super) fn is_within_quota(&mut self, peer: PeerId, protocol: Protocol, now: Instant) -> bool {
        self.peers.connected.get_mut(&peer).is_some_and(|peer| peer.quotas.allow(protocol, now))
    }

    /// Sends an answer. Returns false if the peer no longer waits for it.
    pub(super) fn respond(&mut self, protocol: Protocol, channel: ResponseChannel<Response>, answer: Response) -> bool {
        let what = if matches!(answer, Response::Error { .. }) { "unavailable" } else { "answered" };
        self.send_answer(protocol, channel, answer, what)
    }

    /// Answers that the peer asks too often or for too much.
    pub(super) fn refuse(&mut self, protocol: Protocol, channel: ResponseChannel<Response>) {
        let answer =
            Response::Error { code: result_code::RATE_LIMITED, message: "too many requests, wait 10 seconds".to_owned() };
        let _ = self.send_answer(protocol, channel, answer, "rate_limited");
    }

    fn send_answer(
        &mut self,
        protocol: Protocol,
        channel: ResponseChannel<Response>,
        answer: Response,
        what: &'static str,
    ) -> bool {
        self.metrics.requests.with_label_values(&[protocol.label(), what]).inc();
        let node = self.swarm.behaviour_mut();
        let behaviour = match protocol {
            Protocol::StatusV1 | Protocol::StatusV2 => &mut node.status,
            Protocol::Ping => &mut node.ping,
            Protocol::MetadataV1 | Protocol::MetadataV2 | Protocol::MetadataV3 => &mut node.metadata,
            Protocol::Goodbye => &mut node.goodbye,
            Protocol::Data(data) if DataProtocol::BY_RANGE.contains(&data) => &mut node.blocks_by_range,
            Protocol::Data(data) if DataProtocol::BY_ROOT.contains(&data) => &mut node.blocks_by_root,
            Protocol::Data(_) => &mut node.data,
        };
        // An error means that the stream is closed already.
        behaviour.send_response(channel, answer).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::behaviour::{self, NodeBehaviourEvent};
    use super::super::{GossipConfig, GossipHandle, GossipService, Identity, StatusView};
    use super::*;
    use crate::metrics::SourceMetrics;
    use crate::source::SourceEvent;
    use consensus::{Epoch, Network, Spec};
    use futures::StreamExt;
    use libp2p::Multiaddr;
    use libp2p::swarm::SwarmEvent;
    use std::sync::Arc;
    use tokio::sync::watch;

    fn network() -> Arc<Network> {
        let spec = Spec::from_yaml("PRESET_BASE: mainnet\nDENEB_FORK_EPOCH: 0\n").unwrap();
        Arc::new(Network { spec, genesis_time: 1_700_000_000, genesis_validators_root: Root::ZERO })
    }

    /// A node on a free port, with its address. It runs while the last part is held.
    async fn listening(network: &Arc<Network>, metrics: &SourceMetrics) -> (GossipHandle, Multiaddr, watch::Sender<StatusView>) {
        let config = GossipConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..GossipConfig::default() };
        let (status_in, status) = watch::channel(StatusView::default());
        let mut handle = GossipService::start(config, network.clone(), status, metrics.clone()).unwrap();
        loop {
            if let Some(SourceEvent::ListeningOn(address)) = handle.events.recv().await {
                return (handle, address, status_in);
            }
        }
    }

    /// A peer that was on our fork and moves on to one that we do not know has done nothing wrong.
    #[tokio::test]
    async fn a_peer_that_moves_on_to_an_unknown_fork_is_kept() {
        let (network, metrics) = (network(), SourceMetrics::unregistered());
        let (asked, address, _status) = listening(&network, &metrics).await;
        let statuses = |digests: &[consensus::ForkDigest]| -> Vec<Request> {
            let status = |digest: &consensus::ForkDigest| StatusMessage {
                fork_digest: *digest,
                finalized: Checkpoint::default(),
                head_root: Root::ZERO,
                head_slot: consensus::Slot::new(0),
                earliest_available_slot: None,
            };
            digests.iter().map(|digest| Request::Status(status(digest))).collect()
        };
        let (ours, unknown) = (network.fork_digest_at(Epoch::new(0)), consensus::ForkDigest([9; 4]));
        for (digests, goodbyes) in [(vec![ours, unknown, unknown], 0), (vec![unknown, unknown], 1)] {
            let before = metrics.peer_events.with_label_values(&["goodbye"]).get();
            let key = Identity::Ephemeral.load().unwrap();
            let (own, others) = (Arc::new(network.fork_digests()), SourceMetrics::unregistered());
            let mut asking = behaviour::swarm(&GossipConfig::default(), &network, key, own, others).unwrap();
            asking.dial(address.clone()).unwrap();
            let mut due = statuses(&digests).into_iter();
            let all = async {
                loop {
                    let peer = match asking.select_next_some().await {
                        SwarmEvent::ConnectionEstablished { peer_id, .. } => peer_id,
                        SwarmEvent::Behaviour(NodeBehaviourEvent::Status(Event::Message {
                            peer,
                            message: Message::Response { .. },
                            ..
                        })) => peer,
                        _ => continue,
                    };
                    match due.next() {
                        Some(status) => asking.behaviour_mut().status.send_request(&peer, status),
                        None => break,
                    };
                }
            };
            tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
            assert_eq!(metrics.peer_events.with_label_values(&["goodbye"]).get() - before, goodbyes, "{digests:?}");
        }
        asked.shutdown().await;
    }

    #[tokio::test]
    async fn a_peer_that_asks_too_often_is_told_so() {
        let (network, metrics) = (network(), SourceMetrics::unregistered());
        let (_asked, address, _status) = listening(&network, &metrics).await;
        // A node that the test drives by hand. It sends requests and answers none.
        let digests = Arc::new(network.fork_digests());
        let key = Identity::Ephemeral.load().unwrap();
        let others = SourceMetrics::unregistered();
        let mut asking = behaviour::swarm(&GossipConfig::default(), &network, key, digests, others).unwrap();
        asking.dial(address).unwrap();
        let (mut pongs, mut limited, mut metadata) = (0, 0, None);
        let all = async {
            while pongs + limited < 15 || metadata.is_none() {
                let asks = match asking.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                        asking.behaviour_mut().metadata.send_request(&peer_id, Request::Metadata);
                        Some(peer_id)
                    }
                    SwarmEvent::Behaviour(NodeBehaviourEvent::Ping(Event::Message {
                        peer,
                        message: Message::Response { response, .. },
                        ..
                    })) => {
                        match response {
                            Response::Pong { .. } => pongs += 1,
                            Response::Error { code: result_code::RATE_LIMITED, .. } => limited += 1,
                            other => panic!("{other:?}"),
                        }
                        Some(peer)
                    }
                    SwarmEvent::Behaviour(NodeBehaviourEvent::Metadata(Event::Message {
                        message: Message::Response { response: Response::Metadata(found), .. },
                        ..
                    })) => {
                        metadata = Some(found);
                        None
                    }
                    _ => None,
                };
                if let Some(peer) = asks {
                    asking.behaviour_mut().ping.send_request(&peer, Request::Ping { seq_number: 7 });
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
        assert_eq!((pongs, limited), (10, 5));
        assert_eq!(metadata.unwrap().attnets, [0xff; 8]);
        assert_eq!(metrics.requests.with_label_values(&["ping", "rate_limited"]).get(), 5);
    }
}
