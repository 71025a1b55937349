//! The errors of the index. Each one contains the directory and what the operator can do.

use consensus::Root;
use std::path::PathBuf;

/// Why the index cannot be opened or cannot continue. If opening is refused, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("{path}: another process has this index open; stop it, or give this one a data directory of its own")]
    Locked { path: PathBuf },
    #[error(
        "{path}: this index belongs to another network (genesis validators root {found}, configured is {wanted}); \
         use another data directory for this network"
    )]
    ForeignNetwork { path: PathBuf, found: Root, wanted: Root },
    #[error(
        "{path}: this index was made with {found} slots per epoch, configured are {wanted}; \
         use another data directory, or the network's own PRESET_BASE"
    )]
    ShapeDiffers { path: PathBuf, found: u64, wanted: u64 },
    #[error(
        "{slots_per_epoch} slots per epoch belong to no known preset (8 minimal, 16 gnosis, 32 mainnet); correct PRESET_BASE"
    )]
    UnknownPreset { slots_per_epoch: u64 },
    #[error("{path}: written in format {found}, this program knows formats up to {known}; install the newer slashwatch")]
    NewerVersion { path: PathBuf, found: u32, known: u32 },
    #[error("{path}: not a vote index ({reason}); give a directory that is empty or was made by slashwatch")]
    NotAnIndex { path: PathBuf, reason: String },
    #[error(
        "{path}: the index is damaged ({reason}); stop, move the directory away and start with an empty one: findings and \
         proofs are kept elsewhere, and history is filled again from blocks"
    )]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "{path}: could not read or write ({reason}); free disk space or mend the disk, then start again: what was committed is intact"
    )]
    Storage { path: PathBuf, reason: String },
}
