//! The nodes that discovery found, and the choice of whom to dial next.
//!
//! Whoever answers a query can invent as many records as it likes, all validly signed. So a record
//! is worth nothing by itself, and what counts is the address: the book keeps only a few records of
//! each address prefix and dials only a few of each. A node that has answered us by UDP from its
//! address is no invention, so it comes first and takes the place of one that has not. A node that
//! cannot be reached gives its place to a new one. The choice among equals is random, so that
//! nobody comes first by being found often.

use super::goodbyes::Goodbyes;
use crate::discovery::FoundNode;
use base::Backoff;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The part of an address that one owner usually has: /24 of IPv4, /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix(IpAddr);

impl Prefix {
    /// The first address of the prefix.
    pub(crate) fn address(self) -> IpAddr {
        self.0
    }

    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self([a, b, c, 0].into())
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self([a, b, c, 0, 0, 0, 0, 0].into())
            }
        }
    }
}

/// How long a node is left alone that had its turn.
const TURN_PAUSE: Duration = Duration::from_secs(3600);

/// How many nodes the book keeps, and how long it waits for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BookLimits {
    pub nodes: usize,
    /// Records of one prefix in the book.
    pub per_prefix: usize,
    /// Pauses before a node that could not be reached, or whose connection ended soon, is dialled
    /// again.
    pub pause: Backoff,
    /// The same after a goodbye with a lasting reason.
    pub goodbye: Backoff,
    /// A connection that lasted as long as this makes up for all earlier failures.
    pub lasting: Duration,
}

impl BookLimits {
    pub(crate) const DEFAULT: Self = Self {
        nodes: 8_192,
        per_prefix: 16,
        pause: Backoff::new(Duration::from_secs(60), Duration::from_secs(6 * 3600)),
        goodbye: Backoff::new(Duration::from_secs(5 * 60), Duration::from_secs(12 * 3600)),
        lasting: Duration::from_secs(5 * 60),
    };
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    New,
    /// A newer record of a node that the book has.
    Newer,
    /// The book has this record or a newer one.
    Known,
    /// The book has enough of this prefix.
    PrefixFull,
    /// The book has no place, and nobody in it has failed.
    Full,
}

impl Learned {
    pub(crate) const LABELS: [&str; 5] = ["new", "newer", "known", "prefix_full", "full"];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Newer => "newer",
            Self::Known => "known",
            Self::PrefixFull => "prefix_full",
            Self::Full => "full",
        }
    }
}

struct BookEntry {
    node: FoundNode,
    is_connected: bool,
    /// Attempts that failed and connections that ended soon, since the last one that lasted.
    failures: u32,
    next_dial: Instant,
    dialling: Option<ConnectionId>,
    /// Whether it was ever connected. Such nodes are saved first.
    was_connected: bool,
    goodbyes: Option<Goodbyes>,
}

/// Nodes that can be dialled.
pub(crate) struct PeerBook {
    limits: BookLimits,
    entries: HashMap<PeerId, BookEntry>,
    /// The peers of `entries` by prefix.
    by_prefix: BTreeMap<Prefix, Vec<PeerId>>,
    /// The attempts under way, with their addresses.
    dialling: HashMap<ConnectionId, (PeerId, IpAddr)>,
}

/// Which nodes are dialled first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DialOrder {
    /// Bit n: nodes on attestation subnet n go before others that are as reliable.
    pub wanted_subnets: u64,
    /// Nodes that were never connected go before all others.
    pub unseen_first: bool,
}

