//! From "the index found a contradiction" to "this validator is guilty, here is the proof", and from many of those to "this is
//! what goes on".
//!
//! Synchronous, no clock, no I/O: the same conflict and the same chain give the same finding, the same traffic the same incidents.
//!
//! A finding is proven twice: the index says that two stored messages contradict each other, and [`judge`] asks the
//! spec's own predicate about the very pair that goes into the exported slashing, then checks both signatures of that
//! slashing again over exactly its indices. What fails here is our own mistake, never a validator's: it is counted as
//! [`Unproven`] and accuses nobody.
//!
//! [`Monitor`] reads everything that was proven and says what it means together ([`monitor`], [`detectors`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod audit;
pub mod client;
mod config;
pub mod detectors;
mod judge;
pub mod monitor;
mod penalty;
mod punish;
pub mod watch;

pub use detectors::{DetectConfig, sentence};
pub use judge::{Candidate, Proofs, ProvenConflict, Unproven, accused, judge, judge_operation, merge};
pub use monitor::{
    Batch, Detector, DetectorOutput, EvidenceSource, LabelSource, Left, Monitor, NOTES, NoLabels, Offender, PeerFact, PeerNews,
    Signal,
};
pub use penalty::{Losses, PenaltyRules};
pub use punish::punishable;
