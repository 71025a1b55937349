//! The connected peers, the configured peers, and the time of the next attempt to reach each
//! configured peer.

use super::address::PeerAddress;
use super::announced::AnnouncedSubnets;
use super::client::Client;
use super::events::PeerInfo;
use super::goodbyes::Goodbyes;
use super::peer_book::Prefix;
use super::rpc::{Quotas, StatusMessage, goodbye};
use crate::discovery::{ip_of, is_public};
use base::Backoff;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use verify::PeerBytes;

/// Greatest distance, in slots, of two peers' heads for which they are considered to be on the same
/// branch.
const ABREAST: u64 = 1;
/// How long a new peer may take to send its status.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// A connected peer. The connection limits bound the number of peers.
pub(super) struct Peer {
    pub bytes: PeerBytes,
    pub address: String,
    /// Whether this node dialled.
    pub is_outbound: bool,
    pub agent: Option<String>,
    pub status: Option<StatusMessage>,
    /// Whether it has ever named a fork digest of our schedule, and so is of our network.
    pub was_ours: bool,
    /// How many slots its head was behind the clock when it sent its status.
    pub behind: Option<u64>,
    pub metadata_seq: Option<u64>,
    pub announced: AnnouncedSubnets,
    pub messages: u64,
    pub quotas: Quotas,
    pub connected_at: Instant,
    pub next_ping: Instant,
    pub next_status: Instant,
    pub failed_pings: u32,
    /// Set after a goodbye. The connection is closed at this time, if it has not ended before.
    pub closing: Option<Instant>,
    /// It has said goodbye.
    pub has_said_goodbye: bool,
    /// It was sent away to give others a turn, and for nothing that it did.
    pub is_exchanged: bool,
}

/// The address prefix of a peer. None if the address is private, because all peers of such a
/// network may share it.
pub(super) fn public_prefix(peer: &Peer) -> Option<Prefix> {
    let address: Multiaddr = peer.address.parse().ok()?;
    ip_of(&address).filter(|ip| is_public(*ip)).map(Prefix::of)
}

/// Reasons counted one by one of a configured peer; further ones, which may be made up by it, are
/// counted together.
const MAX_REASONS: usize = 16;

/// A peer of the configuration.
struct Configured {
    target: PeerAddress,
    /// The peer id in the target, or that of the peer that answered there.
    peer: Option<PeerId>,
    dialling: Option<ConnectionId>,
    next_dial: Instant,
    failures: u32,
    problem: Option<String>,
    /// How often it failed for which reason, for the log.
    reasons: BTreeMap<String, u32>,
    /// Of its last connection.
    agent: Option<String>,
    goodbyes: Option<Goodbyes>,
}

/// Pauses between attempts to reach a configured peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    /// After the peer could not be reached, or its connection ended.
    pub reconnect: Backoff,
    /// After the peer sent a goodbye with a lasting reason.
    pub goodbye: Backoff,
}

/// All connected and configured peers.
pub(super) struct Peers {
    pub connected: HashMap<PeerId, Peer>,
    configured: Vec<Configured>,
    pauses: Pauses,
}

impl Peers {
    pub fn new(targets: &[PeerAddress], pauses: Pauses, now: Instant) -> Self {
        let configured = targets
            .iter()
            .map(|target| Configured {
                target: target.clone(),
                peer: target.peer,
                dialling: None,
                next_dial: now,
                failures: 0,
                problem: None,
                reasons: BTreeMap::new(),
                agent: None,
                goodbyes: None,
            })
            .collect();
        Self { connected: HashMap::new(), configured, pauses }
    }

    /// Records the first connection to a peer.
    pub fn connected(&mut self, peer: PeerId, connection: ConnectionId, address: String, is_outbound: bool, now: Instant) {
        self.answered(peer, connection);
        self.connected.insert(
            peer,
            Peer {
                bytes: Arc::from(peer.to_bytes()),
                address,
                is_outbound,
                agent: None,
                status: None,
                was_ours: false,
                behind: None,
                metadata_seq: None,
                announced: AnnouncedSubnets::default(),
                messages: 0,
                quotas: Quotas::new(now),
                connected_at: now,
                next_ping: now,
                next_status: now,
                failed_pings: 0,
                closing: None,
                has_said_goodbye: false,
                is_exchanged: false,
            },
        );
    }

