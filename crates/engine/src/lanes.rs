//! Where messages wait for the engine: sorted by what they would be if they were true, so that an answer does not wait for a
//! batch, a liar makes nobody else wait, and what has to be shed is what says least.
//!
//! | lane | who | judged | when full |
//! |---|---|---|---|
//! | none | what is known already | at once: a duplicate costs nothing | |
//! | urgent | what would contradict something proven, stored or waiting, and what others wait for (blocks, operations) | first, alone; a few at a time of one validator, and of a peer that is not known yet | no contradiction is shed: the queue before it fills up |
//! | deferred | of what is urgent, what is beyond its validator's or peer's share of a batch | in turn with the lanes below | as above |
//! | doubtful | whatever comes from peers that mostly forge | a few between two ordinary batches | the newest of the peer that has most is shed |
//! | settled | what only validators say that cannot be punished, or of which enough is on record | a few between two ordinary batches, and while no others are due | the newest is shed |
//! | ordinary | single votes and aggregates, thousands a second | together, once gathered | the newest is shed, after everything doubtful and settled |
//!
//! Two single votes that would contradict each other while both wait become urgent together: which of them is true need not be known for that.
//! So does the second if the first was shed; that one comes again from other peers, and then contradicts what is proven.
//!
//! What is shed is an honest majority's vote, which comes again in aggregates and blocks, or a liar's, or what changes nothing: never a
//! contradiction of a key that can be punished from anybody but a liar. Nothing here reads a clock.
//!
//! **Bounds.** Messages are up to 10 MiB each, so what waits is bounded in bytes too ([`LaneLimits`]): what may be shed together, and what is urgent
//! together, each by [`LaneLimits::bytes`]; doubtful and settled messages by a quarter of that each. Of one peer, all but its
//! contradictions by [`LaneLimits::bytes_per_peer`].

use consensus::{Epoch, ValidatorIndex};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;
use verify::{MessageKind, PeerBytes, RawMessage, Repute, Triage, UnixNs, greatest_index_named, single_vote_claimed};

/// Contradictions and blocks judged at a time.
const URGENT_BATCH: usize = 256;
/// Of these, from one peer that is not known yet: what a stranger's forged contradictions can cost, until it is known for them.
const URGENT_PER_STRANGER: usize = 16;
/// Of these, in the name of one validator: what a single key can make others wait, whoever it is.
const URGENT_PER_VALIDATOR: usize = 8;
/// Urgent messages passed over for one batch.
const MAX_PASSED_OVER: usize = 2_048;
/// Doubtful messages judged between two ordinary batches, each by itself: some 20 ms.
const DOUBTFUL_BATCH: usize = 32;
/// Of all places, one in so many is for what is doubtful.
const DOUBTFUL_SHARE: usize = 4;
/// Settled messages judged at a time, in single votes: some 10 ms.
const SETTLED_BATCH: usize = 16;
/// Of all places, one in so many is for what is settled.
const SETTLED_SHARE: usize = 4;
/// Settled messages of one validator that may wait: a second of work, while nothing else is there.
const SETTLED_PER_VALIDATOR: usize = 1_024;
/// Settled messages of one peer that may wait: all votes of its slashed keys in a slot, and more.
const SETTLED_PER_PEER: usize = 4_096;
/// Of all bytes, one in so many may be doubtful, and as many settled.
const BYTES_SHARE: usize = 4;

/// What an aggregate with unproven members costs, in single votes: its own equation and two signatures around it.
const AGGREGATE_WEIGHT: usize = 8;
/// What a slashing operation costs, in single votes: two signatures, and two more for its proof.
const OPERATION_WEIGHT: usize = 4;
/// What a message occupies besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Messages in all lanes together.
    pub messages: usize,
    /// Bytes of urgent messages, and again of all others together.
    pub bytes: usize,
    /// Bytes of one peer's messages but its contradictions. What has no peer is not bounded by this.
    pub bytes_per_peer: usize,
    /// Ordinary messages judged together at most; an aggregate counts for some.
    pub batch: usize,
    /// For so long ordinary messages are gathered, so that many share the price of one equation.
    pub gather: Duration,
}

