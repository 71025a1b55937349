//! Accepting connections, so many at a time, each with a time limit for the head of a request and for taking the answer: who opens thousands,
//! sends a byte a minute or does not read what was asked for costs a bounded amount and keeps nobody out for long.
//!
//! Who watches the watcher must get an answer even while all places are taken. So there are [`PROBE_CONNECTIONS`] more places on which only
//! `/healthz`, `/readyz` and `/metrics` are answered. A new connection always gets one: the oldest of them gives way. Such a request is
//! answered within a millisecond, so it is only pushed out by somebody who opens tens of thousands of connections a second.

use crate::patience::Patience;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::IntCounter;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// For the head of a request to arrive whole, from the connection's start or the answer before. A kept connection on which nothing
/// is asked is closed by it as well.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For 64 kB of an answer to be taken, while there is more to write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Head of a request at most, bytes; hyper's least is 8 kB.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Places that are kept for `/healthz`, `/readyz` and `/metrics`, beyond the limit for all connections.
pub const PROBE_CONNECTIONS: usize = 64;
/// On them, for the head of a request.
const PROBE_HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stop waits for answers under way. Event streams end at once.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// When the system has no socket to give: what is open must end first.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(200);

/// What all connections together, and each, may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) header_timeout: Duration,
}

/// What answers.
pub(crate) struct Apps {
    pub(crate) all: Router,
    /// On the places that are kept for those who watch the watcher.
    pub(crate) probes: Router,
}

/// Serves until `stop` is cancelled, and then until answers under way are finished, within a grace.
pub(crate) async fn serve(listener: TcpListener, apps: Apps, limits: Limits, refused: IntCounter, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let mut open = JoinSet::new();
    let mut probes: VecDeque<AbortHandle> = VecDeque::with_capacity(PROBE_CONNECTIONS);
    loop {
        while open.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(NO_SOCKET_PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let (app, stop) = (apps.all.clone(), stop.clone());
                open.spawn(async move {
                    answer(stream, app, limits.header_timeout, true, stop).await;
                    drop(place);
                });
            }
            Err(_) => {
                refused.inc();
                probes.retain(|probe| !probe.is_finished());
                if probes.len() == PROBE_CONNECTIONS
                    && let Some(oldest) = probes.pop_front()
                {
                    oldest.abort();
                }
                let timeout = limits.header_timeout.min(PROBE_HEADER_TIMEOUT);
                let (app, stop) = (apps.probes.clone(), stop.clone());
                probes.push_back(open.spawn(async move { answer(stream, app, timeout, false, stop).await }));
            }
        }
    }
    drop(listener);
    // A client that takes nothing must not keep the process alive.
    let _ = tokio::time::timeout(STOP_GRACE, async { while open.join_next().await.is_some() {} }).await;
}

async fn answer(stream: TcpStream, app: Router, header_timeout: Duration, keep_alive: bool, stop: CancellationToken) {
    // Small answers, each in one go; if the option is not there they are a little later.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .keep_alive(keep_alive)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patience::new(stream, WRITE_TIMEOUT)), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
