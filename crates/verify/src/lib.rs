//! This crate decodes, resolves and checks messages. It turns bytes that somebody sent into
//! messages that somebody signed. No unsigned message gets past this crate, and no other crate does
//! this work.
//!
//! ```text
//! RawMessage -> decode -> resolve -> batched check -> Signed<Vote>, Signed<Proposal>
//!                 |          |            |
//!            Malformed    Parked     BadSignature
//!                            |
//!                         Expired
//! ```
//!
//! Decoding turns bytes into claims. Resolving finds out who claims to have signed. The check
//! proves that they did sign.
//!
//! [`Verifier::process`] takes a batch of [`RawMessage`]s and returns [`Verified`]: everything that
//! was proven, and one [`Outcome`] for each message. A message that is late, early, repeated or
//! unpopular is proven like any other. A message is dropped if it is malformed or not signed, if
//! its fork or signer is unknown, or if it exceeds one of our own bounds ([`Outcome::Refused`]).
//!
//! How messages are counted: every [`RawMessage`] gets exactly one *final* outcome. A message that
//! waits for its committees is reported as [`Outcome::Parked`] when it begins to wait, and again
//! with its final outcome when that is known. So at any time
//! `received = final outcomes + parked now` ([`Verifier::parked`]).
//!
//! This crate reads no clock, no socket and no disk.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod bls;
mod check;
mod config;
mod decode;
mod forward;
mod message;
mod outcome;
mod parking;
mod peer_reputation;
mod resolve;
mod seen;
mod verifier;
mod workers;

pub use batch::Signed;
pub use check::{version_of_indexed_attestation, version_of_signed_header};
pub use config::{ParkingLimits, SinglesProof, VerifyConfig};
pub use consensus::MessageKind;
pub use message::{
    Arrival, FirstHandVote, FirstSeen, Inclusion, MessageParts, MessageTooLong, Origin, PeerBytes, Proposal, ProvenBlock,
    RawMessage, SlashingBody, SlashingOp, SourceKind, Stated, Statement, Ticket, Time, Vote,
};
pub use outcome::{
    InnerKind, MAX_UNPROVEN, MessageOutcome, NO_SIGNED_HEADER, NoRoom, NotProvable, Outcome, UnprovenVote, Verdict, Verified,
};
pub use peer_reputation::PeerReputation;
pub use verifier::{
    About, HistoryCheck, OTHER_DRAFT_NOTICE, SingleVoteClaim, Triage, Verifier, VerifierStats, greatest_index_named,
    single_vote_claimed, slot_claimed,
};
