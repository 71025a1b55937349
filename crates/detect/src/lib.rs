//! This crate judges contradictions and recognises incidents.
//!
//! It turns "the index found a contradiction" into "this validator is guilty, and here is the
//! proof". It also reads many such findings together and reports what goes on as incidents.
//!
//! The crate is synchronous. It reads no clock and does no I/O: the same conflict and the same
//! chain give the same finding, and the same traffic gives the same incidents.
//!
//! A finding is proven twice. First, the index reports that two stored messages contradict each
//! other. Then [`judge`] applies the specification's own predicate to the very pair that goes into
//! the exported slashing, and checks both signatures of that slashing again over exactly its
//! indices. A failure of this second proof is our own mistake and never a validator's. It is
//! counted as [`Unproven`], and nobody is accused.
//!
//! [`Monitor`] reads everything that was proven and reports what it means together ([`monitor`],
//! [`detectors`]).

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
    Detector, DetectorOutput, EvidenceSource, LabelSource, Left, Monitor, MonitorInput, NOTES, NoLabels, Offender, PeerFact,
    PeerNews, Signal,
};
pub use penalty::{Losses, PenaltyRules};
pub use punish::punishable;
