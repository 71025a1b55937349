//! Which blocks a recording still lacks: parents that recorded blocks name and that were not recorded themselves.
//!
//! Without them a replay could not carry committees on, and votes by bits would wait in vain. Nothing is proven while
//! recording, so what is asked for is bounded: by what is remembered, by how far back it may lie, and per slot.

use chain::Chain;
use consensus::{Network, Root, SignedBlock, Slot};
use std::collections::{HashSet, VecDeque};
use verify::{MessageKind, RawMessage};

/// Blocks remembered, recorded or asked for: a day of mainnet.
const REMEMBERED: usize = 8192;
/// Blocks asked for in one slot of the clock. Forged blocks with invented parents get no further.
const ASKED_PER_SLOT: usize = 64;

pub struct Lineage {
    known: HashSet<Root>,
    order: VecDeque<Root>,
    /// Blocks up to here are in the state.
    state_slot: Slot,
    slot: Slot,
    asked: usize,
    /// Parents not asked for, because too many were.
    pub refused: u64,
}

impl Lineage {
    /// For a recording that begins with the state of `chain`.
    pub fn new(chain: &Chain) -> Self {
        let head = chain.head();
        let mut lineage = Self {
            known: HashSet::new(),
            order: VecDeque::new(),
            state_slot: head.slot,
            slot: Slot::new(0),
            asked: 0,
            refused: 0,
        };
        lineage.remember(head.root);
        lineage
    }

    /// A message was recorded at `now`. The parent to ask a node for, if it is a block whose parent is missing.
    pub fn recorded(&mut self, network: &Network, message: &RawMessage, now: Slot) -> Option<Root> {
        if message.kind != MessageKind::Block {
            return None;
        }
        // What cannot be read is recorded all the same, and a replay says why.
        let block = SignedBlock::from_ssz(message.origin.fork?, network.preset(), &message.bytes).ok()?;
        self.remember(block.root);
        let header = block.signed_header.message;
        // On or before the state's own slot lies another branch's past, which the state does not know; its blocks are wanted.
        // Further back than an epoch before it, nothing recorded can depend on them.
        if header.slot.saturating_add(network.preset().slots_per_epoch) <= self.state_slot
            || self.known.contains(&header.parent_root)
        {
            return None;
        }
        if now != self.slot {
            self.slot = now;
            self.asked = 0;
        }
        if self.asked >= ASKED_PER_SLOT {
            self.refused += 1;
            return None;
        }
        self.asked += 1;
        self.remember(header.parent_root);
        Some(header.parent_root)
    }

    fn remember(&mut self, root: Root) {
        if self.known.insert(root) {
            self.order.push_back(root);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sources::capture::{CaptureFile, Entry};
    use sources::intake::Intake;
    use std::path::Path;
    use std::sync::Arc;

    /// The chain of the small capture's state, and its blocks in order of arrival.
    fn recorded() -> (Chain, Vec<RawMessage>) {
        let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
        let spec = consensus::Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
        let state = file.first_state().unwrap().unwrap();
        let chain = Chain::from_state(spec, &state, &mut chain::PubkeyCache::in_memory(), &mut |_| ()).unwrap();
        let intake = Intake::new(Arc::clone(chain.network()));
        let blocks = file
            .entries()
            .unwrap()
            .filter_map(|entry| match entry.unwrap().entry {
                Entry::Gossip(entry) => intake.gossip(&entry).ok().filter(|raw| raw.kind == MessageKind::Block),
                _ => None,
            })
            .collect();
        (chain, blocks)
    }

    #[test]
    fn a_missing_block_is_asked_for_once_and_by_name() {
        let (chain, blocks) = recorded();
        let network = chain.network().clone();
        let root = |raw: &RawMessage| SignedBlock::from_ssz(raw.origin.fork.unwrap(), network.preset(), &raw.bytes).unwrap().root;
        assert!(blocks.len() > 4);
        let mut complete = Lineage::new(&chain);
        assert!(blocks.iter().all(|block| complete.recorded(&network, block, Slot::new(1)).is_none()), "nothing is missing");
        let roots: Vec<Root> = blocks.iter().map(root).collect();
        let mut n_asked = 0;
        for (missing, left_out) in roots.iter().enumerate().take(blocks.len() - 1) {
            let mut lineage = Lineage::new(&chain);
            let rest = blocks.iter().enumerate().filter(|(nth, _)| *nth != missing);
            let asked: Vec<Root> = rest.filter_map(|(_, block)| lineage.recorded(&network, block, Slot::new(1))).collect();
            n_asked += asked.len();
            assert!(asked.len() <= 1 && asked.iter().all(|one| one == left_out), "without block {missing}: {asked:?}");
        }
        // All but those that nobody built on.
        assert!(n_asked * 2 > blocks.len(), "{n_asked} of {}", blocks.len());
    }
}
