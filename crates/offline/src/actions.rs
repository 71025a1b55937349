//! The commands that test alert routes and kill switches, and that make a kill switch ready again.

use crate::switch_members::group_pubkeys;
use actions::alerts;
use actions::killswitch::{self, AfterStop, KillSwitchState, rearm};
use actions::lists::reload;
use alert::{Context, NetworkName};
use consensus::Network;
use evidence::{Kind, Store};
use std::path::Path;
use watcher::WatcherError;
use watcher::bootstrap::{self, Endpoints};
use watcher::config::Config;
use watcher::datadir::{self, DataDir, DataDirError};
use watcher::run::{now, runtime};

/// Sends a test message to a route and returns a text that says what happened.
pub fn test_alert(config: &Config, route: &str) -> Result<String, WatcherError> {
    let routes = alerts::routes(&config.alerts)?;
    Ok(runtime()?.block_on(async {
        let network = name_before_start(config).await;
        let context = Context { network, public_url: config.api.public_url.clone(), ..Context::default() };
        alerts::test(&routes.about(context), route, now()).await
    })?)
}

/// Returns the messages that a route would send about a kind, as text and as the body of a request.
/// Without a route only the text, as it is if nothing else is configured.
pub fn preview_alert(config: Option<&Config>, route: Option<&str>, kind: &str) -> Result<String, WatcherError> {
    let kind = Kind::known(kind).ok_or_else(|| {
        let known: Vec<String> = Kind::all().map(|kind| kind.to_string()).collect();
        WatcherError::Usage(format!("{kind:?} is no kind of finding; there are: {}", known.join(", ")))
    })?;
    let Some((config, route)) = config.zip(route) else {
        let network = NetworkName { name: "hoodi".into(), genesis_validators_root: None };
        return Ok(alert::preview_text(&kind, &Context { network, ..Context::default() }));
    };
    let routes = alerts::routes(&config.alerts)?;
    let route = routes.get(route).map_err(|error| WatcherError::Usage(error.to_string()))?;
    let network = runtime()?.block_on(name_before_start(config));
    Ok(route.preview(&kind, &Context { network, public_url: config.api.public_url.clone(), ..Context::default() }))
}

/// Orders a group's kill switch as a test and returns a text that says what happened.
pub fn test_switch(config: &Config, group: &str) -> Result<String, WatcherError> {
    let in_force = reload::read_lists(&config.watch).map_err(WatcherError::Usage)?;
    let has_switch = config.watch.groups.iter().any(|known| known.name == group && known.kill_switch.is_some());
    if has_switch && in_force.list.n_entries_of(group) == 0 {
        return Err(WatcherError::Usage(format!(
            "group {group:?} has a kill switch and no keys, so nothing fires it: name its keys under `watch.groups` or in a file of `watch.files`"
        )));
    }
    let keys = group_pubkeys(config, &in_force, group);
    Ok(runtime()?.block_on(async {
        let network = name_before_start(config).await;
        killswitch::test(&in_force, &network, group, &keys, now()).await
    })?)
}

/// Returns what is recorded of the kill switches of a data directory, a line for each. This also
/// works while a watcher holds it.
pub fn switch_status(data_dir: &Path) -> Result<Vec<String>, WatcherError> {
    let evidence = data_dir.join("evidence");
    if !evidence.is_dir() {
        return Err(DataDirError::NotOne(data_dir.into()).into());
    }
    let state = KillSwitchState::read(&Store::open_read_only(&evidence)?)?;
    let mut lines = Vec::new();
    for (group, fired) in &state.fired {
        lines.push(fired.notice(group));
        lines.extend(fired.result.as_ref().map(|result| format!("  attempt {}: {}", fired.attempts, result.answer)));
    }
    for group in state.known_groups().into_iter().filter(|group| !state.fired.contains_key(*group)) {
        lines.push(match state.armed_again_at.get(group) {
            Some(at) => format!("the kill switch of group {group} was made ready again at {at}"),
            None => format!("the kill switch of group {group} has not fired"),
        });
    }
    lines.extend(state.unconfirmed.iter().map(|(group, unconfirmed)| unconfirmed.notice(group)));
    lines.extend(state.held_back.iter().map(|(group, held)| held.notice(group)));
    if state.fired.is_empty() {
        lines.insert(0, "no kill switch has fired".to_owned());
    }
    Ok(lines)
}

