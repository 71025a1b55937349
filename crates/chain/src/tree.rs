//! The block tree: the parent of each block, and the randao mix after each block.
//!
//! A block changes the mix of its branch by an XOR with the hash of its `randao_reveal`. Empty
//! slots do not change the mix:
//!
//! ```text
//! mix(block) = mix(parent) XOR sha256(block.randao_reveal)
//! ```
//!
//! XOR is its own inverse, so the mix of a block also gives the mix of its parent. A state's
//! `block_roots` name ancestors whose mixes are known only at the ends of epochs. When the block of
//! such an ancestor arrives, the missing mixes are filled in from both sides.
//!
//! Worked example: A (slot 3, mix 0b0011) <- B (slot 5, reveal hash 0b0101) <- C (slot 9). The mix
//! of B is 0b0110. With 4 slots per epoch, the committees of epoch 3 on C's branch are decided by
//! the last block before slot 8 (the start of epoch 2), which is B. B is their *decision block*.
//!
//! | module | what |
//! |---|---|
//! | here | blocks, their parents and mixes; adding and removing them |
//! | [`turns`] | whether a block's proposer was the proposer of its slot; which blocks count |
//! | [`branches`] | the ends of branches, and how much stake backs each |
//! | [`contest`] | whether branches compete |
//! | [`orphans`] | blocks that wait for their parents |
//!
//! Invariants: the slot of a child is greater than the slot of its parent; pruning keeps the
//! decision block of every node that it keeps.
//!
//! Bounds: [`MAX_NODES`] nodes and [`orphans::MAX_ORPHANS`] orphans. Each proposer has a
//! limited share of both, because the owner of one key can sign blocks for any slot, and nobody is
//! punished for that. If the tree is full, the proposer with the most blocks loses a leaf, if it
//! has more blocks than the proposer of the new block. So many keys together cannot keep the other
//! blocks out either.

mod branches;
mod contest;
mod orphans;
mod turns;

pub(crate) use orphans::OrphanClaim;
pub(crate) use turns::{ProposerCheck, UncheckedBlock};

use crate::chain::BlockFacts;
use consensus::{Root, Slot, ValidatorIndex};
use orphans::Orphans;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Maximum number of blocks in the tree. Each takes about 150 bytes.
pub(crate) const MAX_NODES: usize = 32_768;

#[derive(Clone, Debug)]
struct TreeNode {
    slot: Slot,
    /// The slot is known exactly. If not, the block is at this slot or before it, because it is the
    /// oldest entry of a state's history.
    exact_slot: bool,
    parent: Option<Root>,
    proposer: Option<ValidatorIndex>,
    /// SHA-256 of the block's randao reveal. `None` while only the root of the block is known.
    reveal_hash: Option<Root>,
    mix: Option<Root>,
    children: Vec<Root>,
    /// A state named this block, so a node has followed it.
    from_state: bool,
    turn: ProposerCheck,
    /// Stake, in whole ETH, that voted for this very block as head.
    votes: u64,
}

/// The result of adding a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insert {
    Attached,
    /// `news` is set if a state had named the root, and this block is the first to provide the
    /// reveal.
    Known {
        news: bool,
    },
    Orphan {
        missing_parent: Root,
    },
    TooOld,
    Refused(&'static str),
}

/// An ancestor that a state names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub root: Root,
    pub slot: Slot,
    pub exact_slot: bool,
    /// The mix after the block, if the state has it: for the last block of an epoch.
    pub mix: Option<Root>,
}

/// The decision block of a shuffling, and the mix from which the seed is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub root: Root,
    pub mix: Root,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: HashMap<Root, TreeNode>,
    /// Blocks without children, by slot.
    tips: BTreeSet<(Slot, Root)>,
    by_slot: BTreeSet<(Slot, Root)>,
    /// Blocks that count ([`Tree::is_in_turn`]), by slot.
    in_turn: BTreeSet<(Slot, Root)>,
    /// New blocks whose turn is not determined yet.
    unchecked: VecDeque<Root>,
    /// Blocks whose turn could not be determined so far, at most [`MAX_UNDETERMINED`]. When there
    /// are more, the oldest is dropped and never determined.
    undecided: VecDeque<Root>,
    /// Stake in whole ETH. A block with votes of this much stake counts, as if it was built in
    /// turn.
    quorum: u64,
    per_proposer: HashMap<ValidatorIndex, usize>,
    orphans: Orphans,
    /// Blocks before this slot are no longer accepted.
    floor: Slot,
    pub(crate) refused: u64,
    pub(crate) pruned: u64,
}

