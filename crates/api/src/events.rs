//! `/v1/events`: findings as server-sent events, as they are recorded.
//!
//! A stream is only a position in the store. It reads what comes after its position, page by page.
//! When it has caught up, it waits for the notification that follows each recording. So no finding
//! can be missed between old and live ones. There is no queue per client that could overflow, and a
//! slow client costs one page of findings. Streams that have caught up read the same, so one of
//! them reads it for all ([`StreamReads`]).
//!
//! The id of an event is the number of the finding in the order of recording. A client that
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
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use evidence::{Finding, StoreError};
use futures::Stream;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::IntoParams;

/// How long the rows that one stream has read are good for the others. Findings change a little
/// after they were recorded, when a block includes their slashing.
const READ_IS_FRESH: Duration = Duration::from_millis(250);
/// Findings that a stream holds in memory at once.
const PAGE: usize = 64;
/// Incidents that are sent again to a client that reconnects.
const RESUMED_INCIDENTS: usize = 256;
/// If no finding comes for this long, a comment is sent. It makes proxies keep the connection and
/// shows whether the connection is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long browsers wait before they reconnect.
const RECONNECT: Duration = Duration::from_secs(2);

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
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ProblemDetails> {
    let query = understood(query)?;
    let newest = shared.store.last_seq();
    let last_seen = match headers.get("last-event-id") {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
            Some(id.ok_or_else(|| ProblemDetails::bad_request("Last-Event-ID must be a number that an event had as its id"))?)
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
        ProblemDetails::too_many_streams(shared.max_streams)
    })?;
    shared.metrics.streams.inc();
    let reader = EventCursor {
        bell: shared.recordings.clone(),
        position,
        revision,
        findings: Rows::default(),
        incidents: Rows::default(),
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

/// The position of one client in the findings.
struct EventCursor {
    shared: Arc<Shared>,
    bell: watch::Receiver<u64>,
    /// Number of the last finding that was read.
    position: u64,
    /// Revision of the last incident that was read.
    revision: u64,
    findings: Rows,
    incidents: Rows,
    greeted: bool,
    _place: OwnedSemaphorePermit,
}

impl EventCursor {
    /// Returns the next event. `None` ends the stream, at shutdown or when the store cannot be
    /// read.
    async fn next(&mut self) -> Option<Event> {
        if self.shared.stop.is_cancelled() {
            return None;
        }
        if !self.greeted {
            // The headers and this comment are sent at once, so the client knows that it is
            // connected before anything happens.
            self.greeted = true;
            return Some(Event::default().retry(RECONNECT).comment("connected"));
        }
        loop {
            if let Some((seq, data)) = self.findings.next() {
                let Some(data) = data else { continue };
                self.shared.metrics.stream_events.inc();
                return Some(Event::default().event("finding").id(seq.to_string()).data(data));
            }
            if let Some((_, data)) = self.incidents.next() {
                let Some(data) = data else { continue };
                self.shared.metrics.stream_events.inc();
                return Some(Event::default().event("incident").data(data));
            }
            // This must come before reading, so that anything recorded later notifies again.
            let recordings = *self.bell.borrow_and_update();
            let reads = &self.shared.stream_reads;
            self.findings = reads.findings.after(&self.shared, self.position, recordings, findings_after).await.ok()?;
            if let Some(seq) = self.findings.last() {
                self.position = seq;
                continue;
            }
            self.incidents = reads.incidents.after(&self.shared, self.revision, recordings, incidents_after).await.ok()?;
            if let Some(revision) = self.incidents.last() {
                self.revision = revision;
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

/// Findings or incidents by number, as they are sent. `None` for those that readers may not see.
type Row = (u64, Option<String>);

fn findings_after(shared: &Shared, seq: u64) -> Result<Vec<Row>, StoreError> {
    let text = |finding| serde_json::to_string(&finding).expect("a finding has string keys only");
    let rows = shared.store.findings_after(seq, PAGE)?.into_iter();
    Ok(rows.map(|(seq, finding)| (seq, shared.privacy.finding(finding).map(text))).collect())
}

fn incidents_after(shared: &Shared, revision: u64) -> Result<Vec<Row>, StoreError> {
    let text = |incident| serde_json::to_string(&incident).expect("an incident has string keys only");
    let rows = shared.store.incidents_after(revision, PAGE)?.into_iter();
    Ok(rows.map(|(revision, incident)| (revision, shared.privacy.incident(incident).map(text))).collect())
}

/// Rows that were read, and how many of them a stream has sent.
#[derive(Default)]
struct Rows {
    rows: Arc<[Row]>,
    sent: usize,
}

impl Rows {
    fn next(&mut self) -> Option<(u64, Option<&str>)> {
        let (number, data) = self.rows.get(self.sent)?;
        self.sent += 1;
        Some((*number, data.as_deref()))
    }

    fn last(&self) -> Option<u64> {
        self.rows.last().map(|(number, _)| *number)
    }
}

/// What streams read last. With thousands of streams, each recording makes all of them read the
/// same rows at the same moment.
#[derive(Default)]
pub(crate) struct StreamReads {
    findings: LastRead,
    incidents: LastRead,
}

#[derive(Default)]
struct LastRead(tokio::sync::Mutex<Option<ReadRows>>);

struct ReadRows {
    after: u64,
    /// Number of recordings when the rows were read.
    recordings: u64,
    at: Instant,
    rows: Arc<[Row]>,
}

impl LastRead {
    /// The rows after a number, from the last read if it is fresh and read the same.
    async fn after(
        &self,
        shared: &Arc<Shared>,
        after: u64,
        recordings: u64,
        from_store: fn(&Shared, u64) -> Result<Vec<Row>, StoreError>,
    ) -> Result<Rows, ProblemDetails> {
        // Whoever reads holds the lock, so that the others wait for these rows and read none.
        let mut last = self.0.lock().await;
        if let Some(last) = &*last
            && (last.after, last.recordings) == (after, recordings)
            && last.at.elapsed() < READ_IS_FRESH
        {
            return Ok(Rows { rows: last.rows.clone(), sent: 0 });
        }
        let reader = shared.clone();
        let rows: Arc<[Row]> = read(shared, move |_| from_store(&reader, after)).await?.into();
        *last = Some(ReadRows { after, recordings, at: Instant::now(), rows: rows.clone() });
        Ok(Rows { rows, sent: 0 })
    }
}

impl Drop for EventCursor {
    fn drop(&mut self) {
        self.shared.metrics.streams.dec();
    }
}
