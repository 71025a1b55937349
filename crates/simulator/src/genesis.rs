//! The beginning of a simulated network: its `config.yaml` and its genesis state, as bytes.
//!
//! The state is a plain genesis state of the wanted fork. All validators are active from epoch 0 on
//! with 32 ETH, unless the scenario activates some later. All randao mixes equal the eth1 block
//! hash, and there is no history. The sync committees are the first validators in order, because
//! the watcher does not read them. Source: consensus-specs, `initialize_beacon_state_from_eth1` and
//! each fork's `BeaconState`.

use crate::block::{BlockBody, empty_payload_header};
use crate::containers::{checkpoint, header, root};
use crate::error::SimError;
use crate::keys::Keyring;
use crate::registry::MovingRegistry;
use crate::scenario::Scenario;
use crate::ssz::SszValue;
use consensus::{
    BeaconBlockHeader, Checkpoint, Epoch, ForkName, Network, Preset, PresetName, PubkeyBytes, Root, SignatureBytes, Slot, Spec,
    ValidatorIndex,
};
use std::fmt::Write as _;

pub(crate) const VALIDATOR_REGISTRY_LIMIT: u64 = 1 << 40;
const HISTORICAL_ROOTS_LIMIT: u64 = 1 << 24;
const MAX_PENDING_ATTESTATIONS_PER_SLOT: u64 = 128;
const PENDING_DEPOSITS_LIMIT: u64 = 1 << 27;
/// In epochs.
const MIN_VALIDATOR_WITHDRAWABILITY_DELAY: u64 = 256;
/// 32 ETH in Gwei.
pub(crate) const EFFECTIVE_BALANCE: u64 = 32_000_000_000;

/// The first state of a simulated network.
#[derive(Clone, Debug)]
pub struct SimGenesis {
    /// Seconds since the Unix epoch.
    pub time: u64,
    pub validators_root: Root,
    /// The state in SSZ.
    pub state_ssz: Vec<u8>,
    pub state_root: Root,
    /// Header of the block at slot 0, which is the parent of the first block.
    pub header: BeaconBlockHeader,
    /// Public keys by validator index.
    pub pubkeys: Vec<PubkeyBytes>,
    /// The value of every entry of the randao mixes.
    pub randao_mix: Root,
}

/// Returns the network's `config.yaml`.
pub fn config_yaml(scenario: &Scenario) -> String {
    let mut text = String::new();
    let ms = scenario.slot_duration.as_millis();
    let preset = match scenario.preset {
        PresetName::Mainnet => "mainnet",
        PresetName::Minimal => "minimal",
        PresetName::Gnosis => "gnosis",
    };
    let _ = writeln!(text, "PRESET_BASE: '{preset}'");
    let _ = writeln!(text, "CONFIG_NAME: 'slashwatch-simulator'");
    let _ = writeln!(text, "SECONDS_PER_SLOT: {}", ms.div_ceil(1000));
    let _ = writeln!(text, "SLOT_DURATION_MS: {ms}");
    let _ = writeln!(text, "GENESIS_FORK_VERSION: 0x{}", hex::encode(fork_version(ForkName::Phase0)));
    for fork in ForkName::ALL.into_iter().skip(1) {
        let name = fork.as_str().to_uppercase();
        let epoch = scenario.fork_epoch(fork).unwrap_or(Epoch::FAR_FUTURE);
        let _ = writeln!(text, "{name}_FORK_VERSION: 0x{}", hex::encode(fork_version(fork)));
        let _ = writeln!(text, "{name}_FORK_EPOCH: {epoch}");
    }
    text.push_str("MAX_BLOBS_PER_BLOCK: 6\nMAX_BLOBS_PER_BLOCK_ELECTRA: 9\nBLOB_SCHEDULE: []\nATTESTATION_SUBNET_COUNT: 64\n");
    if scenario.registry.is_some() {
        // Validators may leave soon, and there is room for consolidations in a small network.
        text.push_str("SHARD_COMMITTEE_PERIOD: 4\n");
        text.push_str(
            "MIN_PER_EPOCH_CHURN_LIMIT_ELECTRA: 128000000000\nMAX_PER_EPOCH_ACTIVATION_EXIT_CHURN_LIMIT: 64000000000\n",
        );
    }
    text
}

