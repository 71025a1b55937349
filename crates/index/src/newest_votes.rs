//! The two newest votes of every validator, in memory. They alone decide nearly every vote.

mod decide;
mod spans;
mod table;

pub(crate) use decide::{NONE, NewestVotes, Quick, Remembered};
pub(crate) use table::{Joined, MAX_HANDLE, NewestVotesTable};
