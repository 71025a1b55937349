//! Stages, queues, start and stop: what the binary and the tests run.
//!
//! [`engine::Engine`] is the synchronous heart. [`replay`] feeds it from files, [`run`] from the network; both take the
//! same path through it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod alerts;
pub mod bench;
pub mod bootstrap;
pub mod capture;
pub mod clock;
pub mod config;
pub mod datadir;
mod earlier_runs;
pub mod engine;
mod error;
mod gaps;
pub mod history;
mod inclusions;
pub mod inspect;
mod judge_thread;
pub mod lanes;
mod lineage;
mod listen;
pub mod metrics;
mod node_task;
mod peer_news;
mod punished;
mod quota;
pub mod replay;
pub mod report;
pub mod run;
pub mod serve;
pub mod silence;
mod status;
mod submission;
pub mod watch;

pub use error::PipelineError;
