//! This crate judges contradictions and recognises incidents.
//!
//! It turns "the index found a contradiction" into "this validator is guilty, and here is the
//! proof". It also reads many such findings together and reports what goes on as incidents.
//!
//! The crate is synchronous. It reads no clock and does no I/O: the same conflict and the same
//! chain give the same finding, and the same traffic gives the same incidents.
//!
//! A finding is proven twice. First, the index reports that two stored messages contradict each
//! other. Then [`prove_conflict`] applies the specification's own predicate to the very pair that
//! goes into the exported slashing, and checks both signatures of that slashing again over exactly
//! its indices. A failure of this second proof is our own mistake and never a validator's. It is
//! counted as [`Unproven`], and nobody is accused.
//!
//! | module | what |
//! |---|---|
//! | [`offences`] | contradiction to finding: the second proof, the quota, who was punished |
//! | [`monitor`] | reads everything that was proven, and tracks incidents |
//! | [`detectors`] | one file for each detector, and the list of them |
//! | [`watch`] | watched keys: groups, labels, duties, and their detector |
//! | [`client`], [`PenaltyRules`] | who runs which client, what a slashing costs |
//! | [`coverage`] | how much of the stake is heard directly from its nodes |
//! | [`audit`] | compares an operator's signing record with what was seen |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod audit;
pub mod client;
mod config;
pub mod coverage;
pub mod detectors;
pub mod monitor;
pub mod offences;
mod penalty;
#[cfg(test)]
mod test_random;
mod validator_set;
pub mod watch;

pub use detectors::{DetectConfig, sentence};
pub use monitor::{
    Detector, DetectorOutput, Left, Monitor, MonitorInput, NOTES, Offender, PeerFact, PeerNews, ProofLookup, Signal,
};
pub use offences::{Candidate, Proofs, ProvenConflict, Unproven, accused, merge, prove_conflict, prove_operation, punishable};
pub use penalty::{Losses, PenaltyRules};
