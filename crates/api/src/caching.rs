//! Lets clients keep an answer and ask whether it is still the same. The tag of an answer is a hash
//! of its content, so a client that has it gets a 304 without a body.
//!
//! Answers to which it is known what changes them are kept here too, as they are sent, until that
//! has changed. So an answer that thousands ask for is made once: while it is made, the others wait
//! for it. An answer that is older than [`KEPT_FOR`] is made anew, and until that is done the old
//! one is sent, up to the age of [`SENT_FOR`]: nobody waits for what has not changed. Each
//! [scope](crate::tokens::Scope) has answers of its own. What is kept is bounded in bytes, and all
//! of it is dropped at once.

use crate::observed::Recent;
use crate::server::Shared;
use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use consensus::Slot;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Longer answers get no tag.
const MAX_BYTES: u64 = 16 << 20;
/// Content types of answers that get a tag.
const TAGGED: [&str; 2] = ["application/json", "application/rss+xml"];
/// Routes whose answers are kept, with what changes them apart from the address. Which labels are
/// private can change too, and that is what [`KEPT_FOR`] and [`SENT_FOR`] are for.
const KEPT: [(&str, Basis); 17] = [
    ("/v1/findings", Basis::Store),
    ("/v1/findings/{id}", Basis::Store),
    ("/v1/incidents", Basis::Store),
    ("/v1/incidents/{id}", Basis::Store),
    ("/v1/submissions", Basis::Store),
    ("/openapi.json", Basis::Store),
    ("/v1/slashings", Basis::StoreAndSlot),
    ("/v1/slashings.rss", Basis::StoreAndSlot),
    ("/eth/v1/beacon/pool/attester_slashings", Basis::StoreAndSlot),
    ("/eth/v1/beacon/pool/proposer_slashings", Basis::StoreAndSlot),
    ("/v1/heads", Basis::Recent),
    ("/v1/forks", Basis::StoreAndRecent),
    ("/v1/network", Basis::StoreAndRecent),
    ("/v1/participation", Basis::StoreAndRecent),
    ("/v1/epochs/{epoch}", Basis::StoreAndRecent),
    ("/v1/slots/{slot}", Basis::StoreAndRecent),
    ("/v1/validators/{validator}", Basis::StoreAndRecent),
];

/// What an answer is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    Store,
    /// What can still be punished changes with the slot, and so does how long something waits.
    StoreAndSlot,
    /// What was heard of the last epochs.
    Recent,
    StoreAndRecent,
}

/// The state of what an answer is made from, as far as the answer depends on it.
#[derive(Clone)]
struct Version {
    store: Option<u64>,
    slot: Option<Slot>,
    recent: Option<Weak<Recent>>,
}

impl Version {
    fn now(basis: Basis, shared: &Shared) -> Self {
        let (needs_store, needs_slot, needs_recent) = match basis {
            Basis::Store => (true, false, false),
            Basis::StoreAndSlot => (true, true, false),
            Basis::Recent => (false, false, true),
            Basis::StoreAndRecent => (true, false, true),
        };
        let recent = (needs_slot || needs_recent).then(|| shared.observed.recent());
        Self {
            store: needs_store.then(|| shared.store.version()),
            slot: recent.as_ref().filter(|_| needs_slot).map(|recent| recent.now),
            recent: recent.filter(|_| needs_recent).map(|recent| Arc::downgrade(&recent)),
        }
    }

    /// Whether an answer of this version is not older than one of the other.
    fn is_as_new_as(&self, other: &Self) -> bool {
        // What was heard is never changed, only replaced.
        let is_same = match (&self.recent, &other.recent) {
            (Some(own), Some(other)) => Weak::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        self.store >= other.store && self.slot >= other.slot && is_same
    }
}

/// An answer of this age is made anew, although nothing that is known to change it has changed.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// An older answer is not sent, even if the next one takes longer to make.
const SENT_FOR: Duration = Duration::from_secs(2);
/// Bytes of all answers that one scope keeps, without their compressed copies.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// Longer answers are not kept.
const MAX_KEPT_ANSWER: usize = 1 << 20;
/// Number of turns from which on those that have ended are forgotten.
const MAX_ENDED_TURNS: usize = 256;
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
    answers: HashMap<String, (Version, Arc<Answer>)>,
    bytes: usize,
    /// Held by the request that makes an answer, by path and query.
    making: HashMap<String, Weak<tokio::sync::Mutex<()>>>,
}

