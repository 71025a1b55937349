//! Follows changes of the lists while the watcher runs: on SIGHUP, and by looking at the files now and then.
//!
//! Lists that cannot be used change nothing: the log says what is wrong with them, and the old ones stay.

use crate::config::{Config, WatchConfig};
use crate::engine::WatchParts;
use detect::watch::{Desk, Label, WatchList};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    pub config: WatchConfig,
    pub list: Arc<WatchList>,
    /// Labels that groups give and no list of other people's keys does.
    private: Arc<HashSet<String>>,
    /// What its files were like before they were read: whoever changes one meanwhile changes it against that.
    seen: Stamps,
}

impl InForce {
    pub fn new(config: WatchConfig, list: WatchList) -> Self {
        // A million entries share a few sets of labels.
        let sets = |of_groups: bool| -> HashSet<&[Label]> {
            list.entries().iter().filter(|entry| entry.group.is_some() == of_groups).map(|entry| &*entry.labels).collect()
        };
        let public: HashSet<&Label> = sets(false).into_iter().flatten().collect();
        let own = sets(true).into_iter().flatten().filter(|label| !public.contains(label));
        let private = Arc::new(own.map(ToString::to_string).collect());
        Self { config, list: Arc::new(list), private, seen: Stamps::new() }
    }

    /// Whether a label says whose key somebody's is, and no public list says so. Names of groups always do.
    pub fn is_private(&self, label: &str) -> bool {
        label.strip_prefix(Label::GROUP).is_some_and(|rest| rest.starts_with('=')) || self.private.contains(label)
    }

