//! Priority queues in front of the engine. Messages are sorted by what they would mean if they were
//! true. So an urgent message does not wait for a batch, a peer that forges messages delays nobody
//! else, and under overload the least informative messages are dropped.
//!
//! | lane | processed | dropped when the lane is full |
//! |---|---|---|
//! | none | at once, because a duplicate costs nothing | |
//! | urgent | first and alone | no contradiction: the queue in front of the lanes fills up |
//! | deferred | in turn with the lanes below | as above |
//! | doubtful | a few between two ordinary batches | a new message whose peer has its share |
//! | settled | a few between two ordinary batches, all while no others are due | the newest |
//! | ordinary | together, once gathered | the newest, after all doubtful and settled messages |
//!
//! - none: messages that are already known.
//! - urgent: messages that would contradict something proven, stored or waiting, and messages that
//!   others wait for (blocks, operations). Each batch takes only a few of one validator, and only a
//!   few of a peer that is not known yet.
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
//! forges, or if enough is on record about its validator. Nothing here reads a clock.
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
use verify::{MessageKind, PeerBytes, PeerReputation, RawMessage, Triage, UnixNs, greatest_index_named, single_vote_claimed};

/// Contradictions and blocks in one batch.
const URGENT_BATCH: usize = 256;
/// Messages in such a batch from one peer that is not known yet. This limits the cost of forged
/// contradictions until the peer is known to forge.
const URGENT_PER_STRANGER: usize = 16;
/// Messages in such a batch in the name of one validator. This limits how long a single key can
/// make others wait.
const URGENT_PER_VALIDATOR: usize = 8;
/// Urgent messages that are passed over to form one batch.
const MAX_PASSED_OVER: usize = 2_048;
/// Doubtful messages between two ordinary batches. Each is verified by itself; all together take
/// about 20 ms.
const DOUBTFUL_BATCH: usize = 32;
/// One of this many places is for doubtful messages.
const DOUBTFUL_SHARE: usize = 4;
/// Settled messages in one batch, measured in the cost of single votes: about 10 ms.
const SETTLED_BATCH: usize = 16;
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
/// Memory of a message in addition to its bytes.
const OVERHEAD_BYTES: usize = 256;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Number of messages in all lanes together.
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
    Liar,
    /// There are more messages than can be verified of validators that cannot be punished, or of
    /// which enough is on record.
    Settled,
    /// All waiting messages together have too many bytes.
    Bytes,
    /// The waiting messages of this peer have too many bytes.
    PeerBytes,
}

impl Dropped {
    pub const ALL: [Self; 6] = [Self::Known, Self::Overload, Self::Liar, Self::Settled, Self::Bytes, Self::PeerBytes];

    /// Value of the label `reason` in the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Overload => "overload",
            Self::Liar => "liar",
            Self::Settled => "settled",
            Self::Bytes => "bytes",
            Self::PeerBytes => "peer_bytes",
        }
    }
}

/// A validator has one vote for each target epoch.
type VoteKey = (ValidatorIndex, Epoch);

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