/// What `slashwatch killswitch rearm` was asked for.
pub struct Rearm<'a> {
    pub group: &'a str,
    /// Whether keys that still sign and a lock file that contradicts the record are no obstacle.
    pub is_forced: bool,
    /// The data directory, if it is not that of the configuration.
    pub data_dir: Option<&'a Path>,
    /// Without it, only the groups that the data directory knows can be named, and their lock files
    /// are not known.
    pub config: Option<&'a Config>,
}

impl Rearm<'_> {
    /// Makes a group's kill switch ready to fire again and returns a text that says so. This also
    /// works while a watcher holds the directory.
    ///
    /// # Errors
    ///
    /// The group is not known, its stopped keys still sign, its lock file is there although the
    /// directory knows of no stop, or the directory does not exist. Of these, only an unknown group,
    /// and a directory that was given and does not exist, are errors if it is forced.
    pub fn run(&self) -> Result<String, WatcherError> {
        self.check_config()?;
        let given = self.data_dir.or(self.config.map(|config| config.data_dir.as_path()));
        let data_dir = given.ok_or_else(|| WatcherError::Usage("give --config or --data-dir".to_owned()))?;
        // Without this a mistyped path would make a new directory.
        if !data_dir.is_dir() {
            if self.data_dir.is_some() {
                return Err(DataDirError::NotOne(data_dir.into()).into());
            }
            self.check_record(&KillSwitchState::default(), data_dir)?;
            if !self.is_forced {
                return Err(WatcherError::Failed(format!(
                    "{} does not exist, so no watcher has run with this configuration's data directory. Nothing was changed. Give that of \
                     the watcher, or of the rehearsal, with --data-dir",
                    datadir::absolute(data_dir)
                )));
            }
        }
        let dir = match DataDir::open(data_dir) {
            Ok(dir) => dir,
            Err(DataDirError::InUse(path)) => return self.beside_watcher(&path),
            Err(error) => return Err(error.into()),
        };
        let group = self.group;
        let Some(network) = dir.network()? else {
            self.check_record(&KillSwitchState::default(), data_dir)?;
            return self.unlocked(format!("kill switch of {group} has never fired: the data directory is new"));
        };
        let store = Store::open(&dir.evidence_path(), network.genesis_validators_root)?;
        let before = KillSwitchState::read(&store)?;
        self.check_record(&before, data_dir)?;
        KillSwitchState::rearm(&store, group, now())?;
        self.unlocked(self.reported(&before, Some(&network)))
    }

    /// Asks the watcher that holds the directory. It removes the lock file, because it has written
    /// it.
    fn beside_watcher(&self, path: &Path) -> Result<String, WatcherError> {
        // Readers share this lock. If it can be taken, other readers hold the directory and no
        // watcher does.
        if datadir::lock_for_reading(path).is_ok() {
            return Err(WatcherError::Failed(format!(
                "{} is being read, for example by `slashwatch serve`, so nothing can be written there. Stop the reader and run the command again",
                path.display()
            )));
        }
        let group = self.group;
        let read = || KillSwitchState::read(&Store::open_read_only(&path.join("evidence"))?);
        let before = read()?;
        self.check_record(&before, path)?;
        if !rearm::ask(path, group)? || read()?.fired.contains_key(group) {
            return Err(WatcherError::Failed(format!(
                "the watcher that runs on {} did not make the kill switch of {group} ready: its log gives the reason. If it is of an \
                 earlier version, stop it first",
                path.display()
            )));
        }
        let text = self.reported(&before, datadir::read_network(path).ok().flatten().as_ref());
        // A lock of which the watcher knows nothing it leaves alone.
        if self.is_forced && self.config.is_some() { self.unlocked(text) } else { Ok(text) }
    }

    /// Checks the group against the configuration.
    fn check_config(&self) -> Result<(), WatcherError> {
        let Some(config) = self.config else { return Ok(()) };
        let with_switch = config.watch.groups.iter().filter(|known| known.kill_switch.is_some());
        let known: Vec<&str> = with_switch.map(|known| known.name.as_str()).collect();
        if known.contains(&self.group) {
            return Ok(());
        }
        let there_are = if known.is_empty() { "none has one".to_owned() } else { format!("there are {}", known.join(", ")) };
        Err(WatcherError::Usage(format!(
            "group {:?} has no kill switch in this configuration ({there_are}); give its own with --config, or --data-dir alone",
            self.group
        )))
    }

    /// Checks what the data directory has about the group. Nothing is changed before that.
    fn check_record(&self, before: &KillSwitchState, data_dir: &Path) -> Result<(), WatcherError> {
        let group = self.group;
        let known: Vec<&str> = before.known_groups().into_iter().collect();
        if self.config.is_none() && !known.contains(&group) {
            let there_are =
                if known.is_empty() { "it knows of none".to_owned() } else { format!("it knows {}", known.join(", ")) };
            return Err(WatcherError::Usage(format!(
                "the data directory {} knows no kill switch of a group {group:?} ({there_are}). Check the name and the directory, or give the \
                 watcher's --config",
                data_dir.display()
            )));
        }
        if self.is_forced {
            return Ok(());
        }
        if let Some(lock) = self.config.and_then(|config| killswitch::contradicting_lock(&config.watch, before, group)) {
            return Err(WatcherError::Failed(format!(
                "the lock file {} is there, but the data directory {} knows of no stop of {group}, so this is perhaps not the directory of the \
                 watcher that wrote it. Nothing was changed. Give that directory with --data-dir. If there is none, see with `slashwatch \
                 preflight` that the keys are silent, then add --force, which removes the file",
                lock.display(),
                datadir::absolute(data_dir)
            )));
        }
        match before.signing_notice(group) {
            Some(notice) => Err(WatcherError::Failed(format!(
                "the kill switch of {group} is not made ready, because {notice}. The running watcher notices the silence two epochs later; then run \
                 this command again. If these keys may sign, for example because you have started them yourself, add --force"
            ))),
            None => Ok(()),
        }
    }

    /// What was done. `before` is the state before the change.
    fn reported(&self, before: &KillSwitchState, network: Option<&Network>) -> String {
        let group = self.group;
        let Some(fired) = before.fired.get(group) else { return format!("kill switch of {group} had not fired and is ready") };
        let mut text = format!("kill switch of {group} is ready again; the next offence in the group fires it");
        if fired.after_stop.as_ref().is_some_and(AfterStop::is_undecided) {
            text.push_str(
                ". Whether its keys are silent was not known yet: start no client before `slashwatch preflight` says SAFE",
            );
        } else if let Some(notice) = before.signing_notice(group) {
            text.push_str(&format!(". But {notice}"));
        }
        if let Some(until) = network.and_then(|network| fired.held_back_until(network)) {
            text.push_str(&format!(
                ". Offences signed for slots up to {until}, an epoch after the order, do not fire it: they may be from before the stop"
            ));
        }
        text
    }

    /// Removes the lock file, without a watcher, and adds to the text what became of it.
    fn unlocked(&self, text: String) -> Result<String, WatcherError> {
        let Some(config) = self.config else {
            return Ok(format!(
                "{text}. Without --config its lock file is not known: if it has one, that may still be there, and no client starts until you \
                 remove it"
            ));
        };
        let lock = killswitch::unlock_group(&config.watch, self.group)?;
        Ok(lock.map_or(text.clone(), |lock| format!("{text}; {lock}")))
    }
}

