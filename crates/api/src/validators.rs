//! Single validators: what each was heard to sign, its contradictions, and its labels.

use crate::findings::{Segment, number, page_limit, read, understood};
use crate::observed::{
    HeardView, LabelledValidator, ObservedValidator, ObservedVote, RegistryView, ValidatorKey, ValidatorQuery, read_observed,
};
use crate::privacy::OwnKeys;
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::status::CheckpointSchema;
use crate::watch::{KeyFilter, WatchedKey};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use consensus::{Checkpoint, Epoch, Network, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Finding, Query as FindingQuery, SortOrder};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Votes of a page if the request has no limit, and at most. Each takes the watcher about 20
/// microseconds to find.
const DEFAULT_VOTES: u64 = 32;
const MAX_VOTES: u64 = 64;
/// Findings that are shown, the newest ones.
const MAX_FINDINGS: usize = 32;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ValidatorPageQuery {
    /// Only votes with targets before this epoch: the field `next` of the page before.
    before_epoch: Option<String>,
    /// Votes on the page, 1 to 64. The default is 32. The votes of one epoch are never divided, so
    /// there may be a few more.
    limit: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LabelQuery {
    /// Validators with this label, such as `operator=acme`.
    label: Option<String>,
    /// Members of this group of watched keys; the same as `label=group=NAME`.
    group: Option<String>,
    /// The field `next` of the page before.
    cursor: Option<String>,
    /// 1 to 1000. The default is 100.
    limit: Option<String>,
}

/// What is known of a validator.
#[derive(Serialize, ToSchema)]
pub(crate) struct ValidatorView {
    schema: u64,
    #[schema(value_type = String)]
    index: ValidatorIndex,
    /// Null in a recording, which does not contain the keys.
    #[schema(value_type = Option<String>)]
    pubkey: Option<PubkeyBytes>,
    /// Its record in the registry. Null in a recording.
    registry: Option<RegistryView>,
    /// The client that it seems to run, by its blocks. A hint only.
    client: Option<&'static str>,
    labels: Vec<String>,
    groups: Vec<String>,
    /// Its duties, if it is watched and may be shown.
    watched: Option<WatchedKey>,
    /// Target epochs of the first and of the last vote that are kept.
    #[schema(value_type = Option<String>)]
    first_epoch: Option<Epoch>,
    #[schema(value_type = Option<String>)]
    last_epoch: Option<Epoch>,
    /// Arrival of the last vote that is kept.
    last_heard: Option<HeardView>,
    /// Newest first.
    votes: Vec<VoteView>,
    /// Epochs without a vote between the votes that are listed, newest first.
    gaps: Vec<VoteGapView>,
    /// `before_epoch` of the next page of votes. Null at the end.
    #[schema(value_type = Option<String>)]
    next: Option<Epoch>,
    /// Newest first. A running watcher reads those of the last 1024 slots.
    proposals: Vec<ProposalView>,
    /// Its contradictions and anomalies: the newest 32.
    findings: Vec<Finding>,
    has_more_findings: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ObservedVote)]
struct VoteView {
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = CheckpointSchema)]
    source: Checkpoint,
    #[schema(value_type = CheckpointSchema)]
    target: Checkpoint,
    #[schema(value_type = String)]
    head: Root,
    /// Hash-tree-root of the attestation data.
    #[schema(value_type = String)]
    data_root: Root,
    /// If its own arrival is no longer known: the arrival of the earliest sum of votes with it.
    heard: Option<HeardView>,
    /// It contradicted another vote of the validator when it came.
    contradicts: bool,
}

#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct VoteGapView {
    #[schema(value_type = String)]
    first_epoch: Epoch,
    #[schema(value_type = String)]
    last_epoch: Epoch,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ObservedProposal)]
struct ProposalView {
    #[schema(value_type = String)]
    slot: Slot,
    #[schema(value_type = String)]
    root: Root,
    #[schema(value_type = String)]
    parent: Root,
    heard: HeardView,
}

/// A page of validators.
#[derive(Serialize, ToSchema)]
pub(crate) struct LabelledView {
    schema: u64,
    /// Ascending by index.
    validators: Vec<LabelledValidator>,
    /// Cursor of the next page. Null at the end.
    next: Option<String>,
}