impl PeerBook {
    pub(crate) fn new(limits: BookLimits) -> Self {
        Self { limits, entries: HashMap::new(), by_prefix: BTreeMap::new(), dialling: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of nodes that have answered us by UDP.
    pub(crate) fn n_answered(&self) -> usize {
        self.entries.values().filter(|entry| entry.node.has_answered).count()
    }

    /// Takes a record on.
    pub(crate) fn learn(&mut self, node: FoundNode, now: Instant) -> Learned {
        let (peer, prefix) = (node.peer, Prefix::of(node.ip));
        let Some(entry) = self.entries.get_mut(&peer) else {
            if let Err(full) = self.make_room(&node) {
                return full;
            }
            let (failures, dialling, is_connected, was_connected, goodbyes) = (0, None, false, false, None);
            self.by_prefix.entry(prefix).or_default().push(peer);
            self.entries
                .insert(peer, BookEntry { node, is_connected, failures, next_dial: now, dialling, was_connected, goodbyes });
            return Learned::New;
        };
        // The same record may have two addresses. It is dialled at the one from which it has
        // answered.
        let answers_elsewhere = node.has_answered && !entry.node.has_answered && entry.node.ip != node.ip;
        if entry.node.sequence > node.sequence || (entry.node.sequence == node.sequence && !answers_elsewhere) {
            entry.node.has_answered |= node.has_answered && entry.node.ip == node.ip;
            return Learned::Known;
        }
        let before = Prefix::of(entry.node.ip);
        if before != prefix {
            if let Err(full) = self.make_room(&node) {
                return full;
            }
            self.leave_prefix(before, &peer);
            self.by_prefix.entry(prefix).or_default().push(peer);
        }
        // Failures and pauses stay: a node could otherwise have us dial whom it likes, as often as
        // it likes, by changing its record.
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.node =
                FoundNode { has_answered: node.has_answered || (entry.node.has_answered && entry.node.ip == node.ip), ..node };
        }
        Learned::Newer
    }

    /// Makes a place for a node, if there is none, by forgetting another one that is worth less:
    /// one that could not be reached, or if the node has answered us, one that has not.
    fn make_room(&mut self, node: &FoundNode) -> Result<(), Learned> {
        let of_prefix = self.by_prefix.get(&Prefix::of(node.ip)).map_or(&[][..], Vec::as_slice);
        let (worst, full) = if of_prefix.len() >= self.limits.per_prefix {
            (self.worst(of_prefix.iter(), node), Learned::PrefixFull)
        } else if self.entries.len() >= self.limits.nodes && !self.entries.contains_key(&node.peer) {
            (self.worst(self.entries.keys(), node), Learned::Full)
        } else {
            return Ok(());
        };
        let worst = worst.ok_or(full)?;
        self.forget(&worst);
        Ok(())
    }

    fn worst<'a>(&self, peers: impl Iterator<Item = &'a PeerId>, newcomer: &FoundNode) -> Option<PeerId> {
        let entries = peers.filter(|peer| **peer != newcomer.peer).filter_map(|peer| self.entries.get(peer));
        let idle = entries.filter(|entry| !entry.is_connected && entry.dialling.is_none());
        let worth_less = idle.filter(|entry| entry.failures > 0 || (newcomer.has_answered && !entry.node.has_answered));
        let worst = worth_less.max_by_key(|entry| (!entry.node.has_answered, entry.failures, entry.node.peer));
        worst.map(|entry| entry.node.peer)
    }

    fn forget(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.remove(peer) {
            self.leave_prefix(Prefix::of(entry.node.ip), peer);
        }
    }

    fn leave_prefix(&mut self, prefix: Prefix, peer: &PeerId) {
        if let Some(peers) = self.by_prefix.get_mut(&prefix) {
            peers.retain(|other| other != peer);
            if peers.is_empty() {
                self.by_prefix.remove(&prefix);
            }
        }
    }

    /// Chooses up to `n` nodes to dial, with their addresses: first those with the fewest failures,
    /// of these those that have answered us, of these those on a wanted subnet, and among equals at
    /// random. `room` says whether one more attempt to an address is within the limits.
    pub(crate) fn choose(
        &self,
        n: usize,
        now: Instant,
        order: DialOrder,
        is_free: impl Fn(&PeerId) -> bool,
        mut room: impl FnMut(IpAddr) -> bool,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let is_due = |entry: &&BookEntry| {
            !entry.is_connected && entry.dialling.is_none() && entry.next_dial <= now && is_free(&entry.node.peer)
        };
        let rank = |entry: &BookEntry| {
            let is_wanted = entry.node.attestation_subnets & order.wanted_subnets != 0;
            (
                order.unseen_first && entry.was_connected,
                entry.failures,
                !entry.node.has_answered,
                !is_wanted,
                rand::random::<u64>(),
            )
        };
        let mut due: Vec<_> = self.entries.values().filter(is_due).map(|entry| (rank(entry), &entry.node)).collect();
        due.sort_unstable_by_key(|(rank, _)| *rank);
        let chosen = due.into_iter().map(|(_, node)| node).filter(|node| room(node.ip));
        chosen.take(n).map(|node| (node.peer, node.addresses.clone())).collect()
    }

