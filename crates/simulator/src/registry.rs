//! The registry of a simulated network that moves: deposits, exits, slashings, requests of the
//! execution layer, and what the end of an epoch makes of them.
//!
//! It follows the text of the specification function by function, over the whole list of validators
//! and without any shortcut, because what the watcher follows is compared with it. It knows the
//! balances. Left out are rewards, the penalties of inactivity and correlation, and the sweep of
//! withdrawals. Source: consensus-specs, `beacon-chain.md` and `fork.md` of phase0, Capella, Deneb
//! and Electra.

use crate::block::BlockBody;
use crate::branch::Branch;
use crate::containers::signed;
use crate::genesis::{EFFECTIVE_BALANCE, fork_version};
use crate::keys::infinity_signature;
use crate::proposer::drawn;
use crate::ssz::SszValue;
use crate::world::World;
use consensus::{
    DomainType, Epoch, ForkName, Gwei, Preset, PubkeyBytes, Root, SignatureBytes, Slot, ValidatorIndex, compute_domain,
    signing_root,
};
use std::collections::BTreeSet;

const NEVER: u64 = u64::MAX;
const INCREMENT: u64 = 1_000_000_000;
const MIN_ACTIVATION_BALANCE: u64 = 32 * INCREMENT;
const MAX_EFFECTIVE_BALANCE_ELECTRA: u64 = 2048 * INCREMENT;
const MAX_SEED_LOOKAHEAD: u64 = 4;
const MAX_PENDING_DEPOSITS_PER_EPOCH: usize = 16;
/// The effective balance of a validator that the network ejects.
pub(crate) const EJECTED_BALANCE: u64 = 16 * INCREMENT;

/// An operation that a block carries, or that its payload asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Before Electra an operation of the block, from Electra on a deposit request with this
    /// number.
    Deposit(DepositMade, u64),
    Exit {
        validator: ValidatorIndex,
        epoch: Epoch,
        signature: SignatureBytes,
    },
    /// `amount` is 0 if the validator is to exit.
    Withdrawal {
        source: [u8; 20],
        pubkey: PubkeyBytes,
        amount: u64,
    },
    Consolidation {
        address: [u8; 20],
        source: PubkeyBytes,
        target: PubkeyBytes,
    },
}

/// A deposit with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DepositMade {
    pub(crate) pubkey: PubkeyBytes,
    pub(crate) credentials: [u8; 32],
    pub(crate) amount: u64,
    pub(crate) signature: SignatureBytes,
    /// Whether the signature holds.
    pub(crate) is_signed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelValidator {
    pub(crate) pubkey: PubkeyBytes,
    pub(crate) credentials: [u8; 32],
    pub(crate) balance: u64,
    pub(crate) effective: u64,
    pub(crate) slashed: bool,
    eligible: u64,
    pub(crate) activation: u64,
    pub(crate) exit: u64,
    pub(crate) withdrawable: u64,
}

impl ModelValidator {
    fn new(pubkey: PubkeyBytes, credentials: [u8; 32], balance: u64) -> Self {
        let mut made = Self {
            pubkey,
            credentials,
            balance,
            effective: 0,
            slashed: false,
            eligible: NEVER,
            activation: NEVER,
            exit: NEVER,
            withdrawable: NEVER,
        };
        made.effective = (balance - balance % INCREMENT).min(made.most_effective());
        made
    }

    fn is_compounding(&self) -> bool {
        self.credentials[0] == 2
    }

    fn most_effective(&self) -> u64 {
        if self.is_compounding() { MAX_EFFECTIVE_BALANCE_ELECTRA } else { MIN_ACTIVATION_BALANCE }
    }

    pub(crate) fn is_active(&self, epoch: u64) -> bool {
        self.activation <= epoch && epoch < self.exit
    }
}

#[derive(Clone, Debug)]
struct PendingDeposit {
    made: DepositMade,
    slot: u64,
}

/// The registry with its queues, at the present epoch.
#[derive(Clone, Debug)]
pub(crate) struct MovingRegistry {
    preset: Preset,
    fork: ForkName,
    epoch: u64,
    pub(crate) validators: Vec<ModelValidator>,
    pub(crate) finalized: u64,
    justified: BTreeSet<u64>,
    deposits: Vec<PendingDeposit>,
    partial_withdrawals: Vec<(usize, u64, u64)>,
    consolidations: Vec<(usize, usize)>,
    eth1_deposit_index: u64,
    deposit_requests_start_index: u64,
    deposit_balance_to_consume: u64,
    exit_balance_to_consume: u64,
    earliest_exit_epoch: u64,
    consolidation_balance_to_consume: u64,
    earliest_consolidation_epoch: u64,
    /// Number of deposits of both kinds so far, those at genesis included.
    pub(crate) n_deposits: u64,
}

