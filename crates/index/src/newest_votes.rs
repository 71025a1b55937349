//! The two newest votes of every validator, in memory. They alone decide nearly every vote.

mod decide;
mod spans;
mod table;

pub(crate) use decide::{NO_EPOCH, Quick};
pub(crate) use table::{Joined, MAX_HANDLE, NewestVotesTable};