    /// Records that an attempt has reached a peer. The peer may be connected already, because both
    /// sides dialled or because the configured address does not name the peer.
    pub fn answered(&mut self, peer: PeerId, connection: ConnectionId) {
        for one in self.configured.iter_mut().filter(|one| one.dialling == Some(connection)) {
            one.peer = Some(peer);
            one.dialling = None;
        }
    }

    /// Records that the last connection to a peer has ended.
    pub fn disconnected(&mut self, peer: &PeerId, reason: &str, now: Instant) {
        let Some(gone) = self.connected.remove(peer) else { return };
        let lasted = now.duration_since(gone.connected_at);
        let pauses = self.pauses;
        for one in self.configured.iter_mut().filter(|one| one.peer.as_ref() == Some(peer)) {
            if lasted >= pauses.reconnect.greatest {
                one.failures = 0;
            }
            if gone.closing.is_none() {
                one.goodbyes = one.goodbyes.and_then(|earlier| earlier.after_silence(lasted, pauses.goodbye, now));
            }
            one.failed(reason.to_owned(), pauses.reconnect, now);
        }
    }

    /// Records that an attempt has failed.
    pub fn dial_failed(&mut self, connection: ConnectionId, reason: String, now: Instant) {
        let pauses = self.pauses.reconnect;
        for one in self.configured.iter_mut().filter(|one| one.dialling == Some(connection)) {
            one.failed(reason.clone(), pauses, now);
        }
    }

    /// Records the goodbye of a connected peer. If its reason is a lasting one, the peer is not
    /// dialled for a while.
    pub fn said_goodbye(&mut self, peer: &PeerId, code: u64, now: Instant) {
        self.note_problem(peer, &format!("it said goodbye: {} ({code})", goodbye::text(code)));
        let Some(known) = self.connected.get(peer).filter(|known| known.closing.is_none()) else { return };
        let (lasted, pauses) = (now.duration_since(known.connected_at), self.pauses.goodbye);
        for one in self.configured.iter_mut().filter(|one| one.peer.as_ref() == Some(peer)) {
            one.goodbyes = Goodbyes::after(one.goodbyes, code, lasted, pauses, now);
        }
    }

    /// Records the agent string of a connected peer. Returns whether it has changed.
    pub fn is_called(&mut self, peer: &PeerId, agent: &str) -> bool {
        let Some(known) = self.connected.get_mut(peer) else { return false };
        if known.agent.as_deref() == Some(agent) {
            return false;
        }
        known.agent = Some(agent.to_owned());
        for one in self.configured.iter_mut().filter(|one| one.peer.as_ref() == Some(peer)) {
            one.agent = Some(agent.to_owned());
        }
        true
    }

    /// Records why a peer is about to be disconnected. This says more than the error of the closed
    /// connection.
    pub fn note_problem(&mut self, peer: &PeerId, problem: &str) {
        for one in self.configured.iter_mut().filter(|one| one.peer.as_ref() == Some(peer)) {
            one.problem = Some(problem.to_owned());
        }
    }

