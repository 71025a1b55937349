//! Who the validators are: keys, and from when to when each is active. Compact: 96 bytes for the key and 16 for the rest.
//!
//! The registry holds what the latest state says. What earlier (or older) states said differently is kept beside it as a
//! *version*: a list of the entries that differ. So a context computed from an earlier state can be computed again.
//!
//! Limits: [`MAX_VALIDATORS`]; [`MAX_VERSIONS`] versions of at most [`MAX_OVERLAY`] differing entries.

use crate::ChainError;
use crate::builders::Builders;
use crate::exits::Forecast;
use crate::pubkeys::{CheckedKey, Progress, PubkeyCache};
use crate::relations;
use blst::min_pk::PublicKey;
use consensus::{BuilderIndex, Epoch, Gwei, PubkeyBytes, Root, Slot, Validator, ValidatorIndex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tracing::warn;

/// Validators held at most: twice the registry that is expected of mainnet.
pub const MAX_VALIDATORS: usize = 5_000_000;
/// Earlier versions of the active set kept at most.
pub(crate) const MAX_VERSIONS: usize = 3;
/// Entries in which a kept version may differ from the current one.
const MAX_OVERLAY: usize = 262_144;
const GWEI_PER_ETH: u64 = 1_000_000_000;
/// `MIN_ACTIVATION_BALANCE`, ETH.
const ACTIVATION_ETH: u64 = 32;
/// `EJECTION_BALANCE`, ETH, and one more: what an inactive validator loses in the two days between two states at most.
const NEAR_EJECTION_ETH: u64 = 16 + 1;
/// Keys handed to the cache at a time: bounds the memory beside the registry itself.
const KEY_BATCH: usize = 131_072;

/// A validator's standing, as the latest state had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub activation_epoch: Epoch,
    pub exit_epoch: Epoch,
    pub withdrawable_epoch: Epoch,
    pub slashed: bool,
    /// Whole ETH in Gwei, as the protocol keeps it.
    pub effective_balance: Gwei,
}

impl Record {
    /// `is_active_validator`.
    pub fn is_active(&self, epoch: Epoch) -> bool {
        self.activation_epoch <= epoch && epoch < self.exit_epoch
    }
}

/// Epochs as u32, `u32::MAX` for never (and for anything beyond: 50 000 years of mainnet).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compact {
    activation: u32,
    exit: u32,
    withdrawable: u32,
    /// ETH in the lower 31 bits, slashed on top.
    balance: u32,
}

const SLASHED_BIT: u32 = 1 << 31;

/// Index -> key and record.
#[derive(Debug, Default)]
pub struct Registry {
    keys: Vec<PublicKey>,
    records: Vec<Compact>,
    /// Position in `credentials` of each validator's withdrawal credentials.
    credential_numbers: Vec<u32>,
    /// Each once; operators use theirs for thousands of keys.
    credentials: Vec<Root>,
    /// Bytes that are no valid key, by index. Such a validator can sign nothing.
    invalid: BTreeMap<u32, PubkeyBytes>,
    /// Slot of the state it is from.
    slot: Slot,
    id: RegistryId,
    /// Who may become active or cease to be without a block that says so.
    n_pending: usize,
    /// [`Self::has_related_keys`], as of the last state.
    related_keys: bool,
    versions: Vec<Version>,
    /// Later states that named another key for a known index; the first one stays.
    conflicting_keys: u64,
    dropped_versions: u64,
    builders: Builders,
    /// Of the latest state, from Electra on: `earliest_exit_epoch` and `exit_balance_to_consume` (Gwei).
    exit_churn: Option<(Epoch, u64)>,
    /// Who leaves by blocks since the latest state, beside the versions of other states.
    forecast: Option<Version>,
}

/// The end of the queue of those who leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitQueue {
    /// The latest exit epoch of anybody, 0 if nobody leaves.
    pub last: Epoch,
    /// Validators that leave then.
    pub n_at_last: u64,
    /// From Electra on: `earliest_exit_epoch` and `exit_balance_to_consume` (Gwei).
    pub by_balance: Option<(Epoch, u64)>,
}

/// How another state's registry differs from the current one.
#[derive(Debug)]
struct Version {
    slot: Slot,
    n_validators: usize,
    /// index -> (activation, exit) there.
    overlay: BTreeMap<u32, (u32, u32)>,
}

/// Names what the registry and its kept versions say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistryId(u64);

/// Which registry an active set was taken from: 0 the current one, else the nth kept version.
pub(crate) type VersionNumber = usize;

