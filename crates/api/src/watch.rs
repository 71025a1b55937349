//! Watched keys: groups with their kill switches, and the duties of each key.

use crate::coverage::GroupHeard;
use crate::findings::{number, page_limit, read, understood};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use consensus::{Gwei, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Finding, Incident, IncidentState, Kind, KindCounts, Severity, SortOrder, Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Limit on the findings of each severity that are counted for a group.
const MAX_COUNTED: usize = 200;
/// Limit on the findings of each severity that are counted for a key.
const MAX_COUNTED_OF_KEY: usize = 20;
/// Limit on the newest findings of each severity that are searched for keys that were named after
/// they were recorded.
const MAX_SEARCHED: usize = 1000;
/// Limit on the latest incidents that are searched for those of a group.
const MAX_INCIDENTS: usize = 256;

/// Source of the state of watched keys. It is asked for each request, so it should answer from
/// memory.
pub trait WatchSource: Send + Sync + 'static {
    /// All groups, ordered by name.
    fn groups(&self) -> Vec<WatchGroup>;

    /// Keys that match `wanted` and come after `after`, in ascending order, `limit` at most.
    fn keys(&self, after: Option<ValidatorIndex>, wanted: &KeyFilter, limit: usize) -> WatchPage;

    /// The groups of a validator, by its index. None if there are no groups.
    fn groups_of(&self, _: ValidatorIndex) -> Vec<String> {
        Vec::new()
    }

    /// Whether there are any groups.
    fn has_groups(&self) -> bool {
        false
    }

    /// Whether a watched key has this label, such as `operator=acme`, even if nothing is known of
    /// the key yet.
    fn has_label(&self, label: &str) -> bool;

    /// Whether what has a label, such as `operator=acme`, may tell which keys are watched.
    fn is_private(&self, label: &str) -> bool;

    /// The labels that a validator would have if nobody watched it.
    fn listed_labels(&self, validator: ValidatorIndex) -> Vec<String>;
}

/// A source that does not know whose keys are watched, such as a recording. Every label may be one
/// that only the operator's groups have, so all labels count as private.
pub struct NoKeys;

impl WatchSource for NoKeys {
    fn groups(&self) -> Vec<WatchGroup> {
        Vec::new()
    }

    fn keys(&self, _: Option<ValidatorIndex>, _: &KeyFilter, _: usize) -> WatchPage {
        WatchPage::default()
    }

    fn has_label(&self, _: &str) -> bool {
        false
    }

    fn is_private(&self, _: &str) -> bool {
        true
    }

    fn listed_labels(&self, _: ValidatorIndex) -> Vec<String> {
        Vec::new()
    }
}

/// Which keys to show. All conditions that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFilter {
    pub group: Option<String>,
    /// A label, such as `operator=acme`.
    pub label: Option<String>,
    /// Only keys that missed at least this many duties in a row, up to the last one.
    pub missed_in_a_row: u64,
}

/// A page of keys.
#[derive(Clone, Debug, Default)]
pub struct WatchPage {
    pub keys: Vec<WatchedKey>,
    pub has_more: bool,
}

/// A group of watched keys.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WatchGroup {
    pub name: String,
    /// Members that are in the registry.
    pub validators: u64,
    /// Public keys that the registry does not contain yet.
    pub unknown_keys: u64,
    /// Members that missed their last duty.
    pub missing: u64,
    /// Greatest number of duties that a member missed in a row.
    pub missed_in_a_row: u64,
    /// Mean over the members. Null before the first epoch is evaluated.
    pub effectiveness: Option<f64>,
    /// Whether the members are heard first-hand. Null before the first slot has ended.
    pub first_hand: Option<GroupHeard>,
    /// Null if the group has none.
    pub kill_switch: Option<KillSwitchView>,
}

/// The kill switch of a group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KillSwitchView {
    /// `ready`, `ordered`, `done` or `failed`. It is `failed` too while keys sign after the stop.
    pub state: String,
    /// The finding that fired it.
    #[schema(value_type = Option<String>)]
    pub finding: Option<Root>,
    pub kind: Option<String>,
    #[schema(value_type = Option<String>)]
    pub ordered_at: Option<Time>,
    pub attempts: u32,
    pub took_ms: Option<u64>,
    /// How it ended, in the watcher's own words. The output of a program is not shown, because it
    /// may be private.
    pub answer: Option<String>,
    /// What the group's keys do since the order ended. Null before that.
    pub after_stop: Option<AfterStopView>,
    /// The last finding that concerned it and did not fire it.
    pub held_back: Option<HeldBackView>,
}

