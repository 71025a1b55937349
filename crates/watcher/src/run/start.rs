//! Starts the parts of a watcher, in an order in which each part has what it needs.

use super::{EngineThread, StoppedLast, Watcher, now};
use crate::audits::AuditTask;
use crate::block_range::BlockRange;
use crate::bootstrap::{self, Endpoints};
use crate::clock;
use crate::config::{CommandLine, Config, SinglesSetting, mib};
use crate::datadir::{DataDir, DataDirError};
use crate::downtime::DowntimeLog;
use crate::engine_thread::{self, Effects, Input};
use crate::error::WatcherError;
use crate::inputs::{InputReceiver, Inputs, inputs};
use crate::listen::{self, NamedTask, RunningSources, Served};
use crate::named_blocks::NamedBlocksTask;
use crate::node_task::{NodeRequests, NodeRole, NodeTask};
use crate::observed::LiveObserved;
use crate::status::{EngineSnapshot, StatusPage};
use crate::watched_keys::WatchedKeysSource;
use actions::alerts;
use actions::killswitch::{KillSwitchState, KillSwitches, SwitchContext};
use actions::lists::reload::{self, ActiveConfig, RejectedConfig, ReloadReports};
use actions::lists::remote;
use actions::submission::Submitter;
use alert::Context;
use api::{ApiError, TokenFile};
use chain::HeadView;
use consensus::{Network, Root, Slot};
use detect::coverage::SharedCoverage;
use detect::watch::SharedWatchState;
use engine::metrics::Metrics;
use engine::priority_queues::QueueLimits;
use engine::silence::SilenceTracker;
use engine::{Engine, EngineError, EngineParts, WantedBlock};
use evidence::{Finding, Store};
use futures::FutureExt as _;
use sources::block_store::{BlockStore, StoreLimits};
use sources::gossip::{BlockClient, GossipControl, Identity, StatusView};
use sources::metrics::SourceMetrics;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use verify::{ParkingLimits, Ticket, Verdict, Verifier, VerifyConfig};

/// How often the engine wakes when no message arrives.
const TICK: Duration = Duration::from_millis(500);
/// Largest number of verdicts that wait for gossip.
const MAX_VERDICTS: usize = 65_536;
/// Largest number of batches of findings that could not be written and wait for the kill switches.
/// The kill switches normally take them as fast as they come.
const MAX_UNRECORDED: usize = 256;
/// The text of `/readyz` until the network is known.
const STARTING: &str = "it is starting: a beacon node is asked for the network's state, or the last one is read; the log says how far it is and \
                        what it waits for";

