//! Configurations of real networks, and the fork digests that result from them.

use consensus::{Epoch, ForkDigest, ForkName, Network, Preset, PresetName, Spec};

fn digest(text: &str) -> ForkDigest {
    ForkDigest(hex::decode(text).expect("hex").try_into().expect("4 bytes"))
}

#[test]
fn digests_of_public_networks() {
    let all = test_support::json("vectors/p2p/fork_digests.json");
    let mut n = 0;
    for (name, wanted) in all.as_object().expect("object") {
        let network = Network::builtin(name).unwrap_or_else(|| panic!("{name} is not built in"));
        assert_eq!(Some(network.genesis_validators_root.to_string().as_str()), wanted["genesis_validators_root"].as_str());
        let rows = wanted["rows"].as_array().expect("rows");
        for (i, row) in rows.iter().enumerate() {
            let epoch = row["epoch"].as_u64().expect("epoch");
            if rows.get(i + 1).is_some_and(|next| next["epoch"].as_u64() == Some(epoch)) {
                continue; // the last of several forks at one epoch is in force
            }
            let wanted = digest(row["digest"].as_str().expect("digest"));
            assert_eq!(network.fork_digest_at(Epoch::new(epoch)), wanted, "{name} {row}");
            let begins = network.digests().into_iter().find(|row| row.0 == wanted).map(|row| row.1);
            assert_eq!(begins, Some(Epoch::new(epoch)), "{name} {row}");
            let fork = row["fork"].as_str().expect("fork").split(' ').next().expect("word");
            assert_eq!(network.fork_of_digest(wanted).map(ForkName::as_str), Some(fork), "{name} {row}");
            n += 1;
        }
    }
    println!("fork digests: {n}");
    assert!(n > 15);
}

/// Digests that the networks' own clients published. They come from other sources than the vectors.
#[test]
fn digests_after_fulu() {
    for (network, epoch, wanted) in [
        ("mainnet", 419_071, "cb0d1acc"),
        ("mainnet", u64::MAX, "8c9f62fe"),
        ("sepolia", 272_640, "7e0d3447"),
        ("sepolia", 274_176, "fd32b622"),
        ("sepolia", 275_712, "74d01459"),
        ("sepolia", 353_023, "74d01459"),
        ("sepolia", 353_024, "669e6c11"),
        ("gnosis", 0, "bc9a6864"),
        ("gnosis", 1_337_856, "7d5aab40"),
        ("medalla", 0, "e7a75d5a"),
    ] {
        let known = Network::builtin(network).expect("known");
        assert_eq!(known.fork_digest_at(Epoch::new(epoch)), digest(wanted), "{network} {epoch}");
    }
    let sepolia = Network::builtin("sepolia").expect("known");
    assert_eq!(sepolia.spec.fork_name_at(Epoch::new(353_024)), ForkName::Gloas);
    assert_eq!(sepolia.fork_of_digest(digest("00000000")), None);
}

#[test]
fn published_files_agree_with_the_built_in_ones() {
    for name in ["mainnet", "sepolia", "hoodi", "holesky", "medalla"] {
        let text = test_support::text(&format!("vectors/networks/{name}/config.yaml"));
        let file = Spec::from_yaml(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let builtin = Spec::builtin(name).expect("known");
        assert_eq!(file.preset, builtin.preset, "{name}");
        assert_eq!(file.slot_duration, builtin.slot_duration, "{name}");
        assert_eq!(file.forks[..], builtin.forks[..file.forks.len()], "{name}: the files end before Fulu");
        assert_eq!(file.blob_default, builtin.blob_default, "{name}");
        assert!(name == "medalla" || file.forks.len() >= 2);
    }
    let medalla = Spec::builtin("medalla").expect("known");
    assert_eq!(medalla.preset.epochs_per_eth1_voting_period, 32, "Medalla differs from the mainnet preset here");
    assert_ne!(medalla.preset, Preset::MAINNET);
    assert_eq!(medalla.forks.len(), 1);
}

#[test]
fn the_api_answer_of_a_real_node_is_read() {
    let spec = Spec::from_api_json(&test_support::json("vectors/sepolia_live_2025-05-23/spec.json")).expect("spec");
    let builtin = Spec::builtin("sepolia").expect("known");
    assert_eq!(spec.preset, builtin.preset);
    assert_eq!(spec.forks[..], builtin.forks[..6], "Fulu was not dated then");
    assert_eq!(spec.slot_duration, builtin.slot_duration);
}

#[test]
fn built_in_networks_survive_being_written() {
    for name in Network::builtin_names() {
        let spec = Spec::builtin(name).expect("known");
        assert_eq!(Spec::from_yaml(&spec.to_yaml()).expect("our own"), spec, "{name}:\n{}", spec.to_yaml());
        assert_eq!(spec.config_name, name);
    }
    assert_eq!(Spec::builtin("goerli"), None);
    let gnosis = Spec::builtin("gnosis").expect("known");
    assert_eq!((gnosis.preset.name, gnosis.preset.slots_per_epoch), (PresetName::Gnosis, 16));
}

/// The digests that boot nodes of the networks publish in their records hold for our built-in
/// configurations: `eth2` of Plataberget's records of August 2026 says Fulu and Gloas at 1536.
#[test]
fn digests_in_the_records_of_boot_nodes() {
    let plataberget = Network::builtin("plataberget").expect("built in");
    assert_eq!(plataberget.fork_digest_at(Epoch::new(0)), digest("5c943807"));
    assert_eq!(plataberget.fork_digest_at(Epoch::new(1_536)), digest("98c910cf"), "`nfd` of the same records");
    let chiado = Network::builtin("chiado").expect("built in");
    assert_eq!(chiado.fork_digest_at(Epoch::new(180)), digest("31367043"), "Bellatrix");
    assert_eq!(chiado.fork_digest_at(Epoch::new(516_608)), digest("9d33b675"), "Deneb");
}

#[test]
fn every_built_in_network_but_medalla_has_boot_nodes() {
    for name in Network::builtin_names().filter(|name| *name != "medalla") {
        let records: Vec<&str> = Network::builtin_boot_nodes(name).collect();
        assert!(records.len() >= 5, "{name}: {}", records.len());
        assert!(records.iter().all(|record| record.starts_with("enr:")), "{name}");
    }
    assert_eq!(Network::builtin_boot_nodes("medalla").count() + Network::builtin_boot_nodes("no such network").count(), 0);
}
