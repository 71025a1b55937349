//! Follows changes of the lists while the watcher runs: on SIGHUP, and by looking at the files now and then.
//!
//! Lists that cannot be used change nothing: the log says what is wrong with them, and the old ones stay.

use crate::config::{Config, WatchConfig};
use crate::engine::WatchParts;
use detect::watch::{Desk, KeeperConfig, WatchList};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    pub config: WatchConfig,
    pub list: Arc<WatchList>,
}

impl InForce {
    /// What the engine wants to know of it. Thresholds stay as they were at the start.
    pub fn parts(&self, desk: &Desk) -> WatchParts {
        let keeper = KeeperConfig {
            missed_in_a_row: u32::try_from(self.config.missed_in_a_row).unwrap_or(u32::MAX),
            flapping_keys: self.config.flapping_keys,
            flapping_percent: self.config.flapping_percent,
            network_percent: self.config.network_percent,
        };
        WatchParts { list: self.list.clone(), keeper, desk: desk.clone() }
    }
}

/// Listens for SIGHUP, which would end the process otherwise. Needs a tokio runtime.
pub fn hangups() -> Option<Signal> {
    let hangups = signal(SignalKind::hangup());
    hangups.inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened for; only changes of the files are seen")).ok()
}

/// Sends what is in force after each change, until cancelled. `source`: the configuration's file, if it came from one.
pub async fn follow(
    source: Option<PathBuf>,
    mut now: InForce,
    mut hangups: Option<Signal>,
    changed: watch::Sender<Arc<InForce>>,
    cancel: CancellationToken,
) {
    let mut stamps = stamps(source.as_deref(), &now.config);
    loop {
        let asked = tokio::select! {
            () = cancel.cancelled() => return,
            () = hung_up(&mut hangups) => true,
            () = pause(now.config.reload) => false,
        };
        let seen = stamps_of(source.clone(), now.config.clone()).await;
        if !asked && seen == stamps {
            continue;
        }
        stamps = seen;
        let (from, config) = (source.clone(), now.config.clone());
        let read = tokio::task::spawn_blocking(move || reread(from.as_deref(), config)).await;
        match read {
            Ok(Ok(next)) => {
                let (groups, entries) = (next.list.groups().count(), next.list.entries().len());
                tracing::info!(groups, entries, "lists of watched keys are read again");
                // What a changed list of files names is looked at from now on.
                stamps = stamps_of(source.clone(), next.config.clone()).await;
                now = next.clone();
                changed.send_replace(Arc::new(next));
            }
            Ok(Err(reason)) => tracing::error!(reason, "the changed lists cannot be used; what was in force stays"),
            Err(error) => tracing::error!(%error, "reading the lists broke off; what was in force stays"),
        }
    }
}

async fn hung_up(hangups: &mut Option<Signal>) {
    match hangups {
        Some(signal) => {
            // `None` only when the runtime ends.
            let _ = signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

async fn pause(length: Duration) {
    if length.is_zero() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(length).await;
}

/// Reads the configuration's `[watch]` and the lists it names.
pub fn reread(source: Option<&Path>, config: WatchConfig) -> Result<InForce, String> {
    let config = match source {
        Some(path) => Config::load(path).map_err(|error| error.to_string())?.watch,
        None => config,
    };
    let loaded = super::load(&config);
    match loaded.problems.as_slice() {
        [] => Ok(InForce { config, list: Arc::new(loaded.list) }),
        problems => {
            Err(problems.iter().map(|problem| format!("{}: {}", problem.path, problem.text)).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Length and time of change of each file; a file that is gone has none.
type Stamps = Vec<Option<(u64, SystemTime)>>;

async fn stamps_of(source: Option<PathBuf>, config: WatchConfig) -> Stamps {
    let look = move || stamps(source.as_deref(), &config);
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn stamps(source: Option<&Path>, config: &WatchConfig) -> Stamps {
    let files = source.into_iter().chain(config.files.iter().chain(&config.entities).map(PathBuf::as_path));
    let stamp = |path: &Path| std::fs::metadata(path).ok().and_then(|file| Some((file.len(), file.modified().ok()?)));
    files.map(stamp).collect()
}
