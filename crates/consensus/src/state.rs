//! Reads a `BeaconState` in place. A mainnet state is 300 MB with 2.5 million validators. It is
//! checked once, none of it is copied, and only the fields that the watcher needs are read.

use crate::decode::Fixed;
use crate::ssz_schema::{Catalogue, SszView};
use crate::{
    BeaconBlockHeader, Checkpoint, DecodeError, DepositData, Epoch, ForkName, ForkVersion, Gwei, Preset, PubkeyBytes, Root,
    SignatureBytes, Slot, Spec, Validator, ValidatorIndex,
};
use std::sync::Arc;

/// A view of the SSZ bytes of a `BeaconState`. The bytes are validated once and then read in place.
#[derive(Clone, Debug)]
pub struct StateView<'a> {
    bytes: &'a [u8],
    fork_name: ForkName,
    preset: Preset,
    catalogue: Arc<Catalogue>,
    genesis_time: u64,
    genesis_validators_root: Root,
    slot: Slot,
    fork: StateFork,
    latest_block_header: BeaconBlockHeader,
    previous_justified: Checkpoint,
    current_justified: Checkpoint,
    finalized: Checkpoint,
    block_roots: &'a [u8],
    randao_mixes: &'a [u8],
    validators: &'a [u8],
}

/// The fields of a state, beside its validators, that decide when validators become active or
/// inactive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryQueues {
    /// `earliest_exit_epoch` and `exit_balance_to_consume` (Gwei), from Electra on.
    pub exit_churn: Option<(Epoch, u64)>,
    /// `earliest_consolidation_epoch` and `consolidation_balance_to_consume` (Gwei), from Electra
    /// on.
    pub consolidation_churn: Option<(Epoch, u64)>,
    /// In Gwei.
    pub deposit_balance_to_consume: u64,
    pub eth1_deposit_index: u64,
    pub deposit_requests_start_index: Option<u64>,
    pub pending_deposits: Vec<PendingDeposit>,
    /// The validators with partial withdrawals that wait, and when each can be paid.
    pub pending_partial_withdrawals: Vec<(ValidatorIndex, Epoch)>,
    /// Bit n is set if the epoch n epochs before the state's previous epoch is justified.
    pub justification_bits: u8,
}

/// `PendingDeposit` of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingDeposit {
    pub data: DepositData,
    /// Slot of the block that asked for it, or 0 if it did not come as a request.
    pub slot: Slot,
}

/// The `Fork` container of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateFork {
    pub previous_version: ForkVersion,
    pub current_version: ForkVersion,
    pub epoch: Epoch,
}

impl StateFork {
    /// Returns the version with which the state checks a message about `epoch` (`get_domain`).
    pub fn version_for(&self, epoch: Epoch) -> ForkVersion {
        if epoch < self.epoch { self.previous_version } else { self.current_version }
    }
}

impl<'a> StateView<'a> {
    /// Validates the whole state. The time is linear in the number of bytes.
    pub fn parse(fork: ForkName, preset: &Preset, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let catalogue = Catalogue::of(fork, preset);
        let view = catalogue.state.validate(bytes)?;
        let checkpoint = |name| view.need(name).map(|checkpoint| Fixed(checkpoint.bytes()).checkpoint());
        let mut fork_bytes = Fixed(view.need("fork")?.bytes());
        let (block_roots, randao_mixes) = (view.need("block_roots")?.bytes(), view.need("randao_mixes")?.bytes());
        Ok(Self {
            bytes,
            fork_name: fork,
            preset: preset.clone(),
            genesis_time: view.need("genesis_time")?.as_u64(),
            genesis_validators_root: view.need("genesis_validators_root")?.as_root(),
            slot: Slot::new(view.need("slot")?.as_u64()),
            fork: StateFork {
                previous_version: fork_bytes.array(),
                current_version: fork_bytes.array(),
                epoch: fork_bytes.epoch(),
            },
            latest_block_header: Fixed(view.need("latest_block_header")?.bytes()).header(),
            previous_justified: checkpoint("previous_justified_checkpoint")?,
            current_justified: checkpoint("current_justified_checkpoint")?,
            finalized: checkpoint("finalized_checkpoint")?,
            block_roots,
            randao_mixes,
            validators: view.need("validators")?.bytes(),
            catalogue,
        })
    }

