//! What `config check` says about the lists of keys, beyond whether they can be read: routes that
//! would stay silent, kill switches that protect nobody, and public keys that are none.

use actions::lists::reload;
use consensus::PubkeyBytes;
use detect::watch::{Label, Selector, WatchList};
use std::collections::BTreeSet;
use watcher::WatcherError;
use watcher::config::Config;

/// Maximum number of public keys that are checked. One takes 62 us.
const MAX_CHECKED: usize = 50_000;
/// Maximum number of names or keys in one line.
const NAMED: usize = 8;

/// Returns lines about routes and kill switches without keys.
///
/// # Errors
/// A list has public keys that are no points of the curve, so no validator can have them.
pub fn list_notes(config: &Config) -> Result<Vec<String>, WatcherError> {
    // A list that cannot be read was refused with the configuration.
    let Ok(active) = reload::read_lists(&config.watch) else { return Ok(Vec::new()) };
    let list = &active.list;
    let groups: BTreeSet<&str> = list.entries().iter().filter_map(|entry| entry.group.as_deref()).collect();
    let mut lines = Vec::new();
    for (nth, route) in config.alerts.routes.iter().enumerate() {
        let silent: Vec<&String> = route.labels.iter().filter(|label| !has_label(list, label)).collect();
        if !silent.is_empty() {
            lines.push(format!(
                "warning: alerts.routes[{nth}].labels: no key has the label {}{}, so route {} {}; {}",
                silent[0],
                if silent.len() > 1 { " and others of the list" } else { "" },
                route.name,
                if silent.len() == route.labels.len() { "stays silent" } else { "receives nothing of it" },
                groups_with_keys(&groups),
            ));
        }
    }
    for (nth, group) in config.watch.groups.iter().enumerate() {
        if group.kill_switch.is_some() && !groups.contains(group.name.as_str()) {
            lines.push(format!(
                "warning: watch.groups[{nth}]: group {} has a kill switch and no key, so the switch protects nobody; {}",
                group.name,
                groups_with_keys(&groups),
            ));
        }
    }
    let pubkeys = || {
        list.entries().iter().filter_map(|entry| match &entry.selector {
            Selector::Pubkey(pubkey) => Some((entry.group.as_deref(), pubkey)),
            _ => None,
        })
    };
    let wrong: Vec<String> = pubkeys().take(MAX_CHECKED).filter(|(_, key)| !chain::is_public_key(key)).map(told).collect();
    if !wrong.is_empty() {
        let more = if wrong.len() > NAMED { ", .." } else { "" };
        return Err(WatcherError::Usage(format!(
            "{} public keys under [watch] are none: no validator can have them, so they protect nobody; correct them: {}{more}",
            wrong.len(),
            wrong[..wrong.len().min(NAMED)].join(", ")
        )));
    }
    if pubkeys().count() > MAX_CHECKED {
        lines.push(format!("the first {MAX_CHECKED} public keys were checked"));
    }
    Ok(lines)
}

fn told((group, key): (Option<&str>, &PubkeyBytes)) -> String {
    match group {
        Some(group) => format!("{key} (group {group})"),
        None => key.to_string(),
    }
}

fn has_label(list: &WatchList, label: &str) -> bool {
    let Ok(label) = label.parse::<Label>() else { return false };
    let text = label.to_string();
    let group = text.strip_prefix("group=");
    list.entries().iter().any(|entry| match group {
        Some(group) => entry.group.as_deref() == Some(group),
        None => entry.labels.contains(&label),
    })
}

fn groups_with_keys(groups: &BTreeSet<&str>) -> String {
    if groups.is_empty() {
        return "no group has keys".to_owned();
    }
    let more = if groups.len() > NAMED { ", .." } else { "" };
    format!("groups with keys: {}{more}", groups.iter().take(NAMED).copied().collect::<Vec<_>>().join(", "))
}
