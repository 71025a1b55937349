//! The vote index. It stores who signed what: every vote and every proposal, kept as proof. It
//! tells whether a new one contradicts what is stored.
//!
//! # The idea
//!
//! Write a vote as (source epoch, target epoch). Two different votes of one validator are slashable
//! if their targets are equal, or if one surrounds the other. If no two votes of a validator are
//! slashable, then their sources never decrease when the votes are sorted by target. Such votes
//! form a *chain*. So a new vote only has to be compared with its neighbours in the chain:
//!
//! ```text
//! chain (2,3) (3,4) (4,5) (5,7)
//! (5,8): after (5,7), 5 <= 5: joins
//! (3,9): after (5,7), 5 > 3: surrounds it, and also (4,5) before it
//! (6,6): before (5,7), 5 < 6: is surrounded by it
//! (4,5) with other data: double vote
//! ```
//!
//! A vote that contradicts its chain is not added to the chain but to a list
//! ([`tables::Offenders`]). Later votes of that validator are compared with the list and with the
//! chain. So every contradicting pair is reported, whatever the order of arrival.
//!
//! The same bytes are history and proof. Signatures over equal data can be added up, so everything
//! that is known about one data and one committee is one attestation ([`sums`]). A million
//! validators take about 0.23 MB per epoch, with a proof for every vote.
//!
//! # Map
//!
//! | folder | what |
//! |---|---|
//! | [`index`] | staging, finding conflicts, commits, opening, pruning, reading |
//! | [`newest_votes`] | the two newest votes per validator, 8 bytes each |
//! | [`epochs`] | old votes by epoch: whole epochs, and who voted in which block of epochs |
//! | [`sums`] | one row: the sums over one attestation data |
//! | [`committees`] | which validator has which seat, also in old epochs and on other branches |
//! | [`tables`] | attestation data, peers, votes outside their chain, arrivals, limits |
//! | [`storage`] | RocksDB, keys, and how values are written |
//!
//! # Durability
//!
//! The `stage_*` methods take effect in memory at once. [`Index::commit`] writes everything in one
//! atomic and synced batch. A crash loses what was not committed and nothing else; when it is
//! staged again, it gives the same conflicts. A set of sums that still grows is kept in a log of
//! additions. It is written as a row once, when nothing was added to it for the number of commits
//! that `index::commit` defines.

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "bench")]
pub mod bench;
mod committees;
mod epochs;
mod error;
mod index;
mod newest_votes;
mod storage;
mod sums;
mod tables;

pub use error::IndexError;
pub use index::{
    Durability, HeardVote, Holdings, Index, IndexView, KnownVote, PairRules, Shape, Stats, VoteGap, VotePage, VotesOf,
    VotesOfData, VotesOfSlot, Walked,
};

use consensus::{AttestationData, BeaconBlockHeader, Root, SignatureBytes, ValidatorIndex};
use std::sync::{Arc, Mutex, MutexGuard};
use verify::{Arrival, FirstSeen};

/// Two messages of one validator that contradict each other, with a proof of both.
///
/// `arrivals` is the arrival of the earliest message that carried this validator's vote, for each
/// side in the order of the fields. It covers the messages that were proven by the end of the call.
/// If this arrival is no longer known ([`tables::Arrivals`]), it is the arrival of the sum that
/// proves the vote.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "conflicts are few, and two headers are read more easily than two boxes")]
pub enum Conflict {
    /// Different data for one target epoch. `first` was stored before.
    DoubleVote { validator: ValidatorIndex, first: Arc<StoredVote>, second: Arc<StoredVote>, arrivals: [Arrival; 2] },
    /// The source and target of one vote enclose those of the other.
    Surround { validator: ValidatorIndex, surrounding: Arc<StoredVote>, surrounded: Arc<StoredVote>, arrivals: [Arrival; 2] },
    /// Different headers for one slot. `first` was staged before `second`, perhaps in the same
    /// call. Each carries its own arrival. The order says nothing about the evidence.
    DoubleProposal { validator: ValidatorIndex, first: StoredProposal, second: StoredProposal },
}

/// A sum that is in the index. `signature` is the signature of exactly `indices` over `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVote {
    pub data: AttestationData,
    /// Hash-tree-root of `data`.
    pub data_root: Root,
    /// In ascending order, without repetition.
    pub indices: Vec<ValidatorIndex>,
    pub signature: SignatureBytes,
    /// The earliest message in the sum. Its time is exact to the microsecond once the sum was on
    /// disk.
    pub heard: FirstSeen,
}

/// A signed header that is in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredProposal {
    pub header: BeaconBlockHeader,
    /// Hash-tree-root of `header`.
    pub root: Root,
    pub signature: SignatureBytes,
    pub heard: FirstSeen,
}

/// Locks a cache. The caches behind these locks are valid after every step, so a poisoned lock is
/// accepted: a panic elsewhere does no damage to them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
