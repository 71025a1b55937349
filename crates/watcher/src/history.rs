//! Exports what the network saw of some keys as an EIP-3076 file, or compares it with such a file.

use crate::datadir::{self, ReadOnly};
use crate::signing_history;
use crate::{WatcherError, downtime};
use actions::config::WatchConfig;
use actions::lists::reload;
use api::Gap;
use chain::PubkeyCache;
use consensus::interchange::{Interchange, SigningHistory};
use consensus::{Network, PubkeyBytes, Root, ValidatorIndex};
use detect::audit::{Epochs, KeyAudit, Seen, audit};
use detect::watch::Selector;
use evidence::Store;
use index::IndexView;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use crate::signing_history::Form;
pub use index::Walked;

/// Largest file that is read. A complete history of ten thousand keys over a year has about 7 GB,
/// and no client exports that much.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// A data directory that is open for questions about what keys signed.
pub struct History {
    pub(crate) data_dir: PathBuf,
    pub(crate) network: Network,
    pub(crate) store: Store,
    pub(crate) index: IndexView,
    /// Public keys by validator index.
    keys: Vec<PubkeyBytes>,
}

impl History {
    /// Opens the directory as it is now. This also works while a watcher uses it.
    pub fn open(data_dir: &Path) -> Result<Self, WatcherError> {
        let ReadOnly { network, store, index } = datadir::open_read_only(data_dir)?;
        let Some(index) = index else {
            return Err(WatcherError::Failed(format!(
                "{} has no vote index, so it is not known what keys signed. Replay captures into it, or run a watcher on it",
                data_dir.display()
            )));
        };
        let keys = PubkeyCache::compressed_in(&data_dir.join("pubkeys"))?;
        Ok(Self { data_dir: data_dir.into(), network, store, index, keys })
    }

    /// Returns the validators that a list names, ascending, in the form of [`selectors_in`].
    pub fn validators(&self, list: &str) -> Result<BTreeSet<ValidatorIndex>, WatcherError> {
        let selectors = selectors_in(list)?;
        let by_key = self.by_key(selectors.iter().filter_map(|selector| match selector {
            Selector::Pubkey(pubkey) => Some(*pubkey),
            _ => None,
        }));
        let mut wanted = BTreeSet::new();
        for selector in &selectors {
            match selector {
                Selector::Index(index) => {
                    self.key(*index)?;
                    wanted.insert(*index);
                }
                Selector::Range { first, last } => {
                    self.key(*last)?;
                    wanted.extend((first.as_u64()..=last.as_u64()).map(ValidatorIndex::new));
                }
                Selector::Pubkey(pubkey) => {
                    let index = by_key.get(pubkey).ok_or_else(|| {
                        WatcherError::Usage(format!(
                            "no validator with public key {pubkey} is known in this data directory; check the key and the network"
                        ))
                    })?;
                    wanted.insert(*index);
                }
                Selector::WithdrawalCredentials(_) | Selector::FeeRecipient(_) => return Err(not_a_key(selector)),
            }
        }
        Ok(wanted)
    }

    /// Returns the times that this data directory knows about. They are the same for all keys.
    pub fn coverage(&self) -> Result<KnownTimes, WatcherError> {
        let epochs = self.index.epochs_held()?.map(|(first, last)| Epochs { first, last });
        Ok(KnownTimes { epochs, gaps: downtime::known(&self.store)? })
    }

    /// Makes an EIP-3076 file of the messages that were seen. `on_progress` receives the progress.
    pub fn export(
        &self,
        validators: &BTreeSet<ValidatorIndex>,
        form: Form,
        on_progress: &mut dyn FnMut(Walked),
    ) -> Result<Interchange, WatcherError> {
        let mut file = Interchange::new(self.network.genesis_validators_root);
        let keys =
            validators.iter().map(|index| Ok((*index, self.key(*index)?))).collect::<Result<BTreeMap<_, _>, WatcherError>>()?;
        file.data = signing_history::histories(&self.index, &self.network, &keys, form, on_progress)?;
        Ok(file)
    }

    /// Compares a file with the messages that were seen of its keys, and of the validators that
    /// are `expected` in it. If `is_pruned` is true, messages from before the file's record do not
    /// count as lacking. `on_progress` receives the progress.
    pub fn audit(
        &self,
        path: &Path,
        expected: &BTreeSet<ValidatorIndex>,
        is_pruned: bool,
        on_progress: &mut dyn FnMut(Walked),
    ) -> Result<Audit, WatcherError> {
        let file = read_interchange(path, self.network.genesis_validators_root)?;
        self.audit_file(&file, expected, is_pruned, on_progress)
    }

