//! One row of votes: the sums over one attestation data, with exactly their signers.

mod members;
mod sum_set;

pub(crate) use members::{Bits, SetMembers};
pub(crate) use sum_set::{Sum, SumSet, put_record, read_record, row_covers};
