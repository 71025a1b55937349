//! Loads the chain for a configuration: from a state of a beacon node, of a file or of the last
//! run, and from the blocks since then.
//!
//! A node of one's own is believed. Endpoints for checkpoint sync are other people's: they are
//! compared with each other, and the state has to be the one that they call finalized
//! ([`crate::checkpoint`]).
//!
//! A node is asked for its finalized state and not for its head. Every branch that is still alive
//! grows from the finalized state, so votes of both halves of a split can be resolved. The blocks
//! after that state are fetched too. They are verified like any other block.

use crate::checkpoint::{self, FinalizedState};
use crate::clock;
use crate::config::Config;
use crate::datadir::{DataDir, DataDirError};
use crate::error::WatcherError;
use crate::network_folder;
use base::Backoff;
use chain::node::{BlockId, NodeConfig, NodeError, NodeSet, StateId};
use chain::{Chain, Progress, PubkeyCache};
use consensus::{Network, Root, Slot, Spec};
use futures::stream::{self, Stream, StreamExt as _};
use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use verify::{RawMessage, Time};

/// Largest number of blocks fetched at the start. In normal conditions this covers the range from
/// finality to the head. Older gaps are closed later, backwards from the blocks that arrive.
const MAX_BLOCKS: u64 = 1024;
/// The pauses between attempts to find a node that answers.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// A state of the last run that is at most this much older than finality is used instead of one
/// from an endpoint. The blocks in between are fewer bytes than a state.
const RECENT_EPOCHS: u64 = 8;
/// Largest size of a state file.
const MAX_STATE_BYTES: u64 = 2 << 30;
/// Largest `config.yaml` of a network that is read.
const MAX_SPEC_BYTES: u64 = 1 << 20;

/// What a watcher or a capture starts with.
pub struct Start {
    /// The chain, loaded from the state.
    pub chain: Chain,
    /// The public keys of all validators in the state.
    pub keys: PubkeyCache,
    /// The state that the chain was loaded from, as SSZ.
    pub state_ssz: Vec<u8>,
    /// True if no node answered. The committees then come from an older state.
    pub node_away: bool,
}

/// The endpoints that the configuration names.
#[derive(Clone)]
pub struct Endpoints {
    /// The operator's own beacon nodes.
    pub nodes: Option<Arc<NodeSet>>,
    /// Endpoints from which only states are taken.
    pub checkpoints: Option<Arc<NodeSet>>,
}

impl Endpoints {
    pub fn new(config: &Config) -> Result<Self, WatcherError> {
        let options = NodeConfig {
            request_timeout: config.nodes.timeout,
            connect_timeout: config.nodes.timeout,
            state_timeout: config.nodes.state_timeout,
            ..NodeConfig::default()
        };
        let set = |urls: &[String]| -> Result<Option<Arc<NodeSet>>, WatcherError> {
            if urls.is_empty() { Ok(None) } else { Ok(Some(Arc::new(NodeSet::new(urls, options.clone())?))) }
        };
        Ok(Self { nodes: set(&config.nodes.urls)?, checkpoints: set(&config.nodes.checkpoints)? })
    }
}

/// Loads the chain. `dir` is where public keys are cached and where the last state is kept. Without
/// it nothing is kept.
pub async fn start(config: &Config, dir: Option<&DataDir>, endpoints: &Endpoints) -> Result<Start, WatcherError> {
    let first = first_state(config, dir, endpoints).await?;
    if let Some(dir) = dir {
        dir.check_state(&first.ssz)?;
    }
    let mut keys = match dir {
        Some(dir) => PubkeyCache::open(&dir.pubkeys_path())?,
        None => PubkeyCache::in_memory(),
    };
    let chain = load(first.spec, &first.ssz, &mut keys, &mut |_| ())?;
    if let Some(dir) = dir {
        dir.bind(chain.network())?;
        if !first.is_of_last_run {
            dir.write_state(&first.ssz)?;
        }
    }
    Ok(Start { chain, keys, state_ssz: first.ssz, node_away: first.node_away })
}

/// A state to start from.
struct FirstState {
    spec: Spec,
    ssz: Vec<u8>,
    is_of_last_run: bool,
    node_away: bool,
}

async fn first_state(config: &Config, dir: Option<&DataDir>, endpoints: &Endpoints) -> Result<FirstState, WatcherError> {
    let fetched = match endpoints {
        _ if config.network.state.is_some() => None,
        Endpoints { checkpoints: Some(checkpoints), .. } => Some(from_checkpoints(config, dir, checkpoints).await),
        Endpoints { nodes: Some(nodes), .. } => Some(from_node(config, dir, nodes).await),
        Endpoints { nodes: None, checkpoints: None } => None,
    };
    match fetched {
        Some(Ok(state)) => Ok(state),
        Some(Err(error @ WatcherError::Node(_))) => {
            let Some(state) = last_state(config, dir)? else { return Err(error) };
            tracing::warn!(%error, "no beacon node answers; the watcher starts from the state of the last run");
            Ok(FirstState { node_away: true, ..state })
        }
        Some(Err(error)) => Err(error),
        None => from_files(config, dir),
    }
}

