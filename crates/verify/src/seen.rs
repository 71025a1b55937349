//! Remembers what was proven before, so that a repeated message costs no pairing. Only proven
//! messages are remembered here, so a forgery never hides a good message that comes after it. The
//! memory is bounded. A message that was forgotten is proven a second time, and there is no other
//! cost.
//!
//! For every vote, before it is proven, we ask whether its validator has voted for other data with
//! the same target. One key can sign thousands of different data for one target. So the answer
//! comes from a count for each target and validator, not from a search through the target's data.

use crate::Time;
use consensus::{AttestationData, Epoch, Root, ValidatorIndex};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The usual source of a target is known when the target has at least this many votes.
const USUAL_FROM: usize = 64;
/// A source is unusual if fewer than one in this many votes have it.
const USUAL_SHARE: usize = 16;
/// The largest number of sources that are counted for one target. When another source comes, the
/// rarest one is forgotten.
const MAX_SOURCES: usize = 64;
/// Validators per page of the set of voters. A page takes 64 bytes, so a single vote for a far
/// target costs little memory.
const PAGE: u32 = 512;

/// Proven (validator, attestation data) pairs. The unsigned parts of a message (committee index,
/// aggregator, selection proof) are not part of the pair, so a sender cannot cause a second
/// verification by changing them.
#[derive(Debug)]
pub(crate) struct SeenVotes {
    by_data: HashMap<Root, SeenVoters>,
    by_target: HashMap<Epoch, Target>,
    /// The data by time of last use, with the least recently used first.
    by_use: BTreeSet<(u64, Root)>,
    /// The pairs that are new in this batch, with the arrival time of the message that proved each
    /// of them.
    of_batch: HashMap<Root, HashMap<u32, Time>>,
    now: u64,
    n_votes: usize,
    max_votes: usize,
    max_data: usize,
    n_forgotten: u64,
}

/// The votes for one target.
#[derive(Debug, Default)]
struct Target {
    /// Number of remembered data with this target.
    n_data: usize,
    voters: UseCounts,
    /// Number of votes by source. It tells which source is usual.
    sources: HashMap<Epoch, usize>,
    n_votes: usize,
}

impl Target {
    fn count(&mut self, source: Epoch, n_votes: usize) {
        self.n_votes += n_votes;
        if self.sources.len() >= MAX_SOURCES
            && !self.sources.contains_key(&source)
            && let Some(rarest) = self.sources.iter().min_by_key(|(source, n)| (**n, **source)).map(|(source, _)| *source)
        {
            self.sources.remove(&rarest);
        }
        *self.sources.entry(source).or_default() += n_votes;
    }
}

/// For each validator, the number of this target's remembered data that it voted for. An honest
/// validator votes for one, so one bit is enough for it. Only the others have a number of their
/// own.
#[derive(Debug, Default)]
struct UseCounts {
    /// One bit for each validator that voted at least once, by page.
    once: HashMap<u32, [u64; PAGE as usize / 64]>,
    /// The validators among them that voted for more than one data, with the number.
    several: HashMap<u32, u32>,
}

impl UseCounts {
    fn of(&self, voter: u32) -> u32 {
        let (page, word, bit) = place(voter);
        let voted = self.once.get(&page).is_some_and(|page| page[word] & bit != 0);
        if voted { self.several.get(&voter).copied().unwrap_or(1) } else { 0 }
    }

    fn add(&mut self, voter: u32) {
        let (page, word, bit) = place(voter);
        let word = &mut self.once.entry(page).or_default()[word];
        if *word & bit == 0 {
            *word |= bit;
        } else {
            *self.several.entry(voter).or_insert(1) += 1;
        }
    }

