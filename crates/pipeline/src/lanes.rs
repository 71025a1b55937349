//! Where messages wait for the engine: sorted by what they would be if they were true, so that an answer does not wait for a
//! batch, a liar makes nobody else wait, and what has to be shed is what says least.
//!
//! | lane | who | judged | when full |
//! |---|---|---|---|
//! | none | what is known already | at once: a duplicate costs nothing | |
//! | urgent | what would contradict something proven, stored or waiting, and what others wait for (blocks, operations) | first, alone; of a peer that is not known yet a few at a time | nothing is shed: the queue before it fills up |
//! | ordinary | single votes and aggregates, thousands a second | together, once gathered | the newest is shed, after everything doubtful |
//! | doubtful | whatever comes from peers that mostly forge | a few between two ordinary batches | the newest of the peer that has most is shed |
//!
//! Two single votes that would contradict each other while both wait become urgent together: which of them is true need not be known for that.
//! So does the second if the first was shed; that one comes again from other peers, and then contradicts what is proven.
//!
//! What is shed is an honest majority's vote, which comes again in aggregates and blocks, or a liar's: never a contradiction
//! from anybody else. Nothing here reads a clock.

use consensus::{Epoch, ValidatorIndex};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use verify::{MessageKind, PeerBytes, RawMessage, Repute, Triage, UnixNs, single_vote_claimed};

/// Contradictions and blocks judged at a time.
const URGENT_BATCH: usize = 256;
/// Of these, from one peer that is not known yet: what a stranger's forged contradictions can cost, until it is known for them.
const URGENT_PER_STRANGER: usize = 16;
/// Doubtful messages judged between two ordinary batches, each by itself: some 20 ms.
const DOUBTFUL_BATCH: usize = 32;
/// Of all places, one in so many is for what is doubtful.
const DOUBTFUL_SHARE: usize = 4;

/// What an aggregate with unproven members costs, in single votes: its own equation and two signatures around it.
const AGGREGATE_WEIGHT: usize = 8;

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Messages in all lanes together.
    pub messages: usize,
    /// Ordinary messages judged together at most; an aggregate counts for some.
    pub batch: usize,
    /// For so long ordinary messages are gathered, so that many share the price of one equation.
    pub gather: Duration,
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
}

impl Shed {
    pub const ALL: [Self; 3] = [Self::Known, Self::Overload, Self::Liar];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Overload => "overload",
            Self::Liar => "liar",
        }
    }
}

/// A validator has one vote for each target epoch.
type Ballot = (ValidatorIndex, Epoch);

/// What waits. One owner, the engine's thread.
#[derive(Debug)]
pub struct Lanes {
    limits: LaneLimits,
    urgent: VecDeque<RawMessage>,
    ordinary: VecDeque<RawMessage>,
    /// Hash of what each single vote in the ordinary lane says; of several in one name, the first.
    ballots: HashMap<Ballot, u64>,
    /// The same of votes that found no place: who contradicts one of them is urgent all the same. Bounded like what waits.
    shed_ballots: HashMap<Ballot, u64>,
    /// Of those that wait, those that something else was said of as well: they become urgent.
    rivalled: HashSet<Ballot>,
    hashing: RandomState,
    doubtful: VecDeque<RawMessage>,
    doubtful_by_peer: HashMap<Option<PeerBytes>, usize>,
    /// The doubtful ones had their turn since the last ordinary batch.
    doubtful_served: bool,
}

impl Lanes {
    pub fn new(limits: LaneLimits) -> Self {
        Self {
            limits: LaneLimits { messages: limits.messages.max(1), batch: limits.batch.max(1), ..limits },
            urgent: VecDeque::new(),
            ordinary: VecDeque::new(),
            ballots: HashMap::new(),
            shed_ballots: HashMap::new(),
            rivalled: HashSet::new(),
            hashing: RandomState::new(),
            doubtful: VecDeque::new(),
            doubtful_by_peer: HashMap::new(),
            doubtful_served: false,
        }
    }

