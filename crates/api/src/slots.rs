//! Slots and epochs: which blocks came, who voted for what, and how many took part.

use crate::boost::{BoostQuestion, BoostView};
use crate::findings::{Segment, number, read, understood};
use crate::observed::{
    ClientVotes, HeardView, ObservedBlock, ObservedSlot, ObservedVotes, Recent, SlotSource, VoteTally, read_observed,
};
use crate::privacy::{OwnKeys, Privacy};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::status::CheckpointSchema;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use consensus::{Checkpoint, Epoch, ForkName, Network, Offence, Root, Slot, ValidatorIndex};
use evidence::{Kind, Query as FindingQuery, SortOrder, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// Findings of a slot or of an epoch that are counted.
const MAX_COUNTED: usize = 1000;
/// Findings of slots that have not begun that are counted.
const MAX_EARLY: usize = 4096;
/// Slots of `/v1/participation` if the request gives no number, and at most.
const DEFAULT_SLOTS: u64 = 64;
const MAX_SLOTS: u64 = 128;
/// Slots of an epoch that are shown. Gnosis has 16, mainnet 32.
const MAX_SLOTS_PER_EPOCH: u64 = 64;

/// What was heard of a slot.
#[derive(Serialize, ToSchema)]
pub(crate) struct SlotView {
    schema: u64,
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = String)]
    epoch: Epoch,
    /// When it began.
    #[schema(value_type = String)]
    start: Time,
    slot_ms: u64,
    /// Whether a later slot has begun.
    is_over: bool,
    deadlines_ms: DeadlinesView,
    /// In the order of arrival, 16 at most.
    blocks: Vec<BlockView>,
    /// Whether one proposer has signed several of the blocks.
    is_double_proposal: bool,
    /// What the double proposal does to the proposer boost of the next slot. Null before Gloas, and
    /// if there is none.
    boost: Option<BoostView>,
    /// Seats of the slot's committees. Null if they are not known.
    seats: Option<u64>,
    /// Validators whose vote for this slot was heard, each counted once per epoch.
    voters: u64,
    /// Those whose vote was heard in a block. Null if that was read from the index.
    voters_in_blocks: Option<u64>,
    /// Voters per seat, 0 to 1. Null if the seats are not known, or if validators with several
    /// votes may be among the voters more than once.
    participation: Option<f64>,
    /// Most votes first.
    votes: Vec<VotesView>,
    /// Voters of votes that are not listed.
    further_voters: u64,
    by_client: Vec<ClientVotes>,
    findings: FindingCounts,
    /// `memory` for the last epochs, `index` for earlier ones and for recordings. The index knows
    /// no clients, labels and stake.
    source: SlotSource,
}

/// When messages of a slot are due, in milliseconds after its start.
#[derive(Serialize, ToSchema)]
struct DeadlinesView {
    attestation: u64,
    aggregate: u64,
    /// When the payload must be there, from Gloas on. Null before.
    payload: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ObservedBlock)]
pub(crate) struct BlockView {
    #[schema(value_type = String)]
    root: Root,
    #[schema(value_type = String)]
    parent: Root,
    #[schema(value_type = String)]
    proposer: ValidatorIndex,
    /// The client that the proposer seems to run.
    client: Option<&'static str>,
    heard: HeardView,
    /// Number of attestations in it. Null if that was read from the index.
    attestations: Option<u64>,
    /// Whether others than its proposer vote for it or build on it.
    is_backed: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ObservedVotes)]
struct VotesView {
    #[schema(value_type = String)]
    head: Root,
    /// Slot of this block. Null if the block was not heard in the last epochs.
    #[schema(value_type = Option<String>)]
    head_slot: Option<Slot>,
    #[schema(value_type = CheckpointSchema)]
    source: Checkpoint,
    #[schema(value_type = CheckpointSchema)]
    target: Checkpoint,
    #[serde(flatten)]
    tally: VoteTally,
}

