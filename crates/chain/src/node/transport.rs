//! Requests with failover, timeouts and bounds. The parent module [`super`] has the requests
//! themselves.
//!
//! While a node keeps us waiting, its name is logged every [`TELL_EVERY`], with the amount that has
//! arrived and the speed. A node that has sent nothing for [`HANGS_AFTER`] is logged as a warning.
//! In the first round a node that does not begin to answer within [`NodeConfig::move_on_after`] is
//! left while there are others to ask: most nodes begin within a second. A node that needs longer
//! gets that in the second round.

use backon::{BackoffBuilder, ExponentialBuilder};
use consensus::ForkName;
use futures::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Maximum number of nodes in a set.
pub const MAX_NODES: usize = 16;
/// Time between two log lines about a response that is still awaited.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// A node that has sent nothing for this long is worth a warning.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// Maximum number of characters of a node's error message that are shown.
const SHOWN_ERROR_BYTES: usize = 400;
/// Characters of a path that are shown.
const SHOWN_PATH: usize = 80;
const VERSION_HEADER: &str = "eth-consensus-version";
/// Text by which Lodestar reports that its pool already has slashings of all validators in a
/// submitted slashing. It sends it with status 500.
const ALREADY_THERE: &str = "ALREADY_EXISTS";

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
    /// Number of rounds over all nodes before a request fails.
    pub rounds: usize,
    /// Pause after the first round. It doubles after each round.
    pub first_pause: Duration,
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
            rounds: 3,
            first_pause: Duration::from_millis(500),
            limits: ResponseLimits::default(),
        }
    }
}

/// The reason why a node's response cannot be used. Each message names the node and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("node URL {url:?} is not usable: {reason}; write it like http://127.0.0.1:5052")]
    BadUrl { url: String, reason: String },
    #[error("a set of nodes needs 1 to {MAX_NODES} URLs, got {found}; correct the list of nodes in the config")]
    WrongCount { found: usize },
    #[error("the HTTP client cannot be made: {reason}; check the system's certificates, or use http on a trusted network")]
    Client { reason: String },
    #[error(
        "node {node} does not answer {at}: {reason}; check that it runs, that its REST API is switched on, and the address",
        at = short(path)
    )]
    Unreachable { node: String, path: String, reason: String },
    #[error("node {node} answers {at} with status {status}: {message}; {advice}", at = short(path))]
    Status { node: String, path: String, status: u16, message: String, advice: &'static str },
    #[error("node {node} sends more than {limit} bytes for {at}; it is refused, use another node or raise the limit", at = short(path))]
    TooLarge { node: String, path: String, limit: usize },
    #[error("node {node} sends something else than asked for at {at}: {reason}; use another node or version of it", at = short(path))]
    Malformed { node: String, path: String, reason: String },
    #[error(
        "node {node} answers {at} with a web page: this is another server's address (an explorer, a proxy, a login page); \
         give that of a beacon node's REST API, like http://127.0.0.1:5052",
        at = short(path)
    )]
    WebPage { node: String, path: String },
    #[error("no node answers {at}; last: {last}{}", others(errors), at = short(path))]
    AllFailed { path: String, last: Box<NodeError>, errors: Vec<NodeError> },
}

/// A path as people read it: what is asked of 64 validators by their indices is longer than all the
/// rest.
fn short(path: &str) -> String {
    match path.char_indices().nth(SHOWN_PATH) {
        Some((end, _)) => format!("{}...", &path[..end]),
        None => path.to_owned(),
    }
}

fn others(errors: &[NodeError]) -> String {
    errors.iter().map(|error| format!("; before: {error}")).collect()
}

impl NodeError {
    pub(super) fn malformed(node: &str, path: &str, reason: String) -> Self {
        Self::Malformed { node: node.to_owned(), path: path.to_owned(), reason }
    }

