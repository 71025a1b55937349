//! The outbox: deliveries of findings to routes, until each of them has ended.
//!
//! [`Store::apply`] creates one delivery per finding and route, in the same atomic write as the
//! finding. A delivery is pending until it ends as delivered or given up. A failed attempt moves it
//! to a later time. Everything is on disk before a call returns. If a dispatcher is killed between
//! the receiver's answer and [`Store::delivered`], it sends the delivery once more after the
//! restart, under the same delivery id. It never loses one.
//!
//! Deliveries are ordered by [`Priority`], and by time only within a priority. So whoever floods
//! the outbox delays only deliveries of the same priority or below.

use crate::keys::{CHECKPOINTS, DELIVERIES, DUE, FINDINGS, Key, META, META_COUNTS, PENDING};
use crate::{Finding, Punishable, Severity, Store, StoreError, Time};
use rocksdb::{Direction, IteratorMode, Snapshot, WriteBatch};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use utoipa::ToSchema;

/// Longest route name, in bytes.
pub const MAX_ROUTE_LEN: usize = 64;
/// Limit on the text of a failed attempt's reason, in bytes. The rest is cut off.
pub const MAX_REASON_LEN: usize = 512;

/// Prefix of the label that every member of a watched group has.
const GROUP_LABEL: &str = "group=";
/// Number of deliveries that are moved in one write when a database of an older format is opened.
const MOVED_AT_ONCE: usize = 1024;

/// The order in which deliveries are made. The numbers are part of the format of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// About a key of a watched group, or about the watcher itself.
    Watched = 0,
    /// The first offence of a validator.
    NewOffender = 1,
    /// Everything else.
    #[default]
    Ordinary = 2,
    /// An offence that no block can punish any more. Whoever holds such a key can make any number
    /// of them for nothing.
    Worthless = 3,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Watched, Self::NewOffender, Self::Ordinary, Self::Worthless];

    /// The priority of a finding. `is_first` means that no offence of this validator is known so
    /// far. If an offence cannot be punished, even a watched key has high priority only for the
    /// first one. Its key may belong to a stranger, or may be an old key that somebody else holds.
    pub fn of(finding: &Finding, is_first: bool) -> Self {
        let is_offence = finding.offence().is_some();
        let counts = finding.punishable.is_none_or(Punishable::is_possible);
        match (counts, finding.labels().any(|label| label.starts_with(GROUP_LABEL))) {
            (true, true) => Self::Watched,
            (false, true) if is_first => Self::Watched,
            (true, false) if is_offence && is_first => Self::NewOffender,
            (true, false) => Self::Ordinary,
            (false, _) => Self::Worthless,
        }
    }
}

/// The name of a route. A route that is renamed is another route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot name a route: use 1 to {MAX_ROUTE_LEN} letters, digits, dots, dashes and underscores")]
pub struct RouteNameError {
    pub name: String,
}

impl RouteName {
    /// Checks the name: 1 to [`MAX_ROUTE_LEN`] letters, digits, dots, dashes and underscores.
    pub fn new(name: &str) -> Result<Self, RouteNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_ROUTE_LEN || !name.bytes().all(allowed) {
            return Err(RouteNameError { name: name.into() });
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a route's configuration that the store needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFilter {
    pub route: RouteName,
    /// Only findings of this severity or higher.
    pub min_severity: Severity,
    /// Only findings that have one of these labels (`operator=acme`). A label belongs to the
    /// validator or is named in the finding's details. Empty means all findings.
    pub labels: Vec<String>,
}

impl RouteFilter {
    /// Whether the route gets this finding.
    pub fn wants(&self, finding: &Finding) -> bool {
        finding.severity >= self.min_severity
            && (self.labels.is_empty() || self.labels.iter().any(|label| finding.has_label(label)))
    }
}

/// Identifies a delivery: one finding for one route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The finding's number.
    pub seq: u64,
    pub route: RouteName,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of finding number {}", self.route, self.seq)
    }
}

/// A delivery whose next attempt is due.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    pub id: DeliveryId,
    pub priority: Priority,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts that the receiver refused.
    pub refusals: u32,
    /// When the finding was recorded.
    pub created_at: Time,
    /// When this attempt became due.
    pub due_at: Time,
    pub finding: Finding,
}

