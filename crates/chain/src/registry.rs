//! The validator registry: public keys, and the epochs between which each validator is active. It
//! is compact: 96 bytes for the key, 16 for the record and 4 for the withdrawal credentials.
//!
//! The registry holds the content of the latest state. Where other states differ from it, the
//! differing entries are kept beside it as a *version*. A context that was computed from an earlier
//! state can thus be computed again.
//!
//! Limits: [`MAX_VALIDATORS`] validators; [`MAX_VERSIONS`] versions of at most [`MAX_OVERLAY`]
//! differing entries.

use crate::ChainError;
use crate::builders::Builders;
use crate::pubkeys::{CheckedKey, Progress, PubkeyCache};
use crate::relations;
use blst::min_pk::PublicKey;
use consensus::{BuilderIndex, Epoch, Gwei, Preset, PubkeyBytes, Root, Slot, Validator, ValidatorIndex, is_active_validator};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use tracing::warn;

/// Maximum number of validators: twice the size that mainnet's registry is expected to reach.
pub const MAX_VALIDATORS: usize = 5_000_000;
/// Maximum number of other versions of the active set that are kept.
pub(crate) const MAX_VERSIONS: usize = 3;
/// Maximum number of entries in which a kept version may differ from the current one.
const MAX_OVERLAY: usize = 262_144;
const GWEI_PER_ETH: u64 = 1_000_000_000;
/// `MIN_ACTIVATION_BALANCE` in ETH.
const ACTIVATION_ETH: u64 = 32;
/// How near in Gwei a balance is to `EJECTION_BALANCE` if the validator may be ejected soon: an
/// offline validator loses no more in the two days between two states.
const NEAR_EJECTION: u64 = GWEI_PER_ETH;
/// Number of keys that are passed to the cache at a time. It bounds the memory that is used beside
/// the registry itself.
const KEY_BATCH: usize = 131_072;

/// A validator's record in the latest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub activation_epoch: Epoch,
    pub exit_epoch: Epoch,
    pub withdrawable_epoch: Epoch,
    pub slashed: bool,
    /// In Gwei, but always a whole number of ETH, as in the protocol.
    pub effective_balance: Gwei,
}

impl Record {
    /// `is_active_validator` of the specification.
    pub fn is_active(&self, epoch: Epoch) -> bool {
        is_active_validator(self.activation_epoch, self.exit_epoch, epoch)
    }
}

/// A record with epochs as u32. `u32::MAX` means never. Later epochs are stored as never, too; that
/// many epochs are 50 000 years of mainnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compact {
    activation: u32,
    exit: u32,
    withdrawable: u32,
    /// ETH in the lower 31 bits. The highest bit is set if the validator is slashed.
    balance: u32,
}

const SLASHED_BIT: u32 = 1 << 31;

/// Maps a validator's index to its public key and its record.
#[derive(Debug, Default)]
pub struct Registry {
    keys: Vec<PublicKey>,
    records: Vec<Compact>,
    /// For each validator: the position of its withdrawal credentials in `credentials`.
    credential_numbers: Vec<u32>,
    /// Each value is stored once, because an operator uses the same credentials for thousands of
    /// keys.
    credentials: Vec<Root>,
    /// The bytes of keys that are not valid, by validator index. Such a validator cannot sign
    /// anything.
    invalid: BTreeMap<u32, PubkeyBytes>,
    /// Slot of the state that the registry was read from.
    slot: Slot,
    id: RegistryId,
    /// Number of validators that may become active or inactive although no block shows it.
    n_pending: usize,
    /// [`Self::has_related_keys`] at the time of the last state.
    related_keys: bool,
    versions: Vec<RegistryVersion>,
    /// Number of times a later state named another key for a known index. The first key stays.
    conflicting_keys: u64,
    dropped_versions: u64,
    builders: Builders,
    /// The validators in the order of the first bytes of their keys. Made when a key is first
    /// looked up.
    by_key: OnceLock<Vec<(u32, u32)>>,
}

/// The differences between the registry of another state and the current one.
#[derive(Debug)]
struct RegistryVersion {
    slot: Slot,
    n_validators: usize,
    /// Maps a validator index to its activation and exit epochs in the other state.
    overlay: BTreeMap<u32, (u32, u32)>,
}

