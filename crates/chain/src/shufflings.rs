//! Shufflings (the committees of an epoch). They are computed when a vote needs them, and kept for
//! later votes.
//!
//! A shuffling depends on the epoch, the seed and the active set; the seed depends on the mix of
//! the decision block. The cache is therefore keyed by (epoch, seed), with one shuffling for what
//! the blocks of the branch tell ([`crate::follow`]), and one for each version of the registry that
//! has another active set. Two branches with different decision blocks
//! but equal mixes share an entry, whose `decision_root` is that of the first branch. This happens
//! if a proposer makes two versions of one block, because both carry the same reveal.
//!
//! The committees of the next epoch are known one epoch before they are needed. They are computed
//! ahead on a separate thread ([`Shufflings::prepare`]). Otherwise all messages would wait for them
//! at the start of every epoch.
//!
//! Price: a shuffling of a million validators takes about 0.5 s to compute (90 rounds) and 12 MB
//! with its seat table. Both are bounded. [`MAX_SHUFFLINGS`] and [`MAX_BYTES`] bound the cache; the
//! least recently used entry is evicted first. Budgets ([`ComputeBudget`]) bound the computing,
//! because a vote can name any epoch and any block before its signature is checked, and each block
//! before an epoch's decision slot gives other committees. The budgets of a slot also bound the
//! memory that a batch of votes holds beyond the cache: 12 bytes per seat.
//!
//! **Who computes.** In live operation ([`Work::OnWorker`]) a worker thread computes one shuffling
//! at a time. The caller gets none at first: its vote waits until a later [`Shufflings::poll`]
//! brings the result, and nothing else waits. Each peer then has a budget of its own, so a peer
//! that names odd targets cannot use up the budget of the others. A replay ([`Work::AtOnce`]) waits
//! for each result, so its findings do not depend on the speed of a thread or on the ends of
//! batches.

use crate::registry::{MAX_VERSIONS, Registry, RegistryId};
use crate::tree::Decision;
use consensus::{DomainType, Epoch, Preset, Root, Shuffling, Slot, compute_seed};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

/// Maximum number of (epoch, seed) pairs in the cache.
pub const MAX_SHUFFLINGS: usize = 64;
/// Maximum memory of all kept shufflings in bytes. A shuffling takes 12 bytes per active validator.
pub const MAX_BYTES: usize = 288 << 20;
/// Maximum number of odd shufflings ([`ComputeBudget::Odd`]) that are computed per epoch of time.
pub const MAX_ODD_PER_EPOCH: u32 = 96;
/// Maximum number of seats in the odd shufflings that are computed per slot. The last shuffling may
/// exceed it. This is two seconds of work.
pub const MAX_ODD_SEATS_PER_SLOT: usize = 4_000_000;
/// Maximum number of seats in the near shufflings ([`ComputeBudget::Near`]) that are computed per
/// slot. The last shuffling may exceed it. An ordinary epoch needs one shuffling.
pub const MAX_NEAR_SEATS_PER_SLOT: usize = 8_000_000;

/// Part of `MAX_ODD_PER_EPOCH` that the votes of one peer may use.
pub const MAX_ODD_OF_PEER: u32 = MAX_ODD_PER_EPOCH / 8;
/// Part of [`MAX_ODD_PER_EPOCH`] for votes that came from no particular peer: those inside blocks.
pub const MAX_ODD_OF_NOBODY: u32 = MAX_ODD_PER_EPOCH / 2;
/// Part of [`MAX_NEAR_SEATS_PER_SLOT`] that the votes of one peer may use. The last shuffling may
/// exceed it.
pub const MAX_NEAR_SEATS_OF_PEER: usize = MAX_NEAR_SEATS_PER_SLOT / 2;
/// Maximum number of shufflings that wait for the worker. On a large network the budgets allow
/// fewer.
const MAX_WAITING: usize = 128;

/// The budget from which a shuffling is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ComputeBudget {
    /// The near budget: the epoch is about now, and the decision is on a branch on which blocks are
    /// being built.
    Near,
    /// The odd budget: the epoch is far from now, or no more blocks are built on the decision
    /// block.
    Odd,
    /// No budget: only shufflings that are already there are used.
    AtHand,
}

/// States who computes shufflings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// The caller computes them and waits.
    #[default]
    AtOnce,
    /// A separate thread computes them, and the caller does not wait.
    OnWorker,
}

/// The peer whose vote needs a shuffling. `None` means no particular peer.
pub(crate) type Asker = Option<Arc<[u8]>>;

