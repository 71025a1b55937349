//! Binds the address, sets up the routes, and serves until told to stop.

use crate::access::{self, Access};
use crate::caching::{self, KeptAnswers};
use crate::connections::Apps;
use crate::hosts::Hosts;
use crate::metrics::Metrics;
use crate::numbers::HiddenNumbers;
use crate::privacy::{OwnKeys, Privacy, shows_addresses};
use crate::problem::ProblemDetails;
use crate::rate_limit::RateLimits;
use crate::slashings::SlashedValidators;
use crate::streams::Feed;
use crate::tls::{Tls, TlsError, TlsFiles};
use crate::tokens::{Scope, TokenFile, Tokens};
use crate::{
    NoKeys, NothingObserved, NothingReported, ObservedSource, StatusSource, WatchSource, beacon, connections, cors, coverage,
    docs, events, findings, heads, incidents, middleware, network, page, process, roots, slashings, slots, submissions,
    validators, watch as watched,
};
use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::get;
use consensus::Network;
use evidence::{EvidenceRef, Store, Subscription};
use prometheus::{IntCounter, Registry};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Why the API does not run.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "{address} is already in use by another program; stop that one, or choose another address (`api.listen`, or `--listen`)"
    )]
    PortInUse { address: SocketAddr },
    #[error("cannot listen on {address}: {source}; set another `api.listen`")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the API has ended by itself; restart, and report the lines of the log before this one")]
    Ended,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the registry already has the counters of an API ({0}); give each API its own registry")]
    Metrics(prometheus::Error),
}

/// The parts that the API shows, and its limits.
pub struct ApiParts {
    pub store: Store,
    pub status: Arc<dyn StatusSource>,
    pub watch: Arc<dyn WatchSource>,
    pub observed: Arc<dyn ObservedSource>,
    /// Whether watched keys and the labels of the operator's groups are shown to clients.
    pub own_keys: OwnKeys,
    /// The registry of all metrics on `/metrics`. The API adds its own counters to it.
    pub registry: Registry,
    /// Largest number of open event streams. A further one is refused with status 503.
    pub max_streams: usize,
    /// Largest number of open connections, event streams included. On [`crate::PROBE_CONNECTIONS`]
    /// further ones, only `/healthz`, `/readyz` and `/metrics` are answered.
    pub max_connections: usize,
    /// How long the head of a request may take to arrive, from the start of the connection or from
    /// the previous answer. Use [`crate::HEADER_TIMEOUT`] unless there is a reason for another
    /// value.
    pub header_timeout: Duration,
    /// Host names that an API on a loopback address accepts, besides this machine's own names.
    pub hosts: Vec<String>,
    /// Who may see more than everybody. `None` if tokens are not accepted.
    pub tokens: Option<TokenFile>,
    /// Whether all but `/healthz`, `/readyz` and `/metrics` needs a token.
    pub read_needs_token: bool,
    /// Requests per second that each address may send; `None` if they are not limited.
    pub requests_per_second: Option<NonZeroU32>,
    /// Reverse proxies that name their clients in `X-Forwarded-For`, besides this machine.
    pub proxies: Vec<IpAddr>,
    /// Origins whose pages may read the API through a browser.
    pub cors_origins: Vec<String>,
}

impl ApiParts {
    /// The parts of an API that shows the findings of a store and nothing else: nothing is reported
    /// about a process, nothing was heard, and no keys are watched. Everybody may read, as often as
    /// they like. Change the fields that should differ.
    pub fn of_store(store: Store, network: Network) -> Self {
        Self {
            store,
            status: Arc::new(NothingReported(network.genesis_validators_root)),
            watch: Arc::new(NoKeys),
            observed: Arc::new(NothingObserved(Arc::new(network))),
            own_keys: OwnKeys::Shown,
            registry: Registry::new(),
            max_streams: 2048,
            max_connections: 4096,
            header_timeout: connections::HEADER_TIMEOUT,
            hosts: Vec::new(),
            tokens: None,
            read_needs_token: false,
            requests_per_second: None,
            proxies: Vec::new(),
            cors_origins: Vec::new(),
        }
    }
}

/// A bound address that is not served yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
}

impl Listener {
    /// Returns the bound address. If port 0 was requested, it has the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Speaks TLS on this address, and nothing else.
    ///
    /// # Errors
    /// Certificate or key cannot be used; the error names the file.
    pub fn with_tls(self, files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { tls: Some(Tls::load(files)?), ..self })
    }
}

/// Binds the address, so that a port in use is reported before anything slow begins.
pub async fn bind(address: SocketAddr) -> Result<Listener, ApiError> {
    let bound = TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
    match bound {
        Ok((address, listener)) => Ok(Listener { listener, address, tls: None }),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(ApiError::PortInUse { address }),
        Err(source) => Err(ApiError::Bind { address, source }),
    }
}

