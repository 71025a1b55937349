//! The ntfy sink: a message to a topic of ntfy.sh or of a server of one's own.
//! Source: <https://docs.ntfy.sh/publish/#publish-as-json>.

use super::http::{self, Channel, HttpSink, Request};
use super::{AlertState, Message, SecretKeys, SecretNeed, Sink, SinkSettings, cut, is_http};
use crate::AlertError;
use crate::secret::Secret;
use evidence::Severity;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// ntfy turns a longer message into an attached file.
const MAX_TEXT_BYTES: usize = 4096;

/// The keys of a route to ntfy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NtfyConfig {
    pub topic: String,
    #[serde(default = "ntfy")]
    pub url: String,
    /// File with an access token, if the topic asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

fn ntfy() -> String {
    "https://ntfy.sh".into()
}

impl SinkSettings for NtfyConfig {
    fn problems(&self, wrong: &mut dyn FnMut(&str, String)) {
        if self.topic.is_empty() {
            wrong("topic", "is empty; choose a name that nobody guesses".into());
        }
        if !is_http(&self.url) {
            wrong("url", "is not an http(s) address".into());
        }
    }

    fn secret(&self) -> SecretKeys<'_> {
        SecretKeys::new(&self.secret_file, &self.secret_env, SecretNeed::Optional)
    }

    fn secret_file_mut(&mut self) -> Option<&mut Option<PathBuf>> {
        Some(&mut self.secret_file)
    }

    fn open(&self, route: &str, client: &Client, token: Option<Secret>) -> Result<Arc<dyn Sink>, AlertError> {
        let url = http::parse_url(route, &self.url)?;
        let place = http::place_of(&url);
        let channel = Ntfy { url, topic: self.topic.clone(), token };
        Ok(Arc::new(HttpSink { client: client.clone(), place, channel }))
    }
}

struct Ntfy {
    url: Url,
    topic: String,
    token: Option<Secret>,
}

impl Channel for Ntfy {
    fn request(&self, message: &Message<'_>) -> Request {
        // From 1 to 5. On a phone 5 rings through "do not disturb" where that is allowed.
        let (priority, tag) = match (message.state, message.severity) {
            (AlertState::Resolved, _) => (3, "white_check_mark"),
            (AlertState::Firing, Severity::Critical) => (5, "rotating_light"),
            (AlertState::Firing, Severity::Warning) => (4, "warning"),
            (AlertState::Firing, Severity::Info) => (3, "information_source"),
        };
        let mut body = json!({
            "topic": self.topic,
            "title": message.title(),
            "message": cut(message.details(), MAX_TEXT_BYTES),
            "priority": priority,
            "tags": [tag],
        });
        if let Some(link) = &message.link {
            body["click"] = link.as_str().into();
        }
        Request::new(&self.url, body).with_token(self.token.as_ref())
    }
}
