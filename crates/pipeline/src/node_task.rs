//! Keeps asking the beacon nodes for what gossip does not bring: blocks that others build on, newer validators, finality.
//!
//! When no node answers, the watcher goes on with what it knows; this task says so once, and once more when it is over.

use crate::inputs::Inputs;
use crate::judge_thread::Input;
use crate::metrics::Metrics;
use crate::{bootstrap, clock};
use chain::node::{BlockId, NodeSet};
use consensus::{Epoch, Network, Root, Slot};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A block that no node had is asked for again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// Roots remembered as asked for.
const MAX_ASKED: usize = 1024;
/// Between two looks at the node when nothing is wanted.
const LOOK: Duration = Duration::from_secs(12);

/// What the task listens to.
pub struct Wishes {
    pub blocks: watch::Receiver<Vec<Root>>,
    pub state: watch::Receiver<bool>,
}

pub struct NodeTask {
    pub nodes: Arc<NodeSet>,
    pub network: Arc<Network>,
    pub queue: Inputs,
    pub metrics: Metrics,
    pub refresh_epochs: u64,
    pub away: watch::Sender<Option<String>>,
    /// Blocks after this slot are fetched first.
    pub from: Slot,
}

impl NodeTask {
    /// Runs until cancelled, in the middle of a download as well: a state may take minutes.
    pub async fn run(self, wishes: Wishes, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow(wishes)).await;
    }

    async fn follow(self, mut wishes: Wishes) {
        self.catch_up().await;
        let mut asked: HashMap<Root, Instant> = HashMap::new();
        let mut state_of = self.epoch();
        let mut look = tokio::time::interval(LOOK.min(self.network.spec.slot_duration));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => self.look().await,
                changed = wishes.blocks.changed() => if changed.is_err() { return },
                changed = wishes.state.changed() => if changed.is_err() { return },
            }
            let wanted = wishes.blocks.borrow_and_update().clone();
            self.fetch_blocks(&wanted, &mut asked).await;
            let old = self.epoch().as_u64().saturating_sub(state_of.as_u64()) >= self.refresh_epochs;
            let wants_state = *wishes.state.borrow_and_update();
            if (old || wants_state) && self.epoch() > state_of && self.fetch_state().await {
                state_of = self.epoch();
            }
        }
    }

    async fn catch_up(&self) {
        for block in bootstrap::blocks_since(&self.nodes, &self.network, self.from, clock::now()).await {
            let _ = self.queue.send(Input::Message(block)).await;
        }
    }

    fn epoch(&self) -> Epoch {
        self.network.slot_at(clock::now().0).epoch(self.network.preset())
    }

    async fn look(&self) {
        match self.nodes.finality().await {
            Ok(finality) => {
                self.answered();
                let input = Input::Finality { justified: finality.current_justified, finalized: finality.finalized };
                // The queue is closed only when everything stops.
                let _ = self.queue.send(input).await;
            }
            Err(error) => self.silent(&error.to_string()),
        }
    }

    async fn fetch_blocks(&self, wanted: &[Root], asked: &mut HashMap<Root, Instant>) {
        if asked.len() > MAX_ASKED {
            asked.retain(|_, at| at.elapsed() < ASK_AGAIN);
        }
        for root in wanted {
            if asked.get(root).is_some_and(|at| at.elapsed() < ASK_AGAIN) {
                continue;
            }
            asked.insert(*root, Instant::now());
            match bootstrap::block_message(&self.nodes, &self.network, BlockId::Root(*root), clock::now()).await {
                Ok(Some(message)) => {
                    let _ = self.queue.send(Input::Message(message)).await;
                }
                Ok(None) => tracing::debug!(%root, "no node has a block that others build on"),
                Err(error) => {
                    self.silent(&error.to_string());
                    return;
                }
            }
        }
    }

    async fn fetch_state(&self) -> bool {
        match self.nodes.state_ssz(chain::node::StateId::Head).await {
            Ok(state) => {
                let _ = self.queue.send(Input::State(state)).await;
                true
            }
            Err(error) => {
                self.silent(&error.to_string());
                false
            }
        }
    }

    fn answered(&self) {
        self.metrics.node_up.set(1);
        if self.away.send_if_modified(|away| away.take().is_some()) {
            tracing::info!("a beacon node answers again");
        }
    }

    fn silent(&self, reason: &str) {
        self.metrics.node_up.set(0);
        let news = self.away.send_if_modified(|away| {
            let news = away.is_none();
            *away = Some(reason.to_owned());
            news
        });
        if news {
            tracing::warn!(reason, "no beacon node answers; going on with the validators and blocks that are known");
        }
    }
}