#[derive(Debug, Default)]
pub(crate) struct Shufflings {
    work: Work,
    cache: HashMap<(Epoch, Root), CachedShuffling>,
    clock: u64,
    bytes: usize,
    /// The latest active sets. Epochs and branches with equal sets share one list.
    recent_active: Vec<Arc<Vec<u32>>>,
    running: Option<RunningShuffling>,
    waiting: Vec<ShufflingRequest>,
    budget: Budget,
    pub(crate) computed: u64,
    pub(crate) evicted: u64,
    pub(crate) refused: u64,
}

/// What was computed in the current slot and epoch.
#[derive(Debug, Default)]
struct Budget {
    slot: Slot,
    epoch: Epoch,
    odd: u32,
    odd_seats: usize,
    near_seats: usize,
    /// Number of seats of the last odd shuffling.
    last_odd: usize,
    odd_by_asker: HashMap<Asker, u32>,
    near_seats_by_asker: HashMap<Asker, usize>,
}

impl Budget {
    fn turn_to(&mut self, slot: Slot, preset: &Preset) {
        if slot != self.slot {
            (self.slot, self.odd_seats, self.near_seats) = (slot, 0, 0);
            self.near_seats_by_asker.clear();
        }
        let epoch = slot.epoch(preset);
        if epoch != self.epoch {
            (self.epoch, self.odd) = (epoch, 0);
            self.odd_by_asker.clear();
        }
    }

    fn allows(&self, effort: ComputeBudget) -> bool {
        match effort {
            ComputeBudget::Near => self.near_seats < MAX_NEAR_SEATS_PER_SLOT,
            ComputeBudget::Odd => self.odd < MAX_ODD_PER_EPOCH && self.odd_seats < MAX_ODD_SEATS_PER_SLOT,
            ComputeBudget::AtHand => false,
        }
    }

    /// Returns whether the asker's own share is not used up.
    fn allows_asker(&self, effort: ComputeBudget, asker: &Asker) -> bool {
        let odd_most = if asker.is_some() { MAX_ODD_OF_PEER } else { MAX_ODD_OF_NOBODY };
        match effort {
            ComputeBudget::Near => self.near_seats_by_asker.get(asker).is_none_or(|seats| *seats < MAX_NEAR_SEATS_OF_PEER),
            ComputeBudget::Odd => self.odd_by_asker.get(asker).is_none_or(|n| *n < odd_most),
            ComputeBudget::AtHand => false,
        }
    }

    fn spend(&mut self, effort: ComputeBudget, seats: usize) {
        match effort {
            ComputeBudget::Near => self.near_seats += seats,
            ComputeBudget::Odd => {
                self.odd += 1;
                self.odd_seats += seats;
                self.last_odd = seats;
            }
            ComputeBudget::AtHand => {}
        }
    }

    fn spend_of(&mut self, asker: Asker, effort: ComputeBudget, seats: usize) {
        match effort {
            ComputeBudget::Near => *self.near_seats_by_asker.entry(asker).or_default() += seats,
            ComputeBudget::Odd => *self.odd_by_asker.entry(asker).or_default() += 1,
            ComputeBudget::AtHand => {}
        }
    }

    fn refund(&mut self) {
        self.odd = self.odd.saturating_sub(1);
        self.odd_seats = self.odd_seats.saturating_sub(self.last_odd);
    }
}

/// A registry and a decision block. Two blocks with one seed can be on branches with other exits.
type MadeFor = (RegistryId, Root);

/// Maximum number of decision blocks with one seed for which shufflings are made.
const MAX_MADE_FOR: usize = 8;

#[derive(Debug)]
struct CachedShuffling {
    /// The registry and the decision blocks for which all shufflings were made. For another one
    /// there may be more shufflings. Empty if a budget ended before all of them were made.
    made_for: Vec<MadeFor>,
    /// The shuffling of the followed registry first, then that of the latest state, then those of
    /// its other versions.
    shufflings: Vec<Arc<Shuffling>>,
    used: u64,
}

/// How soon the worker handles a request. The smallest value comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ShufflingUrgency {
    /// Votes about now wait for this shuffling.
    Near,
    /// A shuffling of the next epoch. No vote waits for it yet.
    Ahead,
    Odd,
}

/// A shuffling that the worker shall compute.
#[derive(Debug)]
struct ShufflingRequest {
    urgency: ShufflingUrgency,
    key: (Epoch, Root),
    decision: Decision,
    /// The validators that are active by what the blocks of the branch tell, if they are others
    /// than those of the registry.
    followed: Option<Arc<Vec<u32>>>,
    registry: RegistryId,
}

