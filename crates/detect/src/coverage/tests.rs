//! The measured share against simulated networks of which the truth is known.

use super::*;
use crate::test_random::Random;

const EPOCHS: u64 = 24;
const BALANCE: Gwei = Gwei::new(32_000_000_000);

/// A node of the simulated network.
struct Node {
    id: PeerBytes,
    /// Bit n: subscribed to attestation subnet n.
    subnets: u64,
    is_connected: bool,
    client: usize,
}

/// A network of which everything is known. A node sends its votes to us directly with a chance of
/// `direct_percent`. If it does, they come before others forward them with a chance of 85 %.
struct SimulatedNetwork {
    random: Random,
    nodes: Vec<Node>,
    /// The node of each validator.
    home: Vec<usize>,
    direct_percent: u64,
    /// Peers that forward the votes of others on subnets that they have not announced.
    hostile: Vec<PeerBytes>,
    /// The chance with which one of them is first.
    hostile_percent: u64,
    publishers: Publishers,
    epoch: Epoch,
}

fn peer(nth: u64) -> PeerBytes {
    PeerBytes::from(nth.to_be_bytes())
}

impl SimulatedNetwork {
    /// Nodes of very different sizes: the sizes fall off as 1/n. Every tenth node is subscribed to
    /// all subnets.
    fn new(seed: u64, n_validators: usize, n_nodes: u64, connected_percent: u64) -> Self {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut nodes: Vec<Node> = (0..n_nodes)
            .map(|nth| Node {
                id: peer(nth),
                subnets: 1 << random.below(64) | 1 << random.below(64),
                is_connected: random.chance(connected_percent),
                client: 1 + random.below(6) as usize,
            })
            .collect();
        nodes.iter_mut().step_by(10).for_each(|node| node.subnets = u64::MAX);
        let weights: Vec<u64> = (0..n_nodes).map(|nth| 1_000_000 / (nth + 20)).collect();
        let all: u64 = weights.iter().sum();
        let home = (0..n_validators)
            .map(|_| {
                let mut at = random.below(all);
                weights.iter().position(|weight| at.checked_sub(*weight).map(|left| at = left).is_none()).unwrap()
            })
            .collect();
        Self {
            random,
            nodes,
            home,
            direct_percent: 70,
            hostile: Vec::new(),
            hostile_percent: 0,
            publishers: Publishers::default(),
            epoch: Epoch::new(1_000),
        }
    }

    /// All validators vote once.
    fn play_epoch(&mut self) {
        self.publishers.advance_to(self.epoch);
        for index in 0..self.home.len() {
            let validator = ValidatorIndex::new(index as u64);
            let node = &self.nodes[self.home[index]];
            let subnet = self.random.below(64);
            let is_first = node.is_connected && self.random.chance(self.direct_percent) && self.random.chance(85);
            let first_hand = (is_first && node.subnets >> subnet & 1 == 0).then(|| node.id.clone());
            // Whoever forwards it otherwise is subscribed to the subnet, and says nothing.
            let hostile = !self.hostile.is_empty() && self.random.chance(self.hostile_percent);
            let hostile = hostile.then(|| self.hostile[self.random.below(self.hostile.len() as u64) as usize].clone());
            if let Some(peer) = hostile.or(first_hand) {
                self.publishers.record(validator, &peer, self.epoch, self.home.len());
            }
        }
        self.epoch = self.epoch.saturating_add(1);
    }

    fn play(&mut self, n_epochs: u64) {
        for _ in 0..n_epochs {
            self.play_epoch();
            self.measure();
        }
    }

    fn measure(&mut self) -> (Gwei, Sums) {
        let clients: BTreeMap<PeerBytes, usize> = self
            .nodes
            .iter()
            .filter(|node| node.is_connected)
            .map(|node| (node.id.clone(), node.client))
            .chain(self.hostile.iter().map(|peer| (peer.clone(), 0)))
            .collect();
        self.publishers.follow_connections(|peer| clients.get(peer).copied());
        let voters = (0..self.home.len() as u64).map(|index| (ValidatorIndex::new(index), BALANCE));
        let attested = self.publishers.measure(self.epoch.saturating_sub(1), voters);
        (attested, self.publishers.sums(attested))
    }

