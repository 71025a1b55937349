//! `slashwatch bench verify` measures the CPU time per single vote, from bytes to `Signed`. The
//! same run measures the time to decompress a signature, which no method of proving can avoid, and
//! the report compares the two.
//!
//! The votes are real votes of one slot's committees. Both methods of proving are measured: sums
//! per committee and data (used for a replay), and each vote by itself in a random combination (so
//! that it may be forwarded). Each method is measured with all votes in one batch, and with batches
//! of the size that occurs live.

use crate::{Outcome, RawMessage, SinglesProof, Time, Verifier, VerifyConfig, bls};
use chain::Chain;
use consensus::{SignatureBytes, SingleAttestation};
use serde::Serialize;

/// The smallest number of CPU seconds that one figure is measured for. The CPU clock counts in
/// hundredths of a second.
const LEAST_SECONDS: f64 = 2.0;
/// Number of messages in a batch, as it occurs in the watcher at mainnet's rate.
const LIVE_BATCH: usize = 1024;

/// The cost of one method of proving.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    pub cpu_us_per_signature: f64,
    /// `cpu_us_per_signature` divided by `decompress_us`.
    pub ratio: f64,
}

/// The result of a run. The field names are those of the JSON. The first four fields are for sums
/// over all votes in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VerifyReport {
    pub signatures: u64,
    pub cpu_us_per_signature: f64,
    pub decompress_us: f64,
    pub ratio: f64,
    pub distinct_data: u64,
    /// Each vote is proven by itself, so that it may be forwarded.
    pub random_combination: Cost,
    /// Sums, in batches of 1 024 votes.
    pub live_sums: Cost,
    /// Random combination, in batches of 1 024 votes.
    pub live_random_combination: Cost,
}

/// Proves `votes` repeatedly. `cpu` returns the CPU seconds that this process has used.
///
/// # Errors
/// If not all votes are proven, because the figures would then mean nothing.
pub fn run(chain: &mut Chain, votes: &[RawMessage], distinct_data: u64, cpu: &dyn Fn() -> f64) -> Result<VerifyReport, String> {
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
        // Neither the copying of the votes nor the memory of a verifier that has proven them
        // already is to be measured.
        let mut spent = 0.0;
        let mut rounds = 0.0;
        while spent < LEAST_SECONDS {
            let mut verifier = Verifier::new(VerifyConfig { singles, ..VerifyConfig::replay() });
            for batch in votes.chunks(batch) {
                let (batch, now) = (batch.to_vec(), batch.iter().map(|vote| vote.received_at).max().unwrap_or(Time(0)));
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
    // The first round computes committees and seats, which is done once an epoch, so it is not
    // measured.
    cost(SinglesProof::Sums, votes.len().max(1))?;
    let sums = cost(SinglesProof::Sums, votes.len().max(1))?;
    Ok(VerifyReport {
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
