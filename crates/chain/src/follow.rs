//! The registry at the end of a branch: the registry of the latest state, changed by what the
//! blocks of the branch tell.
//!
//! | what | how |
//! |---|---|
//! | slashings | as in the specification, once the operation is proven: whoever owns a key can put a false one into a block |
//! | voluntary exits | as in the specification |
//! | withdrawal and consolidation requests | as in the specification, by the known credentials |
//! | deposits, activations | by the queues of the state, the requests in blocks, and [`BranchFinality`] |
//! | ejections | only of validators whose effective balance in the state is already too low |
//! | balances | unknown: effective balances stay those of the state |
//!
//! What depends on something unknown is noted as a [`Doubt`]. A wrong guess accuses nobody: the
//! committees of the state's own registry stay candidates, only a signature decides between them,
//! and with an old registry no vote is called forged. The next state settles everything
//! ([`Differences`]).
//!
//! A validator that a deposit adds has an index and a place in committees, but no key until a state
//! names it. So another order of deposits cannot make its votes somebody else's. Only its blocks
//! are checked with the key of the deposit, and only to go on from them: without them the chain
//! would end.
//!
//! Price: a step over an epoch costs one pass over the registry if somebody waits or exits. That
//! takes milliseconds.

use crate::exits::{ChurnLimits, EFFECTIVE_BALANCE_INCREMENT, ExitQueue, StakeQueue, earliest_exit};
use crate::finality::BranchFinality;
use crate::moves::{BlockMoves, Move};
use crate::registry::{Record, Registry};
use blst::BLST_ERROR;
use blst::min_pk::{PublicKey, Signature};
use consensus::state::{PendingDeposit, StateView};
use consensus::{
    ConsolidationRequest, DepositData, DomainType, Epoch, ForkName, Gwei, PubkeyBytes, Root, SignatureBytes, Slot, Spec,
    ValidatorIndex, WithdrawalRequest, compute_domain, sha256, signing_root,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// `MIN_ACTIVATION_BALANCE` in Gwei; before Electra `MAX_EFFECTIVE_BALANCE`.
const MIN_ACTIVATION_BALANCE: u64 = 32_000_000_000;
/// `MAX_EFFECTIVE_BALANCE_ELECTRA` in Gwei.
const MAX_EFFECTIVE_BALANCE_ELECTRA: u64 = 2_048_000_000_000;
/// `MAX_PENDING_DEPOSITS_PER_EPOCH`.
const MAX_PENDING_DEPOSITS_PER_EPOCH: usize = 16;
/// `UNSET_DEPOSIT_REQUESTS_START_INDEX`.
const UNSET_START_INDEX: u64 = u64::MAX;
/// Maximum number of deposits that wait. Mainnet had 60 000 of them in 2025.
const MAX_PENDING_DEPOSITS: usize = 1 << 18;
/// Number of epochs after its time in which a partial withdrawal may not have been paid yet.
const PAID_LATE_EPOCHS: u64 = 64;
const BLS_SIGNATURE_DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// Something that blocks do not tell and on which the followed registry depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// Whether an epoch was finalized in time for an activation.
    Finality,
    /// How much stake a partial withdrawal takes from the exit queue.
    PartialWithdrawal,
    /// Whether a partial withdrawal still waits, which prevents an exit.
    PendingWithdrawal,
    /// The credentials of the validator may have changed since the state.
    Credentials,
    /// How much stake a change of credentials or a top-up moves.
    Balance,
    /// The branch leaves the chain before the state, or blocks of it are missing.
    Blocks,
    /// More deposits wait than are kept.
    TooManyDeposits,
}

impl Doubt {
    /// Doubts about when validators become active, and which there are.
    pub(crate) const ABOUT_ARRIVALS: [Self; 3] = [Self::Finality, Self::Balance, Self::TooManyDeposits];
    /// Doubts about who leaves, and when.
    pub(crate) const ABOUT_EXITS: [Self; 4] =
        [Self::PartialWithdrawal, Self::PendingWithdrawal, Self::Credentials, Self::Balance];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Finality => "finality",
            Self::PartialWithdrawal => "partial withdrawal",
            Self::PendingWithdrawal => "pending withdrawal",
            Self::Credentials => "credentials",
            Self::Balance => "balance",
            Self::Blocks => "blocks",
            Self::TooManyDeposits => "too many deposits",
        }
    }
}

/// The number of validators for which the followed registry and a state differ, by field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    pub slashed: u64,
    pub activation: u64,
    pub exit: u64,
    pub withdrawable: u64,
    /// Validators that only one of the two has.
    pub existing: u64,
}

