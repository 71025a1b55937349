//! Limits how many requests a client sends, so that one client cannot take the API from all others.
//!
//! A client is its IPv4 address, or the first 64 bits of its IPv6 address, because a single machine
//! can have 2^64 of them. Whoever shows a valid token is counted by that token instead, and may
//! send [`TOKEN_FACTOR`] times as much. Programs on the watcher's own machine are not limited.
//!
//! Behind a reverse proxy all connections come from the proxy, which adds the client's address to
//! `X-Forwarded-For`. That header is believed only from a loopback address and from the addresses
//! of `api.proxies`, and only its last entry, because the client itself can send the others.

use axum::http::HeaderMap;
use consensus::Root;
use governor::clock::Clock as _;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter, clock::DefaultClock};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

/// How many times more requests than an address a token may send.
const TOKEN_FACTOR: u32 = 10;
/// A client may send at once what it may send in this many seconds. The page asks for forty files
/// when it is opened.
const BURST_SECONDS: u32 = 4;
/// Largest number of clients that are remembered. Who is idle is forgotten first. While all of them
/// are active, all further ones share one limit.
const MAX_CLIENTS: usize = 65_536;
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Address(IpAddr),
    /// All addresses for which there was no room.
    Others,
}

pub(crate) struct RateLimits {
    by_address: Limiter<Client>,
    /// By the hash of the token. Only valid tokens are counted, so there are few.
    by_token: Limiter<Root>,
    proxies: Vec<IpAddr>,
    clock: DefaultClock,
}

type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock>;

impl RateLimits {
    pub(crate) fn new(requests_per_second: NonZeroU32, proxies: Vec<IpAddr>) -> Self {
        let quota = |per_second: NonZeroU32| {
            Quota::per_second(per_second)
                .allow_burst(per_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1)))
        };
        let factor = NonZeroU32::MIN.saturating_add(TOKEN_FACTOR - 1);
        Self {
            by_address: RateLimiter::hashmap(quota(requests_per_second)),
            by_token: RateLimiter::hashmap(quota(requests_per_second.saturating_mul(factor))),
            proxies,
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request. An error says after how many seconds the next one is answered.
    pub(crate) fn check(&self, peer: IpAddr, headers: &HeaderMap, token: Option<Root>) -> Result<(), u32> {
        let until = |error: governor::NotUntil<_>| {
            let wait = error.wait_time_from(self.clock.now());
            u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
        };
        if let Some(token) = token {
            return self.by_token.check_key(&token).map_err(until);
        }
        let Some(address) = client_address(peer, headers, &self.proxies) else { return Ok(()) };
        let mut client = Client::Address(address);
        if self.by_address.len() >= MAX_CLIENTS {
            self.by_address.retain_recent();
            if self.by_address.len() >= MAX_CLIENTS {
                client = Client::Others;
            }
        }
        self.by_address.check_key(&client).map_err(until)
    }
}

/// The address that is counted. `None` for a program on this machine, which is not limited.
fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &[IpAddr]) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    let forwarded = || headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim().parse().ok();
    let is_proxy = peer.is_loopback() || proxies.contains(&peer);
    let client: Option<IpAddr> = if is_proxy { forwarded() } else { None };
    match client.map(|client| client.to_canonical()).unwrap_or(peer) {
        address if address.is_loopback() => None,
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Some(IpAddr::V6(Ipv6Addr::from_bits(network)))
        }
        address => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: [IpAddr; 0] = [];

    fn forwarded(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (FORWARDED_FOR.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_client_is_an_address_or_a_network_and_only_proxies_name_others() {
        let proxy: IpAddr = "10.0.0.2".parse().unwrap();
        for (peer, headers, wanted) in [
            ("198.51.100.7", vec![], Some("198.51.100.7")),
            ("::ffff:198.51.100.7", vec![], Some("198.51.100.7")),
            ("2001:db8:1:2:3:4:5:6", vec![], Some("2001:db8:1:2::")),
            ("127.0.0.1", vec![], None),
            ("::1", vec![], None),
            ("127.0.0.1", vec!["203.0.113.9"], Some("203.0.113.9")),
            ("127.0.0.1", vec!["192.0.2.1, 203.0.113.9"], Some("203.0.113.9")),
            ("127.0.0.1", vec!["192.0.2.1", "203.0.113.9"], Some("203.0.113.9")),
            ("127.0.0.1", vec!["nonsense"], None),
            ("10.0.0.2", vec!["203.0.113.9"], Some("203.0.113.9")),
            ("10.0.0.2", vec!["nonsense"], Some("10.0.0.2")),
            ("198.51.100.7", vec!["203.0.113.9"], Some("198.51.100.7")),
            ("198.51.100.7", vec!["127.0.0.1"], Some("198.51.100.7")),
        ] {
            let found = client_address(peer.parse().unwrap(), &forwarded(&headers), &[proxy]);
            assert_eq!(found, wanted.map(|wanted| wanted.parse().unwrap()), "{peer} {headers:?}");
        }
    }

    #[test]
    fn each_client_has_its_own_limit_and_a_token_a_larger_one() {
        let limits = RateLimits::new(NonZeroU32::MIN, ALONE.to_vec());
        let none = HeaderMap::new();
        let answered = |peer: &str, token: Option<Root>| {
            (0..1000).take_while(|_| limits.check(peer.parse().unwrap(), &none, token).is_ok()).count()
        };
        let one = answered("198.51.100.7", None);
        // The test may take a second, in which another request is allowed.
        assert!((BURST_SECONDS as usize..10).contains(&one), "{one}");
        assert!(limits.check("198.51.100.7".parse().unwrap(), &none, None).is_err_and(|seconds| seconds == 1));
        assert!(answered("198.51.100.8", None) >= BURST_SECONDS as usize, "another address");
        let token = answered("198.51.100.7", Some(Root::repeat_byte(1)));
        assert!(((BURST_SECONDS * TOKEN_FACTOR) as usize..100).contains(&token), "{token}");
        assert_eq!(answered("127.0.0.1", None), 1000, "this machine");
    }

    #[test]
    fn clients_without_number_cost_a_bounded_amount() {
        let limits = RateLimits::new(NonZeroU32::MIN, ALONE.to_vec());
        let none = HeaderMap::new();
        let mut refused = 0;
        for number in 0..(MAX_CLIENTS as u32 + 1000) {
            let peer = IpAddr::from((0x0b00_0000 + number).to_be_bytes());
            refused += usize::from(limits.check(peer, &none, None).is_err());
        }
        assert!(limits.by_address.len() <= MAX_CLIENTS + 1, "{}", limits.by_address.len());
        assert!(refused > 0, "those for whom there is no room share one limit");
    }
}
