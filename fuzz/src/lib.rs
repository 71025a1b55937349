//! One function for each decoder of bytes from outside. Each states what must hold for *every*
//! input: no panic, no allocation because a message claims a size, and what was read is written
//! back to the same bytes, so nothing can be read in two ways.
//!
//! Two drivers share them: `fuzz_targets/` (cargo-fuzz, nightly, for hours) and
//! `tests/fuzz_bounded.rs` at the root (stable, for a moment, in every `./test`).

use consensus::ssz_schema::{Catalogue, json_to_ssz, ssz_to_json};
use consensus::state::StateView;
use consensus::{
    Attestation, AttesterSlashing, ForkName, IndexedAttestation, MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST, Network, Preset,
    PresetName, ProposerSlashing, Root, SidecarKind, SignedAggregate, SignedBeaconBlockHeader, SignedBlock, SignedInclusionList,
    SingleAttestation, Spec, block_prefix, sidecar_header,
};
use sources::capture::{CaptureReader, CaptureWriter, Entry};
use sources::convert::MessageConverter;
use sources::limits;
use sources::topic::Topic;
use std::sync::{Arc, LazyLock};

/// A decoder and what must hold for it.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them; `fuzz_targets/` has a file for each.
pub const TARGETS: [Target; 9] = [
    Target { name: "message", run: message },
    Target { name: "container", run: container },
    Target { name: "block_json", run: block_json },
    Target { name: "state", run: state },
    Target { name: "capture", run: capture },
    Target { name: "topic", run: topic },
    Target { name: "snappy", run: snappy },
    Target { name: "spec_yaml", run: spec_yaml },
    Target { name: "config", run: config },
];

/// Number of message kinds that [`message`] reads.
pub const N_KINDS: u8 = 11;

/// A message as it comes over gossip, decoded as the verifier does. The first three bytes choose
/// fork, preset and kind.
pub fn message(data: &[u8]) {
    let Some((fork, preset, [kind, bytes @ ..])) = chosen(data) else { return };
    let same = |written: Vec<u8>| assert_eq!(written, bytes, "{fork}, kind {}: not what was read", kind % N_KINDS);
    match kind % N_KINDS {
        0 => drop(SingleAttestation::from_ssz(bytes).map(|read| same(read.to_ssz()))),
        1 => drop(Attestation::from_ssz(fork, preset, bytes).map(|read| same(read.to_ssz(preset)))),
        2 => drop(SignedAggregate::from_ssz(fork, preset, bytes).map(|read| same(read.to_ssz(preset)))),
        3 => drop(IndexedAttestation::from_ssz(fork, preset, bytes).map(|read| same(read.to_ssz()))),
        4 => drop(AttesterSlashing::from_ssz(fork, preset, bytes).map(|read| same(read.to_ssz()))),
        5 => drop(ProposerSlashing::from_ssz(bytes).map(|read| same(read.to_ssz()))),
        6 => drop(SignedBeaconBlockHeader::from_ssz(bytes).map(|read| same(read.to_ssz()))),
        7 => {
            if let Ok(block) = SignedBlock::from_ssz(fork, preset, bytes) {
                let prefix = block_prefix(bytes).expect("a whole block begins like one");
                assert_eq!(prefix.slot, block.signed_header.message.slot);
                assert_eq!(prefix.proposer_index, block.signed_header.message.proposer_index);
            }
        }
        8 => {
            if let Ok(signed) = SignedInclusionList::from_ssz(fork, preset, bytes) {
                let list = signed.message;
                assert!(fork >= ForkName::Heze && list.transactions_bytes <= MAX_TRANSACTIONS_BYTES_PER_INCLUSION_LIST);
                assert_eq!(152 + 4 * list.n_transactions + list.transactions_bytes, bytes.len(), "nothing is left over");
            }
        }
        9 => drop(sidecar_header(fork, preset, SidecarKind::Blob, bytes)),
        _ => drop(sidecar_header(fork, preset, SidecarKind::DataColumn, bytes)),
    }
}

/// Any container of the catalogue: checked, hashed, converted to JSON and back. Fork, preset and
/// the third byte choose it.
pub fn container(data: &[u8]) {
    let Some((fork, preset, [which, bytes @ ..])) = chosen(data) else { return };
    let catalogue = Catalogue::of(fork, preset);
    let n_names = catalogue.names().count();
    let Some(name) = catalogue.names().nth(usize::from(*which) % n_names) else { return };
    let ty = catalogue.get(name).expect("it is one of the names");
    if let Ok(view) = ty.validate(bytes) {
        let _: Root = view.hash_tree_root();
        let json = ssz_to_json(fork, preset, name, bytes).expect("it was validated");
        assert_eq!(json_to_ssz(fork, preset, name, &json).expect("our own JSON"), bytes, "{fork} {name}");
    }
}

