//! All `ssz_static` cases of the specification. The bytes are accepted, have the given root, and
//! are unchanged after a conversion to JSON and back.

use consensus::ssz_schema::{Catalogue, json_to_ssz};
use consensus::{
    Attestation, AttestationData, AttesterSlashing, BeaconBlockHeader, Checkpoint, IndexedAttestation, ProposerSlashing, Root,
    SignedAggregate, SignedBeaconBlockHeader, SignedBlock, SingleAttestation, Validator,
};
use std::collections::BTreeMap;
use test_support::spec_tests::{SSZ_STATIC, cases, hex_value};

#[test]
fn every_case_is_read_hashed_and_written_back() {
    let cases = cases(SSZ_STATIC, |path| path.get(2) == Some(&"ssz_static"));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    for case in &cases {
        let (preset, fork_name) = (case.preset(), case.fork());
        let container: &'static str = case.path[3].clone().leak();
        let ssz = case.ssz("serialized");
        let root = Root::from_slice(&hex_value(&case.text("roots.yaml"), "root"));
        let catalogue = Catalogue::of(fork_name, &preset);
        let outcome = (|| {
            let view = catalogue.get(container)?.validate(&ssz)?;
            assert_eq!(view.hash_tree_root(), root, "{}", case.name());
            let json = view.to_json();
            assert_eq!(json_to_ssz(fork_name, &preset, container, &json)?, ssz, "{}: through JSON", case.name());
            typed(container, fork_name, &preset, &ssz, root)
        })();
        if let Err(error) = outcome {
            failures.push(format!("{}: {error}", case.name()));
        }
        *counts.entry(format!("{} {}", case.path[0], case.path[1])).or_default() += 1;
    }
    println!("ssz_static cases: {counts:?}");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    if test_support::has_full_set() {
        assert_eq!(counts.len(), 16, "two presets, eight forks");
        assert!(cases.len() > 1900, "{} cases", cases.len());
    }
}

/// Checks that the typed decoders agree with the schema: they encode to the same bytes and compute
/// the same roots.
fn typed(
    container: &str,
    fork: consensus::ForkName,
    preset: &consensus::Preset,
    ssz: &[u8],
    root: Root,
) -> Result<(), consensus::DecodeError> {
    use ssz::Decode as _;
    use tree_hash::TreeHash as _;
    match container {
        "SingleAttestation" => assert_eq!(SingleAttestation::from_ssz(ssz)?.to_ssz(), ssz),
        "Attestation" => assert_eq!(Attestation::from_ssz(fork, preset, ssz)?.to_ssz(preset), ssz),
        "SignedAggregateAndProof" => assert_eq!(SignedAggregate::from_ssz(fork, preset, ssz)?.to_ssz(preset), ssz),
        "IndexedAttestation" => assert_eq!(IndexedAttestation::from_ssz(fork, preset, ssz)?.to_ssz(), ssz),
        "AttesterSlashing" => {
            let slashing = AttesterSlashing::from_ssz(fork, preset, ssz)?;
            assert_eq!(slashing.to_ssz(), ssz);
            let json = serde_json::to_value(&slashing).expect("json");
            assert_eq!(json_to_ssz(fork, preset, "AttesterSlashing", &json)?, ssz, "serde has the API's shape");
            assert_eq!(serde_json::from_value::<AttesterSlashing>(json).expect("json"), slashing);
        }
        "ProposerSlashing" => {
            let slashing = ProposerSlashing::from_ssz(ssz)?;
            assert_eq!(slashing.to_ssz(), ssz);
            let json = serde_json::to_value(slashing).expect("json");
            assert_eq!(json_to_ssz(fork, preset, "ProposerSlashing", &json)?, ssz, "serde has the API's shape");
        }
        "SignedBeaconBlockHeader" => assert_eq!(SignedBeaconBlockHeader::from_ssz(ssz)?.to_ssz(), ssz),
        "SignedBeaconBlock" => {
            let block = SignedBlock::from_ssz(fork, preset, ssz)?;
            let prefix = consensus::block_prefix(ssz).expect("a block has its prefix");
            assert_eq!(prefix.slot, block.signed_header.message.slot);
            assert_eq!(prefix.proposer_index, block.signed_header.message.proposer_index);
            assert_eq!(prefix.parent_root, block.signed_header.message.parent_root);
            assert_eq!(prefix.state_root, block.signed_header.message.state_root);
            assert_eq!(prefix.signature, block.signed_header.signature);
        }
        "BeaconState" => {
            let state = consensus::state::StateView::parse(fork, preset, ssz)?;
            assert_eq!(state.root(), root);
        }
        "AttestationData" => assert_eq!(AttestationData::from_ssz_bytes(ssz).expect("ssz").root(), root),
        "BeaconBlockHeader" => assert_eq!(BeaconBlockHeader::from_ssz_bytes(ssz).expect("ssz").root(), root),
        "Checkpoint" => assert_eq!(Checkpoint::from_ssz_bytes(ssz).expect("ssz").tree_hash_root(), root),
        "Validator" => assert_eq!(Validator::from_ssz_bytes(ssz).expect("ssz").tree_hash_root(), root),
        _ => {}
    }
    Ok(())
}
