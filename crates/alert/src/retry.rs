//! The retry policy of everything that reacts to findings: deliveries of alerts, orders of kill
//! switches, and submissions of proofs. All their numbers are here. The functions are pure: time
//! and randomness are parameters.

use base::Backoff;
use evidence::{Severity, Time};
use std::time::Duration;

/// When to try again, and when to give up. All runs use [`RetryPolicy::DEFAULT`]; only tests use
/// other values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Greatest duration of an attempt to deliver, from connecting to the answer. A kill switch has
    /// its own timeout in the configuration, and a beacon node has that of its client.
    pub timeout: Duration,
    /// The pauses between attempts of a delivery, and between attempts to submit a proof. They are
    /// also those of a route whose receiver fails, so what comes first when it is back comes a
    /// minute late at most.
    pub pauses: Backoff,
    /// The pauses between the calls of one order of a kill switch. They are short, because the keys
    /// go on signing meanwhile. The order ends at its timeout.
    pub order_pauses: Backoff,
    /// The pauses between the orders of a kill switch after one has failed.
    pub order_again: Backoff,
    /// Number of attempts after which an order that fails is given up. With the default pauses this
    /// is a day.
    pub max_orders: u32,
    /// The pause of kill switches and of the submission before they read the finding log, or write
    /// a result, again after the store has failed. Deliveries of alerts wait the greatest of
    /// `pauses`.
    pub store_pause: Duration,
    /// The greatest wait that a receiver can request with `Retry-After`.
    pub max_retry_after: Duration,
    /// The same for a critical delivery. A route waits no longer as a whole either, because
    /// something critical may come for it at any time.
    pub max_retry_after_critical: Duration,
    /// Number of refusals after which a delivery or a submission is given up. A webhook refuses
    /// with 3xx, and 4xx except 408 and 429. A beacon node refuses a proof at once with 400, and
    /// counts here only when it fails while it handles the proof. With the default pauses the
    /// eighth refusal comes one and a half to three minutes after the first, so a receiver can be
    /// redeployed in between.
    pub max_refusals: u32,
    /// A delivery older than this is given up when its next attempt fails, after
    /// [`Self::least_attempts`].
    pub max_age: Duration,
    /// Number of attempts before a delivery is given up for its age. A clock that was set ahead, or
    /// a machine that was off for days, makes a delivery old that was hardly tried.
    pub least_attempts: u32,
    /// Greatest number of attempts of one route at the same time.
    pub concurrency: usize,
    /// How long a stop waits for attempts in progress. Attempts that take longer are repeated after
    /// the next start.
    pub grace: Duration,
}

impl RetryPolicy {
    pub const DEFAULT: Self = Self {
        timeout: Duration::from_secs(10),
        pauses: Backoff::new(Duration::from_secs(2), Duration::from_secs(60)),
        order_pauses: Backoff::new(Duration::from_millis(300), Duration::from_secs(5)),
        order_again: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
        max_orders: 300,
        store_pause: Duration::from_secs(1),
        max_retry_after: Duration::from_secs(3600),
        max_retry_after_critical: Duration::from_secs(300),
        max_refusals: 8,
        max_age: Duration::from_secs(3 * 24 * 3600),
        least_attempts: 150,
        concurrency: 8,
        grace: Duration::from_secs(3),
    };
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why an attempt did not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// One line of text, without secrets.
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The receiver was not reached, or had an internal problem. The same attempt may succeed
    /// later.
    Unavailable,
    /// The receiver asked to wait.
    Busy { retry_after: Option<Duration> },
    /// The receiver refused this request.
    Refused,
}

/// What to do after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Retry { at: Time },
    GiveUp { reason: String },
}

