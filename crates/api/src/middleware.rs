//! The layer that every request and every answer passes: limits, headers, and a counter.

use crate::metrics::{CLASSES, Metrics, NO_ROUTE};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// Largest length of path and query together, in bytes.
const MAX_URI_BYTES: usize = 2048;
/// Largest length of a body, in bytes. No request of this API needs a body.
const MAX_BODY_BYTES: usize = 1024;

/// The page consists of our own files and connects only to this server. It must not be framed, and
/// its content types must not be guessed.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
];

pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // A client may send many requests at once. Between two of them others have their turn.
    tokio::task::yield_now().await;
    // The pattern and not the path is the label, because a label must have few values.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match refused(&request, &shared) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    with_headers(response, route.as_ref().map(MatchedPath::as_str), &shared.metrics)
}

/// Completes an answer and counts it by its route.
pub(crate) fn with_headers(mut response: Response, route: Option<&str>, metrics: &Metrics) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let class = CLASSES[usize::from(response.status().as_u16() / 100).clamp(2, 5) - 2];
    metrics.requests.with_label_values(&[route.unwrap_or(NO_ROUTE), class]).inc();
    response
}

fn refused(request: &Request, shared: &Shared) -> Option<ProblemDetails> {
    if !shared.hosts.admit(request) {
        return Some(ProblemDetails::wrong_host());
    }
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URI_BYTES {
        return Some(ProblemDetails::too_long("address", MAX_URI_BYTES));
    }
    let length = request.headers().get(header::CONTENT_LENGTH)?;
    let length: usize = length.to_str().ok()?.parse().ok()?;
    (length > MAX_BODY_BYTES).then(|| ProblemDetails::too_long("body", MAX_BODY_BYTES))
}