impl MovingRegistry {
    /// All validators are active from genesis on. Every eighth has compounding credentials if the
    /// fork has them.
    pub(crate) fn at_genesis(preset: &Preset, fork: ForkName, pubkeys: &[PubkeyBytes]) -> Self {
        let validators = pubkeys.iter().enumerate().map(|(index, pubkey)| {
            let is_compounding = fork >= ForkName::Electra && index % 8 == 0;
            let mut made = ModelValidator::new(*pubkey, credentials(pubkey, is_compounding), EFFECTIVE_BALANCE);
            (made.eligible, made.activation) = (0, 0);
            made
        });
        Self {
            preset: preset.clone(),
            fork,
            epoch: 0,
            validators: validators.collect(),
            finalized: 0,
            justified: BTreeSet::new(),
            deposits: Vec::new(),
            partial_withdrawals: Vec::new(),
            consolidations: Vec::new(),
            eth1_deposit_index: pubkeys.len() as u64,
            deposit_requests_start_index: NEVER,
            deposit_balance_to_consume: 0,
            exit_balance_to_consume: 0,
            earliest_exit_epoch: 0,
            consolidation_balance_to_consume: 0,
            earliest_consolidation_epoch: 0,
            n_deposits: pubkeys.len() as u64,
        }
    }

    /// The indices that are active in an epoch, at most four epochs after the present one.
    pub(crate) fn active(&self, epoch: Epoch) -> Vec<u32> {
        (0u32..).zip(&self.validators).filter(|(_, one)| one.is_active(epoch.as_u64())).map(|(index, _)| index).collect()
    }

    fn is_electra(&self) -> bool {
        self.fork >= ForkName::Electra
    }

    /// Whether a validator may leave on its own wish.
    pub(crate) fn may_leave(&self, index: usize) -> bool {
        let one = &self.validators[index];
        one.is_active(self.epoch) && one.exit == NEVER && self.epoch >= one.activation + self.preset.shard_committee_period
    }

    fn index_of(&self, pubkey: &PubkeyBytes) -> Option<usize> {
        self.validators.iter().position(|one| one.pubkey == *pubkey)
    }

    fn total_active(&self) -> u64 {
        let active = self.validators.iter().filter(|one| one.is_active(self.epoch));
        active.map(|one| one.effective).sum::<u64>().max(INCREMENT)
    }

    /// `get_balance_churn_limit`.
    fn balance_churn(&self) -> u64 {
        let churn = self.preset.min_per_epoch_churn_limit_electra.max(self.total_active() / self.preset.churn_limit_quotient);
        churn - churn % INCREMENT
    }

    /// `get_activation_exit_churn_limit`.
    fn exit_churn(&self) -> u64 {
        self.balance_churn().min(self.preset.max_per_epoch_activation_exit_churn_limit)
    }

    /// `get_validator_churn_limit`.
    fn validator_churn(&self) -> u64 {
        let n_active = self.validators.iter().filter(|one| one.is_active(self.epoch)).count() as u64;
        self.preset.min_per_epoch_churn_limit.max(n_active / self.preset.churn_limit_quotient)
    }

    /// The operations of a block in their order: slashings, deposits, exits, requests.
    pub(crate) fn apply_block(&mut self, slot: Slot, slashed: &[ValidatorIndex], operations: &[Operation]) {
        while self.partial_withdrawals.first().is_some_and(|(_, _, epoch)| *epoch <= self.epoch) {
            let (index, amount, _) = self.partial_withdrawals.remove(0);
            let one = &mut self.validators[index];
            if one.exit == NEVER {
                one.balance -= amount.min(one.balance.saturating_sub(MIN_ACTIVATION_BALANCE));
            }
        }
        slashed.iter().for_each(|validator| self.slash(validator.as_u64() as usize));
        for operation in operations {
            match operation {
                Operation::Deposit(made, number) => self.deposit(slot, made, *number),
                Operation::Exit { validator, .. } => self.initiate_exit(validator.as_u64() as usize),
                Operation::Withdrawal { source, pubkey, amount } => self.request_withdrawal(source, pubkey, *amount),
                Operation::Consolidation { address, source, target } => self.request_consolidation(address, source, target),
            }
        }
    }

