//! The index itself: which votes it stores, what it finds, and what it writes.
//!
//! Only the modules in this folder see the fields of [`Index`]. The tables that it is made of live
//! in the other folders, and each of them keeps its own invariants.
//!
//! | module | what |
//! |---|---|
//! | [`stage`], [`conflict_check`], [`past_votes`], [`proposals`] | from a proven message to conflicts |
//! | [`open`], [`tail`], [`shape`], [`state`] | opening |
//! | [`commit`], [`prune`] | writing and deleting |
//! | [`inspect`], [`browse`], [`many_validators`], [`view`] | reading, also beside the owner |

mod browse;
mod commit;
mod conflict_check;
#[cfg(test)]
pub(crate) mod crash_tests;
mod inspect;
mod many_validators;
mod open;
mod past_votes;
mod proposals;
mod prune;
mod shape;
mod stage;
mod state;
mod tail;
mod view;

pub use browse::{HeardVote, VotePage, VotesOfData, VotesOfSlot};
pub use inspect::{Holdings, KnownVote, Stats, VoteGap, VotesOf};
pub use many_validators::Walked;
pub use open::Durability;
pub use shape::Shape;
pub use stage::PairRules;
pub use view::IndexView;

use crate::IndexError;
use crate::committees::{SeatFinder, Seating, ShufflingTable};
use crate::epochs::{EpochNeighbours, EpochReader, VoterSummary};
use crate::newest_votes::{Joined, NewestVotesTable};
use crate::storage::{Cf, Db, SetKey};
use crate::sums::SumSet;
use crate::tables::{Arrivals, DataTable, Limits, Offenders, PeerTable};
use consensus::Epoch;
use proposals::StagedProposals;
use state::State;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The vote index. It has one owner, which stages and commits. See the documentation of the crate.
pub struct Index {
    db: Db,
    shape: Shape,
    /// The format of what is on disk.
    format: u32,
    /// The sets in memory: those that still grow, and some that were read.
    sets: BTreeMap<SetKey, SumSet>,
    /// The sets that were added to since the last commit.
    dirty: Vec<SetKey>,
    shufflings: ShufflingTable,
    data: DataTable,
    newest: NewestVotesTable,
    seat_finder: SeatFinder,
    neighbours: EpochNeighbours,
    summary: VoterSummary,
    offenders: Offenders,
    arrivals: Arrivals,
    peers: PeerTable,
    proposals: StagedProposals,
    /// What is counted since the index was opened. The other fields are zero here.
    counted: Stats,
    limits: Limits,
    /// As it was written last.
    state: State,
    /// [`State::reach`], including what is staged.
    reach: Epoch,
    /// Number of new votes per target epoch of the tail. It shows which epochs the network is in.
    epochs_seen: BTreeMap<Epoch, u64>,
    n_commits: u64,
    /// Epochs before this one were folded.
    folded_to: Epoch,
    /// Kept between calls so that its memory is used again.
    joined: Joined,
    /// As the owner has set it. See [`Self::set_mark`].
    mark: Option<u64>,
    /// The mark that is on disk.
    written_mark: Option<u64>,
}

impl Index {
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Sets the epoch that the network is in. The owner calls this before it stages votes. The
    /// epoch decides which votes are for a far future, and a new epoch resets the limits per epoch.
    /// An earlier epoch is ignored.
    pub fn set_now(&mut self, epoch: Epoch) {
        self.limits.set_now(epoch);
    }

    /// Sets a number of the owner's that is written with the next commit. It says how far another
    /// database was at that time, so that the owner notices when one of the two is exchanged.
    pub fn set_mark(&mut self, mark: u64) {
        self.mark = Some(mark);
    }

    /// The mark of the last commit. `None` if there never was one.
    pub fn written_mark(&self) -> Option<u64> {
        self.written_mark
    }

    /// Access to all rows, on disk and in memory.
    fn epoch_reader(&self) -> EpochReader<'_> {
        EpochReader { db: &self.db, shufflings: &self.shufflings, data: &self.data, sets: &self.sets }
    }

    /// The shuffling in which a set's members have their seats. `None` for listed members.
    fn seating_of(&self, key: &SetKey) -> Result<Option<Arc<Seating>>, IndexError> {
        self.shufflings.of_set(&self.db, key)
    }

    /// Brings a set into memory. It is read from its row, if there is one.
    fn ensure_set(&mut self, key: SetKey) -> Result<(), IndexError> {
        if !self.sets.contains_key(&key) {
            let mut set = self.read_set(&key)?.unwrap_or_else(|| SumSet::new(key.shuffling.is_some()));
            set.touched = self.n_commits;
            self.sets.insert(key, set);
        }
        Ok(())
    }

    /// Reads a set from its row. `None` if there is no row.
    fn read_set(&self, key: &SetKey) -> Result<Option<SumSet>, IndexError> {
        let Some(value) = self.db.get(Cf::Votes, &key.to_bytes())? else { return Ok(None) };
        let seating = self.seating_of(key)?;
        let set = SumSet::decode(&value, key, seating.as_ref().map(|seating| &seating.geometry));
        set.map(Some).ok_or_else(|| self.db.corrupt(format!("a vote row of epoch {} does not parse", key.epoch)))
    }
}
