//! `slashwatch crawl`: who is out there on a network.

use crate::config::{Config, NetworkSection};
use crate::error::WatcherError;
use crate::{bootstrap, listen, network_folder, run};
use consensus::{Network, Root};
use sources::gossip::{self, CrawlConfig, CrawlProgress, CrawlReport};
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Crawls a built-in network, or that of a folder. `stop` ends it early, with what was found until
/// then.
pub fn crawl(
    network: &str,
    duration: Duration,
    stop: impl Future<Output = ()>,
    on_progress: impl FnMut(CrawlProgress),
) -> Result<CrawlReport, WatcherError> {
    // No state is needed, so this configuration is not checked for one.
    let config = Config { network: NetworkSection::named(network), ..Config::default() };
    let network = Arc::new(network_of(&config)?);
    let boot_nodes = listen::boot_nodes(&config)?;
    if boot_nodes.is_empty() {
        return Err(WatcherError::Usage(
            "nobody is known to ask: the folder of the network needs bootstrap_nodes.yaml or boot_enr.yaml".into(),
        ));
    }
    let mut crawl = CrawlConfig::new(boot_nodes);
    crawl.limits.duration = duration;
    Ok(run::runtime()?.block_on(gossip::crawl(crawl, network, stop, on_progress))?)
}

/// The network with its genesis, from the built-in list or from the folder's genesis state.
fn network_of(config: &Config) -> Result<Network, WatcherError> {
    let usage = |text: &str| WatcherError::Usage(text.to_owned());
    if let Some(folder) = &config.network.folder {
        if !network_folder::config_file(folder).is_file() {
            return Err(network_folder::unknown_network(&folder.to_string_lossy()));
        }
        let spec = bootstrap::read_spec(&network_folder::config_file(folder))?;
        let (genesis_time, genesis_validators_root) = genesis(&network_folder::genesis_state(folder))?;
        return Ok(Network { spec, genesis_time, genesis_validators_root });
    }
    let name = config.network.name.as_deref().ok_or_else(|| usage("name the network: --network NAME or FOLDER"))?;
    Network::builtin(name).ok_or_else(|| usage("the network is not built in; give its folder"))
}

/// Genesis time and genesis validators root, with which every state begins.
fn genesis(path: &Path) -> Result<(u64, Root), WatcherError> {
    let input = |reason: String| WatcherError::Input { path: path.into(), reason };
    let (mut time, mut root) = ([0u8; 8], [0u8; 32]);
    let mut file = std::fs::File::open(path).map_err(|error| input(format!("{error}; the fork digest follows from it")))?;
    file.read_exact(&mut time).and_then(|()| file.read_exact(&mut root)).map_err(|error| input(error.to_string()))?;
    Ok((u64::from_le_bytes(time), Root::from(root)))
}