/// Numbers of findings.
#[derive(Default, Serialize, ToSchema)]
struct FindingCounts {
    #[schema(value_type = BTreeMap<String, u64>)]
    by_kind: BTreeMap<Kind, u64>,
    /// Whether there are more than were counted.
    is_partial: bool,
}

/// A slot in short.
#[derive(Serialize, ToSchema)]
pub(crate) struct SlotRow {
    #[schema(value_type = String)]
    slot: Slot,
    blocks: u64,
    seats: Option<u64>,
    voters: u64,
    participation: Option<f64>,
    /// Number of different blocks that were voted for as head.
    heads: u64,
    /// The block with the most votes.
    #[schema(value_type = Option<String>)]
    leading_head: Option<Root>,
    leading_votes: u64,
    /// Findings about this slot, and those that became known in it about slots that have not begun.
    /// Null if there are too many to count.
    findings: Option<u64>,
}

/// What was heard of an epoch.
#[derive(Serialize, ToSchema)]
pub(crate) struct EpochView {
    schema: u64,
    #[schema(value_type = String)]
    epoch: Epoch,
    #[schema(value_type = String)]
    first_slot: Slot,
    #[schema(value_type = String)]
    last_slot: Slot,
    #[schema(value_type = String)]
    start: Time,
    is_over: bool,
    slots: Vec<SlotRow>,
    /// Voters per seat over the slots whose seats are known. Null if there are none.
    participation: Option<f64>,
    findings: FindingCounts,
    /// The latest justified checkpoint as of now.
    #[schema(value_type = Option<CheckpointSchema>)]
    justified: Option<Checkpoint>,
    #[schema(value_type = Option<CheckpointSchema>)]
    finalized: Option<Checkpoint>,
    source: SlotSource,
}

