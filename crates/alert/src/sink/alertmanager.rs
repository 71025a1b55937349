//! The Alertmanager sink: the alerts of Prometheus Alertmanager's API v2.
//!
//! ```text
//! POST /api/v2/alerts
//! [{"labels":{"alertname":"slashwatch_double_vote","network":"hoodi","severity":"critical",
//!             "group":"acme-1","alert":"0x48e8..6547"},
//!   "annotations":{"summary":"..","description":".."},
//!   "startsAt":"..","endsAt":"..","generatorURL":"https://.."}]
//! ```
//!
//! Alertmanager knows an alert by its labels, so an update replaces what it had, and a repetition
//! changes nothing. It takes an alert for resolved at `endsAt`. A slashing has no end, so that is
//! `resolve_after` later, or the time of the recovery.
//! Source: <https://raw.githubusercontent.com/prometheus/alertmanager/main/api/v2/openapi.yaml>.

use super::http::{self, Channel, HttpSink, Request};
use super::{AlertState, Message, SecretKeys, SecretNeed, Sink, SinkSettings, is_http};
use crate::AlertError;
use crate::secret::Secret;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The keys of a route to an Alertmanager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// Address of the Alertmanager, without `/api/v2`.
    pub url: String,
    /// File with a bearer token, if a proxy in front of it asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// How long an alert stays when no recovery is known.
    #[serde(with = "humantime_serde", default = "one_day")]
    pub resolve_after: Duration,
}

fn one_day() -> Duration {
    Duration::from_secs(24 * 3600)
}

impl SinkSettings for AlertmanagerConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        if !is_http(&self.url) {
            wrong("url", "is not an http(s) address".into());
        }
        if self.resolve_after.is_zero() {
            wrong("resolve_after", "must be more than 0: Alertmanager would take each alert for resolved at once".into());
        }
    }

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys::new(&self.secret_file, &self.secret_env, SecretNeed::Optional)
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn open(&self, route: &str, client: &Client, token: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let url = http::join(http::parse_url(route, &self.url)?, &["api", "v2", "alerts"]);
        let place = http::place_of(&url);
        let channel = Alertmanager { url, token, resolve_after: self.resolve_after };
        Ok(Arc::new(HttpSink { client: client.clone(), place, channel }))
    }
}

struct Alertmanager {
    url: Url,
    token: Option<Secret>,
    resolve_after: Duration,
}

impl Channel for Alertmanager {
    fn request(&self, message: &Message<'_>) -> Request {
        let mut labels = json!({
            "alertname": format!("slashwatch_{}", message.kind),
            "network": message.network.name,
            "severity": message.severity,
            "alert": message.alert_key,
        });
        if let Some(group) = message.labels.iter().find_map(|label| label.strip_prefix("group=")) {
            labels["group"] = group.into();
        }
        let ends_at = match message.state {
            AlertState::Firing => message.now.after(self.resolve_after),
            AlertState::Resolved => message.now,
        };
        let mut alert = json!({
            "labels": labels,
            "annotations": { "summary": message.title(), "description": message.details() },
            "startsAt": message.since,
            "endsAt": ends_at,
        });
        if let Some(link) = &message.link {
            alert["generatorURL"] = link.as_str().into();
        }
        Request::new(&self.url, json!([alert])).with_token(self.token.as_ref())
    }
}
