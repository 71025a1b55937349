//! Which connections are taken at all: how many there are, how many one IP address and one prefix
//! of addresses may have, and whose are refused because the peer is banned.
//!
//! A peer id costs nothing and an address costs something, so the places of a node are shared by
//! address. Without this, one machine with a hundred ids takes all of them, and hears, and
//! withholds, what it likes. A connection counts from its first packet on, so that one machine
//! cannot take all places of handshakes either, by beginning them and falling silent. QUIC's first
//! packets prove no address, so they have places of their own, and count for nobody until the
//! handshake is done.
//!
//! Nor may an address come again and again: each new id may send forged messages until the first of
//! them is checked, and gossipsub remembers it for minutes.
//!
//! What is counted here goes when the connection ends. libp2p's own `connection_limits` keeps
//! something of each peer id that was ever connected, and an id costs nothing.

use super::peer_book::Prefix;
use crate::discovery::ip_of;
use base::BoundedMap;
use libp2p::core::Endpoint;
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::hash::Hash;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Bans that are remembered. The oldest is forgotten first.
const MAX_BANS: usize = 4096;

/// Addresses and prefixes whose last connections are remembered. The oldest is forgotten first.
const MAX_PACES: usize = 16_384;

/// Connections that one address and one prefix may have at a time, and how often they may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimit {
    pub per_ip: usize,
    /// /24 of IPv4, /48 of IPv6.
    pub per_prefix: usize,
    /// Inbound connections of an address that may come at once. A prefix may have twice as many.
    pub burst: u32,
    /// The time after which one more may come. For a prefix it is half as long.
    pub pace: Duration,
}

impl AddressLimit {
    /// For a network of private addresses.
    pub const NONE: Self = Self { per_ip: usize::MAX, per_prefix: usize::MAX, burst: u32::MAX, pace: Duration::ZERO };
    /// For a public network: a few nodes behind one router, and a twenty-fifth of 200 places for
    /// one prefix. Clients that are refused try again after minutes.
    pub const PUBLIC: Self = Self { per_ip: 4, per_prefix: 8, burst: 16, pace: Duration::from_secs(10) };
}

/// Connections that there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Handshakes, in each direction, and as many over QUIC again.
    pub handshakes: usize,
    pub inbound: usize,
    /// In both directions.
    pub all: usize,
    pub per_peer: usize,
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RefusedConnection {
    #[error("all places are taken")]
    Places,
    #[error("{0} or its prefix has as many connections as one may have")]
    Address(IpAddr),
    #[error("{0} or its prefix has come too often")]
    Pace(IpAddr),
    #[error("the peer is banned for a while")]
    Banned,
}

/// Handshakes that share their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakeKind {
    Dialled,
    Inbound,
    /// The sender of the first packet is not proven.
    InboundQuic,
}

/// When each of the last inbound connections came, as the time at which all of the burst may come
/// again (GCRA).
#[derive(Debug)]
struct Paces<K>(BoundedMap<K, Instant>);

impl<K: Hash + Eq + Copy + Ord> Paces<K> {
    fn new() -> Self {
        Self(BoundedMap::new(MAX_PACES))
    }

    fn may_come(&self, key: &K, burst: u32, pace: Duration, now: Instant) -> bool {
        let until_rested = self.0.get(key).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        until_rested <= pace.saturating_mul(burst.saturating_sub(1))
    }

    fn came(&mut self, key: K, pace: Duration, now: Instant) {
        let rested_at = self.0.get(&key).map_or(now, |at| now.max(*at));
        self.0.insert(key, rested_at + pace);
    }
}

/// Refuses connections. Configured peers and their addresses are free of the limits.
pub(super) struct Admission {
    places: Places,
    limit: AddressLimit,
    free_peers: HashSet<PeerId>,
    free_addresses: HashSet<IpAddr>,
    /// Connections whose handshake is not done. Those that we dial to a free peer are not counted.
    handshakes: HashMap<ConnectionId, HandshakeKind>,
    established: HashMap<ConnectionId, (PeerId, Endpoint)>,
    /// The addresses of established connections, and of inbound ones whose handshake is not done.
    addresses: HashMap<ConnectionId, IpAddr>,
    by_ip: HashMap<IpAddr, usize>,
    by_prefix: HashMap<Prefix, usize>,
    pace_of_ip: Paces<IpAddr>,
    pace_of_prefix: Paces<Prefix>,
    /// Until when a peer is refused.
    bans: BoundedMap<PeerId, Instant>,
}