impl Watcher {
    /// Opens everything and starts it. If it fails, nothing keeps running.
    pub async fn start(config: Config) -> Result<Self, WatcherError> {
        let dir = Arc::new(DataDir::open(&config.data_dir)?);
        let endpoints = Endpoints::new(&config)?;
        let nodes = endpoints.nodes.clone();
        // The port is bound before the slow part, so that a port in use is reported at once.
        let listener = if config.api.enabled { Some(bind(&config).await?) } else { None };
        // The handler is installed before the wait for a node, so that a hangup signal does not end
        // the process.
        let hangups = reload::hangups();
        let active = watch_lists(&config)?;
        let loading = bootstrap::start_when_a_node_answers(&config, Some(&dir), &endpoints);
        let loaded = match &listener {
            Some(listener) => api::answer_while(listener, STARTING, loading).await??,
            None => loading.await?,
        };
        let (first_block, node_away) = (loaded.chain.head(), loaded.node_away);
        let network = loaded.chain.network().clone();
        let (metrics, watch_state) = (Metrics::new(), SharedWatchState::default());
        let engine = OpenEngine::open(&config, &dir, loaded, &active, &watch_state, &metrics)?;
        let store = engine.engine.store().clone();
        let coverage = engine.engine.coverage().clone();

        let cancel = CancellationToken::new();
        // If a later step fails, the guard stops everything that was started before.
        let guard = cancel.clone().drop_guard();
        let source_metrics = SourceMetrics::register(&metrics.registry)
            .map_err(|error| WatcherError::Internal(format!("metrics of the sources: {error}")))?;
        let identity = Identity::File(dir.node_key_path());
        let blocks = open_blocks(&dir, &network)?;
        metrics
            .registry
            .register(Box::new(blocks.outcomes().clone()))
            .map_err(|error| WatcherError::Internal(format!("metrics of kept blocks: {error}")))?;
        let (status, status_out) = watch::channel(StatusView::default());
        let served = Served { status: status_out, blocks: Some(blocks.clone()) };
        let sources = listen::start_sources(&config, identity, served, nodes.as_deref(), &network, &source_metrics)?;
        let control = sources.gossip.clone();
        let (queue, inputs) = inputs(config.gossip.queue_messages, mib(config.gossip.queue_mib));
        let RunningEngine { thread, failed, verdicts, requests, named_blocks, snapshot, recent, unrecorded } =
            engine.run(inputs, queue_limits(&config), blocks.clone(), status)?;

        let (broken, broke) = mpsc::channel(1);
        let rescheduled = CancellationToken::new();
        let mut starting = Starting {
            config: &config,
            network,
            store,
            metrics,
            queue,
            cancel,
            rescheduled: rescheduled.clone(),
            tasks: Vec::new(),
            broken,
        };
        let ended = starting.cancel.child_token();
        starting.clock(control.clone(), coverage.clone(), ended.clone());
        starting.sources(sources, verdicts);
        let peers = control.as_ref().map(|gossip| gossip.blocks().clone());
        if let Some(peers) = peers.clone().filter(|_| nodes.is_none() || node_away) {
            starting.block_range(peers, blocks, first_block);
        }
        if let Some(peers) = peers.clone() {
            starting.named_blocks(peers, named_blocks);
        }
        let (away, node_away) = watch::channel(node_away.then(|| "no node answered at the start".to_owned()));
        starting.nodes(&endpoints, peers, dir.clone(), requests, away, first_block.slot)?;
        let reactions = starting.reactions(&dir, active, &watch_state, hangups, unrecorded)?;
        let own_keys = config.api.own_keys();
        let page = Arc::new(StatusPage {
            network: starting.network.clone(),
            snapshot,
            node_away,
            has_nodes: nodes.is_some() || endpoints.checkpoints.is_some(),
            gossip: control,
            n_configured_peers: config.gossip.peers.len(),
            started: clock::now(),
            has_event_streams: config.event_stream.enabled,
            data_dir: dir.path().to_owned(),
            shows_addresses: api::shows_addresses(own_keys, config.api.listen.ip()),
            switches: (own_keys == api::OwnKeys::Shown).then_some(reactions.switch_state.clone()),
            refused_lists: reactions.rejected,
            failed_lists: reactions.failed_lists,
            audits: starting.audits(&dir, reactions.active.clone(), watch_state.clone()),
            metrics: starting.metrics.clone(),
            coverage: coverage.clone(),
            ended,
        });
        if let Some(heartbeat) = alerts::heartbeat(&config.alerts)? {
            let (page, cancel) = (page.clone(), starting.cancel.clone());
            starting.spawn("heartbeat", heartbeat.run(move || page.is_ready(), cancel));
        }
        let observed = LiveObserved::new(
            starting.network.clone(),
            recent,
            starting.queue.downgrade(),
            watch_state.clone(),
            dir.index_path(),
        );
        let keys = WatchedKeysSource {
            watch_state,
            switches: reactions.switch_state,
            active: reactions.active,
            coverage,
            network: starting.network.clone(),
        };
        let api_address = listener.as_ref().map(api::Listener::address);
        if let Some(listener) = listener {
            starting.api(listener, TokenFile::in_data_dir(dir.path()), page.clone(), keys, observed);
        }
        reactions.lines.iter().for_each(|line| tracing::info!("{line}"));
        let Starting { network, store, queue, cancel, tasks, .. } = starting;
        tracing::info!(network = %network.spec.config_name, api = ?api_address, findings = store.count(), "watching");
        guard.disarm();
        Ok(Self {
            store,
            api_address,
            page,
            failed,
            broke,
            tasks,
            switches: reactions.switches,
            alerts: reactions.alerts,
            engine_thread: thread,
            cancel,
            queue: queue.downgrade(),
            rescheduled,
            _dir: dir,
        })
    }
}

/// The engine before its thread runs.
struct OpenEngine {
    engine: Engine,
    downtime: DowntimeLog,
    silence: SilenceTracker,
    unrecorded: mpsc::Receiver<Vec<Finding>>,
}

/// The engine's thread, and the receiving ends of its effects.
struct RunningEngine {
    thread: EngineThread,
    failed: oneshot::Receiver<EngineError>,
    verdicts: mpsc::Receiver<(Ticket, Verdict)>,
    requests: NodeRequests,
    named_blocks: watch::Receiver<Vec<WantedBlock>>,
    snapshot: watch::Receiver<Arc<EngineSnapshot>>,
    recent: watch::Receiver<Arc<api::Recent>>,
    unrecorded: mpsc::Receiver<Vec<Finding>>,
}

