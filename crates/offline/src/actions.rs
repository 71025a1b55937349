//! The commands that test alert routes and kill switches, and that make a kill switch ready again.

use actions::alerts;
use actions::killswitch::{self, KillSwitchState, rearm};
use actions::lists::reload;
use alert::{Context, NetworkName};
use evidence::Store;
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

/// Orders a group's kill switch as a test and returns a text that says what happened.
pub fn test_switch(config: &Config, group: &str) -> Result<String, WatcherError> {
    let in_force = reload::read_lists(&config.watch).map_err(WatcherError::Usage)?;
    Ok(runtime()?.block_on(async {
        let network = name_before_start(config).await;
        killswitch::test(&in_force, &network, group, now()).await
    })?)
}

/// Makes a group's kill switch ready to fire again, in the data directory of a configuration.
pub fn rearm_switch(config: &Config, group: &str) -> Result<String, WatcherError> {
    let known = config.watch.groups.iter().any(|known| known.name == group && known.kill_switch.is_some());
    if !known {
        return Err(WatcherError::Usage(format!("group {group:?} has no kill switch; check its name under `watch.groups`")));
    }
    rearm_switch_in(&config.data_dir, group)
}

/// The same in any data directory. This also works while a watcher holds it.
pub fn rearm_switch_in(data_dir: &Path, group: &str) -> Result<String, WatcherError> {
    let reported = |had: bool| match had {
        true => format!("kill switch of {group} is ready again; the next offence in the group fires it"),
        false => format!("kill switch of {group} had not fired and is ready"),
    };
    // Without this a mistyped path would make a new directory.
    if !data_dir.is_dir() {
        return Err(DataDirError::NotOne(data_dir.into()).into());
    }
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
            let had = read()?.fired.contains_key(group);
            if !rearm::ask(&path, group)? || read()?.fired.contains_key(group) {
                return Err(WatcherError::Failed(format!(
                    "the watcher that runs on {} did not make the kill switch of {group} ready: its log gives the reason. If it is of an \
                     earlier version, stop it first",
                    path.display()
                )));
            }
            return Ok(reported(had));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(network) = dir.network()? else {
        return Ok(format!("kill switch of {group} has never fired: the data directory is new"));
    };
    let store = Store::open(&dir.evidence_path(), network.genesis_validators_root)?;
    Ok(reported(KillSwitchState::rearm(&store, group)?))
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
        let reported = rearm_switch(&config, "acme").unwrap_err().to_string();
        assert!(reported.contains("slashwatch serve") && !reported.contains("the watcher that runs"), "{reported}");
        drop(served);
        assert!(rearm_switch(&config, "acme").unwrap().contains("had not fired"));
    }
}
