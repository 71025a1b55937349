//! Merges findings into few messages for people. The functions are pure: the outbox, the state and
//! the time are parameters.
//!
//! A route that merges tells of everything that belongs together in one alert: all slashable
//! messages of strangers are one, those of each watched group are another, each incident is one,
//! and so on ([`subject_of`]). The first message of an alert goes at once. Further findings wait in
//! the outbox until an update is due:
//!
//! ```text
//! findings told so far       1   2   4   8   ..  the next update when as many wait as were told
//! age of the alert           5   10  20  40  60, 60, .. minutes: or when the first has waited so long
//! ```
//!
//! So a wave of 3 000 keys makes 13 messages or fewer. The end of an incident is told at once, with
//! everything that still waits. An alert that nothing is added to for [`OVER_AFTER`] is over, and
//! the next finding begins another one.
//!
//! - The first slashable message of a watched group is a message of its own, whatever else happens,
//!   and no limit and no quiet hours hold it back. Keys that the group names are one alert, and
//!   those that only have its withdrawal credentials or fee recipient are another: a stranger can
//!   make such a key, and must not be the first in place of a named one.
//! - No limit holds back what says that a kill switch did not stop its group.
//! - A `second_signer` says the same as the offence by which it was noticed. Where that was told,
//!   it makes no message.
//! - A slashing wave is part of the alert about strangers' offences. So while it goes on, its
//!   single findings make no messages beside it.
//! - A route over its limit sends what is due as one message. If nothing is left of the limit, it
//!   waits in the outbox.
//!
//! Nothing is dropped: a delivery ends when the message that contains it was accepted, in the same
//! write as the state of the alerts, or when an accepted message has told what it says. After a
//! crash between the two the same message is sent again.

use crate::quiet::QuietHours;
use crate::sink::AlertState;
use evidence::{DeliveryId, DueDelivery, Finding, Kind, Priority, Punishable, Severity, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Limit on the deliveries that one message merges. More are told by the next message.
pub(crate) const MAX_MERGED: usize = 10_000;
/// The shortest and the longest time that a finding waits for the next update.
const SHORTEST_WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// An alert is over when nothing was told of it for so long.
const OVER_AFTER: Duration = Duration::from_secs(3600);
/// An incident whose end was never told is forgotten after so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// The period of the limit of messages.
const LIMIT_PERIOD: Duration = Duration::from_secs(3600);
/// Limit on the validators that an alert remembers, to count each once. Further ones are counted as
/// often as they come.
const MAX_VALIDATORS: usize = 16_384;
/// Limit on the labels that an alert names. As many groups have a place beside them.
const MAX_LABELS: usize = 16;

/// What a merging route has told so far. It is stored with the outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MergeState {
    /// Alerts that go on, by subject.
    alerts: BTreeMap<String, Alert>,
    /// When the messages of the last [`LIMIT_PERIOD`] were sent, oldest first.
    sent: VecDeque<Time>,
}

/// One alert: everything that is told under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// By this key receivers recognise the messages of one alert.
    pub(crate) key: String,
    /// The kind of its first finding.
    pub(crate) kind: String,
    /// The greatest severity of its findings.
    pub(crate) severity: Severity,
    /// The earliest arrival of a message that it is about.
    pub(crate) since: Time,
    /// Findings that were told.
    pub(crate) findings: u64,
    pub(crate) validators: u64,
    pub(crate) labels: BTreeSet<String>,
    /// The validators, up to [`MAX_VALIDATORS`].
    counted: BTreeSet<u64>,
    opened_at: Time,
    told_at: Time,
    /// Whether an incident was announced whose end was not.
    is_incident_open: bool,
}

/// One message to send: the deliveries that it ends, and the alerts as they are afterwards.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// In the order of the findings. There is at least one.
    pub(crate) members: Vec<DueDelivery>,
    /// By subject. There is one, unless the route is over its limit. A route that does not merge
    /// has none.
    pub(crate) alerts: Vec<(String, Alert)>,
    pub(crate) state: AlertState,
    /// Whether an earlier message told of this alert.
    pub(crate) is_update: bool,
    /// Whether it may go over the limit.
    is_exempt: bool,
}

/// What to do with the deliveries that are due.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) bundles: Vec<Bundle>,
    /// Deliveries that end without a message, because an earlier one has told what they say.
    pub(crate) told_already: Vec<DeliveryId>,
    /// When the next of the others is due. `None` if none waits.
    pub(crate) next: Option<Time>,
}

