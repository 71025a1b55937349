//! What peers report about themselves, as entries of a capture. Live, the simulated nodes do this
//! themselves.

use crate::proposing::version_of;
use crate::scenario::Scenario;
use consensus::{Slot, ValidatorIndex};
use serde_json::{Value, json};
use sources::capture::PeerEventEntry;

pub(crate) fn entry(json: Value, at: u64) -> PeerEventEntry {
    // The time's type cannot be named here, because it belongs to a crate that this one must not
    // use.
    let mut entry = PeerEventEntry { at: Default::default(), json };
    entry.at.0 = at;
    entry
}

/// All peers connect and report their agent strings.
pub(crate) fn at_start(scenario: &Scenario, genesis_ns: u64) -> Vec<PeerEventEntry> {
    let mut entries = Vec::new();
    for peer in 0..scenario.peers.n {
        let agent = version_of(scenario.client_of(ValidatorIndex::new(peer)));
        entries.push(entry(json!({"peer": name(peer), "event": "connected"}), genesis_ns));
        entries.push(entry(json!({"peer": name(peer), "event": "agent", "agent": agent}), genesis_ns));
    }
    entries
}

/// Each peer reports its head once an epoch. During a storm some report a head that is far behind,
/// and some of these send a goodbye.
pub(crate) fn in_slot(scenario: &Scenario, slot: Slot, genesis_ns: u64) -> Vec<PeerEventEntry> {
    let mut entries = Vec::new();
    let per_epoch = scenario.preset().slots_per_epoch;
    let at = genesis_ns + slot.as_u64() * scenario.slot_duration.as_nanos() as u64;
    let storm = scenario.peers.storm.filter(|storm| (storm.from..storm.until).contains(&slot.as_u64()));
    for peer in (0..scenario.peers.n).filter(|peer| peer % per_epoch == slot.as_u64() % per_epoch) {
        let hit = storm.filter(|storm| scenario.random().below(100, "peer behind", &[peer]) < u64::from(storm.percent));
        let head = slot.as_u64().saturating_sub(hit.map_or(1, |storm| storm.behind));
        let status = json!({"peer": name(peer), "event": "status", "head_slot": head.to_string()});
        entries.push(entry(status, at));
        let leaves = |goodbyes: u8| scenario.random().below(100, "goodbye", &[peer, slot.as_u64()]) < u64::from(goodbyes);
        if hit.is_some_and(|storm| leaves(storm.goodbyes)) {
            let goodbye = json!({"peer": name(peer), "event": "goodbye", "sent": false, "code": 129, "reason": "too many peers"});
            entries.push(entry(goodbye, at));
        }
    }
    entries
}

fn name(peer: u64) -> String {
    format!("simulated-peer-{peer}")
}