impl Tree {
    /// Adds the ancestors that a state names, ascending by slot; the last one is the state's latest
    /// block. Returns the blocks that waited for any of them.
    pub(crate) fn add_ancestors(&mut self, chain: &[Ancestor]) -> Vec<BlockFacts> {
        let mut parent: Option<Root> = None;
        let mut freed = Vec::new();
        for ancestor in chain {
            if !self.nodes.contains_key(&ancestor.root) && self.orphans.contains(&ancestor.root) {
                // This block was an orphan. Its node is added below, so only its reveal is still
                // needed.
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
            let node = TreeNode {
                slot: ancestor.slot,
                exact_slot: ancestor.exact_slot,
                parent: None,
                proposer: None,
                reveal_hash: None,
                mix: None,
                children: Vec::new(),
                from_state: true,
                turn: ProposerCheck::Unknown,
                votes: 0,
            };
            self.nodes.insert(ancestor.root, node);
            self.by_slot.insert((ancestor.slot, ancestor.root));
            self.tips.insert((ancestor.slot, ancestor.root));
        }
        let node = self.nodes.get_mut(&ancestor.root).expect("inserted above if it was missing");
        node.from_state = true;
        self.in_turn.insert((node.slot, ancestor.root));
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

    /// Attaches a proven block, or returns the reason why not. The caller attaches the blocks that
    /// waited for it ([`Self::take_waiting`]). `claim` states how likely the block belongs to the
    /// chain; it is used if the block has to wait for its parent.
    pub(crate) fn insert(&mut self, block: &BlockFacts, reveal_hash: Root, share: usize, claim: OrphanClaim) -> Insert {
        if self.nodes.contains_key(&block.root) {
            return Insert::Known { news: self.learn(block, reveal_hash) };
        }
        if block.slot < self.floor {
            return Insert::TooOld;
        }
        let Some(parent) = self.nodes.get(&block.parent_root) else {
            return self.keep_orphan(block, claim);
        };
        if block.slot <= parent.slot {
            self.refused += 1;
            return Insert::Refused("its slot is not after its parent's");
        }
        let parent_mix = parent.mix;
        let refusal = if self.n_of(block.proposer_index) >= share {
            Some("its proposer has as many blocks in the tree as one proposer may have")
        } else if !self.make_room(block) {
            Some("the block tree is full, and no other proposer has more blocks in it")
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.refused += 1;
            return Insert::Refused(reason);
        }
        let node = TreeNode {
            slot: block.slot,
            exact_slot: true,
            parent: None,
            proposer: Some(block.proposer_index),
            reveal_hash: Some(reveal_hash),
            mix: None,
            children: Vec::new(),
            from_state: false,
            turn: ProposerCheck::Unknown,
            votes: 0,
        };
        self.unchecked.push_back(block.root);
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

    /// Number of blocks of a proposer.
    fn n_of(&self, proposer: ValidatorIndex) -> usize {
        self.per_proposer.get(&proposer).copied().unwrap_or(0)
    }

    /// Makes room for a new block, and returns whether there is room.
    ///
    /// If the tree is full, the proposer with the most blocks loses its earliest leaf, if it has
    /// more blocks than the new block's proposer. A block with children is no leaf. A block that
    /// came with a state belongs to no proposer.
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

    /// Removes and returns the orphans that waited for `root`.
    pub(crate) fn take_waiting(&mut self, root: &Root) -> Vec<BlockFacts> {
        self.orphans.take_children(root)
    }

    fn keep_orphan(&mut self, block: &BlockFacts, claim: OrphanClaim) -> Insert {
        if self.orphans.contains(&block.root) {
            return Insert::Orphan { missing_parent: block.parent_root };
        }
        match self.orphans.push(block, claim) {
            Ok(()) => Insert::Orphan { missing_parent: block.parent_root },
            Err(reason) => {
                self.refused += 1;
                Insert::Refused(reason)
            }
        }
    }

    /// Completes a block whose root a state had named: its reveal, its proposer and its parent are
    /// now known. Returns whether this was new.
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
        for set in [&mut self.tips, &mut self.in_turn] {
            if set.remove(&old) {
                set.insert((slot, old.1));
            }
        }
    }

    /// Sets the parent of a block. A state could claim anything, so the parent's slot must be
    /// earlier; therefore no branch is a circle. A parent that is already set stays.
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

    /// Sets the mix of a block if it was unknown, and computes all mixes that follow from it.
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

    /// Returns the proposer of a block. It is unknown while only a state has named the block.
    pub(crate) fn proposer_of(&self, root: &Root) -> Option<ValidatorIndex> {
        self.nodes.get(root).and_then(|node| node.proposer)
    }

    pub(crate) fn at_slot(&self, slot: Slot) -> impl Iterator<Item = &Root> {
        self.by_slot.range((slot, Root::ZERO)..=(slot, Root::repeat_byte(0xff))).map(|(_, root)| root)
    }

    /// Returns the last block before `slot` on the branch of `root`, or the block at slot 0.
    /// Returns `None` if the branch is not known that far back.
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

    /// Like [`Self::last_before`], together with the mix of that block. Also returns `None` if the
    /// mix is not known.
    pub(crate) fn decision(&self, root: Root, before: Slot) -> Option<Decision> {
        let root = self.last_before(root, before)?;
        let mix = self.nodes.get(&root)?.mix?;
        Some(Decision { root, mix })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn is_orphan(&self, root: &Root) -> bool {
        self.orphans.contains(root)
    }

    pub(crate) fn n_orphans(&self) -> usize {
        self.orphans.len()
    }

    pub(crate) fn orphans_dropped(&self) -> u64 {
        self.orphans.dropped
    }

    /// Lists the missing parents of orphans ([`Orphans::missing`]).
    pub(crate) fn missing(&self, now: Slot) -> Vec<Root> {
        self.orphans.missing(now)
    }

    /// Stops listing a missing block, because no node has it.
    pub(crate) fn give_up(&mut self, root: &Root) {
        self.orphans.give_up(root);
    }

    /// Removes blocks before `floor`. The parents of remaining blocks are kept, because one of them
    /// can be a decision block.
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
        // After a long silence there may be no block at or after the floor. The latest block is
        // then kept, because otherwise no new block could attach.
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
        for set in [&mut self.by_slot, &mut self.tips, &mut self.in_turn] {
            set.remove(&(slot, root));
        }
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