    /// Whether the peers' heads are so far apart that messages should not be forwarded.
    ///
    /// This is so if more than a third of the `listening` peers lack blocks that the others have,
    /// or have blocks that the others lack. Then half of the network has split off, or nodes are
    /// syncing. Forwarded messages would refer to blocks for which the peers would ask us, and we
    /// have none. A single peer among several decides nothing, whatever it claims:
    ///
    /// - Each head is compared with the median. Of two middle heads, the one nearer to the clock
    ///   counts.
    /// - A peer that claims no chain (another listener) is left out. So is a peer that is more than
    ///   `far` slots behind the clock, unless all peers are: it syncs by ranges and asks nobody for
    ///   single blocks.
    /// - A new peer counts as apart until it has sent its status, or has been silent for too long.
    pub fn are_at_odds(&self, listening: impl Fn(&PeerId) -> bool, far: u64, now: Instant) -> bool {
        let mut heads: Vec<u64> = Vec::new();
        let mut n_new = 0;
        for (id, peer) in self.connected.iter().filter(|(_, peer)| peer.closing.is_none()) {
            match (peer.behind, peer.status) {
                (Some(_), Some(status)) if status.head_root.is_zero() => {}
                (Some(behind), _) if listening(id) => heads.push(behind),
                (None, _) if now.duration_since(peer.connected_at) < INTRODUCTION => n_new += 1,
                (Some(_) | None, _) => {}
            }
        }
        if heads.iter().any(|behind| *behind <= far) {
            heads.retain(|behind| *behind <= far);
        }
        heads.sort_unstable();
        let median = heads.get(heads.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        let n_apart = n_new + heads.iter().filter(|behind| behind.abs_diff(median) > ABREAST).count();
        n_apart * 3 > heads.len() + n_new
    }

    /// The client of a connected peer.
    pub fn client_of(&self, peer: &PeerId) -> Client {
        Client::of_agent(self.connected.get(peer).and_then(|peer| peer.agent.as_deref()))
    }

    pub fn is_configured(&self, peer: &PeerId) -> bool {
        self.configured.iter().any(|one| one.peer.as_ref() == Some(peer))
    }

    /// Returns the configured peers whose next attempt is due, with their positions.
    pub fn due(&self, now: Instant) -> Vec<(usize, PeerAddress)> {
        let is_due = |one: &Configured| {
            let connected = one.peer.is_some_and(|peer| self.connected.contains_key(&peer));
            !connected && one.dialling.is_none() && one.next_dial <= now
        };
        self.configured.iter().enumerate().filter(|(_, one)| is_due(one)).map(|(nth, one)| (nth, one.target.clone())).collect()
    }

    /// Records that an attempt to reach a configured peer has begun.
    pub fn dialling(&mut self, nth: usize, connection: ConnectionId) {
        if let Some(one) = self.configured.get_mut(nth) {
            one.dialling = Some(connection);
        }
    }

    /// Returns the state of all peers: configured ones first, then the others in order of peer id.
    pub fn infos(&self, score: impl Fn(&PeerId) -> f64, topics: &HashMap<PeerId, usize>, now: Instant) -> Vec<PeerInfo> {
        let info = |peer: Option<&PeerId>, configured: Option<&Configured>| {
            let connection = peer.and_then(|peer| self.connected.get(peer));
            PeerInfo {
                peer: peer.map(|peer| peer.to_base58()).unwrap_or_default(),
                address: match (connection, configured) {
                    (Some(connection), _) => connection.address.clone(),
                    (None, Some(configured)) => configured.target.address.to_string(),
                    (None, None) => String::new(),
                },
                configured: configured.is_some(),
                connected: connection.is_some(),
                agent: connection.map_or_else(|| configured.and_then(|one| one.agent.clone()), |known| known.agent.clone()),
                head_slot: connection.and_then(|connection| connection.status).map(|status| status.head_slot.as_u64()),
                score: peer.map_or(0.0, &score),
                messages: connection.map_or(0, |connection| connection.messages),
                topics: peer.and_then(|peer| topics.get(peer)).copied().unwrap_or(0),
                failed_attempts: configured.map_or(0, |one| one.failures),
                last_problem: configured.and_then(|one| one.problem.clone()),
                goodbye: configured.and_then(|one| one.goodbyes).map(|goodbyes| goodbyes.shown()),
                next_attempt_seconds: configured
                    .filter(|one| connection.is_none() && one.dialling.is_none())
                    .map(|one| one.next_dial.saturating_duration_since(now).as_secs()),
            }
        };
        let mut infos: Vec<PeerInfo> = self.configured.iter().map(|one| info(one.peer.as_ref(), Some(one))).collect();
        let mut others: Vec<PeerInfo> =
            self.connected.keys().filter(|peer| !self.is_configured(peer)).map(|peer| info(Some(peer), None)).collect();
        others.sort_by(|a, b| a.peer.cmp(&b.peer));
        infos.append(&mut others);
        infos
    }
}

impl Configured {
    fn failed(&mut self, problem: String, pauses: Backoff, now: Instant) {
        self.dialling = None;
        self.failures = self.failures.saturating_add(1);
        self.next_dial = now + pauses.random_pause(self.failures, rand::random());
        if let Some(goodbyes) = &self.goodbyes {
            self.next_dial = self.next_dial.max(goodbyes.until());
        }
        if let Some(times) = self.is_told(&problem) {
            let peer = &self.target.address;
            tracing::warn!(%peer, reason = problem, times, "a configured peer is not connected; it is tried again");
        }
        self.problem = Some(problem);
    }

