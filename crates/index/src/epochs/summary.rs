//! Tells in which epochs a validator voted at all. It has bits over blocks of 8, 64, 512, ...
//! epochs. So the neighbours of a late vote are found across any gap in a few dozen steps, instead
//! of one step per epoch without a vote.
//!
//! Level k has one bit for each validator and block of 8^k epochs. Worked example: a validator
//! voted in epochs 3 and 50 000, and the walk starts at epoch 20 and goes up. The block of level 1
//! (16..24) is empty and that of level 2 (0..64) is not, because of epoch 3. So the walk steps to
//! 24, and on in steps of 8 to 64. There level 2 is empty and level 3 (0..512) is not, so it goes
//! on in steps of 64 to 512. It continues in steps of 512 to 4 096, then in steps of 4 096 to 49
//! 152, whose block of level 4 contains 50 000. From there the steps become smaller again, down to
//! 8.
//!
//! A set bit without a vote can exist after pruning. It costs one look-up. A missing bit would hide
//! a vote. So the bits of epochs that opening does not read again are written in the commit that
//! stores the vote.

use crate::IndexError;
use crate::newest_votes::NO_EPOCH;
use crate::storage::{ByteReader, Cf, Db, WriteBuffer, put_stretch, read_stretch, stretch_has, summary_key};
use consensus::{Epoch, ValidatorIndex};
use std::collections::HashMap;

/// A block of level k has 8^k = 2^(3k) epochs.
const RADIX_BITS: u32 = 3;
/// The largest blocks have 8^10 epochs. Four of them contain all 32-bit epochs.
pub(crate) const LEVELS: u8 = 10;
const CHUNK: u32 = 4096;
const WORDS: usize = CHUNK as usize / 64;
/// The largest number of blocks in memory, at 125 KB per million validators each.
const MAX_CACHED_BLOCKS: usize = 48;

#[derive(Clone)]
struct Chunk {
    bits: [u64; WORDS],
    changed: bool,
    /// True if it was changed by a vote that opening does not read again.
    late: bool,
}

#[derive(Default)]
struct Block {
    /// The chunks by number. `None` if a chunk is not read yet.
    chunks: Vec<Option<Box<Chunk>>>,
    touched: u64,
}

/// The bits of all levels. Some blocks are in memory.
#[derive(Default)]
pub(crate) struct VoterSummary {
    blocks: HashMap<(u8, u32), Block>,
    clock: u64,
    /// The marks that are not settled yet: for which epoch, and whether opening does not read that
    /// epoch again.
    pending_for: Option<(Epoch, bool)>,
    /// The marks by number of the chunk. They are emptied when settled, and kept so that their
    /// memory is used again.
    pending: Vec<Option<Box<SummaryGroup>>>,
    /// The numbers of the chunks with marks.
    named: Vec<u32>,
}

/// The validators of one chunk that were marked.
struct SummaryGroup {
    bits: [u64; WORDS],
    is_named: bool,
}

impl Default for SummaryGroup {
    fn default() -> Self {
        Self { bits: [0; WORDS], is_named: false }
    }
}

impl VoterSummary {
    /// Notes that `validators` voted in `epoch`. The other methods use it only after
    /// [`Self::add_marked`]. The marks are collected until then, so that thousands of validators
    /// are added at once, 64 in each step, at the cost of one by one.
    pub fn mark(&mut self, db: &Db, epoch: Epoch, validators: &[ValidatorIndex], late: bool) -> Result<(), IndexError> {
        if self.pending_for != Some((epoch, late)) {
            self.add_marked(db)?;
            self.pending_for = Some((epoch, late));
        }
        for validator in validators {
            let index = validator.as_u64() as u32;
            let at = (index / CHUNK) as usize;
            if at >= self.pending.len() {
                self.pending.resize_with(at + 1, || None);
            }
            let group = self.pending[at].get_or_insert_with(Box::default);
            if !std::mem::replace(&mut group.is_named, true) {
                self.named.push(index / CHUNK);
            }
            group.bits[(index % CHUNK / 64) as usize] |= 1u64 << (index % 64);
        }
        Ok(())
    }

