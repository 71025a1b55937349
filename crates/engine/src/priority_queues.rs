//! Priority queues in front of the engine. Messages are sorted by what they would mean if they were
//! true. So an urgent message does not wait for a batch, a peer that forges messages delays nobody
//! else, and under overload the least informative messages are dropped.
//!
//! | queue | processed | dropped when it is full |
//! |---|---|---|
//! | none | at once, because a duplicate costs nothing | |
//! | urgent | first and alone | no contradiction: the input queue fills up |
//! | deferred | in turn with the queues below | as above |
//! | doubtful | a few between two ordinary batches | a new message whose peer has its share |
//! | settled | a few between two ordinary batches, all while no others are due | the newest |
//! | ordinary | together, once gathered | the newest, after all doubtful and settled messages |
//!
//! - none: messages that are already known.
//! - urgent: messages that would contradict something proven, stored or waiting (for blocks: proven
//!   in this run), and messages that others wait for (blocks, operations). Each batch takes only a
//!   few of one validator, and only little work of a peer that is not known yet. All such peers
//!   together have a share for what is laborious to check, because ids cost nothing.
//! - deferred: urgent messages above the share that their validator or peer has of a batch.
//! - doubtful: all messages of peers that mostly forge.
//! - settled: messages that name only validators that cannot be punished, or of which enough is on
//!   record.
//! - ordinary: single votes and aggregates, thousands per second.
//!
//! Two single votes that would contradict each other while both wait (a double vote, or one that
//! surrounds the other) become urgent together. Which
//! of them is true need not be known for that. If the first of them was dropped, the second becomes
//! urgent too. The first one comes again from other peers and then contradicts something proven.
//!
//! A dropped message is one of three kinds. It is a vote of the honest majority, which comes again
//! in aggregates and blocks. Or it comes from a peer that forges messages. Or it changes nothing. A
//! contradiction of a key that can be punished is dropped only if it comes from a peer that mostly
//! forges, or if enough is on record about its validator. And of peers that have proven nothing
//! yet, aggregates and slashing operations are dropped once a quarter of the places has them.
//! Without this, forgeries would fill all places, and nothing more would be heard of anybody.
//! Blocks bring the true ones. Nothing here reads a clock.
//!
//! **Bounds.** A message may have 10 MiB, so the waiting messages are bounded in bytes too
//! ([`QueueLimits`]). [`QueueLimits::bytes`] applies once to the messages that may be dropped and
//! once to the urgent messages. Doubtful messages may use a quarter of it, and settled messages
//! another quarter. [`QueueLimits::bytes_per_peer`] limits the messages of one peer, except its
//! contradictions.

use crate::claimed_votes::ClaimedVotes;
use consensus::{Epoch, ValidatorIndex};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use verify::{
    MessageKind, Outcome, PeerBytes, PeerReputation, RawMessage, Time, Triage, greatest_index_named, single_vote_claimed,
};

/// Contradictions and blocks in one batch.
const URGENT_BATCH: usize = 256;
/// Work in such a batch from one peer that is not known yet, in single votes. This limits the cost
/// of forged contradictions until the peer is known to forge.
const URGENT_PER_UNKNOWN_PEER: usize = 16;
/// Work in such a batch from all peers that are not known yet, in single votes, besides the single
/// votes themselves: some 15 ms, or one message that takes longer. So whoever sends operations of
/// a hundred thousand signers or aggregates with ever new ids delays the contradictions of others
/// by one message.
const LABORIOUS_OF_UNKNOWN_PEERS: usize = 64;
/// Messages in such a batch in the name of one validator. This limits how long a single key can
/// make others wait.
const URGENT_PER_VALIDATOR: usize = 8;
/// Urgent messages that are passed over to form one batch.
const MAX_PASSED_OVER: usize = 2_048;
/// Doubtful messages between two ordinary batches, measured in the cost of single votes. Each is
/// verified by itself; all together take about 20 ms.
const DOUBTFUL_BATCH: usize = 32;
/// One of this many places is for doubtful messages.
const DOUBTFUL_SHARE: usize = 4;
/// Settled messages in one batch, measured in the cost of single votes: about 10 ms.
const SETTLED_BATCH: usize = 16;
/// One of this many places, and of this many bytes, is for laborious messages of strangers that are
/// above their share of a batch.
const DEFERRED_STRANGERS_SHARE: usize = 4;
/// One of this many places is for settled messages.
const SETTLED_SHARE: usize = 4;
/// Settled messages of one validator that may wait: about one second of work if nothing else waits.
const SETTLED_PER_VALIDATOR: usize = 1_024;
/// Settled messages of one peer that may wait. This is more than all votes of its slashed keys in
/// one slot.
const SETTLED_PER_PEER: usize = 4_096;
/// Doubtful messages may use one of this many bytes, and so may settled messages.
const BYTES_SHARE: usize = 4;

