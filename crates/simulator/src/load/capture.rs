//! Writing a load into a capture file, with a list of the offences in it.

use super::{Load, LoadMessage, LoadPlan};
use crate::error::SimError;
use crate::record::GENESIS_TIME;
use consensus::{Root, ValidatorIndex};
use serde::{Deserialize, Serialize};
use sources::capture::{CaptureWriter, GossipEntry, WriteError};
use std::path::Path;

/// The first slot with offences, counted from the load's first slot, which is 1. The slot before it
/// serves to warm up.
pub const OFFENCES_FROM: u64 = 2;

/// An offence that was added to a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlantedCrime {
    /// The id of a finding about it.
    pub finding_id: Root,
    pub validator: ValidatorIndex,
    /// Number of the message that completes it, counted from 0 over the capture's gossip messages.
    pub message: u64,
}

/// The content of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadTruth {
    /// Seconds since the Unix epoch.
    pub genesis_time: u64,
    pub slots: u64,
    /// In order of arrival.
    pub crimes: Vec<PlantedCrime>,
    pub messages: u64,
    /// Those of `messages` that are in slot 1.
    pub messages_of_first_slot: u64,
}

/// Writes a load into a new capture file that begins at [`GENESIS_TIME`]. `progress` is called with
/// the number of slots done.
///
/// # Errors
/// The plan cannot be played, the file exists already, or it cannot be written.
pub fn write_load(plan: LoadPlan, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<LoadTruth, SimError> {
    let failed = |source: WriteError| SimError::Capture { path: path.to_owned(), source: Box::new(source) };
    let mut load = Load::new(plan, GENESIS_TIME)?;
    let mut writer = CaptureWriter::create(path).map_err(failed)?;
    writer.config(&load.config_yaml()).map_err(failed)?;
    writer.state(&load.state_ssz()).map_err(failed)?;
    let mut truth = LoadTruth { genesis_time: GENESIS_TIME, slots: plan.slots, ..LoadTruth::default() };
    for (nth, slot) in (1..).zip(plan.each_slot()) {
        for message in load.play(slot) {
            writer.gossip(&entry(&message)).map_err(failed)?;
            if let Some(crime) = message.crime {
                let planted = PlantedCrime { finding_id: crime.finding_id, validator: crime.validator, message: truth.messages };
                truth.crimes.push(planted);
            }
            truth.messages += 1;
        }
        if nth == 1 {
            truth.messages_of_first_slot = truth.messages;
        }
        progress(nth);
    }
    writer.flush().map_err(failed)?;
    Ok(truth)
}

fn entry(message: &LoadMessage) -> GossipEntry {
    let mut entry = GossipEntry {
        // The field's type cannot be named here, because it belongs to a crate that this one must
        // not use.
        received_at: Default::default(),
        peer: message.sender.clone().into_bytes(),
        topic: message.topic.clone(),
        payload: message.payload.clone(),
    };
    entry.received_at.0 = GENESIS_TIME * 1_000_000_000 + message.at_ns;
    entry
}