impl LaneLimits {
    /// 128 MiB: four seconds of mainnet's votes and aggregates fifty times over.
    pub const BYTES: usize = 128 << 20;
    /// 32 MiB: three of the largest messages.
    pub const BYTES_PER_PEER: usize = 32 << 20;
}

/// Why a message is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// It is proven already.
    Known,
    /// More votes than can be judged.
    Overload,
    /// More from peers that mostly forge than can be judged.
    Liar,
    /// More from validators that have nothing to lose, or of which enough is on record, than can be judged.
    Settled,
    /// More bytes than may wait.
    Bytes,
    /// More bytes of its peer than may wait.
    PeerBytes,
}

impl Shed {
    pub const ALL: [Self; 6] = [Self::Known, Self::Overload, Self::Liar, Self::Settled, Self::Bytes, Self::PeerBytes];

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
type Ballot = (ValidatorIndex, Epoch);

/// A queue that knows its size.
#[derive(Debug, Default)]
struct Lane {
    messages: VecDeque<RawMessage>,
    bytes: usize,
}

impl Lane {
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

/// Counts by something; what is at zero is forgotten.
#[derive(Debug)]
struct Counts<K>(HashMap<K, usize>);

impl<K: Hash + Eq> Counts<K> {
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
enum Turn {
    Deferred,
    Doubtful,
    Settled,
}

impl Turn {
    const ALL: [Self; 3] = [Self::Deferred, Self::Doubtful, Self::Settled];
}

/// Which urgent messages.
#[derive(Clone, Copy)]
enum Urgency {
    New,
    Deferred,
}

/// What waits. One owner, the engine's thread.
#[derive(Debug)]
pub struct Lanes {
    limits: LaneLimits,
    urgent: Lane,
    deferred: Lane,
    doubtful: Lane,
    /// With the validator that each is counted by.
    settled: Lane,
    settled_validators: VecDeque<ValidatorIndex>,
    ordinary: Lane,
    /// Of all that waits.
    bytes_by_peer: Counts<PeerBytes>,
    doubtful_by_peer: Counts<Option<PeerBytes>>,
    settled_by_peer: Counts<Option<PeerBytes>>,
    settled_by_validator: Counts<ValidatorIndex>,
    /// Hash of what each single vote in the ordinary lane says; of several in one name, the first.
    ballots: HashMap<Ballot, u64>,
    /// The same of votes that found no place: who contradicts one of them is urgent all the same. Bounded like what waits.
    shed_ballots: HashMap<Ballot, u64>,
    /// Of those that wait, those that something else was said of as well: they become urgent.
    rivalled: HashSet<Ballot>,
    hashing: RandomState,
    /// Lanes that had their turn since the last ordinary batch.
    served: Vec<Turn>,
}

impl Lanes {
    pub fn new(limits: LaneLimits) -> Self {
        Self {
            limits: LaneLimits { messages: limits.messages.max(1), batch: limits.batch.max(1), ..limits },
            urgent: Lane::default(),
            deferred: Lane::default(),
            doubtful: Lane::default(),
            settled: Lane::default(),
            settled_validators: VecDeque::new(),
            ordinary: Lane::default(),
            bytes_by_peer: Counts(HashMap::new()),
            doubtful_by_peer: Counts(HashMap::new()),
            settled_by_peer: Counts(HashMap::new()),
            settled_by_validator: Counts(HashMap::new()),
            ballots: HashMap::new(),
            shed_ballots: HashMap::new(),
            rivalled: HashSet::new(),
            hashing: RandomState::new(),
            served: Vec::new(),
        }
    }

    fn lanes(&self) -> [&Lane; 5] {
        [&self.urgent, &self.deferred, &self.doubtful, &self.settled, &self.ordinary]
    }

