//! The webhook sink: one signed POST for each delivery.
//!
//! ```text
//! POST /hook
//! Content-Type: application/json
//! Idempotency-Key: 0x48e8..6547               the finding's id, the same in every repetition
//! X-Slashwatch-Timestamp: 1700000000          Unix seconds of this attempt
//! X-Slashwatch-Signature: sha256=5257a8..     HMAC-SHA-256(secret, timestamp + "." + body), hex
//!
//! {"schema":1,"delivery":"0x48e8..6547:ops","attempt":1,
//!  "network":{"name":"hoodi","genesis_validators_root":"0x.."},   the network of the finding
//!  "text":"hoodi: double vote by validator 5 ..",                 for people
//!  "link":"https://..",                                           if `api.public_url` is set
//!  "kill_switches":[{"group":"acme","fires":false,"reason":".."}], if the finding concerns any
//!  "finding":{..}}
//! ```
//!
//! A receiver computes the signature over the raw body, compares it in constant time, and refuses
//! timestamps that differ from its clock by more than some minutes. So nobody can forge a delivery
//! or replay an old one. Any 2xx status means "delivered". A test message has `"test":true` and
//! `"finding":null`.

use super::{Message, Sink, SinkSettings, is_http};
use crate::retry::{Failure, FailureKind};
use crate::secret::{self, Secret, SecretSource};
use crate::{AlertError, NetworkName, SwitchNote};
use base::http;
use evidence::{Finding, Time};
use futures::future::BoxFuture;
use hmac::{Hmac, Mac as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Version of the format of the body around the finding.
const SCHEMA: u64 = 1;
/// Number of bytes of an answer's body that are read. This is enough for a reason.
const MAX_ANSWER_BYTES: usize = 256;

/// The keys of a route to a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Address of the webhook.
    pub url: String,
    /// File with the secret that signs each delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Environment variable with the secret, instead of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

impl SinkSettings for WebhookConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        if !is_http(&self.url) {
            wrong("url", "is not an http(s) address".into());
        }
        let secret = secret::problem(self.secret_file.as_deref(), self.secret_env.as_deref(), "deliveries");
        if let Some((key, text)) = secret {
            wrong(key, text);
        }
    }

    fn secret_file(&self) -> Option<&Path> {
        self.secret_file.as_deref()
    }

    fn secret_file_mut(&mut self) -> Option<&mut PathBuf> {
        self.secret_file.as_mut()
    }

    fn open(&self, route: &str, client: &Client) -> Result<Arc<dyn Sink>, AlertError> {
        let secret = SecretSource::of(self.secret_file.as_deref(), self.secret_env.as_deref())
            .ok_or_else(|| AlertError::NoSecret { name: route.into() })?;
        Ok(Arc::new(Webhook::new(route, client.clone(), &self.url, Secret::load(&secret)?)?))
    }
}

/// An address to post to, with its secret.
#[derive(Clone, Debug)]
pub struct Webhook {
    client: Client,
    url: Url,
    secret: Secret,
}

/// The body. `finding` is null in a test message.
#[derive(Serialize)]
struct WebhookBody<'a> {
    schema: u64,
    delivery: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test: bool,
    network: &'a NetworkName,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(skip_serializing_if = "<[SwitchNote]>::is_empty")]
    kill_switches: &'a [SwitchNote],
    finding: Option<&'a Finding>,
}

impl Webhook {
    pub(crate) fn new(route: &str, client: Client, url: &str, secret: Secret) -> Result<Self, AlertError> {
        let bad = |reason: String| AlertError::BadUrl { route: route.into(), reason };
        let url = Url::parse(url).map_err(|error| bad(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(format!("{}: is neither http nor https", url.scheme())));
        }
        Ok(Self { client, url, secret })
    }

    /// Posts a signed body.
    pub(crate) async fn post(&self, body: &[u8], idempotency_key: &str, now: Time) -> Result<StatusCode, Failure> {
        let timestamp = (now.as_unix_ns() / 1_000_000_000).to_string();
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", idempotency_key)
            .header("x-slashwatch-signature", signature(&self.secret, &timestamp, body))
            .header("x-slashwatch-timestamp", timestamp)
            .body(body.to_vec());
        let answer = request.send().await.map_err(|error| not_reached(error, &self.place()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(status);
        }
        let kind = kind_of(status, answer.headers(), now);
        Err(Failure { kind, reason: format!("{} answered {status}{}", self.place(), first_words(answer).await) })
    }
}

impl Sink for Webhook {
    /// Path and query are left out, because they often contain a secret.
    fn place(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    fn send<'a>(&'a self, message: &'a Message<'a>, now: Time) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            let body = WebhookBody {
                schema: SCHEMA,
                delivery: &message.delivery,
                attempt: message.attempt,
                test: message.finding.is_none(),
                network: message.network,
                text: &message.text,
                link: message.link.as_deref(),
                kill_switches: &message.switches,
                finding: message.finding,
            };
            let body = serde_json::to_vec(&body).expect("a finding has string keys only");
            let status = self.post(&body, &message.idempotency_key, now).await?;
            Ok(format!("{} answered {status}", self.place()))
        })
    }
}

/// Creates the client that all sinks share. Unlike requests to beacon nodes, its requests may go
/// through the proxy of the environment.
pub(crate) fn client(timeout: Duration) -> Result<Client, AlertError> {
    let client = http::client_builder(true).timeout(timeout).build();
    client.map_err(|error| AlertError::Client(http::failure_reason(error)))
}

/// Computes `sha256=<hex of HMAC-SHA-256(secret, timestamp + "." + body)>`.
pub fn signature(secret: &Secret, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

fn not_reached(error: reqwest::Error, place: &str) -> Failure {
    let what = if error.is_timeout() { "did not answer in time" } else { "was not reached" };
    let reason = format!("{place} {what}: {}", base::innermost_cause(&error.without_url()));
    Failure { kind: FailureKind::Unavailable, reason }
}

fn kind_of(status: StatusCode, headers: &HeaderMap, now: Time) -> FailureKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            FailureKind::Busy { retry_after: retry_after(headers, now) }
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

/// Returns the beginning of an answer, as one line, for the log and the outbox.
async fn first_words(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_ANSWER_BYTES {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - bytes.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 has no case with this framing, so the expected value is the output of
    /// `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac hunter2`.
    #[test]
    fn the_signature_is_what_openssl_computes() {
        let wanted = "sha256=56b25cbf563812b38800e5f4dd1febfde087d36841155e70b3aa285517e1570a";
        assert_eq!(signature(&Secret::new("hunter2"), "1700000000", b"{\"a\":1}"), wanted);
    }

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
    fn answers_are_sorted_by_what_helps() {
        let kind = |code: u16| kind_of(StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), Time::default());
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
}
