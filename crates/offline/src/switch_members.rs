//! Lists the validators of groups with a kill switch whose offence could not fire it, because the
//! validator is slashed or has left. `config check` and `killswitch test` print the lists, so that
//! nobody relies on a switch for keys that it does not protect.
//!
//! The sources are, in this order, the state of `network.state`, the last state in the data
//! directory, and the nodes. A state is read from its bytes without checking its public keys,
//! because they are only compared and never used.

use actions::lists::reload::{self, ActiveConfig};
use consensus::state::{StateView, fork_of_state};
use consensus::{Epoch, Network, PubkeyBytes, Validator, ValidatorIndex};
use detect::watch::{Entry, Selector};
use std::collections::{BTreeMap, BTreeSet};
use watcher::bootstrap::{self, Endpoints};
use watcher::clock;
use watcher::config::Config;
use watcher::datadir;

/// Maximum number of members in one line.
const NAMED: usize = 20;
/// Maximum number of members that a node is asked about.
const MAX_ASKED: usize = 4096;

/// State of one validator in a registry.
struct MemberState {
    index: ValidatorIndex,
    slashed: bool,
    is_withdrawable: bool,
}

/// Returns lines about the members of groups with kill switches that the switch does not protect.
/// There are none without such a group. If `group` is given, only that group is listed.
pub fn unprotected_members(config: &Config, group: Option<&str>) -> Vec<String> {
    let switched = |name: &str| {
        let has = config.watch.groups.iter().any(|known| known.name == name && known.kill_switch.is_some());
        has && group.is_none_or(|wanted| wanted == name)
    };
    let Ok(active) = reload::read_lists(&config.watch) else { return Vec::new() };
    let groups: Vec<&str> = active.list.groups().map(|name| &**name).filter(|name| switched(name)).collect();
    if groups.is_empty() {
        return Vec::new();
    }
    let known = match local_state(config) {
        Ok(Some((network, ssz))) => of_state(&network, &ssz, &active, &groups),
        Ok(None) => of_nodes(config, &active, &groups),
        Err(reason) => Err(reason),
    };
    let (source, rows) = match known {
        Ok(known) => known,
        Err(reason) => {
            return vec![format!(
                "it is not known whether members of groups with a kill switch are slashed or withdrawable: {reason}"
            )];
        }
    };
    let mut lines = Vec::new();
    for name in groups {
        let members: Vec<&MemberState> = rows.iter().filter(|(group, _)| *group == name).map(|(_, member)| member).collect();
        let list = |wanted: &dyn Fn(&MemberState) -> bool| -> Vec<String> {
            members.iter().filter(|one| wanted(one)).map(|one| one.index.to_string()).collect()
        };
        let slashed = list(&|one| one.slashed);
        let withdrawable = list(&|one| one.is_withdrawable && !one.slashed);
        for (what, who) in [("slashed", slashed), ("withdrawable", withdrawable)] {
            if !who.is_empty() {
                let more = if who.len() > NAMED { ", .." } else { "" };
                lines.push(format!(
                    "group {name}: {} of {} known members are {what}, and their offences do not fire the kill switch ({source}): {}{more}",
                    who.len(),
                    members.len(),
                    who[..who.len().min(NAMED)].join(", ")
                ));
            }
        }
        if members.is_empty() {
            lines.push(format!("group {name}: none of its keys is known as a validator ({source})"));
        }
    }
    lines
}

