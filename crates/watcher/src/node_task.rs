//! Asks the beacon nodes for what gossip does not bring: blocks that others build on, newer
//! validators, and finality. Peers are asked for blocks that no node has, or if there is no node.
//!
//! When no node answers, the watcher continues with what it knows. The task logs that once, and
//! once more when a node answers again.

use crate::datadir::DataDir;
use crate::engine_thread::Input;
use crate::error::WatcherError;
use crate::inputs::Inputs;
use crate::{bootstrap, checkpoint, clock};
use base::BoundedMap;
use chain::node::{BlockId, NodeSet, StateId};
use consensus::{Epoch, Network, Root, Slot};
use engine::metrics::Metrics;
use futures::StreamExt as _;
use sources::gossip::{BlockClient, PeerId};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long to wait before a block that no node had is requested again.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// A block is given up after this many requests that no node and no peer could answer.
const TRIES: u32 = 3;
/// Largest number of blocks requested between two polls of the node. Finality and states must not
/// wait for blocks that nobody has.
const MAX_FETCHED: usize = 16;
/// Number of roots that are remembered as requested.
const MAX_ASKED: usize = 1024;
/// A checkpoint endpoint is asked for a state this many times less often than a node of one's own.
const CHECKPOINT_PATIENCE: u64 = 4;
/// Time between two polls of the node when nothing is wanted.
const POLL_INTERVAL: Duration = Duration::from_secs(12);

/// What the engine wants from the beacon nodes.
pub struct NodeRequests {
    /// Roots of blocks that the engine wants.
    pub blocks: watch::Receiver<Vec<Root>>,
    /// True while the registry is out of date and the engine needs a newer beacon state.
    pub state: watch::Receiver<bool>,
}

/// Whose nodes are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// The operator's own: asked for everything, every slot.
    Own,
    /// Other people's, for checkpoint sync: asked for finality every epoch, for a finalized state
    /// rarely, and for no blocks.
    Checkpoint,
}

/// The task that asks the beacon nodes, with everything that it needs.
pub struct NodeTask {
    /// `None` if no node is configured.
    pub nodes: Option<Arc<NodeSet>>,
    pub role: NodeRole,
    /// `None` if gossip is disabled.
    pub peers: Option<BlockClient>,
    /// Where a fetched state is kept for the next start.
    pub dir: Arc<DataDir>,
    pub network: Arc<Network>,
    pub queue: Inputs,
    pub metrics: Metrics,
    /// A new state is fetched after this many epochs.
    pub refresh_epochs: u64,
    /// The reason why no node answers, or `None` while a node answers.
    pub away: watch::Sender<Option<String>>,
    /// At the start, the blocks after this slot are fetched first.
    pub from: Slot,
    /// Cancelled when a node has scheduled something that this run does not follow.
    pub rescheduled: CancellationToken,
}

