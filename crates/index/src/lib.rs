//! Who signed what: every vote and proposal, kept as proof, and whether a new one contradicts what is kept.
//!
//! # The idea
//!
//! Write a vote as (source epoch, target epoch). Two different votes of one validator are slashable when their targets are
//! equal or when one surrounds the other. If no two votes of a validator are slashable, then sorted by target their
//! sources never fall: they form a *chain*. So a new vote need only be compared with its neighbours in the chain:
//!
//! ```text
//! chain (2,3) (3,4) (4,5) (5,7)
//! (5,8): after (5,7), 5 <= 5: joins         (3,9): after (5,7), 5 > 3: surrounds it, and (4,5) before it
//! (6,6): before (5,7), 5 < 6: surrounded    (4,5) with other data: double vote
//! ```
//!
//! A vote that contradicts its chain stays outside it, in a list ([`offenders`]); later votes of that validator are
//! compared with the list and with the chain, so every contradicting pair is named, whatever the order of arrival.
//!
//! History and proof are the same bytes: signatures over equal data add up, so all that is known of one data and
//! committee is one attestation ([`sums`]). A million validators take about 0.23 MB per epoch, with proof for every vote.
//!
//! # Map
//!
//! | module | what |
//! |---|---|
//! | [`stage`], [`judge`], [`walk`] | from a proven vote to conflicts |
//! | [`heads`], [`newest`], [`epochs`] | the two newest votes per validator, 8 bytes each: decides nearly every vote |
//! | [`beside`], [`shelf`] | whole epochs of old votes, as when history is filled |
//! | [`summary`] | who voted in which block of epochs: finds neighbours across gaps |
//! | [`sums`], [`members`], [`codec`] | one row: sums over one data |
//! | [`shufflings`], [`seating`], [`geometry`], [`present`], [`active`] | who sat where, also long ago and on other branches |
//! | [`data`], [`peers`], [`offenders`], [`proposals`] | the small tables |
//! | [`allowance`] | how much is taken of what a validator may sign without end |
//! | [`arrivals`] | when and how each validator's own vote came, in memory only |
//! | [`open`], [`shape`], [`tail`], [`commit`], [`prune`], [`db`], [`keys`] | disk |
//! | [`inspect`], [`several`], [`view`] | reading, also beside the owner |
//!
//! # Durability
//!
//! `stage_*` act in memory at once; [`Index::commit`] writes all of it in one atomic, synced batch. A crash loses what was
//! not committed and nothing else: feeding it again gives the same conflicts. A set of sums that still grows is kept in a
//! log of what was added and written as a row once, when it has been quiet for [`commit`]'s number of commits.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod active;
mod allowance;
mod arrivals;
#[cfg(feature = "bench")]
pub mod bench;
mod beside;
mod codec;
mod commit;
#[cfg(test)]
mod crash_tests;
mod data;
mod db;
mod epochs;
mod error;
mod geometry;
mod heads;
mod inspect;
mod judge;
mod keys;
mod members;
mod newest;
mod offenders;
mod open;
mod peers;
mod present;
mod proposals;
mod prune;
mod seating;
mod several;
mod shape;
mod shelf;
mod shufflings;
mod stage;
mod summary;
mod sums;
mod tail;
mod view;
mod walk;

pub use error::IndexError;
pub use inspect::{Gap, KnownProposal, KnownVote, Stats, VotesOf};
pub use open::{Durability, Index};
pub use several::Walked;
pub use shape::Shape;
pub use view::IndexView;

use consensus::{AttestationData, BeaconBlockHeader, Root, SignatureBytes, ValidatorIndex};
use std::sync::{Arc, Mutex, MutexGuard};
use verify::{Arrival, Heard};

/// Two messages of one validator that contradict each other, with proof of both.
///
/// `arrivals`: of the earliest message that carried this validator's vote, for either side in the order of the fields, as far as
/// messages were proven by the end of the call. Where that is no longer known ([`arrivals`]), of the sum that proves it.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "conflicts are few, and two headers are read more easily than two boxes")]
pub enum Conflict {
    /// Different data for one target epoch. `first` was stored before.
    DoubleVote { validator: ValidatorIndex, first: Arc<StoredVote>, second: Arc<StoredVote>, arrivals: [Arrival; 2] },
    /// One vote's source and target enclose the other's.
    Surround { validator: ValidatorIndex, surrounding: Arc<StoredVote>, surrounded: Arc<StoredVote>, arrivals: [Arrival; 2] },
    /// Different headers for one slot. `first` was stored before.
    DoubleProposal { validator: ValidatorIndex, first: StoredProposal, second: StoredProposal },
}

/// A sum that is in the index: `signature` is by exactly `indices` over `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVote {
    pub data: AttestationData,
    /// Hash-tree-root of `data`.
    pub data_root: Root,
    /// Ascending, unique.
    pub indices: Vec<ValidatorIndex>,
    pub signature: SignatureBytes,
    /// Of the earliest message in the sum, to the microsecond once it was on disk.
    pub heard: Heard,
}

/// A signed header that is in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredProposal {
    pub header: BeaconBlockHeader,
    /// Hash-tree-root of `header`.
    pub root: Root,
    pub signature: SignatureBytes,
    pub heard: Heard,
}

/// The caches behind these locks are valid after every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