/// The state of a delivery, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    #[serde(flatten)]
    pub state: DeliveryState,
    #[serde(default)]
    pub priority: Priority,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts that the receiver answered with a refusal. Repeating is not likely to change such
    /// an answer.
    #[serde(default)]
    pub refusals: u32,
    /// When the finding was recorded.
    pub created_at: Time,
    /// The error of the last failed attempt.
    pub last_error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeliveryState {
    Pending { next_attempt: Time },
    Delivered { at: Time },
    GivenUp { at: Time, reason: String },
}

impl Delivery {
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, DeliveryState::Pending { .. })
    }
}

/// How an attempt to deliver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The receiver has it.
    Delivered { at: Time },
    /// It failed, and the next attempt is due at `at`.
    Retry { at: Time, error: String, refused: bool },
    /// There is no further attempt. This one does not count.
    GivenUp { at: Time, reason: String },
}

impl AttemptEnd {
    fn apply_to(&self, delivery: &mut Delivery) {
        match self {
            Self::Delivered { at } => {
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.state = DeliveryState::Delivered { at: *at };
            }
            Self::Retry { at, error, refused } => {
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.refusals = delivery.refusals.saturating_add(u32::from(*refused));
                delivery.last_error = Some(shortened(error));
                delivery.state = DeliveryState::Pending { next_attempt: *at };
            }
            Self::GivenUp { at, reason } => delivery.state = DeliveryState::GivenUp { at: *at, reason: shortened(reason) },
        }
    }
}

impl DeliveryState {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Delivered { .. } => "delivered",
            Self::GivenUp { .. } => "given up",
        }
    }
}

/// Number of deliveries in each state. The sum is the number of all deliveries that were ever
/// created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutboxCounts {
    pub pending: u64,
    pub delivered: u64,
    pub given_up: u64,
}

/// Rows of (time of the next attempt, seq), ordered by time.
type PendingRows<'a> = Box<dyn Iterator<Item = Result<(Time, u64), StoreError>> + 'a>;

impl Store {
    /// Deliveries of all routes that are due at `now`, ordered by priority and then by due time,
    /// `limit` at most.
    pub fn due(&self, now: Time, limit: usize) -> Result<Vec<DueDelivery>, StoreError> {
        let mut due = Vec::new();
        for route in self.pending_routes()? {
            due.extend(self.due_for(&route, now, limit)?);
        }
        due.sort_by(|a, b| (a.priority, a.due_at, &a.id).cmp(&(b.priority, b.due_at, &b.id)));
        due.truncate(limit);
        Ok(due)
    }

    /// Same as [`Self::due`], for one route.
    pub fn due_for(&self, route: &RouteName, now: Time, limit: usize) -> Result<Vec<DueDelivery>, StoreError> {
        let mut due = Vec::new();
        // All rows are read as they are at this moment. Otherwise a delivery could be moved or end
        // between its row in `pending` and its state.
        let at = self.shared.db.snapshot();
        let get = |family: &str, key: &[u8]| at.get_cf(&self.family(family), key).map_err(|source| self.read_error(source));
        for priority in Priority::ALL {
            for row in self.pending_of(&at, route, priority)?.take(limit.saturating_sub(due.len())) {
                let (due_at, seq) = row?;
                if due_at > now {
                    break;
                }
                let id = DeliveryId { seq, route: route.clone() };
                // Without its delivery there is nothing to send.
                let Some(delivery) = get(DELIVERIES, &Key::delivery(seq, route))? else { continue };
                let delivery = self.delivery_from_json(&delivery)?;
                let finding = get(FINDINGS, &Key::seq(seq))?.ok_or_else(|| self.damaged("a delivery without its finding"))?;
                let finding = self.finding_from_json(seq, &finding)?;
                let Delivery { attempts, refusals, created_at, .. } = delivery;
                due.push(DueDelivery { id, priority, attempts, refusals, created_at, due_at, finding });
            }
        }
        Ok(due)
    }

    /// The due time of the earliest pending delivery of a route. `None` if nothing is pending.
    pub fn next_due(&self, route: &RouteName) -> Result<Option<Time>, StoreError> {
        self.earliest_due(route, Time::from_unix_ns(0))
    }

    /// Same as [`Self::next_due`], of the deliveries that are due after `now`.
    pub fn next_due_after(&self, route: &RouteName, now: Time) -> Result<Option<Time>, StoreError> {
        self.earliest_due(route, now.after(Duration::from_nanos(1)))
    }

