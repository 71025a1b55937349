//! What the watcher says of itself: to the API, and to the gauges on the metrics page.

use crate::clock;
use crate::engine::Engine;
use crate::listen;
use crate::metrics::Metrics;
use crate::watch::switches::Ledger;
use api::{Gap, Head, NodeState, Readiness, Status, StatusSource};
use chain::HeadView;
use consensus::{Checkpoint, Network};
use index::Stats;
use prometheus::core::Collector as _;
use sources::gossip::GossipControl;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A look at the engine, taken between two batches.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub head: HeadView,
    pub finalized: Checkpoint,
    pub validators: usize,
    pub parked: usize,
    pub missing_blocks: usize,
    pub index: Stats,
}

impl Snapshot {
    pub fn of(engine: &Engine) -> Self {
        let chain = engine.chain();
        Self {
            head: chain.head(),
            finalized: chain.finalized(),
            validators: chain.registry().len(),
            parked: engine.n_parked(),
            missing_blocks: chain.missing_blocks().len(),
            index: engine.index().stats(),
        }
    }
}

/// Answers the API from what is at hand.
pub struct StatusPage {
    pub network: Arc<Network>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Why no node answers; `None` while one does.
    pub node_away: watch::Receiver<Option<String>>,
    pub has_nodes: bool,
    pub gossip: Option<GossipControl>,
    pub metrics: Metrics,
    /// Slots that were not watched, as of the start.
    pub gaps: Vec<Gap>,
    /// `None` if they are nobody else's business.
    pub switches: Option<watch::Receiver<Arc<Ledger>>>,
}

impl StatusPage {
    /// Peers connected now.
    pub fn n_peers(&self) -> u64 {
        self.gossip.as_ref().map_or(0, listen::n_connected)
    }

    fn notices(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut notices = Vec::new();
        if let Some(gossip) = &self.gossip {
            for peer in gossip.peers().iter().filter(|peer| peer.configured && !peer.connected) {
                let problem = peer.last_problem.as_deref().unwrap_or("not yet reached");
                notices.push(format!("configured peer {} is not connected: {problem}", peer.address));
            }
        }
        if snapshot.missing_blocks > 0 {
            notices
                .push(format!("{} blocks are missing that others build on; nodes are asked for them", snapshot.missing_blocks));
        }
        if self.metrics.unproven.get() > 0 {
            notices.push("a conflict was not confirmed by its second proof: a defect, please report the log".into());
        }
        if let Some(switches) = &self.switches {
            notices.extend(switches.borrow().fired.iter().map(|(group, fired)| fired.notice(group)));
        }
        notices
    }
}

impl StatusSource for StatusPage {
    fn status(&self) -> Status {
        let snapshot = self.snapshot.borrow().clone();
        let mut stages = BTreeMap::new();
        stages.insert("messages".to_owned(), by_outcome(&self.metrics));
        stages.insert("parked".to_owned(), BTreeMap::from([("now".to_owned(), snapshot.parked as u64)]));
        let node = match &*self.node_away.borrow() {
            _ if !self.has_nodes => NodeState::NotConfigured,
            Some(reason) => NodeState::Away { reason: reason.clone() },
            None => NodeState::Connected,
        };
        let clock_slot = self.network.slot_at(clock::now().0);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            network: self.network.spec.config_name.clone(),
            genesis_validators_root: self.network.genesis_validators_root,
            clock_slot,
            head: Head { slot: snapshot.head.slot, root: snapshot.head.root },
            finalized: Some(snapshot.finalized),
            peers: self.n_peers(),
            validators: snapshot.validators as u64,
            stages,
            index: numbers(&snapshot.index),
            gaps: self.gaps.clone(),
            node,
            notices: self.notices(&snapshot),
        }
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            // Gossip listens from its start; before that the API is not served.
            listening: self.gossip.is_some() || self.has_nodes,
            context_loaded: self.snapshot.borrow().validators > 0,
            index_open: true,
        }
    }
}

fn by_outcome(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for family in metrics.messages.collect() {
        for metric in family.get_metric() {
            let outcome = metric.get_label().iter().find(|label| label.name() == "outcome").map_or("", |label| label.value());
            *sums.entry(outcome.to_owned()).or_default() += metric.get_counter().get_value() as u64;
        }
    }
    sums
}

fn numbers(stats: &Stats) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(stats).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(name, number)| Some((name.clone(), number.as_u64()?))).collect()
}
