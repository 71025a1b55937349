//! Real states: mainnet and Sepolia at genesis, and an official Electra state.
#![allow(clippy::unwrap_used)]

use chain::{Chain, Contexts, PubkeyCache};
use consensus::{AttestationData, Checkpoint, CommitteeIndex, Epoch, Root, Slot, Spec, ValidatorIndex};

/// Too large for the committed set.
const MAINNET_GENESIS: &str = "vectors/genesis/mainnet_genesis.ssz";

fn spec(network: &str) -> Spec {
    Spec::from_yaml(&test_support::text(&format!("vectors/networks/{network}/config.yaml"))).unwrap()
}

fn vote(slot: u64, epoch: u64, target: Root) -> AttestationData {
    AttestationData {
        slot: Slot::new(slot),
        target: Checkpoint { epoch: Epoch::new(epoch), root: target },
        ..AttestationData::default()
    }
}

fn check_genesis(network: &str, keys: &mut PubkeyCache) {
    let state = test_support::bytes(&format!("vectors/genesis/{network}_genesis.ssz"));
    let expected = test_support::json(&format!("vectors/genesis/{network}_committees_epoch0.json"));
    let mut chain = Chain::from_state(spec(network), &state, keys, &mut |_| ()).unwrap();
    assert_eq!(chain.registry().len() as u64, expected["validators"].as_u64().unwrap());
    assert_eq!(chain.registry().n_invalid_keys(), 0);
    assert_eq!(format!("{:?}", chain.network().genesis_validators_root), expected["genesis_validators_root"].as_str().unwrap());
    let genesis = chain.head().root;
    for (epoch, expected) in expected["epochs"].as_object().unwrap() {
        let epoch: u64 = epoch.parse().unwrap();
        let slots_per_epoch = chain.network().preset().slots_per_epoch;
        let Contexts::Certain(shufflings) = chain.contexts(&vote(epoch * slots_per_epoch, epoch, genesis)) else {
            panic!("genesis is known")
        };
        let shuffling = &shufflings[0];
        assert_eq!(format!("{:?}", shuffling.seed()), expected["seed"].as_str().unwrap());
        assert_eq!(shuffling.committees_per_slot(), expected["committees_per_slot"].as_u64().unwrap());
        for (place, members) in expected["committees"].as_object().unwrap() {
            let (slot, committee) = place.split_once('/').unwrap();
            let ours = shuffling.committee(slot.parse().unwrap(), CommitteeIndex::new(committee.parse().unwrap())).unwrap();
            let theirs: Vec<u32> = members.as_array().unwrap().iter().map(|index| index.as_u64().unwrap() as u32).collect();
            assert_eq!(ours, theirs, "{network} {place}");
        }
    }
}

#[test]
fn mainnets_first_committees_and_its_cached_keys() {
    if test_support::full_set(MAINNET_GENESIS).is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pubkeys");
    let mut keys = PubkeyCache::open(&path).unwrap();
    let first = std::time::Instant::now();
    check_genesis("mainnet", &mut keys);
    let first = first.elapsed();
    assert_eq!(keys.n_checked(), 21_063);
    drop(keys);
    let mut keys = PubkeyCache::open(&path).unwrap();
    let again = std::time::Instant::now();
    check_genesis("mainnet", &mut keys);
    eprintln!("21063 keys: checked in {first:?}, from the cache in {:?}", again.elapsed());
    assert_eq!((keys.n_checked(), keys.n_loaded()), (0, 21_063));
}

#[test]
fn sepolias_first_committees() {
    check_genesis("sepolia", &mut PubkeyCache::in_memory());
}

#[test]
fn a_cache_of_another_network_is_not_believed() {
    if test_support::full_set(MAINNET_GENESIS).is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pubkeys");
    let mut keys = PubkeyCache::open(&path).unwrap();
    check_genesis("sepolia", &mut keys);
    check_genesis("mainnet", &mut keys);
    assert_eq!(keys.n_checked(), 1_570 + 21_063);
    assert_eq!(keys.len(), 21_063);
}

/// Two years after genesis, the genesis validators that are still active in the registry of 2025
/// have the keys that they started with.
#[test]
fn sepolias_registry_of_2025_extends_that_of_genesis() {
    let state = test_support::bytes("vectors/genesis/sepolia_genesis.ssz");
    let later = test_support::json("vectors/sepolia_live_2025-05-23/validators_7687968.json");
    let chain = Chain::from_state(spec("sepolia"), &state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap();
    for validator in later["data"].as_array().unwrap() {
        let index: ValidatorIndex = validator["index"].as_str().unwrap().parse().unwrap();
        if let Some(bytes) = chain.registry().pubkey_bytes(index) {
            assert_eq!(format!("{bytes:?}"), validator["validator"]["pubkey"].as_str().unwrap());
        }
    }
    let wanted = [chain.registry().pubkey_bytes(ValidatorIndex::new(1_000)).unwrap()];
    assert_eq!(chain.registry().indices_of(&wanted)[&wanted[0]], ValidatorIndex::new(1_000));
}

#[test]
fn an_official_electra_state_is_read() {
    let path = "vectors/official_spec_tests_sample/electra_mainnet_sanity_empty_block_transition/pre.ssz_snappy";
    let state = test_support::unsnap(&test_support::bytes(path)).unwrap();
    let mut spec = spec("mainnet");
    // The sample's forks all happen at genesis.
    spec.forks.retain(|fork| fork.name <= consensus::ForkName::Electra);
    for fork in &mut spec.forks {
        fork.epoch = Epoch::new(0);
        // The generator's own version numbers.
        fork.version = [fork.name as u8, 0, 0, 1];
    }
    let version: [u8; 4] = state[52..56].try_into().unwrap();
    if let Some(last) = spec.forks.last_mut() {
        last.version = version;
    }
    let mut chain = Chain::from_state(spec, &state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap();
    let head = chain.head();
    let epoch = head.slot.epoch(chain.network().preset());
    let slot = epoch.saturating_add(1).start_slot(chain.network().preset());
    let contexts = chain.contexts(&vote(slot.as_u64(), epoch.as_u64() + 1, head.root));
    let Contexts::Certain(shufflings) = contexts else { panic!("{contexts:?}") };
    assert!(!shufflings[0].active().is_empty());
}

#[test]
fn anothers_state_is_refused_and_says_what_to_do() {
    let Some(main) = test_support::full_set(MAINNET_GENESIS) else { return };
    let sepolia = test_support::bytes("vectors/genesis/sepolia_genesis.ssz");
    let mut keys = PubkeyCache::in_memory();
    let mut chain = Chain::from_state(spec("sepolia"), &sepolia, &mut keys, &mut |_| ()).unwrap();
    let mut foreign = std::fs::read(main).unwrap();
    assert!(chain.add_state(&foreign, &mut keys).is_err());
    // With the right fork version it is still another network.
    foreign[48..64].copy_from_slice(&sepolia[48..64]);
    let error = chain.add_state(&foreign, &mut keys).unwrap_err();
    assert!(error.to_string().contains("another network"), "{error}");
    assert_eq!(chain.registry().len(), 1_570);
}
