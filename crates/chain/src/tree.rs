//! The block tree: who is whose parent, and the randao mix after each block.
//!
//! A block adds the hash of its `randao_reveal` to its branch's mix by XOR, and empty slots carry the mix on:
//!
//! ```text
//! mix(block) = mix(parent) XOR sha256(block.randao_reveal)
//! ```
//!
//! XOR undoes itself, so a known mix also gives the parent's: a state's `block_roots` name ancestors whose mix is known at the
//! ends of epochs only, and when such an ancestor's own block arrives the gap between closes from either side.
//!
//! Worked example: A (slot 3, mix 0b0011) <- B (slot 5, reveal hash 0b0101) <- C (slot 9). B's mix is 0b0110. With 4 slots per
//! epoch the committees of epoch 3 on C's branch are decided by the last block before slot 8 (the start of epoch 2): B.
//!
//! Invariants: a child's slot is greater than its parent's; every node kept by pruning has its decision block kept with it.
//! Bounds: [`MAX_NODES`] nodes, [`crate::orphans::MAX_ORPHANS`] orphans; per proposer a share of either, since anyone with one key can sign blocks for
//! any slot and nobody is punished for that. In a full tree whoever has more blocks than the newcomer's proposer loses a leaf, so many keys
//! together cannot keep the others out either.

use crate::chain::BlockFacts;
use crate::orphans::Orphans;
use consensus::{Root, Slot, ValidatorIndex};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Blocks kept at most, about 150 bytes each.
pub(crate) const MAX_NODES: usize = 32_768;
/// How far back a tip's proposers are counted.
const DIVERSITY_DEPTH: usize = 32;

#[derive(Clone, Debug)]
struct Node {
    slot: Slot,
    /// `slot` is known exactly, not only as "this slot or before" (the oldest entry of a state's history).
    exact_slot: bool,
    parent: Option<Root>,
    proposer: Option<ValidatorIndex>,
    /// sha256 of the block's randao reveal; `None` while only its root is known.
    reveal_hash: Option<Root>,
    mix: Option<Root>,
    children: Vec<Root>,
}

/// How many different proposers made these blocks; those that came with a state count as one proposer each: a node has followed them.
fn n_proposers<'a>(blocks: impl Iterator<Item = &'a Node>) -> usize {
    let (mut proposers, mut from_state) = (HashSet::new(), 0);
    for block in blocks {
        match block.proposer {
            Some(proposer) => drop(proposers.insert(proposer)),
            None => from_state += 1,
        }
    }
    proposers.len() + from_state
}

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insert {
    Attached,
    /// `news`: its root had come with a state, and only now its reveal is known.
    Known {
        news: bool,
    },
    Orphan {
        missing_parent: Root,
    },
    TooOld,
    Refused(&'static str),
}

/// An ancestor as a state names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub root: Root,
    pub slot: Slot,
    pub exact_slot: bool,
    /// The mix after it, where the state has it: for the last block of an epoch.
    pub mix: Option<Root>,
}

/// The block that decides a shuffling, and the mix its seed is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub root: Root,
    pub mix: Root,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: HashMap<Root, Node>,
    /// Blocks without children, by slot.
    tips: BTreeSet<(Slot, Root)>,
    by_slot: BTreeSet<(Slot, Root)>,
    per_proposer: HashMap<ValidatorIndex, usize>,
    orphans: Orphans,
    /// Blocks before this slot are no longer taken.
    floor: Slot,
    pub(crate) refused: u64,
    pub(crate) pruned: u64,
}

impl Tree {
    /// Adds a state's chain, oldest first; the last one is the state's latest block. Returns what waited for any of them.
    pub(crate) fn add_ancestors(&mut self, chain: &[Ancestor]) -> Vec<BlockFacts> {
        let mut parent: Option<Root> = None;
        let mut freed = Vec::new();
        for ancestor in chain {
            if !self.nodes.contains_key(&ancestor.root) && self.orphans.contains(&ancestor.root) {
                // Its block has been waiting; as a node it is attached already, so only its reveal is still of use.
                freed.extend(self.orphans.take(&ancestor.root));
            }
            self.add_ancestor(ancestor, parent);
            freed.extend(self.orphans.take_children(&ancestor.root));
            parent = Some(ancestor.root);
        }
        freed
    }