/// Takes the later one of the configured state and that of the last run. Without both, takes the
/// genesis state in the network's folder.
fn from_files(config: &Config, dir: Option<&DataDir>) -> Result<FirstState, WatcherError> {
    let last = last_state(config, dir)?;
    let genesis = config.network.folder.as_deref().map(network_folder::genesis_state).filter(|path| path.is_file());
    let Some(path) = config.network.state.clone().or(genesis) else {
        return last.ok_or_else(|| {
            WatcherError::Usage(
                "there is no state to start from: give a beacon node (`nodes.urls`), an endpoint for checkpoint sync \
                 (--checkpoint URL) or a state file (--checkpoint FILE)"
                    .into(),
            )
        });
    };
    let ssz = read_state(&path)?;
    let is_older = |last: &FirstState| {
        state_head(&ssz).zip(state_head(&last.ssz)).is_some_and(|(given, last)| given.0 == last.0 && given.1 < last.1)
    };
    if let Some(last) = last.filter(is_older) {
        tracing::info!(given = %path.display(), "the state of the last run is later than the given one and is used");
        return Ok(last);
    }
    let spec = spec_without_node(config, dir)?;
    Ok(FirstState { spec, ssz, is_of_last_run: false, node_away: false })
}

/// Reads the genesis validators root and the slot at the beginning of a state. They have the same
/// place in every fork.
pub(crate) fn state_head(ssz: &[u8]) -> Option<(Root, Slot)> {
    let (root, slot) = (ssz.get(8..40)?, ssz.get(40..48)?);
    Some((Root::from_slice(root), Slot::new(u64::from_le_bytes(slot.try_into().ok()?))))
}

/// Fetches the state that the endpoints call finalized. The state of the last run is used instead
/// if it is hardly older, because such an endpoint serves many people, and a state of mainnet has
/// 300 MB.
async fn from_checkpoints(config: &Config, dir: Option<&DataDir>, checkpoints: &NodeSet) -> Result<FirstState, WatcherError> {
    check_networks(config, dir, checkpoints, "--checkpoint or `nodes.checkpoints`").await?;
    let spec = match spec_of_config(config)? {
        Some(spec) => spec,
        None => checkpoints.config_spec().await?,
    };
    if let Some(last) = recent_state(config, dir, checkpoints, &spec).await? {
        return Ok(last);
    }
    tracing::info!("fetching the finalized state");
    let FinalizedState { ssz, block } = checkpoint::finalized_state(checkpoints, &spec).await?;
    tracing::info!(slot = %block.slot, root = %block.root, "the finalized block commits to the fetched state");
    Ok(FirstState { spec, ssz, is_of_last_run: false, node_away: false })
}

/// Reads the state of the last run if it is hardly older than finality and no endpoint has another
/// block in its place.
async fn recent_state(
    config: &Config,
    dir: Option<&DataDir>,
    checkpoints: &NodeSet,
    spec: &Spec,
) -> Result<Option<FirstState>, WatcherError> {
    let Some(last) = last_state(config, dir)? else { return Ok(None) };
    let block = match chain::block_of_state(spec, &last.ssz) {
        Ok(block) => block,
        Err(error) => {
            tracing::warn!(%error, "the state of the last run cannot be used; another one is fetched");
            return Ok(None);
        }
    };
    let finalized = checkpoint::finalized_epoch(checkpoints, &spec.preset).await?;
    let epoch = block.slot.epoch(&spec.preset);
    let is_recent = epoch.saturating_add(RECENT_EPOCHS) >= finalized && epoch <= finalized;
    if !is_recent || checkpoint::is_contradicted(checkpoints, block.slot, block.root).await {
        return Ok(None);
    }
    tracing::info!(slot = %block.slot, %finalized, "the state of the last run is recent enough; none is fetched");
    Ok(Some(FirstState { spec: spec.clone(), ..last }))
}

