//! What the laboratory has measured, as numbers and as a table.

use super::chart;
use super::{EVERY, LabPlan, ListenerMesh, NEAR, Played, Trial, model, subscribed};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Votes of a node that are looked at, and how many of them must have come first-hand, as in the
/// figure of a running watcher (`docs/coverage.md`).
const VOTES_OF_NODE: usize = 8;
const VOTES_NEEDED: usize = 2;

/// What listeners heard of the conflicts of one skew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabCell {
    pub skew_ms: u64,
    pub connections: usize,
    pub mesh: ListenerMesh,
    /// Listeners whose records are added up.
    pub posts: usize,
    /// Conflicts of which both votes were published.
    pub conflicts: usize,
    /// Part of the conflicts of which both votes were heard: the mean over the groups of posts.
    pub share: f64,
    /// The interval that contains the true share in 95 of 100 cases.
    pub low: f64,
    pub high: f64,
    /// The same with the chase, if conflicts are blocks: the second block counts as heard too if
    /// the vote for it was heard, because its sender has the block.
    pub with_chase: Option<[f64; 3]>,
    /// The share that the model expects of one post, if conflicts are votes.
    pub model: f64,
}

/// The figure of first-hand stake against the truth, for listeners with so many connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabFirstHand {
    pub connections: usize,
    pub mesh: ListenerMesh,
    /// Of the publishers that are not subscribed, the part of which two of the first eight votes
    /// came first from a peer that is not subscribed.
    pub figure: f64,
    /// Of the same publishers, the part that the listener is connected to.
    pub truth: f64,
    /// Of the votes of the connected ones, the part that came first-hand.
    pub votes: f64,
    /// Votes that came first from a peer that is not subscribed, and that has not published them.
    pub wrong: usize,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabReport {
    pub plan: LabPlan,
    /// For each skew, the part of the subscribed nodes that took the second vote: measured, and by
    /// the model. If conflicts are blocks, all nodes count that took the second one.
    pub taken: Vec<(u64, f64, f64)>,
    pub cells: Vec<LabCell>,
    /// Empty if conflicts are blocks.
    pub first_hand: Vec<LabFirstHand>,
    /// Conflicts that were left out because the machine was busy.
    pub spoilt: usize,
    /// Conflicts that were left out because a vote could not be published.
    pub not_published: usize,
    /// How late votes were published at the median, of 99 in 100, and at most, in microseconds.
    pub late_us: [u64; 3],
}

