use super::*;
use consensus::ForkName;
use verify::{MessageParts, Origin, SourceKind};

fn message(number: u64, peer: u8) -> RawMessage {
    let parts = MessageParts {
        origin: Origin {
            source: SourceKind::Gossip,
            peer: Some(PeerBytes::from([peer])),
            fork: Some(ForkName::Fulu),
            subscribed: None,
        },
        kind: MessageKind::Attestation { subnet: 0 },
        received_at: Time(number),
        bytes: Vec::new(),
        ticket: None,
    };
    RawMessage::new(parts).unwrap()
}

fn queues(messages: usize, batch: usize) -> PriorityQueues {
    PriorityQueues::new(QueueLimits {
        messages,
        bytes: 64 << 20,
        bytes_per_peer: 64 << 20,
        batch,
        gather: Duration::from_nanos(100),
    })
}

/// Takes a batch from which nothing is dropped.
fn take(queues: &mut PriorityQueues, now: Time, repute: impl Fn(Option<&PeerBytes>) -> PeerReputation) -> Vec<RawMessage> {
    let Batch { messages, dropped } = queues.take(now, repute);
    assert!(dropped.is_empty(), "{} are dropped", dropped.len());
    messages
}

fn numbers(batch: &[RawMessage]) -> Vec<u64> {
    batch.iter().map(|message| message.received_at.0).collect()
}

const GOOD: fn(Option<&PeerBytes>) -> PeerReputation = |_| PeerReputation::Good;

#[test]
fn a_contradiction_goes_first_and_alone() {
    let mut queues = queues(100, 3);
    for number in 0..4 {
        assert!(queues.push(message(number, 1), Triage::Ordinary, PeerReputation::Good).is_none());
    }
    assert!(queues.push(message(9, 1), Triage::Contradiction, PeerReputation::Good).is_none());
    assert_eq!(queues.oldest(), Some(Time(0)));
    assert_eq!(queues.due_in(Time(0)), Some(Duration::ZERO));
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [9]);
    assert!(queues.is_pressed());
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [0, 1, 2], "a whole batch need not be gathered for");
    assert!(!queues.is_pressed());
    assert_eq!(queues.due_in(Time(50)), Some(Duration::from_nanos(53)));
    assert!(take(&mut queues, Time(50), GOOD).is_empty());
    assert_eq!(numbers(&take(&mut queues, Time(103), GOOD)), [3]);
    assert_eq!(queues.due_in(Time(0)), None);
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
    let mut queues = queues(100, 50);
    let mut push = |vote| assert!(queues.push(vote, Triage::Ordinary, PeerReputation::Good).is_none());
    for number in 0..6 {
        push(vote(number, number, 5, 0));
    }
    push(vote(10, 3, 5, 0)); // the same vote again
    push(vote(11, 3, 6, 1)); // for another target epoch
    push(vote(12, 4, 5, 1));
    push(vote(13, 4, 5, 2)); // a third vote
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [12, 13, 4]);
    assert_eq!(numbers(&take(&mut queues, Time(500), GOOD)), [0, 1, 2, 3, 5, 10, 11]);
    // Votes that were taken are no longer compared here. The engine's triage compares them.
    assert!(queues.push(vote(20, 4, 5, 3), Triage::Ordinary, PeerReputation::Good).is_none());
    assert!(take(&mut queues, Time(0), GOOD).is_empty());
    assert_eq!((queues.waiting_votes.len(), queues.contradicted.len()), (1, 0));
}

/// Under the load of a mainnet the first vote of such a pair waited for 1.8 s, and the second
/// one with it.
#[test]
fn votes_of_which_one_surrounds_the_other_go_first_together() {
    let mut queues = queues(100, 50);
    let mut push = |vote| assert!(queues.push(vote, Triage::Ordinary, PeerReputation::Good).is_none());
    let from = |source: u64, vote: RawMessage| {
        vote.changed(|parts| parts.bytes[16 + 48..16 + 56].copy_from_slice(&source.to_le_bytes()))
    };
    push(from(4, vote(0, 3, 9, 0)));
    push(from(5, vote(1, 3, 8, 0))); // surrounded by the vote before
    push(from(6, vote(2, 4, 9, 0)));
    push(from(6, vote(3, 4, 8, 0))); // the same source: no contradiction
    push(from(7, vote(4, 5, 9, 0)));
    push(from(6, vote(5, 5, 10, 0))); // surrounds the vote before
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [1, 5, 0, 4]);
    assert_eq!(numbers(&take(&mut queues, Time(500), GOOD)), [2, 3]);
}

