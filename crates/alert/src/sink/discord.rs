//! The Discord sink: a channel's webhook. Its whole address is the secret.
//! Source: <https://docs.discord.com/developers/resources/webhook#execute-webhook>.

use super::http::{self, Channel, HttpSink, Request};
use super::{Message, SecretKeys, SecretNeed, Sink, SinkSettings, cut};
use crate::AlertError;
use crate::secret::Secret;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Discord refuses a content of more than 2 000 characters.
const MAX_TEXT_BYTES: usize = 2000;

/// The keys of a route to Discord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscordConfig {
    /// File with the webhook's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

impl SinkSettings for DiscordConfig {
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
        let mut url = http::webhook_address(route, secret)?;
        // With `wait` Discord answers when the message is in the channel, and not before.
        url.query_pairs_mut().append_pair("wait", "true");
        Ok(Arc::new(HttpSink { client: client.clone(), place: http::place_of(&url), channel: Discord { url } }))
    }
}

struct Discord {
    url: Url,
}

impl Channel for Discord {
    fn request(&self, message: &Message<'_>) -> Request {
        let text = cut(&message.text_with_link(), MAX_TEXT_BYTES);
        // A label such as `@everyone` must not call anybody.
        let body = json!({ "username": "slashwatch", "content": text, "allowed_mentions": { "parse": [] } });
        Request::new(&self.url, body)
    }
}
