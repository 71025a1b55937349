//! Compares an operator's record of what its keys signed (EIP-3076) with what the network saw them
//! sign.
//!
//! | what | means |
//! |---|---|
//! | *absent*: seen, not in the file | somebody else signs with the key, or the record was lost |
//! | *contradiction*: absent, and slashable with an entry | the same, and the key is lost |
//! | *slashable*: two seen messages that contradict each other | the key is lost in any case |
//! | *unheard*: in the file, never seen | the message did not spread, or we had no node near |
//! | *gap*: epochs within the file's record without any vote | the key was silent |
//!
//! A file may be pruned or minimal. Then it states "nothing at or below this" instead of listing
//! messages. A client refuses a vote whose target is not above the lowest target, or whose source
//! is below the lowest source (EIP-3076, conditions 4 and 5). So what was seen below both is
//! counted as *before the record*: the record was pruned, or it was lost and made anew, and only
//! its owner can know which. What was seen below the lowest target with a higher source than the
//! lowest can still be surrounded, and is absent. An entry without a signing root stands for every
//! message of its source and target. If it is the only entry of its history, it is the *mark* of a
//! minimal record and stands for everything at or below it. A file made of several exports has
//! several histories of one key. Their marks are combined to one, with the highest source and the
//! highest target, as a client that imports them does.
//!
//! Worked example: file `(3,4) (4,5)`, seen `(1,2) (3,4) (4,5)' (5,6)`, where `'` has another root.
//! `(1,2)` is before the record, `(3,4)` agrees, `(4,5)'` contradicts, `(5,6)` is absent.

use consensus::interchange::{SignedEpochs, SignedSlot, SigningHistory};
use consensus::{Epoch, Root, Slot};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Largest number of messages that are listed per key for each row of the table. All are counted.
pub const MAX_LISTED: usize = 100;

/// What the network saw of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every vote has its signing root.
    pub votes: Vec<SignedEpochs>,
    pub blocks: Vec<SignedSlot>,
}

/// Two messages of which a validator may sign only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Contradiction {
    DoubleVote { seen: SignedEpochs, other: SignedEpochs },
    SurroundVote { seen: SignedEpochs, other: SignedEpochs },
    DoubleProposal { seen: SignedSlot, other: SignedSlot },
}

/// A range of epochs, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Epochs {
    pub first: Epoch,
    pub last: Epoch,
}

/// A list of at most [`MAX_LISTED`] items, with the full number of items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted<T> {
    pub count: u64,
    pub listed: Vec<T>,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self { count: 0, listed: Vec::new() }
    }
}

impl<T> Counted<T> {
    fn push(&mut self, item: T) {
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(item);
        }
    }
}

/// The result for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyAudit {
    /// Number of messages that were seen and are in the file.
    pub agreeing: u64,
    pub absent_votes: Counted<SignedEpochs>,
    pub absent_blocks: Counted<SignedSlot>,
    /// Seen messages that are not in the file and contradict an entry of it.
    pub contradictions: Counted<Contradiction>,
    /// Contradictions among the seen messages.
    pub slashable: Counted<Contradiction>,
    /// Number of messages seen before the file's record of this key begins.
    pub before_record: u64,
    /// Whether the file's highest source, target or slot lies below what was seen.
    pub is_behind: bool,
    pub unheard_votes: u64,
    pub unheard_blocks: u64,
    pub gaps: Counted<Epochs>,
}

impl KeyAudit {
    /// Whether the network saw something that the file does not have. If `is_pruned` is true, the
    /// owner says that the client prunes, and messages from before the record do not count.
    pub fn lacks_something(&self, is_pruned: bool) -> bool {
        let before_record = if is_pruned { 0 } else { self.before_record };
        self.absent_votes.count + self.absent_blocks.count + self.contradictions.count + before_record > 0
    }
}

