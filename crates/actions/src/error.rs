//! Errors of the parts that react to findings.

use evidence::StoreError;

/// Why a part that reacts to findings cannot start, or why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// A problem in the arguments or the configuration that only shows when they are used.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A requested action did not succeed. The text says why and what to do.
    #[error("{0}")]
    Failed(String),
}
