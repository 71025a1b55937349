//! `slashwatch bench verify`: CPU time per single vote, from bytes to `Signed`, against the price nobody gets below, that of
//! decompressing a signature, measured in the same run.
//!
//! The votes are real ones of one slot's committees. Both ways of proving: as sums per committee and data (what a replay does),
//! and each by itself in a random combination (what may be forwarded). All at once, and in batches as they come live.

use crate::{Outcome, RawMessage, SinglesProof, UnixNs, Verifier, VerifyConfig, bls};
use chain::Chain;
use consensus::{SignatureBytes, SingleAttestation};
use serde::Serialize;

/// CPU seconds that a figure is measured for at least, since the clock ticks in hundredths.
const LEAST_SECONDS: f64 = 2.0;
/// Messages in a batch, as the watcher has them at mainnet's rate.
const LIVE_BATCH: usize = 1024;

/// What one way of proving costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    pub cpu_us_per_signature: f64,
    /// Of that and the floor.
    pub ratio: f64,
}

/// Field names are the JSON's; the first four are of sums over all votes at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    pub signatures: u64,
    pub cpu_us_per_signature: f64,
    pub decompress_us: f64,
    pub ratio: f64,
    pub distinct_data: u64,
    /// Each proven by itself, so that it may be forwarded.
    pub random_combination: Cost,
    /// Sums, in batches of 1 024.
    pub live_sums: Cost,
    /// Random combination, in batches of 1 024.
    pub live_random_combination: Cost,
}

/// Proves `votes` again and again. `cpu`: CPU seconds this process has used.
///
/// # Errors
/// Votes that are not all proven: then the figures would say nothing.
pub fn run(chain: &mut Chain, votes: &[RawMessage], distinct_data: u64, cpu: &dyn Fn() -> f64) -> Result<Report, String> {
    let signatures: Vec<SignatureBytes> = votes
        .iter()
        .map(|vote| SingleAttestation::from_ssz(&vote.bytes).map(|single| single.signature).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let n = signatures.len() as f64;
    let decompress_us = per_signature(n, cpu, || {
        let points = signatures.iter().filter(|signature| bls::decompress(signature).is_some()).count();
        if points == signatures.len() { Ok(()) } else { Err("some signatures are no points".to_owned()) }
    })?;
    let mut cost = |singles: SinglesProof, batch: usize| -> Result<Cost, String> {
        // Copies of the votes are not what is measured, nor is the memory of a verifier that has proven them already.
        let mut spent = 0.0;
        let mut rounds = 0.0;
        while spent < LEAST_SECONDS {
            let mut verifier = Verifier::new(VerifyConfig { singles, ..VerifyConfig::replay() });
            for batch in votes.chunks(batch) {
                let (batch, now) = (batch.to_vec(), batch.iter().map(|vote| vote.received_at).max().unwrap_or(UnixNs(0)));
                let before = cpu();
                let verified = verifier.process(chain, batch, now);
                spent += cpu() - before;
                let proven = |outcome: &Outcome| matches!(outcome, Outcome::Proven { .. });
                if let Some(row) = verified.outcomes.iter().find(|row| !proven(&row.3)) {
                    return Err(format!("a vote was not proven but {}; the load is wrong", row.3.label()));
                }
            }
            rounds += 1.0;
        }
        let cpu_us_per_signature = spent * 1e6 / (n * rounds);
        Ok(Cost { cpu_us_per_signature, ratio: cpu_us_per_signature / decompress_us })
    };
    // The first round computes committees and seats, once an epoch.
    cost(SinglesProof::Sums, votes.len().max(1))?;
    let sums = cost(SinglesProof::Sums, votes.len().max(1))?;
    Ok(Report {
        signatures: signatures.len() as u64,
        cpu_us_per_signature: sums.cpu_us_per_signature,
        decompress_us,
        ratio: sums.ratio,
        distinct_data,
        random_combination: cost(SinglesProof::RandomCombination, votes.len().max(1))?,
        live_sums: cost(SinglesProof::Sums, LIVE_BATCH)?,
        live_random_combination: cost(SinglesProof::RandomCombination, LIVE_BATCH)?,
    })
}

fn per_signature(n: f64, cpu: &dyn Fn() -> f64, mut round: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    let (before, mut rounds) = (cpu(), 0.0);
    while cpu() - before < LEAST_SECONDS {
        round()?;
        rounds += 1.0;
    }
    Ok((cpu() - before) * 1e6 / (n * rounds))
}