    pub fn len(&self) -> usize {
        self.urgent.len() + self.ordinary.len() + self.doubtful.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the message that waits longest came. Looks at each.
    pub fn oldest(&self) -> Option<UnixNs> {
        [&self.urgent, &self.ordinary, &self.doubtful].into_iter().flatten().map(|message| message.received_at).min()
    }

    /// Whether another whole batch of ordinary votes waits: they come faster than they are judged.
    pub fn is_pressed(&self) -> bool {
        self.ordinary.len() >= self.limits.batch
    }

    /// Whether more may be taken from the queue: what is urgent is never shed, so it must find a place.
    pub fn has_room(&self) -> bool {
        self.urgent.len() < self.limits.messages
    }

    /// Lets a message wait, or gives back the one that gives way, with the reason: this one or another.
    pub fn push(&mut self, message: RawMessage, triage: Triage, repute: Repute) -> Option<(RawMessage, Shed)> {
        match (triage, repute) {
            (Triage::Known, _) => Some((message, Shed::Known)),
            (_, Repute::Bad) => self.push_doubtful(message),
            (Triage::Contradiction | Triage::Context, Repute::Good | Repute::Unknown) => {
                self.urgent.push_back(message);
                None
            }
            (Triage::Ordinary, Repute::Good | Repute::Unknown) if self.has_rival(&message) => {
                self.urgent.push_back(message);
                None
            }
            (Triage::Ordinary, Repute::Good | Repute::Unknown) => {
                let mut shed = None;
                if self.len() >= self.limits.messages {
                    match self.pop_doubtful_back() {
                        Some(doubtful) => shed = Some((doubtful, Shed::Liar)),
                        None => {
                            self.remember_shed(&message);
                            return Some((message, Shed::Overload));
                        }
                    }
                }
                self.push_ordinary(message);
                shed
            }
        }
    }

    /// How long until there is something to judge: zero if there is, `None` if nothing waits.
    pub fn due_in(&self, now: UnixNs) -> Option<Duration> {
        if !self.urgent.is_empty() || self.ordinary.len() >= self.limits.batch {
            return Some(Duration::ZERO);
        }
        match self.ordinary.front() {
            Some(oldest) => {
                let waited = Duration::from_nanos(now.0.saturating_sub(oldest.received_at.0));
                Some(self.limits.gather.saturating_sub(waited))
            }
            None => (!self.doubtful.is_empty()).then_some(Duration::ZERO),
        }
    }

    /// What to judge together next; empty if nothing is due.
    pub fn take(&mut self, now: UnixNs, repute: impl Fn(Option<&PeerBytes>) -> Repute) -> Vec<RawMessage> {
        self.promote_rivalled();
        let urgent = self.take_urgent(&repute);
        if !urgent.is_empty() {
            return urgent;
        }
        if !self.doubtful.is_empty() && (!self.doubtful_served || self.ordinary.is_empty()) {
            self.doubtful_served = true;
            let n = DOUBTFUL_BATCH.min(self.doubtful.len());
            return (0..n).filter_map(|_| self.pop_doubtful_front()).collect();
        }
        if self.due_in(now) != Some(Duration::ZERO) {
            return Vec::new();
        }
        self.doubtful_served = false;
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

    /// Strangers have a share of each batch. Whoever has got a bad name meanwhile is judged with its like.
    fn take_urgent(&mut self, repute: &impl Fn(Option<&PeerBytes>) -> Repute) -> Vec<RawMessage> {
        let mut batch = Vec::new();
        let mut by_stranger: HashMap<PeerBytes, usize> = HashMap::new();
        for _ in 0..self.urgent.len() {
            if batch.len() >= URGENT_BATCH {
                break;
            }
            let Some(message) = self.urgent.pop_front() else { break };
            match (repute(message.origin.peer.as_ref()), &message.origin.peer) {
                (Repute::Bad, _) => self.keep_doubtful(message),
                (Repute::Unknown, Some(peer)) => {
                    let n = by_stranger.entry(peer.clone()).or_default();
                    *n += 1;
                    if *n > URGENT_PER_STRANGER {
                        self.urgent.push_back(message);
                    } else {
                        batch.push(message);
                    }
                }
                (Repute::Good, _) | (Repute::Unknown, None) => batch.push(message),
            }
        }
        batch
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

    fn push_ordinary(&mut self, message: RawMessage) {
        if let Some((voter, target, said)) = single_vote_claimed(&message) {
            let hash = self.hashing.hash_one(said);
            self.ballots.entry((voter, target)).or_insert(hash);
        }
        self.ordinary.push_back(message);
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
        let is_rivalled = |message: &RawMessage| {
            single_vote_claimed(message).is_some_and(|(voter, target, _)| rivalled.contains(&(voter, target)))
        };
        let (urgent, ordinary) = std::mem::take(&mut self.ordinary).into_iter().partition(is_rivalled);
        self.ordinary = ordinary;
        self.ballots.retain(|ballot, _| !rivalled.contains(ballot));
        self.urgent.extend::<VecDeque<RawMessage>>(urgent);
    }

    fn push_doubtful(&mut self, message: RawMessage) -> Option<(RawMessage, Shed)> {
        let limit = (self.limits.messages / DOUBTFUL_SHARE).max(1);
        let peers = self.doubtful_by_peer.len().max(1);
        let held = self.doubtful_by_peer.get(&message.origin.peer).copied().unwrap_or(0);
        // A peer's share is what an even division leaves it, so one cannot keep another's messages out for good.
        if self.doubtful.len() >= limit && held >= limit.div_ceil(peers) || self.doubtful.len() >= 2 * limit {
            return Some((message, Shed::Liar));
        }
        self.keep_doubtful(message);
        None
    }

    fn keep_doubtful(&mut self, message: RawMessage) {
        *self.doubtful_by_peer.entry(message.origin.peer.clone()).or_default() += 1;
        self.doubtful.push_back(message);
    }

    fn pop_doubtful_front(&mut self) -> Option<RawMessage> {
        let message = self.doubtful.pop_front();
        self.forget_doubtful(message)
    }

    fn pop_doubtful_back(&mut self) -> Option<RawMessage> {
        let message = self.doubtful.pop_back();
        self.forget_doubtful(message)
    }

    fn forget_doubtful(&mut self, message: Option<RawMessage>) -> Option<RawMessage> {
        let message = message?;
        if let Some(held) = self.doubtful_by_peer.get_mut(&message.origin.peer) {
            *held -= 1;
            if *held == 0 {
                self.doubtful_by_peer.remove(&message.origin.peer);
            }
        }
        Some(message)
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
        Lanes::new(LaneLimits { messages, batch, gather: Duration::from_nanos(100) })
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
}
