//! Writing of capture files: whole entries, one after the other.

use super::{
    ApiEventEntry, Entry, EntryType, GossipEntry, HEADER_LEN, MAX_API_EVENT_LEN, MAX_BLOCK_LEN, MAX_CONFIG_LEN,
    MAX_NODE_NAME_LEN, MAX_PEER_EVENT_LEN, MAX_STATE_LEN, PeerEventEntry,
};
use crate::topic::MAX_TOPIC_LEN;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Why an entry was not written. No part of the entry is in the file, except after `Io`, which may
/// leave an incomplete entry at the end.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{what} has {len} bytes, a capture takes at most {limit}; it is left out")]
    TooLong { what: &'static str, len: u64, limit: u64 },
    #[error("the file exists already, and may be somebody's only record; name another one")]
    Exists,
    #[error("cannot write the capture: {0}; check free space and permissions, what was flushed before is whole")]
    Io(#[from] io::Error),
}

/// Writes entries one after the other. Call [`CaptureWriter::flush`] if the entries must survive a
/// crash of this process, and [`CaptureWriter::sync`] if they must survive a crash of the machine.
#[derive(Debug)]
pub struct CaptureWriter<W: Write> {
    output: W,
    n_bytes: u64,
    scratch: Vec<u8>,
}

impl CaptureWriter<BufWriter<File>> {
    /// Creates a new file. An existing file is an error, because it may be the only evidence that
    /// somebody has.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let opened = OpenOptions::new().write(true).create_new(true).open(path);
        let file = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => WriteError::Exists,
            _ => error.into(),
        })?;
        Self::new(BufWriter::with_capacity(WRITE_BUFFER, file))
    }

    /// Flushes, and waits until the data is on the disk.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        self.output.flush()?;
        Ok(self.output.get_ref().sync_data()?)
    }
}

impl<W: Write> CaptureWriter<W> {
    /// Begins a capture with its Version entry.
    pub fn new(output: W) -> Result<Self, WriteError> {
        let mut writer = Self { output, n_bytes: 0, scratch: Vec::new() };
        writer.put(EntryType::VERSION, "version", &[], 0)?;
        Ok(writer)
    }

    /// Bytes in the file so far, including those that are still in the buffer.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Writes the network's `config.yaml`.
    pub fn config(&mut self, yaml: &str) -> Result<(), WriteError> {
        self.put(EntryType::CONFIG, "config", yaml.as_bytes(), MAX_CONFIG_LEN as u64)
    }

    /// Writes a `BeaconState`, given in SSZ.
    pub fn state(&mut self, ssz: &[u8]) -> Result<(), WriteError> {
        self.put_framed(EntryType::STATE, "state", ssz, MAX_STATE_LEN)
    }

    /// Writes a `SignedBeaconBlock`, given in SSZ.
    pub fn block(&mut self, ssz: &[u8]) -> Result<(), WriteError> {
        self.put_framed(EntryType::BLOCK, "block", ssz, MAX_BLOCK_LEN)
    }

    /// Writes a gossip message. Its payload is still compressed as on the wire.
    pub fn gossip(&mut self, entry: &GossipEntry) -> Result<(), WriteError> {
        let peer_len = fits::<u8>("peer id", entry.peer.len(), u8::MAX.into())?;
        let topic_len = fits::<u16>("topic", entry.topic.len(), MAX_TOPIC_LEN)?;
        let mut data = std::mem::take(&mut self.scratch);
        data.clear();
        data.extend_from_slice(&entry.received_at.0.to_le_bytes());
        data.push(peer_len);
        data.extend_from_slice(&entry.peer);
        data.extend_from_slice(&topic_len.to_le_bytes());
        data.extend_from_slice(entry.topic.as_bytes());
        data.extend_from_slice(&entry.payload);
        self.put_scratch(EntryType::GOSSIP, "message", data)
    }

    /// Writes a peer event.
    pub fn peer_event(&mut self, entry: &PeerEventEntry) -> Result<(), WriteError> {
        let mut data = std::mem::take(&mut self.scratch);
        data.clear();
        data.extend_from_slice(&entry.at.0.to_le_bytes());
        data.extend_from_slice(entry.json.to_string().as_bytes());
        self.put_scratch(EntryType::PEER_EVENT, "peer event", data)
    }