/// Returns the network that belongs to a genesis.
pub(crate) fn network(scenario: &Scenario, genesis: &SimGenesis) -> Result<Network, SimError> {
    let spec = Spec::from_yaml(&config_yaml(scenario)).map_err(SimError::Config)?;
    Ok(Network { spec, genesis_time: genesis.time, genesis_validators_root: genesis.validators_root })
}

/// The number of the fork, followed by "SIM".
pub(crate) fn fork_version(fork: ForkName) -> [u8; 4] {
    [fork as u8, b'S', b'I', b'M']
}

impl SimGenesis {
    /// Creates the genesis state of a scenario. `time` is in seconds since the Unix epoch.
    pub(crate) fn new(scenario: &Scenario, keys: &Keyring, time: u64) -> Self {
        let preset = &scenario.preset();
        let fork = scenario.fork;
        let pubkeys = keys.pubkeys(scenario.n_validators);
        let validators = SszValue::List {
            items: pubkeys
                .iter()
                .zip(0u64..)
                .map(|(pubkey, index)| validator(scenario, ValidatorIndex::new(index), pubkey, Standing::Free))
                .collect(),
            limit: VALIDATOR_REGISTRY_LIMIT,
        };
        let validators_root = validators.root();
        let randao_mix = Root::from(scenario.random().hash("eth1 block", &[]));
        let first_header = first_header(fork, preset);
        let active = scenario.active(Epoch::new(0));
        let parts = Parts {
            fork,
            preset,
            keys,
            time,
            slot: Slot::new(0),
            active: &active,
            n_validators: pubkeys.len(),
            validators,
            validators_root,
            randao_mix,
            mixes: &[],
            block_roots: SszValue::zeros(32 * preset.slots_per_historical_root),
            latest_header: first_header,
            lookahead_from: Epoch::new(0),
            progress: None,
        };
        let state = parts.state();
        let state_root = state.root();
        Self {
            time,
            validators_root,
            state_ssz: state.to_ssz(),
            state_root,
            header: BeaconBlockHeader { state_root, ..first_header },
            pubkeys,
            randao_mix,
        }
    }
}

/// The header of the block at slot 0, without the root of the state.
pub(crate) fn first_header(fork: ForkName, preset: &Preset) -> BeaconBlockHeader {
    BeaconBlockHeader {
        body_root: BlockBody::empty().to_value(fork, preset, &SignatureBytes::ZERO).root(),
        ..BeaconBlockHeader::default()
    }
}

/// The parts of an early state, which has no history and no finality, and in which every validator
/// has 32 ETH.
pub(crate) struct Parts<'a> {
    pub(crate) fork: ForkName,
    pub(crate) preset: &'a Preset,
    pub(crate) keys: &'a Keyring,
    /// Genesis time in seconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) slot: Slot,
    /// In ascending order.
    pub(crate) active: &'a [u32],
    pub(crate) n_validators: usize,
    /// The registry, as a list or already encoded.
    pub(crate) validators: SszValue,
    pub(crate) validators_root: Root,
    /// The mix at genesis, which is in all entries that no epoch has written since.
    pub(crate) randao_mix: Root,
    /// The mixes by epoch, from epoch 0 on.
    pub(crate) mixes: &'a [Root],
    /// `SLOTS_PER_HISTORICAL_ROOT` roots.
    pub(crate) block_roots: SszValue,
    pub(crate) latest_header: BeaconBlockHeader,
    /// The first of the two epochs whose proposers a Fulu state contains.
    pub(crate) lookahead_from: Epoch,
    /// What has happened since genesis, if the scenario moves the registry.
    pub(crate) progress: Option<SinceGenesis<'a>>,
}

