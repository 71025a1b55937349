//! States: the genesis of mainnet and Sepolia with their committees, an official vector, and a
//! state with 2.5 million validators.

use consensus::ssz_schema::Catalogue;
use consensus::state::{StateView, fork_of_state};
use consensus::{
    CommitteeIndex, DomainType, Epoch, ForkName, MIN_SEED_LOOKAHEAD, Network, Preset, Root, Shuffling, SignedBlock, Slot, Spec,
    compute_seed,
};
use std::sync::Arc;
use test_support::spec_tests::{REFTESTS, cases};

#[test]
fn genesis_states_give_the_committees_of_epoch_0() {
    // Mainnet's state is too large for the committed set.
    let names: &[&str] = if test_support::has_full_set() { &["mainnet", "sepolia"] } else { &["sepolia"] };
    for name in names.iter().copied() {
        let network = Network::builtin(name).expect("known");
        let bytes = test_support::bytes(&format!("vectors/genesis/{name}_genesis.ssz"));
        let fork = fork_of_state(&network.spec, &bytes).expect("its own network");
        assert_eq!(fork, ForkName::Phase0);
        let state = StateView::parse(fork, network.preset(), &bytes).expect("state");
        assert_eq!(state.genesis_time(), network.genesis_time);
        assert_eq!(state.genesis_validators_root(), network.genesis_validators_root);
        let catalogue = Catalogue::of(fork, network.preset());
        let view = catalogue.get("BeaconState").expect("exists").validate(&bytes).expect("state");
        let validators_root = view.field("validators").expect("field").hash_tree_root();
        assert_eq!(validators_root, network.genesis_validators_root, "the registry hashes to the name of the network");

        let wanted = test_support::json(&format!("vectors/genesis/{name}_committees_epoch0.json"));
        let wanted = &wanted["epochs"]["0"];
        let preset = network.preset();
        let mix = state.randao_mix(Epoch::new(preset.epochs_per_historical_vector - MIN_SEED_LOOKAHEAD - 1));
        let seed = compute_seed(DomainType::BeaconAttester, Epoch::new(0), mix);
        assert_eq!(Some(seed.to_string().as_str()), wanted["seed"].as_str());
        let active = (0u32..).zip(state.validators()).filter(|(_, v)| v.is_active(Epoch::new(0))).map(|(i, _)| i).collect();
        let shuffling = Shuffling::new(Epoch::new(0), Root::ZERO, seed, Arc::new(active), preset);
        let committees = wanted["committees"].as_object().expect("committees");
        for (place, members) in committees {
            let (slot, committee) = place.split_once('/').expect("slot/index");
            let slot = Slot::new(slot.parse().expect("slot"));
            let found = shuffling.committee(slot, CommitteeIndex::new(committee.parse().expect("index"))).expect("exists");
            let members: Vec<u64> = members.as_array().expect("list").iter().map(|i| i.as_u64().expect("index")).collect();
            assert!(found.iter().map(|i| u64::from(*i)).eq(members), "{name} {place}");
        }
        println!("{name} genesis: {} validators, {} committees", state.n_validators(), committees.len());
        assert!(!committees.is_empty());
    }
}

#[test]
fn official_state_and_block_fit_together() {
    let folder = "vectors/official_spec_tests_sample/electra_mainnet_sanity_empty_block_transition";
    let read = |name: &str| test_support::unsnap(&test_support::bytes(&format!("{folder}/{name}"))).expect("snappy");
    let (pre, block) = (read("pre.ssz_snappy"), read("blocks_0.ssz_snappy"));
    let state = StateView::parse(ForkName::Electra, &Preset::MAINNET, &pre).expect("state");
    let block = SignedBlock::from_ssz(ForkName::Electra, &Preset::MAINNET, &block).expect("block");
    assert!(state.latest_block_header().state_root.is_zero(), "the whole state must be hashed here");
    assert_eq!(state.latest_block_root(), block.signed_header.message.parent_root);
    assert_eq!(state.block_root_at(state.slot()), None, "a state does not know its own slot's block yet");
    assert_eq!(state.validators().len(), state.n_validators());
}