/// Whoever owns a key can sign any number of votes that contradict nothing. They wait like others,
/// also if there are thousands, and hide no pair that does contradict.
#[test]
fn many_votes_of_one_validator_that_contradict_nothing_are_ordinary() {
    let mut queues = queues(100_000, 100_000);
    for number in 0..10_000 {
        assert!(queues.push(vote(number, 3, number, 0), Triage::Ordinary, PeerReputation::Good).is_none());
    }
    assert!(queues.push(vote(10_000, 3, 9_000, 1), Triage::Ordinary, PeerReputation::Good).is_none());
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [10_000, 9_000]);
    assert!(take(&mut queues, Time(0), GOOD).is_empty(), "nothing else is urgent");
    assert_eq!(take(&mut queues, Time(50_000), GOOD).len(), 9_999);
    assert_eq!(queues.waiting_votes.len(), 0);
}

/// Nobody checks a vote that was dropped. It must not make all later votes of a validator urgent by
/// what it claims as its source.
#[test]
fn a_dropped_vote_surrounds_nothing() {
    let mut queues = queues(1, 50);
    let spanning = |number, source: u64, target| {
        vote(number, 7, target, 0).changed(|parts| parts.bytes[16 + 48..16 + 56].copy_from_slice(&source.to_le_bytes()))
    };
    let mut push = |vote| queues.push(vote, Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why);
    assert_eq!(push(vote(0, 1, 5, 0)), None);
    assert_eq!(push(spanning(1, 4, 10_000)), Some(Dropped::Overload));
    assert_eq!(push(spanning(2, 5, 6)), Some(Dropped::Overload), "surrounded by what was dropped, and ordinary");
}

#[test]
fn who_contradicts_a_vote_that_was_shed_goes_first() {
    let mut queues = queues(2, 50);
    let mut push = |vote| queues.push(vote, Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why);
    assert_eq!([0, 1].map(|n| push(vote(n, n, 5, 0))), [None; 2]);
    assert_eq!(push(vote(2, 7, 5, 0)), Some(Dropped::Overload));
    assert_eq!(push(vote(3, 7, 5, 0)), Some(Dropped::Overload), "the same again");
    assert_eq!(push(vote(4, 7, 5, 1)), None);
    assert_eq!(push(vote(5, 7, 6, 1)), Some(Dropped::Overload), "for another target");
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [4]);
    for n in 0..10 {
        assert_eq!(
            queues.push(vote(n, 100 + n, 5, 0), Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why),
            Some(Dropped::Overload)
        );
    }
    assert!(queues.dropped_votes.len() <= 2, "as many as may wait");
}

#[test]
fn what_is_known_waits_nowhere() {
    let mut queues = queues(100, 3);
    let shed = queues.push(message(1, 1), Triage::Known, PeerReputation::Bad);
    assert_eq!(shed.map(|(message, why)| (message.received_at.0, why)), Some((1, Dropped::Known)));
    assert!(queues.is_empty());
}

#[test]
fn overload_sheds_liars_then_ordinary_votes_and_never_contradictions() {
    let mut queues = queues(10, 100);
    let why = |shed: Option<(RawMessage, Dropped)>| shed.map(|(message, why)| (message.received_at.0, why));
    for number in 0..2 {
        assert_eq!(why(queues.push(message(number, 6), Triage::Contradiction, PeerReputation::Bad)), None);
    }
    for number in 10..18 {
        assert_eq!(why(queues.push(message(number, 1), Triage::Ordinary, PeerReputation::Unknown)), None);
    }
    assert_eq!(why(queues.push(message(20, 1), Triage::Ordinary, PeerReputation::Good)), Some((1, Dropped::Forger)));
    assert_eq!(why(queues.push(message(21, 1), Triage::Ordinary, PeerReputation::Good)), Some((0, Dropped::Forger)));
    assert_eq!(why(queues.push(message(22, 1), Triage::Ordinary, PeerReputation::Good)), Some((22, Dropped::Overload)));
    for number in 30..40 {
        assert_eq!(why(queues.push(message(number, 1), Triage::Contradiction, PeerReputation::Good)), None);
    }
    assert!(!queues.has_room(), "the input queue fills up instead");
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), (30..40).collect::<Vec<_>>());
    assert!(queues.has_room());
}

