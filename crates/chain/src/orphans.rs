//! Blocks that wait for their parents. Bounded, and per proposer too: anyone with one key can sign blocks on top of nothing.

use crate::chain::BlockFacts;
use consensus::{Root, Slot};
use std::collections::{HashMap, VecDeque};

/// Blocks without a known parent kept at most.
pub(crate) const MAX_ORPHANS: usize = 1_024;
/// Orphans of one proposer kept at most.
const MAX_ORPHANS_PER_PROPOSER: usize = 32;
/// Missing parents named at most.
const MAX_MISSING: usize = 64;

/// Blocks that wait for their parents, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    blocks: HashMap<Root, BlockFacts>,
    by_parent: HashMap<Root, Vec<Root>>,
    order: VecDeque<Root>,
    pub(crate) dropped: u64,
}

impl Orphans {
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn contains(&self, root: &Root) -> bool {
        self.blocks.contains_key(root)
    }

    pub(crate) fn push(&mut self, block: &BlockFacts) -> bool {
        let of_proposer = self.blocks.values().filter(|other| other.proposer_index == block.proposer_index).count();
        if of_proposer >= MAX_ORPHANS_PER_PROPOSER {
            self.dropped += 1;
            return false;
        }
        while self.blocks.len() >= MAX_ORPHANS {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.take(&oldest).is_some() {
                self.dropped += 1;
            }
        }
        self.blocks.insert(block.root, block.clone());
        self.by_parent.entry(block.parent_root).or_default().push(block.root);
        self.order.push_back(block.root);
        if self.order.len() > 2 * MAX_ORPHANS {
            self.order.retain(|root| self.blocks.contains_key(root));
        }
        true
    }

    pub(crate) fn take(&mut self, root: &Root) -> Option<BlockFacts> {
        let block = self.blocks.remove(root)?;
        if let Some(siblings) = self.by_parent.get_mut(&block.parent_root) {
            siblings.retain(|sibling| sibling != root);
            if siblings.is_empty() {
                self.by_parent.remove(&block.parent_root);
            }
        }
        Some(block)
    }

    pub(crate) fn take_children(&mut self, parent: &Root) -> Vec<BlockFacts> {
        let roots = self.by_parent.remove(parent).unwrap_or_default();
        roots.iter().filter_map(|root| self.blocks.remove(root)).collect()
    }

    pub(crate) fn missing(&self) -> Vec<Root> {
        let mut missing: Vec<(Slot, Root)> = self
            .by_parent
            .iter()
            .filter(|(parent, _)| !self.blocks.contains_key(*parent))
            .filter_map(|(parent, waiting)| {
                let latest = waiting.iter().filter_map(|root| self.blocks.get(root)).map(|block| block.slot).max()?;
                Some((latest, *parent))
            })
            .collect();
        missing.sort_by(|a, b| b.cmp(a));
        missing.truncate(MAX_MISSING);
        missing.into_iter().map(|(_, root)| root).collect()
    }

    pub(crate) fn drop_before(&mut self, floor: Slot) {
        let old: Vec<Root> = self.blocks.values().filter(|block| block.slot < floor).map(|block| block.root).collect();
        for root in old {
            self.take(&root);
            self.dropped += 1;
        }
    }
}
