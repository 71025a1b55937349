//! The watcher: sources, engine thread, node task, alerts and API. They are started in order and
//! stopped in reverse order.
//!
//! ```text
//! gossip, event stream --+                      +--> verdicts --> gossip
//! node task -------------+--> queue --> engine -+--> wanted blocks, state --> node task
//! clock ----------------/    (bounded)  thread  +--> snapshot --> status of the API
//!                                               +--> findings --> API streams, alert dispatcher
//!                                                                 (through the store)
//! ```

use crate::bootstrap;
use crate::clock;
use crate::config::{Config, SinglesSetting, mib};
use crate::datadir::DataDir;
use crate::downtime::DowntimeLog;
use crate::engine_thread::{self, Effects, Input};
use crate::error::WatcherError;
use crate::inputs::{InputReceiver, Inputs, WeakInputs, inputs};
use crate::listen::{self, NamedTask};
use crate::node_task::{NodeRequests, NodeTask};
use crate::status::{EngineSnapshot, Sources, StatusPage};
use crate::watched_keys::WatchedKeysSource;
use actions::alerts;
use actions::config::{AlertsConfig, WatchConfig};
use actions::killswitch::{KillSwitches, SwitchContext};
use actions::lists::reload::{self, ActiveConfig, ReloadReports};
use actions::submission::Submitter;
use alert::Context;
use api::StatusSource as _;
use consensus::Network;
use detect::watch::SharedWatchState;
use engine::metrics::Metrics;
use engine::priority_queues::QueueLimits;
use engine::silence::SilenceTracker;
use engine::{Engine, EngineError, EngineParts};
use evidence::{Store, Time};
use sources::gossip::{GossipControl, Identity};
use sources::metrics::SourceMetrics;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use verify::{ParkingLimits, Verifier, VerifyConfig};

/// How often the engine wakes when no message arrives.
const TICK: Duration = Duration::from_millis(500);
/// Largest number of verdicts that wait for gossip.
const MAX_VERDICTS: usize = 65_536;
/// Largest number of batches of findings that could not be written and wait for the kill switches.
/// The kill switches normally take them as fast as they come.
const MAX_UNRECORDED: usize = 256;
/// How long each task may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Runs until `stop` resolves or until an error occurs that the watcher cannot survive.
pub fn run<F: Future<Output = ()>>(config: Config, stop: fn() -> F) -> Result<(), WatcherError> {
    runtime()?.block_on(async {
        // One future serves both phases. With two of them, a signal that comes between the phases
        // would be lost.
        let mut stopped = std::pin::pin!(stop());
        let mut watcher = tokio::select! {
            biased;
            // Stops while the start still waits for a node, which may take long.
            () = &mut stopped => return Ok(()),
            started = Watcher::start(config) => started?,
        };
        let failure = tokio::select! {
            () = &mut stopped => None,
            error = watcher.failed() => Some(error),
        };
        let stopped = watcher.stop().await;
        failure.map_or(stopped, Err)
    })
}

/// Creates the threads of the async tasks. BLS and disk access run on other threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, WatcherError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime
        .map_err(|error| WatcherError::Internal(format!("cannot start threads: {error}; check the process limits (ulimit -u)")))
}

/// A running watcher.
pub struct Watcher {
    store: Store,
    api_address: Option<SocketAddr>,
    page: Arc<StatusPage>,
    failed: oneshot::Receiver<EngineError>,
    tasks: Vec<NamedTask>,
    switches: StoppedLast,
    alerts: StoppedLast,
    engine_thread: std::thread::JoinHandle<Option<(Engine, DowntimeLog)>>,
    cancel: CancellationToken,
    queue: WeakInputs,
    // This field is the last one, so that the directory is released when everything else is
    // dropped.
    _dir: DataDir,
}

/// The text of `/readyz` until the network is known.
const STARTING: &str = "it is starting: a beacon node is asked for the network's state, or the last one is read; the log says how far it is and \
                        what it waits for";

