//! Finds the blocks that a recording lacks: parents that recorded blocks name and that were not
//! recorded themselves.
//!
//! Without them a replay could not compute later committees, and votes that are encoded as bits
//! would wait in vain. Nothing is proven while recording, so the number of requests is bounded in
//! three ways: by the number of blocks that are remembered, by how far back a block may be, and by
//! slot.

use base::BoundedSet;
use chain::Chain;
use consensus::{Network, RegistryChange, Root, SignedBlock, Slot};
use verify::{MessageKind, RawMessage};

/// Blocks that are remembered because they were recorded or asked for. This is about a day of
/// mainnet.
const REMEMBERED: usize = 8192;
/// Blocks asked for in one slot of the wall clock. It limits the effect of forged blocks with
/// invented parents.
const ASKED_PER_SLOT: usize = 64;

/// Remembers which blocks a recording has, and finds the missing parents.
pub struct MissingParents {
    known: BoundedSet<Root>,
    /// Whether a recorded block has an operation that can change the registry.
    pub registry_changed: bool,
    /// Slot of the state. Blocks up to this slot are already part of it.
    state_slot: Slot,
    slot: Slot,
    asked: usize,
    /// Number of parents that were not asked for because the limit of the slot was reached.
    pub refused: u64,
}

impl MissingParents {
    /// Creates the value for a recording that begins with the state of `chain`.
    pub fn new(chain: &Chain) -> Self {
        let head = chain.head();
        let mut parents = Self {
            known: BoundedSet::new(REMEMBERED),
            registry_changed: false,
            state_slot: head.slot,
            slot: Slot::new(0),
            asked: 0,
            refused: 0,
        };
        parents.known.insert(head.root);
        parents
    }

    /// Notes that a message was recorded at the slot `now`. If it is a block with a missing parent,
    /// returns the parent's root, which a node should be asked for.
    pub fn recorded(&mut self, network: &Network, message: &RawMessage, now: Slot) -> Option<Root> {
        if message.kind != MessageKind::Block {
            return None;
        }
        // A block that cannot be decoded is recorded anyway. A replay then reports why.
        let block = SignedBlock::from_ssz(message.origin.fork?, network.preset(), &message.bytes).ok()?;
        self.known.insert(block.root);
        self.registry_changed |= block.registry_change == RegistryChange::Possible;
        let header = block.signed_header.message;
        // A block in the state's own slot or before it belongs to a branch that the state does not
        // know, so its parents are needed. If it is an epoch or more before the state, nothing that
        // is recorded can depend on it.
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
        self.known.insert(header.parent_root);
        Some(header.parent_root)
    }
}

/// Returns the chain of a small capture's state, and the capture's blocks in order of arrival.
#[cfg(test)]
pub(crate) fn small_capture() -> (Chain, Vec<RawMessage>) {
    use sources::capture::{CaptureFile, Entry};
    let file = CaptureFile::open(std::path::Path::new("../../tests/data/fulu_4.e2s")).unwrap();
    let spec = consensus::Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
    let state = file.first_state().unwrap().unwrap();
    let chain = Chain::from_state(spec, &state, &mut chain::PubkeyCache::in_memory(), &mut |_| ()).unwrap();
    let converter = sources::convert::MessageConverter::new(chain.network().clone());
    let blocks = file
        .entries()
        .unwrap()
        .filter_map(|entry| match entry.unwrap().entry {
            Entry::Gossip(entry) => converter.gossip(&entry).ok().filter(|raw| raw.kind == MessageKind::Block),
            _ => None,
        })
        .collect();
    (chain, blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_block_is_asked_for_once_and_by_name() {
        let (chain, blocks) = small_capture();
        let network = chain.network().clone();
        let root = |raw: &RawMessage| SignedBlock::from_ssz(raw.origin.fork.unwrap(), network.preset(), &raw.bytes).unwrap().root;
        assert!(blocks.len() > 4);
        let mut complete = MissingParents::new(&chain);
        assert!(blocks.iter().all(|block| complete.recorded(&network, block, Slot::new(1)).is_none()), "nothing is missing");
        let roots: Vec<Root> = blocks.iter().map(root).collect();
        let mut n_asked = 0;
        for (missing, left_out) in roots.iter().enumerate().take(blocks.len() - 1) {
            let mut parents = MissingParents::new(&chain);
            let rest = blocks.iter().enumerate().filter(|(nth, _)| *nth != missing);
            let asked: Vec<Root> = rest.filter_map(|(_, block)| parents.recorded(&network, block, Slot::new(1))).collect();
            n_asked += asked.len();
            assert!(asked.len() <= 1 && asked.iter().all(|one| one == left_out), "without block {missing}: {asked:?}");
        }
        // Blocks on which no other block builds are not asked for.
        assert!(n_asked * 2 > blocks.len(), "{n_asked} of {}", blocks.len());
    }
}