    /// Adds everything that was marked.
    pub fn add_marked(&mut self, db: &Db) -> Result<(), IndexError> {
        let Some((epoch, late)) = self.pending_for.take() else { return Ok(()) };
        self.clock += 1;
        for number in std::mem::take(&mut self.named) {
            let Some(group) = self.pending.get_mut(number as usize).and_then(Option::as_mut) else { continue };
            // If the next commit writes a chunk of one level, it must also write the chunks of all
            // larger blocks. After opening, a validator that is in a small block is assumed to be
            // in the larger ones too.
            let mut is_written = late;
            for level in 1..=LEVELS {
                let block_number = block_of(level, epoch);
                let block = self.blocks.entry((level, block_number)).or_default();
                block.touched = self.clock;
                let chunk = block.chunk(db, level, block_number, number)?;
                let mut newly = [0; WORDS];
                for ((new, known), marked) in newly.iter_mut().zip(&mut chunk.bits).zip(&group.bits) {
                    *new = marked & !*known;
                    *known |= marked;
                }
                let any_new = newly.iter().any(|word| *word != 0);
                chunk.changed |= any_new;
                // A bit that was set by a vote of the tail is not on disk yet, but a late vote
                // relies on it.
                is_written |= chunk.late;
                chunk.late = is_written && chunk.changed;
                if late && chunk.changed {
                    continue;
                }
                // A validator that is in this block is in all larger blocks too.
                group.bits = newly;
                if !any_new && !is_written {
                    break;
                }
            }
            **group = SummaryGroup::default();
        }
        Ok(())
    }

    /// The next epoch at or after `from` in whose smallest block the validator voted, and the end
    /// of that block.
    pub fn block_from(&self, db: &Db, validator: ValidatorIndex, from: Epoch) -> Result<Option<(Epoch, Epoch)>, IndexError> {
        let end = NO_EPOCH.as_u64();
        let mut at = from.as_u64();
        while at < end {
            match self.empty_level(db, validator, Epoch::new(at))? {
                None => return Ok(Some((Epoch::new(at), Epoch::new(((at | 7) + 1).min(end))))),
                Some(level) => at = ((at >> (RADIX_BITS * u32::from(level))) + 1) << (RADIX_BITS * u32::from(level)),
            }
        }
        Ok(None)
    }

    /// The last epoch before `below` in whose smallest block the validator voted, and the start of
    /// that block.
    pub fn block_below(&self, db: &Db, validator: ValidatorIndex, below: Epoch) -> Result<Option<(Epoch, Epoch)>, IndexError> {
        let mut below = below.as_u64();
        while let Some(at) = below.checked_sub(1) {
            match self.empty_level(db, validator, Epoch::new(at))? {
                None => return Ok(Some((Epoch::new(at), Epoch::new(at & !7)))),
                Some(level) => below = at >> (RADIX_BITS * u32::from(level)) << (RADIX_BITS * u32::from(level)),
            }
        }
        Ok(None)
    }

    /// The greatest level at which the validator has no vote in the block of `epoch`. `None` if it
    /// voted in the smallest block.
    fn empty_level(&self, db: &Db, validator: ValidatorIndex, epoch: Epoch) -> Result<Option<u8>, IndexError> {
        let mut empty = None;
        for level in 1..=LEVELS {
            if self.voted(db, level, block_of(level, epoch), validator)? {
                break;
            }
            empty = Some(level);
        }
        Ok(empty)
    }