    /// Counts one vote less for this validator, after one of the data that it voted for was
    /// forgotten.
    fn remove(&mut self, voter: u32) {
        match self.several.get_mut(&voter) {
            Some(2) => {
                self.several.remove(&voter);
            }
            Some(n) => *n -= 1,
            None => {
                let (number, word, bit) = place(voter);
                if let Some(page) = self.once.get_mut(&number) {
                    page[word] &= !bit;
                    if *page == [0; PAGE as usize / 64] {
                        self.once.remove(&number);
                    }
                }
            }
        }
    }
}

/// The page of a validator, the word in the page, and the bit in the word.
fn place(voter: u32) -> (u32, usize, u64) {
    let in_page = voter % PAGE;
    (voter / PAGE, in_page as usize / 64, 1 << (in_page % 64))
}

#[derive(Debug)]
struct SeenVoters {
    used: u64,
    target: Epoch,
    /// A proven validator is in the registry, which has fewer than 2^32 validators, so 32 bits are
    /// enough.
    members: HashSet<u32>,
}

impl SeenVotes {
    /// An empty memory for so many (validator, data) pairs and so many different data.
    pub(crate) fn new(max_votes: usize, max_data: usize) -> Self {
        Self {
            by_data: HashMap::new(),
            by_target: HashMap::new(),
            by_use: BTreeSet::new(),
            of_batch: HashMap::new(),
            now: 0,
            n_votes: 0,
            max_votes,
            max_data,
            n_forgotten: 0,
        }
    }

    /// Starts a new batch. What this batch uses counts as more recently used than what earlier
    /// batches used.
    pub(crate) fn start_batch(&mut self) {
        self.now += 1;
        self.of_batch.clear();
    }

    /// Whether all of these members are known to have voted for this data.
    pub(crate) fn contains_all(&mut self, data_root: Root, members: &[ValidatorIndex]) -> bool {
        let Some(voters) = self.by_data.get_mut(&data_root) else { return false };
        let all = members.iter().all(|member| short(*member).is_some_and(|member| voters.members.contains(&member)));
        if all && voters.used != self.now {
            self.by_use.remove(&(voters.used, data_root));
            self.by_use.insert((self.now, data_root));
            voters.used = self.now;
        }
        all
    }

    /// Whether a message that arrived at `at` is, for one of these members, earlier than the
    /// message that proved the same vote in this batch. Such a message still has new information
    /// even if [`Self::contains_all`] is true: the time at which the vote was first received. So
    /// this time does not depend on how messages are cut into batches.
    pub(crate) fn is_earlier(&self, data_root: Root, members: &[ValidatorIndex], at: Time) -> bool {
        let Some(new) = self.of_batch.get(&data_root) else { return false };
        members.iter().any(|member| short(*member).and_then(|member| new.get(&member)).is_some_and(|proven_by| at < *proven_by))
    }

    /// Whether one of these members is known to have voted for other data with this target. The
    /// vote is then a second vote, which is not forwarded.
    pub(crate) fn is_second_vote(&self, data_root: Root, target: Epoch, members: &[ValidatorIndex]) -> bool {
        members.iter().any(|member| self.has_other_vote(data_root, target, *member))
    }

    /// Whether this validator is known to have voted for other data with this target. The cost does
    /// not depend on the number of data.
    pub(crate) fn has_other_vote(&self, data_root: Root, target: Epoch, voter: ValidatorIndex) -> bool {
        let (Some(known), Some(voter)) = (self.by_target.get(&target), short(voter)) else { return false };
        let this = self.by_data.get(&data_root).is_some_and(|this| this.target == target && this.members.contains(&voter));
        known.voters.of(voter) > u32::from(this)
    }

    /// Whether nearly all votes for this target have another source. If any vote for this target
    /// surrounds others or is surrounded, it is most likely one with such a source.
    pub(crate) fn is_unusual_source(&self, target: Epoch, source: Epoch) -> bool {
        let Some(known) = self.by_target.get(&target) else { return false };
        known.n_votes >= USUAL_FROM && known.sources.get(&source).copied().unwrap_or(0) < known.n_votes / USUAL_SHARE
    }

