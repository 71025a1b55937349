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

mod start;

use crate::clock;
use crate::config::Config;
use crate::datadir::DataDir;
use crate::downtime::DowntimeLog;
use crate::engine_thread::Input;
use crate::error::WatcherError;
use crate::inputs::{Inputs, WeakInputs};
use crate::listen::NamedTask;
use crate::status::{EngineSnapshot, StatusPage};
use api::StatusSource as _;
use engine::metrics::Metrics;
use engine::{Engine, EngineError};
use evidence::{Store, Time};
use sources::gossip::GossipControl;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Time between two starts because of a changed schedule. Two nodes may disagree.
const RESTART_PAUSE: Duration = Duration::from_secs(3600);
/// How long each task may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Runs until `stop` resolves or until an error occurs that the watcher cannot survive. If a beacon
/// node schedules a fork, the watcher starts again with it: a fork changes names of topics, domains
/// and committees all over the program. The price is a gap of some seconds, weeks before the fork.
pub fn run<F: Future<Output = ()>>(mut config: Config, stop: fn() -> F) -> Result<(), WatcherError> {
    runtime()?.block_on(async {
        // One future serves all phases. With several of them, a signal that comes between the
        // phases would be lost.
        let mut stopped = std::pin::pin!(stop());
        let mut restart_after = Instant::now();
        loop {
            let mut watcher = tokio::select! {
                biased;
                // Stops while the start still waits for a node, which may take long.
                () = &mut stopped => return Ok(()),
                started = Watcher::start(config.clone()) => started?,
            };
            let rescheduled = watcher.rescheduled.clone();
            let rescheduled = async {
                rescheduled.cancelled().await;
                tokio::time::sleep_until(restart_after.into()).await;
            };
            let ended = tokio::select! {
                () = &mut stopped => Some(Ok(())),
                error = watcher.failed() => Some(Err(error)),
                () = rescheduled => None,
            };
            let end = watcher.stop().await;
            match ended {
                Some(Ok(())) => return end,
                Some(Err(error)) => return Err(error),
                None => end?,
            }
            restart_after = Instant::now() + RESTART_PAUSE;
            config = read_again(config);
        }
    })
}

/// Reads the configuration's file again. Lists and routes may have changed while the watcher ran.
fn read_again(config: Config) -> Config {
    let Some(path) = &config.source else { return config };
    Config::load_with(Some(path), &config.command_line).unwrap_or_else(|error| {
        tracing::warn!(%error, "the configuration's file cannot be used any more; the watcher starts again with what it had");
        config
    })
}

/// Creates the threads of the async tasks. BLS and disk access run on other threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, WatcherError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime
        .map_err(|error| WatcherError::Internal(format!("cannot start threads: {error}; check the process limits (ulimit -u)")))
}

/// The engine's thread. It returns `None` after an error that was reported through
/// [`Watcher::failed`].
type EngineThread = JoinHandle<Option<(Engine, DowntimeLog)>>;

/// A running watcher.
pub struct Watcher {
    store: Store,
    api_address: Option<SocketAddr>,
    page: Arc<StatusPage>,
    failed: oneshot::Receiver<EngineError>,
    /// Receives the name of a task that panicked, or of a source that ended by itself.
    broke: mpsc::Receiver<&'static str>,
    tasks: Vec<NamedTask>,
    switches: StoppedLast,
    alerts: StoppedLast,
    engine_thread: EngineThread,
    cancel: CancellationToken,
    queue: WeakInputs,
    /// Cancelled when a beacon node has scheduled what this run does not follow.
    rescheduled: CancellationToken,
    // This field is the last one, so that the directory is released when everything else is
    // dropped.
    _dir: Arc<DataDir>,
}

impl Watcher {
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

    /// Tells the watcher that the network has ended, as a simulated one does. The clock stands
    /// still, so that the silence is no alarm, and the page shows what was recorded.
    pub fn network_ended(&self) {
        self.page.ended.cancel();
    }

    /// Returns a way to send messages that come from no source of the watcher itself. Returns
    /// `None` once the watcher stops.
    pub fn feed(&self) -> Option<MessageFeed> {
        self.queue.upgrade().map(MessageFeed)
    }

    /// Resolves when the watcher cannot continue: the disk is full, the database is damaged, or the
    /// program has a defect.
    pub async fn failed(&mut self) -> WatcherError {
        let ended =
            |what: &str| WatcherError::Internal(format!("{what} ended unexpectedly; please report what the log says above"));
        tokio::select! {
            failed = &mut self.failed => failed.map_or_else(|_| ended("the engine thread"), Into::into),
            Some(name) = self.broke.recv() => ended(name),
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
        let ended = tokio::task::spawn_blocking(move || finish_engine(engine_thread)).await;
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
fn finish_engine(engine_thread: EngineThread) -> Result<(), WatcherError> {
    match engine_thread.join() {
        Ok(Some((mut engine, mut downtime))) => {
            let now = clock::now();
            engine.finish(now)?;
            // No message waits any more, so the record goes up to the current slot.
            downtime.watched(engine.chain().network().slot_at(now.0), None).map_err(EngineError::from)?;
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
            tracing::error!(%error, "kill switches or alerts ended unexpectedly; please report what the log says above");
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

/// Returns the wall clock in the type that alerts and findings use.
pub fn now() -> Time {
    Time::from_unix_ns(clock::now().0)
}
