//! The ends of branches, and how much of the network backs each of them.

use super::{MAX_NODES, Tree, TreeNode};
use crate::chain::BranchBlock;
use consensus::{Root, Slot, ValidatorIndex};
use std::collections::{HashMap, HashSet};

/// Maximum number of blocks, and of slots, before the end of a branch whose proposers and votes are
/// counted.
const DIVERSITY_DEPTH: usize = 32;
/// Maximum number of blocks of one proposer for one slot that are considered as ends of branches.
const MAX_TWINS: usize = 4;

/// How good a branch is; the best is last. First compared is the stake that voted for its blocks,
/// then the number of proposers that built in turn. The other fields only make the order complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backing {
    pub votes: u64,
    pub in_turn: usize,
    /// The last block of the branch was built in turn.
    pub is_in_turn: bool,
    pub proposers: usize,
    pub slot: Slot,
    pub root: Root,
}

impl Tree {
    /// Returns the ends of branches, best first ([`Backing`]), at most `limit`. Considered are the
    /// last blocks in turn of each branch, and blocks without children. Of the blocks of one
    /// proposer without children in one slot only one is considered.
    pub(crate) fn ranked_tips(&self, not_after: Slot, limit: usize) -> Vec<Root> {
        // Ends until now and ends in the future are both considered, each up to the limit, so that
        // neither group hides the other.
        let mut now = OneEach { tree: self, met: HashSet::new() };
        let now = self.tips.range(..=(not_after, Root::repeat_byte(0xff))).rev().filter(|tip| now.is_first(tip)).take(limit);
        let mut future = OneEach { tree: self, met: HashSet::new() };
        let future =
            self.tips.iter().rev().take_while(|(slot, _)| *slot > not_after).filter(|tip| future.is_first(tip)).take(limit);
        let mut roots: HashSet<Root> = now.chain(future).map(|(_, root)| *root).collect();
        roots.extend(self.ends_in_turn(not_after.saturating_sub(2 * DIVERSITY_DEPTH as u64), not_after, limit));
        // The same slots are counted for all branches. Otherwise a branch that ended some slots ago
        // could count older votes instead.
        let latest = self.latest_in_turn(not_after).map_or(not_after, |(slot, _)| slot);
        let since = latest.saturating_sub(DIVERSITY_DEPTH as u64);
        let goes_on = |slot: Slot, depth: usize| slot >= since && depth < DIVERSITY_DEPTH;
        let mut ranked: Vec<Backing> = roots.into_iter().filter_map(|root| self.backing(root, goes_on)).collect();
        ranked.sort_by(|a, b| b.cmp(a));
        ranked.truncate(limit);
        ranked.into_iter().map(|backing| backing.root).collect()
    }

    /// Computes the backing of a branch from its last block backwards, as long as `goes_on` returns
    /// true. Its arguments are the slot and the number of blocks back.
    fn backing(&self, tip: Root, goes_on: impl Fn(Slot, usize) -> bool) -> Option<Backing> {
        let end = self.nodes.get(&tip)?;
        let (mut votes, mut from_state) = (0u64, 0);
        let (mut in_turn, mut proposers) = (HashSet::new(), HashSet::new());
        for (depth, (_, node)) in self.branch(tip).enumerate() {
            if !goes_on(node.slot, depth) {
                break;
            }
            votes = votes.saturating_add(node.votes);
            match node.proposer {
                // A node has followed this block, but its proposer may be unknown.
                _ if node.from_state => from_state += 1,
                Some(proposer) => {
                    proposers.insert(proposer);
                    if self.counts(node) {
                        in_turn.insert(proposer);
                    }
                }
                None => {}
            }
        }
        let (in_turn, proposers) = (in_turn.len() + from_state, proposers.len() + from_state);
        Some(Backing { votes, in_turn, is_in_turn: self.counts(end), proposers, slot: end.slot, root: tip })
    }

    /// Iterates over a block and the blocks before it, as far as they are known.
    pub(super) fn branch(&self, tip: Root) -> impl Iterator<Item = (Root, &TreeNode)> {
        let node = |root: Root| self.nodes.get(&root).map(|node| (root, node));
        std::iter::successors(node(tip), move |(_, child)| child.parent.and_then(node))
    }

