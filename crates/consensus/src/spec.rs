//! A network's configuration: forks, digests, slot time. Source: consensus-specs `configs/`, and `compute_fork_digest`
//! with the blob parameters mixed in from Fulu on (EIP-7892).

use crate::domain::fork_data_root;
use crate::state::StateFork;
use crate::{DomainType, Epoch, ForkDigest, Preset, Root, Slot, compute_domain};
use ethereum_hashing::hash;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The forks whose containers are known, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForkName {
    Phase0,
    Altair,
    Bellatrix,
    Capella,
    Deneb,
    Electra,
    Fulu,
    Gloas,
    Heze,
}

impl ForkName {
    pub const ALL: [Self; 9] = [
        Self::Phase0,
        Self::Altair,
        Self::Bellatrix,
        Self::Capella,
        Self::Deneb,
        Self::Electra,
        Self::Fulu,
        Self::Gloas,
        Self::Heze,
    ];

    /// As in `Eth-Consensus-Version`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Phase0 => "phase0",
            Self::Altair => "altair",
            Self::Bellatrix => "bellatrix",
            Self::Capella => "capella",
            Self::Deneb => "deneb",
            Self::Electra => "electra",
            Self::Fulu => "fulu",
            Self::Gloas => "gloas",
            Self::Heze => "heze",
        }
    }

    /// `MAX_ATTESTER_SLASHINGS`, `MAX_ATTESTER_SLASHINGS_ELECTRA`: so many fit into a block.
    pub fn max_attester_slashings(self) -> u64 {
        if self >= Self::Electra { 1 } else { 2 }
    }

    /// EIP-7549: aggregates over committees, single attestations that name their validator.
    pub fn has_single_attestations(self) -> bool {
        self >= Self::Electra
    }
}

impl fmt::Display for ForkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a signature's domain knows a fork by.
pub type ForkVersion = [u8; 4];

/// A scheduled fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    pub name: ForkName,
    pub epoch: Epoch,
    pub version: ForkVersion,
}

/// One step of the blob schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobParameters {
    pub epoch: Epoch,
    pub max_blobs_per_block: u64,
}

/// A network's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub config_name: String,
    pub preset: Preset,
    /// Forks that happen, by epoch. Of forks at one epoch the last counts, and the one before it is its state's previous version. Never
    /// empty.
    pub forks: Vec<Fork>,
    pub slot_duration: Duration,
    /// Ascending by epoch.
    pub blob_schedule: Vec<BlobParameters>,
    /// What the digest mixes in when no step of the schedule applies (`ELECTRA_FORK_EPOCH`, `MAX_BLOBS_PER_BLOCK_ELECTRA`).
    pub blob_default: BlobParameters,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("config.yaml is not a YAML mapping: {0}; give the file that the network's clients start with")]
    NotYaml(String),
    #[error("the node's config/spec answer is no JSON object: {0}; check that the URL is a beacon node's")]
    NotJson(String),
    #[error("network configuration: {key}: {value:?} is not {wanted}; correct it, or leave the key out for the preset's value")]
    BadValue { key: String, value: String, wanted: &'static str },
    #[error("network configuration: PRESET_BASE {0:?} is unknown; use mainnet, minimal or gnosis")]
    UnknownPreset(String),
}

impl Spec {
    /// The last fork at or before `epoch`. The first fork covers everything before it.
    pub fn fork_at(&self, epoch: Epoch) -> Fork {
        *self.forks.iter().rev().find(|fork| fork.epoch <= epoch).unwrap_or(&self.forks[0])
    }

    /// The `Fork` of a state in `epoch`. States are upgraded from fork to fork, also where several share an epoch: then the previous version
    /// is one that no epoch was lived in (`upgrade_to_*`: `previous_version = pre.fork.current_version`).
    pub fn state_fork_at(&self, epoch: Epoch) -> StateFork {
        let current = self.forks.iter().rposition(|fork| fork.epoch <= epoch).unwrap_or(0);
        let (fork, previous) = (self.forks[current], self.forks[current.saturating_sub(1)]);
        StateFork { previous_version: previous.version, current_version: fork.version, epoch: fork.epoch }
    }

    /// The scheduled fork that has not happened in `now` and from which on messages about `epoch` are signed with another version than the
    /// state of `now` has: until then it is not certain which of the two a message is signed with.
    pub fn is_version_uncertain(&self, epoch: Epoch, now: Epoch) -> bool {
        epoch > now && self.fork_at(epoch).epoch > now
    }

    pub fn fork_name_at(&self, epoch: Epoch) -> ForkName {
        self.fork_at(epoch).name
    }

    /// Time from a slot's start until its votes are due: a third of the slot, from Gloas on a quarter (`ATTESTATION_DUE_BPS`,
    /// `ATTESTATION_DUE_BPS_GLOAS`).
    pub fn attestation_due(&self, slot: Slot) -> Duration {
        let gloas = self.fork_name_at(slot.epoch(&self.preset)) >= ForkName::Gloas;
        self.slot_duration / if gloas { 4 } else { 3 }
    }