impl Registry {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The checked, uncompressed key; `None` for an unknown index or a key that is no valid point.
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

    /// The checked key of a builder, as the latest state had it; `None` for an unknown index or a key that is no valid point.
    pub fn builder_key(&self, builder: BuilderIndex) -> Option<&PublicKey> {
        self.builders.key(builder)
    }

    /// A state's builders: the latest state's count, since an index can go to another builder.
    pub(crate) fn take_builders(&mut self, slot: Slot, keys: Vec<PubkeyBytes>) {
        if slot >= self.slot {
            self.builders.take(keys);
        }
    }

    /// Whether sums of different keys coincide, as in test networks whose secret keys are 1, 2, 3, ..., in whatever order. There a good
    /// signature of one set of validators verifies for another. Keys that were made independently do not do that, and those on a real
    /// network are.
    pub fn has_related_keys(&self) -> bool {
        self.related_keys
    }

    /// Withdrawal credentials, as the latest state had them.
    pub fn withdrawal_credentials(&self, validator: ValidatorIndex) -> Option<Root> {
        self.credentials.get(self.credential_number(validator)? as usize).copied()
    }

    /// Stands for a validator's withdrawal credentials: equal for equal ones, below 2^32, stable while the program runs.
    pub fn credential_number(&self, validator: ValidatorIndex) -> Option<u32> {
        self.credential_numbers.get(self.position(validator)?).copied()
    }

    /// How many validators there are of each credential number.
    pub fn n_by_credential(&self) -> Vec<u32> {
        let mut counts = vec![0u32; self.credentials.len()];
        for number in &self.credential_numbers {
            counts[*number as usize] += 1;
        }
        counts
    }

    /// The indices of the given keys, in one pass over the registry (about 0.2 s per million); unknown ones are left out.
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

    /// Validators with one of these withdrawal credentials, ascending by index, in one pass over the registry.
    pub fn with_credentials(&self, wanted: &[Root]) -> Vec<(ValidatorIndex, Root)> {
        let wanted: std::collections::HashSet<&Root> = wanted.iter().collect();
        let is_wanted: Vec<bool> = self.credentials.iter().map(|credentials| wanted.contains(credentials)).collect();
        let all = self.credential_numbers.iter().zip(0u64..).filter(|(number, _)| is_wanted[**number as usize]);
        all.map(|(number, index)| (ValidatorIndex::new(index), self.credentials[*number as usize])).collect()
    }

    /// Slot of the state it is from.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Validators whose key is no valid point.
    pub fn n_invalid_keys(&self) -> usize {
        self.invalid.len()
    }

    /// States that named another key for an index than an earlier one did.
    pub fn n_conflicting_keys(&self) -> u64 {
        self.conflicting_keys
    }

    /// Versions of the active set that were dropped because [`MAX_VERSIONS`] or their own bound was reached.
    pub fn n_dropped_versions(&self) -> u64 {
        self.dropped_versions
    }

    /// Active validators and the sum of their effective balances (whole ETH, in Gwei) at an epoch.
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

    /// Who may become active or cease to be active after the latest state without a block that says so: validators that wait for an
    /// activation epoch, deposits that wait to be applied, active validators whose balance is near ejection.
    pub(crate) fn n_pending(&self) -> usize {
        self.n_pending
    }

    /// Exit epochs by blocks since the latest state. They stand beside what the state says, as a version, until a later state tells.
    pub(crate) fn set_forecast(&mut self, forecast: &Forecast) {
        let overlay: BTreeMap<u32, (u32, u32)> = forecast
            .iter()
            .filter_map(|(validator, exit)| {
                let index = self.position(*validator)?;
                Some((index as u32, (self.records[index].activation, narrow(*exit))))
            })
            .collect();
        if overlay == self.forecast.as_ref().map(|version| &version.overlay).cloned().unwrap_or_default() {
            return;
        }
        let version = Version { slot: self.slot, n_validators: self.len(), overlay };
        self.forecast = Some(version).filter(|version| !version.overlay.is_empty());
        self.id.0 += 1;
    }

