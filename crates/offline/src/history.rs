//! Exports what the network saw of some keys as an EIP-3076 file, or compares it with such a file.

use crate::inspect::Inspection;
use api::Gap;
use chain::PubkeyCache;
use consensus::interchange::{Interchange, SigningHistory};
use consensus::{PubkeyBytes, ValidatorIndex};
use detect::audit::{Epochs, KeyAudit, Seen, audit};
use detect::watch::Selector;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use watcher::{WatcherError, signing_history};

pub use index::Walked;
pub use watcher::signing_history::Form;

/// Largest file that is read. A complete history of ten thousand keys over a year has about 7 GB,
/// and no client exports that much.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// A data directory that is open for questions about what keys signed.
pub struct History {
    inspection: Inspection,
    /// Public keys by validator index.
    keys: Vec<PubkeyBytes>,
}

impl History {
    /// Opens the directory as it is now. This also works while a watcher uses it.
    pub fn open(data_dir: &Path) -> Result<Self, WatcherError> {
        let inspection = Inspection::open(data_dir)?;
        if inspection.index().is_none() {
            return Err(WatcherError::Failed(format!(
                "{} has no vote index, so it is not known what keys signed. Replay captures into it, or run a watcher on it",
                data_dir.display()
            )));
        }
        let keys = PubkeyCache::compressed_in(&data_dir.join("pubkeys"))?;
        Ok(Self { inspection, keys })
    }

    /// Returns the validators that a list names, ascending. A list looks like
    /// `1,5-9,0xab..,@more.txt`.
    pub fn validators(&self, list: &str) -> Result<BTreeSet<ValidatorIndex>, WatcherError> {
        let mut selectors = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.strip_prefix('@') {
                Some(path) => read_list(Path::new(path), &mut selectors)?,
                None => selectors.push(word.parse().map_err(|error| WatcherError::Usage(format!("--validators: {error}")))?),
            }
        }
        if selectors.is_empty() {
            return Err(WatcherError::Usage(
                "--validators names no validator: give indices, ranges, public keys or @FILE, separated by commas".into(),
            ));
        }
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
                Selector::WithdrawalCredentials(_) | Selector::FeeRecipient(_) => {
                    return Err(WatcherError::Usage(format!(
                        "--validators: {selector} is not a single key; give indices or public keys"
                    )));
                }
            }
        }
        Ok(wanted)
    }

    /// Returns the times that this data directory knows about. They are the same for all keys.
    pub fn coverage(&self) -> Result<KnownTimes, WatcherError> {
        let held = self.inspection.index().map(|store| store.epochs_held()).transpose()?.flatten();
        let epochs = held.map(|(first, last)| Epochs { first, last });
        Ok(KnownTimes { epochs, gaps: watcher::downtime::known(self.inspection.store())? })
    }

    /// Makes an EIP-3076 file of the messages that were seen. `on_progress` receives the progress.
    pub fn export(
        &self,
        validators: &BTreeSet<ValidatorIndex>,
        form: Form,
        on_progress: &mut dyn FnMut(Walked),
    ) -> Result<Interchange, WatcherError> {
        let mut file = Interchange::new(self.inspection.network.genesis_validators_root);
        let keys =
            validators.iter().map(|index| Ok((*index, self.key(*index)?))).collect::<Result<BTreeMap<_, _>, WatcherError>>()?;
        if let Some(index) = self.inspection.index() {
            file.data = signing_history::histories(index, &self.inspection.network, &keys, form, on_progress)?;
        }
        Ok(file)
    }

    /// Compares a file with the messages that were seen of its keys. `on_progress` receives the
    /// progress.
    pub fn audit(&self, path: &Path, on_progress: &mut dyn FnMut(Walked)) -> Result<Audit, WatcherError> {
        let input = |reason: String| WatcherError::Input { path: path.into(), reason };
        let bytes = read_bounded(path)?;
        let network = &self.inspection.network;
        let file = Interchange::parse(&bytes, network.genesis_validators_root).map_err(|error| input(error.to_string()))?;
        drop(bytes);
        let mut by_key: BTreeMap<PubkeyBytes, Vec<&SigningHistory>> = BTreeMap::new();
        for history in &file.data {
            by_key.entry(history.pubkey).or_default().push(history);
        }
        let indices = self.by_key(by_key.keys().copied());
        let known: BTreeSet<ValidatorIndex> = indices.values().copied().collect();
        let (mut blocks, mut votes) = match self.inspection.index() {
            Some(index) => (
                signing_history::blocks(index, network, &known)?,
                signing_history::votes(index, network, &known, Form::Complete, on_progress)?,
            ),
            None => Default::default(),
        };
        let mut report =
            Audit { schema: 1, network: network.spec.config_name.clone(), coverage: self.coverage()?, ..Audit::default() };
        for (pubkey, histories) in by_key {
            match indices.get(&pubkey) {
                Some(index) => {
                    let (votes, blocks) = (votes.remove(index).unwrap_or_default(), blocks.remove(index).unwrap_or_default());
                    let seen = Seen { votes, blocks };
                    report.totals.keys_never_heard += u64::from(seen == Seen::default());
                    report.add(*index, pubkey, audit(&histories, &seen));
                }
                None => report.unknown_keys.push(pubkey),
            }
        }
        report.validators.sort_by_key(|key| key.index);
        Ok(report)
    }

    fn key(&self, index: ValidatorIndex) -> Result<PubkeyBytes, WatcherError> {
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

/// Reads selectors from a file. A line has one or more, separated by commas or white space. `#`
/// begins a comment.
fn read_list(path: &Path, into: &mut Vec<Selector>) -> Result<(), WatcherError> {
    let bytes = read_bounded(path)?;
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

fn read_bounded(path: &Path) -> Result<Vec<u8>, WatcherError> {
    let input = |reason: String| WatcherError::Input { path: path.into(), reason };
    let length = std::fs::metadata(path).map_err(|error| input(error.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(input(format!("it has {length} bytes; more than {MAX_FILE_BYTES} are not read, split it")));
    }
    std::fs::read(path).map_err(|error| input(error.to_string()))
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
    /// All known keys of the file, ascending by index.
    pub validators: Vec<AuditedKey>,
}

/// Sums over all keys.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub keys: u64,
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
    #[serde(flatten)]
    pub audit: KeyAudit,
}

impl Audit {
    /// Returns whether the file lacks something for any key.
    pub fn lacks_something(&self) -> bool {
        self.totals.keys_lacking > 0
    }

    fn add(&mut self, index: ValidatorIndex, pubkey: PubkeyBytes, audit: KeyAudit) {
        let totals = &mut self.totals;
        totals.keys += 1;
        totals.keys_lacking += u64::from(audit.lacks_something());
        totals.agreeing += audit.agreeing;
        totals.absent_votes += audit.absent_votes.count;
        totals.absent_blocks += audit.absent_blocks.count;
        totals.contradictions += audit.contradictions.count;
        totals.slashable += audit.slashable.count;
        totals.before_record += audit.before_record;
        totals.unheard_votes += audit.unheard_votes;
        totals.unheard_blocks += audit.unheard_blocks;
        self.validators.push(AuditedKey { index, pubkey, audit });
    }
}
