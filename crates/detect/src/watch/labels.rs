//! Labels and groups by validator index, resolved against the registry.
//!
//! They are made anew, as a whole, in three cases: the lists change, a state brings validators, or
//! a block shows who pays fees to a watched address. Those who need them share them by `Arc`. An
//! entry with a key that the registry does not have yet is kept and counted ([`Members::unknown`]).
//!
//! If several entries are about one validator, all their labels count. For one label name, the
//! labels of a group replace those of a list of other people's keys, because an operator knows its
//! own keys better. Of several duties a dormant one counts, because a key that is moved is in two
//! lists for a while.
//!
//! ```text
//! group acme-1: 100-199, operator=acme
//! entity list:  150-999, operator=acme-staking, pool=acme
//!
//! 150 -> group=acme-1, operator=acme, pool=acme
//! 500 -> operator=acme-staking, pool=acme
//! ```
//!
//! Limits: at most [`MAX_WATCHED`] keys in groups; further ones are counted and only labelled. Of a
//! validator the first [`MAX_ENTRIES_OF`] entries count, groups before lists, and [`MAX_LABELS`]
//! labels, its groups' before those of lists: a list at somebody else's URL must not make findings
//! that no receiver takes. A labelled validator takes 8 bytes. The public keys of group members,
//! and of validators that share a label with one, are kept too, 52 bytes each, at most
//! [`MAX_KEYS`].

use super::list::MAX_LABELS;
use super::{Duty, FeePayers, Label, Selector, WatchList};
use chain::Registry;
use consensus::{PubkeyBytes, Root, ValidatorIndex};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Largest number of watched keys, in all groups together.
pub const MAX_WATCHED: usize = 262_144;

/// Largest number of public keys that are kept: those of all watched validators, and of as many
/// that share a label with them.
pub const MAX_KEYS: usize = 2 * MAX_WATCHED;

/// Largest number of entries that count for a validator.
pub const MAX_ENTRIES_OF: usize = 32;

/// Identifies a group within one [`Labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u16);

/// A group with its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub name: Arc<str>,
    /// Ascending.
    pub validators: Vec<ValidatorIndex>,
    /// Keys that the registry does not have yet.
    pub unknown: Vec<PubkeyBytes>,
}

/// Labels and groups by validator. The default has no validators.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Validator index and position in `sets`; ascending by index.
    of: Vec<(u32, u32)>,
    sets: Vec<LabelSet>,
    /// For each position in `sets`, the number of validators that have this set.
    counts: Vec<u64>,
    groups: Vec<Members>,
    /// Public keys by validator index; ascending by index.
    keys: Vec<(u32, PubkeyBytes)>,
    n_watched: usize,
    n_refused: usize,
    n_cut: usize,
}

/// The labels, groups and duty of a validator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSet {
    /// Ascending; includes `group=NAME` for each group.
    pub labels: Vec<Label>,
    /// What lists of other people's keys say, whatever a group says: the labels that it would have
    /// if nobody watched it. Ascending.
    pub listed: Vec<Label>,
    /// Ascending; empty for validators that are not watched.
    pub groups: Vec<GroupId>,
    pub duty: Duty,
    /// Whether an entry of a group names it by index, range or public key. Withdrawal credentials
    /// and fee recipients name whoever claims them.
    pub is_named: bool,
}

impl Labels {
    /// Finds the validators that the entries of the lists name.
    pub fn resolve(list: &WatchList, registry: &Registry, payers: &FeePayers) -> Self {
        let mut labels = Resolver::new(list, registry, payers).finish(list);
        labels.keep_keys(registry);
        labels
    }

    /// Keeps the public keys. Those of group members come first, so that others cannot take their
    /// place.
    fn keep_keys(&mut self, registry: &Registry) {
        let of_groups: BTreeSet<&Label> =
            self.sets.iter().filter(|set| !set.groups.is_empty()).flat_map(|set| &set.labels).collect();
        let is_member: Vec<bool> = self.sets.iter().map(|set| !set.groups.is_empty()).collect();
        let is_kin: Vec<bool> = self.sets.iter().map(|set| set.labels.iter().any(|label| of_groups.contains(label))).collect();
        let all = |wanted: &dyn Fn(usize) -> bool| -> Vec<u32> {
            self.of.iter().filter(|(_, set)| wanted(*set as usize)).map(|(index, _)| *index).collect()
        };
        let mut wanted = all(&|set| is_member[set]);
        wanted.extend(all(&|set| is_kin[set] && !is_member[set]));
        wanted.truncate(MAX_KEYS);
        wanted.sort_unstable();
        let key = |index: u32| Some((index, registry.pubkey_bytes(ValidatorIndex::new(u64::from(index)))?));
        self.keys = wanted.into_iter().filter_map(key).collect();
    }