/// The participation in the last slots.
#[derive(Serialize, ToSchema)]
pub(crate) struct ParticipationView {
    schema: u64,
    #[schema(value_type = String)]
    now_slot: Slot,
    /// Oldest first.
    slots: Vec<SlotRow>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ParticipationQuery {
    /// How many slots, 1 to 128. The default is 64.
    slots: Option<String>,
}

/// Blocks and votes of a slot: what was heard, when, and from whom.
#[utoipa::path(get, path = "/v1/slots/{slot}", operation_id = "getSlot", tag = "network", params(("slot" = String, Path, description = "a slot number")), responses(
    (status = 200, description = "the slot", body = SlotView),
    (status = 400, description = "no slot number", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "nothing is known of it", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 503, description = "the watcher is busy; ask again", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn slot(State(shared): State<Arc<Shared>>, Segment(text): Segment) -> Result<Json<SlotView>, ProblemDetails> {
    let slot: Slot = text.parse().map_err(|_| ProblemDetails::bad_request(format!("{text:?} is no slot number")))?;
    let recent = shared.observed.recent();
    let observed = one_slot(&shared, &recent, slot).await?.ok_or_else(|| {
        ProblemDetails::not_found(format!("nothing is known of slot {slot}; /v1/participation lists the latest ones"))
    })?;
    let (findings, _) = count(&shared, slot, slot).await?;
    let network = shared.observed.network();
    let boost = boost_after(&shared, &recent, &observed, &findings, &network).await?;
    Ok(Json(SlotView { boost, ..view(&observed, findings, &recent, &network, &shared.privacy) }))
}

/// What was heard of a slot. Slots that had begun before this process listened are in memory only
/// in part, so what an earlier run has stored of them counts too.
async fn one_slot(shared: &Shared, recent: &Recent, slot: Slot) -> Result<Option<Arc<ObservedSlot>>, ProblemDetails> {
    let known = recent.slots.get(&slot);
    if let Some(known) = known.filter(|_| slot >= recent.complete_from) {
        return Ok(Some(known.clone()));
    }
    let stored = read_slots(shared, slot, slot).await?.pop();
    Ok(match (known, stored) {
        (Some(known), Some(stored)) => Some(Arc::new(merged(known, &stored))),
        (Some(known), None) => Some(known.clone()),
        (None, stored) => stored,
    })
}

/// What the memory and the index have of a slot, together: the one with more voters, and of each
/// block the earlier arrival.
fn merged(known: &ObservedSlot, stored: &ObservedSlot) -> ObservedSlot {
    let fuller = if known.voters >= stored.voters { known } else { stored };
    let mut blocks = known.blocks.clone();
    for block in &stored.blocks {
        match blocks.iter_mut().find(|other| other.root == block.root) {
            Some(other) if block.heard.at < other.heard.at => other.heard = block.heard,
            Some(_) => {}
            None => blocks.push(block.clone()),
        }
    }
    blocks.sort_by_key(|block| block.heard.at);
    ObservedSlot { blocks, seats: known.seats.max(stored.seats), ..fuller.clone() }
}

async fn boost_after(
    shared: &Shared,
    recent: &Recent,
    slot: &ObservedSlot,
    findings: &FindingCounts,
    network: &Network,
) -> Result<Option<BoostView>, ProblemDetails> {
    let next_slot = slot.slot.saturating_add(1);
    if !is_double_proposal(slot) || network.spec.fork_name_at(next_slot.epoch(network.preset())) < ForkName::Gloas {
        return Ok(None);
    }
    let next = if next_slot <= recent.now { one_slot(shared, recent, next_slot).await? } else { None };
    let votes = [Offence::DoubleVote, Offence::SurroundVote].map(Kind::Offence);
    let question = BoostQuestion {
        slot,
        next: next.as_deref(),
        now: recent.now,
        n_equivocating: votes.iter().filter_map(|kind| findings.by_kind.get(kind)).sum(),
        slot_of: &|root| recent.blocks.iter().find(|block| block.root == root).map(|block| block.slot),
    };
    Ok(BoostView::of(&question, network))
}

/// The slots of an epoch: blocks, participation, heads and findings of each.
#[utoipa::path(get, path = "/v1/epochs/{epoch}", operation_id = "getEpoch", tag = "network", params(("epoch" = String, Path, description = "an epoch number")), responses(
    (status = 200, description = "the epoch", body = EpochView),
    (status = 400, description = "no epoch number", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "nothing is known of it", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 503, description = "the watcher is busy; ask again", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn epoch(State(shared): State<Arc<Shared>>, Segment(text): Segment) -> Result<Json<EpochView>, ProblemDetails> {
    let epoch: Epoch = text.parse().map_err(|_| ProblemDetails::bad_request(format!("{text:?} is no epoch number")))?;
    let (network, recent) = (shared.observed.network(), shared.observed.recent());
    let per_epoch = network.preset().slots_per_epoch.min(MAX_SLOTS_PER_EPOCH);
    let unknown = || ProblemDetails::not_found(format!("nothing is known of epoch {epoch}; it is not kept, or has not begun"));
    if epoch > recent.now.epoch(network.preset()) {
        return Err(unknown());
    }
    let first = epoch.start_slot(network.preset());
    let last = first.saturating_add(per_epoch.saturating_sub(1));
    let end = last.min(recent.now);
    // An epoch of which the memory has only a part is read from the index.
    let in_memory = first >= recent.complete_from && recent.slots.first_key_value().is_some_and(|(oldest, _)| *oldest <= first);
    let slots: Vec<Arc<ObservedSlot>> = if in_memory {
        recent.slots.range(first..=end).map(|(_, slot)| slot.clone()).collect()
    } else {
        let mut stored = read_slots(&shared, first, end).await?;
        for slot in &mut stored {
            match recent.slots.get(&slot.slot) {
                // The memory knows more about the slots of which it has everything.
                Some(known) if slot.slot >= recent.complete_from => *slot = known.clone(),
                Some(known) => *slot = Arc::new(merged(known, slot)),
                None => {}
            }
        }
        let has: BTreeSet<Slot> = stored.iter().map(|slot| slot.slot).collect();
        let further = recent.slots.range(first..=end).filter(|(slot, _)| !has.contains(slot));
        stored.extend(further.map(|(_, slot)| slot.clone()));
        stored
    };
    let source = slots.first().map(|slot| slot.origin).ok_or_else(unknown)?;
    let (findings, by_slot) = count(&shared, first, last).await?;
    let rows = rows(first, end, &slots, by_slot.as_ref());
    let exact = slots.iter().filter(|slot| !slot.voters_partial);
    let known: Vec<(u64, u64)> = exact.filter_map(|slot| Some((slot.voters, slot.seats?))).collect();
    let (voters, seats) = known.iter().fold((0, 0), |(voters, seats), (more, of)| (voters + more, seats + of));
    Ok(Json(EpochView {
        schema: 1,
        epoch,
        first_slot: first,
        last_slot: last,
        start: start(&network, first),
        is_over: recent.now > last,
        slots: rows,
        participation: ratio(voters, seats),
        findings,
        justified: recent.justified,
        finalized: recent.finalized,
        source,
    }))
}

/// The participation in the last slots, oldest first.
#[utoipa::path(get, path = "/v1/participation", operation_id = "participation", tag = "network", params(ParticipationQuery), responses(
    (status = 200, description = "the last slots", body = ParticipationView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn participation(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<ParticipationQuery>, QueryRejection>,
) -> Result<Json<ParticipationView>, ProblemDetails> {
    let n = number(&understood(query)?.slots, "slots")?.unwrap_or(DEFAULT_SLOTS);
    if !(1..=MAX_SLOTS).contains(&n) {
        return Err(ProblemDetails::bad_request(format!("slots must be 1 to {MAX_SLOTS}")));
    }
    let recent = shared.observed.recent();
    let wanted = recent.now.saturating_sub(n - 1);
    let oldest = recent.slots.first_key_value().map_or(recent.now, |(oldest, _)| (*oldest).max(recent.complete_from));
    let first = wanted.max(oldest).min(recent.now);
    let (_, mut by_slot) = count(&shared, first, recent.now).await?;
    if let Some(by_slot) = &mut by_slot {
        for (slot, n) in count_early(&shared, recent.now).await? {
            *by_slot.entry(slot).or_default() += n;
        }
    }
    let slots: Vec<Arc<ObservedSlot>> = recent.slots.range(first..=recent.now).map(|(_, slot)| slot.clone()).collect();
    Ok(Json(ParticipationView { schema: 1, now_slot: recent.now, slots: rows(first, recent.now, &slots, by_slot.as_ref()) }))
}

/// Reads slots from the index. The list is empty if nothing is stored of them.
async fn read_slots(shared: &Shared, first: Slot, last: Slot) -> Result<Vec<Arc<ObservedSlot>>, ProblemDetails> {
    if last > shared.observed.recent().now {
        return Ok(Vec::new());
    }
    let stored = read_observed(shared, move |source| source.stored_slots(first, last)).await?;
    Ok(stored.into_iter().map(Arc::new).collect())
}

/// Counts the findings of the slots `first..=last`: the newest by kind, and all by slot. The latter
/// is `None` if they are too many, or if only reading each would tell which may be shown.
async fn count(
    shared: &Arc<Shared>,
    first: Slot,
    last: Slot,
) -> Result<(FindingCounts, Option<BTreeMap<Slot, u64>>), ProblemDetails> {
    let (from_slot, to_slot) = (Some(first), Some(last));
    let order = SortOrder::NewestFirst;
    let only_public = shared.privacy.only_public();
    let query = FindingQuery { from_slot, to_slot, order, only_public, ..FindingQuery::default() };
    let is_all_shown = shared.privacy.own_keys == OwnKeys::Shown;
    let (page, all) = read(shared, move |store| {
        let page = store.find(&query, MAX_COUNTED)?;
        let all = if page.next.is_some() && is_all_shown { store.count_by_slot(first, last)? } else { None };
        Ok((page, all))
    })
    .await?;
    let is_partial = page.next.is_some();
    let (mut counts, mut by_slot) = (FindingCounts { is_partial, ..Default::default() }, BTreeMap::new());
    for finding in page.findings.into_iter().filter_map(|(_, finding)| shared.privacy.finding(finding)) {
        *by_slot.entry(finding.slot).or_default() += 1;
        *counts.by_kind.entry(finding.kind).or_default() += 1;
    }
    Ok((counts, if is_partial { all } else { Some(by_slot) }))
}

/// Counts the newest findings about slots after `now`, which clocks that ran ahead have signed for,
/// by the slot in which they became known.
async fn count_early(shared: &Arc<Shared>, now: Slot) -> Result<BTreeMap<Slot, u64>, ProblemDetails> {
    let from_slot = Some(now.saturating_add(1));
    let query = FindingQuery { from_slot, order: SortOrder::NewestFirst, ..FindingQuery::default() };
    let page = read(shared, move |store| store.find(&query, MAX_EARLY)).await?;
    let network = shared.observed.network();
    let mut by_slot = BTreeMap::new();
    for finding in page.findings.into_iter().filter_map(|(_, finding)| shared.privacy.finding(finding)) {
        let known_at = finding.second_seen.unwrap_or(finding.first_seen);
        *by_slot.entry(network.slot_at(known_at.as_unix_ns())).or_default() += 1;
    }
    Ok(by_slot)
}

/// A row for each slot, also for those without any message.
fn rows(first: Slot, last: Slot, slots: &[Arc<ObservedSlot>], findings: Option<&BTreeMap<Slot, u64>>) -> Vec<SlotRow> {
    let by_slot: BTreeMap<Slot, &ObservedSlot> = slots.iter().map(|slot| (slot.slot, &**slot)).collect();
    let all = (first.as_u64()..=last.as_u64()).map(Slot::new);
    let findings_of = |slot| findings.map(|findings| findings.get(&slot).copied().unwrap_or(0));
    all.map(|slot| row(slot, by_slot.get(&slot).copied(), findings_of(slot))).collect()
}

fn row(slot: Slot, observed: Option<&ObservedSlot>, findings: Option<u64>) -> SlotRow {
    let mut by_head: BTreeMap<Root, u64> = BTreeMap::new();
    for votes in observed.iter().flat_map(|slot| &slot.votes) {
        *by_head.entry(votes.head).or_default() += votes.tally.votes;
    }
    let leading = by_head.iter().max_by_key(|(root, votes)| (**votes, std::cmp::Reverse(**root)));
    SlotRow {
        slot,
        blocks: observed.map_or(0, |slot| slot.blocks.len() as u64),
        seats: observed.and_then(|slot| slot.seats),
        voters: observed.map_or(0, |slot| slot.voters),
        participation: observed.and_then(participation_of),
        heads: by_head.len() as u64,
        leading_head: leading.map(|(root, _)| *root),
        leading_votes: leading.map_or(0, |(_, votes)| *votes),
        findings,
    }
}

fn view(slot: &ObservedSlot, findings: FindingCounts, recent: &Recent, network: &Network, privacy: &Privacy) -> SlotView {
    let blocks: Vec<BlockView> = slot.blocks.iter().map(|block| block_view(block, slot.slot, network)).collect();
    let slot_of: BTreeMap<Root, Slot> = recent
        .blocks
        .iter()
        .map(|block| (block.root, block.slot))
        .chain(slot.blocks.iter().map(|block| (block.root, slot.slot)))
        .collect();
    let votes = slot.votes.iter().map(|votes| votes_view(votes, &slot_of, privacy)).collect();
    SlotView {
        schema: 1,
        slot: slot.slot,
        epoch: slot.slot.epoch(network.preset()),
        start: start(network, slot.slot),
        slot_ms: millis(network.spec.slot_duration),
        is_over: recent.now > slot.slot,
        deadlines_ms: deadlines(slot.slot, network),
        blocks,
        is_double_proposal: is_double_proposal(slot),
        boost: None,
        seats: slot.seats,
        voters: slot.voters,
        voters_in_blocks: slot.voters_in_blocks,
        participation: participation_of(slot),
        votes,
        further_voters: slot.further_voters,
        by_client: slot.by_client.clone(),
        findings,
        source: slot.origin,
    }
}

/// Whether one proposer has signed several of the blocks.
fn is_double_proposal(slot: &ObservedSlot) -> bool {
    let mut blocks = slot.blocks.iter().enumerate();
    blocks.any(|(nth, block)| slot.blocks[..nth].iter().any(|other| other.proposer == block.proposer))
}

fn block_view(block: &ObservedBlock, slot: Slot, network: &Network) -> BlockView {
    BlockView {
        root: block.root,
        parent: block.parent,
        proposer: block.proposer,
        client: block.client,
        heard: HeardView::new(&block.heard, slot, network),
        attestations: block.attestations,
        is_backed: block.is_backed,
    }
}

fn votes_view(votes: &ObservedVotes, slot_of: &BTreeMap<Root, Slot>, privacy: &Privacy) -> VotesView {
    VotesView {
        head: votes.head,
        head_slot: slot_of.get(&votes.head).copied(),
        source: votes.source,
        target: votes.target,
        tally: privacy.tally(votes.tally.clone()),
    }
}

/// `ATTESTATION_DUE_BPS`, `AGGREGATE_DUE_BPS` and `PAYLOAD_ATTESTATION_DUE_BPS` of the slot's fork.
fn deadlines(slot: Slot, network: &Network) -> DeadlinesView {
    let (spec, duration) = (&network.spec, network.spec.slot_duration);
    let gloas = spec.fork_name_at(slot.epoch(network.preset())) >= ForkName::Gloas;
    DeadlinesView {
        attestation: millis(spec.attestation_due(slot)),
        aggregate: millis(if gloas { duration / 2 } else { duration * 2 / 3 }),
        payload: gloas.then(|| millis(duration * 3 / 4)),
    }
}

fn participation_of(slot: &ObservedSlot) -> Option<f64> {
    if slot.voters_partial { None } else { ratio(slot.voters, slot.seats?) }
}

/// A share, 0 to 1, rounded to one part in 10 000.
pub(crate) fn ratio(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| (part as f64 / of as f64 * 10_000.0).round() / 10_000.0).map(|share| share.min(1.0))
}

pub(crate) fn start(network: &Network, slot: Slot) -> Time {
    Time::from_unix_ns(network.slot_start_ns(slot))
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Heard, VoteTally};

    fn block(byte: u8, at: u64, source: &'static str) -> ObservedBlock {
        ObservedBlock {
            root: Root::repeat_byte(byte),
            parent: Root::ZERO,
            proposer: ValidatorIndex::new(u64::from(byte)),
            client: None,
            heard: Heard { at: Time::from_unix_ns(at), source },
            attestations: None,
            is_backed: None,
        }
    }

    /// After a restart the blocks since the state are fetched, and are in memory with the time of
    /// that. What the run before heard counts.
    #[test]
    fn a_slot_from_before_the_start_has_the_arrivals_of_the_run_before() {
        let votes = |votes: u64| ObservedVotes {
            head: Root::repeat_byte(1),
            source: Checkpoint::default(),
            target: Checkpoint::default(),
            tally: VoteTally { votes, ..VoteTally::default() },
        };
        let known = ObservedSlot {
            blocks: vec![block(1, 9_000, "api"), block(2, 50, "gossip")],
            votes: vec![votes(3)],
            voters: 3,
            seats: Some(8),
            ..ObservedSlot::default()
        };
        let stored = ObservedSlot {
            blocks: vec![block(1, 100, "gossip"), block(3, 300, "gossip")],
            votes: vec![votes(7)],
            voters: 7,
            origin: SlotSource::Index,
            ..ObservedSlot::default()
        };
        let both = merged(&known, &stored);
        let blocks: Vec<(u8, u64, &str)> =
            both.blocks.iter().map(|block| (block.root[0], block.heard.at.as_unix_ns(), block.heard.source)).collect();
        assert_eq!(blocks, [(2, 50, "gossip"), (1, 100, "gossip"), (3, 300, "gossip")]);
        assert_eq!((both.voters, both.votes, both.seats, both.origin), (7, vec![votes(7)], Some(8), SlotSource::Index));
    }
}
