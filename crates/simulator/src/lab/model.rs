//! What a simple model expects, beside what the laboratory measures.
//!
//! The nodes of the subnet are a random graph in which each has about eight neighbours. A hop takes
//! a log-normal time. Each node takes the vote that reaches it first, and passes on only that. The
//! publisher sends to some nodes of the subnet. The listener hears whatever a node that it is
//! connected to takes or publishes, because the model knows no mesh and no IHAVE.

use super::{HOP, HOP_SIGMA, publishers, subscribed};
use crate::seeded_random::SeededRandom;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Neighbours of a node that is subscribed: half of them it has dialled.
const DIALLED: u64 = 4;
/// Nodes of the subnet to which a publisher sends.
const FANOUT: u64 = 7;
/// Networks and pairs of publishers that are tried.
const TRIALS: u64 = 600;

/// What the model expects of one skew.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelShares {
    /// Part of the subscribed nodes that take the second vote.
    pub(super) taken: f64,
    /// Part of the conflicts that are heard with each number of connections.
    pub(super) heard: Vec<f64>,
}

/// Plays the model with that many nodes, of which the listener is connected to some.
pub(super) fn shares(nodes: usize, skew: Duration, connections: &[usize], seed: u64) -> ModelShares {
    let random = SeededRandom::new(seed);
    let subnet = subscribed(nodes);
    let (mut taken, mut heard) = (0.0, vec![0.0; connections.len()]);
    for trial in 0..TRIALS {
        let [first, second] = publishers(nodes, &random, trial);
        let took_second = spread(&graph(nodes, subnet, [first, second], &random, trial), first, second, skew);
        taken += took_second[..subnet].iter().filter(|took| **took == Some(true)).count() as f64 / subnet as f64;
        // The listener's peers are the first ones of a random order.
        let mut order: Vec<usize> = (0..nodes).collect();
        order.sort_by_cached_key(|node| random.hash("model: connection", &[trial, *node as u64]));
        for (nth, n) in connections.iter().enumerate() {
            let hears = |second: bool| order[..(*n).min(nodes)].iter().any(|node| took_second[*node] == Some(second));
            heard[nth] += f64::from(u8::from(hears(true) && hears(false)));
        }
    }
    let part = |sum: f64| sum / TRIALS as f64;
    ModelShares { taken: part(taken), heard: heard.into_iter().map(part).collect() }
}

/// For each node those to whom it sends, with the time of the hop. Nodes that are not on the subnet
/// send only if they publish.
fn graph(nodes: usize, subnet: usize, publishers: [usize; 2], random: &SeededRandom, trial: u64) -> Vec<Vec<(usize, Duration)>> {
    let mut edges: Vec<Vec<(usize, Duration)>> = vec![Vec::new(); nodes];
    let edge = |node: usize, nth: u64| {
        let about = [trial, node as u64, nth];
        (random.below(subnet as u64, "model: edge", &about) as usize, random.log_normal(HOP, HOP_SIGMA, "model: hop", &about))
    };
    for node in 0..subnet {
        for (other, hop) in (0..DIALLED).map(|nth| edge(node, nth)) {
            edges[node].push((other, hop));
            edges[other].push((node, hop));
        }
    }
    for node in publishers.into_iter().filter(|node| *node >= subnet) {
        edges[node].extend((0..FANOUT).map(|nth| edge(node, nth)));
    }
    edges
}

/// For each node, whether it has the second vote. `None`: it has neither.
fn spread(edges: &[Vec<(usize, Duration)>], first: usize, second: usize, skew: Duration) -> Vec<Option<bool>> {
    let mut took: Vec<Option<bool>> = vec![None; edges.len()];
    // The second publisher publishes its vote in any case.
    let mut waves = BinaryHeap::from([Reverse((Duration::ZERO, first, false, true)), Reverse((skew, second, true, true))]);
    while let Some(Reverse((at, node, is_second, is_publisher))) = waves.pop() {
        if took[node].is_some() && !is_publisher {
            continue;
        }
        took[node] = Some(is_second);
        waves.extend(edges[node].iter().map(|(other, hop)| Reverse((at + *hop, *other, is_second, false))));
    }
    took
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_border_is_heard_while_both_waves_run_and_not_afterwards() {
        let [at_once, at_100, late] = [0, 100, 5000].map(|ms| shares(100, Duration::from_millis(ms), &[8, 100], 1));
        assert!((0.4..0.6).contains(&at_once.taken) && at_once.heard[0] > 0.9, "{at_once:?}");
        assert!(at_100.taken < at_once.taken && at_100.heard[0] < at_100.heard[1], "{at_100:?}");
        // Only the publisher itself has it, and who is connected to all hears it from there.
        assert!(late.taken < 0.02 && late.heard[0] < 0.2 && late.heard[1] == 1.0, "{late:?}");
    }
}