/// A shuffling that another thread is computing.
#[derive(Debug)]
struct RunningShuffling {
    key: (Epoch, Root),
    made_for: MadeFor,
    result: Receiver<Vec<Arc<Shuffling>>>,
}

/// The shufflings that are known for an epoch.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) shufflings: Vec<Arc<Shuffling>>,
    /// Others are still to come or were refused by a budget, so each of these may be the wrong one.
    pub(crate) lacks_some: bool,
}

impl Found {
    fn all(shufflings: Vec<Arc<Shuffling>>) -> Self {
        Self { shufflings, lacks_some: false }
    }

    fn some(shufflings: Vec<Arc<Shuffling>>) -> Self {
        Self { shufflings, lacks_some: true }
    }
}

/// A shuffling of one version of the registry: a known one, or an active set from which it is still
/// to be made.
enum ShufflingPart {
    Known(Arc<Shuffling>),
    Make(Arc<Vec<u32>>),
}

impl Shufflings {
    pub(crate) fn set_work(&mut self, work: Work) {
        self.work = work;
    }

    pub(crate) fn is_on_worker(&self) -> bool {
        self.work == Work::OnWorker
    }

    /// Starts to compute a shuffling that will soon be needed, unless it is known or another one is
    /// being computed.
    pub(crate) fn prepare(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        epoch: Epoch,
        decision: Decision,
        followed: Option<Arc<Vec<u32>>>,
    ) {
        self.poll(registry, preset);
        let key = key_of(epoch, decision);
        let has_room = self.running.is_none() || self.is_on_worker();
        if has_room && !self.cache.contains_key(&key) && !self.is_coming(&key) && registry.versions_at(epoch).len() <= 1 {
            let registry_id = registry.id();
            let request = ShufflingRequest { urgency: ShufflingUrgency::Ahead, key, decision, followed, registry: registry_id };
            self.request(request, registry, preset);
        }
    }

    /// Collects the result of the worker and gives it the next request. Returns whether there is a
    /// new result.
    pub(crate) fn poll(&mut self, registry: &Registry, preset: &Preset) -> bool {
        let mut has_news = false;
        if let Some(running) = self.running.take() {
            match running.result.try_recv() {
                Ok(shufflings) => {
                    self.clock += 1;
                    self.keep(running.key, Some(running.made_for), shufflings);
                    has_news = true;
                }
                Err(TryRecvError::Empty) => self.running = Some(running),
                // The thread panicked or was ended. A caller that still needs the shuffling asks
                // again.
                Err(TryRecvError::Disconnected) => {}
            }
        }
        self.start_next(registry, preset);
        has_news
    }

    /// If another thread is computing this shuffling, waits for it and returns the result.
    fn wait_for(&mut self, key: (Epoch, Root)) -> Option<Vec<Arc<Shuffling>>> {
        self.waiting.retain(|request| request.key != key);
        let running = self.running.take_if(|running| running.key == key)?;
        running.result.recv().ok()
    }

    fn is_coming(&self, key: &(Epoch, Root)) -> bool {
        self.running.as_ref().is_some_and(|running| running.key == *key) || self.waiting.iter().any(|request| request.key == *key)
    }

    fn request(&mut self, request: ShufflingRequest, registry: &Registry, preset: &Preset) {
        self.waiting.push(request);
        self.start_next(registry, preset);
    }

    /// Gives the worker the most urgent request, unless it is busy.
    fn start_next(&mut self, registry: &Registry, preset: &Preset) {
        while self.running.is_none()
            && let Some(nth) = (0..self.waiting.len()).min_by_key(|nth| self.waiting[*nth].urgency)
        {
            let ShufflingRequest { key, decision, followed, registry: of, .. } = self.waiting.remove(nth);
            if of != registry.id() {
                // A state has come since. A caller that still needs the shuffling asks again.
                continue;
            }
            let (epoch, seed) = key;
            let earlier = self.cache.get(&key).map(|entry| entry.shufflings.clone()).unwrap_or_default();
            let parts = self.parts(registry, epoch, followed, &earlier);
            self.computed += parts.iter().filter(|part| matches!(part, ShufflingPart::Make(_))).count() as u64;
            let preset = preset.clone();
            let (send, result) = sync_channel(1);
            let work = move || {
                let made = parts.into_iter().map(|part| match part {
                    ShufflingPart::Known(known) => known,
                    ShufflingPart::Make(active) => Arc::new(Shuffling::new(epoch, decision.root, seed, active, &preset)),
                });
                // Sending fails only if the chain is gone. Nobody needs the result then.
                let _ = send.send(made.collect());
            };
            // If no thread can be started, a caller that needs the shuffling asks again.
            if std::thread::Builder::new().name("shuffling".to_owned()).spawn(work).is_ok() {
                self.running = Some(RunningShuffling { key, made_for: (registry.id(), decision.root), result });
            }
        }
    }

