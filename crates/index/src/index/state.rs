//! The small numbers that are written with every commit.

use crate::newest_votes::NO_EPOCH;
use crate::storage::ByteReader;
use consensus::Epoch;
use verify::Time;

const STATE_KEY: &[u8] = b"state";

/// The small numbers that are written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The newest votes and the summary of the epochs from this one on are rebuilt from the epochs'
    /// rows.
    pub tail_from: Epoch,
    pub next_handle: u32,
    /// Log entries before this one are already in rows.
    pub log_floor: u64,
    pub log_next: u64,
    /// The greatest target that newest votes or summary may contain. It is below 2^32 - 1.
    pub reach: Epoch,
    /// The latest arrival of a message that came from a peer.
    pub newest: Time,
}

impl State {
    /// The key of the state's row in the column family `default`.
    pub fn key() -> &'static [u8] {
        STATE_KEY
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.tail_from.as_u64().to_be_bytes().to_vec();
        out.extend_from_slice(&self.next_handle.to_be_bytes());
        out.extend_from_slice(&self.log_floor.to_be_bytes());
        out.extend_from_slice(&self.log_next.to_be_bytes());
        out.extend_from_slice(&(self.reach.as_u64() as u32).to_be_bytes());
        out.extend_from_slice(&self.newest.0.to_be_bytes());
        out
    }

    pub fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = ByteReader(value);
        let tail_from = Epoch::new(u64::from_be_bytes(reader.array()?));
        let next_handle = u32::from_be_bytes(reader.array()?);
        let log_floor = u64::from_be_bytes(reader.array()?);
        let log_next = u64::from_be_bytes(reader.array()?);
        // A value of format 1 ends here. In that case any target that fits may be known.
        let reach = match reader.is_empty() {
            true => NO_EPOCH.saturating_sub(1),
            false => Epoch::new(u64::from(u32::from_be_bytes(reader.array()?))),
        };
        // A value of format 2 ends here. In that format no peer's number was ever assigned a second
        // time.
        let newest = if reader.is_empty() { 0 } else { u64::from_be_bytes(reader.array()?) };
        reader.is_empty().then_some(Self { tail_from, next_handle, log_floor, log_next, reach, newest: Time(newest) })
    }
}
