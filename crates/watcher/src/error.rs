//! Errors that end a command. The kind of the error decides the exit code.

use crate::config::ConfigError;
use crate::datadir::DataDirError;
use actions::ActionError;
use engine::EngineError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum WatcherError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A mistake in the arguments or in the configuration that shows only when the value is used.
    #[error("{0}")]
    Usage(String),
    /// A file that cannot be read, or that cannot be read to its end.
    #[error("{path}: {reason}")]
    Input { path: PathBuf, reason: String },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Chain(#[from] chain::ChainError),
    #[error(transparent)]
    Node(#[from] chain::node::NodeError),
    #[error(transparent)]
    Store(#[from] evidence::StoreError),
    #[error(transparent)]
    Index(#[from] index::IndexError),
    #[error("gossip cannot start: {0}")]
    Gossip(#[from] sources::gossip::GossipError),
    #[error("the API cannot start: {0}")]
    Api(#[from] api::ApiError),
    /// The requested work did not succeed. The text gives the reason and what to do.
    #[error("{0}")]
    Failed(String),
    #[error("cannot write {path}: {source}. Check that the folder exists and the disk has room")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Internal(String),
}

impl From<ActionError> for WatcherError {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::Usage(text) => Self::Usage(text),
            ActionError::Store(error) => Self::Store(error),
            ActionError::Failed(text) => Self::Failed(text),
        }
    }
}
