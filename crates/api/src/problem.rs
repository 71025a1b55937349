//! Errors as RFC 9457 `application/problem+json`. Each says what happened and what to do.

use crate::access::{NotShown, TokenOutcome};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// An error as a client sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDetails {
    /// `urn:slashwatch:problem:<word>`. Clients should compare this and not the texts.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip)]
    retry_after_s: Option<u32>,
    #[serde(skip)]
    not_shown: Option<NotShown>,
}

impl ProblemDetails {
    fn new(word: &'static str, title: &'static str, status: StatusCode, detail: impl Into<String>) -> Self {
        let kind = format!("urn:slashwatch:problem:{word}");
        Self { kind, title, status: status.as_u16(), detail: detail.into(), retry_after_s: None, not_shown: None }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new("bad-request", "The request is not valid", StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new("not-found", "Not found", StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn not_shown() -> Self {
        let detail = "watched keys are private and not shown on this address; send a token of scope watch, ask on the watcher's own machine, or \
                      set `api.show_watched` in its configuration";
        let problem = Self::new("not-shown", "Not shown on this address", StatusCode::FORBIDDEN, detail);
        Self { not_shown: Some(NotShown), ..problem }
    }

    pub(crate) fn unauthorized(outcome: TokenOutcome) -> Self {
        let detail = match outcome {
            TokenOutcome::Expired => "the token has expired; `slashwatch token new` makes another one",
            TokenOutcome::Wrong => "the token is wrong or was revoked; `slashwatch token list` shows the valid ones",
            TokenOutcome::Missing | TokenOutcome::Accepted | TokenOutcome::ScopeTooSmall => {
                "this needs a token, as `Authorization: Bearer TOKEN` or as the password of any user; `slashwatch token new` makes one"
            }
        };
        Self::new("unauthorized", "A valid token is needed", StatusCode::UNAUTHORIZED, detail)
    }

    pub(crate) fn too_many_requests(retry_after_s: u32) -> Self {
        let detail = "this address or token sends too many requests; wait for Retry-After, in seconds, and ask for larger pages";
        let problem = Self::new("too-many-requests", "Too many requests", StatusCode::TOO_MANY_REQUESTS, detail);
        Self { retry_after_s: Some(retry_after_s), ..problem }
    }

    pub(crate) fn method_not_allowed() -> Self {
        let detail = "this API only reads; use GET or HEAD";
        Self::new("method-not-allowed", "This method is not allowed here", StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    pub(crate) fn too_long(what: &str, limit: usize) -> Self {
        let status = if what == "body" { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::URI_TOO_LONG };
        Self::new("too-long", "The request is too long", status, format!("the {what} may have {limit} bytes; shorten it"))
    }

    pub(crate) fn not_acceptable(detail: impl Into<String>) -> Self {
        Self::new("not-acceptable", "This format is not available", StatusCode::NOT_ACCEPTABLE, detail)
    }

    pub(crate) fn too_many_streams(limit: usize) -> Self {
        let detail = format!("all {limit} event streams are taken; try again later, or poll /v1/findings with its cursor");
        let problem = Self::new("too-many-streams", "No event stream is free", StatusCode::SERVICE_UNAVAILABLE, detail);
        Self { retry_after_s: Some(30), ..problem }
    }

    pub(crate) fn too_many_connections() -> Self {
        let detail = "all connections are taken; only /healthz, /readyz and /metrics are answered. Try again later";
        let problem = Self::new("too-many-connections", "No connection is free", StatusCode::SERVICE_UNAVAILABLE, detail);
        Self { retry_after_s: Some(10), ..problem }
    }

    pub(crate) fn wrong_host() -> Self {
        let detail = "this API listens on a loopback address and accepts the hosts localhost, 127.0.0.1 and [::1]; add other names to `api.hosts`";
        Self::new("wrong-host", "The request is for another host", StatusCode::FORBIDDEN, detail)
    }

    pub(crate) fn busy() -> Self {
        let detail = "the watcher has too much else to do right now; ask again in a second";
        Self { retry_after_s: Some(1), ..Self::new("busy", "Busy", StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        Self::new("not-ready", "Not ready", StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// An internal error. The reason goes to the log only, because it may contain paths.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "a request could not be answered");
        let detail = "the findings could not be read; the watcher's log has the reason";
        Self::new("internal", "Something failed here", StatusCode::INTERNAL_SERVER_ERROR, detail)
    }
}

impl From<evidence::StoreError> for ProblemDetails {
    fn from(error: evidence::StoreError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for ProblemDetails {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("a problem has string keys only");
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(not_shown) = self.not_shown {
            response.extensions_mut().insert(not_shown);
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