    pub fn len(&self) -> usize {
        self.lanes().iter().map(|lane| lane.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of all that waits.
    pub fn bytes(&self) -> usize {
        self.lanes().iter().map(|lane| lane.bytes).sum()
    }

    /// When the message that waits longest came. Looks at each.
    pub fn oldest(&self) -> Option<UnixNs> {
        self.lanes().into_iter().flat_map(|lane| &lane.messages).map(|message| message.received_at).min()
    }

    /// Whether another whole batch of ordinary votes waits: they come faster than they are judged.
    pub fn is_pressed(&self) -> bool {
        self.ordinary.len() >= self.limits.batch
    }

    /// Whether more may be taken from the queue: what is urgent is never shed, so it must find a place.
    pub fn has_room(&self) -> bool {
        self.urgent.len() + self.deferred.len() < self.limits.messages
            && self.urgent.bytes + self.deferred.bytes < self.limits.bytes
    }

    /// Lets a message wait, or gives back the one that gives way, with the reason: this one or another.
    pub fn push(&mut self, message: RawMessage, triage: Triage, repute: Repute) -> Option<(RawMessage, Shed)> {
        if triage == Triage::Known {
            return Some((message, Shed::Known));
        }
        let rivals = triage == Triage::Ordinary && repute != Repute::Bad && self.has_rival(&message);
        let is_contradiction = (triage == Triage::Contradiction || rivals) && repute != Repute::Bad;
        if !is_contradiction && self.is_over_its_bytes(&message) {
            return Some((message, Shed::PeerBytes));
        }
        match (triage, repute) {
            (_, Repute::Bad) => self.push_doubtful(message),
            (Triage::Settled(validator), _) => self.push_settled(message, validator),
            (Triage::Ordinary, _) if !rivals => self.push_ordinary(message),
            (Triage::Contradiction | Triage::Context | Triage::Ordinary | Triage::Known, _) => {
                self.note_bytes(&message);
                self.urgent.push_back(message);
                None
            }
        }
    }

    /// How long until there is something to judge: zero if there is, `None` if nothing waits.
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

    /// What to judge together next; empty if nothing is due.
    pub fn take(&mut self, now: UnixNs, repute: impl Fn(Option<&PeerBytes>) -> Repute) -> Vec<RawMessage> {
        let batch = self.choose(now, &repute);
        for message in &batch {
            if let Some(peer) = &message.origin.peer {
                self.bytes_by_peer.remove(peer, size(message));
            }
        }
        batch
    }

    fn choose(&mut self, now: UnixNs, repute: &impl Fn(Option<&PeerBytes>) -> Repute) -> Vec<RawMessage> {
        self.promote_rivalled();
        let urgent = self.take_urgent(Urgency::New, repute);
        if !urgent.is_empty() {
            return urgent;
        }
        let is_due = self.ordinary_due_in(now) == Some(Duration::ZERO);
        for _ in 0..2 {
            for turn in Turn::ALL {
                if self.served.contains(&turn) {
                    continue;
                }
                let batch = match turn {
                    Turn::Deferred => self.take_urgent(Urgency::Deferred, repute),
                    Turn::Doubtful => (0..DOUBTFUL_BATCH).map_while(|_| self.pop_doubtful(Lane::pop_front)).collect(),
                    Turn::Settled => self.take_settled(),
                };
                if !batch.is_empty() {
                    self.served.push(turn);
                    return batch;
                }
            }
            if is_due {
                break;
            }
            // Nothing else is due, so all of them have a turn again. But what is doubtful must not keep us from what will be due soon.
            let has_ordinary = !self.ordinary.is_empty();
            self.served.retain(|turn| *turn == Turn::Doubtful && has_ordinary);
        }
        if !is_due {
            return Vec::new();
        }
        self.served.clear();
        let (mut batch, mut weight) = (Vec::new(), 0);
        while weight < self.limits.batch
            && let Some(message) = self.ordinary.pop_front()
        {
            self.forget_ballot(&message);
            weight += if message.kind == MessageKind::Aggregate { AGGREGATE_WEIGHT } else { 1 };
            batch.push(message);
        }
        batch
    }

    /// Validators and strangers have a share of each batch; what is beyond it is deferred. Whoever has got a bad name meanwhile is judged
    /// with its like.
    fn take_urgent(&mut self, urgency: Urgency, repute: &impl Fn(Option<&PeerBytes>) -> Repute) -> Vec<RawMessage> {
        let mut from = std::mem::take(match urgency {
            Urgency::New => &mut self.urgent,
            Urgency::Deferred => &mut self.deferred,
        });
        let (mut batch, mut beyond) = (Vec::new(), Lane::default());
        let (mut by_stranger, mut by_validator) = (Counts(HashMap::new()), Counts(HashMap::new()));
        while batch.len() < URGENT_BATCH
            && beyond.len() < MAX_PASSED_OVER
            && let Some(message) = from.pop_front()
        {
            let repute = repute(message.origin.peer.as_ref());
            if repute == Repute::Bad {
                self.keep_doubtful(message);
                continue;
            }
            let stranger = message.origin.peer.as_ref().filter(|_| repute == Repute::Unknown);
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
            Urgency::New => self.urgent = from,
            Urgency::Deferred => self.deferred = from,
        }
        self.deferred.append(beyond);
        batch
    }

    fn take_settled(&mut self) -> Vec<RawMessage> {
        let (mut batch, mut weight) = (Vec::new(), 0);
        while weight < SETTLED_BATCH
            && let Some(message) = self.pop_settled(Lane::pop_front, VecDeque::pop_front)
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

    /// Bytes of what may be shed.
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

    /// Whether a vote that waits, or was shed, would be contradicted by this one; one that waits is remembered.
    fn has_rival(&mut self, message: &RawMessage) -> bool {
        let Some((voter, target, said)) = single_vote_claimed(message) else { return false };
        let ballot = (voter, target);
        let differs = |other: &u64| *other != self.hashing.hash_one(said);
        if self.ballots.get(&ballot).is_some_and(differs) {
            self.rivalled.insert(ballot);
            return true;
        }
        self.shed_ballots.get(&ballot).is_some_and(differs)
    }

    fn remember_shed(&mut self, message: &RawMessage) {
        let Some((voter, target, said)) = single_vote_claimed(message) else { return };
        if self.shed_ballots.len() >= self.limits.messages {
            self.shed_ballots.clear();
        }
        let hash = self.hashing.hash_one(said);
        self.shed_ballots.entry((voter, target)).or_insert(hash);
    }

    fn push_ordinary(&mut self, message: RawMessage) -> Option<(RawMessage, Shed)> {
        if self.sheddable_bytes() + size(&message) > self.limits.bytes {
            self.remember_shed(&message);
            return Some((message, Shed::Bytes));
        }
        let mut shed = None;
        if self.len() >= self.limits.messages {
            let doubtful = self.pop_doubtful(Lane::pop_back).map(|message| (message, Shed::Liar));
            shed =
                doubtful.or_else(|| self.pop_settled(Lane::pop_back, VecDeque::pop_back).map(|message| (message, Shed::Settled)));
            match &shed {
                Some((message, _)) => self.forget_bytes(message),
                None => {
                    self.remember_shed(&message);
                    return Some((message, Shed::Overload));
                }
            }
        }
        if let Some((voter, target, said)) = single_vote_claimed(&message) {
            let hash = self.hashing.hash_one(said);
            self.ballots.entry((voter, target)).or_insert(hash);
        }
        self.note_bytes(&message);
        self.ordinary.push_back(message);
        shed
    }

    fn forget_ballot(&mut self, message: &RawMessage) {
        if let Some((voter, target, _)) = single_vote_claimed(message) {
            self.ballots.remove(&(voter, target));
        }
    }

    /// One pass over what waits, however many there are.
    fn promote_rivalled(&mut self) {
        if self.rivalled.is_empty() {
            return;
        }
        let rivalled = std::mem::take(&mut self.rivalled);
        for message in std::mem::take(&mut self.ordinary).messages {
            let ballot = single_vote_claimed(&message).map(|(voter, target, _)| (voter, target));
            match ballot.is_some_and(|ballot| rivalled.contains(&ballot)) {
                true => self.urgent.push_back(message),
                false => self.ordinary.push_back(message),
            }
        }
        self.ballots.retain(|ballot, _| !rivalled.contains(ballot));
    }

    fn push_settled(&mut self, message: RawMessage, validator: ValidatorIndex) -> Option<(RawMessage, Shed)> {
        let places = (self.limits.messages / SETTLED_SHARE).max(1);
        if self.settled.len() >= places
            || self.settled_by_validator.of(&validator) >= SETTLED_PER_VALIDATOR
            || self.settled_by_peer.of(&message.origin.peer) >= SETTLED_PER_PEER
        {
            return Some((message, Shed::Settled));
        }
        if self.settled.bytes + size(&message) > self.limits.bytes / BYTES_SHARE {
            return Some((message, Shed::Bytes));
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
        pop: fn(&mut Lane) -> Option<RawMessage>,
        pop_validator: fn(&mut VecDeque<ValidatorIndex>) -> Option<ValidatorIndex>,
    ) -> Option<RawMessage> {
        let (message, validator) = pop(&mut self.settled).zip(pop_validator(&mut self.settled_validators))?;
        self.settled_by_validator.remove(&validator, 1);
        self.settled_by_peer.remove(&message.origin.peer, 1);
        Some(message)
    }

    fn push_doubtful(&mut self, message: RawMessage) -> Option<(RawMessage, Shed)> {
        let limit = (self.limits.messages / DOUBTFUL_SHARE).max(1);
        let peers = self.doubtful_by_peer.0.len().max(1);
        let held = self.doubtful_by_peer.of(&message.origin.peer);
        // A peer's share is what an even division leaves it, so one cannot keep another's messages out for good.
        if self.doubtful.len() >= limit && held >= limit.div_ceil(peers) || self.doubtful.len() >= 2 * limit {
            return Some((message, Shed::Liar));
        }
        if self.doubtful.bytes + size(&message) > self.limits.bytes / BYTES_SHARE {
            return Some((message, Shed::Bytes));
        }
        self.note_bytes(&message);
        self.keep_doubtful(message);
        None
    }

    fn keep_doubtful(&mut self, message: RawMessage) {
        self.doubtful_by_peer.add(message.origin.peer.clone(), 1);
        self.doubtful.push_back(message);
    }

    fn pop_doubtful(&mut self, pop: fn(&mut Lane) -> Option<RawMessage>) -> Option<RawMessage> {
        let message = pop(&mut self.doubtful)?;
        self.doubtful_by_peer.remove(&message.origin.peer, 1);
        Some(message)
    }
}

/// Who is named by a message that names one validator only. Blocks and what belongs to them are not asked: others wait for them.
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
    use verify::{Origin, SourceKind};

    fn message(number: u64, peer: u8) -> RawMessage {
        RawMessage {
            origin: Origin { source: SourceKind::Gossip, peer: Some(PeerBytes::from([peer])), fork: None },
            kind: MessageKind::Attestation { subnet: 0 },
            received_at: UnixNs(number),
            bytes: Vec::new(),
            ticket: None,
        }
    }

    fn lanes(messages: usize, batch: usize) -> Lanes {
        Lanes::new(LaneLimits { messages, bytes: 64 << 20, bytes_per_peer: 64 << 20, batch, gather: Duration::from_nanos(100) })
    }

    fn numbers(batch: &[RawMessage]) -> Vec<u64> {
        batch.iter().map(|message| message.received_at.0).collect()
    }

    const GOOD: fn(Option<&PeerBytes>) -> Repute = |_| Repute::Good;

    #[test]
    fn a_contradiction_goes_first_and_alone() {
        let mut lanes = lanes(100, 3);
        for number in 0..4 {
            assert!(lanes.push(message(number, 1), Triage::Ordinary, Repute::Good).is_none());
        }
        assert!(lanes.push(message(9, 1), Triage::Contradiction, Repute::Good).is_none());
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

    /// `said` stands for all that the vote says.
    fn vote(number: u64, validator: u64, target: u64, said: u8) -> RawMessage {
        let mut bytes = vec![0; consensus::SingleAttestation::SSZ_LEN];
        bytes[8..16].copy_from_slice(&validator.to_le_bytes());
        bytes[16 + 88..16 + 96].copy_from_slice(&target.to_le_bytes());
        bytes[40] = said;
        RawMessage { bytes, ..message(number, 1) }
    }

    #[test]
    fn votes_that_contradict_each_other_while_they_wait_go_first_together() {
        let mut lanes = lanes(100, 50);
        let mut push = |vote| assert!(lanes.push(vote, Triage::Ordinary, Repute::Good).is_none());
        for number in 0..6 {
            push(vote(number, number, 5, 0));
        }
        push(vote(10, 3, 5, 0)); // the same again
        push(vote(11, 3, 6, 1)); // for another target
        push(vote(12, 4, 5, 1));
        push(vote(13, 4, 5, 2)); // a third one
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [12, 13, 4]);
        assert_eq!(numbers(&lanes.take(UnixNs(500), GOOD)), [0, 1, 2, 3, 5, 10, 11]);
        // What is no longer here is known to others.
        assert!(lanes.push(vote(20, 4, 5, 3), Triage::Ordinary, Repute::Good).is_none());
        assert!(lanes.take(UnixNs(0), GOOD).is_empty());
        assert_eq!((lanes.ballots.len(), lanes.rivalled.len()), (1, 0));
    }

    #[test]
    fn who_contradicts_a_vote_that_was_shed_goes_first() {
        let mut lanes = lanes(2, 50);
        let mut push = |vote| lanes.push(vote, Triage::Ordinary, Repute::Good).map(|(_, why)| why);
        assert_eq!([0, 1].map(|n| push(vote(n, n, 5, 0))), [None; 2]);
        assert_eq!(push(vote(2, 7, 5, 0)), Some(Shed::Overload));
        assert_eq!(push(vote(3, 7, 5, 0)), Some(Shed::Overload), "the same again");
        assert_eq!(push(vote(4, 7, 5, 1)), None);
        assert_eq!(push(vote(5, 7, 6, 1)), Some(Shed::Overload), "for another target");
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [4]);
        for n in 0..10 {
            assert_eq!(
                lanes.push(vote(n, 100 + n, 5, 0), Triage::Ordinary, Repute::Good).map(|(_, why)| why),
                Some(Shed::Overload)
            );
        }
        assert!(lanes.shed_ballots.len() <= 2, "as many as may wait");
    }

    #[test]
    fn what_is_known_waits_nowhere() {
        let mut lanes = lanes(100, 3);
        let shed = lanes.push(message(1, 1), Triage::Known, Repute::Bad);
        assert_eq!(shed.map(|(message, why)| (message.received_at.0, why)), Some((1, Shed::Known)));
        assert!(lanes.is_empty());
    }

    #[test]
    fn overload_sheds_liars_then_ordinary_votes_and_never_contradictions() {
        let mut lanes = lanes(10, 100);
        let why = |shed: Option<(RawMessage, Shed)>| shed.map(|(message, why)| (message.received_at.0, why));
        for number in 0..2 {
            assert_eq!(why(lanes.push(message(number, 6), Triage::Contradiction, Repute::Bad)), None);
        }
        for number in 10..18 {
            assert_eq!(why(lanes.push(message(number, 1), Triage::Ordinary, Repute::Unknown)), None);
        }
        assert_eq!(why(lanes.push(message(20, 1), Triage::Ordinary, Repute::Good)), Some((1, Shed::Liar)));
        assert_eq!(why(lanes.push(message(21, 1), Triage::Ordinary, Repute::Good)), Some((0, Shed::Liar)));
        assert_eq!(why(lanes.push(message(22, 1), Triage::Ordinary, Repute::Good)), Some((22, Shed::Overload)));
        for number in 30..40 {
            assert_eq!(why(lanes.push(message(number, 1), Triage::Contradiction, Repute::Good)), None);
        }
        assert!(!lanes.has_room(), "the queue before it fills up instead");
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), (30..40).collect::<Vec<_>>());
        assert!(lanes.has_room());
    }