    /// Lists the shufflings of an epoch in order: that of the followed registry, then one for each
    /// version of the registry with another active set, the current one first. After these come
    /// shufflings that were returned before. They stay even if the version of the registry behind
    /// them has been dropped.
    fn parts(
        &mut self,
        registry: &Registry,
        epoch: Epoch,
        followed: Option<Arc<Vec<u32>>>,
        earlier: &[Arc<Shuffling>],
    ) -> Vec<ShufflingPart> {
        let mut parts: Vec<ShufflingPart> = Vec::new();
        let is_of = |part: &ShufflingPart, active: &Arc<Vec<u32>>| match part {
            ShufflingPart::Known(known) => known.active() == active,
            ShufflingPart::Make(made_of) => made_of == active,
        };
        let versions = registry.versions_at(epoch).into_iter().map(|version| registry.active_at(epoch, version));
        for active in followed.into_iter().chain(versions) {
            let active = self.shared(active);
            if parts.iter().any(|part| is_of(part, &active)) {
                continue;
            }
            match earlier.iter().find(|known| *known.active() == active) {
                Some(known) => parts.push(ShufflingPart::Known(known.clone())),
                None => parts.push(ShufflingPart::Make(active)),
            }
        }
        for known in earlier {
            if parts.len() <= MAX_VERSIONS && parts.iter().all(|part| !is_of(part, known.active())) {
                parts.push(ShufflingPart::Known(known.clone()));
            }
        }
        parts
    }

    /// Returns the shufflings of `epoch` after `decision`: one for each version of the registry
    /// with another active set, the current one first. A shuffling is missing if `effort` does not
    /// allow it at the slot `now`, or if the worker has not finished it. The caller can ask again
    /// later. If a budget refuses what another registry needs, the result says so, because a valid
    /// vote looks forged in the committees of an earlier registry.
    #[expect(clippy::too_many_arguments, reason = "the chain's parts that it reads are borrowed one by one")]
    pub(crate) fn get(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        epoch: Epoch,
        decision: Decision,
        followed: impl FnOnce() -> Option<Arc<Vec<u32>>>,
        effort: ComputeBudget,
        asker: &Asker,
        now: Slot,
    ) -> Found {
        let key = key_of(epoch, decision);
        let made_for = (registry.id(), decision.root);
        self.budget.turn_to(now, preset);
        self.clock += 1;
        let mut earlier = match self.cache.get_mut(&key) {
            Some(entry) => {
                entry.used = self.clock;
                if entry.made_for.contains(&made_for) {
                    return Found::all(entry.shufflings.clone());
                }
                // One proposer can sign any number of blocks with one reveal. Not all of them are
                // worth a list of the active validators.
                let n_made = entry.made_for.iter().filter(|(registry, _)| *registry == made_for.0).count();
                if n_made >= MAX_MADE_FOR {
                    return Found::some(entry.shufflings.clone());
                }
                entry.shufflings.clone()
            }
            None => Vec::new(),
        };
        if self.is_on_worker() {
            return self.ask_worker(
                registry,
                preset,
                ShufflingRequest { urgency: urgency(effort), key, decision, followed: None, registry: made_for.0 },
                followed,
                effort,
                asker,
                earlier,
            );
        }
        earlier.extend(self.wait_for(key).unwrap_or_default());
        // Listing the active validators takes milliseconds, so it is done only if it can be of use.
        if earlier.is_empty() && !self.may_compute(effort) {
            return Found::some(earlier);
        }
        let mut found: Vec<Arc<Shuffling>> = Vec::new();
        for part in self.parts(registry, epoch, followed(), &earlier) {
            match part {
                ShufflingPart::Known(known) => found.push(known),
                ShufflingPart::Make(active) if self.may_compute(effort) => {
                    self.budget.spend(effort, active.len());
                    found.push(Arc::new(Shuffling::new(epoch, decision.root, key.1, active, preset)));
                    self.computed += 1;
                }
                ShufflingPart::Make(_) if effort == ComputeBudget::AtHand => {
                    return Found::all(if found.is_empty() { earlier } else { found });
                }
                // What was made so far is kept, so it is not made again. The next vote asks for the
                // rest.
                ShufflingPart::Make(_) => {
                    earlier.retain(|known| found.iter().all(|made| made.active() != known.active()));
                    found.append(&mut earlier);
                    if !found.is_empty() {
                        self.keep(key, None, found.clone());
                    }
                    return Found::some(found);
                }
            }
        }
        self.keep(key, Some(made_for), found.clone());
        Found::all(found)
    }

