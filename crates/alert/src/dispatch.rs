//! The dispatcher: one worker for each route, from the durable outbox to the receiver.
//!
//! A worker takes the deliveries that are due, up to its concurrency, sends them, records the
//! result of each, and looks again. If nothing is due, it sleeps until the next retry or until
//! something is recorded. While a receiver is down or has an internal problem, the worker as a
//! whole pauses, and then tries a single delivery. So 10 000 waiting deliveries do not become
//! 10 000 connections, and an outage does not use up their attempts.
//!
//! A receiver that refuses deliveries is up, so the worker does not pause. Each delivery has its
//! own waits and is given up after [`RetryPolicy::max_refusals`] refusals, however many others
//! wait. With one pause for the whole route, as for an outage, each attempt would be that of
//! another delivery, and none would reach its end.
//!
//! A route that merges ([`crate::merge`]) reads all deliveries that are due, sends the messages
//! that are due now, and leaves the rest in the outbox. What it has told so far is stored together
//! with the results.
//!
//! Times in the outbox are those of the wall clock, and pauses are those of the monotonic one. If
//! the wall clock is set back, what waits would wait for as long again, so it is made due at once.
//!
//! The worker holds no other state that matters. It can be killed at any moment, and the next
//! worker over the same store continues from the outbox.

use crate::merge::{Bundle, MAX_MERGED, MergeState, Plan};
use crate::retry::{Failure, FailureKind, Next, Tries};
use crate::route::{Route, Routes};
use crate::{Context, RetryPolicy};
use evidence::{AttemptEnd, DeliveryId, DueDelivery, Finding, RouteName, Severity, Store, StoreError, Subscription, Time};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longest sleep of a worker that has nothing due. After it a clock that was set back is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A clock that goes back by less than this is not set back, but corrected.
const CLOCK_STEP: Duration = Duration::from_secs(5);
/// Shortest time between two looks of a route that merges. Each look reads everything that waits,
/// and a wave records findings many times in a second.
const MERGE_LOOKS: Duration = Duration::from_millis(200);

/// Runs the workers. Dropping it stops them without waiting, and [`Self::stop`] waits until they
/// have finished.
pub struct Dispatcher {
    stop: CancellationToken,
    workers: JoinSet<()>,
    counts: watch::Receiver<BTreeMap<RouteName, RouteCounts>>,
    _subscription: Subscription,
}

/// What a route's worker has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Attempts that ended, with an answer or without one. This is the sum of the next three
    /// fields.
    pub attempts: u64,
    pub delivered: u64,
    pub retried: u64,
    pub given_up: u64,
    /// Results that could not be recorded. Such a delivery is sent again.
    pub store_errors: u64,
}

impl Dispatcher {
    /// Starts a worker for each route on the current tokio runtime. `clock` is the wall clock.
    pub fn start(store: Store, routes: Routes, clock: fn() -> Time) -> Self {
        let stop = CancellationToken::new();
        let counts: BTreeMap<_, _> = routes.iter().map(|route| (route.name().clone(), RouteCounts::default())).collect();
        let (count, counts) = watch::channel(counts);
        let mut workers = JoinSet::new();
        let mut wakers = Vec::new();
        for route in routes.iter() {
            let waker = Arc::new(Notify::new());
            wakers.push(waker.clone());
            let (store, route, count) = (store.clone(), Arc::new(route.clone()), count.clone());
            let worker = Worker {
                store,
                route,
                context: routes.context().clone(),
                policy: *routes.policy(),
                clock,
                waker,
                stop: stop.clone(),
                count,
                told: None,
                n_failures: 0,
                is_refused: false,
                looked_at: None,
            };
            workers.spawn(worker.run());
        }
        // `notify_one` keeps one permit, so a notification is not lost while the worker is busy.
        let subscription = store.subscribe(move |_| wakers.iter().for_each(|waker| waker.notify_one()));
        workers.spawn(give_up_orphans(store, routes, clock));
        Self { stop, workers, counts, _subscription: subscription }
    }

