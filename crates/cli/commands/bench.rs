//! `slashwatch bench`: measures what this machine can do.

mod load;
mod parts;
mod pipeline_run;
mod verify_run;

pub use parts::part;
pub use pipeline_run::pipeline;
pub use verify_run::verify;

use crate::args::{BenchIndex, BenchStreams, ReportForm};
use crate::exit::UsageError;
use crate::output;
use index::bench::Variant;
use indicatif::{ProgressBar, ProgressStyle};

/// Fields that programs rely on.
const INDEX_FIELDS: [&str; 15] = [
    "validators",
    "epochs",
    "votes",
    "cpu_seconds",
    "cpu_seconds_per_epoch",
    "votes_per_cpu_second",
    "growth_bytes_per_epoch",
    "written_bytes_per_epoch",
    "peak_rss_bytes",
    "reopen_wall_seconds",
    "late_vote_p99_us",
    "offender_vote_p99_us",
    "found",
    "missed",
    "false",
];

const STREAM_FIELDS: [&str; 5] = ["streams", "singles", "burst", "findings", "slashings"];

/// Runs the benchmark of the vote index. It prints one JSON object to stdout, and progress to
/// stderr if that is a terminal.
pub fn index(args: BenchIndex) -> anyhow::Result<u8> {
    if let Some(folder) =
        args.data_dir.as_deref().filter(|folder| std::fs::read_dir(folder).is_ok_and(|mut rows| rows.next().is_some()))
    {
        let text =
            format!("--data-dir {}: not empty, and what is in it would be measured too; name a new folder", folder.display());
        return Err(UsageError(text).into());
    }
    let options = index::bench::Options {
        validators: args.validators,
        epochs: args.epochs,
        batches_per_slot: args.batches_per_slot,
        // A share (0.995) is accepted as well as a percentage (99.5).
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
    // The user asked for the comparison, so it is printed in any case.
    let details = args.form.details || !report.compared.is_empty();
    print_report(&report, &INDEX_FIELDS, ReportForm { details, ..args.form })?;
    Ok(0)
}

/// Runs the benchmark of event streams.
pub fn streams(args: &BenchStreams) -> anyhow::Result<u8> {
    let folder = load::BenchFolder::new(None)?;
    let options = offline::bench::StreamOptions { streams: args.streams, singles: args.singles, burst: args.burst };
    let report = offline::bench::streams(options, folder.path())?;
    print_report(&report, &STREAM_FIELDS, args.form)?;
    Ok(0)
}

/// Prints a report. Without `--json` it prints all fields, one per line. With `--json` it prints
/// one line with the fields of `contract`, or all fields with `--details`.
fn print_report(report: &impl serde::Serialize, contract: &[&str], form: ReportForm) -> anyhow::Result<()> {
    let mut fields = serde_json::to_value(report)?;
    if !form.json {
        output::line(serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    if let Some(fields) = fields.as_object_mut().filter(|_| !form.details) {
        fields.retain(|field, _| contract.contains(&field.as_str()));
    }
    output::line(fields)?;
    Ok(())
}
