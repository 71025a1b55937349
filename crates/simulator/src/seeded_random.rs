//! Repeatable randomness: every decision is a hash of the scenario's seed and of what the decision
//! is about.
//!
//! There is no generator with a state, so one more question does not change the answers to the
//! others.

use consensus::sha256;
use std::time::Duration;

/// A seeded source of decisions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeededRandom {
    seed: u64,
}

impl SeededRandom {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns 32 bytes that depend on the seed, the question and its numbers.
    pub(crate) fn hash(&self, question: &str, about: &[u64]) -> [u8; 32] {
        let mut preimage = Vec::with_capacity(question.len() + 9 + about.len() * 8);
        preimage.extend_from_slice(&self.seed.to_le_bytes());
        preimage.extend_from_slice(question.as_bytes());
        preimage.push(0);
        for number in about {
            preimage.extend_from_slice(&number.to_le_bytes());
        }
        sha256(&preimage)
    }

    /// Returns a number below `n`, or 0 if `n` is 0. The bias is below n / 2^64.
    pub(crate) fn below(&self, n: u64, question: &str, about: &[u64]) -> u64 {
        let hash = self.hash(question, about);
        let number = u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
        if n == 0 { 0 } else { number % n }
    }

    /// Returns true in `percent` of 100 cases.
    pub(crate) fn percent(&self, percent: u8, question: &str, about: &[u64]) -> bool {
        self.below(100, question, about) < u64::from(percent)
    }

    /// Returns a time that is distributed log-normally: the median, times e to a normal number with
    /// a spread of `sigma`.
    pub(crate) fn log_normal(&self, median: Duration, sigma: f64, question: &str, about: &[u64]) -> Duration {
        let hash = self.hash(question, about);
        let part = |at: usize| {
            let number = u64::from_le_bytes(hash[at..at + 8].try_into().expect("a hash has 32 bytes"));
            ((number >> 11) as f64 + 1.0) / (1u64 << 53) as f64
        };
        // Box and Muller: two evenly distributed numbers are one normally distributed one.
        let normal = (-2.0 * part(0).ln()).sqrt() * (std::f64::consts::TAU * part(8)).cos();
        median.mul_f64((sigma * normal).exp())
    }

    /// Returns `n` bytes.
    pub(crate) fn bytes(&self, n: usize, question: &str, about: &[u64]) -> Vec<u8> {
        let mut out = Vec::with_capacity(n + 32);
        let mut block = self.hash(question, about);
        while out.len() < n {
            out.extend_from_slice(&block);
            block = sha256(&block);
        }
        out.truncate(n);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thirds_of_a_log_normal_time_are_within_its_spread() {
        let random = SeededRandom::new(7);
        let draw = |nth| random.log_normal(Duration::from_millis(52), 0.5, "hop", &[nth]).as_millis();
        let mut drawn: Vec<u128> = (0..2000).map(draw).collect();
        drawn.sort_unstable();
        // 52 ms times e^-0.5, 1 and e^0.5 at one sixth, one half and five sixths.
        let [low, middle, high] = [317, 1000, 1683].map(|at| drawn[at]);
        assert!((29..35).contains(&low) && (49..56).contains(&middle) && (80..93).contains(&high), "{low} {middle} {high}");
    }
}
