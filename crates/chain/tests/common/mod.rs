//! Helpers of the tests: the location of the test data, and a small reader of capture files.
#![allow(dead_code, clippy::unwrap_used)]

use chain::{BlockFacts, Chain, PubkeyCache};
use consensus::{ForkName, Network, SignedBlock, SingleAttestation, Spec};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Returns the path of a file of the shared test data. Returns `None` and prints a line to stderr
/// if it does not exist.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("skipped: no {path} in the shared test data next to the repository");
    None
}

/// Returns the path of the capture that is committed with this crate.
pub fn small_capture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minimal_fulu.e2s")
}

pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The content of a capture file.
pub struct Capture {
    pub spec: Spec,
    pub state: Vec<u8>,
    /// Topic name and decompressed payload of each message, in order of arrival.
    pub gossip: Vec<(String, Vec<u8>)>,
}

impl Capture {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (mut spec, mut state, mut gossip) = (None, None, Vec::new());
        let mut rest = &bytes[..];
        while rest.len() >= 8 {
            let len = u32::from_le_bytes(rest[2..6].try_into().unwrap()) as usize;
            let data = &rest[8..8 + len];
            match &rest[..2] {
                b"cf" => spec = Some(Spec::from_yaml(std::str::from_utf8(data).unwrap()).unwrap()),
                [2, 0] => {
                    let mut ssz = Vec::new();
                    snap::read::FrameDecoder::new(data).read_to_end(&mut ssz).unwrap();
                    state = Some(ssz);
                }
                b"gs" => {
                    let topic_at = 9 + data[8] as usize;
                    let topic_len = u16::from_le_bytes(data[topic_at..topic_at + 2].try_into().unwrap()) as usize;
                    let topic = std::str::from_utf8(&data[topic_at + 2..topic_at + 2 + topic_len]).unwrap();
                    let name = topic.split('/').nth(3).unwrap().to_owned();
                    let payload = snap::raw::Decoder::new().decompress_vec(&data[topic_at + 2 + topic_len..]).unwrap();
                    gossip.push((name, payload));
                }
                _ => {}
            }
            rest = &rest[8 + len..];
        }
        Self { spec: spec.unwrap(), state: state.unwrap(), gossip }
    }

    pub fn chain(&self) -> Chain {
        Chain::from_state(self.spec.clone(), &self.state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
    }

    pub fn blocks(&self, network: &Network) -> Vec<SignedBlock> {
        let fork = self.fork(network);
        self.named("beacon_block").map(|bytes| SignedBlock::from_ssz(fork, network.preset(), bytes).unwrap()).collect()
    }

    pub fn singles(&self) -> Vec<SingleAttestation> {
        self.named("beacon_attestation_").map(|bytes| SingleAttestation::from_ssz(bytes).unwrap()).collect()
    }

    pub fn fork(&self, network: &Network) -> ForkName {
        network.spec.fork_name_at(consensus::Epoch::new(0))
    }

    pub fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.gossip.iter().filter(move |(name, _)| name.starts_with(prefix)).map(|(_, payload)| &payload[..])
    }
}

pub fn facts(block: &SignedBlock) -> BlockFacts {
    let header = &block.signed_header.message;
    BlockFacts {
        root: block.root,
        slot: header.slot,
        parent_root: header.parent_root,
        proposer_index: header.proposer_index,
        randao_reveal: block.randao_reveal,
    }
}
