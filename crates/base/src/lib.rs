//! What several crates need and what is about no subject of theirs. Each of these rules is here
//! once.
//!
//! | module | what |
//! |---|---|
//! | [`Time`] | a moment, in nanoseconds since the Unix epoch |
//! | [`Backoff`] | how long to wait between attempts |
//! | [`BoundedMap`], [`BoundedSet`] | collections that forget their oldest entries |
//! | [`error_chain`], [`innermost_cause`], [`causes`] | the text of an error with its causes |
//! | [`read_file`], [`read_text_file`], [`read_bounded`] | files that users name, with a bound |
//! | `http` (feature `http`) | the settings that all HTTP clients share |

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backoff;
mod bounded;
mod errors;
mod files;
#[cfg(feature = "http")]
pub mod http;
mod time;

pub use backoff::Backoff;
pub use bounded::{BoundedMap, BoundedSet};
pub use errors::{causes, error_chain, innermost_cause};
pub use files::{read_bounded, read_file, read_text_file};
pub use time::Time;