#[test]
fn strangers_have_a_share_and_liars_wait() {
    let mut queues = queues(1000, 100);
    let unknown_peer = |peer: Option<&PeerBytes>| {
        if peer.is_some_and(|peer| peer[0] == 7) { PeerReputation::Unknown } else { PeerReputation::Good }
    };
    for number in 0..20 {
        queues.push(message(number, 7), Triage::Contradiction, PeerReputation::Unknown);
    }
    queues.push(message(50, 1), Triage::Contradiction, PeerReputation::Good);
    let batch = numbers(&take(&mut queues, Time(0), unknown_peer));
    assert_eq!((batch.len(), batch.last()), (URGENT_PER_UNKNOWN_PEER + 1, Some(&50)));
    // All of them were forged.
    let liar = |peer: Option<&PeerBytes>| {
        if peer.is_some_and(|peer| peer[0] == 7) { PeerReputation::Bad } else { PeerReputation::Good }
    };
    queues.push(message(60, 1), Triage::Ordinary, PeerReputation::Good);
    let batch = numbers(&take(&mut queues, Time(60), liar));
    assert_eq!(batch, (16..20).collect::<Vec<_>>(), "the rest, once with other doubtful ones");
    for number in 70..170 {
        queues.push(message(number, 7), Triage::Ordinary, PeerReputation::Bad);
    }
    assert_eq!(numbers(&take(&mut queues, Time(1000), liar)), [60], "then it is the others' turn");
    assert_eq!(take(&mut queues, Time(1000), liar).len(), DOUBTFUL_BATCH);
}

/// Ids cost nothing, so each forged message may come from a new one. What is laborious to check
/// then waits, and the next contradiction of another stranger does not.
#[test]
fn laborious_messages_of_ever_new_strangers_delay_nobody() {
    let of = |number: u64, kind, length: usize| {
        message(number, number as u8).changed(|parts| (parts.kind, parts.bytes) = (kind, vec![0; length]))
    };
    let stranger = |_: Option<&PeerBytes>| PeerReputation::Unknown;
    for (kind, length, at_once) in [(MessageKind::Aggregate, 460, 2), (MessageKind::AttesterSlashing, 140 << 10, 1)] {
        let mut queues = queues(1000, 100);
        for number in 0..100 {
            queues.push(of(number, kind, length), Triage::Contradiction, PeerReputation::Unknown);
        }
        queues.push(message(200, 200), Triage::Contradiction, PeerReputation::Unknown);
        queues.push(of(201, MessageKind::Block, 1 << 20), Triage::Context, PeerReputation::Unknown);
        let batch = numbers(&take(&mut queues, Time(0), stranger));
        assert_eq!(batch, (0..at_once).chain([200, 201]).collect::<Vec<_>>(), "{kind:?}");
        // None of the others is lost, and each batch has its share of them.
        let mut rest = Vec::new();
        while !queues.is_empty() {
            let batch = numbers(&take(&mut queues, Time(0), stranger));
            assert_eq!(batch.len() as u64, at_once.min(100 - at_once - rest.len() as u64));
            rest.extend(batch);
        }
        assert_eq!(rest, (at_once..100).collect::<Vec<_>>());
    }
    // However many come, there stays room for what others send.
    let mut crowded = queues(200, 100);
    let mut dropped = Vec::new();
    for number in 0..1000 {
        crowded.push(of(number, MessageKind::ProposerSlashing, 416), Triage::Contradiction, PeerReputation::Unknown);
        if number % 100 == 99 {
            dropped.extend(crowded.take(Time(0), stranger).dropped);
        }
        assert!(crowded.has_room());
    }
    // Ten batches, each with as many as one validator may have: all accuse the same one.
    assert_eq!((dropped.len(), crowded.len()), (1000 - 10 * URGENT_PER_VALIDATOR - 50, 50));
    assert!(dropped.iter().all(|(_, why)| *why == Dropped::Stranger));
    assert_eq!(crowded.bytes_by_peer.0.values().sum::<usize>(), crowded.bytes());
    // Of peers that are known, all are taken at once.
    let mut known = queues(1000, 100);
    (0..100).for_each(|number| {
        known.push(of(number, MessageKind::Aggregate, 460), Triage::Contradiction, PeerReputation::Good);
    });
    assert_eq!(take(&mut known, Time(0), GOOD).len(), 100);
}