/// Cost of an aggregate with unproven members, in single votes: an equation of its own, and the two
/// signatures of the aggregator.
const AGGREGATE_WEIGHT: usize = 8;
/// Cost of a slashing operation, in single votes: two signatures, and two more for its proof.
const OPERATION_WEIGHT: usize = 4;
/// Signers whose keys are added in the time of a single vote, by the bytes that name them: eight of
/// an operation, one bit of an aggregate.
const SIGNERS_PER_WEIGHT: usize = 256;
/// Memory of a message in addition to its bytes.
const OVERHEAD_BYTES: usize = 256;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Number of messages in all queues together.
    pub messages: usize,
    /// Bytes of urgent messages. The same limit applies again to all other messages together.
    pub bytes: usize,
    /// Bytes of one peer's messages, except its contradictions. Messages without a peer are not
    /// limited by this.
    pub bytes_per_peer: usize,
    /// Largest number of ordinary messages in one batch. An aggregate counts as several.
    pub batch: usize,
    /// How long ordinary messages are gathered, so that many share the cost of one equation.
    pub gather: Duration,
}

impl QueueLimits {
    /// 128 MiB: about fifty times what mainnet sends in votes and aggregates within four seconds.
    pub const BYTES: usize = 128 << 20;
    /// 32 MiB: three of the largest messages.
    pub const BYTES_PER_PEER: usize = 32 << 20;
}

/// Why a message was dropped before verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Its content is already proven.
    Known,
    /// There are more votes than can be verified.
    Overload,
    /// There are more messages of peers that mostly forge than can be verified.
    Forger,
    /// There are more messages than can be verified of validators that cannot be punished, or of
    /// which enough is on record.
    Settled,
    /// There are more messages of peers that are not known yet than can be verified, and this one
    /// is laborious: an aggregate or a slashing operation.
    Stranger,
    /// All waiting messages together have too many bytes.
    Bytes,
    /// The waiting messages of this peer have too many bytes.
    PeerBytes,
}

impl Dropped {
    pub const ALL: [Self; 7] =
        [Self::Known, Self::Overload, Self::Forger, Self::Settled, Self::Stranger, Self::Bytes, Self::PeerBytes];

    /// The outcome that the message has.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Known => Outcome::Duplicate,
            Self::Overload => Outcome::Refused("shed: more votes than can be judged"),
            Self::Forger => Outcome::Refused("shed: more from peers that forge than can be judged"),
            Self::Settled => {
                Outcome::Refused("shed: more from validators that cannot be punished or are on record than can be judged")
            }
            Self::Stranger => Outcome::Refused("shed: more from peers that are not known yet than can be judged"),
            Self::Bytes | Self::PeerBytes => Outcome::Refused("shed: more bytes than may wait"),
        }
    }

    /// Value of the label `reason` in the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Overload => "overload",
            Self::Forger => "liar",
            Self::Settled => "settled",
            Self::Stranger => "stranger",
            Self::Bytes => "bytes",
            Self::PeerBytes => "peer_bytes",
        }
    }
}

/// What the queues give at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages to process. Empty if nothing is due.
    pub messages: Vec<RawMessage>,
    /// Messages that are dropped instead, because their peer is known to forge by now and there is
    /// no room for them among its other messages.
    pub dropped: Vec<(RawMessage, Dropped)>,
}

/// A queue that tracks its size in bytes.
#[derive(Debug, Default)]
struct PriorityQueue {
    messages: VecDeque<RawMessage>,
    bytes: usize,
}