impl KeptAnswers {
    fn get(&self, address: &str, wanted: &Version) -> Option<Arc<Answer>> {
        let kept = self.lock();
        let (_, answer) = kept.answers.get(address).filter(|(version, _)| version.is_as_new_as(wanted))?;
        (answer.made.elapsed() < SENT_FOR).then(|| answer.clone())
    }

    /// Keeps an answer that was made from this version, or a later one.
    fn put(&self, address: String, version: Version, answer: Arc<Answer>) {
        let size = address.len() + answer.body.len();
        if size > MAX_KEPT_ANSWER {
            return;
        }
        let mut kept = self.lock();
        if kept.bytes + size > MAX_KEPT_BYTES {
            (kept.answers, kept.bytes) = (HashMap::new(), 0);
        }
        let replaced = kept.answers.insert(address.clone(), (version, answer));
        kept.bytes = kept.bytes + size - replaced.map_or(0, |(_, old)| address.len() + old.body.len());
    }

    /// The turn to make an answer. Whoever has to wait for it finds the answer made.
    fn turn(&self, address: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut kept = self.lock();
        if let Some(turn) = kept.making.get(address).and_then(Weak::upgrade) {
            return turn;
        }
        if kept.making.len() >= MAX_ENDED_TURNS {
            // Those in use are no more than there are connections.
            kept.making.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        kept.making.insert(address.to_owned(), Arc::downgrade(&turn));
        turn
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives complete answers a tag, and answers 304 to a client that has the same.
pub(crate) async fn tag(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    // The answer to HEAD has no body from which its tag could be computed.
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let asked = Asked::of(request.headers());
    let basis = request.extensions().get::<MatchedPath>().and_then(|route| {
        let row = KEPT.iter().find(|(kept, _)| *kept == route.as_str());
        row.map(|(_, basis)| *basis)
    });
    let Some(basis) = basis else {
        return match made(request, next).await {
            Ok((answer, headers)) => answer.to_response(&asked, headers),
            Err(response) => *response,
        };
    };
    let uri = request.uri();
    let address = uri.path_and_query().map_or(uri.path(), |address| address.as_str()).to_owned();
    let wanted = Version::now(basis, &shared);
    if let Some(answer) = shared.kept.get(&address, &wanted) {
        if answer.is_due()
            && let Ok(turn) = shared.kept.turn(&address).try_lock_owned()
        {
            tokio::spawn(async move {
                let _turn = turn;
                // If it fails, the next request tries again.
                let _ = made_to_be_kept(&shared, basis, address, request, next).await;
            });
        }
        return answer.to_response(&asked, HeaderMap::new());
    }
    let turn = shared.kept.turn(&address);
    let _turn = turn.lock().await;
    if let Some(answer) = shared.kept.get(&address, &wanted) {
        return answer.to_response(&asked, HeaderMap::new());
    }
    match made_to_be_kept(&shared, basis, address, request, next).await {
        Ok((answer, headers)) => answer.to_response(&asked, headers),
        Err(response) => *response,
    }
}

/// Like [`made`], and keeps the answer. The caller has the turn to make it.
async fn made_to_be_kept(
    shared: &Shared,
    basis: Basis,
    address: String,
    request: Request,
    next: Next,
) -> Result<(Arc<Answer>, HeaderMap), Box<Response>> {
    // Read before the answer is made: if something changes meanwhile, the answer counts as old.
    let version = Version::now(basis, shared);
    let (answer, headers) = made(request, next).await?;
    let answer = Arc::new(answer);
    shared.kept.put(address, version, answer.clone());
    Ok((answer, headers))
}

/// Has an answer made that gets a tag, with its headers. Any other is given back as it is.
async fn made(request: Request, next: Next) -> Result<(Answer, HeaderMap), Box<Response>> {
    let response = next.run(request).await;
    if !is_tagged(&response) {
        return Err(Box::new(response));
    }
    let (parts, body) = response.into_parts();
    // The length is known, so the body is in memory already.
    let body = to_bytes(body, MAX_BYTES as usize).await.ok();
    let answer = body.and_then(|body| Answer::new(body, &parts.headers));
    let answer = answer.ok_or_else(|| Box::new(StatusCode::INTERNAL_SERVER_ERROR.into_response()))?;
    Ok((answer, parts.headers))
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

    /// Whether it is time to make the answer anew.
    fn is_due(&self) -> bool {
        self.made.elapsed() >= KEPT_FOR
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
