//! Lists of `watch.entities` that are published at a URL, such as a test network's
//! `validator-ranges`.
//!
//! Each has a file for its last good copy. This task fetches the list, checks it as a whole, and
//! replaces the file if something has changed. Everything else reads the file: the reload notices
//! that it is new, and a start without a network uses what was there. What cannot be fetched or is
//! no list changes nothing, and is told until it can be.

use super::ListBuilder;
use super::files;
use super::reload::ActiveConfig;
use crate::config::RemoteList;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Largest list that is fetched, in bytes. One line for each of a million validators fits.
const MAX_BYTES: usize = 32 << 20;
/// Time limit of one download.
const TIMEOUT: Duration = Duration::from_secs(60);
/// First pause after a failure. It doubles, up to the list's own interval.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// What a download did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    Replaced,
    Unchanged,
}

/// One list while it is followed.
struct Followed {
    due: Instant,
    failures: u32,
    /// Why the last download failed.
    reason: Option<String>,
}

/// Keeps the copies up to date until cancelled. `failed` receives a notice for each list that could
/// not be fetched, after each round of downloads.
pub async fn keep(mut active: watch::Receiver<Arc<ActiveConfig>>, failed: watch::Sender<Vec<String>>, cancel: CancellationToken) {
    let mut followed: BTreeMap<(String, PathBuf), Followed> = BTreeMap::new();
    loop {
        let lists: Vec<RemoteList> = active.borrow_and_update().config.remote_lists().cloned().collect();
        followed.retain(|key, _| lists.iter().any(|list| list.url == key.0 && list.file == key.1));
        let mut any_fetched = false;
        for list in &lists {
            let key = (list.url.clone(), list.file.clone());
            let one = followed.entry(key).or_insert_with(|| Followed { due: Instant::now(), failures: 0, reason: None });
            if one.due > Instant::now() {
                continue;
            }
            any_fetched = true;
            let fetched = tokio::select! {
                fetched = fetch(list) => fetched,
                () = cancel.cancelled() => return,
            };
            note(list, one, fetched);
        }
        if any_fetched {
            let notice = |list: &RemoteList| {
                let one = followed.get(&(list.url.clone(), list.file.clone()))?;
                let (place, file, reason) = (place_of(list), list.file.display(), one.reason.as_ref()?);
                Some(format!("the list at {place} for {file} cannot be used ({reason}); the last good copy stays"))
            };
            failed.send_replace(lists.iter().filter_map(notice).collect());
        }
        let next = followed.values().map(|one| one.due).min();
        let wait = async {
            match next {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = active.changed() => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

/// Where a list is, without what may be secret in its address: a password, a path or a query.
fn place_of(list: &RemoteList) -> String {
    reqwest::Url::parse(&list.url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

fn note(list: &RemoteList, one: &mut Followed, fetched: Result<Fetched, String>) {
    let (url, file) = (place_of(list), list.file.display());
    match fetched {
        Ok(done) => {
            if done == Fetched::Replaced {
                tracing::info!(url, %file, "a list of labels was fetched");
            } else if one.reason.is_some() {
                tracing::info!(url, "a list of labels can be fetched again");
            }
            (one.failures, one.reason) = (0, None);
            one.due = Instant::now() + list.every;
        }
        Err(reason) => {
            // The same failure is logged once.
            if one.reason.as_ref() != Some(&reason) {
                tracing::warn!(url, %file, reason, "a list of labels cannot be used; the last good copy stays");
            }
            one.due = Instant::now() + FIRST_RETRY.saturating_mul(1 << one.failures.min(16)).min(list.every);
            (one.failures, one.reason) = (one.failures.saturating_add(1), Some(reason));
        }
    }
}

/// Fetches a list and replaces its copy, if it is whole and new.
async fn fetch(list: &RemoteList) -> Result<Fetched, String> {
    let text = download(&list.url).await?;
    let file = list.file.clone();
    let replace = move || {
        check(&file, &text)?;
        if std::fs::read_to_string(&file).is_ok_and(|known| known == text) {
            return Ok(Fetched::Unchanged);
        }
        evidence::replace_file(&file, text.as_bytes())
            .map_err(|error| format!("{} cannot be written: {error}; check the folder and its permissions", file.display()))?;
        Ok(Fetched::Replaced)
    };
    tokio::task::spawn_blocking(replace).await.unwrap_or_else(|error| Err(error.to_string()))
}

async fn download(url: &str) -> Result<String, String> {
    let builder = base::http::client_builder(url.starts_with("https:")).timeout(TIMEOUT);
    let client = builder.build().map_err(base::http::failure_reason)?;
    let mut answer = client.get(url).send().await.map_err(base::http::failure_reason)?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(format!("it answers {}; redirects are not followed", answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(base::http::failure_reason)? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())
}

/// Whether a text is a list as a whole, and names anybody.
fn check(file: &Path, text: &str) -> Result<(), String> {
    let mut into = ListBuilder::default();
    files::parse("the list", file, text, false, &mut into);
    let loaded = into.finish();
    match loaded.problems.first() {
        Some(problem) => Err(format!("{}: {}", problem.path, problem.text)),
        None if loaded.list.entries().is_empty() => Err("it names no validator".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EntityList, WatchConfig};
    use axum::Router;
    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::routing::get;
    use std::sync::Mutex;

    type Answer = Arc<Mutex<(StatusCode, String)>>;

    async fn give(State(answer): State<Answer>) -> (StatusCode, String) {
        answer.lock().unwrap().clone()
    }

    /// A server whose answer can be changed, and a list that is published there.
    async fn published(folder: &Path) -> (Answer, RemoteList) {
        let answer: Answer = Arc::new(Mutex::new((StatusCode::OK, "0-63: 01-geth-teku\n".to_owned())));
        let app = Router::new().route("/ranges.yaml", get(give)).with_state(answer.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ranges.yaml", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let every = Duration::from_secs(3600);
        (answer, RemoteList { url, file: folder.join("ranges.yaml"), every })
    }

    fn labelled(list: &RemoteList) -> usize {
        let entities = vec![EntityList::Url(list.clone())];
        let loaded = crate::lists::load(&WatchConfig { entities, ..WatchConfig::default() });
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.list.entries().len()
    }

    #[tokio::test]
    async fn the_last_good_copy_stays_whatever_comes_later() {
        let dir = tempfile::tempdir().unwrap();
        let (answer, list) = published(dir.path()).await;
        assert_eq!(labelled(&list), 0, "before the first download nobody has a label");
        assert_eq!(fetch(&list).await, Ok(Fetched::Replaced));
        assert_eq!(labelled(&list), 1);
        assert_eq!(fetch(&list).await, Ok(Fetched::Unchanged));
        let bad = [
            (StatusCode::INTERNAL_SERVER_ERROR, "0-63: other".to_owned(), "500"),
            (StatusCode::FOUND, "0-63: other".to_owned(), "redirects are not followed"),
            (StatusCode::OK, "<html>not found</html>".to_owned(), "line 1"),
            (StatusCode::OK, "0-63: good\nx: bad\n".to_owned(), "\"x\" names no validator"),
            (StatusCode::OK, String::new(), "names no validator"),
            (StatusCode::OK, "0-63: a\n".repeat(MAX_BYTES / 8 + 1), "more than"),
        ];
        for (status, text, word) in bad {
            *answer.lock().unwrap() = (status, text);
            let reason = fetch(&list).await.unwrap_err();
            assert!(reason.contains(word), "{word}: {reason}");
            assert_eq!(labelled(&list), 1, "{word}");
        }
        *answer.lock().unwrap() = (StatusCode::OK, "0-63: a\n64-127: b\n".to_owned());
        assert_eq!(fetch(&list).await, Ok(Fetched::Replaced));
        assert_eq!(labelled(&list), 2);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let (answer, list) = published(dir.path()).await;
        *answer.lock().unwrap() = (StatusCode::NOT_FOUND, String::new());
        let with = |list: &RemoteList| {
            let config = WatchConfig { entities: vec![EntityList::Url(list.clone())], ..WatchConfig::default() };
            Arc::new(crate::lists::reload::read_lists(&config).unwrap())
        };
        let (change, active) = watch::channel(with(&list));
        let (failed, mut notices) = watch::channel(Vec::new());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(keep(active, failed, cancel.clone()));
        notices.changed().await.unwrap();
        let told = notices.borrow_and_update().clone();
        assert!(told.len() == 1 && told[0].contains(&place_of(&list)) && told[0].contains("404"), "{told:?}");
        assert!(!told[0].contains(&list.url), "a path or a query may be secret: {told:?}");
        // A changed configuration is followed at once, and its list can be fetched.
        *answer.lock().unwrap() = (StatusCode::OK, "0-63: a\n".to_owned());
        let other = RemoteList { file: dir.path().join("other.yaml"), ..list };
        change.send_replace(with(&other));
        notices.changed().await.unwrap();
        assert!(notices.borrow().is_empty());
        assert_eq!(labelled(&other), 1);
        cancel.cancel();
        task.await.unwrap();
    }
}
