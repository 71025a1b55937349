//! Committees, computed when a vote asks for them and kept for the next one.
//!
//! A shuffling follows from epoch, seed and active set; the seed from the mix of the decision block. It is therefore kept under
//! (epoch, seed), one for each version of the registry that had other validators active: branches whose decision blocks differ but whose mixes agree (a proposer's two versions of one
//! block carry the same reveal) share one, whose `decision_root` is the first branch's.
//!
//! The next epoch's is known an epoch before it is needed, so it is computed ahead on a thread of its own ([`Shufflings::prepare`]): otherwise
//! all messages would wait for it at every epoch's start.
//!
//! Price: one of a million validators takes about 0.5 s to compute (90 rounds) and 12 MB with its seat table. So both are bounded: the
//! cache by [`MAX_SHUFFLINGS`] and [`MAX_BYTES`], least recently used out first, and computing by budgets ([`Effort`]), because anyone can name
//! any epoch and any block of it in a vote before its signature is looked at: each block before an epoch's decision slot gives other committees.
//! The budgets of a slot also bound what a batch of votes holds beyond the cache: 12 bytes a seat.
//!
//! **Who computes.** Live ([`Work::OnWorker`]) it is a worker thread, one shuffling at a time, and whoever asked is told that there is none
//! yet: its vote waits, and the owner's next [`Shufflings::poll`] brings the answer. Nothing else waits. There each peer has a budget of its own,
//! so that one which names odd targets leaves the others theirs. A replay ([`Work::AtOnce`]) waits for each answer, so what it finds does not
//! depend on how fast a thread is, or on where its batches end.

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

/// Of the odd ones in an epoch, those that one peer's votes ask for.
pub const MAX_ODD_OF_PEER: u32 = MAX_ODD_PER_EPOCH / 8;
/// The same of votes that came from no peer in particular: those inside blocks.
pub const MAX_ODD_OF_NOBODY: u32 = MAX_ODD_PER_EPOCH / 2;
/// Of the near seats in a slot, those that one peer's votes ask for; the last one may go beyond.
pub const MAX_NEAR_SEATS_OF_PEER: usize = MAX_NEAR_SEATS_PER_SLOT / 2;
/// Shufflings that wait for the worker at most. Its budgets let in fewer on a large network.
const MAX_WAITING: usize = 128;

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

/// Who computes shufflings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// Whoever asks, and waits for it.
    #[default]
    AtOnce,
    /// A thread of its own, while whoever asked does something else.
    OnWorker,
}

/// Whose vote asks: a peer's, or nobody's in particular.
pub(crate) type Asker = Option<Arc<[u8]>>;

#[derive(Debug, Default)]
pub(crate) struct Shufflings {
    work: Work,
    cache: HashMap<(Epoch, Root), Entry>,
    clock: u64,
    bytes: usize,
    /// The last active sets, so that epochs and branches with equal ones share the list.
    recent_active: Vec<Arc<Vec<u32>>>,
    running: Option<Running>,
    waiting: Vec<Request>,
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

    fn allows(&self, effort: Effort) -> bool {
        match effort {
            Effort::Near => self.near_seats < MAX_NEAR_SEATS_PER_SLOT,
            Effort::Odd => self.odd < MAX_ODD_PER_EPOCH && self.odd_seats < MAX_ODD_SEATS_PER_SLOT,
            Effort::AtHand => false,
        }
    }