    /// Writes an event of a beacon node's event stream.
    pub fn api_event(&mut self, entry: &ApiEventEntry) -> Result<(), WriteError> {
        let node_len = fits::<u16>("node's name", entry.node.len(), MAX_NODE_NAME_LEN)?;
        let topic_len = fits::<u16>("event topic", entry.topic.len(), MAX_TOPIC_LEN)?;
        let mut data = std::mem::take(&mut self.scratch);
        data.clear();
        data.extend_from_slice(&entry.at.0.to_le_bytes());
        data.extend_from_slice(&node_len.to_le_bytes());
        data.extend_from_slice(entry.node.as_bytes());
        data.extend_from_slice(&topic_len.to_le_bytes());
        data.extend_from_slice(entry.topic.as_bytes());
        data.extend_from_slice(entry.json.as_bytes());
        self.put_scratch(EntryType::API_EVENT, "API event", data)
    }

    /// Writes an entry that the reader returned. A skipped entry has lost its data, so it is left
    /// out.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), WriteError> {
        match entry {
            Entry::Version => self.put(EntryType::VERSION, "version", &[], 0),
            Entry::Config(yaml) => self.config(yaml),
            Entry::State(ssz) => self.state(ssz),
            Entry::Block(ssz) => self.block(ssz),
            Entry::Gossip(gossip) => self.gossip(gossip),
            Entry::PeerEvent(event) => self.peer_event(event),
            Entry::ApiEvent(event) => self.api_event(event),
            Entry::Skipped { .. } => Ok(()),
        }
    }

    /// Passes all buffered data to the operating system.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        Ok(self.output.flush()?)
    }

    fn put_framed(&mut self, entry_type: EntryType, what: &'static str, ssz: &[u8], limit: u64) -> Result<(), WriteError> {
        if ssz.len() as u64 > limit {
            return Err(WriteError::TooLong { what, len: ssz.len() as u64, limit });
        }
        let mut packer = snap::write::FrameEncoder::new(Vec::new());
        packer.write_all(ssz)?;
        let packed = packer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        self.put(entry_type, what, &packed, limit)
    }

    /// Writes an entry whose data is in the scratch buffer, and puts the buffer back.
    fn put_scratch(&mut self, entry_type: EntryType, what: &'static str, data: Vec<u8>) -> Result<(), WriteError> {
        let limit = match entry_type {
            EntryType::PEER_EVENT => 8 + MAX_PEER_EVENT_LEN as u64,
            EntryType::API_EVENT => MAX_API_EVENT_LEN as u64,
            _ => entry_type.max_len(),
        };
        let written = self.put(entry_type, what, &data, limit);
        self.scratch = data;
        if self.scratch.capacity() > KEPT_SCRATCH {
            self.scratch = Vec::new();
        }
        written
    }

    fn put(&mut self, entry_type: EntryType, what: &'static str, data: &[u8], limit: u64) -> Result<(), WriteError> {
        let len = data.len() as u64;
        let length = u32::try_from(len).ok().filter(|_| len <= limit).ok_or(WriteError::TooLong { what, len, limit })?;
        let mut header = [0u8; HEADER_LEN as usize];
        header[..2].copy_from_slice(&entry_type.0);
        header[2..6].copy_from_slice(&length.to_le_bytes());
        self.output.write_all(&header)?;
        self.output.write_all(data)?;
        self.n_bytes += HEADER_LEN + len;
        Ok(())
    }
}

const WRITE_BUFFER: usize = 256 << 10;
/// Capacity in bytes above which the scratch buffer is freed after use, because one large message
/// made it grow.
const KEPT_SCRATCH: usize = 1 << 20;

fn fits<N: TryFrom<usize>>(what: &'static str, len: usize, limit: usize) -> Result<N, WriteError> {
    let too_long = WriteError::TooLong { what, len: len as u64, limit: limit as u64 };
    if len > limit { Err(too_long) } else { N::try_from(len).map_err(|_| too_long) }
}
