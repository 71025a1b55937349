//! The commands that test alert routes and kill switches, and that make a kill switch ready again.

use crate::switch_members::group_pubkeys;
use actions::alerts;
use actions::config::WatchConfig;
use actions::killswitch::{self, AfterStop, KillSwitchState, rearm};
use actions::lists::reload;
use alert::{Context, NetworkName};
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
        let context = Context { network, public_url: config.api.public_url.clone(), switches: None };
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
    Ok(route.preview(&kind, &Context { network, public_url: config.api.public_url.clone(), switches: None }))
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
    lines.extend(state.unconfirmed.iter().map(|(group, unconfirmed)| unconfirmed.notice(group)));
    lines.extend(state.held_back.iter().map(|(group, held)| held.notice(group)));
    if lines.is_empty() {
        lines.push("no kill switch has fired".to_owned());
    }
    Ok(lines)
}

/// Makes a group's kill switch ready to fire again, in the data directory of a configuration. While
/// the stopped keys still sign this is refused, unless it is forced.
pub fn rearm_switch(config: &Config, group: &str, is_forced: bool) -> Result<String, WatcherError> {
    let known = config.watch.groups.iter().any(|known| known.name == group && known.kill_switch.is_some());
    if !known {
        let known: Vec<&str> =
            config.watch.groups.iter().filter(|known| known.kill_switch.is_some()).map(|known| known.name.as_str()).collect();
        let there_are = if known.is_empty() { "none has one".to_owned() } else { format!("there are {}", known.join(", ")) };
        return Err(WatcherError::Usage(format!(
            "group {group:?} has no kill switch in this configuration ({there_are}); give its own with --config, or --data-dir"
        )));
    }
    rearm_in(&config.data_dir, group, is_forced, Some(&config.watch))
}

/// The same in any data directory. This also works while a watcher holds it.
pub fn rearm_switch_in(data_dir: &Path, group: &str, is_forced: bool) -> Result<String, WatcherError> {
    rearm_in(data_dir, group, is_forced, None)
}

fn rearm_in(data_dir: &Path, group: &str, is_forced: bool, watch: Option<&WatchConfig>) -> Result<String, WatcherError> {
    // `before` is the state before the change.
    let reported = |before: &KillSwitchState| match before.fired.get(group) {
        Some(fired) if fired.after_stop.as_ref().is_some_and(AfterStop::is_undecided) => format!(
            "kill switch of {group} is ready again; the next offence in the group fires it. Whether its keys are silent was not known yet: \
             start no client before `slashwatch preflight` says SAFE"
        ),
        Some(_) => format!("kill switch of {group} is ready again; the next offence in the group fires it"),
        None => format!("kill switch of {group} had not fired and is ready"),
    };
    let refuse_while_keys_sign = |before: &KillSwitchState| match before.signing_notice(group).filter(|_| !is_forced) {
        Some(notice) => Err(WatcherError::Failed(format!(
            "the kill switch of {group} is not made ready, because {notice}. The running watcher notices the silence two epochs later; then run \
             this command again. If these keys may sign, for example because you have started them yourself, add --force"
        ))),
        None => Ok(()),
    };
    // Without this a mistyped path would make a new directory. That of a configuration may be new.
    if watch.is_none() && !data_dir.is_dir() {
        return Err(DataDirError::NotOne(data_dir.into()).into());
    }
    // Beside a watcher the watcher removes the lock file, because it has written it.
    let unlocked = |text: String| -> Result<String, WatcherError> {
        let Some(watch) = watch else {
            return Ok(format!("{text}; if it has a lock file, that is still there: remove it, or give --config"));
        };
        let lock = killswitch::unlock_group(watch, group)?;
        Ok(lock.map_or(text.clone(), |lock| format!("{text}; {lock}")))
    };
    let dir = match DataDir::open(data_dir) {
        Ok(dir) => dir,
        Err(DataDirError::InUse(path)) => {
            // Readers share this lock. If it can be taken, other readers hold the directory and no
            // watcher does.
            if datadir::lock_for_reading(&path).is_ok() {
                return Err(WatcherError::Failed(format!(
                    "{} is being read, for example by `slashwatch serve`, so nothing can be written there. Stop the reader and run the command again",
                    path.display()
                )));
            }
            let read = || KillSwitchState::read(&Store::open_read_only(&path.join("evidence"))?);
            let before = read()?;
            refuse_while_keys_sign(&before)?;
            if !rearm::ask(&path, group)? || read()?.fired.contains_key(group) {
                return Err(WatcherError::Failed(format!(
                    "the watcher that runs on {} did not make the kill switch of {group} ready: its log gives the reason. If it is of an \
                     earlier version, stop it first",
                    path.display()
                )));
            }
            return Ok(reported(&before));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(network) = dir.network()? else {
        return unlocked(format!("kill switch of {group} has never fired: the data directory is new"));
    };
    let store = Store::open(&dir.evidence_path(), network.genesis_validators_root)?;
    let before = KillSwitchState::read(&store)?;
    refuse_while_keys_sign(&before)?;
    KillSwitchState::rearm(&store, group, now())?;
    unlocked(reported(&before))
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
    fn a_lock_goes_when_a_switch_is_made_ready_without_a_watcher() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("acme.lock");
        std::fs::write(&lock, []).unwrap();
        let text = format!("name = \"acme\"\nkill_switch = {{ command = [\"/bin/true\"], lock_file = {lock:?} }}\n");
        let watch = WatchConfig { groups: vec![toml_group(&text)], ..WatchConfig::default() };
        let config = Config { data_dir: dir.path().join("data"), watch, ..Config::default() };
        assert!(rearm_switch(&config, "acme", false).unwrap().contains("is removed, clients may start"));
        assert!(!lock.exists());
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
        assert!(rearm_switch_in(dir.path(), "acme", true).unwrap().contains("is ready again"));
        assert!(!fired());
        write(serde_json::json!({"stopped_in": "100", "signing": null, "silent_since": null}));
        let told = rearm_switch_in(dir.path(), "acme", false).unwrap();
        assert!(told.contains("is ready again") && told.contains("not known yet"), "{told}");
        write(serde_json::json!({"stopped_in": "100", "signing": null, "silent_since": "141"}));
        let told = rearm_switch_in(dir.path(), "acme", false).unwrap();
        assert!(told.contains("is ready again") && !told.contains("not known yet"), "{told}");
    }

    fn toml_group(text: &str) -> GroupConfig {
        toml::from_str(text).unwrap()
    }
}