/// The registry at the end of a branch. The registries of neighbouring blocks share the lists that
/// the later block did not change.
#[derive(Clone, Debug)]
pub(crate) struct FollowedRegistry {
    epoch: Epoch,
    n_validators: u32,
    /// The records that differ from the registry of the state, and those of new validators.
    changed: Arc<BTreeMap<u32, Record>>,
    /// In which epochs blocks after the state have slashed validators. `withdrawable_epoch` does
    /// not tell that while many exits wait.
    slashings: Arc<BTreeMap<u32, Epoch>>,
    /// The validators that have no activation epoch, with their `activation_eligibility_epoch`.
    waiting: Arc<BTreeMap<u32, Epoch>>,
    /// Balances in Gwei of the validators in `waiting`. They get no rewards, so blocks tell them.
    balances: Arc<BTreeMap<u32, u64>>,
    /// The validators whose effective balance is too low and that have no exit epoch.
    to_eject: Arc<BTreeSet<u32>>,
    credentials: Arc<BTreeMap<u32, Root>>,
    newcomers: Arc<HashMap<PubkeyBytes, u32>>,
    exits: ExitQueue,
    exit_stake: StakeQueue,
    consolidations: StakeQueue,
    deposits: Arc<VecDeque<Arc<PendingDeposit>>>,
    deposit_balance_to_consume: u64,
    eth1_deposit_index: u64,
    deposit_requests_start_index: u64,
    /// The validators with partial withdrawals that wait, and when each can be paid.
    partial_withdrawals: Arc<Vec<(u32, Epoch)>>,
    finality: BranchFinality,
    limits: Option<(Epoch, ChurnLimits)>,
    doubts: BTreeSet<Doubt>,
}

/// What following needs besides the branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowContext<'a> {
    pub registry: &'a Registry,
    pub spec: &'a Spec,
}

impl FollowedRegistry {
    /// The registry of a state, before any block after it.
    pub(crate) fn of_state(view: &StateView<'_>, registry: &Registry, spec: &Spec) -> Self {
        let queues = view.registry_queues();
        let epoch = view.epoch();
        let mut waiting = BTreeMap::new();
        let mut balances = BTreeMap::new();
        let mut to_eject = BTreeSet::new();
        let mut exits = ExitQueue::default();
        for (index, validator) in (0u32..).zip(view.validators()) {
            if validator.exit_epoch != Epoch::FAR_FUTURE {
                exits.add(validator.exit_epoch);
            } else if validator.activation_epoch != Epoch::FAR_FUTURE
                && validator.effective_balance.as_u64() <= spec.preset.ejection_balance
            {
                to_eject.insert(index);
            }
            if validator.activation_epoch == Epoch::FAR_FUTURE {
                waiting.insert(index, validator.activation_eligibility_epoch);
                balances.insert(index, view.balance(ValidatorIndex::new(u64::from(index))).as_u64());
            }
        }
        let queue = |churn: Option<(Epoch, u64)>| churn.map_or(StakeQueue::default(), |(last, left)| StakeQueue { last, left });
        let too_many = queues.pending_deposits.len() > MAX_PENDING_DEPOSITS;
        let partial = |(index, epoch): (ValidatorIndex, Epoch)| Some((u32::try_from(index.as_u64()).ok()?, epoch));
        Self {
            epoch,
            n_validators: view.n_validators().min(registry.len()) as u32,
            changed: Arc::default(),
            slashings: Arc::default(),
            waiting: Arc::new(waiting),
            balances: Arc::new(balances),
            to_eject: Arc::new(to_eject),
            credentials: Arc::default(),
            newcomers: Arc::default(),
            exits,
            exit_stake: queue(queues.exit_churn),
            consolidations: queue(queues.consolidation_churn),
            deposits: Arc::new(queues.pending_deposits.into_iter().take(MAX_PENDING_DEPOSITS).map(Arc::new).collect()),
            deposit_balance_to_consume: queues.deposit_balance_to_consume,
            eth1_deposit_index: queues.eth1_deposit_index,
            deposit_requests_start_index: queues.deposit_requests_start_index.unwrap_or(0),
            partial_withdrawals: Arc::new(queues.pending_partial_withdrawals.into_iter().filter_map(partial).collect()),
            finality: BranchFinality::of_state(
                epoch,
                queues.justification_bits,
                [view.previous_justified_checkpoint().epoch, view.current_justified_checkpoint().epoch],
                view.finalized_checkpoint().epoch,
            ),
            limits: None,
            doubts: if too_many { [Doubt::TooManyDeposits].into() } else { BTreeSet::new() },
        }
    }

