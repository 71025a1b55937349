//! Lets clients keep an answer and ask whether it is still the same. The tag of an answer is a hash
//! of its content, so a client that has it gets a 304 without a body.
//!
//! Answers must be made to compute their tag. What is saved is the transfer, and the work of the
//! client.

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::hash::{DefaultHasher, Hasher as _};

/// Longer answers get no tag.
const MAX_BYTES: u64 = 16 << 20;
/// Content types of answers that get a tag.
const TAGGED: [&str; 2] = ["application/json", "application/rss+xml"];

/// Gives complete answers a tag, and answers 304 to a client that has the same.
pub(crate) async fn tag(request: Request, next: Next) -> Response {
    // The answer to HEAD has no body from which its tag could be computed.
    let is_get = request.method() == Method::GET;
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect::<Vec<_>>();
    let response = next.run(request).await;
    if !is_get || !is_tagged(&response) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The length is known, so the body is in memory already.
    let Ok(bytes) = to_bytes(body, MAX_BYTES as usize).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    // Weak, because the same answer may be sent compressed.
    let tag = format!("W/\"{:016x}-{:x}\"", hasher.finish(), bytes.len());
    let is_known = known.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).any(|one| {
        let one = one.trim();
        one == "*" || one == tag || one == &tag[2..]
    });
    set_headers(&mut parts.headers, &tag);
    if is_known {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}

fn is_tagged(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    response.status() == StatusCode::OK
        && TAGGED.iter().any(|tagged| content_type.starts_with(tagged))
        && response.body().size_hint().exact().is_some_and(|length| length <= MAX_BYTES)
}

fn set_headers(headers: &mut HeaderMap, tag: &str) {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    // It may be kept, and must be asked for again each time.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
}
