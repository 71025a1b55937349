//! `slashwatch serve`: serves the API and the web page of a recorded data directory. It receives,
//! judges and writes nothing. The databases are opened read-only, and it shows what they contained
//! when they were opened.
//!
//! It refuses a directory that a watcher uses, because that watcher's own API shows more. A
//! directory that is being served is locked for readers, so no watcher changes it meanwhile.
//! Several processes may serve it at the same time.

use crate::inspect::Inspection;
use crate::recorded_keys::RecordedKeys;
use actions::config::WatchConfig;
use actions::killswitch::KillSwitchState;
use api::{
    CapturedProof, Head, LabelledValidator, NodeState, ObservedSlot, ObservedSource, ObservedValidator, PackCapture, ReadError,
    Readiness, Recent, Status, StatusSource, ValidatorKey, ValidatorQuery, WatchSource as _,
};
use chain::PubkeyCache;
use consensus::interchange::SigningHistory;
use consensus::{Epoch, Network, PubkeyBytes, Root, Slot, ValidatorIndex};
use evidence::{Query, Store, Time};
use index::{IndexError, IndexView};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use watcher::WatcherError;
use watcher::config::ApiConfig;
use watcher::observed;
use watcher::pack_capture::capture_of;
use watcher::status::numbers;
use watcher::{datadir, downtime, file_handles, run};

/// Votes of a watched key that are read for what it has signed, the newest ones.
const NEWEST_VOTES: usize = 64;

/// Serves until `stop` resolves. `watch` are files with groups of watched keys, as in
/// `watch.files`. `ready` gets the address when it is bound.
///
/// # Errors
/// There is no data directory at `path`, a watcher uses it, a file of `watch` cannot be used, or
/// the address is taken.
pub fn serve<F: Future<Output = ()>>(
    path: &Path,
    watch: &[PathBuf],
    listen: SocketAddr,
    needs_token: bool,
    stop: fn() -> F,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), WatcherError> {
    let _lock = datadir::lock_for_reading(path)?;
    let inspection = Inspection::open(path)?;
    let mut observed = RecordedObservations::read(path)?;
    let keys = RecordedKeys::read(watch, &observed.keys)?.with_switches(KillSwitchState::read(&observed.store)?);
    let signed_by = |index| {
        let Some(view) = &observed.index else { return Ok(None) };
        let votes = view.index().votes_before(index, Epoch::MAX, NEWEST_VOTES)?.votes;
        let newest = votes.iter().map(|vote| vote.data.slot).max();
        // Who came back from another branch has an older source in its newest vote than before.
        let source = votes.iter().map(|vote| vote.data.source.epoch).max();
        Ok::<_, IndexError>(newest.zip(source))
    };
    let keys = Arc::new(keys.with_signed(&observed.network, last_slot(&inspection)?, signed_by)?);
    observed.own = keys.clone();
    let observed = Arc::new(observed);
    let recording = Arc::new(RecordedStatus::read(path, &inspection, observed.recent.head)?);
    let config = ApiConfig { listen, read_needs_token: needs_token, ..ApiConfig::default() };
    file_handles::raise_for(config.max_connections);
    run::runtime()?.block_on(async {
        let listener = api::bind(listen).await?;
        ready(listener.address());
        let parts = api::ApiParts {
            store: inspection.store().clone(),
            status: recording,
            // A data directory does not contain whose keys were watched, only what became of their
            // kill switches.
            watch: keys,
            observed,
            own_keys: config.own_keys(),
            registry: prometheus::Registry::new(),
            max_streams: config.max_streams,
            max_connections: config.max_connections,
            header_timeout: api::HEADER_TIMEOUT,
            hosts: Vec::new(),
            tokens: Some(api::TokenFile::in_data_dir(path)),
            read_needs_token: config.read_needs_token,
            requests_per_second: config.request_limit(),
            proxies: config.proxies.clone(),
            cors_origins: config.cors_origins.clone(),
        };
        let cancel = CancellationToken::new();
        let mut serving = std::pin::pin!(api::serve(listener, parts, cancel.clone()));
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            () = stop() => cancel.cancel(),
        }
        Ok(serving.await?)
    })
}