/// Serves until `stop` is cancelled. Then event streams end, running answers get a grace period,
/// and the function returns.
///
/// The API has a thread of its own. However much its clients ask, peers are answered in time.
pub async fn serve(listener: Listener, parts: ApiParts, stop: CancellationToken) -> Result<(), ApiError> {
    let limits = connections::ConnectionLimits { connections: parts.max_connections, header_timeout: parts.header_timeout };
    let (apps, metrics) = apps(parts, listener.address, stop.clone())?;
    let failed = move |source| ApiError::Bind { address: listener.address, source };
    let tls = listener.tls;
    let listener = listener.listener.into_std().map_err(failed)?;
    let (done, ended) = oneshot::channel();
    let body = move || {
        let served = runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                let counters = connections::Counters { refused: metrics.connections_refused, tls_failed: metrics.tls_failed };
                let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
                let renewed = async {
                    match &tls {
                        Some(tls) => tls.follow().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = connections::serve(listener, acceptor, apps, limits, counters, stop) => {}
                    () = renewed => {}
                }
                Ok(())
            })
        });
        // Whoever waited may have stopped waiting.
        let _ = done.send(served);
    };
    std::thread::Builder::new().name("api".to_owned()).spawn(body).map_err(failed)?;
    ended.await.map_err(|_| ApiError::Ended)?.map_err(failed)
}

/// Runs `work`, the slow part of a start, and answers clients meanwhile. `/healthz` is answered as
/// usual, everything else with status 503 and `why`. All clients are disconnected before this
/// returns.
pub async fn answer_while<T>(listener: &Listener, why: &'static str, work: impl Future<Output = T>) -> Result<T, ApiError> {
    const CALLERS: usize = 64;
    let failed = |source| ApiError::Bind { address: listener.address, source };
    let twin = listener.listener.as_fd().try_clone_to_owned().map_err(failed)?;
    let twin = TcpListener::from_std(twin.into()).map_err(failed)?;
    let app = Router::new()
        .route("/healthz", get(process::healthz))
        .fallback(move || async move { ([(header::CONNECTION, "close")], ProblemDetails::not_ready(why)) });
    let apps = connections::Apps { all: app.clone(), probes: app };
    let limits = connections::ConnectionLimits { connections: CALLERS, header_timeout: connections::HEADER_TIMEOUT };
    let counter = |name| IntCounter::new(name, "not shown").map_err(ApiError::Metrics);
    let counters =
        connections::Counters { refused: counter("refused_while_starting")?, tls_failed: counter("failed_while_starting")? };
    let acceptor = listener.tls.as_ref().map(|tls| tls.acceptor.clone());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(connections::serve(twin, acceptor, apps, limits, counters, stop.clone()));
    let done = work.await;
    stop.cancel();
    // If this task fails, `work` is still done, so the error is ignored.
    let _ = serving.await;
    Ok(done)
}

/// Returns the OpenAPI document that `/openapi.json` serves.
pub fn openapi_json() -> String {
    let (_, mut openapi) = documented_routes().split_for_parts();
    docs::complete(&mut openapi);
    openapi.to_pretty_json().expect("the document has string keys only")
}

/// The state that all handlers share. There is one for each [`Scope`], and they differ in
/// `privacy`.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) status: Arc<dyn StatusSource>,
    pub(crate) observed: Arc<dyn ObservedSource>,
    pub(crate) privacy: Privacy,
    pub(crate) hosts: Hosts,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) max_streams: usize,
    pub(crate) free_streams: Arc<Semaphore>,
    /// One evidence pack is made at a time, because it reads much from the disk.
    pub(crate) packing: Arc<Semaphore>,
    /// How often findings and incidents were recorded since the start. A change wakes the event
    /// streams.
    pub(crate) recordings: watch::Receiver<u64>,
    /// What `/v1/events` sends, with the number of events in each piece.
    pub(crate) findings_feed: Arc<Feed<u64>>,
    /// What `/eth/v1/events` sends.
    pub(crate) slashings_feed: Arc<Feed<EvidenceRef>>,
    pub(crate) stop: CancellationToken,
    /// Held by the request that reads a pool of slashings.
    pub(crate) pools: Arc<tokio::sync::Mutex<()>>,
    pub(crate) slashed: Arc<SlashedValidators>,
    pub(crate) hidden_numbers: Arc<HiddenNumbers>,
    pub(crate) openapi: Bytes,
    pub(crate) kept: Arc<KeptAnswers>,
    _subscription: Arc<Subscription>,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "slashwatch",
    description = "Slashable messages and anomalies seen on Ethereum's beacon chain, with their proofs. Read only.",
    license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
))]
struct Document;

