//! Fills a data directory with the past: the blocks of a range of epochs, from the operator's
//! beacon nodes, oldest first. Each block is judged like live traffic, and so are the aggregates
//! and slashing operations in it. Messages that no block includes cannot be had any more.
//!
//! Committees of past epochs come from the node's finalized state, which has the RANDAO mixes of
//! `EPOCHS_PER_HISTORICAL_VECTOR` epochs. What is done is kept in the data directory, so that a
//! backfill that was stopped goes on where it was.
//!
//! ERA files have the same content; `slashwatch replay` reads them.

use crate::replay::{ReplaySummary, note_processed, open_engine};
use chain::node::{BlockId, NodeSet};
use consensus::{Epoch, Network, Slot};
use engine::Engine;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use verify::{Outcome, RawMessage, Time};
use watcher::bootstrap::{self, Endpoints};
use watcher::config::Config;
use watcher::datadir::{DataDir, DataDirError};
use watcher::{WatcherError, run};

/// Slots that are fetched, judged and noted as done together.
const TOGETHER: u64 = 64;
/// Blocks that are requested of a node at the same time.
const REQUESTS: usize = 8;
/// The file in the data directory with the slots that are done.
const DONE: &str = "backfill.json";

/// The epochs to fill.
#[derive(Clone, Copy, Debug)]
pub struct BackfillRange {
    /// The first epoch. By default the last [`BackfillRange::DEFAULT_EPOCHS`] epochs are filled.
    pub from: Option<Epoch>,
    /// The last epoch, or the finalized one if that is earlier.
    pub to: Option<Epoch>,
}

impl BackfillRange {
    pub const DEFAULT_EPOCHS: u64 = 256;
}

/// Progress of a backfill.
#[derive(Clone, Copy, Debug)]
pub struct BackfillProgress {
    /// Slots done, of those that were missing at the start.
    pub done: u64,
    pub total: u64,
    pub blocks: u64,
}

/// Result of a backfill.
#[derive(Clone, Debug, Default)]
pub struct BackfillSummary {
    /// The slots of the range, those of them that were done before, and those done now.
    pub slots: u64,
    pub done_before: u64,
    pub done: u64,
    pub blocks: u64,
    /// Slots of pieces without any block. They are not done: a node that was started from a
    /// checkpoint lacks the blocks before it.
    pub without_blocks: u64,
    pub judged: ReplaySummary,
}

/// Slots that are done, as ranges without their end. They are ordered and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DoneSlots {
    ranges: Vec<(u64, u64)>,
}

impl DoneSlots {
    fn read(dir: &DataDir) -> Result<Self, WatcherError> {
        let path = dir.path().join(DONE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| DataDirError::Damaged { path, reason: error.to_string() }.into())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(DataDirError::Io { path, source }.into()),
        }
    }

    fn write(&self, dir: &DataDir) -> Result<(), WatcherError> {
        Ok(dir.write(DONE, &serde_json::to_vec(self).expect("numbers"))?)
    }

    fn add(&mut self, from: u64, to: u64) {
        self.ranges.push((from, to));
        self.ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (from, to) in self.ranges.drain(..) {
            match merged.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        self.ranges = merged;
    }

    /// Returns the parts of a range that are not done, in pieces of at most [`TOGETHER`] slots.
    fn missing(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut at = from;
        for (start, end) in self.ranges.iter().copied().chain([(to, u64::MAX)]) {
            let until = start.min(to);
            while at < until {
                let end = until.min(at + TOGETHER);
                missing.push((at, end));
                at = end;
            }
            at = at.max(end);
        }
        missing
    }
}

/// Fills the data directory of a configuration until everything is done or `stop` resolves.
pub fn backfill<F: Future<Output = ()>>(
    config: &Config,
    range: BackfillRange,
    stop: fn() -> F,
    progress: &mut dyn FnMut(BackfillProgress),
) -> Result<BackfillSummary, WatcherError> {
    let endpoints = Endpoints::new(config)?;
    let Some(nodes) = endpoints.nodes.clone() else {
        return Err(WatcherError::Usage(
            "a backfill asks a beacon node for blocks: give `nodes.urls` or --node URL. ERA files are read by `slashwatch replay`"
                .into(),
        ));
    };
    let dir = DataDir::open(&config.data_dir)?;
    run::runtime()?.block_on(async {
        let mut stopped = std::pin::pin!(stop());
        let start = tokio::select! {
            biased;
            () = &mut stopped => return Ok(BackfillSummary::default()),
            start = bootstrap::start_when_a_node_answers(config, Some(&dir), &endpoints) => start?,
        };
        let network = start.chain.network().clone();
        // The state may be an older one, from a file.
        let finalized = nodes.finality().await?.finalized.epoch.start_slot(network.preset());
        let last = start.chain.head().slot.max(finalized);
        let (from, to) = slots(range, &network, last)?;
        let engine =
            open_engine(&dir, start.chain, start.keys, config.index.history_epochs, config.detect.clone(), &config.watch)?;
        let mut work = Backfill {
            dir: &dir,
            nodes,
            network,
            engine,
            done: DoneSlots::read(&dir)?,
            reached: Time(0),
            summary: BackfillSummary::default(),
        };
        work.summary.slots = to - from;
        tokio::select! {
            biased;
            () = &mut stopped => {}
            filled = work.fill(from, to, progress) => filled?,
        }
        work.finish()
    })
}

