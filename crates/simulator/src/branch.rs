//! One branch of the simulated chain: its blocks, randao mixes, committees and votes, and the
//! checkpoints that these justify.
//!
//! A checkpoint is justified when two thirds of the validators have voted for it within its epoch,
//! from epoch 2 on, as in the specification. The rules about late votes and about the last four
//! epochs are left out, because they matter only for finality.

use crate::pool::Pool;
use consensus::{
    BeaconBlockHeader, Checkpoint, CommitteeIndex, DomainType, Epoch, Preset, Root, Shuffling, Slot, ValidatorIndex, compute_seed,
};
use std::sync::Arc;

/// Number of blocks that are kept. Nothing reads blocks older than two epochs, which are at most 64
/// blocks.
const KEPT_BLOCKS: usize = 512;

/// One branch of the simulated chain, with its votes.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) pool: Pool,
    /// In ascending order, with genesis first. Only the last [`KEPT_BLOCKS`] are kept.
    pub(crate) blocks: Vec<(Slot, Root)>,
    /// The header of the newest block.
    pub(crate) head_header: BeaconBlockHeader,
    genesis_mix: Root,
    /// The randao mix of each epoch. The last one still changes.
    mixes: Vec<Root>,
    /// The committees of the current epoch.
    shuffling: Arc<Shuffling>,
    /// The source of the votes of each epoch. The genesis checkpoint has no root.
    sources: Vec<Checkpoint>,
    /// Votes in the current epoch for its checkpoint.
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

    /// Enters a new epoch: continues the randao mix, computes the committees, and counts the votes
    /// of the previous epoch.
    pub(crate) fn record(&mut self, epoch: Epoch, active: &Arc<Vec<u32>>, preset: &Preset) {
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
        // The last block before the previous epoch. Two epochs of blocks are always kept.
        let decided_by = epoch.saturating_sub(1).start_slot(preset);
        let decision = self.blocks.iter().rev().find(|(slot, _)| *slot < decided_by).unwrap_or(&self.blocks[0]).1;
        self.shuffling = Arc::new(Shuffling::new(epoch, decision, seed, active.clone(), preset));
    }

    /// The committees of a later epoch, as they are if all slots until then stay empty.
    pub(crate) fn shuffling_ahead(&self, epoch: Epoch, active: Arc<Vec<u32>>, preset: &Preset) -> Shuffling {
        let seed = compute_seed(DomainType::BeaconAttester, epoch, self.mixes[self.mixes.len() - 1]);
        Shuffling::new(epoch, self.head(), seed, active, preset)
    }

    /// The mix that is the seed of an epoch: its value at the end of the epoch before the previous
    /// one, or at genesis for the first two epochs.
    pub(crate) fn seed_mix(&self, epoch: Epoch) -> Root {
        epoch.checked_sub(2).map_or(self.genesis_mix, |end| self.mixes[end.as_u64() as usize])
    }

    /// The mix after the last block of each epoch, up to the current one.
    pub(crate) fn mixes(&self) -> &[Root] {
        &self.mixes
    }

    pub(crate) fn shuffling(&self) -> &Shuffling {
        &self.shuffling
    }

    /// The members of a committee of the current epoch.
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

    /// Adds a block: it becomes the head, and its reveal is mixed into the randao mix.
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

    /// Counts one more vote, if it is for the current epoch's checkpoint.
    pub(crate) fn count(&mut self, target: Checkpoint, preset: &Preset) {
        let epoch = self.shuffling.epoch();
        if target == (Checkpoint { epoch, root: self.boundary(self.blocks.len() - 1, epoch, preset) }) {
            self.weight += 1;
        }
    }

    /// The source of votes that are cast in `epoch`.
    pub(crate) fn source(&self, epoch: Epoch) -> Checkpoint {
        let at = (epoch.as_u64() as usize).min(self.sources.len() - 1);
        self.sources[at]
    }

    /// `get_block_root(epoch)` as seen from a block: the last block at or before the epoch's first
    /// slot.
    pub(crate) fn boundary(&self, head_at: usize, epoch: Epoch, preset: &Preset) -> Root {
        let start = epoch.start_slot(preset);
        self.blocks[..=head_at].iter().rev().find(|(slot, _)| *slot <= start).unwrap_or(&self.blocks[0]).1
    }
}

pub(crate) fn members(shuffling: &Shuffling, slot: Slot, committee: CommitteeIndex) -> Vec<ValidatorIndex> {
    let members = shuffling.committee(slot, committee).unwrap_or_default();
    members.iter().map(|member| ValidatorIndex::new(u64::from(*member))).collect()
}