    /// The SSZ bytes of the state.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn fork_name(&self) -> ForkName {
        self.fork_name
    }

    /// In seconds since the Unix epoch.
    pub fn genesis_time(&self) -> u64 {
        self.genesis_time
    }

    pub fn genesis_validators_root(&self) -> Root {
        self.genesis_validators_root
    }

    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The epoch of the state's slot.
    pub fn epoch(&self) -> Epoch {
        self.slot.epoch(&self.preset)
    }

    pub fn fork(&self) -> StateFork {
        self.fork
    }

    pub fn latest_block_header(&self) -> BeaconBlockHeader {
        self.latest_block_header
    }

    /// Hash-tree-root of the whole state. With 2.5 million validators this takes about 25 million
    /// hashes, which is some seconds.
    pub fn root(&self) -> Root {
        SszView::checked(&self.catalogue.state, self.bytes).hash_tree_root()
    }

    /// Returns the root of the latest block.
    ///
    /// The state root in the latest block header is zero until the next slot is processed. In that
    /// case the state root is this state's own root, and the whole state is hashed to compute it.
    pub fn latest_block_root(&self) -> Root {
        let mut header = self.latest_block_header;
        if header.state_root.is_zero() {
            header.state_root = self.root();
        }
        header.root()
    }

    /// `get_block_root_at_slot`: the root of the block that was the head at `slot`. Returns `None`
    /// outside the last SLOTS_PER_HISTORICAL_ROOT slots.
    pub fn block_root_at(&self, slot: Slot) -> Option<Root> {
        let length = self.preset.slots_per_historical_root;
        if slot >= self.slot || self.slot.as_u64() - slot.as_u64() > length {
            return None;
        }
        nth_root(self.block_roots, slot.as_u64() % length)
    }

    /// `get_randao_mix`. The state has only the mixes of the last EPOCHS_PER_HISTORICAL_VECTOR
    /// epochs, and the caller must ask only for these. For any other epoch the result is the mix of
    /// a different epoch.
    pub fn randao_mix(&self, epoch: Epoch) -> Root {
        nth_root(self.randao_mixes, epoch.as_u64() % self.preset.epochs_per_historical_vector).unwrap_or_default()
    }

    pub fn n_validators(&self) -> usize {
        self.validators.len() / Validator::SSZ_LEN
    }

    /// Iterates over all validators in the order of their index.
    pub fn validators(&self) -> impl ExactSizeIterator<Item = Validator> + use<'a> {
        self.validators.chunks_exact(Validator::SSZ_LEN).map(validator)
    }

    pub fn validator(&self, index: ValidatorIndex) -> Option<Validator> {
        let start = usize::try_from(index.as_u64()).ok()?.checked_mul(Validator::SSZ_LEN)?;
        self.validators.get(start..start.checked_add(Validator::SSZ_LEN)?).map(validator)
    }

    /// Number of deposits that wait to be applied, from Electra on. Applying one adds a validator
    /// or raises a balance, and no block shows when that happens.
    pub fn n_pending_deposits(&self) -> usize {
        SszView::checked(&self.catalogue.state, self.bytes).field("pending_deposits").map_or(0, |deposits| deposits.len())
    }

    /// Lists the proposers of the slots of this epoch and the next one (`proposer_lookahead`). The
    /// list is empty before Fulu.
    pub fn proposer_lookahead(&self) -> Vec<(Slot, ValidatorIndex)> {
        let state = SszView::checked(&self.catalogue.state, self.bytes);
        let first = self.epoch().start_slot(&self.preset).as_u64();
        let list = state.field("proposer_lookahead").into_iter().flat_map(|list| list.elements());
        let slots = (0u64..).map(|nth| Slot::new(first.saturating_add(nth)));
        slots.zip(list.map(|index| ValidatorIndex::new(index.as_u64()))).collect()
    }

    /// Returns what else decides when validators become active or inactive.
    pub fn registry_queues(&self) -> RegistryQueues {
        let state = SszView::checked(&self.catalogue.state, self.bytes);
        let number = |name: &str| state.field(name).map(|field| field.as_u64());
        let part = |view: &SszView<'_, '_>, name: &str| view.field(name).map_or(0, |field| field.as_u64());
        let list = |name: &str| state.field(name).into_iter().flat_map(|list| list.elements());
        let churn = |epoch: &str, left: &str| Some((Epoch::new(number(epoch)?), number(left)?));
        RegistryQueues {
            exit_churn: churn("earliest_exit_epoch", "exit_balance_to_consume"),
            consolidation_churn: churn("earliest_consolidation_epoch", "consolidation_balance_to_consume"),
            deposit_balance_to_consume: number("deposit_balance_to_consume").unwrap_or(0),
            eth1_deposit_index: number("eth1_deposit_index").unwrap_or(0),
            deposit_requests_start_index: number("deposit_requests_start_index"),
            pending_deposits: list("pending_deposits")
                .map(|one| PendingDeposit {
                    data: DepositData {
                        pubkey: PubkeyBytes::from(one.field("pubkey").map_or([0; 48], |key| key.as_array())),
                        withdrawal_credentials: one.field("withdrawal_credentials").map_or(Root::ZERO, |field| field.as_root()),
                        amount: Gwei::new(part(&one, "amount")),
                        signature: SignatureBytes::from(one.field("signature").map_or([0; 96], |bytes| bytes.as_array())),
                    },
                    slot: Slot::new(part(&one, "slot")),
                })
                .collect(),
            pending_partial_withdrawals: list("pending_partial_withdrawals")
                .map(|one| (ValidatorIndex::new(part(&one, "validator_index")), Epoch::new(part(&one, "withdrawable_epoch"))))
                .collect(),
            justification_bits: state.field("justification_bits").map_or(0, |bits| bits.bytes().first().copied().unwrap_or(0)),
        }
    }

    /// The balance of a validator, or 0 if it is unknown.
    pub fn balance(&self, index: ValidatorIndex) -> Gwei {
        let state = SszView::checked(&self.catalogue.state, self.bytes);
        let nth = usize::try_from(index.as_u64()).ok();
        Gwei::new(nth.and_then(|nth| state.field("balances")?.element(nth)).map_or(0, |balance| balance.as_u64()))
    }

    /// Returns the public keys of the builders in the order of their index, at most `most` of them.
    /// The list is empty before Gloas. The index of a builder that has left can be given to another
    /// builder.
    pub fn builder_pubkeys(&self, most: usize) -> Vec<PubkeyBytes> {
        let state = SszView::checked(&self.catalogue.state, self.bytes);
        let builders = state.field("builders").into_iter().flat_map(|list| list.elements());
        builders
            .take(most)
            .map(|builder| PubkeyBytes::from(builder.field("pubkey").map_or([0; 48], |key| key.as_array())))
            .collect()
    }

    pub fn current_justified_checkpoint(&self) -> Checkpoint {
        self.current_justified
    }

    pub fn previous_justified_checkpoint(&self) -> Checkpoint {
        self.previous_justified
    }

    pub fn finalized_checkpoint(&self) -> Checkpoint {
        self.finalized
    }
}

