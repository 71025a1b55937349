//! What was proven before, so that a repeat costs no pairing. Only proven things are remembered: a forgery never hides what
//! comes after it. Bounded; forgetting costs a second proof and nothing else.

use consensus::{Epoch, Root, ValidatorIndex};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;

/// Different data of one target that a vote is compared with before it is passed on. An honest epoch has one per slot, a
/// split one a few.
const MAX_COMPARED: usize = 1024;

/// Proven (validator, attestation data) pairs. What the message carried unsigned (committee index, aggregator, selection
/// proof) is no part of it, so changing that buys nobody a second verification.
#[derive(Debug)]
pub(crate) struct SeenVotes {
    by_data: HashMap<Root, Voters>,
    /// Different data for one target: who is in two of them has voted twice.
    by_target: HashMap<Epoch, Vec<Root>>,
    /// Least recently used first.
    by_use: BTreeSet<(u64, Root)>,
    now: u64,
    n_votes: usize,
    max_votes: usize,
    max_data: usize,
    pub(crate) n_forgotten: u64,
}

#[derive(Debug)]
struct Voters {
    used: u64,
    target: Epoch,
    /// Proven validators are in the registry, which has fewer than 2^32.
    members: HashSet<u32>,
}

impl SeenVotes {
    pub(crate) fn new(max_votes: usize, max_data: usize) -> Self {
        Self {
            by_data: HashMap::new(),
            by_target: HashMap::new(),
            by_use: BTreeSet::new(),
            now: 0,
            n_votes: 0,
            max_votes,
            max_data,
            n_forgotten: 0,
        }
    }

    /// A new batch: what it uses is younger than what earlier ones used.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
    }

    pub(crate) fn covers(&mut self, data_root: Root, members: &[ValidatorIndex]) -> bool {
        let Some(voters) = self.by_data.get_mut(&data_root) else { return false };
        let all = members.iter().all(|member| short(*member).is_some_and(|member| voters.members.contains(&member)));
        if all && voters.used != self.now {
            self.by_use.remove(&(voters.used, data_root));
            self.by_use.insert((self.now, data_root));
            voters.used = self.now;
        }
        all
    }

    /// Whether one of these is known to have voted for other data with this target: a second vote, which is not passed on.
    /// Beyond [`MAX_COMPARED`] different data nothing is certain any more, and the answer is yes.
    pub(crate) fn votes_twice(&self, data_root: Root, target: Epoch, members: &[ValidatorIndex]) -> bool {
        let Some(roots) = self.by_target.get(&target) else { return false };
        let others = roots.iter().filter(|root| **root != data_root).filter_map(|root| self.by_data.get(root));
        let mut voted =
            others.map(|other| members.iter().any(|member| short(*member).is_some_and(|member| other.members.contains(&member))));
        roots.len() > MAX_COMPARED || voted.any(|voted| voted)
    }

    pub(crate) fn insert(&mut self, data_root: Root, target: Epoch, members: &[ValidatorIndex]) {
        let by_target = &mut self.by_target;
        let voters = self.by_data.entry(data_root).or_insert_with(|| {
            by_target.entry(target).or_default().push(data_root);
            Voters { used: self.now, target, members: HashSet::new() }
        });
        let before = voters.members.len();
        voters.members.extend(members.iter().filter_map(|member| short(*member)));
        self.n_votes += voters.members.len() - before;
        self.by_use.remove(&(voters.used, data_root));
        self.by_use.insert((self.now, data_root));
        voters.used = self.now;
        while self.by_data.len() > 1 && (self.n_votes > self.max_votes || self.by_data.len() > self.max_data) {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(voters) = self.by_data.remove(&oldest) {
                self.n_votes -= voters.members.len();
                self.n_forgotten += voters.members.len() as u64;
                self.forget_target(voters.target, oldest);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.n_votes
    }

    fn forget_target(&mut self, target: Epoch, data_root: Root) {
        if let Some(roots) = self.by_target.get_mut(&target) {
            roots.retain(|root| *root != data_root);
            if roots.is_empty() {
                self.by_target.remove(&target);
            }
        }
    }
}

fn short(validator: ValidatorIndex) -> Option<u32> {
    u32::try_from(validator.as_u64()).ok()
}

/// A bounded map that forgets the oldest entry first.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(range: std::ops::Range<u64>) -> Vec<ValidatorIndex> {
        range.map(ValidatorIndex::new).collect()
    }

    #[test]
    fn forgets_what_was_not_used_for_longest() {
        let mut seen = SeenVotes::new(100, 2);
        let [a, b, c] = [1, 2, 3].map(Root::repeat_byte);
        seen.tick();
        seen.insert(a, Epoch::new(1), &validators(0..10));
        seen.tick();
        seen.insert(b, Epoch::new(1), &validators(0..10));
        seen.tick();
        assert!(seen.covers(a, &validators(3..5)));
        seen.insert(c, Epoch::new(1), &validators(0..1));
        assert!(seen.covers(a, &validators(0..10)));
        assert!(!seen.covers(b, &validators(0..1)));
        assert!(!seen.covers(a, &validators(9..11)));
        assert!(!seen.covers(a, &[ValidatorIndex::MAX]));
        assert_eq!((seen.len(), seen.n_forgotten), (11, 10));
    }

    #[test]
    fn votes_are_bounded_as_well() {
        let mut seen = SeenVotes::new(15, 100);
        for i in 0..20u8 {
            seen.tick();
            seen.insert(Root::repeat_byte(i), Epoch::new(u64::from(i)), &validators(0..4));
            assert!(seen.len() <= 15);
        }
        assert!(seen.covers(Root::repeat_byte(19), &validators(0..4)));
        assert!(!seen.covers(Root::repeat_byte(0), &validators(0..4)));
    }

    #[test]
    fn a_second_vote_for_a_target_is_told_until_the_first_is_forgotten() {
        let mut seen = SeenVotes::new(100, 2);
        let [a, b, c] = [1, 2, 3].map(Root::repeat_byte);
        let (target, other) = (Epoch::new(7), Epoch::new(8));
        seen.tick();
        seen.insert(a, target, &validators(0..10));
        assert!(!seen.votes_twice(a, target, &validators(0..10)));
        assert!(seen.votes_twice(b, target, &validators(9..12)));
        assert!(!seen.votes_twice(b, target, &validators(10..12)));
        assert!(!seen.votes_twice(b, other, &validators(0..10)));
        seen.tick();
        seen.insert(b, other, &validators(0..1));
        seen.insert(c, other, &validators(1..2));
        assert!(!seen.votes_twice(b, target, &validators(0..10)), "the first data is forgotten");
        assert_eq!(seen.by_target.len(), 1);
    }

    #[test]
    fn recent_keeps_the_newest() {
        let mut recent = Recent::new(2);
        for i in 0..4 {
            recent.insert(i, i * 10);
            recent.insert(i, i * 10);
        }
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (None, Some(&20), Some(&30)));
    }
}