/// A block as a node's REST API sends it.
pub fn block_json(data: &[u8]) {
    let Some((fork, preset, text)) = chosen(data) else { return };
    if let Ok(json) = serde_json::from_slice(text)
        && let Ok(ssz) = SignedBlock::ssz_from_json(fork, preset, &json)
    {
        SignedBlock::from_ssz(fork, preset, &ssz).expect("what we made of JSON is well-formed");
    }
}

/// A beacon state, and every accessor on it with numbers out of all proportion.
pub fn state(data: &[u8]) {
    let Some((fork, preset, bytes)) = chosen(data) else { return };
    let Ok(view) = StateView::parse(fork, preset, bytes) else { return };
    let _ = (view.latest_block_root(), view.finalized_checkpoint(), view.fork());
    let slot = view.slot();
    for at in [0, 1, u64::MAX, u64::MAX / 2] {
        let _ = view.block_root_at(consensus::Slot::new(at));
        let _ = view.randao_mix(consensus::Epoch::new(at));
        let _ = view.validator(consensus::ValidatorIndex::new(at));
    }
    let _ = view.block_root_at(slot);
    assert_eq!(view.validators().count(), view.n_validators());
}

/// A capture file; each entry is taken further as a replay would, and written back.
pub fn capture(data: &[u8]) {
    let mut reader = CaptureReader::new(data);
    let mut last_offset = None;
    for read in reader.by_ref() {
        let Ok(located) = read else { continue };
        assert!(last_offset < Some(located.offset) && located.offset < data.len() as u64, "entries do not advance");
        last_offset = Some(located.offset);
        match &located.entry {
            Entry::Config(yaml) => drop(Spec::from_yaml(yaml)),
            Entry::Block(ssz) => drop(INTAKE.block(ssz.clone())),
            Entry::Gossip(entry) => drop(INTAKE.gossip(entry)),
            Entry::ApiEvent(entry) => drop(INTAKE.api_event(entry)),
            Entry::Version | Entry::State(_) | Entry::PeerEvent(_) | Entry::Skipped { .. } => {}
        }
        if !matches!(located.entry, Entry::Version | Entry::Skipped { .. }) {
            let mut written = Vec::new();
            let mut writer = CaptureWriter::new(&mut written).expect("memory");
            writer.entry(&located.entry).and_then(|()| writer.flush()).expect("what was read can be written");
            drop(writer);
            let again = CaptureReader::new(written.as_slice()).nth(1).expect("one entry").expect("just written");
            assert_eq!(again.entry, located.entry);
        }
    }
}

pub fn topic(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(topic) = Topic::parse(text)
    {
        assert_eq!(topic.to_string(), text, "two spellings of one topic");
    }
}

/// A gossip payload under a limit: the first two bytes, in units of 16.
pub fn snappy(data: &[u8]) {
    let [low, high, payload @ ..] = data else { return };
    let limit = usize::from(u16::from_le_bytes([*low, *high])) * 16;
    let mut out = vec![7; 3];
    match limits::unpack_onto(payload, limit, &mut out) {
        Ok(()) => assert!(out.len() - 3 <= limit, "more than the limit came out"),
        Err(_) => assert_eq!(out, [7; 3], "something was left behind"),
    }
}

/// A network's `config.yaml`.
pub fn spec_yaml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(spec) = Spec::from_yaml(text)
    {
        let again = Spec::from_yaml(&spec.to_yaml()).expect("our own YAML");
        assert_eq!(again, spec);
        for epoch in [0, 1, u64::MAX - 1, u64::MAX] {
            let _ = spec.fork_digest_at(consensus::Epoch::new(epoch), Root::ZERO);
        }
    }
}

/// The operator's file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = watcher::config::Config::parse(text, std::path::Path::new("fuzzed.toml"));
    }
}

/// Fork and preset from the first two bytes.
fn chosen(data: &[u8]) -> Option<(ForkName, &'static Preset, &[u8])> {
    static PRESETS: LazyLock<[Preset; 3]> =
        LazyLock::new(|| [PresetName::Mainnet, PresetName::Minimal, PresetName::Gnosis].map(Preset::by_name));
    let [fork, preset, rest @ ..] = data else { return None };
    let fork = ForkName::ALL[usize::from(*fork) % ForkName::ALL.len()];
    Some((fork, &PRESETS[usize::from(*preset) % PRESETS.len()], rest))
}

static INTAKE: LazyLock<MessageConverter> = LazyLock::new(|| {
    let spec = Spec::builtin("mainnet").expect("built in");
    MessageConverter::new(Arc::new(Network { spec, genesis_time: 1_606_824_023, genesis_validators_root: Root::ZERO }))
});