    /// The share of the validators whose node is as asked.
    fn share_of(&self, wanted: impl Fn(&Node) -> bool) -> f64 {
        self.home.iter().filter(|node| wanted(&self.nodes[**node])).count() as f64 / self.home.len() as f64
    }
}

fn share(part: Gwei, all: Gwei) -> f64 {
    part.as_u64() as f64 / all.as_u64() as f64
}

/// The truth is counted one by one from the simulated network. Nodes that are subscribed to all
/// subnets are missed, as documented. Apart from them the error is below two percent of the stake,
/// and never upwards.
#[test]
fn the_share_is_that_of_the_connected_nodes_and_never_more() {
    for (seed, connected, direct) in [(1, 5, 70), (2, 30, 70), (3, 60, 90), (4, 100, 70), (5, 30, 40), (6, 0, 70)] {
        let mut network = SimulatedNetwork::new(seed, 40_000, 400, connected);
        network.direct_percent = direct;
        network.play(EPOCHS);
        let (attested, sums) = network.measure();
        let truth = network.share_of(|node| node.is_connected && node.subnets != u64::MAX);
        let measured = share(sums.claimed, attested);
        println!("{connected} % connected: {truth:.4} in truth, {measured:.4} measured");
        assert!(measured <= truth, "nobody is counted whose node is not connected");
        let error = truth - measured;
        let most = if direct < 50 { 0.2 * truth } else { 0.02 };
        assert!(error <= most, "{error}");
        // Of the last epoch's votes, those count that came first and on a subnet not announced.
        let votes = truth * (direct * 85) as f64 / 10_000.0 * 62.0 / 64.0;
        let last = share(sums.last_epoch, attested);
        assert!((last - votes).abs() < 0.01, "{last:.4}, expected {votes:.4}");
        assert_eq!(sums.n_discarded, 0);
        // Only nodes above the limit of one peer are cut.
        assert!(sums.first_hand <= sums.claimed && measured - share(sums.first_hand, attested) < 0.2 * truth + 1e-9);
        let by_client: u64 = sums.by_client.iter().map(|sum| sum.first_hand.as_u64()).sum();
        assert_eq!(by_client, sums.first_hand.as_u64());
    }
}

/// The oracle keeps for each validator the list of all first-hand votes, and looks through it.
#[test]
fn the_table_agrees_with_a_list_of_all_votes() {
    for seed in 10..20 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut table = Publishers::default();
        let mut votes: Vec<(u64, u64, u64)> = Vec::new();
        for epoch in 50..80 {
            table.advance_to(Epoch::new(epoch));
            for validator in 0..50 {
                // Each validator has one publisher, so that nothing is contested.
                if random.chance(25) {
                    let of_epoch = epoch - random.below(2);
                    table.record(ValidatorIndex::new(validator), &peer(validator % 7), Epoch::new(of_epoch), 50);
                    votes.push((validator, validator % 7, of_epoch));
                }
            }
            let connected = |id: &PeerBytes| (0..5).any(|nth| *id == peer(nth)).then_some(UNKNOWN_CLIENT);
            table.follow_connections(connected);
            for validator in 0..50 {
                let mut epochs: Vec<u64> =
                    votes.iter().filter(|(who, ..)| *who == validator).map(|vote| vote.2).filter(|of| of + 8 > epoch).collect();
                epochs.sort_unstable();
                epochs.dedup();
                let expected = epochs.len() >= 2 && validator % 7 < 5;
                assert_eq!(table.is_heard(ValidatorIndex::new(validator)), expected, "{validator} in {epoch}: {epochs:?}");
            }
        }
    }
}

const UNKNOWN_CLIENT: usize = crate::client::UNKNOWN;

