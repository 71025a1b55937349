//! Pauses between attempts.

use std::time::Duration;

/// Growing pauses between attempts: the first one, doubled after each further failure, up to the
/// greatest one.
///
/// ```text
/// Backoff::new(2 s, 300 s):  2, 4, 8, 16, 32, 64, 128, 256, 300, 300, ... s
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Pause after the first failure.
    pub first: Duration,
    /// Pauses do not grow beyond this.
    pub greatest: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, greatest: Duration) -> Self {
        Self { first, greatest }
    }

    /// The pause after `n_failures` failures in succession, counted from 1.
    pub fn pause(&self, n_failures: u32) -> Duration {
        let factor = 1u32.checked_shl(n_failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.greatest)
    }

    /// The same pause, shortened by a random part of at most one half. So attempts that failed at
    /// the same time are not repeated at the same time. `chance` is in 0..1: with 1 the pause is
    /// whole.
    pub fn random_pause(&self, n_failures: u32, chance: f64) -> Duration {
        self.pause(n_failures).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_greatest() {
        let backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));
        let pauses = [0, 1, 2, 3, 8, 9, 32, 33, 1000, u32::MAX].map(|n| backoff.pause(n).as_secs());
        assert_eq!(pauses, [2, 2, 4, 8, 256, 300, 300, 300, 300, 300]);
        let forever = Backoff::new(Duration::from_secs(1), Duration::MAX);
        assert!(forever.pause(u32::MAX) > Duration::from_secs(1 << 31), "no overflow");
    }

    #[test]
    fn chance_shortens_a_pause_by_half_at_most() {
        let backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));
        let pauses = [-1.0, 0.0, 0.5, 1.0, 7.0].map(|chance| backoff.random_pause(3, chance).as_secs());
        assert_eq!(pauses, [4, 4, 6, 8, 8]);
    }
}
