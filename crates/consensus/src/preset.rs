//! Presets as values: the sizes that several networks share.
//!
//! Source: consensus-specs `presets/` and gnosischain/configs.

/// The published preset that a network is built on (`PRESET_BASE` in its configuration).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PresetName {
    Mainnet,
    Minimal,
    Gnosis,
}

impl PresetName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mainnet => "mainnet",
            Self::Minimal => "minimal",
            Self::Gnosis => "gnosis",
        }
    }
}

/// The sizes of a preset that this program needs. Each field has the name of its key in the
/// specification, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: PresetName,
    pub slots_per_epoch: u64,
    pub slots_per_historical_root: u64,
    pub epochs_per_historical_vector: u64,
    pub epochs_per_slashings_vector: u64,
    pub epochs_per_eth1_voting_period: u64,
    pub max_committees_per_slot: u64,
    pub target_committee_size: u64,
    pub shuffle_round_count: u8,
    pub sync_committee_size: u64,
    pub epochs_per_sync_committee_period: u64,
    pub max_withdrawals_per_payload: u64,
    pub pending_partial_withdrawals_limit: u64,
    pub pending_consolidations_limit: u64,
    /// Size of the payload-timeliness committee, from Gloas on.
    pub ptc_size: u64,
    /// Size of the inclusion list committee, from Heze on.
    pub inclusion_list_committee_size: u64,
    /// Number of validators that may always exit in one epoch (phase0 to Deneb). In the
    /// specification this field and the fields below are configuration values, not part of the
    /// preset.
    pub min_per_epoch_churn_limit: u64,
    /// One validator in this number may exit in one epoch. From Electra on it is a share of the
    /// total stake.
    pub churn_limit_quotient: u64,
    /// Stake in Gwei that may always exit in one epoch, from Electra on.
    pub min_per_epoch_churn_limit_electra: u64,
    /// Maximum stake in Gwei that may exit in one epoch, from Electra on.
    pub max_per_epoch_activation_exit_churn_limit: u64,
    /// Maximum number of validators that may become active in one epoch, in Deneb.
    pub max_per_epoch_activation_churn_limit: u64,
    /// Like `churn_limit_quotient`, from Gloas on.
    pub churn_limit_quotient_gloas: u64,
    /// The part of the total stake that may be consolidated in one epoch, from Gloas on.
    pub consolidation_churn_limit_quotient: u64,
    /// Maximum stake in Gwei that may become active in one epoch, from Gloas on.
    pub max_per_epoch_activation_churn_limit_gloas: u64,
    /// Number of epochs for which a validator must have been active before it may ask to exit.
    pub shard_committee_period: u64,
    /// Number of epochs from a validator's exit until its balance can be withdrawn.
    pub min_validator_withdrawability_delay: u64,
    /// Effective balance in Gwei at or below which an active validator is ejected.
    pub ejection_balance: u64,
}

/// `MIN_SEED_LOOKAHEAD`, the same in every preset.
pub const MIN_SEED_LOOKAHEAD: u64 = 1;
/// `MAX_SEED_LOOKAHEAD`, the same in every preset.
pub const MAX_SEED_LOOKAHEAD: u64 = 4;
/// `MAX_VALIDATORS_PER_COMMITTEE`, the same in every preset.
pub const MAX_VALIDATORS_PER_COMMITTEE: u64 = 2048;
/// `MAX_PROPOSER_SLASHINGS`: maximum number of proposer slashings in one block. It is the same in
/// every preset and fork.
pub const MAX_PROPOSER_SLASHINGS: u64 = 16;

impl Preset {
    pub const MAINNET: Self = Self {
        name: PresetName::Mainnet,
        slots_per_epoch: 32,
        slots_per_historical_root: 8192,
        epochs_per_historical_vector: 65_536,
        epochs_per_slashings_vector: 8192,
        epochs_per_eth1_voting_period: 64,
        max_committees_per_slot: 64,
        target_committee_size: 128,
        shuffle_round_count: 90,
        sync_committee_size: 512,
        epochs_per_sync_committee_period: 256,
        max_withdrawals_per_payload: 16,
        pending_partial_withdrawals_limit: 134_217_728,
        pending_consolidations_limit: 262_144,
        ptc_size: 512,
        inclusion_list_committee_size: 16,
        min_per_epoch_churn_limit: 4,
        churn_limit_quotient: 65_536,
        min_per_epoch_churn_limit_electra: 128_000_000_000,
        max_per_epoch_activation_exit_churn_limit: 256_000_000_000,
        max_per_epoch_activation_churn_limit: 8,
        churn_limit_quotient_gloas: 32_768,
        consolidation_churn_limit_quotient: 65_536,
        max_per_epoch_activation_churn_limit_gloas: 256_000_000_000,
        shard_committee_period: 256,
        min_validator_withdrawability_delay: 256,
        ejection_balance: 16_000_000_000,
    };

    pub const MINIMAL: Self = Self {
        name: PresetName::Minimal,
        slots_per_epoch: 8,
        slots_per_historical_root: 64,
        epochs_per_historical_vector: 64,
        epochs_per_slashings_vector: 64,
        epochs_per_eth1_voting_period: 4,
        max_committees_per_slot: 4,
        target_committee_size: 4,
        shuffle_round_count: 10,
        sync_committee_size: 32,
        epochs_per_sync_committee_period: 8,
        max_withdrawals_per_payload: 4,
        pending_partial_withdrawals_limit: 64,
        pending_consolidations_limit: 64,
        ptc_size: 16,
        inclusion_list_committee_size: 16,
        min_per_epoch_churn_limit: 2,
        churn_limit_quotient: 32,
        min_per_epoch_churn_limit_electra: 64_000_000_000,
        max_per_epoch_activation_exit_churn_limit: 128_000_000_000,
        max_per_epoch_activation_churn_limit: 4,
        churn_limit_quotient_gloas: 16,
        consolidation_churn_limit_quotient: 32,
        max_per_epoch_activation_churn_limit_gloas: 128_000_000_000,
        shard_committee_period: 64,
        min_validator_withdrawability_delay: 256,
        ejection_balance: 16_000_000_000,
    };

    pub const GNOSIS: Self = Self {
        name: PresetName::Gnosis,
        slots_per_epoch: 16,
        epochs_per_sync_committee_period: 512,
        max_withdrawals_per_payload: 8,
        min_per_epoch_churn_limit: 4,
        churn_limit_quotient: 4_096,
        min_per_epoch_churn_limit_electra: 128_000_000_000,
        max_per_epoch_activation_exit_churn_limit: 64_000_000_000,
        max_per_epoch_activation_churn_limit: 2,
        ..Self::MAINNET
    };

    pub const fn by_name(name: PresetName) -> Self {
        match name {
            PresetName::Mainnet => Self::MAINNET,
            PresetName::Minimal => Self::MINIMAL,
            PresetName::Gnosis => Self::GNOSIS,
        }
    }

    /// Maximum number of members of all committees of one slot. From Electra on it bounds the bits
    /// of an attestation and the indices of an indexed attestation.
    pub const fn max_validators_per_slot(&self) -> u64 {
        MAX_VALIDATORS_PER_COMMITTEE * self.max_committees_per_slot
    }
}
