//! `slashwatch report`: writes the draft of a post-mortem as HTML or Markdown. The extension of the
//! file decides which.

use crate::exit::UsageError;
use anyhow::Context as _;
use offline::counted;
use offline::report::{Report, ReportFormat, TimeLimit};
use std::path::Path;
use watcher::config::Config;

pub fn report(data_dir: &Path, from: Option<TimeLimit>, to: Option<TimeLimit>, out: &Path) -> anyhow::Result<u8> {
    let format = match out.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => ReportFormat::Html,
        Some("md") => ReportFormat::Markdown,
        _ => return Err(UsageError(format!("--out {}: name it .html or .md", out.display())).into()),
    };
    if let (Some(TimeLimit::Slot(first)), Some(TimeLimit::Slot(last))) = (from, to)
        && last < first
    {
        return Err(UsageError(format!("--to {last} is before --from {first}")).into());
    }
    let report = Report::gather(data_dir, from, to)?;
    std::fs::write(out, report.write(format)).with_context(|| super::could_not_write(out))?;
    let incidents = counted(report.n_incidents() as u64, "incident", "incidents");
    let validators = counted(report.n_members() as u64, "validator", "validators");
    eprintln!("{}: {incidents}, {validators}", out.display());
    Ok(0)
}

/// Writes the evidence pack of an incident. The configuration has the groups of watched keys.
pub fn pack(data_dir: &Path, incident: &str, config: Option<&Path>, out: &Path) -> anyhow::Result<u8> {
    if out.extension().and_then(|extension| extension.to_str()) != Some("zip") {
        return Err(UsageError(format!("--out {}: an evidence pack is a zip file; name it .zip", out.display())).into());
    }
    let config = config.map(Config::load).transpose()?;
    let pack = offline::serve::incident_pack(data_dir, incident, config.as_ref().map(|config| &config.watch))?;
    std::fs::write(out, &pack).with_context(|| super::could_not_write(out))?;
    eprintln!("{}: {} bytes; README.md in it says how to check each proof", out.display(), pack.len());
    Ok(0)
}
