//! Decides who is answered and what they see, before a request reaches its handler.
//!
//! There is one router for each [`Scope`]. All have the same routes and show different
//! [views](crate::privacy::Privacy) of the same data. A request without a token gets the router of
//! scope `read`, which shows what everybody may see, or 401 if `api.read_needs_token` is set. The
//! files of the web page are given to everybody, because the page asks for the token.
//!
//! No request changes anything. A handler that changes something must ask for scope `admin` in a
//! bearer token: browsers send passwords by themselves, also to forms of other pages.

use crate::metrics::Metrics;
use crate::middleware::with_headers;
use crate::page;
use crate::problem::ProblemDetails;
use crate::rate_limit::{ClientAddress, RateLimits};
use crate::server::Shared;
use crate::tokens::{Presented, Scope, TokenRecord, Tokens};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json, Router};
use consensus::Root;
use evidence::Time;
use serde::Serialize;
use std::sync::Arc;
use tower::ServiceExt as _;
use utoipa::ToSchema;

/// Addresses that never need a token, for those who watch the watcher.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// A request with this header comes from a script that asks for the token itself. If it were asked
/// for a password, the browser would ask its user for one, before the script knows of it. The web
/// page sends it; so do others, for the same reason.
const ASKS_ITSELF: HeaderName = HeaderName::from_static("x-requested-with");

/// What happened with a request's token, as a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenOutcome {
    Accepted,
    /// None was sent, and one is needed.
    Missing,
    Wrong,
    Expired,
    /// It is valid, and does not allow what was asked for.
    ScopeTooSmall,
}

impl TokenOutcome {
    pub(crate) const ALL: [Self; 5] = [Self::Accepted, Self::Missing, Self::Wrong, Self::Expired, Self::ScopeTooSmall];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Expired => "expired",
            Self::ScopeTooSmall => "scope_too_small",
        }
    }
}

/// What stands before the handlers.
pub(crate) struct Access {
    /// The routers of the scopes, in their order.
    pub(crate) views: [Router; 3],
    pub(crate) tokens: Option<Tokens>,
    pub(crate) read_needs_token: bool,
    /// `None` if the number of requests is not limited.
    pub(crate) limits: Option<RateLimits>,
    pub(crate) metrics: Metrics,
}

/// Answers a request as far as its token allows.
pub(crate) async fn answer(State(access): State<Arc<Access>>, mut request: Request) -> Response {
    let token = match access.admit(&request) {
        Ok(token) => token,
        Err(refused) => return with_headers(*refused, None, &access.metrics),
    };
    let scope = token.as_ref().map_or(Scope::Read, |token| token.scope);
    let has_token = token.is_some();
    if let Some(token) = token {
        request.extensions_mut().insert(token);
    }
    let Ok(mut response) = access.views[scope as usize].clone().oneshot(request).await;
    if has_token {
        access.count_answered(&mut response);
    }
    response
}

impl Access {
    /// Checks token and number of requests. Returns the token, if there is one. A wrong token is
    /// counted for its sender's address, so tokens cannot be tried without limit.
    fn admit(&self, request: &Request) -> Result<Option<TokenRecord>, Box<Response>> {
        let presented = self.tokens.as_ref().map_or(Presented::Missing, |tokens| tokens.check(request.headers(), Time::now()));
        let valid = match &presented {
            Presented::Valid(token) => Some(token.sha256),
            Presented::Missing | Presented::Wrong | Presented::Expired => None,
        };
        self.limit(request, valid)?;
        let path = request.uri().path();
        let needs_token = self.read_needs_token && !OPEN.contains(&path) && !page::is_part_of_it(path);
        let outcome = match presented {
            Presented::Valid(token) => return Ok(Some(token)),
            Presented::Missing if !needs_token => return Ok(None),
            Presented::Missing => TokenOutcome::Missing,
            Presented::Wrong => TokenOutcome::Wrong,
            Presented::Expired => TokenOutcome::Expired,
        };
        Err(Box::new(unauthorized(outcome, request.headers(), &self.metrics)))
    }

    fn limit(&self, request: &Request, token: Option<Root>) -> Result<(), Box<Response>> {
        // Each connection has an address.
        let (Some(limits), Some(peer)) = (&self.limits, request.extensions().get::<ClientAddress>()) else { return Ok(()) };
        limits.check(peer.0, request.headers(), token).map_err(|seconds| {
            self.metrics.rate_limited.inc();
            Box::new(ProblemDetails::too_many_requests(seconds).into_response())
        })
    }

    /// Counts the token of an answered request. If its scope is too small, the answer names the one
    /// that is needed.
    fn count_answered(&self, response: &mut Response) {
        let is_too_small = response.extensions().get::<NotShown>().is_some();
        if is_too_small {
            let lacks = HeaderValue::from_static("Bearer realm=\"slashwatch\", error=\"insufficient_scope\", scope=\"watch\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, lacks);
        }
        self.metrics.count_token(if is_too_small { TokenOutcome::ScopeTooSmall } else { TokenOutcome::Accepted });
    }
}

/// A token as its holder sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenView {
    name: String,
    scope: Scope,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Time>,
}

/// The token of this request. A browser asks for one if none was sent, and sends it from then on.
#[utoipa::path(get, path = "/v1/token", operation_id = "token", tag = "process", responses(
    (status = 200, description = "the token", body = TokenView),
    (status = 401, description = "no token was sent, or it is wrong or expired", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(crate) async fn token(
    State(shared): State<Arc<Shared>>,
    token: Option<Extension<TokenRecord>>,
    headers: HeaderMap,
) -> Response {
    match token {
        Some(Extension(token)) => {
            Json(TokenView { name: token.name, scope: token.scope, expires_at: token.expires_at }).into_response()
        }
        None => unauthorized(TokenOutcome::Missing, &headers, &shared.metrics),
    }
}

fn unauthorized(outcome: TokenOutcome, asked: &HeaderMap, metrics: &Metrics) -> Response {
    metrics.count_token(outcome);
    let mut response = ProblemDetails::unauthorized(outcome).into_response();
    // RFC 6750 gives a reason only to those who sent a token.
    let bearer = match outcome {
        TokenOutcome::Missing => "Bearer realm=\"slashwatch\"",
        TokenOutcome::Wrong | TokenOutcome::Expired | TokenOutcome::Accepted | TokenOutcome::ScopeTooSmall => {
            "Bearer realm=\"slashwatch\", error=\"invalid_token\""
        }
    };
    // Programs send a bearer token, browsers ask for a password.
    let headers = response.headers_mut();
    headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
    if !asked.contains_key(ASKS_ITSELF) {
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"slashwatch\", charset=\"UTF-8\""));
    }
    response
}

/// Marks an answer that says that watched keys are not shown to this client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotShown;
