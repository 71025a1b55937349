//! From "the index found a contradiction" to "this validator is guilty, here is the proof".
//!
//! Synchronous, no clock, no I/O: the same conflict and the same chain give the same finding.
//!
//! A finding is proven twice: the index says that two stored messages contradict each other, and [`judge`] asks the
//! spec's own predicate about the very pair that goes into the exported slashing, then checks both signatures of that
//! slashing again over exactly its indices. What fails here is our own mistake, never a validator's: it is counted as
//! [`Unproven`] and accuses nobody.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod judge;
mod punish;

pub use judge::{Judged, Proofs, Unproven, judge, judge_operation};
pub use punish::punishable;