/// The states of the specification's gossip cases. The blocks next to a state build on each other
/// and on the state.
#[test]
fn gossip_states_know_the_blocks_beside_them() {
    let cases = cases(REFTESTS, |path| path.get(2) == Some(&"networking") && path.get(3) == Some(&"gossip_beacon_block"));
    let mut linked = 0;
    for case in cases.iter().filter(|case| case.files.contains_key("state.ssz_snappy")) {
        let (preset, fork) = (case.preset(), case.fork());
        let bytes = case.ssz("state");
        let state = StateView::parse(fork, &preset, &bytes).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        let latest = state.latest_block_root();
        for (file, packed) in case.files.iter().filter(|(file, _)| file.starts_with("block_")) {
            let packed = test_support::unsnap(packed).expect("snappy");
            let block = SignedBlock::from_ssz(fork, &preset, &packed).unwrap_or_else(|e| panic!("{file}: {e}"));
            let header = block.signed_header.message;
            let known = [Some(latest), state.block_root_at(header.slot.saturating_sub(1))];
            linked += usize::from(known.contains(&Some(header.parent_root)) || known.contains(&Some(block.root)));
        }
    }
    println!("blocks linked to their states: {linked} in {} cases", cases.len());
    assert!(linked > 50, "{linked}");
}

#[test]
fn a_state_of_another_network_is_refused_with_both_versions() {
    let spec = Spec::builtin("sepolia").expect("known");
    let mut bytes = vec![0u8; 64];
    bytes[52..56].copy_from_slice(&[0, 0, 0, 0]);
    let error = fork_of_state(&spec, &bytes).expect_err("mainnet's version");
    assert!(error.to_string().contains("0x00000000") && error.to_string().contains("0x90000069"), "{error}");
    bytes[52..56].copy_from_slice(&[0x90, 0, 0, 0x74]);
    assert_eq!(fork_of_state(&spec, &bytes), Ok(ForkName::Electra));
    assert!(fork_of_state(&spec, &bytes[..63]).is_err());
}

/// A mainnet state of the largest planned size is checked and hashed in seconds. The check
/// allocates no memory of its own.
#[test]
fn two_and_a_half_million_validators() {
    const N: usize = 2_500_000;
    let preset = Preset::MAINNET;
    let bytes = big_state(&preset, N);
    let started = std::time::Instant::now();
    let state = StateView::parse(ForkName::Phase0, &preset, &bytes).expect("well-formed");
    let parsed = started.elapsed();
    assert_eq!(state.n_validators(), N);
    assert_eq!(state.validators().filter(|validator| validator.slashed).count(), N / 2);
    let root = state.root();
    println!(
        "{N} validators, {} MB: checked in {parsed:?}, hashed in {:?}, root {root}",
        bytes.len() >> 20,
        started.elapsed() - parsed
    );
    assert!(parsed.as_secs() < 5);
}

/// Builds a phase0 state with `n` validators, of which every second one is slashed. Only the fixed
/// part, the validators and the balances are filled.
fn big_state(preset: &Preset, n: usize) -> Vec<u8> {
    let catalogue = Catalogue::of(ForkName::Phase0, preset);
    let ty = catalogue.get("BeaconState").expect("exists");
    let consensus::ssz_schema::SchemaKind::Container(container) = ty.kind() else { panic!("a container") };
    let head: usize = container.fields().iter().map(|field| field.ty().fixed_len().unwrap_or(4)).sum();
    let mut out = vec![0u8; head];
    let mut place = 0;
    for field in container.fields() {
        match field.ty().fixed_len() {
            Some(len) => place += len,
            None => {
                let offset = out.len() as u32;
                out[place..place + 4].copy_from_slice(&offset.to_le_bytes());
                place += 4;
                match field.name() {
                    "validators" => (0..n).for_each(|i| {
                        // As on mainnet, keys, credentials and balances differ, while effective
                        // balances and epochs repeat.
                        let mut validator = [0xff_u8; 121];
                        let name = consensus::sha256(&i.to_le_bytes());
                        validator[..32].copy_from_slice(&name);
                        validator[32..48].copy_from_slice(&name[..16]);
                        validator[48..80].copy_from_slice(&name);
                        validator[80..88].copy_from_slice(&32_000_000_000u64.to_le_bytes());
                        validator[88] = (i % 2) as u8;
                        validator[97..105].copy_from_slice(&(i as u64 / 8).to_le_bytes());
                        out.extend_from_slice(&validator);
                    }),
                    "balances" => (0..n as u64).for_each(|i| out.extend_from_slice(&(32_000_000_000 + i * 7).to_le_bytes())),
                    _ => {}
                }
            }
        }
    }
    out
}
