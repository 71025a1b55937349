//! What each peer's messages turned out to be. Not to blame anybody (that is the mesh's affair, by [`crate::Verdict`]) but to judge
//! apart: whoever has forged before shares no equation with those who have not, so that a flood of forgeries makes nobody else wait.
//!
//! A message is never dropped for its sender's repute; it is proven like any other, only later and by itself.

use crate::PeerBytes;
use std::collections::HashMap;

/// Proven messages that make a peer known.
const KNOWN_AFTER: u32 = 16;
/// One forgery is forgiven for so many proven messages.
const FORGIVEN_FOR: u32 = 256;

/// How a peer's claims are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Repute {
    /// Together with all others of good repute. Also what has no peer: our own node, a file.
    Good,
    /// With others that are not known yet.
    Unknown,
    /// Each by itself: more than half of what it sent lately was forged.
    Bad,
}

/// Bounded; old merits and sins fade.
#[derive(Debug)]
pub(crate) struct Reputes {
    peers: HashMap<PeerBytes, Record>,
    limit: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    proven: u32,
    forged: u32,
}

impl Reputes {
    pub(crate) fn new(limit: usize) -> Self {
        Self { peers: HashMap::new(), limit: limit.max(1) }
    }

    pub(crate) fn of(&self, peer: Option<&PeerBytes>) -> Repute {
        let Some(peer) = peer else { return Repute::Good };
        match self.peers.get(peer) {
            None => Repute::Unknown,
            Some(record) if record.forged > record.proven => Repute::Bad,
            Some(record) if record.proven >= KNOWN_AFTER && record.forged <= record.proven / FORGIVEN_FOR => Repute::Good,
            Some(_) => Repute::Unknown,
        }
    }

    pub(crate) fn proven(&mut self, peer: &PeerBytes) {
        let record = self.entry(peer);
        record.proven = record.proven.saturating_add(1);
    }

    pub(crate) fn forged(&mut self, peer: &PeerBytes) {
        let record = self.entry(peer);
        record.forged = record.forged.saturating_add(1);
    }

    /// Once an epoch: what was counts half.
    pub(crate) fn fade(&mut self) {
        self.peers.retain(|_, record| {
            *record = Record { proven: record.proven / 2, forged: record.forged / 2 };
            record.proven + record.forged > 0
        });
    }

    fn entry(&mut self, peer: &PeerBytes) -> &mut Record {
        while self.peers.len() >= self.limit && !self.peers.contains_key(peer) {
            // Those with least to remember go.
            self.fade();
        }
        self.peers.entry(peer.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repute_is_earned_lost_and_forgotten() {
        let mut reputes = Reputes::new(4);
        let peers: Vec<PeerBytes> = (0..9u8).map(|n| PeerBytes::from([n])).collect();
        assert_eq!((reputes.of(None), reputes.of(Some(&peers[0]))), (Repute::Good, Repute::Unknown));
        for _ in 0..KNOWN_AFTER {
            reputes.proven(&peers[0]);
        }
        assert_eq!(reputes.of(Some(&peers[0])), Repute::Good);
        reputes.forged(&peers[0]);
        assert_eq!(reputes.of(Some(&peers[0])), Repute::Unknown, "one forgery among few messages");
        for _ in 0..FORGIVEN_FOR {
            reputes.proven(&peers[0]);
        }
        assert_eq!(reputes.of(Some(&peers[0])), Repute::Good, "one among many");
        reputes.forged(&peers[1]);
        assert_eq!(reputes.of(Some(&peers[1])), Repute::Bad);
        for peer in &peers {
            reputes.forged(peer);
            assert!(reputes.peers.len() <= 4);
        }
        assert_eq!(reputes.of(Some(&peers[8])), Repute::Bad);
        for _ in 0..40 {
            reputes.fade();
        }
        assert_eq!((reputes.peers.len(), reputes.of(Some(&peers[0]))), (0, Repute::Unknown));
    }
}
