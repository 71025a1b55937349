//! `[api]`: where it listens, how much it bears, and who is told of watched keys.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// Event streams open at once.
    pub max_streams: usize,
    /// Connections open at once, event streams included.
    pub max_connections: usize,
    /// Names besides this machine's own that an API on a loopback address answers to.
    pub hosts: Vec<String>,
    /// Where people reach page and API, for the links in alerts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Who is told of watched keys, kill switches and groups' labels.
    pub show_watched: ShowWatched,
}

/// Who is told of watched keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShowWatched {
    /// Whoever asks, while the API listens on a loopback address; else nobody.
    #[default]
    Loopback,
    Always,
    Never,
}

impl ApiConfig {
    pub fn own_keys(&self) -> api::OwnKeys {
        let is_shown = match self.show_watched {
            ShowWatched::Loopback => self.listen.ip().is_loopback(),
            ShowWatched::Always => true,
            ShowWatched::Never => false,
        };
        if is_shown { api::OwnKeys::Shown } else { api::OwnKeys::Hidden }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 5080)),
            max_streams: 1024,
            max_connections: 2048,
            hosts: Vec::new(),
            public_url: None,
            show_watched: ShowWatched::Loopback,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watched_keys_are_not_shown_beyond_loopback_unless_that_is_wanted() {
        for (listen, show, wanted) in [
            ("127.0.0.1:5080", "loopback", api::OwnKeys::Shown),
            ("[::1]:5080", "loopback", api::OwnKeys::Shown),
            ("0.0.0.0:5080", "loopback", api::OwnKeys::Hidden),
            ("0.0.0.0:5080", "always", api::OwnKeys::Shown),
            ("127.0.0.1:5080", "never", api::OwnKeys::Hidden),
        ] {
            let config: ApiConfig = toml::from_str(&format!("listen = {listen:?}\nshow_watched = {show:?}\n")).unwrap();
            assert_eq!(config.own_keys(), wanted, "{listen} {show}");
        }
    }
}