impl RetryPolicy {
    /// Decides what to do after a failed attempt. `tries` includes the attempt that has just
    /// failed. `chance` is in 0..1.
    pub(crate) fn after_failure(&self, tries: Tries, failure: &Failure, now: Time, chance: f64) -> Next {
        let Tries { attempts, refusals, created_at, severity } = tries;
        let reason = &failure.reason;
        if failure.kind == FailureKind::Refused && refusals >= self.max_refusals {
            return Next::GiveUp { reason: format!("refused {refusals} times, last: {reason}") };
        }
        if now.since(created_at) >= self.max_age && attempts >= self.least_attempts {
            return Next::GiveUp { reason: format!("not delivered within {} s, last: {reason}", self.max_age.as_secs()) };
        }
        let asked = match failure.kind {
            FailureKind::Busy { retry_after } => retry_after.unwrap_or_default().min(self.longest_retry_after(severity)),
            FailureKind::Unavailable | FailureKind::Refused => Duration::ZERO,
        };
        Next::Retry { at: now.after(self.pauses.random_pause(attempts, chance).max(asked)) }
    }

    /// The greatest wait that a receiver can request for a message of this severity.
    pub(crate) fn longest_retry_after(&self, severity: Severity) -> Duration {
        match severity {
            Severity::Critical => self.max_retry_after_critical,
            Severity::Warning | Severity::Info => self.max_retry_after,
        }
    }

    /// The greatest wait between two attempts of a delivery.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.pauses.greatest.max(self.max_retry_after).max(self.max_retry_after_critical)
    }
}

/// The history of a delivery, including the attempt that has just failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tries {
    pub(crate) attempts: u32,
    pub(crate) refusals: u32,
    pub(crate) created_at: Time,
    /// That of the message.
    pub(crate) severity: Severity,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_unix_ns(1_700_000_000_000_000_000);

    fn after(attempts: u32, refusals: u32, kind: FailureKind) -> Next {
        let tries = Tries { attempts, refusals, created_at: NOW, severity: Severity::Warning };
        RetryPolicy::DEFAULT.after_failure(tries, &Failure { kind, reason: "no".into() }, NOW, 1.0)
    }

    fn seconds(next: Next) -> u64 {
        match next {
            Next::Retry { at } => at.since(NOW).as_secs(),
            Next::GiveUp { reason } => panic!("{reason}"),
        }
    }

    #[test]
    fn waits_double_up_to_the_greatest() {
        let waits: Vec<u64> = (1..=10).map(|attempts| seconds(after(attempts, 0, FailureKind::Unavailable))).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
        assert_eq!(seconds(after(u32::MAX, 0, FailureKind::Unavailable)), 60);
    }

    #[test]
    fn the_receivers_wish_is_followed_within_bounds() {
        let busy = |seconds| FailureKind::Busy { retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(seconds(after(1, 0, busy(77))), 77);
        assert_eq!(seconds(after(9, 0, busy(20))), 60, "never sooner than our own wait");
        assert_eq!(seconds(after(1, 0, busy(u64::MAX))), 3600);
        assert_eq!(seconds(after(1, 0, FailureKind::Busy { retry_after: None })), 2);
        let tries = Tries { attempts: 1, refusals: 0, created_at: NOW, severity: Severity::Critical };
        let failure = Failure { kind: busy(3600), reason: "no".into() };
        assert_eq!(seconds(RetryPolicy::DEFAULT.after_failure(tries, &failure, NOW, 1.0)), 300, "what is critical waits less");
    }

    #[test]
    fn no_eight_times_is_no_and_three_days_are_enough() {
        assert_eq!(seconds(after(20, 7, FailureKind::Refused)), 60);
        assert_eq!(after(20, 8, FailureKind::Refused), Next::GiveUp { reason: "refused 8 times, last: no".into() });
        assert_eq!(seconds(after(20, 8, FailureKind::Unavailable)), 60, "being away is not a no");
        let tries = Tries { attempts: 150, refusals: 0, created_at: NOW, severity: Severity::Warning };
        let late = NOW.after(RetryPolicy::DEFAULT.max_age);
        let failure = Failure { kind: FailureKind::Unavailable, reason: "no".into() };
        let next = RetryPolicy::DEFAULT.after_failure(tries, &failure, late, 0.0);
        assert_eq!(next, Next::GiveUp { reason: "not delivered within 259200 s, last: no".into() });
        let hardly_tried = Tries { attempts: 149, ..tries };
        let next = RetryPolicy::DEFAULT.after_failure(hardly_tried, &failure, late, 1.0);
        assert_eq!(next, Next::Retry { at: late.after(Duration::from_secs(60)) }, "the clock may have been set ahead");
    }
}
