//! `slashwatch serve`: serves the API and the web page of a recorded data directory. It receives,
//! judges and writes nothing. The databases are opened read-only, and it shows what they contained
//! when they were opened.
//!
//! It refuses a directory that a watcher uses, because that watcher's own API shows more. A
//! directory that is being served is locked for readers, so no watcher changes it meanwhile.
//! Several processes may serve it at the same time.

use crate::inspect::Inspection;
use api::{Head, NodeState, Readiness, Status, StatusSource};
use consensus::{Root, Slot};
use evidence::Time;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use watcher::WatcherError;
use watcher::config::ApiConfig;
use watcher::status::numbers;
use watcher::{datadir, downtime, run};

/// Serves until `stop` resolves. `ready` gets the address when it is bound.
///
/// # Errors
/// There is no data directory at `path`, a watcher uses it, or the address is taken.
pub fn serve<F: Future<Output = ()>>(
    path: &Path,
    listen: SocketAddr,
    stop: fn() -> F,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), WatcherError> {
    let _lock = datadir::lock_for_reading(path)?;
    let inspection = Inspection::open(path)?;
    let recording = Arc::new(RecordedStatus::read(&inspection)?);
    let config = ApiConfig { listen, ..ApiConfig::default() };
    run::runtime()?.block_on(async {
        let listener = api::bind(listen).await?;
        ready(listener.address());
        let parts = api::ApiParts {
            store: inspection.store().clone(),
            status: recording,
            // A data directory does not contain whose keys were watched.
            watch: Arc::new(api::NoKeys),
            own_keys: config.own_keys(),
            registry: prometheus::Registry::new(),
            max_streams: config.max_streams,
            max_connections: config.max_connections,
            header_timeout: api::HEADER_TIMEOUT,
            hosts: Vec::new(),
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

/// Status of a recording. It stays the same while it is served.
struct RecordedStatus {
    status: Status,
}

impl RecordedStatus {
    fn read(inspection: &Inspection) -> Result<Self, WatcherError> {
        let (network, store) = (&inspection.network, inspection.store());
        let last_of_incidents = store.all_incidents()?.iter().map(|incident| incident.last_slot).max();
        let last_of_findings = store.finding_at(store.last_seq())?.map(|finding| {
            let seen = finding.second_seen.unwrap_or(finding.first_seen);
            network.slot_at(seen.as_unix_ns())
        });
        let ends = [downtime::watched_until(store)?, last_of_incidents, last_of_findings].into_iter().flatten().max();
        let slot = ends.unwrap_or(Slot::new(0));
        let at = Time::from_unix_ns(network.slot_start_ns(slot));
        let notice = format!("this is a recording: it ends in slot {slot} ({at}), and nothing is received or judged now");
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            network: network.spec.config_name.clone(),
            genesis_validators_root: network.genesis_validators_root,
            clock_slot: slot,
            head: Head { slot, root: Root::ZERO },
            stages: BTreeMap::new(),
            // The running process counts the index's operations, and these counts are not stored.
            index: inspection.index().map(|index| numbers(&index.holdings())).unwrap_or_default(),
            gaps: downtime::known(store)?,
            node: NodeState::NotConfigured,
            notices: vec![notice],
            recording: true,
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
