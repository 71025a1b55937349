//! An adversarial network: honest validators, offenders, and a list of what they really did.
//!
//! The watcher is tried against it: in tests by capture files that are the same for the same [`Scenario`], in `demo` over
//! real libp2p on loopback. Signatures, committees, proposers, randao and block bodies are real for every fork from phase0
//! to Fulu; execution is not. Checkpoints are justified by the votes that were cast.
//!
//! | module | subject |
//! |---|---|
//! | [`scenario`] | what is to happen |
//! | [`circumstances`] | what happens to many for a while: clocks, outages, stale views, a wrong branch |
//! | [`scenario_file`] | a scenario as a TOML file |
//! | [`keys`] | a million BLS keys for the price of additions |
//! | [`genesis`] | config.yaml and genesis state |
//! | `world`, `voting`, `proposing`, `noise` | slot by slot, all messages that leave |
//! | `slasher` | what was signed twice, included in blocks |
//! | [`ledger`] | what happened, compared all pairs: the oracle |
//! | `expected` | what is to be said about it |
//! | [`record`] | into a capture file |
//! | [`network`] | over sockets |
//! | [`load`] | not a story but a quantity: mainnet's size and rate, into a capture or over sockets |
//!
//! The crate knows neither verifier, index nor detectors, and writes SSZ with code of its own (`ssz`): what it says is found
//! or missed is not said by the code that is to find it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod block;
mod branch;
mod cast;
pub mod circumstances;
mod containers;
mod dice;
mod error;
mod expected;
pub mod genesis;
pub mod keys;
pub mod ledger;
pub mod load;
mod message;
pub mod network;
mod node;
mod noise;
mod peers;
mod pool;
mod proposer;
mod proposing;
pub mod record;
pub mod scenario;
pub mod scenario_file;
mod slasher;
mod ssz;
#[cfg(test)]
mod tests;
mod voting;
mod wire;
mod world;

pub use circumstances::{Circumstance, Condition, Group, Peers, Storm, Wear};
pub use error::SimError;
pub use expected::{Expected, Reckoning, Said, Seen};
pub use ledger::{Crime, GroundTruth};
pub use network::{Progress, SecondMachine, SimNetwork};
pub use record::write_capture;
pub use scenario::{Act, Deed, Noise, STAKED_KEYS, Scenario, Who};
