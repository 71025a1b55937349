//! The branches of the chain: which blocks there are, who votes for them, and where peers stand.
//!
//! This is no fork choice. A vote counts for the block that it names and for everything that this
//! block builds on, and each validator counts once per epoch.

use crate::observed::{PeersAtHead, Recent, TreeBlock, VoteTally, read_observed};
use crate::privacy::Privacy;
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::slots::ratio;
use crate::status::{CheckpointSchema, Head};
use axum::Json;
use axum::extract::State;
use consensus::{Checkpoint, Gwei, Root, Slot, ValidatorIndex};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::ToSchema;

/// Epochs whose votes are counted.
const EPOCHS: u64 = 2;
/// Branches that are shown, those with the most votes.
const MAX_BRANCHES: usize = 16;
/// Blocks that are voted for and not listed.
const MAX_UNKNOWN: usize = 16;
/// Groups of peers that are shown.
const MAX_PEER_ROWS: usize = 64;
/// The chain is split if a second branch has this share of the votes.
const SPLIT_SHARE: f64 = 0.1;

/// The branches of the chain.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeadsView {
    schema: u64,
    #[schema(value_type = String)]
    now_slot: Slot,
    /// The end of the branch that most of the stake backs.
    head: Head,
    #[schema(value_type = Option<CheckpointSchema>)]
    justified: Option<Checkpoint>,
    #[schema(value_type = Option<CheckpointSchema>)]
    finalized: Option<Checkpoint>,
    /// Blocks and votes from this slot on are counted.
    #[schema(value_type = String)]
    since_slot: Slot,
    /// Latest slot first. The number is bounded.
    blocks: Vec<HeadBlock>,
    /// Most votes first, 16 at most.
    branches: Vec<BranchView>,
    /// Blocks that are voted for and not listed, because they were not heard or are older.
    unknown_heads: Vec<UnknownHead>,
    /// Connected peers by client and by the head of their last Status message, most peers first.
    peers: Vec<PeersAtHead>,
    /// A second branch has a tenth of the votes or more.
    is_split: bool,
}

#[derive(Serialize, ToSchema)]
struct HeadBlock {
    #[schema(value_type = String)]
    root: Root,
    #[schema(value_type = Option<String>)]
    parent: Option<Root>,
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = Option<String>)]
    proposer: Option<ValidatorIndex>,
    /// Whether its proposer was drawn for its slot. Null if that is not known.
    in_turn: Option<bool>,
    /// No block builds on it.
    is_end: bool,
    is_head: bool,
    /// Votes that name this very block.
    votes: VoteTally,
    /// Votes for this block and for everything that builds on it.
    weight: WeightView,
    /// Connected peers whose last Status message names this block.
    peers: u64,
}

#[derive(Clone, Copy, Default, Serialize, ToSchema)]
struct WeightView {
    votes: u64,
    #[schema(value_type = Option<String>)]
    stake_gwei: Option<Gwei>,
}

#[derive(Serialize, ToSchema)]
struct BranchView {
    /// Its last block.
    #[schema(value_type = String)]
    end: Root,
    #[schema(value_type = String)]
    slot: Slot,
    /// The block at which it leaves the leading branch. Null for the leading one, or if that block
    /// is not listed.
    #[schema(value_type = Option<String>)]
    from: Option<Root>,
    #[schema(value_type = Option<String>)]
    from_slot: Option<Slot>,
    /// Its blocks after `from`.
    blocks: u64,
    /// Votes for its blocks after `from`. Of the leading branch: for its blocks since the earliest
    /// of the other branches left it.
    votes: VoteTally,
    /// Its share of the votes of all branches. Null if there are none.
    weight_share: Option<f64>,
}

#[derive(Serialize, ToSchema)]
struct UnknownHead {
    #[schema(value_type = String)]
    root: Root,
    votes: u64,
}