    /// Combines the errors of all nodes into one. If there is only one error, it is returned
    /// itself.
    pub(super) fn all_failed(path: &str, mut errors: Vec<NodeError>) -> Self {
        match (errors.pop(), errors.is_empty()) {
            (Some(only), true) => only,
            (Some(last), false) => Self::AllFailed { path: path.to_owned(), last: Box::new(last), errors },
            (None, _) => Self::WrongCount { found: 0 },
        }
    }

    /// Returns whether a node reports that the object does not exist, and no node contradicts this.
    /// Some nodes may be unreachable.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status == 404,
            Self::AllFailed { last, errors, .. } => {
                let mut all = errors.iter().chain(std::iter::once(last.as_ref()));
                all.clone().any(Self::is_not_found) && all.all(|error| error.is_not_found() || error.is_transient())
            }
            _ => false,
        }
    }

    /// Returns whether a node has examined the submitted message and refuses it. Repeating the
    /// request would not help. Wrong credentials and missing endpoints are not refusals, because
    /// they are problems of the node and not of the message.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 400 | 409 | 413 | 422),
            Self::AllFailed { last, errors, .. } => last.is_refusal() || errors.iter().any(Self::is_refusal),
            _ => false,
        }
    }

    /// Returns whether a node reports that it already has the submitted message. Its text decides
    /// this, because its status can be that of a failure.
    pub fn is_already_there(&self) -> bool {
        match self {
            Self::Status { message, .. } => message.contains(ALREADY_THERE),
            Self::AllFailed { last, errors, .. } => last.is_already_there() || errors.iter().any(Self::is_already_there),
            _ => false,
        }
    }

    /// Returns whether a node failed while it handled the submitted message. The cause can be the
    /// node or the message.
    pub fn is_breakdown(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500 && *status != 503,
            Self::AllFailed { last, errors, .. } => last.is_breakdown() || errors.iter().any(Self::is_breakdown),
            _ => false,
        }
    }

    /// Returns whether the node does not support this path, method or media type.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Status { status: 404 | 405 | 406 | 415 | 501, .. })
    }

    /// Returns whether a node does not accept the requested media type.
    pub(super) fn is_about_format(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 400 | 406 | 415),
            Self::AllFailed { last, errors, .. } => last.is_about_format() || errors.iter().any(Self::is_about_format),
            _ => false,
        }
    }

    /// Returns whether the request should be repeated after a pause.
    fn is_worth_retry(&self) -> bool {
        self.is_transient() && !self.is_not_found()
    }

    /// Returns whether the node is unreachable or busy, so that a later request may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::AllFailed { last, errors, .. } => last.is_transient() || errors.iter().any(Self::is_transient),
            Self::BadUrl { .. }
            | Self::WrongCount { .. }
            | Self::Client { .. }
            | Self::TooLarge { .. }
            | Self::WebPage { .. }
            | Self::Malformed { .. } => false,
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
enum Patience {
    /// Its response must begin soon, because others are left to ask.
    OthersWait,
    Full,
}

