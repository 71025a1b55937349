//! `/v1/events`: findings as server-sent events, as they are recorded.
//!
//! How streams are served is in [`crate::streams`].
//!
//! The id of an event is the number of the finding in the order of recording, among those that the
//! client may see ([`crate::numbers`]). A client that
//! reconnects sends the last number that it saw, in `Last-Event-ID` as browsers do, or as
//! `?after=`. The stream continues after that number. If this store has not reached the number, it
//! comes from another database, and the stream starts from the beginning. Findings have ids, so a
//! client that sees one twice can recognise it.
//!
//! Incidents come in the same stream as `event: incident`, with their new state, whenever they
//! change. They carry no event id, so the client's position among the findings stays the same. A
//! client that reconnects gets the current state of the [`RESUMED_INCIDENTS`] incidents that
//! changed last, however many changes there were. A client that starts at 0 gets the current state
//! of all incidents.

use crate::findings::{number, read, understood};
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::streams::{self, BATCH, BATCH_BYTES, EventBatch, Piece, Position};
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use evidence::{Finding, StoreError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::IntoParams;

/// Incidents that are sent again to a client that reconnects.
const RESUMED_INCIDENTS: usize = 256;
/// The first bytes of a stream. Browsers wait two seconds before they reconnect.
const GREETING: &[u8] = b"retry: 2000\n: connected\n\n";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Start after this number; 0 means from the beginning. `Last-Event-ID` takes precedence over
    /// it. Without either, the stream starts with the next finding.
    after: Option<String>,
}

/// Findings as they are recorded: `event: finding`, `id:` its number, `data:` the finding.
/// Incidents as they change: `event: incident`, `data:` the incident.
#[utoipa::path(get, path = "/v1/events", operation_id = "streamEvents", tag = "findings", params(
    EventsQuery,
    ("Last-Event-ID" = Option<u64>, Header, description = "go on after this event"),
), responses(
    (status = 200, description = "a stream that does not end", body = Finding, content_type = "text/event-stream"),
    (status = 400, description = "after or Last-Event-ID is no number", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 503, description = "all streams are taken", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn stream(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, ProblemDetails> {
    let query = understood(query)?;
    let last_seen = match headers.get("last-event-id") {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
            Some(id.ok_or_else(|| ProblemDetails::bad_request("Last-Event-ID must be a number that an event had as its id"))?)
        }
        None => number(&query.after, "after")?,
    };
    let joined = streams::join(&shared, &shared.findings_feed)?;
    let newest = newest(&shared);
    let revision = match last_seen {
        None => newest.revision,
        Some(0) => 0,
        Some(_) => read(&shared, |store| store.revision_before_last(RESUMED_INCIDENTS)).await?,
    };
    let seq = match last_seen {
        Some(number) => {
            let reader = shared.clone();
            let seq = read(&shared, move |store| Ok(reader.numbers(store)?.stored(number))).await?;
            if seq > newest.seq { 0 } else { seq }
        }
        None => newest.seq,
    };
    let feed = shared.findings_feed.clone();
    Ok(streams::answer(shared, feed, Position { seq, revision }, GREETING, joined, |n_events| *n_events))
}

/// The newest finding and the latest change of an incident.
pub(crate) fn newest(shared: &Shared) -> Position {
    Position { seq: shared.store.last_seq(), revision: shared.store.last_incident_revision() }
}

/// Findings and incidents after a position, as they are sent: all in one piece, with their number.
/// Incidents come when no more findings are left.
pub(crate) fn read_batch(shared: &Shared, after: Position) -> Result<EventBatch<u64>, StoreError> {
    let (mut until, mut bytes, mut n_events) = (after, Vec::new(), 0);
    let findings = shared.store.findings_after(after.seq, BATCH)?;
    let mut is_full = findings.len() == BATCH;
    let numbers = shared.numbers(&shared.store)?;
    for (seq, finding) in findings {
        until.seq = seq;
        if let Some(finding) = shared.privacy.finding(finding) {
            n_events += 1;
            let number = numbers.shown(seq);
            bytes.extend_from_slice(format!("event: finding\nid: {number}\n").as_bytes());
            put_data(&mut bytes, &finding);
        }
        if bytes.len() >= BATCH_BYTES {
            is_full = true;
            break;
        }
    }
    let incidents = if is_full { Vec::new() } else { shared.store.incidents_after(after.revision, BATCH)? };
    for (revision, incident) in incidents {
        until.revision = revision;
        if let Some(incident) = shared.privacy.incident(incident) {
            n_events += 1;
            bytes.extend_from_slice(b"event: incident\n");
            put_data(&mut bytes, &incident);
        }
        if bytes.len() >= BATCH_BYTES {
            break;
        }
    }
    let events = if n_events == 0 { Vec::new() } else { vec![Piece { about: n_events, bytes: Bytes::from(bytes) }] };
    Ok(EventBatch { after, until, events })
}

/// Writes the data of an event, and its end. JSON on one line has no line breaks.
fn put_data(bytes: &mut Vec<u8>, data: &impl Serialize) {
    bytes.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *bytes, data).expect("memory takes everything, and its keys are strings");
    bytes.extend_from_slice(b"\n\n");
}
