//! The public networks by name: their configuration and genesis. Any other network is described by
//! a `config.yaml` and a state.

use crate::{Network, Root, Spec};

struct Builtin {
    name: &'static str,
    config: &'static str,
    /// Boot nodes: one ENR per line, comments with `#`.
    boot_nodes: &'static str,
    /// In seconds since the Unix epoch.
    genesis_time: u64,
    genesis_validators_root: &'static str,
}

const BUILTIN: [Builtin; 8] = [
    Builtin {
        name: "mainnet",
        config: include_str!("../networks/mainnet.yaml"),
        boot_nodes: include_str!("../networks/mainnet.enr"),
        genesis_time: 1_606_824_023,
        genesis_validators_root: "4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95",
    },
    Builtin {
        name: "sepolia",
        config: include_str!("../networks/sepolia.yaml"),
        boot_nodes: include_str!("../networks/sepolia.enr"),
        genesis_time: 1_655_733_600,
        genesis_validators_root: "d8ea171f3c94aea21ebc42a1ed61052acf3f9209c00e4efbaaddac09ed9b8078",
    },
    Builtin {
        name: "hoodi",
        config: include_str!("../networks/hoodi.yaml"),
        boot_nodes: include_str!("../networks/hoodi.enr"),
        genesis_time: 1_742_213_400,
        genesis_validators_root: "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f",
    },
    Builtin {
        name: "holesky",
        config: include_str!("../networks/holesky.yaml"),
        boot_nodes: include_str!("../networks/holesky.enr"),
        genesis_time: 1_695_902_400,
        genesis_validators_root: "9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1",
    },
    Builtin {
        name: "medalla",
        config: include_str!("../networks/medalla.yaml"),
        boot_nodes: "",
        genesis_time: 1_596_546_008,
        genesis_validators_root: "04700007fabc8282644aed6d1c7c9e21d38a03a0c4ba193f3afe428824b3a673",
    },
    Builtin {
        name: "gnosis",
        config: include_str!("../networks/gnosis.yaml"),
        boot_nodes: include_str!("../networks/gnosis.enr"),
        genesis_time: 1_638_993_340,
        genesis_validators_root: "f5dcb5564e829aab27264b9becd5dfaa017085611224cb3036f573368dbb9d47",
    },
    Builtin {
        name: "chiado",
        config: include_str!("../networks/chiado.yaml"),
        boot_nodes: include_str!("../networks/chiado.enr"),
        genesis_time: 1_665_396_300,
        genesis_validators_root: "9d642dac73058fbf39c0ae41ab1e34e4d889043cb199851ded7095bc99eb4c1e",
    },
    Builtin {
        name: "plataberget",
        config: include_str!("../networks/plataberget.yaml"),
        boot_nodes: include_str!("../networks/plataberget.enr"),
        genesis_time: 1_786_622_400,
        genesis_validators_root: "bb4a1a9e3f7f4e10edcd734e4acc3b5ffd4f830efe0af2748fa458cfee5d2658",
    },
];

impl Spec {
    /// Returns the configuration of a public network. [`Network::builtin_names`] lists the names.
    pub fn builtin(name: &str) -> Option<Self> {
        find(name).map(|builtin| builtin.spec())
    }
}

impl Network {
    /// Returns a public network by its name, with its genesis.
    pub fn builtin(name: &str) -> Option<Self> {
        find(name).map(|builtin| {
            let root: Root = builtin.genesis_validators_root.parse().expect("our own table holds 64 hex digits");
            Self { spec: builtin.spec(), genesis_time: builtin.genesis_time, genesis_validators_root: root }
        })
    }

    /// Lists the boot nodes of a public network, as ENRs (EIP-778). Medalla has none any more.
    /// Empty for a name that is not built in.
    pub fn builtin_boot_nodes(name: &str) -> impl Iterator<Item = &'static str> {
        let lines = find(name).map_or("", |builtin| builtin.boot_nodes).lines();
        lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    }

    /// Lists the names of the public networks. They need no configuration file.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|builtin| builtin.name)
    }
}

fn find(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|builtin| builtin.name == name)
}

impl Builtin {
    fn spec(&self) -> Spec {
        Spec::from_yaml(self.config).expect("our own file, read by a test")
    }
}
