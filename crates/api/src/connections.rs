//! Accepting connections, so many at a time, each with a time limit for the head of a request and for taking the answer: who opens thousands,
//! sends a byte a minute or does not read what was asked for costs a bounded amount and keeps nobody out for long.

use crate::patience::Patience;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::IntCounter;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For the head of a request to arrive whole, from the connection's start or the answer before. A kept connection on which nothing
/// is asked is closed by it as well.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For 64 kB of an answer to be taken, while there is more to write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Head of a request at most, bytes; hyper's least is 8 kB.
const MAX_HEAD_BYTES: usize = 16 << 10;
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

/// Serves until `stop` is cancelled, and then until answers under way are finished, within a grace.
pub(crate) async fn serve(listener: TcpListener, app: Router, limits: Limits, refused: IntCounter, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    let mut open = JoinSet::new();
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
                let (app, stop) = (app.clone(), stop.clone());
                open.spawn(async move {
                    answer(stream, app, limits.header_timeout, stop).await;
                    drop(place);
                });
            }
            Err(_) => refused.inc(),
        }
    }
    drop(listener);
    // A client that takes nothing must not keep the process alive.
    let _ = tokio::time::timeout(STOP_GRACE, async { while open.join_next().await.is_some() {} }).await;
}

async fn answer(stream: TcpStream, app: Router, header_timeout: Duration, stop: CancellationToken) {
    // Small answers, each in one go; if the option is not there they are a little later.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
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