impl PriorityQueue {
    fn push_back(&mut self, message: RawMessage) {
        self.bytes += size(&message);
        self.messages.push_back(message);
    }

    fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.messages.append(&mut other.messages);
    }

    fn pop_front(&mut self) -> Option<RawMessage> {
        let message = self.messages.pop_front()?;
        self.bytes -= size(&message);
        Some(message)
    }

    fn pop_back(&mut self) -> Option<RawMessage> {
        let message = self.messages.pop_back()?;
        self.bytes -= size(&message);
        Some(message)
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

fn size(message: &RawMessage) -> usize {
    message.bytes.len() + OVERHEAD_BYTES
}

/// Counters by key. A counter that reaches zero is removed.
#[derive(Debug)]
struct CountsByKey<K>(HashMap<K, usize>);

impl<K: Hash + Eq> CountsByKey<K> {
    fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: K, n: usize) {
        *self.0.entry(key).or_default() += n;
    }

    fn remove(&mut self, key: &K, n: usize) {
        if let Some(held) = self.0.get_mut(key) {
            *held -= n;
            if *held == 0 {
                self.0.remove(key);
            }
        }
    }
}

/// The queues that take turns, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextQueue {
    Deferred,
    Doubtful,
    Settled,
}

impl NextQueue {
    const ALL: [Self; 3] = [Self::Deferred, Self::Doubtful, Self::Settled];
}

/// Selects the new or the deferred urgent messages.
#[derive(Clone, Copy)]
enum UrgentPart {
    New,
    Deferred,
}

/// The waiting messages. The engine thread is the only owner.
#[derive(Debug)]
pub struct PriorityQueues {
    limits: QueueLimits,
    urgent: PriorityQueue,
    deferred: PriorityQueue,
    doubtful: PriorityQueue,
    settled: PriorityQueue,
    /// The validators of the settled messages, in the same order. Each settled message counts for
    /// one validator.
    settled_validators: VecDeque<ValidatorIndex>,
    ordinary: PriorityQueue,
    /// Bytes of all waiting messages, by peer.
    bytes_by_peer: CountsByKey<PeerBytes>,
    doubtful_by_peer: CountsByKey<Option<PeerBytes>>,
    settled_by_peer: CountsByKey<Option<PeerBytes>>,
    settled_by_validator: CountsByKey<ValidatorIndex>,
    /// The single votes in the ordinary queue.
    waiting_votes: ClaimedVotes,
    /// Votes that were dropped for lack of room. A second vote for the target of one of them is
    /// still urgent. There are at most as many as messages may wait.
    dropped_votes: ClaimedVotes,
    /// Waiting votes that another message contradicts, by validator and target. They become urgent.
    contradicted: HashSet<(ValidatorIndex, Epoch)>,
    /// Queues that had their turn since the last ordinary batch.
    served: Vec<NextQueue>,
}

