//! Reactions to recorded findings: alerts to people, kill switches for validator clients, and
//! submission of proofs to beacon nodes.
//!
//! Kill switches and submission read the finding log through [`follower`]. Alerts read the outbox,
//! which is written together with the log. Each of them stores its position on disk and continues
//! from it after a restart.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod alerts;
pub mod config;
mod error;
mod follower;
pub mod killswitch;
pub mod lists;
pub mod submission;

pub use error::ActionError;
