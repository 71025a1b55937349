//! Errors about a beacon state or the key cache. A message from the network never causes an error
//! in this crate.

use consensus::{DecodeError, Root};
use std::io;
use std::path::PathBuf;

/// The reason why a beacon state or a key cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("the beacon state cannot be read; fetch it again, or another one, as SSZ from a node of this network")]
    State(#[source] DecodeError),
    #[error(
        "the state belongs to another network: genesis validators root {found}, wanted {wanted}; point --network or the node's \
         URL at the network you are watching"
    )]
    OtherNetwork { found: Root, wanted: Root },
    #[error(
        "the state belongs to another network: its fork version 0x{found} is none of {network}'s; point the network's name or \
         configuration, the state file and the nodes' URLs at one network"
    )]
    OtherForkVersion { found: String, network: String },
    #[error("the state has {found} validators, more than the {limit} this program holds; it is not from a known network")]
    TooManyValidators { found: usize, limit: usize },
    #[error(
        "the key cache {} cannot be opened: {source}; check the data directory's permissions, or delete the file, which is then made anew",
        path.display()
    )]
    CacheOpen { path: PathBuf, source: io::Error },
    #[error(
        "{} is not a key cache, or one of another version (first bytes {found}); move it away, the cache is then made anew",
        path.display()
    )]
    NotACache { path: PathBuf, found: String },
}