    fn voted(&self, db: &Db, level: u8, block: u32, validator: ValidatorIndex) -> Result<bool, IndexError> {
        let index = validator.as_u64() as u32;
        let (at, within) = (index / CHUNK, index % CHUNK);
        let held = self.blocks.get(&(level, block)).and_then(|block| block.chunks.get(at as usize)?.as_ref());
        if let Some(chunk) = held {
            return Ok(chunk.bits[(within / 64) as usize] >> (within % 64) & 1 == 1);
        }
        let Some(value) = db.get(Cf::VoterSummary, &summary_key(level, u64::from(block), at))? else { return Ok(false) };
        stretch_has(&mut ByteReader(&value), CHUNK, within).ok_or_else(|| unreadable(db))
    }

    /// Writes the chunks that were changed by late votes. At a checkpoint, writes all chunks that
    /// changed.
    pub fn stage(&self, batch: &mut WriteBuffer<'_>, checkpoint: bool) {
        for ((level, number), block) in &self.blocks {
            for (at, chunk) in block.chunks.iter().enumerate() {
                let Some(chunk) = chunk.as_ref().filter(|chunk| chunk.late || (checkpoint && chunk.changed)) else { continue };
                let mut value = Vec::new();
                put_stretch(&mut value, CHUNK, &chunk.bits);
                batch.put(Cf::VoterSummary, &summary_key(*level, u64::from(*number), at as u32), &value);
            }
        }
    }

    /// Called after the chunks of [`Self::stage`] were written.
    pub fn committed(&mut self, checkpoint: bool) {
        for chunk in self.blocks.values_mut().flat_map(|block| block.chunks.iter_mut().flatten()) {
            if chunk.late || checkpoint {
                (chunk.changed, chunk.late) = (false, false);
            }
        }
        if self.blocks.len() > MAX_CACHED_BLOCKS {
            let mut ages: Vec<u64> = self.blocks.values().map(|block| block.touched).collect();
            ages.sort_unstable();
            let keep_from = ages[ages.len() - MAX_CACHED_BLOCKS / 2];
            self.blocks.retain(|_, block| block.touched >= keep_from || block.chunks.iter().flatten().any(|chunk| chunk.changed));
        }
    }

    /// Deletes the blocks that lie completely before `before`.
    pub fn stage_prune(&mut self, batch: &mut WriteBuffer<'_>, before: Epoch) {
        for level in 1..=LEVELS {
            let end = block_of(level, before);
            batch.delete_range(Cf::VoterSummary, &summary_key(level, 0, 0), &summary_key(level, u64::from(end), 0));
        }
        self.blocks.retain(|(level, block), _| *block >= block_of(*level, before));
    }
}

impl Block {
    /// A chunk of this block. It is read from disk on first use.
    fn chunk(&mut self, db: &Db, level: u8, block: u32, number: u32) -> Result<&mut Chunk, IndexError> {
        let at = number as usize;
        if at >= self.chunks.len() {
            self.chunks.resize_with(at + 1, || None);
        }
        if self.chunks[at].is_none() {
            let mut chunk = Chunk { bits: [0; WORDS], changed: false, late: false };
            if let Some(value) = db.get(Cf::VoterSummary, &summary_key(level, u64::from(block), number))? {
                let read = read_stretch(&mut ByteReader(&value), CHUNK, |bit| chunk.bits[(bit / 64) as usize] |= 1 << (bit % 64));
                read.ok_or_else(|| unreadable(db))?;
            }
            self.chunks[at] = Some(Box::new(chunk));
        }
        Ok(self.chunks[at].as_mut().expect("read above"))
    }
}

/// Whether two epochs are in the same smallest block. A validator that voted in one of them needs
/// no further bit for the other.
#[inline]
pub(crate) fn same_block(one: Epoch, other: Epoch) -> bool {
    one.as_u64() >> RADIX_BITS == other.as_u64() >> RADIX_BITS
}

/// The block of a level that an epoch is in. Only epochs below [`NO_EPOCH`] are summarized.
fn block_of(level: u8, epoch: Epoch) -> u32 {
    (epoch.as_u64() >> (RADIX_BITS * u32::from(level))) as u32
}

fn unreadable(db: &Db) -> IndexError {
    db.corrupt("a row of the summary does not parse")
}