    #[test]
    fn strangers_have_a_share_and_liars_wait() {
        let mut lanes = lanes(1000, 100);
        let stranger =
            |peer: Option<&PeerBytes>| if peer.is_some_and(|peer| peer[0] == 7) { Repute::Unknown } else { Repute::Good };
        for number in 0..20 {
            lanes.push(message(number, 7), Triage::Contradiction, Repute::Unknown);
        }
        lanes.push(message(50, 1), Triage::Contradiction, Repute::Good);
        let batch = numbers(&lanes.take(UnixNs(0), stranger));
        assert_eq!((batch.len(), batch.last()), (URGENT_PER_STRANGER + 1, Some(&50)));
        // All of it was forged.
        let liar = |peer: Option<&PeerBytes>| if peer.is_some_and(|peer| peer[0] == 7) { Repute::Bad } else { Repute::Good };
        lanes.push(message(60, 1), Triage::Ordinary, Repute::Good);
        let batch = numbers(&lanes.take(UnixNs(60), liar));
        assert_eq!(batch, (16..20).collect::<Vec<_>>(), "the rest, once with other doubtful ones");
        for number in 70..170 {
            lanes.push(message(number, 7), Triage::Ordinary, Repute::Bad);
        }
        assert_eq!(numbers(&lanes.take(UnixNs(1000), liar)), [60], "then it is the others' turn");
        assert_eq!(lanes.take(UnixNs(1000), liar).len(), DOUBTFUL_BATCH);
    }

