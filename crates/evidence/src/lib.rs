//! Findings, the proofs behind them and the outbox of their deliveries: durable, in one database.
//!
//! A finding, its evidence and one delivery per route become visible in one atomic, synced write ([`Store::record`]), so
//! after a power cut there is either all of it or nothing. A finding's id hashes its content only, so doing the work
//! again after a crash finds the row that is already there and changes nothing.
//!
//! The crate reads no clock and knows no async runtime: times come in as [`Time`], and who wants to hear of new findings
//! registers a callback ([`Store::subscribe`]).
//!
//! - [`kind`]: what findings and incidents are called, and who may be told of them
//! - [`finding`]: what is told to the outside, byte for byte as the contract has it
//! - [`proof`]: the slashing object that a beacon node accepts
//! - [`keys`]: the database's families and keys, which are a format
//! - [`store`]: opening, recording, reading
//! - [`Query`]: reading by filter
//! - [`Changes`]: what one step leaves behind, in one write
//! - `expiry`: what cannot be punished goes after a time
//! - [`outbox`]: deliveries and their three ends
//! - [`submission`]: proofs handed to beacon nodes
//! - [`incident`]: what many findings mean together; its last state is kept, and the order of changes

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod changes;
mod durable;
pub mod error;
mod expiry;
mod find;
pub mod finding;
pub mod incident;
mod incidents;
pub mod keys;
pub mod kind;
mod notify;
mod open;
pub mod outbox;
pub mod proof;
#[cfg(any(test, feature = "test-support"))]
mod samples;
pub mod store;
pub mod submission;
mod time;

pub use changes::Changes;
pub use consensus::Punishable;
pub use durable::{is_partial, replace_file};
pub use error::StoreError;
pub use find::{KindCounts, MAX_PARSED, MAX_SCANNED, Order, Page, Query};
pub use finding::{Anomaly, EvidenceRef, FURTHER_PAIRS, Finding, Included, Severity, Slashable, Subject, anomaly_id, finding_id};
pub use incident::{Count, INCIDENT_SCHEMA, Incident, IncidentState, OffenceCounts, Penalty, SharedTrait, Tracking, incident_id};
pub use kind::{Audience, Kind};
pub use notify::Subscription;
pub use outbox::{Addressee, Delivery, DeliveryId, DeliveryState, Due, OutboxCounts, Priority, RouteName, RouteNameError};
pub use proof::{Evidence, EvidenceKind};
pub use store::{Recorded, Store};
pub use submission::{SUBMISSION_SCHEMA, Submission, SubmissionState};
pub use time::Time;
