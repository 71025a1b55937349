//! Handlers about the process: health, readiness, metrics, status, and the description of the API.

use crate::coverage::CoverageSummary;
use crate::findings::read;
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::status::{Readiness, StatusAnswer};
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

/// Votes or blocks arrived within the last two slots, the context is loaded, and the index is open.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "process", responses(
    (status = 200, description = "ready", body = Readiness),
    (status = 503, description = "not ready; the detail says what is missing, since when, and what to do", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn readyz(State(shared): State<Arc<Shared>>) -> Result<Json<Readiness>, ProblemDetails> {
    let readiness = shared.privacy.readiness(shared.status.readiness());
    if readiness.is_ready() {
        return Ok(Json(readiness));
    }
    let since = readiness.since.map_or_else(String::new, |since| format!(" since {since}"));
    let missing = readiness.missing().join(", ");
    Err(ProblemDetails::not_ready(format!("{missing}{since}; {}", readiness.advice.join("; "))))
}

/// Counters in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "process", responses((status = 200, description = "counters", body = String)))]
pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, ProblemDetails> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&shared.registry.gather(), &mut text).map_err(|error| ProblemDetails::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

/// What is watched, how far the watcher has come, and the results.
#[utoipa::path(get, path = "/v1/status", operation_id = "status", tag = "process", responses((status = 200, description = "status", body = StatusAnswer)))]
pub(crate) async fn status(State(shared): State<Arc<Shared>>) -> Result<Json<StatusAnswer>, ProblemDetails> {
    let reader = shared.clone();
    let findings = read(&shared, move |store| {
        let newest = store.last_seq();
        Ok(reader.numbers(store)?.shown(newest))
    })
    .await?;
    let readiness = shared.privacy.readiness(shared.status.readiness());
    Ok(Json(StatusAnswer {
        schema: 1,
        status: shared.privacy.status(shared.status.status()),
        findings,
        deliveries: shared.store.outbox_counts(),
        coverage: shared.status.coverage().map(|coverage| CoverageSummary {
            first_hand: coverage.first_hand,
            last_epoch: coverage.last_epoch,
            punished: coverage.punished,
        }),
        ready: readiness.is_ready(),
        readiness,
    }))
}

/// The description of this API.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "process", responses((status = 200, description = "this document", body = Object)))]
pub(crate) async fn openapi(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], shared.openapi.clone())
}