    #[test]
    fn one_liar_does_not_take_all_places() {
        let mut lanes = lanes(40, 100);
        for number in 0..30 {
            lanes.push(message(number, 7), Triage::Ordinary, Repute::Bad);
        }
        assert_eq!(lanes.len(), 10);
        assert!(lanes.push(message(90, 8), Triage::Ordinary, Repute::Bad).is_none());
        for number in 100..200 {
            lanes.push(message(number, number as u8), Triage::Ordinary, Repute::Bad);
        }
        assert_eq!(lanes.len(), 20, "bounded whatever the number of peers");
    }
    /// A settled one of a validator, from a peer.
    fn settled(lanes: &mut Lanes, number: u64, validator: u64, peer: u8) -> Option<Shed> {
        let triage = Triage::Settled(ValidatorIndex::new(validator));
        lanes.push(message(number, peer), triage, Repute::Good).map(|(_, why)| why)
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
            lanes.push(message(number, 2), Triage::Ordinary, Repute::Good);
        }
        lanes.push(message(300, 2), Triage::Contradiction, Repute::Good);
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
        // Ordinary votes find a place before it.
        let mut lanes = super::tests::lanes(8, 100);
        assert_eq!([1, 2].map(|number| settled(&mut lanes, number, number, 1)), [None; 2]);
        for number in 10..16 {
            assert!(lanes.push(message(number, 1), Triage::Ordinary, Repute::Good).is_none());
        }
        let shed = [20, 21, 22].map(|number| lanes.push(message(number, 1), Triage::Ordinary, Repute::Good));
        assert_eq!(
            shed.map(|shed| shed.map(|(message, why)| (message.received_at.0, why))),
            [Some((2, Shed::Settled)), Some((1, Shed::Settled)), Some((22, Shed::Overload))]
        );
    }