/// What the keys of a group do after the order to stop them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AfterStopView {
    /// `listening`: not known yet. `signing`: keys sign. `silent`: no key has signed in two epochs
    /// that were heard.
    pub state: String,
    /// Slot of the first message after the stop, or the slot since which the keys are silent.
    #[schema(value_type = Option<String>)]
    pub since: Option<Slot>,
    /// Number of keys that sign.
    pub keys: u64,
    /// Some of them.
    #[schema(value_type = Vec<String>)]
    pub validators: Vec<ValidatorIndex>,
}

/// A finding that did not fire a kill switch, and the reason.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HeldBackView {
    #[schema(value_type = String)]
    pub finding: Root,
    pub kind: String,
    #[schema(value_type = String)]
    pub at: Time,
    pub reason: String,
    /// Total number of such findings.
    pub times: u64,
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
    /// Its status on chain, in the terms of the beacon API.
    pub state: String,
    #[schema(value_type = String)]
    pub effective_balance: Gwei,
    /// Slot of its newest vote received since the start.
    #[schema(value_type = Option<String>)]
    pub last_vote: Option<Slot>,
    pub missed_in_a_row: u64,
    /// Number of epochs in which it was on duty, of the last 64 epochs evaluated.
    pub duties: u64,
    /// Number of these epochs in which it voted.
    pub voted: u64,
    /// Number of slots since the start in which it had to propose, as far as this could be
    /// evaluated.
    pub proposals: u64,
    /// Number of these slots whose block others voted for or built on.
    pub proposed: u64,
    /// Share of the weights for source, target and head that its votes earned, of those that they
    /// could have earned, 0 to 1. Null before its first duty.
    pub effectiveness: Option<f64>,
}