/// Branches, their weight, and where connected peers stand.
#[utoipa::path(get, path = "/v1/heads", operation_id = "heads", tag = "network", responses((status = 200, description = "branches", body = HeadsView)))]
pub(crate) async fn heads(State(shared): State<Arc<Shared>>) -> Result<Json<HeadsView>, ProblemDetails> {
    let per_epoch = shared.observed.network().preset().slots_per_epoch;
    let privacy = shared.privacy.clone();
    // With some hundred labels the sums take milliseconds.
    let view = read_observed(&shared, move |source| Ok(HeadsView::of(&source.recent(), per_epoch, &privacy))).await?;
    Ok(Json(view))
}

/// Votes and blocks, for walks along branches.
struct Branches<'a> {
    blocks: BTreeMap<Root, &'a TreeBlock>,
    votes: BTreeMap<Root, VoteTally>,
}

impl Branches<'_> {
    /// A block and those that it builds on, as far as they are listed.
    fn path(&self, end: Root) -> impl Iterator<Item = &TreeBlock> {
        let block = |root: &Root| self.blocks.get(root).copied();
        // A parent has an earlier slot, so no path is a circle, whatever a block claims.
        std::iter::successors(block(&end), move |child| block(&child.parent?).filter(|parent| parent.slot < child.slot))
    }

    fn votes_of<'b>(&self, blocks: impl Iterator<Item = &'b Root>) -> VoteTally {
        VoteTally::sum(blocks.filter_map(|root| self.votes.get(root)))
    }
}

impl HeadsView {
    fn of(recent: &Recent, slots_per_epoch: u64, privacy: &Privacy) -> Self {
        let since = recent.now.saturating_sub(EPOCHS * slots_per_epoch);
        let mut by_head: BTreeMap<Root, Vec<&VoteTally>> = BTreeMap::new();
        for row in recent.slots.range(since..).flat_map(|(_, slot)| &slot.votes) {
            by_head.entry(row.head).or_default().push(&row.tally);
        }
        let votes: BTreeMap<Root, VoteTally> =
            by_head.into_iter().map(|(head, tallies)| (head, privacy.tally(VoteTally::sum(tallies)))).collect();
        let mut listed: Vec<&TreeBlock> = recent.blocks.iter().filter(|block| block.slot >= since).collect();
        listed.sort_by_key(|block| (std::cmp::Reverse(block.slot), block.root));
        let mut unknown: Vec<UnknownHead> = votes
            .iter()
            .filter(|(root, _)| listed.iter().all(|block| block.root != **root))
            .map(|(root, tally)| UnknownHead { root: *root, votes: tally.votes })
            .collect();
        unknown.sort_by_key(|head| (std::cmp::Reverse(head.votes), head.root));
        unknown.truncate(MAX_UNKNOWN);
        let branches = Branches { blocks: listed.iter().map(|block| (block.root, *block)).collect(), votes };
        let weight = weights(&listed, &branches);
        let parents: BTreeSet<Root> = listed.iter().filter_map(|block| block.parent).collect();
        let ends = listed.iter().filter(|block| !parents.contains(&block.root));
        let views = branch_views(ends.map(|block| block.root).collect(), &branches);
        let mut peers = recent.peers.clone();
        peers.sort_by_key(|row| (std::cmp::Reverse(row.peers), row.client, row.head_root));
        let peers_at = |root| peers.iter().filter(|row| row.head_root == Some(root)).map(|row| row.peers).sum();
        let blocks = listed.iter().map(|block| HeadBlock {
            root: block.root,
            parent: block.parent,
            slot: block.slot,
            proposer: block.proposer,
            in_turn: block.in_turn,
            is_end: !parents.contains(&block.root),
            is_head: block.root == recent.head.root,
            votes: branches.votes.get(&block.root).cloned().unwrap_or_default(),
            weight: weight.get(&block.root).copied().unwrap_or_default(),
            peers: peers_at(block.root),
        });
        let blocks = blocks.collect();
        peers.truncate(MAX_PEER_ROWS);
        Self {
            schema: 1,
            now_slot: recent.now,
            head: recent.head,
            justified: recent.justified,
            finalized: recent.finalized,
            since_slot: since,
            blocks,
            is_split: views.iter().skip(1).any(|branch| branch.weight_share.is_some_and(|share| share >= SPLIT_SHARE)),
            branches: views,
            unknown_heads: unknown,
            peers,
        }
    }
}