/// The subject of the alert that a finding belongs to. `is_named` is whether it is about a key that
/// a group names.
fn subject_of(finding: &Finding, is_named: bool) -> String {
    let group = group_of(finding);
    let of_whom = if is_named { "" } else { " not named" };
    let of_group = |what: &str| group.map_or_else(|| what.to_owned(), |group| format!("{what}{of_whom} {group}"));
    if let Some(incident) = incident_of(finding) {
        return match finding.kind {
            Kind::SlashingWave => "offences".into(),
            _ => format!("incident {incident}"),
        };
    }
    match finding.punishable {
        Some(punishable) if !punishable.is_possible() => of_group("offences without a penalty"),
        Some(_) => of_group("offences"),
        None if finding.kind == Kind::SecondSigner => of_group("offences"),
        None => of_group(finding.kind.as_str()),
    }
}

/// The label of the watched group, as `group=acme-1`.
fn group_of(finding: &Finding) -> Option<&str> {
    finding.labels().find(|label| label.starts_with("group="))
}

/// The incident that a finding announces.
fn incident_of(finding: &Finding) -> Option<&str> {
    finding.details.as_ref()?.get("incident")?.as_str()
}

/// Whether a finding announces that an incident is over.
fn is_over(finding: &Finding) -> bool {
    incident_of(finding).is_some()
        && finding.details.as_ref().is_some_and(|details| details.get("news").is_some_and(|news| news == "over"))
}

/// Whether it says that a kill switch did not stop its group.
fn is_about_a_stop(finding: &Finding) -> bool {
    matches!(finding.kind, Kind::KillSwitchFailed | Kind::SignsAfterStop | Kind::ProofNotConfirmed)
}

/// Whether it is a slashable message of a watched key that can cost something.
fn is_own_offence(finding: &Finding) -> bool {
    finding.punishable.is_some_and(Punishable::is_possible) && group_of(finding).is_some()
}

/// Whether a finding says nothing besides an offence of this validator.
fn only_repeats_offence_of(finding: &Finding) -> Option<u64> {
    let subject = finding.validator.as_ref().filter(|_| finding.kind == Kind::SecondSigner)?;
    Some(subject.index.as_u64())
}

impl Bundle {
    /// A message about one finding, of a route that does not merge.
    pub(crate) fn single(due: DueDelivery) -> Self {
        let state = if is_over(&due.finding) { AlertState::Resolved } else { AlertState::Firing };
        Self { members: vec![due], alerts: Vec::new(), state, is_update: false, is_exempt: true }
    }
}

impl Alert {
    fn begin(finding: &Finding, now: Time) -> Self {
        Self {
            key: incident_of(finding).map_or_else(|| finding.id.to_string(), str::to_owned),
            kind: finding.kind.to_string(),
            severity: finding.severity,
            since: finding.first_seen,
            findings: 0,
            validators: 0,
            labels: BTreeSet::new(),
            counted: BTreeSet::new(),
            opened_at: now,
            told_at: now,
            is_incident_open: false,
        }
    }

    /// The same alert after a message about these findings.
    fn with(mut self, members: &[DueDelivery], now: Time) -> Self {
        for DueDelivery { finding, .. } in members {
            self.findings += 1;
            self.severity = self.severity.max(finding.severity);
            self.since = self.since.min(finding.first_seen);
            // A wave names the labels of all its members. Its alert is about strangers, and each
            // group has one of its own.
            let labels = finding.labels().filter(|_| finding.kind != Kind::SlashingWave);
            for label in labels {
                // Lists of others must not keep out whose key it is.
                let most = if label.starts_with("group=") { 2 * MAX_LABELS } else { MAX_LABELS };
                if self.labels.len() < most {
                    self.labels.insert(label.to_owned());
                }
            }
            if let Some(subject) = &finding.validator {
                let is_new = self.counted.len() >= MAX_VALIDATORS || self.counted.insert(subject.index.as_u64());
                self.validators += u64::from(is_new);
            }
            if incident_of(finding).is_some() {
                self.is_incident_open = !is_over(finding);
            }
        }
        self.told_at = now;
        self
    }

    fn is_forgotten(&self, now: Time) -> bool {
        now.since(self.told_at) > if self.is_incident_open { FORGOTTEN_AFTER } else { OVER_AFTER }
    }

