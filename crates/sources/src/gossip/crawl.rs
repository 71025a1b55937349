//! Asks who is out there: walks through discv5 once, and visits each node of our network for a
//! moment.
//!
//! A visit is one connection on which the node is asked for its status and its metadata, and tells
//! its client (identify). Then it gets a goodbye. The node sees who we are by our agent string.
//! Each node is visited once at most, whatever comes of it; nodes whose record is of another
//! network are not visited.
//!
//! What strangers can cost us, and we them, is bounded by [`CrawlLimits`]. What they say about
//! themselves is cleaned before it is kept.

use super::behaviour::{self, NodeBehaviour, NodeBehaviourEvent};
use super::client::Client;
use super::crawl_report::{CrawlReport, CrawledNode, ForkRow, Reached, Transport};
use super::dial_fault::DialFault;
use super::peer_book::Prefix;
use super::requests::CUSTODY_GROUP_COUNT;
use super::rpc::{Metadata, Request, Response, StatusMessage, goodbye};
use super::schedule::digests_near;
use super::{AddressLimit, Clock, GossipConfig, GossipError, Identity, identity};
use crate::discovery::{self, BootNode, DiscoveryConfig, FoundNode, UnusableRecord, Walk, WalkedRecord};
use crate::metrics::SourceMetrics;
use consensus::{Checkpoint, Epoch, ForkDigest, Network, Root, Slot};
use enr::NodeId;
use futures::StreamExt;
use libp2p::multiaddr::Protocol as AddressPart;
use libp2p::request_response::{Event, Message};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, TransportError, identify};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a node may take to receive our goodbye.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);
/// How long the goodbyes at the end may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Greatest number of characters of an agent string that are kept.
const MAX_AGENT_LEN: usize = 64;

/// How much a crawl does at most.
#[derive(Clone, Copy, Debug)]
pub struct CrawlLimits {
    /// The crawl ends after this, with what was found.
    pub duration: Duration,
    /// Nodes that are remembered.
    pub nodes: usize,
    /// Attempts to connect that begin in a second.
    pub dials_per_second: u32,
    /// Connections at a time, those that are being made included.
    pub connections: usize,
    /// Nodes of one address prefix (/24, /48) that are visited, one at a time. Of nodes that have
    /// not answered by UDP it is half of this.
    pub per_prefix: usize,
    /// How long a node may take to answer once it is connected.
    pub visit: Duration,
}

impl Default for CrawlLimits {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(600),
            nodes: 50_000,
            dials_per_second: 20,
            connections: 64,
            per_prefix: 32,
            visit: Duration::from_secs(10),
        }
    }
}

/// What to crawl.
#[derive(Clone, Debug)]
pub struct CrawlConfig {
    pub boot_nodes: Vec<BootNode>,
    /// Whether nodes with private addresses are visited, as in a network of containers. The limits
    /// for each prefix then do not apply.
    pub allow_private: bool,
    pub limits: CrawlLimits,
    /// The agent string that tells nodes who visits them.
    pub agent: String,
    pub clock: Clock,
}

impl CrawlConfig {
    pub fn new(boot_nodes: Vec<BootNode>) -> Self {
        Self {
            allow_private: !boot_nodes.is_empty() && boot_nodes.iter().all(BootNode::is_private),
            boot_nodes,
            limits: CrawlLimits::default(),
            agent: concat!("slashwatch-crawl/", env!("CARGO_PKG_VERSION")).to_owned(),
            clock: Clock::system(),
        }
    }
}

/// How far a crawl is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrawlProgress {
    pub seen: usize,
    /// Nodes that are to be visited, those that were visited included.
    pub to_visit: usize,
    pub visited: usize,
}

