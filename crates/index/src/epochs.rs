//! Old votes, found by epoch: whole epochs of rows, and which validator voted in which epochs.

mod neighbours;
mod reader;
mod summary;

pub(crate) use neighbours::{AT_LEAST, EpochNeighbours};
pub(crate) use reader::{EpochReader, EpochVotes};
pub(crate) use summary::{VoterSummary, same_block};
