//! Past blocks from peers.
//!
//! A beacon state names the roots of the blocks in the last SLOTS_PER_HISTORICAL_ROOT slots before
//! it. So it is known beforehand which slots have a block, and which one. No peer can leave a block
//! out or send another one without being noticed:
//!
//! | a peer | what follows |
//! |---|---|
//! | sends the blocks that the state names | they are taken, up to the first one that it left out |
//! | sends no block, or begins with a later one | it is no proof of a lie: others are asked for these slots |
//! | sends a block that the state does not name | it is blamed, and others are asked |
//! | hangs, or its answer is no chain of blocks | it is left alone for a growing time |
//! | sends the right block with a false signature | the engine finds that out; it is not asked again |
//!
//! Price: older blocks than the state names cannot be had in this way. An older state names them.
//!
//! Bounds: those of [`BlockClient`] for requests, and [`PATIENCE`] without any block.

use chain::PastBlocks;
use consensus::{Root, Slot};
use futures::StreamExt as _;
use sources::gossip::{BlockClient, GossipHandle, MAX_ASKED_BLOCKS, NoAnswer, PeerBlock, PeerId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests at a time, each to another peer.
const REQUESTS: usize = 4;
/// How long to wait when no peer can be asked.
const PAUSE: Duration = Duration::from_secs(1);
/// Slots are given up after this time without a block of them.
const PATIENCE: Duration = Duration::from_secs(120);
/// Peers that sent false signatures of which that is remembered. Who sends more than these has its
/// failures remembered by [`BlockClient`].
const MAX_FORGERS: usize = 256;

/// Asks peers for the blocks that a state names.
pub(super) struct PeerBlocks {
    // The node ends when this is dropped.
    node: GossipHandle,
    client: BlockClient,
    known: PastBlocks,
    /// Peers that sent blocks whose signatures do not hold.
    forgers: Vec<PeerId>,
}

impl PeerBlocks {
    pub(super) fn new(node: GossipHandle, known: PastBlocks) -> Self {
        let client = node.control.blocks().clone();
        Self { node, client, known, forgers: Vec::new() }
    }

    /// Fetches the blocks of the slots from `from` to before `to`, in order. Returns `None` if no
    /// peer has sent some of them in time.
    pub(super) async fn blocks(&self, from: Slot, to: Slot) -> Option<Vec<PeerBlock>> {
        let starts = (from.as_u64()..to.as_u64()).step_by(MAX_ASKED_BLOCKS).map(Slot::new);
        let requests = starts.map(|start| self.piece(start, start.saturating_add(MAX_ASKED_BLOCKS as u64).min(to)));
        let pieces: Vec<Option<Vec<PeerBlock>>> = futures::stream::iter(requests).buffered(REQUESTS).collect().await;
        let complete: Option<Vec<Vec<PeerBlock>>> = pieces.into_iter().collect();
        complete.map(|pieces| pieces.into_iter().flatten().collect())
    }

    /// Notes that a block of this peer was not signed by its proposer.
    pub(super) fn blame(&mut self, peer: PeerId) {
        self.client.blame(peer);
        if !self.forgers.contains(&peer) && self.forgers.len() < MAX_FORGERS {
            self.forgers.push(peer);
        }
    }

    /// Says goodbye to all peers.
    pub(super) async fn shutdown(self) {
        self.node.shutdown().await;
    }

    /// Fetches the blocks of a few slots, from one peer after the other.
    async fn piece(&self, from: Slot, to: Slot) -> Option<Vec<PeerBlock>> {
        let mut wanted: VecDeque<(Slot, Root)> = self.known.by_slot.range(from..to).map(|(slot, root)| (*slot, *root)).collect();
        let (mut blocks, mut avoided) = (Vec::with_capacity(wanted.len()), self.forgers.clone());
        let mut since = Instant::now();
        while let Some((slot, _)) = wanted.front().copied() {
            if since.elapsed() >= PATIENCE {
                return None;
            }
            match self.client.by_range(slot, to.as_u64() - slot.as_u64(), &avoided).await {
                Ok((peer, answer)) => {
                    if answer.iter().any(|block| self.known.by_slot.get(&block.slot) != Some(&block.root)) {
                        tracing::debug!(%peer, %slot, "a peer sent a block that is not in the state's past");
                        self.client.blame(peer);
                        avoided.push(peer);
                    }
                    let n_right = answer.iter().zip(&wanted).take_while(|(block, (_, root))| block.root == *root).count();
                    if n_right == 0 {
                        avoided.push(peer);
                        continue;
                    }
                    since = Instant::now();
                    wanted.drain(..n_right);
                    blocks.extend(answer.into_iter().take(n_right));
                }
                Err(NoAnswer::Failed(peer)) => avoided.push(peer),
                Err(NoAnswer::NoPeer) => {
                    // All were asked, or none is connected yet.
                    avoided.clone_from(&self.forgers);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(NoAnswer::Later) => tokio::time::sleep(PAUSE).await,
            }
        }
        Some(blocks)
    }
}
