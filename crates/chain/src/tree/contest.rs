//! Detects competing branches. A peer on one of them may not have a block that a message from the
//! other branch refers to.
//!
//! A client that receives a block or a vote whose parent block it lacks asks the peer that sent it,
//! and blames that peer if the answer is empty. We only listen and have no blocks to serve. So we
//! must know when our peers may not share a branch:
//!
//! ```text
//!            ┌─ A2 ── A3      both sides have blocks of two proposers: the tree is split
//! ── F ── X ─┤
//!            └─ B1 ── B3
//!
//! ── F ── X ── Y              a single late or second block is normal: the tree is not split, but
//!         └─── Y'             Y and Y' have the same proposer and slot (twins): half of the
//!                             network lacks either of them
//! ```
//!
//! What is counted is the number of different proposers with a block in turn
//! ([`super::ProposerCheck`]). Blocks or signers are not counted: the owner of
//! one key can build a branch of any length, the owner of two keys a branch of two proposers, and
//! no node has to follow it.

use super::Tree;
use consensus::{Root, Slot, ValidatorIndex};
use std::collections::{HashMap, HashSet};

/// Number of different proposers by which each side of a split must have grown.
const SPLIT_PROPOSERS: usize = 2;
/// Maximum number of blocks that each side is followed back to the common ancestor. If none is
/// found by then, the sides count as separate.
const MAX_WALK: usize = 256;
/// Maximum number of branch ends that are compared.
const MAX_TIPS: usize = 16;

impl Tree {
    /// Returns whether two branches that end in `since..=now` have both grown by blocks in turn
    /// since their common ancestor.
    pub(crate) fn is_split(&self, since: Slot, now: Slot) -> bool {
        let ends = self.backed_ends(since, now, MAX_TIPS);
        let Some((best, others)) = ends.split_first() else { return false };
        let mut above = BranchProposers::default();
        let mut grown: HashMap<Root, usize> = HashMap::new();
        for root in self.walk(best.root) {
            grown.insert(root, above.n());
            above.add(self, &root);
        }
        others.iter().any(|end| {
            let mut other = BranchProposers::default();
            for root in self.walk(end.root) {
                if let Some(best) = grown.get(&root) {
                    return other.n() >= SPLIT_PROPOSERS && *best >= SPLIT_PROPOSERS;
                }
                other.add(self, &root);
            }
            other.n() >= SPLIT_PROPOSERS
        })
    }

    /// Returns whether the proposer of this block has another block for the same slot.
    pub(crate) fn has_twin(&self, root: &Root) -> bool {
        let (Some(slot), Some(proposer)) = (self.slot_of(root), self.proposer_of(root)) else { return false };
        self.at_slot(slot).any(|other| other != root && self.proposer_of(other) == Some(proposer))
    }

    fn walk(&self, tip: Root) -> impl Iterator<Item = Root> {
        std::iter::successors(Some(tip), |root| self.parent_of(root)).take(MAX_WALK)
    }
}

/// Counts the proposers that built a part of a branch in turn.
#[derive(Default)]
struct BranchProposers {
    proposers: HashSet<ValidatorIndex>,
    /// Number of blocks that came with a state. Their proposers are not known, but a node has
    /// followed these blocks.
    from_state: usize,
}

impl BranchProposers {
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
