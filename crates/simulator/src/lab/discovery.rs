//! Whether a listener finds the nodes of a network from one boot node, and how soon.

use super::listener::{Heard, Post};
use super::staked_network::{StakeOf, StakedNetwork};
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use serde::{Deserialize, Serialize};
use sources::discovery::{BootNode, DiscoveryConfig};
use sources::gossip::GossipConfig;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Epochs play no part here, and are as long as on mainnet.
const EPOCH: Duration = Duration::from_secs(384);

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryPlan {
    pub seed: u64,
    pub nodes: usize,
    /// When the search is broken off.
    pub seconds: u64,
}

impl Default for DiscoveryPlan {
    fn default() -> Self {
        Self { seed: 1, nodes: 100, seconds: 180 }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscoveryReport {
    pub plan: DiscoveryPlan,
    /// Nodes to which the listener was connected.
    pub reached: usize,
    /// For each tenth of the nodes, the seconds from the listener's start until so many had been
    /// reached. Shorter if not all were.
    pub seconds_to_tenths: Vec<f64>,
}

impl DiscoveryReport {
    /// The report for people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "From one boot node, a listener reached {} of {} nodes; seed {}.\n\n| nodes reached | seconds |\n|---|---|\n",
            self.reached, self.plan.nodes, self.plan.seed
        );
        for (nth, seconds) in (1..).zip(&self.seconds_to_tenths) {
            out += &format!("| {} | {seconds:.1} |\n", self.plan.nodes * nth / 10);
        }
        out
    }
}

/// Measures how soon a listener finds a network of nodes.
///
/// # Errors
/// The plan cannot be played, or loopback sockets are not available.
pub async fn run_discovery(plan: DiscoveryPlan) -> Result<DiscoveryReport, SimError> {
    super::check_number("nodes of the laboratory", plan.nodes, 8, 500)?;
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let random = SeededRandom::new(plan.seed);
    let mut network = StakedNetwork::start(random, plan.nodes, EPOCH, (StakeOf::All, plan.nodes), 0, &stop).await?;
    let boot = network.announce().await?;
    // Three quarters of the places are for nodes that are dialled.
    let config = GossipConfig { max_peers: plan.nodes * 2, discovery: Some(finds(0, boot)), ..GossipConfig::default() };
    let began = Instant::now();
    let mut listener = Post::start(0, config, &network.network, &random, None, stop.clone()).await?;
    // Who has been reached is looked at below.
    let _ = tokio::time::timeout(Duration::from_secs(plan.seconds), listener.has_connected(plan.nodes)).await;
    stop.cancel();
    let heard = listener.heard.await.map_err(|_| SimError::BrokenOff)?;
    let seconds = seconds_to_meet(&heard, began);
    let tenth = |nth: usize| seconds.get((plan.nodes * nth / 10).max(1) - 1).copied();
    Ok(DiscoveryReport { reached: seconds.len(), seconds_to_tenths: (1..=10).map_while(tenth).collect(), plan })
}

/// After how many seconds each node was met, in order.
pub(super) fn seconds_to_meet(heard: &Heard, began: Instant) -> Vec<f64> {
    let mut seconds: Vec<f64> = heard.met.values().map(|at| at.duration_since(began).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// How a listener finds nodes from a boot node.
pub(super) fn finds(post: usize, boot: BootNode) -> DiscoveryConfig {
    let listen = vec![format!("{}:0", Post::ip(post)).parse().expect("an address and a port")];
    DiscoveryConfig { listen, boot_nodes: vec![boot], allow_private: true, ..DiscoveryConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short form: a listener that knows one boot node finds all of sixteen nodes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_listener_finds_all_nodes_from_one_boot_node() {
        let plan = DiscoveryPlan { seed: 3, nodes: 16, seconds: 120 };
        println!("seed {}", plan.seed);
        let report = run_discovery(plan).await.unwrap();
        println!("{}", report.table());
        assert_eq!((report.reached, report.seconds_to_tenths.len()), (16, 10));
        assert!(report.seconds_to_tenths.is_sorted(), "{report:?}");
    }
}