/// Compares one key's record with what was seen of it. `file` holds all histories of that key.
pub fn audit(file: &[&SigningHistory], seen: &Seen) -> KeyAudit {
    let mut report = KeyAudit::default();
    votes(file, seen, &mut report);
    blocks(file, seen, &mut report);
    report
}

fn votes(file: &[&SigningHistory], seen: &Seen, report: &mut KeyAudit) {
    let (recorded, mark) = records(file);
    let recorded = Votes::new(recorded.into_iter());
    let heard = Votes::new(seen.votes.iter().copied());
    let records = || recorded.all.iter().chain(&mark);
    let begins = records().map(|vote| vote.target_epoch).min();
    let lowest_source = records().map(|vote| vote.source_epoch).min();
    let is_before = |vote: &SignedEpochs| {
        begins.is_some_and(|begins| vote.target_epoch < begins) && lowest_source.is_some_and(|lowest| vote.source_epoch <= lowest)
    };
    report.is_behind |= records().map(|vote| vote.target_epoch).max() < heard.all.iter().map(|vote| vote.target_epoch).max()
        || records().map(|vote| vote.source_epoch).max() < heard.all.iter().map(|vote| vote.source_epoch).max();
    let is_marked = |vote: &SignedEpochs| {
        mark.is_some_and(|mark| vote.target_epoch <= mark.target_epoch && vote.source_epoch <= mark.source_epoch)
    };
    let mut found: BTreeSet<SignedEpochs> = BTreeSet::new();
    for vote in &heard.all {
        let entry = recorded.entry_for(vote);
        // A vote that is in the file contradicts none of its entries. If two entries are slashable
        // together, that is reported below.
        if entry.is_none() {
            recorded.contradicting(vote).for_each(|contradiction| report.contradictions.push(contradiction));
        }
        // Each pair is reported once.
        for contradiction in heard.contradicting(vote).filter(|pair| pair.votes().is_none_or(|(seen, other)| seen < other)) {
            report.slashable.push(contradiction);
        }
        match entry {
            Some(entry) => {
                report.agreeing += 1;
                found.insert(entry);
            }
            None if is_marked(vote) => report.agreeing += 1,
            None if is_before(vote) => report.before_record += 1,
            None => report.absent_votes.push(*vote),
        }
    }
    report.unheard_votes = recorded.all.iter().filter(|entry| !found.contains(entry)).count() as u64;
    let targets: BTreeSet<Epoch> = recorded.all.iter().chain(&mark).chain(&heard.all).map(|vote| vote.target_epoch).collect();
    let within = |target: &&Epoch| begins.is_some_and(|begins| begins <= **target);
    let targets: Vec<Epoch> = targets.iter().filter(within).copied().collect();
    for pair in targets.windows(2) {
        let (first, last) = (pair[0].saturating_add(1), pair[1].saturating_sub(1));
        if first <= last {
            report.gaps.push(Epochs { first, last });
        }
    }
}

/// The messages that are listed, and the combined mark of the minimal histories.
fn records(file: &[&SigningHistory]) -> (Vec<SignedEpochs>, Option<SignedEpochs>) {
    let (mut listed, mut mark) = (Vec::new(), None::<SignedEpochs>);
    for history in file {
        match history.signed_attestations.as_slice() {
            [only] if only.signing_root.is_none() => {
                let both = mark.get_or_insert(*only);
                both.source_epoch = both.source_epoch.max(only.source_epoch);
                both.target_epoch = both.target_epoch.max(only.target_epoch);
            }
            messages => listed.extend_from_slice(messages),
        }
    }
    (listed, mark)
}