    /// The labels, groups and duty of a validator; `None` if no entry names it.
    pub fn get(&self, validator: ValidatorIndex) -> Option<&LabelSet> {
        self.sets.get(self.set_number(validator)? as usize)
    }

    /// The number of a validator's set of labels ([`Self::set`]); `None` if no entry names it.
    pub fn set_number(&self, validator: ValidatorIndex) -> Option<u32> {
        let index = u32::try_from(validator.as_u64()).ok()?;
        let at = self.of.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(self.of[at].1)
    }

    /// Labels of a validator, ascending; empty if it has none.
    pub fn of(&self, validator: ValidatorIndex) -> &[Label] {
        self.get(validator).map_or(&[], |set| &set.labels)
    }

    /// Number of validators that have this label.
    pub fn n_labelled(&self, key: &str, value: &str) -> u64 {
        let has = |set: &LabelSet| set.labels.iter().any(|label| label.key == key && label.value == value);
        self.sets.iter().zip(&self.counts).filter(|(set, _)| has(set)).map(|(_, count)| count).sum()
    }

    /// Labels in the form that findings have: `key=value`.
    pub fn strings(&self, validator: ValidatorIndex) -> Vec<String> {
        self.of(validator).iter().map(ToString::to_string).collect()
    }

    /// Labels that lists of other people's keys give a validator, as `key=value`.
    pub fn listed_strings(&self, validator: ValidatorIndex) -> Vec<String> {
        self.get(validator).map_or_else(Vec::new, |set| set.listed.iter().map(ToString::to_string).collect())
    }

    /// The registry's public key of a group member, or of a validator that shares a label with one,
    /// as it was when the lists were resolved.
    pub fn pubkey(&self, validator: ValidatorIndex) -> Option<PubkeyBytes> {
        let index = u32::try_from(validator.as_u64()).ok()?;
        let at = self.keys.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(self.keys[at].1)
    }

    /// The value of a label by its name, such as `operator`.
    pub fn value(&self, validator: ValidatorIndex, key: &str) -> Option<&str> {
        self.of(validator).iter().find(|label| label.key == key).map(|label| label.value.as_str())
    }

    /// Whether a validator has this label. It may have several labels of one name, for example of
    /// `group`.
    pub fn value_is(&self, validator: ValidatorIndex, key: &str, value: &str) -> bool {
        self.of(validator).iter().any(|label| label.key == key && label.value == value)
    }

    /// Whether the validator is in a group.
    pub fn is_watched(&self, validator: ValidatorIndex) -> bool {
        self.get(validator).is_some_and(|set| !set.groups.is_empty())
    }

    /// All groups; the position is the [`GroupId`].
    pub fn groups(&self) -> &[Members] {
        &self.groups
    }

    /// A group by its id; `None` if there is none.
    pub fn group(&self, id: GroupId) -> Option<&Members> {
        self.groups.get(usize::from(id.0))
    }

    /// Names of the groups that watch a validator.
    pub fn group_names(&self, validator: ValidatorIndex) -> Vec<String> {
        let groups = self.get(validator).map_or(&[][..], |set| &set.groups);
        groups.iter().filter_map(|group| self.group(*group)).map(|group| group.name.to_string()).collect()
    }

    /// All validators that any entry names, ascending, each with the number of its set of labels
    /// ([`Self::set`]).
    pub fn labelled(&self) -> impl Iterator<Item = (ValidatorIndex, usize)> {
        self.of.iter().map(|(index, set)| (ValidatorIndex::new(u64::from(*index)), *set as usize))
    }