/// The public keys of a group, as far as they are known before a start: those that its entries
/// name, and those of its other members by the last state or the nodes.
pub fn group_pubkeys(config: &Config, active: &ActiveConfig, group: &str) -> Vec<PubkeyBytes> {
    let members = GroupSelectors::of(active.list.entries(), group);
    let mut keys = members.pubkeys.clone();
    match local_state(config) {
        Ok(Some((network, ssz))) => {
            if let Ok(view) = parse(&network.spec, &ssz) {
                let all = (0u64..).map(ValidatorIndex::new).zip(view.validators());
                keys.extend(all.filter(|(index, one)| members.have(*index, one)).map(|(_, one)| one.pubkey));
            }
        }
        Ok(None) | Err(_) => {
            let asked: Vec<ValidatorIndex> = members.indices(MAX_ASKED).collect();
            let nodes = Endpoints::new(config).ok().and_then(|endpoints| endpoints.nodes).filter(|_| !asked.is_empty());
            if let Some((nodes, runtime)) = nodes.zip(watcher::run::runtime().ok()) {
                let statuses = runtime.block_on(nodes.validator_statuses(&asked)).unwrap_or_default();
                keys.extend(statuses.into_iter().map(|status| status.validator.pubkey));
            }
        }
    }
    keys.into_iter().collect()
}

type MemberStates<'a> = (String, Vec<(&'a str, MemberState)>);

fn local_state(config: &Config) -> Result<Option<(Network, Vec<u8>)>, String> {
    let of_dir = datadir::read_network(&config.data_dir).map_err(|error| error.to_string())?;
    let last = config.data_dir.join("state.ssz");
    let path = match &config.network.state {
        Some(path) => path.clone(),
        None if last.is_file() => last,
        None => return Ok(None),
    };
    let spec = bootstrap::spec_of_config(config).map_err(|error| error.to_string())?;
    let Some(spec) = spec.or_else(|| of_dir.as_ref().map(|network| network.spec.clone())) else { return Ok(None) };
    let ssz = bootstrap::read_state(&path).map_err(|error| error.to_string())?;
    let view = parse(&spec, &ssz)?;
    let (genesis_time, genesis_validators_root) = (view.genesis_time(), view.genesis_validators_root());
    Ok(Some((Network { spec, genesis_time, genesis_validators_root }, ssz)))
}

fn parse<'a>(spec: &consensus::Spec, ssz: &'a [u8]) -> Result<StateView<'a>, String> {
    let fork = fork_of_state(spec, ssz).map_err(|error| error.to_string())?;
    StateView::parse(fork, &spec.preset, ssz).map_err(|error| error.to_string())
}

fn of_state<'a>(network: &Network, ssz: &[u8], active: &ActiveConfig, groups: &[&'a str]) -> Result<MemberStates<'a>, String> {
    let view = parse(&network.spec, ssz)?;
    let now = network.slot_at(clock::now().0).max(view.slot()).epoch(network.preset());
    let mut rows = Vec::new();
    for name in groups {
        let members = GroupSelectors::of(active.list.entries(), name);
        let all = (0u64..).map(ValidatorIndex::new).zip(view.validators());
        rows.extend(
            all.filter(|(index, one)| members.have(*index, one)).map(|(index, one)| (*name, member_state(index, &one, now))),
        );
    }
    Ok((format!("by the state of slot {}", view.slot()), rows))
}

fn member_state(index: ValidatorIndex, validator: &Validator, now: Epoch) -> MemberState {
    // An exited validator can be slashed until it is withdrawable.
    MemberState { index, slashed: validator.slashed, is_withdrawable: validator.withdrawable_epoch <= now }
}

/// Asks the nodes. Only members that are named by index can be asked about.
fn of_nodes<'a>(config: &Config, active: &ActiveConfig, groups: &[&'a str]) -> Result<MemberStates<'a>, String> {
    let nodes = Endpoints::new(config).map_err(|error| error.to_string())?.nodes;
    let Some(nodes) = nodes else {
        return Err("there is no state and no node; it is known after the first start, or with `network.state`".into());
    };
    let (groups_of, left_out) = members_to_ask_about(active.list.entries(), groups);
    let asked: Vec<ValidatorIndex> = groups_of.keys().copied().collect();
    let runtime = watcher::run::runtime().map_err(|error| error.to_string())?;
    let statuses = runtime.block_on(nodes.validator_statuses(&asked)).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for status in statuses {
        let is_withdrawable = status.status.starts_with("withdrawal");
        for name in groups_of.get(&status.index).into_iter().flatten() {
            rows.push((*name, MemberState { index: status.index, slashed: status.validator.slashed, is_withdrawable }));
        }
    }
    let mut source = "by a node; only members that are named by index are known".to_owned();
    if left_out > 0 {
        source += &format!(", and of these the first {MAX_ASKED}; {left_out} more were not asked about");
    }
    Ok((source, rows))
}

