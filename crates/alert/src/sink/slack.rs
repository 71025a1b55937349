//! The Slack sink: an incoming webhook. Its whole address is the secret. Mattermost and Rocket.Chat
//! take the same JSON.
//! Source: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>.

use super::http::{self, Channel, HttpSink, Request};
use super::{Message, SecretKeys, SecretNeed, Sink, SinkSettings, cut};
use crate::AlertError;
use crate::secret::Secret;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Slack recommends at most 4 000 characters of text.
const MAX_TEXT_BYTES: usize = 4000;

/// The keys of a route to Slack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// File with the webhook's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

impl SinkSettings for SlackConfig {
    fn problems(&self, _wrong: &mut dyn FnMut(&str, String)) {}

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys::new(&self.secret_file, &self.secret_env, SecretNeed::Required("the webhook's address is the secret"))
    }

    fn secret_problem(&self, secret: &Secret) -> Option<String> {
        http::webhook_problem(secret)
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn open(&self, route: &str, client: &Client, secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let url = http::webhook_address(route, secret)?;
        Ok(Arc::new(HttpSink { client: client.clone(), place: http::place_of(&url), channel: Slack { url } }))
    }
}

struct Slack {
    url: Url,
}

impl Channel for Slack {
    fn request(&self, message: &Message<'_>) -> Request {
        // Slack's markup begins with these characters.
        let text = message.text_with_link().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        Request::new(&self.url, json!({ "text": cut(&text, MAX_TEXT_BYTES) }))
    }
}
