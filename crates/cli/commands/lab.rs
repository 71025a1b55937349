//! `slashwatch lab`: measures how many conflicts a listener hears and what bears on that, or
//! watches a watcher for a long time.

mod first_hand;
mod long_run;

use crate::args::LabArgs;
use crate::output;
use anyhow::Context as _;
use first_hand::watchers_rule;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::lab::{
    DiscoveryPlan, InflationPlan, LabPlan, LongPlan, WeighingPlan, run_discovery, run_inflation, run_lab, run_weighing,
};

/// Runs the laboratory. The tables, or the JSON object, go to stdout.
pub fn lab(args: LabArgs) -> anyhow::Result<u8> {
    let LabArgs { nodes, connections, posts, skews, trials, rounds, blocks, minutes, seed, svg, json, .. } = args;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(minutes) = minutes {
        return runtime.block_on(long_run::long_run(LongPlan { seed, minutes, nodes }, json));
    }
    if args.discover {
        let report = runtime.block_on(run_discovery(DiscoveryPlan { seed, nodes, ..DiscoveryPlan::default() }))?;
        return print(&report, json, |report| report.table());
    }
    if args.weighing {
        let plan = WeighingPlan { seed, nodes, places: args.places, ..WeighingPlan::default() };
        let bar = bar("epoch", plan.n_epochs() * plan.kept.len() as u64);
        let report = runtime.block_on(run_weighing(plan, &watchers_rule, &mut |done| bar.set_position(done)))?;
        bar.finish_and_clear();
        return print(&report, json, |report| report.table());
    }
    if args.inflation {
        let plan = InflationPlan { seed, nodes, connections: args.places, ..InflationPlan::default() };
        let bar = bar("epoch", plan.n_epochs());
        let report = runtime.block_on(run_inflation(plan, &watchers_rule, &mut |done| bar.set_position(done)))?;
        bar.finish_and_clear();
        return print(&report, json, |report| report.table());
    }
    let plan = LabPlan { seed, nodes, connections, posts, skews_ms: skews, trials, rounds, blocks, ..LabPlan::default() };
    let bar = bar("conflict", plan.n_conflicts());
    let report = runtime.block_on(run_lab(plan, &mut |done| bar.set_position(done)))?;
    bar.finish_and_clear();
    if let Some(file) = svg {
        std::fs::write(&file, report.chart()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    print(&report, json, |report| report.table())
}

fn bar(what: &str, length: u64) -> ProgressBar {
    let template = format!("{{bar:40}} {what} {{pos}}/{{len}} eta {{eta}}");
    ProgressBar::new(length).with_style(ProgressStyle::with_template(&template).expect("a template without unknown names"))
}

fn print<T: serde::Serialize>(report: &T, json: bool, table: impl Fn(&T) -> String) -> anyhow::Result<u8> {
    output::line(if json { serde_json::to_string(report)? } else { table(report) })?;
    Ok(0)
}
