//! The API's own metrics. All other metrics on `/metrics` come from the registry that the API is
//! given.

use crate::access::TokenOutcome;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Requests by route and class of status. The route is the pattern and never contains values.
pub const REQUESTS: &str = "slashwatch_api_requests_total";
/// Number of open event streams.
pub const STREAMS: &str = "slashwatch_api_streams";
/// Event streams that were refused because all places were taken.
pub const STREAMS_REFUSED: &str = "slashwatch_api_streams_refused_total";
/// Findings sent on all event streams together.
pub const STREAM_EVENTS: &str = "slashwatch_api_stream_events_total";

/// Requests by what happened with their token. Requests without a token that need none are not
/// among them.
pub const TOKENS: &str = "slashwatch_api_tokens_total";
/// Requests that were refused because their client had sent too many.
pub const RATE_LIMITED: &str = "slashwatch_api_rate_limited_total";
/// TLS connections that ended before they were set up.
pub const TLS_FAILED: &str = "slashwatch_api_tls_handshakes_failed_total";

/// Connections that were closed at once because all places were taken.
pub const CONNECTIONS_REFUSED: &str = "slashwatch_api_connections_refused_total";

/// Route label of requests that match no route.
pub(crate) const NO_ROUTE: &str = "none";
/// Classes of status, for example `2xx`.
pub(crate) const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The registered metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) streams: IntGauge,
    pub(crate) streams_refused: IntCounter,
    pub(crate) stream_events: IntCounter,
    pub(crate) connections_refused: IntCounter,
    tokens: IntCounterVec,
    pub(crate) rate_limited: IntCounter,
    pub(crate) tls_failed: IntCounter,
}

impl Metrics {
    /// Creates and registers the metrics. It fails only if `registry` already has the metrics of an
    /// API.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            requests: IntCounterVec::new(Opts::new(REQUESTS, "Requests by route and class of status"), &["route", "class"])?,
            streams: IntGauge::new(STREAMS, "Event streams open now")?,
            streams_refused: IntCounter::new(STREAMS_REFUSED, "Event streams refused because all were taken")?,
            stream_events: IntCounter::new(STREAM_EVENTS, "Findings sent on event streams")?,
            connections_refused: IntCounter::new(CONNECTIONS_REFUSED, "Connections closed at once because all were taken")?,
            tokens: IntCounterVec::new(Opts::new(TOKENS, "Requests by what happened with their token"), &["outcome"])?,
            rate_limited: IntCounter::new(RATE_LIMITED, "Requests refused because their client had sent too many")?,
            tls_failed: IntCounter::new(TLS_FAILED, "TLS connections that ended before they were set up")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.streams.clone()))?;
        registry.register(Box::new(metrics.streams_refused.clone()))?;
        registry.register(Box::new(metrics.stream_events.clone()))?;
        registry.register(Box::new(metrics.connections_refused.clone()))?;
        registry.register(Box::new(metrics.tokens.clone()))?;
        registry.register(Box::new(metrics.rate_limited.clone()))?;
        registry.register(Box::new(metrics.tls_failed.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn count_token(&self, outcome: TokenOutcome) {
        self.tokens.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Creates the counters of requests and tokens with the value 0 for each of their labels, so
    /// that `increase()` sees the first error.
    pub(crate) fn start_at_zero<'a>(&self, routes: impl Iterator<Item = &'a str>) {
        for outcome in TokenOutcome::ALL {
            self.tokens.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        for route in routes.chain([NO_ROUTE]) {
            for class in CLASSES {
                self.requests.with_label_values(&[route, class]).inc_by(0);
            }
        }
    }
}
