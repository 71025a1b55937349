//! Real blocks of mainnet (Bellatrix to Deneb, with roots that others proved) and of Medalla, and
//! the objects of the specification's gossip cases, whose file names contain their roots.

use consensus::ssz_schema::{Catalogue, ssz_to_json};
use consensus::{ForkName, Network, Preset, Root, SignedAggregate, SignedBlock, SingleAttestation, Slot};
use std::collections::BTreeMap;
use test_support::spec_tests::{REFTESTS, cases};

#[test]
fn mainnet_blocks_have_the_roots_that_others_proved() {
    let files = test_support::files("vectors/mainnet_blocks");
    let spec = Network::builtin("mainnet").expect("known").spec;
    let fork_of = |slot_bytes: &[u8]| {
        let slot = Slot::new(u64::from_le_bytes(slot_bytes.try_into().expect("8 bytes")));
        spec.fork_name_at(slot.epoch(&spec.preset))
    };
    let (mut proven, mut signed) = (0, 0);
    let mut forks = std::collections::BTreeSet::new();
    for (name, bytes) in &files {
        if name.ends_with(".signed_block.ssz") {
            let fork = fork_of(&bytes[100..108]);
            forks.insert(fork);
            SignedBlock::from_ssz(fork, &Preset::MAINNET, bytes).expect("a real signed block");
            let started = std::time::Instant::now();
            (0..20).for_each(|_| drop(SignedBlock::from_ssz(fork, &Preset::MAINNET, bytes)));
            println!("{name}: {} kB decoded and hashed in {:?}", bytes.len() >> 10, started.elapsed() / 20);
            let json = ssz_to_json(fork, &Preset::MAINNET, "SignedBeaconBlock", bytes).expect("json");
            assert_eq!(SignedBlock::ssz_from_json(fork, &Preset::MAINNET, &json).expect("back"), *bytes);
            let block = SignedBlock::from_ssz(fork, &Preset::MAINNET, bytes).expect("a real signed block");
            let paid = json["message"]["body"]["execution_payload"]["fee_recipient"].as_str().expect("from Bellatrix on");
            assert_eq!(block.fee_recipient, Some(paid.parse().expect("an address")), "{name}");
            signed += 1;
        } else if name.ends_with(".block.ssz") {
            let fork = fork_of(&bytes[..8]);
            forks.insert(fork);
            let catalogue = Catalogue::of(fork, &Preset::MAINNET);
            let view = catalogue.get("BeaconBlock").expect("exists").validate(bytes).expect("a real block");
            let proof = name.replace("el_", "proof_el_").replace(".block.ssz", ".yaml");
            let proof = test_support::text(&format!("vectors/mainnet_blocks/{proof}"));
            let at = proof.find("beacon_block_root:").expect("key");
            let wanted = &proof[at..][proof[at..].find("0x").expect("hex")..][..66];
            assert_eq!(view.hash_tree_root().to_string(), wanted, "{name}");
            proven += 1;
        }
    }
    println!("mainnet blocks: {proven} with proven roots, {signed} signed, forks {forks:?}");
    assert!(proven >= if test_support::has_full_set() { 6 } else { 2 } && signed >= 1 && forks.len() >= 3);
}

#[test]
fn blocks_served_as_json_link_to_each_other() {
    if test_support::full_set("vectors/mainnet_blocks/slot_7109431.capella.signed_block.json").is_none() {
        return;
    }
    let read = |slot: u64| {
        let json = test_support::json(&format!("vectors/mainnet_blocks/slot_{slot}.capella.signed_block.json"));
        let ssz = SignedBlock::ssz_from_json(ForkName::Capella, &Preset::MAINNET, &json).expect("block");
        SignedBlock::from_ssz(ForkName::Capella, &Preset::MAINNET, &ssz).expect("block")
    };
    let (first, second) = (read(7_109_430), read(7_109_431));
    assert_eq!(second.signed_header.message.parent_root, first.root);
    assert_eq!(read(7_109_344).signed_header.message.slot, Slot::new(7_109_344));
    assert!(first.attestations.len() > 10);
}

#[test]
fn medalla_block_is_read_with_its_own_configuration() {
    let bytes = test_support::bytes("vectors/networks/medalla/recent-finalized-block.ssz");
    let network = Network::builtin("medalla").expect("known");
    let block = SignedBlock::from_ssz(ForkName::Phase0, network.preset(), &bytes).expect("a real block");
    println!(
        "Medalla block {} at slot {}: {} attestations",
        block.root,
        block.signed_header.message.slot,
        block.attestations.len()
    );
    assert!(!block.attestations.is_empty());
    assert!(block.attestations.iter().all(|vote| vote.data.slot < block.signed_header.message.slot));
}

/// The root in a file name like `block_0x<root>.ssz_snappy` is the root of the object in the file.
#[test]
fn gossip_objects_have_the_roots_in_their_names() {
    let cases = cases(REFTESTS, |path| path.get(2) == Some(&"networking"));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in &cases {
        let (preset, fork) = (case.preset(), case.fork());
        let catalogue = Catalogue::of(fork, &preset);
        for (file, packed) in &case.files {
            let Some((kind, root)) = file.strip_suffix(".ssz_snappy").and_then(|name| name.split_once("_0x")) else { continue };
            let bytes = test_support::unsnap(packed).expect("snappy");
            let container = match kind {
                "block" => "SignedBeaconBlock",
                "aggregate" => "SignedAggregateAndProof",
                "attestation" => "Attestation",
                "single_attestation" => "SingleAttestation",
                "attester_slashing" => "AttesterSlashing",
                "proposer_slashing" => "ProposerSlashing",
                "execution_payload_envelope" => "SignedExecutionPayloadEnvelope",
                "payload_attestation_message" => "PayloadAttestationMessage",
                other => panic!("{}: unknown kind {other}", case.name()),
            };
            let view =
                catalogue.get(container).and_then(|ty| ty.validate(&bytes)).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            let wanted: Root = root.parse().expect("root");
            assert_eq!(view.hash_tree_root(), wanted, "{} {file}", case.name());
            match kind {
                "block" => {
                    let block = SignedBlock::from_ssz(fork, &preset, &bytes).expect("valid above");
                    assert_eq!(block.root, view.path("message").expect("field").hash_tree_root());
                }
                "aggregate" => {
                    let aggregate = SignedAggregate::from_ssz(fork, &preset, &bytes).expect("valid above");
                    assert_eq!(aggregate.message_root, view.path("message").expect("field").hash_tree_root());
                }
                "single_attestation" => assert_eq!(SingleAttestation::from_ssz(&bytes).expect("valid above").to_ssz(), bytes),
                _ => {}
            }
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    println!("gossip objects: {counts:?}");
    assert!(counts.len() >= 8 && counts["block"] > 300 && counts["aggregate"] > 100, "{counts:?}");
}
