//! Fetches the blocks from the start's state up to the clock from peers.
//!
//! Committees follow from the blocks since the state. A watcher without a beacon node gets them
//! here: range by range, oldest first. The engine judges each block like any other message. Blocks
//! that the data directory still holds come first, so a start after a short pause asks for little.
//!
//! **Gaps.** A peer may leave blocks out. Within an answer each block is the child of the one
//! before, so only the answer's ends are open. An answer must begin with a child of a block that is
//! connected with the state. If it does not, blocks are missing before it, and these slots are
//! asked for again from other peers. After [`MAX_GAPS`] such answers the task goes on behind the
//! gap. What is missing there is then asked for by root, as are all blocks that others build on.
//!
//! **False blocks.** Whether a block's signature holds is known after the engine has looked at it.
//! A block that holds is in the block store then, or the store has refused it for want of room. If
//! neither is so with a block of an answer in time, the peer is blamed, and the slots are asked for
//! again. Blocks that are too old to be kept have to be built in their proposer's turn as well, by
//! the committees that follow from the state and from the blocks since then. So a peer can make up
//! a past only in the turns of keys that it owns.

use crate::clock;
use crate::engine_thread::Input;
use crate::inputs::Inputs;
use chain::HeadView;
use consensus::{Network, Root, Slot};
use sources::block_store::BlockStore;
use sources::convert::fetched_block;
use sources::gossip::{BlockClient, MAX_ASKED_BLOCKS, NoAnswer, PeerBlock, PeerId};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Answers that do not follow the last known block before the task goes on behind the gap.
const MAX_GAPS: u32 = 4;
/// Peers that must say that the last slots are empty, if there are so many.
const MAX_EMPTY: usize = 3;
/// How long to wait when no peer can be asked.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the engine may take for the blocks of an answer.
const PROOF_TIME: Duration = Duration::from_secs(10);
/// How long to wait for another peer's word that the last slots are empty.
const CONFIRMATION_TIME: Duration = Duration::from_secs(30);
/// Slots between two lines in the log.
const LOG_SLOTS: u64 = 64;
/// Time between two lines in the log while no peer can be asked.
const LOG_WAITING: Duration = Duration::from_secs(60);

/// The task that fetches the blocks since the state, with everything that it needs.
pub struct BlockRange {
    pub peers: BlockClient,
    pub store: BlockStore,
    pub network: Arc<Network>,
    pub queue: Inputs,
    /// The latest block of the state.
    pub from: HeadView,
}

/// How far the task is.
struct RangeProgress {
    /// The blocks without a gap between them and the state, on any branch.
    connected: HashSet<Root>,
    /// The latest one of them.
    last: HeadView,
    /// The next slot to ask for.
    next: Slot,
    /// Answers since the last good one that had a gap before them.
    n_gaps: u32,
    /// The last blocks of answers whose signatures did not turn out to hold.
    unproven: HashSet<Root>,
    /// Peers that are not asked for the present slots.
    avoided: Vec<PeerId>,
    /// Peers that said that all slots since the last block are empty.
    empty: Vec<PeerId>,
    n_blocks: usize,
    logged_slot: Slot,
    waits_since: Option<Instant>,
    logged_wait: Option<Instant>,
}