impl Admission {
    pub(super) fn new(places: Places, limit: AddressLimit, free: impl Iterator<Item = (Option<PeerId>, Option<IpAddr>)>) -> Self {
        let (mut free_peers, mut free_addresses) = (HashSet::new(), HashSet::new());
        for (peer, address) in free {
            free_peers.extend(peer);
            free_addresses.extend(address);
        }
        let (handshakes, established, addresses) = Default::default();
        let (by_ip, by_prefix) = Default::default();
        Self {
            places,
            limit,
            free_peers,
            free_addresses,
            handshakes,
            established,
            addresses,
            by_ip,
            by_prefix,
            pace_of_ip: Paces::new(),
            pace_of_prefix: Paces::new(),
            bans: BoundedMap::new(MAX_BANS),
        }
    }

    /// Refuses a peer until a time.
    pub(super) fn ban(&mut self, peer: PeerId, until: Instant) {
        self.bans.insert(peer, until);
    }

    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        self.bans.get(peer).is_some_and(|until| *until > Instant::now())
    }

    /// Whether one more connection with this address is within the limit.
    pub(super) fn has_room(&self, ip: IpAddr) -> bool {
        let of = |n: Option<&usize>| n.copied().unwrap_or(0);
        self.free_addresses.contains(&ip)
            || (of(self.by_ip.get(&ip)) < self.limit.per_ip && of(self.by_prefix.get(&Prefix::of(ip))) < self.limit.per_prefix)
    }

    /// Takes a handshake, or refuses it.
    fn begin(&mut self, connection: ConnectionId, kind: HandshakeKind) -> Result<(), ConnectionDenied> {
        if self.handshakes.values().filter(|other| **other == kind).count() >= self.places.handshakes {
            return Err(ConnectionDenied::new(RefusedConnection::Places));
        }
        self.handshakes.insert(connection, kind);
        Ok(())
    }

    /// Takes one more inbound connection of a proven address, or refuses it because others came
    /// just before.
    fn keep_pace(&mut self, address: &Multiaddr, now: Instant) -> Result<(), ConnectionDenied> {
        let AddressLimit { burst, pace, .. } = self.limit;
        let Some(ip) = ip_of(address).filter(|ip| !pace.is_zero() && !self.free_addresses.contains(ip)) else { return Ok(()) };
        let prefix = Prefix::of(ip);
        let may_come = self.pace_of_ip.may_come(&ip, burst, pace, now)
            && self.pace_of_prefix.may_come(&prefix, burst.saturating_mul(2), pace / 2, now);
        if !may_come {
            return Err(ConnectionDenied::new(RefusedConnection::Pace(ip)));
        }
        self.pace_of_ip.came(ip, pace, now);
        self.pace_of_prefix.came(prefix, pace / 2, now);
        Ok(())
    }

    /// Ends a handshake: refuses the connection if there is no place for it.
    fn establish(&mut self, connection: ConnectionId, peer: &PeerId, side: Endpoint) -> Result<(), ConnectionDenied> {
        self.handshakes.remove(&connection);
        let inbound = || self.established.values().filter(|(_, side)| *side == Endpoint::Listener).count();
        let of_peer = || self.established.values().filter(|(other, _)| other == peer).count();
        let is_full = self.established.len() >= self.places.all
            || side == Endpoint::Listener && inbound() >= self.places.inbound
            || of_peer() >= self.places.per_peer;
        if is_full && !self.free_peers.contains(peer) {
            return Err(ConnectionDenied::new(RefusedConnection::Places));
        }
        Ok(())
    }

    /// Takes a connection, or refuses it. The address of an inbound one is counted before its peer
    /// is known.
    fn admit(&mut self, connection: ConnectionId, peer: Option<&PeerId>, address: &Multiaddr) -> Result<(), ConnectionDenied> {
        let is_free = peer.is_some_and(|peer| self.free_peers.contains(peer));
        if !is_free && peer.is_some_and(|peer| self.is_banned(peer)) {
            return Err(ConnectionDenied::new(RefusedConnection::Banned));
        }
        let Some(ip) = ip_of(address) else { return Ok(()) };
        if self.addresses.contains_key(&connection) {
            return Ok(());
        }
        if !is_free && !self.has_room(ip) {
            return Err(ConnectionDenied::new(RefusedConnection::Address(ip)));
        }
        self.addresses.insert(connection, ip);
        *self.by_ip.entry(ip).or_default() += 1;
        *self.by_prefix.entry(Prefix::of(ip)).or_default() += 1;
        Ok(())
    }

    fn ended(&mut self, connection: ConnectionId) {
        self.handshakes.remove(&connection);
        self.established.remove(&connection);
        let Some(ip) = self.addresses.remove(&connection) else { return };
        decrease(&mut self.by_ip, ip);
        decrease(&mut self.by_prefix, Prefix::of(ip));
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic))
}

