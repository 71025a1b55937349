//! Decode, resolve, check: from bytes somebody sent to messages somebody signed. This crate is the gate, and the only one.
//!
//! ```text
//! RawMessage --decode--> claims --resolve--> who claims to have signed --batch--> Signed<Vote>, Signed<Proposal>
//!                          |                       |                        |
//!                       Malformed          Parked ... Expired          BadSignature
//! ```
//!
//! [`Verifier::process`] takes a batch of [`RawMessage`]s and gives [`Verified`]: what was proven, and one [`Outcome`] for
//! each message. Late, early, repeated or unpopular messages are proven like any other; only what is malformed or not
//! signed is dropped.
//!
//! What is counted: every [`RawMessage`] gets exactly one *final* outcome. One that waits for a context is reported as
//! [`Outcome::Parked`] when it begins to wait, and again with its final outcome when that is known, so at any time
//! `received = final outcomes + parked now` ([`Verifier::parked`]).
//!
//! Nothing here reads a clock, a socket or a disk.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod bls;
mod check;
mod config;
mod decode;
mod docket;
mod forward;
mod ledger;
mod message;
mod outcome;
mod parking;
mod pool;
mod repute;
mod resolve;
mod seen;
mod triage;
mod verifier;

pub use batch::Signed;
pub use check::{version_of_indexed_attestation, version_of_signed_header};
pub use config::{ParkingLimits, SinglesProof, VerifyConfig};
pub use message::{
    Arrival, Heard, Inclusion, MessageKind, Origin, PeerBytes, Proposal, ProvenBlock, RawMessage, SlashingBody, SlashingOp,
    SourceKind, Stated, Statement, Ticket, UnixNs, Vote,
};
pub use outcome::{InnerKind, MessageOutcome, NO_SIGNED_HEADER, NoRoom, Outcome, Verdict, Verified};
pub use repute::Repute;
pub use triage::{About, Glance, Triage, greatest_index_named, single_vote_claimed, slot_claimed};
pub use verifier::{Verifier, VerifierStats};
