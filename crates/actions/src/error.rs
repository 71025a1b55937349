//! Why something that reacts to findings cannot start or was not done.

use evidence::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// Something in arguments or configuration that only shows when it is used.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for did not succeed, with the reason and what to do.
    #[error("{0}")]
    Failed(String),
}

/// An error and all its causes in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
