//! What the sinks share that post to an address: requests, answers, and what an answer means.

use super::{Message, Sink};
use crate::AlertError;
use crate::retry::{Failure, FailureKind};
use crate::secret::Secret;
use base::http;
use evidence::Time;
use futures::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Number of bytes of an answer's body that are read.
const MAX_ANSWER_BYTES: usize = 4096;
/// Largest file with certificates. All that a system trusts have a quarter of this.
const MAX_CERTIFICATES_BYTES: u64 = 1 << 20;
/// Number of bytes of an answer's body that a reason contains.
const MAX_REASON_BYTES: usize = 256;
/// Longest wait in seconds that is read from the body of an answer. The retry policy has its own
/// limit. This one only keeps the number in the range of a duration.
const MAX_WAIT_SECONDS: f64 = 1e6;

/// A receiver that takes one POST with JSON for each message.
pub(crate) trait Channel: Send + Sync {
    fn request(&self, message: &Message<'_>) -> Request;

    /// Looks for a failure in the body of a successful answer.
    fn check(&self, _answer: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// One POST. Address and headers may contain secrets.
pub(crate) struct Request {
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, String)>,
    /// The body without secrets.
    pub(crate) body: Value,
    /// A field of the body that is secret, with its name.
    pub(crate) secret_field: Option<(&'static str, String)>,
}

impl Request {
    pub(crate) fn new(url: &Url, body: Value) -> Self {
        Self { url: url.clone(), headers: Vec::new(), body, secret_field: None }
    }

    /// The same request, with a token in the header `Authorization` if there is one.
    pub(crate) fn with_token(mut self, token: Option<&Secret>) -> Self {
        self.headers.extend(token.map(|token| (AUTHORIZATION, format!("Bearer {}", token.as_str()))));
        self
    }
}

/// A [`Channel`] as a sink.
pub(crate) struct HttpSink<C> {
    pub(crate) client: Client,
    /// Scheme, host and port. Path and query are left out, because they often contain a secret.
    pub(crate) place: String,
    pub(crate) channel: C,
}

impl<C> fmt::Debug for HttpSink<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink").field("place", &self.place).finish_non_exhaustive()
    }
}

impl<C: Channel> Sink for HttpSink<C> {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn send<'a>(&'a self, message: &'a Message<'a>, now: Time) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            let Request { url, headers, mut body, secret_field } = self.channel.request(message);
            if let Some((name, secret)) = secret_field {
                body[name] = secret.into();
            }
            let body = serde_json::to_vec(&body).expect("a JSON value has string keys only");
            let mut request = self.client.post(url).header(CONTENT_TYPE, "application/json").body(body);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let (status, answer) = send(request, &self.place, now).await?;
            self.channel.check(&answer).map_err(|reason| Failure {
                kind: FailureKind::Unavailable,
                reason: format!("{} answered {status} and {reason}", self.place),
            })?;
            Ok(format!("{} answered {status}", self.place))
        })
    }

    fn preview(&self, message: &Message<'_>) -> String {
        serde_json::to_string_pretty(&self.channel.request(message).body).expect("a JSON value has string keys only")
    }
}

/// Sends a request. Returns the status and the beginning of the body of a successful answer.
/// `place` is named in the reason of a failure.
pub(crate) async fn send(request: reqwest::RequestBuilder, place: &str, now: Time) -> Result<(StatusCode, Vec<u8>), Failure> {
    let mut answer = request.send().await.map_err(|error| not_reached(error, place))?;
    let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
    let body = beginning(answer).await;
    if status.is_success() {
        // A receiver that breaks off in the middle of its answer has accepted the message. Its
        // status says so.
        return Ok((status, body.unwrap_or_default()));
    }
    let body = body.unwrap_or_default();
    let words = first_words(&body);
    Err(Failure { kind: kind_of(status, &headers, &body, now), reason: format!("{place} answered {status}{words}") })
}

/// Parses the address of a route. The error names the route.
pub(crate) fn parse_url(route: &str, url: &str) -> Result<Url, AlertError> {
    let bad = |reason: String| AlertError::BadUrl { route: route.into(), reason };
    let url = Url::parse(url).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("{}: is neither http nor https", url.scheme())));
    }
    Ok(url)
}

/// Reads a webhook's address where it is itself the secret.
pub(super) fn webhook_address(route: &str, secret: Option<Secret>) -> Result<Url, AlertError> {
    let secret = secret.ok_or_else(|| AlertError::NoSecret { name: route.into() })?;
    parse_url(route, secret.as_str())
}

/// Says what is wrong with a secret that has to be a webhook's address, without showing it.
pub(super) fn webhook_problem(secret: &Secret) -> Option<String> {
    parse_url("", secret.as_str()).err().map(|_| "does not contain the http(s) address of a webhook".into())
}