/// Identifies the content of the registry together with its kept versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistryId(u64);

/// The registry from which an active set is computed: 0 is the current one, n is the nth kept
/// version.
pub(crate) type VersionNumber = usize;

impl Registry {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the checked, uncompressed key. Returns `None` if the index is unknown or if the key
    /// is not a valid point.
    pub fn pubkey(&self, validator: ValidatorIndex) -> Option<&PublicKey> {
        let index = self.position(validator)?;
        if !self.invalid.is_empty() && self.invalid.contains_key(&(index as u32)) {
            return None;
        }
        self.keys.get(index)
    }

    pub fn pubkey_bytes(&self, validator: ValidatorIndex) -> Option<PubkeyBytes> {
        let index = self.position(validator)?;
        Some(self.compressed(index))
    }

    pub fn record(&self, validator: ValidatorIndex) -> Option<Record> {
        let record = self.records.get(self.position(validator)?)?;
        Some(Record {
            activation_epoch: wide(record.activation),
            exit_epoch: wide(record.exit),
            withdrawable_epoch: wide(record.withdrawable),
            slashed: record.balance & SLASHED_BIT != 0,
            effective_balance: Gwei::new(u64::from(record.balance & !SLASHED_BIT) * GWEI_PER_ETH),
        })
    }

    /// Returns the checked key of a builder in the latest state. Returns `None` if the index is
    /// unknown or if the key is not a valid point.
    pub fn builder_key(&self, builder: BuilderIndex) -> Option<&PublicKey> {
        self.builders.key(builder)
    }

    /// Takes the builders of a state, unless it is older than the latest state: an index can be
    /// given to another builder.
    pub(crate) fn take_builders(&mut self, slot: Slot, keys: Vec<PubkeyBytes>) {
        if slot >= self.slot {
            self.builders.take(keys);
        }
    }

    /// Returns whether sums of different keys are equal. This happens in test networks whose secret
    /// keys are 1, 2, 3, ..., in any order. On such a network a valid signature of one set of
    /// validators is also valid for another set. It does not happen if the keys were made
    /// independently, as on a real network.
    pub fn has_related_keys(&self) -> bool {
        self.related_keys
    }

    /// Returns the withdrawal credentials of a validator in the latest state.
    pub fn withdrawal_credentials(&self, validator: ValidatorIndex) -> Option<Root> {
        self.credentials.get(self.credential_number(validator)? as usize).copied()
    }

    /// Returns a number for a validator's withdrawal credentials. It is the same for equal
    /// credentials, it is below 2^32, and it does not change while the program runs.
    pub fn credential_number(&self, validator: ValidatorIndex) -> Option<u32> {
        self.credential_numbers.get(self.position(validator)?).copied()
    }

    /// Returns the number of validators for each credential number.
    pub fn n_by_credential(&self) -> Vec<u32> {
        let mut counts = vec![0u32; self.credentials.len()];
        for number in &self.credential_numbers {
            counts[*number as usize] += 1;
        }
        counts
    }

    /// Returns the indices of the given keys. Unknown keys are left out. This is one pass over the
    /// registry (about 0.2 s per million validators).
    pub fn indices_of(&self, wanted: &[PubkeyBytes]) -> HashMap<PubkeyBytes, ValidatorIndex> {
        let wanted: std::collections::HashSet<&PubkeyBytes> = wanted.iter().collect();
        let mut found = HashMap::with_capacity(wanted.len());
        if wanted.is_empty() {
            return found;
        }
        for index in 0..self.len() {
            let key = self.compressed(index);
            if wanted.contains(&key) {
                found.entry(key).or_insert(ValidatorIndex::new(index as u64));
            }
        }
        found
    }

    /// Returns the validators with one of these withdrawal credentials, ascending by index. This is
    /// one pass over the registry.
    pub fn with_credentials(&self, wanted: &[Root]) -> Vec<(ValidatorIndex, Root)> {
        let wanted: std::collections::HashSet<&Root> = wanted.iter().collect();
        let is_wanted: Vec<bool> = self.credentials.iter().map(|credentials| wanted.contains(credentials)).collect();
        let all = self.credential_numbers.iter().zip(0u64..).filter(|(number, _)| is_wanted[**number as usize]);
        all.map(|(number, index)| (ValidatorIndex::new(index), self.credentials[*number as usize])).collect()
    }

