//! Blocks that wait for their parents ("orphans"). Their number is bounded, also for each proposer,
//! because the owner of one key can sign blocks with invented parents.
//!
//! The missing parents are requested from nodes, so whoever signs such blocks influences the
//! requests. Parents are therefore requested in an order. First come those of blocks whose proposer
//! has the slot on the chain's own branch, then those of blocks of other active validators, then
//! the rest ([`OrphanClaim`]). Within each group the blocks nearest to now come first, and each
//! proposer has a limited share. A parent that several nodes do not have is given up.

use crate::chain::BlockFacts;
use consensus::{Root, Slot, ValidatorIndex};
use std::collections::{HashMap, HashSet, VecDeque};

/// Maximum number of blocks without a known parent.
pub(crate) const MAX_ORPHANS: usize = 1_024;
/// Maximum number of orphans of one proposer.
const MAX_ORPHANS_PER_PROPOSER: usize = 32;
/// Maximum number of missing parents that are listed.
const MAX_MISSING: usize = 64;
/// Maximum number of missing parents that are listed for the blocks of one proposer.
const MAX_MISSING_PER_PROPOSER: usize = 4;

/// How likely it is that an orphan belongs to the chain. The order matters: the likeliest is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OrphanClaim {
    /// Its proposer has the slot on the chain's own branch.
    InTurn,
    /// Its proposer is active, so it may have the slot on another branch.
    Active,
    /// Its proposer is not active by our registry, so it has the slot on no branch.
    Inactive,
}

/// The waiting blocks, in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    blocks: HashMap<Root, (BlockFacts, OrphanClaim)>,
    by_parent: HashMap<Root, Vec<Root>>,
    order: VecDeque<Root>,
    /// Parents that no node has. There are at most as many as parents that are waited for.
    given_up: HashSet<Root>,
    pub(crate) dropped: u64,
}

impl Orphans {
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn contains(&self, root: &Root) -> bool {
        self.blocks.contains_key(root)
    }