    /// Counts a reason. Its number, if the log is to be told of it: the first time, and whenever it
    /// has doubled.
    fn is_told(&mut self, problem: &str) -> Option<u32> {
        let is_new = !self.reasons.contains_key(problem) && self.reasons.len() >= MAX_REASONS;
        let times = self.reasons.entry(if is_new { String::new() } else { problem.to_owned() }).or_default();
        *times = times.saturating_add(1);
        times.is_power_of_two().then_some(*times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::Root;

    const PAUSES: Pauses = Pauses {
        reconnect: Backoff::new(Duration::from_secs(1), Duration::from_secs(8)),
        goodbye: Backoff::new(Duration::from_secs(300), Duration::from_secs(43_200)),
    };

    #[test]
    fn the_log_is_told_of_each_reason_at_first_and_by_doubling() {
        let target: PeerAddress = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let mut peers = Peers::new(&[target], PAUSES, Instant::now());
        let peer = &mut peers.configured[0];
        let told: Vec<u32> = (0..100).filter_map(|_| peer.is_told("nobody listens there")).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!((peer.is_told("no answer"), peer.is_told("nobody listens there")), (Some(1), None));
        let told = (0..10_000).filter_map(|nth| peer.is_told(&format!("made up {nth}"))).count();
        assert!(told < 40 && peer.reasons.len() <= MAX_REASONS + 1, "{told}");
    }

    #[test]
    fn a_configured_peer_is_dialled_again_for_ever() {
        let now = Instant::now();
        let peer = PeerId::random();
        let target: PeerAddress = format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}").parse().unwrap();
        let mut peers = Peers::new(std::slice::from_ref(&target), PAUSES, now);
        let mut later = now;
        for attempt in 0..50 {
            assert_eq!(peers.due(later), [(0, target.clone())], "attempt {attempt}");
            let connection = ConnectionId::new_unchecked(attempt);
            peers.dialling(0, connection);
            assert_eq!(peers.due(later), []);
            peers.dial_failed(connection, "refused".into(), later);
            assert_eq!(peers.due(later), []);
            later += Duration::from_secs(10);
        }
        let connection = ConnectionId::new_unchecked(99);
        peers.dialling(0, connection);
        peers.connected(peer, connection, "/ip4/127.0.0.1/tcp/1".into(), true, later);
        assert_eq!(peers.due(later + Duration::from_secs(100)), []);
        // The connection lasted, so the next pause is the first one again.
        later += Duration::from_secs(100);
        peers.disconnected(&peer, "gone", later);
        assert_eq!(peers.due(later), []);
        assert_eq!(peers.due(later + Duration::from_millis(1251)).len(), 1);
        let info = &peers.infos(|_| 0.0, &HashMap::new(), later)[0];
        assert_eq!((info.failed_attempts, info.last_problem.as_deref(), info.connected), (1, Some("gone"), false));
    }

    /// Earlier versions waited 1.4 s after each goodbye. This cost further points, and in the end
    /// the client banned the address.
    #[test]
    fn who_says_goodbye_for_good_is_left_alone_for_minutes_and_then_for_longer() {
        let start = Instant::now();
        let peer = PeerId::random();
        let target: PeerAddress = format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}").parse().unwrap();
        // Connects for `lasted` seconds and then receives a goodbye, or none if the connection is
        // closed without one. Returns how many seconds pass until the peer is dialled again.
        let mut now = start;
        let mut visit = |peers: &mut Peers, nth: usize, lasted: u64, code: Option<u64>| -> u64 {
            let connection = ConnectionId::new_unchecked(nth);
            peers.dialling(0, connection);
            peers.connected(peer, connection, String::new(), true, now);
            assert!(peers.is_called(&peer, "Grandine/2.0.0"));
            now += Duration::from_secs(lasted);
            if let Some(code) = code {
                peers.said_goodbye(&peer, code, now);
                peers.connected.get_mut(&peer).unwrap().closing = Some(now);
            }
            peers.disconnected(&peer, "closed", now);
            let waited = (0..).find(|waited| !peers.due(now + Duration::from_secs(*waited)).is_empty()).unwrap();
            let info = peers.infos(|_| 0.0, &HashMap::new(), now).remove(0);
            assert!(info.next_attempt_seconds.unwrap() <= waited && info.next_attempt_seconds.unwrap() + 1 >= waited);
            assert_eq!(info.agent.as_deref(), Some("Grandine/2.0.0"), "known after it has gone");
            now += Duration::from_secs(waited);
            waited
        };
        for code in [3, 128, 129, 250, 251] {
            let mut peers = Peers::new(std::slice::from_ref(&target), PAUSES, start);
            let mut waits: Vec<u64> = (0..10).map(|nth| visit(&mut peers, nth, 60, Some(code))).collect();
            assert_eq!(waits, [300, 600, 1200, 2400, 4800, 9600, 19_200, 38_400, 43_200, 43_200], "goodbye {code}");
            let info = peers.infos(|_| 0.0, &HashMap::new(), start).remove(0);
            assert_eq!(info.goodbye.map(|goodbye| (goodbye.code, goodbye.times)), Some((code, 10)));
            // A client that still bans us closes without a goodbye. A connection that lasts longer
            // than the pause resets everything.
            waits = [(2, None), (50_000, Some(code)), (60, Some(code)), (60, Some(1)), (60, Some(code)), (400, None)]
                .into_iter()
                .enumerate()
                .map(|(nth, (lasted, code))| visit(&mut peers, 10 + nth, lasted, code))
                .collect();
            assert_eq!((waits[0], waits[1], waits[2], waits[4]), (43_200, 300, 600, 300), "goodbye {code}");
            assert!(waits[3] <= 10 && waits[5] <= 10, "a restart and a cut line are no refusal: {waits:?}");
        }
        let mut peers = Peers::new(&[target], PAUSES, start);
        assert!(visit(&mut peers, 0, 60, Some(1)) <= 2, "a client that restarts is soon back");
    }

