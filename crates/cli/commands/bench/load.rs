//! Loads for the benchmarks: the messages, the keys, and the folder for their files.

use anyhow::Context as _;
use chain::PubkeyCache;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::load::{Load, LoadPlan, LoadTruth, write_load};
use std::path::{Path, PathBuf};

/// Folder for a benchmark's files. It is the given one, or a temporary one that is removed when
/// this value is dropped.
pub struct BenchFolder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl BenchFolder {
    /// Makes the folder, or a temporary one if none is wanted.
    pub fn new(wanted: Option<&Path>) -> anyhow::Result<Self> {
        match wanted {
            Some(path) => {
                std::fs::create_dir_all(path)
                    .with_context(|| format!("cannot make {}; give another --data-dir", path.display()))?;
                Ok(Self { path: path.into(), _temporary: None })
            }
            None => {
                let temporary = tempfile::tempdir().context("cannot make a temporary folder; give --data-dir")?;
                Ok(Self { path: temporary.path().into(), _temporary: Some(temporary) })
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes the load's capture, and returns what is in it.
pub fn write(plan: LoadPlan, capture: &Path) -> anyhow::Result<LoadTruth> {
    let style = ProgressStyle::with_template("{bar:40} making slot {pos}/{len} eta {eta}").expect("a constant template");
    let bar = ProgressBar::new(plan.slots).with_style(style);
    let truth = write_load(plan, capture, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    Ok(truth)
}

/// Writes a cache of the load's keys. They need no check, because they were made here.
pub fn write_keys(plan: LoadPlan, path: &Path) -> anyhow::Result<()> {
    let load = Load::new(plan, 0)?;
    PubkeyCache::write_known(path, &load.public_keys())?;
    Ok(())
}