impl OpenEngine {
    fn open(
        config: &Config,
        dir: &DataDir,
        loaded: bootstrap::Start,
        active: &ActiveConfig,
        watch_state: &SharedWatchState,
        metrics: &Metrics,
    ) -> Result<Self, WatcherError> {
        let mut chain = loaded.chain;
        chain.compute_on_worker();
        let network = chain.network().clone();
        let (hand_over, unrecorded) = mpsc::channel(MAX_UNRECORDED);
        let parts = EngineParts {
            chain,
            keys: loaded.keys,
            verifier: Verifier::new(verify_config(config)),
            history_epochs: config.index.history_epochs,
            fold_after_epochs: config.index.fold_after_epochs,
            detect: config.detect.clone(),
            routes: active.routes.names(),
            unrecorded: Some(Box::new(move |findings| hand_over.try_send(findings).map_err(|error| error.to_string()))),
            metrics: metrics.clone(),
            clock: clock::now,
            watch: active.parts(watch_state),
        };
        let engine = Engine::open(&dir.index_path(), &dir.evidence_path(), parts)?;
        let downtime = DowntimeLog::start(engine.store().clone(), network.slot_at(clock::now().0))?;
        let silence = SilenceTracker::new(network, clock::now(), engine.earlier_silence());
        Ok(Self { engine, downtime, silence, unrecorded })
    }

    fn run(
        self,
        inputs: InputReceiver,
        limits: QueueLimits,
        blocks: BlockStore,
        status: watch::Sender<StatusView>,
    ) -> Result<RunningEngine, WatcherError> {
        let Self { engine, downtime, silence, unrecorded } = self;
        let (verdicts, verdicts_out) = mpsc::channel(MAX_VERDICTS);
        let (wanted_blocks, wanted) = watch::channel(Vec::<Root>::new());
        let (named_blocks, named_blocks_out) = watch::channel(Vec::new());
        let (wants_state, state) = watch::channel(false);
        let first = EngineSnapshot::of(&engine, silence.reception(), downtime.gaps());
        let (snapshot, snapshot_out) = watch::channel(Arc::new(first));
        let now = engine.chain().network().slot_at(clock::now().0);
        let (recent, recent_out) = watch::channel(Arc::new(api::Recent { now, ..api::Recent::default() }));
        let effects = Effects { verdicts, wanted_blocks, named_blocks, wants_state, snapshot, recent, blocks, status };
        let (fail, failed) = oneshot::channel();
        let body = move || match engine_thread::run(engine, downtime, silence, inputs, &effects, limits) {
            Ok(ended) => Some(ended),
            Err(error) => {
                let _ = fail.send(error);
                None
            }
        };
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(body)
            .map_err(|error| WatcherError::Internal(format!("cannot start the engine thread: {error}; check ulimit -u")))?;
        let requests = NodeRequests { blocks: wanted, state };
        Ok(RunningEngine {
            thread,
            failed,
            verdicts: verdicts_out,
            requests,
            named_blocks: named_blocks_out,
            snapshot: snapshot_out,
            recent: recent_out,
            unrecorded,
        })
    }
}

/// A watcher while its tasks are started.
struct Starting<'a> {
    config: &'a Config,
    network: Arc<Network>,
    store: Store,
    metrics: Metrics,
    queue: Inputs,
    cancel: CancellationToken,
    rescheduled: CancellationToken,
    tasks: Vec<NamedTask>,
    /// Receives the name of a task that broke.
    broken: mpsc::Sender<&'static str>,
}

/// What reacts to findings, and what it shows.
struct Reactions {
    switches: StoppedLast,
    alerts: StoppedLast,
    switch_state: watch::Receiver<Arc<KillSwitchState>>,
    active: watch::Receiver<Arc<ActiveConfig>>,
    rejected: watch::Receiver<Option<RejectedConfig>>,
    /// Notices about lists that could not be fetched.
    failed_lists: watch::Receiver<Vec<String>>,
    /// Lines for the log about what is watched.
    lines: Vec<String>,
}

