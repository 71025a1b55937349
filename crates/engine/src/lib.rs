//! The engine: a batch of messages in, outcomes and recorded findings out. It reads no clock and opens no socket.
//!
//! [`Engine`] owns everything that judges. [`lanes`] decides what it judges next and what is dropped under overload, and
//! [`metrics`] counts every outcome. The running watcher and a replay take the same path through it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod earlier_runs;
#[allow(clippy::module_inception)]
mod engine;
mod inclusions;
mod label_resolver;
pub mod metrics;
pub mod priority_queues;
mod punished;
mod quota;
mod settled;
pub mod silence;

pub use engine::{Engine, EngineError, EngineParts, Processed, Unrecorded, WORTHLESS_KEPT, WatchParts};