    /// When an update is due about findings of which the first was recorded at `oldest`. The age of
    /// the alert at that time counts: its age now would grow as fast as the finding waits. If
    /// `oldest` is in the future, the clock was set back, and nobody knows how long it has waited.
    fn update_due(&self, oldest: Time, now: Time) -> Time {
        if oldest > now {
            return now;
        }
        oldest.after(oldest.since(self.opened_at).clamp(SHORTEST_WAIT, LONGEST_WAIT))
    }
}

impl MergeState {
    /// Reads a stored state. One that does not parse counts as none: then the next finding of each
    /// alert is told as its first.
    pub(crate) fn from_json(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers")
    }

    /// Notes that a message was accepted.
    pub(crate) fn told(&mut self, bundle: &Bundle, now: Time) {
        for (subject, alert) in &bundle.alerts {
            match bundle.state {
                AlertState::Firing => drop(self.alerts.insert(subject.clone(), alert.clone())),
                AlertState::Resolved => drop(self.alerts.remove(subject)),
            }
        }
        self.sent.push_back(now);
        // Findings may still wait for an update.
        self.alerts.retain(|_, alert| !alert.is_forgotten(now) || now.since(alert.told_at) <= OVER_AFTER + LONGEST_WAIT);
        self.forget_sent(now);
    }

    /// Keeps the messages that count towards the limit. What seems to be sent in the future was
    /// sent before the clock was set back.
    fn forget_sent(&mut self, now: Time) {
        self.sent.retain(|sent| is_recent(*sent, now));
    }

    /// Decides which of the deliveries that are due go now, and in which messages. `max_per_hour`
    /// limits the messages. `is_named` says which findings are about keys that a group names.
    pub(crate) fn plan(
        &self,
        due: Vec<DueDelivery>,
        is_named: &dyn Fn(&Finding) -> bool,
        quiet: Option<&QuietHours>,
        max_per_hour: u32,
        now: Time,
    ) -> Plan {
        let mut plan = Plan::default();
        let quiet = quiet.and_then(|quiet| Some((quiet.below, quiet.ends_after(now)?)));
        let mut by_subject: BTreeMap<(Priority, String), Vec<DueDelivery>> = BTreeMap::new();
        let mut priority_of: BTreeMap<String, Priority> = BTreeMap::new();
        for one in due {
            if let Some((below, ends)) = quiet
                && one.finding.severity < below
                && !is_own_offence(&one.finding)
            {
                plan.wait_until(ends);
                continue;
            }
            let subject = subject_of(&one.finding, is_named(&one.finding));
            // The deliveries come in the order of their priority.
            let priority = *priority_of.entry(subject.clone()).or_insert(one.priority);
            by_subject.entry((priority, subject)).or_default().push(one);
        }
        let mut bundles = Vec::new();
        for ((_, subject), mut members) in by_subject {
            members.sort_by_key(|one| one.id.seq);
            self.take_repeats(&subject, &mut members, now, &mut plan.told_already);
            if members.is_empty() {
                continue;
            }
            match self.bundle(subject, members, now) {
                Ok(bundle) => bundles.push(bundle),
                Err(next) => plan.wait_until(next),
            }
        }
        self.limit(bundles, max_per_hour, now, &mut plan);
        plan
    }

    /// Takes out of `members` what only repeats an offence. If that was told, the delivery ends. If
    /// it is among the members, the delivery waits until it was.
    fn take_repeats(&self, subject: &str, members: &mut Vec<DueDelivery>, now: Time, told_already: &mut Vec<DeliveryId>) {
        let offenders: BTreeSet<u64> = members
            .iter()
            .filter(|one| one.finding.offence().is_some())
            .filter_map(|one| Some(one.finding.validator.as_ref()?.index.as_u64()))
            .collect();
        let open = self.alerts.get(subject);
        members.retain(|one| {
            let Some(validator) = only_repeats_offence_of(&one.finding) else { return true };
            let was_told =
                open.is_some_and(|alert| !alert.is_forgotten(one.created_at.min(now)) && alert.counted.contains(&validator));
            if was_told {
                told_already.push(one.id.clone());
            }
            !was_told && !offenders.contains(&validator)
        });
    }