impl NodeTask {
    /// Runs until cancelled. A download can be cancelled too, because a state may take minutes.
    pub async fn run(self, requests: NodeRequests, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow(requests)).await;
    }

    async fn follow(self, mut requests: NodeRequests) {
        let slot = self.network.spec.slot_duration;
        let (every, refresh_epochs) = match self.role {
            NodeRole::Own => {
                self.catch_up().await;
                (POLL_INTERVAL.min(slot), self.refresh_epochs)
            }
            NodeRole::Checkpoint => {
                let epoch = slot.saturating_mul(self.network.preset().slots_per_epoch as u32);
                (epoch, self.refresh_epochs.saturating_mul(CHECKPOINT_PATIENCE))
            }
        };
        let mut asked = RequestedBlocks::default();
        let mut state_of = self.epoch();
        let mut schedule = ScheduleCheck { epoch: state_of, reported: Vec::new() };
        let mut poll = tokio::time::interval(every);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Peers are asked again for blocks, however rarely the nodes are polled.
        let mut again = tokio::time::interval(POLL_INTERVAL.min(slot));
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick() => {
                    let wanted = requests.blocks.borrow().clone();
                    self.fetch_blocks(&wanted, &mut asked).await;
                    continue;
                }
                _ = poll.tick() => {
                    if let Some(nodes) = &self.nodes {
                        self.poll(nodes).await;
                        self.check_schedule(nodes, &mut schedule).await;
                    }
                }
                changed = requests.blocks.changed() => if changed.is_err() { return },
                changed = requests.state.changed() => if changed.is_err() { return },
            }
            let wanted = requests.blocks.borrow_and_update().clone();
            self.fetch_blocks(&wanted, &mut asked).await;
            let age = self.epoch().as_u64().saturating_sub(state_of.as_u64());
            let wants_state = *requests.state.borrow_and_update();
            let is_due = match self.role {
                NodeRole::Own => age >= refresh_epochs || (wants_state && age > 0),
                // The state is that of the finalized block, which is older than what is wanted now.
                NodeRole::Checkpoint => age >= refresh_epochs || (wants_state && age >= self.refresh_epochs),
            };
            if is_due && self.fetch_state().await {
                state_of = self.epoch();
            }
        }
    }

    async fn catch_up(&self) {
        let Some(nodes) = &self.nodes else { return };
        let mut blocks = pin!(bootstrap::blocks_since(nodes, &self.network, self.from, clock::now()).await);
        while let Some(block) = blocks.next().await {
            let _ = self.queue.send(Input::Message(block)).await;
        }
    }

    fn epoch(&self) -> Epoch {
        self.network.slot_at(clock::now().0).epoch(self.network.preset())
    }

    async fn poll(&self, nodes: &NodeSet) {
        match nodes.finality().await {
            Ok(finality) => {
                self.note_answer();
                let input = Input::Finality { justified: finality.current_justified, finalized: finality.finalized };
                // The queue is closed only when everything stops.
                let _ = self.queue.send(input).await;
            }
            Err(error) => self.note_no_answer(&error.to_string()),
        }
        if self.role == NodeRole::Checkpoint {
            return;
        }
        // A failure here is not reported, because the request for finality already showed whether
        // the node answers.
        if let Ok(Some(root)) = nodes.head_root().await {
            let _ = self.queue.send(Input::NodeHead(root)).await;
        }
    }

    /// Asks the nodes once in an epoch whether they have scheduled a fork or a blob step that this
    /// run does not follow. A node gets a schedule with its next version, weeks before the fork.
    async fn check_schedule(&self, nodes: &NodeSet, schedule: &mut ScheduleCheck) {
        let now = self.epoch();
        if self.role != NodeRole::Own || now <= schedule.epoch {
            return;
        }
        // The poll reports a node that is away.
        let Ok(of_node) = nodes.config_spec().await else { return };
        schedule.epoch = now;
        let changes = self.network.spec.changes_by(&of_node, now);
        if changes.is_empty() || changes == schedule.reported {
            return;
        }
        let words: Vec<String> = changes.iter().map(|(name, epoch)| format!("{name} at epoch {epoch}")).collect();
        let changes_to_come = changes.iter().all(|(_, epoch)| *epoch > now.saturating_add(1));
        schedule.reported = changes;
        let words = words.join(", ");
        if changes_to_come {
            tracing::warn!(
                changes = words,
                "a beacon node has scheduled what this watcher does not follow yet; it starts again and follows it"
            );
            self.rescheduled.cancel();
        } else {
            tracing::error!(
                changes = words,
                "a beacon node has another fork schedule since an epoch that has begun; it is not followed while the watcher runs: check which \
                 of the two is right, then restart the watcher"
            );
        }
    }

    async fn fetch_blocks(&self, wanted: &[Root], asked: &mut RequestedBlocks) {
        let due = asked.due(wanted, Instant::now());
        if let Some(peers) = &self.peers {
            // The root of a block does not depend on its signature. If a block is still wanted
            // after a peer has sent it, that one was not signed by its proposer. A peer is blamed
            // once for it.
            due.iter().filter_map(|root| asked.sent_by.remove(root)).for_each(|peer| peers.blame(peer));
        }
        let (mut missing, no_node_has) = self.fetch_from_nodes(due).await;
        let mut n_answers = 0;
        if let Some(peers) = self.peers.as_ref().filter(|_| !missing.is_empty()) {
            let (blocks, n) = peers.by_root_of_several(&missing).await;
            n_answers = n;
            missing.retain(|root| blocks.iter().all(|block| block.root != *root));
            for block in blocks {
                asked.sent_by.insert(block.root, block.peer);
                let _ = self.queue.send(Input::Message(block.message)).await;
            }
        }
        // If nobody could be asked, nobody lacks the block.
        for root in missing.iter().filter(|root| n_answers > 0 || no_node_has.contains(root)) {
            if asked.is_missed(root) {
                tracing::debug!(%root, "nobody has a block that others build on; it is not requested again");
                let _ = self.queue.send(Input::NoBlock(*root)).await;
            } else {
                tracing::debug!(%root, "nobody has a block that others build on");
            }
        }
    }

    /// Fetches blocks from the nodes. Returns the blocks that are still missing, and those of them
    /// that no node has.
    async fn fetch_from_nodes(&self, due: Vec<Root>) -> (Vec<Root>, Vec<Root>) {
        let Some(nodes) = self.nodes.as_ref().filter(|_| self.role == NodeRole::Own) else { return (due, Vec::new()) };
        let (mut missing, mut no_node_has) = (Vec::new(), Vec::new());
        let mut due = due.into_iter();
        for root in due.by_ref() {
            match bootstrap::block_message(nodes, &self.network, BlockId::Root(root), clock::now()).await {
                Ok(Some(message)) => {
                    let _ = self.queue.send(Input::Message(message)).await;
                }
                Ok(None) => {
                    missing.push(root);
                    no_node_has.push(root);
                }
                Err(error) => {
                    self.note_no_answer(&error.to_string());
                    missing.push(root);
                    break;
                }
            }
        }
        missing.extend(due);
        (missing, no_node_has)
    }

    async fn fetch_state(&self) -> bool {
        let Some(nodes) = &self.nodes else { return false };
        let fetched = match self.role {
            // The head's state is not kept: after a restart in a split it could not resolve the
            // votes of the other half.
            NodeRole::Own => nodes.state_ssz(StateId::Head).await.map_err(WatcherError::Node),
            NodeRole::Checkpoint => {
                let fetched = checkpoint::finalized_state(nodes, &self.network.spec).await.map(|state| state.ssz);
                if let Ok(state) = &fetched
                    && let Err(error) = self.dir.write_state(state)
                {
                    tracing::warn!(%error, "a newer state is used but not kept; the next start begins with an older one");
                }
                fetched
            }
        };
        match fetched {
            Ok(state) => {
                let _ = self.queue.send(Input::State(state)).await;
                true
            }
            Err(error) => {
                self.note_no_answer(&error.to_string());
                false
            }
        }
    }

    fn note_answer(&self) {
        self.metrics.node_up.set(1);
        if self.away.send_if_modified(|away| away.take().is_some()) {
            tracing::info!("a beacon node answers again");
        }
    }

    fn note_no_answer(&self, reason: &str) {
        self.metrics.node_up.set(0);
        let is_new = self.away.send_if_modified(|away| {
            let is_new = away.is_none();
            *away = Some(reason.to_owned());
            is_new
        });
        if is_new {
            tracing::warn!(reason, "no beacon node answers; the watcher continues with the known validators and blocks");
        }
    }
}

