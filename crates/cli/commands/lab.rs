//! `slashwatch lab`: measures how many conflicts a listener hears, or watches a watcher for a long
//! time.

mod long_run;

use crate::args::LabArgs;
use crate::output;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::lab::{LabPlan, LongPlan, run_lab};

/// Runs the laboratory. The tables, or the JSON object, go to stdout.
pub fn lab(args: LabArgs) -> anyhow::Result<u8> {
    let LabArgs { nodes, connections, posts, skews, trials, rounds, blocks, minutes, seed, svg, json } = args;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(minutes) = minutes {
        return runtime.block_on(long_run::long_run(LongPlan { seed, minutes, nodes }, json));
    }
    let plan = LabPlan { seed, nodes, connections, posts, skews_ms: skews, trials, rounds, blocks, ..LabPlan::default() };
    let style = ProgressStyle::with_template("{bar:40} conflict {pos}/{len} eta {eta}").expect("a constant template");
    let bar = ProgressBar::new(plan.n_conflicts()).with_style(style);
    let report = runtime.block_on(run_lab(plan, &mut |done| bar.set_position(done)))?;
    bar.finish_and_clear();
    if let Some(file) = svg {
        std::fs::write(&file, report.chart()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output::line(if json { serde_json::to_string(&report)? } else { report.table() })?;
    Ok(0)
}
