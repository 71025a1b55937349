//! Remembers for each peer how many of its messages were proven and how many were forged. This does
//! not penalize anybody, because gossipsub does that by [`crate::Verdict`]. It decides which claims
//! are proven together: the claims of a peer that has sent forgeries are not in one equation with
//! the claims of other peers, so a flood of forgeries delays nobody else.
//!
//! A message is never dropped because of its sender's reputation. It is proven like any other, only
//! later and by itself.

use crate::PeerBytes;
use std::collections::HashMap;

/// A peer with this many proven messages is known.
const KNOWN_AFTER: u32 = 16;
/// One forgery is tolerated for this many proven messages.
const FORGIVEN_FOR: u32 = 256;

/// How the claims of a peer are proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerReputation {
    /// Together with the claims of all other peers of good reputation. Messages without a peer (our
    /// own node, a file) are in this class too.
    Good,
    /// Together with the claims of other peers that are not known yet.
    Unknown,
    /// Each claim by itself, because more than half of what the peer sent lately was forged.
    Bad,
}

/// The records of all peers. Their number is bounded, and old counts lose weight over time.
#[derive(Debug)]
pub(crate) struct PeerReputations {
    peers: HashMap<PeerBytes, ReputationRecord>,
    limit: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct ReputationRecord {
    proven: u32,
    forged: u32,
}

impl PeerReputations {
    pub(crate) fn new(limit: usize) -> Self {
        Self { peers: HashMap::new(), limit: limit.max(1) }
    }

    /// How the claims of this peer are proven.
    pub(crate) fn of(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        let Some(peer) = peer else { return PeerReputation::Good };
        match self.peers.get(peer) {
            None => PeerReputation::Unknown,
            Some(record) if record.forged > record.proven => PeerReputation::Bad,
            Some(record) if record.proven >= KNOWN_AFTER && record.forged <= record.proven / FORGIVEN_FOR => PeerReputation::Good,
            Some(_) => PeerReputation::Unknown,
        }
    }

    /// Counts a proven message of this peer.
    pub(crate) fn proven(&mut self, peer: &PeerBytes) {
        let record = self.entry(peer);
        record.proven = record.proven.saturating_add(1);
    }

    /// Counts a forged message of this peer.
    pub(crate) fn forged(&mut self, peer: &PeerBytes) {
        let record = self.entry(peer);
        record.forged = record.forged.saturating_add(1);
    }

    /// Halves all counts. The verifier calls it once an epoch.
    pub(crate) fn halve(&mut self) {
        self.peers.retain(|_, record| {
            *record = ReputationRecord { proven: record.proven / 2, forged: record.forged / 2 };
            record.proven + record.forged > 0
        });
    }

    fn entry(&mut self, peer: &PeerBytes) -> &mut ReputationRecord {
        while self.peers.len() >= self.limit && !self.peers.contains_key(peer) {
            // Fading removes the peers with the smallest counts.
            self.halve();
        }
        self.peers.entry(peer.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reputation_is_earned_lost_and_forgotten() {
        let mut reputations = PeerReputations::new(4);
        let peers: Vec<PeerBytes> = (0..9u8).map(|n| PeerBytes::from([n])).collect();
        assert_eq!((reputations.of(None), reputations.of(Some(&peers[0]))), (PeerReputation::Good, PeerReputation::Unknown));
        for _ in 0..KNOWN_AFTER {
            reputations.proven(&peers[0]);
        }
        assert_eq!(reputations.of(Some(&peers[0])), PeerReputation::Good);
        reputations.forged(&peers[0]);
        assert_eq!(reputations.of(Some(&peers[0])), PeerReputation::Unknown, "one forgery among few messages");
        for _ in 0..FORGIVEN_FOR {
            reputations.proven(&peers[0]);
        }
        assert_eq!(reputations.of(Some(&peers[0])), PeerReputation::Good, "one among many");
        reputations.forged(&peers[1]);
        assert_eq!(reputations.of(Some(&peers[1])), PeerReputation::Bad);
        for peer in &peers {
            reputations.forged(peer);
            assert!(reputations.peers.len() <= 4);
        }
        assert_eq!(reputations.of(Some(&peers[8])), PeerReputation::Bad);
        for _ in 0..40 {
            reputations.halve();
        }
        assert_eq!((reputations.peers.len(), reputations.of(Some(&peers[0]))), (0, PeerReputation::Unknown));
    }
}