    /// Remembers a proven vote. `at` is the arrival time of the message that proves it.
    pub(crate) fn insert(&mut self, data_root: Root, data: &AttestationData, members: &[ValidatorIndex], at: Time) {
        let target = data.target.epoch;
        let known = self.by_target.entry(target).or_default();
        let voters = self.by_data.entry(data_root).or_insert_with(|| {
            known.n_data += 1;
            SeenVoters { used: self.now, target, members: HashSet::new() }
        });
        let new = self.of_batch.entry(data_root).or_default();
        let mut n_new = 0;
        for member in members.iter().filter_map(|member| short(*member)) {
            if voters.members.insert(member) {
                n_new += 1;
                known.voters.add(member);
                new.insert(member, at);
            } else if let Some(proven_by) = new.get_mut(&member) {
                *proven_by = at.min(*proven_by);
            }
        }
        self.n_votes += n_new;
        known.count(data.source.epoch, n_new);
        self.by_use.remove(&(voters.used, data_root));
        self.by_use.insert((self.now, data_root));
        voters.used = self.now;
        while self.by_data.len() > 1 && (self.n_votes > self.max_votes || self.by_data.len() > self.max_data) {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(voters) = self.by_data.remove(&oldest) {
                self.n_votes -= voters.members.len();
                self.n_forgotten += voters.members.len() as u64;
                self.forget_data_of(&voters);
            }
        }
    }

    /// Number of pairs that were removed to make room.
    pub(crate) fn n_forgotten(&self) -> u64 {
        self.n_forgotten
    }

    /// Number of remembered (validator, data) pairs.
    pub(crate) fn len(&self) -> usize {
        self.n_votes
    }

    /// Corrects the counts after these voters were removed from `by_data`. The cost is the number
    /// of these voters.
    fn forget_data_of(&mut self, voters: &SeenVoters) {
        let Some(known) = self.by_target.get_mut(&voters.target) else { return };
        known.n_data -= 1;
        if known.n_data == 0 {
            self.by_target.remove(&voters.target);
        } else {
            voters.members.iter().for_each(|voter| known.voters.remove(*voter));
        }
    }
}

