//! Many light peers around the watcher, and what a network of nodes would have them send.
//!
//! Of a network of [`NETWORK_NODES`] nodes the watcher is connected to some. Each message begins at
//! one of all nodes. If that node is connected, the watcher gets the message from it at once, as
//! from a publisher whose fanout it is in. Then it spreads: each peer in whose mesh the watcher is
//! gets it after one to [`MAX_HOPS`] hops and passes it on, if the watcher has not sent it to that
//! peer before. All other peers on the topic tell of it by IHAVE at their heartbeats, and hand it
//! over when they are asked.
//!
//! | topic | a peer is subscribed | tells the watcher by IHAVE |
//! |---|---|---|
//! | attestation subnet | to 2 of 64; one peer in 60 to all: 450 of 9 500 nodes are on each subnet | at each heartbeat: few of its peers are on that subnet |
//! | any other | always | at every fourth heartbeat: `GossipFactor` is 0.25 |

use crate::error::SimError;
use crate::light_peer::{GossipId, LightHost, LightIdentity, LightMessage, LightSend, ihave, message};
use crate::seeded_random::SeededRandom;
use base::Time;
use consensus::{MessageKind, Network, sha256};
use serde::{Deserialize, Serialize};
use sources::gossip::{IdRules, message_id, topics_at};
use sources::topic::Topic;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Reachable nodes of mainnet.
const NETWORK_NODES: u64 = 9_500;
/// Most nodes of a subnet are at most this far from a message's first node.
const MAX_HOPS: u64 = 3;
/// Median of the time of one hop, and the spread of its logarithm.
const HOP: Duration = Duration::from_millis(52);
const HOP_SIGMA: f64 = 0.5;
/// When those who tell of a message by IHAVE have it, after it was published.
const SPREAD_NS: u64 = 150_000_000;
/// Interval of gossipsub's heartbeat, and its parts: each peer beats in one of them.
const HEARTBEAT_NS: u64 = 700_000_000;
const BEAT_PARTS: u64 = 7;
const BEAT_PART_NS: u64 = HEARTBEAT_NS / BEAT_PARTS;
/// Heartbeats for which IHAVE tells of a message.
const TOLD_NS: u64 = 3 * HEARTBEAT_NS;
/// Heartbeats for which a message can be asked for.
const KEPT_NS: u64 = 6 * HEARTBEAT_NS;
/// How exactly messages are sent at their time.
const STEP: Duration = Duration::from_millis(5);
/// One peer in this number is on all attestation subnets.
const ALL_SUBNETS_EVERY: usize = 60;
/// Attestation subnets of the others.
const SUBNETS_PER_NODE: u64 = 2;
const N_SUBNETS: u64 = 64;
/// Things that may wait to be sent by one peer.
const SEND_QUEUE: usize = 4096;
/// Handshakes at a time.
const HANDSHAKES: usize = 48;
/// Pause before a connection that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Options of the light peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrowdOptions {
    /// Number of peers.
    pub connections: usize,
    /// Where the watcher listens.
    pub target: SocketAddr,
}

/// What the light peers have seen and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrowdReport {
    /// Connections when the first message was sent.
    pub connected_at_start: u64,
    /// Connections when the last one had been sent.
    pub connected_at_end: u64,
    /// Connections that ended in between.
    pub dropped: u64,
    /// Attempts to connect that failed. They are repeated.
    pub failed_attempts: u64,
    /// Messages that began in the network.
    pub messages: u64,
    /// Those that nobody who is connected is subscribed to, and that began elsewhere. The watcher
    /// cannot hear them.
    pub out_of_reach: u64,
    /// Messages sent by the node at which they began.
    pub sent_first_hand: u64,
    /// Copies sent by peers in the mesh.
    pub sent_by_mesh: u64,
    /// Copies that a peer in the mesh did not send, because it had the message from the watcher, or
    /// the watcher did not want it.
    pub spared: u64,
    /// Ids in IHAVE.
    pub told_ids: u64,
    /// Ids in IWANT.
    pub wanted_ids: u64,
    /// Messages sent because they were wanted.
    pub sent_when_wanted: u64,
    /// Messages that the watcher passed on to light peers.
    pub passed_on: u64,
    /// Copies that were not sent because a peer's queue was full: the watcher reads too slowly from
    /// that peer. A node drops such copies too. The watcher has lost nothing if another copy came.
    pub gave_up: u64,
    /// The greatest delay of a message, in milliseconds.
    pub greatest_delay_ms: u64,
}