    /// Records that an attempt to reach a node has begun.
    pub(crate) fn dialling(&mut self, peer: &PeerId, connection: ConnectionId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.dialling = Some(connection);
            self.dialling.insert(connection, (*peer, entry.node.ip));
        }
    }

    /// Records that a peer is connected, whoever dialled.
    pub(crate) fn connected(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            (entry.is_connected, entry.was_connected) = (true, true);
            if let Some(connection) = entry.dialling.take() {
                self.dialling.remove(&connection);
            }
        }
    }

    /// Records that an attempt has failed.
    pub(crate) fn dial_failed(&mut self, connection: ConnectionId, now: Instant) {
        let pauses = self.limits.pause;
        let peer = self.dialling.remove(&connection);
        if let Some(entry) = peer.and_then(|(peer, _)| self.entries.get_mut(&peer)) {
            entry.dialling = None;
            entry.wait(pauses, now);
        }
    }

    /// Records the goodbye of a peer whose connection has lasted for `lasted`.
    pub(crate) fn said_goodbye(&mut self, peer: &PeerId, code: u64, lasted: Duration, now: Instant) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.goodbyes = Goodbyes::after(entry.goodbyes, code, lasted, self.limits.goodbye, now);
        }
    }

    /// Records that this node has ended the connection to a peer, to give others a turn. That says
    /// nothing about the peer.
    pub(crate) fn exchanged(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(peer) {
            (entry.is_connected, entry.next_dial) = (false, now + TURN_PAUSE);
        }
    }

    /// Records that the last connection to a peer has ended. It has lasted for `lasted`.
    pub(crate) fn disconnected(&mut self, peer: &PeerId, lasted: Duration, now: Instant) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.is_connected = false;
            if lasted >= self.limits.lasting {
                entry.failures = 0;
            }
            entry.wait(self.limits.pause, now);
            if let Some(goodbyes) = &entry.goodbyes {
                entry.next_dial = entry.next_dial.max(goodbyes.until());
            }
        }
    }

    /// The IP addresses of the attempts that are under way.
    pub(crate) fn dialled_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.dialling.values().map(|(_, ip)| *ip)
    }

    /// Number of nodes that are being dialled.
    pub(crate) fn n_dialling(&self) -> usize {
        self.dialling.len()
    }

    /// The records as lines, those first that were connected, then those that have answered us.
    pub(crate) fn to_text(&self) -> String {
        let mut entries: Vec<&BookEntry> = self.entries.values().collect();
        entries.sort_by_key(|entry| (!entry.was_connected, !entry.node.has_answered, entry.failures, entry.node.peer));
        entries.iter().map(|entry| format!("{}\n", entry.node.record)).collect()
    }
}