/// Returns the groups of the first [`MAX_ASKED`] members that are named by index, and the number of
/// indices that are left out. An index that is named twice may be counted twice.
fn members_to_ask_about<'a>(entries: &[Entry], groups: &[&'a str]) -> (BTreeMap<ValidatorIndex, Vec<&'a str>>, u64) {
    let (mut groups_of, mut left_out) = (BTreeMap::<ValidatorIndex, Vec<&str>>::new(), 0u64);
    for name in groups {
        let members = GroupSelectors::of(entries, name);
        left_out = left_out.saturating_add(members.n_indices().saturating_sub(MAX_ASKED as u64));
        for index in members.indices(MAX_ASKED) {
            groups_of.entry(index).or_default().push(name);
        }
        while groups_of.len() > MAX_ASKED {
            groups_of.pop_last();
            left_out = left_out.saturating_add(1);
        }
    }
    (groups_of, left_out)
}

/// The validators that a group's entries name. Those with a fee recipient are not included, because
/// only blocks contain it.
#[derive(Default)]
struct GroupSelectors {
    ranges: Vec<(u64, u64)>,
    pubkeys: BTreeSet<PubkeyBytes>,
    credentials: BTreeSet<consensus::Root>,
}

impl GroupSelectors {
    fn of(entries: &[Entry], group: &str) -> Self {
        let mut members = Self::default();
        for entry in entries.iter().filter(|entry| entry.group.as_deref() == Some(group)) {
            match &entry.selector {
                Selector::Index(index) => members.ranges.push((index.as_u64(), index.as_u64())),
                Selector::Range { first, last } => members.ranges.push((first.as_u64(), last.as_u64())),
                Selector::Pubkey(pubkey) => members.pubkeys.extend([*pubkey]),
                Selector::WithdrawalCredentials(credentials) => members.credentials.extend([*credentials]),
                Selector::FeeRecipient(_) => {}
            }
        }
        members
    }

    fn have(&self, index: ValidatorIndex, validator: &Validator) -> bool {
        let index = index.as_u64();
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&index))
            || self.pubkeys.contains(&validator.pubkey)
            || self.credentials.contains(&validator.withdrawal_credentials)
    }

    fn n_indices(&self) -> u64 {
        let n = |(first, last): &(u64, u64)| last.saturating_sub(*first).saturating_add(1);
        self.ranges.iter().map(n).fold(0, u64::saturating_add)
    }

    fn indices(&self, most: usize) -> impl Iterator<Item = ValidatorIndex> {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last).take(most).map(ValidatorIndex::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use detect::watch::{Duty, WatchList};

    #[test]
    fn members_beyond_the_limit_are_counted() {
        let mut list = WatchList::default();
        for (group, first, last) in [("a", 10, 5_009), ("b", 0, 9), ("c", 5_000, u64::MAX)] {
            list.add_group(group).unwrap();
            let range = Selector::Range { first: ValidatorIndex::new(first), last: ValidatorIndex::new(last) };
            list.add(Some(group), range, &[], Duty::Active).unwrap();
        }
        let (asked, left_out) = members_to_ask_about(list.entries(), &["b"]);
        assert_eq!((asked.len(), left_out), (10, 0));
        let (asked, left_out) = members_to_ask_about(list.entries(), &["a", "b"]);
        assert_eq!((asked.len(), left_out), (MAX_ASKED, 5_010 - MAX_ASKED as u64));
        assert_eq!(asked.first_key_value().unwrap().1, &["b"]);
        let (asked, left_out) = members_to_ask_about(list.entries(), &["a", "b", "c"]);
        assert_eq!((asked.len(), left_out), (MAX_ASKED, u64::MAX - 4_085));
    }
}