    /// `get_blob_parameters`.
    pub fn blob_parameters_at(&self, epoch: Epoch) -> BlobParameters {
        *self.blob_schedule.iter().rev().find(|step| step.epoch <= epoch).unwrap_or(&self.blob_default)
    }

    /// `compute_fork_digest`.
    pub fn fork_digest_at(&self, epoch: Epoch, genesis_validators_root: Root) -> ForkDigest {
        let fork = self.fork_at(epoch);
        let base = fork_data_root(fork.version, genesis_validators_root);
        let mut digest = [0u8; 4];
        digest.copy_from_slice(&base[..4]);
        if fork.name >= ForkName::Fulu {
            let blobs = self.blob_parameters_at(epoch);
            let mut preimage = [0u8; 16];
            preimage[..8].copy_from_slice(&blobs.epoch.as_u64().to_le_bytes());
            preimage[8..].copy_from_slice(&blobs.max_blobs_per_block.to_le_bytes());
            for (byte, mask) in digest.iter_mut().zip(hash(&preimage)) {
                *byte ^= mask;
            }
        }
        ForkDigest(digest)
    }
}

/// One network: configuration and genesis. Everything a signature's domain or a topic's name needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub spec: Spec,
    /// Seconds since the Unix epoch.
    pub genesis_time: u64,
    pub genesis_validators_root: Root,
}

impl Network {
    pub fn preset(&self) -> &Preset {
        &self.spec.preset
    }

    /// The domain of a message about `epoch` (attestations: the target's, proposals: the slot's).
    pub fn domain(&self, kind: DomainType, epoch: Epoch) -> [u8; 32] {
        compute_domain(kind, self.spec.fork_at(epoch).version, self.genesis_validators_root)
    }

    /// The domain of a message that is signed with a fork's version, whatever epoch it is about.
    pub fn domain_of(&self, kind: DomainType, version: ForkVersion) -> [u8; 32] {
        compute_domain(kind, version, self.genesis_validators_root)
    }

    pub fn fork_digest_at(&self, epoch: Epoch) -> ForkDigest {
        self.spec.fork_digest_at(epoch, self.genesis_validators_root)
    }

    /// Every digest this network uses over time, with the epoch it begins at and its fork: forks and blob steps.
    pub fn digests(&self) -> Vec<(ForkDigest, Epoch, ForkName)> {
        let mut epochs: Vec<Epoch> = self.spec.forks.iter().map(|fork| fork.epoch).collect();
        epochs.extend(self.spec.blob_schedule.iter().map(|step| step.epoch));
        epochs.sort();
        epochs.dedup();
        let mut rows: Vec<(ForkDigest, Epoch, ForkName)> = Vec::new();
        for epoch in epochs {
            let digest = self.fork_digest_at(epoch);
            if rows.iter().all(|row| row.0 != digest) {
                rows.push((digest, epoch, self.spec.fork_name_at(epoch)));
            }
        }
        rows
    }

    /// The fork a digest stands for. Hashes the whole table: who asks per message keeps [`Network::fork_digests`].
    pub fn fork_of_digest(&self, digest: ForkDigest) -> Option<ForkName> {
        self.fork_digests().fork_of(digest)
    }

    /// [`Network::digests`] to look things up in.
    pub fn fork_digests(&self) -> ForkDigests {
        ForkDigests { rows: self.digests() }
    }

    /// The slot at `unix_ns` nanoseconds since the Unix epoch; slot 0 before genesis.
    pub fn slot_at(&self, unix_ns: u64) -> Slot {
        let since_genesis = unix_ns.saturating_sub(self.genesis_time.saturating_mul(1_000_000_000));
        Slot::new(since_genesis / (self.spec.slot_duration.as_nanos() as u64).max(1))
    }

    /// When a slot starts, nanoseconds since the Unix epoch; saturates.
    pub fn slot_start_ns(&self, slot: Slot) -> u64 {
        let offset = slot.as_u64().saturating_mul(self.spec.slot_duration.as_nanos() as u64);
        self.genesis_time.saturating_mul(1_000_000_000).saturating_add(offset)
    }
}

/// All fork digests of a network, hashed once: about ten rows, so a lookup is a short scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkDigests {
    rows: Vec<(ForkDigest, Epoch, ForkName)>,
}

impl ForkDigests {
    /// The fork a digest stands for.
    pub fn fork_of(&self, digest: ForkDigest) -> Option<ForkName> {
        self.rows.iter().find(|row| row.0 == digest).map(|row| row.2)
    }

    /// The epoch a digest's topics begin at.
    pub fn begins_at(&self, digest: ForkDigest) -> Option<Epoch> {
        self.rows.iter().find(|row| row.0 == digest).map(|row| row.1)
    }

    /// Digest, first epoch and fork, by epoch.
    pub fn rows(&self) -> &[(ForkDigest, Epoch, ForkName)] {
        &self.rows
    }
}