/// Crawls until everything is seen, the time is over, or `stop` resolves, and returns what was
/// found. The key is a new one and is not kept.
pub async fn crawl(
    config: CrawlConfig,
    network: Arc<Network>,
    stop: impl Future<Output = ()>,
    mut on_progress: impl FnMut(CrawlProgress),
) -> Result<CrawlReport, GossipError> {
    let started = Instant::now();
    let key = Identity::Ephemeral.load()?;
    let secret = identity::secret(&key).ok_or_else(|| GossipError::Setup("the key is of the wrong kind".to_owned()))?;
    let now = network.slot_at(config.clock.now().0).epoch(network.preset());
    let discovery = DiscoveryConfig {
        boot_nodes: config.boot_nodes.clone(),
        allow_private: config.allow_private,
        ..DiscoveryConfig::default()
    };
    let mut walk = Walk::start(&discovery, secret, &network, now, config.limits.nodes).await?;
    let gossip = GossipConfig {
        max_peers: config.limits.connections,
        address_limit: AddressLimit::NONE,
        agent: config.agent.clone(),
        subscribe: false,
        ..GossipConfig::default()
    };
    let swarm = behaviour::swarm(&gossip, &network, key, Arc::new(network.fork_digests()), SourceMetrics::unregistered())?;
    let mut crawler = Crawler::new(swarm, config, network, now);
    let rate = f64::from(crawler.limits.dials_per_second.max(1));
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = tokio::time::sleep(crawler.limits.duration);
    tokio::pin!(stop, end);
    let (mut walks, mut is_complete) = (true, false);
    while walks || crawler.has_work() {
        tokio::select! {
            record = walk.records.recv(), if walks => match record {
                Some(record) => crawler.learn(&record),
                None => walks = false,
            },
            event = crawler.swarm.select_next_some() => crawler.on_event(event, Instant::now()),
            _ = tick.tick() => {
                crawler.work(Instant::now());
                on_progress(crawler.progress());
            }
            () = &mut end => break,
            () = &mut stop => break,
        }
        is_complete = !walks && !crawler.has_work() && !walk.is_cut();
    }
    drop(walk);
    crawler.farewell().await;
    Ok(crawler.report(started.elapsed(), is_complete))
}

/// A node of which a record was seen.
struct Node {
    fork_id: discovery::ForkId,
    has_answered: bool,
    advertised: Vec<Transport>,
    /// Where it is dialled. `None` if it is not dialled.
    target: Option<FoundNode>,
    reached: Option<Reached>,
    tried: Vec<Transport>,
    via: Option<Transport>,
    agent: Option<String>,
    status: Option<StatusMessage>,
    metadata: Option<Metadata>,
    goodbye: Option<u64>,
}

/// A connection that is being made, or is there.
struct Visit {
    connection: ConnectionId,
    prefix: Prefix,
    /// When it ends. `None` while it is being made, which has a limit of its own.
    until: Option<Instant>,
    /// Requests that are not answered yet.
    n_open: usize,
    is_closing: bool,
}

struct Crawler {
    swarm: Swarm<NodeBehaviour>,
    network: Arc<Network>,
    limits: CrawlLimits,
    allow_private: bool,
    clock: Clock,
    epoch: Epoch,
    nodes: HashMap<PeerId, Node>,
    no_beacon_nodes: HashSet<NodeId>,
    due: VecDeque<PeerId>,
    visits: HashMap<PeerId, Visit>,
    places: PrefixPlaces,
    n_to_visit: usize,
}

impl Crawler {
    fn new(swarm: Swarm<NodeBehaviour>, config: CrawlConfig, network: Arc<Network>, epoch: Epoch) -> Self {
        Self {
            swarm,
            network,
            limits: config.limits,
            allow_private: config.allow_private,
            clock: config.clock,
            epoch,
            nodes: HashMap::new(),
            no_beacon_nodes: HashSet::new(),
            due: VecDeque::new(),
            visits: HashMap::new(),
            places: PrefixPlaces { limit: config.limits.per_prefix, taken: HashMap::new() },
            n_to_visit: 0,
        }
    }

    fn has_work(&self) -> bool {
        !self.due.is_empty() || !self.visits.is_empty()
    }

    fn progress(&self) -> CrawlProgress {
        let n_open = self.due.len() + self.visits.len();
        CrawlProgress { seen: self.nodes.len(), to_visit: self.n_to_visit, visited: self.n_to_visit - n_open }
    }

