//! When to retry a delivery, and when to give it up. The functions are pure: time and randomness
//! are parameters.

use evidence::Time;
use std::time::Duration;

/// The dispatcher's timeouts and limits. All runs use the defaults; only tests use other values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Greatest duration of an attempt, from connecting to the answer.
    pub timeout: Duration,
    /// Wait after the first failure. It doubles with each further one.
    pub first_retry: Duration,
    /// The greatest wait.
    pub max_retry: Duration,
    /// The greatest wait that a receiver can request with `Retry-After`.
    pub max_retry_after: Duration,
    /// Number of refusals (3xx, and 4xx except 408 and 429) after which a delivery is given up.
    /// With the defaults the eighth refusal comes two to four minutes after the first, so a
    /// receiver can be redeployed in between.
    pub max_refusals: u32,
    /// A delivery older than this is given up when its next attempt fails.
    pub max_age: Duration,
    /// Greatest number of attempts of one route at the same time.
    pub concurrency: usize,
    /// How long a stop waits for attempts in progress. Attempts that take longer are repeated after
    /// the next start.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            first_retry: Duration::from_secs(2),
            max_retry: Duration::from_secs(300),
            max_retry_after: Duration::from_secs(3600),
            max_refusals: 8,
            max_age: Duration::from_secs(3 * 24 * 3600),
            concurrency: 8,
            grace: Duration::from_secs(3),
        }
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

impl Policy {
    /// Decides what to do after a failed attempt. `tries` includes the attempt that has just
    /// failed. `chance` is in 0..1.
    pub(crate) fn after_failure(&self, tries: Tries, failure: &Failure, now: Time, chance: f64) -> Next {
        let Tries { attempts, refusals, created_at } = tries;
        let reason = &failure.reason;
        if failure.kind == FailureKind::Refused && refusals >= self.max_refusals {
            return Next::GiveUp { reason: format!("refused {refusals} times, last: {reason}") };
        }
        if now.since(created_at) >= self.max_age {
            return Next::GiveUp { reason: format!("not delivered within {} s, last: {reason}", self.max_age.as_secs()) };
        }
        let asked = match failure.kind {
            FailureKind::Busy { retry_after } => retry_after.unwrap_or_default().min(self.max_retry_after),
            FailureKind::Unavailable | FailureKind::Refused => Duration::ZERO,
        };
        Next::Retry { at: now.after(self.backoff(attempts, chance).max(asked)) }
    }

    /// The wait after `n_failures` failures. It doubles with each failure, up to the greatest wait.
    /// `chance` adds the second half of the wait, so that deliveries that failed at the same time
    /// are not retried at the same time.
    pub(crate) fn backoff(&self, n_failures: u32, chance: f64) -> Duration {
        let doublings = n_failures.saturating_sub(1).min(31);
        let wait = self.first_retry.saturating_mul(1 << doublings).min(self.max_retry);
        wait.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// The history of a delivery, including the attempt that has just failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tries {
    pub(crate) attempts: u32,
    pub(crate) refusals: u32,
    pub(crate) created_at: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_unix_ns(1_700_000_000_000_000_000);

    fn after(attempts: u32, refusals: u32, kind: FailureKind) -> Next {
        let tries = Tries { attempts, refusals, created_at: NOW };
        Policy::default().after_failure(tries, &Failure { kind, reason: "no".into() }, NOW, 1.0)
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
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(seconds(after(u32::MAX, 0, FailureKind::Unavailable)), 300);
        assert_eq!(Policy::default().backoff(3, 0.0), Duration::from_secs(4), "chance shortens by half at most");
    }

    #[test]
    fn the_receivers_wish_is_followed_within_bounds() {
        let busy = |seconds| FailureKind::Busy { retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(seconds(after(1, 0, busy(77))), 77);
        assert_eq!(seconds(after(9, 0, busy(77))), 300, "never sooner than our own wait");
        assert_eq!(seconds(after(1, 0, busy(u64::MAX))), 3600);
        assert_eq!(seconds(after(1, 0, FailureKind::Busy { retry_after: None })), 2);
    }

    #[test]
    fn no_eight_times_is_no_and_three_days_are_enough() {
        assert_eq!(seconds(after(20, 7, FailureKind::Refused)), 300);
        assert_eq!(after(20, 8, FailureKind::Refused), Next::GiveUp { reason: "refused 8 times, last: no".into() });
        assert_eq!(seconds(after(20, 8, FailureKind::Unavailable)), 300, "being away is not a no");
        let tries = Tries { attempts: 1, refusals: 0, created_at: NOW };
        let late = NOW.after(Policy::default().max_age);
        let failure = Failure { kind: FailureKind::Unavailable, reason: "no".into() };
        let next = Policy::default().after_failure(tries, &failure, late, 0.0);
        assert_eq!(next, Next::GiveUp { reason: "not delivered within 259200 s, last: no".into() });
    }
}