impl PriorityQueues {
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits: QueueLimits { messages: limits.messages.max(1), batch: limits.batch.max(1), ..limits },
            urgent: PriorityQueue::default(),
            deferred: PriorityQueue::default(),
            doubtful: PriorityQueue::default(),
            settled: PriorityQueue::default(),
            settled_validators: VecDeque::new(),
            ordinary: PriorityQueue::default(),
            bytes_by_peer: CountsByKey(HashMap::new()),
            doubtful_by_peer: CountsByKey(HashMap::new()),
            settled_by_peer: CountsByKey(HashMap::new()),
            settled_by_validator: CountsByKey(HashMap::new()),
            waiting_votes: ClaimedVotes::default(),
            dropped_votes: ClaimedVotes::default(),
            contradicted: HashSet::new(),
            served: Vec::new(),
        }
    }

    fn queues(&self) -> [&PriorityQueue; 5] {
        [&self.urgent, &self.deferred, &self.doubtful, &self.settled, &self.ordinary]
    }

    /// Number of waiting messages.
    pub fn len(&self) -> usize {
        self.queues().iter().map(|queue| queue.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all waiting messages.
    pub fn bytes(&self) -> usize {
        self.queues().iter().map(|queue| queue.bytes).sum()
    }

    /// Returns the arrival time of the message that waits longest. This looks at every message.
    pub fn oldest(&self) -> Option<Time> {
        self.queues().into_iter().flat_map(|queue| &queue.messages).map(|message| message.received_at).min()
    }

    /// Returns true if another full batch of ordinary votes waits, so votes come faster than they
    /// are verified.
    pub fn is_pressed(&self) -> bool {
        self.ordinary.len() >= self.limits.batch
    }

    /// Returns true if more messages may be taken from the queue. Urgent messages are never
    /// dropped, so there must be room for them.
    pub fn has_room(&self) -> bool {
        self.urgent.len() + self.deferred.len() < self.limits.messages
            && self.urgent.bytes + self.deferred.bytes < self.limits.bytes
    }

    /// Adds a message. If a message is dropped for it, this returns that message and the reason.
    /// The dropped message may be the new one or another one.
    pub fn push(&mut self, message: RawMessage, triage: Triage, repute: PeerReputation) -> Option<(RawMessage, Dropped)> {
        if triage == Triage::Known {
            return Some((message, Dropped::Known));
        }
        let is_pair = triage == Triage::Ordinary && repute != PeerReputation::Bad && self.contradicts_unproven(&message);
        let is_contradiction = (triage == Triage::Contradiction || is_pair) && repute != PeerReputation::Bad;
        if !is_contradiction && self.is_over_its_bytes(&message) {
            return Some((message, Dropped::PeerBytes));
        }
        match (triage, repute) {
            (_, PeerReputation::Bad) => self.push_doubtful(message),
            (Triage::Settled(validator), _) => self.push_settled(message, validator),
            (Triage::Ordinary, _) if !is_pair => self.push_ordinary(message),
            (Triage::Contradiction | Triage::Context | Triage::Ordinary | Triage::Known, _) => {
                self.note_bytes(&message);
                self.urgent.push_back(message);
                None
            }
        }
    }

    /// Returns how long it takes until a batch is due. It returns zero if one is due now, and
    /// `None` if nothing waits.
    pub fn due_in(&self, now: Time) -> Option<Duration> {
        if [&self.urgent, &self.deferred, &self.settled].iter().any(|queue| !queue.is_empty()) {
            return Some(Duration::ZERO);
        }
        self.ordinary_due_in(now).or_else(|| (!self.doubtful.is_empty()).then_some(Duration::ZERO))
    }

    fn ordinary_due_in(&self, now: Time) -> Option<Duration> {
        if self.ordinary.len() >= self.limits.batch {
            return Some(Duration::ZERO);
        }
        let oldest = self.ordinary.messages.front()?;
        let waited = Duration::from_nanos(now.0.saturating_sub(oldest.received_at.0));
        Some(self.limits.gather.saturating_sub(waited))
    }

    /// Returns the next batch.
    pub fn take(&mut self, now: Time, repute: impl Fn(Option<&PeerBytes>) -> PeerReputation) -> Batch {
        let mut dropped = Vec::new();
        let messages = self.choose(now, &repute, &mut dropped);
        for message in &messages {
            self.forget_bytes(message);
        }
        Batch { messages, dropped }
    }

    fn choose(
        &mut self,
        now: Time,
        repute: &impl Fn(Option<&PeerBytes>) -> PeerReputation,
        dropped: &mut Vec<(RawMessage, Dropped)>,
    ) -> Vec<RawMessage> {
        self.promote_contradicted();
        let urgent = self.take_urgent(UrgentPart::New, repute, dropped);
        if !urgent.is_empty() {
            return urgent;
        }
        let is_due = self.ordinary_due_in(now) == Some(Duration::ZERO);
        for _ in 0..2 {
            for turn in NextQueue::ALL {
                if self.served.contains(&turn) {
                    continue;
                }
                let batch = match turn {
                    NextQueue::Deferred => self.take_urgent(UrgentPart::Deferred, repute, dropped),
                    NextQueue::Doubtful => self.take_doubtful(),
                    NextQueue::Settled => self.take_settled(),
                };
                if !batch.is_empty() {
                    self.served.push(turn);
                    return batch;
                }
            }
            if is_due {
                break;
            }
            // Nothing else is due, so all queues get another turn. The doubtful queue gets none
            // while ordinary messages are gathered, because it must not delay them.
            let has_ordinary = !self.ordinary.is_empty();
            self.served.retain(|turn| *turn == NextQueue::Doubtful && has_ordinary);
        }
        if !is_due {
            return Vec::new();
        }
        self.served.clear();
        let (mut batch, mut weight) = (Vec::new(), 0);
        while weight < self.limits.batch
            && let Some(message) = self.ordinary.pop_front()
        {
            self.forget_vote(&message);
            weight += if message.kind == MessageKind::Aggregate { AGGREGATE_WEIGHT } else { 1 };
            batch.push(message);
        }
        batch
    }

    fn take_doubtful(&mut self) -> Vec<RawMessage> {
        let (mut batch, mut weight) = (Vec::new(), 0);
        while weight < DOUBTFUL_BATCH
            && let Some(message) = self.pop_doubtful(PriorityQueue::pop_front)
        {
            weight += weight_alone(&message);
            batch.push(message);
        }
        batch
    }

    /// Takes a batch of urgent messages. Each validator, each unknown peer, and all of these peers
    /// together have a share of a batch, and messages above the share are deferred. If a peer is
    /// known to forge by now, its messages move to the doubtful queue.
    fn take_urgent(
        &mut self,
        urgency: UrgentPart,
        repute: &impl Fn(Option<&PeerBytes>) -> PeerReputation,
        dropped: &mut Vec<(RawMessage, Dropped)>,
    ) -> Vec<RawMessage> {
        let mut from = std::mem::take(match urgency {
            UrgentPart::New => &mut self.urgent,
            UrgentPart::Deferred => &mut self.deferred,
        });
        let (mut batch, mut beyond) = (Vec::new(), PriorityQueue::default());
        let (mut by_unknown_peer, mut by_validator) = (CountsByKey(HashMap::new()), CountsByKey(HashMap::new()));
        let mut laborious = 0;
        while batch.len() < URGENT_BATCH
            && beyond.len() < MAX_PASSED_OVER
            && let Some(message) = from.pop_front()
        {
            let repute = repute(message.origin.peer.as_ref());
            if repute == PeerReputation::Bad {
                dropped.extend(self.move_to_doubtful(message));
                continue;
            }
            let unknown_peer = message.origin.peer.as_ref().filter(|_| repute == PeerReputation::Unknown);
            let (validator, weight) = (single_name(&message), weight_alone(&message));
            // The first one always finds a place, however laborious it is.
            let is_over = |used: usize, share: usize| used > 0 && used + weight > share;
            let is_laborious = unknown_peer.is_some() && weight > 1;
            if unknown_peer.is_some_and(|peer| {
                is_over(by_unknown_peer.of(peer), URGENT_PER_UNKNOWN_PEER)
                    || is_laborious && is_over(laborious, LABORIOUS_OF_UNKNOWN_PEERS)
            }) || validator.is_some_and(|validator| by_validator.of(&validator) >= URGENT_PER_VALIDATOR)
            {
                let has_room = self.deferred.len() + beyond.len() < self.limits.messages / DEFERRED_STRANGERS_SHARE
                    && self.deferred.bytes + beyond.bytes < self.limits.bytes / DEFERRED_STRANGERS_SHARE;
                if is_laborious && !has_room && matches!(urgency, UrgentPart::New) {
                    self.forget_bytes(&message);
                    dropped.push((message, Dropped::Stranger));
                } else {
                    beyond.push_back(message);
                }
                continue;
            }
            if let Some(peer) = unknown_peer {
                by_unknown_peer.add(peer.clone(), weight);
                laborious += if is_laborious { weight } else { 0 };
            }
            validator.into_iter().for_each(|validator| by_validator.add(validator, 1));
            batch.push(message);
        }
        match urgency {
            UrgentPart::New => self.urgent = from,
            UrgentPart::Deferred => self.deferred = from,
        }
        self.deferred.append(beyond);
        batch
    }

    fn take_settled(&mut self) -> Vec<RawMessage> {
        let (mut batch, mut weight) = (Vec::new(), 0);
        while weight < SETTLED_BATCH
            && let Some(message) = self.pop_settled(PriorityQueue::pop_front, VecDeque::pop_front)
        {
            weight += match message.kind {
                MessageKind::Block => SETTLED_BATCH,
                MessageKind::AttesterSlashing | MessageKind::ProposerSlashing => OPERATION_WEIGHT,
                _ => 1,
            };
            batch.push(message);
        }
        batch
    }

    fn is_over_its_bytes(&self, message: &RawMessage) -> bool {
        let peer = message.origin.peer.as_ref();
        peer.is_some_and(|peer| self.bytes_by_peer.of(peer) + size(message) > self.limits.bytes_per_peer)
    }

    /// Bytes of the messages that may be dropped.
    fn droppable_bytes(&self) -> usize {
        self.doubtful.bytes + self.settled.bytes + self.ordinary.bytes
    }

    fn note_bytes(&mut self, message: &RawMessage) {
        if let Some(peer) = &message.origin.peer {
            self.bytes_by_peer.add(peer.clone(), size(message));
        }
    }

    fn forget_bytes(&mut self, message: &RawMessage) {
        if let Some(peer) = &message.origin.peer {
            self.bytes_by_peer.remove(peer, size(message));
        }
    }

    /// Returns true if this vote contradicts a vote that waits or was dropped. A contradicted vote
    /// that waits is marked in `contradicted`.
    fn contradicts_unproven(&mut self, message: &RawMessage) -> bool {
        let Some(vote) = single_vote_claimed(message) else { return false };
        let waits = self.waiting_votes.contradicted_by(&vote, |target| {
            self.contradicted.insert((vote.voter, target));
        });
        waits || self.dropped_votes.contradicted_by(&vote, |_| ())
    }

    fn remember_dropped(&mut self, message: &RawMessage) {
        let Some(vote) = single_vote_claimed(message) else { return };
        if self.dropped_votes.len() >= self.limits.messages {
            self.dropped_votes.clear();
        }
        self.dropped_votes.insert_data(&vote);
    }

    fn push_ordinary(&mut self, message: RawMessage) -> Option<(RawMessage, Dropped)> {
        if self.droppable_bytes() + size(&message) > self.limits.bytes {
            self.remember_dropped(&message);
            return Some((message, Dropped::Bytes));
        }
        let mut dropped = None;
        if self.len() >= self.limits.messages {
            let doubtful = self.pop_doubtful(PriorityQueue::pop_back).map(|message| (message, Dropped::Forger));
            dropped = doubtful.or_else(|| {
                self.pop_settled(PriorityQueue::pop_back, VecDeque::pop_back).map(|message| (message, Dropped::Settled))
            });
            match &dropped {
                Some((message, _)) => self.forget_bytes(message),
                None => {
                    self.remember_dropped(&message);
                    return Some((message, Dropped::Overload));
                }
            }
        }
        if let Some(vote) = single_vote_claimed(&message) {
            self.waiting_votes.insert(&vote);
        }
        self.note_bytes(&message);
        self.ordinary.push_back(message);
        dropped
    }

    fn forget_vote(&mut self, message: &RawMessage) {
        if let Some(vote) = single_vote_claimed(message) {
            self.waiting_votes.remove(&vote);
        }
    }

    /// Moves contradicted votes to the urgent queue, in one pass over the ordinary queue.
    fn promote_contradicted(&mut self) {
        if self.contradicted.is_empty() {
            return;
        }
        let contradicted = std::mem::take(&mut self.contradicted);
        for message in std::mem::take(&mut self.ordinary).messages {
            let vote = single_vote_claimed(&message);
            if vote.is_some_and(|vote| contradicted.contains(&(vote.voter, vote.target))) {
                self.forget_vote(&message);
                self.urgent.push_back(message);
            } else {
                self.ordinary.push_back(message);
            }
        }
    }

    fn push_settled(&mut self, message: RawMessage, validator: ValidatorIndex) -> Option<(RawMessage, Dropped)> {
        let places = (self.limits.messages / SETTLED_SHARE).max(1);
        if self.settled.len() >= places
            || self.settled_by_validator.of(&validator) >= SETTLED_PER_VALIDATOR
            || self.settled_by_peer.of(&message.origin.peer) >= SETTLED_PER_PEER
        {
            return Some((message, Dropped::Settled));
        }
        if self.settled.bytes + size(&message) > self.limits.bytes / BYTES_SHARE {
            return Some((message, Dropped::Bytes));
        }
        self.note_bytes(&message);
        self.settled_by_validator.add(validator, 1);
        self.settled_by_peer.add(message.origin.peer.clone(), 1);
        self.settled_validators.push_back(validator);
        self.settled.push_back(message);
        None
    }

    fn pop_settled(
        &mut self,
        pop: fn(&mut PriorityQueue) -> Option<RawMessage>,
        pop_validator: fn(&mut VecDeque<ValidatorIndex>) -> Option<ValidatorIndex>,
    ) -> Option<RawMessage> {
        let (message, validator) = pop(&mut self.settled).zip(pop_validator(&mut self.settled_validators))?;
        self.settled_by_validator.remove(&validator, 1);
        self.settled_by_peer.remove(&message.origin.peer, 1);
        Some(message)
    }

    fn push_doubtful(&mut self, message: RawMessage) -> Option<(RawMessage, Dropped)> {
        let limit = (self.limits.messages / DOUBTFUL_SHARE).max(1);
        let peers = self.doubtful_by_peer.0.len().max(1);
        let held = self.doubtful_by_peer.of(&message.origin.peer);
        // A peer may hold an equal share of the places, so one peer cannot keep another peer's
        // messages out forever.
        if self.doubtful.len() >= limit && held >= limit.div_ceil(peers) || self.doubtful.len() >= 2 * limit {
            return Some((message, Dropped::Forger));
        }
        if self.doubtful.bytes + size(&message) > self.limits.bytes / BYTES_SHARE {
            return Some((message, Dropped::Bytes));
        }
        self.note_bytes(&message);
        self.doubtful_by_peer.add(message.origin.peer.clone(), 1);
        self.doubtful.push_back(message);
        None
    }

    /// Moves an urgent message whose peer is known to forge by now. The limits of doubtful messages
    /// apply to it from now on.
    fn move_to_doubtful(&mut self, message: RawMessage) -> Option<(RawMessage, Dropped)> {
        self.forget_bytes(&message);
        if self.is_over_its_bytes(&message) {
            return Some((message, Dropped::PeerBytes));
        }
        self.push_doubtful(message)
    }

    fn pop_doubtful(&mut self, pop: fn(&mut PriorityQueue) -> Option<RawMessage>) -> Option<RawMessage> {
        let message = pop(&mut self.doubtful)?;
        self.doubtful_by_peer.remove(&message.origin.peer, 1);
        Some(message)
    }
}

/// What it costs to verify a message by itself, in single votes. Keys that must be added come on
/// top of the equations.
fn weight_alone(message: &RawMessage) -> usize {
    let length = message.bytes.len();
    match message.kind {
        MessageKind::AttesterSlashing => OPERATION_WEIGHT + length / 8 / SIGNERS_PER_WEIGHT,
        MessageKind::Aggregate => AGGREGATE_WEIGHT + length * 8 / SIGNERS_PER_WEIGHT,
        MessageKind::ProposerSlashing => OPERATION_WEIGHT,
        MessageKind::Block
        | MessageKind::Attestation { .. }
        | MessageKind::AttestationByBits
        | MessageKind::Header
        | MessageKind::BlobSidecar { .. }
        | MessageKind::DataColumnSidecar { .. }
        | MessageKind::PayloadAttestation
        | MessageKind::PayloadBid
        | MessageKind::InclusionList => 1,
    }
}

/// Returns the validator of a message that names only one. Blocks and their parts return `None`,
/// because other messages wait for them.
fn single_name(message: &RawMessage) -> Option<ValidatorIndex> {
    match message.kind {
        MessageKind::Attestation { .. } | MessageKind::ProposerSlashing | MessageKind::Header => {
            greatest_index_named(message).map(ValidatorIndex::new)
        }
        MessageKind::Block
        | MessageKind::Aggregate
        | MessageKind::AttestationByBits
        | MessageKind::AttesterSlashing
        | MessageKind::BlobSidecar { .. }
        | MessageKind::DataColumnSidecar { .. }
        | MessageKind::PayloadAttestation
        | MessageKind::PayloadBid
        | MessageKind::InclusionList => None,
    }
}

#[cfg(test)]
mod tests;