    /// Returns the blocks in turn in the slots `since..=until` that have no later such block on top
    /// of them, the latest first.
    ///
    /// Of the blocks of one proposer for one slot, at most [`MAX_TWINS`] with the most votes are
    /// returned. A proposer that signs several blocks in its turn must neither hide the branch that
    /// the network follows nor fill the list.
    fn ends_in_turn(&self, since: Slot, until: Slot, limit: usize) -> Vec<Root> {
        let votes_of = |root: &Root| self.nodes.get(root).map_or(0, |node| node.votes);
        let range = self.in_turn.range((since, Root::ZERO)..=(until, Root::repeat_byte(0xff)));
        let mut latest: Vec<(Slot, u64, Root)> =
            range.rev().take(MAX_NODES).map(|(slot, root)| (*slot, votes_of(root), *root)).collect();
        latest.sort_unstable_by(|a, b| b.cmp(a));
        let mut twins: HashMap<(Slot, ValidatorIndex), usize> = HashMap::new();
        let mut built_on: HashSet<Root> = HashSet::new();
        let mut ends = Vec::new();
        for (slot, _, root) in latest {
            if ends.len() >= limit {
                break;
            }
            if !built_on.contains(&root) {
                let twins = self.proposer_of(&root).map(|proposer| twins.entry((slot, proposer)).or_default());
                let has_room = twins.is_none_or(|n| {
                    *n += 1;
                    *n <= MAX_TWINS
                });
                if has_room {
                    ends.push(root);
                }
            }
            // Go down to the next block that counts. The blocks in between were not built in turn.
            let below = self.branch(root).skip(1).take(DIVERSITY_DEPTH).find(|(_, node)| self.counts(node));
            built_on.extend(below.map(|(root, _)| root));
        }
        ends
    }

    /// Returns the ends of the branches of blocks in turn between `since` and `until`, best first.
    /// At most `limit` ends are considered.
    pub(crate) fn backed_ends(&self, since: Slot, until: Slot, limit: usize) -> Vec<Backing> {
        let ends = self.ends_in_turn(since, until, limit);
        let mut backed: Vec<Backing> = ends.into_iter().filter_map(|root| self.backing(root, |slot, _| slot >= since)).collect();
        backed.sort_by(|a, b| b.cmp(a));
        backed
    }

    /// See [`crate::Chain::blocks_since`].
    pub(crate) fn blocks_since(&self, since: Slot, limit: usize) -> Vec<BranchBlock> {
        let range =
            || self.by_slot.range((since, Root::ZERO)..).rev().filter_map(|(_, root)| Some((*root, self.nodes.get(root)?)));
        let is_backed = |node: &TreeNode| node.from_state || node.votes > 0 || self.counts(node);
        let backed = range().filter(|(_, node)| is_backed(node));
        let others = range().filter(|(_, node)| !is_backed(node));
        let view = |(root, node): (Root, &TreeNode)| BranchBlock {
            root,
            slot: node.slot,
            parent: node.parent,
            proposer: node.proposer,
            is_in_turn: node.from_state || self.counts(node),
        };
        backed.chain(others).take(limit).map(view).collect()
    }

    /// Returns the latest block at or before `slot` that counts.
    pub(crate) fn latest_in_turn(&self, slot: Slot) -> Option<(Slot, Root)> {
        self.in_turn.range(..=(slot, Root::repeat_byte(0xff))).next_back().copied()
    }

    /// Returns the attached block with the highest slot that is not after `slot`.
    pub(crate) fn head_at(&self, slot: Slot) -> Option<(Slot, Root)> {
        self.by_slot.range(..=(slot, Root::repeat_byte(0xff))).next_back().copied()
    }
}

/// Selects one block for each proposer and slot.
struct OneEach<'a> {
    tree: &'a Tree,
    met: HashSet<(Slot, ValidatorIndex)>,
}

impl OneEach<'_> {
    fn is_first(&mut self, (slot, root): &(Slot, Root)) -> bool {
        self.tree.proposer_of(root).is_none_or(|proposer| self.met.insert((*slot, proposer)))
    }
}