fn short(validator: ValidatorIndex) -> Option<u32> {
    u32::try_from(validator.as_u64()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time(5);

    fn validators(range: std::ops::Range<u64>) -> Vec<ValidatorIndex> {
        range.map(ValidatorIndex::new).collect()
    }

    fn data(target: Epoch) -> AttestationData {
        let target = consensus::Checkpoint { epoch: target, root: Root::ZERO };
        AttestationData { target, ..AttestationData::default() }
    }

    /// One key signs votes with many different sources for the current target. Memory and time stay
    /// bounded, and the usual source stays the same.
    #[test]
    fn many_sources_of_one_target_are_bounded_and_forgetting_keeps_up() {
        let mut seen = SeenVotes::new(1_000_000, 1000);
        let target = Epoch::new(1 << 20);
        let with_source = |source: u64| {
            let source = consensus::Checkpoint { epoch: Epoch::new(source), root: Root::ZERO };
            AttestationData { source, ..data(target) }
        };
        let root = |n: u64| Root::from(consensus::sha256(&n.to_be_bytes()));
        for source in 0..5000 {
            seen.start_batch();
            seen.insert(root(source), &with_source(source), &validators(7..8), Time(0));
            if source % 100 == 0 {
                let start = 10 + source;
                seen.insert(Root::ZERO, &with_source((1 << 20) - 1), &validators(start..start + 100), Time(0));
            }
        }
        let known = &seen.by_target[&target];
        assert!(known.sources.len() <= MAX_SOURCES, "{} sources", known.sources.len());
        assert_eq!((known.n_data, known.voters.of(7)), (1000, 1000 - u32::from(seen.by_data.contains_key(&Root::ZERO))));
        assert!(!seen.is_unusual_source(target, Epoch::new((1 << 20) - 1)));
        assert!(seen.is_unusual_source(target, Epoch::new(4999)) && seen.is_unusual_source(target, Epoch::new(0)));
        // A vote is compared with what is remembered, and not with what was forgotten.
        assert!(seen.has_other_vote(root(9999), target, ValidatorIndex::new(7)));
        assert!(!seen.contains_all(root(0), &validators(7..8)) && seen.contains_all(root(4999), &validators(7..8)));
        for source in 0..2000 {
            seen.start_batch();
            seen.insert(
                root(source),
                &AttestationData { source: with_source(source).source, ..data(Epoch::new(5)) },
                &validators(8..9),
                Time(0),
            );
        }
        assert!(!seen.by_target.contains_key(&target) || seen.by_target[&target].n_data < 2);
        assert!(!seen.has_other_vote(root(9999), target, ValidatorIndex::new(7)));
    }

    /// One key signs more data for a target than the number of data that a vote could be compared
    /// with one by one. The votes of others are not taken for second votes because of it. A real
    /// second vote is still noticed, also of a validator that voted after all of them.
    #[test]
    fn a_flood_of_data_by_one_key_neither_accuses_nor_hides_others() {
        let mut seen = SeenVotes::new(1_000_000, 65_536);
        let target = Epoch::new(7);
        let root = |n: u64| Root::from(consensus::sha256(&n.to_be_bytes()));
        for n in 0..1100 {
            seen.insert(root(n), &data(target), &validators(7..8), AT);
        }
        let honest = root(5000);
        seen.insert(honest, &data(target), &validators(100..200), AT);
        assert!(!seen.is_second_vote(honest, target, &validators(100..200)), "the first votes of a hundred honest validators");
        assert!(!seen.is_second_vote(honest, target, &validators(200..201)));
        assert!(seen.has_other_vote(root(6000), target, ValidatorIndex::new(150)), "who voted after the flood votes again");
        assert!(
            seen.is_second_vote(root(0), target, &validators(7..8)) && seen.is_second_vote(root(6000), target, &validators(7..8))
        );
    }

    #[test]
    fn counts_are_those_of_a_plain_list() {
        let (mut counts, mut plain) = (UseCounts::default(), Vec::<u32>::new());
        // A linear congruential generator with seed 1 chooses which of a few voters is added or
        // removed.
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let voter = (state >> 33) as u32 % 40 * 61;
            match plain.iter().position(|known| *known == voter).filter(|_| state >> 63 == 0) {
                Some(at) => {
                    plain.swap_remove(at);
                    counts.remove(voter);
                }
                None => {
                    plain.push(voter);
                    counts.add(voter);
                }
            }
            assert_eq!(counts.of(voter) as usize, plain.iter().filter(|known| **known == voter).count(), "voter {voter}");
        }
        plain.drain(..).for_each(|voter| counts.remove(voter));
        assert!(counts.once.is_empty() && counts.several.is_empty());
    }

    #[test]
    fn a_source_that_hardly_anybody_has_is_unusual() {
        let mut seen = SeenVotes::new(1000, 10);
        let target = Epoch::new(7);
        let with_source = |source: u64| {
            let source = consensus::Checkpoint { epoch: Epoch::new(source), root: Root::ZERO };
            AttestationData { source, ..data(target) }
        };
        seen.insert(Root::repeat_byte(1), &with_source(6), &validators(0..63), AT);
        assert!(!seen.is_unusual_source(target, Epoch::new(5)), "too few to tell");
        seen.insert(Root::repeat_byte(1), &with_source(6), &validators(63..200), AT);
        seen.insert(Root::repeat_byte(2), &with_source(5), &validators(200..220), AT);
        let unusual = [4, 5, 6].map(|source| seen.is_unusual_source(target, Epoch::new(source)));
        assert_eq!(unusual, [true, false, false]);
        assert!(seen.has_other_vote(Root::repeat_byte(2), target, ValidatorIndex::new(0)));
        assert!(!seen.has_other_vote(Root::repeat_byte(1), target, ValidatorIndex::new(0)));
        assert!(!seen.has_other_vote(Root::repeat_byte(2), target, ValidatorIndex::MAX));
    }

    #[test]
    fn forgets_what_was_not_used_for_longest() {
        let mut seen = SeenVotes::new(100, 2);
        let [a, b, c] = [1, 2, 3].map(Root::repeat_byte);
        seen.start_batch();
        seen.insert(a, &data(Epoch::new(1)), &validators(0..10), AT);
        seen.start_batch();
        seen.insert(b, &data(Epoch::new(1)), &validators(0..10), AT);
        seen.start_batch();
        assert!(seen.contains_all(a, &validators(3..5)));
        seen.insert(c, &data(Epoch::new(1)), &validators(0..1), AT);
        assert!(seen.contains_all(a, &validators(0..10)));
        assert!(!seen.contains_all(b, &validators(0..1)));
        assert!(!seen.contains_all(a, &validators(9..11)));
        assert!(!seen.contains_all(a, &[ValidatorIndex::MAX]));
        assert_eq!((seen.len(), seen.n_forgotten), (11, 10));
    }

    #[test]
    fn of_two_messages_of_a_batch_the_earlier_one_came_first() {
        let mut seen = SeenVotes::new(100, 2);
        let (root, target) = (Root::repeat_byte(1), Epoch::new(1));
        seen.start_batch();
        seen.insert(root, &data(target), &validators(0..4), Time(10));
        seen.insert(root, &data(target), &validators(3..5), Time(8));
        let first = |seen: &SeenVotes, range, at| seen.is_earlier(root, &validators(range), Time(at));
        assert!(first(&seen, 0..5, 9) && first(&seen, 4..9, 7) && !first(&seen, 0..5, 10));
        assert!(!first(&seen, 3..5, 8) && !first(&seen, 6..9, 1), "not earlier; nobody's");
        seen.start_batch();
        seen.insert(root, &data(target), &validators(0..6), Time(20));
        assert!(!first(&seen, 0..5, 1), "proven in an earlier batch");
        assert!(first(&seen, 0..6, 19));
    }

    #[test]
    fn votes_are_bounded_as_well() {
        let mut seen = SeenVotes::new(15, 100);
        for i in 0..20u8 {
            seen.start_batch();
            seen.insert(Root::repeat_byte(i), &data(Epoch::new(u64::from(i))), &validators(0..4), AT);
            assert!(seen.len() <= 15);
        }
        assert!(seen.contains_all(Root::repeat_byte(19), &validators(0..4)));
        assert!(!seen.contains_all(Root::repeat_byte(0), &validators(0..4)));
    }

    #[test]
    fn a_second_vote_for_a_target_is_told_until_the_first_is_forgotten() {
        let mut seen = SeenVotes::new(100, 2);
        let [a, b, c] = [1, 2, 3].map(Root::repeat_byte);
        let (target, other) = (Epoch::new(7), Epoch::new(8));
        seen.start_batch();
        seen.insert(a, &data(target), &validators(0..10), AT);
        assert!(!seen.is_second_vote(a, target, &validators(0..10)));
        assert!(seen.is_second_vote(b, target, &validators(9..12)));
        assert!(!seen.is_second_vote(b, target, &validators(10..12)));
        assert!(!seen.is_second_vote(b, other, &validators(0..10)));
        seen.start_batch();
        seen.insert(b, &data(other), &validators(0..1), AT);
        seen.insert(c, &data(other), &validators(1..2), AT);
        assert!(!seen.is_second_vote(b, target, &validators(0..10)), "the first data is forgotten");
        assert_eq!(seen.by_target.len(), 1);
    }
}
