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
use crate::slashings::Outlook;
use crate::streams::{self, BATCH, BATCH_BYTES, EventBatch, Piece, Position};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use consensus::{Root, ValidatorIndex};
use evidence::{EvidenceKind, EvidenceRef, Finding, Punishable, Query as FindingQuery, SortOrder, StoreError};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use utoipa::ToSchema;

/// Proofs that a stream remembers, so that it sends each once: one proof may be that of many
/// findings, which may be recorded one after another.
const REMEMBERED: usize = 1024;
/// The first bytes of a stream.
const GREETING: &[u8] = b": connected\n\n";
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
) -> Result<Response, ProblemDetails> {
    let kinds = kinds(&query.map_err(|error| ProblemDetails::bad_request(error.body_text()))?.0)?;
    let joined = streams::join(&shared, &shared.slashings_feed)?;
    let position = newest(&shared);
    let feed = shared.slashings_feed.clone();
    // Proofs that were sent, the latest last.
    let mut sent: VecDeque<Root> = VecDeque::new();
    Ok(streams::answer(shared, feed, position, GREETING, joined, move |proof: &EvidenceRef| {
        if !kinds.contains(&proof.kind) || sent.contains(&proof.id) {
            return 0;
        }
        if sent.len() == REMEMBERED {
            sent.pop_front();
        }
        sent.push_back(proof.id);
        1
    }))
}

/// The newest finding. Incidents are no slashings.
pub(crate) fn newest(shared: &Shared) -> Position {
    Position { seq: shared.store.last_seq(), revision: 0 }
}

/// The proofs of the findings after a position, each as one event. One that accuses many validators
/// may come again in a later batch.
pub(crate) fn read_batch(shared: &Shared, after: Position) -> Result<EventBatch<EvidenceRef>, StoreError> {
    let mut until = after;
    let (mut events, mut n_bytes): (Vec<Piece<EvidenceRef>>, usize) = (Vec::new(), 0);
    for (seq, finding) in shared.store.findings_after(after.seq, BATCH)? {
        until.seq = seq;
        let Some(reference) = finding.evidence.as_ref().filter(|_| is_due(&finding)) else { continue };
        if events.iter().any(|event| event.about.id == reference.id) {
            continue;
        }
        let Some(evidence) = shared.store.evidence(reference.id)? else { continue };
        let text = format!("event: {}\ndata: {}\n\n", evidence.kind.as_str(), evidence.json);
        n_bytes += text.len();
        events.push(Piece { about: reference.clone(), bytes: text.into() });
        if n_bytes >= BATCH_BYTES {
            break;
        }
    }
    Ok(EventBatch { after, until, events })
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

/// The proofs that no block has. Of several that accuse the same validators only the newest is
/// given, as in a node's pool.
///
/// With thousands of findings it takes a second or two, so one pool is read at a time.
async fn pool(shared: &Arc<Shared>, kind: EvidenceKind) -> Result<Vec<Value>, ProblemDetails> {
    let _turn = shared.pools.lock().await;
    let (source, slashed, now) = (shared.observed.clone(), shared.slashed.clone(), shared.observed.recent().now);
    read(shared, move |store| {
        let mut outlook = Outlook { now, network: source.network(), records: BTreeMap::new() };
        let as_of = store.inclusion_changes();
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
                if slashed.contains(subject.index, as_of, store)? {
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
