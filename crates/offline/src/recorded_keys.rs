//! The operator's groups, for a recording that is served: by the public keys of the recording. What
//! their keys missed is not known, because nothing judges a recording again.

use actions::config::WatchConfig;
use actions::killswitch::KillSwitchState;
use actions::lists::reload;
use api::{
    KeyFilter, KillSwitchView, LabelledValidator, MAX_GROUP_LABELS, SignedView, WatchGroup, WatchPage, WatchSource, WatchedKey,
    index_ranges,
};
use consensus::{Epoch, Gwei, Network, PubkeyBytes, Slot, ValidatorIndex};
use detect::watch::{Duty, Selector, WatchList};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use watcher::{WatcherError, kill_switch_view};

/// Members whose votes are read, at most.
const MAX_ASKED: usize = 4096;

/// A watched key of a recording.
#[derive(Clone, Debug)]
struct RecordedKey {
    pubkey: PubkeyBytes,
    groups: BTreeSet<String>,
    labels: BTreeSet<String>,
    duty: Duty,
}

/// The groups of list files, with the validators of the recording that they name.
#[derive(Debug, Default)]
pub struct RecordedKeys {
    keys: BTreeMap<ValidatorIndex, RecordedKey>,
    /// By group: the number of entries that name no validator of the recording. Withdrawal
    /// credentials and fee recipients are among them, because a recording does not contain these.
    unknown: BTreeMap<String, u64>,
    /// What the recording's watcher recorded of kill switches.
    switches: Option<KillSwitchState>,
    /// By group: what its members have signed, as far as their newest votes tell.
    signed: BTreeMap<String, SignedView>,
}

impl RecordedKeys {
    /// Reads list files as in `watch.files`. `pubkeys` are the recording's, by validator index.
    ///
    /// # Errors
    /// A file cannot be read, or contains something that is no key.
    pub fn read(files: &[PathBuf], pubkeys: &[PubkeyBytes]) -> Result<Self, WatcherError> {
        let Some(first) = files.first() else { return Ok(Self::default()) };
        let config = WatchConfig { files: files.to_vec(), ..WatchConfig::default() };
        Self::of_config(&config, pubkeys).map_err(|reason| WatcherError::Input { path: first.clone(), reason })
    }

    /// Reads the groups of a configuration, and its list files.
    ///
    /// # Errors
    /// The reason why a list cannot be used.
    pub fn of_config(config: &WatchConfig, pubkeys: &[PubkeyBytes]) -> Result<Self, String> {
        Ok(Self::resolve(&reload::read_lists(config)?.list, pubkeys))
    }

    /// The same, with what the recording's watcher recorded of kill switches. Groups whose switch
    /// has fired are shown even if no list names them.
    pub fn with_switches(self, switches: KillSwitchState) -> Self {
        Self { switches: Some(switches), ..self }
    }

    /// The same, with the epochs that the members of each group have signed. `signed_by` returns
    /// the slot of a validator's newest vote, and the highest source epoch of its votes. `now` is
    /// the slot in which the recording ends.
    ///
    /// # Errors
    /// That of `signed_by`.
    pub fn with_signed<E>(
        mut self,
        network: &Network,
        now: Slot,
        signed_by: impl Fn(ValidatorIndex) -> Result<Option<(Slot, Epoch)>, E>,
    ) -> Result<Self, E> {
        for (index, key) in self.keys.iter().take(MAX_ASKED) {
            let Some((newest, source)) = signed_by(*index)? else { continue };
            for group in &key.groups {
                let signed = self.signed.entry(group.clone()).or_default();
                signed.add(newest, None, now, network);
                // Which sides the members can join is a question about branches of now.
                signed.highest_source = signed.highest_source.max(Some(source));
            }
        }
        Ok(self)
    }

    /// Validators with a label, or the members of `group=NAME`, ascending, at most `limit`.
    pub fn labelled(&self, label: &str, after: Option<ValidatorIndex>, limit: usize) -> Vec<LabelledValidator> {
        let from = after.map_or(0, |after| after.as_u64().saturating_add(1));
        let group = label.strip_prefix("group=");
        let has = |key: &RecordedKey| key.labels.contains(label) || group.is_some_and(|group| key.groups.contains(group));
        let rows = self.keys.range(ValidatorIndex::new(from)..).filter(|(_, key)| has(key)).take(limit);
        let row = |(index, key): (&ValidatorIndex, &RecordedKey)| LabelledValidator {
            index: *index,
            pubkey: Some(key.pubkey),
            labels: key.labels.iter().cloned().collect(),
            groups: key.groups.iter().cloned().collect(),
        };
        rows.map(row).collect()
    }