impl BlockRange {
    /// Runs until the blocks up to the clock's slot are there, or until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.fetch()).await;
    }

    async fn fetch(&self) {
        let mut progress = RangeProgress {
            connected: HashSet::from([self.from.root]),
            last: self.from,
            next: self.from.slot.saturating_add(1),
            n_gaps: 0,
            unproven: HashSet::new(),
            avoided: Vec::new(),
            empty: Vec::new(),
            n_blocks: 0,
            logged_slot: self.from.slot,
            waits_since: None,
            logged_wait: None,
        };
        self.replay_kept(&mut progress).await;
        loop {
            let end = self.network.slot_at(clock::now().0);
            self.follow_kept(&mut progress);
            if progress.next > end {
                if progress.is_confirmed_empty() {
                    break;
                }
                // Some peers said that there is nothing up to now. Others are asked, too.
                progress.avoided = progress.empty.clone();
                progress.ask_again();
            }
            let count = (end.as_u64() + 1 - progress.next.as_u64()).min(MAX_ASKED_BLOCKS as u64);
            match self.peers.by_range(progress.next, count, &progress.avoided).await {
                Ok((peer, blocks)) => {
                    progress.waits_since = None;
                    self.take(peer, blocks, count, &mut progress).await;
                }
                Err(NoAnswer::Failed(peer)) => progress.avoided.push(peer),
                Err(reason @ (NoAnswer::NoPeer | NoAnswer::Later)) => {
                    let waited = progress.waited(reason, end);
                    if progress.is_only_confirmation() && (reason == NoAnswer::NoPeer || waited >= CONFIRMATION_TIME) {
                        // Every peer that could be asked says that there is nothing up to now.
                        progress.empty.clear();
                        progress.next = end.saturating_add(1);
                        continue;
                    }
                    if reason == NoAnswer::NoPeer {
                        progress.avoided.clear();
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tracing::info!(blocks = progress.n_blocks, from = %self.from.slot, to = %progress.last.slot, "blocks since the state fetched from peers");
    }

    /// Hands on the blocks that the data directory holds.
    async fn replay_kept(&self, progress: &mut RangeProgress) {
        let digests = self.network.fork_digests();
        for kept in self.store.after(self.from.slot) {
            let store = self.store.clone();
            let Ok(Ok(ssz)) = tokio::task::spawn_blocking(move || store.ssz(&kept)).await else { continue };
            let Some(fork) = digests.fork_of(kept.digest) else { continue };
            let Ok(message) = fetched_block(ssz, fork, None, clock::now()) else { continue };
            let _ = self.queue.send(Input::Message(message)).await;
            progress.n_blocks += 1;
        }
        if progress.n_blocks > 0 {
            tracing::info!(blocks = progress.n_blocks, "blocks since the state were kept by an earlier run");
        }
    }

    /// Goes on over the blocks that are there already: from an earlier run, or because gossip has
    /// brought them meanwhile.
    fn follow_kept(&self, progress: &mut RangeProgress) {
        let mut last = None;
        for kept in self.store.after(self.from.slot) {
            if progress.connected.contains(&kept.parent) && progress.connected.insert(kept.root) && kept.slot > progress.last.slot
            {
                last = Some(HeadView { root: kept.root, slot: kept.slot });
            }
        }
        if let Some(last) = last {
            progress.reached(last);
        }
    }

    /// Takes an answer of one peer for `count` slots.
    async fn take(&self, peer: PeerId, blocks: Vec<PeerBlock>, count: u64, progress: &mut RangeProgress) {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            if !progress.empty.contains(&peer) {
                progress.empty.push(peer);
            }
            progress.next = progress.next.saturating_add(count);
            return;
        };
        let (joins, end) = (progress.connected.contains(&first.parent), HeadView { root: last.root, slot: last.slot });
        let roots: Vec<Root> = blocks.iter().map(|block| block.root).collect();
        // Before the gap is closed, the engine may be unable to prove them, so it does not get
        // them.
        if !joins && progress.n_gaps < MAX_GAPS {
            progress.n_gaps += 1;
            // Either this peer has left blocks out or those have that said there are none.
            let guilty = std::mem::take(&mut progress.empty);
            progress.avoided.extend(if guilty.is_empty() { vec![peer] } else { guilty });
            progress.ask_again();
            return;
        }
        progress.n_blocks += blocks.len();
        for block in blocks {
            let _ = self.queue.send(Input::Message(block.message)).await;
        }
        let all_proven = async {
            for root in &roots {
                self.store.until_proven(root).await;
            }
        };
        let holds = tokio::time::timeout(PROOF_TIME, all_proven).await.is_ok();
        // Several answers with the same block mean that it cannot be kept, for whatever reason.
        if !holds && progress.unproven.insert(end.root) {
            if joins {
                self.peers.blame(peer);
            }
            progress.avoided.push(peer);
            progress.ask_again();
            return;
        }
        if !joins || !holds {
            let after = progress.last.slot;
            tracing::warn!(%after, to = %end.slot, "blocks since the state are missing; they are asked for one by one");
        }
        progress.connected.extend(roots);
        progress.reached(end);
    }
}

impl RangeProgress {
    /// The next request begins behind the last known block again.
    fn ask_again(&mut self) {
        self.next = self.last.slot.saturating_add(1);
    }

    fn reached(&mut self, end: HeadView) {
        self.last = end;
        self.ask_again();
        self.n_gaps = 0;
        self.unproven.clear();
        self.avoided.clear();
        self.empty.clear();
        if end.slot.as_u64() >= self.logged_slot.as_u64() + LOG_SLOTS {
            self.logged_slot = end.slot;
            tracing::info!(slot = %end.slot, blocks = self.n_blocks, "fetching the blocks since the state from peers");
        }
    }

    /// Whether enough peers say that there is no block after the last one.
    fn is_confirmed_empty(&self) -> bool {
        self.empty.is_empty() || self.empty.len() >= MAX_EMPTY
    }

    /// Whether the present request is only to confirm what all of `empty` say.
    fn is_only_confirmation(&self) -> bool {
        !self.empty.is_empty() && self.empty.iter().all(|peer| self.avoided.contains(peer))
    }

    /// Notes that no peer can be asked now. Returns for how long that has been so.
    fn waited(&mut self, reason: NoAnswer, end: Slot) -> Duration {
        let now = Instant::now();
        let waited = now.duration_since(*self.waits_since.get_or_insert(now));
        if waited >= LOG_WAITING && self.logged_wait.is_none_or(|at| now.duration_since(at) >= LOG_WAITING) {
            self.logged_wait = Some(now);
            tracing::warn!(?reason, next = %self.next, to = %end, "no peer can be asked for the blocks since the state; trying again");
        }
        waited
    }
}