    /// The slots of an epoch.
    const FAR: u64 = 32;

    /// Peers whose reported heads are `behind` slots behind the clock. `None` is a peer that claims
    /// no chain.
    fn peers_at(behind: &[Option<u64>], now: Instant) -> (Peers, Vec<PeerId>) {
        let mut peers = Peers::new(&[], PAUSES, now);
        let ids: Vec<PeerId> = behind.iter().map(|_| PeerId::random()).collect();
        for (nth, (id, behind)) in ids.iter().zip(behind).enumerate() {
            peers.connected(*id, ConnectionId::new_unchecked(nth), String::new(), true, now);
            let peer = peers.connected.get_mut(id).unwrap();
            let head_root = behind.map_or(Root::ZERO, |_| Root::repeat_byte(1));
            peer.behind = Some(behind.unwrap_or(5_000));
            peer.status = Some(StatusMessage { head_root, ..status() });
        }
        (peers, ids)
    }

    fn status() -> StatusMessage {
        StatusMessage {
            fork_digest: consensus::ForkDigest([0; 4]),
            finalized: consensus::Checkpoint::default(),
            head_root: Root::ZERO,
            head_slot: consensus::Slot::new(0),
            earliest_available_slot: None,
        }
    }

    #[test]
    fn peers_are_at_odds_when_some_lack_what_the_others_have() {
        let now = Instant::now();
        let all = |_: &PeerId| true;
        let at_odds = |behind: &[Option<u64>]| peers_at(behind, now).0.are_at_odds(all, FAR, now);
        assert!(!at_odds(&[]));
        assert!(!at_odds(&[Some(3), Some(4)]), "a block under way is everyday life, and so is a slot that all miss");
        assert!(at_odds(&[Some(3), Some(5)]));
        assert!(at_odds(&[Some(0), Some(0), Some(3), Some(3)]), "half of a split");
        assert!(at_odds(&[Some(40), Some(40), Some(43), Some(43)]), "a split that has stood still for long");
        let (peers, ids) = peers_at(&[Some(3), Some(5)], now);
        assert!(!peers.are_at_odds(|id| *id == ids[0], FAR, now), "who does not listen gets nothing");
    }