    /// `slash_validator`.
    fn slash(&mut self, index: usize) {
        let one = &self.validators[index];
        if one.slashed || self.epoch < one.activation || one.withdrawable <= self.epoch {
            return;
        }
        self.initiate_exit(index);
        let (epoch, vector) = (self.epoch, self.preset.epochs_per_slashings_vector);
        let quotient = match self.fork {
            ForkName::Phase0 => 128,
            ForkName::Altair => 64,
            fork if fork < ForkName::Electra => 32,
            _ => 4096,
        };
        let one = &mut self.validators[index];
        one.slashed = true;
        one.withdrawable = one.withdrawable.max(epoch + vector);
        one.balance -= one.effective / quotient;
    }

    /// `initiate_validator_exit`.
    fn initiate_exit(&mut self, index: usize) {
        if self.validators[index].exit != NEVER {
            return;
        }
        let exit = if self.is_electra() {
            self.compute_exit_epoch(self.validators[index].effective)
        } else {
            let leaving = self.validators.iter().map(|one| one.exit).filter(|exit| *exit != NEVER);
            let mut exit = leaving.max().unwrap_or(0).max(self.epoch + 1 + MAX_SEED_LOOKAHEAD);
            if self.validators.iter().filter(|one| one.exit == exit).count() as u64 >= self.validator_churn() {
                exit += 1;
            }
            exit
        };
        self.set_exit(index, exit);
    }

    fn set_exit(&mut self, index: usize, exit: u64) {
        let delay = self.preset.min_validator_withdrawability_delay;
        let one = &mut self.validators[index];
        (one.exit, one.withdrawable) = (exit, exit + delay);
    }

    /// `compute_exit_epoch_and_update_churn`.
    fn compute_exit_epoch(&mut self, exit_balance: u64) -> u64 {
        let mut earliest = self.earliest_exit_epoch.max(self.epoch + 1 + MAX_SEED_LOOKAHEAD);
        let per_epoch = self.exit_churn();
        let mut to_consume = if self.earliest_exit_epoch < earliest { per_epoch } else { self.exit_balance_to_consume };
        if exit_balance > to_consume {
            let additional = (exit_balance - to_consume - 1) / per_epoch + 1;
            earliest += additional;
            to_consume += additional * per_epoch;
        }
        self.exit_balance_to_consume = to_consume - exit_balance;
        self.earliest_exit_epoch = earliest;
        earliest
    }

    /// `compute_consolidation_epoch_and_update_churn`.
    fn compute_consolidation_epoch(&mut self, balance: u64) -> u64 {
        let mut earliest = self.earliest_consolidation_epoch.max(self.epoch + 1 + MAX_SEED_LOOKAHEAD);
        let per_epoch = self.balance_churn() - self.exit_churn();
        let is_new = self.earliest_consolidation_epoch < earliest;
        let mut to_consume = if is_new { per_epoch } else { self.consolidation_balance_to_consume };
        if balance > to_consume {
            let additional = (balance - to_consume - 1) / per_epoch + 1;
            earliest += additional;
            to_consume += additional * per_epoch;
        }
        self.consolidation_balance_to_consume = to_consume - balance;
        self.earliest_consolidation_epoch = earliest;
        earliest
    }

    fn deposit(&mut self, slot: Slot, made: &DepositMade, number: u64) {
        self.n_deposits += 1;
        if self.is_electra() {
            // `process_deposit_request`.
            if self.deposit_requests_start_index == NEVER {
                self.deposit_requests_start_index = number;
            }
            self.deposits.push(PendingDeposit { made: made.clone(), slot: slot.as_u64() });
            return;
        }
        self.eth1_deposit_index += 1;
        self.apply_deposit(made);
    }

    fn apply_deposit(&mut self, made: &DepositMade) {
        match self.index_of(&made.pubkey) {
            Some(index) => self.validators[index].balance += made.amount,
            None if made.is_signed => self.validators.push(ModelValidator::new(made.pubkey, made.credentials, made.amount)),
            None => {}
        }
    }

    /// `process_withdrawal_request`.
    fn request_withdrawal(&mut self, source: &[u8; 20], pubkey: &PubkeyBytes, amount: u64) {
        let Some(index) = self.index_of(pubkey) else { return };
        let one = &self.validators[index];
        if one.credentials[12..] != source[..] || !self.may_leave(index) {
            return;
        }
        let waiting: u64 = self.partial_withdrawals.iter().filter(|(of, _, _)| *of == index).map(|(_, amount, _)| amount).sum();
        if amount == 0 {
            if waiting == 0 {
                self.initiate_exit(index);
            }
            return;
        }
        let has_excess = one.balance > MIN_ACTIVATION_BALANCE + waiting;
        if one.is_compounding() && one.effective >= MIN_ACTIVATION_BALANCE && has_excess {
            let amount = amount.min(one.balance - MIN_ACTIVATION_BALANCE - waiting);
            let exit = self.compute_exit_epoch(amount);
            self.partial_withdrawals.push((index, amount, exit + self.preset.min_validator_withdrawability_delay));
        }
    }

