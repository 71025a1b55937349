//! The configuration of a network: forks, fork digests and the duration of a slot.
//!
//! Source: consensus-specs `configs/`, and `compute_fork_digest`. From Fulu on the digest also
//! depends on the blob parameters (EIP-7892).

use crate::domain::fork_data_root;
use crate::state::StateFork;
use crate::{DomainType, Epoch, ForkDigest, Preset, Root, Slot, compute_domain};
use ethereum_hashing::hash;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The forks whose containers this program knows, in order.
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

    /// Whether the specification of this fork is a draft that may still change, so that a network
    /// may follow another draft than this program.
    pub fn is_draft(self) -> bool {
        self >= Self::Heze
    }

    /// The name as in the HTTP header `Eth-Consensus-Version`.
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

    /// `MAX_ATTESTER_SLASHINGS` before Electra, `MAX_ATTESTER_SLASHINGS_ELECTRA` from Electra on:
    /// the maximum number of attester slashings in one block.
    pub fn max_attester_slashings(self) -> u64 {
        if self >= Self::Electra { 1 } else { 2 }
    }

    /// Returns whether EIP-7549 applies. From that fork on, aggregates span several committees, and
    /// a single attestation names its validator.
    pub fn has_single_attestations(self) -> bool {
        self >= Self::Electra
    }
}

impl fmt::Display for ForkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version that stands for a fork in a signature's domain.
pub type ForkVersion = [u8; 4];

/// A scheduled fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    pub name: ForkName,
    pub epoch: Epoch,
    pub version: ForkVersion,
}

/// A scheduled fork whose containers this program does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaterFork {
    /// The name as in the configuration, in lower case.
    pub name: String,
    pub epoch: Epoch,
    pub version: ForkVersion,
}

impl LaterFork {
    /// What the operator is told.
    pub fn notice(&self) -> String {
        format!(
            "this network forks to {} at epoch {}, which this version of slashwatch does not know: from then on messages are seen \
             but cannot be proven, and offences are missed; update slashwatch",
            self.name, self.epoch
        )
    }
}

/// One step of the blob schedule: from `epoch` on, a block has at most `max_blobs_per_block` blobs.
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
    /// The scheduled forks, ascending by epoch. If several forks have the same epoch, the last one
    /// is in force. The one before it is then the previous version of the state. The list is never
    /// empty.
    pub forks: Vec<Fork>,
    /// The scheduled forks that this program does not know, ascending by epoch. Messages of such a
    /// fork can be seen, and not proven.
    pub later_forks: Vec<LaterFork>,
    pub slot_duration: Duration,
    /// The steps, ascending by epoch.
    pub blob_schedule: Vec<BlobParameters>,
    /// The blob parameters in the fork digest as long as no step of the schedule applies
    /// (`ELECTRA_FORK_EPOCH`, `MAX_BLOBS_PER_BLOCK_ELECTRA`).
    pub blob_default: BlobParameters,
}

