//! The PagerDuty sink: events of the Events API v2. The integration's routing key is the secret.
//!
//! All messages about one thing have the same `dedup_key`, so an update or a repetition changes the
//! incident that is there, and the recovery resolves it.
//! Source: <https://developer.pagerduty.com/docs/send-alert-event>.

use super::http::{self, Channel, HttpSink, Request};
use super::{AlertState, Message, SecretKeys, SecretNeed, Sink, SinkSettings, cut, is_http};
use crate::AlertError;
use crate::secret::Secret;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// PagerDuty refuses a longer summary.
const MAX_SUMMARY_BYTES: usize = 1024;

/// The keys of a route to PagerDuty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagerDutyConfig {
    /// The Events API. `https://events.eu.pagerduty.com` is that of accounts in Europe.
    #[serde(default = "pagerduty")]
    pub url: String,
    /// File with the integration's routing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

fn pagerduty() -> String {
    "https://events.pagerduty.com".into()
}

impl SinkSettings for PagerDutyConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        if !is_http(&self.url) {
            wrong("url", "is not an http(s) address".into());
        }
    }

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys::new(&self.secret_file, &self.secret_env, SecretNeed::Required("the routing key is the secret"))
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn open(&self, route: &str, client: &Client, secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let routing_key = secret.ok_or_else(|| AlertError::NoSecret { name: route.into() })?;
        let url = http::join(http::parse_url(route, &self.url)?, &["v2", "enqueue"]);
        let place = http::place_of(&url);
        Ok(Arc::new(HttpSink { client: client.clone(), place, channel: PagerDuty { url, routing_key } }))
    }
}

struct PagerDuty {
    url: Url,
    routing_key: Secret,
}

impl Channel for PagerDuty {
    fn request(&self, message: &Message<'_>) -> Request {
        let mut body = json!({
            "event_action": match message.state {
                AlertState::Firing => "trigger",
                AlertState::Resolved => "resolve",
            },
            "dedup_key": message.alert_key,
            "client": "slashwatch",
            "payload": {
                "summary": cut(message.title(), MAX_SUMMARY_BYTES),
                "source": format!("slashwatch on {}", message.network.name),
                "severity": message.severity,
                "timestamp": message.since,
                "class": message.kind,
                "custom_details": { "text": message.details(), "labels": message.labels, "merged": message.merged },
            },
        });
        if let Some(link) = &message.link {
            body["client_url"] = link.as_str().into();
            body["links"] = json!([{ "href": link, "text": "details" }]);
        }
        let secret_field = Some(("routing_key", self.routing_key.as_str().to_owned()));
        Request { secret_field, ..Request::new(&self.url, body) }
    }
}