    #[test]
    fn one_validators_contradictions_take_turns_with_everything_else_and_none_is_shed() {
        let mut lanes = lanes(1000, 2);
        for number in 0..100 {
            assert!(lanes.push(vote(number, 7, number, 1), Triage::Contradiction, Repute::Good).is_none());
        }
        lanes.push(vote(200, 8, 5, 1), Triage::Contradiction, Repute::Good);
        for number in 300..302 {
            lanes.push(message(number, 1), Triage::Ordinary, Repute::Good);
        }
        let first = numbers(&lanes.take(UnixNs(0), GOOD));
        assert_eq!((first.len(), first.last()), (URGENT_PER_VALIDATOR + 1, Some(&200)), "nobody waits for its hundred");
        assert_eq!(lanes.take(UnixNs(0), GOOD).len(), URGENT_PER_VALIDATOR);
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [300, 301]);
        lanes.push(vote(400, 9, 5, 1), Triage::Contradiction, Repute::Good);
        assert_eq!(numbers(&lanes.take(UnixNs(0), GOOD)), [400], "what is new goes before what was deferred");
        let mut rest = Vec::new();
        while !lanes.is_empty() {
            rest.extend(numbers(&lanes.take(UnixNs(0), GOOD)));
        }
        assert_eq!(rest, (16..100).collect::<Vec<_>>(), "in order");
    }

