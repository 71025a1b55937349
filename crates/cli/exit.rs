//! Exit codes of errors.

use simulator::SimError;
use watcher::WatcherError;

/// Wrong usage or configuration.
pub const USAGE: u8 = 64;
/// Unreadable input.
pub const UNREADABLE: u8 = 65;
/// The command failed, or it found something that its documentation maps to this code.
pub const FAILED: u8 = 1;

/// An error of usage that is found only after the arguments are parsed.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// An input that cannot be read, and that no library reads.
#[derive(Debug)]
pub struct UnreadableError(pub String);

impl std::fmt::Display for UnreadableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnreadableError {}

/// Returns the exit code of an error.
pub fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<UnreadableError>() {
        return UNREADABLE;
    }
    if error.is::<UsageError>() || error.is::<watcher::config::ConfigError>() {
        return USAGE;
    }
    if matches!(error.downcast_ref::<SimError>(), Some(SimError::Scenario { .. } | SimError::File(_))) {
        return USAGE;
    }
    match error.downcast_ref::<WatcherError>() {
        Some(WatcherError::Config(_) | WatcherError::Usage(_)) => USAGE,
        Some(WatcherError::Input { .. }) => UNREADABLE,
        _ => FAILED,
    }
}