/// Appends segments to the path of an address.
pub(crate) fn join(mut url: Url, segments: &[&str]) -> Url {
    url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(segments);
    url
}

/// Scheme, host and port.
pub(crate) fn place_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Creates the client that all sinks share. Unlike requests to beacon nodes, its requests may go
/// through the proxy of the environment.
pub(crate) fn client(timeout: Duration) -> Result<Client, AlertError> {
    let client = http::client_builder(true).timeout(timeout).build();
    client.map_err(|error| AlertError::Client(http::failure_reason(error)))
}

fn not_reached(error: reqwest::Error, place: &str) -> Failure {
    let what = if error.is_timeout() { "did not answer in time" } else { "was not reached" };
    let reason = format!("{place} {what}: {}", base::innermost_cause(&error.without_url()));
    Failure { kind: FailureKind::Unavailable, reason }
}

fn kind_of(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Time) -> FailureKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            FailureKind::Busy { retry_after: retry_after(headers, now).max(wait_in_body(body)) }
        }
        StatusCode::REQUEST_TIMEOUT => FailureKind::Unavailable,
        _ if status.is_server_error() => FailureKind::Unavailable,
        _ => FailureKind::Refused,
    }
}

/// Reads `Retry-After`: a number of seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Time) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_nanosecond();
    Some(Time::from_unix_ns(u64::try_from(date).ok()?).since(now))
}

/// The seconds to wait that Discord (`retry_after`) and Telegram (`parameters.retry_after`) put
/// into the body.
fn wait_in_body(body: &[u8]) -> Option<Duration> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let seconds = body.get("retry_after").or_else(|| body.get("parameters")?.get("retry_after"))?.as_f64()?;
    Duration::try_from_secs_f64(seconds.clamp(0.0, MAX_WAIT_SECONDS)).ok()
}

/// Reads the beginning of an answer. `None` if the connection breaks before.
async fn beginning(mut answer: reqwest::Response) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_ANSWER_BYTES {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - bytes.len())]),
            Ok(None) => break,
            Err(_) => return None,
        }
    }
    Some(bytes)
}

/// Reads an answer of at most `most` bytes. Nothing is allocated for a longer one.
pub(crate) async fn read_bounded(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(http::failure_reason)? {
        if bytes.len() + chunk.len() > most {
            return Err(format!("its answer has more than {most} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads a file with certificates, in PEM.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<u8>, AlertError> {
    base::read_file(path, MAX_CERTIFICATES_BYTES)
        .map_err(|error| AlertError::Certificate { path: path.into(), reason: error.to_string() })
}

/// The beginning of an answer, as one line, for the log and the outbox.
pub(crate) fn first_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_REASON_BYTES)]);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Time::from_unix_ns(1_700_000_000_000_000_000);
        let read = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]), now);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Tue, 14 Nov 2023 22:14:20 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Tue, 14 Nov 2022 22:14:20 GMT"), None, "that was a Monday");
        assert_eq!(read("Mon, 14 Nov 2022 22:14:20 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn a_wait_in_the_body_is_followed_too() {
        assert_eq!(wait_in_body(br#"{"message":"slow down","retry_after":1.5}"#), Some(Duration::from_millis(1500)));
        let telegram = br#"{"ok":false,"error_code":429,"parameters":{"retry_after":35}}"#;
        assert_eq!(wait_in_body(telegram), Some(Duration::from_secs(35)));
        for junk in [&b"\xff"[..], b"{}", br#"{"retry_after":"x"}"#, br#"{"parameters":7}"#] {
            assert_eq!(wait_in_body(junk), None);
        }
        assert_eq!(wait_in_body(br#"{"retry_after":-1e300}"#), Some(Duration::ZERO));
        assert!(wait_in_body(br#"{"retry_after":1e300}"#).is_some_and(|wait| wait.as_secs() == 1_000_000));
    }

    #[test]
    fn answers_are_sorted_by_what_helps() {
        let kind = |code: u16| kind_of(StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), &[], Time::default());
        for refused in [301, 400, 401, 404, 410, 422] {
            assert_eq!(kind(refused), FailureKind::Refused, "{refused}");
        }
        for unavailable in [408, 500, 502, 504] {
            assert_eq!(kind(unavailable), FailureKind::Unavailable, "{unavailable}");
        }
        for busy in [429, 503] {
            assert_eq!(kind(busy), FailureKind::Busy { retry_after: None }, "{busy}");
        }
    }

    #[test]
    fn segments_are_added_to_any_path() {
        let joined = |url: &str| join(Url::parse(url).unwrap(), &["api", "v2", "alerts"]).to_string();
        assert_eq!(joined("http://a"), "http://a/api/v2/alerts");
        assert_eq!(joined("http://a:9093/"), "http://a:9093/api/v2/alerts");
        assert_eq!(joined("https://a/under/here"), "https://a/under/here/api/v2/alerts");
    }
}
