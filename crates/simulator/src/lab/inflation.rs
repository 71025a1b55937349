//! An adversary that inflates the figure of the stake that is heard first-hand.
//!
//! It is connected to all nodes without delay, and to the listener, as one peer or as several.
//! These announce no subnet and forward the votes of others, before these come from their
//! publishers. So each vote looks like one of the peer's own. It forwards everything, or only what
//! comes from nodes to which the listener is not connected, which nobody contradicts.

use super::full_node::{FullNode, Publish, Where, voter_and_target};
use super::listener::{FirstHandMeasure, FirstHandRule, Inference, Post};
use super::staked_network::{Due, SUBNETS, StakeOf, StakedNetwork};
use super::{ANNOUNCED_FOR, SETTLE, SMALL_MESH, check_number};
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use consensus::Gwei;
use serde::{Deserialize, Serialize};
use sources::gossip::GossipConfig;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Stake of the whole network: mainnet's, because the limits of the figure depend on it.
const ALL_STAKE: u64 = 34_000_000 * 1_000_000_000;
/// Messages of the adversary that may wait. Further ones are lost.
const COPIES: usize = 1024;
/// Epochs at the end that count: the figure has settled.
const COUNTED: usize = 4;

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InflationPlan {
    pub seed: u64,
    pub nodes: usize,
    /// Nodes to which the listener is connected.
    pub connections: usize,
    pub validators: usize,
    /// The duration of an epoch in milliseconds.
    pub epoch_ms: u64,
    pub epochs: u64,
    /// Each number of hostile peers that is played, with either conduct.
    pub hostile: Vec<usize>,
}

/// What one adversary has reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InflationRow {
    /// Hostile peers.
    pub hostile: usize,
    /// Whether they forward only the votes of nodes to which the listener is not connected.
    pub only_strangers: bool,
    /// The part of the stake to whose nodes the listener was connected.
    pub truth: f64,
    /// What the figure says.
    pub figure: f64,
    /// What it would say without its limits.
    pub claimed: f64,
    /// Peers that did not count.
    pub discarded: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InflationReport {
    pub plan: InflationPlan,
    pub rows: Vec<InflationRow>,
}

