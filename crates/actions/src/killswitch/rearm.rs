//! Makes a kill switch ready again while a watcher runs and holds the lock of the data directory.
//!
//! `slashwatch killswitch rearm` creates a file `rearm.GROUP` in the data directory. The watcher
//! looks for such files every second. It makes the switch ready, writes that down and removes the
//! file. The removal is the answer. A request that is older than [`VALID_FOR`] has no effect,
//! because a switch must not become ready because of a request from last week.
//!
//! Everybody who may write to the data directory may make a request. They could also replace the
//! findings, so this gives them no additional power.

use crate::error::ActionError;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const PREFIX: &str = "rearm.";
/// Interval at which the watcher looks for requests.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the requester waits for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Requests older than this are removed without any other effect.
const VALID_FOR: Duration = Duration::from_secs(60);
/// Maximum number of requests that are read at once. Group names are typed by a person, so there
/// are never more.
const MAX_REQUESTS: usize = 64;

/// A request to make a group's switch ready again.
pub(super) struct RearmRequest {
    pub group: String,
    path: PathBuf,
}

impl RearmRequest {
    /// Removes the request's file, which the requester takes as the answer.
    pub fn answer(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Returns the current requests, and removes those that are too old.
pub(super) fn requests(dir: &Path) -> Vec<RearmRequest> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let named = entries.filter_map(Result::ok).filter_map(|entry| {
        let group = entry.file_name().to_str()?.strip_prefix(PREFIX)?.to_owned();
        // What is no file cannot be removed as an answer, and would be a new request each time.
        entry.file_type().ok().filter(FileType::is_file)?;
        Some((RearmRequest { group, path: entry.path() }, entry.metadata().and_then(|file| file.modified())))
    });
    let mut requests = Vec::new();
    for (request, asked_at) in named.take(MAX_REQUESTS) {
        let age = asked_at.ok().and_then(|asked_at| SystemTime::now().duration_since(asked_at).ok());
        if age.is_some_and(|age| age > VALID_FOR) {
            tracing::warn!(group = request.group, "a request to make a kill switch ready is too old and is removed; ask again");
            if let Err(error) = request.answer() {
                tracing::error!(%error, "it cannot be removed");
            }
            continue;
        }
        requests.push(request);
    }
    requests
}

/// Asks the watcher that holds the directory, and waits for the answer. Returns whether the watcher
/// took the request.
///
/// # Errors
///
/// The request's file cannot be written.
pub fn ask(dir: &Path, group: &str) -> Result<bool, ActionError> {
    let path = dir.join(format!("{PREFIX}{group}"));
    std::fs::write(&path, []).map_err(|error| {
        ActionError::Failed(format!("cannot write {}: {error}. Check that you may write to the data directory", path.display()))
    })?;
    let asked = Instant::now();
    while path.exists() {
        if asked.elapsed() > ANSWER_TIMEOUT {
            // The request is reported as failed, so nobody may take it later. If the file is
            // already gone, the watcher took it in the meantime.
            let was_open = std::fs::remove_file(&path).is_ok();
            return Ok(!was_open);
        }
        std::thread::sleep(POLL_EVERY);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_by_its_removal_and_means_nothing_after_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rearm.acme"), []).unwrap();
        let old = std::fs::File::create(dir.path().join("rearm.old")).unwrap();
        old.set_modified(SystemTime::now() - VALID_FOR - Duration::from_secs(1)).unwrap();
        std::fs::write(dir.path().join("network.json"), "{}").unwrap();
        let found = requests(dir.path());
        assert_eq!(found.iter().map(|request| request.group.as_str()).collect::<Vec<_>>(), ["acme"]);
        assert!(!dir.path().join("rearm.old").exists());
        let asking = dir.path().to_owned();
        let asked = std::thread::spawn(move || ask(&asking, "acme").unwrap());
        // Answers every request, like the watcher, until the requester has finished.
        while !asked.is_finished() {
            requests(dir.path()).into_iter().for_each(|request| drop(request.answer()));
        }
        assert!(asked.join().unwrap());
    }
}
