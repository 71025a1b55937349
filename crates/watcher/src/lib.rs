//! The running watcher: its configuration, its data directory, and the tasks around the engine
//! thread.
//!
//! [`run`] starts and stops everything. [`bootstrap`] finds the beacon state to start from.
//! [`engine_thread`] feeds the engine.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod audits;
mod block_range;
pub mod bootstrap;
mod checkpoint;
pub mod clock;
pub mod config;
pub mod coverage;
pub mod crawl;
pub mod datadir;
pub mod downtime;
mod engine_thread;
mod error;
pub mod file_handles;
pub mod history;
mod inputs;
pub mod listen;
mod named_blocks;
pub mod network_folder;
mod node_task;
pub mod observed;
pub mod pack_capture;
pub mod peer_news;
pub mod preflight;
pub mod run;
pub mod signing_history;
pub mod status;
mod watched_keys;

pub use error::WatcherError;
pub use watched_keys::kill_switch_view;
