//! Fills a data directory with the past: the blocks of a range of epochs, from the operator's
//! beacon nodes or from peers, oldest first. Each block is judged like live traffic, and so are the
//! aggregates and slashing operations in it. Messages that no block includes cannot be had any
//! more.
//!
//! Committees of past epochs come from the state, which has the RANDAO mixes of
//! `EPOCHS_PER_HISTORICAL_VECTOR` epochs. What is done is kept in the data directory, so that a
//! backfill that was stopped goes on where it was. Only slots of which every block was proven are
//! done.
//!
//! ERA files have the same content; [`crate::replay`] reads them.

mod from_peers;

use crate::replay::{ReplaySummary, note_processed, open_engine};
use chain::PastBlocks;
use chain::node::{BlockId, NodeSet};
use consensus::{Epoch, MessageKind, Network, Slot};
use engine::Engine;
use from_peers::PeerBlocks;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use sources::gossip::{Identity, PeerBlock, PeerId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use verify::{Outcome, RawMessage, Time};
use watcher::bootstrap::{self, Endpoints};
use watcher::config::Config;
use watcher::datadir::{DataDir, DataDirError};
use watcher::{WatcherError, listen, run};

/// Slots that are fetched, judged and noted as done together.
const TOGETHER: u64 = 64;
/// Blocks that are requested of a node at the same time.
const REQUESTS: usize = 8;
/// How often slots are asked for of whose blocks some were not proven. A peer that sent one is not
/// asked again.
const ATTEMPTS: usize = 4;
/// A backfill from peers ends after this many pieces in a row that no peer has sent.
const MAX_FAILED: u32 = 3;
/// Time between two lines in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);
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

/// Whom a backfill asks for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlocksFrom {
    /// The beacon nodes of the configuration.
    Nodes,
    /// The peers that discovery or the configuration names.
    Peers,
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
    /// Slots of pieces without any block, or with one that was not proven. They are not done: a
    /// node that was started from a checkpoint lacks the blocks before it.
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
    from: BlocksFrom,
    stop: fn() -> F,
    progress: &mut dyn FnMut(BackfillProgress),
) -> Result<BackfillSummary, WatcherError> {
    let endpoints = Endpoints::new(config)?;
    if from == BlocksFrom::Nodes && endpoints.nodes.is_none() {
        return Err(WatcherError::Usage(
            "a backfill asks a beacon node for blocks, or peers: give `nodes.urls`, --node URL or --from-peers; or name ERA files".into(),
        ));
    }
    let dir = DataDir::open(&config.data_dir)?;
    run::runtime()?.block_on(async {
        let mut stopped = std::pin::pin!(stop());
        let start = tokio::select! {
            biased;
            () = &mut stopped => return Ok(BackfillSummary::default()),
            start = bootstrap::start_when_a_node_answers(config, Some(&dir), &endpoints) => start?,
        };
        let network = start.chain.network().clone();
        let (source, (from, to)) = match (from, endpoints.nodes.clone()) {
            (BlocksFrom::Nodes, Some(nodes)) => {
                // The state may be an older one, from a file.
                let finalized = nodes.finality().await?.finalized.epoch.start_slot(network.preset());
                let slots = slots(range, &network, start.chain.head().slot.max(finalized))?;
                (BlockSource::Nodes(nodes), slots)
            }
            (BlocksFrom::Nodes | BlocksFrom::Peers, _) => {
                let known = PastBlocks::of(&network.spec, &start.state_ssz)?;
                let slots = slots_of_state(range, &network, &known)?;
                let node = listen::start_asking(config, Identity::File(dir.node_key_path()), &network)?;
                (BlockSource::Peers(Box::new(PeerBlocks::new(node, known))), slots)
            }
        };
        let engine =
            open_engine(&dir, start.chain, start.keys, config.index.history_epochs, config.detect.clone(), &config.watch)?;
        let mut work = Backfill {
            dir: &dir,
            source,
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
        work.finish().await
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

/// Does the same for peers. They are asked for what the state names.
fn slots_of_state(range: BackfillRange, network: &Network, known: &PastBlocks) -> Result<(u64, u64), WatcherError> {
    let (from, to) = slots(range, network, known.last)?;
    let first = known.first.as_u64();
    if range.from.is_none() && first < to {
        return Ok((from.max(first), to));
    }
    if from < first {
        // The first epoch of which every block is named.
        let epoch = known.first.saturating_add(network.preset().slots_per_epoch - 1).epoch(network.preset());
        return Err(WatcherError::Usage(format!(
            "peers can be asked for the blocks that the state names, which begin with epoch {epoch}: give --from {epoch} or \
             later, an older state (--checkpoint FILE), a node that keeps old blocks (--node URL), or ERA files"
        )));
    }
    Ok((from, to))
}

enum BlockSource {
    Nodes(Arc<NodeSet>),
    Peers(Box<PeerBlocks>),
}

/// A block, and who sent it if that was a peer.
type Fetched = (RawMessage, Option<PeerId>);

struct Backfill<'a> {
    dir: &'a DataDir,
    source: BlockSource,
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
        let (started, mut logged, mut n_failed) = (Instant::now(), Instant::now(), 0);
        for (from, to) in missing {
            if self.piece(from, to).await? {
                // A piece is noted as done only after its votes are on disk.
                self.done.add(from, to);
                self.done.write(self.dir)?;
                (self.summary.done, n_failed) = (self.summary.done + to - from, 0);
            } else {
                (self.summary.without_blocks, n_failed) = (self.summary.without_blocks + to - from, n_failed + 1);
            }
            let done = self.summary.done;
            progress(BackfillProgress { done, total, blocks: self.summary.blocks });
            if logged.elapsed() >= LOG_EVERY {
                logged = Instant::now();
                let slots_per_second = done as f64 / started.elapsed().as_secs_f64();
                tracing::info!(slot = to, done, total, slots_per_second, "past blocks are fetched and judged");
            }
            if n_failed >= MAX_FAILED && matches!(self.source, BlockSource::Peers(_)) {
                break;
            }
        }
        Ok(())
    }

    /// Fetches and judges the blocks of some slots. Returns whether all of them were proven.
    async fn piece(&mut self, from: u64, to: u64) -> Result<bool, WatcherError> {
        for _ in 0..ATTEMPTS {
            let Some(blocks) = self.blocks(from, to).await? else {
                tracing::warn!(from, to, "nobody has sent the blocks of these slots");
                return Ok(false);
            };
            let n_blocks = blocks.len();
            let unproven = self.judge(blocks)?;
            if unproven.is_empty() {
                self.summary.blocks += n_blocks as u64;
                return Ok(true);
            }
            tracing::warn!(from, to, n_blocks, n_unproven = unproven.len(), "not every block of these slots was proven");
            match &mut self.source {
                BlockSource::Nodes(_) => return Ok(false),
                BlockSource::Peers(peers) => unproven.into_iter().flatten().for_each(|peer| peers.blame(peer)),
            }
        }
        Ok(false)
    }

    /// Judges blocks, a slot at a time, because the votes in a block need the committees that the
    /// blocks before it decide. Returns who sent those that were not proven.
    fn judge(&mut self, blocks: Vec<Fetched>) -> Result<Vec<Option<PeerId>>, WatcherError> {
        let mut unproven = Vec::new();
        for (block, peer) in blocks {
            let at = block.received_at;
            self.reached = at;
            let processed = self.engine.process(vec![block], at)?;
            self.summary.judged.messages += 1;
            let is_proven = |outcome: &Outcome| matches!(outcome, Outcome::Proven { .. } | Outcome::Duplicate);
            let mut reports = processed.reports.iter();
            if !reports.any(|(_, _, kind, outcome)| *kind == MessageKind::Block && is_proven(outcome)) {
                unproven.push(peer);
            }
            note_processed(&mut self.summary.judged, &processed);
        }
        Ok(unproven)
    }

    /// Fetches the blocks of some slots, in order, or returns `None` if there are none. A slot
    /// without a block has none at the node, or in the state. A block counts as arrived when its
    /// slot began, as in an ERA file.
    async fn blocks(&self, from: u64, to: u64) -> Result<Option<Vec<Fetched>>, WatcherError> {
        let began = |slot: Slot| Time(self.network.slot_start_ns(slot));
        match &self.source {
            BlockSource::Nodes(nodes) => {
                let fetch = |slot| {
                    let slot = Slot::new(slot);
                    bootstrap::block_message(nodes, &self.network, BlockId::Slot(slot), began(slot))
                };
                let fetched = futures::stream::iter((from..to).map(fetch)).buffered(REQUESTS);
                let blocks: Vec<Option<RawMessage>> = fetched.try_collect().await?;
                let blocks: Vec<Fetched> = blocks.into_iter().flatten().map(|block| (block, None)).collect();
                Ok((!blocks.is_empty()).then_some(blocks))
            }
            BlockSource::Peers(peers) => {
                let blocks = peers.blocks(Slot::new(from), Slot::new(to)).await;
                let dated = |blocks: Vec<PeerBlock>| {
                    blocks.into_iter().map(|block| (block.message.arrived_at(began(block.slot)), Some(block.peer))).collect()
                };
                Ok(blocks.map(dated))
            }
        }
    }

    async fn finish(mut self) -> Result<BackfillSummary, WatcherError> {
        if let BlockSource::Peers(peers) = self.source {
            peers.shutdown().await;
        }
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
