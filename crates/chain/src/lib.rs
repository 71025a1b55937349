//! What is true now: genesis, the block tree, who is in the registry, and who sat where on which branch.
//!
//! Pure knowledge about one chain, owned by one thread: [`Chain`] takes states and proven blocks, and answers
//! "which committees could this vote mean?". Its only I/O is the public-key cache's file. [`node`] is the door to
//! beacon nodes over their REST API; it is async and knows nothing of [`Chain`].
//!
//! ```text
//! state ──> Snapshot ──> Registry (keys, activation, exit)      ┐
//!                   └──> Tree (ancestors, randao mixes)         ├─> Chain::contexts(vote) -> Shuffling(s)
//! proven block ────────> Tree                                   ┘
//! ```
//!
//! Price: committees are computed from the registry as the last state had it, so they are exact for
//! `MAX_SEED_LOOKAHEAD` epochs past it and a very good guess beyond; [`Chain::needs_registry_refresh`] says when a newer
//! state is wanted. What is gained: no state transition, and branches that no node would replay for us.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod builders;
mod chain;
mod contest;
mod duties;
mod error;
mod exits;
pub mod node;
mod orphans;
mod pubkeys;
mod punishable;
mod reference;
mod registry;
mod relations;
mod shufflings;
mod snapshot;
mod tree;
mod weight;

pub use chain::{BlockFacts, Chain, ChainStats, Contexts, Extension, HeadView, MAX_CANDIDATES};
pub use error::ChainError;
pub use pubkeys::{Progress, PubkeyCache, Stage};
pub use punishable::SignedWith;
pub use registry::{Record, Registry};
pub use shufflings::MAX_ODD_OF_PEER;
