//! The engine takes a batch of messages and gives back outcomes and recorded findings. It reads no
//! clock and opens no socket.
//!
//! [`Engine`] owns all state that is needed to judge messages. [`priority_queues`] decides which
//! messages are judged next, and which are dropped under overload. [`metrics`] counts every
//! outcome. The running watcher and a replay take the same path through the engine.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod claimed_votes;
mod earlier_runs;
#[allow(clippy::module_inception)]
mod engine;
mod label_resolver;
pub mod metrics;
mod named_blocks;
pub mod priority_queues;
pub mod silence;

pub use engine::{Engine, EngineError, EngineParts, OlderStore, Processed, Unrecorded, WORTHLESS_KEPT, WatchParts};
pub use named_blocks::WantedBlock;
