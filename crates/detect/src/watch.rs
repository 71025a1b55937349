//! Watched keys: groups and labels, and what is done with them.
//!
//! - [`Selector`], [`WatchList`]: what an operator writes down.
//! - [`Labels`]: the same, resolved to validator indices.
//! - [`FeePayers`]: which validators propose for which fee recipient, learned from blocks.
//! - [`WatchedKeysDetector`]: the detector that follows the duties of watched keys.
//!   [`SharedWatchState`]: what it shares with the rest of the program.
//! - [`TwoOriginsDetector`]: the detector of keys whose votes come from two nodes in turn.
//! - [`SignedElsewhere`]: a message that the record of the key's client lacks.

mod detector;
pub(crate) mod dormant;
mod epoch_duties;
mod fee_payers;
pub(crate) mod flapping;
mod labels;
mod list;
pub(crate) mod missed_duties;
mod proposing;
mod record;
mod report;
pub(crate) mod second_signer;
mod selector;
pub(crate) mod signed_elsewhere;
pub(crate) mod stops;
#[cfg(test)]
mod tests;
mod thresholds;
pub(crate) mod two_origins;

pub use detector::WatchedKeysDetector;
pub use fee_payers::FeePayers;
pub use labels::{GroupId, LabelSet, Labels, MAX_ENTRIES_OF, MAX_KEYS, MAX_WATCHED, Members};
pub use list::{Duty, Entry, Label, LabelError, ListError, MAX_ENTRIES, MAX_GROUPS, WatchList};
pub use report::{ChainState, HeardRun, KeyStatus, Proposals, SharedWatchState, WatchReport};
pub use selector::{Selector, SelectorError};
pub use signed_elsewhere::SignedElsewhere;
pub use stops::{KillSwitchFailedDetails, ProofNotConfirmedDetails, ProofOutcome, SignsAfterStopDetails};
pub use thresholds::WatchedKeysConfig;
pub use two_origins::{TwoOriginsConfig, TwoOriginsDetector, parse_peer_id};