    fn earliest_due(&self, route: &RouteName, from: Time) -> Result<Option<Time>, StoreError> {
        let mut next: Option<Time> = None;
        let at = self.shared.db.snapshot();
        for priority in Priority::ALL {
            if let Some(row) = self.pending_from(&at, route, priority, from)?.next() {
                let (due_at, _) = row?;
                next = Some(next.map_or(due_at, |next| next.min(due_at)));
            }
        }
        Ok(next)
    }

    /// Time and seq of a route's pending deliveries of one priority, ordered by time, at the moment
    /// of the snapshot.
    fn pending_of<'a>(
        &'a self,
        at: &'a Snapshot<'_>,
        route: &RouteName,
        priority: Priority,
    ) -> Result<PendingRows<'a>, StoreError> {
        self.pending_from(at, route, priority, Time::from_unix_ns(0))
    }

    /// Same as [`Self::pending_of`], of those that are due at `from` or later.
    fn pending_from<'a>(
        &'a self,
        at: &'a Snapshot<'_>,
        route: &RouteName,
        priority: Priority,
        from: Time,
    ) -> Result<PendingRows<'a>, StoreError> {
        let Some(family) = self.family_if_there(PENDING) else { return Ok(Box::new(std::iter::empty())) };
        let start = Key::pending(route, priority, from, 0);
        let prefix = start[..=MAX_ROUTE_LEN].to_vec();
        let rows = at.iterator_cf(&family, IteratorMode::From(&start, Direction::Forward));
        let rows = rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)));
        Ok(Box::new(rows.map(|row| {
            let (key, _) = row.map_err(|source| self.read_error(source))?;
            let (_, _, due_at, seq) = self.read_pending_key(&key)?;
            Ok((due_at, seq))
        })))
    }

    /// Routes that have pending deliveries, even if they are not configured any more.
    pub fn pending_routes(&self) -> Result<Vec<RouteName>, StoreError> {
        let mut routes: Vec<RouteName> = Vec::new();
        let Some(family) = self.family_if_there(PENDING) else { return Ok(routes) };
        let mut start = Vec::new();
        loop {
            let mode = IteratorMode::From(&start, Direction::Forward);
            let Some(row) = self.shared.db.iterator_cf(&family, mode).next() else { return Ok(routes) };
            let (key, _) = row.map_err(|source| self.read_error(source))?;
            let (route, ..) = self.read_pending_key(&key)?;
            // This takes one seek per route.
            start = Key::after_route(&route).to_vec();
            routes.push(route);
        }
    }

    /// The state of a delivery. `None` if it does not exist.
    pub fn delivery(&self, id: &DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let stored = self.get(DELIVERIES, &Key::delivery(id.seq, &id.route))?;
        stored.map(|bytes| self.delivery_from_json(&bytes)).transpose()
    }

    /// All deliveries of a finding, ordered by route.
    pub fn deliveries_of(&self, seq: u64) -> Result<Vec<(RouteName, Delivery)>, StoreError> {
        let mut rows = Vec::new();
        let start = Key::seq(seq);
        for row in self.shared.db.iterator_cf(&self.family(DELIVERIES), IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = row.map_err(|source| self.read_error(source))?;
            let Some(route) = key.strip_prefix(&start[..]) else { break };
            let route = std::str::from_utf8(route).ok().and_then(|name| RouteName::new(name).ok());
            rows.push((route.ok_or_else(|| self.damaged("the key of a delivery"))?, self.delivery_from_json(&value)?));
        }
        Ok(rows)
    }

    /// Ends a pending delivery because the receiver has it.
    pub fn delivered(&self, id: &DeliveryId, at: Time) -> Result<(), StoreError> {
        self.end_attempt(id, AttemptEnd::Delivered { at })
    }

    /// Records a failed attempt. The next one is due at `next_attempt`.
    pub fn retry_at(&self, id: &DeliveryId, next_attempt: Time, error: &str) -> Result<(), StoreError> {
        self.end_attempt(id, AttemptEnd::Retry { at: next_attempt, error: error.into(), refused: false })
    }

    /// Same as [`Self::retry_at`], after the receiver refused the delivery. Several refusals end a
    /// delivery before its maximal age.
    pub fn refused_retry_at(&self, id: &DeliveryId, next_attempt: Time, error: &str) -> Result<(), StoreError> {
        self.end_attempt(id, AttemptEnd::Retry { at: next_attempt, error: error.into(), refused: true })
    }

    /// Ends a pending delivery without success. This does not count as an attempt. `reason` says
    /// what happened.
    pub fn given_up(&self, id: &DeliveryId, at: Time, reason: &str) -> Result<(), StoreError> {
        self.end_attempt(id, AttemptEnd::GivenUp { at, reason: reason.into() })
    }

    fn end_attempt(&self, id: &DeliveryId, end: AttemptEnd) -> Result<(), StoreError> {
        let delivery = self.delivery(id)?.ok_or_else(|| StoreError::NoSuchDelivery { id: id.to_string() })?;
        if !delivery.is_pending() {
            return Err(StoreError::DeliveryEnded { id: id.to_string(), state: delivery.state.as_str() });
        }
        self.end_attempts(&[(id.clone(), end)], None)
    }

    /// Records how attempts ended, and stores a checkpoint, in one atomic, synced write. Deliveries
    /// that are not there, or have ended already, are left as they are.
    pub fn end_attempts(
        &self,
        ends: &[(DeliveryId, AttemptEnd)],
        checkpoint: Option<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let mut writer = self.lock_writer()?;
        let mut next = *writer;
        let mut batch = WriteBatch::default();
        for (id, end) in ends {
            let Some(mut delivery) = self.delivery(id)? else { continue };
            let DeliveryState::Pending { next_attempt } = delivery.state else { continue };
            batch.delete_cf(&self.family(PENDING), Key::pending(&id.route, delivery.priority, next_attempt, id.seq));
            end.apply_to(&mut delivery);
            match &delivery.state {
                DeliveryState::Pending { next_attempt } => {
                    batch.put_cf(&self.family(PENDING), Key::pending(&id.route, delivery.priority, *next_attempt, id.seq), [])
                }
                DeliveryState::Delivered { .. } => next.counts = next.counts.one_ended(|counts| &mut counts.delivered),
                DeliveryState::GivenUp { .. } => next.counts = next.counts.one_ended(|counts| &mut counts.given_up),
            }
            batch.put_cf(&self.family(DELIVERIES), Key::delivery(id.seq, &id.route), delivery_to_json(&delivery));
            if !delivery.is_pending() {
                self.expire_with_last_delivery(id, &mut batch)?;
            }
        }
        if let Some((name, bytes)) = checkpoint {
            batch.put_cf(&self.family(CHECKPOINTS), name, bytes);
        }
        self.commit(&mut writer, next, batch)
    }

    /// Gives up all pending deliveries of a route that are at least `max_age` old. Returns how many
    /// younger ones are still pending.
    pub fn give_up_route(&self, route: &RouteName, now: Time, max_age: Duration, reason: &str) -> Result<u64, StoreError> {
        let mut n_waiting = 0;
        let at = self.shared.db.snapshot();
        for priority in Priority::ALL {
            for row in self.pending_of(&at, route, priority)? {
                let (_, seq) = row?;
                let id = DeliveryId { seq, route: route.clone() };
                match self.delivery(&id)? {
                    Some(delivery) if now.since(delivery.created_at) >= max_age => self.given_up(&id, now, reason)?,
                    Some(_) => n_waiting += 1,
                    None => {}
                }
            }
        }
        Ok(n_waiting)
    }

    /// Makes the pending deliveries of a route due at `now` that are due after `later`, and returns
    /// how many there are. Their times were written while the clock was ahead.
    pub fn make_due(&self, route: &RouteName, later: Time, now: Time) -> Result<u64, StoreError> {
        let mut n_moved = 0;
        let from = later.max(now).after(Duration::from_nanos(1));
        loop {
            let mut rows = Vec::new();
            {
                let at = self.shared.db.snapshot();
                for priority in Priority::ALL {
                    let room = MOVED_AT_ONCE.saturating_sub(rows.len());
                    for row in self.pending_from(&at, route, priority, from)?.take(room) {
                        let (due_at, seq) = row?;
                        rows.push((priority, due_at, seq));
                    }
                }
            }
            if rows.is_empty() {
                return Ok(n_moved);
            }
            let mut writer = self.lock_writer()?;
            let next = *writer;
            let mut batch = WriteBatch::default();
            for (priority, due_at, seq) in rows {
                let id = DeliveryId { seq, route: route.clone() };
                batch.delete_cf(&self.family(PENDING), Key::pending(route, priority, due_at, seq));
                let Some(mut delivery) = self.delivery(&id)?.filter(Delivery::is_pending) else { continue };
                delivery.state = DeliveryState::Pending { next_attempt: now };
                batch.put_cf(&self.family(PENDING), Key::pending(route, priority, now, seq), []);
                batch.put_cf(&self.family(DELIVERIES), Key::delivery(seq, route), delivery_to_json(&delivery));
                n_moved += 1;
            }
            self.commit(&mut writer, next, batch)?;
        }
    }

    /// Number of deliveries in each state.
    pub fn outbox_counts(&self) -> OutboxCounts {
        self.counts_now()
    }

    pub(crate) fn put_new_delivery(
        &self,
        batch: &mut WriteBatch,
        seq: u64,
        route: &RouteName,
        priority: Priority,
        created_at: Time,
    ) {
        let state = DeliveryState::Pending { next_attempt: created_at };
        let delivery = Delivery { state, priority, attempts: 0, refusals: 0, created_at, last_error: None };
        batch.put_cf(&self.family(DELIVERIES), Key::delivery(seq, route), delivery_to_json(&delivery));
        batch.put_cf(&self.family(PENDING), Key::pending(route, priority, created_at, seq), []);
    }

    /// Moves the pending deliveries of an older format to `pending`, where they have a priority.
    /// After a crash in between, the next opening moves the rest.
    pub(crate) fn take_over_due(&self) -> Result<(), StoreError> {
        loop {
            let mut batch = WriteBatch::default();
            for row in self.shared.db.iterator_cf(&self.family(DUE), IteratorMode::Start).take(MOVED_AT_ONCE) {
                let (key, _) = row.map_err(|source| self.read_error(source))?;
                let (route, due_at, seq) = Key::read_due(&key).ok_or_else(|| self.damaged("the key of a pending delivery"))?;
                batch.delete_cf(&self.family(DUE), &key);
                let id = DeliveryId { seq, route };
                let (Some(mut delivery), Some(finding)) = (self.delivery(&id)?, self.finding_at(seq)?) else { continue };
                // It is not determined afterwards which offence was the first one of its validator.
                delivery.priority = Priority::of(&finding, false);
                batch.put_cf(&self.family(PENDING), Key::pending(&id.route, delivery.priority, due_at, seq), []);
                batch.put_cf(&self.family(DELIVERIES), Key::delivery(seq, &id.route), delivery_to_json(&delivery));
            }
            if batch.is_empty() {
                return Ok(());
            }
            let mut writer = self.lock_writer()?;
            let next = *writer;
            self.commit(&mut writer, next, batch)?;
        }
    }

    pub(crate) fn put_counts(&self, batch: &mut WriteBatch, counts: OutboxCounts) {
        let bytes = [counts.pending, counts.delivered, counts.given_up].map(u64::to_be_bytes).concat();
        batch.put_cf(&self.family(META), META_COUNTS, bytes);
    }

    pub(crate) fn stored_counts(&self) -> Result<OutboxCounts, StoreError> {
        let Some(bytes) = self.get(META, META_COUNTS)? else { return Ok(OutboxCounts::default()) };
        let (numbers, rest) = bytes.as_chunks::<8>();
        match (numbers, rest) {
            ([pending, delivered, given_up], []) => Ok(OutboxCounts {
                pending: u64::from_be_bytes(*pending),
                delivered: u64::from_be_bytes(*delivered),
                given_up: u64::from_be_bytes(*given_up),
            }),
            _ => Err(self.damaged("the counts of the outbox")),
        }
    }

    fn read_pending_key(&self, key: &[u8]) -> Result<(RouteName, Priority, Time, u64), StoreError> {
        Key::read_pending(key).ok_or_else(|| self.damaged("the key of a pending delivery"))
    }

    fn delivery_from_json(&self, bytes: &[u8]) -> Result<Delivery, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| self.damaged(&format!("a delivery: {error}")))
    }
}

impl OutboxCounts {
    fn one_ended(mut self, end: impl FnOnce(&mut Self) -> &mut u64) -> Self {
        self.pending = self.pending.saturating_sub(1);
        *end(&mut self) += 1;
        self
    }
}

fn delivery_to_json(delivery: &Delivery) -> Vec<u8> {
    serde_json::to_vec(delivery).expect("a delivery has string keys only")
}

/// Cuts a text to [`MAX_REASON_LEN`] bytes, at the boundary of a character.
pub(crate) fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}