    /// The counters of each route, as they change.
    pub fn counts(&self) -> watch::Receiver<BTreeMap<RouteName, RouteCounts>> {
        self.counts.clone()
    }

    /// Takes no more deliveries, waits for those in progress for at most the policy's grace, and
    /// ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "an alert worker ended by itself");
            }
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Worker {
    store: Store,
    route: Arc<Route>,
    context: Arc<Context>,
    policy: RetryPolicy,
    clock: fn() -> Time,
    waker: Arc<Notify>,
    stop: CancellationToken,
    count: watch::Sender<BTreeMap<RouteName, RouteCounts>>,
    /// What a route that merges has told so far. `None` before it is read.
    told: Option<MergeState>,
    /// Rounds in succession in which the receiver was down or busy.
    n_failures: u32,
    /// Whether the last round had a refusal.
    is_refused: bool,
    /// The wall clock and the monotonic one at the last round. `None` before the first one.
    looked_at: Option<(Time, Instant)>,
}

impl Worker {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let pause = match self.round().await {
                Ok(Some(pause)) => pause,
                Ok(None) => continue,
                Err(error) => {
                    // Without a pause the same delivery would be sent again and again, because its
                    // result cannot be recorded.
                    tracing::error!(route = %self.route.name(), %error, "the outbox fails, this route pauses");
                    self.add(|counts| counts.store_errors += 1);
                    Pause { length: self.policy.pauses.greatest, until_woken: false }
                }
            };
            let waker = self.waker.notified();
            let woken = async {
                waker.await;
                if self.route.merging().is_some() {
                    tokio::time::sleep(MERGE_LOOKS).await;
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause.length) => {}
                () = woken, if pause.until_woken => {}
            }
        }
    }

    /// Takes the deliveries that are due and sends them. Returns how long to pause afterwards, if
    /// at all.
    async fn round(&mut self) -> Result<Option<Pause>, StoreError> {
        let read_at = (self.clock)();
        self.follow_clock(read_at).await?;
        let Plan { bundles, told_already, next } = self.plan(read_at).await?;
        if !told_already.is_empty() {
            tracing::info!(route = %self.route.name(), n = told_already.len(), "earlier messages have told what these deliveries say");
            let ends: Vec<_> = told_already.into_iter().map(|id| (id, AttemptEnd::Delivered { at: read_at })).collect();
            let store = self.store.clone();
            off_the_async_threads(move || store.end_attempts(&ends, None)).await?;
        }
        if bundles.is_empty() {
            // Of what waits for the next message, `next` says when. The others are retries: those
            // that were not due yet when the due ones were read. One that has become due since then
            // is among them.
            let retry = self.store.next_due_after(self.route.name(), read_at)?;
            let next = next.into_iter().chain(retry).min();
            let length = next.map_or(LONGEST_SLEEP, |next| next.since((self.clock)())).min(LONGEST_SLEEP);
            return Ok(Some(Pause { length, until_woken: true }));
        }
        let attempts = join_all(bundles.iter().map(|bundle| self.route.send(bundle, &self.context, (self.clock)())));
        let cut_off = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.policy.grace).await;
        };
        let results = tokio::select! {
            results = attempts => results,
            // Nothing is recorded: these deliveries are still due, and are sent again after the
            // next start.
            () = cut_off => return Ok(None),
        };
        self.record_results(bundles, results).await
    }

    /// Makes due what a clock that was ahead has put off. At the start nobody knows what the clock
    /// was before, so only what no pause explains is moved.
    async fn follow_clock(&mut self, now: Time) -> Result<(), StoreError> {
        let monotonic = Instant::now();
        let later_than = match self.looked_at.replace((now, monotonic)) {
            None => now.after(self.policy.longest_wait()),
            Some((wall, then)) if wall.after(monotonic - then).since(now) > CLOCK_STEP => now,
            Some(_) => return Ok(()),
        };
        let (store, route) = (self.store.clone(), self.route.clone());
        let n_moved = off_the_async_threads(move || store.make_due(route.name(), later_than, now)).await?;
        if n_moved > 0 {
            tracing::warn!(route = %self.route.name(), n_moved, "the clock was set back; deliveries that it put off are made now");
        }
        Ok(())
    }

    /// Reads the deliveries that are due at `now`, and makes the messages of this round.
    async fn plan(&mut self, now: Time) -> Result<Plan, StoreError> {
        let limit = if self.n_failures == 0 { self.policy.concurrency } else { 1 };
        let Some(merging) = self.route.merging().cloned() else {
            let due = self.read_due(limit, now).await?;
            return Ok(Plan { bundles: due.into_iter().map(Bundle::single).collect(), ..Plan::default() });
        };
        let due = self.read_due(MAX_MERGED, now).await?;
        if self.told.is_none() {
            let stored = self.store.checkpoint(&checkpoint_of(self.route.name()))?;
            self.told = Some(stored.map_or_else(MergeState::default, |bytes| MergeState::from_json(&bytes)));
        }
        let told = self.told.get_or_insert_default();
        let is_named = |finding: &Finding| self.context.names(finding);
        let mut plan = told.plan(due, &is_named, merging.quiet.as_ref(), merging.max_per_hour, now);
        plan.bundles.truncate(limit);
        Ok(plan)
    }

    /// Records the result of each attempt.
    async fn record_results(
        &mut self,
        bundles: Vec<Bundle>,
        results: Vec<Result<String, Failure>>,
    ) -> Result<Option<Pause>, StoreError> {
        let now = (self.clock)();
        let mut asked = Duration::ZERO;
        let mut trouble = None;
        let mut refused = None;
        for failure in results.iter().filter_map(|result| result.as_ref().err()) {
            match failure.kind {
                FailureKind::Unavailable => trouble = Some(failure.reason.clone()),
                FailureKind::Busy { retry_after } => {
                    let longest = self.policy.longest_retry_after(Severity::Critical);
                    asked = asked.max(retry_after.unwrap_or_default().min(longest));
                    trouble = Some(failure.reason.clone());
                }
                FailureKind::Refused => refused = Some(failure.reason.clone()),
            }
        }
        if let Some(reason) = refused.as_ref().filter(|_| !self.is_refused) {
            let most = self.policy.max_refusals;
            tracing::warn!(route = %self.route.name(), reason, most, "the receiver refuses a delivery; after so many refusals it is given up");
        }
        self.is_refused = refused.is_some();
        for end in self.write_down(bundles, results, now).await? {
            self.add(|counts| end.count(counts));
        }
        match trouble {
            None => {
                if self.n_failures > 0 {
                    tracing::info!(route = %self.route.name(), "the receiver is back");
                }
                self.n_failures = 0;
                Ok(None)
            }
            Some(reason) => {
                if self.n_failures == 0 {
                    tracing::warn!(route = %self.route.name(), reason, "the receiver fails, deliveries wait in the outbox");
                }
                self.n_failures = self.n_failures.saturating_add(1);
                let length = self.policy.pauses.random_pause(self.n_failures, rand::random()).max(asked);
                Ok(Some(Pause { length, until_woken: false }))
            }
        }
    }

    async fn read_due(&self, limit: usize, now: Time) -> Result<Vec<DueDelivery>, StoreError> {
        let (store, route) = (self.store.clone(), self.route.clone());
        off_the_async_threads(move || store.due_for(route.name(), now, limit)).await
    }

    /// Records the results, and what was told, in one synced write.
    async fn write_down(
        &mut self,
        bundles: Vec<Bundle>,
        results: Vec<Result<String, Failure>>,
        now: Time,
    ) -> Result<Vec<End>, StoreError> {
        let mut told = self.told.clone();
        let mut settled = Vec::new();
        let mut ends: Vec<(DeliveryId, AttemptEnd)> = Vec::new();
        for (bundle, result) in bundles.iter().zip(&results) {
            if let (Ok(_), Some(told)) = (result, &mut told) {
                told.told(bundle, now);
            }
            // The members of a message have the same pauses, so that they stay together.
            let attempts = bundle.members.iter().map(|due| due.attempts).max().unwrap_or_default().saturating_add(1);
            let (chance, severity) = (rand::random(), bundle.severity());
            let first = ends.len();
            for due in &bundle.members {
                let tries = Tries { attempts, refusals: due.refusals, created_at: due.created_at, severity };
                ends.push((due.id.clone(), end_of(&self.policy, due, tries, result, now, chance)));
            }
            // The members of a message share its result. Some may be given up before the others.
            settled.push(match &ends[first].1 {
                AttemptEnd::Delivered { .. } => End::Delivered,
                AttemptEnd::Retry { .. } => End::Retried,
                AttemptEnd::GivenUp { .. } => End::GivenUp,
            });
        }
        let checkpoint = told.as_ref().map(|told| (checkpoint_of(self.route.name()), told.to_json()));
        let store = self.store.clone();
        off_the_async_threads(move || store.end_attempts(&ends, checkpoint)).await?;
        self.told = told;
        Ok(settled)
    }

    fn add(&self, add: impl FnOnce(&mut RouteCounts)) {
        self.count.send_modify(|counts| add(counts.entry(self.route.name().clone()).or_default()));
    }
}