    /// What is recorded of a group's kill switch. `None` if there is nothing: then it is not known
    /// whether the group had one.
    fn switch(&self, group: &str) -> Option<KillSwitchView> {
        let has_any = |state: &&KillSwitchState| {
            state.fired.contains_key(group) || state.armed_again.contains_key(group) || state.held_back.contains_key(group)
        };
        self.switches.as_ref().filter(has_any).map(|state| kill_switch_view(state, group))
    }

    fn resolve(list: &WatchList, pubkeys: &[PubkeyBytes]) -> Self {
        let by_key: HashMap<&PubkeyBytes, u64> = pubkeys.iter().zip(0u64..).collect();
        let mut all = Self::default();
        for entry in list.entries() {
            let Some(group) = entry.group.as_deref() else { continue };
            let n_unknown = all.unknown.entry(group.to_owned()).or_default();
            let n_known = pubkeys.len() as u64;
            let members = match &entry.selector {
                Selector::Index(index) => index.as_u64()..index.as_u64().saturating_add(1),
                Selector::Range { first, last } => first.as_u64()..last.as_u64().saturating_add(1),
                Selector::Pubkey(pubkey) => match by_key.get(pubkey) {
                    Some(index) => *index..index + 1,
                    None => n_known..n_known.saturating_add(1),
                },
                Selector::WithdrawalCredentials(_) | Selector::FeeRecipient(_) => n_known..n_known.saturating_add(1),
            };
            *n_unknown = n_unknown.saturating_add(members.end.saturating_sub(members.start.max(n_known)));
            for index in members.start..members.end.min(n_known) {
                let key = all.keys.entry(ValidatorIndex::new(index)).or_insert_with(|| RecordedKey {
                    pubkey: pubkeys[index as usize],
                    groups: BTreeSet::new(),
                    labels: BTreeSet::new(),
                    duty: entry.duty,
                });
                key.groups.insert(group.to_owned());
                key.labels.extend(entry.labels.iter().map(ToString::to_string));
            }
        }
        all
    }
}

impl WatchSource for RecordedKeys {
    fn groups(&self) -> Vec<WatchGroup> {
        let fired = self.switches.iter().flat_map(|switches| switches.fired.keys().chain(switches.earlier.keys()));
        let names: BTreeSet<&String> = self.unknown.keys().chain(fired).collect();
        let groups = names.into_iter().map(|name| {
            let members: Vec<_> = self.keys.iter().filter(|(_, key)| key.groups.contains(name)).collect();
            let labels: BTreeSet<&String> = members.iter().flat_map(|(_, key)| &key.labels).collect();
            let others = labels.into_iter().filter(|label| !label.starts_with("group="));
            WatchGroup {
                name: name.clone(),
                validators: members.len() as u64,
                unknown_keys: self.unknown.get(name).copied().unwrap_or_default(),
                missing: 0,
                missed_in_a_row: 0,
                effectiveness: None,
                first_hand: None,
                kill_switch: self.switch(name),
                labels: others.take(MAX_GROUP_LABELS).cloned().collect(),
                indices: index_ranges(members.iter().map(|(index, _)| **index)),
                signed: self.signed.get(name).cloned(),
            }
        });
        groups.collect()
    }

    fn keys(&self, after: Option<ValidatorIndex>, wanted: &KeyFilter, limit: usize) -> WatchPage {
        let from = after.map_or(0, |after| after.as_u64().saturating_add(1));
        let matches = |key: &RecordedKey| {
            wanted.group.as_ref().is_none_or(|group| key.groups.contains(group))
                && wanted.label.as_ref().is_none_or(|label| key.labels.contains(label))
                && wanted.missed_in_a_row == 0
        };
        let mut rows = self.keys.range(ValidatorIndex::new(from)..).filter(|(_, key)| matches(key));
        let shown = |(index, key): (&ValidatorIndex, &RecordedKey)| WatchedKey {
            index: *index,
            pubkey: key.pubkey,
            groups: key.groups.iter().cloned().collect(),
            labels: key.labels.iter().cloned().collect(),
            duty: key.duty.as_str().into(),
            state: "unknown".into(),
            effective_balance: Gwei::new(0),
            last_vote: None,
            missed_in_a_row: 0,
            duties: 0,
            voted: 0,
            proposals: 0,
            proposed: 0,
            effectiveness: None,
        };
        let keys = rows.by_ref().take(limit).map(shown).collect();
        WatchPage { keys, has_more: rows.next().is_some() }
    }

