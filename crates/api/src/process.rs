//! How the process is: alive, ready, counted, described.

use crate::problem::Problem;
use crate::server::Shared;
use crate::view::{Readiness, StatusView};
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus::{Encoder as _, TextEncoder};
use std::sync::Arc;

/// The process is up.
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "process", responses((status = 200, description = "up", body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Listening, context loaded, index open.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "process", responses(
    (status = 200, description = "ready", body = Readiness),
    (status = 503, description = "not yet; the detail says what is missing", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn readyz(State(shared): State<Arc<Shared>>) -> Result<Json<Readiness>, Problem> {
    let readiness = shared.status.readiness();
    if readiness.is_ready() {
        return Ok(Json(readiness));
    }
    let parts = [
        (readiness.listening, "no source delivers yet"),
        (readiness.context_loaded, "registry and committees are not loaded yet"),
        (readiness.index_open, "the vote index is not open yet"),
    ];
    let missing: Vec<&str> = parts.into_iter().filter(|(is_there, _)| !is_there).map(|(_, text)| text).collect();
    Err(Problem::not_ready(format!("{}; try again in some seconds", missing.join(", "))))
}

/// Counters in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "process", responses((status = 200, description = "counters", body = String)))]
pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, Problem> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&shared.registry.gather(), &mut text).map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

/// What is watched, how far, and what came of it.
#[utoipa::path(get, path = "/v1/status", operation_id = "status", tag = "process", responses((status = 200, description = "status", body = StatusView)))]
pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> Json<StatusView> {
    Json(StatusView {
        schema: 1,
        status: shared.status.status(),
        findings: shared.store.last_seq(),
        deliveries: shared.store.outbox_counts(),
        ready: shared.status.readiness().is_ready(),
    })
}

/// This API, described.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "process", responses((status = 200, description = "this document", body = Object)))]
pub(crate) async fn openapi(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], shared.openapi.clone())
}
