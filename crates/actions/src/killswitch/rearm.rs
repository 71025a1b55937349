//! Making a kill switch ready again beside a running watcher, which holds the lock of the data directory.
//!
//! `slashwatch killswitch rearm` leaves a file `rearm.GROUP` in the data directory. The watcher looks for such files every second, makes
//! the switch ready, writes that down and removes the file, which is the answer. A request that nobody took within [`VALID_FOR`] means
//! nothing any more: a switch must not become ready because of something that was wanted last week.
//!
//! Whoever may write to the data directory may ask, and could replace the findings as well.

use crate::error::ActionError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const PREFIX: &str = "rearm.";
/// How often a watcher looks.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How long who asks waits for the answer.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// Older requests are removed and nothing else.
const VALID_FOR: Duration = Duration::from_secs(60);
/// Requests looked at in one go; there are as many groups at most as a person types.
const MAX_REQUESTS: usize = 64;

/// A wish that a group's switch be made ready.
pub(super) struct Request {
    pub group: String,
    path: PathBuf,
}

impl Request {
    /// It was done, or cannot be.
    pub fn answer(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// What is asked for now. Requests that are too old are removed.
pub(super) fn requests(dir: &Path) -> Vec<Request> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let named = entries.filter_map(Result::ok).filter_map(|entry| {
        let group = entry.file_name().to_str()?.strip_prefix(PREFIX)?.to_owned();
        Some((Request { group, path: entry.path() }, entry.metadata().and_then(|file| file.modified())))
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

/// Asks the watcher that holds the directory and waits for it. Whether it took the request.
///
/// # Errors
/// The request cannot be written.
pub fn ask(dir: &Path, group: &str) -> Result<bool, ActionError> {
    let path = dir.join(format!("{PREFIX}{group}"));
    std::fs::write(&path, []).map_err(|error| {
        ActionError::Failed(format!("cannot write {}: {error}. Check that you may write to the data directory", path.display()))
    })?;
    let asked = Instant::now();
    while path.exists() {
        if asked.elapsed() > PATIENCE {
            // Nobody is to take it up when this has been told as failed; already gone is as good.
            let was_open = std::fs::remove_file(&path).is_ok();
            return Ok(!was_open);
        }
        std::thread::sleep(POLL);
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
        // As the watcher does: what is asked for is answered, whenever it was written.
        while !asked.is_finished() {
            requests(dir.path()).into_iter().for_each(|request| drop(request.answer()));
        }
        assert!(asked.join().unwrap());
    }
}
