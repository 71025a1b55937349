//! `slashwatch bench`: what this machine can do.

mod load;
mod parts;
mod pipeline_run;
mod verify_run;

pub use parts::part;
pub use pipeline_run::pipeline;
pub use verify_run::verify;

use crate::args::BenchIndex;
use index::bench::Variant;
use indicatif::{ProgressBar, ProgressStyle};

/// One JSON object on stdout; progress on stderr where that is a terminal.
pub fn index(args: BenchIndex) -> anyhow::Result<u8> {
    let options = index::bench::Options {
        validators: args.validators,
        epochs: args.epochs,
        batches_per_slot: args.batches_per_slot,
        // A share (0.995) is understood as well as a percentage (99.5).
        participation: if args.participation <= 1.0 { args.participation * 100.0 } else { args.participation },
        minority: args.minority,
        shape: args.shape,
        source_distance: args.source_distance,
        absent_epochs: args.absent_epochs,
        bulk: args.bulk,
        data_dir: args.data_dir,
    };
    let style = ProgressStyle::with_template("{bar:40} epoch {pos}/{len} eta {eta}").expect("a constant template");
    let bar = ProgressBar::new(options.epochs).with_style(style);
    let mut report = index::bench::run(&options, &mut |done| bar.set_position(done))?;
    let distances = args.compare_distance.into_iter().map(Variant::SourceDistance);
    let variants: Vec<Variant> = distances.chain(args.compare_absent.into_iter().map(Variant::AbsentEpochs)).collect();
    if !variants.is_empty() {
        report.compared = index::bench::compare(&options, &variants)?;
    }
    bar.finish_and_clear();
    print_report(&report, args.json)?;
    Ok(0)
}

fn print_report(report: &impl serde::Serialize, on_one_line: bool) -> anyhow::Result<()> {
    if on_one_line {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{}", serde_json::to_string_pretty(report)?);
    }
    Ok(())
}