/// Loads a chain from a state. Progress is reported to `on_progress`, and every two seconds to the
/// log.
pub fn load(
    spec: Spec,
    state_ssz: &[u8],
    keys: &mut PubkeyCache,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Chain, WatcherError> {
    let started = Instant::now();
    let mut logged_at = started;
    let mut report = |progress: Progress| {
        on_progress(progress);
        if logged_at.elapsed().as_secs() >= 2 {
            logged_at = Instant::now();
            let rate = progress.done as f64 / started.elapsed().as_secs_f64();
            tracing::info!(
                stage = progress.stage.as_str(),
                done = progress.done,
                total = progress.total,
                per_second = rate as u64,
                "loading"
            );
        }
    };
    let chain = Chain::from_state(spec, state_ssz, keys, &mut report)?;
    let network = chain.network();
    tracing::info!(
        network = %network.spec.config_name,
        genesis_validators_root = %network.genesis_validators_root,
        validators = chain.registry().len(),
        slot = %chain.head().slot,
        seconds = started.elapsed().as_secs_f64(),
        "chain loaded"
    );
    if let Some(fork) = network.spec.later_fork_from(chain.head().slot.epoch(network.preset())) {
        tracing::warn!("{}", fork.notice());
    }
    Ok(chain)
}

/// Fetches the blocks after `from` from the nodes, oldest first, each when it is asked for. It
/// stops early when no node answers.
pub async fn blocks_since<'a>(
    nodes: &'a NodeSet,
    network: &'a Network,
    from: Slot,
    now: Time,
) -> impl Stream<Item = RawMessage> + use<'a> {
    let until = match nodes.syncing().await {
        // A node may say anything. There are no blocks after the clock's slot.
        Ok(syncing) => syncing.head_slot.min(network.slot_at(now.0)).as_u64().saturating_add(1),
        Err(error) => {
            tracing::warn!(%error, "cannot fetch the blocks since the state; a block is requested again when another one builds on it");
            0
        }
    };
    let first = from.as_u64().saturating_add(1).max(until.saturating_sub(MAX_BLOCKS));
    tracing::info!(from = first, slots = until.saturating_sub(first), "fetching the blocks since the state");
    stream::iter(first..until)
        .then(move |slot| async move { (slot, block_message(nodes, network, BlockId::Slot(Slot::new(slot)), now).await) })
        .take_while(|(slot, answer)| {
            if let Err(error) = answer {
                tracing::warn!(%error, slot, "cannot fetch a block; it is requested again when another one builds on it");
            }
            ready(answer.is_ok())
        })
        .filter_map(|(_, answer)| ready(answer.ok().flatten()))
}

/// Fetches one block. Returns `None` if no node has it.
pub async fn block_message(nodes: &NodeSet, network: &Network, id: BlockId, now: Time) -> Result<Option<RawMessage>, NodeError> {
    let Some(block) = nodes.block_ssz(id, &network.spec).await? else { return Ok(None) };
    let message = sources::convert::fetched_block(block.ssz, block.fork, None, now);
    Ok(message.inspect_err(|refusal| tracing::warn!(%refusal, ?id, "a fetched block is not used")).ok())
}

/// Fetches the finalized state from a node, or the head's state if the finalized one is not
/// available.
pub async fn state_of(nodes: &NodeSet) -> Result<Vec<u8>, NodeError> {
    match nodes.state_ssz(StateId::Finalized).await {
        Ok(state) => Ok(state),
        Err(error) => {
            let reason = if error.is_not_found() { "no node has it" } else { "it could not be fetched" };
            tracing::warn!(%error, reason, "the finalized state is not available; requesting the state of the head");
            nodes.state_ssz(StateId::Head).await
        }
    }
}

/// Does the same as [`start`]. While the nodes are away or busy and there is no state to continue
/// from, it asks again until a node answers.
pub async fn start_when_a_node_answers(
    config: &Config,
    dir: Option<&DataDir>,
    endpoints: &Endpoints,
) -> Result<Start, WatcherError> {
    let mut n_failures = 0;
    loop {
        match start(config, dir, endpoints).await {
            Err(WatcherError::Node(error)) if error.is_transient() => {
                n_failures += 1;
                let pause = PAUSES.pause(n_failures);
                tracing::warn!(%error, again_in = ?pause, "no beacon node answers yet; trying again");
                tokio::time::sleep(pause).await;
            }
            other => return other,
        }
    }
}

/// Returns an error if a node is on another network than the configuration, the data directory or
/// the first node that answers.
/// `option` is the option that names the nodes.
async fn check_networks(config: &Config, dir: Option<&DataDir>, nodes: &NodeSet, option: &str) -> Result<(), WatcherError> {
    let configured = spec_of_config(config)?;
    let mut wanted = configured.as_ref().map(|spec| (spec.config_name.clone(), genesis_version(spec)));
    let by_file = config.network.config.is_some() || config.network.folder.is_some();
    let builtin = config.network.name.as_deref().filter(|_| !by_file).and_then(Network::builtin);
    let known = dir.map(DataDir::network).transpose()?.flatten().or(builtin);
    let mut wanted_root = known.map(|network| network.genesis_validators_root);
    for (node, network) in nodes.networks().await {
        // A node that is away is skipped. The later request for a state reports why.
        let Ok(network) = network else { continue };
        let other = |what: &str, found: String, wanted: String| {
            Err(WatcherError::Usage(format!(
                "node {node} is of another network ({}): {what} is {found}, expected {wanted}; correct {option}, or the network \
                 that is configured, and give each network a data directory of its own",
                network.spec.config_name
            )))
        };
        let (name, version) = wanted.get_or_insert_with(|| (network.spec.config_name.clone(), genesis_version(&network.spec)));
        if *version != genesis_version(&network.spec) {
            let [found, wanted] =
                [genesis_version(&network.spec), *version].map(|version| format!("0x{:08x}", u32::from_be_bytes(version)));
            return other("its fork version at genesis", found, format!("{wanted} of {name}"));
        }
        let found = network.genesis.genesis_validators_root;
        let wanted_root = *wanted_root.get_or_insert(found);
        if found != wanted_root {
            return other("its genesis validators root", found.to_string(), wanted_root.to_string());
        }
    }
    Ok(())
}