/// Determines the fork of a state's containers from the fork version inside the state. This version
/// is at the same offset in every fork.
///
/// # Errors
///
/// The configuration does not list the version. The state then belongs to another network or to a
/// later fork.
pub fn fork_of_state(spec: &Spec, bytes: &[u8]) -> Result<ForkName, DecodeError> {
    const SLOT: usize = 40;
    const FORK: usize = 48;
    let mut fixed = match bytes.get(SLOT..FORK + 16) {
        Some(bytes) => Fixed(bytes),
        None => return Err(DecodeError::new("BeaconState", "fork", FORK, format!("the state ends at byte {}", bytes.len()))),
    };
    let slot = Slot::new(fixed.u64());
    let _previous: [u8; 4] = fixed.array();
    let version: [u8; 4] = fixed.array();
    if let Some(fork) = spec.forks.iter().rev().find(|fork| fork.version == version) {
        return Ok(fork.name);
    }
    let due = spec.fork_at(slot.epoch(&spec.preset));
    Err(DecodeError::new(
        "BeaconState",
        "fork.current_version",
        FORK + 4,
        format!(
            "version 0x{} is not in the configuration {:?}, where slot {slot} has 0x{} ({})",
            hex::encode(version),
            spec.config_name,
            hex::encode(due.version),
            due.name
        ),
    ))
}

fn nth_root(roots: &[u8], i: u64) -> Option<Root> {
    let start = usize::try_from(i).ok()?.checked_mul(32)?;
    roots.get(start..start + 32).map(Root::from_slice)
}

fn validator(bytes: &[u8]) -> Validator {
    let mut fixed = Fixed(bytes);
    Validator {
        pubkey: PubkeyBytes::from(fixed.array()),
        withdrawal_credentials: fixed.root(),
        effective_balance: Gwei::new(fixed.u64()),
        slashed: fixed.array() == [1],
        activation_eligibility_epoch: fixed.epoch(),
        activation_epoch: fixed.epoch(),
        exit_epoch: fixed.epoch(),
        withdrawable_epoch: fixed.epoch(),
    }
}