impl BookEntry {
    fn wait(&mut self, pauses: Backoff, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.next_dial = now + pauses.random_pause(self.failures, rand::random());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::ForkId;
    use consensus::{Epoch, ForkDigest};

    const HOUR: Duration = Duration::from_secs(3600);

    fn node(ip: [u8; 4]) -> FoundNode {
        let (peer, ip) = (PeerId::random(), IpAddr::from(ip));
        let addresses = vec![format!("/ip4/{ip}/tcp/9000").parse().unwrap()];
        let fork_id = ForkId { fork_digest: ForkDigest([0; 4]), next_fork_version: [0; 4], next_fork_epoch: Epoch::new(0) };
        let (record, has_answered) = (format!("enr:{peer}"), false);
        FoundNode { peer, addresses, ip, sequence: 1, fork_id, attestation_subnets: 0, has_answered, record }
    }

    fn book(nodes: usize, per_prefix: usize) -> PeerBook {
        PeerBook::new(BookLimits { nodes, per_prefix, ..BookLimits::DEFAULT })
    }

    fn due(book: &PeerBook, now: Instant) -> Vec<PeerId> {
        book.choose(1000, now, DialOrder::default(), |_| true, |_| true).into_iter().map(|(peer, _)| peer).collect()
    }

    fn fail(book: &mut PeerBook, peer: &PeerId, now: Instant) {
        let connection = ConnectionId::new_unchecked(7);
        book.dialling(peer, connection);
        assert_eq!(book.n_dialling(), 1);
        assert_eq!(book.dialled_ips().collect::<Vec<_>>(), [book.entries[peer].node.ip]);
        book.dial_failed(connection, now);
        assert_eq!(book.n_dialling(), 0);
    }

    #[test]
    fn five_hundred_records_of_one_prefix_take_sixteen_places() {
        let (mut book, now) = (book(1000, 16), Instant::now());
        for nth in 0..500u16 {
            book.learn(node([9, 9, 9, nth as u8]), now);
        }
        assert_eq!(book.len(), 16);
        assert_eq!(book.learn(node([9, 9, 8, 1]), now), Learned::New, "others have their places");
        assert_eq!(due(&book, now).len(), 17);
    }

    #[test]
    fn a_full_book_gives_up_only_who_could_not_be_reached() {
        let (mut book, now) = (book(4, 16), Instant::now());
        let nodes: Vec<FoundNode> = (0..4).map(|nth| node([9, nth, 9, 1])).collect();
        for one in &nodes {
            assert_eq!(book.learn(one.clone(), now), Learned::New);
        }
        assert_eq!(book.learn(node([8, 8, 8, 8]), now), Learned::Full);
        fail(&mut book, &nodes[2].peer, now);
        assert_eq!(book.learn(node([8, 8, 8, 8]), now), Learned::New);
        assert!(book.len() == 4 && !book.entries.contains_key(&nodes[2].peer));
        assert_eq!(book.by_prefix.values().map(Vec::len).sum::<usize>(), 4);
        for one in &nodes {
            book.connected(&one.peer);
            book.disconnected(&one.peer, HOUR, now);
            book.connected(&one.peer);
        }
        let last = due(&book, now);
        fail(&mut book, &last[0], now);
        assert_eq!(
            [(); 2].map(|()| book.learn(node([7, 7, 7, 7]), now)),
            [Learned::New, Learned::Full],
            "the connected ones stay"
        );
    }

    /// Thousands of invented records, each of a prefix of its own, fill the book. Nodes that have
    /// answered us still get in, and are dialled first.
    #[test]
    fn who_has_answered_displaces_inventions() {
        let (mut book, now) = (book(100, 16), Instant::now());
        for nth in 0..1000u16 {
            let [a, b] = nth.to_be_bytes();
            book.learn(node([9, a, b, 1]), now);
        }
        let honest: Vec<FoundNode> = (0..10).map(|nth| FoundNode { has_answered: true, ..node([8, nth, 8, 8]) }).collect();
        for one in &honest {
            assert_eq!(book.learn(one.clone(), now), Learned::New);
        }
        assert_eq!((book.len(), book.n_answered()), (100, 10));
        let first: Vec<PeerId> = due(&book, now).into_iter().take(10).collect();
        assert!(honest.iter().all(|one| first.contains(&one.peer)));
        assert_eq!(book.learn(node([7, 7, 7, 7]), now), Learned::Full, "an invention displaces nobody");
        // A record that is found again, after its node has answered, is worth more from then on.
        let invented = book.entries.values().find(|entry| !entry.node.has_answered).unwrap().node.clone();
        assert_eq!(book.learn(FoundNode { has_answered: true, ..invented }, now), Learned::Known);
        assert_eq!(book.n_answered(), 11);
    }

    #[test]
    fn wanted_subnets_come_first_among_equals() {
        let (mut book, now) = (book(100, 16), Instant::now());
        let nodes: Vec<FoundNode> =
            (0..64).map(|nth| FoundNode { attestation_subnets: 1 << nth, ..node([8, nth, 8, 8]) }).collect();
        for one in &nodes {
            book.learn(one.clone(), now);
        }
        let order = DialOrder { wanted_subnets: 1 << 63, unseen_first: false };
        let first = |book: &PeerBook| book.choose(1, now, order, |_| true, |_| true)[0].0;
        assert_eq!(first(&book), nodes[63].peer);
        fail(&mut book, &nodes[63].peer, now);
        assert_ne!(first(&book), nodes[63].peer);
    }

    #[test]
    fn nodes_that_were_never_connected_may_come_first() {
        let (mut book, now) = (book(100, 16), Instant::now());
        let [seen, unseen] = [1, 2].map(|nth| node([8, nth, 8, 8]));
        book.learn(seen.clone(), now);
        book.learn(unseen.clone(), now);
        book.connected(&seen.peer);
        book.disconnected(&seen.peer, HOUR, now);
        fail(&mut book, &unseen.peer, now);
        fail(&mut book, &unseen.peer, now);
        let first = |unseen_first| {
            let order = DialOrder { wanted_subnets: 0, unseen_first };
            book.choose(1, now + 24 * HOUR, order, |_| true, |_| true)[0].0
        };
        assert_eq!((first(false), first(true)), (seen.peer, unseen.peer));
    }

    /// A flood of invented records displaces only nodes that have failed.
    #[test]
    fn a_node_that_had_its_turn_has_not_failed() {
        let (mut book, now) = (book(1, 16), Instant::now());
        let good = FoundNode { has_answered: true, ..node([8, 1, 8, 8]) };
        book.learn(good.clone(), now);
        book.connected(&good.peer);
        book.exchanged(&good.peer, now);
        assert_eq!(book.learn(node([8, 2, 8, 8]), now), Learned::Full);
        assert_eq!(due(&book, now + TURN_PAUSE - Duration::from_secs(1)), []);
        assert_eq!(due(&book, now + TURN_PAUSE), [good.peer]);
    }

    #[test]
    fn a_newer_record_replaces_an_older_one() {
        let (mut book, now) = (book(10, 1), Instant::now());
        let first = node([9, 9, 9, 1]);
        assert_eq!(book.learn(first.clone(), now), Learned::New);
        assert_eq!(book.learn(first.clone(), now), Learned::Known);
        let taken = node([7, 7, 7, 7]);
        assert_eq!(book.learn(taken.clone(), now), Learned::New);
        let moved = FoundNode { sequence: 2, ip: IpAddr::from([7, 7, 7, 8]), ..first.clone() };
        assert_eq!(book.learn(moved, now), Learned::PrefixFull);
        assert_eq!(book.len(), 2, "it stays where it was");
        let moved = FoundNode { sequence: 2, ip: IpAddr::from([6, 7, 7, 8]), ..first.clone() };
        assert_eq!(book.learn(moved, now), Learned::Newer);
        assert_eq!((book.learn(first, now), book.len()), (Learned::Known, 2));
        assert_eq!(book.learn(node([9, 9, 9, 2]), now), Learned::New, "its old prefix has a place again");
        assert_eq!(book.by_prefix.values().map(Vec::len).sum::<usize>(), 3);
    }

    /// A node that changes its record all the time makes us dial nobody more often.
    #[test]
    fn a_changed_record_shortens_no_pause() {
        let (mut book, now) = (book(10, 10), Instant::now());
        let first = node([9, 9, 9, 1]);
        book.learn(first.clone(), now);
        fail(&mut book, &first.peer, now);
        for sequence in 2..1000u64 {
            let victim = IpAddr::from([8, 8, 8, sequence as u8]);
            assert_eq!(book.learn(FoundNode { sequence, ip: victim, ..first.clone() }, now), Learned::Newer);
            assert_eq!(due(&book, now + Duration::from_secs(29)), []);
        }
        assert_eq!((book.len(), book.by_prefix.len()), (1, 1));
        assert_eq!(due(&book, now + Duration::from_secs(60)), [first.peer]);
    }

    #[test]
    fn who_cannot_be_reached_is_dialled_ever_later() {
        let (mut book, start) = (book(10, 10), Instant::now());
        let one = node([9, 9, 9, 1]);
        book.learn(one.clone(), start);
        let mut now = start;
        let mut pauses = Vec::new();
        for nth in 0..14 {
            let from = now;
            while due(&book, now).is_empty() {
                now += Duration::from_secs(1);
            }
            pauses.push(now.duration_since(from).as_secs());
            let connection = ConnectionId::new_unchecked(nth);
            book.dialling(&one.peer, connection);
            assert_eq!(due(&book, now + HOUR * 100), [], "while it is dialled");
            book.dial_failed(connection, now);
        }
        assert!(pauses[1] >= 30 && pauses[1] <= 60, "{pauses:?}");
        assert!(pauses[13] >= 3 * 3600 && pauses[13] <= 6 * 3600 + 1, "{pauses:?}");
        book.connected(&one.peer);
        assert_eq!(due(&book, now + HOUR * 100), [], "while it is connected");
        book.said_goodbye(&one.peer, 129, HOUR, now);
        book.disconnected(&one.peer, HOUR, now);
        assert_eq!(due(&book, now + Duration::from_secs(299)), [], "it asked for that");
        assert_eq!(due(&book, now + Duration::from_secs(300)), [one.peer]);
    }

    #[test]
    fn connections_that_end_at_once_are_failures() {
        let (mut book, now) = (book(10, 10), Instant::now());
        let one = node([9, 9, 9, 1]);
        book.learn(one.clone(), now);
        for _ in 0..5 {
            book.connected(&one.peer);
            book.disconnected(&one.peer, Duration::from_secs(1), now);
        }
        assert_eq!(due(&book, now + Duration::from_secs(479)), []);
        assert_eq!(due(&book, now + Duration::from_secs(960)), [one.peer]);
    }

    #[test]
    fn what_was_connected_is_saved_first() {
        let (mut book, now) = (book(10, 10), Instant::now());
        let nodes: Vec<FoundNode> = (0..5).map(|nth| node([9, 9, 9, nth])).collect();
        for one in &nodes {
            book.learn(one.clone(), now);
        }
        book.connected(&nodes[3].peer);
        let text = book.to_text();
        assert_eq!((text.lines().next(), text.lines().count()), (Some(nodes[3].record.as_str()), 5));
    }
}