    /// Messages are up to 10 MiB each.
    #[test]
    fn bytes_are_bounded_in_total_and_by_peer_and_no_contradiction_is_shed_for_them() {
        let large = |number, peer| RawMessage { bytes: vec![0; 10 << 10], ..message(number, peer) };
        let limits =
            LaneLimits { messages: 10_000, bytes: 200 << 10, bytes_per_peer: 50 << 10, batch: 9, gather: Duration::ZERO };
        let mut lanes = Lanes::new(limits);
        let mut outcomes: HashMap<(u8, Option<Shed>), usize> = HashMap::new();
        for number in 0..1000 {
            for (nth, triage, repute) in [
                (0, Triage::Ordinary, Repute::Good),
                (1, Triage::Context, Repute::Unknown),
                (2, Triage::Settled(ValidatorIndex::new(number)), Repute::Good),
                (3, Triage::Contradiction, Repute::Bad),
            ] {
                let shed = lanes.push(large(number, nth), triage, repute).map(|(_, why)| why);
                *outcomes.entry((nth, shed)).or_default() += 1;
            }
        }
        for peer in 0..4 {
            assert_eq!(outcomes[&(peer, None)], 4, "of a peer: {outcomes:?}");
            assert_eq!(outcomes[&(peer, Some(Shed::PeerBytes))], 996, "{outcomes:?}");
        }
        for peer in 10..200 {
            let shed = lanes.push(large(0, peer), Triage::Ordinary, Repute::Good).map(|(_, why)| why);
            *outcomes.entry((10, shed)).or_default() += 1;
        }
        assert!(outcomes[&(10, None)] > 0 && outcomes[&(10, Some(Shed::Bytes))] > 0, "{outcomes:?}");
        assert!(lanes.bytes() <= 2 * limits.bytes, "{} bytes", lanes.bytes());
        // Contradictions of one peer: none is shed, the queue before fills up instead.
        let mut n_taken = 0;
        while lanes.has_room() {
            assert!(lanes.push(large(n_taken, 1), Triage::Contradiction, Repute::Good).is_none());
            n_taken += 1;
        }
        assert!(n_taken > 5 && lanes.bytes() <= 2 * limits.bytes + (11 << 10), "{n_taken}, {} bytes", lanes.bytes());
        while !lanes.is_empty() {
            lanes.take(UnixNs(0), GOOD);
        }
        assert_eq!((lanes.bytes(), lanes.bytes_by_peer.0.len()), (0, 0));
        assert!(lanes.push(large(0, 1), Triage::Context, Repute::Good).is_none());
    }
}
