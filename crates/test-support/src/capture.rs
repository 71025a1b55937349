//! A reader of capture files for tests: configuration, first state and gossip messages.

use crate::unsnap;
use consensus::{Epoch, ForkName, Network, SignedBlock, SingleAttestation, Spec};
use std::io::Read as _;
use std::path::Path;

/// A capture file, read.
pub struct Capture {
    /// The file's name without its ending.
    pub name: String,
    pub spec: Spec,
    /// The first state; later ones add to it and are not kept.
    pub state: Vec<u8>,
    /// In order of arrival.
    pub gossip: Vec<GossipMessage>,
}

/// A message as it came.
pub struct GossipMessage {
    /// Nanoseconds since the Unix epoch.
    pub received_at_ns: u64,
    pub peer: Vec<u8>,
    /// The fork digest in the topic.
    pub digest: [u8; 4],
    /// The topic's name: `beacon_block`, `beacon_attestation_3` and so on.
    pub topic: String,
    /// Compressed, as on the wire.
    pub payload: Vec<u8>,
}

impl GossipMessage {
    /// `None` for what is no snappy, which a source refuses.
    pub fn ssz(&self) -> Option<Vec<u8>> {
        unsnap(&self.payload)
    }

    fn of_entry(entry: &[u8]) -> Self {
        let received_at_ns = u64::from_le_bytes(entry[..8].try_into().unwrap());
        let (peer, entry) = entry[9..].split_at(usize::from(entry[8]));
        let topic_len = usize::from(u16::from_le_bytes(entry[..2].try_into().unwrap()));
        let (topic, payload) = entry[2..].split_at(topic_len);
        let parts: Vec<&str> = std::str::from_utf8(topic).unwrap().split('/').collect();
        let digest = u32::from_str_radix(parts[2], 16).unwrap().to_be_bytes();
        Self { received_at_ns, peer: peer.to_vec(), digest, topic: parts[3].to_owned(), payload: payload.to_vec() }
    }
}

impl Capture {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut spec, mut state, mut gossip) = (None, Vec::new(), Vec::new());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[2..6].try_into().unwrap()) as usize;
            let (kind, body) = (&rest[..2], &rest[8..8 + len]);
            match kind {
                b"cf" => spec = Some(Spec::from_yaml(std::str::from_utf8(body).unwrap()).unwrap()),
                [2, 0] if state.is_empty() => {
                    snap::read::FrameDecoder::new(body).read_to_end(&mut state).unwrap();
                }
                b"gs" => gossip.push(GossipMessage::of_entry(body)),
                _ => {}
            }
            rest = &rest[8 + len..];
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Self { name, spec: spec.expect("a capture has a config"), state, gossip }
    }

    /// The fork at genesis.
    pub fn fork(&self) -> ForkName {
        self.spec.fork_name_at(Epoch::new(0))
    }

    /// The messages whose topic begins so, decompressed.
    pub fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Vec<u8>> {
        let named = self.gossip.iter().filter(move |message| message.topic.starts_with(prefix));
        named.map(|message| message.ssz().expect("snappy"))
    }

    /// The blocks of a capture of one fork.
    pub fn blocks(&self, network: &Network) -> Vec<SignedBlock> {
        let read = |ssz: Vec<u8>| SignedBlock::from_ssz(self.fork(), network.preset(), &ssz).unwrap();
        self.named("beacon_block").map(read).collect()
    }

    /// The single votes of a capture of Electra or later.
    pub fn singles(&self) -> Vec<SingleAttestation> {
        self.named("beacon_attestation_").map(|ssz| SingleAttestation::from_ssz(&ssz).unwrap()).collect()
    }
}