    /// The message about a subject, or when it is due.
    fn bundle(&self, subject: String, mut members: Vec<DueDelivery>, now: Time) -> Result<Bundle, Time> {
        let first = &members[0];
        let oldest = members.iter().map(|one| one.created_at).min().unwrap_or(now);
        // What waits for an update belongs to the alert that was open when it came.
        let open = self.alerts.get(&subject).filter(|alert| !alert.is_forgotten(oldest.min(now)));
        let is_own_first = open.is_none() && is_own_offence(&first.finding);
        if is_own_first {
            members.truncate(1);
        } else if let Some(alert) = open {
            let has_news = members.iter().any(|one| incident_of(&one.finding).is_some());
            let due = alert.update_due(oldest, now);
            if !has_news && (members.len() as u64) < alert.findings && due > now {
                return Err(due);
            }
        }
        let before = open.cloned().unwrap_or_else(|| Alert::begin(&members[0].finding, now));
        let alert = before.with(&members, now);
        // An incident that is over, and that did not open again among these findings.
        let last_news = members.iter().rev().find(|one| incident_of(&one.finding).is_some());
        let state = match last_news {
            Some(news) if is_over(&news.finding) => AlertState::Resolved,
            Some(_) | None => AlertState::Firing,
        };
        let is_exempt = is_own_first || state == AlertState::Resolved || is_about_a_stop(&members[0].finding);
        Ok(Bundle { members, alerts: vec![(subject, alert)], state, is_update: open.is_some(), is_exempt })
    }

    /// Keeps the messages within the limit: the last ones are merged into one, or wait.
    fn limit(&self, bundles: Vec<Bundle>, max_per_hour: u32, now: Time, plan: &mut Plan) {
        let recent = self.sent.iter().filter(|sent| is_recent(**sent, now));
        let left = (max_per_hour as usize).saturating_sub(recent.clone().count());
        let n_limited = bundles.iter().filter(|bundle| !bundle.is_exempt).count();
        let mut separate = if n_limited > left { left.saturating_sub(1) } else { left };
        let mut rest: Option<Bundle> = None;
        for bundle in bundles {
            if bundle.is_exempt {
                plan.bundles.push(bundle);
            } else if left == 0 {
                plan.wait_until(recent.clone().next().map_or(now, |oldest| oldest.after(LIMIT_PERIOD)));
            } else if separate > 0 {
                separate -= 1;
                plan.bundles.push(bundle);
            } else if let Some(rest) = &mut rest {
                rest.members.extend(bundle.members);
                rest.alerts.extend(bundle.alerts);
                rest.is_update &= bundle.is_update;
            } else {
                rest = Some(bundle);
            }
        }
        plan.bundles.extend(rest);
    }
}

/// Whether a message was sent within the period of the limit.
fn is_recent(sent: Time, now: Time) -> bool {
    sent <= now && now.since(sent) < LIMIT_PERIOD
}

impl Plan {
    fn wait_until(&mut self, time: Time) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quiet::QuietHoursConfig;
    use consensus::{ForkName, ValidatorIndex};
    use evidence::{Anomaly, Evidence, EvidenceKind, OffenceFacts, RouteName};
    use serde_json::json;

    const START: Time = Time::from_unix_ns(1_767_225_600_000_000_000);

    /// Every key of a group is named.
    const NAMED: &dyn Fn(&Finding) -> bool = &|_| true;

    fn at(minutes: u64) -> Time {
        START.after(Duration::from_secs(60 * minutes))
    }

    fn due(seq: u64, finding: Finding, created_at: Time) -> DueDelivery {
        let id = DeliveryId { seq, route: RouteName::new("ops").unwrap() };
        let priority = Priority::of(&finding, true);
        DueDelivery { id, priority, attempts: 0, refusals: 0, created_at, due_at: created_at, finding }
    }