/// A validator: its votes that are kept, its contradictions, its labels, and when it was heard.
#[utoipa::path(get, path = "/v1/validators/{validator}", operation_id = "getValidator", tag = "network",
    params(("validator" = String, Path, description = "its index, or its public key as 0x-hex"), ValidatorPageQuery), responses(
    (status = 200, description = "the validator", body = ValidatorView),
    (status = 400, description = "no index and no key, or a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 503, description = "the watcher is busy; ask again", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    Segment(text): Segment,
    query: Result<Query<ValidatorPageQuery>, QueryRejection>,
) -> Result<Json<ValidatorView>, ProblemDetails> {
    let page = understood(query)?;
    let limit = number(&page.limit, "limit")?.unwrap_or(DEFAULT_VOTES);
    if !(1..=MAX_VOTES).contains(&limit) {
        return Err(ProblemDetails::bad_request(format!("limit must be 1 to {MAX_VOTES}")));
    }
    let before_epoch = number(&page.before_epoch, "before_epoch")?.map_or(Epoch::MAX, Epoch::new);
    let wanted = ValidatorQuery { key: key(&text)?, before_epoch, limit: limit as usize };
    let found = read_observed(&shared, move |source| source.validator(&wanted)).await?;
    let validator = found.ok_or_else(|| {
        ProblemDetails::not_found(format!("nothing is known of validator {text}: it is not in the registry and was not heard"))
    })?;
    let (order, only_public) = (SortOrder::NewestFirst, shared.privacy.only_public());
    let newest = FindingQuery { validator: Some(validator.index), order, only_public, ..FindingQuery::default() };
    let found = read(&shared, move |store| store.find(&newest, MAX_FINDINGS)).await?;
    let findings: Vec<Finding> = found.findings.into_iter().filter_map(|(_, finding)| shared.privacy.finding(finding)).collect();
    let has_more = found.next.is_some();
    let before = validator.index.as_u64().checked_sub(1).map(ValidatorIndex::new);
    let watched = shared.privacy.watch().ok().and_then(|watch| watch.keys(before, &KeyFilter::default(), 1).keys.pop());
    let watched = watched.filter(|key| key.index == validator.index);
    Ok(Json(view(validator, findings, has_more, watched, &shared)))
}

/// Validators with a label, or the members of a group.
#[utoipa::path(get, path = "/v1/validators", operation_id = "listValidators", tag = "network", params(LabelQuery), responses(
    (status = 200, description = "a page", body = LabelledView),
    (status = 400, description = "a parameter is wrong, or neither a label nor a group is given", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 403, description = "a label that is not shown on this address", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<LabelQuery>, QueryRejection>,
) -> Result<Json<LabelledView>, ProblemDetails> {
    let query = understood(query)?;
    let limit = page_limit(&query.limit)?;
    let after = number(&query.cursor, "cursor")?.map(ValidatorIndex::new);
    let label = match (query.label, query.group) {
        (Some(label), None) if label.contains('=') => label,
        (Some(_), None) => return Err(ProblemDetails::bad_request("label must be written as key=value")),
        (None, Some(group)) => format!("group={group}"),
        (None, None) | (Some(_), Some(_)) => {
            return Err(ProblemDetails::bad_request(
                "give either label=key=value or group=NAME; /v1/validators/{index} shows one",
            ));
        }
    };
    let label = shared.privacy.label(label)?;
    let mut rows = read_observed(&shared, move |source| Ok(source.labelled(&label, after, limit + 1))).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| row.index.to_string());
    for row in &mut rows {
        row.labels = shared.privacy.labels(row.index, std::mem::take(&mut row.labels));
        row.groups = shared.privacy.groups(std::mem::take(&mut row.groups));
        // Keys are kept only of validators that share a label with a watched one.
        row.pubkey = row.pubkey.filter(|_| shared.privacy.own_keys == OwnKeys::Shown);
    }
    Ok(Json(LabelledView { schema: 1, validators: rows, next }))
}

fn key(text: &str) -> Result<ValidatorKey, ProblemDetails> {
    let wrong = || ProblemDetails::bad_request(format!("{text:?} is neither an index nor a public key (0x and 96 hex digits)"));
    if text.starts_with("0x") {
        return text.parse().map(ValidatorKey::Pubkey).map_err(|_| wrong());
    }
    text.parse().map(ValidatorKey::Index).map_err(|_| wrong())
}

fn view(
    validator: ObservedValidator,
    findings: Vec<Finding>,
    has_more_findings: bool,
    watched: Option<WatchedKey>,
    shared: &Shared,
) -> ValidatorView {
    let network = shared.observed.network();
    ValidatorView {
        schema: 1,
        index: validator.index,
        pubkey: validator.pubkey,
        registry: validator.registry,
        client: validator.client,
        labels: shared.privacy.labels(validator.index, validator.labels),
        groups: shared.privacy.groups(validator.groups),
        watched,
        first_epoch: validator.first_epoch,
        last_epoch: validator.last_epoch,
        last_heard: validator.last_heard.map(|(slot, heard)| HeardView::new(&heard, slot, &network)),
        gaps: gaps(&validator.votes),
        votes: validator.votes.into_iter().map(|vote| vote_view(vote, &network)).collect(),
        next: validator.next,
        proposals: validator
            .proposals
            .into_iter()
            .map(|one| ProposalView {
                slot: one.slot,
                root: one.root,
                parent: one.parent,
                heard: HeardView::new(&one.heard, one.slot, &network),
            })
            .collect(),
        findings,
        has_more_findings,
    }
}

fn vote_view(vote: ObservedVote, network: &Network) -> VoteView {
    VoteView {
        slot: vote.slot,
        source: vote.source,
        target: vote.target,
        head: vote.head,
        data_root: vote.data_root,
        heard: vote.heard.map(|heard| HeardView::new(&heard, vote.slot, network)),
        contradicts: vote.contradicts,
    }
}

/// Epochs without a vote between votes that are sorted newest first.
fn gaps(votes: &[ObservedVote]) -> Vec<VoteGapView> {
    let pairs = votes.iter().zip(votes.iter().skip(1));
    let gap = |(later, earlier): (&ObservedVote, &ObservedVote)| {
        let (first_epoch, last_epoch) = (earlier.target.epoch.checked_add(1)?, later.target.epoch.checked_sub(1)?);
        (first_epoch <= last_epoch).then_some(VoteGapView { first_epoch, last_epoch })
    };
    pairs.filter_map(gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_between_votes_only() {
        let vote = |target| ObservedVote {
            slot: Slot::new(0),
            source: Checkpoint::default(),
            target: Checkpoint { epoch: Epoch::new(target), root: Root::ZERO },
            head: Root::ZERO,
            data_root: Root::ZERO,
            heard: None,
            contradicts: false,
        };
        let found = gaps(&[9, 8, 8, 4, 3, 0].map(vote));
        let found: Vec<(u64, u64)> = found.iter().map(|gap| (gap.first_epoch.as_u64(), gap.last_epoch.as_u64())).collect();
        assert_eq!(found, [(5, 7), (1, 2)]);
        assert_eq!(gaps(&[]), []);
    }
}
