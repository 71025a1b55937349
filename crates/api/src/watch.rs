//! Watched keys: groups with their kill switches, and the duties of each key.

use crate::coverage::GroupHeard;
use crate::findings::{number, page_limit, read, understood};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use consensus::{Epoch, Gwei, Network, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Finding, Incident, IncidentState, Kind, KindCounts, Severity, SortOrder, Store, StoreError, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Limit on the findings of each severity, and of each kind, that are counted for a group.
const MAX_COUNTED: usize = 200;
/// Limit on the findings of each severity that are counted for a key.
const MAX_COUNTED_OF_KEY: usize = 20;
/// Limit on the newest findings of each severity, and of each kind, that are searched for keys that
/// were named after they were recorded.
const MAX_SEARCHED: usize = 1000;
/// Limit on the members that are asked one by one whether they contradicted themselves, if the
/// group has more findings than are counted.
const MAX_ASKED: usize = 512;
/// Limit on the ranges of a group's members, so that they fit into a command.
const MAX_RANGES: usize = 32;
/// The same for the members that may start. Lost keys leave many gaps.
const MAX_STARTABLE_RANGES: usize = 512;
/// Limit on the labels of a group that are shown.
pub const MAX_GROUP_LABELS: usize = 32;
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
    /// Labels that members have besides `group`, ascending. The number is bounded.
    pub labels: Vec<String>,
    /// The members as `--validators` takes them, such as `100-137,140`. Null if that is too long.
    pub indices: Option<String>,
    /// What the members have signed. Null for a recording.
    pub signed: Option<SignedView>,
}

/// What members of a group have signed since the start that binds them later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SignedView {
    /// Members of whom a vote was received.
    pub voted: u64,
    /// Members that voted for an epoch that has not begun. Their clocks are ahead.
    pub ahead: u64,
    /// Highest target epoch of all members.
    #[schema(value_type = Option<String>)]
    pub highest_target: Option<Epoch>,
    /// When the epoch after the highest target begins. A vote for it has a new target and is
    /// surrounded by none.
    #[schema(value_type = Option<String>)]
    pub free_from: Option<Time>,
    /// When two whole epochs after the highest target are over. Nobody has signed with the members
    /// in them if nothing more is received.
    #[schema(value_type = Option<String>)]
    pub restart_from: Option<Time>,
    /// Highest source epoch of all members. On a side that has justified this epoch or a newer one
    /// they surround nothing.
    #[schema(value_type = Option<String>)]
    pub highest_source: Option<Epoch>,
    /// Number of members by the highest source epoch of their votes.
    #[serde(skip)]
    pub newest_sources: BTreeMap<Epoch, u64>,
}

impl SignedView {
    /// Adds a member: the slot of its newest vote, and the highest source epoch of its votes.
    /// `now` is the current slot.
    pub fn add(&mut self, newest_vote: Slot, newest_source: Option<Epoch>, now: Slot, network: &Network) {
        let target = newest_vote.epoch(network.preset());
        self.voted += 1;
        self.ahead += u64::from(target > now.saturating_add(1).epoch(network.preset()));
        self.highest_target = self.highest_target.max(Some(target));
        let start_after = |epochs| {
            let slot = self.highest_target?.saturating_add(epochs).start_slot(network.preset());
            Some(Time::from_unix_ns(network.slot_start_ns(slot)))
        };
        (self.free_from, self.restart_from) = (start_after(1), start_after(3));
        self.highest_source = self.highest_source.max(newest_source);
        if let Some(source) = newest_source {
            *self.newest_sources.entry(source).or_default() += 1;
        }
    }

    /// Members that have signed a source newer than `oldest`, so that they cannot join a side whose
    /// source is `oldest`.
    fn newer_than(&self, oldest: Epoch) -> u64 {
        self.newest_sources.iter().filter(|(source, _)| **source > oldest).map(|(_, n)| n).sum()
    }
}

/// Validators as the option `--validators` takes them. `None` with more than [`MAX_RANGES`] ranges.
/// They must be ascending.
pub fn index_ranges(validators: impl IntoIterator<Item = ValidatorIndex>) -> Option<String> {
    at_most_ranges(MAX_RANGES, validators)
}

