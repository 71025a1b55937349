//! Accepts connections. Their number is limited, and each has a time limit for the head of a
//! request and for taking the answer. A client that opens thousands of connections, sends a byte
//! per minute, or does not read its answer costs a bounded amount and blocks others only for a
//! short time.
//!
//! A monitoring system must get an answer even while all places are taken. So [`PROBE_CONNECTIONS`]
//! further places exist, on which only `/healthz`, `/readyz` and `/metrics` are answered. A new
//! connection always gets one of them, and the oldest one is closed for it. Such a request is
//! answered within a millisecond. So only a client that opens tens of thousands of connections per
//! second can displace it.

use crate::rate_limit::ClientAddress;
use crate::write_timeout::WriteTimeout;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::IntCounter;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_http::add_extension::AddExtension;

/// How long the head of a request may take to arrive, from the start of the connection or from the
/// previous answer. It also closes a kept-alive connection that sends no further request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client may take to accept 64 KiB of an answer while there is more to write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request, in bytes. Hyper allows no value below 8 KiB.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Number of places for `/healthz`, `/readyz` and `/metrics`, in addition to the limit for all
/// connections.
pub const PROBE_CONNECTIONS: usize = 64;
/// How long the head of a request may take on these places.
const PROBE_HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stop waits for running answers. Event streams end at once.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause when the system has no free socket. An open connection must end first.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(200);

/// Limits of all connections together and of each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections: usize,
    pub(crate) header_timeout: Duration,
}

/// The routers that answer requests.
pub(crate) struct Apps {
    pub(crate) all: Router,
    /// For the places that are kept for monitoring.
    pub(crate) probes: Router,
}

/// What is counted about connections.
pub(crate) struct Counters {
    pub(crate) refused: IntCounter,
    pub(crate) tls_failed: IntCounter,
}

/// Serves until `stop` is cancelled. Then it waits for running answers, within a grace period. With
/// an acceptor, all connections are TLS.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    apps: Apps,
    limits: ConnectionLimits,
    counters: Counters,
    stop: CancellationToken,
) {
    let Counters { refused, tls_failed } = counters;
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
            Ok((stream, peer)) => {
                AcceptedStream { stream, peer: peer.ip(), acceptor: acceptor.clone(), tls_failed: tls_failed.clone() }
            }
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
    // A client that does not read must not keep the process alive.
    let _ = tokio::time::timeout(STOP_GRACE, async { while open.join_next().await.is_some() {} }).await;
}

/// A connection that is not set up yet.
struct AcceptedStream {
    stream: TcpStream,
    peer: IpAddr,
    /// `None` without TLS.
    acceptor: Option<TlsAcceptor>,
    tls_failed: IntCounter,
}

/// Sets a connection up, and answers its requests until it ends.
async fn answer(accepted: AcceptedStream, app: Router, header_timeout: Duration, keep_alive: bool, stop: CancellationToken) {
    let AcceptedStream { stream, peer, acceptor, tls_failed } = accepted;
    // Answers are small and are sent in one piece. If the option cannot be set, they are only a
    // little later.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return answer_on(stream, peer, app, header_timeout, keep_alive, stop).await;
    };
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(header_timeout, acceptor.accept(stream)) => handshake,
        () = stop.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => answer_on(stream, peer, app, header_timeout, keep_alive, stop).await,
        Ok(Err(error)) => {
            tls_failed.inc();
            tracing::debug!(%error, "a TLS connection was not set up");
        }
        Err(_) => tls_failed.inc(),
    }
}

async fn answer_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: IpAddr,
    app: Router,
    header_timeout: Duration,
    keep_alive: bool,
    stop: CancellationToken,
) {
    let app = AddExtension::new(app, ClientAddress(peer));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .keep_alive(keep_alive)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, WRITE_TIMEOUT)), TowerToHyperService::new(app));
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