/// What a state tells about the time since genesis.
pub(crate) struct SinceGenesis<'a> {
    pub(crate) registry: &'a MovingRegistry,
    /// Previous justified, current justified, finalized.
    pub(crate) checkpoints: [Checkpoint; 3],
    /// The proposers of the present and the next epoch (Fulu).
    pub(crate) proposers: Vec<ValidatorIndex>,
}

impl Parts<'_> {
    /// Builds the `BeaconState`.
    pub(crate) fn state(self) -> SszValue {
        let (preset, fork) = (self.preset, self.fork);
        let n = self.n_validators as u64;
        let version = SszValue::bytes(&fork_version(fork));
        let balances: Vec<u64> = match &self.progress {
            Some(progress) => progress.registry.validators.iter().map(|one| one.balance).collect(),
            None => vec![EFFECTIVE_BALANCE; self.n_validators],
        };
        let n_deposits = self.progress.as_ref().map_or(n, |progress| progress.registry.eth1_deposit_index());
        let no_root = || root(Root::ZERO);
        let committee = self.sync_committee(n);
        let lookahead = self.proposer_lookahead();
        let randao_mixes = self.randao_mixes();
        let mut fields = vec![
            SszValue::u64(self.time),
            root(self.validators_root),
            SszValue::u64(self.slot.as_u64()),
            SszValue::Container(vec![version.clone(), version, SszValue::u64(0)]),
            header(&self.latest_header),
            self.block_roots,
            SszValue::zeros(32 * preset.slots_per_historical_root),
            SszValue::Packed { bytes: Vec::new(), length: 0, limit_chunks: HISTORICAL_ROOTS_LIMIT },
            SszValue::Container(vec![no_root(), SszValue::u64(n_deposits), root(self.randao_mix)]),
            SszValue::empty(preset.epochs_per_eth1_voting_period * preset.slots_per_epoch),
            SszValue::u64(n_deposits),
            self.validators,
            SszValue::u64_list(balances, VALIDATOR_REGISTRY_LIMIT),
            randao_mixes,
            SszValue::zeros(8 * preset.epochs_per_slashings_vector),
        ];
        if fork == ForkName::Phase0 {
            let limit = MAX_PENDING_ATTESTATIONS_PER_SLOT * preset.slots_per_epoch;
            fields.extend([SszValue::empty(limit), SszValue::empty(limit)]);
        } else {
            let flags = SszValue::byte_list(&vec![0; n as usize], VALIDATOR_REGISTRY_LIMIT);
            fields.extend([flags.clone(), flags]);
        }
        let bits = self.progress.as_ref().map_or(0, |progress| progress.registry.justification_bits());
        let checkpoints = self.progress.as_ref().map_or([Checkpoint::default(); 3], |progress| progress.checkpoints);
        fields.push(SszValue::bytes(&[bits]));
        fields.extend(checkpoints.iter().map(checkpoint));
        if fork >= ForkName::Altair {
            fields.push(SszValue::u64_list((0..n).map(|_| 0), VALIDATOR_REGISTRY_LIMIT));
            fields.extend([committee.clone(), committee]);
        }
        if fork >= ForkName::Bellatrix {
            fields.push(empty_payload_header(fork));
        }
        if fork >= ForkName::Capella {
            fields.extend([SszValue::u64(0), SszValue::u64(0), SszValue::empty(HISTORICAL_ROOTS_LIMIT)]);
        }
        if let Some(progress) = self.progress.as_ref().filter(|_| fork >= ForkName::Electra) {
            fields.extend(progress.registry.queue_values());
        } else if fork >= ForkName::Electra {
            // The deposit request index, three balances to consume and two earliest epochs. Then
            // the pending lists follow.
            fields.extend((0..6).map(|_| SszValue::u64(0)));
            fields.push(SszValue::empty(PENDING_DEPOSITS_LIMIT));
            fields.push(SszValue::empty(preset.pending_partial_withdrawals_limit));
            fields.push(SszValue::empty(preset.pending_consolidations_limit));
        }
        if fork >= ForkName::Fulu {
            fields.push(lookahead);
        }
        SszValue::Container(fields)
    }

    fn randao_mixes(&self) -> SszValue {
        let n = self.preset.epochs_per_historical_vector as usize;
        let mut vector = self.randao_mix.as_slice().repeat(n);
        for (epoch, mix) in self.mixes.iter().enumerate() {
            vector[epoch % n * 32..][..32].copy_from_slice(mix.as_slice());
        }
        SszValue::Fixed(vector)
    }

    fn sync_committee(&self, n: u64) -> SszValue {
        let members: Vec<ValidatorIndex> = (0..self.preset.sync_committee_size).map(|i| ValidatorIndex::new(i % n)).collect();
        let by_index = self.keys.pubkeys(self.n_validators.min(members.len()));
        let pubkeys = members.iter().flat_map(|member| by_index[member.as_u64() as usize].to_vec()).collect::<Vec<u8>>();
        // This is a vector of composite byte vectors: its chunks are the roots of 48 bytes each. So
        // it cannot be one packed value.
        let pubkeys = SszValue::Container(pubkeys.chunks_exact(48).map(SszValue::bytes).collect());
        SszValue::Container(vec![pubkeys, SszValue::bytes(self.keys.aggregate_pubkey(&members).as_slice())])
    }

    /// Fulu's proposers of two epochs, as `initialize_proposer_lookahead` computes them.
    fn proposer_lookahead(&self) -> SszValue {
        let mut bytes = Vec::new();
        if let Some(progress) = &self.progress {
            progress.proposers.iter().for_each(|proposer| bytes.extend_from_slice(&proposer.as_u64().to_le_bytes()));
            return SszValue::Fixed(bytes);
        }
        let first = self.lookahead_from.start_slot(self.preset);
        for slot in (0..2 * self.preset.slots_per_epoch).map(|nth| first.saturating_add(nth)) {
            let proposer = crate::proposer::proposer(self.fork, self.preset, self.active, self.randao_mix, slot);
            bytes.extend_from_slice(&proposer.as_u64().to_le_bytes());
        }
        SszValue::Fixed(bytes)
    }
}