/// Causes for alarm: findings more severe than `info`, and incidents that are not over.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alarms {
    /// Number by kind. Only the newest findings are counted, up to a limit.
    #[schema(value_type = BTreeMap<String, u64>)]
    by_kind: BTreeMap<Kind, u64>,
    /// `critical` or `warning`. Null if there is nothing.
    #[schema(value_type = Option<String>)]
    worst: Option<Severity>,
    /// Whether there are more findings than were counted.
    is_partial: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct GroupView {
    #[serde(flatten)]
    group: WatchGroup,
    alarms: Alarms,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct KeyView {
    #[serde(flatten)]
    key: WatchedKey,
    /// Alarms from findings about this key.
    alarms: Alarms,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct GroupsView {
    schema: u64,
    groups: Vec<GroupView>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct KeysView {
    schema: u64,
    validators: Vec<KeyView>,
    /// The `cursor` of the next page. Null at the end.
    next: Option<String>,
}

impl Alarms {
    fn of(store: &Store, wanted: &evidence::Query, most: usize, incidents: &[Incident]) -> Result<Self, StoreError> {
        let KindCounts { mut by_kind, mut worst, is_partial } = store.count_by_kind(wanted, most)?;
        for incident in incidents {
            *by_kind.entry(incident.kind.clone()).or_default() += 1;
            worst = worst.max(Some(incident.severity));
        }
        Ok(Self { by_kind, worst, is_partial })
    }

    /// Counts what was recorded for the group, and findings about keys that are in it now but were
    /// not when they were recorded, which are in `recent`.
    fn of_group(store: &Store, name: &str, open: &[Incident], recent: &RecentFindings) -> Result<Self, StoreError> {
        let label = format!("group={name}");
        let concerns = |incident: &&Incident| {
            let labels = incident.details.get("labels").and_then(Value::as_array);
            labels.is_some_and(|labels| labels.iter().any(|one| *one == label))
        };
        let incidents: Vec<Incident> = open.iter().filter(concerns).cloned().collect();
        let wanted = evidence::Query { labels: vec![label], ..evidence::Query::default() };
        let mut alarms = Self::of(store, &wanted, MAX_COUNTED, &incidents)?;
        let label = format!("group={name}");
        for (finding, groups) in &recent.of_watched_keys {
            if groups.iter().any(|group| group == name) && !finding.has_label(&label) {
                *alarms.by_kind.entry(finding.kind.clone()).or_default() += 1;
                alarms.worst = alarms.worst.max(Some(finding.severity));
            }
        }
        alarms.is_partial |= recent.is_cut;
        Ok(alarms)
    }
}

/// The newest findings about keys that are watched now, with their groups.
#[derive(Default)]
struct RecentFindings {
    of_watched_keys: Vec<(Finding, Vec<String>)>,
    /// Whether older findings were not looked at.
    is_cut: bool,
}

impl RecentFindings {
    fn read(store: &Store, watch: &dyn WatchSource) -> Result<Self, StoreError> {
        let mut recent = Self::default();
        if !watch.has_groups() {
            return Ok(recent);
        }
        for severity in [Severity::Critical, Severity::Warning] {
            let newest =
                evidence::Query { severity: Some(severity), order: SortOrder::NewestFirst, ..evidence::Query::default() };
            let page = store.find(&newest, MAX_SEARCHED)?;
            recent.is_cut |= page.next.is_some();
            for (_, finding) in page.findings {
                let groups = finding.validator.as_ref().map(|subject| watch.groups_of(subject.index)).unwrap_or_default();
                if !groups.is_empty() {
                    recent.of_watched_keys.push((finding, groups));
                }
            }
        }
        Ok(recent)
    }
}

/// Incidents that are not over and more severe than `info`, among those that changed last.
fn open_incidents(store: &Store) -> Result<Vec<Incident>, StoreError> {
    let rows = store.incidents_after(store.revision_before_last(MAX_INCIDENTS)?, MAX_INCIDENTS)?;
    let incidents = rows.into_iter().map(|(_, incident)| incident);
    Ok(incidents.filter(|incident| incident.state != IncidentState::Closed && incident.severity > Severity::Info).collect())
}

/// A query as received.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct KeysQuery {
    /// The field `next` of the page before.
    cursor: Option<String>,
    /// Only members of this group.
    group: Option<String>,
    /// Only keys with this label, such as `operator=acme`.
    label: Option<String>,
    /// Only keys that missed at least this many duties in a row.
    missed_in_a_row: Option<String>,
    /// 1 to 1000. The default is 100.
    limit: Option<String>,
}

/// Groups of watched keys.
#[utoipa::path(get, path = "/v1/watch/groups", operation_id = "listWatchGroups", tag = "watch", responses(
    (status = 200, description = "all groups", body = GroupsView),
    (status = 403, description = "not shown on this address", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn groups(State(shared): State<Arc<Shared>>) -> Result<Json<GroupsView>, ProblemDetails> {
    let watch = shared.privacy.watch()?;
    // This may search a quarter of a million keys, so it runs where no other request waits.
    let groups = read(&shared, move |store| {
        let open = open_incidents(store)?;
        let recent = RecentFindings::read(store, &*watch)?;
        let groups = watch.groups().into_iter();
        groups
            .map(|group| Ok(GroupView { alarms: Alarms::of_group(store, &group.name, &open, &recent)?, group }))
            .collect::<Result<Vec<_>, StoreError>>()
    })
    .await?;
    Ok(Json(GroupsView { schema: 1, groups }))
}

/// Watched keys, by index.
#[utoipa::path(get, path = "/v1/watch/validators", operation_id = "listWatchedValidators", tag = "watch", params(KeysQuery), responses(
    (status = 200, description = "a page", body = KeysView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 403, description = "not shown on this address", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn validators(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<KeysQuery>, QueryRejection>,
) -> Result<Json<KeysView>, ProblemDetails> {
    let query = understood(query)?;
    let limit = page_limit(&query.limit)?;
    if query.label.as_ref().is_some_and(|label| !label.contains('=')) {
        return Err(ProblemDetails::bad_request("label must be written as key=value"));
    }
    let after = number(&query.cursor, "cursor")?.map(ValidatorIndex::new);
    let missed_in_a_row = number(&query.missed_in_a_row, "missed_in_a_row")?.unwrap_or(0);
    let wanted = KeyFilter { group: query.group, label: query.label, missed_in_a_row };
    let watch = shared.privacy.watch()?;
    if let Some(group) = &wanted.group {
        let known: Vec<String> = watch.groups().into_iter().map(|group| group.name).collect();
        if !known.contains(group) {
            let there_are = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
            return Err(ProblemDetails::bad_request(format!("no group is called {group:?}; {there_are}")));
        }
    }
    if let Some(label) = wanted.label.as_deref().filter(|label| !watch.has_label(label)) {
        let detail = format!("no watched key has the label {label:?}; /v1/watch/validators lists the labels of each key");
        return Err(ProblemDetails::bad_request(detail));
    }
    read(&shared, move |store| {
        let page = watch.keys(after, &wanted, limit);
        let next = page.keys.last().filter(|_| page.has_more).map(|key| key.index.to_string());
        let with_alarms = |key: WatchedKey| {
            let about = evidence::Query { validator: Some(key.index), ..evidence::Query::default() };
            Ok(KeyView { alarms: Alarms::of(store, &about, MAX_COUNTED_OF_KEY, &[])?, key })
        };
        let validators = page.keys.into_iter().map(with_alarms).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Json(KeysView { schema: 1, validators, next }))
    })
    .await
}