/// A request in progress. It is boxed because the future of an async closure could not be sent
/// between threads.
type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, NodeError>> + Send + 'a>>;

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
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // If another thread was faster, a provider is installed now, which is all that is
            // needed.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut builder = Client::builder();
        if nodes.iter().all(|url| url.scheme() == "http") {
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("slashwatch/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| NodeError::Client { reason: chain_of(&error) })?;
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
        self.rounds(path, |nth, patience| Box::pin(self.get_within(nth, path, format, limit, patience))).await
    }

    /// Like [`Self::get`], but a response that does not parse also leads to the next node.
    pub(super) async fn get_parsed<T: DeserializeOwned + Send>(&self, path: &str, limit: usize) -> Result<T, NodeError> {
        let ask = |nth, patience| {
            Box::pin(async move { self.get_within(nth, path, BodyFormat::Json, limit, patience).await?.parse() }) as Asking<'_, T>
        };
        self.rounds(path, ask).await
    }

    async fn rounds<'a, T>(&self, path: &str, ask: impl Fn(usize, Patience) -> Asking<'a, T>) -> Result<T, NodeError> {
        let mut patience = if self.nodes.len() > 1 { Patience::OthersWait } else { Patience::Full };
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(self.config.first_pause)
            .with_max_delay(self.config.first_pause.saturating_mul(16))
            .with_max_times(self.config.rounds.saturating_sub(1))
            .build();
        loop {
            let error = match self.round(path, patience, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A node that was left too early may have what another node lacks.
            let left_early = patience == Patience::OthersWait && error.is_transient();
            let Some(pause) = pauses.next().filter(|_| left_early || error.is_worth_retry()) else { return Err(error) };
            debug!(%error, ?pause, "no node answers, trying again");
            tokio::time::sleep(pause).await;
            patience = Patience::Full;
        }
    }

    async fn round<'a, T>(
        &self,
        path: &str,
        patience: Patience,
        ask: &impl Fn(usize, Patience) -> Asking<'a, T>,
    ) -> Result<T, NodeError> {
        let first = self.good.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        for offset in 0..self.nodes.len() {
            let nth = (first + offset) % self.nodes.len();
            match ask(nth, patience).await {
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
        self.get_within(nth, path, format, limit, Patience::Full).await
    }

    async fn get_within(
        &self,
        nth: usize,
        path: &str,
        format: BodyFormat,
        limit: usize,
        patience: Patience,
    ) -> Result<NodeResponse, NodeError> {
        let url = &self.nodes[nth];
        let timeout =
            if limit >= self.config.limits.state_bytes { self.config.state_timeout } else { self.config.request_timeout };
        let request = self.client.get(joined(url, path)).header(ACCEPT, format.accept()).timeout(timeout);
        let mut wait = Wait::begin(url, path);
        let sent = wait.for_this(request.send());
        let response = match patience {
            Patience::Full => sent.await,
            Patience::OthersWait => {
                let within = self.config.move_on_after;
                tokio::time::timeout(within, sent).await.map_err(|_| NodeError::Unreachable {
                    node: shown(url),
                    path: path.to_owned(),
                    reason: format!("no answer began within {within:?}, and other nodes are left to ask"),
                })?
            }
        };
        let response = response.map_err(|error| unreachable_node(url, path, &error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(url, path, status, response).await);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let version = header(VERSION_HEADER);
        let body = bounded_body(url, path, response, limit, &mut wait).await?;
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
        let response = request.send().await.map_err(|error| unreachable_node(url, path, &error))?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(refusal(url, path, status, response).await) }
    }
}

fn parse_url(text: &str) -> Result<Url, NodeError> {
    let bad = |reason: &str| NodeError::BadUrl { url: text.to_owned(), reason: reason.to_owned() };
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
fn shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

fn unreachable_node(url: &Url, path: &str, error: &reqwest::Error) -> NodeError {
    let reason = if error.is_timeout() { format!("timed out ({})", chain_of(error)) } else { chain_of(error) };
    NodeError::Unreachable { node: shown(url), path: path.to_owned(), reason }
}

/// Returns the innermost cause. The text of reqwest itself repeats the URL, which can contain a
/// password.
fn chain_of(error: &reqwest::Error) -> String {
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    let mut text = String::from("no connection");
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

async fn refusal(url: &Url, path: &str, status: StatusCode, response: reqwest::Response) -> NodeError {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = bounded_body(url, path, response, 64 << 10, &mut Wait::begin(url, path)).await.unwrap_or_default();
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

/// Reads a response in parts and stops at the limit, whatever length was announced.
async fn bounded_body(
    url: &Url,
    path: &str,
    response: reqwest::Response,
    limit: usize,
    wait: &mut Wait<'_>,
) -> Result<Vec<u8>, NodeError> {
    let too_large = || NodeError::TooLarge { node: shown(url), path: path.to_owned(), limit };
    if response.content_length().is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    wait.expected = response.content_length();
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = wait.for_this(pieces.next()).await {
        let piece = piece.map_err(|error| unreachable_node(url, path, &error))?;
        if body.len() + piece.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
        wait.received = body.len() as u64;
    }
    Ok(body)
}

/// Returns whether a response is a web page. Nothing that is requested looks like one: JSON begins
/// with other characters, and a state never has that content type.
fn is_web_page(content_type: &str, body: &[u8]) -> bool {
    let begins_with = |tag: &[u8]| body.trim_ascii_start().get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    content_type.contains("text/html") || begins_with(b"<!doctype html") || begins_with(b"<html")
}

/// A response that is awaited, and the time of the last log line about it.
struct Wait<'a> {
    url: &'a Url,
    path: &'a str,
    began: Instant,
    told: Instant,
    received: u64,
    /// The announced length in bytes.
    expected: Option<u64>,
}

impl<'a> Wait<'a> {
    fn begin(url: &'a Url, path: &'a str) -> Self {
        let now = Instant::now();
        Self { url, path, began: now, told: now, received: 0, expected: None }
    }

    /// Waits for a future and returns its output. While this takes long, a line is logged from time
    /// to time.
    async fn for_this<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            let left = TELL_EVERY.saturating_sub(self.told.elapsed());
            if left.is_zero() {
                self.tell();
                continue;
            }
            if let Ok(output) = tokio::time::timeout(left, &mut future).await {
                return output;
            }
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let seconds = self.began.elapsed().as_secs();
        let (node, path) = (shown(self.url), self.path);
        if self.received == 0 {
            if self.began.elapsed() >= HANGS_AFTER {
                warn!(
                    node,
                    path, seconds, "waiting for a beacon node's answer: nothing has come; look at that node, or give another one"
                );
            } else {
                info!(node, path, seconds, "waiting for a beacon node's answer");
            }
            return;
        }
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let rate = megabytes(self.received / seconds.max(1));
        let (received, expected) = (megabytes(self.received), self.expected.map(megabytes));
        info!(
            node,
            path,
            seconds,
            received_mb = received,
            of_mb = expected,
            mb_per_second = rate,
            "reading a beacon node's answer"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, message: &str) -> NodeError {
        NodeError::Status { node: "one".into(), path: "/pool".into(), status, message: message.into(), advice: "" }
    }

    #[test]
    fn a_long_path_is_cut_where_people_read_it() {
        let ids: Vec<String> = (100_000..100_064).map(|index: u64| index.to_string()).collect();
        let path = format!("/eth/v1/beacon/states/head/validators?id={}", ids.join(","));
        let away = NodeError::Unreachable { node: "one".into(), path: path.clone(), reason: "refused".into() };
        let all = NodeError::AllFailed { path, last: Box::new(away), errors: Vec::new() }.to_string();
        assert!(all.contains("validators?id=100000,") && all.contains("refused") && all.len() < 400, "{all}");
    }

    #[test]
    fn one_node_that_has_it_already_is_enough() {
        let has = || answer(500, "ATTESTATION_SLASHING_ERROR_ALREADY_EXISTS");
        let breaks = || answer(500, "database is locked");
        let refuses = || answer(400, "not slashable");
        let away = || NodeError::Unreachable { node: "ALREADY_EXISTS.example".into(), path: "/pool".into(), reason: "".into() };
        let together = |errors| NodeError::all_failed("/pool", errors);
        let cases = [
            (has(), true),
            (answer(400, "ALREADY_EXISTS"), true),
            (breaks(), false),
            (refuses(), false),
            (away(), false),
            (together(vec![has(), away()]), true),
            (together(vec![away(), breaks(), has()]), true),
            (together(vec![together(vec![has(), refuses()]), away()]), true),
            (together(vec![refuses(), breaks(), away()]), false),
        ];
        for (error, wanted) in cases {
            assert_eq!(error.is_already_there(), wanted, "{error}");
        }
    }
}