    /// Slot of the state that the registry was read from.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Number of validators whose key is not a valid point.
    pub fn n_invalid_keys(&self) -> usize {
        self.invalid.len()
    }

    /// Number of times a state named another key for an index than an earlier state. The first key
    /// stays.
    pub fn n_conflicting_keys(&self) -> u64 {
        self.conflicting_keys
    }

    /// Number of versions of the active set that were dropped because [`MAX_VERSIONS`] or their own
    /// bound was reached.
    pub fn n_dropped_versions(&self) -> u64 {
        self.dropped_versions
    }

    /// Returns the number of active validators in an epoch and the sum of their effective balances
    /// in Gwei (a whole number of ETH).
    pub fn active_balance(&self, epoch: Epoch) -> (usize, Gwei) {
        let epoch = narrow(epoch);
        let mut eth = 0u64;
        let mut n = 0;
        for record in self.records.iter().filter(|record| record.activation <= epoch && epoch < record.exit) {
            n += 1;
            eth += u64::from(record.balance & !SLASHED_BIT);
        }
        (n, Gwei::new(eth.saturating_mul(GWEI_PER_ETH)))
    }

    /// Number of validators that may become active or inactive after the latest state although no
    /// block shows it: validators that wait for an activation epoch, deposits that wait to be
    /// applied, and active validators whose balance is near ejection.
    pub(crate) fn n_pending(&self) -> usize {
        self.n_pending
    }

    /// Returns the validator with this key. The first call after a state with new validators sorts
    /// all of them.
    pub(crate) fn index_of(&self, key: &PubkeyBytes) -> Option<u32> {
        // Four bytes are enough: few keys share them, and a whole key would take 52 bytes.
        let start = |key: &PubkeyBytes| key.0.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let by_key = self.by_key.get_or_init(|| {
            let mut order: Vec<(u32, u32)> =
                (0..self.len()).map(|index| (start(&self.compressed(index)), index as u32)).collect();
            order.sort_unstable();
            order
        });
        let wanted = start(key);
        let at = by_key.partition_point(|(begins, _)| *begins < wanted);
        let same = by_key[at..].iter().take_while(|(begins, _)| *begins == wanted);
        same.map(|(_, index)| *index).find(|index| self.compressed(*index as usize) == *key)
    }

    /// Returns the validator with this key. The first call after a state with new validators sorts
    /// all of them, about 0.2 s per million.
    pub fn validator_with(&self, key: &PubkeyBytes) -> Option<ValidatorIndex> {
        self.index_of(key).map(|index| ValidatorIndex::new(u64::from(index)))
    }

    /// Adds the deposits of a state that wait to be applied.
    pub(crate) fn take_pending_deposits(&mut self, slot: Slot, n_deposits: usize) {
        if slot >= self.slot {
            self.n_pending += n_deposits;
        }
    }

    /// A number that grows whenever a state changes when validators are active, and whenever a
    /// state adds validators.
    pub fn version(&self) -> u64 {
        self.id.0
    }

    /// Whether the effective balance of a validator is so low that the network may eject it soon.
    pub(crate) fn is_near_ejection(balance: Gwei, preset: &Preset) -> bool {
        balance.as_u64() <= preset.ejection_balance.saturating_add(NEAR_EJECTION)
    }

