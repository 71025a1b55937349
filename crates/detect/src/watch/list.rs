//! What an operator writes down: groups of keys to watch, and labels for anybody's keys.
//!
//! A [`WatchList`] holds the content of all files and of the configuration; it does not depend on a
//! chain. [`super::Labels`] is the same, resolved to validator indices.

use super::Selector;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Largest number of entries of all lists together: twice mainnet's registry.
pub const MAX_ENTRIES: usize = 2_000_000;
/// Largest number of groups.
pub const MAX_GROUPS: usize = 4_096;
/// Largest length in bytes of a label's key, a label's value or a group's name.
pub const MAX_LABEL_LEN: usize = 128;
/// Largest number of labels of one entry.
pub const MAX_LABELS: usize = 32;

/// A label of a validator, such as `operator=acme`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    pub key: String,
    pub value: String,
}

/// The reason why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("{0:?} is no label's name: use 1 to {MAX_LABEL_LEN} letters, digits, dots, dashes and underscores")]
    Key(String),
    #[error(
        "the value of label {key:?} is empty, longer than {MAX_LABEL_LEN} bytes or has control characters; shorten it or leave it out"
    )]
    Value { key: String },
    #[error("the label `group` is made from the group's name; name the group instead")]
    Reserved,
    #[error("{0:?} is no label; write it as key=value")]
    NoValue(String),
}

impl Label {
    /// Key of the label that every member of a group has.
    pub const GROUP: &'static str = "group";

    /// Makes a label. The key `group` is reserved: use [`Self::group`].
    pub fn new(key: &str, value: &str) -> Result<Self, LabelError> {
        if key == Self::GROUP {
            return Err(LabelError::Reserved);
        }
        Self::checked(key, value)
    }

    /// The label `group=NAME`.
    pub fn group(name: &str) -> Result<Self, LabelError> {
        if !is_name(name) {
            return Err(LabelError::Key(name.chars().take(MAX_LABEL_LEN).collect()));
        }
        Self::checked(Self::GROUP, name)
    }

    fn checked(key: &str, value: &str) -> Result<Self, LabelError> {
        if !is_name(key) {
            return Err(LabelError::Key(key.chars().take(MAX_LABEL_LEN).collect()));
        }
        let value = value.trim();
        if value.is_empty() || value.len() > MAX_LABEL_LEN || value.chars().any(char::is_control) {
            return Err(LabelError::Value { key: key.into() });
        }
        Ok(Self { key: key.into(), value: value.into() })
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_LABEL_LEN && text.bytes().all(allowed)
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// Parses `key=value`. `group=NAME` is accepted too, because it is used in queries.
impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (key, value) = text.split_once('=').ok_or_else(|| LabelError::NoValue(text.chars().take(MAX_LABEL_LEN).collect()))?;
        Self::checked(key.trim(), value)
    }
}

/// Whether a key is expected to sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// It votes in every epoch. Missed votes are reported.
    #[default]
    Active,
    /// It is being moved to another machine or operator, and should be silent until the list
    /// changes.
    Migrating,
    /// It has left, or is about to.
    Exited,
    /// It is switched off on purpose.
    Offline,
}

impl Duty {
    pub const ALL: [Self; 4] = [Self::Active, Self::Migrating, Self::Exited, Self::Offline];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Migrating => "migrating",
            Self::Exited => "exited",
            Self::Offline => "offline",
        }
    }

    /// Whether any signature of such a key is reported.
    pub const fn is_dormant(self) -> bool {
        match self {
            Self::Active => false,
            Self::Migrating | Self::Exited | Self::Offline => true,
        }
    }
}

impl FromStr for Duty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.trim();
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|duty| duty.as_str() == wanted)
            .ok_or_else(|| format!("{wanted:?} is no duty: write one of {}, or nothing for active", known()))
    }
}

/// Labels and duty of the validators that a selector names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The group that watches these validators; `None` in lists of other people's keys.
    pub group: Option<Arc<str>>,
    pub selector: Selector,
    /// Without the labels of the group.
    pub labels: Arc<[Label]>,
    pub duty: Duty,
    /// Whether it comes from a list that somebody else publishes at a URL.
    pub is_published: bool,
}

/// The entries of all lists together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchList {
    entries: Vec<Entry>,
    /// Number of entries by the group's name.
    groups: BTreeMap<Arc<str>, usize>,
    known_labels: HashSet<Arc<[Label]>>,
}

/// The reason why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("more than {MAX_ENTRIES} entries; use ranges or withdrawal credentials instead of single keys")]
    TooManyEntries,
    #[error("more than {MAX_GROUPS} groups; use labels to tell keys apart within a group")]
    TooManyGroups,
    #[error("more than {MAX_LABELS} labels; leave some out")]
    TooManyLabels,
    #[error(transparent)]
    Label(#[from] LabelError),
}

impl WatchList {
    /// Adds a group, which may stay without entries.
    pub fn add_group(&mut self, name: &str) -> Result<Arc<str>, ListError> {
        if let Some((name, _)) = self.groups.get_key_value(name) {
            return Ok(name.clone());
        }
        Label::group(name)?;
        if self.groups.len() >= MAX_GROUPS {
            return Err(ListError::TooManyGroups);
        }
        let name: Arc<str> = name.into();
        self.groups.insert(name.clone(), 0);
        Ok(name)
    }

    /// Adds one entry. `group` is added too if it is new. With `None` the validators are labelled
    /// but not watched.
    pub fn add(&mut self, group: Option<&str>, selector: Selector, labels: &[Label], duty: Duty) -> Result<(), ListError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(ListError::TooManyEntries);
        }
        if labels.len() > MAX_LABELS {
            return Err(ListError::TooManyLabels);
        }
        let group = group.map(|name| self.add_group(name)).transpose()?;
        if let Some(n) = group.as_ref().and_then(|name| self.groups.get_mut(name)) {
            *n += 1;
        }
        let mut labels = labels.to_vec();
        labels.sort();
        labels.dedup();
        // A million rows use the same few sets of labels, so equal sets are shared.
        let labels = match self.known_labels.get(labels.as_slice()) {
            Some(known) => known.clone(),
            None => {
                let labels: Arc<[Label]> = labels.into();
                self.known_labels.insert(labels.clone());
                labels
            }
        };
        self.entries.push(Entry { group, selector, labels, duty, is_published: false });
        Ok(())
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Names of the groups, ascending.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.keys()
    }

    /// Number of entries that name keys of a group.
    pub fn n_entries_of(&self, group: &str) -> usize {
        self.groups.get(group).copied().unwrap_or_default()
    }

    /// Notes that the entries from this position on come from a list that somebody else publishes.
    pub fn mark_published(&mut self, from: usize) {
        self.entries[from..].iter_mut().for_each(|entry| entry.is_published = true);
    }

    /// Whether nothing is watched and nobody has a label.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.groups.is_empty()
    }
}