/// When the nodes were last asked for their schedule.
struct ScheduleCheck {
    epoch: Epoch,
    /// The changes that the log has told.
    reported: Vec<(String, Epoch)>,
}

/// The requested blocks.
struct RequestedBlocks {
    /// The time of the last request, and how many times nobody had the block.
    requests: HashMap<Root, (Instant, u32)>,
    /// The peers that sent blocks.
    sent_by: BoundedMap<Root, PeerId>,
}

impl Default for RequestedBlocks {
    fn default() -> Self {
        Self { requests: HashMap::new(), sent_by: BoundedMap::new(MAX_ASKED) }
    }
}

impl RequestedBlocks {
    /// Returns the roots of `wanted` that are to be requested now, in the same order, and marks
    /// them as requested.
    fn due(&mut self, wanted: &[Root], now: Instant) -> Vec<Root> {
        if self.requests.len() > MAX_ASKED {
            self.requests.retain(|_, (at, _)| now.duration_since(*at) < ASK_AGAIN);
        }
        let is_due = |root: &&Root| self.requests.get(*root).is_none_or(|(at, _)| now.duration_since(*at) >= ASK_AGAIN);
        let due: Vec<Root> = wanted.iter().filter(is_due).take(MAX_FETCHED).copied().collect();
        for root in &due {
            self.requests.entry(*root).or_insert((now, 0)).0 = now;
        }
        due
    }

    /// Counts that nobody had the block. Returns true if it is to be given up.
    fn is_missed(&mut self, root: &Root) -> bool {
        let Some((_, misses)) = self.requests.get_mut(root) else { return false };
        *misses += 1;
        *misses >= TRIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_node_has_is_asked_for_a_few_times_and_given_up() {
        let (mut asked, mut now) = (RequestedBlocks::default(), Instant::now());
        let wanted: Vec<Root> = (0..64).map(Root::repeat_byte).collect();
        assert_eq!(asked.due(&wanted, now), wanted[..MAX_FETCHED]);
        assert_eq!(asked.due(&wanted, now), wanted[MAX_FETCHED..2 * MAX_FETCHED], "then the next ones");
        for tries in 1..=TRIES {
            assert_eq!(asked.is_missed(&wanted[0]), tries == TRIES, "{tries}");
            now += ASK_AGAIN;
            assert_eq!(asked.due(&wanted[..1], now), wanted[..1]);
        }
        // The number of remembered roots stays bounded, however many roots are wanted.
        for nth in 0u64..10_000 {
            let mut root = Root::ZERO;
            root[..8].copy_from_slice(&nth.to_le_bytes());
            now += Duration::from_millis(100);
            asked.due(&[root], now);
        }
        assert!(asked.requests.len() <= MAX_ASKED + 1, "{}", asked.requests.len());
    }
}
