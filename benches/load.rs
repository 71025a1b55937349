//! The signed votes of one slot of a network with [`N_VALIDATORS`] validators, in the form in which
//! a source passes them on.

use chain::{Chain, PubkeyCache};
use simulator::load::{Load, LoadMessage, LoadPlan};
use sources::capture::GossipEntry;
use sources::convert::MessageConverter;
use std::sync::Arc;
use verify::{RawMessage, Time};

/// With the mainnet preset, 256 validators vote in a slot, in two committees.
pub const N_VALIDATORS: usize = 8192;

pub struct Votes {
    pub chain: Chain,
    pub messages: Vec<RawMessage>,
}

pub fn votes() -> Votes {
    let load = Load::new(LoadPlan::quiet(N_VALIDATORS, 1), 0).unwrap();
    let converter = MessageConverter::new(Arc::new(load.network().clone()));
    let message = |vote: LoadMessage| {
        let LoadMessage { at_ns, topic, payload, .. } = vote;
        converter.gossip(&GossipEntry { received_at: Time(at_ns), peer: Vec::new(), topic, payload }).unwrap()
    };
    let messages = load.votes(1).into_iter().map(message).collect();
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("pubkeys");
    // The keys were made by this program, so they need no check.
    PubkeyCache::write_known(&keys, &load.public_keys()).unwrap();
    let mut keys = PubkeyCache::open(&keys).unwrap();
    let chain = Chain::from_state(load.network().spec.clone(), &load.state_ssz(), &mut keys, &mut |_| ()).unwrap();
    Votes { chain, messages }
}