fn decrease<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    /// Before the handshake, so that a refused connection costs next to nothing.
    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if !is_quic(remote) {
            self.begin(connection, HandshakeKind::Inbound)?;
            self.keep_pace(remote, Instant::now())?;
            return self.admit(connection, None, remote);
        }
        self.begin(connection, HandshakeKind::InboundQuic)?;
        match ip_of(remote).filter(|ip| !self.has_room(*ip)) {
            Some(ip) => Err(ConnectionDenied::new(RefusedConnection::Address(ip))),
            None => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(connection, &peer, Endpoint::Listener)?;
        if is_quic(remote) && !self.free_peers.contains(&peer) {
            self.keep_pace(remote, Instant::now())?;
        }
        self.admit(connection, Some(&peer), remote)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if !peer.is_some_and(|peer| self.free_peers.contains(&peer)) {
            self.begin(connection, HandshakeKind::Dialled)?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(connection, &peer, Endpoint::Dialer)?;
        self.admit(connection, Some(&peer), address)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.established.insert(connection_id, (peer_id, endpoint.to_endpoint()));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.ended(connection_id),
            FromSwarm::DialFailure(failure) => self.ended(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn connection(nth: usize) -> ConnectionId {
        ConnectionId::new_unchecked(nth)
    }

    const PLENTY: Places = Places { handshakes: usize::MAX, inbound: usize::MAX, all: usize::MAX, per_peer: usize::MAX };

    /// Begins and ends a handshake, as the swarm does.
    fn connect(admission: &mut Admission, nth: usize, peer: PeerId, side: Endpoint) -> bool {
        let kind = if side.is_dialer() { HandshakeKind::Dialled } else { HandshakeKind::Inbound };
        let taken = admission.begin(connection(nth), kind).and_then(|()| admission.establish(connection(nth), &peer, side));
        if taken.is_ok() {
            admission.established.insert(connection(nth), (peer, side));
        }
        taken.is_ok()
    }

    #[test]
    fn places_are_limited_and_a_thousand_ids_leave_nothing() {
        let (both, free) = ([Endpoint::Listener, Endpoint::Dialer], PeerId::random());
        let places = Places { handshakes: 2, inbound: 3, all: 5, per_peer: 2 };
        let mut admission = Admission::new(places, AddressLimit::NONE, std::iter::once((Some(free), None)));
        for (first, kind) in [(0, HandshakeKind::Dialled), (3, HandshakeKind::Inbound), (6, HandshakeKind::InboundQuic)] {
            let begun = [0, 1, 2].map(|nth| admission.begin(connection(first + nth), kind).is_ok());
            assert_eq!(begun, [true, true, false], "handshakes of this kind");
        }
        (0..9).for_each(|nth| admission.ended(connection(nth)));
        let peer = PeerId::random();
        assert_eq!([0, 1, 2].map(|nth| connect(&mut admission, nth, peer, Endpoint::Dialer)), [true, true, false], "of one peer");
        let inbound = [3, 4, 5, 6].map(|nth| connect(&mut admission, nth, PeerId::random(), Endpoint::Listener));
        assert_eq!(inbound, [true, true, true, false]);
        assert!(!connect(&mut admission, 7, PeerId::random(), Endpoint::Dialer), "all places are taken");
        assert!(
            both.into_iter().zip(8..).all(|(side, nth)| connect(&mut admission, nth, free, side)),
            "but those of configured peers"
        );
        (0..10).for_each(|nth| admission.ended(connection(nth)));
        for nth in 10..1010 {
            assert!(connect(&mut admission, nth, PeerId::random(), both[nth % 2]));
            admission.ended(connection(nth));
        }
        assert!(admission.handshakes.is_empty() && admission.established.is_empty());
    }

    #[test]
    fn a_hundred_ids_of_one_prefix_take_no_more_than_its_places() {
        let mut admission =
            Admission::new(PLENTY, AddressLimit { per_ip: 2, per_prefix: 5, ..AddressLimit::NONE }, std::iter::empty());
        let mut n_taken = 0;
        for nth in 0..100 {
            let from = address(&format!("/ip4/9.9.9.{}/tcp/{}", nth / 10, 1000 + nth));
            // The handshake begins, and for every second one it ends well.
            if admission.admit(connection(nth), None, &from).is_ok() {
                n_taken += 1;
                assert!(nth % 2 == 0 || admission.admit(connection(nth), Some(&PeerId::random()), &from).is_ok());
            }
        }
        assert_eq!(n_taken, 5);
        assert_eq!(admission.by_ip.values().copied().max(), Some(2));
        assert!(admission.admit(connection(200), None, &address("/ip4/9.9.8.1/tcp/1")).is_ok());
        assert!(admission.admit(connection(201), None, &address("/ip6/::ffff:9.9.9.200/tcp/1")).is_err(), "the same prefix");
        assert!(admission.admit(connection(202), None, &address("/ip4/9.9.9.7/udp/1/quic-v1")).is_err());
        for nth in 0..=202 {
            admission.ended(connection(nth));
        }
        assert!(admission.by_ip.is_empty() && admission.by_prefix.is_empty() && admission.addresses.is_empty());
        assert!(admission.has_room([9, 9, 9, 1].into()));
    }

    #[test]
    fn who_comes_again_and_again_waits() {
        let limit = AddressLimit { burst: 3, pace: Duration::from_secs(10), ..AddressLimit::NONE };
        let free = std::iter::once((None, Some(IpAddr::from([9, 9, 9, 99]))));
        let mut admission = Admission::new(PLENTY, limit, free);
        let start = Instant::now();
        let mut comes = |last: u8, seconds: u64| {
            let from = address(&format!("/ip4/9.9.9.{last}/tcp/1"));
            admission.keep_pace(&from, start + Duration::from_secs(seconds)).is_ok()
        };
        assert_eq!([1, 1, 1, 1].map(|last| comes(last, 0)), [true, true, true, false], "as many as may come at once");
        assert_eq!([9, 10, 19, 20].map(|seconds| comes(1, seconds)), [false, true, false, true], "then one in ten seconds");
        // The prefix has room for six at once, and one of them was just taken.
        assert_eq!([2, 2, 2, 3, 3, 3].map(|last| comes(last, 20)), [true, true, true, true, true, false]);
        assert!((0..50).all(|_| comes(99, 20)), "the operator's own");
        assert!([1, 1, 1].map(|last| comes(last, 3600)) == [true; 3], "an hour later all is as it was");
    }

    /// Anybody can send first packets of QUIC in another's name.
    #[test]
    fn packets_that_prove_no_address_take_no_place_of_others() {
        let places = Places { handshakes: 2, ..PLENTY };
        let limit = AddressLimit { per_ip: 1, per_prefix: 5, burst: 1, pace: Duration::from_secs(10) };
        let mut admission = Admission::new(places, limit, std::iter::empty());
        let [quic, tcp] = ["/ip4/9.9.9.1/udp/1/quic-v1", "/ip4/9.9.9.1/tcp/1"].map(address);
        let begun = [0, 1, 2].map(|nth| admission.handle_pending_inbound_connection(connection(nth), &tcp, &quic).is_ok());
        assert_eq!(begun, [true, true, false]);
        assert!(admission.handle_pending_inbound_connection(connection(3), &tcp, &tcp).is_ok());
        // Of those that prove their address by ending the handshake, it may have one, and no more
        // soon.
        admission.ended(connection(3));
        let established = |admission: &mut Admission, nth| {
            admission.handle_established_inbound_connection(connection(nth), PeerId::random(), &tcp, &quic).is_ok()
        };
        assert!(!established(&mut admission, 0), "it was just here");
        admission.pace_of_ip = Paces::new();
        assert_eq!([0, 1].map(|nth| established(&mut admission, nth)), [true, false]);
    }

    #[test]
    fn configured_peers_are_free() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let free = [(Some(peer), Some(IpAddr::from([9, 9, 9, 1])))];
        let mut admission =
            Admission::new(PLENTY, AddressLimit { per_ip: 0, per_prefix: 0, ..AddressLimit::PUBLIC }, free.into_iter());
        admission.ban(peer, Instant::now() + Duration::from_secs(600));
        assert!(admission.admit(connection(1), Some(&peer), &address("/ip4/1.2.3.4/tcp/1")).is_ok());
        assert!(admission.admit(connection(2), None, &address("/ip4/9.9.9.1/tcp/1")).is_ok(), "before it has said who it is");
        assert!(admission.admit(connection(3), Some(&other), &address("/ip4/1.2.3.4/tcp/1")).is_err());
        assert!(admission.admit(connection(4), Some(&other), &address("/dns4/example.org/tcp/1")).is_ok(), "not known yet");
    }

    #[test]
    fn a_ban_ends() {
        let mut admission = Admission::new(PLENTY, AddressLimit::NONE, std::iter::empty());
        let (peer, from) = (PeerId::random(), address("/ip4/1.2.3.4/tcp/1"));
        let now = Instant::now();
        admission.ban(peer, now + Duration::from_secs(600));
        assert!(admission.admit(connection(1), None, &from).is_ok());
        assert!(admission.admit(connection(1), Some(&peer), &from).is_err());
        admission.ended(connection(1));
        admission.ban(peer, now);
        assert!(admission.admit(connection(2), Some(&peer), &from).is_ok());
    }
}
