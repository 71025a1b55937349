//! Slashings in the form of the beacon API, so that programs written for a beacon node learn of a
//! slashing when it is proven here, before any block has it.
//!
//! Only slashings are here, and all of it is read only. A slashing is given if it is proven, and if
//! somebody can still be punished for it as far as this watcher knows. A node would give no other
//! either.
//!
//! Source: beacon-APIs, `apis/eventstream` and `apis/beacon/pool`.

use crate::findings::read;
use crate::problem::ProblemDetails;
use crate::server::Shared;
use crate::slashings::{Outlook, is_slashed};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Sse};
use consensus::{Root, ValidatorIndex};
use evidence::{Evidence, EvidenceKind, Finding, Punishable, Query as FindingQuery, SortOrder};
use futures::Stream;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::ToSchema;

/// Findings that a stream holds in memory at once.
const PAGE: usize = 64;
/// Proofs that a stream remembers, so that it sends each once: one proof may be that of many
/// findings, which may be recorded one after another.
const REMEMBERED: usize = 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Findings that a request for the pool reads at once, and how often it does.
const CHUNK: usize = 500;
const MAX_CHUNKS: usize = 8;
/// Limits of the pool: number of proofs, and the size of them all in SSZ.
const MAX_POOL: usize = 256;
const MAX_POOL_BYTES: usize = 4 << 20;

/// A pool without a version.
#[derive(Serialize, ToSchema)]
pub(crate) struct PoolView {
    /// `AttesterSlashing` or `ProposerSlashing`, newest first.
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
}

/// A pool with the fork that is in force.
#[derive(Serialize, ToSchema)]
pub(crate) struct VersionedPoolView {
    version: &'static str,
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
}

/// Slashings as they are proven, in the form of the beacon API: `event: attester_slashing` or
/// `event: proposer_slashing`, `data:` the slashing.
#[utoipa::path(get, path = "/eth/v1/events", operation_id = "beaconEvents", tag = "beacon", params(
    ("topics" = Vec<String>, Query, description = "topics of the beacon API, repeated or separated by commas; `attester_slashing`, `proposer_slashing` or both must be among them, and nothing is sent for the others")
), responses(
    (status = 200, description = "a stream that does not end", body = Value, content_type = "text/event-stream"),
    (status = 400, description = "topics are missing or wrong", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 503, description = "all streams are taken", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ProblemDetails> {
    let kinds = kinds(&query.map_err(|error| ProblemDetails::bad_request(error.body_text()))?.0)?;
    let place = shared.free_streams.clone().try_acquire_owned().map_err(|_| {
        shared.metrics.streams_refused.inc();
        ProblemDetails::too_many_streams(shared.max_streams)
    })?;
    shared.metrics.streams.inc();
    let position = shared.store.last_seq();
    let cursor = SlashingCursor {
        bell: shared.recordings.clone(),
        position,
        kinds,
        page: VecDeque::new(),
        sent: VecDeque::new(),
        greeted: false,
        shared,
        _place: place,
    };
    let events = futures::stream::unfold(cursor, |mut cursor| async move {
        let event = cursor.next().await?;
        Some((Ok(event), cursor))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Attester slashings that are proven here and in no block, newest first.
#[utoipa::path(get, path = "/eth/v1/beacon/pool/attester_slashings", operation_id = "poolAttesterSlashings", tag = "beacon", responses(
    (status = 200, description = "the pool", body = PoolView)))]
pub(crate) async fn attester_slashings(State(shared): State<Arc<Shared>>) -> Result<Json<PoolView>, ProblemDetails> {
    Ok(Json(PoolView { data: pool(&shared, EvidenceKind::AttesterSlashing).await? }))
}

/// Proposer slashings that are proven here and in no block, newest first.
#[utoipa::path(get, path = "/eth/v1/beacon/pool/proposer_slashings", operation_id = "poolProposerSlashings", tag = "beacon", responses(
    (status = 200, description = "the pool", body = PoolView)))]