    /// `process_consolidation_request`.
    fn request_consolidation(&mut self, address: &[u8; 20], source: &PubkeyBytes, target: &PubkeyBytes) {
        let (Some(source), Some(target)) = (self.index_of(source), self.index_of(target)) else { return };
        let (from, to) = (&self.validators[source], &self.validators[target]);
        if from.credentials[12..] != address[..] {
            return;
        }
        if source == target {
            // `switch_to_compounding_validator`.
            if from.credentials[0] == 1 && from.is_active(self.epoch) && from.exit == NEVER {
                let one = &mut self.validators[source];
                one.credentials[0] = 2;
                let excess = one.balance.saturating_sub(MIN_ACTIVATION_BALANCE);
                if excess > 0 {
                    one.balance = MIN_ACTIVATION_BALANCE;
                    let (pubkey, credentials) = (one.pubkey, one.credentials);
                    self.queue_balance(pubkey, credentials, excess);
                }
            }
            return;
        }
        let waits = self.partial_withdrawals.iter().any(|(of, _, _)| *of == source);
        let has_room = self.balance_churn() - self.exit_churn() > MIN_ACTIVATION_BALANCE;
        let stays = to.is_active(self.epoch) && to.exit == NEVER;
        if !has_room || !to.is_compounding() || !stays || waits || !self.may_leave(source) {
            return;
        }
        let exit = self.compute_consolidation_epoch(self.validators[source].effective);
        self.set_exit(source, exit);
        self.consolidations.push((source, target));
    }

    fn queue_balance(&mut self, pubkey: PubkeyBytes, credentials: [u8; 32], amount: u64) {
        let made = DepositMade { pubkey, credentials, amount, signature: infinity_signature(), is_signed: false };
        self.deposits.push(PendingDeposit { made, slot: 0 });
    }

    /// `process_epoch` of the present epoch, and the upgrade to the fork of the next one. `chain`
    /// knows what the votes have justified up to the beginning of the next epoch.
    pub(crate) fn end_epoch(&mut self, chain: &Branch, next_fork: ForkName) {
        self.finalize(chain);
        self.update_registry();
        if self.is_electra() {
            self.process_pending_deposits();
            self.process_pending_consolidations();
        }
        self.update_effective_balances();
        self.epoch += 1;
        let was_electra = self.is_electra();
        self.fork = next_fork;
        if self.is_electra() && !was_electra {
            self.upgrade_to_electra();
        }
    }

    /// `weigh_justification_and_finalization`.
    fn finalize(&mut self, chain: &Branch) {
        let epoch = self.epoch;
        if epoch < 2 {
            return;
        }
        let source = |epoch: u64| chain.source(Epoch::new(epoch)).epoch.as_u64();
        let (previous, current, next) = (source(epoch - 1), source(epoch), source(epoch + 1));
        self.justified.insert(next);
        let all = |from: u64, to: u64| (from..=to).all(|nth| epoch >= nth && self.justified.contains(&(epoch - nth)));
        if all(1, 3) && previous + 3 == epoch || all(1, 2) && previous + 2 == epoch {
            self.finalized = previous;
        }
        if all(0, 2) && current + 2 == epoch || all(0, 1) && current + 1 == epoch {
            self.finalized = current;
        }
    }

    /// `process_registry_updates`.
    fn update_registry(&mut self) {
        let (epoch, activation) = (self.epoch, self.epoch + 1 + MAX_SEED_LOOKAHEAD);
        for index in 0..self.validators.len() {
            let one = &mut self.validators[index];
            let has_enough = one.effective >= MIN_ACTIVATION_BALANCE;
            if one.eligible == NEVER && has_enough {
                one.eligible = epoch + 1;
            } else if one.is_active(epoch) && one.effective <= self.preset.ejection_balance {
                self.initiate_exit(index);
            } else if self.is_electra() && self.validators[index].activation == NEVER {
                let one = &mut self.validators[index];
                if one.eligible <= self.finalized {
                    one.activation = activation;
                }
            }
        }
        if self.is_electra() {
            return;
        }
        let waits = |one: &ModelValidator| one.eligible <= self.finalized && one.activation == NEVER;
        let mut queue: Vec<(u64, usize)> =
            self.validators.iter().enumerate().filter(|(_, one)| waits(one)).map(|(index, one)| (one.eligible, index)).collect();
        queue.sort_unstable();
        let most = if self.fork >= ForkName::Deneb { self.preset.max_per_epoch_activation_churn_limit } else { u64::MAX };
        queue.truncate(self.validator_churn().min(most) as usize);
        for (_, index) in queue {
            self.validators[index].activation = activation;
        }
    }

