//! Peers by number, so that a row names who sent it in a byte or two.

use crate::IndexError;
use crate::db::{Batch, Cf, Db};
use std::collections::HashMap;
use std::sync::Arc;

/// Peers that are remembered; who comes later is stored as unknown, and counted. 40 bytes each.
pub(crate) const MAX_PEERS: usize = 1 << 16;

#[derive(Default)]
pub(crate) struct Peers {
    numbers: HashMap<Arc<[u8]>, u32>,
    /// Number n is at n - 1: 0 means nobody.
    peers: Vec<Arc<[u8]>>,
    n_committed: usize,
    pub n_refused: u64,
}

impl Peers {
    pub fn load(db: &Db) -> Result<Self, IndexError> {
        let mut peers = Self::default();
        db.scan_all(Cf::Peers, |key, value| {
            let expected = peers.peers.len() as u32 + 1;
            if key != expected.to_be_bytes() {
                return Err(db.corrupt(format!("peer number {expected} is missing")));
            }
            peers.push(Arc::from(value));
            Ok(())
        })?;
        peers.n_committed = peers.peers.len();
        Ok(peers)
    }

    pub fn number(&mut self, peer: Option<&Arc<[u8]>>) -> u32 {
        let Some(peer) = peer else { return 0 };
        if let Some(number) = self.numbers.get(peer) {
            return *number;
        }
        if self.peers.len() >= MAX_PEERS {
            self.n_refused += 1;
            return 0;
        }
        self.push(peer.clone())
    }

    pub fn peer(&self, number: u32) -> Option<Arc<[u8]>> {
        self.peers.get(number.checked_sub(1)? as usize).cloned()
    }

    pub fn stage(&self, batch: &mut Batch<'_>) {
        for (at, peer) in self.peers.iter().enumerate().skip(self.n_committed) {
            batch.put(Cf::Peers, &(at as u32 + 1).to_be_bytes(), peer);
        }
    }

    pub fn committed(&mut self) {
        self.n_committed = self.peers.len();
    }

    fn push(&mut self, peer: Arc<[u8]>) -> u32 {
        self.peers.push(peer.clone());
        let number = self.peers.len() as u32;
        self.numbers.insert(peer, number);
        number
    }
}
