//! The task that owns the libp2p node. It takes the next event and applies it.

use super::admission::RefusedConnection;
use super::behaviour::{self, HISTORY_HEARTBEATS, NodeBehaviour, NodeBehaviourEvent, newcomers, reserved};
use super::block_requests::{BlockCommand, BlockExchange, ByWhat};
use super::client::Client;
use super::fork_poll::{AnnouncedFork, ForkPoll, OpinionBy};
use super::forwarding::ForwardBudget;
use super::peer_book::{BookLimits, DialOrder, PeerBook, Prefix};
use super::peers::{Pauses, Peer, Peers, public_prefix};
use super::requests::CUSTODY_GROUP_COUNT;
use super::rpc::goodbye;
use super::scoring::{self, GRAYLIST};
use super::selection::{ENOUGH_PEERS, n_trials};
use super::tickets::{MAX_PENDING, Tickets};
use super::transform;
use super::{
    AddressLimit, ConnectionState, FirstHandStake, GossipConfig, GossipError, PEER_EVENT_PLACES, PeerCandidate, PeerEvent,
    PeerEventKind, PeerInfo, PublishError, StatusView, TopicPeers, dial_fault, identity, schedule,
};
use crate::discovery::{self, Discovery, DiscoveryError, DiscoveryState, FoundNode};
use crate::metrics::SourceMetrics;
use crate::queue::{QueueFull, QueueSender};
use crate::source::{ReceivedAs, SourceEvent, SourceMessage};
use crate::topic::Topic;
use consensus::{Epoch, ForkDigests, ForkName, MAX_PAYLOAD_SIZE, MessageKind, Network};
use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, TopicHash};
use libp2p::multiaddr::Protocol as AddressPart;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify};
use prometheus::IntCounterVec;
use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use verify::{MessageParts, Origin, RawMessage, SourceKind, Ticket, Time, Verdict};

const NS_PER_MS: u64 = 1_000_000;
/// Interval at which due work is checked.
const TICK: Duration = Duration::from_millis(250);
/// Epochs in which a peer shows whether it publishes votes of its own. The stake that is heard
/// first-hand is measured over as many (`detect::coverage`).
const TRIAL_EPOCHS: u64 = 8;
/// Ticks between two updates of the list of peers.
const TICKS_PER_LOOK: u32 = 4;
/// Ticks between two times at which the peer book is written: ten minutes.
const TICKS_PER_SAVE: u32 = 2_400;
/// Pause before discovery that ended by itself is started again.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(60);
/// Found nodes that are dialled at a time.
const MAX_DIALS: usize = 16;
/// The addresses of a found node are dialled in turn, so that each attempt opens one connection.
const ONE_AFTER_THE_OTHER: NonZeroU8 = NonZeroU8::MIN;
/// Greatest size in bytes of the file of the peer book. A record has at most 300 bytes, in text
/// 410.
const MAX_BOOK_LEN: u64 = 8 << 20;
/// Greatest number of verdicts that are applied at a time.
const REPORT_BATCH: usize = 512;
/// How long the goodbyes may take when the task ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Greatest number of characters of a peer's agent string that are kept.
const MAX_AGENT_LEN: usize = 128;

/// The task's ends of the channels.
pub(super) struct Channels {
    pub events: QueueSender<SourceEvent>,
    pub reports: mpsc::Receiver<(Ticket, Verdict)>,
    pub publish: mpsc::Receiver<Publication>,
    pub peers: watch::Sender<Arc<Vec<PeerInfo>>>,
    pub status: watch::Receiver<StatusView>,
    pub state: watch::Sender<Arc<ConnectionState>>,
    /// The stake that each peer brings first-hand.
    pub first_hand: watch::Receiver<FirstHandStake>,
    pub stop: CancellationToken,
}

/// A message to publish.
#[derive(Debug)]
pub(super) struct Publication {
    pub topic: Topic,
    pub framed: Vec<u8>,
    pub done: oneshot::Sender<Result<(), PublishError>>,
}

/// The task's state: the libp2p node and everything that belongs to it.
pub(super) struct GossipTask {
    pub(super) swarm: Swarm<NodeBehaviour>,
    pub(super) config: GossipConfig,
    pub(super) network: Arc<Network>,
    pub(super) metrics: SourceMetrics,
    pub(super) channels: Channels,
    pub(super) peers: Peers,
    /// The sequence number of our metadata. It is higher than in any earlier run, because the
    /// metadata of that run may have been different. A client asks for the metadata again only if
    /// the number is higher, and some clients penalize a number that went down.
    pub(super) metadata_seq: u64,
    pub(super) blocks: BlockExchange,
    pub(super) digests: Arc<ForkDigests>,
    columns: Vec<u64>,
    tickets: Tickets,
    pub(super) fork_poll: ForkPoll,
    /// The fork of which the log was told.
    announced_fork: Option<AnnouncedFork>,
    forwarding: ForwardBudget,
    /// The topics that this node is subscribed to, with the fork of each.
    topics: HashMap<TopicHash, (Topic, Option<ForkName>)>,
    /// The epoch for which `topics` is right.
    topics_epoch: Option<Epoch>,
    ticks: u32,
    /// When the running period of the peers' announced subnets began.
    period_began: Instant,
    /// If true, no message is forwarded, because some of the peers could not use it.
    peers_at_odds: bool,
    discovery: Option<Discovery>,
    /// When discovery, which has ended by itself, is started again.
    discovery_due: Option<Instant>,
    /// The node key, if it is of the kind that discovery needs.
    secret: Option<[u8; 32]>,
    /// The peers that discovery found.
    pub(super) book: PeerBook,
    /// Connections that peers have opened to us from outside.
    n_reached: u64,
    last_reached: Option<Time>,
    /// This listener's part of the value in the gauge of pending tickets.
    n_open_shown: i64,
    /// When a node was last dialled although there were peers enough.
    rotated_at: Instant,
}

