//! A reader of capture files for tests. It reads the configuration, the first state and the gossip
//! messages.

use crate::unsnap;
use consensus::{Epoch, ForkName, Network, SignedBlock, SingleAttestation, Spec};
use std::io::Read as _;
use std::path::Path;

/// The content of a capture file.
pub struct Capture {
    /// The name of the file without its extension.
    pub name: String,
    /// The network's configuration.
    pub spec: Spec,
    /// The first state. Later states, which only add to it, are not kept.
    pub state: Vec<u8>,
    /// Gossip messages in the order of arrival.
    pub gossip: Vec<CapturedMessage>,
}

/// A gossip message as it was received.
pub struct CapturedMessage {
    /// Nanoseconds since the Unix epoch.
    pub received_at_ns: u64,
    /// The id of the peer that sent it.
    pub peer: Vec<u8>,
    /// The fork digest in the topic.
    pub digest: [u8; 4],
    /// The name of the topic: `beacon_block`, `beacon_attestation_3` and so on.
    pub topic: String,
    /// Compressed with snappy, as on the wire.
    pub payload: Vec<u8>,
}

impl CapturedMessage {
    /// The decompressed message. `None` if it is not valid snappy. A source refuses such messages.
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
    /// Reads a capture file. Panics if it is damaged or has no configuration.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&path.file_stem().unwrap().to_string_lossy(), &bytes)
    }

    /// Reads the bytes of a capture file. Panics if it is damaged or has no configuration.
    pub fn parse(name: &str, bytes: &[u8]) -> Self {
        let (mut spec, mut state, mut gossip) = (None, Vec::new(), Vec::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[2..6].try_into().unwrap()) as usize;
            let (kind, body) = (&rest[..2], &rest[8..8 + len]);
            match kind {
                b"cf" => spec = Some(Spec::from_yaml(std::str::from_utf8(body).unwrap()).unwrap()),
                [2, 0] if state.is_empty() => {
                    snap::read::FrameDecoder::new(body).read_to_end(&mut state).unwrap();
                }
                b"gs" => gossip.push(CapturedMessage::of_entry(body)),
                _ => {}
            }
            rest = &rest[8 + len..];
        }
        Self { name: name.to_owned(), spec: spec.expect("a capture has a config"), state, gossip }
    }

    /// Those of the captures with these names that are there. There is always at least one.
    pub fn named_any_of(names: &[&str]) -> Vec<Self> {
        let is_named = |path: &Path| path.file_stem().is_some_and(|stem| names.iter().any(|name| stem == *name));
        let found: Vec<Self> = crate::captures().iter().filter(|path| is_named(path)).map(|path| Self::read(path)).collect();
        assert!(!found.is_empty(), "none of {names:?} is there");
        found
    }

    /// The fork at genesis.
    pub fn fork(&self) -> ForkName {
        self.spec.fork_name_at(Epoch::new(0))
    }

    /// The messages whose topic names begin with `prefix`, decompressed.
    pub fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Vec<u8>> {
        let named = self.gossip.iter().filter(move |message| message.topic.starts_with(prefix));
        named.map(|message| message.ssz().expect("snappy"))
    }

    /// The blocks of a capture. All of them must belong to the fork at genesis.
    pub fn blocks(&self, network: &Network) -> Vec<SignedBlock> {
        let read = |ssz: Vec<u8>| SignedBlock::from_ssz(self.fork(), network.preset(), &ssz).unwrap();
        self.named("beacon_block").map(read).collect()
    }

    /// The single votes of a capture of Electra or later.
    pub fn singles(&self) -> Vec<SingleAttestation> {
        self.named("beacon_attestation_").map(|ssz| SingleAttestation::from_ssz(&ssz).unwrap()).collect()
    }
}