/// A peer is known to forge only after its contradictions wait. Then the limits of doubtful
/// messages apply to them too.
#[test]
fn contradictions_of_a_peer_that_turns_out_to_forge_keep_the_limits_of_doubtful_messages() {
    let mut queues = queues(40, 100);
    for number in 0..35 {
        assert!(queues.push(message(number, 7), Triage::Contradiction, PeerReputation::Unknown).is_none());
    }
    let batch = queues.take(Time(0), |_| PeerReputation::Bad);
    assert_eq!(numbers(&batch.messages), (0..10).collect::<Vec<_>>(), "a quarter of the places");
    let dropped: Vec<(u64, Dropped)> = batch.dropped.iter().map(|(one, why)| (one.received_at.0, *why)).collect();
    assert_eq!(dropped, (10..35).map(|number| (number, Dropped::Forger)).collect::<Vec<_>>());
    assert_eq!((queues.len(), queues.bytes(), queues.bytes_by_peer.0.len(), queues.doubtful_by_peer.0.len()), (0, 0, 0, 0));
    // Its share of bytes holds as well.
    let large =
        |number| message(number, 7).changed(|parts| (parts.kind, parts.bytes) = (MessageKind::Aggregate, vec![0; 10 << 10]));
    let limits = QueueLimits { messages: 100, bytes: 1 << 20, bytes_per_peer: 50 << 10, batch: 9, gather: Duration::ZERO };
    let mut queues = PriorityQueues::new(limits);
    for number in 0..20 {
        assert!(queues.push(large(number), Triage::Contradiction, PeerReputation::Unknown).is_none());
    }
    let batch = queues.take(Time(0), |_| PeerReputation::Bad);
    assert!(batch.dropped.iter().all(|(_, why)| *why == Dropped::PeerBytes));
    assert_eq!((batch.messages.len(), batch.dropped.len(), queues.doubtful.len()), (1, 16, 3), "each is a batch of its own");
}

#[test]
fn one_liar_does_not_take_all_places() {
    let mut queues = queues(40, 100);
    for number in 0..30 {
        queues.push(message(number, 7), Triage::Ordinary, PeerReputation::Bad);
    }
    assert_eq!(queues.len(), 10);
    assert!(queues.push(message(90, 8), Triage::Ordinary, PeerReputation::Bad).is_none());
    for number in 100..200 {
        queues.push(message(number, number as u8), Triage::Ordinary, PeerReputation::Bad);
    }
    assert_eq!(queues.len(), 20, "bounded whatever the number of peers");
}
/// Pushes a settled message of a validator from a peer.
fn settled(queues: &mut PriorityQueues, number: u64, validator: u64, peer: u8) -> Option<Dropped> {
    let triage = Triage::Settled(ValidatorIndex::new(validator));
    queues.push(message(number, peer), triage, PeerReputation::Good).map(|(_, why)| why)
}

#[test]
fn what_is_settled_waits_for_everything_else_and_is_shed_by_validator_peer_and_place() {
    let places = SETTLED_PER_PEER + SETTLED_PER_VALIDATOR + 100;
    let mut queues = queues(SETTLED_SHARE * places, 3);
    let n_kept = (0..5_000).filter(|number| settled(&mut queues, *number, 7, 1).is_none()).count();
    assert_eq!(n_kept, SETTLED_PER_VALIDATOR);
    let n_kept = (0..5_000).filter(|number| settled(&mut queues, *number, 100 + number, 1).is_none()).count();
    assert_eq!(n_kept, SETTLED_PER_PEER - SETTLED_PER_VALIDATOR);
    let n_kept = (0..5_000).filter(|number| settled(&mut queues, *number, 100 + number, 3).is_none()).count();
    assert_eq!(n_kept, places - SETTLED_PER_PEER, "a share of all places");
    for number in 200..203 {
        queues.push(message(number, 2), Triage::Ordinary, PeerReputation::Good);
    }
    queues.push(message(300, 2), Triage::Contradiction, PeerReputation::Good);
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [300]);
    assert_eq!(take(&mut queues, Time(0), GOOD).len(), SETTLED_BATCH, "a few");
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [200, 201, 202], "then it is the others' turn");
    assert_eq!(queues.due_in(Time(0)), Some(Duration::ZERO));
    let mut n_left = 0;
    while !queues.is_empty() {
        n_left += take(&mut queues, Time(0), GOOD).len();
    }
    assert_eq!(n_left, places - SETTLED_BATCH, "all of it while nothing else is there");
    assert_eq!((queues.bytes(), queues.bytes_by_peer.0.len(), queues.settled_by_validator.0.len()), (0, 0, 0));
    // An ordinary vote displaces a settled message.
    let mut queues = super::tests::queues(8, 100);
    assert_eq!([1, 2].map(|number| settled(&mut queues, number, number, 1)), [None; 2]);
    for number in 10..16 {
        assert!(queues.push(message(number, 1), Triage::Ordinary, PeerReputation::Good).is_none());
    }
    let shed = [20, 21, 22].map(|number| queues.push(message(number, 1), Triage::Ordinary, PeerReputation::Good));
    assert_eq!(
        shed.map(|shed| shed.map(|(message, why)| (message.received_at.0, why))),
        [Some((2, Dropped::Settled)), Some((1, Dropped::Settled)), Some((22, Dropped::Overload))]
    );
}