/// The lanes that take turns, in this order.
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
    /// The single votes in the ordinary lane.
    waiting_votes: ClaimedVotes,
    /// Votes that were dropped for lack of room. A vote that contradicts one of them is still
    /// urgent. They name at most as many validators as messages may wait.
    dropped_votes: ClaimedVotes,
    /// Waiting votes that another message contradicts. They become urgent.
    rivalled: HashSet<VoteKey>,
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
            rivalled: HashSet::new(),
            served: Vec::new(),
        }
    }

    fn lanes(&self) -> [&PriorityQueue; 5] {
        [&self.urgent, &self.deferred, &self.doubtful, &self.settled, &self.ordinary]
    }

    /// Number of waiting messages.
    pub fn len(&self) -> usize {
        self.lanes().iter().map(|lane| lane.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all waiting messages.
    pub fn bytes(&self) -> usize {
        self.lanes().iter().map(|lane| lane.bytes).sum()
    }

    /// Returns the arrival time of the message that waits longest. This looks at every message.
    pub fn oldest(&self) -> Option<UnixNs> {
        self.lanes().into_iter().flat_map(|lane| &lane.messages).map(|message| message.received_at).min()
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
        let rivals = triage == Triage::Ordinary && repute != PeerReputation::Bad && self.has_rival(&message);
        let is_contradiction = (triage == Triage::Contradiction || rivals) && repute != PeerReputation::Bad;
        if !is_contradiction && self.is_over_its_bytes(&message) {
            return Some((message, Dropped::PeerBytes));
        }
        match (triage, repute) {
            (_, PeerReputation::Bad) => self.push_doubtful(message),
            (Triage::Settled(validator), _) => self.push_settled(message, validator),
            (Triage::Ordinary, _) if !rivals => self.push_ordinary(message),
            (Triage::Contradiction | Triage::Context | Triage::Ordinary | Triage::Known, _) => {
                self.note_bytes(&message);
                self.urgent.push_back(message);
                None
            }
        }
    }

    /// Returns how long it takes until a batch is due. It returns zero if one is due now, and
    /// `None` if nothing waits.
    pub fn due_in(&self, now: UnixNs) -> Option<Duration> {
        if [&self.urgent, &self.deferred, &self.settled].iter().any(|lane| !lane.is_empty()) {
            return Some(Duration::ZERO);
        }
        self.ordinary_due_in(now).or_else(|| (!self.doubtful.is_empty()).then_some(Duration::ZERO))
    }

    fn ordinary_due_in(&self, now: UnixNs) -> Option<Duration> {
        if self.ordinary.len() >= self.limits.batch {
            return Some(Duration::ZERO);
        }
        let oldest = self.ordinary.messages.front()?;
        let waited = Duration::from_nanos(now.0.saturating_sub(oldest.received_at.0));
        Some(self.limits.gather.saturating_sub(waited))
    }

    /// Returns the messages of the next batch, or an empty list if nothing is due.
    pub fn take(&mut self, now: UnixNs, repute: impl Fn(Option<&PeerBytes>) -> PeerReputation) -> Vec<RawMessage> {
        let batch = self.choose(now, &repute);
        for message in &batch {
            if let Some(peer) = &message.origin.peer {
                self.bytes_by_peer.remove(peer, size(message));
            }
        }
        batch
    }

    fn choose(&mut self, now: UnixNs, repute: &impl Fn(Option<&PeerBytes>) -> PeerReputation) -> Vec<RawMessage> {
        self.promote_rivalled();
        let urgent = self.take_urgent(UrgentPart::New, repute);
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
                    NextQueue::Deferred => self.take_urgent(UrgentPart::Deferred, repute),
                    NextQueue::Doubtful => {
                        (0..DOUBTFUL_BATCH).map_while(|_| self.pop_doubtful(PriorityQueue::pop_front)).collect()
                    }
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
            // Nothing else is due, so all lanes get another turn. The doubtful lane gets none while
            // ordinary messages are gathered, because it must not delay them.
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

    /// Takes a batch of urgent messages. Each validator and each unknown peer has a share of a
    /// batch, and messages above the share are deferred. If a peer is known to forge by now, its
    /// messages move to the doubtful lane.
    fn take_urgent(&mut self, urgency: UrgentPart, repute: &impl Fn(Option<&PeerBytes>) -> PeerReputation) -> Vec<RawMessage> {
        let mut from = std::mem::take(match urgency {
            UrgentPart::New => &mut self.urgent,
            UrgentPart::Deferred => &mut self.deferred,
        });
        let (mut batch, mut beyond) = (Vec::new(), PriorityQueue::default());
        let (mut by_stranger, mut by_validator) = (CountsByKey(HashMap::new()), CountsByKey(HashMap::new()));
        while batch.len() < URGENT_BATCH
            && beyond.len() < MAX_PASSED_OVER
            && let Some(message) = from.pop_front()
        {
            let repute = repute(message.origin.peer.as_ref());
            if repute == PeerReputation::Bad {
                self.keep_doubtful(message);
                continue;
            }
            let stranger = message.origin.peer.as_ref().filter(|_| repute == PeerReputation::Unknown);
            let validator = single_name(&message);
            if stranger.is_some_and(|peer| by_stranger.of(peer) >= URGENT_PER_STRANGER)
                || validator.is_some_and(|validator| by_validator.of(&validator) >= URGENT_PER_VALIDATOR)
            {
                beyond.push_back(message);
                continue;
            }
            stranger.into_iter().for_each(|peer| by_stranger.add(peer.clone(), 1));
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
    fn sheddable_bytes(&self) -> usize {
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
    /// that waits is marked in `rivalled`.
    fn has_rival(&mut self, message: &RawMessage) -> bool {
        let Some(vote) = single_vote_claimed(message) else { return false };
        let waits = self.waiting_votes.contradicted_by(&vote, |target| {
            self.rivalled.insert((vote.voter, target));
        });
        waits || self.dropped_votes.contradicted_by(&vote, |_| ())
    }

    fn remember_shed(&mut self, message: &RawMessage) {
        let Some(vote) = single_vote_claimed(message) else { return };
        if self.dropped_votes.len() >= self.limits.messages {
            self.dropped_votes.clear();
        }
        self.dropped_votes.insert(&vote);
    }

    fn push_ordinary(&mut self, message: RawMessage) -> Option<(RawMessage, Dropped)> {
        if self.sheddable_bytes() + size(&message) > self.limits.bytes {
            self.remember_shed(&message);
            return Some((message, Dropped::Bytes));
        }
        let mut shed = None;
        if self.len() >= self.limits.messages {
            let doubtful = self.pop_doubtful(PriorityQueue::pop_back).map(|message| (message, Dropped::Liar));
            shed = doubtful.or_else(|| {
                self.pop_settled(PriorityQueue::pop_back, VecDeque::pop_back).map(|message| (message, Dropped::Settled))
            });
            match &shed {
                Some((message, _)) => self.forget_bytes(message),
                None => {
                    self.remember_shed(&message);
                    return Some((message, Dropped::Overload));
                }
            }
        }
        if let Some(vote) = single_vote_claimed(&message) {
            self.waiting_votes.insert(&vote);
        }
        self.note_bytes(&message);
        self.ordinary.push_back(message);
        shed
    }

    fn forget_vote(&mut self, message: &RawMessage) {
        if let Some(vote) = single_vote_claimed(message) {
            self.waiting_votes.remove(&vote);
        }
    }

    /// Moves contradicted votes to the urgent lane, in one pass over the ordinary lane.
    fn promote_rivalled(&mut self) {
        if self.rivalled.is_empty() {
            return;
        }
        let rivalled = std::mem::take(&mut self.rivalled);
        for message in std::mem::take(&mut self.ordinary).messages {
            let vote = single_vote_claimed(&message);
            if vote.is_some_and(|vote| rivalled.contains(&(vote.voter, vote.target))) {
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
            return Some((message, Dropped::Liar));
        }
        if self.doubtful.bytes + size(&message) > self.limits.bytes / BYTES_SHARE {
            return Some((message, Dropped::Bytes));
        }
        self.note_bytes(&message);
        self.keep_doubtful(message);
        None
    }

    fn keep_doubtful(&mut self, message: RawMessage) {
        self.doubtful_by_peer.add(message.origin.peer.clone(), 1);
        self.doubtful.push_back(message);
    }

    fn pop_doubtful(&mut self, pop: fn(&mut PriorityQueue) -> Option<RawMessage>) -> Option<RawMessage> {
        let message = pop(&mut self.doubtful)?;
        self.doubtful_by_peer.remove(&message.origin.peer, 1);
        Some(message)
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
mod tests {
    use super::*;
    use verify::{MessageParts, Origin, SourceKind};

    fn message(number: u64, peer: u8) -> RawMessage {
        let parts = MessageParts {
            origin: Origin { source: SourceKind::Gossip, peer: Some(PeerBytes::from([peer])), fork: None },
            kind: MessageKind::Attestation { subnet: 0 },
            received_at: UnixNs(number),
            bytes: Vec::new(),
            ticket: None,
        };
        RawMessage::new(parts).unwrap()
    }

    fn lanes(messages: usize, batch: usize) -> PriorityQueues {
        PriorityQueues::new(QueueLimits {
            messages,
            bytes: 64 << 20,
            bytes_per_peer: 64 << 20,
            batch,
            gather: Duration::from_nanos(100),
        })
    }

    fn numbers(batch: &[RawMessage]) -> Vec<u64> {
        batch.iter().map(|message| message.received_at.0).collect()
    }

    const GOOD: fn(Option<&PeerBytes>) -> PeerReputation = |_| PeerReputation::Good;

    #[test]
    fn a_contradiction_goes_first_and_alone() {
        let mut lanes = lanes(100, 3);
        for number in 0..4 {
            assert!(lanes.push(message(number, 1), Triage::Ordinary, PeerReputation::Good).is_none());
        }
        assert!(lanes.push(message(9, 1), Triage::Contradiction, PeerReputation::Good).is_none());
        assert_eq!(lanes.oldest(), Some(UnixNs(0)));
        assert_eq!(lanes.due_in(UnixNs(0)), Some(Duration::ZERO));
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [9]);
        assert!(lanes.is_pressed());
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [0, 1, 2], "a whole batch need not be gathered for");
        assert!(!lanes.is_pressed());
        assert_eq!(lanes.due_in(UnixNs(50)), Some(Duration::from_nanos(53)));
        assert!(lanes.take(UnixNs(50), GOOD).is_empty());
        assert_eq!(numbers(&lanes.take(UnixNs(103), GOOD)), [3]);
        assert_eq!(lanes.due_in(UnixNs(0)), None);
    }

    /// A vote of a validator. `said` stands for the rest of its content.
    fn vote(number: u64, validator: u64, target: u64, said: u8) -> RawMessage {
        let mut bytes = vec![0; consensus::SingleAttestation::SSZ_LEN];
        bytes[8..16].copy_from_slice(&validator.to_le_bytes());
        bytes[16 + 88..16 + 96].copy_from_slice(&target.to_le_bytes());
        bytes[40] = said;
        message(number, 1).changed(|parts| parts.bytes = bytes)
    }

    #[test]
    fn votes_that_contradict_each_other_while_they_wait_go_first_together() {
        let mut lanes = lanes(100, 50);
        let mut push = |vote| assert!(lanes.push(vote, Triage::Ordinary, PeerReputation::Good).is_none());
        for number in 0..6 {
            push(vote(number, number, 5, 0));
        }
        push(vote(10, 3, 5, 0)); // the same vote again
        push(vote(11, 3, 6, 1)); // for another target epoch
        push(vote(12, 4, 5, 1));
        push(vote(13, 4, 5, 2)); // a third vote
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [12, 13, 4]);
        assert_eq!(numbers(&lanes.take(UnixNs(500), GOOD)), [0, 1, 2, 3, 5, 10, 11]);
        // Votes that were taken are no longer compared here. The engine's triage compares them.
        assert!(lanes.push(vote(20, 4, 5, 3), Triage::Ordinary, PeerReputation::Good).is_none());
        assert!(lanes.take(UnixNs(0), GOOD).is_empty());
        assert_eq!((lanes.waiting_votes.len(), lanes.rivalled.len()), (1, 0));
    }

    /// Under the load of a mainnet the first vote of such a pair waited for 1.8 s, and the second
    /// one with it.
    #[test]
    fn votes_of_which_one_surrounds_the_other_go_first_together() {
        let mut lanes = lanes(100, 50);
        let mut push = |vote| assert!(lanes.push(vote, Triage::Ordinary, PeerReputation::Good).is_none());
        let from = |source: u64, vote: RawMessage| {
            vote.changed(|parts| parts.bytes[16 + 48..16 + 56].copy_from_slice(&source.to_le_bytes()))
        };
        push(from(4, vote(0, 3, 9, 0)));
        push(from(5, vote(1, 3, 8, 0))); // surrounded by the vote before
        push(from(6, vote(2, 4, 9, 0)));
        push(from(6, vote(3, 4, 8, 0))); // the same source: no contradiction
        push(from(7, vote(4, 5, 9, 0)));
        push(from(6, vote(5, 5, 10, 0))); // surrounds the vote before
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [1, 5, 0, 4]);
        assert_eq!(numbers(&lanes.take(UnixNs(500), GOOD)), [2, 3]);
    }

    #[test]
    fn many_votes_in_the_name_of_one_validator_cost_little_and_hide_nothing() {
        let mut lanes = lanes(100_000, 100_000);
        for number in 0..10_000 {
            assert!(lanes.push(vote(number, 3, number, 0), Triage::Ordinary, PeerReputation::Good).is_none());
        }
        assert!(lanes.push(vote(10_000, 3, 2, 1), Triage::Ordinary, PeerReputation::Good).is_none());
        let urgent: Vec<u64> =
            std::iter::repeat_with(|| numbers(&lanes.take(UnixNs(0), GOOD))).take(9_999 / 8 + 10).flatten().collect();
        assert!(
            urgent.contains(&2) && urgent.contains(&10_000),
            "the pair that contradicts goes first, among what is one too many"
        );
    }

    #[test]
    fn who_contradicts_a_vote_that_was_shed_goes_first() {
        let mut lanes = lanes(2, 50);
        let mut push = |vote| lanes.push(vote, Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why);
        assert_eq!([0, 1].map(|n| push(vote(n, n, 5, 0))), [None; 2]);
        assert_eq!(push(vote(2, 7, 5, 0)), Some(Dropped::Overload));
        assert_eq!(push(vote(3, 7, 5, 0)), Some(Dropped::Overload), "the same again");
        assert_eq!(push(vote(4, 7, 5, 1)), None);
        assert_eq!(push(vote(5, 7, 6, 1)), Some(Dropped::Overload), "for another target");
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [4]);
        for n in 0..10 {
            assert_eq!(
                lanes.push(vote(n, 100 + n, 5, 0), Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why),
                Some(Dropped::Overload)
            );
        }
        assert!(lanes.dropped_votes.len() <= 2, "as many as may wait");
    }

    #[test]
    fn what_is_known_waits_nowhere() {
        let mut lanes = lanes(100, 3);
        let shed = lanes.push(message(1, 1), Triage::Known, PeerReputation::Bad);
        assert_eq!(shed.map(|(message, why)| (message.received_at.0, why)), Some((1, Dropped::Known)));
        assert!(lanes.is_empty());
    }

    #[test]
    fn overload_sheds_liars_then_ordinary_votes_and_never_contradictions() {
        let mut lanes = lanes(10, 100);
        let why = |shed: Option<(RawMessage, Dropped)>| shed.map(|(message, why)| (message.received_at.0, why));
        for number in 0..2 {
            assert_eq!(why(lanes.push(message(number, 6), Triage::Contradiction, PeerReputation::Bad)), None);
        }
        for number in 10..18 {
            assert_eq!(why(lanes.push(message(number, 1), Triage::Ordinary, PeerReputation::Unknown)), None);
        }
        assert_eq!(why(lanes.push(message(20, 1), Triage::Ordinary, PeerReputation::Good)), Some((1, Dropped::Liar)));
        assert_eq!(why(lanes.push(message(21, 1), Triage::Ordinary, PeerReputation::Good)), Some((0, Dropped::Liar)));
        assert_eq!(why(lanes.push(message(22, 1), Triage::Ordinary, PeerReputation::Good)), Some((22, Dropped::Overload)));
        for number in 30..40 {
            assert_eq!(why(lanes.push(message(number, 1), Triage::Contradiction, PeerReputation::Good)), None);
        }
        assert!(!lanes.has_room(), "the queue before it fills up instead");
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), (30..40).collect::<Vec<_>>());
        assert!(lanes.has_room());
    }

    #[test]
    fn strangers_have_a_share_and_liars_wait() {
        let mut lanes = lanes(1000, 100);
        let stranger = |peer: Option<&PeerBytes>| {
            if peer.is_some_and(|peer| peer[0] == 7) { PeerReputation::Unknown } else { PeerReputation::Good }
        };
        for number in 0..20 {
            lanes.push(message(number, 7), Triage::Contradiction, PeerReputation::Unknown);
        }
        lanes.push(message(50, 1), Triage::Contradiction, PeerReputation::Good);
        let batch = numbers(&lanes.take(UnixNs(0), stranger));
        assert_eq!((batch.len(), batch.last()), (URGENT_PER_STRANGER + 1, Some(&50)));
        // All of them were forged.
        let liar = |peer: Option<&PeerBytes>| {
            if peer.is_some_and(|peer| peer[0] == 7) { PeerReputation::Bad } else { PeerReputation::Good }
        };
        lanes.push(message(60, 1), Triage::Ordinary, PeerReputation::Good);
        let batch = numbers(&lanes.take(UnixNs(60), liar));
        assert_eq!(batch, (16..20).collect::<Vec<_>>(), "the rest, once with other doubtful ones");
        for number in 70..170 {
            lanes.push(message(number, 7), Triage::Ordinary, PeerReputation::Bad);
        }
        assert_eq!(numbers(&lanes.take(UnixNs(1000), liar)), [60], "then it is the others' turn");
        assert_eq!(lanes.take(UnixNs(1000), liar).len(), DOUBTFUL_BATCH);
    }

    #[test]
    fn one_liar_does_not_take_all_places() {
        let mut lanes = lanes(40, 100);
        for number in 0..30 {
            lanes.push(message(number, 7), Triage::Ordinary, PeerReputation::Bad);
        }
        assert_eq!(lanes.len(), 10);
        assert!(lanes.push(message(90, 8), Triage::Ordinary, PeerReputation::Bad).is_none());
        for number in 100..200 {
            lanes.push(message(number, number as u8), Triage::Ordinary, PeerReputation::Bad);
        }
        assert_eq!(lanes.len(), 20, "bounded whatever the number of peers");
    }
    /// Pushes a settled message of a validator from a peer.
    fn settled(lanes: &mut PriorityQueues, number: u64, validator: u64, peer: u8) -> Option<Dropped> {
        let triage = Triage::Settled(ValidatorIndex::new(validator));
        lanes.push(message(number, peer), triage, PeerReputation::Good).map(|(_, why)| why)
    }

    #[test]
    fn what_is_settled_waits_for_everything_else_and_is_shed_by_validator_peer_and_place() {
        let places = SETTLED_PER_PEER + SETTLED_PER_VALIDATOR + 100;
        let mut lanes = lanes(SETTLED_SHARE * places, 3);
        let n_kept = (0..5_000).filter(|number| settled(&mut lanes, *number, 7, 1).is_none()).count();
        assert_eq!(n_kept, SETTLED_PER_VALIDATOR);
        let n_kept = (0..5_000).filter(|number| settled(&mut lanes, *number, 100 + number, 1).is_none()).count();
        assert_eq!(n_kept, SETTLED_PER_PEER - SETTLED_PER_VALIDATOR);
        let n_kept = (0..5_000).filter(|number| settled(&mut lanes, *number, 100 + number, 3).is_none()).count();
        assert_eq!(n_kept, places - SETTLED_PER_PEER, "a share of all places");
        for number in 200..203 {
            lanes.push(message(number, 2), Triage::Ordinary, PeerReputation::Good);
        }
        lanes.push(message(300, 2), Triage::Contradiction, PeerReputation::Good);
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [300]);
        assert_eq!(lanes.take(UnixNs(0), GOOD).len(), SETTLED_BATCH, "a few");
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [200, 201, 202], "then it is the others' turn");
        assert_eq!(lanes.due_in(UnixNs(0)), Some(Duration::ZERO));
        let mut n_left = 0;
        while !lanes.is_empty() {
            n_left += lanes.take(UnixNs(0), GOOD).len();
        }
        assert_eq!(n_left, places - SETTLED_BATCH, "all of it while nothing else is there");
        assert_eq!((lanes.bytes(), lanes.bytes_by_peer.0.len(), lanes.settled_by_validator.0.len()), (0, 0, 0));
        // An ordinary vote displaces a settled message.
        let mut lanes = super::tests::lanes(8, 100);
        assert_eq!([1, 2].map(|number| settled(&mut lanes, number, number, 1)), [None; 2]);
        for number in 10..16 {
            assert!(lanes.push(message(number, 1), Triage::Ordinary, PeerReputation::Good).is_none());
        }
        let shed = [20, 21, 22].map(|number| lanes.push(message(number, 1), Triage::Ordinary, PeerReputation::Good));
        assert_eq!(
            shed.map(|shed| shed.map(|(message, why)| (message.received_at.0, why))),
            [Some((2, Dropped::Settled)), Some((1, Dropped::Settled)), Some((22, Dropped::Overload))]
        );
    }

    #[test]
    fn one_validators_contradictions_take_turns_with_everything_else_and_none_is_shed() {
        let mut lanes = lanes(1000, 2);
        for number in 0..100 {
            assert!(lanes.push(vote(number, 7, number, 1), Triage::Contradiction, PeerReputation::Good).is_none());
        }
        lanes.push(vote(200, 8, 5, 1), Triage::Contradiction, PeerReputation::Good);
        for number in 300..302 {
            lanes.push(message(number, 1), Triage::Ordinary, PeerReputation::Good);
        }
        let first = numbers(&lanes.take(UnixNs(0), GOOD));
        assert_eq!((first.len(), first.last()), (URGENT_PER_VALIDATOR + 1, Some(&200)), "nobody waits for its hundred");
        assert_eq!(lanes.take(UnixNs(0), GOOD).len(), URGENT_PER_VALIDATOR);
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [300, 301]);
        lanes.push(vote(400, 9, 5, 1), Triage::Contradiction, PeerReputation::Good);
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [400], "what is new goes before what was deferred");
        let mut rest = Vec::new();
        while !lanes.is_empty() {
            rest.extend(numbers(&lanes.take(UnixNs(0), GOOD)));
        }
        assert_eq!(rest, (16..100).collect::<Vec<_>>(), "in order");
    }

    /// A message may have 10 MiB.
    #[test]
    fn bytes_are_bounded_in_total_and_by_peer_and_no_contradiction_is_shed_for_them() {
        let large = |number, peer| {
            message(number, peer).changed(|parts| (parts.kind, parts.bytes) = (MessageKind::Aggregate, vec![0; 10 << 10]))
        };
        let limits =
            QueueLimits { messages: 10_000, bytes: 200 << 10, bytes_per_peer: 50 << 10, batch: 9, gather: Duration::ZERO };
        let mut lanes = PriorityQueues::new(limits);
        let mut outcomes: HashMap<(u8, Option<Dropped>), usize> = HashMap::new();
        for number in 0..1000 {
            for (nth, triage, repute) in [
                (0, Triage::Ordinary, PeerReputation::Good),
                (1, Triage::Context, PeerReputation::Unknown),
                (2, Triage::Settled(ValidatorIndex::new(number)), PeerReputation::Good),
                (3, Triage::Contradiction, PeerReputation::Bad),
            ] {
                let shed = lanes.push(large(number, nth), triage, repute).map(|(_, why)| why);
                *outcomes.entry((nth, shed)).or_default() += 1;
            }
        }
        for peer in 0..4 {
            assert_eq!(outcomes[&(peer, None)], 4, "of a peer: {outcomes:?}");
            assert_eq!(outcomes[&(peer, Some(Dropped::PeerBytes))], 996, "{outcomes:?}");
        }
        for peer in 10..200 {
            let shed = lanes.push(large(0, peer), Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why);
            *outcomes.entry((10, shed)).or_default() += 1;
        }
        assert!(outcomes[&(10, None)] > 0 && outcomes[&(10, Some(Dropped::Bytes))] > 0, "{outcomes:?}");
        assert!(lanes.bytes() <= 2 * limits.bytes, "{} bytes", lanes.bytes());
        // Contradictions of one peer are not dropped. The queue before the lanes fills up instead.
        let mut n_taken = 0;
        while lanes.has_room() {
            assert!(lanes.push(large(n_taken, 1), Triage::Contradiction, PeerReputation::Good).is_none());
            n_taken += 1;
        }
        assert!(n_taken > 5 && lanes.bytes() <= 2 * limits.bytes + (11 << 10), "{n_taken}, {} bytes", lanes.bytes());
        while !lanes.is_empty() {
            lanes.take(UnixNs(0), GOOD);
        }
        assert_eq!((lanes.bytes(), lanes.bytes_by_peer.0.len()), (0, 0));
        assert!(lanes.push(large(0, 1), Triage::Context, PeerReputation::Good).is_none());
    }
}
