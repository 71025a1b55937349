//! `slashwatch simulate`: plays a scenario file into a capture, and writes what really happened.

use crate::exit::UnreadableError;
use anyhow::Context as _;
use simulator::{Scenario, write_capture};
use std::collections::BTreeSet;
use std::path::Path;

pub fn simulate(scenario: &Path, out: &Path, truth_out: Option<&Path>) -> anyhow::Result<u8> {
    let scenario = read_scenario(scenario)?;
    let truth = write_capture(&scenario, out)?;
    if let Some(path) = truth_out {
        let json = serde_json::to_vec_pretty(&truth)?;
        std::fs::write(path, json).with_context(|| super::could_not_write(path))?;
    }
    let offenders: BTreeSet<_> = truth.crimes.iter().map(|crime| crime.validator).collect();
    eprintln!(
        "{}: {} messages in {} slots by {} validators; {} contradicting pairs by {} of them",
        out.display(),
        truth.messages,
        scenario.slots,
        scenario.n_validators,
        truth.crimes.len(),
        offenders.len()
    );
    Ok(0)
}

/// Largest scenario file that is read.
const MAX_SCENARIO_BYTES: u64 = 1 << 20;

/// Reads a scenario file.
pub fn read_scenario(path: &Path) -> anyhow::Result<Scenario> {
    let unreadable = |error| UnreadableError(format!("cannot read {}: {error}; the folder scenarios/ has some", path.display()));
    let text = base::read_text_file(path, MAX_SCENARIO_BYTES).map_err(unreadable)?;
    Scenario::from_toml(&text).with_context(|| format!("{}", path.display()))
}
