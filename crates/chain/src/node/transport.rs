//! Requests with failover, timeouts and bounds. The parent module [`super`] has the requests
//! themselves, [`super::waiting`] what is logged while a node keeps us waiting.
//!
//! In the first round a node that does not begin to answer within [`NodeConfig::move_on_after`] is
//! left while there are others to ask: most nodes begin within a second. A node that needs longer
//! gets that in the second round.

use super::error::NodeError;
use super::waiting::Wait;
use base::{Backoff, http};
use consensus::ForkName;
use futures::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Maximum number of nodes in a set.
pub const MAX_NODES: usize = 16;
/// Maximum number of characters of a node's error message that are shown.
const SHOWN_ERROR_BYTES: usize = 400;
const VERSION_HEADER: &str = "eth-consensus-version";

/// Maximum sizes of responses in bytes. A larger response is refused before it is read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseLimits {
    /// Documents other than those below.
    pub small_bytes: usize,
    /// A block. As JSON it is more than twice as large as its SSZ.
    pub block_bytes: usize,
    /// A state. On mainnet it has about 330 MB.
    pub state_bytes: usize,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self { small_bytes: 4 << 20, block_bytes: 32 << 20, state_bytes: 1 << 30 }
    }
}

/// Timeouts, retries and limits of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub connect_timeout: Duration,
    /// Maximum time until the first part of a response, and between two parts.
    pub read_timeout: Duration,
    /// Maximum time until a response begins, in the first round and with other nodes left to ask.
    pub move_on_after: Duration,
    /// Maximum time for a whole response that is not a state.
    pub request_timeout: Duration,
    /// Maximum time for a whole state.
    pub state_timeout: Duration,
    /// While a state is read, each such time must bring [`Self::least_state_bytes`]. A node that
    /// sends a byte now and then is left, because others may be waiting to be asked.
    pub state_window: Duration,
    pub least_state_bytes: usize,
    /// Number of rounds over all nodes before a request fails.
    pub rounds: u32,
    /// The pauses between rounds.
    pub pauses: Backoff,
    pub limits: ResponseLimits,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            move_on_after: Duration::from_secs(10),
            request_timeout: Duration::from_secs(20),
            state_timeout: Duration::from_secs(600),
            // 32 kB a second. Mainnet's state needs twenty times as much to come within its time.
            state_window: Duration::from_secs(20),
            least_state_bytes: 640 << 10,
            rounds: 3,
            pauses: Backoff::new(Duration::from_millis(500), Duration::from_secs(8)),
            limits: ResponseLimits::default(),
        }
    }
}

/// The requested media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    Json,
    /// A state as SSZ. It is large, so it takes a long time.
    State,
    /// SSZ, or JSON from nodes that have no SSZ.
    SszOrJson,
}

impl BodyFormat {
    const fn accept(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::State => "application/octet-stream",
            Self::SszOrJson => "application/octet-stream;q=1.0,application/json;q=0.9",
        }
    }
}

/// A complete response within its size limit.
#[derive(Debug)]
pub(super) struct NodeResponse {
    pub node: String,
    path: String,
    content_type: String,
    /// The header `Eth-Consensus-Version`.
    pub version: Option<String>,
    pub body: Vec<u8>,
}

impl NodeResponse {
    pub(super) fn is_json(&self) -> bool {
        self.content_type.contains("json")
    }

    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, NodeError> {
        serde_json::from_slice(&self.body).map_err(|error| NodeError::malformed(&self.node, &self.path, error.to_string()))
    }
}

/// How long a node is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Its response must begin soon, because others are left to ask.
    OthersAreLeft,
    ToTheTimeout,
}

/// A request in progress. It is boxed because the future of an async closure could not be sent
/// between threads.
type PendingRequest<'a, T> = Pin<Box<dyn Future<Output = Result<T, NodeError>> + Send + 'a>>;

/// A set of one or more beacon nodes. It can be shared cheaply behind an `Arc`.
#[derive(Debug)]
pub struct NodeSet {
    client: Client,
    nodes: Vec<Url>,
    /// Position of the node that answered last.
    good: AtomicUsize,
    config: NodeConfig,
}