/// Whether a validator has been slashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Free,
    /// Slashed, with the epoch of its exit and the epoch of the slashing.
    Slashed {
        exit: Epoch,
        at: Epoch,
    },
}

/// Builds a `Validator`. All validators of the operator share one withdrawal address, and every
/// other validator has its own.
pub(crate) fn validator(scenario: &Scenario, index: ValidatorIndex, pubkey: &PubkeyBytes, standing: Standing) -> SszValue {
    let mut credentials = [0u8; 32];
    credentials[0] = 1;
    let owner = if scenario.operator.contains(&index) { &b"the operator"[..] } else { pubkey.as_slice() };
    credentials[12..].copy_from_slice(&consensus::sha256(owner)[12..]);
    let preset = scenario.preset();
    let (slashed, exit, withdrawable) = match standing {
        Standing::Free => (0, Epoch::FAR_FUTURE, Epoch::FAR_FUTURE),
        Standing::Slashed { exit, at } => {
            let least = at.saturating_add(preset.epochs_per_slashings_vector);
            (1, exit, exit.saturating_add(MIN_VALIDATOR_WITHDRAWABILITY_DELAY).max(least))
        }
    };
    SszValue::Container(vec![
        SszValue::bytes(pubkey.as_slice()),
        SszValue::bytes(&credentials),
        SszValue::u64(EFFECTIVE_BALANCE),
        SszValue::bytes(&[slashed]),
        SszValue::u64(0),
        SszValue::u64(scenario.activation_of(index).as_u64()),
        SszValue::u64(exit.as_u64()),
        SszValue::u64(withdrawable.as_u64()),
    ])
}
