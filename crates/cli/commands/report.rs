//! `slashwatch report`: writes the draft of a post-mortem as HTML or Markdown. The extension of the
//! file decides which.

use crate::exit::UsageError;
use actions::config::WatchConfig;
use anyhow::Context as _;
use consensus::Spec;
use offline::counted;
use offline::report::{Report, ReportFormat, TimeLimit};
use std::path::{Path, PathBuf};
use watcher::config::Config;
use watcher::datadir;

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

/// Writes the evidence pack of an incident. The configuration, or the files of `watch`, have the
/// groups of watched keys.
pub fn pack(data_dir: &Path, incident: &str, config: Option<&Path>, watch: Vec<PathBuf>, out: &Path) -> anyhow::Result<u8> {
    if out.extension().and_then(|extension| extension.to_str()) != Some("zip") {
        return Err(UsageError(format!("--out {}: an evidence pack is a zip file; name it .zip", out.display())).into());
    }
    let watch = match config {
        Some(path) => Some(watch_of(path, data_dir)?),
        None => (!watch.is_empty()).then(|| WatchConfig { files: watch, ..WatchConfig::default() }),
    };
    let pack = offline::serve::incident_pack(data_dir, incident, watch.as_ref())?;
    std::fs::write(out, &pack).with_context(|| super::could_not_write(out))?;
    eprintln!("{}: {} bytes; README.md in it says how to check each proof", out.display(), pack.len());
    Ok(0)
}

/// The groups of a configuration. The same indices are other keys on another network, so a
/// configuration of one cannot say whose keys are in a data directory of another.
fn watch_of(path: &Path, data_dir: &Path) -> anyhow::Result<WatchConfig> {
    let config = Config::load(path)?;
    let configured = config.network.name.as_deref().and_then(Spec::builtin);
    let recorded = datadir::read_network(data_dir)?;
    if let Some((configured, recorded)) = configured.zip(recorded)
        && configured.config_name != recorded.spec.config_name
    {
        return Err(UsageError(format!(
            "--config {}: it is for {}, and {} has records of {}, where its groups would name keys of others. Give a list of the keys \
             there with --watch; that of a rehearsal is keys.csv in its data directory",
            path.display(),
            configured.config_name,
            data_dir.display(),
            recorded.spec.config_name
        ))
        .into());
    }
    Ok(config.watch)
}
