//! The Telegram sink: `sendMessage` of the Bot API. The bot's token is the secret.
//! Source: <https://core.telegram.org/bots/api#sendmessage>.

use super::http::{self, Channel, HttpSink, Request};
use super::{Message, SecretKeys, SecretNeed, Sink, SinkSettings, cut, is_http};
use crate::AlertError;
use crate::secret::Secret;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Telegram refuses a text of more than 4 096 characters.
const MAX_TEXT_BYTES: usize = 4096;

/// The keys of a route to Telegram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelegramConfig {
    /// The chat: a number such as `-1001234567890`, or `@name` of a public channel.
    pub chat_id: String,
    /// The Bot API. It is another address only for a server of one's own.
    #[serde(default = "telegram")]
    pub url: String,
    /// File with the bot's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

fn telegram() -> String {
    "https://api.telegram.org".into()
}

impl SinkSettings for TelegramConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        if self.chat_id.is_empty() {
            wrong("chat_id", "is empty; write to the bot, and read the number at /getUpdates".into());
        }
        if !is_http(&self.url) {
            wrong("url", "is not an http(s) address".into());
        }
    }

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys::new(&self.secret_file, &self.secret_env, SecretNeed::Required("the bot's token is the secret"))
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn open(&self, route: &str, client: &Client, secret: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let token = secret.ok_or_else(|| AlertError::NoSecret { name: route.into() })?;
        let bot = format!("bot{}", token.as_str());
        let url = http::join(http::parse_url(route, &self.url)?, &[&bot, "sendMessage"]);
        let place = http::place_of(&url);
        let channel = Telegram { url, chat_id: self.chat_id.clone() };
        Ok(Arc::new(HttpSink { client: client.clone(), place, channel }))
    }
}

struct Telegram {
    url: Url,
    chat_id: String,
}

impl Channel for Telegram {
    fn request(&self, message: &Message<'_>) -> Request {
        let text = cut(&message.text_with_link(), MAX_TEXT_BYTES);
        let body = json!({ "chat_id": self.chat_id, "text": text, "link_preview_options": { "is_disabled": true } });
        Request::new(&self.url, body)
    }

    fn check(&self, answer: &[u8]) -> Result<(), String> {
        let answer: Option<Value> = serde_json::from_slice(answer).ok();
        let is_ok = answer.is_none_or(|answer| answer["ok"] != false);
        if is_ok { Ok(()) } else { Err("says that it is not ok".into()) }
    }
}
