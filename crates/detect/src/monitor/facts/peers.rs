//! Connected peers: what they run, where they say their head is, and how many left.

use crate::monitor::{PeerFact, PeerNews};
use consensus::Slot;
use std::collections::BTreeMap;
use verify::UnixNs;

/// Peers remembered.
const MAX_PEERS: usize = 4096;

/// A connected peer.
#[derive(Clone, Debug, Default)]
pub struct PeerView {
    pub client: usize,
    /// What it last said, and when.
    pub head: Option<(Slot, UnixNs)>,
}

/// All of them, and the goodbyes of the last slots.
#[derive(Debug, Default)]
pub(super) struct Peers {
    connected: BTreeMap<String, PeerView>,
    goodbyes: BTreeMap<Slot, u64>,
}

impl Peers {
    pub(super) fn connected(&self) -> impl ExactSizeIterator<Item = &PeerView> {
        self.connected.values()
    }

    pub(super) fn goodbyes(&self, first: Slot, last: Slot) -> u64 {
        self.goodbyes.range(first..=last).map(|(_, n)| n).sum()
    }

    pub(super) fn forget_before(&mut self, oldest: Slot) {
        self.goodbyes = self.goodbyes.split_off(&oldest);
    }

    /// `slot`: that of the news.
    pub(super) fn hear(&mut self, news: &PeerNews, slot: Slot) {
        match &news.what {
            PeerFact::Disconnected => {
                self.connected.remove(&news.peer);
                return;
            }
            PeerFact::Goodbye { .. } => {
                *self.goodbyes.entry(slot).or_default() += 1;
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
            PeerFact::Status { head_slot } => peer.head = Some((*head_slot, news.at)),
            PeerFact::Connected | PeerFact::Disconnected | PeerFact::Goodbye { .. } => {}
        }
    }
}
