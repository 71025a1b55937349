//! The small tables: attestation data, peers, votes outside their validator's chain, arrivals, and
//! what was used up of the limits.

mod arrivals;
mod data;
mod limits;
mod offenders;
mod peers;

pub(crate) use arrivals::Arrivals;
pub(crate) use data::{DataRow, DataTable, VoteSpan};
pub(crate) use limits::Limits;
pub(crate) use offenders::{ALL_KINDS, Offenders, OutsideVotes, PUNISHABLE_SHIFT};
pub(crate) use peers::PeerTable;