    /// What the engine wants to know of it. Thresholds stay as they were at the start.
    pub fn parts(&self, desk: &Desk) -> WatchParts {
        WatchParts { list: self.list.clone(), keeper: self.config.keeper, desk: desk.clone() }
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
    // What was wrong at the last look: until it is mended, which may be done to files that nothing in force names, each look reads.
    let mut wrong: Option<String> = None;
    loop {
        let asked = tokio::select! {
            () = cancel.cancelled() => return,
            () = hung_up(&mut hangups) => true,
            () = pause(now.config.reload) => false,
        };
        let seen = stamps_of(source.clone(), now.config.clone()).await;
        if !asked && wrong.is_none() && seen == now.seen {
            continue;
        }
        let (from, config) = (source.clone(), now.config.clone());
        let read = tokio::task::spawn_blocking(move || reread(from.as_deref(), config)).await;
        match read {
            Ok(Ok(next)) => {
                let (groups, entries) = (next.list.groups().count(), next.list.entries().len());
                tracing::info!(groups, entries, "lists of watched keys are read again");
                wrong = None;
                now = next.clone();
                changed.send_replace(Arc::new(next));
            }
            Ok(Err(reason)) => {
                if asked || wrong.as_ref() != Some(&reason) {
                    tracing::error!(reason, "the changed lists cannot be used; what was in force stays");
                }
                wrong = Some(reason);
            }
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
fn reread(source: Option<&Path>, config: WatchConfig) -> Result<InForce, String> {
    let own = stamp_all(source);
    let config = match source {
        Some(path) => Config::load(path).map_err(|error| error.to_string())?.watch,
        None => config,
    };
    read_lists(config, own)
}

/// Reads the lists that a configuration, which was read from `source` just now, names.
pub fn read(config: &WatchConfig, source: Option<&Path>) -> Result<InForce, String> {
    read_lists(config.clone(), stamp_all(source))
}

/// `own`: of the configuration's file, before it was read.
fn read_lists(config: WatchConfig, own: Stamps) -> Result<InForce, String> {
    let seen = [own, stamp_all(named(&config))].concat();
    let loaded = super::load(&config);
    match loaded.problems.as_slice() {
        [] => Ok(InForce { seen, ..InForce::new(config, loaded.list) }),
        problems => {
            Err(problems.iter().map(|problem| format!("{}: {}", problem.path, problem.text)).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// What tells a file from what it was. The time is that of its last change of any kind, permissions included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// By file, in the order of [`named`]; a file that is gone has none.
type Stamps = Vec<Option<Stamp>>;

async fn stamps_of(source: Option<PathBuf>, config: WatchConfig) -> Stamps {
    let look = move || [stamp_all(source.as_deref()), stamp_all(named(&config))].concat();
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// The files whose contents or permissions matter to `[watch]`: lists, and what kill switches run or sign with.
fn named(config: &WatchConfig) -> impl Iterator<Item = &Path> {
    let switches = || config.groups.iter().filter_map(|group| group.kill_switch.as_ref());
    let secrets = switches().filter_map(|switch| switch.secret_file.as_deref());
    let programs = switches().filter_map(|switch| switch.command.first().map(Path::new));
    config.files.iter().chain(&config.entities).map(PathBuf::as_path).chain(secrets).chain(programs)
}

fn stamp_all<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Stamps {
    let stamp = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some(Stamp { inode: file.ino(), length: file.len(), changed: (file.ctime(), file.ctime_nsec()) })
    };
    paths.into_iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Stage {
        dir: tempfile::TempDir,
        source: PathBuf,
    }

    impl Stage {
        fn new(watch: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source = dir.path().join("slashwatch.toml");
            let stage = Self { dir, source };
            stage.configure(watch);
            stage
        }

        fn configure(&self, watch: &str) {
            let network = "[network]\nname = \"mainnet\"\n[nodes]\nurls = [\"http://127.0.0.1:9\"]\n";
            std::fs::write(&self.source, format!("{network}[watch]\nreload = \"5ms\"\n{watch}")).unwrap();
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn read(&self) -> InForce {
            let config = Config::load(&self.source).unwrap();
            read(&config.watch, config.source.as_deref()).unwrap()
        }

        /// Follows from what was read; gives what is in force once it is as wanted.
        async fn follow_until(&self, read: InForce, wanted: impl Fn(&InForce) -> bool) -> Arc<InForce> {
            let (changed, mut seen) = watch::channel(Arc::new(read.clone()));
            let cancel = CancellationToken::new();
            let task = tokio::spawn(follow(Some(self.source.clone()), read, None, changed, cancel.clone()));
            let now = tokio::time::timeout(PATIENCE, seen.wait_for(|now| wanted(now))).await.expect("seen in time");
            let now = now.unwrap().clone();
            cancel.cancel();
            task.await.unwrap();
            now
        }
    }

    fn n_entries(in_force: &InForce) -> usize {
        in_force.list.entries().len()
    }

    #[tokio::test]
    async fn a_change_made_while_the_rest_was_started_is_seen() {
        let stage = Stage::new("files = [\"keys.csv\"]\n");
        stage.file("keys.csv", "group,key\nacme,1\n");
        let read = stage.read();
        stage.file("keys.csv", "group,key\nacme,1\nacme,2\n");
        stage.follow_until(read, |now| n_entries(now) == 2).await;
    }

    #[tokio::test]
    async fn what_was_wrong_is_tried_again_once_it_is_mended_elsewhere() {
        let stage = Stage::new("");
        let stop = stage.file("stop.sh", "#!/bin/sh\n");
        let read = stage.read();
        stage
            .configure(&format!("[[watch.groups]]\nname = \"acme\"\nkeys = [\"1\"]\nkill_switch = {{ command = [{stop:?}] }}\n"));
        reread(Some(&stage.source), read.config.clone()).expect_err("it is not executable yet");
        let mend = async {
            // After the follower had the chance to see what is wrong.
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::fs::set_permissions(&stop, std::fs::Permissions::from_mode(0o700)).unwrap();
        };
        let (now, ()) = tokio::join!(stage.follow_until(read, |now| n_entries(now) == 1), mend);
        assert!(now.config.groups[0].kill_switch.is_some());
    }

    #[test]
    fn permissions_and_secrets_are_part_of_what_is_followed() {
        let stage = Stage::new("");
        let (stop, secret) = (stage.file("stop.sh", "#!/bin/sh\n"), stage.file("secret", "hunter2"));
        std::fs::set_permissions(&stop, std::fs::Permissions::from_mode(0o700)).unwrap();
        stage.configure(&format!(
            "[[watch.groups]]\nname = \"a\"\nkeys = [\"1\"]\nkill_switch = {{ command = [{stop:?}] }}\n\
             [[watch.groups]]\nname = \"b\"\nkeys = [\"2\"]\nkill_switch = {{ url = \"http://x/\", secret_file = {secret:?} }}\n"
        ));
        let read = stage.read();
        let now = || [stamp_all([stage.source.as_path()]), stamp_all(named(&read.config))].concat();
        assert_eq!(now(), read.seen);
        stage.file("secret", "hunter22");
        assert_ne!(now(), read.seen);
    }

    #[test]
    fn labels_that_only_groups_give_are_private() {
        let stage = Stage::new("files = [\"keys.csv\"]\nentities = [\"entities.csv\"]\n");
        stage.file("keys.csv", "group,key,operator,cluster\nacme,1,acme,eu-1\n");
        stage.file("entities.csv", "key,operator\n2,acme\n3,blue\n");
        let read = stage.read();
        for (label, is_private) in [
            ("group=acme", true),
            ("group=gone", true),
            ("cluster=eu-1", true),
            ("operator=acme", false),
            ("operator=blue", false),
            ("groupie=x", false),
        ] {
            assert_eq!(read.is_private(label), is_private, "{label}");
        }
    }
}
