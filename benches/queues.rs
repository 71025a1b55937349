//! Sends the votes of a slot through the priority queues and through a plain queue. Also measures
//! how long a contradiction waits while the queues are full.

use crate::Ratio;
use crate::load::votes;
use criterion::{BatchSize, Criterion, Throughput};
use engine::priority_queues::{PriorityQueues, QueueLimits};
use std::collections::VecDeque;
use std::time::Duration;
use verify::{PeerBytes, PeerReputation, RawMessage, Time, Triage};

/// Number of copies of each vote. Each comes from another peer, as on gossip.
const COPIES: u8 = 8;

pub fn run(criterion: &mut Criterion) -> Vec<Ratio> {
    let mut messages = Vec::new();
    for message in votes().messages {
        for peer in 0..COPIES {
            messages.push(message.changed(|parts| parts.origin.peer = Some(PeerBytes::from([peer]))));
        }
    }
    let n = messages.len() as u64;
    let later = Time(messages.iter().map(|message| message.received_at.0).max().unwrap() + 1_000_000_000);

    let mut group = criterion.benchmark_group("queues");
    group.throughput(Throughput::Elements(n));
    group.bench_function("in_and_out", |bencher| {
        bencher.iter_batched(
            || (lanes(), messages.clone()),
            |(mut lanes, messages)| {
                fill(&mut lanes, messages);
                let mut n_taken = 0;
                while !lanes.is_empty() {
                    n_taken += lanes.take(later, |_| PeerReputation::Good).messages.len();
                }
                assert_eq!(n_taken as u64, n, "nothing is lost");
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("in_and_out_of_a_plain_queue", |bencher| {
        bencher.iter_batched(
            || messages.clone(),
            |messages| {
                let mut queue: VecDeque<RawMessage> = VecDeque::new();
                messages.into_iter().for_each(|message| queue.push_back(message));
                std::iter::from_fn(|| queue.pop_front()).count()
            },
            BatchSize::LargeInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("contradiction_while_they_are_full", |bencher| {
        bencher.iter_batched(
            || {
                let mut lanes = lanes();
                fill(&mut lanes, messages.clone());
                (lanes, messages[0].clone())
            },
            |(mut lanes, message)| {
                assert!(lanes.push(message, Triage::Contradiction, PeerReputation::Good).is_none());
                assert_eq!(lanes.take(later, |_| PeerReputation::Good).messages.len(), 1, "it goes first and alone");
                lanes
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
    vec![Ratio {
        group: "queues",
        slow: ("in_and_out", n),
        fast: ("in_and_out_of_a_plain_queue", n),
        says: "times as long as a plain queue take the priority queues for a message",
    }]
}

fn lanes() -> PriorityQueues {
    PriorityQueues::new(QueueLimits {
        messages: 1 << 16,
        bytes: QueueLimits::BYTES,
        bytes_per_peer: QueueLimits::BYTES_PER_PEER,
        batch: 1024,
        gather: Duration::from_millis(50),
    })
}

fn fill(lanes: &mut PriorityQueues, messages: Vec<RawMessage>) {
    for message in messages {
        assert!(lanes.push(message, Triage::Ordinary, PeerReputation::Good).is_none(), "there is room for all");
    }
}
