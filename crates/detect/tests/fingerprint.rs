//! Blocks without a client's name: which client made them, compared with what the simulator knows.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;

use consensus::{ForkName, Preset, SignedBlock};
use detect::client::{Clients, UNKNOWN, client_name};
use simulator::{Scenario, Wear, record};
use sources::capture::{CaptureReader, Entry};

#[test]
fn no_block_is_given_to_a_client_that_did_not_make_it() {
    // Grandine's and Nimbus's blocks look alike here, so their shape names no client.
    let clients = [("prysm", 35), ("lighthouse", 30), ("teku", 15), ("nimbus", 10), ("grandine", 10)];
    let scenario = Scenario {
        fork: ForkName::Deneb,
        slots: 640,
        custom_graffiti: 25,
        // Some votes are missing, so that committees differ in size and an order by votes is
        // visible.
        wear: Wear { missed_votes: 20, ..Wear::default() },
        clients: clients.map(|(name, percent)| (name.to_owned(), percent)).to_vec(),
        ..Scenario::quiet(128)
    };
    println!("seed {}", scenario.seed);
    let (bytes, _) = record::capture_bytes(&scenario).unwrap();
    let chain = common::chain_of(&bytes);
    let mut known = Clients::default();
    let (mut silent, mut told, mut wrong) = (0, 0, 0);
    for located in CaptureReader::new(bytes.as_slice()) {
        let Entry::Gossip(message) = located.unwrap().entry else { continue };
        if !message.topic.contains("/beacon_block/") {
            continue;
        }
        let ssz = sources::limits::unpack(&message.payload, 1 << 20).unwrap();
        let block = SignedBlock::from_ssz(ForkName::Deneb, &Preset::MINIMAL, &ssz).unwrap();
        let client = known.learn(&block, &chain);
        if block.graffiti.starts_with(b"gm") {
            silent += 1;
            told += u64::from(client != UNKNOWN);
            let truth = scenario.client_of(block.signed_header.message.proposer_index);
            wrong += u64::from(client != UNKNOWN && client_name(client) != truth);
        }
    }
    println!("{silent} blocks without a name, {told} told by their shape, {wrong} of them wrongly");
    assert!(silent > 100);
    assert_eq!(wrong, 0);
    assert!(told >= 10, "some, once enough was learnt");
}