fn documented_routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(process::healthz))
        .routes(routes!(process::readyz))
        .routes(routes!(process::metrics))
        .routes(routes!(process::status))
        .routes(routes!(process::openapi))
        .routes(routes!(access::token))
        .routes(routes!(coverage::coverage))
        .routes(routes!(findings::list))
        .routes(routes!(findings::one))
        .routes(routes!(findings::evidence))
        .routes(routes!(findings::evidence_ssz))
        .routes(routes!(findings::evidence_by_id))
        .routes(routes!(incidents::list))
        .routes(routes!(incidents::one))
        .routes(routes!(incidents::pack))
        .routes(routes!(submissions::list))
        .routes(routes!(events::stream))
        .routes(routes!(watched::groups))
        .routes(routes!(watched::validators))
        .routes(routes!(validators::list))
        .routes(routes!(validators::one))
        .routes(routes!(slots::slot))
        .routes(routes!(slots::epoch))
        .routes(routes!(slots::participation))
        .routes(routes!(heads::heads))
        .routes(routes!(roots::root))
        .routes(routes!(network::forks))
        .routes(routes!(network::network))
        .routes(routes!(slashings::list))
        .routes(routes!(slashings::rss))
        .routes(routes!(beacon::events))
        .routes(routes!(beacon::attester_slashings))
        .routes(routes!(beacon::proposer_slashings))
        .routes(routes!(beacon::attester_slashings_v2))
        .routes(routes!(beacon::proposer_slashings_v2))
}

fn apps(parts: ApiParts, address: SocketAddr, stop: CancellationToken) -> Result<(Apps, Metrics), ApiError> {
    let ApiParts { store, status, watch: watched_keys, observed, own_keys, registry, max_streams, hosts, .. } = parts;
    let tokens = parts.tokens.map(Tokens::new);
    if parts.read_needs_token && tokens.as_ref().is_none_or(|tokens| !tokens.are_in_use()) {
        tracing::warn!("reading needs a token and there is none yet; `slashwatch token new --scope read` makes one");
    }
    let metrics = Metrics::new(&registry).map_err(ApiError::Metrics)?;
    let (recorded, recordings) = watch::channel(0);
    let subscription = store.subscribe(move |_| recorded.send_modify(|recordings| *recordings += 1));
    let findings_feed = || Arc::new(Feed::new(events::newest, events::read_batch));
    let shared = Arc::new(Shared {
        store,
        status,
        observed,
        privacy: Privacy { own_keys, watch: watched_keys, shows_addresses: shows_addresses(own_keys, address.ip()) },
        hosts: Hosts::of(address, &hosts),
        registry,
        metrics: metrics.clone(),
        max_streams,
        free_streams: Arc::new(Semaphore::new(max_streams.min(Semaphore::MAX_PERMITS))),
        packing: Arc::new(Semaphore::new(1)),
        recordings,
        findings_feed: findings_feed(),
        slashings_feed: Arc::new(Feed::new(beacon::newest, beacon::read_batch)),
        stop,
        pools: Arc::default(),
        slashed: Arc::default(),
        hidden_numbers: Arc::default(),
        openapi: openapi_json().into(),
        kept: Arc::default(),
        _subscription: Arc::new(subscription),
    });
    let (documented, openapi) = documented_routes().split_for_parts();
    metrics.start_at_zero(openapi.paths.paths.keys().map(String::as_str));
    let routes = documented
        .merge(page::routes())
        .merge(docs::routes())
        .fallback(|| async { ProblemDetails::not_found("this address does not exist; /openapi.json lists all addresses") })
        .method_not_allowed_fallback(|| async { ProblemDetails::method_not_allowed() });
    let view = |scope| {
        let shared = Arc::new(Shared {
            privacy: shared.privacy.for_scope(scope),
            kept: Arc::default(),
            findings_feed: findings_feed(),
            ..(*shared).clone()
        });
        let tag = axum::middleware::from_fn_with_state(shared.clone(), caching::tag);
        let guard = axum::middleware::from_fn_with_state(shared.clone(), middleware::guard);
        routes.clone().layer(tag).layer(CompressionLayer::new()).layer(guard).with_state(shared)
    };
    let access = Arc::new(Access {
        views: Scope::ALL.map(view),
        tokens,
        read_needs_token: parts.read_needs_token,
        limits: parts.requests_per_second.map(|limit| RateLimits::new(limit, parts.proxies)),
        metrics: metrics.clone(),
    });
    let mut router = Router::new().fallback(access::answer).with_state(access);
    if let Some(cors) = cors::layer(&parts.cors_origins) {
        router = router.layer(cors);
    }
    let probes = Router::new()
        .route("/healthz", get(process::healthz))
        .route("/readyz", get(process::readyz))
        .route("/metrics", get(process::metrics))
        .fallback(|| async { ProblemDetails::too_many_connections() })
        .layer(axum::middleware::from_fn_with_state(shared.clone(), middleware::guard))
        .with_state(shared);
    Ok((Apps { all: router, probes }, metrics))
}
