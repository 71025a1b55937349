//! Watched keys: groups with their kill switches, and each key's duties.

use crate::findings::{number, page_limit, understood};
use crate::problem::Problem;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use consensus::{Gwei, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::Time;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Says what is known of the watched keys. Asked once per request: it should answer from what is at hand.
pub trait WatchSource: Send + Sync + 'static {
    /// By name.
    fn groups(&self) -> Vec<WatchGroup>;

    /// Keys after `after`, ascending, that match.
    fn keys(&self, after: Option<ValidatorIndex>, wanted: &KeyFilter, limit: usize) -> WatchPage;

    /// Whether a label, as `operator=acme`, says whose key somebody's is and no public list says so.
    fn is_private(&self, label: &str) -> bool;
}

/// Nothing is watched.
pub struct NoKeys;

impl WatchSource for NoKeys {
    fn groups(&self) -> Vec<WatchGroup> {
        Vec::new()
    }

    fn keys(&self, _: Option<ValidatorIndex>, _: &KeyFilter, _: usize) -> WatchPage {
        WatchPage::default()
    }

    fn is_private(&self, _: &str) -> bool {
        false
    }
}

/// Which keys to show; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFilter {
    pub group: Option<String>,
    /// As in `operator=acme`.
    pub label: Option<String>,
    /// Only keys whose last so many duties were missed.
    pub missed_in_a_row: u64,
}

/// Some keys.
#[derive(Clone, Debug, Default)]
pub struct WatchPage {
    pub keys: Vec<WatchedKey>,
    pub has_more: bool,
}

/// A group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WatchGroup {
    pub name: String,
    /// Members in the registry.
    pub validators: u64,
    /// Public keys that the registry does not have yet.
    pub unknown_keys: u64,
    /// Members that missed their last duty.
    pub missing: u64,
    /// Most duties that a member missed in a row.
    pub missed_in_a_row: u64,
    /// Mean over the members; null before the first epoch was judged.
    pub effectiveness: Option<f64>,
    /// Null if it has none.
    pub kill_switch: Option<KillSwitchView>,
}

/// A group's kill switch.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KillSwitchView {
    /// `ready`, `ordered`, `done` or `failed`.
    pub state: String,
    /// The finding that fired it.
    #[schema(value_type = Option<String>)]
    pub finding: Option<Root>,
    pub kind: Option<String>,
    #[schema(value_type = Option<String>)]
    pub ordered_at: Option<Time>,
    pub attempts: u32,
    pub took_ms: Option<u64>,
    /// How it ended, in our words: what a program said may be nobody else's business.
    pub answer: Option<String>,
}

/// A watched key.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WatchedKey {
    #[schema(value_type = String)]
    pub index: ValidatorIndex,
    #[schema(value_type = String)]
    pub pubkey: PubkeyBytes,
    pub groups: Vec<String>,
    pub labels: Vec<String>,
    /// `active`, `migrating`, `exited` or `offline`, as configured.
    pub duty: String,
    /// Its status on chain, in the beacon API's words.
    pub state: String,
    #[schema(value_type = String)]
    pub effective_balance: Gwei,
    /// Slot of its newest vote heard since the start.
    #[schema(value_type = Option<String>)]
    pub last_vote: Option<Slot>,
    pub missed_in_a_row: u64,
    /// Of the last 64 epochs judged, those it was on duty in.
    pub duties: u64,
    /// Of these, those it voted in.
    pub voted: u64,
    /// Times it was its turn to propose since the start, as far as that could be judged.
    pub proposals: u64,
    /// Of these, those whose block others voted for or built on.
    pub proposed: u64,
    /// Share of the weights for source, target and head that its votes could have earned, 0 to 1; null before its first duty.
    pub effectiveness: Option<f64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct GroupsView {
    schema: u64,
    groups: Vec<WatchGroup>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct KeysView {
    schema: u64,
    validators: Vec<WatchedKey>,
    /// Give it as `cursor` for the next page; null at the end.
    next: Option<String>,
}

/// A quarter of a million keys are looked through where nobody else waits.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))
}

/// A query as received.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct KeysQuery {
    /// From the page before (`next`).
    cursor: Option<String>,
    /// Only members of this group.
    group: Option<String>,
    /// Only keys with this label, as in `operator=acme`.
    label: Option<String>,
    /// Only keys that missed so many duties in a row.
    missed_in_a_row: Option<String>,
    /// 1 to 1000; 100 if not given.
    limit: Option<String>,
}

/// Groups of watched keys.
#[utoipa::path(get, path = "/v1/watch/groups", operation_id = "listWatchGroups", tag = "watch", responses(
    (status = 200, description = "all groups", body = GroupsView),
    (status = 403, description = "not shown to everybody", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn groups(State(shared): State<Arc<Shared>>) -> Result<Json<GroupsView>, Problem> {
    let watch = shared.privacy.watch()?;
    let groups = off_thread(move || watch.groups()).await?;
    Ok(Json(GroupsView { schema: 1, groups }))
}

/// Watched keys, by index.
#[utoipa::path(get, path = "/v1/watch/validators", operation_id = "listWatchedValidators", tag = "watch", params(KeysQuery), responses(
    (status = 200, description = "a page", body = KeysView),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "not shown to everybody", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn validators(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<KeysQuery>, QueryRejection>,
) -> Result<Json<KeysView>, Problem> {
    let query = understood(query)?;
    let limit = page_limit(&query.limit)?;
    if query.label.as_ref().is_some_and(|label| !label.contains('=')) {
        return Err(Problem::bad_request("label must be written as key=value"));
    }
    let after = number(&query.cursor, "cursor")?.map(ValidatorIndex::new);
    let missed_in_a_row = number(&query.missed_in_a_row, "missed_in_a_row")?.unwrap_or(0);
    let wanted = KeyFilter { group: query.group, label: query.label, missed_in_a_row };
    let watch = shared.privacy.watch()?;
    let page = off_thread(move || watch.keys(after, &wanted, limit)).await?;
    let next = page.keys.last().filter(|_| page.has_more).map(|key| key.index.to_string());
    Ok(Json(KeysView { schema: 1, validators: page.keys, next }))
}