/// A peer that forwards half of all votes before anybody else brings them claims nearly all
/// validators. While four honest peers with 2 % of the stake are connected, it does not count at
/// all.
#[test]
fn who_forwards_everything_is_discarded_and_honest_peers_are_not() {
    for n_hostile in [1, 3, 12] {
        let mut network = SimulatedNetwork::new(30 + n_hostile, 40_000, 400, 5);
        network.play(EPOCHS);
        let (attested, before) = network.measure();
        assert!(share(before.claimed, attested) > 0.02);
        network.hostile = (0..n_hostile).map(|nth| peer(1_000_000 + nth)).collect();
        network.hostile_percent = 50;
        network.play(EPOCHS);
        let (attested, after) = network.measure();
        println!("{n_hostile} hostile peers: {before:?} -> {after:?}");
        assert!(n_hostile > 1 || share(after.claimed, attested) > 0.9, "it claims nearly everything");
        assert_eq!(after.n_discarded, n_hostile);
        let (before, after) = (share(before.first_hand, attested), share(after.first_hand, attested));
        assert!(after <= before, "nothing is added: {before:.4}, {after:.4}");
        assert!(after >= 0.5 * before, "and honest peers stay: {before:.4}, {after:.4}");
    }
}

/// Forty hostile peers each forward votes of one honest peer's validators before it, so that it
/// shares validators with many. It counts all the same.
#[test]
fn an_honest_peer_is_not_discarded_because_others_bring_its_votes() {
    let mut network = SimulatedNetwork::new(70, 40_000, 400, 5);
    network.play(EPOCHS);
    let victim = (0..network.nodes.len())
        .filter(|node| network.nodes[*node].is_connected && network.nodes[*node].subnets != u64::MAX)
        .max_by_key(|node| network.home.iter().filter(|home| *home == node).count())
        .unwrap();
    let of_victim: Vec<u64> = (0..40_000).filter(|index| network.home[*index as usize] == victim).collect();
    for epoch in 0..EPOCHS {
        for (nth, validator) in of_victim.iter().enumerate().filter(|(nth, _)| (*nth as u64 + epoch).is_multiple_of(8)) {
            network.publishers.advance_to(network.epoch);
            let thief = peer(1_000_000 + nth as u64 % 40);
            network.publishers.record(ValidatorIndex::new(*validator), &thief, network.epoch, 40_000);
        }
        network.play(1);
    }
    let (attested, sums) = network.measure();
    let id = network.nodes[victim].id.clone();
    let stake = network.publishers.stake_by_peer(attested)[&id];
    println!("{} validators, {stake:?}, {sums:?}", of_victim.len());
    assert_eq!(sums.n_discarded, 0);
    assert!(stake.as_u64() >= (BALANCE.as_u64() * of_victim.len() as u64 * 8 / 10).min(FREE_STAKE.as_u64()));
}

/// Where nobody else is connected, nothing contradicts the hostile peers. Then each of them counts
/// with one percent, or with the stake of 1 000 validators if that is more.
#[test]
fn a_hostile_peer_adds_one_percent_at_most() {
    for (seed, n_validators, each) in [(50, 200_000, 0.01), (51, 20_000, 0.05)] {
        for n_hostile in [1, 3] {
            let mut network = SimulatedNetwork::new(seed, n_validators, 50, 0);
            network.hostile = (0..n_hostile).map(|nth| peer(1_000_000 + nth)).collect();
            network.hostile_percent = 100;
            network.play(10);
            let (attested, sums) = network.measure();
            let added = share(sums.first_hand, attested);
            assert!(added <= n_hostile as f64 * each + 1e-9, "{added}");
            assert!(share(sums.claimed, attested) > 0.7, "without limits they would claim nearly everything");
            let last = share(sums.last_epoch, attested);
            assert!(last <= n_hostile as f64 * each + 1e-9, "{last}");
            let by_peer = network.publishers.stake_by_peer(attested);
            assert!(by_peer.values().all(|stake| share(*stake, attested) <= each + 1e-9), "peers are chosen by the same limit");
        }
    }
}

