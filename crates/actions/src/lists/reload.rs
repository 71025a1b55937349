//! Follows changes of the lists and of the alert routes while the watcher runs: on SIGHUP, and by
//! checking the files at intervals.
//!
//! Lists that cannot be used change nothing. The log says what is wrong with them, and the old ones
//! stay in use.

use crate::alerts;
use crate::config::{AlertsConfig, EntityList, WatchConfig};
use alert::Routes;
use detect::watch::{Label, SharedWatchState, WatchList};
use engine::WatchParts;
use evidence::Time;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest time between the two looks at a changed file that show that it is written.
const SETTLE: Duration = Duration::from_secs(2);

/// The configuration and the lists that are in use now.
#[derive(Clone, Debug)]
pub struct ActiveConfig {
    pub config: WatchConfig,
    pub list: Arc<WatchList>,
    alerts: AlertsConfig,
    /// Alert routes. The same value, with its connections, is kept as long as nothing about the
    /// routes changes.
    pub routes: Routes,
    /// Labels of lists of other people's keys, without those whose name a group uses too.
    public: Arc<HashSet<String>>,
    /// Stamps of the files, taken before the files were read. A change that happens during the
    /// reading is therefore noticed later.
    seen: Stamps,
}

impl ActiveConfig {
    /// Makes the value without alert routes, and finds the public labels.
    pub fn new(config: WatchConfig, list: WatchList) -> Self {
        // A million entries share a few sets of labels, so each set is visited only once.
        let sets = |of_groups: bool| -> HashSet<&[Label]> {
            list.entries().iter().filter(|entry| entry.group.is_some() == of_groups).map(|entry| &*entry.labels).collect()
        };
        // A group's label replaces one of that name from a list. So what is counted or selected by
        // such a name depends on who is watched.
        let own_names: HashSet<&str> = sets(true).into_iter().flatten().map(|label| label.key.as_str()).collect();
        let listed = sets(false).into_iter().flatten().filter(|label| !own_names.contains(label.key.as_str()));
        let public = Arc::new(listed.map(ToString::to_string).collect());
        Self {
            config,
            list: Arc::new(list),
            alerts: AlertsConfig::default(),
            routes: Routes::default(),
            public,
            seen: Stamps::default(),
        }
    }

    /// Returns whether what has this label may tell who is watched. Everything that no list of
    /// other people's keys says now is private, so labels of former groups stay private too.
    pub fn is_private(&self, label: &str) -> bool {
        !self.public.contains(label)
    }

    /// Names the kill switches and alert routes of `before` that are not here.
    fn lacks(&self, before: &Self) -> Vec<String> {
        let switches = |active: &Self| -> Vec<String> {
            let groups = active.config.groups.iter().filter(|group| group.kill_switch.is_some());
            groups.map(|group| format!("kill switch of group {:?}", group.name)).collect()
        };
        let routes = |active: &Self| -> Vec<String> {
            active.alerts.routes.iter().map(|route| format!("alert route {:?}", route.name)).collect()
        };
        let here = [switches(self), routes(self)].concat();
        [switches(before), routes(before)].concat().into_iter().filter(|name| !here.contains(name)).collect()
    }

    /// Names the groups of `before` that are here with fewer entries, as `12 of 20 entries of group
    /// "acme"`.
    fn lost_entries(&self, before: &Self) -> Vec<String> {
        let lost = |group: &Arc<str>| {
            let (were, are) = (before.list.n_entries_of(group), self.list.n_entries_of(group));
            (are < were).then(|| format!("{} of {were} entries of group {group:?}", were - are))
        };
        before.list.groups().filter_map(lost).collect()
    }

    /// Returns why this must not replace `before`: a group that keeps its kill switch has lost its
    /// last key. A failed export leaves such a file behind.
    fn disarms(&self, before: &Self) -> Option<String> {
        let has_switch =
            |group: &&Arc<str>| self.config.groups.iter().any(|own| own.kill_switch.is_some() && *own.name == ***group);
        let mut groups = before.list.groups().filter(has_switch);
        let group = groups.find(|group| before.list.n_entries_of(group) > 0 && self.list.n_entries_of(group) == 0)?;
        Some(format!(
            "group {group:?} has a kill switch and not one key any more; put its keys back, or take its kill switch out of the configuration"
        ))
    }

    /// Returns the parts that the engine needs. The engine keeps the thresholds from the start.
    pub fn parts(&self, desk: &SharedWatchState) -> WatchParts {
        WatchParts {
            list: self.list.clone(),
            config: self.config.keeper,
            two_origins: self.config.two_origins.parts(),
            state: desk.clone(),
        }
    }
}