impl Starting<'_> {
    /// Starts a task. If it panics, the watcher fails: one that goes on without a part of itself
    /// looks healthy and may be deaf.
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let broken = self.broken.clone();
        let task = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                let _ = broken.try_send(name);
            }
        };
        self.tasks.push((name, tokio::spawn(task)));
    }

    /// Starts the clock, which runs until `ended` is cancelled.
    fn clock(&mut self, gossip: Option<GossipControl>, coverage: SharedCoverage, ended: CancellationToken) {
        let (queue, network, metrics) = (self.queue.clone(), self.network.clone(), self.metrics.clone());
        self.spawn("clock", tick(queue, gossip, coverage, network, metrics, ended));
    }

    fn sources(&mut self, sources: RunningSources, verdicts: mpsc::Receiver<(Ticket, Verdict)>) {
        for source in sources.all {
            self.spawn(source.name(), listen::pump(source, self.queue.clone(), self.broken.clone(), self.cancel.clone()));
        }
        if let Some(gossip) = sources.gossip {
            self.spawn("verdicts", listen::report(gossip, verdicts));
        }
    }

    /// Starts to fetch the blocks since the state from peers.
    fn block_range(&mut self, peers: BlockClient, store: BlockStore, first_block: HeadView) {
        let range = BlockRange { peers, store, network: self.network.clone(), queue: self.queue.clone(), from: first_block };
        self.spawn("blocks since the state", range.run(self.cancel.clone()));
    }

    /// Starts to ask peers for blocks that signed messages name.
    fn named_blocks(&mut self, peers: BlockClient, wanted: watch::Receiver<Vec<WantedBlock>>) {
        let task = NamedBlocksTask { peers, queue: self.queue.clone() };
        self.spawn("named blocks", task.run(wanted, self.cancel.clone()));
    }

    /// Starts everything that asks beacon nodes, or endpoints for checkpoint sync if there is no
    /// node, and peers for blocks that no node has.
    fn nodes(
        &mut self,
        endpoints: &Endpoints,
        peers: Option<BlockClient>,
        dir: Arc<DataDir>,
        requests: NodeRequests,
        away: watch::Sender<Option<String>>,
        first_slot: Slot,
    ) -> Result<(), WatcherError> {
        let (nodes, role) = match (&endpoints.nodes, &endpoints.checkpoints) {
            (None, Some(checkpoints)) => (Some(checkpoints), NodeRole::Checkpoint),
            (nodes, _) => (nodes.as_ref(), NodeRole::Own),
        };
        let task = NodeTask {
            nodes: nodes.cloned(),
            role,
            peers,
            dir,
            network: self.network.clone(),
            queue: self.queue.clone(),
            metrics: self.metrics.clone(),
            refresh_epochs: self.config.nodes.refresh_epochs,
            away,
            from: first_slot,
            rescheduled: self.rescheduled.clone(),
        };
        self.spawn("nodes", task.run(requests, self.cancel.clone()));
        if let Some(nodes) = nodes.filter(|_| self.config.submission.enabled) {
            let (store, network, metrics) = (self.store.clone(), self.network.clone(), self.metrics.clone());
            let submitter = Submitter::new(store, nodes.clone(), network, metrics, now)?;
            self.spawn("submissions", submitter.run(self.cancel.clone()));
        }
        Ok(())
    }

    /// Starts kill switches and alerts, and the task that follows changes of their configuration.
    fn reactions(
        &mut self,
        dir: &DataDir,
        active: ActiveConfig,
        watch_state: &SharedWatchState,
        hangups: Option<Signal>,
        unrecorded: mpsc::Receiver<Vec<Finding>>,
    ) -> Result<Reactions, WatcherError> {
        let (network, store) = (self.network.clone(), self.store.clone());
        // The running executable, even if its file was replaced or removed since the start.
        let program = "/proc/self/exe".into();
        let (watched, dir) = (watch_state.clone(), dir.path().to_owned());
        let metrics = self.metrics.clone();
        let context = SwitchContext { network: network.clone(), watched, dir, program, metrics, now };
        let mut switches = KillSwitches::new(store.clone(), context)?;
        switches.arm(&active)?;
        let switch_state = switches.state();
        let lines = actions::lists::summary(&active, &watch_state.labels(), &switch_state.borrow());
        let (changed, changes) = watch::channel(Arc::new(active.clone()));
        let labelled = watch_state.clone();
        let is_named = move |finding: &Finding| {
            let labels = labelled.labels();
            finding.validator.as_ref().and_then(|subject| labels.get(subject.index)).is_none_or(|set| set.is_named)
        };
        let context = Context {
            network: alerts::name_of(&network),
            public_url: self.config.api.public_url.clone(),
            switches: Some(switches.notes()),
            named: Some(Arc::new(is_named)),
        };
        let alerts = StoppedLast::start(|stop| alerts::deliver(store, context, changes.clone(), now, stop));
        let switches = StoppedLast::start(|stop| switches.run(changes.clone(), unrecorded, stop));
        let (refused, rejected) = watch::channel(None);
        let (failed, failed_lists) = watch::channel(Vec::new());
        self.spawn("lists at URLs", remote::keep(changes.clone(), failed, self.cancel.clone()));
        let reports = ReloadReports { changed, refused, now };
        let source = self.config.source.clone();
        self.spawn(
            "lists",
            reload::follow(source, sections(&self.config.command_line), active, hangups, reports, self.cancel.clone()),
        );
        self.spawn("lists' changes", hand_over_lists(changes.clone(), self.queue.clone(), self.cancel.clone()));
        Ok(Reactions { switches, alerts, switch_state, active: changes, rejected, failed_lists, lines })
    }

    /// Starts the scheduled audits. Returns their notices.
    fn audits(
        &mut self,
        dir: &DataDir,
        active: watch::Receiver<Arc<ActiveConfig>>,
        watched: SharedWatchState,
    ) -> watch::Receiver<Vec<String>> {
        let (notices, shown) = watch::channel(Vec::new());
        let (network, queue, metrics) = (self.network.clone(), self.queue.clone(), self.metrics.clone());
        let task = AuditTask { network, index_path: dir.index_path(), active, watched, queue, metrics, notices, now };
        self.spawn("audits", task.run(self.cancel.clone()));
        shown
    }

    fn api(
        &mut self,
        listener: api::Listener,
        tokens: TokenFile,
        page: Arc<StatusPage>,
        keys: WatchedKeysSource,
        observed: LiveObserved,
    ) {
        let config = &self.config.api;
        let parts = api::ApiParts {
            store: self.store.clone(),
            status: page,
            watch: Arc::new(keys),
            observed: Arc::new(observed),
            own_keys: config.own_keys(),
            registry: self.metrics.registry.clone(),
            max_streams: config.max_streams,
            max_connections: config.max_connections,
            header_timeout: api::HEADER_TIMEOUT,
            hosts: config.admitted_hosts(),
            tokens: Some(tokens),
            read_needs_token: config.read_needs_token,
            requests_per_second: config.request_limit(),
            proxies: config.proxies.clone(),
            cors_origins: config.cors_origins.clone(),
        };
        self.spawn("api", serve(listener, parts, self.cancel.clone()));
    }
}