    /// `process_pending_deposits`.
    fn process_pending_deposits(&mut self) {
        let available = self.deposit_balance_to_consume + self.exit_churn();
        let finalized_slot = self.finalized * self.preset.slots_per_epoch;
        let (mut processed, mut nth, mut is_limited) = (0, 0, false);
        let mut postponed = Vec::new();
        for deposit in self.deposits.clone() {
            let is_bridge_open = self.eth1_deposit_index < self.deposit_requests_start_index;
            if deposit.slot > 0 && is_bridge_open || deposit.slot > finalized_slot || nth >= MAX_PENDING_DEPOSITS_PER_EPOCH {
                break;
            }
            let owner = self.index_of(&deposit.made.pubkey).map(|index| &self.validators[index]);
            let (is_exited, is_withdrawn) =
                owner.map_or((false, false), |one| (one.exit < NEVER, one.withdrawable < self.epoch + 1));
            if is_withdrawn {
                self.apply_deposit(&deposit.made);
            } else if is_exited {
                postponed.push(deposit);
            } else {
                is_limited = processed + deposit.made.amount > available;
                if is_limited {
                    break;
                }
                processed += deposit.made.amount;
                self.apply_deposit(&deposit.made);
            }
            nth += 1;
        }
        self.deposits.drain(..nth);
        self.deposits.extend(postponed);
        self.deposit_balance_to_consume = if is_limited { available - processed } else { 0 };
    }

    /// `process_pending_consolidations`.
    fn process_pending_consolidations(&mut self) {
        while let Some((source, target)) = self.consolidations.first().copied() {
            if !self.validators[source].slashed {
                if self.validators[source].withdrawable > self.epoch + 1 {
                    break;
                }
                let amount = self.validators[source].balance.min(self.validators[source].effective);
                self.validators[source].balance -= amount;
                self.validators[target].balance += amount;
            }
            self.consolidations.remove(0);
        }
    }

    /// `process_effective_balance_updates`.
    fn update_effective_balances(&mut self) {
        for one in &mut self.validators {
            if one.balance + INCREMENT / 4 < one.effective || one.effective + INCREMENT / 4 * 5 < one.balance {
                one.effective = (one.balance - one.balance % INCREMENT).min(one.most_effective());
            }
        }
    }

    /// `upgrade_to_electra`.
    fn upgrade_to_electra(&mut self) {
        let last = self.validators.iter().map(|one| one.exit).filter(|exit| *exit != NEVER).max().unwrap_or(0);
        self.earliest_exit_epoch = last.max(self.epoch + 1 + MAX_SEED_LOOKAHEAD) + 1;
        self.exit_balance_to_consume = self.exit_churn();
        self.earliest_consolidation_epoch = self.epoch + 1 + MAX_SEED_LOOKAHEAD;
        self.consolidation_balance_to_consume = self.balance_churn() - self.exit_churn();
        self.deposit_requests_start_index = NEVER;
        let inactive = self.validators.iter().enumerate().filter(|(_, one)| one.activation == NEVER);
        let mut order: Vec<(u64, usize)> = inactive.map(|(index, one)| (one.eligible, index)).collect();
        order.sort_unstable();
        for (_, index) in order {
            let one = &mut self.validators[index];
            let balance = std::mem::take(&mut one.balance);
            (one.effective, one.eligible) = (0, NEVER);
            let (pubkey, credentials) = (one.pubkey, one.credentials);
            self.queue_balance(pubkey, credentials, balance);
        }
    }

    /// The balance of a validator falls to what the network ejects. No block tells that.
    pub(crate) fn leak(&mut self, index: usize) {
        let one = &mut self.validators[index];
        (one.balance, one.effective) = (EJECTED_BALANCE, EJECTED_BALANCE);
    }

    /// `List[Validator]` items of a state.
    pub(crate) fn validator_values(&self) -> Vec<SszValue> {
        let value = |one: &ModelValidator| {
            SszValue::Container(vec![
                SszValue::bytes(one.pubkey.as_slice()),
                SszValue::bytes(&one.credentials),
                SszValue::u64(one.effective),
                SszValue::bytes(&[u8::from(one.slashed)]),
                SszValue::u64(one.eligible),
                SszValue::u64(one.activation),
                SszValue::u64(one.exit),
                SszValue::u64(one.withdrawable),
            ])
        };
        self.validators.iter().map(value).collect()
    }

