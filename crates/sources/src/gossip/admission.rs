//! Which connections are taken at all: how many there are, how many one IP address and one prefix
//! of addresses may have, and whose are refused because the peer is banned.
//!
//! A peer id costs nothing and an address costs something, so the places of a node are shared by
//! address. Without this, one machine with a hundred ids takes all of them, and hears, and
//! withholds, what it likes. A connection counts from its first packet on, so that one machine
//! cannot take all places of handshakes either, by beginning them and falling silent.
//!
//! What is counted here goes when the connection ends. libp2p's own `connection_limits` keeps
//! something of each peer id that was ever connected, and an id costs nothing.

use super::peer_book::Prefix;
use crate::discovery::ip_of;
use base::BoundedMap;
use libp2p::core::Endpoint;
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
use std::time::Instant;

/// Bans that are remembered. The oldest is forgotten first.
const MAX_BANS: usize = 4096;

/// Connections that one address and one prefix may have at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimit {
    pub per_ip: usize,
    /// /24 of IPv4, /48 of IPv6.
    pub per_prefix: usize,
}

impl AddressLimit {
    /// For a network of private addresses.
    pub const NONE: Self = Self { per_ip: usize::MAX, per_prefix: usize::MAX };
    /// For a public network: a few nodes behind one router, and a twenty-fifth of 200 places for
    /// one prefix.
    pub const PUBLIC: Self = Self { per_ip: 4, per_prefix: 8 };
}

/// Connections that there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Handshakes, in each direction.
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
    #[error("the peer is banned for a while")]
    Banned,
}

/// Refuses connections. Configured peers and their addresses are free of the limits.
pub(super) struct Admission {
    places: Places,
    limit: AddressLimit,
    free_peers: HashSet<PeerId>,
    free_addresses: HashSet<IpAddr>,
    /// Connections whose handshake is not done. Those that we dial to a free peer are not counted.
    handshakes: HashMap<ConnectionId, Endpoint>,
    established: HashMap<ConnectionId, (PeerId, Endpoint)>,
    /// The addresses of established connections, and of inbound ones whose handshake is not done.
    addresses: HashMap<ConnectionId, IpAddr>,
    by_ip: HashMap<IpAddr, usize>,
    by_prefix: HashMap<Prefix, usize>,
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
        let bans = BoundedMap::new(MAX_BANS);
        Self { places, limit, free_peers, free_addresses, handshakes, established, addresses, by_ip, by_prefix, bans }
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
    fn begin(&mut self, connection: ConnectionId, side: Endpoint) -> Result<(), ConnectionDenied> {
        if self.handshakes.values().filter(|other| **other == side).count() >= self.places.handshakes {
            return Err(ConnectionDenied::new(RefusedConnection::Places));
        }
        self.handshakes.insert(connection, side);
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
        self.begin(connection, Endpoint::Listener)?;
        self.admit(connection, None, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.establish(connection, &peer, Endpoint::Listener)?;
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
            self.begin(connection, Endpoint::Dialer)?;
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
    use std::time::Duration;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn connection(nth: usize) -> ConnectionId {
        ConnectionId::new_unchecked(nth)
    }

    const PLENTY: Places = Places { handshakes: usize::MAX, inbound: usize::MAX, all: usize::MAX, per_peer: usize::MAX };

    /// Begins and ends a handshake, as the swarm does.
    fn connect(admission: &mut Admission, nth: usize, peer: PeerId, side: Endpoint) -> bool {
        let taken = admission.begin(connection(nth), side).and_then(|()| admission.establish(connection(nth), &peer, side));
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
        for side in both {
            let begun = [0, 1, 2].map(|nth| admission.begin(connection(nth), side).is_ok());
            assert_eq!(begun, [true, true, false], "handshakes of this direction");
            (0..3).for_each(|nth| admission.ended(connection(nth)));
        }
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
        let mut admission = Admission::new(PLENTY, AddressLimit { per_ip: 2, per_prefix: 5 }, std::iter::empty());
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
    fn configured_peers_are_free() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let free = [(Some(peer), Some(IpAddr::from([9, 9, 9, 1])))];
        let mut admission = Admission::new(PLENTY, AddressLimit { per_ip: 0, per_prefix: 0 }, free.into_iter());
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
