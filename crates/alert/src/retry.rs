//! When to try again, and when to stop. Pure: clock and chance come in.

use evidence::Time;
use std::time::Duration;

/// How patient the dispatcher is. The defaults are what runs unless a test says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// An attempt's time from connecting to the answer.
    pub timeout: Duration,
    /// Wait after the first failure; doubles with each further one.
    pub first_retry: Duration,
    /// The wait grows no further than this.
    pub max_retry: Duration,
    /// The receiver's own `Retry-After` is followed up to this.
    pub max_retry_after: Duration,
    /// Answers that say no (3xx, 4xx but 408 and 429) until the delivery is given up. With the defaults above the eighth
    /// comes some four minutes after the first, so a receiver may be redeployed meanwhile.
    pub max_refusals: u32,
    /// A delivery older than this is given up when its next attempt fails.
    pub max_age: Duration,
    /// Attempts of one route at a time.
    pub concurrency: usize,
    /// How long a stop waits for attempts that are under way. Those that last longer are made again after the next start.
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
    /// One line, without secrets.
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Not reached, or it had trouble of its own: the same attempt may succeed later.
    Unavailable,
    /// It asked to wait.
    Busy { retry_after: Option<Duration> },
    /// It said no to this request.
    Refused,
}

/// What follows from a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Retry { at: Time },
    GiveUp { reason: String },
}

impl Policy {
    /// `attempts` and `refusals` include the one that failed just now; `chance` is in 0..1.
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

    /// Doubles with each failure up to the greatest wait; the last half of it is chance, so that those who failed together
    /// do not come back together.
    pub(crate) fn backoff(&self, n_failures: u32, chance: f64) -> Duration {
        let doublings = n_failures.saturating_sub(1).min(31);
        let wait = self.first_retry.saturating_mul(1 << doublings).min(self.max_retry);
        wait.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// What a delivery has been through, the attempt that just failed included.
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
