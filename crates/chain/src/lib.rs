//! The state of the chain that is being watched: genesis, the block tree, the validator registry,
//! and the committees on each branch.
//!
//! One thread owns a [`Chain`]. It receives states and proven blocks, and answers the question
//! which committees a vote can belong to. Its only I/O is the file of the public-key cache.
//! [`node`] is the client for the REST API of beacon nodes. It is async and does not use [`Chain`].
//!
//! ```text
//! state ──> Snapshot ──> Registry (keys, activation, exit) ┐
//!                   └──> Tree (ancestors, randao mixes)    ├─> Chain::contexts(vote) -> shufflings
//! proven block ────────> Tree                              ┘
//! ```
//!
//! Price: committees are computed from the registry of the latest state and from what blocks tell
//! since then. They are exact up to `MAX_SEED_LOOKAHEAD` epochs after that state, and as good as
//! what blocks tell after that (`follow`). [`Chain::needs_registry_refresh`] reports when a newer
//! state is wanted. Gain: there is no state transition, and committees are known also on branches
//! that no node would replay for us.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod builders;
mod chain;
mod duties;
mod error;
mod exits;
mod finality;
mod follow;
mod follower;
mod moves;
pub mod node;
mod pubkeys;
mod punishable;
mod reference;
mod registry;
mod relations;
mod shufflings;
mod snapshot;
mod tree;
mod weight;

pub use chain::{
    BlockFacts, BranchBlock, Chain, ChainStats, Contexts, Extension, HeadView, MAX_CANDIDATES, StateBlock, block_of_state,
    wants_newer_state,
};
pub use error::ChainError;
pub use pubkeys::{Progress, PubkeyCache, Stage, is_public_key};
pub use punishable::SignedWith;
pub use registry::{Record, Registry};
pub use shufflings::MAX_ODD_OF_PEER;
pub use snapshot::PastBlocks;