impl LabReport {
    pub(super) fn new(plan: LabPlan, played: &[Played]) -> Self {
        let (mut taken, mut cells, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for skew_ms in &plan.skews_ms {
            let model = model::shares(plan.nodes, Duration::from_millis(*skew_ms), &plan.connections, plan.seed);
            let (mut n_taken, mut n_could) = (0, 0);
            for network in played {
                let of_skew = network.conflicts(*skew_ms);
                n_taken += of_skew.iter().map(|nth| network.took_second[*nth]).sum::<usize>();
                n_could += of_skew.len() * if plan.blocks { plan.nodes } else { subscribed(plan.nodes) };
            }
            taken.push((*skew_ms, n_taken as f64 / n_could.max(1) as f64, model.taken));
            for mesh in &plan.meshes {
                for (connections, model) in plan.connections.iter().zip(&model.heard) {
                    let networks: Vec<&Played> = of(played, *mesh, *connections).collect();
                    let conflicts = networks.iter().map(|network| network.conflicts(*skew_ms).len()).sum();
                    let posts = (0..).map(|n| 1 << n).take_while(|posts| *posts <= plan.posts);
                    cells.extend(posts.map(|posts| {
                        let groups = |with_chase| -> Vec<f64> {
                            networks.iter().flat_map(|network| network.shares_heard(*skew_ms, posts, with_chase)).collect()
                        };
                        let [share, low, high] = interval(&groups(false), conflicts);
                        let with_chase = plan.blocks.then(|| interval(&groups(true), conflicts));
                        let (skew_ms, connections, mesh, model) = (*skew_ms, *connections, *mesh, *model);
                        LabCell { skew_ms, connections, mesh, posts, conflicts, share, low, high, with_chase, model }
                    }));
                }
            }
        }
        for mesh in plan.meshes.iter().filter(|_| !plan.blocks) {
            for connections in &plan.connections {
                rows.push(first_hand(&plan, &of(played, *mesh, *connections).collect::<Vec<_>>()));
            }
        }
        let late_us = played.iter().flat_map(|network| &network.published).map(|(_, late)| late.as_micros() as u64);
        let mut late_us: Vec<u64> = late_us.collect();
        late_us.sort_unstable();
        let late =
            |part: usize| late_us.get((late_us.len() * part / 100).min(late_us.len().saturating_sub(1))).copied().unwrap_or(0);
        Self {
            plan,
            taken,
            cells,
            first_hand: rows,
            spoilt: played.iter().map(|network| (0..network.trials.len()).filter(|nth| network.is_spoilt(*nth)).count()).sum(),
            not_published: played.iter().map(|network| network.not_published.len()).sum(),
            late_us: [late(50), late(99), late(100)],
        }
    }

    pub(super) fn cell(&self, skew_ms: u64, connections: usize, mesh: ListenerMesh, posts: usize) -> Option<&LabCell> {
        let key = (skew_ms, connections, mesh, posts);
        self.cells.iter().find(|cell| (cell.skew_ms, cell.connections, cell.mesh, cell.posts) == key)
    }

    /// The report as tables for people, in Markdown.
    pub fn table(&self) -> String {
        let plan = &self.plan;
        let mut out = format!(
            "{} nodes, {} of them on the subnet; {} conflicts of each skew in {} networks; seed {}. Votes were published up to {:.1} ms late \
             (99 of 100).\n",
            plan.nodes,
            subscribed(plan.nodes),
            plan.trials * plan.rounds,
            plan.rounds,
            plan.seed,
            self.late_us[1] as f64 / 1000.0
        );
        if !plan.blocks {
            out += "\nNodes of the subnet that take the second vote (model):";
            for (skew_ms, measured, model) in &self.taken {
                out += &format!(" {skew_ms} ms {:.1} % ({:.1} %);", measured * 100.0, model * 100.0);
            }
            out.pop();
            out += ".\n";
        }
        let posts: BTreeSet<usize> = self.cells.iter().map(|cell| cell.posts).collect();
        for mesh in &plan.meshes {
            for posts in &posts {
                out += &self.table_of(*mesh, *posts);
            }
        }
        if !plan.blocks {
            out += "\nHeard first-hand, of the publishers that are not subscribed: two of eight votes came first from such a peer.\n\n\
                | connections | mesh | figure | truth | votes | wrong |\n|---|---|---|---|---|---|\n";
            for row in &self.first_hand {
                let [figure, truth, votes] = [row.figure, row.truth, row.votes].map(|share| share * 100.0);
                let mesh = mesh_name(row.mesh);
                out +=
                    &format!("| {} | {mesh} | {figure:.1} % | {truth:.1} % | {votes:.0} % | {} |\n", row.connections, row.wrong);
            }
        }
        if self.spoilt > 0 {
            out += &format!("\n{} conflicts were left out: the machine was busy\n", self.spoilt);
        }
        if self.not_published > 0 {
            out += &format!("\n{} conflicts were left out: a node had nobody to publish to\n", self.not_published);
        }
        out
    }

    fn table_of(&self, mesh: ListenerMesh, posts: usize) -> String {
        let what = match (self.plan.blocks, posts) {
            (true, _) => "blocks heard; with the chase",
            (false, 1) => "votes heard (model)",
            (false, _) => "votes heard",
        };
        let plural = if posts == 1 { "" } else { "s" };
        let mut out = format!("\nBoth {what}: {}, {posts} post{plural}\n\n| skew |", mesh_name(mesh));
        for connections in &self.plan.connections {
            out += &format!(" {connections} connections |");
        }
        out += "\n|---|";
        out += &"---|".repeat(self.plan.connections.len());
        for skew_ms in &self.plan.skews_ms {
            out += &format!("\n| {skew_ms} ms |");
            for connections in &self.plan.connections {
                let Some(cell) = self.cell(*skew_ms, *connections, mesh, posts) else { continue };
                let [share, low, high, model] = [cell.share, cell.low, cell.high, cell.model].map(|share| share * 100.0);
                out += &format!(" {share:.1} % [{low:.0}, {high:.0}]");
                out += &match cell.with_chase.map(|chased| chased.map(|share| share * 100.0)) {
                    Some([share, low, high]) => format!("; {share:.1} % [{low:.0}, {high:.0}] |"),
                    None if posts == 1 => format!(" ({model:.0} %) |"),
                    None => " |".to_owned(),
                };
            }
        }
        out + "\n"
    }

    /// What one post heard, as an SVG image.
    pub fn chart(&self) -> String {
        chart::svg(self)
    }
}

pub(super) const fn mesh_name(mesh: ListenerMesh) -> &'static str {
    match mesh {
        ListenerMesh::Small => "8 peers in the mesh",
        ListenerMesh::All => "all in the mesh",
    }
}

/// The networks whose listeners are connected so.
fn of(played: &[Played], mesh: ListenerMesh, connections: usize) -> impl Iterator<Item = &Played> {
    played.iter().filter(move |network| (network.mesh, network.connections) == (mesh, connections))
}

impl Played {
    /// The conflicts of a skew of which both votes were published, while the machine was not busy.
    fn conflicts(&self, skew_ms: u64) -> Vec<usize> {
        let counts =
            |nth: &usize| self.trials[*nth].skew_ms == skew_ms && !self.not_published.contains(nth) && !self.is_spoilt(*nth);
        (0..self.trials.len()).filter(counts).collect()
    }

