//! What other nodes say about forks that are not in our schedule.
//!
//! A node says which fork it follows in its status, and which one comes next in its record. If most
//! nodes name a fork that we do not know, this program or its configuration is too old, and the
//! operator must hear of it. One stranger must not be able to raise that alarm, or to suppress it.
//! So nodes whose addresses may belong to one owner have one opinion together, more than half of
//! the opinions must name the same fork, and an opinion that is not renewed expires.

use super::peer_book::Prefix;
use consensus::{Epoch, ForkDigest, ForkVersion};
use libp2p::PeerId;
use serde::Serialize;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Opinions that are remembered. The one that was not renewed for longest gives its place to a new
/// one.
const MAX_OPINIONS: usize = 2048;
/// How long an opinion counts. A status comes every few minutes, and records are found again.
const OPINION_LASTS: Duration = Duration::from_secs(30 * 60);

/// A fork that most nodes name and that is not in our schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AnnouncedFork {
    /// Most peers follow it already.
    InForce { digest: ForkDigest },
    /// Most nodes announce it.
    Ahead { version: ForkVersion, epoch: Epoch },
}

impl AnnouncedFork {
    /// What the operator is told.
    pub fn notice(&self) -> String {
        match self {
            Self::InForce { digest } => format!(
                "most peers follow a fork that is not in the schedule of this network (digest 0x{digest}): update slashwatch, or \
                 correct `network`; until then messages are not heard and offences are missed"
            ),
            Self::Ahead { version, epoch } => format!(
                "most nodes announce a fork at epoch {epoch} that is not in the schedule of this network (version 0x{}): update \
                 slashwatch before then; afterwards messages are not heard and offences are missed",
                hex::encode(version)
            ),
        }
    }
}

/// Which nodes have one opinion together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpinionBy {
    /// Those of one prefix, in a public network.
    Prefix,
    /// Each for itself, in a network of private addresses, where all may have one prefix.
    Peer,
}

impl OpinionBy {
    /// Opinions that must name the same fork, however few others there are.
    const fn least(self) -> usize {
        match self {
            Self::Prefix => 10,
            Self::Peer => 3,
        }
    }

    fn holder(self, peer: PeerId, ip: Option<IpAddr>) -> Holder {
        match (self, ip) {
            (Self::Prefix, Some(ip)) => Holder::Prefix(owner_prefix(ip)),
            (Self::Prefix, None) | (Self::Peer, _) => Holder::Peer(peer),
        }
    }
}

/// Who holds an opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Prefix(Prefix),
    Peer(PeerId),
}

/// The /24 of an IPv4 address, the /32 of an IPv6 address: that is what a provider gets. Anybody
/// can have some hundred /48 of it.
fn owner_prefix(ip: IpAddr) -> Prefix {
    Prefix::of(match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            [a, b, 0, 0, 0, 0, 0, 0].into()
        }
    })
}

/// The opinions about the fork in force, and those about the next one.
#[derive(Debug)]
pub(super) struct ForkPoll {
    counted_by: OpinionBy,
    in_force: Opinions<ForkDigest>,
    ahead: Opinions<(ForkVersion, Epoch)>,
}

impl ForkPoll {
    pub(super) fn new(counted_by: OpinionBy) -> Self {
        Self { counted_by, in_force: Opinions::default(), ahead: Opinions::default() }
    }

    /// Records what a peer's status says. `unknown` is the digest if it is not of our schedule.
    pub(super) fn record_status(&mut self, peer: PeerId, ip: Option<IpAddr>, unknown: Option<ForkDigest>, now: Instant) {
        self.in_force.record(self.counted_by.holder(peer, ip), unknown, now);
    }

    /// Records what the record of a node of our network says. `unknown` is the next fork if it is
    /// not of our schedule.
    pub(super) fn record_announcement(&mut self, peer: PeerId, ip: IpAddr, unknown: Option<(ForkVersion, Epoch)>, now: Instant) {
        self.ahead.record(self.counted_by.holder(peer, Some(ip)), unknown, now);
    }

    /// Whether most peers follow the fork with this digest, which is not of our schedule.
    pub(super) fn is_majority(&self, digest: ForkDigest, now: Instant) -> bool {
        self.in_force.majority(self.counted_by.least(), now) == Some(digest)
    }

    /// The fork that most nodes name, if it is not in our schedule.
    pub(super) fn announced(&self, now: Instant) -> Option<AnnouncedFork> {
        let least = self.counted_by.least();
        let in_force = self.in_force.majority(least, now).map(|digest| AnnouncedFork::InForce { digest });
        in_force.or_else(|| self.ahead.majority(least, now).map(|(version, epoch)| AnnouncedFork::Ahead { version, epoch }))
    }
}

/// The latest opinion of each holder: a fork that we do not know, or `None` for one that we know.
#[derive(Debug)]
struct Opinions<T>(HashMap<Holder, (Option<T>, Instant)>);