    /// Like [`Self::audit`], with a file that is read already.
    pub(crate) fn audit_file(
        &self,
        file: &Interchange,
        expected: &BTreeSet<ValidatorIndex>,
        is_pruned: bool,
        on_progress: &mut dyn FnMut(Walked),
    ) -> Result<Audit, WatcherError> {
        let mut by_key: BTreeMap<PubkeyBytes, Vec<&SigningHistory>> = BTreeMap::new();
        for history in &file.data {
            by_key.entry(history.pubkey).or_default().push(history);
        }
        let indices = self.by_key(by_key.keys().copied());
        let in_file: BTreeSet<ValidatorIndex> = indices.values().copied().collect();
        let known: BTreeSet<ValidatorIndex> = in_file.union(expected).copied().collect();
        let mut blocks = signing_history::blocks(&self.index, &self.network, &known)?;
        let mut votes = signing_history::votes(&self.index, &self.network, &known, Form::Complete, on_progress)?;
        let mut report =
            Audit { schema: 1, network: self.network.spec.config_name.clone(), coverage: self.coverage()?, ..Audit::default() };
        report.unknown_keys = by_key.keys().filter(|pubkey| !indices.contains_key(*pubkey)).copied().collect();
        for index in known {
            let pubkey = self.key(index)?;
            let (votes, blocks) = (votes.remove(&index).unwrap_or_default(), blocks.remove(&index).unwrap_or_default());
            let seen = Seen { votes, blocks };
            let histories = by_key.get(&pubkey).map(Vec::as_slice).unwrap_or_default();
            let key = AuditedKey { index, pubkey, in_file: in_file.contains(&index), audit: audit(histories, &seen) };
            report.add(key, seen != Seen::default(), is_pruned);
        }
        Ok(report)
    }

    pub(crate) fn key(&self, index: ValidatorIndex) -> Result<PubkeyBytes, WatcherError> {
        let known = usize::try_from(index.as_u64()).ok().and_then(|index| self.keys.get(index)).copied();
        known.ok_or_else(|| {
            WatcherError::Usage(format!(
                "validator {index} is not known in this data directory, which has the keys of {}; check the index and the network",
                self.keys.len()
            ))
        })
    }

    fn by_key(&self, wanted: impl Iterator<Item = PubkeyBytes>) -> BTreeMap<PubkeyBytes, ValidatorIndex> {
        let wanted: BTreeSet<PubkeyBytes> = wanted.collect();
        let mut found = BTreeMap::new();
        for (pubkey, index) in self.keys.iter().zip(0u64..).filter(|(pubkey, _)| wanted.contains(*pubkey)) {
            found.entry(*pubkey).or_insert(ValidatorIndex::new(index));
        }
        found
    }
}

/// Reads an interchange file of the network with this genesis validators root.
pub fn read_interchange(path: &Path, genesis_validators_root: Root) -> Result<Interchange, WatcherError> {
    let bytes = read_input(path, MAX_FILE_BYTES)?;
    Interchange::parse(&bytes, genesis_validators_root)
        .map_err(|error| WatcherError::Input { path: path.into(), reason: error.to_string() })
}

/// Returns what a list of `--validators` names. A list looks like `1,5-9,0xab..,@more.txt`. A file
/// may also be a list of watched keys (.csv with a column `group`, or .toml); with `group=NAME`
/// only these groups of such files count. There is at least one selector.
pub fn selectors_in(list: &str) -> Result<Vec<Selector>, WatcherError> {
    let mut selectors = Vec::new();
    let words: Vec<&str> = list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let groups: BTreeSet<&str> = words.iter().filter_map(|word| word.strip_prefix("group=")).collect();
    let mut named = BTreeSet::new();
    for word in words {
        match word.strip_prefix('@').map(Path::new) {
            Some(path) if is_watch_list(path)? => read_watch_list(path, &groups, &mut named, &mut selectors)?,
            Some(path) => read_list(path, &mut selectors)?,
            None if word.starts_with("group=") => {}
            None => selectors.push(word.parse().map_err(|error| WatcherError::Usage(format!("--validators: {error}")))?),
        }
    }
    if let Some(unknown) = groups.iter().find(|group| !named.contains(**group)) {
        let known = named.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(WatcherError::Usage(format!(
            "--validators: no file of the list has a group {unknown}; give it as in `@keys.csv,group={unknown}`. \
             Groups that there are: {}",
            if known.is_empty() { "none" } else { &known }
        )));
    }
    if selectors.is_empty() {
        return Err(WatcherError::Usage(
            "--validators names no validator: give indices, ranges, public keys or @FILE, separated by commas".into(),
        ));
    }
    Ok(selectors)
}

/// The error about a selector that may stand for many keys.
pub fn not_a_key(selector: &Selector) -> WatcherError {
    WatcherError::Usage(format!("--validators: {selector} is not a single key; give indices or public keys"))
}

/// Whether a file is a list of watched keys, as in `watch.files`, and not a plain list.
fn is_watch_list(path: &Path) -> Result<bool, WatcherError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => Ok(true),
        Some("csv") => {
            let bytes = read_input(path, MAX_FILE_BYTES)?;
            let text = String::from_utf8_lossy(&bytes);
            let header = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
            Ok(header.split(',').any(|column| column.trim().trim_matches('"') == "group"))
        }
        _ => Ok(false),
    }
}