impl NodeSet {
    /// Makes a set from URLs of the form `http://host:port`. A URL can have a path prefix, or a
    /// user and a password, if a provider needs them.
    pub fn new(urls: &[String], config: NodeConfig) -> Result<Self, NodeError> {
        if urls.is_empty() || urls.len() > MAX_NODES {
            return Err(NodeError::WrongCount { found: urls.len() });
        }
        let nodes = urls.iter().map(|url| parse_url(url)).collect::<Result<Vec<Url>, NodeError>>()?;
        let client = http::client_builder(nodes.iter().any(|url| url.scheme() == "https"))
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .no_proxy()
            .build()
            .map_err(|error| NodeError::Client { reason: http::failure_reason(error) })?;
        Ok(Self { client, nodes, good: AtomicUsize::new(0), config })
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Always false: a set has at least one node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the node's address for logs, without user, password and path.
    pub fn label(&self, nth: usize) -> String {
        self.nodes.get(nth).map_or_else(String::new, shown)
    }

    /// Returns the base URLs including their credentials, for the event stream. Do not log them.
    pub fn urls(&self) -> &[Url] {
        &self.nodes
    }

    pub(super) fn limits(&self) -> ResponseLimits {
        self.config.limits
    }

    /// Sends a GET request to the last good node, then to the others, in a few rounds.
    pub(super) async fn get(&self, path: &str, format: BodyFormat, limit: usize) -> Result<NodeResponse, NodeError> {
        self.rounds(path, |nth, waiting| Box::pin(self.get_within(nth, path, format, limit, waiting))).await
    }

    /// Like [`Self::get`], but a response that does not parse also leads to the next node.
    pub(super) async fn get_parsed<T: DeserializeOwned + Send>(&self, path: &str, limit: usize) -> Result<T, NodeError> {
        let ask = |nth, waiting| {
            Box::pin(async move { self.get_within(nth, path, BodyFormat::Json, limit, waiting).await?.parse() })
                as PendingRequest<'_, T>
        };
        self.rounds(path, ask).await
    }

    async fn rounds<'a, T>(&self, path: &str, ask: impl Fn(usize, Waiting) -> PendingRequest<'a, T>) -> Result<T, NodeError> {
        let mut waiting = if self.nodes.len() > 1 { Waiting::OthersAreLeft } else { Waiting::ToTheTimeout };
        let mut n_failed = 0;
        loop {
            let error = match self.round(path, waiting, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A node that was left too early may have what another node lacks.
            let left_early = waiting == Waiting::OthersAreLeft && error.is_transient();
            n_failed += 1;
            if n_failed >= self.config.rounds || !(left_early || error.is_worth_retry()) {
                return Err(error);
            }
            let pause = self.config.pauses.pause(n_failed);
            debug!(%error, ?pause, "no node answers, trying again");
            tokio::time::sleep(pause).await;
            waiting = Waiting::ToTheTimeout;
        }
    }

    async fn round<'a, T>(
        &self,
        path: &str,
        waiting: Waiting,
        ask: &impl Fn(usize, Waiting) -> PendingRequest<'a, T>,
    ) -> Result<T, NodeError> {
        let first = self.good.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        for offset in 0..self.nodes.len() {
            let nth = (first + offset) % self.nodes.len();
            match ask(nth, waiting).await {
                Ok(answer) => {
                    // A 404 is no reason to leave a node. Only other failures are.
                    if errors.iter().any(|error: &NodeError| !error.is_not_found()) {
                        warn!(node = shown(&self.nodes[nth]), "changed to another beacon node");
                        self.good.store(nth, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(NodeError::all_failed(path, errors))
    }

    /// Asks this node first from here on.
    pub(super) fn prefer(&self, nth: usize) {
        self.good.store(nth, Ordering::Relaxed);
    }

    /// The node that is asked first.
    pub(super) fn preferred(&self) -> usize {
        self.good.load(Ordering::Relaxed)
    }

    pub(super) async fn get_from(
        &self,
        nth: usize,
        path: &str,
        format: BodyFormat,
        limit: usize,
    ) -> Result<NodeResponse, NodeError> {
        self.get_within(nth, path, format, limit, Waiting::ToTheTimeout).await
    }

    async fn get_within(
        &self,
        nth: usize,
        path: &str,
        format: BodyFormat,
        limit: usize,
        waiting: Waiting,
    ) -> Result<NodeResponse, NodeError> {
        let url = &self.nodes[nth];
        let timeout =
            if limit >= self.config.limits.state_bytes { self.config.state_timeout } else { self.config.request_timeout };
        let request = self.client.get(joined(url, path)).header(ACCEPT, format.accept()).timeout(timeout);
        let mut wait = Wait::begin(url, path);
        let sent = wait.for_this(request.send());
        let response = match waiting {
            Waiting::ToTheTimeout => sent.await,
            Waiting::OthersAreLeft => {
                let within = self.config.move_on_after;
                tokio::time::timeout(within, sent).await.map_err(|_| NodeError::Unreachable {
                    node: shown(url),
                    path: path.to_owned(),
                    reason: format!("no answer began within {within:?}, and other nodes are left to ask"),
                })?
            }
        };
        let response = response.map_err(|error| unreachable_node(url, path, error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(url, path, status, response).await);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let version = header(VERSION_HEADER);
        let least = (format == BodyFormat::State).then_some((self.config.least_state_bytes, self.config.state_window));
        let body = bounded_body(url, path, response, limit, least, &mut wait).await?;
        if is_web_page(&content_type, &body) {
            return Err(NodeError::WebPage { node: shown(url), path: path.to_owned() });
        }
        Ok(NodeResponse { node: shown(url), path: path.to_owned(), content_type, version, body })
    }

    pub(super) async fn post_to(&self, nth: usize, path: &str, fork: ForkName, json: &Value) -> Result<(), NodeError> {
        let url = &self.nodes[nth];
        let request = self
            .client
            .post(joined(url, path))
            .header(VERSION_HEADER, fork.as_str())
            .timeout(self.config.request_timeout)
            .json(json);
        let response = request.send().await.map_err(|error| unreachable_node(url, path, error))?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(refusal(url, path, status, response).await) }
    }
}

fn parse_url(text: &str) -> Result<Url, NodeError> {
    // A password or a key in it is not shown.
    let secret = Url::parse(text).ok().filter(|url| url.password().is_some() || url.query().is_some());
    let shown = secret.map_or_else(|| text.to_owned(), |url| url.origin().ascii_serialization());
    let bad = |reason: &str| NodeError::BadUrl { url: shown.clone(), reason: reason.to_owned() };
    let url = Url::parse(text.trim_end_matches('/')).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("only http and https are spoken"));
    }
    if url.host_str().is_none() || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it needs a host, and neither query nor fragment"));
    }
    Ok(url)
}

fn joined(base: &Url, path: &str) -> String {
    format!("{}{path}", base.as_str().trim_end_matches('/'))
}

/// Returns the URL without user and password, which can be secret.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

fn unreachable_node(url: &Url, path: &str, error: reqwest::Error) -> NodeError {
    NodeError::Unreachable { node: shown(url), path: path.to_owned(), reason: http::failure_reason(error) }
}

async fn refusal(url: &Url, path: &str, status: StatusCode, response: reqwest::Response) -> NodeError {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = bounded_body(url, path, response, 64 << 10, None, &mut Wait::begin(url, path)).await.unwrap_or_default();
    if is_web_page(&content_type, &body) && status.is_client_error() {
        return NodeError::WebPage { node: shown(url), path: path.to_owned() };
    }
    let text: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(SHOWN_ERROR_BYTES).collect();
    let advice = match status.as_u16() {
        400 => "the request or the message is not to its liking; read its log",
        401 | 403 => "check the credentials in its URL",
        404 => "it does not have it, or not this endpoint; ask another node or switch the endpoint on",
        406 | 415 => "it does not speak this format; use another version of it",
        429 => "ask it less often, or add another node",
        503 => "it is syncing; wait, or add another node",
        _ => "read its log, or add another node",
    };
    NodeError::Status { node: shown(url), path: path.to_owned(), status: status.as_u16(), message: text, advice }
}

/// Reads a response in parts and stops at the limit, whatever length was announced. With `least`,
/// each such time must bring so many bytes. If nothing comes at all, the client's own timeout ends
/// it.
async fn bounded_body(
    url: &Url,
    path: &str,
    response: reqwest::Response,
    limit: usize,
    least: Option<(usize, Duration)>,
    wait: &mut Wait<'_>,
) -> Result<Vec<u8>, NodeError> {
    let too_large = || NodeError::TooLarge { node: shown(url), path: path.to_owned(), limit };
    if response.content_length().is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    wait.expect(response.content_length());
    let mut body = Vec::new();
    let (mut since, mut len_before) = (Instant::now(), 0);
    let mut pieces = response.bytes_stream();
    while let Some(piece) = wait.for_this(pieces.next()).await {
        let piece = piece.map_err(|error| unreachable_node(url, path, error))?;
        if body.len() + piece.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
        wait.received(body.len());
        if let Some((least, within)) = least.filter(|(_, within)| since.elapsed() >= *within) {
            let received = body.len() - len_before;
            if received < least {
                return Err(NodeError::TooSlow { node: shown(url), path: path.to_owned(), received, least, within });
            }
            (since, len_before) = (Instant::now(), body.len());
        }
    }
    Ok(body)
}

/// Returns whether a response is a web page. Nothing that is requested looks like one: JSON begins
/// with other characters, and a state never has that content type.
fn is_web_page(content_type: &str, body: &[u8]) -> bool {
    let begins_with = |tag: &[u8]| body.trim_ascii_start().get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    content_type.contains("text/html") || begins_with(b"<!doctype html") || begins_with(b"<html")
}