    /// Takes a record. A node whose record comes again is not visited again.
    fn learn(&mut self, walked: &WalkedRecord) {
        let WalkedRecord { record, answered_from } = walked;
        let (Some(fork_id), Some(peer)) = (discovery::fork_id_of(record), discovery::peer_id_of(record)) else {
            self.no_beacon_nodes.insert(record.node_id());
            return;
        };
        self.no_beacon_nodes.remove(&record.node_id());
        let mut has_answered = answered_from.is_some();
        if let Some(known) = self.nodes.get_mut(&peer) {
            let is_first_answer = has_answered && !known.has_answered;
            known.has_answered |= has_answered;
            has_answered = known.has_answered;
            // A newer record may name an address where the one before named none. For a node that
            // answers there may be a place.
            if known.target.is_some() || (known.reached == Some(Reached::PrefixFull) && !is_first_answer) {
                return;
            }
        }
        let advertised: Vec<Transport> = discovery::addresses_of(record).iter().filter_map(transport).collect();
        let is_ours = digests_near(&self.network, self.epoch).contains(&fork_id.fork_digest);
        let found = FoundNode::read(record, &[fork_id.fork_digest], self.allow_private, *answered_from);
        let (target, reached) = match found {
            _ if !is_ours => (None, Some(Reached::OtherNetworkByRecord)),
            Ok(found) if self.has_room(&found, has_answered) => (Some(found), None),
            Ok(_) => (None, Some(Reached::PrefixFull)),
            Err(UnusableRecord::PrivateAddress) => (None, Some(Reached::PrivateAddress)),
            Err(UnusableRecord::NoAddress | UnusableRecord::NoBeaconNode | UnusableRecord::OtherNetwork) => {
                (None, Some(Reached::NoAddress))
            }
        };
        if let Some(found) = &target {
            self.places.take(Prefix::of(found.ip), has_answered);
            self.due.push_back(peer);
            self.n_to_visit += 1;
        }
        let (tried, via, agent, status, metadata, goodbye) = Default::default();
        let node = Node { fork_id, has_answered, advertised, target, reached, tried, via, agent, status, metadata, goodbye };
        self.nodes.insert(peer, node);
    }

    fn has_room(&self, found: &FoundNode, has_answered: bool) -> bool {
        self.allow_private || self.places.has_room(Prefix::of(found.ip), has_answered)
    }

