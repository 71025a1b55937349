//! `/v1/events`: findings as they are recorded, as server-sent events.
//!
//! A stream is a position in the store and nothing else: it reads what comes after it, page by page, and only when it has
//! caught up waits for the bell that rings after each recording. So there is no moment between "old" and "live" in which a
//! finding could be missed, no queue per client that could overflow, and a slow client costs one page of findings.
//!
//! The event's id is the finding's number in the order of recording. A client that comes back says the last one it saw, in
//! `Last-Event-ID` as browsers do by themselves or as `?after=`, and goes on behind it. A number that this store has not
//! reached (it was of another database) starts from the beginning: findings have ids, so seeing one twice is harmless.
//!
//! Incidents come in the same stream as `event: incident`, with their new state, whenever they change. They carry no id of the
//! stream, so the place among the findings stays what it is. Who comes back gets the present state of the [`RESUMED_INCIDENTS`] that
//! changed last, whatever number of changes that were, and who begins at 0 that of all.

use crate::findings::{number, read, understood};
use crate::problem::Problem;
use crate::server::Shared;
use crate::view::FindingSchema;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use evidence::{Finding, Incident};
use futures::Stream;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::IntoParams;

/// Findings that a stream holds at once.
const PAGE: usize = 64;
/// Incidents told again to who comes back.
const RESUMED_INCIDENTS: usize = 256;
/// A comment is sent after this long without a finding, so that proxies keep the connection and a dead one shows.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What browsers are told to wait before they come back.
const RECONNECT: Duration = Duration::from_secs(2);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Begin after this number; 0 for everything. `Last-Event-ID` goes before it. Without either: what comes from now on.
    after: Option<String>,
}

/// Findings as they are recorded: `event: finding`, `id:` its number, `data:` the finding. Incidents as they change:
/// `event: incident`, `data:` the incident.
#[utoipa::path(get, path = "/v1/events", operation_id = "streamEvents", tag = "findings", params(
    EventsQuery,
    ("Last-Event-ID" = Option<u64>, Header, description = "go on after this event"),
), responses(
    (status = 200, description = "a stream that does not end", body = FindingSchema, content_type = "text/event-stream"),
    (status = 400, description = "after or Last-Event-ID is no number", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "all streams are taken", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn stream(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let query = understood(query)?;
    let newest = shared.store.last_seq();
    let last_seen = match headers.get("last-event-id") {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
            Some(id.ok_or_else(|| Problem::bad_request("Last-Event-ID must be a number that an event had as its id"))?)
        }
        None => number(&query.after, "after")?,
    };
    let revision = match last_seen {
        None => shared.store.last_incident_revision(),
        Some(0) => 0,
        Some(_) => read(&shared, |store| store.revision_before_last(RESUMED_INCIDENTS)).await?,
    };
    let position = match last_seen {
        Some(seq) if seq > newest => 0,
        Some(seq) => seq,
        None => newest,
    };
    let place = shared.free_streams.clone().try_acquire_owned().map_err(|_| {
        shared.metrics.streams_refused.inc();
        Problem::too_many_streams(shared.max_streams)
    })?;
    shared.metrics.streams.inc();
    let reader = Reader {
        bell: shared.newest.clone(),
        position,
        revision,
        page: VecDeque::new(),
        incidents: VecDeque::new(),
        greeted: false,
        shared,
        _place: place,
    };
    let events = futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")))
}

/// One client's place in the findings.
struct Reader {
    shared: Arc<Shared>,
    bell: watch::Receiver<u64>,
    /// Number of the last finding that was read.
    position: u64,
    /// Of the last incident that was read.
    revision: u64,
    page: VecDeque<(u64, Finding)>,
    incidents: VecDeque<(u64, Incident)>,
    greeted: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The next event; `None` ends the stream, at shutdown or when the store cannot be read.
    async fn next(&mut self) -> Option<Event> {
        if self.shared.stop.is_cancelled() {
            return None;
        }
        if !self.greeted {
            // Headers and this leave at once, so the client knows that it is connected before anything happens.
            self.greeted = true;
            return Some(Event::default().retry(RECONNECT).comment("connected"));
        }
        loop {
            if let Some((seq, finding)) = self.page.pop_front() {
                let Some(finding) = self.shared.privacy.finding(finding) else { continue };
                let data = serde_json::to_string(&finding).expect("a finding has string keys only");
                self.shared.metrics.stream_events.inc();
                return Some(Event::default().event("finding").id(seq.to_string()).data(data));
            }
            if let Some((_, incident)) = self.incidents.pop_front() {
                let Some(incident) = self.shared.privacy.incident(incident) else { continue };
                let data = serde_json::to_string(&incident).expect("an incident has string keys only");
                self.shared.metrics.stream_events.inc();
                return Some(Event::default().event("incident").data(data));
            }
            // Before reading: what is recorded after this line rings again.
            self.bell.mark_unchanged();
            let position = self.position;
            self.page = read(&self.shared, move |store| store.findings_after(position, PAGE)).await.ok()?.into();
            if let Some((seq, _)) = self.page.back() {
                self.position = *seq;
                continue;
            }
            let revision = self.revision;
            self.incidents = read(&self.shared, move |store| store.incidents_after(revision, PAGE)).await.ok()?.into();
            if let Some((revision, _)) = self.incidents.back() {
                self.revision = *revision;
                continue;
            }
            let stop = self.shared.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return None,
                rung = self.bell.changed() => rung.ok()?,
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.metrics.streams.dec();
    }
}