/// A changed configuration or list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedConfig {
    /// Time at which the problem was first noticed.
    pub at: Time,
    pub reason: String,
}

impl RejectedConfig {
    /// Returns a notice for the operator, shown on the status page.
    pub fn notice(&self) -> String {
        let reason = self.reason.split('\n').map(str::trim).collect::<Vec<_>>().join("; ");
        format!("the configuration as changed at {} or before cannot be used, and what was in force stays: {reason}", self.at)
    }

    /// Returns the same notice for readers who may not know what is watched.
    pub fn notice_without_reason(&self) -> String {
        format!(
            "the configuration as changed at {} or before cannot be used, and what was in force stays: the log says why",
            self.at
        )
    }
}

/// Where [`follow`] reports what it finds.
pub struct ReloadReports {
    /// Receives what is in use.
    pub changed: watch::Sender<Arc<ActiveConfig>>,
    /// Receives the problem of what cannot be used, and `None` when it is corrected.
    pub refused: watch::Sender<Option<RejectedConfig>>,
    /// Returns the time of the wall clock.
    pub now: fn() -> Time,
}

/// Starts to listen for SIGHUP, which would otherwise end the process. It must be called inside a
/// tokio runtime.
pub fn hangups() -> Option<Signal> {
    let hangups = signal(SignalKind::hangup());
    hangups.inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened for; only changes of the files are seen")).ok()
}

/// Reads the sections `[watch]` and `[alerts]` of a configuration file.
pub type ReadConfig = Arc<dyn Fn(&Path) -> Result<(WatchConfig, AlertsConfig), String> + Send + Sync>;