    /// A set of labels by its number.
    pub fn set(&self, number: usize) -> Option<&LabelSet> {
        self.sets.get(number)
    }

    /// Watched validators with their labels, ascending.
    pub fn watched(&self) -> impl Iterator<Item = (ValidatorIndex, &LabelSet)> {
        let all = self.of.iter().filter_map(|(index, set)| Some((*index, self.sets.get(*set as usize)?)));
        all.filter(|(_, set)| !set.groups.is_empty()).map(|(index, set)| (ValidatorIndex::new(u64::from(index)), set))
    }

    /// Number of keys in groups.
    pub fn n_watched(&self) -> usize {
        self.n_watched
    }

    /// Number of validators that any entry names.
    pub fn n_validators(&self) -> usize {
        self.of.len()
    }

    /// Number of keys that are not watched because of [`MAX_WATCHED`].
    pub fn n_refused(&self) -> usize {
        self.n_refused
    }

    /// Number of validators of which entries or labels do not count, because they are over
    /// [`MAX_ENTRIES_OF`] or [`MAX_LABELS`].
    pub fn n_cut(&self) -> usize {
        self.n_cut
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.groups.is_empty()
    }
}

/// Resolves entries to validators.
struct Resolver<'a> {
    pubkeys: HashMap<PubkeyBytes, ValidatorIndex>,
    by_credentials: HashMap<Root, Vec<ValidatorIndex>>,
    payers: &'a FeePayers,
    /// Number of validators in the registry.
    n_validators: u64,
    /// Positions in the list's entries, by validator: up to [`MAX_ENTRIES_OF`].
    entries_of: BTreeMap<u32, Vec<u32>>,
    /// Validators that have further entries.
    over: BTreeSet<u32>,
    unknown: BTreeMap<Arc<str>, Vec<PubkeyBytes>>,
}

impl<'a> Resolver<'a> {
    fn new(list: &WatchList, registry: &Registry, payers: &'a FeePayers) -> Self {
        let (mut pubkeys, mut credentials) = (Vec::new(), BTreeSet::new());
        for entry in list.entries() {
            match &entry.selector {
                Selector::Pubkey(pubkey) => pubkeys.push(*pubkey),
                Selector::WithdrawalCredentials(wanted) => {
                    credentials.insert(*wanted);
                }
                Selector::Index(_) | Selector::Range { .. } | Selector::FeeRecipient(_) => {}
            }
        }
        let credentials: Vec<Root> = credentials.into_iter().collect();
        let mut by_credentials: HashMap<Root, Vec<ValidatorIndex>> = HashMap::new();
        // With a million validators each of these two passes takes time, so they are made only if
        // needed.
        if !credentials.is_empty() {
            for (index, credentials) in registry.with_credentials(&credentials) {
                by_credentials.entry(credentials).or_default().push(index);
            }
        }
        let pubkeys = registry.indices_of(&pubkeys);
        let n_validators = registry.len() as u64;
        Self {
            pubkeys,
            by_credentials,
            payers,
            n_validators,
            entries_of: BTreeMap::new(),
            over: BTreeSet::new(),
            unknown: BTreeMap::new(),
        }
    }

    fn finish(mut self, list: &WatchList) -> Labels {
        for (position, entry) in (0u32..).zip(list.entries()) {
            match &entry.selector {
                Selector::Index(index) => self.put(*index, position),
                // A range is limited to the registry, so a large number in the list allocates
                // nothing.
                Selector::Range { first, last } => {
                    for index in first.as_u64()..self.n_validators.min(last.as_u64().saturating_add(1)) {
                        self.put(ValidatorIndex::new(index), position);
                    }
                }
                Selector::Pubkey(pubkey) => match self.pubkeys.get(pubkey) {
                    Some(index) => self.put(*index, position),
                    None => {
                        if let Some(group) = &entry.group {
                            self.unknown.entry(group.clone()).or_default().push(*pubkey);
                        }
                    }
                },
                Selector::WithdrawalCredentials(credentials) => {
                    for index in self.by_credentials.get(credentials).cloned().unwrap_or_default() {
                        self.put(index, position);
                    }
                }
                Selector::FeeRecipient(address) => {
                    for index in self.payers.of(address) {
                        self.put(index, position);
                    }
                }
            }
        }
        self.assemble(list)
    }

