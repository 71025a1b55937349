//! Findings and their evidence.

use crate::incidents::findings_query;
use crate::privacy::OwnKeys;
use crate::problem::ProblemDetails;
use crate::server::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use consensus::{Root, Slot, ValidatorIndex};
use evidence::{Audience, Evidence, Finding, Kind, Severity, SortOrder, Store};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Rows on a page of any list if the request has no limit.
const DEFAULT_LIMIT: usize = 100;
/// Greatest number of rows on a page.
const MAX_LIMIT: usize = 1000;

/// A query as received. Values are texts, so that an error can name the parameter that is wrong.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The field `next` of the page before.
    cursor: Option<String>,
    /// `asc` for the order of recording, `desc` for newest first. The default is `asc`. A cursor
    /// belongs to the order that gave it.
    order: Option<String>,
    /// Only this kind, such as `double_vote`.
    kind: Option<String>,
    /// Only this severity: `critical`, `warning` or `info`.
    severity: Option<String>,
    /// Only this validator, by index.
    validator: Option<String>,
    /// Only findings with this label, such as `operator=acme`.
    label: Option<String>,
    /// Only findings that concern this group of watched keys.
    group: Option<String>,
    /// Only from this slot on.
    since_slot: Option<String>,
    /// Only up to this slot.
    until_slot: Option<String>,
    /// Only findings of this incident, by its id. It stands for its slots, and for messages of
    /// clocks that were ahead of them. Not with `since_slot` or `until_slot`.
    incident: Option<String>,
    /// 1 to 1000. The default is 100.
    limit: Option<String>,
}

impl ListQuery {
    fn understood(self, shared: &Shared) -> Result<(evidence::Query, usize), ProblemDetails> {
        let limit = page_limit(&self.limit)?;
        let order = match self.order.as_deref() {
            None | Some("asc") => SortOrder::OldestFirst,
            Some("desc") => SortOrder::NewestFirst,
            Some(other) => return Err(ProblemDetails::bad_request(format!("order must be asc or desc, not {other:?}"))),
        };
        let severity = self.severity.map(|text| {
            let known = Severity::ALL.into_iter().find(|severity| severity.as_str() == text);
            known.ok_or_else(|| ProblemDetails::bad_request(format!("severity must be critical, warning or info, not {text:?}")))
        });
        if self.label.as_ref().is_some_and(|label| !label.contains('=')) {
            return Err(ProblemDetails::bad_request("label must be written as key=value"));
        }
        let kind = self.kind.map(|name| {
            let known = || Kind::all().map(|kind| kind.to_string()).collect::<Vec<_>>().join(", ");
            Kind::known(&name)
                .ok_or_else(|| ProblemDetails::bad_request(format!("kind {name:?} is unknown; there are {}", known())))
        });
        let labels = self.label.into_iter().chain(self.group.map(|group| format!("group={group}")));
        let wanted = evidence::Query {
            after: number(&self.cursor, "cursor")?.unwrap_or(0),
            order,
            kind: kind.transpose()?,
            validator: number(&self.validator, "validator")?.map(ValidatorIndex::new),
            severity: severity.transpose()?,
            labels: labels.map(|label| shared.privacy.label(label)).collect::<Result<_, _>>()?,
            from_slot: number(&self.since_slot, "since_slot")?.map(Slot::new),
            to_slot: number(&self.until_slot, "until_slot")?.map(Slot::new),
            heard_before: None,
            only_public: shared.privacy.only_public(),
        };
        Ok((wanted, limit))
    }
}

/// A page of findings, in the order of recording.
#[derive(Serialize, ToSchema)]
pub(crate) struct FindingsView {
    schema: u64,
    findings: Vec<Finding>,
    /// Cursor of the next page, for the parameter `cursor`. Null at the end. A page may have fewer
    /// findings than requested and still have a page after it.
    next: Option<String>,
}

/// The query of a list without filters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Cursor from the previous page (`next`).
    cursor: Option<String>,
    /// Length of the page, 1 to 1000. The default is 100.
    limit: Option<String>,
}

impl PageQuery {
    /// Returns the number after which the page begins, and its length.
    pub(crate) fn position(&self) -> Result<(u64, usize), ProblemDetails> {
        Ok((number(&self.cursor, "cursor")?.unwrap_or(0), page_limit(&self.limit)?))
    }
}

/// `?format=ssz` or `?format=json`. It takes precedence over `Accept`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FormatQuery {
    format: Option<String>,
}