    /// Dials one node, and ends visits that take too long.
    fn work(&mut self, now: Instant) {
        let late: Vec<PeerId> = self
            .visits
            .iter()
            .filter(|(_, visit)| visit.until.is_some_and(|until| until <= now))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            let is_closing = self.visits.get(&peer).is_some_and(|visit| visit.is_closing);
            if is_closing {
                // An error means that it has ended already.
                let _ = self.swarm.disconnect_peer_id(peer);
            } else {
                self.say_goodbye(peer, now);
            }
        }
        if self.visits.len() >= self.limits.connections {
            return;
        }
        let is_free = |peer: &PeerId| {
            let Some(found) = self.nodes.get(peer).and_then(|node| node.target.as_ref()) else { return true };
            let prefix = Prefix::of(found.ip);
            self.allow_private || self.visits.values().all(|visit| visit.prefix != prefix)
        };
        let Some(place) = self.due.iter().position(is_free) else { return };
        let Some(peer) = self.due.remove(place) else { return };
        let Some(found) = self.nodes.get(&peer).and_then(|node| node.target.clone()) else { return };
        let options = DialOpts::peer_id(peer)
            .addresses(found.addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .override_dial_concurrency_factor(NonZeroU8::MIN)
            .build();
        let connection = options.connection_id();
        let visit = Visit { connection, prefix: Prefix::of(found.ip), until: None, n_open: 0, is_closing: false };
        self.visits.insert(peer, visit);
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(connection, &error);
        }
    }

    fn on_event(&mut self, event: SwarmEvent<NodeBehaviourEvent>, now: Instant) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, concurrent_dial_errors, .. } => {
                self.on_connected(peer_id, endpoint.get_remote_address(), concurrent_dial_errors.unwrap_or_default(), now);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => self.on_dial_failed(connection_id, &error),
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => self.ends(&peer_id),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                if let Some(node) = self.nodes.get_mut(&peer_id) {
                    node.agent = Some(clean(&info.agent_version));
                }
                self.goes_on(peer_id, now);
            }
            SwarmEvent::Behaviour(NodeBehaviourEvent::Status(event)) => self.on_status(event, now),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Metadata(event)) => self.on_metadata(event, now),
            SwarmEvent::Behaviour(NodeBehaviourEvent::Ping(Event::Message {
                message: Message::Request { channel, .. }, ..
            })) => {
                let _ = self.swarm.behaviour_mut().ping.send_response(channel, Response::Pong { seq_number: 0 });
            }
            SwarmEvent::Behaviour(NodeBehaviourEvent::Goodbye(event)) => self.on_goodbye(event),
            // Nobody is told of gossip or of blocks here. A request for them is left unanswered.
            _ => {}
        }
    }

    fn on_connected(
        &mut self,
        peer: PeerId,
        address: &Multiaddr,
        failed: Vec<(Multiaddr, TransportError<io::Error>)>,
        now: Instant,
    ) {
        let Some(visit) = self.visits.get_mut(&peer) else { return };
        (visit.until, visit.n_open) = (Some(now + self.limits.visit), 2);
        if let Some(node) = self.nodes.get_mut(&peer) {
            node.via = transport(address);
            node.tried.extend(failed.iter().filter_map(|(address, _)| transport(address)).chain(node.via));
        }
        let status = self.own_status();
        let behaviour = self.swarm.behaviour_mut();
        behaviour.status.send_request(&peer, Request::Status(status));
        behaviour.metadata.send_request(&peer, Request::Metadata);
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        let Some(peer) = self.visits.iter().find(|(_, visit)| visit.connection == connection).map(|(peer, _)| *peer) else {
            return;
        };
        self.visits.remove(&peer);
        let Some(node) = self.nodes.get_mut(&peer) else { return };
        let faults = match error {
            DialError::Transport(attempts) => {
                node.tried.extend(attempts.iter().filter_map(|(address, _)| transport(address)));
                attempts.iter().map(|(_, error)| DialFault::of(error)).collect()
            }
            _ => Vec::new(),
        };
        // One address that says no tells more than another that says nothing.
        let first_of = |order: &[(DialFault, Reached)]| {
            order.iter().find(|(fault, _)| faults.contains(fault)).map_or(Reached::Failed, |(_, reached)| *reached)
        };
        node.reached = Some(match error {
            DialError::WrongPeerId { .. } => Reached::OtherNode,
            _ => first_of(&[
                (DialFault::Refused, Reached::Refused),
                (DialFault::ClosedEarly, Reached::Refused),
                (DialFault::TimedOut, Reached::TimedOut),
                (DialFault::Unreachable, Reached::Unreachable),
            ]),
        });
    }

    /// Closes a visit when everything is known.
    fn goes_on(&mut self, peer: PeerId, now: Instant) {
        let has_agent = self.nodes.get(&peer).is_some_and(|node| node.agent.is_some());
        let is_done = self.visits.get(&peer).is_some_and(|visit| visit.n_open == 0 && !visit.is_closing);
        if has_agent && is_done {
            self.say_goodbye(peer, now);
        }
    }

    fn answered(&mut self, peer: PeerId, now: Instant) {
        if let Some(visit) = self.visits.get_mut(&peer) {
            visit.n_open = visit.n_open.saturating_sub(1);
        }
        self.goes_on(peer, now);
    }

    fn say_goodbye(&mut self, peer: PeerId, now: Instant) {
        if let Some(visit) = self.visits.get_mut(&peer) {
            (visit.until, visit.is_closing) = (Some(now + GOODBYE_WAIT), true);
            let code = goodbye::CLIENT_SHUTDOWN;
            self.swarm.behaviour_mut().goodbye.send_request(&peer, Request::Goodbye { code });
        }
    }

    fn on_status(&mut self, event: Event<Request, Response>, now: Instant) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                let answer = Response::Status(self.own_status());
                let _ = self.swarm.behaviour_mut().status.send_response(channel, answer);
                if let (Request::Status(status), Some(node)) = (request, self.nodes.get_mut(&peer)) {
                    node.status = Some(status);
                }
            }
            Event::Message { peer, message: Message::Response { response, .. }, .. } => {
                if let (Response::Status(status), Some(node)) = (response, self.nodes.get_mut(&peer)) {
                    node.status = Some(status);
                }
                self.answered(peer, now);
            }
            Event::OutboundFailure { peer, .. } => self.answered(peer, now),
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    fn on_metadata(&mut self, event: Event<Request, Response>, now: Instant) {
        match event {
            Event::Message { message: Message::Request { channel, .. }, .. } => {
                let own = Metadata { seq_number: 0, attnets: [0; 8], syncnets: 0, custody_group_count: CUSTODY_GROUP_COUNT };
                let _ = self.swarm.behaviour_mut().metadata.send_response(channel, Response::Metadata(own));
            }
            Event::Message { peer, message: Message::Response { response, .. }, .. } => {
                if let (Response::Metadata(metadata), Some(node)) = (response, self.nodes.get_mut(&peer)) {
                    node.metadata = Some(metadata);
                }
                self.answered(peer, now);
            }
            Event::OutboundFailure { peer, .. } => self.answered(peer, now),
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    fn on_goodbye(&mut self, event: Event<Request, Response>) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                let _ = self.swarm.behaviour_mut().goodbye.send_response(channel, Response::Nothing);
                if let (Request::Goodbye { code }, Some(node)) = (request, self.nodes.get_mut(&peer)) {
                    node.goodbye.get_or_insert(code);
                }
            }
            // The node has received our goodbye, or can no longer receive it.
            Event::Message { peer, .. } | Event::OutboundFailure { peer, .. } => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    /// Concludes a visit.
    fn ends(&mut self, peer: &PeerId) {
        self.visits.remove(peer);
        let near = digests_near(&self.network, self.epoch);
        let Some(node) = self.nodes.get_mut(peer) else { return };
        node.reached = Some(match (node.status, node.goodbye) {
            (Some(status), _) if near.contains(&status.fork_digest) => Reached::Answered,
            (Some(_), _) => Reached::OtherNetwork,
            (None, Some(_)) => Reached::Goodbye,
            (None, None) => Reached::NoStatus,
        });
    }

    /// We claim no chain, as a node does that has just started, so that nobody asks us for one.
    fn own_status(&self) -> StatusMessage {
        let slot = self.network.slot_at(self.clock.now().0);
        StatusMessage {
            fork_digest: self.network.fork_digest_at(slot.epoch(self.network.preset())),
            finalized: Checkpoint::default(),
            head_root: Root::ZERO,
            head_slot: Slot::new(0),
            earliest_available_slot: Some(slot),
        }
    }

    /// Says goodbye to everybody who is connected.
    async fn farewell(&mut self) {
        let now = Instant::now();
        let connected: Vec<PeerId> =
            self.visits.iter().filter(|(_, visit)| visit.until.is_some() && !visit.is_closing).map(|(peer, _)| *peer).collect();
        connected.into_iter().for_each(|peer| self.say_goodbye(peer, now));
        let all_gone = async {
            while self.visits.values().any(|visit| visit.until.is_some()) {
                let event = self.swarm.select_next_some().await;
                self.on_event(event, Instant::now());
            }
        };
        let _ = tokio::time::timeout(FAREWELL, all_gone).await;
        let left: Vec<PeerId> = self.visits.iter().filter(|(_, visit)| visit.until.is_some()).map(|(peer, _)| *peer).collect();
        left.iter().for_each(|peer| self.ends(peer));
    }

    fn report(self, took: Duration, is_complete: bool) -> CrawlReport {
        let current = self.network.fork_digest_at(self.epoch);
        let schedule = self.network.digests();
        let place = |digest: ForkDigest| match schedule.iter().find(|row| row.0 == digest) {
            Some(_) if digest == current => "ours",
            Some((_, begins, _)) if *begins > self.epoch => "next",
            Some(_) => "earlier",
            None => "other",
        };
        let mut forks: BTreeMap<ForkDigest, usize> = BTreeMap::new();
        let mut nodes: Vec<CrawledNode> = Vec::new();
        for (peer, node) in self.nodes {
            *forks.entry(node.fork_id.fork_digest).or_default() += 1;
            nodes.push(CrawledNode {
                peer: peer.to_base58(),
                addresses: node
                    .target
                    .as_ref()
                    .map_or_else(Vec::new, |found| found.addresses.iter().map(ToString::to_string).collect()),
                fork_digest: node.fork_id.fork_digest,
                next_fork_version: format!("0x{}", hex::encode(node.fork_id.next_fork_version)),
                next_fork_epoch: node.fork_id.next_fork_epoch,
                answered_by_udp: node.has_answered,
                reached: node.reached.unwrap_or(Reached::NotVisited),
                via: node.via,
                advertised: node.advertised,
                tried: node.tried,
                client: node.agent.as_deref().map(|agent| Client::of_agent(Some(agent)).label()),
                agent: node.agent,
                head_slot: node.status.map(|status| status.head_slot),
                attestation_subnets: node.metadata.map(|metadata| u64::from_le_bytes(metadata.attnets).count_ones()),
                custody_groups: node.metadata.map(|metadata| metadata.custody_group_count),
                goodbye: node.goodbye.map(goodbye::label),
            });
        }
        nodes.sort_by(|a, b| a.peer.cmp(&b.peer));
        let mut forks: Vec<ForkRow> =
            forks.into_iter().map(|(digest, nodes)| ForkRow { digest, fork: place(digest), nodes }).collect();
        forks.sort_by(|a, b| b.nodes.cmp(&a.nodes).then(a.digest.cmp(&b.digest)));
        CrawlReport::new(&self.network.spec.config_name, current, took, is_complete, self.no_beacon_nodes.len(), forks, nodes)
    }
}