/// The votes of each block and of everything that builds on it. `listed` has later blocks first.
fn weights(listed: &[&TreeBlock], branches: &Branches<'_>) -> BTreeMap<Root, WeightView> {
    let mut weight: BTreeMap<Root, WeightView> = BTreeMap::new();
    let add = |sum: &mut WeightView, votes: u64, stake: Option<Gwei>| {
        sum.votes += votes;
        sum.stake_gwei = match (sum.stake_gwei, stake) {
            (Some(own), Some(more)) => Some(own.saturating_add(more.as_u64())),
            (None, stake) | (stake, None) => stake,
        };
    };
    for block in listed {
        let sum = weight.entry(block.root).or_default();
        if let Some(votes) = branches.votes.get(&block.root) {
            add(sum, votes.votes, votes.stake_gwei);
        }
        let sum = *sum;
        let parent = block.parent.and_then(|parent| branches.blocks.get(&parent)).filter(|parent| parent.slot < block.slot);
        if let Some(parent) = parent {
            add(weight.entry(parent.root).or_default(), sum.votes, sum.stake_gwei);
        }
    }
    weight
}

/// The branches that end in these blocks, most votes first. Ends for which nobody votes and whose
/// proposer was not drawn are left out: anyone with a key can sign such blocks.
fn branch_views(ends: Vec<Root>, branches: &Branches<'_>) -> Vec<BranchView> {
    let mut ranked: Vec<(u64, Slot, Root)> = Vec::new();
    for end in ends {
        let own = branches.votes.get(&end).map_or(0, |votes| votes.votes);
        let block = branches.blocks[&end];
        if own > 0 || block.in_turn != Some(false) {
            let total = branches.path(end).filter_map(|block| branches.votes.get(&block.root)).map(|votes| votes.votes).sum();
            ranked.push((total, block.slot, end));
        }
    }
    ranked.sort_by(|a, b| b.cmp(a));
    ranked.truncate(MAX_BRANCHES);
    let Some((_, _, leading)) = ranked.first().copied() else { return Vec::new() };
    let leading_path: Vec<&TreeBlock> = branches.path(leading).collect();
    let is_leading: BTreeSet<Root> = leading_path.iter().map(|block| block.root).collect();
    let mut views: Vec<BranchView> = Vec::new();
    for (_, slot, end) in ranked {
        let own: Vec<Root> = branches.path(end).map(|block| block.root).take_while(|root| !is_leading.contains(root)).collect();
        let from = branches.path(end).find(|block| is_leading.contains(&block.root)).filter(|_| end != leading);
        views.push(BranchView {
            end,
            slot,
            from: from.map(|block| block.root),
            from_slot: from.map(|block| block.slot),
            blocks: own.len() as u64,
            votes: branches.votes_of(own.iter()),
            weight_share: None,
        });
    }
    // Votes before the first fork say nothing about the branches.
    let first_fork = views.iter().skip(1).filter_map(|branch| branch.from_slot).min();
    let since_fork: Vec<Root> =
        leading_path.iter().filter(|block| first_fork.is_none_or(|fork| block.slot > fork)).map(|block| block.root).collect();
    views[0].blocks = since_fork.len() as u64;
    views[0].votes = branches.votes_of(since_fork.iter());
    let total = views.iter().map(|branch| branch.votes.votes).sum();
    for branch in &mut views {
        branch.weight_share = ratio(branch.votes.votes, total);
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{ClientVotes, ObservedSlot, ObservedVotes};
    use crate::{NoKeys, OwnKeys};

    fn root(byte: u8) -> Root {
        Root::repeat_byte(byte)
    }

    fn block(byte: u8, parent: u8, slot: u64) -> TreeBlock {
        let (slot, proposer) = (Slot::new(slot), Some(ValidatorIndex::new(u64::from(byte))));
        TreeBlock { root: root(byte), parent: Some(root(parent)), slot, proposer, in_turn: Some(true) }
    }

    fn slot(slot: u64, votes: &[(u8, u64)]) -> (Slot, Arc<ObservedSlot>) {
        let row = |(head, votes): &(u8, u64)| ObservedVotes {
            head: root(*head),
            source: Checkpoint::default(),
            target: Checkpoint::default(),
            tally: VoteTally {
                votes: *votes,
                stake_gwei: Some(Gwei::new(*votes * 32)),
                by_client: vec![ClientVotes { client: "teku", votes: *votes }],
                ..VoteTally::default()
            },
        };
        let slot = Slot::new(slot);
        (slot, Arc::new(ObservedSlot { slot, votes: votes.iter().map(row).collect(), ..ObservedSlot::default() }))
    }

    /// ```text
    /// 1 (slot 10) <- 2 (11) <- 4 (13)
    ///             <- 3 (12) <- 5 (14)     6 (14), by nobody's turn, on 2
    /// ```
    #[test]
    fn votes_count_for_a_block_and_for_what_it_builds_on() {
        let mut junk = block(6, 2, 14);
        junk.in_turn = Some(false);
        let recent = Recent {
            now: Slot::new(15),
            head: Head { slot: Slot::new(14), root: root(5) },
            blocks: vec![block(1, 0, 10), block(2, 1, 11), block(3, 1, 12), block(4, 2, 13), block(5, 3, 14), junk],
            slots: [slot(10, &[(1, 40)]), slot(12, &[(2, 10), (3, 20)]), slot(14, &[(4, 5), (5, 30), (9, 2)])].into(),
            peers: vec![PeersAtHead { client: "teku", head_root: Some(root(4)), head_slot: Some(Slot::new(13)), peers: 3 }],
            ..Recent::default()
        };
        let privacy = Privacy { own_keys: OwnKeys::Shown, watch: Arc::new(NoKeys), shows_addresses: true };
        let view = HeadsView::of(&recent, 8, &privacy);
        let at = |byte| view.blocks.iter().find(|block| block.root == root(byte)).unwrap();
        let weights: Vec<u64> = [1, 2, 3, 4, 5, 6].map(|byte| at(byte).weight.votes).into();
        assert_eq!(weights, [105, 15, 50, 5, 30, 0]);
        assert_eq!(at(3).weight.stake_gwei, Some(Gwei::new(1600)));
        assert_eq!((at(4).is_end, at(3).is_end, at(4).peers, at(5).is_head), (true, false, 3, true));
        let branches: Vec<_> =
            view.branches.iter().map(|branch| (branch.end, branch.from, branch.blocks, branch.votes.votes)).collect();
        assert_eq!(branches, [(root(5), None, 2, 50), (root(4), Some(root(1)), 2, 15)], "nobody votes for the junk");
        assert_eq!(view.branches[1].weight_share, Some(0.2308));
        assert!(view.is_split);
        assert_eq!((view.unknown_heads[0].root, view.unknown_heads[0].votes), (root(9), 2));
        assert_eq!(view.branches[0].votes.by_client, [ClientVotes { client: "teku", votes: 50 }]);
        assert_eq!(view.blocks.first().map(|block| block.slot), Some(Slot::new(14)), "latest first");
    }

    #[test]
    fn nothing_heard_is_no_branch() {
        let privacy = Privacy { own_keys: OwnKeys::Shown, watch: Arc::new(NoKeys), shows_addresses: true };
        let view = HeadsView::of(&Recent::default(), 32, &privacy);
        assert!(view.branches.is_empty() && view.blocks.is_empty() && !view.is_split);
    }
}