    fn add_ancestor(&mut self, ancestor: &Ancestor, parent: Option<Root>) {
        let known = self.nodes.contains_key(&ancestor.root);
        if !known {
            let node = Node {
                slot: ancestor.slot,
                exact_slot: ancestor.exact_slot,
                parent: None,
                proposer: None,
                reveal_hash: None,
                mix: None,
                children: Vec::new(),
            };
            self.nodes.insert(ancestor.root, node);
            self.by_slot.insert((ancestor.slot, ancestor.root));
            self.tips.insert((ancestor.slot, ancestor.root));
        }
        let node = self.nodes.get_mut(&ancestor.root).expect("inserted above if it was missing");
        if ancestor.exact_slot && !node.exact_slot && ancestor.slot <= node.slot {
            let old = (node.slot, ancestor.root);
            node.slot = ancestor.slot;
            node.exact_slot = true;
            self.moved(old, ancestor.slot);
        }
        if let Some(parent) = parent {
            self.link(ancestor.root, parent);
        }
        if let Some(mix) = ancestor.mix {
            self.settle(ancestor.root, mix);
        }
    }

    /// Attaches a proven block, or says why not. The caller attaches those that waited for it ([`Self::take_waiting`]).
    pub(crate) fn insert(&mut self, block: &BlockFacts, reveal_hash: Root, share: usize) -> Insert {
        if self.nodes.contains_key(&block.root) {
            return Insert::Known { news: self.learn(block, reveal_hash) };
        }
        if block.slot < self.floor {
            return Insert::TooOld;
        }
        let Some(parent) = self.nodes.get(&block.parent_root) else {
            return self.keep_orphan(block);
        };
        if block.slot <= parent.slot {
            self.refused += 1;
            return Insert::Refused("its slot is not after its parent's");
        }
        let parent_mix = parent.mix;
        if self.n_of(block.proposer_index) >= share || !self.make_room(block) {
            self.refused += 1;
            return Insert::Refused("the block tree is full, or this proposer's share of it");
        }
        let node = Node {
            slot: block.slot,
            exact_slot: true,
            parent: None,
            proposer: Some(block.proposer_index),
            reveal_hash: Some(reveal_hash),
            mix: None,
            children: Vec::new(),
        };
        self.nodes.insert(block.root, node);
        self.by_slot.insert((block.slot, block.root));
        self.tips.insert((block.slot, block.root));
        *self.per_proposer.entry(block.proposer_index).or_default() += 1;
        self.link(block.root, block.parent_root);
        if let Some(mix) = parent_mix {
            self.settle(block.root, mix ^ reveal_hash);
        }
        Insert::Attached
    }

    /// Blocks of a proposer.
    fn n_of(&self, proposer: ValidatorIndex) -> usize {
        self.per_proposer.get(&proposer).copied().unwrap_or(0)
    }

