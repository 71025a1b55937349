//! One branch of the simulated chain: its blocks, randao mixes and committees, which votes it has, and what they justify.
//!
//! A checkpoint is justified when two thirds of the validators voted for it within its epoch, as the specification has it from
//! epoch 2 on; the rule about four epochs and late votes is left out, it only matters to finality.

use crate::pool::Pool;
use consensus::{
    BeaconBlockHeader, Checkpoint, CommitteeIndex, DomainType, Epoch, Preset, Root, Shuffling, Slot, ValidatorIndex, compute_seed,
};
use std::sync::Arc;

/// Blocks older than that are asked for by nobody: two epochs of the greatest preset are 64.
const KEPT_BLOCKS: usize = 512;

#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) pool: Pool,
    /// Ascending; genesis first. Of earlier epochs only what is needed: [`KEPT_BLOCKS`].
    pub(crate) blocks: Vec<(Slot, Root)>,
    /// Of the newest block.
    pub(crate) head_header: BeaconBlockHeader,
    genesis_mix: Root,
    /// Randao mix by epoch, the last one still changing.
    mixes: Vec<Root>,
    /// Of the current epoch.
    shuffling: Arc<Shuffling>,
    /// What votes of each epoch name as their source; genesis's has no root.
    sources: Vec<Checkpoint>,
    /// Votes of the current epoch for its checkpoint.
    weight: usize,
}

impl Branch {
    pub(crate) fn new(genesis: BeaconBlockHeader, genesis_mix: Root, active: Arc<Vec<u32>>, preset: &Preset) -> Self {
        let seed = compute_seed(DomainType::BeaconAttester, Epoch::new(0), genesis_mix);
        let genesis_root = genesis.root();
        Self {
            head_header: genesis,
            pool: Pool::default(),
            blocks: vec![(Slot::new(0), genesis_root)],
            genesis_mix,
            mixes: vec![genesis_mix],
            shuffling: Arc::new(Shuffling::new(Epoch::new(0), genesis_root, seed, active, preset)),
            sources: vec![Checkpoint::default()],
            weight: 0,
        }
    }

    /// Carries the randao mix into a new epoch, seats its committees and counts the votes of the one before.
    pub(crate) fn enter(&mut self, epoch: Epoch, active: &Arc<Vec<u32>>, preset: &Preset) {
        while (self.mixes.len() as u64) <= epoch.as_u64() {
            self.mixes.push(self.mixes[self.mixes.len() - 1]);
        }
        if self.shuffling.epoch() == epoch {
            return;
        }
        while (self.sources.len() as u64) <= epoch.as_u64() {
            let ended = Epoch::new(self.sources.len() as u64 - 1);
            let is_justified = ended >= Epoch::new(2) && self.weight * 3 >= active.len() * 2;
            let source = if is_justified {
                Checkpoint { epoch: ended, root: self.boundary(self.blocks.len() - 1, ended, preset) }
            } else {
                self.sources[self.sources.len() - 1]
            };
            self.sources.push(source);
            self.weight = 0;
        }
        let seed = compute_seed(DomainType::BeaconAttester, epoch, self.seed_mix(epoch));
        // The last block before the epoch before: two epochs are always kept.
        let decided_by = epoch.saturating_sub(1).start_slot(preset);
        let decision = self.blocks.iter().rev().find(|(slot, _)| *slot < decided_by).unwrap_or(&self.blocks[0]).1;
        self.shuffling = Arc::new(Shuffling::new(epoch, decision, seed, active.clone(), preset));
    }

    /// Committees of an epoch to come, as they are if all slots till then stay empty.
    pub(crate) fn shuffling_ahead(&self, epoch: Epoch, active: Arc<Vec<u32>>, preset: &Preset) -> Shuffling {
        let seed = compute_seed(DomainType::BeaconAttester, epoch, self.mixes[self.mixes.len() - 1]);
        Shuffling::new(epoch, self.head(), seed, active, preset)
    }

    /// The mix that seeds an epoch: as it stood at the end of the epoch before the previous one; genesis's for the first two.
    pub(crate) fn seed_mix(&self, epoch: Epoch) -> Root {
        epoch.checked_sub(2).map_or(self.genesis_mix, |end| self.mixes[end.as_u64() as usize])
    }

    /// The mix after the last block of each epoch up to the current one.
    pub(crate) fn mixes(&self) -> &[Root] {
        &self.mixes
    }

    pub(crate) fn shuffling(&self) -> &Shuffling {
        &self.shuffling
    }

    /// Members of a committee of the current epoch.
    pub(crate) fn committee(&self, slot: Slot, committee: CommitteeIndex) -> Vec<ValidatorIndex> {
        members(&self.shuffling, slot, committee)
    }

    /// The newest block.
    pub(crate) fn head(&self) -> Root {
        self.blocks[self.blocks.len() - 1].1
    }

    /// Position of the block that was the head at the end of a slot.
    pub(crate) fn head_at(&self, slot: Slot) -> usize {
        self.blocks.iter().rposition(|(at, _)| *at <= slot).unwrap_or(0)
    }

    /// A block was made: it is the head, and its reveal goes into the mix.
    pub(crate) fn extend(&mut self, header: BeaconBlockHeader, randao_reveal: &[u8], preset: &Preset) {
        let slot = header.slot;
        self.head_header = header;
        self.blocks.push((slot, header.root()));
        if self.blocks.len() > KEPT_BLOCKS {
            self.blocks.remove(0);
        }
        let epoch = slot.epoch(preset).as_u64() as usize;
        let reveal = consensus::sha256(randao_reveal);
        for (byte, mask) in self.mixes[epoch].0.iter_mut().zip(reveal) {
            *byte ^= mask;
        }
    }

    /// One vote more for the current epoch's checkpoint.
    pub(crate) fn count(&mut self, target: Checkpoint, preset: &Preset) {
        let epoch = self.shuffling.epoch();
        if target == (Checkpoint { epoch, root: self.boundary(self.blocks.len() - 1, epoch, preset) }) {
            self.weight += 1;
        }
    }

    /// What votes cast in `epoch` name as their source.
    pub(crate) fn source(&self, epoch: Epoch) -> Checkpoint {
        let at = (epoch.as_u64() as usize).min(self.sources.len() - 1);
        self.sources[at]
    }

    /// `get_block_root(epoch)` as seen from a block: the last one at or before the epoch's first slot.
    pub(crate) fn boundary(&self, head_at: usize, epoch: Epoch, preset: &Preset) -> Root {
        let start = epoch.start_slot(preset);
        self.blocks[..=head_at].iter().rev().find(|(slot, _)| *slot <= start).unwrap_or(&self.blocks[0]).1
    }
}

pub(crate) fn members(shuffling: &Shuffling, slot: Slot, committee: CommitteeIndex) -> Vec<ValidatorIndex> {
    let members = shuffling.committee(slot, committee).unwrap_or_default();
    members.iter().map(|member| ValidatorIndex::new(u64::from(*member))).collect()
}
