//! What reacts to recorded findings: alerts to people, kill switches for validator clients, proofs for beacon nodes.
//!
//! Kill switches and submission follow the finding log by one reader (`follower`), alerts the outbox that is written together
//! with it. Each keeps on disk how far it is and goes on there after a restart.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod alerts;
pub mod config;
mod error;
mod follower;
pub mod killswitch;
pub mod lists;
pub mod submission;

pub use error::{ActionError, error_chain};