#[test]
fn one_validators_contradictions_take_turns_with_everything_else_and_none_is_shed() {
    let mut queues = queues(1000, 2);
    for number in 0..100 {
        assert!(queues.push(vote(number, 7, number, 1), Triage::Contradiction, PeerReputation::Good).is_none());
    }
    queues.push(vote(200, 8, 5, 1), Triage::Contradiction, PeerReputation::Good);
    for number in 300..302 {
        queues.push(message(number, 1), Triage::Ordinary, PeerReputation::Good);
    }
    let first = numbers(&take(&mut queues, Time(0), GOOD));
    assert_eq!((first.len(), first.last()), (URGENT_PER_VALIDATOR + 1, Some(&200)), "nobody waits for its hundred");
    assert_eq!(take(&mut queues, Time(0), GOOD).len(), URGENT_PER_VALIDATOR);
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [300, 301]);
    queues.push(vote(400, 9, 5, 1), Triage::Contradiction, PeerReputation::Good);
    assert_eq!(numbers(&take(&mut queues, Time(0), GOOD)), [400], "what is new goes before what was deferred");
    let mut rest = Vec::new();
    while !queues.is_empty() {
        rest.extend(numbers(&take(&mut queues, Time(0), GOOD)));
    }
    assert_eq!(rest, (16..100).collect::<Vec<_>>(), "in order");
}

/// A message may have 10 MiB.
#[test]
fn bytes_are_bounded_in_total_and_by_peer_and_no_contradiction_is_shed_for_them() {
    let large = |number, peer| {
        message(number, peer).changed(|parts| (parts.kind, parts.bytes) = (MessageKind::Aggregate, vec![0; 10 << 10]))
    };
    let limits = QueueLimits { messages: 10_000, bytes: 200 << 10, bytes_per_peer: 50 << 10, batch: 9, gather: Duration::ZERO };
    let mut queues = PriorityQueues::new(limits);
    let mut outcomes: HashMap<(u8, Option<Dropped>), usize> = HashMap::new();
    for number in 0..1000 {
        for (nth, triage, repute) in [
            (0, Triage::Ordinary, PeerReputation::Good),
            (1, Triage::Context, PeerReputation::Unknown),
            (2, Triage::Settled(ValidatorIndex::new(number)), PeerReputation::Good),
            (3, Triage::Contradiction, PeerReputation::Bad),
        ] {
            let shed = queues.push(large(number, nth), triage, repute).map(|(_, why)| why);
            *outcomes.entry((nth, shed)).or_default() += 1;
        }
    }
    for peer in 0..4 {
        assert_eq!(outcomes[&(peer, None)], 4, "of a peer: {outcomes:?}");
        assert_eq!(outcomes[&(peer, Some(Dropped::PeerBytes))], 996, "{outcomes:?}");
    }
    for peer in 10..200 {
        let shed = queues.push(large(0, peer), Triage::Ordinary, PeerReputation::Good).map(|(_, why)| why);
        *outcomes.entry((10, shed)).or_default() += 1;
    }
    assert!(outcomes[&(10, None)] > 0 && outcomes[&(10, Some(Dropped::Bytes))] > 0, "{outcomes:?}");
    assert!(queues.bytes() <= 2 * limits.bytes, "{} bytes", queues.bytes());
    // Contradictions of one peer are not dropped. The input queue fills up instead.
    let mut n_taken = 0;
    while queues.has_room() {
        assert!(queues.push(large(n_taken, 1), Triage::Contradiction, PeerReputation::Good).is_none());
        n_taken += 1;
    }
    assert!(n_taken > 5 && queues.bytes() <= 2 * limits.bytes + (11 << 10), "{n_taken}, {} bytes", queues.bytes());
    while !queues.is_empty() {
        take(&mut queues, Time(0), GOOD);
    }
    assert_eq!((queues.bytes(), queues.bytes_by_peer.0.len()), (0, 0));
    assert!(queues.push(large(0, 1), Triage::Context, PeerReputation::Good).is_none());
}