/// The evidence pack of an incident of a data directory, as a zip file. It also works while a
/// watcher uses the directory.
///
/// `incident` is its id, or a beginning of it that no other incident has. `watch` has the groups of
/// watched keys: without it nobody knows who is next.
///
/// # Errors
/// There is no data directory, not exactly one such incident, or a list cannot be used.
pub fn incident_pack(path: &Path, incident: &str, watch: Option<&WatchConfig>) -> Result<Vec<u8>, WatcherError> {
    let mut observed = RecordedObservations::read(path)?;
    let incident = incident_named(&observed.store, incident, path)?;
    let keys = watch.map(|watch| RecordedKeys::of_config(watch, &observed.keys)).transpose().map_err(WatcherError::Usage)?;
    let switches = KillSwitchState::read(&observed.store)?;
    observed.own = Arc::new(keys.unwrap_or_default().with_switches(switches));
    let pack = api::incident_pack(&observed.store, &observed, observed.own.clone(), incident)
        .map_err(|error| WatcherError::Failed(error.to_string()))?;
    pack.ok_or_else(|| no_incident(&incident.to_string(), path))
}

/// The one incident whose id begins with a text.
fn incident_named(store: &Store, text: &str, path: &Path) -> Result<Root, WatcherError> {
    // The folder of a pack is called by the digits alone.
    let wanted = text.trim_start_matches("0x").to_ascii_lowercase();
    let ids = store.all_incidents()?.into_iter().map(|incident| incident.id);
    let mut found: Vec<Root> = ids.filter(|id| id.to_string()[2..].starts_with(&wanted)).collect();
    match found.len() {
        0 => Err(no_incident(text, path)),
        1 => Ok(found.remove(0)),
        n => Err(WatcherError::Usage(format!("the ids of {n} incidents begin with {text:?}; give more of it"))),
    }
}

fn no_incident(text: &str, path: &Path) -> WatcherError {
    WatcherError::Usage(format!(
        "there is no incident {text} in {}; `slashwatch inspect --data-dir {}` lists them",
        path.display(),
        path.display()
    ))
}

/// Status of a recording. It stays the same while it is served.
struct RecordedStatus {
    status: Status,
}

impl RecordedStatus {
    fn read(path: &Path, inspection: &Inspection, head: Head) -> Result<Self, WatcherError> {
        let (network, store) = (&inspection.network, inspection.store());
        let slot = last_slot(inspection)?;
        let at = Time::from_unix_ns(network.slot_start_ns(slot));
        let notice = format!("this is a recording: it ends in slot {slot} ({at}), and nothing is received or judged now");
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            network: network.spec.config_name.clone(),
            genesis_validators_root: network.genesis_validators_root,
            clock_slot: slot,
            head: if head == Head::default() { Head { slot, root: Root::ZERO } } else { head },
            stages: BTreeMap::new(),
            // The running process counts the index's operations, and these counts are not stored.
            index: inspection.index().map(|index| numbers(&index.holdings())).unwrap_or_default(),
            gaps: downtime::known(store)?,
            node: NodeState::NotConfigured,
            notices: vec![notice],
            recording: true,
            data_dir: Some(datadir::absolute(path)),
            ..Status::default()
        };
        Ok(Self { status })
    }
}

impl StatusSource for RecordedStatus {
    fn status(&self) -> Status {
        self.status.clone()
    }

    /// A recording is never ready, because nothing is received.
    fn readiness(&self) -> Readiness {
        let advice = self.status.notices.clone();
        Readiness { context_loaded: true, index_open: true, advice, ..Readiness::default() }
    }
}

/// The slot in which a recording ends.
fn last_slot(inspection: &Inspection) -> Result<Slot, WatcherError> {
    let (network, store) = (&inspection.network, inspection.store());
    let last_of_incidents = store.all_incidents()?.iter().map(|incident| incident.last_slot).max();
    let last_of_findings = store.finding_at(store.last_seq())?.map(|finding| {
        let seen = finding.second_seen.unwrap_or(finding.first_seen);
        network.slot_at(seen.as_unix_ns())
    });
    // A block's own slot may be any number, but not the time of its arrival.
    let last_block = match inspection.index() {
        Some(index) => {
            let all = index.proposals_where(|_| true, &mut |_| ())?;
            all.iter().map(|proposal| network.slot_at(proposal.heard.at.0)).max()
        }
        None => None,
    };
    let ends = [downtime::watched_until(store)?, last_of_incidents, last_of_findings, last_block];
    Ok(ends.into_iter().flatten().max().unwrap_or_default())
}

