//! The watcher's own inference of who publishes whose votes, for the laboratory.

use consensus::{Epoch, Gwei, ValidatorIndex};
use detect::client::UNKNOWN;
use detect::coverage::Publishers;
use simulator::lab::{FirstHandMeasure, FirstHandRule};
use std::collections::BTreeSet;
use std::sync::Arc;

/// More validators than the laboratory has. Votes of others are not recorded.
const MOST_VALIDATORS: usize = 5_000;

/// Makes the watcher's rule, without any votes.
pub fn watchers_rule() -> Box<dyn FirstHandRule> {
    Box::new(WatchersRule(Publishers::default()))
}

struct WatchersRule(Publishers);

impl FirstHandRule for WatchersRule {
    fn record(&mut self, validator: ValidatorIndex, peer: &Arc<[u8]>, target: Epoch) {
        self.0.advance_to(target);
        self.0.record(validator, peer, target, MOST_VALIDATORS);
    }

    fn measure(&mut self, epoch: Epoch, balances: &[Gwei], connected: &BTreeSet<Arc<[u8]>>) -> FirstHandMeasure {
        // A quarter of the next epoch is over.
        self.0.advance_to(epoch.saturating_add(1));
        self.0.follow_connections(|peer| connected.contains(peer).then_some(UNKNOWN));
        let attesters = (0..).map(ValidatorIndex::new).zip(balances.iter().copied());
        let attested = self.0.measure(epoch, attesters);
        let sums = self.0.sums(attested);
        FirstHandMeasure {
            first_hand: sums.first_hand,
            claimed: sums.claimed,
            n_discarded: sums.n_discarded,
            by_peer: Arc::new(self.0.stake_by_peer(attested)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simulator::lab::{InflationPlan, KeptPeers, WeighingPlan, run_inflation, run_weighing};

    /// The short form: 10 places among 30 nodes, and epochs of one second. The listener gives nodes
    /// turns, hears about as many late conflicts as it has stake connected, and is not told of more
    /// than that.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn turns_are_given_and_what_is_heard_is_what_is_connected() {
        let kept = vec![KeptPeers::Useful];
        let plan =
            WeighingPlan { seed: 2, nodes: 30, places: 10, validators: 60, epoch_ms: 1_000, trials: 4, conflicts: 40, kept };
        println!("seed {}", plan.seed);
        let report = run_weighing(plan, &watchers_rule, &mut |_| ()).await.unwrap();
        println!("{}", report.table());
        let [row] = &report.rows[..] else { panic!("one row: {report:?}") };
        assert_eq!((row.conflicts, row.stake_after_trials.len()), (40, 4));
        assert!(row.met >= 15 && row.met <= 30, "{row:?}");
        assert!(row.figure <= row.stake + 0.05 && row.figure >= row.stake * 0.3 && row.stake > 0.0, "{row:?}");
        assert!((row.share - row.stake).abs() < 0.35, "{row:?}");
    }

    /// The short form: whoever forwards everything is discarded or limited, so that a listener with
    /// 10 of 20 nodes is not told of more than it is connected to and one peer's share.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_peer_inflates_the_figure_by_no_more_than_its_share() {
        let plan =
            InflationPlan { seed: 2, nodes: 20, connections: 10, validators: 400, epoch_ms: 6_000, epochs: 6, hostile: vec![1] };
        println!("seed {}", plan.seed);
        let report = run_inflation(plan, &watchers_rule, &mut |_| ()).await.unwrap();
        println!("{}", report.table());
        assert_eq!(report.rows.len(), 2);
        for row in &report.rows {
            assert!(row.figure <= row.truth + 0.0101, "{row:?}");
        }
        let strangers = report.rows.iter().find(|row| row.only_strangers).unwrap();
        assert!(strangers.claimed > strangers.truth, "it was faster than the rest: {strangers:?}");
    }
}