impl<T> Default for Opinions<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy + Eq + Hash> Opinions<T> {
    fn record(&mut self, holder: Holder, unknown: Option<T>, now: Instant) {
        if self.0.len() >= MAX_OPINIONS
            && !self.0.contains_key(&holder)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(holder, _)| *holder)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(holder, (unknown, now));
    }

    /// The unknown fork that more than half of the current opinions name, and at least `least`.
    fn majority(&self, least: usize, now: Instant) -> Option<T> {
        let current = self.0.values().filter(|(_, at)| now.duration_since(*at) < OPINION_LASTS);
        let (mut n_opinions, mut by_fork) = (0, HashMap::new());
        for (unknown, _) in current {
            n_opinions += 1;
            if let Some(fork) = unknown {
                *by_fork.entry(*fork).or_insert(0usize) += 1;
            }
        }
        let (fork, n) = by_fork.into_iter().max_by_key(|(_, n)| *n)?;
        (n >= least && 2 * n > n_opinions).then_some(fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGE: ForkDigest = ForkDigest([9; 4]);
    const NEXT: (ForkVersion, Epoch) = ([9; 4], Epoch::new(7));

    fn ip(prefix: u8, last: u8) -> IpAddr {
        [9, 9, prefix, last].into()
    }

    fn status(poll: &mut ForkPoll, ip: IpAddr, unknown: Option<ForkDigest>, now: Instant) {
        poll.record_status(PeerId::random(), Some(ip), unknown, now);
    }

    #[test]
    fn one_prefix_has_one_opinion() {
        let (mut poll, now) = (ForkPoll::new(OpinionBy::Prefix), Instant::now());
        for nth in 0..200 {
            status(&mut poll, ip(1, nth), Some(STRANGE), now);
            poll.record_announcement(PeerId::random(), ip(1, nth), Some(NEXT), now);
        }
        assert_eq!(poll.announced(now), None, "two hundred nodes of one prefix alone");
        (2..10).for_each(|nth| status(&mut poll, ip(nth, 1), Some(STRANGE), now));
        assert_eq!(poll.announced(now), None, "nine prefixes, and no other");
        status(&mut poll, ip(10, 1), Some(STRANGE), now);
        assert_eq!(poll.announced(now), Some(AnnouncedFork::InForce { digest: STRANGE }), "ten prefixes");
        (11..20).for_each(|nth| status(&mut poll, ip(nth, 1), None, now));
        assert!(poll.is_majority(STRANGE, now), "ten of nineteen");
        status(&mut poll, ip(20, 1), None, now);
        assert_eq!(poll.announced(now), None, "ten of twenty are no majority");
        status(&mut poll, ip(20, 2), Some(STRANGE), now);
        assert!(poll.is_majority(STRANGE, now), "the latest opinion of a prefix counts");
        assert_eq!(poll.announced(now + OPINION_LASTS), None);
    }

    /// Whoever has some /48 of IPv6 has no more opinions than a provider has /32, and removes
    /// nobody else's.
    #[test]
    fn many_prefixes_of_one_provider_have_one_opinion() {
        let (mut poll, now) = (ForkPoll::new(OpinionBy::Prefix), Instant::now());
        (0..20).for_each(|nth| status(&mut poll, ip(nth, 1), None, now));
        for nth in 0..3 * MAX_OPINIONS as u16 {
            let ip: IpAddr = [0x2a03, 0xb0c0, nth, 0, 0, 0, 0, 1].into();
            status(&mut poll, ip, Some(STRANGE), now + Duration::from_millis(nth.into()));
        }
        assert_eq!((poll.announced(now), poll.in_force.0.len()), (None, 21));
    }

    #[test]
    fn in_a_private_network_each_peer_has_its_own_opinion() {
        let (mut poll, now) = (ForkPoll::new(OpinionBy::Peer), Instant::now());
        (0..2).for_each(|_| status(&mut poll, ip(1, 1), Some(STRANGE), now));
        assert_eq!(poll.announced(now), None);
        status(&mut poll, ip(1, 1), Some(STRANGE), now);
        assert_eq!(poll.announced(now), Some(AnnouncedFork::InForce { digest: STRANGE }));
    }

    #[test]
    fn a_majority_names_one_fork() {
        let (mut poll, now) = (ForkPoll::new(OpinionBy::Prefix), Instant::now());
        for nth in 0..20 {
            poll.record_announcement(PeerId::random(), ip(nth, 1), Some(([nth; 4], NEXT.1)), now);
        }
        assert_eq!(poll.announced(now), None, "each invents another");
        (0..11).for_each(|nth| poll.record_announcement(PeerId::random(), ip(nth, 1), Some(NEXT), now));
        assert_eq!(poll.announced(now), Some(AnnouncedFork::Ahead { version: NEXT.0, epoch: NEXT.1 }));
    }

    #[test]
    fn opinions_are_bounded() {
        let (mut poll, now) = (ForkPoll::new(OpinionBy::Prefix), Instant::now());
        for nth in 0..3 * MAX_OPINIONS as u32 {
            let ip = IpAddr::from((0x0900_0000 + (nth << 8)).to_be_bytes());
            status(&mut poll, ip, Some(STRANGE), now + Duration::from_millis(nth.into()));
        }
        assert_eq!(poll.in_force.0.len(), MAX_OPINIONS);
    }
}