    /// Those of other states, then what blocks say.
    fn other_versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().chain(&self.forecast)
    }

    /// A state's own account of the exit queue, which states have from Electra on.
    pub(crate) fn take_exit_churn(&mut self, slot: Slot, churn: Option<(Epoch, u64)>) {
        if slot >= self.slot {
            self.exit_churn = churn;
        }
    }

    /// The end of the queue of those who leave, as of the latest state.
    pub(crate) fn exit_queue(&self) -> ExitQueue {
        let mut queue = ExitQueue { last: Epoch::new(0), n_at_last: 0, by_balance: self.exit_churn };
        for exit in self.records.iter().map(|record| wide(record.exit)).filter(|exit| *exit != Epoch::FAR_FUTURE) {
            if exit > queue.last {
                (queue.last, queue.n_at_last) = (exit, 0);
            }
            queue.n_at_last += u64::from(exit == queue.last);
        }
        queue
    }

    /// Deposits of a state that wait to be applied.
    pub(crate) fn take_pending_deposits(&mut self, slot: Slot, n_deposits: usize) {
        if slot >= self.slot {
            self.n_pending += n_deposits;
        }
    }

    /// Grows whenever a state changes who is active when, or adds validators.
    pub fn version(&self) -> u64 {
        self.id.0
    }

    /// Takes a state's validators: the first state's, a later one's (what it changes becomes a version), or an older one's (a version only).
    pub(crate) fn take(
        &mut self,
        slot: Slot,
        n_validators: usize,
        validators: impl Iterator<Item = Validator>,
        cache: &mut PubkeyCache,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ChainError> {
        if n_validators > MAX_VALIDATORS {
            return Err(ChainError::TooManyValidators { found: n_validators, limit: MAX_VALIDATORS });
        }
        let had = self.len();
        let newer = had == 0 || slot >= self.slot;
        let mut differs: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        let mut too_different = false;
        let mut batch: Vec<PubkeyBytes> = Vec::new();
        let mut conflicts = 0u64;
        let mut n_pending = 0;
        let more = n_validators.saturating_sub(had);
        self.records.reserve_exact(more);
        self.keys.reserve_exact(more);
        // Only while a state is read: between two states the table is enough.
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
            n_pending += usize::from(is_pending(&validator));
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
            // The kept versions are told as differences from the current one, which has just changed.
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
            self.versions.insert(0, Version { slot: of_slot, n_validators: n, overlay: differs });
            self.versions.sort_by_key(|version| std::cmp::Reverse(version.slot));
        }
        let before = self.versions.len();
        self.versions.retain(|version| version.overlay.len() <= MAX_OVERLAY);
        self.versions.truncate(MAX_VERSIONS);
        self.dropped_versions += (before - self.versions.len()) as u64;
    }

    /// Versions whose active set at `epoch` may differ from the current one's, the current one (0) first.
    pub(crate) fn versions_at(&self, epoch: Epoch) -> Vec<VersionNumber> {
        let epoch = narrow(epoch);
        let active = |activation: u32, exit: u32| activation <= epoch && epoch < exit;
        let mut numbers = vec![0];
        for (nth, version) in self.other_versions().enumerate() {
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

    /// Changes with every state that changes who is active when.
    pub(crate) fn id(&self) -> RegistryId {
        self.id
    }

    /// Indices of the validators active at `epoch`, ascending.
    pub(crate) fn active_at(&self, epoch: Epoch, version: VersionNumber) -> Arc<Vec<u32>> {
        let epoch = narrow(epoch);
        let is_active = |record: &Compact| record.activation <= epoch && epoch < record.exit;
        let mut active = Vec::with_capacity(self.len());
        match version.checked_sub(1).and_then(|nth| self.other_versions().nth(nth)) {
            None => active.extend((0u32..).zip(&self.records).filter(|(_, record)| is_active(record)).map(|(index, _)| index)),
            Some(version) => {
                for (index, record) in (0u32..).zip(&self.records).take(version.n_validators) {
                    let there = version.overlay.get(&index).copied().unwrap_or((record.activation, record.exit));
                    if there.0 <= epoch && epoch < there.1 {
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

/// Whether it may get an activation or exit epoch without a block that says so.
fn is_pending(validator: &Validator) -> bool {
    let eth = validator.effective_balance.as_u64() / GWEI_PER_ETH;
    if validator.activation_epoch == Epoch::FAR_FUTURE {
        return validator.activation_eligibility_epoch != Epoch::FAR_FUTURE || eth >= ACTIVATION_ETH;
    }
    validator.exit_epoch == Epoch::FAR_FUTURE && eth <= NEAR_EJECTION_ETH
}

fn narrow(epoch: Epoch) -> u32 {
    u32::try_from(epoch.as_u64()).unwrap_or(u32::MAX)
}

fn wide(epoch: u32) -> Epoch {
    if epoch == u32::MAX { Epoch::FAR_FUTURE } else { Epoch::new(u64::from(epoch)) }
}