impl GossipTask {
    pub fn new(
        config: GossipConfig,
        network: Arc<Network>,
        metrics: SourceMetrics,
        channels: Channels,
        block_commands: mpsc::Receiver<BlockCommand>,
    ) -> Result<Self, GossipError> {
        let key = config.identity.load()?;
        let secret = identity::secret(&key);
        let columns = identity::column_subnets(&key, config.data_column_subnets);
        let digests = Arc::new(network.fork_digests());
        let mut swarm = behaviour::swarm(&config, &network, key, digests.clone(), metrics.clone())?;
        for address in &config.listen {
            swarm
                .listen_on(address.clone())
                .map_err(|error| GossipError::Listen { address: address.clone(), reason: base::innermost_cause(&error) })?;
        }
        let now = Instant::now();
        // gossipsub drops a message at the last heartbeat of its history, which is up to one
        // heartbeat early.
        let lifetime = config.heartbeat.saturating_mul(HISTORY_HEARTBEATS as u32 - 1);
        let counted_by = if config.address_limit == AddressLimit::NONE { OpinionBy::Peer } else { OpinionBy::Prefix };
        let mut listener = Self {
            peers: Peers::new(&config.peers, Pauses { reconnect: config.reconnect, goodbye: config.goodbye_pause }, now),
            metadata_seq: config.clock.now().0 / NS_PER_MS,
            blocks: BlockExchange::new(block_commands, digests.clone(), now),
            tickets: Tickets::new(lifetime, MAX_PENDING),
            fork_poll: ForkPoll::new(counted_by),
            announced_fork: None,
            forwarding: ForwardBudget::new(now),
            topics: HashMap::new(),
            topics_epoch: None,
            ticks: 0,
            period_began: now,
            peers_at_odds: true,
            discovery: None,
            discovery_due: None,
            secret,
            book: PeerBook::new(BookLimits { goodbye: config.goodbye_pause, ..BookLimits::DEFAULT }),
            n_reached: 0,
            last_reached: None,
            n_open_shown: 0,
            rotated_at: Instant::now(),
            swarm,
            config,
            network,
            metrics,
            channels,
            digests,
            columns,
        };
        if let Some(discovery) = listener.config.discovery.clone().filter(|_| secret.is_some()) {
            listener.load_peers(&discovery);
            listener.start_discovery()?;
        }
        // This comes before the first connection, so that the first RPC to a peer contains the
        // subscriptions.
        listener.follow_schedule();
        Ok(listener)
    }