    /// Whether there is something left of the asker's own share.
    fn allows_asker(&self, effort: Effort, asker: &Asker) -> bool {
        let odd_most = if asker.is_some() { MAX_ODD_OF_PEER } else { MAX_ODD_OF_NOBODY };
        match effort {
            Effort::Near => self.near_seats_by_asker.get(asker).is_none_or(|seats| *seats < MAX_NEAR_SEATS_OF_PEER),
            Effort::Odd => self.odd_by_asker.get(asker).is_none_or(|n| *n < odd_most),
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

    fn spend_of(&mut self, asker: Asker, effort: Effort, seats: usize) {
        match effort {
            Effort::Near => *self.near_seats_by_asker.entry(asker).or_default() += seats,
            Effort::Odd => *self.odd_by_asker.entry(asker).or_default() += 1,
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

/// How soon the worker takes a request; the lesser one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Votes about now wait for it.
    Near,
    /// The next epoch's: nobody waits yet.
    Ahead,
    Odd,
}

/// One that is to be computed by the worker.
#[derive(Debug)]
struct Request {
    urgency: Urgency,
    key: (Epoch, Root),
    decision: Decision,
}

/// One that is being computed on another thread.
#[derive(Debug)]
struct Running {
    key: (Epoch, Root),
    registry: RegistryId,
    result: Receiver<Vec<Arc<Shuffling>>>,
}

/// What there is of the shufflings that an epoch can have.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) shufflings: Vec<Arc<Shuffling>>,
    /// Others are still to come or were refused by a budget: each of these may be the wrong one.
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

/// A shuffling of a version of the registry: known, or yet to be made of who is active.
enum Part {
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

    /// Begins to compute a shuffling that will soon be asked for, unless it is there or another one is under way.
    pub(crate) fn prepare(&mut self, registry: &Registry, preset: &Preset, epoch: Epoch, decision: Decision) {
        self.poll(registry, preset);
        let key = (epoch, compute_seed(DomainType::BeaconAttester, epoch, decision.mix));
        let has_room = self.running.is_none() || self.is_on_worker();
        if has_room && !self.cache.contains_key(&key) && !self.is_coming(&key) && registry.versions_at(epoch).len() <= 1 {
            self.request(Request { urgency: Urgency::Ahead, key, decision }, registry, preset);
        }
    }

    /// Keeps what the worker has finished, and gives it the next one. Whether there is something new.
    pub(crate) fn poll(&mut self, registry: &Registry, preset: &Preset) -> bool {
        let mut has_news = false;
        if let Some(running) = self.running.take() {
            match running.result.try_recv() {
                Ok(shufflings) => {
                    self.clock += 1;
                    self.keep(running.key, running.registry, shufflings);
                    has_news = true;
                }
                Err(TryRecvError::Empty) => self.running = Some(running),
                // The thread panicked or was ended: whoever wants it asks again.
                Err(TryRecvError::Disconnected) => {}
            }
        }
        self.start_next(registry, preset);
        has_news
    }

    /// Waits for what is being computed on the other thread, if it is this, and keeps it.
    fn wait_for(&mut self, key: (Epoch, Root)) -> Option<Vec<Arc<Shuffling>>> {
        self.waiting.retain(|request| request.key != key);
        let running = self.running.take_if(|running| running.key == key)?;
        running.result.recv().ok()
    }

    fn is_coming(&self, key: &(Epoch, Root)) -> bool {
        self.running.as_ref().is_some_and(|running| running.key == *key) || self.waiting.iter().any(|request| request.key == *key)
    }

    fn request(&mut self, request: Request, registry: &Registry, preset: &Preset) {
        self.waiting.push(request);
        self.start_next(registry, preset);
    }

    /// Gives the worker what is most urgent, unless it has something to do.
    fn start_next(&mut self, registry: &Registry, preset: &Preset) {
        while self.running.is_none()
            && let Some(nth) = (0..self.waiting.len()).min_by_key(|nth| self.waiting[*nth].urgency)
        {
            let Request { key, decision, .. } = self.waiting.remove(nth);
            let (epoch, seed) = key;
            let earlier = self.cache.get(&key).map(|entry| entry.shufflings.clone()).unwrap_or_default();
            let parts = self.parts(registry, epoch, &earlier);
            self.computed += parts.iter().filter(|part| matches!(part, Part::Make(_))).count() as u64;
            let preset = preset.clone();
            let (send, result) = sync_channel(1);
            let work = move || {
                let made = parts.into_iter().map(|part| match part {
                    Part::Known(known) => known,
                    Part::Make(active) => Arc::new(Shuffling::new(epoch, decision.root, seed, active, &preset)),
                });
                // Nobody listens any more if the chain is gone.
                let _ = send.send(made.collect());
            };
            // Without a thread, whoever wants it asks again.
            if std::thread::Builder::new().name("shuffling".to_owned()).spawn(work).is_ok() {
                self.running = Some(Running { key, registry: registry.id(), result });
            }
        }
    }

    /// What there is to be of an epoch, in order: one per differing version of the registry, the current one first. Then what has been
    /// handed out before: it stays, even if the registry's version behind it is forgotten.
    fn parts(&mut self, registry: &Registry, epoch: Epoch, earlier: &[Arc<Shuffling>]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let is_of = |part: &Part, active: &Arc<Vec<u32>>| match part {
            Part::Known(known) => known.active() == active,
            Part::Make(made_of) => made_of == active,
        };
        for version in registry.versions_at(epoch) {
            let active = self.shared(registry.active_at(epoch, version));
            if parts.iter().any(|part| is_of(part, &active)) {
                continue;
            }
            match earlier.iter().find(|known| *known.active() == active) {
                Some(known) => parts.push(Part::Known(known.clone())),
                None => parts.push(Part::Make(active)),
            }
        }
        for known in earlier {
            if parts.len() <= MAX_VERSIONS && parts.iter().all(|part| !is_of(part, known.active())) {
                parts.push(Part::Known(known.clone()));
            }
        }
        parts
    }

    /// The shufflings of `epoch` that `decision` leads to, one per differing version of the registry, the current one first. What
    /// `effort` does not allow at the slot `now`, or the worker has not finished, is missing: ask
    /// again later. Where the budget refuses what another registry asks for, the answer says so,
    /// because a good vote looks forged in the committees of an earlier registry.
    #[expect(clippy::too_many_arguments, reason = "the chain's parts that it reads are borrowed one by one")]
    pub(crate) fn get(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        epoch: Epoch,
        decision: Decision,
        effort: Effort,
        asker: &Asker,
        now: Slot,
    ) -> Found {
        let key = (epoch, compute_seed(DomainType::BeaconAttester, epoch, decision.mix));
        self.budget.turn_to(now, preset);
        self.clock += 1;
        let mut earlier = match self.cache.get_mut(&key) {
            Some(entry) => {
                entry.used = self.clock;
                if entry.registry == registry.id() {
                    return Found::all(entry.shufflings.clone());
                }
                entry.shufflings.clone()
            }
            None => Vec::new(),
        };
        if self.is_on_worker() {
            return self.ask_worker(
                registry,
                preset,
                Request { urgency: urgency(effort), key, decision },
                effort,
                asker,
                earlier,
            );
        }
        earlier.extend(self.wait_for(key).unwrap_or_default());
        // Listing who is active takes milliseconds, so it is not done in vain either.
        if earlier.is_empty() && !self.may_compute(effort) {
            return Found::some(earlier);
        }
        let mut found: Vec<Arc<Shuffling>> = Vec::new();
        for part in self.parts(registry, epoch, &earlier) {
            match part {
                Part::Known(known) => found.push(known),
                Part::Make(active) if self.may_compute(effort) => {
                    self.budget.spend(effort, active.len());
                    found.push(Arc::new(Shuffling::new(epoch, decision.root, key.1, active, preset)));
                    self.computed += 1;
                }
                Part::Make(_) if effort == Effort::AtHand => {
                    return Found::all(if found.is_empty() { earlier } else { found });
                }
                // Not kept, so that the next vote asks again.
                Part::Make(_) => return Found::some(earlier),
            }
        }
        self.keep(key, registry.id(), found.clone());
        Found::all(found)
    }

    /// What is there, if it is all; else the worker is asked for it, within the budgets, and there is none yet.
    fn ask_worker(
        &mut self,
        registry: &Registry,
        preset: &Preset,
        request: Request,
        effort: Effort,
        asker: &Asker,
        earlier: Vec<Arc<Shuffling>>,
    ) -> Found {
        if effort == Effort::AtHand {
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
        let (mut n_seats, mut known) = (0, Vec::new());
        for part in self.parts(registry, epoch, &earlier) {
            match part {
                Part::Known(shuffling) => known.push(shuffling),
                Part::Make(active) => n_seats += active.len(),
            }
        }
        if n_seats == 0 && !known.is_empty() {
            self.keep(request.key, registry.id(), known.clone());
            return Found::all(known);
        }
        self.budget.spend(effort, n_seats);
        self.budget.spend_of(asker.clone(), effort, n_seats);
        self.request(request, registry, preset);
        Found::some(Vec::new())
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

fn urgency(effort: Effort) -> Urgency {
    match effort {
        Effort::Near => Urgency::Near,
        Effort::Odd | Effort::AtHand => Urgency::Odd,
    }
}

fn bytes_of(shufflings: &[Arc<Shuffling>]) -> usize {
    shufflings.iter().map(|shuffling| shuffling.active().len() * 12).sum()
}