/// Follows the files until cancelled. After each change it reports what is in use, or what cannot
/// be used. `source` is the configuration file, if there is one.
pub async fn follow(
    source: Option<PathBuf>,
    read_config: ReadConfig,
    mut now: ActiveConfig,
    mut hangups: Option<Signal>,
    reports: ReloadReports,
    cancel: CancellationToken,
) {
    // The problem of the last check. The cause may be corrected in a file that the configuration in
    // use does not name. So the files are read at each check until the problem is gone.
    let mut wrong: Option<String> = None;
    // The stamps of the last look, if they were new. A file that is still being written is not
    // read: half of a configuration is one too, perhaps without the kill switches.
    let mut unsettled: Option<Stamps> = None;
    loop {
        let length = if unsettled.is_some() { now.config.reload.min(SETTLE) } else { now.config.reload };
        let asked = tokio::select! {
            () = cancel.cancelled() => return,
            () = hung_up(&mut hangups) => true,
            () = pause(length) => false,
        };
        let seen = stamps_of(source.clone(), now.clone()).await;
        if !asked && wrong.is_none() && seen == now.seen {
            unsettled = None;
            continue;
        }
        if !asked && seen != now.seen && unsettled.as_ref() != Some(&seen) {
            unsettled = Some(seen);
            continue;
        }
        unsettled = None;
        let (from, old, read_config) = (source.clone(), now.clone(), read_config.clone());
        let read = tokio::task::spawn_blocking(move || reread(from.as_deref(), &read_config, &old)).await;
        match read {
            Ok(Ok(next)) => {
                let (groups, entries) = (next.list.groups().count(), next.list.entries().len());
                tracing::info!(groups, entries, "lists of watched keys are read again");
                for gone in next.lacks(&now) {
                    tracing::warn!(
                        "the changed configuration has no {gone} any more; if that is a mistake, put it back: offences that were found meanwhile are still acted on"
                    );
                }
                for lost in next.lost_entries(&now) {
                    tracing::warn!("{lost} are gone from the lists; their keys are not watched any more");
                }
                wrong = None;
                now = next.clone();
                reports.refused.send_replace(None);
                reports.changed.send_replace(Arc::new(next));
            }
            Ok(Err(reason)) => {
                if asked || wrong.as_ref() != Some(&reason) {
                    tracing::error!(reason, "the changed lists cannot be used; what was in force stays");
                    reports.refused.send_replace(Some(RejectedConfig { at: (reports.now)(), reason: reason.clone() }));
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
            // The result is `None` only when the runtime shuts down.
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

/// Reads `[watch]` and `[[alerts.routes]]` of the configuration again, with the lists and secrets
/// that they name.
fn reread(source: Option<&Path>, read_config: &ReadConfig, old: &ActiveConfig) -> Result<ActiveConfig, String> {
    let own = stamp_all(source);
    let (watch, alerts) = match source {
        Some(path) => read_config(path)?,
        None => (old.config.clone(), old.alerts.clone()),
    };
    let next = read_named(watch, alerts, own, Some(old))?;
    match next.disarms(old) {
        Some(reason) => Err(reason),
        None => Ok(next),
    }
}

/// Reads the lists and secrets that a configuration names. The configuration itself was just read
/// from `source`.
pub fn read(watch: &WatchConfig, alerts: &AlertsConfig, source: Option<&Path>) -> Result<ActiveConfig, String> {
    read_named(watch.clone(), alerts.clone(), stamp_all(source), None)
}

/// Reads the lists only, without alert routes.
pub fn read_lists(config: &WatchConfig) -> Result<ActiveConfig, String> {
    read_named(config.clone(), AlertsConfig::default(), Vec::new(), None)
}

/// `own` is the stamp of the configuration file from before it was read.
fn read_named(
    config: WatchConfig,
    alerts: AlertsConfig,
    own: Vec<Option<Stamp>>,
    old: Option<&ActiveConfig>,
) -> Result<ActiveConfig, String> {
    let seen = Stamps { own, lists: stamp_all(named(&config)), secrets: stamp_all(secrets(&alerts)) };
    let loaded = super::load(&config);
    if !loaded.problems.is_empty() {
        let problems = loaded.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.text));
        return Err(problems.collect::<Vec<_>>().join("\n"));
    }
    // New routes start with new connections. A changed list alone is no reason for that.
    let kept = old.filter(|old| old.alerts == alerts && old.seen.secrets == seen.secrets);
    let routes = match kept {
        Some(old) => old.routes.clone(),
        None => alerts::routes(&alerts).map_err(|error| error.to_string())?,
    };
    Ok(ActiveConfig { alerts, routes, seen, ..ActiveConfig::new(config, loaded.list) })
}

/// Properties that show whether a file has changed. The time is that of the last change of any
/// kind, including its permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// Stamps in the order in which the files are named. A missing file has `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stamps {
    /// Stamp of the configuration file.
    own: Vec<Option<Stamp>>,
    lists: Vec<Option<Stamp>>,
    /// Stamps of the files with the secrets of alert routes.
    secrets: Vec<Option<Stamp>>,
}

impl Stamps {
    fn of(source: Option<&Path>, in_force: &ActiveConfig) -> Self {
        let (lists, secrets) = (stamp_all(named(&in_force.config)), stamp_all(secrets(&in_force.alerts)));
        Self { own: stamp_all(source), lists, secrets }
    }
}

async fn stamps_of(source: Option<PathBuf>, in_force: ActiveConfig) -> Stamps {
    tokio::task::spawn_blocking(move || Stamps::of(source.as_deref(), &in_force)).await.unwrap_or_default()
}

/// The files with the secrets and templates of alert routes.
fn secrets(alerts: &AlertsConfig) -> impl Iterator<Item = &Path> {
    alerts.routes.iter().flat_map(|route| route.files())
}

/// The files whose contents or permissions matter to `[watch]`: the lists, the programs of kill
/// switches, and the secrets that sign their calls.
fn named(config: &WatchConfig) -> impl Iterator<Item = &Path> {
    let switches = || config.groups.iter().filter_map(|group| group.kill_switch.as_ref());
    let lists = config.files.iter().chain(config.entities.iter().map(EntityList::path)).map(PathBuf::as_path);
    lists.chain(switches().flat_map(|switch| switch.files()))
}

fn stamp_all<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<Option<Stamp>> {
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

    /// The two sections of a configuration file.
    #[derive(serde::Deserialize)]
    struct Sections {
        #[serde(default)]
        watch: WatchConfig,
        #[serde(default)]
        alerts: AlertsConfig,
    }

    fn reads() -> ReadConfig {
        Arc::new(read_config)
    }

    fn read_config(path: &Path) -> Result<(WatchConfig, AlertsConfig), String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let Sections { mut watch, mut alerts } = toml::from_str(&text).map_err(|error| error.to_string())?;
        watch.anchor(path.parent().unwrap());
        alerts.anchor(path.parent().unwrap());
        let mut problems = Vec::new();
        watch.problems(&mut problems);
        alerts.problems(&mut problems);
        problems.first().map_or(Ok((watch, alerts)), |problem| Err(format!("{}: {}", problem.path, problem.text)))
    }

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

        fn read(&self) -> ActiveConfig {
            let (watch, alerts) = read_config(&self.source).unwrap();
            read(&watch, &alerts, Some(&self.source)).unwrap()
        }

        /// Starts to follow from `read`, and returns what is in use as soon as `wanted` accepts it.
        async fn follow_until(&self, read: ActiveConfig, wanted: impl Fn(&ActiveConfig) -> bool) -> Arc<ActiveConfig> {
            let (changed, mut seen) = watch::channel(Arc::new(read.clone()));
            let cancel = CancellationToken::new();
            let reports = ReloadReports { changed, refused: watch::channel(None).0, now: || Time::default() };
            let task =
                tokio::spawn(follow(Some(self.source.clone()), Arc::new(read_config), read, None, reports, cancel.clone()));
            let now = tokio::time::timeout(PATIENCE, seen.wait_for(|now| wanted(now))).await.expect("seen in time");
            let now = now.unwrap().clone();
            cancel.cancel();
            task.await.unwrap();
            now
        }
    }

    fn n_entries(in_force: &ActiveConfig) -> usize {
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

    /// A prefix of a configuration is one too. This file grows at each look, until it is whole.
    #[tokio::test]
    async fn a_file_that_is_still_being_written_is_not_read() {
        let stage = Stage::new("files = [\"keys.csv\"]\n");
        stage.file("keys.csv", "group,key\nacme,1\n");
        let read = stage.read();
        let (changed, mut seen) = watch::channel(Arc::new(read.clone()));
        let cancel = CancellationToken::new();
        let parsed = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = parsed.clone();
        let counting: ReadConfig = Arc::new(move |path| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            read_config(path)
        });
        let reports = ReloadReports { changed, refused: watch::channel(None).0, now: || Time::default() };
        let task = tokio::spawn(follow(Some(stage.source.clone()), counting, read, None, reports, cancel.clone()));
        let started = std::time::Instant::now();
        let mut keys = "group,key\n".to_owned();
        // Written faster than it is looked at, so that no two looks find the same file.
        for key in 0.. {
            keys.push_str(&format!("acme,{key}\n"));
            stage.file("keys.csv", &keys);
            if started.elapsed() > Duration::from_millis(200) {
                break;
            }
            tokio::task::yield_now().await;
        }
        let n = keys.lines().count() - 1;
        assert_eq!(parsed.load(std::sync::atomic::Ordering::Relaxed), 0, "half of a file was read");
        tokio::time::timeout(PATIENCE, seen.wait_for(|now| n_entries(now) == n)).await.expect("seen in time").unwrap();
        cancel.cancel();
        task.await.unwrap();
    }

    #[test]
    fn what_a_change_takes_away_is_named() {
        let stop = "kill_switch = { command = [\"/bin/true\"] }";
        let stage = Stage::new(&format!(
            "[[watch.groups]]\nname = \"acme\"\nkeys = [\"1\"]\n{stop}\n\
             [[alerts.routes]]\nname = \"ops\"\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"ops.secret\"\n"
        ));
        stage.file("ops.secret", "hunter2");
        let before = stage.read();
        stage.configure("[[watch.groups]]\nname = \"acme\"\nkeys = [\"1\"]\n");
        let after = stage.read();
        assert_eq!(after.lacks(&before), ["kill switch of group \"acme\"", "alert route \"ops\""]);
        assert_eq!(before.lacks(&after), Vec::<String>::new());
    }

    /// An export that fails leaves a file behind that has only its first line.
    #[test]
    fn a_list_without_a_key_disarms_no_kill_switch() {
        let groups = "[[watch.groups]]\nname = \"acme\"\nkill_switch = { command = [\"/bin/true\"] }\n";
        let stage = Stage::new(&format!("files = [\"keys.csv\"]\n{groups}"));
        stage.file("keys.csv", "group,key\nacme,1\nacme,2\nblue,3\n");
        let before = stage.read();
        stage.file("keys.csv", "group,key\nblue,3\n");
        let refused = reread(Some(&stage.source), &reads(), &before).expect_err("acme has no key");
        assert!(refused.contains("group \"acme\" has a kill switch and not one key"), "{refused}");
        stage.file("keys.csv", "group,key\nacme,1\n");
        let after = reread(Some(&stage.source), &reads(), &before).unwrap();
        assert_eq!(after.lost_entries(&before), ["1 of 2 entries of group \"acme\"", "1 of 1 entries of group \"blue\""]);
    }

    #[tokio::test]
    async fn what_was_wrong_is_tried_again_once_it_is_mended_elsewhere() {
        let stage = Stage::new("");
        let stop = stage.file("stop.sh", "#!/bin/sh\n");
        let read = stage.read();
        stage
            .configure(&format!("[[watch.groups]]\nname = \"acme\"\nkeys = [\"1\"]\nkill_switch = {{ command = [{stop:?}] }}\n"));
        reread(Some(&stage.source), &reads(), &read).expect_err("it is not executable yet");
        let mend = async {
            // The pause lets the follower notice the problem first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::fs::set_permissions(&stop, std::fs::Permissions::from_mode(0o700)).unwrap();
        };
        let (now, ()) = tokio::join!(stage.follow_until(read, |now| n_entries(now) == 1), mend);
        assert!(now.config.groups[0].kill_switch.is_some());
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_told_until_it_is_mended() {
        let stage = Stage::new("files = [\"keys.csv\"]\n");
        stage.file("keys.csv", "group,key\nacme,1\n");
        let read = stage.read();
        let (changed, _in_force) = watch::channel(Arc::new(read.clone()));
        let (refused, mut rejections) = watch::channel(None);
        let cancel = CancellationToken::new();
        stage.file("keys.csv", "group,key\nacme,zebra\n");
        let task = tokio::spawn(follow(
            Some(stage.source.clone()),
            reads(),
            read,
            None,
            ReloadReports { changed, refused, now: || Time::default() },
            cancel.clone(),
        ));
        let notice = {
            let rejection =
                tokio::time::timeout(PATIENCE, rejections.wait_for(Option::is_some)).await.expect("seen in time").unwrap();
            rejection.as_ref().map(|refused| (refused.notice(), refused.notice_without_reason())).unwrap()
        };
        assert!(notice.0.contains("line 2") && notice.0.contains("what was in force stays"), "{notice:?}");
        assert!(!notice.1.contains("acme") && !notice.1.contains("keys.csv"), "{notice:?}");
        stage.file("keys.csv", "group,key\nacme,2\n");
        tokio::time::timeout(PATIENCE, rejections.wait_for(Option::is_none)).await.expect("mended in time").unwrap();
        cancel.cancel();
        task.await.unwrap();
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
        let now = || Stamps::of(Some(&stage.source), &read);
        assert_eq!(now(), read.seen);
        stage.file("secret", "hunter22");
        assert_ne!(now(), read.seen);
    }

    /// Changed routes are taken over like lists. Unchanged routes stay the same value, with their
    /// connections.
    #[tokio::test]
    async fn changed_routes_and_secrets_are_taken_over_and_a_changed_list_leaves_routes_alone() {
        let stage = Stage::new("files = [\"keys.csv\"]\n");
        stage.file("keys.csv", "group,key\nacme,1\n");
        stage.file("ops.secret", "hunter2");
        let read = stage.read();
        assert!(read.routes.is_empty());
        let route = |name: &str| {
            format!("[[alerts.routes]]\nname = {name:?}\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"ops.secret\"\n")
        };
        stage.configure(&format!("files = [\"keys.csv\"]\n{}", route("ops")));
        let with_route = stage.follow_until(read, |now| now.routes.get("ops").is_ok()).await;
        stage.file("keys.csv", "group,key\nacme,1\nacme,2\n");
        let with_list = stage.follow_until((*with_route).clone(), |now| n_entries(now) == 2).await;
        assert!(with_list.routes.are(&with_route.routes));
        stage.file("ops.secret", "hunter22");
        let changed = stage.follow_until((*with_list).clone(), |now| !now.routes.are(&with_list.routes)).await;
        assert!(changed.routes.get("ops").is_ok());
        stage.configure(&format!("files = [\"keys.csv\"]\n{}", route("pager")));
        let renamed = stage.follow_until((*changed).clone(), |now| now.routes.get("pager").is_ok()).await;
        assert!(renamed.routes.get("ops").is_err());
        // An empty secret is refused and changes nothing.
        stage.file("ops.secret", "");
        assert!(reread(Some(&stage.source), &reads(), &renamed).unwrap_err().contains("is empty"));
    }

    #[test]
    fn labels_are_public_if_lists_of_others_give_them_and_groups_do_not_use_their_name() {
        let stage = Stage::new("files = [\"keys.csv\"]\nentities = [\"entities.csv\"]\n");
        stage.file("keys.csv", "group,key,operator,cluster\nacme,1,acme,eu-1\n");
        stage.file("entities.csv", "key,operator,pool\n2,acme,one\n3,blue,two\n");
        let read = stage.read();
        for (label, is_private) in [
            ("group=acme", true),
            ("group=gone", true),
            ("cluster=eu-1", true),
            // Of key 50 alone by the list, but a reader who compares would see the group's keys.
            ("operator=acme", true),
            ("operator=blue", true),
            ("pool=one", false),
            ("pool=two", false),
            // Perhaps of a group that is not there any more.
            ("pool=gone", true),
        ] {
            assert_eq!(read.is_private(label), is_private, "{label}");
        }
    }
}