    pub fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Runs until the stop token is cancelled, and then says goodbye to all peers.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut reports, mut reports_open, mut publish_open) = (Vec::with_capacity(REPORT_BATCH), true, true);
        let mut blocks_open = true;
        let stop = self.channels.stop.clone();
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                n = self.channels.reports.recv_many(&mut reports, REPORT_BATCH), if reports_open => {
                    reports_open = n > 0;
                    for (ticket, verdict) in reports.drain(..) {
                        self.apply_verdict(ticket, verdict);
                    }
                }
                publication = self.channels.publish.recv(), if publish_open => match publication {
                    Some(publication) => self.publish(publication),
                    None => publish_open = false,
                },
                found = next_found(&mut self.discovery) => match found {
                    Some(node) => self.on_found(node),
                    // Its task has ended, and has logged why.
                    None => (self.discovery, self.discovery_due) = (None, Some(Instant::now() + DISCOVERY_PAUSE)),
                },
                command = self.blocks.commands.recv(), if blocks_open => match command {
                    Some(command) => self.on_block_command(command),
                    None => blocks_open = false,
                },
                _ = tick.tick() => self.on_tick(),
                () = stop.cancelled() => break,
            }
        }
        self.farewell().await;
    }

    fn on_swarm(&mut self, event: SwarmEvent<NodeBehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(NodeBehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => {
                self.on_message(propagation_source, message_id, message);
            }
            SwarmEvent::Behaviour(NodeBehaviourEvent::Gossip(
                gossipsub::Event::GossipsubNotSupported { .. } | gossipsub::Event::SlowPeer { .. },
            )) => {}
            SwarmEvent::Behaviour(NodeBehaviourEvent::Gossip(gossipsub::Event::Subscribed { peer_id, topic })) => {
                self.on_subscription(&peer_id, &topic, true);
            }
            SwarmEvent::Behaviour(NodeBehaviourEvent::Gossip(gossipsub::Event::Unsubscribed { peer_id, topic })) => {
                self.on_subscription(&peer_id, &topic, false);
            }
            SwarmEvent::Behaviour(NodeBehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.on_agent(peer_id, &info.agent_version);
            }
            SwarmEvent::Behaviour(NodeBehaviourEvent::Identify(_)) => {}
            SwarmEvent::Behaviour(NodeBehaviourEvent::Status(event)) => self.on_status(event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Metadata(event)) => self.on_metadata(event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Goodbye(event)) => self.on_goodbye(event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::BlocksByRange(event)) => self.on_blocks(ByWhat::Range, event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::BlocksByRoot(event)) => self.on_blocks(ByWhat::Root, event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Data(event)) => self.on_data(event),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Admission(never)) => match never {},
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. }
                if num_established.get() == 1 =>
            {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => self.peers.answered(peer_id, connection_id),
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                self.on_disconnected(peer_id, cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string()));
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::Denied { cause }, .. } => {
                let reason = match cause.downcast::<RefusedConnection>() {
                    Ok(RefusedConnection::Address(_)) => "address",
                    Ok(RefusedConnection::Banned) => "banned",
                    Ok(RefusedConnection::Pace(_)) => "pace",
                    Ok(RefusedConnection::Places) | Err(_) => "places",
                };
                self.metrics.refused_connections.with_label_values(&[reason]).inc();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => self.on_dial_failed(connection_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => {
                info!(%address, "listening for peers");
                if let Some(discovery) = &self.discovery {
                    discovery.listens_at(&address);
                }
                self.emit(SourceEvent::ListeningOn(address.with(AddressPart::P2p(self.peer_id()))));
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                warn!(?addresses, ?reason, "a listening address is gone");
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "a listening address has trouble"),
            // The other events (an incoming connection, dialling, our own addresses) need no
            // reaction.
            _ => {}
        }
    }

    fn on_message(&mut self, source: PeerId, id: MessageId, message: gossipsub::Message) {
        let Some((topic, fork)) = self.topics.get(&message.topic).copied() else { return };
        let Some(frame) = transform::open(&message.data) else { return };
        let kind = topic.kind;
        let (peer, subscribed) = match self.peers.connected.get_mut(&source) {
            Some(peer) => {
                peer.messages = peer.messages.saturating_add(1);
                (peer.bytes.clone(), peer.announced.contains(kind))
            }
            None => (Arc::from(source.to_bytes()), None),
        };
        // Only a message of a fork that is not known comes here without its content.
        if !frame.valid {
            self.metrics.refused.with_label_values(&["too_long"]).inc();
            self.swarm.behaviour_mut().gossip.report_message_validation_result(&id, &source, MessageAcceptance::Ignore);
            return;
        }
        let room = match self.channels.events.capacity() {
            0..=PEER_EVENT_PLACES => Err(QueueFull::Places),
            _ => self.channels.events.room(&peer, frame.payload.len() + frame.ssz.len()),
        };
        let room = match room {
            Ok(room) => room,
            Err(full) => {
                self.metrics.shed.with_label_values(&[full.label()]).inc();
                self.swarm.behaviour_mut().gossip.report_message_validation_result(&id, &source, MessageAcceptance::Ignore);
                return;
            }
        };
        let (payload, bytes) = (frame.payload.to_vec(), frame.ssz.to_vec());
        let (ticket, given_up) = self.tickets.issue(id, source, matches!(kind, MessageKind::Attestation { .. }), Instant::now());
        self.metrics.verdicts.with_label_values(&["none", "given_up"]).inc_by(given_up as u64);
        let origin = Origin { source: SourceKind::Gossip, peer: Some(peer), fork, subscribed };
        let parts = MessageParts { origin, kind, received_at: self.config.clock.now(), bytes, ticket: Some(ticket) };
        // The transform has compared the size with the same limit.
        let Ok(raw) = RawMessage::new(parts) else {
            self.metrics.refused.with_label_values(&["too_long"]).inc();
            return;
        };
        self.metrics.received.with_label_values(&[kind.label()]).inc();
        let received_as = ReceivedAs::Gossip { topic, payload };
        let message = SourceEvent::Message(Box::new(SourceMessage { raw, received_as }));
        if let Err(full) = self.channels.events.try_send(message, room) {
            self.metrics.shed.with_label_values(&[full.label()]).inc();
        }
    }

    fn on_subscription(&mut self, peer: &PeerId, topic: &TopicHash, subscribed: bool) {
        if let (Some(peer), Ok(topic)) = (self.peers.connected.get_mut(peer), Topic::parse(topic.as_str())) {
            peer.announced.set(&topic, subscribed);
        }
    }

    fn apply_verdict(&mut self, ticket: Ticket, verdict: Verdict) {
        let pending = self.tickets.take(ticket);
        let is_vote = pending.as_ref().is_some_and(|pending| pending.is_vote);
        let (label, acceptance) = match verdict {
            Verdict::Accept if self.peers_at_odds || (is_vote && !self.may_forward_vote()) => {
                ("withheld", MessageAcceptance::Ignore)
            }
            Verdict::Accept => ("accept", MessageAcceptance::Accept),
            Verdict::Ignore => ("ignore", MessageAcceptance::Ignore),
            Verdict::Reject => ("reject", MessageAcceptance::Reject),
        };
        let in_time = pending.is_some_and(|pending| {
            let gossip = &mut self.swarm.behaviour_mut().gossip;
            gossip.report_message_validation_result(&pending.message, &pending.peer, acceptance)
        });
        self.metrics.verdicts.with_label_values(&[label, if in_time { "applied" } else { "late" }]).inc();
    }

    fn may_forward_vote(&mut self) -> bool {
        self.forwarding.take(self.peers.connected.len(), Instant::now())
    }

    fn publish(&mut self, publication: Publication) {
        let Publication { topic, framed, done } = publication;
        let too_long = transform::open(&framed).is_some_and(|frame| frame.ssz.len() > MAX_PAYLOAD_SIZE);
        let result = if too_long {
            Err(PublishError::TooLong(framed.len()))
        } else {
            let topic = TopicHash::from_raw(topic.to_string());
            let published = self.swarm.behaviour_mut().gossip.publish(topic, framed);
            published.map(|_| ()).map_err(|error| PublishError::Refused(error.to_string()))
        };
        self.metrics.published.with_label_values(&[if result.is_ok() { "published" } else { "refused" }]).inc();
        // The caller may have stopped waiting.
        let _ = done.send(result);
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &libp2p::core::ConnectedPoint) {
        let address = endpoint.get_remote_address().to_string();
        debug!(%peer, %address, "peer connected");
        self.peers.connected(peer, connection, address.clone(), endpoint.is_dialer(), Instant::now());
        self.swarm.behaviour_mut().gossip.set_application_score(&peer, scoring::BLAMELESS);
        self.book.connected(&peer);
        self.weigh_heads();
        if !endpoint.is_dialer() && !self.peers.is_configured(&peer) && self.is_outside(endpoint.get_remote_address()) {
            self.metrics.inbound_connections.inc();
            self.n_reached += 1;
            self.last_reached = Some(self.config.clock.now());
        }
        self.metrics.connected_peers.inc();
        self.peer_event(peer, PeerEventKind::Connected { address, outbound: endpoint.is_dialer() });
        self.greet(peer);
    }

    fn on_disconnected(&mut self, peer: PeerId, reason: String) {
        debug!(%peer, %reason, "peer disconnected");
        let now = Instant::now();
        if let Some(known) = self.peers.connected.get(&peer) {
            match known.is_exchanged {
                true => self.book.exchanged(&peer, now),
                false => self.book.disconnected(&peer, now.duration_since(known.connected_at), now),
            }
        }
        self.peers.disconnected(&peer, &reason, now);
        self.metrics.connected_peers.dec();
        self.peer_event(peer, PeerEventKind::Disconnected { reason });
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        debug!(%error, "a peer cannot be reached");
        self.peers.dial_failed(connection, in_words(error), Instant::now());
        self.book.dial_failed(connection, Instant::now());
    }

    fn on_agent(&mut self, peer: PeerId, agent: &str) {
        let agent: String = agent.chars().filter(|c| !c.is_control()).take(MAX_AGENT_LEN).collect();
        if self.peers.is_called(&peer, &agent) {
            self.peer_event(peer, PeerEventKind::Agent { agent });
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.follow_schedule();
        self.restart_discovery(now);
        self.dial_due(now);
        self.ask_due(now);
        self.close_due(now);
        let expired = self.tickets.expire(now);
        self.metrics.verdicts.with_label_values(&["none", "expired"]).inc_by(expired as u64);
        // Several listeners may share the gauge, so each adds only its own change.
        let n_open = self.tickets.n_open() as i64;
        self.metrics.pending_tickets.add(n_open - self.n_open_shown);
        self.n_open_shown = n_open;
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_LOOK) {
            self.drop_surplus(now);
            self.dial_found(now);
            self.look_at_peers();
        }
        if now.duration_since(self.period_began) >= self.config.announced_for {
            self.period_began = now;
            self.peers.connected.values_mut().for_each(|peer| peer.announced.next_period());
        }
        if self.ticks.is_multiple_of(TICKS_PER_SAVE)
            && let Some(save) = self.save_peers()
        {
            tokio::task::spawn_blocking(save);
        }
    }

    /// Joins and leaves topics when the clock enters another epoch.
    fn follow_schedule(&mut self) {
        let epoch = self.epoch_now();
        if self.topics_epoch == Some(epoch) || !self.config.subscribe {
            return;
        }
        self.topics_epoch = Some(epoch);
        let wanted: HashMap<TopicHash, Topic> = schedule::topics_at(&self.network, epoch, &self.columns)
            .into_iter()
            .map(|topic| (TopicHash::from_raw(topic.to_string()), topic))
            .collect();
        let (n_before, gossip) = (self.topics.len(), &mut self.swarm.behaviour_mut().gossip);
        self.topics.retain(|hash, (topic, _)| {
            let stays = wanted.contains_key(hash);
            if !stays {
                gossip.unsubscribe(&IdentTopic::new(topic.to_string()));
            }
            stays
        });
        let n_left = n_before - self.topics.len();
        let mut n_joined = 0;
        for (hash, topic) in wanted {
            if self.topics.contains_key(&hash) {
                continue;
            }
            let name = IdentTopic::new(topic.to_string());
            let scored = gossip.set_topic_params(name.clone(), scoring::topic_params());
            let joined = scored.map_err(str::to_owned).and_then(|()| gossip.subscribe(&name).map_err(|error| error.to_string()));
            match joined {
                Ok(_) => {
                    self.topics.insert(hash, (topic, self.digests.fork_of(topic.digest)));
                    n_joined += 1;
                }
                Err(error) => warn!(%topic, %error, "a topic cannot be joined"),
            }
        }
        if n_joined + n_left > 0 {
            info!(%epoch, n_joined, n_left, n_topics = self.topics.len(), "topics follow the fork schedule");
        }
    }

    fn dial_due(&mut self, now: Instant) {
        for (nth, target) in self.peers.due(now) {
            let options = match target.peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .addresses(vec![target.address.clone()])
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .build(),
                None => DialOpts::unknown_peer_id().address(target.address.clone()).build(),
            };
            let connection = options.connection_id();
            self.peers.dialling(nth, connection);
            if let Err(error) = self.swarm.dial(options) {
                self.on_dial_failed(connection, &error);
            }
        }
    }

    /// Starts discovery, if the configuration says so and the node key is of the right kind.
    fn start_discovery(&mut self) -> Result<(), DiscoveryError> {
        let (Some(config), Some(secret)) = (self.config.discovery.clone(), self.secret) else { return Ok(()) };
        let (network, clock, metrics) = (self.network.clone(), self.config.clock.clone(), self.metrics.clone());
        let discovery = Discovery::start(config, secret, CUSTODY_GROUP_COUNT, network, clock, metrics)?;
        self.swarm.listeners().for_each(|address| discovery.listens_at(address));
        self.discovery = Some(discovery);
        Ok(())
    }

    fn restart_discovery(&mut self, now: Instant) {
        if self.discovery_due.is_none_or(|due| due > now) {
            return;
        }
        self.discovery_due = match self.start_discovery() {
            Ok(()) => None,
            Err(error) => {
                debug!(%error, "discovery cannot be started again yet");
                Some(now + DISCOVERY_PAUSE)
            }
        };
    }

    /// Takes a node into the peer book.
    fn on_found(&mut self, node: FoundNode) {
        if node.peer == self.peer_id() {
            return;
        }
        // Only of a node that has answered is it known that the address is its own.
        if node.has_answered {
            let next = (node.fork_id.next_fork_version, node.fork_id.next_fork_epoch);
            let is_unknown = next.1 > self.epoch_now() && !node.fork_id.is_scheduled(&self.network);
            self.fork_poll.record_announcement(node.peer, node.ip, is_unknown.then_some(next), Instant::now());
        }
        let learned = self.book.learn(node, Instant::now());
        self.metrics.found_records.with_label_values(&[learned.label()]).inc();
    }

    /// Dials nodes of the peer book while there are fewer peers than wanted, and now and then one
    /// more. A part of the places is left to those who dial us.
    fn dial_found(&mut self, now: Instant) {
        if self.config.discovery.is_none() {
            return;
        }
        let (max_peers, reserved) = (self.config.max_peers, reserved(self.config.max_peers));
        let others = || self.peers.connected.iter().filter(|(id, _)| !self.peers.is_configured(id));
        let n_outbound = others().filter(|(_, peer)| peer.is_outbound).count();
        // However many dial us, a part of our peers are those that we have chosen.
        let n_missing = (max_peers - reserved).saturating_sub(others().count()).max(reserved.saturating_sub(n_outbound));
        if let Some(discovery) = &self.discovery {
            discovery.wants_more(n_missing > 0);
        }
        let n_dialling = self.book.n_dialling();
        let mut n = n_missing.saturating_sub(n_dialling).min(MAX_DIALS.saturating_sub(n_dialling));
        let has_room = others().count() < max_peers && n_dialling < MAX_DIALS;
        // No faster than the peers whose trial is over make room. Then the newcomers stay for
        // theirs.
        let n_on_trial = (max_peers - newcomers(max_peers)) / 2;
        let every = (self.trial() / (n_on_trial as u32).max(1)).max(self.config.fastest_turn);
        let takes_turns = n_missing == 0 && has_room && now.duration_since(self.rotated_at) >= every;
        if takes_turns {
            (n, self.rotated_at) = (1, now);
        }
        if n == 0 {
            return;
        }
        let admission = &self.swarm.behaviour().admission;
        let is_free = |peer: &PeerId| {
            !self.peers.connected.contains_key(peer) && !self.peers.is_configured(peer) && !admission.is_banned(peer)
        };
        // One of each prefix at a time, because attempts are not counted among the connections. In
        // a network of private addresses all may have one prefix.
        let under_way = self.book.dialled_ips().filter(|ip| discovery::is_public(*ip));
        let mut prefixes: HashSet<Prefix> = under_way.map(Prefix::of).collect();
        let order = DialOrder { wanted_subnets: self.rare_subnets(), unseen_first: takes_turns };
        let targets = self.book.choose(n, now, order, is_free, |ip| admission.has_room(ip) && prefixes.insert(Prefix::of(ip)));
        for (peer, addresses) in targets {
            let options = DialOpts::peer_id(peer)
                .addresses(addresses)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .override_dial_concurrency_factor(ONE_AFTER_THE_OTHER)
                .build();
            let connection = options.connection_id();
            self.book.dialling(&peer, connection);
            if let Err(error) = self.swarm.dial(options) {
                self.on_dial_failed(connection, &error);
            }
        }
    }

    /// Reads the peer book of an earlier run. A file that cannot be read costs no more than a
    /// search from the boot nodes.
    fn load_peers(&mut self, config: &discovery::DiscoveryConfig) {
        let Some(path) = &config.peer_book else { return };
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => {
                warn!(path = %path.display(), %error, "the peer book cannot be read; peers are searched from the boot nodes");
                return;
            }
        };
        let digests = schedule::digests_near(&self.network, self.epoch_now());
        for node in discovery::read_kept(&text, &digests, config.allow_private, BookLimits::DEFAULT.nodes) {
            self.book.learn(node, Instant::now());
        }
        info!(n_peers = self.book.len(), "peers of the last run are known");
    }

    /// Returns what writes the peer book, if it is kept in a file. It waits for the disk.
    fn save_peers(&self) -> Option<impl FnOnce() + Send + use<>> {
        let path = self.config.discovery.as_ref()?.peer_book.clone()?;
        let text = self.book.to_text();
        Some(move || {
            if let Err(error) = identity::save(&path, text.as_bytes()) {
                warn!(path = %path.display(), %error, "the peer book cannot be written; give the disk room, or the process leave to write");
            }
        })
    }

    /// Whether an address is one from which a stranger could have come.
    fn is_outside(&self, address: &Multiaddr) -> bool {
        let allow_private = self.config.discovery.as_ref().is_some_and(|discovery| discovery.allow_private);
        discovery::ip_of(address).is_some_and(|ip| allow_private || discovery::is_public(ip))
    }

    /// Tells the log of a fork that most nodes name and that is not in our schedule.
    fn look_at_forks(&mut self) {
        let announced = self.fork_poll.announced(Instant::now());
        if let Some(fork) = announced.filter(|_| announced != self.announced_fork) {
            warn!("{}", fork.notice());
        }
        self.announced_fork = announced;
    }

    fn state(&self) -> ConnectionState {
        let others = self.peers.connected.iter().filter(|(id, _)| !self.peers.is_configured(id));
        let (outbound, inbound): (Vec<_>, Vec<_>) = others.partition(|(_, peer)| peer.is_outbound);
        let counts = |counters: &IntCounterVec, labels: &[&'static str]| {
            labels.iter().map(|label| (*label, counters.with_label_values(&[label]).get())).collect()
        };
        ConnectionState {
            n_inbound: inbound.len(),
            n_outbound: outbound.len(),
            n_reached: self.n_reached,
            last_reached: self.last_reached,
            peer_id: self.peer_id().to_base58(),
            listen: self.swarm.listeners().map(Multiaddr::to_string).collect(),
            topics: self.topic_peers(),
            announced_fork: self.announced_fork,
            discovery: self.discovery.as_ref().map(|discovery| DiscoveryState {
                n_known: self.book.len(),
                n_answered: self.book.n_answered(),
                ..discovery.state.borrow().clone()
            }),
            refused_records: counts(&self.metrics.found_records, &SourceMetrics::REFUSED_RECORDS),
            refused_connections: counts(&self.metrics.refused_connections, &SourceMetrics::REFUSED_CONNECTIONS),
        }
    }

    /// Closes the connections whose goodbye was sent or received, and says goodbye to peers with a
    /// score below [`GRAYLIST`] that are not configured.
    fn close_due(&mut self, now: Instant) {
        let closing: Vec<PeerId> =
            self.peers.connected.iter().filter(|(_, peer)| peer.closing.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        for peer in closing {
            // An error means that the connection has ended already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let gossip = &self.swarm.behaviour().gossip;
        let below_graylist: Vec<PeerId> = self
            .peers
            .connected
            .iter()
            .filter(|(id, peer)| peer.closing.is_none() && !self.peers.is_configured(id))
            .filter(|(id, _)| gossip.peer_score(id).is_some_and(|score| score < GRAYLIST))
            .map(|(id, _)| *id)
            .collect();
        for peer in below_graylist {
            self.say_goodbye(peer, goodbye::BAD_SCORE);
            self.swarm.behaviour_mut().admission.ban(peer, now + self.config.ban);
        }
    }

    /// Says goodbye to peers for whom there is no place.
    fn drop_surplus(&mut self, now: Instant) {
        let others = self.peers.connected.iter().filter(|(id, peer)| peer.closing.is_none() && !self.peers.is_configured(id));
        let others: Vec<(PeerId, &Peer)> = others.map(|(id, peer)| (*id, peer)).collect();
        let n_surplus = others.len().saturating_sub(self.config.max_peers - newcomers(self.config.max_peers));
        if n_surplus == 0 {
            return;
        }
        let gossip = &self.swarm.behaviour().gossip;
        let subnets: HashMap<PeerId, u64> = gossip.all_peers().map(|(peer, topics)| (*peer, self.subnets_of(topics))).collect();
        let first_hand = self.channels.first_hand.borrow().clone();
        let known = others.into_iter().filter(|(_, peer)| now.duration_since(peer.connected_at) >= self.config.newcomer);
        let candidates: Vec<PeerCandidate> = known
            .map(|(id, peer)| PeerCandidate {
                peer: id,
                is_outbound: peer.is_outbound,
                connected_for: now.duration_since(peer.connected_at),
                score: gossip.peer_score(&id).unwrap_or(0.0),
                has_status: peer.status.is_some(),
                attestation_subnets: subnets.get(&id).copied().unwrap_or(0),
                client: Client::of_agent(peer.agent.as_deref()),
                prefix: public_prefix(peer).map(Prefix::address),
                n_trials: match first_hand.is_empty() {
                    true => 0,
                    false => n_trials(
                        now.duration_since(peer.connected_at),
                        self.trial(),
                        subnets.get(&id).copied().unwrap_or(0),
                        first_hand.get(&peer.bytes).copied(),
                    ),
                },
                first_hand: first_hand.get(&peer.bytes).copied().unwrap_or_default(),
            })
            .collect();
        let mut surplus = self.config.selection.surplus(&candidates, n_surplus);
        surplus.truncate(n_surplus);
        for peer in surplus {
            let is_bad = self.swarm.behaviour().gossip.peer_score(&peer).is_some_and(|score| score < 0.0);
            if let Some(known) = self.peers.connected.get_mut(&peer) {
                known.is_exchanged = known.status.is_some() && !is_bad;
            }
            self.say_goodbye(peer, goodbye::TOO_MANY_PEERS);
        }
    }

    /// The time in which a peer shows whether it publishes votes of its own.
    fn trial(&self) -> Duration {
        self.network.spec.slot_duration * (self.network.preset().slots_per_epoch * TRIAL_EPOCHS) as u32
    }

    /// The attestation subnets on which fewer than [`ENOUGH_PEERS`] are connected, as bits.
    fn rare_subnets(&self) -> u64 {
        let mut n_peers = [0usize; 64];
        for (_, topics) in self.swarm.behaviour().gossip.all_peers() {
            let bits = self.subnets_of(topics);
            n_peers.iter_mut().enumerate().for_each(|(subnet, n)| *n += (bits >> subnet & 1) as usize);
        }
        (0..64).filter(|subnet| n_peers[*subnet] < ENOUGH_PEERS).fold(0, |bits, subnet| bits | 1 << subnet)
    }

    /// The attestation subnets among a peer's topics, as bits.
    fn subnets_of(&self, topics: Vec<&TopicHash>) -> u64 {
        let subnets = topics.into_iter().filter_map(|hash| match self.topics.get(hash)?.0.kind {
            MessageKind::Attestation { subnet } => 1u64.checked_shl(u32::try_from(subnet).ok()?),
            _ => None,
        });
        subnets.fold(0, |bits, bit| bits | bit)
    }

    /// The peers of each topic of the current fork.
    fn topic_peers(&self) -> Vec<TopicPeers> {
        let digest = self.network.fork_digest_at(self.epoch_now());
        let gossip = &self.swarm.behaviour().gossip;
        let mut n_peers: HashMap<&TopicHash, usize> = HashMap::new();
        for hash in gossip.all_peers().flat_map(|(_, topics)| topics) {
            *n_peers.entry(hash).or_default() += 1;
        }
        let current = self.topics.iter().filter(|(_, (topic, _))| topic.digest == digest);
        let mut topics: Vec<TopicPeers> = current
            .filter_map(|(hash, (topic, _))| {
                let n_mesh = gossip.mesh_peers(hash).count();
                Some(TopicPeers { name: topic.kind.topic_name()?, n_peers: n_peers.get(hash).copied().unwrap_or(0), n_mesh })
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    fn look_at_peers(&mut self) {
        self.look_at_forks();
        let gossip = &self.swarm.behaviour().gossip;
        let topics: HashMap<PeerId, usize> = gossip.all_peers().map(|(peer, topics)| (*peer, topics.len())).collect();
        let infos = self.peers.infos(|peer| gossip.peer_score(peer).unwrap_or(0.0), &topics, Instant::now());
        self.channels.peers.send_replace(Arc::new(infos));
        let state = self.state();
        for topic in &state.topics {
            for (which, n) in [("connected", topic.n_peers), ("mesh", topic.n_mesh)] {
                self.metrics.topic_peers.with_label_values(&[topic.name.as_str(), which]).set(n as i64);
            }
        }
        self.channels.state.send_replace(Arc::new(state));
        self.weigh_heads();
    }

    pub(super) fn weigh_heads(&mut self) {
        let gossip = &self.swarm.behaviour().gossip;
        let listening: HashSet<PeerId> =
            gossip.all_peers().filter(|(_, topics)| !topics.is_empty()).map(|(peer, _)| *peer).collect();
        let listens = |peer: &PeerId| listening.contains(peer);
        let far = self.network.preset().slots_per_epoch;
        let at_odds = self.peers.are_at_odds(listens, far, Instant::now());
        if at_odds != self.peers_at_odds {
            match at_odds {
                true => debug!("the heads of peers lie apart: nothing is passed on"),
                false => debug!("the heads of peers agree again: messages are passed on"),
            }
            self.peers_at_odds = at_odds;
        }
    }

    pub(super) fn epoch_now(&self) -> Epoch {
        self.network.slot_at(self.config.clock.now().0).epoch(self.network.preset())
    }

    pub(super) fn peer_event(&mut self, peer: PeerId, what: PeerEventKind) {
        self.metrics.peer_events.with_label_values(&[what.label()]).inc();
        self.emit(SourceEvent::Peer(PeerEvent { at: self.config.clock.now(), peer, what }));
    }

    /// Sends an event that is not a message.
    fn emit(&mut self, event: SourceEvent) {
        let what = match &event {
            SourceEvent::Message(_) => "message",
            SourceEvent::Peer(_) => "peer_event",
            SourceEvent::ListeningOn(_) => "address",
            SourceEvent::Connection { .. } => "connection",
        };
        // The queue is full, or nobody reads it any more.
        if self.channels.events.try_send_note(event).is_err() {
            self.metrics.shed.with_label_values(&[what]).inc();
        }
    }

    /// Says goodbye to all peers, and waits until all have disconnected or one second has passed.
    async fn farewell(mut self) {
        if let Some(save) = self.save_peers() {
            save();
        }
        let connected: Vec<PeerId> = self.peers.connected.keys().copied().collect();
        for peer in connected {
            self.say_goodbye(peer, goodbye::CLIENT_SHUTDOWN);
        }
        let closed = async {
            while !self.peers.connected.is_empty() {
                let event = self.swarm.select_next_some().await;
                self.on_swarm(event);
            }
        };
        // After this the swarm is dropped, which closes the remaining connections.
        let _ = tokio::time::timeout(FAREWELL, closed).await;
    }
}

/// The next node that discovery finds. Never, if there is no discovery.
async fn next_found(discovery: &mut Option<Discovery>) -> Option<FoundNode> {
    match discovery {
        Some(discovery) => discovery.found.recv().await,
        None => std::future::pending().await,
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(path)?, MAX_BOOK_LEN), &mut text)?;
    Ok(text)
}

/// Why a peer cannot be reached, for people.
fn in_words(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "its address is our own".into(),
        DialError::NoAddresses => "its address cannot be dialled; write it like /ip4/192.0.2.1/tcp/9000/p2p/16Uiu2HA...".into(),
        DialError::DialPeerConditionFalse(_) => "it is connected or being dialled already".into(),
        DialError::Aborted => "the attempt was broken off".into(),
        DialError::WrongPeerId { obtained, .. } => {
            format!("another node answers there: {obtained}; correct the id in its address")
        }
        DialError::Denied { cause } => format!("we refuse more connections: {}", base::innermost_cause(cause)),
        DialError::Transport(attempts) => {
            let mut reasons: Vec<String> = attempts.iter().map(|(_, error)| dial_fault::in_words(error)).collect();
            reasons.dedup();
            if reasons.is_empty() { "no address of it could be dialled".into() } else { reasons.join("; ") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::BlockClient;
    use super::super::identity::Identity;
    use super::*;
    use crate::queue::{QueueBytes, queue};
    use consensus::{Root, Spec};

    fn network() -> Arc<Network> {
        let spec = Spec::from_yaml("PRESET_BASE: mainnet\nDENEB_FORK_EPOCH: 0\n").unwrap();
        Arc::new(Network { spec, genesis_time: 1_700_000_000, genesis_validators_root: Root::ZERO })
    }

    /// Of a peer that leaves, gossipsub keeps nothing, so that ids without end take no memory.
    #[tokio::test]
    async fn who_leaves_without_an_offence_is_forgotten() {
        let (network, metrics) = (network(), SourceMetrics::unregistered());
        let (events, _events) = queue(PEER_EVENT_PLACES + 64, QueueBytes::DEFAULT);
        let (_reports, reports) = mpsc::channel(1);
        let (_publish, publish) = mpsc::channel(1);
        let (_status, status) = watch::channel(StatusView::default());
        let (_first_hand, first_hand) = watch::channel(FirstHandStake::default());
        let (peers, state) = (watch::channel(Arc::default()).0, watch::channel(Arc::default()).0);
        let channels = Channels { events, reports, publish, peers, status, state, first_hand, stop: CancellationToken::new() };
        let config = GossipConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..GossipConfig::default() };
        let (_blocks, commands) = BlockClient::new(network.clone(), config.clock.clone(), metrics.clone());
        let mut task = GossipTask::new(config, network.clone(), metrics, channels, commands).unwrap();
        let address = loop {
            let event = task.swarm.select_next_some().await;
            if let SwarmEvent::NewListenAddr { address, .. } = event {
                break address;
            }
        };
        let (key, digests) = (Identity::Ephemeral.load().unwrap(), Arc::new(network.fork_digests()));
        let others = SourceMetrics::unregistered();
        let mut visitor = behaviour::swarm(&GossipConfig::default(), &network, key, digests, others).unwrap();
        let (id, ours) = (*visitor.local_peer_id(), task.peer_id());
        visitor.dial(address).unwrap();
        let score = |task: &GossipTask| task.swarm.behaviour().gossip.peer_score(&id);
        let visit = async {
            while !task.peers.connected.contains_key(&id) || !visitor.is_connected(&ours) {
                tokio::select! {
                    event = task.swarm.select_next_some() => task.on_swarm(event),
                    _ = visitor.select_next_some() => {}
                }
            }
            assert_eq!(score(&task), Some(scoring::BLAMELESS));
            visitor.disconnect_peer_id(ours).unwrap();
            while task.peers.connected.contains_key(&id) {
                tokio::select! {
                    event = task.swarm.select_next_some() => task.on_swarm(event),
                    _ = visitor.select_next_some() => {}
                }
            }
            assert_eq!(score(&task), Some(0.0), "it would be kept for an hour");
        };
        tokio::time::timeout(Duration::from_secs(30), visit).await.unwrap();
    }
}