/// A message that is to begin at a time.
pub(super) struct Beginning {
    pub(super) at_unix_ns: u64,
    pub(super) topic: Topic,
    pub(super) payload: Arc<[u8]>,
}

/// The light peers, connected.
pub(super) struct Crowd {
    shared: Arc<Shared>,
    peers: Vec<Peer>,
    connections: JoinSet<()>,
}

struct Peer {
    sends: mpsc::Sender<LightSend>,
    /// Positions in the table of topics.
    topics: Vec<usize>,
}

/// What is under way.
#[derive(Default)]
struct Spread {
    report: CrowdReport,
    /// When which message (by number) reaches which peer in the mesh.
    hops: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// The messages of `hops`, and how many peers they have yet to reach.
    messages: HashMap<u64, (Arc<LightMessage>, usize)>,
    /// For each topic, since when peers tell of which message.
    told: Vec<VecDeque<(u64, GossipId)>>,
    /// Messages that can be asked for, the oldest first.
    kept: VecDeque<(u64, GossipId)>,
}

/// What all peers know together.
struct Shared {
    topics: Vec<Topic>,
    names: Vec<String>,
    by_name: HashMap<String, usize>,
    /// For each topic, who has been grafted by the watcher.
    meshes: Vec<Mutex<BTreeSet<usize>>>,
    kept: Mutex<HashMap<GossipId, Arc<LightMessage>>>,
    hasher: RandomState,
    random: SeededRandom,
    connected: AtomicU64,
    dropped: AtomicU64,
    failed_attempts: AtomicU64,
    spared: AtomicU64,
    wanted_ids: AtomicU64,
    sent_when_wanted: AtomicU64,
    passed_on: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl LightHost for Shared {
    fn in_mesh(&self, peer: usize, topic: &str, is_in: bool) {
        let Some(topic) = self.by_name.get(topic) else { return };
        let mut mesh = locked(&self.meshes[*topic]);
        if is_in {
            mesh.insert(peer)
        } else {
            mesh.remove(&peer)
        };
    }

    fn wanted(&self, _: usize, ids: &[GossipId]) -> Vec<Arc<LightMessage>> {
        let kept = locked(&self.kept);
        let found: Vec<_> = ids.iter().filter_map(|id| kept.get(id).cloned()).collect();
        add(&self.wanted_ids, ids.len() as u64);
        add(&self.sent_when_wanted, found.len() as u64);
        found
    }

    fn received(&self, n_messages: usize) {
        add(&self.passed_on, n_messages as u64);
    }

    fn spared(&self) {
        add(&self.spared, 1);
    }

    fn hasher(&self) -> &RandomState {
        &self.hasher
    }
}

impl Crowd {
    /// Connects all peers. Those that are not connected when the patience is over are given up.
    pub(super) async fn gather(
        options: CrowdOptions,
        network: &Network,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<Self, SimError> {
        let epoch = network.slot_at(network.genesis_time * 1_000_000_000).epoch(network.preset());
        let topics: Vec<Topic> = topics_at(network, epoch, &[]).into_iter().collect();
        let names: Vec<String> = topics.iter().map(Topic::to_string).collect();
        let shared = Arc::new(Shared {
            by_name: names.iter().cloned().zip(0..).collect(),
            meshes: topics.iter().map(|_| Mutex::default()).collect(),
            kept: Mutex::default(),
            hasher: RandomState::new(),
            random: SeededRandom::new(options.connections as u64),
            connected: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
            spared: AtomicU64::new(0),
            wanted_ids: AtomicU64::new(0),
            sent_when_wanted: AtomicU64::new(0),
            passed_on: AtomicU64::new(0),
            topics,
            names,
        });
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let (begun, mut settled) = mpsc::channel::<()>(1);
        let (mut peers, mut connections) = (Vec::new(), JoinSet::new());
        let deadline = tokio::time::Instant::now() + patience;
        for number in 0..options.connections {
            let (own, attnets) = shared.subscriptions(number);
            let identity = LightIdentity {
                number,
                address: address(number),
                secret: sha256(format!("light peer {number}").as_bytes()),
                agent: format!("slashwatch-load/light/{number}"),
                topics: own.iter().map(|topic| shared.names[*topic].clone()).collect(),
                digest: network.fork_digest_at(epoch),
                attnets,
            };
            let (sends, out) = mpsc::channel(SEND_QUEUE);
            peers.push(Peer { sends, topics: own });
            let (shared, handshakes, begun, stop) = (shared.clone(), handshakes.clone(), begun.clone(), stop.clone());
            connections.spawn(async move {
                let attempts = async {
                    loop {
                        let Ok(_turn) = handshakes.acquire().await else { return None };
                        match identity.clone().connect(options.target).await {
                            Ok(connection) => return Some(connection),
                            Err(error) => {
                                tracing::debug!(%error, number, "a light peer is not connected yet");
                                add(&shared.failed_attempts, 1);
                                tokio::time::sleep(RETRY).await;
                            }
                        }
                    }
                };
                let Ok(Some(connection)) = tokio::time::timeout_at(deadline, attempts).await else { return };
                add(&shared.connected, 1);
                drop(begun);
                if let Err(error) = connection.run(shared.clone(), out, stop).await {
                    tracing::debug!(%error, number, "a light peer's connection has ended");
                    add(&shared.dropped, 1);
                }
                shared.connected.fetch_sub(1, Ordering::Relaxed);
            });
        }
        drop(begun);
        // It ends when all have dropped their ends.
        let _ = settled.recv().await;
        Ok(Self { shared, peers, connections })
    }

    /// Sends messages at their times, until there are no more and the last ones have spread.
    pub(super) async fn play(mut self, mut due: mpsc::Receiver<Beginning>) -> CrowdReport {
        let mut spread = Spread { told: vec![VecDeque::new(); self.shared.topics.len()], ..Spread::default() };
        spread.report.connected_at_start = self.shared.connected.load(Ordering::Relaxed);
        let mut step = tokio::time::interval(STEP);
        let (mut next, mut is_over, mut last_at, mut beat) = (None, false, 0, Time::now().0 / BEAT_PART_NS);
        loop {
            step.tick().await;
            let now = Time::now().0;
            while !is_over {
                let beginning: Beginning = match next.take() {
                    Some(beginning) => beginning,
                    None => match due.try_recv() {
                        Ok(beginning) => beginning,
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => {
                            is_over = true;
                            // The watcher ends soon, and all connections with it.
                            spread.report.connected_at_end = self.shared.connected.load(Ordering::Relaxed);
                            spread.report.dropped = self.shared.dropped.load(Ordering::Relaxed);
                            break;
                        }
                    },
                };
                if beginning.at_unix_ns > now {
                    next = Some(beginning);
                    break;
                }
                let delay_ms = (now - beginning.at_unix_ns) / 1_000_000;
                spread.report.greatest_delay_ms = spread.report.greatest_delay_ms.max(delay_ms);
                last_at = now;
                self.begin(&beginning, now, &mut spread);
            }
            while spread.hops.peek().is_some_and(|Reverse((at, _, _))| *at <= now) {
                let Some(Reverse((_, nth, peer))) = spread.hops.pop() else { break };
                if let Some((message, n_left)) = spread.messages.get_mut(&nth) {
                    spread.report.gave_up += u64::from(!self.peers[peer].send(LightSend::Message(message.clone())));
                    *n_left -= 1;
                    if *n_left == 0 {
                        spread.messages.remove(&nth);
                    }
                }
            }
            while beat < now / BEAT_PART_NS {
                beat += 1;
                self.tell(beat, now, &mut spread);
                while spread.kept.front().is_some_and(|(at, _)| at + KEPT_NS < now) {
                    let Some((_, id)) = spread.kept.pop_front() else { break };
                    locked(&self.shared.kept).remove(&id);
                }
            }
            if is_over && spread.hops.is_empty() && now > last_at + KEPT_NS {
                break;
            }
        }
        let mut report = spread.report;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        report.failed_attempts = load(&self.shared.failed_attempts);
        report.spared = load(&self.shared.spared);
        report.sent_by_mesh -= report.spared.min(report.sent_by_mesh);
        report.wanted_ids = load(&self.shared.wanted_ids);
        report.sent_when_wanted = load(&self.shared.sent_when_wanted);
        report.passed_on = load(&self.shared.passed_on);
        self.connections.abort_all();
        report
    }

    /// A message begins at one of the network's nodes.
    fn begin(&self, beginning: &Beginning, now: u64, spread: &mut Spread) {
        let report = &mut spread.report;
        let (topic, payload) = (beginning.topic, &beginning.payload);
        let nth = report.messages;
        report.messages += 1;
        let Some(place) = self.shared.topics.iter().position(|known| *known == topic) else {
            report.out_of_reach += 1;
            return;
        };
        let name = &self.shared.names[place];
        let id = message_id(IdRules::Altair, name, payload);
        let payload_key = self.shared.hasher.hash_one(&payload[..]);
        let sent = Arc::new(LightMessage { id, payload_key, part: message(name, payload) });
        let random = &self.shared.random;
        let first = random.below(NETWORK_NODES, "where a message begins", &[nth]) as usize;
        if let Some(peer) = self.peers.get(first) {
            report.sent_first_hand += 1;
            report.gave_up += u64::from(!peer.send(LightSend::Message(sent.clone())));
        }
        let mesh = locked(&self.shared.meshes[place]).clone();
        if first >= self.peers.len() && !self.peers.iter().any(|peer| peer.topics.contains(&place)) {
            report.out_of_reach += 1;
        }
        let targets: Vec<usize> = mesh.into_iter().filter(|peer| *peer != first).collect();
        for peer in &targets {
            let hops = 1 + random.below(MAX_HOPS, "hops", &[nth, *peer as u64]);
            let delay: u64 =
                (0..hops).map(|hop| random.log_normal(HOP, HOP_SIGMA, "hop", &[nth, *peer as u64, hop]).as_nanos() as u64).sum();
            spread.hops.push(Reverse((now + delay, nth, *peer)));
        }
        report.sent_by_mesh += targets.len() as u64;
        if !targets.is_empty() {
            spread.messages.insert(nth, (sent.clone(), targets.len()));
        }
        spread.told[place].push_back((now + SPREAD_NS, id));
        spread.kept.push_back((now, id));
        locked(&self.shared.kept).insert(id, sent);
    }

    /// The heartbeats of one part of the peers.
    fn tell(&self, beat: u64, now: u64, spread: &mut Spread) {
        let Spread { told, report, .. } = spread;
        // Encoded once for all peers: the number of ids, and the part of the RPC.
        let mut parts: Vec<(u64, Vec<u8>)> = Vec::with_capacity(told.len());
        for (place, ids) in told.iter_mut().enumerate() {
            while ids.front().is_some_and(|(at, _)| at + TOLD_NS < now) {
                ids.pop_front();
            }
            let ids: Vec<GossipId> = ids.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
            let part = if ids.is_empty() { Vec::new() } else { ihave(&self.shared.names[place], &ids) };
            parts.push((ids.len() as u64, part));
        }
        let meshes: Vec<BTreeSet<usize>> = self.shared.meshes.iter().map(|mesh| locked(mesh).clone()).collect();
        for (number, peer) in self.peers.iter().enumerate().filter(|(number, _)| *number as u64 % BEAT_PARTS == beat % BEAT_PARTS)
        {
            let mut rpc = Vec::new();
            for place in &peer.topics {
                let (n, part) = &parts[*place];
                let is_subnet = matches!(self.shared.topics[*place].kind, MessageKind::Attestation { .. });
                let about = [beat, number as u64, *place as u64];
                if *n == 0 || meshes[*place].contains(&number) || !(is_subnet || self.shared.random.percent(25, "IHAVE", &about))
                {
                    continue;
                }
                report.told_ids += n;
                rpc.extend_from_slice(part);
            }
            if !rpc.is_empty() {
                report.gave_up += u64::from(!peer.send(LightSend::Parts(Arc::from(rpc))));
            }
        }
    }
}

impl Peer {
    /// Returns false if its queue is full. A peer whose connection has ended sends nothing, which
    /// is counted elsewhere.
    fn send(&self, send: LightSend) -> bool {
        !matches!(self.sends.try_send(send), Err(mpsc::error::TrySendError::Full(_)))
    }
}

impl Shared {
    /// The topics of a peer, and its attestation subnets as bits.
    fn subscriptions(&self, number: usize) -> (Vec<usize>, u64) {
        let attnets = if number.is_multiple_of(ALL_SUBNETS_EVERY) {
            u64::MAX
        } else {
            (0..SUBNETS_PER_NODE).fold(0, |bits, nth| bits | 1 << self.random.below(N_SUBNETS, "subnets", &[number as u64, nth]))
        };
        let is_on = |topic: &Topic| match topic.kind {
            MessageKind::Attestation { subnet } => attnets >> subnet & 1 == 1,
            _ => true,
        };
        let topics = self.topics.iter().enumerate().filter(|(_, topic)| is_on(topic)).map(|(place, _)| place).collect();
        (topics, attnets)
    }
}

/// Each peer has a prefix of its own, so that limits of addresses are not in its way.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1 + (number / 250 % 250) as u8, 1 + (number % 250) as u8, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_a_prefix_of_its_own() {
        let prefixes: BTreeSet<[u8; 3]> = (0..10_000).map(|number| address(number).octets()[..3].try_into().unwrap()).collect();
        assert_eq!(prefixes.len(), 10_000);
    }
}
