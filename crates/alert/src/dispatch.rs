//! The dispatcher: one worker per route, from the durable outbox to the receiver.
//!
//! A worker takes what is due, up to its concurrency, sends it, writes down how each went, and looks again. With nothing
//! due it sleeps until the next retry or until something is recorded. While a receiver is away or has trouble of its own, the worker
//! pauses as a whole and comes back with a single delivery: 10 000 waiting ones do not become 10 000 connections, and their
//! own attempts are not used up by somebody's outage.
//!
//! A receiver that refuses is there, so nothing pauses: each delivery goes by its own waits and is given up after
//! [`Policy::max_refusals`], however many wait beside it. Were there one pause for all, as for an outage, each attempt would be another
//! delivery's, and none would come to its end.
//!
//! The worker holds no state that matters: killed at any moment, the next one over the same store goes on where the
//! outbox says.

use crate::retry::{FailureKind, Next, Tries};
use crate::route::{AttemptResult, Route, Routes};
use crate::{Context, Policy};
use evidence::{Due, RouteName, Store, StoreError, Subscription, Time};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A worker that has nothing due looks again after this long at the latest, should the clock have jumped.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Runs the workers. Dropping it stops them at once; [`Self::stop`] lets them finish.
pub struct Dispatcher {
    stop: CancellationToken,
    workers: JoinSet<()>,
    counts: watch::Receiver<BTreeMap<RouteName, RouteCounts>>,
    _subscription: Subscription,
}

/// What a route's worker has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteCounts {
    /// Answers and failures to get one; the sum of the next three.
    pub attempts: u64,
    pub delivered: u64,
    pub retried: u64,
    pub given_up: u64,
    /// Outcomes that could not be written down; such a delivery is made again.
    pub store_errors: u64,
}

impl Dispatcher {
    /// Starts a worker per route on the current tokio runtime. `clock` is the wall clock.
    pub fn start(store: Store, routes: Routes, clock: fn() -> Time) -> Self {
        let stop = CancellationToken::new();
        let counts: BTreeMap<_, _> = routes.iter().map(|route| (route.name().clone(), RouteCounts::default())).collect();
        let (count, counts) = watch::channel(counts);
        let mut workers = JoinSet::new();
        let mut bells = Vec::new();
        for route in routes.iter() {
            let bell = Arc::new(Notify::new());
            bells.push(bell.clone());
            let (store, route, count) = (store.clone(), Arc::new(route.clone()), count.clone());
            let worker = Worker {
                store,
                route,
                context: routes.context().clone(),
                policy: *routes.policy(),
                clock,
                bell,
                stop: stop.clone(),
                count,
                n_failures: 0,
                is_refused: false,
            };
            workers.spawn(worker.run());
        }
        // `notify_one` keeps one permit, so a bell rung while the worker is busy is not lost.
        let subscription = store.subscribe(move |_| bells.iter().for_each(|bell| bell.notify_one()));
        workers.spawn(give_up_orphans(store, routes, clock));
        Self { stop, workers, counts, _subscription: subscription }
    }

    /// Counters by route, as they change.
    pub fn counts(&self) -> watch::Receiver<BTreeMap<RouteName, RouteCounts>> {
        self.counts.clone()
    }

    /// Stops taking deliveries, waits for those under way for the policy's grace, and ends.
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
    policy: Policy,
    clock: fn() -> Time,
    bell: Arc<Notify>,
    stop: CancellationToken,
    count: watch::Sender<BTreeMap<RouteName, RouteCounts>>,
    /// Outages in a row.
    n_failures: u32,
    /// The last answer was no.
    is_refused: bool,
}

