//! Makes the kill switches of a configuration, and tests one of them.

use super::members::{MemberSet, Named};
use super::rules::ConfiguredSwitch;
use crate::error::ActionError;
use crate::lists::reload::ActiveConfig;
use alert::NetworkName;
use alert::killswitch::KillSwitch;
use base::error_chain;
use consensus::{Epoch, ForkName, Offence, PubkeyBytes, Root, Slot};
use detect::watch::Label;
use evidence::{Evidence, EvidenceKind, Finding, OffenceFacts, Punishable, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Limit on the labels of a group that a finding about its switch has.
const MAX_LABELS: usize = 64;

/// Makes the switches of all groups that have one, by group. What clients hand over is kept in
/// `folder`.
pub(super) fn configured_switches(
    active: &ActiveConfig,
    network: &NetworkName,
    folder: Option<&Path>,
) -> Result<BTreeMap<String, ConfiguredSwitch>, ActionError> {
    let mut switches = BTreeMap::new();
    for group in &active.config.groups {
        let Some(config) = &group.kill_switch else { continue };
        let usage = |error: alert::AlertError| {
            ActionError::Usage(format!("kill switch of group {:?}: {}", group.name, error_chain(&error)))
        };
        let parts = config
            .parts(&group.name)
            .map_err(|text| ActionError::Usage(format!("kill switch of group {:?}: {text}", group.name)))?;
        let mut switch = KillSwitch::new(parts).map_err(usage)?.about(network.clone());
        if let Some(folder) = folder {
            switch = switch.keeping_in(folder);
        }
        let switch = Arc::new(switch);
        let entries = active.list.entries();
        let ours = || entries.iter().filter(|entry| entry.group.as_deref() == Some(group.name.as_str()));
        let is_kin = |label: &&Label| active.config.kin_labels.contains(&label.key);
        let kin_labels: BTreeSet<&Label> = ours().flat_map(|entry| entry.labels.iter()).filter(is_kin).collect();
        // Whoever publishes a list must not decide whose offence stops our keys.
        let local = entries.iter().filter(|entry| !entry.is_published);
        let kin = local.filter(|entry| entry.labels.iter().any(|label| kin_labels.contains(label)));
        let group_label = format!("{}={}", Label::GROUP, group.name);
        let other_labels: BTreeSet<String> = ours().flat_map(|entry| entry.labels.iter()).map(ToString::to_string).collect();
        let labels = std::iter::once(group_label.clone()).chain(other_labels).take(MAX_LABELS).collect();
        let members = config.members;
        let own = MemberSet { named: Named::of(ours()), labels: BTreeSet::from([group_label]), members };
        let kin = MemberSet { named: Named::of(kin), labels: kin_labels.iter().map(ToString::to_string).collect(), members };
        switches.insert(
            group.name.clone(),
            ConfiguredSwitch {
                switch,
                labels,
                second_check: config.second_check,
                lock_file: config.lock_file.clone(),
                on: config.on.clone(),
                max_age_epochs: config.max_age_epochs,
                own,
                kin,
            },
        );
    }
    Ok(switches)
}

/// Makes a double vote of a key of the group for a test order. Its id belongs to no real finding,
/// and its proof is empty.
fn test_finding(configured: &ConfiguredSwitch, group: &str, now: Time) -> Finding {
    let evidence = Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, Vec::new(), serde_json::json!({}));
    let (index, pubkey) = configured.own.named.first();
    let facts = OffenceFacts {
        genesis_validators_root: Root::ZERO,
        offence: Offence::DoubleVote,
        roots: [Root::ZERO; 2],
        slot: Slot::new(1),
        epoch: Epoch::new(0),
        sources: vec!["gossip".into()],
        fork: ForkName::Fulu,
        punishable: Punishable::Yes,
        validator: index.unwrap_or_default(),
        pubkey: pubkey.unwrap_or_default(),
        labels: vec![format!("{}={group}", Label::GROUP)],
        seen: [now; 2],
        recorded_at: now,
    };
    Finding::slashable(facts, &evidence)
}

/// Orders a group's switch as a test and returns what was answered. `keys` are the public keys of
/// the group, as far as they are known.
pub async fn test(
    active: &ActiveConfig,
    network: &NetworkName,
    group: &str,
    keys: &[PubkeyBytes],
    now: Time,
) -> Result<String, ActionError> {
    let switches = configured_switches(active, network, None)?;
    let Some(configured) = switches.get(group) else {
        let known: Vec<&str> = switches.keys().map(String::as_str).collect();
        return Err(ActionError::Usage(format!(
            "group {group:?} has no kill switch; there are: {}. Add `kill_switch` to the group under `watch.groups`",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    };
    let report = configured.switch.test(&test_finding(configured, group, now), keys, now).await;
    match report.result {
        Ok(answer) => Ok(format!("kill switch of {group} took {:.0?}: {answer}", report.took)),
        Err(reason) => Err(ActionError::Failed(format!(
            "kill switch of {group} failed after {:.0?}: {reason}. As it is, an offence would not stop everything: correct it and test again",
            report.took
        ))),
    }
}