    /// Returns the shufflings if all are known. Otherwise requests them from the worker, within the
    /// budgets, and returns none. If a budget is used up, returns those that are known.
    #[expect(clippy::too_many_arguments, reason = "it goes on with what `get` was given")]
    fn ask_worker(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        mut request: ShufflingRequest,
        followed: impl FnOnce() -> Option<Arc<Vec<u32>>>,
        effort: ComputeBudget,
        asker: &Asker,
        earlier: Vec<Arc<Shuffling>>,
    ) -> Found {
        if effort == ComputeBudget::AtHand {
            return Found::all(earlier);
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.key == request.key) {
            waiting.urgency = waiting.urgency.min(request.urgency);
        }
        if self.is_coming(&request.key) {
            return Found::some(Vec::new());
        }
        if !self.budget.allows_asker(effort, asker) || self.waiting.len() >= MAX_WAITING {
            self.refused += 1;
            return Found::some(earlier);
        }
        if !self.may_compute(effort) {
            return Found::some(earlier);
        }
        let (epoch, _) = request.key;
        request.followed = followed();
        let (mut n_seats, mut known) = (0, Vec::new());
        for part in self.parts(registry, epoch, request.followed.clone(), &earlier) {
            match part {
                ShufflingPart::Known(shuffling) => known.push(shuffling),
                ShufflingPart::Make(active) => n_seats += active.len(),
            }
        }
        if n_seats == 0 && !known.is_empty() {
            self.keep(request.key, Some((request.registry, request.decision.root)), known.clone());
            return Found::all(known);
        }
        self.budget.spend(effort, n_seats);
        self.budget.spend_of(asker.clone(), effort, n_seats);
        self.request(request, registry, preset);
        Found::some(Vec::new())
    }

    fn may_compute(&mut self, effort: ComputeBudget) -> bool {
        let allowed = self.budget.allows(effort);
        self.refused += u64::from(!allowed && effort != ComputeBudget::AtHand);
        allowed
    }

    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns a part of the odd budget when the reveal of a past block has become known: the votes
    /// in it may again name odd epochs. Otherwise a replay of old blocks, in which no time passes,
    /// would be held up.
    pub(crate) fn refund(&mut self) {
        self.budget.refund();
    }

    fn keep(&mut self, key: (Epoch, Root), made_for: Option<MadeFor>, shufflings: Vec<Arc<Shuffling>>) {
        let mut all_made_for: Vec<MadeFor> = Vec::new();
        if let Some(replaced) = self.cache.remove(&key) {
            self.bytes -= bytes_of(&replaced.shufflings);
            // What was made for another block of the same registry is among these shufflings.
            let stays = |one: &MadeFor| made_for.is_some_and(|made_for| one.0 == made_for.0 && *one != made_for);
            all_made_for.extend(replaced.made_for.into_iter().filter(stays));
        }
        all_made_for.extend(made_for);
        let bytes = bytes_of(&shufflings);
        while !self.cache.is_empty() && (self.cache.len() >= MAX_SHUFFLINGS || self.bytes + bytes > MAX_BYTES) {
            self.evict();
        }
        self.bytes += bytes;
        self.cache.insert(key, CachedShuffling { made_for: all_made_for, shufflings, used: self.clock });
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

fn key_of(epoch: Epoch, decision: Decision) -> (Epoch, Root) {
    (epoch, compute_seed(DomainType::BeaconAttester, epoch, decision.mix))
}

fn urgency(effort: ComputeBudget) -> ShufflingUrgency {
    match effort {
        ComputeBudget::Near => ShufflingUrgency::Near,
        ComputeBudget::Odd | ComputeBudget::AtHand => ShufflingUrgency::Odd,
    }
}

fn bytes_of(shufflings: &[Arc<Shuffling>]) -> usize {
    shufflings.iter().map(|shuffling| shuffling.active().len() * 12).sum()
}
