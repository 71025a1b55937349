//! What reacts to recorded findings: alerts to people, kill switches for validator clients, proofs for beacon nodes.
//!
//! Each follows the findings in the store, keeps on disk how far it is, and goes on there after a restart.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod alerts;
pub mod config;
mod error;
pub mod killswitch;
pub mod lists;
pub mod submission;

pub use error::{ActionError, error_chain};