    /// Whether a message was published too late near one of a conflict's.
    fn is_spoilt(&self, nth: usize) -> bool {
        let first = EVERY * nth as u32;
        [first, first + Duration::from_millis(self.trials[nth].skew_ms)].into_iter().any(|at| {
            let from = self.published.partition_point(|(due, _)| *due + NEAR.0 < at);
            let mut near = self.published[from..].iter().take_while(|(due, _)| *due <= at + NEAR.1);
            near.any(|(_, late)| *late > self.late)
        })
    }

    /// For each group of `posts` listeners, the part of the conflicts of which it heard both votes.
    fn shares_heard(&self, skew_ms: u64, posts: usize, with_chase: bool) -> impl Iterator<Item = f64> {
        let conflicts = self.conflicts(skew_ms);
        self.heard.chunks_exact(posts).map(move |group| {
            let is_heard = |payload: &Vec<u8>| group.iter().any(|copies| copies.contains_key(payload));
            let both = |nth: &&usize| {
                let Trial { payloads: [first, second], vote, .. } = &self.trials[**nth];
                is_heard(first) && (is_heard(second) || with_chase && vote.as_ref().is_some_and(is_heard))
            };
            let n_heard = conflicts.iter().filter(both).count();
            n_heard as f64 / conflicts.len().max(1) as f64
        })
    }
}

/// The mean of the shares that groups of listeners heard of so many conflicts, and the interval
/// that contains the true share in 95 of 100 cases.
///
/// Two things vary: which conflicts were drawn, and to whom a listener is connected. The first is
/// that of a share of so many, the second shows in how much the groups differ. The greater of both
/// gives the number of draws for Wilson's interval. It takes groups of one network for one, as far
/// as the first is concerned, because they heard the same conflicts.
pub(super) fn interval(groups: &[f64], conflicts: usize) -> [f64; 3] {
    const Z: f64 = 1.96;
    let n_groups = groups.len().max(1) as f64;
    let share = groups.iter().sum::<f64>() / n_groups;
    let of_draws = share * (1.0 - share) / conflicts.max(1) as f64;
    let of_groups = groups.iter().map(|group| (group - share).powi(2)).sum::<f64>() / (n_groups - 1.0).max(1.0) / n_groups;
    let n = if of_groups > of_draws { share * (1.0 - share) / of_groups } else { conflicts.max(1) as f64 };
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [share, ((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0)]
}

/// What listeners would say of the publishers that they hear first-hand.
fn first_hand(plan: &LabPlan, networks: &[&Played]) -> LabFirstHand {
    let (mut n_counted, mut n_connected, mut n_publishers, mut wrong) = (0, 0, 0usize, 0);
    let (mut n_direct, mut n_of_connected) = (0, 0);
    for network in networks {
        // In the order of the trials: the votes of each publisher.
        let mut votes_of: BTreeMap<usize, Vec<&Vec<u8>>> = BTreeMap::new();
        for trial in &network.trials {
            for (node, payload) in trial.publishers.iter().zip(&trial.payloads) {
                votes_of.entry(*node).or_default().push(payload);
            }
        }
        for (copies, peers) in network.heard.iter().zip(&network.peers_of) {
            for (node, votes) in &votes_of {
                let id = &network.node_ids[*node];
                // What the listener takes for first-hand, and whether that is right.
                let claim = |vote: &&Vec<u8>| {
                    copies.get(*vote).filter(|copy| copy.subscribed == Some(false)).map(|copy| copy.sender == *id)
                };
                let claims: Vec<Option<bool>> = votes.iter().map(claim).collect();
                wrong += claims.iter().filter(|claim| **claim == Some(false)).count();
                if *node < subscribed(plan.nodes) {
                    continue;
                }
                n_publishers += 1;
                n_counted += usize::from(claims.iter().take(VOTES_OF_NODE).flatten().count() >= VOTES_NEEDED);
                if peers.contains(node) {
                    n_connected += 1;
                    n_of_connected += votes.len();
                    n_direct += claims.iter().filter(|claim| **claim == Some(true)).count();
                }
            }
        }
    }
    LabFirstHand {
        connections: networks.first().map_or(0, |network| network.connections),
        mesh: networks.first().map_or(ListenerMesh::Small, |network| network.mesh),
        figure: n_counted as f64 / n_publishers.max(1) as f64,
        truth: n_connected as f64 / n_publishers.max(1) as f64,
        votes: n_direct as f64 / n_of_connected.max(1) as f64,
        wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_never_nothing_and_grows_when_groups_differ() {
        let close = |[_, low, high]: [f64; 3], wanted: [f64; 2]| {
            assert!((low - wanted[0]).abs() < 0.001 && (high - wanted[1]).abs() < 0.001, "{low} {high}");
        };
        close(interval(&[0.5], 100), [0.404, 0.596]);
        close(interval(&[0.5, 0.5], 100), [0.404, 0.596]);
        close(interval(&[1.0], 200), [0.981, 1.0]);
        close(interval(&[0.0], 200), [0.0, 0.019]);
        // The mean of the groups has an error of 0.2, as if six conflicts had been drawn.
        close(interval(&[0.3, 0.7], 100), [0.192, 0.808]);
    }
}