    fn groups_of(&self, validator: ValidatorIndex) -> Vec<String> {
        self.keys.get(&validator).map_or_else(Vec::new, |key| key.groups.iter().cloned().collect())
    }

    fn has_groups(&self) -> bool {
        !self.unknown.is_empty()
    }

    fn has_label(&self, label: &str) -> bool {
        self.keys.values().any(|key| key.labels.contains(label))
    }

    /// Every label may be one that only the operator's groups have.
    fn is_private(&self, _: &str) -> bool {
        true
    }

    fn listed_labels(&self, _: ValidatorIndex) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_switch_that_fired_is_known_and_another_groups_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.csv");
        std::fs::write(&file, "group,key\na,0\nb,1\n").unwrap();
        let pubkeys: Vec<PubkeyBytes> = (1u8..=2).map(PubkeyBytes::repeat_byte).collect();
        let fired = serde_json::json!({
            "finding": consensus::Root::ZERO, "kind": "double_vote", "ordered_at": "2021-02-02T20:40:00Z", "attempts": 1,
            "result": {"done": true, "took_ms": 5, "answer": "stopped"},
        });
        let state = serde_json::from_value(serde_json::json!({"seen": 1, "fired": {"a": fired}})).unwrap();
        let keys = RecordedKeys::read(&[file], &pubkeys).unwrap().with_switches(state);
        let states = keys.groups().into_iter().map(|group| group.kill_switch.map(|switch| switch.state));
        assert_eq!(states.collect::<Vec<_>>(), [Some("done".to_owned()), None]);
    }

    #[test]
    fn the_newest_votes_say_up_to_which_epoch_a_group_has_signed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.csv");
        std::fs::write(&file, "group,key\na,0-1\nb,2\n").unwrap();
        let pubkeys: Vec<PubkeyBytes> = (1u8..=3).map(PubkeyBytes::repeat_byte).collect();
        let network = Network::builtin("mainnet").unwrap();
        // Key 0 has voted in epoch 3, key 1 in epoch 5, key 2 never.
        let signed_by = |index: ValidatorIndex| {
            let (slot, source) = [(100, 4), (160, 2)].get(index.as_u64() as usize).copied()?;
            Some((Slot::new(slot), Epoch::new(source)))
        };
        let keys = RecordedKeys::read(&[file], &pubkeys).unwrap();
        let keys = keys.with_signed(&network, Slot::new(100), |index| Ok::<_, ()>(signed_by(index))).unwrap();
        let signed: Vec<_> = keys.groups().into_iter().map(|group| group.signed).collect();
        let of_a = signed[0].as_ref().unwrap();
        assert_eq!((of_a.voted, of_a.ahead), (2, 1));
        assert_eq!((of_a.highest_target, of_a.highest_source), (Some(Epoch::new(5)), Some(Epoch::new(4))));
        assert_eq!(signed[1], None);
    }

    #[test]
    fn groups_are_found_by_index_and_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.csv");
        let pubkeys: Vec<PubkeyBytes> = (1u8..=8).map(PubkeyBytes::repeat_byte).collect();
        let stranger = PubkeyBytes::repeat_byte(99);
        std::fs::write(&file, format!("group,key,operator\na,2-3,x\nb,{},y\nb,{stranger},y\na,6-20,\n", pubkeys[3])).unwrap();
        let keys = RecordedKeys::read(&[file], &pubkeys).unwrap();
        let groups: Vec<_> = keys.groups().into_iter().map(|group| (group.name, group.validators, group.unknown_keys)).collect();
        assert_eq!(groups, [("a".to_owned(), 4, 13), ("b".to_owned(), 1, 1)]);
        assert_eq!(keys.groups_of(ValidatorIndex::new(3)), ["a", "b"]);
        assert!(keys.groups_of(ValidatorIndex::new(5)).is_empty() && keys.has_groups() && keys.has_label("operator=y"));
        let page = keys.keys(Some(ValidatorIndex::new(2)), &KeyFilter { group: Some("a".into()), ..KeyFilter::default() }, 2);
        assert_eq!(page.keys.iter().map(|key| key.index.as_u64()).collect::<Vec<_>>(), [3, 6]);
        assert!(page.has_more);
        assert!(!RecordedKeys::read(&[], &pubkeys).unwrap().has_groups());
    }
}