/// Six nodes of one operator publish the same votes, and each is first as often as the others. Two
/// of them are discarded, and few validators have two votes from the same one of the others. So
/// somewhat less than half of the validators is counted.
#[test]
fn six_nodes_that_publish_the_same_votes_are_counted_in_part() {
    println!("seed 60");
    let mut random = Random(60);
    let mut table = Publishers::default();
    let n_validators = 2_000;
    let mut heard = 0;
    for epoch in 100..130 {
        table.advance_to(Epoch::new(epoch));
        for validator in (0..n_validators).map(ValidatorIndex::new) {
            table.record(validator, &peer(random.below(6)), Epoch::new(epoch), 2_000);
        }
        table.follow_connections(|_| Some(UNKNOWN_CLIENT));
        table.measure(Epoch::new(epoch), (0..n_validators).map(|index| (ValidatorIndex::new(index), BALANCE)));
        heard = (0..n_validators).filter(|index| table.is_heard(ValidatorIndex::new(*index))).count();
    }
    println!("{heard} of {n_validators} are heard");
    assert_eq!(table.sums(Gwei::new(1)).n_discarded, 2);
    assert!((500..1_000).contains(&heard), "{heard}");
}

#[test]
fn who_disconnects_counts_no_more_and_votes_grow_old() {
    let mut table = Publishers::default();
    let one = ValidatorIndex::new(7);
    for epoch in [20, 21] {
        table.advance_to(Epoch::new(epoch));
        assert!(!table.is_heard(one), "one vote is too few");
        table.record(one, &peer(1), Epoch::new(epoch), 10);
    }
    assert!(table.is_heard(one));
    table.record(one, &peer(1), Epoch::new(18), 10);
    table.record(ValidatorIndex::new(10), &peer(1), Epoch::new(21), 10);
    table.record(ValidatorIndex::new(u64::MAX), &peer(1), Epoch::new(21), 10);
    table.follow_connections(|_| None);
    assert!(!table.is_heard(one), "its peer is gone");
    table.follow_connections(|_| Some(UNKNOWN_CLIENT));
    assert!(table.is_heard(one));
    // Another peer takes over only after three epochs without a vote of the first one.
    for epoch in [22, 23] {
        table.advance_to(Epoch::new(epoch));
        table.record(one, &peer(2), Epoch::new(epoch), 10);
        assert_eq!(table.n_publishers(&[one]), 1);
        table.follow_connections(|id| (*id == peer(1)).then_some(UNKNOWN_CLIENT));
        assert!(table.is_heard(one), "it still belongs to the first");
    }
    table.follow_connections(|_| Some(UNKNOWN_CLIENT));
    for epoch in [24, 25] {
        table.advance_to(Epoch::new(epoch));
        table.record(one, &peer(2), Epoch::new(epoch), 10);
    }
    table.follow_connections(|id| (*id == peer(2)).then_some(UNKNOWN_CLIENT));
    assert!(table.is_heard(one));
    table.advance_to(Epoch::new(32));
    assert!(!table.is_heard(one), "one vote is left in the window");
    table.advance_to(Epoch::new(1_000_000));
    assert_eq!(table.n_publishers(&[one]), 0);
}

/// Hostile peers come and go, each with a new id and a vote that it has stolen. The table stays
/// within its bounds, and the numbers of peers that are gone are given again.
#[test]
fn a_million_validators_take_four_bytes_each() {
    let mut table = Publishers::default();
    let n_validators = 1_000_000;
    let mut nth = 0;
    for epoch in 100..140 {
        table.advance_to(Epoch::new(epoch));
        for _ in 0..5_000 {
            nth += 1;
            table.record(ValidatorIndex::new(nth * 7 % 1_000_000), &peer(nth), Epoch::new(epoch), n_validators);
        }
    }
    let memory = table.memory();
    println!("{memory:?}: bytes of rows, peers, pairs");
    assert_eq!(memory.rows, 4_000_000);
    assert!(memory.peers <= 16_384 && memory.pairs <= 65_536, "{memory:?}");
    assert!(table.n_refused() > 0, "a 16 385th peer within eight epochs is counted");
    table.advance_to(Epoch::new(150));
    table.record(ValidatorIndex::new(3), &peer(1), Epoch::new(150), n_validators);
    assert_eq!(table.memory().peers, 1, "numbers are given again");
}
