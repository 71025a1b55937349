//! Whom to keep: what a listener gains that has fewer places than there are nodes.
//!
//! Half of the stake is on a tenth of the nodes. A listener with 25 places among 100 nodes finds
//! them by discv5 and gives them turns, as the watcher does, with epochs of four seconds in place
//! of
//! 384. Then nodes that are drawn by their stake publish double votes, 5 s apart: only who is
//! connected to the publisher of the second vote hears it.
//!
//! The same is played with other rules in place of the watcher's ([`KeptPeers`]), each in a network
//! of its own with the same nodes, stake, votes and conflicts.
//!
//! What differs from the watcher's hours: a node that had a turn is left alone for a minute or
//! more, as after a failure, because the nodes here send no status. The addresses are private, so
//! that prefixes do not count.

use super::discovery::finds;
use super::listener::{FirstHandRule, Inference, Post};
use super::report::interval;
use super::staked_network::{Due, StakeOf, StakedNetwork};
use super::{AFTERWARDS, SMALL_MESH, VOTER, check_number};
use crate::error::SimError;
use crate::seeded_random::SeededRandom;
use consensus::Gwei;
use serde::{Deserialize, Serialize};
use sources::gossip::{GossipConfig, KeepUseful, PeerCandidate, PeerId, PeerSelection};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Epochs in which a peer shows what it publishes, as in the watcher.
const TRIAL_EPOCHS: u64 = 8;
/// Time between two conflicts, and between the two votes of one.
const CONFLICT_EVERY: Duration = Duration::from_millis(250);
const SKEW: Duration = Duration::from_secs(5);
/// The watcher's pauses, about a hundred times shorter.
const NEWCOMER: Duration = Duration::from_millis(500);
const FASTEST_TURN: Duration = Duration::from_millis(50);
/// What a validator has at stake.
const BALANCE: Gwei = Gwei::new(32_000_000_000);

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeighingPlan {
    pub seed: u64,
    pub nodes: usize,
    /// Peers that the listener may have.
    pub places: usize,
    pub validators: usize,
    /// The duration of an epoch in milliseconds.
    pub epoch_ms: u64,
    /// Times of eight epochs that pass before the first conflict.
    pub trials: u64,
    pub conflicts: usize,
    pub kept: Vec<KeptPeers>,
}

/// Whom a listener keeps when its places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptPeers {
    /// The watcher's rule, [`KeepUseful`].
    Useful,
    /// Those who came first.
    First,
    /// Any.
    Random,
}

impl KeptPeers {
    pub const ALL: [Self; 3] = [Self::Useful, Self::First, Self::Random];

    const fn name(self) -> &'static str {
        match self {
            Self::Useful => "who is useful (the watcher's rule)",
            Self::First => "who came first",
            Self::Random => "any, at random",
        }
    }

    fn selection(self, random: SeededRandom) -> Arc<dyn PeerSelection> {
        match self {
            Self::Useful => Arc::new(KeepUseful),
            Self::First => Arc::new(KeepFirst),
            Self::Random => Arc::new(KeepRandom { random, n_asked: AtomicU64::new(0) }),
        }
    }
}

/// What one listener has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeighingRow {
    pub kept: KeptPeers,
    /// Nodes to which it was ever connected.
    pub met: usize,
    /// The part of the stake to whose nodes it was connected, after each time of eight epochs.
    pub stake_after_trials: Vec<f64>,
    /// The same while conflicts were played: the mean, and what the watcher's figure says.
    pub stake: f64,
    pub figure: f64,
    /// Conflicts of which both votes were published.
    pub conflicts: usize,
    /// The part of them of which both votes were heard, and the interval that contains the true
    /// share in 95 of 100 cases.
    pub share: f64,
    pub low: f64,
    pub high: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeighingReport {
    pub plan: WeighingPlan,
    pub rows: Vec<WeighingRow>,
}