/// Findings in the order of recording, or newest first.
#[utoipa::path(get, path = "/v1/findings", operation_id = "listFindings", tag = "findings", params(ListQuery), responses(
    (status = 200, description = "a page", body = FindingsView),
    (status = 400, description = "a parameter is wrong", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 403, description = "a label that is not shown on this address", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "there is no such incident", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ProblemDetails> {
    let mut query = understood(query)?;
    let incident = query.incident.take().map(|id| hash(&id)).transpose()?;
    let (mut wanted, limit) = query.understood(&shared)?;
    if let Some(id) = incident {
        if wanted.from_slot.is_some() || wanted.to_slot.is_some() {
            return Err(ProblemDetails::bad_request("an incident has its own slots; leave out since_slot and until_slot"));
        }
        let found = read(&shared, move |store| store.incident(id)).await?;
        let found = found
            .and_then(|incident| shared.privacy.incident(incident))
            .ok_or_else(|| ProblemDetails::not_found(format!("there is no incident {id}; /v1/incidents lists them")))?;
        let of = findings_query(&shared.observed.network(), &found);
        wanted = evidence::Query { from_slot: of.from_slot, to_slot: of.to_slot, heard_before: of.heard_before, ..wanted };
    }
    if shared.privacy.changes_findings() {
        // The stored severity may be that of a watched key, so it selects nothing where these are
        // hidden.
        let is_hidden = shared.privacy.own_keys == OwnKeys::Hidden;
        let severity = if is_hidden { wanted.severity.take() } else { None };
        let reader = shared.clone();
        let (page, next) = read(&shared, move |store| {
            if wanted.kind.as_ref().is_some_and(|kind| is_hidden && kind.audience() != Audience::Public) {
                return Ok((Vec::new(), None));
            }
            wanted.after = reader.numbers(store)?.stored(wanted.after);
            let page = store.find(&wanted, limit)?;
            let numbers = reader.numbers(store)?;
            Ok((page.findings, page.next.map(|stored| numbers.shown_cursor(stored, wanted.order))))
        })
        .await?;
        let findings = page.into_iter().filter_map(|(_, finding)| shared.privacy.finding(finding));
        let findings = findings.filter(|finding| severity.is_none_or(|severity| finding.severity == severity)).collect();
        let view = FindingsView { schema: 1, findings, next: next.map(|number| number.to_string()) };
        return Ok(Json(view).into_response());
    }
    // Everything may be shown as it is, so the stored JSON is copied and not written again.
    let (rows, next) = read(&shared, move |store| store.find_json(&wanted, limit)).await?;
    let next = next.map_or_else(|| "null".to_owned(), |seq| format!("\"{seq}\""));
    let body = [&br#"{"schema":1,"findings":["#[..], &rows.join(&b','), br#"],"next":"#, next.as_bytes(), b"}"].concat();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// One finding.
#[utoipa::path(get, path = "/v1/findings/{id}", operation_id = "getFinding", tag = "findings", params(("id" = String, Path, description = "0x-hex")), responses(
    (status = 200, description = "the finding", body = Finding),
    (status = 400, description = "no id, or a parameter that nobody knows", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn one(State(shared): State<Arc<Shared>>, Segment(id): Segment) -> Result<Json<Finding>, ProblemDetails> {
    Ok(Json(finding(&shared, &id).await?))
}

/// The proof of a finding: the object that a beacon node's pool accepts as it is.
///
/// JSON, or SSZ with `Accept: application/octet-stream` or `?format=ssz`. `Eth-Consensus-Version`
/// names the fork.
#[utoipa::path(get, path = "/v1/findings/{id}/evidence", operation_id = "getFindingEvidence", tag = "findings",
    params(("id" = String, Path, description = "the finding's id, 0x-hex"), FormatQuery), responses(
    (status = 200, description = "AttesterSlashing or ProposerSlashing", content(
        (Object = "application/json"), (Vec<u8> = "application/octet-stream"))),
    (status = 400, description = "no id, or a parameter that nobody knows", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown, or an anomaly, which has none", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 406, description = "neither JSON nor SSZ is accepted", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn evidence(
    State(shared): State<Arc<Shared>>,
    Segment(id): Segment,
    query: Result<Query<FormatQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    let format = EvidenceFormat::wanted(&understood(query)?, &headers)?;
    Ok(format.show(&evidence_of(&shared, &id).await?))
}

/// The proof of a finding as SSZ.
#[utoipa::path(get, path = "/v1/findings/{id}/evidence.ssz", operation_id = "getFindingEvidenceSsz", tag = "findings",
    params(("id" = String, Path, description = "the finding's id, 0x-hex")), responses(
    (status = 200, description = "AttesterSlashing or ProposerSlashing", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 400, description = "no id, or a parameter that nobody knows", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown, or an anomaly, which has none", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn evidence_ssz(State(shared): State<Arc<Shared>>, Segment(id): Segment) -> Result<Response, ProblemDetails> {
    Ok(EvidenceFormat::Ssz.show(&evidence_of(&shared, &id).await?))
}

/// A proof by its own id. The format is given by the ending `.ssz` or `.json`, or by `?format` or
/// `Accept`.
#[utoipa::path(get, path = "/v1/evidence/{id}", operation_id = "getEvidence", tag = "findings",
    params(("id" = String, Path, description = "the evidence's id, 0x-hex, or a file name from a finding"), FormatQuery), responses(
    (status = 200, description = "AttesterSlashing or ProposerSlashing", content(
        (Object = "application/json"), (Vec<u8> = "application/octet-stream"))),
    (status = 400, description = "no id, or a parameter that nobody knows", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 404, description = "unknown", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 406, description = "neither JSON nor SSZ is accepted", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn evidence_by_id(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment,
    query: Result<Query<FormatQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    let (id, format) = match name.rsplit_once('.') {
        Some((id, "ssz")) => (id, EvidenceFormat::Ssz),
        Some((id, "json")) => (id, EvidenceFormat::Json),
        _ => (name.as_str(), EvidenceFormat::wanted(&understood(query)?, &headers)?),
    };
    let id = hash(id)?;
    let found = read(&shared, move |store| store.evidence(id)).await?;
    Ok(format.show(&found.ok_or_else(|| ProblemDetails::not_found(format!("there is no evidence {id}; findings name theirs")))?))
}

#[derive(Clone, Copy)]
enum EvidenceFormat {
    Json,
    Ssz,
}

impl EvidenceFormat {
    fn wanted(query: &FormatQuery, headers: &HeaderMap) -> Result<Self, ProblemDetails> {
        match query.format.as_deref() {
            Some("ssz") => return Ok(Self::Ssz),
            Some("json") => return Ok(Self::Json),
            Some(other) => {
                return Err(ProblemDetails::bad_request(format!("format {other:?} is unknown; there are json and ssz")));
            }
            None => {}
        }
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().map_err(|_| ProblemDetails::bad_request("Accept is not readable; leave it out for JSON"))?;
        // The first supported type is taken. Weights are ignored.
        for media in accept.split(',').filter_map(|item| item.split(';').next()) {
            match media.trim() {
                "application/octet-stream" => return Ok(Self::Ssz),
                "application/json" | "application/*" | "*/*" | "text/html" => return Ok(Self::Json),
                _ => {}
            }
        }
        Err(ProblemDetails::not_acceptable("there are application/json and application/octet-stream (SSZ)"))
    }

    fn show(self, evidence: &Evidence) -> Response {
        let mut response = match self {
            Self::Json => Json(&evidence.json).into_response(),
            Self::Ssz => ([(header::CONTENT_TYPE, "application/octet-stream")], evidence.ssz.clone()).into_response(),
        };
        let headers = response.headers_mut();
        headers.insert("eth-consensus-version", HeaderValue::from_static(evidence.fork.as_str()));
        // The name is the hash of the content, so the content never changes. The two forms differ
        // by `Accept`.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        response
    }
}

/// The parameter in the path of a route. If it is wrong, the response is a problem.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemDetails> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text))
            .map_err(|error| ProblemDetails::bad_request(format!("{}; an id is plain text", error.body_text())))
    }
}

async fn finding(shared: &Arc<Shared>, id: &str) -> Result<Finding, ProblemDetails> {
    let id = hash(id)?;
    let found = read(shared, move |store| store.finding(id)).await?;
    found
        .and_then(|(_, finding)| shared.privacy.finding(finding))
        .ok_or_else(|| ProblemDetails::not_found(format!("there is no finding {id}; /v1/findings lists them")))
}

async fn evidence_of(shared: &Arc<Shared>, id: &str) -> Result<Evidence, ProblemDetails> {
    let finding = finding(shared, id).await?;
    let Some(reference) = finding.evidence else {
        return Err(ProblemDetails::not_found(format!(
            "{} is no offence, so there is nothing to prove; see its details",
            finding.kind
        )));
    };
    let found = read(shared, move |store| store.evidence(reference.id)).await?;
    found.ok_or_else(|| {
        ProblemDetails::not_found(format!("the store has no evidence for {}; the data directory may be damaged", finding.id))
    })
}

/// Reads from the store on a thread that may wait for the disk.
pub(crate) async fn read<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&Store) -> Result<T, evidence::StoreError> + Send + 'static,
) -> Result<T, ProblemDetails> {
    let store = shared.store.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(ProblemDetails::internal(&error)),
    }
}

pub(crate) fn understood<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ProblemDetails> {
    query
        .map(|Query(query)| query)
        .map_err(|error| ProblemDetails::bad_request(format!("{}; /openapi.json has the parameters", error.body_text())))
}

pub(crate) fn number(text: &Option<String>, name: &str) -> Result<Option<u64>, ProblemDetails> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ProblemDetails::bad_request(format!("{name} must be a whole number, not {text:?}")))
}

/// The `limit` of any list.
pub(crate) fn page_limit(text: &Option<String>) -> Result<usize, ProblemDetails> {
    match number(text, "limit")?.map(usize::try_from) {
        None => Ok(DEFAULT_LIMIT),
        Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        Some(_) => Err(ProblemDetails::bad_request(format!("limit must be 1 to {MAX_LIMIT}; use the cursor for more"))),
    }
}

pub(crate) fn hash(text: &str) -> Result<Root, ProblemDetails> {
    let wrong = || ProblemDetails::bad_request(format!("{text:?} is no id; one is 0x and 64 hex digits"));
    if !text.starts_with("0x") {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}