    fn offence(validator: u64, labels: &[&str]) -> Finding {
        let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, Vec::new(), ().into());
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let facts =
            OffenceFacts { validator: ValidatorIndex::new(validator), labels, seen: [START; 2], ..OffenceFacts::sample() };
        Finding::slashable(facts, &evidence)
    }

    fn incident(kind: Kind, news: Option<&str>) -> Finding {
        let mut details = serde_json::Map::new();
        details.insert("incident".into(), json!("0x01"));
        details.extend(news.map(|news| ("news".to_owned(), json!(news))));
        Finding::anomaly(Anomaly { details, severity: Severity::Warning, ..Anomaly::sample(kind) })
    }

    /// Plays a route: each minute these findings are recorded. Returns how many findings each
    /// message had, with its minute.
    fn play(state: &mut MergeState, minutes: std::ops::Range<u64>, per_minute: u64, max_per_hour: u32) -> Vec<(u64, usize)> {
        let (mut waiting, mut messages, mut seq) = (Vec::new(), Vec::new(), 0);
        for minute in minutes {
            for _ in 0..per_minute {
                seq += 1;
                waiting.push(due(seq, offence(seq, &[]), at(minute)));
            }
            for bundle in state.plan(waiting.clone(), NAMED, None, max_per_hour, at(minute)).bundles {
                waiting.retain(|one| bundle.members.iter().all(|member| member.id != one.id));
                messages.push((minute, bundle.members.len()));
                state.told(&bundle, at(minute));
            }
        }
        messages
    }

    #[test]
    fn a_wave_is_told_at_once_and_then_by_doubling() {
        let told = play(&mut MergeState::default(), 0..60, 50, u32::MAX);
        assert_eq!(told, [(0, 50), (1, 50), (3, 100), (7, 200), (15, 400), (31, 800)]);
    }

    #[test]
    fn what_trickles_in_waits_longer_the_longer_it_goes_on_and_never_over_an_hour() {
        let told = play(&mut MergeState::default(), 0..400, 1, u32::MAX);
        let minutes: Vec<u64> = told.iter().map(|(minute, _)| *minute).collect();
        assert!(told.len() <= 14, "{told:?}");
        assert!(minutes.windows(2).all(|pair| pair[1] - pair[0] <= 61), "{minutes:?}");
    }

    #[test]
    fn after_an_hour_of_silence_the_next_finding_is_told_at_once() {
        let mut state = MergeState::default();
        assert_eq!(play(&mut state, 0..1, 4, u32::MAX), [(0, 4)]);
        let soon = state.plan(vec![due(9, offence(9, &[]), at(59))], NAMED, None, 9, at(59));
        assert_eq!((soon.bundles.len(), soon.next), (0, Some(at(59 + 59))));
        assert_eq!(state.plan(vec![due(9, offence(9, &[]), at(61))], NAMED, None, 9, at(61)).bundles.len(), 1);
    }

    /// The third key of a group comes ten minutes after the alert began.
    #[test]
    fn a_finding_waits_as_long_as_the_alert_was_old_when_it_came() {
        let mut state = MergeState::default();
        assert_eq!(play(&mut state, 0..1, 4, u32::MAX), [(0, 4)]);
        for (recorded, told) in [(1, 6), (10, 20), (25, 50)] {
            let waiting = || vec![due(9, offence(9, &[]), at(recorded))];
            assert_eq!(state.plan(waiting(), NAMED, None, 9, at(told - 1)).bundles.len(), 0, "recorded at {recorded}");
            assert_eq!(state.plan(waiting(), NAMED, None, 9, at(told)).bundles.len(), 1, "recorded at {recorded}");
        }
    }

    /// Sixteen labels of a list of others, and a wave with the labels of everybody.
    #[test]
    fn whose_key_it_is_has_a_place_among_the_labels_and_strangers_do_not_get_it() {
        let mut state = MergeState::default();
        let many: Vec<String> = (0..40).map(|nth| format!("a{nth:02}=x")).collect();
        let labels: Vec<&str> = many.iter().map(String::as_str).chain(["group=acme"]).collect();
        let plan = state.plan(vec![due(1, offence(1, &labels), START)], NAMED, None, 9, START);
        assert!(plan.bundles[0].alerts[0].1.labels.contains("group=acme"));
        state.told(&plan.bundles[0], START);
        let mut wave = incident(Kind::SlashingWave, None);
        wave.details.get_or_insert_default().insert("labels".into(), json!(["group=acme", "operator=acme"]));
        let plan = state.plan(vec![due(2, offence(2, &[]), START), due(3, wave, START)], NAMED, None, 9, START);
        assert_eq!(plan.bundles.len(), 1);
        assert!(plan.bundles[0].alerts[0].1.labels.is_empty(), "{:?}", plan.bundles[0].alerts);
    }

    #[test]
    fn a_clock_that_was_ahead_holds_no_message_back() {
        let mut state = MergeState::default();
        // Told, and recorded, with a clock that is ten hours ahead.
        let first = state.plan(vec![due(1, offence(1, &[]), at(600))], NAMED, None, 1, at(600));
        state.told(&first.bundles[0], at(600));
        let waiting = vec![due(2, offence(2, &[]), at(600))];
        assert_eq!(state.plan(waiting.clone(), NAMED, None, 1, at(600)).bundles.len(), 0, "an update waits");
        let plan = state.plan(waiting, NAMED, None, 1, at(0));
        assert_eq!(plan.bundles.len(), 1, "nobody knows how long it has waited: {:?}", plan.next);
    }

    #[test]
    fn over_its_limit_a_route_merges_and_then_waits_and_drops_nothing() {
        let mut state = MergeState::default();
        let subjects: Vec<DueDelivery> = (0..6)
            .map(|nth: u8| {
                let mut finding = incident(Kind::LateBlocks, None);
                finding.details.get_or_insert_default().insert("incident".into(), json!(format!("0x{nth}")));
                due(u64::from(nth), finding, START)
            })
            .collect();
        let plan = state.plan(subjects, NAMED, None, 3, START);
        let sizes: Vec<usize> = plan.bundles.iter().map(|bundle| bundle.members.len()).collect();
        assert_eq!((sizes, plan.next), (vec![1, 1, 4], None), "three messages about six things");
        plan.bundles.iter().for_each(|bundle| state.told(bundle, START));
        // Nothing is left for an hour, but for one's own keys.
        let own = due(11, offence(11, &["group=acme"]), at(1));
        let plan = state.plan(vec![due(10, offence(10, &[]), at(1)), own], NAMED, None, 3, at(1));
        assert_eq!(plan.bundles.len(), 1);
        assert_eq!((plan.bundles[0].members[0].id.seq, plan.next), (11, Some(at(60))));
        assert_eq!(state.plan(vec![due(10, offence(10, &[]), at(1))], NAMED, None, 3, at(60)).bundles.len(), 1);
    }

    #[test]
    fn the_first_offence_of_each_own_group_is_a_message_of_its_own() {
        let mut state = MergeState::default();
        let all: Vec<DueDelivery> = (1..=9)
            .map(|nth| due(nth, offence(nth, &[["group=acme"], ["group=blue"], ["operator=other"]][nth as usize % 3]), START))
            .collect();
        let plan = state.plan(all.clone(), NAMED, None, 1, START);
        let seqs = |bundle: &Bundle| bundle.members.iter().map(|one| one.id.seq).collect::<Vec<_>>();
        assert_eq!(plan.bundles.iter().map(seqs).collect::<Vec<_>>(), [vec![3], vec![1], vec![2, 5, 8]]);
        plan.bundles.iter().for_each(|bundle| state.told(bundle, START));
        let rest: Vec<DueDelivery> = all.into_iter().filter(|one| ![1, 2, 3, 5, 8].contains(&one.id.seq)).collect();
        let plan = state.plan(rest, NAMED, None, 100, START);
        assert_eq!(plan.bundles.iter().map(seqs).collect::<Vec<_>>(), [vec![6, 9], vec![4, 7]], "then as many as were told");
    }

    /// A stranger made a key with the group's withdrawal credentials, and its offence came first.
    #[test]
    fn a_key_that_nobody_named_does_not_take_the_page_of_the_named_ones() {
        let mut state = MergeState::default();
        let is_named = |finding: &Finding| finding.validator.as_ref().is_some_and(|subject| subject.index.as_u64() < 100);
        let own = ["group=acme"];
        let strangers = vec![due(1, offence(200, &own), START), due(2, offence(201, &own), START)];
        let seqs = |plan: &Plan| -> Vec<Vec<u64>> {
            plan.bundles.iter().map(|bundle| bundle.members.iter().map(|one| one.id.seq).collect()).collect()
        };
        let plan = state.plan(strangers, &is_named, None, 1, START);
        assert_eq!(seqs(&plan), [vec![1]]);
        state.told(&plan.bundles[0], START);
        // Nothing is left of the limit.
        let waiting = vec![due(2, offence(201, &own), START), due(3, offence(5, &own), at(1)), due(4, offence(6, &own), at(1))];
        let plan = state.plan(waiting, &is_named, None, 1, at(1));
        assert_eq!(seqs(&plan), [vec![3]], "at once, and alone");
        state.told(&plan.bundles[0], at(1));
        let plan = state.plan(vec![due(5, second_signer(5, &own), at(1))], &is_named, None, 9, at(1));
        assert_eq!(plan.told_already.len(), 1);
    }

    fn second_signer(validator: u64, labels: &[&str]) -> Finding {
        let validator = offence(validator, labels).validator;
        Finding::anomaly(Anomaly { validator, severity: Severity::Critical, ..Anomaly::sample(Kind::SecondSigner) })
    }

    #[test]
    fn a_second_signer_makes_no_message_beside_the_offence_that_was_told() {
        let (mut state, own) = (MergeState::default(), ["group=acme"]);
        let waiting = vec![due(1, offence(5, &own), START), due(2, second_signer(5, &own), START)];
        let plan = state.plan(waiting.clone(), NAMED, None, 9, START);
        let seqs = |plan: &Plan| plan.bundles.iter().map(|bundle| bundle.members[0].id.seq).collect::<Vec<_>>();
        assert_eq!((seqs(&plan), plan.bundles[0].members.len(), plan.told_already.len()), (vec![1], 1, 0));
        // If the message fails, both still wait.
        assert_eq!(state.plan(waiting.clone(), NAMED, None, 9, START).told_already.len(), 0);
        state.told(&plan.bundles[0], START);
        let plan = state.plan(waiting[1..].to_vec(), NAMED, None, 9, at(1));
        assert_eq!((plan.bundles.len(), plan.told_already.len(), plan.told_already[0].seq), (0, 1, 2));
        // Another key of the group is news, and so is one whose offence this route does not get.
        let plan = state.plan(vec![due(3, second_signer(6, &own), at(1))], NAMED, None, 9, at(1));
        assert_eq!((seqs(&plan), plan.told_already.len()), (vec![3], 0));
        let plan = MergeState::default().plan(waiting[1..].to_vec(), NAMED, None, 9, START);
        assert_eq!((seqs(&plan), plan.told_already.len()), (vec![2], 0));
    }

    #[test]
    fn an_incident_is_resolved_under_the_key_with_which_it_began() {
        let mut state = MergeState::default();
        let mut step = |seq: u64, findings: Vec<Finding>, now: Time| -> (AlertState, String, usize) {
            let due = (seq..).zip(findings).map(|(seq, finding)| due(seq, finding, now)).collect();
            let mut plan = state.plan(due, NAMED, None, 100, now);
            assert_eq!(plan.bundles.len(), 1);
            let bundle = plan.bundles.remove(0);
            state.told(&bundle, now);
            // As over a restart.
            state = MergeState::from_json(&state.to_json());
            (bundle.state, bundle.alerts[0].1.key.clone(), bundle.members.len())
        };
        let first = offence(1, &[]);
        let key = first.id.to_string();
        assert_eq!(step(1, vec![first], START), (AlertState::Firing, key.clone(), 1));
        assert_eq!(step(2, vec![incident(Kind::SlashingWave, None)], at(1)), (AlertState::Firing, key.clone(), 1));
        let last = vec![offence(7, &[]), incident(Kind::SlashingWave, Some("over"))];
        // The wave was open for two days without another finding.
        assert_eq!(step(3, last, at(2 * 24 * 60)), (AlertState::Resolved, key, 2));
        let again = offence(8, &[]);
        let key = again.id.to_string();
        assert_eq!(step(5, vec![again], at(2 * 24 * 60 + 1)), (AlertState::Firing, key, 1), "and the next is a new alert");
    }

    #[test]
    fn quiet_hours_hold_what_is_not_severe_and_never_ones_own_offences() {
        let text = r#"{"from":"22:00","to":"07:00"}"#;
        let quiet = serde_json::from_str::<QuietHoursConfig>(text).unwrap().open().unwrap();
        let night: Time = "2026-01-01T23:00:00Z".parse().unwrap();
        let morning: Time = "2026-01-02T07:00:00Z".parse().unwrap();
        let mut own = offence(5, &["group=acme"]);
        own.severity = Severity::Info;
        let waiting = vec![due(1, incident(Kind::LateBlocks, None), night), due(2, own, night), due(3, offence(6, &[]), night)];
        let plan = MergeState::default().plan(waiting.clone(), NAMED, Some(&quiet), 100, night);
        assert_eq!(plan.bundles.iter().map(|bundle| bundle.members[0].id.seq).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(plan.next, Some(morning));
        assert_eq!(MergeState::default().plan(waiting, NAMED, Some(&quiet), 100, morning).bundles.len(), 3);
    }
}