fn at_most_ranges(limit: usize, validators: impl IntoIterator<Item = ValidatorIndex>) -> Option<String> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for index in validators.into_iter().map(ValidatorIndex::as_u64) {
        if let Some((_, last)) = ranges.last_mut().filter(|(_, last)| last.checked_add(1) == Some(index)) {
            *last = index;
        } else if ranges.len() < limit {
            ranges.push((index, index));
        } else {
            return None;
        }
    }
    let text = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    (!ranges.is_empty()).then(|| ranges.iter().map(text).collect::<Vec<_>>().join(","))
}

/// The validators of `ranges`, in the form of [`index_ranges`], without those in `lost`. `None` if
/// there are none, or too many ranges.
fn without(ranges: &str, lost: &BTreeSet<ValidatorIndex>) -> Option<String> {
    let ends = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    };
    let all = ranges.split(',').filter_map(ends).flat_map(|(first, last)| first..=last).map(ValidatorIndex::new);
    at_most_ranges(MAX_STARTABLE_RANGES, all.filter(|index| !lost.contains(index)))
}

/// The kill switch of a group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KillSwitchView {
    /// `ready`, `ordered`, `done` or `failed`. It is `failed` too while keys sign after the stop.
    pub state: String,
    /// Whether the order that it has given was a dry run, which stops nothing.
    pub dry_run: bool,
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
    /// When it was last made ready again after it had fired. What was found until then fires
    /// nothing. Null if it never was, or by an earlier version.
    #[schema(value_type = Option<String>)]
    pub armed_again_at: Option<Time>,
    /// The order that was over then.
    pub earlier: Option<OrderView>,
    /// The last finding that concerned it and did not fire it.
    pub held_back: Option<HeldBackView>,
}

/// An order of a kill switch that is over.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrderView {
    /// The finding that caused it.
    #[schema(value_type = String)]
    pub finding: Root,
    pub kind: String,
    /// Whether it was a dry run, which stops nothing.
    pub dry_run: bool,
    #[schema(value_type = String)]
    pub ordered_at: Time,
    pub attempts: u32,
    pub took_ms: Option<u64>,
    /// How it ended, in the watcher's own words. Null if that is not known.
    pub answer: Option<String>,
    pub after_stop: Option<AfterStopView>,
}

impl KillSwitchView {
    /// The order that it has given, and the one before.
    pub fn orders(&self) -> Vec<OrderView> {
        let now = self.finding.zip(self.kind.clone()).zip(self.ordered_at).map(|((finding, kind), ordered_at)| OrderView {
            finding,
            kind,
            dry_run: self.dry_run,
            ordered_at,
            attempts: self.attempts,
            took_ms: self.took_ms,
            answer: self.answer.clone(),
            after_stop: self.after_stop.clone(),
        });
        self.earlier.clone().into_iter().chain(now).collect()
    }

    /// What it did, in sentences for a report, with times in UTC.
    pub fn story(&self, group: &str) -> Vec<String> {
        let mut told: Vec<String> = self.orders().iter().map(|order| order.sentence(group)).collect();
        if told.is_empty() {
            let why = self.held_back.as_ref().map_or_else(String::new, |held| {
                format!(" {} {} at {} did not fire it: {}.", held.kind, held.finding, held.at, held.reason)
            });
            told.push(format!("The kill switch of group {group} has not fired.{why}"));
        }
        told.extend(self.armed_again_at.map(|at| format!("It was made ready again at {at}.")));
        told
    }
}

impl OrderView {
    /// "fired", for a line of a table.
    pub(crate) fn verb(&self) -> &'static str {
        if self.dry_run { "fired as a dry run, which stops nothing" } else { "fired" }
    }

    fn sentence(&self, group: &str) -> String {
        let Self { finding, kind, ordered_at, attempts, .. } = self;
        let took = self.took_ms.map_or_else(String::new, |ms| format!(" after {ms} ms"));
        let how = self.answer.as_deref().unwrap_or("how it ended is not known");
        let after = match &self.after_stop {
            Some(_) if self.dry_run => String::new(),
            Some(AfterStopView { state, since: Some(since), .. }) if state == "silent" => {
                format!(" Its keys are silent since slot {since}.")
            }
            Some(AfterStopView { state, since: Some(since), keys, .. }) if state == "signing" => {
                format!(" {keys} of its keys signed after the stop, from slot {since} on.")
            }
            Some(_) | None => String::new(),
        };
        let verb = self.verb();
        format!(
            "The kill switch of group {group} {verb}, at {ordered_at}, because of {kind} {finding}: {how}{took}, attempt {attempts}.{after}"
        )
    }
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
    /// Number by kind. Only the newest findings of each kind are counted, up to a limit.
    #[schema(value_type = BTreeMap<String, u64>)]
    by_kind: BTreeMap<Kind, u64>,
    /// `critical` or `warning`. Null if there is nothing.
    #[schema(value_type = Option<String>)]
    worst: Option<Severity>,
    /// Whether there are more findings than were counted.
    is_partial: bool,
}

