//! Reads test data that others made: capture files and the specification's own test cases. This
//! reader is small and separate on purpose, so that the tests do not depend on the program's
//! reader.

#![allow(dead_code, reason = "each test file uses its part")]

use chain::{Chain, PubkeyCache};
use consensus::{ForkName, Network, Spec};
use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use verify::{MessageKind, Origin, PeerBytes, RawMessage, SourceKind, Ticket, UnixNs};

/// The folder next to the repository. If it is missing, this prints a line and returns `None`.
pub fn shared() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !path.join("vectors").is_dir() {
        println!("no test data at {}: nothing was run", path.display());
        return None;
    }
    Some(path)
}

/// A capture: its chain at genesis, and its messages in order. The tickets number the messages.
pub struct Capture {
    pub name: String,
    pub spec: Spec,
    pub state: Vec<u8>,
    pub messages: Vec<RawMessage>,
    pub expected: serde_json::Value,
}

impl Capture {
    pub fn chain(&self) -> Chain {
        Chain::from_state(self.spec.clone(), &self.state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
    }
}

/// All captures in the folder, which must contain at least one. Empty if the folder with test data
/// is missing.
pub fn captures() -> Vec<Capture> {
    let Some(shared) = shared() else { return Vec::new() };
    let mut names: Vec<PathBuf> = std::fs::read_dir(shared.join("captures"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "e2s"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no captures");
    names.iter().map(|path| capture(path)).collect()
}

pub fn capture(path: &Path) -> Capture {
    let bytes = std::fs::read(path).unwrap();
    let mut spec = None;
    let mut state = Vec::new();
    let mut messages = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[2..6].try_into().unwrap()) as usize;
        let (kind, body) = (&rest[..2], &rest[8..8 + len]);
        match kind {
            b"cf" => spec = Some(Spec::from_yaml(std::str::from_utf8(body).unwrap()).unwrap()),
            // The first state starts the chain. Later states would only add to it.
            [2, 0] if state.is_empty() => {
                snap::read::FrameDecoder::new(body).read_to_end(&mut state).unwrap();
            }
            b"gs" => messages.push(body),
            _ => {}
        }
        rest = &rest[8 + len..];
    }
    let spec = spec.expect("a capture has a config");
    let network = Chain::from_state(spec.clone(), &state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap().network().clone();
    let messages = messages.iter().enumerate().filter_map(|(i, body)| gossip(&network, body, i as u64)).collect();
    let expected = std::fs::read_to_string(path.with_extension("expected.json")).unwrap();
    Capture {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        spec,
        state,
        messages,
        expected: serde_json::from_str(&expected).unwrap(),
    }
}

/// Reads one gossip entry. `None` if the topic is not one of those that are read.
fn gossip(network: &Network, entry: &[u8], number: u64) -> Option<RawMessage> {
    let received_at = u64::from_le_bytes(entry[..8].try_into().unwrap());
    let (peer, entry) = entry[9..].split_at(usize::from(entry[8]));
    let topic_len = usize::from(u16::from_le_bytes(entry[..2].try_into().unwrap()));
    let (topic, payload) = entry[2..].split_at(topic_len);
    let parts: Vec<&str> = std::str::from_utf8(topic).unwrap().split('/').collect();
    let digest: [u8; 4] = hex::decode(parts[2]).unwrap().try_into().unwrap();
    Some(RawMessage {
        origin: Origin {
            source: SourceKind::Gossip,
            peer: Some(PeerBytes::from(peer)),
            fork: network.fork_of_digest(consensus::ForkDigest(digest)),
        },
        kind: kind(parts[3])?,
        received_at: UnixNs(received_at),
        bytes: unsnap(payload)?,
        ticket: Some(Ticket(number)),
    })
}

pub fn kind(name: &str) -> Option<MessageKind> {
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|n| n.parse().ok());
    Some(match name {
        "beacon_block" => MessageKind::Block,
        "beacon_aggregate_and_proof" => MessageKind::Aggregate,
        "attester_slashing" => MessageKind::AttesterSlashing,
        "proposer_slashing" => MessageKind::ProposerSlashing,
        "payload_attestation_message" => MessageKind::PayloadAttestation,
        "inclusion_list" => MessageKind::InclusionList,
        _ => {
            let subnet = number("beacon_attestation_").map(|subnet| MessageKind::Attestation { subnet });
            let blob = || number("blob_sidecar_").map(|index| MessageKind::BlobSidecar { index });
            let column = || number("data_column_sidecar_").map(|index| MessageKind::DataColumnSidecar { index });
            return subnet.or_else(blob).or_else(column);
        }
    })
}

/// Decompresses bytes. `None` if they are not valid snappy, which a source refuses.
pub fn unsnap(bytes: &[u8]) -> Option<Vec<u8>> {
    snap::raw::Decoder::new().decompress_vec(bytes).ok()
}

/// One of the specification's own test cases: its files by name, decompressed.
pub struct Case {
    pub fork: ForkName,
    /// The runner and handler, for example `networking/gossip_beacon_block`.
    pub handler: String,
    pub name: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Case {
    pub fn yaml(&self, name: &str) -> Option<serde_json::Value> {
        let text = std::str::from_utf8(self.files.get(name)?).unwrap();
        Some(serde_saphyr::from_str(text).unwrap())
    }

    /// An SSZ file by its name without the extension.
    pub fn ssz(&self, stem: &str) -> Option<&[u8]> {
        self.files.get(&format!("{stem}.ssz_snappy")).map(Vec::as_slice)
    }
}

/// The cases of the minimal preset for these `runner/handler` names, in all forks.
pub fn cases(handlers: &[&str]) -> Vec<Case> {
    let Some(shared) = shared() else { return Vec::new() };
    let file = std::fs::File::open(shared.join("vectors/consensus-specs_reftests.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut cases: BTreeMap<(ForkName, String, String), BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let [_, "minimal", fork, runner, handler, _, case, file] = parts.as_slice() else { continue };
        let handler = format!("{runner}/{handler}");
        if file.is_empty() || !handlers.contains(&handler.as_str()) {
            continue;
        }
        let fork = ForkName::ALL.into_iter().find(|name| name.as_str() == *fork).unwrap();
        let (case, file) = ((*case).to_owned(), (*file).to_owned());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if file.ends_with(".ssz_snappy") {
            bytes = unsnap(&bytes).unwrap();
        }
        cases.entry((fork, handler, case)).or_default().insert(file, bytes);
    }
    assert!(!cases.is_empty(), "no cases of {handlers:?}");
    cases.into_iter().map(|((fork, handler, name), files)| Case { fork, handler, name, files }).collect()
}

/// The configuration of the specification's minimal tests, in which the given fork is active since
/// genesis.
pub fn minimal_spec(fork: ForkName) -> Spec {
    let mut yaml =
        String::from("PRESET_BASE: minimal\nCONFIG_NAME: minimal\nSECONDS_PER_SLOT: 6\nGENESIS_FORK_VERSION: 0x00000001\n");
    for (i, name) in ForkName::ALL.into_iter().enumerate().skip(1) {
        let epoch = if name <= fork { 0 } else { u64::MAX };
        let key = name.as_str().to_uppercase();
        yaml.push_str(&format!("{key}_FORK_VERSION: 0x0{i}000001\n{key}_FORK_EPOCH: {epoch}\n"));
    }
    Spec::from_yaml(&yaml).unwrap()
}