    /// The fields of an Electra state from `deposit_requests_start_index` to
    /// `pending_consolidations`.
    pub(crate) fn queue_values(&self) -> Vec<SszValue> {
        let numbers = [
            self.deposit_requests_start_index,
            self.deposit_balance_to_consume,
            self.exit_balance_to_consume,
            self.earliest_exit_epoch,
            self.consolidation_balance_to_consume,
            self.earliest_consolidation_epoch,
        ];
        let deposit = |one: &PendingDeposit| {
            let mut fields = one.made.fields();
            fields.push(SszValue::u64(one.slot));
            SszValue::Container(fields)
        };
        let pair = |first: u64, rest: &[u64]| {
            SszValue::Container(std::iter::once(first).chain(rest.iter().copied()).map(SszValue::u64).collect())
        };
        let partial = self.partial_withdrawals.iter().map(|(index, amount, epoch)| pair(*index as u64, &[*amount, *epoch]));
        let consolidations = self.consolidations.iter().map(|(source, target)| pair(*source as u64, &[*target as u64]));
        let list = |items: Vec<SszValue>, limit| SszValue::List { items, limit };
        let mut values: Vec<SszValue> = numbers.into_iter().map(SszValue::u64).collect();
        values.push(list(self.deposits.iter().map(deposit).collect(), 1 << 27));
        values.push(list(partial.collect(), self.preset.pending_partial_withdrawals_limit));
        values.push(list(consolidations.collect(), self.preset.pending_consolidations_limit));
        values
    }

    pub(crate) fn eth1_deposit_index(&self) -> u64 {
        self.eth1_deposit_index
    }

    /// `justification_bits` at the beginning of the present epoch.
    pub(crate) fn justification_bits(&self) -> u8 {
        let is_justified = |nth: &u64| self.epoch > *nth && self.justified.contains(&(self.epoch - 1 - nth));
        (0..4).filter(is_justified).fold(0, |bits, nth| bits | 1 << nth)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }

    /// What a state says of each validator, by index.
    pub(crate) fn records(&self) -> Vec<RegistryRecord> {
        let record = |one: &ModelValidator| RegistryRecord {
            activation: Epoch::new(one.activation),
            exit: Epoch::new(one.exit),
            withdrawable: Epoch::new(one.withdrawable),
            slashed: one.slashed,
        };
        self.validators.iter().map(record).collect()
    }
}

/// What a state says of a validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RegistryRecord {
    pub activation: Epoch,
    pub exit: Epoch,
    pub withdrawable: Epoch,
    pub slashed: bool,
}

impl DepositMade {
    /// The fields of `DepositData`.
    pub(crate) fn fields(&self) -> Vec<SszValue> {
        let mut fields = self.message_fields();
        fields.push(SszValue::bytes(self.signature.as_slice()));
        fields
    }

    fn message_fields(&self) -> Vec<SszValue> {
        vec![SszValue::bytes(self.pubkey.as_slice()), SszValue::bytes(&self.credentials), SszValue::u64(self.amount)]
    }

    /// Hash-tree-root of the `DepositMessage`.
    pub(crate) fn message_root(&self) -> Root {
        SszValue::Container(self.message_fields()).root()
    }
}

impl Operation {
    /// `Deposit` with an empty proof, `SignedVoluntaryExit`, or the request. `fork` is that of the
    /// block.
    fn to_value(&self, fork: ForkName) -> SszValue {
        match self {
            Self::Deposit(made, number) if fork >= ForkName::Electra => {
                let mut fields = made.fields();
                fields.push(SszValue::u64(*number));
                SszValue::Container(fields)
            }
            Self::Deposit(made, _) => SszValue::Container(vec![SszValue::zeros(33 * 32), SszValue::Container(made.fields())]),
            Self::Exit { validator, epoch, signature } => signed(exit_message(*validator, *epoch), signature),
            Self::Withdrawal { source, pubkey, amount } => {
                SszValue::Container(vec![SszValue::bytes(source), SszValue::bytes(pubkey.as_slice()), SszValue::u64(*amount)])
            }
            Self::Consolidation { address, source, target } => SszValue::Container(vec![
                SszValue::bytes(address),
                SszValue::bytes(source.as_slice()),
                SszValue::bytes(target.as_slice()),
            ]),
        }
    }

    /// The lists of a body: deposits, exits, and the three kinds of requests.
    pub(crate) fn lists(operations: &[Self], fork: ForkName) -> [Vec<SszValue>; 5] {
        let mut lists: [Vec<SszValue>; 5] = Default::default();
        for operation in operations {
            let nth = match operation {
                Self::Deposit(..) if fork < ForkName::Electra => 0,
                Self::Exit { .. } => 1,
                Self::Deposit(..) => 2,
                Self::Withdrawal { .. } => 3,
                Self::Consolidation { .. } => 4,
            };
            lists[nth].push(operation.to_value(fork));
        }
        lists
    }
}

