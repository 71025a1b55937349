//! Findings, their proofs and the outbox of their deliveries, stored durably in one database.
//!
//! A finding, its evidence and one delivery per route become visible in one atomic, synced write
//! ([`Store::apply`]). So after a power cut there is either all of it or nothing. A finding's id
//! is a hash of its content only. So if work is repeated after a crash, it finds the row that is
//! already there and changes nothing.
//!
//! The crate reads no clock and knows no async runtime. Times come in as [`Time`]. Code that wants
//! to be notified of new findings registers a callback ([`Store::subscribe`]).
//!
//! - [`kind`]: the names of findings and incidents, and who may see them
//! - [`finding`]: the JSON of findings, byte for byte as the contract has it
//! - [`proof`]: the slashing object that a beacon node accepts
//! - [`keys`]: the database's column families and keys, which are a format
//! - [`store`]: opening, recording and reading
//! - [`Query`]: reading by filter
//! - [`Changes`]: everything that one step stores, in one write
//! - `expiry`: deletes findings that cannot be punished after a time
//! - [`outbox`]: deliveries and how they end
//! - [`submission`]: proofs that were sent to beacon nodes
//! - [`incident`]: the meaning of many findings together. Only the last state of each is stored,
//!   and the order of changes

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

pub use base::Time;
pub use changes::Changes;
pub use consensus::Punishable;
pub use durable::{is_partial, replace_file, replace_owners_file, replace_private_file};
pub use error::StoreError;
pub use find::{KindCounts, MAX_PARSED, MAX_SCANNED, Page, Query, SortOrder};
pub use finding::{
    Anomaly, EvidenceRef, FURTHER_PAIRS, Finding, Included, OffenceFacts, Severity, Subject, anomaly_id, finding_id,
};
pub use incident::{Count, INCIDENT_SCHEMA, Incident, IncidentState, OffenceCounts, Penalty, SharedTrait, Tracking, incident_id};
pub use kind::{Audience, Kind};
pub use notify::Subscription;
pub use outbox::{
    AttemptEnd, Delivery, DeliveryId, DeliveryState, DueDelivery, OutboxCounts, Priority, RouteFilter, RouteName, RouteNameError,
};
pub use proof::{Evidence, EvidenceKind};
pub use store::{Recorded, Store};
pub use submission::{SUBMISSION_SCHEMA, Submission, SubmissionState};