pub(crate) async fn proposer_slashings(State(shared): State<Arc<Shared>>) -> Result<Json<PoolView>, ProblemDetails> {
    Ok(Json(PoolView { data: pool(&shared, EvidenceKind::ProposerSlashing).await? }))
}

/// As version 1, with the fork that is in force, also in the header `Eth-Consensus-Version`.
#[utoipa::path(get, path = "/eth/v2/beacon/pool/attester_slashings", operation_id = "poolAttesterSlashingsV2", tag = "beacon", responses(
    (status = 200, description = "the pool", body = VersionedPoolView)))]
pub(crate) async fn attester_slashings_v2(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, ProblemDetails> {
    versioned(&shared, EvidenceKind::AttesterSlashing).await
}

/// As version 1, with the fork that is in force, also in the header `Eth-Consensus-Version`.
#[utoipa::path(get, path = "/eth/v2/beacon/pool/proposer_slashings", operation_id = "poolProposerSlashingsV2", tag = "beacon", responses(
    (status = 200, description = "the pool", body = VersionedPoolView)))]
pub(crate) async fn proposer_slashings_v2(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, ProblemDetails> {
    versioned(&shared, EvidenceKind::ProposerSlashing).await
}

async fn versioned(shared: &Arc<Shared>, kind: EvidenceKind) -> Result<impl IntoResponse + use<>, ProblemDetails> {
    let network = shared.observed.network();
    let fork = network.spec.fork_name_at(shared.observed.recent().now.epoch(network.preset()));
    let data = pool(shared, kind).await?;
    let header = [(HeaderName::from_static("eth-consensus-version"), HeaderValue::from_static(fork.as_str()))];
    Ok((header, Json(VersionedPoolView { version: fork.as_str(), data })))
}

/// The slashings among the topics of a request.
fn kinds(parameters: &[(String, String)]) -> Result<Vec<EvidenceKind>, ProblemDetails> {
    if let Some((name, _)) = parameters.iter().find(|(name, _)| name != "topics" && name != "topics[]") {
        return Err(ProblemDetails::bad_request(format!("parameter {name:?} is unknown; there is topics")));
    }
    let mut kinds = Vec::new();
    for topic in parameters.iter().flat_map(|(_, topics)| topics.split(',')).map(str::trim) {
        let kind = match topic {
            "attester_slashing" => EvidenceKind::AttesterSlashing,
            "proposer_slashing" => EvidenceKind::ProposerSlashing,
            // A program for a beacon node asks for several at once, and forks bring new ones.
            _ => continue,
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        let detail = "only slashings are sent here: topics must have attester_slashing, proposer_slashing or both";
        return Err(ProblemDetails::bad_request(detail));
    }
    Ok(kinds)
}

/// Whether somebody can still be punished, as far as this watcher knows.
fn is_due(finding: &Finding) -> bool {
    finding.punishable.is_some_and(Punishable::is_possible)
}

/// The position of one client in the findings.
struct SlashingCursor {
    shared: Arc<Shared>,
    bell: watch::Receiver<u64>,
    /// Number of the last finding that was read.
    position: u64,
    kinds: Vec<EvidenceKind>,
    page: VecDeque<Finding>,
    /// Proofs that were sent, the latest last.
    sent: VecDeque<Root>,
    greeted: bool,
    _place: OwnedSemaphorePermit,
}

impl SlashingCursor {
    /// Returns the next event. `None` ends the stream, at shutdown or when the store cannot be
    /// read.
    async fn next(&mut self) -> Option<Event> {
        if self.shared.stop.is_cancelled() {
            return None;
        }
        if !self.greeted {
            // The headers are sent with the first bytes, so the client knows that it is connected.
            self.greeted = true;
            return Some(Event::default().comment("connected"));
        }
        loop {
            if let Some(finding) = self.page.pop_front() {
                let Some(evidence) = self.new_proof(&finding).await? else { continue };
                self.shared.metrics.stream_events.inc();
                let data = serde_json::to_string(&evidence.json).expect("a proof has string keys only");
                return Some(Event::default().event(evidence.kind.as_str()).data(data));
            }
            // This must come before reading, so that anything recorded later notifies again.
            self.bell.mark_unchanged();
            let position = self.position;
            let page = read(&self.shared, move |store| store.findings_after(position, PAGE)).await.ok()?;
            if let Some((seq, _)) = page.last() {
                self.position = *seq;
                self.page = page.into_iter().map(|(_, finding)| finding).collect();
                continue;
            }
            let stop = self.shared.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return None,
                rung = self.bell.changed() => rung.ok()?,
            }
        }
    }

    /// The proof of a finding, if it is wanted and was not sent. The outer `None` ends the stream.
    async fn new_proof(&mut self, finding: &Finding) -> Option<Option<Evidence>> {
        let Some(reference) = finding.evidence.as_ref().filter(|reference| self.kinds.contains(&reference.kind)) else {
            return Some(None);
        };
        let id = reference.id;
        if !is_due(finding) || self.sent.contains(&id) {
            return Some(None);
        }
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(id);
        read(&self.shared, move |store| store.evidence(id)).await.ok()
    }
}

impl Drop for SlashingCursor {
    fn drop(&mut self) {
        self.shared.metrics.streams.dec();
    }
}

/// The proofs that no block has. Of several that accuse the same validators only the newest is
/// given, as in a node's pool.
///
/// With thousands of findings it takes a second or two, so one pool is read at a time.
async fn pool(shared: &Arc<Shared>, kind: EvidenceKind) -> Result<Vec<Value>, ProblemDetails> {
    let _turn = shared.pools.lock().await;
    let (source, now) = (shared.observed.clone(), shared.observed.recent().now);
    read(shared, move |store| {
        let mut outlook = Outlook { now, network: source.network(), records: BTreeMap::new() };
        let mut slashed = BTreeMap::new();
        let (mut data, mut n_bytes) = (Vec::new(), 0);
        let mut accused: BTreeSet<ValidatorIndex> = BTreeSet::new();
        let mut query = FindingQuery { order: SortOrder::NewestFirst, ..FindingQuery::default() };
        for _ in 0..MAX_CHUNKS {
            let chunk = store.find(&query, CHUNK)?;
            outlook.learn(chunk.findings.iter().map(|(_, finding)| finding), &*source);
            for (_, finding) in chunk.findings {
                let Some(reference) = finding.evidence.as_ref().filter(|reference| reference.kind == kind) else { continue };
                let Some(subject) = finding.validator.as_ref().filter(|subject| !accused.contains(&subject.index)) else {
                    continue;
                };
                if !outlook.is_due(&finding) || finding.included.is_some() {
                    continue;
                }
                if is_slashed(subject.index, &mut slashed, store)? {
                    continue;
                }
                let Some(evidence) = store.evidence(reference.id)? else { continue };
                n_bytes += evidence.ssz.len();
                if data.len() == MAX_POOL || n_bytes > MAX_POOL_BYTES {
                    return Ok(data);
                }
                accused.insert(subject.index);
                accused.extend(evidence.accused());
                data.push(evidence.json);
            }
            match chunk.next {
                Some(next) => query.after = next,
                None => break,
            }
        }
        Ok(data)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &[(&str, &str)]) -> Result<Vec<EvidenceKind>, ProblemDetails> {
        kinds(&query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn topics_come_repeated_or_with_commas_and_must_have_a_slashing() {
        let both = [EvidenceKind::AttesterSlashing, EvidenceKind::ProposerSlashing];
        assert_eq!(asked(&[("topics", "attester_slashing,proposer_slashing")]).unwrap(), both);
        // As Vero asks.
        let vero = ["head", "chain_reorg", "attester_slashing", "proposer_slashing"].map(|topic| ("topics", topic));
        assert_eq!(asked(&vero).unwrap(), both);
        assert_eq!(asked(&[("topics", "proposer_slashing"), ("topics", "proposer_slashing")]).unwrap(), both[1..]);
        for wrong in [&[][..], &[("topics", "head")], &[("topics", "attester_slashings")], &[("topic", "attester_slashing")]] {
            assert!(asked(wrong).is_err(), "{wrong:?}");
        }
    }
}