/// What a recorded data directory has of the network's messages.
struct RecordedObservations {
    network: Arc<Network>,
    store: Store,
    /// `None` if the index was moved away.
    index: Option<IndexView>,
    /// Public keys by validator index. The file may be missing; the keys are then unknown.
    keys: Vec<PubkeyBytes>,
    /// The path of the kept state, which may be missing.
    state: PathBuf,
    recent: Arc<Recent>,
    /// The operator's own groups, if they were given.
    own: Arc<RecordedKeys>,
}

impl RecordedObservations {
    fn key(&self, validator: ValidatorIndex) -> Option<PubkeyBytes> {
        self.keys.get(usize::try_from(validator.as_u64()).ok()?).copied()
    }

    fn read(path: &Path) -> Result<Self, WatcherError> {
        let inspection = Inspection::open(path)?;
        let now = last_slot(&inspection)?;
        let (network, store, index) = inspection.into_parts();
        let recent = match &index {
            Some(view) => {
                observed::recorded(view.index(), &network, now).map_err(|error| WatcherError::Failed(error.to_string()))?
            }
            None => Recent { now, ..Recent::default() },
        };
        let cache = path.join("pubkeys");
        let keys = if cache.is_file() { PubkeyCache::compressed_in(&cache)? } else { Vec::new() };
        let state = datadir::state_path(path);
        Ok(Self { network: Arc::new(network), store, index, keys, state, recent: Arc::new(recent), own: Arc::default() })
    }
}

impl ObservedSource for RecordedObservations {
    fn network(&self) -> Arc<Network> {
        self.network.clone()
    }

    fn recent(&self) -> Arc<Recent> {
        self.recent.clone()
    }

    fn stored_slots(&self, first: Slot, last: Slot) -> Result<Vec<ObservedSlot>, ReadError> {
        self.index.as_ref().map_or_else(|| Ok(Vec::new()), |view| observed::stored_slots(view.index(), first, last))
    }

    /// A recording has no registry, but the keys of its validators.
    fn validator(&self, query: &ValidatorQuery) -> Result<Option<ObservedValidator>, ReadError> {
        let validator = match query.key {
            ValidatorKey::Index(index) => Some(index),
            ValidatorKey::Pubkey(key) => {
                self.keys.iter().position(|known| *known == key).map(|index| ValidatorIndex::new(index as u64))
            }
        };
        let (Some(validator), Some(view)) = (validator, &self.index) else { return Ok(None) };
        let all = (Slot::new(0), Slot::MAX);
        let Some(stored) = observed::stored_validator(view.index(), validator, query, all)? else { return Ok(None) };
        let about = Query { validator: Some(validator), ..Query::default() };
        let found = self.store.find(&about, 1).map_err(|error| ReadError::Failed(error.to_string()))?;
        let subject = found.findings.into_iter().find_map(|(_, finding)| finding.validator);
        let pubkey = self.key(validator).or(subject.as_ref().map(|subject| subject.pubkey));
        let labels = subject.map_or_else(Vec::new, |subject| subject.labels);
        Ok(Some(ObservedValidator { pubkey, labels, groups: self.own.groups_of(validator), ..stored }))
    }

    fn pubkeys(&self, validators: &BTreeSet<ValidatorIndex>) -> Result<BTreeMap<ValidatorIndex, PubkeyBytes>, ReadError> {
        Ok(validators.iter().filter_map(|index| Some((*index, self.key(*index)?))).collect())
    }

    fn capture(&self, proofs: &[CapturedProof<'_>]) -> Result<Option<PackCapture>, ReadError> {
        capture_of(&self.network, &self.state, proofs).map(Some)
    }

    fn histories(
        &self,
        keys: &BTreeMap<ValidatorIndex, PubkeyBytes>,
        minimal: bool,
    ) -> Result<Option<Vec<SigningHistory>>, ReadError> {
        self.index.as_ref().map(|view| observed::recorded_histories(view, &self.network, keys, minimal)).transpose()
    }

    /// A data directory does not contain whose keys were watched, so only the given groups count.
    fn labelled(&self, label: &str, after: Option<ValidatorIndex>, limit: usize) -> Vec<LabelledValidator> {
        self.own.labelled(label, after, limit)
    }
}