    /// Adds an orphan, or returns the reason why not. If the pool is full, the oldest of the least
    /// likely orphans is dropped for it. The new block is refused if it is less likely than all
    /// others, or if its proposer has [`MAX_ORPHANS_PER_PROPOSER`] orphans already.
    pub(crate) fn push(&mut self, block: &BlockFacts, claim: OrphanClaim) -> Result<(), &'static str> {
        let of_proposer = self.blocks.values().filter(|(other, _)| other.proposer_index == block.proposer_index).count();
        if of_proposer >= MAX_ORPHANS_PER_PROPOSER {
            self.dropped += 1;
            return Err("its parent is not known, and 32 blocks of its proposer wait for their parents already");
        }
        while self.blocks.len() >= MAX_ORPHANS {
            let held = self.order.iter().enumerate().filter_map(|(nth, root)| Some((self.blocks.get(root)?.1, nth, *root)));
            let Some((worst, _, root)) = held.min_by_key(|(claim, nth, _)| (std::cmp::Reverse(*claim), *nth)) else { break };
            self.dropped += 1;
            if worst < claim {
                return Err(
                    "its parent is not known, and all places are taken by blocks that are likelier to belong to the chain",
                );
            }
            self.take(&root);
        }
        self.blocks.insert(block.root, (block.clone(), claim));
        self.by_parent.entry(block.parent_root).or_default().push(block.root);
        self.order.push_back(block.root);
        if self.order.len() > 2 * MAX_ORPHANS {
            self.order.retain(|root| self.blocks.contains_key(root));
        }
        Ok(())
    }

    pub(crate) fn take(&mut self, root: &Root) -> Option<BlockFacts> {
        let (block, _) = self.blocks.remove(root)?;
        if let Some(siblings) = self.by_parent.get_mut(&block.parent_root) {
            siblings.retain(|sibling| sibling != root);
            if siblings.is_empty() {
                self.by_parent.remove(&block.parent_root);
                self.given_up.remove(&block.parent_root);
            }
        }
        Some(block)
    }

    pub(crate) fn take_children(&mut self, parent: &Root) -> Vec<BlockFacts> {
        let roots = self.by_parent.remove(parent).unwrap_or_default();
        self.given_up.remove(parent);
        roots.iter().filter_map(|root| self.blocks.remove(root)).map(|(block, _)| block).collect()
    }

    /// Lists missing parents, at most [`MAX_MISSING`], and at most [`MAX_MISSING_PER_PROPOSER`] for
    /// the blocks of one proposer. Parents that are orphans themselves are left out. Parents of the
    /// likeliest blocks come first, then those whose child is nearest to `now`.
    pub(crate) fn missing(&self, now: Slot) -> Vec<Root> {
        let open = |parent: &Root| !self.blocks.contains_key(parent) && !self.given_up.contains(parent);
        let mut missing: Vec<(OrphanClaim, u64, Root, ValidatorIndex)> = self
            .by_parent
            .iter()
            .filter(|(parent, _)| open(parent))
            .filter_map(|(parent, waiting)| {
                let children = waiting.iter().filter_map(|root| self.blocks.get(root));
                let best = children
                    .map(|(block, claim)| (*claim, block.slot.as_u64().abs_diff(now.as_u64()), *parent, block.proposer_index));
                best.min()
            })
            .collect();
        missing.sort_unstable();
        let mut of_proposer: HashMap<ValidatorIndex, usize> = HashMap::new();
        missing.retain(|(.., proposer)| {
            let n = of_proposer.entry(*proposer).or_default();
            *n += 1;
            *n <= MAX_MISSING_PER_PROPOSER
        });
        missing.truncate(MAX_MISSING);
        missing.into_iter().map(|(_, _, root, _)| root).collect()
    }

    /// Stops listing this parent as missing.
    pub(crate) fn give_up(&mut self, parent: &Root) {
        if self.by_parent.contains_key(parent) {
            self.given_up.insert(*parent);
        }
    }

    /// Drops orphans before `floor`.
    pub(crate) fn drop_before(&mut self, floor: Slot) {
        let old: Vec<Root> = self.blocks.values().filter(|(block, _)| block.slot < floor).map(|(block, _)| block.root).collect();
        for root in old {
            self.take(&root);
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{SignatureBytes, sha256};

    fn block(nth: u64, proposer: u64) -> BlockFacts {
        let root = Root::from(sha256(&nth.to_le_bytes()));
        let parent_root = Root::from(sha256(root.as_slice()));
        let proposer_index = ValidatorIndex::new(proposer);
        BlockFacts { root, slot: Slot::new(nth), parent_root, proposer_index, randao_reveal: SignatureBytes::ZERO }
    }

    /// A block is refused because of its proposer or because of all others, and the text says
    /// which.
    #[test]
    fn the_reason_of_a_refusal_is_the_true_one() {
        let mut orphans = Orphans::default();
        for nth in 0..MAX_ORPHANS as u64 {
            orphans.push(&block(nth, nth / MAX_ORPHANS_PER_PROPOSER as u64), OrphanClaim::Active).unwrap();
        }
        let of_many = orphans.push(&block(9_000, 0), OrphanClaim::InTurn).unwrap_err();
        assert!(of_many.contains(&format!("{MAX_ORPHANS_PER_PROPOSER} blocks of its proposer")), "{of_many}");
        let first_of_its_proposer = orphans.push(&block(9_001, 777), OrphanClaim::Inactive).unwrap_err();
        assert!(!first_of_its_proposer.contains("proposer"), "it has no other block: {first_of_its_proposer}");
        assert_eq!(orphans.push(&block(9_002, 778), OrphanClaim::InTurn), Ok(()));
        assert_eq!((orphans.len(), orphans.dropped), (MAX_ORPHANS, 3));
    }
}