/// What a group's own keys did that is critical: they contradicted themselves, a second machine
/// signed with them, or they signed although they should not.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct OwnOffences {
    /// Number of keys.
    keys: u64,
    /// Number of keys that contradicted themselves, whether or not that can still be punished. They
    /// are lost, and must never be started again.
    lost: u64,
    /// Whether there may be more.
    is_partial: bool,
    /// The latest offence, or, if there is none, the latest other finding.
    newest: Option<OwnOffence>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OwnOffence {
    #[schema(value_type = String)]
    finding: Root,
    #[schema(value_type = String)]
    kind: Kind,
    #[schema(value_type = String)]
    validator: ValidatorIndex,
    #[schema(value_type = String)]
    slot: Slot,
    /// Arrival of the later message.
    #[schema(value_type = String)]
    at: Time,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct GroupView {
    #[serde(flatten)]
    group: WatchGroup,
    alarms: Alarms,
    offences: OwnOffences,
    /// The members that are not lost, as `--validators` takes them. Null if there are none, if that
    /// is too long, or if there may be more that are lost.
    startable: Option<String>,
    /// Whether the kill switch is ready, was made ready again after it had fired, and nothing
    /// critical has been recorded of the group since. Then what is counted above has been dealt
    /// with.
    is_armed_again: bool,
    /// While a `checkpoint_split` is open: members that have signed a newer source than one of the
    /// sides has, so that they cannot join it without a surround vote. Null if none is open, or if
    /// nothing was received of the members.
    cannot_change_sides: Option<u64>,
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
    fn of_key(store: &Store, validator: ValidatorIndex) -> Result<Self, StoreError> {
        let about = evidence::Query { validator: Some(validator), ..evidence::Query::default() };
        let KindCounts { by_kind, worst, is_partial } = store.count_by_kind(&about, MAX_COUNTED_OF_KEY)?;
        Ok(Self { by_kind, worst, is_partial })
    }
}

impl GroupView {
    /// Counts what was recorded for the group, and findings about keys that are in it now but were
    /// not when they were recorded, which are in `recent`.
    fn of(
        store: &Store,
        group: WatchGroup,
        open: &[Incident],
        kinds: &[Kind],
        recent: &RecentFindings,
        watch: &dyn WatchSource,
    ) -> Result<Self, StoreError> {
        let label = format!("group={}", group.name);
        let concerns = |incident: &&Incident| {
            let labels = incident.details.get("labels").and_then(Value::as_array);
            labels.is_some_and(|labels| labels.iter().any(|one| *one == label))
        };
        // The list may have changed since: what is counted is compared with the members of now.
        let is_member = |finding: &Finding| {
            finding.validator.as_ref().is_none_or(|subject| watch.groups_of(subject.index).contains(&group.name))
        };
        let switch = group.kill_switch.as_ref().filter(|switch| switch.state == "ready");
        let armed_again_at = switch.and_then(|switch| switch.armed_again_at);
        let mut counts = GroupCounts { armed_again_at, ..GroupCounts::default() };
        for incident in open.iter().filter(concerns) {
            counts.is_critical_since |= incident.severity == Severity::Critical;
            counts.incident(incident.kind.clone(), &incident.id.to_string(), incident.severity);
        }
        let labels = vec![label.clone()];
        let of_group = evidence::Query { labels, order: SortOrder::NewestFirst, ..evidence::Query::default() };
        let (newest, is_cut) = newest_of_each(store, &of_group, kinds, MAX_COUNTED)?;
        counts.is_partial |= is_cut;
        for finding in newest.values().filter(|finding| is_member(finding)) {
            counts.add(finding);
        }
        for (finding, groups) in &recent.of_watched_keys {
            if groups.contains(&group.name) && !finding.has_label(&label) {
                counts.add(finding);
            }
        }
        counts.is_partial |= recent.is_cut;
        if counts.is_partial && group.validators <= MAX_ASKED as u64 {
            counts.ask_each(store, &group.name, kinds, watch)?;
        }
        let oldest = open.iter().filter(|incident| incident.kind == Kind::CheckpointSplit).filter_map(oldest_source).min();
        let signed = group.signed.as_ref().filter(|signed| signed.voted > 0);
        let cannot_change_sides = signed.zip(oldest).map(|(signed, oldest)| signed.newer_than(oldest));
        let is_armed_again = armed_again_at.is_some() && !counts.is_critical_since;
        let lost = counts.lost.clone();
        let (alarms, offences) = counts.finish();
        let indices = group.indices.as_deref().filter(|_| !offences.is_partial);
        let startable = indices.and_then(|indices| without(indices, &lost));
        Ok(Self { group, alarms, offences, startable, is_armed_again, cannot_change_sides })
    }
}

/// The kinds of which findings are recorded.
fn recorded_kinds(store: &Store) -> Result<Vec<Kind>, StoreError> {
    let mut kinds = Vec::new();
    for kind in Kind::all() {
        let query = evidence::Query { kind: Some(kind.clone()), ..evidence::Query::default() };
        if !store.find(&query, 1)?.findings.is_empty() {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

/// The newest findings of each severity above `info`, and of each kind, by number: up to `limit` of
/// each, so that what happens most does not hide what happened once. The second value says whether
/// there are more.
fn newest_of_each(
    store: &Store,
    query: &evidence::Query,
    kinds: &[Kind],
    limit: usize,
) -> Result<(BTreeMap<u64, Finding>, bool), StoreError> {
    let by_severity = [Severity::Critical, Severity::Warning].map(|severity| (Some(severity), None));
    let by_kind = kinds.iter().map(|kind| (None, Some(kind.clone())));
    let (mut findings, mut is_cut) = (BTreeMap::new(), false);
    for (severity, kind) in by_severity.into_iter().chain(by_kind) {
        let page = store.find(&evidence::Query { severity, kind, ..query.clone() }, limit)?;
        is_cut |= page.next.is_some();
        findings.extend(page.findings);
    }
    Ok((findings, is_cut))
}

/// The source epoch of the side with the oldest source, as the detector of `checkpoint_split` gives
/// it.
fn oldest_source(incident: &Incident) -> Option<Epoch> {
    Some(Epoch::new(incident.details.get("oldest_source")?.as_str()?.parse().ok()?))
}

/// Counts the findings of a group.
#[derive(Default)]
struct GroupCounts {
    by_kind: BTreeMap<Kind, u64>,
    worst: Option<Severity>,
    is_partial: bool,
    /// Incidents, by kind. Each has several findings: one when it opens, one when it is over.
    incidents: BTreeSet<(Kind, String)>,
    keys: BTreeSet<ValidatorIndex>,
    /// Keys that contradicted themselves, as in [`OwnOffences::lost`].
    lost: BTreeSet<ValidatorIndex>,
    knows_all_keys: bool,
    newest: Option<Finding>,
    /// When the kill switch was made ready again.
    armed_again_at: Option<Time>,
    /// Whether something critical was recorded after that, or an incident is open.
    is_critical_since: bool,
}

impl GroupCounts {
    fn incident(&mut self, kind: Kind, id: &str, severity: Severity) {
        self.incidents.insert((kind, id.to_owned()));
        self.worst = self.worst.max(Some(severity));
    }

    fn is_since(&self, finding: &Finding) -> bool {
        self.armed_again_at.is_some_and(|at| finding.recorded_at > at)
    }

    fn add(&mut self, finding: &Finding) {
        if finding.offence().is_some() {
            self.lost.extend(finding.validator.as_ref().map(|subject| subject.index));
        }
        if finding.severity == Severity::Info {
            return;
        }
        let incident = finding.details.as_ref().and_then(|details| details.get("incident")?.as_str());
        if let (Some(id), None) = (incident, &finding.validator) {
            return self.incident(finding.kind.clone(), id, finding.severity);
        }
        self.is_critical_since |= finding.severity == Severity::Critical && self.is_since(finding);
        *self.by_kind.entry(finding.kind.clone()).or_default() += 1;
        self.worst = self.worst.max(Some(finding.severity));
        let Some(subject) = finding.validator.as_ref().filter(|_| finding.severity == Severity::Critical) else { return };
        self.keys.insert(subject.index);
        let arrival = |finding: &Finding| finding.second_seen.unwrap_or(finding.first_seen);
        let rank = |finding: &Finding| (self.is_since(finding), finding.evidence.is_some(), arrival(finding));
        if self.newest.as_ref().is_none_or(|newest| rank(newest) < rank(finding)) {
            self.newest = Some(finding.clone());
        }
    }

    /// Asks for each member whether it has a critical finding, and whether it contradicted itself.
    fn ask_each(&mut self, store: &Store, group: &str, kinds: &[Kind], watch: &dyn WatchSource) -> Result<(), StoreError> {
        let filter = KeyFilter { group: Some(group.to_owned()), ..KeyFilter::default() };
        let members = watch.keys(None, &filter, MAX_ASKED);
        let has = |query: evidence::Query| Ok::<_, StoreError>(!store.find(&query, 1)?.findings.is_empty());
        for key in &members.keys {
            let about = evidence::Query { validator: Some(key.index), ..evidence::Query::default() };
            if !self.keys.contains(&key.index) && has(evidence::Query { severity: Some(Severity::Critical), ..about.clone() })? {
                self.keys.insert(key.index);
            }
            for kind in kinds.iter().filter(|kind| kind.offence().is_some()) {
                if !self.lost.contains(&key.index) && has(evidence::Query { kind: Some(kind.clone()), ..about.clone() })? {
                    self.lost.insert(key.index);
                }
            }
        }
        self.knows_all_keys = !members.has_more;
        Ok(())
    }

    fn finish(mut self) -> (Alarms, OwnOffences) {
        for (kind, _) in self.incidents {
            *self.by_kind.entry(kind).or_default() += 1;
        }
        let newest = self.newest.and_then(|finding| {
            Some(OwnOffence {
                finding: finding.id,
                validator: finding.validator?.index,
                slot: finding.slot,
                at: finding.second_seen.unwrap_or(finding.first_seen),
                kind: finding.kind,
            })
        });
        let offences = OwnOffences {
            keys: self.keys.len() as u64,
            lost: self.lost.len() as u64,
            is_partial: self.is_partial && !self.knows_all_keys,
            newest,
        };
        (Alarms { by_kind: self.by_kind, worst: self.worst, is_partial: self.is_partial }, offences)
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
    fn read(store: &Store, kinds: &[Kind], watch: &dyn WatchSource) -> Result<Self, StoreError> {
        let mut recent = Self::default();
        if !watch.has_groups() {
            return Ok(recent);
        }
        let newest = evidence::Query { order: SortOrder::NewestFirst, ..evidence::Query::default() };
        let (findings, is_cut) = newest_of_each(store, &newest, kinds, MAX_SEARCHED)?;
        recent.is_cut = is_cut;
        for finding in findings.into_values() {
            let groups = finding.validator.as_ref().map(|subject| watch.groups_of(subject.index)).unwrap_or_default();
            if !groups.is_empty() {
                recent.of_watched_keys.push((finding, groups));
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
        let kinds = recorded_kinds(store)?;
        let recent = RecentFindings::read(store, &kinds, &*watch)?;
        let groups = watch.groups().into_iter();
        groups.map(|group| GroupView::of(store, group, &open, &kinds, &recent, &*watch)).collect::<Result<Vec<_>, StoreError>>()
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
        let with_alarms = |key: WatchedKey| Ok(KeyView { alarms: Alarms::of_key(store, key.index)?, key });
        let validators = page.keys.into_iter().map(with_alarms).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Json(KeysView { schema: 1, validators, next }))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_ranges_as_long_as_they_fit_into_a_command() {
        let ranges = |validators: &[u64]| index_ranges(validators.iter().copied().map(ValidatorIndex::new));
        assert_eq!(ranges(&[]), None);
        assert_eq!(ranges(&[3, 4, 5, 9, u64::MAX]), Some(format!("3-5,9,{}", u64::MAX)));
        let odd: Vec<u64> = (0..MAX_RANGES as u64).map(|nth| 2 * nth).collect();
        assert_eq!(ranges(&odd).map(|text| text.split(',').count()), Some(MAX_RANGES));
        assert_eq!(ranges(&[&odd[..], &[1000]].concat()), None);
        let lost = |validators: &[u64]| validators.iter().copied().map(ValidatorIndex::new).collect();
        assert_eq!(without("3-9,12", &lost(&[3, 5, 12])).as_deref(), Some("4,6-9"));
        assert_eq!(without("3-4,12", &lost(&[3, 4, 12])), None, "all are lost");
        assert_eq!(without("0-99", &(0..50).map(|nth| ValidatorIndex::new(2 * nth)).collect()).map(|text| text.len()), Some(144));
    }
}
