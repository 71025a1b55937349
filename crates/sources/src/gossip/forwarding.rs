//! How many single votes are passed on, when there are very many peers.
//!
//! For each message that is passed on, gossipsub looks at every connected peer, whether it must get
//! the message besides those in the mesh. With 200 peers this costs nothing. With 2 000 peers and
//! mainnet's 31 250 votes in a slot it takes longer than the votes take to arrive, and then the
//! listener hears less than with few peers. So there is a budget of looks, and a vote beyond it is
//! not passed on. Blocks, aggregates and operations always are: they are few.
//!
//! | peers | votes passed on in a second, at most |
//! |---|---|
//! | 200 | 10 000: more than mainnet has in its busiest second |
//! | 500 | 4 000 |
//! | 2 000 | 1 000: an eighth of that second's, and 38 % of the average |
//!
//! The others reach their peers by seven other ways: a mesh has eight peers.

use std::time::Instant;

/// Looks at peers in a second, each of some 150 ns, and that may be saved up.
const LOOKS_PER_SECOND: f64 = 2e6;

/// The budget of looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForwardBudget {
    left: f64,
    at: Instant,
}

impl ForwardBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: LOOKS_PER_SECOND, at: now }
    }

    /// Takes what one message costs with that many peers. Returns false if there is not enough.
    pub(super) fn take(&mut self, n_peers: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * LOOKS_PER_SECOND).min(LOOKS_PER_SECOND);
        self.at = now;
        let cost = n_peers as f64;
        let is_enough = self.left >= cost;
        if is_enough {
            self.left -= cost;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Votes of mainnet: 31 250 in the four seconds of each slot's burst.
    fn passed_on(n_peers: usize) -> usize {
        let start = Instant::now();
        let mut budget = ForwardBudget::new(start);
        let votes = (0..31_250u32).map(|nth| start + Duration::from_micros(128) * nth);
        votes.filter(|at| budget.take(n_peers, *at)).count()
    }

    #[test]
    fn all_votes_are_passed_on_with_few_peers_and_a_part_with_many() {
        assert_eq!((passed_on(1), passed_on(200)), (31_250, 31_250));
        assert_eq!(passed_on(2_000), 4_999, "a thousand a second, and a second saved up");
        assert_eq!(passed_on(10_000), 999);
    }
}
