//! Watched keys: groups and labels, and what is done with them.
//!
//! - [`Selector`], [`WatchList`]: what an operator writes down.
//! - [`Labels`]: the same, resolved to validator indices.
//! - [`FeePayers`]: which validators propose for which fee recipient, learned from blocks.
//! - [`WatchedKeysDetector`]: the detector that follows the duties of watched keys.
//!   [`SharedWatchState`]: what it shares with the rest of the program.

mod desk;
mod fee_payers;
mod flapping;
pub(crate) mod keeper;
mod labels;
mod list;
mod proposing;
mod record;
mod selector;
mod sheet;
#[cfg(test)]
mod tests;
mod thresholds;

pub use desk::{SharedWatchState, WatchReport};
pub use fee_payers::FeePayers;
pub use keeper::WatchedKeysDetector;
pub use labels::{GroupId, LabelSet, Labels, MAX_KEYS, MAX_WATCHED, Members};
pub use list::{Duty, Entry, Label, LabelError, ListError, MAX_ENTRIES, MAX_GROUPS, WatchList};
pub use record::{ChainState, KeyStatus, Proposals};
pub use selector::{Selector, SelectorError};
pub use thresholds::WatchedKeysConfig;