/// Weighs the watcher's choice of peers against others. `rule` makes what infers who publishes
/// whose votes. `progress` is called with the number of epochs that are over.
///
/// # Errors
/// The plan cannot be played, or loopback sockets are not available.
pub async fn run_weighing(
    plan: WeighingPlan,
    rule: &(dyn Fn() -> Box<dyn FirstHandRule> + Sync),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<WeighingReport, SimError> {
    plan.check()?;
    let mut rows = Vec::new();
    for (nth, kept) in (0..).zip(&plan.kept) {
        let before = nth * plan.n_epochs();
        rows.push(plan.play(*kept, rule(), &mut |epoch| progress(before + epoch)).await?);
    }
    Ok(WeighingReport { plan, rows })
}

impl Default for WeighingPlan {
    fn default() -> Self {
        let kept = KeptPeers::ALL.to_vec();
        Self { seed: 1, nodes: 100, places: 25, validators: 240, epoch_ms: 4_000, trials: 7, conflicts: 100, kept }
    }
}

/// A conflict: the payloads of its two votes.
struct Conflict([Vec<u8>; 2]);

impl WeighingPlan {
    /// How many epochs are played for each listener.
    pub fn n_epochs(&self) -> u64 {
        let conflicts = CONFLICT_EVERY * self.conflicts as u32 + SKEW + AFTERWARDS;
        self.trials * TRIAL_EPOCHS + (conflicts.as_millis() as u64).div_ceil(self.epoch_ms.max(1))
    }

    fn check(&self) -> Result<(), SimError> {
        check_number("nodes of the laboratory", self.nodes, 10, 500)?;
        // With fewer, the watcher has no place for newcomers.
        check_number("places", self.places, 10, self.nodes)?;
        check_number("validators", self.validators, self.nodes, 5_000)?;
        check_number("milliseconds of an epoch", self.epoch_ms as usize, 800, 60_000)?;
        check_number("times of eight epochs", self.trials as usize, 1, 100)?;
        check_number("conflicts", self.conflicts, 1, 10_000)
    }

    async fn play(
        &self,
        kept: KeptPeers,
        rule: Box<dyn FirstHandRule>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<WeighingRow, SimError> {
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let (random, epoch) = (SeededRandom::new(self.seed), Duration::from_millis(self.epoch_ms));
        let n_messages = self.n_epochs() as usize * self.validators + 2 * self.conflicts;
        let stake = (StakeOf::Few, self.validators);
        let mut network = StakedNetwork::start(random, self.nodes, epoch, stake, n_messages, &stop).await?;
        let boot = network.announce().await?;
        let config = GossipConfig {
            max_peers: self.places,
            mesh_peers: SMALL_MESH,
            selection: kept.selection(random),
            newcomer: NEWCOMER,
            announced_for: NEWCOMER,
            fastest_turn: FASTEST_TURN,
            discovery: Some(finds(0, boot)),
            ..GossipConfig::default()
        };
        let inference = Inference { rule, balances: vec![BALANCE; self.validators] };
        let listener = Post::start(0, config, &network.network, &random, Some(inference), stop.clone()).await?;

        let mut due = network.votes(self.n_epochs(), epoch)?;
        let conflicts = self.conflicts(&network, epoch, &mut due)?;
        due.sort_by_key(|due| due.at);
        let (mut after_trials, mut during) = (Vec::new(), Vec::new());
        let mut due = due.into_iter().peekable();
        let began = tokio::time::Instant::now();
        // The watcher measures an epoch a quarter after its end.
        for nth in 0..self.n_epochs() {
            let measured_at = epoch.mul_f64(nth as f64 + 1.25);
            while let Some(Due { at, node, publish }) = due.next_if(|due| due.at < measured_at) {
                tokio::time::sleep_until(began + at).await;
                // A node that has ended publishes nothing, and the conflict counts as not heard.
                let _ = network.nodes[node].publish.send(publish).await;
            }
            tokio::time::sleep_until(began + measured_at).await;
            let measured = listener.measure(network.epoch(nth)).await?;
            let stake = network.stake_of(&listener.connected());
            if nth < self.trials * TRIAL_EPOCHS {
                after_trials.extend((nth % TRIAL_EPOCHS == TRIAL_EPOCHS - 1).then_some(stake));
            } else {
                let all = BALANCE.as_u64() * self.validators as u64;
                during.push((stake, measured.first_hand.as_u64() as f64 / all as f64));
            }
            progress(nth + 1);
        }
        tokio::time::sleep(AFTERWARDS).await;

        stop.cancel();
        let heard = listener.heard.await.map_err(|_| SimError::BrokenOff)?;
        let is_published = |nth: &usize| {
            let of_conflict = self.n_epochs() as usize * self.validators + 2 * nth;
            network.record.not_published[of_conflict..of_conflict + 2].iter().all(|lost| !lost.load(Ordering::Relaxed))
        };
        let published: Vec<&Conflict> = (0..conflicts.len()).filter(is_published).map(|nth| &conflicts[nth]).collect();
        let is_heard = |Conflict(votes): &&&Conflict| votes.iter().all(|vote| heard.copies.contains_key(vote));
        let n_heard = published.iter().filter(is_heard).count();
        let [share, low, high] = interval(&[n_heard as f64 / published.len().max(1) as f64], published.len());
        let mean = |of: fn(&(f64, f64)) -> f64| during.iter().map(of).sum::<f64>() / during.len().max(1) as f64;
        Ok(WeighingRow {
            kept,
            met: heard.met.keys().filter(|peer| network.node_of(&peer.to_bytes()).is_some()).count(),
            stake_after_trials: after_trials,
            stake: mean(|(stake, _)| *stake),
            figure: mean(|(_, figure)| *figure),
            conflicts: published.len(),
            share,
            low,
            high,
        })
    }

    /// Adds the votes of the conflicts. Both publishers are drawn by stake, and are two nodes.
    fn conflicts(&self, network: &StakedNetwork, epoch: Duration, due: &mut Vec<Due>) -> Result<Vec<Conflict>, SimError> {
        let first_epoch = self.trials * TRIAL_EPOCHS;
        let mut conflicts = Vec::new();
        for nth in 0..self.conflicts as u64 {
            let draw = |which: u64, other: Option<usize>| {
                let homes: Vec<usize> = network.home.iter().copied().filter(|node| Some(*node) != other).collect();
                homes[network.random.below(homes.len() as u64, "publisher", &[nth, which]) as usize]
            };
            let first = draw(0, None);
            let mut payloads = Vec::new();
            for (which, node) in (0..).zip([first, draw(1, Some(first))]) {
                let at = epoch * first_epoch as u32 + CONFLICT_EVERY * nth as u32 + SKEW * which;
                // No validator of the registry, so that it does not count in the figure.
                let publish = network.vote(VOTER + nth, u64::from(which), first_epoch, due.len())?;
                payloads.push(publish.payload.clone());
                due.push(Due { at, node, publish });
            }
            conflicts.extend(<[Vec<u8>; 2]>::try_from(payloads).map(Conflict));
        }
        Ok(conflicts)
    }
}

impl WeighingReport {
    /// The report as a table for people, in Markdown.
    pub fn table(&self) -> String {
        let plan = &self.plan;
        let mut out = format!(
            "{} nodes, {} places, epochs of {} ms; half of the stake on a tenth of the nodes, three tenths without. {} conflicts, \
             5 s apart, by publishers drawn by stake; seed {}.\n\n\
             | the listener keeps | nodes met | stake connected | first-hand figure | both votes heard |\n|---|---|---|---|---|\n",
            plan.nodes, plan.places, plan.epoch_ms, plan.conflicts, plan.seed
        );
        for row in &self.rows {
            let [stake, figure, share, low, high] =
                [row.stake, row.figure, row.share, row.low, row.high].map(|part| part * 100.0);
            out += &format!(
                "| {} | {} | {stake:.0} % | {figure:.0} % | {share:.0} % [{low:.0}, {high:.0}] |\n",
                row.kept.name(),
                row.met
            );
        }
        out += "\nStake connected after each time of eight epochs:\n\n";
        for row in &self.rows {
            let stake: Vec<String> = row.stake_after_trials.iter().map(|part| format!("{:.0} %", part * 100.0)).collect();
            out += &format!("- {}: {}\n", row.kept.name(), stake.join(", "));
        }
        out
    }
}

/// Keeps those who came first.
#[derive(Debug)]
struct KeepFirst;

impl PeerSelection for KeepFirst {
    fn surplus(&self, candidates: &[PeerCandidate], n_surplus: usize) -> Vec<PeerId> {
        let mut oldest_first: Vec<&PeerCandidate> = candidates.iter().collect();
        oldest_first.sort_by_key(|candidate| Reverse(candidate.connected_for));
        oldest_first.iter().rev().take(n_surplus).map(|candidate| candidate.peer).collect()
    }
}

/// Keeps any, at random.
#[derive(Debug)]
struct KeepRandom {
    random: SeededRandom,
    n_asked: AtomicU64,
}

impl PeerSelection for KeepRandom {
    fn surplus(&self, candidates: &[PeerCandidate], n_surplus: usize) -> Vec<PeerId> {
        let asked = self.n_asked.fetch_add(1, Ordering::Relaxed);
        // In the order of their ids, so that it does not depend on the order of the candidates.
        let peers: BTreeMap<Vec<u8>, PeerId> = candidates.iter().map(|one| (one.peer.to_bytes(), one.peer)).collect();
        let mut drawn: Vec<(usize, PeerId)> = peers.into_values().enumerate().collect();
        drawn.sort_by_cached_key(|(nth, _)| self.random.hash("who goes", &[asked, *nth as u64]));
        drawn.into_iter().take(n_surplus).map(|(_, peer)| peer).collect()
    }
}
