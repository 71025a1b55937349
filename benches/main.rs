//! `cargo bench` measures the stages of the pipeline, in some minutes. `slashwatch bench` measures
//! a whole machine with the load of mainnet and the times of processes.
//!
//! Times depend on the machine. So each group compares two ways to do the same work in the same
//! run, and the last lines of the output are these ratios.
//!
//! | group | what |
//! |---|---|
//! | [`decode`] | from the bytes of a message to typed values |
//! | [`verification`] | signatures of one slot's votes, in batches and one by one |
//! | [`index`] | a vote on time, a late one, one of a known offender |
//! | [`queues`] | a message through the priority queues, and a contradiction while they are full |
//! | [`events`] | findings through the event stream of the API |
//! | [`registry`] | the registry of a million validators, followed through blocks |

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up ends")]

mod decode;
mod events;
mod index;
mod load;
mod queues;
mod registry;
mod verification;

use criterion::Criterion;
use std::path::Path;
use std::time::Duration;

/// Two measurements of one group, per element, and the meaning of their ratio.
struct Ratio {
    group: &'static str,
    slow: (&'static str, u64),
    fast: (&'static str, u64),
    says: &'static str,
}

fn main() {
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion");
    // Criterion would compare with the results of an earlier run. Here only ratios within a run
    // count.
    let _ = std::fs::remove_dir_all(&results);
    let mut criterion = Criterion::default()
        .output_directory(&results)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let groups: [fn(&mut Criterion) -> Vec<Ratio>; 6] =
        [decode::run, verification::run, index::run, queues::run, events::run, registry::run];
    let ratios: Vec<Ratio> = groups.into_iter().flat_map(|group| group(&mut criterion)).collect();
    criterion.final_summary();
    println!("\nratios of this run:");
    for ratio in ratios {
        // A filter on the command line may have left one of them out.
        let each = [ratio.slow, ratio.fast].map(|(name, n)| Some(mean_ns(&results, ratio.group, name)? / n as f64));
        if let [Some(slow), Some(fast)] = each {
            println!("  {:>7.1} {}", slow / fast, ratio.says);
        }
    }
}

/// The mean time of an iteration, from criterion's own file.
fn mean_ns(results: &Path, group: &str, name: &str) -> Option<f64> {
    let text = std::fs::read(results.join(group).join(name).join("new/estimates.json")).ok()?;
    let estimates: serde_json::Value = serde_json::from_slice(&text).ok()?;
    estimates["mean"]["point_estimate"].as_f64()
}