    /// Takes the validators of a state. If it is the first or a newer state, it becomes the
    /// registry, and what it changed becomes a version. If it is older, only its differences become
    /// a version.
    pub(crate) fn take(
        &mut self,
        slot: Slot,
        n_validators: usize,
        validators: impl Iterator<Item = Validator>,
        preset: &Preset,
        cache: &mut PubkeyCache,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ChainError> {
        if n_validators > MAX_VALIDATORS {
            return Err(ChainError::TooManyValidators { found: n_validators, limit: MAX_VALIDATORS });
        }
        let had = self.len();
        self.by_key = OnceLock::new();
        let newer = had == 0 || slot >= self.slot;
        let mut differs: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        let mut too_different = false;
        let mut batch: Vec<PubkeyBytes> = Vec::new();
        let mut conflicts = 0u64;
        let mut n_pending = 0;
        let more = n_validators.saturating_sub(had);
        self.records.reserve_exact(more);
        self.keys.reserve_exact(more);
        // This map exists only while a state is read. The table is enough at other times.
        let mut numbers: HashMap<Root, u32> = self.credentials.iter().copied().zip(0u32..).collect();
        for (index, validator) in validators.enumerate() {
            let compact = Compact::from(&validator);
            if index >= self.credential_numbers.len() || newer {
                let next = self.credentials.len() as u32;
                let number = *numbers.entry(validator.withdrawal_credentials).or_insert(next);
                if number == next {
                    self.credentials.push(validator.withdrawal_credentials);
                }
                match self.credential_numbers.get_mut(index) {
                    Some(known) => *known = number,
                    None => self.credential_numbers.push(number),
                }
            }
            n_pending += usize::from(is_pending(&validator, preset));
            if let Some(known) = self.records.get_mut(index).filter(|_| index < had) {
                if (known.activation, known.exit) != (compact.activation, compact.exit) {
                    let theirs = if newer { (known.activation, known.exit) } else { (compact.activation, compact.exit) };
                    if differs.len() < MAX_OVERLAY {
                        differs.insert(index as u32, theirs);
                    } else {
                        too_different = true;
                    }
                }
                if newer {
                    *known = compact;
                }
                conflicts += u64::from(self.compressed(index) != validator.pubkey);
                continue;
            }
            self.records.push(compact);
            batch.push(validator.pubkey);
            if batch.len() >= KEY_BATCH {
                self.add_keys(&batch, n_validators, cache, progress);
                batch.clear();
            }
        }
        self.add_keys(&batch, n_validators, cache, progress);
        if self.len() > had {
            self.related_keys = self.related_keys || relations::are_related(&self.keys);
        }
        if conflicts > 0 {
            self.conflicting_keys += conflicts;
            warn!(conflicts, %slot, "a state has other keys for known validators, the first ones stay; is it from a branch that will be given up?");
        }
        if had > 0 {
            self.keep_version(slot, newer, if newer { had } else { n_validators }, differs, too_different);
        }
        if newer {
            self.slot = slot;
            self.n_pending = n_pending;
        }
        Ok(())
    }

    fn add_keys(&mut self, batch: &[PubkeyBytes], total: usize, cache: &mut PubkeyCache, progress: &mut dyn FnMut(Progress)) {
        if batch.is_empty() {
            return;
        }
        let first = self.keys.len();
        let checked: Vec<CheckedKey> = cache.resolve(first, batch, &mut |p| progress(Progress { total, ..p }));
        for (offset, (key, bytes)) in checked.into_iter().zip(batch).enumerate() {
            if key.is_none() {
                self.invalid.insert((first + offset) as u32, *bytes);
            }
            self.keys.push(key.unwrap_or_default());
        }
    }

    fn keep_version(&mut self, slot: Slot, newer: bool, n: usize, differs: BTreeMap<u32, (u32, u32)>, too_different: bool) {
        if newer {
            // Versions are stored as differences from the current registry, which has just changed.
            for version in &mut self.versions {
                for (index, was) in &differs {
                    if (*index as usize) < version.n_validators {
                        version.overlay.entry(*index).or_insert(*was);
                    }
                }
            }
        }
        let grew = n != self.len();
        if too_different || grew || !differs.is_empty() {
            self.id.0 += 1;
        }
        if self.versions.iter().any(|version| version.n_validators == n && version.overlay == differs) {
            return;
        }
        if too_different {
            self.dropped_versions += 1;
            warn!(%slot, limit = MAX_OVERLAY, "two states differ in too many validators, the earlier active set is forgotten");
        } else if !differs.is_empty() || grew {
            let of_slot = if newer { self.slot } else { slot };
            self.versions.insert(0, RegistryVersion { slot: of_slot, n_validators: n, overlay: differs });
            self.versions.sort_by_key(|version| std::cmp::Reverse(version.slot));
        }
        let before = self.versions.len();
        self.versions.retain(|version| version.overlay.len() <= MAX_OVERLAY);
        self.versions.truncate(MAX_VERSIONS);
        self.dropped_versions += (before - self.versions.len()) as u64;
    }

    /// Lists the versions whose active set in `epoch` may differ from the current one. The current
    /// one (0) comes first.
    pub(crate) fn versions_at(&self, epoch: Epoch) -> Vec<VersionNumber> {
        let epoch = narrow(epoch);
        let active = |activation: u32, exit: u32| activation <= epoch && epoch < exit;
        let mut numbers = vec![0];
        for (nth, version) in self.versions.iter().enumerate() {
            let changed = version.overlay.iter().any(|(index, (activation, exit))| {
                self.records
                    .get(*index as usize)
                    .is_some_and(|now| active(now.activation, now.exit) != active(*activation, *exit))
            });
            let added = self.records.get(version.n_validators..).unwrap_or_default();
            if changed || added.iter().any(|record| active(record.activation, record.exit)) {
                numbers.push(nth + 1);
            }
        }
        numbers
    }

    /// Changes with every state that changes when validators are active.
    pub(crate) fn id(&self) -> RegistryId {
        self.id
    }

    /// Returns the indices of the validators that are active in `epoch`, ascending.
    pub(crate) fn active_at(&self, epoch: Epoch, version: VersionNumber) -> Arc<Vec<u32>> {
        let epoch = narrow(epoch);
        let is_active = |record: &Compact| is_active_validator(record.activation, record.exit, epoch);
        let mut active = Vec::with_capacity(self.len());
        match version.checked_sub(1).and_then(|nth| self.versions.get(nth)) {
            None => active.extend((0u32..).zip(&self.records).filter(|(_, record)| is_active(record)).map(|(index, _)| index)),
            Some(version) => {
                for (index, record) in (0u32..).zip(&self.records).take(version.n_validators) {
                    let there = version.overlay.get(&index).copied().unwrap_or((record.activation, record.exit));
                    if is_active_validator(there.0, there.1, epoch) {
                        active.push(index);
                    }
                }
            }
        }
        active.shrink_to_fit();
        Arc::new(active)
    }

    fn position(&self, validator: ValidatorIndex) -> Option<usize> {
        usize::try_from(validator.as_u64()).ok().filter(|index| *index < self.records.len())
    }

    fn compressed(&self, index: usize) -> PubkeyBytes {
        match self.invalid.get(&(index as u32)) {
            Some(bytes) => *bytes,
            None => self.keys.get(index).map_or(PubkeyBytes::ZERO, |key| PubkeyBytes::from(key.compress())),
        }
    }
}

impl From<&Validator> for Compact {
    fn from(validator: &Validator) -> Self {
        let eth = (validator.effective_balance.as_u64() / GWEI_PER_ETH).min(u64::from(!SLASHED_BIT)) as u32;
        Self {
            activation: narrow(validator.activation_epoch),
            exit: narrow(validator.exit_epoch),
            withdrawable: narrow(validator.withdrawable_epoch),
            balance: eth | if validator.slashed { SLASHED_BIT } else { 0 },
        }
    }
}

/// Returns whether a validator may get an activation or exit epoch although no block shows it.
fn is_pending(validator: &Validator, preset: &Preset) -> bool {
    let eth = validator.effective_balance.as_u64() / GWEI_PER_ETH;
    if validator.activation_epoch == Epoch::FAR_FUTURE {
        return validator.activation_eligibility_epoch != Epoch::FAR_FUTURE || eth >= ACTIVATION_ETH;
    }
    validator.exit_epoch == Epoch::FAR_FUTURE && Registry::is_near_ejection(validator.effective_balance, preset)
}

fn narrow(epoch: Epoch) -> u32 {
    u32::try_from(epoch.as_u64()).unwrap_or(u32::MAX)
}

fn wide(epoch: u32) -> Epoch {
    if epoch == u32::MAX { Epoch::FAR_FUTURE } else { Epoch::new(u64::from(epoch)) }
}
