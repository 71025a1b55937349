//! Incidents: what many findings and messages mean together, each in its current state.

use crate::findings::{PageQuery, Segment, hash, read, understood};
use crate::pack::{self, PackError};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use consensus::Network;
use evidence::{Incident, Time};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Incidents that one request reads at once at least, and how often it does.
const MIN_AT_ONCE: usize = 32;
const MAX_READS: usize = 64;

/// A page of incidents, in the order of their last change.
#[derive(Serialize, ToSchema)]
pub(crate) struct IncidentsView {
    schema: u64,
    incidents: Vec<Incident>,
    /// Cursor of the next page, for the parameter `cursor`. Null at the end.
    next: Option<String>,
}

/// Incidents in the order of their last change. An incident that changes meanwhile appears again at
/// the end.
#[utoipa::path(get, path = "/v1/incidents", operation_id = "listIncidents", tag = "incidents", params(PageQuery), responses(
    (status = 200, description = "a page", body = IncidentsView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<IncidentsView>, ProblemDetails> {
    let (after, limit) = understood(query)?.position()?;
    let privacy = shared.privacy.clone();
    let (incidents, next) = read(&shared, move |store| {
        let (mut incidents, mut after) = (Vec::new(), after);
        let at_once = (limit + 1).max(MIN_AT_ONCE);
        for _ in 0..MAX_READS {
            let rows = store.incidents_after(after, at_once)?;
            let is_end = rows.len() < at_once;
            for (revision, incident) in rows {
                // What is hidden makes no page short, and no page after the last one.
                if let Some(incident) = privacy.incident(incident) {
                    if incidents.len() == limit {
                        return Ok((incidents, Some(after)));
                    }
                    incidents.push(incident);
                }
                after = revision;
            }
            if is_end {
                return Ok((incidents, None));
            }
        }
        Ok((incidents, Some(after)))
    })
    .await?;
    Ok(Json(IncidentsView { schema: 1, incidents, next: next.map(|revision| revision.to_string()) }))
}

/// The findings of an incident, oldest first. The slots of an incident are those of its messages,
/// but never later than when they became known. So messages of clocks that run ahead are included
/// although their own slot comes later.
pub(crate) fn findings_query(network: &Network, incident: &Incident) -> evidence::Query {
    let end = network.slot_start_ns(incident.last_slot.saturating_add(1));
    evidence::Query {
        from_slot: Some(incident.first_slot),
        to_slot: Some(incident.last_slot),
        heard_before: Some(Time::from_unix_ns(end)),
        ..evidence::Query::default()
    }
}

/// One incident.
#[utoipa::path(get, path = "/v1/incidents/{id}", operation_id = "getIncident", tag = "incidents", params(("id" = String, Path, description = "0x-hex")), responses(
    (status = 200, description = "the incident", body = Incident),
    (status = 400, description = "no id", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Segment(id): Segment) -> Result<Json<Incident>, ProblemDetails> {
    let id = hash(&id)?;
    let found = read(&shared, move |store| store.incident(id)).await?;
    found
        .and_then(|incident| shared.privacy.incident(incident))
        .map(Json)
        .ok_or_else(|| ProblemDetails::not_found(format!("there is no incident {id}; /v1/incidents lists them")))
}

/// The evidence of an incident in one file: proofs with the keys to check them, whose keys, who is
/// next, what the network saw them sign, a timeline, and the draft of a post-mortem.
///
/// One pack is made at a time. Others are told to come back.
#[utoipa::path(get, path = "/v1/incidents/{id}/pack", operation_id = "getIncidentPack", tag = "incidents", params(("id" = String, Path, description = "0x-hex")), responses(
    (status = 200, description = "a zip file", body = Vec<u8>, content_type = "application/zip"),
    (status = 400, description = "no id", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 503, description = "another pack is being made, or the watcher is busy; ask again", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn pack(State(shared): State<Arc<Shared>>, Segment(id): Segment) -> Result<impl IntoResponse, ProblemDetails> {
    let id = hash(&id)?;
    let place = shared.packing.clone().try_acquire_owned().map_err(|_| ProblemDetails::busy())?;
    let parts = shared.clone();
    let work = move || {
        let _place = place;
        pack::build(&parts.store, &*parts.observed, &parts.privacy, id)
    };
    let made = tokio::task::spawn_blocking(work).await.map_err(|error| ProblemDetails::internal(&error))?;
    let made = made.map_err(|error| match error {
        PackError::Read(error) => ProblemDetails::from(error),
        PackError::Store(error) => ProblemDetails::from(error),
    })?;
    let bytes = made.ok_or_else(|| ProblemDetails::not_found(format!("there is no incident {id}; /v1/incidents lists them")))?;
    let name = format!("attachment; filename=\"incident-{}.zip\"", id.to_string().get(2..10).unwrap_or_default());
    Ok(([(header::CONTENT_TYPE, "application/zip".to_owned()), (header::CONTENT_DISPOSITION, name)], bytes))
}