/// Reads the keys of a list of watched keys. If `groups` is not empty, only their keys are read.
/// `named` receives the names of all groups of the file.
fn read_watch_list(
    path: &Path,
    groups: &BTreeSet<&str>,
    named: &mut BTreeSet<String>,
    into: &mut Vec<Selector>,
) -> Result<(), WatcherError> {
    let config = WatchConfig { files: vec![path.into()], ..WatchConfig::default() };
    let list = reload::read_lists(&config).map_err(|reason| WatcherError::Input { path: path.into(), reason })?.list;
    named.extend(list.groups().map(|name| name.to_string()));
    let wanted = |group: Option<&str>| group.is_some_and(|group| groups.is_empty() || groups.contains(group));
    into.extend(list.entries().iter().filter(|entry| wanted(entry.group.as_deref())).map(|entry| entry.selector.clone()));
    Ok(())
}

/// Reads selectors from a file. A line has one or more, separated by commas or white space. `#`
/// begins a comment.
fn read_list(path: &Path, into: &mut Vec<Selector>) -> Result<(), WatcherError> {
    let bytes = read_input(path, MAX_FILE_BYTES)?;
    for (nth, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        for word in line.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
            let selector = word
                .parse()
                .map_err(|error| WatcherError::Input { path: path.into(), reason: format!("line {}: {error}", nth + 1) })?;
            into.push(selector);
        }
    }
    Ok(())
}

/// Reads a file that the user named, `limit` bytes at most.
pub(crate) fn read_input(path: &Path, limit: u64) -> Result<Vec<u8>, WatcherError> {
    base::read_file(path, limit).map_err(|error| WatcherError::Input { path: path.into(), reason: error.to_string() })
}

/// The times that are known at all. About other times nothing can be said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KnownTimes {
    /// Epochs of which votes are stored. It is null while there are none. Older votes were pruned,
    /// or they were never received.
    pub epochs: Option<Epochs>,
    /// Slots in which no watcher ran.
    pub gaps: Vec<Gap>,
}

/// Result of an audit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Audit {
    pub schema: u64,
    pub network: String,
    pub coverage: KnownTimes,
    pub totals: Totals,
    /// Keys of the file that belong to no known validator of this network.
    pub unknown_keys: Vec<PubkeyBytes>,
    /// All known keys of the file, and the keys that were expected in it, ascending by index.
    pub validators: Vec<AuditedKey>,
}

/// Sums over all keys.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub keys: u64,
    /// Keys that were expected and are not in the file.
    pub keys_not_in_file: u64,
    /// Keys whose record in the file ends before the last message that was seen.
    pub keys_behind: u64,
    /// Keys of which messages were seen that contradict each other.
    pub keys_slashable: u64,
    /// Keys of which no message was ever received.
    pub keys_never_heard: u64,
    /// Keys for which the file lacks something.
    pub keys_lacking: u64,
    pub agreeing: u64,
    pub absent_votes: u64,
    pub absent_blocks: u64,
    pub contradictions: u64,
    pub slashable: u64,
    pub before_record: u64,
    pub unheard_votes: u64,
    pub unheard_blocks: u64,
}

/// The audit of one key.
#[derive(Clone, Debug, Serialize)]
pub struct AuditedKey {
    pub index: ValidatorIndex,
    pub pubkey: PubkeyBytes,
    /// False for a key that was expected and is not there.
    pub in_file: bool,
    #[serde(flatten)]
    pub audit: KeyAudit,
}

impl Audit {
    /// Returns whether the file lacks something for any key. A file without any key of this
    /// network protects nothing, so it lacks everything.
    pub fn lacks_something(&self) -> bool {
        self.totals.keys_lacking > 0 || self.totals.keys == self.totals.keys_not_in_file
    }

    /// Adds a key. `was_heard` is whether any message of it was seen, `is_pruned` is as in
    /// [`History::audit`].
    pub fn add(&mut self, key: AuditedKey, was_heard: bool, is_pruned: bool) {
        let (totals, audit) = (&mut self.totals, &key.audit);
        totals.keys += 1;
        totals.keys_not_in_file += u64::from(!key.in_file);
        totals.keys_never_heard += u64::from(!was_heard);
        totals.keys_lacking += u64::from(audit.lacks_something(is_pruned));
        totals.keys_behind += u64::from(audit.is_behind);
        totals.keys_slashable += u64::from(audit.slashable.count > 0);
        totals.agreeing += audit.agreeing;
        totals.absent_votes += audit.absent_votes.count;
        totals.absent_blocks += audit.absent_blocks.count;
        totals.contradictions += audit.contradictions.count;
        totals.slashable += audit.slashable.count;
        totals.before_record += audit.before_record;
        totals.unheard_votes += audit.unheard_votes;
        totals.unheard_blocks += audit.unheard_blocks;
        self.validators.push(key);
    }
}
