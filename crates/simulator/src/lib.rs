//! An adversarial network: honest validators, offenders, and a record of what they really did.
//!
//! The watcher is tested against it. Tests use capture files, which are always the same for the
//! same [`Scenario`]. The command `demo` uses real libp2p on loopback. Signatures, committees,
//! proposers, randao and block bodies are real for every fork from phase0 to Fulu. Execution is not
//! simulated. Checkpoints are justified by the votes that were cast.
//!
//! | module | subject |
//! |---|---|
//! | [`scenario`] | what is to happen |
//! | [`conditions`] | temporary conditions: clocks, outages, stale views, a wrong branch |
//! | [`scenario_file`] | a scenario as a TOML file |
//! | [`keys`] | a million BLS keys at the cost of additions |
//! | [`genesis`] | config.yaml and genesis state |
//! | `world`, `voting`, `proposing`, `noise` | all messages that are sent, slot by slot |
//! | `registry` | deposits, exits, requests, and the registry that follows from them |
//! | `slasher` | finds slashable messages and includes them in blocks |
//! | [`ground_truth`] | what really happened, with all pairs compared |
//! | `expected` | the incidents that a watcher must report |
//! | [`record`] | writes a capture file |
//! | [`network`] | sends over sockets |
//! | [`load`] | mainnet's size and rate, into a capture or over sockets |
//! | [`lab`] | how much of what contradicts itself a listener hears, among full nodes |
//!
//! This crate uses neither the verifier nor the index nor the detectors, and it writes SSZ with its
//! own code (`ssz`). So the code that decides what is found or missed shares nothing with the code
//! under test.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod block;
mod branch;
pub mod conditions;
mod containers;
mod error;
mod expected;
pub mod genesis;
pub mod ground_truth;
mod honest;
pub mod keys;
pub mod lab;
mod light_peer;
pub mod load;
mod message;
pub mod network;
mod node;
mod noise;
mod peers;
mod planned_acts;
mod pool;
mod proposer;
mod proposing;
pub mod record;
mod registry;
pub mod scenario;
pub mod scenario_file;
mod seeded_random;
mod slasher;
mod ssz;
#[cfg(test)]
mod tests;
mod voting;
mod wire;
mod world;

pub use conditions::{Condition, Group, Peers, Storm, TimedCondition, Wear};
pub use error::SimError;
pub use expected::{Expected, Reported, Seen, TruthComparison};
pub use ground_truth::{Crime, GroundTruth};
pub use network::{SecondMachine, SimNetwork, SimProgress};
pub use record::write_capture;
pub use registry::{RegistryPlan, RegistryRecord};
pub use scenario::{Act, Deed, Noise, STAKED_KEYS, Scenario, Who};