fn blocks(file: &[&SigningHistory], seen: &Seen, report: &mut KeyAudit) {
    let mut recorded: BTreeMap<Slot, BTreeSet<Option<Root>>> = BTreeMap::new();
    // The highest slot of the minimal histories, as with votes.
    let mut mark = None::<Slot>;
    for history in file {
        match history.signed_blocks.as_slice() {
            [only] if only.signing_root.is_none() => mark = mark.max(Some(only.slot)),
            blocks => {
                for block in blocks {
                    recorded.entry(block.slot).or_default().insert(block.signing_root);
                }
            }
        }
    }
    let mut heard: BTreeMap<Slot, BTreeSet<Option<Root>>> = BTreeMap::new();
    for block in &seen.blocks {
        heard.entry(block.slot).or_default().insert(block.signing_root);
    }
    let begins = recorded.keys().next().copied().into_iter().chain(mark).min();
    report.is_behind |= recorded.keys().next_back().copied().max(mark) < heard.keys().next_back().copied();
    for (slot, roots) in &heard {
        let in_file = recorded.get(slot);
        for (nth, root) in roots.iter().enumerate() {
            let block = SignedSlot { slot: *slot, signing_root: *root };
            for other in roots.iter().skip(nth + 1) {
                let other = SignedSlot { slot: *slot, signing_root: *other };
                report.slashable.push(Contradiction::DoubleProposal { seen: block, other });
            }
            match in_file {
                Some(entries) if entries.contains(&None) || entries.contains(root) => report.agreeing += 1,
                Some(entries) => {
                    for other in entries {
                        let other = SignedSlot { slot: *slot, signing_root: *other };
                        report.contradictions.push(Contradiction::DoubleProposal { seen: block, other });
                    }
                    report.absent_blocks.push(block);
                }
                None if mark.is_some_and(|mark| *slot <= mark) => report.agreeing += 1,
                None if begins.is_some_and(|begins| *slot < begins) => report.before_record += 1,
                None => report.absent_blocks.push(block),
            }
        }
    }
    let unheard = recorded.iter().filter(|(slot, _)| !heard.contains_key(slot));
    report.unheard_blocks = unheard.map(|(_, roots)| roots.len() as u64).sum();
}

impl Contradiction {
    fn votes(&self) -> Option<(SignedEpochs, SignedEpochs)> {
        match self {
            Self::DoubleVote { seen, other } | Self::SurroundVote { seen, other } => Some((*seen, *other)),
            Self::DoubleProposal { .. } => None,
        }
    }
}

/// Votes by target, with indexes that find surrounds without comparing all pairs.
struct Votes {
    /// Ascending by target, then source, then root; unique.
    all: Vec<SignedEpochs>,
    /// For each n, the position in `all[..=n]` of the vote with the greatest source.
    greatest_source: Vec<usize>,
    /// For each n, the position in `all[n..]` of the vote with the least source.
    least_source: Vec<usize>,
}

impl Votes {
    fn new(votes: impl Iterator<Item = SignedEpochs>) -> Self {
        let mut all: Vec<SignedEpochs> = votes.collect();
        all.sort_by_key(|vote| (vote.target_epoch, vote.source_epoch, vote.signing_root));
        all.dedup();
        let mut greatest_source: Vec<usize> = Vec::with_capacity(all.len());
        for (n, vote) in all.iter().enumerate() {
            let best = greatest_source.last().copied().filter(|best: &usize| all[*best].source_epoch >= vote.source_epoch);
            greatest_source.push(best.unwrap_or(n));
        }
        let mut least_source: Vec<usize> = vec![0; all.len()];
        for n in (0..all.len()).rev() {
            let best = least_source.get(n + 1).copied().filter(|best| all[*best].source_epoch <= all[n].source_epoch);
            least_source[n] = best.unwrap_or(n);
        }
        Self { all, greatest_source, least_source }
    }

    fn at_target(&self, target: Epoch) -> std::ops::Range<usize> {
        let from = self.all.partition_point(|vote| vote.target_epoch < target);
        let to = self.all.partition_point(|vote| vote.target_epoch <= target);
        from..to
    }

