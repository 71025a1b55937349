//! Committees, computed when a vote asks for them and kept for the next one.
//!
//! A shuffling follows from epoch, seed and active set; the seed from the mix of the decision block. It is therefore kept under
//! (epoch, seed), one for each version of the registry that had other validators active: branches whose decision blocks differ but whose mixes agree (a proposer's two versions of one
//! block carry the same reveal) share one, whose `decision_root` is the first branch's.
//!
//! The next epoch's is known an epoch before it is needed, so it is computed ahead on a thread of its own ([`Shufflings::prepare`]): otherwise
//! all messages would wait for it at every epoch's start. Who asks before it is ready waits for the rest of it; the answer is the same.
//!
//! Price: one of a million validators takes about 0.5 s to compute (90 rounds) and 12 MB with its seat table. So both are bounded: the
//! cache by [`MAX_SHUFFLINGS`] and [`MAX_BYTES`], least recently used out first, and computing by budgets ([`Effort`]), because anyone can name
//! any epoch and any block of it in a vote before its signature is looked at: each block before an epoch's decision slot gives other committees.
//! The budgets of a slot also bound what a batch of votes holds beyond the cache: 12 bytes a seat.

use crate::registry::{MAX_VERSIONS, Registry, RegistryId};
use crate::tree::Decision;
use consensus::{DomainType, Epoch, Preset, Root, Shuffling, Slot, compute_seed};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

/// Pairs of epoch and seed kept at most.
pub const MAX_SHUFFLINGS: usize = 64;
/// Their memory together at most, bytes: 12 per active validator.
pub const MAX_BYTES: usize = 288 << 20;
/// Odd shufflings ([`Effort::Odd`]) computed at most per epoch that passes.
pub const MAX_ODD_PER_EPOCH: u32 = 96;
/// Seats in the odd shufflings computed in a slot; the last one may go beyond. Two seconds of work.
pub const MAX_ODD_SEATS_PER_SLOT: usize = 4_000_000;
/// Seats in the near shufflings ([`Effort::Near`]) computed in a slot; the last one may go beyond. An ordinary epoch asks for one shuffling.
pub const MAX_NEAR_SEATS_PER_SLOT: usize = 8_000_000;

/// What a shuffling may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Of an epoch about now, decided on a branch that is being built on.
    Near,
    /// Of a far epoch, or decided by a block that nobody builds on any more.
    Odd,
    /// Nothing: only what is there already.
    AtHand,
}

#[derive(Debug, Default)]
pub(crate) struct Shufflings {
    cache: HashMap<(Epoch, Root), Entry>,
    clock: u64,
    bytes: usize,
    /// The last active sets, so that epochs and branches with equal ones share the list.
    recent_active: Vec<Arc<Vec<u32>>>,
    ahead: Option<Ahead>,
    budget: Budget,
    pub(crate) computed: u64,
    pub(crate) evicted: u64,
    pub(crate) refused: u64,
}

/// What was computed lately.
#[derive(Debug, Default)]
struct Budget {
    slot: Slot,
    epoch: Epoch,
    odd: u32,
    odd_seats: usize,
    near_seats: usize,
    /// Seats of the last odd one.
    last_odd: usize,
}

impl Budget {
    fn turn_to(&mut self, slot: Slot, preset: &Preset) {
        if slot != self.slot {
            (self.slot, self.odd_seats, self.near_seats) = (slot, 0, 0);
        }
        let epoch = slot.epoch(preset);
        if epoch != self.epoch {
            (self.epoch, self.odd) = (epoch, 0);
        }
    }

    fn allows(&self, effort: Effort) -> bool {
        match effort {
            Effort::Near => self.near_seats < MAX_NEAR_SEATS_PER_SLOT,
            Effort::Odd => self.odd < MAX_ODD_PER_EPOCH && self.odd_seats < MAX_ODD_SEATS_PER_SLOT,
            Effort::AtHand => false,
        }
    }

    fn spend(&mut self, effort: Effort, seats: usize) {
        match effort {
            Effort::Near => self.near_seats += seats,
            Effort::Odd => {
                self.odd += 1;
                self.odd_seats += seats;
                self.last_odd = seats;
            }
            Effort::AtHand => {}
        }
    }

    fn refund(&mut self) {
        self.odd = self.odd.saturating_sub(1);
        self.odd_seats = self.odd_seats.saturating_sub(self.last_odd);
    }
}

#[derive(Debug)]
struct Entry {
    /// The registry they were made from; with another one it is asked again whether there are more.
    registry: RegistryId,
    /// The current registry's first, then those of its earlier versions.
    shufflings: Vec<Arc<Shuffling>>,
    used: u64,
}

/// One that is being computed on another thread.
#[derive(Debug)]
struct Ahead {
    key: (Epoch, Root),
    registry: RegistryId,
    result: Receiver<Shuffling>,
}