impl Watcher {
    /// Opens everything and starts it. If it fails, nothing keeps running.
    pub async fn start(config: Config) -> Result<Self, WatcherError> {
        let dir = DataDir::open(&config.data_dir)?;
        let nodes = bootstrap::nodes(&config)?.map(Arc::new);
        // The port is bound before the slow part, so that a port in use is reported at once.
        let listener = if config.api.enabled { Some(api::bind(config.api.listen).await?) } else { None };
        // The handler is installed before the wait for a node, so that a hangup signal does not end
        // the process.
        let hangups = reload::hangups();
        let in_force = watch_lists(&config)?;
        let starting = bootstrap::start_when_a_node_answers(&config, Some(&dir), nodes.as_deref());
        let mut start = match &listener {
            Some(listener) => api::answer_while(listener, STARTING, starting).await??,
            None => starting.await?,
        };
        let metrics = Metrics::new();
        start.chain.compute_on_worker();
        let network = start.chain.network().clone();
        let from = start.chain.head().slot;
        let desk = SharedWatchState::default();
        let (unrecorded, not_recorded) = mpsc::channel(MAX_UNRECORDED);
        let hand_over = move |findings| unrecorded.try_send(findings).map_err(|error| error.to_string());
        let parts = EngineParts {
            chain: start.chain,
            keys: start.keys,
            verifier: Verifier::new(verify_config(&config)),
            history_epochs: config.index.history_epochs,
            fold_after_epochs: config.index.fold_after_epochs,
            detect: config.detect.clone(),
            routes: in_force.routes.names(),
            unrecorded: Some(Box::new(hand_over)),
            metrics: metrics.clone(),
            clock: clock::now,
            watch: in_force.parts(&desk),
        };
        let engine = Engine::open(&dir.index_path(), &dir.evidence_path(), parts)?;
        let store = engine.store().clone();
        let watch_kept = DowntimeLog::start(store.clone(), network.slot_at(clock::now().0))?;
        let silence = SilenceTracker::new(network.clone(), clock::now(), engine.earlier_silence());

        let cancel = CancellationToken::new();
        // If a later step fails, the guard stops everything that was started before.
        let guard = cancel.clone().drop_guard();
        let (queue, inputs) = inputs(config.gossip.queue_messages, mib(config.gossip.queue_mib));
        let (verdicts, verdicts_out) = mpsc::channel(MAX_VERDICTS);
        let (wanted_blocks, blocks_wanted) = watch::channel(Vec::new());
        let (wants_state, state_wanted) = watch::channel(false);
        let (snapshot, snapshot_seen) =
            watch::channel(Arc::new(EngineSnapshot::of(&engine, silence.reception(), watch_kept.gaps())));

        let source_metrics = SourceMetrics::register(&metrics.registry)
            .map_err(|error| WatcherError::Internal(format!("metrics of the sources: {error}")))?;
        let identity = Identity::File(dir.node_key_path());
        let sources = listen::start_sources(&config, identity, nodes.as_deref(), &network, &source_metrics)?;
        let control = sources.gossip;

        let effects = Effects { verdicts, wanted_blocks, wants_state, snapshot };
        let (fail, failed) = oneshot::channel();
        let engine_thread = spawn_engine(engine, watch_kept, silence, inputs, effects, lane_limits(&config), fail)?;
        let mut tasks: Vec<NamedTask> =
            vec![("clock", tokio::spawn(tick(queue.clone(), control.clone(), network.clone(), metrics.clone(), cancel.clone())))];
        for source in sources.all {
            tasks.push((source.name(), tokio::spawn(listen::pump(source, queue.clone(), cancel.clone()))));
        }
        if let Some(control) = control.clone() {
            tasks.push(("verdicts", tokio::spawn(listen::report(control, verdicts_out))));
        }
        let (away, node_away) = watch::channel(start.node_away.then(|| "no node answered at the start".to_owned()));
        if let Some(nodes) = &nodes {
            let task = NodeTask {
                nodes: nodes.clone(),
                network: network.clone(),
                queue: queue.clone(),
                metrics: metrics.clone(),
                refresh_epochs: config.nodes.refresh_epochs,
                away,
                from,
            };
            let wishes = NodeRequests { blocks: blocks_wanted, state: state_wanted };
            tasks.push(("nodes", tokio::spawn(task.run(wishes, cancel.clone()))));
            if config.submission.enabled {
                let submitter = Submitter::new(store.clone(), nodes.clone(), network.clone(), metrics.clone(), now)?;
                tasks.push(("submissions", tokio::spawn(submitter.run(cancel.clone()))));
            }
        }
        let switch_context = SwitchContext { network: network.clone(), watched: desk.clone(), dir: dir.path().to_owned(), now };
        let mut switches = KillSwitches::new(store.clone(), switch_context)?;
        switches.arm(&in_force)?;
        let in_force_at_start = actions::lists::in_words(&in_force, &desk.labels(), &switches.state().borrow());
        let (lists, lists_changed) = watch::channel(Arc::new(in_force.clone()));
        let ledger = switches.state();
        let own_keys = config.api.own_keys();
        let keys = Arc::new(WatchedKeysSource { desk, switches: ledger.clone(), in_force: lists_changed.clone() });
        let context = Context {
            network: alerts::name_of(&network),
            public_url: config.api.public_url.clone(),
            switches: Some(switches.notes()),
        };
        let alerts = StoppedLast::start(|stop| alerts::deliver(store.clone(), context, lists_changed.clone(), now, stop));
        let switches = StoppedLast::start(|stop| switches.run(lists_changed.clone(), not_recorded, stop));
        let (refused, refused_lists) = watch::channel(None);
        let told = ReloadReports { changed: lists, refused, now };
        let following = reload::follow(config.source.clone(), sections, in_force, hangups, told, cancel.clone());
        tasks.push(("lists", tokio::spawn(following)));
        tasks.push(("lists' changes", tokio::spawn(hand_over_lists(lists_changed, queue.clone(), cancel.clone()))));
        let feed = queue.downgrade();
        drop(queue);

        let page = Arc::new(StatusPage {
            network: network.clone(),
            snapshot: snapshot_seen,
            node_away,
            has_nodes: nodes.is_some(),
            gossip: control,
            sources: Sources { n_peers: config.gossip.peers.len(), has_event_streams: config.event_stream.enabled },
            switches: (own_keys == api::OwnKeys::Shown).then_some(ledger),
            refused_lists,
            metrics: metrics.clone(),
        });
        let mut api_address = None;
        if let Some(listener) = listener {
            api_address = Some(listener.address());
            let parts = api::ApiParts {
                store: store.clone(),
                status: page.clone(),
                watch: keys,
                own_keys,
                registry: metrics.registry.clone(),
                max_streams: config.api.max_streams,
                max_connections: config.api.max_connections,
                header_timeout: api::HEADER_TIMEOUT,
                hosts: config.api.admitted_hosts(),
            };
            tasks.push(("api", tokio::spawn(serve(listener, parts, cancel.clone()))));
        }
        in_force_at_start.iter().for_each(|line| tracing::info!("{line}"));
        tracing::info!(network = %network.spec.config_name, api = ?api_address, findings = store.count(), "watching");
        guard.disarm();
        Ok(Self { store, api_address, page, failed, tasks, switches, alerts, engine_thread, cancel, queue: feed, _dir: dir })
    }