    /// In a full tree a leaf of whoever has most blocks gives way, the earliest of them, unless that is the newcomer's proposer itself. What
    /// is built on is no leaf, and blocks that came with a state are nobody's. Whether there is room.
    fn make_room(&mut self, newcomer: &BlockFacts) -> bool {
        if self.nodes.len() < MAX_NODES {
            return true;
        }
        let mut victim: Option<(usize, Slot, Root)> = None;
        for (slot, root) in self.tips.iter().filter(|(_, root)| *root != newcomer.parent_root) {
            let held = self.proposer_of(root).map_or(0, |proposer| self.n_of(proposer));
            if victim.is_none_or(|(most, ..)| held > most) {
                victim = Some((held, *slot, *root));
            }
        }
        match victim {
            Some((held, slot, root)) if held > self.n_of(newcomer.proposer_index) => {
                self.remove(slot, root);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The orphans that waited for `root`, removed from the pool.
    pub(crate) fn take_waiting(&mut self, root: &Root) -> Vec<BlockFacts> {
        self.orphans.take_children(root)
    }

    fn keep_orphan(&mut self, block: &BlockFacts) -> Insert {
        if self.orphans.contains(&block.root) {
            return Insert::Orphan { missing_parent: block.parent_root };
        }
        if !self.orphans.push(block) {
            self.refused += 1;
            return Insert::Refused("too many of this proposer's blocks wait for their parents");
        }
        Insert::Orphan { missing_parent: block.parent_root }
    }

    /// A block whose root a state had named already: now its parent and reveal are known too.
    fn learn(&mut self, block: &BlockFacts, reveal_hash: Root) -> bool {
        let Some(node) = self.nodes.get_mut(&block.root) else { return false };
        if node.reveal_hash.is_some() {
            return false;
        }
        node.reveal_hash = Some(reveal_hash);
        node.proposer = Some(block.proposer_index);
        *self.per_proposer.entry(block.proposer_index).or_default() += 1;
        if !node.exact_slot && block.slot <= node.slot {
            let old = (node.slot, block.root);
            node.slot = block.slot;
            node.exact_slot = true;
            self.moved(old, block.slot);
        }
        if self.nodes.contains_key(&block.parent_root) {
            self.link(block.root, block.parent_root);
        }
        if let Some(mix) = self.nodes.get(&block.root).and_then(|node| node.mix) {
            self.spread(block.root, mix);
        } else if let Some(mix) = self.nodes.get(&block.parent_root).and_then(|parent| parent.mix) {
            self.settle(block.root, mix ^ reveal_hash);
        }
        true
    }

    fn moved(&mut self, old: (Slot, Root), slot: Slot) {
        self.by_slot.remove(&old);
        self.by_slot.insert((slot, old.1));
        if self.tips.remove(&old) {
            self.tips.insert((slot, old.1));
        }
    }

    /// Only to a parent of an earlier slot, whatever a state claims: so no branch is a circle. The first parent stays.
    fn link(&mut self, child: Root, parent: Root) {
        let Some(parent_slot) = self.slot_of(&parent) else { return };
        let Some(node) = self.nodes.get_mut(&child) else { return };
        if node.parent.is_some() || node.slot <= parent_slot {
            return;
        }
        node.parent = Some(parent);
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children.push(child);
            self.tips.remove(&(node.slot, parent));
        }
    }

    /// Sets a block's mix, if it was unknown, and carries it to those whose mix follows from it.
    fn settle(&mut self, root: Root, mix: Root) {
        let Some(node) = self.nodes.get_mut(&root) else { return };
        if node.mix.is_none() {
            node.mix = Some(mix);
            self.spread(root, mix);
        }
    }

    fn spread(&mut self, root: Root, mix: Root) {
        let mut work = vec![(root, mix)];
        while let Some((root, mix)) = work.pop() {
            let Some(node) = self.nodes.get(&root) else { continue };
            let mut known: Vec<(Root, Root)> = Vec::new();
            if let (Some(parent), Some(reveal_hash)) = (node.parent, node.reveal_hash) {
                known.push((parent, mix ^ reveal_hash));
            }
            for child in &node.children {
                if let Some(reveal_hash) = self.nodes.get(child).and_then(|child| child.reveal_hash) {
                    known.push((*child, mix ^ reveal_hash));
                }
            }
            for (neighbour, mix) in known {
                if let Some(node) = self.nodes.get_mut(&neighbour)
                    && node.mix.is_none()
                {
                    node.mix = Some(mix);
                    work.push((neighbour, mix));
                }
            }
        }
    }

    pub(crate) fn slot_of(&self, root: &Root) -> Option<Slot> {
        self.nodes.get(root).map(|node| node.slot)
    }

    pub(crate) fn parent_of(&self, root: &Root) -> Option<Root> {
        self.nodes.get(root).and_then(|node| node.parent)
    }

    /// Who made it; unknown of blocks that a state named.
    pub(crate) fn proposer_of(&self, root: &Root) -> Option<ValidatorIndex> {
        self.nodes.get(root).and_then(|node| node.proposer)
    }

    pub(crate) fn at_slot(&self, slot: Slot) -> impl Iterator<Item = &Root> {
        self.by_slot.range((slot, Root::ZERO)..=(slot, Root::repeat_byte(0xff))).map(|(_, root)| root)
    }

    /// The last block before `slot` on the branch of `root`, or the block at slot 0; `None` where the branch is not known so far back.
    pub(crate) fn last_before(&self, root: Root, slot: Slot) -> Option<Root> {
        let mut at = root;
        loop {
            let node = self.nodes.get(&at)?;
            if node.slot < slot || node.slot == Slot::new(0) {
                return Some(at);
            }
            at = node.parent?;
        }
    }

    /// [`Self::last_before`] with its mix; `None` too where the mix is not known.
    pub(crate) fn decision(&self, root: Root, before: Slot) -> Option<Decision> {
        let root = self.last_before(root, before)?;
        let mix = self.nodes.get(&root)?.mix?;
        Some(Decision { root, mix })
    }

    /// Blocks without children, best first: those on which most different proposers built lately, then the latest. Counting
    /// proposers rather than blocks keeps one key from drowning the others, and so does counting one tip of each proposer and slot.
    /// Bounded by `limit`.
    pub(crate) fn ranked_tips(&self, not_after: Slot, limit: usize) -> Vec<Root> {
        let mut ranked: Vec<(usize, Slot, Root)> = Vec::new();
        // Both the tips of now and those of the future are looked at, each within the limit, so that neither hides the other.
        let mut now = OneEach { tree: self, met: HashSet::new() };
        let now = self.tips.range(..=(not_after, Root::repeat_byte(0xff))).rev().filter(|tip| now.is_first(tip)).take(limit);
        let mut future = OneEach { tree: self, met: HashSet::new() };
        let future =
            self.tips.iter().rev().take_while(|(slot, _)| *slot > not_after).filter(|tip| future.is_first(tip)).take(limit);
        for (slot, root) in now.chain(future) {
            ranked.push((self.diversity(*root), *slot, *root));
        }
        ranked.sort_by(|a, b| b.cmp(a));
        ranked.truncate(limit);
        ranked.into_iter().map(|(_, _, root)| root).collect()
    }

    /// How many different proposers made the last [`DIVERSITY_DEPTH`] blocks of a branch.
    fn diversity(&self, tip: Root) -> usize {
        n_proposers(self.branch(tip).take(DIVERSITY_DEPTH))
    }

    /// A block and those before it, as far as they are known.
    fn branch(&self, tip: Root) -> impl Iterator<Item = &Node> {
        let node = |root: Root| self.nodes.get(&root);
        std::iter::successors(node(tip), move |child| child.parent.and_then(node))
    }

    /// Of the blocks without children in the slots after `since`, to `until`, the one on whose branch most different proposers made blocks in
    /// these slots; the later one of two. Looks at `limit` at most, one of each proposer and slot.
    pub(crate) fn backed_tip(&self, since: Slot, until: Slot, limit: usize) -> Option<(Slot, Root)> {
        let mut each = OneEach { tree: self, met: HashSet::new() };
        let latest = self.tips.range(..=(until, Root::repeat_byte(0xff))).rev().take_while(|(slot, _)| *slot > since);
        let candidates = latest.filter(|tip| each.is_first(tip)).take(limit);
        let backing = |tip: Root| n_proposers(self.branch(tip).take_while(|node| node.slot > since));
        candidates.copied().max_by_key(|(slot, root)| (backing(*root), *slot, *root))
    }

    /// The attached block with the greatest slot not after `slot`.
    pub(crate) fn head_at(&self, slot: Slot) -> Option<(Slot, Root)> {
        self.by_slot.range(..=(slot, Root::repeat_byte(0xff))).next_back().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn n_orphans(&self) -> usize {
        self.orphans.len()
    }

    pub(crate) fn orphans_dropped(&self) -> u64 {
        self.orphans.dropped
    }

    /// Parents that orphans wait for and that are not orphans themselves, latest first.
    pub(crate) fn missing(&self) -> Vec<Root> {
        self.orphans.missing()
    }

    /// Forgets blocks before `floor`, but not the parents of those that stay: one of them may be a decision block.
    pub(crate) fn prune(&mut self, floor: Slot) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let old: Vec<(Slot, Root)> = self.by_slot.range(..(floor, Root::ZERO)).copied().collect();
        let mut stays: HashSet<Root> = HashSet::new();
        for (_, root) in self.by_slot.range((floor, Root::ZERO)..) {
            stays.extend(self.nodes.get(root).and_then(|node| node.parent));
        }
        // With nothing at or after the floor (a long silence) the latest block stays, or nothing could attach any more.
        if self.by_slot.range((floor, Root::ZERO)..).next().is_none() {
            stays.extend(self.by_slot.last().map(|(_, root)| *root));
        }
        for (slot, root) in old {
            if !stays.contains(&root) {
                self.remove(slot, root);
            }
        }
        self.orphans.drop_before(floor);
    }

    fn remove(&mut self, slot: Slot, root: Root) {
        let Some(node) = self.nodes.remove(&root) else { return };
        self.by_slot.remove(&(slot, root));
        self.tips.remove(&(slot, root));
        self.pruned += 1;
        if let Some(proposer) = node.proposer
            && let Some(n) = self.per_proposer.get_mut(&proposer)
        {
            *n -= 1;
            if *n == 0 {
                self.per_proposer.remove(&proposer);
            }
        }
        for child in node.children {
            if let Some(child) = self.nodes.get_mut(&child) {
                child.parent = None;
            }
        }
        if let Some(parent_root) = node.parent
            && let Some(parent) = self.nodes.get_mut(&parent_root)
        {
            parent.children.retain(|child| *child != root);
            if parent.children.is_empty() {
                self.tips.insert((parent.slot, parent_root));
            }
        }
    }
}

/// Of each proposer and slot one block.
struct OneEach<'a> {
    tree: &'a Tree,
    met: HashSet<(Slot, ValidatorIndex)>,
}

impl OneEach<'_> {
    fn is_first(&mut self, (slot, root): &(Slot, Root)) -> bool {
        self.tree.proposer_of(root).is_none_or(|proposer| self.met.insert((*slot, proposer)))
    }
}
