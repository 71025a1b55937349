//! Where branches compete: what a neighbour on one of them can do with a block or a vote of the other.
//!
//! A client that hears of a block whose parent it lacks asks the peer that sent it, and holds an empty answer against that
//! peer. A listener has no blocks to give, so it must know when its peers may not share a branch:
//!
//! ```text
//!            ┌─ A2 ── A3      both sides grew by blocks of two proposers: split, the tree is at odds with itself
//! ── F ── X ─┤
//!            └─ B1 ── B3
//!
//! ── F ── X ── Y              one late or doubled block is everyday life: no split, but
//!         └─── Y'             Y and Y' by the same proposer for the same slot are twins: half the network lacks either
//! ```
//!
//! Proposers whose turn it was are counted, and not blocks or signers: anyone with a key can build a branch of any length, two keys together
//! one of two proposers, and nobody need follow it.

use crate::tree::Tree;
use consensus::{Root, Slot, ValidatorIndex};
use std::collections::{HashMap, HashSet};

/// Different proposers that each side must have grown by.
const SPLIT_PROPOSERS: usize = 2;
/// How far the sides are walked back to where they part; further back they count as parted.
const MAX_WALK: usize = 256;
/// Ends of branches looked at.
const MAX_TIPS: usize = 16;

impl Tree {
    /// Whether two branches that end in `since..=now` have both grown since they parted, by blocks in turn.
    pub(crate) fn is_split(&self, since: Slot, now: Slot) -> bool {
        let ends = self.backed_ends(since, now, MAX_TIPS);
        let Some((best, others)) = ends.split_first() else { return false };
        let mut above = Builders::default();
        let mut grown: HashMap<Root, usize> = HashMap::new();
        for root in self.walk(best.root) {
            grown.insert(root, above.n());
            above.add(self, &root);
        }
        others.iter().any(|end| {
            let mut other = Builders::default();
            for root in self.walk(end.root) {
                if let Some(best) = grown.get(&root) {
                    return other.n() >= SPLIT_PROPOSERS && *best >= SPLIT_PROPOSERS;
                }
                other.add(self, &root);
            }
            other.n() >= SPLIT_PROPOSERS
        })
    }

    /// Whether its proposer has another block for the same slot.
    pub(crate) fn has_twin(&self, root: &Root) -> bool {
        let (Some(slot), Some(proposer)) = (self.slot_of(root), self.proposer_of(root)) else { return false };
        self.at_slot(slot).any(|other| other != root && self.proposer_of(other) == Some(proposer))
    }

    fn walk(&self, tip: Root) -> impl Iterator<Item = Root> {
        std::iter::successors(Some(tip), |root| self.parent_of(root)).take(MAX_WALK)
    }
}

/// Who built a part of a branch in their turn.
#[derive(Default)]
struct Builders {
    proposers: HashSet<ValidatorIndex>,
    /// Blocks that came with a state: of whom is not known, but a node has followed them.
    from_state: usize,
}

impl Builders {
    fn add(&mut self, tree: &Tree, root: &Root) {
        match tree.proposer_of(root) {
            Some(proposer) if tree.is_in_turn(root) => drop(self.proposers.insert(proposer)),
            Some(_) => {}
            None => self.from_state += 1,
        }
    }

    fn n(&self) -> usize {
        self.proposers.len() + self.from_state
    }
}
