//! Lets clients keep an answer and ask whether it is still the same. The tag of an answer is a hash
//! of its content, so a client that has it gets a 304 without a body.
//!
//! Answers that come from the store alone are kept here too, as they are sent, until the store
//! changes or [`KEPT_FOR`] has passed. So an answer that thousands ask for is made once. Each
//! [scope](crate::tokens::Scope) has answers of its own. What is kept is bounded in bytes, and all
//! of it is dropped at once.

use crate::server::Shared;
use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Longer answers get no tag.
const MAX_BYTES: u64 = 16 << 20;
/// Content types of answers that get a tag.
const TAGGED: [&str; 2] = ["application/json", "application/rss+xml"];
/// Routes whose answers depend on the address and the store only. Which labels are private can
/// change too, and that is what [`KEPT_FOR`] is for.
const KEPT: [&str; 5] = ["/v1/findings", "/v1/findings/{id}", "/v1/incidents", "/v1/incidents/{id}", "/openapi.json"];
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Bytes of all answers that one scope keeps, without their compressed copies.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// Longer answers are not kept.
const MAX_KEPT_ANSWER: usize = 1 << 20;
/// Shorter answers are not compressed. It is the limit of the layer that compresses the others.
const MIN_COMPRESSED: usize = 32;

/// An answer as it is sent.
struct Answer {
    content_type: HeaderValue,
    tag: HeaderValue,
    body: Bytes,
    compressed: OnceLock<Bytes>,
    made: Instant,
}

/// The answers that are kept, by path and query.
#[derive(Default)]
pub(crate) struct KeptAnswers(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The state of the store that all of them show.
    version: u64,
    answers: HashMap<String, Arc<Answer>>,
    bytes: usize,
}

impl KeptAnswers {
    fn get(&self, address: &str, version: u64) -> Option<Arc<Answer>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = kept.answers.get(address).filter(|_| kept.version == version)?;
        (answer.made.elapsed() < KEPT_FOR).then(|| answer.clone())
    }

    /// Keeps an answer that was made from `version` of the store, or a later one.
    fn put(&self, address: String, version: u64, answer: Arc<Answer>) {
        let size = address.len() + answer.body.len();
        if size > MAX_KEPT_ANSWER {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.version != version || kept.bytes + size > MAX_KEPT_BYTES {
            *kept = Kept { version, ..Kept::default() };
        }
        let replaced = kept.answers.insert(address.clone(), answer).map_or(0, |old| address.len() + old.body.len());
        kept.bytes = kept.bytes + size - replaced;
    }
}

/// Gives complete answers a tag, and answers 304 to a client that has the same.
pub(crate) async fn tag(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // The answer to HEAD has no body from which its tag could be computed.
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let asked = Asked::of(request.headers());
    let route = request.extensions().get::<MatchedPath>();
    let address = route.filter(|route| KEPT.contains(&route.as_str())).map(|_| {
        let uri = request.uri();
        uri.path_and_query().map_or(uri.path(), |address| address.as_str()).to_owned()
    });
    // Read before the answer is made: if the store changes meanwhile, the answer counts as old.
    let version = shared.store.version();
    if let Some(answer) = address.as_ref().and_then(|address| shared.kept.get(address, version)) {
        return answer.to_response(&asked, HeaderMap::new());
    }
    let response = next.run(request).await;
    if !is_tagged(&response) {
        return response;
    }
    let (parts, body) = response.into_parts();
    // The length is known, so the body is in memory already.
    let Ok(body) = to_bytes(body, MAX_BYTES as usize).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let Some(answer) = Answer::new(body, &parts.headers) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let answer = Arc::new(answer);
    if let Some(address) = address {
        shared.kept.put(address, version, answer.clone());
    }
    answer.to_response(&asked, parts.headers)
}

/// What a client said about the answer that it wants.
struct Asked {
    known: Vec<HeaderValue>,
    takes_gzip: bool,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Self {
        let encodings = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Self {
            known: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
            takes_gzip: encodings.split(',').any(|encoding| encoding.trim() == "gzip"),
        }
    }
}

impl Answer {
    fn new(body: Bytes, headers: &HeaderMap) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        hasher.write(&body);
        // Weak, because the same answer may be sent compressed.
        let tag = HeaderValue::from_str(&format!("W/\"{:016x}-{:x}\"", hasher.finish(), body.len())).ok()?;
        let content_type = headers.get(header::CONTENT_TYPE)?.clone();
        Some(Self { content_type, tag, body, compressed: OnceLock::new(), made: Instant::now() })
    }

    /// The answer with these further headers.
    fn to_response(&self, asked: &Asked, mut headers: HeaderMap) -> Response {
        headers.insert(header::ETAG, self.tag.clone());
        // It may be kept, and must be asked for again each time.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        let tag = self.tag.to_str().unwrap_or_default();
        let is_known = asked.known.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).any(|one| {
            let one = one.trim();
            one == "*" || one == tag || Some(one) == tag.strip_prefix("W/")
        });
        if is_known {
            headers.remove(header::CONTENT_TYPE);
            headers.remove(header::CONTENT_LENGTH);
            return (StatusCode::NOT_MODIFIED, headers, Body::empty()).into_response();
        }
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        // The layer around this one compresses longer answers, piece by piece.
        if asked.takes_gzip && (MIN_COMPRESSED..=MAX_KEPT_ANSWER).contains(&self.body.len()) {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
            let compressed = self.compressed.get_or_init(|| gzip(&self.body, Compression::fast())).clone();
            return (headers, compressed).into_response();
        }
        (headers, self.body.clone()).into_response()
    }
}

pub(crate) fn gzip(content: &[u8], level: Compression) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(content).expect("memory takes everything");
    encoder.finish().expect("memory takes everything").into()
}

fn is_tagged(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    response.status() == StatusCode::OK
        && TAGGED.iter().any(|tagged| content_type.starts_with(tagged))
        && response.body().size_hint().exact().is_some_and(|length| length <= MAX_BYTES)
}