    fn put(&mut self, index: ValidatorIndex, position: u32) {
        if let Ok(small) = u32::try_from(index.as_u64())
            && index.as_u64() < self.n_validators
        {
            let entries = self.entries_of.entry(small).or_default();
            if entries.len() >= MAX_ENTRIES_OF {
                self.over.insert(small);
            } else if entries.last() != Some(&position) {
                entries.push(position);
            }
        }
    }

    fn assemble(self, list: &WatchList) -> Labels {
        let mut unknown = self.unknown;
        let groups: Vec<Members> = list
            .groups()
            .map(|name| Members { name: name.clone(), validators: Vec::new(), unknown: unknown.remove(name).unwrap_or_default() })
            .collect();
        let ids: HashMap<Arc<str>, GroupId> =
            groups.iter().zip(0u16..).map(|(group, id)| (group.name.clone(), GroupId(id))).collect();
        let mut labels = Labels { groups, ..Labels::default() };
        // Validators that are named by the same entries share one set of labels.
        let mut by_entries: HashMap<Vec<u32>, (u32, bool)> = HashMap::new();
        let mut by_set: HashMap<LabelSet, u32> = HashMap::new();
        for (index, entries) in self.entries_of {
            let (mut number, is_cut) = match by_entries.get(&entries) {
                Some(known) => *known,
                None => {
                    let (set, is_cut) = combined(list, &entries, &ids);
                    let number = intern(&mut labels.sets, &mut by_set, set);
                    by_entries.insert(entries, (number, is_cut));
                    (number, is_cut)
                }
            };
            labels.n_cut += usize::from(is_cut || self.over.contains(&index));
            if !labels.sets[number as usize].groups.is_empty() {
                if labels.n_watched >= MAX_WATCHED {
                    labels.n_refused += 1;
                    let unwatched = LabelSet { groups: Vec::new(), ..labels.sets[number as usize].clone() };
                    number = intern(&mut labels.sets, &mut by_set, unwatched);
                } else {
                    labels.n_watched += 1;
                }
            }
            for group in &labels.sets[number as usize].groups {
                labels.groups[usize::from(group.0)].validators.push(ValidatorIndex::new(u64::from(index)));
            }
            labels.of.push((index, number));
        }
        labels.counts = vec![0; labels.sets.len()];
        for (_, number) in &labels.of {
            labels.counts[*number as usize] += 1;
        }
        labels
    }
}

fn intern(sets: &mut Vec<LabelSet>, known: &mut HashMap<LabelSet, u32>, set: LabelSet) -> u32 {
    *known.entry(set).or_insert_with_key(|set| {
        sets.push(set.clone());
        (sets.len() - 1) as u32
    })
}

/// The labels, groups and duty that several entries give together, and whether there are more
/// labels than count.
fn combined(list: &WatchList, entries: &[u32], ids: &HashMap<Arc<str>, GroupId>) -> (LabelSet, bool) {
    let mut set = LabelSet::default();
    let mut own: BTreeSet<Label> = BTreeSet::new();
    let mut others: BTreeSet<Label> = BTreeSet::new();
    let mut is_cut = false;
    for entry in entries.iter().filter_map(|position| list.entries().get(*position as usize)) {
        set.duty = set.duty.max(entry.duty);
        match &entry.group {
            Some(name) => {
                set.is_named |= entry.selector.names_keys();
                set.groups.extend(ids.get(name));
                own.insert(Label { key: Label::GROUP.into(), value: name.to_string() });
                own.extend(entry.labels.iter().cloned());
            }
            None => {
                for label in entry.labels.iter() {
                    if others.len() < MAX_LABELS || others.contains(label) {
                        others.insert(label.clone());
                    } else {
                        is_cut = true;
                    }
                }
            }
        }
    }
    set.listed = others.iter().cloned().collect();
    others.retain(|label| own.iter().all(|own| own.key != label.key));
    let n_free = MAX_LABELS.saturating_sub(own.len());
    is_cut |= others.len() > n_free;
    own.extend(others.into_iter().take(n_free));
    set.labels = own.into_iter().collect();
    set.groups.sort();
    set.groups.dedup();
    (set, is_cut)
}