    /// Returns the store of the findings.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the address of the web page and the API. If port 0 was configured, it holds the
    /// actual port.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api_address
    }

    /// Returns what `/v1/status` shows.
    pub fn status(&self) -> api::Status {
        self.page.status()
    }

    /// Returns the number of connected peers.
    pub fn n_peers(&self) -> u64 {
        self.page.n_peers()
    }

    /// Returns what is known of the peers, at most one second old.
    pub fn peers(&self) -> Arc<Vec<sources::gossip::PeerInfo>> {
        self.page.gossip.as_ref().map(GossipControl::peers).unwrap_or_default()
    }

    /// Returns the metrics of this process.
    pub fn metrics(&self) -> &Metrics {
        &self.page.metrics
    }

    /// Returns a receiver that changes with every batch and with the clock.
    pub fn snapshots(&self) -> watch::Receiver<Arc<EngineSnapshot>> {
        self.page.snapshot.clone()
    }

    /// Returns a way to send messages that come from no source of the watcher itself. Returns
    /// `None` once the watcher stops.
    pub fn feed(&self) -> Option<MessageFeed> {
        self.queue.upgrade().map(MessageFeed)
    }

    /// Resolves when the engine cannot continue: the disk is full, the database is damaged, or the
    /// program has a defect.
    pub async fn failed(&mut self) -> WatcherError {
        match (&mut self.failed).await {
            Ok(error) => error.into(),
            Err(_) => {
                WatcherError::Internal("the engine thread ended unexpectedly; please report what the log says above".into())
            }
        }
    }

    /// Stops the sources, lets the engine finish what is queued, and then stops the rest.
    pub async fn stop(self) -> Result<(), WatcherError> {
        self.cancel.cancel();
        for (name, task) in self.tasks {
            if tokio::time::timeout(STOP_GRACE, task).await.is_err() {
                tracing::warn!(task = name, "did not stop in time");
            }
        }
        let engine_thread = self.engine_thread;
        let ended = tokio::task::spawn_blocking(move || last_words(engine_thread)).await;
        // Kill switches and alerts stop after the engine has finished. An offence that the engine
        // records at the end still triggers them.
        self.switches.stop().await;
        self.alerts.stop().await;
        ended.unwrap_or_else(|_| {
            Err(WatcherError::Internal("the engine did not end; please report what the log says above".into()))
        })
    }
}