    #[test]
    fn one_peer_alone_whatever_it_says_does_not_stop_forwarding() {
        let now = Instant::now();
        let at_odds = |behind: &[Option<u64>]| peers_at(behind, now).0.are_at_odds(|_| true, FAR, now);
        assert!(!at_odds(&[Some(0), Some(5_000)]), "its head is genesis");
        assert!(!at_odds(&[Some(0), None]), "another listener, of one node");
        assert!(!at_odds(&[Some(0), None, None]), "listeners are no majority");
        for odd in 0..40 {
            assert!(!at_odds(&[Some(1), Some(1), Some(0), Some(odd)]), "{odd} slots behind");
        }
        // A peer that reconnects every five seconds and never sends its status.
        let (mut peers, _) = peers_at(&[Some(0), Some(1), Some(1)], now);
        peers.connected(PeerId::random(), ConnectionId::new_unchecked(9), String::new(), true, now);
        assert!(!peers.are_at_odds(|_| true, FAR, now));
    }

    #[test]
    fn a_first_peer_gets_nothing_before_it_has_said_where_it_stands() {
        let now = Instant::now();
        let mut peers = Peers::new(&[], PAUSES, now);
        peers.connected(PeerId::random(), ConnectionId::new_unchecked(1), String::new(), true, now);
        assert!(peers.are_at_odds(|_| true, FAR, now));
        assert!(!peers.are_at_odds(|_| true, FAR, now + INTRODUCTION), "who never says counts as anybody");
    }

    #[test]
    fn an_address_without_a_peer_takes_who_answers() {
        let now = Instant::now();
        let target: PeerAddress = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let mut peers = Peers::new(&[target], PAUSES, now);
        let (peer, connection) = (PeerId::random(), ConnectionId::new_unchecked(1));
        assert!(!peers.is_configured(&peer));
        peers.dialling(0, connection);
        peers.connected(peer, connection, String::new(), true, now);
        assert!(peers.is_configured(&peer));
        assert_eq!(peers.due(now + Duration::from_secs(1000)), []);
        // The peer has dialled us before. The attempt is over all the same, and it is made again
        // when the peer has disconnected.
        let target: PeerAddress = "/ip4/127.0.0.1/tcp/2".parse().unwrap();
        let mut peers = Peers::new(&[target], PAUSES, now);
        peers.connected(peer, ConnectionId::new_unchecked(2), String::new(), true, now);
        peers.dialling(0, connection);
        peers.answered(peer, connection);
        assert!(peers.infos(|_| 0.0, &HashMap::new(), now)[0].connected);
        peers.disconnected(&peer, "gone", now);
        assert_eq!(peers.due(now + Duration::from_secs(1000)).len(), 1);
    }
}