/// Returns the network's name as far as it is known before a start. The sources are the data
/// directory, then the configuration, then a node.
async fn name_before_start(config: &Config) -> NetworkName {
    if let Ok(Some(network)) = datadir::read_network(&config.data_dir) {
        return alerts::name_of(&network);
    }
    let spec = bootstrap::spec_of_config(config).ok().flatten();
    let mut known = NetworkName { name: spec.map(|spec| spec.config_name).unwrap_or_default(), genesis_validators_root: None };
    if let Ok(Endpoints { nodes: Some(nodes), .. }) = Endpoints::new(config) {
        if known.name.is_empty() {
            known.name = nodes.config_spec().await.map(|spec| spec.config_name).unwrap_or_default();
        }
        known.genesis_validators_root = nodes.genesis().await.ok().map(|genesis| genesis.genesis_validators_root);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use actions::config::{GroupConfig, WatchConfig};

    /// Rearms with a configuration.
    fn rearm_switch(config: &Config, group: &str, is_forced: bool) -> Result<String, WatcherError> {
        Rearm { group, is_forced, data_dir: None, config: Some(config) }.run()
    }

    /// Rearms in a data directory alone.
    fn rearm_switch_in(data_dir: &Path, group: &str, is_forced: bool) -> Result<String, WatcherError> {
        Rearm { group, is_forced, data_dir: Some(data_dir), config: None }.run()
    }

    /// A data directory of a network, with what the kill switches have written there.
    fn data_dir(path: &Path, state: &serde_json::Value) {
        let opened = DataDir::open(path).unwrap();
        let spec = consensus::Spec::builtin("mainnet").unwrap();
        let network = consensus::Network { spec, genesis_time: 7, genesis_validators_root: consensus::Root::ZERO };
        opened.bind(&network).unwrap();
        let store = Store::open(&opened.evidence_path(), network.genesis_validators_root).unwrap();
        store.put_checkpoint("killswitches", state.to_string().as_bytes()).unwrap();
    }

    /// A configuration with groups acme and blue, each with a switch and a lock file beside `dir`.
    fn with_locks(dir: &Path) -> Config {
        let group = |name: &str| {
            let lock = dir.join(format!("{name}.lock"));
            toml_group(&format!("name = {name:?}\nkill_switch = {{ command = [\"/bin/true\"], lock_file = {lock:?} }}\n"))
        };
        let watch = WatchConfig { groups: vec![group("acme"), group("blue")], ..WatchConfig::default() };
        Config { data_dir: dir.join("data"), watch, ..Config::default() }
    }

    fn fired(finding: u8) -> serde_json::Value {
        serde_json::json!({
            "finding": consensus::Root::repeat_byte(finding), "kind": "double_vote", "ordered_at": "2021-02-02T20:40:00Z", "attempts": 1,
            "result": {"done": true, "took_ms": 5, "answer": "stopped"}, "after_stop": {"stopped_in": "100", "silent_since": "141"},
        })
    }

    #[test]
    fn a_switch_cannot_be_made_ready_while_the_directory_is_served_and_that_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let spec = consensus::Spec::builtin("mainnet").unwrap();
        let network = consensus::Network { spec, genesis_time: 7, genesis_validators_root: consensus::Root::ZERO };
        let opened = DataDir::open(dir.path()).unwrap();
        opened.bind(&network).unwrap();
        drop(Store::open(&opened.evidence_path(), network.genesis_validators_root).unwrap());
        drop(opened);
        let group: GroupConfig = toml::from_str("name = \"acme\"\nkill_switch = { command = [\"/bin/true\"] }\n").unwrap();
        let watch = WatchConfig { groups: vec![group], ..WatchConfig::default() };
        let config = Config { data_dir: dir.path().to_owned(), watch, ..Config::default() };
        let served = datadir::lock_for_reading(dir.path()).unwrap().unwrap();
        let reported = rearm_switch(&config, "acme", false).unwrap_err().to_string();
        assert!(reported.contains("slashwatch serve") && !reported.contains("the watcher that runs"), "{reported}");
        drop(served);
        assert!(rearm_switch(&config, "acme", false).unwrap().contains("had not fired"));
    }

    #[test]
    fn another_configuration_is_named_as_the_reason() {
        let told = rearm_switch(&Config::default(), "acme", false).unwrap_err().to_string();
        assert!(told.contains("in this configuration (none has one)") && told.contains("--config"), "{told}");
    }

    #[test]
    fn a_preview_needs_no_configuration_and_names_the_kinds() {
        let text = preview_alert(None, None, "slashing_wave").unwrap();
        assert!(text.starts_with("hoodi: slashing wave of 3000 validators\n"), "{text}");
        let told = preview_alert(None, None, "slashing_waves").unwrap_err().to_string();
        assert!(told.contains("double_vote, ") && told.contains("slashing_wave, "), "{told}");
    }

    #[test]
    fn a_lock_goes_with_the_stop_that_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = with_locks(dir.path());
        let lock = dir.path().join("acme.lock");
        std::fs::write(&lock, []).unwrap();
        data_dir(&config.data_dir, &serde_json::json!({"seen": 1, "groups": ["acme", "blue"], "fired": {"acme": fired(3)}}));
        let told = rearm_switch(&config, "acme", false).unwrap();
        assert!(told.contains("acme.lock is removed: start no client before"), "{told}");
        assert!(!lock.exists());
        // It was restored, or could not be removed then. The stop that is over explains it.
        std::fs::write(&lock, format!("{{\"kill_switch\":\"acme\",\"finding\":\"{}\"}}", consensus::Root::repeat_byte(3)))
            .unwrap();
        assert!(rearm_switch(&config, "acme", false).unwrap().contains("acme.lock is removed"));
        assert!(!lock.exists());
    }

    /// The directory is not that of the watcher that wrote the lock. Its keys may sign as we speak.
    #[test]
    fn a_lock_of_a_stop_that_the_directory_does_not_know_stays_unless_it_is_forced() {
        let dir = tempfile::tempdir().unwrap();
        let config = with_locks(dir.path());
        let lock = dir.path().join("acme.lock");
        let refused = |config: &Config| {
            std::fs::write(&lock, b"{\"kill_switch\":\"acme\",\"finding\":\"0x01\"}").unwrap();
            let refused = rearm_switch(config, "acme", false).unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, WatcherError::Failed(_)) && lock.exists(), "{text}");
            let paths = [lock.display().to_string(), config.data_dir.display().to_string(), "--force".to_owned()];
            assert!(paths.iter().all(|path| text.contains(path)), "{text}");
        };
        refused(&config);
        let error = rearm_switch(&config, "blue", false).unwrap_err().to_string();
        assert!(error.contains("does not exist") && !config.data_dir.exists(), "it has no lock: {error}");
        assert!(rearm_switch(&config, "acme", true).unwrap().contains("acme.lock is removed"));
        assert!(!lock.exists());
        for state in [
            serde_json::json!({"seen": 1, "fired": {}}),
            serde_json::json!({"seen": 1, "fired": {"blue": fired(3)}}),
            serde_json::json!({"seen": 1, "fired": {}, "fired_before": {"acme": consensus::Root::repeat_byte(3)}}),
        ] {
            data_dir(&config.data_dir, &state);
            refused(&config);
        }
        assert!(rearm_switch(&config, "acme", true).unwrap().contains("acme.lock is removed"));
    }

    #[test]
    fn a_directory_names_the_groups_that_it_knows_and_no_other_is_made_ready() {
        let dir = tempfile::tempdir().unwrap();
        let config = with_locks(dir.path());
        std::fs::create_dir(&config.data_dir).unwrap();
        let refused = |group: &str| {
            let refused = rearm_switch_in(&config.data_dir, group, true).unwrap_err();
            assert!(matches!(refused, WatcherError::Usage(_)), "{refused}");
            refused.to_string()
        };
        assert!(refused("acme").contains("it knows of none"));
        data_dir(&config.data_dir, &serde_json::json!({"seen": 1, "groups": ["acme"], "fired": {"blue": fired(3)}}));
        let text = refused("nogroup");
        assert!(text.contains("\"nogroup\" (it knows acme, blue)") && text.contains("data"), "{text}");
        assert!(rearm_switch_in(&config.data_dir, "acme", false).unwrap().contains("had not fired"));
        let told = rearm_switch_in(&config.data_dir, "blue", false).unwrap();
        assert!(told.contains("is ready again") && told.contains("its lock file is not known"), "{told}");
        let status = switch_status(&config.data_dir).unwrap();
        assert_eq!(status[..2], ["no kill switch has fired", "the kill switch of group acme has not fired"]);
        assert!(status[2].starts_with("the kill switch of group blue was made ready again at "), "{status:?}");
    }

    /// The directory of the command line counts, and the lock is that of the configuration.
    #[test]
    fn a_directory_that_is_given_overrides_that_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let config = with_locks(dir.path());
        let other = dir.path().join("other");
        data_dir(&other, &serde_json::json!({"seen": 1, "fired": {"acme": fired(3)}}));
        let lock = dir.path().join("acme.lock");
        std::fs::write(&lock, []).unwrap();
        let rearm = |group: &str, name: &str| {
            Rearm { group, is_forced: false, data_dir: Some(&dir.path().join(name)), config: Some(&config) }.run()
        };
        assert!(rearm("nogroup", "other").unwrap_err().to_string().contains("there are acme, blue"));
        assert!(rearm("acme", "typo").is_err() && !dir.path().join("typo").exists());
        let told = rearm("acme", "other").unwrap();
        assert!(told.contains("is ready again") && told.contains("acme.lock is removed") && !lock.exists(), "{told}");
        assert!(!config.data_dir.exists());
    }

    #[test]
    fn a_switch_is_not_made_ready_while_its_keys_still_sign_unless_it_is_forced() {
        let dir = tempfile::tempdir().unwrap();
        let opened = DataDir::open(dir.path()).unwrap();
        let spec = consensus::Spec::builtin("mainnet").unwrap();
        let network = consensus::Network { spec, genesis_time: 7, genesis_validators_root: consensus::Root::ZERO };
        opened.bind(&network).unwrap();
        let evidence = opened.evidence_path();
        drop(opened);
        let write = |after_stop: serde_json::Value| {
            let acme = serde_json::json!({
                "finding": consensus::Root::ZERO, "kind": "double_vote", "ordered_at": "2021-02-02T20:40:00Z", "attempts": 1,
                "result": {"done": true, "took_ms": 5, "answer": "stopped"}, "after_stop": after_stop,
            });
            let state = serde_json::json!({"seen": 1, "fired": {"acme": acme}});
            let store = Store::open(&evidence, network.genesis_validators_root).unwrap();
            store.put_checkpoint("killswitches", state.to_string().as_bytes()).unwrap();
        };
        let signing = serde_json::json!({"since": "133", "last": "140", "keys": ["5", "6"], "n_keys": 2});
        write(serde_json::json!({"stopped_in": "100", "signing": signing, "silent_since": null}));
        let refused = rearm_switch_in(dir.path(), "acme", false).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, WatcherError::Failed(_)) && text.contains("keys 5, 6 still sign since slot 133"), "{text}");
        assert!(text.contains("--force"), "{text}");
        let fired = || KillSwitchState::read(&Store::open_read_only(&evidence).unwrap()).unwrap().fired.contains_key("acme");
        assert!(fired(), "nothing has changed");
        let told = rearm_switch_in(dir.path(), "acme", true).unwrap();
        assert!(told.contains("is ready again") && told.contains("But keys 5, 6 still sign since slot 133"), "{told}");
        assert!(!fired());
        write(serde_json::json!({"stopped_in": "100", "signing": null, "silent_since": null}));
        let told = rearm_switch_in(dir.path(), "acme", false).unwrap();
        assert!(told.contains("is ready again") && told.contains("not known yet"), "{told}");
        // The order is of 2021-02-02T20:40:00Z, and genesis of second 7 of 1970.
        let until = (1_612_298_400 - 7) / 12 + 32;
        assert!(
            told.contains(&format!("Offences signed for slots up to {until}, an epoch after the order, do not fire it")),
            "{told}"
        );
        write(serde_json::json!({"stopped_in": "100", "signing": null, "silent_since": "141"}));
        let told = rearm_switch_in(dir.path(), "acme", false).unwrap();
        assert!(told.contains("is ready again") && !told.contains("not known yet"), "{told}");
    }

    fn toml_group(text: &str) -> GroupConfig {
        toml::from_str(text).unwrap()
    }
}