/// Returns the version of the first fork, `GENESIS_FORK_VERSION`. Later forks may be active at
/// genesis too, but their versions do not matter here.
fn genesis_version(spec: &Spec) -> [u8; 4] {
    spec.forks.first().map_or([0; 4], |fork| fork.version)
}

async fn from_node(config: &Config, dir: Option<&DataDir>, nodes: &NodeSet) -> Result<FirstState, WatcherError> {
    check_networks(config, dir, nodes, "`nodes.urls`").await?;
    let spec = match spec_of_config(config)? {
        Some(mut spec) => {
            // A node that is away is reported when the state is asked for.
            if let (Ok(of_node), Ok(genesis)) = (nodes.config_spec().await, nodes.genesis().await) {
                let of_config = Network {
                    spec: spec.clone(),
                    genesis_time: genesis.genesis_time,
                    genesis_validators_root: genesis.genesis_validators_root,
                };
                let now = of_config.slot_at(clock::now().0).epoch(of_config.preset());
                if spec.follow_schedule_of(&of_node, now) {
                    tracing::info!(
                        "the node has another schedule of forks or blob steps to come than the configuration; it is followed"
                    );
                }
            }
            spec
        }
        None => nodes.config_spec().await?,
    };
    Ok(FirstState { spec, ssz: state_of(nodes).await?, is_of_last_run: false, node_away: false })
}

/// Reads the state of the last run, if there is one.
fn last_state(config: &Config, dir: Option<&DataDir>) -> Result<Option<FirstState>, WatcherError> {
    let Some(dir) = dir.filter(|dir| dir.state_path().is_file()) else { return Ok(None) };
    let (spec, ssz) = (spec_without_node(config, Some(dir))?, read_state(&dir.state_path())?);
    Ok(Some(FirstState { spec, ssz, is_of_last_run: true, node_away: false }))
}

fn spec_without_node(config: &Config, dir: Option<&DataDir>) -> Result<Spec, WatcherError> {
    if let Some(spec) = spec_of_config(config)? {
        return Ok(spec);
    }
    let known = dir.map(DataDir::network).transpose()?.flatten();
    let unknown = || {
        WatcherError::Usage(
            "a state does not say which network it belongs to: name it (--network, `network.name` or `network.folder`)".into(),
        )
    };
    known.map(|network| network.spec).ok_or_else(unknown)
}

/// Returns the specification of the configured network, or `None` if the configuration names no
/// network.
pub fn spec_of_config(config: &Config) -> Result<Option<Spec>, WatcherError> {
    let in_folder = config.network.folder.as_deref().map(network_folder::config_file);
    if let Some(path) = config.network.config.clone().or(in_folder) {
        return read_spec(&path).map(Some);
    }
    // The name was checked with the configuration, so it is known here.
    Ok(config.network.name.as_deref().and_then(Spec::builtin))
}

/// Reads the `config.yaml` of a network.
pub fn read_spec(path: &Path) -> Result<Spec, WatcherError> {
    let text = base::read_text_file(path, MAX_SPEC_BYTES).map_err(|source| DataDirError::Io { path: path.into(), source })?;
    Spec::from_yaml(&text).map_err(|error| WatcherError::Usage(format!("{}: {error}", path.display())))
}

/// Reads a state file: SSZ, or SSZ in framed snappy.
pub fn read_state(path: &Path) -> Result<Vec<u8>, WatcherError> {
    let input = |reason: String| WatcherError::Input { path: path.into(), reason };
    let bytes = base::read_file(path, MAX_STATE_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => input(format!("{error}, and no state has more; check the path")),
        _ => input(error.to_string()),
    })?;
    if bytes.starts_with(b"\xff\x06\x00\x00sNaPpY") {
        return sources::limits::unframe(&bytes, MAX_STATE_BYTES as usize).map_err(|error| input(error.to_string()));
    }
    Ok(bytes)
}