impl Worker {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let pause = match self.round().await {
                Ok(Some(pause)) => pause,
                Ok(None) => continue,
                Err(error) => {
                    // Going on would send the same delivery again and again, because its end cannot be written down.
                    tracing::error!(route = %self.route.name(), %error, "the outbox fails, this route pauses");
                    self.add(|counts| counts.store_errors += 1);
                    Pause { length: self.policy.max_retry, until_bell: false }
                }
            };
            let bell = self.bell.notified();
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause.length) => {}
                () = bell, if pause.until_bell => {}
            }
        }
    }

    /// Takes what is due and sends it; how long to pause then, if at all.
    async fn round(&mut self) -> Result<Option<Pause>, StoreError> {
        let limit = if self.n_failures == 0 { self.policy.concurrency } else { 1 };
        let due = self.read_due(limit).await?;
        if due.is_empty() {
            let now = (self.clock)();
            let next = self.store.next_due(self.route.name())?;
            let length = next.map_or(LONGEST_SLEEP, |next| next.since(now)).min(LONGEST_SLEEP);
            return Ok(Some(Pause { length, until_bell: true }));
        }
        let attempts = join_all(due.iter().map(|due| self.route.send(due, &self.context, (self.clock)())));
        let cut_off = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.policy.grace).await;
        };
        let results = tokio::select! {
            results = attempts => results,
            // Nothing is written down: they are still due, and are made again after the next start.
            () = cut_off => return Ok(None),
        };
        self.settle(due, results).await
    }

    /// Writes down how each attempt went.
    async fn settle(&mut self, due: Vec<Due>, results: Vec<AttemptResult>) -> Result<Option<Pause>, StoreError> {
        let now = (self.clock)();
        let mut asked = Duration::ZERO;
        let mut trouble = None;
        let mut refused = None;
        for failure in results.iter().filter_map(|result| result.as_ref().err()) {
            match failure.kind {
                FailureKind::Unavailable => trouble = Some(failure.reason.clone()),
                FailureKind::Busy { retry_after } => {
                    asked = asked.max(retry_after.unwrap_or_default().min(self.policy.max_retry_after));
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
        let settled = self.write_down(due, results, now).await?;
        for end in settled {
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
                let length = self.policy.backoff(self.n_failures, rand::random()).max(asked);
                Ok(Some(Pause { length, until_bell: false }))
            }
        }
    }

    async fn read_due(&self, limit: usize) -> Result<Vec<Due>, StoreError> {
        let (store, route, now) = (self.store.clone(), self.route.clone(), (self.clock)());
        off_the_async_threads(move || store.due_for(route.name(), now, limit)).await
    }

    /// Synced writes, one per delivery: some milliseconds each.
    async fn write_down(&self, due: Vec<Due>, results: Vec<AttemptResult>, now: Time) -> Result<Vec<End>, StoreError> {
        let (store, policy) = (self.store.clone(), self.policy);
        off_the_async_threads(move || {
            due.iter().zip(results).map(|(due, result)| end(&store, &policy, due, result, now)).collect()
        })
        .await
    }

    fn add(&self, add: impl FnOnce(&mut RouteCounts)) {
        self.count.send_modify(|counts| add(counts.entry(self.route.name().clone()).or_default()));
    }
}

/// How long a worker does nothing.
struct Pause {
    length: Duration,
    /// Whether a new finding ends it. Not while the receiver fails.
    until_bell: bool,
}

/// How one attempt ended.
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

fn end(store: &Store, policy: &Policy, due: &Due, result: AttemptResult, now: Time) -> Result<End, StoreError> {
    let failure = match result {
        Ok(_) => return store.delivered(&due.id, now).map(|()| End::Delivered),
        Err(failure) => failure,
    };
    let refused = failure.kind == FailureKind::Refused;
    let tries = Tries {
        attempts: due.attempts.saturating_add(1),
        refusals: due.refusals.saturating_add(u32::from(refused)),
        created_at: due.created_at,
    };
    match policy.after_failure(tries, &failure, now, rand::random()) {
        Next::Retry { at } if refused => store.refused_retry_at(&due.id, at, &failure.reason).map(|()| End::Retried),
        Next::Retry { at } => store.retry_at(&due.id, at, &failure.reason).map(|()| End::Retried),
        Next::GiveUp { reason } => {
            tracing::error!(route = %due.id.route, finding = %due.finding.id, reason, "an alert was given up, tell its receiver otherwise");
            store.given_up(&due.id, now, &reason).map(|()| End::GivenUp)
        }
    }
}

/// Deliveries of routes that are no longer configured wait as long as any other, should the route come back, and end then.
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
