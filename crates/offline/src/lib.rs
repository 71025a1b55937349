//! Work on files and data directories: replay, captures, exports, audits, reports, benchmarks, and
//! the commands around alerts, kill switches and tokens, and the state of a running watcher.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod actions;
mod api_client;
pub mod api_preflight;
pub mod backfill;
pub mod bench;
pub mod capture;
mod counted;
mod finding_text;
pub mod inspect;
mod list_check;
mod missing_parents;
mod recorded_keys;
pub mod replay;
pub mod report;
pub mod serve;
pub mod status;
mod switch_members;
pub mod tokens;
pub mod verify_proof;

pub use api_client::ApiClient;
pub use counted::counted;
pub use finding_text::finding_text;
pub use list_check::list_notes;
pub use switch_members::unprotected_members;