    /// Votes that are slashable together with `vote`: every double vote, and at most one surround
    /// in each direction, the one with the most different source.
    fn contradicting(&self, vote: &SignedEpochs) -> impl Iterator<Item = Contradiction> {
        let seen = *vote;
        let at = self.at_target(vote.target_epoch);
        let inner = at.start.checked_sub(1).map(|last| self.all[self.greatest_source[last]]);
        let inner = inner.filter(|inner| inner.source_epoch > seen.source_epoch);
        let outer = self.least_source.get(at.end).map(|least| self.all[*least]);
        let outer = outer.filter(|outer| outer.source_epoch < seen.source_epoch);
        let doubles = self.all[at].iter().filter(move |other| {
            other.source_epoch != seen.source_epoch
                || (other.signing_root.is_some() && seen.signing_root.is_some() && other.signing_root != seen.signing_root)
        });
        let doubles = doubles.map(move |other| Contradiction::DoubleVote { seen, other: *other });
        let surrounds = inner.into_iter().chain(outer).map(move |other| Contradiction::SurroundVote { seen, other });
        doubles.chain(surrounds)
    }

    /// The entry that covers a seen vote.
    fn entry_for(&self, vote: &SignedEpochs) -> Option<SignedEpochs> {
        self.all[self.at_target(vote.target_epoch)].iter().copied().find(|entry| {
            entry.source_epoch == vote.source_epoch && (entry.signing_root.is_none() || entry.signing_root == vote.signing_root)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::PubkeyBytes;

    /// Makes a vote. `root` 0 means no signing root.
    fn vote(source: u64, target: u64, root: u8) -> SignedEpochs {
        SignedEpochs {
            source_epoch: Epoch::new(source),
            target_epoch: Epoch::new(target),
            signing_root: (root > 0).then(|| Root::repeat_byte(root)),
        }
    }

    fn block(slot: u64, root: u8) -> SignedSlot {
        SignedSlot { slot: Slot::new(slot), signing_root: (root > 0).then(|| Root::repeat_byte(root)) }
    }

    fn check(file: &[SignedEpochs], seen: &[SignedEpochs]) -> KeyAudit {
        let history = SigningHistory { pubkey: PubkeyBytes::ZERO, signed_blocks: Vec::new(), signed_attestations: file.to_vec() };
        audit(&[&history], &Seen { votes: seen.to_vec(), blocks: Vec::new() })
    }

    #[test]
    fn the_worked_example() {
        let report = check(&[vote(3, 4, 1), vote(4, 5, 1)], &[vote(1, 2, 1), vote(3, 4, 1), vote(4, 5, 2), vote(5, 6, 1)]);
        assert_eq!((report.before_record, report.agreeing), (1, 1));
        assert_eq!(report.contradictions.listed, [Contradiction::DoubleVote { seen: vote(4, 5, 2), other: vote(4, 5, 1) }]);
        assert_eq!(report.absent_votes.listed, [vote(4, 5, 2), vote(5, 6, 1)]);
        assert_eq!((report.unheard_votes, report.slashable.count), (1, 0));
        assert!(report.lacks_something(false));
    }

    #[test]
    fn a_full_record_lacks_nothing_with_or_without_roots() {
        let seen = [vote(1, 2, 1), vote(2, 3, 1), vote(5, 6, 1)];
        for file in [seen.to_vec(), seen.iter().map(|v| SignedEpochs { signing_root: None, ..*v }).collect()] {
            let report = check(&file, &seen);
            assert_eq!((report.agreeing, report.unheard_votes, report.lacks_something(false)), (3, 0, false));
            assert_eq!(report.gaps.listed, [Epochs { first: Epoch::new(4), last: Epoch::new(5) }]);
        }
    }

    /// The file of a key that contradicted itself. It has both messages, as an export writes it.
    #[test]
    fn a_record_of_both_sides_lacks_nothing() {
        let seen = [vote(1, 2, 1), vote(1, 2, 2), vote(0, 3, 1)];
        let report = check(&seen, &seen);
        assert_eq!((report.agreeing, report.contradictions.count, report.lacks_something(false)), (3, 0, false));
        assert!(report.slashable.count >= 2, "{:?}", report.slashable.listed);
    }

    #[test]
    fn a_minimal_record_covers_what_is_at_or_below_it() {
        let file = [vote(6, 9, 0)];
        let report = check(&file, &[vote(1, 2, 1), vote(5, 9, 1), vote(6, 8, 1)]);
        assert_eq!((report.agreeing, report.lacks_something(false)), (3, false));
        let report = check(&file, &[vote(9, 10, 1), vote(7, 9, 1)]);
        assert_eq!(report.absent_votes.listed, [vote(7, 9, 1), vote(9, 10, 1)]);
        assert_eq!(report.contradictions.count, 0, "a mark is no message");
    }

    /// A record that was lost and made anew looks like one that was pruned.
    #[test]
    fn what_is_before_the_record_is_lacking_unless_it_was_pruned() {
        let report = check(&[vote(4, 5, 1), vote(5, 6, 1)], &[vote(1, 2, 1), vote(2, 3, 1), vote(4, 5, 1), vote(5, 6, 1)]);
        assert_eq!((report.before_record, report.absent_votes.count, report.is_behind), (2, 0, false));
        assert_eq!((report.lacks_something(false), report.lacks_something(true)), (true, false));
        // (2,6) is allowed by the lowest source 2 and the lowest target 5, and surrounds (3,4).
        let report = check(&[vote(2, 5, 1)], &[vote(3, 4, 1)]);
        assert_eq!((report.before_record, report.absent_votes.count, report.is_behind), (0, 1, true));
        assert!(report.lacks_something(true));
        // A record that ends too early, and none at all.
        assert!(check(&[vote(1, 2, 1)], &[vote(2, 3, 1)]).is_behind);
        assert!(check(&[], &[vote(2, 3, 1)]).is_behind);
        assert!(!check(&[], &[]).is_behind);
    }

    #[test]
    fn a_minimal_record_of_blocks_covers_what_is_at_or_below_it() {
        let history =
            SigningHistory { pubkey: PubkeyBytes::ZERO, signed_blocks: vec![block(20, 0)], signed_attestations: Vec::new() };
        let seen = |blocks: &[SignedSlot]| Seen { votes: Vec::new(), blocks: blocks.to_vec() };
        let report = audit(&[&history], &seen(&[block(9, 1), block(20, 1)]));
        assert_eq!((report.agreeing, report.before_record, report.lacks_something(false)), (2, 0, false));
        let report = audit(&[&history], &seen(&[block(21, 1)]));
        assert_eq!((report.absent_blocks.count, report.is_behind), (1, true));
    }

    /// Two exports of one client that were merged into one file, by hand or by a tool.
    #[test]
    fn several_minimal_records_of_a_key_are_one_mark() {
        let minimal = |mark: SignedEpochs| SigningHistory {
            pubkey: PubkeyBytes::ZERO,
            signed_blocks: Vec::new(),
            signed_attestations: vec![mark],
        };
        let listed = SigningHistory { signed_attestations: vec![vote(11, 12, 1), vote(12, 13, 1)], ..minimal(vote(0, 0, 0)) };
        let (one, other) = (minimal(vote(6, 7, 0)), minimal(vote(5, 9, 0)));
        let seen = |votes: &[SignedEpochs]| Seen { votes: votes.to_vec(), blocks: Vec::new() };
        let covered = [vote(1, 2, 1), vote(6, 7, 1), vote(6, 8, 1), vote(5, 9, 1)];
        let report = audit(&[&one, &other], &seen(&covered));
        assert_eq!((report.agreeing, report.contradictions.count, report.lacks_something(false)), (4, 0, false));
        let report = audit(&[&one, &other], &seen(&[vote(7, 8, 1), vote(9, 10, 1)]));
        // (7,8) can still be surrounded by (6,10), which a client with the mark (6,9) signs.
        assert_eq!((report.before_record, report.absent_votes.count, report.contradictions.count), (0, 2, 0));
        // A mark does not hide a contradiction with a message that is listed.
        let report = audit(&[&one, &listed], &seen(&[vote(6, 7, 1), vote(11, 12, 1), vote(11, 13, 2)]));
        assert_eq!((report.agreeing, report.absent_votes.listed.as_slice()), (2, [vote(11, 13, 2)].as_slice()));
        assert_eq!(report.contradictions.listed, [Contradiction::DoubleVote { seen: vote(11, 13, 2), other: vote(12, 13, 1) }]);
    }

    #[test]
    fn surrounds_are_found_both_ways() {
        let report = check(&[vote(3, 4, 1), vote(2, 9, 1)], &[vote(2, 5, 2), vote(4, 8, 2)]);
        let pairs = [
            Contradiction::SurroundVote { seen: vote(2, 5, 2), other: vote(3, 4, 1) },
            Contradiction::SurroundVote { seen: vote(4, 8, 2), other: vote(2, 9, 1) },
        ];
        assert_eq!(report.contradictions.listed, pairs);
        let report = check(&[], &[vote(1, 9, 1), vote(2, 5, 1), vote(5, 9, 2)]);
        assert_eq!(report.slashable.count, 2, "{:?}", report.slashable.listed);
        assert_eq!(report.absent_votes.count, 3);
    }

    #[test]
    fn blocks_by_slot_and_root() {
        let history = SigningHistory {
            pubkey: PubkeyBytes::ZERO,
            signed_blocks: vec![block(10, 1), block(11, 0), block(12, 1), block(13, 1)],
            signed_attestations: Vec::new(),
        };
        let blocks = vec![block(9, 1), block(10, 1), block(11, 7), block(12, 2), block(12, 3), block(14, 1)];
        let report = audit(&[&history], &Seen { votes: Vec::new(), blocks });
        assert_eq!((report.agreeing, report.before_record, report.unheard_blocks), (2, 1, 1));
        assert_eq!(report.absent_blocks.listed, [block(12, 2), block(12, 3), block(14, 1)]);
        assert_eq!((report.contradictions.count, report.slashable.count), (2, 1));
    }

    #[test]
    fn lists_are_cut_and_counted() {
        let seen: Vec<SignedEpochs> = (0..500).map(|n| vote(n, n + 1, 1)).collect();
        let report = check(&[vote(0, 1, 1)], &seen);
        assert_eq!((report.absent_votes.count, report.absent_votes.listed.len()), (499, MAX_LISTED));
    }

    /// Compares with the rule applied to all pairs.
    #[test]
    fn nothing_that_contradicts_is_overlooked() {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..500 {
            let mut some =
                |n: usize| -> Vec<SignedEpochs> { (0..n).map(|_| vote(next(8), next(8), 1 + next(3) as u8)).collect() };
            let (file, seen) = (some(6), some(4));
            let report = check(&file, &seen);
            let slashable = |a: &SignedEpochs, b: &SignedEpochs| {
                let surrounds =
                    |a: &SignedEpochs, b: &SignedEpochs| a.source_epoch < b.source_epoch && b.target_epoch < a.target_epoch;
                (a != b && a.target_epoch == b.target_epoch) || surrounds(a, b) || surrounds(b, a)
            };
            let wanted: BTreeSet<SignedEpochs> = seen
                .iter()
                .filter(|vote| !file.contains(vote) && file.iter().any(|entry| slashable(vote, entry)))
                .copied()
                .collect();
            let found: BTreeSet<SignedEpochs> =
                report.contradictions.listed.iter().filter_map(|pair| pair.votes()).map(|(seen, _)| seen).collect();
            assert_eq!(found, wanted, "file {file:?}, seen {seen:?}");
        }
    }
}