    /// Goes on with blocks, in the order of their slots. Of slashings only those of validators in
    /// `slashable` count: the signatures in a block's operations are not those of its proposer.
    /// Nothing can be proven about validators that no state has named yet, so blocks are believed
    /// about these: their exits change the committees of everybody.
    pub(crate) fn apply(&mut self, blocks: &[Arc<BlockMoves>], slashable: &HashSet<ValidatorIndex>, context: FollowContext<'_>) {
        let n_named = context.registry.len() as u64;
        let is_open = |validator: &ValidatorIndex| validator.as_u64() < n_named && !slashable.contains(validator);
        let counts = |one: &&Move| !matches!(one, Move::Slashing(validator) if is_open(validator));
        // What a block names as justified is needed at the end of the epoch before it.
        for (at, justified) in blocks.iter().flat_map(|block| &block.justified) {
            self.finality.name(*at, *justified);
        }
        for block in blocks {
            self.advance(block.slot.epoch(&context.spec.preset), context);
            for one in block.moves.iter().filter(counts) {
                self.apply_move(one, block.slot, context);
            }
        }
    }

    /// Goes on to the beginning of `epoch`, as if the slots until then were empty.
    pub(crate) fn advance(&mut self, epoch: Epoch, context: FollowContext<'_>) {
        while self.epoch < epoch {
            self.end_epoch(context);
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether following may go on from here. Otherwise a later block can name a justified epoch
    /// that the end of an epoch before this one depends on. See [`BranchFinality::is_settled`].
    pub(crate) fn is_settled(&self) -> bool {
        self.finality.is_settled(self.epoch)
    }

    pub(crate) fn note_doubt(&mut self, doubt: Doubt) {
        self.doubts.insert(doubt);
    }

    /// Whether one of these doubts was noted.
    pub(crate) fn has_doubt(&self, any: &[Doubt]) -> bool {
        any.iter().any(|doubt| self.doubts.contains(doubt))
    }

    pub(crate) fn doubts(&self) -> impl Iterator<Item = Doubt> + '_ {
        self.doubts.iter().copied()
    }

    /// Names the epochs that a later state knows as justified.
    pub(crate) fn name_justified(&mut self, at: Epoch, justified: Epoch) {
        self.finality.name(at, justified);
    }

    /// The key of a validator that a deposit in a block has added, as the deposit names it.
    pub(crate) fn newcomer_key(&self, index: u32) -> Option<&PubkeyBytes> {
        self.newcomers.iter().find(|(_, of)| **of == index).map(|(key, _)| key)
    }

    /// Number of active validators that a deposit has added.
    pub(crate) fn n_active_newcomers(&self, registry: &Registry, epoch: Epoch) -> usize {
        self.changed.range(registry.len() as u32..).filter(|(_, record)| record.is_active(epoch)).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.n_validators as usize
    }

    /// The record of a validator on this branch.
    pub(crate) fn record(&self, registry: &Registry, index: u32) -> Option<Record> {
        if index >= self.n_validators {
            return None;
        }
        self.changed.get(&index).copied().or_else(|| registry.record(ValidatorIndex::new(u64::from(index))))
    }

    /// Returns the indices of the validators that are active in `epoch`, ascending, or `None` if
    /// they are those of the registry.
    pub(crate) fn active_at(&self, registry: &Registry, epoch: Epoch) -> Option<Arc<Vec<u32>>> {
        let was_active =
            |index: &u32| registry.record(ValidatorIndex::new(u64::from(*index))).is_some_and(|record| record.is_active(epoch));
        let differs = |(index, record): (&u32, &Record)| record.is_active(epoch) != was_active(index);
        if !self.changed.iter().any(differs) {
            return None;
        }
        let of_state = registry.active_at(epoch, 0);
        let mut active = Vec::with_capacity(of_state.len() + self.changed.len());
        let mut changed = self.changed.iter().peekable();
        for index in of_state.iter() {
            while let Some((before, record)) = changed.next_if(|(at, _)| *at < index) {
                active.extend(record.is_active(epoch).then_some(*before));
            }
            let stays = match changed.next_if(|(at, _)| *at == index) {
                Some((_, record)) => record.is_active(epoch),
                None => *index < self.n_validators,
            };
            active.extend(stays.then_some(*index));
        }
        active.extend(changed.filter(|(_, record)| record.is_active(epoch)).map(|(index, _)| *index));
        active.shrink_to_fit();
        Some(Arc::new(active))
    }

    /// Compares with a state of this branch and of this epoch.
    pub(crate) fn differences(&self, registry: &Registry, view: &StateView<'_>) -> Differences {
        let mut found = Differences::default();
        for (index, theirs) in (0u32..).zip(view.validators()) {
            let Some(ours) = self.record(registry, index) else {
                found.existing += 1;
                continue;
            };
            let differs = [
                (ours.slashed != theirs.slashed, &mut found.slashed),
                (ours.activation_epoch != theirs.activation_epoch, &mut found.activation),
                (ours.exit_epoch != theirs.exit_epoch, &mut found.exit),
                (ours.withdrawable_epoch != theirs.withdrawable_epoch, &mut found.withdrawable),
            ];
            differs.into_iter().for_each(|(differs, count)| *count += u64::from(differs));
        }
        found.existing += self.len().saturating_sub(view.n_validators()) as u64;
        found
    }

    fn fork(&self, spec: &Spec) -> ForkName {
        spec.fork_name_at(self.epoch)
    }

    fn is_electra(&self, spec: &Spec) -> bool {
        self.fork(spec) >= ForkName::Electra
    }

    fn credentials(&self, registry: &Registry, index: u32) -> Option<Root> {
        let known = self.credentials.get(&index).copied();
        known.or_else(|| registry.withdrawal_credentials(ValidatorIndex::new(u64::from(index))))
    }

    fn index_of(&self, registry: &Registry, key: &PubkeyBytes) -> Option<u32> {
        let known = self.newcomers.get(key).copied().or_else(|| registry.index_of(key));
        known.filter(|index| *index < self.n_validators)
    }

    fn change(&mut self, registry: &Registry, index: u32, change: impl FnOnce(&mut Record)) {
        if let Some(mut record) = self.record(registry, index) {
            change(&mut record);
            Arc::make_mut(&mut self.changed).insert(index, record);
        }
    }

    fn limits(&mut self, context: FollowContext<'_>) -> ChurnLimits {
        if let Some((_, limits)) = self.limits.filter(|(epoch, _)| *epoch == self.epoch) {
            return limits;
        }
        let (n_active, total) = context.registry.active_balance(self.epoch);
        let (mut n_active, mut total) = (n_active as u64, total.as_u64());
        for (index, record) in self.changed.iter() {
            let was = context.registry.record(ValidatorIndex::new(u64::from(*index)));
            if let Some(was) = was.filter(|was| was.is_active(self.epoch)) {
                n_active = n_active.saturating_sub(1);
                total = total.saturating_sub(was.effective_balance.as_u64());
            }
            if record.is_active(self.epoch) {
                n_active += 1;
                total = total.saturating_add(record.effective_balance.as_u64());
            }
        }
        let limits = ChurnLimits::of(self.fork(context.spec), n_active, Gwei::new(total), &context.spec.preset);
        self.limits = Some((self.epoch, limits));
        limits
    }

    /// `process_epoch`, as far as the registry depends on it, and the upgrade to the next fork.
    fn end_epoch(&mut self, context: FollowContext<'_>) {
        let fork = self.fork(context.spec);
        self.finality.end_epoch(self.epoch);
        self.update_registry(context);
        if fork >= ForkName::Electra {
            self.apply_pending_deposits(context);
        }
        self.update_effective_balances(context);
        let is_over = |(_, paid): &(u32, Epoch)| paid.saturating_add(PAID_LATE_EPOCHS) < self.epoch;
        if self.partial_withdrawals.iter().any(is_over) {
            let open = self.partial_withdrawals.iter().filter(|one| !is_over(one)).copied().collect();
            self.partial_withdrawals = Arc::new(open);
        }
        self.epoch = self.epoch.saturating_add(1);
        let next = self.fork(context.spec);
        if fork < ForkName::Electra && next >= ForkName::Electra {
            self.upgrade_to_electra(context);
        }
        if fork < ForkName::Gloas && next >= ForkName::Gloas {
            let is_builder = |credentials: &Root| credentials.as_slice().first() == Some(&3);
            let stays = |one: &Arc<PendingDeposit>| {
                !is_builder(&one.data.withdrawal_credentials) || self.index_of(context.registry, &one.data.pubkey).is_some()
            };
            self.deposits = Arc::new(self.deposits.iter().filter(|one| stays(one)).cloned().collect());
        }
    }

    /// `process_registry_updates`.
    fn update_registry(&mut self, context: FollowContext<'_>) {
        let is_electra = self.is_electra(context.spec);
        let (finalized, least, most) = (self.finality.finalized, self.finality.least, self.finality.most);
        let mut due: Vec<(Epoch, u32)> = Vec::new();
        let mut eligible: Vec<u32> = Vec::new();
        for (index, since) in self.waiting.iter() {
            let balance = self.record(context.registry, *index).map_or(0, |record| record.effective_balance.as_u64());
            let has_enough = if is_electra { balance >= MIN_ACTIVATION_BALANCE } else { balance == MIN_ACTIVATION_BALANCE };
            if *since == Epoch::FAR_FUTURE {
                if has_enough {
                    eligible.push(*index);
                }
            } else {
                if *since <= finalized {
                    due.push((*since, *index));
                }
                if (*since <= least) != (*since <= most) {
                    self.doubts.insert(Doubt::Finality);
                }
            }
        }
        let eject: Vec<u32> = self.to_eject.iter().copied().collect();
        for index in eject {
            if self.record(context.registry, index).is_some_and(|record| record.is_active(self.epoch)) {
                Arc::make_mut(&mut self.to_eject).remove(&index);
                self.initiate_exit(index, context);
            }
        }
        due.sort_unstable();
        if !is_electra && !due.is_empty() {
            due.truncate(self.limits(context).activations as usize);
        }
        let activation = earliest_exit(self.epoch);
        for (_, index) in due {
            Arc::make_mut(&mut self.waiting).remove(&index);
            Arc::make_mut(&mut self.balances).remove(&index);
            self.change(context.registry, index, |record| record.activation_epoch = activation);
        }
        let since = self.epoch.saturating_add(1);
        if !eligible.is_empty() {
            Arc::make_mut(&mut self.waiting).extend(eligible.into_iter().map(|index| (index, since)));
        }
    }

    /// `process_pending_deposits`.
    fn apply_pending_deposits(&mut self, context: FollowContext<'_>) {
        if self.deposits.is_empty() {
            self.deposit_balance_to_consume = 0;
            return;
        }
        let next_epoch = self.epoch.saturating_add(1);
        let available = self.deposit_balance_to_consume.saturating_add(self.limits(context).activations);
        let preset = &context.spec.preset;
        let [least, finalized, most] =
            [self.finality.least, self.finality.finalized, self.finality.most].map(|epoch| epoch.start_slot(preset));
        let has_bridge = self.fork(context.spec) < ForkName::Gloas && self.eth1_deposit_index < self.deposit_requests_start_index;
        let (mut processed, mut n_done, mut is_full) = (0u64, 0, false);
        let mut postponed: Vec<Arc<PendingDeposit>> = Vec::new();
        while let Some(deposit) = self.deposits.front().cloned() {
            if deposit.slot > Slot::new(0) && has_bridge {
                break;
            }
            if (deposit.slot <= least) != (deposit.slot <= most) {
                self.doubts.insert(Doubt::Finality);
            }
            if deposit.slot > finalized {
                break;
            }
            if n_done >= MAX_PENDING_DEPOSITS_PER_EPOCH {
                break;
            }
            let owner = self.index_of(context.registry, &deposit.data.pubkey);
            let record = owner.and_then(|index| self.record(context.registry, index));
            if record.is_some_and(|record| record.withdrawable_epoch < next_epoch) {
                self.apply_deposit(&deposit.data, false, context);
            } else if record.is_some_and(|record| record.exit_epoch != Epoch::FAR_FUTURE) {
                postponed.push(deposit.clone());
            } else {
                is_full = processed.saturating_add(deposit.data.amount.as_u64()) > available;
                if is_full {
                    break;
                }
                processed += deposit.data.amount.as_u64();
                self.apply_deposit(&deposit.data, false, context);
            }
            n_done += 1;
            Arc::make_mut(&mut self.deposits).pop_front();
        }
        if !postponed.is_empty() {
            Arc::make_mut(&mut self.deposits).extend(postponed);
        }
        self.deposit_balance_to_consume = if is_full { available - processed } else { 0 };
    }

    /// `process_effective_balance_updates` for the validators that were never active.
    fn update_effective_balances(&mut self, context: FollowContext<'_>) {
        const QUARTER: u64 = EFFECTIVE_BALANCE_INCREMENT / 4;
        let mut changes: Vec<(u32, u64)> = Vec::new();
        for (index, balance) in self.balances.iter() {
            let Some(record) = self.record(context.registry, *index) else { continue };
            let effective = record.effective_balance.as_u64();
            if balance.saturating_add(QUARTER) < effective || effective + 5 * QUARTER < *balance {
                let most = self.most_effective(context, *index);
                changes.push((*index, (balance - balance % EFFECTIVE_BALANCE_INCREMENT).min(most)));
            }
        }
        for (index, balance) in changes {
            self.change(context.registry, index, |record| record.effective_balance = Gwei::new(balance));
        }
    }

    /// `get_max_effective_balance` in Gwei.
    fn most_effective(&self, context: FollowContext<'_>, index: u32) -> u64 {
        let is_compounding = self.credentials(context.registry, index).is_some_and(|known| has_prefix(&known, 2));
        if self.is_electra(context.spec) && is_compounding { MAX_EFFECTIVE_BALANCE_ELECTRA } else { MIN_ACTIVATION_BALANCE }
    }

    /// `upgrade_to_electra`: whoever is not active yet is deposited again.
    fn upgrade_to_electra(&mut self, context: FollowContext<'_>) {
        self.limits = None;
        let limits = self.limits(context);
        let last = self.exits.last.max(earliest_exit(self.epoch)).saturating_add(1);
        self.exit_stake = StakeQueue { last, left: limits.exits };
        self.consolidations = StakeQueue { last: earliest_exit(self.epoch), left: limits.consolidations };
        self.deposit_requests_start_index = UNSET_START_INDEX;
        let mut order: Vec<(Epoch, u32)> = self.waiting.iter().map(|(index, since)| (*since, *index)).collect();
        order.sort_unstable();
        for (_, index) in order {
            let validator = ValidatorIndex::new(u64::from(index));
            let newcomer = self.newcomers.iter().find(|(_, at)| **at == index).map(|(key, _)| *key);
            let (Some(pubkey), Some(withdrawal_credentials)) =
                (newcomer.or_else(|| context.registry.pubkey_bytes(validator)), self.credentials(context.registry, index))
            else {
                continue;
            };
            let amount = Gwei::new(Arc::make_mut(&mut self.balances).insert(index, 0).unwrap_or(0));
            self.change(context.registry, index, |record| record.effective_balance = Gwei::new(0));
            Arc::make_mut(&mut self.waiting).insert(index, Epoch::FAR_FUTURE);
            let data = DepositData { pubkey, withdrawal_credentials, amount, signature: SignatureBytes::ZERO };
            self.add_pending(data, Slot::new(0));
        }
    }

    fn add_pending(&mut self, data: DepositData, slot: Slot) {
        if self.deposits.len() >= MAX_PENDING_DEPOSITS {
            self.doubts.insert(Doubt::TooManyDeposits);
            return;
        }
        Arc::make_mut(&mut self.deposits).push_back(Arc::new(PendingDeposit { data, slot }));
    }

    fn apply_move(&mut self, one: &Move, slot: Slot, context: FollowContext<'_>) {
        let index_of = |validator: &ValidatorIndex| u32::try_from(validator.as_u64()).ok();
        match one {
            Move::Slashing(validator) => {
                if let Some(index) = index_of(validator) {
                    self.slash(index, context);
                }
            }
            Move::Exit(validator) => {
                let is_active =
                    |index: &u32| self.record(context.registry, *index).is_some_and(|record| record.is_active(self.epoch));
                if let Some(index) = index_of(validator).filter(is_active) {
                    self.initiate_exit(index, context);
                }
            }
            Move::Deposit(data) => {
                self.eth1_deposit_index += 1;
                if !self.is_electra(context.spec) {
                    self.apply_deposit(data, true, context);
                } else if self.index_of(context.registry, &data.pubkey).is_some() {
                    self.add_pending((**data).clone(), Slot::new(0));
                } else if is_signed(data, context.spec) {
                    self.add_validator(data, Gwei::new(0), context.spec);
                    self.add_pending((**data).clone(), Slot::new(0));
                }
            }
            Move::DepositRequest(data, number) => {
                if self.deposit_requests_start_index == UNSET_START_INDEX {
                    self.deposit_requests_start_index = *number;
                }
                self.add_pending((**data).clone(), slot);
            }
            Move::Withdrawal(request) => self.withdraw(request, context),
            Move::Consolidation(request) => self.consolidate(request, context),
        }
    }

    /// `slash_validator`, if the validator can be slashed.
    fn slash(&mut self, index: u32, context: FollowContext<'_>) {
        let Some(record) = self.record(context.registry, index) else { return };
        // `is_slashable_validator`.
        if record.slashed || self.epoch < record.activation_epoch || record.withdrawable_epoch <= self.epoch {
            return;
        }
        self.initiate_exit(index, context);
        let withdrawable = self.epoch.saturating_add(context.spec.preset.epochs_per_slashings_vector);
        self.change(context.registry, index, |record| {
            record.slashed = true;
            record.withdrawable_epoch = record.withdrawable_epoch.max(withdrawable);
        });
        Arc::make_mut(&mut self.slashings).insert(index, self.epoch);
    }

    /// The epoch in which a block after the state has slashed a validator.
    pub(crate) fn slashed_in(&self, index: u32) -> Option<Epoch> {
        self.slashings.get(&index).copied()
    }

    /// `initiate_validator_exit`.
    fn initiate_exit(&mut self, index: u32, context: FollowContext<'_>) {
        let Some(record) = self.record(context.registry, index).filter(|record| record.exit_epoch == Epoch::FAR_FUTURE) else {
            return;
        };
        let limit = self.limits(context).exits;
        let earliest = earliest_exit(self.epoch);
        let exit = match self.is_electra(context.spec) {
            true => self.exit_stake.next(earliest, record.effective_balance, limit),
            false => self.exits.next(earliest, limit),
        };
        self.set_exit(index, exit, context);
    }

    fn set_exit(&mut self, index: u32, exit: Epoch, context: FollowContext<'_>) {
        if self.to_eject.contains(&index) {
            Arc::make_mut(&mut self.to_eject).remove(&index);
        }
        let withdrawable = exit.saturating_add(context.spec.preset.min_validator_withdrawability_delay);
        self.change(context.registry, index, |record| {
            record.exit_epoch = exit;
            record.withdrawable_epoch = withdrawable;
        });
    }

    /// `process_withdrawal_request`.
    fn withdraw(&mut self, request: &WithdrawalRequest, context: FollowContext<'_>) {
        let Some(index) = self.index_of(context.registry, &request.validator_pubkey) else { return };
        if !self.is_owner(index, request.source_address.as_slice(), context) || !self.may_leave(index, context) {
            return;
        }
        let is_pending = self.has_pending_withdrawal(index);
        if request.amount.as_u64() == 0 {
            if !is_pending {
                self.initiate_exit(index, context);
            }
            return;
        }
        let is_compounding = self.credentials(context.registry, index).is_some_and(|known| has_prefix(&known, 2));
        let Some(record) = self.record(context.registry, index).filter(|_| is_compounding) else { return };
        let excess = record.effective_balance.as_u64().saturating_sub(MIN_ACTIVATION_BALANCE);
        if request.amount.as_u64() >= excess || is_pending {
            self.doubts.insert(Doubt::PartialWithdrawal);
        }
        let taken = request.amount.as_u64().min(excess);
        if taken > 0 {
            let limit = self.limits(context).exits;
            let exit = self.exit_stake.next(earliest_exit(self.epoch), Gwei::new(taken), limit);
            let paid = exit.saturating_add(context.spec.preset.min_validator_withdrawability_delay);
            Arc::make_mut(&mut self.partial_withdrawals).push((index, paid));
        }
    }

    /// `process_consolidation_request`.
    fn consolidate(&mut self, request: &ConsolidationRequest, context: FollowContext<'_>) {
        let registry = context.registry;
        let Some(source) = self.index_of(registry, &request.source_pubkey) else { return };
        let Some(target) = self.index_of(registry, &request.target_pubkey) else { return };
        if source == target {
            self.switch_to_compounding(source, request, context);
            return;
        }
        let limit = self.limits(context).consolidations;
        if limit <= MIN_ACTIVATION_BALANCE || !self.is_owner(source, request.source_address.as_slice(), context) {
            return;
        }
        let is_staying = |index| {
            self.record(registry, index).is_some_and(|one| one.is_active(self.epoch) && one.exit_epoch == Epoch::FAR_FUTURE)
        };
        let is_compounding = self.credentials(registry, target).is_some_and(|known| has_prefix(&known, 2));
        if !is_compounding || !is_staying(target) || !self.may_leave(source, context) || self.has_pending_withdrawal(source) {
            return;
        }
        let Some(record) = self.record(registry, source) else { return };
        let exit = self.consolidations.next(earliest_exit(self.epoch), record.effective_balance, limit);
        self.set_exit(source, exit, context);
    }

    /// `switch_to_compounding_validator`. The excess balance goes into the queue of deposits.
    fn switch_to_compounding(&mut self, index: u32, request: &ConsolidationRequest, context: FollowContext<'_>) {
        let Some(mut known) = self.credentials(context.registry, index) else { return };
        let stays = self
            .record(context.registry, index)
            .is_some_and(|record| record.is_active(self.epoch) && record.exit_epoch == Epoch::FAR_FUTURE);
        if !has_prefix(&known, 1) || known.as_slice()[12..] != *request.source_address.as_slice() || !stays {
            return;
        }
        known.0[0] = 2;
        Arc::make_mut(&mut self.credentials).insert(index, known);
        self.doubts.insert(Doubt::Balance);
        let data = DepositData {
            pubkey: request.source_pubkey,
            withdrawal_credentials: known,
            amount: Gwei::new(0),
            signature: SignatureBytes::ZERO,
        };
        self.add_pending(data, Slot::new(0));
    }

    /// Whether the address may ask for something in the name of the validator.
    fn is_owner(&mut self, index: u32, address: &[u8], context: FollowContext<'_>) -> bool {
        let Some(known) = self.credentials(context.registry, index) else { return false };
        if has_prefix(&known, 0) {
            // A block since the state may have changed them. Such changes are not followed.
            self.doubts.insert(Doubt::Credentials);
        }
        (has_prefix(&known, 1) || has_prefix(&known, 2)) && known.as_slice()[12..] == *address
    }

    fn may_leave(&self, index: u32, context: FollowContext<'_>) -> bool {
        self.record(context.registry, index).is_some_and(|record| {
            record.is_active(self.epoch)
                && record.exit_epoch == Epoch::FAR_FUTURE
                && self.epoch >= record.activation_epoch.saturating_add(context.spec.preset.shard_committee_period)
        })
    }

    fn has_pending_withdrawal(&mut self, index: u32) -> bool {
        let mut pending = false;
        for (_, paid) in self.partial_withdrawals.iter().filter(|(of, _)| *of == index) {
            pending |= *paid > self.epoch;
            if *paid <= self.epoch && self.epoch <= paid.saturating_add(PAID_LATE_EPOCHS) {
                self.doubts.insert(Doubt::PendingWithdrawal);
            }
        }
        pending
    }

    /// Adds a deposit's validator, or its amount to the validator's balance. `is_old` is whether
    /// the deposit is applied by the rules before Electra.
    fn apply_deposit(&mut self, data: &DepositData, is_old: bool, context: FollowContext<'_>) {
        match self.index_of(context.registry, &data.pubkey) {
            Some(index) => {
                if let Some(balance) = self.balances.get(&index) {
                    let balance = balance.saturating_add(data.amount.as_u64());
                    Arc::make_mut(&mut self.balances).insert(index, balance);
                } else if !is_old {
                    self.doubts.insert(Doubt::Balance);
                }
            }
            None if is_signed(data, context.spec) => self.add_validator(data, data.amount, context.spec),
            None => {}
        }
    }

    /// `add_validator_to_registry`.
    fn add_validator(&mut self, data: &DepositData, balance: Gwei, spec: &Spec) {
        let index = self.n_validators;
        self.n_validators += 1;
        Arc::make_mut(&mut self.newcomers).insert(data.pubkey, index);
        Arc::make_mut(&mut self.credentials).insert(index, data.withdrawal_credentials);
        Arc::make_mut(&mut self.balances).insert(index, balance.as_u64());
        Arc::make_mut(&mut self.waiting).insert(index, Epoch::FAR_FUTURE);
        let is_compounding = self.is_electra(spec) && has_prefix(&data.withdrawal_credentials, 2);
        let most = if is_compounding { MAX_EFFECTIVE_BALANCE_ELECTRA } else { MIN_ACTIVATION_BALANCE };
        let whole = balance.as_u64() - balance.as_u64() % EFFECTIVE_BALANCE_INCREMENT;
        let record = Record {
            activation_epoch: Epoch::FAR_FUTURE,
            exit_epoch: Epoch::FAR_FUTURE,
            withdrawable_epoch: Epoch::FAR_FUTURE,
            slashed: false,
            effective_balance: Gwei::new(whole.min(most)),
        };
        Arc::make_mut(&mut self.changed).insert(index, record);
    }
}

#[cfg(test)]
impl FollowedRegistry {
    /// Makes whoever exits from now on wait until this epoch.
    pub(crate) fn lengthen_exit_queue(&mut self, until: Epoch) {
        self.exits.last = until;
        self.exit_stake = StakeQueue { last: until, left: 0 };
    }
}

/// Whether withdrawal credentials are of this kind: 0 names a BLS key, 1 and 2 name an address.
fn has_prefix(credentials: &Root, prefix: u8) -> bool {
    credentials.as_slice().first() == Some(&prefix)
}

/// `is_valid_deposit_signature`.
fn is_signed(data: &DepositData, spec: &Spec) -> bool {
    let (Ok(key), Ok(signature)) =
        (PublicKey::key_validate(data.pubkey.as_slice()), Signature::sig_validate(data.signature.as_slice(), false))
    else {
        return false;
    };
    let version = spec.forks.first().map_or([0; 4], |fork| fork.version);
    let root = signing_root(deposit_root(data), compute_domain(DomainType::Deposit, version, Root::ZERO));
    signature.verify(false, root.as_slice(), BLS_SIGNATURE_DST, &[], &key, false) == BLST_ERROR::BLST_SUCCESS
}

/// Hash-tree-root of the `DepositMessage`: public key, withdrawal credentials and amount.
fn deposit_root(data: &DepositData) -> Root {
    let pair = |left: &[u8], right: &[u8]| {
        let mut both = [0u8; 64];
        both[..left.len()].copy_from_slice(left);
        both[32..32 + right.len()].copy_from_slice(right);
        sha256(&both)
    };
    let key = pair(&data.pubkey.as_slice()[..32], &data.pubkey.as_slice()[32..]);
    let left = pair(&key, data.withdrawal_credentials.as_slice());
    Root::from(pair(&left, &pair(&data.amount.as_u64().to_le_bytes(), &[])))
}
