//! A scenario played into a capture file, in simulated time and without sockets. The same scenario
//! gives the same bytes.

use crate::error::SimError;
use crate::genesis::config_yaml;
use crate::ground_truth::{GroundTruth, Happened, MessageHistory};
use crate::message::{Nature, Sent};
use crate::peers;
use crate::scenario::Scenario;
use crate::world::World;
use consensus::{Slot, ValidatorIndex};
use sources::capture::{CaptureWriter, GossipEntry, PeerEventEntry, WriteError};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Genesis time of simulated networks in capture files: 13 September 2020, in seconds since the
/// Unix epoch.
pub const GENESIS_TIME: u64 = 1_600_000_000;

/// Plays a scenario into a new capture file and returns what there is to find in it.
///
/// # Errors
/// The scenario cannot be played, the file exists already, or it cannot be written.
pub fn write_capture(scenario: &Scenario, path: &Path) -> Result<GroundTruth, SimError> {
    let failed = |source: WriteError| SimError::Capture { path: path.to_owned(), source: Box::new(source) };
    let world = World::new(scenario.clone(), GENESIS_TIME)?;
    let mut writer = CaptureWriter::create(path).map_err(failed)?;
    let truth = write(world, &mut writer).map_err(failed)?;
    writer.sync().map_err(failed)?;
    Ok(truth)
}

/// Plays a scenario into a capture in memory.
///
/// # Errors
/// The scenario cannot be played.
pub fn capture_bytes(scenario: &Scenario) -> Result<(Vec<u8>, GroundTruth), SimError> {
    capture_bytes_since(scenario, GENESIS_TIME)
}

/// Does the same as [`capture_bytes`] for a network whose genesis was at another time, in seconds
/// since the Unix epoch.
///
/// # Errors
/// The scenario cannot be played.
pub fn capture_bytes_since(scenario: &Scenario, genesis_time: u64) -> Result<(Vec<u8>, GroundTruth), SimError> {
    let failed = |source: WriteError| SimError::Capture { path: "memory".into(), source: Box::new(source) };
    let world = World::new(scenario.clone(), genesis_time)?;
    let mut bytes = Vec::new();
    let truth = {
        let mut writer = CaptureWriter::new(BufWriter::new(&mut bytes)).map_err(failed)?;
        let truth = write(world, &mut writer).map_err(failed)?;
        writer.flush().map_err(failed)?;
        truth
    };
    Ok((bytes, truth))
}

fn write<W: Write>(mut world: World, writer: &mut CaptureWriter<W>) -> Result<GroundTruth, WriteError> {
    writer.config(&config_yaml(&world.scenario))?;
    let begin = world.scenario.registry.as_ref().map_or(Slot::new(0), |plan| plan.from.start_slot(&world.preset));
    if begin == Slot::new(0) {
        writer.state(&world.genesis.state_ssz)?;
    }
    let genesis_ns = world.genesis.time * 1_000_000_000;
    for node in 0..world.scenario.n_nodes {
        writer.peer_event(&connected(node, genesis_ns))?;
    }
    let mut history = MessageHistory::new(world.network.genesis_validators_root, world.preset.slots_per_epoch);
    let mut truth = GroundTruth::of(&world.scenario, |_| true);
    let mut packer = snap::raw::Encoder::new();
    for condition in &world.scenario.conditions {
        let validators = (0..world.scenario.n_validators as u64).map(ValidatorIndex::new);
        let concerned = validators.filter(|validator| condition.who.has(*validator, &world.scenario)).count() as u64;
        truth.happened.push(Happened { condition: condition.clone(), validators: concerned });
    }
    for event in peers::at_start(&world.scenario, genesis_ns) {
        writer.peer_event(&event)?;
    }
    let mut told_slashed = 0;
    for slot in 1..=world.scenario.slots {
        let is_first = slot % world.preset.slots_per_epoch == 0;
        if begin == Slot::new(slot) {
            world.enter(Slot::new(slot).epoch(&world.preset));
            writer.state(&world.state_ssz(Slot::new(slot)))?;
        }
        // A new state, as a node would serve it, if the registry has changed.
        if is_first && world.registry.is_none() && world.slashed().len() > told_slashed {
            told_slashed = world.slashed().len();
            writer.state(&world.state_ssz(Slot::new(slot)))?;
        }
        for event in peers::in_slot(&world.scenario, Slot::new(slot), genesis_ns) {
            writer.peer_event(&event)?;
        }
        for message in world.play(Slot::new(slot)) {
            if Slot::new(slot) < begin {
                continue;
            }
            let received_at = genesis_ns + message.at_ns;
            writer.gossip(&gossip_entry(&mut packer, &message, received_at)?)?;
            truth.count(message.nature);
            truth.crimes.extend(history.record(&message.claims, received_at));
        }
        let is_last = (slot + 1) % world.preset.slots_per_epoch == 0;
        if let Some(registry) = world.registry.as_ref().filter(|_| is_last && Slot::new(slot) >= begin) {
            truth.registry.insert(Slot::new(slot).epoch(&world.preset), registry.records());
        }
    }
    truth.slashed = world.slashed();
    Ok(truth)
}

impl GroundTruth {
    pub(crate) fn count(&mut self, nature: Nature) {
        self.messages += 1;
        match nature {
            Nature::Signed => {}
            Nature::Forged => self.forged += 1,
            Nature::Junk => self.junk += 1,
        }
    }
}

fn gossip_entry(packer: &mut snap::raw::Encoder, message: &Sent, received_at: u64) -> Result<GossipEntry, WriteError> {
    let mut entry = GossipEntry {
        // The field's type cannot be named here, because it belongs to a crate that this one must
        // not use.
        received_at: Default::default(),
        peer: peer(message.node).into_bytes(),
        topic: message.topic.to_string(),
        payload: packer.compress_vec(&message.ssz).map_err(std::io::Error::other)?,
    };
    entry.received_at.0 = received_at;
    Ok(entry)
}

fn connected(node: usize, at: u64) -> PeerEventEntry {
    peers::entry(serde_json::json!({"peer": peer(node), "event": "connected"}), at)
}

fn peer(node: usize) -> String {
    format!("simulated-node-{node}")
}