/// `VoluntaryExit`.
fn exit_message(validator: ValidatorIndex, epoch: Epoch) -> SszValue {
    SszValue::Container(vec![SszValue::u64(epoch.as_u64()), SszValue::u64(validator.as_u64())])
}

/// Withdrawal credentials with an address of the validator's own.
pub(crate) fn credentials(pubkey: &PubkeyBytes, is_compounding: bool) -> [u8; 32] {
    let mut credentials = [0u8; 32];
    credentials[0] = if is_compounding { 2 } else { 1 };
    credentials[12..].copy_from_slice(&consensus::sha256(pubkey.as_slice())[12..]);
    credentials
}

/// Operations that move the registry of a simulated network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryPlan {
    /// The capture begins with the state at the start of this epoch.
    pub from: Epoch,
    /// Number of slots from one operation to the next. The kinds follow each other in a fixed
    /// order.
    pub every: u64,
    /// `(n, epoch)`: `n` validators have so little stake in this epoch that the network ejects them
    /// at its end. A state shows it, blocks do not.
    pub ejected: Vec<(u64, Epoch)>,
}

/// The kinds of operations, in their order. Those of the execution layer are left out before
/// Electra.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NewValidator,
    Exit,
    ExitByRequest,
    NewCompounding,
    Consolidation,
    TopUp,
    PartialWithdrawal,
    ToCompounding,
    BadDeposit,
}

const KINDS: [Kind; 12] = [
    Kind::NewValidator,
    Kind::Exit,
    Kind::NewValidator,
    Kind::ExitByRequest,
    Kind::NewCompounding,
    Kind::Consolidation,
    Kind::TopUp,
    Kind::NewValidator,
    Kind::Exit,
    Kind::PartialWithdrawal,
    Kind::ToCompounding,
    Kind::BadDeposit,
];

impl World {
    /// The operations of the block of this slot. At most one, so that their order in a block does
    /// not matter.
    pub(crate) fn operations(&self, slot: Slot) -> Vec<Operation> {
        let (Some(plan), Some(registry)) = (&self.scenario.registry, &self.registry) else { return Vec::new() };
        if !slot.as_u64().is_multiple_of(plan.every) {
            return Vec::new();
        }
        let kind = KINDS[(slot.as_u64() / plan.every % KINDS.len() as u64) as usize];
        self.operation(slot, kind, registry).into_iter().collect()
    }

    fn operation(&self, slot: Slot, kind: Kind, registry: &MovingRegistry) -> Option<Operation> {
        let is_electra = self.fork(slot) >= ForkName::Electra;
        let epoch = slot.epoch(&self.preset);
        let pick = |question: &str, holds: &dyn Fn(usize) -> bool| {
            let all: Vec<usize> = (0..registry.validators.len()).filter(|index| holds(*index)).collect();
            all.get(self.scenario.random().below(all.len() as u64, question, &[slot.as_u64()]) as usize).copied()
        };
        let owner = |index: usize| {
            let mut address = [0; 20];
            address.copy_from_slice(&registry.validators[index].credentials[12..]);
            (registry.validators[index].pubkey, address)
        };
        let may_leave = |index: usize| registry.may_leave(index) && !registry.validators[index].slashed;
        let is_compounding = |index: usize| registry.validators[index].credentials[0] == 2;
        match kind {
            Kind::NewValidator => Some(self.deposit(self.n_keys, 1, 32, true)),
            Kind::NewCompounding if is_electra => Some(self.deposit(self.n_keys, 2, 64, true)),
            Kind::BadDeposit => Some(self.deposit(u64::from(u32::MAX) + slot.as_u64(), 1, 32, false)),
            Kind::TopUp => {
                let index = pick("top-up", &|index| registry.validators[index].exit == NEVER)?;
                Some(self.deposit(index as u64, 1, 1, true))
            }
            Kind::Exit => {
                let validator = ValidatorIndex::new(pick("exit", &may_leave)? as u64);
                // From Deneb on all exits are signed with the version of Capella.
                let fork = self.fork(slot);
                let version = fork_version(if fork >= ForkName::Deneb { ForkName::Capella } else { fork });
                let mut domain = compute_domain(DomainType::Randao, version, self.genesis.validators_root);
                domain[0] = DOMAIN_VOLUNTARY_EXIT;
                let signature = self.keys.sign(validator, signing_root(exit_message(validator, epoch).root(), domain));
                Some(Operation::Exit { validator, epoch, signature })
            }
            Kind::ExitByRequest if is_electra => {
                let (pubkey, source) = owner(pick("exit by request", &may_leave)?);
                Some(Operation::Withdrawal { source, pubkey, amount: 0 })
            }
            Kind::PartialWithdrawal if is_electra => {
                let has_more =
                    |index| may_leave(index) && registry.validators[index].balance > MIN_ACTIVATION_BALANCE + INCREMENT;
                let (pubkey, source) = owner(pick("partial withdrawal", &|index| is_compounding(index) && has_more(index))?);
                Some(Operation::Withdrawal { source, pubkey, amount: 10 * INCREMENT })
            }
            Kind::Consolidation if is_electra => {
                let target = pick("target", &|index| is_compounding(index) && may_leave(index))?;
                let (source, address) = owner(pick("source", &|index| index != target && may_leave(index))?);
                Some(Operation::Consolidation { address, source, target: owner(target).0 })
            }
            Kind::ToCompounding if is_electra => {
                let (source, address) = owner(pick("to compounding", &|index| !is_compounding(index) && may_leave(index))?);
                Some(Operation::Consolidation { address, source, target: source })
            }
            Kind::NewCompounding | Kind::ExitByRequest | Kind::PartialWithdrawal | Kind::Consolidation | Kind::ToCompounding => {
                None
            }
        }
    }