/// Plays an adversary that inflates the first-hand figure. `rule` makes what computes the figure.
/// `progress` is called with the number of epochs that are over.
///
/// # Errors
/// The plan cannot be played, or loopback sockets are not available.
pub async fn run_inflation(
    plan: InflationPlan,
    rule: &(dyn Fn() -> Box<dyn FirstHandRule> + Sync),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<InflationReport, SimError> {
    check_number("nodes of the laboratory", plan.nodes, 8, 500)?;
    check_number("connections of the listener", plan.connections, 1, plan.nodes)?;
    check_number("validators", plan.validators, plan.nodes, 5_000)?;
    check_number("epochs", plan.epochs as usize, COUNTED, 1_000)?;
    let mut rows = Vec::new();
    for (nth, (hostile, only_strangers)) in (0..).zip(plan.adversaries()) {
        let before = nth * plan.epochs;
        rows.push(plan.play(hostile, only_strangers, rule(), &mut |epoch| progress(before + epoch)).await?);
    }
    Ok(InflationReport { plan, rows })
}

impl Default for InflationPlan {
    fn default() -> Self {
        let hostile = vec![0, 1, 4];
        Self { seed: 1, nodes: 100, connections: 25, validators: 300, epoch_ms: 6_000, epochs: 12, hostile }
    }
}

impl InflationPlan {
    /// How many epochs are played.
    pub fn n_epochs(&self) -> u64 {
        self.adversaries().len() as u64 * self.epochs
    }

    /// Numbers of hostile peers, and their conduct.
    fn adversaries(&self) -> Vec<(usize, bool)> {
        let of = |n: &usize| if *n == 0 { vec![(0, false)] } else { vec![(*n, false), (*n, true)] };
        self.hostile.iter().flat_map(of).collect()
    }

    async fn play(
        &self,
        hostile: usize,
        only_strangers: bool,
        rule: Box<dyn FirstHandRule>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<InflationRow, SimError> {
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let (random, epoch) = (SeededRandom::new(self.seed), Duration::from_millis(self.epoch_ms));
        let n_messages = self.epochs as usize * self.validators;
        let stake = (StakeOf::All, self.validators);
        let network = StakedNetwork::start(random, self.nodes, epoch, stake, n_messages, &stop).await?;
        let balances = vec![Gwei::new(ALL_STAKE / self.validators as u64); self.validators];
        let config = GossipConfig {
            max_peers: (self.connections + hostile) * 2,
            mesh_peers: SMALL_MESH,
            announced_for: ANNOUNCED_FOR,
            ..GossipConfig::default()
        };
        let inference = Inference { rule, balances };
        let mut listener = Post::start(0, config, &network.network, &random, Some(inference), stop.clone()).await?;
        let mut order: Vec<usize> = (0..self.nodes).collect();
        order.sort_by_cached_key(|node| random.hash("listens to", &[*node as u64]));
        let connected: BTreeSet<usize> = order.into_iter().take(self.connections).collect();
        for node in &connected {
            // A node that has ended is one that the listener waits for in vain.
            let _ = network.nodes[*node].dial.send(listener.address.clone()).await;
        }
        if hostile > 0 {
            let spared = if only_strangers { connected } else { BTreeSet::new() };
            adversary(&network, hostile, spared, &listener, &stop).await?;
        }
        listener.is_connected(self.connections + hostile).await?;
        tokio::time::sleep(SETTLE).await;

        let mut due = network.votes(self.epochs, epoch)?.into_iter().peekable();
        let began = tokio::time::Instant::now();
        let mut measured: Vec<(FirstHandMeasure, f64)> = Vec::new();
        for nth in 0..self.epochs {
            let measured_at = epoch.mul_f64(nth as f64 + 1.25);
            while let Some(Due { at, node, publish }) = due.next_if(|due| due.at < measured_at) {
                tokio::time::sleep_until(began + at).await;
                let _ = network.nodes[node].publish.send(publish).await;
            }
            tokio::time::sleep_until(began + measured_at).await;
            let figure = listener.measure(network.epoch(nth)).await?;
            measured.push((figure, network.stake_of(&listener.connected())));
            progress(nth + 1);
        }
        stop.cancel();
        listener.heard.await.map_err(|_| SimError::BrokenOff)?;
        let counted = &measured[measured.len() - COUNTED.min(measured.len())..];
        let mean = |of: &dyn Fn(&(FirstHandMeasure, f64)) -> f64| counted.iter().map(of).sum::<f64>() / counted.len() as f64;
        let part = |stake: Gwei| stake.as_u64() as f64 / ALL_STAKE as f64;
        Ok(InflationRow {
            hostile,
            only_strangers,
            truth: mean(&|(_, truth)| *truth),
            figure: mean(&|(figure, _)| part(figure.first_hand)),
            claimed: mean(&|(figure, _)| part(figure.claimed)),
            discarded: mean(&|(figure, _)| figure.n_discarded as f64),
        })
    }
}

/// Starts a node that is connected to all others, and hostile peers of the listener that forward
/// what it hears, but for the votes of `spared` nodes. Each validator is forwarded by one of them.
async fn adversary(
    network: &StakedNetwork,
    hostile: usize,
    spared: BTreeSet<usize>,
    listener: &Post,
    stop: &CancellationToken,
) -> Result<(), SimError> {
    let n = network.nodes.len();
    let (copies, mut heard) = mpsc::channel::<(Where, Vec<u8>)>(COPIES);
    // What it hears of its own peers is not looked at.
    let (unheard, _) = mpsc::channel(1);
    let mut ear = network.plan_of(n);
    (ear.subscribed, ear.copies) = ((0..SUBNETS).collect(), Some(copies));
    let ear = FullNode::start(ear, stop.clone()).await?;
    for node in &network.nodes {
        let _ = ear.dial.send(node.address.clone()).await;
    }
    let mut peers = Vec::new();
    for nth in 0..hostile {
        let mut peer = network.plan_of(n + 1 + nth);
        peer.copies = Some(unheard.clone());
        let peer = FullNode::start(peer, stop.clone()).await?;
        let _ = peer.dial.send(listener.address.clone()).await;
        peers.push(peer);
    }
    let home = network.home.clone();
    tokio::spawn(async move {
        // It ends with the node.
        while let Some((topic, payload)) = heard.recv().await {
            let Some((validator, _)) = voter_and_target(&payload) else { continue };
            let is_spared = home.get(validator as usize).is_none_or(|node| spared.contains(node));
            if !is_spared {
                let publish = Publish { trial: 0, topic, payload };
                let _ = peers[validator as usize % peers.len()].publish.send(publish).await;
            }
        }
        drop(ear);
    });
    Ok(())
}

impl InflationReport {
    /// The report as a table for people, in Markdown.
    pub fn table(&self) -> String {
        let plan = &self.plan;
        let mut out = format!(
            "{} nodes with equal stake, {} of them connected, beside hostile peers that forward the votes of others before these come \
             themselves; the last {COUNTED} of {} epochs; seed {}.\n\n\
             | hostile peers | they forward | truth | figure | inflated by | without limits | discarded |\n|---|---|---|---|---|---|---|\n",
            plan.nodes, plan.connections, plan.epochs, plan.seed
        );
        for row in &self.rows {
            let what = match (row.hostile, row.only_strangers) {
                (0, _) => "nothing",
                (_, false) => "everything",
                (_, true) => "what nobody else brings",
            };
            let [truth, figure, claimed] = [row.truth, row.figure, row.claimed].map(|part| part * 100.0);
            let (by, hostile, discarded) = (figure - truth, row.hostile, row.discarded);
            out += &format!(
                "| {hostile} | {what} | {truth:.1} % | {figure:.1} % | {by:+.1} % | {claimed:.1} % | {discarded:.1} |\n"
            );
        }
        out
    }
}