/// Waits for the engine thread and lets the engine finish what it still can. This function blocks.
fn last_words(engine_thread: std::thread::JoinHandle<Option<(Engine, DowntimeLog)>>) -> Result<(), WatcherError> {
    match engine_thread.join() {
        Ok(Some((mut engine, mut watch))) => {
            let now = clock::now();
            engine.finish(now)?;
            // No message waits any more, so the record goes up to the current slot.
            watch.watched(engine.chain().network().slot_at(now.0), None).map_err(EngineError::from)?;
            tracing::info!("stopped");
            Ok(())
        }
        // The reason was reported through `failed`.
        Ok(None) => Ok(()),
        Err(_) => Err(WatcherError::Internal("the engine thread panicked; please report what the log says above".into())),
    }
}

/// A task that continues until everything that it follows has ended. When the value is dropped, the
/// task is told to stop, but nobody waits for it.
struct StoppedLast {
    task: tokio::task::JoinHandle<()>,
    guard: tokio_util::sync::DropGuard,
}

impl StoppedLast {
    fn start<F: Future<Output = ()> + Send + 'static>(body: impl FnOnce(CancellationToken) -> F) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(body(stop.clone())), guard: stop.drop_guard() }
    }

    /// Tells the task to stop and waits for it. Commands of kill switches and deliveries of alerts
    /// end by their own timeouts. To cut off a command could leave a key unprotected.
    async fn stop(self) {
        drop(self.guard);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "kill switches or alerts broke off");
        }
    }
}

/// Sends messages to a running watcher as its own sources do. The watcher does not end while a
/// value of this type exists.
pub struct MessageFeed(Inputs);

impl MessageFeed {
    /// Sends a message if there is room, and returns whether there was. A source that cannot wait
    /// drops the message otherwise.
    pub fn offer(&self, message: verify::RawMessage) -> bool {
        self.0.try_send(Input::Message(message)).is_ok()
    }

    /// Sends a message and waits for room. Returns false once the watcher has ended. This is for
    /// sources that can wait.
    pub async fn send(&self, message: verify::RawMessage) -> bool {
        self.0.send(Input::Message(message)).await.is_ok()
    }
}

