//! Verifies the signatures of one slot's votes, from bytes to `Signed`, on one thread.

use crate::Ratio;
use crate::load::{Votes, votes};
use criterion::{BatchSize, Criterion, Throughput};
use verify::{Outcome, SinglesProof, Verifier, VerifyConfig};

pub fn run(criterion: &mut Criterion) -> Vec<Ratio> {
    let Votes { mut chain, messages } = votes();
    let n_votes = messages.len() as u64;
    let now = messages.iter().map(|message| message.received_at).max().unwrap();
    let mut group = criterion.benchmark_group("verification");
    group.sample_size(10).throughput(Throughput::Elements(n_votes));
    let ways = [
        ("in_sums", SinglesProof::Sums, messages.len()),
        ("each_provable_alone", SinglesProof::RandomCombination, messages.len()),
        ("one_by_one", SinglesProof::RandomCombination, 1),
    ];
    for (name, singles, batch) in ways {
        let config = VerifyConfig { singles, threads: 1, ..VerifyConfig::replay() };
        // Each run needs a new verifier, because a verifier does not prove the same votes again.
        let fresh = || (Verifier::new(config), messages.clone());
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                fresh,
                |(mut verifier, messages)| {
                    let mut n_proven = 0;
                    for batch in messages.chunks(batch) {
                        let verified = verifier.process(&mut chain, batch.to_vec(), now);
                        n_proven += verified.outcomes.iter().filter(|row| matches!(row.3, Outcome::Proven { .. })).count();
                    }
                    assert_eq!(n_proven as u64, n_votes, "the load is honest");
                    verifier
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    let ratio = |fast, says| Ratio { group: "verification", slow: ("one_by_one", n_votes), fast: (fast, n_votes), says };
    vec![
        ratio("in_sums", "times as fast as one by one are votes proven in sums (a replay, or a watcher under pressure)"),
        ratio("each_provable_alone", "times as fast as one by one are votes proven together so that each may be forwarded"),
    ]
}