/// Returns the first slot of the range, and the one after its last.
fn slots(range: BackfillRange, network: &Network, last: Slot) -> Result<(u64, u64), WatcherError> {
    let preset = network.preset();
    let end = last.as_u64() + 1;
    let to = range.to.map_or(end, |epoch| epoch.saturating_add(1).start_slot(preset).as_u64().min(end));
    let default = last.epoch(preset).saturating_sub(BackfillRange::DEFAULT_EPOCHS);
    // The block of slot 0 is part of the genesis state and signed by nobody.
    let from = range.from.unwrap_or(default).start_slot(preset).as_u64().max(1);
    if from >= to {
        let last = last.epoch(preset);
        return Err(WatcherError::Usage(format!("there is nothing between --from and --to: the last finalized epoch is {last}")));
    }
    Ok((from, to))
}

struct Backfill<'a> {
    dir: &'a DataDir,
    nodes: Arc<NodeSet>,
    network: Arc<Network>,
    engine: Engine,
    done: DoneSlots,
    /// Time of the last block that was judged.
    reached: Time,
    summary: BackfillSummary,
}

impl Backfill<'_> {
    async fn fill(&mut self, from: u64, to: u64, progress: &mut dyn FnMut(BackfillProgress)) -> Result<(), WatcherError> {
        let missing = self.done.missing(from, to);
        let total = missing.iter().map(|(from, to)| to - from).sum();
        self.summary.done_before = self.summary.slots - total;
        for (from, to) in missing {
            let blocks = self.blocks(from, to).await?;
            if blocks.is_empty() {
                tracing::warn!(from, to, "the nodes have no block of these slots");
                self.summary.without_blocks += to - from;
                continue;
            }
            self.summary.blocks += blocks.len() as u64;
            self.summary.judged.messages += blocks.len() as u64;
            let (n_blocks, mut n_proven) = (blocks.len(), 0);
            // A slot at a time, because the votes in a block need the committees that the blocks
            // before it decide.
            for block in blocks {
                let at = block.received_at;
                self.reached = at;
                let processed = self.engine.process(vec![block], at)?;
                n_proven +=
                    processed.reports.iter().filter(|row| matches!(row.3, Outcome::Proven { .. } | Outcome::Duplicate)).count();
                note_processed(&mut self.summary.judged, &processed);
            }
            if n_proven < n_blocks {
                tracing::warn!(
                    from,
                    to,
                    n_blocks,
                    n_proven,
                    "not every block of these slots was proven; they are asked for again"
                );
                self.summary.without_blocks += to - from;
                continue;
            }
            // A piece is noted as done only after its votes are on disk.
            self.done.add(from, to);
            self.done.write(self.dir)?;
            self.summary.done += to - from;
            progress(BackfillProgress { done: self.summary.done, total, blocks: self.summary.blocks });
        }
        Ok(())
    }

    /// Fetches the blocks of some slots, in order. A slot without a block has none at the node. A
    /// block counts as arrived when its slot began, as in an ERA file.
    async fn blocks(&self, from: u64, to: u64) -> Result<Vec<RawMessage>, WatcherError> {
        let fetch = |slot| {
            let (slot, at) = (Slot::new(slot), Time(self.network.slot_start_ns(Slot::new(slot))));
            bootstrap::block_message(&self.nodes, &self.network, BlockId::Slot(slot), at)
        };
        let fetched = futures::stream::iter((from..to).map(fetch)).buffered(REQUESTS);
        let blocks: Vec<Option<RawMessage>> = fetched.try_collect().await?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn finish(mut self) -> Result<BackfillSummary, WatcherError> {
        let processed = self.engine.finish(self.reached)?;
        note_processed(&mut self.summary.judged, &processed);
        self.summary.judged.findings = self.engine.store().count();
        Ok(self.summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn what_is_missing_is_what_was_not_added(
            added in prop::collection::vec((0u64..400, 1u64..90), 0..12),
            from in 0u64..400,
            length in 1u64..400,
        ) {
            let (mut done, mut set) = (DoneSlots::default(), BTreeSet::new());
            for (from, length) in added {
                done.add(from, from + length);
                set.extend(from..from + length);
            }
            let missing = done.missing(from, from + length);
            prop_assert!(missing.iter().all(|(from, to)| from < to && to - from <= TOGETHER));
            let slots: Vec<u64> = missing.into_iter().flat_map(|(from, to)| from..to).collect();
            let wanted: Vec<u64> = (from..from + length).filter(|slot| !set.contains(slot)).collect();
            prop_assert_eq!(slots, wanted);
            prop_assert!(done.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
