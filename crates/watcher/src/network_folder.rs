//! The folder of a network, as eth-clients and ethpandaops publish one for each network: its
//! configuration, its genesis state and its boot nodes. All but the configuration may be missing.
//!
//! | file | what |
//! |---|---|
//! | `config.yaml` | the configuration (consensus-specs, configs/) |
//! | `genesis.ssz` | the state of the genesis |
//! | `bootstrap_nodes.yaml`, `boot_enr.yaml`, or `.txt` | boot nodes, as ENRs (EIP-778) |

use crate::error::WatcherError;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The names under which a list of boot nodes is published.
const BOOT_NODES: [&str; 4] = ["bootstrap_nodes.yaml", "bootstrap_nodes.txt", "boot_enr.yaml", "boot_enr.txt"];
/// Largest size of a list of boot nodes. Mainnet's has 6 KB.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// Largest length of an ENR as text. The record has at most 300 bytes, in base64.
const MAX_ENR: usize = 4 + 400;

/// The error for a value of --network that names no network.
pub fn unknown_network(network: &str) -> WatcherError {
    WatcherError::Usage(format!(
        "--network {network:?} is neither a built-in network ({}) nor a folder with config.yaml",
        consensus::Network::builtin_names().collect::<Vec<_>>().join(", ")
    ))
}

pub fn config_file(folder: &Path) -> PathBuf {
    folder.join("config.yaml")
}

pub fn genesis_state(folder: &Path) -> PathBuf {
    folder.join("genesis.ssz")
}

/// Reads the boot nodes of a folder, as ENR texts. Each line of such a file has one, as an item of
/// a YAML list or alone, with or without quotes. Lines without one are comments.
pub fn boot_nodes(folder: &Path) -> Result<Vec<String>, WatcherError> {
    let mut nodes = Vec::new();
    for path in BOOT_NODES.map(|name| folder.join(name)).into_iter().filter(|path| path.is_file()) {
        let input = |reason: String| WatcherError::Input { path: path.clone(), reason };
        let mut text = String::new();
        let file = File::open(&path).map_err(|error| input(error.to_string()))?;
        file.take(MAX_LIST_BYTES).read_to_string(&mut text).map_err(|error| input(error.to_string()))?;
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let Some(at) = line.find("enr:") else { continue };
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':');
            let enr: String = line[at..].chars().take_while(|c| is_part(*c)).take(MAX_ENR).collect();
            if !nodes.contains(&enr) {
                nodes.push(enr);
            }
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_nodes_are_read_from_every_form_that_is_published() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(boot_nodes(dir.path()).unwrap(), Vec::<String>::new());
        std::fs::write(dir.path().join("bootstrap_nodes.yaml"), "# EF\n- enr:-Iu4QA_b\n- \"enr:-Ku4Q\" # x\n\n# - enr:-old\n")
            .unwrap();
        std::fs::write(dir.path().join("boot_enr.txt"), "enr:-LK4\r\nenr:-Ku4Q\n").unwrap();
        assert_eq!(boot_nodes(dir.path()).unwrap(), ["enr:-Iu4QA_b", "enr:-Ku4Q", "enr:-LK4"]);
        std::fs::write(dir.path().join("boot_enr.txt"), [0xff, 0xfe]).unwrap();
        let refused = boot_nodes(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("boot_enr.txt"), "{refused}");
    }
}