/// How long a worker does nothing.
struct Pause {
    length: Duration,
    /// Whether a new finding ends the pause. This is not the case while the receiver fails.
    until_woken: bool,
}

/// The recorded result of one attempt.
enum End {
    Delivered,
    Retried,
    GivenUp,
}

impl End {
    fn count(self, counts: &mut RouteCounts) {
        counts.attempts += 1;
        match self {
            Self::Delivered => counts.delivered += 1,
            Self::Retried => counts.retried += 1,
            Self::GivenUp => counts.given_up += 1,
        }
    }
}

/// Name of the checkpoint with what a route has told so far.
fn checkpoint_of(route: &RouteName) -> String {
    format!("alerts/{route}")
}

/// How an attempt ends for one of the deliveries of its message. `chance` is that of the message.
fn end_of(
    policy: &RetryPolicy,
    due: &DueDelivery,
    tries: Tries,
    result: &Result<String, Failure>,
    now: Time,
    chance: f64,
) -> AttemptEnd {
    let failure = match result {
        Ok(_) => return AttemptEnd::Delivered { at: now },
        Err(failure) => failure,
    };
    let refused = failure.kind == FailureKind::Refused;
    let tries = Tries { refusals: tries.refusals.saturating_add(u32::from(refused)), ..tries };
    match policy.after_failure(tries, failure, now, chance) {
        Next::Retry { at } => AttemptEnd::Retry { at, error: failure.reason.clone(), refused },
        Next::GiveUp { reason } => {
            tracing::error!(route = %due.id.route, finding = %due.finding.id, reason, "an alert was given up, tell its receiver otherwise");
            AttemptEnd::GivenUp { at: now, reason }
        }
    }
}

/// Gives up deliveries of routes that are no longer configured, if they are older than the policy's
/// greatest age. Younger ones wait, because the route may be configured again.
async fn give_up_orphans(store: Store, routes: Routes, clock: fn() -> Time) {
    let given_up = off_the_async_threads(move || {
        let now = clock();
        let mut n_waiting = 0;
        for route in store.pending_routes()?.into_iter().filter(|route| routes.get(route.as_str()).is_err()) {
            n_waiting += store.give_up_route(&route, now, routes.policy().max_age, "the route is no longer configured")?;
        }
        Ok::<u64, StoreError>(n_waiting)
    });
    match given_up.await {
        Ok(0) => {}
        Ok(n_waiting) => tracing::warn!(n_waiting, "deliveries wait for routes that are no longer configured"),
        Err(error) => tracing::error!(%error, "the outbox cannot be read"),
    }
}

async fn off_the_async_threads<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}