impl Shufflings {
    /// Begins to compute a shuffling that will soon be asked for, unless it is there or another one is under way.
    pub(crate) fn prepare(&mut self, registry: &Registry, preset: &Preset, epoch: Epoch, decision: Decision) {
        self.collect();
        let seed = compute_seed(DomainType::BeaconAttester, epoch, decision.mix);
        if self.ahead.is_some() || self.cache.contains_key(&(epoch, seed)) || registry.versions_at(epoch).len() > 1 {
            return;
        }
        let active = self.shared(registry.active_at(epoch, 0));
        let (send, result) = sync_channel(1);
        let preset = preset.clone();
        let work = move || {
            // Nobody listens any more if the chain is gone.
            let _ = send.send(Shuffling::new(epoch, decision.root, seed, active, &preset));
        };
        // Without a thread it is computed when it is asked for.
        if std::thread::Builder::new().name("shuffling".to_owned()).spawn(work).is_ok() {
            self.ahead = Some(Ahead { key: (epoch, seed), registry: registry.id(), result });
        }
    }

    /// Keeps what was computed ahead, if it is ready.
    fn collect(&mut self) {
        let Some(ahead) = self.ahead.take() else { return };
        match ahead.result.try_recv() {
            Ok(shuffling) => {
                self.computed += 1;
                self.clock += 1;
                self.keep(ahead.key, ahead.registry, vec![Arc::new(shuffling)]);
            }
            Err(TryRecvError::Empty) => self.ahead = Some(ahead),
            Err(TryRecvError::Disconnected) => {}
        }
    }

    /// Waits for what is being computed ahead, if it is this.
    fn wait_for(&mut self, key: (Epoch, Root)) -> Option<Arc<Shuffling>> {
        let ahead = self.ahead.take_if(|ahead| ahead.key == key)?;
        let shuffling = ahead.result.recv().ok()?;
        self.computed += 1;
        Some(Arc::new(shuffling))
    }

    /// The shufflings of `epoch` that `decision` leads to, one per differing version of the registry, the current one first. What
    /// `effort` does not allow at the slot `now` is missing: ask again later.
    pub(crate) fn get(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        epoch: Epoch,
        decision: Decision,
        effort: Effort,
        now: Slot,
    ) -> Vec<Arc<Shuffling>> {
        let seed = compute_seed(DomainType::BeaconAttester, epoch, decision.mix);
        self.budget.turn_to(now, preset);
        self.clock += 1;
        let mut earlier = match self.cache.get_mut(&(epoch, seed)) {
            Some(entry) => {
                entry.used = self.clock;
                if entry.registry == registry.id() {
                    return entry.shufflings.clone();
                }
                entry.shufflings.clone()
            }
            None => Vec::new(),
        };
        earlier.extend(self.wait_for((epoch, seed)));
        // Listing who is active takes milliseconds, so it is not done in vain either.
        if earlier.is_empty() && !self.may_compute(effort) {
            return earlier;
        }
        let mut found: Vec<Arc<Shuffling>> = Vec::new();
        for version in registry.versions_at(epoch) {
            let active = self.shared(registry.active_at(epoch, version));
            if found.iter().any(|known| *known.active() == active) {
                continue;
            }
            if let Some(known) = earlier.iter().find(|known| *known.active() == active) {
                found.push(known.clone());
            } else if self.may_compute(effort) {
                self.budget.spend(effort, active.len());
                found.push(Arc::new(Shuffling::new(epoch, decision.root, seed, active, preset)));
                self.computed += 1;
            } else {
                // Not kept, so that the next vote asks again.
                return if found.is_empty() { earlier } else { found };
            }
        }
        // What has been handed out once stays, even if the registry's version behind it is forgotten.
        for known in earlier {
            if found.len() <= MAX_VERSIONS && found.iter().all(|other| other.id() != known.id()) {
                found.push(known);
            }
        }
        self.keep((epoch, seed), registry.id(), found.clone());
        found
    }

    fn may_compute(&mut self, effort: Effort) -> bool {
        let allowed = self.budget.allows(effort);
        self.refused += u64::from(!allowed && effort != Effort::AtHand);
        allowed
    }

    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A past block's reveal has become known: what it brings may ask for odd epochs once more. So a replay of old blocks, in which no time
    /// passes, is not held up.
    pub(crate) fn refund(&mut self) {
        self.budget.refund();
    }

    fn keep(&mut self, key: (Epoch, Root), registry: RegistryId, shufflings: Vec<Arc<Shuffling>>) {
        if let Some(replaced) = self.cache.remove(&key) {
            self.bytes -= bytes_of(&replaced.shufflings);
        }
        let bytes = bytes_of(&shufflings);
        while !self.cache.is_empty() && (self.cache.len() >= MAX_SHUFFLINGS || self.bytes + bytes > MAX_BYTES) {
            self.evict();
        }
        self.bytes += bytes;
        self.cache.insert(key, Entry { registry, shufflings, used: self.clock });
    }

    fn evict(&mut self) {
        if let Some(oldest) = self.cache.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key)
            && let Some(entry) = self.cache.remove(&oldest)
        {
            self.bytes -= bytes_of(&entry.shufflings);
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

fn bytes_of(shufflings: &[Arc<Shuffling>]) -> usize {
    shufflings.iter().map(|shuffling| shuffling.active().len() * 12).sum()
}
