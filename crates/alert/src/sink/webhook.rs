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
//!  "merged":{"findings":40,"validators":38,"new_findings":12},     if the route merges findings
//!  "finding":{..}}
//! ```
//!
//! A receiver computes the signature over the raw body, compares it in constant time, and refuses
//! timestamps that differ from its clock by more than some minutes. So nobody can forge a delivery
//! or replay an old one. Any 2xx status means "delivered". A test message has `"test":true` and
//! `"finding":null`.

use super::{Merged, Message, SecretKeys, SecretNeed, Sink, SinkSettings, http, is_http};
use crate::retry::Failure;
use crate::secret::Secret;
use crate::{AlertError, NetworkName, SwitchNote};
use evidence::{Finding, Time};
use futures::future::BoxFuture;
use hmac::{Hmac, Mac as _};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::path::PathBuf;
use std::sync::Arc;

/// Version of the format of the body around the finding.
const SCHEMA: u64 = 1;

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
    }

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys::new(&self.secret_file, &self.secret_env, SecretNeed::Required("deliveries are signed"))
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn open(&self, route: &str, client: &Client, secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let secret = secret.ok_or_else(|| AlertError::NoSecret { name: route.into() })?;
        Ok(Arc::new(Webhook::new(route, client.clone(), &self.url, secret)?))
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
pub(super) struct WebhookBody<'a> {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<Merged>,
    finding: Option<&'a Finding>,
}

impl<'a> WebhookBody<'a> {
    pub(super) fn new(message: &'a Message<'_>) -> Self {
        Self {
            schema: SCHEMA,
            delivery: &message.delivery,
            attempt: message.attempt,
            test: message.finding.is_none(),
            network: message.network,
            text: &message.text,
            link: message.link.as_deref(),
            kill_switches: &message.switches,
            merged: message.merged,
            finding: message.finding,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a finding has string keys only")
    }
}

impl Webhook {
    pub(crate) fn new(route: &str, client: Client, url: &str, secret: Secret) -> Result<Self, AlertError> {
        Ok(Self { client, url: http::parse_url(route, url)?, secret })
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
        Ok(http::send(request, &self.place(), now).await?.0)
    }
}

impl Sink for Webhook {
    /// Path and query are left out, because they often contain a secret.
    fn place(&self) -> String {
        http::place_of(&self.url)
    }

    fn send<'a>(&'a self, message: &'a Message<'a>, now: Time) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            let body = WebhookBody::new(message).to_json();
            let status = self.post(&body, &message.idempotency_key, now).await?;
            Ok(format!("{} answered {status}", self.place()))
        })
    }

    fn preview(&self, message: &Message<'_>) -> String {
        serde_json::to_string_pretty(&WebhookBody::new(message)).expect("a finding has string keys only")
    }
}

/// Computes `sha256=<hex of HMAC-SHA-256(secret, timestamp + "." + body)>`.
pub fn signature(secret: &Secret, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
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
}