/// The reason why a configuration cannot be used.
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
    /// Takes over from the configuration of a node of one's own what this one does not have yet:
    /// forks and blob steps after its last one, and forks that are not known. A draft fork to which
    /// the node gives another version is one of another draft, so it is not known either. What both
    /// have, and neither has begun by the epoch after `now`, comes when the node says. Returns
    /// whether anything has changed.
    pub fn follow_schedule_of(&mut self, node: &Self, now: Epoch) -> bool {
        let before = self.clone();
        self.postpone_as(node, now);
        for fork in &node.forks {
            let last = self.forks.last().map_or(Epoch::new(0), |last| last.epoch);
            match self.forks.iter().position(|own| own.name == fork.name) {
                None if fork.epoch > last => self.forks.push(*fork),
                Some(place) if fork.name.is_draft() && self.forks[place].version != fork.version => {
                    self.forks.remove(place);
                    let name = fork.name.as_str().to_owned();
                    self.later_forks.push(LaterFork { name, epoch: fork.epoch, version: fork.version });
                }
                None | Some(_) => {}
            }
        }
        for fork in &node.later_forks {
            let is_there = self.later_forks.iter().any(|other| other.name == fork.name);
            if !is_there && self.is_after_known(fork) {
                self.later_forks.push(fork.clone());
            }
        }
        self.later_forks.sort_by_key(|fork| (fork.epoch, fork.version));
        let last_step = self.blob_schedule.last().map(|step| step.epoch);
        self.blob_schedule.extend(node.blob_schedule.iter().filter(|step| last_step.is_none_or(|last| last < step.epoch)));
        *self != before
    }

    /// Moves forks and blob steps to the node's epochs, unless one of the two epochs has begun or
    /// is the next one, or the forks would come in another order.
    fn postpone_as(&mut self, node: &Self, now: Epoch) {
        let to_come = |epoch: Epoch| epoch > now.saturating_add(1);
        let mut moved = self.clone();
        for own in &mut moved.forks {
            let same = node.forks.iter().find(|fork| (fork.name, fork.version) == (own.name, own.version));
            if let Some(fork) = same.filter(|fork| to_come(fork.epoch) && to_come(own.epoch)) {
                own.epoch = fork.epoch;
            }
        }
        for own in &mut moved.later_forks {
            let same = node.later_forks.iter().find(|fork| (&fork.name, fork.version) == (&own.name, own.version));
            if let Some(fork) = same.filter(|fork| to_come(fork.epoch) && to_come(own.epoch)) {
                own.epoch = fork.epoch;
            }
        }
        for own in &mut moved.blob_schedule {
            // Steps have no names. The greatest number of blobs tells them apart in every schedule so far.
            let same = node.blob_schedule.iter().find(|step| step.max_blobs_per_block == own.max_blobs_per_block);
            if let Some(step) = same.filter(|step| to_come(step.epoch) && to_come(own.epoch)) {
                own.epoch = step.epoch;
            }
        }
        let in_order = moved.forks.is_sorted_by_key(|fork| fork.epoch)
            && moved.blob_schedule.is_sorted_by_key(|step| step.epoch)
            && moved.later_forks.iter().all(|fork| moved.is_after_known(fork));
        if in_order {
            *self = moved;
        }
    }

    /// Lists what [`Self::follow_schedule_of`] would change, and what both have at different epochs:
    /// names of forks or blob steps, each with its epochs.
    pub fn changes_by(&self, node: &Self, now: Epoch) -> Vec<(String, Epoch)> {
        let mut followed = self.clone();
        followed.follow_schedule_of(node, now);
        let (before, after) = (self.named_epochs(), followed.named_epochs());
        let is_other = |others: &[(String, Epoch)], row: &(String, Epoch)| !others.contains(row);
        let mut changes: Vec<(String, Epoch)> = after.iter().filter(|row| is_other(&before, row)).cloned().collect();
        changes.extend(before.iter().filter(|row| is_other(&after, row)).cloned());
        let in_both = |name: &String| before.iter().any(|(own, _)| own == name);
        let differ = node.named_epochs().into_iter().filter(|row| in_both(&row.0) && is_other(&before, row));
        changes.extend(differ.filter(|row| is_other(&after, row)));
        changes.sort_by_key(|(_, epoch)| *epoch);
        changes
    }

    /// The forks and blob steps of the schedule, with their first epochs. The name of a later fork
    /// has its version, because a draft fork can be replaced by one of the same name.
    fn named_epochs(&self) -> Vec<(String, Epoch)> {
        let known = self.forks.iter().map(|fork| (fork.name.as_str().to_owned(), fork.epoch));
        let later = self
            .later_forks
            .iter()
            .map(|fork| (format!("{} (version 0x{:08x})", fork.name, u32::from_be_bytes(fork.version)), fork.epoch));
        let steps = self.blob_schedule.iter().map(|step| (format!("up to {} blobs", step.max_blobs_per_block), step.epoch));
        known.chain(later).chain(steps).collect()
    }

    /// Whether a fork can only come after all known ones: its version is higher than that of the
    /// last one, and it does not begin before it.
    pub(crate) fn is_after_known(&self, fork: &LaterFork) -> bool {
        self.forks.last().is_none_or(|last| fork.version > last.version && fork.epoch >= last.epoch)
    }

    /// Returns the last fork that begins at or before `epoch`. The first fork also covers all
    /// epochs before it.
    pub fn fork_at(&self, epoch: Epoch) -> Fork {
        *self.forks.iter().rev().find(|fork| fork.epoch <= epoch).unwrap_or(&self.forks[0])
    }

    /// Returns the `Fork` of a state in `epoch`, be it of a known fork or of another one.
    ///
    /// A state is upgraded from each fork to the next one, even if several forks have the same
    /// epoch. The previous version can therefore be the version of a fork that was never in force
    /// (`upgrade_to_*`: `previous_version = pre.fork.current_version`).
    pub fn state_fork_at(&self, epoch: Epoch) -> StateFork {
        let schedule = self.schedule();
        let current = schedule.iter().rposition(|(begins, _)| *begins <= epoch).unwrap_or(0);
        let ((epoch, current_version), (_, previous_version)) = (schedule[current], schedule[current.saturating_sub(1)]);
        StateFork { previous_version, current_version, epoch }
    }

    /// Returns the fork that is in force at `epoch`, if it is one that this program does not know.
    /// In the epoch of a known fork it is in force too, because it comes after that one.
    pub fn later_fork_at(&self, epoch: Epoch) -> Option<&LaterFork> {
        let later = self.later_forks.iter().rev().find(|fork| fork.epoch <= epoch)?;
        (later.epoch >= self.fork_at(epoch).epoch).then_some(later)
    }

    /// Returns the fork, in force at `now` or to come, from which on this program cannot prove
    /// messages.
    pub fn later_fork_from(&self, now: Epoch) -> Option<&LaterFork> {
        self.later_forks.iter().find(|fork| self.later_fork_at(fork.epoch.max(now)) == Some(*fork))
    }

    /// Returns the fork in force at `epoch`, or `None` if it is one that this program does not
    /// know.
    pub fn known_fork_at(&self, epoch: Epoch) -> Option<ForkName> {
        self.later_fork_at(epoch).is_none().then(|| self.fork_name_at(epoch))
    }

    /// Lists the epochs and versions of all scheduled forks, ascending by epoch. Of forks of one
    /// epoch, the last one is in force.
    pub fn schedule(&self) -> Vec<(Epoch, ForkVersion)> {
        let later = self.later_forks.iter().map(|fork| (fork.epoch, fork.version));
        let mut schedule: Vec<_> = self.forks.iter().map(|fork| (fork.epoch, fork.version)).chain(later).collect();
        schedule.sort_by_key(|(epoch, _)| *epoch);
        schedule
    }

    /// Lists the epochs at which a fork begins or a step of the blob schedule, ascending. Only at
    /// these epochs can a fork digest begin.
    pub fn digest_epochs(&self) -> Vec<Epoch> {
        let mut epochs: Vec<Epoch> = self.schedule().into_iter().map(|(epoch, _)| epoch).collect();
        epochs.extend(self.blob_schedule.iter().map(|step| step.epoch));
        epochs.sort();
        epochs.dedup();
        epochs
    }

    /// Returns the version in force at `epoch`, be it of a known fork or of another one.
    pub fn version_at(&self, epoch: Epoch) -> ForkVersion {
        self.later_fork_at(epoch).map_or(self.fork_at(epoch).version, |fork| fork.version)
    }

    /// Returns whether it is uncertain which version signs messages about `epoch`.
    ///
    /// This is so if a scheduled fork begins after `now` and at or before `epoch`. Messages about
    /// `epoch` are then signed with the new version, but the state in `now` still has the old one.
    /// As long as the fork has not happened, a message can be signed with either of the two. It is
    /// also so if the fork at `epoch` is one that this program does not know.
    pub fn is_version_uncertain(&self, epoch: Epoch, now: Epoch) -> bool {
        (epoch > now && self.fork_at(epoch).epoch > now) || self.later_fork_at(epoch).is_some()
    }

    pub fn fork_name_at(&self, epoch: Epoch) -> ForkName {
        self.fork_at(epoch).name
    }

    /// Returns the time from the start of a slot until its votes are due: a third of the slot, from
    /// Gloas on a quarter (`ATTESTATION_DUE_BPS`, `ATTESTATION_DUE_BPS_GLOAS`).
    pub fn attestation_due(&self, slot: Slot) -> Duration {
        let gloas = self.fork_name_at(slot.epoch(&self.preset)) >= ForkName::Gloas;
        self.slot_duration / if gloas { 4 } else { 3 }
    }

    /// `get_blob_parameters` of the specification.
    pub fn blob_parameters_at(&self, epoch: Epoch) -> BlobParameters {
        *self.blob_schedule.iter().rev().find(|step| step.epoch <= epoch).unwrap_or(&self.blob_default)
    }

    /// `compute_fork_digest` of the specification.
    pub fn fork_digest_at(&self, epoch: Epoch, genesis_validators_root: Root) -> ForkDigest {
        let fork = self.fork_at(epoch);
        let base = fork_data_root(self.version_at(epoch), genesis_validators_root);
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

/// One network: its configuration and its genesis. The domain of a signature and the name of a
/// topic can be computed from it.
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

    /// Returns the domain of a message about `epoch`. For an attestation this is the target's
    /// epoch, for a proposal the epoch of its slot.
    pub fn domain(&self, kind: DomainType, epoch: Epoch) -> [u8; 32] {
        compute_domain(kind, self.spec.fork_at(epoch).version, self.genesis_validators_root)
    }

    /// Returns the domain of a message that is signed with the version of a given fork, independent
    /// of the epoch that the message is about.
    pub fn domain_of(&self, kind: DomainType, version: ForkVersion) -> [u8; 32] {
        compute_domain(kind, version, self.genesis_validators_root)
    }

    pub fn fork_digest_at(&self, epoch: Epoch) -> ForkDigest {
        self.spec.fork_digest_at(epoch, self.genesis_validators_root)
    }

    /// Lists every fork digest of this network with the epoch at which it begins and its fork,
    /// which is `None` for one that this program does not know. A new digest begins with a fork or
    /// with a step of the blob schedule.
    pub fn digests(&self) -> Vec<(ForkDigest, Epoch, Option<ForkName>)> {
        let mut rows: Vec<(ForkDigest, Epoch, Option<ForkName>)> = Vec::new();
        for epoch in self.spec.digest_epochs() {
            let digest = self.fork_digest_at(epoch);
            if rows.iter().all(|row| row.0 != digest) {
                rows.push((digest, epoch, self.spec.known_fork_at(epoch)));
            }
        }
        rows
    }

    /// Returns the fork that a digest stands for. This call hashes the whole table. A caller that
    /// looks up every message keeps [`Network::fork_digests`] instead.
    pub fn fork_of_digest(&self, digest: ForkDigest) -> Option<ForkName> {
        self.fork_digests().fork_of(digest)
    }

    /// Returns the table of [`Network::digests`] for repeated lookups.
    pub fn fork_digests(&self) -> ForkDigests {
        ForkDigests { rows: self.digests() }
    }

    /// Returns the slot at `unix_ns`, in nanoseconds since the Unix epoch. Any time before genesis
    /// is in slot 0.
    pub fn slot_at(&self, unix_ns: u64) -> Slot {
        let since_genesis = unix_ns.saturating_sub(self.genesis_time.saturating_mul(1_000_000_000));
        Slot::new(since_genesis / (self.spec.slot_duration.as_nanos() as u64).max(1))
    }

    /// Returns the start of a slot in nanoseconds since the Unix epoch. The result saturates.
    pub fn slot_start_ns(&self, slot: Slot) -> u64 {
        let offset = slot.as_u64().saturating_mul(self.spec.slot_duration.as_nanos() as u64);
        self.genesis_time.saturating_mul(1_000_000_000).saturating_add(offset)
    }
}

/// All fork digests of a network, computed once. There are about ten, so a lookup is a short scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkDigests {
    rows: Vec<(ForkDigest, Epoch, Option<ForkName>)>,
}

impl ForkDigests {
    /// Returns the fork that a digest stands for. `None` if this program does not know it.
    pub fn fork_of(&self, digest: ForkDigest) -> Option<ForkName> {
        self.rows.iter().find(|row| row.0 == digest)?.2
    }

    /// Returns whether a digest belongs to the schedule of this network, whether its fork is known
    /// or not.
    pub fn contains(&self, digest: ForkDigest) -> bool {
        self.begins(digest).is_some()
    }

    /// Returns the epoch at which a digest of this network begins.
    pub fn begins(&self, digest: ForkDigest) -> Option<Epoch> {
        self.rows.iter().find(|row| row.0 == digest).map(|row| row.1)
    }

    /// Returns the first digest of a fork.
    pub fn digest_of(&self, fork: ForkName) -> Option<ForkDigest> {
        self.rows.iter().find(|row| row.2 == Some(fork)).map(|row| row.0)
    }
}