/// How many nodes of each prefix are or were to be visited.
///
/// Anybody can invent records with addresses of others, but nobody can answer from there. So those
/// who have answered have places that no record alone can take.
struct PrefixPlaces {
    limit: usize,
    /// The nodes that have not answered, and those that have.
    taken: HashMap<Prefix, [usize; 2]>,
}

impl PrefixPlaces {
    fn has_room(&self, prefix: Prefix, has_answered: bool) -> bool {
        let [silent, answering] = self.taken.get(&prefix).copied().unwrap_or_default();
        match has_answered {
            true => answering < self.limit - self.limit / 2,
            false => silent < self.limit / 2,
        }
    }

    fn take(&mut self, prefix: Prefix, has_answered: bool) {
        self.taken.entry(prefix).or_default()[usize::from(has_answered)] += 1;
    }
}

/// The transport of an address.
fn transport(address: &Multiaddr) -> Option<Transport> {
    let mut parts = address.iter();
    let is_v6 = matches!(parts.next()?, AddressPart::Ip6(_));
    match (parts.next()?, is_v6) {
        (AddressPart::Tcp(_), false) => Some(Transport::Ip4Tcp),
        (AddressPart::Udp(_), false) => Some(Transport::Ip4Quic),
        (AddressPart::Tcp(_), true) => Some(Transport::Ip6Tcp),
        (AddressPart::Udp(_), true) => Some(Transport::Ip6Quic),
        _ => None,
    }
}

/// An agent string for terminals and files: what is not printable ASCII becomes `?`, and the rest
/// is cut.
fn clean(agent: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    agent.chars().take(MAX_AGENT_LEN).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_records_take_no_place_of_nodes_that_answer() {
        let (victim, other) = (Prefix::of([9, 9, 9, 1].into()), Prefix::of([9, 9, 8, 1].into()));
        let mut places = PrefixPlaces { limit: 32, taken: HashMap::new() };
        let fill = |places: &mut PrefixPlaces, has_answered: bool| {
            let mut n = 0;
            while places.has_room(victim, has_answered) {
                places.take(victim, has_answered);
                n += 1;
            }
            n
        };
        assert_eq!(fill(&mut places, false), 16);
        assert_eq!(fill(&mut places, true), 16, "32 in all");
        assert!(places.has_room(other, false) && places.has_room(other, true));
    }
}