async fn serve(listener: api::Listener, parts: api::ApiParts, cancel: CancellationToken) {
    if let Err(error) = api::serve(listener, parts, cancel).await {
        tracing::error!(%error, "the API stopped; findings are still recorded and alerts sent");
    }
}

fn spawn_engine(
    engine: Engine,
    watch_kept: DowntimeLog,
    silence: SilenceTracker,
    inputs: InputReceiver,
    effects: Effects,
    limits: QueueLimits,
    fail: oneshot::Sender<EngineError>,
) -> Result<std::thread::JoinHandle<Option<(Engine, DowntimeLog)>>, WatcherError> {
    let body = move || match engine_thread::run(engine, watch_kept, silence, inputs, &effects, limits) {
        Ok(ended) => Some(ended),
        Err(error) => {
            let _ = fail.send(error);
            None
        }
    };
    let spawned = std::thread::Builder::new().name("engine".into()).spawn(body);
    spawned.map_err(|error| WatcherError::Internal(format!("cannot start the engine thread: {error}; check ulimit -u")))
}

/// Wakes the engine at fixed intervals and updates the gauges that nothing else updates.
async fn tick(queue: Inputs, gossip: Option<GossipControl>, network: Arc<Network>, metrics: Metrics, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            due = ticks.tick() => {
                // If the queue is full, its messages wake the engine anyway.
                let _ = queue.try_send(Input::Tick { late: due.elapsed() });
                metrics.queue.with_label_values(&["engine"]).set(queue.len() as i64);
                metrics.clock_slot.set(network.slot_at(clock::now().0).as_u64() as i64);
                metrics.peers.set(gossip.as_ref().map_or(0, listen::n_connected) as i64);
            }
        }
    }
}

/// Reads the lists and routes of the configuration. The configuration was checked before, so
/// problems can only occur if the caller built it by hand.
fn watch_lists(config: &Config) -> Result<ActiveConfig, WatcherError> {
    reload::read(&config.watch, &config.alerts, config.source.as_deref()).map_err(WatcherError::Usage)
}

/// Sends changed lists and routes to the engine's queue.
async fn hand_over_lists(mut changed: watch::Receiver<Arc<ActiveConfig>>, queue: Inputs, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
        let in_force = changed.borrow_and_update().clone();
        for input in [Input::Watch(in_force.list.clone()), Input::Routes(in_force.routes.names())] {
            if queue.send(input).await.is_err() {
                return;
            }
        }
    }
}

fn verify_config(config: &Config) -> VerifyConfig {
    VerifyConfig {
        threads: config.verify.threads,
        singles: match config.verify.singles {
            SinglesSetting::Sums => verify::SinglesProof::Sums,
            SinglesSetting::RandomCombination if config.verify.forward_percent < 100 => {
                verify::SinglesProof::Mixed { alone_percent: config.verify.forward_percent }
            }
            SinglesSetting::RandomCombination => verify::SinglesProof::RandomCombination,
        },
        parking: ParkingLimits {
            messages: config.verify.parked_messages,
            bytes: mib(config.verify.parked_mib),
            bytes_per_peer: mib(config.verify.parked_mib_per_peer),
            ..ParkingLimits::default()
        },
        ..VerifyConfig::default()
    }
}

fn lane_limits(config: &Config) -> QueueLimits {
    QueueLimits {
        messages: config.gossip.queue_messages,
        bytes: QueueLimits::BYTES,
        bytes_per_peer: QueueLimits::BYTES_PER_PEER,
        batch: config.verify.batch_messages,
        gather: config.verify.gather,
    }
}

/// Returns the wall clock in the type that alerts and findings use.
pub fn now() -> Time {
    Time::from_unix_ns(clock::now().0)
}

/// Reads the sections of the configuration that may change while the watcher runs.
fn sections(path: &Path) -> Result<(WatchConfig, AlertsConfig), String> {
    Config::load(path).map(|config| (config.watch, config.alerts)).map_err(|error| error.to_string())
}
