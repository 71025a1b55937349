//! Committees, computed when a vote asks for them and kept for the next one.
//!
//! A shuffling follows from epoch, seed and active set; the seed from the mix of the decision block. It is therefore kept under
//! (epoch, seed, version of the registry): branches whose decision blocks differ but whose mixes agree (a proposer's two versions of one
//! block carry the same reveal) share one, whose `decision_root` is the first branch's.
//!
//! Price: one of a million validators takes about 0.3 s to compute (90 rounds) and 12 MB with its seat table. So both are bounded: the
//! cache by [`MAX_SHUFFLINGS`] and [`MAX_BYTES`], least recently used out first, and computing by a budget for epochs that are not about now, because
//! anyone can name any epoch in a vote before its signature is looked at.

use crate::registry::{Registry, VersionNumber};
use crate::tree::Decision;
use consensus::{Epoch, Preset, Root, Shuffling, Slot, compute_seed};
use std::collections::HashMap;
use std::sync::Arc;

/// Shufflings kept at most.
pub const MAX_SHUFFLINGS: usize = 64;
/// Their memory together at most, bytes: 12 per active validator.
pub const MAX_BYTES: usize = 288 << 20;
/// Shufflings of epochs that are not about now, computed at most per epoch that passes.
pub const MAX_UNUSUAL_PER_EPOCH: u32 = 96;

/// (epoch, seed, slot of the registry's version).
type Key = (Epoch, Root, Slot);

#[derive(Debug, Default)]
pub(crate) struct Shufflings {
    cache: HashMap<Key, Entry>,
    clock: u64,
    bytes: usize,
    /// The last active sets, so that epochs and branches with equal ones share the list.
    recent_active: Vec<Arc<Vec<u32>>>,
    budget_epoch: Epoch,
    budget_used: u32,
    pub(crate) computed: u64,
    pub(crate) evicted: u64,
    pub(crate) refused: u64,
}

#[derive(Debug)]
struct Entry {
    shuffling: Arc<Shuffling>,
    used: u64,
    bytes: usize,
}

impl Shufflings {
    /// The shufflings of `epoch` that `decision` leads to, one per differing version of the registry, the current one first. Empty when
    /// `unusual` and the budget of this epoch (`now`) is used up: ask again later.
    pub(crate) fn get(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        epoch: Epoch,
        decision: Decision,
        unusual: bool,
        now: Epoch,
    ) -> Vec<Arc<Shuffling>> {
        let seed = compute_seed(epoch, decision.mix);
        let mut found = Vec::new();
        for version in registry.versions_at(epoch) {
            let key = (epoch, seed, registry.slot_of_version(version));
            if let Some(shuffling) = self.cached(key) {
                found.push(shuffling);
            } else if unusual && !self.spend(now) {
                self.refused += 1;
            } else {
                found.push(self.compute(registry, preset, key, decision.root, version));
            }
        }
        let mut ids: Vec<_> = Vec::with_capacity(found.len());
        found.retain(|shuffling| {
            let new = !ids.contains(&shuffling.id());
            ids.push(shuffling.id());
            new
        });
        found
    }

    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn cached(&mut self, key: Key) -> Option<Arc<Shuffling>> {
        self.clock += 1;
        let entry = self.cache.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry.shuffling.clone())
    }

    fn spend(&mut self, now: Epoch) -> bool {
        if now != self.budget_epoch {
            self.budget_epoch = now;
            self.budget_used = 0;
        }
        self.budget_used += 1;
        self.budget_used <= MAX_UNUSUAL_PER_EPOCH
    }

    fn compute(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        key: Key,
        decision_root: Root,
        version: VersionNumber,
    ) -> Arc<Shuffling> {
        let active = self.shared(registry.active_at(key.0, version));
        let bytes = active.len() * 12;
        let shuffling = Arc::new(Shuffling::new(key.0, decision_root, key.1, active, preset));
        while !self.cache.is_empty() && (self.cache.len() >= MAX_SHUFFLINGS || self.bytes + bytes > MAX_BYTES) {
            self.evict();
        }
        self.computed += 1;
        self.bytes += bytes;
        self.cache.insert(key, Entry { shuffling: shuffling.clone(), used: self.clock, bytes });
        shuffling
    }

    fn evict(&mut self) {
        if let Some(oldest) = self.cache.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key)
            && let Some(entry) = self.cache.remove(&oldest)
        {
            self.bytes -= entry.bytes;
            self.evicted += 1;
        }
    }

    fn shared(&mut self, active: Arc<Vec<u32>>) -> Arc<Vec<u32>> {
        if let Some(known) = self.recent_active.iter().find(|known| **known == active) {
            return known.clone();
        }
        if self.recent_active.len() >= 4 {
            self.recent_active.remove(0);
        }
        self.recent_active.push(active.clone());
        active
    }
}
