//! Connected peers: what they run, where they report their head to be, and how many left.

use crate::monitor::{PeerFact, PeerNews};
use consensus::{Root, Slot};
use std::collections::{BTreeMap, BTreeSet};
use verify::{PeerBytes, Time};

/// Goodbye codes for reasons of the peer's own: it shuts down, or it met a fault. Having too many
/// peers (129) is normal.
const OWN_TROUBLE: [u64; 2] = [1, 3];
/// Largest number of peers that are remembered.
const MAX_PEERS: usize = 4096;

/// A connected peer.
#[derive(Clone, Debug, Default)]
pub struct ConnectedPeer {
    pub client: usize,
    /// The head slot that it last reported, and when it did so.
    pub head: Option<(Slot, Time)>,
    /// The block that it last reported as its head.
    pub head_root: Option<Root>,
}

/// All connected peers, and the goodbyes of the last slots.
#[derive(Debug, Default)]
pub(super) struct PeerHistory {
    connected: BTreeMap<PeerBytes, ConnectedPeer>,
    /// Peers that left for a reason of their own, by the slot in which they left.
    goodbyes: BTreeMap<Slot, BTreeSet<PeerBytes>>,
}

impl PeerHistory {
    pub(super) fn connected(&self) -> impl ExactSizeIterator<Item = &ConnectedPeer> {
        self.connected.values()
    }

    pub(super) fn get(&self, peer: &PeerBytes) -> Option<&ConnectedPeer> {
        self.connected.get(peer)
    }

    pub(super) fn goodbyes(&self, first: Slot, last: Slot) -> u64 {
        self.goodbyes.range(first..=last).flat_map(|(_, peers)| peers).collect::<BTreeSet<_>>().len() as u64
    }

    pub(super) fn forget_before(&mut self, oldest: Slot) {
        self.goodbyes = self.goodbyes.split_off(&oldest);
    }

    pub(super) fn forget_after(&mut self, latest: Slot) {
        drop(self.goodbyes.split_off(&latest.saturating_add(1)));
    }

    /// Takes in one event. `slot` is the slot in which it happened.
    pub(super) fn take(&mut self, news: &PeerNews, slot: Slot) {
        match &news.what {
            PeerFact::Disconnected => {
                self.connected.remove(&news.peer);
                return;
            }
            PeerFact::Goodbye { code } => {
                let peers = self.goodbyes.entry(slot).or_default();
                if OWN_TROUBLE.contains(code) && peers.len() < MAX_PEERS {
                    peers.insert(news.peer.clone());
                }
                return;
            }
            PeerFact::Connected | PeerFact::Agent(_) | PeerFact::Status { .. } => {}
        }
        if self.connected.len() >= MAX_PEERS && !self.connected.contains_key(&news.peer) {
            return;
        }
        let peer = self.connected.entry(news.peer.clone()).or_default();
        match &news.what {
            PeerFact::Agent(agent) => peer.client = crate::client::client_of_text(agent.as_bytes()),
            PeerFact::Status { head_slot, head_root } => {
                peer.head = Some((*head_slot, news.at));
                peer.head_root = *head_root;
            }
            PeerFact::Connected | PeerFact::Disconnected | PeerFact::Goodbye { .. } => {}
        }
    }
}