    /// Lets the registry follow a block of the first branch.
    pub(crate) fn apply_to_registry(&mut self, slot: Slot, body: &BlockBody) {
        let Some(registry) = &mut self.registry else { return };
        registry.apply_block(slot, &body.slashings.slashed(), &body.operations);
        let next = self.keys.aggregate_pubkey(&[ValidatorIndex::new(self.n_keys)]);
        let is_next = |one: &Operation| matches!(one, Operation::Deposit(made, _) if made.pubkey == next);
        self.n_keys += u64::from(body.operations.iter().any(is_next));
    }

    /// A deposit of the key with this number. Validators have the keys of their indices.
    fn deposit(&self, key: u64, prefix: u8, eth: u64, is_signed: bool) -> Operation {
        let owner = ValidatorIndex::new(key);
        let pubkey = self.keys.aggregate_pubkey(&[owner]);
        let credentials = credentials(&pubkey, prefix == 2);
        let mut made = DepositMade { pubkey, credentials, amount: eth * INCREMENT, signature: infinity_signature(), is_signed };
        if is_signed {
            let domain = compute_domain(DomainType::Deposit, fork_version(ForkName::Phase0), Root::ZERO);
            made.signature = self.keys.sign(owner, signing_root(made.message_root(), domain));
        }
        let number = self.registry.as_ref().map_or(0, |registry| registry.n_deposits);
        Operation::Deposit(made, number)
    }

    /// Lets the registry follow the end of epochs until it is at `epoch`, and computes the
    /// proposers.
    pub(crate) fn move_registry(&mut self, epoch: Epoch) {
        let (Some(plan), Some(registry)) = (&self.scenario.registry, &mut self.registry) else { return };
        let main = &self.branches[crate::world::MAIN];
        while registry.epoch() < epoch {
            let next = registry.epoch().saturating_add(1);
            registry.end_epoch(main, self.network.spec.fork_name_at(next));
            for (n, _) in plan.ejected.iter().filter(|(_, at)| *at == next) {
                let staying = |index: &usize| registry.validators[*index].exit == NEVER;
                let poor: Vec<usize> = (0..registry.validators.len()).filter(staying).take(*n as usize).collect();
                poor.into_iter().for_each(|index| registry.leak(index));
            }
        }
        let fork = self.network.spec.fork_name_at(epoch);
        let last = if fork >= ForkName::Fulu { epoch.saturating_add(1) } else { epoch };
        for at in [epoch, last] {
            let active = registry.active(at);
            let effective = |index: ValidatorIndex| Gwei::new(registry.validators[index.as_u64() as usize].effective);
            let first = at.start_slot(&self.preset).as_u64();
            let mix = main.seed_mix(at);
            self.proposers.entry(at).or_insert_with(|| {
                let slots = (first..first + self.preset.slots_per_epoch).map(Slot::new);
                slots.map(|slot| drawn(fork, &self.preset, &active, effective, mix, slot)).collect()
            });
        }
        self.proposers.retain(|at, _| *at >= epoch);
    }
}

/// The first byte of `DOMAIN_VOLUNTARY_EXIT`.
const DOMAIN_VOLUNTARY_EXIT: u8 = 4;