/// Opens the blocks that are kept for peers.
fn open_blocks(dir: &DataDir, network: &Network) -> Result<BlockStore, WatcherError> {
    let limits = StoreLimits { bytes: StoreLimits::BYTES, slots_per_epoch: network.preset().slots_per_epoch };
    let path = dir.blocks_path();
    BlockStore::open(&path, limits).map_err(|source| DataDirError::Io { path, source }.into())
}

/// Binds the API's address, with TLS if that is configured.
async fn bind(config: &Config) -> Result<api::Listener, ApiError> {
    let listener = api::bind(config.api.listen).await?;
    Ok(match config.api.tls_files() {
        Some(files) => listener.with_tls(&files)?,
        None => listener,
    })
}

async fn serve(listener: api::Listener, parts: api::ApiParts, cancel: CancellationToken) {
    if let Err(error) = api::serve(listener, parts, cancel).await {
        tracing::error!(%error, "the API stopped; findings are still recorded and alerts sent");
    }
}

/// Wakes the engine at fixed intervals, updates the gauges that nothing else updates, and tells
/// gossip how much stake each peer brings.
async fn tick(
    queue: Inputs,
    gossip: Option<GossipControl>,
    coverage: SharedCoverage,
    network: Arc<Network>,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            due = ticks.tick() => {
                // If the queue is full, its messages wake the engine anyway.
                let _ = queue.try_send(Input::Tick { late: due.elapsed() });
                metrics.queue.with_label_values(&["engine"]).set(queue.len() as i64);
                metrics.clock_slot.set(network.slot_at(clock::now().0).as_u64() as i64);
                let report = coverage.report();
                metrics.show_coverage(&report, coverage.punished());
                if let Some(gossip) = &gossip {
                    gossip.set_first_hand(report.by_peer.clone());
                }
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
        let active = changed.borrow_and_update().clone();
        for input in [Input::Watch(active.list.clone()), Input::Routes(active.routes.names())] {
            if queue.send(input).await.is_err() {
                return;
            }
        }
    }
}

/// Reads the sections of the configuration that may change while the watcher runs.
fn sections(options: &CommandLine) -> reload::ReadConfig {
    let options = options.clone();
    Arc::new(move |path| {
        let config = Config::load_with(Some(path), &options).map_err(|error| error.to_string())?;
        Ok((config.watch, config.alerts))
    })
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

fn queue_limits(config: &Config) -> QueueLimits {
    QueueLimits {
        messages: config.gossip.queue_messages,
        bytes: QueueLimits::BYTES,
        bytes_per_peer: QueueLimits::BYTES_PER_PEER,
        batch: config.verify.batch_messages,
        gather: config.verify.gather,
    }
}
